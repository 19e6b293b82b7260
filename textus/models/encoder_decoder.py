"""The Transformer that makes a text from another (Vaswani et al. 2017), in the form of T5 (Raffel et al. 2020).

The encoder reads the whole source; the decoder writes the target id by id and looks at the encoder's states from
every block. Source and target share one vocabulary and one embedding. All norms come before the part they serve.
`data.batch.Batch` documents how a source is padded; without one, an empty source is read.

Shapes: B batch, S source time, T target time, D width, H heads, K head width, V vocabulary, L blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textus.core.errors import UsageError
from textus.core.names import unknown_name_error
from textus.data.batch import Batch
from textus.data.bucketing import source_mask
from textus.data.denoising import OBJECTIVES
from textus.models.checks import check_at_least, check_rate
from textus.models.contract import (
    Capabilities,
    HeadedModel,
    Loss,
    step_seed,
    token_nll,
)
from textus.models.nn.attention import KeyValueCache
from textus.models.nn.cross_entropy import chunk_loss, cross_entropy
from textus.models.nn.layers import GATED, causal_mask, make_feed_forward, make_norm
from textus.models.nn.linear import Linear
from textus.models.nn.rope import RotaryTable, rotate
from textus.models.nn.source_cache import EncoderDecoderCache

Angles = tuple[Tensor, Tensor] | None
Drop = Callable[[Tensor], Tensor]

POSITIONS = ("sinusoidal", "learned", "rotary", "relative")
ATTENTIONS = ("plain", "fused")


@dataclass(frozen=True)
class EncoderDecoderConfig:
    """What shapes an encoder–decoder.

    Values of 0 are derived: as many decoder blocks as encoder blocks; heads that share the width; a feed-forward
    of 8/3 width (gated) or 4 width. `position` "relative" is T5's: a learned number for each head and bucket of
    distances. `scale_head` multiplies what a tied head reads by D^-0.5. `start_id` begins every target (None:
    `end_id`), `mask_id` replaces a masked span; `objective` makes pairs of a corpus that has none.
    """

    vocab_size: int
    context_length: int = 256
    n_layer: int = 3
    n_decoder_layer: int = 0
    n_head: int = 4
    d_model: int = 256
    d_head: int = 0
    d_ff: int = 0
    position: Literal["sinusoidal", "learned", "rotary", "relative"] = "rotary"
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-6
    activation: str = "relu"
    bias: bool = False
    tie_head: bool = True
    scale_head: bool = False
    scale_scores: bool = True
    dropout: float = 0.1
    label_smoothing: float = 0.1
    rope_theta: float = 10_000.0
    n_buckets: int = 32
    max_distance: int = 128
    end_id: int = 0
    start_id: int | None = None
    mask_id: int = 1
    objective: Literal["span", "prefix"] = "span"

    def __post_init__(self) -> None:
        gated = self.activation in GATED
        derived = {
            "n_decoder_layer": self.n_layer,
            "d_head": self.d_model // max(1, self.n_head),
            "d_ff": -(-8 * self.d_model // 3 // 32) * 32 if gated else 4 * self.d_model,
        }
        for name, value in derived.items():
            if not getattr(self, name):
                object.__setattr__(self, name, value)
        if not self.tie_head:
            object.__setattr__(self, "scale_head", False)
        counts = ("vocab_size", "context_length", "n_layer", "n_head", "d_model", "n_buckets", *derived)
        check_at_least(self, 1, *counts)
        for name, known in (("position", POSITIONS), ("objective", OBJECTIVES)):
            if getattr(self, name) not in known:
                raise unknown_name_error(name, getattr(self, name), known)
        check_rate(self, "dropout", "label_smoothing")
        if self.position == "rotary" and self.d_head % 2:
            raise UsageError(
                "incompatible_settings", f"d_head={self.d_head}: rotary positions need heads of even width"
            )
        if self.position == "relative" and not 2 <= self.n_buckets // 2 < self.max_distance:
            raise UsageError(
                "incompatible_settings",
                f"n_buckets={self.n_buckets} must be at least 4, and half of it below max_distance={self.max_distance}",
            )


# ── parts ──────────────────────────────────────────────────────────────────────────────────────


class SeededDropout:
    """Dropout drawn from a seed of its own: threads that share a step do not race for one stream.

    A byte decides an element, so the rate is the nearest multiple of 1/256; kept elements are scaled by it.
    """

    def __init__(self, rate: float, seed: int) -> None:
        self.least = round(rate * 256)
        self.random = np.random.SFC64(seed)

    def __call__(self, x: Tensor) -> Tensor:
        n = x.numel()
        bytes_ = torch.from_numpy(self.random.random_raw(-(-n // 8)).view(np.uint8)[:n])
        kept = (bytes_ >= self.least).to(x.device, x.dtype).view(x.shape)
        return x * kept.mul_(256 / (256 - self.least))


def keep(x: Tensor) -> Tensor:
    """No dropout."""
    return x


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, *, scale: float, fused: bool) -> Tensor:
    """softmax(scale q kᵀ + bias) v: q (B, T, H, K), k and v (B, S, H, K), bias (B|1, H|1, T|1, S) -> (B, T, H K)."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if fused:
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    else:
        scores = (q * scale if scale != 1.0 else q) @ k.transpose(-1, -2) + bias  # (B, H, T, S)
        mixed = torch.softmax(scores, dim=-1) @ v
    return mixed.transpose(1, 2).flatten(2)


class T5Attention(nn.Module):
    """Attention of a sequence to itself; one product makes queries, keys and values, H K rows each."""

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        self.d_head = config.d_head
        parts = dict.fromkeys("qkv", config.n_head * config.d_head)
        self.qkv = Linear(config.d_model, sum(parts.values()), bias=config.bias, parts=parts)
        self.out = Linear(config.n_head * config.d_head, config.d_model, bias=config.bias)

    def project(self, x: Tensor, angles: Angles) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, T, H, K), turned to their positions."""
        q, k, v = (part.unflatten(-1, (-1, self.d_head)) for part in self.qkv(x).chunk(3, dim=-1))
        return (q, k, v) if angles is None else (rotate(q, *angles), rotate(k, *angles), v)


class CrossAttention(nn.Module):
    """Attention of the target to the source's states; one product makes keys and values, H K rows each."""

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        self.d_head = config.d_head
        self.q = Linear(config.d_model, config.n_head * config.d_head, bias=config.bias)
        parts = dict.fromkeys("kv", config.n_head * config.d_head)
        self.kv = Linear(config.d_model, sum(parts.values()), bias=config.bias, parts=parts)
        self.out = Linear(config.n_head * config.d_head, config.d_model, bias=config.bias)

    def queries(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, H, K)."""
        return self.q(x).unflatten(-1, (-1, self.d_head))

    def project_memory(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, S, H, K) of the source's states (B, S, D)."""
        k, v = (part.unflatten(-1, (-1, self.d_head)) for part in self.kv(memory).chunk(2, dim=-1))
        return k, v


class EncoderDecoderBlock(nn.Module):
    """x + attention(norm(x)), then, in a decoder, x + cross(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: EncoderDecoderConfig, *, decodes: bool) -> None:
        super().__init__()
        norm = lambda: make_norm(config.norm, config.d_model, config.norm_eps)  # noqa: E731
        self.attention_norm: Any = norm()
        self.attention: Any = T5Attention(config)
        if decodes:
            self.cross_norm: Any = norm()
            self.cross: Any = CrossAttention(config)
        self.feed_forward_norm: Any = norm()
        self.feed_forward: Any = make_feed_forward(
            config.activation, config.d_model, config.d_ff, bias=config.bias, dropout=0.0
        )


# ── the model ──────────────────────────────────────────────────────────────────────────────────


class EncoderDecoder(HeadedModel):
    """Makes a target text from a source text, both as ids.

    As a language model it gives the exact likelihood of a target given its source. `set_compute` sets the type
    activations are computed in and whether torch's fused attention is used; both change only rounding.
    """

    capabilities = Capabilities(
        needs_source=True, counter_based_dropout=True, precisions=("float32", "bfloat16", "float16")
    )

    @classmethod
    def config_for_size(cls, n_layer: int, d_model: int, context_length: int) -> dict[str, Any]:
        """Half of the layers read the source and half write the target."""
        return {**super().config_for_size(n_layer, d_model, context_length), "n_layer": (n_layer + 1) // 2}

    config: EncoderDecoderConfig
    matrix_modules = ("encoder", "decoder")
    encoder: Any  # nn.ModuleList of Block
    decoder: Any
    waves: Tensor

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.precision = torch.float32
        self.attention = "plain"
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = nn.ModuleList(
            EncoderDecoderBlock(config, decodes=False) for _ in range(config.n_layer)
        )
        self.decoder = nn.ModuleList(
            EncoderDecoderBlock(config, decodes=True) for _ in range(config.n_decoder_layer)
        )
        self.encoder_norm: Any = make_norm(config.norm, config.d_model, config.norm_eps)
        self.decoder_norm: Any = make_norm(config.norm, config.d_model, config.norm_eps)
        self.head = None if config.tie_head else Linear(config.d_model, config.vocab_size)
        self._add_positions()
        self._init_weights()

    def _add_positions(self) -> None:
        config = self.config
        if config.position == "learned":
            self.encoder_position: Any = nn.Embedding(config.context_length, config.d_model)
            self.decoder_position: Any = nn.Embedding(config.context_length, config.d_model)
        elif config.position == "relative":
            self.encoder_bias: Any = nn.Embedding(config.n_buckets, config.n_head)
            self.decoder_bias: Any = nn.Embedding(config.n_buckets, config.n_head)
        elif config.position == "rotary":
            self.rotary = RotaryTable(config.context_length, config.d_head, config.rope_theta)
        else:
            table = sinusoidal_positions(config.context_length, config.d_model)
            self.register_buffer("waves", table, persistent=False)

    def _init_weights(self) -> None:
        """Outputs into the residual stream start at zero; an untied head too, so that the first step is uniform."""
        tied = self.config.tie_head and not self.config.scale_head
        nn.init.normal_(self.embedding.weight, std=0.02 if tied else 1.0)
        for name, part in self.named_modules():
            if isinstance(part, nn.Embedding) and name != "embedding":
                nn.init.normal_(part.weight, std=0.02)
        for block in [*self.encoder, *self.decoder]:
            for part in ("attention", "cross"):
                if hasattr(block, part):
                    nn.init.zeros_(getattr(block, part).out.weight)
            nn.init.zeros_(block.feed_forward.down.weight)
        if self.head is not None:
            nn.init.zeros_(self.head.weight)

    def set_compute(self, precision: str, attention: str, step: str) -> None:
        super().set_compute(precision, attention, step)
        if attention not in ATTENTIONS:
            raise unknown_name_error("attention", attention, ATTENTIONS)
        self.precision = getattr(torch, precision)
        self.attention = attention

    # ── reading the source ─────────────────────────────────────────────────────────────────────

    def hidden(
        self, ids: Tensor, mask: Tensor | None = None, segments: Tensor | None = None, *, seed: int = 0
    ) -> Tensor:
        """The encoder's last states (B, T, D) of ids (B, T), each with its whole text in view. Dropout is drawn from
        `seed`.
        """
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        drop = SeededDropout(self.config.dropout, seed) if self.training and self.config.dropout else keep
        return self._encode(ids, self._bias(real), drop)

    def encode_source(self, source: Tensor | None, rows: int, drop: Drop = keep) -> tuple[Tensor, Tensor]:
        """States (B, S, D) of sources (B, S), and the bias (B, 1, 1, S) that hides padding; None: empty texts."""
        if source is None:
            source = torch.full((rows, 1), self.config.end_id, device=self.embedding.weight.device)
        bias = self._bias(source_mask(source, self.config.end_id))
        return self._encode(source, bias, drop), bias

    def _encode(self, ids: Tensor, bias: Tensor, drop: Drop) -> Tensor:
        self._check_length(ids.shape[1], "source")
        positions = torch.arange(ids.shape[1], device=ids.device)
        x, angles = self._embed(ids, positions, "encoder")
        x = drop(x)
        if self.config.position == "relative":
            bias = bias + self._relative(positions, len(positions), "encoder")
        for block in self.encoder:
            q, k, v = block.attention.project(block.attention_norm(x), angles)
            x = x + drop(block.attention.out(self._attend(q, k, v, bias)))
            x = x + drop(block.feed_forward(block.feed_forward_norm(x)))
        return drop(self.encoder_norm(x))

    def _bias(self, allowed: Tensor) -> Tensor:
        """0 where one may look and -inf elsewhere: (B, S) -> (B, 1, 1, S), or (…, T, S) of the same form."""
        if allowed.ndim == 2:
            allowed = allowed[:, None, None]
        return torch.zeros(allowed.shape, dtype=self.precision, device=allowed.device).masked_fill_(
            ~allowed, -math.inf
        )

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        scale = self.config.d_head**-0.5 if self.config.scale_scores else 1.0
        return attend(q, k, v, bias, scale=scale, fused=self.attention == "fused")

    def _embed(self, ids: Tensor, positions: Tensor, side: str) -> tuple[Tensor, Angles]:
        """States (B, T, D) before the first block, and the rotary angles for positions (T,) or (B, T)."""
        x = self.embedding(ids).to(self.precision)
        if self.config.position == "learned":
            return x + getattr(self, f"{side}_position")(positions).to(x.dtype), None
        if self.config.position == "sinusoidal":
            return x + self.waves[positions].to(x.dtype), None
        if self.config.position == "rotary":
            cos, sin = (part.to(x.dtype) for part in self.rotary.at_positions(positions))
            return x, (cos, sin)
        return x, None

    def _relative(self, positions: Tensor, n_keys: int, side: str) -> Tensor:
        """T5's bias of queries at positions (T,) or (B, T) to keys 0 … S-1: (B|1, H, T, S)."""
        distance = torch.arange(n_keys, device=positions.device) - positions[..., None]  # (…, T, S)
        config = self.config
        number = relative_position_bucket(
            distance, config.n_buckets, config.max_distance, both_ways=side == "encoder"
        )
        values = getattr(self, f"{side}_bias")(number).to(self.precision)  # (…, T, S, H)
        return values.movedim(-1, -3).view(-1, config.n_head, *distance.shape[-2:])

    def _check_length(self, length: int, what: str) -> None:
        if length > self.config.context_length:
            raise UsageError(
                "context_exceeded",
                f"a {what} of {length} ids is more than the context of {self.config.context_length}; shorten it, or"
                f" train with --set model.context_length={length}",
            )

    # ── writing the target ─────────────────────────────────────────────────────────────────────

    def forward(
        self, ids: Tensor, cache: EncoderDecoderCache | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """Logits (B, T, V) of target ids (B, T); without a cache, those for an empty source."""
        if cache is None:
            return self._logits(self._decode(ids, *self.encode_source(None, len(ids))))
        return self._logits(self._decode_cached(ids, cache, lengths))

    def _decode(
        self,
        ids: Tensor,
        memory: Tensor,
        memory_bias: Tensor,
        documents: Tensor | None = None,
        drop: Drop = keep,
    ) -> Tensor:
        """Last states (B, T, D) of the target, all at once."""
        self._check_length(ids.shape[1], "target")
        positions = torch.arange(ids.shape[1], device=ids.device)
        x, angles = self._embed(ids, positions, "decoder")
        x = drop(x)
        allowed = causal_mask(ids.shape[1], documents).to(ids.device)
        bias = self._bias(allowed if documents is not None else allowed[None, None])
        if self.config.position == "relative":
            bias = bias + self._relative(positions, len(positions), "decoder")
        for block in self.decoder:
            q, k, v = block.attention.project(block.attention_norm(x), angles)
            x = x + drop(block.attention.out(self._attend(q, k, v, bias)))
            k, v = block.cross.project_memory(memory)
            x = self._finish(block, x, k, v, memory_bias, drop)
        return drop(self.decoder_norm(x))

    def _finish(
        self, block: EncoderDecoderBlock, x: Tensor, k: Tensor, v: Tensor, bias: Tensor, drop: Drop
    ) -> Tensor:
        """The rest of a decoder block: the look at the source's keys and values, and the feed-forward. Rows that share
        a source are one row of queries.
        """
        q = block.cross.queries(block.cross_norm(x))
        mixed = self._attend(q.reshape(k.shape[0], -1, *q.shape[2:]), k, v, bias).reshape(*x.shape[:2], -1)
        x = x + drop(block.cross.out(mixed))
        return x + drop(block.feed_forward(block.feed_forward_norm(x)))

    def new_cache(self, batch_size: int, length: int, source: Tensor | None = None) -> EncoderDecoderCache:
        """A cache for targets of `length` ids of these sources (B, S): they are encoded here, once."""
        config, device = self.config, self.embedding.weight.device
        memory, bias = self.encode_source(source if source is None else source.to(device), batch_size)
        remembered = [block.cross.project_memory(memory) for block in self.decoder]
        source_k, source_v = (
            torch.stack([keys_values[part] for keys_values in remembered]) for part in (0, 1)
        )
        shape = (config.n_decoder_layer, batch_size, length, config.n_head, config.d_head)
        k, v = (torch.zeros(shape, dtype=self.precision, device=device) for _ in range(2))
        own = KeyValueCache(k, v, torch.zeros(batch_size, dtype=torch.long, device=device))
        return EncoderDecoderCache(own, source_k, source_v, bias)

    def _decode_cached(self, ids: Tensor, cache: EncoderDecoderCache, lengths: Tensor | None) -> Tensor:
        own = cache.own
        column = torch.arange(ids.shape[1], device=ids.device)
        positions = own.lengths[:, None] + column  # (B, T)
        real = column < lengths[:, None] if lengths is not None else torch.ones_like(ids, dtype=torch.bool)
        length = int((own.lengths + real.sum(1)).max())
        self._check_length(length, "target")
        if length > own.k.shape[2]:
            raise UsageError(
                "context_exceeded", f"{length} ids exceed this cache's capacity of {own.k.shape[2]}"
            )
        row, place = real.nonzero(as_tuple=True)
        slots = (row, place, positions[row, place])
        positions = positions.clamp(max=self.config.context_length - 1)  # padding may point past the end
        x, angles = self._embed(ids, positions, "decoder")
        key = torch.arange(length, device=ids.device)
        bias = self._bias((key <= positions[:, :, None])[:, None])  # (B, 1, T, S)
        if self.config.position == "relative":
            bias = bias + self._relative(positions, length, "decoder")
        for layer, block in enumerate(self.decoder):
            q, k, v = block.attention.project(block.attention_norm(x), angles)
            own.write(layer, k, v, slots)
            x = x + block.attention.out(
                self._attend(q, own.k[layer, :, :length], own.v[layer, :, :length], bias)
            )
            x = self._finish(block, x, cache.source_k[layer], cache.source_v[layer], cache.source_bias, keep)
        own.lengths += real.sum(1)
        return self.decoder_norm(x)

    def _scaled(self, hidden: Tensor) -> Tensor:
        """What the head reads."""
        scaled = self.config.tie_head and self.config.scale_head
        return hidden * self.config.d_model**-0.5 if scaled else hidden

    def _logits(self, hidden: Tensor) -> Tensor:
        return super()._logits(self._scaled(hidden))

    # ── learning ───────────────────────────────────────────────────────────────────────────────

    def loss(self, batch: Batch) -> Loss:
        """Cross-entropy of the targets given the sources; smoothed only while training."""
        drop: Drop = keep
        if self.training and self.config.dropout:
            drop = SeededDropout(self.config.dropout, step_seed(batch, "dropout"))
        memory, bias = self.encode_source(batch.source, len(batch.ids), drop)
        hidden = self._scaled(self._decode(batch.ids, memory, bias, batch.documents, drop))
        smoothing = self.config.label_smoothing if self.training else 0.0
        compute = label_smoothing_loss(smoothing) if smoothing else chunk_loss
        total = cross_entropy(hidden, self.head_weight, batch.targets, batch.weights, compute)
        return Loss(total, float(batch.weights.sum()))

    def score(self, batch: Batch) -> tuple[Tensor, str]:
        memory, bias = self.encode_source(batch.source, len(batch.ids))
        logits = self._logits(self._decode(batch.ids, memory, bias, batch.documents))
        return token_nll(logits, batch), self.capabilities.likelihood


# ── formulas ───────────────────────────────────────────────────────────────────────────────────


def sinusoidal_positions(length: int, width: int) -> Tensor:
    """Sines and cosines of positions at wavelengths from 2π to 10,000 · 2π (Vaswani et al. 2017): (length, D)."""
    half = -(-width // 2)
    frequency = 10_000.0 ** -(torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :width].float()


def relative_position_bucket(
    distance: Tensor, n_buckets: int, max_distance: int, *, both_ways: bool
) -> Tensor:
    """The number of the bucket of each distance, key minus query (Raffel et al. 2020): small ones have one each,
    larger ones share logarithmically wider ones, and all from `max_distance` on the last. `both_ways`: keys after
    the query have the upper half of the buckets; else they are as near as the query itself.
    """
    after = torch.zeros_like(distance)
    if both_ways:
        n_buckets //= 2
        after = (distance > 0).long() * n_buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = n_buckets // 2
    share = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    wider = (exact + (share * (n_buckets - exact)).long()).clamp(max=n_buckets - 1)
    return after + torch.where(distance < exact, distance, wider)


def label_smoothing_loss(smoothing: float) -> Callable[..., tuple[Tensor, Tensor]]:
    """`nn.cross_entropy.chunk_loss` with label smoothing (Szegedy et al. 2016): the target has 1 - `smoothing` and all
    entries an equal share of it.
    """

    def compute(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        logits = F.linear(hidden, weight).float()  # (C, V)
        log_sum = torch.logsumexp(logits, dim=-1, keepdim=True)
        real = logits.gather(1, targets[:, None])
        nats = log_sum - (1 - smoothing) * real - smoothing * logits.mean(-1, keepdim=True)
        gradient = logits.sub_(log_sum).exp_().sub_(smoothing / logits.shape[1])
        gradient.scatter_add_(1, targets[:, None], gradient.new_full((len(targets), 1), smoothing - 1.0))
        return (nats[:, 0] * weights).sum(), gradient.mul_(weights[:, None]).to(hidden.dtype)

    return compute

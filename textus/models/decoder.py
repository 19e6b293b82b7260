"""Transformers (Vaswani et al. 2017). Here: `Decoder`, the GPT / Llama / Qwen3 family.

The default is one that Llama or Qwen3 can hold: RMS norms before each part, rotary positions, norms on queries
and keys, gated feed-forward, no biases.
Shapes as in `textus.models.nn.layers`; V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from textus.core.errors import UsageError
from textus.core.names import unknown
from textus.data.batch import Batch
from textus.models.contract import (
    LanguageModel,
    Loss,
    matrices_and_other,
    step_seed,
    token_nats,
)
from textus.models.kernels import native
from textus.models.nn.cross_entropy import (
    chunk_loss,
    cross_entropy,
)
from textus.models.nn.layers import (
    ATTENTIONS,
    GATED,
    POSITIONS,
    causal_mask,
    first_key,
    make_feed_forward,
    make_norm,
    plain_attention,
)
from textus.models.nn.linear import Linear
from textus.models.nn.rope import (
    RopeScaling,
    RotaryTable,
    rotate,
)

Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class DecoderConfig:
    """What shapes a decoder.

    0 is derived: `n_kv_head` as many as heads, `d_head` what the width gives each head, `d_ff` 8/3 width (gated)
    or 4 width, `norm_eps` 1e-6 (rms) or 1e-5. `bias` is everywhere or nowhere, or on the named linear maps only.
    """

    vocab_size: int
    context_length: int = 256
    n_layer: int = 6
    n_head: int = 6
    n_kv_head: int = 0
    d_model: int = 384
    d_head: int = 0
    d_ff: int = 0
    position: Literal["rotary", "learned", "none"] = "rotary"
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 0.0
    activation: str = "swiglu"
    qk_norm: bool = True
    tie_head: bool = False
    bias: bool | Literal["qkv", "attention", "feed_forward"] = False
    dropout: float = 0.0
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    window: int | None = None

    def __post_init__(self) -> None:
        if not self.n_kv_head:
            object.__setattr__(self, "n_kv_head", self.n_head)
        if not self.norm_eps:
            object.__setattr__(self, "norm_eps", 1e-6 if self.norm == "rms" else 1e-5)
        if not self.d_ff:
            gated = self.activation in GATED
            object.__setattr__(
                self, "d_ff", -(-8 * self.d_model // 3 // 32) * 32 if gated else 4 * self.d_model
            )
        for name in (
            "vocab_size",
            "context_length",
            "n_layer",
            "n_head",
            "d_model",
            "n_kv_head",
            "d_ff",
            "window",
        ):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError("out_of_range", f"{name}={value}: must be at least 1")
        if self.position not in POSITIONS:
            raise unknown("position", self.position, POSITIONS)
        if not self.rope_theta > 0:
            raise UsageError("out_of_range", f"rope_theta={self.rope_theta}: must be above 0")
        if not self.d_head:
            if self.d_model % self.n_head:
                raise UsageError(
                    "incompatible_settings",
                    f"d_model={self.d_model} must split into n_head={self.n_head} heads of even width",
                )
            object.__setattr__(self, "d_head", self.d_model // self.n_head)
        if self.d_head < 2 or self.d_head % 2:
            raise UsageError(
                "incompatible_settings",
                f"d_model={self.d_model} must split into n_head={self.n_head} heads of even width,"
                f" not {self.d_head}",
            )
        if self.n_head % self.n_kv_head:
            raise UsageError(
                "incompatible_settings",
                f"n_head={self.n_head} must be a multiple of n_kv_head={self.n_kv_head}",
            )
        if not 0 <= self.dropout < 1:
            raise UsageError("out_of_range", f"dropout={self.dropout}: must be at least 0 and below 1")

    def has_bias(self, linear: Literal["qkv", "out", "feed_forward"]) -> bool:
        """Whether that linear map of a block has a bias."""
        return self.bias is True or linear in BIASES.get(str(self.bias), ())


BIASES = {"qkv": ("qkv",), "attention": ("qkv", "out"), "feed_forward": ("feed_forward",)}
"""What `bias` names → the linear maps that have one."""


class KeyValueCache:
    """Keys and values of every layer, each row at its own length: k and v (L, B, S, G, K), lengths (B,)."""

    can_rewind = True

    def __init__(self, k: Tensor, v: Tensor, lengths: Tensor) -> None:
        self.k, self.v, self.lengths = k, v, lengths

    def select(self, rows: list[int]) -> KeyValueCache:
        index = torch.tensor(rows, dtype=torch.long, device=self.k.device)
        return KeyValueCache(self.k[:, index], self.v[:, index], self.lengths[index])

    def join(self, other: KeyValueCache) -> KeyValueCache:
        room = max(self.k.shape[2], other.k.shape[2])
        keys = [_grown(part, room) for part in (self.k, other.k)]
        values = [_grown(part, room) for part in (self.v, other.v)]
        return KeyValueCache(
            torch.cat(keys, 1), torch.cat(values, 1), torch.cat([self.lengths, other.lengths])
        )

    def write(self, layer: int, k: Tensor, v: Tensor, slots: tuple[Tensor, Tensor, Tensor]) -> None:
        """Store new keys and values (B, T, G, K): `slots` are (row in batch, column in batch, position) of
        the real ones.
        """
        row, column, position = slots
        self.k[layer, row, position] = k[row, column]
        self.v[layer, row, position] = v[row, column]


def _grown(part: Tensor, room: int) -> Tensor:
    if part.shape[2] == room:
        return part
    grown = part.new_zeros(*part.shape[:2], room, *part.shape[3:])
    grown[:, :, : part.shape[2]] = part
    return grown


class Attention(nn.Module):
    """Multi-head attention with fewer key-value heads if asked (Ainslie et al. 2023).

    One product makes queries, keys and values: rows [:H K] queries, then G K keys, then G K values.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.n_head, self.n_kv_head, self.d_head = config.n_head, config.n_kv_head, config.d_head
        heads = {"q": config.n_head, "k": config.n_kv_head, "v": config.n_kv_head}
        parts = {name: n * config.d_head for name, n in heads.items()}
        self.qkv = Linear(config.d_model, sum(parts.values()), bias=config.has_bias("qkv"), parts=parts)
        self.out = Linear(config.n_head * config.d_head, config.d_model, bias=config.has_bias("out"))
        norm = partial(make_norm, config.norm, config.d_head, config.norm_eps)
        self.q_norm = norm() if config.qk_norm else nn.Identity()
        self.k_norm = norm() if config.qk_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)

    def project(self, x: Tensor, angles: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, T, H, K), keys and values (B, T, G, K), normed and turned to their positions."""
        qkv = self.qkv(x).unflatten(-1, (-1, self.d_head))
        q, k, v = qkv.split([self.n_head, self.n_kv_head, self.n_kv_head], dim=2)
        q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            q, k = rotate(q, *angles), rotate(k, *angles)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, attend: Attend) -> Tensor:
        """Mix values (B, S, G, K) for queries (B, T, H, K): (B, T, D)."""
        if self.n_kv_head != self.n_head:
            k = k.repeat_interleave(self.n_head // self.n_kv_head, dim=2)
            v = v.repeat_interleave(self.n_head // self.n_kv_head, dim=2)
        mixed = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask)  # (B, H, T, K)
        return self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.attention_norm: Any = make_norm(config.norm, config.d_model, config.norm_eps)
        self.attention: Any = Attention(config)
        self.feed_forward_norm: Any = make_norm(config.norm, config.d_model, config.norm_eps)
        self.feed_forward: Any = make_feed_forward(
            config.activation,
            config.d_model,
            config.d_ff,
            bias=config.has_bias("feed_forward"),
            dropout=config.dropout,
        )

    def forward(
        self, x: Tensor, angles: tuple[Tensor, Tensor] | None, mask: Tensor, attend: Attend
    ) -> Tensor:
        q, k, v = self.attention.project(self.attention_norm(x), angles)
        x = x + self.attention.attend(q, k, v, mask, attend)
        return x + self.feed_forward(self.feed_forward_norm(x))

    def native_weights(self) -> list[Any]:
        """The weights in the order `kernels.NativeBlock` takes them."""
        attention = self.attention
        head_norms = [getattr(norm, "weight", None) for norm in (attention.q_norm, attention.k_norm)]
        return [
            self.attention_norm.weight, attention.qkv.weight, *head_norms, attention.out.weight,
            self.feed_forward_norm.weight, self.feed_forward.gate_up.weight, self.feed_forward.down.weight,
        ]  # fmt: skip

    def cached(
        self, x: Tensor, angles: tuple[Tensor, Tensor] | None, mask: Tensor, store: CacheSlot
    ) -> Tensor:
        """The same with the past's keys and values read from, and this step's written to, the cache."""
        q, k, v = self.attention.project(self.attention_norm(x), angles)
        k, v = store(k, v)  # (B, S, G, K): the past and this step
        x = x + self.attention.attend(q, k, v, mask, plain_attention)
        return x + self.feed_forward(self.feed_forward_norm(x))


CacheSlot = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Stores one layer's new keys and values and returns all it has."""


class Decoder(LanguageModel):
    """A causal Transformer over ids.

    `compute_with` sets the type activations are computed in, how it attends and who does the arithmetic when
    nothing is
    cached: choices of the run, not of the model, that change only rounding (and speed).
    """

    precisions = ("float32", "bfloat16", "float16")
    step_kinds = ("eager", "compiled", "native")

    config: DecoderConfig
    blocks: Any  # nn.ModuleList of Block

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.precision = torch.float32
        self.attention = "plain"
        self.native = False
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        if config.position == "learned":
            self.position: Any = nn.Embedding(config.context_length, config.d_model)
            nn.init.normal_(self.position.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm: Any = make_norm(config.norm, config.d_model, config.norm_eps)
        self.head = None if config.tie_head else Linear(config.d_model, config.vocab_size)
        self.dropout = nn.Dropout(config.dropout)
        if config.position == "rotary":
            self.rotary = RotaryTable(
                config.context_length, config.d_head, config.rope_theta, config.rope_scaling
            )
        self._initialise()

    def _initialise(self) -> None:
        """Outputs into the residual stream and the head start at zero, as do modded-nanogpt's: the first
        step is uniform.
        """
        nn.init.normal_(self.embedding.weight, std=0.02 if self.config.tie_head else 1.0)
        for block in self.blocks:
            nn.init.zeros_(block.attention.out.weight)
            nn.init.zeros_(block.feed_forward.down.weight)
        if self.head is not None:
            nn.init.zeros_(self.head.weight)

    def compute_with(self, precision: str, attention: str, step: str) -> None:
        super().compute_with(precision, attention, step)
        attentions = native.ATTENTIONS if step == "native" else ATTENTIONS
        if attention not in attentions:
            raise unknown("attention", attention, attentions)
        if step == "native" and (why := self.why_not_native()):
            raise UsageError(
                "unsupported_kernel",
                f"step 'native' cannot compute this model: {why}; use 'eager' or 'compiled'",
            )
        if step == "native" and attention not in self.native_attentions():
            raise UsageError(
                "unsupported_kernel",
                f"attention 'tiled' needs a processor with AVX512-BF16 and heads a multiple of 32 wide, these are"
                f" {self.config.d_head}; use 'plain'",
            )
        self.native = step == "native"
        self.precision = torch.bfloat16 if self.native else getattr(torch, precision)
        self.attention = attention
        if step == "compiled":
            for block in self.blocks:  # all alike: compiled once, and a new process finds it in torch's cache
                block.compile()

    def why_not_native(self) -> str | None:
        """What `kernels.NativeBlock` does not have that this model needs, or None."""
        config = self.config
        if (
            config.norm != "rms"
            or config.activation != "swiglu"
            or config.position != "rotary"
            or config.bias
        ):
            return "the kernels know RMS norm, SwiGLU and rotary positions without biases only"
        if config.context_length > native.LONGEST or config.d_head > native.WIDEST:
            return f"the kernels hold at most {native.LONGEST} positions and heads {native.WIDEST} wide"
        if self.embedding.weight.device.type != "cpu":
            return "the kernels run on CPUs"
        return native.why_none()

    def native_attentions(self) -> list[str]:
        """The attentions the kernels have here for heads of this width, the likeliest first."""
        return ["tiled", "plain"] if native.tiles_fit(self.config.d_head) else ["plain"]

    # ── reading ────────────────────────────────────────────────────────────────────────────────

    def hidden(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        segments: Tensor | None = None,
        *,
        documents: Tensor | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Last states (B, T, D) of ids (B, T); attention stays inside `documents` (B, T) where given.

        `seed` is what the kernels draw dropout from; without them torch's own state is.
        """
        self._check_length(ids.shape[1])
        positions = torch.arange(ids.shape[1], device=ids.device)
        x, angles = self._embed(ids, positions, ids.shape[1])
        if self.native:
            return self._hidden_native(x, documents, seed)
        x = self.dropout(x)
        allowed = causal_mask(ids.shape[1], documents, self.config.window).to(ids.device)
        attend = ATTENTIONS[self.attention]
        for block in self.blocks:
            x = block(x, angles, allowed, attend)
        return self.norm(x)

    def _hidden_native(self, x: Tensor, documents: Tensor | None, seed: int) -> Tensor:
        """`hidden` by the kernels: the same sums, block by block, in bfloat16."""
        config, (batch, time, width) = self.config, x.shape
        dropout = config.dropout if self.training else 0.0
        sizes = (batch, time, config.n_head, config.n_kv_head, config.d_head)
        shape = native.BlockShape(sizes, eps=self.norm.eps, dropout=dropout, attention=self.attention)
        cos, sin = self.rotary.first(time)
        angles = (cos.contiguous(), sin.contiguous())
        first = first_key(batch, time, documents, config.window)
        rows, delta = x.flatten(0, 1), None
        if dropout:
            rows = native.Dropout.apply(rows, dropout, seed)
        for number, block in enumerate(self.blocks):
            place = seed + 1 + 2 * number  # each of a block's two dropouts has a seed of its own
            rows, delta = native.NativeBlock.apply(
                rows, delta, angles, first, shape, place, *block.native_weights()
            )
        return native.AddNorm.apply(rows, delta, self.norm.weight, self.norm.eps).view(batch, time, width)

    def forward(
        self, ids: Tensor, cache: KeyValueCache | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        if cache is None:
            return self._logits(self.hidden(ids))
        return self._logits(self._hidden_cached(ids, cache, lengths))

    def _embed(
        self, ids: Tensor, positions: Tensor, length: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """States (B, T, D) before the first block, and the angles for positions (T,) or (B, T) below `length`."""
        x = self.embedding(ids).to(self.precision)
        if self.config.position == "learned":
            x = x + self.position(positions).to(self.precision)
        angles = None
        if self.config.position == "rotary":
            table = self.rotary.first(max(length, 1))
            cos, sin = (part[positions].unsqueeze(-2).to(self.precision) for part in table)
            angles = (cos, sin)
        return x, angles

    def _logits(self, hidden: Tensor) -> Tensor:
        return nn.functional.linear(hidden, self.head_weight.to(hidden.dtype)).float()

    @property
    def head_weight(self) -> Tensor:
        """(V, D)."""
        return self.embedding.weight if self.head is None else self.head.weight

    def _check_length(self, length: int) -> None:
        if length > self.config.context_length:
            raise UsageError(
                "context_exceeded",
                f"{length} ids are more than the context of {self.config.context_length}; shorten the text, or"
                f" train with --set model.context_length={length}",
            )

    # ── reading on from a cache ────────────────────────────────────────────────────────────────

    def new_cache(self, batch_size: int, length: int, source: Tensor | None = None) -> KeyValueCache:
        config = self.config
        shape = (config.n_layer, batch_size, length, config.n_kv_head, config.d_head)
        device = self.embedding.weight.device
        k, v = (torch.zeros(shape, dtype=self.precision, device=device) for _ in range(2))
        return KeyValueCache(k, v, torch.zeros(batch_size, dtype=torch.long, device=device))

    def _hidden_cached(self, ids: Tensor, cache: KeyValueCache, lengths: Tensor | None) -> Tensor:
        column = torch.arange(ids.shape[1], device=ids.device)
        positions = cache.lengths[:, None] + column  # (B, T)
        real = column < lengths[:, None] if lengths is not None else torch.ones_like(ids, dtype=torch.bool)
        length = int((cache.lengths + real.sum(1)).max())
        self._check_length(length)
        if length > cache.k.shape[2]:
            raise UsageError(
                "context_exceeded",
                f"{length} ids are more than the {cache.k.shape[2]} this cache has room for",
            )
        row, col = real.nonzero(as_tuple=True)
        slots = (row, col, positions[row, col])
        positions = positions.clamp(max=max(length - 1, 0))  # padding may point past the end
        x, angles = self._embed(ids, positions, length)
        mask = self._cached_mask(positions, length)
        for layer, block in enumerate(self.blocks):

            def store(k: Tensor, v: Tensor, layer: int = layer) -> tuple[Tensor, Tensor]:
                cache.write(layer, k, v, slots)
                return cache.k[layer, :, :length], cache.v[layer, :, :length]

            x = block.cached(x, angles, mask, store)
        cache.lengths += real.sum(1)
        return self.norm(x)

    def _cached_mask(self, positions: Tensor, length: int) -> Tensor:
        """(B, 1, T, S): keys at or before each query's position, within the window."""
        key = torch.arange(length, device=positions.device)
        mask = key <= positions[:, :, None]
        if self.config.window is not None:
            mask &= key > positions[:, :, None] - self.config.window
        return mask[:, None]

    # ── learning ───────────────────────────────────────────────────────────────────────────────

    def loss(self, batch: Batch) -> Loss:
        seed = step_seed(batch, "dropout") & 0x7FFFFFFF
        hidden = self.hidden(batch.ids, documents=batch.documents, seed=seed)
        compute = native.chunk_loss if self.native else chunk_loss
        total = cross_entropy(hidden, self.head_weight, batch.targets, batch.weights, compute)
        return Loss(total, float(batch.weights.sum()))

    def score(self, batch: Batch) -> tuple[Tensor, str]:
        logits = self._logits(self.hidden(batch.ids, documents=batch.documents))
        return token_nats(logits, batch), self.kind

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """`matrices` of the blocks, and everything else (embeddings, head, norms, biases)."""
        matrices = [p for p in self.blocks.parameters() if p.ndim == 2]
        return matrices_and_other(self, matrices)

"""The Transformer encoder (Devlin et al. 2019): bidirectional, trained by masked language modeling.

Holds BERT, RoBERTa and MiniLM exactly; the default is a pre-norm encoder with rotary positions, which learns
more from little text. It reads and scores `batch.targets`. Tokens, whole words or spans (Joshi et al. 2020) are
masked anew each time a text is read (Liu et al. 2019); next-sentence prediction is optional.
Shapes as in `textus.models.nn.layers`; V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from textus.core.errors import UsageError
from textus.core.names import unknown_name_error
from textus.core.rng import derive_seed
from textus.data.batch import Batch
from textus.models.checks import check_at_least, check_context
from textus.models.contract import Capabilities, LanguageModel, Loss
from textus.models.kernels import native, varlen
from textus.models.nn.layers import ACTIVATIONS, ATTENTIONS, GATED, make_feed_forward, make_norm
from textus.models.nn.linear import Linear
from textus.models.nn.rope import RotaryTable, rotate

HIDDEN_SHARE, RANDOM_SHARE = 0.8, 0.1
"""Of the chosen tokens, how many become the mask and how many another id; the rest stay as they are."""
SPAN_STOP, LONGEST_SPAN = 0.2, 10
"""Spans are of geometric length, in words (or tokens, where no words are known)."""
AT_ONCE = 1 << 14
"""Positions worked on at a time while scoring."""


@dataclass(frozen=True)
class EncoderConfig:
    """What shapes an encoder and what it learns. `d_ff` of 0 is derived: 8/3 width (gated) or 4 width.

    `mask_id` None gives the mask a row of its own after the vocabulary's, so that any tokenizer will do.
    `position_offset` is the row of the first learned position (RoBERTa's table begins at 2). `end_id` is
    never hidden.
    """

    vocab_size: int
    context_length: int = 128
    n_layer: int = 6
    n_head: int = 6
    d_model: int = 384
    d_ff: int = 0
    position: Literal["rotary", "learned"] = "rotary"
    position_offset: int = 0
    segments: int = 0
    norm: Literal["layer", "rms"] = "layer"
    norm_first: bool = True
    norm_eps: float = 1e-5
    activation: str = "swiglu"
    bias: bool = False
    dropout: float = 0.0
    tie_head: bool = True
    mlm_transform: bool = False
    pooler: bool = False
    mask_id: int | None = None
    end_id: int | None = None
    rope_theta: float = 10_000.0
    objective: Literal["mlm", "mlm+nsp"] = "mlm"
    masking: Literal["token", "word", "span"] = "word"
    mask_rate: float = 0.15

    def __post_init__(self) -> None:
        if not self.d_ff:
            gated = self.activation in GATED
            d_ff = -(-8 * self.d_model // 3 // 32) * 32 if gated else 4 * self.d_model
            object.__setattr__(self, "d_ff", d_ff)
        check_at_least(self, 1, "vocab_size", "context_length", "n_layer", "n_head", "d_model", "d_ff")
        if self.d_model % self.n_head or (self.position == "rotary" and self.d_head % 2):
            raise UsageError(
                "incompatible_settings",
                f"d_model={self.d_model} must split into n_head={self.n_head} heads (of even width where"
                " positions are rotary)",
            )
        for name, low, high in (("dropout", 0.0, 1.0), ("mask_rate", 1e-9, 1.0)):
            if not low <= getattr(self, name) < high:
                raise UsageError("out_of_range", f"{name}={getattr(self, name)}: must be between 0 and 1")
        if self.mask_id is not None and not 0 <= self.mask_id < self.vocab_size:
            raise UsageError(
                "unknown_id", f"mask_id={self.mask_id} is not in the vocabulary of {self.vocab_size}"
            )
        if self.objective == "mlm+nsp" and self.segments < 2:
            raise UsageError(
                "incompatible_settings", "objective 'mlm+nsp' reads pairs of texts: set model.segments=2"
            )

    @property
    def d_head(self) -> int:
        """Width of one head."""
        return self.d_model // self.n_head

    @property
    def masked_id(self) -> int:
        """The id of the mask token."""
        return self.vocab_size if self.mask_id is None else self.mask_id


# ── what is hidden ─────────────────────────────────────────────────────────────────────────────


def sample_mask(
    units: NDArray[np.int64], n: int, masking: str, random: np.random.Generator
) -> NDArray[np.int64]:
    """Which positions to hide: (T,), -1 for none, else the number of the piece of text hidden together.

    `units` (T,) numbers the tokens or words that may be hidden, in order, -1 for what may not. Whole units
    are taken until at least `n` positions are.
    """
    chosen = np.full(len(units), -1)
    if masking == "token":
        places = random.choice(np.flatnonzero(units >= 0), n, replace=False)
        chosen[places] = np.arange(n)
        return chosen
    for piece, unit in enumerate(random.permutation(np.unique(units[units >= 0]))):
        length = min(int(random.geometric(SPAN_STOP)), LONGEST_SPAN) if masking == "span" else 1
        chosen[(units >= unit) & (units < unit + length) & (chosen < 0)] = piece
        if (chosen >= 0).sum() >= n:
            break
    return chosen


def apply_mask(
    text: NDArray[np.int64],
    allowed: NDArray[np.bool_],
    starts: NDArray[np.bool_] | None,
    random: np.random.Generator,
    config: EncoderConfig,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """One text (T,) as the model gets to see it, and what it has to find out: (T,) both.

    Of `allowed` a share of `mask_rate` is chosen: 80 % become the mask, 10 % any id, 10 % stay. A span has
    one fate.
    """
    seen, n = text.copy(), int(allowed.sum())
    if n == 0:
        return seen, np.zeros(len(text), dtype=bool)
    numbers = np.arange(len(text)) if starts is None else np.cumsum(starts)
    wanted = max(1, round(config.mask_rate * n))
    chosen = sample_mask(np.where(allowed, numbers, -1), wanted, config.masking, random)
    is_masked = chosen >= 0
    fate = random.random(len(text))
    if config.masking == "span":
        fate = fate[chosen]
    seen[is_masked & (fate < HIDDEN_SHARE)] = config.masked_id
    other = is_masked & (fate >= HIDDEN_SHARE) & (fate < HIDDEN_SHARE + RANDOM_SHARE)
    seen[other] = random.integers(config.vocab_size, size=int(other.sum()))
    return seen, is_masked


def mask_text(batch: Batch, config: EncoderConfig) -> tuple[Tensor, Tensor]:
    """What the model sees of `batch.targets`, and the weight of each position in the loss: (B, T) both.

    A row's weight is spread over what was hidden in it. What is hidden follows from the step and the row's
    own ids, so padding, or the micro-batch a row is in, changes nothing.
    """
    text = batch.targets.cpu().numpy()
    real = np.ones_like(text, dtype=bool) if batch.mask is None else batch.mask.cpu().numpy()
    given = batch.weights.cpu().numpy() * real
    starts = None if batch.word_starts is None else batch.word_starts.cpu().numpy()
    allowed = (given > 0) & (text != config.masked_id) & (text != config.end_id)
    seen, weights = text.copy(), np.zeros_like(given)
    for row in range(len(text)):
        seed = derive_seed(batch.position, "mask", *text[row][real[row]].tolist())
        random = np.random.Generator(np.random.Philox(seed))
        length = int(real[row].sum())  # draws do not depend on how much padding follows
        part = (row, slice(length))
        words = None if starts is None else starts[part]
        seen[part], is_masked = apply_mask(text[part], allowed[part], words, random, config)
        chosen = given[part] * is_masked
        weights[part] = chosen * (given[row].sum() / max(chosen.sum(), 1e-12))
    device = batch.targets.device
    return torch.from_numpy(seen).to(device), torch.from_numpy(weights).to(device)


# ── the network ────────────────────────────────────────────────────────────────────────────────


class SelfAttention(nn.Module):
    """Multi-head attention in both directions; one product makes queries, keys and values, in that order."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.d_head = config.d_head
        parts = dict.fromkeys("qkv", config.d_model)
        self.qkv = Linear(config.d_model, 3 * config.d_model, bias=config.bias, parts=parts)
        self.out = Linear(config.d_model, config.d_model, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, angles: tuple[Tensor, Tensor] | None, visible: Tensor, attention: str
    ) -> Tensor:
        """x (B, T, D) -> (B, T, D); `visible` (B, 1, T, S), or (1, 1) for everything."""
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, self.d_head)).unbind(2)  # (B, T, H, K) each
        if angles is not None:
            q, k = rotate(q, *angles), rotate(k, *angles)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        mixed = ATTENTIONS[attention](q, k, v, visible)  # (B, H, T, K)
        return self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))


class EncoderBlock(nn.Module):
    """Attention, then feed-forward, each added to what it read; normed before it is read, or after the sum."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.attention = SelfAttention(config)
        self.attention_norm: Any = make_norm(config.norm, config.d_model, config.norm_eps)
        self.feed_forward: Any = make_feed_forward(
            config.activation, config.d_model, config.d_ff, bias=config.bias, dropout=config.dropout
        )
        self.feed_forward_norm: Any = make_norm(config.norm, config.d_model, config.norm_eps)

    def forward(
        self, x: Tensor, angles: tuple[Tensor, Tensor] | None, visible: Tensor, attention: str
    ) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        if self.norm_first:
            x = x + self.attention(self.attention_norm(x), angles, visible, attention)
            return x + self.feed_forward(self.feed_forward_norm(x))
        x = self.attention_norm(x + self.attention(x, angles, visible, attention))
        return self.feed_forward_norm(x + self.feed_forward(x))


class Transform(nn.Module):
    """What BERT does to states before the vocabulary: a dense layer, the activation, a norm."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = Linear(config.d_model, config.d_model, bias=True)
        self.activation = ACTIVATIONS["gelu-exact" if config.activation in GATED else config.activation]
        self.norm: Any = make_norm(config.norm, config.d_model, config.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., D) -> (..., D)."""
        return self.norm(self.activation(self.dense(x)))


def attention_mask(mask: Tensor | None, documents: Tensor | None) -> Tensor | None:
    """(B, 1, T, S), True where position t sees s: real, and in its own document; None where all is seen.

    A document is a run of equal numbers. Padding sees itself, since a softmax must see something.
    """
    if mask is None and documents is None:
        return None
    given = mask if documents is None else documents
    assert given is not None
    seen = torch.ones(*given.shape, given.shape[1], dtype=torch.bool, device=given.device)
    if documents is not None:
        run = F.pad((documents[:, 1:] != documents[:, :-1]).long(), (1, 0)).cumsum(1)
        seen = run[:, :, None] == run[:, None]
    if mask is not None:
        seen = seen & mask[:, None].bool() | torch.eye(seen.shape[1], dtype=torch.bool, device=seen.device)
    return seen[:, None]


class Encoder(LanguageModel):
    """A Transformer that reads in both directions. It cannot write; its score is a pseudo-likelihood."""

    capabilities = Capabilities(
        can_generate=False,
        is_causal=False,
        likelihood="pseudo",
        precisions=("float32", "bfloat16", "float16"),
        step_kinds=("eager", "compiled", "unpadded"),
    )

    config: EncoderConfig
    matrix_modules = ("blocks",)
    blocks: Any  # nn.ModuleList of EncoderBlock

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.precision = torch.float32
        self.attention = "plain"
        self.unpadded = False
        width, has_mask = config.d_model, config.mask_id is not None
        self.embedding = nn.Embedding(config.vocab_size + (not has_mask), width)
        if config.position == "learned":
            self.position: Any = nn.Embedding(config.context_length + config.position_offset, width)
        else:
            self.rotary = RotaryTable(config.context_length, config.d_head, config.rope_theta)
        if config.segments:
            self.segment = nn.Embedding(config.segments, width)
        self.norm: Any = make_norm(
            config.norm, width, config.norm_eps
        )  # of the last states, or of the embeddings
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.n_layer))
        self.dropout = nn.Dropout(config.dropout)
        self.transform = Transform(config) if config.mlm_transform else nn.Identity()
        self.head = None if config.tie_head else Linear(width, config.vocab_size)
        self.head_bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.mlm_transform else None
        self.pooler = Linear(width, width, bias=True) if config.pooler else None
        self.next_sentence = Linear(width, 2, bias=True) if config.objective == "mlm+nsp" else None
        self._init_weights()

    def _init_weights(self) -> None:
        """As the decoder's: outputs into the residual stream start at zero."""
        for part in self.modules():
            if isinstance(part, nn.Embedding):
                nn.init.normal_(part.weight, std=0.02)
        for block in self.blocks:
            nn.init.zeros_(block.attention.out.weight)
            nn.init.zeros_(block.feed_forward.down.weight)

    @classmethod
    def config_for_size(cls, n_layer: int, d_model: int, context_length: int) -> dict[str, Any]:
        # a tokenizer may have no token to spare: the mask gets a row of its own
        return {**super().config_for_size(n_layer, d_model, context_length), "mask_id": None}

    @classmethod
    def required_batch_fields(cls, config: EncoderConfig) -> tuple[str, ...]:
        words = () if config.masking == "token" else ("word_starts",)
        return words + (("sentence_pairs",) if config.objective == "mlm+nsp" else ())

    def set_compute(self, precision: str, attention: str, step: str) -> None:
        super().set_compute(precision, attention, step)
        if attention not in ATTENTIONS:
            raise unknown_name_error("attention", attention, ATTENTIONS)
        if step == "unpadded" and (why := self.varlen_unsupported_reason() or bfloat16_only(precision)):
            raise UsageError("unsupported_kernel", f"compute.step=unpadded: {why}; set compute.step=eager")
        self.precision, self.attention = getattr(torch, precision), attention
        self.unpadded = step == "unpadded"
        if step == "compiled":
            for block in self.blocks:
                block.compile()

    def varlen_unsupported_reason(self) -> str | None:
        config = self.config
        known = {
            "activation": "gelu-exact",
            "norm": "layer",
            "norm_first": False,
            "bias": True,
            "position": "learned",
        }
        for name, value in known.items():
            if getattr(config, name) != value:
                return f"its kernels are for {name}={value}, not {getattr(config, name)}"
        if max(config.d_model, config.context_length) > varlen.WIDEST:
            return f"its kernels hold rows of {varlen.WIDEST} values"
        if not all(getattr(part, "is_whole", True) for part in self.blocks.modules()):
            return "its kernels read whole weights, not adapters with method.dropout"
        return native.build_error()

    # ── reading ────────────────────────────────────────────────────────────────────────────────

    def hidden(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        segments: Tensor | None = None,
        *,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Last states (B, T, D) of ids (B, T); padding (`mask` False) is not seen, nor are other `documents`.

        `segments` (B, T) numbers the text of a pair that each position belongs to; None: all 0.
        """
        if (
            self.unpadded
            and documents is None
            and (mask is None or bool((mask[:, 1:] <= mask[:, :-1]).all()))
        ):
            return self._hidden_varlen(ids, mask, segments)
        x, angles = self._embed(ids, segments)
        visible = attention_mask(mask, documents)
        if visible is None:
            visible = torch.ones(1, 1, dtype=torch.bool, device=ids.device)
        for block in self.blocks:
            x = block(x, angles, visible, self.attention)
        return self.norm(x) if self.config.norm_first else x

    def _hidden_varlen(self, ids: Tensor, mask: Tensor | None, segments: Tensor | None) -> Tensor:
        """`hidden` by kernels, of right-padded rows; zero where there is padding."""
        config, (batch, time) = self.config, ids.shape
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        lengths, places = real.sum(1), real.flatten().nonzero()[:, 0]
        n = len(places)
        padding = (0, varlen.round_up(n, varlen.ROUND) - n)
        flat, columns = F.pad(ids.flatten()[places], padding), F.pad(places % time, padding)
        kinds = None if segments is None else F.pad(segments.flatten()[places], padding)[None]
        x, _ = self._embed(flat[None], kinds, columns)
        texts = varlen.VarlenBatch(
            F.pad(lengths.cumsum(0), (1, 0)), n, varlen.round_up(int(lengths.max()), varlen.ROUND_TIME), config.n_head,
            config.d_head, config.norm_eps, config.dropout if self.training else 0.0,
        )  # fmt: skip
        seed = (
            int(torch.randint(1 << 30, ())) if texts.dropout else 0
        )  # of the step: `fit` sets torch's state
        rows = native.NativeDropout.apply(x[0], texts.dropout, seed - 1) if texts.dropout else x[0]
        only_read = not torch.is_grad_enabled() and not texts.dropout and varlen.supports_prepack()
        for number, block in enumerate(self.blocks):
            weights = varlen.block_weights(block)
            if only_read:
                rows = varlen.read(rows, texts, weights)
            else:
                rows = varlen.VarlenEncoderBlock.apply(rows, texts, seed + 2 * number, *weights)
        whole = rows.new_zeros(batch * time, config.d_model).index_copy(0, places, rows[:n])
        return whole.view(batch, time, -1)

    def _embed(
        self, ids: Tensor, segments: Tensor | None, places: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """States (B, T, D) before the first block, and the angles of rotary positions. `places` (T,): the position
        of each column in its text, where columns are texts one after the other; dropout is then the caller's.
        """
        config = self.config
        time = ids.shape[1] if places is None else 1 + int(places.max())
        check_context(time, config.context_length)
        x, angles = self.embedding(ids), None
        if config.position == "learned":
            first = config.position_offset
            x = x + (
                self.position.weight[first : first + time]
                if places is None
                else self.position(places + first)
            )
        else:
            cos, sin = (part[:, None].to(self.precision) for part in self.rotary.first(time))
            angles = (cos, sin)
        if config.segments:
            kinds = torch.zeros_like(ids) if segments is None else segments.clamp(max=config.segments - 1)
            x = x + self.segment(kinds)  # RoBERTa's know one kind of text only
        x = x.to(self.precision)
        x = x if config.norm_first else self.norm(x)
        return x if places is not None else self.dropout(x), angles

    def forward(self, ids: Tensor, cache: Any = None, lengths: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) for each position of ids (B, T), all of which are visible."""
        mask = None
        if lengths is not None:
            mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        return self.logits(self.hidden(ids, mask))

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (..., D) -> logits (..., V) in float32."""
        weight = self.embedding.weight[: self.config.vocab_size] if self.head is None else self.head.weight
        bias = None if self.head_bias is None else self.head_bias.to(hidden.dtype)
        return F.linear(self.transform(hidden), weight.to(hidden.dtype), bias).float()

    def pooled(self, hidden: Tensor) -> Tensor:
        """The first state (B, D), through the pooler (dense, tanh) where there is one."""
        first = hidden[:, 0]
        return first if self.pooler is None else torch.tanh(self.pooler(first))

    # ── learning ───────────────────────────────────────────────────────────────────────────────

    def loss(self, batch: Batch) -> Loss:
        """Nats of what was hidden, each row's mean times its weight; with labels, next-sentence nats the same
        way. Parts `mlm` and `nsp`.
        """
        seen, weights = mask_text(batch, self.config)
        hidden = self.hidden(seen, batch.mask, batch.segments, documents=target_documents(batch))
        selected = weights > 0
        nats = F.cross_entropy(self.logits(hidden[selected]), batch.targets[selected], reduction="none")
        total = (nats * weights[selected]).sum()
        parts = {"mlm": float(total.detach())}
        if self.next_sentence is not None and batch.labels is not None:
            guess = self.next_sentence(self.pooled(hidden)).float()
            following = F.cross_entropy(guess, batch.labels, reduction="none") * batch.weights.sum(1)
            parts["nsp"] = float(following.detach().sum())
            total = total + following.sum()
        return Loss(total, float(batch.weights.sum()), parts)

    def score(self, batch: Batch) -> tuple[Tensor, str]:
        """Pseudo-likelihood (Salazar et al. 2020): each target hidden in turn, all others seen.

        As many passes as there are targets: a window of T costs T times what reading it once costs.
        """
        documents, places = target_documents(batch), (batch.weights > 0).nonzero()
        rows_at_once = max(1, AT_ONCE // batch.targets.shape[1])
        scores = [batch.weights.new_zeros(0)]
        for rows, columns in (part.unbind(1) for part in places.split(rows_at_once)):
            seen, row = batch.targets[rows], torch.arange(len(rows), device=rows.device)
            seen[row, columns] = self.config.masked_id
            mask, segments, runs = (
                None if part is None else part[rows] for part in (batch.mask, batch.segments, documents)
            )
            logits = self.logits(self.hidden(seen, mask, segments, documents=runs)[row, columns])
            scores.append(F.cross_entropy(logits, batch.targets[rows, columns], reduction="none"))
        nats = torch.zeros_like(batch.weights).index_put(tuple(places.unbind(1)), torch.cat(scores))
        return nats * batch.weights, self.capabilities.likelihood


def bfloat16_only(precision: str) -> str | None:
    """Why kernels cannot compute in this type, None where it is theirs."""
    return None if precision == "bfloat16" else f"its kernels compute in bfloat16, not {precision}"


def target_documents(batch: Batch) -> Tensor | None:
    """The document of each target (B, T): `batch.documents` is of the ids, which are one behind."""
    if batch.documents is None:
        return None
    return torch.cat([batch.documents[:, 1:], batch.documents[:, -1:]], 1)

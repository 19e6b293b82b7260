"""What a VAE is made of: encoders and decoders, recurrent or Transformer, and rows of one text each.

Shapes: B rows, T time, D width, C the decoder's condition (latent, source), L layers, R texts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from textus.data.batch import Batch
from textus.models.nn.attention import DecoderBlock, DecoderConfig, KeyValueCache
from textus.models.nn.layers import causal_mask, make_norm, plain_attention
from textus.models.nn.linear import Linear
from textus.models.nn.recurrent import Recurrent, reverse_rows
from textus.models.nn.rope import RotaryTable

# ── texts of a batch ───────────────────────────────────────────────────────────────────────────


def real_positions(ids: Tensor, lengths: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """Which positions (B, T) are no padding, from lengths (B,) or a mask; all of them without either."""
    if mask is not None:
        return mask
    if lengths is None:
        return torch.ones_like(ids, dtype=torch.bool)
    return torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]


def unpack_documents(batch: Batch) -> tuple[Batch, Tensor | None]:
    """The documents packed in a batch as rows of their own, right-padded, and where in it (R, T) each position
    was; a batch without documents as it is, and None.
    """
    documents = batch.documents
    if documents is None:
        return batch, None
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    starts = begins.flatten().nonzero()[:, 0]  # (R,)
    lengths = torch.diff(starts, append=starts.new_tensor([documents.numel()]))
    column = torch.arange(int(lengths.max()), device=starts.device)
    places = (starts[:, None] + column).clamp(max=documents.numel() - 1)  # (R, T)
    real = column < lengths[:, None]
    flat = {name: getattr(batch, name).flatten()[places] for name in ("ids", "targets")}
    mask = real if batch.mask is None else real & batch.mask.flatten()[places]
    weights = batch.weights.flatten()[places] * real
    return replace(batch, **flat, weights=weights, mask=mask, documents=None), places


def repack_documents(values: Tensor, places: Tensor | None, batch: Batch) -> Tensor:
    """Values (R, T) of the texts, zero on padding, at their places in the batch (B, T)."""
    if places is None:
        return values
    flat = values.new_zeros(batch.ids.numel())
    return flat.index_add(0, places.flatten(), values.flatten()).view(batch.ids.shape)


# ── recurrent ──────────────────────────────────────────────────────────────────────────────────


@dataclass
class RecurrentState:
    """What a recurrent decoder remembers of each row: (L, B, D)."""

    kept: Tensor

    def select(self, rows: list[int]) -> RecurrentState:
        return RecurrentState(self.kept[:, rows])

    def join(self, other: RecurrentState) -> RecurrentState:
        return RecurrentState(torch.cat([self.kept, other.kept], 1))


class RecurrentEncoder(nn.Module):
    """One stack reads forwards, one backwards; each has half the width."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        half = config.d_model // 2
        self.ahead, self.behind = (
            Recurrent(config.d_model, half, config.n_layer, config.dropout) for _ in range(2)
        )

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """States (B, T, D) of embedded ids (B, T, D) whose padding at the right is not `real` (B, T)."""
        lengths = real.sum(1)
        behind = self.behind(reverse_rows(x, lengths))[0]
        return torch.cat([self.ahead(x)[0], reverse_rows(behind, lengths)], 2)


class RecurrentDecoder(nn.Module):
    """The latent is its first state, and is added to every input and to every state that it gives."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width, condition = config.d_model, condition_width(config)
        self.body = Recurrent(width, width, config.n_layer, config.dropout)
        self.first = Linear(condition, config.n_layer * width, bias=True)
        self.condition_in = Linear(condition, width)
        self.out = Linear(width, width, bias=True)
        self.condition_out = Linear(condition, width)

    def init_state(self, condition: Tensor, length: int) -> RecurrentState:
        """The state before the first id for conditions (B, C)."""
        first = torch.tanh(self.first(condition)).view(len(condition), self.body.n_layer, -1)
        return RecurrentState(first.transpose(0, 1))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """States (B, T, D) of embedded ids (B, T, D)."""
        return self.step(x, condition, self.init_state(condition, x.shape[1]), None)

    def step(self, x: Tensor, condition: Tensor, state: RecurrentState, lengths: Tensor | None) -> Tensor:
        """The same after what `state` remembers, which is brought up to date."""
        hidden, state.kept = self.body(x + self.condition_in(condition)[:, None], state.kept, lengths)
        mixed: Tensor = self.out(hidden) + self.condition_out(condition)[:, None]
        return mixed


# ── Transformer ────────────────────────────────────────────────────────────────────────────────


class TransformerStack(nn.Module):
    """A stack of Transformer blocks over embedded ids, with rotary positions."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.shape = DecoderConfig(
            vocab_size=config.vocab_size,
            context_length=config.context_length,
            n_layer=config.n_layer,
            n_head=config.n_head,
            d_model=config.d_model,
            dropout=config.dropout,
        )
        self.blocks: Any = nn.ModuleList(DecoderBlock(self.shape) for _ in range(config.n_layer))
        self.norm: Any = make_norm("rms", config.d_model)
        self.rotary = RotaryTable(config.context_length, self.shape.d_head, self.shape.rope_theta)

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Of positions (T,) or (B, T); padding may point past the end."""
        return self.rotary.at_positions(positions.clamp(max=self.rotary.length - 1))

    def run_blocks(self, x: Tensor, mask: Tensor) -> Tensor:
        """States (B, T, D); `mask` limits attention."""
        angles = self.angles(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            x = block(x, angles, mask, plain_attention)
        normed: Tensor = self.norm(x)
        return normed


class TransformerEncoder(TransformerStack):
    """Every position looks at every real one."""

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """States (B, T, D) of embedded ids (B, T, D)."""
        look = real[:, None, None, :].clone()
        look[..., 0] = True  # a row of padding only must look somewhere
        return self.run_blocks(x, look)


class TransformerDecoder(TransformerStack):
    """The latent is added to every input and to every state that comes out."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.condition_in = Linear(condition_width(config), config.d_model)
        self.condition_out = Linear(condition_width(config), config.d_model)

    def init_state(self, condition: Tensor, length: int) -> KeyValueCache:
        """An empty cache for `length` positions and conditions (B, C)."""
        shape = self.shape
        sizes = (shape.n_layer, len(condition), length, shape.n_kv_head, shape.d_head)
        lengths = torch.zeros(len(condition), dtype=torch.long, device=condition.device)
        return KeyValueCache(condition.new_zeros(sizes), condition.new_zeros(sizes), lengths)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """States (B, T, D) of embedded ids (B, T, D)."""
        mask = causal_mask(x.shape[1]).to(x.device)
        mixed: Tensor = (
            self.run_blocks(x + self.condition_in(condition)[:, None], mask)
            + self.condition_out(condition)[:, None]
        )
        return mixed

    def step(self, x: Tensor, condition: Tensor, state: KeyValueCache, lengths: Tensor | None) -> Tensor:
        """The same after what `state` remembers, which is brought up to date."""
        column = torch.arange(x.shape[1], device=x.device)
        taken = state.lengths.new_full(state.lengths.shape, x.shape[1]) if lengths is None else lengths
        row, col = (column < taken[:, None]).nonzero(as_tuple=True)
        positions = state.lengths[:, None] + column  # (B, T)
        slots = (row, col, positions[row, col])
        length = int((state.lengths + taken).max())
        mask = (torch.arange(length, device=x.device) <= positions[:, :, None])[:, None]
        x, angles = x + self.condition_in(condition)[:, None], self.angles(positions)
        for layer, block in enumerate(self.blocks):

            def store(k: Tensor, v: Tensor, layer: int = layer) -> tuple[Tensor, Tensor]:
                state.write(layer, k, v, slots)
                return state.k[layer, :, :length], state.v[layer, :, :length]

            x = block.cached(x, angles, mask, store)
        state.lengths = state.lengths + taken
        mixed: Tensor = self.norm(x) + self.condition_out(condition)[:, None]
        return mixed


State = Any
"""`RecurrentState` or `KeyValueCache`: rows that `select` and `join`."""


def condition_width(config: Any) -> int:
    """C: the latent, and with a source what was taken from it."""
    return int(config.d_latent + (config.d_model if config.conditional else 0))


Bodies: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "gru": lambda config: (RecurrentEncoder(config), RecurrentDecoder(config)),
    "transformer": lambda config: (TransformerEncoder(config), TransformerDecoder(config)),
}
"""Name → encoder and decoder of a config."""

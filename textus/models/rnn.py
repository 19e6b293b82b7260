"""Recurrent networks: Elman (1990), LSTM (Hochreiter & Schmidhuber 1997, with forget gates), GRU (Cho et al. 2014).

One model, three families (`rnn`, `lstm`, `gru`) that differ in the default cell. Reading left to right it is a
language model; with `bidirectional` it only gives hidden states, for classifiers and taggers. Every document is
read from an empty state: where `batch.documents` changes inside a row, the state is cleared there, as it is at
the start of every text that is scored or continued.

The weights lie in `torch.nn` modules of one layer and direction. In float32, where nothing needs clearing,
these modules also do the work; else the scans below do, which are faster in bfloat16 (docs/log.md).
Shapes: B batch, T time, V vocabulary, D width of the model, H width of one direction of a layer, G gates (4
LSTM, 3 GRU, 1 Elman), S parts of a state (2 LSTM: what is shown and what is kept; else 1), L layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textus.core.errors import UsageError
from textus.core.names import unknown
from textus.core.rng import counter_seed
from textus.data.batch import Batch
from textus.models.contract import (
    LanguageModel,
    Loss,
    matrices_and_other,
    step_seed,
    token_nats,
)
from textus.models.nn.cross_entropy import cross_entropy
from textus.models.nn.linear import Linear

CELLS: dict[str, Any] = {"elman": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


@dataclass(frozen=True)
class RNNConfig:
    """`d_model` is the width of the embedding and of every layer; two directions have half of it each.

    `dropout` zeroes whole units of a layer's output for the whole row (Gal & Ghahramani 2016).
    """

    vocab_size: int
    n_layer: int = 2
    d_model: int = 512
    cell: Literal["elman", "lstm", "gru"] = "elman"
    dropout: float = 0.0
    tie_head: bool = False
    bidirectional: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_layer", "d_model"):
            if getattr(self, name) < 1:
                raise UsageError("out_of_range", f"{name}={getattr(self, name)}: must be at least 1")
        if self.cell not in CELLS:
            raise unknown("cell", self.cell, CELLS)
        if self.bidirectional and self.d_model % 2:
            raise UsageError(
                "incompatible_settings", f"d_model={self.d_model}: must be even, two directions share it"
            )
        if not 0 <= self.dropout < 1:
            raise UsageError("out_of_range", f"dropout={self.dropout}: must be at least 0 and below 1")

    @property
    def context_length(self) -> None:
        """None: any length can be read. How long the training windows are is `train.context_length`."""
        return


@dataclass(frozen=True)
class LSTMConfig(RNNConfig):
    """The same with LSTM cells unless said otherwise."""

    cell: Literal["elman", "lstm", "gru"] = "lstm"


@dataclass(frozen=True)
class GRUConfig(RNNConfig):
    """The same with GRU cells unless said otherwise."""

    cell: Literal["elman", "lstm", "gru"] = "gru"


class StateCache:
    """The state after each row's last id, float32 (L, S, B, H); it has the same size whatever was read."""

    can_rewind = False

    def __init__(self, state: Tensor, lengths: Tensor) -> None:
        self.state, self.lengths = state, lengths

    def select(self, rows: list[int]) -> StateCache:
        """A cache of only these rows, in this order."""
        index = torch.tensor(rows, dtype=torch.long, device=self.state.device)
        return StateCache(self.state[:, :, index], self.lengths[index])

    def join(self, other: StateCache) -> StateCache:
        """A cache of these rows followed by the other's."""
        return StateCache(torch.cat([self.state, other.state], 2), torch.cat([self.lengths, other.lengths]))


# ── scans: one layer over time ─────────────────────────────────────────────────────────────────
#
# forward(inputs (T, B, G H), weight (G H, H), bias (G H,) or None, start (S, B, H), keep (T, B, 1) or None) gives
# what each step shows (T, B, H), and what LSTM keeps beside it (T, B, H), which takes no gradient. `inputs` are the
# products of W_ih with what is read, made in one go before; gates lie in torch.nn's order. `keep` is 0 where the
# state before is to be forgotten, else 1. The gradient of the weights is one product over all steps.


def _before(states: Tensor, start: Tensor, keep: Tensor | None) -> Tensor:
    """The state each step began with, from all states (T, B, H) and the one before them (B, H): (T, B, H)."""
    before = torch.cat([start[None].to(states.dtype), states[:-1]])
    return before if keep is None else before * keep


class ElmanScan(torch.autograd.Function):
    """h = tanh(x + W h)."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: None, start: Tensor, keep: Tensor | None
    ) -> tuple[Tensor, None]:
        shown, h, transposed = torch.empty_like(inputs), start[0].to(inputs.dtype), weight.t()
        for t in range(len(inputs)):
            h = h if keep is None else h * keep[t]
            h = torch.addmm(inputs[t], h, transposed, out=shown[t]).tanh_()
        ctx.save_for_backward(weight, shown, start, keep)
        return shown, None

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, shown, start, keep = ctx.saved_tensors
        slope, d_inputs = 1 - shown * shown, torch.empty_like(shown)
        d_h = torch.zeros_like(shown[0])
        for t in range(len(shown) - 1, -1, -1):
            torch.mul(d_h + gradients[0][t], slope[t], out=d_inputs[t])
            d_h = d_inputs[t] @ weight
            d_h = d_h if keep is None else d_h * keep[t]
        before = _before(shown, start[0], keep)
        d_weight = d_inputs.flatten(0, 1).t() @ before.flatten(0, 1)
        return d_inputs, d_weight, None, d_h[None].to(start.dtype), None


class GRUScan(torch.autograd.Function):
    """Gates reset, update, new: n = tanh(x_n + r (W_n h + b_n)), h = (1 - z) n + z h."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, start: Tensor, keep: Tensor | None
    ) -> tuple[Tensor, None]:
        (time, rows, _), width = inputs.shape, weight.shape[1]
        shown, inner = inputs.new_empty(time, rows, width), inputs.new_empty(time, rows, width)
        gates, h, transposed = torch.empty_like(inputs), start[0].to(inputs.dtype), weight.t()
        for t in range(time):
            h = h if keep is None else h * keep[t]
            products = torch.addmm(bias, h, transposed)
            both = torch.add(
                inputs[t, :, : 2 * width], products[:, : 2 * width], out=gates[t, :, : 2 * width]
            )
            reset, update = both.sigmoid_().chunk(2, 1)
            inner[t] = products[:, 2 * width :]
            new = torch.addcmul(inputs[t, :, 2 * width :], reset, inner[t]).tanh_()
            gates[t, :, 2 * width :] = new
            h = torch.lerp(new, h, update, out=shown[t])
        ctx.save_for_backward(weight, shown, start, keep, gates, inner)
        return shown, None

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, shown, start, keep, gates, inner = ctx.saved_tensors
        reset, update, new = gates.chunk(3, 2)
        before, width = _before(shown, start[0], keep), weight.shape[1]
        by_update = (
            (before - new) * update * (1 - update)
        )  # times a gradient of h: one of z before its sigmoid
        by_new = (1 - update) * (1 - new * new)
        by_reset = inner * reset * (1 - reset)  # times one of n before its tanh
        d_products, d_new, d_h = torch.empty_like(gates), torch.empty_like(inner), torch.zeros_like(inner[0])
        for t in range(len(gates) - 1, -1, -1):
            d_h = d_h + gradients[0][t]
            torch.mul(d_h, by_new[t], out=d_new[t])
            torch.mul(d_new[t], by_reset[t], out=d_products[t, :, :width])
            torch.mul(d_h, by_update[t], out=d_products[t, :, width : 2 * width])
            torch.mul(d_new[t], reset[t], out=d_products[t, :, 2 * width :])
            d_h = torch.addmm(d_h * update[t], d_products[t], weight)
            d_h = d_h if keep is None else d_h * keep[t]
        flat = d_products.flatten(0, 1)
        d_inputs = torch.cat([d_products[..., : 2 * width], d_new], 2)
        return d_inputs, flat.t() @ before.flatten(0, 1), flat.sum(0), d_h[None].to(start.dtype), None


class LSTMScan(torch.autograd.Function):
    """Gates input, forget, new, output: c = f c + i n, h = o tanh(c); c is kept in float32."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: None, start: Tensor, keep: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        (time, rows, _), width, kind = inputs.shape, weight.shape[1], inputs.dtype
        shown, squashed = inputs.new_empty(time, rows, width), inputs.new_empty(time, rows, width)
        kept = inputs.new_empty(time, rows, width, dtype=torch.float32)
        gates, transposed = torch.empty_like(inputs), weight.t()
        h, c = start[0].to(kind), start[1]
        for t in range(time):
            if keep is not None:
                h, c = h * keep[t], c * keep[t]
            torch.addmm(inputs[t], h, transposed, out=gates[t])
            gates[t, :, : 2 * width].sigmoid_()
            gates[t, :, 2 * width : 3 * width].tanh_()
            gates[t, :, 3 * width :].sigmoid_()
            i, f, new, o = gates[t].chunk(4, 1)
            c = torch.mul(f.float(), c, out=kept[t]).addcmul_(i.float(), new.float())
            torch.tanh(c.to(kind), out=squashed[t])
            h = torch.mul(o, squashed[t], out=shown[t])
        ctx.save_for_backward(weight, shown, kept, start, keep, gates, squashed)
        ctx.mark_non_differentiable(kept)
        ctx.set_materialize_grads(False)
        return shown, kept

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, shown, kept, start, keep, gates, squashed = ctx.saved_tensors
        width, kind = weight.shape[1], gates.dtype
        i, f, new, o = gates.chunk(4, 2)
        old = _before(kept, start[1], keep).to(kind)
        by = [new * i * (1 - i), old * f * (1 - f), i * (1 - new * new)]  # from a gradient of c to gates'
        by_o, by_c = squashed * o * (1 - o), o * (1 - squashed * squashed)  # from one of h to o's and c's
        d_inputs, d_h, d_c = torch.empty_like(gates), torch.zeros_like(shown[0]), torch.zeros_like(kept[0])
        for t in range(len(gates) - 1, -1, -1):
            d_h = d_h + gradients[0][t]
            d_c.add_(d_h * by_c[t])
            rounded = d_c.to(kind)
            for gate, factor in enumerate(by):
                torch.mul(rounded, factor[t], out=d_inputs[t, :, gate * width : (gate + 1) * width])
            torch.mul(d_h, by_o[t], out=d_inputs[t, :, 3 * width :])
            d_h = d_inputs[t] @ weight
            d_c.mul_(f[t])
            if keep is not None:
                d_h = d_h * keep[t]
                d_c.mul_(keep[t])
        before = _before(shown, start[0], keep)
        d_weight = d_inputs.flatten(0, 1).t() @ before.flatten(0, 1)
        return d_inputs, d_weight, None, torch.stack([d_h.to(start.dtype), d_c.to(start.dtype)]), None


SCANS: dict[str, Any] = {"RNN_TANH": ElmanScan, "LSTM": LSTMScan, "GRU": GRUScan}
"""By the mode of the torch.nn module whose weights are used."""


def make_layer(cell: str, n_in: int, width: int) -> Any:
    """One layer and direction (torch.nn's). Of two biases that are only ever added one is left at zero and does not
    learn: they would share one gradient, which must not be changed in place for both. A GRU needs its second one.
    """
    layer = CELLS[cell](n_in, width)
    if cell != "gru":
        nn.init.zeros_(layer.bias_hh_l0.requires_grad_(False))
    if cell == "lstm":  # forget gates start open (Jozefowicz et al. 2015)
        nn.init.ones_(layer.bias_ih_l0[width : 2 * width])
    return layer


def project(layer: Any, x: Tensor) -> Tensor:
    """Products of W_ih with x (…, D), biases added, but not the one inside a GRU's reset gate: (…, G H)."""
    bias = layer.bias_ih_l0 if layer.mode == "GRU" else layer.bias_ih_l0 + layer.bias_hh_l0
    return F.linear(x, layer.weight_ih_l0.to(x.dtype), bias.to(x.dtype))


def scan(
    layer: Any, inputs: Tensor, start: Tensor, keep: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """A layer over `inputs` (T, B, G H) from the state `start` (S, B, H): see above."""
    kind = inputs.dtype
    bias = layer.bias_hh_l0.to(kind) if layer.mode == "GRU" else None
    keep = None if keep is None else keep.to(kind)
    found: tuple[Tensor, Tensor | None] = SCANS[layer.mode].apply(
        inputs, layer.weight_hh_l0.to(kind), bias, start, keep
    )
    return found


def read_on(layer: Any, inputs: Tensor, start: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer shows (T, B, H), and its state (S, B, H) after `lengths` steps of each row."""
    shown, kept = scan(layer, inputs, start)
    row = torch.arange(inputs.shape[1], device=inputs.device)
    parts = [shown.float()] if kept is None else [shown.float(), kept]
    after = [torch.cat([old[None], new])[lengths, row] for old, new in zip(start, parts, strict=True)]
    return shown, torch.stack(after)


def dropped(x: Tensor, p: float, seed: int, number: int) -> Tensor:
    """Dropout of x (T, B, D), the `number`-th of a seed: the same units at every step of a row."""
    if not p:
        return x
    generator = torch.Generator().manual_seed(counter_seed(seed, "layer", number))
    kept = torch.rand(x.shape[1:], generator=generator) >= p
    return x * (kept.to(x) / (1 - p))


def starts(documents: Tensor | None) -> Tensor | None:
    """1 where a row's document is the one of the step before, 0 where another begins: (T, B, 1); None where no
    row has a second one. documents (B, T).
    """
    if documents is None:
        return None
    same = documents[:, 1:] == documents[:, :-1]
    if bool(same.all()):
        return None
    return F.pad(same, (1, 0), value=True).t()[..., None]


def from_the_end(lengths: Tensor, time: int) -> Tensor:
    """Places (T, B) that read each row's first `lengths` columns backwards and leave the padding where it is."""
    column = torch.arange(time, device=lengths.device)[:, None]
    return torch.where(column < lengths, lengths - 1 - column, column)


# ── the model ──────────────────────────────────────────────────────────────────────────────────


class RNN(LanguageModel):
    """Embedding, `n_layer` recurrent layers, head; see the module.

    `compute_with` sets the type activations are computed in. Dropout is drawn from the batch's position, not from
    torch's state, so micro-batches may be worked on at once.
    """

    precisions = ("float32", "bfloat16")
    counted_dropout = True

    @classmethod
    def sized(cls, n_layer: int, d_model: int, context_length: int) -> dict[str, Any]:
        """Two layers, twice as wide as a Transformer's: about as many operations a token."""
        return {"n_layer": min(2, n_layer), "d_model": 2 * d_model}

    config: RNNConfig
    layers: Any  # nn.ModuleList of modules of one layer and direction: with two directions they take turns

    def __init__(self, config: RNNConfig) -> None:
        super().__init__()
        self.config = config
        self.precision = torch.float32
        self.can_generate = not config.bidirectional
        self.n_directions = 2 if config.bidirectional else 1
        width = config.d_model // self.n_directions
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(
            make_layer(config.cell, config.d_model, width) for _ in range(config.n_layer * self.n_directions)
        )
        tied = config.tie_head or config.bidirectional  # without a language model there is no head
        self.head = None if tied else Linear(config.d_model, config.vocab_size)
        self._initialise()

    def _initialise(self) -> None:
        """The head starts at zero: the first step is uniform."""
        nn.init.normal_(self.embedding.weight, std=0.02 if self.config.tie_head else 1.0)
        if self.head is not None:
            nn.init.zeros_(self.head.weight)

    def compute_with(self, precision: str, attention: str, step: str) -> None:
        super().compute_with(precision, attention, step)
        self.precision = getattr(torch, precision)

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
        """States of the last layer (B, T, D) of ids (B, T); rows are right-padded where `mask` is False.

        No state crosses from one of `documents` (B, T) to the next. `seed` is what dropout is drawn from.
        UsageError for `documents` read in two directions.
        """
        keep = starts(documents)
        if keep is not None and self.config.bidirectional:
            raise UsageError(
                "incompatible_settings",
                "two directions read one document a row; put each document in a row of its own",
            )
        lengths = ids.new_full((len(ids),), ids.shape[1]) if mask is None else mask.sum(1)
        back = from_the_end(lengths, ids.shape[1])[..., None] if self.config.bidirectional else None
        x: Tensor | None = None
        dropout = self.config.dropout if self.training else 0.0
        for number in range(self.config.n_layer):
            each = []
            for direction in range(self.n_directions):
                layer = self.layers[number * self.n_directions + direction]
                order = back if direction else None
                each.append(self._layer(layer, x, ids, keep, order))
            x = dropped(torch.cat(each, 2) if len(each) > 1 else each[0], dropout, seed, number)
        assert x is not None
        return x.transpose(0, 1)

    def _layer(
        self, layer: Any, x: Tensor | None, ids: Tensor, keep: Tensor | None, order: Tensor | None
    ) -> Tensor:
        """What a layer shows (T, B, H) of x (T, B, D), or of the embedded ids (B, T) where it is the first; read
        in the `order` (T, B, 1) given, and put back from it.
        """
        if self.precision == torch.float32 and keep is None:
            read = self.embedding(ids.t()) if x is None else x
            if order is None:
                alone: Tensor = layer(read)[0]
                return alone
            shown: Tensor = layer(read.gather(0, order.expand_as(read)))[0]
        else:
            inputs = self._inputs(layer, x, ids)
            if order is not None:
                inputs = inputs.gather(0, order.expand_as(inputs))
            shown = scan(layer, inputs, self._empty(len(ids)), keep)[0]
        return shown if order is None else shown.gather(0, order.expand_as(shown))

    def _inputs(self, layer: Any, x: Tensor | None, ids: Tensor) -> Tensor:
        """`project` of x, or of the embedded ids: one product for each id there is, where those are fewer."""
        if x is not None:
            return project(layer, x)
        embedding = self.embedding.weight.to(self.precision)
        if ids.numel() < len(embedding):
            return project(layer, F.embedding(ids.t(), embedding))
        return F.embedding(ids.t(), project(layer, embedding))

    def _empty(self, rows: int) -> Tensor:
        """The state of a layer before anything is read: (S, B, H)."""
        parts = 2 if self.config.cell == "lstm" else 1
        width = self.config.d_model // self.n_directions
        return torch.zeros(parts, rows, width, device=self.embedding.weight.device)

    def forward(self, ids: Tensor, cache: StateCache | None = None, lengths: Tensor | None = None) -> Tensor:
        """ids (B, T) → logits (B, T, V). UsageError for two directions, which know the ids to be told."""
        self._check_direction()
        return self._logits(self.hidden(ids) if cache is None else self._hidden_cached(ids, cache, lengths))

    def _check_direction(self) -> None:
        if self.config.bidirectional:
            raise UsageError(
                "unsupported_model",
                "an RNN of two directions has read the next id before it tells it, so it is no language model;"
                " leave out model.bidirectional, or give it a task (classification, tagging)",
            )

    def _logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.head_weight.to(hidden.dtype)).float()

    @property
    def head_weight(self) -> Tensor:
        """(V, D)."""
        return self.embedding.weight if self.head is None else self.head.weight

    # ── reading on from a cache ────────────────────────────────────────────────────────────────

    def new_cache(self, batch_size: int, length: int, source: Tensor | None = None) -> StateCache:
        """A cache of rows that have seen nothing; it has the same size whatever the `length`."""
        self._check_direction()
        state = torch.stack([self._empty(batch_size)] * self.config.n_layer)
        return StateCache(state, torch.zeros(batch_size, dtype=torch.long, device=state.device))

    def _hidden_cached(self, ids: Tensor, cache: StateCache, lengths: Tensor | None) -> Tensor:
        if lengths is None:
            lengths = ids.new_full((len(ids),), ids.shape[1])
        x, states = None, []
        for number, layer in enumerate(self.layers):
            x, state = read_on(layer, self._inputs(layer, x, ids), cache.state[number], lengths)
            states.append(state)
        cache.state, cache.lengths = torch.stack(states), cache.lengths + lengths
        assert x is not None
        return x.transpose(0, 1)

    # ── learning ───────────────────────────────────────────────────────────────────────────────

    def loss(self, batch: Batch) -> Loss:
        self._check_direction()
        seed = step_seed(batch, "dropout")
        hidden = self.hidden(batch.ids, documents=batch.documents, seed=seed)
        total = cross_entropy(hidden, self.head_weight, batch.targets, batch.weights)
        return Loss(total, float(batch.weights.sum()))

    def score(self, batch: Batch) -> tuple[Tensor, str]:
        self._check_direction()
        logits = self._logits(self.hidden(batch.ids, documents=batch.documents))
        return token_nats(logits, batch), self.kind

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """`matrices` of the layers, and everything else (embedding, head, biases)."""
        matrices = [p for p in self.layers.parameters() if p.ndim == 2]
        return matrices_and_other(self, matrices)

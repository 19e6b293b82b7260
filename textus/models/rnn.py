"""Recurrent networks: Elman (1990), LSTM (Hochreiter & Schmidhuber 1997, with forget gates), GRU (Cho et al. 2014).

One model, three families (`rnn`, `lstm`, `gru`) that differ in the default cell. Reading left to right it is a
language model; with `bidirectional` it only gives hidden states, for classifiers and taggers. Every document is
read from an empty state: where `batch.documents` changes inside a row, the state is cleared there, as it is at
the start of every text that is scored or continued.

The weights are those of `torch.nn` modules of one layer and direction. In float32, where nothing needs clearing,
these modules also do the work; else the scans below do, which are faster in bfloat16 (docs/log.md).
Shapes: B batch, T time, V vocabulary, D width of the model, H width of one direction of a layer, G gates (4
LSTM, 3 GRU, 1 Elman), S parts of a state (2 LSTM: what is shown and what is kept; else 1), L layers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textus.core.errors import UsageError
from textus.core.names import unknown_name_error
from textus.data.batch import Batch
from textus.models.checks import check_at_least, check_rate
from textus.models.contract import (
    Capabilities,
    HeadedModel,
    Loss,
    TensorCache,
    step_seed,
    token_nll,
)
from textus.models.nn.cross_entropy import cross_entropy
from textus.models.nn.linear import Linear
from textus.models.nn.rnn_cells import (
    CELLS,
    continue_scan,
    document_reset_mask,
    make_layer,
    project,
    recurrent_dropout,
    reversal_index,
    scan,
)


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
        check_at_least(self, 1, "vocab_size", "n_layer", "d_model")
        if self.cell not in CELLS:
            raise unknown_name_error("cell", self.cell, CELLS)
        if self.bidirectional and self.d_model % 2:
            raise UsageError(
                "incompatible_settings", f"d_model={self.d_model}: must be even, two directions share it"
            )
        check_rate(self, "dropout")

    @property
    def context_length(self) -> None:
        """None: any length can be read. How long the training windows are is `train.context_length`."""
        return


@dataclass(frozen=True)
class LSTMConfig(RNNConfig):
    """The same with LSTM cells by default."""

    cell: Literal["elman", "lstm", "gru"] = "lstm"


@dataclass(frozen=True)
class GRUConfig(RNNConfig):
    """The same with GRU cells by default."""

    cell: Literal["elman", "lstm", "gru"] = "gru"


class StateCache(TensorCache):
    """The state after each row's last id, float32 (L, S, B, H); it has the same size whatever was read."""

    ROW_DIM: ClassVar = {"state": 2, "lengths": 0}

    def __init__(self, state: Tensor, lengths: Tensor) -> None:
        self.state, self.lengths = state, lengths


class RNN(HeadedModel):
    """Embedding, `n_layer` recurrent layers, head; see the module.

    `set_compute` sets the type activations are computed in. Dropout is drawn from the batch's position, not from
    torch's state, so micro-batches may be worked on at once.
    """

    capabilities = Capabilities(precisions=("float32", "bfloat16"), counter_based_dropout=True)

    @classmethod
    def config_for_size(cls, n_layer: int, d_model: int, context_length: int) -> dict[str, Any]:
        """Two layers, twice as wide as a Transformer's: about as many operations a token."""
        return {"n_layer": min(2, n_layer), "d_model": 2 * d_model}

    config: RNNConfig
    matrix_modules = ("layers",)
    layers: Any  # nn.ModuleList of modules of one layer and direction: with two directions they take turns

    def __init__(self, config: RNNConfig) -> None:
        super().__init__()
        self.config = config
        self.precision = torch.float32
        self.capabilities = replace(self.capabilities, can_generate=not config.bidirectional)
        self.n_directions = 2 if config.bidirectional else 1
        width = config.d_model // self.n_directions
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(
            make_layer(config.cell, config.d_model, width) for _ in range(config.n_layer * self.n_directions)
        )
        tied = config.tie_head or config.bidirectional  # without a language model there is no head
        self.head = None if tied else Linear(config.d_model, config.vocab_size)
        self._init_weights()

    def _init_weights(self) -> None:
        """The head starts at zero: the first step is uniform."""
        nn.init.normal_(self.embedding.weight, std=0.02 if self.config.tie_head else 1.0)
        if self.head is not None:
            nn.init.zeros_(self.head.weight)

    def set_compute(self, precision: str, attention: str, step: str) -> None:
        super().set_compute(precision, attention, step)
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
        keep = document_reset_mask(documents)
        if keep is not None and self.config.bidirectional:
            raise UsageError(
                "incompatible_settings",
                "two directions read one document a row; put each document in a row of its own",
            )
        lengths = ids.new_full((len(ids),), ids.shape[1]) if mask is None else mask.sum(1)
        back = reversal_index(lengths, ids.shape[1])[..., None] if self.config.bidirectional else None
        x: Tensor | None = None
        dropout = self.config.dropout if self.training else 0.0
        for number in range(self.config.n_layer):
            outputs = []
            for direction in range(self.n_directions):
                layer = self.layers[number * self.n_directions + direction]
                order = back if direction else None
                outputs.append(self._layer(layer, x, ids, keep, order))
            x = recurrent_dropout(
                torch.cat(outputs, 2) if len(outputs) > 1 else outputs[0], dropout, seed, number
            )
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
        """ids (B, T) → logits (B, T, V). UsageError for two directions, which see the ids to predict."""
        self._check_direction()
        return self._logits(self.hidden(ids) if cache is None else self._hidden_cached(ids, cache, lengths))

    def _check_direction(self) -> None:
        if self.config.bidirectional:
            raise UsageError(
                "unsupported_model",
                "a bidirectional RNN has read the id it should predict, so it is no language model;"
                " leave out model.bidirectional, or give it a task (classification, tagging)",
            )

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
            x, state = continue_scan(layer, self._inputs(layer, x, ids), cache.state[number], lengths)
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
        return token_nll(logits, batch), self.capabilities.likelihood

"""Recurrent sequence-to-sequence with attention (Sutskever et al. 2014; Bahdanau et al. 2015; Luong et al. 2015).

A bidirectional encoder reads the source; the decoder starts from what it saw last in each direction. After every
step the decoder looks at the source: its state is the query, and what it finds joins the state in an attentional
vector from which the next id is predicted. Scores are additive (Bahdanau's, v · tanh(W q + U m)) or bilinear (Luong's
"general", q · W m). With `input_feeding` (Luong) that vector is read again in the next step, which makes training
go step by step; without, whole layers are scanned at once.
`data.batch.Batch` documents batches of pairs.
Shapes: B batch, T target steps, S source steps, V vocabulary, D width, L layers, P parts of a state (2 LSTM, else 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textus.core.names import unknown_name_error
from textus.core.rng import derive_seed
from textus.data.batch import Batch
from textus.data.bucketing import source_mask
from textus.models.checks import check_end_id
from textus.models.contract import (
    Capabilities,
    HeadedModel,
    Loss,
    TensorCache,
    matrices_and_other,
    step_seed,
    token_nll,
)
from textus.models.nn.cross_entropy import cross_entropy
from textus.models.nn.linear import Linear
from textus.models.nn.rnn_cells import (
    continue_scan,
    document_reset_mask,
    make_layer,
    project,
    recurrent_dropout,
    scan,
)
from textus.models.rnn import RNN, RNNConfig

ATTENTIONS = ("additive", "bilinear")


@dataclass(frozen=True)
class Seq2SeqConfig:
    """`n_layer` layers on each side, all `d_model` wide. `end_id` ends a source and fills what is short of it.

    Additive scores hold (B, T, S, D) numbers at once: for long texts bilinear ones are the better choice.
    """

    vocab_size: int
    end_id: int = 0
    n_layer: int = 1
    d_model: int = 256
    cell: Literal["elman", "lstm", "gru"] = "lstm"
    attention: Literal["additive", "bilinear"] = "bilinear"
    input_feeding: bool = False
    dropout: float = 0.0
    tie_head: bool = True

    def __post_init__(self) -> None:
        self.encoder()  # which names what is wrong with the sizes
        if self.attention not in ATTENTIONS:
            raise unknown_name_error("attention", self.attention, ATTENTIONS)
        check_end_id(self)

    def encoder(self) -> RNNConfig:
        """The encoder as a model of its own."""
        return RNNConfig(
            self.vocab_size, self.n_layer, self.d_model, self.cell, self.dropout, bidirectional=True
        )

    @property
    def context_length(self) -> None:
        """None: sources and targets of any length can be read."""
        return


@dataclass
class EncoderMemory:
    """What the decoder may look at: the source's states (B, S, D), the same made ready for scoring, which are real
    (B, S).
    """

    states: Tensor
    keys: Tensor
    real: Tensor

    def select(self, rows: list[int]) -> EncoderMemory:
        return EncoderMemory(self.states[rows], self.keys[rows], self.real[rows])

    def join(self, other: EncoderMemory) -> EncoderMemory:
        longest = max(self.real.shape[1], other.real.shape[1])
        both = [memory.reserve(longest) for memory in (self, other)]
        states, keys, real = (
            torch.cat([getattr(memory, name) for memory in both]) for name in ("states", "keys", "real")
        )
        return EncoderMemory(states, keys, real)

    def reserve(self, longest: int) -> EncoderMemory:
        """Padded to `longest` source steps."""
        more = longest - self.real.shape[1]
        padding = (0, 0, 0, more)
        return EncoderMemory(
            F.pad(self.states, padding), F.pad(self.keys, padding), F.pad(self.real, (0, more))
        )


class Seq2SeqCache(TensorCache):
    """Of each row: its source, the decoder's state after its last id (L, P, B, D), and the attentional vector then
    (B, D).
    """

    ROW_DIM: ClassVar = {"state": 2, "fed": 0, "lengths": 0}
    PARTS = ("memory",)

    def __init__(self, memory: EncoderMemory, state: Tensor, fed: Tensor, lengths: Tensor) -> None:
        self.memory, self.state, self.fed, self.lengths = memory, state, fed, lengths


class AdditiveAttention(nn.Module):
    """Weights over the source's steps for each query, and what is found there, joined to the query."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.keys = Linear(width, width)
        self.query = Linear(width, width) if kind == "additive" else None
        self.score = nn.Parameter(torch.randn(width) * width**-0.5) if kind == "additive" else None
        self.join = Linear(2 * width, width)

    def weights(self, query: Tensor, memory: EncoderMemory) -> Tensor:
        """Queries (B, T, D) -> weights (B, T, S), zero on padding."""
        if self.query is None or self.score is None:
            scores = query @ memory.keys.transpose(1, 2)
        else:
            sums = self.query(query)[:, :, None] + memory.keys[:, None]  # (B, T, S, D)
            scores = torch.tanh(sums) @ self.score.to(query.dtype)
        return torch.softmax(scores.float().masked_fill(~memory.real[:, None], -torch.inf), 2)

    def forward(self, query: Tensor, memory: EncoderMemory) -> Tensor:
        """The attentional vectors (B, T, D) of queries (B, T, D)."""
        context = self.weights(query, memory).to(query.dtype) @ memory.states
        return torch.tanh(self.join(torch.cat([context, query], 2)))


class Seq2Seq(HeadedModel):
    """Makes a target text from a source text; as a language model it gives the exact likelihood of the target given
    the source.
    """

    capabilities = Capabilities(
        needs_source=True, counter_based_dropout=True, precisions=("float32", "bfloat16")
    )

    config: Seq2SeqConfig
    layers: Any  # nn.ModuleList of the decoder's torch.nn modules of one layer

    @classmethod
    def config_for_size(cls, n_layer: int, d_model: int, context_length: int) -> dict[str, Any]:
        """A recurrent layer does the work of several of a Transformer's, one after the other."""
        return {"n_layer": max(1, n_layer // 3), "d_model": 2 * d_model}

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.config = config
        width = config.d_model
        self.encoder = RNN(config.encoder())
        first = 2 * width if config.input_feeding else width
        self.layers = nn.ModuleList(
            make_layer(config.cell, width if number else first, width) for number in range(config.n_layer)
        )
        self.parts = 2 if config.cell == "lstm" else 1
        self.bridge = Linear(width, config.n_layer * self.parts * width, bias=True)
        self.attention = AdditiveAttention(config.attention, width)
        self.head = None if config.tie_head else Linear(width, config.vocab_size)
        if config.tie_head:
            nn.init.normal_(self.encoder.embedding.weight, std=width**-0.5)

    def set_compute(self, precision: str, attention: str, step: str) -> None:
        super().set_compute(precision, attention, step)
        self.encoder.set_compute(precision, attention, step)

    # ── reading the source ─────────────────────────────────────────────────────────────────────

    def hidden(
        self, ids: Tensor, mask: Tensor | None = None, segments: Tensor | None = None, *, seed: int = 0
    ) -> Tensor:
        """The encoder's states (B, T, D) of ids (B, T), each with its whole text in view. `seed` as in `RNN.hidden`."""
        return self.encoder.hidden(ids, mask, seed=seed)

    def encode_source(self, source: Tensor | None, rows: int, seed: int = 0) -> tuple[EncoderMemory, Tensor]:
        """What the decoder may look at of sources (B, S), and the state it starts from (L, P, B, D); None: empty
        texts.
        """
        if source is None:
            source = torch.full((rows, 1), self.config.end_id, device=self.encoder.embedding.weight.device)
        real = source_mask(source, self.config.end_id)
        states = self.encoder.hidden(source, real, seed=seed).contiguous()
        half, last = self.config.d_model // 2, real.sum(1) - 1
        ends = torch.cat([states[torch.arange(len(source)), last, :half], states[:, 0, half:]], 1)
        shape = (rows, self.config.n_layer, self.parts, self.config.d_model)
        start = torch.tanh(self.bridge(ends)).view(shape).permute(1, 2, 0, 3).float()
        return EncoderMemory(states, self.attention.keys(states), real), start

    # ── writing the target ─────────────────────────────────────────────────────────────────────

    def _decode(
        self,
        ids: Tensor,
        memory: EncoderMemory,
        start: Tensor,
        documents: Tensor | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Attentional vectors (B, T, D) of the target, all at once."""
        keep = document_reset_mask(documents)
        if self.config.input_feeding:
            fed = torch.zeros_like(memory.states[:, 0])
            return self._feed(ids, Seq2SeqCache(memory, start, fed, ids.new_zeros(len(ids))), keep, seed)
        x = F.embedding(ids.t(), self.encoder.embedding.weight.to(self.encoder.precision))  # (T, B, D)
        for number, layer in enumerate(self.layers):
            shown = scan(layer, project(layer, x), start[number], keep)[0]
            x = self._dropout(shown, seed, number)
        vectors = self.attention(x.transpose(0, 1), memory)
        return self._dropout(vectors.transpose(0, 1), seed, len(self.layers)).transpose(0, 1)

    def _dropout(self, x: Tensor, seed: int, number: int) -> Tensor:
        """Dropout of the decoder's x (T, B, D) after layer `number`: the same units at every step of a row."""
        p = self.config.dropout if self.training else 0.0
        return recurrent_dropout(x, p, derive_seed(seed, "decoder"), number)

    def _feed(self, ids: Tensor, cache: Seq2SeqCache, keep: Tensor | None, seed: int) -> Tensor:
        """Step by step, each reading the attentional vector of the one before; `cache` is left at the last step."""
        embedded = F.embedding(ids.t(), self.encoder.embedding.weight.to(self.encoder.precision))
        outputs = []
        for t, x in enumerate(embedded):
            if keep is not None:
                cache.state, cache.fed = cache.state * keep[t], cache.fed * keep[t]
            x, states = torch.cat([x, cache.fed], 1), []
            for number, layer in enumerate(self.layers):
                state = run_cell(layer, x, cache.state[number])
                states.append(state)
                x = self._dropout(state[0][None].to(x.dtype), seed, number)[0]
            cache.state = torch.stack(states)
            vector = self.attention(x[:, None], cache.memory).transpose(0, 1)
            cache.fed = self._dropout(vector, seed, len(self.layers))[0]
            outputs.append(cache.fed)
        return torch.stack(outputs, 1)

    def new_cache(self, batch_size: int, length: int, source: Tensor | None = None) -> Seq2SeqCache:
        """A cache for targets of these sources (B, S): they are read here, once. It has no need of `length`."""
        device = self.encoder.embedding.weight.device
        memory, state = self.encode_source(source if source is None else source.to(device), batch_size)
        lengths = torch.zeros(batch_size, dtype=torch.long, device=device)
        return Seq2SeqCache(memory, state, torch.zeros_like(memory.states[:, 0]), lengths)

    def _decode_cached(self, ids: Tensor, cache: Seq2SeqCache, lengths: Tensor | None) -> Tensor:
        if lengths is None:
            lengths = ids.new_full((len(ids),), ids.shape[1])
        if self.config.input_feeding:
            vectors = self._feed_ragged(ids, cache, lengths)
        else:
            x = F.embedding(ids.t(), self.encoder.embedding.weight.to(self.encoder.precision))
            states = []
            for number, layer in enumerate(self.layers):
                x, state = continue_scan(layer, project(layer, x), cache.state[number], lengths)
                states.append(state)
            cache.state = torch.stack(states)
            vectors = self.attention(x.transpose(0, 1), cache.memory)
        cache.lengths = cache.lengths + lengths
        return vectors

    def _feed_ragged(self, ids: Tensor, cache: Seq2SeqCache, lengths: Tensor) -> Tensor:
        """`_feed`, leaving a row's state and vector as they are after its `lengths`."""
        outputs = []
        for t in range(ids.shape[1]):
            state, fed, more = cache.state, cache.fed, (t < lengths)[:, None]
            outputs.append(self._feed(ids[:, t : t + 1], cache, None, 0))
            cache.state, cache.fed = torch.where(more, cache.state, state), torch.where(more, cache.fed, fed)
        return torch.cat(outputs, 1)

    def forward(
        self, ids: Tensor, cache: Seq2SeqCache | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """Logits (B, T, V) of target ids (B, T); without a cache, those for an empty source."""
        if cache is None:
            return self._logits(self._decode(ids, *self.encode_source(None, len(ids))))
        return self._logits(self._decode_cached(ids, cache, lengths))

    @property
    def head_weight(self) -> Tensor:
        """(V, D)."""
        return self.encoder.embedding.weight if self.head is None else self.head.weight

    def alignment(self, source: Tensor, ids: Tensor) -> Tensor:
        """Where each step of targets (B, T) looks in sources (B, S): weights (B, T, S) that sum to one."""
        cache, weights = self.new_cache(len(ids), ids.shape[1], source), []
        for t in range(ids.shape[1]):
            self._decode_cached(ids[:, t : t + 1], cache, None)
            query = cache.state[-1, 0][:, None].to(self.encoder.precision)
            weights.append(self.attention.weights(query, cache.memory))
        return torch.cat(weights, 1)

    # ── learning ───────────────────────────────────────────────────────────────────────────────

    def loss(self, batch: Batch) -> Loss:
        seed = step_seed(batch, "dropout")
        memory, start = self.encode_source(batch.source, len(batch.ids), seed)
        vectors = self._decode(batch.ids, memory, start, batch.documents, seed)
        total = cross_entropy(vectors, self.head_weight, batch.targets, batch.weights)
        return Loss(total, float(batch.weights.sum()))

    def score(self, batch: Batch) -> tuple[Tensor, str]:
        memory, start = self.encode_source(batch.source, len(batch.ids))
        logits = self._logits(self._decode(batch.ids, memory, start, batch.documents))
        return token_nll(logits, batch), self.capabilities.likelihood

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """`matrices` of layers, bridge and attention, and everything else (embedding, head, biases, scores)."""
        outside = {id(self.encoder.embedding.weight), id(self.head_weight)}
        matrices = [p for p in self.parameters() if p.ndim == 2 and id(p) not in outside]
        return matrices_and_other(self, matrices)


def run_cell(layer: Any, x: Tensor, state: Tensor) -> Tensor:
    """The state (P, B, D) of a layer after one more x (B, D), with gradients through all of it; float32."""
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    weights = [getattr(layer, name).to(x.dtype) for name in names]
    if layer.mode == "LSTM":
        h, c = torch.lstm_cell(x, [state[0].to(x.dtype), state[1].to(x.dtype)], *weights)
        return torch.stack([h, c]).float()
    cell = torch.gru_cell if layer.mode == "GRU" else torch.rnn_tanh_cell
    return cell(x, state[0].to(x.dtype), *weights)[None].float()

"""The hidden Markov model: a language model by the forward algorithm, trained by Baum–Welch, tagging by Viterbi.

Source: Rabiner, "A Tutorial on Hidden Markov Models and Selected Applications in Speech Recognition" (1989):
the scaled forward and backward recursions (section V.A), re-estimation (III.C), Viterbi (III.B). A Dirichlet
prior adds `prior` to every expected count (maximum a posteriori EM), so nothing is impossible and the
penalised likelihood never falls.

A document is a chain of states, each of which emits one id; the first state comes from `start`, and after the
end-of-text id the chain begins anew. Where reading begins in the midst of a document, which is where a row
does not begin with end-of-text, the first state comes from `midway`, a distribution of its own: so what is
trained on pieces of a long document is still exact EM over those pieces.

All tables are float64, so that sums of a million small counts keep the promise of never falling.
Shapes: B batch, T time, V vocabulary, S states; N chains of at most L ids while learning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from textus.core.errors import UsageError
from textus.data.batch import Batch
from textus.models.checks import check_at_least, check_end_id
from textus.models.contract import LanguageModel, Loss, TensorCache

PIECE = 512
"""Ids per chain: pieces of a long document become rows of one matrix product."""

AT_ONCE = 1 << 22
"""Beliefs (chains × ids × states) held at once while learning: 32 MB."""

TABLES = ("start", "midway", "transition", "emission")


@dataclass(frozen=True)
class HMMConfig:
    """`end_id` is the end-of-text id; `prior` is added to every expected count of the `passes` of EM."""

    vocab_size: int
    end_id: int
    n_state: int = 64
    passes: int = 30
    prior: float = 0.01
    context_length: int | None = None

    def __post_init__(self) -> None:
        check_at_least(self, 1, "n_state", "passes")
        if not 0 < self.prior < float("inf"):
            raise UsageError(
                "out_of_range",
                f"prior={self.prior}: must be above 0, or what was not seen would be impossible",
            )
        check_end_id(self)


# ── chains ─────────────────────────────────────────────────────────────────────────────────────


@dataclass
class PackedSequences:
    """The ids of a batch as concatenated chains, P ids in all; end-of-text only ends a chain."""

    ids: Tensor  # (P,)
    weights: Tensor  # (P,) by which each counts
    targets: Tensor  # (P,) bool: a target of the batch, not the first id of a piece
    first: Tensor  # (N,) where each chain begins
    size: Tensor  # (N,) how many ids it has
    fresh: Tensor  # (N,) bool: a document's beginning, so the first state comes from `start`


def pack_sequences(batch: Batch, end_id: int) -> PackedSequences:
    """Cut a batch where a document ends, after `PIECE` ids, and where a target is not the row's next id.

    Where a chain is cut its last target is repeated as the first id of the next one, which so knows where it
    is; such an id counts by the weight of the target after it. All others count by their own weight.
    """
    ids, targets, weights = batch.ids, batch.targets, batch.weights.double()
    real = weights > 0
    there = torch.ones_like(real) if batch.mask is None else batch.mask
    cut = ~_joined(batch, real, there, end_id)  # (B, T) a chain ends after this position
    begins, before = torch.ones_like(real), torch.zeros_like(weights)
    begins[:, 1:], before[:, 1:] = cut[:, :-1], weights[:, :-1]
    ends = begins & (ids == end_id)  # only context: a document begins right after it, and with it a chain
    follows = torch.zeros_like(real)
    follows[:, 1:] = (ends & ~cut)[:, :-1]
    # (B, T, 2): each position's id, then its target where the chain is cut after it
    present = torch.stack([there & ~ends, there & cut & real], 2).flatten()
    opens = torch.stack([(begins & ~ends) | follows, ends], 2).flatten()[present]
    fresh = torch.stack([follows, ends], 2).flatten()[present]
    first = torch.nonzero(opens)[:, 0]
    return PackedSequences(
        ids=torch.stack([ids, targets], 2).flatten()[present],
        weights=torch.stack([torch.where(begins, weights, before), weights], 2).flatten()[present],
        targets=torch.stack([~begins, real], 2).flatten()[present],
        first=first,
        size=torch.diff(first, append=first.new_tensor([int(present.sum())])),
        fresh=fresh[first],
    )


def _joined(batch: Batch, real: Tensor, there: Tensor, end_id: int) -> Tensor:
    """Where a chain continues from a position (B, T) to the next; never at a row's end."""
    ids = batch.ids
    joined = torch.zeros_like(real)
    on = there[:, :-1] & there[:, 1:] & (ids[:, 1:] != end_id)
    if batch.documents is not None:
        on &= batch.documents[:, 1:] == batch.documents[:, :-1]
    whole = torch.arange(1, ids.shape[1], device=ids.device) % PIECE != 0
    joined[:, :-1] = on & (~real[:, :-1] | ((batch.targets[:, :-1] == ids[:, 1:]) & whole))
    return joined


# ── learning ───────────────────────────────────────────────────────────────────────────────────


@dataclass
class ExpectedCounts:
    """Expected counts of a pass, and the nats of what was counted."""

    start: Tensor  # (S,)
    midway: Tensor  # (S,)
    transition: Tensor  # (S, S)
    emission: Tensor  # (S, V)
    targets: Tensor  # () nats of the targets
    contexts: Tensor  # () nats of the ids that pieces begin with, which are no targets
    weight: float = 0.0  # of the targets

    @classmethod
    def zeros(cls, model: HMM) -> ExpectedCounts:
        """Counts of the model's shapes, all zero."""
        start, midway, transition, emission = (torch.zeros_like(getattr(model, name)) for name in TABLES)
        return cls(start, midway, transition, emission, start.sum(), start.sum())


def expected_counts(model: HMM, text: PackedSequences, expected: ExpectedCounts) -> None:
    """Add what the model thinks of these chains to the expected counts, group by group of like length."""
    order = torch.argsort(text.size, descending=True, stable=True)
    done = 0
    while done < len(order):
        longest = int(text.size[order[done]])
        many = max(1, AT_ONCE // (longest * model.config.n_state))
        _expect_group(model, text, order[done : done + many], expected)
        done += many


def _expect_group(model: HMM, text: PackedSequences, rows: Tensor, expected: ExpectedCounts) -> None:
    """The scaled forward and backward recursions over some chains (N,), the longest first."""
    size = text.size[rows]
    length = int(size[0])
    column = torch.arange(length, device=size.device)
    place = (text.first[rows] + column[:, None]).clamp(max=len(text.ids) - 1)  # (L, N)
    going = (column[:, None] < size).sum(1).tolist()  # how many chains reach each column
    emitted = model.emission.T.contiguous()  # (V, S)
    ids, weights = text.ids[place], text.weights[place]
    first = torch.where(text.fresh[rows][:, None], model.start, model.midway)  # (N, S)
    belief = torch.zeros(length, len(rows), model.config.n_state, dtype=torch.double, device=first.device)
    scale = torch.ones(length, len(rows), dtype=torch.double, device=first.device)
    for t, n in enumerate(going):
        prior = first if t == 0 else belief[t - 1, :n] @ model.transition
        joint = prior * emitted[ids[t, :n]]
        scale[t, :n] = joint.sum(1)
        belief[t, :n] = joint / scale[t, :n, None]
    later, moves = torch.ones_like(first), torch.zeros_like(model.transition)
    for t in range(length - 1, -1, -1):
        n = going[t]
        if t + 1 < length and going[t + 1]:
            m = going[t + 1]
            ahead = emitted[ids[t + 1, :m]] * later[:m] / scale[t + 1, :m, None]  # (M, S)
            moves.addmm_(belief[t, :m].T, ahead * weights[t + 1, :m, None])
            later[:m] = ahead @ model.transition.T
        belief[t, :n] *= later[:n]
    expected.transition += moves * model.transition
    real = column[:, None] < size
    counts = belief[real] * weights[real][:, None]  # (P, S)
    expected.emission.T.index_add_(0, ids[real], counts)
    opening = belief[0] * weights[0][:, None]
    expected.start += opening[text.fresh[rows]].sum(0)
    expected.midway += opening[~text.fresh[rows]].sum(0)
    nats, target = -scale[real].log() * weights[real], text.targets[place][real]
    expected.targets += nats[target].sum()
    expected.contexts += nats[~target].sum()
    expected.weight += float(weights[real][target].sum())


# ── remembering ────────────────────────────────────────────────────────────────────────────────


class HMMCache(TensorCache):
    """What is believed of the state that will emit each row's next id."""

    ROW_DIM: ClassVar = {"belief": 0, "lengths": 0}

    def __init__(self, belief: Tensor, lengths: Tensor) -> None:
        self.belief = belief  # (B, S) probabilities
        self.lengths = lengths  # (B,)


# ── the model ──────────────────────────────────────────────────────────────────────────────────


class HMM(LanguageModel):
    """A hidden Markov model; see the module. Before the first `update` it is random, by torch's global seed."""

    start: Tensor  # (S,)
    midway: Tensor  # (S,)
    transition: Tensor  # (S, S) from a row's state to a column's
    emission: Tensor  # (S, V)

    def __init__(self, config: HMMConfig) -> None:
        super().__init__()
        self.config = config
        states, vocab_size = config.n_state, config.vocab_size
        even = torch.full((states,), 1 / states, dtype=torch.double)
        # States that begin alike stay alike long. A strong taste of each makes the difference: after 10 passes
        # over 200,000 characters of tiny Shakespeare 64 states are at 2.33 nats from a spread of 3, 2.68 from 1
        # and 3.30 from 0.3.
        taste = 3.0 * torch.randn(states, vocab_size, dtype=torch.double)
        habit = 0.5 * torch.randn(states, states, dtype=torch.double)
        self.register_buffer("start", even)
        self.register_buffer("midway", even.clone())
        self.register_buffer("transition", habit.softmax(1))
        self.register_buffer("emission", taste.softmax(1))
        self._expected: ExpectedCounts | None = None

    # learning

    def n_passes(self) -> int:
        """Iterations of expectation maximisation."""
        return self.config.passes

    def count(self, batch: Batch) -> None:
        """Add a batch's expected counts (Baum–Welch's E step). UsageError: an id outside the vocabulary."""
        text = pack_sequences(batch, self.config.end_id)
        wrong = text.ids[(text.ids < 0) | (text.ids >= self.config.vocab_size)]
        if len(wrong):
            raise UsageError(
                "unknown_id",
                f"id {int(wrong[0])} is outside the vocabulary of {self.config.vocab_size}; "
                "use the run's tokenizer",
            )
        if self._expected is None:
            self._expected = ExpectedCounts.zeros(self)
        expected_counts(self, text, self._expected)

    def update(self) -> Loss:
        """Re-estimate from all counted since the last update (the M step): the loss is from before it.

        `parts["objective"]` is what never rises from pass to pass over the same batches of weight 1: the nats
        of the targets, of the ids that pieces begin with, and of the tables under their prior. UsageError
        where no target was counted.
        """
        expected, self._expected = self._expected, None
        if expected is None or not expected.weight:
            raise UsageError(
                "empty_data", "no target was counted; give the hidden Markov model a batch with real targets"
            )
        penalty = -self.config.prior * sum(float(getattr(self, name).log().sum()) for name in TABLES)
        for name in TABLES:
            counts = getattr(expected, name) + self.config.prior
            setattr(self, name, counts / counts.sum(-1, keepdim=True))
        objective = float(expected.targets + expected.contexts) + penalty
        return Loss(expected.targets, expected.weight, {"objective": objective})

    # using

    def _read(
        self, ids: Tensor, belief: Tensor, new: Tensor | None, lengths: Tensor | None
    ) -> Iterator[Tensor]:
        """After each of the ids (B, T), the belief (B, S) of which state emits the next (the forward algorithm).

        `new` (B, T) marks ids that begin another document; rows stay as they are past `lengths`.
        """
        emitted = self.emission.T  # (V, S)
        for t in range(ids.shape[1]):
            if new is not None:
                belief = torch.where(new[:, t, None], self.midway, belief)
            joint = belief * emitted[ids[:, t]]
            read = (joint / joint.sum(1, keepdim=True)) @ self.transition
            read = torch.where(ids[:, t, None] == self.config.end_id, self.start, read)
            belief = read if lengths is None else torch.where((t < lengths)[:, None], read, belief)
            yield belief

    def forward(self, ids: Tensor, cache: HMMCache | None = None, lengths: Tensor | None = None) -> Tensor:
        """ids (B, T) → log-probabilities (B, T, V) of the next id, float32."""
        memory = self.new_cache(len(ids), 0) if cache is None else cache
        beliefs = [memory.belief, *self._read(ids, memory.belief, None, lengths)]
        if cache is not None:
            cache.belief = beliefs[-1]
            cache.lengths = cache.lengths + (ids.shape[1] if lengths is None else lengths)
        states = torch.stack(beliefs, 1)[:, 1:]  # (B, T, S)
        return (states.float() @ self.emission.float()).log()

    def score(self, batch: Batch) -> tuple[Tensor, str]:
        """Nats of each target (B, T), times its weight, without ever making a row of V: the kind is exact."""
        new = None
        if batch.documents is not None:
            new = torch.zeros_like(batch.weights, dtype=torch.bool)
            new[:, 1:] = batch.documents[:, 1:] != batch.documents[:, :-1]
        emitted, belief = self.emission.T, self.new_cache(len(batch.ids), 0).belief
        steps = self._read(batch.ids, belief, new, None)
        scores = [(belief * emitted[batch.targets[:, t]]).sum(1) for t, belief in enumerate(steps)]
        return -torch.stack(scores, 1).log().float() * batch.weights, self.capabilities.likelihood

    def new_cache(self, batch_size: int, length: int, source: Tensor | None = None) -> HMMCache:
        """A cache of rows that have seen nothing; it has the same size whatever the `length`."""
        lengths = torch.zeros(batch_size, dtype=torch.long, device=self.midway.device)
        return HMMCache(self.midway.repeat(batch_size, 1), lengths)

    def tag(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """The likeliest states (B, T) of ids (B, T) by Viterbi: an unsupervised tagger. 0 where `mask` is False.

        Rows are right-padded; a row, as everywhere, begins with end-of-text or in the midst of a document.
        """
        logs = {name: getattr(self, name).log() for name in TABLES}
        emitted = logs["emission"].T
        there = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        best = logs["midway"] + emitted[ids[:, 0]]  # (B, S)
        back = [torch.zeros_like(best, dtype=torch.long)]
        stay = torch.arange(self.config.n_state, device=ids.device).expand_as(best)
        for t in range(1, ids.shape[1]):
            step = logs["transition"].expand(len(ids), -1, -1)
            step = torch.where((ids[:, t - 1] == self.config.end_id)[:, None, None], logs["start"], step)
            scores, came = (best[:, :, None] + step).max(1)
            here = there[:, t, None]
            best = torch.where(here, scores + emitted[ids[:, t]], best)
            back.append(torch.where(here, came, stay))
        path = [best.argmax(1)]
        for came in reversed(back[1:]):
            path.append(came.gather(1, path[-1][:, None])[:, 0])
        return torch.stack(path[::-1], 1) * there

    # saving

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Load only tables of probabilities; others are reported like a shape mismatch of torch."""
        super()._load_from_state_dict(state_dict, prefix, *args)
        for name in TABLES:
            table = getattr(self, name)
            sound = (table > 0).all() and ((table.sum(-1) - 1).abs() < 1e-6).all()
            if prefix + name in state_dict and not bool(sound):
                args[-1].append(f"{prefix}{name} has rows that are not shares adding up to 1")

"""The n-gram model: interpolated modified Kneser–Ney smoothing, estimated in one pass.

Source: Chen & Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling" (1998); the
discounts are its equation 26. Where the paper is silent, the conventions of `lmplz` (Heafield et al. 2013):
the end-of-text id is `<s>` as context and `</s>` as predicted word; no context reaches over it; n-grams that
begin with it keep their raw counts at lower orders; the unigrams are interpolated with the uniform
distribution over the vocabulary, so nothing is impossible.

Tables. All n-grams of length n form one sorted array of keys `parent · V + word`, where `parent` is the place
of the first n − 1 words in the table of length n − 1 (at length 1 the place is the id itself). An n-gram is
found by walking from its first word on; with every position of a text walking at once, a level costs one
binary search a token. Next to the keys are the log-probability of each n-gram and its log back-off weight as
a context, both in nats.

Shapes: B batch, T time, V vocabulary, P flat positions, n length of an n-gram, N the order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TextIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textus.core.console import log_notice
from textus.core.errors import UsageError
from textus.data.batch import Batch
from textus.models.checks import check_end_id
from textus.models.contract import Capabilities, LanguageModel, Loss, TensorCache

Array = NDArray[Any]

PENDING = 4_000_000
"""Positions held as text before they are folded into counts, so that text never piles up."""
FALLBACK = (0.5, 1.0, 1.5)
"""Discounts where a text is too small to estimate them: those of `lmplz --discount_fallback`."""
LN10 = float(np.log(10))
ABSENT = -1
"""Marks a place where there is no id (before a row's first one), and an n-gram that was never seen."""


@dataclass(frozen=True)
class NGramConfig:
    """`end_id` is the end-of-text id; the longest n-gram has `order` ids, so `order - 1` are remembered."""

    vocab_size: int
    end_id: int
    order: int = 5
    context_length: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 20:
            raise UsageError("out_of_range", f"order={self.order}: must be from 1 to 20; 5 is usual")
        check_end_id(self)


# ── which n-gram ends where ────────────────────────────────────────────────────────────────────


def context_lengths(ids: Tensor, end_id: int, documents: Tensor | None = None) -> Tensor:
    """How many ids of context end at each position, itself included: back to end-of-text, a gap or the start.

    ids (B, T), ABSENT in gaps; documents (B, T), numbers that differ between documents. Returns
    (B, T) of at least 1.
    """
    cut = ids == end_id
    cut[:, :1] = True
    gap = ids[:, :-1] == ABSENT
    if documents is not None:  # the document changes without an end-of-text
        gap = gap | ((documents[:, 1:] != documents[:, :-1]) & (ids[:, :-1] != end_id))
    cut[:, 1:] |= gap
    place = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    start = torch.where(cut, place, torch.zeros_like(place)).cummax(1).values
    return place - start + 1


@dataclass
class PackedContexts:
    """A batch as one flat text (P,), in which every real target is an id with its context right before it."""

    ids: Tensor  # (P,)
    length: Tensor  # (P,) of the n-gram by which the target here is predicted; 0 where there is no target
    need: Tensor  # (P,) longest n-gram ending here that is wanted, as target or as context of later ones
    events: Tensor  # (M,) positions of the targets, in the order of `origin`
    origin: Tensor  # (M,) their places in batch.targets.flatten()


def pack_contexts(batch: Batch, order: int, end_id: int) -> PackedContexts:
    """Each row and its last target as one text; then, for targets that are not the row's next id (the ends of padded
    rows), a short text of each one's context.
    """
    ids, targets, real = batch.ids, batch.targets, batch.weights > 0
    if batch.mask is not None:
        ids = ids.masked_fill(~batch.mask, ABSENT)
    time = ids.shape[1]
    context = context_lengths(ids, end_id, batch.documents).clamp(max=order - 1)  # (B, T)
    text = torch.cat([ids, targets[:, -1:]], 1)  # (B, T + 1)
    plain = real & (targets == text[:, 1:])
    length = torch.zeros_like(text)
    length[:, 1:] = torch.where(plain, context + 1, 0)
    row, column = torch.nonzero(real & ~plain, as_tuple=True)  # (M,)
    back = torch.arange(2 - order, 1, device=ids.device)  # (N - 1,) up to the position itself
    # (M, N - 1); ids before the row are never read
    around = ids[row[:, None], (column[:, None] + back).clamp(min=0)]
    odd = torch.cat([around, targets[row, column][:, None]], 1)  # (M, N)
    odd_length = torch.zeros_like(odd)
    odd_length[:, -1] = context[row, column] + 1
    flat_length = torch.cat([length.flatten(), odd_length.flatten()])
    need = flat_length.clone()
    for _ in range(order - 1):
        need[:-1] = torch.maximum(need[:-1], need[1:] - 1)
    plain_row, plain_column = torch.nonzero(plain, as_tuple=True)
    origin = torch.cat([plain_row * time + plain_column, row * time + column])
    events = torch.nonzero(flat_length)[:, 0]
    return PackedContexts(torch.cat([text.flatten(), odd.flatten()]), flat_length, need, events, origin)


# ── counting ───────────────────────────────────────────────────────────────────────────────────


@dataclass
class Counts:
    """The n-grams of a text by length: sorted keys, and how many targets are predicted by each.

    At the highest order `seen` counts all occurrences, at lower ones only those with a context cut short.
    `keys[0]` is every id of the vocabulary.
    """

    keys: list[Array]  # N × (n-grams of this length,) int64: parent · V + word
    seen: list[Array]  # N × (n-grams of this length,) int64

    @property
    def size(self) -> int:
        """N-grams of all lengths."""
        return sum(map(len, self.keys))

    @property
    def n_targets(self) -> int:
        """How many targets were counted."""
        return sum(int(seen.sum()) for seen in self.seen)


def count_text(ids: Array, need: Array, length: Array, *, order: int, vocab_size: int) -> Counts:
    """Count a flat text (P,), laid out as in `PackedContexts`."""
    keys = [np.arange(vocab_size)]
    seen = [np.bincount(ids[length == 1], minlength=vocab_size)]
    place = ids.astype(np.int64)  # of the n-gram ending here in the table of the level done last
    for n in range(2, order + 1):
        here = np.flatnonzero(need >= n)
        table, counts = np.unique(place[here - 1] * vocab_size + ids[here], return_inverse=True)
        keys.append(table)
        seen.append(np.bincount(counts[length[here] == n], minlength=len(table)))
        place[here] = counts
    return Counts(keys, seen)


def merge_counts(first: Counts, second: Counts, vocab_size: int) -> Counts:
    """The counts of two texts together."""
    keys, seen = [first.keys[0]], [first.seen[0] + second.seen[0]]
    moved = [
        first.keys[0],
        second.keys[0],
    ]  # the places of either's n-grams in the merged table, one level below
    for level in range(1, len(first.keys)):
        own = [
            moved[i][counts.keys[level] // vocab_size] * vocab_size + counts.keys[level] % vocab_size
            for i, counts in enumerate((first, second))
        ]
        table = np.union1d(*own)
        moved = [np.searchsorted(table, keys) for keys in own]
        total = np.zeros(len(table), dtype=np.int64)
        total[moved[0]] += first.seen[level]
        total[moved[1]] += second.seen[level]
        keys.append(table)
        seen.append(total)
    return Counts(keys, seen)


# ── estimating ─────────────────────────────────────────────────────────────────────────────────


def suffixes(keys: list[Array], vocab_size: int) -> list[Array]:
    """For each n-gram, the place of its suffix without the first word one level below (zeros for unigrams)."""
    links = [np.zeros(vocab_size, dtype=np.int64)]
    for level in range(1, len(keys)):
        parent, word = np.divmod(keys[level], vocab_size)
        if level == 1:
            links.append(word)
        else:
            links.append(np.searchsorted(keys[level - 1], links[-1][parent] * vocab_size + word))
    return links


def adjust_counts(counts: Counts, links: list[Array], end_id: int) -> list[Array]:
    """Kneser–Ney's counts: raw at the highest order and from end-of-text on, else how many words come before.

    A place where the text was cut without an end-of-text counts as one more word before.
    """
    vocab_size = len(counts.keys[0])
    starts = [np.zeros(vocab_size, dtype=bool)]  # the unigram of end-of-text is </s>, not <s>
    for level in range(1, len(counts.keys)):
        parent = counts.keys[level] // vocab_size
        starts.append(parent == end_id if level == 1 else starts[-1][parent])
    adjusted = [counts.seen[-1]]
    for level in range(len(counts.keys) - 2, -1, -1):
        seen = counts.seen[level]
        before = np.bincount(links[level + 1][adjusted[0] > 0], minlength=len(seen))
        adjusted.insert(0, np.where(starts[level], seen, before + (seen > 0)))
    return adjusted


def estimate_discounts(adjusted: Array) -> tuple[float, float, float] | None:
    """D1, D2 and D3+ from how many n-grams have counts 1 to 4; None where they cannot be estimated."""
    n1, n2, n3, n4 = (int((adjusted == k).sum()) for k in (1, 2, 3, 4))
    if not (n1 and n2 and n3):
        return None
    y = n1 / (n1 + 2 * n2)
    result = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    return result if all(0 < d <= k for d, k in zip(result, (1, 2, 3), strict=True)) else None


@dataclass
class NGramOrder:
    """The estimates of one length."""

    probability: Array  # (n-grams of this length,) float64
    backoff: Array  # (n-grams one shorter,) float64: the mass each keeps for shorter contexts


def estimate_order(
    adjusted: Array, parent: Array, n_parents: int, lower: Array, discount: Array
) -> NGramOrder:
    """p(w | h) = (a(hw) − D(a)) / Σ a(h·) + γ(h) p(w | h'), where γ(h) shares out what was taken in h.

    `lower` is p(w | h') of each n-gram. n-grams that are here only as contexts have a = 0.
    """
    taken = discount[np.minimum(adjusted, 3)]
    total = np.bincount(parent, adjusted, minlength=n_parents)
    known = total > 0
    safe = np.where(known, total, 1)
    backoff = np.where(known, np.bincount(parent, taken, minlength=n_parents) / safe, 1.0)
    return NGramOrder((adjusted - taken) / safe[parent] + backoff[parent] * lower, backoff)


# ── remembering ────────────────────────────────────────────────────────────────────────────────


class NGramCache(TensorCache):
    """The last `order - 1` ids of each row, right-aligned, ABSENT before its first."""

    ROW_DIM: ClassVar = {"ids": 0, "lengths": 0}

    def __init__(self, ids: Tensor, lengths: Tensor) -> None:
        self.ids = ids  # (B, N - 1)
        self.lengths = lengths  # (B,)

    def push(self, ids: Tensor, lengths: Tensor | None) -> None:
        """Remember `ids` (B, T), of row b only the first `lengths[b]`."""
        width, added = self.ids.shape[1], ids.shape[1]
        if lengths is None:
            lengths = torch.full_like(self.lengths, added)
        last = lengths[:, None] + torch.arange(width, device=ids.device)  # (B, N - 1)
        self.ids = torch.cat([self.ids, ids], 1).gather(1, last)
        self.lengths = self.lengths + lengths


# ── the model ──────────────────────────────────────────────────────────────────────────────────


class NGram(LanguageModel):
    """Interpolated modified Kneser–Ney; see the module. Before `update` every id is equally likely."""

    discounts: Tensor  # (N, 3) float64: D1, D2, D3+ of each length, for looking at
    probability_1: Tensor  # (V,)
    backoff_1: Tensor  # (V,), not at order 1

    def __init__(self, config: NGramConfig) -> None:
        super().__init__()
        self.config = config
        self.capabilities = Capabilities(overlap=config.order - 1)
        self._pending: list[tuple[Array, Array, Array]] = []  # ids, need, length of batches not yet counted
        self._n_pending = 0
        self._folded: list[Counts] = []  # of falling size, so each n-gram is merged log n times
        uniform = -float(np.log(config.vocab_size))
        self.register_buffer("discounts", torch.zeros(config.order, 3, dtype=torch.float64))
        self.register_buffer("probability_1", torch.full((config.vocab_size,), uniform))
        for n in range(1, config.order):
            self.register_buffer(f"backoff_{n}", torch.zeros(config.vocab_size if n == 1 else 0))
            self.register_buffer(f"keys_{n + 1}", torch.zeros(0, dtype=torch.long))
            self.register_buffer(f"probability_{n + 1}", torch.zeros(0))

    def table(self, name: str, n: int) -> Tensor:
        """`keys`, `probability` or `backoff` of the n-grams of length n; the latter two are logs, in nats."""
        return getattr(self, f"{name}_{n}")

    def n_passes(self) -> int:
        """One: all counts are known after it."""
        return 1

    def count(self, batch: Batch) -> None:
        """Count the real targets of a batch (weight > 0); the others are context. UsageError: foreign id."""
        text = pack_contexts(batch, self.config.order, self.config.end_id)
        used = text.ids[text.need > 0]
        wrong, size = used[(used < 0) | (used >= self.config.vocab_size)], self.config.vocab_size
        if len(wrong):
            raise UsageError(
                "unknown_id", f"id {wrong[0]} is not in the vocabulary of {size}; use its tokenizer"
            )
        ids = text.ids.cpu().numpy().astype(np.int32)
        need, length = (part.cpu().numpy().astype(np.uint8) for part in (text.need, text.length))
        self._pending.append((ids, need, length))
        self._n_pending += len(ids)
        if self._n_pending >= PENDING:
            self._fold()

    def _fold(self) -> None:
        """Turn pending text into counts, and merge counts of like size."""
        if self._pending:
            ids, need, length = (np.concatenate(arrays) for arrays in zip(*self._pending, strict=True))
            self._pending, self._n_pending = [], 0
            order, vocab_size = self.config.order, self.config.vocab_size
            self._folded.append(count_text(ids, need, length, order=order, vocab_size=vocab_size))
        while len(self._folded) > 1 and self._folded[-2].size < 2 * self._folded[-1].size:
            self._merge_last()

    def _merge_last(self) -> None:
        second, first = self._folded.pop(), self._folded.pop()
        self._folded.append(merge_counts(first, second, self.config.vocab_size))

    def update(self) -> Loss:
        """Estimate the model from all counted since the last update; the loss is that of those targets.

        UsageError where nothing was counted. A notice reports a text too small for its own discounts.
        """
        self._fold()
        while len(self._folded) > 1:
            self._merge_last()
        if not self._folded or not self._folded[0].n_targets:
            raise UsageError("empty_data", "no target was counted; give a batch with real targets")
        counts = self._folded.pop()
        nats = self._estimate(counts)
        return Loss(torch.tensor(nats, dtype=torch.float64), float(counts.n_targets))

    def _estimate(self, counts: Counts) -> float:
        """Fill the tables, level by level from the unigrams up; returns the nats of all counted targets."""
        vocab_size = self.config.vocab_size
        links = suffixes(counts.keys, vocab_size)
        adjusted = adjust_counts(counts, links, self.config.end_id)
        discount = self._discount(adjusted)
        below = np.full(1, 1 / vocab_size)  # the uniform distribution under the unigrams
        nats, n_parents = 0.0, 1
        for level, keys in enumerate(counts.keys):
            parent = keys // vocab_size
            order = estimate_order(adjusted[level], parent, n_parents, below[links[level]], discount[level])
            below, n_parents = order.probability, len(keys)
            logs = np.minimum(np.log(below), 0.0)
            nats -= float(counts.seen[level] @ logs)
            self._store(level + 1, keys, logs, np.minimum(np.log(order.backoff), 0.0))
        return nats

    def _discount(self, adjusted: list[Array]) -> Array:
        """Discounts (N, 4) by count 0, 1, 2, 3+ of each level; a notice names those that could not be estimated."""
        discounts_by_order = [estimate_discounts(counts) for counts in adjusted]
        poor = [str(n) for n, discounts in enumerate(discounts_by_order, 1) if discounts is None]
        if poor:
            log_notice(
                f"the text is too small to estimate the discounts of {', '.join(poor)}-grams; "
                f"{', '.join(map(str, FALLBACK))} are used; more text, or a lower order, avoids this"
            )
        table = np.array([(0.0, *(discounts or FALLBACK)) for discounts in discounts_by_order])
        self.discounts = torch.from_numpy(table[:, 1:].copy()).to(self.probability_1.device)
        return table

    def _store(self, n: int, keys: Array, probability: Array, backoff: Array) -> None:
        """Keep one level as tensors; `backoff` belongs to the level below."""
        device = self.probability_1.device
        setattr(self, f"probability_{n}", torch.from_numpy(probability.astype(np.float32)).to(device))
        if n > 1:
            setattr(self, f"keys_{n}", torch.from_numpy(keys).to(device))
            setattr(self, f"backoff_{n - 1}", torch.from_numpy(backoff.astype(np.float32)).to(device))

    def _search(self, n: int, keys: Tensor) -> Tensor:
        """The places of `keys` in the table of length n, ABSENT where they are not in it."""
        table = self.table("keys", n)
        if not len(table):
            return torch.full_like(keys, ABSENT)
        place = torch.searchsorted(table, keys).clamp(max=len(table) - 1)
        return torch.where(table[place] == keys, place, ABSENT)

    def _places(self, ids: Tensor, need: Tensor, levels: int) -> Iterator[Tensor]:
        """For n = 1 … `levels`, the place (P,) of the n-gram ending at each position, or ABSENT.

        An n-gram is looked for only where `need` ≥ n and its first n − 1 words were found.
        """
        place = ids
        yield place
        for n in range(2, levels + 1):
            before = torch.cat([place.new_full((1,), ABSENT), place[:-1]])
            here = torch.nonzero((need >= n) & (before >= 0))[:, 0]
            places = self._search(n, before[here] * self.config.vocab_size + ids[here])
            place = torch.full_like(ids, ABSENT)
            place[here] = places
            yield place

    def score(self, batch: Batch) -> tuple[Tensor, str]:
        """Nats of each target (B, T), times its weight, without ever making a row of V: the kind is exact."""
        text = pack_contexts(batch, self.config.order, self.config.end_id)
        events, length = text.events, text.length[text.events]
        levels = self._places(text.ids, text.need, self.config.order)
        place = next(levels)
        logs = self.probability_1[place[events]]
        for n, longer in enumerate(levels, 2):
            context, target = place[events - 1], longer[events]
            wanted = (length >= n) & (context >= 0)
            logs = logs + torch.where(wanted, _take(self.table("backoff", n - 1), context), 0)
            logs = torch.where(wanted & (target >= 0), _take(self.table("probability", n), target), logs)
            place = longer
        nats = torch.zeros(batch.targets.numel(), device=logs.device)
        nats[text.origin] = -logs
        return nats.view_as(batch.targets) * batch.weights, self.capabilities.likelihood

    def forward(self, ids: Tensor, cache: NGramCache | None = None, lengths: Tensor | None = None) -> Tensor:
        """ids (B, T) → log-probabilities (B, T, V) of the next id, float32."""
        memory = self.new_cache(len(ids), 0) if cache is None else cache
        width = memory.ids.shape[1]
        text = torch.cat([memory.ids, ids], 1)  # (B, N - 1 + T)
        need = context_lengths(text, self.config.end_id).clamp(max=width)
        levels = self._places(text.flatten(), need.flatten(), width)
        # of length 1 … N - 1, each (P,)
        contexts = [place.view_as(text)[:, width:].flatten() for place in levels] if width else []
        if cache is not None:
            cache.push(ids, lengths)
        return self._dense(contexts, ids.numel()).view(*ids.shape, -1)

    def _dense(self, contexts: list[Tensor], n_rows: int) -> Tensor:
        """Log-probabilities (P, V) from the places of each row's contexts, shortest first.

        The estimate of a short context is scaled by the back-off weights of all longer ones at once, so that the
        wide array is written a single time.
        """
        weights = [
            torch.where(place >= 0, _take(self.table("backoff", n), place), 0)
            for n, place in enumerate(contexts, 1)
        ]
        later = [torch.zeros(n_rows, device=self.probability_1.device)]
        for weight in reversed(weights):
            later.insert(0, later[0] + weight)
        logs = self.probability_1 + later[0][:, None]  # (P, V)
        for n, place in enumerate(contexts, 2):
            row, word, probability = self._followers(n, place)
            logs[row, word] = probability + later[n - 1][row]
        return logs

    def _followers(self, n: int, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The n-grams that continue each row's context: which row, which word, with which log-probability."""
        keys, vocab_size = self.table("keys", n), self.config.vocab_size
        rows = torch.nonzero(context >= 0)[:, 0]
        first = torch.searchsorted(keys, context[rows] * vocab_size)
        many = torch.searchsorted(keys, (context[rows] + 1) * vocab_size) - first
        row = rows.repeat_interleave(many)
        start = first - (many.cumsum(0) - many)  # of each context's run, less what the runs before it took
        place = torch.arange(len(row), device=row.device) + start.repeat_interleave(many)
        return row, keys[place] % vocab_size, self.table("probability", n)[place]

    def new_cache(self, batch_size: int, length: int, source: Tensor | None = None) -> NGramCache:
        """A cache of rows that have seen nothing; it has the same size whatever the `length`."""
        device = self.probability_1.device
        ids = torch.full((batch_size, self.config.order - 1), ABSENT, device=device)
        return NGramCache(ids, torch.zeros(batch_size, dtype=torch.long, device=device))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Load valid tables of any length; others are reported like a shape mismatch of torch."""
        errors: list[str] = args[-1]
        for name, own in self._buffers.items():
            tensor = state_dict.get(prefix + name)
            if own is None or tensor is None:  # torch reports it as missing
                continue
            if tensor.dtype != own.dtype or tensor.dim() != own.dim():
                errors.append(
                    f"{prefix}{name} has {tensor.dim()} dimensions of {tensor.dtype}, not {own.dtype}"
                )
                return
            if name != "discounts":
                setattr(self, name, own.new_empty(tensor.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)
        errors.extend(prefix + fault for fault in self._faults())

    def _faults(self) -> Iterator[str]:
        """What is wrong with the tables: a search must not leave them, nor give more than certainty."""
        vocab_size = size = self.config.vocab_size
        for n in range(1, self.config.order + 1):
            if n > 1:
                keys, limit = self.table("keys", n), size * vocab_size
                if len(keys) and (bool((keys.diff() <= 0).any()) or keys[0] < 0 or keys[-1] >= limit):
                    yield f"keys_{n} is not a rising list of {n}-grams over {size} contexts"
                size = len(keys)
            for name in ("probability", "backoff") if n < self.config.order else ("probability",):
                table = self.table(name, n)
                if len(table) != size:
                    yield f"{name}_{n} has {len(table)} values for {size} {n}-grams"
                elif not bool((table.isfinite() & (table <= 0)).all()):
                    yield f"{name}_{n} has values that are not logs of a share"

    def write_arpa(self, path: Path, tokens: list[str]) -> None:
        """Write the model as an ARPA file (base-10 logs) for `kenlm` and others to read; `tokens[i]` is id i.

        The end-of-text id becomes `</s>`, and `<s>` where it is context. UsageError where the tokens are not
        one different word each.
        """
        words = self._words(tokens)
        temporary = Path(path).with_name(f".{Path(path).name}.{os.getpid()}")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                self._write_levels(file, words)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _words(self, tokens: list[str]) -> list[str]:
        """The word of each id in an ARPA file."""
        words = [*tokens]
        if len(words) != self.config.vocab_size:
            raise UsageError(
                "size_mismatch", f"{len(words)} tokens, {self.config.vocab_size} ids; give a token for each"
            )
        words[self.config.end_id] = "</s>"
        for i, word in enumerate(words):
            if not word or any(mark in word for mark in " \t\n\r\v\f\0") or word == "<s>":
                raise UsageError(
                    "invalid_value",
                    f"token {i} is {word!r}, which an ARPA file cannot hold; write it with other characters",
                )
        if len(set(words)) != len(words):
            twice = next(word for word in words if words.count(word) > 1)
            raise UsageError(
                "duplicate_name", f"two ids have the token {twice!r}; an ARPA file needs different ones"
            )
        return words

    def _write_levels(self, file: TextIO, words: list[str]) -> None:
        order, special = self.config.order, ["<s>"]
        if not {"<unk>", "<UNK>"} & set(words):
            special.append("<unk>")
        sizes = [len(self.table("probability", n)) for n in range(1, order + 1)]
        sizes[0] += len(special)
        file.write("\\data\\\n" + "".join(f"ngram {n}={size}\n" for n, size in enumerate(sizes, 1)))
        for n in range(1, order + 1):
            file.write(f"\n\\{n}-grams:\n")
            if n == 1:
                start = float(self.backoff_1[self.config.end_id]) / LN10 if order > 1 else 0.0
                weights = {"<s>": f"\t{start:.7f}", "<unk>": "\t0"} if order > 1 else {}
                file.writelines(f"-99\t{word}{weights.get(word, '')}\n" for word in special)
            for begin in range(0, len(self.table("probability", n)), 100_000):
                file.writelines(self._arpa_lines(n, begin, begin + 100_000, words))
        file.write("\n\\end\\\n")

    def _arpa_lines(self, n: int, begin: int, end: int, words: list[str]) -> Iterator[str]:
        """The lines of n-grams `begin` to `end` of length n."""
        probability = (self.table("probability", n)[begin:end] / LN10).tolist()
        place = torch.arange(begin, begin + len(probability))
        backward = []
        for level in range(n, 1, -1):
            key = self.table("keys", level).cpu()[place]
            backward.append((key % self.config.vocab_size).tolist())
            place = key // self.config.vocab_size
        backward.append(place.tolist())
        backoff = (self.table("backoff", n)[begin:end] / LN10).tolist() if n < self.config.order else []
        for i, ids in enumerate(zip(*reversed(backward), strict=True)):
            text = [words[id] for id in ids]
            if n > 1 and ids[0] == self.config.end_id:
                text[0] = "<s>"
            weight = f"\t{0.0 if text == ['</s>'] else backoff[i]:.7f}" if backoff else ""
            yield f"{probability[i]:.7f}\t{' '.join(text)}{weight}\n"


def _take(table: Tensor, place: Tensor) -> Tensor:
    """Values at `place`, anything where it is ABSENT (the caller does not look there)."""
    if not len(table):
        return torch.zeros(place.shape, device=table.device)
    return table[place.clamp(min=0)]

"""Bootstrap intervals, blocks of a text, and repetition metrics, as pure arithmetic.

Sources: Efron and Tibshirani, *An Introduction to the Bootstrap* (1993), ch. 11 (jackknife) and 13 (percentile
interval); Li et al. 2016 (distinct-n); Welleck et al. 2020 (repetition as the share of n-grams seen before).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textus.core.errors import UsageError

Floats = NDArray[np.float64]

BLOCK = 1024
"""Bytes of one block of the bootstrap, if the text has at least FEWEST of them."""

FEWEST = 20
SMALLEST_BLOCK = 64
MOST_BLOCKS = 8192

CELLS = 1 << 22
"""Numbers drawn at a time in a bootstrap (32 MB)."""


def bootstrap(
    values: ArrayLike, weights: ArrayLike, *, seed: int = 0, n: int = 1000
) -> tuple[float, float, float]:
    """The ratio Σ values / Σ weights with its 95 % percentile interval over blocks: (value, low, high).

    A block is one entry of both; each of `n` resamples draws as many blocks as there are, with replacement. A single
    block has no spread: low = high = value. Raises UsageError for different or zero lengths, or weights that sum to 0.
    """
    top, bottom = _blocks(values, weights)
    value = float(top.sum() / bottom.sum())
    if len(top) == 1:
        return value, value, value
    ratios = _resample(np.stack([top, bottom], axis=1), seed, n)
    low, high = np.quantile(ratios[:, 0] / ratios[:, 1], [0.025, 0.975])
    return value, float(low), float(high)


def interval(figure: tuple[float, float, float], n: int) -> dict[str, float]:
    """A value with its interval as in results: {"value", "low", "high", "n"}."""
    value, low, high = figure
    return {"value": value, "low": low, "high": high, "n": n}


def estimate(
    values: ArrayLike, weights: ArrayLike | None = None, *, seed: int = 0, intervals: bool = True
) -> dict[str, float]:
    """The ratio Σ values / Σ weights (None: the mean) as in results; without `intervals` only {"value", "n"}."""
    given = np.ones(len(np.asarray(values))) if weights is None else weights
    if intervals:
        return interval(bootstrap(values, given, seed=seed), len(np.asarray(values)))
    top, bottom = _blocks(values, given)
    return {"value": float(top.sum() / bottom.sum()), "n": len(top)}


def paired_bootstrap(
    first: ArrayLike, second: ArrayLike, weights: ArrayLike, *, seed: int = 0, n: int = 1000
) -> tuple[float, float, float]:
    """How much larger `first` is than `second` per weight on the same blocks: (difference, low, high).

    Each resample draws the same blocks for both, which removes the difficulty of each passage from the variance.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise UsageError(
            "size_mismatch", f"a paired comparison needs the same blocks; got {a.shape} and {b.shape}"
        )
    return bootstrap(a - b, weights, seed=seed, n=n)


def _blocks(values: ArrayLike, weights: ArrayLike) -> tuple[Floats, Floats]:
    top, bottom = np.asarray(values, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if top.ndim != 1 or top.shape != bottom.shape or not len(top):
        raise UsageError(
            "size_mismatch",
            f"values {top.shape} and weights {bottom.shape} must be two non-empty lists of equal length",
        )
    if not bottom.sum() > 0:
        raise UsageError("invalid_value", "the weights of a bootstrap sum to zero; give one above zero")
    return top, bottom


def _resample(blocks: Floats, seed: int, n: int) -> Floats:
    """Sums of `n` resamples of the rows of `blocks` (N, 2): (up to n, 2); those with zero weight are dropped."""
    size = len(blocks)
    rng = np.random.default_rng(seed)
    chunk = max(1, CELLS // size)
    equal = np.full(size, 1.0 / size)
    counts = [rng.multinomial(size, equal, size=min(chunk, n - at)) @ blocks for at in range(0, n, chunk)]
    sums: Floats = np.concatenate(counts)
    return sums[sums[:, 1] > 0]


# ── blocks of a text ───────────────────────────────────────────────────────────────────────────


@dataclass
class ByteBlocks:
    """Sums over blocks of equal numbers of bytes, at most MOST_BLOCKS however long the text.

    Blocks start small, and neighbours are joined when there are too many; their places depend on the text alone.
    """

    size: int = SMALLEST_BLOCK
    n_bytes: int = 0
    sums: Floats = field(default_factory=lambda: np.zeros(0))

    def add(self, text_bytes: int, sizes: ArrayLike, costs: ArrayLike) -> None:
        """Add the next `text_bytes` bytes: tokens of `sizes` (N,) bytes with `costs` (N,).

        A token counts where it starts. Sizes that do not add up (a tokenizer that drops bytes) are scaled.
        """
        start = self.n_bytes
        self.n_bytes += text_bytes
        while self.n_bytes > self.size * MOST_BLOCKS:
            self._join()
        given = np.asarray(sizes, dtype=np.float64)
        begins = (np.cumsum(given) - given) * (text_bytes / max(1.0, given.sum()))
        places = ((start + np.clip(begins, 0, max(0, text_bytes - 1))) // self.size).astype(np.int64)
        sums: Floats = np.bincount(places, costs, -(-self.n_bytes // self.size)).astype(np.float64)
        sums[: len(self.sums)] += self.sums
        self.sums = sums

    def _join(self) -> None:
        padded = np.append(self.sums, np.zeros(len(self.sums) % 2))
        self.sums, self.size = padded.reshape(-1, 2).sum(axis=1), self.size * 2

    def totals(self) -> tuple[Floats, Floats]:
        """(costs, bytes) of each block, joined up to BLOCK bytes while at least FEWEST remain."""
        while self.size < BLOCK and self.n_bytes // (2 * self.size) >= FEWEST:
            self._join()
        weights = np.full(len(self.sums), float(self.size))
        weights[-1:] = self.n_bytes - self.size * (len(self.sums) - 1)
        return self.sums, weights


# ── repetition ─────────────────────────────────────────────────────────────────────


def ngrams(sequence: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    """All n-grams in order; none if the sequence is shorter than `n`."""
    if n < 1:
        raise UsageError("out_of_range", f"n-grams of n={n}; n starts at 1")
    return list(zip(*(sequence[i:] for i in range(n)), strict=False))


def distinct_n(sequence: Sequence[Hashable], n: int) -> float:
    """Distinct n-grams over all n-grams, in (0, 1]; 1 if nothing repeats, or there are none."""
    grams = ngrams(sequence, n)
    return len(set(grams)) / len(grams) if grams else 1.0


def repetition(sequence: Sequence[Hashable], n: int = 4) -> float:
    """The share of n-grams that occurred before in the same sequence, in [0, 1)."""
    return 1.0 - distinct_n(sequence, n)


def corpus_distinct_n(sequences: Sequence[Sequence[Hashable]], n: int) -> dict[str, float] | None:
    """Distinct n-grams over all n-grams of all sequences together, so a repeated text counts once (Li et al. 2016).

    The interval is the jackknife's, leaving out one sequence at a time: a bootstrap would draw some twice and take that
    for repetition. None if no sequence has an n-gram.
    """
    counts = np.asarray([len(ngrams(sequence, n)) for sequence in sequences], dtype=np.float64)
    owners: dict[Hashable, set[int]] = {}
    for number, sequence in enumerate(sequences):
        for gram in ngrams(sequence, n):
            owners.setdefault(gram, set()).add(number)
    if not owners:
        return None
    alone = np.bincount([min(own) for own in owners.values() if len(own) == 1], minlength=len(sequences))
    value, rest = len(owners) / counts.sum(), counts.sum() - counts
    without = (len(owners) - alone)[rest > 0] / rest[rest > 0]
    spread = 1.96 * math.sqrt((len(without) - 1) * without.var()) if len(without) > 1 else 0.0
    return interval((value, max(0.0, value - spread), min(1.0, value + spread)), len(sequences))


def mean_over_sequences(
    sequences: Sequence[Sequence[Hashable]],
    n: int,
    measure: Callable[[Sequence[Hashable], int], float],
    *,
    seed: int = 0,
) -> dict[str, float] | None:
    """`distinct_n` or `repetition` within each sequence, weighted by its number of n-grams, with an interval over
    sequences. None if no sequence has an n-gram.
    """
    counts = np.asarray([len(ngrams(sequence, n)) for sequence in sequences], dtype=np.float64)
    if not counts.sum():
        return None
    values = counts * [measure(sequence, n) for sequence in sequences]
    return interval(bootstrap(values, counts, seed=seed), len(sequences))


def longest_match(sample: str, corpus_text: str) -> str:
    """The longest substring of `sample` that occurs in `corpus_text`: how much was memorised.

    The window never has to shrink, so there are about len(sample) substring searches.
    """
    best = ""
    for start in range(len(sample)):
        while start + len(best) < len(sample) and sample[start : start + len(best) + 1] in corpus_text:
            best = sample[start : start + len(best) + 1]
    return best

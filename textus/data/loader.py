"""Batches cut from a stream of token ids: windows for training, windows for scoring.

The stream of a `TokenDataset` begins and ends with the same id, so it is a ring: training windows may start anywhere
and run over the seam, which gives every epoch the same number of windows whatever its random phase.

Which rows a step sees is a function of (seed, step) only. Nothing is remembered between calls, so a resumed run, or any
number of workers that share out the steps, sees the same order.

Shapes: B rows, T positions of one window (`context_length`), N ids in the stream, M = N - 1 targets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from textus.core.errors import DataError, UsageError
from textus.core.rng import derive_seed
from textus.data.batch import Batch
from textus.data.token_dataset import TokenDataset, in_memory_dataset

# ── windows for training ───────────────────────────────────────────────────────────────────────


def clamp_context_length(store: TokenDataset, context_length: int) -> int:
    """`context_length`, or less where the whole stream is shorter than one window: then all of it."""
    return max(1, min(context_length, store.n_targets))


class TokenLoader:
    """Batches of a token store; `batch(step)` depends on nothing but the seed and the step.

    Shuffled: each epoch draws a phase on the ring and a permutation of the windows that follow each other from there,
    so no target comes twice in an epoch, and windows fall differently every epoch. All batches are full: the windows of
    one epoch are followed by the next epoch's.

    In order (`shuffle=False`): windows from the start; the last is padded, so that one pass of `n_batches` counts every
    target exactly once. `overlap` ids at the left of each window repeat the one before, with weight zero. `word_starts`
    (V,) bool is the tokenizer's, for batches that carry them.

    Raises DataError: fewer than two ids. UsageError: sizes that cannot be.
    """

    def __init__(
        self,
        store: TokenDataset,
        *,
        batch_size: int,
        context_length: int,
        seed: int = 0,
        overlap: int = 0,
        shuffle: bool = True,
        word_starts: np.ndarray | None = None,
    ) -> None:
        if len(store.ids) < 2:
            raise DataError(
                "too_little_data",
                f"the corpus has {len(store.ids)} tokens; training needs at least 2; add text",
            )
        if batch_size < 1 or context_length < 1:
            raise UsageError(
                "out_of_range",
                f"batch_size {batch_size} and context_length {context_length} must be 1 or more",
            )
        if not 0 <= overlap < context_length:
            raise UsageError(
                "out_of_range",
                f"overlap {overlap} must be 0 or more and below context_length {context_length}",
            )
        self.store = store
        self.batch_size = batch_size
        self.context_length = context_length
        self.seed = seed
        self.overlap = overlap
        self.shuffle = shuffle
        self.stride = context_length - overlap
        self.word_starts = word_starts
        self._epochs: dict[int, tuple[int, np.ndarray]] = {}

    @property
    def n_windows(self) -> int:
        """Windows in one epoch."""
        n_targets = self.store.n_targets
        if self.shuffle:
            return n_targets // self.stride if n_targets >= self.context_length else 1
        return 1 + max(0, math.ceil((n_targets - self.context_length) / self.stride))

    @property
    def n_batches(self) -> int:
        """Batches in one epoch: those that see no target twice (shuffled), or that see all (in order)."""
        if self.shuffle:
            return max(1, self.n_windows // self.batch_size)
        return math.ceil(self.n_windows / self.batch_size)

    @property
    def tokens_per_step(self) -> int:
        """Targets of a full batch."""
        return self.batch_size * self.stride

    def batch(self, step: int) -> Batch:
        """The batch of a step, from 0: `batch_size` rows; in order, the last of a pass may have fewer."""
        if step < 0:
            raise UsageError("out_of_range", f"step {step} is below 0")
        starts, fresh = self._shuffled(step) if self.shuffle else self._ordered(step)
        return self._gather(starts, fresh, step)

    def _shuffled(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the rows of a step start, and at which column their own targets begin."""
        n_windows, n_targets = self.n_windows, self.store.n_targets
        numbers = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        starts = np.empty(len(numbers), dtype=np.int64)
        for epoch in np.unique(numbers // n_windows):
            phase, order = self._epoch(int(epoch))
            rows = numbers // n_windows == epoch
            starts[rows] = (phase + order[numbers[rows] % n_windows] * self.stride) % n_targets
        return starts, np.full(len(starts), self.overlap if n_targets >= self.context_length else 0)

    def _epoch(self, epoch: int) -> tuple[int, np.ndarray]:
        """The phase and the permutation of an epoch; the last few are kept, as every step needs them."""
        if epoch not in self._epochs:
            if len(self._epochs) > 3:
                self._epochs.pop(next(iter(self._epochs)))
            random = np.random.Generator(np.random.Philox(derive_seed(self.seed, "epoch", epoch)))
            phase = int(random.integers(self.store.n_targets))
            self._epochs[epoch] = phase, random.permutation(self.n_windows)
        return self._epochs[epoch]

    def _ordered(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        first = (step % self.n_batches) * self.batch_size
        numbers = np.arange(first, min(first + self.batch_size, self.n_windows))
        return numbers * self.stride, np.where(numbers > 0, self.overlap, 0)

    def _gather(self, starts: np.ndarray, fresh: np.ndarray, step: int) -> Batch:
        """Cut the windows out of the stream. There is padding only in order, or where the stream is short."""
        n_targets = self.store.n_targets
        columns = np.arange(self.context_length)
        flat = starts[:, None] + columns  # (B, T)
        real = np.broadcast_to(columns < n_targets, flat.shape) if self.shuffle else flat < n_targets
        positions = np.where(real, flat % n_targets, 0)
        ids = np.where(real, self.store.ids[positions], self.store.ids[0]).astype(np.int64)
        targets = np.where(real, self.store.ids[positions + 1], self.store.ids[0]).astype(np.int64)
        weights = (real & (columns >= fresh[:, None])).astype(np.float32)
        documents = None
        if self.store.n_documents > 1:
            documents = torch.from_numpy(self.store.document_of(positions).astype(np.int64))
        return Batch(
            ids=torch.from_numpy(ids),
            targets=torch.from_numpy(targets),
            weights=torch.from_numpy(weights),
            documents=documents,
            mask=None if real.all() else torch.from_numpy(real.copy()),
            position=step,
            word_starts=self._word_starts_of(targets),
        )

    def _word_starts_of(self, targets: np.ndarray) -> Tensor | None:
        return None if self.word_starts is None else torch.from_numpy(self.word_starts[targets])


class NextSentenceLoader(TokenLoader):
    """Batches of rows `EOT A EOT B EOT` for next-sentence prediction (Devlin et al. 2019).

    A begins where a window of a `TokenLoader` does and stays in its document, as does B. Half the rows have label 0: B
    continues where A ends, at a random place; the others 1: B is from a random place of the whole text. `segments` are
    0 up to the second EOT, then 1. Targets are the ids themselves; EOT has weight zero.
    """

    def __init__(self, store: TokenDataset, *, context_length: int, **settings: Any) -> None:
        if context_length < 5:
            raise UsageError(
                "out_of_range", f"context_length {context_length} must be 5 or more to hold a pair of texts"
            )
        super().__init__(store, context_length=context_length - 3, **settings)

    def _gather(self, starts: np.ndarray, fresh: np.ndarray, step: int) -> Batch:
        rows = [
            self._pair(int(start), derive_seed(self.seed, "pair", step, n)) for n, start in enumerate(starts)
        ]
        longest = max(len(first) + len(second) for first, second, _ in rows) + 3
        ids = np.full((len(rows), longest), self.store.ids[0], dtype=np.int64)
        segments, real = np.zeros(ids.shape, dtype=np.int64), np.zeros(ids.shape, dtype=bool)
        weights = np.zeros(ids.shape, dtype=np.float32)
        for row, (first, second, _) in enumerate(rows):
            middle, end = len(first) + 1, len(first) + len(second) + 2
            ids[row, 1:middle], ids[row, middle + 1 : end] = first, second
            weights[row, 1:middle] = weights[row, middle + 1 : end] = 1
            segments[row, middle + 1 : end + 1] = 1
            real[row, : end + 1] = True
        return Batch(
            ids=torch.from_numpy(ids),
            targets=torch.from_numpy(ids.copy()),
            weights=torch.from_numpy(weights),
            mask=None if real.all() else torch.from_numpy(real),
            position=step,
            segments=torch.from_numpy(segments),
            labels=torch.tensor([label for _, _, label in rows]),
            word_starts=self._word_starts_of(ids),
        )

    def _pair(self, start: int, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Ids of A and of B, and the label."""
        random = np.random.Generator(np.random.Philox(seed))
        text = self._document_slice(start, self.context_length)
        if len(text) < 2:  # a document of one id: nothing follows
            return (
                text,
                self._document_slice(int(random.integers(self.store.n_targets)), self.context_length - 1),
                1,
            )
        cut = int(random.integers(1, len(text)))
        if random.random() < 0.5:
            return text[:cut], text[cut:], 0
        place = int(random.integers(self.store.n_targets))
        return text[:cut], self._document_slice(place, len(text) - cut), 1

    def _document_slice(self, start: int, length: int) -> np.ndarray:
        """At most `length` ids of the document at `start`; from there on, or where it is short, from before."""
        number = int(self.store.document_of(np.asarray(start)))
        bounds = np.append(self.store.starts, len(self.store.ids) - 1)
        low, high = int(bounds[number]) + 1, int(bounds[number + 1])
        begin = max(low, min(start, high - length))
        return np.asarray(self.store.ids[begin : min(begin + length, high)])


# ── windows for scoring ────────────────────────────────────────────────────────────────────────


def scoring_windows(
    ids: list[int] | np.ndarray, context_length: int, stride: int | None = None, *, batch_size: int = 1
) -> Iterator[Batch]:
    """Batches over one sequence that begins with EOT, in order, each target scored exactly once.

    Windows do not overlap, or with `stride` below `context_length` each starts that much after the one before, and what
    was scored already only serves as context (weight zero).

    Raises DataError: fewer than two ids. UsageError: a stride outside 1 … context_length.
    """
    stride = context_length if stride is None else stride
    if not 1 <= stride <= context_length:
        raise UsageError(
            "out_of_range", f"stride {stride} must be between 1 and the context length {context_length}"
        )
    loader = TokenLoader(
        in_memory_dataset(ids),
        batch_size=batch_size,
        context_length=context_length,
        overlap=context_length - stride,
        shuffle=False,
    )
    for step in range(loader.n_batches):
        yield loader.batch(step)

"""Pairs in batches of like lengths."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textus.core.errors import DataError, UsageError
from textus.core.rng import derive_seed
from textus.data.batch import Batch
from textus.data.token_dataset import TokenDataset

Ids = NDArray[np.int64]

POOL_BATCHES = 32
"""Batches whose rows are drawn together, sorted by length, and dealt out."""


def source_mask(source: Tensor, end_id: int) -> Tensor:
    """True on the ids of each source up to and including its first end-of-text id: (B, S) -> (B, S) bool."""
    ends = (source == end_id).int()
    return ends.cumsum(1) - ends == 0


def pad_sources(rows: list[list[int]], end_id: int) -> Tensor:
    """Sources without their end as one padded tensor (B, S); each gets its end-of-text id."""
    longest = 1 + max(map(len, rows))
    return torch.tensor([row + [end_id] * (longest - len(row)) for row in rows])


class LengthGroupedSampler:
    """Which rows a step sees: each epoch is a permutation of all rows, epoch follows epoch without a seam, and all
    batches are full. Some batches' rows are drawn together, put in order by `by_length`, and dealt out.
    """

    def __init__(self, n_rows: int, batch_size: int, seed: int, by_length: Callable[[Ids], Ids]) -> None:
        self.n_rows, self.batch_size, self.seed, self.by_length = n_rows, batch_size, seed, by_length
        self.n_batches = max(1, n_rows // batch_size)
        """Batches of an epoch that see no row twice."""
        self._pools: dict[int, Ids] = {}

    def rows_at(self, step: int) -> Ids:
        """A step's rows: a batch of its pool, which is sorted by length and dealt out in random order."""
        n_batches = min(POOL_BATCHES, self.n_batches)
        pool, place = divmod(step, n_batches)
        if pool not in self._pools:
            self._pools.clear()
            size = n_batches * self.batch_size
            numbers = np.arange(pool * size, (pool + 1) * size)
            rows = self.by_length(self._shuffled_rows(numbers)).reshape(n_batches, self.batch_size)
            self._pools[pool] = rows[self.rng("pool", pool).permutation(n_batches)]
        return self._pools[pool][place]

    def _shuffled_rows(self, numbers: Ids) -> Ids:
        """The rows at these places of the endless stream of permutations."""
        epochs = numbers // self.n_rows
        orders = {epoch: self.rng("epoch", epoch).permutation(self.n_rows) for epoch in np.unique(epochs)}
        return np.asarray(
            [orders[epoch][number] for epoch, number in zip(epochs, numbers % self.n_rows, strict=True)]
        )

    def rng(self, what: str, *numbers: int) -> np.random.Generator:
        """Random numbers for one use."""
        return np.random.Generator(np.random.Philox(derive_seed(self.seed, what, *map(int, numbers))))


class BucketLoader:
    """Batches of whole documents, each `ids` row beginning with `start_id` (None: end-of-text).

    With `sources`, a store of as many documents, row i is the pair of both i-th documents, and of a text longer than
    `context_length` only the beginning is read. Alone, a longer document becomes several rows.

    Shuffled, rows come as `LengthGroupedSampler` deals them. In order (`shuffle=False`), they go by length, and
    `n_batches` batches have every row once.

    Raises DataError: no rows, or not as many sources as targets. UsageError: sizes that cannot be.
    """

    def __init__(
        self,
        store: TokenDataset,
        sources: TokenDataset | None = None,
        *,
        batch_size: int,
        context_length: int,
        seed: int = 0,
        start_id: int | None = None,
        shuffle: bool = True,
    ) -> None:
        if batch_size < 1:
            raise UsageError("out_of_range", f"batch_size {batch_size} must be 1 or more")
        if context_length < 2:
            raise UsageError(
                "out_of_range", f"context_length {context_length} must be 2 or more: an id and the text's end"
            )
        if not store.n_documents or (sources is not None and sources.n_documents != store.n_documents):
            n_sources = "no" if sources is None else sources.n_documents
            raise DataError(
                "size_mismatch",
                f"{store.n_documents} target texts and {n_sources} source texts make no pairs",
            )
        self.store, self.sources = store, sources
        self.batch_size, self.context_length, self.shuffle = batch_size, context_length, shuffle
        self.end_id = int(store.ids[0])
        self.start_id = self.end_id if start_id is None else start_id
        self.begins, self.lengths = document_spans(store, context_length, pieces=sources is None)
        if sources is not None:
            self.source_begins, self.source_lengths = document_spans(sources, context_length, pieces=False)
        self.sampler = LengthGroupedSampler(self.n_rows, batch_size, seed, self._by_length)
        self._order = self._by_length(np.arange(self.n_rows))

    @property
    def n_rows(self) -> int:
        """Rows in one epoch."""
        return len(self.begins)

    @property
    def n_batches(self) -> int:
        """Batches in one epoch: those that see no row twice (shuffled), or that see all (in order)."""
        return self.sampler.n_batches if self.shuffle else -(-self.n_rows // self.batch_size)

    @property
    def tokens_per_step(self) -> int:
        """Targets of a batch on average."""
        return max(1, round(float(self.lengths.mean()) * self.batch_size))

    def batch(self, step: int) -> Batch:
        """The batch of a step, from 0: `batch_size` rows; in order, the last of a pass may have fewer."""
        if step < 0:
            raise UsageError("out_of_range", f"step {step} is below 0")
        if self.shuffle:
            rows = self.sampler.rows_at(step)
        else:
            first = (step % self.n_batches) * self.batch_size
            rows = self._order[first : first + self.batch_size]
        return self._padded([self.row(int(row), step) for row in rows], step)

    def row(self, number: int, step: int) -> tuple[Ids | None, Ids]:
        """Source (with its end) and targets of a row; `step` matters where a row is made anew each time."""
        begin, length = self.begins[number], self.lengths[number]
        targets = self.store.ids[begin : begin + length].astype(np.int64)
        if self.sources is None:
            return None, targets
        begin, length = self.source_begins[number], self.source_lengths[number]
        source = self.sources.ids[begin : begin + length].astype(np.int64)
        source[-1] = self.end_id
        return source, targets

    # ── which rows ─────────────────────────────────────────────────────────────────────────────

    def _by_length(self, rows: Ids) -> Ids:
        """The rows, shortest first, by the longer side of a pair: of the orders tried, the one with least padding."""
        if self.sources is None:
            return rows[np.argsort(self.lengths[rows], kind="stable")]
        source, target = self.source_lengths[rows], self.lengths[rows]
        return rows[np.lexsort((source + target, np.maximum(source, target)))]

    # ── as tensors ─────────────────────────────────────────────────────────────────────────────

    def _padded(self, rows: list[tuple[Ids | None, Ids]], step: int) -> Batch:
        targets, real = pad_rows([row for _, row in rows], self.end_id)
        ids = torch.full_like(targets, self.end_id)
        ids[:, 0] = self.start_id
        ids[:, 1:] = torch.where(real[:, 1:], targets[:, :-1], self.end_id)
        sources = [source for source, _ in rows if source is not None]
        return Batch(
            ids=ids,
            targets=targets,
            weights=real.float(),
            mask=None if bool(real.all()) else real,
            position=step,
            source=pad_rows(sources, self.end_id)[0] if sources else None,
        )


def pad_rows(rows: list[Ids], end_id: int) -> tuple[Tensor, Tensor]:
    """Rows as one tensor (B, T), padded with `end_id`, and a bool one that is True where they are."""
    lengths = np.asarray([len(row) for row in rows])
    real = np.arange(lengths.max()) < lengths[:, None]
    whole = np.full(real.shape, end_id, dtype=np.int64)
    whole[real] = np.concatenate(rows)
    return torch.from_numpy(whole), torch.from_numpy(real)


def document_spans(store: TokenDataset, longest: int, *, pieces: bool) -> tuple[Ids, Ids]:
    """Where each document's targets begin in the stream, and how many there are, its end among them.

    One of more than `longest` is cut there, or with `pieces` continued in further rows.
    """
    begins = store.starts + 1
    lengths = np.append(store.starts[1:], len(store.ids) - 1) - store.starts
    if not pieces:
        return begins, np.minimum(lengths, longest)
    n_pieces = -(-lengths // longest)
    places = np.arange(n_pieces.sum()) - np.repeat(n_pieces.cumsum() - n_pieces, n_pieces)
    rest = np.repeat(lengths, n_pieces) - places * longest
    return np.repeat(begins, n_pieces) + places * longest, np.minimum(rest, longest)

"""Batches of whole rows of ids of which only some are learned: the answers of conversations, targets after prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from textus.data.batch import Batch
from textus.data.bucketing import Ids, LengthGroupedSampler, pad_rows


@dataclass(frozen=True)
class WeightedRow:
    """The ids of a row, and which of them are learned (as many; the first cannot be)."""

    ids: list[int]
    learned: list[bool]


class WeightedRowLoader:
    """Batches of rows of like length for a family that reads from left to right; `pad_id` fills shorter rows."""

    def __init__(
        self, rows: Sequence[WeightedRow], pad_id: int, *, batch_size: int, seed: int, shuffle: bool
    ) -> None:
        self.pad_id, self.batch_size, self.shuffle = pad_id, batch_size, shuffle
        self.rows = [np.asarray(row.ids) for row in rows]
        self.learned = [np.asarray(row.learned, dtype=np.float32) for row in rows]
        self.lengths = np.asarray([len(row) for row in self.rows])
        self.sampler = LengthGroupedSampler(len(rows), batch_size, seed, self._by_length)
        self._order = self._by_length(np.arange(len(rows)))

    @property
    def n_batches(self) -> int:
        """Batches in one epoch."""
        return self.sampler.n_batches if self.shuffle else -(-len(self.rows) // self.batch_size)

    @property
    def tokens_per_step(self) -> int:
        """Ids of a batch on average, those that are not learned included."""
        return max(1, round(float(self.lengths.mean()) * self.batch_size))

    def rows_of(self, step: int) -> Ids:
        """The places of a step's rows."""
        if self.shuffle:
            return self.sampler.rows_at(step)
        first = (step % self.n_batches) * self.batch_size
        return self._order[first : first + self.batch_size]

    def batch(self, step: int) -> Batch:
        """The batch of a step, from 0."""
        places = [int(place) for place in self.rows_of(step)]
        ids, _ = pad_rows([self.rows[place][:-1] for place in places], self.pad_id)
        targets, real = pad_rows([self.rows[place][1:] for place in places], self.pad_id)
        weights = real.float()
        for number, place in enumerate(places):
            learned = weights.new_tensor(self.learned[place][1:])
            weights[number, : len(learned)] = learned
        mask = None if bool(real.all()) else real
        return Batch(ids=ids, targets=targets, weights=weights, mask=mask, position=step)

    def _by_length(self, rows: Ids) -> Ids:
        return rows[np.argsort(self.lengths[rows], kind="stable")]

"""One encoder trained on several tasks with a head for each: every step is of one task, sampled by its size.

A task of n rows is sampled in proportion to n ** power: 1 is by size, so that small tasks get few steps; 0 gives all
the same number, so that small ones are repeated most; the default of 0.5 is between them (Stickland and Murray 2019
anneal it; Raffel et al. 2020 call 1 / power the temperature of the mixture).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from textus.core.errors import UsageError
from textus.core.rng import derive_seed
from textus.data.batch import Batch
from textus.tasks.encoding import ExampleLoader

STEPS_AT_ONCE = 1024
"""Steps whose tasks are sampled together."""


@dataclass(frozen=True)
class MixSettings:
    """`power`: a task of n rows is sampled in proportion to n ** power; 1 by size, 0 all alike."""

    power: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.power <= 1:
            raise UsageError(
                "out_of_range", f"mix.power={self.power}: must be between 0 (all alike) and 1 (by size)"
            )


class MultitaskLoader:
    """Batches of several tasks for `training.trainer.fit`: the task of a step and its batch follow from (seed, step)
    alone. The batches of a task come in their own order, none is left out.
    """

    def __init__(self, parts: Mapping[str, ExampleLoader], *, power: float, seed: int) -> None:
        self.loaders, self.seed = dict(parts), seed
        sizes = np.asarray([len(loader.rows) for loader in parts.values()], dtype=np.float64) ** power
        self.shares: dict[str, float] = dict(zip(parts, (sizes / sizes.sum()).tolist(), strict=True))
        """The expected share of steps of each task."""
        self._chunks: list[NDArray[np.int64]] = []
        """The tasks of each `STEPS_AT_ONCE` steps, as indices of `parts`."""
        self._before = [np.zeros(len(self.loaders), dtype=np.int64)]
        """Steps of each task before each chunk, and after the last."""

    @property
    def n_batches(self) -> int:
        """Batches in one epoch of every task."""
        return sum(loader.n_batches for loader in self.loaders.values())

    @property
    def tokens_per_step(self) -> int:
        """Average ids of a batch."""
        tokens = (self.shares[name] * loader.tokens_per_step for name, loader in self.loaders.items())
        return max(1, round(sum(tokens)))

    def steps_per_task(self, steps: int) -> dict[str, int]:
        """How many of the first `steps` each task has."""
        return dict(zip(self.loaders, self._chunk_of(steps)[1].tolist(), strict=True))

    def task_at(self, step: int) -> tuple[str, int]:
        """The task of a step, and the number of its earlier steps."""
        chunk, before = self._chunk_of(step)
        place = int(chunk[step % STEPS_AT_ONCE])
        return list(self.loaders)[place], int(before[place])

    def batch(self, step: int) -> Batch:
        """The batch of a step, from 0; its `task` names the head it is for."""
        name, turn = self.task_at(step)
        return replace(self.loaders[name].batch(turn), position=step)

    def _chunk_of(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The tasks of the chunk of a step, and the number of earlier steps of each task."""
        while len(self._chunks) <= step // STEPS_AT_ONCE:
            random = np.random.Generator(np.random.Philox(derive_seed(self.seed, "mix", len(self._chunks))))
            edges = np.cumsum(list(self.shares.values()))[:-1]
            self._chunks.append(np.searchsorted(edges, random.random(STEPS_AT_ONCE), side="right"))
            self._before.append(self._before[-1] + np.bincount(self._chunks[-1], minlength=len(self.loaders)))
        chunk = self._chunks[step // STEPS_AT_ONCE]
        counted = np.bincount(chunk[: step % STEPS_AT_ONCE], minlength=len(self.loaders))
        return chunk, self._before[step // STEPS_AT_ONCE] + counted

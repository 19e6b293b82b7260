"""Several tasks learnt at once by one encoder with a head for each: every step is of one task, drawn by its size.

A task of n rows is drawn in proportion to n ** power. Power 1 deals by size, so that a large task drowns a small one; 0
gives all as many steps, so that a small one is read again and again; a half, the default, lies between (Stickland and
Murray 2019 take n ** 0.5 and anneal it; Raffel et al. 2020 call 1 / power the temperature of the mixture).
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
"""Steps that are drawn together."""


@dataclass(frozen=True)
class MixSettings:
    """`power`: a task of n rows is drawn in proportion to n ** power; 1 by size, 0 all alike."""

    power: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.power <= 1:
            raise UsageError(
                "out_of_range", f"mix.power={self.power}: must be between 0 (all alike) and 1 (by size)"
            )


class MultitaskLoader:
    """The batches of several tasks as `training.trainer.fit` reads them: a step's task, and which of that task's
    batches it sees, follow from (seed, step) alone. Each task's batches come in their own order and none is passed
    over, so that its rows are read as often as each other.
    """

    def __init__(self, parts: Mapping[str, ExampleLoader], *, power: float, seed: int) -> None:
        self.loaders, self.seed = dict(parts), seed
        sizes = np.asarray([len(loader.rows) for loader in parts.values()], dtype=np.float64) ** power
        self.shares: dict[str, float] = dict(zip(parts, (sizes / sizes.sum()).tolist(), strict=True))
        """What part of the steps each task has, in the long run."""
        self._chunks: list[NDArray[np.int64]] = []
        """Each `DRAWN` steps' tasks, as places in `parts`."""
        self._before = [np.zeros(len(self.loaders), dtype=np.int64)]
        """How many steps each task had before each of these, and after the last."""

    @property
    def n_batches(self) -> int:
        """Steps in which as many rows are read as there are."""
        return sum(loader.n_batches for loader in self.loaders.values())

    @property
    def tokens_per_step(self) -> int:
        """Ids of a batch on average."""
        return max(
            1, round(sum(self.shares[name] * loader.tokens_per_step for name, loader in self.loaders.items()))
        )

    def steps_per_task(self, steps: int) -> dict[str, int]:
        """How many of so many first steps are each task's."""
        return dict(zip(self.loaders, self._counted(steps)[1].tolist(), strict=True))

    def task_at(self, step: int) -> tuple[str, int]:
        """The task of a step, and how many steps it had before."""
        chunk, before = self._counted(step)
        place = int(chunk[step % STEPS_AT_ONCE])
        return list(self.loaders)[place], int(before[place])

    def batch(self, step: int) -> Batch:
        """The batch of a step, from 0; its `task` names the head it is for."""
        name, turn = self.task_at(step)
        return replace(self.loaders[name].batch(turn), position=step)

    def _counted(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The tasks of the steps a step was drawn with, and how many steps before it each task had."""
        while len(self._chunks) <= step // STEPS_AT_ONCE:
            random = np.random.Generator(np.random.Philox(derive_seed(self.seed, "mix", len(self._chunks))))
            edges = np.cumsum(list(self.shares.values()))[:-1]
            self._chunks.append(np.searchsorted(edges, random.random(STEPS_AT_ONCE), side="right"))
            self._before.append(self._before[-1] + np.bincount(self._chunks[-1], minlength=len(self.loaders)))
        chunk = self._chunks[step // STEPS_AT_ONCE]
        counted = np.bincount(chunk[: step % STEPS_AT_ONCE], minlength=len(self.loaders))
        return chunk, self._before[step // STEPS_AT_ONCE] + counted

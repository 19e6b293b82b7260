"""Batches of pairs of texts, in memory: a target to be written after a source was read.

A family that reads a source apart has it in `Batch.source`; for one that reads from left to right the source comes
first in `Batch.ids`, followed by the end of text, and only the target has weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from textus.core.errors import DataError
from textus.data.batch import Batch
from textus.data.bucketing import BucketLoader, Ids, LengthGroupedSampler, pad_rows
from textus.data.token_dataset import TokenDataset, in_memory_dataset


@dataclass(frozen=True)
class IdPair:
    """The ids of a source and of its target, both without their end."""

    source: list[int]
    target: list[int]


@dataclass(frozen=True)
class PairFormat:
    """How a model is given pairs: `start_id` begins a target, `end_id` ends both texts. `begin` are the ids before a
    source that is read as part of the text (None: it is read apart). `context_length` limits each text, or both
    together; None: no limit.
    """

    end_id: int
    start_id: int
    begin: tuple[int, ...] | None
    context_length: int | None

    @property
    def is_causal(self) -> bool:
        """Whether source and target are one text."""
        return self.begin is not None

    def prompt(self, source: list[int]) -> list[int]:
        """The ids before a target."""
        return [self.start_id] if self.begin is None else [*self.begin, *source, self.end_id]

    def fit(self, pair: IdPair, most_source: int | None = None) -> tuple[IdPair, int, int]:
        """The pair cut to the context, and how many ids of its source and its target were cut off. A target keeps
        a place for its end; of one text for both, a source has at most half where its target needs the rest.
        """
        if self.context_length is None:
            return pair, 0, 0
        if self.begin is None:
            limit = self.context_length - 1
            source, target = pair.source[:limit], pair.target[:limit]
        else:
            space = self.context_length - len(self.begin) - 1
            n_source = max(space // 2, space - len(pair.target) - 1) if most_source is None else most_source
            source = pair.source[: max(0, n_source)]
            target = pair.target[: max(0, space - len(source))]
        return IdPair(source, target), len(pair.source) - len(source), len(pair.target) - len(target)


def pair_loader(
    pairs: Sequence[IdPair], form: PairFormat, *, batch_size: int, seed: int, shuffle: bool = True
) -> BucketLoader | PromptLoader:
    """The batches of these pairs, rows of like length together. Raises DataError for no pair."""
    if not pairs:
        raise DataError("empty_data", "there is no pair to train on")
    size = min(batch_size, len(pairs))
    if form.is_causal:
        return PromptLoader(pairs, form, batch_size=size, seed=seed, shuffle=shuffle)
    targets, sources = ([getattr(pair, side) for pair in pairs] for side in ("target", "source"))
    longest = 1 + max(len(ids) for ids in (*targets, *sources))
    return BucketLoader(
        as_dataset(targets, form.end_id), as_dataset(sources, form.end_id), batch_size=size,
        context_length=max(2, longest), seed=seed, start_id=form.start_id, shuffle=shuffle,
    )  # fmt: skip


def as_dataset(texts: Sequence[list[int]], end_id: int) -> TokenDataset:
    """Texts as one stream of ids, each followed by its end."""
    starts = list(accumulate((len(ids) + 1 for ids in texts), initial=0))[:-1]
    return in_memory_dataset([end_id, *(id for ids in texts for id in (*ids, end_id))], starts)


class PromptLoader:
    """Batches for a family that reads from left to right: the source, its end, the target and its end in one row; only
    the target and its end are learned.
    """

    def __init__(
        self, pairs: Sequence[IdPair], form: PairFormat, *, batch_size: int, seed: int, shuffle: bool
    ) -> None:
        self.form, self.batch_size, self.shuffle = form, batch_size, shuffle
        self.prompts = [np.asarray(form.prompt(pair.source)) for pair in pairs]
        self.targets = [np.asarray([*pair.target, form.end_id]) for pair in pairs]
        self.lengths = np.asarray([len(p) + len(t) for p, t in zip(self.prompts, self.targets, strict=True)])
        self.sampler = LengthGroupedSampler(len(pairs), batch_size, seed, self._by_length)
        self._order = self._by_length(np.arange(len(pairs)))

    @property
    def n_batches(self) -> int:
        """Batches in one epoch."""
        return self.sampler.n_batches if self.shuffle else -(-len(self.prompts) // self.batch_size)

    @property
    def tokens_per_step(self) -> int:
        """Ids of a batch on average, those of sources included."""
        return max(1, round(float(self.lengths.mean()) * self.batch_size))

    def batch(self, step: int) -> Batch:
        """The batch of a step, from 0."""
        if self.shuffle:
            rows = self.sampler.rows_at(step)
        else:
            first = (step % self.n_batches) * self.batch_size
            rows = self._order[first : first + self.batch_size]
        whole = [np.concatenate([self.prompts[int(row)], self.targets[int(row)]]) for row in rows]
        ids, _ = pad_rows([row[:-1] for row in whole], self.form.end_id)
        targets, real = pad_rows([row[1:] for row in whole], self.form.end_id)
        weights = real.float()
        for number, row in enumerate(rows):
            weights[number, : len(self.prompts[int(row)]) - 1] = 0.0
        mask = None if bool(real.all()) else real
        return Batch(ids=ids, targets=targets, weights=weights, mask=mask, position=step)

    def _by_length(self, rows: Ids) -> Ids:
        return rows[np.argsort(self.lengths[rows], kind="stable")]

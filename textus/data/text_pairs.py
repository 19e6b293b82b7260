"""Batches of pairs of texts, in memory: a target to be written after a source was read.

A family that reads a source apart has it in `Batch.source`; for one that reads from left to right the source comes
first in `Batch.ids`, followed by the end of text, and only the target has weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from textus.core.errors import DataError
from textus.data.bucketing import BucketLoader
from textus.data.token_dataset import TokenDataset, in_memory_dataset
from textus.data.weighted_rows import WeightedRow, WeightedRowLoader


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
) -> BucketLoader | WeightedRowLoader:
    """The batches of these pairs, rows of like length together. Raises DataError for no pair."""
    if not pairs:
        raise DataError("empty_data", "there is no pair to train on")
    size = min(batch_size, len(pairs))
    if form.is_causal:
        rows = [weighted_row(pair, form) for pair in pairs]
        return WeightedRowLoader(rows, form.end_id, batch_size=size, seed=seed, shuffle=shuffle)
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


def weighted_row(pair: IdPair, form: PairFormat) -> WeightedRow:
    """A pair for a family that reads from left to right: the source, its end, the target and its end; only the target
    and its end are learned.
    """
    prompt, target = form.prompt(pair.source), [*pair.target, form.end_id]
    return WeightedRow([*prompt, *target], [False] * len(prompt) + [True] * len(target))

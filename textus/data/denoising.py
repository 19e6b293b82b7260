"""Pairs made of plain text by hiding spans of it (T5)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from textus.core.errors import UsageError
from textus.core.names import unknown_name_error
from textus.data.bucketing import BucketLoader, Ids
from textus.data.token_dataset import TokenDataset

OBJECTIVES = ("span", "prefix")


class DenoisingLoader(BucketLoader):
    """Pairs made of documents without a source, anew each time a row is read.

    `span` (Raffel et al. 2020, T5): about 15 % of the ids, in spans of 3 on average, are missing from the source;
    `mask_id` represents each span, and the target lists them, each after `mask_id`. (T5 numbers its spans; here their
    order does.) `prefix`: the source is the beginning of the row, up to a random place, and the target is the rest.

    Raises UsageError: `span` with a `mask_id` that already ends texts.
    """

    def __init__(self, store: TokenDataset, *, objective: str, mask_id: int, **sizes: Any) -> None:
        if objective not in OBJECTIVES:
            raise unknown_name_error("objective", objective, OBJECTIVES)
        if (longest := sizes["context_length"]) < 3:  # what represents the missing needs space of its own
            raise UsageError(
                "out_of_range", f"context_length {longest} must be 3 or more to make a pair of a text"
            )
        super().__init__(store, **{**sizes, "context_length": longest - 1})
        if objective == "span" and mask_id == self.end_id:
            raise UsageError(
                "unsupported_tokenizer",
                "this tokenizer has no special token to represent a missing span; train with"
                " --set model.objective=prefix, or with a tokenizer made by `textus tokenizer train`",
            )
        self.objective, self.mask_id = objective, mask_id

    def row(self, number: int, step: int) -> tuple[Ids | None, Ids]:
        _, ids = super().row(number, step)
        random = self.sampler.rng("corrupt", step, number)
        if self.objective == "prefix":
            cut = int(random.integers(len(ids)))
            return np.append(ids[:cut], self.end_id), ids[cut:]
        whole = ids[:-1] if ids[-1] == self.end_id else ids
        return span_corrupt(whole, random, self.mask_id, self.end_id)


NOISE_SHARE = 0.15


MEAN_SPAN = 3.0


def span_corrupt(ids: Ids, random: np.random.Generator, mask_id: int, end_id: int) -> tuple[Ids, Ids]:
    """Source and target of span corruption; both end with `end_id`."""
    noise = noise_mask(len(ids), random)
    first = noise & ~np.append(False, noise[:-1])  # where a span begins
    source = np.where(first, mask_id, ids)[~noise | first]
    at = np.flatnonzero(noise)
    target = np.insert(ids[at], np.flatnonzero(first[at]), mask_id)
    return np.append(source, end_id), np.append(target, end_id)


def noise_mask(length: int, random: np.random.Generator) -> NDArray[np.bool_]:
    """Which of `length` ids are missing: spans of random lengths, the text before each as random."""
    n_noise = min(max(round(length * NOISE_SHARE), 1), max(length - 1, 0))
    if n_noise == 0:
        return np.zeros(length, dtype=bool)
    n_spans = min(max(round(n_noise / MEAN_SPAN), 1), length - n_noise)
    parts = np.stack(
        [_random_partition(length - n_noise, n_spans, random), _random_partition(n_noise, n_spans, random)], 1
    )
    return np.repeat(np.tile([False, True], n_spans), parts.ravel())


def _random_partition(total: int, n: int, random: np.random.Generator) -> Ids:
    """`total` in `n` parts of at least 1, all divisions as likely."""
    cuts = np.sort(random.choice(total - 1, n - 1, replace=False)) + 1 if n > 1 else np.zeros(0, dtype=int)
    return np.diff(np.concatenate([[0], cuts, [total]]))

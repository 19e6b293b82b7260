"""Figures of search: recall among the first k, reciprocal rank, and nDCG, with intervals by bootstrap over queries.

nDCG: Järvelin and Kekäläinen 2002, gain over log2 of the rank plus one, as scikit-learn's `ndcg_score` has it. A
query's list may be shorter than k; what is not in it was not found.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from textus.core.errors import UsageError
from textus.metrics.resampling import estimate

CUTS = (1, 5, 10)

Gains = Mapping[Hashable, float]
"""What is right for a query, and how much each is worth (above zero)."""


def recall(found: Sequence[Hashable], right: Gains, k: int) -> float:
    """The share of what is right among the first k."""
    return len(set(found[:k]) & right.keys()) / len(right)


def reciprocal_rank(found: Sequence[Hashable], right: Gains, k: int) -> float:
    """One over the place, from 1, of the first that is right; 0 where none of the first k is."""
    return next((1 / place for place, each in enumerate(found[:k], 1) if each in right), 0.0)


def ndcg(found: Sequence[Hashable], right: Gains, k: int) -> float:
    """Discounted gain of the first k over that of the best order."""
    best = sorted(right.values(), reverse=True)[:k]
    gained = sum(right.get(each, 0.0) / np.log2(place + 1) for place, each in enumerate(found[:k], 1))
    return float(gained / sum(gain / np.log2(place + 1) for place, gain in enumerate(best, 1)))


def ranking_scores(
    found: Sequence[Sequence[Hashable]], right: Sequence[Gains], *, seed: int = 0, intervals: bool = True
) -> dict[str, Any]:
    """MRR@10, nDCG@10 and recall@1, 5 and 10 over queries. UsageError where a query has nothing that is right."""
    if not found or not all(right):
        raise UsageError("empty_data", "figures of search need queries, each with something that is right")
    pairs = list(zip(found, right, strict=True))
    each = {
        "mrr@10": [reciprocal_rank(list_, gains, 10) for list_, gains in pairs],
        "ndcg@10": [ndcg(list_, gains, 10) for list_, gains in pairs],
        **{f"recall@{k}": [recall(list_, gains, k) for list_, gains in pairs] for k in CUTS},
    }
    return {name: estimate(values, seed=seed, intervals=intervals) for name, values in each.items()}

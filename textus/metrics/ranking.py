"""Search metrics: recall@k, reciprocal rank and nDCG, with intervals by bootstrap over queries.

nDCG: Järvelin and Kekäläinen 2002, gain over log2 of the rank plus one, as in scikit-learn's `ndcg_score`. A query's
results may be fewer than k; what is missing counts as not found.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from textus.core.errors import UsageError
from textus.metrics.resampling import estimate

CUTS = (1, 5, 10)

Gains = Mapping[Hashable, float]
"""The relevant documents of a query, and the gain of each (above zero)."""


def recall(results: Sequence[Hashable], relevant: Gains, k: int) -> float:
    """The share of relevant documents among the first k results."""
    return len(set(results[:k]) & relevant.keys()) / len(relevant)


def reciprocal_rank(results: Sequence[Hashable], relevant: Gains, k: int) -> float:
    """One over the rank of the first relevant result; 0 if none of the first k is."""
    return next((1 / rank for rank, result in enumerate(results[:k], 1) if result in relevant), 0.0)


def ndcg(results: Sequence[Hashable], relevant: Gains, k: int) -> float:
    """Discounted gain of the first k results over that of the best order."""

    def discounted(gains: Iterable[float]) -> float:
        return sum(gain / np.log2(rank + 1) for rank, gain in enumerate(gains, 1))

    best = sorted(relevant.values(), reverse=True)[:k]
    return float(discounted(relevant.get(result, 0.0) for result in results[:k]) / discounted(best))


def ranking_scores(
    results: Sequence[Sequence[Hashable]], relevant: Sequence[Gains], *, seed: int = 0, intervals: bool = True
) -> dict[str, Any]:
    """MRR@10, nDCG@10 and recall@1, 5 and 10 over queries. UsageError for a query without relevant documents."""
    if not results or not all(relevant):
        raise UsageError("empty_data", "search metrics need queries, each with a relevant document")
    pairs = list(zip(results, relevant, strict=True))
    values = {
        "mrr@10": [reciprocal_rank(*pair, 10) for pair in pairs],
        "ndcg@10": [ndcg(*pair, 10) for pair in pairs],
        **{f"recall@{k}": [recall(*pair, k) for pair in pairs] for k in CUTS},
    }
    return {name: estimate(column, seed=seed, intervals=intervals) for name, column in values.items()}

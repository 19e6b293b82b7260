"""Metrics of numbers (Pearson, Spearman, R², errors) and of ratings (quadratic weighted kappa), as in scipy and
scikit-learn, with intervals by bootstrap over texts.

Shapes: N texts, C targets. A resample is the number of times each text was drawn, so every metric takes weights (N,).
Sources: Spearman 1904 (ties get the mean of their ranks); Cohen 1968 (weighted kappa).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textus.metrics.resampling import interval

RESAMPLES = 1000

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


Metrics = Callable[[Floats], dict[str, float]]
"""Metrics as a function of the weight of each text (N,)."""


def correlation(first: Floats, second: Floats, weights: Floats) -> float:
    """Pearson's r of weighted texts; NaN if one side is constant."""
    used = weights > 0
    if np.ptp(first[used]) == 0 or np.ptp(second[used]) == 0:
        return float("nan")
    a, b = (values - np.average(values, weights=weights) for values in (first, second))
    return float((weights * a * b).sum() / np.sqrt((weights * a * a).sum() * (weights * b * b).sum()))


def midranks(groups: Ints, weights: Floats) -> Floats:
    """Ranks of weighted texts from 1; `groups` (N,) number their values by size, and equal ones share the mean rank."""
    sizes = np.bincount(groups, weights)
    ranks: Floats = (np.cumsum(sizes) - sizes + (sizes + 1) / 2)[groups]
    return ranks


def regression_metrics(gold: Floats, predicted: Floats) -> Metrics:
    """R², Pearson, Spearman and errors."""
    groups = [np.unique(values, return_inverse=True)[1] for values in (gold, predicted)]
    error = predicted - gold

    def metrics(weights: Floats) -> dict[str, float]:
        first, second = (midranks(group, weights) for group in groups)
        squared = float(np.average(error**2, weights=weights))
        variance = np.average((gold - np.average(gold, weights=weights)) ** 2, weights=weights)
        constant = np.ptp(gold[weights > 0]) == 0
        return {
            "r2": float("nan") if constant else 1 - squared / float(variance),
            "pearson": correlation(gold, predicted, weights),
            "spearman": correlation(first, second, weights),
            "mae": float(np.average(np.abs(error), weights=weights)),
            "rmse": squared**0.5,
        }

    return metrics


def rating_metrics(gold: Ints, predicted: Ints, ratings: Floats) -> Metrics:
    """Quadratic weighted kappa, accuracy and mean error of ratings, given by their indices (N,)."""
    n_classes = len(ratings)
    distance = (np.arange(n_classes)[:, None] - np.arange(n_classes)) ** 2
    error = np.abs(ratings[:, None] - ratings)

    def metrics(weights: Floats) -> dict[str, float]:
        table = np.bincount(gold * n_classes + predicted, weights, n_classes**2).reshape(n_classes, n_classes)
        chance = np.outer(table.sum(1), table.sum(0)) / table.sum()
        expected = (distance * chance).sum()
        return {
            "quadratic_kappa": 1 - float((distance * table).sum() / expected) if expected else float("nan"),
            "accuracy": float(np.diagonal(table).sum() / table.sum()),
            "mae": float((error * table).sum() / table.sum()),
        }

    return metrics


def with_intervals(
    metrics: Metrics, n: int, first: str, *, seed: int = 0, intervals: bool = True
) -> dict[str, Any]:
    """Every metric with its interval over `n` texts (none without `intervals`), `first` before the others; those that
    are undefined on these texts are omitted and listed under `undefined`.
    """
    values, random = metrics(np.ones(n)), np.random.default_rng(seed)
    resamples = [
        metrics(random.multinomial(n, np.full(n, 1 / n)).astype(np.float64))
        for _ in range(RESAMPLES if n > 1 and intervals else 0)
    ] or [values]
    scores: dict[str, Any] = {}
    undefined = []
    for name in sorted(values, key=lambda name: name != first):
        if np.isnan(values[name]):
            undefined.append(name)
        elif not intervals:
            scores[name] = {"value": values[name], "n": n}
        else:
            low, high = np.nanquantile([resample[name] for resample in resamples], [0.025, 0.975])
            scores[name] = interval((values[name], float(low), float(high)), n)
    return {**scores, "undefined": undefined} if undefined else scores


def regression_scores(
    gold: ArrayLike, predicted: ArrayLike, first: str, *, seed: int = 0, intervals: bool = True
) -> dict[str, Any]:
    """The metrics of numbers (N,); see `with_intervals`."""
    truth, values = np.asarray(gold, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    return with_intervals(
        regression_metrics(truth, values), len(truth), first, seed=seed, intervals=intervals
    )


def multi_target_scores(
    gold: Floats, predicted: Floats, names: Sequence[str], *, seed: int = 0, intervals: bool = True
) -> dict[str, Any]:
    """The mean R² of several numbers per text (N, C), and the metrics of each as a row of `targets`."""
    columns = [regression_metrics(*pair) for pair in zip(gold.T, predicted.T, strict=True)]

    def mean_r2(weights: Floats) -> dict[str, float]:
        return {"r2": float(np.mean([metrics(weights)["r2"] for metrics in columns]))}

    mean = with_intervals(mean_r2, len(gold), "r2", seed=seed, intervals=intervals)
    targets = []
    for name, metrics in zip(names, columns, strict=True):
        values = metrics(np.ones(len(gold)))
        defined = {key: value for key, value in values.items() if not np.isnan(value)}
        targets.append({"target": name, **defined, "n": len(gold)})
    return {**mean, "targets": targets}


def rating_scores(
    gold: Ints, predicted: Ints, known: Floats, *, seed: int = 0, intervals: bool = True
) -> dict[str, Any]:
    """The metrics of ratings, as indices (N,) into `known`; see `with_intervals`."""
    metrics = rating_metrics(gold, predicted, known)
    return with_intervals(metrics, len(gold), "quadratic_kappa", seed=seed, intervals=intervals)

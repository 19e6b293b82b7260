"""Figures of numbers: Pearson, Spearman, R², errors, and of ratings quadratic weighted kappa; as scipy and scikit-learn
have them, with intervals by bootstrap over texts.

Shapes: N texts. A resample is how often each text was drawn, so that every figure is one of weighted texts. Sources:
Spearman 1904 (ties get the mean of their ranks); Cohen 1968 (weighted kappa).
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


def correlation(first: Floats, second: Floats, weights: Floats) -> float:
    """Pearson's r of weighted texts; not a number where one side has a single value."""
    drawn = weights > 0
    if np.ptp(first[drawn]) == 0 or np.ptp(second[drawn]) == 0:
        return float("nan")
    a, b = (each - np.average(each, weights=weights) for each in (first, second))
    return float((weights * a * b).sum() / np.sqrt((weights * a * a).sum() * (weights * b * b).sum()))


def midranks(groups: Ints, weights: Floats) -> Floats:
    """Ranks of weighted texts from 1; `groups` (N,) number their values by size, and equal ones share the mean rank."""
    sizes = np.bincount(groups, weights)
    found: Floats = (np.cumsum(sizes) - sizes + (sizes + 1) / 2)[groups]
    return found


def regression_metrics(gold: Floats, guess: Floats) -> Callable[[Floats], dict[str, float]]:
    """All figures, as a function of what each text weighs."""
    groups = [np.unique(each, return_inverse=True)[1] for each in (gold, guess)]
    error = guess - gold

    def figures(weights: Floats) -> dict[str, float]:
        first, second = (midranks(each, weights) for each in groups)
        squared = float(np.average(error**2, weights=weights))
        spread = np.average((gold - np.average(gold, weights=weights)) ** 2, weights=weights)
        same = np.ptp(gold[weights > 0]) == 0
        return {
            "r2": float("nan") if same else 1 - squared / float(spread),
            "pearson": correlation(gold, guess, weights),
            "spearman": correlation(first, second, weights),
            "mae": float(np.average(np.abs(error), weights=weights)),
            "rmse": squared**0.5,
        }

    return figures


def rating_metrics(gold: Ints, guess: Ints, ratings: Floats) -> Callable[[Floats], dict[str, float]]:
    """Kappa with squared distances of places, accuracy and mean error, as a function of what each text weighs."""
    n_classes = len(ratings)
    apart = (np.arange(n_classes)[:, None] - np.arange(n_classes)) ** 2
    error = np.abs(ratings[:, None] - ratings)

    def figures(weights: Floats) -> dict[str, float]:
        table = np.bincount(gold * n_classes + guess, weights, n_classes**2).reshape(n_classes, n_classes)
        chance = np.outer(table.sum(1), table.sum(0)) / table.sum()
        by_chance = (apart * chance).sum()
        return {
            "quadratic_kappa": 1 - float((apart * table).sum() / by_chance) if by_chance else float("nan"),
            "accuracy": float(np.diagonal(table).sum() / table.sum()),
            "mae": float((error * table).sum() / table.sum()),
        }

    return figures


def with_intervals(
    figures: Callable[[Floats], dict[str, float]],
    n: int,
    first: str,
    *,
    seed: int = 0,
    intervals: bool = True,
) -> dict[str, Any]:
    """Every figure with its interval over `n` texts (none without `intervals`), `first` before the others; those that
    are not defined on these texts are left out and named under `undefined`.
    """
    found, random = figures(np.ones(n)), np.random.default_rng(seed)
    drawn = [
        figures(random.multinomial(n, np.full(n, 1 / n)).astype(np.float64))
        for _ in range(RESAMPLES if n > 1 and intervals else 0)
    ] or [found]
    told: dict[str, Any] = {}
    undefined = []
    for name in sorted(found, key=lambda each: each != first):
        if np.isnan(found[name]):
            undefined.append(name)
            continue
        if not intervals:
            told[name] = {"value": found[name], "n": n}
            continue
        low, high = np.nanquantile([each[name] for each in drawn], [0.025, 0.975])
        told[name] = interval((found[name], float(low), float(high)), n)
    return {**told, "undefined": undefined} if undefined else told


def regression_scores(
    gold: ArrayLike, guess: ArrayLike, first: str, *, seed: int = 0, intervals: bool = True
) -> dict[str, Any]:
    """The figures of numbers; see `with_intervals`."""
    truth, said = np.asarray(gold, dtype=np.float64), np.asarray(guess, dtype=np.float64)
    return with_intervals(regression_metrics(truth, said), len(truth), first, seed=seed, intervals=intervals)


def multi_target_scores(
    gold: Floats, guess: Floats, names: Sequence[str], *, seed: int = 0, intervals: bool = True
) -> dict[str, Any]:
    """The mean R² of several numbers a text (N, C), and the figures of each as a row of `targets`."""
    each = [regression_metrics(truth, said) for truth, said in zip(gold.T, guess.T, strict=True)]
    mean = with_intervals(
        lambda weights: {"r2": float(np.mean([one(weights)["r2"] for one in each]))},
        len(gold),
        "r2",
        seed=seed,
        intervals=intervals,
    )
    weights = np.ones(len(gold))
    rows = [{"target": name, **one(weights), "n": len(gold)} for name, one in zip(names, each, strict=True)]
    shown = [{name: value for name, value in row.items() if value == value} for row in rows]
    return {**mean, "targets": shown}


def rating_scores(
    gold: Ints, guess: Ints, known: Floats, *, seed: int = 0, intervals: bool = True
) -> dict[str, Any]:
    """The figures of ratings, as places (N,) among those `known`; see `with_intervals`."""
    figures = rating_metrics(gold, guess, known)
    return with_intervals(figures, len(gold), "quadratic_kappa", seed=seed, intervals=intervals)

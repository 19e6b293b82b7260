"""Figures of classification, equal to scikit-learn's; intervals by bootstrap over texts.

Shapes: N texts, C classes. A gold class of -1 is one the model does not know: it is in no class, and every answer to
it is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textus.metrics.calibration import brier_scores, calibration_error, reliability_bins
from textus.metrics.resampling import estimate

RESAMPLES = 1000
LARGEST_TABLE = 30
"""Classes up to which a confusion matrix is told whole."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def confusion(gold: Ints, guess: Ints, n_classes: int, weights: Floats | None = None) -> Floats:
    """How often gold class i was called j: (C + 1, C), the last row those of no known class."""
    rows = np.where(gold < 0, n_classes, gold)
    flat = np.bincount(rows * n_classes + guess, weights, (n_classes + 1) * n_classes)
    return flat.reshape(n_classes + 1, n_classes).astype(np.float64)


@dataclass(frozen=True)
class ClassCounts:
    """How often each class was answered rightly, was answered, and is the right one: (C,) each. No table of all pairs:
    of 5,000 classes that takes 200 MB, a thousand times over in a bootstrap.
    """

    right: Floats
    predicted: Floats
    real: Floats

    @classmethod
    def count(cls, gold: Ints, guess: Ints, n_classes: int, weights: Floats | None = None) -> ClassCounts:
        """From the classes of N texts, which weigh one each or `weights` (N,)."""
        weights = np.ones(len(gold)) if weights is None else weights
        hit, known = gold == guess, gold >= 0

        def count(places: Ints, values: Floats) -> Floats:
            return np.bincount(places, values, n_classes).astype(np.float64)

        return cls(count(gold[hit], weights[hit]), count(guess, weights), count(gold[known], weights[known]))

    def precision_recall_f1(self) -> tuple[Floats, Floats, Floats]:
        """Of each class (C,); 0 where nothing was called so, or nothing is so."""
        right, called, real, both = self.right, self.predicted, self.real, self.predicted + self.real
        precision = np.divide(right, called, out=np.zeros(len(right)), where=called > 0)
        recall = np.divide(right, real, out=np.zeros(len(right)), where=real > 0)
        f1 = np.divide(2 * right, both, out=np.zeros(len(right)), where=both > 0)
        return precision, recall, f1

    def macro_f1(self) -> float:
        """The mean F1 of the classes that are there or were answered, as scikit-learn takes it."""
        seen = (self.predicted + self.real) > 0
        return float(self.precision_recall_f1()[2][seen].mean()) if seen.any() else 0.0


def single_label_scores(
    gold: Ints, probabilities: Floats, labels: Sequence[str], *, seed: int = 0, intervals: bool = True
) -> dict[str, Any]:
    """Accuracy, macro F1, Brier score, nats with intervals, calibration, figures of each class, the confusion table.
    Without `intervals` the figures alone.
    """
    n, n_classes = probabilities.shape
    guess = probabilities.argmax(1)
    right = guess == gold
    counts = ClassCounts.count(gold, guess, n_classes)
    known = gold >= 0
    nats = -np.log(np.clip(probabilities[np.arange(n), np.where(known, gold, 0)], 1e-12, None))[known]
    how: dict[str, Any] = {"seed": seed, "intervals": intervals}
    found: dict[str, Any] = {
        "accuracy": estimate(right, **how),
        "macro_f1": {"value": counts.macro_f1(), "n": n},
        "brier": estimate(brier_scores(gold, probabilities), **how),
    }
    if len(nats):
        found["nats"] = estimate(nats, **how)
    if not intervals:
        return found
    low, high = macro_f1_interval(gold, guess, n_classes, seed)
    found["macro_f1"] = {"value": counts.macro_f1(), "low": low, "high": high, "n": n}
    found["calibration_error"] = calibration_error(probabilities.max(1), right)
    found["reliability"] = reliability_bins(probabilities.max(1), right)
    found["classes"] = class_scores(counts, labels)
    if n_classes <= LARGEST_TABLE:
        table = confusion(gold, guess, n_classes)
        found["confusion"] = table[: n_classes + (not known.all())].astype(int).tolist()
    return found


def macro_f1_interval(gold: Ints, guess: Ints, n_classes: int, seed: int) -> tuple[float, float]:
    """Its 95 % percentile interval by bootstrap over N texts; of one text its value twice."""
    n, random = len(gold), np.random.default_rng(seed)
    drawn = [
        ClassCounts.count(
            gold, guess, n_classes, random.multinomial(n, np.full(n, 1 / n)).astype(np.float64)
        ).macro_f1()
        for _ in range(RESAMPLES if n > 1 else 0)
    ] or [ClassCounts.count(gold, guess, n_classes).macro_f1()]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def multi_label_scores(
    gold: NDArray[np.bool_],
    probabilities: Floats,
    labels: Sequence[str],
    unseen: Ints,
    *,
    seed: int = 0,
    intervals: bool = True,
) -> dict[str, Any]:
    """Micro and macro F1 at a probability of a half, exact matches, and each class's figures. `unseen` (N,) counts each
    text's labels that are not among the classes: they are missed.
    """
    answer = probabilities >= 0.5
    hit, missed, wrong = gold & answer, gold & ~answer, ~gold & answer
    true, both = 2.0 * hit.sum(1), 2.0 * hit.sum(1) + missed.sum(1) + wrong.sum(1) + unseen
    exact = (gold == answer).all(1) & (unseen == 0)
    right, called, real = hit.sum(0), answer.sum(0), gold.sum(0)
    f1 = np.divide(2.0 * right, called + real, out=np.zeros(len(labels)), where=called + real > 0)
    figures: dict[str, Any] = {}
    if both.sum() > 0:
        figures["micro_f1"] = estimate(true, both, seed=seed, intervals=intervals)
    precision = np.divide(right, called, out=np.zeros(len(labels)), where=called > 0)
    recall = np.divide(right, real, out=np.zeros(len(labels)), where=real > 0)
    rows = zip(labels, precision, recall, f1, real, strict=True)
    return {
        **figures,
        "exact_match": estimate(exact, seed=seed, intervals=intervals),
        "macro_f1": float(f1.mean()),
        "classes": [
            {"label": name, "precision": float(p), "recall": float(r), "f1": float(f), "n": int(count)}
            for name, p, r, f, count in rows
        ],
    }


def class_scores(counts: ClassCounts, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall, F1 and number of each class."""
    columns = zip(labels, *counts.precision_recall_f1(), counts.real, strict=True)
    return [
        {"label": name, "precision": float(p), "recall": float(r), "f1": float(f), "n": int(count)}
        for name, p, r, f, count in columns
    ]

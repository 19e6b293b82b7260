"""Classification metrics, equal to scikit-learn's; intervals by bootstrap over texts.

Shapes: N texts, C classes. A gold class of -1 is one that the model does not know: it belongs to no class, and every
prediction for it is wrong.
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
"""Most classes for which the confusion matrix is reported."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def confusion(gold: Ints, predicted: Ints, n_classes: int) -> Ints:
    """How often gold class i was predicted as j: (C + 1, C), the last row for unknown gold classes."""
    rows = np.where(gold < 0, n_classes, gold)
    flat = np.bincount(rows * n_classes + predicted, minlength=(n_classes + 1) * n_classes)
    return flat.reshape(n_classes + 1, n_classes)


@dataclass(frozen=True)
class ClassCounts:
    """Correct predictions, predictions and gold labels of each class: (C,) each.

    Not a C × C table: for 5,000 classes that takes 200 MB, a thousand times over in a bootstrap.
    """

    correct: Floats
    predicted: Floats
    gold: Floats

    @classmethod
    def count(cls, gold: Ints, predicted: Ints, n_classes: int, weights: Floats | None = None) -> ClassCounts:
        """From gold and predicted classes (N,), each with weight one or `weights` (N,)."""
        weights = np.ones(len(gold)) if weights is None else weights
        hit, known = gold == predicted, gold >= 0

        def total(classes: Ints, values: Floats) -> Floats:
            return np.bincount(classes, values, n_classes).astype(np.float64)

        return cls(
            total(gold[hit], weights[hit]), total(predicted, weights), total(gold[known], weights[known])
        )

    def precision_recall_f1(self) -> tuple[Floats, Floats, Floats]:
        """Of each class (C,); 0 for a class without predictions or without gold labels."""

        def ratio(top: Floats, bottom: Floats) -> Floats:
            return np.divide(top, bottom, out=np.zeros(len(top)), where=bottom > 0)

        both = self.predicted + self.gold
        return (
            ratio(self.correct, self.predicted),
            ratio(self.correct, self.gold),
            ratio(2 * self.correct, both),
        )

    def macro_f1(self) -> float:
        """The mean F1 of the classes that occur in gold labels or predictions, as in scikit-learn."""
        seen = (self.predicted + self.gold) > 0
        return float(self.precision_recall_f1()[2][seen].mean()) if seen.any() else 0.0

    def by_class(self, labels: Sequence[str]) -> list[dict[str, Any]]:
        """Precision, recall, F1 and number of gold labels of each class."""
        columns = zip(labels, *self.precision_recall_f1(), self.gold, strict=True)
        return [
            {"label": name, "precision": float(p), "recall": float(r), "f1": float(f), "n": int(n)}
            for name, p, r, f, n in columns
        ]


def single_label_scores(
    gold: Ints, probabilities: Floats, labels: Sequence[str], *, seed: int = 0, intervals: bool = True
) -> dict[str, Any]:
    """Accuracy, macro F1, Brier score and negative log-likelihood with intervals, calibration, each class's metrics,
    the confusion matrix. `gold` (N,), `probabilities` (N, C). Without `intervals` only the first four values.
    """
    n, n_classes = probabilities.shape
    predicted = probabilities.argmax(1)
    correct = predicted == gold
    counts = ClassCounts.count(gold, predicted, n_classes)
    known = gold >= 0
    nats = -np.log(np.clip(probabilities[np.arange(n), np.where(known, gold, 0)], 1e-12, None))[known]
    options: dict[str, Any] = {"seed": seed, "intervals": intervals}
    scores: dict[str, Any] = {
        "accuracy": estimate(correct, **options),
        "macro_f1": {"value": counts.macro_f1(), "n": n},
        "brier": estimate(brier_scores(gold, probabilities), **options),
    }
    if len(nats):
        scores["nats"] = estimate(nats, **options)
    if not intervals:
        return scores
    low, high = macro_f1_interval(gold, predicted, n_classes, seed)
    scores["macro_f1"] = {"value": counts.macro_f1(), "low": low, "high": high, "n": n}
    scores["calibration_error"] = calibration_error(probabilities.max(1), correct)
    scores["reliability"] = reliability_bins(probabilities.max(1), correct)
    scores["classes"] = counts.by_class(labels)
    if n_classes <= LARGEST_TABLE:
        scores["confusion"] = confusion(gold, predicted, n_classes)[: n_classes + (not known.all())].tolist()
    return scores


def macro_f1_interval(gold: Ints, predicted: Ints, n_classes: int, seed: int) -> tuple[float, float]:
    """The 95 % percentile interval of macro F1 by bootstrap over N texts; of one text its value twice."""
    n, random = len(gold), np.random.default_rng(seed)
    values = [
        ClassCounts.count(
            gold, predicted, n_classes, random.multinomial(n, np.full(n, 1 / n)).astype(np.float64)
        ).macro_f1()
        for _ in range(RESAMPLES if n > 1 else 0)
    ] or [ClassCounts.count(gold, predicted, n_classes).macro_f1()]
    low, high = np.quantile(values, [0.025, 0.975])
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
    """Micro and macro F1 at a probability of 0.5, exact match, and each class's metrics.

    `gold` and `probabilities` (N, C). `unseen` (N,) counts each text's gold labels that the model does not know; they
    count as missed.
    """
    predicted = probabilities >= 0.5
    hit = gold & predicted
    both = gold.sum(1) + predicted.sum(1) + unseen
    exact = (gold == predicted).all(1) & (unseen == 0)
    counts = ClassCounts(*(part.sum(0).astype(np.float64) for part in (hit, predicted, gold)))
    scores: dict[str, Any] = {}
    if both.sum() > 0:
        scores["micro_f1"] = estimate(2.0 * hit.sum(1), both, seed=seed, intervals=intervals)
    return {
        **scores,
        "exact_match": estimate(exact, seed=seed, intervals=intervals),
        "macro_f1": float(counts.precision_recall_f1()[2].mean()),
        "classes": counts.by_class(labels),
    }

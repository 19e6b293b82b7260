"""Figures of classification, equal to scikit-learn's; intervals by bootstrap over texts.

Shapes: N texts, C classes. A gold class of -1 is one the model does not know: it is in no class, and every answer to
it is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textus.metrics import bootstrap, interval
from textus.metrics.calibration import brier, calibration_error, reliability

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


def precision_recall_f1(table: Floats) -> tuple[Floats, Floats, Floats]:
    """Of each class (C,), from a confusion table; 0 where nothing was called so, or nothing is so."""
    n_classes = table.shape[1]
    right = np.diagonal(table[:n_classes])
    called, real = table.sum(0), table[:n_classes].sum(1)
    precision = np.divide(right, called, out=np.zeros(n_classes), where=called > 0)
    recall = np.divide(right, real, out=np.zeros(n_classes), where=real > 0)
    both = called + real
    f1 = np.divide(2 * right, both, out=np.zeros(n_classes), where=both > 0)
    return precision, recall, f1


def macro_f1(table: Floats) -> float:
    """The mean F1 of the classes that are there or were answered, as scikit-learn takes it."""
    n_classes = table.shape[1]
    seen = (table.sum(0) + table[:n_classes].sum(1)) > 0
    return float(precision_recall_f1(table)[2][seen].mean()) if seen.any() else 0.0


def single_label(
    gold: Ints, probabilities: Floats, labels: Sequence[str], *, seed: int = 0
) -> dict[str, Any]:
    """Accuracy, macro F1, Brier score, nats with intervals, calibration, figures of each class, the confusion table."""
    n, n_classes = probabilities.shape
    guess = probabilities.argmax(1)
    right = guess == gold
    table = confusion(gold, guess, n_classes)
    known = gold >= 0
    nats = -np.log(np.clip(probabilities[np.arange(n), np.where(known, gold, 0)], 1e-12, None))[known]
    random = np.random.default_rng(seed)
    drawn = [
        macro_f1(
            confusion(gold, guess, n_classes, random.multinomial(n, np.full(n, 1 / n)).astype(np.float64))
        )
        for _ in range(RESAMPLES if n > 1 else 0)
    ] or [macro_f1(table)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    found: dict[str, Any] = {
        "accuracy": interval(bootstrap(right, np.ones(n), seed=seed), n),
        "macro_f1": {"value": macro_f1(table), "low": float(low), "high": float(high), "n": n},
        "brier": interval(bootstrap(brier(gold, probabilities), np.ones(n), seed=seed), n),
        "calibration_error": calibration_error(probabilities.max(1), right),
        "reliability": reliability(probabilities.max(1), right),
        "classes": by_class(table, labels),
    }
    if len(nats):
        found["nats"] = interval(bootstrap(nats, np.ones(len(nats)), seed=seed), len(nats))
    if n_classes <= LARGEST_TABLE:
        found["confusion"] = table[: n_classes + (not known.all())].astype(int).tolist()
    return found


def multi_label(
    gold: NDArray[np.bool_], probabilities: Floats, labels: Sequence[str], unseen: Ints, *, seed: int = 0
) -> dict[str, Any]:
    """Micro and macro F1 at a probability of a half, exact matches, and each class's figures. `unseen` (N,) counts each
    text's labels that are not among the classes: they are missed.
    """
    answer = probabilities >= 0.5
    n = len(gold)
    hit, missed, wrong = gold & answer, gold & ~answer, ~gold & answer
    true, both = 2.0 * hit.sum(1), 2.0 * hit.sum(1) + missed.sum(1) + wrong.sum(1) + unseen
    exact = (gold == answer).all(1) & (unseen == 0)
    right, called, real = hit.sum(0), answer.sum(0), gold.sum(0)
    f1 = np.divide(2.0 * right, called + real, out=np.zeros(len(labels)), where=called + real > 0)
    figures: dict[str, Any] = {}
    if both.sum() > 0:
        figures["micro_f1"] = interval(bootstrap(true, both, seed=seed), n)
    precision = np.divide(right, called, out=np.zeros(len(labels)), where=called > 0)
    recall = np.divide(right, real, out=np.zeros(len(labels)), where=real > 0)
    rows = zip(labels, precision, recall, f1, real, strict=True)
    return {
        **figures,
        "exact_match": interval(bootstrap(exact, np.ones(n), seed=seed), n),
        "macro_f1": float(f1.mean()),
        "classes": [
            {"label": name, "precision": float(p), "recall": float(r), "f1": float(f), "n": int(count)}
            for name, p, r, f, count in rows
        ],
    }


def by_class(table: Floats, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall, F1 and number of each class."""
    columns = zip(labels, *precision_recall_f1(table), table.sum(1), strict=False)
    return [
        {"label": name, "precision": float(p), "recall": float(r), "f1": float(f), "n": int(count)}
        for name, p, r, f, count in columns
    ]

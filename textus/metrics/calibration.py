"""Calibration of class probabilities: reliability bins, expected calibration error, Brier score.

Sources: Brier 1950; Niculescu-Mizil and Caruana 2005 (reliability diagram); Naeini, Cooper and Hauskrecht 2015 (ten
bins of equal width, each with its upper edge, as in scikit-learn). Shapes: N texts, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 10

Floats = NDArray[np.float64]


def reliability_bins(confidence: Floats, correct: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Mean confidence, accuracy and number of texts of each bin of confidence that has any; both (N,)."""
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence)
    count = np.bincount(bins, minlength=BINS)
    total, hits = np.bincount(bins, confidence, BINS), np.bincount(bins, correct, BINS)
    return [
        {"confidence": float(total[i] / count[i]), "right": float(hits[i] / count[i]), "n": int(count[i])}
        for i in np.flatnonzero(count)
    ]


def calibration_error(confidence: Floats, correct: NDArray[np.bool_]) -> float:
    """The mean distance between confidence and accuracy over texts, by bins."""
    bins = reliability_bins(confidence, correct)
    return float(sum(row["n"] * abs(row["confidence"] - row["right"]) for row in bins) / len(confidence))


def brier_scores(gold: NDArray[np.int64], probabilities: Floats) -> Floats:
    """Squared distance of the probabilities (N, C) from the truth, from 0 to 2: (N,). A gold class of -1 is in none."""
    known = gold >= 0
    of_gold = np.where(known, probabilities[np.arange(len(gold)), np.where(known, gold, 0)], 0.0)
    scores: Floats = (probabilities**2).sum(1) - 2 * of_gold + 1
    return scores

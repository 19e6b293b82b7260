"""Whether probabilities mean what they say: bins of confidence, the expected calibration error, the Brier score.

Sources: Brier 1950; Niculescu-Mizil and Caruana 2005 (the reliability diagram); Naeini, Cooper and Hauskrecht 2015 (ten
bins of equal width, each with its upper edge, as in scikit-learn). Shapes: N texts, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 10

Floats = NDArray[np.float64]


def reliability_bins(confidence: Floats, right: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Of each bin of confidence that has texts: their mean confidence, the share that is right, and their number."""
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence)
    count = np.bincount(bins, minlength=BINS)
    said, kept = np.bincount(bins, confidence, BINS), np.bincount(bins, right, BINS)
    return [
        {"confidence": float(said[at] / count[at]), "right": float(kept[at] / count[at]), "n": int(count[at])}
        for at in np.flatnonzero(count)
    ]


def calibration_error(confidence: Floats, right: NDArray[np.bool_]) -> float:
    """How far confidence lies from the share that is right, on average over texts, by bins."""
    bins = reliability_bins(confidence, right)
    gaps = sum(each["n"] * abs(each["confidence"] - each["right"]) for each in bins)
    return float(gaps / len(confidence))


def brier_scores(gold: NDArray[np.int64], probabilities: Floats) -> Floats:
    """Squared distance of the probabilities from the truth, from 0 to 2: (N,). A gold class of -1 is none of them."""
    known = gold >= 0
    of_gold = np.where(known, probabilities[np.arange(len(gold)), np.where(known, gold, 0)], 0.0)
    found: Floats = (probabilities**2).sum(1) - 2 * of_gold + 1
    return found

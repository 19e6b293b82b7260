"""When `ask` refuses: the probability that the passages of a question hold its answer, from features of the retrieval
by logistic regression, and the threshold below which a share of the questions without an answer is refused.

Each question with a document is an example with it, and an example without it: that document is left out of the
index. Questions without a document are examples that have no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from textus.core.errors import DataError, UsageError
from textus.core.io import write_json
from textus.data.passages import text_field
from textus.data.read_options import ReadOptions
from textus.pipelines.answers import DEFAULT_THRESHOLD, Retrieval, check_question, retrieve
from textus.pipelines.search_index import Index

PENALTY = 1e-2
"""Of the squared weights, so that separable examples have finite ones."""
NEWTON_STEPS = 30
LEAST_QUESTIONS = 20


def confidence(index: Index, retrieval: Retrieval) -> float:
    """From 0 to 1: with a calibration the probability that the passages answer the question; else the share of the
    question's words in the best passage, by weight. 0 without a passage.
    """
    if not retrieval.features:
        return 0.0
    known = index.record.get("calibration")
    if not known:
        return retrieval.features[0]
    if len(known["weights"]) != len(retrieval.features):
        raise UsageError(
            "size_mismatch",
            f"{index.path} was calibrated as another kind of index; run textus index calibrate again",
        )
    features = (np.asarray(retrieval.features) - known["mean"]) / known["scale"]
    return float(1 / (1 + np.exp(-(features @ np.asarray(known["weights"]) + known["bias"]))))


def threshold(index: Index) -> float:
    """The confidence below which a question is refused."""
    known = index.record.get("calibration")
    return known["threshold"] if known else DEFAULT_THRESHOLD


def calibrate(index: Index, path: Path, options: ReadOptions, *, refuse: float) -> dict[str, Any]:
    """Fit the confidence and its threshold to the questions of a file, and store them in the index.

    Raises UsageError for a share outside (0, 1); DataError for fewer than 20 questions with a document.
    """
    if not 0 < refuse < 1:
        raise UsageError("out_of_range", f"--refuse {refuse}: must be between 0 and 1")
    features, labels = calibration_examples(index, path, options)
    if sum(labels) < LEAST_QUESTIONS:
        raise DataError(
            "too_few_rows",
            f"{path} has {sum(labels):,} questions with a document; give at least {LEAST_QUESTIONS}",
        )
    X, y = np.asarray(features), np.asarray(labels)
    mean, scale = X.mean(0), X.std(0) + 1e-6
    weights, bias = fit_logistic((X - mean) / scale, y)
    values = 1 / (1 + np.exp(-((X - mean) / scale @ weights + bias)))
    limit = float(np.quantile(values[y == 0], refuse))
    known = {
        "mean": mean.tolist(), "scale": scale.tolist(), "weights": weights.tolist(), "bias": bias, "threshold": limit,
        "questions": int(y.sum()), "refused": float((values[y == 0] < limit).mean()),
        "false_refusals": float((values[y == 1] < limit).mean()),
    }  # fmt: skip
    index.record["calibration"] = known
    write_json(index.path / "index.json", index.record)
    shown = ("questions", "threshold", "refused", "false_refusals")
    return {"index": str(index.path), "on": str(path), **{name: known[name] for name in shown}}


def calibration_examples(
    index: Index, path: Path, options: ReadOptions
) -> tuple[list[list[float]], list[int]]:
    """The features of each question of a file, with its document and without it; 1 where it has an answer."""
    features, labels = list[list[float]](), list[int]()

    def add(question: str, label: int, left_out: Sequence[int] = ()) -> None:
        values = retrieve(index, question, left_out=left_out).features
        if values:  # else it is refused whatever the threshold
            features.append(values)
            labels.append(label)

    for record in options.records(path):
        question = check_question(index, text_field(record.values, record.where))
        named = [record.values.get(name) for name in ("document", "document_id")]
        if all(value is None or value == "" for value in named):
            add(question, 0)
            continue
        number = index.document_number(record.values, record.where)
        add(question, 1)
        add(question, 0, [number])
    return features, labels


def fit_logistic(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """The weights and bias of logistic regression by Newton's method; features (N, F), labels (N,) of 0 and 1."""
    X = np.hstack([features, np.ones((len(features), 1))])
    penalty = PENALTY * np.diag([*np.ones(features.shape[1]), 0.0])
    weights = np.zeros(X.shape[1])
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-(X @ weights)))
        gradient = X.T @ (p - labels) + penalty @ weights
        hessian = (X * (p * (1 - p))[:, None]).T @ X + penalty + 1e-9 * np.eye(len(weights))
        step = np.linalg.solve(hessian, gradient)
        weights -= step
        if np.abs(step).max() < 1e-8:
            break
    return weights[:-1], float(weights[-1])

"""The linear baseline on four data sets: accuracy and CPU-seconds, compared with scikit-learn on the same features.

Settings were chosen on the development sets, or on a tenth of the training texts; the test sets are read here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is imported anywhere

import numpy as np
import torch

from benchmarks._material import Rows, banking, shopping, sst2, thucnews
from benchmarks._runner import Bench, begin, show, with_interval
from textus.core.console import cpu_seconds
from textus.metrics.resampling import bootstrap, interval
from textus.models.linear import LinearClassifier, LinearConfig

Split = tuple[list[str], list[str]]
"""Texts and their classes."""

SETS: dict[str, tuple[Callable[[str], Rows], LinearConfig]] = {
    "SST-2": (sst2, LinearConfig(characters=(2, 5))),
    "THUCNews titles": (thucnews, LinearConfig(words=(0, 0), characters=(1, 2), l2=0.1)),
    "Banking77": (banking, LinearConfig(l2=0.1)),
    "shopping reviews": (shopping, LinearConfig(words=(0, 0), characters=(1, 3), l2=0.3, min_documents=2)),
}


def scikit_learn(config: LinearConfig, train: Split, texts: list[str]) -> tuple[np.ndarray, list[str]]:
    """The probabilities and classes of the same baseline in scikit-learn, with its own stopping criterion."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    kinds = {"word": config.words, "char": config.characters}
    same: dict[str, Any] = {"sublinear_tf": config.sublinear, "min_df": config.min_documents}
    features = make_union(
        *(TfidfVectorizer(analyzer=kind, ngram_range=r, **same) for kind, r in kinds.items() if r != (0, 0))
    )
    model = make_pipeline(features, LogisticRegression(C=1 / config.l2, max_iter=1000)).fit(*train)
    return model.predict_proba(texts), model.classes_.tolist()


def ours(config: LinearConfig, train: Split, texts: list[str]) -> tuple[np.ndarray, list[str]]:
    """The same by this project."""
    model = LinearClassifier(config).fit(*train)
    return model.predict_probabilities(texts).numpy(), model.labels


def measure(name: str, bench: Bench) -> dict[str, Any]:
    """Both sides on one data set."""
    load, config = SETS[name]
    rows, test = load("train")[:: 40 if bench.smoke else 1], load("test")[: 50 if bench.smoke else None]
    train = [row["text"] for row in rows], [row["label"] for row in rows]
    labels = np.array([row["label"] for row in test])
    result: dict[str, Any] = {"settings": vars(config), "n_train": len(rows), "n_test": len(test)}
    probabilities = {}
    for side, run in (("ours", ours), ("scikit-learn", scikit_learn)):
        started = cpu_seconds()
        probabilities[side], classes = run(config, train, [row["text"] for row in test])
        seconds = round(cpu_seconds() - started, 1)
        right = np.array([classes[n] for n in probabilities[side].argmax(1)]) == labels
        figure = bootstrap(right.astype(float), np.ones(len(right)))
        result[side] = {"accuracy": interval(figure, len(right)), "cpu_seconds": seconds}
    difference = np.abs(probabilities["ours"] - probabilities["scikit-learn"])
    result["largest_difference_of_a_probability"] = round(float(difference.max()), 6)
    return result


def main() -> None:
    """Measure every set whose settings have changed or that is missing, and show all."""
    bench = begin("linear_floor", __doc__)
    torch.set_num_threads(1)
    sets = bench.part("sets")
    for name, (_, config) in SETS.items():
        settings = json.loads(json.dumps(vars(config)))  # as a file holds them
        if sets.get(name, {}).get("settings") != settings:
            sets.pop(name, None)
            bench.once(sets, name, measure, name, bench)
    rows = []
    for name, scores in sets.items():
        cells = [
            cell
            for side in ("ours", "scikit-learn")
            for cell in (with_interval(scores[side]["accuracy"], ".1f", 100), scores[side]["cpu_seconds"])
        ]
        rows.append([name, *cells, scores["largest_difference_of_a_probability"]])
    header = "data|ours, %|CPU-seconds|scikit-learn, %|CPU-seconds|probabilities differ by at most"
    show("linear baseline, test sets", header.split("|"), rows)


if __name__ == "__main__":
    main()

"""The linear floor on four data sets: accuracy and CPU-seconds, beside scikit-learn with the same features.

Settings were chosen on the development sets, or on a tenth of the training texts; the test sets are looked at here.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is imported anywhere

import numpy as np
import torch

from benchmarks._measuring import DATA, Bench, begin, show
from textus.core.console import cpu_seconds
from textus.metrics.resampling import bootstrap, interval
from textus.models.linear import LinearClassifier, LinearConfig

Split = tuple[list[str], list[str]]
"""Texts and their classes."""

PARTS = ("train", "test")


def rows(part: str, file: str, delimiter: str, **options: Any) -> Split:
    """Two columns of a file without a header."""
    with (DATA / file.format(part)).open(encoding="utf-8", newline="") as lines:
        found = [row for row in csv.reader(lines, delimiter=delimiter, **options) if row]
    return [row[0] for row in found], [row[1] for row in found]


def sst2(part: str) -> Split:
    """Sentences of film reviews, good or bad."""
    return rows(part, "sst2/{}.tsv", "\t", quoting=csv.QUOTE_NONE)


def thucnews(part: str) -> Split:
    """Chinese headlines of ten kinds; the development file trains."""
    file = {"train": "dev", "test": "test"}[part]
    return rows(file, "thucnews_titles/{}.txt", "\t", quoting=csv.QUOTE_NONE)


def banking(part: str) -> Split:
    """Questions to a bank, of 77 intents."""
    texts, labels = rows(part, "banking77/{}.csv", ",")
    return texts[1:], labels[1:]


def shopping(part: str) -> Split:
    """Chinese reviews of things bought, good or bad; a tenth tests, by the hash of the text."""
    with zipfile.ZipFile(DATA / "online_shopping_10_cats" / "online_shopping_10_cats.zip") as packed:
        text = packed.read("online_shopping_10_cats.csv").decode("utf-8-sig")
    found: Split = ([], [])
    for row in list(csv.reader(io.StringIO(text)))[1:]:
        tests = hashlib.sha256(row[2].encode()).digest()[0] % 10 == 0
        if tests == (part == "test"):
            found[0].append(row[2])
            found[1].append(row[1])
    return found


SETS: dict[str, tuple[Callable[[str], Split], LinearConfig]] = {
    "SST-2": (sst2, LinearConfig(characters=(2, 5))),
    "THUCNews titles": (thucnews, LinearConfig(words=(0, 0), characters=(1, 2), l2=0.1)),
    "Banking77": (banking, LinearConfig(l2=0.1)),
    "shopping reviews": (shopping, LinearConfig(words=(0, 0), characters=(1, 3), l2=0.3, min_documents=2)),
}


def scikit_learn(config: LinearConfig, train: Split, texts: list[str]) -> tuple[np.ndarray, list[str]]:
    """The probabilities and classes of the same floor there, at its own settings for when to stop."""
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


def measured(bench: Bench, name: str) -> dict[str, Any]:
    """Both sides on one data set."""
    load, config = SETS[name]
    train, (texts, labels) = (load(part) for part in PARTS)
    if bench.smoke:
        train, texts, labels = (train[0][::40], train[1][::40]), texts[:50], labels[:50]
    result: dict[str, Any] = {"settings": vars(config), "n_train": len(train[0]), "n_test": len(labels)}
    found = {}
    for side, run in (("ours", ours), ("scikit-learn", scikit_learn)):
        started = cpu_seconds()
        probabilities, classes = run(config, train, texts)
        seconds = round(cpu_seconds() - started, 1)
        right = np.array([classes[n] for n in probabilities.argmax(1)]) == np.array(labels)
        figure = bootstrap(right.astype(float), np.ones(len(right)))
        result[side] = {"accuracy": interval(figure, len(right)), "cpu_seconds": seconds}
        found[side] = probabilities
    apart = np.abs(found["ours"] - found["scikit-learn"])
    result["largest_difference_of_a_probability"] = round(float(apart.max()), 6)
    return result


def main() -> None:
    """Measure every set that is not measured yet, and show all."""
    bench = begin("linear_floor", __doc__)
    torch.set_num_threads(1)
    result: dict[str, Any] = {"sets": bench.kept().get("sets", {})}
    for name, (_, config) in SETS.items():
        settings = json.loads(json.dumps(vars(config)))  # as a file holds them
        if result["sets"].get(name, {}).get("settings") != settings:
            result["sets"][name] = measured(bench, name)
            bench.save(result)
    lines = []
    for name, each in result["sets"].items():
        cells = [name]
        for side in ("ours", "scikit-learn"):
            accuracy = each[side]["accuracy"]
            value, low, high = (100 * accuracy[key] for key in ("value", "low", "high"))
            cells.append(f"{value:.1f} ({low:.1f}–{high:.1f})")
            cells.append(str(each[side]["cpu_seconds"]))
        lines.append([*cells, str(each["largest_difference_of_a_probability"])])
    header = [
        "data",
        "ours, %",
        "CPU-seconds",
        "scikit-learn, %",
        "CPU-seconds",
        "probabilities differ by at most",
    ]
    show("linear floor, test sets", header, lines)


if __name__ == "__main__":
    main()

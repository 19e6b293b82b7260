"""Classification of real data: each figure next to the majority class and TF-IDF with a linear classifier.

Every entry is `textus finetune` and `textus evaluate`, one run after the other. Settings of the LSTMs and of MiniLM on
SST-2 were chosen on development rows (docs/log.md), the others are first guesses. Three entries had been tested with
other settings before the present ones were chosen: SST-2 by MiniLM (rate 1e-4, three epochs, two seeds: 89.0), shopping
reviews (three epochs: 92.9), and one fold of film reviews by MiniLM (a part of each text: 82.8).
"""

from __future__ import annotations

import random
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from benchmarks._material import Rows, banking, minilm, movie_reviews, shopping, sst2, thucnews, write_jsonl
from benchmarks._runner import Bench, begin, show, spread
from textus.metrics.resampling import bootstrap, interval

FOLDS = 5
FEW = 10
"""Examples of each class."""
BASELINE = "TF-IDF + linear"
Parts = dict[str, Rows]
"""The rows of train, dev and test."""


# ── data ───────────────────────────────────────────────────────────────────────────────────────


def sst2_parts() -> Iterator[Parts]:
    """All three parts."""
    yield {part: sst2(part) for part in ("train", "dev", "test")}


def title_parts() -> Iterator[Parts]:
    """Chinese headlines."""
    yield {part: thucnews(part) for part in ("train", "test")}


def banking_parts() -> Iterator[Parts]:
    """All rows."""
    yield {part: banking(part) for part in ("train", "test")}


def banking_few_parts() -> Iterator[Parts]:
    """Ten rows of each class; all are trained on, so that dev can only choose the last weights."""
    rows, classes = banking("train"), defaultdict(list)
    random.Random(0).shuffle(rows)
    for row in rows:
        classes[row["label"]].append(row)
    few = [row for members in classes.values() for row in members[:FEW]]
    yield {"train": few, "dev": few, "test": banking("test")}


def shopping_parts() -> Iterator[Parts]:
    """Chinese reviews of purchases."""
    yield {part: shopping(part) for part in ("train", "test")}


def review_parts() -> Iterator[Parts]:
    """Film reviews, whole documents: five folds by the number in the file's name."""
    folds: list[Rows] = [[] for _ in range(FOLDS)]
    for name, text in movie_reviews():
        path = Path(name)
        folds[int(path.name[2:5]) % FOLDS].append({"text": text, "label": path.parent.name})
    for number, fold in enumerate(folds):
        others = [row for name in range(FOLDS) if name != number for row in folds[name]]
        yield {"train": others, "test": fold}


# ── entries ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Entry:
    """One row of the table: its data, model, epochs, the bounds in percent, and settings."""

    data: Callable[[], Iterator[Parts]]
    model: str
    """MiniLM and its method, or a family."""
    epochs: int | None
    must: float
    aim: float
    settings: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    together: bool = field(default=False)
    """Whether its runs are kept and evaluated as an ensemble."""

    def options(self, bench: Bench) -> dict[str, Any]:
        """The options of `textus finetune`."""
        name, _, method = self.model.partition(" ")
        model = {"from": minilm(bench), "method": method or None} if name == "minilm" else {"model": name}
        epochs = 1 if bench.smoke and self.epochs else self.epochs
        return {**model, "epochs": epochs, "set": self.settings}


BOTH_WAYS = ("model.bidirectional=true", "model.n_layer=1", "model.d_model=200")
SENTENCES = (
    *BOTH_WAYS, "model.dropout=0.3", "task.dropout=0.3", "task.word_dropout=0.2", "optim.rate=0.003",
)  # fmt: skip
TITLES = (
    *BOTH_WAYS, "task.pooling=max", "model.dropout=0.3", "task.dropout=0.3", "task.word_dropout=0.1",
    "optim.rate=0.003",
)  # fmt: skip
RATE = ("optim.rate=2e-4",)
THREE = (0, 1, 2)

ENTRIES = {
    "sst2-lstm": Entry(sst2_parts, "lstm", 5, 80, 83, SENTENCES, (0, 1, 2, 3, 4), together=True),
    "sst2-minilm": Entry(sst2_parts, "minilm", 4, 89, 91, RATE, THREE),
    "sst2-minilm-lora": Entry(sst2_parts, "minilm lora", 4, 88, 90.5, (), THREE),
    "reviews-linear": Entry(review_parts, "linear", None, 86, 89, ("model.words=1,2", "model.l2=0.05")),
    "reviews-minilm": Entry(
        review_parts, "minilm", 1, 86, 91, ("task.longest=256", "task.cut=nothing", *RATE)
    ),
    "shopping-lstm": Entry(shopping_parts, "lstm", 5, 93, 95, TITLES),
    "titles-linear": Entry(title_parts, "linear", None, 86, 89),
    "titles-lstm": Entry(title_parts, "lstm", 6, 86, 89, TITLES, THREE),
    "banking-minilm": Entry(banking_parts, "minilm", 8, 91, 93, RATE),
    "banking-few-minilm": Entry(banking_few_parts, "minilm", 30, 78, 85, RATE, THREE),
}


def folders(bench: Bench, name: str) -> list[Path]:
    """The entry's data as files, a folder for each fold."""
    place = bench.work / "data" / ENTRIES[name].data.__name__
    made = []
    for number, parts in enumerate(ENTRIES[name].data()):
        for part, rows in parts.items():
            few = random.Random(0).sample(rows, min(300, len(rows))) if bench.smoke else rows
            write_jsonl(place / str(number) / f"{part}.jsonl", few)
        made.append(place / str(number))
    return made


def run_of(bench: Bench, name: str, folder: Path, seed: int) -> Path:
    """The folder of one run."""
    return bench.work / "runs" / f"{name}-{folder.name}-{seed}"


def measure(bench: Bench, name: str, folder: Path, seed: int) -> dict[str, Any]:
    """One run, trained and evaluated."""
    entry, out, dev = ENTRIES[name], run_of(bench, name, folder, seed), folder / "dev.jsonl"
    trained = bench.textus(
        "finetune", folder / "train.jsonl", dev=dev if dev.exists() else None, seed=seed,
        **entry.options(bench), out=out, force=True,
    )  # fmt: skip
    scores = bench.scores("evaluate", out, on=folder / "test.jsonl", no_baselines=seed > 0)
    shutil.rmtree(out / "state" if entry.together else out, ignore_errors=True)
    kept = ("rows", "accuracy", "macro_f1", "brier", "calibration_error", "baselines")
    return {
        "command": trained.command,
        "cpu_seconds": round(trained.cpu, 1),
        "seconds": round(trained.wall, 1),
        **{key: scores[key] for key in kept if key in scores},
    }


def ensemble(bench: Bench, name: str, folder: Path) -> dict[str, Any]:
    """The entry's runs as one, against their mean."""
    runs = [run_of(bench, name, folder, seed) for seed in seeds_of(bench, name)]
    scores = bench.scores("evaluate", *runs, on=folder / "test.jsonl", ensemble="mean", no_baselines=True)
    return {key: scores[key] for key in ("accuracy", "brier", "members", "against_mean_member")}


def seeds_of(bench: Bench, name: str) -> tuple[int, ...]:
    """The entry's seeds, two in a smoke run."""
    return ENTRIES[name].seeds[: 2 if bench.smoke else None]


def measure_entry(bench: Bench, name: str) -> None:
    """All runs of an entry."""
    entry, result = ENTRIES[name], bench.part("entries", name)
    parts, seeds = folders(bench, name)[: 2 if bench.smoke else None], seeds_of(bench, name)
    result |= {"must": entry.must, "aim": entry.aim, "of": len(parts) * len(seeds)}
    for folder in parts:
        for seed in seeds:
            key = f"{folder.name}-{seed}"
            bench.once(bench.part("entries", name, "runs"), key, measure, bench, name, folder, seed)
            result |= summary(result["runs"])
        if entry.together:
            bench.once(result, "together", ensemble, bench, name, folder)
    bench.save()


def summary(runs: dict[str, Any]) -> dict[str, Any]:
    """The accuracy over seeds and over all folds' rows together, and the baselines of the first seed."""
    folds = {}
    for key, run in runs.items():
        folds.setdefault(key.partition("-")[0], run)
    first = list(folds.values())
    accuracies = [run["accuracy"]["value"] for run in runs.values()]
    baselines = {
        name: round(mean(run["baselines"][name]["accuracy"]["value"] for run in first), 4)
        for name in first[0].get("baselines", {})
    }
    right = np.concatenate(
        [np.arange(run["rows"]) < round(run["accuracy"]["value"] * run["rows"]) for run in first]
    )
    return {
        "accuracy": round(mean(accuracies), 4),
        "over_runs": spread(accuracies),
        "over_rows": interval(bootstrap(right, np.ones(len(right))), len(right)),
        "baselines": baselines,
    }


def table_row(name: str, entry: dict[str, Any]) -> list[str]:
    """An entry as a row of the table, in percent."""

    def ranged(low: float, high: float, spec: str = ".1f") -> str:
        return f"{100 * low:{spec}} to {100 * high:{spec}}"

    known, runs, rows = entry["baselines"], entry["over_runs"], entry["over_rows"]
    baselines = [f"{100 * known[key]:.1f}" if key in known else "–" for key in ("majority", BASELINE)]
    cells = [name, f"{100 * entry['accuracy']:.1f}", f"{ranged(runs['min'], runs['max'])} of {runs['n']}"]
    cells += [ranged(rows["low"], rows["high"]), *baselines, f"{entry['must']:g} / {entry['aim']:g}"]
    against = entry.get("together", {}).get("against_mean_member")
    last = (
        f"{100 * against['value']:+.1f} ({ranged(against['low'], against['high'], '+.1f')})"
        if against
        else ""
    )
    return [*cells, last]


def main() -> None:
    """Measure every entry, and show all."""
    bench = begin("classification", __doc__, only=ENTRIES)
    for name in bench.chosen(ENTRIES):
        measure_entry(bench, name)
    rows = [table_row(name, entry) for name, entry in bench.result["entries"].items()]
    header = "entry|accuracy, %|over runs|over rows|majority|" + BASELINE + "|must / aim|five as one"
    show("classification, test rows", header.split("|"), rows)


if __name__ == "__main__":
    main()

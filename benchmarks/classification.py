"""Classification of real data: each figure beside the majority class and TF-IDF with a linear classifier.

Every entry is `textus finetune` and `textus evaluate`, one run after the other; what was measured already is taken.
Settings of the LSTMs and of MiniLM on SST-2 were chosen on development rows (docs/log.md), the others are first
guesses. Three entries had been tested with other settings before those of now were chosen: SST-2 by MiniLM (rate 1e-4,
three epochs, two seeds: 89.0), shopping reviews (three epochs: 92.9), and one fold of film reviews by MiniLM (a part of
each text: 82.8). `--only NAME` measures one entry.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from benchmarks._measuring import DATA, WORK, Bench, begin, show, spread, textus
from textus.core.names import unknown_name_error
from textus.metrics.resampling import bootstrap, interval

Rows = list[dict[str, str]]

FOLDS = 5
FEW = 10
"""Examples of each class."""
FLOOR = "TF-IDF + linear"


# ── data ───────────────────────────────────────────────────────────────────────────────────────


def table(path: str) -> Rows:
    """Text, tab, class; no header."""
    lines = (DATA / path).read_text(encoding="utf-8").splitlines()
    return [dict(zip(("text", "label"), line.rsplit("\t", 1), strict=True)) for line in lines if line.strip()]


def sst2() -> Iterator[dict[str, Rows]]:
    """Sentences of film reviews, good or bad; the usual three parts."""
    yield {part: table(f"sst2/{part}.tsv") for part in ("train", "dev", "test")}


def thucnews() -> Iterator[dict[str, Rows]]:
    """Chinese headlines of ten kinds; the development file trains."""
    yield {"train": table("thucnews_titles/dev.txt"), "test": table("thucnews_titles/test.txt")}


def banking() -> dict[str, Rows]:
    """Questions to a bank, of 77 intents."""
    found = {}
    for part in ("train", "test"):
        with (DATA / "banking77" / f"{part}.csv").open(encoding="utf-8", newline="") as lines:
            found[part] = [{"text": row["text"], "label": row["category"]} for row in csv.DictReader(lines)]
    return found


def banking_all() -> Iterator[dict[str, Rows]]:
    """All of them."""
    yield banking()


def banking_few() -> Iterator[dict[str, Rows]]:
    """Ten of each class; all train, so that they can only choose the last weights."""
    found, classes = banking(), {}
    random.Random(0).shuffle(found["train"])
    for row in found["train"]:
        classes.setdefault(row["label"], []).append(row)
    few = [row for each in classes.values() for row in each[:FEW]]
    yield {"train": few, "dev": few, "test": found["test"]}


def shopping() -> Iterator[dict[str, Rows]]:
    """Chinese reviews of things bought; a tenth tests, by the hash of the text."""
    with zipfile.ZipFile(DATA / "online_shopping_10_cats" / "online_shopping_10_cats.zip") as packed:
        text = packed.read("online_shopping_10_cats.csv").decode("utf-8-sig")
    parts: dict[str, Rows] = {"train": [], "test": []}
    for row in csv.DictReader(io.StringIO(text)):
        tests = hashlib.sha256(row["review"].encode()).digest()[0] % 10 == 0
        each = {"text": row["review"], "label": row["label"], "category": row["cat"]}
        parts["test" if tests else "train"].append(each)
    yield parts


def reviews() -> Iterator[dict[str, Rows]]:
    """Film reviews, whole documents: five folds by the number in the file's name."""
    found = []
    with zipfile.ZipFile(DATA / "nltk_data" / "corpora" / "movie_reviews.zip") as packed:
        for name in sorted(each for each in packed.namelist() if each.endswith(".txt") and "/cv" in each):
            row = {"text": packed.read(name).decode(), "label": Path(name).parent.name}
            found.append((int(Path(name).name[2:5]) % FOLDS, row))
    for fold in range(FOLDS):
        yield {
            "train": [row for own, row in found if own != fold],
            "test": [row for own, row in found if own == fold],
        }


# ── entries ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Entry:
    """One row of the table: its data, the words of `textus finetune` after it, and what is asked for, in percent."""

    data: Callable[[], Iterator[dict[str, Rows]]]
    words: tuple[str, ...]
    must: float
    aim: float
    settings: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    together: bool = field(default=False)
    """Whether its runs are kept, to be asked as one."""


MINILM = ("--from", "MINILM")
RECURRENT = ("--model", "lstm")
TWO_WAYS = ("model.bidirectional=true", "model.n_layer=1", "model.d_model=200")
SENTENCES = (
    *TWO_WAYS, "model.dropout=0.3", "task.dropout=0.3", "task.word_dropout=0.2", "optim.rate=0.003",
)  # fmt: skip
TITLES = (
    *TWO_WAYS, "task.pooling=max", "model.dropout=0.3", "task.dropout=0.3", "task.word_dropout=0.1",
    "optim.rate=0.003",
)  # fmt: skip
THREE = (0, 1, 2)

ENTRIES = {
    "sst2-lstm": Entry(
        sst2, (*RECURRENT, "--epochs", "5"), 80, 83, SENTENCES, (0, 1, 2, 3, 4), together=True
    ),
    "sst2-minilm": Entry(sst2, (*MINILM, "--epochs", "4"), 89, 91, ("optim.rate=2e-4",), THREE),
    "sst2-minilm-lora": Entry(sst2, (*MINILM, "--method", "lora", "--epochs", "4"), 88, 90.5, seeds=THREE),
    "reviews-linear": Entry(reviews, ("--model", "linear"), 86, 89, ("model.words=1,2", "model.l2=0.05")),
    "reviews-minilm": Entry(
        reviews,
        (*MINILM, "--epochs", "1"),
        86,
        91,
        ("task.longest=256", "task.cut=nothing", "optim.rate=2e-4"),
    ),
    "shopping-lstm": Entry(shopping, (*RECURRENT, "--epochs", "5"), 93, 95, TITLES),
    "titles-linear": Entry(thucnews, ("--model", "linear"), 86, 89),
    "titles-lstm": Entry(thucnews, (*RECURRENT, "--epochs", "6"), 86, 89, TITLES, THREE),
    "banking-minilm": Entry(banking_all, (*MINILM, "--epochs", "8"), 91, 93, ("optim.rate=2e-4",)),
    "banking-few-minilm": Entry(
        banking_few, (*MINILM, "--epochs", "30"), 78, 85, ("optim.rate=2e-4",), THREE
    ),
}


def folders(bench: Bench, name: str) -> list[Path]:
    """The entry's data as files, a folder for each fold."""
    found = []
    for number, parts in enumerate(ENTRIES[name].data()):
        folder = bench.work / "data" / ENTRIES[name].data.__name__ / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        for part, rows in parts.items():
            kept = random.Random(0).sample(rows, min(300, len(rows))) if bench.smoke else rows
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in kept]
            (folder / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")
        found.append(folder)
    return found


def minilm(bench: Bench) -> Path:
    """The run of all-MiniLM-L6-v2; pulled where it is not there."""
    for run in (WORK / "pretrained" / "minilm", bench.work / "minilm"):
        if (run / "run.json").exists():
            return run
    textus(["pull", "minilm", "--out", run], log=bench.work / "log.txt")
    return run


def measured(bench: Bench, name: str, folder: Path, seed: int) -> dict[str, Any]:
    """One run: trained and evaluated by the commands a person would give."""
    entry, log = ENTRIES[name], bench.work / "log.txt"
    out = bench.work / "runs" / f"{name}-{folder.name}-{seed}"
    words: list[str | Path] = [
        "finetune",
        folder / "train.jsonl",
        "--out",
        out,
        "--force",
        "--seed",
        str(seed),
    ]
    words += [minilm(bench) if word == "MINILM" else word for word in entry.words]
    words += [word for each in entry.settings for word in ("--set", each)]
    if (folder / "dev.jsonl").exists():
        words += ["--dev", folder / "dev.jsonl"]
    if bench.smoke and "--epochs" in words:
        words[words.index("--epochs") + 1] = "1"
    trained = textus(words, log=log)
    asked: list[str | Path] = ["evaluate", out, "--on", folder / "test.jsonl", "--json"]
    found = json.loads(textus([*asked, *(["--no-baselines"] if seed else [])], log=log).output)
    if entry.together:
        shutil.rmtree(out / "state", ignore_errors=True)
    else:
        shutil.rmtree(out)
    kept = ("rows", "accuracy", "macro_f1", "brier", "calibration_error", "baselines")
    figures = {key: found[key] for key in kept if key in found}
    return {
        "command": trained.words,
        "cpu_seconds": round(trained.cpu, 1),
        "seconds": round(trained.wall, 1),
        **figures,
    }


def together(bench: Bench, name: str, folder: Path) -> dict[str, Any]:
    """The entry's runs as one, against their mean."""
    runs = [bench.work / "runs" / f"{name}-{folder.name}-{seed}" for seed in seeds_of(bench, name)]
    words = [
        "evaluate",
        *runs,
        "--on",
        folder / "test.jsonl",
        "--ensemble",
        "mean",
        "--no-baselines",
        "--json",
    ]
    found = json.loads(textus(words, log=bench.work / "log.txt").output)
    return {key: found[key] for key in ("accuracy", "brier", "members", "against_mean_member")}


def seeds_of(bench: Bench, name: str) -> tuple[int, ...]:
    """The entry's seeds, two in a smoke run."""
    return ENTRIES[name].seeds[: 2 if bench.smoke else None]


def entry_of(bench: Bench, name: str, result: dict[str, Any]) -> None:
    """All runs of an entry that are not measured yet; the result is written after each."""
    entry, kept = ENTRIES[name], result["entries"].setdefault(name, {"runs": {}})
    parts = folders(bench, name)[: 2 if bench.smoke else None]
    kept |= {"must": entry.must, "aim": entry.aim, "of": len(parts) * len(seeds_of(bench, name))}
    for folder in parts:
        for seed in seeds_of(bench, name):
            key = f"{folder.name}-{seed}"
            if key not in kept["runs"]:
                kept["runs"][key] = measured(bench, name, folder, seed)
                kept |= summary(kept["runs"])
                bench.save(result)
        if entry.together and "together" not in kept:
            kept["together"] = together(bench, name, folder)
            bench.save(result)


def summary(runs: dict[str, Any]) -> dict[str, Any]:
    """The accuracy over seeds, over all folds' rows together, and how much that is above the floors of seed 0."""
    folds: dict[str, list[dict[str, Any]]] = {}
    for key, each in runs.items():
        folds.setdefault(key.partition("-")[0], []).append(each)
    first = [each[0] for each in folds.values()]
    accuracies = [each["accuracy"]["value"] for each in runs.values()]
    floors = {
        name: round(mean(each["baselines"][name]["accuracy"]["value"] for each in first), 4)
        for name in first[0].get("baselines", {})
    }
    right = np.concatenate(
        [np.arange(each["rows"]) < round(each["accuracy"]["value"] * each["rows"]) for each in first]
    )
    return {
        "accuracy": round(mean(accuracies), 4),
        "over_runs": spread(accuracies),
        "over_rows": interval(bootstrap(right, np.ones(len(right))), len(right)),
        "baselines": floors,
    }


def line(name: str, each: dict[str, Any]) -> list[str]:
    """An entry of the table for people, in percent."""

    def ranged(low: float, high: float, form: str = ".1f") -> str:
        return f"{100 * low:{form}} to {100 * high:{form}}"

    known = each["baselines"]
    floors = [f"{100 * known[floor]:.1f}" if floor in known else "–" for floor in ("majority", FLOOR)]
    own, rows = each["over_runs"], each["over_rows"]
    cells = [name, f"{100 * each['accuracy']:.1f}", f"{ranged(own['min'], own['max'])} of {own['n']}"]
    cells += [ranged(rows["low"], rows["high"]), *floors, f"{each['must']:g} / {each['aim']:g}"]
    if against := each.get("together", {}).get("against_mean_member"):
        cells.append(f"{100 * against['value']:+.1f} ({ranged(against['low'], against['high'], '+.1f')})")
    return cells + [""] * (8 - len(cells))


def main() -> None:
    """Measure what is not measured yet, and show all."""
    bench = begin("classification", __doc__, only={"help": "one entry", "metavar": "NAME"})
    if (only := bench.options.only) and only not in ENTRIES:
        raise unknown_name_error("entry", only, ENTRIES)
    result: dict[str, Any] = {"entries": bench.kept().get("entries", {})}
    for name in [only] if only else ENTRIES:
        entry_of(bench, name, result)
    lines = [line(name, each) for name, each in result["entries"].items()]
    header = [
        "entry",
        "accuracy, %",
        "over runs",
        "over rows",
        "majority",
        FLOOR,
        "must / aim",
        "five as one",
    ]
    show("classification, test rows", header, lines)


if __name__ == "__main__":
    main()

"""Fine-tuning on few rows: default settings beside the best of a sweep over epochs, and 30 rows beside a linear model.

`lost`: 100, 300, 1,000 and 3,000 rows drawn from a training set, with a tenth of them held out by the command itself;
1,000 test rows. Points lost are those of the best number of epochs, chosen by the TEST rows' mean over draws (an oracle
nobody has), less those of the defaults. One draw, then two more of 100 and 300 rows. MiniLM is swept to 20 epochs above
300 rows, the others to 40 of 1,000 and to 20 of 3,000: more takes an hour a run where the machine is shared.

`few`: 30 rows of SST-2, 16 of one class and 14 of the other, five draws, all test rows; beside it scikit-learn's
logistic regression on MiniLM's vectors of the same 30 rows, of length one (`textus embed`) and as they come, whichever
is better a draw.

Each figure is written when it is measured, and what is measured already is taken; `--only` takes few or lost.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is imported anywhere

import numpy as np
import torch

from benchmarks._measuring import DATA, WORK, Bench, begin, show, spread, textus
from textus import api
from textus.core.console import cpu_seconds
from textus.core.names import unknown_name_error
from textus.finetuning.solved import problem_of
from textus.tasks.base import Example
from textus.tasks.classification import Classification, ClassificationSettings
from textus.tasks.encoding import encode_examples, input_template
from textus.tasks.inference import add_head

SIZES = (100, 300, 1000, 3000)
EPOCHS = (3, 8, 20, 40, 80)
FEW = (16, 14)
PARTS = ("few", "lost")
DRAWS = {0: SIZES, 1: SIZES[:2], 2: SIZES[:2]}
"""Sample → how large it is drawn."""
TEST_ROWS = 1000
QUICK = ("train.checkpoint_every=0",)
"""No checkpoint but of the best weights: it changes no figure, and saves writing 20 GB."""


def lines(path: str) -> list[str]:
    """The lines of a file, one a row."""
    return [line for line in (DATA / path).read_text(encoding="utf-8").splitlines() if line.strip()]


def sst2(path: str) -> list[str]:
    """Text, tab, class; as JSON lines."""
    rows = (line.rsplit("\t", 1) for line in lines(path))
    return [json.dumps({"text": text, "label": label}, ensure_ascii=False) for text, label in rows]


def blocks(path: str) -> list[str]:
    """The sentences of a CoNLL file, each with its blank line."""
    text = (DATA / path).read_text(encoding="utf-8")
    return [f"{block}\n" for block in text.split("\n\n") if block.strip()]


@dataclass(frozen=True)
class Set:
    """One data set and model: its files and how they are read, the arguments of `finetune`, the figure in percent."""

    train: str
    test: str
    read: Callable[[str], list[str]]
    suffix: str
    words: dict[str, Any]
    figure: str

    def epochs(self, size: int) -> tuple[int, ...]:
        """The settings that are swept."""
        if "start" in self.words:
            return EPOCHS if size <= 300 else EPOCHS[:3]
        return EPOCHS[: {1000: 4, 3000: 3}.get(size, 5)]


SST2 = ("sst2/train.tsv", "sst2/test.tsv", sst2, ".jsonl")
SETS = {
    "SST-2, LSTM": Set(*SST2, {"model": "lstm"}, "accuracy"),
    "SST-2, MiniLM": Set(*SST2, {"start": "MINILM"}, "accuracy"),
    "CLUENER, LSTM-CRF": Set(
        "cluener2020/train.jsonl", "cluener2020/dev.jsonl", lines, ".jsonl", {"model": "lstm", "task": "tagging"}, "f1"
    ),
    "CoNLL-2003, LSTM-CRF": Set(
        "conll2003/train.txt", "conll2003/test.txt", blocks, ".txt", {"model": "lstm", "task": "tagging"}, "f1"
    ),
}  # fmt: skip


def minilm(bench: Bench) -> Path:
    """The run of all-MiniLM-L6-v2; pulled where it is missing."""
    run = WORK / "pretrained" / "minilm"
    if not (run / "run.json").exists():
        textus(["pull", "minilm", "--out", run, "--force"], log=bench.work / "log.txt")
    return run


def sample(bench: Bench, name: str, size: int, draw: int) -> tuple[Path, Path]:
    """Files of rows to learn from, and of test rows."""
    own = SETS[name]
    rows, test = own.read(own.train), random.Random(0).sample(own.read(own.test), TEST_ROWS)
    if bench.smoke:
        size, test = size // 10 + 20, test[:50]
    kept = random.Random(draw).sample(rows, size)
    folder = bench.work / "data"
    folder.mkdir(parents=True, exist_ok=True)
    stem = name.replace(", ", "-")
    files = folder / f"{stem}-{size}-{draw}{own.suffix}", folder / f"{stem}-test{own.suffix}"
    for path, part in zip(files, (kept, test), strict=True):
        path.write_text("\n".join(part) + "\n", encoding="utf-8")
    return files


def measured(
    bench: Bench, name: str, train: Path, test: Path, *, epochs: int | None, seed: int
) -> dict[str, Any]:
    """One run: its figure on the test rows in percent, its steps and what became of them."""
    words: dict[str, Any] = {
        key: minilm(bench) if value == "MINILM" else value for key, value in SETS[name].words.items()
    }
    out, started = bench.work / "run", cpu_seconds()
    run = api.finetune(train, out=out, epochs=epochs, seed=seed, force=True, overrides=QUICK, **words)
    used, record = cpu_seconds() - started, run.record
    shutil.rmtree(out / "state", ignore_errors=True)
    found = run.evaluate(test, baselines=False)
    kept = {key: record[key] for key in ("weights", "held_out", "solved") if record.get(key)}
    return {
        "value": round(100 * found[SETS[name].figure]["value"], 2),
        "steps": record["steps"],
        "cpu_seconds": round(used, 1),
        **kept,
    }


def cell_of(bench: Bench, data: dict[str, Any], name: str, size: int, draw: int) -> None:
    """The runs of one sample that are not measured yet: with each number of epochs, and by default."""
    cell = data["cells"].setdefault(name, {}).setdefault(str(size), {}).setdefault(str(draw), {})
    wanted = SETS[name].epochs(size)[: 1 if bench.smoke else None]
    for epochs in (*wanted, None):
        setting = "default" if epochs is None else str(epochs)
        if setting not in cell:
            train, test = sample(bench, name, size, draw)
            cell[setting] = measured(bench, name, train, test, epochs=epochs, seed=draw)
            bench.save(data | lost(data["cells"]))


def lost(cells: dict[str, Any]) -> dict[str, Any]:
    """Points lost of every data set and size by its whole samples, their mean and the worst."""
    found = {}
    for name, sizes in cells.items():
        for size, samples in sizes.items():
            wanted = list(map(str, SETS[name].epochs(int(size))))
            whole = [each for each in samples.values() if {*wanted, "default"} <= set(each)]
            if not whole:
                continue
            points = {
                each: mean(settings[each]["value"] for settings in whole) for each in (*wanted, "default")
            }
            own = points.pop("default")
            best = max(points, key=lambda each: points[each])
            found[f"{name}, {size} rows"] = {
                "default": round(own, 2), "best": round(points[best], 2), "epochs": int(best),
                "lost": round(points[best] - own, 2), "draws": len(whole),
            }  # fmt: skip
    if not found:
        return {}
    values = [each["lost"] for each in found.values()]
    of = {"measured": len(values), "of": len(SETS) * len(SIZES)}
    return {"lost": found, "points_lost": {"mean": round(mean(values), 2), "worst": max(values), **of}}


def few_of(bench: Bench, data: dict[str, Any]) -> None:
    """30 rows, five draws, beside scikit-learn on the same vectors."""
    name = "SST-2, MiniLM"
    rows, test = list(map(json.loads, sst2(SETS[name].train))), bench.work / "few-test.jsonl"
    test.write_text("\n".join(sst2(SETS[name].test)[: 50 if bench.smoke else None]) + "\n", encoding="utf-8")
    few = data.setdefault("few", {"draws": {}})
    for draw in range(1 if bench.smoke else 5):
        if str(draw) in few["draws"]:
            continue
        random_rows = random.Random(100 + draw).sample(rows, len(rows))
        sizes = dict(zip("01", FEW if draw % 2 else FEW[::-1], strict=True))
        kept = [
            row for label, n in sizes.items() for row in [r for r in random_rows if r["label"] == label][:n]
        ]
        random.Random(draw).shuffle(kept)
        train = bench.work / f"few-{draw}.jsonl"
        train.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), encoding="utf-8"
        )
        own = measured(bench, name, train, test, epochs=None, seed=draw)
        tests = [json.loads(line) for line in test.read_text(encoding="utf-8").splitlines()]
        few["draws"][str(draw)] = {"ours": own, **scikit_learn(bench, kept, tests)}
        values = [each["ours"]["value"] - each["scikit-learn"] for each in few["draws"].values()]
        few["difference"] = {"mean": round(mean(values), 2), **spread(values, 2)}
        bench.save(data)


def scikit_learn(bench: Bench, kept: list[dict[str, str]], tests: list[dict[str, str]]) -> dict[str, Any]:
    """Accuracy in percent of logistic regression at its own settings, on vectors of length one and as they come."""
    from sklearn.linear_model import LogisticRegression

    found, (seen, asked) = (
        {},
        (vectors_of(minilm(bench), tuple(r["text"] for r in part)) for part in (kept, tests)),
    )
    for kind in ("unit", "raw"):
        norms = [
            np.linalg.norm(each, axis=1, keepdims=True) if kind == "unit" else 1 for each in (seen, asked)
        ]
        model = LogisticRegression(max_iter=10_000).fit(seen / norms[0], [row["label"] for row in kept])
        right = model.score(asked / norms[1], [row["label"] for row in tests])
        found[kind] = round(100 * float(right), 2)
    return {"scikit-learn": max(found.values()), "scikit-learn by vectors": found}


@cache
def vectors_of(path: Path, texts: tuple[str, ...]) -> np.ndarray:
    """MiniLM's mean states of texts, as they come: (texts, D)."""
    run = api.open_run(path)
    task = Classification(ClassificationSettings(), ["0", "1"])
    add_head(run.model, task)
    examples = [Example((text,), "0", "") for text in texts]
    rows = encode_examples(task, examples, run.tokenizer, input_template(run.model.config, run.tokenizer))
    return problem_of(run.model, task, rows, run.tokenizer.pad_id).vectors.numpy()


def main() -> None:
    """Measure what is not measured yet, the short runs first, and show all."""
    bench = begin("small_data", __doc__, only={"help": "few or lost", "metavar": "PART"})
    if (only := bench.options.only) and only not in PARTS:
        raise unknown_name_error("part", only, PARTS)
    torch.set_num_threads(1)
    before = bench.kept()
    data: dict[str, Any] = {"cells": before.get("cells", {})} | {
        k: before[k] for k in ("few",) if k in before
    }
    if only != "lost":
        few_of(bench, data)
    for draw, sizes in DRAWS.items() if only != "few" else ():
        for size in sizes[: 1 if bench.smoke else None]:
            for name in SETS:
                cell_of(bench, data, name, size, draw)
    bench.save(data | lost(data["cells"]))
    rows = [[name, *each.values()] for name, each in lost(data["cells"]).get("lost", {}).items()]
    show("percent on test rows", ["", "default", "best of the sweep", "epochs", "points lost", "draws"], rows)
    few = data.get("few", {}).get("draws", {})
    pairs = [[draw, each["ours"]["value"], each["scikit-learn"]] for draw, each in few.items()]
    show("30 rows", ["draw", "ours", "scikit-learn"], pairs)


if __name__ == "__main__":
    main()

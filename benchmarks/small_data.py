"""Fine-tuning on few rows: default settings beside the best of a sweep over epochs, and 30 rows beside a linear model.

`sweep` and `default`: 100, 300, 1,000 and 3,000 rows drawn from a training set, with a tenth of them held out by the
command itself. Points lost are those of the best number of epochs, chosen by the TEST rows' mean over draws (an oracle
nobody has), less those of the defaults. Up to 300 rows three draws, else one. MiniLM is swept to 20 epochs above 300
rows, 3,000 rows of the others to 40: further takes an hour and was never the best.

`few`: 30 rows of SST-2, 16 of one class and 14 of the other, five draws; beside it scikit-learn's logistic regression
on MiniLM's vectors of the same 30 rows, of length one (`textus embed`) and as they come, whichever is better a draw.

Each figure is written when it is there, and what is measured already is taken; `--only` takes sweep, default or few.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is imported anywhere

import numpy as np
import torch

from benchmarks._measuring import DATA, WORK, Bench, begin, show, spread, textus
from textus import api
from textus.common import cpu_seconds, unknown

SIZES = (100, 300, 1000, 3000)
EPOCHS = (3, 8, 20, 40, 80)
FEW = (16, 14)
PARTS = ("sweep", "default", "few")
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
        if "start" in self.words and size > 300:
            return EPOCHS[:3]
        return EPOCHS[:4] if size > 1000 else EPOCHS


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


def draws(size: int) -> int:
    """How many samples of this size are drawn."""
    return 3 if size <= 300 else 1


def minilm(bench: Bench) -> Path:
    """The run of all-MiniLM-L6-v2; pulled where it is missing."""
    run = WORK / "pretrained" / "minilm"
    if not (run / "run.json").exists():
        textus(["pull", "minilm", "--out", run, "--force"], log=bench.work / "log.txt")
    return run


def sample(bench: Bench, name: str, size: int, draw: int) -> tuple[Path, Path]:
    """Files of rows to learn from, and of all test rows."""
    own = SETS[name]
    rows, test = own.read(own.train), own.read(own.test)
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
    words = {key: minilm(bench) if value == "MINILM" else value for key, value in SETS[name].words.items()}
    out, started = bench.work / "run", cpu_seconds()
    run = api.finetune(train, out=out, epochs=epochs, seed=seed, force=True, settings=QUICK, **words)
    used, record = cpu_seconds() - started, run.record
    shutil.rmtree(out / "state", ignore_errors=True)
    found = run.evaluate_task(test, floors=False)
    kept = {key: record[key] for key in ("weights", "best", "finetuning") if record.get(key)}
    return {
        "value": round(100 * found[SETS[name].figure]["value"], 2),
        "steps": record["steps"],
        "cpu_seconds": round(used, 1),
        **kept,
    }


def cell_of(bench: Bench, data: dict[str, Any], name: str, size: int, epochs: int | None) -> None:
    """All draws of one setting that are not measured yet."""
    cell = data["cells"].setdefault(name, {}).setdefault(str(size), {})
    runs = cell.setdefault("default" if epochs is None else str(epochs), {})
    for draw in range(1 if bench.smoke else draws(size)):
        if str(draw) not in runs:
            train, test = sample(bench, name, size, draw)
            runs[str(draw)] = measured(bench, name, train, test, epochs=epochs, seed=draw)
            bench.save(data | lost(data["cells"]))


def lost(cells: dict[str, Any]) -> dict[str, Any]:
    """Points lost of every data set and size that is whole, their mean and the worst."""
    found = {}
    for name, sizes in cells.items():
        for size, settings in sizes.items():
            wanted = [*map(str, SETS[name].epochs(int(size))), "default"]
            if any(len(settings.get(each, {})) < draws(int(size)) for each in wanted):
                continue
            points = {each: mean(run["value"] for run in settings[each].values()) for each in wanted}
            own = points.pop("default")
            best = max(points, key=lambda each: points[each])
            found[f"{name}, {size} rows"] = {
                "default": round(own, 2), "best": round(points[best], 2), "epochs": int(best),
                "lost": round(points[best] - own, 2),
            }  # fmt: skip
    if not found:
        return {}
    values = [each["lost"] for each in found.values()]
    of = len(SETS) * len(SIZES)
    return {"lost": found, "points_lost": {"mean": round(mean(values), 2), "worst": max(values), "of": of}}


def few_of(bench: Bench, data: dict[str, Any]) -> None:
    """30 rows, five draws, beside scikit-learn on the same vectors."""
    name = "SST-2, MiniLM"
    rows, (_, test) = list(map(json.loads, sst2(SETS[name].train))), sample(bench, name, 100, 0)
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
        train = bench.work / "data" / f"few-{draw}.jsonl"
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

    found = {}
    for kind in ("unit", "raw"):
        seen, asked = (vectors_of(bench, [row["text"] for row in part], kind) for part in (kept, tests))
        model = LogisticRegression(max_iter=10_000).fit(seen, [row["label"] for row in kept])
        found[kind] = round(100 * float(model.score(asked, [row["label"] for row in tests])), 2)
    return {"scikit-learn": max(found.values()), "scikit-learn by vectors": found}


def vectors_of(bench: Bench, texts: list[str], kind: str) -> np.ndarray:
    """MiniLM's mean states of texts, as they come or of length one."""
    run = api.open_run(minilm(bench))
    if kind == "unit":
        return np.asarray(run.embed(texts))
    from textus.tasks import frame_of

    frame, found = frame_of(run.model.config, run.tokenizer), []
    with torch.inference_mode():
        for text in texts:
            ids, _, _ = frame.around([run.tokenizer.encode(text)])
            found.append(run.model.hidden(torch.tensor([ids]))[0].float().mean(0).numpy())  # type: ignore[operator]
    return np.stack(found)


def main() -> None:
    """Measure what is not measured yet, the short runs first, and show all."""
    bench = begin("small_data", __doc__, only={"help": "sweep, default or few", "metavar": "PART"})
    if (only := bench.options.only) and only not in PARTS:
        raise unknown("part", only, PARTS)
    torch.set_num_threads(1)
    before = bench.kept()
    data: dict[str, Any] = {"cells": before.get("cells", {})} | {
        k: before[k] for k in ("few",) if k in before
    }
    for part in [only] if only else PARTS:
        if part == "few":
            few_of(bench, data)
            continue
        for size in SIZES[:1] if bench.smoke else SIZES:
            for name, own in SETS.items():
                for epochs in own.epochs(size)[: 1 if bench.smoke else None] if part == "sweep" else (None,):
                    cell_of(bench, data, name, size, epochs)
    bench.save(data | lost(data["cells"]))
    rows = [[name, *each.values()] for name, each in lost(data["cells"]).get("lost", {}).items()]
    show("percent on test rows", ["", "default", "best of the sweep", "epochs", "points lost"], rows)
    few = data.get("few", {}).get("draws", {})
    pairs = [[draw, each["ours"]["value"], each["scikit-learn"]] for draw, each in few.items()]
    show("30 rows", ["draw", "ours", "scikit-learn"], pairs)


if __name__ == "__main__":
    main()

"""Fine-tuning on few rows: defaults against the best of a sweep over epochs, and 30 rows against a linear model.

`lost`: 100, 300, 1,000 and 3,000 rows drawn from a training set, with a tenth of them held out by the command itself;
1,000 test rows. Points lost are those of the best number of epochs, chosen by the TEST rows' mean over draws (an oracle
nobody has), less those of the defaults. One draw, then two more of 100 and 300 rows. MiniLM is swept to 20 epochs above
300 rows, the others to 40 of 1,000 and to 20 of 3,000: more takes an hour a run on a shared machine.

`few`: 30 rows of SST-2, 16 of one class and 14 of the other, five draws, all test rows; the baseline is scikit-learn's
logistic regression on MiniLM's vectors of the same 30 rows, of length one (`textus embed`) and as they come, whichever
is better a draw.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is imported anywhere

import numpy as np
import torch

from benchmarks._material import Rows, data_file, minilm, read_lines, sst2, write_jsonl
from benchmarks._runner import Bench, begin, show, spread
from textus import api
from textus.core.console import cpu_seconds
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


def sst2_lines(part: str) -> list[str]:
    """SST-2 as JSON lines."""
    return [json.dumps(row, ensure_ascii=False) for row in sst2(part)]


def cluener(part: str) -> list[str]:
    """CLUENER's rows."""
    return read_lines(data_file("cluener2020", f"{part}.jsonl"))


def conll(part: str) -> list[str]:
    """The sentences of a CoNLL file, each with its blank line."""
    text = data_file("conll2003", f"{part}.txt").read_text(encoding="utf-8")
    return [f"{block}\n" for block in text.split("\n\n") if block.strip()]


@dataclass(frozen=True)
class Set:
    """One data set and model: how its rows are read, the arguments of `finetune`, the figure in percent."""

    read: Callable[[str], list[str]]
    test: str
    suffix: str
    arguments: dict[str, Any]
    figure: str

    def epochs(self, size: int) -> tuple[int, ...]:
        """The settings that are swept."""
        if "start" in self.arguments:
            return EPOCHS if size <= 300 else EPOCHS[:3]
        return EPOCHS[: {1000: 4, 3000: 3}.get(size, 5)]


TAGGER = {"model": "lstm", "task": "tagging"}
SETS = {
    "SST-2, LSTM": Set(sst2_lines, "test", ".jsonl", {"model": "lstm"}, "accuracy"),
    "SST-2, MiniLM": Set(sst2_lines, "test", ".jsonl", {"start": minilm}, "accuracy"),
    "CLUENER, LSTM-CRF": Set(cluener, "dev", ".jsonl", TAGGER, "f1"),
    "CoNLL-2003, LSTM-CRF": Set(conll, "test", ".txt", TAGGER, "f1"),
}


def sample(bench: Bench, name: str, size: int, draw: int) -> tuple[Path, Path]:
    """Files of training rows and of test rows."""
    own = SETS[name]
    test = random.Random(0).sample(own.read(own.test), TEST_ROWS)
    if bench.smoke:
        size, test = size // 10 + 20, test[:50]
    kept = random.Random(draw).sample(own.read("train"), size)
    folder, stem = bench.work / "data", name.replace(", ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / f"{stem}-{size}-{draw}{own.suffix}", folder / f"{stem}-test{own.suffix}"
    for path, part in zip(files, (kept, test), strict=True):
        path.write_text("\n".join(part) + "\n", encoding="utf-8")
    return files


def finetune(
    bench: Bench, name: str, files: tuple[Path, Path], *, epochs: int | None, seed: int
) -> dict[str, Any]:
    """One run: its figure on the test rows in percent, its steps and what became of them."""
    arguments = {
        key: value(bench) if key == "start" else value for key, value in SETS[name].arguments.items()
    }
    (train, test), out, started = files, bench.work / "run", cpu_seconds()
    run = api.finetune(train, out=out, epochs=epochs, seed=seed, force=True, overrides=QUICK, **arguments)
    used, record = cpu_seconds() - started, run.record
    shutil.rmtree(out / "state", ignore_errors=True)
    scores = run.evaluate(test, baselines=False)
    return {
        "value": round(100 * scores[SETS[name].figure]["value"], 2),
        "steps": record["steps"],
        "cpu_seconds": round(used, 1),
        **{key: record[key] for key in ("weights", "held_out", "solved") if record.get(key)},
    }


def measure_sample(bench: Bench, name: str, size: int, draw: int) -> None:
    """The runs of one sample: with each number of epochs, and by default."""
    runs = bench.part("cells", name, str(size), str(draw))
    for epochs in (*SETS[name].epochs(size)[: 1 if bench.smoke else None], None):
        setting = "default" if epochs is None else str(epochs)
        if setting not in runs:
            files = sample(bench, name, size, draw)
            bench.once(runs, setting, partial(finetune, bench, name, files, epochs=epochs, seed=draw))
            bench.result |= lost(bench.result["cells"])
    bench.save()


def lost(cells: dict[str, Any]) -> dict[str, Any]:
    """Points lost of every data set and size by its complete samples, their mean and the worst."""
    points = {}
    for name, sizes in cells.items():
        for size, samples in sizes.items():
            wanted = [*map(str, SETS[name].epochs(int(size))), "default"]
            complete = [runs for runs in samples.values() if set(wanted) <= set(runs)]
            if not complete:
                continue
            means = {setting: mean(runs[setting]["value"] for runs in complete) for setting in wanted}
            own = means.pop("default")
            best = max(means, key=lambda setting: means[setting])
            points[f"{name}, {size} rows"] = {
                "default": round(own, 2), "best": round(means[best], 2), "epochs": int(best),
                "lost": round(means[best] - own, 2), "draws": len(complete),
            }  # fmt: skip
    if not points:
        return {}
    values = [point["lost"] for point in points.values()]
    counts = {"measured": len(values), "of": len(SETS) * len(SIZES)}
    return {"lost": points, "points_lost": {"mean": round(mean(values), 2), "worst": max(values), **counts}}


def measure_few(bench: Bench) -> None:
    """30 rows, five draws, and scikit-learn on the same vectors."""
    rows, n = sst2("train"), 50 if bench.smoke else None
    tests = sst2("test", n)
    test, draws = write_jsonl(bench.work / "few-test.jsonl", tests), bench.part("few", "draws")
    for draw in range(1 if bench.smoke else 5):
        if str(draw) in draws:
            continue
        shuffled = random.Random(100 + draw).sample(rows, len(rows))
        sizes = dict(zip("01", FEW if draw % 2 else FEW[::-1], strict=True))
        kept = [row for label, n in sizes.items() for row in [r for r in shuffled if r["label"] == label][:n]]
        random.Random(draw).shuffle(kept)
        train = write_jsonl(bench.work / f"few-{draw}.jsonl", kept)
        ours = finetune(bench, "SST-2, MiniLM", (train, test), epochs=None, seed=draw)
        draws[str(draw)] = {"ours": ours, **scikit_learn(bench, kept, tests)}
        values = [scores["ours"]["value"] - scores["scikit-learn"] for scores in draws.values()]
        bench.result["few"]["difference"] = {"mean": round(mean(values), 2), **spread(values, 2)}
        bench.save()


def scikit_learn(bench: Bench, train: Rows, test: Rows) -> dict[str, Any]:
    """Accuracy in percent of logistic regression at its own settings, on vectors of length one and as they come."""
    from sklearn.linear_model import LogisticRegression

    raw = [vectors_of(minilm(bench), tuple(row["text"] for row in part)) for part in (train, test)]
    unit = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in raw]
    labels = [[row["label"] for row in part] for part in (train, test)]
    accuracy = {}
    for kind, (seen, unseen) in {"unit": unit, "raw": raw}.items():
        model = LogisticRegression(max_iter=10_000).fit(seen, labels[0])
        accuracy[kind] = round(100 * float(model.score(unseen, labels[1])), 2)
    return {"scikit-learn": max(accuracy.values()), "scikit-learn by vectors": accuracy}


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
    """Measure what is missing, the short runs first, and show all."""
    bench = begin("small_data", __doc__, only=PARTS)
    torch.set_num_threads(1)
    parts, cells = bench.chosen(PARTS), bench.part("cells")
    if "few" in parts:
        measure_few(bench)
    for draw, sizes in DRAWS.items() if "lost" in parts else ():
        for size in sizes[: 1 if bench.smoke else None]:
            for name in SETS:
                measure_sample(bench, name, size, draw)
    bench.result |= lost(cells)
    bench.save()
    rows = [[name, *point.values()] for name, point in bench.result.get("lost", {}).items()]
    show("percent on test rows", ["", "default", "best of the sweep", "epochs", "points lost", "draws"], rows)
    draws = bench.part("few", "draws")
    pairs = [[draw, scores["ours"]["value"], scores["scikit-learn"]] for draw, scores in draws.items()]
    show("30 rows", ["draw", "ours", "scikit-learn"], pairs)


if __name__ == "__main__":
    main()

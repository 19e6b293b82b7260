"""SST-2 with an LSTM: the settings that `textus tune` finds in 20 trials against the default ones.

Both are chosen by the dev set; the test set is looked at once, and the difference is paired over its sentences. The
tuned settings are trained once more by the command that `tune` tells, for it to be held to what it says. A search that
was broken off goes on.
"""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._measuring import Bench, begin, show, textus
from benchmarks.augmentation import sentences, written
from textus.api import open_run
from textus.core.io import sha256
from textus.metrics.resampling import paired_bootstrap

TRIALS = 20
FIXED = ["--model", "lstm", "--seed", "0"]


def right(run: Path, test: Path, gold: list[str]) -> list[int]:
    """1 where the run answers a test sentence with its class."""
    return [
        int(each["label"] == label) for each, label in zip(open_run(run).predict(test), gold, strict=True)
    ]


def search(bench: Bench, train: Path, dev: Path) -> tuple[dict[str, Any], float]:
    """What `textus tune` found, and its CPU-seconds."""
    out = bench.work / "search"
    if bench.options.again or bench.smoke:
        shutil.rmtree(out, ignore_errors=True)
    trials = 2 if bench.smoke else TRIALS
    words: list[str | Path] = ["tune", train, "--dev", dev, *FIXED, "--trials", str(trials), "--out", out]
    if bench.smoke:
        words += ["--search", "epochs=1..2", "--set", "model.d_model=16", "--set", "model.n_layer=1"]
    command = textus([*words, "--json"], log=bench.work / "log.txt")
    found: dict[str, Any] = json.loads(command.output)
    return found, command.cpu


def main() -> None:
    """Search, train the default, train the best anew, compare on test."""
    bench = begin("tuning", __doc__)
    most = 80 if bench.smoke else None
    train, dev, test = (
        written(bench.work / f"{split}.jsonl", sentences(split, most)) for split in ("train", "dev", "test")
    )
    data = bench.kept()
    if "search" not in data:
        found, cpu = search(bench, train, dev)
        data |= {
            "search": {name: each for name, each in found.items() if name != "out"},
            "search_cpu_seconds": round(cpu, 1),
        }
        bench.save(data)
    if "runs" not in data:
        gold, log = [row["label"] for row in sentences("test", most)], bench.work / "log.txt"
        usual, again = bench.work / "default", bench.work / "again"
        small = ["--epochs", "1", "--set", "model.d_model=16"] if bench.smoke else []
        textus(["finetune", train, "--dev", dev, *FIXED, *small, "--out", usual, "--force"], log=log)
        words = [
            str(again) if word == "FOLDER" else word for word in shlex.split(data["search"]["command"])[1:]
        ]
        textus([*words, "--force"], log=log)
        best, made = (sha256(each / "model.safetensors") for each in (Path(data["search"]["run"]), again))
        data["made_again"] = best == made
        data["runs"] = {
            name: {
                "dev": -open_run(run).record["best"]["criterion"],
                "right": "".join(map(str, right(run, test, gold))),
            }
            for name, run in (("default", usual), ("tuned", again))
        }
        bench.save(data)
    answers = {name: 100.0 * np.asarray(list(map(int, run["right"]))) for name, run in data["runs"].items()}
    value, low, high = paired_bootstrap(answers["tuned"], answers["default"], np.ones(len(answers["tuned"])))
    data["difference"] = {"value": value, "low": low, "high": high, "n": len(answers["tuned"])}
    bench.save(data)
    rows = [
        [name, f"{100 * data['runs'][name]['dev']:.2f}", f"{answers[name].mean():.2f}"] for name in answers
    ]
    rows.append(["difference", "", f"{value:+.2f} ({low:+.2f} to {high:+.2f})"])
    rows.append(["made again by its command", "", "the same bytes" if data["made_again"] else "OTHER BYTES"])
    show(f"SST-2, LSTM, {len(data['search']['trials'])} trials; accuracy, %", ["", "dev", "test"], rows)


if __name__ == "__main__":
    main()

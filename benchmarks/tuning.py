"""SST-2 with an LSTM: the best settings of `textus tune` in 20 trials against the default ones.

Both are chosen by the dev set; the test set is read once, and the difference is paired over its sentences. The tuned
settings are trained once more by the command that `tune` prints, which must give the same bytes. An interrupted search
is resumed.
"""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._material import sst2, write_jsonl
from benchmarks._runner import Bench, begin, over_rows, show, with_interval
from textus.api import open_run
from textus.core.io import sha256

TRIALS = 20
FIXED = {"model": "lstm", "seed": 0}


def right(run: Path, test: Path, labels: list[str]) -> list[int]:
    """1 where the run answers a test sentence with its class."""
    answers = open_run(run).predict(test)
    return [int(answer["label"] == label) for answer, label in zip(answers, labels, strict=True)]


def search(bench: Bench, train: Path, dev: Path) -> None:
    """What `textus tune` chooses, and its CPU-seconds."""
    out = bench.work / "search"
    if bench.options.again or bench.smoke:
        shutil.rmtree(out, ignore_errors=True)
    options: dict[str, Any] = {"trials": TRIALS}
    if bench.smoke:
        options = {"trials": 2, "search": "epochs=1..2", "set": ["model.d_model=16", "model.n_layer=1"]}
    command = bench.textus("tune", train, dev=dev, **FIXED, **options, out=out, json=True)
    report = json.loads(command.output)
    bench.result["search"] = {name: value for name, value in report.items() if name != "out"}
    bench.result["search_cpu_seconds"] = round(command.cpu, 1)
    bench.save()


def compare(bench: Bench, train: Path, dev: Path, test: Path) -> dict[str, Any]:
    """The default and the best settings, both trained here."""
    usual, again = bench.work / "default", bench.work / "again"
    small = {"epochs": 1, "set": "model.d_model=16"} if bench.smoke else {}
    bench.train("finetune", train, dev=dev, **FIXED, **small, out=usual)
    best = shlex.split(bench.result["search"]["command"])[1:]
    bench.textus(*(str(again) if argument == "FOLDER" else argument for argument in best), force=True)
    runs = (Path(bench.result["search"]["run"]), again)
    bench.result["made_again"] = len({sha256(run / "model.safetensors") for run in runs}) == 1
    labels = [json.loads(line)["label"] for line in test.read_text(encoding="utf-8").splitlines()]
    return {
        name: {
            "dev": -open_run(run).record["best"]["criterion"],
            "right": "".join(map(str, right(run, test, labels))),
        }
        for name, run in (("default", usual), ("tuned", again))
    }


def main() -> None:
    """Search, train the default, train the best again, compare on test."""
    bench = begin("tuning", __doc__)
    n = 80 if bench.smoke else None
    train, dev, test = (
        write_jsonl(bench.work / f"{part}.jsonl", sst2(part, n)) for part in ("train", "dev", "test")
    )
    result = bench.result
    if "search" not in result:
        search(bench, train, dev)
    runs = bench.once(result, "runs", compare, bench, train, dev, test)
    answers = {name: 100.0 * np.asarray(list(map(int, run["right"]))) for name, run in runs.items()}
    result["difference"] = over_rows(answers["tuned"], answers["default"])
    bench.save()
    rows = [[name, f"{100 * runs[name]['dev']:.2f}", f"{answers[name].mean():.2f}"] for name in answers]
    rows.append(["difference", "", with_interval(result["difference"], "+.2f")])
    rows.append(
        ["made again by its command", "", "the same bytes" if result["made_again"] else "OTHER BYTES"]
    )
    show(f"SST-2, LSTM, {len(result['search']['trials'])} trials; accuracy, %", ["", "dev", "test"], rows)


if __name__ == "__main__":
    main()

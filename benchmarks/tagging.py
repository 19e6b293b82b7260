"""Entities found by `textus finetune --task tagging`: CoNLL-2003 by an LSTM with a CRF from scratch and by MiniLM, and
CLUENER, Chinese, by an LSTM with a CRF from scratch.

The weights of a run are chosen on rows it does not learn from: of CoNLL-2003 the official dev file, of CLUENER a tenth
of the training file, for its labelled dev file is what is reported. Settings were chosen there too. A run that takes
less than three minutes is trained with three seeds. Whatever was measured already is taken.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks._measuring import DATA, WORK, Bench, begin, show, spread, textus
from textus.core.io import read_json

SEEDS = (0, 1, 2)
SHORT = 180
"""CPU-seconds below which a run is trained with every seed."""

CONLL = ("conll2003/train.txt", "conll2003/valid.txt", "conll2003/test.txt")
CLUENER = ("cluener2020/train.jsonl", None, "cluener2020/dev.jsonl")
FAST = ("--epochs", "4", "--set", "optim.rate=0.003")
TRIALS: dict[str, tuple[tuple[str, str | None, str], tuple[str, ...], tuple[str, ...]]] = {
    "CoNLL-2003, LSTM-CRF": (CONLL, ("--model", "lstm"), FAST),
    "CoNLL-2003, MiniLM": (CONLL, ("--from", "minilm"), ("--set", "optim.rate=0.0003")),
    "CLUENER, LSTM-CRF": (CLUENER, ("--model", "lstm"), FAST),
}
"""Name → files to learn from, choose by (None: a tenth of the first) and report; what is taught; and how."""
SMOKE = ("--epochs", "1", "--set", "train.batch_size=8")
SMALL = ("--set", "model.d_model=32", "--set", "model.n_layer=1")


def pretrained(bench: Bench) -> Path:
    """The run of MiniLM; fetched where it is not there."""
    out = WORK / "pretrained" / "minilm"
    if not (out / "run.json").exists():
        textus(["pull", "minilm", "--out", out, "--force"], log=bench.work / "log.txt")
    return out


def material(bench: Bench, name: str | None) -> Path | None:
    """A file of the data sets; for a smoke run the first lines of it."""
    if name is None:
        return None
    path = DATA / name
    if not path.exists():
        raise SystemExit(f"{path} is not there; set TEXTUS_DATA to the folder of the data sets")
    if not bench.smoke:
        return path
    part = bench.work / path.name
    with path.open(encoding="utf-8") as file:
        part.write_text("".join(islice(file, 600 if path.suffix == ".txt" else 60)), encoding="utf-8")
    return part


def measured(bench: Bench, name: str, seed: int) -> dict[str, Any]:
    """One run, trained and evaluated by the commands."""
    files, words, how = TRIALS[name]
    train, dev, test = (material(bench, each) for each in files)
    assert train is not None
    assert test is not None
    out = bench.work / f"{name.lower().replace(', ', '-').replace(' ', '-')}-{seed}"
    given: list[str | Path] = [pretrained(bench) if word == "minilm" else word for word in words]
    command: list[str | Path] = ["finetune", train, "--task", "tagging", *given, "--seed", str(seed)]
    command += ["--dev", dev] if dev else []
    command += (SMOKE if "minilm" in words else (*SMOKE, *SMALL)) if bench.smoke else how
    textus([*command, "--out", out, "--force"], log=bench.work / "log.txt")
    record = read_json(out / "run.json")
    found = json.loads(textus(["evaluate", out, "--on", test, "--json"]).output)
    figures = ("f1", "precision", "recall", "macro_f1", "token_accuracy", "classes", "rows")
    return {
        **{each: found[each] for each in figures},
        "dev_f1": -record["best"]["criterion"],
        **{each: record[each] for each in ("steps", "cpu_seconds", "seconds", "command", "task_settings")},
        "tokenizer": record["tokenizer"]["kind"],
    }  # fmt: skip


def trial(bench: Bench, name: str, data: dict[str, Any]) -> dict[str, Any]:
    """All seeds of one trial, each kept as soon as it is there."""
    found: dict[str, Any] = data.setdefault(name, {"runs": {}})
    for seed in SEEDS[:1] if bench.smoke else SEEDS:
        if str(seed) not in found["runs"]:
            found["runs"][str(seed)] = measured(bench, name, seed)
            bench.save(data)
        if found["runs"][str(seed)]["cpu_seconds"] > SHORT:
            break
    runs = list(found["runs"].values())
    found["f1"] = spread([each["f1"]["value"] for each in runs])
    found["cpu_seconds"] = spread([each["cpu_seconds"] for each in runs], 1)
    bench.save(data)
    return found


def main() -> None:
    """Measure what is not measured yet."""
    bench = begin("tagging", __doc__)
    data = {name: each for name, each in bench.kept().items() if name in TRIALS}
    rows = []
    for name in TRIALS:
        found = trial(bench, name, data)
        one = found["runs"]["0"]["f1"]
        shown = [f"{100 * found['f1'][part]:.2f}" for part in ("median", "min", "max")]
        interval = f"{100 * one['low']:.2f}–{100 * one['high']:.2f}"
        rows.append([name, *shown, found["f1"]["n"], interval, f"{found['cpu_seconds']['median']:.0f}"])
    header = ["", "median", "least", "most", "seeds", "95 % of seed 0", "CPU-seconds"]
    show("entity F1, micro, %", header, rows)


if __name__ == "__main__":
    main()

"""Entities by `textus finetune --task tagging`: CoNLL-2003 by an LSTM with a CRF from scratch and by MiniLM, and
CLUENER, Chinese, by an LSTM with a CRF from scratch.

The weights of a run are chosen on rows it is not trained on: of CoNLL-2003 the official dev file, of CLUENER a tenth
of the training file, for its labelled dev file is what is reported. Settings were chosen there too. A run that takes
less than three minutes is trained with three seeds.
"""

from __future__ import annotations

from typing import Any

from benchmarks._material import data_file, first_lines, minilm
from benchmarks._runner import Bench, begin, dev_score, show, spread

SEEDS = (0, 1, 2)
SHORT = 180
"""CPU-seconds below which a run is trained with every seed."""

CONLL = ("conll2003/train.txt", "conll2003/valid.txt", "conll2003/test.txt")
CLUENER = ("cluener2020/train.jsonl", None, "cluener2020/dev.jsonl")
LSTM = {"model": "lstm", "epochs": 4, "set": ["optim.rate=0.003"]}
MINILM = {"from": minilm, "set": ["optim.rate=0.0003"]}
TRIALS: dict[str, tuple[tuple[str, str | None, str], dict[str, Any]]] = {
    "CoNLL-2003, LSTM-CRF": (CONLL, LSTM),
    "CoNLL-2003, MiniLM": (CONLL, MINILM),
    "CLUENER, LSTM-CRF": (CLUENER, LSTM),
}
"""Name → files to train on, choose by (None: a tenth of the first) and report; and the options of `finetune`."""
SMALL = ["model.d_model=32", "model.n_layer=1"]


def measure(bench: Bench, name: str, seed: int) -> dict[str, Any]:
    """One run, trained and evaluated."""
    files, options = TRIALS[name]
    train, dev, test = (
        file and first_lines(bench, data_file(file), 600 if file.endswith(".txt") else 60) for file in files
    )
    if bench.smoke:
        settings = ["train.batch_size=8", *(SMALL if "model" in options else [])]
        options = {**options, "epochs": 1, "set": settings}
    if "from" in options:
        options = {**options, "from": options["from"](bench)}
    out = bench.work / f"{name.lower().replace(', ', '-').replace(' ', '-')}-{seed}"
    record = bench.train("finetune", str(train), task="tagging", dev=dev, **options, seed=seed, out=out)
    scores = bench.scores("evaluate", out, on=test)
    figures = ("f1", "precision", "recall", "macro_f1", "token_accuracy", "classes", "rows")
    return {
        **{figure: scores[figure] for figure in figures},
        "dev_f1": dev_score(record),
        **{key: record[key] for key in ("steps", "cpu_seconds", "seconds", "command", "task_settings")},
        "tokenizer": record["tokenizer"]["kind"],
    }


def measure_seeds(bench: Bench, name: str) -> dict[str, Any]:
    """All seeds of one trial."""
    trial, runs = bench.part(name), bench.part(name, "runs")
    for seed in SEEDS[:1] if bench.smoke else SEEDS:
        if bench.once(runs, str(seed), measure, bench, name, seed)["cpu_seconds"] > SHORT:
            break
    trial["f1"] = spread([run["f1"]["value"] for run in runs.values()])
    trial["cpu_seconds"] = spread([run["cpu_seconds"] for run in runs.values()], 1)
    bench.save()
    return trial


def main() -> None:
    """Every trial."""
    bench = begin("tagging", __doc__)
    rows = []
    for name in TRIALS:
        trial = measure_seeds(bench, name)
        first = trial["runs"]["0"]["f1"]
        shown = [f"{100 * trial['f1'][part]:.2f}" for part in ("median", "min", "max")]
        interval = f"{100 * first['low']:.2f}–{100 * first['high']:.2f}"
        rows.append([name, *shown, trial["f1"]["n"], interval, f"{trial['cpu_seconds']['median']:.0f}"])
    header = ["", "median", "least", "most", "seeds", "95 % of seed 0", "CPU-seconds"]
    show("entity F1, micro, %", header, rows)


if __name__ == "__main__":
    main()

"""200 SST-2 sentences, fine-tuned with and without augmentation: the accuracy on the test set, in pairs.

Each seed draws 200 training sentences, the same for both sides, and fine-tunes an LSTM from scratch (and with
`--minilm RUN` a pretrained MiniLM) by `textus finetune`. Both sides take as many steps. How much to augment is chosen
on the dev set with a seed of its own. The interval is over seeds (t), a second one over test sentences.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

import numpy as np

from benchmarks._material import sst2, write_jsonl
from benchmarks._runner import Bench, begin, over_five_seeds, over_rows, show, with_interval
from textus.api import open_run
from textus.augment.augmenter import AugmentConfig, make_operations
from textus.core.console import log_notice
from textus.core.errors import UsageError

SEEDS = (0, 1, 2, 3, 4)
TUNING_SEED = 100
ROWS = 200
STEPS = 300
WAYS = (("swap,delete,typos", 4), ("swap,delete,typos", 16), ("synonyms,insert,swap,delete", 4),
        ("synonyms,insert,swap,delete", 16), ("synonyms", 8))  # fmt: skip
"""Operations and copies a row; those with synonyms only if WordNet is installed."""
Way = tuple[str, int]


def finetune(bench: Bench, family: str, seed: int, way: Way | None) -> dict[str, Any]:
    """One fine-tuning: accuracy on dev, and right or wrong for each test sentence."""
    steps, n = (20, 60) if bench.smoke else (STEPS, None)
    train = write_jsonl(bench.work / f"train-{seed}.jsonl", Random(seed).sample(sst2("train"), ROWS))
    dev, test = (write_jsonl(bench.work / f"{part}.jsonl", sst2(part, n)) for part in ("dev", "test"))
    model: dict[str, Any] = {"from": bench.options.minilm} if family == "minilm" else {"model": "lstm"}
    settings = ["model.n_layer=1", "model.dropout=0.3"] if family == "lstm" else []
    settings += [f"train.steps={steps}", f"train.evaluate_every={steps // 10}"]
    settings += [f"augment.copies={way[1]}"] if way else []
    command = bench.textus(
        "finetune", train, dev=dev, **model, seed=seed, augment=way and way[0], set=settings,
        out=bench.work / "run", force=True,
    )  # fmt: skip
    run = open_run(bench.work / "run")
    answers = zip(run.predict(test), sst2("test", n), strict=True)
    right = [int(answer["label"] == row["label"]) for answer, row in answers]
    return {
        "family": family, "seed": seed, "way": list(way) if way else None, "dev": -run.record["best"]["criterion"],
        "test": mean(right), "test_right": "".join(map(str, right)), "cpu_seconds": round(command.cpu, 1),
        "trained_by": command.command,
    }  # fmt: skip


def measure(bench: Bench, family: str, seed: int, way: Way | None) -> dict[str, Any]:
    """One fine-tuning, kept in the result."""
    key = f"{family} seed {seed} " + (f"{way[0]} x {way[1]}" if way else "plain")
    run: dict[str, Any] = bench.once(bench.part("runs"), key, finetune, bench, family, seed, way)
    log_notice(f"{key}: dev {run['dev']:.4f}, test {run['test']:.4f}")
    return run


def available_ways() -> list[Way]:
    """The ways for which this machine has the data."""
    try:
        make_operations(AugmentConfig("synonyms"))
    except UsageError as error:
        log_notice(f"ways with synonyms are left out: {error}")
        return [way for way in WAYS if "synonyms" not in way[0]]
    return list(WAYS)


def compare(bench: Bench, family: str) -> dict[str, Any]:
    """The way chosen on dev, then all seeds with it and without, and the difference in points."""
    seeds, ways = (SEEDS[:2], available_ways()[:1]) if bench.smoke else (SEEDS, available_ways())
    best = max(ways, key=lambda way: float(measure(bench, family, TUNING_SEED, way)["dev"]))
    sides = {
        name: [measure(bench, family, seed, way) for seed in seeds]
        for name, way in (("augmented", best), ("plain", None))
    }
    tests = {name: [100 * run["test"] for run in runs] for name, runs in sides.items()}
    rows = [
        100 * np.asarray([list(map(int, run["test_right"])) for run in runs]).mean(0)
        for runs in sides.values()
    ]
    return {
        "way": list(best),
        **{name: [round(value, 2) for value in values] for name, values in tests.items()},
        "difference": over_five_seeds([a - b for a, b in zip(*tests.values(), strict=True)]),
        "over_sentences": over_rows(*rows),
    }


def main() -> None:
    """Choose on dev, measure on test, for the LSTM and with `--minilm` for MiniLM."""
    about_minilm = {"type": Path, "help": "a run of MiniLM (textus pull minilm)"}
    bench = begin("augmentation", __doc__, minilm=about_minilm)
    rows = []
    for family in ["lstm", *(["minilm"] if bench.options.minilm else [])]:
        bench.result[family] = scores = compare(bench, family)
        bench.save()
        figures = [with_interval(scores[name], "+.2f") for name in ("difference", "over_sentences")]
        means = [f"{mean(scores[side]):.2f}" for side in ("plain", "augmented")]
        rows.append([family, f"{scores['way'][0]} x {scores['way'][1]}", *means, *figures])
    header = ["", "way", "plain", "augmented", "difference over seeds", "over sentences"]
    show(f"SST-2, {ROWS} sentences, accuracy on the test set, %", header, rows)


if __name__ == "__main__":
    main()

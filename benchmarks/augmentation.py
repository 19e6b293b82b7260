"""200 SST-2 sentences, learnt with and without augmentation: the accuracy on the test set, in pairs.

Each seed draws 200 training sentences, the same for both sides, and fine-tunes an LSTM from scratch (and with
`--minilm RUN` a pretrained MiniLM) by `textus finetune`. Both sides take as many steps. How much to augment is chosen
on the dev set with a seed of its own. The interval is over seeds (t), a second one over test sentences. Whatever was
measured already is taken.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from statistics import mean, stdev
from typing import Any

import numpy as np

from benchmarks._measuring import DATA, Bench, begin, show, textus
from textus.api import open_run
from textus.augment.augmenter import AugmentConfig, make_operations
from textus.core.console import log_notice
from textus.core.errors import UsageError
from textus.metrics.resampling import paired_bootstrap

SEEDS = (0, 1, 2, 3, 4)
TUNING_SEED = 100
ROWS = 200
STEPS = 300
T_975 = 2.776
"""Student's t for an interval of 95 % from five differences."""
WAYS = (("swap,delete,typos", 4), ("swap,delete,typos", 16), ("synonyms,insert,swap,delete", 4),
        ("synonyms,insert,swap,delete", 16), ("synonyms", 8))  # fmt: skip
"""Operations and copies a row; those with synonyms only where WordNet is."""
FAMILIES = {
    "lstm": ["--model", "lstm", "--set", "model.n_layer=1", "--set", "model.dropout=0.3"],
    "minilm": [],
}


def sentences(split: str, most: int | None = None) -> list[dict[str, str]]:
    """SST-2's rows."""
    lines = (DATA / "sst2" / f"{split}.tsv").read_text(encoding="utf-8").splitlines()[:most]
    return [dict(zip(("text", "label"), line.rsplit("\t", 1), strict=True)) for line in lines]


def written(path: Path, rows: list[dict[str, str]]) -> Path:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def one(bench: Bench, family: str, seed: int, way: tuple[str, int] | None) -> dict[str, Any]:
    """One fine-tuning: accuracy on dev, and right or wrong for each test sentence."""
    steps, most = (20, 60) if bench.smoke else (STEPS, None)
    train = written(bench.work / f"train-{seed}.jsonl", Random(seed).sample(sentences("train"), ROWS))
    dev = written(bench.work / "dev.jsonl", sentences("dev", most))
    test = written(bench.work / "test.jsonl", sentences("test", most))
    begun = ["--from", str(bench.options.minilm)] if family == "minilm" else FAMILIES[family]
    words: list[str | Path] = ["finetune", train, "--dev", dev, *begun, "--seed", str(seed)]
    words += ["--set", f"train.steps={steps}", "--set", f"train.evaluate_every={steps // 10}"]
    if way:
        words += ["--augment", way[0], "--set", f"augment.copies={way[1]}"]
    out = bench.work / "run"
    command = textus([*words, "--out", out, "--force"], log=bench.work / "log.txt")
    run = open_run(out)
    gold = [row["label"] for row in sentences("test", most)]
    right = [int(each["label"] == label) for each, label in zip(run.predict(test), gold, strict=True)]
    return {
        "family": family, "seed": seed, "way": list(way) if way else None, "dev": -run.record["best"]["criterion"],
        "test": mean(right), "test_right": "".join(map(str, right)), "cpu_seconds": round(command.cpu, 1),
        "trained_by": command.words,
    }  # fmt: skip


def measured(
    bench: Bench, data: dict[str, Any], family: str, seed: int, way: tuple[str, int] | None
) -> dict[str, Any]:
    """The same, kept as soon as it is there."""
    key = f"{family} seed {seed} " + (f"{way[0]} x {way[1]}" if way else "plain")
    runs: dict[str, Any] = data.setdefault("runs", {})
    if key not in runs:
        runs[key] = one(bench, family, seed, way)
        log_notice(f"{key}: dev {runs[key]['dev']:.4f}, test {runs[key]['test']:.4f}")
        bench.save(data)
    found: dict[str, Any] = runs[key]
    return found


def ways() -> list[tuple[str, int]]:
    """The ways that this machine can go."""
    try:
        make_operations(AugmentConfig("synonyms"))
    except UsageError as error:
        log_notice(f"ways with synonyms are left out: {error}")
        return [way for way in WAYS if "synonyms" not in way[0]]
    return list(WAYS)


def compare(bench: Bench, data: dict[str, Any], family: str) -> dict[str, Any]:
    """The way chosen on dev, then all seeds with it and without, and the difference in points."""
    seeds, tried = (SEEDS[:2], ways()[:1]) if bench.smoke else (SEEDS, ways())
    best = max(tried, key=lambda way: float(measured(bench, data, family, TUNING_SEED, way)["dev"]))
    sides = {
        name: [measured(bench, data, family, seed, way) for seed in seeds]
        for name, way in (("augmented", best), ("plain", None))
    }
    pairs = [100 * (a["test"] - b["test"]) for a, b in zip(sides["augmented"], sides["plain"], strict=True)]
    half = T_975 * stdev(pairs) / len(pairs) ** 0.5
    rows = [
        100.0 * np.asarray([list(map(int, each["test_right"])) for each in found]).mean(0)
        for found in sides.values()
    ]
    value, low, high = paired_bootstrap(*rows, np.ones(len(rows[0])))
    return {
        "way": list(best),
        **{name: [round(100 * each["test"], 2) for each in found] for name, found in sides.items()},
        "difference": {"value": mean(pairs), "low": mean(pairs) - half, "high": mean(pairs) + half, "n": len(pairs)},
        "over_sentences": {"value": value, "low": low, "high": high, "n": len(rows[0])},
    }  # fmt: skip


def main() -> None:
    """Choose on dev, measure on test, for the LSTM and where given MiniLM."""
    bench = begin(
        "augmentation", __doc__, minilm={"type": Path, "help": "a run of MiniLM (textus pull minilm)"}
    )
    data = bench.kept()
    rows = []
    for family in ["lstm", *(["minilm"] if bench.options.minilm else [])]:
        data[family] = found = compare(bench, data, family)
        bench.save(data)
        figures = [found["difference"], found["over_sentences"]]
        told = [f"{each['value']:+.2f} ({each['low']:+.2f} to {each['high']:+.2f})" for each in figures]
        means = [f"{mean(found[side]):.2f}" for side in ("plain", "augmented")]
        rows.append([family, f"{found['way'][0]} x {found['way'][1]}", *means, *told])
    header = ["", "way", "plain", "augmented", "difference over seeds", "over sentences"]
    show(f"SST-2, {ROWS} sentences, accuracy on the test set, %", header, rows)


if __name__ == "__main__":
    main()

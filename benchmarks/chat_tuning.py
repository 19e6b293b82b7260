"""A pulled chat model tuned on conversations: bits per byte of held-out answers against the untuned model.

SmolLM2-135M-Instruct (`textus pull smollm2`) and LoRA on the Alpaca rows of LLaMA-Factory's demonstration, English and
Chinese; about a tenth is held out by the hash of the instruction, of which so many of each language are scored.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks._material import data_file, write_jsonl
from benchmarks._runner import Bench, begin, flags, show, with_interval
from textus.core.io import read_json
from textus.core.rng import uniform

LANGUAGES = ("en", "zh")
SCORED = 16
"""Held-out conversations of each language."""
SETTINGS = [
    "train.steps=14", "train.batch_size=4", "train.evaluate_every=14", "optim.rate=2e-3", "optim.warmup=2",
]  # fmt: skip
"""About three and a half CPU-minutes."""


def rows_of(language: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows to train on and rows held out, by the hash of the instruction."""
    text = data_file("llamafactory_demo", f"alpaca_{language}_demo.json").read_text(encoding="utf-8")
    train: list[dict[str, Any]] = []
    held: list[dict[str, Any]] = []
    for row in json.loads(text):
        (held if uniform(0, "chat_tuning", row["instruction"]) < 0.1 else train).append(row)
    return train, held


def files(bench: Bench) -> tuple[Path, Path]:
    """The rows of both languages as files: to train on, and to score."""
    parts = [rows_of(language) for language in LANGUAGES]
    count = 2 if bench.smoke else SCORED
    train = write_jsonl(bench.work / "train.jsonl", [row for train, _ in parts for row in train])
    held = write_jsonl(bench.work / "held.jsonl", [row for _, held in parts for row in held[:count]])
    return train, held


def measure(bench: Bench, method: str) -> dict[str, Any]:
    """Train by a method, then score the held-out answers next to those of the untuned model."""
    train, held = files(bench)
    base, out = bench.work / "smollm2", bench.work / method
    if not base.exists():
        bench.textus("pull", "smollm2", out=base)
    settings = ["train.steps=1", "train.batch_size=1"] if bench.smoke else SETTINGS
    options = flags(from_=base, task="chat", method=method, dev=held, set=settings, out=out, force=True)
    command = ["finetune", str(train), *options]
    if not bench.finished(out):
        bench.textus(*command)
    scores, record = bench.scores("evaluate", out, on=held), read_json(out / "run.json")
    return {
        **{key: scores[key] for key in ("rows", "bits_per_byte", "baselines")},
        **{key: record[key] for key in ("seconds", "cpu_seconds", "steps", "compute")},
        "trained_by": " ".join(["textus", *command]),
    }


def main() -> None:
    """Measure what is missing, or show the kept results."""
    bench = begin("chat_tuning", __doc__, only=("lora",))
    rows: list[list[Any]] = []
    for method in bench.chosen(("lora",)):
        part = bench.once(bench.part("methods"), method, measure, bench, method)
        for name, scores in part["baselines"].items():
            rows.append([name, with_interval(scores["bits_per_byte"], ".3f"), "", "", ""])
            reduction = f"{scores['reduction']:.1%}"
        own = with_interval(part["bits_per_byte"], ".3f")
        rows.append([method, own, reduction, part["steps"], part["cpu_seconds"]])
    header = ["", "bits per byte of answers (95 %)", "fewer", "steps", "CPU-seconds"]
    show("SmolLM2 on held-out conversations, English and Chinese", header, rows)


if __name__ == "__main__":
    main()

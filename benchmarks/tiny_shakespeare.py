"""How good a model `textus train --preset` makes of tiny Shakespeare, and what it costs, from an empty compile cache.

Characters; the first nine tenths train, the whole last tenth is scored by `textus evaluate` after training. CPU-seconds
are those of the training command and every process it started, compilers included, from its first to its last breath.
A seed that is measured already is not trained again.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks._measuring import Bench, begin, empty, evaluated, shakespeare, show, spread, textus

SEEDS = {"1min": (0, 1, 2), "10min": (0,)}


def train(preset: str, seed: int, bench: Bench) -> dict[str, Any]:
    """One run of a preset: its cost and its figures."""
    corpus, tokenizer, last_tenth = shakespeare(bench.work)
    out = bench.work / f"run-{preset}-{seed}"
    caches = empty(bench.work / "caches")
    environment = {
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        "TEXTUS_CACHE": str(caches / "textus"),
        "XDG_CACHE_HOME": str(caches),
    }
    budget = ["--steps", "30"] if bench.smoke else ["--preset", preset]
    words: list[str | Path] = [
        "train",
        corpus,
        "--tokenizer",
        tokenizer,
        *budget,
        "--seed",
        str(seed),
        "--out",
        out,
        "--force",
    ]
    command = textus(words, env=environment, log=bench.work / f"log-{preset}-{seed}.txt")
    return {
        "cpu_seconds": round(command.cpu, 1),
        "seconds": round(command.wall, 1),
        "command": command.words,
        **figures(evaluated(out, last_tenth)),
    }


def figures(found: dict[str, Any]) -> dict[str, Any]:
    """What is kept of an evaluation."""
    names = (
        "nats_per_character",
        "bits_per_byte",
        "kind",
        "characters",
        "bytes",
        "unknown_bytes",
        "window",
        "run",
    )
    return {name: found[name] for name in names if name in found}


def measure(preset: str, bench: Bench) -> None:
    """Every seed of a preset, written after each."""
    runs: dict[str, Any] = bench.kept(f"-{preset}").get("runs", {})
    for seed in SEEDS[preset]:
        if str(seed) not in runs:
            runs[str(seed)] = {**train(preset, seed, bench), "measured": time.strftime("%Y-%m-%d %H:%M")}
            bench.save(summary(preset, runs), f"-{preset}")
    rows = [
        [seed, f"{run['nats_per_character']:.4f}", f"{run['bits_per_byte']['value']:.4f}",
         f"{run['bits_per_byte']['low']:.3f}–{run['bits_per_byte']['high']:.3f}",
         run["cpu_seconds"], run["seconds"]]
        for seed, run in runs.items()
    ]  # fmt: skip
    header = ["seed", "nats/char", "bits/byte", "95 %", "CPU-seconds", "seconds"]
    show(f"tiny Shakespeare, preset {preset}, whole last tenth", header, rows)


def summary(preset: str, runs: dict[str, Any]) -> dict[str, Any]:
    """What the table shows, over seeds."""
    return {
        "preset": preset,
        "nats_per_character": spread([run["nats_per_character"] for run in runs.values()]),
        "bits_per_byte": spread([run["bits_per_byte"]["value"] for run in runs.values()]),
        "cpu_seconds": spread([run["cpu_seconds"] for run in runs.values()], 1),
        "seconds": spread([run["seconds"] for run in runs.values()], 1),
        "runs": runs,
    }


def main() -> None:
    """The presets asked for, both without a word."""
    bench = begin(
        "tiny_shakespeare", __doc__,
        preset={"choices": tuple(SEEDS), "help": "only this one"},
    )  # fmt: skip
    for preset in SEEDS:
        if bench.options.preset in (None, preset):
            measure(preset, bench)


if __name__ == "__main__":
    main()

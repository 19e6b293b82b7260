"""How good a model `textus train --preset` makes of tiny Shakespeare, and what it costs, from an empty compile cache.

Characters; the first nine tenths train, the whole last tenth is scored by `textus evaluate` after training. CPU-seconds
are those of the training command and every process it started, compilers included, from start to end.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks._material import shakespeare
from benchmarks._runner import Bench, begin, empty, show, spread

SEEDS = {"1min": (0, 1, 2), "10min": (0,)}
KEPT = (
    "nats_per_character",
    "bits_per_byte",
    "kind",
    "characters",
    "bytes",
    "unknown_bytes",
    "window",
    "run",
)
HEADER = ["nats/char", "bits/byte (95 %)", "CPU-seconds", "seconds"]


def measure(
    bench: Bench, out: Path, env: dict[str, str] | None = None, **options: Any
) -> tuple[dict[str, Any], str]:
    """One training on tiny Shakespeare: its cost and scores, and its command."""
    corpus, tokenizer, last_tenth = shakespeare(bench)
    command = bench.textus("train", corpus, tokenizer=tokenizer, **options, out=out, force=True, env=env)
    cost = {"cpu_seconds": round(command.cpu, 1), "seconds": round(command.wall, 1)}
    scores = bench.scores("evaluate", out, on=last_tenth)
    return {**cost, **{name: scores[name] for name in KEPT if name in scores}}, command.command


def cells(run: dict[str, Any]) -> list[Any]:
    """A run for the table."""
    bits = run["bits_per_byte"]
    shown = f"{bits['value']:.4f} ({bits['low']:.3f}–{bits['high']:.3f})"
    return [f"{run['nats_per_character']:.4f}", shown, run["cpu_seconds"], run["seconds"]]


def measure_seed(preset: str, seed: int, bench: Bench) -> dict[str, Any]:
    """One run of a preset, with empty caches."""
    caches = empty(bench.work / "caches")
    folders = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TEXTUS_CACHE": "textus", "XDG_CACHE_HOME": ""}
    environment = {name: str(caches / folder) for name, folder in folders.items()}
    budget = {"steps": 30} if bench.smoke else {"preset": preset}
    run, command = measure(bench, bench.work / f"run-{preset}-{seed}", environment, seed=seed, **budget)
    return {"command": command, **run, "measured": time.strftime("%Y-%m-%d %H:%M")}


def summary(runs: dict[str, Any]) -> dict[str, Any]:
    """What the table shows, over seeds."""
    return {
        "nats_per_character": spread([run["nats_per_character"] for run in runs.values()]),
        "bits_per_byte": spread([run["bits_per_byte"]["value"] for run in runs.values()]),
        "cpu_seconds": spread([run["cpu_seconds"] for run in runs.values()], 1),
        "seconds": spread([run["seconds"] for run in runs.values()], 1),
    }


def main() -> None:
    """Every seed of the chosen presets; a file for each preset."""
    for preset in SEEDS:
        bench = begin("tiny_shakespeare", __doc__, only=SEEDS, flag="--preset", suffix=f"-{preset}")
        if preset not in bench.chosen(SEEDS):
            continue
        bench.result |= {"preset": preset}
        runs = bench.part("runs")
        for seed in SEEDS[preset]:
            bench.once(runs, str(seed), measure_seed, preset, seed, bench)
            bench.result |= summary(runs)
        bench.save()
        rows = [[seed, *cells(run)] for seed, run in runs.items()]
        show(f"tiny Shakespeare, preset {preset}, whole last tenth", ["seed", *HEADER], rows)


if __name__ == "__main__":
    main()

"""CPU-seconds until the last tenth of tiny Shakespeare costs 1.88 nats a character, beside the recipe known for it.

1.88 is what the 4-layer, 128-wide, 64-context CPU recipe (`benchmarks/_recipe.py`) ends at after 2,000 steps. Ours
is `textus train --steps N` with the least N of a coarse list after which every seed's final score, on the whole last
tenth, is at most 1.88; the recipe runs between our runs. CPU-seconds are told with start-up (the whole command; of
the recipe without its final scoring) and of the training loop alone; the ratio that counts is the one with start-up.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._measuring import DATA, Bench, begin, evaluated, run, shakespeare, show, spread, textus
from textus.core.io import read_json

TARGET = 1.88
STEPS = (130, 150, 170, 200, 250, 350, 500)
SEEDS = (0, 1, 2)
SETTINGS = (
    "model.n_layer=3",
    "model.d_model=128",
    "model.n_head=2",
    "model.context_length=64",
    "optim.rate=0.05",
    "optim.other_rate=0.015",
)
"""Fields that make short runs learn faster, as `--set` takes them."""


def ours(steps: int, seed: int, settings: list[str], bench: Bench) -> dict[str, Any]:
    """One training of so many steps and its score; nothing is evaluated on the way but at its end."""
    corpus, tokenizer, last_tenth = shakespeare(bench.work)
    out = bench.work / f"run-{steps}-{seed}"
    # no evaluation on the way but at the end, and one checkpoint
    words: list[str | Path] = ["train", corpus, "--tokenizer", tokenizer, "--steps", str(steps)]
    words += ["--checkpoint-every", str(steps), "--seed", str(seed), "--out", out, "--force"]
    words += [word for each in settings for word in ("--set", each)]
    command = textus(words, log=bench.work / "log.txt")
    return {
        "steps": steps,
        "seed": seed,
        "nats_per_character": evaluated(out, last_tenth)["nats_per_character"],
        "cpu_seconds": round(command.cpu, 2),
        "loop_cpu_seconds": read_json(out / "run.json")["cpu_seconds"],
        "command": command.words,
    }


def recipe(seed: int, bench: Bench) -> dict[str, Any]:
    """The known recipe, here and now."""
    text = DATA / "tinyshakespeare" / "input.txt"
    words = ["-m", "benchmarks._recipe", str(text), str(seed), "20" if bench.smoke else "2000"]
    done = run([sys.executable, *words], env={"OMP_NUM_THREADS": "1"}, log=bench.work / "log.txt")
    return {"seed": seed, **json.loads(done.output)}


def measure(bench: Bench) -> dict[str, Any]:
    """The recipe once between each of our seeds, then longer runs until every seed is good enough."""
    settings = [*SETTINGS, *(bench.options.set or [])]
    target = 9.9 if bench.smoke else TARGET
    theirs: list[dict[str, Any]] = []
    tried: list[dict[str, Any]] = []
    for steps in bench.options.steps or ((20,) if bench.smoke else STEPS):
        mine: list[dict[str, Any]] = []
        for seed in SEEDS[:1] if bench.smoke else SEEDS:
            mine.append(ours(steps, seed, settings, bench))
            tried.append(mine[-1])
            if mine[-1]["nats_per_character"] > target:
                break  # this number of steps is too small: no need for its other seeds
            if len(theirs) < len(mine):
                theirs.append(recipe(seed, bench))
        if max(run["nats_per_character"] for run in mine) <= target:
            return summary(mine, theirs, tried, settings)
    raise SystemExit(f"no number of steps reached {target}: {[run['nats_per_character'] for run in tried]}")


def summary(
    mine: list[dict[str, Any]], theirs: list[dict[str, Any]], tried: list[dict[str, Any]], settings: list[str]
) -> dict[str, Any]:
    """The figures, by seed and over seeds."""

    def sides(name: str) -> dict[str, Any]:
        a, b = [run[name] for run in mine], [run[name] for run in theirs]
        pairs = [x / y for x, y in zip(a, b, strict=True)]
        return {"ours": spread(a, 2), "recipe": spread(b, 2), "ratio": spread(pairs, 3)}

    return {
        "target": TARGET,
        "steps": mine[0]["steps"],
        "settings": settings,
        "with_start_up": sides("cpu_seconds"),
        "loop": sides("loop_cpu_seconds"),
        "ours_nats": spread([run["nats_per_character"] for run in mine]),
        "recipe_nats": spread([run["nats_per_character"] for run in theirs]),
        "ratio": sides("cpu_seconds")["ratio"],
        "tried": tried,
        "recipe": theirs,
    }


def main() -> None:
    """Measure and tell."""
    bench = begin(
        "to_188", __doc__,
        set={"action": "append", "metavar": "PATH=VALUE", "help": "a setting of our runs; may be repeated"},
        steps={"type": int, "nargs": "+", "help": "numbers of steps to try instead of the list"},
    )  # fmt: skip
    os.environ["OMP_NUM_THREADS"] = "1"
    result = measure(bench)
    rows = [
        [f"ours, {run['steps']} steps", run["seed"], f"{run['nats_per_character']:.4f}",
         f"{run['cpu_seconds']:.1f}", f"{run['loop_cpu_seconds']:.1f}"]
        for run in result["tried"]
    ] + [
        ["recipe, 2,000 steps", run["seed"], f"{run['nats_per_character']:.4f}", f"{run['cpu_seconds']:.1f}",
         f"{run['loop_cpu_seconds']:.1f}"]
        for run in result["recipe"]
    ]  # fmt: skip
    show("to 1.88 nats a character", ["run", "seed", "nats/char", "CPU-seconds", "of them in the loop"], rows)
    ratios = [result[name]["ratio"] for name in ("with_start_up", "loop")]
    print(
        f"  ratio with start-up {median([ratios[0]['median']]):.2f}, of the loops {ratios[1]['median']:.2f}"
    )
    bench.save(result)


if __name__ == "__main__":
    main()

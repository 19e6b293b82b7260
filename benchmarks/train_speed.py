"""Training tokens per CPU-second compared with the best of `transformers` GPT-2 of the same shape, taking turns.

Decoder 6 × 384 × 6 heads, context 256, vocabularies 65 and 4,096, one thread, dropout 0, optimiser steps counted,
compile time not. Every way the peer can run is screened ({fp32, bf16 autocast} × {eager, compiled} × attention
{eager, sdpa}); its best two go on. Then all sides take one step in turn, over and over, each in a process of its
own. For each side the better of two batch sizes counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

from benchmarks._runner import Bench, begin, is_comparable, paired_ratios, show, spread, stamp, take_turns
from benchmarks._stepper import CONTEXT, Side, Stepper
from textus.core import hardware
from textus.core.io import read_json, write_json

VOCABULARIES = (65, 4096)
BATCHES = (8, 16)
WAYS = [
    f"{precision} {mode} {attention}"
    for precision in ("fp32", "bf16")
    for mode in ("eager", "compiled")
    for attention in ("eager", "sdpa")
]


def warm(sides: Sequence[Side], bench: Bench) -> list[Stepper]:
    """A process for each side that has compiled and taken two steps; as many at once as there are cores."""

    def started(side: Side) -> Stepper:
        stepper = Stepper(side, str(bench.work / "log.txt"))
        stepper.step()
        stepper.step()
        return stepper

    with ThreadPoolExecutor(hardware.usable_cores()) as pool:
        return list(pool.map(started, sides))


def screened(vocab: int, bench: Bench) -> dict[str, float]:
    """`screen`, or its earlier result on this machine with these versions."""
    path = bench.work / f"screening-{vocab}.json"
    if path.exists() and not bench.options.again and is_comparable(kept := read_json(path)):
        return kept["rates"]
    rates = screen(vocab, bench)
    write_json(path, {**stamp("train_speed"), "rates": rates})
    return rates


def screen(vocab: int, bench: Bench) -> dict[str, float]:
    """Tokens per CPU-second of every way of the peer, batch 8: the better of two steps."""
    ways = [way for way in WAYS if not bench.smoke or "compiled" not in way]
    steppers = warm([Side("peer", vocab, BATCHES[0], way) for way in ways], bench)
    times = take_turns(
        {stepper.side.how: stepper.step for stepper in steppers}, 2, lambda step: step()["cpu"]
    )
    for stepper in steppers:
        stepper.close()
    rates = {way: round(BATCHES[0] * CONTEXT / min(taken), 1) for way, taken in times.items()}
    return dict(sorted(rates.items(), key=lambda pair: -pair[1]))


def step_rates(sides: Sequence[Side], repetitions: int, bench: Bench) -> list[dict[str, Any]]:
    """One step of each side in turn, `repetitions` times: tokens per CPU-second of each step, by side."""
    steppers = warm(sides, bench)
    taken: list[list[dict[str, float]]] = [[] for _ in sides]
    for _ in range(repetitions):
        for stepper, steps in zip(steppers, taken, strict=True):
            steps.append(stepper.step())
    for stepper in steppers:
        stepper.close()
    return [
        {
            "who": side.who, "how": side.how, "batch": side.batch, "allocator": side.allocator, "name": side.name,
            "weights": int(steps[0]["weights"]),
            "rates": [round(side.batch * CONTEXT / step["cpu"], 1) for step in steps],
            "rates_by_the_clock": spread([side.batch * CONTEXT / step["wall"] for step in steps], 1),
        }
        for side, steps in zip(sides, taken, strict=True)
    ]  # fmt: skip


def best(rows: Sequence[dict[str, Any]], who: str, **wanted: Any) -> dict[str, Any]:
    """The side with the greatest median rate."""
    fitting = [row for row in rows if row["who"] == who and all(row[k] == v for k, v in wanted.items())]
    return max(fitting, key=lambda row: median(row["rates"]))


def ratio(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """Our rate over theirs, repetition by repetition."""
    return paired_ratios(ours["rates"], theirs["rates"])


def measure(vocab: int, screening: dict[str, float], bench: Bench) -> dict[str, Any]:
    """Everything about one vocabulary."""
    finalists = list(screening)[:2]
    sides = [Side("ours", vocab, batch, how) for how in ("adamw", "muon") for batch in BATCHES]
    sides += [Side("peer", vocab, batch, way) for way in finalists for batch in BATCHES]
    sides += [Side("peer", vocab, batch, finalists[0], allocator=True) for batch in BATCHES]
    rows = step_rates(sides, 3 if bench.smoke else bench.options.repetitions, bench)
    plain, helped = (best(rows, "peer", allocator=allocator) for allocator in (False, True))
    ours, muon = best(rows, "ours", how="adamw"), best(rows, "ours", how="muon")
    return {
        "screening": screening,
        "sides": [{**row, "tokens_per_cpu_second": spread(row["rates"], 1)} for row in rows],
        "ours": ours["name"], "ours_muon": muon["name"], "peer": plain["name"], "peer_allocator": helped["name"],
        "ratio": ratio(ours, plain),
        "ratio_muon": ratio(muon, plain),
        "ratio_to_peer_with_allocator": ratio(ours, helped),
    }  # fmt: skip


def print_tables(vocab: int, scores: dict[str, Any]) -> None:
    """The tables of one vocabulary."""
    title = f"vocabulary {vocab}: GPT-2 of transformers, batch 8, tokens per CPU-second"
    show(title, ["way", "rate"], list(scores["screening"].items()))
    rows = [
        [row["name"], *(f"{row['tokens_per_cpu_second'][key]:,.0f}" for key in ("min", "median", "max"))]
        for row in scores["sides"]
    ]
    show(f"vocabulary {vocab}: in turns, tokens per CPU-second", ["side", "min", "median", "max"], rows)
    rows = [
        [name, *(f"{scores[key][part]:.2f}" for part in ("min", "median", "max"))]
        for name, key in (
            (f"{scores['ours']} / {scores['peer']}", "ratio"),
            (f"{scores['ours_muon']} / {scores['peer']}", "ratio_muon"),
            (f"{scores['ours']} / {scores['peer_allocator']}", "ratio_to_peer_with_allocator"),
        )
    ]
    show(f"vocabulary {vocab}: ratio", ["sides", "min", "median", "max"], rows)


def main() -> None:
    """Measure both vocabularies; the screening of the same machine and versions is reused."""
    bench = begin(
        "train_speed", __doc__,
        repetitions={"type": int, "default": 7, "help": "steps of each side, in turn (5 at least)"},
    )  # fmt: skip
    result = bench.result = {"shape": "6 × 384 × 6 heads, context 256, one thread", "vocabularies": {}}
    for vocab in VOCABULARIES:
        scores = measure(vocab, screened(vocab, bench), bench)
        result["vocabularies"][str(vocab)] = scores
        print_tables(vocab, scores)
    bench.save()


if __name__ == "__main__":
    main()

"""Fine-tuning and classifying, samples a CPU-second, compared with `transformers`: its Trainer, its pipeline.

MiniLM on SST-2, batches of 32, texts of at most 128 tokens, one thread. The sides take turns, each run in a process
of its own; a ratio is of the medians. The peer is first tried in several ways (how it attends; pipeline or by hand,
texts a batch), and ours is compared with the fastest. Accuracy on the test rows is reported with each.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._finetuning_sides import alone, classify_peer, classify_textus, train_peer, train_textus
from benchmarks._material import data_file, first_lines, minilm
from benchmarks._runner import Bench, begin, paired_ratios, show, spread
from textus import api

REPETITIONS = 5
STEPS = 216
"""One pass over the 6,920 rows."""
ATTENTIONS = ("eager", "sdpa")
WAYS = tuple(product(("pipeline", "by hand"), ATTENTIONS, (16, 32, 64, 128)))


def compare(bench: Bench, part: str, unit: str, sides: dict[str, Any], repetitions: int) -> None:
    """The sides in turns; `part` gets their spread, the ratio of the medians, and the accuracies."""
    kept = bench.part(f"{part}_runs")
    for number in range(repetitions):
        for side, measure in sides.items():
            bench.once(kept, f"{side} {number}", measure, number)
    runs = {side: [kept[f"{side} {number}"] for number in range(repetitions)] for side in sides}
    speeds = {side: [run[unit] for run in side_runs] for side, side_runs in runs.items()}
    bench.result[part] = {
        **{side: spread(values, 1) for side, values in speeds.items()},
        "ratio": round(median(speeds["textus"]) / median(speeds["peer"]), 3),
        "ratios": paired_ratios(speeds["textus"], speeds["peer"]),
        "test": {side: spread([run["test"] for run in side_runs], 2) for side, side_runs in runs.items()},
    }
    bench.save()


def fastest(tries: dict[str, Any], unit: str) -> str:
    """The name of the fastest try."""
    return max(tries, key=lambda name: tries[name][unit])


def compare_training(bench: Bench, data: dict[str, Path], peer: Path, repetitions: int) -> None:
    """Both sides fine-tune; the peer with the attention that is faster."""
    steps, unit = 12 if bench.smoke else STEPS, "samples_per_cpu_second"

    def peer_side(attention: str, n: int, seed: int) -> dict[str, Any]:
        return alone(
            partial(train_peer, attention=attention), peer, data, bench.work / "trained-peer", n, seed
        )

    def textus_side(seed: int) -> dict[str, Any]:
        return alone(train_textus, minilm(bench), data, bench.work / "trained-textus", steps, seed)

    tries = bench.part("peer_training")
    for attention in ATTENTIONS:
        bench.once(tries, attention, peer_side, attention, min(steps, 60), 0)
    attention = fastest(tries, unit)
    compare(
        bench,
        "training",
        unit,
        {"textus": textus_side, "peer": partial(peer_side, attention, steps)},
        repetitions,
    )
    bench.part("peer_best")["training"] = f"Trainer, {attention}"


def compare_classifying(bench: Bench, data: dict[str, Path], repetitions: int, copies: int) -> None:
    """Both sides answer the test rows; the peer in its fastest way."""
    peer, unit = partial(alone, classify_peer, bench.work / "trained-peer"), "texts_per_cpu_second"
    ways = {
        f"{way}, {attention}, batches of {batch}": (way, attention, batch) for way, attention, batch in WAYS
    }
    tries = bench.part("peer_classifying")
    for name in list(ways)[: 1 if bench.smoke else None]:
        bench.once(tries, name, peer, data["dev"], 1, ways[name])
    best = fastest(tries, unit)
    sides = {
        "textus": lambda _: alone(classify_textus, bench.work / "trained-textus", data["test"], copies),
        "peer": lambda _: peer(data["test"], copies, ways[best]),
    }
    compare(bench, "classifying", unit, sides, repetitions)
    bench.part("peer_best")["classifying"] = best


def main() -> None:
    """Try the peer's ways, take turns, print."""
    bench = begin("finetuning_speed", __doc__)
    data = {
        part: first_lines(bench, data_file("sst2", f"{part}.tsv"), 96) for part in ("train", "dev", "test")
    }
    peer = bench.work / "peer"
    if not (peer / "config.json").exists():
        api.export(minilm(bench), out=peer, force=True)
    repetitions, copies = (1, 1) if bench.smoke else (REPETITIONS, 2)
    compare_training(bench, data, peer, repetitions)
    compare_classifying(bench, data, repetitions, copies)
    bench.save()
    rows = []
    for part in ("training", "classifying"):
        scores = bench.result[part]
        for side in ("textus", "peer"):
            rates = [scores[side][name] for name in ("median", "min", "max")]
            rows.append([part, side, *rates, scores["test"][side]["median"], ""])
        rows[-2][-1] = f"{scores['ratio']:.2f} x"
    header = ["", "side", "a CPU-second", "least", "most", "accuracy on test, %", "ratio"]
    show("MiniLM on SST-2, one thread", header, rows)


if __name__ == "__main__":
    main()

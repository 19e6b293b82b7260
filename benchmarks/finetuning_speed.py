"""Fine-tuning and classifying, samples a CPU-second, beside `transformers`: its Trainer, its pipeline.

MiniLM on SST-2, batches of 32, texts of at most 128 tokens, one thread. The sides take turns, each run in a process
of its own; a ratio is of the medians. The peer is first tried in several ways (how it attends; pipeline or by hand,
texts a batch), and the fastest is the one ours stands beside. Accuracy on the test rows is told with each.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._finetuning_sides import alone, classify_peer, classify_textus, train_peer, train_textus
from benchmarks._measuring import DATA, Bench, begin, show, spread
from benchmarks.classification import minilm
from textus import api
from textus.core.console import log_notice

REPETITIONS = 5
STEPS = 216
"""One time through the 6,920 rows."""
ATTENTIONS = ("eager", "sdpa")
WAYS = tuple(product(("pipeline", "by hand"), ATTENTIONS, (16, 32, 64, 128)))


def material(bench: Bench) -> dict[str, Path]:
    """SST-2's parts; in a smoke run a few rows of each."""
    found = {part: DATA / "sst2" / f"{part}.tsv" for part in ("train", "dev", "test")}
    if bench.smoke:
        for part, path in found.items():
            lines = path.read_text(encoding="utf-8").splitlines()[:96]
            found[part] = bench.work / f"{part}.tsv"
            found[part].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return found


class Measured:
    """What was measured so far; every run is written at once."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.data = bench, bench.kept()

    def once(self, part: str, name: str, measure: Any) -> dict[str, Any]:
        """A run's figures, measured if they are not there."""
        kept = self.data.setdefault(part, {})
        if name not in kept:
            kept[name] = measure()
            log_notice(f"{part}, {name}: {kept[name]}")
            self.bench.save(self.data)
        found: dict[str, Any] = kept[name]
        return found

    def compared(self, part: str, unit: str, sides: dict[str, Any], repetitions: int) -> None:
        """The sides in turns; `part` gets their spread, the ratio of the medians, and the accuracies."""
        runs = {side: [] for side in sides}  # type: ignore[var-annotated]
        for number in range(repetitions):
            for side, measure in sides.items():
                runs[side].append(self.once(f"{part}_runs", f"{side} {number}", partial(measure, number)))
        speeds = {side: [each[unit] for each in found] for side, found in runs.items()}
        self.data[part] = {
            **{side: spread(values, 1) for side, values in speeds.items()},
            "ratio": round(median(speeds["textus"]) / median(speeds["peer"]), 3),
            "ratios": spread([a / b for a, b in zip(speeds["textus"], speeds["peer"], strict=True)], 3),
            "test": {side: spread([each["test"] for each in found], 2) for side, found in runs.items()},
        }
        self.bench.save(self.data)


def main() -> None:
    """Try the peer's ways, take turns, tell."""
    bench = begin("finetuning_speed", __doc__)
    data, start, peer = material(bench), minilm(bench), bench.work / "peer"
    if not (peer / "config.json").exists():
        api.export(start, out=peer, force=True)
    measured, steps = Measured(bench), 12 if bench.smoke else STEPS
    repetitions, copies = (1, 1) if bench.smoke else (REPETITIONS, 2)

    def trained(attention: str, n: int, seed: int) -> dict[str, Any]:
        call = partial(train_peer, attention=attention)
        return alone(call, peer, data, bench.work / "trained-peer", n, seed)

    tried = {
        each: measured.once("peer_training", each, partial(trained, each, min(steps, 60), 0))
        for each in ATTENTIONS
    }
    attention = max(tried, key=lambda each: tried[each]["samples_per_cpu_second"])
    run = bench.work / "trained-textus"
    measured.compared(
        "training", "samples_per_cpu_second",
        {
            "textus": lambda seed: alone(train_textus, start, data, run, steps, seed),
            "peer": lambda seed: trained(attention, steps, seed),
        },
        repetitions,
    )  # fmt: skip
    asked = {
        f"{way}, {attends}, batches of {batch}": (way, attends, batch)
        for way, attends, batch in (WAYS[:1] if bench.smoke else WAYS)
    }
    tries = {
        name: measured.once(
            "peer_classifying",
            name,
            partial(alone, classify_peer, bench.work / "trained-peer", data["dev"], 1, how),
        )
        for name, how in asked.items()
    }
    best = max(tries, key=lambda name: tries[name]["texts_per_cpu_second"])
    measured.compared(
        "classifying", "texts_per_cpu_second",
        {
            "textus": lambda _: alone(classify_textus, run, data["test"], copies),
            "peer": lambda _: alone(classify_peer, bench.work / "trained-peer", data["test"], copies, asked[best]),
        },
        repetitions,
    )  # fmt: skip
    measured.data["peer_best"] = {"training": f"Trainer, {attention}", "classifying": best}
    bench.save(measured.data)
    tell(measured.data)


def tell(data: dict[str, Any]) -> None:
    """The figures for people."""
    rows = []
    for part in ("training", "classifying"):
        found = data[part]
        for side in ("textus", "peer"):
            speed, test = found[side], found["test"][side]
            rows.append([part, side, speed["median"], speed["min"], speed["max"], test["median"], ""])
        rows[-2][-1] = f"{found['ratio']:.2f} x"
    header = ["", "side", "a CPU-second", "least", "most", "accuracy on test, %", "ratio"]
    show("MiniLM on SST-2, one thread", header, rows)


if __name__ == "__main__":
    main()

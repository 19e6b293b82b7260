"""The LSTM language model: what `--preset 10min` makes of tiny Shakespeare.

As in `benchmarks.tiny_shakespeare`: characters, the whole last tenth scored after training; CPU-seconds of the whole
command. `benchmarks.family_speed` measures its training step. What is measured already is not measured again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks._measuring import Bench, begin, evaluated, shakespeare, show, textus
from benchmarks.tiny_shakespeare import figures


def quality(bench: Bench) -> dict[str, Any]:
    """One seed of the preset: its cost and its figures."""
    corpus, tokenizer, last_tenth = shakespeare(bench.work)
    out = bench.work / "run"
    budget = ["--steps", "5", "--set", "model.d_model=32"] if bench.smoke else ["--preset", "10min"]
    words: list[str | Path] = ["train", corpus, "--tokenizer", tokenizer, "--model", "lstm", *budget]
    command = textus([*words, "--seed", "0", "--out", out, "--force"], log=bench.work / "log.txt")
    return {
        "cpu_seconds": round(command.cpu, 1),
        "seconds": round(command.wall, 1),
        "trained_by": command.words,
        **figures(evaluated(out, last_tenth)),
    }


def main() -> None:
    """Train and score it, or show what is kept."""
    bench = begin("lstm", __doc__)
    found = bench.kept()
    if not found:
        found = quality(bench)
        bench.save(found)
    bits = found["bits_per_byte"]
    cells = [
        f"{found['nats_per_character']:.4f}",
        f"{bits['value']:.4f} ({bits['low']:.3f}–{bits['high']:.3f})",
        found["cpu_seconds"],
        found["seconds"],
    ]
    header = ["nats/char", "bits/byte (95 %)", "CPU-seconds", "seconds"]
    show("lstm, tiny Shakespeare, preset 10min, whole last tenth", header, [cells])


if __name__ == "__main__":
    main()

"""What an n-gram of order 5 over a byte-level BPE of 4,096 costs on `gutenberg_prose`, and how good it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks._measuring import DATA, begin, corpus, evaluated, show, spread, textus, tokenizer
from textus.core.io import read_json


def main() -> None:
    """Build what is missing, train three times, evaluate once."""
    bench = begin("ngram", __doc__)
    folder = DATA / "gutenberg_prose"
    books = sorted(path for path in folder.glob("*.txt") if path.name != "SOURCE.txt")
    built = corpus(bench.work / "corpus", *(books[:2] if bench.smoke else books or [folder]))
    vocabulary = tokenizer(bench.work / "bpe", built, "--kind", "bpe", "--vocab-size", "4096")
    out = bench.work / "run"
    words: list[str | Path] = [
        "train",
        built,
        "--model",
        "ngram",
        "--set",
        "model.order=5",
        "--tokenizer",
        vocabulary,
    ]
    runs: list[dict[str, Any]] = []
    for _ in range(1 if bench.smoke else 3):
        command = textus([*words, "--out", out, "--force"], log=bench.work / "log.txt")
        loop = read_json(out / "run.json")["cpu_seconds"]
        runs.append({"loop": loop, "command": command.cpu, "wall": command.wall, "words": command.words})
    found = evaluated(out)
    result = {
        "order": 5,
        "vocabulary": 4096,
        "loop_cpu_seconds": spread([run["loop"] for run in runs], 2),
        "command_cpu_seconds": spread([run["command"] for run in runs], 2),
        "seconds": spread([run["wall"] for run in runs], 2),
        "bits_per_byte": found["bits_per_byte"],
        "kind": found["kind"],
        "tokens_scored": found["tokens"],
        "trained_by": runs[0]["words"],
    }
    bits = found["bits_per_byte"]
    row = [
        *(f"{result[name]['median']:.1f}" for name in ("loop_cpu_seconds", "command_cpu_seconds", "seconds"))
    ]
    header = ["CPU-seconds of counting", "of the command", "seconds", "bits per byte"]
    row.append(f"{bits['value']:.4f} ({bits['low']:.3f}–{bits['high']:.3f})")
    show("n-gram, order 5, BPE 4,096, gutenberg_prose", header, [row])
    bench.save(result)


if __name__ == "__main__":
    main()

"""What an n-gram of order 5 over a byte-level BPE of 4,096 costs on `gutenberg_prose`, and how good it is."""

from __future__ import annotations

from benchmarks._material import books, corpus, tokenizer
from benchmarks._runner import begin, show, spread, with_interval
from textus.core.io import read_json


def main() -> None:
    """Build what is missing, train three times, evaluate once."""
    bench = begin("ngram", __doc__)
    built = corpus(bench, bench.work / "corpus", *books()[: 2 if bench.smoke else None])
    vocabulary = tokenizer(bench, bench.work / "bpe", built, "bpe", 4096)
    out = bench.work / "run"
    options = {"model": "ngram", "set": "model.order=5", "tokenizer": vocabulary, "out": out, "force": True}
    commands, loops = [], []
    for _ in range(1 if bench.smoke else 3):
        commands.append(bench.textus("train", built, **options))
        loops.append(read_json(out / "run.json")["cpu_seconds"])
    scores = bench.scores("evaluate", out)
    result = bench.result = {
        "order": 5,
        "vocabulary": 4096,
        "loop_cpu_seconds": spread(loops, 2),
        "command_cpu_seconds": spread([command.cpu for command in commands], 2),
        "seconds": spread([command.wall for command in commands], 2),
        "bits_per_byte": scores["bits_per_byte"],
        "kind": scores["kind"],
        "tokens_scored": scores["tokens"],
        "trained_by": commands[0].command,
    }
    costs = [
        f"{result[name]['median']:.1f}" for name in ("loop_cpu_seconds", "command_cpu_seconds", "seconds")
    ]
    header = ["CPU-seconds of counting", "of the command", "seconds", "bits per byte"]
    row = [*costs, with_interval(scores["bits_per_byte"], ".4f")]
    show("n-gram, order 5, BPE 4,096, gutenberg_prose", header, [row])
    bench.save()


if __name__ == "__main__":
    main()

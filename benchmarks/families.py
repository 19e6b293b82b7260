"""Every family of language model on the same text, three minutes each, in English and in Chinese.

Tiny Shakespeare by characters and a month of the People's Daily by byte-level BPE; a family is trained by `textus train
--model F --preset 3min` (families that count need seconds and take them), then `textus compare` scores the whole
held-out tenth with all of them. Kinds of likelihood are shown, and never ranked against each other.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks._material import corpus, data_file, shakespeare, tokenizer
from benchmarks._runner import REPOSITORY, Bench, begin, show
from textus.core.io import read_json, write_json

FAMILIES = ("ngram", "hmm", "rnn", "gru", "lstm", "decoder", "vae", "gan", "encoder")
TEXTS = ("shakespeare", "people_daily")


def chinese(bench: Bench, folder: Path) -> tuple[Path, Path, None]:
    """The People's Daily of January 1998 as corpus with its last tenth held out, and a tokenizer of it."""
    source = data_file("people_daily_1998", "199801_plain.txt")
    built = corpus(bench, folder / "corpus", source, split="tail:0.1")
    return built, tokenizer(bench, folder / "bpe", built, "bpe", 8192), None


def train(family: str, text: str, bench: Bench) -> Path:
    """The run of one family on one text."""
    built, ids, _ = material(text, bench)
    out = bench.work / text / family
    if not bench.finished(out):
        preset = "2s" if bench.smoke else "3min"
        command = bench.textus(
            "train", built, model=family, tokenizer=ids, preset=preset, out=out, force=True
        )
        cost = {"cpu_seconds": round(command.cpu, 1), "seconds": round(command.wall, 1)}
        write_json(bench.work / text / f"{family}.json", cost)
    return out


def material(text: str, bench: Bench) -> tuple[Path, Path, Path | None]:
    """Corpus, tokenizer, and the file to compare on (None: the corpus' validation split)."""
    return (shakespeare if text == "shakespeare" else chinese)(bench, bench.work / text)


def measure(text: str, bench: Bench) -> dict[str, Any]:
    """All families on one text: the comparison's rows, with what training each cost."""
    runs = [train(family, text, bench) for family in FAMILIES]
    out = bench.work / text / "comparison"
    comparison = bench.scores("compare", *runs, out=out, on=material(text, bench)[2])
    for row in comparison["rows"]:
        row["training"] = read_json(bench.work / text / f"{row['name']}.json")
    if not bench.smoke:
        shutil.copy(out / "comparison.png", REPOSITORY / "docs" / f"families-{text}.png")
    return {"measured": time.strftime("%Y-%m-%d %H:%M"), **comparison}


def main() -> None:
    """Both texts, one after the other."""
    bench = begin("families", __doc__, only=TEXTS, flag="--text")
    texts = bench.part("texts")
    for text in bench.chosen(TEXTS):
        bench.once(texts, text, measure, text, bench)
    header = ["kind", "rank", "family", "bits/byte", "parameters", "CPU-s to train", "CPU-s to score"]
    for text, comparison in texts.items():
        rows = [
            [row["kind"], row["rank"], row["name"], f"{row['bits_per_byte']['value']:.3f}", f"{row['parameters']:,}",
             row["training"]["cpu_seconds"], row["cpu_seconds"]]
            for row in comparison["rows"]
        ]  # fmt: skip
        show(text, header, rows)


if __name__ == "__main__":
    main()

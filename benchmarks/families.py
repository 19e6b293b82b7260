"""Every family of language model on the same text, three minutes each: one ruler for all, in English and in Chinese.

Tiny Shakespeare by characters and a month of the People's Daily by byte-level BPE; a family is trained by `textus train
--model F --preset 3min` (families that count need seconds and take them), then `textus compare` reads the whole
held-out tenth with all of them. Kinds of likelihood are shown, and never ranked against each other. A family that is
trained already is not trained again.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks._measuring import DATA, REPOSITORY, Bench, begin, corpus, shakespeare, show, textus, tokenizer

FAMILIES = ("ngram", "hmm", "rnn", "gru", "lstm", "decoder", "vae", "gan", "encoder")
TEXTS = ("shakespeare", "people_daily")


def chinese(folder: Path) -> tuple[Path, Path, None]:
    """The People's Daily of January 1998 as corpus with its last tenth held out, and a tokenizer of it."""
    built = corpus(folder / "corpus", DATA / "people_daily_1998" / "199801_plain.txt", split="tail:0.1")
    return built, tokenizer(folder / "bpe", built, "--kind", "bpe", "--vocab-size", "8192"), None


def train(family: str, text: str, bench: Bench) -> Path:
    """The run of one family on one text; made where it is not there."""
    built, ids, _ = material(text, bench)
    out = bench.work / text / family
    if not (out / "run.json").exists() or json.loads((out / "run.json").read_text())["status"] != "finished":
        budget = ["--preset", "2s" if bench.smoke else "3min"]
        words: list[str | Path] = [
            "train",
            built,
            "--model",
            family,
            "--tokenizer",
            ids,
            *budget,
            "--out",
            out,
            "--force",
        ]
        command = textus(words, log=bench.work / text / f"{family}.log")
        (bench.work / text / f"{family}.json").write_text(
            json.dumps({"cpu_seconds": round(command.cpu, 1), "seconds": round(command.wall, 1)})
        )
    return out


def material(text: str, bench: Bench) -> tuple[Path, Path, Path | None]:
    """Corpus, tokenizer, and the file to compare on (None: the corpus' validation split)."""
    return (shakespeare if text == "shakespeare" else chinese)(bench.work / text)


def measure(text: str, bench: Bench) -> dict[str, Any]:
    """All families on one text: the comparison's rows, with what training each cost."""
    runs = [train(family, text, bench) for family in FAMILIES]
    on = material(text, bench)[2]
    out = bench.work / text / "comparison"
    words: list[str | Path] = ["compare", *runs, "--out", out, "--json", *(["--on", on] if on else [])]
    found: dict[str, Any] = json.loads(textus(words).output)
    for row in found["rows"]:
        row["training"] = json.loads((bench.work / text / f"{row['name']}.json").read_text())
    if not bench.smoke:
        shutil.copy(out / "comparison.png", REPOSITORY / "docs" / f"families-{text}.png")
    return {"measured": time.strftime("%Y-%m-%d %H:%M"), **found}


def main() -> None:
    """Both texts, one after the other."""
    bench = begin("families", __doc__, text={"choices": TEXTS, "help": "only this one"})
    texts: dict[str, Any] = bench.kept().get("texts", {})
    for text in TEXTS:
        if text not in texts and bench.options.text in (None, text):
            texts[text] = measure(text, bench)
            bench.save({"texts": texts})
    for text, found in texts.items():
        rows = [
            [row["kind"], row["rank"], row["name"], f"{row['bits_per_byte']['value']:.3f}", f"{row['parameters']:,}",
             row["training"]["cpu_seconds"], row["cpu_seconds"]]
            for row in found["rows"]
        ]  # fmt: skip
        show(
            text,
            ["kind", "rank", "family", "bits/byte", "parameters", "CPU-s to train", "CPU-s to score"],
            rows,
        )


if __name__ == "__main__":
    main()

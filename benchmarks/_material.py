"""Data sets, corpora, tokenizers and the pretrained model that several benchmarks use."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks._runner import DATA, WORK, Bench

Rows = list[dict[str, str]]


# ── files ──────────────────────────────────────────────────────────────────────────────────────


def data_file(*parts: str) -> Path:
    """A file or folder of the data sets; SystemExit if it is missing."""
    path = DATA.joinpath(*parts)
    if not path.exists():
        raise SystemExit(f"{path} not found; set TEXTUS_DATA to the folder of the data sets")
    return path


def first_lines(bench: Bench, path: Path, n: int) -> Path:
    """The file; in a smoke run a copy of its first lines."""
    if not bench.smoke:
        return path
    part = bench.work / path.name
    with path.open(encoding="utf-8", newline="") as lines:
        part.write_text("".join(islice(lines, n)), encoding="utf-8", newline="")
    return part


def read_lines(path: Path) -> list[str]:
    """The lines of a file that are not blank."""
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    """Rows as JSON lines; the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    return path


# ── labelled texts: {"text", "label"} ──────────────────────────────────────────────────────────


def labelled_lines(path: Path) -> Rows:
    """Text, tab, class; no header."""
    return [dict(zip(("text", "label"), line.rsplit("\t", 1), strict=True)) for line in read_lines(path)]


def sst2(part: str, n: int | None = None) -> Rows:
    """Sentences of film reviews, good or bad; the usual three parts."""
    return labelled_lines(data_file("sst2", f"{part}.tsv"))[:n]


def thucnews(part: str) -> Rows:
    """Chinese headlines of ten kinds; the development file trains."""
    return labelled_lines(data_file("thucnews_titles", {"train": "dev.txt", "test": "test.txt"}[part]))


def banking(part: str) -> Rows:
    """Questions to a bank, of 77 intents."""
    with data_file("banking77", f"{part}.csv").open(encoding="utf-8", newline="") as lines:
        return [{"text": row["text"], "label": row["category"]} for row in csv.DictReader(lines)]


def shopping(part: str) -> Rows:
    """Chinese reviews of purchases, good or bad; the hash of the text assigns a tenth to the test set."""
    with zipfile.ZipFile(data_file("online_shopping_10_cats", "online_shopping_10_cats.zip")) as archive:
        text = archive.read("online_shopping_10_cats.csv").decode("utf-8-sig")
    return [
        {"text": row["review"], "label": row["label"], "category": row["cat"]}
        for row in csv.DictReader(io.StringIO(text))
        if (hashlib.sha256(row["review"].encode()).digest()[0] % 10 == 0) == (part == "test")
    ]


# ── plain texts ────────────────────────────────────────────────────────────────────────────────


def archived_texts(archive: str, pattern: str, encoding: str = "utf-8") -> Iterator[tuple[str, str]]:
    """Name and text of each member of an NLTK archive whose name matches, in order of names."""
    with zipfile.ZipFile(data_file("nltk_data", "corpora", f"{archive}.zip")) as members:
        for name in sorted(members.namelist()):
            if re.fullmatch(pattern, name):
                yield name, members.read(name).decode(encoding)


brown = partial(archived_texts, "brown", r"brown/c[a-r]\d\d")
movie_reviews = partial(archived_texts, "movie_reviews", r".*/cv.*\.txt")


def books() -> list[Path]:
    """The Gutenberg books."""
    folder = data_file("gutenberg_prose")
    return sorted(path for path in folder.glob("*.txt") if path.name != "SOURCE.txt")


# ── made by the `textus` command ───────────────────────────────────────────────────────────────


def corpus(bench: Bench, folder: Path, *sources: Path, split: str = "auto", column: str = "text") -> Path:
    """A corpus of a table's column; an existing one is reused."""
    if not (folder / "corpus.json").exists():
        settings = f"text_column={column}"
        bench.textus("corpus", "build", *sources, out=folder, split=split, set=settings, force=True)
    return folder


def tokenizer(
    bench: Bench, folder: Path, from_corpus: Path, kind: str, vocab_size: int | None = None
) -> Path:
    """A tokenizer; an existing one is reused."""
    if not (folder / "tokenizer.json").exists():
        options = {"kind": kind, "vocab_size": vocab_size}
        bench.textus("tokenizer", "train", from_corpus, out=folder, force=True, **options)
    return folder


def shakespeare(bench: Bench, folder: Path | None = None) -> tuple[Path, Path, Path]:
    """Tiny Shakespeare as corpus, its character tokenizer, and its last tenth as a file, the customary split."""
    folder = folder or bench.work
    source = data_file("tinyshakespeare", "input.txt")
    built = corpus(bench, folder / "corpus", source, split="tail:0.1")
    text = source.read_text(encoding="utf-8")
    tail = text[int(len(text) * 0.9) :]
    held_out = (json.loads(line)["text"] for line in (built / "validation.jsonl").open(encoding="utf-8"))
    if "".join(held_out) != tail:
        raise SystemExit(f"{built}: its validation split is not the last tenth of {source.name}")
    file = folder / "last-tenth.txt"
    file.write_text(tail, encoding="utf-8")
    return built, tokenizer(bench, folder / "char", built, "char"), file


def minilm(bench: Bench) -> Path:
    """The run of all-MiniLM-L6-v2; pulled if it is missing."""
    run = WORK / "pretrained" / "minilm"
    if not (run / "run.json").exists():
        bench.textus("pull", "minilm", out=run, force=True)
    return run


def pretrained_encoder(
    bench: Bench, out: Path, built: Path, tokenizer: Path, settings: Sequence[str]
) -> Path:
    """An encoder trained for `--preset`, in a smoke run for a few steps."""
    budget = {"steps": 10} if bench.smoke else {"preset": bench.options.preset}
    tiny = ("model.n_layer=1", "model.d_model=32", "model.n_head=2") if bench.smoke else ()
    bench.train(
        "train", built, model="encoder", tokenizer=tokenizer, **budget, set=[*settings, *tiny], out=out
    )
    return out

"""Sentences about films: SST-2 and NLTK's movie reviews, 4 to 24 words each, as corpora by the `textus` command.

`train` trains (SST-2's training sentences and seven tenths of the reviews); `other` are the sentences of the other
reviews, for a judge that shares no text with what it judges; `test` is SST-2's test set.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks._measuring import DATA, Bench, corpus, textus, tokenizer
from textus.core.io import read_json
from textus.data.batch import Batch
from textus.data.bucketing import BucketLoader
from textus.data.token_dataset import TokenDataset
from textus.tokenizers import Tokenizer

SHORTEST, LONGEST = 4, 24
VOCABULARY = 8000


@dataclass(frozen=True)
class Sentences:
    """The corpora of both parts, the tokenizer of the first, and the test sentences."""

    train: Path
    other: Path
    tokenizer: Path
    test: list[str]


def sst2(split: str) -> Iterator[str]:
    """The texts of a split."""
    for line in (DATA / "sst2" / f"{split}.tsv").read_text(encoding="utf-8").splitlines():
        yield line.rpartition("\t")[0]


def reviews(*, other: bool) -> Iterator[str]:
    """One sentence a line, as the set has them; three of ten reviews are kept apart."""
    with zipfile.ZipFile(DATA / "nltk_data" / "corpora" / "movie_reviews.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".txt") and "/cv" in name]
        for number, name in enumerate(sorted(names)):
            if (number % 10 >= 7) == other:
                yield from archive.read(name).decode("latin-1").splitlines()


def fitting(sentences: Iterable[str]) -> list[str]:
    """Those of a length, their spaces made single, each once, in order."""
    clean = (" ".join(sentence.split()) for sentence in sentences)
    return list(dict.fromkeys(each for each in clean if SHORTEST <= len(each.split()) <= LONGEST))


def prepared(bench: Bench) -> Sentences:
    """Build what is missing."""
    parts = {
        "train": fitting([*sst2("train"), *reviews(other=False)]),
        "other": fitting(reviews(other=True)),
    }
    folder = bench.work.parent / "sentences"
    folder.mkdir(parents=True, exist_ok=True)
    built = {}
    for name, sentences in parts.items():
        source = folder / f"{name}.jsonl"
        if not source.exists():
            kept = sentences[:2000] if bench.smoke else sentences
            source.write_text("".join(json.dumps({"text": each}) + "\n" for each in kept), encoding="utf-8")
        built[name] = corpus(folder / name, source)
    size = "500" if bench.smoke else str(VOCABULARY)
    words = tokenizer(folder / "words", built["train"], "--kind", "word", "--vocab-size", size)
    test = fitting(sst2("test"))
    return Sentences(built["train"], built["other"], words, test[:64] if bench.smoke else test)


def trained(
    bench: Bench, sentences: Sentences, family: str, name: str, steps: int, **settings: object
) -> tuple[Path, float]:
    """A run by the `textus` command, 64 sentences a step; one that is finished is taken as it is. Its folder, and
    the CPU-seconds of its training.
    """
    out = bench.work / name
    record = out / "run.json"
    if bench.options.again or not record.exists() or read_json(record).get("status") != "finished":
        given = {"train.batch_size": 64, "optim.optimiser": "adamw", "optim.weight_decay": 0.01, **settings}
        flags = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
        words = ["train", sentences.train, "--model", family, "--tokenizer", sentences.tokenizer]
        textus(
            [*words, "--steps", str(steps), *flags, "--out", out, "--force"], log=bench.work / f"{name}.txt"
        )
    return out, float(read_json(record)["cpu_seconds"])


def rows_of(texts: list[str], read: Tokenizer, context_length: int) -> list[Batch]:
    """Batches of the texts, one a row, by length; the order is the same for every model."""
    stream, starts = [read.end_id], []
    for ids in read.encode_batch(texts):
        starts.append(len(stream) - 1)
        stream += [*ids[: context_length - 1], read.end_id]
    store = TokenDataset(np.asarray(stream), np.asarray(starts, dtype=np.int64), {})
    loader = BucketLoader(store, batch_size=64, context_length=context_length, shuffle=False)
    return [loader.batch(number) for number in range(loader.n_batches)]

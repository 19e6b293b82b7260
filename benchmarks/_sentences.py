"""Sentences about films: SST-2 and NLTK's movie reviews, 4 to 24 words each, as corpora by the `textus` command.

`train` trains (SST-2's training sentences and seven tenths of the reviews); `other` are the sentences of the other
reviews, for a judge that shares no text with what it judges; `test` is SST-2's test set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks._material import corpus, movie_reviews, sst2, tokenizer, write_jsonl
from benchmarks._runner import Bench
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


def review_sentences(*, other: bool) -> Iterator[str]:
    """One sentence a line, as the set has them; three of ten reviews are kept apart."""
    for number, (_, text) in enumerate(movie_reviews(encoding="latin-1")):
        if (number % 10 >= 7) == other:
            yield from text.splitlines()


def of_length(sentences: Iterable[str]) -> list[str]:
    """Those of 4 to 24 words, with single spaces, without repetitions, in order."""
    clean = dict.fromkeys(" ".join(sentence.split()) for sentence in sentences)
    return [sentence for sentence in clean if SHORTEST <= len(sentence.split()) <= LONGEST]


def prepare(bench: Bench) -> Sentences:
    """Build what is missing."""
    train, test = ([row["text"] for row in sst2(part)] for part in ("train", "test"))
    parts = {
        "train": of_length([*train, *review_sentences(other=False)]),
        "other": of_length(review_sentences(other=True)),
    }
    folder = bench.work.parent / "sentences"
    built = {}
    for name, sentences in parts.items():
        source = folder / f"{name}.jsonl"
        if not source.exists():
            write_jsonl(source, ({"text": text} for text in sentences[: 2000 if bench.smoke else None]))
        built[name] = corpus(bench, folder / name, source)
    words = tokenizer(bench, folder / "words", built["train"], "word", 500 if bench.smoke else VOCABULARY)
    return Sentences(built["train"], built["other"], words, of_length(test)[: 64 if bench.smoke else None])


def train(
    bench: Bench, sentences: Sentences, family: str, name: str, steps: int, **settings: object
) -> tuple[Path, float]:
    """A run on the sentences, 64 a step, or the finished one of an earlier time; its folder, and the CPU-seconds of
    its training.
    """
    out = bench.work / name
    if not bench.finished(out):
        values = {"train.batch_size": 64, "optim.optimiser": "adamw", "optim.weight_decay": 0.01, **settings}
        bench.train(
            "train", sentences.train, model=family, tokenizer=sentences.tokenizer, steps=steps,
            set=[f"{key}={value}" for key, value in values.items()], out=out,
        )  # fmt: skip
    return out, float(read_json(out / "run.json")["cpu_seconds"])


def batches_of(texts: list[str], tokenizer: Tokenizer, context_length: int) -> list[Batch]:
    """Batches of the texts, one a row, by length; the order is the same for every model."""
    stream, starts = [tokenizer.end_id], []
    for ids in tokenizer.encode_batch(texts):
        starts.append(len(stream) - 1)
        stream += [*ids[: context_length - 1], tokenizer.end_id]
    store = TokenDataset(np.asarray(stream), np.asarray(starts, dtype=np.int64), {})
    loader = BucketLoader(store, batch_size=64, context_length=context_length, shuffle=False)
    return [loader.batch(number) for number in range(loader.n_batches)]

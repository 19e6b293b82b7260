"""A corpus as token ids on disk, memory-mapped.

It is one stream, `EOT d1 EOT d2 … EOT dN EOT`; targets are the stream shifted by one, so every id of every document,
and each document's end, is a target once. Made once for each tokenizer and kept in the corpus' folder.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np

from textus.core.console import log_notice, progress
from textus.core.errors import DataError, RunError
from textus.core.io import (
    fsync_path,
    read_json,
    remove_stale_files,
    resolve_record_file,
    staging_path,
    write_json,
)
from textus.core.locks import try_lock

if TYPE_CHECKING:
    from textus.data.corpus import Corpus
    from textus.tokenizers import Tokenizer


VERSION = 1

Side = Literal["text", "source_text"]


CHUNK = 1 << 20
"""Characters handed to the tokenizer at a time: enough for all threads, little enough to keep memory flat."""


@dataclass(frozen=True)
class TokenDataset:
    """A stream of ids, usually a memory map, and where each document begins.

    `ids` (N,) is `EOT d1 EOT d2 … EOT dN EOT`; `starts` (documents,) int64 is the index of the EOT before each.
    `record` describes its origin.
    """

    ids: np.ndarray
    starts: np.ndarray
    record: dict[str, Any]

    @property
    def n_tokens(self) -> int:
        """N, the ids in the stream, every EOT counted."""
        return len(self.ids)

    @property
    def n_targets(self) -> int:
        """M = N - 1: the first EOT predicts but is not predicted."""
        return max(0, len(self.ids) - 1)

    @property
    def n_documents(self) -> int:
        """How many documents the stream holds."""
        return len(self.starts)

    def document_of(self, positions: np.ndarray) -> np.ndarray:
        """The document each position belongs to; the EOT that begins a document belongs to it."""
        return np.searchsorted(self.starts, positions, side="right") - 1


def in_memory_dataset(
    ids: list[int] | np.ndarray, starts: list[int] | np.ndarray | None = None
) -> TokenDataset:
    """A token store in memory, from one sequence that begins with EOT."""
    return TokenDataset(np.asarray(ids), np.asarray([0] if starts is None else starts, dtype=np.int64), {})


def load_or_tokenize(
    corpus: Corpus, tokenizer: Tokenizer, split: str = "train", side: Side = "text"
) -> TokenDataset:
    """The ids of one split, made once and kept in `<corpus>/tokens/<tokenizer>/`; damaged, they are made again.

    Of a corpus of pairs `side` "source_text" gives the sources, document for document.

    Raises DataError: the split holds no text.
    """
    folder = Path(corpus.path) / "tokens" / tokenizer.fingerprint
    name = split if side == "text" else f"{split}.{side}"
    if (folder / f"{name}.json").exists():
        try:
            return _open(folder, name, corpus, tokenizer)
        except RunError as error:
            log_notice(f"{error}; making the ids again")
    return _write(folder, name, corpus, tokenizer, side)


class TokenizedCorpus:
    """A corpus and its tokenizer: the ids of a split are tokenized, opened and hashed once, when first needed."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer) -> None:
        self.corpus, self.tokenizer = corpus, tokenizer
        self._datasets: dict[tuple[str, Side], TokenDataset] = {}

    def dataset(self, split: str = "train", side: Side = "text") -> TokenDataset:
        """The ids of a split, as `load_or_tokenize` gives them."""
        if (split, side) not in self._datasets:
            self._datasets[split, side] = load_or_tokenize(self.corpus, self.tokenizer, split, side)
        return self._datasets[split, side]


def _open(folder: Path, name: str, corpus: Corpus, tokenizer: Tokenizer) -> TokenDataset:
    record = read_json(folder / f"{name}.json")
    if not isinstance(record, dict):
        raise RunError("damaged", f"{folder / name}.json holds no record of ids")
    expected = {"version": VERSION, "corpus": corpus.fingerprint, "tokenizer": tokenizer.fingerprint}
    for key, value in expected.items():
        if record.get(key) != value:
            raise RunError("damaged", f"{folder / name}.json has {key} {record.get(key)!r}, not {value!r}")
    files = record.get("files")
    if not isinstance(files, dict) or set(files) != {f"{name}.ids", f"{name}.starts"}:
        raise RunError("damaged", f"{folder / name}.json does not list its two files")
    for file in files:
        if not resolve_record_file(folder, file, files).exists():
            raise RunError("damaged", f"{folder / file} is missing or was changed")
    try:
        dataset = _map_files(folder, name, record)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            "damaged", f"{folder / name}.json was changed ({type(error).__name__}: {error})"
        ) from error
    for file, values in ((f"{name}.ids", dataset.ids), (f"{name}.starts", dataset.starts)):
        if hashlib.sha256(values.data).hexdigest() != files[file]:
            raise RunError("damaged", f"{folder / file} is missing or was changed")
    return dataset


def _map_files(folder: Path, name: str, record: dict[str, Any]) -> TokenDataset:
    if record["dtype"] not in DTYPES:
        raise ValueError(f"dtype {record['dtype']!r:.40} is none of {', '.join(DTYPES)}")
    ids = np.memmap(folder / f"{name}.ids", dtype=record["dtype"], mode="r")
    return TokenDataset(ids, np.fromfile(folder / f"{name}.starts", dtype="<i8"), record)


DTYPES = ("<u2", "<u4")
"""How ids are kept: two bytes each where the vocabulary allows it, else four."""


class _AtomicWriter:
    """Appends to a file that appears under its name only when it is whole; hashes on the way."""

    def __init__(self, path: Path) -> None:
        remove_stale_files(path)
        self.path = path
        self.staging = staging_path(path)
        self.file: BinaryIO = self.staging.open("wb")
        self.hold = contextlib.ExitStack()
        self.hold.enter_context(try_lock(self.staging))
        self.hash = hashlib.sha256()

    def append(self, values: np.ndarray) -> None:
        data = values.tobytes()
        self.hash.update(data)
        self.file.write(data)

    def finish(self) -> str:
        self.file.close()
        fsync_path(self.staging)
        self.staging.replace(self.path)
        return self.hash.hexdigest()

    def abandon(self) -> None:
        self.hold.close()
        self.file.close()
        self.staging.unlink(missing_ok=True)


def _write(folder: Path, name: str, corpus: Corpus, tokenizer: Tokenizer, side: Side) -> TokenDataset:
    """Tokenise part by part; the record is written last, so it vouches for whole files only."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").unlink(missing_ok=True)
    dtype = DTYPES[0] if tokenizer.vocab_size <= 1 << 16 else DTYPES[1]
    ids, starts = _AtomicWriter(folder / f"{name}.ids"), _AtomicWriter(folder / f"{name}.starts")
    split = name.partition(".")[0]
    try:
        with progress(f"tokenising {name}", _characters(corpus, split)) as advance:
            counts = _write_stream(
                ids, starts, np.dtype(dtype), tokenizer, _chunks(corpus, split, side), advance
            )
        if not counts["documents"]:
            raise DataError(
                "empty_data",
                f"the {split} split of {corpus.path} holds no text; build it with more documents",
            )
        files = {stream.path.name: stream.finish() for stream in (ids, starts)}
    finally:
        ids.abandon()
        starts.abandon()
    fsync_path(folder)
    record = {
        "version": VERSION,
        "corpus": corpus.fingerprint,
        "tokenizer": tokenizer.fingerprint,
        "dtype": dtype,
        **counts,
        "files": files,
    }
    write_json(folder / f"{name}.json", record)
    return _map_files(folder, name, record)


def _write_stream(
    ids: _AtomicWriter,
    starts: _AtomicWriter,
    dtype: np.dtype,
    tokenizer: Tokenizer,
    chunks: Iterator[list[tuple[str, str]]],
    advance: Callable[[int], None],
) -> dict[str, int]:
    """Write the stream; returns its counts. Parts of one document follow each other with no EOT between."""
    end = np.asarray([tokenizer.end_id], dtype=dtype)
    tokens, documents, characters, unknown = 0, 0, 0, 0
    current: str | None = None
    for chunk in chunks:
        encoded = tokenizer.encode_batch([text for _, text in chunk])
        for (name, text), row in zip(chunk, encoded, strict=True):
            if name != current:
                starts.append(np.asarray([tokens], dtype="<i8"))
                ids.append(end)
                tokens, documents, current = tokens + 1, documents + 1, name
            ids.append(np.asarray(row, dtype=dtype))
            tokens, characters = tokens + len(row), characters + len(text)
            unknown += row.count(tokenizer.unk_id) if tokenizer.unk_id is not None else 0
            advance(len(text))
    ids.append(end)
    if unknown:
        stem = ids.path.stem
        log_notice(
            f"{stem}: {unknown:,} of {tokens:,} ids are <unk>; a larger vocabulary or kind bpe has fewer"
        )
    return {"tokens": tokens + 1, "documents": documents, "characters": characters, "unknown": unknown}


def _characters(corpus: Corpus, split: str) -> float | None:
    count = getattr(corpus, "n_chars", None)
    return float(count(split)) if callable(count) else None


def _chunks(corpus: Corpus, split: str, side: Side) -> Iterator[list[tuple[str, str]]]:
    """(document id, text of one part) in lists of about CHUNK characters; each pair is a document."""
    chunk: list[tuple[str, str]] = []
    size = 0
    pairs = getattr(corpus, "has_pairs", False)
    for number, document in enumerate(corpus.documents(split)):
        text = document.text if side == "text" else str(document.source_text)
        chunk.append((f"{number}" if pairs else document.id, text))
        size += len(text)
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk

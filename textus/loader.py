"""Ids on disk, and batches cut from them: where text becomes tensors.

A token store is one stream, `EOT d1 EOT d2 … EOT dN EOT`; targets are the stream shifted by one, so every
id of every document, and each document's end, is a target once. Because the stream begins and ends with the
same id it is a ring: training windows may start anywhere and run over the seam, which gives every epoch the
same number of windows whatever its random phase.

Which rows a step sees is a function of (seed, step) only. Nothing is remembered between calls, so a resumed
run, or any number of workers that share out the steps, sees the same order.

Shapes: B rows, T positions of one window (`context_length`), N ids in the stream, M = N - 1 targets.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from textus.core.console import (
    notice,
    progress,
)
from textus.core.errors import (
    DataError,
    RunError,
    UsageError,
)
from textus.core.io import (
    beside_name,
    read_json,
    record_file,
    sha256,
    sweep,
    sync,
    write_json,
)
from textus.core.locks import held
from textus.core.rng import counter_seed

if TYPE_CHECKING:
    from textus.corpus import Corpus
    from textus.tokenizers import Tokenizer

VERSION = 1
Side = Literal["text", "source_text"]
CHUNK = 1 << 20
"""Characters handed to the tokenizer at a time: enough for all threads, little enough to keep memory flat."""


# ── batches ────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Batch:
    """What a model is trained and scored on. Tensors are (B, T); a target counts by its weight, zero is none.

    `documents` numbers the packed document each input belongs to (None: all one), so that attention can
    stop at its edge; `mask` is False on padding (None: no padding); `position` is the step that made it,
    `piece` which micro-batch of it this is.

    A pair of texts: `source` (B, S) int64 holds the ids of each row's source text, its end-of-text id, and
    more end-of-text ids as padding, so a source is read up to and including its first one (`pairs.real_source`)
    and no other mask is needed; `ids` begins with the start id (end-of-text, but for a few pretrained models),
    `targets` are the ids of the target text and its end-of-text id; both are padded with end-of-text at weight
    zero.

    `word_starts` says which targets begin a word. `segments` numbers the texts of a row that holds several, 0 on.
    `numbers` are columns of a table beside each row's text. `task` is the head that learns from it.
    """

    ids: Tensor  # (B, T) int64
    targets: Tensor  # (B, T) int64
    weights: Tensor  # (B, T) float32
    documents: Tensor | None = None  # (B, T) int64
    mask: Tensor | None = None  # (B, T) bool
    position: int = 0
    piece: int = 0
    source: Tensor | None = None  # (B, S) int64
    segments: Tensor | None = None  # (B, T) int64
    labels: Any = None
    word_starts: Tensor | None = None  # (B, T) bool
    numbers: Tensor | None = None  # (B, columns) float64
    task: str | None = None

    @property
    def n_targets(self) -> int:
        """How many targets have a weight above zero."""
        return int((self.weights > 0).sum())

    def micro(self, n: int) -> list[Batch]:
        """The rows in at most `n` pieces as equal as can be; their totals and weights add up."""
        if n < 1:
            raise UsageError("out_of_range", f"a batch cannot be split in {n} pieces; use 1 or more")
        bounds = np.linspace(0, len(self.ids), min(n, len(self.ids)) + 1).astype(int)
        pieces = itertools.pairwise(bounds)
        return [
            replace(self._rows(int(low), int(high)), piece=piece) for piece, (low, high) in enumerate(pieces)
        ]

    def _rows(self, low: int, high: int) -> Batch:
        return self._each(lambda tensor: tensor[low:high])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        changed: dict[str, Any] = {k: change(v) for k, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **changed)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))


# ── the stream on disk ─────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class TokenStore:
    """A stream of ids, usually a memory map, and where each document begins.

    `ids` (N,) is `EOT d1 EOT d2 … EOT dN EOT`; `starts` (documents,) int64 is the index of the EOT before
    each. `record` says where it came from.
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


def store_of(ids: list[int] | np.ndarray, starts: list[int] | np.ndarray | None = None) -> TokenStore:
    """A token store in memory, from one sequence that begins with EOT."""
    return TokenStore(np.asarray(ids), np.asarray([0] if starts is None else starts, dtype=np.int64), {})


def tokenize(corpus: Corpus, tokenizer: Tokenizer, split: str = "train", side: Side = "text") -> TokenStore:
    """The ids of one split, made once and kept in `<corpus>/tokens/<tokenizer>/`; damaged, they are made
    again.

    Of a corpus of pairs `side` "source_text" gives the sources, document for document.

    Raises:
        DataError: the split holds no text.
    """
    folder = Path(corpus.path) / "tokens" / tokenizer.fingerprint
    name = split if side == "text" else f"{split}.{side}"
    if (folder / f"{name}.json").exists():
        try:
            return _open(folder, name, corpus, tokenizer)
        except RunError as error:
            notice(f"{error}; making the ids again")
    return _write(folder, name, corpus, tokenizer, side)


def _open(folder: Path, name: str, corpus: Corpus, tokenizer: Tokenizer) -> TokenStore:
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
    for file, digest in files.items():
        path = record_file(folder, file, files)
        if not path.exists() or sha256(path) != digest:
            raise RunError("damaged", f"{path} is missing or was changed")
    try:
        return _map(folder, name, record)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            "damaged", f"{folder / name}.json was changed ({type(error).__name__}: {error})"
        ) from error


def _map(folder: Path, name: str, record: dict[str, Any]) -> TokenStore:
    if record["dtype"] not in DTYPES:
        raise ValueError(f"dtype {record['dtype']!r:.40} is none of {', '.join(DTYPES)}")
    ids = np.memmap(folder / f"{name}.ids", dtype=record["dtype"], mode="r")
    return TokenStore(ids, np.fromfile(folder / f"{name}.starts", dtype="<i8"), record)


DTYPES = ("<u2", "<u4")
"""How ids are kept: two bytes each where the vocabulary allows it, else four."""


class _Stream:
    """Appends to a file that appears under its name only when it is whole; hashes on the way."""

    def __init__(self, path: Path) -> None:
        sweep(path)
        self.path = path
        self.beside = beside_name(path)
        self.file: BinaryIO = self.beside.open("wb")
        self.hold = contextlib.ExitStack()
        self.hold.enter_context(held(self.beside))
        self.hash = hashlib.sha256()

    def append(self, values: np.ndarray) -> None:
        data = values.tobytes()
        self.hash.update(data)
        self.file.write(data)

    def finish(self) -> str:
        self.file.close()
        sync(self.beside)
        self.beside.replace(self.path)
        return self.hash.hexdigest()

    def abandon(self) -> None:
        self.hold.close()
        self.file.close()
        self.beside.unlink(missing_ok=True)


def _write(folder: Path, name: str, corpus: Corpus, tokenizer: Tokenizer, side: Side) -> TokenStore:
    """Tokenise part by part; the record is written last, so it vouches for whole files only."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").unlink(missing_ok=True)
    dtype = DTYPES[0] if tokenizer.vocab_size <= 1 << 16 else DTYPES[1]
    ids, starts = _Stream(folder / f"{name}.ids"), _Stream(folder / f"{name}.starts")
    split = name.partition(".")[0]
    try:
        with progress(f"tokenising {name}", _characters(corpus, split)) as advance:
            counts = _fill(ids, starts, np.dtype(dtype), tokenizer, _chunks(corpus, split, side), advance)
        if not counts["documents"]:
            raise DataError(
                "empty_data",
                f"the {split} split of {corpus.path} holds no text; build it with more documents",
            )
        files = {stream.path.name: stream.finish() for stream in (ids, starts)}
    finally:
        ids.abandon()
        starts.abandon()
    sync(folder)
    record = {
        "version": VERSION,
        "corpus": corpus.fingerprint,
        "tokenizer": tokenizer.fingerprint,
        "dtype": dtype,
        **counts,
        "files": files,
    }
    write_json(folder / f"{name}.json", record)
    return _map(folder, name, record)


def _fill(
    ids: _Stream,
    starts: _Stream,
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
        notice(f"{stem}: {unknown:,} of {tokens:,} ids are <unk>; a larger vocabulary or kind bpe has fewer")
    return {"tokens": tokens + 1, "documents": documents, "characters": characters, "unknown": unknown}


def _characters(corpus: Corpus, split: str) -> float | None:
    count = getattr(corpus, "n_chars", None)
    return float(count(split)) if callable(count) else None


def _chunks(corpus: Corpus, split: str, side: Side) -> Iterator[list[tuple[str, str]]]:
    """(document id, text of one part) in lists of about CHUNK characters; each pair is a document."""
    chunk: list[tuple[str, str]] = []
    size = 0
    pairs = getattr(corpus, "pairs", False)
    for number, document in enumerate(corpus.documents(split)):
        text = document.text if side == "text" else str(document.source_text)
        chunk.append((f"{number}" if pairs else document.id, text))
        size += len(text)
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


# ── windows for training ───────────────────────────────────────────────────────────────────────


def fitting_context(store: TokenStore, context_length: int) -> int:
    """`context_length`, or less where the whole stream is shorter than one window: then all of it."""
    return max(1, min(context_length, store.n_targets))


class Batches(Protocol):
    """What training reads: `batch(step)` is the same whenever it is asked for."""

    @property
    def n_batches(self) -> int:
        """Batches in one epoch."""
        ...

    @property
    def tokens_a_step(self) -> int:
        """Targets of a batch, about."""
        ...

    def batch(self, step: int) -> Batch:
        """The batch of a step, from 0."""
        ...


class Loader:
    """Batches of a token store; `batch(step)` depends on nothing but the seed and the step.

    Shuffled: each epoch draws a phase on the ring and a permutation of the windows that lie end to end from
    there, so no target comes twice in an epoch, and windows fall differently every epoch. All batches are
    full: the windows of one epoch are followed by the next epoch's.

    In order (`shuffle=False`): windows from the start; the last is padded, so that one pass of `n_batches`
    counts every target exactly once. `overlap` ids at the left of each window repeat the one before, with
    weight zero. `word_starts` (V,) bool is the tokenizer's, for batches that carry them.

    Raises:
        DataError: fewer than two ids. UsageError: sizes that cannot be.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        batch_size: int,
        context_length: int,
        seed: int = 0,
        overlap: int = 0,
        shuffle: bool = True,
        word_starts: np.ndarray | None = None,
    ) -> None:
        if len(store.ids) < 2:
            raise DataError(
                "too_little_data",
                f"the corpus has {len(store.ids)} tokens; training needs at least 2; add text",
            )
        if batch_size < 1 or context_length < 1:
            raise UsageError(
                "out_of_range",
                f"batch_size {batch_size} and context_length {context_length} must be 1 or more",
            )
        if not 0 <= overlap < context_length:
            raise UsageError(
                "out_of_range",
                f"overlap {overlap} must be 0 or more and below context_length {context_length}",
            )
        self.store = store
        self.batch_size = batch_size
        self.context_length = context_length
        self.seed = seed
        self.overlap = overlap
        self.shuffle = shuffle
        self.stride = context_length - overlap
        self.word_starts = word_starts
        self._epochs: dict[int, tuple[int, np.ndarray]] = {}

    @property
    def n_windows(self) -> int:
        """Windows in one epoch."""
        n_targets = self.store.n_targets
        if self.shuffle:
            return n_targets // self.stride if n_targets >= self.context_length else 1
        return 1 + max(0, math.ceil((n_targets - self.context_length) / self.stride))

    @property
    def n_batches(self) -> int:
        """Batches in one epoch: those that see no target twice (shuffled), or that see all (in order)."""
        if self.shuffle:
            return max(1, self.n_windows // self.batch_size)
        return math.ceil(self.n_windows / self.batch_size)

    @property
    def tokens_a_step(self) -> int:
        """Targets of a full batch."""
        return self.batch_size * self.stride

    def batch(self, step: int) -> Batch:
        """The batch of a step, from 0: `batch_size` rows; in order, the last of a pass may have fewer."""
        if step < 0:
            raise UsageError("out_of_range", f"step {step} is below 0")
        starts, fresh = self._shuffled(step) if self.shuffle else self._ordered(step)
        return self._gather(starts, fresh, step)

    def _shuffled(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the rows of a step start, and at which column their own targets begin."""
        n_windows, n_targets = self.n_windows, self.store.n_targets
        numbers = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        starts = np.empty(len(numbers), dtype=np.int64)
        for epoch in np.unique(numbers // n_windows):
            phase, order = self._epoch(int(epoch))
            rows = numbers // n_windows == epoch
            starts[rows] = (phase + order[numbers[rows] % n_windows] * self.stride) % n_targets
        return starts, np.full(len(starts), self.overlap if n_targets >= self.context_length else 0)

    def _epoch(self, epoch: int) -> tuple[int, np.ndarray]:
        """The phase and the permutation of an epoch; the last few are kept, being asked for every step."""
        if epoch not in self._epochs:
            if len(self._epochs) > 3:
                self._epochs.pop(next(iter(self._epochs)))
            random = np.random.Generator(np.random.Philox(counter_seed(self.seed, "epoch", epoch)))
            phase = int(random.integers(self.store.n_targets))
            self._epochs[epoch] = phase, random.permutation(self.n_windows)
        return self._epochs[epoch]

    def _ordered(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        first = (step % self.n_batches) * self.batch_size
        numbers = np.arange(first, min(first + self.batch_size, self.n_windows))
        return numbers * self.stride, np.where(numbers > 0, self.overlap, 0)

    def _gather(self, starts: np.ndarray, fresh: np.ndarray, step: int) -> Batch:
        """Cut the windows out of the stream. There is padding only in order, or where the stream is short."""
        n_targets = self.store.n_targets
        columns = np.arange(self.context_length)
        flat = starts[:, None] + columns  # (B, T)
        real = np.broadcast_to(columns < n_targets, flat.shape) if self.shuffle else flat < n_targets
        positions = np.where(real, flat % n_targets, 0)
        ids = np.where(real, self.store.ids[positions], self.store.ids[0]).astype(np.int64)
        targets = np.where(real, self.store.ids[positions + 1], self.store.ids[0]).astype(np.int64)
        weights = (real & (columns >= fresh[:, None])).astype(np.float32)
        documents = None
        if self.store.n_documents > 1:
            documents = torch.from_numpy(self.store.document_of(positions).astype(np.int64))
        return Batch(
            ids=torch.from_numpy(ids),
            targets=torch.from_numpy(targets),
            weights=torch.from_numpy(weights),
            documents=documents,
            mask=None if real.all() else torch.from_numpy(real.copy()),
            position=step,
            word_starts=self._starts_of(targets),
        )

    def _starts_of(self, targets: np.ndarray) -> Tensor | None:
        return None if self.word_starts is None else torch.from_numpy(self.word_starts[targets])


class SentencePairs(Loader):
    """Batches of rows `EOT A EOT B EOT` for next-sentence prediction (Devlin et al. 2019).

    A begins where a window of a `Loader` does and stays in its document, as does B. Half the rows have label
    0: B goes on where A ends, at a random place; the others 1: B is from a random place of the whole text.
    `segments` are 0 up to the second EOT, then 1. Targets are the ids themselves; EOT has weight zero.
    """

    def __init__(self, store: TokenStore, *, context_length: int, **settings: Any) -> None:
        if context_length < 5:
            raise UsageError(
                "out_of_range", f"context_length {context_length} must be 5 or more to hold a pair of texts"
            )
        super().__init__(store, context_length=context_length - 3, **settings)

    def _gather(self, starts: np.ndarray, fresh: np.ndarray, step: int) -> Batch:
        rows = [
            self._pair(int(start), counter_seed(self.seed, "pair", step, n)) for n, start in enumerate(starts)
        ]
        longest = max(len(first) + len(second) for first, second, _ in rows) + 3
        ids = np.full((len(rows), longest), self.store.ids[0], dtype=np.int64)
        segments, real = np.zeros(ids.shape, dtype=np.int64), np.zeros(ids.shape, dtype=bool)
        weights = np.zeros(ids.shape, dtype=np.float32)
        for row, (first, second, _) in enumerate(rows):
            middle, end = len(first) + 1, len(first) + len(second) + 2
            ids[row, 1:middle], ids[row, middle + 1 : end] = first, second
            weights[row, 1:middle] = weights[row, middle + 1 : end] = 1
            segments[row, middle + 1 : end + 1] = 1
            real[row, : end + 1] = True
        return Batch(
            ids=torch.from_numpy(ids),
            targets=torch.from_numpy(ids.copy()),
            weights=torch.from_numpy(weights),
            mask=None if real.all() else torch.from_numpy(real),
            position=step,
            segments=torch.from_numpy(segments),
            labels=torch.tensor([label for _, _, label in rows]),
            word_starts=self._starts_of(ids),
        )

    def _pair(self, start: int, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Ids of A and of B, and the label."""
        random = np.random.Generator(np.random.Philox(seed))
        text = self._stretch(start, self.context_length)
        if len(text) < 2:  # a document of one id: nothing follows
            return text, self._stretch(int(random.integers(self.store.n_targets)), self.context_length - 1), 1
        cut = int(random.integers(1, len(text)))
        if random.random() < 0.5:
            return text[:cut], text[cut:], 0
        place = int(random.integers(self.store.n_targets))
        return text[:cut], self._stretch(place, len(text) - cut), 1

    def _stretch(self, start: int, length: int) -> np.ndarray:
        """At most `length` ids of the document at `start`; from there on, or where it is short, from before."""
        number = int(self.store.document_of(np.asarray(start)))
        bounds = np.append(self.store.starts, len(self.store.ids) - 1)
        low, high = int(bounds[number]) + 1, int(bounds[number + 1])
        begin = max(low, min(start, high - length))
        return np.asarray(self.store.ids[begin : min(begin + length, high)])


# ── windows for scoring ────────────────────────────────────────────────────────────────────────


def windows(
    ids: list[int] | np.ndarray, context_length: int, stride: int | None = None, *, batch_size: int = 1
) -> Iterator[Batch]:
    """Batches over one sequence that begins with EOT, in order, each target scored exactly once.

    Windows do not overlap, or with `stride` below `context_length` each starts that much after the one
    before, and what was scored already only serves as context (weight zero).

    Raises:
        DataError: fewer than two ids. UsageError: a stride outside 1 … context_length.
    """
    stride = context_length if stride is None else stride
    if not 1 <= stride <= context_length:
        raise UsageError(
            "out_of_range", f"stride {stride} must lie between 1 and the context length {context_length}"
        )
    loader = Loader(
        store_of(ids),
        batch_size=batch_size,
        context_length=context_length,
        overlap=context_length - stride,
        shuffle=False,
    )
    for step in range(loader.n_batches):
        yield loader.batch(step)

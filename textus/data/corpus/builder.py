"""Documents to a folder, in two passes, so that memory does not grow with the corpus.

The first pass reads, repairs and hashes every document into a staging file, with one fixed-size row each in an index.
Duplicates are then found one bucket of hashes at a time, and the split is chosen. The second pass copies the kept
documents to `train.jsonl` and `validation.jsonl` and lists the others in `dropped.jsonl`. `corpus.json` is written
last, and the folder appears whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from textus.core.config import VERSION, to_dict
from textus.core.console import log_notice, progress, to_printable
from textus.core.errors import DataError, TextusError, UsageError
from textus.core.io import atomic_folder, check_output_dir, is_disk_full, sha256, write_json
from textus.data.corpus.aligned import is_aligned, read_aligned
from textus.data.corpus.decoding import Guesses
from textus.data.corpus.dialects import parse_delimiter
from textus.data.corpus.documents import (
    PART_CHARS,
    SPLITS,
    CorpusSettings,
    Document,
    MissingColumnError,
    RawDocument,
    SkippedItem,
    UnreadableError,
    parse_split,
)
from textus.data.corpus.readers import named_fields, read_source
from textus.data.corpus.repair import repair, split_parts
from textus.data.corpus.sources import SUFFIXES, Source, scan, total_bytes
from textus.data.corpus.store import Corpus, open_corpus
from textus.data.corpus.tables import ReadConfig, parse_columns


class IndexRow(NamedTuple):
    """One document in the index, 48 bytes."""

    high: int  # the hash of the text: its first half is the id
    low: int  # its second half, which is independent of the id, decides the split
    position: int  # in the staging file
    chars: int
    bytes: int
    parts: int
    offset_in_chars: int


ROW = np.dtype(list(zip(IndexRow._fields, ("<u8", "<u8", "<i8", "<i8", "<i8", "<i4", "<i4"), strict=True)))
pack_row = struct.Struct("<QQqqqii").pack
ROWS_READ = 1 << 16
BUCKET = 1 << 19
"""Documents whose hashes are compared at a time: some 30 MB."""

FEW_DOCUMENTS = 20
SHOWN_EXAMPLES = 5
"""So many files of a kind are named on the screen; dropped.jsonl names all."""

Line = bytes

to_json = json.JSONEncoder(ensure_ascii=False).encode


def build(
    sources: Sequence[str | Path],
    out: Path,
    *,
    settings: CorpusSettings = CorpusSettings(),
    force: bool = False,
) -> Corpus:
    """Build a corpus at `out` from files and folders (walked in sorted order).

    Raises UsageError if `out` exists (unless `force` and it is a corpus), DataError if nothing can be read or a path is
    not found. Unreadable files and tables without the columns are left out, listed in `dropped.jsonl` and reported.
    """
    sources = [sources] if isinstance(sources, str | Path) else list(sources)
    if not sources:
        raise UsageError("missing_argument", "no source given; name at least one file or folder of text")

    columns = parse_columns(settings.columns)

    def gather(stage: StagingArea) -> None:
        with progress("reading", total_bytes(sources)) as advance:
            if is_aligned(columns):
                for raw in read_aligned(
                    [Path(path) for path in sources], columns, settings.encoding, advance
                ):
                    stage.add(raw)
                stage.n_files = len(sources)
                stage.sources += [{"path": str(path)} for path in sources]
                return
            for given in sources:
                before = len(stage)
                for source in scan([given], out, advance):
                    stage_source(source, stage, settings)
                stage.sources.append({"path": to_printable(str(given)), "documents": len(stage) - before})

    return build_in(gather, out, settings, force, " and ".join(map(str, sources)))


def build_from_documents(
    documents: Iterable[Document],
    out: Path,
    *,
    settings: CorpusSettings = CorpusSettings(),
    force: bool = False,
) -> Corpus:
    """Build a corpus from documents made in Python: repaired, deduplicated and split like those from files.

    `text`, `source`, `offset`, `steps` and `source_text` of each are used; ids are computed from the repaired text.
    """

    def gather(stage: StagingArea) -> None:
        with progress("reading") as advance:
            for document in documents:
                raw = RawDocument(document.source, document.offset, [document.text], document.steps)
                stage.add(replace(raw, source_text=document.source_text))
                advance(len(document.text))
        stage.sources.append({"path": "documents given in Python", "documents": len(stage)})

    return build_in(gather, out, settings, force, "the documents given")


def read_config(settings: CorpusSettings) -> ReadConfig:
    """How tables are read, by the settings. Raises UsageError for columns or a delimiter that cannot be used."""
    columns = parse_columns(settings.columns)
    if settings.text_column != "text":
        if columns:
            raise UsageError(
                "conflicting_options",
                f"text_column={settings.text_column} and columns {settings.columns!r} both name columns; give"
                f" --columns text={settings.text_column} alone",
            )
        columns = {settings.text_column: "text"}
    reading = ReadConfig(columns, settings.encoding, parse_delimiter(settings.delimiter))
    named_fields(reading)
    return reading


def stage_source(source: Source | SkippedItem, stage: StagingArea, settings: CorpusSettings) -> None:
    """Stage the documents of one source; one that turns out unreadable on the way leaves nothing behind."""
    if isinstance(source, SkippedItem):
        stage.drop(source)
        return
    before = stage.mark()
    try:
        noted = replace(source, on_encoding=lambda encoding: stage.guesses.add(source.name, encoding))
        for item in read_source(noted, read_config(settings)):
            if isinstance(item, SkippedItem):
                stage.drop(item)
            else:
                stage.add(item)
        stage.n_files += 1
    except UnreadableError as error:
        stage.rollback(before)
        reason = "column not found" if isinstance(error, MissingColumnError) else "unreadable"
        stage.drop(SkippedItem(source.name, reason, str(error)))


def build_in(
    gather: Callable[[StagingArea], None], out: Path, settings: CorpusSettings, force: bool, looked_in: str
) -> Corpus:
    """Both passes, inside a folder that appears at `out` when all is done."""
    settings.check()
    read_config(settings)
    check_output_dir(out, force=force, kind="corpus")
    try:
        with atomic_folder(out) as folder:
            with StagingArea(folder / "staging", settings) as stage:
                gather(stage)
                if not len(stage):
                    raise empty_corpus_error(looked_in, stage)
                record = write_splits(stage, folder, settings)
            shutil.rmtree(folder / "staging")
            record["files"] = {name: sha256(folder / name) for name in sorted(os.listdir(folder))}  # noqa: PTH208
            write_json(folder / "corpus.json", record)
        report_dropped(stage)  # not before: it names a file of the corpus
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise TextusError(
            "disk_full",
            f"no space left while writing {out}; nothing of it was kept; free some space: it takes twice the size "
            "of its text while it is built",
        ) from error
    return open_corpus(out)


def empty_corpus_error(looked_in: str, stage: StagingArea) -> DataError:
    """The error for a corpus without a document."""
    why = "; ".join(
        f"{count} {reason}: {stage.examples[reason][0]}" for reason, count in sorted(stage.reasons.items())
    )
    return DataError(
        "empty_data",
        f"no text to read in {looked_in}"
        + (f" (left out: {why})" if why else " (empty)")
        + f"; read are {SUFFIXES}",
    )


# ── first pass ─────────────────────────────────────────────────────────────────────────────────


class StagingArea:
    """The documents on their way: a line a part in `parts` (chars, bytes, JSON), a row each in `index`."""

    def __init__(self, folder: Path, settings: CorpusSettings) -> None:
        folder.mkdir()
        self.folder, self.settings = folder, settings
        self.parts = (folder / "parts").open("w+b")
        self.index = (folder / "index").open("w+b")
        self.dropped = (folder.parent / "dropped.jsonl").open("wb")
        self.position = 0
        self.n_documents = self.n_files = 0
        self.pairs: bool | None = None
        self.reasons: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}
        self.replaced: Counter[str] = Counter()
        self.guesses = Guesses()
        self.sources: list[dict[str, Any]] = []

    def __enter__(self) -> StagingArea:
        return self

    def __exit__(self, *exception: object) -> None:
        for file in (self.parts, self.index, self.dropped):
            file.close()

    def __len__(self) -> int:
        return self.n_documents

    def mark(self) -> tuple[int, int]:
        return self.position, self.n_documents

    def rollback(self, mark: tuple[int, int]) -> None:
        """Forget what was added since the mark."""
        self.position, self.n_documents = mark
        for file, end in ((self.parts, self.position), (self.index, self.n_documents * ROW.itemsize)):
            file.seek(end)
            file.truncate()

    def add(self, raw: RawDocument) -> None:
        """Repair and stage one document, part by part."""
        before = self.mark()
        digest = hashlib.blake2b(digest_size=16)
        n_parts = n_chars = n_bytes = n_visible = 0
        head = f'"source": {to_json(raw.source)}, "offset": '
        given, given_steps, given_json = self.add_source_text(raw, digest)
        for text in split_parts(raw.blocks):
            text, steps = repair(text, normalise=self.settings.normalise)
            data = text.encode()
            digest.update(data)
            offset = raw.offset + (n_chars if raw.offset_in_chars else 0)
            steps_json = to_json([*raw.steps, *given_steps, *steps])
            line = (
                f'{len(text)} {len(data)} {head}{offset}, "steps": {steps_json}, {given_json}'
                f'"text": {to_json(text)}}}\n'
            )
            self.position += self.parts.write(line.encode())
            self.count_replaced(raw.source, steps)
            if not n_parts:
                self.count_replaced(raw.source, [step for step in raw.steps if step.startswith("replaced:")])
            n_parts += 1
            n_chars += len(text)
            n_bytes += len(data)
            n_visible += len(text.strip())
        if given is not None and (n_parts > 1 or len(given) > PART_CHARS):
            self.rollback(before)
            self.drop(SkippedItem(raw.source, "pair too long", f"over {PART_CHARS:,} characters", raw.offset))
            return
        n_visible = min(n_visible, n_visible if given is None else len(given.strip()))
        if n_visible < self.settings.min_chars:
            self.rollback(before)
            reason = "empty" if n_visible == 0 else "too short"
            self.drop(SkippedItem(raw.source, reason, f"{n_visible} characters", raw.offset))
            return
        high, low = (int.from_bytes(half, "big") for half in (digest.digest()[:8], digest.digest()[8:]))
        self.index.write(pack_row(high, low, before[0], n_chars, n_bytes, n_parts, raw.offset_in_chars))
        self.n_documents += 1

    def add_source_text(self, raw: RawDocument, digest: Any) -> tuple[str | None, list[str], str]:
        """A pair's source, repaired and hashed, its steps and its JSON. Raises DataError where pairs and plain texts
        are mixed.
        """
        if self.pairs is not None and self.pairs != (raw.source_text is not None):
            raise DataError(
                "mixed_data",
                f"{raw.source}: pairs (columns source and target) and plain texts cannot be one corpus;"
                " build a corpus of each",
            )
        self.pairs = raw.source_text is not None
        if raw.source_text is None:
            return None, [], ""
        given, steps = repair(raw.source_text, normalise=self.settings.normalise)
        data = given.encode()
        digest.update(b"%d " % len(data) + data)
        self.count_replaced(raw.source, steps)
        return given, [f"source:{step}" for step in steps], f'"source_text": {to_json(given)}, '

    def count_replaced(self, source: str, steps: Sequence[str]) -> None:
        if steps and steps[0].startswith("replaced:"):
            self.replaced[source if len(self.replaced) < 1000 else "other files"] += int(steps[0][9:])

    def drop(self, dropped: SkippedItem, **more: Any) -> None:
        """Write down what is left out, and why."""
        record = {key: value for key, value in asdict(dropped).items() if value not in (None, "")} | more
        self.dropped.write(to_json(record).encode("utf-8", "replace") + b"\n")
        self.reasons[dropped.reason] += 1
        examples = self.examples.setdefault(dropped.reason, [])
        if len(examples) < SHOWN_EXAMPLES:
            examples.append(f"{dropped.source} ({dropped.detail})" if dropped.detail else dropped.source)

    def rows(self) -> Iterator[np.ndarray]:
        """The index, some rows at a time."""
        self.index.flush()
        with (self.folder / "index").open("rb") as file:
            while len(chunk := np.fromfile(file, ROW, ROWS_READ)):
                yield chunk


def report_dropped(stage: StagingArea) -> None:
    """Report what was left out or replaced: a line for each reason, with the first few names."""
    for reason, count in sorted(stage.reasons.items()):
        if reason == "duplicate":
            log_notice(f"left out, duplicate: {count:,} (which of which is in dropped.jsonl)")
            continue
        more = f" and {count - SHOWN_EXAMPLES:,} more" if count > SHOWN_EXAMPLES else ""
        names = ", ".join(stage.examples[reason]) + more
        log_notice(f"left out, {reason}: {count:,}: {names} (all in dropped.jsonl)")
        if reason == "suffix not read":
            log_notice(f"read are {SUFFIXES}")
    if guesses := str(stage.guesses):
        log_notice(guesses)
    for source, count in sorted(stage.replaced.items())[:SHOWN_EXAMPLES]:
        log_notice(f"{source}: {count:,} broken bytes replaced by U+FFFD")
    if len(stage.replaced) > SHOWN_EXAMPLES:
        log_notice(
            f"broken bytes replaced in {len(stage.replaced) - SHOWN_EXAMPLES:,} more files, see their documents' steps"
        )


# ── between the passes ─────────────────────────────────────────────────────────────────────────


def find_duplicates(stage: StagingArea) -> None:
    """Write to `firsts`, for each document, 1 + the position of the first of the same text, or 0."""
    with (stage.folder / "firsts").open("wb") as file:
        file.truncate(8 * len(stage))
        n_buckets = len(stage) // BUCKET + 1
        for bucket in range(n_buckets if stage.settings.deduplicate else 0):
            for number, first in iter_duplicates(stage, bucket, n_buckets):
                os.pwrite(file.fileno(), (first + 1).to_bytes(8, "little"), 8 * number)


def iter_duplicates(stage: StagingArea, bucket: int, n_buckets: int) -> Iterator[tuple[int, int]]:
    """(number of a duplicate, position of the first of the same text) among the hashes of one bucket."""
    numbers, rows, start = [], [], 0
    for chunk in stage.rows():
        inside = np.flatnonzero(chunk["high"] % np.uint64(n_buckets) == bucket)
        numbers.append(start + inside)
        rows.append(chunk[["high", "low", "position"]][inside])
        start += len(chunk)
    number, row = np.concatenate(numbers), np.concatenate(rows)
    order = np.lexsort((number, row["low"], row["high"]))
    number, row = number[order], row[order]
    same = (row["high"][1:] == row["high"][:-1]) & (row["low"][1:] == row["low"][:-1])
    same = np.concatenate([[False], same])
    first = np.maximum.accumulate(np.where(same, 0, np.arange(len(row))))
    yield from zip(number[same].tolist(), row["position"][first[same]].tolist(), strict=True)


def iter_kept(stage: StagingArea) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, firsts) of all documents, some at a time; firsts is 0 where the document is kept."""
    with (stage.folder / "firsts").open("rb") as file:
        for chunk in stage.rows():
            yield chunk, np.fromfile(file, "<i8", len(chunk))


def is_validation(rows: np.ndarray, fraction: float) -> np.ndarray:
    """Which documents validate, decided by the hash of their text alone."""
    return rows["low"].astype(np.float64) / 2.0**64 < fraction


def choose_split(stage: StagingArea, settings: CorpusSettings) -> tuple[str, float]:
    """The split to use; where it is chosen here, or leaves nothing to validate on, that is reported."""
    kind, fraction = parse_split(settings.split)
    if stage.pairs and kind == "tail":
        raise UsageError(
            "conflicting_options",
            f"--split {settings.split} would cut pairs in two; use hash:{fraction:g} or none",
        )
    if stage.pairs and kind == "auto":
        kind = "hash"
    n_kept = n_bytes = n_validation = 0
    for rows, firsts in iter_kept(stage):
        kept = rows[firsts == 0]
        n_kept += len(kept)
        n_bytes += int(kept["bytes"].sum())
        n_validation += int(kept["bytes"][is_validation(kept, fraction)].sum())
    share = n_validation / max(1, n_bytes)
    if kind == "hash" and n_validation in (0, n_bytes):
        side = "nothing validates" if n_validation == 0 else "everything validates and nothing trains"
        other = "give more of them" if stage.pairs else f"tail:{fraction:g} would split inside them"
        log_notice(f"split {settings.split}: of {n_kept} documents {side}; {other}")
    if kind != "auto":
        return kind, fraction
    if n_kept < FEW_DOCUMENTS:
        reason = f"{n_kept} document{'s are' if n_kept > 1 else ' is'} too few to split by hash"
    elif not 0.2 * fraction < share < 3 * fraction:
        reason = f"by hash {share:.1%} of the text would validate"
    else:
        return "hash", fraction
    log_notice(f"{reason}: the last {fraction:.0%} of each document validates (--split chooses)")
    return "tail", fraction


# ── second pass ────────────────────────────────────────────────────────────────────────────────


@dataclass
class SplitWriter:
    """One split on its way to disk: its file, its counts, and the hash of what it holds."""

    name: str
    path: Path
    documents: int = 0
    parts: int = 0
    chars: int = 0
    bytes: int = 0
    content: Any = field(default_factory=hashlib.sha256)

    def __post_init__(self) -> None:
        self.file = self.path.open("wb")

    def begin_document(self, digest: str, start: int, end: int) -> None:
        """A document, or the piece of it from character `start` to `end`."""
        self.documents += 1
        self.part = 0
        self.id = digest[:16]
        self.content.update(f"{digest} {start} {end}\n".encode())

    def write(self, rest: Line, n_chars: int, n_bytes: int) -> None:
        self.file.write(b'{"id": "%s", "part": %d, ' % (self.id.encode(), self.part) + rest)
        self.part += 1
        self.parts += 1
        self.chars += n_chars
        self.bytes += n_bytes

    def counts(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("documents", "parts", "chars", "bytes")}


def write_splits(stage: StagingArea, folder: Path, settings: CorpusSettings) -> dict[str, Any]:
    """The second pass; returns the record of the corpus, but for the hashes of its files."""
    find_duplicates(stage)
    kind, fraction = choose_split(stage, settings)
    train, validation = sides = [SplitWriter(name, folder / f"{name}.jsonl") for name in SPLITS]
    stage.parts.flush()
    with progress("writing", stage.position) as advance, (stage.folder / "parts").open("rb") as file:
        for rows, firsts in iter_kept(stage):
            right = is_validation(rows, fraction) if kind == "hash" else np.zeros(len(rows), bool)
            for values, first, validating in zip(rows.tolist(), firsts.tolist(), right.tolist(), strict=True):
                row = IndexRow._make(values)
                file.seek(row.position)
                if first:
                    drop_duplicate(stage, row, first - 1)
                elif kind == "tail":
                    copy_split_document(row, file, train, validation, int((1 - fraction) * row.chars))
                else:
                    copy_document(row, file, validation if validating else train)
                advance(row.bytes)
    for side in sides:
        side.file.close()
    split = kind if kind == "none" else f"{kind}:{fraction:g}"
    return corpus_record(stage, sides, split, settings)


def corpus_record(
    stage: StagingArea, sides: list[SplitWriter], split: str, settings: CorpusSettings
) -> dict[str, Any]:
    """The content of corpus.json, without the hashes of its files."""
    content = {side.name: side.content.hexdigest() for side in sides}
    return {
        "version": VERSION,
        "kind": "corpus",
        "fingerprint": hashlib.sha256("".join(content.values()).encode()).hexdigest()[:16],
        "settings": to_dict(settings),
        "split": split,
        **({"pairs": True} if stage.pairs else {}),
        "sources": stage.sources,
        "n_files": stage.n_files,
        "counts": {side.name: side.counts() for side in sides},
        "dropped": dict(sorted(stage.reasons.items())),
        "replaced_bytes": sum(stage.replaced.values()),
    }


def hex_digest(row: IndexRow) -> str:
    return f"{row.high:016x}{row.low:016x}"


def copy_document(row: IndexRow, file: Any, side: SplitWriter) -> None:
    """A whole document to one side."""
    side.begin_document(hex_digest(row), 0, row.chars)
    for _ in range(row.parts):
        n_chars, n_bytes, rest = file.readline().split(b" ", 2)
        side.write(rest, int(n_chars), int(n_bytes))


def copy_split_document(
    row: IndexRow, file: Any, train: SplitWriter, validation: SplitWriter, cut: int
) -> None:
    """A document to both sides: its first `cut` characters train, the rest validates."""
    n_chars, digest, position = row.chars, hex_digest(row), 0
    for side, start, end in ((train, 0, cut), (validation, cut, n_chars)):
        if start < end:
            side.begin_document(digest, start, end)
    for _ in range(row.parts):
        chars, size, rest = file.readline().split(b" ", 2)
        end = position + int(chars)
        if end <= cut or position >= cut:
            (train if end <= cut else validation).write(rest, int(chars), int(size))
        else:
            part = json.loads(b"{" + rest)
            text, at = part["text"], cut - position
            write_piece(train, part, text[:at], 0)
            write_piece(validation, part, text[at:], at if row.offset_in_chars else 0)
        position = end


def write_piece(side: SplitWriter, part: dict[str, Any], text: str, moved: int) -> None:
    """A piece of a part that was cut in two, `moved` characters on in its source."""
    piece = {"source": part["source"], "offset": part["offset"] + moved, "steps": part["steps"], "text": text}
    side.write(to_json(piece)[1:].encode() + b"\n", len(text), len(text.encode()))


def drop_duplicate(stage: StagingArea, row: IndexRow, first: int) -> None:
    """Write down which document this one repeats."""
    own, original = (source_location(stage, position) for position in (row.position, first))
    name = f"{original['source']}, offset {original['offset']}"
    dropped = SkippedItem(own["source"], "duplicate", f"same text as {name}", own["offset"])
    stage.drop(dropped, id=hex_digest(row)[:16], duplicate_of=original)


def source_location(stage: StagingArea, position: int) -> dict[str, Any]:
    """Source and offset of the document staged at a position; its text is not read."""
    head = os.pread(stage.parts.fileno(), 1 << 16, position).split(b" ", 2)[2]
    text = head.decode("utf-8", "ignore")
    source, end = json.JSONDecoder().raw_decode(text, len('"source": '))
    offset, _ = json.JSONDecoder().raw_decode(text, end + len(', "offset": '))
    return {"source": source, "offset": offset}

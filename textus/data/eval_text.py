"""Texts for evaluation: strings, a file, a split of a corpus, pairs of texts; read as often as needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from textus.core.console import log_notice
from textus.core.errors import DataError, UsageError
from textus.data.corpus.decoding import BROKEN, decode, detect_encoding
from textus.data.corpus.documents import (
    MissingColumnError,
    SkippedItem,
    UnreadableError,
    translate_read_errors,
)
from textus.data.corpus.readers import read_source
from textus.data.corpus.repair import replace_surrogates, split_parts
from textus.data.corpus.sources import COMPRESSED, KINDS, TARS, Source, read_blocks, scan
from textus.data.corpus.tables import ReadConfig, parse_columns, silent


@dataclass(frozen=True)
class TextChunk:
    """A stretch of text; if it `continues`, it belongs to the document before it. `source` is a pair's source text."""

    text: str
    continues: bool = False
    source: str | None = None


@dataclass(frozen=True)
class EvalText:
    """A text for evaluation: its name, its size in bytes as given, and a function that reads its chunks."""

    name: str
    n_bytes: int
    read: Callable[[], Iterable[TextChunk]]

    def __iter__(self) -> Iterator[TextChunk]:
        return iter(self.read())


def to_eval_text(given: Any, n_bytes: int | None = None) -> EvalText:
    """Strings (each a document), one string, or a `EvalText` as it is; `n_bytes` if not their UTF-8 length."""
    if isinstance(given, EvalText):
        return given if n_bytes is None else replace(given, n_bytes=n_bytes)
    whole = [given] if isinstance(given, str) else list(given)
    size = sum(len(text.encode()) for text in whole) if n_bytes is None else n_bytes
    return EvalText("text", size, lambda: (part for text in whole for part in chunk_document([text])))


def chunk_document(document: Iterable[str]) -> Iterator[TextChunk]:
    """A document in the parts a corpus would have: a text scores the same from a string and a file."""
    return (TextChunk(text, continues=number > 0) for number, text in enumerate(split_parts(document)))


def corpus_split_text(corpus: Any, split: str = "validation") -> EvalText:
    """One split of a corpus, document by document."""
    documents = lambda: corpus.documents(split)  # noqa: E731
    split_parts = lambda: (TextChunk(item.text, item.part > 0, item.source_text) for item in documents())  # noqa: E731
    return EvalText(f"{split} split", corpus.n_bytes(split), split_parts)


def read_text(path: Path | str, encoding: str = "") -> EvalText:
    """A file, plain or .gz or .xz, as one document; its bytes are those of the (unpacked) file.

    The `encoding` is detected if left out; nothing is normalised. Broken bytes are read as U+FFFD and reported. Raises
    DataError for a file that is missing, empty, or not text.
    """
    path = Path(path)
    source = Source(
        str(path), "text", lambda: path.open("rb"), path.suffix if path.suffix in COMPRESSED else ""
    )
    with translate_read_errors(path, "; give a text file, plain or .gz"):
        n_bytes = sum(map(len, read_blocks(source)))
        detected = detect_encoding(read_blocks(source), encoding=encoding)
    if not n_bytes:
        raise DataError("empty_data", f"{path} is empty; give a file with text")
    if detected.origin == "guessed":
        log_notice(f"{path} is not UTF-8: read as {detected.codec}")
    return EvalText(str(path), n_bytes, lambda: _file_chunks(source, detected.codec))


def _file_chunks(source: Source, codec: str) -> Iterator[TextChunk]:
    """The parts of a file, broken bytes replaced and counted."""
    n_broken = 0
    for part in chunk_document(decode(read_blocks(source), codec)):
        text, n_here = BROKEN.subn("\ufffd", part.text)
        n_broken += n_here
        yield TextChunk(text, part.continues)
    if n_broken:
        log_notice(f"{source.name}: {n_broken:,} broken bytes were read as U+FFFD")


def read_documents(path: Path | str, encoding: str = "", columns: str | None = None) -> EvalText:
    """The documents of a file as a corpus has them: of a page its text, of a table each row's, of an archive its files.
    Any other file is one document. Raises DataError for no text, UsageError for `columns` of a plain text.
    """
    path = Path(path)
    if not holds_documents(path) and not (columns and any(map(str.isdigit, parse_columns(columns)))):
        if columns:
            raise UsageError(
                "option_not_applicable",
                f"--columns {columns}: {path} is read as one text; give a table, or leave it out",
            )
        return read_text(path, encoding)
    first = ReadConfig(parse_columns(columns), encoding)
    left_out, n_bytes, n_documents = list[SkippedItem](), 0, 0
    for part in iter_documents(path, first, left_out):
        n_documents += not part.continues
        n_bytes += len(part.text.encode())
    if not n_bytes:
        why = f": {left_out[0].detail or left_out[0].reason}" if left_out else ""
        raise DataError(
            "empty_data", f"{path} holds no text{why}; give a text file, a page or a table with a column text"
        )
    log_notice(f"{path}: the text of {n_documents:,} documents is measured, {n_bytes:,} bytes without markup")
    if left_out:
        first_out = left_out[0].detail or left_out[0].reason
        log_notice(
            f"{path}: {len(left_out):,} rows or files hold no text and are left out; the first {left_out[0].source}:"
            f" {first_out}"
        )
    again = replace(first, report=silent)
    return EvalText(str(path), n_bytes, lambda: iter_documents(path, again, []))


def holds_documents(path: Path) -> bool:
    """Whether a file holds documents in markup, rows or an archive, by its suffix."""
    name = path.name.lower()
    plain = next((name.removesuffix(item) for item in COMPRESSED if name.endswith(item)), name)
    return KINDS.get(Path(plain).suffix, "text") != "text" or name.endswith((".zip", *TARS))


def iter_documents(path: Path, reading: ReadConfig, left_out: list[SkippedItem]) -> Iterator[TextChunk]:
    """The parts of the documents of a file; what holds no text is added to `left_out`."""
    for source in scan([path], Path(), lambda *_: None):
        if isinstance(source, SkippedItem):
            left_out.append(source)
            continue
        with translate_read_errors(source.name):
            for row in read_source(source, reading):
                if isinstance(row, SkippedItem):
                    left_out.append(row)
                else:
                    yield from chunk_document(replace_broken(row.blocks, reading, source.name))


def replace_broken(blocks: Iterable[str], reading: ReadConfig, name: str) -> Iterator[str]:
    """Blocks of text without half characters, which are reported."""
    n_broken = 0
    for block in blocks:
        text, lost = replace_surrogates(block)
        n_broken += lost
        yield text
    if n_broken:
        reading.report(f"{name}: {n_broken:,} broken bytes were read as U+FFFD")


def read_pairs(path: Path | str, encoding: str = "", columns: str | None = None) -> EvalText:
    """The pairs of a table with the columns source and target; the bytes are the targets'. Raises DataError for no
    pair.
    """
    given = ReadConfig(parse_columns(columns), encoding)
    pairs, n_broken, left_out = list[TextChunk](), 0, list[str]()
    try:
        for source in scan([path], Path(path), lambda *_: None):
            for row in [source] if isinstance(source, SkippedItem) else read_source(source, given):
                if isinstance(row, SkippedItem) or row.source_text is None:
                    left_out.append(
                        f"{row.source}: {row.reason if isinstance(row, SkippedItem) else 'no source'}"
                    )
                    continue
                (text, lost), (from_text, lost_too) = (
                    replace_surrogates("".join(row.blocks)),
                    replace_surrogates(row.source_text),
                )
                n_broken += lost + lost_too
                pairs.append(TextChunk(text, source=from_text))
    except MissingColumnError:
        pairs.clear()
    except UnreadableError as error:
        raise DataError(error.code, f"{path} cannot be read: {error}") from error
    if not pairs:
        raise DataError(
            "incompatible_data",
            f"{path} has no pairs; this model makes a text from another: give it jsonl, csv or parquet with the"
            " columns source and target",
        )
    if left_out:
        log_notice(f"{path}: {len(left_out):,} rows make no pair and are left out; the first {left_out[0]}")
    if n_broken:
        log_notice(f"{path}: {n_broken:,} broken bytes were read as U+FFFD")
    return EvalText(str(path), sum(len(item.text.encode()) for item in pairs), lambda: iter(pairs))

"""Documents of an index as passages. A model reads a limited number of tokens, so a long document is cut into passages
that overlap; each keeps its document's id, title, file and place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from textus.core.console import log_notice
from textus.core.errors import DataError, UsageError
from textus.data.corpus.decoding import Guesses
from textus.data.corpus.dialects import RowProblem
from textus.data.corpus.documents import SkippedItem, translate_read_errors
from textus.data.corpus.sources import COMPRESSED, Source, scan
from textus.data.corpus.tables import ReadConfig, parse_columns
from textus.data.labeled import (
    BrokenCharacters,
    Record,
    RowSource,
    is_table,
    read_source_records,
    read_source_text,
    report_dropped,
    unreadable_rows_error,
)
from textus.data.read_options import AUTODETECT, ReadOptions
from textus.data.skipping import BadRow, skip_bad_rows, unreadable_rows

PASSAGE_BYTES = 1200
"""Bytes of UTF-8 in a passage: some 250 English words or 400 Chinese characters, which a window of 512 tokens holds."""
OVERLAP_PARTS = 6
"""A passage begins with the last one of so many parts of the one before it."""
WHOLE_DOCUMENT_SUFFIXES = (".zip", ".md", ".markdown", ".html", ".htm")
"""Suffixes of what holds whole documents, next to folders."""
ID_FIELDS = ("id", "_id", "doc_id")
"""Fields that name a row, in the order in which they are looked for."""
SENTENCE_ENDS = re.compile(r"\n+|[。！？；]+[”’」』）]*|[.!?;]+[\"'”’)]*\s+")
"""Where a passage may end."""


@dataclass(frozen=True)
class Passage:
    """A stretch of a document: its text, and where it comes from."""

    text: str
    number: int
    """The document's place among the rows of what was read, from 0; empty and repeated ones count."""
    where: str
    """File and line, row or entry."""
    id: str | None = None
    title: str | None = None
    start: int = 0
    """The passage's first character in its document."""
    same: tuple[str, ...] = ()
    """The ids of documents with the same text, which were left out."""


def read_passages(
    path: Path, options: ReadOptions = AUTODETECT, *, longest: int = PASSAGE_BYTES
) -> list[Passage]:
    """The passages of a file's rows (of a .txt its lines), or of a folder's or archive's files; `longest` in bytes of
    UTF-8, 0 for whole documents. Empty and repeated documents are reported. Raises UsageError for a bad length,
    DataError for no text.
    """
    if longest < 0 or 0 < longest < 64:
        raise UsageError("out_of_range", f"--passage {longest}: give 0 (whole documents), or 64 and more")
    documents: dict[str, Passage] = {}
    ids, shared = dict[str, str](), list[Passage]()
    n_read = n_empty = n_repeated = 0
    bad, faults = list[BadRow](), list[RowProblem]()
    for number, record in enumerate(read_document_records(path, options, faults)):
        n_read += 1
        try:
            document = to_passage(record, number)
        except DataError as error:
            if options.skip_invalid is None:
                raise
            bad.append(BadRow(record.where, str(error)))
            continue
        if document.id is not None and ids.setdefault(document.id, document.text) != document.text:
            shared.append(document)
        if not document.text.strip():
            n_empty += 1
        elif (known := documents.get(document.text)) is not None:
            n_repeated += 1
            if document.id is not None:
                documents[document.text] = replace(known, same=(*known.same, document.id))
        else:
            documents[document.text] = document
    skip_bad_rows([*bad, *unreadable_rows(faults)], n_read + len(faults), options.skip_invalid)
    if not documents:
        raise DataError("empty_data", f"{path} holds no text")
    if n_empty:
        log_notice(f"{n_empty:,} of {n_read:,} texts are empty and left out")
    if n_repeated:
        log_notice(
            f"{n_repeated:,} of {n_read:,} texts are repeated: each is kept once, with all of their ids"
        )
    if shared:
        log_notice(
            f"{len(shared):,} of {n_read:,} texts have the id of another text, the first {shared[0].id!r} in"
            f" {shared[0].where}: a result with such an id may be either, and index evaluate cannot name it"
        )
    passages = [passage for document in documents.values() for passage in cut_passages(document, longest)]
    if len(passages) > len(documents):
        long = sum(bool(longest) and len(text.encode()) > longest for text in documents)
        log_notice(
            f"{long:,} of {len(documents):,} documents are long: they are indexed as passages of at most {longest:,}"
            f" bytes that overlap, {len(passages):,} in all (--passage N)"
        )
    return passages


def read_document_records(
    path: Path, options: ReadOptions, problems: list[RowProblem] | None = None
) -> Iterator[Record]:
    """Each document of a path as a record: rows of tables, lines of a .txt; of a folder or archive, other texts as one
    document each. Unreadable rows are added to `problems` if the options allow some.
    """
    if options.skip_invalid is None:
        problems = None
    whole = path.is_dir() or path.suffix.lower() in WHOLE_DOCUMENT_SUFFIXES
    lines = not options.columns and uncompressed_suffix(path) == ".txt"
    if not (whole or lines):
        yield from options.stream(path, problems=problems)
        return
    reading = ReadConfig(parse_columns(options.columns), options.encoding or "")
    dropped, broken, guesses = list[SkippedItem](), BrokenCharacters(), Guesses()
    faults = list[RowProblem]() if problems is None else problems
    for source in scan([path], Path(), lambda n: None):
        if isinstance(source, SkippedItem):
            dropped.append(source)
            continue
        source = replace(source, on_encoding=partial(guesses.add, source.name))
        if is_table(source):
            rows = list(read_source_records(RowSource(source), reading, dropped))
            faults += [row for row in rows if isinstance(row, RowProblem)]
            yield from (broken.clean(row) for row in rows if isinstance(row, Record))
        else:
            yield from (broken.clean(record) for record in read_texts(source, path, reading, lines=lines))
    if line := str(guesses):
        log_notice(line)
    broken.report()
    report_dropped(dropped)
    if faults and problems is None:
        raise unreadable_rows_error(faults)


def read_texts(source: Source, path: Path, reading: ReadConfig, *, lines: bool) -> Iterator[Record]:
    """A text as one document named after its file, or each of its `lines` as one."""
    with translate_read_errors(source.name):
        text = read_source_text(source, reading)
    if not lines:
        name = source.name.removeprefix(str(path)).lstrip("/\\!") or path.name
        yield Record({"text": text, "id": name, "title": Path(name).stem}, source.name)
        return
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        yield Record({"text": line.rstrip("\r")}, f"{source.name}: line {number}")


def uncompressed_suffix(path: Path) -> str:
    """A file's suffix without that of its packing."""
    name = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    return name.suffix.lower()


def to_passage(record: Record, number: int) -> Passage:
    """A row as one passage. Raises DataError where it has no text."""
    values = record.values
    given = next((values[name] for name in ID_FIELDS if values.get(name) is not None), None)
    title = values.get("title")
    return Passage(
        text_field(values, record.where),
        number,
        record.where,
        None if given is None else str(given),
        title if isinstance(title, str) else None,
    )


def text_field(values: dict[str, Any], where: str, name: str = "text") -> str:
    """A field that is text. Raises DataError where it is missing, or something else."""
    if name not in values:
        shown = ", ".join(map(repr, list(values)[:30]))
        raise DataError(
            "column_not_found",
            f"{where} has no field {name!r}; it has {shown}: name its column with --columns {name}=COLUMN",
        )
    if not isinstance(value := values[name], str):
        raise DataError(
            "invalid_row", f"{where}: the {name} is {type(value).__name__} ({value!r}), not a string"
        )
    return value


def cut_passages(document: Passage, longest: int) -> Iterable[Passage]:
    """A document as passages of at most `longest` bytes, cut after sentences or blanks in the second half if there are
    any; each begins with the end of the one before it.
    """
    text = document.text
    if not longest or len(text.encode()) <= longest:
        return [document]
    passages, start = [], 0
    while start < len(text):
        end = start + len(text[start : start + longest].encode()[:longest].decode(errors="ignore"))
        if end < len(text):
            end = cut_position(text, start + (end - start) // 2, end)
        passages.append(replace(document, text=text[start:end], start=start))
        if end >= len(text):
            break
        again = end - len(text[start:end].encode()[-(longest // OVERLAP_PARTS) :].decode(errors="ignore"))
        start = max(start + 1, cut_position(text, again, end, first=True) if again > start else end)
    return [passage for passage in passages if passage.text.strip()]


def cut_position(text: str, low: int, high: int, *, first: bool = False) -> int:
    """A place to cut a text: after the last (or `first`) sentence or blank in it, else its end (or beginning)."""
    ends = [match.end() for match in SENTENCE_ENDS.finditer(text, low, high) if low < match.end() < high]
    blanks = [match.end() for match in re.finditer(r"\s+", text[low:high])]
    if not ends and blanks:
        ends = [low + blank for blank in blanks if low < low + blank < high]
    if first:
        return ends[0] if ends else low
    return ends[-1] if ends else high

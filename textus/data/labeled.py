"""Labelled data as rows: tables, JSON lines, CoNLL columns, SQuAD's JSON, a folder of texts for each class.

A row is a dictionary of fields under their usual names (`text`, `label`, `tokens`, `tags`, …); `columns` maps a file's
own columns to them. A row that cannot be read is an error that names its file and line; a file that is left out is
reported.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

from textus.core.console import log_notice, to_printable
from textus.core.errors import DataError
from textus.core.io import folder_kind
from textus.data.corpus import conll, exports
from textus.data.corpus.decoding import Guesses, open_text
from textus.data.corpus.dialects import (
    RowProblem,
    TextSource,
    detect_line_end,
    parse_delimiter,
    split_lines,
    strip_line_end,
)
from textus.data.corpus.documents import SkippedItem, UnreadableError, translate_read_errors
from textus.data.corpus.pdf_docx import read_pdf_or_docx
from textus.data.corpus.readers import read_page
from textus.data.corpus.repair import replace_surrogates, to_nfc
from textus.data.corpus.sources import TARS, Source, scan
from textus.data.corpus.tables import (
    TABLES,
    ReadConfig,
    Row,
    parse_columns,
    read_rows,
    reopenable_text,
    silent,
)

__all__ = ["Record", "Row", "RowProblem", "clean_text", "parse_columns", "stream_records"]

SHOWN_PLACES = 5
"""So many places of bad rows are listed in an error."""


@dataclass(frozen=True)
class Record:
    """One row of labelled data: its fields, and its file and place in it, for messages."""

    values: Row
    where: str


def held_in_memory(source: Source) -> Source:
    """A source whose bytes are read from the disk when it is first opened, and from memory after that."""

    @cache
    def content() -> bytes:
        with source.open() as file:
            return file.read()

    return replace(source, open=lambda: io.BytesIO(content()))


def stream_records(
    path: Path,
    columns: Mapping[str, str] | None = None,
    *,
    encoding: str = "",
    delimiter: str = "",
    problems: list[RowProblem] | None = None,
    quiet: bool = False,
    in_memory: bool = False,
) -> Iterator[Record]:
    """The rows of a file, of the files of an archive or folder, or of a folder with a subfolder for each class.

    `columns` come from `parse_columns`; `encoding` and `delimiter` override detection. Unreadable rows are appended to
    `problems` and left out. Guesses, omissions and repairs are reported unless `quiet`. With
    `in_memory` each file is read from the disk once and kept while it is parsed. Raises DataError for a file
    that is missing, damaged, empty or holds no rows, and without `problems` for unreadable rows.
    """
    if kind := folder_kind(Path(path)):
        raise DataError(
            "invalid_path",
            f"{path} is a folder that Textus made ({kind}), not rows; give a file or folder of your own",
        )
    reading = ReadConfig(columns or {}, encoding, parse_delimiter(delimiter), silent if quiet else log_notice)
    dropped: list[SkippedItem] = []
    faults: list[RowProblem] = [] if problems is None else problems
    broken, guesses = BrokenCharacters(), Guesses()
    n_rows = 0
    for row_source in list_row_sources(Path(path), dropped):
        noted = partial(guesses.add, row_source.source.name)
        source = held_in_memory(row_source.source) if in_memory else row_source.source
        row_source = replace(row_source, source=replace(source, on_encoding=noted))
        for record in read_source_records(row_source, reading, dropped):
            if isinstance(record, RowProblem):
                faults.append(record)
            elif problems is not None or not faults:
                n_rows += 1
                yield broken.clean(record)
    if not quiet:
        if line := str(guesses):
            log_notice(line)
        broken.report()
        report_dropped(dropped)
    if problems is None and faults:
        raise unreadable_rows_error(faults)
    if not n_rows and not faults:
        why = f" ({dropped[0].source}: {dropped[0].reason})" if dropped else ""
        raise DataError(
            "empty_data",
            f"{path} holds no rows{why}; give csv, tsv, jsonl, json, parquet, CoNLL columns or a folder a class",
        )


def read_source(source: Source, reading: ReadConfig) -> list[Record]:
    """The rows of one source. Raises DataError for the rows that cannot be read."""
    broken, rows = BrokenCharacters(), list(read_source_records(RowSource(source), reading, []))
    if problems := [row for row in rows if isinstance(row, RowProblem)]:
        raise unreadable_rows_error(problems)
    records = [broken.clean(row) for row in rows if isinstance(row, Record)]
    broken.report()
    return records


def unreadable_rows_error(problems: list[RowProblem]) -> DataError:
    """The error for rows that cannot be read: the first with its reason, the places of the next."""
    first, *others = problems
    if not others:
        return DataError("unreadable_rows", str(first))
    places = ", ".join(problem.where.rpartition(": ")[2] for problem in others[:SHOWN_PLACES])
    more = f" and {len(others) - SHOWN_PLACES:,} more" if len(others) > SHOWN_PLACES else ""
    rows = f"{len(others):,} more row{'s' if len(others) > 1 else ''}"
    return DataError("unreadable_rows", f"{first}; {rows} cannot be read: {places}{more}")


def report_dropped(dropped: list[SkippedItem]) -> None:
    """One line for each reason for which files were left out: how many, and the first."""
    for reason, count in sorted(Counter(item.reason for item in dropped).items()):
        first = next(item for item in dropped if item.reason == reason)
        detail = f" ({first.detail})" if first.detail else ""
        log_notice(f"left out, {reason}: {count:,}, the first {first.source}{detail}")


# ── files ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class RowSource:
    """A file to read, and the class of its text where it is one of a folder for each class."""

    source: Source
    label: str | None = None


def list_row_sources(path: Path, dropped: list[SkippedItem]) -> Iterator[RowSource]:
    """The files to read: one, the tables of a folder or archive, or the texts of its classes. Others are `dropped`."""
    several = path.is_dir() or path.name.lower().endswith((".zip", *TARS))
    depth = class_folder_depth(path) if several else None
    for source in scan(
        [path], Path(), lambda n: None, any_suffix=True
    ):  # an archive is open while it is read
        if isinstance(source, SkippedItem):
            dropped.append(source)
        elif not several:
            yield RowSource(source)
        elif depth is None:
            if is_table(source):
                yield RowSource(source)
            else:
                dropped.append(SkippedItem(source.name, "a text next to tables or outside of any class"))
        elif is_table(source) or len(folders := parent_folders(source, path)) != depth:
            dropped.append(SkippedItem(source.name, "not in a folder of a class"))
        else:
            yield RowSource(source, folders[-1])


def class_folder_depth(path: Path) -> int | None:
    """How many folders down the texts of the class folders are; None for tables, or without classes. Of several depths
    it is the most common one: a README above the classes is not one of their texts.
    """
    depths: Counter[int] = Counter()
    classes: set[tuple[str, ...]] = set()
    n_tables = 0
    for source in scan([path], Path(), lambda n: None, any_suffix=True):
        if isinstance(source, Source):
            folders = parent_folders(source, path)
            if is_table(source):
                n_tables += 1
            elif folders:
                depths[len(folders)] += 1
                classes.add(folders)
    if not depths:
        return None
    depth = depths.most_common(1)[0][0]
    several = sum(len(folders) == depth for folders in classes) > 1
    return depth if several or not n_tables else None


def parent_folders(source: Source, path: Path) -> tuple[str, ...]:
    """The folders of a file, from the path that was given on; an archive in it is a folder too."""
    if source.member:
        archive = source.name.removesuffix(f"!{source.member}")
        outside = archive if archive == to_printable(str(path)) else str(Path(archive).with_suffix(""))
    else:
        outside = str(Path(source.name).parent)
    member = outside.removeprefix(to_printable(str(path))).lstrip("/\\")
    return (*Path(member).parts, *Path(source.member).parts[:-1])


def is_table(source: Source) -> bool:
    """Whether a file holds rows by its suffix."""
    return source.kind in TABLES or source.suffix in conll.SUFFIXES


def read_source_records(
    row_source: RowSource, reading: ReadConfig, dropped: list[SkippedItem]
) -> Iterator[Record | RowProblem]:
    """The rows of one file. Raises DataError for one that is damaged or holds none; a text of a class is left out."""
    source, label = row_source.source, row_source.label
    if label is not None:
        try:
            yield Record({"text": read_source_text(source, reading), "label": label}, source.name)
        except UnreadableError as error:
            dropped.append(SkippedItem(source.name, "unreadable", str(error)))
        return
    with translate_read_errors(source.name):
        for row in read_source_rows(source, reading):
            if isinstance(row, RowProblem):
                yield replace(row, where=f"{source.name}: {row.where}")
            else:
                yield Record(row[1], f"{source.name}: {row[0]}")


def read_source_text(source: Source, reading: ReadConfig) -> str:
    """The text of a file of a class."""
    if source.kind in ("pdf", "docx"):
        return read_pdf_or_docx(source)
    page = source.kind == "html"
    _, text = open_text(source, encoding=reading.encoding, page=page)
    return "".join(read_page(source, text, ()).blocks if page else text)


def read_source_rows(source: Source, reading: ReadConfig) -> Iterator[tuple[str, Row] | RowProblem]:
    """The rows of one file by its kind: a table, CoNLL columns, or fastText's lines."""
    by_token = "tokens" in reading.columns.values()
    if source.kind in TABLES and not (by_token and reading.by_position):
        return read_rows(source, reading)
    if source.kind in ("html", "pdf", "docx"):
        raise UnreadableError(
            "unsupported_format", "a page holds no rows; give csv, tsv, jsonl, json, parquet or CoNLL columns"
        )
    text = reopenable_text(source, reading.encoding)
    if exports.is_fasttext(text):
        return exports.fasttext_rows(text, reading.reporter(source.name))
    if reading.by_position and not by_token:
        return read_rows(source, reading)
    if not by_token and source.suffix not in conll.SUFFIXES and is_table_text(text, set(reading.columns)):
        reading.reporter(source.name)("read as a table with tabs, as its first line has the names of columns")
        return read_rows(source, reading)
    return conll.read_sentences(text, reading.columns, reading.reporter(source.name))


TEXT_FIELDS = {"text", "sentence", "text_pair", "sentence1", "sentence2", "question", "context", "source"}


def is_table_text(text: TextSource, named: set[str]) -> bool:
    """Whether a text is a tab-separated table: its first line names fields or `named` columns, and no line is blank."""
    head = list(islice(split_lines(text(), detect_line_end(text())), TABLE_LINES))
    cells = [name.strip(" \ufeff") for name in strip_line_end(head[0]).split("\t")] if head else []
    names = {name if name in named else name.casefold() for name in cells}
    is_header = len(cells) > 1 and bool((TEXT_FIELDS | named) & names) and names <= exports.FIELDS | named
    return is_header and all(line.count("\t") == len(cells) - 1 for line in head)


TABLE_LINES = 200


# ── repair ─────────────────────────────────────────────────────────────────────────────────────


def clean_text(text: str) -> str:
    """A text as corpora have it: each run of broken characters (lone surrogates) one U+FFFD, then NFC."""
    return text if text.isascii() else to_nfc(replace_surrogates(text)[0])


@dataclass
class BrokenCharacters:
    """Rows on their way through repair: how many broken characters there were, and where the first was."""

    count: int = 0
    first: str = ""

    def clean(self, record: Record) -> Record:
        """The record with every string of it clean, and the places in its texts where they are then."""
        values = clean_row(record.values)
        if values is record.values:
            return record
        if n_broken := sum(count_broken(value) for value in record.values.values()):
            self.count += n_broken
            self.first = self.first or record.where
        return Record(values, record.where)

    def report(self) -> None:
        if self.count:
            shown = f"{self.count:,} broken character{'s were' if self.count > 1 else ' was'}"
            log_notice(f"{shown} replaced by U+FFFD, the first in {self.first}")


def count_broken(value: Any) -> int:
    """How many broken characters the strings of a value have."""
    if isinstance(value, str):
        return 0 if value.isascii() else replace_surrogates(value)[1]
    if isinstance(value, dict):
        return sum(count_broken(part) for pair in value.items() for part in pair)
    return sum(map(count_broken, value)) if isinstance(value, list) else 0


def clean_row(row: Row) -> Row:
    """A row with clean strings; itself if nothing changes. Offsets of entities and answers are moved accordingly."""
    values = {clean_text(name): clean_value(value) for name, value in row.items()}
    if values == row:
        return row
    text, context = row.get("text"), row.get("context")
    if isinstance(text, str) and len(values["text"]) != len(text):
        for name in SPAN_FIELDS:
            if isinstance(given := row.get(name), list | dict):
                values[name] = move_spans(given, text)
    given = row.get("answers")
    if isinstance(context, str) and len(values["context"]) != len(context) and isinstance(given, list | dict):
        values["answers"] = move_answers(given, context)
    return values


SPAN_FIELDS = ("entities", "spans", "label", "labels")
"""Fields that may hold places in `text`: a list of {start, end} or [start, end, …], or {class: {words: [[start,
end]]}}.
"""


def clean_value(value: Any) -> Any:
    """A value with every string in it clean."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [clean_value(part) for part in value]
    if isinstance(value, dict):
        return {clean_value(name): clean_value(part) for name, part in value.items()}
    return value


def move_offset(place: Any, text: str) -> Any:
    """Where a place in a text is once the text is clean; what is no place in it stays as it is."""
    inside = type(place) is int and 0 <= place <= len(text)
    return len(clean_text(text[:place])) if inside else place


def move_spans(given: Any, text: str) -> Any:
    """Entities in any form of `SPANS` at their places in the clean text."""
    if isinstance(given, list):
        return [move_span(item, text) for item in given]
    return {clean_text(kind): move_mentions(mentions, text) for kind, mentions in given.items()}


def move_span(given: Any, text: str) -> Any:
    """One entity of a list."""
    if isinstance(given, dict):
        return clean_value(given) | {
            name: move_offset(given[name], text) for name in SPAN_OFFSETS if name in given
        }
    if isinstance(given, list):
        return [move_offset(part, text) if type(part) is int else clean_value(part) for part in given]
    return clean_value(given)


def move_mentions(given: Any, text: str) -> Any:
    """The mentions of one class in CLUENER's form."""
    if not isinstance(given, dict):
        return clean_value(given)
    return {
        clean_text(words): [move_mention(words, place, text) for place in places]
        for words, places in given.items()
    }


SPAN_OFFSETS = ("start", "end", "start_offset", "end_offset")


def move_mention(words: str, place: Any, text: str) -> Any:
    """One [start, end] of CLUENER's form, in which the end may be that of the last character."""
    try:
        start, end = place
        included = text[start : end + 1] == words
        return [move_offset(start, text), move_offset(end + included, text) - included]
    except (TypeError, ValueError):
        return place


def move_answers(given: Any, context: str) -> Any:
    """Answers of question answering at their places in the clean context."""
    if isinstance(given, dict):
        starts = given.get("answer_start")
        places = [move_offset(start, context) for start in starts] if isinstance(starts, list) else starts
        return {**clean_value(given), **({"answer_start": places} if "answer_start" in given else {})}
    return [
        clean_value(item)
        | {name: move_offset(item[name], context) for name in ANSWER_OFFSETS if name in item}
        if isinstance(item, dict)
        else clean_value(item)
        for item in given
    ]


ANSWER_OFFSETS = ("start", "answer_start")

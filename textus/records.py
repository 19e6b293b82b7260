"""Labelled data as rows: tables, JSON lines, CoNLL columns, SQuAD's JSON, a folder of texts for each class.

A row is a dictionary of fields under the field's usual names (`text`, `label`, `tokens`, `tags`, …); `columns`
says which of a file's own columns stand for them. Nothing is passed over: a row that cannot be read is an error that
names its file and line.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textus.common import DataError, UsageError, extra
from textus.corpus.decoding import decode, detect
from textus.corpus.documents import Dropped, Unreadable
from textus.corpus.readers import first_line, lines, seekable
from textus.corpus.sources import DAMAGE, Source, blocks, scan

Row = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """One row of labelled data: its fields, and where it stands, for messages."""

    values: Row
    where: str


def parse_columns(spelled: str | None) -> dict[str, str]:
    """The field that each of a file's columns stands for: `text=review,label=stars` names columns, `0=text,1=label`
    positions in a file without a header. UsageError for anything else.
    """
    found: dict[str, str] = {}
    for part in filter(None, (each.strip() for each in (spelled or "").split(","))):
        first, equals, second = (each.strip() for each in part.partition("="))
        if not (equals and first and second):
            raise UsageError(
                f"--columns {spelled!r}: {part!r} is no pair; write FIELD=COLUMN, such as text=review,label=stars,"
                " or for a file without a header POSITION=FIELD, such as 0=text,1=label"
            )
        column, name = (first, second) if first.isdigit() else (second, first)
        found[column] = name
    if len({column.isdigit() for column in found}) > 1:
        raise UsageError(f"--columns {spelled!r} mixes positions and names; use one of them")
    return found


def read_records(path: Path, columns: Mapping[str, str] | None = None) -> list[Record]:
    """All rows of `stream_records`."""
    return list(stream_records(path, columns))


def stream_records(path: Path, columns: Mapping[str, str] | None = None) -> Iterator[Record]:
    """The rows of a file, of the files of an archive or folder, or of a folder that holds a folder for each class, one
    after the other.

    `columns` as `parse_columns` gives them. Raises DataError for a file that is not there, of a kind that holds no
    rows, damaged, without a column asked for, or empty.
    """
    columns = columns or {}
    dropped: list[Dropped] = []
    record = None
    for source in scan([path], Path(), lambda n: None):  # what lies in an archive is read while that is open
        if isinstance(source, Dropped):
            dropped.append(source)
            continue
        try:
            for record in of_source(source, columns, by_folder="!" in source.name or path.is_dir()):
                yield record
        except Unreadable as error:
            raise DataError(f"{source.name} cannot be read: {error}") from error
    if record is None:
        why = f" ({dropped[0].source}: {dropped[0].reason})" if dropped else ""
        raise DataError(
            f"{path} holds no rows{why}; give csv, tsv, jsonl, json, parquet, CoNLL columns or a folder a class"
        )


def of_source(source: Source, columns: Mapping[str, str], *, by_folder: bool) -> Iterator[Record]:
    """The rows of one file."""
    if source.kind == "parquet":
        return named(source.name, parquet_rows(source), columns)
    text = decode(blocks(source), detect(blocks(source), page=False))
    suffix = Path(source.name.rpartition("!")[2].removesuffix(source.wrapping)).suffix.lower()
    if source.kind == "jsonl":
        return named(source.name, jsonl_rows(source.name, text), columns)
    if suffix == ".json":
        return named(source.name, json_rows(source.name, "".join(text)), columns)
    if source.kind in ("csv", "tsv") or headless(columns):
        return named(source.name, table_rows(source, text, headless(columns)), columns)
    if by_folder:
        return iter([Record({"text": "".join(text), "label": folder_of(source.name)}, source.name)])
    return conll_rows(source.name, text)


def headless(columns: Mapping[str, str]) -> bool:
    """Whether the columns are positions: the file then has no header."""
    return any(column.isdigit() for column in columns)


def folder_of(name: str) -> str:
    """The class of a text: the folder it lies in."""
    return Path(name.rpartition("!")[2]).parent.name


def named(name: str, rows: Iterable[tuple[str, Row]], columns: Mapping[str, str]) -> Iterator[Record]:
    """Rows with their columns under the fields' names."""
    for where, row in rows:
        if missing := [column for column in columns if column not in row]:
            shown = ", ".join(map(repr, list(row)[:30])) or "none"
            raise DataError(f"{name}: {where} has no column {missing[0]!r}; it has {shown}")
        yield Record(
            {columns.get(column, column): value for column, value in row.items()}, f"{name}: {where}"
        )


# ── kinds of files ─────────────────────────────────────────────────────────────────────────────


def table_rows(source: Source, text: Iterable[str], no_header: bool) -> Iterator[tuple[str, Row]]:
    """A csv (quoted as Excel does) or tsv (tabs only); without a header the columns are numbered from 0."""
    if source.kind == "csv":
        rows = csv.reader(lines(text, source.name))
    else:
        rows = csv.reader(lines(text, source.name), delimiter="\t", quoting=csv.QUOTE_NONE)
    header: list[str] | None = None
    try:
        for row in rows:
            if not row:
                continue
            if header is None:
                header = [str(n) for n in range(len(row))] if no_header else [each.strip() for each in row]
                if not no_header:
                    continue
            where = f"line {rows.line_num}"
            if len(row) != len(header):
                raise DataError(
                    f"{source.name}: {where} has {len(row)} columns, the first line {len(header)}; mend the line (in a"
                    " csv, text with a comma must stand in quotes)"
                )
            yield where, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise DataError(f"{source.name}: line {rows.line_num} is not {source.kind} ({error})") from error


def jsonl_rows(name: str, text: Iterable[str]) -> Iterator[tuple[str, Row]]:
    """One JSON object a line."""
    for number, line in enumerate(lines(text, name), 1):
        if line.strip():
            yield f"line {number}", as_object(name, f"line {number}", parsed(name, f"line {number}", line))


def json_rows(name: str, text: str) -> Iterator[tuple[str, Row]]:
    """A list of objects, or SQuAD's nested form: a row a question."""
    whole = parsed(name, "the file", text)
    if isinstance(whole, dict) and isinstance(whole.get("data"), list):
        yield from squad_rows(name, whole["data"])
        return
    if not isinstance(whole, list):
        raise DataError(f"{name} is neither a list of objects nor SQuAD's {{'data': [...]}}")
    for number, each in enumerate(whole):
        yield f"entry {number}", as_object(name, f"entry {number}", each)


def squad_rows(name: str, articles: list[Any]) -> Iterator[tuple[str, Row]]:
    """question, context, answers ({"text": […], "answer_start": […]}), id, title and impossible of each question."""
    for article in articles:
        try:
            for paragraph in article["paragraphs"]:
                for qa in paragraph["qas"]:
                    answers = qa.get("answers") or []
                    yield f"question {qa.get('id', '?')}", {
                        "question": qa["question"], "context": paragraph["context"], "id": qa.get("id"),
                        "title": article.get("title"),
                        "answers": {
                            "text": [each["text"] for each in answers],
                            "answer_start": [each["answer_start"] for each in answers],
                        },
                    }  # fmt: skip
        except (KeyError, TypeError) as error:
            raise DataError(f"{name} is not SQuAD's form: {error!r} is missing in an article") from error


def conll_rows(name: str, text: Iterable[str]) -> Iterator[Record]:
    """Sentences of one token a line, its tag in the last column that is no number, an empty line between."""
    tokens: list[str] = []
    tags: list[str] = []
    first, number = 1, 0
    for number, line in enumerate(lines(text, name), 1):
        parts = line.split()
        if not parts or parts[0] == "-DOCSTART-":
            if tokens:
                yield Record({"tokens": tokens, "tags": tags}, f"{name}: line {first}")
            tokens, tags, first = [], [], number + 1
            continue
        if len(parts) < 2:
            raise DataError(
                f"{name}: line {number} has one column ({parts[0]!r}); a token's line ends with its tag"
            )
        tokens.append(parts[0])
        tags.append(parts[1] if len(parts) == 3 and parts[2].isdigit() else parts[-1])
    if tokens:
        yield Record({"tokens": tokens, "tags": tags}, f"{name}: line {first}")


def parquet_rows(source: Source) -> Iterator[tuple[str, Row]]:
    """The rows of a parquet file."""
    parquet = extra("pyarrow.parquet", "text")
    with seekable(source) as file:
        try:
            for number, row in enumerate(parquet.read_table(file).to_pylist()):
                yield f"record {number}", row
        except (*DAMAGE, ValueError, extra("pyarrow", "text").ArrowException) as error:
            raise Unreadable(f"not a parquet file, or damaged: {first_line(error)}") from error


def parsed(name: str, where: str, text: str) -> Any:
    """JSON. Raises DataError saying where."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{name}: {where} is not JSON ({error})") from error


def as_object(name: str, where: str, value: Any) -> Row:
    """A JSON object. Raises DataError for another value."""
    if not isinstance(value, dict):
        raise DataError(f"{name}: {where} is {type(value).__name__}, not an object of fields")
    return value

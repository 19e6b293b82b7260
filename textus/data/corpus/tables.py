"""The one reader of tables, for corpora and labelled rows: csv, tsv, JSON lines, json and parquet as rows of named
fields. An unreadable row is a `RowProblem` with its line; guesses and omissions are reported.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple, cast

from textus.core.console import log_notice
from textus.core.errors import UsageError
from textus.core.names import import_optional, nearest_name
from textus.data.corpus import exports
from textus.data.corpus.decoding import open_text
from textus.data.corpus.dialects import (
    RowProblem,
    TextSource,
    check_widths,
    describe_mixed_ends,
    detect_dialect,
    detect_line_end,
    parse_records,
    split_lines,
    strip_declaration,
)
from textus.data.corpus.documents import MissingColumnError, UnreadableError
from textus.data.corpus.exports import FIELDS
from textus.data.corpus.sources import READ_ERRORS, Source, read_blocks

Row = dict[str, Any]
TABLES = ("csv", "tsv", "json", "jsonl", "parquet")
"""The kinds of sources that are tables."""

JSON_CHARS = 256_000_000
"""The most characters of a json file: it must be held whole. JSON lines may be of any length."""

HEADER_NAMES = FIELDS | {"review", "content", "class", "category", "stars", "rating", "sentiment", "title"}
SHOWN_COLUMNS = 30


class PlacedRow(NamedTuple):
    """A row and its place in its file, such as "line 5"."""

    where: str
    row: Row


Rows = Iterator[PlacedRow | RowProblem]


def silent(line: str) -> None:
    """Report nothing: for a file that is read again."""


@dataclass(frozen=True)
class ReadConfig:
    """How tables are read: `columns` from `parse_columns`, `encoding` and `delimiter` ("" detects them), and the
    reporter.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    encoding: str = ""
    delimiter: str = ""
    report: Callable[[str], None] = log_notice

    @property
    def by_position(self) -> bool:
        """Whether the columns are positions: the file then has no header."""
        return any(column.isdigit() for column in self.columns)

    def reporter(self, name: str) -> Callable[[str], None]:
        """What reports a line about the file of this name."""
        return lambda line: self.report(f"{name}: {line}")


def parse_columns(spelled: str | None) -> dict[str, str]:
    """The field of each column: `text=review,label=stars` by name, `0=text,1=label` by position in a file without a
    header. Raises UsageError for anything else.
    """
    columns: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in (spelled or "").split(","))):
        first, equals, second = (side.strip() for side in part.partition("="))
        if not (equals and first and second):
            raise UsageError(
                "invalid_value",
                f"--columns {spelled!r}: {part!r} is no pair; write FIELD=COLUMN, such as text=review,label=stars,"
                " or for a file without a header POSITION=FIELD, such as 0=text,1=label",
            )
        column, name = (first, second) if first.isdigit() else (second, first)
        for value in {column} & columns.keys() | {name} & set(columns.values()):
            raise UsageError(
                "duplicate_column",
                f"--columns {spelled!r} names {value!r} twice; a column is one field, and a field one column",
            )
        columns[column] = name
    if len({column.isdigit() for column in columns}) > 1:
        raise UsageError(
            "conflicting_options", f"--columns {spelled!r} mixes positions and names; use one of them"
        )
    return columns


def read_rows(source: Source, reading: ReadConfig, only: tuple[str, ...] = ()) -> Rows:
    """The rows of a table under the fields' names; of parquet `only` these fields, if present. Raises UnreadableError
    for a damaged file, MissingColumnError for a missing column.
    """
    report = reading.reporter(source.name)
    naming = ColumnNaming(reading.columns, report)
    if source.kind == "parquet":
        return in_standard_fields(naming.rename(parquet_rows(source, naming, only)), report)
    text = reopenable_text(source, reading.encoding)
    if source.kind == "json":
        return in_standard_fields(naming.rename(json_rows(text, report)), report)
    if source.kind == "jsonl":
        return in_standard_fields(naming.rename(jsonl_rows(text)), report)
    naming.fixed = True
    return in_standard_fields(naming.rename(separated_rows(source.kind, text, reading, report)), report)


def in_standard_fields(rows: Rows, report: Callable[[str], None]) -> Rows:
    """Rows with the exports of known tools in the fields that tasks read; changes are reported with a count."""
    changed: dict[str, list[str]] = {}
    for placed in rows:
        if isinstance(placed, RowProblem):
            yield placed
            continue
        changes: set[str] = set()
        try:
            for row in exports.standard_rows(placed.row, changes.add):
                yield PlacedRow(placed.where, row)
        except exports.RefusedRow as error:
            yield RowProblem(placed.where, str(error), "not accepted")
            continue
        for change in changes:
            changed.setdefault(change, []).append(placed.where)
    for change, places in changed.items():
        report(f"rows {change}: {len(places):,}, the first {places[0]}")


def reopenable_text(source: Source, encoding: str) -> TextSource:
    """The characters of a source, decoded anew at each call."""
    detected, first = open_text(source, encoding=encoding)
    unused = [first]
    return lambda: unused.pop() if unused else open_text(source, encoding=detected.codec)[1]


# ── columns ────────────────────────────────────────────────────────────────────────────────────


class ColumnNaming:
    """Which column of a file is which field. A column that was named is its field, whatever the others are called."""

    def __init__(self, columns: Mapping[str, str], report: Callable[[str], None]) -> None:
        self.columns, self.report = columns, report
        self.fixed = False
        self.plans: dict[tuple[str, ...], dict[str, str] | MissingColumnError] = {}
        self.reported: set[str] = set()

    def rename(self, rows: Rows) -> Rows:
        """Rows under the fields' names; a row without a named column is a problem. Raises MissingColumnError if no row
        has it.
        """
        n_named, missing = 0, None
        for placed in rows:
            if isinstance(placed, RowProblem):
                yield placed
                continue
            where, row = placed
            row = self.add_nested_columns(row)
            plan = self.plans.get(tuple(row))
            if plan is None:
                plan = self.plans[tuple(row)] = self.plan(list(row))
            if isinstance(plan, MissingColumnError):
                missing = missing or plan
                if self.fixed:
                    raise plan
                yield RowProblem(where, str(plan), "no column")
            else:
                n_named += 1
                yield PlacedRow(
                    where, {plan[column]: value for column, value in row.items() if column in plan}
                )
        if missing and not n_named:
            raise missing

    def plan(self, present: list[str]) -> dict[str, str] | MissingColumnError:
        """The field of each column that is used, or the error for one that is missing."""
        plan: dict[str, str] = {}
        for column, name in self.columns.items():
            matched = self.match(column, present)
            if matched is None:
                return missing_column_error(column, present)
            plan[matched] = name
        fields = set(plan.values())
        for column in present:
            if column in plan:
                continue
            name = self.standard_name(column, present)
            if name in fields:
                used = next(other for other in plan if plan[other] == name)
                self.report_once(
                    f"column {column!r} is not used: {name} is column {used!r}, as --columns names it"
                )
            else:
                plan[column] = name
                fields.add(name)
        return plan

    def match(self, column: str, present: list[str]) -> str | None:
        """The column of this name, or the only one of this name in other letters, which is reported."""
        if column in present:
            return column
        alike = [name for name in present if name.casefold() == column.casefold()]
        if len(alike) != 1:
            return None
        self.report_once(f"column {alike[0]!r} is taken for {column!r}")
        return alike[0]

    def standard_name(self, column: str, present: list[str]) -> str:
        """A column's name, or the field it means where only its letters differ from that of one."""
        name = column.strip().casefold()
        if column == name or name not in FIELDS or name in present or name in self.columns:
            return column
        if sum(other.strip().casefold() == name for other in present) > 1:
            return column
        if name not in self.columns.values():
            self.report_once(f"column {column!r} is taken for {name!r}")
        return name

    def add_nested_columns(self, row: Row) -> Row:
        """A row with the columns named by a path (`translation.en`), a key inside an object, or a sum (`toxic+insult`:
        the list of columns that are 1).
        """
        for column in self.columns:
            if column not in row:
                value = nested_value(row, column)
                if value is not None:
                    row = row | {column: value}
        return row

    def report_once(self, line: str) -> None:
        if line not in self.reported:
            self.reported.add(line)
            self.report(line)


def nested_value(row: Row, column: str) -> Any:
    """What a column of `a.b`, of a key inside of one object, or of `a+b+c` holds; None for anything else."""
    head, dot, rest = column.partition(".")
    if dot and isinstance(inside := row.get(head), dict):
        return inside.get(rest, nested_value(inside, rest))
    if "+" in column and all(part.strip() in row for part in column.split("+")):
        return [part.strip() for part in column.split("+") if is_true(row[part.strip()])]
    inside = [value[column] for value in row.values() if isinstance(value, dict) and column in value]
    return inside[0] if len(inside) == 1 else None


def is_true(value: Any) -> bool:
    """Whether a cell in the column of a class marks the row as one of that class."""
    return str(value).strip().lower() in ("1", "1.0", "true", "yes")


def missing_column_error(column: str, present: list[str]) -> MissingColumnError:
    """The error for a table without a column."""
    near = nearest_name(column, present)
    hint = f"; did you mean {near!r}?" if near else ";"
    shown = ", ".join(map(repr, present[:SHOWN_COLUMNS])) or "none"
    more = f" and {len(present) - SHOWN_COLUMNS} more" if len(present) > SHOWN_COLUMNS else ""
    return MissingColumnError("column_not_found", f"has no column {column!r}{hint} it has {shown}{more}")


# ── csv, tsv ───────────────────────────────────────────────────────────────────────────────────


def separated_rows(kind: str, text: TextSource, reading: ReadConfig, report: Callable[[str], None]) -> Rows:
    """The rows of a file with a delimiter; without a header its columns are numbered from 0."""
    usual = "," if kind == "csv" else "\t"
    has_header = not reading.by_position
    text, declared = strip_declaration(text, report)
    given = reading.delimiter or declared
    dialect = detect_dialect(text, usual, report, given=given, header=has_header)
    ends: Counter[str] = Counter()
    swallowing: list[tuple[int, int]] = []
    records = parse_records(split_lines(text(), detect_line_end(text())), dialect, ends, swallowing)
    first = next((record for record in records if is_content(record, has_header)), None)
    if first is None:
        return
    if isinstance(first, RowProblem):
        raise UnreadableError(
            "malformed_table", f"{first}: it is the first, so that nothing can be read by it"
        )
    number, cells = first
    header = parse_header(cells, number) if has_header else [str(n) for n in range(len(cells))]
    if not has_header and (last := max(map(int, reading.columns))) >= len(cells):
        raise MissingColumnError(
            "column_not_found", f"has no column {last}: line {number:,} has {len(cells)}, counted from 0"
        )
    if has_header:
        repeated = [name.strip() for name in cells]
    else:
        repeated = []
        if is_header_like(cells, reading.columns):
            report(
                f"line {number} ({', '.join(cells[:4])}) looks like a header and is left out; name the columns with"
                " --columns text=COLUMN, not by position"
            )
        else:
            yield PlacedRow(f"line {number:,}", dict(zip(header, cells, strict=True)))
    yield from data_rows(check_widths(records, len(header), dialect), header, repeated, report)
    if mixed := describe_mixed_ends(ends):
        report(mixed)
    if swallowing:
        first_line, last = swallowing[0]
        report(
            f"a field in quotes goes over lines that would be rows by themselves: {len(swallowing):,}, the first from"
            f" line {first_line:,} to line {last:,}; is a quote there by mistake?"
        )


def is_content(record: tuple[int, list[str]] | RowProblem, has_header: bool) -> bool:
    """Whether a record may be the first: it is more than a blank line, and a header has a name."""
    if isinstance(record, RowProblem) or (len(record[1]) > 1 and not has_header):
        return True
    return any(cell.strip(" \t\ufeff") for cell in record[1])


def data_rows(
    records: Iterable[tuple[int, list[str]] | RowProblem],
    header: list[str],
    repeated: list[str],
    report: Callable[[str], None],
) -> Rows:
    """Records as rows; a header that comes again, as where files were joined, is left out and reported."""
    again: list[int] = []
    for record in records:
        if isinstance(record, RowProblem):
            yield record
        elif repeated and [cell.strip() for cell in record[1]] == repeated:
            again.append(record[0])
        else:
            yield PlacedRow(f"line {record[0]:,}", dict(zip(header, record[1], strict=True)))
    if again:
        times = f" ({len(again)} such lines)" if len(again) > 1 else ""
        report(f"line {again[0]:,} is the header again and is left out{times}")


def parse_header(cells: list[str], number: int) -> list[str]:
    """The names of a header. Raises UnreadableError where two columns have one name."""
    names = [cell.strip().strip("\ufeff") or f"column {place}" for place, cell in enumerate(cells)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UnreadableError(
            "duplicate_column",
            f"line {number:,}: {names.count(twice[0])} columns are named {twice[0]!r}; rename all but one",
        )
    return names


def is_header_like(cells: list[str], columns: Mapping[str, str]) -> bool:
    """Whether the first line of a file without a header has names of columns where the fields should be."""
    named = [
        (cells[int(column)].strip().casefold(), name)
        for column, name in columns.items()
        if int(column) < len(cells)
    ]
    return bool(named) and (
        any(cell == name for cell, name in named) or all(cell in HEADER_NAMES for cell, _ in named)
    )


# ── json ───────────────────────────────────────────────────────────────────────────────────────


def jsonl_rows(text: TextSource) -> Rows:
    """One JSON object a line."""
    for number, line in enumerate(split_lines(text(), detect_line_end(text())), 1):
        if line.strip(" \t\r\n\ufeff"):
            yield json_row(f"line {number:,}", line.strip("\ufeff"))


def json_row(where: str, line: str) -> PlacedRow | RowProblem:
    """A JSON object as a row."""
    try:
        return as_row(where, json.loads(line, object_pairs_hook=object_from_pairs))
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a bare ValueError
        return RowProblem(where, f"is not JSON ({error})", "not JSON")


class RepeatedKeyObject(dict[str, Any]):
    """A JSON object in which a key comes twice: all but the last value of it are lost."""

    key = ""


def object_from_pairs(pairs: list[tuple[str, Any]]) -> Row:
    """A JSON object from its keys and values."""
    row = dict(pairs)
    if len(row) == len(pairs):
        return row
    repeating = RepeatedKeyObject(row)
    repeating.key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
    return repeating


def find_repeated_key(value: Any) -> str | None:
    """A key that comes twice in an object in a parsed value, of any depth."""
    held = [value]
    while held:
        part = held.pop()
        if isinstance(part, RepeatedKeyObject):
            return part.key
        if isinstance(part, dict | list):
            inside = part.values() if isinstance(part, dict) else part
            held.extend(item for item in inside if isinstance(item, dict | list))
    return None


def as_row(where: str, value: Any) -> PlacedRow | RowProblem:
    """A parsed value as a row."""
    if not isinstance(value, dict):
        return RowProblem(where, f"is {type(value).__name__}, not an object of fields", "not an object")
    if (name := find_repeated_key(value)) is not None:
        return RowProblem(where, f"has the key {name!r} twice; give each key once", "key twice")
    return PlacedRow(where, value)


def json_rows(text: TextSource, report: Callable[[str], None]) -> Rows:
    """The rows of a json file: a list of objects, an object with one inside, JSON lines, or one object. Raises
    UnreadableError for anything else.
    """
    whole = read_whole(text(), JSON_CHARS, "has over {:,} characters; give its rows as JSON lines (.jsonl)")
    try:
        value = json.loads(whole.strip("\ufeff"), object_pairs_hook=object_from_pairs)
        if isinstance(value, dict) and (name := find_repeated_key(value)) is not None:
            raise UnreadableError(
                "malformed_json", f"an object of it has the key {name!r} twice; give each key once"
            )
        entries = exports.json_entries(value, report)
    except (ValueError, RecursionError) as error:
        if starts_with_object(whole):
            report("holds JSON lines, and is read so")
            yield from jsonl_rows(lambda: [whole])
            return
        entries = concatenated_values(whole, error)
        report("holds one JSON object after another, and is read so")
    for where, entry in entries:
        yield as_row(where, entry)


def concatenated_values(whole: str, error: Exception) -> Iterator[tuple[str, Any]]:
    """The values of a file that holds several in a row. Raises UnreadableError for `error` if it does not."""
    decoder, at, values = json.JSONDecoder(object_pairs_hook=object_from_pairs), 0, []
    try:
        while rest := BLANKS.sub("", whole[at : at + 1000]):
            at += len(whole[at : at + 1000]) - len(rest)
            value, at = decoder.raw_decode(whole, at)
            values.append(value)
    except (ValueError, RecursionError):
        raise UnreadableError("malformed_json", f"it is not JSON ({error})") from error
    return iter([(f"entry {number}", value) for number, value in enumerate(values)])


BLANKS = re.compile(r"^[\s,\ufeff]+")


def read_whole(text: Iterable[str], limit: int, message: str) -> str:
    """All characters of a text. Raises UnreadableError with the `message` beyond the `limit`."""
    pieces, n_chars = [], 0
    for piece in text:
        pieces.append(piece)
        n_chars += len(piece)
        if n_chars > limit:
            raise UnreadableError("record_too_long", message.format(limit))
    return "".join(pieces)


def starts_with_object(whole: str) -> bool:
    """Whether the first line that is not blank is a JSON object by itself."""
    first = next(
        (line for line in split_lines([whole], detect_line_end([whole])) if line.strip(" \t\r\n\ufeff")), ""
    )
    return isinstance(json_row("", first), PlacedRow)


# ── parquet ────────────────────────────────────────────────────────────────────────────────────


def parquet_rows(source: Source, naming: ColumnNaming, only: tuple[str, ...]) -> Rows:
    """The rows of a parquet file, a small batch at a time; the columns that are not wanted are not read."""
    parquet = import_optional("pyarrow.parquet", "text")
    number = 0
    with open_seekable(source) as file:
        try:
            table = parquet.ParquetFile(file, pre_buffer=False)
            plan = naming.plan(list(table.schema_arrow.names))
            wanted = (
                [] if isinstance(plan, MissingColumnError) else [name for name in plan if plan[name] in only]
            )
            for batch in table.iter_batches(256, columns=wanted or None, use_threads=False):
                for row in batch.to_pylist():
                    yield PlacedRow(f"record {number}", row)
                    number += 1
        except (*READ_ERRORS, ValueError, import_optional("pyarrow", "text").ArrowException) as error:
            raise UnreadableError(
                "unreadable_file", f"not a parquet file, or damaged: {error_line(error)}"
            ) from error


def open_seekable(source: Source) -> BinaryIO:
    """The bytes of a source in a file one can seek in: itself, or spooled where it is in an archive."""
    try:
        file = source.open()
    except READ_ERRORS as error:
        raise UnreadableError("unreadable_file", error_line(error)) from error
    if not source.compression and not source.member:
        return file
    file.close()
    spooled = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 — the caller closes it
    for block in read_blocks(source):
        spooled.write(block)
    spooled.seek(0)
    return spooled


def error_line(error: BaseException) -> str:
    """An error in one line."""
    return (str(error) or type(error).__name__).splitlines()[0]

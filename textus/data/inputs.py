"""Inputs to predict on: a text, several, rows, a DataFrame, a file or a pipe; each row as a record that knows its
place.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from textus.core.arguments import PLAIN, to_path
from textus.core.console import log_notice
from textus.core.errors import DataError, TextusError, UsageError
from textus.data.corpus.decoding import BROKEN, SAMPLE_BYTES, decode, from_bom
from textus.data.corpus.dialects import RowProblem, detect_line_end, split_lines
from textus.data.corpus.documents import translate_read_errors
from textus.data.corpus.sources import Source
from textus.data.corpus.tables import (
    ColumnNaming,
    PlacedRow,
    ReadConfig,
    Row,
    parse_columns,
)
from textus.data.eval_text import read_text
from textus.data.labeled import (
    TEXT_FIELDS,
    BrokenCharacters,
    Record,
    clean_text,
    read_source,
    unreadable_rows_error,
)
from textus.data.passages import ID_FIELDS
from textus.data.read_options import AUTODETECT, ReadOptions, fits_encoding
from textus.data.skipping import BadRow, parse_rows, skip_bad_rows, unreadable_rows

LOCATION = re.compile(r"(?:^|: )(line|entry|record|row|text|sentence) ([\d,]+)$")
"""How the place of a row in its file ends."""
SAMPLE_LINES = 200
"""Lines that decide whether a .txt has columns."""
STDIN = "standard input"

Item = str | tuple[str, ...] | dict[str, Any]


class Records(list[Record]):
    """Rows that are records already, such as those of a pipe; `columns`: which of the pipe's were taken for fields."""

    columns: str | None = None


# ── a pipe ─────────────────────────────────────────────────────────────────────────────────────


def read_stdin(
    options: ReadOptions = AUTODETECT, trained: ReadOptions = AUTODETECT, *, empty: bool = False
) -> Records:
    """Piped input: the rows of a table with known columns (a task's, those of training, or given), which is reported;
    else each line is a text. Raises UsageError for empty input, unless it may be `empty`.
    """
    given = getattr(sys.stdin, "buffer", sys.stdin).read()
    data = given if isinstance(given, bytes) else given.encode("utf-8", "surrogatepass")
    codec = options.encoding or from_bom(data[:SAMPLE_BYTES]) or "utf-8"
    text = "".join(decode([data], codec)) if isinstance(given, bytes) else given
    if not text and not empty:
        raise UsageError("empty_data", f"{STDIN} is empty; give a text, a file, or lines through a pipe")
    named = options.columns or trained.columns
    known = {name.casefold() for name in (*KNOWN_COLUMNS, *parse_columns(named))}
    if kind := detect_table_kind(text, known, forced=bool(options.columns)):
        return read_piped_table(data, kind, options, trained.columns)
    end = detect_line_end([text])
    result = text.removesuffix(end).split(end) if text else []
    if broken := sum(bool(BROKEN.search(line)) for line in result):
        name = codec.removesuffix("-sig").upper()
        log_notice(f"{broken:,} lines of {STDIN} are not {name}: what is broken was read as U+FFFD")
    if result and is_table_like(result[0]):
        log_notice(
            f"{STDIN} looks like a table or JSON and is read as a text per line; for rows name the column of the text"
            " (--columns text=COLUMN), or save it as a file"
        )
    return Records(
        Record({"text": clean_text(line.rstrip("\r"))}, f"{STDIN}: line {number:,}")
        for number, line in enumerate(result, 1)
    )


def read_piped_table(data: bytes, kind: str, options: ReadOptions, trained: str | None) -> Records:
    """The rows of a table that was piped, by the columns given, else those of training where it has them."""
    source = Source(STDIN, kind, lambda: io.BytesIO(data))

    def rows(columns: str | None) -> list[Record]:
        return read_source(source, ReadConfig(parse_columns(columns), options.encoding or ""))

    columns, result = options.columns, rows(options.columns)
    if not columns and result and (columns := trained_columns(trained, result[0].values)):
        result = rows(columns)
    shown = ", ".join(map(repr, list(result[0].values)[:10])) if result else "none"
    log_notice(f"{STDIN} is read as a table ({kind}): {len(result):,} rows with the fields {shown}")
    records = Records(result)
    records.columns = columns
    return records


KNOWN_COLUMNS = TEXT_FIELDS | {"tokens", "prompt"}
"""Columns of which one makes a piped table known as one."""
COLUMN_NAME = re.compile(r"[\w.-]{1,40}(?: [\w.-]{1,40}){0,2}")


def detect_table_kind(text: str, known: Iterable[str], *, forced: bool = False) -> str | None:
    """The kind of table a text is: JSON whose first object has a `known` field, or a header with a known name above
    rows of the same width. None for plain lines; `forced`: it is some table.
    """
    head = [line for line in islice(text.split(detect_line_end([text])), SAMPLE_LINES) if line.strip()]
    first, known = (head[0].lstrip("\ufeff ") if head else ""), set(known)
    if first.startswith(("{", "[")):
        try:
            value = json.loads(text.lstrip("\ufeff") if first.startswith("[") else first)
        except ValueError:
            value = None
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, dict) and (forced or known & {name.casefold() for name in value}):
            return "json" if first.startswith("[") else "jsonl"
    for kind, delimiter in (("tsv", "\t"), ("csv", ","), ("csv", ";"), ("csv", "|")):
        try:
            rows = list(csv.reader([first, *head[1:]], delimiter=delimiter))
        except (
            csv.Error
        ):  # a carriage return inside of a line: a text, or a table that its reader names the line of
            continue
        names = [name.strip().casefold() for name in rows[0]] if rows else []
        whole = rows[:-1] if len(head) == SAMPLE_LINES else rows  # the last may continue
        is_header = len(names) > 1 and len(rows) > 1 and all(map(COLUMN_NAME.fullmatch, names))
        if is_header and known & set(names) and {len(row) for row in whole} == {len(names)}:
            return kind
    return "csv" if forced else None


FIELDS = {"text", "label", "question", "context", "answers", "tokens", "tags", "source", "target", "id"}
"""Names of columns by which the header of a table is known."""


def is_table_like(line: str) -> bool:
    """Whether a first line is the header of a table, or the beginning of JSON."""
    cells = {cell.strip(' "').lower() for cell in re.split(r"[,;\t|]", line)}
    return line.lstrip().startswith(('{"', "[{", '["')) or (len(cells) > 1 and bool(cells & FIELDS))


# ── files ──────────────────────────────────────────────────────────────────────────────────────


def is_plain_text(path: Path) -> bool:
    """Whether a file is plain text by its name, packed or not."""
    return path.name.lower().removesuffix(".gz").removesuffix(".xz").endswith(PLAIN)


def read_lines(path: Path, encoding: str | None = None) -> Iterator[str]:
    """The lines of a plain text file, without their ends."""
    texts = read_text(path, encoding or "")
    end = detect_line_end(part.text for part in texts)
    return (line.rstrip("\r\n") for line in split_lines((part.text for part in texts), end))


def read_text_lines(path: Path, encoding: str | None = None) -> Iterator[Record]:
    """The lines of a plain text file, each a record with a text; empty ones too, so that answers match lines."""
    for number, line in enumerate(read_lines(path, encoding), 1):
        yield Record({"text": clean_text(line)}, f"{path}: line {number:,}")


def is_conll(path: Path, tags: Iterable[str], encoding: str | None = None) -> bool:
    """Whether a plain text file holds tokens in columns (CoNLL): each line has as many, and most end with a tag."""
    counts, n_tagged, n = column_statistics(path, tags, encoding)
    return len(counts) == 1 and counts != {1} and n > 1 and 2 * n_tagged >= n


def column_statistics(path: Path, tags: Iterable[str], encoding: str | None) -> tuple[set[int], int, int]:
    """Of the first non-empty lines: the numbers of columns, how many end with a tag, and how many there are."""
    known, counts, n_tagged, n = set(tags), set[int](), 0, 0
    for line in islice(read_lines(path, encoding), SAMPLE_LINES):
        if not line.strip() or line.startswith(("#", "-DOCSTART-")):
            continue
        cells = line.split("\t") if "\t" in line else line.split()
        last = next((cell for cell in reversed(cells) if not cell.isdigit()), "")
        counts.add(len(cells))
        n_tagged += last in known or last == "O" or last[:2] in ("B-", "I-", "E-", "S-")
        n += 1
    return counts, n_tagged, n


MakeCheck = Callable[[Sequence[Record]], Callable[[Record], Any]]
"""What makes of rows a check of one of them, which raises DataError where it cannot be used."""
CHECKED_ROWS = 256
"""Rows that are checked together."""


def row_reader(
    path: Path,
    options: ReadOptions = AUTODETECT,
    tags: Iterable[str] | None = None,
    check: MakeCheck | None = None,
) -> Callable[[], Iterator[Record]]:
    """A function that reads the rows of a file as often as needed. A plain text gives its lines, unless it holds CoNLL
    columns with known `tags`; one message reports which. Rows that are unreadable or fail the `check` are left out if
    the options allow it.
    """
    if is_plain_text(path) and not options.columns and path.is_file():
        if tags is None or not is_conll(path, tags, options.encoding):
            log_notice(f"{path}: each line is one text")
            return lambda: read_text_lines(path, options.encoding)
        log_notice(f"{path}: tokens in columns (CoNLL), a sentence up to each empty line")
    known = list[bool]()

    def records() -> Iterator[Record]:
        problems = None if options.skip_invalid is None else faults
        yield from options.stream(path, quiet=bool(known), problems=problems)
        known.append(True)  # what is to be reported of the file is reported once

    faults = list[RowProblem]()
    if options.skip_invalid is None or check is None:
        return records
    places = unusable_places(records(), check, faults, options.skip_invalid)
    return lambda: (record for record in records() if record.where not in places)


def unusable_places(
    rows: Iterator[Record], check: MakeCheck, faults: list[RowProblem], skip: str
) -> set[str]:
    """The places of the rows that are to be left out; `faults` are, when all are read, those that cannot be read."""
    bad, n = list[BadRow](), 0
    while batch := list(islice(rows, CHECKED_ROWS)):
        parse_rows(batch, check(batch), bad)
        n += len(batch)
    return skip_bad_rows([*bad, *unreadable_rows(faults)], n + len(faults), skip)


def trained_columns(trained: str | None, names: Iterable[str]) -> str | None:
    """The columns of training that rows with these `names` have, spelled as for `--columns`; None if not needed."""
    mapping, names = parse_columns(trained), set(names)
    if not mapping:
        return None
    if all(column.isdigit() for column in mapping):  # trained on a file without a header
        fits = not names & set(mapping.values())
        known = {column: field for column, field in mapping.items() if int(column) < len(names)}
        return ",".join(f"{column}={field}" for column, field in known.items()) if fits else None
    known = {column: field for column, field in mapping.items() if column in names}
    return ",".join(f"{field}={column}" for column, field in known.items()) or None


def resolve_options(path: Path, given: ReadOptions, trained: ReadOptions) -> ReadOptions:
    """How to read a file: as `given`, else as in training if the file has those columns or fits that encoding;
    reported.
    """
    encoding = given.encoding
    if not encoding and trained.encoding and path.exists() and fits_encoding(path, trained.encoding):
        encoding = trained.encoding
        log_notice(f"{path}: encoding as in training: {encoding}")
    options = replace(given, encoding=encoding)
    return replace(options, columns=resolve_columns(path, options, trained.columns))


def resolve_columns(path: Path, given: ReadOptions, trained: str | None) -> str | None:
    """The columns as `given`, else those a run was trained with, where the file has them; reported."""
    if given.columns or not trained or not path.exists() or is_plain_text(path):
        return given.columns
    try:
        first = next(
            given.stream(path, quiet=True, problems=None if given.skip_invalid is None else []), None
        )
    except TextusError:
        return None  # what is wrong is reported when the file is read
    if first and (result := trained_columns(trained, first.values)):
        log_notice(f"{path}: columns as in training: {result}")
    return result


def record_location(record: Record) -> dict[str, Any]:
    """Where a record is: {"line": 3}, {"entry": 0} or what else its file counts by, and its `id` if it has one."""
    match = LOCATION.search(record.where)
    result: dict[str, Any] = {match[1]: int(match[2].replace(",", ""))} if match else {}
    if (own := row_id(record.values)) is not None:
        result["id"] = own
    return result


def row_id(row: Mapping[str, Any]) -> Any:
    """What a row calls itself, or None."""
    return next((row[name] for name in ID_FIELDS if row.get(name) not in (None, "")), None)


def report_empty(rows: Iterable[tuple[str, Sequence[str]]], done: str) -> None:
    """One line for rows, each with its place and texts, of which a text is empty: how many, and the first."""
    empty = [where for where, texts in rows if not texts or not all(text.strip() for text in texts)]
    if empty:
        about = f" rows have an empty text and are {done} all the same"
        log_notice(len(empty), about, first=f"the first is {empty[0]}")


# ── Python values ──────────────────────────────────────────────────────────────────────────────


def to_items(given: Any) -> tuple[list[Item], bool]:
    """Texts, tuples of texts or rows as a list, and whether one alone was given. Raises UsageError for other values."""
    if isinstance(given, str | Mapping):
        return [to_item(given, 1)], True
    if isinstance(given, bytes | bytearray | set | frozenset | Path) or given is None:
        raise not_texts_error(given)
    if callable(getattr(given, "to_dict", None)) and hasattr(given, "columns"):  # pandas
        given = given.to_dict("records")
    elif callable(getattr(given, "to_dicts", None)):  # polars
        given = given.to_dicts()
    try:
        listed = list(given)
    except TypeError as error:
        raise not_texts_error(given) from error
    result = [to_item(item, number) for number, item in enumerate(listed, 1)]
    if len(kinds := {isinstance(item, dict) for item in result}) > 1:
        raise UsageError("mixed_data", "some of these are rows, others texts; give one kind")
    del kinds
    return result, False


def not_texts_error(given: Any) -> UsageError:
    """The error for a value that holds no texts."""
    return UsageError(
        "wrong_type",
        f"{type(given).__name__} ({str(given)[:60]!r}) holds no texts; give a string, a list of strings, of pairs or of"
        " rows (dictionaries), a DataFrame, or the Path of a file",
    )


def to_item(value: Any, number: int) -> Item:
    """One text, tuple of texts or row. UsageError for anything else."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): to_python(item) for name, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value):
        return tuple(map(str, value))
    raise UsageError(
        "wrong_type",
        f"text {number} is {type(value).__name__} ({str(value)[:60]!r}), not a string; give strings, pairs of strings"
        " or rows",
    )


def to_python(value: Any) -> Any:
    """A number or array of numpy as Python has it."""
    return value.tolist() if hasattr(value, "tolist") else value


def to_records(rows: Sequence[dict[str, Any]], columns: str | None = None) -> list[Record]:
    """Rows of Python as records, as if a file held them. Raises DataError for a row without a column that is named."""
    placed = iter([PlacedRow(f"row {number:,}", dict(row)) for number, row in enumerate(rows, 1)])
    result: list[Record] = []
    problems: list[RowProblem] = []
    broken = BrokenCharacters()
    with translate_read_errors("the rows:"):
        for item in ColumnNaming(parse_columns(columns), log_notice).rename(placed):
            if isinstance(item, RowProblem):
                problems.append(item)
            else:
                result.append(broken.clean(Record(item.row, item.where)))
    if problems:
        raise unreadable_rows_error(problems)
    broken.report()
    return result


def labelled_rows(given: Any, task: str = "classification") -> list[Row]:
    """Labelled rows of Python: dictionaries, a DataFrame, or a pair (X, y). Raises UsageError for anything else."""
    if isinstance(given, tuple) and len(given) == 2 and not any(isinstance(item, str) for item in given):
        return join_labels(*given, task)
    rows, _ = to_items(given)
    if not all(isinstance(item, dict) for item in rows):
        raise UsageError(
            "wrong_type",
            "labelled rows are dictionaries, a DataFrame, or a pair (X, y); these are texts alone",
        )
    return [item for item in rows if isinstance(item, dict)]


def join_labels(texts: Any, labels: Any, task: str) -> list[Row]:
    """X and y as rows with the fields of the task."""
    items, _ = to_items(texts)
    answers = [to_python(item) for item in (labels if isinstance(labels, list | tuple) else list(labels))]
    if len(items) != len(answers):
        raise UsageError(
            "size_mismatch", f"X has {len(items):,} texts, y {len(answers):,} labels; give one for each"
        )
    name = {"tagging": "tags", "regression": "score", "similarity": "score"}.get(task, "label")
    rows = []
    for item, answer in zip(items, answers, strict=True):
        if isinstance(item, dict):
            row = item
        elif task == "tagging":
            row = {"tokens": list(item)} if isinstance(item, tuple) else {"text": item}
        else:
            row = dict(zip(("text", "text_pair"), (item,) if isinstance(item, str) else item, strict=False))
        rows.append({**row, name: answer})
    return rows


def labelled_records(
    given: Any,
    options: ReadOptions = AUTODETECT,
    task: str = "classification",
    trained: ReadOptions = AUTODETECT,
    problems: list[RowProblem] | None = None,
) -> list[Record]:
    """Labelled rows of a file or of Python as records. `trained`: the options of training. Unreadable rows are added to
    `problems`. Raises DataError for no rows.
    """
    if isinstance(given, str | Path):
        path = to_path(given, "the rows")
        return resolve_options(path, options, trained).records(path, problems)
    rows = labelled_rows(given, task)
    if not rows:
        raise DataError("empty_data", "there is no row; give labelled rows")
    return to_records(rows, options.columns or trained_columns(trained.columns, rows[0]))

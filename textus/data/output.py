"""Answers as a file of rows, written as they come: csv, tsv or JSON lines, continued after a kill.

    OUT.part        the rows so far
    OUT.part.json   what they are of (a fingerprint), how many rows and bytes are whole

Both go when the last row is written and OUT.part becomes OUT.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from textus.core.arguments import NOTHING_KEPT
from textus.core.console import log_notice
from textus.core.errors import RunError, UsageError
from textus.core.io import check_output_file, fsync_path, read_json, sha256, write_json
from textus.core.locks import exclusive_lock
from textus.core.names import unknown_name_error
from textus.data.corpus.tables import parse_columns
from textus.data.inputs import record_location
from textus.data.labeled import Record

FORMATS = (".csv", ".tsv", ".jsonl")
ROWS_PER_WRITE = 256
"""Rows that are answered together and then written."""

Row = Mapping[str, Any]


def output_format(out: Path) -> str:
    """The form a file of rows is written in, by its suffix; UsageError for another."""
    if (suffix := out.suffix.lower()) not in FORMATS:
        raise unknown_name_error("form of --out", out.suffix or out.name, FORMATS)
    return suffix


def csv_cell(value: Any) -> Any:
    """A value of a csv: nothing for None, JSON for lists, objects and truth values."""
    if value is None:
        return ""
    if isinstance(value, list | tuple | dict | bool):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value


def row_encoder(form: str, columns: Sequence[str]) -> Callable[[Iterable[Row]], bytes]:
    """What turns rows into the bytes of a file. In a csv and a tsv every row has the same columns."""
    if form == ".jsonl":
        return lambda rows: "".join(
            json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows
        ).encode("utf-8", "replace")

    def encode(rows: Iterable[Row]) -> bytes:
        text = io.StringIO()
        writer = csv.writer(text, delimiter="," if form == ".csv" else "\t", lineterminator="\n")
        writer.writerows([csv_cell(row.get(name)) for name in columns] for row in rows)
        return text.getvalue().encode("utf-8", "replace")

    return encode


class PartialFile:
    """A file that is written piece by piece next to its place: `done` pieces are there already."""

    def __init__(self, out: Path, of: str | None) -> None:
        self.out, self.fingerprint = out, of
        self.part = out.with_name(f"{out.name}.part")
        self.state = out.with_name(f"{out.name}.part.json")
        self.n_done = self._resume()

    def _resume(self) -> int:
        """How many rows a run of the same command left; what is of another, or damaged, is started over."""
        size = self.part.stat().st_size
        if not size and not self.state.exists():
            return 0
        try:
            state = read_json(self.state)
            if (
                self.fingerprint is not None
                and state["fingerprint"] == self.fingerprint
                and size >= state["bytes"]
            ):
                os.truncate(self.part, state["bytes"])  # a piece that was being written
                if state["rows"]:
                    log_notice(f"{self.out}: continued after {state['rows']:,} rows")
                return int(state["rows"])
        except (RunError, KeyError, TypeError):
            pass
        log_notice(f"{self.part} is of another run, input or command: started over{self._discarded()}")
        os.truncate(self.part, 0)
        self.state.unlink(missing_ok=True)
        return 0

    def _discarded(self) -> str:
        """How many rows of another command are discarded."""
        try:
            return f", without its {int(read_json(self.state)['rows']):,} rows"
        except (RunError, KeyError, TypeError, ValueError):
            return ""

    def add(self, data: bytes, rows: int) -> None:
        """Write a piece; after it `rows` more are there."""
        with self.part.open("ab") as file:
            file.write(data)
        fsync_path(self.part)
        self.n_done += rows
        write_json(
            self.state,
            {"fingerprint": self.fingerprint, "rows": self.n_done, "bytes": self.part.stat().st_size},
        )

    def finish(self) -> None:
        """The file in its place."""
        self.part.replace(self.out)
        self.state.unlink(missing_ok=True)
        fsync_path(self.out.parent)


@contextmanager
def report_partial(file: PartialFile) -> Iterator[None]:
    """Within the block Ctrl-C gets a note of what is in the file, any other error a line."""
    try:
        yield
    except BaseException as error:
        kept = f"{file.n_done:,} rows are kept in {file.part}"
        how = (
            "continue"
            if file.fingerprint is not None
            else "what was piped or given as values cannot be continued: begin anew"
        )
        note = f"{kept}; {how} with the same command" if file.n_done else NOTHING_KEPT
        if isinstance(error, KeyboardInterrupt):
            error.add_note(note)
        elif file.n_done:
            log_notice(note)
        raise


@contextmanager
def partial_file(out: Path, of: str | None, *, force: bool = False) -> Iterator[PartialFile]:
    """A file that only this process writes, moved to `out` when the block succeeds; else the rows so far are kept. `of`
    is what it is made from (None: it cannot be continued). Raises UsageError if `out` exists, unless `force`;
    RunError while another process writes it.
    """
    check_output_file(out, force=force)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.name}.part")
    part.touch()
    with exclusive_lock(part):
        file = PartialFile(out, of)
        try:
            with report_partial(file):
                yield file
        except BaseException:
            if not file.n_done:  # nothing is lost
                file.part.unlink()
                file.state.unlink(missing_ok=True)
            raise
        file.finish()


def write_rows(
    file: PartialFile,
    rows: Iterable[Any],
    answer: Callable[[list[Any]], Sequence[Row]],
    columns: Sequence[str],
    *,
    at_once: int = ROWS_PER_WRITE,
) -> int:
    """Answer rows that are not yet in the file and write them, some at a time; how many there are in all."""
    form = output_format(file.out)
    encode = row_encoder(form, columns)
    if form != ".jsonl" and not file.part.stat().st_size:
        file.add(encode([dict(zip(columns, columns, strict=True))]), 0)
    rest = islice(rows, file.n_done, None)
    while batch := list(islice(rest, at_once)):
        file.add(encode(answer(batch)), len(batch))
    return file.n_done


def check_output(out: Path, given: Any, *, force: bool) -> None:
    """UsageError where the file to write exists, unless `force`, or is the one that is read."""
    check_output_file(out, force=force)
    if isinstance(given, Path) and out.exists() and out.samefile(given):
        raise UsageError("invalid_path", f"{out} is the file that is read; choose another --out")


def content_hash(path: Path) -> Any:
    """A hash of a file's bytes; of a folder of each file in it."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return [[str(file.relative_to(path)), sha256(file)] for file in files]
    return sha256(path) if path.is_file() else None


def file_of_record(record: Record) -> str:
    """The file that a record is of."""
    return record.where.rpartition(": ")[0] or record.where


def unique_name(name: str, prefix: str, taken: set[str]) -> str:
    """A name for a column that is not `taken`, and is from then on: its own, with a prefix, or with a number too."""
    prefixed = f"{prefix}_{name}"
    choices = chain((name, prefixed), (f"{prefixed}_{number}" for number in count(2)))
    free = next(choice for choice in choices if choice not in taken)
    taken.add(free)
    return free


class OutputLayout:
    """How an output row is made: its place, the file's own columns, the prediction. All `records` are read once first:
    a table needs its columns before its first row.
    """

    def __init__(self, answer: Sequence[str], columns: str | None, records: Iterable[Record]) -> None:
        own = parse_columns(columns).items()
        self.own = {field: column for column, field in own if not column.isdigit()}
        places: dict[str, None] = {}
        fields: dict[str, None] = {}
        first, self.several = "", False
        for record in records:
            first = first or file_of_record(record)
            self.several = self.several or file_of_record(record) != first
            places.update(dict.fromkeys(record_location(record)))
            fields.update(dict.fromkeys(self.own.get(name, name) for name in record.values))
        if self.several:
            places = {"file": None, **places}
        taken = {*fields, *answer}
        self.places = {name: name if name == "id" else unique_name(name, "file", taken) for name in places}
        taken = {*fields, *self.places.values()}
        self.answer = {name: unique_name(name, "predicted", taken) for name in answer}
        self.names = list(dict.fromkeys([*self.places.values(), *fields, *self.answer.values()]))
        if changed := {name: other for name, other in self.answer.items() if name != other}:
            log_notice(
                f"the file already has a column {', '.join(changed)}: predictions are in {', '.join(changed.values())}"
            )

    def row(self, record: Record, answer: Mapping[str, Any]) -> dict[str, Any]:
        """One row."""
        place = ({"file": file_of_record(record)} if self.several else {}) | record_location(record)
        result = {self.places[name]: value for name, value in place.items()}
        result |= {self.own.get(name, name): value for name, value in record.values.items()}
        return result | {self.answer.get(name, name): value for name, value in answer.items()}

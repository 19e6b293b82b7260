"""Rows of data checked all at once: those that a task cannot use are listed together, or left out if that is asked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from textus.common import (
    notice,
    printable,
)
from textus.errors import (
    DataError,
    UsageError,
)
from textus.records import Problem, Record

LISTED = 10
"""So many bad rows are listed in an error."""
Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: its place, and one line that has the place and the reason."""

    where: str
    message: str
    code: str = "invalid_row"


class BadRows(DataError):
    """Rows that a task cannot use."""

    def __init__(self, rows: Sequence[BadRow], n_rows: int) -> None:
        self.rows, self.n_rows = list(rows), n_rows
        codes = {row.code for row in rows}
        code = codes.pop() if len(codes) == 1 else "invalid_rows"
        first, *others = [row.message for row in rows]
        if not others:
            super().__init__(code, first)
            return
        if len(rows) == n_rows:
            super().__init__(code, f"{first} (none of the {n_rows:,} rows can be used; this is the first)")
            return
        listed = "; ".join([first, *others][:LISTED])
        more = f"; and {len(rows) - LISTED:,} more" if len(rows) > LISTED else ""
        super().__init__(
            code,
            f"{len(rows):,} of {n_rows:,} rows cannot be used: {listed}{more}. Correct them, or leave them out with"
            " --skip-invalid 5% (up to that share) or --skip-invalid all",
        )


def parse_rows(
    records: Sequence[Record], parse: Callable[[Record], Parsed], bad: list[BadRow] | None = None
) -> list[Parsed]:
    """What `parse` makes of each record. Rows for which it raises DataError are appended to `bad`; without that list
    they are raised as one BadRows.
    """
    parsed, problems = [], [] if bad is None else bad
    for record in records:
        try:
            parsed.append(parse(record))
        except DataError as error:
            problems.append(BadRow(record.where, str(error), error.code))
    if bad is None and problems:
        raise BadRows(problems, len(records))
    return parsed


def parse_share(spelled: str | None) -> float:
    """The share of rows that --skip-invalid may leave out: N% or all. UsageError for anything else."""
    if spelled is None:
        return 0.0
    if spelled == "all":
        return 1.0
    try:
        share = float(spelled.removesuffix("%")) / 100
        if spelled.endswith("%") and 0 < share <= 1:
            return share
    except ValueError:
        pass
    raise UsageError(
        "invalid_value", f"--skip-invalid {spelled}: give a share of the rows, such as 5%, or all"
    )


def usable_rows(
    records: Sequence[Record],
    parse: Callable[[Record], Any] | None,
    skip: str | None,
    faults: Sequence[Problem] = (),
) -> list[Record]:
    """The records without those that `parse` refuses (None: there are no records), which are reported; `faults` are
    rows that could not be read at all. BadRows where they are a larger share than `skip` allows, or all.
    """
    share, bad = parse_share(skip), unread(faults)
    if parse is not None:
        parse_rows(records, parse, bad)
    bad, total = in_order(bad), len(records) + len(faults)
    if bad and (len(bad) > share * total or len(bad) == total):
        raise BadRows(bad, total)
    if bad:
        first = bad[0].message
        notice(
            f"{len(bad):,} of {total:,} rows cannot be used and are left out (--skip-invalid); the first: {first}"
        )
    places = {row.where for row in bad}
    return [record for record in records if record.where not in places]


TRAINING = ("train", "training")
HELD = ("test", "testing", "dev", "val", "valid", "validation", "eval")
"""What files and folders of rows to measure on are called, beside those to train on."""


def to_train_on(
    path: Path, records: Sequence[Record], faults: Sequence[Problem]
) -> tuple[list[Record], list[Problem]]:
    """The rows and the faults of a folder without those of its parts to measure on (test.csv beside train.csv, a folder
    test beside train), which a line counts.
    """
    places = [record.where for record in records] + [fault.where for fault in faults]
    held = held_files(path, places)
    report_held(path, held, places)
    return (
        [record for record in records if file_of(record.where) not in held],
        [fault for fault in faults if file_of(fault.where) not in held],
    )


def held_files(path: Path, places: Iterable[str]) -> dict[str, str]:
    """Of the files of a folder or archive (by the places of their rows) those of a part to measure on, beside which is
    one to train on: the file → the part, such as test.csv, or the folder test.
    """
    begin, files = printable(str(path)), dict.fromkeys(map(file_of, places))
    parts = {file: re.split(r"[/\\!]", file.removeprefix(begin).lstrip("/\\!")) for file in files}
    trained = {
        tuple(names[:depth])
        for names in parts.values()
        for depth, name in enumerate(names)
        if is_named(name, TRAINING)
    }
    held = {}
    for file, names in parts.items():
        for depth, name in enumerate(names):
            if tuple(names[:depth]) in trained and is_named(name, HELD) and not is_named(name, TRAINING):
                held[file] = "/".join(names[: depth + 1])
                break
    return held


def file_of(where: str) -> str:
    """The file of a row's place."""
    file, colon, _ = where.rpartition(": ")
    return file if colon else where


def is_named(name: str, words: Sequence[str]) -> bool:
    """Whether the name of a file or folder has one of these words."""
    return bool(set(re.split(r"[-_. \d]+", name.lower())) & set(words))


def report_held(path: Path, held: Mapping[str, str], places: Iterable[str]) -> None:
    """One line that says which parts of a folder are left out of the rows to train on."""
    counts = Counter(held[file] for file in map(file_of, places) if file in held)
    if not counts:
        return
    names = ", ".join(f"{name} ({n:,} rows)" for name, n in counts.items())
    notice(
        f"{path}: left out, as parts to measure on beside one to train on: {names}; give them with --dev or to"
        " textus evaluate --on, or rename them to train on all"
    )


NOT_ACCEPTED = ("reject", "ignore")
"""What Prodigy's `answer` is of a row whose label does not hold, beside "accept"."""


def accepted(records: Sequence[Record]) -> Sequence[Record]:
    """The records without those that were answered reject or ignore in Prodigy, which a line counts.

    Raises DataError where none is left.
    """
    answers = [answer_of(record) for record in records]
    if not set(answers) <= {None, "accept", *NOT_ACCEPTED} or not set(answers) & set(NOT_ACCEPTED):
        return records
    kept = [record for record, answer in zip(records, answers, strict=True) if answer not in NOT_ACCEPTED]
    first = next(
        record.where for record, answer in zip(records, answers, strict=True) if answer in NOT_ACCEPTED
    )
    line = f"{len(records) - len(kept):,} of {len(records):,} rows were answered reject or ignore in Prodigy"
    if not kept:
        raise DataError(
            "invalid_rows", f"{line}, the first {first}: none can be used; give rows that were accepted"
        )
    notice(f"{line} and are left out; the first is {first}")
    return kept


def answer_of(record: Record) -> Any:
    """The `answer` of a row unless it may be that to its question."""
    values = record.values
    if "question" in values and not {"answers", "_task_hash", "_input_hash"} & values.keys():
        return None
    answer = values.get("answer")
    return answer if answer is None or isinstance(answer, str) else "none of Prodigy's"


def in_order(rows: Sequence[BadRow]) -> list[BadRow]:
    """Bad rows by file and line."""

    def place(row: BadRow) -> tuple[str, list[int]]:
        file, _, line = row.where.rpartition(": ")
        return file, [int(digits) for digits in re.findall(r"\d+", line.replace(",", ""))]

    return sorted(rows, key=place)


def unread(faults: Sequence[Problem]) -> list[BadRow]:
    """Rows that could not be read, among those that cannot be used."""
    return [BadRow(each.where, str(each)) for each in faults]

"""Rows that cannot be used: listed together, or left out up to the share that --skip-invalid allows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from textus.core.console import log_notice
from textus.core.errors import DataError, UsageError
from textus.data.corpus.dialects import RowProblem
from textus.data.labeled import Record

SHOWN_REASONS = 10
"""So many kinds of bad rows are listed in an error."""
SHOWN_PLACES = 3
"""So many places of rows that cannot be used for one reason are named."""
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
        code, first = codes.pop() if len(codes) == 1 else "invalid_rows", self.rows[0].message
        if len(rows) == 1:
            super().__init__(code, first)
            return
        if len(rows) == n_rows:
            super().__init__(code, f"{first} (none of the {n_rows:,} rows can be used; this is the first)")
            return
        reasons = group_by_reason(rows)
        listed = "; ".join(reasons[:SHOWN_REASONS])
        more = (
            f"; and {len(reasons) - SHOWN_REASONS:,} more kinds of error"
            if len(reasons) > SHOWN_REASONS
            else ""
        )
        super().__init__(
            code,
            f"{len(rows):,} of {n_rows:,} rows cannot be used: {listed}{more}. Correct them, or leave them out with"
            " --skip-invalid 5% (up to that share) or --skip-invalid all",
        )


def group_by_reason(rows: Sequence[BadRow]) -> list[str]:
    """The messages of bad rows, grouped by file and reason, with the number of rows and the first places."""
    groups: dict[tuple[str, str], list[BadRow]] = {}
    for row in rows:
        groups.setdefault((file_of_place(row.where), row.message.replace(row.where, "", 1)), []).append(row)
    lines = []
    for (file, _), group in groups.items():
        others = [row.where.removeprefix(f"{file}: ") for row in group[1:]]
        more = f" and {len(others) - SHOWN_PLACES:,} more" if len(others) > SHOWN_PLACES else ""
        also = f" ({len(group):,} rows; also {', '.join(others[:SHOWN_PLACES])}{more})" if others else ""
        lines.append(group[0].message + also)
    return lines


def file_of_place(where: str) -> str:
    """The file of a row's place."""
    file, colon, _ = where.rpartition(": ")
    return file if colon else where


def parse_rows(
    records: Sequence[Record], parse: Callable[[Record], Parsed], bad: list[BadRow] | None = None
) -> list[Parsed]:
    """What `parse` makes of each record. Rows with an error are appended to `bad`, or without it raised as BadRows."""
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


def drop_unusable(
    records: Sequence[Record],
    parse: Callable[[Record], Any] | None,
    skip: str | None,
    faults: Sequence[RowProblem] = (),
) -> list[Record]:
    """The records without those that `parse` refuses (None: no records), which are reported; `faults` are unreadable
    rows. Raises BadRows if they exceed the share that `skip` allows, or are all.
    """
    bad = unreadable_rows(faults)
    if parse is not None:
        parse_rows(records, parse, bad)
    places = skip_bad_rows(bad, len(records) + len(faults), skip)
    return [record for record in records if record.where not in places]


def skip_bad_rows(bad: Sequence[BadRow], total: int, skip: str | None) -> set[str]:
    """The places of bad rows, which are reported. Raises BadRows if they exceed the share `skip` allows, or are all."""
    bad = sort_by_place(bad)
    if bad and (len(bad) > parse_share(skip) * total or len(bad) == total):
        raise BadRows(bad, total)
    if bad:
        first = bad[0].message
        log_notice(
            f"{len(bad):,} of {total:,} rows cannot be used and are left out (--skip-invalid); the first: {first}"
        )
    return {row.where for row in bad}


def sort_by_place(rows: Sequence[BadRow]) -> list[BadRow]:
    """Bad rows by file and line."""

    def place(row: BadRow) -> tuple[str, list[int]]:
        file, _, line = row.where.rpartition(": ")
        return file, [int(digits) for digits in re.findall(r"\d+", line.replace(",", ""))]

    return sorted(rows, key=place)


def unreadable_rows(faults: Sequence[RowProblem]) -> list[BadRow]:
    """Rows that could not be read, among those that cannot be used."""
    return [BadRow(fault.where, str(fault)) for fault in faults]

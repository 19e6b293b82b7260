"""Rows that are left out before a task reads them: held-out parts of a folder, and rejected annotations."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from textus.core.console import log_notice, to_printable
from textus.core.errors import DataError
from textus.data.corpus.dialects import RowProblem
from textus.data.labeled import Record
from textus.data.skipping import file_of_place

TRAINING = ("train", "training")
HELD = ("test", "testing", "dev", "val", "valid", "validation", "eval")
"""Names of files and folders of held-out rows."""


def drop_held_out_files(
    path: Path, records: Sequence[Record], faults: Sequence[RowProblem]
) -> tuple[list[Record], list[RowProblem]]:
    """The rows and the faults of a folder without its held-out parts (test.csv next to train.csv, a folder test next to
    train), which are reported.
    """
    places = [record.where for record in records] + [fault.where for fault in faults]
    held = held_out_files(path, places)
    report_held_out(path, held, places)
    return (
        [record for record in records if file_of_place(record.where) not in held],
        [fault for fault in faults if file_of_place(fault.where) not in held],
    )


def held_out_files(path: Path, places: Iterable[str]) -> dict[str, str]:
    """File → held-out part, such as test.csv or the folder test, of the files of a folder or archive (by the places of
    their rows) that have training files next to them.
    """
    begin, files = to_printable(str(path)), dict.fromkeys(map(file_of_place, places))
    parts = {file: re.split(r"[/\\!]", file.removeprefix(begin).lstrip("/\\!")) for file in files}
    steps = [(file, names, depth) for file, names in parts.items() for depth in range(len(names))]
    trained = {tuple(names[:depth]) for _, names, depth in steps if has_word(names[depth], TRAINING)}
    held: dict[str, str] = {}
    for file, names, depth in steps:
        name = names[depth]
        if tuple(names[:depth]) in trained and has_word(name, HELD) and not has_word(name, TRAINING):
            held.setdefault(file, "/".join(names[: depth + 1]))
    return held


def has_word(name: str, words: Sequence[str]) -> bool:
    """Whether the name of a file or folder has one of these words."""
    return bool(set(re.split(r"[-_. \d]+", name.lower())) & set(words))


def report_held_out(path: Path, held: Mapping[str, str], places: Iterable[str]) -> None:
    """Report the held-out parts of a folder."""
    counts = Counter(held[file] for file in map(file_of_place, places) if file in held)
    names = ", ".join(f"{name} ({n:,} rows)" for name, n in counts.items())
    if names:
        log_notice(
            f"{path}: left out of training, as held-out parts: {names}; give them with --dev or to textus evaluate"
            " --on, or rename them to train on all"
        )


NOT_ACCEPTED = ("reject", "ignore")
"""Values of Prodigy's `answer` for a row whose label is not valid."""


def drop_rejected(records: Sequence[Record]) -> Sequence[Record]:
    """The records without those that were answered reject or ignore in Prodigy, which are reported. Raises DataError
    where none is left.
    """
    answers = [prodigy_answer(record) for record in records]
    if not set(answers) <= {None, "accept", *NOT_ACCEPTED} or not set(answers) & set(NOT_ACCEPTED):
        return records
    kept = [record for record, answer in zip(records, answers, strict=True) if answer not in NOT_ACCEPTED]
    first = records[next(at for at, answer in enumerate(answers) if answer in NOT_ACCEPTED)].where
    line = f"{len(records) - len(kept):,} of {len(records):,} rows were answered reject or ignore in Prodigy"
    if not kept:
        raise DataError(
            "invalid_rows", f"{line}, the first {first}: none can be used; give rows that were accepted"
        )
    log_notice(f"{line} and are left out; the first is {first}")
    return kept


def prodigy_answer(record: Record) -> Any:
    """The `answer` of a row, unless it may be the answer to its question."""
    values = record.values
    if "question" in values and not {"answers", "_task_hash", "_input_hash"} & values.keys():
        return None
    answer = values.get("answer")
    return answer if answer is None or isinstance(answer, str) else "none of Prodigy's"

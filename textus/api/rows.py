"""Verbs that make rows to learn from: `augment` of others, `cloze` of plain text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from textus.common import DataError, UsageError, write_atomic


def augment(
    data: str | Path, *, out: str | Path, columns: str | None = None, force: bool = False, **how: Any
) -> dict[str, Any]:
    """Write labelled rows and, after each, copies that say the same a little differently, as JSON lines; `how` are
    fields of `augment.AugmentSettings`. Returns how many rows and copies there are.

    Raises UsageError for an operation that is not there or lacks what it needs, DataError for rows without a text.
    """
    from collections import Counter

    from textus.augment import AugmentSettings, augmented
    from textus.records import parse_columns, read_records

    out, settings = Path(out), AugmentSettings(**how)
    refuse(out, force)
    records = read_records(Path(data), parse_columns(columns))
    found = augmented(records, settings)
    write(out, (each.values for each in found))
    copies = Counter(each.values["augmented"] for each in found if "augmented" in each.values)
    return {"out": str(out), "rows": len(records), "copies": dict(copies)}


def cloze(corpus: str | Path, *, out: str | Path, force: bool = False, **how: Any) -> dict[str, Any]:
    """Write rows of question answering made of a corpus' training split, as JSON lines; `how` are fields of
    `augment.cloze.ClozeSettings`. Returns how many rows there are.

    Raises DataError where no sentence is long enough to ask for a part of it.
    """
    from textus.augment.cloze import ClozeSettings, clozes
    from textus.corpus import open_corpus

    out, settings = Path(out), ClozeSettings(**how)
    refuse(out, force)
    documents = (each.text for each in open_corpus(Path(corpus)).documents("train"))
    if not (n := write(out, clozes(documents, settings))):
        raise DataError(
            f"{corpus} has no passage of three sentences with a sentence of eight words; give longer texts"
        )
    return {"out": str(out), "rows": n}


def refuse(out: Path, force: bool) -> None:
    """Raise UsageError for a file that is there already."""
    if out.exists() and (out.is_dir() or not force):
        raise UsageError(f"{out} exists already; choose another --out, or --force to replace this file")


def write(out: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Rows as JSON lines, whole or not at all; returns how many."""
    lines = [json.dumps(each, ensure_ascii=False, default=str) + "\n" for each in rows]
    write_atomic(out, "".join(lines))
    return len(lines)

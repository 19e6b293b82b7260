"""Verbs on rows to learn from: `augment` of others, `cloze` of plain text, `validate` of what a file holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from textus.common import (
    claim_file,
    json_lines,
    write_atomic,
)
from textus.errors import DataError


def augment(
    data: str | Path,
    *,
    out: str | Path,
    columns: str | None = None,
    encoding: str | None = None,
    force: bool = False,
    **how: Any,
) -> dict[str, Any]:
    """Write labelled rows and, after each, copies that say the same a little differently, as JSON lines; `how` are
    fields of `augment.AugmentSettings`. Returns how many rows and copies there are.

    Raises UsageError for an operation that is not there or lacks what it needs, DataError for rows without a text.
    """
    from collections import Counter

    from textus.augment import AugmentSettings, augmented
    from textus.reading import ReadOptions

    out, settings = Path(out), AugmentSettings(**how)
    claim_file(out, force=force)
    records = ReadOptions(columns, encoding).records(Path(data))
    found = augmented(records, settings)
    write_atomic(out, json_lines(each.values for each in found))
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
    claim_file(out, force=force)
    documents = (each.text for each in open_corpus(Path(corpus)).documents("train"))
    rows = list(clozes(documents, settings))
    if not rows:
        raise DataError(
            "too_little_data",
            f"{corpus} has no passage of three sentences with a sentence of eight words; give longer texts",
        )
    write_atomic(out, json_lines(rows))
    return {"out": str(out), "rows": len(rows)}


def validate(
    data: str | Path,
    *,
    task: str = "classification",
    dev: str | Path | None = None,
    test: str | Path | None = None,
    start: str | Path | None = None,
    model: str | None = None,
    columns: str | None = None,
    encoding: str | None = None,
    settings: Sequence[str] = (),
) -> dict[str, Any]:
    """Check labelled rows for a task before a model is trained on them; the arguments are the flags of
    `textus validate`.

    Returns what each file holds, the classes, all rows that cannot be used (`errors`; `ok` where there is none) and
    what is likely a mistake (`warnings`). Raises UsageError for words that are wrong, DataError for a file that cannot
    be read at all.
    """
    from textus.validating import Reader, validate

    reader = Reader(columns, encoding or "", tuple(settings))
    others = {name: Path(path) for name, path in (("dev", dev), ("test", test)) if path}
    return validate(
        Path(data), task, others=others, run=Path(start) if start else None, family=model, reader=reader
    )

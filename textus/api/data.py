"""Verbs on rows to learn from: `augment` of others, `cloze` of plain text, `validate` of what a file holds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from textus.core.arguments import optional_path, path_of
from textus.core.console import notice
from textus.core.errors import DataError, UsageError
from textus.core.io import claim_file, json_lines, write_atomic


@contextlib.contextmanager
def rows_beside(out: Path, task: str, **given: Any) -> Iterator[list[Any]]:
    """Files as they are; rows of Python as files beside `out`, OUT.NAME.jsonl, from which a run is resumed. Where the
    block fails before there is a run at `out`, they are removed, and what was in their place is put back.
    """
    before, replaced = contents(out), dict[Path, bytes | None]()
    try:
        yield [kept_rows(data, out, name, task, replaced) for name, data in given.items()]
    except BaseException:
        if contents(out) == before:
            for path, former in replaced.items():
                path.unlink(missing_ok=True)
                if former is not None:
                    write_atomic(path, former)
        raise


def contents(out: Path) -> dict[Path, bytes]:
    """The records of the run at `out`, or of a search's runs."""
    return {path: path.read_bytes() for path in (*out.glob("run.json"), *out.glob("*/run.json"))}


def kept_rows(data: Any, out: Path, name: str, task: str, replaced: dict[Path, bytes | None]) -> Any:
    """A file as it is; rows of Python as a file beside the run, what was there before in `replaced`."""
    if data is None or isinstance(data, str | Path):
        return data
    from textus.data.inputs import labelled_rows

    rows = labelled_rows(data, task)
    if not rows:
        raise UsageError("empty_data", "there is no row to learn from; give labelled rows")
    path = out.with_name(f"{out.name}.{name}.jsonl")
    replaced[path] = path.read_bytes() if path.is_file() else None
    write_atomic(path, json_lines(rows))
    notice(f"{len(rows):,} rows are kept in {path}")
    return path


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
    fields of `augment.augmenter.AugmentSettings`. Returns how many rows and copies there are.

    Raises UsageError for an operation that is not there or lacks what it needs, DataError for rows without a text.
    """
    from collections import Counter

    from textus.augment.augmenter import AugmentConfig, augmented
    from textus.data.read_options import ReadOptions

    out, settings = path_of(out, "out"), AugmentConfig(**how)
    claim_file(out, force=force)
    records = ReadOptions(columns, encoding).records(path_of(data, "data"))
    found = augmented(records, settings)
    write_atomic(out, json_lines(each.values for each in found))
    copies = Counter(each.values["augmented"] for each in found if "augmented" in each.values)
    return {"out": str(out), "rows": len(records), "copies": dict(copies)}


def cloze(corpus: str | Path, *, out: str | Path, force: bool = False, **how: Any) -> dict[str, Any]:
    """Write rows of question answering made of a corpus' training split, as JSON lines; `how` are fields of
    `augment.cloze.ClozeSettings`. Returns how many rows there are.

    Raises DataError where no sentence is long enough to ask for a part of it.
    """
    from textus.augment.cloze import ClozeConfig, clozes
    from textus.data.corpus import open_corpus

    out, settings = path_of(out, "out"), ClozeConfig(**how)
    claim_file(out, force=force)
    documents = (each.text for each in open_corpus(path_of(corpus, "corpus")).documents("train"))
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
    from textus.tasks.validation import RowReader, validate

    reader = RowReader(columns, encoding or "", tuple(settings))
    others = {
        name: path for name, given in (("dev", dev), ("test", test)) if (path := optional_path(given, name))
    }
    return validate(
        path_of(data, "data"),
        task,
        others=others,
        run=optional_path(start, "start"),
        family=model,
        reader=reader,
    )

"""Labelled data as functions: `augment`, `cloze`, `validate`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textus.api.signatures import with_options
from textus.augment.config import AugmentConfig, ClozeConfig
from textus.core.arguments import to_path
from textus.core.console import log_notice
from textus.core.errors import DataError, UsageError
from textus.core.io import check_output_file, dump_jsonl, write_atomic
from textus.core.requests import build_request
from textus.tasks.config import ValidateConfig

if TYPE_CHECKING:
    from textus.data.corpus import Corpus


@contextlib.contextmanager
def input_rows(out: Path, task: str, **given: Any) -> Iterator[list[Any]]:
    """Files as they are; rows of Python as files next to `out`, OUT.NAME.jsonl, from which a run is resumed. Where the
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
    """A file as it is; rows of Python as a file next to the run, what was there before in `replaced`."""
    if data is None or isinstance(data, str | Path):
        return data
    from textus.data.inputs import labelled_rows

    rows = labelled_rows(data, task)
    if not rows:
        raise UsageError("empty_data", "no rows to train on; give labelled rows")
    path = out.with_name(f"{out.name}.{name}.jsonl")
    replaced[path] = path.read_bytes() if path.is_file() else None
    write_atomic(path, dump_jsonl(rows))
    log_notice(f"{len(rows):,} rows are kept in {path}")
    return path


@with_options(AugmentConfig)
def augment(
    data: str | Path,
    *,
    out: str | Path,
    columns: str | None = None,
    encoding: str | None = None,
    config: AugmentConfig | None = None,
    force: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Write labelled rows and, after each, changed copies with the same label, as JSON lines. Options are given as an
    `AugmentConfig` or as keywords. Returns how many rows and copies there are.

    Raises UsageError for an operation that is unknown or lacks what it needs, DataError for rows without a text.

    Example:
        >>> textus.augment("reviews.csv", out="more.jsonl", ops="typos", copies=2)["copies"]
        {'typos': 63}
    """
    from collections import Counter

    from textus.augment.augmenter import augment_records
    from textus.data.read_options import ReadOptions

    out, config = to_path(out, "out"), build_request(AugmentConfig, config, options)
    check_output_file(out, force=force)
    records = ReadOptions(columns, encoding).records(to_path(data, "data"))
    rows = augment_records(records, config)
    write_atomic(out, dump_jsonl(row.values for row in rows))
    copies = Counter(row.values["augmented"] for row in rows if "augmented" in row.values)
    return {"out": str(out), "rows": len(records), "copies": dict(copies)}


@with_options(ClozeConfig)
def cloze(
    corpus: str | Path | Corpus,
    *,
    out: str | Path,
    config: ClozeConfig | None = None,
    force: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Write question-answer rows made of a corpus' training split, as JSON lines. Options are given as a `ClozeConfig`
    or as keywords. Returns how many rows there are.

    Raises DataError where no sentence is long enough to ask for a part of it.

    Example:
        >>> textus.cloze("work/corpus", out="cloze.jsonl", questions=1)["rows"] > 0
        True
    """
    from textus.augment.cloze import make_clozes
    from textus.data.corpus import open_corpus

    out, config = to_path(out, "out"), build_request(ClozeConfig, config, options)
    check_output_file(out, force=force)
    documents = (document.text for document in open_corpus(to_path(corpus, "corpus")).documents("train"))
    rows = list(make_clozes(documents, config))
    if not rows:
        raise DataError(
            "too_little_data",
            f"{corpus} has no passage of three sentences with a sentence of eight words; give longer texts",
        )
    write_atomic(out, dump_jsonl(rows))
    return {"out": str(out), "rows": len(rows)}


@with_options(ValidateConfig)
def validate(data: str | Path, *, config: ValidateConfig | None = None, **options: Any) -> dict[str, Any]:
    """Check labelled rows for a task before a model is trained on them. Options are given as a `ValidateConfig` or as
    keywords.

    Returns what each file holds, the classes, all rows that cannot be used (`errors`; `ok` if there are none) and
    likely mistakes (`warnings`). Raises UsageError for options that are wrong, DataError for a file that cannot be read
    at all.

    Example:
        >>> report = textus.validate("reviews.csv")
        >>> report["ok"], report["classes"]
        (True, {'bad': 16, 'good': 16})
    """
    from textus.tasks.validation import validate_files

    return validate_files(to_path(data, "data"), build_request(ValidateConfig, config, options))

"""Embeddings of a file's texts, written as they are computed.

OUT.npy             an array (texts, D), float32, in the order of the file
OUT.npy.rows.jsonl  the line and id of each vector
OUT.jsonl, .csv     the place, the columns of the file and the vector, one row per text
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from textus.core.console import merge_notices
from textus.core.errors import UsageError
from textus.core.io import check_output_file, dump_jsonl, fingerprint, sha256, write_atomic
from textus.core.names import unknown_name_error
from textus.data.inputs import record_location, report_empty, row_reader
from textus.data.labeled import Record
from textus.data.output import (
    FORMATS,
    ROWS_PER_WRITE,
    OutputLayout,
    PartialFile,
    check_output,
    content_hash,
    partial_file,
    write_rows,
)
from textus.data.passages import text_field
from textus.data.read_options import AUTODETECT, ReadOptions

Vectors = Callable[[Sequence[str]], np.ndarray]


def embed_file(
    vectors: Vectors,
    path: Path,
    out: Path,
    *,
    run: Path,
    options: ReadOptions = AUTODETECT,
    settings: Sequence[str] = (),
    force: bool = False,
) -> dict[str, Any]:
    """Write the vectors of a file's texts to `out`; the same command continues after an interruption. Returns their
    number and width.

    Raises UsageError if `out` exists, unless `force`; DataError for a file without texts.
    """
    if (form := out.suffix.lower()) not in (".npy", *FORMATS):
        raise unknown_name_error("form of --out", out.suffix or out.name, [".npy", *FORMATS])
    rows_file = out.with_name(f"{out.name}.rows.jsonl")
    check_output(out, path, force=force)
    if form == ".npy":
        check_output_file(rows_file, force=force)
    records = row_reader(path, options, check=lambda rows: lambda row: text_field(row.values, row.where))
    key = fingerprint([sha256(run / "run.json"), content_hash(path), astuple(options), list(settings), form])
    n = sum(1 for _ in records())
    with partial_file(out, key, force=force) as file, merge_notices():
        if form == ".npy":
            width = write_array(file, vectors, records(), n)
            write_atomic(rows_file, dump_jsonl(map(record_location, records())))
        else:
            width = write_table(file, vectors, records, options.columns)
    return {
        "out": str(out),
        "texts": n,
        "width": width,
        **({"rows": str(rows_file)} if form == ".npy" else {}),
    }


def require_texts(records: Iterable[Record]) -> list[str]:
    """The texts of records; the number of empty ones is reported. Raises DataError for a record without text."""
    texts = [(record.where, text_field(record.values, record.where)) for record in records]
    report_empty(((where, [text]) for where, text in texts), "embedded")
    return [text for _, text in texts]


def write_array(file: PartialFile, vectors: Vectors, records: Iterator[Record], n: int) -> int:
    """Write all vectors after the header of an .npy; returns their width."""
    width = 0
    rest = islice(records, file.n_done, None)
    while batch := list(islice(rest, ROWS_PER_WRITE)):
        batch_vectors = np.ascontiguousarray(vectors(require_texts(batch)), dtype="<f4")
        width = batch_vectors.shape[1]
        head = npy_header(n, width) if not file.n_done else b""
        file.add(head + batch_vectors.tobytes(), len(batch))
    if not width:  # nothing was left to compute
        with file.part.open("rb") as written:
            np.lib.format.read_magic(written)
            width = np.lib.format.read_array_header_1_0(written)[0][1]
    return width


def npy_header(n: int, width: int) -> bytes:
    """The header of an .npy of float32 with shape (n, width)."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (n, width)})
    return head.getvalue()


def write_table(
    file: PartialFile, vectors: Vectors, records: Callable[[], Iterator[Record]], columns: str | None
) -> int:
    """Write one row per text, its vector after the columns of the file; returns the vectors' width."""
    layout, width = OutputLayout(["vector"], columns, records()), 0

    def embed_batch(batch: list[Any]) -> list[dict[str, Any]]:
        nonlocal width
        batch_vectors = vectors(require_texts(batch))
        width = batch_vectors.shape[1]
        pairs = zip(batch, batch_vectors.tolist(), strict=True)
        return [layout.row(record, {"vector": vector}) for record, vector in pairs]

    write_rows(file, records(), embed_batch, layout.names)
    return width


def embed(vectors: Vectors, given: Any, options: ReadOptions = AUTODETECT) -> np.ndarray:
    """The vector of one text (D,), or of several (texts, D): strings, or rows and files (a Path) with a text."""
    from textus.data.inputs import to_items, to_records

    if isinstance(given, Path):
        return vectors(require_texts(row_reader(given, options)()))
    items, is_single = to_items(given)
    rows = [item for item in items if isinstance(item, dict)]
    texts = (
        require_texts(to_records(rows, options.columns))
        if rows
        else [item for item in items if isinstance(item, str)]
    )
    if len(texts) < len(items):
        raise UsageError("wrong_number_of_texts", "only single texts can be embedded; these are pairs")
    result = vectors(texts)
    return result[0] if is_single else result

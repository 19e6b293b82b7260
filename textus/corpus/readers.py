"""Characters to documents: a text or a page is one, each record of a table is one.

Texts are read in blocks, however long. A record and a page must be held whole, so they have a limit
(`RECORD_CHARS`); beyond it the error names the file and the record.
"""

from __future__ import annotations

import csv
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from html.parser import HTMLParser
from typing import Any, BinaryIO, cast

from textus.common import DataError, extra
from textus.corpus.decoding import open_text
from textus.corpus.documents import RECORD_CHARS, Dropped, Raw, Unreadable
from textus.corpus.sources import DAMAGE, Source, blocks

Read = Iterator[Raw | Dropped]


def read(source: Source, text_column: str, *, encoding: str = "") -> Read:
    """The documents of one source, and the records of it that hold no text; in the `encoding` given, or detected.

    Raises Unreadable for a file to be skipped, DataError for a table without the text column or with a
    record too long.
    """
    if source.kind == "parquet":
        yield from read_parquet(source, text_column)
        return
    found, text = open_text(source, encoding=encoding, page=source.kind == "html")
    steps = found.steps
    if source.kind == "text":
        yield Raw(source.name, 0, text, steps)
    elif source.kind == "html":
        yield read_page(source, text, steps)
    else:
        reader = read_jsonl if source.kind == "jsonl" else read_table
        yield from reader(source, text, steps, text_column)


# ── pages ──────────────────────────────────────────────────────────────────────────────────────


def read_page(source: Source, text: Iterable[str], steps: tuple[str, ...]) -> Raw:
    """The main text of a page by trafilatura; all of its text where that finds none."""
    page = joined(text, source.name)
    if extracted := extra("trafilatura", "text").extract(page, include_comments=False):
        return Raw(source.name, 0, [extracted], (*steps, "html:main text"))
    return Raw(source.name, 0, [strip_tags(page)], (*steps, "html:tags stripped"))


def joined(text: Iterable[str], name: str) -> str:
    """A whole page. Raises Unreadable beyond the limit."""
    pieces, n_chars = [], 0
    for piece in text:
        pieces.append(piece)
        n_chars += len(piece)
        if n_chars > RECORD_CHARS:
            raise Unreadable(f"a page of over {RECORD_CHARS:,} characters; split it")
    return "".join(pieces)


class TagStripper(HTMLParser):
    """Collects the text of a page: no scripts, no styles, a line break where a block begins or ends."""

    UNSEEN = frozenset({"script", "style", "template", "noscript", "head"})
    BLOCKS = frozenset(
        {"address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "footer", "form", "h1"}
        | {"h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "option", "p", "pre"}
        | {"section", "table", "td", "th", "tr", "ul"}
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self.unseen: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag in self.UNSEEN:
            self.unseen.append(tag)
        elif tag == "body":
            self.unseen.clear()  # an unclosed head ends here
        elif tag in self.BLOCKS:
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self.unseen:
            del self.unseen[self.unseen.index(tag) :]
        elif tag in self.BLOCKS:
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.unseen:
            self.pieces.append(re.sub(r"[ \t\r\n]+", " ", data))


def strip_tags(page: str) -> str:
    """All text a reader of the page would see, a line for each block."""
    stripper = TagStripper()
    stripper.feed(page)
    stripper.close()
    lines = (line.strip() for line in "".join(stripper.pieces).split("\n"))
    return "\n".join(line for line in lines if line)


# ── tables ─────────────────────────────────────────────────────────────────────────────────────


def lines(text: Iterable[str], name: str) -> Iterator[str]:
    """The lines of a text with their ends, cut at \\n only. Raises DataError for a line beyond the limit."""
    held: list[str] = []
    n_held, number = 0, 1
    for block in text:
        *ended, rest = block.split("\n")
        for line in ended:
            yield "".join([*held, line, "\n"])
            held, n_held, number = [], 0, number + 1
        held.append(rest)
        n_held += len(rest)
        if n_held > RECORD_CHARS:
            raise too_long(name, f"line {number:,}")
    if last := "".join(held):
        yield last


def read_jsonl(source: Source, text: Iterable[str], steps: tuple[str, ...], column: str) -> Read:
    """The records of a file of one JSON object a line."""
    wanted: tuple[str, ...] = ()
    record = -1
    for number, line in enumerate(lines(text, source.name), 1):
        if not line.strip():
            continue
        record += 1
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            yield Dropped(source.name, "not JSON", f"line {number}: {error}", record)
            continue
        if not isinstance(row, dict):
            yield Dropped(source.name, "not an object", f"line {number}: {type(row).__name__}", record)
            continue
        wanted = wanted or columns(source.name, column, list(row))
        yield cell(source, record, [row.get(each) for each in wanted], steps, f"line {number}")


def read_table(source: Source, text: Iterable[str], steps: tuple[str, ...], column: str) -> Read:
    """The records of a csv (quoted as Excel does) or tsv (tabs only: a quote is a quote) with a header.

    Python's limit on the length of a field is for the whole process: it is raised while this file is read.
    """
    if source.kind == "tsv":
        rows = csv.reader(lines(text, source.name), delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        rows = csv.reader(lines(text, source.name))
    before = csv.field_size_limit(RECORD_CHARS)
    try:
        yield from read_rows(source, rows, steps, column)
    except csv.Error as error:
        raise DataError(
            f"{source.name}: the record that ends at line {rows.line_num:,} is too long or not {source.kind} "
            f"({error}); look for a quote that is never closed"
        ) from error
    finally:
        csv.field_size_limit(before)


def read_rows(source: Source, rows: Any, steps: tuple[str, ...], column: str) -> Read:
    header = [name.strip() for name in next(rows, [])]
    if not header:
        return
    places = [header.index(each) for each in columns(source.name, column, header)]
    record = -1
    for row in rows:
        if not row:
            continue
        record += 1
        values = [row[at] if at < len(row) else None for at in places]
        yield cell(source, record, values, steps, f"line {rows.line_num}")


def read_parquet(source: Source, column: str) -> Read:
    """The records of a parquet file, a small batch at a time."""
    parquet = extra("pyarrow.parquet", "text")
    record = -1
    with seekable(source) as file:
        try:
            table = parquet.ParquetFile(file, pre_buffer=False)
            wanted = columns(source.name, column, table.schema_arrow.names)
            for batch in table.iter_batches(batch_size=256, columns=list(wanted), use_threads=False):
                for values in zip(*(batch.column(each).to_pylist() for each in wanted), strict=True):
                    record += 1
                    yield cell(source, record, values, (), f"record {record}")
        except (*DAMAGE, ValueError, extra("pyarrow", "text").ArrowException) as error:
            raise Unreadable(f"not a parquet file, or damaged: {first_line(error)}") from error


def seekable(source: Source) -> BinaryIO:
    """The bytes of a source in a file one can seek in: itself, or spooled where it lies in an archive."""
    try:
        file = source.open()
    except DAMAGE as error:
        raise Unreadable(first_line(error)) from error
    if not source.wrapping and "!" not in source.name:
        return file
    file.close()
    spooled = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 — the caller closes it
    for block in blocks(source):
        spooled.write(block)
    spooled.seek(0)
    return spooled


PAIR = ("source", "target")
"""The columns of a table of pairs."""


def columns(name: str, column: str, present: list[str]) -> tuple[str, ...]:
    """The columns to read: the text's, or both of a table of pairs. Raises DataError for neither."""
    if column in present:
        return (column,)
    if all(each in present for each in PAIR):
        return PAIR
    raise no_column(name, column, present)


def cell(
    source: Source, record: int, values: Sequence[Any], steps: tuple[str, ...], where: str
) -> Raw | Dropped:
    """A record's text, or its source and target, as a document, or why it is none.

    Raises DataError for one beyond the limit.
    """
    for name, value in zip(PAIR if len(values) > 1 else ("text",), values, strict=True):
        if value is None:
            return Dropped(source.name, f"no {name}", where, record)
        if not isinstance(value, str):
            return Dropped(source.name, f"{name} is not a string", f"{where}: {type(value).__name__}", record)
        if len(value) > RECORD_CHARS:
            raise too_long(source.name, where)
    given = values[0] if len(values) > 1 else None
    return Raw(source.name, record, [values[-1]], steps, by_characters=False, source_text=given)


def too_long(name: str, where: str) -> DataError:
    """The error for a record that cannot be held whole."""
    return DataError(
        f"{name}: the record at {where} has over {RECORD_CHARS:,} characters; split it, or give its text "
        "as .txt, which may be of any length"
    )


def no_column(name: str, column: str, columns: list[str]) -> DataError:
    """The error for a table that lacks the text column."""
    shown = ", ".join(map(repr, columns[:30])) + (
        f" and {len(columns) - 30} more" if len(columns) > 30 else ""
    )
    return DataError(
        f"{name} has no column {column!r}; it has {shown or 'none'}; name the text's with text_column"
        " (pairs have the columns source and target)"
    )


def first_line(error: BaseException) -> str:
    """An error in one line."""
    return (str(error) or type(error).__name__).splitlines()[0]

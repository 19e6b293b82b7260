"""Characters to documents: a text or a page is one, each record of a table is one.

Texts are read in blocks, however long. A record or page must be held whole, so it is limited to `RECORD_CHARS`.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any, cast

from textus.core.errors import UsageError
from textus.core.names import import_optional
from textus.data.corpus.decoding import open_text
from textus.data.corpus.dialects import RowProblem
from textus.data.corpus.documents import (
    RECORD_CHARS,
    MissingColumnError,
    RawDocument,
    SkippedItem,
    UnreadableError,
)
from textus.data.corpus.pdf_docx import read_pdf_or_docx
from textus.data.corpus.repair import replace_surrogates
from textus.data.corpus.sources import Source
from textus.data.corpus.tables import (
    TABLES,
    PlacedRow,
    ReadConfig,
    error_line,
    missing_column_error,
    read_rows,
    read_whole,
    silent,
)

Read = Iterator[RawDocument | SkippedItem]


def read_source(source: Source, reading: ReadConfig) -> Read:
    """The documents of one source, and its records without text. Raises UnreadableError for a file to be left out,
    MissingColumnError for a table without the columns.
    """
    if source.kind in TABLES or (reading.by_position and source.kind == "text"):
        yield from read_table(source, reading)
        return
    if source.kind in ("pdf", "docx"):
        yield RawDocument(source.name, 0, [read_pdf_or_docx(source)], (f"{source.kind}:text",))
        return
    detected, text = open_text(source, encoding=reading.encoding, page=source.kind == "html")
    steps = detected.steps
    if source.kind == "text":
        yield RawDocument(source.name, 0, text, steps)
    else:
        yield read_page(source, text, steps)


# ── pages ──────────────────────────────────────────────────────────────────────────────────────


def read_page(source: Source, text: Iterable[str], steps: tuple[str, ...]) -> RawDocument:
    """The main text of a page by trafilatura; all of its text where that finds none."""
    whole = read_whole(text, RECORD_CHARS, "a page of over {:,} characters; split it")
    page, n_replaced = replace_surrogates(whole)  # the parsers stop at a lone surrogate, and at NUL
    page = UNPARSABLE.sub("", DECLARATION.sub("", page, count=1))
    steps = (*steps, *([f"replaced:{n_replaced}"] if n_replaced else []))
    trafilatura = import_optional("trafilatura", "text")
    try:
        extracted = trafilatura.extract(page, include_comments=False)
        if extracted:
            extracted = restore_blocks(extracted, strip_tags(page))
            return RawDocument(source.name, 0, [extracted], (*steps, "html:main text"))
        return RawDocument(source.name, 0, [strip_tags(page)], (*steps, "html:tags stripped"))
    except (ValueError, AssertionError, AttributeError, TypeError, LookupError, RecursionError) as error:
        raise UnreadableError(
            "unreadable_file", f"not a page that can be parsed ({type(error).__name__}: {error_line(error)})"
        ) from error


UNPARSABLE = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\ufffe\uffff]")
DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")


class HtmlTextExtractor(HTMLParser):
    """Collects the text of a page: no scripts, no styles, a line break where a block begins or ends."""

    UNSEEN = frozenset({"script", "style", "template", "noscript", "head"})
    BLOCKS = frozenset(
        re.findall(
            r"\S+",
            "address article aside blockquote br caption center dd details dialog div dl dt fieldset "
            "figcaption figure footer form h1 h2 h3 h4 h5 h6 header hr legend li main nav ol option p pre "
            "section summary table tbody td textarea tfoot th thead tr ul",
        )
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self.unseen: list[str] = []
        self.n_pre = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.n_pre += tag == "pre"
        if tag in self.UNSEEN:
            self.unseen.append(tag)
        elif tag == "body":
            self.unseen.clear()  # an unclosed head ends here
        elif tag in self.BLOCKS:
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.n_pre = max(0, self.n_pre - (tag == "pre"))
        if tag in self.unseen:
            del self.unseen[self.unseen.index(tag) :]
        elif tag in self.BLOCKS:
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.unseen:
            self.pieces.append(data if self.n_pre else re.sub(r"[ \t\r\n]+", " ", data))


def strip_tags(page: str) -> str:
    """All text a reader of the page would see, a line for each block."""
    stripper = HtmlTextExtractor()
    stripper.feed(page)
    stripper.close()
    lines = (line.strip() for line in "".join(stripper.pieces).split("\n"))
    return "\n".join(line for line in lines if line)


def restore_blocks(extracted: str, shown: str) -> str:
    """A main text with the lines of the page: lines that make up one block are joined, with the block's blanks.
    trafilatura ends a line at tags within words on short pages (`un<b>break</b>able`, H<sub>2</sub>O).
    """
    blocks = {"".join(visible_words(block)): block for block in shown.split("\n")}
    compact = sorted(blocks)
    lines, whole_lines, at = extracted.split("\n"), [], 0
    while at < len(lines):
        end = end_of_block(lines, at, compact)
        block = blocks.get("".join(visible_words("".join(lines[at:end]))), "")
        torn = bool(block) and (end > at + 1 or visible_words(lines[at]) != visible_words(block))
        whole_lines.append(block if torn else lines[at])
        at = end if torn else at + 1
    return "\n".join(whole_lines)


def visible_words(line: str) -> list[str]:
    """What is between the blanks of a line, without characters that are never shown, such as a soft hyphen."""
    return INVISIBLE.sub("", line).split()


INVISIBLE = re.compile("[\xad\u200b-\u200f\u2060\ufeff]")


def end_of_block(lines: list[str], at: int, compact: list[str]) -> int:
    """The line after those from `at` on that together are a block; `compact` has all blocks without blanks, sorted."""
    held = ""
    for end in range(at, len(lines)):
        held += "".join(visible_words(lines[end]))
        place = bisect_left(compact, held)
        if place == len(compact) or not compact[place].startswith(held):
            break
        if compact[place] == held:
            return end + 1
    return at + 1


# ── tables ─────────────────────────────────────────────────────────────────────────────────────

PAIR = ("source", "target")
"""The fields of a table of pairs."""


def read_table(source: Source, reading: ReadConfig) -> Read:
    """The documents of a table, and the records left out. Raises MissingColumnError if no row has the columns."""
    steps = () if source.kind == "parquet" else open_text(source, encoding=reading.encoding)[0].steps
    wanted = named_fields(reading)
    if source.kind == "text":
        reading.reporter(source.name)("read as a table, since --columns gives positions")
    if source.kind in ("json", "jsonl"):
        wanted = detect_fields_by_row(source, reading, wanted)
    for number, row in enumerate(read_rows(source, reading, only=(*PAIR, "text"))):
        if isinstance(row, RowProblem):
            yield SkippedItem(source.name, row.kind, str(row), number)
            continue
        wanted = wanted or detect_fields(list(row.row))
        yield record_to_document(source, number, wanted, row, steps)


def named_fields(reading: ReadConfig) -> tuple[str, ...]:
    """The fields that `--columns` names: those of a pair or the text; () for none. Raises UsageError for an unknown
    one.
    """
    named = set(reading.columns.values())
    if strange := named - {*PAIR, "text"}:
        raise UsageError(
            "unknown_name",
            f"--columns: a corpus has no field {min(strange)!r}; name text, or source and target, such as text=review",
        )
    if "text" in named and len(named) > 1:
        raise UsageError(
            "conflicting_options",
            "--columns: a corpus has text, or source and target, not both; leave one of them out",
        )
    return ("text",) if "text" in named else PAIR if named else ()


def detect_fields(present: list[str]) -> tuple[str, ...]:
    """The text if there is one, or both fields of a pair. Raises MissingColumnError for neither."""
    if "text" in present:
        return ("text",)
    if all(name in present for name in PAIR):
        return PAIR
    pairs = "source=en,target=de" if "translation" in present else "source=COLUMN,target=COLUMN"
    raise MissingColumnError(
        "column_not_found",
        f"{missing_column_error('text', present)}; name the text's with --columns text=COLUMN (of pairs {pairs})",
    )


def detect_fields_by_row(source: Source, reading: ReadConfig, named: tuple[str, ...]) -> tuple[str, ...]:
    """The fields of a file whose rows differ: the text if any row has it, or both of a pair. Raises MissingColumnError
    for neither.
    """
    first: list[str] = []
    pairs = False
    for row in read_rows(source, replace(reading, report=silent)):
        if isinstance(row, PlacedRow):
            first = first or list(row.row)
            if named or "text" in row.row:
                return named or ("text",)
            pairs = pairs or all(name in row.row for name in PAIR)
    return PAIR if pairs or not first else detect_fields(first)


def record_to_document(
    source: Source, record: int, wanted: tuple[str, ...], placed: PlacedRow, steps: tuple[str, ...]
) -> RawDocument | SkippedItem:
    """A record's text, or its source and target, as a document, or why it is none."""
    values = [placed.row.get(name) for name in wanted]
    for name, value in zip(wanted, values, strict=True):
        if value is None:
            return SkippedItem(source.name, f"no {name}", placed.where, record)
        if not isinstance(value, str):
            kind = type(value).__name__
            return SkippedItem(source.name, f"{name} is not a string", f"{placed.where}: {kind}", record)
        if len(value) > RECORD_CHARS:
            return SkippedItem(
                source.name, "record too long", f"{placed.where}: {len(value):,} characters", record
            )
    given = values[0] if len(values) > 1 else None
    return RawDocument(
        source.name, record, [cast(str, values[-1])], steps, offset_in_chars=False, source_text=given
    )

"""Documents of an index as passages: a document is cut at its headings, and long parts into passages that overlap,
since a model reads a limited number of tokens. Each keeps the id, title, file, page and place of its document.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from textus.core.console import log_notice, to_printable
from textus.core.errors import DataError, UsageError
from textus.data.corpus.decoding import Guesses
from textus.data.corpus.dialects import RowProblem
from textus.data.corpus.documents import SkippedItem, UnreadableError
from textus.data.corpus.pdf_docx import PAGE_BREAK
from textus.data.corpus.sources import COMPRESSED, Source, scan
from textus.data.corpus.tables import ReadConfig, parse_columns
from textus.data.labeled import (
    BrokenCharacters,
    Record,
    RowSource,
    is_table,
    read_source_records,
    read_source_text,
    report_dropped,
    unreadable_rows_error,
)
from textus.data.read_options import AUTODETECT, ReadOptions
from textus.data.skipping import BadRow, skip_bad_rows, unreadable_rows

PASSAGE_BYTES = 1200
"""Bytes of UTF-8 in a passage: some 250 English words or 400 Chinese characters, which a window of 512 tokens holds."""
OVERLAP_PARTS = 6
"""A passage begins with the last one of so many parts of the one before it."""
WHOLE_DOCUMENT_SUFFIXES = (".zip", ".md", ".markdown", ".html", ".htm", ".pdf", ".docx")
"""Suffixes of what holds whole documents, next to folders."""
ID_FIELDS = ("id", "_id", "doc_id")
"""Fields that name a row, in the order in which they are looked for."""
FIRST_PAGE = "first page"
"""The field of documents that are whole files: 1 for files with pages, else None."""
HEADINGS = re.compile(
    r"""(?mx) ^\f? (?:
        \#{1,6}[ ]\S.*                                # Markdown, docx
        | \d+(?:\.\d+)+\.?[ ]\S.{0,80}(?<![.!?;,:])    # 1.2 Title
        | (?:Chapter|CHAPTER|Section|SECTION)[ ][\dIVX]+\b.{0,80}(?<![.!?;,])
        | 第[一二三四五六七八九十百千\d]+[章节条编].{0,60}
        | [一二三四五六七八九十]+、.{1,30}(?<![。！？；，：])
    )$"""
)
"""Lines that are headings."""
SENTENCE_ENDS = re.compile(r"\n+|[。！？；]+[”’」』）]*|[.!?;]+[\"'”’)]*\s+")
"""Where a passage may end."""


@dataclass(frozen=True)
class Passage:
    """A stretch of a document: its text, and where it comes from."""

    text: str
    number: int
    """The document's place among the rows of what was read, from 0; empty and repeated ones count."""
    where: str
    """File and line, row or entry."""
    id: str | None = None
    title: str | None = None
    start: int = 0
    """The passage's first character in its document."""
    same: tuple[str, ...] = ()
    """The ids of documents with the same text, which were left out."""
    file: str | None = None
    """The file it was read from, and that of an update: its absolute path."""
    page: int | None = None
    """The page of its first character, from 1; None: its file has no pages."""
    others: tuple[str, ...] = ()
    """Other files with the same text."""


def read_passages(
    paths: Path | Sequence[Path],
    options: ReadOptions = AUTODETECT,
    *,
    longest: int = PASSAGE_BYTES,
    only: Collection[str] | None = None,
) -> list[Passage]:
    """The passages of files' rows (of a .txt its lines), or of a folder's or archive's files; `longest` in bytes of
    UTF-8, 0 for whole documents. Empty and repeated documents are reported. Raises UsageError for a bad length,
    DataError for no text. `only`: the absolute paths of the files to read among those of folders.
    """
    if longest < 0 or 0 < longest < 64:
        raise UsageError("out_of_range", f"--passage {longest}: give 0 (whole documents), or 64 and more")
    paths = [paths] if isinstance(paths, Path) else list(paths)
    files = printed_names(paths)
    left_out = {name for name, file in files.items() if only is not None and file not in only}
    documents: dict[str, Passage] = {}
    whole = set[str]()
    ids, shared = dict[str, str](), list[Passage]()
    n_read = n_empty = n_repeated = 0
    bad, faults = list[BadRow](), list[RowProblem]()
    records = (record for path in paths for record in read_document_records(path, options, faults, left_out))
    for number, record in enumerate(records):
        n_read += 1
        try:
            document = replace(to_passage(record, number), file=source_file(record.where, files))
        except DataError as error:
            if options.skip_invalid is None:
                raise
            bad.append(BadRow(record.where, str(error)))
            continue
        if FIRST_PAGE in record.values:
            whole.add(document.text)
        if document.id is not None and ids.setdefault(document.id, document.text) != document.text:
            shared.append(document)
        if not document.text.strip():
            n_empty += 1
        elif (known := documents.get(document.text)) is not None:
            n_repeated += 1
            documents[document.text] = join_repeated(known, document)
        else:
            documents[document.text] = document
    skip_bad_rows([*bad, *unreadable_rows(faults)], n_read + len(faults), options.skip_invalid)
    if not documents:
        raise DataError("empty_data", f"{', '.join(map(str, paths[:3]))} holds no text")
    report_documents(n_read, n_empty, n_repeated, shared)
    passages = [
        passage
        for text, document in documents.items()
        for passage in cut_passages(document, longest, at_headings=text in whole)
    ]
    if any(len(passage.text.encode()) > longest for passage in documents.values()) and longest:
        long = sum(bool(longest) and len(text.encode()) > longest for text in documents)
        log_notice(
            f"{long:,} of {len(documents):,} documents are long: they are indexed as passages of at most {longest:,}"
            f" bytes that overlap, {len(passages):,} in all (--passage N)"
        )
    return passages


def report_documents(n_read: int, n_empty: int, n_repeated: int, shared: Sequence[Passage]) -> None:
    """Report documents that are empty, repeated, or have the id of another."""
    if n_empty:
        log_notice(f"{n_empty:,} of {n_read:,} texts are empty and left out")
    if n_repeated:
        log_notice(
            f"{n_repeated:,} of {n_read:,} texts are repeated: each is kept once, with all of their ids"
        )
    if shared:
        log_notice(
            f"{len(shared):,} of {n_read:,} texts have the id of another text, the first {shared[0].id!r} in"
            f" {shared[0].where}: a result with such an id may be either, and index evaluate cannot name it"
        )


def join_repeated(known: Passage, document: Passage) -> Passage:
    """A passage that also has the id and the file of a document with the same text."""
    ids = () if document.id is None else (document.id,)
    files = {file: None for file in (*known.others, document.file) if file and file != known.file}
    return replace(known, same=(*known.same, *ids), others=tuple(files))


def printed_names(paths: Iterable[Path]) -> dict[str, str]:
    """The absolute path of each file at or below the paths, by its name as messages show it."""
    return {to_printable(str(file)): file_name(file) for path in paths for file in files_below(path)}


def file_name(file: Path) -> str:
    """How an index names a file: by its absolute path."""
    return to_printable(str(file.resolve()))


def files_below(path: Path) -> list[Path]:
    """A file, or the files of a folder that a scan reads, sorted."""
    if not path.is_dir():
        return [path]
    visible = (
        file for file in path.rglob("*") if not any(part[0] == "." for part in file.relative_to(path).parts)
    )
    return sorted(file for file in visible if file.is_file())


def source_file(where: str, files: dict[str, str]) -> str | None:
    """The absolute path of the file of a place such as "a.csv: row 3", "docs.zip!a.md" or "a.md"."""
    row = where.rpartition(": ")[0]
    names = (where, row, where.partition("!")[0], row.partition("!")[0])
    return next((files[name] for name in names if name in files), None)


def read_document_records(
    path: Path,
    options: ReadOptions,
    problems: list[RowProblem] | None = None,
    left_out: Collection[str] = (),
) -> Iterator[Record]:
    """Each document of a path as a record: rows of tables, lines of a .txt; of a folder or archive, other texts as one
    document each, without the files `left_out`. Unreadable rows are added to `problems` if the options allow some.
    """
    if options.skip_invalid is None:
        problems = None
    whole = path.is_dir() or path.suffix.lower() in WHOLE_DOCUMENT_SUFFIXES
    lines = not options.columns and uncompressed_suffix(path) == ".txt"
    if not (whole or lines):
        yield from options.stream(path, problems=problems)
        return
    reading = ReadConfig(parse_columns(options.columns), options.encoding or "")
    dropped, broken, guesses = list[SkippedItem](), BrokenCharacters(), Guesses()
    faults = list[RowProblem]() if problems is None else problems
    for source in scan([path], Path(), lambda n: None):
        if isinstance(source, Source) and source.name.partition("!")[0] in left_out:
            continue
        if isinstance(source, SkippedItem):
            dropped.append(source)
            continue
        source = replace(source, on_encoding=partial(guesses.add, source.name))
        if is_table(source):
            rows = list(read_source_records(RowSource(source), reading, dropped))
            faults += [row for row in rows if isinstance(row, RowProblem)]
            yield from (broken.clean(row) for row in rows if isinstance(row, Record))
        else:
            try:
                yield from (broken.clean(record) for record in read_texts(source, path, reading, lines=lines))
            except UnreadableError as error:
                dropped.append(SkippedItem(source.name, str(error)))
    if line := str(guesses):
        log_notice(line)
    broken.report()
    report_dropped(dropped)
    if faults and problems is None:
        raise unreadable_rows_error(faults)


def read_texts(source: Source, path: Path, reading: ReadConfig, *, lines: bool) -> Iterator[Record]:
    """A text as one document named after its file, or each of its `lines` as one."""
    try:
        text = read_source_text(source, reading)
    except UnreadableError as error:
        if source.kind in PAGED_KINDS and not is_same_file(source, path):
            raise
        raise DataError(error.code, f"{source.name} cannot be read: {error}") from error
    if not lines:
        name = source.name.removeprefix(str(path)).lstrip("/\\!") or path.name
        first_page = 1 if source.kind == "pdf" else None
        yield Record(
            {"text": text, "id": name, "title": Path(name).stem, FIRST_PAGE: first_page}, source.name
        )
        return
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        yield Record({"text": line.rstrip("\r")}, f"{source.name}: line {number}")


PAGED_KINDS = ("pdf", "docx")
"""Kinds of files of which a folder may hold some that cannot be read."""


def is_same_file(source: Source, path: Path) -> bool:
    """Whether a source is the file that was given, not one in a folder or archive."""
    return source.name == to_printable(str(path))


def uncompressed_suffix(path: Path) -> str:
    """A file's suffix without that of its packing."""
    name = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    return name.suffix.lower()


def to_passage(record: Record, number: int) -> Passage:
    """A row as one passage. Raises DataError where it has no text."""
    values = record.values
    given = next((values[name] for name in ID_FIELDS if values.get(name) is not None), None)
    title = values.get("title")
    return Passage(
        text_field(values, record.where),
        number,
        record.where,
        None if given is None else str(given),
        title if isinstance(title, str) else None,
        page=1 if values.get(FIRST_PAGE) == 1 else None,
    )


def text_field(values: dict[str, Any], where: str, name: str = "text") -> str:
    """A field that is text. Raises DataError where it is missing, or something else."""
    if name not in values:
        shown = ", ".join(map(repr, list(values)[:30]))
        raise DataError(
            "column_not_found",
            f"{where} has no field {name!r}; it has {shown}: name its column with --columns {name}=COLUMN",
        )
    if not isinstance(value := values[name], str):
        raise DataError(
            "invalid_row", f"{where}: the {name} is {type(value).__name__} ({value!r}), not a string"
        )
    return value


def cut_passages(document: Passage, longest: int, *, at_headings: bool = False) -> Iterable[Passage]:
    """A document as passages of at most `longest` bytes, cut at headings if requested, then after sentences or blanks
    in the second half if there are any; each begins with the end of the one before it in its section.
    """
    text = document.text
    starts = section_starts(text) if at_headings and longest else [0]
    if len(starts) == 1 and (not longest or len(text.encode()) <= longest):
        return [document]
    ends = [*starts[1:], len(text)]
    passages = []
    for begin, end in zip(starts, ends, strict=True):
        for start, part in cut_text(text[begin:end], longest):
            page = document.page and document.page + text.count(PAGE_BREAK, 0, begin + start)
            passages.append(replace(document, text=part, start=begin + start, page=page))
    return passages


def section_starts(text: str) -> list[int]:
    """Where a document is cut: at each heading with text before it, so that no part has headings only."""
    starts, has_body, last = [0], False, 0
    for match in HEADINGS.finditer(text):
        has_body = has_body or bool(text[last : match.start()].strip())
        if has_body:
            starts.append(match.start() + (match[0][0] == PAGE_BREAK))
        has_body, last = False, match.end()
    return starts


def cut_text(text: str, longest: int) -> Iterator[tuple[int, str]]:
    """The start and text of each passage of a section that is not blank."""
    start = 0
    while start < len(text):
        end = start + len(text[start : start + longest].encode()[:longest].decode(errors="ignore"))
        if end < len(text):
            end = cut_position(text, start + (end - start) // 2, end)
        if text[start:end].strip():
            yield start, text[start:end]
        if end >= len(text):
            break
        again = end - len(text[start:end].encode()[-(longest // OVERLAP_PARTS) :].decode(errors="ignore"))
        start = max(start + 1, cut_position(text, again, end, first=True) if again > start else end)


def cut_position(text: str, low: int, high: int, *, first: bool = False) -> int:
    """A place to cut a text: after the last (or `first`) sentence or blank in it, else its end (or beginning)."""
    ends = [match.end() for match in SENTENCE_ENDS.finditer(text, low, high) if low < match.end() < high]
    blanks = [match.end() for match in re.finditer(r"\s+", text[low:high])]
    if not ends and blanks:
        ends = [low + blank for blank in blanks if low < low + blank < high]
    if first:
        return ends[0] if ends else low
    return ends[-1] if ends else high

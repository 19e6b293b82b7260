"""Separated values: which character separates columns, what its quotes mean, and the records by line.

A csv is read as RFC 4180 defines it. Any deviation is detected from the first block of text and reported in one line.
Nothing is guessed row by row: a record that does not follow the dialect is a `RowProblem` that names its line.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from textus.core.errors import UsageError
from textus.core.names import nearest_name
from textus.data.corpus.documents import RECORD_CHARS, UnreadableError

csv.field_size_limit(
    RECORD_CHARS
)  # of the whole process: a long text is no error (Python's own limit is 131,072)

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
SAMPLE_RECORDS = 200
CONSISTENT_SHARE = 0.5
"""A delimiter is possible where this share of the sampled records has as many columns as the first."""

TextSource = Callable[[], Iterable[str]]
"""The characters of a file in blocks, from the start at each call."""


@dataclass(frozen=True)
class RowProblem:
    """A row that cannot be read: its place ("line 5"), the reason (it ends a sentence) and the kind of the fault."""

    where: str
    reason: str
    kind: str

    def __str__(self) -> str:
        return f"{self.where} {self.reason}"


@dataclass(frozen=True)
class Dialect:
    """How columns are separated. `literal`: quotes are ordinary characters. `backslash`: quotes in a quoted field are
    escaped by a backslash, not doubled. `padded`: a blank follows each delimiter.
    """

    delimiter: str
    literal: bool = False
    backslash: bool = False
    padded: bool = False


Record = tuple[int, list[str]]


# ── lines ──────────────────────────────────────────────────────────────────────────────────────


def detect_line_end(text: Iterable[str]) -> str:
    """What ends the lines: "\\n" (perhaps after "\\r"), or "\\r" alone if there is no "\\n" outside quotes."""
    first = next((block for block in text if "\n" in block or "\r" in block), "")
    if "\n" not in first:
        return "\r" if "\r" in first else "\n"
    if not LONE_RETURN.search(first):
        return "\n"
    ends, quoted = set(), False
    for match in BREAK_OR_QUOTE.finditer(first):
        if match[0] == '"':
            quoted = not quoted
        elif not quoted:
            ends.add(match[0])
    return "\r" if ends == {"\r"} else "\n"


LONE_RETURN = re.compile(r"\r(?!\n)")
BREAK_OR_QUOTE = re.compile(r'"|\r\n|\r|\n')


def split_lines(text: Iterable[str], end: str = "\n") -> Iterator[str]:
    """The lines of a text with their ends. Raises UnreadableError for a line beyond the limit of a record."""
    held: list[str] = []
    n_held, number = 0, 1
    for block in text:
        *ended, rest = block.split(end)
        for line in ended:
            yield "".join([*held, line, end])
            held, n_held, number = [], 0, number + 1
        held.append(rest)
        n_held += len(rest)
        if n_held > RECORD_CHARS:
            raise too_long_error(f"line {number:,}")
    if last := "".join(held):
        yield last


def too_long_error(where: str) -> UnreadableError:
    """The error for a record that cannot be held whole."""
    return UnreadableError(
        "record_too_long",
        f"the record at {where} has over {RECORD_CHARS:,} characters; split it, or give its text as .txt, which may be"
        " of any length",
    )


def strip_line_end(line: str) -> str:
    """A line without its end."""
    return line.removesuffix("\n").removesuffix("\r")


def line_end_of(line: str) -> str:
    """The characters that end a line."""
    return line[len(line.rstrip("\r\n")) :]


def describe_mixed_ends(ends: Counter[str]) -> str:
    """A message if records end in different ways, else "". One end may be a character of an unquoted text."""
    counts = [f"{count:,} end with {end!r}" for end, count in ends.most_common() if end]
    return f"line ends are mixed and left out: {', '.join(counts)}" if len(counts) > 1 else ""


# ── records ────────────────────────────────────────────────────────────────────────────────────


class NumberedLines:
    """Numbered lines for a csv reader; `begin` is called before each record, so that one too long is noticed."""

    def __init__(self, given: Iterable[str], prepare: Callable[[str], str]) -> None:
        self.given, self.prepare = iter(given), prepare
        self.number = self.first = self.n_chars = 0
        self.held: list[str] = []

    def begin(self) -> int:
        """The number of the line at which the next record begins."""
        self.first, self.n_chars = self.number + 1, 0
        self.held.clear()
        return self.first

    def __iter__(self) -> Iterator[str]:
        for line in self.given:
            self.number += 1
            self.n_chars += len(line)
            if self.n_chars > RECORD_CHARS:
                raise too_long_error(f"line {self.first:,} (is a quote never closed?)")
            self.held.append(line)
            yield self.prepare(line)


def parse_records(
    given: Iterable[str],
    dialect: Dialect,
    ends: Counter[str] | None = None,
    swallowing: list[tuple[int, int]] | None = None,
) -> Iterator[Record | RowProblem]:
    """The records of lines, each with its first line number; blank lines have none. `ends` counts line ends;
    `swallowing` gets the first and last line of records that may be many rows (see `spans_rows`).

    Raises UnreadableError for a quote that is never closed: the start of the next record cannot be known.
    """
    ends = Counter() if ends is None else ends
    if dialect.literal:
        for number, line in enumerate(given, 1):
            ends[line_end_of(line)] += 1
            if cells := strip_line_end(line):
                yield number, cells.split(dialect.delimiter)
        return
    numbered = NumberedLines(given, double_backslashes if dialect.backslash else str)
    rows = csv.reader(
        numbered, delimiter=dialect.delimiter, strict=True, skipinitialspace=dialect.padded,
        escapechar="\\" if dialect.backslash else None,
    )  # fmt: skip
    while True:
        first = numbered.begin()
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            if numbered.number > first:
                raise UnreadableError(
                    "malformed_table",
                    f"line {first:,}: a quote that begins in this line is never closed, or not before a"
                    f" {DELIMITERS.get(dialect.delimiter, 'delimiter')} or line end"
                    f" (line {numbered.number:,}: {error})",
                ) from error
            yield csv_problem(first, error)
            continue
        ends[line_end_of(numbered.held[-1])] += 1
        if swallowing is not None and spans_rows(numbered.held, len(row), dialect):
            swallowing.append((first, numbered.number))
        record = "".join(numbered.held)
        if not dialect.backslash and has_escaped_quote_outside(record):
            yield RowProblem(f"line {first:,}", r"has \" outside quotes; put the field in quotes", "quotes")
        elif dialect.backslash and has_doubled_quote(record, dialect.delimiter):
            yield RowProblem(
                f"line {first:,}",
                r"has a doubled quote where others are escaped by a backslash; write \" for it",
                "quotes",
            )
        elif row:
            yield first, row


MIN_SPANNED_ROWS = 3
"""So many lines inside of a record that have its columns by themselves are likely rows."""


def spans_rows(held: Sequence[str], width: int, dialect: Dialect) -> bool:
    """Whether most lines inside of a record have as many columns as it has: a quote too many may have joined them."""
    inside = held[1:-1]
    if len(inside) < MIN_SPANNED_ROWS or width < 2:
        return False
    n_rows = sum(line.count(dialect.delimiter) == width - 1 for line in inside)
    return n_rows >= MIN_SPANNED_ROWS and n_rows > len(inside) / 2


def has_escaped_quote_outside(record: str) -> bool:
    """Whether a quote outside of fields in quotes has a backslash before it: it may be an escape or a character."""
    places = [match.start() for match in re.finditer(r'\\"', record)]
    return any(record.count('"', 0, place) % 2 == 0 for place in places)


def has_doubled_quote(record: str, delimiter: str) -> bool:
    """Whether a record has two quotes in a row that are not an empty field, and not escaped."""
    edge = re.escape(delimiter)
    return bool(re.search(rf'(?<=[^{edge}\r\n])""|""(?=[^{edge}\r\n])', re.sub(r"\\.", "__", record)))


def csv_problem(number: int, error: csv.Error) -> RowProblem:
    """The problem of a record that ends in the line in which it begins."""
    where = f"line {number:,}"
    if "new-line" in str(error):
        return RowProblem(
            where, "has a carriage return outside quotes; put the field in quotes", CARRIAGE_RETURNS
        )
    reason = f"has a quote that is not closed or not doubled ({error}); write a quote in a quoted field twice"
    return RowProblem(where, reason, "quotes")


CARRIAGE_RETURNS = "carriage returns"
"""The kind of problem that is no evidence about a file's dialect."""


def double_backslashes(line: str) -> str:
    """Backslashes that escape neither a quote nor a backslash, doubled: csv's own reader would leave them out."""
    return LONE_BACKSLASH.sub(lambda match: match[0] if match[1] else r"\\", line)


LONE_BACKSLASH = re.compile(r'\\(["\\])?')


def check_widths(
    records: Iterable[Record | RowProblem], width: int, dialect: Dialect
) -> Iterator[Record | RowProblem]:
    """Records of `width` columns; others are problems, blank ones are left out."""
    name = DELIMITERS.get(dialect.delimiter, "delimiter")
    for record in records:
        if isinstance(record, RowProblem) or len(record[1]) == width:
            yield record
        elif len(record[1]) > 1 or record[1][0].strip():
            number, row = record
            mend = "" if dialect.literal else f" (text with a {name} in it must be in quotes)"
            yield RowProblem(
                f"line {number:,}",
                f"has {len(row)} columns, the first line {width}; correct the line{mend}",
                "number of columns",
            )


# ── detection ──────────────────────────────────────────────────────────────────────────────────


def parse_delimiter(spelled: str | None) -> str:
    """A delimiter from its name or itself; "" for none given. Raises UsageError for anything else."""
    names = {name: delimiter for delimiter, name in DELIMITERS.items()} | {"\\t": "\t", "pipe": "|"}
    delimiter = names.get((spelled or "").lower(), spelled or "")
    if delimiter in ('"', "\n", "\r"):
        raise UsageError(
            "invalid_value",
            f"--delimiter {spelled!r}: quotes and line ends have a meaning of their own; give another character, or"
            f" {', '.join(DELIMITERS.values())}",
        )
    if len(delimiter) > 1:
        near = nearest_name(delimiter, names)
        hint = f"; did you mean {near!r}?" if near else ""
        raise UsageError(
            "invalid_value",
            f"--delimiter {spelled!r} is not one character{hint}; give one, or {', '.join(DELIMITERS.values())}",
        )
    return delimiter


def detect_dialect(
    text: TextSource, usual: str, report: Callable[[str], None], *, given: str = "", header: bool = True
) -> Dialect:
    """The dialect of a file; deviations from its suffix (`usual` delimiter) are reported. Raises UnreadableError if
    quotes are ambiguous.
    """
    sample = sample_lines(text)
    delimiter = given or detect_delimiter(sample, usual, header=header)
    if delimiter != usual:
        shown = DELIMITERS.get(delimiter, repr(delimiter))
        report(f"columns are separated by {shown}, not by {DELIMITERS[usual]}, and read so")
    if delimiter == "\t":
        return detect_tsv_dialect(text, report)
    plain = Dialect(delimiter)
    padded = Dialect(delimiter, padded=True)
    if f'{delimiter} "' in "".join(sample) and is_padded(sample, delimiter):
        report(f"a blank follows each {DELIMITERS.get(delimiter, 'delimiter')}: it is not taken for text")
        return padded
    escaped = Dialect(delimiter, backslash=True)
    if (
        any('\\"' in line for line in sample)
        and is_inconsistent(sample, plain)
        and not is_inconsistent(sample, escaped)
    ):
        report("quotes are escaped by a backslash, and read so")
        return escaped
    return plain


def strip_declaration(text: TextSource, report: Callable[[str], None]) -> tuple[TextSource, str]:
    """A text with its first line blank where that is `sep=;`, as Excel has it, and the delimiter it names."""
    first = next(split_lines(text(), detect_line_end(text())), "")
    declared = DECLARATION.fullmatch(strip_line_end(first))
    if not declared:
        return text, ""
    report(f"line 1 ({strip_line_end(first).strip()}) is no row: it names the delimiter")
    n_chars = len(strip_line_end(first))
    return lambda: skip_chars(text(), n_chars), declared[1].replace("\\t", "\t")


DECLARATION = re.compile(r'\ufeff?"?sep=([^"\w\s]|\t|\\t)"?[,;\t]*', re.IGNORECASE)


def skip_chars(text: Iterable[str], n_chars: int) -> Iterator[str]:
    """A text without its first characters."""
    for block in text:
        yield block[n_chars:]
        n_chars = max(0, n_chars - len(block))


def sample_lines(text: TextSource) -> list[str]:
    """The first lines of a file; of a file longer than a block only whole ones."""
    end = detect_line_end(text())
    blocks = list(islice(text(), 2))
    first = list(split_lines(blocks[:1], end))
    return first[:-1] if len(blocks) > 1 and len(first) > 1 else first


def record_widths(sample: Iterable[str], dialect: Dialect) -> list[int]:
    """The number of columns of each sampled record, 0 for a problem; the last record may be cut."""
    counts = []
    try:
        for record in islice(parse_records(sample, dialect), SAMPLE_RECORDS):
            if not isinstance(record, RowProblem):
                counts.append(len(record[1]))
            elif record.kind != CARRIAGE_RETURNS:
                counts.append(0)
    except UnreadableError:
        counts.append(0)
    return counts


def is_inconsistent(sample: Sequence[str], dialect: Dialect) -> bool:
    """Whether a sample has records that do not follow a dialect, or differ in their number of columns."""
    counts = record_widths(sample, dialect)
    return len(set(counts)) > 1 or 0 in counts


def detect_delimiter(sample: Sequence[str], usual: str, *, header: bool) -> str:
    """The delimiter by which most records have as many columns as the header (or as most have, without one)."""
    best, best_share = usual, 0.0
    for delimiter in (usual, *(other for other in DELIMITERS if other != usual)):
        counts = record_widths(sample, Dialect(delimiter, literal=delimiter == "\t"))
        if not counts:
            continue
        width = counts[0] if header else Counter(counts).most_common(1)[0][0]
        share = counts.count(width) / len(counts)
        if width > 1 and share >= CONSISTENT_SHARE and share > best_share:
            best, best_share = delimiter, share
    return best


def is_padded(sample: Sequence[str], delimiter: str) -> bool:
    """Whether the first line has delimiters, a blank after each, and the sample is consistent without the blanks."""
    first = strip_line_end(sample[0])
    if first.count(delimiter) == 0 or first.count(delimiter) != first.count(f"{delimiter} "):
        return False
    return not is_inconsistent(sample, Dialect(delimiter, padded=True))


BEGINS_WITH_QUOTE = re.compile(r'(?:^|\t)"')


def detect_tsv_dialect(text: TextSource, report: Callable[[str], None]) -> Dialect:
    """Whether quotes in a tab-separated file are quotes (Excel, pandas) or characters: the whole file decides."""
    end = detect_line_end(text())
    n_quoted = n_escaped = 0
    for line in split_lines(text(), end):
        if '"' in line:
            n_quoted += len(BEGINS_WITH_QUOTE.findall(line))
            n_escaped += line.count('\\"')
    fields = f"{n_quoted:,} field{'s begin' if n_quoted > 1 else ' begins'} with a quote"
    if n_quoted:
        for dialect in (Dialect("\t"), Dialect("\t", backslash=True))[: 2 if n_escaped else 1]:
            if is_well_formed(text, end, dialect):
                escaped = ", those inside escaped by a backslash" if dialect.backslash else ""
                report(f"{fields}: read without the quotes{escaped}")
                return dialect
        report(f"{fields}, not all of them well formed: read as they are, quotes included")
    elif n_escaped:
        quotes = f"{n_escaped:,} quote{'s follow' if n_escaped > 1 else ' follows'} a backslash"
        report(f"{quotes}: read as they are, quotes included")
    return Dialect("\t", literal=True)


def is_well_formed(text: TextSource, end: str, dialect: Dialect) -> bool:
    """Whether all quoted fields are well formed and no more rows are ragged than without quotes. Raises UnreadableError
    if rows without quotes would do as well.
    """
    n_literal, ragged_literal, _ = count_records(text, end, Dialect("\t", literal=True))
    try:
        n_records, ragged, first_long = count_records(text, end, dialect)
    except UnreadableError:
        return False
    if ragged > ragged_literal:
        return False
    if n_records < n_literal and not ragged_literal:
        raise UnreadableError(
            "malformed_table",
            f"line {first_long:,}: from here lines can be read as one field in quotes or as rows of their own; put no"
            " field in quotes, or give the rows as csv or jsonl",
        )
    return True


def count_records(text: TextSource, end: str, dialect: Dialect) -> tuple[int, int, int]:
    """(records, ragged records, first line after which a record continues). Raises UnreadableError for a bad quoted
    field.
    """
    n_records = n_ragged = first_long = width = before = 0
    for record in parse_records(split_lines(text(), end), dialect):
        if isinstance(record, RowProblem):
            raise UnreadableError("malformed_table", str(record))
        number, row = record
        if before and not first_long and number > before + 1:
            first_long = before
        n_records, width, before = n_records + 1, width or len(row), number
        n_ragged += len(row) != width and (len(row) > 1 or bool(row[0].strip()))
    return n_records, n_ragged, first_long or before

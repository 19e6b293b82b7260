"""CoNLL columns: a token a line with its tags, an empty line between sentences; CoNLL-U too.

If most lines have tabs, only tabs separate columns. The token and tag columns hold for the whole file: those that
`--columns 0=tokens,3=tags` names; FORM and UPOS of CoNLL-U; else the first column (after an index, if there is one) and
the last that is not a number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from textus.core.errors import UsageError
from textus.data.corpus.dialects import RowProblem, TextSource, detect_line_end, split_lines, strip_line_end
from textus.data.corpus.documents import UnreadableError

SUFFIXES = (".conll", ".conllu", ".conllx", ".bio", ".iob", ".iob2", ".bmes", ".bioes")
SAME_WIDTH_SHARE = 0.9
"""So many of a file's lines have the same number of columns (half, where most have a tag), or it is no CoNLL."""

NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)?")
CONLLU_ID = re.compile(r"\d+(?:[-.]\d+)?")
"""The ID of CoNLL-U: a word, a range of words (1-2) or an empty one (8.1)."""

TAG = re.compile(r"(?:[BIOESMLU]|[BIESMLU][-_].+)")


@dataclass
class Line:
    """A line with its number and its columns, none where it is blank."""

    number: int
    cells: list[str]


@dataclass(frozen=True)
class Columns:
    """Which columns are read: `tags` is None where each line's last column that is no number is its tag."""

    width: int
    tokens: int
    tags: int | None
    is_conllu: bool = False


Sentence = tuple[str, dict[str, Any]]


def read_sentences(
    text: TextSource, columns: Mapping[str, str], report: Callable[[str], None]
) -> Iterator[Sentence | RowProblem]:
    """(place, {"tokens", "tags"}) of each sentence, or its first problem. Raises UnreadableError for a text that is not
    CoNLL.
    """
    split, tabbed = split_columns(text)
    read = drop_comments(split, report)
    if any(line.cells for line in read):
        read = drop_header(read, report)
    filled = [line for line in read if line.cells]
    if not filled:
        return
    taken = detect_columns(filled, columns, report, tabbed=tabbed)
    if taken.is_conllu:
        read = drop_ranges(read, report)
    yield from group_sentences(drop_blank_tokens(read, taken, report), taken)


def split_columns(text: TextSource) -> tuple[list[Line], bool]:
    """The lines of a file in columns, and whether tabs separate them: most lines with content have one."""
    whole = [strip_line_end(line).strip("\ufeff") for line in split_lines(text(), detect_line_end(text()))]
    filled = [line for line in whole if line.strip() and not line.startswith(("#", "-DOCSTART-"))]
    tabbed = sum("\t" in line.strip(" ") for line in filled) > len(filled) / 2
    split = []
    for number, line in enumerate(whole, 1):
        if not line.strip(" \t") or line.lstrip().startswith("-DOCSTART-"):
            split.append(Line(number, []))
        else:
            split.append(Line(number, line.split("\t") if tabbed else BLANKS.split(line.strip(" \t"))))
    drop_empty_last_column(split)
    return split, tabbed


def drop_empty_last_column(split: list[Line]) -> None:
    """Remove the last column of the widest lines if it is empty in all of them: each ends with a tab."""
    width = max((len(line.cells) for line in split), default=0)
    widest = [line for line in split if len(line.cells) == width]
    if width > 2 and not any(line.cells[-1].strip() for line in widest):
        for line in widest:
            del line.cells[-1]


BLANKS = re.compile("[ \t]+")


def most_common_width(filled: list[Line]) -> int:
    """The number of columns that most lines have."""
    return Counter(len(line.cells) for line in filled).most_common(1)[0][0]


def drop_comments(read: list[Line], report: Callable[[str], None]) -> list[Line]:
    """The lines without comments: lines before a sentence that begin with # and do not look like tokens."""
    filled = [line for line in read if line.cells and not line.cells[0].startswith("#")]
    width = most_common_width(filled) if filled else 0
    tags = Counter(line.cells[-1] for line in filled)
    in_spans = sum(n for tag, n in tags.items() if TAG.fullmatch(tag)) > len(filled) / 2
    kept, comments, begins = [], 0, True
    for line in read:
        is_note = (
            begins
            and bool(line.cells)
            and line.cells[0].startswith("#")
            and (len(line.cells) != width or is_comment(line.cells, tags, in_spans=in_spans))
        )
        if is_note:
            comments += 1
        else:
            kept.append(line)
            begins = not line.cells
    if comments:
        report(f"{comments:,} lines that begin with # are comments and left out")
    return kept


def is_comment(cells: list[str], tags: Mapping[str, int], *, in_spans: bool) -> bool:
    """Whether a line that begins with # and has the usual width is a comment, as MultiCoNER's `# id 8a domain=en`."""
    if cells[-1] in tags or TAG.fullmatch(cells[-1]):
        return False
    return cells[0].startswith("# ") or (cells[0] == "#" and (len(cells) > 2 or in_spans))


def drop_header(read: list[Line], report: Callable[[str], None]) -> list[Line]:
    """The lines without a header that names the columns (`token pos`), wherever it is repeated."""
    filled = [line for line in read if line.cells]
    names = [cell.strip("# \ufeff").casefold() for cell in filled[0].cells]
    again = [line for line in filled if line.cells == filled[0].cells]
    last = next((place for place in reversed(range(len(names))) if names[place] in TAG_NAMES), 0)
    others = sum(len(line.cells) > last and line.cells[last] == filled[0].cells[last] for line in filled)
    if not last or not any(name in TOKEN_NAMES for name in names[:last]) or others != len(again):
        return read
    times = f" ({len(again)} such lines)" if len(again) > 1 else ""
    report(f"line {filled[0].number:,} {excerpt(filled[0])} is a header and is left out{times}")
    numbers = {line.number for line in again}
    return [line for line in read if line.number not in numbers]


TOKEN_NAMES = frozenset(
    re.findall(r"\S+", "token tokens word words form text char character 词 字 词语 单词")
)
TAG_NAMES = frozenset(
    re.findall(
        r"\S+",
        "tag tags pos upos xpos postag pos_tag pos_tags ner ner_tag ner_tags ner-tag entity label labels "
        "bio iob chunk deprel 标签 标注 词性",
    )
)


def detect_columns(
    filled: list[Line], named: Mapping[str, str], report: Callable[[str], None], *, tabbed: bool
) -> Columns:
    """Which columns to read. Raises UnreadableError where lines are not columns, UsageError for a missing column."""
    width = most_common_width(filled)
    odd = [line for line in filled if len(line.cells) != width]
    whole = [line for line in filled if len(line.cells) == width]
    tagged = sum(bool(TAG.fullmatch(cell)) for line in whole for cell in line.cells[1:])
    most_odd = 0.5 if tagged > len(whole) / 2 else 1 - SAME_WIDTH_SHARE
    if width < 2 or len(odd) > most_odd * len(filled):
        line = next((line for line in filled if len(line.cells) < 2), odd[0] if odd else filled[0])
        raise UnreadableError(
            "malformed_table",
            f"not CoNLL columns: line {line.number:,} has {column_count(len(line.cells))} ({excerpt(line)}); a"
            " token's line ends with its tag, an empty line ends a sentence",
        )
    places = {name: int(column) for column, name in named.items() if column.isdigit()}
    if places:
        for name, place in places.items():
            if place >= width:
                raise UsageError(
                    "column_not_found",
                    f"--columns {place}={name}: the lines have {width} columns, 0 to {width - 1}",
                )
        return Columns(width, places.get("tokens", 0), places.get("tags"))
    if width == 10 and all(CONLLU_ID.fullmatch(line.cells[0]) for line in whole):
        report(
            "CoNLL-U: column 1 (FORM) is the token, column 3 (UPOS) its tag; --columns 1=tokens,4=tags for XPOS"
        )
        return Columns(width, 1, 3, is_conllu=True)
    taken = guess_columns(whole, width, report)
    if not tabbed:
        reject_prose(whole, width - 1 if taken.tags is None else taken.tags)
    return taken


def guess_columns(whole: list[Line], width: int, report: Callable[[str], None]) -> Columns:
    """The columns of a file that does not name them, reported where there are more than two."""
    tokens = 1 if width > 2 and is_token_index(whole) else 0
    if width == 2:
        return Columns(width, 0, 1)
    tags = Counter(tag_column(line, tokens) for line in whole)
    place = tags.most_common(1)[0][0]
    others = f" (another in {len(whole) - tags[place]:,} lines)" if len(tags) > 1 else ""
    report(
        f"{width} columns: column {tokens} is the token, column {place}{others}, the last that is no number, its tag;"
        f" choose with --columns {tokens}=tokens,{place}=tags"
    )
    return Columns(width, tokens, None if len(tags) > 1 else place)


def is_token_index(whole: list[Line]) -> bool:
    """Whether the first column counts the tokens of each sentence."""
    before = None
    for line in whole:
        if not line.cells[0].isdecimal():
            return False
        value = int(line.cells[0])
        if value not in (0, 1) and (before is None or value != before + 1):
            return False
        before = value
    return True


def tag_column(line: Line, tokens: int) -> int:
    """The last column after the token's that is no number; the last where all are."""
    places = range(len(line.cells) - 1, tokens, -1)
    return next((place for place in places if not NUMBER.fullmatch(line.cells[place])), len(line.cells) - 1)


def reject_prose(whole: list[Line], place: int) -> None:
    """Raise UnreadableError for lines whose last words are not tags: nearly all different, or without a letter."""
    tags = {line.cells[place] for line in whole}
    if any(TAG.fullmatch(tag) for tag in tags):
        return
    if len(tags) > len(whole) / 2 or not any(char.isalnum() for tag in tags for char in tag):
        raise UnreadableError(
            "malformed_table",
            f"not CoNLL columns: line {whole[0].number:,} ({excerpt(whole[0])}) does not end with a tag; plain text has"
            " no labels: give csv, jsonl or CoNLL columns, or name columns by position: --columns 0=tokens,1=tags",
        )


def drop_ranges(read: list[Line], report: Callable[[str], None]) -> list[Line]:
    """The lines of CoNLL-U without multiword tokens (1-2) and empty nodes (8.1)."""
    kept = [line for line in read if not line.cells or line.cells[0].isdecimal()]
    if left_out := len(read) - len(kept):
        report(f"{left_out:,} lines of CoNLL-U that are no word (such as 1-2 and 8.1) are left out")
    return kept


def drop_blank_tokens(read: list[Line], taken: Columns, report: Callable[[str], None]) -> list[Line]:
    """The lines without those whose token is nothing but blanks."""
    blank = [line for line in read if len(line.cells) == taken.width and not line.cells[taken.tokens].strip()]
    if not blank:
        return read
    lines_are = "lines have a token" if len(blank) > 1 else "line has a token"
    report(f"{len(blank):,} {lines_are} of blanks and no more; left out, the first line {blank[0].number:,}")
    numbers = {line.number for line in blank}
    return [line for line in read if line.number not in numbers]


def group_sentences(read: list[Line], taken: Columns) -> Iterator[Sentence | RowProblem]:
    """Sentences, or the first problem of each that has one."""
    held: list[Line] = []
    for line in [*read, Line(0, [])]:
        if line.cells:
            held.append(line)
        elif held:
            problem = next(filter(None, (line_problem(line, taken) for line in held)), None)
            yield problem or (f"line {held[0].number:,}", sentence_fields(held, taken))
            held = []


def sentence_fields(held: list[Line], taken: Columns) -> dict[str, Any]:
    """The fields of one sentence."""
    tag = [tag_column(line, taken.tokens) if taken.tags is None else taken.tags for line in held]
    return {
        "tokens": [line.cells[taken.tokens] for line in held],
        "tags": [line.cells[place].strip() for line, place in zip(held, tag, strict=True)],
    }


def line_problem(line: Line, taken: Columns) -> RowProblem | None:
    """Why a line cannot be read, or None."""
    where = f"line {line.number:,}"
    if len(line.cells) != taken.width:
        reason = f"has {column_count(len(line.cells))} ({excerpt(line)}), most lines {taken.width}; correct the line"
        return RowProblem(where, reason, "number of columns")
    place = tag_column(line, taken.tokens) if taken.tags is None else taken.tags
    if not line.cells[place].strip():
        return RowProblem(where, f"has no tag ({excerpt(line)})", "no tag")
    return None


def column_count(n_columns: int) -> str:
    """A number of columns, for messages."""
    return "one column" if n_columns == 1 else f"{n_columns} columns"


def excerpt(line: Line) -> str:
    """The beginning of a line, for messages."""
    text = " ".join(line.cells)
    return repr(text if len(text) <= 40 else text[:37] + "...")

"""Random files of rows, written by Python's csv and json or by hand, read back: the same rows, or an error that names
the line. `TEXTUS_TABLE_CASES=10000 pytest tests/test_tables.py` runs more of them.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from textus.core.errors import DataError
from textus.data.corpus.documents import SkippedItem, UnreadableError
from textus.data.corpus.readers import read_source
from textus.data.corpus.sources import Source, scan
from textus.data.corpus.tables import ReadConfig, parse_columns
from textus.data.labeled import stream_records

CASES = int(os.environ.get("TEXTUS_TABLE_CASES", "300"))

Rows = list[dict[str, Any]]
SPECIAL = [*"\"'\\,;|\t#:_-", "\n", "\r\n", "\r", '""', '","', '\\"', "\\n", "``", " ", "  "]
WIDE = [*"\u3000\xa0\u2028\x85\u200b", "é", "e\u0301", "好", "。", "😀", "ß", "a", "b", "0", "1.5", "O"]
LONG = "long " * 600
CELLS = st.one_of(
    st.sampled_from(["", " ", "good", "a,b", '"', '""', "null", "NaN", LONG]),
    st.lists(st.sampled_from(SPECIAL + WIDE), max_size=8).map("".join),
    st.text('abc ,"\n', max_size=12),
)
NAMES = st.lists(
    st.sampled_from(["text", "label", "id", "note", "score", "评论", "a b", "x_1"]),
    min_size=1,
    max_size=4,
    unique=True,
)


@dataclass(frozen=True)
class Written:
    """A file's name and bytes, the rows it was made of, and the columns to give (None for its header's)."""

    name: str
    data: bytes
    rows: Rows
    columns: str | None = None


def separated(rows: Sequence[Sequence[str]], **how: Any) -> str:
    """Rows as Python's csv writes them."""
    file = io.StringIO(newline="")
    csv.writer(file, **how).writerows(rows)
    return file.getvalue()


@st.composite
def tables(draw: st.DrawFn) -> Written:
    """csv and tsv in quotes: any delimiter, line end and habit of quoting that csv.writer has."""
    names = draw(NAMES)
    cells = draw(st.lists(st.lists(CELLS, min_size=len(names), max_size=len(names)), min_size=1, max_size=6))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    how: dict[str, Any] = {
        "delimiter": draw(st.sampled_from([",", ",", ";", "\t", "|"])),
        "lineterminator": end,
        "quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
    }
    if draw(st.booleans()) and draw(st.booleans()):
        how |= {"doublequote": False, "escapechar": "\\"}
        cells = [
            [cell.replace("\\", "/") for cell in row] for row in cells
        ]  # two may be one or two: nobody can know
    text = separated([names, *cells], **how)
    text += end * draw(st.integers(0, 2))
    name = draw(st.sampled_from(["a.csv", "a.csv", "a.tsv"]))
    return Written(name, draw(marks()) + text.encode(), [dict(zip(names, row, strict=True)) for row in cells])


@st.composite
def literal_tables(draw: st.DrawFn) -> Written:
    """tsv in which a quote is a character: cells joined by tabs, with a header or without."""
    names = draw(NAMES.filter(lambda names: len(names) > 1))
    plain = CELLS.map(lambda cell: cell.translate({9: 32, 10: 32, 13: 32}))
    cells = draw(st.lists(st.lists(plain, min_size=len(names), max_size=len(names)), min_size=1, max_size=6))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    header = draw(st.booleans())
    text = "".join("\t".join(row) + end for row in ([names] if header else []) + cells)
    rows = [dict(zip(names, row, strict=True)) for row in cells]
    columns = None if header else ",".join(f"{n}={name}" for n, name in enumerate(names))
    return Written(draw(st.sampled_from(["a.tsv", "a.tsv"])), draw(marks()) + text.encode(), rows, columns)


@st.composite
def json_files(draw: st.DrawFn) -> Written:
    """JSON lines, one list, indented or not, under either name."""
    values = st.one_of(CELLS, st.integers(), st.none(), st.booleans(), st.lists(CELLS, max_size=3))
    rows = draw(
        st.lists(
            st.dictionaries(st.sampled_from(["text", "label", "n"]), values, min_size=1),
            min_size=1,
            max_size=5,
        )
    )
    ascii_only = draw(st.booleans())
    if draw(st.booleans()):
        text = json.dumps(rows, ensure_ascii=ascii_only, indent=draw(st.sampled_from([None, 2])))
        return Written("a.json", draw(marks()) + text.encode(), rows)
    end = draw(st.sampled_from(["\n", "\r\n", "\n\n", "\r"]))
    text = "".join(json.dumps(row, ensure_ascii=ascii_only) + end for row in rows)
    return Written(
        draw(st.sampled_from(["a.jsonl", "a.ndjson", "a.json"])), draw(marks()) + text.encode(), rows
    )


@st.composite
def conll_files(draw: st.DrawFn) -> Written:
    """CoNLL columns, by tabs or blanks, with an index before and numbers behind the tag or without."""
    tabs = draw(st.booleans())
    blank = "\t" if tabs else " "
    joined = {9: 95, 10: 95, 13: 95} | ({} if tabs else {32: 95})
    token = CELLS.map(lambda text: text.translate(joined)).map(lambda text: text if text.strip() else "x")
    tag = st.sampled_from(["O", "B-PER", "I-PER", "B-地名", "NN"])
    sentences = draw(
        st.lists(st.lists(st.tuples(token, tag), min_size=1, max_size=5), min_size=1, max_size=4)
    )
    index, behind = draw(st.booleans()), draw(st.booleans())
    end = draw(st.sampled_from(["\n", "\r\n"]))
    text = ""
    for sentence in sentences:
        for number, (word, tag_of) in enumerate(sentence, 1):
            cells = [str(number)] * index + [word, tag_of] + [str(number % 7)] * behind
            text += blank.join(cells) + end
        text += end
    rows = [{"tokens": [word for word, _ in item], "tags": [tag for _, tag in item]} for item in sentences]
    return Written(draw(st.sampled_from(["a.txt", "a.conll"])), draw(marks()) + text.encode(), rows)


def marks() -> st.SearchStrategy[bytes]:
    """A byte order mark, or none."""
    return st.sampled_from([b"", b"", b"\xef\xbb\xbf"])


def composed(value: Any) -> Any:
    """A value with every string in NFC."""
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, list):
        return [composed(part) for part in value]
    return value


REPORTED = (
    "read without the quotes",
    "read as they are, quotes included",
    "the header again",
    "looks like a header",
    "comments and left out",
    "ends are mixed",
)
"""What is not as it was written is reported by one of these lines."""


def corpus_texts(path: Path) -> list[str] | None:
    """The texts that a corpus takes from a file of rows; None where it leaves out one of them, or the file."""
    (source,) = scan([path], Path(), lambda *_: None)
    assert isinstance(source, Source)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            documents = list(read_source(source, ReadConfig()))
    except UnreadableError:
        return None
    if any(isinstance(document, SkippedItem) for document in documents):
        return None
    return ["".join(document.blocks) for document in documents]


@pytest.mark.promise("Robustness", "A file of rows comes back as it was written, or an error names the line")
@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
@given(written=st.one_of(tables(), literal_tables(), json_files(), conll_files()))
def test_rows_come_back_as_they_were_or_an_error_names_the_line(tmp_path: Path, written: Written) -> None:
    path = tmp_path / written.name
    path.write_bytes(written.data)
    lines = io.StringIO()
    try:
        with contextlib.redirect_stderr(lines):
            results = [record.values for record in stream_records(path, parse_columns(written.columns))]
    except DataError as error:
        event("refused")
        problem = str(error)
    else:
        problem = ""
    if problem:
        assert re.search(r"line \d|entry \d|holds no rows", problem)
        return
    if any(line in lines.getvalue() for line in REPORTED):
        event("reported")
        return
    event("equal")
    expected = [{name: composed(value) for name, value in row.items()} for row in written.rows]
    assert results == expected, (written.data, lines.getvalue())
    if not written.columns and all("text" in row for row in written.rows):
        texts = corpus_texts(path)
        assert texts is None or texts == [row["text"] for row in written.rows]

"""Names, messages, help, docstrings, comments and documents use the words of the field: the list of STYLE holds.

`python -m tests.test_language textus/core docs …` prints every hit below some paths as `path:line: word: place`.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = (
    "README.md",
    "README.zh-CN.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "RELEASE.md",
    "docs",
)

BANNED_PARTS = {
    *(
        "wish",
        "wishes",
        "tell",
        "tells",
        "telling",
        "told",
        "say",
        "says",
        "saying",
        "said",
        "asked",
        "beside",
    ),
    *("teach", "teaches", "taught", "learnt", "room", "rooms", "house", "floor", "floors", "ruler"),
    *("stand", "stands", "stood", "lie", "lies"),
}
"""Parts of a name in snake_case or CamelCase."""

BANNED_NAMES = {"each", "found"}
"""Whole names: `per_example` and `not_found` are good English, `each` as a variable is not."""

BANNED_PROSE = re.compile(
    r"\b(wish(?:es|ed)?|tell(?:s|ing)?|told|say(?:s|ing)?|said|teach(?:es|ing)?|taught|learnt|asked|rooms?|houses?|"
    r"floors?|rulers?|(?:go|goes|going|gone|went) on|stands?|stood|lies?|beside|that (?:is|are) there|"
    r"(?:is|are) not there|(?:is|are) there no|where there (?:is|are) none|(?:straight|whole) line)\b",
    re.IGNORECASE,
)
BANNED_CHINESE = re.compile("房间|尺子|直线|编号")


class Hit(NamedTuple):
    path: str
    line: int
    word: str
    where: str


EXCEPTIONS: dict[tuple[str, str], str] = {
    ("textus/data/corpus/sources.py", "tell"): "the method that every binary file has",
}
"""(path, text of the place) → why a banned word is right there; at most ten."""


def in_names(name: str) -> Iterator[str]:
    """The banned parts of an identifier, or of a key in its form.

    >>> list(in_names("told_width")), list(in_names("WhatItSaid")), list(in_names("not_found")), list(in_names("each"))
    (['told'], ['said'], [], ['each'])
    """
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    yield from (part.lower() for part in parts if part.lower() in BANNED_PARTS)
    if name.strip("_") in BANNED_NAMES:
        yield name
    if re.search(r"(^|_)(go|goes|going)_on(_|$)", name):
        yield "go_on"


def in_prose(text: str) -> Iterator[tuple[int, str]]:
    """(lines further down, word) of what is banned in a message, a docstring or a document."""
    for pattern in (BANNED_PROSE, BANNED_CHINESE):
        for match in pattern.finditer(text):
            yield text.count("\n", 0, match.start()), match[0]


def defined_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of everything that a module gives a name to: functions, classes, arguments, stores, attributes."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield line, name
            case (
                ast.arg(arg=name)
                | ast.Name(id=name, ctx=ast.Store())
                | ast.Attribute(attr=name, ctx=ast.Store())
            ):
                yield line, name
            case ast.ExceptHandler(name=str(name)) | ast.alias(asname=str(name)):
                yield line, name
            case (
                ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name))
            ):
                yield line, name


def in_python(path: str, source: str) -> Iterator[Hit]:
    """The banned words of a module: names, strings (keys as names, sentences as prose) and comments."""
    tree = ast.parse(source)
    for part in Path(path).parts:
        yield from (Hit(path, 1, word, f"path {part}") for word in in_names(part.removesuffix(".py")))
    for line, name in defined_names(tree):
        yield from (Hit(path, line, word, name) for word in in_names(name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value.isidentifier():
                yield from (Hit(path, node.lineno, word, repr(node.value)) for word in in_names(node.value))
            else:
                yield from text_hits(path, node.value, node.lineno)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield from text_hits(path, token.string, token.start[0])


def text_hits(path: str, text: str, first: int = 1) -> Iterator[Hit]:
    """The banned words of a text, with the line each is in."""
    lines = text.split("\n")
    for below, word in in_prose(text):
        yield Hit(path, first + below, word, lines[below].strip()[:160])


def file_hits(path: Path) -> Iterator[Hit]:
    """The banned words of one file, by its kind; none in data and pictures' coordinates."""
    name, text = str(path.relative_to(REPOSITORY)), path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        hits = in_python(name, text)
    elif path.suffix in (".cpp", ".h"):
        hits = (
            Hit(name, text.count("\n", 0, comment.start()) + 1 + below, word, comment[0].strip()[:160])
            for comment in re.finditer(r"//[^\n]*|/\*.*?\*/", text, re.DOTALL)
            for below, word in in_prose(comment[0])
        )
    else:
        hits = text_hits(name, text)
    yield from (hit for hit in hits if (hit.path, hit.where) not in EXCEPTIONS)


def files(*paths: str) -> list[Path]:
    """The files below some paths of this repository that hold words."""
    suffixes = {".py", ".cpp", ".h", ".js", ".html", ".css", ".svg", ".md", ".sh"}
    below = [p for path in paths for p in ([REPOSITORY / path, *sorted((REPOSITORY / path).rglob("*"))])]
    return [path for path in below if path.suffix in suffixes and path.is_file()]


def test_no_banned_word_is_in_the_package_or_a_document() -> None:
    hits = [hit for path in files("textus", *DOCUMENTS) for hit in file_hits(path)]
    assert hits == []
    assert len(EXCEPTIONS) <= 10


PLANTED = [
    ("def told(): ...", "told"),
    ("class SaidOnce: ...", "said"),
    ("def f(told_width): ...", "told"),
    ("for each in (): ...", "each"),
    ("found = 1", "found"),
    ("x.taught = 1", "taught"),
    ("x = lambda wish: 1", "wish"),
    ("try: ...\nexcept OSError as said: ...", "said"),
    ("import os as house", "house"),
    ("def going_on(): ...", "go_on"),
    ("x = {'told': 1}", "told"),
    ("raise ValueError(f'{x} is not there: say where')", "say"),
    ("x = 'training goes on'", "goes on"),
    ('"""A ruler for every model."""', "ruler"),
    ("x = 1  # the floor it stands on", "floor"),
]


@pytest.mark.parametrize(("source", "word"), PLANTED)
def test_a_banned_word_is_caught_wherever_it_is(source: str, word: str) -> None:
    assert word in [hit.word for hit in in_python("x.py", source)]


@pytest.mark.parametrize(
    "source",
    [
        "x = math.floor(y)",
        "x = 1  # not found in each row",
        "not_found = 'standard'",
        "def fit(classroom_size): ...",
    ],
)
def test_words_of_the_field_pass(source: str) -> None:
    assert list(in_python("x.py", source)) == []


def test_documents_are_read_line_by_line() -> None:
    assert [hit[1:3] for hit in text_hits("x.md", "One.\n\nIt lies\nbeside 房间.\n")] == [
        (3, "lies"),
        (4, "beside"),
        (4, "房间"),
    ]


if __name__ == "__main__":
    for path in files(*(sys.argv[1:] or ["textus", *DOCUMENTS])):
        for hit in file_hits(path):
            print(f"{hit.path}:{hit.line}: {hit.word}: {hit.where}")

"""Small files, small functions, short tables and honest names: what keeps the code readable by a stranger."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

FILE_LINES = 600
FUNCTION_LINES = 60
PARAMETERS = 8
POSITIONAL = 5
TABLE_LINES = 50
EMPTY_WORDS = ("utils", "util", "helpers", "helper", "misc", "manager", "handler", "factory")

TORCH_DECIDES = {"forward", "backward"}
"""Autograd functions take their inputs by position."""


def complaints(root: Path) -> Iterator[str]:
    """One line for each file, function, table or name beyond the limits above."""
    for path in sorted(root.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if (lines := text.count("\n")) > FILE_LINES:
            yield f"{path}: {lines} lines; split it (at most {FILE_LINES})"
        if path.stem.lower().strip("_") in EMPTY_WORDS:
            yield f"{path}: the name says nothing; call it by what it does"
        tree = ast.parse(text)
        yield from tables(path, tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from function(path, node)
            elif isinstance(node, ast.ClassDef) and node.name.lower().endswith(EMPTY_WORDS):
                yield f"{path}:{node.lineno}: class {node.name}: the name says nothing"


def function(path: Path, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """A function that is too long or takes too much."""
    where = f"{path}:{node.lineno}: {node.name}"
    if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES:
        yield f"{where}: {lines} lines; split it (at most {FUNCTION_LINES})"
    arguments = node.args
    positional = [a for a in arguments.posonlyargs + arguments.args if a.arg not in ("self", "cls")]
    if len(positional) + len(arguments.kwonlyargs) > PARAMETERS:
        yield f"{where}: {len(positional) + len(arguments.kwonlyargs)} parameters (at most {PARAMETERS})"
    if len(positional) > POSITIONAL and not node.name.startswith("_") and node.name not in TORCH_DECIDES:
        yield f"{where}: {len(positional)} positional parameters (at most {POSITIONAL})"


def tables(path: Path, tree: ast.Module) -> Iterator[str]:
    """A list or dictionary of constants longer than a screen."""
    for node in tree.body:
        value = getattr(node, "value", None)
        if isinstance(value, ast.Dict | ast.List | ast.Tuple | ast.Set):
            lines = (value.end_lineno or value.lineno) - value.lineno + 1
            if lines > TABLE_LINES:
                yield f"{path}:{node.lineno}: a table of {lines} lines (at most {TABLE_LINES})"


@pytest.mark.promise(
    "Architecture", "Files, functions, parameter lists and tables stay small; names have a meaning"
)
def test_the_package_keeps_its_limits() -> None:
    assert list(complaints(REPOSITORY / "textus")) == []


def test_tests_and_scripts_keep_their_limit() -> None:
    long = [
        f"{path}: {path.read_text().count(chr(10))} lines"
        for folder in ("tests", "benchmarks", "docs")
        for path in sorted((REPOSITORY / folder).rglob("*.py"))
        if path.read_text().count("\n") > FILE_LINES
    ]
    assert long == []


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("long", "x = 1\n" * (FILE_LINES + 1), "601 lines; split it"),
        ("tall", "def f():\n" + "    pass\n" * FUNCTION_LINES, "f: 61 lines"),
        ("tall_method", "class A:\n    async def f():\n" + "        pass\n" * 60, "f: 61 lines"),
        ("wide", "def f(a, *, b, c, d, e, f, g, h, i): ...", "9 parameters"),
        ("positional", "def f(a, b, c, d, e, f): ...", "6 positional parameters"),
        ("table", "T = {\n" + "    1: 2,\n" * TABLE_LINES + "}", "a table of 52 lines"),
        ("utils", "", "the name says nothing"),
        ("named", "class ModelManager: ...", "class ModelManager"),
    ],
)
def test_planted_faults_are_caught(tmp_path: Path, name: str, source: str, complaint: str) -> None:
    (tmp_path / f"{name}.py").write_text(source)
    found = list(complaints(tmp_path))
    assert len(found) == 1
    assert complaint in found[0]


def test_what_is_within_the_limits_passes(tmp_path: Path) -> None:
    (tmp_path / "fine.py").write_text("def f(a, b, *, c=1):\n" + "    pass\n" * (FUNCTION_LINES - 1))
    assert list(complaints(tmp_path)) == []

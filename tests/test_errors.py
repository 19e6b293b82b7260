"""Every error has a code, every code is explained and used."""

from __future__ import annotations

import ast
import copy
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from textus.cli.main import main
from textus.core.errors import CODES, CodedError, DataError, RunError, UsageError

REPOSITORY = Path(__file__).resolve().parent.parent
CLASSES = {
    "TextusError", "UsageError", "DataError", "RunError", "TrainingError", "MissingDependencyError",
    "UnreadableError", "MissingColumnError",
    "TrainingInterrupted", "TemplateRefusal", "TemplateError",
}  # fmt: skip
KNOWN = [code for codes in CODES.values() for code in codes]


def codes_in(source: str) -> Iterator[str]:
    """The code of each error that is made in a module: a known one, or the source of its first argument."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in CLASSES:
            yield code_of(node.args[:1])
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print_error":
            yield code_of(node.args[2:3])


def code_of(argument: list[ast.expr]) -> str:
    """A known code as it is, anything else as source; "" for no argument."""
    (given,) = argument or [None]
    literal = getattr(given, "value", None)
    return str(literal) if literal in KNOWN else ast.unparse(given) if given else ""


def is_passed_on(code: str) -> bool:
    """Whether an error takes the code of another."""
    return code == "error.code"


@pytest.mark.promise("Robustness", "Every error has a code that is explained, and every code is used")
def test_every_error_has_a_code_that_is_explained_and_every_code_is_used() -> None:
    codes = [
        code
        for path in (REPOSITORY / "textus").rglob("*.py")
        for code in codes_in(path.read_text(encoding="utf-8"))
    ]
    assert len(codes) > 700
    assert [code for code in codes if code not in KNOWN and not is_passed_on(code)] == []
    assert set(KNOWN) - set(codes) == set()
    assert len(KNOWN) == len(set(KNOWN))


def test_an_error_without_a_known_code_is_caught() -> None:
    source = "raise UsageError('no code')\nraise RunError('damaged', 'with one')\nraise DataError(error.code, 'kept')"
    unknown, known, kept = codes_in(source)
    assert (unknown in KNOWN, is_passed_on(unknown)) == (False, False)
    assert (known, is_passed_on(kept)) == ("damaged", True)


@pytest.mark.parametrize(
    "error", [UsageError("out_of_range", "a=1"), DataError("not_text", "b"), RunError("damaged", "c")]
)
def test_an_error_keeps_its_code_through_copies_and_processes(error: CodedError) -> None:
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error)), type(error)(*error.args)):
        assert (type(other), other.code, str(other)) == (type(error), error.code, error.message)


def test_the_command_line_ends_the_line_with_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "no/such/run"]) == 1
    assert capsys.readouterr().err.rstrip().endswith("[not_a_run]")
    assert main(["train", "--no-such-flag"]) == 2
    assert capsys.readouterr().err.rstrip().endswith("[invalid_arguments]")

"""The one architecture rule: a module imports only from floors below it; modules on one floor do not know
each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

FLOORS = """
errors
common
arguments config hardware allocation report tensorboard
corpus tokenizer
loader texts records
skipping
reading
passages
pairs inputs
models writing
generation
engine
checkpoint gradients optim distributed
training
measuring
presets
runs
augment metrics
tasks
evaluation
comparing completing extracting fewshot predicting searching validating
embedding finetuning
scoring
ensembling robustness task_comparing
tuning
compressing exporting explaining describing privacy passport security
api
serving
cli
__init__
"""


def rooms(floors: str) -> dict[str, int]:
    """Room name → floor number, from the ground up."""
    return {name: number for number, line in enumerate(floors.split("\n")) for name in line.split()}


def violations(package: Path, floors: str = FLOORS) -> Iterator[str]:
    """One line for each import that breaks the rule, and for each file that stands on no floor."""
    floor = rooms(floors)
    for path in sorted(package.rglob("*.py")):
        here = path.relative_to(package).parts[0].removesuffix(".py")
        if here not in floor:
            yield f"{path}: {here} has no floor; give it one in tests/test_layers.py"
            continue
        for line, there in imports(path, package.name):
            if there.startswith("!"):
                yield f"{path}:{line}: {there[1:]}"
            elif there not in floor:
                yield f"{path}:{line}: {here} imports {there}, which has no floor"
            elif there != here and floor[there] >= floor[here]:
                yield f"{path}:{line}: {here} must not import {there}: it is not on a floor below"


def imports(path: Path, package: str) -> Iterator[tuple[int, str]]:
    """Each import of the package's own rooms as (line, room); '!' begins a form of import that is refused."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):  # sees imports inside functions too
        if isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, "!relative imports are refused; write the whole name"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package:
            for there in node.module.split(".")[1:2] or [alias.name for alias in node.names]:
                yield node.lineno, there
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == package:
                    yield node.lineno, f"!write 'from {alias.name} import …', not 'import {alias.name}'"
        elif (named := imported_by_name(node)) and named.split(".")[0] == package:
            yield node.lineno, [*named.split("."), "__init__"][1]


def imported_by_name(node: ast.AST) -> str | None:
    """The module of `import_module("textus.x")`: a string is an import too."""
    if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
        return None
    called = getattr(node.func, "id", getattr(node.func, "attr", ""))
    return str(node.args[0].value) if called in ("import_module", "__import__") else None


def test_floors_hold() -> None:
    assert list(violations(REPOSITORY / "textus")) == []


def test_every_room_of_the_package_was_looked_at() -> None:
    looked_at = {path.name.removesuffix(".py") for path in (REPOSITORY / "textus").iterdir()}
    assert {"common", "config", "models", "cli"} <= looked_at


def house(folder: Path, **files: str) -> list[str]:
    """The violations in a small package with floors low < middle other < high."""
    package = folder / "house"
    package.mkdir()
    for name, source in files.items():
        (package / f"{name}.py").write_text(source)
    return list(violations(package, "low\nmiddle other\nhigh\n__init__"))


def test_imports_from_below_are_allowed(tmp_path: Path) -> None:
    assert house(tmp_path, low="", middle="from house.low import a", high="from house.middle import b") == []


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"middle": "from .low import a"}, "relative imports are refused"),
        ({"middle": "def f():\n    from . import low"}, "relative imports are refused"),
        ({"middle": "import house.low"}, "not 'import house.low'"),
        ({"middle": "import house"}, "not 'import house'"),
        ({"middle": "import house.low as low"}, "not 'import house.low'"),
        ({"attic": ""}, "attic has no floor"),
        ({"low": "from house.middle import a"}, "low must not import middle"),
        ({"low": "def f():\n    from house.high import a"}, "low must not import high"),
        ({"low": "class A:\n    def f(self):\n        from house import high"}, "low must not import high"),
        ({"middle": "from house.other import a"}, "middle must not import other"),
        ({"low": "if True:\n    from house.high.part import a"}, "low must not import high"),
        ({"low": "import_module('house.high')"}, "low must not import high"),
        ({"low": "importlib.import_module('house.high')"}, "low must not import high"),
        ({"middle": "from house.cellar import a"}, "cellar, which has no floor"),
    ],
)
def test_planted_faults_are_caught(tmp_path: Path, files: dict[str, str], complaint: str) -> None:
    found = house(tmp_path, **files)
    assert len(found) == 1
    assert complaint in found[0]


def test_a_fault_inside_a_sub_package_is_caught(tmp_path: Path) -> None:
    part = tmp_path / "house" / "low" / "part"
    part.mkdir(parents=True)
    (part / "deep.py").write_text("from house.high import a")
    assert "low must not import high" in next(violations(tmp_path / "house", "low\nhigh"))

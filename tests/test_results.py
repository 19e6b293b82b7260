"""docs/results.md says what results/*.json say, and every figure says how, when and where it was measured."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks import table
from textus.core.io import read_json

FILES = sorted(table.RESULTS.glob("*.json"))
STAMP: dict[str, Any] = {
    "command": "python -m benchmarks.start_up",
    "date": "2026-01-01 00:00 UTC",
    "machine": {"cpu": "a processor", "cores": 2, "isa": "x86_64", "load": 0.1},
    "versions": {"textus": "0.1.0"},
}


def spread(value: float) -> dict[str, float]:
    return {"min": value, "median": value, "max": value, "n": 9}


def start_up(value: float) -> dict[str, Any]:
    return {**STAMP, "seconds": {name: spread(value) for name in ("import textus", "textus --help")}}


def row(name: str) -> table.Row:
    return next(item for item in table.ROWS if item.source == name)


@pytest.mark.promise(
    "Results",
    "The page of results matches the result files; every file records its command, date, machine and "
    "versions",
)
def test_the_page_is_what_the_files_show() -> None:
    assert table.PAGE.read_text(encoding="utf-8") == table.render(), "run: python -m benchmarks.table"


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_every_result_belongs_to_a_row_and_shows_where_it_comes_from(path: Path) -> None:
    assert path.stem in table.SOURCES, "a result without a row"
    assert table.load(path.stem)
    assert "--smoke" not in read_json(path)["command"]


@pytest.mark.parametrize("name", ["command", "date", "machine", "versions"])
def test_a_result_that_hides_where_it_comes_from_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "start_up.json").write_text(json.dumps({**start_up(0.1), name: ""}))
    with pytest.raises(ValueError, match=f"has no {name}"):
        table.render(tmp_path)


def test_what_is_not_measured_is_reported(tmp_path: Path) -> None:
    assert table.render(tmp_path).count("not measured yet") == len(table.ROWS)


def test_what_a_result_does_not_hold_yet_is_not_measured(tmp_path: Path) -> None:
    spearman = {"value": 0.821, "low": 0.8, "high": 0.84}
    (tmp_path / "similarity.json").write_text(json.dumps({**STAMP, "as_it_comes": {"spearman": spearman}}))
    lines = [table.line(item, tmp_path) for item in table.ROWS if item.source == "similarity"]
    assert [line[4] for line in lines] == ["yes", "–"]
    assert "not measured yet" in lines[1]


@pytest.mark.parametrize("name", list(table.READMES))
def test_the_readmes_show_what_the_files_show(name: str) -> None:
    readme, words = (table.REPOSITORY / name).read_text(encoding="utf-8"), table.READMES[name]
    assert readme == table.filled(readme, words), "run `python -m benchmarks.table`"
    assert all(row.what in words for row in table.ROWS) or not words


@pytest.mark.parametrize(("value", "met"), [(0.2, "yes"), (0.3, "yes"), (0.31, "**no**")])
def test_met_is_judged(tmp_path: Path, value: float, met: str) -> None:
    (tmp_path / "start_up.json").write_text(json.dumps(start_up(value)))
    assert table.line(row("start_up"), tmp_path)[4] == met


@pytest.mark.parametrize(("passed", "saving", "met"), [(20, 5, "yes"), (20, 4, "**no**"), (19, 9, "**no**")])
def test_the_second_condition_counts(tmp_path: Path, passed: int, saving: int, met: str) -> None:
    kills = {"passed": passed, "trials": 20, "kills": 24, "killed_while_saving": saving}
    results = {**STAMP, **kills, "killed_before_first_checkpoint": 3}
    (tmp_path / "kill9.json").write_text(json.dumps(results))
    assert table.line(row("kill9"), tmp_path)[4] == met


def test_the_products_of_a_step_are_all_found() -> None:
    torch = pytest.importorskip("torch")
    from benchmarks.matmul_share import bare, operations, products_of

    left, right = torch.ones(4, 8, requires_grad=True), torch.ones(8, 16, requires_grad=True)

    def step() -> float:
        loss = ((left @ right)[None] @ torch.ones(1, 16, 2)).sum()
        torch.autograd.grad(loss, [left, right])
        return float(loss.detach())

    products = products_of(step)
    forward_and_both_gradients, forward_and_one = 3 * 2 * 4 * 8 * 16, 2 * 2 * 4 * 16 * 2
    assert operations(products) == forward_and_both_gradients + forward_and_one
    assert isinstance(products, Counter)
    bare(products)()

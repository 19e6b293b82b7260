"""--skip-invalid: rows that cannot be read or used are left out by every command, counted, and the first is named."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled import written
from raising import raises

import textus
from textus import api
from textus.cli.main import main
from textus.core.errors import DataError, UsageError

WRONG = ['{"text": "film', '{"label": 1}', '{"text": 3, "label": 0}']
"""A line that cannot be read, a row without a text, and one whose text is none."""


def reviews(n: int = 24) -> list[dict[str, Any]]:
    return [{"text": f"film {i} was {'good' if i % 2 else 'bad'}", "label": i % 2} for i in range(n)]


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    return api.finetune(reviews(), model="linear", out=tmp_path_factory.mktemp("linear") / "run")


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """24 rows, and three wrong ones as lines 3, 4 and 5."""
    lines = [json.dumps(row) for row in reviews()]
    path = tmp_path / "broken.jsonl"
    path.write_text("\n".join([*lines[:2], *WRONG, *lines[2:]]) + "\n")
    return path


def commands(run: Path, file: Path, out: Path) -> dict[str, list[str]]:
    return {
        "predict": ["predict", str(run), str(file)],
        "predict --out": ["predict", str(run), str(file), "--out", str(out)],
        "predict --ensemble": ["predict", str(run), str(run), str(file), "--ensemble", "mean"],
        "evaluate": ["evaluate", str(run), "--on", str(file), "--no-baselines"],
        "evaluate --ensemble": ["evaluate", str(run), str(run), "--ensemble", "mean", "--on", str(file)],
        "compare": ["compare", str(run), str(run), "--on", str(file)],
        "index build": ["index", "build", str(file), "--bm25", "--out", str(out)],
    }


@pytest.mark.parametrize("command", commands(Path(), Path(), Path()))
def test_rows_that_cannot_be_used_are_left_out(
    command: str, linear: api.Run, broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.csv"
    argv = commands(linear.path, broken, out)[command]
    assert main(argv) == 1
    assert f"{broken}: line 3" in capsys.readouterr().err
    for too_few in ("5%", "11%"):
        assert main([*argv, "--skip-invalid", too_few]) == 1
        shown = capsys.readouterr().err
        assert f"3 of 27 rows cannot be used: {broken}: line 3" in shown, shown
        assert not list(tmp_path.glob("out.csv*"))
    for enough in ("12%", "all"):
        assert main([*argv, "--skip-invalid", enough, *(["--force"] if out.exists() else [])]) == 0
        shown = capsys.readouterr().err
        line = f"3 of 27 rows cannot be used and are left out (--skip-invalid); the first: {broken}: line 3"
        assert shown.count(line) == (2 if command == "compare" else 1), shown
    assert main([*argv, "--skip-invalid", "3"]) == 2


def test_the_answers_are_those_of_the_rows_that_are_left(
    linear: api.Run, broken: Path, tmp_path: Path
) -> None:
    linear.predict_file(broken, out=tmp_path / "o.csv", skip_invalid="all")
    with (tmp_path / "o.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["line"]) for row in rows] == [1, 2, *range(6, 28)]
    expected = linear.predict([row["text"] for row in reviews()])
    assert [row["predicted_label"] for row in rows] == [str(answer["label"]) for answer in expected]
    assert linear.evaluate(broken, baselines=False, skip_invalid="all")["rows"] == 24
    index = textus.build_index(broken, out=tmp_path / "index", bm25=True, skip_invalid="all")
    assert index.record["documents"] == 24


def test_vectors_are_those_of_the_rows_that_are_left(trained: Path, broken: Path, tmp_path: Path) -> None:
    assert main(["embed", str(trained), str(broken), "--out", str(tmp_path / "v.npy")]) == 1
    argv = ["embed", str(trained), str(broken), "--out", str(tmp_path / "v.npy"), "--skip-invalid", "20%"]
    assert main(argv) == 0
    assert np.load(tmp_path / "v.npy").shape[0] == 24
    places = [json.loads(line)["line"] for line in (tmp_path / "v.npy.rows.jsonl").read_text().splitlines()]
    assert places == [1, 2, *range(6, 28)]


def test_a_file_of_wrong_rows_alone_is_refused(linear: api.Run, tmp_path: Path) -> None:
    (tmp_path / "w.jsonl").write_text("\n".join(WRONG) + "\n")
    for call in (
        lambda: linear.predict(tmp_path / "w.jsonl", skip_invalid="all"),
        lambda: linear.evaluate(tmp_path / "w.jsonl", skip_invalid="all"),
        lambda: textus.build_index(tmp_path / "w.jsonl", out=tmp_path / "i", bm25=True, skip_invalid="all"),
    ):
        with pytest.raises(DataError, match="none of the 3 rows can be used"):
            call()


def test_ragged_lines_of_a_csv_and_files_of_a_folder(
    linear: api.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("text,label\nit was good,1\nit,was,bad,0\nit was bad,0\n")
    written(tmp_path / "in" / "b.jsonl", reviews(4))
    assert len(linear.predict(tmp_path / "in", skip_invalid="all")) == 6
    assert "1 of 7 rows cannot be used" in capsys.readouterr().err
    textus.build_index(tmp_path / "in", out=tmp_path / "i", bm25=True, skip_invalid="all")
    assert "1 of 7 rows cannot be used" in capsys.readouterr().err


def test_it_goes_with_files(linear: api.Run, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with raises(UsageError, "option_not_applicable"):
        linear.predict(["a"], skip_invalid="all")
    assert main(["predict", str(linear.path), "a text", "--skip-invalid", "all"]) == 2
    assert main(["compare", str(trained), str(trained), "--skip-invalid", "all"]) == 2
    assert "--skip-invalid all" in capsys.readouterr().err
    assert (
        linear.evaluate([*reviews(3), {"text": 3, "label": 1}], skip_invalid="all", baselines=False)["rows"]
        == 3
    )

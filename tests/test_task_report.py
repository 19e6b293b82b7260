"""Calibration and slices against scikit-learn, and the page of a result: whole, offline, and nothing in it markup."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raising import raises
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score
from test_baselines import SMALL, sentences, written
from test_report import Reader

from textus import api
from textus.cli.main import main
from textus.core.errors import UsageError
from textus.metrics.calibration import BINS, brier_scores, calibration_error, reliability_bins
from textus.metrics.classification import single_label_scores
from textus.tasks.base import Task

ATTACK = "<script>alert(1)</script><img src=x onerror=alert(2)>"


# ── calibration ────────────────────────────────────────────────────────────────────────────────


def drawn(n: int = 500, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    gold = random.integers(0, classes, n)
    scores = random.normal(size=(n, classes)) * 2 + np.eye(classes)[gold]
    return gold, np.exp(scores) / np.exp(scores).sum(1, keepdims=True)


@pytest.mark.promise(
    "Tasks", "Calibration bins and Brier score are scikit-learn's; slices are the figures of their rows"
)
@pytest.mark.parametrize("rounded", [False, True])
def test_bins_are_scikit_learns(rounded: bool) -> None:
    """Rounded probabilities lie on the edges of bins."""
    gold, probabilities = drawn()
    positive = probabilities[:, 1].round(1) if rounded else probabilities[:, 1]
    expected = calibration_curve(gold, positive, n_bins=BINS)
    result = reliability_bins(positive, gold == 1)
    assert [row["right"] for row in result] == pytest.approx(list(expected[0]))
    assert [row["confidence"] for row in result] == pytest.approx(list(expected[1]))
    assert sum(row["n"] for row in result) == len(gold)


def test_the_error_is_the_mean_gap_of_the_bins() -> None:
    gold, probabilities = drawn(classes=4)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == gold
    shares, confidences = calibration_curve(right, confidence, n_bins=BINS)
    counts = [row["n"] for row in reliability_bins(confidence, right)]
    assert calibration_error(confidence, right) == pytest.approx(
        np.average(np.abs(shares - confidences), weights=counts)
    )


@pytest.mark.parametrize("classes", [2, 4])
def test_brier_is_scikit_learns(classes: int) -> None:
    gold, probabilities = drawn(classes=classes)
    expected = brier_score_loss(gold, probabilities, labels=range(classes), scale_by_half=False)
    assert brier_scores(gold, probabilities).mean() == pytest.approx(expected)
    figure = single_label_scores(gold, probabilities, [str(n) for n in range(classes)])["brier"]
    assert figure["value"] == pytest.approx(expected)
    assert figure["low"] < expected < figure["high"]


def test_brier_of_a_class_nobody_knows_is_that_of_a_class_with_no_probability() -> None:
    gold, probabilities = drawn(classes=3)
    gold[:40] = 3
    wider = np.concatenate([probabilities, np.zeros((len(gold), 1))], 1)
    known = np.where(gold == 3, -1, gold)
    assert brier_scores(known, probabilities) == pytest.approx(brier_scores(gold, wider))


# ── slices ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    for name, seed in (("train", 0), ("dev", 1), ("test", 2)):
        written(folder / f"{name}.jsonl", sentences(200, seed))
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> api.Run:
    data = {"dev": folder / "dev.jsonl", "out": folder / "run"}
    return api.finetune(folder / "train.jsonl", model="gru", epochs=2, overrides=SMALL, **data)


def test_slices_are_the_figures_of_their_rows(run: api.Run, folder: Path) -> None:
    rows = sentences(200, 2)
    guess = [row["label"] for row in run.predict([row["text"] for row in rows])]
    slices = run.evaluate(folder / "test.jsonl", slices=["source", "length"], baselines=False)["slices"]
    assert sorted(row["slice"] for row in slices["source"]) == ["x", "y"]
    for item in slices["source"]:
        places = [n for n, row in enumerate(rows) if row["source"] == item["slice"]]
        gold, predicted = ([of[n] for n in places] for of in ([row["label"] for row in rows], guess))
        assert item["rows"] == len(places)
        assert item["accuracy"]["value"] == pytest.approx(accuracy_score(gold, predicted))
        assert item["macro_f1"]["value"] == pytest.approx(f1_score(gold, predicted, average="macro"))
    assert sum(row["rows"] for row in slices["length"]) == 200
    longest = max(len(row["text"]) for row in rows)
    assert slices["length"][-1]["slice"] == f"up to {longest} characters"
    assert min(row["rows"] for row in slices["length"]) > 30


def test_a_slice_keeps_to_its_rows_where_some_are_left_out(run: api.Run, tmp_path: Path) -> None:
    """A row without text is not scored; those after it still have their own columns."""
    rows = [{"text": "", "label": "bad", "source": "x"}, *({**row, "source": "z"} for row in sentences(8))]
    slices = run.evaluate(written(tmp_path / "t.jsonl", rows), slices=["source"], baselines=False)["slices"]
    assert [(row["slice"], row["rows"]) for row in slices["source"]] == [("z", 8)]


def test_a_column_that_is_missing_is_named_with_those_that_are(run: api.Run, folder: Path) -> None:
    with raises(UsageError, "column_not_found", "sorce", "length"):
        run.evaluate(folder / "test.jsonl", slices=["sorce"], baselines=False)


def test_many_values_are_cut_and_reported(
    run: api.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = written(tmp_path / "t.jsonl", [{**row, "n": n} for n, row in enumerate(sentences(40))])
    assert len(run.evaluate(data, slices=["n"], baselines=False)["slices"]["n"]) == 30
    assert "--slice n: the 30 most frequent of 40 values; 10 rows in none" in capsys.readouterr().err


# ── the page ───────────────────────────────────────────────────────────────────────────────────


def page_of(out: Path) -> tuple[str, Reader]:
    text = (out / "evaluation.html").read_text(encoding="utf-8")
    return text, Reader(text)


@pytest.mark.promise(
    "Tasks", "The page of a result holds all, loads nothing, and no text in it becomes markup"
)
def test_the_page_shows_all_and_loads_nothing(run: api.Run, folder: Path, tmp_path: Path) -> None:
    rows = sentences(60, 5)
    rows[0] = {"text": f"{ATTACK} grand", "label": "bad", "source": ATTACK}  # a sure mistake
    test = written(tmp_path / "test.jsonl", rows)
    scores = run.evaluate(test, slices=["source", "length"], out=tmp_path / "out")
    text, read = page_of(tmp_path / "out")
    assert scores == json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert all(load.startswith("data:image/png;base64,") for load in read.loads)
    assert len(read.loads) == 4  # figures, confusion, calibration, training
    assert "script" not in read.tags
    assert ATTACK in read.shown
    assert "<script" not in text
    for shown in (
        "majority",
        "TF-IDF + linear",
        "Most confident mistakes",
        "By length",
        "Expected calibration error",
    ):
        assert shown in read.shown
    accuracy = scores["accuracy"]
    assert f"{accuracy['value']:.4g} [{accuracy['low']:.4g}, {accuracy['high']:.4g}]" in read.shown


def test_the_page_of_an_ensemble_has_its_members(run: api.Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [
        "evaluate",
        str(run.path),
        str(run.path),
        "--ensemble",
        "mean",
        "--on",
        str(folder / "test.jsonl"),
    ]
    assert main([*words, "--out", str(out)]) == 0
    _, read = page_of(out)
    assert "Difference from the mean member: +0.0000 accuracy" in read.shown
    assert "mean of 2" in read.shown


def test_flags_of_tasks_are_refused_where_there_is_none(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--slice", "x"], ["--no-baselines"], ["--entities", "x"]):
        assert main(["evaluate", str(trained), *words]) == 2
        assert f"{words[0]}: {trained} was not fine-tuned for a task" in capsys.readouterr().err


def test_any_number_of_labels_has_a_page_too(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": f"a b {n}", "label": ["x", "y"][: n % 3]} for n in range(60)]
    data = written(tmp_path / "r.jsonl", rows)
    settings = [*SMALL, "task.multi=true"]
    run = api.finetune(data, model="gru", out=tmp_path / "run", epochs=1, overrides=settings)
    run.evaluate(data, out=tmp_path / "out")
    assert "micro_f1" in page_of(tmp_path / "out")[1].shown


class Plain(Task):
    """A task that says nothing of its own."""

    name = "plain"


def test_a_task_without_sections_of_its_own_shows_its_figures(tmp_path: Path) -> None:
    from textus.evaluation import task_report

    figure = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}
    results = {"run": "r", "on": "f", "rows": 9, "spearman": figure, "mean_error": 0.25}
    Plain.__abstractmethods__ = frozenset()
    task_report.write_task_report(tmp_path, results, Plain(None, []), {})  # type: ignore[abstract]
    _, read = page_of(tmp_path)
    assert "spearman" in read.shown
    assert "0.5 [0.4, 0.6]" in read.shown
    assert "mean error0.25" in read.shown


def test_a_model_of_text_has_a_page_too(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """U17: one verb for every kind of run."""
    out = tmp_path / "out"
    assert main(["evaluate", str(trained), "--out", str(out)]) == 0
    assert f"page: {out / 'evaluation.html'}" in capsys.readouterr().out
    _, read = page_of(out)
    report = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    bits = report["bits_per_byte"]
    assert "bits per byte" in read.shown
    assert f"{bits['value']:.4g}"[:4] in read.shown
    assert "A sample of" in read.shown
    assert all(load.startswith("data:image/png;base64,") for load in read.loads)
    assert len(read.loads) == 1


def test_mistakes_have_their_lines_and_ids(
    run: api.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": f"x{n}", "text": "grand", "label": "bad", "source": "x"} for n in range(3)]
    test = tmp_path / "test.csv"
    test.write_text(
        "id,text,label\n" + "".join(f"{row['id']},{row['text']},{row['label']}\n" for row in rows)
    )
    scores = run.evaluate(test, baselines=False)
    places = [(mistake["id"], mistake["where"]) for mistake in scores["mistakes"]]
    assert sorted(places) == [(f"x{n}", f"{test}: line {n + 2}") for n in range(3)]
    assert main(["evaluate", str(run.path), "--on", str(test), "--no-baselines"]) == 0
    assert f"{test}: line 2 (id x0): bad, answered" in capsys.readouterr().out

"""Fine-tuned runs on the same rows: who is better, and only where that is no chance; one model in memory at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled import facts, written
from raising import raises
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, r2_score

from textus import api
from textus.cli.main import main
from textus.core.errors import UsageError
from textus.tasks.inference import predict_texts

SMALL = ["model.n_layer=1", "model.d_model=16"]


def sentences(n: int, seed: int, *, flipped: float = 0.0) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    rows = []
    for number in range(n):
        word = ["good", "bad"][random.integers(2)]
        sure = random.random() < 0.85
        label = word if sure else ["good", "bad"][random.integers(2)]
        wrong = random.random() < flipped
        rows.append(
            {"id": f"s{number}", "text": f"film {number} was {word}", "label": "bad" if wrong else label}
        )
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparing")
    written(folder / "test.jsonl", sentences(300, 9))
    for name, seed, flipped in (("one", 0, 0.0), ("two", 1, 0.0), ("poor", 2, 0.6)):
        data = written(folder / f"{name}.jsonl", sentences(200, seed, flipped=flipped))
        api.finetune(data, model="linear", out=folder / name)
    return folder


@pytest.mark.promise(
    "Robustness",
    "A run is called better only where the interval leaves zero out; of several runs one is in memory "
    "at a time",
)
def test_a_run_is_better_only_where_the_interval_leaves_zero_out(folder: Path) -> None:
    """U12, U21."""
    comparison = api.compare([folder / "poor", folder / "one", folder / "two"], on=folder / "test.jsonl")
    gold = [row["label"] for row in sentences(300, 9)]
    right = {}
    for row in comparison["runs"]:
        answers = api.open_run(folder / row["run"]).predict([item["text"] for item in sentences(300, 9)])
        right[row["run"]] = np.asarray([a["label"] == label for a, label in zip(answers, gold, strict=True)])
        assert row["accuracy"]["value"] == pytest.approx(
            accuracy_score(gold, [answer["label"] for answer in answers])
        )
    assert comparison["figure"] == "accuracy"
    assert [row["run"] for row in comparison["runs"]][-1] == "poor"
    random = np.random.default_rng(5)
    assert len(comparison["pairs"]) == 3
    for pair, sentence in zip(comparison["pairs"], comparison["verdict"], strict=True):
        gap = right[pair["better"]].astype(float) - right[pair["worse"]]
        d = pair["difference"]
        assert d["value"] == pytest.approx(gap.mean())
        means = [random.choice(gap, len(gap)).mean() for _ in range(2000)]
        assert [d["low"], d["high"]] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)
        assert pair["certain"] == (d["low"] > 0) == ("is better than" in sentence)
    certain = {(pair["better"], pair["worse"]) for pair in comparison["pairs"] if pair["certain"]}
    assert certain == {("one", "poor"), ("two", "poor")}


def test_a_run_against_itself_has_no_difference(folder: Path) -> None:
    comparison = api.compare([folder / "one", folder / "one"], on=folder / "test.jsonl")
    assert comparison["pairs"][0]["difference"]["high"] == 0
    assert "do not differ significantly" in comparison["verdict"][0]
    assert len(comparison["runs"]) == 2


def test_the_command_line_and_the_page(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", str(folder / "one"), str(folder / "poor"), "--on", str(folder / "test.jsonl")]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert "one is better than poor by" in capsys.readouterr().out
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert "one is better than poor by" in page
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["task"] == "classification"
    assert main([*words[:3], "--on", str(folder / "test.jsonl")]) == 0


@pytest.mark.parametrize("task", ["tagging", "regression", "similarity", "relations", "question-answering"])
def test_every_task_has_a_paired_figure(task: str, tmp_path: Path) -> None:
    """The figure of all rows is the task's own, by others' arithmetic where there is some."""
    rows: list[dict[str, Any]] = {
        "tagging": [
            {"tokens": ["Anna", "left", "Rome", str(i)], "tags": ["B-PER", "O", "B-LOC", "O"]} for i in range(40)
        ],
        "regression": [{"text": f"n {i % 7} stars", "score": i % 7} for i in range(40)],
        "similarity": [{"text": f"a {i % 5}", "text_pair": f"b {i % 3}", "score": i % 5} for i in range(40)],
        "relations": facts(60),
        "question-answering": [
            {"question": f"where {i}?", "context": f"In {i} Anna went to Rome", "answers": [
                {"text": "Rome", "start": len(f"In {i} Anna went to ")}]}
            for i in range(40)
        ],
    }[task]  # fmt: skip
    data = written(tmp_path / "rows.jsonl", rows)
    run = api.finetune(
        data, dev=data, task=task, model="gru", epochs=1, overrides=SMALL, out=tmp_path / "run"
    )
    comparison = api.compare([run, run], on=data)
    figure = run.evaluate(data, baselines=False)[comparison["figure"]]["value"]
    examples = run.task.make_examples(records(data), labelled=True)
    outputs = predict_texts(run.model, run.task, run.tokenizer, examples)
    weighed = run.task.weighted_metric(examples, outputs)
    assert weighed is not None
    assert weighed[1](np.ones(len(examples))) == pytest.approx(figure)
    if task in ("regression", "similarity"):
        answers = [answer["score"] for answer in run.predict(data)]
        gold, drawn = [row["score"] for row in rows], np.random.default_rng(0).integers(0, 40, 40)
        oracle = r2_score if task == "regression" else lambda a, b: spearmanr(a, b).statistic
        assert figure == pytest.approx(oracle(gold, answers), abs=1e-4)
        expected = oracle([gold[n] for n in drawn], [answers[n] for n in drawn])
        counts = np.bincount(drawn, minlength=40).astype(float)
        assert weighed[1](counts) == pytest.approx(expected, abs=1e-4)
    assert comparison["pairs"][0]["difference"]["value"] == 0
    run.evaluate(data, baselines=False, out=tmp_path / "page")
    page = (tmp_path / "page" / "evaluation.html").read_text(encoding="utf-8")
    titles = {"tagging": ["Classes", "Commonest mistakes"], "relations": ["Classes", "Most confident mistakes"],
              "question-answering": ["Most confident mistakes"]}  # fmt: skip
    for title in [
        "Figures",
        "Rows trained on",
        "Training of run",
        *titles.get(task, ["Furthest from what is right"]),
    ]:
        assert f"<h2>{title}</h2>" in page  # U17
    assert f"Warning: {len(examples)} of the {len(examples)} rows" in page
    predictions = [
        json.loads(line) for line in (tmp_path / "page" / "predictions.jsonl").read_text().splitlines()
    ]
    assert [row["line"] for row in predictions] == list(range(1, len(examples) + 1))


def records(path: Path) -> Any:
    from textus.data.labeled import stream_records

    return list(stream_records(path))


def test_runs_of_different_kinds_are_refused(folder: Path, trained: Path, tmp_path: Path) -> None:
    with raises(UsageError, "runs_differ"):
        api.compare([folder / "one", trained], on=folder / "test.jsonl")
    rows = [{"text": f"n {i % 7}", "score": i % 7} for i in range(40)]
    data = written(tmp_path / "r.jsonl", rows)
    other = api.finetune(
        data, dev=data, task="regression", model="gru", epochs=1, overrides=SMALL, out=tmp_path / "run"
    )
    with raises(UsageError, "runs_differ", "one", "classification", "run"):
        api.compare([folder / "one", other], on=folder / "test.jsonl")
    with raises(UsageError, "missing_argument"):
        api.compare([folder / "one"], on=folder / "test.jsonl")
    with raises(UsageError, "missing_argument"):
        api.compare([folder / "one", folder / "two"])


@pytest.mark.slow
def test_memory_is_that_of_one_model(corpus: Path, tmp_path: Path) -> None:
    """C16: a small run costs the same alone and after a large one."""
    large = ["model.n_layer=2", "model.d_model=640", "model.n_head=4"]
    small = ["model.n_layer=1", "model.d_model=16", "model.n_head=2"]
    for name, settings in (("large", large), ("small", small)):
        api.train(corpus, tokenizer="char", steps=1, overrides=settings, out=tmp_path / name)
    code = (
        "import sys; from textus import api\n"
        f"runs = [{str(tmp_path / 'large')!r}, {str(tmp_path / 'small')!r}]\n"
        "for chosen in (runs[1:], runs):\n"
        "    found = api.compare(chosen)\n"
        "    print(next(row['peak_memory_bytes'] for row in found['rows'] if row['name'] == 'small'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    alone, after = map(int, done.stdout.split())
    weights = (tmp_path / "large" / "model.safetensors").stat().st_size
    assert weights > 30_000_000
    assert abs(after - alone) < weights / 2

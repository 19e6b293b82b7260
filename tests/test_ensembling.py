"""Several runs as one: means, votes and soups against their definitions; what cannot be put together is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from raising import raises
from test_baselines import SMALL, sentences, written

from textus import api
from textus.cli.main import main
from textus.core.errors import UsageError
from textus.evaluation import ensembles
from textus.evaluation.task_report import read_rows
from textus.runs.store import load
from textus.tasks.classification import Classification, ClassificationSettings
from textus.tasks.inference import predict_texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ensembles")
    for name, seed in (("train", 0), ("dev", 1), ("test", 2)):
        written(folder / f"{name}.jsonl", sentences(200, seed))
    return folder


@pytest.fixture(scope="module")
def members(folder: Path) -> list[Path]:
    """Three of one family and size."""
    data = {"dev": folder / "dev.jsonl", "model": "gru", "epochs": 2, "overrides": SMALL}
    return [
        api.finetune(folder / "train.jsonl", out=folder / f"gru{seed}", seed=seed, **data).path
        for seed in range(3)
    ]


@pytest.fixture(scope="module")
def others(folder: Path) -> dict[str, Path]:
    """Runs that differ from the members in one thing each."""
    data: dict[str, Any] = {"dev": folder / "dev.jsonl"}
    few = written(folder / "few.jsonl", [row for row in sentences(200) if row["label"] != "good"])
    many = written(folder / "many.jsonl", [{**row, "label": [row["label"]]} for row in sentences(200)])
    wide = [*SMALL, "model.d_model=16"]

    def tuned(name: str, rows: Path = folder / "train.jsonl", **words: Any) -> Path:
        return api.finetune(rows, out=folder / name, **words).path

    return {
        "linear": tuned("linear", model="linear", **data),
        "wide": tuned("wide", model="gru", epochs=1, overrides=wide, **data),
        "few": tuned("few", few, model="gru", epochs=1, overrides=SMALL),
        "many": tuned("many", many, model="gru", epochs=1, overrides=[*SMALL, "task.multi=true"]),
        "gru1-more-dropout": tuned(
            "dropout",
            model="gru",
            epochs=1,
            overrides=[*SMALL, "model.dropout=0.5", "task.dropout=0.4"],
            **data,
        ),
    }


def outputs_of(paths: list[Path], test: Path) -> np.ndarray:
    results = []
    for path in paths:
        run = api.open_run(path)
        rows = read_rows(run.task, test)
        results.append(np.stack(predict_texts(run.model, run.task, run.tokenizer, rows.examples)))
    return np.stack(results)


@pytest.mark.promise(
    "Tasks",
    "Ensembles are the mean, vote or soup by definition, compared with their mean member; runs with "
    "different outputs are refused by name",
)
def test_a_mean_is_the_mean_of_probabilities(
    members: list[Path], others: dict[str, Path], folder: Path
) -> None:
    runs = [*members, others["linear"], others["wide"]]  # families and sizes may differ
    expected = outputs_of(runs, folder / "test.jsonl").mean(0)
    result = api.ensemble_predict(runs, folder / "test.jsonl")
    labels = api.open_run(runs[0]).task.labels
    for answer, probabilities in zip(result, expected, strict=True):
        assert [answer["probabilities"][name] for name in labels] == pytest.approx(probabilities, abs=1e-5)
        assert answer["label"] == labels[probabilities.argmax()]


def test_votes_are_counted_and_ties_go_to_the_surer() -> None:
    task = Classification(ClassificationSettings(), ["a", "b", "c"])
    members = [[np.array(item)] for item in ([0.5, 0.4, 0.1], [0.5, 0.4, 0.1], [0.0, 0.9, 0.1])]
    assert task.combine(members, "mean")[0].argmax() == 1
    voted = task.combine(members, "vote")[0]
    assert voted == pytest.approx([2 / 3, 1 / 3, 0], abs=1e-5)
    assert voted.sum() == pytest.approx(1)
    assert task.combine(members[1:], "vote")[0].argmax() == 1  # one vote each
    several = Classification(ClassificationSettings(multi=True), ["a", "b", "c"])
    members = [[np.array(item)] for item in ([0.9, 0.4, 0.6], [0.8, 0.1, 0.1])]
    assert (several.combine(members, "vote")[0] >= 0.5).tolist() == [True, False, False]


def test_a_soup_is_the_mean_of_weights(members: list[Path], folder: Path) -> None:
    model, _ = ensembles.average_weights(members)
    states = [load(path)[0].state_dict() for path in members]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, torch.stack([state[name] for state in states]).mean(0))
    same, _ = ensembles.average_weights([members[0]] * 2)
    rows = read_rows(api.open_run(members[0]).task, folder / "test.jsonl")
    run = api.open_run(members[0])
    alone = predict_texts(run.model, run.task, run.tokenizer, rows.examples)
    assert np.allclose(
        np.stack(predict_texts(same, run.task, run.tokenizer, rows.examples)), np.stack(alone), atol=1e-6
    )


def test_a_soup_of_unlike_beginnings_is_reported(
    members: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    ensembles.average_weights(members)
    assert "fine-tuned from the same base weights" in capsys.readouterr().err


def test_a_soup_of_one_beginning_may_differ_in_what_only_training_uses(
    members: list[Path], others: dict[str, Path]
) -> None:
    ensembles.average_weights([members[1], others["gru1-more-dropout"]])


def test_the_ensemble_is_reported_against_its_mean_member(members: list[Path], folder: Path) -> None:
    test = folder / "test.jsonl"
    result = api.ensemble_evaluate(members, test, baselines=False)
    probabilities = outputs_of(members, test)
    run = api.open_run(members[0])
    gold = run.task.gold(read_rows(run.task, test).examples)  # type: ignore[attr-defined]
    alone = (probabilities.argmax(2) == gold).mean(1)
    assert [member["accuracy"]["value"] for member in result["members"]] == pytest.approx(alone)
    together = (probabilities.mean(0).argmax(1) == gold).mean()
    assert result["accuracy"]["value"] == pytest.approx(together)
    against = result["against_mean_member"]
    assert against["value"] == pytest.approx(together - alone.mean())
    assert against["low"] <= against["value"] <= against["high"]
    assert api.ensemble_evaluate([members[0]] * 3, test, baselines=False)["against_mean_member"]["value"] == 0


@pytest.mark.parametrize(
    ("how", "other", "complaint"),
    [
        ("mean", "few", "different classes: only the first has 'good'"),
        ("mean", "many", "differ in task.multi: False and True"),
        ("soup", "wide", "differ in config.d_model (32 and 16)"),
        ("soup", "linear", "differ in family (gru and linear)"),
        ("men", "wide", "did you mean 'mean'"),
    ],
)
def test_what_does_not_answer_alike_is_refused(
    how: str, other: str, complaint: str, members: list[Path], others: dict[str, Path]
) -> None:
    with pytest.raises(UsageError) as caught:
        api.ensemble_predict([members[0], others[other]], ["a film"], ensemble=how)
    assert complaint in str(caught.value)


def test_linear_weights_are_not_averaged(others: dict[str, Path]) -> None:
    with raises(UsageError, "unsupported_model"):
        api.ensemble_predict([others["linear"]] * 2, ["a film"], ensemble="soup")


def test_a_run_without_a_task_is_no_member(trained: Path, members: list[Path]) -> None:
    with raises(UsageError, "not_fine_tuned"):
        api.ensemble_predict([members[0], trained], ["a film"])


def test_the_command_line(members: list[Path], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(path) for path in members]
    assert main(["predict", *runs, "a grand film", "--ensemble", "vote", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answers"][0]["label"] in ("bad", "fine", "good")
    words = ["--on", str(folder / "test.jsonl"), "--ensemble", "mean", "--no-baselines"]
    assert main(["evaluate", *runs, *words]) == 0
    assert "against mean member" in capsys.readouterr().out
    for wrong, message in (
        (["predict", *runs, "a film"], "several runs need --ensemble"),
        (["predict", runs[0]], "takes a run and a text"),
        (["predict", runs[0], "a film", "--ensemble", "mean"], "give two runs or more"),
        (["evaluate", *runs, "--on", str(folder / "test.jsonl")], "several with --ensemble"),
        (["evaluate", *runs, "--ensemble", "mean"], "give labelled rows, --on FILE"),
    ):
        assert main(wrong) == 2
        assert message in capsys.readouterr().err

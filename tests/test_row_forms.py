"""What rows a run was trained on is what it answers: as many texts a row, and labels as the values they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from labelled import written
from raising import raises

import textus
from textus import api
from textus.cli.main import main
from textus.core.errors import DataError, TextusError, UsageError

SMALL = ["model.n_layer=1", "model.d_model=16"]


def reviews(n: int = 24) -> list[dict[str, Any]]:
    return [{"text": f"film {i} was {'good' if i % 2 else 'bad'}", "label": i % 2} for i in range(n)]


def paired(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "text_pair": "what was it like"} for row in rows]


def scored(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"score": i % 5, **{k: v for k, v in row.items() if k != "label"}} for i, row in enumerate(rows)]


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    folder = tmp_path_factory.mktemp("single")
    return api.finetune(written(folder / "rows.jsonl", reviews()), model="linear", out=folder / "run")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    folder = tmp_path_factory.mktemp("pairs")
    return api.finetune(written(folder / "rows.jsonl", paired(reviews())), model="linear", out=folder / "run")


# ── as many texts a row ────────────────────────────────────────────────────────────────────────


def test_the_record_has_how_many_texts_a_row_had(single: api.Run, pairs: api.Run, tmp_path: Path) -> None:
    assert (single.record["n_texts"], pairs.record["n_texts"]) == ([1], [2])
    both = api.finetune([*reviews(), *paired(reviews())], model="linear", out=tmp_path / "both")
    assert both.record["n_texts"] == [1, 2]
    assert [row["label"] for row in both.predict(["good", "bad"])] == [1, 0]
    assert both.predict([("good", "what was it like")])[0]["label"] == 1


@pytest.mark.parametrize(
    "given", [("a", "b"), [("a", "b")], {"text": "a", "text_pair": "b"}, ("a", "b", "c")]
)
def test_a_pair_for_single_texts_is_refused(given: Any, single: api.Run, tmp_path: Path) -> None:
    given = [given] if isinstance(given, tuple) else given
    wrong = r"has \d texts, but the run was trained on single texts"
    with pytest.raises(TextusError, match=wrong):
        single.predict(given)
    with pytest.raises(TextusError, match=wrong):
        single.predict_proba(given)
    with pytest.raises(TextusError, match=wrong):
        api.ensemble_predict([single, single], given)


@pytest.mark.parametrize("given", ["a", ["a"], {"text": "a"}])
def test_a_single_text_for_pairs_is_refused(given: Any, pairs: api.Run) -> None:
    with raises(TextusError, "wrong_number_of_texts"):
        pairs.predict(given)


@pytest.mark.promise(
    "Robustness",
    "A run refuses rows of another number of texts; labels come back as the values they were; nothing "
    "is left by a failure",
)
def test_rows_of_files_are_refused_too(
    single: api.Run, pairs: api.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_pairs = written(tmp_path / "pairs.jsonl", paired(reviews()))
    of_texts = written(tmp_path / "texts.jsonl", reviews())
    for run, file in ((single, of_pairs), (pairs, of_texts)):
        out = tmp_path / "out.csv"
        for words in (
            ["predict", str(run.path), str(file)],
            ["predict", str(run.path), str(file), "--out", str(out)],
            ["predict", str(run.path), str(run.path), str(file), "--ensemble", "mean"],
            ["evaluate", str(run.path), "--on", str(file)],
            ["evaluate", str(run.path), str(run.path), "--ensemble", "mean", "--on", str(file)],
            ["compare", str(run.path), str(run.path), "--on", str(file)],
        ):
            assert main(words) == 1, words
            shown = capsys.readouterr().err
            assert f"{file}: line 1 has" in shown, shown
            assert "but the run was trained on" in shown
        assert not list(tmp_path.glob("out.csv*"))
    assert main(["predict", str(single.path), "good", "--text-pair", "bad"]) == 2
    assert "leave out --text-pair" in capsys.readouterr().err
    assert main(["predict", str(pairs.path), "good"]) == 2
    assert "give the second with --text-pair" in capsys.readouterr().err
    with raises(UsageError, "runs_differ"):
        api.ensemble_predict([single, pairs], "good")


def test_one_row_of_another_form_is_named(single: api.Run) -> None:
    with raises(DataError, "wrong_number_of_texts", "row 25"):
        single.predict([*reviews(), paired(reviews(1))[0]])


def test_regression_and_further_tasks_have_it_too(tmp_path: Path) -> None:
    file = written(tmp_path / "scores.jsonl", scored(paired(reviews())))
    also = written(tmp_path / "also.jsonl", reviews())
    run = api.finetune(
        file, task="regression", model="gru", epochs=4, overrides=SMALL, out=tmp_path / "run",
        extra_tasks=[f"tone:classification={also}"],
    )  # fmt: skip
    with raises(UsageError, "wrong_number_of_texts"):
        run.predict("good", task="regression")
    with raises(UsageError, "wrong_number_of_texts", "2"):
        run.predict([("good", "bad")], task="tone")
    assert run.predict("good", task="tone")["label"] in (0, 1)


# ── labels as they were ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("values", [(0, 1), (False, True), (1.0, 2.5), ("no", "yes"), ("0", "1")])
def test_labels_come_back_as_the_values_they_were(values: tuple[Any, Any], tmp_path: Path) -> None:
    rows = [{**row, "label": values[row["label"]]} for row in reviews()]
    file = written(tmp_path / "rows.jsonl", rows)
    run = api.finetune(file, model="linear", out=tmp_path / "run")
    answers = [answer["label"] for answer in run.predict([row["text"] for row in rows])]
    assert [(type(answer), answer) for answer in answers] == [
        (type(row["label"]), row["label"]) for row in rows
    ]
    run.predict_file(file, out=tmp_path / "out.jsonl")
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["predicted_label"] for row in out] == [row["label"] for row in rows]
    assert run.evaluate(file, baselines=False)["accuracy"]["value"] == 1


def test_labels_round_trip_with_scikit_learn(tmp_path: Path) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rows = reviews()
    texts, labels = [row["text"] for row in rows], [row["label"] for row in rows]
    run = textus.finetune((texts, labels), model="linear", out=tmp_path / "run")
    assert metrics.accuracy_score(labels, [answer["label"] for answer in run.predict(texts)]) == 1


def test_several_labels_a_text_are_numbers_again(tmp_path: Path) -> None:
    rows = [{"text": row["text"], "label": [row["label"], 7]} for row in reviews()]
    run = api.finetune(
        rows, model="gru", epochs=1, overrides=[*SMALL, "task.multi=true"], out=tmp_path / "run"
    )
    assert 7 in run.predict("good")["labels"]
    run.predict_file([{"text": "good"}], out=tmp_path / "out.csv")
    assert "7" in (tmp_path / "out.csv").read_text().splitlines()[1].split(",")[2].split("|")


def test_labels_of_a_csv_are_strings_and_a_table_has_them_as_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.csv").write_text(
        "text,label\n" + "".join(f"{row['text']},{2019 + row['label']}\n" for row in reviews())
    )
    run = api.finetune(tmp_path / "rows.csv", model="linear", out=tmp_path / "run")
    assert run.predict("it was good")["label"] == "2020"
    rows = [{**row, "label": 2019 + row["label"]} for row in reviews()]
    run = api.finetune(rows, model="linear", out=tmp_path / "again")
    capsys.readouterr()
    assert main(["predict", str(run.path), "it was good"]) == 0
    assert "2020" in capsys.readouterr().out


# ── rows of Python that nothing came of ────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "wrong",
    [
        {"data": [{"text": "a", "label": "x"}]},
        {"data": [{"text": "a"}] * 9},
        {"model": "lstmm"},
        {"model": None},
        {"dev": ["a text alone"]},
        {"dev": [{"text": "a"}]},
        {"extra_tasks": ["tagging"]},
        {"overrides": ["train.nothing=1"]},
    ],
)
@pytest.mark.parametrize("verb", ["finetune", "tune"])
def test_no_rows_are_left_by_a_failure(verb: str, wrong: dict[str, Any], tmp_path: Path) -> None:
    if verb == "tune" and {"extra_tasks"} & set(wrong):
        pytest.skip("tune takes no further tasks")
    how = {"data": reviews(), "model": "linear", **wrong}
    more = {"trials": 1} if verb == "tune" else {}
    with pytest.raises(TextusError):
        getattr(textus, verb)(how.pop("data"), out=tmp_path / "run", **more, **how)
    assert list(tmp_path.glob("*.jsonl")) == []


def test_a_failure_gives_the_rows_of_the_former_run_back(tmp_path: Path) -> None:
    textus.finetune(reviews(), model="linear", out=tmp_path / "run")
    before = (tmp_path / "run.rows.jsonl").read_bytes()
    with pytest.raises(DataError):
        textus.finetune([{"text": "a"}] * 9, model="linear", out=tmp_path / "run", force=True)
    assert (tmp_path / "run.rows.jsonl").read_bytes() == before
    assert textus.verify(tmp_path / "run")


def test_a_run_that_was_broken_off_keeps_its_rows(tmp_path: Path) -> None:
    from textus.core.errors import TrainingError

    with pytest.raises((TrainingError, TextusError)):
        textus.finetune(
            reviews(), model="gru", epochs=2, overrides=[*SMALL, "optim.rate=1e30"], out=tmp_path / "run"
        )
    assert (tmp_path / "run" / "run.json").is_file()
    assert (tmp_path / "run.rows.jsonl").is_file()

"""The linear family as a run like any other, equal to scikit-learn; the floors shown beside every classifier."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled import written
from raising import raises
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from textus import api
from textus.cli.main import main
from textus.cli.render import task_scores
from textus.core.errors import DataError, RunError, UsageError
from textus.evaluation.task_report import BASELINE_FOLDER, LINEAR

SMALL = ("train.batch_size=8", "model.n_layer=1", "model.d_model=32", "optim.rate=0.01")
WORDS = ["the", "film", "was", "long", "story", "of", "two", "men", "in", "one", "town", "they", "all", "saw"]
TOLD = {"bad": "dull", "fine": "plain", "good": "grand"}


def sentences(n: int, seed: int = 0, *, noise: float = 0.3) -> list[dict[str, str]]:
    """Rows whose class is told by one planted word, but for a share of them; "fine" is half of all."""
    draw = random.Random(seed)
    rows = []
    for number in range(n):
        label = ("bad", "fine", "good", "fine")[number % 4]
        words = [*draw.choices(WORDS, k=draw.randint(3, 9)), *(f"odd{draw.randint(0, 40)}" for _ in range(2))]
        if draw.random() >= noise:
            words.insert(draw.randrange(len(words)), TOLD[label])
        rows.append({"text": " ".join(words), "label": label, "source": draw.choice("xy")})
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("floor")
    for name, seed in (("train", 0), ("dev", 1), ("test", 2)):
        written(folder / f"{name}.jsonl", sentences(240, seed))
    return folder


@pytest.fixture(scope="module")
def linear(folder: Path) -> api.Run:
    return api.finetune(
        folder / "train.jsonl", dev=folder / "dev.jsonl", model="linear", out=folder / "linear"
    )


@pytest.fixture(scope="module")
def lstm(folder: Path) -> api.Run:
    data = {"dev": folder / "dev.jsonl", "out": folder / "lstm"}
    return api.finetune(folder / "train.jsonl", model="lstm", epochs=3, overrides=SMALL, **data)


def scikit_learn(rows: list[dict[str, str]], test: list[dict[str, str]]) -> np.ndarray:
    features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = make_pipeline(features, LogisticRegression(C=10, tol=1e-8, max_iter=2000))
    model.fit([row["text"] for row in rows], [row["label"] for row in rows])
    result: np.ndarray = model.predict_proba([row["text"] for row in test])
    return result


@pytest.mark.promise(
    "Tasks",
    "A linear run answers as scikit-learn does, and is kept, verified, shown and refused like any other",
)
def test_the_run_answers_as_scikit_learn(linear: api.Run) -> None:
    test = sentences(60, seed=2)
    expected = scikit_learn(sentences(240, seed=0), test)
    answers = linear.predict([row["text"] for row in test])
    assert linear.task.labels == ["bad", "fine", "good"]
    for answer, probabilities in zip(answers, expected, strict=True):
        texts = [answer["probabilities"][name] for name in linear.task.labels]
        assert texts == pytest.approx(probabilities, abs=1e-4)


def test_it_is_kept_verified_shown_and_read_again(
    linear: api.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert api.verify(linear.path)["files"]
    assert main(["show", str(linear.path)]) == 0
    assert "linear" in capsys.readouterr().out
    again = api.open_run(shutil.copytree(linear.path, tmp_path / "copy"))
    assert again.predict(["a grand film"]) == linear.predict(["a grand film"])
    assert main(["resume", str(linear.path)]) == 0
    with raises(UsageError, "missing_argument", "textus evaluate RUN"):
        api.compare([linear], on=linear.path / "log.jsonl")
    with raises(UsageError, "not_a_language_model", "classification"):
        linear.generate("the film")
    with (tmp_path / "copy" / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with raises(RunError, "damaged", "model.safetensors"):
        api.verify(tmp_path / "copy")


def test_classes_keep_their_order_where_letters_order_them_otherwise(tmp_path: Path) -> None:
    rows = [{"text": f"word{n} x{n}", "label": n} for n in (2, 10, 1)] * 20
    data = written(tmp_path / "rows.jsonl", rows)
    run = api.finetune(data, dev=data, model="linear", out=tmp_path / "run")
    assert run.task.labels == ["1", "2", "10"]
    assert [row["label"] for row in run.predict(["word10", "word2", "word1"])] == [10, 2, 1]


def test_chinese_is_read_by_characters_and_settings_are_heard(tmp_path: Path) -> None:
    rows = [{"text": f"今天{word}了", "label": word} for word in ("下雨", "出太阳")] * 20
    data = written(tmp_path / "rows.jsonl", rows)
    run = api.finetune(data, dev=data, model="linear", out=tmp_path / "run")
    assert run.record["config"]["words"] == [0, 0]
    assert run.record["config"]["characters"] == [1, 2]
    assert run.predict(["明天下雨"])[0]["label"] == "下雨"
    settings = ["model.characters=2,4", "model.l2=0.5"]
    config = api.finetune(data, dev=data, model="linear", out=tmp_path / "other", overrides=settings).record[
        "config"
    ]
    assert (config["characters"], config["l2"]) == ([2, 4], 0.5)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"epochs": 3}, "--epochs 3: a linear model trains on all texts at once"),
        ({"tokenizer": "bpe"}, "--tokenizer bpe"),
        ({"overrides": ["train.batch_size=8"]}, "--set train.batch_size=8"),
        ({"overrides": ["task.multi=true"]}, "--set task.multi=true"),
        ({"overrides": ["model.words=3,1"]}, "must be shortest and longest"),
        ({"overrides": ["model.l3=1"]}, "did you mean 'model.l2'"),
    ],
)
def test_what_it_has_no_use_for_is_refused(
    words: dict[str, Any], complaint: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        api.finetune(folder / "train.jsonl", model="linear", out=tmp_path / "run", **words)
    assert complaint in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_it_is_not_begun_from_nor_trained_on_a_corpus(linear: api.Run, folder: Path, tmp_path: Path) -> None:
    with raises(UsageError, "unsupported_model"):
        api.finetune(folder / "train.jsonl", init_from=linear.path, out=tmp_path / "run")
    with raises(UsageError, "unsupported_model"):
        api.train(folder, model="linear", out=tmp_path / "run")


# ── floors ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Tasks",
    "A classifier is compared with the majority class and TF-IDF + linear trained on the same rows, "
    "with paired differences; if these rows are gone, it is reported",
)
def test_baselines_are_those_of_the_same_training_rows(lstm: api.Run, linear: api.Run, folder: Path) -> None:
    test = sentences(240, seed=2)
    scores = lstm.evaluate(folder / "test.jsonl")
    floors = scores["baselines"]
    assert floors["majority"]["accuracy"]["value"] == pytest.approx(
        np.mean([r["label"] == "fine" for r in test])
    )
    guess = scikit_learn(sentences(240, seed=0), test).argmax(1)
    right = np.mean([["bad", "fine", "good"][n] == row["label"] for n, row in zip(guess, test, strict=True)])
    assert floors[LINEAR]["accuracy"]["value"] == pytest.approx(right)
    for item in floors.values():
        difference = item["difference"]
        assert difference["of"] == "accuracy"
        expected = scores["accuracy"]["value"] - item["accuracy"]["value"]
        assert difference["value"] == pytest.approx(expected)
        assert difference["low"] <= difference["value"] <= difference["high"]
    assert set(linear.evaluate(folder / "test.jsonl")["baselines"]) == {"majority"}


def test_the_terminal_shows_baselines_as_a_table(lstm: api.Run, folder: Path) -> None:
    scores = lstm.evaluate(folder / "test.jsonl")
    shown = task_scores(scores).splitlines()
    (header,) = [number for number, line in enumerate(shown) if line.startswith("baseline ")]
    rows = {line.split("  ")[0].strip() for line in shown[header + 1 : header + 2 + len(scores["baselines"])]}
    assert set(scores["baselines"]) <= rows


def test_a_difference_is_paired(lstm: api.Run, folder: Path) -> None:
    """Against itself the interval is a point, however uncertain each side alone."""
    from textus.evaluation.task_report import paired_difference, read_rows
    from textus.tasks.inference import predict_texts

    rows = read_rows(lstm.task, folder / "test.jsonl")
    ours = predict_texts(lstm.model, lstm.task, lstm.tokenizer, rows.examples)
    result = paired_difference(rows, ours, ours)
    assert result is not None
    assert (result["low"], result["value"], result["high"]) == (0, 0, 0)
    blind = lstm.task.majority_baseline(rows.examples)
    assert blind is not None
    better = paired_difference(rows, ours, blind)
    assert better is not None
    assert better["low"] < better["value"] < better["high"]


def test_the_baseline_is_trained_once_and_anew_where_it_is_another_s(
    lstm: api.Run,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEXTUS_CACHE", str(tmp_path / "cache"))
    err = lambda: (lstm.evaluate(folder / "test.jsonl"), capsys.readouterr().err)[1]  # noqa: E731
    assert "training the baseline" in err()
    assert "training the baseline" not in err()
    (kept,) = (tmp_path / "cache" / BASELINE_FOLDER).iterdir()
    with (kept / "model.safetensors").open("ab") as file:
        file.write(b"x")  # a damaged one is trained anew
    assert "training the baseline" in err()
    assert api.verify(kept)


@pytest.mark.promise("Robustness", "Measuring changes no byte of a run")
def test_measuring_changes_no_byte_of_a_run(
    lstm: api.Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C24."""
    monkeypatch.setenv("TEXTUS_CACHE", str(tmp_path / "cache"))
    run = api.open_run(shutil.copytree(lstm.path, tmp_path / "run"))
    held = lambda: {  # noqa: E731
        str(file): (file.read_bytes() if file.is_file() else None, file.stat().st_mtime_ns)
        for file in [run.path, *run.path.rglob("*")]
    }
    before, test = held(), str(folder / "test.jsonl")
    for words in (
        ["evaluate", str(run.path), "--on", test, "--out", str(tmp_path / "page")],
        ["predict", str(run.path), test, "--out", str(tmp_path / "out.csv")],
        ["compare", str(run.path), str(lstm.path), "--on", test],
        ["show", str(run.path)],
    ):
        assert main(words) == 0
    assert held() == before
    assert "TF-IDF + linear" in (tmp_path / "page" / "evaluation.html").read_text()


def test_rows_that_are_gone_or_changed_are_reported(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = written(tmp_path / "rows.jsonl", sentences(80))
    run = api.finetune(data, model="gru", out=tmp_path / "run", epochs=1, overrides=SMALL)
    written(data, sentences(79))
    assert set(run.evaluate(folder / "test.jsonl")["baselines"]) == {"majority"}
    assert f"skipping the baseline {LINEAR}: {data} has changed" in capsys.readouterr().err
    data.unlink()
    assert set(run.evaluate(folder / "test.jsonl")["baselines"]) == {"majority"}
    assert f"skipping the baseline {LINEAR}" in capsys.readouterr().err
    assert "baselines" not in run.evaluate(folder / "test.jsonl", baselines=False)


def test_test_rows_that_were_trained_on_are_reported(
    lstm: api.Run, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = written(tmp_path / "t.jsonl", [*sentences(20, seed=7), *sentences(3)])
    assert lstm.evaluate(test, baselines=False)["rows_trained_on"] == 3
    assert "3 of the 23 rows have a text that is also in" in (err := capsys.readouterr().err)
    assert "t.jsonl: line 21" in err
    assert lstm.evaluate(folder / "test.jsonl", baselines=False)["rows_trained_on"] == 0
    assert "stands in" not in capsys.readouterr().err


def test_any_number_of_labels_has_no_baseline(tmp_path: Path) -> None:
    data = written(
        tmp_path / "r.jsonl", [{"text": f"a b {n}", "label": ["x", "y"][: n % 3]} for n in range(60)]
    )
    settings = [*SMALL, "task.multi=true"]
    run = api.finetune(data, model="gru", out=tmp_path / "run", epochs=1, overrides=settings)
    assert "baselines" not in run.evaluate(data)


def test_the_figures_of_real_data(data: Path, tmp_path: Path) -> None:
    """Banking77 with 10 examples a class, as scikit-learn with the same features."""
    import csv

    with (data / "banking77" / "train.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    kept: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        kept.setdefault(row["category"], []).append({"text": row["text"], "label": row["category"]})
    train = written(tmp_path / "few.jsonl", [row for item in kept.values() for row in item[:10]])
    run = api.finetune(train, dev=train, model="linear", out=tmp_path / "run")
    scores = run.evaluate(data / "banking77" / "test.csv", columns="label=category", baselines=False)
    assert scores["accuracy"]["value"] > 0.5
    with raises(DataError, "column_not_found", "'intent'"):
        run.evaluate(data / "banking77" / "test.csv", columns="label=intent")

"""Numbers and ratings for texts: figures beside scipy and scikit-learn, heads beside arithmetic, data refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelled import WORDS, written
from raising import raises
from scipy import stats
from sklearn import metrics as sklearn

from textus import api
from textus.cli.main import main
from textus.core.errors import DataError, UsageError
from textus.data.batch import Batch
from textus.metrics import regression
from textus.models.nn.heads import OrdinalHead, RegressionHead

SMALL = ("train.batch_size=8", "model.n_layer=1", "model.d_model=32", "optim.rate=0.01")


def rows_of(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """A price told by a planted word and a year beside the text; the rating is the word's."""
    draw, rows = random.Random(seed), []
    for number in range(n):
        level, year = number % 4, draw.randint(1990, 2020)
        words = draw.choices(WORDS, k=draw.randint(3, 8))
        words.insert(draw.randrange(len(words)), ("poor", "plain", "good", "grand")[level])
        price = 1000 + 100 * level + 20 * (year - 2005)
        rows.append({"text": " ".join(words), "label": price, "year": year, "stars": level + 1})
    return rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("rows") / "train.jsonl", rows_of(320))


# ── figures ────────────────────────────────────────────────────────────────────────────────────


def drawn(seed: int, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Numbers with many ties, and answers that know something of them."""
    random = np.random.default_rng(seed)
    gold = random.integers(0, 12, n) / 2.0
    return gold, np.round(gold + random.normal(size=n), 1)


def theirs(gold: np.ndarray, guess: np.ndarray) -> dict[str, float]:
    return {
        "r2": sklearn.r2_score(gold, guess),
        "pearson": stats.pearsonr(gold, guess).statistic,
        "spearman": stats.spearmanr(gold, guess).statistic,
        "mae": sklearn.mean_absolute_error(gold, guess),
        "rmse": sklearn.root_mean_squared_error(gold, guess),
    }


@pytest.mark.promise(
    "Tasks",
    "Figures of numbers, ratings and search are scipy's and scikit-learn's; a resample is scored as "
    "the texts it repeats; what is not defined on these rows is left out and named",
)
@pytest.mark.parametrize("seed", range(3))
def test_figures_are_scipys_and_scikit_learns(seed: int) -> None:
    gold, guess = drawn(seed)
    result = regression.regression_scores(gold, guess, "spearman")
    assert next(iter(result)) == "spearman"
    assert {name: row["value"] for name, row in result.items()} == pytest.approx(theirs(gold, guess))
    assert all(row["low"] < row["value"] < row["high"] for row in result.values())


def test_a_resample_is_scored_as_the_texts_it_repeats() -> None:
    gold, guess = drawn(7)
    counts = np.random.default_rng(1).multinomial(len(gold), np.full(len(gold), 1 / len(gold)))
    again = np.repeat(np.arange(len(gold)), counts)
    result = regression.regression_metrics(gold, guess)(counts.astype(float))
    assert result == pytest.approx(theirs(gold[again], guess[again]))


def test_ratings_are_scikit_learns() -> None:
    random = np.random.default_rng(3)
    gold = random.integers(0, 5, 300)
    guess = np.clip(gold + random.integers(-2, 3, 300), 0, 4)
    stars = np.asarray([1.0, 2.0, 3.0, 4.0, 10.0])
    results = {name: row["value"] for name, row in regression.rating_scores(gold, guess, stars).items()}
    assert results == pytest.approx(
        {
            "quadratic_kappa": sklearn.cohen_kappa_score(gold, guess, weights="quadratic"),
            "accuracy": sklearn.accuracy_score(gold, guess),
            "mae": sklearn.mean_absolute_error(stars[gold], stars[guess]),
        }
    )


def test_the_interval_of_spearman_holds_it_as_often_as_stated() -> None:
    real = stats.spearmanr(*drawn(99, 200_000)).statistic
    figures = [
        regression.regression_scores(*drawn(seed, 150), "spearman", seed=seed)["spearman"]
        for seed in range(20)
    ]
    assert sum(figure["low"] <= real <= figure["high"] for figure in figures) >= 16  # 95 % of 20 is 19


def test_what_cannot_be_measured_is_left_out_and_named() -> None:
    gold, guess = drawn(0)
    result = regression.regression_scores(np.full_like(gold, 3.0), guess, "r2")
    assert result["undefined"] == ["r2", "pearson", "spearman"]
    assert result["mae"]["value"] == pytest.approx(np.abs(guess - 3).mean())
    assert regression.regression_scores(gold, np.ones_like(gold), "r2")["undefined"] == [
        "pearson",
        "spearman",
    ]


# ── heads ──────────────────────────────────────────────────────────────────────────────────────


def batch(labels: torch.Tensor, numbers: torch.Tensor | None = None) -> Batch:
    ids = torch.zeros(len(labels), 4, dtype=torch.long)
    return Batch(ids, ids, torch.ones(ids.shape), labels=labels, numbers=numbers)


def test_the_ordinal_head_is_the_logistic_distribution_between_thresholds() -> None:
    torch.manual_seed(0)
    head, hidden = OrdinalHead(6, 5).eval(), torch.randn(7, 4, 6)
    torch.nn.init.normal_(head.steps)
    with torch.no_grad():
        place = head.out(hidden.mean(1))[:, 0].numpy()
        steps = np.log1p(np.exp(head.steps.numpy()))
        result, labels = head.predict(hidden).numpy(), torch.arange(7) % 5
        loss = head.loss(hidden, batch(labels))
    cuts = np.concatenate([[-np.inf], head.first.detach().numpy() + np.append(0, steps.cumsum()), [np.inf]])
    expected = np.diff(stats.logistic.cdf(cuts[None] - place[:, None]), axis=1)
    assert result == pytest.approx(expected, abs=1e-6)
    assert float(loss.total) == pytest.approx(-np.log(expected[np.arange(7), labels]).sum(), rel=1e-5)


def test_thresholds_far_away_still_have_gradients() -> None:
    head, hidden = OrdinalHead(6, 3), torch.full((3, 4, 6), 200.0)
    head.loss(hidden, batch(torch.arange(3))).total.backward()
    assert all(
        torch.isfinite(parameter.grad).all() for parameter in head.parameters() if parameter.grad is not None
    )


def test_numbers_are_learned_in_deviations_and_predicted_in_their_unit() -> None:
    torch.manual_seed(0)
    head = RegressionHead(
        6, [1e9, 5.0], [2.0, 0.5], number_means=[1e9], number_deviations=[3.0], dropout=0.0
    ).eval()
    hidden, other = (
        torch.randn(3, 4, 6),
        torch.tensor([[1e9 + 3], [1e9], [float("nan")]], dtype=torch.float64),
    )
    with torch.no_grad():
        scaled = head(hidden, None, other)
        predictions = head.predict(hidden, None, other)
        assert torch.equal(scaled[1], head(hidden, None, torch.full((3, 1), 1e9, dtype=torch.float64))[1])
        assert torch.equal(scaled[2], head(hidden, None, torch.full((3, 1), 1e9, dtype=torch.float64))[2])
        loss = head.loss(hidden, batch(predictions + torch.tensor([2.0, 0.5], dtype=torch.float64), other))
    assert predictions.numpy() == pytest.approx(
        scaled.double().numpy() * [2.0, 0.5] + [1e9, 5.0], rel=0, abs=1e-6
    )
    assert float(loss.total) == pytest.approx(3.0, rel=1e-5)  # one deviation off, in both, three texts


# ── end to end ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Tasks",
    "Numbers, several numbers and ordered ratings are trained, with numeric columns next to the text; "
    "a missing one is refused or reported",
)
def test_numbers_next_to_the_text_are_read(rows: Path, tmp_path: Path) -> None:
    settings = [*SMALL, "task.numeric=year", "compute.precision=float32"]
    run = api.finetune(
        rows, task="regression", model="gru", out=tmp_path / "run", epochs=16, overrides=settings
    )
    test = written(tmp_path / "test.jsonl", rows_of(80, seed=1))
    scores = run.evaluate(test)
    assert scores["r2"]["value"] > 0.9
    blind = api.finetune(
        rows, task="regression", model="gru", out=tmp_path / "blind", epochs=4, overrides=SMALL
    )
    assert blind.evaluate(test)["r2"]["value"] < 0.7  # more than half of the spread is the year's
    head = api.open_run(run.path).record["heads"]["regression"]
    years = [row["year"] for row in rows_of(320)]
    assert abs(head["number_means"][0] - np.mean(years)) < 2  # of the rows that are not held out
    answers = run.predict(test)
    assert [answer["score"] for answer in answers] == pytest.approx(
        [row["label"] for row in rows_of(80, seed=1)], abs=200
    )
    with raises(UsageError, "incompatible_data", "text 1", "year"):
        run.predict(["a grand film"])


def test_a_missing_number_is_refused_or_reported(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holes = [{**row, "year": None} if number % 3 == 0 else row for number, row in enumerate(rows_of(90))]
    data, words = written(tmp_path / "holes.jsonl", holes), {"task": "regression", "model": "gru"}
    settings = [*SMALL, "task.numeric=year"]
    with raises(DataError, "invalid_row", "line 1", "--set"):
        api.finetune(data, out=tmp_path / "run", overrides=settings, **words)
    run = api.finetune(
        data, out=tmp_path / "run", epochs=1, overrides=[*settings, "task.missing=mean"], **words
    )
    assert "rows lack a number: they get the training rows' mean" in capsys.readouterr().err
    assert len(run.predict(data)) == 90


def test_ratings_in_order(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = written(tmp_path / "stars.jsonl", [{"text": r["text"], "label": r["stars"]} for r in rows_of(320)])
    run = api.finetune(
        data, task="regression", model="gru", out=tmp_path / "run", epochs=8,
        overrides=[*SMALL, "task.kind=ordinal"],
    )  # fmt: skip
    assert run.record["labels"] == ["1", "2", "3", "4"]
    test = [{"text": r["text"], "label": r["stars"]} for r in rows_of(80, seed=1)]
    scores = run.evaluate(written(tmp_path / "test.jsonl", test))
    assert scores["quadratic_kappa"]["value"] > 0.9
    answers = run.predict([row["text"] for row in test])
    assert scores["accuracy"]["value"] == pytest.approx(
        sklearn.accuracy_score([str(row["label"]) for row in test], [answer["label"] for answer in answers])
    )
    assert sum(answers[0]["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    capsys.readouterr()
    more = run.evaluate(written(tmp_path / "more.jsonl", [*test, {"text": "a grand film", "label": 9}]))
    assert "1 ratings were never seen in training (9)" in capsys.readouterr().err
    assert more["accuracy"]["value"] == pytest.approx(scores["accuracy"]["value"] * 80 / 81)


def test_several_numbers_at_once(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [*SMALL, "task.targets=stars, label", "task.numeric=year"]
    run = api.finetune(
        rows, task="regression", model="gru", out=tmp_path / "run", epochs=4, overrides=settings
    )
    scores = run.evaluate(rows)
    assert [target["target"] for target in scores["targets"]] == ["stars", "label"]
    assert scores["r2"]["value"] == pytest.approx(np.mean([target["r2"] for target in scores["targets"]]))
    assert set(run.predict(rows)[0]) == {"line", "stars", "label"}
    assert main(["evaluate", str(run.path), "--on", str(rows)]) == 0
    assert "stars" in capsys.readouterr().out


def test_broken_off_and_resumed_it_ends_in_the_same_bytes(rows: Path, tmp_path: Path) -> None:
    settings = [*SMALL, "task.numeric=year"]
    run = api.finetune(
        rows, task="regression", model="gru", out=tmp_path / "run", epochs=2, overrides=settings
    )
    assert api.verify_determinism(run.path)["identical"]


def test_same_numbers_everywhere_are_reported(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = api.finetune(rows, task="regression", model="gru", out=tmp_path / "run", epochs=1, overrides=SMALL)
    scores = run.evaluate(written(tmp_path / "same.jsonl", [{**row, "label": 1200} for row in rows_of(9)]))
    assert scores["undefined"] == ["r2", "pearson", "spearman"]
    assert "r2, pearson, spearman cannot be computed" in capsys.readouterr().err


@pytest.mark.promise(
    "Tasks",
    "Labels that are not numbers, and rows that leave nothing to train or select on, are named before "
    "anything is written",
)
@pytest.mark.parametrize(
    ("row", "settings", "complaint"),
    [
        ({"text": "a", "label": "good"}, [], "line 1: the label is 'good', which is no number; write it in digits"),
        ({"text": "a", "label": ""}, [], "line 1: the label is '', which is no number; give it one"),
        ({"text": "a", "label": "nan"}, [], "the label is 'nan', which is no number"),
        ({"text": "a", "label": True}, [], "the label is True, which is no number"),
        ({"text": "a", "label": [1]}, [], "the label is [1], which is no number"),
        ({"text": "a", "label": "1e999"}, [], "the label is '1e999', which is no number"),
        ({"text": "a"}, [], "has no field 'score' or 'label'; it has 'text'"),
        ({"text": "a", "label": 3}, [], "rows have the label 3: there is nothing to learn"),
        ({"text": "a", "label": 3}, ["task.numeric=year"], "has no field 'year'; it has 'text', 'label'"),
        ({"text": "a", "label": 3}, ["task.numeric=label"], "'label' is both in task.targets and in task.numeric"),
        ({"text": "a", "label": 3}, ["task.kind=ordinl"], "kind='ordinl': input should be 'number' or 'ordinal'"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_learned_is_named(
    row: dict[str, Any], settings: list[str], complaint: str, tmp_path: Path
) -> None:
    data = written(tmp_path / "r.jsonl", [{**row, "text": f"{row['text']} {n}"} for n in range(40)])
    with pytest.raises((DataError, UsageError)) as caught:
        api.finetune(data, task="regression", model="lstm", out=tmp_path / "run", overrides=settings)
    assert complaint.replace("line 1", "line") in str(caught.value).replace("line 1", "line")
    assert not (tmp_path / "run").exists()


def test_ratings_that_are_numbers_and_rows_that_cannot_choose_are_named(tmp_path: Path) -> None:
    many = written(tmp_path / "many.jsonl", [{"text": f"a {n}", "label": n / 7} for n in range(99)])
    with raises(DataError, "not_classes"):
        api.finetune(
            many, task="regression", model="gru", out=tmp_path / "run", overrides=["task.kind=ordinal"]
        )
    same = written(tmp_path / "dev.jsonl", [{"text": f"b {n}", "label": 2} for n in range(9)])
    with raises(DataError, "one_class", "9", "2"):
        api.finetune(many, dev=same, task="regression", model="gru", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()

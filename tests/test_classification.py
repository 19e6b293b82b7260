"""Figures of classification against scikit-learn, and how texts are framed for a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from sklearn import metrics as sklearn

from textus.metrics.calibration import calibration_error
from textus.metrics.classification import ClassCounts, multi_label_scores, single_label_scores
from textus.tasks.base import InputTemplate

LABELS = ["a", "b", "c", "d"]


def drawn(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Classes of which the last is rare and never answered, and probabilities that know something of them."""
    random = np.random.default_rng(seed)
    gold = random.choice(4, n, p=[0.5, 0.3, 0.19, 0.01])
    scores = random.normal(size=(n, 4)) + 1.5 * np.eye(4)[gold]
    scores[:, 3] -= 9
    return gold, np.exp(scores) / np.exp(scores).sum(1, keepdims=True)


@pytest.mark.promise(
    "Tasks", "Figures of classification are scikit-learn's; a class nobody knows is always wrong"
)
def test_figures_are_scikit_learns() -> None:
    gold, probabilities = drawn()
    guess = probabilities.argmax(1)
    result = single_label_scores(gold, probabilities, LABELS)
    assert result["accuracy"]["value"] == pytest.approx(sklearn.accuracy_score(gold, guess))
    assert result["macro_f1"]["value"] == pytest.approx(
        sklearn.f1_score(gold, guess, average="macro", zero_division=0)
    )
    assert result["nats"]["value"] == pytest.approx(sklearn.log_loss(gold, probabilities, labels=range(4)))
    assert result["confusion"] == sklearn.confusion_matrix(gold, guess, labels=range(4)).tolist()
    expected = sklearn.precision_recall_fscore_support(gold, guess, labels=range(4), zero_division=0)
    for column, values in zip(("precision", "recall", "f1", "n"), expected, strict=True):
        assert [class_[column] for class_ in result["classes"]] == pytest.approx(list(values))


def test_a_class_nobody_knows_is_always_wrong() -> None:
    gold, probabilities = drawn()
    guess = probabilities.argmax(1)
    unknown = gold.copy()
    unknown[:50] = -1
    result = single_label_scores(unknown, probabilities, LABELS)
    names = np.where(unknown < 0, 4, unknown)
    assert result["accuracy"]["value"] == pytest.approx(sklearn.accuracy_score(names, guess))
    expected = sklearn.precision_recall_fscore_support(names, guess, labels=range(4), zero_division=0)
    assert [class_["f1"] for class_ in result["classes"]] == pytest.approx(list(expected[2]))
    assert [class_["n"] for class_ in result["classes"]] == list(expected[3])
    assert len(result["confusion"]) == 5
    assert sum(result["confusion"][4]) == 50


def test_several_labels_are_scikit_learns() -> None:
    random = np.random.default_rng(1)
    gold = random.random((200, 4)) < 0.4
    probabilities = np.clip(0.4 * gold + 0.6 * random.random((200, 4)), 0, 1)
    answer = probabilities >= 0.5
    result = multi_label_scores(gold, probabilities, LABELS, np.zeros(200, dtype=np.int64))
    assert result["micro_f1"]["value"] == pytest.approx(sklearn.f1_score(gold, answer, average="micro"))
    assert result["macro_f1"] == pytest.approx(sklearn.f1_score(gold, answer, average="macro"))
    assert result["exact_match"]["value"] == pytest.approx(sklearn.accuracy_score(gold, answer))
    unseen = np.zeros(200, dtype=np.int64)
    unseen[0] = 3
    assert (
        multi_label_scores(gold, probabilities, LABELS, unseen)["micro_f1"]["value"]
        < result["micro_f1"]["value"]
    )


def test_calibration_against_its_definition() -> None:
    random = np.random.default_rng(2)
    confidence = random.random(1000)
    right = random.random(1000) < confidence**2
    expected = 0.0
    for low in np.arange(10) / 10:
        inside = (confidence >= low) & (confidence < low + 0.1)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert calibration_error(confidence, right) == pytest.approx(expected)
    assert calibration_error(np.ones(5), np.ones(5, dtype=bool)) == 0


@pytest.mark.slow
def test_the_interval_of_macro_f1_holds_it_as_often_as_stated() -> None:
    truth_gold, truth = drawn(200_000, seed=9)
    real = sklearn.f1_score(truth_gold, truth.argmax(1), average="macro", zero_division=0)
    classification_figures = [
        single_label_scores(*drawn(400, seed), LABELS, seed=seed)["macro_f1"] for seed in range(40)
    ]
    held = sum(figure["low"] <= real <= figure["high"] for figure in classification_figures)
    assert held >= 33  # 95 % of 40 is 38; 33 or fewer comes once in a hundred


def test_one_text_has_no_spread() -> None:
    result = single_label_scores(np.array([1]), np.array([[0.2, 0.8]]), LABELS[:2])
    assert result["macro_f1"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 1}


def test_counts_of_classes_add_up() -> None:
    gold, probabilities = drawn()
    counts = ClassCounts.count(gold, probabilities.argmax(1), 4)
    assert counts.predicted.sum() == counts.gold.sum() == len(gold)
    assert all(part.max() <= 1 for part in counts.precision_recall_f1())
    assert ClassCounts(*np.zeros((3, 4))).macro_f1() == 0


@pytest.mark.parametrize(
    ("lengths", "longest", "kept"),
    [
        ((3,), None, (3,)),
        ((3,), 5, (3,)),
        ((9,), 5, (3,)),
        ((9, 2), 8, (3, 2)),
        ((9, 8), 9, (3, 3)),
        ((2, 9), 12, (2, 7)),
    ],
)
def test_what_does_not_fit_is_cut_from_the_longer_text(
    lengths: tuple[int, ...], longest: int | None, kept: tuple[int, ...]
) -> None:
    texts = [[10 * number + n for n in range(length)] for number, length in enumerate(lengths, 1)]
    ids, segments, cut = InputTemplate((7,), 8, longest).apply(texts)
    assert cut == sum(lengths) - sum(kept)
    expected, numbers = [7], [0]
    for number, (text, n) in enumerate(zip(texts, kept, strict=True)):
        expected += [*text[:n], 8]
        numbers += [number] * (n + 1)
    assert (ids, segments) == (expected, numbers)


@pytest.mark.parametrize(
    ("longest", "kept"),
    [(None, range(9)), (10, (0, 1, 3, 4, 5, 6, 7, 8)), (6, (0, 6, 7, 8)), (3, (8,))],
)
def test_where_the_middle_is_cut_the_first_quarter_and_the_end_are_read(
    longest: int | None, kept: Sequence[int]
) -> None:
    ids, segments, cut = InputTemplate((77,), 88, longest).apply([list(range(9))], "middle")
    assert ids == [77, *kept, 88]
    assert (cut, segments) == (9 - len(kept), [0] * len(ids))

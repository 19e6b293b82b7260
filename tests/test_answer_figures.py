"""Exact match and F1 of answers: those of SQuAD v2.0 and CMRC 2018, and the best threshold for no answer."""

from __future__ import annotations

import random
from difflib import SequenceMatcher

import numpy as np
import pytest

from textus.metrics import spans

WORDS = ["the", "A", "an", "cat", "Cat's", "dog", "dog,", "(dog)", "theme", "U.S.", "1,000", "$5", "-", "x y"]
SQUAD = [  # prediction, answers, exact and F1 of the SQuAD v2.0 script
    ("The cat's tail!", ["a cats tail"], 1, 1.0),
    ("in the year 1,066", ["1066", "the year of 1066"], 0, 2 / 3),
    ("theme", ["the me"], 0, 0.0),
    ("Saint-Denis", ["Saint Denis", "saintdenis"], 1, 1.0),
    ("dog dog cat", ["dog cat cat"], 0, 2 / 3),
    ("The", ["a"], 1, 1.0),
    ("the", ["cat", "an"], 0, 0.0),
    ("", ["cat"], 0, 0.0),
    ("", [], 1, 1.0),
    ("cat", [], 0, 0.0),
]


@pytest.mark.promise(
    "Tasks",
    "Answers' exact match and F1 are SQuAD's (with no answer too) and CMRC 2018's; the best threshold "
    "is the best of all",
)
@pytest.mark.parametrize(("prediction", "right", "exact", "f1"), SQUAD)
def test_known_answers_have_the_official_figures(
    prediction: str, right: list[str], exact: int, f1: float
) -> None:
    assert spans.score_answer(prediction, right, "squad") == (exact, pytest.approx(f1))


def test_figures_are_those_of_torchmetrics() -> None:
    squad = pytest.importorskip("torchmetrics.functional.text").squad
    draw = random.Random(0)
    predictions = [" ".join(draw.choices(WORDS, k=draw.randint(1, 4))) + " word" for _ in range(400)]
    right = [
        [" ".join(draw.choices(WORDS, k=draw.randint(1, 4))) + " word" for _ in range(draw.randint(1, 3))]
        for _ in predictions
    ]
    right = [[*item, predictions[n]] if n % 5 == 0 else item for n, item in enumerate(right)]
    theirs = squad(
        [{"prediction_text": text, "id": str(n)} for n, text in enumerate(predictions)],
        [
            {"answers": {"text": item, "answer_start": [0] * len(item)}, "id": str(n)}
            for n, item in enumerate(right)
        ],
    )
    ours = spans.answer_scores(predictions, right, "squad")
    assert 100 * ours["f1"]["value"] == pytest.approx(float(theirs["f1"]), abs=1e-3)
    assert 100 * ours["exact_match"]["value"] == pytest.approx(float(theirs["exact_match"]), abs=1e-3)
    assert 20 < 100 * ours["exact_match"]["value"] < 50 < 100 * ours["f1"]["value"]


CMRC = [  # exact and F1 by hand from the definition: characters, other scripts by word, marks taken out
    ("光荣和ω-force", ["光荣和ω-force"], 1, 1.0),
    ("《战国无双3》", ["战国无双 3"], 0, 1.0),
    ("1998年8月5日", ["8月5日"], 0, 2 * 4 / (6 + 4)),
    ("甲乙丙丁", ["丙丁甲乙", "乙"], 0, 0.5),
    ("Hawkswell剧院", ["hawkswell 剧院。"], 0, 1.0),
    ("在“北京”，", ["在北京"], 1, 1.0),
    ("天", ["地"], 0, 0.0),
    ("", [], 1, 1.0),
]


@pytest.mark.parametrize(("prediction", "right", "exact", "f1"), CMRC)
def test_chinese_answers_have_the_figures_of_cmrc(
    prediction: str, right: list[str], exact: int, f1: float
) -> None:
    assert spans.score_answer(prediction, right, "cmrc2018") == (exact, pytest.approx(f1))


def test_the_longest_run_is_difflibs() -> None:
    draw = random.Random(0)
    for _ in range(300):
        first, second = ("".join(draw.choices("abc", k=draw.randint(0, 12))) for _ in range(2))
        match = SequenceMatcher(None, first, second, autojunk=False).find_longest_match()
        assert spans.longest_common(first, second) == match.size


def test_the_measure_follows_the_script() -> None:
    assert spans.answer_style(["A fox lives at the edge of a wood."]) == "squad"
    assert spans.answer_style(["狐狸住在树林边上，早上到河边喝水。The fox."]) == "cmrc2018"


def test_no_answer_has_figures_of_its_own() -> None:
    result = spans.answer_scores(["cat", "", "dog", ""], [["cat"], [], [], ["fox"]], "squad")
    assert [
        result[name]["value"] for name in ("f1", "exact_match", "no_answer_accuracy", "f1_with_answer")
    ] == [0.5] * 4
    assert [result[name]["n"] for name in ("f1", "no_answer_accuracy", "f1_with_answer")] == [4, 2, 2]
    assert "no_answer_accuracy" not in spans.answer_scores(["cat"], [["cat"]], "squad")


def test_the_best_threshold_is_the_best_of_all() -> None:
    draw = np.random.default_rng(0)
    for n in (1, 2, 30):
        f1, known, margins = draw.random(n), draw.random(n) < 0.6, draw.normal(size=n)
        f1 = f1 * known
        every = [np.where(margins <= cut, f1, ~known).mean() for cut in [*margins, -np.inf]]
        value, threshold = spans.best_threshold(f1, known, margins)
        assert value == pytest.approx(max(every))
        assert np.where(margins <= threshold, f1, ~known).mean() == pytest.approx(value)

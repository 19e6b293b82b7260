"""Figures of extractive question answering: exact match and F1, intervals by bootstrap over questions.

Where words are set apart by blanks as SQuAD measures (Rajpurkar et al. 2016; without an answer: Rajpurkar, Jia and
Liang 2018): words in common, without case, marks and articles. Else as CMRC 2018 does (Cui et al. 2019): the longest
run of characters in common, without marks. Of several right answers the one that fits best counts.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textus.metrics.resampling import estimate

BLANKS = 0.05
"""Share of blanks in a text whose words are set apart by them."""

_MARKS = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_CMRC_MARKS = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_UNITS = re.compile(r"[\u4e00-\u9fa5]|[^\W\u4e00-\u9fa5]+|[^\w\s]")

Floats = NDArray[np.float64]


def squad_form(text: str) -> str:
    """An answer as SQuAD compares it."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_MARKS)).split())


def squad_f1(prediction: str, gold: str) -> float:
    """Words in common, as often as both have them; without any word on one side, whether the other has none."""
    said, right = squad_form(prediction).split(), squad_form(gold).split()
    if not said or not right:
        return float(said == right)
    both = (Counter(said) & Counter(right)).total()
    return 2 * both / (len(said) + len(right))


def cmrc_form(text: str) -> str:
    """An answer as CMRC 2018 compares it: in small letters, without Chinese marks and some others."""
    return text.lower().strip().translate(_CMRC_MARKS)


def cmrc_f1(prediction: str, gold: str) -> float:
    """The longest run in common of Chinese characters and other scripts' words and marks."""
    said, right = (_UNITS.findall(cmrc_form(each)) for each in (prediction, gold))
    if not said or not right:
        return float(said == right)
    return 2 * longest_common(said, right) / (len(said) + len(right))


def longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest run that stands in both."""
    best, before = 0, [0] * (len(second) + 1)
    for each in first:
        now = [0] * (len(second) + 1)
        for place, other in enumerate(second, 1):
            if each == other:
                now[place] = before[place - 1] + 1
        best, before = max(best, *now), now
    return best


ANSWER_STYLES: dict[str, tuple[Callable[[str], str], Callable[[str, str], float]]] = {
    "squad": (squad_form, squad_f1),
    "cmrc2018": (cmrc_form, cmrc_f1),
}
"""Name → what makes answers comparable, and their F1."""


def answer_style(contexts: Sequence[str]) -> str:
    """Which of `RULERS` measures answers out of these texts."""
    blanks = sum(text.count(" ") for text in contexts)
    return "squad" if blanks > BLANKS * sum(map(len, contexts)) else "cmrc2018"


def score_answer(prediction: str, golds: Sequence[str], ruler: str) -> tuple[float, float]:
    """(exact match, F1) of one answer; no `golds`: there is none, and the right answer is empty."""
    form, f1 = ANSWER_STYLES[ruler]
    able = [each for each in golds if form(each)] or [""]
    said = form(prediction)
    return float(any(said == form(each) for each in able)), max(f1(prediction, each) for each in able)


def answer_scores(
    predictions: Sequence[str],
    golds: Sequence[Sequence[str]],
    ruler: str,
    *,
    seed: int = 0,
    intervals: bool = True,
) -> dict[str, Any]:
    """F1 and exact match of each question's answer; where some have none, of both kinds of question too."""
    pairs = zip(predictions, golds, strict=True)
    exact, f1 = np.asarray([score_answer(said, right, ruler) for said, right in pairs]).T
    how: dict[str, Any] = {"seed": seed, "intervals": intervals}
    found = {"f1": estimate(f1, **how), "exact_match": estimate(exact, **how)}
    known = np.asarray([bool(right) for right in golds])
    if not known.all():
        found |= {"no_answer_accuracy": estimate(exact[~known], **how)}
        if known.any():
            found |= {"f1_with_answer": estimate(f1[known], **how)}
    return {**found, "ruler": ruler}


def best_threshold(spans_f1: Floats, answerable: NDArray[np.bool_], margins: Floats) -> tuple[float, float]:
    """(F1, threshold): the best F1 that answering only where the margin of "no answer" over the best span is at most
    the threshold can have. All (N,): the F1 of the best span, whether there is an answer, and the margin.
    """
    order = np.argsort(margins, kind="stable")
    gains = np.where(answerable, spans_f1, -1.0)[order]
    totals = (~answerable).sum() + np.concatenate([[0.0], gains.cumsum()])
    place = int(totals.argmax())
    threshold = margins[order[place - 1]] if place else margins.min() - 1.0
    return float(totals[place] / len(margins)), float(threshold)

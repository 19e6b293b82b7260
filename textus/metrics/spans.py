"""Metrics of extractive question answering: exact match and F1, with intervals by bootstrap over questions.

Text with spaces between words is scored as in SQuAD (Rajpurkar et al. 2016; unanswerable questions: Rajpurkar, Jia and
Liang 2018): common words, ignoring case, punctuation and articles. Other text as in CMRC 2018 (Cui et al. 2019): the
longest common run of characters, ignoring punctuation. Of several gold answers the best match counts.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textus.core.scripts import HAN_CMRC
from textus.metrics.resampling import estimate

BLANKS = 0.05
"""Share of spaces in a text above which they separate words."""

_MARKS = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_CMRC_MARKS = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_UNITS = re.compile(rf"[{HAN_CMRC}]|[^\W{HAN_CMRC}]+|[^\w\s]")

Floats = NDArray[np.float64]


def squad_form(text: str) -> str:
    """An answer as SQuAD normalizes it."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_MARKS)).split())


def squad_f1(prediction: str, gold: str) -> float:
    """F1 of common words with their counts; if one side has no words, 1 if both have none, else 0."""
    words, gold_words = squad_form(prediction).split(), squad_form(gold).split()
    if not words or not gold_words:
        return float(words == gold_words)
    return 2 * (Counter(words) & Counter(gold_words)).total() / (len(words) + len(gold_words))


def cmrc_form(text: str) -> str:
    """An answer as CMRC 2018 normalizes it: lower case, without Chinese and some other punctuation."""
    return text.lower().strip().translate(_CMRC_MARKS)


def cmrc_f1(prediction: str, gold: str) -> float:
    """F1 of the longest common run of Chinese characters, words of other scripts, and marks."""
    units, gold_units = (_UNITS.findall(cmrc_form(text)) for text in (prediction, gold))
    if not units or not gold_units:
        return float(units == gold_units)
    return 2 * longest_common(units, gold_units) / (len(units) + len(gold_units))


def longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest run that is part of both."""
    best, previous = 0, [0] * (len(second) + 1)
    for item in first:
        current = [0] * (len(second) + 1)
        for place, other in enumerate(second, 1):
            if item == other:
                current[place] = previous[place - 1] + 1
        best, previous = max(best, *current), current
    return best


ANSWER_STYLES: dict[str, tuple[Callable[[str], str], Callable[[str, str], float]]] = {
    "squad": (squad_form, squad_f1),
    "cmrc2018": (cmrc_form, cmrc_f1),
}
"""Name → normalization of answers, and their F1."""


def answer_style(contexts: Sequence[str]) -> str:
    """Which of `ANSWER_STYLES` fits answers from these texts."""
    spaces = sum(text.count(" ") for text in contexts)
    return "squad" if spaces > BLANKS * sum(map(len, contexts)) else "cmrc2018"


def score_answer(prediction: str, golds: Sequence[str], style: str) -> tuple[float, float]:
    """(exact match, F1) of one answer; without `golds` the correct answer is empty."""
    normalize, f1 = ANSWER_STYLES[style]
    golds = [gold for gold in golds if normalize(gold)] or [""]
    answer = normalize(prediction)
    exact = any(answer == normalize(gold) for gold in golds)
    return float(exact), max(f1(prediction, gold) for gold in golds)


def answer_scores(
    predictions: Sequence[str],
    golds: Sequence[Sequence[str]],
    style: str,
    *,
    seed: int = 0,
    intervals: bool = True,
) -> dict[str, Any]:
    """F1 and exact match over questions; if some are unanswerable, also over both kinds of questions."""
    pairs = zip(predictions, golds, strict=True)
    exact, f1 = np.asarray([score_answer(*pair, style) for pair in pairs]).T
    options: dict[str, Any] = {"seed": seed, "intervals": intervals}
    scores: dict[str, Any] = {"f1": estimate(f1, **options), "exact_match": estimate(exact, **options)}
    answerable = np.asarray([bool(gold) for gold in golds])
    if not answerable.all():
        scores["no_answer_accuracy"] = estimate(exact[~answerable], **options)
        if answerable.any():
            scores["f1_with_answer"] = estimate(f1[answerable], **options)
    return {**scores, "metric_style": style}


def best_threshold(spans_f1: Floats, answerable: NDArray[np.bool_], margins: Floats) -> tuple[float, float]:
    """(F1, threshold): the best F1 of predicting an answer only if the margin of "no answer" over the best span is at
    most the threshold. All (N,): the F1 of the best span, whether there is an answer, and the margin.
    """
    order = np.argsort(margins, kind="stable")
    gains = np.where(answerable, spans_f1, -1.0)[order]
    totals = (~answerable).sum() + np.concatenate([[0.0], gains.cumsum()])
    place = int(totals.argmax())
    threshold = margins[order[place - 1]] if place else margins.min() - 1.0
    return float(totals[place] / len(margins)), float(threshold)

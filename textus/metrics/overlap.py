"""How near generated texts are to references: BLEU by `sacrebleu`, ROUGE by `rouge-score`, chrF.

Papineni et al. 2002 (BLEU), Post 2018 (sacrebleu), Popović 2015 (chrF), Lin 2004 (ROUGE). Chinese is scored by
character: BLEU with sacrebleu's `zh` tokenization, ROUGE with each character a word. All values are between 0 and 100
as these libraries' users know them, ROUGE between 0 and 1.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textus.core.names import import_optional
from textus.core.scripts import HAN
from textus.metrics.resampling import Floats, estimate, interval

ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
"""Name in results → name in `rouge-score`."""
ORDER = 6
"""Longest n-grams of characters of chrF."""
WORD = re.compile(rf"[{HAN}]|[^\W_{HAN}]+")
"""A Chinese character, or a word of another script."""


def is_chinese(texts: Sequence[str]) -> bool:
    """Whether at least a third of the letters are Chinese characters."""
    whole = "".join(texts[:2000])
    letters = len(re.findall(r"\w", whole))
    return letters > 0 and len(re.findall(f"[{HAN}]", whole)) > letters / 3


# ── BLEU and chrF ──────────────────────────────────────────────────────────────────────────────


def bleu_counts(outputs: Sequence[str], references: Sequence[str], *, chinese: bool) -> NDArray[np.int64]:
    """What BLEU is computed from, for each text (N, 10): matching n-grams and n-grams of length 1 to 4, length of the
    output and of the reference, in tokens.
    """
    metrics = import_optional("sacrebleu.metrics", "metrics")
    metric = metrics.BLEU(tokenize="zh" if chinese else "13a", effective_order=True)
    rows = []
    for output, reference in zip(outputs, references, strict=True):
        score = metric.sentence_score(output, [reference])
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    return np.asarray(rows, dtype=np.int64).reshape(-1, 10)


def bleu_of(counts: NDArray[Any]) -> float:
    """Corpus BLEU, 0 to 100, of the sums (10,) of `bleu_counts`."""
    metrics = import_optional("sacrebleu.metrics", "metrics")
    correct, total = [int(n) for n in counts[:4]], [int(n) for n in counts[4:8]]
    score = metrics.BLEU.compute_bleu(
        correct, total, int(counts[8]), int(counts[9]), smooth_method="exp", effective_order=False
    )
    return float(score.score)


def bleu(outputs: Sequence[str], references: Sequence[str], *, intervals: bool = True) -> dict[str, float]:
    """Corpus BLEU with its 95 % interval over resampled texts: {"value", "low", "high", "n"}."""
    counts = bleu_counts(outputs, references, chinese=is_chinese(references))
    return resampled(lambda weights: bleu_of(np.rint(weights @ counts)), len(counts), intervals=intervals)


def chrf(outputs: Sequence[str], references: Sequence[str], *, intervals: bool = True) -> dict[str, float]:
    """Corpus chrF2 (Popović 2015; characters up to 6, no words) with its 95 % interval over resampled texts, 0 to 100.
    sacrebleu's own resampling fails on some texts, so this is computed here and compared with its score in a test.
    """
    counts = np.asarray(list(map(chrf_counts, outputs, references)), dtype=np.float64).reshape(-1, ORDER, 3)
    flat = counts.reshape(len(counts), -1)
    return resampled(lambda weights: chrf_of(weights @ flat), len(flat), intervals=intervals)


def chrf_counts(output: str, reference: str) -> list[tuple[int, int, int]]:
    """Of each length of n-grams of characters: those of the output (where the reference has any), of the reference, and
    those in common.
    """
    texts = ["".join(text.split()) for text in (output, reference)]
    rows = []
    for n in range(1, ORDER + 1):
        own, other = (Counter(text[at : at + n] for at in range(len(text) - n + 1)) for text in texts)
        rows.append((own.total() if other else 0, other.total(), (own & other).total()))
    return rows


def chrf_of(sums: Floats) -> float:
    """chrF2, 0 to 100, of the sums (3 · 6,) of `chrf_counts`: precision and recall are means over the lengths that both
    texts have.
    """
    rows = [row for row in sums.reshape(ORDER, 3) if row[0] > 0 and row[1] > 0]
    if not rows:
        return 0.0
    precision = sum(match / own for own, _, match in rows) / len(rows)
    recall = sum(match / other for _, other, match in rows) / len(rows)
    return float(100 * 5 * precision * recall / (4 * precision + recall)) if precision + recall else 0.0


def resampled(
    value_of: Callable[[Floats], float], n: int, *, intervals: bool, resamples: int = 300
) -> dict[str, float]:
    """A figure of weights of texts (N,), all 1, with its 95 % percentile interval over resampled texts."""
    whole = value_of(np.ones(n))
    if not intervals or n < 2:
        return {"value": whole, "n": n}
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(n, np.full(n, 1.0 / n), size=resamples).astype(np.float64)
    low, high = np.quantile([value_of(weights) for weights in drawn], [0.025, 0.975])
    return interval((whole, float(low), float(high)), n)


# ── ROUGE ──────────────────────────────────────────────────────────────────────────────────────


class CharacterTokenizer:
    """For `rouge-score`: Chinese characters and words of other scripts, in lower case."""

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text."""
        return WORD.findall(text.lower())


class WordTokenizer:
    """For `rouge-score`: Chinese words by `jieba`, words of other scripts in lower case."""

    def __init__(self) -> None:
        jieba = import_optional("jieba", "text")
        jieba.setLogLevel("ERROR")
        self.cut = jieba.lcut

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text, punctuation left out."""
        return [word for word in self.cut(text.lower()) if WORD.match(word)]


def rouge_scores(
    outputs: Sequence[str], references: Sequence[str], *, words: bool = False
) -> dict[str, Floats]:
    """ROUGE-1, -2 and -L F1 of each text, 0 to 1: name → (N,). English words are stemmed (Porter), as in most papers;
    Chinese is taken by character, or with `words` by word.
    """
    scorer = import_optional("rouge_score.rouge_scorer", "metrics")
    tokenizer: Any = None
    if is_chinese(references):
        tokenizer = WordTokenizer() if words else CharacterTokenizer()
    rouge = scorer.RougeScorer(list(ROUGE.values()), use_stemmer=tokenizer is None, tokenizer=tokenizer)
    scores = [rouge.score(reference, output) for output, reference in zip(outputs, references, strict=True)]
    return {
        name: np.asarray([score[key].fmeasure for score in scores], dtype=np.float64)
        for name, key in ROUGE.items()
    }


def rouge(
    outputs: Sequence[str], references: Sequence[str], *, intervals: bool = True
) -> dict[str, dict[str, float]]:
    """Mean ROUGE-1, -2 and -L F1 with intervals over texts; of Chinese also `rouge_l_words`, with `jieba` installed."""
    scores = rouge_scores(outputs, references)
    result = {name: estimate(values, intervals=intervals) for name, values in scores.items()}
    if intervals and is_chinese(references) and has_jieba():
        result["rouge_l_words"] = estimate(rouge_scores(outputs, references, words=True)["rouge_l"])
    return result


def has_jieba() -> bool:
    """Whether Chinese words can be found."""
    from importlib.util import find_spec

    return find_spec("jieba") is not None

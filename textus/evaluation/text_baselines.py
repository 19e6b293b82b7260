"""Texts that a model of pairs has to beat: parts of the source, and a word-by-word translation.

Sources: Brown et al. 1993 (IBM model 1), Mihalcea and Tarau 2004 (TextRank).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from statistics import median

import numpy as np

from textus.core.scripts import HAN
from textus.data.sentences import split_sentences
from textus.tasks.base import has_blanks

WORD = re.compile(rf"[{HAN}]|[^\W_{HAN}]+|[^\w\s]")
ROUNDS = 5
"""Rounds of expectation maximization of the phrase table."""
DAMPING = 0.85


def words(text: str) -> list[str]:
    """Words, Chinese characters and marks, in lower case."""
    return WORD.findall(text.lower())


# ── summaries ──────────────────────────────────────────────────────────────────────────────────


def usual_length(targets: Sequence[str]) -> int:
    """Sentences of a target, in the middle of all."""
    return max(1, round(median(len(split_sentences(target)) for target in targets))) if targets else 1


def lead(source: str, n: int) -> str:
    """The first `n` sentences."""
    return " ".join(split_sentences(source)[:n])


def textrank(source: str, n: int) -> str:
    """The `n` sentences that share most words with the others, in their order: the stationary distribution of a walk
    over sentences, whose steps have the weight of shared words over the logarithms of both lengths.
    """
    parts = split_sentences(source)
    if len(parts) <= n:
        return " ".join(parts)
    bags = [Counter(words(part)) for part in parts]
    sizes = [sum(bag.values()) for bag in bags]
    weights = np.zeros((len(parts), len(parts)))
    for row, one in enumerate(bags):
        for column, other in enumerate(bags[:row]):
            scale = np.log(sizes[row] + 1) + np.log(sizes[column] + 1)
            weights[row, column] = weights[column, row] = len(one.keys() & other.keys()) / scale
    totals = weights.sum(1, keepdims=True)
    steps = np.divide(weights, totals, out=np.full_like(weights, 1 / len(parts)), where=totals > 0)
    rank = np.full(len(parts), 1 / len(parts))
    for _ in range(50):
        rank = (1 - DAMPING) / len(parts) + DAMPING * rank @ steps
    chosen = sorted(np.argsort(-rank, kind="stable")[:n].tolist())
    return " ".join(parts[place] for place in chosen)


# ── translation ────────────────────────────────────────────────────────────────────────────────


class PhraseTable:
    """Word → its most probable translation, by IBM model 1 on pairs of texts. Words that were never seen stay."""

    def __init__(self, sources: Sequence[str], targets: Sequence[str]) -> None:
        pairs = [(words(source), words(target)) for source, target in zip(sources, targets, strict=True)]
        self.spaced = has_blanks(targets)
        names: dict[tuple[str, str], int] = {}
        cells, groups, n_groups = list[int](), list[int](), 0
        for source, target in pairs:
            for word in target:
                cells += [names.setdefault((other, word), len(names)) for other in source]
                groups += [n_groups] * len(source)
                n_groups += bool(source)
        self.best = self._fit(names, np.asarray(cells), np.asarray(groups))

    def _fit(
        self, names: dict[tuple[str, str], int], cells: np.ndarray, groups: np.ndarray
    ) -> dict[str, str]:
        if not names:
            return {}
        numbers: dict[str, int] = {}
        source_of = np.asarray([numbers.setdefault(source, len(numbers)) for source, _ in names])
        table: np.ndarray = np.ones(len(names))
        for _ in range(ROUNDS):
            mass: np.ndarray = table[cells]
            mass = mass / np.bincount(groups, mass)[groups]
            table = np.bincount(cells, mass, len(names))
            table = table / np.bincount(source_of, table)[source_of]
        best: dict[str, tuple[float, str]] = {}
        for (source, target), probability in zip(names, table.tolist(), strict=True):
            if probability > best.get(source, (0.0, ""))[0]:
                best[source] = probability, target
        return {source: target for source, (_, target) in best.items()}

    def translate(self, source: str) -> str:
        """Each word by its most probable translation, in the order of the source."""
        translated = [self.best.get(word, word) for word in words(source)]
        if not self.spaced:
            return "".join(translated)
        return re.sub(r" ([.,;:!?])", r"\1", " ".join(translated))


def text_baselines(
    goal: str, sources: Sequence[str], train: Sequence[tuple[str, str]]
) -> dict[str, list[str]]:
    """Name → a text for each source: copies, the first sentences and TextRank for summaries, a phrase table made of the
    training pairs for translations.
    """
    outputs: dict[str, list[str]] = {}
    if goal == "summarize":
        n = usual_length([target for _, target in train])
        outputs[f"lead-{n}"] = [lead(source, n) for source in sources]
        outputs["TextRank"] = [textrank(source, n) for source in sources]
    elif train:
        table = PhraseTable([source for source, _ in train], [target for _, target in train])
        outputs["phrase table"] = [table.translate(source) for source in sources]
    return outputs

"""A supervised part-of-speech tagger: a second-order hidden Markov model whose states are pairs of tags.

Source: Brants, "TnT – A Statistical Part-of-Speech Tagger" (2000): trigrams of tags with deleted
interpolation, and unknown words tagged by their suffixes with successive abstraction. Here a known word is only the
longest ending of all: its own counts are smoothed by those of its last letters, theirs by fewer letters, and
so on down to the word's shape, by the number of different tags seen at each (Witten & Bell 1991). So a
word seen once keeps the tags that its ending would give it, and known and unknown words need no two rules.

Tables are logs, in nats. Shapes: K tags, and one more, `K`, for the positions before and after a sentence.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textus.core.errors import DataError, UsageError

Array = NDArray[np.float64]
Tagged = tuple[Sequence[str], Sequence[str]]

LONGEST = 8
"""Letters of the longest ending."""

RARE = 10
"""Suffixes are counted in words seen at most this often: unknown words resemble those."""

CACHE_SIZE = 20_000
"""Words whose probabilities are kept while tagging, for they come again."""


def word_shape(word: str) -> str:
    """What a word looks like: its digits, capitals and marks, runs of one kind taken together."""
    kinds = ["d" if c.isdigit() else "A" if c.isupper() else "a" if c.isalpha() else c for c in word]
    return "".join(kind for i, kind in enumerate(kinds) if i == 0 or kind != kinds[i - 1])


def suffixes(word: str) -> Iterator[str]:
    """The keys under which a word is looked up, the most general first: its shape, then longer endings.

    Whether it begins with a capital or a digit is part of the key: endings mean something else on names.
    """
    look = word_shape(word)
    yield look
    kind, lower = look[:1] if look[:1] in ("A", "d") else "a", word.lower()
    for n in range(1, min(LONGEST, len(word)) + 1):
        yield f"{kind}-{lower[-n:]}"


class HMMTagger:
    """Learns from sentences whose words have tags, by `fit`; then tags sentences. Any names are tags."""

    def __init__(self) -> None:
        self.tags: list[str] = []
        self._words: dict[str, dict[int, int]] = {}  # how often each word had each tag
        self._endings: dict[str, dict[int, int]] = {}  # the same of endings of rare words
        self._grams: dict[tuple[int, ...], int] = {}  # how often tags followed each other, lengths 1 to 3
        self._transition: Array = np.zeros((0, 0, 0))  # (K + 1, K + 1, K + 1) log p(third | first, second)
        self._prior: Array = np.zeros(0)  # (K,) p(tag)
        self._kept: dict[tuple[str, bool], tuple[NDArray[np.int64], Array]] = {}

    # learning

    def fit(self, sentences: Iterable[Tagged]) -> HMMTagger:
        """Count sentences, each its words and as many tags. DataError: none at all, or lengths that differ."""
        words: dict[str, Counter[str]] = defaultdict(Counter)
        rows: list[list[str]] = []
        for place, (text, tags) in enumerate(sentences):
            if len(text) != len(tags):
                raise DataError(
                    "size_mismatch",
                    f"sentence {place} has {len(text)} words and {len(tags)} tags; give one each",
                )
            rows.append(list(tags))
            for word, tag in zip(text, tags, strict=True):
                words[word][tag] += 1
        self.tags = sorted({tag for row in rows for tag in row})
        if not self.tags:
            raise DataError(
                "empty_data", "there is no tagged word to learn from; give sentences of words and their tags"
            )
        number = {tag: i for i, tag in enumerate(self.tags)}
        self._words = {w: {number[t]: n for t, n in counts.items()} for w, counts in words.items()}
        self._grams = count_grams([[number[tag] for tag in row] for row in rows if row], len(self.tags))
        self._prepare()
        return self

    def _prepare(self) -> None:
        """All that follows from the counts."""
        rare: dict[str, Counter[int]] = defaultdict(Counter)
        for word, counts in self._words.items():
            if sum(counts.values()) <= RARE:
                for key in suffixes(word):
                    rare[key].update(counts)
        self._endings = {key: dict(counts) for key, counts in rare.items()}
        self._transition = np.log(interpolate(self._grams, len(self.tags)))
        total = np.array([self._grams.get((tag,), 0) for tag in range(len(self.tags))], dtype=float)
        self._prior = total / total.sum()
        self._kept = {}

    # using

    def tag(self, words: Sequence[str]) -> list[str]:
        """The likeliest tags of a sentence (Viterbi over pairs of tags). UsageError before `fit`."""
        if not self.tags:
            raise UsageError("not_fitted", "this tagger is not fitted; call fit first, or from_dict")
        if not words:
            return []
        edge = np.array([len(self.tags)])
        looked_up = [self.candidates(word, place == 0) for place, word in enumerate(words)]
        options = [edge, edge, *(tags for tags, _ in looked_up), edge]
        emitted = [*(logs for _, logs in looked_up), np.zeros(1)]
        best, back = np.zeros((1, 1)), []  # (tags before the last, tags of the last)
        for place, logs in enumerate(emitted):
            first, second, third = options[place : place + 3]
            scores = best[:, :, None] + self._transition[first[:, None, None], second[:, None], third]
            back.append(scores.argmax(0))
            best = scores.max(0) + logs
        here, after = int(best[:, 0].argmax()), 0
        path = []
        for place in range(len(words), 0, -1):
            path.append(self.tags[options[place + 1][here]])
            here, after = int(back[place][here, after]), here
        return path[::-1]

    def candidates(self, word: str, opens: bool = False) -> tuple[NDArray[np.int64], Array]:
        """The tags a word may have, and log p(word | tag) less a constant of the word (by Bayes' rule).

        Tags less likely than a thousandth part of the likeliest are left out. `opens`: the word
        begins a sentence, where its capital means little, so the small word's tags count too.
        """
        entry = self._kept.get((word, opens))
        if entry is None:
            share = self.share(word)
            small = word[:1].lower() + word[1:]
            if opens and small != word:
                known, known_small = (sum(self._words.get(form, {}).values()) for form in (word, small))
                weight = (known_small + 0.5) / (known + known_small + 1)
                share = (1 - weight) * share + weight * self.share(small)
            tags = np.flatnonzero(share >= 1e-3 * share.max())
            entry = tags, np.log(share[tags]) - np.log(self._prior[tags])
            if len(self._kept) < CACHE_SIZE:
                self._kept[word, opens] = entry
        return entry

    def share(self, word: str) -> Array:
        """p(tag | word) (K,), from the most general ending up to the word itself."""
        share = self._prior
        for key in suffixes(word):
            counts = self._endings.get(key)
            if counts:
                share = smooth(counts, share)
        known = self._words.get(word)
        return smooth(known, share) if known else share

    # keeping

    def to_dict(self) -> dict[str, Any]:
        """All counts as JSON values."""
        return {
            "tags": self.tags,
            "words": {w: [[t, n] for t, n in counts.items()] for w, counts in self._words.items()},
            "grams": [[*gram, count] for gram, count in self._grams.items()],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> HMMTagger:
        """The tagger that `to_dict` was called on. DataError for counts of other tags than it lists."""
        tagger = cls()
        try:
            tagger.tags = list(data["tags"])
            tagger._words = {w: {int(t): int(n) for t, n in counts} for w, counts in data["words"].items()}
            tagger._grams = {tuple(map(int, gram)): int(count) for *gram, count in data["grams"]}
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                "damaged", f"these are not the counts of a tagger ({error!r}); make them with to_dict"
            ) from error
        numbers = {t for counts in tagger._words.values() for t in counts} | {*chain(*tagger._grams)}
        edge = len(tagger.tags)  # which only grams have
        if not numbers or not numbers <= {*range(edge + 1)}:
            raise DataError(
                "damaged", f"the counts are not those of the {edge} tags listed; make them anew with to_dict"
            )
        tagger._prepare()
        return tagger


def smooth(counts: dict[int, int], below: Array) -> Array:
    """Shares from counts, and from `below` as if it had been seen as often as there are different tags."""
    kinds = len(counts)
    total = sum(counts.values()) + kinds
    share = below * (kinds / total)
    for tag, count in counts.items():
        share[tag] += count / total
    return share


# ── tags after tags ────────────────────────────────────────────────────────────────────────────


def count_grams(rows: list[list[int]], edge: int) -> dict[tuple[int, ...], int]:
    """How often tags follow each other, in lengths 1 to 3; `edge` pads a row with two before and one after.

    A gram is counted at its last tag, so `edge` before a row is only ever context.
    """
    grams: Counter[tuple[int, ...]] = Counter()
    for row in rows:
        whole = [edge, edge, *row, edge]
        for end in range(2, len(whole)):
            for n in (1, 2, 3):
                grams[tuple(whole[end - n + 1 : end + 1])] += 1
    return dict(grams)


def interpolate(grams: dict[tuple[int, ...], int], edge: int) -> Array:
    """p(third | first, second) (K + 1, K + 1, K + 1) as a mixture of trigram, bigram and unigram shares.

    The weights are found by deleted interpolation: each trigram votes, as often as it was seen, for the
    length that predicts it best from all the others (Brants 2000, figure 1). A tenth of one count is spread
    over all tags, so nothing is impossible.
    """
    size = edge + 1
    tables = [np.zeros((size,) * n) for n in (1, 2, 3)]
    for gram, count in grams.items():
        tables[len(gram) - 1][gram] = count
    votes = np.full(3, 1e-6)
    for gram, count in grams.items():
        if len(gram) == 3:
            ends = [tables[n][gram[2 - n :]] - 1 for n in range(3)]
            befores = [tables[n][gram[2 - n : 2]].sum() - 1 for n in range(3)]
            shares = [e / b if b > 0 else 0.0 for e, b in zip(ends, befores, strict=True)]
            votes[int(np.argmax(shares))] += count
    votes /= votes.sum()
    unigram, bigram, trigram = (fractions(table) for table in tables)
    mixture = votes[2] * trigram + votes[1] * bigram + votes[0] * unigram
    mixture += 0.1 / max(1, len(grams)) / size
    return np.asarray(mixture / mixture.sum(2, keepdims=True))


def fractions(table: Array) -> Array:
    """Counts as shares along the last axis; none where nothing was counted."""
    total = table.sum(-1, keepdims=True)
    return np.asarray(table / np.where(total > 0, total, 1))

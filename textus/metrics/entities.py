"""Entities from tags and back, and entity metrics equal to `seqeval` and the conlleval script.

A tag is `O`, or a prefix and a type such as `B-PER`. An entity starts at B or S, after O, after E or S, and where the
type changes; otherwise it continues (Tjong Kim Sang and De Meulder 2003). This one rule reads BIO, IOB1 and BIOES; an I
without a B before it starts an entity.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from textus.metrics.resampling import estimate

Span = tuple[str, int, int]
"""Type, first token, token after the last."""
Labelled = tuple[str, Hashable, Hashable]
"""A span, or a relation with its head and tail."""

PREFIXES = frozenset("BIESLUM")
"""BILOU's L and U count as E and S, the M of BMES as I."""
_SAME = {"L": "E", "U": "S", "M": "I"}


def is_entity_tag(tag: str) -> bool:
    """Whether a tag is O or has a prefix; others are plain, such as parts of speech."""
    return tag == "O" or (len(tag) > 2 and tag[0] in PREFIXES and tag[1] == "-")


def entity_spans(tags: Sequence[str]) -> list[Span]:
    """The entities of a sentence, in order."""
    entities: list[Span] = []
    previous, start, kind = "O", 0, ""
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        prefix = _SAME.get(prefix, prefix)
        starts = prefix in ("B", "S") or previous in ("O", "E", "S") or name != kind
        if previous != "O" and (prefix == "O" or starts):
            entities.append((kind, start, place))
        if prefix != "O" and starts:
            start = place
        previous, kind = prefix, name
    return entities


def bio_tags(entities: Sequence[Span], length: int) -> list[str]:
    """The tags of a sentence: B on an entity's first token, I on the others, O elsewhere."""
    tags = ["O"] * length
    for kind, start, end in entities:
        tags[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return tags


def scheme_counts(sentences: Sequence[Sequence[str]]) -> tuple[int, int]:
    """(entities that start without B or S, entities whose B could have been an I), over all sentences. The second is 0
    in IOB1, the first in valid BIO.
    """
    bare = marked = 0
    for tags in sentences:
        for kind, start, _ in entity_spans(tags):
            if tags[start][0] not in "BSU":
                bare += 1
            elif tags[start][0] == "B" and (not start or tags[start - 1].partition("-")[2] != kind):
                marked += 1
    return bare, marked


def entity_scores(
    gold: Sequence[Sequence[Labelled]],
    guess: Sequence[Sequence[Labelled]],
    *,
    seed: int = 0,
    intervals: bool = True,
) -> dict[str, Any]:
    """Micro F1, precision and recall with intervals by bootstrap over sentences; macro F1 and each type's metrics.

    An entity is correct if its type, first and last token are; a relation if its type, head and tail are. 0 where there
    is nothing to find.
    """
    correct = np.asarray([len(set(a) & set(b)) for a, b in zip(gold, guess, strict=True)], dtype=np.float64)
    n_gold, n_guess = (np.asarray([len(row) for row in rows], dtype=np.float64) for rows in (gold, guess))
    ratios = {
        "f1": (2 * correct, n_gold + n_guess),
        "precision": (correct, n_guess),
        "recall": (correct, n_gold),
    }
    scores: dict[str, Any] = {
        name: estimate(top, bottom if bottom.any() else None, seed=seed, intervals=intervals)
        for name, (top, bottom) in ratios.items()
    }
    classes = type_scores(gold, guess)
    macro_f1 = float(np.mean([row["f1"] for row in classes])) if classes else 0.0
    return {**scores, "macro_f1": macro_f1, "classes": classes}


def type_scores(
    gold: Sequence[Sequence[Labelled]], guess: Sequence[Sequence[Labelled]]
) -> list[dict[str, Any]]:
    """Precision, recall, F1 and number of gold entities of each type in gold labels or predictions."""
    hit, real, called = Counter[str](), Counter[str](), Counter[str]()
    for a, b in zip(gold, guess, strict=True):
        hit.update(kind for kind, _, _ in set(a) & set(b))
        real.update(kind for kind, _, _ in a)
        called.update(kind for kind, _, _ in b)
    return [
        {
            "label": kind, "precision": hit[kind] / max(1, called[kind]), "recall": hit[kind] / max(1, real[kind]),
            "f1": 2 * hit[kind] / (called[kind] + real[kind]), "n": real[kind],
        }
        for kind in sorted(real | called)
    ]  # fmt: skip


def token_scores(
    gold: Sequence[Sequence[str]],
    guess: Sequence[Sequence[str]],
    *,
    seed: int = 0,
    intervals: bool = True,
) -> dict[str, Any]:
    """Accuracy over tokens with an interval by bootstrap over sentences, macro F1, and each tag's metrics."""
    correct = [sum(a == b for a, b in zip(*pair, strict=True)) for pair in zip(gold, guess, strict=True)]
    spans = [[[(tag, i, i + 1) for i, tag in enumerate(row)] for row in rows] for rows in (gold, guess)]
    classes = type_scores(*spans)
    return {
        "accuracy": estimate(correct, [len(row) for row in gold], seed=seed, intervals=intervals),
        "tokens": sum(map(len, gold)),
        "macro_f1": float(np.mean([row["f1"] for row in classes])),
        "classes": classes,
    }

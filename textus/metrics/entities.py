"""Entities out of tags and back, and how well they are found: equal to `seqeval` and to the conlleval script.

A tag is `O`, or a prefix and a type such as `B-PER`. An entity begins at B or S, after O, after E or S, and where the
type changes; it goes on otherwise (Tjong Kim Sang and De Meulder 2003). So one rule reads BIO, IOB1 and BIOES, and an
I that no B comes before begins an entity.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from textus.metrics.resampling import estimate

Span = tuple[str, int, int]
"""Type, first token, and the token after the last."""
Labelled = tuple[str, Hashable, Hashable]
"""A span, or whatever else has a type and two parts, such as a triple's head and tail."""

PREFIXES = frozenset("BIESLUM")
"""BILOU's L and U are E and S, the M of BMES is I."""
_SAME = {"L": "E", "U": "S", "M": "I"}


def is_entity_tag(tag: str) -> bool:
    """Whether a tag is O or has a prefix: others are plain, such as parts of speech."""
    return tag == "O" or (len(tag) > 2 and tag[0] in PREFIXES and tag[1] == "-")


def entity_spans(tags: Sequence[str]) -> list[Span]:
    """The entities of a sentence, in order."""
    found: list[Span] = []
    before, begun, kind = "O", 0, ""
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        prefix = _SAME.get(prefix, prefix)
        new = prefix in ("B", "S") or before in ("O", "E", "S") or name != kind
        if before != "O" and (prefix == "O" or new):
            found.append((kind, begun, place))
        if prefix != "O" and new:
            begun = place
        before, kind = prefix, name
    return found


def bio_tags(entities: Sequence[Span], length: int) -> list[str]:
    """The tags of a sentence: B on an entity's first token, I on the others, O elsewhere."""
    tags = ["O"] * length
    for kind, start, end in entities:
        tags[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return tags


def scheme_counts(sentences: Sequence[Sequence[str]]) -> tuple[int, int]:
    """How many entities of all sentences begin without B or S, and how many have a B where I would have begun one as
    well. In IOB1 there are none of the second kind, in right BIO none of the first.
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
    """Micro F1, precision and recall with intervals by bootstrap over sentences; macro F1 and each type's figures.

    An entity is right where its type, its first and its last token are; a triple where its relation, its head and its
    tail are. 0 where nothing is there to be found.
    """
    right = np.asarray([len(set(a) & set(b)) for a, b in zip(gold, guess, strict=True)], dtype=np.float64)
    real, called = (np.asarray([len(each) for each in part], dtype=np.float64) for part in (gold, guess))
    ratios = {"f1": (2 * right, real + called), "precision": (right, called), "recall": (right, real)}
    found: dict[str, Any] = {
        name: estimate(top, bottom if bottom.any() else None, seed=seed, intervals=intervals)
        for name, (top, bottom) in ratios.items()
    }
    classes = type_scores(gold, guess)
    found["macro_f1"] = float(np.mean([each["f1"] for each in classes])) if classes else 0.0
    found["classes"] = classes
    return found


def type_scores(
    gold: Sequence[Sequence[Labelled]], guess: Sequence[Sequence[Labelled]]
) -> list[dict[str, Any]]:
    """Precision, recall, F1 and number of each type that is there or was answered."""
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
    """Accuracy over tokens with its interval over sentences, macro F1, and each tag's figures."""
    right = [sum(a == b for a, b in zip(*pair, strict=True)) for pair in zip(gold, guess, strict=True)]
    flat = [[(tag, place, place + 1) for place, tag in enumerate(tags)] for tags in gold]
    answered = [[(tag, place, place + 1) for place, tag in enumerate(tags)] for tags in guess]
    classes = type_scores(flat, answered)
    return {
        "accuracy": estimate(right, [len(each) for each in gold], seed=seed, intervals=intervals),
        "tokens": sum(map(len, gold)),
        "macro_f1": float(np.mean([each["f1"] for each in classes])),
        "classes": classes,
    }

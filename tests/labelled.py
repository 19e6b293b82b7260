"""Labelled rows that tests write."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

WORDS = [
    "the",
    "film",
    "was",
    "a",
    "long",
    "story",
    "of",
    "two",
    "men",
    "in",
    "one",
    "town",
    "they",
    "all",
    "saw",
]
"""Words that tell nothing."""


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as a file of JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def reviews(n: int = 60) -> list[dict[str, Any]]:
    """Rows of a text and a label that a linear model learns, with ids."""
    return [
        {"id": f"r{i}", "text": f"film {i} was {'good' if i % 2 else 'bad'}, all in all", "label": i % 2}
        for i in range(n)
    ]


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a .csv or .tsv, by the columns of its header."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


PEOPLE, TOWNS = ("Anna", "Bob", "Chen", "Dana"), ("Bonn", "Oslo", "Rome", "York")
FACTS = (
    ("person", "lives in", "place", [("lives in", 0, 1)]),
    ("place", "never saw", "person", []),
    ("person", "is a child of", "person", [("child of", 0, 1)]),
    ("person", "has a child named", "person", [("child of", 1, 0)]),
)
"""Type, words, type, and what holds: in the last two the direction is in the words alone."""


def facts(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of one or two facts each, with entities and relations."""
    draw, rows = random.Random(seed), []
    for _ in range(n):
        text, entities, relations = "", [], []
        for one, words, other, held in draw.choices(FACTS, k=draw.randint(1, 2)):
            first = len(entities)
            for kind, before in ((one, ""), (other, words + " ")):
                name = draw.choice(PEOPLE if kind == "person" else TOWNS)
                text += (" " if text else "") + before + name
                entities.append({"start": len(text) - len(name), "end": len(text), "label": kind})
            text += " ."
            relations += [
                {"head": first + head, "relation": name, "tail": first + tail} for name, head, tail in held
            ]
        rows.append({"text": text, "entities": entities, "relations": relations})
    return rows


def facts_in(folder: Path) -> Path:
    """A folder with `facts` to learn from and others to test with."""
    written(folder / "train.jsonl", facts(240))
    written(folder / "test.jsonl", facts(60, seed=1))
    return folder

"""Labelled rows that tests write."""

from __future__ import annotations

import json
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

"""What a tokenizer is worth on a text: how far it compresses, what it does not know, and what of words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from textus.core.errors import DataError
from textus.core.scripts import HAN
from textus.tokenizers.tokenizer import Tokenizer

SCRIPTS = {
    "latin": re.compile(r"[A-Za-z\u00c0-\u024f]+"),
    "han": re.compile(f"[{HAN}]"),
    "other": re.compile(rf"[^\W\d_A-Za-z\u00c0-\u024f{HAN}]+"),
}
"""What a word is in each script; Chinese is counted by the character."""


def report(tokenizer: Tokenizer, corpus_texts: Iterable[str], *, limit: int = 4_000_000) -> dict[str, Any]:
    """Figures of a tokenizer on the first `limit` characters of some texts.

    `coverage` is the share of bytes not lost to <unk>; `fertility` is tokens a word by script (Chinese: tokens a
    character; None where the text has none); `unused` counts ids that never came.

    Raises DataError: the texts are empty.
    """
    texts = _first_chars(corpus_texts, limit)
    counts: Counter[int] = Counter()
    unknown = 0
    for text in texts:
        ids = tokenizer.encode(text)
        counts.update(ids)
        if tokenizer.unk_id is not None and tokenizer.unk_id in counts:
            unknown += sum(tokenizer.unknown_bytes(text, ids))
    characters, size = sum(map(len, texts)), sum(len(text.encode()) for text in texts)
    tokens = counts.total()
    if tokens == 0:
        raise DataError(
            "empty_data", "there is no text to report on; give a corpus with at least one document"
        )
    ordinary = set(range(tokenizer.vocab_size)) - set(tokenizer.special.values())
    return {
        "kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "characters": characters,
        "bytes": size,
        "tokens": tokens,
        "bytes_per_token": size / tokens,
        "characters_per_token": characters / tokens,
        "coverage": 1 - unknown / size,
        "fertility": {name: _fertility(tokenizer, texts, name) for name in SCRIPTS},
        "longest_tokens": _longest_tokens(tokenizer, ordinary),
        "unused": len(ordinary - set(counts)),
        "unused_share": len(ordinary - set(counts)) / max(1, len(ordinary)),
    }


def _first_chars(texts: Iterable[str], limit: int) -> list[str]:
    taken: list[str] = []
    for text in texts:
        taken.append(text[:limit])
        limit -= len(text)
        if limit <= 0:
            break
    return taken


def _fertility(tokenizer: Tokenizer, texts: Sequence[str], script: str) -> float | None:
    """Tokens per word, or for Chinese per character of a run; words with a blank before them."""
    if script == "han":
        runs = Counter(run for text in texts for run in re.findall(f"[{HAN}]+", text))
        words = {run: count * len(run) for run, count in runs.items()}
        before = ""
    else:
        runs = Counter(match for text in texts for match in SCRIPTS[script].findall(text))
        words, before = dict(runs), " "
    if not words:
        return None
    blank = tokenizer.encode(before) if before else []
    rows = tokenizer.encode_batch([before + word for word in words])
    # a blank that is a token of its own is not the word's
    apart = 0 if tokenizer.unk_id in blank else len(blank)
    lengths = [len(row) - (apart if len(row) > apart and row[:apart] == blank else 0) for row in rows]
    return sum(n * runs[word] for n, word in zip(lengths, words, strict=True)) / sum(words.values())


def _longest_tokens(tokenizer: Tokenizer, ordinary: set[int], n: int = 20) -> list[str]:
    """The tokens with most bytes, as text."""
    table = tokenizer.vocabulary
    ordered = sorted(ordinary, key=lambda number: (-len(table[number]), table[number]))
    return [table[number].decode("utf-8", errors="replace") for number in ordered[:n]]

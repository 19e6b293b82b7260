"""The sentences of a text, in English and Chinese."""

from __future__ import annotations

import re

SENTENCE = re.compile(
    r"[^.!?。！？；\n]+(?:[.!?](?![\s\"'”’」』）)])[^.!?。！？；\n]*)*[.!?。！？；]*[\"'”’」』）)]*(?:\s*\[\d+\])*\s*"
)
"""A period within a number or a name ends none; a citation such as [1] belongs to the sentence before it."""
ABBREVIATION = re.compile(r"(?:\b[A-Z]|\b(?:Mr|Mrs|Ms|Dr|St|Jr|No|vs|ca|etc|e\.g|i\.e))\.\s*$")


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """The sentences of a text, stripped, in characters; a period after an initial or "Dr" ends none."""
    spans: list[tuple[int, int]] = []
    is_open = False
    for match in SENTENCE.finditer(text):
        begin = spans.pop()[0] if is_open and spans[-1][1] == match.start() else match.start()
        spans.append((begin, match.end()))
        is_open = bool(ABBREVIATION.search(match[0]))
    stripped = []
    for begin, end in spans:
        part = text[begin:end]
        begin += len(part) - len(part.lstrip())
        if part.strip():
            stripped.append((begin, begin + len(part.strip())))
    return stripped


def split_sentences(text: str) -> list[str]:
    """The sentences of a text; a text without any is one."""
    return [text[begin:end] for begin, end in sentence_spans(text)] or [text.strip()]

"""A labelled row taken apart into words, so that they can be changed while its labels stay right.

A text is a list of units: a word, a mark, or a whole labelled stretch, which is held together and never changed in
its words. Put together again, every label is where its words went.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from textus.core.errors import DataError
from textus.core.names import import_optional
from textus.core.scripts import HAN_BMP

RowValues = dict[str, Any]

TEXT_FIELDS = (
    "text",
    "text_pair",
    "sentence1",
    "sentence2",
    "premise",
    "hypothesis",
    "question",
    "sentence",
    "context",
    "negative",
)
"""Fields of a row that are read and may be changed."""
SPAN_FIELDS = ("entities", "spans", "label", "labels")
"""Fields that may hold labelled stretches of `text`: a list of {start, end, …} or [start, end, …] in characters, the
end not included; or {class: {words: [[start, end]]}}, whose ends may be included: the words decide.
"""
MARK = re.compile(r"[^\W_]+(?:['’‘`´＇-][^\W_]+)*|[^\w\s]+|_+")
RUN = re.compile(f"[{HAN_BMP}]+|[^{HAN_BMP}\\s]+")


@dataclass(frozen=True)
class WordToken:
    """A piece of a text and the blanks behind it. `is_labelled`: it has a label; `start`: its offset."""

    text: str
    trailing_space: str = ""
    is_labelled: bool = False
    start: int = -1
    tag: Any = None

    @property
    def is_editable(self) -> bool:
        """Whether it may be changed: letters or digits, and no label."""
        return not self.is_labelled and self.text[:1].isalnum()


Tokens = list[WordToken]
Change = Callable[[Tokens], Tokens | None]
"""Makes other units of a text, or None where it cannot change anything."""


def starts_with_han(text: str) -> bool:
    """Whether a text begins with a Chinese character."""
    return re.match(f"[{HAN_BMP}]", text) is not None


@cache
def word_segmenter() -> Callable[[str], list[str]]:
    """Chinese into words, by jieba's dictionary."""
    jieba = import_optional("jieba", "text")
    jieba.setLogLevel("ERROR")
    segmenter = jieba.Tokenizer()
    return lambda text: list(segmenter.cut(text, HMM=False))


def iter_words(text: str) -> Iterator[tuple[int, str]]:
    """Words and marks of a text with their places; Chinese is cut by a dictionary."""
    for run in RUN.finditer(text):
        if starts_with_han(run[0]):
            at = run.start()
            for word in word_segmenter()(run[0]):
                yield at, word
                at += len(word)
        else:
            yield from ((run.start() + match.start(), match[0]) for match in MARK.finditer(run[0]))


def tokenize_text(text: str, spans: list[tuple[int, int]]) -> Tokens:
    """A text as units; what the spans touch is held, those that overlap in one unit. An empty unit comes first
    where the text begins with blanks.
    """
    blocks: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if blocks and start < blocks[-1][1]:
            blocks[-1] = blocks[-1][0], max(end, blocks[-1][1])
        else:
            blocks.append((start, end))
    places = [(start, text[start:end], True) for start, end in blocks]
    outside, at = [], 0
    for start, end in [*blocks, (len(text), len(text))]:
        outside += [(at + place, word, False) for place, word in iter_words(text[at:start])]
        at = end
    places = sorted([*places, *outside])
    if not places or places[0][0]:
        places.insert(0, (0, "", False))
    ends = [place for place, _, _ in places[1:]] + [len(text)]
    return [
        WordToken(word, text[start + len(word) : end], held, start)
        for (start, word, held), end in zip(places, ends, strict=True)
    ]


def detokenize(units: Tokens) -> tuple[str, dict[int, int]]:
    """The text of units, and where each held one now begins, by where it began."""
    text, moved = "", {}
    for unit in units:
        if unit.is_labelled:
            moved[unit.start] = len(text)
        text += unit.text + unit.trailing_space
    return text, moved


# ── rows ───────────────────────────────────────────────────────────────────────────────────────


@dataclass
class TokenizedRecord:
    """A row taken apart: its fields as units, and its spans as (field, start, end)."""

    values: RowValues
    fields: dict[str, Tokens] = field(default_factory=dict)
    spans: list[tuple[str, int, int]] = field(default_factory=list)

    def with_tokens(self, name: str, units: Tokens, row: RowValues) -> RowValues:
        """`row`, which is this one or has other fields of it changed, with other units in one field, every label moved
        along.
        """
        if name == "tokens":
            return {**row, "tokens": [u.text for u in units], "tags": [u.tag for u in units]}
        text, moved = detokenize(units)
        begins = [unit.start for unit in self.fields[name] if unit.is_labelled]

        def place(offset: int) -> int:
            block = max(begin for begin in begins if begin <= offset)
            return moved[block] + offset - block

        return {**move_labels(row, name, text, place), name: text}


def tokenize_record(values: RowValues, where: str = "the row") -> TokenizedRecord:
    """A row as units. Raises DataError for one without a text, or with a label outside of it."""
    taken = TokenizedRecord(values)
    if isinstance(tokens := values.get("tokens"), list):
        tags = values.get("tags")
        if not isinstance(tags, list) or len(tags) != len(tokens):
            raise DataError(
                "invalid_row", f"{where}: {len(tokens)} tokens need as many tags; the row has {tags!r:.80}"
            )
        taken.fields["tokens"] = [
            WordToken(str(token), "" if starts_with_han(str(token)) else " ", is_labelled=tag != "O", tag=tag)
            for token, tag in zip(tokens, tags, strict=True)
        ]
        return taken
    fields = [name for name in TEXT_FIELDS if isinstance(values.get(name), str)]
    if not fields:
        shown = ", ".join(map(repr, list(values)[:30]))
        raise DataError(
            "column_not_found",
            f"{where} has neither a text nor tokens; it has {shown}: name a column with --columns",
        )
    taken.spans = list(record_spans(values, where))
    for name in fields:
        taken.fields[name] = tokenize_text(
            values[name], [span[1:] for span in taken.spans if span[0] == name]
        )
    return taken


def record_spans(values: RowValues, where: str) -> Iterator[tuple[str, int, int]]:
    """(field, start, end) of every label that is a stretch of text; DataError for one outside of its text."""
    spans: list[tuple[str, Any, Any]] = []
    for name in SPAN_FIELDS:
        if has_spans(value := values.get(name)):
            try:
                spans += [
                    ("text", start, end) for start, end in span_offsets(value, values.get("text") or "")
                ]
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise DataError(
                    "invalid_row",
                    f"{where}: {name!r} is {str(value)[:80]}; wanted a list of {{start, end, label}}, or"
                    f" {{label: {{words: [[start, end]]}}}} ({error!r})",
                ) from error
    spans += [("context", at, at + len(answer)) for answer, at in answer_spans(values, where) if at >= 0]
    for name, start, end in spans:
        text = values.get(name)
        if not isinstance(text, str) or not 0 <= start <= end <= len(text):
            raise DataError(
                "invalid_span", f"{where}: the label from {start} to {end} is outside of {name!r}"
            )
        if start < end:
            yield name, start, end


def answer_spans(values: RowValues, where: str) -> list[tuple[str, int]]:
    """The answers of a question and where they are in its context: at the given offset or the nearest with that text; a
    negative place is of an answer in other words. DataError for one that is nowhere.
    """
    given, context = values.get("answers") or [], values.get("context") or ""
    if isinstance(given, dict):
        answers = list(zip(given.get("text") or [], given.get("answer_start") or [], strict=False))
    else:
        answers = [(answer["text"], answer.get("start", answer.get("answer_start", -1))) for answer in given]
    spans = []
    for text, at in answers:
        places = (
            [match.start() for match in re.finditer(f"(?={re.escape(text)})", context)] if at >= 0 else [at]
        )
        if not places:
            raise DataError(
                "invalid_span",
                f"{where}: the answer {text!r} is not in its context; mend the row, or leave it out",
            )
        spans.append((text, min(places, key=lambda place: abs(place - at))))
    return spans


def has_spans(value: Any) -> bool:
    """Whether a field holds stretches of text: not a class, nor a list of classes."""
    return isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(v, dict | list) for v in value)
    )


def span_offsets(value: Any, text: str) -> Iterator[tuple[int, int]]:
    """Where the stretches of a field begin and end, the end not included."""
    if isinstance(value, dict):
        for words, places in ((words, places) for group in value.values() for words, places in group.items()):
            for start, end in places:
                yield start, end + (text[start : end + 1] == words)
        return
    for span in value:
        yield (span["start"], span["end"]) if isinstance(span, dict) else tuple(span[:2])


def move_labels(values: RowValues, name: str, text: str, place: Callable[[int], int]) -> RowValues:
    """The row's labels in the new `text` of the field `name`; `place` maps the old offset of a label to the new one."""
    result = dict(values)

    def stretch(start: int, end: int) -> tuple[int, int]:
        return (place(start), place(start) + end - start) if start < end else (0, 0)

    if name == "text":
        for key in SPAN_FIELDS:
            if isinstance(value := values.get(key), dict):
                result[key] = {
                    kind: group_spans(
                        text, [stretch(*span) for span in span_offsets({kind: words}, values["text"])]
                    )
                    for kind, words in value.items()
                }
            elif isinstance(value, list) and has_spans(value):
                result[key] = [move_span(span, stretch, text) for span in value]
    if name == "context" and "answers" in values:
        moved = [
            (
                answer_text if at < 0 else text[place(at) : place(at) + len(answer_text)],
                at if at < 0 else place(at),
            )
            for answer_text, at in answer_spans(values, "the row")
        ]
        if isinstance(answers := values["answers"], dict):
            texts, starts = [answer_text for answer_text, _ in moved], [at for _, at in moved]
            result["answers"] = {**answers, "text": texts, "answer_start": starts}
        else:
            keys = ["start" if "start" in answer else "answer_start" for answer in answers]
            pairs = zip(answers, keys, moved, strict=True)
            result["answers"] = [
                {**answer, "text": answer_text, key: at} for answer, key, (answer_text, at) in pairs
            ]
    return result


def move_span(span: Any, stretch: Callable[[int, int], tuple[int, int]], text: str) -> Any:
    """One labelled stretch in its new place; its own copy of the words, if it has one, is kept equal to them."""
    if not isinstance(span, dict):
        return [*stretch(*span[:2]), *span[2:]]
    start, end = stretch(span["start"], span["end"])
    return {**span, "start": start, "end": end, **({"text": text[start:end]} if "text" in span else {})}


def group_spans(text: str, places: list[tuple[int, int]]) -> dict[str, list[list[int]]]:
    """CLUENER's form of spans: by their text, both ends included."""
    groups: dict[str, list[list[int]]] = {}
    for start, end in places:
        groups.setdefault(text[start:end], []).append([start, end - 1])
    return groups


def remove_token(units: Tokens, place: int) -> Tokens:
    """Units without one of them; its neighbours are not joined where blanks were."""
    rest = units[:place] + units[place + 1 :]
    if place and len(units[place].trailing_space) < len(units[place - 1].trailing_space):
        rest[place - 1] = replace(units[place - 1], trailing_space=units[place].trailing_space)
    return rest


def is_between_labels(units: Tokens, place: int) -> bool:
    """Whether both neighbours of a unit have labels, which would run into one without it."""
    return 0 < place < len(units) - 1 and units[place - 1].is_labelled and units[place + 1].is_labelled

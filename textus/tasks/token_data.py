"""Rows for tagging: a text cut into tokens with their offsets, and the tags of its tokens.

A token is one as in a treebank (`token`), a run of letters and digits or a single sign (`word`), or a character other
than a blank (`character`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from textus.core.errors import DataError
from textus.core.scripts import HAN
from textus.data.labeled import Record
from textus.metrics.entities import Span, bio_tags, is_entity_tag
from textus.tasks.base import Example, list_fields

_LETTER = rf"(?:(?![{HAN}])\w)"
UNITS = {
    "token": re.compile(
        rf"[{HAN}]|(?:[^\W\d_]\.){{2,}}|['’]{_LETTER}+|{_LETTER}+(?:[-.,:/&@]{_LETTER}+)*|(\.{{3}}|--|``|'')|[^\w\s]"
    ),
    "word": re.compile(rf"[{HAN}]|{_LETTER}+|[^\w\s]"),
    "character": re.compile(r"\S"),
}
"""How a text is cut. `token` keeps U.S., 1996-08-22, 6-3 and 's whole."""
ENTITY_FIELDS = ("entities", "spans", "label", "labels")


@dataclass(frozen=True)
class TaggingExample(Example):
    """An example whose texts are its tokens, each with the blank before it that the unit has; its label is their tags.
    `places` are the offsets of the tokens in `text`; where rows have only `tokens`, `text` is these joined.
    """

    text: str = ""
    places: tuple[tuple[int, int], ...] = ()
    has_tokens: bool = False
    n_dropped: int = 0
    """Entities that overlap longer ones: a token has one tag."""


def segmentation_unit(records: Sequence[Record]) -> str:
    """How texts like these are cut: by character where blanks are rare, else as their rows are."""
    tokens = [token for record in records for token in record.values.get("tokens") or ()]
    if tokens:
        return "character" if sum(map(len, map(str, tokens))) < 1.5 * len(tokens) else "token"
    text = "".join(str(record.values.get("text", "")) for record in records)
    return "word" if text.count(" ") > 0.05 * len(text) else "character"


def token_spans(text: str, unit: str) -> list[tuple[int, int]]:
    """The offsets of the tokens of a text."""
    return [match.span() for match in UNITS[unit].finditer(text)]


def read_row_text(record: Record, needed: str, *fields: str) -> str:
    """The text of a row. Raises DataError where it is missing, with what is `needed` and the further `fields` whose
    columns may have to be named.
    """
    text = record.values.get("text")
    if isinstance(text, str):
        return text
    problem = f"has {list_fields(record)}"
    if text is not None:
        problem = f"has a text that is {type(text).__name__} ({text!r})"
    columns = ",".join(f"{name}=COLUMN" for name in ("text", *fields))
    raise DataError(
        "column_not_found",
        f"{record.where} {problem}; it needs {needed}: name the columns, such as --columns {columns}",
    )


def parse_tagging_example(record: Record, unit: str, *, labelled: bool) -> TaggingExample:
    """A row as an example. Raises DataError for an invalid row."""
    if record.values.get("tokens") is not None:
        return from_tokens(record, unit, labelled=labelled)
    text = read_row_text(record, "tokens and tags, or text and entities", "entities")
    places = token_spans(text, unit)
    example = from_spans(text, places, unit, record.where)
    if not labelled:
        return example
    held, dropped = drop_overlaps(read_entities(record, text))
    tags = bio_tags([span_to_tokens(entity, places, record.where, text) for entity in held], len(places))
    return replace(example, label=tuple(tags), n_dropped=dropped)


def from_spans(text: str, places: Sequence[tuple[int, int]], unit: str, where: str) -> TaggingExample:
    """A text cut at these places, without tags."""
    blank = "" if unit == "character" else " "
    words = tuple(blank + text[start:end] for start, end in places)
    return TaggingExample(words, None, where, text=text, places=tuple(places))


def from_tokens(record: Record, unit: str, *, labelled: bool) -> TaggingExample:
    """A row of tokens, whose text is these joined by blanks (characters: by nothing)."""
    tokens = read_strings(record, "tokens")
    blank = "" if unit == "character" else " "
    places, at = [], 0
    for token in tokens:
        places.append((at, at + len(token)))
        at += len(token) + len(blank)
    tags = None
    if labelled:
        tags = tuple(read_strings(record, "tags"))
        if len(tags) != len(tokens):
            raise DataError(
                "invalid_row",
                f"{record.where} has {len(tokens)} tokens and {len(tags)} tags; give one for each token",
            )
    example = from_spans(blank.join(tokens), places, unit, record.where)
    return replace(example, label=tags, has_tokens=True)


def read_strings(record: Record, name: str) -> list[str]:
    """A field that is a list of non-empty strings."""
    value = record.values.get(name)
    if not isinstance(value, list):
        problem = f"has no {name!r}" if value is None else f"{name!r} is {type(value).__name__}, not a list"
        raise DataError(
            "invalid_row",
            f"{record.where}: {problem}; give a list of strings, or name its column: --columns {name}=COLUMN",
        )
    for number, item in enumerate(value):
        if not isinstance(item, str) or not item.strip():
            hint = "; names of tags are wanted, not their numbers" if name == "tags" else ""
            raise DataError(
                "invalid_row", f"{record.where}: {name}[{number}] is {item!r}, not a non-empty string{hint}"
            )
    return value


# ── tags in other spellings ────────────────────────────────────────────────────────────────────

BEFORE = re.compile(r"(?P<prefix>[BIESLUMbieslum])(?P<sign>[-_:./|])(?P<kind>.+)")
AFTER = re.compile(r"(?P<kind>.+)(?P<sign>[-_:./|])(?P<prefix>[BIESLUMbieslum])")
MOSTLY = 0.9
"""If this share of a file's tags other than O are of entities, one without a prefix is a mistake."""


def count_tags(records: Sequence[Record]) -> Counter[str]:
    """The tags of rows of tokens, those that are strings."""
    lists = [record.values["tags"] for record in records if isinstance(record.values.get("tags"), list)]
    return Counter(tag for tags in lists for tag in tags if isinstance(tag, str) and tag.strip())


def bio_spellings(counts: Counter[str]) -> dict[str, str]:
    """Tag → its form as B-PER, where nearly all tags but O have one other form (B_PER, b-per, PER-B), and some begin an
    entity; empty for other tags.
    """
    if all(map(is_entity_tag, counts)):
        return {}
    inside = {tag: n for tag, n in counts.items() if tag.upper() != "O"}
    for form in (BEFORE, AFTER):
        parts = [part for tag in inside if (part := form.fullmatch(tag))]
        ways = {(part["sign"], part["prefix"].isupper()) for part in parts}
        begins = any(part["prefix"].upper() in "BSU" for part in parts)
        share = sum(inside[part[0]] for part in parts) / max(1, sum(inside.values()))
        if len(ways) == 1 and begins and share >= MOSTLY:
            usual = {part[0]: f"{part['prefix'].upper()}-{part['kind']}" for part in parts}
            return usual | {tag: "O" for tag in counts if tag.upper() == "O"}
    return {}


def has_entities(counts: Counter[str]) -> bool:
    """Whether nearly all tags but O are those of entities, so that others are mistakes."""
    inside = {tag: n for tag, n in counts.items() if tag != "O"}
    marked = sum(n for tag, n in inside.items() if is_entity_tag(tag))
    return marked > 0 and marked >= MOSTLY * sum(inside.values())


def check_entity_tags(example: TaggingExample) -> None:
    """Raises DataError for a tag without a prefix, in a file of entities."""
    for place, tag in enumerate(example.label or ()):
        if not is_entity_tag(tag):
            start, end = example.places[place]
            raise DataError(
                "invalid_row",
                f"{example.where}: token {place + 1}, {example.text[start:end]!r}, has the tag {tag!r} without a"
                " prefix, while the file's others are O or like B-PER and I-PER; correct the tag, or delete the line if"
                " it is a header or a comment",
            )


# ── entities by character ──────────────────────────────────────────────────────────────────────


def entity_field(values: dict[str, Any]) -> str | None:
    """The field of a row that has its entities; None where there is no such field."""
    return next((name for name in ENTITY_FIELDS if values.get(name) is not None), None)


def read_entities(record: Record, text: str) -> list[Span]:
    """The entities of a text in either form, in characters, the end not included."""
    if (name := entity_field(record.values)) is None:
        raise DataError(
            "column_not_found",
            f"{record.where} has no 'entities'; it has {list_fields(record)}: name its column with --columns"
            " entities=COLUMN, and give an empty list where a text has none",
        )
    value = record.values[name]
    try:
        entities = list(parse_cluener(value, text) if isinstance(value, dict) else map(parse_entity, value))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise DataError(
            "invalid_row",
            f"{record.where}: {name!r} is {str(value)[:200]}; wanted a list of {{start, end, label}}, or"
            f" {{label: {{mention: [[start, end]]}}}} ({error!r})",
        ) from error
    for kind, start, end, mention in entities:
        if not 0 <= start < end <= len(text):
            raise DataError(
                "invalid_span",
                f"{record.where}: the {kind} at {start} to {end} is not in its text of {len(text)} characters"
                f" ({text[:80]!r})",
            )
        if mention is not None and text[start:end] != mention:
            raise DataError(
                "invalid_span",
                f"{record.where}: the {kind} {mention!r} is not the text at {start} to {end},"
                f" {text[start:end]!r}; correct start and end",
            )
    return [(kind, start, end) for kind, start, end, _ in entities]


def parse_entity(entity: Any) -> tuple[str, int, int, str | None]:
    """One entity of a list: {"start", "end", "label"}, with its `text` if given, or [start, end, label]."""
    if isinstance(entity, dict):
        mention = entity.get("text")
        start, end, kind = entity["start"], entity["end"], entity.get("label", entity.get("type"))
    else:
        (start, end, kind), mention = entity, None
    return check_entity(kind, start, end, mention)


def check_entity(kind: Any, start: Any, end: Any, mention: Any) -> tuple[str, int, int, str | None]:
    """An entity whose values have the right types; ValueError otherwise."""
    numbers = type(start) is int and type(end) is int
    named = isinstance(kind, str) and kind.strip()
    if not (numbers and named and isinstance(mention, str | None)):
        raise ValueError(f"start {start!r}, end {end!r}, label {kind!r}")
    return kind.strip(), start, end, mention


def parse_cluener(value: dict[str, Any], text: str) -> list[tuple[str, int, int, str | None]]:
    """CLUENER's {type: {mention: [[start, end]]}}; the mention shows whether the end is included."""
    entities = []
    for kind, mentions in value.items():
        for mention, places in mentions.items():
            for start, end in places:
                kind, start, end, mention = check_entity(kind, start, end, mention)
                included = end < len(text) and text[start : end + 1] == mention
                entities.append((kind, start, end + included, mention))
    return entities


def drop_overlaps(entities: Sequence[Span]) -> tuple[list[Span], int]:
    """The entities that overlap no longer one, in order, and how many were left out."""
    kept: list[Span] = []
    by_length = sorted(set(entities), key=lambda entity: (entity[1] - entity[2], entity[1], entity[0]))
    for kind, start, end in by_length:
        if all(end <= other or start >= beyond for _, other, beyond in kept):
            kept.append((kind, start, end))
    return sorted(kept, key=lambda entity: entity[1]), len(entities) - len(kept)


def span_to_tokens(entity: Span, places: Sequence[tuple[int, int]], where: str, text: str) -> Span:
    """The first token of an entity, and the one after its last. Raises DataError where it cuts a token."""
    kind, start, end = entity
    inside = [n for n, (first, last) in enumerate(places) if first < end and last > start]
    if not inside:
        raise DataError(
            "invalid_span",
            f"{where}: the {kind} at {start} to {end} holds no token, only {text[start:end]!r}",
        )
    first, last = places[inside[0]][0], places[inside[-1]][1]
    if first < start or last > end:
        raise DataError(
            "invalid_span",
            f"{where}: the {kind} {text[start:end]!r} at {start} to {end} cuts the token {text[first:last]!r}; correct"
            " start and end, or read by character: --set task.unit=character",
        )
    return kind, inside[0], inside[-1] + 1

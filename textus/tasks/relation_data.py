"""Rows for relations: a text, its entities, and the relations between them.

Three forms are read: `text`, `entities` [{start, end, label}] and `relations` [{head, relation, tail}], whose head and
tail are indices of entities; TACRED (Zhang et al. 2017: `token`, a marked subject and object, `relation`), with the
marked pair as the only one; DuIE (Li et al. 2019: `text`, `spo_list`), whose mentions are the first in the text.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from textus.core.errors import DataError
from textus.data.labeled import Record
from textus.metrics.entities import Span
from textus.tasks.base import Example
from textus.tasks.token_data import check_entity, read_entities, read_row_text

Triple = tuple[str, int, int]
"""Relation, and the indices of its head and tail in the list of entities."""


@dataclass(frozen=True)
class RelationExample(Example):
    """An example whose one text has `entities` (type, start, end, in characters); its label is their distinct triples.
    `marked_pairs`: the pairs to score (None: any); `n_lost`: triples whose mentions are not in the text.
    """

    entities: tuple[Span, ...] = ()
    marked_pairs: tuple[tuple[int, int], ...] | None = None
    n_lost: int = 0

    @property
    def text(self) -> str:
        """The text of its entities."""
        return self.texts[0]

    def entity(self, number: int) -> dict[str, Any]:
        """One entity as JSON values."""
        label, start, end = self.entities[number]
        return {"text": self.text[start:end], "label": label, "start": start, "end": end}


def parse_relation_example(record: Record, *, labelled: bool) -> RelationExample:
    """A row as an example. Raises DataError for an invalid row."""
    if "subj_start" in record.values:
        return from_tacred(record, labelled=labelled)
    text = read_row_text(record, "text, entities and relations", "entities", "relations")
    if "spo_list" in record.values:
        return from_duie(record, text)
    entities = read_entities(record, text)
    triples = read_triples(record, len(entities)) if labelled else None
    return RelationExample((text,), triples, record.where, entities=tuple(entities))


def read_triples(record: Record, n_entities: int) -> tuple[Triple, ...]:
    """The relations of a row, checked against its number of entities."""
    value = record.values.get("relations")
    if not isinstance(value, list):
        problem = "has no 'relations'" if value is None else f"has relations that are {type(value).__name__}"
        raise DataError(
            "invalid_row",
            f"{record.where} {problem}; give a list of {{head, relation, tail}}, empty for no relation, or name its"
            " column with --columns relations=COLUMN",
        )
    triples: dict[Triple, None] = {}
    for item in value:
        try:
            head, name, tail = item["head"], item["relation"], item["tail"]
        except (KeyError, TypeError) as error:
            raise DataError(
                "invalid_row",
                f"{record.where}: the relation {str(item)[:200]} is not {{head, relation, tail}} ({error!r})",
            ) from error
        for role, place in (("head", head), ("tail", tail)):
            if type(place) is not int or not 0 <= place < n_entities:
                raise DataError(
                    "invalid_row",
                    f"{record.where}: the {role} of {name!r} is {place!r}, not the index of one of its {n_entities}"
                    " entities, counted from 0",
                )
        triples[make_triple(name, head, tail, record.where)] = None
    return tuple(triples)


def make_triple(name: Any, head: int, tail: int, where: str) -> Triple:
    """A triple. DataError for an empty name, or an entity that is related to itself."""
    if not isinstance(name, str) or not name.strip():
        raise DataError("invalid_row", f"{where}: the relation of {head} and {tail} is {name!r}, not a name")
    if head == tail:
        raise DataError(
            "invalid_row",
            f"{where}: {name!r} relates entity {head} with itself; a relation has two entities, correct the row",
        )
    return name.strip(), head, tail


def from_tacred(record: Record, *, labelled: bool) -> RelationExample:
    """TACRED's form: tokens, of which subject and object are marked, both ends included."""
    values, where = record.values, record.where
    tokens = values.get("token", values.get("tokens"))
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise DataError("invalid_row", f"{where}: 'token' is {str(tokens)[:80]}, not a list of strings")
    starts = list(accumulate((len(token) + 1 for token in tokens), initial=0))
    entities = []
    for role in ("subj", "obj"):
        first, last = values.get(f"{role}_start"), values.get(f"{role}_end")
        try:
            kind, first, last, _ = check_entity(values.get(f"{role}_type"), first, last, None)
        except ValueError as error:
            raise DataError(
                "invalid_row", f"{where}: {role}_type, {role}_start and {role}_end: {error}"
            ) from error
        if not 0 <= first <= last < len(tokens):
            raise DataError(
                "invalid_span",
                f"{where}: {role}_start {first} and {role}_end {last} are not in its {len(tokens)} tokens",
            )
        entities.append((kind, starts[first], starts[last] + len(tokens[last])))
    label = (make_triple(values.get("relation"), 0, 1, where),) if labelled else None
    return RelationExample(
        (" ".join(tokens),), label, where, entities=tuple(entities), marked_pairs=((0, 1),)
    )


def from_duie(record: Record, text: str) -> RelationExample:
    """DuIE: {subject, subject_type, predicate, object, object_type}; DuIE 2.0 nests object and type in "@value"."""
    entities: dict[Span, int] = {}
    triples: dict[Triple, None] = {}
    nowhere = 0
    if not isinstance(given := record.values["spo_list"], list):
        raise DataError("invalid_row", f"{record.where}: 'spo_list' is {type(given).__name__}, not a list")
    for item in given:
        try:
            fields = [item[name] for name in ("subject", "subject_type", "object", "object_type")]
            predicate = item["predicate"]
        except (KeyError, TypeError) as error:
            raise DataError(
                "invalid_row",
                f"{record.where}: {str(item)[:200]} in spo_list lacks a field ({error!r}); wanted subject,"
                " subject_type, predicate, object, object_type",
            ) from error
        words = [str((value.get("@value") if isinstance(value, dict) else value) or "") for value in fields]
        if not all(word.strip() for word in words):
            raise DataError(
                "invalid_row", f"{record.where}: {str(item)[:200]} in spo_list has a field that is empty"
            )
        mentions = zip(words[::2], words[1::2], strict=True)
        pair = [
            (kind, at, at + len(mention)) for mention, kind in mentions if (at := text.find(mention)) >= 0
        ]
        if len(pair) < 2 or pair[0] == pair[1]:
            nowhere += 1
            continue
        head, tail = (entities.setdefault(span, len(entities)) for span in pair)
        triples[make_triple(predicate, head, tail, record.where)] = None
    return RelationExample((text,), tuple(triples), record.where, entities=tuple(entities), n_lost=nowhere)


# ── texts with marks ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class SubwordPieces:
    """A text cut wherever an entity begins or ends, so that it is tokenized once for all pairs: `cuts` are offsets,
    `ids` the ids between neighbours. A blank before an entity goes with it.
    """

    cuts: tuple[int, ...]
    ids: tuple[tuple[int, ...], ...]


def cut_points(example: RelationExample) -> list[int]:
    """The offsets of `SubwordPieces`, beginning and end of the text included."""
    ends = {end for _, _, end in example.entities}
    begins = {start_with_blank(example.text, start) for _, start, _ in example.entities}
    return sorted({0, len(example.text)} | ends | begins)


def start_with_blank(text: str, start: int) -> int:
    """The start of an entity with the blanks before it."""
    return len(text[:start].rstrip()) if start and text[start - 1].isspace() else start


def entity_marker(role: int, kind: str, blank: str) -> tuple[str, str]:
    """The texts before and after the head (0) or tail (1) of a pair (typed entity markers; Zhou and Chen 2021)."""
    outer, inner = "@*" if role == 0 else "#^"
    return f"{blank}{outer}{blank}{inner}{blank}{kind}{blank}{inner}", f"{blank}{outer}"


def mark_pair(
    example: RelationExample,
    pieces: SubwordPieces,
    pair: tuple[int, int],
    marks: Sequence[tuple[list[int], list[int]]],
    margin: int | None,
) -> tuple[list[int], list[tuple[int, int]]]:
    """The ids of a text in which a pair is marked, and the spans of head and tail with their markers, in ids; `marks`
    are the ids before and after each of the two. Ids more than `margin` away from both are left out.
    """
    signs = []
    for role, number in enumerate(pair):
        _, start, end = example.entities[number]
        start = start_with_blank(example.text, start)
        signs += [(start, 1, -end, role), (end, 0, -start, -role)]  # what opens last closes first
    signs.sort()
    ids: list[int] = []
    opened, closed = [0, 0], [0, 0]
    for number in pieces_around(pieces, signs[0][0], signs[-1][0], margin):
        at = pieces.cuts[number]
        while signs and signs[0][0] == at:
            _, opens, _, role = signs.pop(0)
            if opens:
                opened[role] = len(ids)
            ids += marks[abs(role)][1 - opens]
            closed[abs(role)] = len(ids)
        if number < len(pieces.ids):
            ids += pieces.ids[number]
    return ids, list(zip(opened, closed, strict=True))


def pieces_around(pieces: SubwordPieces, start: int, end: int, margin: int | None) -> range:
    """The indices of the cuts from `start` to `end`, and of those around for `margin` ids on either side."""
    low, high = bisect_left(pieces.cuts, start), bisect_left(pieces.cuts, end)
    left = right = 0
    while low and (margin is None or left < margin):
        low -= 1
        left += len(pieces.ids[low])
    while high < len(pieces.ids) and (margin is None or right < margin):
        right += len(pieces.ids[high])
        high += 1
    return range(low, min(high + 1, len(pieces.cuts)))


def fit_window(
    ids: list[int], spans: Sequence[tuple[int, int]], max_ids: int
) -> tuple[list[int], list[int], bool]:
    """At most `max_ids` ids around two marked spans, the new starts of both, and whether ids between were left out."""
    first, last = min(start for start, _ in spans), max(end for _, end in spans)
    if last - first <= max_ids:
        spare = max_ids - (last - first)
        low = first - min(first, max(spare // 2, spare - (len(ids) - last)))
        return ids[low : low + max_ids], [start - low for start, _ in spans], False
    half = (max_ids + 1) // 2
    second = max(start for start, _ in spans)
    again = max(first + half, min(second, last - (max_ids - half)))  # the second part that is kept
    kept = ids[first : first + half] + ids[again : again + max_ids - half]
    places = [start - first if start < first + half else half + start - again for start, _ in spans]
    return kept, places, True

"""A tag for each token of a text: entities (names, places, …) or plain tags such as parts of speech.

Fields: `tokens` and `tags`, lists of one length (CoNLL files are read so); or `text` with `entities` (also `spans`,
`label`): a list of {"start", "end", "label"} in characters, the end not included, or CLUENER's
{type: {mention: [[start, end]]}} with both ends included. Tags are BIO, IOB1, BIOES or without any prefix.

The tag of a word is predicted at its first piece (Devlin et al. 2019). With `crf` the tags of a sentence are chosen
together (Lample et al. 2016), and no I follows another type. Texts that are too long for the model are read in
overlapping windows; the tag of a word is taken from the one with most context around it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, groupby
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from textus.core.console import log_notice
from textus.core.errors import DataError, UsageError
from textus.data.batch import Batch
from textus.data.labeled import Record
from textus.data.skipping import parse_rows
from textus.metrics.entities import (
    Span,
    bio_tags,
    entity_scores,
    entity_spans,
    is_entity_tag,
    scheme_counts,
    token_scores,
)
from textus.models.nn.heads import IGNORED
from textus.tasks.base import EncodedExample, Example, InputTemplate, Task, report_unseen
from textus.tasks.reporting import Floats
from textus.tasks.token_data import (
    TaggingExample,
    bio_spellings,
    check_entity_tags,
    count_tags,
    entity_field,
    from_spans,
    has_entities,
    parse_tagging_example,
    segmentation_unit,
    token_spans,
)
from textus.tokenizers import Tokenizer

MOST_TAGS = 1000
SHOWN = 10
SUBWORD_KINDS = ("bpe", "wordpiece", "unigram")
"""Kinds of tokenizers that cut words in pieces."""


@dataclass(frozen=True)
class TaggingSettings:
    """`crf`: the tags of a sentence are chosen together; `unit`: what a text is cut into ("auto": as in the training
    rows); `dropout` of the head's input; `longest`: ids read at once (0: the model's context).
    """

    crf: bool = True
    unit: Literal["auto", "token", "word", "character"] = "auto"
    dropout: float = 0.1
    longest: int = 0


class Tagging(Task):
    """See the module."""

    name = "tagging"
    config = TaggingSettings
    settings: TaggingSettings
    label_kind = "tags"
    empty_reason = "have no token"
    mistakes_title = "Commonest mistakes"
    model_defaults: ClassVar[dict[str, Any]] = {"bidirectional": True, "d_model": 256}

    def __init__(self, settings: TaggingSettings, labels: Sequence[str]) -> None:
        super().__init__(settings, labels)
        self.entities = all(map(is_entity_tag, self.labels))

    @classmethod
    def from_records(cls, settings: TaggingSettings, records: Sequence[Record]) -> Tagging:
        unit = segmentation_unit(records) if settings.unit == "auto" else settings.unit
        settings = replace(settings, unit=unit)  # type: ignore[arg-type]
        rows = parse_rows(records, cls.row_parser(settings, records, labelled=True))
        counts = Counter(tag for row in rows for tag in row.label)
        if all(map(is_entity_tag, counts)):
            kinds = {kind for row in rows for kind, _, _ in entity_spans(row.label)}
            labels = ["O", *(f"{prefix}-{kind}" for kind in sorted(kinds) for prefix in "BI")]
        else:
            labels = sorted(counts)
            check_prefixes(rows)
        if len(labels) < 2:
            raise DataError(
                "one_class",
                f"all {sum(counts.values()):,} tokens have the one tag {next(iter(counts), None)!r}: there is nothing"
                " to learn; give rows with entities or tags of two kinds",
            )
        if len(labels) > MOST_TAGS:
            raise DataError(
                "not_classes",
                f"{len(labels):,} different tags, such as {', '.join(labels[:3])}: these are not classes; name the"
                " right column with --columns tags=COLUMN",
            )
        return cls(settings, labels)

    @classmethod
    def row_parser(
        cls, settings: TaggingSettings, records: Sequence[Record], *, labelled: bool
    ) -> Callable[[Record], TaggingExample]:
        unit = segmentation_unit(records) if settings.unit == "auto" else settings.unit
        counts, renamed = count_tags(records) if labelled else Counter[str](), Counter[str]()
        usual = bio_spellings(counts)
        for tag, n in counts.items():
            renamed[usual.get(tag, tag)] += n
        of_entities = has_entities(renamed)

        def parse(record: Record) -> TaggingExample:
            row = parse_tagging_example(record, unit, labelled=labelled)
            if usual and row.label:
                row = replace(row, label=tuple(usual.get(tag, tag) for tag in row.label))
            if of_entities:
                check_entity_tags(row)
            return row

        return parse

    @classmethod
    def can_split(cls, settings: TaggingSettings, train: Sequence[Record], held: Sequence[Record]) -> bool:
        parse = cls.row_parser(settings, [*train, *held], labelled=True)
        trained, chosen = ({tag for record in part for tag in parse(record).label} for part in (train, held))
        entities = all(map(is_entity_tag, trained | chosen))
        return len(trained) > 1 and bool(chosen - {"O"} if entities else chosen)

    @classmethod
    def used_fields(cls, settings: TaggingSettings, values: dict[str, Any]) -> list[str]:
        if values.get("tokens") is not None:
            return ["tokens", "tags"]
        return ["text", entity_field(values) or "entities"]

    def label_names(self, example: Example) -> list[str]:
        names = list(example.label)
        return [kind for kind, _, _ in entity_spans(names)] if self.entities else names

    # ── rows ───────────────────────────────────────────────────────────────────────────────────

    def is_empty(self, example: Example) -> bool:
        return not example.texts

    def make_examples(self, records: Sequence[Record], *, labelled: bool) -> list[Example]:
        rows: list[Any] = super().make_examples(records, labelled=labelled)
        if not labelled:
            return rows
        if usual := bio_spellings(count_tags(records)):
            shown = ", ".join(f"{tag} as {name}" for tag, name in list(usual.items())[:SHOWN] if tag != name)
            log_notice(f"the tags are not written as B-PER: they are read as BIO ({shown})")
        if over := [row for row in rows if row.n_dropped]:
            log_notice(
                f"{sum(row.n_dropped for row in over):,} entities overlap longer ones, or are given twice, and are left"
                f" out; the first in {over[0].where}"
            )
        if self.entities:
            rows = self.to_bio(rows)
        report_unseen("tags", (tag for row in rows for tag in row.label), self.index)
        return rows

    def to_bio(self, rows: list[TaggingExample]) -> list[TaggingExample]:
        """The rows with tags in BIO, whatever scheme they had; reports what was changed."""
        bare, marked = scheme_counts([row.label for row in rows])
        if bare and marked:
            log_notice(f"{bare:,} entities begin with I-, not B-: they are read as if they began with B-")
        elif bare:
            log_notice(f"the tags are IOB1 ({bare:,} entities begin with I-): they are read as BIO")
        return [replace(row, label=tuple(bio_tags(entity_spans(row.label), len(row.label)))) for row in rows]

    def tokenizer_spec(self, kind: str | None, texts: Sequence[str]) -> tuple[str, int]:
        """A small vocabulary, so that new names consist of known pieces. F1 on CoNLL-2003's dev file after an epoch:
        BPE of 4,000 ids 77.4, of 20,000 71.2, words 68.8.
        """
        kind = kind or ("char" if self.settings.unit == "character" else "bpe")
        return kind, 4000 if kind in SUBWORD_KINDS else 20_000

    def example_from_text(self, texts: tuple[str, ...], where: str) -> Example:
        if len(texts) > 1:
            raise UsageError("wrong_number_of_texts", f"{where} is {len(texts)} texts; tagging reads one")
        unit = self.settings.unit
        return from_spans(texts[0], token_spans(texts[0], unit), unit, where)

    def encode(
        self, examples: Sequence[Example], tokenizer: Tokenizer, template: InputTemplate
    ) -> list[EncodedExample]:
        flat = iter(tokenizer.encode_batch([word for example in examples for word in example.texts]))
        rows: list[EncodedExample] = []
        for number, example in enumerate(examples):
            rows += self.encode_windows(example, [next(flat) for _ in example.texts], template, number)
        several = [count for count in Counter(row.meta for row in rows).values() if count > 1]
        log_notice(
            len(several), " of ", len(examples), f" texts are longer than {template.max_length} tokens: they are",
            " read in ", sum(several), " windows that overlap",
        )  # fmt: skip
        return rows

    def encode_windows(
        self, example: Example, ids: list[list[int]], template: InputTemplate, number: int = 0
    ) -> list[EncodedExample]:
        """An example as one row or several; `ids` are those of its words."""
        max_ids = (
            None if template.max_length is None else max(1, template.max_length - len(template.begin) - 1)
        )
        # a word without ids still needs a position
        words = [(pieces or [template.end_id])[:max_ids] for pieces in ids]
        lost = sum(max(0, len(pieces) - len(kept)) for pieces, kept in zip(ids, words, strict=True))
        rows: list[EncodedExample] = []
        for low, high, first, last in word_windows([len(word) for word in words], max_ids):
            places = list(accumulate(map(len, words[low:high]), initial=len(template.begin)))
            row_ids = [*template.begin, *chain.from_iterable(words[low:high]), template.end_id]
            targets = places[first - low : last - low]
            labels = None
            if example.label is not None:
                labels = [IGNORED] * len(row_ids)
                for place, tag in zip(targets, example.label[first:last], strict=True):
                    labels[place] = self.index.get(tag, IGNORED)
            segments, cut = [0] * len(row_ids), 0 if rows else lost
            rows.append(EncodedExample(row_ids, segments, labels, cut, meta=number, target_positions=targets))
        return rows

    def label_tensor(self, labels: list[Any], length: int) -> Tensor:
        targets = torch.full((len(labels), length), IGNORED)
        for row, numbers in enumerate(labels):
            targets[row, : len(numbers)] = torch.tensor(numbers)
        return targets

    # ── model and answers ──────────────────────────────────────────────────────────────────────

    def head_spec(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "kind": "token", "n_labels": len(self.labels), "crf": settings.crf, "dropout": settings.dropout,
            "allowed_previous": self.allowed_previous() if settings.crf and self.entities else None,
        }  # fmt: skip

    def allowed_previous(self) -> list[list[int]]:
        """For each tag those it may follow: for an I its own B and itself; empty (any) for the others."""
        return [
            [self.index["B" + label[1:]], number] if label[0] == "I" else []
            for number, label in enumerate(self.labels)
        ]

    def predict(self, head: Any, hidden: Tensor, batch: Batch) -> list[Any]:
        assert batch.word_starts is not None
        best = head.predict(hidden, batch.word_starts).cpu()
        return [tags[starts].tolist() for tags, starts in zip(best, batch.word_starts.cpu(), strict=True)]

    def aggregate_windows(self, rows: Sequence[EncodedExample], outputs: list[Any]) -> list[Any]:
        windows = groupby(zip(rows, outputs, strict=True), key=lambda pair: pair[0].meta)
        return [[number for _, output in pairs for number in output] for _, pairs in windows]

    def tag_names(self, output: Sequence[int]) -> list[str]:
        """The names of an answer's tags, every I after its own B."""
        names = [self.labels[number] for number in output]
        return bio_tags(entity_spans(names), len(names)) if self.entities else names

    def metrics(
        self, examples: Sequence[Example], outputs: Sequence[Any], *, intervals: bool = True
    ) -> dict[str, Any]:
        gold = [list(example.label) for example in examples]
        guess = [self.tag_names(output) for output in outputs]
        tokens = token_scores(gold, guess, intervals=intervals)
        if not self.entities:
            return tokens
        right, answered = ([entity_spans(tags) for tags in part] for part in (gold, guess))
        scores = entity_scores(right, answered, intervals=intervals)
        if not any(row["n"] for row in scores["classes"]):
            log_notice("these rows have no entity: precision, recall and F1 are undefined, given as 0")
        if intervals:
            scores["mistakes"] = common_mistakes(examples, gold, guess)
        return {**scores, "token_accuracy": tokens["accuracy"], "tokens": tokens["tokens"]}

    def weighted_metric(
        self, examples: Sequence[Example], outputs: Sequence[Any]
    ) -> tuple[str, Callable[[Floats], float]]:
        golds = [list(example.label) for example in examples]
        pairs = list(zip(golds, map(self.tag_names, outputs), strict=True))
        if self.entities:
            parts = [(set(entity_spans(gold)), set(entity_spans(guess))) for gold, guess in pairs]
            right = [2 * len(gold & guess) for gold, guess in parts]
            return "f1", weighted_ratio(right, [len(gold) + len(guess) for gold, guess in parts])
        right = [sum(a == b for a, b in zip(gold, guess, strict=True)) for gold, guess in pairs]
        return "accuracy", weighted_ratio(right, [len(gold) for gold, _ in pairs])

    def answer_columns(self) -> list[str]:
        return ["tags", "entities"] if self.entities else ["tokens", "tags"]

    def to_json(self, example: Example, output: Any) -> dict[str, Any]:
        assert isinstance(example, TaggingExample)
        tags, text, places = self.tag_names(output), example.text, example.places
        if not self.entities:
            return {"tokens": [text[start:end] for start, end in places], "tags": tags}
        spans = [(kind, places[first][0], places[last - 1][1]) for kind, first, last in entity_spans(tags)]
        entities = [
            {"text": text[start:end], "label": kind, "start": start, "end": end} for kind, start, end in spans
        ]
        return {"tags": tags, "entities": entities} if example.has_tokens else {"entities": entities}


def check_prefixes(rows: Sequence[TaggingExample]) -> None:
    """Raises DataError where some tags have a prefix and others do not."""
    first: dict[bool, tuple[str, str]] = {}
    counts = Counter[bool]()
    for row in rows:
        for tag in row.label:
            if tag != "O":
                first.setdefault(is_entity_tag(tag), (tag, row.where))
                counts[is_entity_tag(tag)] += 1
    if len(first) < 2:
        return
    (marked, here), (bare, there) = first[True], first[False]
    raise DataError(
        "mixed_data",
        f"the tags have both prefixes and none, such as {marked!r} and {bare!r} ({counts[True]:,} and"
        f" {counts[False]:,} tags, the first in {here} and {there}); give all tags of entities B- and I-, or none of"
        " the tags",
    )


def weighted_ratio(top: Sequence[float], bottom: Sequence[float]) -> Callable[[Floats], float]:
    """Σ top / Σ bottom of weighted rows; 0 where there is nothing to divide by."""
    values, sizes = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)
    return lambda weights: float(weights @ values) / max(1.0, float(weights @ sizes))


def common_mistakes(
    examples: Sequence[Example], gold: Sequence[Sequence[str]], guess: Sequence[Sequence[str]]
) -> list[dict[str, Any]]:
    """Entities that were missed, had another type or other ends, or are none, the most frequent first, with the first
    row of each.
    """
    counts: Counter[tuple[str, str, str]] = Counter()
    first: dict[tuple[str, str, str], str] = {}
    for example, tags, answered in zip(examples, gold, guess, strict=True):
        assert isinstance(example, TaggingExample)
        right, predicted = entity_spans(tags), entity_spans(answered)

        def text(span: Span, example: TaggingExample = example) -> str:
            return example.text[example.places[span[1]][0] : example.places[span[2] - 1][1]]

        def overlapping(span: Span, others: Sequence[Span]) -> list[Span]:
            return [other for other in others if other[1] < span[2] and span[1] < other[2]]

        def answer(right: Span, other: Span) -> str:
            return other[0] if other[1:] == right[1:] else f"{other[0]}: {text(other)}"

        mistakes = []
        for span in set(right) - set(predicted):
            near = [answer(span, other) for other in overlapping(span, predicted)]
            mistakes.append((text(span), span[0], ", ".join(near) or "none"))
        extra = [span for span in set(predicted) - set(right) if not overlapping(span, right)]
        mistakes += [(text(span), "none", span[0]) for span in extra]
        counts.update(mistakes)
        for mistake in mistakes:
            first.setdefault(mistake, example.where)
    order = sorted(counts, key=lambda key: (-counts[key], key))[:SHOWN]
    names = ("text", "label", "answer")
    return [dict(zip(names, key, strict=True)) | {"times": counts[key], "where": first[key]} for key in order]


def word_windows(lengths: Sequence[int], max_pieces: int | None) -> list[tuple[int, int, int, int]]:
    """Windows on words of so many pieces, at most `max_pieces` each: their first word and the one after their last,
    then the same of the words that are tagged there. Neighbours share up to half a window, which its middle divides.
    """
    n = len(lengths)
    if max_pieces is None or sum(lengths) <= max_pieces:
        return [(0, n, 0, n)]
    windows: list[tuple[int, int, int, int]] = []
    low = first = 0
    while True:
        high, held = low, 0
        while high < n and held + lengths[high] <= max_pieces:
            held += lengths[high]
            high += 1
        if high == n:
            return [*windows, (low, high, first, n)]
        after, shared = high, 0
        while after > low + 1 and shared + lengths[after - 1] <= max_pieces // 2:
            after -= 1
            shared += lengths[after]
        last = (after + high + 1) // 2
        windows.append((low, high, first, last))
        low, first = after, last

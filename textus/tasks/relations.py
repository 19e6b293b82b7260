"""Relation extraction: triples of head entity, relation and tail entity.

Fields: see `textus.tasks.relation_data`. Every ordered pair of entities is a row, in which typed markers enclose head
and tail (Zhou and Chen 2021); it has one relation or none. The model does not see pairs of types that had no relation
in training, nor pairs more than `reach` entities apart, so that the work grows with the number of entities, not with
its square: their answer is "none". Of a text that is too long for the model, the part around the pair is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from textus.core.console import log_notice
from textus.core.errors import DataError, UsageError
from textus.core.rng import uniform
from textus.data.batch import Batch
from textus.data.labeled import Record
from textus.data.skipping import parse_rows
from textus.metrics.entities import entity_scores
from textus.metrics.resampling import estimate
from textus.tasks.base import EncodedExample, Example, InputTemplate, Task, has_blanks, report_unseen
from textus.tasks.relation_data import (
    RelationExample,
    SubwordPieces,
    Triple,
    cut_points,
    entity_marker,
    fit_window,
    mark_pair,
    parse_relation_example,
)
from textus.tasks.reporting import Floats, most_confident
from textus.tasks.token_data import entity_field
from textus.tokenizers import Tokenizer

MOST_RELATIONS = 1000
MIN_WINDOW = 16
"""Ids a pair needs to be marked at all."""


@dataclass(frozen=True)
class RelationsSettings:
    """`negatives`: share of the pairs without a relation to train on, sampled once; `reach`: how many entities apart a
    pair may be; `no_relation_label`: the label of a pair without a relation, if rows have one; `pooling` and `dropout`
    of the head's input; `longest`: ids that are read around a pair (0: the model's context). `seen` is counted, not
    set: head type → tail type → relation → count.
    """

    negatives: float = 1.0
    reach: int = 20
    no_relation_label: str = "no_relation"
    pooling: Literal["mean", "cls", "last", "max"] = "mean"
    dropout: float = 0.1
    longest: int = 128
    seen: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.negatives <= 1:
            raise UsageError(
                "out_of_range", f"task.negatives={self.negatives}: must be above 0 and at most 1"
            )
        if self.reach < 1:
            raise UsageError("out_of_range", f"task.reach={self.reach}: must be at least 1")


@dataclass(frozen=True)
class RelationPrediction:
    """The relation of one pair as a number (0: none), and its probability."""

    head: int
    tail: int
    label: int
    probability: float


class Relations(Task):
    """See the module. The first of `labels` is "none"."""

    name = "relations"
    config = RelationsSettings
    settings: RelationsSettings
    label_kind = "relations"
    baseline_name = "majority by types"
    model_defaults: ClassVar[dict[str, Any]] = {"bidirectional": True, "d_model": 256}

    @classmethod
    def from_records(cls, settings: RelationsSettings, records: Sequence[Record]) -> Relations:
        rows = parse_rows(records, cls.row_parser(settings, records, labelled=True))
        held = Counter(name for row in rows for name, _, _ in row.label if name != settings.no_relation_label)
        if not held:
            raise DataError(
                "no_labels",
                f"none of the {len(rows):,} rows has a relation: there is nothing to learn; name their column with"
                " --columns relations=COLUMN",
            )
        if len(held) > MOST_RELATIONS:
            raise DataError(
                "not_classes",
                f"{len(held):,} different relations, such as {', '.join(list(held)[:3])}: these are not classes",
            )
        task = cls(settings, [settings.no_relation_label, *sorted(held)])
        counts = Counter(
            (*task.types(row, *pair), task.relation(row, *pair))
            for row in rows
            for pair in task.candidate_pairs(row)
        )
        joined = {(head, tail) for head, tail, name in counts if name != settings.no_relation_label}
        seen: dict[str, dict[str, dict[str, int]]] = {}
        totals = Counter[str]()
        for (head, tail, name), n in sorted(counts.items()):
            if (head, tail) in joined:
                seen.setdefault(head, {}).setdefault(tail, {})[name] = n
                totals[name] += n
        task.settings = replace(settings, seen=seen)
        task.label_counts = [totals[name] for name in task.labels]
        return task

    @classmethod
    def row_parser(
        cls, settings: RelationsSettings, records: Sequence[Record], *, labelled: bool
    ) -> Callable[[Record], RelationExample]:
        return lambda record: parse_relation_example(record, labelled=labelled)

    @classmethod
    def can_split(cls, settings: RelationsSettings, train: Sequence[Record], held: Sequence[Record]) -> bool:
        rows = ([parse_relation_example(record, labelled=True) for record in part] for part in (train, held))
        none = settings.no_relation_label
        return all(any(name != none for row in part for name, _, _ in row.label) for part in rows)

    @classmethod
    def used_fields(cls, settings: RelationsSettings, values: dict[str, Any]) -> list[str]:
        if "subj_start" in values:
            marks = [f"{role}_{part}" for role in ("subj", "obj") for part in ("type", "start", "end")]
            return ["token" if "token" in values else "tokens", *marks, "relation"]
        if "spo_list" in values:
            return ["text", "spo_list"]
        return ["text", entity_field(values) or "entities", "relations"]

    def label_names(self, example: Example) -> list[str]:
        return [name for name, _, _ in example.label]

    # ── pairs ──────────────────────────────────────────────────────────────────────────────────

    def candidate_pairs(self, example: RelationExample) -> Iterator[tuple[int, int]]:
        """The ordered pairs of a text within reach, or those it marks."""
        if example.marked_pairs is not None:
            yield from example.marked_pairs
            return
        order = sorted(range(len(example.entities)), key=lambda number: example.entities[number][1:])
        for at, head in enumerate(order):
            near = order[max(0, at - self.settings.reach) : at + self.settings.reach + 1]
            yield from ((head, tail) for tail in near if tail != head)

    def types(self, example: RelationExample, head: int, tail: int) -> tuple[str, str]:
        """The types of a pair."""
        return example.entities[head][0], example.entities[tail][0]

    def seen_type_pair(self, example: RelationExample, head: int, tail: int) -> bool:
        """Whether these types had a relation in training."""
        head_type, tail_type = self.types(example, head, tail)
        return tail_type in self.settings.seen.get(head_type, {})

    def scored_pairs(self, example: RelationExample) -> list[tuple[int, int]]:
        """The pairs of a text that the model scores."""
        return [pair for pair in self.candidate_pairs(example) if self.seen_type_pair(example, *pair)]

    def relation(self, example: RelationExample, head: int, tail: int) -> str:
        """The relation of a pair: the first its row names, among those that are known."""
        held = (name for name, *pair in example.label if pair == [head, tail] and name in self.index)
        return next(held, self.settings.no_relation_label)

    def gold(self, example: RelationExample) -> list[Triple]:
        """The right triples of a text."""
        return [triple for triple in example.label if triple[0] != self.settings.no_relation_label]

    # ── rows ───────────────────────────────────────────────────────────────────────────────────

    def is_empty(self, example: Example) -> bool:
        return False

    def make_examples(self, records: Sequence[Record], *, labelled: bool) -> list[Example]:
        rows: list[Any] = super().make_examples(records, labelled=labelled)
        if n := sum(row.n_lost for row in rows):
            log_notice(n, " triples have a mention that does not occur in their text: they are left out")
        if not labelled:
            return [row if row.label is None else replace(row, label=None) for row in rows]
        counts: Counter[str] = Counter()
        for row in rows:
            scored = set(self.scored_pairs(row))
            pairs = [tuple(pair) for _, *pair in self.gold(row)]
            counts["several"] += len(pairs) - len(set(pairs))
            counts["lost"] += sum(pair not in scored for pair in pairs)
            counts["alone"] += len(row.entities) < 2
        names = (name for row in rows for name, _, _ in self.gold(row))
        report_unseen("relations", names, self.index, "count as missed")
        messages = {
            "several": "relations are of a pair that has another: one is trained on, the others count as missed",
            "lost": f"relations are between types without a relation in training, or more than {self.settings.reach}"
            " entities apart (task.reach): they are not scored, and count as missed",
            "alone": f"of {len(rows):,} rows have fewer than two entities, so no pair",
        }
        for name, message in messages.items():
            if counts[name]:
                log_notice(f"{counts[name]:,} {message}")
        return rows

    def check_validation_set(self, examples: Sequence[Any]) -> None:
        if not any(map(self.gold, examples)):
            raise DataError(
                "no_labels",
                f"none of the {len(examples):,} rows to choose by has a relation; give others with --dev",
            )

    def tokenizer_spec(self, kind: str | None, texts: Sequence[str]) -> tuple[str, int]:
        """A small vocabulary, as for tagging, so that new names consist of known pieces."""
        kind = kind or ("bpe" if has_blanks(texts) else "char")
        return kind, 20_000 if kind in ("word", "char") else 4000

    def tokenizer_texts(self, examples: Sequence[Any]) -> list[str]:
        """The texts, and the markers of every entity."""
        texts = super().tokenizer_texts(examples)
        blank = " " if has_blanks(texts) else ""
        kinds = [kind for example in examples for kind, _, _ in example.entities]
        return [*texts, *("".join(entity_marker(role, kind, blank)) for kind in kinds for role in (0, 1))]

    def example_from_text(self, texts: tuple[str, ...], where: str) -> Example:
        raise UsageError(
            "missing_argument",
            f"{where} is a text without entities: give a file of rows with text and entities, or find both by textus"
            " triples FILE --entities RUN --relations RUN",
        )

    def encode(
        self, examples: Sequence[Any], tokenizer: Tokenizer, template: InputTemplate
    ) -> list[EncodedExample]:
        marks = self.encode_markers(examples, tokenizer, template)
        cuts = list(map(cut_points, examples))
        texts = [
            example.text[a:b] for example, cut in zip(examples, cuts, strict=True) for a, b in pairwise(cut)
        ]
        flat = iter(tokenizer.encode_batch(texts))
        rows: list[EncodedExample] = []
        counts: Counter[str] = Counter()
        for number, (example, cut) in enumerate(zip(examples, cuts, strict=True)):
            pieces = SubwordPieces(tuple(cut), tuple(tuple(next(flat)) for _ in cut[1:]))
            pairs, n = self.scored_pairs(example), len(example.entities)
            n_near = sum(1 for _ in self.candidate_pairs(example))
            n_all = n * (n - 1) if example.marked_pairs is None else n_near
            counts.update({"all": n_all, "scored": len(pairs), "far": n_all - n_near})
            for pair in pairs:
                rows.append(self.pair_row(example, pieces, pair, marks, template=template, number=number))
            if not pairs:  # a row without a label, so that the example has an (empty) output
                ends = [*template.begin, template.end_id]
                rows.append(
                    EncodedExample(ends, [0] * len(ends), meta=(number, None, False), numbers=(0.0, 0.0))
                )
        counts["through"] = sum(row.meta[2] for row in rows)
        self.report_pairs(counts, len(examples), template)
        return rows

    def pair_row(
        self,
        example: RelationExample,
        pieces: SubwordPieces,
        pair: tuple[int, int],
        marks: dict[tuple[int, str], tuple[list[int], list[int]]],
        *,
        template: InputTemplate,
        number: int,
    ) -> EncodedExample:
        """One pair of an example as ids."""
        signs = [marks[role, kind] for role, kind in enumerate(self.types(example, *pair))]
        max_ids = None if template.max_length is None else template.max_length - len(template.begin) - 1
        if max_ids is not None and max_ids < MIN_WINDOW:
            raise UsageError(
                "out_of_range",
                f"a pair and its marks do not fit in {template.max_length} ids; set task.longest to 32 or more",
            )
        ids, spans = mark_pair(example, pieces, pair, signs, max_ids)
        ids, places, through = fit_window(ids, spans, len(ids) if max_ids is None else max_ids)
        at = len(template.begin)
        row_ids = [*template.begin, *ids, template.end_id]
        label = None if example.label is None else self.index[self.relation(example, *pair)]
        head, tail = (float(place + at) for place in places)
        return EncodedExample(
            row_ids, [0] * len(row_ids), label, meta=(number, pair, through), numbers=(head, tail)
        )

    def encode_markers(
        self, examples: Sequence[RelationExample], tokenizer: Tokenizer, template: InputTemplate
    ) -> dict[tuple[int, str], tuple[list[int], list[int]]]:
        """The ids before and after a head (0) or tail (1) of each type."""
        kinds = sorted({kind for example in examples for kind, _, _ in example.entities})
        blank = "" if tokenizer.kind == "char" else " "
        keys = [(role, kind) for role in (0, 1) for kind in kinds]
        flat = iter(tokenizer.encode_batch([text for key in keys for text in entity_marker(*key, blank)]))
        markers = {key: (next(flat) or [template.end_id], next(flat) or [template.end_id]) for key in keys}
        if any(markers[0, kind] == markers[1, kind] for kind in kinds):
            log_notice("the tokenizer does not know the markers: head and tail differ by position alone")
        return markers

    def report_pairs(self, counts: Counter[str], n: int, template: InputTemplate) -> None:
        """Report which pairs are scored and which are not."""
        other = counts["all"] - counts["scored"] - counts["far"]
        left: list[str | int] = []
        if other:
            left += ["; ", other, " are of types without a relation in training"]
        if counts["far"]:
            left += [" and " if left else "; ", counts["far"]]
            left += [f" are more than {self.settings.reach} entities apart"]
        left += [": these are answered with none"] if left else []
        log_notice(
            counts["scored"], " of ", counts["all"], " pairs of entities in ", n, " texts are scored", *left
        )
        if counts["through"]:
            log_notice(
                counts["through"],
                f" pairs are more than {template.max_length} tokens apart: the text between is not read whole",
            )

    def training_rows(self, rows: Sequence[EncodedExample]) -> list[EncodedExample]:
        """All pairs with a relation, and the share `negatives` of the others."""
        share = self.settings.negatives
        held = [row for row in rows if row.label is not None]
        kept = [
            row for row in held
            if row.label or share == 1 or uniform(0, "negative", row.meta[0], *row.meta[1]) < share
        ]  # fmt: skip
        none = sum(not row.label for row in held)
        log_notice(
            f"{len(held) - none:,} pairs with a relation to learn from, {none:,} without"
            + (f", of which {len(kept) - len(held) + none:,} are read (task.negatives)" if share < 1 else "")
        )
        return kept

    # ── model and answers ──────────────────────────────────────────────────────────────────────

    def head_spec(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "kind": "pair", "n_labels": len(self.labels), "pooling": settings.pooling, "dropout": settings.dropout,
        }  # fmt: skip

    def predict(self, head: Any, hidden: Tensor, batch: Batch) -> list[Any]:
        return list(head.predict(hidden, batch.mask, batch.numbers).double().cpu().numpy())

    def aggregate_windows(self, rows: Sequence[EncodedExample], outputs: list[Any]) -> list[Any]:
        parts = groupby(zip(rows, outputs, strict=True), key=lambda pair: pair[0].meta[0])
        return [[self.best(row.meta[1], output) for row, output in part if row.meta[1]] for _, part in parts]

    def best(self, pair: tuple[int, int], probabilities: Floats) -> RelationPrediction:
        """The likeliest relation of a pair."""
        label = int(probabilities.argmax())
        return RelationPrediction(*pair, label, float(probabilities[label]))

    def triples(self, output: Sequence[RelationPrediction]) -> list[Triple]:
        """The predicted triples."""
        return [(self.labels[pair.label], pair.head, pair.tail) for pair in output if pair.label]

    def metrics(
        self, examples: Sequence[Any], outputs: Sequence[Any], *, intervals: bool = True
    ) -> dict[str, Any]:
        gold = list(map(self.gold, examples))
        scores = entity_scores(gold, [self.triples(output) for output in outputs], intervals=intervals)
        if not any(gold):
            log_notice("these rows have no relation: precision, recall and F1 are undefined, given as 0")
        name, exact = self.per_example_metric(examples, outputs)
        scores[name] = estimate(exact, intervals=intervals)
        if not intervals:
            return scores
        return {**scores, "pairs": sum(map(len, outputs)), "mistakes": self.mistakes(examples, outputs)}

    def per_example_metric(self, examples: Sequence[Any], outputs: Sequence[Any]) -> tuple[str, Floats]:
        pairs = zip(examples, outputs, strict=True)
        exact = [set(self.triples(output)) == set(self.gold(example)) for example, output in pairs]
        return "exact_match", np.asarray(exact, dtype=np.float64)

    def majority_baseline(self, examples: Sequence[Any]) -> list[Any] | None:
        """The most frequent relation of the pair's types."""
        return [[self.majority_by_type(row, pair) for pair in self.scored_pairs(row)] for row in examples]

    def majority_by_type(self, example: RelationExample, pair: tuple[int, int]) -> RelationPrediction:
        """The most frequent relation of these types, and its share."""
        head, tail = self.types(example, *pair)
        counts = self.settings.seen[head][tail]
        name = max(counts, key=lambda relation: counts[relation])
        return RelationPrediction(*pair, self.index[name], counts[name] / sum(counts.values()))

    def mistakes(
        self, examples: Sequence[Any], outputs: Sequence[Sequence[RelationPrediction]]
    ) -> list[dict[str, Any]]:
        """The wrong answers that were given with most confidence, first."""
        return most_confident(
            {
                "text": f"{example.entity(pair.head)['text']} → {example.entity(pair.tail)['text']}:"
                f" {example.text[:300]}",
                "label": self.relation(example, pair.head, pair.tail), "where": example.where,
                "answer": self.labels[pair.label], "probability": pair.probability,
            }
            for example, output in zip(examples, outputs, strict=True)
            for pair in output
            if self.labels[pair.label] != self.relation(example, pair.head, pair.tail)
        )  # fmt: skip

    def answer_columns(self) -> list[str]:
        return ["triples"]

    def to_json(self, example: Any, output: Any) -> dict[str, Any]:
        triples = [
            {
                "head": example.entity(pair.head), "relation": self.labels[pair.label],
                "tail": example.entity(pair.tail), "probability": round(pair.probability, 6),
            }
            for pair in output
            if pair.label
        ]  # fmt: skip
        return {"triples": triples}

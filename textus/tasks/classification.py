"""One class of several for a text or a pair of texts (`single`), or any number of them (`multi`).

Fields: `text`, or `text` and `text_pair` (also `sentence1`, `sentence2`; `premise`, `hypothesis`; `question`,
`sentence`); `label`, a name. Numbers are names too: 1, 1.0 and "1" are one. With `multi`, `label` is a list, or names
with a bar between; `;` and commas are recognised where the rows are written so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textus.core.console import log_notice
from textus.core.errors import DataError, UsageError
from textus.data.batch import Batch
from textus.data.labeled import Record
from textus.data.skipping import parse_rows
from textus.metrics import classification
from textus.reporting.format import format_value
from textus.reporting.html import Section
from textus.reporting.plots import heatmap, reliability_diagram
from textus.tasks.base import EncodedExample, Example, InputTemplate, Task, read_field, report_unseen
from textus.tasks.labels import (
    Classes,
    cast_label,
    common_type,
    find_separator,
    label_name,
    merge_spellings,
    parse_list,
    report_spellings,
    split_labels,
)
from textus.tasks.reporting import Floats, most_confident, values_by_label
from textus.tokenizers import Tokenizer

PAIRS = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
)
MOST_CLASSES = 5000
SHOWN = 10
TIE = 1e-6
"""Weight of the mean probability next to the votes: it decides ties."""


@dataclass(frozen=True)
class ClassificationSettings:
    """`multi`: any number of classes a text; `separator` of their names in a table ("": a bar, `;` or a comma, as the
    rows show); `pooling` and `dropout` of the head's input; `word_dropout`: share of a text's ids that a training step
    leaves out (Iyyer et al. 2015); `class_weights` "balanced": every class has the same weight in the loss, however
    rare; `longest`: ids of a text that are read (0: the model's context); `cut`: the part of a longer text that is not
    read; "nothing": it is read in windows, whose mean is the answer.
    """

    multi: bool = False
    separator: str = ""
    pooling: Literal["mean", "cls", "last", "max"] = "mean"
    dropout: float = 0.1
    word_dropout: float = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    longest: int = 0
    cut: Literal["end", "middle", "nothing"] = "end"

    def __post_init__(self) -> None:
        for name in ("dropout", "word_dropout"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise UsageError("out_of_range", f"task.{name}={value}: must be at least 0 and below 1")


class Classification(Task):
    """See the module."""

    name = "classification"
    config = ClassificationSettings
    settings: ClassificationSettings
    must_match = ("multi",)
    min_rows = 3
    text_counts = (1, 2)

    def __init__(
        self, settings: ClassificationSettings, labels: Sequence[str], counts: Sequence[int] = ()
    ) -> None:
        super().__init__(settings, labels)
        self.label_counts = list(counts)
        self.baseline_family = None if settings.multi else "linear"
        self.classes = Classes(self.labels)

    @classmethod
    def from_records(cls, settings: ClassificationSettings, records: Sequence[Record]) -> Classification:
        if settings.separator and not settings.multi:
            raise UsageError(
                "incompatible_settings",
                f"task.separator={settings.separator!r}: a text has one label; for several --set task.multi=true",
            )
        settings = set_separator(settings, records, report=True)
        rows = parse_rows(records, cls.row_parser(settings, records, labelled=True))
        spellings = Counter(name for row in rows for name, _ in row.label)
        classes = merge_spellings(spellings)
        counts = Counter[str]()
        for name, n in spellings.items():
            counts[classes[name]] += n
        if len(counts) < 2:
            raise DataError(
                "one_class",
                f"all {len(records):,} rows have the one label {next(iter(counts), None)!r}: there is nothing to"
                " learn; give rows of two classes or more",
            )
        if len(counts) > MOST_CLASSES or (len(counts) > 100 and len(counts) > len(records) / 2):
            raise DataError(
                "not_classes",
                f"{len(counts):,} different labels in {len(records):,} rows, such as {', '.join(list(counts)[:3])}:"
                " these are not classes; name the column of the classes with --columns label=COLUMN",
            )
        names = sorted(counts, key=sort_key)
        task = cls(settings, names, [counts[name] for name in names])
        task.label_type = common_type(
            value for record in records for value in label_values(record.values["label"], settings)
        )
        return task

    def make_examples(self, records: Sequence[Record], *, labelled: bool) -> list[Example]:
        parsed = super().make_examples(records, labelled=labelled)
        if not labelled:
            return parsed
        spellings = Counter(
            (self.classes.lookup(name), value) for example in parsed for name, value in example.label
        )
        report_spellings(spellings)
        examples = []
        for example in parsed:
            names = tuple(dict.fromkeys(self.classes.lookup(name) for name, _ in example.label))
            examples.append(replace(example, label=names if self.settings.multi else names[0]))
        if unlabelled := [example.where for example in examples if example.label == ()]:
            first = f"the first is {unlabelled[0]}"
            log_notice(len(unlabelled), " rows have no label: they are of no class", first=first)
        report_unseen("labels", (name for example in examples for name in self.names(example)), self.index)
        return examples

    @classmethod
    def row_parser(
        cls, settings: ClassificationSettings, records: Sequence[Record], *, labelled: bool
    ) -> Callable[[Record], Example]:
        if labelled:
            settings = set_separator(settings, records)
        return lambda record: Example(
            read_texts(record), read_labels(record, settings) if labelled else None, record.where
        )

    @classmethod
    def strata(cls, settings: ClassificationSettings, records: Sequence[Record]) -> list[Any]:
        settings = set_separator(settings, records)
        rows = [[name for name, _ in read_labels(record, settings)] for record in records]
        classes = merge_spellings(Counter(name for names in rows for name in names))
        return [tuple({classes[name] for name in names}) for names in rows]

    @classmethod
    def can_split(
        cls, settings: ClassificationSettings, train: Sequence[Record], held: Sequence[Record]
    ) -> bool:
        return bool(held) and len({name for names in cls.strata(settings, train) for name in names}) > 1

    @classmethod
    def used_fields(cls, settings: ClassificationSettings, values: dict[str, Any]) -> list[str]:
        return [*text_fields(values), "label"]

    def label_names(self, example: Example) -> list[str]:
        return list(self.names(example))

    def names(self, example: Example) -> tuple[str, ...]:
        """The labels of an example."""
        if example.label is None:
            return ()
        return example.label if self.settings.multi else (example.label,)

    def head_spec(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "kind": "sequence", "n_labels": len(self.labels), "task": "multi" if settings.multi else "single",
            "pooling": settings.pooling, "dropout": settings.dropout, "weights": self.class_weights(),
        }  # fmt: skip

    def class_weights(self) -> list[float] | None:
        """The weight of each class in the loss, 1 on average over rows; None: all the same."""
        if self.settings.class_weights == "none" or self.settings.multi:
            return None
        total, counts = sum(self.label_counts), np.asarray(self.label_counts)
        weights: list[float] = (total / (len(counts) * counts)).round(6).tolist()
        return weights

    def encode_example(
        self, example: Example, ids: list[list[int]], template: InputTemplate
    ) -> EncodedExample:
        framed, segments, cut = template.apply(ids, "middle" if self.settings.cut == "middle" else "end")
        label = None
        if example.label is not None:
            numbers = [self.index[name] for name in self.names(example) if name in self.index]
            label = numbers if self.settings.multi else (numbers[0] if numbers else -1)
        return EncodedExample(framed, segments, label, cut)

    def encode(
        self, examples: Sequence[Example], tokenizer: Tokenizer, template: InputTemplate
    ) -> list[EncodedExample]:
        if self.settings.cut != "nothing" or template.max_length is None:
            return super().encode(examples, tokenizer, template)
        if pairs := [example.where for example in examples if len(example.texts) > 1]:
            raise UsageError(
                "wrong_number_of_texts",
                f"task.cut=nothing: {pairs[0]} is a pair of texts, which are not read in windows",
            )
        max_ids = max(1, template.max_length - len(template.begin) - 1)
        rows: list[EncodedExample] = []
        encoded = tokenizer.encode_batch([example.texts[0] for example in examples])
        for number, (example, ids) in enumerate(zip(examples, encoded, strict=True)):
            n = max(1, -(-len(ids) // max_ids))
            edges = [place * len(ids) // n for place in range(n + 1)]  # of one length, but for one id
            windows = (self.encode_example(example, [ids[a:b]], template) for a, b in pairwise(edges))
            rows += [replace(window, meta=number) for window in windows]
        several = sum(count > 1 for count in Counter(row.meta for row in rows).values())
        log_notice(
            several, " of ", len(examples), f" texts are longer than {template.max_length} tokens: all are read",
            " in ", len(rows), " windows",
        )  # fmt: skip
        return rows

    def aggregate_windows(self, rows: Sequence[EncodedExample], outputs: list[Any]) -> list[Any]:
        if self.settings.cut != "nothing" or any(row.meta is None for row in rows):
            return outputs
        parts = groupby(zip(rows, outputs, strict=True), key=lambda pair: pair[0].meta)
        return [np.mean([output for _, output in part], axis=0) for _, part in parts]

    def augment_row(self, row: EncodedExample, random: np.random.Generator) -> EncodedExample:
        if not self.settings.word_dropout:
            return row
        kept = random.random(len(row.ids)) >= self.settings.word_dropout
        kept[[0, -1]] = True  # the ids around the texts and between them
        kept[:-1] |= np.diff(row.segments) != 0
        places = np.flatnonzero(kept)
        return replace(row, ids=[row.ids[at] for at in places], segments=[row.segments[at] for at in places])

    def label_tensor(self, labels: list[Any], length: int) -> Tensor:
        if not self.settings.multi:
            return torch.tensor(labels)
        targets = torch.zeros(len(labels), len(self.labels))
        for row, numbers in enumerate(labels):
            targets[row, numbers] = 1.0
        return targets

    def predict(self, head: Any, hidden: Tensor, batch: Batch) -> list[Any]:
        return list(head.predict(hidden, batch.mask).double().cpu().numpy())

    def metrics(
        self, examples: Sequence[Example], outputs: Sequence[Any], *, intervals: bool = True
    ) -> dict[str, Any]:
        probabilities = np.stack(outputs)
        if self.settings.multi:
            gold, unseen = self.gold_sets(examples)
            return classification.multi_label_scores(
                gold, probabilities, self.labels, unseen, intervals=intervals
            )
        truth = self.gold(examples)
        scores = classification.single_label_scores(truth, probabilities, self.labels, intervals=intervals)
        if intervals:
            scores["mistakes"] = self.mistakes(examples, probabilities, truth)
        return scores

    def gold(self, examples: Sequence[Example]) -> NDArray[np.int64]:
        """The class of each text; -1 for one never seen in training."""
        return np.asarray([self.index.get(example.label, -1) for example in examples], dtype=np.int64)

    def gold_sets(self, examples: Sequence[Example]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Which of the classes a text has (N, C), and how many others (N,)."""
        gold = np.zeros((len(examples), len(self.labels)), dtype=bool)
        for row, example in enumerate(examples):
            gold[row, [self.index[name] for name in example.label if name in self.index]] = True
        unseen = [sum(name not in self.index for name in example.label) for example in examples]
        return gold, np.asarray(unseen, dtype=np.int64)

    def per_example_metric(self, examples: Sequence[Example], outputs: Sequence[Any]) -> tuple[str, Floats]:
        probabilities = np.stack(outputs)
        if self.settings.multi:
            gold, unseen = self.gold_sets(examples)
            exact = ((probabilities >= 0.5) == gold).all(1) & (unseen == 0)
            return "exact_match", exact.astype(np.float64)
        return "accuracy", (probabilities.argmax(1) == self.gold(examples)).astype(np.float64)

    def majority_baseline(self, examples: Sequence[Example]) -> list[Any] | None:
        if self.settings.multi or not self.label_counts:
            return None
        return [np.asarray(self.label_counts) / sum(self.label_counts)] * len(examples)

    def combine(self, members: Sequence[Sequence[Any]], how: str) -> list[Any]:
        stacked = np.stack([np.stack(outputs) for outputs in members])  # (members, N, C)
        mean = stacked.mean(0)
        if how == "mean":
            return list(mean)
        if self.settings.multi:
            votes = (stacked >= 0.5).mean(0)
            return list(np.where(votes == 0.5, np.where(mean >= 0.5, 0.5, 0.5 - TIE), votes))
        votes = np.eye(len(self.labels))[stacked.argmax(2)].mean(0)
        return list((votes + TIE * mean) / (1 + TIE))

    def sections(self, metrics: dict[str, Any]) -> list[Section]:
        sections = []
        if table := metrics.get("confusion"):
            rows = [*self.labels, "(never seen)"][: len(table)]
            picture = heatmap(table, rows, self.labels, title="what was answered, of each class")
            alt = "a row a class, a column an answer; darker is a larger share of the row"
            sections.append(Section("Confusion", picture=picture, alt=alt))
        sections.append(Section("Classes", rows=metrics["classes"]))
        if bins := metrics.get("reliability"):
            text = (
                f"Expected calibration error {format_value(metrics['calibration_error'])}: the mean distance between"
                " confidence and accuracy. Below the diagonal the model is overconfident."
            )
            alt = "share that is right against confidence, with the number of texts"
            picture = reliability_diagram(bins)
            sections.append(Section("Calibration", text, rows=bins, picture=picture, alt=alt))
        if "mistakes" in metrics:
            sections.append(Section("Most confident mistakes", rows=metrics["mistakes"]))
        return sections

    def mistakes(
        self, examples: Sequence[Example], probabilities: np.ndarray, truth: np.ndarray
    ) -> list[dict[str, Any]]:
        """The wrong answers that were given with most confidence, first."""
        guess = probabilities.argmax(1)
        return most_confident(
            {
                "text": " | ".join(example.texts)[:300], "label": example.label, "where": example.where,
                "answer": self.labels[answer], "probability": float(row[answer]),
            }
            for example, row, answer, right in zip(examples, probabilities, guess, truth, strict=True)
            if answer != right
        )  # fmt: skip

    def answer_columns(self) -> list[str]:
        return ["labels"] if self.settings.multi else ["label", "probability"]

    def probabilities(self, output: Any) -> dict[str, float]:
        return values_by_label(self.labels, output)

    def to_json(self, example: Example, output: Any) -> dict[str, Any]:
        order = np.argsort(-output, kind="stable")
        ranked = {self.labels[at]: round(float(output[at]), 6) for at in order[:SHOWN]}
        if self.settings.multi:
            named = [cast_label(self.labels[at], self.label_type) for at in order if output[at] >= 0.5]
            return {"labels": named, "probabilities": ranked}
        best = self.labels[order[0]]
        return {
            "label": cast_label(best, self.label_type), "probability": ranked[best], "probabilities": ranked,
        }  # fmt: skip


def sort_key(name: str) -> tuple[int, float, str]:
    """Numbers by size, before names by their letters."""
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name


def text_fields(values: dict[str, Any]) -> tuple[str, ...]:
    """The fields of a row's text or texts."""
    return next((pair for pair in PAIRS if all(name in values for name in pair)), ("text",))


def read_texts(record: Record) -> tuple[str, ...]:
    """The text or the two texts of a row."""
    texts = tuple(read_field(record, name) for name in text_fields(record.values))
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise DataError(
            "invalid_row", f"{record.where}: a text is {type(wrong[0]).__name__} ({wrong[0]!r}), not a string"
        )
    return texts


def read_labels(record: Record, settings: ClassificationSettings) -> list[tuple[str, str]]:
    """The name of the label, and its value in the row (`multi`: of each label). Raises DataError where it is missing or
    no name.
    """
    values = label_values(read_field(record, "label"), settings)
    if not settings.multi and len(values) != 1:
        shown = repr(record.values["label"])[:200]
        raise DataError(
            "invalid_row",
            f"{record.where}: the label is a list of {len(values)} ({shown}): for any number of labels a text --set"
            " task.multi=true",
        )
    return [(label_name(value, record.where), repr(value)) for value in values]


def label_values(value: Any, settings: ClassificationSettings) -> list[Any]:
    """The labels of a row as written: those of a list, of a list written as text, of a text with separators."""
    if isinstance(value, str) and (listed := parse_list(value, quoted=not settings.multi)) is not None:
        value = listed
    if isinstance(value, list | tuple):
        return [item for item in value if item != ""] if settings.multi else list(value)
    if not settings.multi:
        return [value]
    if value is None or value == "" or value != value:
        return []
    return split_labels(value, settings.separator or "|") if isinstance(value, str) else [value]


def set_separator(
    settings: ClassificationSettings, records: Sequence[Record], *, report: bool = False
) -> ClassificationSettings:
    """The settings with the separator of labels in these rows: the one set if a row has it, else the likeliest."""
    if not settings.multi:
        return settings
    labels = [record.values.get("label") for record in records]
    texts = [
        label for label in labels if isinstance(label, str) and label.strip() and parse_list(label) is None
    ]
    if not texts or (settings.separator and any(settings.separator in text for text in texts)):
        return settings
    sign = find_separator(texts)
    if report and sign and sign != settings.separator:
        n = sum(sign in text for text in texts)
        log_notice(
            f"labels are separated by {sign!r}, which {n:,} of {len(texts):,} rows have; for another separator --set"
            " task.separator=SIGN"
        )
    if report and not sign:
        looked = settings.separator or "a bar, semicolon or comma that separates labels"
        log_notice(
            f"no row has {looked}: the label of a row is taken whole (labels are separated by |; for another separator"
            " --set task.separator=SIGN)"
        )
    return replace(settings, separator=sign or settings.separator)

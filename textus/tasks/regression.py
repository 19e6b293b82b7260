"""Numbers for a text or a pair of texts (`number`), or one of several ratings in order (`ordinal`).

Fields: the texts as in `classification`; `score` or `label`, a number. `task.targets=price,stars` names several fields
to predict; `task.numeric=year,area` names columns of numbers that are read with the text. Both are standardised by the
training rows' mean and deviation, which the head keeps.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from textus.core.console import log_notice
from textus.core.errors import DataError, UsageError
from textus.data.batch import Batch
from textus.data.labeled import Record
from textus.data.skipping import parse_rows
from textus.metrics import regression
from textus.tasks.base import (
    EncodedExample,
    Example,
    InputTemplate,
    Task,
    list_fields,
    read_field,
    report_unseen,
)
from textus.tasks.classification import read_texts, text_fields
from textus.tasks.reporting import values_by_label

MOST_RATINGS = 50
SHOWN = 10


@dataclass(frozen=True)
class RegressionSettings:
    """`kind`: any numbers, or ratings in order; `targets`: the fields to predict, with commas between (none: `score` or
    `label`); `numeric`: columns of numbers to read with the text; `missing`: rows without one of these are refused, or
    get the training rows' mean; `pooling` and `dropout` of the head's input; `longest`: ids of a text that are read (0:
    the model's context).
    """

    kind: Literal["number", "ordinal"] = "number"
    targets: str = ""
    numeric: str = ""
    missing: Literal["refuse", "mean"] = "refuse"
    pooling: Literal["mean", "cls", "last", "max"] = "mean"
    dropout: float = 0.1
    longest: int = 0


class Regression(Task):
    """See the module. `labels` are the names of the targets, or the ratings in ascending order."""

    name = "regression"
    config = RegressionSettings
    settings: RegressionSettings
    label_kind = "numbers or ratings"
    min_rows = 4
    text_counts = (1, 2)
    mistakes_title = "Furthest from what is right"

    def __init__(
        self,
        settings: RegressionSettings,
        labels: Sequence[str],
        scales: dict[str, list[float]] | None = None,
    ) -> None:
        super().__init__(settings, labels)
        self.scales = scales or {}
        self.numeric = split_names(settings.numeric)

    @property
    def ordinal(self) -> bool:
        """Whether ratings are predicted, not numbers."""
        return self.settings.kind == "ordinal"

    @classmethod
    def from_records(cls, settings: RegressionSettings, records: Sequence[Record]) -> Regression:
        targets, numeric = target_fields(settings, records), split_names(settings.numeric)
        if both := set(targets) & set(numeric):
            raise UsageError(
                "duplicate_column",
                f"{both.pop()!r} is both in task.targets and in task.numeric; name it once",
            )
        rows = parse_rows(records, cls.row_parser(settings, records, labelled=True))
        labels, numbers = np.asarray([row.label for row in rows]), np.asarray([row.numbers for row in rows])
        for name, column in zip(targets, labels.T, strict=True):
            if len(column) and np.ptp(column) == 0:
                raise DataError(
                    "one_class",
                    f"all {len(records):,} rows have the {name} {column[0]:g}: there is nothing to learn",
                )
        scales = fit_scale(numeric, numbers, "number_")
        if settings.kind == "number":
            return cls(settings, targets, {**fit_scale(targets, labels, ""), **scales})
        if len(targets) > 1:
            raise UsageError(
                "incompatible_settings",
                f"task.targets={settings.targets}: ratings are of one field; name one",
            )
        if len(ratings := np.unique(labels)) > MOST_RATINGS:
            raise DataError(
                "not_classes",
                f"{len(ratings):,} different ratings, such as {ratings[0]:g} and {ratings[1]:g}: for numbers leave"
                " task.kind=ordinal out",
            )
        return cls(settings, [rating_name(rating) for rating in ratings], scales)

    def make_examples(self, records: Sequence[Record], *, labelled: bool) -> list[Example]:
        examples = super().make_examples(records, labelled=labelled)
        lacking = sum(any(map(math.isnan, example.numbers)) for example in examples)
        if examples and examples[0].numbers:
            log_notice(
                lacking, " of ", len(examples), " rows lack a number: they get the training rows' mean"
            )
        if self.ordinal and labelled:
            ratings = sorted(rating_name(example.label[0]) for example in examples)
            report_unseen("ratings", ratings, self.labels, "are never predicted")
        return examples

    @classmethod
    def row_parser(
        cls, settings: RegressionSettings, records: Sequence[Record], *, labelled: bool
    ) -> Callable[[Record], Example]:
        targets = target_fields(settings, records) if labelled else []
        numeric, gaps = split_names(settings.numeric), settings.missing == "mean"

        def parse(record: Record) -> Example:
            texts = read_texts(record)
            label = tuple(read_number(record, name) for name in targets) if labelled else None
            numbers = tuple(read_number(record, name, gaps=gaps) for name in numeric)
            return Example(texts, label, record.where, numbers)

        return parse

    @classmethod
    def can_split(cls, settings: RegressionSettings, train: Sequence[Record], held: Sequence[Record]) -> bool:
        targets = target_fields(settings, [*train, *held])
        return all(has_two_values(part, name) for part in (train, held) for name in targets)

    @classmethod
    def used_fields(cls, settings: RegressionSettings, values: dict[str, Any]) -> list[str]:
        targets = target_fields(settings, [Record(values, "")])
        return [*text_fields(values), *targets, *split_names(settings.numeric)]

    def check_validation_set(self, examples: Sequence[Example]) -> None:
        for place in range(len(examples[0].label) if examples else 0):
            if len({example.label[place] for example in examples}) < 2:
                raise DataError(
                    "one_class",
                    f"all {len(examples):,} rows to choose by have the number {examples[0].label[place]:g}: they"
                    " cannot measure the answers; give others with --dev",
                )

    def head_spec(self) -> dict[str, Any]:
        settings = self.settings
        shared = {"pooling": settings.pooling, "dropout": settings.dropout, **self.scales}
        if self.ordinal:
            return {"kind": "ordinal", "n_labels": len(self.labels), **shared}
        return {"kind": "number", **shared}

    def encode_example(
        self, example: Example, ids: list[list[int]], template: InputTemplate
    ) -> EncodedExample:
        if len(example.numbers) != len(self.numeric):
            raise UsageError(
                "incompatible_data",
                f"{example.where}: numbers are read with the text ({', '.join(self.numeric)}); give a file with these"
                " columns",
            )
        framed, segments, cut = template.apply(ids)
        label = example.label
        if label is not None and self.ordinal:
            label = self.index.get(rating_name(label[0]), -1)
        return EncodedExample(framed, segments, label, cut, numbers=example.numbers)

    def label_tensor(self, labels: list[Any], length: int) -> Tensor:
        return torch.tensor(labels) if self.ordinal else torch.tensor(labels, dtype=torch.float64)

    def predict(self, head: Any, hidden: Tensor, batch: Batch) -> list[Any]:
        return list(head.predict(hidden, batch.mask, batch.numbers).double().cpu().numpy())

    def metrics(
        self, examples: Sequence[Example], outputs: Sequence[Any], *, intervals: bool = True
    ) -> dict[str, Any]:
        gold, predicted = stack_numbers(examples), np.stack(outputs)
        if self.ordinal:
            ranks = self.rating_ranks(gold[:, 0], predicted)
            scores = regression.rating_scores(*ranks, intervals=intervals)
        elif len(self.labels) == 1:
            scores = regression.regression_scores(gold[:, 0], predicted[:, 0], "r2", intervals=intervals)
            if intervals:
                scores["mistakes"] = largest_errors(examples, gold[:, 0], predicted[:, 0])
        else:
            scores = regression.multi_target_scores(gold, predicted, self.labels, intervals=intervals)
        if undefined := scores.get("undefined"):
            log_notice(f"{', '.join(undefined)} cannot be computed: all labels, or all answers, are the same")
        return scores

    def rating_ranks(
        self, gold: np.ndarray, probabilities: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The ranks of right and predicted ratings among all ratings, unseen ones included, and these."""
        known = np.asarray([float(label) for label in self.labels])
        ratings = np.unique([*known, *gold])
        guess = known[[median_rating(row) for row in probabilities]]
        truth, answered = (np.searchsorted(ratings, values) for values in (gold, guess))
        return truth, answered, ratings

    def weighted_metric(
        self, examples: Sequence[Example], outputs: Sequence[Any]
    ) -> tuple[str, Callable[[np.ndarray], float]]:
        gold, predicted = stack_numbers(examples), np.stack(outputs)
        if self.ordinal:
            metrics = regression.rating_metrics(*self.rating_ranks(gold[:, 0], predicted))
            return "quadratic_kappa", lambda weights: metrics(weights)["quadratic_kappa"]
        columns = zip(gold.T, predicted.T, strict=True)
        targets = [regression.regression_metrics(right, answers) for right, answers in columns]
        return "r2", lambda weights: float(np.mean([target(weights)["r2"] for target in targets]))

    def answer_columns(self) -> list[str]:
        if self.ordinal:
            return ["label", "probability"]
        return ["score"] if len(self.labels) == 1 else self.labels

    def probabilities(self, output: Any) -> dict[str, float] | None:
        return values_by_label(self.labels, output) if self.ordinal else None

    def to_json(self, example: Example, output: Any) -> dict[str, Any]:
        values = values_by_label(self.labels, output)
        if self.ordinal:
            best = self.labels[median_rating(output)]
            return {"label": best, "probability": values[best], "probabilities": values}
        return {"score": values[self.labels[0]]} if len(values) == 1 else values


def stack_numbers(examples: Sequence[Example]) -> np.ndarray:
    """The labels of examples (N, targets)."""
    return np.asarray([example.label for example in examples], dtype=np.float64)


def largest_errors(examples: Sequence[Example], gold: np.ndarray, guess: np.ndarray) -> list[dict[str, Any]]:
    """The answers with the largest errors, first."""
    off = np.abs(guess - gold)
    return [
        {
            "text": " | ".join(examples[at].texts)[:300], "label": float(gold[at]), "where": examples[at].where,
            "answer": round(float(guess[at]), 6), "off": round(float(off[at]), 6),
        }
        for at in np.argsort(-off, kind="stable")[:SHOWN]
    ]  # fmt: skip


def median_rating(probabilities: np.ndarray) -> int:
    """The index of the median, the rating of the smallest expected distance."""
    return int(np.searchsorted(np.cumsum(probabilities), 0.5 * probabilities.sum()))


def split_names(names: str) -> list[str]:
    """Names with commas between."""
    return [name.strip() for name in names.split(",") if name.strip()]


def rating_name(number: float) -> str:
    """A rating's name: whole numbers without a point."""
    return str(int(number)) if float(number).is_integer() else str(float(number))


def fit_scale(names: Sequence[str], values: np.ndarray, prefix: str) -> dict[str, list[float]]:
    """Mean and deviation of each column (rows, columns) without its gaps, as the head takes them."""
    means, deviations = [], []
    for name, column in zip(names, values.T, strict=True):
        known = column[~np.isnan(column)]
        if not len(known):
            raise DataError(
                "empty_data", f"no row has a number {name!r}: there is no mean to take; leave the column out"
            )
        if np.ptp(known) == 0:
            log_notice(f"{name!r} is {known[0]:g} in every row: the model cannot learn from it")
        means.append(float(known.mean()))
        deviations.append(float(known.std()) if np.ptp(known) else 1.0)
    return {f"{prefix}means": means, f"{prefix}deviations": deviations} if means else {}


def score_field(records: Sequence[Record]) -> str | None:
    """The field that holds the number: `score` where a row has it, else `label`; None where no row has either."""
    fields = {name for record in records for name in record.values}
    return next((name for name in ("score", "label") if name in fields), None)


def target_fields(settings: RegressionSettings, records: Sequence[Record]) -> list[str]:
    """The fields of the numbers to predict. Raises DataError where none is set, and rows have no `score` or `label`."""
    if names := split_names(settings.targets):
        return names
    if (name := score_field(records)) is None:
        raise DataError(
            "column_not_found",
            f"{records[0].where if records else 'the data'} has no field 'score' or 'label'; it has"
            f" {list_fields(records[0]) if records else 'nothing'}: name the column of the number with --columns"
            " label=COLUMN",
        )
    return [name]


def has_two_values(records: Sequence[Record], name: str) -> bool:
    """Whether a field has two numbers or more."""
    return len({read_number(record, name) for record in records}) > 1


def read_number(record: Record, name: str, *, gaps: bool = False) -> float:
    """The number of a field; with `gaps`, NaN for an empty one. Raises DataError for anything else."""
    value = read_field(record, name)
    empty = value is None or (isinstance(value, str) and not value.strip()) or value != value
    if empty and gaps:
        return math.nan
    remedy = "give it one" if empty else "write it in digits, such as 3.5"
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d+,\d+\s*", value):
        remedy = f"with a decimal point it is {value.strip().replace(',', '.')}"
    try:
        if isinstance(value, str) and "_" in value:
            raise ValueError("Python's way to group digits is not read elsewhere")
        if not isinstance(value, bool | list | dict) and not empty and math.isfinite(number := float(value)):
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    instead = ", leave the row out, or take the mean with --set task.missing=mean" if empty else ""
    raise DataError(
        "invalid_row", f"{record.where}: the {name} is {value!r}, which is no number; {remedy}{instead}"
    )

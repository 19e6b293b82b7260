"""Robustness: how much a fine-tuned run's metric drops when the rows are perturbed.

Each perturbation changes every row by one thing and moves its labels along. The drop is paired, on the same rows. If
the metric is a mean over rows its interval is a bootstrap over them (Efron and Tibshirani 1993), else a jackknife that
leaves out one twentieth of the rows at a time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from textus.augment.augmenter import (
    AugmentConfig,
    apply_operation,
    content_hash,
    make_operations,
    origin_id,
)
from textus.augment.operations import Operation
from textus.augment.units import TokenizedRecord, Tokens, WordToken, starts_with_han, tokenize_record
from textus.core.console import log_notice
from textus.core.errors import DataError, UsageError
from textus.core.rng import derive_seed
from textus.core.scripts import HAN_BMP
from textus.data.labeled import Record
from textus.data.read_options import AUTODETECT, ReadOptions
from textus.evaluation.task_report import read_rows
from textus.metrics.resampling import bootstrap, interval, paired_bootstrap
from textus.models.contract import LanguageModel
from textus.tasks.base import Example, Task
from textus.tasks.inference import predict_texts
from textus.tokenizers import Tokenizer

RATE = 0.15
"""Share of words (or spaces) that a perturbation changes."""
GROUPS = 20
IRRELEVANT = (
    "The bus to the station leaves at half past nine.",
    "Tickets are sold at the entrance.",
    "It rained.",
)
IRRELEVANT_ZH = ("开往车站的汽车九点半发车。", "门票在二楼出售。", "昨天下了雨。")

Predicted = tuple[list[Example], list[Any]]
"""Examples and their predictions."""


# ── perturbations that are not augmentations ───────────────────────────────────────────────────


def change_case(convert: Any) -> Operation:
    """Change the case of every word, unless that changes its length, so that labels stay in place."""

    def operation(units: Tokens, random: Random, rate: float) -> Tokens:
        converted = [convert(unit.text) for unit in units]
        pairs = zip(units, converted, strict=True)
        return [replace(unit, text=text) if len(text) == len(unit.text) else unit for unit, text in pairs]

    return operation


def change_spacing(units: Tokens, random: Random, rate: float) -> Tokens | None:
    """Drop or double spaces, and insert some in Chinese. None for tokens with tags, which have no spaces."""
    if any(unit.tag is not None for unit in units):
        return None
    changed = list(units)
    for place, unit in enumerate(units[:-1]):
        if random.random() < rate and (
            unit.trailing_space or (starts_with_han(unit.text) and starts_with_han(units[place + 1].text))
        ):
            changed[place] = replace(
                unit,
                trailing_space=random.choice(("", 2 * unit.trailing_space)) if unit.trailing_space else " ",
            )
    return changed


def irrelevant_sentence(units: Tokens, random: Random, rate: float) -> Tokens:
    """Append a sentence unrelated to the text."""
    zh = any(starts_with_han(unit.text) for unit in units)
    sentence = random.choice(IRRELEVANT_ZH if zh else IRRELEVANT)
    tag = None if all(unit.tag is None for unit in units) else "O"
    words = re.findall(rf"[{HAN_BMP}。]|\w+|\.", sentence) if tag else [sentence]
    gap = "" if zh else " "
    last = [replace(units[-1], trailing_space=units[-1].trailing_space or gap)] if units else []
    return [*units[:-1], *last, *(WordToken(word, gap if tag else "", tag=tag) for word in words)]


def make_perturbations(vectors: Path | None) -> dict[str, Operation]:
    """The perturbations by name; synonyms only if there is a source of them, otherwise a notice."""
    operations = make_operations(AugmentConfig("typos,ocr"))
    try:
        operations |= make_operations(AugmentConfig("synonyms", vectors=str(vectors or "")))
    except UsageError as error:
        log_notice(f"robustness to synonyms is not measured: {error}")
    return operations | {
        "lower case": change_case(str.lower), "upper case": change_case(str.upper), "spacing": change_spacing,
        "irrelevant sentence": irrelevant_sentence,
    }  # fmt: skip


def perturb(
    records: Sequence[Record], name: str, operation: Operation, seed: int
) -> tuple[list[Record], int]:
    """(perturbed rows, number of rows that changed); a row that cannot be perturbed stays unchanged."""
    perturbed, n_changed = [], 0
    for record in records:
        tokenized = tokenize_record(record.values, record.where)
        if name == "irrelevant sentence":  # once a row
            longest = max(tokenized.fields, key=lambda field: len(tokenized.fields[field]))
            tokenized = TokenizedRecord(record.values, {longest: tokenized.fields[longest]}, tokenized.spans)
        random = Random(derive_seed(seed, name, origin_id(record.values)))
        row = apply_operation(tokenized, operation, random, RATE)
        n_changed += content_hash(tokenized, row) != content_hash(tokenized, record.values)
        perturbed.append(Record(row, record.where))
    return perturbed, n_changed


# ── evaluation ────────────────────────────────────────────────────────────────────────────────


def main_metric(task: Task, predicted: Predicted) -> tuple[str, float]:
    """The task's metric that is a mean over rows, else its first: (name, value)."""
    if per_row := task.per_example_metric(*predicted):
        return per_row[0], float(per_row[1].mean())
    scores = task.metrics(*predicted, intervals=False)
    name = next(name for name, value in scores.items() if isinstance(value, dict) and "value" in value)
    return name, float(scores[name]["value"])


def metric_drop(task: Task, plain: Predicted, other: Predicted, seed: int) -> dict[str, float]:
    """How much the metric drops from `plain` to `other` on the same rows, with its interval."""
    n = len(plain[0])
    first, second = task.per_example_metric(*plain), task.per_example_metric(*other)
    if first is not None and second is not None:
        return interval(paired_bootstrap(first[1], second[1], np.ones(n), seed=seed), n)

    def drop_on(rows: Sequence[int]) -> float:
        parts = [
            ([examples[row] for row in rows], [outputs[row] for row in rows])
            for examples, outputs in (plain, other)
        ]
        return main_metric(task, parts[0])[1] - main_metric(task, parts[1])[1]

    value, groups = drop_on(range(n)), min(GROUPS, n)
    if groups < 2:
        return interval((value, value, value), n)
    order = np.random.default_rng(seed).permutation(n) % groups
    without = np.asarray([drop_on(np.flatnonzero(order != group).tolist()) for group in range(groups)])
    spread = 1.96 * math.sqrt((groups - 1) * without.var())
    return interval((value, value - spread, value + spread), n)


def evaluate_robustness(
    model: LanguageModel,
    task: Task,
    tokenizer: Tokenizer,
    path: Path,
    *,
    options: ReadOptions = AUTODETECT,
    vectors: Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The task's main metric on the labelled rows of a file, plain and after each perturbation, with 95 % intervals of
    the drop. Raises DataError for rows that a perturbation makes unreadable.
    """
    rows = read_rows(task, path, options)
    examples = rows.examples
    records = [Record(values, example.where) for values, example in zip(rows.fields, examples, strict=True)]
    plain = examples, predict_texts(model, task, tokenizer, examples)
    name, value = main_metric(task, plain)
    results = []
    for change, operation in make_perturbations(vectors).items():
        others, n_changed = perturb(records, change, operation, seed)
        perturbed = task.make_examples(others, labelled=True)
        if len(perturbed) != len(examples):
            raise DataError(
                "invalid_rows",
                f"{len(examples) - len(perturbed)} rows cannot be read after the perturbation {change!r}",
            )
        other = perturbed, predict_texts(model, task, tokenizer, perturbed)
        if not n_changed:
            log_notice(f"perturbation {change!r} changed no row of {path}")
        results.append(
            {
                "change": change, "rows_changed": n_changed, name: main_metric(task, other)[1],
                "drop": metric_drop(task, plain, other, seed),
            }
        )  # fmt: skip
    per_row, n = task.per_example_metric(*plain), len(examples)
    whole = interval(bootstrap(per_row[1], np.ones(n), seed=seed), n) if per_row else value
    return {"rows": n, "figure": name, name: whole, "changes": results}

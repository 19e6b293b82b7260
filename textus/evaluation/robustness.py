"""How much worse a fine-tuned run answers when the same rows are written a little differently.

Every row is changed by one thing at a time, its labels moved along, and asked again. The drop is paired: the same rows,
plain and changed, so what makes a row hard for both cancels. Where a task's figure is a mean over rows the interval is
a bootstrap over them (Efron and Tibshirani 1993), else a jackknife that leaves out one twentieth of the rows at a time.
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
"""Share of words (or blanks) that a change concerns."""
GROUPS = 20
BESIDE = (
    "The bus to the station leaves at half past nine.",
    "Tickets are sold on the second floor.",
    "It rained.",
)
BESIDE_ZH = ("开往车站的汽车九点半发车。", "门票在二楼出售。", "昨天下了雨。")

Predicted = tuple[list[Example], list[Any]]
"""Examples and the answers to them."""


# ── changes that are no augmentation ───────────────────────────────────────────────────────────


def change_case(write: Any) -> Operation:
    """Every word in other letters; one that would become longer or shorter stays, so that labels do."""

    def operation(units: Tokens, random: Random, rate: float) -> Tokens:
        written = [write(unit.text) for unit in units]
        pairs = zip(units, written, strict=True)
        return [replace(unit, text=text) if len(text) == len(unit.text) else unit for unit, text in pairs]

    return operation


def change_spacing(units: Tokens, random: Random, rate: float) -> Tokens | None:
    """Blanks lost or doubled, and in Chinese put where there are none. Tokens have no blanks."""
    if any(unit.tag is not None for unit in units):
        return None
    found = list(units)
    for place, unit in enumerate(units[:-1]):
        if random.random() < rate and (
            unit.trailing_space or (starts_with_han(unit.text) and starts_with_han(units[place + 1].text))
        ):
            found[place] = replace(
                unit,
                trailing_space=random.choice(("", 2 * unit.trailing_space)) if unit.trailing_space else " ",
            )
    return found


def irrelevant_sentence(units: Tokens, random: Random, rate: float) -> Tokens:
    """A sentence that has nothing to do with the text, behind it."""
    zh = any(starts_with_han(unit.text) for unit in units)
    sentence = random.choice(BESIDE_ZH if zh else BESIDE)
    tag = None if all(unit.tag is None for unit in units) else "O"
    words = re.findall(rf"[{HAN_BMP}。]|\w+|\.", sentence) if tag else [sentence]
    gap = "" if zh else " "
    last = [replace(units[-1], trailing_space=units[-1].trailing_space or gap)] if units else []
    return [*units[:-1], *last, *(WordToken(word, gap if tag else "", tag=tag) for word in words)]


def make_perturbations(vectors: Path | None) -> dict[str, Operation]:
    """What is done to the rows, by name; synonyms only where there is a source of them, else that is told."""
    found = make_operations(AugmentConfig("typos,ocr"))
    try:
        found |= make_operations(AugmentConfig("synonyms", vectors=str(vectors or "")))
    except UsageError as error:
        log_notice(f"robustness to synonyms is not measured: {error}")
    return found | {
        "lower case": change_case(str.lower), "upper case": change_case(str.upper), "spacing": change_spacing,
        "irrelevant sentence": irrelevant_sentence,
    }  # fmt: skip


def perturb(
    records: Sequence[Record], name: str, operation: Operation, seed: int
) -> tuple[list[Record], int]:
    """The rows changed, and how many of them are; a row that cannot be stays as it is."""
    found, n_changed = [], 0
    for record in records:
        taken = tokenize_record(record.values, record.where)
        if name == "irrelevant sentence":  # once a row
            longest = max(taken.fields, key=lambda each: len(taken.fields[each]))
            taken = TokenizedRecord(record.values, {longest: taken.fields[longest]}, taken.spans)
        random = Random(derive_seed(seed, name, origin_id(record.values)))
        row = apply_operation(taken, operation, random, RATE)
        n_changed += content_hash(taken, row) != content_hash(taken, record.values)
        found.append(Record(row, record.where))
    return found, n_changed


# ── measuring ──────────────────────────────────────────────────────────────────────────────────


def main_metric(task: Task, asked: Predicted) -> tuple[str, float]:
    """The task's figure that is a mean over rows, else its first, and its name."""
    if each := task.per_example_metric(*asked):
        return each[0], float(each[1].mean())
    scores = task.metrics(*asked, intervals=False)
    name = next(name for name, value in scores.items() if isinstance(value, dict) and "value" in value)
    return name, float(scores[name]["value"])


def metric_drop(task: Task, plain: Predicted, other: Predicted, seed: int) -> dict[str, float]:
    """How much the figure loses from `plain` to `other`, the same rows, with its interval."""
    n = len(plain[0])
    first, second = task.per_example_metric(*plain), task.per_example_metric(*other)
    if first is not None and second is not None:
        return interval(paired_bootstrap(first[1], second[1], np.ones(n), seed=seed), n)

    def lost(rows: Sequence[int]) -> float:
        parts = [
            ([asked[0][row] for row in rows], [asked[1][row] for row in rows]) for asked in (plain, other)
        ]
        return main_metric(task, parts[0])[1] - main_metric(task, parts[1])[1]

    value, groups = lost(range(n)), min(GROUPS, n)
    if groups < 2:
        return interval((value, value, value), n)
    order = np.random.default_rng(seed).permutation(n) % groups
    without = np.asarray([lost(np.flatnonzero(order != group).tolist()) for group in range(groups)])
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
    """The task's first figure on the labelled rows of a file, plain and after each change: what it loses, with a 95 %
    interval. Raises DataError for rows that a change would make unreadable.
    """
    rows = read_rows(task, path, options)
    examples = rows.examples
    records = [Record(values, each.where) for values, each in zip(rows.fields, examples, strict=True)]
    plain = examples, predict_texts(model, task, tokenizer, examples)
    name, value = main_metric(task, plain)
    found = []
    for change, operation in make_perturbations(vectors).items():
        others, n_changed = perturb(records, change, operation, seed)
        asked = task.make_examples(others, labelled=True)
        if len(asked) != len(examples):
            raise DataError(
                "invalid_rows",
                f"{len(examples) - len(asked)} rows cannot be read any more after the change {change!r}",
            )
        other = asked, predict_texts(model, task, tokenizer, asked)
        if not n_changed:
            log_notice(f"{change} changed no row of {path}")
        found.append(
            {
                "change": change, "rows_changed": n_changed, name: main_metric(task, other)[1],
                "drop": metric_drop(task, plain, other, seed),
            }
        )  # fmt: skip
    each, n = task.per_example_metric(*plain), len(examples)
    whole = interval(bootstrap(each[1], np.ones(n), seed=seed), n) if each else value
    return {"rows": n, "figure": name, name: whole, "changes": found}

"""Fine-tuned runs of one task on the same rows: each one's figures, and which differences are no chance.

Rows are drawn again and again, the same for both sides (Efron and Tibshirani 1993): what makes a row hard for everyone
cancels. One model is in memory at a time.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from textus.core.errors import DataError, UsageError
from textus.core.hardware import peak_memory_bytes, reset_peak_memory
from textus.core.io import write_atomic, write_json
from textus.core.memory import release_freed_memory
from textus.data.read_options import AUTODETECT, ReadOptions, common_read_options, run_read_options
from textus.evaluation import task_report
from textus.evaluation.comparison import training_curves
from textus.evaluation.perplexity import n_parameters, weights_bytes
from textus.metrics.resampling import interval
from textus.reporting.html import Section, write_report
from textus.reporting.plots import bars
from textus.runs.store import open_run
from textus.tasks.base import Floats, metrics_with_intervals
from textus.tasks.inference import predict_texts
from textus.tasks.registry import load_for_task, record_for_task, task_from_record

RESAMPLES = 1000
SURE = 6
"""Rows that it takes to call one run better."""

Figure = Callable[[Floats], float]
"""A figure as a function of what each row weighs."""


@dataclass(frozen=True)
class MeasuredRun:
    """One run on the rows: its line of the table, its figure by weights (None: it has none), and where its rows are."""

    row: dict[str, Any]
    name: str
    metric: Figure | None
    row_ids: tuple[str, ...]


def compare(
    runs: Mapping[str, Path], on: Any, *, options: ReadOptions = AUTODETECT, task: str | None = None
) -> dict[str, Any]:
    """{"on", "task", "rows", "figure", "runs", "pairs", "verdict"}: `runs` a row each, the best first; `pairs` how much
    better one is than the other with its paired 95 % interval; `verdict` the same in sentences.

    Raises UsageError for runs of different tasks, DataError for rows they do not all answer.
    """
    check_same_task(runs, task)
    trained = [run_read_options(record_for_task(open_run(run).record, task, run)) for run in runs.values()]
    common = common_read_options(trained)  # all of them read one text
    own = {
        name: ReadOptions(reading.columns, common.encoding)
        for name, reading in zip(runs, trained, strict=True)
    }
    measured = [measure_run(name, run, on, (options, own[name]), task) for name, run in runs.items()]
    first = measured[0]
    for other in measured[1:]:
        if other.row_ids != first.row_ids:
            raise DataError(
                "runs_differ",
                f"{first.row['run']} and {other.row['run']} do not predict the same rows of"
                f" {task_report.dataset_name(on)} ({len(first.row_ids):,} and {len(other.row_ids):,}):"
                " they were trained on other kinds of rows",
            )
    measured.sort(key=lambda entry: -value_of(entry))
    pairs = [] if first.metric is None else [compare_pair(*pair) for pair in combinations(measured, 2)]
    return {
        "on": task_report.dataset_name(on),
        "task": first.row["task"],
        "rows": len(first.row_ids),
        "figure": first.name,
        "runs": [entry.row for entry in measured],
        "pairs": pairs,
        "verdict": verdict(pairs, first.name),
    }


def check_same_task(runs: Mapping[str, Path], task: str | None) -> None:
    """UsageError naming two runs that do different tasks."""
    if len(runs) < 2:
        raise UsageError(
            "missing_argument",
            "compare takes two fine-tuned runs or more; for one: textus evaluate RUN --on FILE",
        )
    records = {name: record_for_task(open_run(run).record, task, run) for name, run in runs.items()}
    (first, known), *others = records.items()
    for name, record in others:
        if record["task"] != known["task"]:
            raise UsageError(
                "runs_differ",
                f"{first} does {known['task']}, {name} {record['task']}: runs of one task are compared",
            )
        for setting in task_from_record(known).must_match:
            mine, its = (other["task_settings"][setting] for other in (known, record))
            if mine != its:
                raise UsageError(
                    "runs_differ", f"{first} and {name} differ in task.{setting} ({mine} and {its})"
                )


def measure_run(
    name: str, run: Path, on: Any, options: tuple[ReadOptions, ReadOptions], task: str | None
) -> MeasuredRun:
    """One run, loaded, asked and let go; its memory is that of the process while it was alone in it. `options`: as
    given, and as in training.
    """
    gc.collect()
    release_freed_memory()
    reset_peak_memory()
    model, tokenizer, record = load_for_task(run)
    record = record_for_task(record, task, run)
    its = task_from_record(record)
    rows = task_report.read_rows(its, on, *options)
    started = time.perf_counter()
    outputs = predict_texts(model, its, tokenizer, rows.examples)
    seconds = time.perf_counter() - started
    weighed = its.weighted_metric(rows.examples, outputs)
    figures = metrics_with_intervals(its.metrics(rows.examples, outputs))
    row = {
        "run": name, "task": its.head_name, "family": record["family"], **figures, "parameters": n_parameters(model),
        "seconds": seconds, "weights_bytes": weights_bytes(model), "peak_memory_bytes": peak_memory_bytes(),
        "rows_trained_on": task_report.count_train_overlap(record, rows),
    }  # fmt: skip
    del model
    first = weighed[0] if weighed else next(iter(figures))
    return MeasuredRun(
        row, first, weighed[1] if weighed else None, tuple(example.where for example in rows.examples)
    )


def value_of(measured: MeasuredRun) -> float:
    """The run's figure on all rows."""
    if measured.metric is None:
        return float(measured.row[measured.name]["value"])
    return measured.metric(np.ones(len(measured.row_ids)))


def compare_pair(better: MeasuredRun, worse: MeasuredRun, *, seed: int = 0) -> dict[str, Any]:
    """How much better one is than the other, and whether that could be chance."""
    assert better.metric
    assert worse.metric
    n, random = len(better.row_ids), np.random.default_rng(seed)
    drawn = [random.multinomial(n, np.full(n, 1 / n)).astype(np.float64) for _ in range(RESAMPLES)]
    differences = np.asarray([better.metric(weights) - worse.metric(weights) for weights in drawn])
    low, high = np.nanquantile(differences, [0.025, 0.975])
    difference = interval((value_of(better) - value_of(worse), float(low), float(high)), n)
    return {
        "better": better.row["run"],
        "worse": worse.row["run"],
        "difference": difference,
        "certain": n >= SURE and difference["low"] > 0,
    }


def verdict(pairs: Sequence[dict[str, Any]], figure: str) -> list[str]:
    """What the differences say, a sentence a pair; a run is called better only where the interval leaves zero out."""
    sentences = []
    for pair in pairs:
        d = pair["difference"]
        between = f"95 % interval {d['low']:.4f} to {d['high']:.4f}, {d['n']:,} rows"
        spread = f"{d['value']:.4f} {figure.replace('_', ' ')} ({between})"
        if pair["certain"]:
            sentences.append(f"{pair['better']} is better than {pair['worse']} by {spread}.")
        else:
            sentences.append(
                f"{pair['better']} and {pair['worse']} cannot be told apart on these rows: {spread}."
            )
    return sentences or [f"There is no paired interval for {figure}; see each run's own."]


def write_task_comparison(out: Path, comparison: dict[str, Any], logs: Mapping[str, Path]) -> None:
    """The comparison as comparison.json, a picture and a page, with the training of each run in `logs`."""
    out.mkdir(parents=True, exist_ok=True)
    shown = [{name: value for name, value in row.items() if name != "task"} for row in comparison["runs"]]
    name = comparison["figure"]
    picture = bars(shown, name="run", value=name) if name in shown[0] else None
    text = "\n\n".join(
        [f"{comparison['rows']:,} rows of {comparison['on']}, with 95 % intervals.", *comparison["verdict"]]
    )
    sections = [
        Section("Which is better", text, rows=shown, picture=picture, alt=f"{name} with intervals"),
        *training_curves(logs, per="loss a row"),
    ]
    write_json(out / "comparison.json", comparison)
    if picture:
        write_atomic(out / "comparison.png", picture)
    write_report(out / "comparison.html", f"Comparison: {comparison['task']}", sections)

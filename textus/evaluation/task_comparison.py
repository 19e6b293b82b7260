"""Compare fine-tuned runs of one task on the same rows: the metrics of each, and which differences are significant.

All resamples draw the same rows for both sides (Efron and Tibshirani 1993), which removes the difficulty of each row
from the variance. One model is in memory at a time.
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
from textus.tasks.inference import predict_texts
from textus.tasks.registry import load_for_task, record_for_task, task_from_record
from textus.tasks.reporting import Floats, metrics_with_intervals

RESAMPLES = 1000
MIN_ROWS = 6
"""Fewest rows on which one run can be called better."""

WeightedMetric = Callable[[Floats], float]
"""A metric as a function of the weight of each row (N,)."""


@dataclass(frozen=True)
class MeasuredRun:
    """One run on the rows: its row of the table, and its metric by weights (None: it has none)."""

    row: dict[str, Any]
    name: str
    metric: WeightedMetric | None
    row_ids: tuple[str, ...]


def compare(
    runs: Mapping[str, Path], on: Any, *, options: ReadOptions = AUTODETECT, task: str | None = None
) -> dict[str, Any]:
    """{"on", "task", "rows", "figure", "runs", "pairs", "verdict"}: `runs` one row each, best first; `pairs` the paired
    difference of two runs with its 95 % interval; `verdict` the same as sentences.

    Raises UsageError for runs of different tasks, DataError if they do not predict the same rows.
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
    """UsageError for two runs with different tasks."""
    if len(runs) < 2:
        raise UsageError(
            "missing_argument",
            "compare needs two fine-tuned runs or more; for one, use textus evaluate RUN --on FILE",
        )
    records = {name: record_for_task(open_run(run).record, task, run) for name, run in runs.items()}
    (first, reference), *others = records.items()
    for name, record in others:
        if record["task"] != reference["task"]:
            raise UsageError(
                "runs_differ",
                f"{first} does {reference['task']}, {name} {record['task']}: only runs of one task can be compared",
            )
        for setting in task_from_record(reference).must_match:
            value, other_value = (which["task_settings"][setting] for which in (reference, record))
            if value != other_value:
                raise UsageError(
                    "runs_differ", f"{first} and {name} differ in task.{setting} ({value} and {other_value})"
                )


def measure_run(
    name: str, run: Path, on: Any, options: tuple[ReadOptions, ReadOptions], task: str | None
) -> MeasuredRun:
    """Load one run, evaluate it and free it; its memory is the peak of the process meanwhile. `options`: as given, and
    as in training.
    """
    gc.collect()
    release_freed_memory()
    reset_peak_memory()
    model, tokenizer, record = load_for_task(run)
    record = record_for_task(record, task, run)
    head = task_from_record(record)
    rows = task_report.read_rows(head, on, *options)
    started = time.perf_counter()
    outputs = predict_texts(model, head, tokenizer, rows.examples)
    seconds = time.perf_counter() - started
    weighted = head.weighted_metric(rows.examples, outputs)
    figures = metrics_with_intervals(head.metrics(rows.examples, outputs))
    row = {
        "run": name, "task": head.head_name, "family": record["family"], **figures, "parameters": n_parameters(model),
        "seconds": seconds, "weights_bytes": weights_bytes(model), "peak_memory_bytes": peak_memory_bytes(),
        "rows_trained_on": task_report.count_train_overlap(record, rows),
    }  # fmt: skip
    del model
    first = weighted[0] if weighted else next(iter(figures))
    return MeasuredRun(
        row, first, weighted[1] if weighted else None, tuple(example.where for example in rows.examples)
    )


def value_of(measured: MeasuredRun) -> float:
    """The run's metric on all rows."""
    if measured.metric is None:
        return float(measured.row[measured.name]["value"])
    return measured.metric(np.ones(len(measured.row_ids)))


def compare_pair(better: MeasuredRun, worse: MeasuredRun, *, seed: int = 0) -> dict[str, Any]:
    """The paired difference of two runs, and whether it is significant."""
    assert better.metric
    assert worse.metric
    n, random = len(better.row_ids), np.random.default_rng(seed)
    resamples = [random.multinomial(n, np.full(n, 1 / n)).astype(np.float64) for _ in range(RESAMPLES)]
    differences = np.asarray([better.metric(weights) - worse.metric(weights) for weights in resamples])
    low, high = np.nanquantile(differences, [0.025, 0.975])
    difference = interval((value_of(better) - value_of(worse), float(low), float(high)), n)
    return {
        "better": better.row["run"],
        "worse": worse.row["run"],
        "difference": difference,
        "certain": n >= MIN_ROWS and difference["low"] > 0,
    }


def verdict(pairs: Sequence[dict[str, Any]], metric: str) -> list[str]:
    """The differences as sentences; a run is called better only if the interval excludes zero."""
    sentences = []
    for pair in pairs:
        d = pair["difference"]
        between = f"95 % interval {d['low']:.4f} to {d['high']:.4f}, {d['n']:,} rows"
        spread = f"{d['value']:.4f} {metric.replace('_', ' ')} ({between})"
        if pair["certain"]:
            sentences.append(f"{pair['better']} is better than {pair['worse']} by {spread}.")
        else:
            sentences.append(
                f"{pair['better']} and {pair['worse']} do not differ significantly on these rows: {spread}."
            )
    return sentences or [f"No paired interval for {metric}; see the interval of each run."]


def write_task_comparison(out: Path, comparison: dict[str, Any], logs: Mapping[str, Path]) -> None:
    """Write comparison.json, a plot and an HTML report with the training curves of `logs`."""
    out.mkdir(parents=True, exist_ok=True)
    shown = [{name: value for name, value in row.items() if name != "task"} for row in comparison["runs"]]
    name = comparison["figure"]
    picture = bars(shown, name="run", value=name) if name in shown[0] else None
    text = "\n\n".join(
        [f"{comparison['rows']:,} rows of {comparison['on']}, with 95 % intervals.", *comparison["verdict"]]
    )
    sections = [
        Section("Which is better", text, rows=shown, picture=picture, alt=f"{name} with intervals"),
        *training_curves(logs, per="loss per row"),
    ]
    write_json(out / "comparison.json", comparison)
    if picture:
        write_atomic(out / "comparison.png", picture)
    write_report(out / "comparison.html", f"Comparison: {comparison['task']}", sections)

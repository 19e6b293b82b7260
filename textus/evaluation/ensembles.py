"""Ensembles of fine-tuned runs: averaged probabilities, votes, or averaged weights.

Sources: Hansen and Salamon 1990 (ensembles); Wortsman et al. 2022 (model soup: one model from several that were
fine-tuned from the same weights, at the inference cost of one).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textus.core.console import log_notice
from textus.core.errors import UsageError
from textus.core.io import fingerprint, sha256
from textus.core.names import unknown_name_error
from textus.data.read_options import ReadOptions, common_read_options, run_read_options
from textus.evaluation import task_report
from textus.evaluation.task_report import EvalDataset, paired_difference, task_metrics
from textus.models.contract import CountBased, LanguageModel
from textus.runs.record import RunRecord
from textus.runs.store import open_run
from textus.tasks.base import Example, Task
from textus.tasks.inference import predict_texts
from textus.tasks.prediction import Predictor
from textus.tasks.registry import load_for_task, record_for_task, task_from_record, task_names
from textus.tasks.reporting import metrics_with_intervals
from textus.tokenizers import Tokenizer

METHODS = ("mean", "vote", "soup")
OF_TRAINING = ("dropout", "weights", "class_weights")
"""Settings that affect training only: weights trained with other values are compatible."""


@dataclass(frozen=True)
class EnsembleOutput:
    """The predictions of the ensemble, and of each member."""

    combined: list[Any]
    members: list[list[Any]]


def common_task(runs: Sequence[Path], method: str, name: str | None = None) -> Task:
    """The task that all runs were fine-tuned for, `name` if they have several. UsageError if two are incompatible."""
    if method not in METHODS:
        raise unknown_name_error("ensemble", method, METHODS)
    if len(runs) < 2:
        raise UsageError("missing_argument", f"--ensemble {method}: give two runs or more")
    for run in runs:
        if not task_names(open_run(run).record):
            raise UsageError("not_fine_tuned", f"--ensemble {method}: {run} was not fine-tuned for a task")
    first, *others = [record_for_task(open_run(run).record, name, run) for run in runs]
    task = task_from_record(first)
    for run, record in zip(runs[1:], others, strict=True):
        pair = f"--ensemble {method}: {runs[0]} and {run}"
        if record["task"] != first["task"]:
            raise UsageError(
                "runs_differ", f"{pair} do different tasks, {first['task']} and {record['task']}"
            )
        if record["labels"] != first["labels"]:
            raise UsageError(
                "runs_differ",
                f"{pair} have different classes{label_difference(first['labels'], record['labels'])}",
            )
        n_texts, other_n_texts = first.get("n_texts"), record.get("n_texts")
        if n_texts and other_n_texts and n_texts != other_n_texts:
            raise UsageError(
                "runs_differ", f"{pair} were trained on {input_kind(first)} and {input_kind(record)}"
            )
        for name in task.must_match:
            value, other_value = (which["task_settings"][name] for which in (first, record))
            if value != other_value:
                raise UsageError("runs_differ", f"{pair} differ in task.{name}: {value} and {other_value}")
    return task


def input_kind(record: RunRecord) -> str:
    """Whether a run was trained on single texts, pairs, or both."""
    kinds = {"1": "single texts", "2": "pairs"}
    return kinds.get(",".join(map(str, record["n_texts"])), "single texts and pairs")


def label_difference(first: Sequence[str], second: Sequence[str]) -> str:
    """Which labels only one side has, up to three of each."""
    sides = [("first", set(first) - set(second)), ("second", set(second) - set(first))]
    parts = [
        f"only the {side} has {', '.join(map(repr, sorted(names)[:3]))}" for side, names in sides if names
    ]
    return f": {'; '.join(parts)}" if parts else " in their order"


def predict_members(
    runs: Sequence[Path], task: Task, method: str, examples: Sequence[Example]
) -> EnsembleOutput:
    """The predictions for examples; one model is in memory at a time."""
    members = []
    for run in runs:
        model, tokenizer, record = load_for_task(run)
        member = task_from_record(record_for_task(record, task.head_name, run))
        members.append(predict_texts(model, member, tokenizer, examples))
    if method != "soup":
        return EnsembleOutput(task.combine(members, method), members)
    model, tokenizer = average_weights(runs)
    return EnsembleOutput(predict_texts(model, task, tokenizer, examples), members)


def average_weights(runs: Sequence[Path]) -> tuple[LanguageModel, Tokenizer]:
    """A model with the mean weights of the runs; UsageError with the first difference of two that do not fit."""
    model, tokenizer, first = load_for_task(runs[0])
    if isinstance(model, CountBased):
        raise UsageError(
            "unsupported_model",
            f"--ensemble soup: the weights of a {first['family']} model belong to its own n-grams; use mean",
        )
    weights = {name: value.double() for name, value in model.state_dict().items()}
    for run in runs[1:]:
        other, _, record = load_for_task(run)
        for name in ("family", "config", "heads", "tokenizer"):
            if difference := first_difference(name, first[name], record[name]):
                raise UsageError(
                    "runs_differ",
                    f"--ensemble soup averages weights: {runs[0]} and {run} differ in {difference}; use mean",
                )
        for name, value in other.state_dict().items():
            weights[name] += value
    parents = {open_run(run).record.get("parent") for run in runs}
    if len(parents) > 1 or None in parents:
        log_notice(
            "weight averaging needs runs fine-tuned from the same base weights; use --ensemble mean or vote"
        )
    model.load_state_dict(
        {name: (value / len(runs)).to(model.state_dict()[name].dtype) for name, value in weights.items()}
    )
    return model.eval(), tokenizer


def first_difference(name: str, first: Any, second: Any) -> str | None:
    """The innermost field in which two records differ, with both values, or None."""
    if isinstance(first, dict) and isinstance(second, dict):
        for key in dict.fromkeys([*first, *second]):
            if key not in OF_TRAINING and (
                difference := first_difference(f"{name}.{key}", first.get(key), second.get(key))
            ):
                return difference
        return None
    return None if first == second else f"{name} ({first} and {second})"


def evaluate_ensemble(
    runs: Sequence[Path], method: str, rows: EvalDataset, by: Sequence[str] = ()
) -> tuple[dict[str, Any], list[Any]]:
    """(metrics of the ensemble and its members, and its paired difference from their mean; its predictions)."""
    predictions = predict_members(runs, rows.task, method, rows.examples)
    scores = task_metrics(rows, predictions.combined, by)
    scores["members"] = [
        {"run": str(run), **metrics_with_intervals(rows.task.metrics(rows.examples, outputs))}
        for run, outputs in zip(runs, predictions.members, strict=True)
    ]
    scores["against_mean_member"] = paired_difference(rows, predictions.combined, *predictions.members)
    return scores, predictions.combined


def ensemble_report(
    runs: Sequence[Path], method: str, rows: EvalDataset, by: Sequence[str] = (), *, baselines: bool = True
) -> dict[str, Any]:
    """The result of `evaluate_ensemble`, with the overlap with training data and the baselines of the first run."""
    scores, outputs = evaluate_ensemble(runs, method, rows, by)
    report = {"task": rows.task.head_name, "ensemble": method, **scores}
    records = [record_for_task(open_run(run).record, rows.task.head_name, run) for run in runs]
    trained_on = {record["corpus"]["fingerprint"]: record for record in records}
    files = {mark: task_report.training_file(record) for mark, record in trained_on.items()}
    report["rows_trained_on"] = max(
        task_report.count_train_overlap(record, rows, files[mark]) or 0 for mark, record in trained_on.items()
    )
    first = files[records[0]["corpus"]["fingerprint"]]
    if baselines and (lower := task_report.baselines(runs[0], records[0], rows, outputs, first)):
        report["baselines"] = lower
    return report


def ensemble_predictor(runs: Sequence[Path], method: str, name: str | None = None) -> Predictor:
    """A predictor of the ensemble; `name` if the runs have several tasks. All members stay in memory, except for a
    soup.
    """
    task = common_task(runs, method, name)
    records = [record_for_task(open_run(run).record, task.head_name, run) for run in runs]
    key = fingerprint([method, *(sha256(run / "run.json") for run in runs)])
    if method == "soup":
        model, tokenizer = average_weights(runs)
        answer = lambda examples: predict_texts(model, task, tokenizer, examples)  # noqa: E731
    else:
        members = [
            (model, task_from_record(record), tokenizer)
            for record, (model, tokenizer, _) in zip(records, map(load_for_task, runs), strict=True)
        ]
        answer = lambda examples: task.combine(  # noqa: E731
            [predict_texts(model, member, tokenizer, examples) for model, member, tokenizer in members],
            method,
        )
    return Predictor(task, answer, common_read_options([run_read_options(record) for record in records]), key)


def training_read_options(runs: Sequence[Path], task: Task) -> ReadOptions:
    """How the training rows of all runs were read."""
    return common_read_options(
        [run_read_options(record_for_task(open_run(run).record, task.head_name, run)) for run in runs]
    )

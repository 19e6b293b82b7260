"""Several fine-tuned runs as one: their probabilities averaged, their votes counted, or their weights averaged.

Sources: Hansen and Salamon 1990 (ensembles); Wortsman et al. 2022 (weight soup: one model out of several that were
begun from the same weights, at the cost of one).
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
from textus.runs.store import open_run
from textus.tasks.base import Example, Task, metrics_with_intervals
from textus.tasks.inference import predict_texts
from textus.tasks.prediction import Predictor
from textus.tasks.registry import TASKS, load_for_task, record_for_task, task_from_record
from textus.tokenizers import Tokenizer

METHODS = ("mean", "vote", "soup")
OF_TRAINING = ("dropout", "weights", "class_weights")
"""Settings that change training alone: weights learnt under others still fit."""


@dataclass(frozen=True)
class EnsembleOutput:
    """What the ensemble says to each row, and what each of its members says."""

    combined: list[Any]
    members: list[list[Any]]


def common_task(runs: Sequence[Path], how: str, name: str | None = None) -> Task:
    """The task that all runs were fine-tuned for, the one called `name` where they were for several. Raises UsageError
    naming two that do not answer alike.
    """
    if how not in METHODS:
        raise unknown_name_error("ensemble", how, METHODS)
    if len(runs) < 2:
        raise UsageError("missing_argument", f"--ensemble {how}: give two runs or more")
    for run in runs:
        if open_run(run).record.get("task") not in TASKS:
            raise UsageError("not_fine_tuned", f"--ensemble {how}: {run} was not fine-tuned for a task")
    first, *others = [record_for_task(open_run(run).record, name, run) for run in runs]
    task = task_from_record(first)
    for run, record in zip(runs[1:], others, strict=True):
        together = f"--ensemble {how}: {runs[0]} and {run}"
        if record["task"] != first["task"]:
            raise UsageError(
                "runs_differ", f"{together} do different tasks, {first['task']} and {record['task']}"
            )
        if record["labels"] != first["labels"]:
            raise UsageError(
                "runs_differ",
                f"{together} have different classes{label_difference(first['labels'], record['labels'])}",
            )
        known, others_known = first.get("n_texts"), record.get("n_texts")
        if known and others_known and known != others_known:
            raise UsageError(
                "runs_differ", f"{together} were trained on {input_kind(first)} and {input_kind(record)}"
            )
        for name in task.must_match:
            mine, its = (each["task_settings"][name] for each in (first, record))
            if mine != its:
                raise UsageError("runs_differ", f"{together} differ in task.{name}: {mine} and {its}")
    return task


def input_kind(record: dict[str, Any]) -> str:
    """How many texts the rows had that a run was trained on."""
    return {(1,): "single texts", (2,): "pairs"}.get(tuple(record["n_texts"]), "single texts and pairs")


def label_difference(first: Sequence[str], second: Sequence[str]) -> str:
    """Which names only one side has, a few of them."""
    sides = [("first", set(first) - set(second)), ("second", set(second) - set(first))]
    shown = [
        f"only the {side} has {', '.join(map(repr, sorted(names)[:3]))}" for side, names in sides if names
    ]
    return f": {'; '.join(shown)}" if shown else " in their order"


def predict_members(
    runs: Sequence[Path], task: Task, how: str, examples: Sequence[Example]
) -> EnsembleOutput:
    """The answers to examples; one model is in memory at a time."""
    members = []
    for run in runs:
        model, tokenizer, record = load_for_task(run)
        its = task_from_record(record_for_task(record, task.head_name, run))
        members.append(predict_texts(model, its, tokenizer, examples))
    if how != "soup":
        return EnsembleOutput(task.combine(members, how), members)
    model, tokenizer = average_weights(runs)
    return EnsembleOutput(predict_texts(model, task, tokenizer, examples), members)


def average_weights(runs: Sequence[Path]) -> tuple[LanguageModel, Tokenizer]:
    """A model whose weights are the mean of the runs' weights; UsageError naming what keeps two of them apart."""
    model, tokenizer, first = load_for_task(runs[0])
    if isinstance(model, CountBased):
        raise UsageError(
            "unsupported_model",
            f"--ensemble soup: the weights of a {first['family']} model belong to its own n-grams; take mean",
        )
    weights = {name: value.double() for name, value in model.state_dict().items()}
    for run in runs[1:]:
        other, _, record = load_for_task(run)
        for name in ("family", "config", "heads", "tokenizer"):
            if wrong := first_difference(name, first[name], record[name]):
                raise UsageError(
                    "runs_differ",
                    f"--ensemble soup averages weights: {runs[0]} and {run} differ in {wrong}; take mean",
                )
        for name, value in other.state_dict().items():
            weights[name] += value
    parents = {open_run(run).record.get("parent") for run in runs}
    if len(parents) > 1 or None in parents:
        log_notice(
            "these runs were not begun from the same weights: the mean of theirs need not be any good; see mean, vote"
        )
    model.load_state_dict(
        {name: (value / len(runs)).to(model.state_dict()[name].dtype) for name, value in weights.items()}
    )
    return model.eval(), tokenizer


def first_difference(name: str, first: Any, second: Any) -> str | None:
    """The innermost field in which two records differ, with both values; None where none does."""
    if isinstance(first, dict) and isinstance(second, dict):
        for key in dict.fromkeys([*first, *second]):
            if key not in OF_TRAINING and (
                wrong := first_difference(f"{name}.{key}", first.get(key), second.get(key))
            ):
                return wrong
        return None
    return None if first == second else f"{name} ({first} and {second})"


def evaluate_ensemble(
    runs: Sequence[Path], how: str, rows: EvalDataset, by: Sequence[str] = ()
) -> tuple[dict[str, Any], list[Any]]:
    """The figures of the ensemble and of its members, its difference from their mean, paired; and its answers."""
    answers = predict_members(runs, rows.task, how, rows.examples)
    found = task_metrics(rows, answers.combined, by)
    found["members"] = [
        {"run": str(run), **metrics_with_intervals(rows.task.metrics(rows.examples, outputs))}
        for run, outputs in zip(runs, answers.members, strict=True)
    ]
    found["against_mean_member"] = paired_difference(rows, answers.combined, *answers.members)
    return found, answers.combined


def ensemble_report(
    runs: Sequence[Path], how: str, rows: EvalDataset, by: Sequence[str] = (), *, baselines: bool = True
) -> dict[str, Any]:
    """What `evaluated` finds, how many of the rows a run was trained on, and the baselines of the first run."""
    figures, outputs = evaluate_ensemble(runs, how, rows, by)
    found = {"task": rows.task.head_name, "ensemble": how, **figures}
    records = [record_for_task(open_run(each).record, rows.task.head_name, each) for each in runs]
    trained_on = {record["corpus"]["fingerprint"]: record for record in records}
    files = {mark: task_report.training_file(record) for mark, record in trained_on.items()}
    found["rows_trained_on"] = max(
        task_report.count_train_overlap(record, rows, files[mark]) or 0 for mark, record in trained_on.items()
    )
    first = files[records[0]["corpus"]["fingerprint"]]
    if baselines and (lower := task_report.baselines(runs[0], records[0], rows, outputs, first)):
        found["baselines"] = lower
    return found


def ensemble_predictor(runs: Sequence[Path], how: str, name: str | None = None) -> Predictor:
    """What answers with the ensemble; `name`: which of several tasks. Every member is in memory, but for a soup."""
    task = common_task(runs, how, name)
    records = [record_for_task(open_run(run).record, task.head_name, run) for run in runs]
    of = fingerprint([how, *(sha256(run / "run.json") for run in runs)])
    if how == "soup":
        model, tokenizer = average_weights(runs)
        answer = lambda examples: predict_texts(model, task, tokenizer, examples)  # noqa: E731
    else:
        members = [
            (model, task_from_record(record), tokenizer)
            for record, (model, tokenizer, _) in zip(records, map(load_for_task, runs), strict=True)
        ]
        answer = lambda examples: task.combine(  # noqa: E731
            [predict_texts(model, its, tokenizer, examples) for model, its, tokenizer in members], how
        )
    return Predictor(task, answer, common_read_options([run_read_options(each) for each in records]), of)


def training_read_options(runs: Sequence[Path], task: Task) -> ReadOptions:
    """How the rows were read that all runs were trained on."""
    return common_read_options(
        [run_read_options(record_for_task(open_run(run).record, task.head_name, run)) for run in runs]
    )

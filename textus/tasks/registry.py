"""Tasks by name, and what a run records of them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from textus.core.config import from_dict
from textus.core.console import log_notice
from textus.core.errors import UsageError
from textus.core.names import nearest_name, unknown_name_error
from textus.models.contract import LanguageModel, RawTextModel
from textus.runs.store import load
from textus.tasks.base import Task
from textus.tokenizers import Tokenizer

TASKS = {
    "classification": ("textus.tasks.classification", "Classification"),
    "question-answering": ("textus.tasks.question_answering", "QuestionAnswering"),
    "regression": ("textus.tasks.regression", "Regression"),
    "relations": ("textus.tasks.relations", "Relations"),
    "similarity": ("textus.tasks.similarity", "Similarity"),
    "tagging": ("textus.tasks.tagging", "Tagging"),
}
"""Task name → module and class."""


def task_class(name: str) -> type[Task]:
    """A task by its name; UsageError naming the nearest for one that is not there."""
    if name not in TASKS:
        raise unknown_name_error("task", name, TASKS)
    module, cls = TASKS[name]
    found: type[Task] = getattr(import_module(module), cls)
    return found


def load_for_task(run: Path) -> tuple[LanguageModel, Tokenizer, dict[str, Any]]:
    """A run's model, tokenizer and record; a fine-tuned one computes as it was trained."""
    model, tokenizer, record = load(run)
    if record.get("task") in TASKS and not isinstance(model, RawTextModel):
        model.set_inference_compute(record["compute"]["precision"])
    return model.eval(), tokenizer, record


def task_names(record: dict[str, Any]) -> list[str]:
    """The names of the tasks a run was fine-tuned for, in their order; none for a run that predicts text."""
    return [record["task"], *record.get("extra_tasks", {})] if record.get("task") in TASKS else []


def record_for_task(record: dict[str, Any], name: str | None, run: Path) -> dict[str, Any]:
    """What a run's record would say had it learnt the one task of that name; None: of the only one it has learnt.

    Raises UsageError for a name it has not learnt, and for none where there are several.
    """
    names = task_names(record)
    if name is None and len(names) > 1:
        raise UsageError(
            "missing_argument",
            f"{run} has learnt {', '.join(names)}: say which is asked, such as --task {names[0]}",
        )
    if name is not None and name not in names:
        near = nearest_name(name, names)
        raise UsageError(
            "wrong_task",
            f"{run} has not learnt {name!r}{f' (did you mean {near!r}?)' if near else ''}; it has learnt"
            f" {', '.join(names) or 'no task'}",
        )
    if len(names) < 2:
        return record
    alone = {key: value for key, value in record.items() if key != "extra_tasks"}
    return alone | record["extra_tasks"].get(name, {}) | {"head_name": name}


def head_of_kind(record: dict[str, Any], kind: str) -> str | None:
    """The name of the one task of a kind that a run has learnt, of several the first, told; None where it has none."""
    kinds = [record.get("task"), *(each["task"] for each in record.get("extra_tasks", {}).values())]
    names = [name for name, each in zip(task_names(record), kinds, strict=False) if each == kind]
    if len(names) > 1:
        log_notice(f"the run has learnt {kind} as {', '.join(names)}: {names[0]} is taken")
    return names[0] if names else None


def task_from_record(record: dict[str, Any]) -> Task:
    """The task a run was fine-tuned for, as its run.json tells it; of several tasks' record, by `learnt`."""
    cls = task_class(record["task"])
    task = cls(from_dict(cls.config, record["task_settings"], "task."), record["labels"])
    task.label_counts = record.get("label_counts", [])
    task.n_texts, task.label_type = record.get("n_texts", []), record.get("label_type", "")
    task.head_name = record.get("head_name", task.name)
    return task

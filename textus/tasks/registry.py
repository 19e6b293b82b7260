"""Tasks by name, and what a run records of them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import cast

from textus.core.config import from_dict
from textus.core.console import log_notice
from textus.core.errors import UsageError
from textus.core.names import nearest_name, unknown_name_error
from textus.core.plugins import entry_points
from textus.models.contract import LanguageModel, RawTextModel
from textus.runs.record import RunRecord
from textus.runs.store import load
from textus.tasks.base import Task
from textus.tasks.generation import GenerationTask
from textus.tokenizers import Tokenizer

TASKS = {
    "chat": ("textus.tasks.chat", "Chat"),
    "classification": ("textus.tasks.classification", "Classification"),
    "question-answering": ("textus.tasks.question_answering", "QuestionAnswering"),
    "regression": ("textus.tasks.regression", "Regression"),
    "relations": ("textus.tasks.relations", "Relations"),
    "similarity": ("textus.tasks.similarity", "Similarity"),
    "tagging": ("textus.tasks.tagging", "Tagging"),
    "text2text": ("textus.tasks.text2text", "Text2Text"),
}
"""Task name → module and class. A new task is one file and one line here, or an entry point of a package."""


def registered_tasks() -> list[str]:
    """The names of all tasks, those of installed packages included."""
    return [*TASKS, *entry_points("textus.tasks", TASKS)]


def task_class(name: str) -> type[Task]:
    """A task by its name. UsageError for an unknown one, TextusError for a package that cannot be imported."""
    if name in TASKS:
        module, cls = TASKS[name]
        built_in: type[Task] = getattr(import_module(module), cls)
        return built_in
    plugins = entry_points("textus.tasks", TASKS)
    if name not in plugins:
        raise unknown_name_error("task", name, [*TASKS, *plugins])
    plugin: type[Task] = plugins[name]()
    return plugin


def load_for_task(run: Path) -> tuple[LanguageModel, Tokenizer, RunRecord]:
    """A run's model, tokenizer and record; a fine-tuned one computes as it was trained."""
    model, tokenizer, record = load(run)
    if task_names(record) and not isinstance(model, RawTextModel):
        writes = issubclass(task_class(record["task"]), GenerationTask)
        model.set_inference_compute("float32" if writes else record["compute"]["precision"])
    return model.eval(), tokenizer, record


def task_names(record: RunRecord) -> list[str]:
    """The names of the tasks a run was fine-tuned for, in their order; none for a run that predicts text, a chat model
    included.
    """
    return [] if record.get("task") in (None, "chat") else [record["task"], *record.get("extra_tasks", {})]


def trained_tasks(record: RunRecord) -> list[str]:
    """`task_names`, and chat for a run that was trained on conversations here, not for an imported chat model."""
    is_chat = record.get("task") == "chat" and "task_settings" in record
    return ["chat"] if is_chat else task_names(record)


def record_for_task(record: RunRecord, name: str | None, run: Path) -> RunRecord:
    """The record of one task of a run, as if the run had been trained on it alone. `name` may be None where there is
    only one task. Raises UsageError for an unknown name.
    """
    names = trained_tasks(record)
    if name is None and len(names) > 1:
        raise UsageError(
            "missing_argument",
            f"{run} was trained on {', '.join(names)}: choose one, such as --task {names[0]}",
        )
    if name is not None and name not in names:
        near = nearest_name(name, names)
        raise UsageError(
            "wrong_task",
            f"{run} was not trained on {name!r}{f' (did you mean {near!r}?)' if near else ''}; it was trained on"
            f" {', '.join(names) or 'no task'}",
        )
    if len(names) < 2:
        return record
    assert name is not None
    alone = {key: value for key, value in record.items() if key != "extra_tasks"}
    return cast(RunRecord, alone | record["extra_tasks"].get(name, {}) | {"head_name": name})


def head_of_kind(record: RunRecord, kind: str) -> str | None:
    """The name of a run's task of this kind, the first of several (reported); None where it has none."""
    kinds = [record.get("task"), *(task["task"] for task in record.get("extra_tasks", {}).values())]
    names = [name for name, own in zip(task_names(record), kinds, strict=False) if own == kind]
    if len(names) > 1:
        log_notice(f"the run has several heads for {kind} ({', '.join(names)}): {names[0]} is used")
    return names[0] if names else None


def task_from_record(record: RunRecord) -> Task:
    """The task of a fine-tuned run, from its run.json (of several tasks: from `record_for_task`)."""
    cls = task_class(record["task"])
    task = cls(from_dict(cls.config, record["task_settings"], "task."), record["labels"])
    task.label_counts = record.get("label_counts", [])
    task.n_texts, task.label_type = record.get("n_texts", []), record.get("label_type", "")
    task.head_name = record.get("head_name", task.name)
    return task

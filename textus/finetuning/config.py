"""What is asked of a fine-tuning: the flags of `textus finetune`, checked before anything is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from textus.core.config import apply_overrides
from textus.core.errors import UsageError
from textus.core.names import unknown_name_error
from textus.data.skipping import parse_share
from textus.models.contract import RawTextModel
from textus.models.nn import lora
from textus.models.registry import family as family_of
from textus.tasks.multitask import MixSettings
from textus.tasks.registry import task_class

NAME = re.compile(r"[A-Za-z][\w-]*")
"""What a head may be called."""


@dataclass(frozen=True)
class ExtraTask:
    """A further task: what its head is called, what it is, and its rows."""

    name: str
    task: str
    data: Path
    dev: Path | None = None
    columns: str | None = None


def parse_extra_tasks(
    tasks: Sequence[str], dev: Sequence[str] = (), columns: Sequence[str] = ()
) -> tuple[ExtraTask, ...]:
    """`[NAME:]TASK=FILE` of each further task, `NAME=FILE` of rows that choose, `NAME:COLUMNS` of columns, as on the
    command line. UsageError for anything else.
    """
    found: dict[str, ExtraTask] = {}
    for each in tasks:
        said, _, file = each.partition("=")
        name, _, task = said.rpartition(":")
        if not (task and file):
            raise UsageError(
                "invalid_value",
                f"--extra-task {each!r}: write [NAME:]TASK=FILE, such as --extra-task tagging=conll.txt",
            )
        name = name or task
        if name in found:
            raise UsageError(
                "duplicate_name",
                f"--extra-task {each!r}: there are two tasks called {name!r}; write NAME:{task}={file}",
            )
        found[name] = ExtraTask(name, task, Path(file))
    for flag, field, mark, values in (("dev", "dev", "=", dev), ("columns", "columns", ":", columns)):
        for each in values:
            name, _, value = each.partition(mark)
            if name not in found or not value:
                raise UsageError(
                    "invalid_value",
                    f"--extra-{flag} {each!r}: write NAME{mark}{field.upper()} with the name of an --extra-task"
                    f" ({', '.join(found) or 'there is none'})",
                )
            given: Any = Path(value) if field == "dev" else value
            found[name] = replace(found[name], **{field: given})
    return tuple(found.values())


@dataclass(frozen=True)
class FinetuneConfig:
    """What the person asked for: the flags of `textus finetune`."""

    data: Path
    task: str
    parent: Path | None = None
    family: str | None = None
    dev: Path | None = None
    columns: str | None = None
    tokenizer: str | None = None
    epochs: int | None = None
    seed: int = 0
    assignments: tuple[str, ...] = ()
    method: str = "full"
    extra_tasks: tuple[ExtraTask, ...] = ()
    """Further tasks, learnt at once by heads of their own."""
    skip_invalid: str | None = None
    """The share of rows that may be left out because they cannot be used: N% or all."""
    encoding: str | None = None
    """The encoding of the files of rows; None: detected."""

    def check(self) -> None:
        """Words that are wrong or do not go together."""
        if (self.parent is None) == (self.family is None):
            raise UsageError(
                "missing_argument",
                "say what to teach: --from RUN for a model that is there, or --model FAMILY for a new one",
            )
        if self.parent and self.tokenizer:
            raise UsageError(
                "option_not_applicable",
                f"--tokenizer {self.tokenizer}: a model reads with the tokenizer it has; leave it out",
            )
        if self.epochs is not None and self.epochs < 1:
            raise UsageError("out_of_range", f"--epochs {self.epochs}: must be at least 1")
        parse_share(self.skip_invalid)
        for each in self.assignments:
            if (group := each.partition(".")[0]) not in (
                known := ("model", "train", "optim", "choices", "task", "augment", "method", "mix")
            ):
                raise unknown_name_error("group of settings", group, known)
        for each in self.of("train"):
            if each.startswith("context_length="):
                raise UsageError(
                    "option_not_applicable",
                    f"--set train.{each}: how much of a text is read is task.longest; set that",
                )
            if each.startswith("steps=") and self.epochs:
                raise UsageError(
                    "conflicting_options",
                    f"--set train.{each} and --epochs {self.epochs} both say how long; leave one out",
                )
        self.check_method()
        self.check_extra_tasks()
        if self.family and issubclass(family_of(self.family)[0], RawTextModel):
            self.check_whole()

    def check_whole(self) -> None:
        """What a family that learns from all texts at once has no use for."""
        unused = [f"--set {each}" for each in self.assignments if not each.startswith(("model.", "augment."))]
        unused += [
            f"--{name} {value}"
            for name, value in (("tokenizer", self.tokenizer), ("epochs", self.epochs))
            if value
        ]
        unused += [f"--extra-task {each.name}" for each in self.extra_tasks]
        if unused:
            raise UsageError(
                "option_not_applicable",
                f"{unused[0]}: a {self.family} model learns from all texts at once, by n-grams of its own, one class a"
                " text; leave it out (its settings are --set model.…)",
            )

    def check_method(self) -> None:
        """A method's name, its settings, and whether there is something to leave as it is."""
        if self.method not in lora.METHODS:
            raise unknown_name_error("method", self.method, lora.METHODS)
        if self.method == "full" and (said := self.of("method")):
            raise UsageError(
                "option_not_applicable",
                f"--set method.{said[0]}: full has no settings; give --method lora or frozen",
            )
        if self.method != "full" and self.parent is None:
            raise UsageError(
                "missing_argument",
                f"--method {self.method} leaves a model as it is: begin from one with --from RUN",
            )
        _ = self.how

    def check_extra_tasks(self) -> None:
        """Names of further tasks, and settings that are a task's."""
        names = [self.task]
        for each in self.extra_tasks:
            task_class(each.task)
            if each.name in names:
                raise UsageError(
                    "duplicate_name",
                    f"--extra-task {each.name}: there are two tasks of this name; give the second another, such as"
                    f" --extra-task {each.name}2:{each.task}={each.data}",
                )
            if not NAME.fullmatch(each.name) or hasattr(torch.nn.ModuleDict(), each.name):
                raise UsageError(
                    "invalid_value",
                    f"--extra-task {each.name}: not a name for a head; use letters, digits, _ and -",
                )
            names.append(each.name)
        if not self.extra_tasks and (said := self.of("mix")):
            raise UsageError(
                "option_not_applicable",
                f"--set mix.{said[0]}: there is one task, nothing is mixed; give another with --extra-task",
            )
        for each_set in self.of("task") if self.extra_tasks else []:
            first, *rest = each_set.partition("=")[0].split(".")
            if rest and first not in names[1:]:
                raise UsageError(
                    "unknown_name",
                    f"--set task.{each_set}: {first!r} is no task of --extra-task ({', '.join(names[1:])}); for"
                    f" {self.task} write task.SETTING=VALUE",
                )

    def alone(self) -> dict[str, FinetuneConfig]:
        """The wish for each task as if it were the only one, by the name of its head."""
        if not self.extra_tasks:
            return {self.task: self}

        def own(name: str | None) -> tuple[str, ...]:
            """The assignments for one task: `task.SETTING` is the first one's (None), `task.NAME.SETTING` others'."""
            found = [each for each in self.assignments if not each.startswith("task.")]
            for each in self.of("task"):
                owner, _, setting = each.rpartition("=")[0].rpartition(".")
                if owner == (name or ""):
                    found.append(f"task.{setting}={each.partition('=')[2]}")
            return tuple(found)

        wishes = {self.task: replace(self, extra_tasks=(), assignments=own(None))}
        for each in self.extra_tasks:
            wishes[each.name] = replace(
                self, task=each.task, data=each.data, dev=each.dev, columns=each.columns, extra_tasks=(),
                assignments=own(each.name),
            )  # fmt: skip
        return wishes

    @property
    def mix(self) -> MixSettings:
        """How steps are dealt out among several tasks."""
        return apply_overrides(MixSettings(), self.of("mix"))

    @property
    def how(self) -> Any:
        """The method's settings."""
        return apply_overrides(lora.METHODS[self.method](), self.of("method"))

    def of(self, group: str) -> list[str]:
        """The assignments of one group, without its name."""
        return [each.partition(".")[2] for each in self.assignments if each.startswith(f"{group}.")]

"""The requests of `textus finetune` and `textus tune`, checked before anything is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textus.core.config import apply_overrides
from textus.core.errors import UsageError
from textus.core.names import unknown_name_error
from textus.core.requests import Overrides, option
from textus.data.read_options import ReadOptions

if TYPE_CHECKING:
    from textus.tasks.multitask import MixSettings

NAME = re.compile(r"[A-Za-z][\w-]*")
"""What a head may be called."""


@dataclass(frozen=True)
class ExtraTask:
    """A further task: the name of its head, its kind, and its rows."""

    name: str
    task: str
    data: Path
    dev: Path | None = None
    columns: str | None = None


def parse_extra_tasks(
    tasks: Sequence[str], dev: Sequence[str], columns: Sequence[str]
) -> tuple[ExtraTask, ...]:
    """`[NAME:]TASK=FILE` of each further task, `NAME=FILE` of rows that choose its weights, `NAME:COLUMNS` of its
    columns. UsageError for anything else.
    """
    extras: dict[str, ExtraTask] = {}
    for argument in tasks:
        head, _, file = argument.partition("=")
        name, _, task = head.rpartition(":")
        if not (task and file):
            raise UsageError(
                "invalid_value",
                f"--extra-task {argument!r}: write [NAME:]TASK=FILE, such as --extra-task tagging=conll.txt",
            )
        name = name or task
        if name in extras:
            raise UsageError(
                "duplicate_name",
                f"--extra-task {argument!r}: there are two tasks called {name!r}; write NAME:{task}={file}",
            )
        extras[name] = ExtraTask(name, task, Path(file))
    for field, mark, arguments in (("dev", "=", dev), ("columns", ":", columns)):
        for argument in arguments:
            name, _, text = argument.partition(mark)
            if name not in extras or not text:
                raise UsageError(
                    "invalid_value",
                    f"--extra-{field} {argument!r}: write NAME{mark}{field.upper()} with the name of an --extra-task"
                    f" ({', '.join(extras) or 'none was given'})",
                )
            value: Any = Path(text) if field == "dev" else text
            extras[name] = replace(extras[name], **{field: value})
    return tuple(extras.values())


GROUPS = ("model", "train", "optim", "compute", "task", "augment", "method", "mix")
"""Groups of settings that `overrides` may name."""


@dataclass(frozen=True)
class FinetuneConfig(ReadOptions, Overrides):
    """The options of `textus finetune` and `textus.finetune`; `data` is the labelled file they apply to."""

    data: Path = Path()
    init_from: Path | None = option(None, "The run to fine-tune.", flag="--from", metavar="RUN")
    model: str | None = option(None, "Or the family of a new model: lstm, encoder, decoder, …")
    task: str = option("classification", "What to train for (an unknown one lists all).")
    method: str = option(
        "full", "Which weights are trained: full, lora (adapters only), frozen (the head only)."
    )
    dev: Path | None = option(
        None, "Rows that choose the weights; without it, a tenth is held out.", metavar="FILE"
    )
    tokenizer: str | None = option(
        None, "For a new model: a tokenizer's folder, or a kind to train on the texts."
    )
    epochs: int | None = option(
        None, "Times the rows are read. [default: by their number; of many 3, a new model 8]"
    )
    seed: int = option(0, "The same command, seed and compute settings give the same bytes.")
    augment: str | None = option(
        None,
        "Train on changed copies too: swap,delete,typos, … as in 'textus augment' (--set augment.copies=4).",
    )
    extra_tasks: tuple[str, ...] = option(
        (),
        "Train another task at once, with a head of its own called NAME (or as the task); may be repeated. Settings:"
        " --set task.NAME.crf=true; --set mix.power=1 samples tasks by size, 0 all alike, 0.5 if not set.",
        flag="--extra-task",
        metavar="[NAME:]TASK=FILE",
    )
    extra_dev: tuple[str, ...] = option((), "Rows of that task that choose the weights.", metavar="NAME=FILE")
    extra_columns: tuple[str, ...] = option((), "Which columns are its fields.", metavar="NAME:COLUMNS")

    def check(self) -> None:
        """UsageError for options that are wrong or do not go together."""
        if (self.init_from is None) == (self.model is None):
            raise UsageError(
                "missing_argument",
                "specify a base model: --from RUN, or --model FAMILY to train from scratch",
            )
        if self.init_from and self.tokenizer:
            raise UsageError(
                "option_not_applicable",
                f"--tokenizer {self.tokenizer}: a model reads with the tokenizer it has; leave it out",
            )
        if self.epochs is not None and self.epochs < 1:
            raise UsageError("out_of_range", f"--epochs {self.epochs}: must be at least 1")
        for override in self.overrides:
            if (group := override.partition(".")[0]) not in GROUPS:
                raise unknown_name_error("group of settings", group, GROUPS)
        for setting in self.overrides_for("train"):
            if setting.startswith("context_length="):
                raise UsageError(
                    "option_not_applicable",
                    f"--set train.{setting}: how much of a text is read is task.longest; set that",
                )
            if setting.startswith("steps=") and self.epochs:
                raise UsageError(
                    "conflicting_options",
                    f"--set train.{setting} and --epochs {self.epochs} both set the length; leave one out",
                )
        self.check_method()
        self.check_extra_tasks()
        if self.model:
            from textus.models.contract import RawTextModel
            from textus.models.registry import family

            if issubclass(family(self.model)[0], RawTextModel):
                self.check_raw_text_family()

    def check_raw_text_family(self) -> None:
        """UsageError for options that a family which trains on all texts at once has no use for."""
        unused = [
            f"--set {override}"
            for override in self.overrides
            if not override.startswith(("model.", "augment."))
        ]
        unused += [f"--tokenizer {self.tokenizer}"] if self.tokenizer else []
        unused += [f"--epochs {self.epochs}"] if self.epochs else []
        unused += [f"--extra-task {task.name}" for task in self.further_tasks]
        if unused:
            raise UsageError(
                "option_not_applicable",
                f"{unused[0]}: a {self.model} model trains on all texts at once, on n-grams of its own, one class per"
                " text; leave it out (its settings are --set model.…)",
            )

    def check_method(self) -> None:
        """UsageError for an unknown method, settings it does not have, or nothing to keep frozen."""
        from textus.models.nn.lora import METHODS

        if self.method not in METHODS:
            raise unknown_name_error("method", self.method, METHODS)
        if self.method == "full" and (settings := self.overrides_for("method")):
            raise UsageError(
                "option_not_applicable",
                f"--set method.{settings[0]}: full has no settings; give --method lora or frozen",
            )
        if self.method != "full" and self.init_from is None:
            raise UsageError(
                "missing_argument",
                f"--method {self.method} keeps the weights of a model: name its run with --from RUN",
            )
        _ = self.method_settings

    def check_extra_tasks(self) -> None:
        """UsageError for names that are no names of heads, and for settings of tasks that are not trained."""
        import torch

        from textus.tasks.registry import task_class

        names = [self.task]
        for extra in self.further_tasks:
            task_class(extra.task)
            if extra.name in names:
                raise UsageError(
                    "duplicate_name",
                    f"--extra-task {extra.name}: there are two tasks of this name; give the second another, such as"
                    f" --extra-task {extra.name}2:{extra.task}={extra.data}",
                )
            if not NAME.fullmatch(extra.name) or hasattr(torch.nn.ModuleDict(), extra.name):
                raise UsageError(
                    "invalid_value",
                    f"--extra-task {extra.name}: not a name for a head; use letters, digits, _ and -",
                )
            names.append(extra.name)
        if not self.extra_tasks and (settings := self.overrides_for("mix")):
            raise UsageError(
                "option_not_applicable",
                f"--set mix.{settings[0]}: there is one task, nothing is mixed; give another with --extra-task",
            )
        for setting in self.overrides_for("task") if self.extra_tasks else []:
            first, *rest = setting.partition("=")[0].split(".")
            if rest and first not in names[1:]:
                raise UsageError(
                    "unknown_name",
                    f"--set task.{setting}: {first!r} is no task of --extra-task ({', '.join(names[1:])}); for"
                    f" {self.task} write task.SETTING=VALUE",
                )

    @cached_property
    def further_tasks(self) -> tuple[ExtraTask, ...]:
        """The tasks of `extra_tasks`, with their files and columns."""
        return parse_extra_tasks(self.extra_tasks, self.extra_dev, self.extra_columns)

    def per_task(self) -> dict[str, FinetuneConfig]:
        """The request for each task as if it were the only one, by the name of its head."""
        if not self.extra_tasks:
            return {self.task: self}

        def own(head: str) -> tuple[str, ...]:
            """The overrides for one task: `task.SETTING` is the first one's (""), `task.HEAD.SETTING` another's."""
            overrides = [override for override in self.overrides if not override.startswith("task.")]
            for setting in self.overrides_for("task"):
                owner, _, name = setting.rpartition("=")[0].rpartition(".")
                if owner == head:
                    overrides.append(f"task.{name}={setting.partition('=')[2]}")
            return tuple(overrides)

        single = replace(self, extra_tasks=(), extra_dev=(), extra_columns=(), overrides=own(""))
        return {self.task: single} | {
            extra.name: replace(
                single, task=extra.task, data=extra.data, dev=extra.dev, columns=extra.columns,
                overrides=own(extra.name),
            )
            for extra in self.further_tasks
        }  # fmt: skip

    @property
    def mix(self) -> MixSettings:
        """How steps are distributed among several tasks."""
        from textus.tasks.multitask import MixSettings

        return apply_overrides(MixSettings(), self.overrides_for("mix"))

    @property
    def method_settings(self) -> Any:
        """The method's settings."""
        from textus.models.nn.lora import METHODS

        return apply_overrides(METHODS[self.method](), self.overrides_for("method"))

    def overrides_for(self, group: str) -> list[str]:
        """The overrides of one group, without its name; `augment` is one of the group of this name."""
        own = [f"ops={self.augment}"] if group == "augment" and self.augment else []
        return own + super().overrides_for(group)


@dataclass(frozen=True)
class TuneConfig(FinetuneConfig):
    """The options of `textus tune` and `textus.tune`: those of the fine-tunings, and of the search."""

    trials: int = option(20, "Settings to try, in all.")
    search: tuple[str, ...] = option(
        (),
        "Search a setting in a range or among values: optim.rate=1e-4..1e-2:log, epochs=2..8, task.pooling=mean,max;"
        " may be repeated. What --set sets is not searched.",
        metavar="PATH=RANGE",
    )
    search_space: Path | None = option(
        None, "A TOML file of such lines instead of the usual search space.", metavar="FILE"
    )

    def finetuning(self) -> FinetuneConfig:
        """What all trials have in common."""
        return FinetuneConfig(**{field.name: getattr(self, field.name) for field in fields(FinetuneConfig)})

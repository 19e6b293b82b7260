"""The request of `textus validate`, and overrides of a task's settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from textus.core.names import unknown_name_error
from textus.core.requests import RequestBase, option
from textus.data.read_options import FileOptions


@dataclass(frozen=True)
class TaskOverrides(RequestBase):
    """The option `--set` where only a task's settings can be set."""

    overrides: tuple[str, ...] = option(
        (),
        "Set a field of the task, such as task.pooling=cls; may be repeated.",
        flag="--set",
        metavar="PATH=VALUE",
    )

    @property
    def task_settings(self) -> list[str]:
        """The overrides without the name of their group; UsageError for another group."""
        return task_settings(self.overrides)


def task_settings(overrides: Sequence[str]) -> list[str]:
    """Overrides such as `task.pooling=cls` without the name of their group; UsageError for another group."""
    for override in overrides:
        if not override.startswith("task."):
            raise unknown_name_error("group of settings", override.partition(".")[0], ["task"])
    return [override.removeprefix("task.") for override in overrides]


@dataclass(frozen=True)
class ValidateConfig(FileOptions, TaskOverrides):
    """The options of `textus validate` and `textus.validate`."""

    task: str = option("classification", "What the rows are for (an unknown one lists all).")
    dev: Path | None = option(None, "Rows that choose the weights.", metavar="FILE")
    test: Path | None = option(None, "Rows the model is tested on.", metavar="FILE")
    init_from: Path | None = option(
        None, "The run to fine-tune: lengths are counted in its tokens.", flag="--from", metavar="RUN"
    )
    model: str | None = option(None, "Or the family of a new model: lstm, encoder, decoder, …")

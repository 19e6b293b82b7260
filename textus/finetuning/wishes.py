"""What is asked of a fine-tuning: the flags of `textus finetune`, checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textus.common import UsageError, unknown
from textus.config import assign
from textus.models import adapters
from textus.models import family as family_of


@dataclass(frozen=True)
class Wish:
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

    def check(self) -> None:
        """Words that are wrong or do not go together."""
        if (self.parent is None) == (self.family is None):
            raise UsageError(
                "say what to teach: --from RUN for a model that is there, or --model FAMILY for a new one"
            )
        if self.parent and self.tokenizer:
            raise UsageError(
                f"--tokenizer {self.tokenizer}: a model reads with the tokenizer it has; leave it out"
            )
        if self.epochs is not None and self.epochs < 1:
            raise UsageError(f"--epochs {self.epochs}: must be at least 1")
        for each in self.assignments:
            if (group := each.partition(".")[0]) not in (
                known := ("model", "train", "optim", "choices", "task", "augment", "method")
            ):
                raise unknown("group of settings", group, known)
        for each in self.of("train"):
            if each.startswith("context_length="):
                raise UsageError(f"--set train.{each}: how much of a text is read is task.longest; set that")
            if each.startswith("steps=") and self.epochs:
                raise UsageError(
                    f"--set train.{each} and --epochs {self.epochs} both say how long; leave one out"
                )
        self.check_method()
        if self.family and family_of(self.family)[0].reads_texts:
            self.check_whole()

    def check_whole(self) -> None:
        """What a family that learns from all texts at once has no use for."""
        unused = [f"--set {each}" for each in self.assignments if not each.startswith(("model.", "augment."))]
        unused += [
            f"--{name} {value}"
            for name, value in (("tokenizer", self.tokenizer), ("epochs", self.epochs))
            if value
        ]
        if unused:
            raise UsageError(
                f"{unused[0]}: a {self.family} model learns from all texts at once, by n-grams of its own, one class a"
                " text; leave it out (its settings are --set model.…)"
            )

    def check_method(self) -> None:
        """A method's name, its settings, and whether there is something to leave as it is."""
        if self.method not in adapters.METHODS:
            raise unknown("method", self.method, adapters.METHODS)
        if self.method == "full" and (said := self.of("method")):
            raise UsageError(f"--set method.{said[0]}: full has no settings; give --method lora or frozen")
        if self.method != "full" and self.parent is None:
            raise UsageError(
                f"--method {self.method} leaves a model as it is: begin from one with --from RUN"
            )
        _ = self.how

    @property
    def how(self) -> Any:
        """The method's settings."""
        return assign(adapters.METHODS[self.method](), self.of("method"))

    def of(self, group: str) -> list[str]:
        """The assignments of one group, without its name."""
        return [each.partition(".")[2] for each in self.assignments if each.startswith(f"{group}.")]

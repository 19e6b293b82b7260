"""Requests of `textus predict`, `textus evaluate` and `textus fewshot`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from textus.core.errors import UsageError
from textus.core.requests import option
from textus.data.read_options import FileOptions, ReadOptions
from textus.tasks.config import TaskOverrides


@dataclass(frozen=True)
class PredictConfig(ReadOptions):
    """The options of `textus predict` and `textus.predict`."""

    task: str | None = option(
        None,
        "Which task, of a run with several; or similarity: scored pairs of texts, of any run with states.",
        metavar="NAME",
    )
    ensemble: str | None = option(
        None, "Combine the predictions of several runs: mean, vote, or soup (of weights)."
    )


@dataclass(frozen=True)
class EvalConfig(PredictConfig, TaskOverrides):
    """The options of `textus evaluate` and `textus.evaluate`; `slices` and those after it are for fine-tuned runs."""

    stride: int | None = option(
        None, "Sliding-window stride in tokens; the result is reported as a strided perplexity."
    )
    samples: bool = option(True, "figures on texts that the model writes itself.")
    slices: tuple[str, ...] = option(
        (),
        "Scores by the values of a column, or by 'length'; may be repeated.",
        flag="--slice",
        metavar="COLUMN",
    )
    baselines: bool = option(True, "baselines (the linear one is trained and cached on first evaluation).")
    entities: Path | None = option(
        None,
        "Of a relations run: find the entities by this tagging run, in the raw text.",
        metavar="RUN",
    )


@dataclass(frozen=True)
class FewShotConfig(FileOptions):
    """The options of `textus fewshot` and `textus.fewshot`: how rows are put to the model."""

    template: str = option(
        "", "The prompt, with {text} (and {text_pair}), {label} at its end. [default: Text: … Label: …]"
    )
    verbalizer: str | Mapping[str, str] = option("", "The word for each class in the prompt: 0=bad,1=good.")
    shots: tuple[int, ...] = option(
        (0, 1, 2, 4, 8), "Numbers of examples, separated by commas.", metavar="N,N"
    )
    repeats: int = option(3, "Random draws of examples for each number of shots.")
    limit: int = option(0, "Score at most this many rows, drawn by the seed; 0 is all.")
    seed: int = option(0, "The same seed draws the same examples.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.shots or min(self.shots) < 0 or self.repeats < 1 or self.limit < 0:
            raise UsageError(
                "out_of_range",
                f"shots {self.shots}, repeats {self.repeats}, limit {self.limit}: 0 or more, repeats 1 or more",
            )
        if self.template and not (self.template.endswith("{label}") and "{text}" in self.template):
            raise UsageError(
                "invalid_value", f"--template {self.template!r}: it must hold {{text}} and end with {{label}}"
            )

    @cached_property
    def class_words(self) -> dict[str, str]:
        """The word for each class that has one of its own."""
        return (
            parse_verbalizer(self.verbalizer) if isinstance(self.verbalizer, str) else dict(self.verbalizer)
        )


def parse_verbalizer(text: str) -> dict[str, str]:
    """`0=bad,1=good`: the word for each class in the prompt. UsageError for anything else."""
    words = dict[str, str]()
    for pair in filter(None, (part.strip() for part in text.split(","))):
        label, equals, word = (part.strip() for part in pair.partition("="))
        if not (label and equals and word):
            raise UsageError(
                "invalid_value",
                f"--verbalizer {text!r}: {pair!r} is no pair; write CLASS=WORD, such as 0=bad,1=good",
            )
        words[label] = word
    return words

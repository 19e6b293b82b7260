"""What reports, baselines and ensembles need from a task; every method has a default."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textus.core.errors import UsageError
from textus.reporting.html import Section

Floats = NDArray[np.float64]
SHOWN = 10
"""Mistakes that a report lists."""


class TaskReporting:
    """The part of a task that `textus.evaluation` uses. `labels` are the names of its classes; examples are
    `tasks.base.Example`.
    """

    name: str
    labels: list[str]

    must_match: tuple[str, ...] = ()
    """Settings that the members of an ensemble must share."""
    baseline_name = "majority"
    """The name of `majority_baseline` in reports."""
    baseline_family: str | None = None
    """A family that is trained on the same rows as a further baseline."""
    mistakes_title = "Most confident mistakes"
    """The title of `mistakes` in a report."""

    def label_names(self, example: Any) -> list[str]:
        """The class names in an example's label, for counting."""
        return []

    def answer_columns(self) -> list[str]:
        """The columns of a prediction in a table: the keys of `to_json` without class probabilities."""
        return []

    def probabilities(self, output: Any) -> dict[str, float] | None:
        """The probability of each class, in the order of `labels`; None for a task without classes."""
        return None

    def per_example_metric(
        self, examples: Sequence[Any], outputs: Sequence[Any]
    ) -> tuple[str, Floats] | None:
        """A metric that is a mean over examples: its name and its values (N,), for paired differences."""
        return None

    def weighted_metric(
        self, examples: Sequence[Any], outputs: Sequence[Any]
    ) -> tuple[str, Callable[[Floats], float]] | None:
        """A metric as a function of example weights (N,), for a paired bootstrap. None: there is no such metric."""
        if (metric := self.per_example_metric(examples, outputs)) is None:
            return None
        name, values = metric
        return name, lambda weights: float(weights @ values / weights.sum())

    def majority_baseline(self, examples: Sequence[Any]) -> list[Any] | None:
        """Outputs that ignore the text."""
        return None

    def combine(self, members: Sequence[Sequence[Any]], how: str) -> list[Any]:
        """The outputs of an ensemble; `how` is mean or vote. Raises UsageError where that has no meaning."""
        raise UsageError(
            "wrong_task", f"an ensemble of several runs does not work for {self.name}; give one run"
        )

    def sections(self, metrics: dict[str, Any]) -> list[Section]:
        """Sections of the HTML report, next to the table of metrics with intervals."""
        numbers = [
            {"figure": name.replace("_", " "), "value": value}
            for name, value in metrics.items()
            if isinstance(value, int | float) and not name.startswith("rows")
        ]
        tables = {
            "More figures": numbers,
            "Classes": metrics.get("classes"),
            "Entities": metrics.get("entity_classes"),
            "Targets": metrics.get("targets"),
            self.mistakes_title: metrics.get("mistakes"),
        }
        return [Section(title, rows=rows) for title, rows in tables.items() if rows]


def most_confident(mistakes: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first mistakes by falling `probability`, which is rounded."""
    first = sorted(mistakes, key=lambda mistake: -mistake["probability"])[:SHOWN]
    return [{**mistake, "probability": round(mistake["probability"], 4)} for mistake in first]


def values_by_label(labels: Sequence[str], values: Any) -> dict[str, float]:
    """Values (labels,) such as probabilities by label, rounded."""
    return {label: round(float(value), 6) for label, value in zip(labels, values, strict=True)}


def metrics_with_intervals(metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics that have a confidence interval."""
    return {name: value for name, value in metrics.items() if isinstance(value, dict) and "low" in value}

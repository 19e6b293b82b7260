"""What a row of docs/results.md is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

REPORTED = float("-inf")
"""The bound of a row that is only reported."""


@dataclass(frozen=True)
class Figure:
    """What was measured: as text, and the number that is judged."""

    text: str
    value: float


@dataclass(frozen=True)
class Row:
    """One figure to reach. `must` and `aim` are bounds: from below with `more`, else from above."""

    what: str
    chinese: str
    """`what` in README.zh-CN.md."""
    source: str
    measure: Callable[[dict[str, Any]], Figure]
    must: float
    aim: float | None = None
    more: bool = False
    unit: str = ""
    extra: Callable[[dict[str, Any]], bool] | None = None
    """A second condition of `must`, such as a budget that was kept."""
    and_within: str = ""

    def figure(self, result: dict[str, Any] | None) -> Figure | None:
        """The figure; None if the result does not have it yet."""
        try:
            return None if result is None else self.measure(result)
        except KeyError:
            return None

    def reached(self, bound: float, figure: Figure) -> bool:
        """Whether the figure is on the right side of a bound."""
        return figure.value >= bound if self.more else figure.value <= bound

    def bound(self, value: float | None) -> str:
        """A bound for people."""
        if value is None:
            return ""
        if value == float("-inf"):
            return "reported"
        shown = f"{value:.0%}" if self.unit == "%" else f"{value:,g}{self.unit}"
        return f"{'≥' if self.more else '≤'} {shown}"


def ranged(spread: Mapping[str, float], spec: str = ".2f", scale: float = 1) -> str:
    """Median (min–max)."""
    low, middle, high = (f"{scale * spread[key]:{spec}}" for key in ("min", "median", "max"))
    return f"{middle} ({low}–{high})"


def between(figure: Mapping[str, float], spec: str = ".2f", scale: float = 1) -> str:
    """A value with its 95 % interval."""
    value, low, high = (f"{scale * figure[key]:{spec}}" for key in ("value", "low", "high"))
    return f"{value} (95 %: {low}–{high})"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)

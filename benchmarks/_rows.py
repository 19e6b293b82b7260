"""What a row of docs/results.md is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """What was measured: for people, and the number that is judged."""

    text: str
    value: float


@dataclass(frozen=True)
class Row:
    """One figure to reach. `must` and `aim` are bounds: from below with `more`, else from above."""

    what: str
    source: str
    measured: Callable[[dict[str, Any]], Figure | None]
    """None where the result does not hold it yet."""
    must: float
    aim: float | None = None
    more: bool = False
    unit: str = ""
    extra: Callable[[dict[str, Any]], bool] | None = None
    """A second condition of `must`, such as a budget that was kept."""
    and_within: str = ""

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


def ranged(spread: dict[str, float], form: str = "{:.2f}") -> str:
    """Median (min–max)."""
    low, middle, high = (form.format(spread[key]) for key in ("min", "median", "max"))
    return f"{middle} ({low}–{high})"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)

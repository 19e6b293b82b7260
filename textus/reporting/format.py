"""Numbers, sizes and tables as text."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


# ── tables ─────────────────────────────────────────────────────────────────────────────────────


def format_value(value: Any) -> str:
    """One value as text: four significant digits, thousands separators, an interval in brackets, – for no value."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return format_number(value)
    if isinstance(value, Mapping) and {"value", "low", "high"} <= value.keys():
        return (
            f"{format_number(value['value'])} [{format_number(value['low'])}, {format_number(value['high'])}]"
        )
    return str(value)


def format_number(value: float) -> str:
    """Four significant digits; no decimals from a thousand on."""
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    if abs(value) >= 999.95:
        return f"{value:,.0f}"
    if abs(value) < 1:
        return f"{value:.4g}"
    return f"{value:.{3 - int(math.log10(abs(value)))}f}"


def format_bytes(n_bytes: float) -> str:
    """A number of bytes with its unit, in powers of ten: 12.3 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n_bytes) < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


def display_width(text: str) -> int:
    """Columns of a text in a terminal: two for a Chinese character, none for a combining mark."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def text_table(rows: Sequence[Row], columns: Sequence[str] | None = None) -> str:
    """Rows as an aligned text table, numbers right-aligned; a missing key is a dash."""
    columns, cells = format_cells(rows, columns)
    widths = [max(display_width(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]
    right = numeric_columns(rows, columns)
    lines = [_line(list(columns), widths, right), "  ".join("─" * w for w in widths)]
    return "\n".join(lines + [_line(line, widths, right) for line in cells])


def format_cells(rows: Sequence[Row], columns: Sequence[str] | None) -> tuple[Sequence[str], list[list[str]]]:
    """(columns, or every key in order of appearance; the text of each cell)."""
    if columns is None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
    return columns, [[format_value(row.get(name)) for name in columns] for row in rows]


def numeric_columns(rows: Sequence[Row], columns: Sequence[str]) -> list[bool]:
    """Which columns hold only numbers and intervals."""
    values = {name: [row[name] for row in rows if row.get(name) is not None] for name in columns}
    return [bool(v) and all(isinstance(x, int | float | Mapping) for x in v) for v in values.values()]


def _line(cells: list[str], widths: list[int], right: list[bool]) -> str:
    padded = []
    for text, column, is_right in zip(cells, widths, right, strict=True):
        gap = " " * (column - display_width(text))
        padded.append(gap + text if is_right else text + gap)
    return "  ".join(padded).rstrip()

"""Plots as PNG, drawn without a display; they need matplotlib (the `report` extra)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from textus.core.console import log_notice
from textus.core.names import import_optional
from textus.reporting.format import Row, format_number

CJK_FONTS = (
    *(f"Noto {name}" for name in ("Sans CJK SC", "Sans CJK JP", "Serif CJK SC", "Serif CJK JP")),
    *(
        "Source Han Sans SC",
        "WenQuanYi Micro Hei",
        "WenQuanYi Zen Hei",
        "Microsoft YaHei",
        "PingFang SC",
        "SimHei",
    ),
)
"""Fonts with Chinese characters; the first one that is installed is used."""


@cache
def cjk_font() -> str | None:
    """An installed font with Chinese characters, or None."""
    manager = import_optional("matplotlib.font_manager", "report")
    installed = {entry.name for entry in manager.fontManager.ttflist}
    return next((name for name in CJK_FONTS if name in installed), None)


@cache
def plain_characters() -> frozenset[int]:
    """Code points of matplotlib's default font."""
    manager = import_optional("matplotlib.font_manager", "report")
    return frozenset(manager.get_font(manager.findfont("DejaVu Sans")).get_charmap())


@cache
def report_missing_font() -> None:
    """Report once per process that some characters cannot be drawn."""
    log_notice(
        "no installed font has all characters of the plots: some are shown as \\uXXXX; install fonts-noto-cjk"
    )


def escape_label(text: str) -> str:
    r"""Text that can be drawn: a character that no installed font has is escaped (`\u6625`), and so are dollar signs,
    between which matplotlib would set a formula.
    """
    shown = text
    if not (text.isascii() or cjk_font()):
        known = plain_characters()
        shown = "".join(
            c if ord(c) in known else c.encode("ascii", "backslashreplace").decode() for c in text
        )
        if shown != text:
            report_missing_font()
    return shown.replace("$", r"\$")


FONT_SIZE = 10
"""Points; reports show plots as wide as their text."""


def _png(draw: Any, *, inches: tuple[float, float] = (7.0, 4.0)) -> bytes:
    """Run `draw(axes)` on an empty figure and return it as PNG."""
    import io

    matplotlib = import_optional("matplotlib", "report")
    figure_module = import_optional("matplotlib.figure", "report")
    fonts = ["DejaVu Sans", *([font] if (font := cjk_font()) else [])]
    with matplotlib.rc_context({"font.family": fonts, "font.size": FONT_SIZE, "axes.unicode_minus": False}):
        figure = figure_module.Figure(figsize=inches, dpi=120, layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        draw(axes)
        file = io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def loss_curve(
    lines: Iterable[Row], *, title: str = "Loss", x: str = "step", per: str = "nats per token"
) -> bytes:
    """Training and validation loss of `log.jsonl` lines over steps (or `x="cpu_seconds"`) as PNG, labelled nats `per`
    token or as given. If weights are selected by another metric, such as F1, it gets a second axis.
    """
    log = list(lines)
    metric = criterion_name(log)

    def draw(axes: Any) -> None:
        points = lambda key: [(line[x], line[key]) for line in log if key in line and x in line]  # noqa: E731
        if loss := points("loss"):
            axes.plot(*zip(*loss, strict=True), label="training", alpha=0.6, linewidth=1)
        if (held := points("validation")) and (metric is None or any("nats" in line for line in log)):
            axes.plot(*zip(*held, strict=True), label="validation", marker="o", markersize=3)
        axes.set(title=escape_label(title), xlabel=x.replace("_", " "), ylabel=per)
        shown = list(axes.lines)
        if metric is not None and (chosen := [(at, -value) for at, value in points("criterion")]):
            other = axes.twinx()
            other.spines["top"].set_visible(False)
            shown += other.plot(
                *zip(*chosen, strict=True), label=escape_label(f"validation {metric}"), marker="s", markersize=3,
                color="#c4622d",
            )  # fmt: skip
            other.set_ylabel(escape_label(metric))
        if shown:
            axes.legend(handles=shown, frameon=False)

    return _png(draw)


def criterion_name(log: Iterable[Row]) -> str | None:
    """The metric that selected the best weights of a run (`criterion` in its log, negated); None if it was the loss."""
    for line in log:
        if "criterion" in line and line.get("validation") != line["criterion"]:
            same = [
                name
                for name, value in line.items()
                if name not in ("criterion", "validation") and value == -line["criterion"]
            ]
            return same[0].replace("_", " ") if same else "mean of the tasks' metrics"
    return None


def bars(rows: Sequence[Row], *, name: str, value: str, title: str = "") -> bytes:
    """One horizontal bar with its interval per row, first row on top, as PNG.

    `name` and `value` are keys; a value is a number or {"value", "low", "high"}.
    """
    names = [escape_label(str(row[name])) for row in rows]
    values, errors = _with_errors([row[value] for row in rows])

    def draw(axes: Any) -> None:
        places = list(range(len(rows)))
        axes.barh(places, values, xerr=errors, capsize=4, color="#4c78a8", height=0.6)
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set(title=escape_label(title), xlabel=escape_label(value.replace("_", " ")))
        for place, number_ in zip(places, values, strict=True):
            axes.annotate(
                format_number(number_),
                (0, place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                color="w",
            )

    return _png(draw, inches=(7.0, 1.2 + 0.5 * max(1, len(rows))))


NAMED_CELLS = 15
"""Most rows for which the cells of a heat map are annotated."""


def heatmap(
    table: Sequence[Sequence[int]], rows: Sequence[str], columns: Sequence[str], *, title: str = ""
) -> bytes:
    """A table of counts as PNG; each cell is as dark as its share of its row."""
    shares = [[n / max(1, sum(line)) for n in line] for line in table]

    def draw(axes: Any) -> None:
        axes.grid(visible=False)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        names = [[escape_label(name[:24]) for name in side] for side in (columns, rows)]
        axes.set_xticks(range(len(columns)), names[0], rotation=45 if len(columns) > 4 else 0, ha="right")
        axes.set_yticks(range(len(rows)), names[1])
        axes.set(title=escape_label(title), xlabel="predicted class", ylabel="class")
        for y, line in enumerate(table if len(table) <= NAMED_CELLS else []):
            for x, n in enumerate(line):
                axes.annotate(
                    f"{n:,}", (x, y), ha="center", va="center", color="w" if shares[y][x] > 0.5 else "k"
                )

    side = 2.5 + 0.35 * len(rows)
    return _png(draw, inches=(max(4.0, min(9.0, side + 1.5)), max(3.0, min(9.0, side))))


def reliability_diagram(bins: Sequence[Row]) -> bytes:
    """A reliability diagram as PNG: accuracy against confidence, each point sized by its bin."""

    def draw(axes: Any) -> None:
        most = max(row["n"] for row in bins)
        axes.plot([0, 1], [0, 1], linestyle="--", linewidth=1, color="#8a949e")
        x, y = ([row[key] for row in bins] for key in ("confidence", "right"))
        axes.plot(x, y, color="#4c78a8", linewidth=1)
        axes.scatter(x, y, s=[20 + 180 * row["n"] / most for row in bins], color="#4c78a8", alpha=0.8)
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))

    return _png(draw, inches=(5.0, 4.0))


def curves(rows: Sequence[Row], *, x: str, ys: Sequence[str], title: str = "") -> bytes:
    """A line with intervals for each of `ys`, keys of rows, over the values of `x`, as PNG."""

    def draw(axes: Any) -> None:
        for (mark, colour), y in zip(MARKS, ys, strict=False):
            values, errors = _with_errors([row[y] for row in rows])
            places = [row[x] for row in rows]
            axes.errorbar(
                places, values, yerr=errors, marker=mark, capsize=4, color=colour, label=escape_label(y)
            )
        axes.set_xticks([row[x] for row in rows])
        axes.set(title=escape_label(title), xlabel=escape_label(x.replace("_", " ")))
        axes.legend(frameon=False)

    return _png(draw)


MARKS = (
    ("o", "#4c78a8"),
    ("v", "#c4622d"),
    ("D", "#4f8a3d"),
    ("s", "#7b5aa6"),
    ("^", "#8a6d3b"),
    ("P", "#a03c5a"),
)
"""Shape and colour of each group of points; the shapes alone distinguish them."""


def scatter(
    rows: Sequence[Row], *, name: str, x: str, y: str, group: str | None = None, title: str = ""
) -> bytes:
    """One labelled point per row (logarithmic x, interval on y) as PNG: quality against cost. Rows of one `group` have
    one mark, explained in a legend if there are several groups.

    Rows without a positive `x` cannot be placed on a logarithmic axis; they are listed below the plot.
    """
    shown = [row for row in rows if (row.get(x) or 0) > 0]
    left_out = [escape_label(str(row[name])) for row in rows if row not in shown]
    groups = list(dict.fromkeys(str(row[group]) if group else "" for row in shown))

    def draw(axes: Any) -> None:
        for n, name_of_group in enumerate(groups):
            members = [row for row in shown if not group or str(row[group]) == name_of_group]
            values, errors = _with_errors([row[y] for row in members])
            mark, colour = MARKS[n % len(MARKS)]
            axes.errorbar(
                [row[x] for row in members], values, yerr=errors, fmt=mark, capsize=4, color=colour,
                label=escape_label(name_of_group),
            )  # fmt: skip
        axes.set_xscale("log")
        axes.margins(x=0.2, y=0.2)
        note = f"\n(unknown for: {', '.join(left_out)})" if left_out else ""
        only = f" ({groups[0]})" if group and len(groups) == 1 else ""
        axes.set(
            title=escape_label(title), xlabel=x.replace("_", " ") + note, ylabel=y.replace("_", " ") + only
        )
        if len(groups) > 1:
            axes.figure.legend(loc="outside lower center", ncols=min(3, len(groups)), frameon=False)
        values, (below, above) = _with_errors([row[y] for row in shown])
        bars = [
            (row[x], value - low, value + high)
            for row, value, low, high in zip(shown, values, below, above, strict=True)
        ]
        place_labels(axes, [escape_label(str(row[name])) for row in shown], bars)

    return _png(draw, inches=(7.0, 4.0 + (0.4 if len(groups) > 1 else 0)))


REACH = (9, 16, 26, 40, 56)
"""Distances between a mark and its label in points, nearest first."""
NEAR = 16
"""A label further away than this gets a line to its mark."""
AROUND = ((1, 0.6), (1, -0.6), (-1, 0.6), (-1, -0.6), (0, 1), (0, -1), (1, 0), (-1, 0))
"""Directions of a label from its mark, best first."""


def place_labels(axes: Any, names: Sequence[str], bars: Sequence[tuple[float, float, float]]) -> list[Any]:
    """Label each bar (x, low, high) where the label overlaps neither another label nor a bar nor the edge; a thin line
    leads to a label further away. Returns the annotations.
    """
    figure = axes.figure
    figure.draw_without_rendering()  # computes the layout of the axes,
    figure.set_layout_engine("none")  # which must not change afterwards
    taken = [_bar_box(axes, *bar) for bar in bars]
    placed = []
    for text, (x, low, high) in zip(names, bars, strict=True):
        anchor = {"xy": (x, (low + high) / 2), "xytext": (0, 0), "textcoords": "offset points"}
        note = axes.annotate(text, **anchor, va="center")
        _, best = min(_tries(note, taken, axes.bbox), key=lambda trial: trial[0])
        move_label(note, *best)
        if best[0] > NEAR:
            line = {"arrowstyle": "-", "linewidth": 0.6, "color": "#8a949e"}
            axes.annotate("", **anchor | {"xytext": note.get_position()}, arrowprops=line)
        taken.append(_text_box(note))
        placed.append(note)
    return placed


def move_label(note: Any, reach: float, right: float, up: float) -> None:
    """Move a label `reach` points from its mark in the direction (`right`, `up`)."""
    note.set_position((right * reach, up * reach))
    note.set_horizontalalignment("left" if right > 0 else "right" if right < 0 else "center")


def _tries(
    note: Any, taken: Sequence[Any], inside: Any
) -> Iterator[tuple[float, tuple[float, float, float]]]:
    """(overlapping area, place) of each place of a label, up to the first one without overlap."""
    for place in ((reach, *way) for reach in REACH for way in AROUND):
        move_label(note, *place)
        box = _text_box(note)
        wrong = sum(_shared(box, other) for other in taken)
        wrong += box.width * box.height - _shared(box, inside)
        yield wrong, place
        if wrong < 1e-6:
            return


def _text_box(note: Any) -> Any:
    """The box of an annotation's text on the canvas, with some padding."""
    from matplotlib.text import Text

    note.update_positions(note.figure._get_renderer())
    return Text.get_window_extent(note).padded(1.5)


def _bar_box(axes: Any, x: float, low: float, high: float) -> Any:
    """The box of a mark and its interval on the canvas."""
    from matplotlib.transforms import Bbox

    (left, bottom), (_, top) = axes.transData.transform([(x, low), (x, high)])
    middle, half = (bottom + top) / 2, max((top - bottom) / 2, 6.0)
    return Bbox.from_extents(left - 7, middle - half, left + 7, middle + half)


def _shared(box: Any, other: Any) -> float:
    """The area that two boxes share."""
    wide = min(box.x1, other.x1) - max(box.x0, other.x0)
    high = min(box.y1, other.y1) - max(box.y0, other.y0)
    return float(max(0.0, wide) * max(0.0, high))


def _with_errors(figures: Sequence[Any]) -> tuple[list[float], list[list[float]]]:
    """Values, and how far each interval extends below and above, as matplotlib takes them."""
    whole = [f if isinstance(f, Mapping) else {"value": f, "low": f, "high": f} for f in figures]
    values = [float(f["value"]) for f in whole]
    below = [max(0.0, v - f["low"]) for v, f in zip(values, whole, strict=True)]
    above = [max(0.0, f["high"] - v) for v, f in zip(values, whole, strict=True)]
    return values, [below, above]

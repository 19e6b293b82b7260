"""Tables that line up, pictures without boxes, a page that is safe and needs nothing from outside."""

from __future__ import annotations

import re
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from raising import raises

from textus.core.errors import MissingDependencyError
from textus.reporting import plots
from textus.reporting.format import (
    display_width,
    format_bytes,
    format_number,
    format_value,
    text_table,
)
from textus.reporting.html import Section, render_page, write_report
from textus.reporting.plots import bars, heatmap, loss_curve, reliability_diagram, scatter

FIGURE = {"value": 1.923, "low": 1.9, "high": 1.95, "n": 20}
ROWS = [
    {"run": "春江", "bits_per_byte": FIGURE, "parameters": 10_234_567, "seconds": 0.00123},
    {"run": "b|c", "bits_per_byte": FIGURE, "parameters": 12, "seconds": None},
]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        ("", "–"),
        (True, "yes"),
        (1234567, "1,234,567"),
        (0.0, "0"),
        (0.5, "0.5"),
        (0.00012345, "0.0001234"),
        (1.0, "1.000"),
        (12.3456, "12.35"),
        (999.96, "1,000"),
        (1234.5, "1,234"),
        (float("nan"), "nan"),
        (FIGURE, "1.923 [1.900, 1.950]"),
    ],
)
def test_cells(value: object, text: str) -> None:
    assert format_value(value) == text


def test_sizes() -> None:
    assert [format_bytes(n) for n in (0, 999, 1500, 55_073_280, 3e12)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "55.1 MB",
        "3.0 TB",
    ]
    assert format_number(-12.345) == "-12.35"


def test_columns_line_up_also_in_chinese() -> None:
    lines = text_table(ROWS, ["run", "parameters", "bits_per_byte"]).splitlines()
    assert len(lines) == 4
    assert len({display_width(line) for line in lines}) == 1
    assert lines[2].startswith("春江  ")
    assert lines[3].split("  ")[0] == "b|c"
    ends = [line.index(figure) + len(figure) for line, figure in ((lines[3], " 12 "), (lines[2], ",567 "))]
    assert ends[0] - ends[1] == display_width("春江") - len(
        "春江"
    )  # right-aligned, once wide characters are counted


def test_columns_default_to_every_key_and_an_empty_table_is_its_head() -> None:
    assert text_table(ROWS).splitlines()[0].split() == ["run", "bits_per_byte", "parameters", "seconds"]
    assert text_table([], ["a", "b"]).splitlines()[0] == "a  b"


# ── pictures ──


def drawn() -> dict[str, bytes]:
    log = [{"step": s, "loss": 5 - s / 50, "cpu_seconds": s / 10} for s in range(100)]
    log += [{"step": 50, "validation": 4.2, "cpu_seconds": 5.0}, {"step": 60, "sample": "text"}]
    return {
        "loss": loss_curve(log, title="春江 $x$ 100%"),
        "time": loss_curve(log, x="cpu_seconds"),
        "bars": bars(ROWS, name="run", value="bits_per_byte", title="比较"),
        "scatter": scatter(ROWS, name="run", x="seconds", y="bits_per_byte"),
        "heatmap": heatmap([[3, 1], [0, 4]], ["褒", "贬"], ["褒", "$b$"], title="混淆"),
        "diagonal": reliability_diagram(
            [{"confidence": 0.4, "right": 0.5, "n": 3}, {"confidence": 0.9, "right": 1, "n": 8}]
        ),
        "empty": loss_curve([]),
    }


def test_pictures_are_png_without_boxes_and_the_same_twice() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a glyph it has not
        pictures = drawn()
    assert all(picture.startswith(PNG) and len(picture) > 3000 for picture in pictures.values())
    assert pictures == drawn()


def test_without_a_chinese_font_labels_are_escaped_not_boxes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """U20: and a line says which package has the font; what every font has is left as it is."""
    monkeypatch.setattr(plots, "cjk_font", lambda: None)
    plots.report_missing_font.cache_clear()
    assert plots.escape_label("é ł Ж") == "é ł Ж"
    assert capsys.readouterr().err == ""
    assert plots.escape_label("春 a") == "\\u6625 a"
    assert plots.escape_label("人") == "\\u4eba"
    assert capsys.readouterr().err.count("install fonts-noto-cjk") == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn()


def test_the_fault_is_seen_when_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "cjk_font", lambda: None)
    monkeypatch.setattr(plots, "escape_label", lambda text: text)
    with pytest.warns(UserWarning, match="Glyph"):
        bars(ROWS, name="run", value="bits_per_byte")


def test_without_matplotlib_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with raises(MissingDependencyError, "extra_not_installed", "report"):
        loss_curve([])


FAMILIES = ("ngram", "hmm", "rnn", "gru", "lstm", "decoder", "vae", "gan", "encoder")


def crowded(step: float) -> list[dict[str, Any]]:
    """Nine runs, one beside the other at steps of so much."""
    kinds = {"vae": "bound", "encoder": "pseudo"}
    return [
        {
            "name": name,
            "seconds": 0.1 * (1 + step * n),
            "bits": {"value": 2 + 0.03 * n, "low": 1.95 + 0.03 * n, "high": 2.05 + 0.03 * n},
            "kind": kinds.get(name, "exact"),
        }
        for n, name in enumerate(FAMILIES)
    ]


def overlaps(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]]) -> tuple[float, list[str]]:
    """The area by which names lie on names, on bars or outside the axes, in pixels; and the legend's words."""
    seen: list[Any] = []
    place = plots.place_labels

    def noting(axes: Any, names: list[str], bars: Any) -> Any:
        notes = place(axes, names, bars)
        seen.append((axes, notes, bars))
        return notes

    monkeypatch.setattr(plots, "place_labels", noting)
    assert scatter(rows, name="name", x="seconds", y="bits", group="kind").startswith(PNG)
    axes, notes, bars = seen[0]
    boxes = [note.get_window_extent() for note in notes]
    taken = [plots._bar_box(axes, *bar) for bar in bars]
    pairs = [(a, b) for n, a in enumerate(boxes) for b in [*boxes[:n], *taken]]
    outside = [box.width * box.height - plots._shared(box, axes.bbox) for box in boxes]
    labels = [text.get_text() for legend in axes.figure.legends for text in legend.get_texts()]
    return sum(plots._shared(a, b) for a, b in pairs) + sum(outside), [*labels, axes.get_ylabel()]


@pytest.mark.promise("Families", "Labels in the comparison's picture do not overlap")
@pytest.mark.parametrize("size", [10, 14])
@pytest.mark.parametrize("step", [1.0, 0.1])
def test_labels_do_not_overlap_and_kinds_are_labelled(
    size: int, step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "FONT_SIZE", size)
    area, labels = overlaps(monkeypatch, crowded(step))
    assert area < 1
    assert labels == ["exact", "bound", "pseudo", "bits"]


def test_overlapping_labels_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "REACH", plots.REACH[:1])  # the planted fault: one place for each name
    monkeypatch.setattr(plots, "AROUND", plots.AROUND[:1])
    assert overlaps(monkeypatch, crowded(0.02))[0] > 100


def test_one_kind_is_reported_at_the_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row for row in crowded(1.0) if row["kind"] == "exact"]
    assert overlaps(monkeypatch, rows)[1] == ["bits (exact)"]


# ── the page ──


class Reader(HTMLParser):
    """What a browser would load, and what it would show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.shown = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data: str) -> None:
        self.shown += data


@pytest.mark.promise(
    "Results", "A report loads nothing from elsewhere, and names and texts cannot become markup"
)
def test_the_page_holds_everything_and_loads_nothing(tmp_path: Path) -> None:
    picture = bars(ROWS, name="run", value="bits_per_byte")
    sections = [Section("One", "a\n\nb", rows=ROWS, picture=picture, alt="bars", code="x < y")]
    path = write_report(tmp_path / "deep" / "page.html", "报告", sections)
    text = path.read_text(encoding="utf-8")
    read = Reader(text)
    assert all(load.startswith("data:image/png;base64,") for load in read.loads)
    assert len(read.loads) == 1
    assert "http" not in re.sub(r"http-equiv", "", text)
    assert "@import" not in text
    assert "url(" not in text
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert read.tags.count("table") == 1
    assert read.tags.count("p") == 3
    for shown in ("报告", "春江", "10,234,567", "1.923 [1.900, 1.950]", "x < y"):
        assert shown in read.shown


def test_names_and_texts_cannot_become_markup() -> None:
    attack = "<script>alert(1)</script>"
    section = Section(
        attack,
        attack,
        rows=[{attack: attack, "f": 1}],
        picture=PNG,
        alt='"><img src=x onerror=1>',
        code=attack,
    )
    read = Reader(render_page(attack, [section]))
    assert "script" not in read.tags
    assert read.tags.count("img") == 1
    assert read.shown.count(attack) == 7  # title twice, heading, paragraph, column, cell, code


@pytest.mark.parametrize(
    ("figures", "axis", "validation_is_a_loss"),
    [
        ({"validation": 0.4, "criterion": -0.6, "f1": 0.6, "precision": 0.7}, "f1", False),
        ({"validation": 0.3, "criterion": -0.8, "accuracy": 0.8, "nats": 0.3}, "accuracy", True),
        ({"validation": 2.5}, None, True),
        (
            {"validation": 0.4, "criterion": -0.6, "a/f1": 0.5, "b/f1": 0.7},
            "mean of the tasks' metrics",
            False,
        ),
    ],
)
def test_a_figure_that_is_no_loss_has_an_axis_of_its_own(
    figures: dict[str, float], axis: str | None, validation_is_a_loss: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """U17: never one minus the figure on the axis of the loss."""
    from matplotlib.figure import Figure

    from textus.reporting import plots

    drawn: list[Any] = []

    def keep(draw: Any, **_: Any) -> bytes:
        figure = Figure()
        draw(figure.subplots())
        drawn.append(figure)
        return b""

    monkeypatch.setattr(plots, "_png", keep)
    plots.loss_curve([{"step": 1, "loss": 0.9}, {"step": 2, **figures}], per="loss a row")
    loss, *others = drawn[0].axes
    assert loss.get_ylabel() == "loss a row"
    assert ("validation" in [line.get_label() for line in loss.lines]) == validation_is_a_loss
    assert [other.get_ylabel() for other in others] == ([axis] if axis else [])
    if axis:
        assert list(others[0].lines[0].get_ydata()) == [-figures["criterion"]]

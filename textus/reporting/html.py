"""Reports as self-contained HTML pages."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from textus.core.errors import UsageError
from textus.core.io import folder_kind, write_atomic
from textus.reporting.format import Row, format_cells, numeric_columns


def check_report_folder(out: Any) -> None:
    """UsageError if a report would be written into a run, a corpus or another folder of Textus."""
    if out is not None and (kind := folder_kind(Path(out))):
        raise UsageError(
            "invalid_path",
            f"--out {out} is a Textus {kind} folder; choose another one for the report",
        )


@dataclass(frozen=True)
class Section:
    """One section of a report: a text (paragraphs separated by empty lines), a table, a picture (PNG), preformatted
    text, or several of them.
    """

    title: str
    text: str = ""
    rows: Sequence[Row] = ()
    columns: Sequence[str] | None = None
    picture: bytes | None = None
    alt: str = ""  # alternative text of the picture
    code: str = ""
    cells: list[list[str]] = field(init=False, repr=False)
    names: list[str] = field(init=False, repr=False)
    right: list[bool] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        names, cells = format_cells(self.rows, self.columns)
        for name, value in (
            ("names", list(names)),
            ("cells", cells),
            ("right", numeric_columns(self.rows, names)),
        ):
            object.__setattr__(self, name, value)

    @property
    def paragraphs(self) -> list[str]:
        """The paragraphs of the text."""
        return [part.strip() for part in self.text.split("\n\n") if part.strip()]

    @property
    def picture_uri(self) -> str:
        """The picture as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.picture or b"").decode("ascii")


PAGE = """<!doctype html>
<html lang="{{ language }}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
:root { --ink: #1d2329; --dim: #59636e; --paper: #fdfdfc; --rule: #d9dee3; --soft: #f1f3f5; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --dim: #9aa4af; --paper: #16191d; --rule: #333a42; --soft: #20252b; }
}
body { max-width: 54rem; margin: 2rem auto; padding: 0 1rem; color: var(--ink); background: var(--paper);
  font: 16px/1.55 system-ui, "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid var(--rule); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top; }
.right { text-align: right; } th { color: var(--dim); font-weight: 600; }
img { max-width: 100%; background: #fff; border-radius: 6px; }
pre { background: var(--soft); padding: .8rem; border-radius: 6px; overflow-x: auto; white-space: pre-wrap; }
footer { margin-top: 3rem; color: var(--dim); font-size: .85rem; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for section in sections %}
<section>
<h2>{{ section.title }}</h2>
{% for paragraph in section.paragraphs %}<p>{{ paragraph }}</p>
{% endfor %}
{%- if section.cells %}<div class="scroll"><table>
<thead><tr>{% for name in section.names %}<th scope="col"{% if section.right[loop.index0] %} class="right"{% endif %}>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in section.cells %}<tr>{% for text in row %}<td{% if section.right[loop.index0] %} class="right"{% endif %}>{{ text }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>
{% endif %}
{%- if section.picture %}<p><img src="{{ section.picture_uri }}" alt="{{ section.alt or section.title }}"></p>
{% endif %}
{%- if section.code %}<pre>{{ section.code }}</pre>
{% endif %}</section>
{% endfor %}
<footer>{{ footer }}</footer>
</body>
</html>
"""  # noqa: E501 (a table row must not gain spaces)


def render_page(
    title: str, sections: Sequence[Section], *, language: str = "en", footer: str = "Made by Textus."
) -> str:
    """The HTML of a report; all text and names are escaped."""
    import jinja2

    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(PAGE)
    return template.render(title=title, sections=sections, language=language, footer=footer)


def write_report(path: Path, title: str, sections: Sequence[Section], *, language: str = "en") -> Path:
    """Write a self-contained HTML page atomically; returns its path."""
    write_atomic(path, render_page(title, sections, language=language))
    return path

"""Write the pages that are generated from the code: python -m textus.cli.reference docs"""

from __future__ import annotations

import sys
from pathlib import Path

from textus.cli.app import build_app
from textus.cli.help import reference
from textus.core.errors import CODES
from textus.core.io import write_atomic


def errors_page() -> str:
    """All codes of errors with their meaning, as Markdown."""
    parts = [
        "# Error codes",
        "Every error is one line: what happened, the value, the remedy; its stable code is in brackets at the end, and"
        " in Python `error.code`. The exit code is 1 if the work failed, 2 for wrong usage, 130 after Ctrl-C.",
    ]
    for title, codes in CODES.items():
        rows = [f"| `{code}` | {meaning} |" for code, meaning in codes.items()]
        parts += [f"## {title}", "\n".join(["| code | meaning and remedy |", "|---|---|", *rows])]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    write_atomic(folder / "reference.md", reference(build_app()))
    write_atomic(folder / "errors.md", errors_page())

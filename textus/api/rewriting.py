"""Texts made from others: `translate` and `summarize`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textus.api.inference import open_run
from textus.api.run import Run
from textus.api.signatures import with_options
from textus.core.arguments import to_path
from textus.core.errors import UsageError
from textus.core.requests import build_request
from textus.pipelines.config import RewriteConfig


@with_options(RewriteConfig)
def translate(
    run: str | Path | Run,
    given: Any,
    *,
    out: str | Path | None = None,
    config: RewriteConfig | None = None,
    force: bool = False,
    **options: Any,
) -> Any:
    """The translation of a text (a string), or of several (a list); with `out` of each line of a plain text file (a
    Path), a line each, as they are made: the same call continues after a kill. Empty lines stay, and a text longer
    than the model's context is split at sentences.

    Raises UsageError for a run of another task, or where `out` exists.

    Example:
        >>> textus.translate("work/numbers", ["one two", "three"])
        ['eins zwei', 'drei']
    """
    config = build_request(RewriteConfig, config, options)
    return rewritten(open_run(run), "translate", given, config=config, out=out, force=force)


@with_options(RewriteConfig)
def summarize(
    run: str | Path | Run,
    given: Any,
    *,
    out: str | Path | None = None,
    config: RewriteConfig | None = None,
    force: bool = False,
    **options: Any,
) -> Any:
    """The summary of a text, of several, or of each line of a file, by a run trained with `task.goal=summarize`; see
    `translate`.

    Example:
        >>> textus.summarize("work/headlines", "three one two. A long text.")
        'drei'
    """
    config = build_request(RewriteConfig, config, options)
    return rewritten(open_run(run), "summarize", given, config=config, out=out, force=force)


def rewritten(
    run: Run, goal: str, given: Any, *, config: RewriteConfig, out: str | Path | None, force: bool
) -> Any:
    """Texts made from texts, or where the file of them is and how many lines it has."""
    from textus.pipelines.rewriting import rewrite_file

    if out is None:
        if isinstance(given, Path):
            raise UsageError(
                "missing_argument", f"{given}: a file is written to a file; give out= (--out FILE)"
            )
        return run.rewrite(given, goal, config)
    path, place = to_path(given, "the file"), to_path(out, "out")
    n = rewrite_file(run.rewriter(goal, config), path, place, encoding=config.encoding, force=force)
    return {"run": str(run.path), "out": str(place), "lines": n}

"""Commands that make texts from others: `translate` and `summarize`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

from cyclopts import Parameter

from textus.cli.params import AsText, CommandResult, ForceFile, Json, RunFolder, option, with_config
from textus.core import arguments
from textus.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from textus.pipelines.config import RewriteConfig

Texts = Annotated[
    str,
    Parameter(
        name="FILE|TEXT",
        help="A plain text file, one text per line; the text itself; or - for standard input.",
    ),
]
Out = Annotated[
    Path | None,
    option(
        "Write a line for each line to this file; the same command continues after a kill.", metavar="FILE"
    ),
]


@with_config("textus.pipelines.config")
def translate(
    run: RunFolder,
    given: Texts,
    /,
    *,
    out: Out = None,
    text: AsText = False,
    config: RewriteConfig,
    force: ForceFile = False,
    as_json: Json = False,
) -> CommandResult | None:
    """Translate a text, or each line of a file, with a run fine-tuned for text2text.

    Example: textus translate work/en-de news.txt --out news.de.txt
    """
    return rewrite(run, "translate", given, (out, text, force), config, as_json=as_json)


@with_config("textus.pipelines.config")
def summarize(
    run: RunFolder,
    given: Texts,
    /,
    *,
    out: Out = None,
    text: AsText = False,
    config: RewriteConfig,
    force: ForceFile = False,
    as_json: Json = False,
) -> CommandResult | None:
    """Summarize a text, or each line of a file, with a run fine-tuned with task.goal=summarize.

    Example: textus summarize work/headlines articles.txt --out headlines.txt
    """
    return rewrite(run, "summarize", given, (out, text, force), config, as_json=as_json)


def decoded_lines(stream: BinaryIO) -> Iterator[str]:
    """The lines of a pipe. Raises DataError for bytes that are not UTF-8."""
    for number, line in enumerate(stream, 1):
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(
                "not_text",
                f"line {number:,} of standard input is not UTF-8 ({error}); give a file with --encoding",
            ) from error


def rewrite(
    run: Path, goal: str, given: str, how: tuple[Path | None, bool, bool], config: Any, *, as_json: bool
) -> CommandResult | None:
    """Texts made from a text, a pipe or a file; lines are printed as they are made."""
    import sys

    from textus import api
    from textus.data.inputs import read_lines
    from textus.pipelines.rewriting import rewrite_lines

    out, as_text, force = how
    is_file = not as_text and given not in ("-", arguments.STDIN) and arguments.is_file(given)
    if force and out is None:
        raise UsageError("option_not_applicable", "--force: goes with --out FILE; leave it out")
    if is_file and given.lower().removesuffix(".gz").endswith(
        (".csv", ".tsv", ".jsonl", ".json", ".parquet")
    ):
        raise UsageError(
            "option_not_applicable",
            f"{given} is a table, and {goal} reads plain text: textus predict {run} {given} --out FILE",
        )
    if out is not None:
        if not is_file:
            raise UsageError("option_not_applicable", f"--out {out}: goes with a file of texts; leave it out")
        function = api.translate if goal == "translate" else api.summarize
        result = function(run, Path(given), out=out, config=config, force=force)
        return CommandResult(result, f"{out}: {result['lines']:,} lines")
    opened = api.open_run(run)
    rewriter = opened.rewriter(goal, config)
    if is_file:
        lines = read_lines(Path(given), config.encoding)
    elif given in ("-", arguments.STDIN) and not as_text:
        lines = decoded_lines(sys.stdin.buffer)
    else:
        lines = iter([arguments.check_text(given, forced=as_text, remedy="give an existing file")])
    texts = []
    for written in rewrite_lines(rewriter, lines):
        if not as_json:
            print(written, flush=True)
        texts.append(written)
    return CommandResult({"run": str(opened.path), "texts": texts}, "") if as_json else None

"""Commands for vectors and search: `embed`, `index build`, `add`, `remove`, `evaluate`, and `search`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from textus.cli.params import (
    AsText,
    Columns,
    CommandResult,
    Encoding,
    Force,
    ForceFile,
    Json,
    Out,
    RunFolder,
    option,
    with_config,
)
from textus.core import arguments

if TYPE_CHECKING:
    from textus.pipelines.config import EmbedConfig, IndexConfig

IndexFolder = Annotated[
    Path, Parameter(name="INDEX", help="An index folder, as 'textus index build' writes it.")
]
Files = Annotated[
    Path,
    Parameter(
        name="FILES",
        help="Rows with a text (and an id, a title); a .txt: one document per line; md, html, pdf, docx; or a folder.",
    ),
]
Mode = Annotated[
    str | None, option("bm25 (words), dense (meaning) or hybrid. [default: all it was built for]")
]


@with_config("textus.pipelines.config")
def embed(
    run: RunFolder,
    file: Annotated[Path, Parameter(name="FILE", help="Rows with a text, or plain text: one per line.")],
    /,
    *,
    out: Annotated[
        Path,
        option(
            "The file to write, a vector of length one per text, in order: .npy (with OUT.rows.jsonl: lines and ids),"
            " .jsonl or .csv; the same command continues after a kill.",
            metavar="FILE",
        ),
    ],
    config: EmbedConfig,
    force: ForceFile = False,
    as_json: Json = False,
) -> CommandResult:
    """Write the vector of each text of a file.

    Example: textus embed work/minilm questions.csv --out work/vectors.npy --columns text=question
    """
    from textus import api

    result = api.embed(run, file, out=out, config=config, force=force)
    return CommandResult(result, f"{result['out']}: {result['texts']:,} vectors of {result['width']}")


@with_config("textus.pipelines.config")
def index_build(
    *files: Files,
    out: Out,
    config: IndexConfig,
    force: Force = False,
    as_json: Json = False,
) -> CommandResult:
    """Make a search index of texts: by their words, by the vectors of a run, or by both.

    Example: textus index build handbook/ --run work/minilm --bm25 --out work/index
    """
    from textus import api

    index = api.build_index(files, out=out, config=config, force=force)
    counts = {name: index.record[name] for name in ("documents", "passages")}
    result = {"index": str(out), **counts, "by": index.default_mode}
    several = f" in {counts['passages']:,} passages" if counts["passages"] > counts["documents"] else ""
    text = f"{out}: {counts['documents']:,} documents{several}, searched by {result['by']}"
    return CommandResult(result, f'{text}\nnext: textus search {out} "…"')


def index_add(index: IndexFolder, /, *files: Files, as_json: Json = False) -> CommandResult:
    """Read new and changed files into an index; only their passages are embedded.

    Example: textus index add work/index handbook/
    """
    from textus import api

    return update_result(api.add_to_index(index, files))


def index_remove(index: IndexFolder, /, *files: Files, as_json: Json = False) -> CommandResult:
    """Remove files, or the files of folders, from an index.

    Example: textus index remove work/index handbook/old.pdf
    """
    from textus import api

    return update_result(api.remove_from_index(index, files))


def update_result(result: dict[str, Any]) -> CommandResult:
    """The counts of an update."""
    files = ", ".join(f"{result[name]:,} {name}" for name in ("added", "changed", "unchanged", "removed"))
    passages = f"{result['passages']:,} passages, {result['embedded']:,} of them embedded now"
    return CommandResult(result, f"{result['index']}: files {files}; {passages}")


def index_evaluate(
    index: IndexFolder,
    /,
    *,
    on: Annotated[
        Path,
        option(
            "Rows with a query (text) and the document it is to find: its text (document) or its id (document_id).",
            metavar="FILE",
        ),
    ],
    mode: Mode = None,
    columns: Columns = None,
    encoding: Encoding = None,
    as_json: Json = False,
) -> CommandResult:
    """Measure an index: recall at 1, 5 and 10, reciprocal rank and nDCG with intervals.

    Example: textus index evaluate work/index --on questions.csv --columns text=question,document=page
    """
    from textus import api
    from textus.cli import render

    result = api.open_index(index).evaluate(on, columns=columns, encoding=encoding, mode=mode)
    figures = {name: value for name, value in result.items() if name != "index"}
    return CommandResult(result, render.figures(str(index), figures))


def search(
    index: IndexFolder,
    query: Annotated[str, Parameter(name="QUERY", help="What to look for.")],
    /,
    *,
    top: Annotated[int, option("Texts to show at most.")] = 10,
    mode: Mode = None,
    text: AsText = False,
    as_json: Json = False,
) -> CommandResult:
    """Find the texts of an index that fit a query best.

    Example: textus search work/index "how to cook rice" --top 3
    """
    from textus import api

    query = arguments.check_text(query, forced=text, names=False, remedy="give a text to look for")
    result = api.search(index, query, top=top, mode=mode)
    lines = [
        f"{hit['place']:>3}  {hit['score']:.4f}  {hit['id'] or hit['where']}  {extract(hit['text'], query)}"
        for hit in result["results"]
    ]
    return CommandResult(result, "\n".join(lines) or "no results: no text has a word of the query")


def extract(text: str, query: str, most: int = 100) -> str:
    """The part of a text around the terms of a query, on one line."""
    from textus.pipelines.search_index import bm25_tokens

    line = " ".join(text.split())
    if len(line) <= most:
        return line
    terms = tuple(set(bm25_tokens(query)))
    starts = [
        match.start() for match in re.finditer(r"\w", line) if line[match.start() :].lower().startswith(terms)
    ]
    counts = {start: sum(start <= other < start + most - 20 for other in starts) for start in starts}
    first = max(counts, key=lambda start: (counts[start], -start)) if counts else 0
    begin = max(0, min(first - 10, len(line) - most + 2))
    excerpt = line[begin : begin + most - 2]
    return f"{'…' if begin else ''}{excerpt}{'…' if begin + len(excerpt) < len(line) else ''}"

"""Verbs of vectors and search: `embed`, `index build`, `index evaluate`, `search`."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from textus.cli.params import (
    AsText,
    CommandResult,
    Encoding,
    Force,
    ForceFile,
    Json,
    Out,
    RunFolder,
    SkipInvalid,
    TaskSettings,
    flag,
    option,
    task_settings,
)
from textus.core import arguments

if TYPE_CHECKING:
    from textus.data.passages import Passage

IndexFolder = Annotated[
    Path, Parameter(name="INDEX", help="An index folder, as 'textus index build' writes it.")
]
Columns = Annotated[
    str | None, option("Which columns are the fields: text=question, or without a header 0=text.")
]
Mode = Annotated[
    str | None, option("bm25 (words), dense (meaning) or hybrid. [default: all it was built for]")
]


@Parameter(name="*")
@dataclass(frozen=True)
class ReadTexts:
    """How a file of texts is read."""

    columns: Columns = None
    encoding: Encoding = None
    skip_invalid: SkipInvalid = None


def embed(
    run: RunFolder,
    file: Annotated[Path, Parameter(name="FILE", help="Rows with a text, or a plain text: a line each.")],
    /,
    *,
    out: Annotated[
        Path,
        option(
            "The file to write, a vector of length one a text, in order: .npy (with OUT.rows.jsonl: lines and ids),"
            " .jsonl or .csv; the same command continues after a kill.",
            metavar="FILE",
        ),
    ],
    read: ReadTexts = ReadTexts(),
    settings: TaskSettings = None,
    force: ForceFile = False,
    as_json: Json = False,
) -> CommandResult:
    """Write the vector of each text of a file.

    Example: textus embed work/minilm questions.csv --out work/vectors.npy --columns text=question
    """
    from textus import api

    found = api.embed(run, file, out=out, settings=task_settings(settings), force=force, **asdict(read))
    return CommandResult(found, f"{found['out']}: {found['texts']:,} vectors of {found['width']}")


@Parameter(name="*")
@dataclass(frozen=True)
class ReadDocuments(ReadTexts):
    """How the documents of an index are read."""

    passage: Annotated[
        int | None,
        option(
            "Longest passage in bytes; longer texts are cut into several. 0: none is cut. [default: 1200]"
        ),
    ] = None


def index_build(
    file: Annotated[
        Path,
        Parameter(
            name="FILE",
            help="Rows with a text (and an id, a title); a .txt: a document a line; or a folder of texts.",
        ),
    ],
    /,
    *,
    out: Out,
    run: Annotated[Path | None, option("Find by meaning: vectors of this run.", metavar="RUN")] = None,
    bm25: Annotated[bool, flag("Find by words.")] = False,
    read: ReadDocuments = ReadDocuments(),
    force: Force = False,
    as_json: Json = False,
) -> CommandResult:
    """Make an index of texts: by their words, by the vectors of a run, or by both.

    Example: textus index build pages.jsonl --run work/minilm --bm25 --out work/index
    """
    from textus import api

    index = api.build_index(file, out=out, run=run, bm25=bm25, force=force, **asdict(read))
    counts = {name: index.record[name] for name in ("documents", "passages")}
    found = {"index": str(out), **counts, "by": index.default_mode}
    several = f" in {counts['passages']:,} passages" if counts["passages"] > counts["documents"] else ""
    said = f"{out}: {counts['documents']:,} documents{several}, searched by {found['by']}"
    return CommandResult(found, f'{said}\nnext: textus search {out} "…"')


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

    Example: textus index evaluate work/index --on asked.csv --columns text=question,document=page
    """
    from textus import api
    from textus.cli import render

    found = api.open_index(index).evaluate(on, columns=columns, encoding=encoding, mode=mode)
    return CommandResult(found, render.figures(str(index), {k: v for k, v in found.items() if k != "index"}))


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
    opened = api.open_index(index)
    results = [
        {"place": place, "score": score, **about(opened.passages[at])}
        for place, (at, score) in enumerate(opened.search([query], k=top, mode=mode)[0], 1)
    ]
    lines = [
        f"{result['place']:>3}  {result['score']:.4f}  {result['id'] or result['where']}  "
        f"{extract(result['text'], query)}"
        for result in results
    ]
    data = {"index": str(index), "query": query, "mode": mode or opened.default_mode, "found": results}
    return CommandResult(data, "\n".join(lines) or "no results: no text has a word of the query")


def about(passage: Passage) -> dict[str, Any]:
    """A passage as JSON values: what is not known of it is null."""
    values = asdict(passage)
    return {name: values[name] for name in ("id", "title", "number", "where", "start", "same", "text")}


def extract(text: str, query: str, most: int = 100) -> str:
    """The stretch of a text around the words of a query, on one line."""
    from textus.pipelines.search_index import bm25_tokens

    line = " ".join(text.split())
    if len(line) <= most:
        return line
    words = set(bm25_tokens(query))
    starts = [
        match.start()
        for match in re.finditer(r"\w", line)
        if line[match.start() :].lower().startswith(tuple(words))
    ]
    counts = {start: sum(start <= other < start + most - 20 for other in starts) for start in starts}
    first = max(counts, key=lambda start: (counts[start], -start)) if counts else 0
    begin = max(0, min(first - 10, len(line) - most + 2))
    stretch = line[begin : begin + most - 2]
    return f"{'…' if begin else ''}{stretch}{'…' if begin + len(stretch) < len(line) else ''}"

"""Verbs of vectors and search: `embed`, `index build`, `index evaluate`, `search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from textus import arguments
from textus.cli.options import (
    Answer,
    AsText,
    Force,
    ForceFile,
    Json,
    Out,
    RunFolder,
    TaskSettings,
    flag,
    option,
    task_settings,
)

IndexFolder = Annotated[
    Path, Parameter(name="INDEX", help="An index folder, as 'textus index build' writes it.")
]
Columns = Annotated[
    str | None, option("Which columns are the fields: text=question, or without a header 0=text.")
]
By = Annotated[str | None, option("bm25 (words), dense (meaning) or hybrid. [default: all it was built for]")]


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
    columns: Columns = None,
    settings: TaskSettings = None,
    force: ForceFile = False,
    as_json: Json = False,
) -> Answer:
    """Write the vector of each text of a file.

    Example: textus embed work/minilm questions.csv --out work/vectors.npy --columns text=question
    """
    from textus import api

    found = api.embed(run, file, out=out, columns=columns, settings=task_settings(settings), force=force)
    return Answer(found, f"{found['out']}: {found['texts']:,} vectors of {found['width']}")


def index_build(
    file: Annotated[Path, Parameter(name="FILE", help="Rows with a text, or a plain text: a line each.")],
    /,
    *,
    out: Out,
    run: Annotated[Path | None, option("Find by meaning: vectors of this run.", metavar="RUN")] = None,
    bm25: Annotated[bool, flag("Find by words.")] = False,
    columns: Columns = None,
    force: Force = False,
    as_json: Json = False,
) -> Answer:
    """Make an index of texts: by their words, by the vectors of a run, or by both.

    Example: textus index build pages.jsonl --run work/minilm --bm25 --out work/index
    """
    from textus import api

    index = api.build_index(file, out=out, run=run, bm25=bm25, columns=columns, force=force)
    found = {"index": str(out), "documents": index.record["documents"], "by": index.way}
    said = f"{out}: {found['documents']:,} texts, found by {found['by']}"
    return Answer(found, f'{said}\nnext: textus search {out} "…"')


def index_evaluate(
    index: IndexFolder,
    /,
    *,
    on: Annotated[Path, option("Rows with a query (text) and the document it is to find.", metavar="FILE")],
    by: By = None,
    columns: Columns = None,
    as_json: Json = False,
) -> Answer:
    """Measure an index: recall at 1, 5 and 10, reciprocal rank and nDCG with intervals.

    Example: textus index evaluate work/index --on asked.csv --columns text=question,document=page
    """
    from textus import api
    from textus.cli import telling

    found = api.open_index(index).evaluate(on, columns=columns, by=by)
    return Answer(found, telling.figures(str(index), {k: v for k, v in found.items() if k != "index"}))


def search(
    index: IndexFolder,
    query: Annotated[str, Parameter(name="QUERY", help="What to look for.")],
    /,
    *,
    top: Annotated[int, option("Texts to show at most.")] = 10,
    by: By = None,
    text: AsText = False,
    as_json: Json = False,
) -> Answer:
    """Find the texts of an index that fit a query best.

    Example: textus search work/index "how to cook rice" --top 3
    """
    from textus import api
    from textus.cli.telling import shortened

    query = arguments.check_text(query, forced=text, folders=False)
    opened = api.open_index(index)
    found: list[dict[str, Any]] = [
        {"place": place, "number": number, "score": score, "text": opened.documents[number]}
        for place, (number, score) in enumerate(opened.search([query], k=top, by=by)[0], 1)
    ]
    lines = [f"{each['place']:>3}  {each['score']:.4f}  {shortened(each['text'], 100)}" for each in found]
    data = {"index": str(index), "query": query, "by": by or opened.way, "found": found}
    return Answer(data, "\n".join(lines) or "nothing found: no text has a word of the query")

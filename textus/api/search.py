"""Search as functions: `build_index`, `open_index`, `search`, `evaluate_index`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textus.api.signatures import with_options
from textus.core.arguments import to_path
from textus.core.io import check_output_dir
from textus.core.requests import build_request
from textus.pipelines.config import IndexConfig

if TYPE_CHECKING:
    from textus.pipelines.search_index import Index


@with_options(IndexConfig)
def build_index(
    file: str | Path,
    *,
    out: str | Path,
    config: IndexConfig | None = None,
    force: bool = False,
    **options: Any,
) -> Index:
    """Make a search index of a file's or folder's texts, each once: by the vectors of a `run`, by their words (`bm25`),
    or by both. Options are given as an `IndexConfig` or as keywords.

    Raises UsageError without `run` and `bm25`, or where `out` exists; DataError where there is no text.

    Example:
        >>> index = textus.build_index("books/", out="work/books-index", bm25=True)
        >>> index.default_mode
        'bm25'
    """
    from textus.data.passages import read_passages
    from textus.pipelines.search_index import build

    config = build_request(IndexConfig, config, options)
    check_output_dir(to_path(out, "out"), force=force, kind="index")
    passages = read_passages(to_path(file, "file"), config, longest=config.passage)
    return build(passages, to_path(out, "out"), run=config.run, bm25=config.bm25, force=force)


def open_index(path: str | Path) -> Index:
    """Open an index folder. Raises RunError where it is none, or damaged.

    Example:
        >>> textus.open_index("work/index").record["documents"]
        4
    """
    from textus.pipelines.search_index import Index as IndexFolder

    return IndexFolder(to_path(path, "the index"))


def search(
    index: str | Path | Index, query: str, *, top: int = 10, mode: str | None = None
) -> dict[str, Any]:
    """The `top` texts of an index that fit a query best, in order, with `score`, `id`, `title`, `text` and where they
    are from. `mode` is bm25, dense or hybrid; None: all the index was built for.

    Example:
        >>> textus.search("work/index", "good film", top=1)["results"][0]["text"]
        'a good film'
    """
    opened = open_index(to_path(index, "index"))
    results = [
        {"place": place, "score": score, **passage_values(opened.passages[position])}
        for place, (position, score) in enumerate(opened.search([query], k=top, mode=mode)[0], 1)
    ]
    return {
        "index": str(opened.path),
        "query": query,
        "mode": mode or opened.default_mode,
        "results": results,
    }


def passage_values(passage: Any) -> dict[str, Any]:
    """A passage as JSON values; what is not known of it is null."""
    values = asdict(passage)
    return {name: values[name] for name in ("id", "title", "number", "where", "start", "same", "text")}


def evaluate_index(
    index: str | Path | Index,
    on: str | Path,
    *,
    columns: str | None = None,
    encoding: str | None = None,
    mode: str | None = None,
) -> dict[str, Any]:
    """Recall at 1, 5 and 10, mean reciprocal rank and nDCG with intervals, on rows with a query (`text`) and the text
    (`document`) or id (`document_id`) of the document to find.

    Example:
        >>> textus.evaluate_index("work/index", "queries.csv")["recall@1"]["value"]
        1.0
    """
    opened = open_index(to_path(index, "index"))
    return opened.evaluate(to_path(on, "on"), columns=columns, encoding=encoding, mode=mode)

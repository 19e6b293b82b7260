"""Search as functions: `build_index`, `add_to_index`, `remove_from_index`, `open_index`, `search`, `evaluate_index`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textus.api.signatures import with_options
from textus.core.arguments import to_path
from textus.core.errors import UsageError
from textus.core.io import check_output_dir
from textus.core.requests import build_request
from textus.pipelines.config import IndexConfig

if TYPE_CHECKING:
    from textus.pipelines.search_index import Index


@with_options(IndexConfig)
def build_index(
    files: str | Path | Sequence[str | Path],
    *,
    out: str | Path,
    config: IndexConfig | None = None,
    force: bool = False,
    **options: Any,
) -> Index:
    """Make a search index of the texts of files and folders, each once: by the vectors of a `run`, by their words
    (`bm25`), or by both. Options are given as an `IndexConfig` or as keywords.

    Raises UsageError without `run` and `bm25`, or where `out` exists; DataError where there is no text.

    Example:
        >>> index = textus.build_index("books/", out="work/books-index", bm25=True)
        >>> index.default_mode
        'bm25'
    """
    from textus.pipelines.index_updates import build_from_files

    config = build_request(IndexConfig, config, options)
    check_output_dir(to_path(out, "out"), force=force, kind="index")
    return build_from_files(to_paths(files), to_path(out, "out"), config, force=force)


def to_paths(files: str | Path | Sequence[str | Path]) -> list[Path]:
    """One path or several as a list. Raises UsageError for none."""
    given = list(files) if isinstance(files, list | tuple) else [files]
    if not given:
        raise UsageError("missing_argument", "no file was given; give at least one file or folder")
    return [to_path(file, "file") for file in given]


def add_to_index(index: str | Path, files: str | Path | Sequence[str | Path]) -> dict[str, Any]:
    """Read new and changed files into an index; of a folder that was indexed, files that no longer exist are removed.
    Only new passages are embedded; `embedded` is their number.

    Raises UsageError where the index was not built from files; DataError for a file that is not found.

    Example:
        >>> textus.add_to_index("work/index", "films.csv")["unchanged"]
        1
    """
    from textus.pipelines.index_updates import add_files

    return add_files(open_index(index), to_paths(files))


def remove_from_index(index: str | Path, files: str | Path | Sequence[str | Path]) -> dict[str, Any]:
    """Remove files, or the files of folders, from an index. Raises UsageError for one that is not in the index.

    Example:
        >>> both = textus.build_index(["films.csv", "queries.csv"], out="work/both", bm25=True)
        >>> textus.remove_from_index("work/both", "queries.csv")["removed"]
        1
    """
    from textus.pipelines.index_updates import remove_files

    return remove_files(open_index(index), to_paths(files))


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
    return {
        name: values[name] for name in ("id", "title", "number", "where", "page", "start", "same", "text")
    }


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

"""An index of files: built, and brought up to date by reading only files whose SHA-256 changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from textus.core.errors import DataError, UsageError
from textus.core.io import sha256
from textus.data.passages import Passage, file_name, files_below, join_repeated, read_passages
from textus.pipelines.config import IndexConfig
from textus.pipelines.search_index import Index, build

READING = ("columns", "encoding", "skip_invalid", "passage")
"""The options that an index keeps for the files that are added later."""


def build_from_files(paths: Sequence[Path], out: Path, config: IndexConfig, *, force: bool = False) -> Index:
    """Build an index of files and folders, and record what they are read with."""
    passages = read_passages(paths, config, longest=config.passage)
    files = {
        "sources": {file_name(file): sha256(file) for path in paths for file in files_below(path)},
        "roots": list(map(file_name, paths)),
        "reading": {name: getattr(config, name) for name in READING},
    }
    return build(passages, out, run=config.run, bm25=config.bm25, force=force, files=files)


def add_files(index: Index, paths: Sequence[Path]) -> dict[str, Any]:
    """Read new and changed files, and drop files that no longer exist in folders given; see `api.add_to_index`."""
    if missing := next((path for path in paths if not path.exists()), None):
        raise DataError("not_found", f"{missing} does not exist; give a file or folder")
    known = indexed_files(index)
    present = {file_name(file): sha256(file) for path in paths for file in files_below(path)}
    gone = [name for name in known if name not in present and is_below(name, map(file_name, paths))]
    changed = {name for name, digest in present.items() if known.get(name) != digest}
    counts = {
        "added": len(changed - known.keys()),
        "changed": len(changed & known.keys()),
        "unchanged": len(present) - len(changed),
        "removed": len(gone),
    }
    if not (changed or gone):
        return result_of(index, counts, 0)
    roots = index.record["roots"]
    new_roots = [file_name(path) for path in paths if not is_below(file_name(path), roots)]
    sources = {name: digest for name, digest in known.items() if name not in gone} | present
    return update(index, sources, [*roots, *new_roots], changed, counts)


def remove_files(index: Index, paths: Sequence[Path]) -> dict[str, Any]:
    """Remove files or the files of folders; see `api.remove_from_index`."""
    known = indexed_files(index)
    removed = set[str]()
    for path in paths:
        below = {name for name in known if is_below(name, [file_name(path)])}
        if not below:
            raise UsageError(
                "not_found",
                f"{path} is not in {index.path}; it has {len(known):,} files, such as {next(iter(known), 'none')}",
            )
        removed |= below
    if len(removed) == len(known):
        raise UsageError(
            "empty_data", f"{index.path} would hold no file; delete its folder, or add other files first"
        )
    sources = {name: digest for name, digest in known.items() if name not in removed}
    roots = [root for root in index.record["roots"] if root not in removed]
    counts = {"added": 0, "changed": 0, "unchanged": len(sources), "removed": len(removed)}
    return update(index, sources, roots, set(), counts)


def indexed_files(index: Index) -> dict[str, str]:
    """The SHA-256 of the files of an index. Raises UsageError for an index that does not know its files."""
    if "sources" not in index.record:
        raise UsageError(
            "option_not_applicable",
            f"{index.path} does not record its files (an earlier version built it); rebuild it: textus index build",
        )
    return dict(index.record["sources"])


def is_below(name: str, roots: Iterable[str]) -> bool:
    """Whether a file is one of the roots, or in one of them."""
    return any(Path(name).is_relative_to(root) for root in roots)


def update(
    index: Index, sources: dict[str, str], roots: list[str], changed: set[str], counts: dict[str, int]
) -> dict[str, Any]:
    """Write the index anew with the passages of unchanged files and those of `changed` ones."""
    kept, orphans = kept_passages(index.passages, sources, changed)
    new = read_changed(index, roots, (changed | orphans) & sources.keys())
    passages = join_documents(kept, new)
    if not passages:
        raise DataError(
            "empty_data", f"{index.path} would hold no text; delete its folder, or add other files"
        )
    known = known_vectors(index)
    files = {"sources": sources, "roots": roots, "reading": index.record["reading"]}
    files |= {name: index.record[name] for name in ("calibration",) if name in index.record}
    run = index.record["run"]
    build(
        passages,
        index.path,
        run=index.path / "run" if run else None,
        bm25=index.record["bm25"],
        force=True,
        files={**files, **({"run": run} if run else {})},
        known=known,
    )
    embedded = len({passage.text for passage in passages} - known.keys()) if run else 0
    return result_of(Index(index.path), counts, embedded)


def result_of(index: Index, counts: dict[str, int], embedded: int) -> dict[str, Any]:
    """What an update reports."""
    sizes = {"documents": index.record["documents"], "passages": index.size}
    return {"index": str(index.path), **counts, **sizes, "embedded": embedded}


def kept_passages(
    passages: Sequence[Passage], sources: dict[str, str], changed: set[str]
) -> tuple[list[Passage], set[str]]:
    """The passages of unchanged files; and the unchanged files whose text was kept as that of a file that changed."""
    kept, orphans = list[Passage](), set[str]()
    for passage in passages:
        others = tuple(name for name in passage.others if name in sources and name not in changed)
        if passage.file in sources and passage.file not in changed:
            kept.append(replace(passage, others=others))
        else:
            orphans |= set(others)
    return [passage for passage in kept if passage.file not in orphans], orphans


def read_changed(index: Index, roots: list[str], changed: set[str]) -> list[Passage]:
    """The passages of the changed files, read as the index reads."""
    if not changed:
        return []
    reading = index.record["reading"]
    config = IndexConfig(**reading, bm25=index.record["bm25"])
    paths = [Path(root) for root in roots if any(is_below(name, [root]) for name in changed)]
    try:
        return read_passages(paths, config, longest=config.passage, only=changed)
    except DataError as error:
        if error.code != "empty_data":
            raise
        return []


def join_documents(kept: Sequence[Passage], new: Sequence[Passage]) -> list[Passage]:
    """The passages of both, documents numbered anew, a document with the text of another one joined to it."""
    documents: dict[tuple[str, ...], list[Passage]] = {}
    for part in (kept, new):
        for _, group in groupby(part, key=lambda passage: passage.number):
            passages = list(group)
            key = tuple(passage.text for passage in passages)
            first = documents.get(key)
            documents[key] = (
                [join_repeated(*pair) for pair in zip(first, passages, strict=True)] if first else passages
            )
    return [
        replace(passage, number=number)
        for number, passages in enumerate(documents.values())
        for passage in passages
    ]


def known_vectors(index: Index) -> dict[str, np.ndarray]:
    """The vector of each passage of an index by its text; empty for an index by words."""
    return dict(zip(index.documents, index.vectors(), strict=True)) if index.record["run"] else {}

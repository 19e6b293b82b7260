"""Requests of `textus embed` and `textus index build`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from textus.core.requests import option
from textus.data.read_options import ReadOptions
from textus.tasks.config import TaskOverrides


@dataclass(frozen=True)
class EmbedConfig(ReadOptions, TaskOverrides):
    """The options of `textus embed` and `textus.embed`."""


@dataclass(frozen=True)
class IndexConfig(ReadOptions):
    """The options of `textus index build` and `textus.build_index`."""

    run: Path | None = option(None, "Search by meaning: vectors of this run.", metavar="RUN")
    bm25: bool = option(False, "Search by words.")
    passage: int = option(
        1200, "Longest passage in bytes; longer texts are cut into several. 0: none is cut."
    )

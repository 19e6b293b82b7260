"""Requests of `textus embed`, `index build`, `ask`, `translate` and `summarize`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from textus.core.errors import UsageError
from textus.core.requests import RequestBase, option
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


@dataclass(frozen=True)
class AskConfig(RequestBase):
    """The options of `textus ask` and `textus.ask`."""

    run: Path | None = option(
        None,
        "A chat run that writes the answer, or a question-answering run that finds it. [default: the best sentence]",
        metavar="RUN",
    )
    top: int = option(5, "Passages that may hold the answer.")
    max_tokens: int = option(200, "Tokens of a chat run's answer at most.")
    threshold: float | None = option(
        None, "Least confidence of an answer, from 0 (always answer) to 1. [default: the index's]"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("top", "max_tokens"):
            if getattr(self, name) < 1:
                raise UsageError("out_of_range", f"{name}={getattr(self, name)}: must be at least 1")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UsageError("out_of_range", f"threshold={self.threshold}: must be from 0 to 1")


@dataclass(frozen=True)
class RewriteConfig(RequestBase):
    """The options of `textus translate` and `textus summarize`: those of the run where they are not given."""

    beams: int | None = option(
        None, "Partial texts kept by beam search; 1 is greedy and fastest. [default: the run's]"
    )
    length_penalty: float | None = option(
        None, "Above 0 favours longer texts, below 0 shorter ones. [default: the run's]"
    )
    max_tokens: int | None = option(None, "Tokens of a text at most. [default: twice its source and 30]")
    encoding: str | None = option(None, "Encoding of the file, such as gb18030. [default: detected]")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beams", "max_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError("out_of_range", f"{name}={value}: must be at least 1")

"""How files of rows and texts are read where that is not to be detected: `ReadOptions`."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textus.core.requests import RequestBase, option

if TYPE_CHECKING:
    from textus.data.corpus.dialects import RowProblem
    from textus.data.corpus.sources import Source
    from textus.data.labeled import Record


@dataclass(frozen=True)
class FileOptions(RequestBase):
    """Which `columns` of a file are the fields, and the file's `encoding`; None: detected.

    Raises UsageError for an unknown encoding.
    """

    columns: str | None = option(
        None, "Which columns are the fields: text=review,label=stars, or without a header 0=text,1=label."
    )
    encoding: str | None = option(
        None,
        "Encoding of the files, such as cp1250 or gb18030. [default: as the run was trained, or detected]",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoding is not None:
            from textus.data.corpus.documents import check_encoding

            check_encoding(self.encoding)

    def stream(
        self,
        path: Path,
        *,
        quiet: bool = False,
        problems: list[RowProblem] | None = None,
        in_memory: bool = False,
    ) -> Iterator[Record]:
        """The rows of a file; see `data.labeled.stream_records`."""
        from textus.data.corpus.tables import parse_columns
        from textus.data.labeled import stream_records

        columns, encoding = parse_columns(self.columns), self.encoding or ""
        return stream_records(
            path, columns, encoding=encoding, quiet=quiet, problems=problems, in_memory=in_memory
        )

    def records(
        self, path: Path, problems: list[RowProblem] | None = None, *, quiet: bool = False
    ) -> list[Record]:
        """All rows of a file, which is read from the disk once."""
        return list(self.stream(path, quiet=quiet, problems=problems, in_memory=True))


@dataclass(frozen=True)
class ReadOptions(FileOptions):
    """How a file of rows is read.

    One value carries this from the flags, or from the record of a run, through every function that reads a file. What
    is given wins; `inputs.resolve_options` fills in what a run was trained with, where the file fits that. Raises
    UsageError for a share that is none.
    """

    skip_invalid: str | None = option(
        None,
        "Leave out rows that cannot be used, up to a share (5%) or all; else they are refused.",
        metavar="N%",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.skip_invalid is not None:
            from textus.data.skipping import parse_share

            parse_share(self.skip_invalid)


AUTODETECT = ReadOptions()
"""Nothing is given: the columns are called as the fields are, and the encoding is detected."""


def run_read_options(record: Mapping[str, Any]) -> ReadOptions:
    """How the rows were read that a run was trained on, as given with --columns and --encoding."""
    corpus = record.get("corpus") or {}
    return ReadOptions(corpus.get("columns"), corpus.get("encoding"))


def common_read_options(trained: Sequence[ReadOptions]) -> ReadOptions:
    """The options shared by several runs: their common columns, and the one encoding that any used; else None."""
    columns = {options.columns for options in trained}
    encodings = {options.encoding for options in trained if options.encoding}
    return ReadOptions(*(values.pop() if len(values) == 1 else None for values in (columns, encodings)))


def fits_encoding(path: Path, encoding: str) -> bool:
    """Whether files can be in an encoding: some are not UTF-8 and decode in it without an error, none is non-ASCII
    UTF-8.
    """
    from textus.data.corpus.documents import UnreadableError
    from textus.data.corpus.sources import Source, scan

    several = False
    for source in scan([path], Path(), lambda n: None, any_suffix=True):
        if not isinstance(source, Source) or source.kind == "parquet":
            continue
        try:
            valid = is_utf8(source)
            if valid or (valid is False and not can_decode(source, encoding)):
                return False
        except UnreadableError:
            return False  # what is wrong is reported when the file is read
        several = several or valid is False
    return several


def is_utf8(source: Source) -> bool | None:
    """Whether the non-ASCII bytes are UTF-8, except for a few; None without such bytes, or with a byte order mark."""
    from textus.data.corpus.decoding import ByteStatistics, from_bom
    from textus.data.corpus.sources import read_blocks

    survey = ByteStatistics()
    for block in read_blocks(source):
        survey.add(block)
    survey.add(b"", final=True)
    if from_bom(survey.head) or not (survey.n_valid or survey.n_broken):
        return None
    return survey.n_valid > survey.n_broken or not survey.n_broken


def can_decode(source: Source, encoding: str) -> bool:
    """Whether the bytes of a source are text of an encoding without an error."""
    from textus.data.corpus.sources import read_blocks

    decoder = codecs.getincrementaldecoder(encoding)("strict")
    try:
        for block in read_blocks(source):
            decoder.decode(block)
        decoder.decode(b"", True)
    except UnicodeError:
        return False
    return True

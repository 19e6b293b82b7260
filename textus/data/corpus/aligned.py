"""Pairs of texts in two files that are aligned line by line, such as train.en and train.de."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from textus.core.errors import DataError, UsageError
from textus.data.corpus.decoding import open_text
from textus.data.corpus.dialects import detect_line_end, split_lines, strip_line_end
from textus.data.corpus.documents import RawDocument, translate_read_errors
from textus.data.corpus.sources import Source, scan


def is_aligned(columns: Mapping[str, str]) -> bool:
    """Whether the columns are suffixes of two files: source=.en,target=.de."""
    by_suffix = [column.startswith(".") for column in columns]
    if any(by_suffix) and not (len(by_suffix) == 2 and all(by_suffix)):
        raise UsageError(
            "missing_argument",
            "--columns: files aligned by line need both suffixes, such as source=.en,target=.de",
        )
    return any(by_suffix)


def read_aligned(
    given: Sequence[Path], columns: Mapping[str, str], encoding: str, advance: Callable[..., Any]
) -> Iterator[RawDocument]:
    """The pairs of each source file and its target file, in order. Raises DataError for a missing file or unequal
    lengths.
    """
    suffixes = {name: suffix for suffix, name in columns.items()}
    firsts = [path for path in given if path.name.endswith(suffixes["source"])]
    seconds = [replace_suffix(path, suffixes["source"], suffixes["target"]) for path in firsts]
    strange = [path for path in given if path not in (*firsts, *seconds)]
    if strange or not firsts:
        raise DataError(
            "invalid_value",
            f"{(strange or list(given))[0]}: --columns names files by their suffixes {suffixes['source']} and"
            f" {suffixes['target']}; give files such as train{suffixes['source']}",
        )
    for first, second in zip(firsts, seconds, strict=True):
        yield from read_line_pairs(first, second, encoding, advance)


def replace_suffix(path: Path, old: str, new: str) -> Path:
    """The path of the same name with another suffix; of a packed file too, as train.en.gz."""
    return path.with_name(path.name.removesuffix(old) + new)


def read_line_pairs(
    first: Path, second: Path, encoding: str, advance: Callable[..., Any]
) -> Iterator[RawDocument]:
    """The pairs of two files. An empty line is an empty text; a corpus drops such a pair."""
    sources, steps = read_lines(first, encoding, advance)
    targets, more = read_lines(second, encoding, advance)
    counts = [0, 0]
    for number, (source, target) in enumerate(zip_longest(sources, targets)):
        counts = [counts[0] + (source is not None), counts[1] + (target is not None)]
        if source is not None and target is not None:
            text, given = strip_line_end(target), strip_line_end(source)
            yield RawDocument(
                str(first), number, [text], (*steps, *more), offset_in_chars=False, source_text=given
            )
    if counts[0] != counts[1]:
        raise DataError(
            "size_mismatch",
            f"{first} has {counts[0]:,} lines and {second} {counts[1]:,}: their lines are no pairs; give files of one"
            " length",
        )


def read_lines(
    path: Path, encoding: str, advance: Callable[..., Any]
) -> tuple[Iterator[str], tuple[str, ...]]:
    """The lines of a text file and its decoding steps. Raises DataError where it cannot be read."""
    for source in scan([path], Path(), advance):
        if isinstance(source, Source):
            with translate_read_errors(path):
                end = detect_line_end(open_text(source, encoding=encoding)[1])
                detected, text = open_text(source, encoding=encoding)
            return split_lines(text, end), detected.steps
    raise DataError("unreadable_file", f"{path} cannot be read; give a text file")

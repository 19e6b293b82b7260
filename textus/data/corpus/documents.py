"""The record everything here is about, how a corpus is set, and what is dropped and why."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from encodings.aliases import aliases

from textus.core.errors import CodedError, DataError, UsageError
from textus.core.names import nearest_name

PART_CHARS = 1_000_000
"""The most characters of one part: a long document is stored in parts, so that memory stays flat."""

RECORD_CHARS = 16_000_000
"""The most characters of one record of a table, or of one page: those must be held whole to be understood."""

SPLITS = ("train", "validation")


class UnreadableError(CodedError):
    """A source cannot be read; the message is the reason. The build skips and reports it."""


class MissingColumnError(UnreadableError):
    """A table lacks a column that was named, or that is needed."""


@contextmanager
def translate_read_errors(name: object, remedy: str = "") -> Iterator[None]:
    """Raise errors of reading `name`, a path or a source, as DataError with the same code."""
    try:
        yield
    except MissingColumnError as error:
        raise DataError(error.code, f"{name} {error}") from error
    except UnreadableError as error:
        raise DataError(error.code, f"{name} cannot be read: {error}{remedy}") from error


@dataclass(frozen=True)
class Document:
    """One part of one document: consecutive parts of one split with the same id are one document.

    `id` is 16 hex digits of the BLAKE2b of the whole text. `source` is the path as given, or `archive.zip!member`.
    `offset`: for txt, md and html the character (of the repaired text) at which this part begins, for tables the record
    number, from 0. `part` counts from 0 in each split. `steps` are the changes made, such as `("encoding:gb18030",
    "newlines", "nfc")`. Of a pair, `text` is the target and `source_text` the source; a pair is always one part.
    """

    id: str
    text: str
    source: str
    offset: int
    part: int = 0
    steps: tuple[str, ...] = ()
    source_text: str | None = None


@dataclass(frozen=True)
class CorpusSettings:
    """How a corpus is made; see `parse_split` for `split`.

    `normalise` mends mojibake, line ends and NFC; `deduplicate` drops exact duplicates; documents of fewer than
    `min_chars` characters (white space at both ends not counted) are dropped; `text_column` is the column of a table
    that holds the text. A table without it that has columns `source` and `target` holds pairs. `columns` names the
    columns of either, as in "text=review", "source=en,target=de" or, for a table without a header, "0=text";
    `delimiter` is what separates those of a csv or tsv, "" to detect it. `encoding` is that of all text, such as
    "cp1250"; "" detects it file by file.
    """

    split: str = "auto"
    normalise: bool = True
    deduplicate: bool = True
    min_chars: int = 1
    text_column: str = "text"
    encoding: str = ""
    columns: str = ""
    delimiter: str = ""

    def check(self) -> None:
        """Raise UsageError for a value that cannot be used."""
        parse_split(self.split)
        if self.min_chars < 0:
            raise UsageError(
                "out_of_range", f"min_chars={self.min_chars} is negative; give 0 or more characters"
            )
        check_encoding(self.encoding)


def check_encoding(name: str) -> str:
    """Python's own name of an encoding, "" for "". Raises UsageError for a name that is no text encoding."""
    if not name:
        return ""
    try:
        b"\xe9\\x".decode(name, "replace")  # what cannot replace, or gives no text, cannot be used
        return codecs.lookup(name).name
    except (LookupError, ValueError):
        near = nearest_name(
            name, {other.replace("_", "-") for other in aliases.values() if other not in NON_TEXT_CODECS}
        )
    hint = f"; did you mean {near!r}?" if near else ";"
    raise UsageError(
        "unknown_encoding",
        f"unknown encoding {name[:60]!r}{hint} give a text encoding of Python, such as cp1250, gb18030 or koi8-r",
    )


NON_TEXT_CODECS = frozenset(
    re.findall(r"\S+", "base64_codec bz2_codec hex_codec mbcs quopri_codec rot_13 uu_codec zlib_codec")
)


def parse_split(split: str) -> tuple[str, float]:
    """The kind of split and the validation share, such as ("hash", 0.1) or ("none", 0).

    `hash:F` sends whole documents by the hash of their text, `tail:F` the last share F of each document, cut at exactly
    int((1 - F) * n) characters; `auto` is `hash:0.1`, or `tail:0.1` for too few documents.
    """
    kind, _, share = split.partition(":")
    if kind not in ("auto", "hash", "tail", "none") or (share and kind in ("auto", "none")):
        near = nearest_name(kind, ("auto", "hash", "tail", "none"))
        hint = f" (did you mean {near!r}?)" if near and near != kind else ""
        raise UsageError(
            "invalid_value", f"split {split!r} is not one of auto, hash:0.1, tail:0.1, none{hint}"
        )
    if kind == "none":
        return kind, 0.0
    try:
        fraction = float(share or 0.1)
    except ValueError as error:
        raise UsageError(
            "invalid_value", f"split {split!r}: {share!r} is not a number; write it as {kind}:0.1"
        ) from error
    if not 0 < fraction < 1:
        raise UsageError(
            "out_of_range", f"split {split!r}: the share must be between 0 and 1, such as {kind}:0.1"
        )
    return kind, fraction


@dataclass(frozen=True)
class SkippedItem:
    """What did not come into the corpus: a file, a record or a document."""

    source: str
    reason: str
    detail: str = ""
    offset: int | None = None


@dataclass(frozen=True)
class RawDocument:
    """A document from a reader: its text in blocks, not yet repaired. `offset_in_chars`: the offset advances with each
    part.
    """

    source: str
    offset: int
    blocks: Iterable[str]
    steps: tuple[str, ...] = ()
    offset_in_chars: bool = True
    source_text: str | None = None

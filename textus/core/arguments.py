"""Arguments that may be a text, the name of a file, or a pipe; and the note that an interrupted command shows."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from textus.core.errors import UsageError

PLAIN = (".txt", ".text")
"""Suffixes of plain text: each line is a text."""
SUFFIXES = (
    *PLAIN, ".md", ".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".conll", ".conllu", ".bio", ".iob",
    ".html", ".htm", ".xml", ".pdf", ".docx", ".xlsx", ".xls", ".gz", ".xz", ".zip", ".npy", ".safetensors", ".gguf",
)  # fmt: skip
"""What ends in one of these is the name of a file."""
SENTENCE_MARKS = frozenset("。，！？；：、“”「」…\n")
"""No path has one of these, a sentence may."""
STDIN = "/dev/stdin"
"""The path that `-` means."""


# ── a text, or the name of a file ──────────────────────────────────────────────────────────────


def is_file(text: str) -> bool:
    """Whether a text names a file; one too long for a name does not."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def looks_like_path(text: str) -> bool:
    """Whether a text is written as a path is: with a suffix of files, or a slash and no blank."""
    if SENTENCE_MARKS & set(text):
        return False
    if text.lower().rstrip().endswith(SUFFIXES):
        return True
    return ("/" in text or "\\" in text) and not any(character.isspace() for character in text)


def describe_path(text: str) -> str | None:
    """What a text names on this machine: a file, a folder, a pipe or a device; None where nothing has that name."""
    if not text.strip():
        return None
    try:
        mode = Path(text).stat().st_mode
    except (OSError, ValueError):
        return None
    if stat.S_ISREG(mode):
        return "a file"
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device"


def check_text(text: str, *, forced: bool = False, names: bool = True, remedy: str = "give a file") -> str:
    """A text as given. UsageError for one that is written as a path, or (`names`) that is the name of a file or folder,
    unless `forced`: a path must not be answered as a text. `remedy`: what to give if a path was meant.
    """
    if forced:
        return text
    kind = describe_path(text)
    if kind is None and looks_like_path(text):
        raise UsageError("not_found", f"{text!r} not found; {remedy}, or --text if this is the text itself")
    if kind is not None and (names or looks_like_path(text)):
        raise UsageError(
            "ambiguous_text", f"{text!r} is {kind}; {remedy}, or --text if this is the text itself"
        )
    return text


def text_or_file(text: str, *, forced: bool = False) -> str | Path:
    """The file of that name, else the text itself; UsageError for the name of a file that does not exist."""
    if not forced and is_file(text):
        return Path(text)
    return check_text(text, forced=forced)


# ── a pipe ─────────────────────────────────────────────────────────────────────────────────────


def is_piped() -> bool:
    """Whether standard input is a pipe or a file: somebody has put a text there."""
    if isinstance(sys.stdin, io.StringIO):
        return True
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


# ── the path of a file or folder, in Python ────────────────────────────────────────────────────


def to_path(value: Any, name: str) -> Path:
    """The path of a file or folder: as given, or that of a run, a corpus or an index. UsageError naming an argument
    that is none.
    """
    value = getattr(value, "path", value)
    if isinstance(value, str | os.PathLike) and isinstance(os.fspath(value), str):
        if not os.fspath(value):
            raise UsageError("invalid_path", f"{name} is an empty string; give the path of a file or folder")
        return Path(value)
    raise UsageError(
        "wrong_type",
        f"{name} is {type(value).__name__} ({str(value)[:60]!r}), not the path of a file or folder; give a string or a"
        " Path",
    )


def to_optional_path(value: Any, name: str) -> Path | None:
    """`to_path`, and None for nothing."""
    return None if value is None or value == "" else to_path(value, name)


# ── interrupted ─────────────────────────────────────────────────────────────────────────────────

NOTHING_KEPT = "nothing is kept; begin anew with the same command"
"""The note for work that saves nothing before it ends."""


@contextlib.contextmanager
def note_on_interrupt(note: str = NOTHING_KEPT) -> Iterator[None]:
    """Within the block, Ctrl-C gets a note of what is kept, which the command line prints with its message."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(note)
        raise

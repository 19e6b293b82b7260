"""What a person typed where a text or a file may stand: the text itself, the name of a file, or a pipe."""

from __future__ import annotations

import io
import os
import stat
import sys
from pathlib import Path

from textus.errors import UsageError

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
"""What - stands for."""


# ── a text, or the name of a file ──────────────────────────────────────────────────────────────


def is_file(text: str) -> bool:
    """Whether a text names a file; one too long for a name does not."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def is_folder(text: str) -> bool:
    """Whether a text names a folder."""
    try:
        return bool(text.strip()) and Path(text).is_dir()
    except (OSError, ValueError):
        return False


def looks_like_path(text: str) -> bool:
    """Whether a text is written as a path is: with a suffix of files, or a slash and no blank."""
    if SENTENCE_MARKS & set(text):
        return False
    if text.lower().rstrip().endswith(SUFFIXES):
        return True
    return ("/" in text or "\\" in text) and not any(character.isspace() for character in text)


def check_text(text: str, *, forced: bool = False, folders: bool = True) -> str:
    """A text as given. UsageError for one that is written as a path, or (`folders`) names a folder, unless `forced`: a
    path that is mistyped must not be answered as a text.
    """
    if forced:
        return text
    if folders and is_folder(text):
        raise UsageError(
            "ambiguous_text", f"{text!r} is a folder; give a file, or --text if this is the text itself"
        )
    if looks_like_path(text):
        raise UsageError(
            "not_found", f"{text!r} not found; give a file, or --text if this is the text itself"
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

"""Files and folders that appear whole or not at all, hashes, JSON, the mark of a folder that Textus made."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from textus.core.console import log_notice, to_printable
from textus.core.errors import RunError, UsageError
from textus.core.locks import exclusive_lock, is_process_alive, is_unlocked, try_lock


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is a disk without space, a quota, or a limit on the size of a file.

    safetensors and sqlite raise their own exceptions, which have the cause only in their text.
    """
    while error is not None:
        text = str(error)
        codes = {getattr(error, "errno", None), *map(int, re.findall(r"os error (\d+)", text))}
        if codes & DISK_FULL_ERRNOS or any(
            words in text for words in ("database or disk is full", "disk I/O error")
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


DISK_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""The system's errors for: no space left on the disk, none left of the quota, more than a file may have."""


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """A short stable hash (16 hex digits) of anything JSON can hold."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def fsync_path(path: Path) -> None:
    """Flush a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write next to `path`, flush, rename: a reader sees the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale_files(path)
    staging = staging_path(path)
    try:
        # a lone surrogate, as in a file name that is not UTF-8, becomes its escape in JSON
        staging.write_bytes(data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data)
        fsync_path(staging)
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)
    fsync_path(path.parent)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder that appears whole: yields one next to `path`, flushes all of it, then renames it into place.

    What was at `path` before is replaced at the end, in one step where the system can do that: a kill leaves the old
    folder or the new one. If the body fails nothing of `path` changes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale_files(path)
    staging = staging_path(path, ".new")
    remove_path(staging)
    staging.mkdir()
    try:
        with try_lock(staging):
            yield staging
            for file in sorted(staging.rglob("*")):
                fsync_path(file)
            fsync_path(staging)
            rename_into_place(staging, path)
        fsync_path(path.parent)
    finally:
        remove_path(staging)


def rename_into_place(staging: Path, path: Path) -> None:
    """Rename a folder to `path`; RunError where somebody writes to the one it replaces, which is removed."""
    if not path.exists():
        staging.replace(path)
        return
    with exclusive_lock(path):
        if not exchange_paths(staging, path):
            old = staging_path(path, ".old")
            path.replace(old)  # killed before the next line: `remove_stale_files` puts it back
            staging.replace(path)
            remove_path(old)


def staging_path(path: Path, ending: str = "") -> Path:
    """Where this process writes what will be `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}{ending}")


def remove_path(path: Path) -> None:
    """Delete a file, a link or a folder with all that is in it, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def exchange_paths(first: Path, second: Path) -> bool:
    """Let two names change places in one step (Linux); False where the system or the disk cannot."""
    import ctypes

    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0


def remove_stale_files(path: Path) -> None:
    """Remove what processes that are gone left half written next to `path`, with a line for each; a folder that one of
    them had moved away for a new one that never came is put back.
    """
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(\d+)(\.new|\.old)?")
    try:
        names = [name for name in os.listdir(path.parent) if pattern.fullmatch(name)]  # noqa: PTH208
        for left in (path.with_name(name) for name in sorted(names)):
            number, ending = pattern.fullmatch(left.name).groups()  # type: ignore[union-attr]
            if is_process_alive(int(number)) or not is_unlocked(left):
                continue
            if ending == ".old" and not path.exists():
                left.replace(path)
                log_notice(f"{path}: put back as it was; the process that was replacing it is gone")
            else:
                remove_path(left)
                log_notice(f"{left}: removed; the process that was writing it is gone")
    except OSError:
        return  # a folder that may not be read or written: what is in it harms nobody


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file that is never changed in place; a copy where the disk has no such links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def read_json(path: Path) -> Any:
    """Parse a JSON file; RunError naming the file and the place where it is not JSON, or cannot be read."""
    if path.exists() and not path.is_file():  # reading a pipe or a device might never end
        raise RunError(
            "not_a_regular_file", f"{path} is not a regular file; use a copy of the folder it belongs to"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError("not_found", f"{path} not found") from error
    except (ValueError, RecursionError) as error:  # a number of a thousand digits is a bare ValueError
        raise RunError("damaged", f"{path} is not JSON ({error}); it was changed or cut short") from error
    except OSError as error:
        raise RunError("unreadable_file", f"{path} cannot be read ({error})") from error


def is_plain_name(name: Any) -> bool:
    """Whether a value is the name of a file in a folder and nothing more: no path, no `..`, not hidden."""
    return isinstance(name, str) and bool(name) and not name.startswith(".") and not set(name) & set("/\\\0")


def resolve_record_file(folder: Path, name: Any, known: Collection[str]) -> Path:
    """The file of `folder` that a record names. Every path taken from a record goes through here.

    Records can be made by anybody: a name must be one of those that Textus itself writes there (`known`), and the file
    no link, pipe or device. RunError where it is not; a file that is missing is for the caller to name.
    """
    if not isinstance(name, str) or name not in known:
        raise RunError(
            "damaged",
            f"{folder}: its record names {str(name)[:100]!r}, which is no file of such a folder; it was changed, use a"
            " copy",
        )
    path = folder / name
    for part in (path, *path.parents[: name.count("/")]):
        if part.is_symlink():
            raise RunError("not_a_regular_file", f"{part} is a link; put a copy of the file in its place")
    if path.exists() and not path.is_file():
        raise RunError(
            "not_a_regular_file", f"{path} is not a regular file; put a copy of the file in its place"
        )
    return path


def dump_jsonl(rows: Iterable[Any]) -> str:
    """Rows as JSON, one a line; what JSON has no word for, such as a date of a table, is written as text."""
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, readable by people (two spaces, one newline at the end)."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False) + "\n")


MARKER = "textus.json"
"""The file that marks a folder as ours where nothing else in it does."""
FOLDER_MARKERS: dict[str, tuple[str, dict[str, Any]]] = {
    "run": ("run.json", {"version": int, "family": str, "tokenizer": dict}),
    "corpus": ("corpus.json", {"version": int, "fingerprint": str, "counts": dict}),
    "index": ("index.json", {"version": int, "documents": int, "files": dict}),
    "demo": (MARKER, {"textus": "demo"}),
    "export": (MARKER, {"textus": "export"}),
    "tokenizer": ("tokenizer_config.json", {"textus_fingerprint": str}),
}
"""Kind of folder → the JSON file it is known by, and the keys with the values or types that only we write; the first
that fits counts, for a run and an export hold a tokenizer too."""


def mark_folder(folder: Path, kind: str) -> None:
    """Mark a folder as one that Textus made and `--force` may replace."""
    write_json(folder / MARKER, FOLDER_MARKERS[kind][1])


def folder_kind(folder: Path) -> str | None:
    """Which kind of ours a folder is, by what only we write in it; None for everybody else's."""
    return next(
        (kind for kind, (name, keys) in FOLDER_MARKERS.items() if has_json_keys(folder / name, keys)), None
    )


SHOW_COMMANDS = {
    "run": "textus show {}",
    "corpus": "textus corpus show {}",
    "index": "textus search {} QUERY",
    "demo": "textus show {}/decoder",
    "export": "textus import {} --out RUN",
    "tokenizer": "textus tokenizer report {} CORPUS",
}
"""Kind of folder → the command that shows or uses it."""


def describe_other_kind(path: Path) -> str | None:
    """What a folder that was taken for another kind of ours is, and the command for it; None for everybody else's."""
    if (kind := folder_kind(path)) is None:
        return None
    article = "an" if kind[0] in "aeiou" else "a"
    return f"it is {article} {kind}: {SHOW_COMMANDS[kind].format(shlex.quote(str(path)))}"


def has_json_keys(path: Path, keys: dict[str, Any]) -> bool:
    """Whether a file is a JSON object with these keys, each of this value or type."""
    try:
        value = read_json(path)
    except RunError:
        return False
    return isinstance(value, dict) and all(
        type(value.get(key)) is wanted if isinstance(wanted, type) else value.get(key) == wanted
        for key, wanted in keys.items()
    )


def check_output_dir(out: Path, *, force: bool = False, kind: str = "run") -> None:
    """Refuse an output folder that exists, unless `force`; and even then one that holds something else than a `kind`:
    nothing is overwritten by accident. Replacing it is left to the caller.
    """
    if kind in ("run", "tokenizer", "export") and to_printable(str(out.absolute())) != str(out.absolute()):
        raise UsageError(
            "invalid_path",
            f"{out}: models and tokenizers cannot be opened in a folder of this name (control characters, or bytes"
            " that are not UTF-8); choose another --out",
        )
    remove_stale_files(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    actual = folder_kind(out)
    if not force:
        hint = f", or --force to replace this {kind}" if actual == kind else ""
        raise UsageError("already_exists", f"{out} exists already; choose another --out{hint}")
    if actual != kind:
        what = f"holds a {actual}" if actual else f"is no {kind}"
        raise UsageError(
            "already_exists", f"{out} {what}, so it is not replaced even with --force; choose another --out"
        )
    with exclusive_lock(out):
        return  # whoever trains into it now is named before any work is done


def check_output_file(out: Path, *, force: bool = False) -> None:
    """Refuse an output file that exists, unless `force`, and a folder, pipe or device in its place always."""
    if out.exists() and (not out.is_file() or not force):
        hint = ", or --force to replace this file" if out.is_file() else ""
        raise UsageError("already_exists", f"{out} exists already; choose another --out{hint}")

"""What every floor above needs: errors, atomic files, hashes, seeds, notices and progress.

The error tree (`exit_code` is what the command line returns)::

    TextusError (1)               the work failed
    ├── UsageError (2)            the words were wrong: a bad option, value or name; also a ValueError
    ├── DataError (1)             the text or table given cannot be used
    ├── RunError (1)              a run, corpus or tokenizer folder is missing, damaged or of another kind
    ├── TrainingError (1)         training cannot go on (not-a-number, no space left)
    └── MissingExtra (1)          an optional dependency is not installed

Every message says what happened, which value, and what to do.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class TextusError(Exception):
    """The work failed; the message says what, which value, what to do."""

    exit_code = 1


class UsageError(TextusError, ValueError):
    """The words were wrong: an unknown name or a value out of range."""

    exit_code = 2


class DataError(TextusError):
    """The text or table given cannot be used."""


class RunError(TextusError):
    """A run, corpus or tokenizer folder is missing, damaged or of another kind."""


class TrainingError(TextusError):
    """Training cannot go on."""


class MissingExtra(TextusError):
    """An optional dependency is not installed."""


def nearest(value: str, choices: Iterable[str]) -> str | None:
    """The choice most like `value`, or None where nothing is near."""
    found = difflib.get_close_matches(value.lower(), list(choices), n=1, cutoff=0.5)
    return found[0] if found else None


def unknown(kind: str, value: str, choices: Iterable[str]) -> UsageError:
    """The error for a name that is not there: the nearest one offered, all of them listed."""
    choices = list(choices)
    near = nearest(value, choices)
    hint = f"; did you mean {near!r}?" if near else ";"
    shown = value if len(value) <= 60 else value[:57] + "..."
    return UsageError(f"unknown {kind} {shown!r}{hint} known: {', '.join(choices)}")


def extra(module: str, name: str) -> ModuleType:
    """Import an optional `module`; without it, one line that names the extra to install."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"{module} is not installed; it comes with: pip install 'textus[{name}]'"
        ) from error


# ── files ──────────────────────────────────────────────────────────────────────────────────────


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """A short stable hash (16 hex digits) of anything JSON can hold."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write beside `path`, flush, rename: a reader sees the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # a lone surrogate, as in a file name that is not UTF-8, becomes its escape in JSON
        beside.write_bytes(data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data)
        sync(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync(path.parent)


@contextlib.contextmanager
def folder_atomic(path: Path) -> Iterator[Path]:
    """A folder that appears whole: yields one beside `path`, flushes all of it, then renames it into place.

    What stood at `path` before is replaced at the end. If the body fails nothing of `path` changes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        for file in sorted(beside.rglob("*")):
            sync(file)
        sync(beside)
        if path.exists():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            with alone_in(path):
                path.replace(old)
                beside.replace(path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            beside.replace(path)
        sync(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file that is never changed in place; a copy where the disk has no such links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep every other training of this machine out of a folder, and from replacing it; RunError where one is at it.

    The lock is the system's and ends with the process, however that ends. Where there is none (Windows, some network
    file systems) none is taken.
    """
    handle = os.open(folder, os.O_RDONLY) if fcntl else None
    try:
        if fcntl and handle is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunError(
                    f"{folder} is in use: a training or a search writes to it; wait for that, stop it, or choose"
                    " another --out"
                ) from error
            except OSError:
                pass  # this file system has no locks
        yield
    finally:
        if fcntl and handle is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_UN)  # a forked child may have the handle too
            os.close(handle)


def read_json(path: Path) -> Any:
    """Parse a JSON file; RunError naming the file and the place where it is not JSON, or cannot be read."""
    if path.exists() and not path.is_file():
        raise RunError(
            f"{path} is not a regular file; give a file of JSON"
        )  # a pipe or a device would never end
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{path} is not there") from error
    except (ValueError, RecursionError) as error:  # a number of a thousand digits is a bare ValueError
        raise RunError(f"{path} is not JSON ({error}); it was changed or cut short") from error
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error})") from error


def json_lines(rows: Iterable[Any]) -> str:
    """Rows as JSON, one a line; what JSON has no word for, such as a date of a table, is written as text."""
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, readable by people (two spaces, one newline at the end)."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False) + "\n")


MARKS = {
    "run": "run.json",
    "corpus": "corpus.json",
    "export": "config.json",
    "tokenizer": "tokenizer.json",
    "index": "index.json",
    "demo": "documents.jsonl",
}
"""Kind of folder → the file it is known by; the first that is there counts, for a run holds a tokenizer too."""


def claim(out: Path, *, force: bool = False, kind: str = "run") -> None:
    """Refuse an output folder that exists, unless `force`; and even then one that holds something else than a `kind`:
    nothing is overwritten by accident. Replacing it is left to the caller.
    """
    if not out.exists():
        return
    if not force:
        raise UsageError(f"{out} exists already; choose another --out, or --force to replace this {kind}")
    found = next((each for each, name in MARKS.items() if (out / name).is_file()), None)
    if found != kind and not (out.is_dir() and not any(out.iterdir())):
        holds = f"holds a {found}" if found else f"is not a {kind}"
        raise UsageError(f"{out} {holds}, so it is not replaced even with --force; choose another --out")
    with alone_in(out):
        return  # whoever trains into it now is told of before any work is done


def claim_file(out: Path, *, force: bool = False) -> None:
    """Refuse an output file that exists, unless `force`, and a folder in its place always."""
    if out.exists() and (out.is_dir() or not force):
        raise UsageError(f"{out} exists already; choose another --out, or --force to replace this file")


# ── randomness ─────────────────────────────────────────────────────────────────────────────────


def counter_seed(seed: int, *keys: int | str) -> int:
    """A 63-bit seed for one use of randomness: a hash of the run's seed and what it is for.

    Streams made this way do not depend on each other, nor on the order in which they are used.
    """
    text = ":".join([str(seed), *map(str, keys)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def uniform(seed: int, *keys: int | str) -> float:
    """One number in [0, 1) from a counter-based stream."""
    return (counter_seed(seed, *keys) >> 10) / float(1 << 53)


# ── telling people ─────────────────────────────────────────────────────────────────────────────


def notice(text: str) -> None:
    """One line for the person at the terminal; standard output stays free for results."""
    print(printable(text, keep="\n\t"), file=sys.stderr, flush=True)


UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, keep: str = "") -> str:
    """Text, such as the name of a file, that any terminal can show and any file hold.

    Control characters and bytes that are not UTF-8 (Python's lone surrogates) are escaped, `\\x1b` and `\\xe9`.
    """

    def escaped(match: re.Match[str]) -> str:
        code = ord(match[0]) - (0xDC00 if "\udc80" <= match[0] <= "\udcff" else 0)
        return match[0] if match[0] in keep else f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"

    return UNPRINTABLE.sub(escaped, text)


def command_line() -> str:
    """The command that was typed, quoted so that it can be pasted back."""
    return shlex.join(["textus", *sys.argv[1:]])


def cpu_seconds() -> float:
    """CPU time of this process and of its finished children (compilers), user and system."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@contextlib.contextmanager
def progress(description: str, total: float | None = None) -> Iterator[Any]:
    """A progress bar on standard error; yields `advance(amount=1, note="")`.

    Where standard error is not a terminal: a line after two seconds, one every 30 seconds, and a closing line.
    """
    import time

    started = time.monotonic()
    if sys.stderr.isatty():
        rich_progress = import_module("rich.progress")
        console = import_module("rich.console").Console(stderr=True)
        bar = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(),
            rich_progress.TaskProgressColumn(),
            rich_progress.TimeRemainingColumn(),
            rich_progress.TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
        )
        with bar:
            task = bar.add_task(description, total=total, note="")
            yield lambda amount=1, note="": bar.update(task, advance=amount, note=note)
    else:
        with progress_lines(description, total) as advance:
            yield advance
    if (seconds := time.monotonic() - started) > 2:
        notice(f"{description}: {seconds:.1f} s")


FIRST_LINE, NEXT_LINES = 2.0, 30.0
"""Seconds before the first line about progress, and between the others."""


@contextlib.contextmanager
def progress_lines(description: str, total: float | None) -> Iterator[Any]:
    """Progress in lines, for logs and pipes, by a thread of its own: a step that takes minutes is reported too."""
    import threading
    import time

    ended, started = threading.Event(), time.monotonic()
    done, shown = 0.0, ""

    def advance(amount: float = 1, note: str = "") -> None:
        nonlocal done, shown
        done, shown = done + amount, note or shown

    def report() -> None:
        wait = FIRST_LINE
        while not ended.wait(wait):
            seconds, wait = time.monotonic() - started, NEXT_LINES
            share = f" {done / total:.0%}" if total else ""
            left = f", about {duration(seconds * (total - done) / done)} left" if total and done else ""
            note = f", {shown}" if shown else ""
            notice(f"{description}:{share} after {duration(seconds)}{left}{note}")

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield advance
    finally:
        ended.set()
        thread.join()


def duration(seconds: float) -> str:
    """A time for people: 45 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

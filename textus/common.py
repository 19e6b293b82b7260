"""What every package needs: atomic files, hashes, seeds, notices and progress."""

from __future__ import annotations

import contextlib
import difflib
import errno
import hashlib
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from textus.errors import MissingExtra, RunError, TextusError, UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


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
    return UsageError("unknown_name", f"unknown {kind} {shown!r}{hint} known: {', '.join(choices)}")


def extra(module: str, name: str) -> ModuleType:
    """Import an optional `module`; without it, one line that names the extra to install.

    Raises MissingExtra only where the module itself is missing; TextusError where it is installed and fails to import.
    """
    try:
        return import_module(module)
    except ImportError as error:
        if is_missing(module, error):
            raise MissingExtra(
                "extra_not_installed",
                f"{module} is not installed; it comes with: pip install 'textus[{name}]'",
            ) from error
        raise TextusError(
            "extra_broken",
            f"{module} is installed but cannot be imported ({error}); repair it:"
            f" pip install --force-reinstall 'textus[{name}]'",
        ) from error


def is_missing(module: str, error: ImportError) -> bool:
    """Whether an import of `module` failed because it is not installed, and not for a fault inside it."""
    return isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is a disk without space, a quota, or a limit on the size of a file.

    safetensors and sqlite raise their own kinds, which tell only in words.
    """
    while error is not None:
        text = str(error)
        codes = {getattr(error, "errno", None), *map(int, re.findall(r"os error (\d+)", text))}
        if codes & FULL or any(words in text for words in ("database or disk is full", "disk I/O error")):
            return True
        error = error.__cause__ or error.__context__
    return False


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""The system's errors for: no space left on the disk, none left of the quota, more than a file may have."""


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
    sweep(path)
    beside = beside_name(path)
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

    What was at `path` before is replaced at the end, in one step where the system can do that: a kill leaves the old
    folder or the new one. If the body fails nothing of `path` changes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    beside = beside_name(path, ".new")
    remove(beside)
    beside.mkdir()
    try:
        with held(beside):
            yield beside
            for file in sorted(beside.rglob("*")):
                sync(file)
            sync(beside)
            put_in_place(beside, path)
        sync(path.parent)
    finally:
        remove(beside)


def put_in_place(beside: Path, path: Path) -> None:
    """Rename a folder to `path`; RunError where somebody writes to the one it replaces, which is removed."""
    if not path.exists():
        beside.replace(path)
        return
    with alone_in(path):
        if not exchanged(beside, path):
            old = beside_name(path, ".old")
            path.replace(old)  # killed before the next line: `sweep` puts it back
            beside.replace(path)
            remove(old)


def beside_name(path: Path, ending: str = "") -> Path:
    """Where this process writes what will be `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}{ending}")


def remove(path: Path) -> None:
    """Delete a file, a link or a folder with all that is in it; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def exchanged(first: Path, second: Path) -> bool:
    """Let two names change places in one step (Linux); False where the system or the disk cannot."""
    import ctypes

    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0


def sweep(path: Path) -> None:
    """Remove what processes that are gone left half written beside `path`, with a line for each; a folder that one of
    them had moved away for a new one that never came is put back.
    """
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(\d+)(\.new|\.old)?")
    try:
        names = [name for name in os.listdir(path.parent) if pattern.fullmatch(name)]  # noqa: PTH208
        for left in (path.with_name(name) for name in sorted(names)):
            number, ending = pattern.fullmatch(left.name).groups()  # type: ignore[union-attr]
            if is_alive(int(number)) or not is_free(left):
                continue
            if ending == ".old" and not path.exists():
                left.replace(path)
                notice(f"{path}: put back as it was; the process that was replacing it is gone")
            else:
                remove(left)
                notice(f"{left}: removed; the process that was writing it is gone")
    except OSError:
        return  # a folder that may not be read or written: what is in it harms nobody


def is_alive(number: int) -> bool:
    """Whether a process of this number runs on this machine; itself does."""
    if os.name == "nt":  # no signal 0 there: it would end the process
        return True
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def is_free(path: Path) -> bool:
    """Whether nobody holds a file or folder (`held`): process numbers of other containers say nothing here."""
    if not fcntl or path.is_symlink():
        return True
    with held(path) as got_it:
        return got_it


@contextlib.contextmanager
def held(path: Path) -> Iterator[bool]:
    """The system's lock on a file or folder as long as the body runs, where it can be had; yields whether it was."""
    handle = os.open(path, os.O_RDONLY) if fcntl else None
    try:
        got_it = True
        if fcntl and handle is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                got_it = False
            except OSError:
                pass  # this file system has no locks
        yield got_it
    finally:
        if handle is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_UN)  # a forked child may have the handle too
            os.close(handle)


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
    with held(folder) as got_it:
        if not got_it:
            raise RunError(
                "in_use",
                f"{folder} is in use: a training or a search writes to it, or another command; wait for that,"
                " stop it, or choose another --out",
            )
        yield


def read_json(path: Path) -> Any:
    """Parse a JSON file; RunError naming the file and the place where it is not JSON, or cannot be read."""
    if path.exists() and not path.is_file():  # reading a pipe or a device might never end
        raise RunError(
            "not_a_regular_file", f"{path} is not a regular file; use a copy of the folder it belongs to"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError("not_found", f"{path} is not there") from error
    except (ValueError, RecursionError) as error:  # a number of a thousand digits is a bare ValueError
        raise RunError("damaged", f"{path} is not JSON ({error}); it was changed or cut short") from error
    except OSError as error:
        raise RunError("unreadable_file", f"{path} cannot be read ({error})") from error


def is_plain_name(name: Any) -> bool:
    """Whether a value is the name of a file in a folder and nothing more: no path, no `..`, not hidden."""
    return isinstance(name, str) and bool(name) and not name.startswith(".") and not set(name) & set("/\\\0")


def record_file(folder: Path, name: Any, known: Collection[str]) -> Path:
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


def json_lines(rows: Iterable[Any]) -> str:
    """Rows as JSON, one a line; what JSON has no word for, such as a date of a table, is written as text."""
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, readable by people (two spaces, one newline at the end)."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False) + "\n")


MARKER = "textus.json"
"""The file that marks a folder as ours where nothing else in it does."""
MARKS: dict[str, tuple[str, dict[str, Any]]] = {
    "run": ("run.json", {"version": int, "family": str, "tokenizer": dict}),
    "corpus": ("corpus.json", {"version": int, "fingerprint": str, "counts": dict}),
    "index": ("index.json", {"version": int, "documents": int, "files": dict}),
    "demo": (MARKER, {"textus": "demo"}),
    "export": (MARKER, {"textus": "export"}),
    "tokenizer": ("tokenizer_config.json", {"textus_fingerprint": str}),
}
"""Kind of folder → the JSON file it is known by, and the keys with the values or types that only we write; the first
that fits counts, for a run and an export hold a tokenizer too."""


def mark(folder: Path, kind: str) -> None:
    """Mark a folder as one that Textus made and `--force` may replace."""
    write_json(folder / MARKER, MARKS[kind][1])


def kind_of_folder(folder: Path) -> str | None:
    """Which kind of ours a folder is, by what only we write in it; None for everybody else's."""
    return next((kind for kind, (name, keys) in MARKS.items() if holds(folder / name, keys)), None)


SEEN_BY = {
    "run": "textus show {}",
    "corpus": "textus corpus show {}",
    "index": "textus search {} QUERY",
    "demo": "textus show {}/decoder",
    "export": "textus import {} --out RUN",
    "tokenizer": "textus tokenizer report {} CORPUS",
}
"""Kind of folder → the command that shows or uses it."""


def other_kind(path: Path) -> str | None:
    """What a folder that was taken for another kind of ours is, and the command for it; None for everybody else's."""
    if (kind := kind_of_folder(path)) is None:
        return None
    article = "an" if kind[0] in "aeiou" else "a"
    return f"it is {article} {kind}: {SEEN_BY[kind].format(shlex.quote(str(path)))}"


def holds(path: Path, keys: dict[str, Any]) -> bool:
    """Whether a file is a JSON object with these keys, each of this value or type."""
    try:
        value = read_json(path)
    except RunError:
        return False
    return isinstance(value, dict) and all(
        type(value.get(key)) is wanted if isinstance(wanted, type) else value.get(key) == wanted
        for key, wanted in keys.items()
    )


def claim(out: Path, *, force: bool = False, kind: str = "run") -> None:
    """Refuse an output folder that exists, unless `force`; and even then one that holds something else than a `kind`:
    nothing is overwritten by accident. Replacing it is left to the caller.
    """
    if kind in ("run", "tokenizer", "export") and printable(str(out.absolute())) != str(out.absolute()):
        raise UsageError(
            "invalid_path",
            f"{out}: models and tokenizers cannot be opened in a folder of this name (control characters, or bytes"
            " that are not UTF-8); choose another --out",
        )
    sweep(out)
    if not out.exists():
        return
    if not force:
        raise UsageError(
            "already_exists", f"{out} exists already; choose another --out, or --force to replace this {kind}"
        )
    found = kind_of_folder(out)
    if found != kind and not (out.is_dir() and not any(out.iterdir())):
        what = f"holds a {found}" if found else f"is no {kind}"
        raise UsageError(
            "already_exists", f"{out} {what}, so it is not replaced even with --force; choose another --out"
        )
    with alone_in(out):
        return  # whoever trains into it now is named before any work is done


def claim_file(out: Path, *, force: bool = False) -> None:
    """Refuse an output file that exists, unless `force`, and a folder, pipe or device in its place always."""
    if out.exists() and (not out.is_file() or not force):
        hint = ", or --force to replace this file" if out.is_file() else ""
        raise UsageError("already_exists", f"{out} exists already; choose another --out{hint}")


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


Gathered = dict[tuple[str | None, ...], tuple[list[int], str]]
_gathered: ContextVar[Gathered | None] = ContextVar("gathered", default=None)
"""Within `notices_together`: the texts of a notice, None where a count stands → the counts so far, the first place."""


def notice(*parts: str | int, first: str = "") -> None:
    """One line for the person at the terminal, of texts and counts; standard output stays free for results.

    Of many batches' notices those of the same texts are one (`notices_together`), their counts summed. `first` ends
    the line with the first place, as in "the first is a.csv: line 3".
    """
    if (gathered := _gathered.get()) is not None:
        key = tuple(part if isinstance(part, str) else None for part in parts)
        added = [part for part in parts if not isinstance(part, str)]
        before, place = gathered.get(key, ([0] * len(added), first))
        gathered[key] = [a + b for a, b in zip(before, added, strict=True)], place
        return
    line = "".join(part if isinstance(part, str) else f"{part:,}" for part in parts)
    print(printable(line + (f"; {first}" if first else ""), keep="\n\t"), file=sys.stderr, flush=True)


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


@contextlib.contextmanager
def notices_together(*, show: bool = True) -> Iterator[None]:
    """Within the block the notices of many batches are held back; after it those of the same texts are one line, their
    counts summed; none without `show`: the same work is done again, and then told.
    """
    gathered: Gathered = {}
    token = _gathered.set(gathered)
    try:
        yield
    finally:
        _gathered.reset(token)
        for texts, (counts, first) in gathered.items() if show else ():
            numbers = iter(counts)
            notice(*(next(numbers) if text is None else text for text in texts), first=first)


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

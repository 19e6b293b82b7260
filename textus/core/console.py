"""What a person sees on the way: notices, progress, durations."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from importlib import import_module
from typing import Any

MergedNotices = dict[tuple[str | None, ...], tuple[list[int], str]]


_gathered: ContextVar[MergedNotices | None] = ContextVar("gathered", default=None)
"""Within `merge_notices`: the texts of a notice, None in place of a count → the counts so far, the first place."""


def log_notice(*parts: str | int, first: str = "") -> None:
    """One line for the person at the terminal, of texts and counts; standard output stays free for results.

    Of many batches' notices those of the same texts are one (`merge_notices`), their counts summed. A notice whose
    first count is 0 is not shown; so a total such as "3 of 300" includes batches without a hit. `first` ends the line
    with the first place, as in "the first is a.csv: line 3".
    """
    if (gathered := _gathered.get()) is not None:
        key = tuple(part if isinstance(part, str) else None for part in parts)
        added = [part for part in parts if not isinstance(part, str)]
        before, place = gathered.get(key, ([0] * len(added), first))
        gathered[key] = [a + b for a, b in zip(before, added, strict=True)], place or first
        return
    if next((part for part in parts if isinstance(part, int)), 1) == 0:
        return
    line = "".join(part if isinstance(part, str) else f"{part:,}" for part in parts)
    print(to_printable(line + (f"; {first}" if first else ""), keep="\n\t"), file=sys.stderr, flush=True)


UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def to_printable(text: str, keep: str = "") -> str:
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
def merge_notices(*, show: bool = True) -> Iterator[None]:
    """Within the block the notices of many batches are held back; after it those of the same texts are one line, their
    counts summed; none without `show`: for work that is done again and then reported.
    """
    gathered: MergedNotices = {}
    token = _gathered.set(gathered)
    try:
        yield
    finally:
        _gathered.reset(token)
        for texts, (counts, first) in gathered.items() if show else ():
            numbers = iter(counts)
            log_notice(*(next(numbers) if text is None else text for text in texts), first=first)


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
        log_notice(f"{description}: {seconds:.1f} s")


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
            left = (
                f", about {format_duration(seconds * (total - done) / done)} left" if total and done else ""
            )
            note = f", {shown}" if shown else ""
            log_notice(f"{description}:{share} after {format_duration(seconds)}{left}{note}")

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield advance
    finally:
        ended.set()
        thread.join()


def format_duration(seconds: float) -> str:
    """A time for people: 45 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

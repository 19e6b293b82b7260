"""Locks on folders: one process writes, the others wait or are refused."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from textus.core.errors import RunError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def is_process_alive(number: int) -> bool:
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


def is_unlocked(path: Path) -> bool:
    """Whether nobody holds a file or folder (`try_lock`): process numbers of other containers have no meaning here."""
    if not fcntl or path.is_symlink():
        return True
    with try_lock(path) as got_it:
        return got_it


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
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


@contextlib.contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Keep every other training of this machine out of a folder, and from replacing it; RunError where one is at it.

    The lock is the system's and ends with the process, however that ends. Without locks (Windows, some network
    file systems) none is taken.
    """
    with try_lock(folder) as got_it:
        if not got_it:
            raise RunError(
                "in_use",
                f"{folder} is in use: a training or a search writes to it, or another command; wait for that,"
                " stop it, or choose another --out",
            )
        yield

"""Keep freed memory in the process for the next step, by the settings of glibc's allocator.

A training step frees and asks for hundreds of megabytes. By default each large block is a new mapping whose
pages the kernel clears one by one, 4 kB at a time: on two Zen 5 cores that took a quarter of a training step.
Kept in one heap of 2 MB pages the same step ran 1.25 times as fast (docs/log.md).
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8
MADV_HUGEPAGE = 14
HUGE_PAGE = 2 << 20
RESERVE = 1 << 30
"""Bytes of address space the heap grows by at a time; memory is used only where it is touched."""


@cache
def keep_freed_memory() -> bool:
    """Configure the allocator, once a process; False if this is not glibc on Linux, and nothing changes."""
    try:
        libc = ctypes.CDLL(None)
        mallopt, malloc, free, madvise = libc.mallopt, libc.malloc, libc.free, libc.madvise
    except (OSError, AttributeError):
        return False
    for option, value in (
        (M_MMAP_THRESHOLD, RESERVE),
        (M_TRIM_THRESHOLD, (1 << 31) - 1),
        (M_ARENA_MAX, 1),
        (M_TOP_PAD, RESERVE),
    ):
        if not mallopt(option, value):
            return False
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    free.argtypes, madvise.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    free(malloc(RESERVE // 2))  # the heap grows now, in one piece
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith("[heap]"):
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            start = -(-start // HUGE_PAGE) * HUGE_PAGE
            if end - start >= HUGE_PAGE:
                madvise(start, end - start, MADV_HUGEPAGE)
    return True


def release_freed_memory() -> bool:
    """Return what is free to the system, so that the memory of the process is that of what it holds; False where this
    is not glibc.
    """
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (OSError, AttributeError):
        return False

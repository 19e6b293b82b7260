"""The allocator is told once, changes no result, and is left alone where it is not glibc's."""

from __future__ import annotations

import subprocess
import sys

import pytest

ASK = """
import torch
from pathlib import Path
from textus.core.memory import keep_freed_memory
torch.set_num_threads(1)
if {kept}:
    assert keep_freed_memory() and keep_freed_memory()
def heap():  # from the first to the last address: what was said of its pages may cut it in parts
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("[heap]")]
    ends = [int(end, 16) for line in lines for end in line.split()[0].split("-")]
    return min(ends), max(ends)
def work():
    torch.manual_seed(0)
    total, addresses = torch.zeros(()), []
    for _ in range(6):
        x = torch.randn(1 << 24)  # 64 MB: always a mapping of its own where nothing was told
        total = total + (x * 2 + 1).sum()
        addresses.append(x.data_ptr())
    return float(total), addresses
work()
before = heap()
total, addresses = work()
print(total, sum(before[0] <= address < before[1] for address in addresses), heap() == before)
"""


def asked(kept: bool) -> tuple[str, ...]:
    command = [sys.executable, "-c", ASK.format(kept=kept)]
    return tuple(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_kept_memory_stays_in_one_heap_and_changes_no_result() -> None:
    # Where blocks lie is asked, not how many pages faulted: kernels count faults differently.
    total, in_heap, unchanged = asked(True)
    assert (in_heap, unchanged) == ("6", "True")
    assert asked(False)[:2] == (total, "0")


def test_another_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from textus.core import memory

    class Without:
        def __init__(self, name: None) -> None: ...

    monkeypatch.setattr(memory.ctypes, "CDLL", Without)
    assert memory.keep_freed_memory.__wrapped__() is False

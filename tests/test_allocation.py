"""The allocator is told once, changes no result, and is left alone where it is not glibc's."""

from __future__ import annotations

import subprocess
import sys

import pytest

ASK = """
import resource, torch
from textus.allocation import keep_memory
torch.set_num_threads(1)
if {kept}:
    assert keep_memory() and keep_memory()
def work():
    torch.manual_seed(0)
    total = torch.zeros(())
    for _ in range(12):
        x = torch.randn(1 << 22)  # 16 MB: a mapping of its own where nothing was told
        total = total + (x * 2 + 1).sum()
    return total
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
total = work()
print(float(total), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def asked(kept: bool) -> tuple[float, int]:
    out = subprocess.run(
        [sys.executable, "-c", ASK.format(kept=kept)], capture_output=True, text=True, check=True
    ).stdout.split()
    return float(out[0]), int(out[1])


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_kept_memory_is_not_asked_for_again_and_changes_no_result() -> None:
    (kept, faults), (plain, many) = asked(True), asked(False)
    assert kept == plain
    assert faults < many / 10


def test_another_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from textus import allocation

    class Without:
        def __init__(self, name: None) -> None: ...

    monkeypatch.setattr(allocation.ctypes, "CDLL", Without)
    assert allocation.keep_memory.__wrapped__() is False

"""What is found is compared with what the system says; what is measured, with what it must be within."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from raising import raises

from textus.core import hardware
from textus.core.errors import UsageError
from textus.models.kernels import native


def test_importing_it_is_light() -> None:
    code = "import sys; from textus.core import hardware; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_machine_agrees_with_the_system() -> None:
    result = hardware.detect_machine()
    assert 1 <= result.cores <= len(os.sched_getaffinity(0))
    assert 0 < result.memory_available <= result.memory_total
    assert result.memory_total <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 1.01
    assert (result.gpu is not None) == torch.cuda.is_available()
    assert set(result.isa) <= set(hardware.ISA_FLAGS)


def test_flags_agree_with_torch() -> None:
    capability = (
        torch.backends.cpu.get_cpu_capability()
    )  # may be lowered by an environment variable, never raised
    if capability.startswith("AVX512"):
        assert "avx512f" in hardware.isa_flags()
    assert hardware.isa_name().split()[0] == os.uname().machine
    assert all(flag in hardware.isa_name() for flag in hardware.isa_flags())


def test_fewer_cores_by_affinity() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert hardware.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_a_container_s_limits_are_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text("100000000\n")
    (tmp_path / "memory.current").write_text("40000000\n")
    monkeypatch.setattr(hardware, "CGROUP", tmp_path)
    assert hardware.usable_cores() == 1
    assert hardware.memory_bytes() == (100_000_000, 60_000_000)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert hardware.usable_cores() == len(os.sched_getaffinity(0))
    assert hardware.memory_bytes()[0] > 100_000_000


@pytest.mark.parametrize("name", ["g++", "clang++", "c++", "ccache g++"])
def test_what_doctor_names_as_the_compiler_is_what_builds_the_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """C10: one `find_compiler`; the kernels really call the one that `machine` names."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TEXTUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", name if " " in name else "")
    assert hardware.find_compiler() is None
    assert "not found" in str(native._library.__wrapped__()[1]) or "no C++ compiler" in str(
        native._library.__wrapped__()[1]
    )
    program = tmp_path / name.split()[0]
    program.write_text('#!/bin/sh\necho "called $0 $1" >&2; exit 3\n')
    program.chmod(0o755)
    result = hardware.detect_machine().compiler
    assert result == (name if " " in name else str(program))
    assert f"the C++ compiler {result} could not build the kernels (called {program}" in str(
        native._library.__wrapped__()[1]
    )


def test_a_compiler_that_was_named_and_is_missing_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    for wanted in ("/nowhere/g++", "'unclosed", "g++-that-is-nowhere -O1"):
        monkeypatch.setenv("CXX", wanted)
        assert hardware.find_compiler() is None
        assert wanted in str(native._library.__wrapped__()[1])


def test_matrix_rate_is_that_of_a_product_timed_by_hand() -> None:
    rate = hardware.matmul_rate("float32", shape=(512, 512, 512))
    a = torch.ones(512, 512)
    times = []  # of this thread's own work, as the rate is: neighbours stretch the clock
    for _ in range(9):
        started = time.thread_time()
        a @ a
        times.append(time.thread_time() - started)
    by_hand = 2 * 512**3 / sorted(times)[4]
    assert (
        0.2 < rate / by_hand < 5
    )  # other work on the machine moves either; a wrong count would be off by 1,000


def test_threads_are_put_back_even_when_it_fails() -> None:
    before = torch.get_num_threads()
    hardware.matmul_rate(torch.float32, threads=2, shape=(64, 64, 64), repeats=1)
    assert torch.get_num_threads() == before
    with pytest.raises(RuntimeError):
        hardware.matmul_rates([torch.bool], threads=2, shape=(8, 8, 8))  # no product of truth values
    assert torch.get_num_threads() == before


def test_faster_dtype_is_quick_and_true_to_its_measurement() -> None:
    started = time.process_time()
    result = hardware.faster_dtype()
    assert time.process_time() - started < 3
    rates = hardware.matmul_rates(["float32", "bfloat16"], repeats=5)
    ratio = rates["bfloat16"] / rates["float32"]
    if ratio > 1.5:
        assert result == "bfloat16"
    if ratio < 0.8:
        assert result == "float32"


def test_unknown_dtype_is_a_word_that_is_wrong() -> None:
    with raises(UsageError, "unknown_name", "bfloat61"):
        hardware.matmul_rate("bfloat61")


PEAK = """
import os, sys
from textus.core import hardware
if not hardware.reset_peak_memory():
    sys.exit(7)
before = hardware.peak_memory_bytes()
block = bytearray(os.urandom(1) * 200_000_000)
assert hardware.peak_memory_bytes() - before > 150_000_000
del block
assert hardware.reset_peak_memory()
assert hardware.peak_memory_bytes() - before < 100_000_000
"""


def test_peak_memory_sees_an_allocation_and_can_begin_again() -> None:
    # a process of its own: where training kept memory (textus.core.memory), freed blocks stay and the peak with them
    done = subprocess.run([sys.executable, "-c", PEAK], check=False)
    if done.returncode == 7:
        pytest.skip("this system does not let a process reset its peak")
    assert done.returncode == 0


def test_versions_are_those_installed() -> None:
    result = hardware.package_versions()
    assert result["torch"] == torch.__version__
    assert result["python"] == sys.version.split()[0]
    assert set(result) == {"python", "textus", "torch", "numpy", "tokenizers", "safetensors"}
    assert hardware.installed_version("no-such-package-anywhere") is None

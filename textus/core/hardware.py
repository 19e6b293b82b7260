"""What this machine can do: cores, memory, instruction sets, GPU, compiler, and how fast it multiplies
matrices.

Capability flags are a poor guide to speed (bf16 without hardware for it is slower than fp32, and a busy
neighbour halves everything), so what matters is measured: `matmul_rate` in FLOP/s, `faster_dtype` between
fp32 and bf16. torch is imported only inside the functions that measure, so that importing this module stays
cheap.
"""

from __future__ import annotations

import math
import os
import platform
import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from textus.core.errors import UsageError

ISA_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "avx512_vnni",
    "amx_bf16",
    "amx_int8",
    "asimd",  # the last four are ARM's
    "sve",
    "bf16",
    "i8mm",
)
"""Instruction sets that change which matrix kernels are chosen, as Linux spells them."""

CGROUP = Path("/sys/fs/cgroup")
"""Where Linux keeps the limits of the container this process is in (cgroup 2)."""

MARGIN = 1.1
"""bf16 must be this much faster to be worth its rounding: below it the difference is noise."""

Shape = tuple[int, int, int]
SHAPE: Shape = (2048, 384, 1536)
"""(M, K, N) of the product that is timed: the feed-forward layer of a 384-wide decoder over 2,048 tokens."""


@dataclass(frozen=True)
class Machine:
    """What was found. Memory in bytes; `load` is how many processes ran on average, last minute."""

    cpu: str
    cores: int
    memory_total: int
    memory_available: int
    isa: tuple[str, ...]
    gpu: str | None
    compiler: str | None
    load: float


def detect_machine() -> Machine:
    """Look at this machine. Cores and memory are what this process may use (affinity, container limits)."""
    total, available = memory_bytes()
    return Machine(
        cpu=cpu_name(),
        cores=usable_cores(),
        memory_total=total,
        memory_available=available,
        isa=isa_flags(),
        gpu=gpu_name(),
        compiler=shlex.join(words) if (words := find_compiler()) else None,
        load=os.getloadavg()[0],
    )


# ── processor ──────────────────────────────────────────────────────────────────────────────────


@cache
def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty on other systems than Linux."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu_name() -> str:
    """The processor's name as it gives it."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def isa_flags() -> tuple[str, ...]:
    """Which of `ISA_FLAGS` this processor has."""
    info = _cpuinfo()
    present = set((info.get("flags") or info.get("Features") or "").split())
    return tuple(flag for flag in ISA_FLAGS if flag in present)


def isa_name() -> str:
    """Architecture, vendor and instruction sets in one string, recorded in every run.

    Matrix libraries choose their kernels, and so the order of additions, by exactly these: equal names are
    needed for equal bytes.
    """
    vendor = _cpuinfo().get("vendor_id", "")
    return " ".join(part for part in (platform.machine(), vendor, *isa_flags()) if part)


def usable_cores() -> int:
    """Cores this process may run on: its affinity, or a container's CPU quota where that is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup("cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, max(1, math.ceil(int(quota[0]) / int(quota[1]))))
    return cores


COMPILERS = ("g++", "clang++", "c++")
"""C++ compilers that are looked for, in this order, where $CXX names none."""


def find_compiler() -> list[str] | None:
    """The C++ compiler that a training step is built with, as the words of a command ($CXX may be `ccache g++`).

    None if none is found; if $CXX is set, nothing else is tried.
    """
    wanted = os.environ.get("CXX", "").strip()
    if not wanted:
        path = next((executable for name in COMPILERS if (executable := shutil.which(name))), None)
        return [path] if path else None
    try:
        command = shlex.split(wanted)
    except ValueError:  # a quote that is not closed
        command = [wanted]
    return command if shutil.which(command[0]) else None


def gpu_name() -> str | None:
    """The GPU torch can use, or None."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


# ── memory ─────────────────────────────────────────────────────────────────────────────────────


def _cgroup(name: str) -> str:
    """A limit of the container; empty without one."""
    try:
        return (CGROUP / name).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _proc_bytes(path: str, key: str) -> int | None:
    """The value of a `key: 123 kB` line of a /proc file in bytes; None if it is missing."""
    try:
        lines = Path(path).read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)


def memory_bytes() -> tuple[int, int]:
    """Total and available memory in bytes, both bounded by a container's limit."""
    total = _proc_bytes("/proc/meminfo", "MemTotal") or os.sysconf("SC_PAGE_SIZE") * os.sysconf(
        "SC_PHYS_PAGES"
    )
    available = _proc_bytes("/proc/meminfo", "MemAvailable") or total
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    if limit.isdigit() and int(limit) < total:
        total = int(limit)
        available = min(available, total - int(used or 0))
    return total, available


def peak_memory_bytes() -> int:
    """The most memory this process ever had resident (VmHWM), since the last `reset_peak_memory`."""
    peak = _proc_bytes("/proc/self/status", "VmHWM")
    if peak is not None:
        return peak
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_memory() -> bool:
    """Let `peak_memory_bytes` begin again from now; False where the system does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


# ── measured speed ─────────────────────────────────────────────────────────────────────────────


def matmul_rate(dtype: Any, *, threads: int = 1, shape: Shape = SHAPE, repeats: int = 9) -> float:
    """FLOP/s of an (M, K) by (K, N) product, median of `repeats`, counting 2·M·K·N operations.

    `dtype` is a torch dtype or its name. torch's thread count is put back afterwards.
    """
    return matmul_rates([dtype], threads=threads, shape=shape, repeats=repeats)[dtype_name(dtype)]


def matmul_rates(
    dtypes: list[Any], *, threads: int = 1, shape: Shape = SHAPE, repeats: int = 9, seconds: float = math.inf
) -> dict[str, float]:
    """FLOP/s by dtype name, the dtypes taking turns so that a slow moment hits all of them.

    Stops after `repeats` turns, or after `seconds` once each had three. One thread is timed by its own CPU time, which
    neighbours on a shared machine do not stretch; several by the clock on the wall.
    """
    import torch

    m, k, n = shape
    pairs = {
        dtype_name(d): (torch.ones(m, k, dtype=_dtype(d)), torch.ones(k, n, dtype=_dtype(d))) for d in dtypes
    }
    times: dict[str, list[float]] = {name: [] for name in pairs}
    clock = time.thread_time if threads == 1 else time.perf_counter
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for left, right in pairs.values():  # the first call chooses and builds the kernel
            left @ right
        deadline = time.perf_counter() + seconds
        for turn in range(repeats):
            if turn >= 3 and time.perf_counter() > deadline:
                break
            for name, (left, right) in pairs.items():
                started = clock()
                left @ right
                times[name].append(clock() - started)
    finally:
        torch.set_num_threads(before)
    return {name: 2.0 * m * k * n / median(taken) for name, taken in times.items()}


def faster_dtype(*, threads: int = 1, shape: Shape = SHAPE) -> str:
    """`"bfloat16"` where this machine multiplies matrices at least 1.1 times faster in it, else `"float32"`.

    Measured, in less than a second: where bf16 is emulated, and so a hundred times slower, a small product
    shows it.
    """
    both = ["float32", "bfloat16"]
    small = matmul_rates(both, threads=threads, shape=(64, 384, 384), repeats=3)
    if small["bfloat16"] < 0.25 * small["float32"]:
        return "float32"
    rates = matmul_rates(both, threads=threads, shape=shape, seconds=0.5)
    return "bfloat16" if rates["bfloat16"] > MARGIN * rates["float32"] else "float32"


def dtype_name(dtype: Any) -> str:
    """`torch.bfloat16` or `"bfloat16"` as `"bfloat16"`."""
    return str(dtype).removeprefix("torch.")


def _dtype(dtype: Any) -> Any:
    """The torch dtype of a name; UsageError for an unknown one."""
    import torch

    torch_dtype = getattr(torch, dtype_name(dtype), None)
    if not isinstance(torch_dtype, torch.dtype):
        raise UsageError("unknown_name", f"dtype {dtype!r} is not a torch dtype; use float32 or bfloat16")
    return torch_dtype


# ── versions ───────────────────────────────────────────────────────────────────────────────────


def installed_version(package: str) -> str | None:
    """The installed version of a package, None where it is not installed. Nothing is imported."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on, as recorded in every run."""
    installed = {
        name: installed_version(name) or "none"
        for name in ("textus", "torch", "numpy", "tokenizers", "safetensors")
    }
    return {"python": platform.python_version(), **installed}

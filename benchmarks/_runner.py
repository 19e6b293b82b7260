"""What all benchmarks share: command line, result files, turns, intervals, and commands with their CPU time.

A benchmark reads `begin(...)`, fills `bench.result` through `bench.once(...)`, which saves after every measurement
and skips what an interrupted run has measured, and prints a table with `show(...)`.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from textus.core import hardware
from textus.core.console import log_notice
from textus.core.io import read_json, write_json
from textus.metrics.resampling import interval, paired_bootstrap

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("TEXTUS_DATA", REPOSITORY / ".." / "shared" / "data"))
RESULTS = REPOSITORY / "results"
WORK = REPOSITORY / "work" / "bench"
"""Corpora, runs and logs made on the way; may be deleted at any time."""

PR_SET_CHILD_SUBREAPER = 36
T_975 = 2.776
"""Student's t for a 95 % interval from five differences."""


class Bench:
    """One benchmark: its command line, its folder, its result so far, and the commands it runs."""

    def __init__(self, name: str, options: argparse.Namespace, suffix: str = "") -> None:
        self.name, self.options = name + suffix, options
        self.smoke = bool(options.smoke)
        """Tiny settings whose figures mean nothing: does the script work?"""
        self.work = WORK / ("smoke" if self.smoke else "") / name
        self.log = self.work / "log.txt"
        self.path = (WORK / "smoke" / "results" if self.smoke else RESULTS) / f"{self.name}.json"
        """Never in results/ for a smoke run."""
        self.work.mkdir(parents=True, exist_ok=True)
        self.result: dict[str, Any] = read_json(self.path) if self.path.exists() and not options.again else {}
        """What an earlier run measured; empty with `--again`."""

    def save(self) -> None:
        """Write the result with its date, versions, machine and command; paths are relative to the checkout."""
        now = stamp(self.name)
        text = json.dumps({**now, **self.result, **now}, ensure_ascii=False)
        write_json(self.path, json.loads(text.replace(f"{REPOSITORY}/", "")))

    def once(self, section: dict[str, Any], key: str, measure: Callable[..., Any], *arguments: Any) -> Any:
        """The value of a key, measured if it is missing; `section` is a part of `result`, which is saved."""
        if key not in section:
            section[key] = measure(*arguments)
            log_notice(f"{self.name}: {key} is measured")
            self.save()
        return section[key]

    def part(self, *names: str) -> dict[str, Any]:
        """The dictionary under these keys of the result; made if it is missing."""
        section = self.result
        for name in names:
            section = section.setdefault(name, {})
        return section

    def chosen(self, names: Iterable[str]) -> list[str]:
        """The names, or the one of `--only`."""
        return [name for name in names if self.options.only in (None, name)]

    def textus(self, *arguments: str | Path, env: dict[str, str] | None = None, **options: Any) -> Finished:
        """Run the `textus` of this environment as a user would; `options` become flags."""
        program = str(Path(sys.executable).parent / "textus")
        return run([program, *map(str, arguments), *flags(**options)], env=env, log=self.log)

    def scores(self, *arguments: str | Path, **options: Any) -> dict[str, Any]:
        """The JSON that a `textus` command prints."""
        report: dict[str, Any] = json.loads(self.textus(*arguments, json=True, **options).output)
        return report

    def train(self, *arguments: str | Path, out: Path, **options: Any) -> dict[str, Any]:
        """A run by `textus train` or `finetune`; its record."""
        self.textus(*arguments, **options, out=out, force=True)
        return read_json(out / "run.json")

    def finished(self, run: Path) -> bool:
        """Whether an earlier benchmark run has finished this training; never with `--again`."""
        record = run / "run.json"
        return not self.options.again and record.exists() and read_json(record).get("status") == "finished"


def begin(
    name: str,
    about: str | None,
    *,
    only: Iterable[str] | None = None,
    flag: str = "--only",
    suffix: str = "",
    **extra: dict[str, Any],
) -> Bench:
    """Read the command line. `flag` chooses one of `only`; `extra`: option → arguments of `add_argument`."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("--smoke", action="store_true", help="tiny settings; nothing is written to results/")
    parser.add_argument("--again", action="store_true", help="measure again what is already measured")
    if only is not None:
        spellings = dict.fromkeys((flag, "--only"))
        parser.add_argument(*spellings, dest="only", choices=tuple(only), help="measure one part")
    for option, arguments in extra.items():
        parser.add_argument(f"--{option.replace('_', '-')}", **arguments)
    return Bench(name, parser.parse_args(), suffix)


def dev_score(record: dict[str, Any]) -> float | None:
    """The score on dev rows of a run's weights; None if it was too short to be evaluated."""
    return -record["best"]["criterion"] if record["best"] else None


def flags(**options: Any) -> list[str]:
    """Options as the command line has them: True is a bare flag, None and False nothing, a list repeats the flag."""
    arguments = []
    for name, value in options.items():
        flag = f"--{name.rstrip('_').replace('_', '-')}"
        if value is True:
            arguments.append(flag)
        elif value is not None and value is not False:
            values = value if isinstance(value, list | tuple) else [value]
            arguments += [argument for item in values for argument in (flag, str(item))]
    return arguments


def stamp(name: str) -> dict[str, Any]:
    """When, with which versions, on which machine and by which command: the one that measures the whole file."""
    arguments = re.sub(r"--(only|text|player)[ =]\S+ ?", "", " ".join(sys.argv[1:]))
    versions = {
        **hardware.package_versions(),
        "transformers": hardware.installed_version("transformers") or "none",
    }
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": f"python -m benchmarks.{name.partition('-')[0]} {arguments}".strip(),
        "versions": versions,
        "machine": {
            "cpu": hardware.cpu_name(),
            "cores": hardware.usable_cores(),
            "isa": hardware.isa_name(),
            "load": round(os.getloadavg()[0], 2),
        },
    }


def is_comparable(result: dict[str, Any]) -> bool:
    """Whether an earlier result was measured with these versions on this kind of machine."""
    now = stamp("")
    same = all(now["machine"][key] == result.get("machine", {}).get(key) for key in ("cpu", "cores", "isa"))
    return same and now["versions"] == result.get("versions")


# ── figures ────────────────────────────────────────────────────────────────────────────────────


def spread(values: Sequence[float], digits: int = 4) -> dict[str, float]:
    """Least, median and greatest of repetitions, and how many there were."""
    return {
        "min": round(min(values), digits),
        "median": round(median(values), digits),
        "max": round(max(values), digits),
        "n": len(values),
    }


def paired_ratios(first: Sequence[float], second: Sequence[float], digits: int = 3) -> dict[str, float]:
    """The spread of first / second, repetition by repetition."""
    return spread([a / b for a, b in zip(first, second, strict=True)], digits)


def over_five_seeds(differences: Sequence[float]) -> dict[str, float]:
    """Mean of the differences between two sides' seeds, with Student's 95 % interval."""
    middle, half = mean(differences), T_975 * stdev(differences) / len(differences) ** 0.5
    return {"value": middle, "low": middle - half, "high": middle + half, "n": len(differences)}


def over_rows(first: ArrayLike, second: ArrayLike) -> dict[str, float]:
    """Difference of two sides' means over the same rows, with its paired bootstrap interval."""
    n = len(np.asarray(first))
    return interval(paired_bootstrap(first, second, np.ones(n)), n)


def cpu_time(work: Callable[[], Any]) -> float:
    """CPU-seconds of one call in this process."""
    started = time.process_time()
    work()
    return time.process_time() - started


def take_turns(
    sides: Mapping[str, Callable[[], Any]], rounds: int, measure: Callable[..., float] = cpu_time
) -> dict[str, list[float]]:
    """Measure the sides one after the other, again and again, so that a slow minute hits all of them."""
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, work in sides.items():
            measured[name].append(measure(work))
    return measured


def with_interval(figure: Mapping[str, float], spec: str = ".2f", scale: float = 1) -> str:
    """A value with its 95 % interval, as tables show it."""
    value, low, high = (f"{scale * figure[name]:{spec}}" for name in ("value", "low", "high"))
    return f"{value} ({low}–{high})"


# ── running commands ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Finished:
    """A command that ended: its output, CPU-seconds of it and all its descendants, and seconds by the clock."""

    output: str
    cpu: float
    wall: float
    command: str


def run(command: Sequence[str], *, env: dict[str, str] | None = None, log: Path | None = None) -> Finished:
    """Run a command to its end; SystemExit with its last lines where it fails.

    Children that outlive it come to this process and are waited for, so that no compiler's time is lost.
    """
    adopt_orphans()
    before, started = children_cpu(), time.monotonic()
    with (log or Path(os.devnull)).open("a", encoding="utf-8") as errors:
        process = subprocess.Popen(
            list(command), stdout=subprocess.PIPE, stderr=errors, env={**os.environ, **(env or {})}, text=True
        )
        output, _ = process.communicate()
    wall = time.monotonic() - started
    wait_for_orphans()
    shown = " ".join([Path(command[0]).name, *command[1:]])
    if process.returncode:
        tail = log.read_text(encoding="utf-8")[-2000:] if log else ""
        raise SystemExit(f"{shown}: exit code {process.returncode}\n{tail}")
    return Finished(output, children_cpu() - before, wall, shown)


def children_cpu() -> float:
    """CPU-seconds, user and system, of every child that was waited for, and of theirs."""
    times = os.times()
    return times.children_user + times.children_system


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends (Linux): their CPU time is then counted here."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def wait_for_orphans(seconds: float = 20.0) -> None:
    """Wait for every child that is left; a notice if one does not end."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not ended:
            time.sleep(0.05)
    log_notice("a process that the command left behind still runs: its CPU time is not counted")


# ── folders and tables ─────────────────────────────────────────────────────────────────────────


def empty(folder: Path) -> Path:
    """The folder, emptied."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table."""
    cells = [list(map(str, header)), *[list(map(str, row)) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    print(f"\n{title}")
    for row in cells:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    sys.stdout.flush()

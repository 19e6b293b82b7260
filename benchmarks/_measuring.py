"""What every benchmark shares: where results go, what is recorded beside a figure, and how CPU time is counted."""

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
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from textus.core import hardware
from textus.core.console import log_notice
from textus.core.io import read_json, write_json

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("TEXTUS_DATA", REPOSITORY / ".." / "shared" / "data"))
RESULTS = REPOSITORY / "results"
WORK = REPOSITORY / "work" / "bench"
"""Corpora, runs and logs made on the way; may be deleted at any time."""

PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Bench:
    """One benchmark's name, arguments and folder: what `begin` found on the command line."""

    name: str
    options: argparse.Namespace

    @property
    def smoke(self) -> bool:
        """Tiny settings whose figures mean nothing: is the script whole?"""
        return bool(self.options.smoke)

    @property
    def work(self) -> Path:
        """The folder for what is made on the way."""
        return WORK / ("smoke" if self.smoke else "") / self.name.partition("-")[0]

    def path(self, part: str = "") -> Path:
        """Where the result is kept; a smoke run's goes beside its work, never into results/."""
        folder = WORK / "smoke" / "results" if self.smoke else RESULTS
        return folder / f"{self.name}{part}.json"

    def kept(self, part: str = "") -> dict[str, Any]:
        """The result so far, to go on from; empty where there is none or `--again` was given."""
        path = self.path(part)
        return read_json(path) if path.exists() and not self.options.again else {}

    def save(self, data: dict[str, Any], part: str = "") -> None:
        """Write the result with its date, versions, machine and command; paths are told from the checkout."""
        now = stamp(self.name)
        text = json.dumps({**now, **data, **now}, ensure_ascii=False)
        write_json(self.path(part), json.loads(text.replace(f"{REPOSITORY}/", "")))


def begin(name: str, about: str | None, **extra: dict[str, Any]) -> Bench:
    """Read the command line. `extra` are more options: name → arguments of `add_argument`."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("--smoke", action="store_true", help="tiny settings; nothing is written to results/")
    parser.add_argument("--again", action="store_true", help="measure anew what is measured already")
    for option, arguments in extra.items():
        parser.add_argument(f"--{option.replace('_', '-')}", **arguments)
    bench = Bench(name, parser.parse_args())
    bench.work.mkdir(parents=True, exist_ok=True)
    return bench


def stamp(name: str) -> dict[str, Any]:
    """What a figure is worth nothing without: when, with which versions, on what, by which command: the one that
    measures the whole file, for options that choose a part of it would be told beside every part.
    """
    words = " ".join(sys.argv[1:])
    for part in ("only", "text", "player"):
        words = re.sub(rf"--{part}[ =]\S+ ?", "", words)
    versions = {
        **hardware.package_versions(),
        "transformers": hardware.installed_version("transformers") or "none",
    }
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": f"python -m benchmarks.{name.partition('-')[0]} {words}".strip(),
        "versions": versions,
        "machine": {
            "cpu": hardware.cpu_name(),
            "cores": hardware.usable_cores(),
            "isa": hardware.isa_name(),
            "load": round(os.getloadavg()[0], 2),
        },
    }


def same_ground(result: dict[str, Any]) -> bool:
    """Whether an earlier result was measured with these versions on this kind of machine."""
    now = stamp("")
    mine, theirs = (each.get("machine", {}) for each in (now, result))
    return now["versions"] == result.get("versions") and all(
        mine[key] == theirs.get(key) for key in ("cpu", "cores", "isa")
    )


def spread(values: Sequence[float], digits: int = 4) -> dict[str, float]:
    """Least, median and greatest of repetitions, and how many there were."""
    return {
        "min": round(min(values), digits),
        "median": round(median(values), digits),
        "max": round(max(values), digits),
        "n": len(values),
    }


# ── running commands ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Finished:
    """A command that ended: its output, CPU-seconds of it and all its descendants, and seconds by the clock."""

    output: str
    cpu: float
    wall: float
    words: str


def textus(
    words: Sequence[str | Path], *, env: dict[str, str] | None = None, log: Path | None = None
) -> Finished:
    """Run the `textus` of this environment, as a person would."""
    return run([str(Path(sys.executable).parent / "textus"), *map(str, words)], env=env, log=log)


def run(words: Sequence[str], *, env: dict[str, str] | None = None, log: Path | None = None) -> Finished:
    """Run a command to its end; SystemExit with its last lines where it fails.

    Children that outlive it come to this process and are waited for, so that no compiler's time is lost.
    """
    adopt_orphans()
    before, started = children_cpu(), time.monotonic()
    with (log or Path(os.devnull)).open("a", encoding="utf-8") as errors:
        process = subprocess.Popen(
            list(words), stdout=subprocess.PIPE, stderr=errors, env={**os.environ, **(env or {})}, text=True
        )
        output, _ = process.communicate()
    wall = time.monotonic() - started
    wait_for_orphans()
    shown = " ".join([Path(words[0]).name, *words[1:]])
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
    """Wait for every child that is left; one that will not end is named."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not ended:
            time.sleep(0.05)
    log_notice("a process that the command left behind still runs: its CPU time is not counted")


# ── material ───────────────────────────────────────────────────────────────────────────────────


def corpus(folder: Path, *sources: Path, split: str = "auto", column: str = "text") -> Path:
    """A corpus by the `textus` command, of a table's column; what is there already is taken."""
    for source in sources:
        if not source.exists():
            raise SystemExit(f"{source} is not there; set TEXTUS_DATA to the folder of the data sets")
    if not (folder / "corpus.json").exists():
        words = ["--split", split, "--set", f"text_column={column}"]
        textus(["corpus", "build", *sources, "--out", folder, *words, "--force"])
    return folder


def tokenizer(folder: Path, from_corpus: Path, *flags: str) -> Path:
    """A tokenizer by the `textus` command; what is there already is taken."""
    if not (folder / "tokenizer.json").exists():
        textus(["tokenizer", "train", from_corpus, "--out", folder, "--force", *flags])
    return folder


def shakespeare(folder: Path) -> tuple[Path, Path, Path]:
    """Tiny Shakespeare as corpus, its character tokenizer, and its last tenth as a file, the customary split."""
    source = DATA / "tinyshakespeare" / "input.txt"
    built = corpus(folder / "corpus", source, split="tail:0.1")
    text = source.read_text(encoding="utf-8")
    tail = text[int(len(text) * 0.9) :]
    kept = "".join(json.loads(line)["text"] for line in (built / "validation.jsonl").open(encoding="utf-8"))
    if kept != tail:
        raise SystemExit(f"{built}: its validation split is not the last tenth of {source.name}")
    file = folder / "last-tenth.txt"
    file.write_text(tail, encoding="utf-8")
    return built, tokenizer(folder / "char", built, "--kind", "char"), file


def evaluated(run_folder: Path, file: Path | None = None) -> dict[str, Any]:
    """`textus evaluate --json` of a run, on a file or on its corpus' validation split."""
    words: list[str | Path] = ["evaluate", run_folder, "--json"]
    found: dict[str, Any] = json.loads(textus([*words, "--on", file] if file else words).output)
    return found


def empty(folder: Path) -> Path:
    """The folder with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table for people on standard output."""
    cells = [list(map(str, header)), *[list(map(str, row)) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    print(f"\n{title}")
    for row in cells:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    sys.stdout.flush()

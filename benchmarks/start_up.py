"""Seconds until `import textus` and `textus --help` are done, and what they load."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks._runner import begin, show, spread, take_turns

LOADED = """
import json, sys
before = set(sys.modules)
import textus
new = sorted(set(sys.modules) - before)
print(json.dumps({"n": len(new), "heavy": [n for n in ("torch", "numpy", "transformers", "tokenizers") if n in new]}))
"""


def output_of(command: Sequence[str]) -> bytes:
    """Standard output of a process."""
    return subprocess.run(command, check=True, capture_output=True).stdout


def wall_time(work: partial[bytes]) -> float:
    """Seconds by the clock."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Nine of each in turn, after one in which Python compiles its files."""
    bench = begin("start_up", __doc__)
    commands = {
        "import textus": [sys.executable, "-c", "import textus"],
        "textus --help": [str(Path(sys.executable).parent / "textus"), "--help"],
        "python alone": [sys.executable, "-c", "pass"],
    }
    sides = {name: partial(output_of, command) for name, command in commands.items()}
    take_turns(sides, 1, wall_time)
    seconds = take_turns(sides, 3 if bench.smoke else 9, wall_time)
    loaded = json.loads(output_of([sys.executable, "-c", LOADED]))
    bench.result = {"seconds": {name: spread(values) for name, values in seconds.items()}, "modules": loaded}
    rows = [
        [name, *(f"{times[key]:.3f}" for key in ("min", "median", "max"))]
        for name, times in bench.result["seconds"].items()
    ]
    show("start-up, seconds", ["command", "min", "median", "max"], rows)
    print(f"  import textus loads {loaded['n']} modules; of the heavy ones: {loaded['heavy'] or 'none'}")
    bench.save()


if __name__ == "__main__":
    main()

"""Seconds until `import textus` and `textus --help` are done, and what they load."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks._measuring import begin, show, spread

IMPORT = "import textus"
LOADED = """
import json, sys
before = set(sys.modules)
import textus
new = sorted(set(sys.modules) - before)
print(json.dumps({"n": len(new), "heavy": [n for n in ("torch", "numpy", "transformers", "tokenizers") if n in new]}))
"""


def seconds(words: Sequence[str]) -> float:
    """By the clock, of one process."""
    started = time.perf_counter()
    subprocess.run(list(words), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Nine of each in turn, after one that compiles what Python compiles once."""
    bench = begin("start_up", __doc__)
    commands = {
        "import textus": [sys.executable, "-c", IMPORT],
        "textus --help": [str(Path(sys.executable).parent / "textus"), "--help"],
        "python alone": [sys.executable, "-c", "pass"],
    }
    for words in commands.values():
        seconds(words)
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(3 if bench.smoke else 9):
        for name, words in commands.items():
            taken[name].append(seconds(words))
    loaded = json.loads(
        subprocess.run([sys.executable, "-c", LOADED], check=True, capture_output=True).stdout
    )
    result: dict[str, Any] = {
        "seconds": {name: spread(each) for name, each in taken.items()},
        "modules": loaded,
    }
    rows = [
        [name, *(f"{each[key]:.3f}" for key in ("min", "median", "max"))]
        for name, each in result["seconds"].items()
    ]
    show("start-up, seconds", ["command", "min", "median", "max"], rows)
    print(f"  import textus loads {loaded['n']} modules; of the heavy ones: {loaded['heavy'] or 'none'}")
    bench.save(result)


if __name__ == "__main__":
    main()

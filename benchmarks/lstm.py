"""The LSTM language model: what `--preset 10min` makes of tiny Shakespeare.

As in `benchmarks.tiny_shakespeare`: characters, the whole last tenth scored after training; CPU-seconds of the whole
command. `benchmarks.family_speed` measures its training step.
"""

from __future__ import annotations

from benchmarks._runner import begin, show
from benchmarks.tiny_shakespeare import HEADER, cells, measure


def main() -> None:
    """Train and score it, or show the kept result."""
    bench = begin("lstm", __doc__)
    budget = {"steps": 5, "set": "model.d_model=32"} if bench.smoke else {"preset": "10min"}
    if not bench.result:
        run, command = measure(bench, bench.work / "run", seed=0, model="lstm", **budget)
        bench.result = {**run, "trained_by": command}
        bench.save()
    show("lstm, tiny Shakespeare, preset 10min, whole last tenth", HEADER, [cells(bench.result)])


if __name__ == "__main__":
    main()

"""Each `python -m benchmarks.NAME` measures and writes results/NAME.json; `benchmarks.table` shows them all."""

"""Measurements: each `python -m benchmarks.NAME` writes results/NAME.json; `benchmarks.table` makes the table of them."""

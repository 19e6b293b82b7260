"""Methods of fine-tuning compared: MiniLM on SST-2, three epochs, each at the rate `textus finetune` gives it.

What is trained, what it costs (CPU-seconds, the most memory the training held), and how good it is on the test rows.
Nothing is chosen here: the rates and the epochs are the defaults of the command.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import safe_open

from benchmarks._material import minilm
from benchmarks._runner import Bench, begin, show, with_interval
from benchmarks.classification import folders

METHODS: dict[str, dict[str, Any]] = {
    "the head alone": {"method": "frozen"},
    "the head and the last two layers": {"method": "frozen", "set": ["method.layers=2"]},
    "LoRA, rank 8": {"method": "lora"},
    "everything": {},
}
EPOCHS = 3


def measure(bench: Bench, method: str) -> dict[str, Any]:
    """One fine-tuning, and its answers to the test rows."""
    out, data = bench.work / "run", folders(bench, "sst2-minilm")[0]
    options = {"epochs": EPOCHS, **METHODS[method]}
    if bench.smoke:
        options |= {"epochs": None, "set": [*options.get("set", []), "train.steps=2"]}
    record = bench.train(
        "finetune",
        data / "train.jsonl",
        dev=data / "dev.jsonl",
        **{"from": minilm(bench)},
        **options,
        out=out,
    )
    scores = bench.scores("evaluate", out, on=data / "test.jsonl", no_baselines=True)
    cost = {name: record[name] for name in ("cpu_seconds", "peak_memory_bytes", "command")}
    return {"learning": trained_weights(record, out), "accuracy": scores["accuracy"], **cost}


def trained_weights(record: dict[str, Any], run: Path) -> int:
    """How many weights the method changes: all of a tensor that is new or differs from the parent's."""
    with (
        safe_open(run / "model.safetensors", "pt") as after,
        safe_open(f"{record['parent']}/model.safetensors", "pt") as before,
    ):
        known = set(before.keys())
        tensors = ((name, after.get_tensor(name)) for name in after.keys())  # noqa: SIM118 - a file, not a dict
        return sum(
            tensor.numel()
            for name, tensor in tensors
            if name not in known or not tensor.equal(before.get_tensor(name))
        )


def main() -> None:
    """Every method."""
    bench = begin("methods", __doc__)
    rows = []
    for method in METHODS:
        run = bench.once(bench.part("methods"), method, measure, bench, method)
        cost = [
            f"{run['learning']:,}",
            f"{run['cpu_seconds']:.0f}",
            f"{run['peak_memory_bytes'] / 2**20:,.0f}",
        ]
        rows.append([method, *cost, with_interval(run["accuracy"], ".1f", 100)])
    header = ["method", "trained weights", "CPU-seconds", "most memory, MB", "accuracy, %"]
    show("MiniLM on SST-2, three epochs", header, rows)


if __name__ == "__main__":
    main()

"""Methods of fine-tuning beside each other: MiniLM on SST-2, three epochs, each at the rate `textus finetune` gives it.

What learns, what it costs (CPU-seconds, the most memory the training held), and how good it is on the test rows.
Nothing is chosen here: the rates and the epochs are the defaults of the command. What was measured already is taken.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from benchmarks._measuring import Bench, begin, show, textus
from benchmarks.classification import folders, minilm
from textus.core.console import log_notice
from textus.core.io import read_json

METHODS: dict[str, tuple[str, ...]] = {
    "the head alone": ("--method", "frozen"),
    "the head and the last two layers": ("--method", "frozen", "--set", "method.layers=2"),
    "LoRA, rank 8": ("--method", "lora"),
    "everything": (),
}
EPOCHS = 3


def measured(bench: Bench, method: str) -> dict[str, Any]:
    """One fine-tuning, and its answers to the test rows."""
    out, log = bench.work / "run", bench.work / "log.txt"
    data = folders(bench, "sst2-minilm")[0]
    budget = ("--set", "train.steps=2") if bench.smoke else ("--epochs", str(EPOCHS))
    words: list[str | Path] = [
        "finetune",
        data / "train.jsonl",
        "--dev",
        data / "dev.jsonl",
        "--from",
        minilm(bench),
    ]
    textus([*words, *METHODS[method], *budget, "--out", out, "--force"], log=log)
    asked: list[str | Path] = ["evaluate", out, "--on", data / "test.jsonl", "--no-baselines", "--json"]
    found = json.loads(textus(asked, log=log).output)
    record = read_json(out / "run.json")
    return {
        "learning": learning(record, out), "accuracy": found["accuracy"],
        **{name: record[name] for name in ("cpu_seconds", "peak_memory_bytes", "command")},
    }  # fmt: skip


def learning(record: dict[str, Any], run: Path) -> int:
    """How many weights the method moves: of a tensor that is not as it was before, or was not there, all."""
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
    """Every method, each kept as soon as it is measured."""
    bench = begin("methods", __doc__)
    data = bench.kept()
    kept: dict[str, Any] = data.setdefault("methods", {})
    for method in METHODS:
        if method not in kept:
            kept[method] = measured(bench, method)
            log_notice(f"{method}: {kept[method]}")
            bench.save(data)
    header = ["method", "weights that move", "CPU-seconds", "most memory, MB", "accuracy, %"]
    rows = [
        [
            method,
            f"{each['learning']:,}",
            f"{each['cpu_seconds']:.0f}",
            f"{each['peak_memory_bytes'] / 2**20:,.0f}",
            "{:.1f} [{:.1f}, {:.1f}]".format(
                *(100 * each["accuracy"][name] for name in ("value", "low", "high"))
            ),
        ]
        for method, each in kept.items()
    ]
    show("MiniLM on SST-2, three epochs", header, rows)


if __name__ == "__main__":
    main()

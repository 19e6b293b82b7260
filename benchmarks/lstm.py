"""The LSTM language model: what `--preset 10min` makes of tiny Shakespeare, and its training step beside torch.nn's.

Quality as in `benchmarks.tiny_shakespeare`: characters, the whole last tenth scored after training; CPU-seconds of the
whole command. Speed: the same model and optimiser (AdamW) on both sides, one thread, in turns; a step is a batch's
loss, gradients, clipping and update. The peer is embedding, `torch.nn.LSTM` and linear head with torch's
cross-entropy, in float32, under bfloat16 autocast, and with all weights in bfloat16; the fastest counts.
What is measured already is not measured again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._measuring import Bench, begin, evaluated, shakespeare, show, spread, textus
from benchmarks.tiny_shakespeare import figures
from textus.allocation import keep_memory
from textus.loader import Batch
from textus.models import build
from textus.optim import OptimSettings, make_optimisers
from textus.training import Gradients, clip

VOCABULARY, WIDTH, LAYERS, ROWS, TIME = 66, 512, 2, 32, 256
ROUNDS = 9

Step = Callable[[], None]


# ── quality ────────────────────────────────────────────────────────────────────────────────────


def quality(bench: Bench) -> dict[str, Any]:
    """One seed of the preset: its cost and its figures."""
    corpus, tokenizer, last_tenth = shakespeare(bench.work)
    out = bench.work / "run"
    budget = ["--steps", "5", "--set", "model.d_model=32"] if bench.smoke else ["--preset", "10min"]
    words: list[str | Path] = ["train", corpus, "--tokenizer", tokenizer, "--model", "lstm", *budget]
    command = textus([*words, "--seed", "0", "--out", out, "--force"], log=bench.work / "log.txt")
    return {
        "cpu_seconds": round(command.cpu, 1),
        "seconds": round(command.wall, 1),
        "trained_by": command.words,
        **figures(evaluated(out, last_tenth)),
    }


# ── speed ──────────────────────────────────────────────────────────────────────────────────────


class Peer(nn.Module):
    """The same network of torch.nn's parts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.lstm = nn.LSTM(width, width, LAYERS, batch_first=True)
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Nats per target."""
        logits = self.head(self.lstm(self.embedding(ids))[0])
        return nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def ids_of(rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Random ids and targets (rows, length)."""
    stream = torch.randint(0, VOCABULARY, (rows, length + 1), generator=torch.Generator().manual_seed(0))
    return stream[:, :-1], stream[:, 1:]


def ours(width: int, rows: int, length: int) -> Step:
    """A step of `fit`'s parts, in bfloat16."""
    model = build("lstm", {"vocab_size": VOCABULARY, "n_layer": LAYERS, "d_model": width})
    model.compute_with("bfloat16", "plain", "eager")
    gradients = Gradients(model, 1)
    settings = OptimSettings(optimiser="adamw", rate=1e-3)
    optimisers = make_optimisers(model.parameter_groups(), settings)
    batch = Batch(*ids_of(rows, length), torch.ones(rows, length))

    def step() -> None:
        gradients.compute(batch, 1)
        for group in model.parameter_groups().values():
            clip(group, settings.clip)
        for optimiser in optimisers.values():
            optimiser.step()

    return step


def theirs(width: int, rows: int, length: int, kind: str) -> Step:
    """The peer's step in one of its arithmetics."""
    model = Peer(width).to(torch.bfloat16 if kind == "bfloat16" else torch.float32)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    ids, targets = ids_of(rows, length)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
            loss = model(ids, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()

    return step


def speed(bench: Bench) -> dict[str, Any]:
    """Tokens per CPU-second of each side, in turns; the ratio to the best peer of each round."""
    keep_memory()
    torch.set_num_threads(1)
    width, rows, length = (32, 4, 16) if bench.smoke else (WIDTH, ROWS, TIME)
    peers = ("float32", "autocast", "bfloat16")
    steps = {
        "ours": ours(width, rows, length),
        **{kind: theirs(width, rows, length, kind) for kind in peers},
    }
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(1 + (2 if bench.smoke else ROUNDS)):
        for name, step in steps.items():
            started = time.process_time()
            step()
            if number:  # the first round warms up
                rates[name].append(rows * length / (time.process_time() - started))
    ratios = [rates["ours"][n] / max(rates[kind][n] for kind in peers) for n in range(len(rates["ours"]))]
    return {
        "shape": {"layers": LAYERS, "width": width, "rows": rows, "length": length, "vocabulary": VOCABULARY},
        "ratio": spread(ratios, 3),
        "tokens_per_cpu_second": {name: spread(values, 0) for name, values in rates.items()},
    }


def main() -> None:
    """Both parts, or the one asked for."""
    bench = begin("lstm", __doc__, part={"choices": ("quality", "speed"), "help": "only this one"})
    if bench.options.part in (None, "speed"):
        found = bench.kept("-speed")
        if not found:
            found = speed(bench)
            bench.save(found, "-speed")
        rows = [[name, f"{each['median']:,.0f}"] for name, each in found["tokens_per_cpu_second"].items()]
        ratio = found["ratio"]
        title = f"LSTM training step: {ratio['median']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f}) × the best peer"
        show(title, ["side", "tokens per CPU-second"], rows)
    if bench.options.part in (None, "quality"):
        found = bench.kept()
        if not found:
            found = quality(bench)
            bench.save(found)
        bits = found["bits_per_byte"]
        cells = [
            f"{found['nats_per_character']:.4f}",
            f"{bits['value']:.4f} ({bits['low']:.3f}–{bits['high']:.3f})",
            found["cpu_seconds"],
            found["seconds"],
        ]
        header = ["nats/char", "bits/byte (95 %)", "CPU-seconds", "seconds"]
        show("lstm, tiny Shakespeare, preset 10min, whole last tenth", header, [cells])


if __name__ == "__main__":
    main()

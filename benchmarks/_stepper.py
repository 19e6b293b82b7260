"""A process that holds one model and takes one training step each time it is asked.

It reads `step` lines and answers each with {"cpu": …, "wall": …, "loss": …}. Processes of their own let two sides
take turns without sharing an allocator. Ours is exactly `training.Training.take_step`; the peer is GPT2LMHeadModel
of `transformers` with the same shape, without clipping (which ours does).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import PIPE, Popen
from tempfile import TemporaryDirectory
from typing import Any

LAYERS, WIDTH, HEADS, CONTEXT = 6, 384, 6, 256

GLIBC = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 31),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""The allocator's settings, from outside, that come nearest to what `textus.core.memory` does inside."""


@dataclass(frozen=True)
class Side:
    """One way to take the step."""

    who: str
    vocab: int
    batch: int
    how: str
    """ours: adamw or muon; peer: `precision mode attention`, such as `bf16 compiled sdpa`."""
    allocator: bool = False

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.who} {self.how}{' + allocator' if self.allocator else ''}, batch {self.batch}"


class Stepper:
    """The other end of the pipe."""

    def __init__(self, side: Side, log: str = os.devnull) -> None:
        self.side = side
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(GLIBC if side.allocator else {})}
        with Path(log).open("a") as errors:
            self.process = Popen(
                [sys.executable, "-m", "benchmarks._stepper", json.dumps(asdict(side))],
                stdin=PIPE, stdout=PIPE, stderr=errors, text=True, env=environment,
            )  # fmt: skip

    def ask(self) -> None:
        """Ask for a step."""
        assert self.process.stdin is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, float]:
        """What the step took."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.side.name}: the process ended (exit code {self.process.wait()})")
        found: dict[str, float] = json.loads(line)
        return found

    def step(self) -> dict[str, float]:
        """One step, waited for."""
        self.ask()
        return self.answer()

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


# ── inside the process ─────────────────────────────────────────────────────────────────────────


def same_ids(side: Side) -> Any:
    """The ids (B, T) every side trains on."""
    import torch

    return torch.randint(0, side.vocab, (side.batch, CONTEXT), generator=torch.Generator().manual_seed(0))


def ours(side: Side, stack: ExitStack) -> tuple[Callable[[], float], int]:
    """Our step, by the class that trains; and the number of weights."""
    import torch

    from textus.core.memory import keep_freed_memory
    from textus.data.batch import Batch
    from textus.models.decoder import Decoder
    from textus.models.nn.attention import DecoderConfig
    from textus.runs.store import RunFolder
    from textus.training.autotune import candidates, micro_batches
    from textus.training.gradients import GradientAccumulator
    from textus.training.optim import OptimSettings
    from textus.training.trainer import Trainer, TrainSettings, deterministic

    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Decoder(
        DecoderConfig(side.vocab, context_length=CONTEXT, n_layer=LAYERS, n_head=HEADS, d_model=WIDTH)
    )
    choices = candidates(model, compiled=False)[0]
    model.set_compute(choices.precision, choices.attention, choices.step)
    optim = OptimSettings() if side.how == "muon" else OptimSettings(optimiser="adamw", rate=1e-3)
    settings = TrainSettings(
        steps=10**6, batch_size=side.batch, context_length=CONTEXT, optim=optim,
        micro_batches=micro_batches(side.batch * CONTEXT, side.batch),
    )  # fmt: skip
    ids = same_ids(side)
    batch = Batch(ids, ids.roll(-1, 1), torch.ones(ids.shape))
    run = RunFolder(Path(stack.enter_context(TemporaryDirectory())), {})  # a step writes nothing into it
    gradients = GradientAccumulator(model, choices.workers)
    training = Trainer(
        model, SameBatch(batch), settings, run, None,  # type: ignore[arg-type]
        gradients.of_all(settings.micro_batches),
    )  # fmt: skip
    stack.enter_context(deterministic())
    return lambda: float(training.take_step()[0].mean), sum(p.numel() for p in model.parameters())


class SameBatch:
    """A loader of one batch."""

    def __init__(self, batch: Any) -> None:
        self.only = batch

    def batch(self, step: int) -> Any:
        """The same whatever the step."""
        return self.only


def peer(side: Side, stack: ExitStack) -> tuple[Callable[[], float], int]:
    """GPT-2 of `transformers`, in one of eight ways; and the number of weights."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    precision, mode, attention = side.how.split()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=side.vocab, n_positions=CONTEXT, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, use_cache=False,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation=attention,
        )
    )  # fmt: skip
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    forward = torch.compile(model) if mode == "compiled" else model
    ids = same_ids(side)

    def step() -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = forward(input_ids=ids, labels=ids).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return float(loss)

    return step, sum(p.numel() for p in model.parameters())


def main() -> None:
    """Answer `step` lines until the pipe closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print must not be taken for an answer
    side = Side(**json.loads(sys.argv[1]))
    with ExitStack() as stack:
        step, weights = (ours if side.who == "ours" else peer)(side, stack)
        for _ in sys.stdin:
            cpu, wall = time.process_time(), time.monotonic()
            loss = step()
            taken = {"cpu": time.process_time() - cpu, "wall": time.monotonic() - wall}
            answers.write(json.dumps({**taken, "loss": loss, "weights": weights}) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()

"""How this machine computes a model best, found by timing whole steps of it.

Timed only where a preset asks; what was found is kept with the run, as its `training.trainer.ComputeConfig` and as
figures.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from dataclasses import replace
from typing import Any

import torch

from textus.core import hardware
from textus.core.console import cpu_seconds, log_notice
from textus.core.rng import derive_seed
from textus.data.batch import Batch, BatchSource
from textus.models.contract import LanguageModel
from textus.models.registry import build
from textus.training.gradients import GradientAccumulator
from textus.training.optim import make_optimisers
from textus.training.trainer import ComputeConfig, TrainSettings


def fast_bf16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware (or there is a GPU, which does)."""
    return bool({"avx512_bf16", "amx_bf16"} & set(hardware.isa_flags())) or hardware.gpu_name() is not None


def candidates(model: LanguageModel, *, compiled: bool) -> list[ComputeConfig]:
    """Ways this machine could compute this model, the likeliest first."""
    why_not = getattr(model, "native_unsupported_reason", lambda: "this family has no kernels")()
    precision = "bfloat16" if fast_bf16() and "bfloat16" in model.capabilities.precisions else "float32"
    compiled = compiled and "compiled" in model.capabilities.step_kinds
    if hardware.gpu_name() is not None:
        return [
            ComputeConfig(precision, "fused", step, "cuda")
            for step in (("compiled", "eager") if compiled else ("eager",))
        ]
    ways = []
    if fast_bf16() and why_not is None:
        attentions: list[str] = model.native_attentions()  # type: ignore[operator]
        ways += [ComputeConfig("bfloat16", way, "native") for way in attentions]
    elif compiled and hardware.find_compiler():
        ways.append(ComputeConfig(precision, "plain", "compiled"))
    ways.append(ComputeConfig(precision, "plain", "eager"))
    if precision != "float32":
        ways.append(ComputeConfig("float32", "plain", "eager"))
    if why_not and "compiler" in why_not:
        log_notice(f"{why_not}: the eager step is taken")
    return ways


def measure(
    family: str, config: Any, train: TrainSettings, batches: BatchSource, *, compiled: bool, most: float
) -> tuple[ComputeConfig, dict[str, Any]]:
    """Time a step of each candidate and take the fastest; then see whether a second worker pays. A family with
    turns is timed at each. After `most` CPU-seconds the candidates that are left are not tried.
    """
    batch = typical(batches)
    with torch.device("meta"):
        model = build(family, config)
    ways = candidates(model, compiled=compiled)
    log_notice(f"measuring how this machine computes a training step fastest, in {len(ways)} ways …")
    times: dict[str, float] = {}
    best, fastest, alone = ways[0], float("inf"), 0.0
    turns: dict[int, float] = {}
    started = cpu_seconds()
    for choice in ways:
        if times and cpu_seconds() - started > most:
            log_notice(f"one step is long: only {len(times)} of the {len(ways)} ways were measured")
            break
        timed = {
            at: time_step(family, config, train, batch, choice, at=at) for at in model.step_schedule(EVER)
        }
        cpu = {at: used for at, (used, _) in timed.items()}
        times[choice.name] = round(sum(cpu.values()), 4)
        if sum(cpu.values()) < fastest:
            best, fastest, turns, alone = choice, sum(cpu.values()), cpu, timed[0][1]
    measured: dict[str, Any] = {"cpu_seconds_by_choice": times, "cpu_seconds_per_step": round(fastest, 4)}
    if len(turns) > 1:
        measured["cpu_seconds_by_turn"] = {str(at): round(used, 4) for at, used in turns.items()}
    cores = hardware.usable_cores()
    # else dropout is drawn from one stream, which workers would race for
    shareable = (
        best.step == "native"
        or model.capabilities.counter_based_dropout
        or not getattr(config, "dropout", 0.0)
    )
    if cores > 1 and best.device == "cpu" and shareable and model.backward is None and fits(cores):
        used, together = time_step(family, config, train, batch, replace(best, workers=cores))
        measured["seconds_by_workers"] = {"1": round(alone, 4), str(cores): round(together, 4)}
        if together < 0.8 * alone:
            best = replace(best, workers=cores)
            measured["cpu_seconds_per_step"] = round(used, 4)
    shown = f"{measured['cpu_seconds_per_step']:.2g} CPU-seconds"
    log_notice(
        f"tried {len(times)} ways to compute a step; the fastest is {best.name} with {best.workers} worker(s): {shown}"
    )
    return best, measured


def fits(workers: int) -> bool:
    """Whether so many workers at once leave memory free, if each needs as much as this process took at most."""
    needed = hardware.peak_memory_bytes() * workers
    if needed < 0.7 * hardware.memory_bytes()[0]:
        return True
    log_notice(f"one worker: {workers} at once could need {needed / 2**30:.0f} GB of memory")
    return False


EVER = 1 << 40
"""More steps than any training has: among so many are all kinds a family takes."""


def affordable(model: LanguageModel, measured: dict[str, Any], cpu_seconds: float) -> int | None:
    """How many steps fit into so many CPU-seconds, by what `measure` found; None where it found nothing."""
    turns = {int(at): cpu for at, cpu in measured.get("cpu_seconds_by_turn", {}).items()}
    turns = turns or {0: measured.get("cpu_seconds_per_step", 0.0)}
    if not sum(turns.values()):
        return None

    def cost(steps: int) -> float:
        return sum(turns[at] * n for at, n in model.step_schedule(steps).items())

    return bisect_right(range(EVER), cpu_seconds, key=cost) - 1


def typical(batches: BatchSource) -> Batch:
    """Of the first batches, the one of middle size: whole documents make some small and some large."""
    first = [batches.batch(number) for number in range(min(15, batches.n_batches))]
    return sorted(first, key=lambda batch: batch.ids.numel())[len(first) // 2]


FIRST_STEPS = 20
"""Steps in which a model learns how long texts are."""


LONG_STEP = 4.0
"""CPU-seconds of a step beyond which one is timed, not three: what is warmed up then matters little."""


def time_step(
    family: str, config: Any, train: TrainSettings, batch: Batch, choice: ComputeConfig, *, at: int = 0
) -> tuple[float, float]:
    """CPU-seconds and seconds of one whole step on a batch, number `at`: the least of two, after one to warm, and for
    a later turn after a few first ones, so that texts the model draws are about as long as those it reads.
    """
    torch.manual_seed(derive_seed(train.seed, "measure"))
    model = build(family, config).to(choice.device)
    model.set_compute(choice.precision, choice.attention, choice.step)
    pieces = micro_batches(batch.ids.numel(), len(batch.ids), choice.workers)
    backward = type(model).backward or GradientAccumulator(model, choice.workers).of_all(pieces)
    optimisers = make_optimisers(model.parameter_groups(), train.optim)
    cpu, wall = [], []
    for number in [0] * (FIRST_STEPS if at else 0) + [at] * 3:
        cpu_start, start = time.process_time(), time.monotonic()
        _, names = backward(model, replace(batch, position=number), number)
        for name in names:
            optimisers[name].step()
        cpu.append(time.process_time() - cpu_start)
        wall.append(time.monotonic() - start)
        if cpu[0] > LONG_STEP and number == at:
            break
    return min(cpu[-2:]), min(wall[-2:])


TOKENS_AT_ONCE = 4096
"""Positions in a micro-batch: activations that stay near the processor."""


def micro_batches(n_tokens: int, n_rows: int, workers: int = 1) -> int:
    """Pieces for a batch: about `TOKENS_AT_ONCE` each, the same number for every worker."""
    pieces = max(1, round(n_tokens / TOKENS_AT_ONCE / workers)) * workers
    return min(pieces, n_rows)

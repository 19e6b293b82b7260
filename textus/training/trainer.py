"""`fit`: the only training loop.

What differs between ways of training comes as an argument (`backward`, `evaluate`). A step is a function of
(weights, optimiser memory, step number): batches, random numbers and rates are all derived from the step, so
that a run killed at any moment continues from its last checkpoint to the same bytes.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Literal

import torch
from torch import Tensor

from textus.core.console import cpu_seconds, format_duration, log_notice, progress
from textus.core.errors import TextusError, TrainingError, UsageError
from textus.core.hardware import peak_memory_bytes, reset_peak_memory
from textus.core.locks import exclusive_lock
from textus.core.rng import derive_seed
from textus.data.batch import Batch, BatchSource
from textus.models.contract import CountBased, LanguageModel, Loss
from textus.runs.store import Checkpoint, RunFolder
from textus.training.gradients import Backward, GradientAccumulator, clip
from textus.training.optim import (
    OptimSettings,
    Schedule,
    ScheduleCut,
    layer_factors,
    make_optimisers,
    restore,
    set_rates,
    tensors,
)


@dataclass(frozen=True)
class TrainSettings:
    """What training does; with the seed and the choices it decides every byte of the result."""

    steps: int
    batch_size: int = 32
    """Sequences a step."""
    micro_batches: int = 1
    """Pieces each step's batch is worked through in; they change memory and rounding, not the sum."""
    context_length: int = 256
    seed: int = 0
    optim: OptimSettings = field(default_factory=OptimSettings)
    log_every: int = 10
    evaluate_every: int = 0
    patience: int = 0
    """So many evaluations in a row that find nothing better end the training; 0: none do."""
    checkpoint_every: int = 0
    """Steps between checkpoints; next to them there is one every `SAVE_SECONDS`."""
    keep_checkpoints: bool = False
    """Whether a finished run keeps its checkpoints, several times as large as the weights to use."""
    keep: Literal["best", "last"] = "best"
    """Which weights a run ends with, where it is evaluated: the best by validation, or the last."""
    evaluate_first: bool = False
    """Whether the weights that training begins with are evaluated too, and kept if nothing better comes."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "micro_batches", "context_length"):
            if (value := getattr(self, name)) < 1:
                raise UsageError("out_of_range", f"train.{name}={value}: must be at least 1")
        if self.patience < 0:
            raise UsageError("out_of_range", f"train.patience={self.patience}: must be at least 0")


@dataclass(frozen=True)
class ComputeConfig:
    """How the arithmetic is done on this machine: found by measuring, recorded with the run, kept on resume."""

    precision: str = "float32"
    attention: str = "plain"
    step: str = "eager"
    """eager, compiled (torch.compile a block at a time) or native (`textus.models.kernels.native`)."""
    device: str = "cpu"
    workers: int = 1
    """Micro-batches worked on at once, each by one thread; the sum is taken in order: the bytes do not depend on it."""

    @property
    def name(self) -> str:
        """For people: who does the arithmetic, in which type, attending how."""
        return f"{self.step} {self.precision} {self.attention}"


SAVE_SECONDS = 600
"""Seconds after which a checkpoint is written whatever the steps between: the most that a power cut loses."""


class TrainingInterrupted(TextusError):
    """Ctrl-C or SIGTERM: what was done is saved."""

    exit_code = 130


@dataclass
class CpuBudget:
    """A budget in CPU-seconds, and how much of it was used before this process."""

    budget: float
    used_before: float = 0.0
    started: float = field(default_factory=cpu_seconds)

    def used(self) -> float:
        """CPU-seconds so far."""
        return self.used_before + cpu_seconds() - self.started


Evaluate = Callable[[LanguageModel], dict[str, Any]]
"""What to log of a model on the way: `validation` (nats per token), `criterion` where the best weights are those with
the least of something else, and what else is worth a look."""


def check_patience(model: LanguageModel, settings: TrainSettings, evaluate: Evaluate | None) -> None:
    """UsageError where training is to end for lack of improvement, and nothing measures it."""
    if not settings.patience:
        return
    if model.capabilities.use_last_checkpoint or isinstance(model, CountBased):
        why = f"of a {type(model).__name__} the last weights are kept"
    elif evaluate is None:
        why = "there is no validation text to evaluate on"
    elif not settings.evaluate_every:
        why = "it is evaluated at the end only; set train.evaluate_every too"
    elif settings.keep == "last":
        why = "train.keep=last keeps the last weights; set train.keep=best too"
    else:
        return
    raise UsageError("incompatible_settings", f"train.patience={settings.patience}: {why}")


def chosen_by(metrics: dict[str, Any]) -> float:
    """What the best weights have least of."""
    value: float = metrics.get("criterion", metrics["validation"])
    return value


def fit(
    model: LanguageModel,
    loader: BatchSource,
    *,
    settings: TrainSettings,
    run: RunFolder,
    clock: CpuBudget | None = None,
    backward: Backward | None = None,
    evaluate: Evaluate | None = None,
    until: int | None = None,
) -> None:
    """Train `model` to the end of its schedule and leave a finished run; continues from the run's newest
    checkpoint. `until`: stop at this step as Ctrl-C would.

    `backward` makes a step's gradients: `GradientAccumulator(model, workers, loss).of_all(pieces)` for a loss, or
    whatever else fills them; without it the model's own loss in one thread. `evaluate` measures the model on
    the way. Raises TrainingError (not-a-number, no space left) and Interrupted, both after the last good checkpoint
    is on disk.
    """
    reset_peak_memory()
    if isinstance(model, CountBased):
        with exclusive_lock(run.path), run.full_disk_named(), stop_signals() as stopped:
            _count(model, loader, run, lambda done: stopped() or done == until, evaluate)
            if not settings.keep_checkpoints:
                run.drop_checkpoints()
        return
    backward = backward or GradientAccumulator(model).of_all(settings.micro_batches)
    training = Trainer(model, loader, settings, run, clock, backward)
    with exclusive_lock(run.path), run.full_disk_named(), stop_signals() as stopped, deterministic():
        training.resume(run.last_checkpoint())
        training.loop(lambda: stopped() or training.step == until, evaluate)
        run.finish(training.best_weights())
        if not settings.keep_checkpoints:
            run.drop_checkpoints()


def _count(
    model: LanguageModel,
    loader: BatchSource,
    run: RunFolder,
    stopped: Callable[[int], bool],
    evaluate: Evaluate | None,
) -> None:
    """Count models: every batch once a pass, then an update; continues after the last pass that was saved. Evaluated
    once, at the end.
    """
    assert isinstance(model, CountBased)
    n_passes = model.n_passes()
    done, started = 0, cpu_seconds()
    if checkpoint := run.last_checkpoint():
        model.load_state_dict(checkpoint.weights)
        done, started = checkpoint.step, started - checkpoint.state["cpu_seconds"]
    elif run.steps():
        log_notice(f"no checkpoint in {run.path} is whole: counting from the beginning")
    run.drop_remains(done)
    run.cut_log(done, evaluated=0, seconds=0.0)
    for number in range(done, n_passes):
        with progress(f"pass {number + 1} of {n_passes}", loader.n_batches) as advance:
            for position in range(loader.n_batches):
                if stopped(number):
                    kept = f"pass {number} is saved" if number else "nothing is saved yet"
                    raise TrainingInterrupted(
                        "interrupted",
                        f"stopped in pass {number + 1} of {n_passes}; {kept}, continue with"
                        f" `textus resume {run.path}`",
                    )
                model.count(loader.batch(number * loader.n_batches + position))
                advance()
        loss, used = model.update(), cpu_seconds() - started
        run.log({"step": number + 1, "loss": float(loss.mean), "cpu_seconds": used})
        if number + 1 < n_passes:  # else the weights to use are written next
            run.save(Checkpoint(number + 1, model.state_dict(), {}, {"cpu_seconds": used}))
    run.record["steps"] = n_passes
    run.record["cpu_seconds"] = round(cpu_seconds() - started, 3)
    run.record["peak_memory_bytes"] = peak_memory_bytes()
    run.finish(model.state_dict())
    if evaluate:  # of a run that is whole whatever becomes of this
        run.log({"step": n_passes, **evaluate(model)})


class Trainer:
    """The state of one training: what `fit` moves from step to step."""

    def __init__(
        self,
        model: LanguageModel,
        loader: BatchSource,
        settings: TrainSettings,
        run: RunFolder,
        clock: CpuBudget | None,
        backward: Backward,
    ) -> None:
        self.model, self.loader, self.settings = model, loader, settings
        self.run, self.clock, self.backward = run, clock, backward
        factors = layer_factors(model, settings.optim)
        self.optimisers = make_optimisers(model.parameter_groups(), settings.optim, factors)
        self.schedule = Schedule(settings.optim, settings.steps)
        self.step = 0
        self.best: dict[str, Any] | None = None
        self.first_step, self.saved, self.evaluated = 0, -1, -1 if settings.evaluate_first else 0
        self.no_better = 0
        self.cpu_before = self.seconds_before = 0.0
        self.started, self.cpu_started = time.monotonic(), cpu_seconds()
        self.saved_at = self.started

    # ── steps ──────────────────────────────────────────────────────────────────────────────────

    def loop(self, stopped: Callable[[], bool], evaluate: Evaluate | None) -> None:
        """Steps until the schedule ends, with evaluations and checkpoints on the way."""
        with progress("training", self.schedule.steps) as advance:
            advance(self.step)
            if evaluate and self.evaluated < 0:
                self.evaluate_and_save(evaluate)
            if evaluate and self.step and self.evaluated != self.step and self.evaluation_due():
                self.evaluate_and_save(evaluate)  # it was saved before it was evaluated
            while self.step < self.schedule.steps and not self.out_of_patience():
                loss, norm = self.take_step()
                last = self.step >= self.schedule.steps
                if self.due(self.settings.log_every) or last:
                    self.log_step(loss, norm)
                advance(1, f"loss {float(loss.mean):.3f}")
                if stopped():
                    self.save()
                    raise TrainingInterrupted(
                        "interrupted",
                        f"stopped at step {self.step}; it is saved, continue with `textus resume {self.run.path}`",
                    )
                if last or self.save_due():
                    self.save()
                if evaluate and self.evaluation_due():
                    self.evaluate_and_save(evaluate)
                self.replan()
        if self.out_of_patience() and self.best and self.step < self.schedule.steps:
            log_notice(
                f"{self.no_better} evaluations in a row found nothing better than step {self.best['step']}: stopped at"
                f" step {self.step} of {self.schedule.steps} (train.patience={self.settings.patience})"
            )

    def out_of_patience(self) -> bool:
        """Whether as many evaluations as may be found nothing better."""
        return 0 < self.settings.patience <= self.no_better

    def evaluation_due(self) -> bool:
        """Whether this step ends with an evaluation."""
        return self.due(self.settings.evaluate_every) or self.step >= self.schedule.steps

    def save_due(self) -> bool:
        """Whether this step ends with a checkpoint."""
        late = time.monotonic() - self.saved_at > SAVE_SECONDS
        return late or self.due(self.settings.checkpoint_every)

    def due(self, every: int) -> bool:
        """Whether something that happens every so many steps happens now."""
        return bool(every) and self.step % every == 0

    def take_step(self) -> tuple[Loss, float]:
        """One step of the optimisers whose groups `backward` names: the loss, and the largest norm of a group's
        gradient before clipping.
        """
        torch.manual_seed(derive_seed(self.settings.seed, "step", self.step))  # dropout
        batch = self.loader.batch(self.step)
        loss, names = self.backward(self.model, batch, self.step)
        nats, groups = float(loss.mean), self.model.parameter_groups()
        norms = [clip(groups[name], self.settings.optim.clip) for name in names]
        if not all(map(_finite, [nats, *norms])):
            raise self.not_a_number(self.step, f"loss {nats}, gradient norm {max(norms)}")
        set_rates(self.optimisers, self.schedule.factor(self.step))
        for name, optimiser in self.optimisers.items():
            if name in names:
                optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return loss, max(norms)

    def not_a_number(self, step: int, what: str) -> TrainingError:
        """The error for a step that is no longer a number."""
        steps = self.run.steps()
        good = f"the last good checkpoint is step {steps[-1]}" if steps else "there was no checkpoint yet"
        return TrainingError(
            "training_diverged",
            f"step {step} (batch {step} of seed {self.settings.seed}): {what};"
            f" {good} in {self.run.path};"
            f" lower the rate (--set optim.rate={self.settings.optim.own_rate / 3:.2g}) and start anew",
        )

    def replan(self) -> None:
        """Where the clock will run out before the end: come down from here to an earlier one, and remember it."""
        if self.clock is None or self.step < 20 or self.step % 10 or self.step >= self.schedule.steps:
            return
        planned, replans = self.schedule.planned, self.schedule.replans
        left = 0.98 * self.clock.budget - self.clock.used()
        # while the remaining steps still suffice for a full decay, a slow moment may pass
        too_early = self.step < planned * (1 - self.settings.optim.decay)
        just_decided = replans and self.step - replans[-1].step < planned // 20
        if left > 0 and (too_early or just_decided):
            return
        rate = (cpu_seconds() - self.cpu_started) / max(1, self.step - self.first_step)
        fitting = self.step + max(1, int(left / rate))
        if fitting < 0.98 * self.schedule.steps:
            log_notice(
                f"slower than expected: {fitting} steps instead of {self.schedule.steps}, to end within"
                f" {format_duration(self.clock.budget)} of CPU time"
            )
            replans.append(ScheduleCut(self.step, fitting))
            self.run.log({"step": self.step, "schedule_cut": fitting})

    # ── remembering ────────────────────────────────────────────────────────────────────────────

    def log_step(self, loss: Loss, norm: float) -> None:
        """A line of log.jsonl: `lr` is the learning rate of the main parameters, `lr_factor` the schedule's part."""
        factor = self.schedule.factor(self.step - 1)
        tokens = self.step * self.loader.tokens_per_step
        self.run.log(
            {
                "step": self.step,
                "loss": round(float(loss.mean), 6),
                **{name: round(value / max(loss.weight, 1e-12), 6) for name, value in loss.parts.items()},
                "gradient_norm": round(norm, 6),
                "lr": self.settings.optim.own_rate * factor,
                "lr_factor": factor,
                "tokens": tokens,
                "cpu_seconds": round(self.cpu_used(), 2),
                "seconds": round(self.seconds_used(), 2),
            }
        )

    def cpu_used(self) -> float:
        """CPU-seconds of training, over all its processes."""
        return self.cpu_before + cpu_seconds() - self.cpu_started

    def seconds_used(self) -> float:
        """Seconds of training, over all its processes."""
        return self.seconds_before + time.monotonic() - self.started

    def evaluate_and_save(self, evaluate: Evaluate) -> None:
        """Validation loss; the best so far is remembered and has a checkpoint, whose tensors are written once."""
        self.model.eval()
        metrics = evaluate(self.model)
        self.model.train()
        used = {"cpu_seconds": round(self.cpu_used(), 2), "seconds": round(self.seconds_used(), 2)}
        self.run.log({"step": self.step, **metrics, **used})
        self.evaluated = self.step
        if self.model.capabilities.use_last_checkpoint or self.settings.keep == "last":
            return
        figures = {name: value for name, value in metrics.items() if name in ("validation", "criterion")}
        if self.best is None or chosen_by(figures) < chosen_by(self.best):
            self.best, self.no_better = {"step": self.step, **figures}, 0
            self.save()
        else:
            self.no_better += 1

    def save(self) -> None:
        """A checkpoint of this step; never one of weights that a last step drove to infinity. Where there is one, its
        state is brought up to date.
        """
        state = {
            "best": self.best,
            "evaluated": self.evaluated,
            "no_better": self.no_better,
            "schedule_cuts": [vars(cut) for cut in self.schedule.replans],
            "cpu_seconds": self.cpu_used(),
            "seconds": self.seconds_used(),
        }
        if self.saved == self.step:
            self.run.save_state(self.step, state)
            return
        weights = self.model.state_dict()
        if wrong := [name for name, value in weights.items() if not torch.isfinite(value).all()]:
            raise self.not_a_number(self.step - 1, f"it left {wrong[0]} not finite")
        self.run.save(Checkpoint(self.step, weights, tensors(self.optimisers), state))
        self.saved, self.saved_at = self.step, time.monotonic()

    def resume(self, checkpoint: Checkpoint | None) -> None:
        """Continue from a checkpoint; without one, from the seed."""
        if checkpoint is not None:
            self.model.load_state_dict(checkpoint.weights)
            restore(self.optimisers, checkpoint.optimiser)
            self.step = self.saved = checkpoint.step
            self.best, self.evaluated = checkpoint.state["best"], checkpoint.state["evaluated"]
            self.no_better = checkpoint.state.get("no_better", 0)
            self.schedule.replans = [ScheduleCut(**cut) for cut in checkpoint.state["schedule_cuts"]]
            self.cpu_before = checkpoint.state["cpu_seconds"]
            self.seconds_before = checkpoint.state["seconds"]
        elif self.run.steps():
            log_notice(f"no checkpoint in {self.run.path} is whole: starting again from the seed")
        if self.best and not self.run.checkpoint(
            self.best["step"], otherwise="it no longer counts as the best"
        ):
            self.best = None
        self.first_step = self.step
        self.run.drop_remains(self.step)
        self.run.cut_log(self.step, evaluated=self.evaluated, seconds=self.seconds_before)
        if self.clock is not None:
            self.clock.used_before += self.cpu_before

    def best_weights(self) -> dict[str, Tensor]:
        """The weights to use: the best if validated, else the last; run.json records which."""
        weights, used = self.model.state_dict(), self.step
        if self.best and self.best["step"] != self.step:
            best = self.run.checkpoint(self.best["step"], otherwise="the last weights are used instead")
            if best is None:
                self.best = None
            else:
                weights, used = best.weights, best.step
        self.run.record.update(
            {
                "steps": self.step,
                "weights": {"step": used, "why": "best validation" if self.best else "last"},
                "best": self.best,
                "schedule_cuts": [vars(cut) for cut in self.schedule.replans],
                "cpu_seconds": round(self.cpu_used(), 2),
                "seconds": round(self.seconds_used(), 2),
                "peak_memory_bytes": peak_memory_bytes(),
            }
        )
        return weights


@torch.inference_mode()
def validation_loss(model: LanguageModel, batches: list[Batch]) -> float:
    """Nats per target over batches."""
    total = weight = 0.0
    device = next(model.parameters()).device
    for batch in batches:
        loss = model.loss(batch.to(device))
        total, weight = total + float(loss.total), weight + loss.weight
    return total / max(weight, 1e-12)


def _finite(value: float) -> bool:
    return value - value == 0.0


@contextmanager
def deterministic() -> Iterator[None]:
    """Only algorithms that give the same bytes every time, as long as training lasts.

    torch would also fill all new memory, in case it is read before it is written; nothing here does that, and
    filling takes time (docs/log.md).
    """
    before = torch.are_deterministic_algorithms_enabled()
    memory: Any = torch.utils.deterministic
    filling = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        memory.fill_uninitialized_memory = filling


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a question the loop asks between steps; a second one acts at once."""
    stopped = False
    before: dict[int, Any] = {}

    def ask(signal_number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        for number, handler in before.items():
            signal.signal(number, handler)
        log_notice("stopping after this step; once more to stop at once (what was not saved is lost)")

    try:
        for asking in (signal.SIGINT, signal.SIGTERM):
            before[asking] = signal.signal(asking, ask)
    except ValueError:  # not in the main thread: whoever runs us there keeps the signals
        before.clear()
    try:
        yield lambda: stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

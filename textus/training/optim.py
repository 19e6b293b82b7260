"""Optimisers and schedules by name, and how they meet a model's parameter groups.

A schedule is a function of the step alone; `ScheduleCut` is the one thing that bends it, and is stored with the
run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from textus.core.errors import UsageError
from textus.core.names import unknown_name_error
from textus.models.contract import LanguageModel
from textus.models.nn.lora import layer_depth

OPTIMISERS = ("muon", "adamw", "adam", "adagrad", "rmsprop", "nesterov", "momentum", "sgd")
"""`sgd` is plain gradient descent."""
RATES = {
    "muon": 0.03, "adamw": 0.001, "adam": 0.001, "adagrad": 0.01, "rmsprop": 0.001, "nesterov": 0.01, "momentum": 0.01,
    "sgd": 0.1,
}  # fmt: skip
"""Each optimiser's rate where none is set."""
SCHEDULES = (
    "warmup-stable-decay", "linear", "cosine", "step", "exponential", "inverse-sqrt", "constant"
)  # fmt: skip


@dataclass(frozen=True)
class OptimSettings:
    """How weights are updated. `muon` (Jordan et al. 2024) moves the matrices, AdamW everything else.

    `rate` is for `muon`'s matrices or, with any other optimiser, for all; None is the default in `RATES`. `other_rate`
    is for what is not a matrix under muon, and under any optimiser for the group `critic` of a GAN.
    """

    optimiser: str = "muon"
    rate: float | None = None
    other_rate: float = 0.006
    weight_decay: float = 0.05
    momentum: float = 0.95
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    schedule: str = "warmup-stable-decay"
    warmup: int = 20
    layer_decay: float = 1.0
    """What a rate is multiplied by for each layer further below the head (Clark et al. 2020); 1: the same for all."""
    decay: float = 0.7
    """Share of all steps in which warmup-stable-decay comes down to zero, and step to a hundredth."""

    def __post_init__(self) -> None:
        for name in ("rate", "other_rate", "clip"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < math.inf:
                raise UsageError("out_of_range", f"optim.{name}={getattr(self, name)}: must be above 0")
        for name in ("weight_decay", "warmup"):
            if not getattr(self, name) >= 0:
                raise UsageError("out_of_range", f"optim.{name}={getattr(self, name)}: must be at least 0")
        for name in ("momentum", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(
                    "out_of_range", f"optim.{name}={getattr(self, name)}: must be at least 0 and below 1"
                )
        for name, known in (("optimiser", OPTIMISERS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in known:
                raise unknown_name_error(name, getattr(self, name), known)
        if self.optimiser == "nesterov" and not self.momentum:
            raise UsageError(
                "incompatible_settings",
                "optim.momentum=0: nesterov looks ahead along its momentum; set it above 0, or use sgd",
            )
        if not 0 < self.layer_decay <= 1:
            raise UsageError(
                "out_of_range", f"optim.layer_decay={self.layer_decay}: must be above 0 and at most 1"
            )
        if not 0 <= self.decay <= 1:
            raise UsageError("out_of_range", f"optim.decay={self.decay}: must be between 0 and 1")

    @property
    def own_rate(self) -> float:
        """The rate that was set, or the optimiser's default."""
        return RATES[self.optimiser] if self.rate is None else self.rate


@dataclass(frozen=True)
class ScheduleCut:
    """At `step` the clock showed that only `steps` in all fit: from there the rate falls linearly
    to zero.
    """

    step: int
    steps: int


@dataclass
class Schedule:
    """The factor on every rate at a step (0-based), and the number of steps."""

    settings: OptimSettings
    planned: int
    replans: list[ScheduleCut] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """How many steps there will be."""
        return self.replans[-1].steps if self.replans else self.planned

    def factor(self, step: int) -> float:
        """Between 0 and 1."""
        value, past = None, [cut for cut in self.replans if cut.step <= step]
        for cut in past:
            start = shape(self.settings, cut.step, self.planned) if value is None else value
            until = min([step, *[later.step for later in past if later.step > cut.step]])
            value = start * max(0.0, (cut.steps - until) / max(1, cut.steps - cut.step))
        return shape(self.settings, step, self.planned) if value is None else value


def shape(settings: OptimSettings, step: int, steps: int) -> float:
    """The schedule's factor before any replanning.

    `step` falls tenfold where its decay begins and again half-way through it, `exponential` a hundredfold over all
    steps, `inverse-sqrt` (Vaswani et al. 2017) with the square root of the step.
    """
    until = max(1, min(settings.warmup, steps // 4))
    warm = min(1.0, (step + 1) / until)
    done = step / max(1, steps)
    if settings.schedule == "constant":
        return warm
    if settings.schedule == "step":
        falls = (done >= 1.0 - settings.decay) + (done >= 1.0 - settings.decay / 2)
        return warm * 0.1**falls
    if settings.schedule == "exponential":
        return warm * 0.01**done
    if settings.schedule == "inverse-sqrt":
        return min(warm, math.sqrt(until / (step + 1)))
    if settings.schedule == "linear":
        return warm * (1.0 - done)
    if settings.schedule == "cosine":
        return warm * 0.5 * (1.0 + math.cos(math.pi * done))
    return warm * min(1.0, (1.0 - done) / max(settings.decay, 1e-9))


def make_optimisers(
    groups: dict[str, list[nn.Parameter]],
    settings: OptimSettings,
    factors: dict[nn.Parameter, float] | None = None,
) -> dict[str, Optimizer]:
    """One optimiser for what learns of each of a model's parameter groups; `matrices` is the group that muon may
    move. `factors` (None: all 1) multiply the rates of single parameters.
    """
    learning = {name: [p for p in parameters if p.requires_grad] for name, parameters in groups.items()}
    made = {
        name: _optimiser(name, parameters, settings, factors or {})
        for name, parameters in learning.items()
        if parameters
    }
    for optimiser in made.values():
        optimiser.register_step_post_hook(_mark_changed)
    return made


def layer_factors(model: LanguageModel, settings: OptimSettings) -> dict[nn.Parameter, float]:
    """What each parameter's rate is multiplied by, so that layers further down move less (Howard and Ruder 2018)."""
    if settings.layer_decay == 1:
        return {}
    depth = layer_depth(model)
    return {parameter: settings.layer_decay ** depth[name] for name, parameter in model.named_parameters()}


def _mark_changed(optimiser: Optimizer, *_: Any) -> None:
    """Raise every parameter's version number: torch's fused steps do not, and what is cached by it
    (`kernels.native.bf16`) would never be renewed.
    """
    for group in optimiser.param_groups:
        torch.autograd.graph.increment_version(group["params"])


def _optimiser(
    name: str,
    parameters: list[nn.Parameter],
    settings: OptimSettings,
    factors: dict[nn.Parameter, float],
) -> Optimizer:
    kind, decay = settings.optimiser, settings.weight_decay
    betas = (settings.beta1, settings.beta2)
    rate = settings.other_rate if name == "critic" else settings.own_rate
    if kind == "muon" and name != "matrices":
        rate = settings.other_rate

    def groups(parameters: list[nn.Parameter], **more: float) -> list[dict[str, Any]]:
        """Those of one factor together."""
        by_factor: dict[float, list[nn.Parameter]] = {}
        for parameter in parameters:
            by_factor.setdefault(factors.get(parameter, 1.0), []).append(parameter)
        return [{"params": same, "lr": rate * factor, **more} for factor, same in by_factor.items()]

    if kind == "muon" and name == "matrices":
        return torch.optim.Muon(groups(parameters), lr=rate, momentum=settings.momentum, weight_decay=decay)
    if kind == "muon":  # embeddings, norms and heads do not decay next to it
        return torch.optim.AdamW(groups(parameters), lr=rate, betas=betas, weight_decay=0.0, fused=True)
    if kind == "adamw":
        split = groups([p for p in parameters if p.ndim >= 2], weight_decay=decay)
        split += groups([p for p in parameters if p.ndim < 2], weight_decay=0.0)
        return torch.optim.AdamW(split, lr=rate, betas=betas, fused=True)
    if kind == "adam":
        return torch.optim.Adam(groups(parameters), lr=rate, betas=betas, fused=True)
    if kind == "rmsprop":
        return torch.optim.RMSprop(groups(parameters), lr=rate)
    if kind == "adagrad":
        return torch.optim.Adagrad(groups(parameters), lr=rate)
    nesterov = kind == "nesterov"
    momentum = settings.momentum if kind in ("momentum", "nesterov") else 0.0
    return torch.optim.SGD(groups(parameters), lr=rate, momentum=momentum, nesterov=nesterov)


def set_rates(optimisers: dict[str, Optimizer], factor: float) -> None:
    """Multiply every group's own rate (kept as `initial_lr`) by the schedule's factor."""
    for optimiser in optimisers.values():
        for group in optimiser.param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = group["initial_lr"] * factor


def tensors(optimisers: dict[str, Optimizer]) -> dict[str, torch.Tensor]:
    """Every optimiser's memory as named tensors: `group/parameter number/what`."""
    result = {}
    for name, optimiser in optimisers.items():
        for number, state in optimiser.state_dict()["state"].items():
            for key, value in state.items():
                result[f"{name}/{number}/{key}"] = value if torch.is_tensor(value) else torch.tensor(value)
    return result


def restore(optimisers: dict[str, Optimizer], kept: dict[str, torch.Tensor]) -> None:
    """Give the optimisers back what `tensors` returned."""
    for name, optimiser in optimisers.items():
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in kept.items():
            group, number, what = key.split("/")
            if group == name:
                state.setdefault(int(number), {})[what] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})

"""Schedules, replanning and optimiser memory; a missing piece of memory is seen in the next step's bytes."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from textus.core.config import apply_overrides
from textus.core.errors import UsageError
from textus.models.registry import build
from textus.training.optim import (
    OPTIMISERS,
    RATES,
    SCHEDULES,
    OptimSettings,
    Schedule,
    ScheduleCut,
    make_optimisers,
    restore,
    set_rates,
    tensors,
)

STEPS = 200


def factors(name: str, **settings: Any) -> list[float]:
    schedule = Schedule(OptimSettings(schedule=name, **settings), STEPS)
    return [schedule.factor(step) for step in range(STEPS + 1)]


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_warm_up_then_never_rise(name: str) -> None:
    values = factors(name, warmup=20)
    assert values[0] == pytest.approx(1 / 20, rel=0.01)
    assert all(a < b for a, b in pairwise(values[:16]))
    assert max(values) <= 1.0
    assert all(a >= b for a, b in pairwise(values[20:]))
    ends = {"constant": 1.0, "step": 0.01, "exponential": 0.01, "inverse-sqrt": (20 / (STEPS + 1)) ** 0.5}
    assert values[-1] == pytest.approx(ends.get(name, 0.0), abs=1e-12)


def test_schedules_at_known_places() -> None:
    assert factors("cosine")[STEPS // 2] == pytest.approx(0.5)
    assert factors("linear")[STEPS // 4] == pytest.approx(0.75)
    stable = factors("warmup-stable-decay", decay=0.4)
    assert stable[20] == stable[119] == 1.0
    assert stable[160] == pytest.approx(0.5)
    assert factors("warmup-stable-decay", decay=0.0)[STEPS - 1] == 1.0


def test_a_short_training_still_gets_off_the_ground() -> None:
    schedule = Schedule(OptimSettings(warmup=1000), 8)
    assert max(map(schedule.factor, range(8))) > 0.9


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_replan_continues_from_where_it_is_and_comes_down_to_zero(name: str) -> None:
    settings = OptimSettings(schedule=name)
    plain, bent = Schedule(settings, STEPS), Schedule(settings, STEPS, [ScheduleCut(100, 150)])
    assert (plain.steps, bent.steps) == (STEPS, 150)
    assert [bent.factor(s) for s in range(101)] == [plain.factor(s) for s in range(101)]
    assert bent.factor(125) == pytest.approx(plain.factor(100) / 2)
    assert bent.factor(150) == bent.factor(170) == 0.0


def test_a_second_replan_is_continuous_too() -> None:
    once = Schedule(OptimSettings(), STEPS, [ScheduleCut(100, 150)])
    twice = Schedule(OptimSettings(), STEPS, [ScheduleCut(100, 150), ScheduleCut(120, 130)])
    assert twice.steps == 130
    assert twice.factor(120) == pytest.approx(once.factor(120))
    assert twice.factor(125) == pytest.approx(once.factor(120) / 2)
    assert twice.factor(130) == 0.0


# ── optimisers ─────────────────────────────────────────────────────────────────────────────────


def groups(seed: int = 0) -> dict[str, list[nn.Parameter]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"matrices": [(6, 4), (4, 6)], "other": [(7, 4), (4,)]}
    return {
        name: [nn.Parameter(torch.randn(shape, generator=generator)) for shape in item]
        for name, item in shapes.items()
    }


def step(parameters: dict[str, list[nn.Parameter]], optimisers: dict[str, Any], number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    for item in parameters.values():
        for parameter in item:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    set_rates(optimisers, 1.0 - number / 10)
    for optimiser in optimisers.values():
        optimiser.step()


def continued(settings: OptimSettings, forget: str = "") -> tuple[list[Tensor], list[Tensor]]:
    """Weights after six steps, and after three, a save, a restore without the keys that contain `forget`,
    and three more."""
    whole = groups()
    optimisers = make_optimisers(whole, settings)
    for number in range(6):
        step(whole, optimisers, number)
    half = groups()
    optimisers = make_optimisers(half, settings)
    for number in range(3):
        step(half, optimisers, number)
    kept = {
        key: value.clone() for key, value in tensors(optimisers).items() if not forget or forget not in key
    }
    fresh = groups(seed=1)
    for name, item in fresh.items():
        for parameter, old in zip(item, half[name], strict=True):
            parameter.data.copy_(old)
    optimisers = make_optimisers(fresh, settings)
    restore(optimisers, kept)
    for number in range(3, 6):
        step(fresh, optimisers, number)
    return [p for value in whole.values() for p in value], [p for value in fresh.values() for p in value]


@pytest.mark.promise("Training", "An optimiser's memory is kept and given back to the bit")
@pytest.mark.parametrize("name", OPTIMISERS)
def test_memory_is_kept_and_given_back_to_the_bit(name: str) -> None:
    whole, resumed = continued(OptimSettings(optimiser=name))
    assert all(map(torch.equal, whole, resumed))


@pytest.mark.parametrize(
    ("name", "forget"),
    [("muon", "matrices"), ("muon", "other/1/exp_avg_sq"), ("adamw", "step"), ("momentum", "momentum")],
)
def test_forgotten_memory_is_seen(name: str, forget: str) -> None:
    try:
        whole, resumed = continued(OptimSettings(optimiser=name), forget)
    except KeyError:  # torch notices by itself
        return
    assert not all(map(torch.equal, whole, resumed))


@pytest.mark.promise(
    "Families", "Each optimiser has a default learning rate; the record holds it; earlier runs keep theirs"
)
@pytest.mark.parametrize("name", OPTIMISERS)
def test_each_optimiser_has_a_rate_of_its_own_where_none_is_set(name: str) -> None:
    made = make_optimisers(groups(), OptimSettings(optimiser=name))["matrices"]
    assert made.param_groups[0]["lr"] == RATES[name]
    made = make_optimisers(groups(), OptimSettings(optimiser=name, rate=0.7))["matrices"]
    assert made.param_groups[0]["lr"] == 0.7
    later = apply_overrides(OptimSettings(), [f"optimiser={name}"])  # which is how `--set` makes it
    assert later.own_rate == RATES[name]


def test_the_rate_of_muon_is_not_for_the_others() -> None:
    """0.03 for all weights is far above what the others take (Kingma & Ba 2015 have 0.001 for Adam)."""
    assert set(RATES) == set(OPTIMISERS)
    assert RATES["muon"] == 0.03
    assert RATES["adamw"] == RATES["adam"] == 0.001


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_step_is_seen_by_who_caches_weights(name: str) -> None:
    parameters = groups()
    before = [p._version for parameter in parameters.values() for p in parameter]
    step(parameters, make_optimisers(parameters, OptimSettings(optimiser=name)), 0)
    after = [p._version for parameter in parameters.values() for p in parameter]
    assert all(a > b for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_factor_of_zero_moves_nothing(name: str) -> None:
    parameters = groups()
    optimisers = make_optimisers(parameters, OptimSettings(optimiser=name))
    for tensor in (p for group in parameters.values() for p in group):
        tensor.grad = torch.ones_like(tensor)
    set_rates(optimisers, 0.0)
    for optimiser in optimisers.values():
        optimiser.step()
    for name, old in groups().items():
        assert all(map(torch.equal, parameters[name], old))


def test_set_rates_multiplies_the_rate_as_it_was_set() -> None:
    optimisers = make_optimisers(groups(), OptimSettings(rate=0.5, other_rate=0.25))
    for factor in (0.5, 1.0, 0.1):
        set_rates(optimisers, factor)
    assert optimisers["matrices"].param_groups[0]["lr"] == pytest.approx(0.05)
    assert optimisers["other"].param_groups[0]["lr"] == pytest.approx(0.025)


@pytest.mark.parametrize("tie_head", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_every_weight_of_a_decoder_is_in_one_group_and_one_optimiser(tie_head: bool, bias: bool) -> None:
    shape = {"vocab_size": 9, "n_layer": 2, "n_head": 2, "d_model": 8, "tie_head": tie_head, "bias": bias}
    model = build("decoder", {**shape, "position": "learned"})
    for name in OPTIMISERS:
        optimisers = make_optimisers(model.parameter_groups(), OptimSettings(optimiser=name))
        held = [
            id(p)
            for optimiser in optimisers.values()
            for group in optimiser.param_groups
            for p in group["params"]
        ]
        assert sorted(held) == sorted(id(p) for p in model.parameters())


def test_only_matrices_decay_under_adamw() -> None:
    optimiser = make_optimisers(groups(), OptimSettings(optimiser="adamw", weight_decay=0.1))["other"]
    decays = {p.ndim: group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    assert decays == {2: 0.1, 1: 0.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimiser": "adamv"}, "unknown optimiser 'adamv'; did you mean 'adam'"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'; did you mean 'cosine'"),
        ({"rate": 0}, "optim.rate=0: must be above 0"),
        ({"rate": math.nan}, "optim.rate=nan"),
        ({"rate": math.inf}, "optim.rate=inf"),
        ({"decay": 1.5}, "optim.decay=1.5"),
        ({"beta2": 1.0}, "optim.beta2=1.0: must be at least 0 and below 1"),
        ({"weight_decay": -1}, "optim.weight_decay=-1"),
        ({"warmup": -1}, "optim.warmup=-1"),
    ],
)
def test_wrong_words_get_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        OptimSettings(**settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)

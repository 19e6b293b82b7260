"""The textbook's parts, each beside a formula or a `torch` module that does not share its code.

Shapes: N items, C classes, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from raising import raises
from torch import Tensor, nn

from textus.api import train
from textus.core.config import apply_overrides
from textus.core.errors import UsageError
from textus.evaluation.comparison import training_log
from textus.models.nn import registry
from textus.models.nn.layers import make_feed_forward, make_norm
from textus.models.registry import build
from textus.training.optim import OPTIMISERS, SCHEDULES, OptimSettings, Schedule, make_optimisers, set_rates

X = torch.linspace(-4, 4, 33, dtype=torch.float64).view(3, 11)

# ── activations ────────────────────────────────────────────────────────────────────────────────


def normal_share(x: float) -> float:
    return (1 + math.erf(x / math.sqrt(2))) / 2


FORMULAS: dict[str, Callable[[float], float]] = {
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": lambda x: (math.exp(x) - math.exp(-x)) / (math.exp(x) + math.exp(-x)),
    "relu": lambda x: max(0.0, x),
    "relu2": lambda x: max(0.0, x) ** 2,
    "leaky-relu": lambda x: x if x > 0 else 0.01 * x,
    "gelu": lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu-exact": lambda x: x * normal_share(x),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "softplus": lambda x: math.log(1 + math.exp(x)),
}


@pytest.mark.promise("Families", "Every textbook part is its formula")
def test_every_part_is_tried() -> None:
    assert set(FORMULAS) | {"softmax"} == set(registry.ACTIVATIONS)
    assert set(LOSSES) == set(registry.LOSSES)
    assert set(DRAWN) | {"orthogonal", "zeros"} == set(registry.INITIALISATIONS)
    assert set(NORMS) == set(registry.NORMS)
    assert {*STEPS, "muon"} == set(OPTIMISERS)
    assert {*DECAYS, "warmup-stable-decay"} == set(SCHEDULES)


@pytest.mark.parametrize("name", FORMULAS)
def test_activations_are_their_formulas(name: str) -> None:
    expected = [[FORMULAS[name](float(x)) for x in row] for row in X]
    got = registry.ACTIVATIONS[name](X)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0)


def test_softmax_is_a_distribution_over_the_last_axis() -> None:
    expected = torch.tensor([[math.exp(x) / sum(map(math.exp, row)) for x in row] for row in X.tolist()])
    torch.testing.assert_close(registry.ACTIVATIONS["softmax"](X).float(), expected.float())
    assert registry.ACTIVATIONS["softmax"](X + 1000).isfinite().all()


@pytest.mark.parametrize("name", registry.ACTIVATIONS)
def test_a_feed_forward_can_have_any_of_them(name: str) -> None:
    layer = make_feed_forward(name, 4, 8, bias=True, dropout=0.0)
    x = torch.randn(2, 3, 4)
    hidden = registry.ACTIVATIONS[name](x @ layer.up.weight.T + layer.up.bias)  # type: ignore[union-attr, operator]
    expected = hidden @ layer.down.weight.T + layer.down.bias  # type: ignore[union-attr, operator]
    torch.testing.assert_close(layer(x), expected)


# ── losses ─────────────────────────────────────────────────────────────────────────────────────

SCORES = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-3.0, 1.0, 4.0], [0.1, 0.2, 0.3]])
CLASSES = torch.tensor([0, 2, 1, 2])
SHARES = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.1, 0.1, 0.8], [0.0, 0.5, 0.5]])
REAL = torch.tensor([1, 0, 0, 1])


def by_softmax(scores: Tensor) -> list[list[float]]:
    return [[math.exp(x) / sum(map(math.exp, row)) for x in row] for row in scores.tolist()]


def expected_cross_entropy() -> list[float]:
    return [-math.log(row[y]) for row, y in zip(by_softmax(SCORES), CLASSES.tolist(), strict=True)]


def expected_mse() -> list[float]:
    return [sum((a - b) ** 2 for a, b in zip(row, other, strict=True)) / 3
            for row, other in zip(SCORES.tolist(), SHARES.tolist(), strict=True)]  # fmt: skip


def expected_kl() -> list[float]:
    return [sum(p * math.log(p / q) for p, q in zip(wanted, got, strict=True) if p > 0)
            for wanted, got in zip(SHARES.tolist(), by_softmax(SCORES), strict=True)]  # fmt: skip


def expected_hinge() -> list[float]:
    return [max(0.0, 1 + max(x for i, x in enumerate(row) if i != y) - row[y])
            for row, y in zip(SCORES.tolist(), CLASSES.tolist(), strict=True)]  # fmt: skip


def expected_adversarial() -> list[float]:
    chance = [1 / (1 + math.exp(-x)) for x in SCORES[:, 0].tolist()]
    return [-math.log(p if y else 1 - p) for p, y in zip(chance, REAL.tolist(), strict=True)]


LOSSES: dict[str, tuple[Tensor, Tensor, Callable[[], list[float]]]] = {
    "cross-entropy": (SCORES, CLASSES, expected_cross_entropy),
    "mse": (SCORES, SHARES, expected_mse),
    "kl": (SCORES, SHARES, expected_kl),
    "hinge": (SCORES, CLASSES, expected_hinge),
    "adversarial": (SCORES[:, 0], REAL, expected_adversarial),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_their_formulas_and_fall_along_their_gradient(name: str) -> None:
    scores, targets, expected = LOSSES[name]
    moved = scores.clone().requires_grad_()
    loss = registry.make_loss(name)(moved, targets)
    torch.testing.assert_close(loss.detach(), torch.tensor(expected()), atol=1e-5, rtol=1e-5)
    loss.sum().backward()
    assert moved.grad is not None
    after = registry.make_loss(name)(scores - 0.01 * moved.grad, targets)
    assert float(after.sum()) < float(loss.detach().sum())


def test_hinge_is_torchs_on_one_margin() -> None:
    ours = registry.LOSSES["hinge"](SCORES[:, :2], CLASSES.clamp(max=1))
    theirs = nn.MultiMarginLoss(reduction="none")(SCORES[:, :2], CLASSES.clamp(max=1))
    torch.testing.assert_close(ours, 2 * theirs)  # torch divides by the number of classes


def test_a_sure_discriminator_still_trains_the_generator() -> None:
    """Goodfellow's reason for the non-saturating form: log(1 − D) has no slope where D is near zero."""
    made = torch.tensor([-20.0], requires_grad=True)
    registry.LOSSES["adversarial"](made, torch.ones(1)).backward()
    assert float(made.grad) == pytest.approx(-1.0)  # type: ignore[arg-type]
    saturating = torch.tensor([-20.0], requires_grad=True)
    (-registry.LOSSES["adversarial"](saturating, torch.zeros(1))).backward()
    assert abs(float(saturating.grad)) < 1e-8  # type: ignore[arg-type]


# ── initialisations ────────────────────────────────────────────────────────────────────────────

O, I = 300, 200  # noqa: E741
DRAWN: dict[str, tuple[float, float | None]] = {  # deviation, and bound where there is one
    "uniform": (1 / math.sqrt(3 * I), 1 / math.sqrt(I)),
    "normal": (0.02, None),
    "xavier-uniform": (math.sqrt(2 / (I + O)), math.sqrt(6 / (I + O))),
    "xavier-normal": (math.sqrt(2 / (I + O)), None),
    "kaiming": (math.sqrt(2 / I), None),
}


def drawn(name: str, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    layer = nn.Linear(I, O)
    with torch.no_grad():
        layer.bias.fill_(7.0)
    registry.initialise(layer, name)
    return layer


@pytest.mark.parametrize("name", DRAWN)
def test_initialisations_have_their_spread(name: str) -> None:
    deviation, bound = DRAWN[name]
    weight = drawn(name).weight.detach()
    assert float(weight.std()) == pytest.approx(deviation, rel=0.02)
    assert abs(float(weight.mean())) < 4 * deviation / math.sqrt(O * I)
    if bound is None:
        inside = float((weight.abs() < deviation).float().mean())
        assert inside == pytest.approx(0.6827, abs=0.01)  # one deviation of a normal
    else:
        assert 0.99 * bound < float(weight.abs().max()) <= bound
    assert torch.equal(drawn(name).weight, weight)
    assert not torch.equal(drawn(name, seed=1).weight, weight)


def test_orthogonal_and_zeros() -> None:
    weight = drawn("orthogonal").weight.detach()
    torch.testing.assert_close(weight.T @ weight, torch.eye(I), atol=1e-5, rtol=0)
    assert not drawn("zeros").weight.any()


@pytest.mark.parametrize("name", registry.INITIALISATIONS)
def test_vectors_keep_their_values(name: str) -> None:
    assert (drawn(name).bias == 7.0).all()


SMALL = {"vocab_size": 9, "n_layer": 1, "n_head": 2, "d_model": 8, "context_length": 6}


def test_pretrained_weights_are_copied_and_the_others_named() -> None:
    torch.manual_seed(1)
    teacher, pupil = build("decoder", SMALL), build("decoder", SMALL)
    known = {name: value for name, value in teacher.state_dict().items() if "head" not in name}
    kept = registry.load_pretrained(pupil, known)
    assert set(kept) == set(teacher.state_dict()) - set(known)
    assert all(torch.equal(pupil.state_dict()[name], value) for name, value in known.items())
    registry.load_pretrained(pupil, teacher.state_dict())
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(pupil(ids), teacher(ids))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"wieght": torch.zeros(3, 2)}, ("unknown_name", "'wieght'", "'weight'")),
        (
            {"bias": torch.ones(3), "weight": torch.zeros(2, 3)},
            ("weights_mismatch", "weight", "2", "3"),
        ),
    ],
)
def test_pretrained_weights_that_do_not_fit_change_nothing(
    weights: dict[str, Tensor], message: tuple[str, ...]
) -> None:
    layer = nn.Linear(2, 3)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    with raises(UsageError, *message):
        registry.load_pretrained(layer, weights)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


# ── normalisations ─────────────────────────────────────────────────────────────────────────────

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "layer": lambda width: nn.LayerNorm(width),
    "rms": lambda width: nn.RMSNorm(width, eps=1e-6),
    "batch": lambda width: nn.BatchNorm1d(width),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("training", [True, False])
def test_norms_are_torchs(name: str, training: bool) -> None:
    ours, theirs = make_norm(name, 5), NORMS[name](5)
    for norm in (ours, theirs):
        torch.manual_seed(3)
        for parameter in norm.parameters():
            nn.init.normal_(parameter)
        for _ in range(3):
            norm(torch.randn(8, 5) * 2 + 1)  # a batch norm keeps what it sees
        norm.train(training)
    x = torch.randn(4, 7, 5)
    torch.testing.assert_close(ours(x), theirs(x.view(-1, 5)).view(4, 7, 5))
    torch.testing.assert_close(ours(x.bfloat16()).float(), ours(x), atol=0.05, rtol=0.05)


def test_a_batch_norm_keeps_what_it_has_seen_in_its_state() -> None:
    norm = make_norm("batch", 3)
    for _ in range(200):
        norm(torch.randn(50, 3) * 2 + 5)
    torch.testing.assert_close(norm.state_dict()["running_mean"], torch.full((3,), 5.0), atol=0.3, rtol=0)
    torch.testing.assert_close(norm.state_dict()["running_variance"], torch.full((3,), 4.0), atol=0.6, rtol=0)


# ── optimisers ─────────────────────────────────────────────────────────────────────────────────

Memory = dict[str, float]


def momentum(w: float, g: float, m: Memory) -> float:
    m["v"] = 0.9 * m.get("v", 0.0) + g
    return w - 0.1 * m["v"]


def nesterov(w: float, g: float, m: Memory) -> float:
    m["v"] = 0.9 * m.get("v", 0.0) + g
    return w - 0.1 * (g + 0.9 * m["v"])


def adagrad(w: float, g: float, m: Memory) -> float:
    m["s"] = m.get("s", 0.0) + g * g
    return w - 0.1 * g / (math.sqrt(m["s"]) + 1e-10)


def rmsprop(w: float, g: float, m: Memory) -> float:
    m["s"] = 0.99 * m.get("s", 0.0) + 0.01 * g * g
    return w - 0.1 * g / (math.sqrt(m["s"]) + 1e-8)


def adam(w: float, g: float, m: Memory) -> float:
    m["t"] = m.get("t", 0) + 1
    m["m"] = 0.8 * m.get("m", 0.0) + 0.2 * g
    m["s"] = 0.95 * m.get("s", 0.0) + 0.05 * g * g
    return w - 0.1 * (m["m"] / (1 - 0.8 ** m["t"])) / (math.sqrt(m["s"] / (1 - 0.95 ** m["t"])) + 1e-8)


STEPS: dict[str, Callable[[float, float, Memory], float]] = {
    "sgd": lambda w, g, m: w - 0.1 * g,
    "momentum": momentum,
    "nesterov": nesterov,
    "adagrad": adagrad,
    "rmsprop": rmsprop,
    "adam": adam,
    "adamw": lambda w, g, m: adam(w - 0.1 * 0.3 * w, g, m),
}


@pytest.mark.parametrize("name", STEPS)
def test_optimisers_take_the_textbooks_steps(name: str) -> None:
    """Down the slope of Σ c w²/2, twenty steps, one number at a time."""
    start, curve = [3.0, -1.5, 0.2], [1.0, 0.3, 2.0]
    settings = OptimSettings(optimiser=name, rate=0.1, momentum=0.9, beta1=0.8, beta2=0.95, weight_decay=0.3)
    weight = nn.Parameter(torch.tensor([start]))  # a matrix: what adamw lets decay
    optimisers = make_optimisers({"all": [weight]}, settings)
    expected, memories = list(start), [Memory() for _ in start]
    for _ in range(20):
        weight.grad = torch.tensor([curve]) * weight.detach()
        set_rates(optimisers, 1.0)
        optimisers["all"].step()
        for i, c in enumerate(curve):
            expected[i] = STEPS[name](expected[i], c * expected[i], memories[i])
    torch.testing.assert_close(weight.detach(), torch.tensor([expected]), atol=2e-5, rtol=1e-4)


def test_no_two_optimisers_are_one() -> None:
    ends = {}
    for name, take in STEPS.items():
        w, memory = 3.0, Memory()
        for _ in range(5):
            w = take(w, w, memory)
        ends[name] = round(w, 6)
    assert len(set(ends.values())) == len(STEPS)


def test_nesterov_needs_momentum() -> None:
    with raises(UsageError, "incompatible_settings"):
        OptimSettings(optimiser="nesterov", momentum=0)


@pytest.mark.promise("Families", "A run asks for an optimiser and a schedule by name")
@pytest.mark.parametrize("name", ["rmsprop", "adagrad", "nesterov"])
def test_a_run_asks_for_an_optimiser_by_name(name: str, corpus: Path, tmp_path: Path) -> None:
    settings = ["model.n_layer=1", "model.d_model=16", "model.n_head=2"]
    options = [f"optim.optimiser={name}", "optim.rate=0.005", "optim.schedule=exponential"]
    run = train(corpus, tokenizer="char", steps=20, overrides=[*settings, *options], out=tmp_path / name)
    losses = [line["loss"] for line in training_log(run.path / "log.jsonl") if "loss" in line]
    assert losses[-1] < losses[0]


# ── schedules ──────────────────────────────────────────────────────────────────────────────────

N = 100
WARM = 10


def torchs(make: Callable[[torch.optim.Optimizer], Any]) -> list[float]:
    """The factors of one of torch's schedulers."""
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, results = make(optimiser), []
    for _ in range(N):
        results.append(scheduler.get_last_lr()[0])
        optimiser.step()
        scheduler.step()
    return results


torch_schedules = torch.optim.lr_scheduler
DECAYS: dict[str, Callable[[], list[float]]] = {
    "constant": lambda: [1.0] * N,
    "linear": lambda: torchs(lambda o: torch_schedules.LinearLR(o, 1.0, 0.0, total_iters=N)),
    "cosine": lambda: torchs(lambda o: torch_schedules.CosineAnnealingLR(o, T_max=N)),
    "step": lambda: torchs(lambda o: torch_schedules.MultiStepLR(o, [40, 70], gamma=0.1)),
    "exponential": lambda: torchs(lambda o: torch_schedules.ExponentialLR(o, gamma=0.01 ** (1 / N))),
    "inverse-sqrt": lambda: [min((s + 1) ** -0.5, (s + 1) * WARM**-1.5) * WARM**0.5 for s in range(N)],
}


@pytest.mark.parametrize("name", DECAYS)
def test_schedules_are_torchs_after_the_warm_up(name: str) -> None:
    schedule = Schedule(OptimSettings(schedule=name, warmup=WARM, decay=0.6), N)
    expected = DECAYS[name]()
    got = [schedule.factor(step) for step in range(N)]
    assert got[WARM:] == pytest.approx(expected[WARM:], rel=1e-6)
    if name != "inverse-sqrt":  # Noam's formula has its own
        expected = [value * min(1.0, (step + 1) / WARM) for step, value in enumerate(expected)]
    assert got == pytest.approx(expected, rel=1e-6)


# ── words ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: registry.make_loss("crossentropy"),
            ("unknown_name", "'crossentropy'", "'cross-entropy'"),
        ),
        (
            lambda: registry.initialise(nn.Linear(2, 2), "xavier"),
            ("unknown_name", "'xavier'"),
        ),
        (lambda: make_norm("bach", 3), ("unknown_name", "'bach'", "'batch'")),
        (lambda: make_feed_forward("sigmod", 2, 2, bias=False, dropout=0), ("unknown_name", "'sigmoid'")),
        (lambda: apply_overrides(OptimSettings(), ["optimiser=rmsporp"]), ("unknown_name", "'rmsprop'")),
    ],
)
def test_wrong_names_are_reported_with_the_nearest(
    call: Callable[[], object], message: tuple[str, ...]
) -> None:
    with raises(UsageError, *message):
        call()

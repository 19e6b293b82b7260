"""The GAN: its gradients are those of what it plays for, its parts take turns, and it is its generator otherwise.

The contract is asked in test_contract.py. The policy gradient is compared with the exact one, over every text of a
generator so small that all can be written down. Shapes: B rows, T time, V vocabulary.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from corpora import sentences
from raising import raises
from torch import Tensor

import textus
from benchmarks.gan import self_bleu
from textus import tokenizers
from textus.core.console import cpu_seconds
from textus.core.errors import UsageError
from textus.data.batch import Batch
from textus.data.loader import TokenLoader
from textus.data.token_dataset import in_memory_dataset
from textus.models.contract import LanguageModel, Loss
from textus.models.gan import GAN, GANConfig, policy_loss, straight_through, until_eos_mask
from textus.models.registry import build
from textus.runs.store import create_run
from textus.training.autotune import affordable
from textus.training.gradients import Backward, GradientAccumulator
from textus.training.optim import OptimSettings, make_optimisers
from textus.training.trainer import TrainSettings, fit

END, T = 0, 3
SMALL: dict[str, Any] = {
    "vocab_size": 3, "end_id": END, "context_length": 8, "d_model": 6, "d_critic": 4, "dropout": 0.1,
    "warmup_steps": 2, "critic_steps": 1, "critic_ratio": 2, "rollout_every": 1, "anneal_steps": 10,
}  # fmt: skip
EVERY = torch.tensor(list(product(range(3), repeat=T)))  # (27, T), some with ids after their end


def made(seed: int = 0, **config: Any) -> GAN:
    torch.manual_seed(seed)
    model = build("gan", {**SMALL, **config})
    assert isinstance(model, GAN)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.4 * torch.randn_like(parameter)
    return model


def texts() -> Tensor:
    """Every text of at most T ids, end ids after its end: (15, T)."""
    ended = EVERY.masked_fill(~until_eos_mask(EVERY, END), END)
    return torch.unique(ended, dim=0)


def logs_of(model: GAN, ids: Tensor) -> Tensor:
    """log π of every id (B, T) after the start id."""
    start = torch.cat([torch.full((len(ids), 1), END), ids[:, :-1]], 1)
    logs = model.logits(model.read_states(model.embedding(start), None)[0]).log_softmax(-1)
    return logs.gather(2, ids[..., None])[..., 0]


def likelihood(model: GAN, ids: Tensor) -> Tensor:
    return (logs_of(model, ids) * until_eos_mask(ids, END)).sum(1).exp()


def reward(model: GAN, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.sigmoid(model.critic(ids, until_eos_mask(ids, END)))


def gradient(model: GAN, total: Tensor) -> Tensor:
    group = model.parameter_groups()["generator"]
    result = torch.autograd.grad(total, group, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(group, result, strict=True)]
    )


def exact_values(model: GAN) -> Tensor:
    """The exact value of every text's every prefix: (15, T)."""
    every = texts()
    p, r = likelihood(model, every).detach(), reward(model, every)
    same = [(every[:, None, : t + 1] == every[None, :, : t + 1]).all(2).float() for t in range(T)]
    return torch.stack([(item @ (p * r)) / (item @ p) for item in same], 1)


# ── policy gradient ────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Families",
    "The policy gradient is the exact one in expectation, with rollout values and baseline; a biased "
    "baseline is caught",
)
@pytest.mark.parametrize("how", ["the whole text's reward", "exact values of prefixes"])
def test_the_expected_policy_gradient_is_the_exact_one(how: str) -> None:
    model = made().eval()
    every = texts()
    p = likelihood(model, every)
    assert float(p.detach().sum()) == pytest.approx(1, abs=1e-5)
    exact = gradient(model, -(p * reward(model, every)).sum())
    whole = reward(model, every)[:, None].expand(-1, T)
    values = whole if how.startswith("the whole") else exact_values(model)
    expected = torch.zeros_like(exact)
    for n, ids in enumerate(every):
        one = ids[None]
        loss = policy_loss(logs_of(model, one), values[n : n + 1], until_eos_mask(one, END))
        expected += float(p[n].detach()) * gradient(model, loss)
    torch.testing.assert_close(expected, exact, atol=1e-6, rtol=1e-4)


def pairs_gradient(model: GAN, loss: Any = policy_loss) -> tuple[Tensor, Tensor]:
    """Expected gradient over every batch of two texts, and the exact one."""
    every = texts()
    p = likelihood(model, every)
    exact = gradient(model, -(p * reward(model, every)).sum())
    values = reward(model, every)[:, None].expand(-1, T)
    total = torch.zeros(())
    for a, b in product(range(len(every)), repeat=2):
        both = torch.tensor([a, b])
        alive = until_eos_mask(every[both], END)
        total = total + (p[a] * p[b]).detach() * loss(logs_of(model, every[both]), values[both], alive) / 2
    return gradient(model, total), exact


def test_the_other_rows_as_baseline_change_no_expectation() -> None:
    result, exact = pairs_gradient(made().eval())
    torch.testing.assert_close(result, exact, atol=1e-6, rtol=1e-4)


def test_a_baseline_that_knows_its_own_row_is_caught() -> None:
    def biased(logs: Tensor, values: Tensor, alive: Tensor) -> Tensor:
        return -((values - values.mean(0)) * logs * alive).sum()

    result, exact = pairs_gradient(made().eval(), biased)
    assert (result - exact).abs().max() > 0.1 * exact.abs().max()


def test_rollouts_are_worth_what_the_prefix_is() -> None:
    """Monte-Carlo values of each prefix, against the exact ones, within four standard errors of the worst case."""
    model = made(rollouts=4000).eval()
    every = texts()
    drawn = torch.cat([torch.full((len(every), 1), END), every], 1)
    values = model.values(drawn, torch.Generator().manual_seed(0))
    torch.testing.assert_close(values, exact_values(model), atol=4 * 0.5 / math.sqrt(4000), rtol=0)
    torch.testing.assert_close(values[:, -1], reward(model, every))


def test_stretches_share_the_value_of_their_end() -> None:
    model = made(rollout_every=2, rollouts=5).eval()
    drawn = torch.cat([torch.zeros(15, 1, dtype=torch.long), texts()], 1)
    values = model.values(drawn, torch.Generator().manual_seed(0))
    torch.testing.assert_close(values[:, 0], values[:, 1])
    assert not torch.equal(values[:, 1], values[:, 2])


# ── drawing ────────────────────────────────────────────────────────────────────────────────────


def test_texts_are_drawn_with_their_probabilities() -> None:
    model = made().eval()
    every = texts()
    p = likelihood(model, every).detach()
    start = torch.full((20_000, 1), END)
    drawn = model.complete(start, T, torch.Generator().manual_seed(0))[:, 1:]
    assert until_eos_mask(drawn, END).shape == drawn.shape
    for ids, wanted in zip(every, p, strict=True):
        share = float((drawn == ids).all(1).float().mean())
        assert share == pytest.approx(float(wanted), abs=4 * math.sqrt(float(wanted) / 20_000) + 1e-4)


def test_samples_end_before_the_end_id_and_follow_the_seed() -> None:
    model = made().eval()
    rows = model.sample(50, seed=1)
    assert END not in {id for row in rows for id in row}
    assert max(map(len, rows)) <= 8
    assert rows == model.sample(50, seed=1) != model.sample(50, seed=2)
    assert len({tuple(row) for row in model.sample(50, temperature=1e-4, max_tokens=4)}) == 1


def test_straight_through_is_one_id_forwards_and_soft_backwards() -> None:
    logits = torch.tensor([[0.5, -1.0, 2.0]]).repeat(20_000, 1).requires_grad_()
    one = straight_through(logits, 0.5, torch.Generator().manual_seed(0))
    assert one.shape == logits.shape
    assert torch.equal(one.detach().round(), one.detach().clamp(0, 1).round())
    torch.testing.assert_close(one.sum(1), torch.ones(20_000))
    torch.testing.assert_close(one.mean(0), logits[0].softmax(0), atol=0.015, rtol=0)
    one[:, 0].sum().backward()
    assert logits.grad is not None
    assert (logits.grad[:, 0] > 0).any()
    torch.testing.assert_close(logits.grad.sum(1), torch.zeros(20_000), atol=1e-5, rtol=0)


def test_the_critic_reads_soft_texts_like_ids_and_nothing_after_the_end() -> None:
    model = made().eval()
    ids = torch.tensor([[1, 2, 0, 0], [2, 2, 1, 0]])
    alive = until_eos_mask(ids, END)
    soft = torch.nn.functional.one_hot(ids, 3).float()
    torch.testing.assert_close(model.critic(ids, alive), model.critic(soft, alive))
    longer = torch.cat([ids, torch.full((2, 3), 2)], 1)
    torch.testing.assert_close(model.critic(longer, until_eos_mask(longer, END)), model.critic(ids, alive))


def test_the_gumbel_temperature_comes_down() -> None:
    model = made(temperature=0.25)
    results = [model.gumbel_temperature(step) for step in (0, 3, 8, 13, 99)]
    assert results == pytest.approx([1, 1, 0.5, 0.25, 0.25])


# ── turns ──────────────────────────────────────────────────────────────────────────────────────

STORE = in_memory_dataset([0, 1, 2, 2, 0, 1, 1, 0, 2, 1, 2, 0, 2, 2, 0] * 4, [0, 4, 7, 11])
SETTINGS = TrainSettings(
    steps=9, batch_size=4, context_length=8, log_every=1, optim=OptimSettings(optimiser="adamw", rate=0.01)
)


def moved(model: GAN, before: dict[str, Tensor]) -> set[str]:
    """The groups whose weights are not what they were."""
    names = {name: "critic" if name.startswith("critic.") else "generator" for name in before}
    return {names[name] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def played(tmp_path: Path, model: GAN, backward: Backward) -> list[set[str]]:
    """Train by `fit`; which groups each step moved."""
    tokenizer = tokenizers.train("char", ["ab"])
    record = {"family": "gan", "config": {}, "settings": {}, "compute": {}, "corpus": None}
    kept = {"fingerprint": tokenizer.fingerprint, "kind": tokenizer.kind}
    run = create_run(tmp_path / "run", {**record, "tokenizer": kept}, tokenizer)
    results: list[set[str]] = []
    last = {name: value.clone() for name, value in model.state_dict().items()}

    def watching(model: LanguageModel, batch: Batch, step: int) -> tuple[Loss, Any]:
        nonlocal last
        assert isinstance(model, GAN)
        if step:
            results.append(moved(model, last))
        last = {name: value.clone() for name, value in model.state_dict().items()}
        return backward(model, batch, step)

    loader = TokenLoader(STORE, batch_size=4, context_length=8)
    fit(model, loader, settings=SETTINGS, run=run, backward=watching)
    return [*results, moved(model, last)]


TURNS = ["generator", "generator", "critic", "critic", "critic", "generator", "critic", "critic", "generator"]


@pytest.mark.promise("Families", "A GAN's budget is planned by what each turn takes, and kept")
@pytest.mark.parametrize("warm_up", [0, 3])
@pytest.mark.parametrize("critic", [0, 2])
@pytest.mark.parametrize("ratio", [1, 3])
def test_turns_are_counted_by_their_kind(warm_up: int, critic: int, ratio: int) -> None:
    model = made(warmup_steps=warm_up, critic_steps=critic, critic_ratio=ratio)
    for steps in range(20):
        played = Counter(model.step_kind(step) for step in range(steps))
        assert Counter({model.step_kind(at): n for at, n in model.step_schedule(steps).items()}) == played


@pytest.mark.promise("Families", "With `backward`, only the named groups move")
@pytest.mark.parametrize("method", ["policy", "gumbel"])
def test_only_the_one_whose_turn_it_is_moves(tmp_path: Path, method: str) -> None:
    assert played(tmp_path, made(method=method), GAN.backward) == [{name} for name in TURNS]
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [("critic" in line, "reward" in line) for line in log][:6] == [
        (False, False), (False, False), (True, False), (True, False), (True, False), (False, True),
    ]  # fmt: skip


def test_a_step_that_moves_both_is_caught(tmp_path: Path) -> None:
    def both(model: LanguageModel, batch: Batch, step: int) -> tuple[Loss, list[str]]:
        loss, _ = model.backward(batch, step)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        return loss, ["generator", "critic"]

    assert {"generator", "critic"} in played(tmp_path, made(), both)


def test_gradients_of_a_group_not_named_move_nothing(tmp_path: Path) -> None:
    def careless(model: LanguageModel, batch: Batch, step: int) -> tuple[Loss, list[str]]:
        loss, names = model.backward(batch, step)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        return loss, list(names)

    assert played(tmp_path, made(), careless) == [{name} for name in TURNS]


def test_the_usual_gradients_through_backward_are_the_usual_training(tmp_path: Path) -> None:
    ends = []
    for name in ("given", "usual"):
        model = made(dropout=0.0)
        gradients = GradientAccumulator(model, 1)
        (tmp_path / name).mkdir()
        played(tmp_path / name, model, gradients.of_all(2 if name == "given" else 1))
        ends.append(model.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name])


def toy(position: int) -> Batch:
    """Texts 1 2 1 2 and 2 1 2 1, which a critic can learn to tell."""
    targets = torch.tensor([[1, 2, 1, 2, 0], [2, 1, 2, 1, 0]]).repeat(16, 1)
    ids = torch.cat([torch.zeros(32, 1, dtype=torch.long), targets[:, :-1]], 1)
    return Batch(ids, targets, torch.ones(32, 5), position=position)


def mean_reward(model: GAN) -> float:
    drawn = model.complete(torch.zeros(400, 1, dtype=torch.long), 5, torch.Generator().manual_seed(0))[:, 1:]
    return float(reward(model.eval(), drawn).mean())


@pytest.mark.parametrize("method", ["policy", "gumbel"])
def test_the_generator_learns_what_the_critic_likes(method: str) -> None:
    model = made(method=method, d_critic=8, d_model=12, rollouts=2)
    optimisers = {name: torch.optim.Adam(group, lr=0.02) for name, group in model.parameter_groups().items()}
    generator = torch.Generator().manual_seed(0)
    losses = []
    for step in range(80):
        rows, name = toy(step), "critic" if step < 40 else "generator"
        if step == 40:
            before = mean_reward(model)
        play = model.critic_loss if name == "critic" else getattr(model, method)
        loss = play(rows, generator)
        losses.append(float(loss.mean.detach()))
        model.zero_grad()
        loss.mean.backward()
        optimisers[name].step()
    rates = make_optimisers(
        model.parameter_groups(), OptimSettings(optimiser="adam", rate=0.1, other_rate=0.2)
    )
    assert [rate.param_groups[0]["lr"] for rate in rates.values()] == [0.1, 0.2]
    assert losses[39] < 0.6 * losses[0]
    assert mean_reward(model) > before + 0.15


def test_self_bleu_is_that_of_sacrebleu_with_all_others_as_references() -> None:
    sacrebleu = pytest.importorskip("sacrebleu.metrics", reason="sacrebleu is not installed (textus[dev])")
    drawn = torch.randint(1, 7, (20, 12), generator=torch.Generator().manual_seed(0)).tolist()
    words = [" ".join(map(str, item)) for item in drawn]
    others = [[words[j] if j < i else words[j + 1] for i in range(20)] for j in range(19)]
    metric = sacrebleu.BLEU(tokenize="none", force=True, smooth_method="none")
    assert self_bleu(drawn) == pytest.approx(metric.corpus_score(words, others).score)


# ── from the outside ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"rollouts": 0}, ("out_of_range", "rollouts", "0")),
        ({"adversarial": -1.0}, ("out_of_range", "adversarial", "-1.0")),
        ({"dropout": 1.0}, ("out_of_range", "1.0")),
        ({"temperature": 0.0}, ("out_of_range", "0.0")),
        ({"method": "gumble"}, ("unknown_name", "'gumbel'")),
        ({"end_id": 3}, ("unknown_id", "3")),
    ],
)
def test_values_out_of_range_are_named(config: dict[str, Any], complaint: tuple[str, ...]) -> None:
    with raises(UsageError, *complaint):
        GANConfig(**{**SMALL, **config})


def test_the_same_step_plays_the_same() -> None:
    model = made().eval()
    gradients = []
    for step in (5, 5, 8):
        torch.manual_seed(3)
        model.backward(replace(toy(step)), step)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameter_groups()["generator"]]))  # type: ignore[union-attr]
    assert torch.equal(gradients[0], gradients[1])
    assert not torch.equal(gradients[0], gradients[2])


def test_it_is_trained_like_any_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = textus.train(
        **sentences(tmp_path), model="gan", out=tmp_path / "run", steps=9,
        overrides=["model.d_model=16", "model.warmup_steps=2", "model.critic_steps=1", "train.batch_size=8"],
    )  # fmt: skip
    log = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    assert any("reward" in line for line in log)
    assert run.record["weights"] == {"step": 9, "why": "last"}
    assert isinstance(run.generate("a", max_tokens=3, seed=1), str)
    assert "never plays" not in capsys.readouterr().err
    textus.train(
        tmp_path / "corpus", model="gan", tokenizer=tmp_path / "tokenizer", out=tmp_path / "short", steps=2,
        overrides=["model.d_model=16", "model.warmup_steps=2"],
    )  # fmt: skip
    assert "the critic never plays" in capsys.readouterr().err


def test_a_budget_is_planned_by_what_each_turn_takes() -> None:
    model = made(warmup_steps=10, critic_steps=4, critic_ratio=1)
    measured = {"cpu_seconds_per_step": 1.3, "cpu_seconds_by_turn": {"0": 0.1, "10": 0.2, "15": 1.0}}
    results = [affordable(model, measured, left) for left in (0.95, 1.0, 1.8, 3.0, 8.1)]
    assert results == [9, 10, 14, 16, 25]  # 10 · 0.1, 4 · 0.2, then 1.2 for two
    assert affordable(model, {}, 8.0) is None


def test_a_preset_keeps_its_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Timed by its likelihood steps alone, as it once was, it would plan several times as many steps as fit."""
    monkeypatch.setattr("textus.core.hardware.usable_cores", lambda: 1)
    started = cpu_seconds()
    run = textus.train(
        **sentences(tmp_path), model="gan", out=tmp_path / "run", preset="3s",
        overrides=["model.d_model=16", "model.warmup_steps=10", "model.critic_steps=10", "train.batch_size=16"],
    )  # fmt: skip
    used = cpu_seconds() - started
    times = run.record["measured"]["cpu_seconds_by_turn"]
    model = run.model
    assert isinstance(model, GAN)
    assert [model.step_kind(int(at)) for at in times] == ["warm-up", "critic", "generator"]
    assert sum(times[str(at)] * n for at, n in model.step_schedule(run.record["steps"]).items()) < 3.0
    assert used < 12  # not a speed: a clock nobody looks at would run much longer


@pytest.mark.parametrize("word", ["compute.workers=2", "train.micro_batches=2"])
def test_its_batches_are_not_divided(tmp_path: Path, word: str) -> None:
    with raises(UsageError, "option_not_applicable", f"--set {word}"):
        textus.train(**sentences(tmp_path), model="gan", out=tmp_path / "run", steps=2, overrides=[word])

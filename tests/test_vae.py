"""The VAE: its bound is one, its latent is used or the collapse is said, and texts come back from latents.

The contract is asked in test_contract.py. Oracles: torch.distributions, torch.nn.GRU, Gauss–Hermite quadrature.
Shapes: B rows, T time, Z latent, N quadrature points.
"""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import sentences
from raising import raises
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import textus
from textus.core.errors import UsageError
from textus.data.batch import Batch
from textus.models.nn.recurrent import Recurrent
from textus.models.nn.vae_modules import RecurrentEncoder, unpack_documents
from textus.models.registry import build
from textus.models.vae import VAE, Gaussian, VAEConfig, active_units

END = 0
SMALL: dict[str, Any] = {
    "vocab_size": 9, "end_id": END, "context_length": 12, "d_model": 16, "n_head": 2, "d_latent": 3,
    "n_draws": 4, "dropout": 0.0, "word_dropout": 0.0, "free_bits": 0.0, "anneal_steps": 0,
}  # fmt: skip
BODIES = ["gru", "transformer"]


def made(shake: float = 0.0, seed: int = 0, **config: Any) -> VAE:
    torch.manual_seed(seed)
    model = build("vae", {**SMALL, **config})
    assert isinstance(model, VAE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += shake * torch.randn_like(parameter)
    return model.eval()


def rows_of(*texts: list[int], **more: Any) -> Batch:
    """Texts one a row, as `BucketLoader` makes them."""
    time = 1 + max(map(len, texts))
    ids, targets = (torch.full((len(texts), time), END) for _ in range(2))
    for row, text in enumerate(texts):
        ids[row, 1 : len(text) + 1] = torch.tensor(text)
        targets[row, : len(text)] = torch.tensor(text)
    real = torch.arange(time) <= torch.tensor([[len(text)] for text in texts])
    return Batch(ids, targets, real.float(), mask=real, **more)


TEXTS = [[1, 2, 3, 4], [5, 6, 8], [8, 7, 6], [2, 4, 6, 8], [3, 1, 5, 2], [7, 1, 3]]
BATCH = rows_of(*TEXTS)


def learnt(steps: int = 150, batch: Batch = BATCH, rate: float = 0.02, **config: Any) -> VAE:
    model = made(**{"anneal_steps": 2 * steps, **config})
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    model.train()
    for step in range(steps):
        optimiser.zero_grad()
        model.loss(replace(batch, position=step)).mean.backward()
        optimiser.step()
    return model.eval()


@pytest.fixture(scope="module")
def good() -> VAE:
    return learnt(d_model=32)


# ── the parts ──────────────────────────────────────────────────────────────────────────────────


def gaussians() -> tuple[Gaussian, Gaussian]:
    torch.manual_seed(1)
    return Gaussian(torch.randn(4, 3), torch.randn(4, 3)), Gaussian(torch.randn(4, 3), torch.randn(4, 3))


def normal(gaussian: Gaussian) -> Normal:
    return Normal(gaussian.mean, (0.5 * gaussian.log_variance).exp())


def test_divergence_and_density_are_those_of_torch_distributions() -> None:
    first, second = gaussians()
    torch.testing.assert_close(first.kl(second), kl_divergence(normal(first), normal(second)))
    z = torch.randn(5, 4, 3)
    torch.testing.assert_close(first.log_density(z), normal(first).log_prob(z).sum(-1))


def test_gradients_pass_through_the_draw() -> None:
    """E z² = μ² + σ², so its slopes are 2 μ and σ² (in log σ²)."""
    mean, log_variance = torch.tensor([[0.7]], requires_grad=True), torch.tensor([[-0.4]], requires_grad=True)
    noise = torch.randn(200_000, 1, 1, generator=torch.Generator().manual_seed(0))
    Gaussian(mean, log_variance).sample(noise).square().mean().backward()
    assert mean.grad is not None
    assert log_variance.grad is not None
    assert float(mean.grad) == pytest.approx(1.4, abs=0.02)
    assert float(log_variance.grad) == pytest.approx(math.exp(-0.4), abs=0.02)


def ragged() -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.randn(4, 7, 6), torch.tensor([7, 3, 1, 5])


def packed_gru(gru: nn.GRU, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    out, state = gru(packed)
    return nn.utils.rnn.pad_packed_sequence(out, batch_first=True)[0], state


def test_the_stack_is_torchs_over_packed_rows() -> None:
    x, lengths = ragged()
    ours, theirs = Recurrent(6, 8, 2), nn.GRU(6, 8, 2, batch_first=True)
    for number, layer in enumerate(ours.layers):
        for name, value in layer.state_dict().items():
            theirs.state_dict()[name.replace("l0", f"l{number}")].copy_(value)
    out, state = ours(x, None, lengths)
    expected, expected_state = packed_gru(theirs, x, lengths)
    real = torch.arange(7) < lengths[:, None]
    torch.testing.assert_close(out[real], expected[real])
    torch.testing.assert_close(state, expected_state)


def test_the_encoder_is_torchs_bidirectional_one() -> None:
    x, lengths = ragged()
    ours = RecurrentEncoder(VAEConfig(vocab_size=9, end_id=0, d_model=6, n_head=1))
    theirs = nn.GRU(6, 3, batch_first=True, bidirectional=True)
    for stack, ending in ((ours.ahead, ""), (ours.behind, "_reverse")):
        for name, value in stack.layers[0].state_dict().items():
            theirs.state_dict()[name + ending].copy_(value)
    real = torch.arange(7) < lengths[:, None]
    torch.testing.assert_close(ours(x, real)[real], packed_gru(theirs, x, lengths)[0][real])


def test_packed_documents_are_taken_apart() -> None:
    ids = torch.tensor([[0, 1, 2, 0, 3, 4], [5, 0, 6, 7, 0, 0]])
    documents = torch.tensor([[0, 0, 0, 1, 1, 1], [1, 2, 2, 2, 2, 0]])
    mask = torch.tensor([[True] * 6, [True] * 5 + [False]])
    batch = Batch(ids, ids + 1, mask.float(), documents=documents, mask=mask)
    rows, places = unpack_documents(batch)
    assert rows.mask is not None
    assert places is not None
    texts = [row[real].tolist() for row, real in zip(rows.ids, rows.mask, strict=True)]
    assert texts == [[0, 1, 2], [0, 3, 4], [5], [0, 6, 7, 0], []]
    assert float(rows.weights.sum()) == 11


# ── the bound ──────────────────────────────────────────────────────────────────────────────────

POINTS, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
GRID = torch.tensor(POINTS, dtype=torch.float32)
SHARE = torch.tensor(WEIGHTS / WEIGHTS.sum(), dtype=torch.float32)
EVERY = rows_of(*(list(text) for text in product((1, 2), repeat=3)))
EVERY.weights[:, -1] = 0  # texts of three ids of a vocabulary of three, not their end
EVERY_TEXT = list(product((0, 1, 2), repeat=3))


def nats_at(model: VAE, batch: Batch, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Nats of each text told from the posterior's point at noise (B, 1), and its KL: (B,) each."""
    real = torch.ones_like(batch.ids, dtype=torch.bool)
    hidden, kl = model._decoder_states(batch, batch.ids, real, noise)
    logs = (hidden @ model._head().T).log_softmax(-1)
    report = -logs.gather(2, batch.targets[..., None])[..., 0]
    return (report * batch.weights).sum(1), kl.sum(1)


@torch.no_grad()
def bounds(model: VAE) -> tuple[Tensor, Tensor]:
    """The exact expected −ELBO and the exact −log p(x) of every text of three ids, by quadrature: (27,) each."""
    targets = torch.tensor(EVERY_TEXT)
    ids = torch.cat([torch.zeros(27, 1, dtype=torch.long), targets[:, :-1]], 1)
    batch = Batch(ids, targets, torch.ones(27, 3))
    elbo = (
        sum(
            share * nats_at(model, batch, noise.expand(27, 1))[0]
            for noise, share in zip(GRID, SHARE, strict=True)
        )
        + nats_at(model, batch, torch.zeros(27, 1))[1]
    )
    likelihood = torch.zeros(27)
    for z, share in zip(GRID, SHARE, strict=True):
        hidden = model.decoder(model.embedding(ids), z.expand(27, 1))
        logs = (hidden @ model._head().T).log_softmax(-1).gather(2, targets[..., None])[..., 0]
        likelihood += share * logs.sum(1).exp()
    assert isinstance(elbo, Tensor)
    return elbo, -likelihood.log()


@pytest.fixture(scope="module")
def one_dimensional() -> VAE:
    """Texts told by one number, so that integrals over it can be computed."""
    texts = rows_of([1, 1], [2, 2], [1, 1], [2, 1])
    return learnt(80, batch=texts, vocab_size=3, d_latent=1, d_model=8, n_head=1, anneal_steps=0)


def check_bound(model: VAE) -> None:
    """−ELBO is never below −log p(x), and not above it by much more than need be."""
    elbo, exact = bounds(model)
    assert float((-exact).exp().sum()) == pytest.approx(1, abs=1e-3)
    assert (elbo >= exact - 1e-4).all()


@pytest.mark.promise(
    "Families", "A VAE's score is a bound: never below −log p(x), by quadrature; a broken KL is caught"
)
def test_the_bound_is_one_by_quadrature(one_dimensional: VAE) -> None:
    check_bound(one_dimensional)


def test_a_bound_that_is_none_is_caught(one_dimensional: VAE, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Gaussian.kl
    monkeypatch.setattr(Gaussian, "kl", lambda self, prior: 0.1 * whole(self, prior))
    with pytest.raises(AssertionError):
        check_bound(one_dimensional)


def widened(model: VAE, factor: float) -> VAE:
    """The model with posteriors so many times as wide. Where they were the true ones, each is then
    KL = ½ (factor² − 1) − log factor from it; where they were not, about as much more.
    """
    wide = copy.deepcopy(model)
    with torch.no_grad():
        wide.posterior.bias[1:] += 2 * math.log(factor)  # type: ignore[index, operator, union-attr]
    return wide


def test_more_samples_bring_the_bound_to_the_likelihood(one_dimensional: VAE) -> None:
    """The gap of posteriors twice too wide is by theory 0.8 nats; it falls as samples grow, to nothing."""
    targets = torch.tensor(EVERY_TEXT)
    ids = torch.cat([torch.zeros(27, 1, dtype=torch.long), targets[:, :-1]], 1)
    batch = Batch(ids, targets, torch.ones(27, 3))
    model = widened(one_dimensional, 2.0)
    elbo, exact = bounds(model)
    share = (-exact).exp()

    def gaps(n_samples: int, n_seeds: int) -> tuple[float, float]:
        """The bound's mean distance from the likelihood over texts and seeds, and five standard errors of it."""
        with torch.no_grad():
            drawn = torch.stack([model.bound(batch, n_samples, seed) for seed in range(n_seeds)])
        item = (share * (drawn - exact)).sum(1)
        return float(item.mean()), 5 * float(item.std()) / math.sqrt(n_seeds)

    (one, one_error), (many, many_error) = gaps(1, 200), gaps(200, 10)
    assert one == pytest.approx(float((share * (elbo - exact)).sum()), abs=one_error)
    assert one - one_error > 0.4
    assert many_error < 0.1
    assert many == pytest.approx(0, abs=many_error + 0.8 / 200)  # the gap falls about as 1 / samples


def test_the_score_is_of_the_same_bound_whatever_the_neighbours(good: VAE) -> None:
    with torch.no_grad():
        nats, kind = good.score(BATCH)
        turned, _ = good.score(rows_of(*TEXTS[::-1]))
        single = good.bound(BATCH, 200)
    assert kind == "bound"
    torch.testing.assert_close(nats.sum(1), turned.sum(1).flip(0))
    assert float(single.mean()) <= float(nats.sum(1).mean()) + 0.5
    with raises(UsageError, "incompatible_settings"):
        good.bound(replace(BATCH, documents=torch.zeros_like(BATCH.ids)))


# ── the objective ──────────────────────────────────────────────────────────────────────────────


def objective(model: VAE, **batch: Any) -> tuple[float, float, float]:
    """What training makes small, its reconstruction and its KL."""
    loss = model.train().loss(replace(BATCH, **batch))
    model.eval()
    return float(loss.total.detach()), loss.parts["reconstruction"], loss.parts["kl"]


@pytest.mark.parametrize(("step", "weight"), [(0, 0.0), (5, 0.25), (20, 1.0), (90, 1.0)])
def test_the_divergence_is_annealed(step: int, weight: float) -> None:
    total, report, kl = objective(made(0.3, anneal_steps=20), position=step)
    assert total == pytest.approx(report + weight * kl, rel=1e-5)
    assert kl > 1


def test_free_bits_cost_nothing_and_push_nothing() -> None:
    model = made(0.1, free_bits=5.0)
    total, report, kl = objective(model)
    assert kl < 5 * 3 * len(TEXTS)
    assert total == pytest.approx(report + 5 * 3 * len(TEXTS), rel=1e-5)
    rows, _ = unpack_documents(BATCH)
    posterior = model._posterior(rows.targets, BATCH.weights > 0, None)
    posterior.kl(Gaussian(torch.zeros(()), torch.zeros(()))).clamp(min=5.0).sum().backward()
    assert not model.posterior.weight.grad.any()  # type: ignore[union-attr]


def test_hidden_words_are_hidden_from_the_decoder_only() -> None:
    changed = replace(BATCH, ids=torch.where(BATCH.ids > 0, (BATCH.ids % 8) + 1, 0))
    blind, seeing = made(0.3, word_dropout=0.999), made(0.3)
    for model, same in ((blind, True), (seeing, False)):
        texts = [model.train().loss(batch).parts["reconstruction"] for batch in (BATCH, changed)]
        assert (texts[0] == texts[1]) is same


def test_noise_follows_from_seed_step_and_piece() -> None:
    model = made(0.3, word_dropout=0.3)
    torch.manual_seed(5)
    first = objective(model)
    torch.rand(9)  # what was drawn before does not matter
    assert objective(model) == first
    assert objective(model, position=1) != first
    assert objective(model, piece=1) != first
    torch.manual_seed(6)
    assert objective(model) != first


# ── what the latent tells ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("body", BODIES)
def test_texts_come_back_from_their_latents(body: str) -> None:
    model = learnt(300, d_model=32, body=body)
    assert model.reconstruct(BATCH.targets, BATCH.weights.sum(1).long()) == TEXTS


def test_padding_changes_nothing(good: VAE) -> None:
    alone = [good.encode(torch.tensor([[*text, END]]))[0] for text in TEXTS]
    together, _ = good.encode(BATCH.targets, BATCH.weights.sum(1).long())
    torch.testing.assert_close(together, torch.cat(alone))


def test_the_way_between_two_texts_ends_in_them(good: VAE) -> None:
    first, second = (torch.tensor([*TEXTS[n], END]) for n in (0, 3))
    way = good.interpolate(first, second, 5)
    assert [way[0], way[-1]] == [TEXTS[0], TEXTS[3]]
    assert len(way) == 5
    with raises(UsageError, "out_of_range"):
        good.interpolate(first, second, 1)


def test_samples_are_of_the_seed_and_like_the_texts(good: VAE) -> None:
    assert good.sample(20, seed=1) == good.sample(20, seed=1) != good.sample(20, seed=2)
    assert len({tuple(item) for item in good.sample(60, temperature=0.0) if item in TEXTS}) >= 3
    assert max(map(len, made(1.0).sample(20))) <= SMALL["context_length"]


def test_active_units_are_counted_by_their_variance() -> None:
    means = torch.stack(
        [torch.linspace(-1, 1, 9), 0.09 * torch.tensor([1.0, -1] * 4 + [1]), torch.ones(9)], 1
    )
    assert active_units(means) == 1
    assert active_units(2 * means) == 2


@pytest.mark.promise("Families", "A collapsed latent is reported, and only a collapsed one")
def test_a_collapse_is_reported_and_only_a_collapse(good: VAE) -> None:
    result = good.validation_metrics([BATCH, BATCH])
    assert result["active_units"] > 0
    assert result["kl_per_text"] > 1
    assert good.diagnose(result) is None
    assert good.diagnose({}) is None
    collapsed = made()
    nn.init.zeros_(collapsed.posterior.weight)
    result = collapsed.validation_metrics([BATCH])
    assert result == {"kl_per_text": 0.0, "active_units": 0}
    assert "the latent has collapsed (KL 0.000 nats a text, 0 of 3" in str(collapsed.diagnose(result))


# ── as a language model ────────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Families", "A VAE's forward is the mixture of its draws; interpolation ends in the two texts"
)
@pytest.mark.parametrize("body", BODIES)
def test_forward_is_the_mixture_of_the_draws(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(0.5, body=body)
    with torch.no_grad():
        ids = torch.tensor([[0, 3, 1, 4, 1], [2, 2, 8, 0, 0]])
        alone = []
        for z in model.draws:
            logs = (model.decoder(model.embedding(ids), z.expand(2, -1)) @ model._head().T).log_softmax(-1)
            alone.append(logs[:, :-1].gather(2, ids[:, 1:, None])[..., 0].sum(1))
        expected = torch.logsumexp(torch.stack(alone), 0) - math.log(len(alone))
        result = model(ids)
        torch.testing.assert_close(result[:, :-1].gather(2, ids[:, 1:, None])[..., 0].sum(1), expected)
        monkeypatch.setattr("textus.models.vae.LOGITS", 2 * 4 * 9 * 2)  # two positions at a time
        torch.testing.assert_close(model(ids), result)


# ── with a source ──────────────────────────────────────────────────────────────────────────────

SOURCES = torch.tensor([[1, 1, 0, 0], [2, 0, 0, 0], [3, 4, 5, 0], [6, 6, 0, 0], [7, 0, 0, 0], [8, 1, 0, 0]])


def test_a_source_decides_the_text() -> None:
    model = learnt(120, batch=replace(BATCH, source=SOURCES), d_model=32, conditional=True)
    cache = model.new_cache(6, 12, source=SOURCES)
    ids, report = torch.zeros(6, 1, dtype=torch.long), []
    with torch.no_grad():
        for _ in range(4):
            ids = model(ids, cache)[:, -1:].argmax(-1)
            report.append(ids)
    assert [text[0] for text in TEXTS] == report[0][:, 0].tolist()
    assert model.decode(torch.zeros(6, 3), source=SOURCES)[1] == TEXTS[1]


def test_a_source_is_read_up_to_its_end() -> None:
    model = made(0.3, conditional=True)
    with torch.no_grad():
        padded = replace(BATCH, source=torch.cat([SOURCES, torch.full((6, 2), 5)], 1))
        other = replace(BATCH, source=SOURCES.flip(0))
        scores = [model.score(batch)[0] for batch in (replace(BATCH, source=SOURCES), padded, other)]
    torch.testing.assert_close(scores[0], scores[1])
    assert (scores[0] - scores[2]).abs().max() > 0.01


# ── from the outside ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"d_latent": 0}, ("out_of_range", "d_latent", "0")),
        ({"word_dropout": 1.0}, ("out_of_range", "word_dropout", "1.0")),
        ({"free_bits": -1.0}, ("out_of_range", "free_bits", "-1.0")),
        ({"body": "lstm"}, ("unknown_name", "gru")),
        ({"d_model": 15}, ("incompatible_settings", "15")),
        ({"end_id": 9}, ("unknown_id", "9")),
    ],
)
def test_values_out_of_range_are_named(config: dict[str, Any], complaint: tuple[str, ...]) -> None:
    with raises(UsageError, *complaint):
        VAEConfig(**{**SMALL, **config})


def test_it_is_trained_like_any_other(tmp_path: Path) -> None:
    """One text a row, the KL and the latent's units in the log, and the run generates."""
    run = textus.train(
        **sentences(tmp_path), model="vae", out=tmp_path / "run", steps=8,
        overrides=["model.d_model=16", "model.n_head=1", "model.d_latent=4", "train.batch_size=8"],
    )  # fmt: skip
    log = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    assert {"reconstruction", "kl"} <= set(log[0])
    assert sum("active_units" in line for line in log) > 1
    assert isinstance(run.generate("a", max_tokens=3, seed=1), str)


@pytest.mark.promise("Families", "A collapse is reported once, for the selected weights")
@pytest.mark.parametrize("collapses", ["at first", "at last"])
def test_a_collapse_is_reported_once_and_only_of_the_weights_to_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], collapses: str
) -> None:
    """Four evaluations, each better than the one before; the latent is asleep before the last, or at the last."""
    kls = iter([0.0, 0.0, 0.0, 2.0] if collapses == "at first" else [2.0, 2.0, 2.0, 0.0])
    monkeypatch.setattr(
        VAE, "validation_metrics", lambda self, batches: {"kl_per_text": next(kls), "active_units": 1}
    )
    losses = iter([4.0, 3.0, 2.0, 1.0])
    monkeypatch.setattr("textus.training.pretrain.validation_loss", lambda model, batches: next(losses))
    textus.train(
        **sentences(tmp_path), model="vae", out=tmp_path / "run", steps=4,
        overrides=["model.d_model=16", "model.n_head=1", "model.d_latent=4", "train.batch_size=8"],
    )  # fmt: skip
    err = capsys.readouterr().err
    assert err.count("the latent has collapsed") == (collapses == "at last")

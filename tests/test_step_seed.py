"""One rule for what families draw in a training step: it follows from the run's seed, the step and the piece, and from
nothing else, so neither workers nor a resume change it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import textus
from textus.api import verify_determinism
from textus.data.batch import Batch
from textus.models.contract import LanguageModel
from textus.models.kernels import native
from textus.models.registry import build
from textus.training.gradients import GradientAccumulator

V = 11
SIZE = {"vocab_size": V, "end_id": 0, "n_layer": 1, "d_model": 16, "dropout": 0.4}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "lstm": ("lstm", {name: value for name, value in SIZE.items() if name != "end_id"}),
    "seq2seq": ("seq2seq", SIZE),
    "encoder-decoder": ("encoder-decoder", {**SIZE, "n_head": 2, "d_ff": 24}),
    "vae": ("vae", {**SIZE, "n_head": 2, "d_latent": 3, "dropout": 0.0}),
    "gan": ("gan", {**SIZE, "dropout": 0.0, "warmup_steps": 0, "critic_steps": 0, "context_length": 8}),
    "decoder": ("decoder", {"vocab_size": V, "n_layer": 1, "n_head": 1, "d_model": 16, "dropout": 0.4}),
}
needs_kernels = pytest.mark.skipif(native.library() is None, reason=f"no kernels: {native.build_error()}")


def made(name: str) -> LanguageModel:
    torch.manual_seed(0)
    family, config = FAMILIES[name]
    model = build(family, config)
    if name == "decoder":
        model.set_compute("bfloat16", "plain", "native")
    with torch.no_grad():
        for parameter in model.parameters():  # some begin at zero, where nothing shows
            parameter += 0.2 * torch.randn_like(parameter)
    return model.train()


def batch_of(position: int = 1, rows: int = 8) -> Batch:
    """Position 1 is a turn of the GAN's generator."""
    ids = torch.randint(1, V, (rows, 9), generator=torch.Generator().manual_seed(0))
    source = torch.cat([ids[:, :3], torch.zeros(rows, 1, dtype=torch.long)], 1)
    return Batch(ids[:, :-1], ids[:, 1:], torch.ones(rows, 8), position=position, source=source)


def drawn(model: LanguageModel, seed: int, **changes: int) -> float:
    """A number that any change of the draws would change."""
    torch.manual_seed(seed)
    batch = replace(batch_of(), **changes)
    if model.backward:
        model.backward(batch, 1)
        return sum(float(p.grad.abs().sum()) for p in model.parameters() if p.grad is not None)
    return float(model.loss(batch).total.detach())


def names() -> list[Any]:
    return [pytest.param(name, marks=needs_kernels if name == "decoder" else ()) for name in FAMILIES]


@pytest.mark.promise(
    "Families", "What is drawn in a step follows from seed, step and piece, whatever the workers"
)
@pytest.mark.parametrize("name", names())
def test_draws_follow_from_seed_step_and_piece(name: str) -> None:
    model = made(name)
    first = drawn(model, 3)
    assert drawn(model, 3) == first
    assert drawn(model, 4) != first
    assert drawn(model, 3, position=3) != first
    if not model.backward:  # whose batches are never divided
        assert drawn(model, 3, piece=1) != first


def lesson(model: LanguageModel, workers: int) -> list[torch.Tensor]:
    torch.manual_seed(3)
    GradientAccumulator(model, workers).compute(batch_of(rows=32), 8)
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


SHARED = [name for name in names() if name.values[0] != "gan"]


@pytest.mark.parametrize("name", SHARED)
def test_two_workers_draw_what_one_draws(name: str) -> None:
    model = made(name)
    alone = lesson(model, 1)
    assert all(all(map(torch.equal, alone, lesson(model, 2))) for _ in range(3))


@pytest.mark.parametrize("name", ["lstm", "vae"])
def test_draws_that_forget_the_seed_or_the_step_are_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, module = made(name), {"lstm": "rnn", "vae": "vae"}[name]
    monkeypatch.setattr(f"textus.models.{module}.step_seed", lambda batch, use: batch.position)
    assert drawn(model, 4) == drawn(model, 3)
    monkeypatch.setattr(f"textus.models.{module}.step_seed", lambda batch, use: torch.initial_seed())
    assert drawn(model, 3, piece=1) == drawn(model, 3)


def test_a_run_of_two_workers_and_dropout_ends_as_one_of_one_and_resumes(
    corpus: Path, tmp_path: Path
) -> None:
    settings = ["model.d_model=16", "model.dropout=0.3", "train.batch_size=8", "train.micro_batches=4"]
    ends = {}
    for workers, seed in ((1, 0), (2, 0), (2, 1)):
        run = textus.train(
            corpus, model="lstm", tokenizer="char", steps=6, checkpoint_every=2, seed=seed,
            overrides=[*settings, f"compute.workers={workers}"], out=tmp_path / f"{workers}-{seed}",
        )  # fmt: skip
        ends[workers, seed] = (run.path / "model.safetensors").read_bytes()
    assert ends[1, 0] == ends[2, 0] != ends[2, 1]
    assert verify_determinism(tmp_path / "2-0")["resumed_from_step"] == 3

"""A small config of every family, a toy text, and models that have learnt it.

A new family needs one line in `CASES`. Shapes: B batch, T time, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from textus.data.batch import Batch
from textus.models.contract import CountBased, LanguageModel
from textus.models.registry import build

V = 13
CONTEXT = 24
END = 0

SMALL = {"vocab_size": V, "context_length": CONTEXT, "n_layer": 2, "n_head": 2, "d_model": 16}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "decoder": ("decoder", SMALL),
    "decoder of GPT-2's parts": (
        "decoder",
        {
            **SMALL,
            "position": "learned",
            "norm": "layer",
            "activation": "gelu",
            "qk_norm": False,
            "tie_head": True,
            "bias": True,
            "dropout": 0.1,
        },
    ),
    "decoder with few key-value heads and a window": (
        "decoder",
        {**SMALL, "n_head": 4, "n_kv_head": 2, "window": 5, "activation": "relu2"},
    ),
    "encoder": ("encoder", SMALL),
    "encoder of BERT's parts, over spans": (
        "encoder",
        {
            **SMALL,
            "position": "learned",
            "segments": 2,
            "norm_first": False,
            "activation": "gelu-exact",
            "bias": True,
            "mlm_transform": True,
            "pooler": True,
            "mask_id": V - 1,
            "end_id": END,
            "masking": "span",
            "dropout": 0.1,
        },
    ),
    "encoder-decoder": ("encoder-decoder", SMALL),
    "encoder-decoder of T5's parts": (
        "encoder-decoder",
        {
            **SMALL,
            "d_head": 6,
            "n_decoder_layer": 1,
            "position": "relative",
            "n_buckets": 8,
            "max_distance": 12,
            "scale_scores": False,
            "scale_head": True,
            "start_id": 1,
        },
    ),
    "encoder-decoder of other parts": (
        "encoder-decoder",
        {
            **SMALL,
            "position": "sinusoidal",
            "norm": "layer",
            "activation": "geglu",
            "bias": True,
            "tie_head": False,
            "label_smoothing": 0.1,
        },
    ),
    "fake": ("fake", {"vocab_size": V, "context_length": CONTEXT}),
    "rnn": ("rnn", {"vocab_size": V, "n_layer": 1, "d_model": 16}),
    "gru, tied": ("gru", {"vocab_size": V, "d_model": 12, "tie_head": True}),
    "lstm with dropout": ("lstm", {"vocab_size": V, "d_model": 16, "dropout": 0.2}),
    "seq2seq": ("seq2seq", {"vocab_size": V, "d_model": 12, "n_layer": 2}),
    "seq2seq, additive, fed": (
        "seq2seq",
        {"vocab_size": V, "d_model": 12, "cell": "gru", "attention": "additive", "input_feeding": True},
    ),
    "ngram": ("ngram", {"vocab_size": V, "end_id": END, "order": 3}),
    "ngram of order 1": ("ngram", {"vocab_size": V, "end_id": END, "order": 1}),
    "gan": ("gan", {"vocab_size": V, "context_length": CONTEXT, "end_id": END, "d_model": 16, "n_layer": 2}),
    "vae": ("vae", {**SMALL, "end_id": END, "d_latent": 3, "n_draws": 3}),
    "vae with a source": ("vae", {**SMALL, "end_id": END, "d_latent": 3, "n_draws": 3, "conditional": True}),
    "vae of Transformers": (
        "vae",
        {**SMALL, "end_id": END, "d_latent": 3, "n_draws": 3, "body": "transformer"},
    ),
    "hmm": ("hmm", {"vocab_size": V, "end_id": END, "n_state": 7}),
}


# ── a toy text, and models that have learnt it ─────────────────────────────────────────────────

PHRASE = [END, 3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6, 4, 3, 3, 8, 3, 2, 7, 9, 5]


def toy_batch(rows: int = 4, length: int = CONTEXT) -> Batch:
    """Windows of a text that repeats every 33 ids."""
    stream = torch.tensor(PHRASE * 3)
    windows = torch.stack([stream[start : start + length + 1] for start in range(0, 7 * rows, 7)])
    return Batch(windows[:, :-1], windows[:, 1:], torch.ones(rows, length))


def random_ids(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, V, (rows, length), generator=torch.Generator().manual_seed(seed))


def random_batch(rows: int = 3, length: int = 20, seed: int = 0) -> Batch:
    """Nothing to learn; weights between 0 and 2, some of them 0."""
    weights = random_ids(rows, length, seed + 1).clamp(max=8).float() / 4
    return Batch(random_ids(rows, length, seed + 2), random_ids(rows, length, seed + 3), weights)


def learn(model: LanguageModel, batch: Batch, steps: int = 40) -> None:
    """The way `fit` does: counting where the family counts, else optimiser steps."""
    model.train()
    if isinstance(model, CountBased):
        for _ in range(model.n_passes()):
            model.count(batch)
            model.update()
    else:
        optimiser = torch.optim.AdamW(
            [p for group in model.parameter_groups().values() for p in group], lr=1e-2
        )
        for step in range(steps):
            optimiser.zero_grad()
            model.loss(replace(batch, position=step)).mean.backward()
            optimiser.step()
    model.eval()


def fresh(case: str, seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    family, config = CASES[case]
    return build(family, config)


TRAINED: dict[str, LanguageModel] = {}


def trained(case: str) -> LanguageModel:
    """A model after some steps, shaken a little so that no weight has a special value. Not to be changed."""
    if case not in TRAINED:
        model = fresh(case)
        learn(model, toy_batch(), steps=15)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        TRAINED[case] = model
    return TRAINED[case]


def mean_score(model: LanguageModel, batch: Batch) -> float:
    with torch.no_grad():
        return float(model.score(batch)[0].sum() / batch.weights.sum())


def assert_close(got: Tensor, expected: Tensor, what: str) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-5, msg=lambda text: f"{what}: {text}")

"""The parts a textbook names, by name: activations, losses, initialisations, normalisations.

Optimisers and schedules have their names in `textus.training.optim`. A loss is a function of scores and targets that
gives one number for each item, so that the caller may weight items and divide by the weight (`models.contract.Loss`).
Shapes: N items, C classes, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textus.core.errors import UsageError
from textus.core.names import unknown_name_error
from textus.models.nn.layers import ACTIVATIONS, NORMS

__all__ = ["ACTIVATIONS", "INITIALISATIONS", "LOSSES", "NORMS", "initialise", "load_pretrained", "make_loss"]

# ── losses ─────────────────────────────────────────────────────────────────────────────────────


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """−log softmax(logits)[target], in nats: logits (N, C), class numbers (N,) → (N,)."""
    return F.cross_entropy(logits, targets, reduction="none")


def squared_error(predicted: Tensor, targets: Tensor) -> Tensor:
    """(predicted − target)², averaged over what an item has: (N, …) and the same → (N,)."""
    return F.mse_loss(predicted, targets, reduction="none").reshape(len(targets), -1).mean(1)


def divergence(logits: Tensor, targets: Tensor) -> Tensor:
    """Kullback and Leibler's KL(target ‖ softmax(logits)), in nats: logits (N, C), probabilities (N, C) → (N,)."""
    return F.kl_div(logits.log_softmax(-1), targets, reduction="none").sum(-1)


def hinge(logits: Tensor, targets: Tensor) -> Tensor:
    """max(0, 1 + best wrong score − right score) (Crammer and Singer 2001): (N, C), class numbers (N,) → (N,)."""
    right = logits.gather(1, targets[:, None])[:, 0]
    wrong = logits.scatter(1, targets[:, None], float("-inf")).amax(1)
    return F.relu(1.0 + wrong - right)


def adversarial(logits: Tensor, wanted: Tensor) -> Tensor:
    """−log of the probability the discriminator gives to what is `wanted`: logits (N,), 1 real or 0 made (N,) → (N,).

    The discriminator wants the truth; the generator wants 1 for what it made, which is the non-saturating form
    (Goodfellow et al. 2014).
    """
    return F.binary_cross_entropy_with_logits(logits, wanted.to(logits.dtype), reduction="none")


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": cross_entropy,
    "mse": squared_error,
    "kl": divergence,
    "hinge": hinge,
    "adversarial": adversarial,
}


def make_loss(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss by name; UsageError for an unknown one."""
    if name not in LOSSES:
        raise unknown_name_error("loss", name, LOSSES)
    return LOSSES[name]


# ── initialisations ────────────────────────────────────────────────────────────────────────────


def _uniform(weight: Tensor) -> None:
    nn.init.uniform_(weight, -(weight.shape[1] ** -0.5), weight.shape[1] ** -0.5)


def _normal(weight: Tensor) -> None:
    nn.init.normal_(weight, std=0.02)


def _kaiming(weight: Tensor) -> None:
    nn.init.normal_(weight, std=math.sqrt(2.0 / weight.shape[1]))


INITIALISATIONS: dict[str, Callable[[Tensor], object]] = {
    "uniform": _uniform,
    "normal": _normal,
    "xavier-uniform": nn.init.xavier_uniform_,
    "xavier-normal": nn.init.xavier_normal_,
    "kaiming": _kaiming,
    "orthogonal": nn.init.orthogonal_,
    "zeros": nn.init.zeros_,
}
"""Name → a function that fills a matrix (outputs O, inputs I) in place, from torch's global seed.

`uniform` is within ±1/√I, `normal` has a deviation of 0.02 (GPT-2's), `xavier-*` are Glorot and Bengio's (2010),
`kaiming` is He et al.'s (2015) for ReLU, `orthogonal` Saxe et al.'s (2014). Pretrained weights are loaded by
`load_pretrained`, or `models.word_vectors.initial_embeddings`.
"""


@torch.no_grad()
def initialise(module: nn.Module, name: str) -> None:
    """Draw every matrix of a module anew; vectors (biases, the scales of norms) stay as they are.

    Raises UsageError for an unknown name.
    """
    if name not in INITIALISATIONS:
        raise unknown_name_error("initialisation", name, INITIALISATIONS)
    for parameter in module.parameters():
        if parameter.ndim == 2:
            INITIALISATIONS[name](parameter)


@torch.no_grad()
def load_pretrained(module: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Copy the weights that a module also has, by name; returns the names that kept their own values.

    Raises UsageError where a name is not the module's (nearest offered) or a shape differs (both named); nothing is
    then changed.
    """
    own = module.state_dict()
    for name, value in weights.items():
        if name not in own:
            raise unknown_name_error("pretrained weight", name, own)
        if value.shape != own[name].shape:
            raise UsageError(
                "weights_mismatch",
                f"pretrained weight {name} is {tuple(value.shape)}, the model's is {tuple(own[name].shape)};"
                " build the model with the sizes it was trained with",
            )
    for name, value in weights.items():
        own[name].copy_(value)
    return [name for name in own if name not in weights]

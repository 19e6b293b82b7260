"""The parts Transformers are made of: norms, positions, feed-forwards, attention.

Shapes: B batch, T time (queries), S time (keys), D width, H heads, G key-value heads, K head width, F feed-
forward width.
Parts compute in the type of the activations they are given; weights are kept in float32 and cast where they
are used.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textus.core.names import unknown_name_error
from textus.models.nn.linear import Linear


class RMSNorm(nn.Module):
    """Scale to unit root mean square (Zhang and Sennrich 2019): no mean, no bias."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:  # (..., D) -> (..., D)
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


class LayerNorm(nn.Module):
    """Zero mean, unit variance, then scale and shift (Ba, Kiros and Hinton 2016)."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:  # (..., D) -> (..., D)
        return F.layer_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class BatchNorm(nn.Module):
    """Zero mean and unit variance of each feature over the batch, then scale and shift (Ioffe and Szegedy 2015).

    It mixes positions of a batch, later ones too, while training: right for encoders and classifiers, not for a
    language model that predicts the next id. Afterwards it uses the running means it has kept.
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, width: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_variance", torch.ones(width))
        self.eps, self.momentum = eps, momentum

    def forward(self, x: Tensor) -> Tensor:  # (..., D) -> (..., D)
        flat = x.reshape(-1, x.shape[-1])
        kept = (self.running_mean, self.running_variance)
        normed = F.batch_norm(flat, *kept, self.weight, self.bias, self.training, self.momentum, self.eps)
        return normed.view(x.shape)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020); gate and up are one product, rows [:F] and [F:].

    With another `activation` in the place of silu it is one of its sisters, such as GeGLU.
    """

    def __init__(
        self,
        width: int,
        d_ff: int,
        *,
        bias: bool = False,
        dropout: float = 0.0,
        activation: Callable[[Tensor], Tensor] = F.silu,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.gate_up = Linear(width, 2 * d_ff, bias=bias, parts={"gate": d_ff, "up": d_ff})
        self.down = Linear(d_ff, width, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, D)
        gate, up = self.gate_up(x).chunk(2, dim=-1)  # (B, T, F) each
        return self.dropout(self.down(self.activation(gate) * up))


class FeedForward(nn.Module):
    """down(activation(up(x)))."""

    def __init__(
        self, width: int, d_ff: int, activation: Callable[[Tensor], Tensor], *, bias: bool, dropout: float
    ) -> None:
        super().__init__()
        self.up = Linear(width, d_ff, bias=bias)
        self.down = Linear(d_ff, width, bias=bias)
        self.activation = activation
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, D)
        return self.dropout(self.down(self.activation(self.up(x))))


def relu2(x: Tensor) -> Tensor:
    """relu(x)² (So et al. 2021)."""
    return F.relu(x).square()


def gelu(x: Tensor) -> Tensor:
    """The tanh form that GPT-2 uses (Hendrycks and Gimpel 2016)."""
    return F.gelu(x, approximate="tanh")


def softmax(x: Tensor) -> Tensor:
    """exp(x) over its sum along the last axis."""
    return F.softmax(x, dim=-1)


NORMS: dict[str, Callable[..., nn.Module]] = {"rms": RMSNorm, "layer": LayerNorm, "batch": BatchNorm}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "gelu-exact": F.gelu,
    "relu2": relu2,
    "relu": F.relu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "leaky-relu": F.leaky_relu,
    "softplus": F.softplus,
    "softmax": softmax,
}
GATED: dict[str, Callable[[Tensor], Tensor]] = {"swiglu": F.silu, "geglu": gelu}
POSITIONS = ("rotary", "learned", "none")


def make_norm(name: str, width: int, eps: float = 0.0) -> nn.Module:
    """A norm by name; `eps` of 0 is its usual one."""
    if name not in NORMS:
        raise unknown_name_error("norm", name, NORMS)
    return NORMS[name](width, eps) if eps else NORMS[name](width)


def make_feed_forward(name: str, width: int, d_ff: int, *, bias: bool, dropout: float) -> nn.Module:
    """A feed-forward by its activation's name; `swiglu` and `geglu` are gated."""
    if name in GATED:
        return SwiGLU(width, d_ff, bias=bias, dropout=dropout, activation=GATED[name])
    if name not in ACTIVATIONS:
        raise unknown_name_error("activation", name, [*GATED, *ACTIVATIONS])
    return FeedForward(width, d_ff, ACTIVATIONS[name], bias=bias, dropout=dropout)


def causal_mask(length: int, documents: Tensor | None = None, window: int | None = None) -> Tensor:
    """True where a query may look: itself and before, in its own document, at most `window` back.

    Returns (T, T), or (B, 1, T, T) with `documents` (B, T).
    """
    position = torch.arange(length, device=None if documents is None else documents.device)
    if documents is None:
        first = first_key(1, length, None, window)[0].to(position.device)
    else:
        first = first_key(len(documents), length, documents, window)[:, None]  # (B, 1, T)
    return (position <= position[:, None]) & (position >= first[..., None])


def first_key(batch: int, time: int, documents: Tensor | None, window: int | None) -> Tensor:
    """The same rule as an interval: the first key each query may see, (B, T) int32; the last one is itself.

    A document is a run of equal numbers: on the loader's ring a short text may come to itself again, and its
    end must not be read as its beginning's past.
    """
    device = None if documents is None else documents.device
    position = torch.arange(time, dtype=torch.int32, device=device)
    first = torch.zeros(batch, time, dtype=torch.int32, device=device)
    if documents is not None:
        begins = torch.ones_like(documents, dtype=torch.bool)
        begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
        first = torch.where(begins, position, 0).cummax(dim=1).values.to(torch.int32)
    if window is not None:
        first = torch.maximum(first, position - (window - 1))
    return first.contiguous()


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q kᵀ / √K) v by two batched products: q (B, H, T, K), k and v (B, H, S, K), mask (T, S) or (B,
    1, T, S).

    On CPUs, at a few hundred positions, this beats the fused kernel, whose backward pass is slow there.
    """
    scores = (q * (1.0 / math.sqrt(q.shape[-1]))) @ k.transpose(-1, -2)  # (B, H, T, S)
    scores = torch.where(mask, scores.float(), float("-inf"))
    return torch.softmax(scores, dim=-1).to(v.dtype) @ v


def fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """The same through `scaled_dot_product_attention`: less memory, better for long contexts and on GPUs."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


ATTENTIONS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "plain": plain_attention,
    "fused": fused_attention,
}

"""Cross-entropy over a vocabulary without ever holding all logits.

Source of the idea: the fused linear cross-entropy of Liger-Kernel (Hsu et al. 2024). The gradient of each
chunk is made while its logits are still in the processor's cache. Shapes: N targets, D width, V vocabulary, C
chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK_BYTES = 1 << 22
"""Logits of one chunk, in the activations' type: few enough to stay in the last-level cache."""


def chunk_loss(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Loss () and gradient of the logits (C, V) of one chunk: softmax minus one-hot, weighted."""
    logits = F.linear(hidden, weight).float()  # (C, V)
    log_sum = torch.logsumexp(logits, dim=-1, keepdim=True)
    real = logits.gather(1, targets[:, None])
    gradient = torch.exp(logits - log_sum)
    hit = torch.arange(logits.shape[1], device=logits.device) == targets[:, None]
    gradient = ((gradient - hit.float()) * weights[:, None]).to(hidden.dtype)
    return ((log_sum - real)[:, 0] * weights).sum(), gradient


class ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of weighted cross-entropies of `hidden @ weightᵀ`; both gradients are made in the forward pass."""

    compute: Callable[..., tuple[Tensor, Tensor]] = staticmethod(chunk_loss)

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, compute: Callable
    ) -> Tensor:
        used = weight.to(hidden.dtype)
        size = max(16, CHUNK_BYTES // (weight.shape[0] * hidden.element_size()) // 16 * 16)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        for start in range(0, hidden.shape[0], size):
            part = slice(start, start + size)
            loss, gradient = compute(hidden[part], used, targets[part], weights[part])
            total += loss
            torch.mm(gradient, used, out=d_hidden[part])
            d_weight += gradient.t() @ hidden[part]
        ctx.save_for_backward(d_hidden, d_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight = ctx.saved_tensors
        return d_hidden * upstream[0].to(d_hidden.dtype), d_weight * upstream[0], None, None, None


def cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, compute: Callable = chunk_loss
) -> Tensor:
    """Σ weights · −log softmax(hidden weightᵀ)[targets], in nats: hidden (B, T, D), weight (V, D), the
    others (B, T).
    """
    return ChunkedCrossEntropy.apply(
        hidden.flatten(0, 1), weight, targets.flatten(), weights.flatten(), compute
    )

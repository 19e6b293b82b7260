"""An encoder's blocks on the positions of many texts one after the other: no padding is computed.

Torch's matrix products in bfloat16, and kernels for everything between them (`encoder.cpp`): the same sums as
`encoder.EncoderBlock`, the twin it is tested against. Attention is computed in tiles (`attention.cpp`) where the
processor has the products for it; elsewhere texts are padded inside attention only. Shapes: N
positions of all texts, B texts, T positions of the longest, D width, H heads, K head width, F feed-forward width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from textus.models.kernels.native import bf16, invoke, prepare_weight, tiles_fit

WIDEST = 8192
"""Width a row may have, and positions a text (buffers in `encoder.cpp`)."""
ROWS = 2048
"""Rows of a product that weights are laid out for; others work too."""
ROUND, ROUND_TIME = 32, 8
"""Positions of a batch, and of its longest text, are rounded up to multiples of these. oneDNN builds a product anew for
each shape it meets, some megabytes of code and constants: of all shapes there are, a step had to build most of its own.
"""


def round_up(n: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-n // step) * step


@dataclass(frozen=True)
class VarlenBatch:
    """The positions of texts among N: text b has `starts[b]` to `starts[b + 1]`; no text has the positions from `n`
    on, and none has more than `time`.
    """

    starts: Tensor  # (B + 1,) int64
    n: int
    time: int
    n_head: int
    width: int  # of a head
    eps: float
    dropout: float

    def heads(self, rows: Tensor, part: int) -> Tensor:
        """The part-th of the concatenated vectors (N, parts H K), by heads: (B H, T, K)."""
        width = self.width
        heads = rows.new_empty((len(self.starts) - 1) * self.n_head, self.time, width)
        places = (rows.shape[1], part * self.n_head * width, *self.sizes, width)
        invoke("textus_spread_heads", rows, self.starts, heads, *places)
        return heads

    def rows(self, heads: Tensor, out: Tensor, part: int = 0) -> Tensor:
        """The way back, into `out` (N, parts H K); zero where no text is."""
        places = (out.shape[1], part * self.n_head * self.width, *self.sizes, self.width)
        invoke("textus_gather_heads", heads, self.starts, out, *places)
        if not part:
            out[self.n :].zero_()
        return out

    @property
    def sizes(self) -> tuple[int, int, int]:
        """B, H, T."""
        return len(self.starts) - 1, self.n_head, self.time

    @property
    def factor(self) -> float:
        """What scores are multiplied by."""
        return self.width**-0.5


def attend_by_products(texts: VarlenBatch, qkv: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """softmax(q kᵀ / √K) v inside each text: qkv (N, 3 D) -> (N, D); and what the way back needs."""
    q, k, v = (texts.heads(qkv, part) for part in range(3))
    probability = torch.bmm(q, k.transpose(1, 2))
    invoke("textus_text_softmax", probability, texts.starts, *texts.sizes, texts.factor)
    mixed = texts.rows(torch.bmm(probability, v), qkv.new_empty(len(qkv), qkv.shape[1] // 3))
    return mixed, (q, k, v, probability)


def products_backward(texts: VarlenBatch, gradient: Tensor, kept: tuple[Tensor, ...]) -> Tensor:
    """Gradient of qkv (N, 3 D) from that of what the way there gave (N, D)."""
    q, k, v, probability = kept
    d_mixed = texts.heads(gradient, 0)
    d_scores = torch.bmm(d_mixed, v.transpose(1, 2))
    invoke("textus_text_softmax_backward", d_scores, probability, texts.starts, *texts.sizes, texts.factor)
    d_qkv = gradient.new_empty(len(gradient), 3 * gradient.shape[1])
    texts.rows(torch.bmm(d_scores, k), d_qkv, 0)
    texts.rows(torch.bmm(d_scores.transpose(1, 2), q), d_qkv, 1)
    return texts.rows(torch.bmm(probability.transpose(1, 2), d_mixed), d_qkv, 2)


def attend_in_tiles(texts: VarlenBatch, qkv: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The same by `attention.cpp`: no text is padded to the length of another, and no probability is kept."""
    mixed = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
    log_sum = qkv.new_empty(texts.n_head, len(qkv), dtype=torch.float32)
    places = (len(qkv), *texts.sizes, texts.width, texts.factor)
    invoke("textus_text_attention", qkv, texts.starts, mixed, log_sum, *places)
    mixed[texts.n :].zero_()
    return mixed, (qkv, log_sum)


def tiles_backward(texts: VarlenBatch, gradient: Tensor, kept: tuple[Tensor, ...]) -> Tensor:
    """As `products_backward`; the probabilities are computed again, tile by tile."""
    qkv, log_sum = kept
    d_qkv = torch.empty_like(qkv)
    places = (len(qkv), *texts.sizes, texts.width, texts.factor)
    invoke("textus_text_attention_backward", gradient, qkv, log_sum, texts.starts, d_qkv, *places)
    d_qkv[texts.n :].zero_()
    return d_qkv


def attention_impl(texts: VarlenBatch) -> tuple[Any, Any]:
    """How attention is computed here for heads of this width, and how its gradient."""
    if tiles_fit(texts.width):
        return attend_in_tiles, tiles_backward
    return attend_by_products, products_backward


def add_norm(
    texts: VarlenBatch, x: Tensor, delta: Tensor, norm: tuple[Tensor, Tensor], seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """x + dropout(delta), its norm, and the moments (N, 2) of each row: (N, D), (N, D), (N, 2)."""
    total, out = torch.empty_like(x), torch.empty_like(x)
    moments = x.new_empty(len(x), 2, dtype=torch.float32)
    invoke(
        "textus_add_layer_norm", x, delta, *norm, total, out, moments, *x.shape, texts.eps, texts.dropout, seed
    )  # fmt: skip
    return total, out, moments


def add_norm_backward(
    texts: VarlenBatch, gradient: Tensor, total: Tensor, moments: Tensor, weight: Tensor, *, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x and delta (N, D), and of the norm's weight, its bias, and of a bias inside delta: (3, D)."""
    d_x, d_delta = torch.empty_like(total), torch.empty_like(total)
    small = torch.zeros(3, total.shape[1])
    invoke(
        "textus_add_layer_norm_backward", gradient, None, total, moments, weight, d_x, d_delta, *small, *total.shape,
        texts.dropout, seed,
    )  # fmt: skip
    return d_x, d_delta, small


class VarlenEncoderBlock(torch.autograd.Function):
    """A block that norms after it adds, on x (N, D) in bfloat16; weights in the order `block_weights` gives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, texts: VarlenBatch, seed: int, *weights: Tensor) -> Tensor:
        w_qkv, b_qkv, w_out, b_out, norm1, shift1, w_up, b_up, w_down, b_down, norm2, shift2 = weights
        qkv = F.linear(x, bf16(w_qkv), bf16(b_qkv))
        mixed, kept = attention_impl(texts)[0](texts, qkv)
        out = F.linear(mixed, bf16(w_out), bf16(b_out))
        sum1, h, moments1 = add_norm(texts, x, out, (norm1, shift1), seed)
        up = F.linear(h, bf16(w_up), bf16(b_up))
        active = F.gelu(up)
        down = F.linear(active, bf16(w_down), bf16(b_down))
        sum2, y, moments2 = add_norm(texts, h, down, (norm2, shift2), seed + 1)
        ctx.texts, ctx.seed = texts, seed
        ctx.save_for_backward(x, mixed, sum1, h, moments1, up, active, sum2, moments2, *weights, *kept)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, mixed, sum1, h, moments1, up, active, sum2, moments2 = ctx.saved_tensors[:9]
        w_qkv, _, w_out, _, norm1, _, w_up, _, w_down, _, norm2, _ = ctx.saved_tensors[9:21]
        texts, seed = ctx.texts, ctx.seed
        d_h, d_down, small2 = add_norm_backward(
            texts, gradients[0].contiguous(), sum2, moments2, norm2, seed=seed + 1
        )
        d_w_down = d_down.t() @ active
        d_active = d_down @ bf16(w_down)
        d_up, d_b_up = torch.empty_like(up), torch.zeros(up.shape[1])
        invoke("textus_gelu_backward", d_active, up, d_up, d_b_up, *up.shape)
        d_w_up = d_up.t() @ h
        d_h = torch.addmm(d_h, d_up, bf16(w_up))
        d_x, d_out, small1 = add_norm_backward(texts, d_h, sum1, moments1, norm1, seed=seed)
        d_w_out = d_out.t() @ mixed
        d_qkv = attention_impl(texts)[1](texts, d_out @ bf16(w_out), ctx.saved_tensors[21:])
        d_w_qkv, d_b_qkv = d_qkv.t() @ x, torch.zeros(d_qkv.shape[1])
        invoke("textus_add_rows", d_qkv, d_b_qkv, *d_qkv.shape)
        d_first = torch.addmm(d_x, d_qkv, bf16(w_qkv)) if ctx.needs_input_grad[0] else None
        return (
            d_first, None, None, d_w_qkv, d_b_qkv, d_w_out, small1[2], small1[0], small1[1], d_w_up, d_b_up, d_w_down,
            small2[2], small2[0], small2[1],
        )  # fmt: skip


@cache
def supports_prepack() -> bool:
    """Whether this torch has products in bfloat16 by a weight that was laid out before."""
    return hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def product(x: Tensor, weight: Tensor, bias: Tensor, then: str = "none") -> Tensor:
    """x Wᵀ + b, and what comes `then`, by a weight laid out once as oneDNN wants it, not at every call."""
    return torch.ops.mkldnn._linear_pointwise(
        x, prepare_weight(weight, prepack), bf16(bias), then, [], "none"
    )


def prepack(weight: Tensor) -> Tensor:
    """The weight in bfloat16 as oneDNN wants it."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16(), ROWS)


def read(x: Tensor, texts: VarlenBatch, weights: list[Tensor]) -> Tensor:
    """A block's output (N, D) for inference: nothing is kept for a gradient."""
    w_qkv, b_qkv, w_out, b_out, norm1, shift1, w_up, b_up, w_down, b_down, norm2, shift2 = weights
    mixed, _ = attention_impl(texts)[0](texts, product(x, w_qkv, b_qkv))
    _, h, _ = add_norm(texts, x, product(mixed, w_out, b_out), (norm1, shift1), 0)
    down = product(product(h, w_up, b_up, "gelu"), w_down, b_down)
    return add_norm(texts, h, down, (norm2, shift2), 0)[1]


def block_weights(block: Any) -> list[Tensor]:
    """An `encoder.EncoderBlock`'s weights in the order of `VarlenEncoderBlock`."""
    attention, feed_forward = block.attention, block.feed_forward
    first, norm1 = (attention.qkv, attention.out), block.attention_norm
    second, norm2 = (feed_forward.up, feed_forward.down), block.feed_forward_norm
    whole = lambda parts: [tensor for part in parts for tensor in (part.whole(), part.bias)]  # noqa: E731
    return [*whole(first), norm1.weight, norm1.bias, *whole(second), norm2.weight, norm2.bias]

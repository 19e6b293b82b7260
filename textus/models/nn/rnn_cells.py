"""Recurrent cells over packed documents: Elman, GRU, LSTM, forwards and backwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textus.core.rng import derive_seed

# ── scans: one layer over time ─────────────────────────────────────────────────────────────────
#
# forward(inputs (T, B, G H), weight (G H, H), bias (G H,) or None, start (S, B, H), keep (T, B, 1) or None) gives
# what each step shows (T, B, H), and the LSTM's cell state (T, B, H), which takes no gradient. `inputs` are the
# products of W_ih with what is read, made in one go before; gates are in torch.nn's order. `keep` is 0 where the
# state before is to be forgotten, else 1. The gradient of the weights is one product over all steps.


def _before(states: Tensor, start: Tensor, keep: Tensor | None) -> Tensor:
    """The state each step began with, from all states (T, B, H) and the one before them (B, H): (T, B, H)."""
    before = torch.cat([start[None].to(states.dtype), states[:-1]])
    return before if keep is None else before * keep


class ElmanScan(torch.autograd.Function):
    """h = tanh(x + W h)."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: None, start: Tensor, keep: Tensor | None
    ) -> tuple[Tensor, None]:
        shown, h, transposed = torch.empty_like(inputs), start[0].to(inputs.dtype), weight.t()
        for t in range(len(inputs)):
            h = h if keep is None else h * keep[t]
            h = torch.addmm(inputs[t], h, transposed, out=shown[t]).tanh_()
        ctx.save_for_backward(weight, shown, start, keep)
        return shown, None

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, shown, start, keep = ctx.saved_tensors
        slope, d_inputs = 1 - shown * shown, torch.empty_like(shown)
        d_h = torch.zeros_like(shown[0])
        for t in range(len(shown) - 1, -1, -1):
            torch.mul(d_h + gradients[0][t], slope[t], out=d_inputs[t])
            d_h = d_inputs[t] @ weight
            d_h = d_h if keep is None else d_h * keep[t]
        before = _before(shown, start[0], keep)
        d_weight = d_inputs.flatten(0, 1).t() @ before.flatten(0, 1)
        return d_inputs, d_weight, None, d_h[None].to(start.dtype), None


class GRUScan(torch.autograd.Function):
    """Gates reset, update, new: n = tanh(x_n + r (W_n h + b_n)), h = (1 - z) n + z h."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, start: Tensor, keep: Tensor | None
    ) -> tuple[Tensor, None]:
        (time, rows, _), width = inputs.shape, weight.shape[1]
        shown, inner = inputs.new_empty(time, rows, width), inputs.new_empty(time, rows, width)
        gates, h, transposed = torch.empty_like(inputs), start[0].to(inputs.dtype), weight.t()
        for t in range(time):
            h = h if keep is None else h * keep[t]
            products = torch.addmm(bias, h, transposed)
            both = torch.add(
                inputs[t, :, : 2 * width], products[:, : 2 * width], out=gates[t, :, : 2 * width]
            )
            reset, update = both.sigmoid_().chunk(2, 1)
            inner[t] = products[:, 2 * width :]
            new = torch.addcmul(inputs[t, :, 2 * width :], reset, inner[t]).tanh_()
            gates[t, :, 2 * width :] = new
            h = torch.lerp(new, h, update, out=shown[t])
        ctx.save_for_backward(weight, shown, start, keep, gates, inner)
        return shown, None

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, shown, start, keep, gates, inner = ctx.saved_tensors
        reset, update, new = gates.chunk(3, 2)
        before, width = _before(shown, start[0], keep), weight.shape[1]
        by_update = (
            (before - new) * update * (1 - update)
        )  # times a gradient of h: one of z before its sigmoid
        by_new = (1 - update) * (1 - new * new)
        by_reset = inner * reset * (1 - reset)  # times one of n before its tanh
        d_products, d_new, d_h = torch.empty_like(gates), torch.empty_like(inner), torch.zeros_like(inner[0])
        for t in range(len(gates) - 1, -1, -1):
            d_h = d_h + gradients[0][t]
            torch.mul(d_h, by_new[t], out=d_new[t])
            torch.mul(d_new[t], by_reset[t], out=d_products[t, :, :width])
            torch.mul(d_h, by_update[t], out=d_products[t, :, width : 2 * width])
            torch.mul(d_new[t], reset[t], out=d_products[t, :, 2 * width :])
            d_h = torch.addmm(d_h * update[t], d_products[t], weight)
            d_h = d_h if keep is None else d_h * keep[t]
        flat = d_products.flatten(0, 1)
        d_inputs = torch.cat([d_products[..., : 2 * width], d_new], 2)
        return d_inputs, flat.t() @ before.flatten(0, 1), flat.sum(0), d_h[None].to(start.dtype), None


class LSTMScan(torch.autograd.Function):
    """Gates input, forget, new, output: c = f c + i n, h = o tanh(c); c is kept in float32."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: None, start: Tensor, keep: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        (time, rows, _), width, kind = inputs.shape, weight.shape[1], inputs.dtype
        shown, squashed = inputs.new_empty(time, rows, width), inputs.new_empty(time, rows, width)
        kept = inputs.new_empty(time, rows, width, dtype=torch.float32)
        gates, transposed = torch.empty_like(inputs), weight.t()
        h, c = start[0].to(kind), start[1]
        for t in range(time):
            if keep is not None:
                h, c = h * keep[t], c * keep[t]
            torch.addmm(inputs[t], h, transposed, out=gates[t])
            gates[t, :, : 2 * width].sigmoid_()
            gates[t, :, 2 * width : 3 * width].tanh_()
            gates[t, :, 3 * width :].sigmoid_()
            i, f, new, o = gates[t].chunk(4, 1)
            c = torch.mul(f.float(), c, out=kept[t]).addcmul_(i.float(), new.float())
            torch.tanh(c.to(kind), out=squashed[t])
            h = torch.mul(o, squashed[t], out=shown[t])
        ctx.save_for_backward(weight, shown, kept, start, keep, gates, squashed)
        ctx.mark_non_differentiable(kept)
        ctx.set_materialize_grads(False)
        return shown, kept

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, shown, kept, start, keep, gates, squashed = ctx.saved_tensors
        width, kind = weight.shape[1], gates.dtype
        i, f, new, o = gates.chunk(4, 2)
        old = _before(kept, start[1], keep).to(kind)
        by = [new * i * (1 - i), old * f * (1 - f), i * (1 - new * new)]  # from a gradient of c to gates'
        by_o, by_c = squashed * o * (1 - o), o * (1 - squashed * squashed)  # from one of h to o's and c's
        d_inputs, d_h, d_c = torch.empty_like(gates), torch.zeros_like(shown[0]), torch.zeros_like(kept[0])
        for t in range(len(gates) - 1, -1, -1):
            d_h = d_h + gradients[0][t]
            d_c.add_(d_h * by_c[t])
            rounded = d_c.to(kind)
            for gate, factor in enumerate(by):
                torch.mul(rounded, factor[t], out=d_inputs[t, :, gate * width : (gate + 1) * width])
            torch.mul(d_h, by_o[t], out=d_inputs[t, :, 3 * width :])
            d_h = d_inputs[t] @ weight
            d_c.mul_(f[t])
            if keep is not None:
                d_h = d_h * keep[t]
                d_c.mul_(keep[t])
        before = _before(shown, start[0], keep)
        d_weight = d_inputs.flatten(0, 1).t() @ before.flatten(0, 1)
        return d_inputs, d_weight, None, torch.stack([d_h.to(start.dtype), d_c.to(start.dtype)]), None


def make_layer(cell: str, n_in: int, width: int) -> Any:
    """One layer and direction (torch.nn's). Of two biases that are only ever added one is left at zero and does not
    learn: they would share one gradient, which must not be changed in place for both. A GRU needs its second one.
    """
    layer = CELLS[cell](n_in, width)
    if cell != "gru":
        nn.init.zeros_(layer.bias_hh_l0.requires_grad_(False))
    if cell == "lstm":  # forget gates start open (Jozefowicz et al. 2015)
        nn.init.ones_(layer.bias_ih_l0[width : 2 * width])
    return layer


def project(layer: Any, x: Tensor) -> Tensor:
    """Products of W_ih with x (…, D), biases added, but not the one inside a GRU's reset gate: (…, G H)."""
    bias = layer.bias_ih_l0 if layer.mode == "GRU" else layer.bias_ih_l0 + layer.bias_hh_l0
    return F.linear(x, layer.weight_ih_l0.to(x.dtype), bias.to(x.dtype))


def scan(
    layer: Any, inputs: Tensor, start: Tensor, keep: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """A layer over `inputs` (T, B, G H) from the state `start` (S, B, H): see above."""
    kind = inputs.dtype
    bias = layer.bias_hh_l0.to(kind) if layer.mode == "GRU" else None
    keep = None if keep is None else keep.to(kind)
    result: tuple[Tensor, Tensor | None] = SCANS[layer.mode].apply(
        inputs, layer.weight_hh_l0.to(kind), bias, start, keep
    )
    return result


def continue_scan(layer: Any, inputs: Tensor, start: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer shows (T, B, H), and its state (S, B, H) after `lengths` steps of each row."""
    shown, kept = scan(layer, inputs, start)
    row = torch.arange(inputs.shape[1], device=inputs.device)
    parts = [shown.float()] if kept is None else [shown.float(), kept]
    after = [torch.cat([old[None], new])[lengths, row] for old, new in zip(start, parts, strict=True)]
    return shown, torch.stack(after)


def recurrent_dropout(x: Tensor, p: float, seed: int, number: int) -> Tensor:
    """Dropout of x (T, B, D), the `number`-th of a seed: the same units at every step of a row."""
    if not p:
        return x
    generator = torch.Generator().manual_seed(derive_seed(seed, "layer", number))
    kept = torch.rand(x.shape[1:], generator=generator) >= p
    return x * (kept.to(x) / (1 - p))


def document_reset_mask(documents: Tensor | None) -> Tensor | None:
    """1 where a row's document is the one of the step before, 0 where another begins: (T, B, 1); None where no
    row has a second one. documents (B, T).
    """
    if documents is None:
        return None
    same = documents[:, 1:] == documents[:, :-1]
    if bool(same.all()):
        return None
    return F.pad(same, (1, 0), value=True).t()[..., None]


def reversal_index(lengths: Tensor, time: int) -> Tensor:
    """Places (T, B) that read each row's first `lengths` columns backwards and leave the padding where it is."""
    column = torch.arange(time, device=lengths.device)[:, None]
    return torch.where(column < lengths, lengths - 1 - column, column)


CELLS: dict[str, Any] = {"elman": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


SCANS: dict[str, Any] = {"RNN_TANH": ElmanScan, "LSTM": LSTMScan, "GRU": GRUScan}
"""By the mode of the torch.nn module whose weights are used."""

"""What share of a training step goes into its matrix products: how near the step is to the processor's own rate.

The products are recorded while a step runs (every mm, addmm and bmm, forward and both gradients, as they are
called), then made again bare with operands of the same shapes, strides and types. Step and products take turns in one
process on one thread. Attention's products are made in tiles by our own kernel where the processor has bfloat16
products, and are then not among them: they count as everything else the step does. share = CPU-seconds of the
products / CPU-seconds of the step, median of nine. The operands are used again and again, so that the bare products
have them as near as they can be: that makes the share smaller.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks._runner import Bench, begin, paired_ratios, show, spread, take_turns
from benchmarks._stepper import CONTEXT, HEADS, LAYERS, WIDTH, Side, ours
from benchmarks.train_speed import BATCHES, VOCABULARIES
from textus.models.kernels.native import tiles_fit

PRODUCTS = {
    torch.ops.aten.mm.default: torch.mm,
    torch.ops.aten.mm.out: torch.mm,
    torch.ops.aten.bmm.default: torch.bmm,
    torch.ops.aten.bmm.out: torch.bmm,
}
REFUSED = ("addmm", "baddbmm", "matmul", "linear", "einsum", "_scaled_dot")
"""Products of another form: were one of these called, the list would not be whole."""

Operand = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
Product = tuple[str, Operand, Operand]


class RecordProducts(TorchDispatchMode):
    """Counts every matrix product that is made while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            operands = [(tuple(operand.shape), operand.stride(), operand.dtype) for operand in args[:2]]
            self.products[(PRODUCTS[func].__name__, operands[0], operands[1])] += 1
        elif any(name in str(func) for name in REFUSED):
            raise SystemExit(f"{func} is a product this benchmark does not know; add it to PRODUCTS")
        return func(*args, **(kwargs or {}))


def products_of(step: Callable[[], float]) -> Counter[Product]:
    """The products of one step's gradients; the optimiser's own are not among them (AdamW has none)."""
    with RecordProducts() as mode:
        step()
    return mode.products


def operations(products: Counter[Product]) -> int:
    """Floating-point operations: 2 M K N for each product."""
    total = 0
    for (_, (left, _, _), (right, _, _)), times in products.items():
        batch = left[0] if len(left) == 3 else 1
        total += 2 * batch * left[-2] * left[-1] * right[-1] * times
    return total


def expected_operations(vocab: int, batch: int, tiled: bool) -> int:
    """The same from the shape of the model: a check that no product was overlooked."""
    rows, d_ff = batch * CONTEXT, -(-8 * WIDTH // 3 // 32) * 32
    linear = LAYERS * (4 * WIDTH * WIDTH + 3 * WIDTH * d_ff) + vocab * WIDTH
    attention = 0 if tiled else LAYERS * 2 * batch * HEADS * CONTEXT * CONTEXT * (WIDTH // HEADS)
    return 3 * 2 * (rows * linear + attention)


def operand(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Random numbers laid out in memory as the step's were."""
    size = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    return torch.randn(size).to(dtype).as_strided(shape, stride)


def bare(products: Counter[Product]) -> Callable[[], None]:
    """The products alone, as often as the step makes them."""
    work = [
        (getattr(torch, name), operand(*left), operand(*right), times)
        for (name, left, right), times in products.items()
    ]

    def again() -> None:
        for multiply, left, right, times in work:
            for _ in range(times):
                multiply(left, right)

    return again


def measure(vocab: int, batch: int, bench: Bench) -> dict[str, Any]:
    """One vocabulary at one batch size."""
    with ExitStack() as stack:
        step, _ = ours(Side("ours", vocab, batch, "adamw"), stack)
        step()
        products = products_of(step)
        flop, expected = operations(products), expected_operations(vocab, batch, tiles_fit(WIDTH // HEADS))
        if flop != expected:
            raise SystemExit(f"{flop} operations were recorded, {expected} follow from the shape")
        again = bare(products)
        again()
        seconds = take_turns({"step": step, "products": again}, 3 if bench.smoke else 9)
    return {
        "batch": batch,
        "products": sum(products.values()),
        "operations": flop,
        "share": paired_ratios(seconds["products"], seconds["step"], 4),
        **{f"{side}_cpu_seconds": spread(times) for side, times in seconds.items()},
        **{f"{side}_flop_per_second": round(flop / median(times)) for side, times in seconds.items()},
    }


def main() -> None:
    """Both vocabularies at both batch sizes; for each vocabulary the batch with the fastest step a token counts."""
    bench = begin("matmul_share", __doc__)
    result = bench.result = {"vocabularies": {}}
    rows = []
    for vocab in VOCABULARIES:
        points = [measure(vocab, batch, bench) for batch in BATCHES]
        counted = min(points, key=lambda point: point["step_cpu_seconds"]["median"] / point["batch"])
        result["vocabularies"][str(vocab)] = {**counted, "all": points}
        rows += [
            [vocab, point["batch"], *(f"{point['share'][key]:.1%}" for key in ("min", "median", "max")),
             f"{point['step_flop_per_second'] / 1e9:.0f}", f"{point['products_flop_per_second'] / 1e9:.0f}"]
            for point in points
        ]  # fmt: skip
    header = ["vocabulary", "batch", "min", "median", "max", "step GFLOP/s", "products GFLOP/s"]
    show("share of the step in its matrix products", header, rows)
    bench.save()


if __name__ == "__main__":
    main()

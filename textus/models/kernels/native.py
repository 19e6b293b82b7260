"""One Transformer block's training step by hand: torch's matrix products, `kernels.cpp` and `attention.cpp` for
everything between them.

Same arithmetic as `nn.attention.DecoderBlock` in bfloat16 (the twin it is tested against), no tracing, no compile
time but that of three small C++ files, kept in the user's cache. Shapes as in `textus.models.nn.layers`, N = B T
rows.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from textus.core.hardware import COMPILERS, find_compiler

SOURCES = [Path(__file__).with_name(name) for name in ("kernels.cpp", "attention.cpp", "encoder.cpp")]
SHARED = Path(__file__).with_name("bfloat16.h")
FLAGS = "-O3 -march=native -mprefer-vector-width=512 -fopenmp-simd -fno-math-errno -fno-trapping-math -shared -fPIC"
LONGEST = 8192
"""Positions a row of scores may have (a buffer in `textus_causal_softmax`)."""
WIDEST = 512
"""Width a head may have (a buffer in `unturn_head`)."""


def cache_folder() -> Path:
    """Where built kernels are kept: $TEXTUS_CACHE, or `textus` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TEXTUS_CACHE") or Path(base) / "textus")


def library() -> ctypes.CDLL | None:
    """The built kernels, or None where there is no compiler or it fails (`build_error` has the reason)."""
    return _library()[0]


def build_error() -> str | None:
    """Why there are no kernels on this machine, or None where there are."""
    return _library()[1]


@cache
def _library() -> tuple[ctypes.CDLL | None, str | None]:
    """Built once for a source, compiler and processor, and kept in the user's cache."""
    program = find_compiler()
    if program is None:
        wanted = os.environ.get("CXX", "").strip()
        if wanted:
            return None, f"the C++ compiler {wanted} is not found; set CXX to another, or to nothing"
        return None, f"there is no C++ compiler ({', '.join(COMPILERS)}) to build the kernels"
    texts = [source.read_text() for source in (*SOURCES, SHARED)]
    key = hashlib.sha256("\n".join([*texts, FLAGS, *program, _processor()]).encode())
    built = cache_folder() / f"kernels-{key.hexdigest()[:16]}.so"
    try:
        if not built.exists():
            _build(program, built)
        return load_library(built), None
    except (OSError, subprocess.CalledProcessError) as error:
        output = getattr(error, "stderr", None) or str(error)
        return (
            None,
            f"the C++ compiler {' '.join(program)} could not build the kernels ({_first_line(output)})",
        )


def load_library(built: Path) -> ctypes.CDLL:
    """Load a built library and declare its return types."""
    library = ctypes.CDLL(str(built))
    library.textus_cross_entropy.restype = ctypes.c_double
    library.textus_attention_width_step.restype = ctypes.c_int64
    return library


def _processor() -> str:
    """What `-march=native` means here: a cache may be shared between machines."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    return next((line for line in lines if line.startswith("flags")), "")


def _build(program: list[str], target: Path) -> None:
    """Compile next to `target`, then rename: two processes that build at once do not see half a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        temporary = Path(folder) / target.name
        command = [*program, *FLAGS.split(), *map(str, SOURCES), "-o", str(temporary)]
        subprocess.run(command, capture_output=True, text=True, check=True)
        temporary.replace(target)


def _first_line(text: str) -> str:
    """The first line with content, short enough for a message."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")[:200]


def invoke(name: str, *arguments: Any) -> Any:
    """Run one kernel: tensors go as pointers (they must be contiguous), None as null, ints as int64, floats
    as float.
    """
    return getattr(library(), name)(*map(_argument, arguments))


def _argument(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, Tensor):
        assert value.is_contiguous(), "kernels read contiguous tensors"
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_float(value) if isinstance(value, float) else ctypes.c_int64(value)


PREPARED = WeakIdKeyDictionary()
"""Weight → its version, how it was prepared, the result; kept outside of the weight, which stays picklable."""


def prepare_weight(weight: Tensor, how: Callable[[Tensor], Tensor]) -> Tensor:
    """What `how` makes of a weight, kept until the weight changes (so that torch counts it, as optimisers do; not by
    `weight.data`) or is wanted in another way, as between evaluations and learning.
    """
    if weight.is_inference():  # made on the way, such as a sum with adapters: torch counts no changes of it
        return how(weight)
    kept = PREPARED.get(weight)
    if kept is None or kept[:2] != (weight._version, how):
        kept = PREPARED[weight] = (weight._version, how, how(weight.detach()))
    result: Tensor = kept[2]
    return result


def bf16(weight: Tensor) -> Tensor:
    """The weight in bfloat16, cast once a step."""
    return prepare_weight(weight, torch.Tensor.bfloat16)


def add_rms_norm(
    x: Tensor, delta: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """x + delta, its norm, and 1 / rms: (N, D), (N, D), (N,)."""
    rows, width = x.shape
    total = x if delta is None else torch.empty_like(x)
    out, inverse = torch.empty_like(x), x.new_empty(rows, dtype=torch.float32)
    invoke("textus_add_rms_norm", x, delta, weight, total, out, inverse, rows, width, eps)
    return total, out, inverse


def rms_norm_backward(
    gradient: Tensor, x: Tensor, inverse: Tensor, weight: Tensor, d_total: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradient of x (N, D), with what comes past the norm added, and of the weight (D,)."""
    d_x, d_weight = torch.empty_like(x), torch.zeros_like(weight)
    invoke("textus_rms_norm_backward", gradient, x, inverse, weight, d_total, d_x, d_weight, *x.shape)
    return d_x, d_weight


def dropout(x: Tensor, p: float, seed: int) -> Tensor:
    """Zero each value of x with probability p, in place, the others over 1 - p; the same seed zeroes the same ones."""
    if p:
        invoke("textus_dropout", x, x.numel(), seed, p)
    return x


class NativeDropout(torch.autograd.Function):
    """`dropout` of a copy, and of its gradient on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, seed: int) -> Tensor:
        ctx.p, ctx.seed = p, seed
        return dropout(x.clone(memory_format=torch.contiguous_format), p, seed)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return dropout(gradients[0].clone(memory_format=torch.contiguous_format), ctx.p, ctx.seed), None, None


class AddNorm(torch.autograd.Function):
    """The norm after the last block: rms_norm(x + delta) for x and delta (N, D)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> Tensor:
        total, out, inverse = add_rms_norm(x, delta, weight, eps)
        ctx.save_for_backward(total, inverse, weight)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        total, inverse, weight = ctx.saved_tensors
        d_x, d_weight = rms_norm_backward(
            gradients[0].contiguous(), total, inverse, weight, torch.zeros_like(total)
        )
        return d_x, d_x, d_weight, None


class NativeBlock(torch.autograd.Function):
    """One block on the pair (x, delta), whose sum is its input; returns a pair whose sum is its output.

    The sum is left to the next norm, which reads both anyway. `first` (B, T) is the first key each query may
    see.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        delta: Tensor | None,
        angles: tuple[Tensor, Tensor],
        first: Tensor,
        shape: BlockShape,
        seed: int,
        *weights: Any,
    ) -> tuple[Tensor, Tensor]:
        norm1, w_qkv, q_weight, k_weight, w_out, norm2, w_gate_up, w_down = weights
        assert None not in (norm1, w_qkv, w_out, norm2, w_gate_up, w_down)
        x1, h1, inverse1 = add_rms_norm(x, delta, norm1, shape.eps)
        qkv = h1 @ bf16(w_qkv).t()
        q, k, v, inverse_heads = shape.split(qkv, q_weight, k_weight, angles)
        mixed, weighed = ATTENTIONS[shape.attention][0](shape, (q, k, v), first)
        out = dropout(mixed @ bf16(w_out).t(), shape.dropout, seed)
        x2, h2, inverse2 = add_rms_norm(x1, out, norm2, shape.eps)
        gate_up = h2 @ bf16(w_gate_up).t()
        active = torch.empty(x.shape[0], gate_up.shape[1] // 2, dtype=x.dtype)
        invoke("textus_swiglu", gate_up, active, *active.shape)
        ctx.shape, ctx.seed, ctx.angles, ctx.first = shape, seed, angles, first
        ctx.had_delta = delta is not None
        ctx.save_for_backward(
            x1, h1, inverse1, qkv, q, k, v, inverse_heads, weighed, mixed, x2, h2, inverse2, gate_up,
            active, *weights
        )  # fmt: skip
        return x2, dropout(active @ bf16(w_down).t(), shape.dropout, seed + 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        x1, h1, inverse1, qkv, q, k, v, inverse_heads, weighed = saved[:9]
        mixed, x2, h2, inverse2, gate_up, active = saved[9:15]
        norm1, w_qkv, q_weight, k_weight, w_out, norm2, w_gate_up, w_down = saved[15:]
        shape = ctx.shape
        d_x2, d_out = (gradient.contiguous() for gradient in gradients)
        d_out = shape.drop(d_out, ctx.seed + 1)
        d_active = d_out @ bf16(w_down)
        d_w_down = d_out.t() @ active
        d_gate_up = torch.empty_like(gate_up)
        invoke("textus_swiglu_backward", d_active, gate_up, d_gate_up, *active.shape)
        d_w_gate_up = d_gate_up.t() @ h2
        d_x2, d_norm2 = rms_norm_backward(d_gate_up @ bf16(w_gate_up), x2, inverse2, norm2, d_x2)
        d_mixed_out = shape.drop(d_x2, ctx.seed)
        d_w_out = d_mixed_out.t() @ mixed
        d_q, d_k, d_v = ATTENTIONS[shape.attention][1](
            shape, d_mixed_out @ bf16(w_out), (q, k, v), weighed, ctx.first
        )
        d_qkv, d_q_weight, d_k_weight = shape.split_backward(
            (d_q, d_k, d_v), qkv, inverse_heads, (q_weight, k_weight), ctx.angles
        )
        d_w_qkv = d_qkv.t() @ h1
        d_x, d_norm1 = rms_norm_backward(d_qkv @ bf16(w_qkv), x1, inverse1, norm1, d_x2)
        d_weights = (d_norm1, d_w_qkv, d_q_weight, d_k_weight, d_w_out, d_norm2, d_w_gate_up, d_w_down)
        return d_x, (d_x if ctx.had_delta else None), None, None, None, None, *d_weights


class BlockShape:
    """The sizes of one step, and the moves between rows (N, …) and heads (B, H, T, K) that need them."""

    def __init__(
        self,
        sizes: tuple[int, int, int, int, int],
        *,
        eps: float,
        dropout: float = 0.0,
        attention: str = "plain",
    ) -> None:
        self.sizes, self.attention = sizes, attention
        self.batch, self.time, self.n_head, self.n_kv_head, self.d_head = sizes
        self.eps, self.dropout = eps, dropout
        self.factor = 1.0 / math.sqrt(self.d_head)

    def drop(self, gradient: Tensor, seed: int) -> Tensor:
        """The gradient that comes back through a dropout; the one given is left as it is."""
        return dropout(gradient.clone(), self.dropout, seed) if self.dropout else gradient

    def split(
        self, qkv: Tensor, q_weight: Tensor | None, k_weight: Tensor | None, angles: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q (B G, R T, K) already over √K, k and v (B G, T, K), and 1 / rms of each head."""
        groups, repeats = self.batch * self.n_kv_head, self.n_head // self.n_kv_head
        q = qkv.new_empty(groups, repeats * self.time, self.d_head)
        k, v = (qkv.new_empty(groups, self.time, self.d_head) for _ in range(2))
        inverse = qkv.new_empty(self.batch * self.time, self.n_head + self.n_kv_head, dtype=torch.float32)
        outputs = (q, k, v, inverse)
        invoke(
            "textus_split_heads",
            qkv,
            q_weight,
            k_weight,
            *angles,
            *outputs,
            *self.sizes,
            self.eps,
            self.factor,
        )
        return q, k, v, inverse

    def split_backward(
        self,
        gradients: tuple[Tensor, Tensor, Tensor],
        qkv: Tensor,
        inverse: Tensor,
        weights: tuple[Tensor | None, Tensor | None],
        angles: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Gradients of qkv (N, (H + 2G) K) and of the two head norms' weights (K,)."""
        d_qkv = torch.empty_like(qkv)
        d_weights = [None if weight is None else torch.zeros_like(weight) for weight in weights]
        invoke(
            "textus_split_heads_backward", *gradients, qkv, inverse, *weights, *angles, d_qkv, *d_weights, *self.sizes,
            self.factor,
        )  # fmt: skip
        return d_qkv, d_weights[0], d_weights[1]

    def merge(self, heads: Tensor) -> Tensor:
        """(B, H, T, K) -> (B T, H K)."""
        out = heads.new_empty(self.batch * self.time, self.n_head * self.d_head)
        invoke("textus_merge_heads", heads, out, self.batch, self.time, self.n_head, self.d_head, 1)
        return out

    def unmerge(self, rows: Tensor) -> Tensor:
        """(B T, H K) -> (B G, R T, K)."""
        out = rows.new_empty(
            self.batch * self.n_kv_head, self.n_head // self.n_kv_head * self.time, self.d_head
        )
        invoke("textus_merge_heads", rows, out, self.batch, self.time, self.n_head, self.d_head, 0)
        return out


def tiles_fit(d_head: int) -> bool:
    """Whether `attention.cpp` computes heads of this width here: its products need AVX512-BF16."""
    built = library()
    step = built.textus_attention_width_step() if built else 0
    return step > 0 and d_head % step == 0


Heads = tuple[Tensor, Tensor, Tensor]
"""q (B G, R T, K) over √K, k and v (B G, T, K)."""


def attend_by_products(shape: BlockShape, heads: Heads, first: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(q kᵀ) v by two of torch's batched products: mixed (N, H K), and the probabilities (B G, R T, T)."""
    q, k, v = heads
    probability = torch.bmm(q, k.transpose(1, 2))
    invoke("textus_causal_softmax", probability, first, shape.batch, shape.n_head, shape.time)
    return shape.merge(torch.bmm(probability, v)), probability


def products_backward(
    shape: BlockShape, gradient: Tensor, heads: Heads, probability: Tensor, first: Tensor
) -> Heads:
    """Gradients of q, k and v from that of `mixed`, and from the probabilities that the way there gave."""
    q, k, v = heads
    d_mixed = shape.unmerge(gradient)
    d_v = torch.bmm(probability.transpose(1, 2), d_mixed)
    d_scores = torch.bmm(d_mixed, v.transpose(1, 2))
    name = "textus_causal_softmax_backward"
    invoke(name, d_scores, probability, first, shape.batch, shape.n_head, shape.time)
    return torch.bmm(d_scores, k), torch.bmm(d_scores.transpose(1, 2), q), d_v


def attend_in_tiles(shape: BlockShape, heads: Heads, first: Tensor) -> tuple[Tensor, Tensor]:
    """The same by `attention.cpp`: mixed (N, H K), and the log of each query's sum (B, H, T)."""
    q = heads[0]
    mixed = q.new_empty(shape.batch * shape.time, shape.n_head * shape.d_head)
    log_sum = q.new_empty(shape.batch, shape.n_head, shape.time, dtype=torch.float32)
    invoke("textus_attention", *heads, first, mixed, log_sum, *shape.sizes)
    return mixed, log_sum


def tiles_backward(
    shape: BlockShape, gradient: Tensor, heads: Heads, log_sum: Tensor, first: Tensor
) -> Heads:
    """As `products_backward`; the probabilities are computed again, tile by tile."""
    q, k, v = heads
    slopes = (torch.empty_like(q), torch.empty_like(k), torch.empty_like(v))
    invoke("textus_attention_backward", gradient, *heads, log_sum, first, *slopes, *shape.sizes)
    return slopes


ATTENTIONS = {
    "plain": (attend_by_products, products_backward),
    "tiled": (attend_in_tiles, tiles_backward),
}


def chunk_loss(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor) -> tuple[float, Tensor]:
    """As `nn.cross_entropy.chunk_loss`, by one kernel over bfloat16 logits."""
    logits = hidden @ weight.t()
    return invoke("textus_cross_entropy", logits, targets, weights, *logits.shape), logits

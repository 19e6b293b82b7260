"""The kernels against their torch twins, and what happens where they cannot be built.

bfloat16 rounds, so equality is measured: against the same block in float32, the kernels' error may be 1.3 times
the twin's at most. A planted fault in the source must fail that.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from textus.core import hardware
from textus.core.rng import derive_seed
from textus.data.batch import Batch
from textus.models.decoder import Decoder
from textus.models.kernels import native
from textus.models.nn.attention import DecoderConfig
from textus.models.nn.cross_entropy import chunk_loss, cross_entropy
from textus.models.nn.rope import RopeScaling
from textus.training.gradients import GradientAccumulator

needs_kernels = pytest.mark.skipif(native.library() is None, reason=f"no kernels: {native.build_error()}")


def test_the_kernels_are_there_where_all_is_tested() -> None:
    """Most of this file skips without them; on the machine that decides, that must not look green."""
    assert native.library() is not None or not os.environ.get("CI"), native.build_error()


V = 33
STEP_SEED = 11
SHAPES: dict[str, dict[str, Any]] = {
    "usual": {},
    "few key-value heads": {"n_head": 4, "n_kv_head": 2, "d_model": 128},
    "one key-value head": {"n_head": 3, "n_kv_head": 1, "d_model": 48},
    "wide heads": {"n_head": 1, "d_model": 96},
    "several blocks of queries": {"time": 150, "context_length": 150, "documents": True, "n_kv_head": 1},
    "no norms on queries and keys": {"qk_norm": False},
    "window": {"window": 7},
    "documents": {"documents": True},
    "documents and window": {"documents": True, "window": 5},
    "odd length": {"time": 31},
    "one position": {"time": 1},
    "dropout": {"dropout": 0.5},
    "odd widths": {"d_model": 42, "n_head": 3, "d_ff": 37, "time": 19},
    "heads wider than their share": {"d_head": 48},
    "stretched angles": {"rope_scaling": RopeScaling("yarn", 4.0, original_context=10)},
    "another epsilon": {"norm_eps": 0.05},
}


def decoder(seed: int = 1, **shape: Any) -> Decoder:
    base = {"vocab_size": V, "context_length": 40, "n_layer": 2, "n_head": 2, "d_model": 64}
    return draw(Decoder(DecoderConfig(**{**base, **shape})), seed)


def draw(model: Decoder, seed: int) -> Decoder:
    """Other weights; none zero or one, which would hide faults."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.15)
    return model


class Masked(torch.nn.Module):
    """The dropout of one seed, as the kernel draws it, for the twin in any type."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def forward(self, x: Tensor) -> Tensor:
        mask = native.dropout(torch.ones(x.numel(), dtype=torch.bfloat16), 0.5, self.seed)
        return x * mask.view(x.shape).to(x.dtype)


def mask_as_kernels_do(model: Decoder, batch: Batch) -> None:
    """Give the twin the masks of the kernels: its own would be others."""
    seed = derive_seed(STEP_SEED, "dropout", batch.position, batch.piece) & 0x7FFFFFFF
    model.dropout = Masked(seed)  # type: ignore[assignment]
    for number, block in enumerate(model.blocks):
        block.attention.dropout = Masked(seed + 1 + 2 * number)
        block.feed_forward.dropout = Masked(seed + 2 + 2 * number)


def batch(rows: int = 3, time: int = 32, documents: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(2)
    ids, targets = (torch.randint(0, V, (rows, time), generator=generator) for _ in range(2))
    weights = torch.randint(0, 3, (rows, time), generator=generator).float() / 2
    weights[0, 0] = 1.0
    numbers = torch.arange(time) // 9 + torch.arange(rows)[:, None] if documents else None
    return Batch(ids, targets, weights, documents=numbers)


def gradients(
    model: Decoder, batch: Batch, precision: str, step: str, attention: str = "plain"
) -> dict[str, Tensor]:
    """The loss and every gradient."""
    model.set_compute(precision, attention, step)
    model.zero_grad()
    torch.manual_seed(STEP_SEED)
    total = model.loss(batch).total
    total.backward()
    return {
        "loss": total.detach(),
        **{n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None},
    }


def errors(model: Decoder, batch: Batch, attention: str = "plain") -> dict[str, tuple[float, float]]:
    """For the loss and each gradient, the kernels' and the twin's error relative to float32 (to a thousandth
    where the true gradient is zero: at one position nothing depends on queries and keys).

    Root mean square over six draws of the weights: one draw of a norm's few weights is left to chance.
    """
    squares: dict[str, tuple[float, float]] = {}
    for seed in range(6):
        draw(model, seed)
        exact = gradients(model, batch, "float32", "eager")
        ways = (("native", attention), ("eager", "plain"))
        both = [gradients(model, batch, "bfloat16", *way) for way in ways]
        assert exact.keys() == both[0].keys()
        for name, true in exact.items():
            native, twin = (float((f[name] - true).norm() / (true.norm() + 2e-3)) ** 2 / 6 for f in both)
            before = squares.get(name, (0.0, 0.0))
            squares[name] = before[0] + native, before[1] + twin
    return {name: (native**0.5, twin**0.5) for name, (native, twin) in squares.items()}


def is_equal(results: dict[str, tuple[float, float]]) -> bool:
    """Each within 1.3 of the twin's error; the loss is one number, and its last bits are chance."""
    slack = {name: 1e-3 if name == "loss" else 1e-4 for name in results}
    return all(native <= 1.3 * twin + slack[name] for name, (native, twin) in results.items())


@pytest.mark.promise("Training", "A native step is as exact as its torch twin; a planted fault is not")
@needs_kernels
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("attention", native.ATTENTIONS)
def test_a_step_is_as_exact_as_its_twin(attention: str, name: str) -> None:
    shape = dict(SHAPES[name])
    given = batch(time=shape.pop("time", 32), documents=shape.pop("documents", False))
    model = decoder(**shape)
    if attention not in model.native_attentions():
        pytest.skip("no tiles for heads of this width on this processor")
    if "dropout" in shape:
        mask_as_kernels_do(model, given)
    result = errors(model, given, attention)
    assert is_equal(result), result
    if given.ids.shape[1] > 1:
        assert max(native for native, _ in result.values()) > 1e-4  # it did compute in bfloat16


@needs_kernels
def test_another_mask_on_the_way_back_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = decoder(dropout=0.5)
    mask_as_kernels_do(model, batch())
    drop = native.BlockShape.drop
    monkeypatch.setattr(
        native.BlockShape, "drop", lambda self, gradient, seed: drop(self, gradient, seed + 1)
    )
    assert not is_equal(errors(model, batch()))


@needs_kernels
def test_each_run_seed_drops_others() -> None:
    model = decoder(dropout=0.5)
    model.set_compute("bfloat16", "plain", "native")

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return float(model.loss(batch()).total.detach())

    assert loss(1) == loss(1) != loss(2)


@needs_kernels
def test_dropout_keeps_the_mean_and_follows_its_seed() -> None:
    ones = torch.ones(1 << 16, dtype=torch.bfloat16)
    for p in (0.1, 0.5, 0.9):
        kept = native.dropout(ones.clone(), p, 7)
        assert float((kept == 0).float().mean()) == pytest.approx(p, abs=0.01)
        assert float(kept.float().mean()) == pytest.approx(1, abs=0.05)
        assert torch.equal(kept, native.dropout(ones.clone(), p, 7))
    other = native.dropout(ones.clone(), 0.5, 8)
    agree = float((native.dropout(ones.clone(), 0.5, 7) == other).float().mean())
    assert agree == pytest.approx(0.5, abs=0.02)  # the next seed's mask has nothing to do with it


@needs_kernels
def test_nothing_is_dropped_outside_training() -> None:
    model = decoder(dropout=0.5).eval()
    model.set_compute("bfloat16", "plain", "native")
    with torch.no_grad():
        assert torch.equal(model.hidden(batch().ids, seed=1), model.hidden(batch().ids, seed=2))
        model.train()
        assert not torch.equal(model.hidden(batch().ids, seed=1), model.hidden(batch().ids, seed=2))


# ── planted faults ─────────────────────────────────────────────────────────────────────────────

FAULTS = {
    "softmax backward": ("= load(p[s]) * (load(g[s]) - dot)", "= load(p[s]) * load(g[s])"),
    "swiglu backward": ("(1.0f + x * (1.0f - s))", "(1.0f + x * s)"),
    "norm backward": ("slope * weight[d] * scale - value * back", "slope * weight[d] * scale"),
    "rotation": (
        "turned[d + half] = values[d + half] * cos[d] - values[d]",
        "turned[d + half] = values[d + half] * cos[d] + values[d]",
    ),
    "document edge": ("count = to - from;", "count = (from = 0, to);"),
    "one-hot": ("* scale - weight)", "* scale)"),
    "rounding": (
        "bits + 0x7fffu + ((bits >> 16) & 1u)",
        "bits & 0xffe00000u",
    ),
    "head norm": ("= load(in[d]) * scale * factor", "= load(in[d]) * factor"),
    "tiled mean": (", dots[r + i]);", ", _mm512_setzero_ps());"),
    "tiled document edge": ("from = real ? head.from(t + r) : 0,", "from = 0,"),
    "tiled diagonal": (" to = real ? head.to(t + r) : 0;", " to = real ? head.to(t + r) + 1 : 0;"),
    "tiled first key": ("start, end, head.from(t + r), head.to(t + r),", "start, end, 0, head.to(t + r),"),
    "tiled sums begun anew": ("sum_v + s * width);", "sum_v + (s ^ 4) * width);"),
}


def built(folder: Path, changes: dict[str, tuple[str, str]]) -> dict[str, ctypes.CDLL]:
    """Libraries of the source with one thing changed in each."""
    flags = native.FLAGS.replace("-O3", "-O1").split()

    def compile_one(item: tuple[str, tuple[str, str]]) -> tuple[str, ctypes.CDLL]:
        name, (old, new) = item
        sources = [*native.SOURCES, native.SHARED]
        assert sum(path.read_text().count(old) for path in sources) >= 1, (
            f"the sources no longer have {old!r}"
        )
        target = folder / name.replace(" ", "-") / "kernels.so"
        target.parent.mkdir()
        for source in sources:
            (target.parent / source.name).write_text(source.read_text().replace(old, new))
        program = hardware.find_compiler()
        assert program is not None
        paths = [str(target.parent / path.name) for path in native.SOURCES]
        subprocess.run([*program, *flags, *paths, "-o", str(target)], check=True)
        return name, native.load_library(target)

    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(compile_one, changes.items()))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ctypes.CDLL]:
    return built(tmp_path_factory.mktemp("faulty"), FAULTS)


@pytest.mark.slow
@needs_kernels
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_not_as_exact(
    fault: str, faulty: dict[str, ctypes.CDLL], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = batch(documents=True)
    attention = "tiled" if fault.startswith("tiled") else "plain"
    if attention not in decoder().native_attentions():
        pytest.skip("no tiles on this processor")
    assert is_equal(errors(decoder(), given, attention))
    monkeypatch.setattr(native, "library", lambda: faulty[fault])
    assert not is_equal(errors(decoder(), given, attention))


# ── the loss ───────────────────────────────────────────────────────────────────────────────────


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    logits = (hidden @ weight.t()).flatten(0, 1)
    return (
        torch.nn.functional.cross_entropy(logits, targets.flatten(), reduction="none") * weights.flatten()
    ).sum()


def loss_and_gradients(loss: Callable[..., Tensor], given: list[Tensor], **options: Any) -> list[Tensor]:
    hidden, weight = (item.clone().requires_grad_() for item in given[:2])
    total = loss(hidden, weight, *given[2:], **options)
    (total * 0.5).backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    return [total.detach(), hidden.grad.float(), weight.grad.float()]


def inputs(rows: int, vocabulary: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(2, rows, 24, generator=generator).to(dtype)
    weight = torch.randn(vocabulary, 24, generator=generator)
    targets = torch.randint(0, vocabulary, (2, rows), generator=generator)
    return [hidden, weight, targets, torch.randint(0, 3, (2, rows), generator=generator).float()]


@pytest.mark.promise("Training", "The loss in chunks is the plain cross-entropy")
@pytest.mark.parametrize(("rows", "vocabulary"), [(1, 7), (8, 20_000), (9, 20_000), (7, 16_384), (50, 3)])
def test_cross_entropy_in_chunks_is_plain_cross_entropy(rows: int, vocabulary: int) -> None:
    """20,000 entries make chunks of 16 rows: 16 rows are one chunk, 18 are one and a bit."""
    given = inputs(rows, vocabulary)
    for mine, theirs in zip(
        loss_and_gradients(cross_entropy, given), loss_and_gradients(plain, given), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_a_chunk_left_out_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(hidden: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        loss, gradient = chunk_loss(hidden, *rest)
        return (loss, gradient) if len(hidden) == 16 else (loss * 0, gradient * 0)

    given = inputs(9, 20_000)
    for mine, theirs in zip(
        loss_and_gradients(cross_entropy, given, compute=forgetful),
        loss_and_gradients(plain, given),
        strict=True,
    ):
        assert not torch.allclose(mine, theirs, rtol=1e-5, atol=1e-5)


@needs_kernels
@pytest.mark.parametrize(("rows", "vocabulary"), [(5, 65), (31, 4096), (9, 17)])
def test_the_cross_entropy_kernel_is_as_exact_as_torch(rows: int, vocabulary: int) -> None:
    given = inputs(rows, vocabulary, torch.bfloat16)
    exact = loss_and_gradients(plain, [given[0].float(), *given[1:]])
    twin = loss_and_gradients(cross_entropy, given)
    computed = loss_and_gradients(cross_entropy, given, compute=native.chunk_loss)
    for mine, theirs, true in zip(computed, twin, exact, strict=True):
        assert float((mine - true).norm()) <= 1.3 * float((theirs - true).norm()) + 4e-3 * float(true.norm())


@needs_kernels
def test_targets_of_weight_zero_do_not_matter() -> None:
    model, one, other = decoder(), batch(), batch()
    other.targets = torch.where(other.weights == 0, (other.targets + 1) % V, other.targets)
    assert not torch.equal(one.targets, other.targets)
    mine, theirs = (gradients(model, item, "bfloat16", "native") for item in (one, other))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


# ── not-a-number ───────────────────────────────────────────────────────────────────────────────

NANS = {
    "usual": torch.tensor(float("nan")),
    "all bits": torch.tensor([-1], dtype=torch.int32).view(torch.float32)[0],
    "largest": torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)[0],
    "infinity": torch.tensor(float("inf")),
}


@pytest.mark.promise("Training", "Not-a-number in is not-a-number out: the kernels hide none")
@needs_kernels
@pytest.mark.parametrize("kind", NANS)
@pytest.mark.parametrize(
    "where",
    ["embedding.weight", "blocks.0.attention_norm.weight", "blocks.1.attention.q_norm.weight",
     "blocks.0.feed_forward.down.weight", "norm.weight", "head.weight"],
)  # fmt: skip
def test_not_a_number_in_is_not_a_number_out(where: str, kind: str) -> None:
    model = decoder()
    with torch.no_grad():
        dict(model.named_parameters())[where].view(-1)[:] = NANS[kind]
    for attention in model.native_attentions():
        assert not torch.isfinite(gradients(model, batch(), "bfloat16", "native", attention)["loss"])


# ── workers, and the cast kept for a step ──────────────────────────────────────────────────────


@pytest.mark.promise("Training", "Any number of workers gives the same bytes")
@pytest.mark.parametrize("step", ["eager", pytest.param("native", marks=needs_kernels)])
def test_any_number_of_workers_gives_the_same_bytes(step: str) -> None:
    results = []
    for workers in (1, 2, 3):
        model = decoder()
        model.set_compute("bfloat16", "plain", step)
        for _ in range(2):
            loss = GradientAccumulator(model, workers).compute(batch(rows=8), 4)
        results.append([loss.total, *(p.grad for p in model.parameters())])
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@needs_kernels
@pytest.mark.parametrize("fused", [True, False])
def test_the_kept_cast_follows_the_weights(fused: bool) -> None:
    from textus.training.optim import OptimSettings, make_optimisers

    model = decoder()
    before = float(gradients(model, batch(), "bfloat16", "native")["loss"])
    settings = OptimSettings(optimiser="adamw" if fused else "sgd", rate=0.1)
    for optimiser in make_optimisers(model.parameter_groups(), settings).values():
        optimiser.step()
    after = gradients(model, batch(), "bfloat16", "native")["loss"]
    fresh = decoder()
    fresh.load_state_dict(model.state_dict())
    assert float(after) != before
    assert torch.equal(after, gradients(fresh, batch(), "bfloat16", "native")["loss"])


# ── building ───────────────────────────────────────────────────────────────────────────────────

ASK = "from textus.models.kernels import native as k; print(k.library() is None, '|', k.build_error())"


def ask(cache: Path, code: str = ASK, **environment: str) -> subprocess.Popen[str]:
    """A new process with a cache of its own."""
    inherited = {**os.environ, "TEXTUS_CACHE": str(cache), **environment}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=inherited, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def answer(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return (out + err).strip()


@pytest.mark.promise(
    "Training", "Without a compiler training falls back to the eager step and prints one line"
)
def test_without_a_compiler_the_eager_step_is_taken_and_one_line_is_reported(tmp_path: Path) -> None:
    code = (
        "from textus.training import autotune; from textus.models.registry import build\n"
        "autotune.fast_bf16 = lambda: True\n"
        "model = build('decoder', {'vocab_size': 9, 'n_layer': 1, 'n_head': 1, 'd_model': 8})\n"
        "print([c.step for c in autotune.candidates(model, compiled=False)])"
    )
    prompts = [
        ask(tmp_path, PATH=str(tmp_path), CXX=""),
        ask(tmp_path, CXX="/nowhere/g++"),
        ask(tmp_path, CXX="/bin/false"),
        ask(tmp_path / "run.json" / "x", CXX=""),
        ask(tmp_path, code, PATH=str(tmp_path), CXX=""),
    ]
    (tmp_path / "run.json").write_text("a file where the cache folder should be")
    missing, wrong, failing, unwritable, chosen = map(answer, prompts)
    assert missing.startswith("True | there is no C++ compiler")
    assert wrong.startswith("True | the C++ compiler /nowhere/g++ is not found")
    assert failing.startswith("True | the C++ compiler /bin/false could not build")
    assert unwritable.startswith("True | the C++ compiler")
    assert "'native'" not in chosen
    assert "'eager'" in chosen
    assert chosen.count("the eager step is taken") == 1


@pytest.mark.slow
@needs_kernels
def test_two_processes_that_build_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    code = ASK + "; k.invoke('textus_swiglu', *[__import__('torch').zeros(2, 4).bfloat16()] * 2, 1, 2)"
    fast = native.FLAGS.replace("-O3", "-O0")
    code = f"from textus.models.kernels import native; native.FLAGS = {fast!r}; {code}"
    assert [answer(item) for item in [ask(tmp_path, code) for _ in range(3)]] == ["False | None"] * 3
    assert [path.suffix for path in tmp_path.iterdir()] == [".so"]
    next(tmp_path.iterdir()).write_bytes(b"cut short")
    assert answer(ask(tmp_path, code.partition("; k.invoke")[0])).startswith("True | the C++ compiler")

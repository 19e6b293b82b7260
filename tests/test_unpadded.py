"""An encoder's kernels without padding against their torch twin, and where they are taken.

bfloat16 rounds, so equality is measured: against the same model in float32, the kernels' error may be 1.3 times the
twin's at most. A planted fault in the source must fail that.
"""

from __future__ import annotations

import ctypes
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from raising import raises
from test_finetuning import sentences, written
from test_kernels import built, needs_kernels
from torch import Tensor

from textus import api
from textus.core.errors import UsageError
from textus.finetuning import finetune
from textus.models.encoder import Encoder
from textus.models.kernels import native, varlen
from textus.models.nn.lora import LoRASettings, add_lora, lora_layers, train_last
from textus.models.registry import build

V, T = 61, 37
SHAPE = {
    "vocab_size": V, "n_layer": 2, "n_head": 2, "d_model": 64, "context_length": 300, "dropout": 0.0, "bias": True,
    "position": "learned", "norm": "layer", "norm_first": False, "activation": "gelu-exact", "segments": 2,
    "mask_id": 3,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "usual": {},
    "odd widths": {"d_model": 42, "n_head": 3, "d_ff": 37},
    "another epsilon": {"norm_eps": 0.05},
    "places from 2": {"position_offset": 2},
}
LENGTHS = {
    "ragged": (T, 3, 1, 16, 17, 33),
    "all alike": (T, T),
    "one of one": (1,),
    "long": (150, 70),
    "very long": (280, 5),
}


def encoder(**shape: Any) -> Encoder:
    model = build("encoder", {**SHAPE, **shape})
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.15)
    assert isinstance(model, Encoder)
    return model


def texts(lengths: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and segments (B, T)."""
    ids = torch.randint(4, V, (len(lengths), max(lengths)))
    column = torch.arange(max(lengths))
    return ids, column < torch.tensor(lengths)[:, None], (column > 2).long().expand_as(ids)


def computed(model: Encoder, given: tuple[Tensor, ...], precision: str, step: str) -> dict[str, Tensor]:
    """States of real positions, and the gradient of every weight."""
    model.set_compute(precision, "plain", step)
    model.zero_grad()
    hidden = model.hidden(*given).float() * given[1][..., None]
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))
    (hidden * weights).sum().backward()
    results = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"states": hidden.detach(), **results}


def worse(model: Encoder, given: tuple[Tensor, ...]) -> list[str]:
    """What the kernels compute less exactly than the twin does."""
    exact = computed(model, given, "float32", "eager")
    twin, mine = (computed(model, given, "bfloat16", step) for step in ("eager", "unpadded"))
    assert exact.keys() == mine.keys()
    error = {
        name: [float((item[name] - exact[name]).norm() / exact[name].norm()) for item in (twin, mine)]
        for name in exact
    }
    return [f"{name}: {a:.4f} {b:.4f}" for name, (a, b) in error.items() if not b <= 1.3 * a + 2e-3]


WAYS = ["tiles", "products"]


def attending(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention computed so, also where it could be computed otherwise; heads that are no multiple of 32 wide never fit
    tiles.
    """
    if way == "products":
        monkeypatch.setattr(varlen, "tiles_fit", lambda width: False)
    elif not native.tiles_fit(SHAPE["d_model"] // SHAPE["n_head"]):
        pytest.skip("no tiles on this processor")


@pytest.mark.promise(
    "Tasks",
    "Without padding an encoder computes what its torch twin does, forward and backward, for texts of "
    "any lengths, attention in tiles or by products; planted faults are seen; what the kernels cannot "
    "compute is refused",
)
@needs_kernels
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("way", WAYS)
def test_states_and_gradients_are_the_twin_s(
    way: str, shape: str, lengths: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attending(way, monkeypatch)
    assert worse(encoder(**SHAPES[shape]), texts(LENGTHS[lengths])) == []


FAULTS = {
    "softmax past the end": ("_mm512_mask_mul_ps(_mm512_set1_ps(-3.0e38f), real,", "_mm512_maskz_mul_ps(real,"),
    "long rows past the end": ("softmax(values, length);", "softmax(values, length - 1);"),
    "other text's rows": ("rows + (starts[b] + t) * stride", "rows + (starts[0] + t) * stride"),
    "no mean": ("scale * (slopes[d] - total - values[d] * dot)", "scale * (slopes[d] - values[d] * dot)"),
    "no dot": ("scale * (slopes[d] - total - values[d] * dot)", "scale * (slopes[d] - total)"),
    "gelu's slope": ("(below + value * density)", "(below)"),
    "gelu's bias": ("d_bias[start + d] += values[d]", "d_bias[d] += values[d]"),
    "shift": ("d_shift[d] += slopes[d]", "d_shift[d] += 0.9f * slopes[d]"),
    "rows summed": ("out[d] += load(rows[n * width + d])", "out[d] = load(rows[n * width + d])"),
    "score gradient": ("shares[s] * (values[s] - dot) * factor", "shares[s] * values[s] * factor"),
}  # fmt: skip


READING_FAULTS = {
    "keys of another text": ("return {q, q + part,", "return {q, qkv + part + h * width,"),
    "values of another head": ("q + 2 * part, 3 * part", "q + 2 * part - h * width, 3 * part"),
    "keys past the end": ("return first ? t + 1 : length;", "return first ? t + 1 : up(length, ROWS);"),
    "scores not divided": ("head.factor, &top", "1.0f, &top"),
    "one sum for all": ("_mm512_set1_ps(scale[r])", "_mm512_set1_ps(scale[0])"),
}
TILED_FAULTS = {
    "way back: scores not divided": ("_mm512_mul_ps(weight, slope), factor)", "weight, slope)"),
    "way back: another head's sums": ("log_sum + h * positions + starts[b], target", "log_sum + starts[b], target"),
    "way back: keys and values change places": (
        "target + n_head * width, target + 2 * n_head * width", "target + 2 * n_head * width, target + n_head * width"
    ),
    "way back: sums go on into the next text": ("std::memset(sum_v, 0,", "if (head.first) std::memset(sum_v, 0,"),
    "way back: queries of the first block alone": ("start = head.start(block, held), last", "start = block, last"),
}  # fmt: skip


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ctypes.CDLL]:
    return built(tmp_path_factory.mktemp("faulty"), FAULTS | READING_FAULTS | TILED_FAULTS)


@pytest.mark.slow
@needs_kernels
@pytest.mark.parametrize("fault", FAULTS | TILED_FAULTS)
def test_a_planted_fault_is_not_as_exact(
    fault: str, faulty: dict[str, ctypes.CDLL], monkeypatch: pytest.MonkeyPatch
) -> None:
    attending("products" if fault in FAULTS else "tiles", monkeypatch)
    model, kinds = encoder(d_ff=300), [texts(LENGTHS[name]) for name in ("ragged", "very long")]
    assert not any(worse(model, given) for given in kinds)
    monkeypatch.setattr(native, "library", lambda: faulty[fault])
    assert any(worse(model, given) for given in kinds)


def read(model: Encoder, given: tuple[Tensor, ...], precision: str, step: str) -> Tensor:
    """States of real positions, where nothing is learnt."""
    model.set_compute(precision, "plain", step)
    with torch.inference_mode():
        return model.hidden(*given)[given[1]].float()


def error_in_reading(model: Encoder, given: tuple[Tensor, ...], step: str) -> float:
    exact = read(model, given, "float32", "eager")
    return float((read(model, given, "bfloat16", step) - exact).norm() / exact.norm())


def is_read_as_exactly(model: Encoder, given: tuple[Tensor, ...]) -> bool:
    twin, mine = (error_in_reading(model, given, step) for step in ("eager", "unpadded"))
    return mine <= 1.3 * twin + 2e-3


@pytest.mark.promise(
    "Tasks",
    "An encoder that only reads gives the twin's states too, by weights laid out once and again after "
    "they change; planted faults are seen; a torch that lays out no weights reads the same",
)
@needs_kernels
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("shape", SHAPES)
def test_states_are_the_twin_s_where_nothing_is_learned(shape: str, lengths: str) -> None:
    model = encoder(**SHAPES[shape]).eval()
    assert is_read_as_exactly(model, texts(LENGTHS[lengths]))


@pytest.mark.slow
@needs_kernels
@pytest.mark.parametrize("fault", READING_FAULTS)
def test_a_planted_fault_in_reading_is_seen(
    fault: str, faulty: dict[str, ctypes.CDLL], monkeypatch: pytest.MonkeyPatch
) -> None:
    attending("tiles", monkeypatch)
    model, kinds = encoder().eval(), [texts(LENGTHS[name]) for name in ("ragged", "very long")]
    assert all(is_read_as_exactly(model, given) for given in kinds)
    monkeypatch.setattr(native, "library", lambda: faulty[fault])
    assert not all(is_read_as_exactly(model, given) for given in kinds)


@needs_kernels
def test_weights_that_change_are_laid_out_again() -> None:
    """And kept once: not beside what learning makes of them, and not inside them, so that a model can be pickled."""
    model, given = encoder().eval(), texts(LENGTHS["ragged"])
    before = read(model, given, "bfloat16", "unpadded")
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(before, read(again, given, "bfloat16", "unpadded"))
    computed(model, given, "bfloat16", "unpadded")
    weight = model.blocks[0].feed_forward.up.weight
    assert native.PREPARED[weight][1] is torch.Tensor.bfloat16
    assert torch.equal(before, read(model, given, "bfloat16", "unpadded"))
    assert native.PREPARED[weight][1] is varlen.prepack
    with torch.no_grad():
        model.blocks[1].feed_forward.up.weight.mul_(-1.0)
    assert is_read_as_exactly(model, given)
    assert not torch.equal(before, read(model, given, "bfloat16", "unpadded"))


@needs_kernels
def test_a_torch_that_lays_out_no_weights_reads_the_same_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = encoder().eval(), texts(LENGTHS["ragged"])
    laid_out = read(model, given, "bfloat16", "unpadded")
    monkeypatch.setattr(varlen, "supports_prepack", lambda: False)
    torch.testing.assert_close(laid_out, read(model, given, "bfloat16", "unpadded"), atol=0.1, rtol=0.05)
    assert is_read_as_exactly(model, given)


@needs_kernels
def test_a_text_is_read_alike_alone_and_among_others() -> None:
    model = encoder().eval()
    model.set_compute("bfloat16", "plain", "unpadded")
    ids, mask, segments = texts(LENGTHS["ragged"])
    with torch.inference_mode():
        together = model.hidden(ids, mask, segments)
        for row, n in enumerate(LENGTHS["ragged"]):
            alone = model.hidden(ids[row : row + 1, :n], None, segments[row : row + 1, :n])
            torch.testing.assert_close(alone[0], together[row, :n], atol=0.1, rtol=0.05)
        assert not together[~mask].any()


@needs_kernels
def test_dropout_follows_from_the_step_and_keeps_its_share() -> None:
    model, given = encoder(dropout=0.3).train(), texts((200,) * 6)
    model.set_compute("bfloat16", "plain", "unpadded")

    def states(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model.hidden(*given).detach()

    assert torch.equal(states(3), states(3))
    assert not torch.equal(states(3), states(4))
    x, delta = (torch.ones(500, 64, dtype=torch.bfloat16) for _ in range(2))
    shape = varlen.VarlenBatch(torch.tensor([0, 500]), 500, 500, 2, 32, 1e-5, 0.3)
    total, _, moments = varlen.add_norm(shape, x, delta, (torch.ones(64), torch.zeros(64)), 7)
    assert total.unique().tolist() == pytest.approx([1, 1 + 1 / 0.7], rel=0.01)
    assert (total == 1).float().mean() == pytest.approx(0.3, abs=0.02)
    _, d_delta, _ = varlen.add_norm_backward(
        shape, torch.randn(500, 64).bfloat16(), total, moments, torch.ones(64), seed=7
    )
    assert torch.equal(d_delta == 0, total == 1)  # what was dropped gets no gradient


@pytest.mark.promise(
    "Tasks", "Adapters learn by the kernels what they learn by torch, and nothing else has a gradient"
)
@needs_kernels
@pytest.mark.parametrize("targets", ["all", "q,v", "up"])
def test_adapters_learn_what_the_twin_s_do(targets: str) -> None:
    """As parts of whole weights; of these nothing but the adapters has a gradient."""
    model, given = encoder(), texts(LENGTHS["ragged"])
    add_lora(model, LoRASettings(rank=4, targets=targets))
    with torch.no_grad():
        for part in lora_layers(model).values():
            for item in part.b.values():
                item.normal_(std=0.1)
    assert worse(model, given) == []
    learning = set(computed(model, given, "bfloat16", "unpadded")) - {"states"}
    assert learning
    assert all(".a." in name or ".b." in name for name in learning)
    assert is_read_as_exactly(model.eval(), given)


@needs_kernels
def test_frozen_layers_below_get_no_gradient() -> None:
    model, given = encoder(), texts(LENGTHS["ragged"])
    train_last(model, 1)
    result = computed(model, given, "bfloat16", "unpadded")
    assert {name.split(".")[1] for name in result if name.startswith("blocks.")} == {"1"}
    assert not [name for name in result if name.startswith("embedding")]


@needs_kernels
def test_what_the_kernels_cannot_compute_is_reported() -> None:
    for wrong, message in (
        ({"norm_first": True}, "norm_first=False, not True"),
        ({"activation": "gelu"}, "gelu-exact"),
    ):
        with pytest.raises(UsageError, match=message):
            encoder(**wrong).set_compute("bfloat16", "plain", "unpadded")
    with raises(UsageError, "unsupported_kernel"):
        encoder().set_compute("float32", "plain", "unpadded")
    model = encoder()
    add_lora(model, LoRASettings(dropout=0.1))
    with raises(UsageError, "unsupported_kernel"):
        model.set_compute("bfloat16", "plain", "unpadded")
    assert build("lstm", {"vocab_size": 9, "d_model": 8}).varlen_unsupported_reason()


@needs_kernels
def test_a_mask_with_holes_is_read_by_the_twin() -> None:
    model = encoder().eval()
    model.set_compute("bfloat16", "plain", "unpadded")
    ids, mask, segments = texts((9, 9))
    mask[0, 4] = False
    with torch.inference_mode():
        states = model.hidden(ids, mask, segments)
        model.set_compute("bfloat16", "plain", "eager")
        assert torch.equal(states, model.hidden(ids, mask, segments))


@pytest.mark.slow
@needs_kernels
def test_a_task_is_learned_by_them_and_resumed_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = written(tmp_path / "rows.jsonl", sentences(240))
    shape = [
        f"model.{name}={value}" for name, value in SHAPE.items() if name not in ("vocab_size", "mask_id")
    ]
    small = ["model.d_model=32", "model.dropout=0.1", "train.batch_size=8", "optim.rate=0.003"]
    run = api.finetune(
        rows,
        model="encoder",
        out=tmp_path / "run",
        epochs=6,
        overrides=[*shape, *small, "compute.step=unpadded"],
    )
    assert run.record["compute"]["step"] == "unpadded"
    assert run.model.unpadded
    test = written(tmp_path / "test.jsonl", sentences(60, seed=1))
    fast = run.evaluate(test)["accuracy"]["value"]
    assert fast > 0.9
    run.model.set_compute("float32", "plain", "eager")
    assert run.evaluate(test)["accuracy"]["value"] == pytest.approx(fast, abs=0.02)
    assert api.verify_determinism(run.path)["identical"]
    for dropout, step in (("0", "unpadded"), ("0.1", "eager")):
        monkeypatch.setattr(
            finetune, "fast_bf16", lambda: True
        )  # what is chosen where it is, whatever is here
        words = ["train.steps=2", f"method.dropout={dropout}"]
        lora = api.finetune(rows, init_from=run.path, method="lora", out=tmp_path / dropout, overrides=words)
        assert lora.record["compute"]["step"] == step

"""Adapters: they begin as the model they stand beside, merge without changing it, and `peft` computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from raising import raises
from torch import Tensor

from textus.core.errors import UsageError
from textus.interop import folder, peft
from textus.models.contract import LanguageModel
from textus.models.nn.lora import (
    LoRASettings,
    add_lora,
    layer_depth,
    lora_layers,
    merge_lora,
    n_layers,
    train_last,
)
from textus.models.registry import build

SIZES = {"vocab_size": 61, "n_layer": 2, "n_head": 2, "d_model": 16, "context_length": 24, "dropout": 0.0}
BERT = {
    **SIZES, "position": "learned", "norm": "layer", "norm_first": False, "bias": True, "activation": "gelu-exact",
    "segments": 2, "mask_id": 3,
}  # fmt: skip
GPT2 = {
    **SIZES, "position": "learned", "norm": "layer", "activation": "gelu", "bias": True, "qk_norm": False,
    "tie_head": True, "d_ff": 64,
}  # fmt: skip
T5 = {**SIZES, "position": "relative", "scale_scores": False}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("encoder", {**BERT, "pooler": True}),
    "bert with a head": ("encoder", {**BERT, "mlm_transform": True}),
    "qwen3": ("decoder", {**SIZES, "n_head": 4, "n_kv_head": 2}),
    "gpt2": ("decoder", GPT2),
    "t5": ("encoder-decoder", {**T5, "activation": "geglu", "tie_head": False}),
}


def made(shape: str) -> LanguageModel:
    """A model none of whose weights is at zero, so that every adapter matters."""
    family, values = SHAPES[shape]
    model = build(family, values)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def taught(model: LanguageModel, **settings: Any) -> LanguageModel:
    """The model with adapters that have learnt something."""
    add_lora(model, LoRASettings(**{"rank": 3, "alpha": 7.0, **settings}))
    with torch.no_grad():
        for part in lora_layers(model).values():
            for b in part.b.values():
                b.normal_()
    return model.eval()


def ids() -> Tensor:
    return torch.randint(4, 61, (3, 9))


def states(model: LanguageModel, of: Tensor) -> Tensor:
    """What comes out of the layers: the target's logits for a family that needs a source."""
    with torch.no_grad():
        can = model.capabilities
        return model(of) if can.can_generate and not can.needs_source else model.hidden(of)  # type: ignore[operator]


@pytest.mark.promise(
    "Tasks",
    "LoRA begins as the model was, merges without changing it, and `peft` computes the same from what "
    "is exported, in every form that `transformers` has; a fault in the rows is seen",
)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_adapted_model_begins_as_it_was_and_merges_without_a_change(shape: str) -> None:
    model, input_ids = made(shape), ids()
    before = states(model, input_ids)
    add_lora(model, LoRASettings())
    torch.testing.assert_close(states(model.eval(), input_ids), before, atol=0, rtol=0)
    with torch.no_grad():
        for part in lora_layers(model).values():
            for b in part.b.values():
                b.normal_(std=0.1)
    apart = states(model, input_ids)
    assert (apart - before).abs().max() > 0.01
    merge_lora(model)
    assert not lora_layers(model)
    torch.testing.assert_close(states(model, input_ids), apart, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("targets", ["all", "q,v", "k,down"])
@pytest.mark.parametrize("shape", SHAPES)
def test_peft_computes_the_same(shape: str, targets: str, tmp_path: Path) -> None:
    import transformers
    from peft import PeftModel

    model, input_ids = made(shape), ids()
    family, _ = SHAPES[shape]
    name = folder.write_folder(tmp_path / "base", family, model.config, model.state_dict(), None)
    taught(model, targets=targets)
    (tmp_path / "adapter").mkdir()
    assert peft.write_folder(tmp_path / "adapter", family, model) == name
    base = getattr(transformers, name).from_pretrained(tmp_path / "base").eval()
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        if family == "encoder-decoder":
            cache = model.new_cache(len(input_ids), 9, source=input_ids)
            mine, result = (
                model(input_ids, cache),
                theirs(input_ids=input_ids, decoder_input_ids=input_ids).logits,
            )
        else:
            out = theirs(input_ids=input_ids)
            result = out.logits if hasattr(out, "logits") else out.last_hidden_state
            mine = model.hidden(input_ids) if "last_hidden_state" in out else model(input_ids)  # type: ignore[operator]
    n_adapters = sum(len(part.a) for part in lora_layers(model).values())
    assert n_adapters >= 2 * (1 if targets == "all" else len(targets.split(",")))
    torch.testing.assert_close(mine, result, atol=1e-5, rtol=1e-5)
    plain = getattr(transformers, name).from_pretrained(tmp_path / "base").eval()
    assert theirs.peft_config["default"].r == 3
    assert len(list(plain.parameters())) < len(list(theirs.parameters()))


def test_a_fault_in_the_rows_is_seen_by_peft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turned = lambda self: {"q": (32, 48), "k": (0, 16), "v": (16, 32)}  # noqa: E731
    monkeypatch.setattr("textus.models.nn.lora.LoRALinear.rows", turned)
    with pytest.raises(AssertionError, match="not close"):
        test_peft_computes_the_same("bert", "q,k,v", tmp_path)


@pytest.mark.promise(
    "Tasks",
    "A method trains exactly the parameters it names: adapters and heads, the last layers, lower layers less",
)
def test_only_adapters_and_heads_learn() -> None:
    model = made("bert")
    model.heads["x"] = torch.nn.Linear(16, 2)
    add_lora(model, LoRASettings(targets="q, v"))
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    pairs = {f"blocks.{n}.attention.qkv.{m}.{part}" for n in range(2) for m in "ab" for part in "qv"}
    assert learning == pairs | {"heads.x.weight", "heads.x.bias"}


def test_what_cannot_be_adapted_is_named() -> None:
    with raises(UsageError, "unsupported_model"):
        add_lora(build("lstm", {"vocab_size": 9, "d_model": 8}), LoRASettings())
    with raises(UsageError, "unknown_name", "'query'"):
        add_lora(made("bert"), LoRASettings(targets="query"))
    for wrong in ({"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}):
        with raises(UsageError, "out_of_range", f"method.{next(iter(wrong))}="):
            LoRASettings(**wrong)  # type: ignore[arg-type]


def test_dropout_is_of_what_the_adapters_read() -> None:
    model, input_ids = taught(made("bert"), dropout=0.5), ids()
    whole = states(model, input_ids)
    torch.testing.assert_close(states(model, input_ids), whole)
    assert (states(model.train(), input_ids) - whole).abs().max() > 1e-3


# ── layers ─────────────────────────────────────────────────────────────────────────────────────


def test_how_far_below_the_head_everything_is() -> None:
    model = build("encoder", {**BERT, "pooler": True, "n_layer": 3})
    model.heads["x"] = torch.nn.Linear(16, 2)
    result = layer_depth(model)
    wanted = {
        "heads.x.weight": 0, "pooler.weight": 0, "blocks.2.attention.qkv.weight": 1, "blocks.0.feed_forward.up.bias": 3,
        "norm.weight": 4, "embedding.weight": 4, "position.weight": 4, "segment.weight": 4,
    }  # fmt: skip
    assert {name: result[name] for name in wanted} == wanted
    assert layer_depth(made("qwen3"))["norm.weight"] == 0  # it stands on the last layer there
    both = build("lstm", {"vocab_size": 9, "d_model": 8, "n_layer": 2, "bidirectional": True})
    assert n_layers(both) == 2
    assert layer_depth(both)["layers.3.weight_hh_l0"] == layer_depth(both)["layers.2.weight_hh_l0"] == 1


@pytest.mark.parametrize(("n", "learns"), [(0, set()), (1, {1}), (2, {0, 1})])
def test_the_last_layers_learn(n: int, learns: set[int]) -> None:
    model = made("bert")
    model.heads["x"] = torch.nn.Linear(16, 2)
    train_last(model, n)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {int(name.split(".")[1]) for name in learning if name.startswith("blocks.")} == learns
    assert {"heads.x.weight", "heads.x.bias"} <= learning
    assert not learning & {"embedding.weight", "norm.weight", "position.weight"}
    with raises(UsageError, "out_of_range", "2"):
        train_last(model, 3)

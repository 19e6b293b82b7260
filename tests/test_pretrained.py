"""Models of `transformers` in and out: small random ones of every architecture, both ways, and folders that lie.

The oracle is `transformers` itself: same logits to 1e-4, same greedy ids from the cache.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from raising import raises
from safetensors.torch import load_file, save_file
from torch import Tensor

from textus.core.errors import RunError, TextusError, UsageError
from textus.generation.engine import Engine
from textus.generation.params import SamplingParams
from textus.interop.folder import read_folder, write_folder
from textus.interop.registry import (
    architectures,
    describe,
)
from textus.models.registry import build

V, CONTEXT = 41, 48

LLAMA = {
    "vocab_size": V, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
GPT2 = {
    "vocab_size": V, "n_positions": CONTEXT, "n_embd": 32, "n_layer": 2, "n_head": 4,
    "bos_token_id": None, "eos_token_id": None,
    "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
}  # fmt: skip
SLIDING = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0}
STRETCHED = {"factor": 4.0, "original_max_position_embeddings": 12, "rope_theta": 100.0}


def rope(kind: str, **values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, **values}}


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "gpt2, own head, relu, narrow": (
        "GPT2LMHeadModel",
        {**GPT2, "tie_word_embeddings": False, "activation_function": "relu", "n_inner": 40},
    ),
    "gpt2, exact gelu": ("GPT2LMHeadModel", {**GPT2, "activation_function": "gelu"}),
    "llama": ("LlamaForCausalLM", {**LLAMA, "rms_norm_eps": 1e-3}),
    "llama, tied, another base": (
        "LlamaForCausalLM",
        {**LLAMA, "tie_word_embeddings": True, **rope("default", rope_theta=500.0)},
    ),
    "llama, every bias": ("LlamaForCausalLM", {**LLAMA, "attention_bias": True, "mlp_bias": True}),
    "llama, biases of attention": ("LlamaForCausalLM", {**LLAMA, "attention_bias": True}),
    "llama, biases of the feed-forward": ("LlamaForCausalLM", {**LLAMA, "mlp_bias": True}),
    "llama, wide heads": ("LlamaForCausalLM", {**LLAMA, "head_dim": 12}),
    "llama, linear": ("LlamaForCausalLM", {**LLAMA, **rope("linear", factor=3.0, rope_theta=100.0)}),
    "llama, llama3": (
        "LlamaForCausalLM",
        {**LLAMA, **rope("llama3", **STRETCHED, low_freq_factor=0.7, high_freq_factor=1.9)},
    ),
    "llama, yarn": ("LlamaForCausalLM", {**LLAMA, **rope("yarn", **STRETCHED, beta_fast=1.5, beta_slow=0.5)}),
    "llama, yarn, said factor": (
        "LlamaForCausalLM",
        {**LLAMA, **rope("yarn", **STRETCHED, beta_fast=1.5, beta_slow=0.5, attention_factor=1.3)},
    ),
    "mistral": ("MistralForCausalLM", {**LLAMA, "head_dim": 8, "sliding_window": 5}),
    "mistral, no window": ("MistralForCausalLM", {**LLAMA, "head_dim": 8, "sliding_window": None}),
    "qwen2": ("Qwen2ForCausalLM", LLAMA),
    "qwen2, window": ("Qwen2ForCausalLM", {**LLAMA, **SLIDING}),
    "qwen3, wide heads": ("Qwen3ForCausalLM", {**LLAMA, "head_dim": 16}),
    "qwen3, window, biases": ("Qwen3ForCausalLM", {**LLAMA, "head_dim": 8, "attention_bias": True, **SLIDING}),
}  # fmt: skip


def foreign(case: str) -> Any:
    """A small model of `transformers` in which no weight has a value that would hide a mistake."""
    import transformers

    name, values = CASES[case]
    kind = getattr(transformers, name)
    model = kind(kind.config_class(**values, attn_implementation="eager"))
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.3)
    return model.eval()


def saved(case: str, folder: Path, **options: Any) -> Path:
    foreign(case).save_pretrained(folder, **options)
    return folder


def imported(folder: Path) -> Any:
    result = read_folder(folder)
    model = build(result.family, result.config)
    model.load_state_dict(result.weights)
    return model.eval()


def ids(rows: int = 3, length: int = CONTEXT) -> Tensor:
    return torch.randint(0, V, (rows, length), generator=torch.Generator().manual_seed(0))


def same(mine: Any, theirs: Any) -> None:
    with torch.no_grad():
        expected = theirs(ids()).logits
        assert expected.std() > 0.1
        torch.testing.assert_close(mine(ids()), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.promise("Families", "An imported model computes what `transformers` does, cached too")
@pytest.mark.parametrize("case", CASES)
def test_logits_and_greedy_ids_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    theirs, mine = foreign(case), imported(saved(case, tmp_path))
    same(mine, theirs)
    for prompt in ([7], list(range(20))):
        expected = theirs.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False)[
            0, len(prompt) :
        ]
        events = Engine(mine, end_id=None).stream([prompt], [SamplingParams(temperature=0, max_tokens=20)])
        assert [event.id for event in events] == expected.tolist()


@pytest.mark.promise(
    "Families", "What is exported `transformers` loads, with equal logits; a default decoder is a Qwen3"
)
@pytest.mark.parametrize("case", CASES)
def test_what_is_written_transformers_reads(case: str, tmp_path: Path) -> None:
    import transformers

    mine = imported(saved(case, tmp_path / "in"))
    name = write_folder(tmp_path / "out", "decoder", mine.config, mine.state_dict(), None)
    theirs, loading = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(theirs).__name__ == name
    same(mine, theirs.eval())


def test_every_architecture_is_tested() -> None:
    decoders = {name for name, module in architectures().items() if module.FAMILY == "decoder"}
    assert {name for name, _ in CASES.values()} | {"GPT2Model"} == decoders


def test_a_default_decoder_is_a_qwen3(tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(1)
    mine = build(
        "decoder", {"vocab_size": V, "n_layer": 2, "d_model": 32, "n_head": 2, "context_length": CONTEXT}
    )
    for parameter in mine.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.3)
    assert write_folder(tmp_path, "decoder", mine.config, mine.state_dict(), None) == "Qwen3ForCausalLM"
    same(mine.eval(), transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval())


# ── how files may be ───────────────────────────────────────────────────────────────────────────


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    saved("qwen2", tmp_path / "shards", max_shard_size="10KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 3
    assert not (tmp_path / "shards" / "model.safetensors").exists()
    same(imported(tmp_path / "shards"), foreign("qwen2"))


def test_weights_in_bfloat16_become_float32_unchanged(tmp_path: Path) -> None:
    theirs = foreign("llama")
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(parameter.bfloat16())
    theirs.save_pretrained(tmp_path)
    reweigh(tmp_path, lambda w: w.update({name: tensor.bfloat16() for name, tensor in w.items()}))
    same(imported(tmp_path), theirs)


def test_a_headless_gpt2_is_read_without_its_prefix(tmp_path: Path) -> None:
    theirs = foreign("gpt2")
    theirs.transformer.save_pretrained(tmp_path)
    assert "wte.weight" in load_file(tmp_path / "model.safetensors")
    same(imported(tmp_path), theirs)


def test_the_older_form_of_rope_scaling_is_read(tmp_path: Path) -> None:
    def older(hf: dict[str, Any]) -> None:
        answer = hf.pop("rope_parameters")
        hf["rope_theta"] = answer.pop("rope_theta")
        hf["rope_scaling"] = {"type": answer.pop("rope_type"), **answer}

    saved("llama, llama3", tmp_path)
    edit(tmp_path, older)
    same(imported(tmp_path), foreign("llama, llama3"))


def test_masks_and_angles_in_old_files_are_passed_over(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    reweigh(tmp_path, lambda w: w.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    same(imported(tmp_path), foreign("llama"))


def test_a_tied_head_may_be_written_twice(tmp_path: Path) -> None:
    saved("llama, tied, another base", tmp_path)
    reweigh(tmp_path, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))
    same(imported(tmp_path), foreign("llama, tied, another base"))


# ── folders that lie ───────────────────────────────────────────────────────────────────────────


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def reweigh(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def refused(folder: Path, *values: str) -> None:
    with pytest.raises(TextusError) as caught:
        read_folder(folder)
    for line in values:
        assert line in str(caught.value)


@pytest.mark.promise("Families", "Weights that do not fit their configuration are refused by name")
@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (lambda hf: hf.update(architectures=["LlamaForCausalML"]), ["'LlamaForCausalML' is not", "GPT2LMHead"]),
        (lambda hf: hf.pop("architectures"), ["names no architecture"]),
        (lambda hf: hf.pop("hidden_size"), ["hidden_size", "config.json"]),
        (lambda hf: hf.update(hidden_act="gelu"), ["hidden_act='gelu'"]),
        (lambda hf: hf.update(rope_parameters={"rope_type": "longrope"}), ["'longrope'", "yarn"]),
        (lambda hf: hf.update(partial_rotary_factor=0.5), ["partial_rotary_factor=0.5"]),
        (lambda hf: hf.update(vocab_size="many"), ["vocab_size='many'"]),
        (lambda hf: hf.update(vocab_size=50), ["model.embed_tokens.weight", "[41, 32]", "[50, 32]"]),
        (lambda hf: hf.update(num_key_value_heads=4), ["k_proj.weight", "[16, 32]", "[32, 32]"]),
        (lambda hf: hf.update(num_hidden_layers=3), ["has no tensor model.layers.2", "and 6 more"]),
        (lambda hf: hf.update(num_hidden_layers=1), ["does not explain: model.layers.1", "and 6 more"]),
        (lambda hf: hf.update(attention_bias=True), ["has no tensor", "q_proj.bias"]),
        (lambda hf: hf.update(tie_word_embeddings=True), ["ties lm_head.weight to model.embed_tokens.weight"]),
    ],
)  # fmt: skip
def test_a_configuration_that_does_not_fit_is_refused(
    change: Callable[[dict[str, Any]], Any], messages: list[str], tmp_path: Path
) -> None:
    saved("llama", tmp_path)
    edit(tmp_path, change)
    refused(tmp_path, *messages)


def test_layers_of_two_kinds_are_refused(tmp_path: Path) -> None:
    saved("qwen2, window", tmp_path)
    edit(tmp_path, lambda hf: hf.update(layer_types=["sliding_attention", "full_attention"]))
    refused(tmp_path, "full_attention, sliding_attention")


@pytest.mark.parametrize("name", ["scale_attn_by_inverse_layer_idx", "add_cross_attention"])
def test_switches_of_gpt2_are_refused(name: str, tmp_path: Path) -> None:
    saved("gpt2", tmp_path)
    edit(tmp_path, lambda hf: hf.update({name: True}))
    refused(tmp_path, f"{name}=True")


def test_code_named_by_a_configuration_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved("llama", tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    edit(tmp_path, lambda hf: hf.update(auto_map={"AutoModelForCausalLM": "evil.Model"}))
    imported(tmp_path)
    assert not (tmp_path / "ran").exists()
    assert "auto_map names is not run" in capsys.readouterr().err


@pytest.mark.promise("Families", "No pickle is opened and no code named by a folder is run")
def test_a_pickle_is_refused_and_not_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return open, (str(tmp_path / "ran"), "w")

    saved("llama", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"weight": Bomb()}, tmp_path / "pytorch_model.bin")
    refused(tmp_path, "pytorch_model.bin", "is a pickle", "LlamaForCausalLM.from_pretrained")
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_weights_or_configuration_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "has no config.json")
    saved("llama", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    refused(tmp_path, "has neither model.safetensors")


@pytest.mark.promise("Families", "A damaged safetensors or GGUF file is refused, never a crash")
@pytest.mark.parametrize("keep", [0, 7, 200, 0.5, -1])
def test_truncated_safetensors_are_refused(keep: float, tmp_path: Path) -> None:
    path = saved("llama", tmp_path) / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if 0 < keep < 1 else int(keep)])
    refused(tmp_path, "model.safetensors cannot be read")


@pytest.mark.parametrize("shift", [-4, 4])
def test_overlapping_safetensors_are_refused(shift: int, tmp_path: Path) -> None:
    path = saved("llama", tmp_path) / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    second = sorted((h["data_offsets"], name) for name, h in header.items() if name != "__metadata__")[1][1]
    header[second]["data_offsets"] = [offset + shift for offset in header[second]["data_offsets"]]
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data[8 + length :])
    refused(tmp_path, "model.safetensors cannot be read")


def test_integers_as_weights_are_refused(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    reweigh(tmp_path, lambda w: w.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)}))
    refused(tmp_path, "model.norm.weight holds torch.int8", "quantised")


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (lambda index: index.pop("weight_map"), ["has no weight_map"]),
        (lambda index: index["weight_map"].update({"model.norm.weight": "../secret.safetensors"}), ["no file of this"]),
        (lambda index: index.update(weight_map=dict.fromkeys(index["weight_map"], "gone.safetensors")), ["gone"]),
        (lambda index: index["weight_map"].pop("model.norm.weight"), ["disagree about model.norm.weight"]),
    ],
)  # fmt: skip
def test_an_index_with_false_numbers_is_refused(
    change: Callable[[dict[str, Any]], Any], messages: list[str], tmp_path: Path
) -> None:
    path = saved("llama", tmp_path, max_shard_size="10KB") / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))
    refused(tmp_path, *messages)


# ── models that transformers cannot hold ───────────────────────────────────────────────────────

PLAIN = {"vocab_size": V, "n_layer": 1, "d_model": 32, "n_head": 2}


@pytest.mark.parametrize(
    ("values", "messages"),
    [
        ({"activation": "relu2"}, ["activation='swiglu', not 'relu2'", "GPT-2 has"]),
        ({"position": "none"}, ["position='rotary', not 'none'"]),
        ({"bias": "feed_forward"}, ["no kin of Llama has qk_norm=True, bias='feed_forward'"]),
        ({"qk_norm": False, "bias": "attention", "window": 4}, ["window=4"]),
        (
            {"position": "learned", "norm": "layer", "activation": "gelu", "qk_norm": False},
            ["GPT-2 has bias=True"],
        ),
    ],
)
def test_what_cannot_be_exported_is_reported_with_reasons(
    values: dict[str, Any], messages: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        describe("decoder", {**PLAIN, **values})
    assert all(line in str(caught.value) for line in messages)


def test_a_family_without_a_foreign_form_is_reported(tmp_path: Path) -> None:
    with raises(UsageError, "unsupported_export", "'ngram'"):
        describe("ngram", {"vocab_size": V, "end_id": 0, "order": 2})


@pytest.mark.promise("Families", "Training reports which exports are lost")
def test_training_shows_which_exports_are_lost(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from textus.api import train

    small = ["model.n_layer=1", "model.d_model=16", "model.n_head=2"]
    train(corpus, tokenizer="char", steps=1, overrides=small, out=tmp_path / "plain")
    assert "will not be possible" not in capsys.readouterr().err
    train(
        corpus, tokenizer="char", steps=1, overrides=[*small, "model.activation=relu2"], out=tmp_path / "odd"
    )
    assert "`export --to hf` of this run will not be possible" in capsys.readouterr().err


def test_a_table_that_forgets_a_tensor_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: an architecture whose list leaves a tensor out."""
    from textus.interop import llama

    whole = llama.rename
    monkeypatch.setattr(llama, "rename", lambda config: whole(config)[:-1])
    saved("llama", tmp_path)
    with raises(RunError, "tensor_unknown", "model.layers.1"):
        read_folder(tmp_path)

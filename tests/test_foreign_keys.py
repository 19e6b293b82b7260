"""Keys of config.json that change what a model computes: refused by name in every architecture, never dropped (M14)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from raising import raises

from textus.core.config import from_dict
from textus.core.errors import TextusError
from textus.interop.folder import read_folder
from textus.interop.registry import (
    architecture,
    architectures,
)
from textus.models.registry import build, family

SMALL = {
    "LlamaForCausalLM": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 4},
    "BertForMaskedLM": {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "mask_token_id": 3
    },
    "RobertaForMaskedLM": {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "pad_token_id": 1
    },
    "GPT2LMHeadModel": {"n_embd": 32, "n_layer": 1, "n_head": 4},
    "T5ForConditionalGeneration": {"d_model": 32, "num_layers": 1, "num_heads": 4, "d_kv": 8, "d_ff": 40},
}  # fmt: skip
OWN = {
    **dict.fromkeys(
        ("MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"), SMALL["LlamaForCausalLM"]
    ),
    **SMALL,
}


def folder_of(name: str, folder: Path, **values: Any) -> Path:
    """A small random model of a class, its config.json changed afterwards."""
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    kind(kind.config_class(vocab_size=40, **OWN[name])).save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder


CHANGING: list[dict[str, Any]] = [
    {"no_rope_layers": [1, 0, 1, 1]}, {"embedding_multiplier": 12.0}, {"attention_multiplier": 0.0156},
    {"residual_multiplier": 0.22}, {"logits_scaling": 8.0}, {"attn_logit_softcapping": 50.0},
    {"final_logit_softcapping": 30.0}, {"query_pre_attn_scalar": 256}, {"logit_scale": 0.0625},
    {"clip_qkv": 8.0}, {"num_local_experts": 8}, {"use_qk_norm": True}, {"alibi": True},
    {"hidden_activation": "gelu_pytorch_tanh"}, {"use_bidirectional_attention": True},
]  # fmt: skip


@pytest.mark.promise(
    "Robustness",
    "A key that changes the computation is never dropped; every type that `gguf` dequantizes is read",
)
@pytest.mark.parametrize("name", OWN)
def test_keys_that_change_the_computation_are_refused_by_name(name: str, tmp_path: Path) -> None:
    """M14: SmolLM3 and Granite, renamed as the hint advised, were imported and computed something else."""
    folder = folder_of(name, tmp_path)
    known = json.loads((folder / "config.json").read_text())
    for values in CHANGING:
        (key,) = values
        (folder / "config.json").write_text(json.dumps({**known, **values}))
        with raises(TextusError, "unsupported_setting", f"{key}=") as caught:
            read_folder(folder)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", OWN)
def test_what_transformers_writes_is_read_without_a_word(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The allow-list holds every key of the class's own configuration."""
    folder = folder_of(name, tmp_path)
    capsys.readouterr()
    read_folder(folder)
    assert capsys.readouterr().err == ""


def test_keys_that_are_switched_off_or_harmless_do_not_disturb(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """M14: what is neither read nor known is one line, with its count and names."""
    off = {
        "no_rope_layers": [1, 1, 1, 1], "residual_multiplier": 1.0, "attn_logit_softcapping": None, "alibi": False,
        "embedding_dropout": 0.1, "_flash_attn_2_enabled": True, "max_length": 20,
    }  # fmt: skip
    read_folder(folder_of("LlamaForCausalLM", tmp_path, **off, favourite_colour="blue", made_on="Monday"))
    assert re.search(r"2 keys are not known and not read: favourite_colour, made_on", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("LlamaForCausalLM", "smollm3"), ("LlamaForCausalLM", "mistral"), ("BertForMaskedLM", "electra")],
)
def test_a_class_with_the_type_of_another_model_is_refused(name: str, kind: str, tmp_path: Path) -> None:
    """M14: the class alone does not make it that model."""
    with raises(TextusError, "unsupported_architecture", f"model_type='{kind}'"):
        read_folder(folder_of(name, tmp_path, model_type=kind))


@pytest.mark.parametrize("values", [{"mrope_section": [2, 1, 1]}, {"rope_type": "dynamic", "factor": 2.0}])
def test_rotary_parameters_that_are_not_known_are_refused(values: dict[str, Any], tmp_path: Path) -> None:
    rope = {"rope_type": "default", "rope_theta": 10000.0, **values}
    with raises(TextusError, "unsupported_setting", "rope"):
        read_folder(folder_of("Qwen2ForCausalLM", tmp_path, rope_parameters=rope))


@pytest.mark.parametrize("name", ["SmolLM3ForCausalLM", "OPTForCausalLM", "MarianMTModel", "LlamaModel"])
def test_architectures_are_refused_without_a_hint_by_spelling(name: str) -> None:
    """M14: OPT is no Mistral, Marian no BERT."""
    with raises(TextusError, "unsupported_setting") as caught:
        architecture(name)
    assert "did you mean" not in str(caught.value)
    assert all(known in str(caught.value) for known in architectures())


# ── switches ───────────────────────────────────────────────────────────────────────────────────


def ids_for(name: str) -> torch.Tensor:
    """A text; a T5's ends with its end, which pads others."""
    return torch.tensor([[5, 9, 17, 4, 30, 1 if name.startswith("T5") else 8]])


def scores_there(folder: Path) -> torch.Tensor:
    """What the class of config.json computes of the folder, by `transformers`."""
    kind = getattr(transformers, json.loads((folder / "config.json").read_text())["architectures"][0])
    ids = ids_for(kind.__name__)
    more = {"decoder_input_ids": ids} if "T5" in kind.__name__ else {}
    with torch.no_grad():
        return kind.from_pretrained(folder).eval()(ids, **more).logits  # type: ignore[no-any-return]


def scores_here(folder: Path) -> torch.Tensor:
    result = read_folder(folder)
    model = build(result.family, from_dict(family(result.family)[1], result.config, "model."))
    model.load_state_dict(result.weights)
    ids = ids_for("T5" if result.family == "encoder-decoder" else "")
    with torch.no_grad():
        if result.family == "encoder-decoder":
            return model.eval()(ids, cache=model.new_cache(1, 8, ids))  # type: ignore[no-any-return]
        if result.family == "encoder":
            return model.eval().logits(model.hidden(ids))
        return model.eval()(ids)


@pytest.mark.parametrize("name", OWN)
def test_switches_of_every_config_class_are_read_as_there(name: str, tmp_path: Path) -> None:
    """A False is not always off: `is_causal` is true by default. Each switch of the class, and those that older and
    other files have, is turned; what `transformers` then computes is computed here too, or refused.
    """
    path = folder_of(name, tmp_path) / "config.json"
    known = json.loads(path.read_text())
    default = getattr(transformers, name).config_class().to_dict()
    switches = {key for key, value in default.items() if isinstance(value, bool)}
    switches -= {
        "tie_word_embeddings",
        "use_cache",
        "return_dict",
        "output_attentions",
        "output_hidden_states",
    }
    refused = []
    for key in sorted(switches | {"is_causal", "scale_attn_weights"}):
        path.write_text(json.dumps({**known, key: not known.get(key, default.get(key, True))}))
        try:
            there = scores_there(tmp_path)
            here = scores_here(tmp_path)
        except TextusError as error:
            refused.append(key if key in str(error) else f"{key}: {error}")
        except (ValueError, RuntimeError, TypeError, AttributeError):  # `transformers` does not run it
            continue
        else:
            torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-4, msg=f"{name} {key}")
    assert not [item for item in refused if ":" in item and "_bias: " not in item]
    assert ("is_causal" in refused) == (not name.endswith("MaskedLM")), refused


@pytest.mark.parametrize(
    ("key", "value"),
    [("final_logit_softcapping", 0.0), ("num_experts", 0), ("attention_chunk_size", 0), ("is_causal", True)],
)
def test_zero_switches_off(key: str, value: Any, tmp_path: Path) -> None:
    """A switch at 0 was refused as computing something else."""
    folder = folder_of("LlamaForCausalLM", tmp_path, **{key: value})
    torch.testing.assert_close(scores_here(folder), scores_there(folder), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "key", "values"),
    [
        ("GPT2LMHeadModel", "activation_function", ["gelu_python", "gelu_fast", "swish", "gelu_python_tanh"]),
        ("BertForMaskedLM", "hidden_act", ["gelu_python", "gelu_fast", "swish", "gelu_accurate"]),
        ("LlamaForCausalLM", "hidden_act", ["swish"]),
        ("T5ForConditionalGeneration", "feed_forward_proj", ["swish", "gelu_fast", "gelu_pytorch_tanh"]),
    ],
)
def test_activations_by_another_name_are_the_same(
    name: str, key: str, values: list[str], tmp_path: Path
) -> None:
    """gelu_python is the exact gelu; quick_gelu is none of these and gets no hint by spelling."""
    for value in values:
        more = {"dense_act_fn": value} if name.startswith("T5") else {}
        folder = folder_of(name, tmp_path, **{key: value}, **more)
        torch.testing.assert_close(scores_here(folder), scores_there(folder), rtol=1e-3, atol=1e-4)
    with pytest.raises(TextusError, match="quick_gelu") as caught:
        read_folder(folder_of(name, tmp_path, **{key: "quick_gelu"}))
    assert "did you mean" not in str(caught.value)


# ── vocabularies and rows ──────────────────────────────────────────────────────────────────────


def tokenizer_of(n: int, folder: Path, **special: str) -> Any:
    """A byte-level BPE of `n` entries, saved with more special tokens."""
    import tokenizers as tk

    backend = tk.Tokenizer(tk.models.BPE())
    backend.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tk.decoders.ByteLevel()
    alphabet = tk.pre_tokenizers.ByteLevel.alphabet()
    trainer = tk.trainers.BpeTrainer(
        vocab_size=n, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["the cat sat on the mat, and the dog on the log"] * 9, trainer)
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    made.add_special_tokens(special)
    made.save_pretrained(folder)
    return made


def rows_of(rows: int, folder: Path) -> Path:
    config = transformers.LlamaConfig(
        **{**OWN["LlamaForCausalLM"], "num_hidden_layers": 1}, vocab_size=rows, bos_token_id=0, eos_token_id=0
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_pad_token_that_was_added_without_a_row_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """M13: one token more than rows was "not of one model"; its id can never be read."""
    theirs = tokenizer_of(270, tmp_path, pad_token="[PAD]")
    rows_of(270, tmp_path)
    assert len(theirs) == 271
    model = read_folder(tmp_path)
    assert model.tokenizer is not None
    assert "[PAD] can never be read and is left out" in capsys.readouterr().err
    assert model.tokenizer.vocab_size == 270
    assert model.tokenizer.pad_id == 0
    assert model.tokenizer.encode("the cat [PAD]") == theirs("the cat ")[
        "input_ids"
    ] + model.tokenizer.encode("[PAD]")
    model.tokenizer.save(tmp_path / "again")


@pytest.mark.parametrize(
    ("rows", "accepted"), [(271, True), (320, True), (384, True), (512, True), (1024, False)]
)
def test_rows_beyond_the_tokenizer_are_reported(
    rows: int, accepted: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """M13: rounded up to a multiple of 64 or more."""
    tokenizer_of(270, tmp_path)
    rows_of(rows, tmp_path)
    if not accepted:
        with raises(TextusError, "weights_mismatch"):
            read_folder(tmp_path)
        return
    read_folder(tmp_path)
    assert f"{rows - 270:,} of its {rows:,} rows have no token" in capsys.readouterr().err


def test_pieces_without_a_row_are_refused(tmp_path: Path) -> None:
    """M13: what a text can spell must have a row."""
    tokenizer_of(271, tmp_path)
    rows_of(270, tmp_path)
    with raises(TextusError, "weights_mismatch", "271", "270"):
        read_folder(tmp_path)

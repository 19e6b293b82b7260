"""Keys of config.json that change what a model computes: refused by name in every architecture, never dropped (M14)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from textus.common import TextusError
from textus.models.pretrained import architecture, architectures
from textus.models.pretrained.folder import read_folder

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


@pytest.mark.parametrize("name", OWN)
def test_keys_that_change_the_computation_are_refused_by_name(name: str, tmp_path: Path) -> None:
    """M14: SmolLM3 and Granite, renamed as the hint advised, were imported and computed something else."""
    folder = folder_of(name, tmp_path)
    known = json.loads((folder / "config.json").read_text())
    for values in CHANGING:
        (key,) = values
        (folder / "config.json").write_text(json.dumps({**known, **values}))
        with pytest.raises(TextusError, match=f"{key}=") as caught:
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
    with pytest.raises(TextusError, match=f"model_type='{kind}'"):
        read_folder(folder_of(name, tmp_path, model_type=kind))


@pytest.mark.parametrize("values", [{"mrope_section": [2, 1, 1]}, {"rope_type": "dynamic", "factor": 2.0}])
def test_rotary_parameters_that_are_not_known_are_refused(values: dict[str, Any], tmp_path: Path) -> None:
    rope = {"rope_type": "default", "rope_theta": 10000.0, **values}
    with pytest.raises(TextusError, match="rope"):
        read_folder(folder_of("Qwen2ForCausalLM", tmp_path, rope_parameters=rope))


@pytest.mark.parametrize("name", ["SmolLM3ForCausalLM", "OPTForCausalLM", "MarianMTModel", "LlamaModel"])
def test_architectures_are_refused_without_a_hint_by_spelling(name: str) -> None:
    """M14: OPT is no Mistral, Marian no BERT."""
    with pytest.raises(TextusError, match="is not supported; supported: ") as caught:
        architecture(name)
    assert "did you mean" not in str(caught.value)
    assert all(known in str(caught.value) for known in architectures())


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
    found = read_folder(tmp_path)
    assert found.tokenizer is not None
    assert "[PAD] can never be read and is left out" in capsys.readouterr().err
    assert found.tokenizer.vocab_size == 270
    assert found.tokenizer.pad_id == 0
    assert found.tokenizer.encode("the cat [PAD]") == theirs("the cat ")[
        "input_ids"
    ] + found.tokenizer.encode("[PAD]")
    found.tokenizer.save(tmp_path / "again")


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
        with pytest.raises(TextusError, match="not of one model"):
            read_folder(tmp_path)
        return
    read_folder(tmp_path)
    assert f"{rows - 270:,} of its {rows:,} rows have no token" in capsys.readouterr().err


def test_pieces_without_a_row_are_refused(tmp_path: Path) -> None:
    """M13: what a text can spell must have a row."""
    tokenizer_of(271, tmp_path)
    rows_of(270, tmp_path)
    with pytest.raises(TextusError, match="271 entries, the weights are for 270; they are not of one model"):
        read_folder(tmp_path)

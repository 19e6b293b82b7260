"""Every export is opened by the `Auto…` classes of `transformers` as it is: ids, cutting, padding, outputs (M7, M8)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from raising import raises

from textus.core.config import from_dict, to_dict
from textus.core.errors import UsageError
from textus.interop.folder import read_folder, write_folder
from textus.models.registry import build
from textus.models.registry import family as family_of
from textus.tokenizers import KINDS, Tokenizer, train

TEXT = "the cat sat on the mat in 1934.\n\nYes;\nno 你好 世界, don't we'll Café"
TEXTS = ["in 1934.", "the cat.\n\nYes;\nno 你好", "  don't  we'll\tCafé e\u0301"]
LONG = " ".join(f"cat {n}" for n in range(350))
CONTEXT = 64
SIZES = {"n_layer": 2, "d_model": 32, "n_head": 4, "context_length": CONTEXT, "dropout": 0.0}
OLD = {"position": "learned", "norm": "layer", "bias": True}
BERT = {
    **OLD,
    "norm_first": False,
    "tie_head": True,
    "activation": "gelu-exact",
    "mlm_transform": True,
    "mask_id": 2,
}
CLASSES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", "decoder", {**OLD, "activation": "gelu", "qk_norm": False}),
    "llama": ("LlamaForCausalLM", "decoder", {"qk_norm": False}),
    "mistral": ("MistralForCausalLM", "decoder", {"qk_norm": False, "window": 8}),
    "qwen2": ("LlamaForCausalLM", "decoder", {"qk_norm": False, "bias": "qkv"}),
    "qwen3": ("Qwen3ForCausalLM", "decoder", {"qk_norm": True}),
    "bert": ("BertForMaskedLM", "encoder", {**BERT, "segments": 2}),
    "roberta": ("RobertaForMaskedLM", "encoder", {**BERT, "segments": 1, "position_offset": 2}),
    "t5": ("T5ForConditionalGeneration", "encoder-decoder", {"position": "relative", "scale_scores": False}),
}


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    return {kind: train(kind, [TEXT] * 40, 600) for kind in KINDS}


def exported(case: str, tokenizer: Tokenizer, out: Path) -> Any:
    """A small random model of ours with this tokenizer, written for `transformers`."""
    name, family, values = CLASSES[case]
    config = from_dict(
        family_of(family)[1], {**SIZES, **values, "vocab_size": tokenizer.vocab_size}, "model."
    )
    model = build(family, to_dict(config)).eval()
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1) * 0.5, std=0.2)
    assert write_folder(out, family, config, model.state_dict(), tokenizer) == name
    return model


@pytest.mark.parametrize("case", CLASSES)
@pytest.mark.parametrize("kind", KINDS)
def test_autotokenizer_gives_our_ids(
    kind: str, case: str, tokenizers: dict[str, Tokenizer], tmp_path: Path
) -> None:
    """M8: a Qwen2 with a tokenizer of ours was opened with Qwen2's splits. M7: nothing said how long texts may be."""
    mine = tokenizers[kind]
    exported(case, mine, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert theirs(text, add_special_tokens=False)["input_ids"] == mine.encode(text)
    assert theirs.model_max_length == CONTEXT
    assert len(theirs(LONG, truncation=True)["input_ids"]) == CONTEXT
    pair = theirs(LONG, TEXTS[0], truncation=True)
    assert ("token_type_ids" in pair) == (case == "bert")
    talk = [{"role": "user", "content": "the cat.\n\nYes"}]
    rendered = theirs.apply_chat_template(talk, add_generation_prompt=True, tokenize=True)
    assert mine.apply_chat_template(talk) == (
        rendered if isinstance(rendered, list) else rendered["input_ids"]
    )


@pytest.mark.parametrize("case", CLASSES)
def test_automodel_computes_ours_on_cut_and_padded_texts(
    case: str, tokenizers: dict[str, Tokenizer], tmp_path: Path
) -> None:
    """M7: 700 words with truncation=True failed in the model."""
    mine, name = tokenizers["bpe"], CLASSES[case][0]
    model = exported(case, mine, tmp_path)
    auto = {"encoder": "AutoModelForMaskedLM", "decoder": "AutoModelForCausalLM"}
    auto_class = getattr(transformers, auto.get(CLASSES[case][1], "AutoModelForSeq2SeqLM"))
    theirs = auto_class.from_pretrained(tmp_path).eval()
    assert type(theirs).__name__ == name
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    batch = tokenizer([*TEXTS, LONG], truncation=True, padding=True, return_tensors="pt")
    assert batch["input_ids"].shape == (4, CONTEXT)
    more = {"decoder_input_ids": batch["input_ids"][:, :5]} if case == "t5" else {}
    with torch.no_grad():
        logits = theirs(**batch, **more).logits
        for row, text in enumerate([*TEXTS, LONG]):
            ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
            if case == "t5":
                cache = model.new_cache(1, 5, ids[None])
                expected = model(more["decoder_input_ids"][row][None], cache)[0]
            else:
                assert ids.tolist() == mine.encode(text)[:CONTEXT]
                expected = model(ids[None])[0]
            torch.testing.assert_close(logits[row, : len(expected)], expected, atol=1e-4, rtol=1e-4)
    if CLASSES[case][1] == "decoder":
        pipe = transformers.pipeline("text-generation", model=str(tmp_path), tokenizer=str(tmp_path))
        (result,) = pipe("the cat", max_new_tokens=3, do_sample=False, return_full_text=True)
        assert result["generated_text"].startswith("the cat")
    back = read_folder(tmp_path)
    again = build(back.family, back.config)
    again.load_state_dict(back.weights)
    ids = torch.tensor([mine.encode(TEXT)[:CONTEXT]])
    if case != "t5":
        with torch.no_grad():
            torch.testing.assert_close(again.eval()(ids), model(ids), atol=1e-5, rtol=1e-5)


def test_a_qwen2_that_would_be_opened_with_other_ids_is_refused(
    tokenizers: dict[str, Tokenizer], tmp_path: Path
) -> None:
    """M8: a window has no place in a Llama."""
    values = {
        **SIZES,
        "qk_norm": False,
        "bias": "qkv",
        "window": 8,
        "vocab_size": tokenizers["bpe"].vocab_size,
    }
    config = from_dict(family_of("decoder")[1], values, "model.")
    weights = build("decoder", to_dict(config)).state_dict()
    with raises(UsageError, "unsupported_export"):
        write_folder(tmp_path, "decoder", config, weights, tokenizers["bpe"])


def test_a_qwen2_with_its_own_tokenizer_stays_one(tmp_path: Path) -> None:
    """M8: what Qwen2Tokenizer builds is opened by it, with its conversation tokens."""
    from test_older_tokenizers import folder_of

    (tmp_path / "hf").mkdir()
    folder = folder_of("Qwen2Tokenizer", tmp_path / "hf")
    n = transformers.AutoConfig.from_pretrained(folder).vocab_size
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.Qwen2Config(
        vocab_size=n, num_key_value_heads=2, max_position_embeddings=64, **sizes
    )
    transformers.Qwen2ForCausalLM(config).save_pretrained(folder)
    model = read_folder(folder)
    assert model.tokenizer is not None
    values = from_dict(family_of("decoder")[1], model.config, "model.")
    assert (
        write_folder(tmp_path / "out", "decoder", values, model.weights, model.tokenizer)
        == "Qwen2ForCausalLM"
    )
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    talk = [{"role": "user", "content": "the cat.\n\nYes;\nno"}]
    rendered = theirs.apply_chat_template(talk, add_generation_prompt=True, tokenize=True)
    assert model.tokenizer.apply_chat_template(talk) == (
        rendered if isinstance(rendered, list) else rendered["input_ids"]
    )

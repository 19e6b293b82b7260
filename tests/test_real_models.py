"""Models as they are found: keys left out, names of long ago, tokenizers that say half, folders that `transformers` 5
wrote anew. The oracle is `transformers` reading the same folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from raising import raises
from safetensors.torch import load_file, save_file
from test_pretrained import CASES, LLAMA, V, edit, foreign, imported, reweigh, same, saved
from torch import Tensor

from textus.core.errors import RunError, TextusError
from textus.data.bucketing import pad_sources
from textus.interop.architectures import checked_config
from textus.interop.folder import read_folder, read_tokenizer
from textus.interop.registry import architecture
from textus.tokenizers import load

SMALL = {
    "vocab_size": V, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 24,
}  # fmt: skip
T5 = {
    "vocab_size": V,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "dropout_rate": 0.0,
}


def shaken(model: Any) -> Any:
    """Nothing left at zero or one, where a mistake would not show."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.3)
    return model.eval()


def random_ids() -> Tensor:
    return torch.randint(4, V, (2, 12), generator=torch.Generator().manual_seed(0))


# ── keys left out ──────────────────────────────────────────────────────────────────────────────

NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: CASES[name] for name in ("llama", "mistral", "qwen2, window", "qwen3, wide heads", "gpt2")},
    "llama, tied": CASES["llama, tied, another base"],
    "t5": ("T5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu"}),
    "bert": ("BertForMaskedLM", {**SMALL, "mask_token_id": 3}),
    "roberta": ("RobertaForMaskedLM", {**SMALL, "type_vocab_size": 1}),
    "xlm-r": ("XLMRobertaModel", {**SMALL, "type_vocab_size": 1}),
}


@pytest.mark.promise(
    "Families", "A key left out of config.json is what `transformers` takes for it, or refused"
)
@pytest.mark.parametrize("case", NAMED)
def test_a_key_left_out_is_what_transformers_takes_for_it(case: str) -> None:
    """Or the file is refused: never another model."""
    name, values = NAMED[case]
    kind, module = getattr(transformers, name).config_class, architecture(name)
    whole = {**kind(**values).to_dict(), "architectures": [name]}
    taken = refused = 0
    for key in [key for key in whole if key != "architectures"]:
        some = {other: value for other, value in whole.items() if other != key}
        if key == "tie_word_embeddings":
            some.pop("scale_decoder_outputs", None)
        try:
            result = checked_config(module, some, "ours")
        except TextusError:
            refused += 1
            continue
        expected = checked_config(module, {**kind(**some).to_dict(), "architectures": [name]}, "theirs")
        assert {**result, "mask_id": 0} == {**expected, "mask_id": 0}, key
        taken += 1
    assert taken > 10
    assert refused < taken


def test_windows_are_only_where_they_are_on(tmp_path: Path) -> None:
    """Qwen2's files name a window and switch it off; Llama has none, whatever they name."""
    for case, values in (("qwen2", {"use_sliding_window": False}), ("llama", {"use_sliding_window": True})):
        saved(case, tmp_path / case)
        edit(
            tmp_path / case,
            lambda hf, values=values: hf.update(sliding_window=3, max_window_layers=0, **values),
        )
        same(imported(tmp_path / case), foreign(case))


def test_the_width_of_a_head_may_be_left_to_qwen3(tmp_path: Path) -> None:
    """128, whatever the width of the model is."""
    theirs = shaken(transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**{**LLAMA, "head_dim": 128})))
    theirs.save_pretrained(tmp_path)
    edit(tmp_path, lambda hf: hf.pop("head_dim"))
    same(imported(tmp_path), theirs)


# ── names and tensors ──────────────────────────────────────────────────────────────────────────


def hidden(folder: Path, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return imported(folder).hidden(ids)


def test_norms_may_have_the_names_that_tensorflow_gave_them(tmp_path: Path) -> None:
    theirs = shaken(transformers.BertForMaskedLM(transformers.BertConfig(**SMALL, mask_token_id=3)))
    theirs.save_pretrained(tmp_path)

    def older(weights: dict[str, Tensor]) -> None:
        for name in [name for name in weights if "LayerNorm" in name]:
            named = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            )
            weights[named] = weights.pop(name)

    reweigh(tmp_path, older)
    with torch.no_grad():
        expected = transformers.BertForMaskedLM.from_pretrained(tmp_path).bert(random_ids()).last_hidden_state
        assert torch.equal(expected, theirs.bert(random_ids()).last_hidden_state)
    torch.testing.assert_close(hidden(tmp_path, random_ids()), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["XLMRobertaForMaskedLM", "XLMRobertaModel", "CamembertForMaskedLM", "CamembertModel"]
)
def test_robertas_of_other_languages_are_read(name: str, tmp_path: Path) -> None:
    kind = getattr(transformers, name)
    theirs = shaken(kind(kind.config_class(**SMALL, type_vocab_size=1, pad_token_id=1)))
    theirs.save_pretrained(tmp_path)
    body = getattr(theirs, "roberta", theirs)
    with torch.no_grad():
        expected = body(random_ids()).last_hidden_state
    torch.testing.assert_close(hidden(tmp_path, random_ids()), expected, atol=1e-4, rtol=1e-4)


def test_a_t5_with_a_head_of_its_own_that_transformers_5_wrote_anew(tmp_path: Path) -> None:
    """Which says of every T5 that its head is tied, and leaves it to the file."""
    config = transformers.T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    shaken(transformers.T5ForConditionalGeneration(config)).save_pretrained(tmp_path / "first")
    reweigh(tmp_path / "first", lambda w: w.update({"lm_head.weight": torch.randn(V, 16)}))
    weights = load_file(tmp_path / "first" / "model.safetensors")
    save_file(weights, tmp_path / "first" / "model.safetensors", metadata={"format": "pt"})
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "first").eval()
    theirs.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["tie_word_embeddings"] is True
    mine = imported(tmp_path / "again")
    assert not mine.config.tie_head
    source, target = [[5, 6, 7]], torch.tensor([[0, 9, 8, 3]])
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor([[5, 6, 7, 1]]), decoder_input_ids=target).logits
        result = mine(target, mine.new_cache(1, 4, pad_sources(source, 1)))
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)


# ── tokenizers that say half ───────────────────────────────────────────────────────────────────


def wordpiece(folder: Path) -> Path:
    """As the authors' BERT: tokenizer_config.json names no token."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abc"]
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.decoder = tokenizers.decoders.WordPiece()
    backend.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.add_special_tokens(words[:5])
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    config = {"do_lower_case": True, "tokenizer_class": "BertTokenizer", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_a_bert_tokenizer_that_names_no_tokens_is_read(tmp_path: Path) -> None:
    folder = wordpiece(tmp_path / "t")
    mine, theirs = load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert (mine.end_id, mine.pad_id) == (theirs.sep_token_id, theirs.pad_token_id)
    assert mine.special[mine.roles["mask_token"]] == theirs.mask_token_id
    assert mine.bos_ids == [theirs.cls_token_id]
    again = json.loads((folder / "tokenizer.json").read_text()) | {"post_processor": None}
    (folder / "tokenizer.json").write_text(json.dumps(again))
    with raises(RunError, "unsupported_tokenizer"):
        load(folder)


def test_tokens_named_next_to_the_tokenizer_are_known(tmp_path: Path) -> None:
    """special_tokens_map.json of older folders; added tokens that only tokenizer_config.json has."""
    folder = wordpiece(tmp_path / "t")
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "[CLS]"}}))
    assert load(folder).end_id == 2
    config = json.loads((folder / "tokenizer_config.json").read_text())
    token = {"content": "<more>", "special": True, "lstrip": False, "rstrip": False, "normalized": False}
    config |= {"eos_token": "[SEP]", "added_tokens_decoder": {"8": {**token, "single_word": False}}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    mine, theirs = load(folder), transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    assert (mine.special["<more>"], mine.vocab_size, mine.end_id) == (8, len(theirs), 3)
    assert theirs("a<more>b", add_special_tokens=False).input_ids == [5, 8, 6]
    assert 8 not in mine.encode("a<more>b"), "and no text spells it"


GPT2_TYPE = {"model_type": "gpt2"}


def test_added_tokens_of_the_oldest_folders_are_read(data: Path, tmp_path: Path) -> None:
    source = data / "weights" / "gpt2_bpe"
    shutil.copy(source / "encoder.json", tmp_path / "vocab.json")
    shutil.copy(source / "vocab.bpe", tmp_path / "merges.txt")
    (tmp_path / "added_tokens.json").write_text('{"[PAD]": 50257, "<new>": 50258}')
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    mine, theirs = read_tokenizer(tmp_path, GPT2_TYPE), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert mine is not None
    assert mine.vocab_size == len(theirs) == 50259
    assert mine.special["<new>"] == theirs.convert_tokens_to_ids("<new>")
    assert mine.encode("a new b") == theirs("a new b").input_ids
    for more in ('{"[PAD]": 50258}', "[]", '{"[PAD]": "x"}'):
        (tmp_path / "added_tokens.json").write_text(more)
        with raises(RunError, "damaged", "added_tokens.json"):
            read_tokenizer(tmp_path, GPT2_TYPE)


def test_a_folder_in_which_nothing_was_left_out_is_read_as_before(tmp_path: Path) -> None:
    model = read_folder(saved("llama", tmp_path))
    assert model.tokenizer is None
    assert model.config["window"] is None

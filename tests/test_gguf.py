"""GGUF and llama2.c files: weights, tokenizers and what is wrong with damaged ones.

Oracles: the package `gguf` writes the files and quantises, `transformers` computes, `sentencepiece` and the
tokenizers of `transformers` encode; for llama2.c a plain loop over its own format.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import gguf as peer
import numpy as np
import pytest
import torch
from raising import raises

from benchmarks._stories import plain_story
from textus.core.errors import RunError, TextusError, UsageError
from textus.generation.params import SamplingParams
from textus.generation.sampling import generate
from textus.interop import gguf, llama2c
from textus.interop.gguf_reader import Container
from textus.interop.tokenizer_json import SPLITS
from textus.models.registry import build

Quant = peer.GGMLQuantizationType
CONTEXT = 48
PIECES = ["<end>", "<s>", "a", "b", "c", "ab", "abc", "Ġ", *[f"x{n}" for n in range(24)]]
VALUES = {"context_length": CONTEXT, "embedding_length": 64, "block_count": 2, "feed_forward_length": 96}


def shaped(kind: str = "llama", **values: Any) -> Any:
    """A small model of `transformers` whose widths are multiples of 32, as blocks need."""
    import transformers

    name = gguf.CLASSES[kind].removesuffix("ForCausalLM")
    config = getattr(transformers, f"{name}Config")(
        vocab_size=len(PIECES), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=CONTEXT, tie_word_embeddings=False, **values,
    )  # fmt: skip
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.3)
    return model.eval()


def in_pairs(weight: np.ndarray, n_head: int) -> np.ndarray:
    """Rows as llama.cpp keeps them for the architecture llama: the way back from `gguf.interleave_to_halves`."""
    halves = weight.reshape(n_head, 2, weight.shape[0] // n_head // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def names(kind: str = "llama") -> dict[str, str]:
    """Name in `transformers` → name in GGUF, from the package's own table."""
    table = peer.get_tensor_name_map(peer.MODEL_ARCH[kind.upper()], 2)
    return {name: table.get_name(name) for name in table.mapping}


def header(path: Path, kind: str = "llama", **changes: Any) -> peer.GGUFWriter:
    """A writer with everything but tensors; `changes` to the tokenizer's vocabulary, pre and pieces, and to theta."""
    writer = peer.GGUFWriter(path, kind)
    values: dict[str, Any] = {
        **VALUES, "attention.head_count": 4, "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": changes.get("theta", 10000.0),
        **changes.get("values", {}),
    }  # fmt: skip
    for name, value in values.items():
        if isinstance(value, list):
            writer.add_array(f"{kind}.{name}", value)
            continue
        (writer.add_uint32 if isinstance(value, int) else writer.add_float32)(f"{kind}.{name}", value)
    writer.add_tokenizer_model(changes.get("vocabulary", "gpt2"))
    writer.add_tokenizer_pre(changes.get("pre", "gpt-2"))
    writer.add_token_list(changes.get("pieces", PIECES))
    writer.add_token_types([3, 3] + [1] * (len(changes.get("pieces", PIECES)) - 2))
    writer.add_token_merges(["a b", "ab c"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(1)
    return writer


def finish(writer: peer.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write(path: Path, model: Any, kind: str = "llama", quant: Quant = Quant.F32, **changes: Any) -> Path:
    """The model as a GGUF file; its matrices become what the quantised numbers mean."""
    writer, table, counts = header(path, kind, **changes), names(kind), {"q_proj": 4, "k_proj": 2}
    for name, parameter in model.named_parameters():
        stem, _, ending = name.rpartition(".")
        number = parameter.detach().numpy()
        heads = counts.get(stem.split(".")[-1]) if kind == "llama" else None
        if parameter.ndim == 2 and quant is not Quant.F32:
            raw = peer.quants.quantize(in_pairs(number, heads) if heads else number, quant)
            meant = peer.quants.dequantize(raw, quant).reshape(number.shape)
            back = (
                gguf.interleave_to_halves(torch.from_numpy(meant), heads)
                if heads
                else torch.from_numpy(meant)
            )
            parameter.data.copy_(back)
            writer.add_tensor(f"{table[stem]}.{ending}", raw, raw_dtype=quant)
        else:
            writer.add_tensor(f"{table[stem]}.{ending}", in_pairs(number, heads) if heads else number)
    if count := changes.get("shards"):
        writer.add_uint16("split.no", 0)
        writer.add_uint16("split.count", count)
    for name, number in changes.get("more", {}).items():
        writer.add_tensor(name, number.astype(np.float32))
    finish(writer)
    return path


def built(path: Path) -> Any:
    result = gguf.read_file(path)
    model = build(result.family, result.config)
    model.load_state_dict(result.weights)
    return model.eval()


def same(mine: Any, theirs: Any) -> None:
    ids = torch.randint(0, len(PIECES), (2, CONTEXT), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(ids).logits
        assert expected.std() > 0.1
        torch.testing.assert_close(mine(ids), expected, atol=1e-4, rtol=1e-4)


# ── weights ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", gguf.CLASSES)
def test_every_architecture_computes_what_transformers_does(kind: str, tmp_path: Path) -> None:
    theirs = shaped(kind, head_dim=16) if kind == "qwen3" else shaped(kind)
    same(built(write(tmp_path / "m.gguf", theirs, kind)), theirs)


def test_values_per_layer_that_are_all_equal_are_read(tmp_path: Path) -> None:
    """A list of one value for each layer was taken for damage."""
    theirs = shaped()
    equal = {"attention.head_count_kv": [2, 2], "feed_forward_length": [96, 96]}
    same(built(write(tmp_path / "m.gguf", theirs, values=equal)), theirs)
    file = write(tmp_path / "n.gguf", theirs, values={"attention.head_count_kv": [2, 4]})
    with raises(UsageError, "unsupported_setting", "head_count_kv", "2", "4"):
        gguf.read_file(file)


def test_zero_experts_are_none_and_shards_are_named(tmp_path: Path) -> None:
    theirs = shaped()
    same(
        built(write(tmp_path / "m.gguf", theirs, values={"expert_count": 0, "expert_used_count": 0})), theirs
    )
    with raises(UsageError, "incomplete_model", "1", "2"):
        gguf.read_file(write(tmp_path / "n.gguf", theirs, shards=2))
    assert gguf.read_file(write(tmp_path / "o.gguf", theirs, shards=1)).weights  # all of it


READ = [Quant.F32, Quant.F16, *peer.quants._type_traits]
"""Every type that the package turns into numbers."""


def blocks_of(quant: Quant, rows: int = 2, n: int = 2) -> np.ndarray:
    """Rows of random blocks: numbers quantised where `gguf` can write the type, else random bytes with small scales."""
    block, size = peer.GGML_QUANT_SIZES[quant]
    generator = np.random.default_rng(quant.value)
    try:
        return peer.quants.quantize(generator.standard_normal((rows, n * block)).astype(np.float32), quant)
    except NotImplementedError:
        raw = generator.integers(0, 256, (rows, n * size), dtype=np.uint8)
    raw.reshape(-1, 2)[:, 1] &= 0x3F  # no exponent of a half is that of an infinity, wherever the scales lie
    return raw


@pytest.mark.parametrize(
    "quant", [Quant.F16, Quant.BF16, Quant.Q8_0, Quant.Q4_0, Quant.Q4_1, Quant.Q5_0, Quant.MXFP4]
)
def test_quantised_weights_mean_what_they_mean_elsewhere(quant: Quant, tmp_path: Path) -> None:
    theirs = shaped()
    before = theirs.lm_head.weight.detach().clone()
    mine = built(write(tmp_path / "m.gguf", theirs, quant=quant))
    assert not torch.equal(theirs.lm_head.weight, before)
    same(mine, theirs)


@pytest.mark.promise(
    "Robustness",
    "A key that changes the computation is never dropped; every type that `gguf` dequantizes is read",
)
@pytest.mark.parametrize("quant", READ, ids=[quant.name for quant in READ])
def test_every_type_that_gguf_dequantizes_is_read(quant: Quant, tmp_path: Path) -> None:
    """M6: Q5_0, Q5_1, Q2_K, Q3_K, IQ*, TQ* and MXFP4 were refused, though the package reads them."""
    raw = blocks_of(quant)
    writer = header(tmp_path / "m.gguf")
    writer.add_tensor("token_embd.weight", raw, raw_dtype=quant)
    finish(writer)
    read = Container(tmp_path / "m.gguf").read("token_embd.weight")
    assert read.shape == (2, 2 * peer.GGML_QUANT_SIZES[quant][0])
    assert torch.isfinite(read).all()
    assert read.std() > 0
    np.testing.assert_array_equal(read.numpy(), peer.quants.dequantize(raw, quant))


def test_the_splits_have_the_names_that_llama_cpp_gives_them(gpt2_lists: Any, tmp_path: Path) -> None:
    """M11: other names of splits that are known were refused."""
    text = "It's 2005,  WE'll see.\n\n\tx 你好 $=^"
    for name, same_as in (("deepseek-r1-qwen", "qwen2"), ("llama3", "llama-bpe"), ("llama-v3", "llama-bpe")):
        ids = [from_lists(tmp_path / one, gpt2_lists, one).encode(text) for one in (name, same_as)]
        assert ids[0] == ids[1]
    assert SPLITS["dbrx"] == SPLITS["llama-bpe"]


def test_a_file_without_its_way_of_splitting_is_split_as_llama_cpp_does(
    gpt2_lists: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """M11: 'default' cuts numbers into three digits, and punctuation from what follows."""
    mine = from_lists(tmp_path / "m.gguf", gpt2_lists, "default")
    assert "has no tokenizer.ggml.pre" in capsys.readouterr().err
    cut = [piece for piece, _ in mine.backend.pre_tokenizer.pre_tokenize_str("a 123456, b=c ,d")]
    assert cut == ["a", "Ġ", "123", "456", ",", "Ġb", "=", "c", "Ġ", ",", "d"]
    assert mine.decode(mine.encode("a 123456, b=c ,d")) == "a 123456, b=c ,d"


def test_the_stretching_of_llama_3_is_known_by_its_tensor(tmp_path: Path) -> None:
    values = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 500_000.0}
    theirs = shaped(
        rope_parameters={"rope_type": "llama3", "original_max_position_embeddings": 8192, **values}
    )
    plain = 500_000.0 ** -(np.arange(0, 16, 2) / 16)
    divisors = plain / theirs.model.rotary_emb.inv_freq.numpy()
    assert divisors.max() > 7.9
    path = write(tmp_path / "m.gguf", theirs, theta=500_000.0, more={"rope_freqs.weight": divisors})
    same(built(path), theirs)
    assert gguf.read_file(path).config["rope_scaling"]["factor"] == pytest.approx(8.0)


def test_a_tied_head_is_read_from_the_embedding(tmp_path: Path) -> None:
    theirs = shaped()
    theirs.lm_head.weight = theirs.model.embed_tokens.weight
    result = gguf.read_file(write(tmp_path / "m.gguf", theirs))
    assert result.config["tie_head"] is True
    same(built(tmp_path / "m.gguf"), theirs)


# ── tokenizers ─────────────────────────────────────────────────────────────────────────────────

TEXTS = [
    "", " ", "  two  blanks ", "Hello, World! It's 12345 o'clock, we'LL see.", "\n\n\tx\r\n y", "naïve café — “q”",
    "床前明月光，疑是地上霜。\n举头望明月", "🙂👍🏽 e\u0301 \u200b\ufeff", "a_b-c+d=e", "</s> <s> <|endoftext|> <end>",
    "don't DON'T", "1 22 333 4444 55555", "...!?\n\n\n   next", "ſ'ſ ΑΒΓ ⅷ ²", "\u00a0nbsp\u3000wide",
]  # fmt: skip


@pytest.fixture(scope="module")
def gpt2_lists(data: Path) -> tuple[dict[str, int], list[str]]:
    folder = data / "weights" / "gpt2_bpe"
    merges = (folder / "vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]
    return json.loads((folder / "encoder.json").read_text()), [line for line in merges if line]


MADE: dict[str, Any] = {}


def from_lists(path: Path, lists: tuple[dict[str, int], list[str]], split: str) -> Any:
    """The tokenizer that comes out of a GGUF file with these lists; each split's file is written once."""
    if split in MADE:
        return MADE[split]
    pieces = sorted(lists[0], key=lambda piece: lists[0][piece])
    writer = peer.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(pieces)
    writer.add_token_types([1] * (len(pieces) - 1) + [3])
    writer.add_token_merges(lists[1])
    writer.add_eos_token_id(len(pieces) - 1)
    finish(writer)
    MADE[split] = gguf.read_tokenizer(Container(path))
    return MADE[split]


def theirs_for(split: str, lists: tuple[dict[str, int], list[str]]) -> Any:
    """The same vocabulary in a tokenizer of `transformers` with that split."""
    import tokenizers
    import transformers
    from transformers.convert_slow_tokenizer import TikTokenConverter

    merges = [tuple(merge.split(" ")) for merge in lists[1]]
    if split == "qwen2":
        return transformers.Qwen2Tokenizer(vocab=lists[0], merges=merges)._tokenizer
    gpt2 = transformers.GPT2Tokenizer(vocab=lists[0], merges=merges)._tokenizer
    if split == "llama-bpe":
        regex = tokenizers.Regex(TikTokenConverter(vocab_file="none").pattern)
        level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        cut = tokenizers.pre_tokenizers.Split(regex, behavior="isolated", invert=False)
        gpt2.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([cut, level])
    if split == "smollm":
        digits = tokenizers.pre_tokenizers.Digits(individual_digits=True)
        gpt2.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([digits, gpt2.pre_tokenizer])
    return gpt2


@pytest.mark.promise("Families", "Tokenizers from GGUF encode as the originals")
@pytest.mark.parametrize("split", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_byte_level_vocabularies_encode_as_in_transformers(
    split: str, gpt2_lists: tuple[dict[str, int], list[str]], tmp_path: Path
) -> None:
    mine, theirs = from_lists(tmp_path / "m.gguf", gpt2_lists, split), theirs_for(split, gpt2_lists)
    theirs.encode_special_tokens = True
    texts = [*TEXTS, " ".join(TEXTS) * 3, "word. \n" * 6000]
    normal = theirs.normalizer.normalize_str if theirs.normalizer else str
    for text in texts:
        text = normal(text)  # Qwen's composes characters, llama.cpp does not
        ids = mine.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False).ids, text[:50]
        assert mine.decode(ids) == text
        stream = mine.stream()
        assert "".join([*map(stream.push, ids), stream.flush()]) == text


def test_the_splits_differ_where_they_should(gpt2_lists: Any, tmp_path: Path) -> None:
    """The oracle above would pass four times the same split on texts without digits or lines."""
    splits = ("gpt-2", "smollm", "llama-bpe", "qwen2")
    text = "2005 abc.\n\n\n\nd"
    assert len({tuple(from_lists(tmp_path / split, gpt2_lists, split).encode(text)) for split in splits}) == 4
    assert set(SPLITS) >= set(splits)


@pytest.mark.promise(
    "Families",
    "The mask of an imported encoder is the one its tokenizer names; texts of Llama 3 begin with its token",
)
@pytest.mark.parametrize(("split", "begin"), [("llama-bpe", [1]), ("gpt-2", [])])
def test_texts_of_llama_3_begin_with_its_token_though_no_flag_is_reported(
    tmp_path: Path, split: str, begin: list[int]
) -> None:
    finish(header(tmp_path / "m.gguf", pre=split))
    assert gguf.read_tokenizer(Container(tmp_path / "m.gguf")).bos_ids == begin


@pytest.fixture(scope="module", params=[True, False], ids=["blank first", "no blank first"])
def pieces(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A SentencePiece BPE learnt here, with bytes for what it does not know."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("pieces")
    text = Path(__file__).with_name("conftest.py").read_text() + Path(__file__).read_text()
    (folder / "text.txt").write_text(text)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "sp"), vocab_size=600, model_type="bpe",
        byte_fallback=True, add_dummy_prefix=request.param, normalization_rule_name="identity",
        remove_extra_whitespaces=False, character_coverage=0.99, minloglevel=2,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "sp.model")), request.param


def kinds(theirs: Any) -> list[int]:
    """GGUF's types of the pieces."""
    rules = [(theirs.is_unknown, 2), (theirs.is_control, 3), (theirs.is_byte, 6)]
    return [next((kind for rule, kind in rules if rule(n)), 1) for n in range(len(theirs))]


def test_sentencepiece_vocabularies_encode_as_in_sentencepiece(pieces: Any, tmp_path: Path) -> None:
    theirs, blank_first = pieces
    writer = peer.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([theirs.id_to_piece(n) for n in range(len(theirs))])
    writer.add_token_scores([theirs.get_score(n) for n in range(len(theirs))])
    writer.add_token_types(kinds(theirs))
    writer.add_eos_token_id(theirs.eos_id())
    writer.add_bos_token_id(theirs.bos_id())
    writer.add_unk_token_id(theirs.unk_id())
    writer.add_add_space_prefix(blank_first)
    finish(writer)
    mine = gguf.read_tokenizer(Container(tmp_path / "m.gguf"))
    assert (mine.kind, mine.bos_ids, mine.end_id) == ("sentencepiece", [theirs.bos_id()], theirs.eos_id())
    source = Path(__file__).read_text()
    for text in [*TEXTS, *source.splitlines(), source]:
        ids = mine.encode(text)
        assert ids == theirs.encode(text), text[:60]
        assert mine.decode(ids) == text
    mine.save(tmp_path)
    from textus.tokenizers import load

    again = load(tmp_path)
    assert again.encode(source) == theirs.encode(source)
    assert (again.bos_ids, again.end_id, again.unk_id) == (mine.bos_ids, mine.end_id, mine.unk_id)


# ── stories of llama2.c ────────────────────────────────────────────────────────────────────────


@pytest.fixture
def stories(data: Path) -> tuple[Path, Path]:
    folder = data / "weights" / "stories260K"
    return folder / "stories260K.bin", folder / "tok512.bin"


def test_a_story_is_that_of_a_plain_loop(stories: tuple[Path, Path]) -> None:
    result = llama2c.read_file(*stories)
    assert result.tokenizer is not None
    model = build(result.family, result.config)
    model.load_state_dict(result.weights)
    ids = generate(model.eval(), result.tokenizer.bos_ids, SamplingParams(temperature=0, max_tokens=120), 1)
    assert ids == plain_story(stories[0], 120)
    text = result.tokenizer.decode(ids)
    assert text.startswith("Once upon a time, there was a little girl named Lily.")
    assert result.tokenizer.decode(result.tokenizer.encode(text)) == text


def test_damaged_files_of_llama2c_are_refused(stories: tuple[Path, Path], tmp_path: Path) -> None:
    model, pieces = (path.read_bytes() for path in stories)
    cases = [
        (model[:-4], pieces, "it is cut short"),
        (model + b"\0" * 8, pieces, "its sizes ask for"),
        (b"\0" * 28 + model[28:], pieces, "does not begin with the sizes"),
        (model[:11], pieces, "does not begin with the sizes"),
        (model, pieces[:-9], "is no tokenizer of llama2.c with 512 pieces"),
        (model, pieces + b"more", "has more data after its 512 pieces"),
    ]
    for weights, vocabulary, message in cases:
        (tmp_path / "m.bin").write_bytes(weights)
        (tmp_path / "t.bin").write_bytes(vocabulary)
        with pytest.raises(RunError, match=message):
            llama2c.read_file(tmp_path / "m.bin", tmp_path / "t.bin")


# ── damaged GGUF ───────────────────────────────────────────────────────────────────────────────


def refused(path: Path, *values: str, kind: type[TextusError] = RunError) -> None:
    with pytest.raises(kind) as caught:
        gguf.read_file(path)
    for line in values:
        assert line in str(caught.value)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write(tmp_path / "m.gguf", shaped())


@pytest.mark.promise("Families", "A damaged safetensors or GGUF file is refused, never a crash")
@pytest.mark.parametrize("keep", [0, 3, 4, 20, 100, 900, 0.9, -1])
def test_a_truncated_file_is_refused(whole: Path, keep: float) -> None:
    data = whole.read_bytes()
    whole.write_bytes(data[: int(len(data) * keep) if 0 < keep < 1 else int(keep)])
    refused(whole, str(whole))


def offset_of(data: bytes, name: str, axes: int) -> int:
    """Where the header tells a tensor's offset."""
    return data.index(struct.pack("<Q", len(name)) + name.encode()) + 8 + len(name) + 4 + 8 * axes + 4


def test_overlapping_tensors_are_refused(whole: Path) -> None:
    data = bytearray(whole.read_bytes())
    at = offset_of(data, "blk.1.ffn_down.weight", 2)
    (old,) = struct.unpack_from("<Q", data, at)
    struct.pack_into("<Q", data, at, old - 32)
    whole.write_bytes(data)
    refused(whole, "blk.1.ffn_down.weight overlaps")


def test_a_tensor_type_that_is_not_read_is_named(whole: Path) -> None:
    data = bytearray(whole.read_bytes())
    struct.pack_into("<I", data, offset_of(data, "output.weight", 2) - 4, Quant.Q8_K.value)
    whole.write_bytes(data)
    refused(whole, "output.weight is of the type Q8_K", "such as Q8_0", kind=UsageError)
    struct.pack_into("<I", data, offset_of(data, "output.weight", 2) - 4, 99)
    whole.write_bytes(data)
    refused(whole, "output.weight is of the type number 99", kind=UsageError)


def test_a_tensor_without_axes_is_refused(tmp_path: Path) -> None:
    """R19: it ended in an IndexError."""
    path = tmp_path / "m.gguf"
    writer = header(path)
    writer.add_tensor("token_embd.weight", np.ones((32, 64), np.float32))
    writer.add_tensor("scale", np.ones(1, np.float32))
    finish(writer)
    data = path.read_bytes()
    at = data.index(b"scale") + len("scale")
    path.write_bytes(data[:at] + struct.pack("<I", 0) + data[at + 12 :])
    refused(path, "the tensor scale has no axes")


@pytest.mark.parametrize(
    ("key", "value"), [("attention.scale", 0.0156), ("logit_scale", 8.0), ("attn_logit_softcapping", 50.0)]
)
def test_metadata_that_change_the_computation_are_refused(key: str, value: float, tmp_path: Path) -> None:
    """M14: in a GGUF file too."""
    writer = header(tmp_path / "m.gguf")
    writer.add_float32(f"llama.{key}", value)
    writer.add_tensor("token_embd.weight", np.ones((32, 64), np.float32))
    finish(writer)
    refused(tmp_path / "m.gguf", f"{key}=", kind=UsageError)


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    path, model = tmp_path / "m.gguf", shaped()
    refused(write(path, model, pieces=[*PIECES, "y"]), "tokenizer has 33 entries, the weights are for 32")
    refused(write(path, model, pieces=PIECES[:20]), "tokenizer has 20 entries, the weights are for 32")
    refused(write(path, model, pre="tekken"), "'tekken' is not supported", "llama-bpe", kind=UsageError)
    refused(write(path, model, vocabulary="bert"), "'bert'", kind=UsageError)
    writer = header(path, "gemma")
    writer.add_tensor("token_embd.weight", np.ones((32, 64), np.float32))
    finish(writer)
    refused(path, "'gemma'", "qwen3", kind=UsageError)
    finish(header(path))
    refused(path, "has no tensor token_embd.weight")
    writer = header(path)
    for name in ("token_embd.weight", "output.weight"):
        writer.add_tensor(name, np.ones((32, 64), np.float32))
    finish(writer)
    refused(path, "has no tensor model.norm.weight")
    refused(
        write(path, model, more={"rope_freqs.weight": np.arange(1.0, 9.0)}), "rope_freqs", kind=UsageError
    )
    refused(
        write(path, model, more={"blk.0.exp_probs_b.bias": np.ones(8)}),
        "does not explain: blk.0.exp_probs_b.bias",
    )


def test_random_damage_to_the_header_never_ends_in_a_crash(whole: Path) -> None:
    data, generator = whole.read_bytes(), np.random.default_rng(0)
    end = data.index(b"output_norm.weight") + 40
    report = 0
    for _ in range(100):
        broken = bytearray(data)
        for at in generator.integers(0, end, 3):
            broken[at] = generator.integers(0, 256)
        whole.write_bytes(broken)
        try:
            gguf.read_file(whole)
        except TextusError:
            report += 1
    assert report > 15

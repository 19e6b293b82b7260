"""Damaged and made-up files of models: each ends in one line that names the file, the key, the value and what to do.

Every case was once an unexpected error, a hang, or accepted. The fuzz at the end changes values by chance.
"""

from __future__ import annotations

import copy
import json
import random
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf as peer
import numpy as np
import pytest
import tokenizers
import transformers
from raising import raises
from test_gguf import PIECES, finish
from test_pretrained import CASES, saved

from textus.api import exchange
from textus.core.errors import RunError, TextusError
from textus.interop import validate
from textus.tokenizers import load
from textus.tokenizers import train as train_tokenizer

ENCODER = {
    "vocab_size": 41, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 32,
}  # fmt: skip
T5 = {"vocab_size": 41, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model of each kind with a tokenizer. Tests must not change them."""
    place = tmp_path_factory.mktemp("whole")
    models = {
        "bert": transformers.BertForMaskedLM(transformers.BertConfig(**ENCODER)),
        "roberta": transformers.RobertaForMaskedLM(transformers.RobertaConfig(**ENCODER)),
        "t5": transformers.T5ForConditionalGeneration(transformers.T5Config(**T5)),
    }
    for name, model in models.items():
        model.save_pretrained(place / name)
    results = {name: place / name for name in models}
    for name in ("llama", "mistral", "gpt2"):
        assert name in CASES
        results[name] = saved(name, place / name)
    for folder in results.values():
        train_tokenizer("char", ["abcdefghijklmnopqrstuvwxyz <>ABCDEF."], vocab_size=41).save(folder)
    change(results["bert"], "config.json", mask_token_id=3)
    return results


def change(folder: Path, name: str, **changes: Any) -> None:
    settings = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    (folder / name).write_text(json.dumps(settings | changes))


def altered(source: Path, to: Path, name: str, **changes: Any) -> Path:
    """A folder like the source, of links, but for one file with these changes."""
    to.mkdir(exist_ok=True)
    for path in source.iterdir():
        (to / path.name).unlink(missing_ok=True)
        if path.name == name:
            (to / name).write_bytes(path.read_bytes())
        else:
            (to / path.name).symlink_to(path)
    change(to, name, **changes)
    return to


def test_the_undamaged_ones_are_read(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        assert exchange.read(folder).weights


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 12}
MANY = 10**12

# kind of model, key of config.json, its value
CONFIGS: list[tuple[str, str, Any]] = [
    *[("llama", "vocab_size", item) for item in (MANY, 0, -3, 41.0, True, "41", 10**400)],
    *[("llama", "num_hidden_layers", item) for item in (10**9, 0, 2.5)],
    *[("llama", "max_position_embeddings", item) for item in (MANY, "48", 0)],
    ("llama", "num_attention_heads", 0), ("llama", "num_attention_heads", 2**40), ("llama", "hidden_size", -32),
    ("llama", "head_dim", 2**33), ("llama", "num_key_value_heads", "2"), ("llama", "intermediate_size", 10**15),
    *[("llama", "rms_norm_eps", item) for item in (0, 0.0, -1e-6, float("nan"), float("inf"), "small", 1e300, True)],
    *[("llama", "rope_theta", item) for item in (1.0, 0, -10_000.0, float("nan"), "big")],
    ("llama", "tie_word_embeddings", "no"), ("llama", "attention_bias", 1), ("llama", "rope_parameters", "yarn"),
    ("llama", "rope_parameters", {"full_attention": {"rope_type": "default"}}),
    ("mistral", "sliding_window", 0), ("mistral", "sliding_window", 10**400), ("mistral", "sliding_window", "4"),
    ("gpt2", "layer_norm_epsilon", 0), ("gpt2", "n_layer", 10**9), ("gpt2", "n_positions", MANY),
    ("gpt2", "resid_pdrop", 1.0), ("gpt2", "n_inner", 0), ("gpt2", "n_embd", "32"),
    ("t5", "num_layers", 10**9), ("t5", "num_decoder_layers", 10**9), ("t5", "num_decoder_layers", 5_000),
    ("t5", "n_positions", MANY), ("t5", "layer_norm_epsilon", 0), ("t5", "relative_attention_num_buckets", 0),
    ("t5", "eos_token_id", 41), ("t5", "eos_token_id", -1), ("t5", "eos_token_id", "</s>"),
    ("t5", "decoder_start_token_id", 41), ("t5", "pad_token_id", 10**9), ("t5", "dropout_rate", -0.1),
    ("bert", "type_vocab_size", 0), ("bert", "layer_norm_eps", 0), ("bert", "mask_token_id", 41),
    ("bert", "mask_token_id", "[MASK]"), ("bert", "max_position_embeddings", MANY), ("bert", "is_decoder", "yes"),
    ("roberta", "type_vocab_size", 0), ("roberta", "pad_token_id", -1), ("roberta", "pad_token_id", MANY),
]  # fmt: skip


@pytest.mark.promise(
    "Families", "A value that cannot be is named with file, key and value; absurd sizes ask for no memory"
)
@pytest.mark.parametrize(("kind", "key", "value"), CONFIGS, ids=lambda item: str(item)[:24])
def test_a_value_that_cannot_be_is_named(
    kind: str, key: str, value: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = altered(folders[kind], tmp_path / "m", "config.json", **{key: value})
    with pytest.raises(TextusError) as caught:
        exchange.read(folder)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    layers = value == 5_000  # a number that could be, but not with so few tensors
    assert (f"{value:,} layers" if layers else f"{key}={repr(value)[:40]}") in message
    assert re.search("correct it|fetch it again|must be|not of one model", message)


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({**YARN, "rope_theta": 1.0}, "rope_theta=1.0 must be a number above 1"),
        ({**YARN, "rope_theta": 0.5}, "rope_theta=0.5 must be"),
        ({**YARN, "rope_theta": -2}, "rope_theta=-2 must be"),
        ({**YARN, "factor": float("nan")}, "factor=nan must be"),
        ({**YARN, "factor": "4"}, "factor='4' must be"),
        ({**YARN, "original_max_position_embeddings": 0}, "original_max_position_embeddings=0 must be"),
        ({**YARN, "beta_fast": 0}, "beta_fast=0 must be"),
        ({**YARN, "beta_fast": 1.0, "beta_slow": 2.0}, "low_frequency < high_frequency"),
        ({"rope_type": "yarn", "rope_theta": 100.0}, "'yarn' has no factor"),
        ({**YARN, "attention_factor": -1.0}, "attention_factor=-1.0 must be"),
        ({"rope_type": "linear", "factor": 0.5}, "must be at least 1"),
        ({"rope_type": ["yarn"]}, "wrong kind"),
    ],
)
def test_scaling_that_cannot_be_is_named(
    rope: dict[str, Any], message: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = altered(folders["llama"], tmp_path / "m", "config.json", rope_parameters=rope)
    with pytest.raises(TextusError, match=re.escape(message)) as caught:
        exchange.read(folder)
    assert f"{folder}/config.json" in str(caught.value)


def test_absurd_sizes_are_refused_before_memory_is_allocated(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault: without the limits a model of this size is begun."""
    from textus.interop import architectures

    folder = altered(folders["llama"], tmp_path / "m", "config.json", vocab_size=MANY)

    def build(*_: Any) -> None:
        raise OverflowError("begun")

    monkeypatch.setattr(architectures, "build", build)
    (folder / "tokenizer.json").unlink()
    with raises(RunError, "damaged", f"vocab_size={MANY}"):
        exchange.read(folder)
    monkeypatch.setattr(validate, "check", lambda *_: None)
    with pytest.raises(OverflowError, match="begun"):
        exchange.read(folder)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"architectures": ' + "9" * 5000 + "}", "{", '"\ud800"', "[]", "null", "3"]
)
def test_a_configuration_that_is_none_is_refused(text: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = altered(folders["llama"], tmp_path / "m", "config.json")
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(RunError, match=r"config\.json"):
        exchange.read(folder)


# ── tokenizers ─────────────────────────────────────────────────────────────────────────────────


def unigram(to: Path, **model: Any) -> Path:
    """A SentencePiece tokenizer of T5's kind, its model changed."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("a", -3.0)]
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=2))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    backend.decoder = tokenizers.decoders.Metaspace()
    backend.add_special_tokens(["<pad>", "</s>", "<unk>"])
    backend.save(str(to / "tokenizer.json"))
    change(to, "tokenizer_config.json", eos_token="</s>")
    record = json.loads((to / "tokenizer.json").read_text())
    (to / "tokenizer.json").write_text(json.dumps(record | {"model": record["model"] | model}))
    return to


def test_a_unigram_without_its_unknown_is_refused(tmp_path: Path) -> None:
    assert load(unigram(tmp_path)).encode("xa")
    with raises(RunError, "not_a_tokenizer", "tokenizer.json"):
        load(unigram(tmp_path, unk_id=None))
    with raises(RunError, "not_a_tokenizer", "tokenizer.json"):
        load(unigram(tmp_path, unk_id=99))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer_config.json", "[]", "is no object"),
        ("special_tokens_map.json", "7", "is no object"),
        (
            "tokenizer_config.json",
            '{"eos_token": "</s>", "added_tokens_decoder": {"77": {"content": "<x>"}}}',
            "id 77",
        ),
        (
            "tokenizer_config.json",
            '{"eos_token": "</s>", "added_tokens_decoder": {"x": 1}}',
            "not a usable tokenizer",
        ),
        ("tokenizer_config.json", '{"eos_token": "</s>", "textus_end_ids": [1, "x"]}', "textus_end_ids"),
        ("tokenizer_config.json", '{"eos_token": 4}', "nor an eos_token"),
        ("chat_template.jinja", "\udcff", "is no text"),
    ],
)
def test_damaged_settings_of_a_tokenizer_are_refused(
    name: str, text: str, message: str, tmp_path: Path
) -> None:
    (unigram(tmp_path) / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RunError, match=re.escape(message)):
        load(tmp_path)


# ── GGUF ───────────────────────────────────────────────────────────────────────────────────────

METADATA: dict[str, Any] = {
    "llama.context_length": 48, "llama.embedding_length": 32, "llama.block_count": 1, "llama.feed_forward_length": 32,
    "llama.attention.head_count": 2, "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-6, "llama.rope.freq_base": 10000.0, "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": PIECES,
    "tokenizer.ggml.token_type": [3, 3] + [1] * (len(PIECES) - 2), "tokenizer.ggml.merges": ["a b", "ab c"],
    "tokenizer.ggml.eos_token_id": 0, "tokenizer.ggml.bos_token_id": 1,
}  # fmt: skip


INSIDE = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
MATRICES = ["token_embd", "output", *(f"blk.0.{name}" for name in INSIDE)]
NORMS = ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"]


def write(path: Path, **changes: Any) -> Path:
    """A small whole file; `changes` to its metadata, with __ for a dot, None takes a key out."""
    metadata = METADATA | {key.replace("__", "."): value for key, value in changes.items()}
    writer = peer.GGUFWriter(path, "llama")
    for name, value in metadata.items():
        kind = (
            peer.GGUFValueType.get_type(value[0] if isinstance(value, list) else value)
            if value is not None
            else None
        )
        if kind is not None and isinstance(value, list):
            writer.add_key_value(name, value, peer.GGUFValueType.ARRAY, sub_type=kind)
        elif kind is not None:
            writer.add_key_value(name, value, peer.GGUFValueType.UINT64 if value == MANY else kind)
    random = np.random.default_rng(0)
    for name in MATRICES:
        writer.add_tensor(f"{name}.weight", random.normal(0, 0.3, (32, 32)).astype(np.float32))
    for name in NORMS:
        writer.add_tensor(f"{name}.weight", np.ones(32, np.float32))
    finish(writer)
    return path


WRONG: list[tuple[str, Any]] = [
    *[("llama.block_count", item) for item in ("two", [1, 2], 10**9, 0, -1, 1.5, True)],
    *[("llama.context_length", item) for item in ("48", [48, 64], MANY, 0)],
    *[("llama.embedding_length", item) for item in ("32", MANY, 0)],
    *[("llama.attention.head_count", item) for item in (0, [2, 4], "2")],
    *[("llama.attention.head_count_kv", item) for item in (["2"], 0, 2.0)],
    *[("llama.attention.layer_norm_rms_epsilon", item) for item in (0.0, -1.0, "x", float("nan"), [1e-6])],
    *[("llama.rope.freq_base", item) for item in (1.0, 0.0, -5.0, "x", float("inf"))],
    ("llama.rope.dimension_count", "x"), ("llama.attention.sliding_window", "x"), ("llama.rope.scaling.type", 3),
    ("llama.feed_forward_length", [32, 64]), ("llama.attention.key_length", -16), ("general.alignment", "x"),
    ("general.alignment", [32]), ("tokenizer.ggml.tokens", "abc"), ("tokenizer.ggml.tokens", [1, 2]),
    ("tokenizer.ggml.tokens", 7), ("tokenizer.ggml.token_type", ["a"]), ("tokenizer.ggml.token_type", 1),
    ("tokenizer.ggml.merges", "a b"), ("tokenizer.ggml.merges", [1]), ("tokenizer.ggml.model", ["gpt2"]),
    ("tokenizer.ggml.pre", 3), ("tokenizer.ggml.eos_token_id", "x"), ("tokenizer.ggml.eos_token_id", [0, 1]),
    ("tokenizer.ggml.eot_token_id", 1.5), ("tokenizer.ggml.bos_token_id", "x"), ("tokenizer.chat_template", 5),
    ("tokenizer.chat_template", ["a"]), ("tokenizer.ggml.add_bos_token", "yes"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), WRONG, ids=lambda item: str(item)[:40])
def test_metadata_that_cannot_be_is_named(key: str, value: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", **{key.replace(".", "__"): value})
    with pytest.raises(TextusError) as caught:
        exchange.read(path)
    assert re.search(rf"m\.gguf: {re.escape(key)}=.* (must be|names|differs)", str(caught.value)), str(
        caught.value
    )


def test_the_undamaged_gguf_is_read(tmp_path: Path) -> None:
    assert exchange.read(write(tmp_path / "m.gguf")).config["n_layer"] == 1


@pytest.mark.parametrize("count", ["two", [2], 2.0])
def test_a_number_of_shards_that_is_none_is_no_crash(count: Any, tmp_path: Path) -> None:
    assert exchange.read(write(tmp_path / "m.gguf", split__count=count)).config["n_layer"] == 1


def test_lists_of_other_lengths_than_the_tokens_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", tokenizer__ggml__model="llama", tokenizer__ggml__scores=[0.0, 1.0])
    with raises(RunError, "damaged", "tokenizer.ggml", "scores", "2"):
        exchange.read(path)


def test_lists_in_lists_are_no_stack_overflow(tmp_path: Path) -> None:
    deep = struct.pack("<IQ", 9, 1) * 100_000 + struct.pack("<IQ", 4, 0)
    name = b"llama.x"
    header = (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(name)) + name + struct.pack("<I", 9)
    )
    (tmp_path / "m.gguf").write_bytes(header + deep)
    with raises(RunError, "damaged"):
        exchange.read(tmp_path / "m.gguf")


# ── by chance ──────────────────────────────────────────────────────────────────────────────────

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2, 7, 41, 10**6, 2**24, 10**9, 10**12, 2**64, 10**400, 0.0, -0.5, 1.0, 1e-300, 1e300,
    float("inf"), float("nan"), "", "x", "8", "gelu", "\ud800", [], [1], ["a"], [[1]], {}, {"a": 1}, YARN,
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from places(item, (*path, key))


def mutated(document: Any, chance: random.Random) -> Any:
    """A copy in which one to three values are others, or gone."""
    document = copy.deepcopy(document)
    for _ in range(chance.choice([1, 1, 2, 3])):
        *way, last = chance.choice(list(places(document)) or [(None,)])
        inner = document
        for key in way:
            inner = inner[key]
        if last is not None and chance.random() < 0.2:
            del inner[last]
        elif last is not None:
            inner[last] = copy.deepcopy(chance.choice(ODD))
    return document


def outcome(source: Path) -> bool:
    """Whether reading fails; any exception but a plain error is let through."""
    try:
        result = exchange.read(source)
        assert result.tokenizer is not None
        result.tokenizer.encode("ab")
    except TextusError as error:
        return "\n" not in str(error)
    return False


@pytest.mark.promise("Families", "Values and bytes changed by chance never end in a crash")
@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5", "bert", "roberta"])
def test_values_changed_by_chance_never_end_in_a_crash(
    kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    chance, failed = random.Random(kind), 0
    files = [path.name for path in folders[kind].glob("*.json")]
    files += ["config.json"] * 6
    for _ in range(50):
        name = chance.choice(files)
        folder = altered(folders[kind], tmp_path / "m", name)
        (folder / name).write_text(json.dumps(mutated(json.loads((folder / name).read_text()), chance)))
        failed += outcome(folder)
    assert 12 < failed < 50


def test_bytes_of_metadata_changed_by_chance_never_end_in_a_crash(tmp_path: Path) -> None:
    path, chance, failed = write(tmp_path / "m.gguf"), random.Random(1), 0
    whole = path.read_bytes()
    end = whole.index(b"token_embd.weight")
    types = [item.end() for item in re.finditer(rb"(llama|general|tokenizer)\.[a-z_.]+", whole[:end])]
    for _ in range(300):
        broken = bytearray(whole)
        for _ in range(chance.choice([1, 1, 2, 4])):
            at = (
                chance.choice(types) + chance.randrange(14)
                if chance.random() < 0.7
                else chance.randrange(end)
            )
            broken[min(at, end)] = chance.choice([0, 1, 4, 5, 6, 7, 8, 9, 10, 12, 255, chance.randrange(256)])
        path.write_bytes(broken)
        failed += outcome(path)
    assert 100 < failed < 300


def test_the_fuzz_finds_a_missing_guard(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault: a check that lets everything pass."""
    monkeypatch.setattr(validate, "is_number", lambda _: True)
    monkeypatch.setattr(validate, "invalid_value", lambda *_: OverflowError("planted"))
    with pytest.raises(OverflowError, match="planted"):
        test_values_changed_by_chance_never_end_in_a_crash("llama", folders, tmp_path)

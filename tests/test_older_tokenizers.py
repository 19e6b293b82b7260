"""Folders without tokenizer.json: the ids of `transformers.AutoTokenizer`, whatever the class (M3, M15, D31)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers as tk
import transformers
from raising import raises

from textus.core.errors import TextusError
from textus.interop import legacy_tokenizers
from textus.interop.folder import read_folder, read_tokenizer
from textus.tokenizers import compat, load

TEXTS = [
    "the cat sat on the mat in 1934.", "Yes;\n\nno!\n  two  blanks ", "don't DON'T we'll", "你好，世界 the cat",
    "naïve Café 12345 e\u0301", " leading", "a-b_c (d) \"q\" $5.00", "\ttab\r\nline", "", "x", "🙂 ½ ﬁ",
]  # fmt: skip
LEARNT = [
    *TEXTS,
    "the cat sat on the mat in 1934. Yes; no. Hello world, it was 12 o'clock 你好 世界 naïve café",
] * 30


def byte_level(pattern: str | None = None, special: tuple[str, ...] = ()) -> dict[str, Any]:
    """vocab and merges of a byte-level BPE learnt here."""
    tokenizer, before = tk.Tokenizer(tk.models.BPE()), tk.pre_tokenizers
    tokenizer.pre_tokenizer = before.ByteLevel(add_prefix_space=False)
    if pattern:
        split = before.Split(tk.Regex(pattern), "isolated")
        tokenizer.pre_tokenizer = before.Sequence(
            [split, before.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    alphabet = before.ByteLevel.alphabet()
    trainer = tk.trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=list(special), show_progress=False
    )
    tokenizer.train_from_iterator(LEARNT, trainer)
    return dict(json.loads(tokenizer.to_str())["model"])


def write_merges(folder: Path, model: dict[str, Any]) -> int:
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    lines = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return len(model["vocab"])


QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def qwen2(folder: Path, settings: dict[str, Any]) -> int:
    n = write_merges(folder, byte_level(QWEN))
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    (folder / "added_tokens.json").write_text(json.dumps({name: n + i for i, name in enumerate(names)}))
    settings |= {
        "eos_token": "<|im_end|>", "chat_template": CHATML,
        "added_tokens_decoder": {str(n + i): {"content": name, "special": True} for i, name in enumerate(names)},
    }  # fmt: skip
    return n + 3


def gpt2(folder: Path, settings: dict[str, Any]) -> int:
    return write_merges(folder, byte_level(special=("<|endoftext|>",)))


def roberta(folder: Path, settings: dict[str, Any]) -> int:
    return write_merges(folder, byte_level(special=("<s>", "<pad>", "</s>", "<unk>", "<mask>")))


def bert(folder: Path, settings: dict[str, Any]) -> int:
    letters = sorted({c for text in LEARNT for c in text.lower() + text if not c.isspace()})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##at", "Hello", "naive", "naïve"]
    pieces += [c for c in letters if c not in pieces] + [f"##{c}" for c in letters if f"##{c}" not in pieces]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return len(pieces)


def sentencepiece(kind: str, name: str, **options: Any) -> Callable[[Path, dict[str, Any]], int]:
    def write(folder: Path, settings: dict[str, Any]) -> int:
        import sentencepiece

        (folder / "text").write_text("\n".join(LEARNT), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / "text"), model_prefix=str(folder / "sp"), model_type=kind, minloglevel=2,
            hard_vocab_limit=False, vocab_size=400 if kind == "bpe" else 150, **options,
        )  # fmt: skip
        (folder / "sp.model").rename(folder / name)
        (folder / "text").unlink()
        return len(legacy_tokenizers.read_proto(folder / name).pieces) + 100

    return write


BYTES = {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}
FILES: dict[str, tuple[str, Callable[[Path, dict[str, Any]], int], dict[str, Any]]] = {
    "Qwen2Tokenizer": ("qwen2", qwen2, {}),
    "Qwen2TokenizerFast": ("qwen3", qwen2, {}),
    "GPT2Tokenizer": ("gpt2", gpt2, {}),
    "GPT2Tokenizer, prefix": ("gpt2", gpt2, {"add_prefix_space": True}),
    "RobertaTokenizer": ("roberta", roberta, {}),
    "BertTokenizer": ("bert", bert, {}),
    "BertTokenizer, cased": ("bert", bert, {"do_lower_case": False}),
    "BertTokenizer, accents": ("bert", bert, {"do_lower_case": False, "strip_accents": True}),
    "BertTokenizer, Chinese together": ("bert", bert, {"tokenize_chinese_chars": False}),
    "LlamaTokenizer": ("llama", sentencepiece("bpe", "tokenizer.model", **BYTES), {}),
    "LlamaTokenizer, legacy": ("llama", sentencepiece("bpe", "tokenizer.model", **BYTES), {"legacy": True}),
    "LlamaTokenizer, bos": (
        "llama",
        sentencepiece("bpe", "tokenizer.model", **BYTES),
        {"add_bos_token": True},
    ),
    "T5Tokenizer": (
        "t5",
        sentencepiece("unigram", "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1),
        {},
    ),
    "XLMRobertaTokenizer": ("xlm-roberta", sentencepiece("unigram", "sentencepiece.bpe.model"), {}),
    "CamembertTokenizer": ("camembert", sentencepiece("unigram", "sentencepiece.bpe.model"), {}),
}
SIZES = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "n_embd": 16,
    "n_layer": 1, "n_head": 2, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2,
}  # fmt: skip


def folder_of(case: str, folder: Path) -> Path:
    model_type, write, settings = FILES[case]
    settings = {"tokenizer_class": case.split(",")[0], **settings}
    n = write(folder, settings)
    config = transformers.AutoConfig.for_model(model_type, vocab_size=n, **SIZES)
    config.save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.promise(
    "Robustness", "An imported tokenizer gives the ids of AutoTokenizer, from any of its files"
)
@pytest.mark.parametrize("case", FILES)
def test_ids_are_those_of_autotokenizer(case: str, tmp_path: Path) -> None:
    """M3, M15: vocab.json was always split by GPT-2's pattern; vocab.txt and SentencePiece models were not read."""
    folder = folder_of(case, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    mine = legacy_tokenizers.read(folder, json.loads((folder / "config.json").read_text()))
    assert mine is not None
    for text in TEXTS:
        expected = theirs(text, add_special_tokens=False)["input_ids"]
        assert mine.encode(text) == expected, (text, mine.record["model"]["type"])
    framed = theirs("the cat")["input_ids"]
    assert mine.backend.encode("the cat").ids == framed
    ids = {role: mine.special[name] for role, name in mine.roles.items() if role != "unk_token"}
    assert ids == {role: theirs.convert_tokens_to_ids(getattr(theirs, role)) for role in ids}
    assert (mine.chat_template is not None) == case.startswith("Qwen2")


def test_a_chat_template_next_to_an_older_tokenizer_is_read(tmp_path: Path) -> None:
    """M3: the template in tokenizer_config.json was dropped."""
    folder = folder_of("Qwen2Tokenizer", tmp_path)
    mine = legacy_tokenizers.read(folder, {})
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    talk = [{"role": "user", "content": "the cat.\n\nYes;\nno"}]
    expected = theirs.apply_chat_template(talk, add_generation_prompt=True, tokenize=True)
    assert mine is not None
    assert mine.apply_chat_template(talk) == (
        expected if isinstance(expected, list) else expected["input_ids"]
    )


def test_a_folder_without_a_class_goes_by_its_model(tmp_path: Path) -> None:
    """M3: two splits of one vocabulary; the model's type decides where no class is named."""
    folder = folder_of("Qwen2Tokenizer", tmp_path)
    (folder / "tokenizer_config.json").write_text("{}")
    named = [legacy_tokenizers.read(folder, {"model_type": kind}) for kind in ("qwen2", "gpt2")]
    assert named[0] is not None
    assert named[1] is not None
    assert named[0].encode("Yes;\n\nno") != named[1].encode("Yes;\n\nno")


def test_classes_that_are_not_known_are_refused_by_name(tmp_path: Path) -> None:
    """M3."""
    folder = folder_of("GPT2Tokenizer", tmp_path)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CodeGenTokenizer"}')
    with raises(TextusError, "unsupported_tokenizer", "'CodeGenTokenizer'", "GPT2Tok"):
        legacy_tokenizers.read(folder, {})
    with raises(TextusError, "incomplete_model", "vocab.json"):
        load(folder)


def test_models_and_their_older_tokenizers_become_runs(tmp_path: Path) -> None:
    """M15: from the folder to a run, through the command's function."""
    folder = folder_of("BertTokenizer", tmp_path)
    own = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    size = len((folder / "vocab.txt").read_text(encoding="utf-8").splitlines())
    config = transformers.BertConfig(vocab_size=size, **{name: SIZES[name] for name in own})
    transformers.BertModel(config).save_pretrained(folder)
    model = read_folder(folder)
    assert model.tokenizer is not None
    assert model.tokenizer.bos_ids == [2]
    assert model.config["mask_id"] == 4


@pytest.mark.parametrize("damage", ["cut", "noise", "missing"])
def test_damaged_files_are_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    for case, name in (
        ("T5Tokenizer", "spiece.model"),
        ("Qwen2Tokenizer", "merges.txt"),
        ("GPT2Tokenizer", "vocab.json"),
    ):
        (tmp_path / case).mkdir()
        file = folder_of(case, tmp_path / case) / name
        data = file.read_bytes()
        if damage == "missing":
            if case == "T5Tokenizer":
                continue
            file.unlink()
        else:
            file.write_bytes(data[: len(data) // 2 + 1] if damage == "cut" else b"\xff\xfe" * 200)
        if (damage, case) == ("cut", "Qwen2Tokenizer"):
            continue  # half of the merges are merges too
        with pytest.raises(TextusError) as caught:
            legacy_tokenizers.read(tmp_path / case, {})
        assert "\n" not in str(caught.value)


# ── tokenizer.json and its settings ────────────────────────────────────────────────────────────


WORDS: list[dict[str, Any]] = [
    {}, {"do_lower_case": False}, {"do_lower_case": True}, {"strip_accents": False}, {"tokenize_chinese_chars": False},
    {"do_lower_case": False, "strip_accents": True},
]  # fmt: skip


def ids_agree(folder: Path, n: int, kind: str) -> None:
    """Our ids of a folder are those of AutoTokenizer, as imported."""
    (folder / "config.json").write_text(json.dumps({"model_type": kind, "vocab_size": n}))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = read_tokenizer(folder, {"model_type": kind, "vocab_size": n})
    assert ours is not None
    for text in TEXTS:
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"], text


@pytest.mark.parametrize("more", WORDS, ids=str)
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("named", ["BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast", None])
def test_settings_of_words_reach_a_tokenizer_json(
    named: str | None, lower: bool, more: dict[str, Any], tmp_path: Path
) -> None:
    """do_lower_case, strip_accents and tokenize_chinese_chars were read where there was no tokenizer.json only."""
    n = bert(tmp_path, {})
    transformers.BertTokenizer(str(tmp_path / "vocab.txt"), do_lower_case=lower).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").unlink()
    path = tmp_path / "tokenizer_config.json"
    report = json.loads(path.read_text())
    for key in ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "tokenizer_class"):
        report.pop(key, None)
    path.write_text(json.dumps({**report, **more, **({"tokenizer_class": named} if named else {})}))
    ids_agree(tmp_path, n, "bert")


@pytest.mark.parametrize("more", [{}, {"add_prefix_space": True}, {"add_prefix_space": False}], ids=str)
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(
    ("named", "kind", "write"),
    [
        ("GPT2Tokenizer", "gpt2", gpt2),
        (None, "gpt2", gpt2),
        ("RobertaTokenizerFast", "roberta", roberta),
        ("PreTrainedTokenizerFast", "gpt2", gpt2),
    ],
)
def test_a_blank_before_texts_is_as_the_settings_requires(
    named: str | None, kind: str, write: Any, inside: bool, more: dict[str, Any], tmp_path: Path
) -> None:
    """add_prefix_space of tokenizer_config.json was passed over beside a tokenizer.json."""
    n = write(tmp_path, {})
    made = getattr(transformers, {"gpt2": "GPT2Tokenizer", "roberta": "RobertaTokenizer"}[kind])
    made.from_pretrained(tmp_path, add_prefix_space=inside).save_pretrained(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).unlink()
    path = tmp_path / "tokenizer_config.json"
    report = json.loads(path.read_text())
    for key in ("add_prefix_space", "tokenizer_class"):
        report.pop(key, None)
    path.write_text(json.dumps({**report, **more, **({"tokenizer_class": named} if named else {})}))
    ids_agree(tmp_path, n, kind)


@pytest.mark.parametrize("blank", [True, False])
@pytest.mark.parametrize(
    ("kind", "write"),
    [
        ("llama", sentencepiece("bpe", "tokenizer.model", **BYTES)),
        ("xlm-roberta", sentencepiece("unigram", "sentencepiece.bpe.model")),
    ],
)
def test_a_blank_before_texts_of_pieces_is_as_the_settings_requires(
    kind: str, write: Any, blank: bool, tmp_path: Path
) -> None:
    n = write(tmp_path, {})
    named = {"llama": "LlamaTokenizer", "xlm-roberta": "XLMRobertaTokenizer"}[kind]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "vocab_size": n}))
    getattr(transformers, named).from_pretrained(tmp_path).save_pretrained(tmp_path)
    for path in tmp_path.glob("*.model"):
        path.unlink()
    path = tmp_path / "tokenizer_config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "tokenizer_class": named, "add_prefix_space": blank})
    )
    ids_agree(tmp_path, n, kind)
    ours = read_tokenizer(tmp_path, {"model_type": kind, "vocab_size": n})
    assert ours is not None
    if blank or kind == "llama":  # the others split at blanks and lose them
        assert ours.decode(ours.encode("the cat sat")) == "the cat sat"


@pytest.mark.parametrize("legacy", [True, False, None])
@pytest.mark.parametrize("blank", [True, False, None])
def test_a_blank_before_pieces_is_set_where_autotokenizer_sets_it(
    legacy: bool | None, blank: bool | None, tmp_path: Path
) -> None:
    """The oracle is the `prepend_scheme` that AutoTokenizer ends with; without add_prefix_space nothing is changed."""
    n = sentencepiece("bpe", "tokenizer.model", **BYTES)(tmp_path, {})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": n}))
    transformers.LlamaTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    record = json.loads((tmp_path / "tokenizer.json").read_text())
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"tokenizer_class": "LlamaTokenizer"}
    for key, value in (("legacy", legacy), ("add_prefix_space", blank)):
        config.pop(key, None)
        config |= {} if value is None else {key: value}
    path.write_text(json.dumps(config))
    ours = compat.apply_class_settings(record, config, None)["pre_tokenizer"]
    if blank is None:
        assert ours == record["pre_tokenizer"]
        return
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path).backend_tokenizer.pre_tokenizer
    assert ours["prepend_scheme"] == json.loads(theirs.__getstate__())["prepend_scheme"]


def test_settings_that_win_are_reported_and_those_of_another_kind_of_model_are_not_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bert(tmp_path, {})
    transformers.BertTokenizer(str(tmp_path / "vocab.txt"), do_lower_case=True).save_pretrained(tmp_path)
    record = json.loads((tmp_path / "tokenizer.json").read_text())
    for named in ("BertTokenizer", "PreTrainedTokenizerFast"):
        same = compat.apply_class_settings(record, {"tokenizer_class": named, "do_lower_case": True}, None)
        assert same["normalizer"]["lowercase"]
    assert "wins" not in capsys.readouterr().err
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "tokenize_chinese_chars": False}
    compat.apply_class_settings(record, config, None)
    assert (
        "do_lower_case=False, tokenize_chinese_chars=False of tokenizer_config.json, or of its class"
        " BertTokenizer, wins over its tokenizer.json" in capsys.readouterr().err
    )
    other = {**record, "model": {"type": "BPE", "vocab": {}, "merges": []}, "normalizer": None}
    assert compat.apply_class_settings(other, config, None) == other

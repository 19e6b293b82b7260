"""Tokenizers of folders without tokenizer.json: lists of words, of merges, and SentencePiece models.

The files do not determine how texts are split; the folder's `tokenizer_class` does. The ids are those of that
class of `transformers`.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from textus.core.errors import DataError, RunError, UsageError
from textus.core.io import read_json
from textus.interop.tokenizer_json import bos_post_processor, byte_level, merges_of
from textus.interop.tokenizer_json import tokenizer_record as record_of
from textus.interop.validate import unsupported
from textus.tokenizers import Tokenizer, build_tokenizer, read_config
from textus.tokenizers.compat import BLANK

# ── what each class is ─────────────────────────────────────────────────────────────────────────

BERT_ROLES = {
    "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"
}  # fmt: skip
ROBERTA_ROLES = {
    "bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "unk_token": "<unk>",
    "pad_token": "<pad>", "mask_token": "<mask>",
}  # fmt: skip
END = "<|endoftext|>"


@dataclass(frozen=True)
class Kind:
    """A class of tokenizers: the files it needs, what makes a tokenizer.json of them, its special tokens' names."""

    files: tuple[tuple[str, ...], ...]  # several ways to name them
    make: Callable[[list[Path], dict[str, Any]], dict[str, Any]]
    roles: dict[str, str] = field(default_factory=dict)


def class_of(config: dict[str, Any], hf: dict[str, Any], folder: Path) -> str:
    """The tokenizer's class: of tokenizer_config.json, of config.json, or the usual one for the model.

    Raises UsageError for one that is not known.
    """
    named = config.get("tokenizer_class") or hf.get("tokenizer_class") or USUAL.get(str(hf.get("model_type")))
    name = str(named).removesuffix("Fast")
    if name in KINDS:
        return name
    raise UsageError(
        "unsupported_tokenizer",
        f"{folder}: {unsupported('the tokenizer_class', named, KINDS)}; a tokenizer.json is read whatever its class:"
        f" {CONVERT}.from_pretrained('{folder}').save_pretrained('{folder}')\"",
    )


CONVERT = 'python -c "import transformers; transformers.AutoTokenizer'
"""How a tokenizer.json is made of any tokenizer that `transformers` knows."""


def read(folder: Path, hf: dict[str, Any]) -> Tokenizer | None:
    """The tokenizer of a folder without tokenizer.json; None where it has no vocabulary at all.

    Raises UsageError for a class that is not known, RunError for files that are missing or damaged.
    """
    present = [
        name for kind in KINDS.values() for names in kind.files for name in names if (folder / name).is_file()
    ]
    if not present:
        return None
    config = read_config(folder / "tokenizer_config.json")
    kind = KINDS[class_of(config, hf, folder)]
    for names in kind.files:
        if all((folder / name).is_file() for name in names):
            break
    else:
        raise RunError(
            "incomplete_model",
            f"{folder} has {present[0]}, its {class_of(config, hf, folder)} needs {' and '.join(kind.files[0])}; fetch"
            " the missing file",
        )
    config = {**kind.roles, **config}
    try:
        record = kind.make([folder / name for name in names], config)
        record = with_added(record, config, folder)
    except (KeyError, IndexError, TypeError, ValueError, DataError, struct.error) as error:
        raise RunError(
            "damaged", f"{folder / names[0]} is damaged ({type(error).__name__} {error}); fetch it again"
        ) from error
    return build_tokenizer(record, config, folder / names[0])


# ── special tokens ─────────────────────────────────────────────────────────────────────────────


def with_added(record: dict[str, Any], config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The tokenizer.json with the tokens that the folder adds to its vocabulary, at their ids.

    A token with a role that is nowhere numbered gets the next id, as in `transformers`.
    """
    vocabulary = record["model"]["vocab"]
    numbers = (
        dict(vocabulary)
        if isinstance(vocabulary, dict)
        else {piece: n for n, (piece, _) in enumerate(vocabulary)}
    )
    path = folder / "added_tokens.json"
    more = read_json(path) if path.exists() else {}
    if not isinstance(more, dict) or not all(type(number) is int for number in more.values()):
        raise RunError(
            "damaged", f"{path} does not number its entries on from the vocabulary's; it is damaged"
        )
    listed = {int(n): token for n, token in (config.get("added_tokens_decoder") or {}).items()}
    more = {**more, **{token["content"]: n for n, token in listed.items()}}
    names = list(dict.fromkeys(special_names(config)))
    count = max([*numbers.values(), *more.values()], default=-1) + 1
    for name in [name for name in names if name not in numbers and name not in more]:
        more[name], count = count, count + 1
    known = {*numbers.values(), *more.values()}
    if known != set(range(len(known))):
        raise RunError(
            "damaged",
            f"{path} does not number its entries on from the vocabulary's, without gaps; one of both is damaged",
        )
    tokens = {token["id"]: token for token in record["added_tokens"]}
    for name in [*names, *more]:
        number = more.get(name, numbers.get(name, -1))
        special = name in names or bool(listed.get(number, {}).get("special", path.exists()))
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": not special}
        tokens[number] = {
            **plain,
            **listed.get(number, {}),
            "id": number,
            "content": name,
            "special": special,
        }
    return {**record, "added_tokens": [tokens[number] for number in sorted(tokens)]}


def special_names(config: dict[str, Any]) -> Iterator[str]:
    """Names of the special tokens that tokenizer_config.json lists."""
    roles = [config.get(f"{role}_token") for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = config.get(key) or []
        roles += list(more.values()) if isinstance(more, dict) else list(more)
    for token in roles:
        name = token.get("content") if isinstance(token, dict) else token
        if isinstance(name, str):
            yield name


def name_of(config: dict[str, Any], role: str) -> str:
    """The token of a role."""
    token = config[role]
    return str(token["content"] if isinstance(token, dict) else token)


def framing(
    config: dict[str, Any], before: str, after: str, numbers: dict[str, int], between: int
) -> dict[str, Any]:
    """A post-processor that sets a token before and after a text, and `between` ends in the middle of a pair."""
    first, last = (name_of(config, role) for role in (before, after))

    def token(name: str, segment: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": segment}}

    second = 1 if between == 1 else 0
    one = [token(first, 0), {"Sequence": {"id": "A", "type_id": 0}}, token(last, 0)]
    two = [
        *one,
        *[token(last, 0)] * (between - 1),
        {"Sequence": {"id": "B", "type_id": second}},
        token(last, second),
    ]
    special = {name: {"id": name, "ids": [numbers[name]], "tokens": [name]} for name in (first, last)}
    return {"type": "TemplateProcessing", "single": one, "pair": two, "special_tokens": special}


# ── words and merges ───────────────────────────────────────────────────────────────────────────


def lines_of(path: Path) -> list[str]:
    """The lines of a file of text."""
    try:
        return path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise RunError("damaged", f"{path} is no text ({error}); it was changed, fetch it again") from error


def word_pieces(paths: list[Path], config: dict[str, Any]) -> dict[str, Any]:
    """BERT's: a file of pieces, one a line."""
    pieces = [line.rstrip("\r") for line in lines_of(paths[0])]
    pieces = pieces[:-1] if pieces[-1] == "" else pieces
    if len(set(pieces)) != len(pieces):
        raise RunError("damaged", f"{paths[0]} lists a piece twice; it is damaged, fetch it again")
    numbers = {piece: number for number, piece in enumerate(pieces)}
    for role in ("unk_token", "sep_token", "cls_token"):
        if (name := name_of(config, role)) not in numbers:
            raise RunError("damaged", f"{paths[0]} has no {name}, which its {role} is; fetch it again")
    model = {
        "type": "WordPiece", "vocab": numbers, "unk_token": name_of(config, "unk_token"),
        "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
    }  # fmt: skip
    normalizer = {
        "type": "BertNormalizer", "clean_text": True, "lowercase": bool(config.get("do_lower_case", True)),
        "handle_chinese_chars": bool(config.get("tokenize_chinese_chars", True)),
        "strip_accents": config.get("strip_accents"),
    }  # fmt: skip
    return record_of(model, pieces, {}) | {
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": framing(config, "cls_token", "sep_token", numbers, 1),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    }


def merge_bpe(paths: list[Path], config: dict[str, Any], *, split: str) -> dict[str, Any]:
    """A byte-level BPE of vocab.json and merges.txt."""
    table = read_json(paths[0])
    if not isinstance(table, dict) or set(table.values()) != set(range(len(table))):
        raise RunError(
            "damaged", f"{paths[0]} does not number its entries from 0 without gaps; it is damaged"
        )
    merges = [line for line in lines_of(paths[1]) if line.strip() and not line.startswith("#version")]
    record = byte_level(sorted(table, key=lambda piece: table[piece]), merges, split=split, added={})
    level = record["pre_tokenizer"]
    level = level["pretokenizers"][-1] if level["type"] == "Sequence" else level
    level["add_prefix_space"] = bool(config.get("add_prefix_space"))
    return record


def gpt2(paths: list[Path], config: dict[str, Any]) -> dict[str, Any]:
    return with_bos(merge_bpe(paths, config, split="gpt-2"), config)


def qwen2(paths: list[Path], config: dict[str, Any]) -> dict[str, Any]:
    return merge_bpe(paths, config, split="qwen2") | {"normalizer": {"type": "NFC"}}


def roberta(paths: list[Path], config: dict[str, Any]) -> dict[str, Any]:
    record = merge_bpe(paths, config, split="gpt-2")
    return record | {
        "post_processor": framing(config, "cls_token", "sep_token", record["model"]["vocab"], 2),
    }


def with_bos(record: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Add the token that begins a text, where the settings ask for one."""
    if config.get("add_eos_token"):
        raise UsageError(
            "unsupported_tokenizer",
            "add_eos_token=true of tokenizer_config.json: here a text's end is no part of it",
        )
    if not config.get("add_bos_token"):
        return record
    name = name_of(config, "bos_token")
    return record | {"post_processor": bos_post_processor(name, record["model"]["vocab"][name])}


# ── SentencePiece ──────────────────────────────────────────────────────────────────────────────

CONTROL, USER = 3, 4
"""Types of its pieces that are no text; and those that a text is searched for first."""
UNIGRAM, BPE = 1, 2


@dataclass
class Proto:
    """A SentencePiece model: pieces with scores and types, its kind, the unknown piece, the normaliser."""

    pieces: list[tuple[str, float, int]]
    kind: int
    unk: int
    charsmap: bytes
    blank_first: bool


def read_proto(path: Path) -> Proto:
    """A SentencePiece model (github.com/google/sentencepiece, sentencepiece_model.proto); RunError where it is none."""
    pieces, parts = [], {2: b"", 3: b""}
    try:
        for number, value in fields(path.read_bytes()):
            if number == 1:
                values = dict(fields(value))
                pieces.append(
                    (values[1].decode(), struct.unpack("<f", values.get(2, bytes(4)))[0], values.get(3, 1))
                )
            elif number in parts:
                parts[number] = value
        trainer, normalizer = dict(fields(parts[2])), dict(fields(parts[3]))
        kind, unk = trainer.get(3, UNIGRAM), trainer.get(40, 0)
        if not pieces or kind not in (UNIGRAM, BPE) or not unk < len(pieces):
            raise ValueError("it lists no pieces, or is of another kind than unigram and BPE")
        return Proto(pieces, kind, unk, normalizer.get(2, b""), bool(normalizer.get(3, 1)))
    except (IndexError, KeyError, ValueError, TypeError, AttributeError, struct.error) as error:
        raise RunError(
            "damaged", f"{path} is no SentencePiece model ({error}); it was changed, fetch it again"
        ) from error


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of the fields of a message of protocol buffers: whole numbers, or bytes."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise ValueError("a number has no end")

    while at < len(data):
        key = varint()
        number, wire = key >> 3, key & 7
        if wire == 0:
            yield number, varint()
            continue
        size = {1: 8, 5: 4}.get(wire)
        size = varint() if wire == 2 else size
        if size is None or size > len(data) - at:
            raise ValueError(f"a field of type {wire} does not end inside it")
        at += size
        yield number, data[at - size : at]


def unigram(
    pieces: list[tuple[str, float]], unk: int, proto: Proto, config: dict[str, Any]
) -> dict[str, Any]:
    """tokenizer.json of a unigram model that splits at blanks, as those of T5, XLM-R and CamemBERT do."""
    if proto.kind != UNIGRAM:
        raise UsageError(
            "unsupported_tokenizer",
            "the SentencePiece model is a BPE, and this tokenizer_class needs a unigram model",
        )
    scheme = "always" if config.get("add_prefix_space", True) else "never"
    space = {"type": "Metaspace", "replacement": BLANK, "prepend_scheme": scheme, "split": True}
    charsmap = base64.b64encode(proto.charsmap).decode()
    model = {
        "type": "Unigram",
        "unk_id": unk,
        "vocab": [list(piece) for piece in pieces],
        "byte_fallback": False,
    }
    return record_of(model, [], {}) | {
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap} if charsmap else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, space]},
        "decoder": space,
    }


def t5(paths: list[Path], config: dict[str, Any]) -> dict[str, Any]:
    proto = read_proto(paths[0])
    count = config.get("extra_ids", 100)
    more = [f"<extra_id_{n}>" for n in range(count - 1, -1, -1)]
    config["additional_special_tokens"] = [*(config.get("additional_special_tokens") or []), *more]
    pieces = [(piece, score) for piece, score, _ in proto.pieces] + [(name, 0.0) for name in more]
    record = unigram(pieces, proto.unk, proto, config)
    end = name_of(config, "eos_token")
    number = [piece for piece, _ in pieces].index(end)
    token = {"SpecialToken": {"id": end, "type_id": 0}}
    texts = [{"Sequence": {"id": letter, "type_id": 0}} for letter in "AB"]
    record["post_processor"] = {
        "type": "TemplateProcessing", "single": [texts[0], token], "pair": [texts[0], token, texts[1], token],
        "special_tokens": {end: {"id": end, "ids": [number], "tokens": [end]}},
    }  # fmt: skip
    return record


def fairseq(paths: list[Path], config: dict[str, Any], *, first: list[str], skipped: int) -> dict[str, Any]:
    """XLM-R's and CamemBERT's: the pieces after the `skipped` follow those that fairseq put `first`, the mask
    ends the list.
    """
    proto = read_proto(paths[0])
    names = [*first, *(piece for piece, _, _ in proto.pieces[skipped:]), name_of(config, "mask_token")]
    scores = [0.0] * len(first) + [score for _, score, _ in proto.pieces[skipped:]] + [0.0]
    record = unigram(
        list(zip(names, scores, strict=True)), names.index(name_of(config, "unk_token")), proto, config
    )
    numbers: dict[str, int] = {}
    for number, name in enumerate(names):
        numbers.setdefault(name, number)
    return record | {"post_processor": framing(config, "bos_token", "eos_token", numbers, 2)}


def xlm_roberta(paths: list[Path], config: dict[str, Any]) -> dict[str, Any]:
    first = [name_of(config, role) for role in ("bos_token", "pad_token", "eos_token", "unk_token")]
    return fairseq(paths, config, first=first, skipped=3)


def camembert(paths: list[Path], config: dict[str, Any]) -> dict[str, Any]:
    pad, unk = name_of(config, "pad_token"), name_of(config, "unk_token")
    first = ["<s>NOTUSED", pad, "</s>NOTUSED", unk, "<unk>NOTUSED"]
    more = [name for name in first if name.endswith("NOTUSED")]
    config["additional_special_tokens"] = [*(config.get("additional_special_tokens") or []), *more]
    return fairseq(paths, config, first=first, skipped=1)


def llama(paths: list[Path], config: dict[str, Any]) -> dict[str, Any]:
    """Llama's: a BPE with bytes for what it does not know."""
    proto = read_proto(paths[0])
    if proto.kind != BPE:
        raise UsageError(
            "unsupported_tokenizer",
            "the SentencePiece model is a unigram one, and LlamaTokenizer needs a BPE",
        )
    pieces = [piece for piece, _, _ in proto.pieces]
    added = {n: kind == CONTROL for n, (_, _, kind) in enumerate(proto.pieces) if kind in (CONTROL, USER)}
    added[proto.unk] = True
    model = {
        "type": "BPE", "vocab": {piece: number for number, piece in enumerate(pieces)},
        "merges": merges_of(pieces, [score for _, score, _ in proto.pieces], added),
        "unk_token": pieces[proto.unk], "fuse_unk": True, "byte_fallback": True,
    }  # fmt: skip
    blank = config.get("add_prefix_space")
    blank = True if blank is None else blank
    scheme = "never" if not blank else "always" if config.get("legacy") else "first"
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": BLANK}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}
    ]  # fmt: skip
    if blank:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    space = {"type": "Metaspace", "replacement": BLANK, "prepend_scheme": scheme, "split": False}
    record = record_of(model, pieces, added) | {
        "pre_tokenizer": space, "decoder": {"type": "Sequence", "decoders": steps}
    }  # fmt: skip
    return with_bos(record, config)


# ── the table ──────────────────────────────────────────────────────────────────────────────────

MERGES = (("vocab.json", "merges.txt"),)
MODELS = (("tokenizer.model",), ("spiece.model",), ("sentencepiece.bpe.model",), ("spm.model",))
LLAMA_ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
KINDS = {
    "GPT2Tokenizer": Kind(MERGES, gpt2, {"bos_token": END, "eos_token": END, "unk_token": END}),
    "Qwen2Tokenizer": Kind(MERGES, qwen2, {"eos_token": END, "pad_token": END, "unk_token": END}),
    "RobertaTokenizer": Kind(MERGES, roberta, ROBERTA_ROLES),
    "BertTokenizer": Kind((("vocab.txt",),), word_pieces, BERT_ROLES),
    "T5Tokenizer": Kind(MODELS, t5, {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}),
    "XLMRobertaTokenizer": Kind(MODELS, xlm_roberta, ROBERTA_ROLES),
    "CamembertTokenizer": Kind(MODELS, camembert, ROBERTA_ROLES),
    "LlamaTokenizer": Kind(MODELS, llama, LLAMA_ROLES),
}
"""Class of `transformers`, without "Fast" → what it is."""
USUAL = {
    "gpt2": "GPT2Tokenizer", "qwen2": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer", "roberta": "RobertaTokenizer",
    "bert": "BertTokenizer", "t5": "T5Tokenizer", "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer", "llama": "LlamaTokenizer", "mistral": "LlamaTokenizer",
}  # fmt: skip
"""`model_type` of config.json → the class where no file names one."""

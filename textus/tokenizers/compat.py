"""Habits of tokenizers made elsewhere: SentencePiece's blanks and bytes, BERT's pieces, who begins a text.

SentencePiece (Kudo and Richardson 2018) writes a blank as ▁, usually sets one before a text, and may spell unknown
characters as bytes <0x00> to <0xFF>.
"""

from __future__ import annotations

import json
import re
from typing import Any

import tokenizers

from textus.core.console import log_notice
from textus.core.errors import RunError, UsageError

BLANK = "▁"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
ROLES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
"""Special tokens that tokenizer_config.json names by what they are for."""
DEFAULT_ROLES = {"mask_token": ("[MASK]", "<mask>"), "pad_token": ("[PAD]", "<pad>")}
"""What they are where it does not state them: the authors' BERT and RoBERTa leave it to a class of `transformers`."""


def kind_of(record: dict[str, Any]) -> str:
    """The kind of a tokenizer.json that is not byte-level; RunError where it is none that is known."""
    model, decoder = (
        record["model"].get("type") or "BPE",
        json.dumps(record.get("decoder"), ensure_ascii=False),
    )
    if model == "WordPiece" and '"WordPiece"' in decoder:
        return "bert"
    if model in ("BPE", "Unigram") and BLANK in decoder:
        return "sentencepiece"
    raise RunError(
        "unsupported_tokenizer",
        f"a {model} tokenizer that is neither byte-level nor SentencePiece's nor BERT's is not supported",
    )


def token_bytes(token: str, kind: str, prefix: str) -> bytes:
    """The bytes a token represents; `prefix` marks BERT's pieces inside a word, the others follow a blank."""
    if kind == "bert":
        return token.removeprefix(prefix).encode() if token.startswith(prefix) else f" {token}".encode()
    if spelled := _BYTE.fullmatch(token):
        return bytes.fromhex(spelled[1])
    return token.replace(BLANK, " ").encode()


def roles(config: dict[str, Any], special: dict[str, int]) -> dict[str, str]:
    """Role → special token, of those that tokenizer_config.json names and the tokenizer has."""
    configured = {role: name for role, name in configured_roles(config).items() if name in special}
    usual = {role: next((n for n in names if n in special), None) for role, names in DEFAULT_ROLES.items()}
    return {role: name for role, name in usual.items() if name and role not in config} | configured


def configured_roles(config: dict[str, Any]) -> dict[str, str]:
    """Role → token, as tokenizer_config.json states."""
    values = {role: config.get(role) for role in ROLES}
    names = {
        role: value.get("content") if isinstance(value, dict) else value for role, value in values.items()
    }
    return {role: name for role, name in names.items() if isinstance(name, str)}


def merge_added_tokens(record: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """The tokenizer.json with the tokens that only tokenizer_config.json adds, and those with a role there as special
    ones; as `transformers` does.
    """
    tokens = {token["id"]: dict(token) for token in record["added_tokens"]}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    for number, token in (config.get("added_tokens_decoder") or {}).items():
        tokens.setdefault(int(number), {**plain, **token, "id": int(number)})
    roles = set(configured_roles(config).values())
    vocabulary = record["model"].get("vocab")
    pieces = vocabulary if isinstance(vocabulary, dict) else {}
    held = {token["content"] for token in tokens.values()}
    for name in sorted(roles & pieces.keys() - held):
        tokens[pieces[name]] = {**plain, "id": pieces[name], "content": name}
    for token in tokens.values():
        token["special"] = bool(token.get("special")) or token["content"] in roles
    return {**record, "added_tokens": [tokens[number] for number in sorted(tokens)]}


WORDPIECE_CLASSES = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")
BYTE_LEVEL_CLASSES = ("GPT2Tokenizer", "RobertaTokenizer", "Qwen2Tokenizer")
SENTENCEPIECE_CLASSES = ("LlamaTokenizer", "XLMRobertaTokenizer", "CamembertTokenizer")
"""Classes of `transformers` that normalise words, split bytes or set blanks as tokenizer_config.json states."""


def apply_class_settings(record: dict[str, Any], config: dict[str, Any], usual: str | None) -> dict[str, Any]:
    """The tokenizer.json with what its class in `transformers` takes from tokenizer_config.json: `do_lower_case`,
    `strip_accents`, `tokenize_chinese_chars`, `add_prefix_space`, defaults included; differences are reported.
    """
    name = str(config.get("tokenizer_class") or usual).removesuffix("Fast")
    changed = json.loads(json.dumps(record))
    before, blank = changed.get("pre_tokenizer") or {}, config.get("add_prefix_space")
    steps = [before, *before.get("pretokenizers", [])]
    if name in WORDPIECE_CLASSES and changed["model"].get("type") == "WordPiece":
        changed["normalizer"] = {
            "type": "BertNormalizer", "clean_text": True, "lowercase": bool(config.get("do_lower_case", True)),
            "handle_chinese_chars": bool(config.get("tokenize_chinese_chars", True)),
            "strip_accents": config.get("strip_accents"),
        }  # fmt: skip
    for step in steps:
        if name in BYTE_LEVEL_CLASSES and step.get("type") == "ByteLevel":
            step["add_prefix_space"] = bool(blank)
        if name in SENTENCEPIECE_CLASSES and step.get("type") == "Metaspace" and isinstance(blank, bool):
            first = name == "LlamaTokenizer" and not config.get("legacy")
            step["prepend_scheme"] = "never" if not blank else "first" if first else "always"
    report_overrides(name, record, changed)
    return changed


def report_overrides(name: str, record: dict[str, Any], changed: dict[str, Any]) -> None:
    """A notice of what a class changes of a tokenizer.json."""
    old, new = ((value.get("normalizer") or {}) for value in (record, changed))
    names = {
        "lowercase": "do_lower_case",
        "strip_accents": "strip_accents",
        "handle_chinese_chars": "tokenize_chinese_chars",
    }
    changes = [f"{names[key]}={new[key]}" for key in names if old != new and old.get(key) != new.get(key)]
    if record.get("pre_tokenizer") != changed.get("pre_tokenizer"):
        changes.append("add_prefix_space")
    if changes:
        log_notice(
            f"{', '.join(changes)} of tokenizer_config.json, or of its class {name}, wins over its tokenizer.json, as"
            " in transformers"
        )


def check_added_ids(backend: tokenizers.Tokenizer, record: dict[str, Any]) -> None:
    """RunError where an added token did not get its stated id."""
    for token in record["added_tokens"]:
        if (number := backend.token_to_id(token["content"])) != token["id"]:
            raise RunError(
                "damaged",
                f"its added token {token['content']!r} should be id {token['id']} and becomes {number}; it was changed",
            )


def post_processor_eos(backend: tokenizers.Tokenizer) -> str | None:
    """The special token that the post-processor sets after a text; None where it sets none."""
    framed = backend.encode("a")
    return str(framed.tokens[-1]) if framed.special_tokens_mask[-1:] == [1] else None


def chat_template(config: dict[str, Any]) -> str | None:
    """The template in tokenizer_config.json: the only one, or the default of several; None for none. Raises UsageError
    otherwise.
    """
    value = config.get("chat_template")
    if value is None or isinstance(value, str):
        return value
    remedy = "write the one to use into chat_template.jinja"
    if not isinstance(value, list | dict):
        raise UsageError(
            "template_unsupported",
            f"chat_template of tokenizer_config.json is {str(value)[:40]}, no text; {remedy}",
        )
    named_ones = _named_templates(value)
    template = named_ones.get("default")
    if isinstance(template, str):
        return template
    names = ", ".join(map(repr, named_ones))[:200] or "none"
    raise UsageError(
        "template_unsupported",
        f"tokenizer_config.json has chat templates by name ({names}) and no text called 'default'; {remedy}",
    )


def _named_templates(value: Any) -> dict[Any, Any]:
    """Name → template, of an object or a list of {"name", "template"}."""
    if isinstance(value, dict):
        return value
    return {str(entry.get("name")): entry.get("template") for entry in value if isinstance(entry, dict)}


def needs_whole_lines(record: dict[str, Any], kind: str) -> bool:
    """Whether a long text must be cut only at line ends: SentencePiece adds a blank before each piece, and split
    patterns with `[\\r\\n]*` join line ends to the text before.
    """
    return kind == "sentencepiece" or r"\\r\\n" in json.dumps(record.get("pre_tokenizer"))


def strips_prefix_space(record: dict[str, Any], kind: str) -> bool:
    """Whether decoding takes away the blank that encoding set before the text."""
    if kind != "sentencepiece":
        return False
    decoder = json.dumps(record.get("decoder"))
    return '"Strip"' in decoder or ('"Metaspace"' in decoder and '"never"' not in decoder)


def protect_special_tokens(record: dict[str, Any]) -> dict[str, Any]:
    """The tokenizer.json with a normaliser before all others that breaks the spelling of special tokens in texts.

    Unigram vocabularies hold their special tokens as pieces, so the text "</s>" would be the end itself. A blank after
    its first character keeps it from that; `transformers` cuts special tokens out before it normalises, so it is not
    changed by this.
    """
    if record["model"].get("type") != "Unigram":
        return record
    number = record["model"].get("unk_id")
    if number is None and not record["model"].get("byte_fallback"):
        raise RunError(
            "unsupported_tokenizer",
            "its model has unk_id null, so a character that it does not know could not be encoded; set it to the id"
            " of its <unk>",
        )
    if '"ByteLevel"' in json.dumps(record.get("decoder")):
        return record
    unknown = "" if number is None else record["model"]["vocab"][number][0]
    pieces = {piece for piece, _ in record["model"]["vocab"]}
    names = [t["content"] for t in record["added_tokens"] if t["special"] and t["content"] != unknown]
    firsts = sorted({name[0] for name in names if name in pieces})
    rules = [break_names(first, [n for n in names if n in pieces and n[0] == first]) for first in firsts]
    normalizer = record.get("normalizer")
    after = normalizer["normalizers"] if normalizer and normalizer["type"] == "Sequence" else [normalizer]
    rules = [rule for rule in rules if rule not in after]
    return {**record, "normalizer": {"type": "Sequence", "normalizers": [*rules, *filter(None, after)]}}


def break_names(first: str, names: list[str]) -> dict[str, Any]:
    """A normaliser that sets a blank after `first` wherever it begins one of the names."""
    rest = "|".join(sorted(re.escape(name[1:]) for name in names))
    pattern = {"Regex": f"{re.escape(first)}(?={rest})"}
    return {"type": "Replace", "pattern": pattern, "content": f"{first} "}

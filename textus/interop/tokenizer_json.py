"""tokenizer.json made from the lists that GGUF and llama2.c files hold: pieces, scores or merges, kinds.

The two models of `tokenizers` that come out are what `transformers` makes of the same vocabularies.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import tokenizers

from textus.core.errors import DataError, RunError
from textus.interop.validate import unsupported
from textus.tokenizers import Tokenizer
from textus.tokenizers.compat import BLANK

NORMAL, UNKNOWN, CONTROL, ADDED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Kinds of token in GGUF's `tokenizer.ggml.token_type`."""

_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT2: list[dict[str, Any]] = []
DIGITS = [{"type": "Digits", "individual_digits": True}]
DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", _WORDS, r"\p{N}+", r"[0-9][0-9][0-9]")
"""llama.cpp's default: one pattern after the other, each inside the pieces of the one before."""
LLAMA3 = (_SHORT + r"\p{N}{1,3}" + _REST,)
QWEN2 = (_SHORT + r"\p{N}" + _REST,)
WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2")
"""Splits of tokenizers that take a word that is a piece as it is, whatever the merges; their texts begin with bos."""
SPLITS: dict[str, list[dict[str, Any]] | tuple[str, ...]] = {
    "default": DEFAULT,
    **dict.fromkeys(
        ("gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4", "trillion", "granite-docling"), GPT2
    ),
    **dict.fromkeys(
        ("gigachat", "a.x-4.0", "mellum", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de"), GPT2
    ),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), DIGITS
    ),
    **dict.fromkeys(WHOLE_WORDS, LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe"), LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "kormo", "megrez", "stablelm2", "hunyuan"), QWEN2),
}
"""GGUF's names for how a byte-level BPE splits texts: steps before GPT-2's pattern, or patterns instead of it."""


def byte_level(
    pieces: Sequence[str], merges: Sequence[str], *, split: str, added: dict[int, bool]
) -> dict[str, Any]:
    """tokenizer.json of a byte-level BPE (GPT-2's kind); `added` is id → whether it is special.

    Raises UsageError for a split that is not known.
    """
    if split not in SPLITS:
        raise unsupported("tokenizer.ggml.pre (how its tokenizer splits texts)", split, SPLITS)
    chosen = SPLITS[split]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    if isinstance(chosen, tuple):
        shared = {"type": "Split", "behavior": "Isolated", "invert": False}
        steps = [
            *({**shared, "pattern": {"Regex": pattern}} for pattern in chosen),
            {**level, "use_regex": False},
        ]
    else:
        steps = [*chosen, level]
    model = {
        "type": "BPE",
        "vocab": {piece: number for number, piece in enumerate(pieces)},
        "merges": [merge.split(" ") for merge in merges],
        "ignore_merges": split in WHOLE_WORDS,
    }
    return tokenizer_record(model, pieces, added) | {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps} if len(steps) > 1 else steps[0],
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    }


def sentencepiece(
    pieces: Sequence[str], scores: Sequence[float], *, unk: str, added: dict[int, bool], blank_first: bool
) -> dict[str, Any]:
    """tokenizer.json of a SentencePiece BPE with bytes for unknown characters (Llama's kind), from its scores."""
    model = {
        "type": "BPE",
        "vocab": {piece: number for number, piece in enumerate(pieces)},
        "merges": merges_of(pieces, scores, added),
        "unk_token": unk,
        "fuse_unk": True,
        "byte_fallback": True,
    }
    blank = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}
    before = [{"type": "Prepend", "prepend": BLANK}] if blank_first else []
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": BLANK}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if blank_first:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return tokenizer_record(model, pieces, added) | {
        "normalizer": {"type": "Sequence", "normalizers": [*before, blank]},
        "decoder": {"type": "Sequence", "decoders": steps},
    }


def merges_of(
    pieces: Sequence[str], scores: Sequence[float], added: dict[int, bool]
) -> list[tuple[str, str]]:
    """The merges that SentencePiece's scores mean: any two pieces whose joint is a piece, the best joint first."""
    numbers = {piece: number for number, piece in enumerate(pieces) if number not in added}
    merges = []
    for whole, number in numbers.items():
        for cut in range(1, len(whole)):
            left, right = whole[:cut], whole[cut:]
            if left in numbers and right in numbers:
                merges.append(((-scores[number], -len(left), -len(right)), (left, right)))
    return [pair for _, pair in sorted(merges, key=lambda merge: merge[0])]


def tokenizer_record(model: dict[str, Any], pieces: Sequence[str], added: dict[int, bool]) -> dict[str, Any]:
    """A tokenizer.json around a model."""
    tokens = [
        {
            "id": number, "content": pieces[number], "special": special, "normalized": False,
            "single_word": False, "lstrip": False, "rstrip": False,
        }
        for number, special in sorted(added.items())
    ]  # fmt: skip
    shell = {"version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": None}
    return {**shell, "post_processor": None, "decoder": None, "added_tokens": tokens, "model": model}


def bos_post_processor(token: str, number: int) -> dict[str, Any]:
    """A post-processor that sets this token before a text."""
    name = {"SpecialToken": {"id": token, "type_id": 0}}
    one = [name, {"Sequence": {"id": "A", "type_id": 0}}]
    two = [*one, {"SpecialToken": {"id": token, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    special = {token: {"id": token, "ids": [number], "tokens": [token]}}
    return {"type": "TemplateProcessing", "single": one, "pair": two, "special_tokens": special}


def build_tokenizer(
    tokenizer_json: dict[str, Any], roles: dict[str, str], template: str | None, where: str
) -> Tokenizer:
    """A tokenizer of a made tokenizer.json; RunError where its lists do not go together."""
    try:
        backend = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json))
        tokenizer = Tokenizer(backend, template, roles["eos_token"], dict(roles))
    except (DataError, KeyError, IndexError, TypeError) as error:
        raise RunError(
            "damaged", f"{where}: its vocabulary is damaged ({type(error).__name__} {error})"
        ) from error
    except Exception as error:  # the library raises bare Exception
        raise RunError("damaged", f"{where}: its vocabulary is not usable ({error})") from error
    return tokenizer

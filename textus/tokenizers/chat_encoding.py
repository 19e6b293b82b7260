"""The ids of a rendered conversation: those of `transformers`, but for special tokens that a message spells.

Encoding the whole at once is the only way to the same ids: what surrounds a special token decides how blanks are
read (lstrip, rstrip, Metaspace's `first`, byte-level's added blank). So the tokenizer reads it all, its special tokens
switched on, and every special id is then looked at: who wrote the characters it represents? Where a message did, the
template's special tokens are written by names that no message knows, the tokenizer knows those alone, and what the
message wrote is text.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import tokenizers

from textus.core.errors import UsageError
from textus.tokenizers import compat
from textus.tokenizers.provenance import TEMPLATE, TrackedText

SECRET_LETTERS, SECRET_SIGNS = range(0xA500, 0xA60C), range(0x2801, 0x2900)
"""Of names that no message knows: Vai, where the token's edge is a letter, and Braille. No normalizer changes them."""


class ChatEncoder:
    """Encodes what templates wrote. `record` is a tokenizer.json, `special` its special tokens, `unknown` the one that
    represents what the vocabulary lacks.
    """

    def __init__(self, record: dict[str, Any], special: dict[str, int], unknown: str) -> None:
        self.record, self.special, self.unknown = record, special, unknown
        self.names = {number: name for name, number in special.items()}
        self._pattern = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)")

    def encode(self, text: TrackedText) -> list[int]:
        """The ids of a rendered conversation.

        Raises UsageError: text that is not valid Unicode, or a special token whose writer is not known.
        """
        encoding = _encode(self._backend, text)
        spans = self._special_spans(text, encoding)
        if all(set(text._marks[begin:end]) == set(TEMPLATE) for begin, end in spans):
            return list(encoding.ids)
        return self._encode_guarded(text, set(spans))

    def segments(self, text: TrackedText) -> Iterator[tuple[bool, str]]:
        """The text as (is it a special token that the template wrote, its characters), in order."""
        start = 0
        for begin, end in self._template_spans(text):
            if begin > start:
                yield False, str.__getitem__(text, slice(start, begin))
            yield True, str.__getitem__(text, slice(begin, end))
            start = end
        if start < len(text):
            yield False, str.__getitem__(text, slice(start, None))

    @cached_property
    def _backend(self) -> tokenizers.Tokenizer:
        """The tokenizer as `transformers` opens it: special tokens are found wherever they are spelled."""
        return tokenizers.Tokenizer.from_str(json.dumps(_unprotect(self.record)))

    def _special_spans(self, text: TrackedText, encoding: tokenizers.Encoding) -> list[tuple[int, int]]:
        """The characters that each special token among the ids represents, without what it swallowed at its sides."""
        spans = []
        for number, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if number not in self.names:
                continue
            spelled, name = str.__getitem__(text, slice(start, end)), self.names[number]
            core = name if name in spelled else spelled.strip()
            if name != self.unknown or core == self.unknown:  # else a character that it does not know
                begin = start + spelled.index(core)
                spans.append((begin, begin + len(core)))
        return spans

    def _template_spans(self, text: TrackedText) -> list[tuple[int, int]]:
        """Where the template wrote a special token; UsageError where it is not known who did."""
        ours = self._find_special(text, rb"[^T]+")
        if ours != self._find_special(text, rb"[M]+"):
            raise UsageError(
                "template_unsupported",
                "the chat template writes special tokens by an operation that Textus does not follow; write them as"
                " they are, or join them with +",
            )
        return ours

    def _find_special(self, text: TrackedText, others: bytes) -> list[tuple[int, int]]:
        """Special tokens in the text, without regard to characters whose marks are `others`."""
        hole = next(
            c for c in map(chr, range(0x10FFFD, 0, -1)) if all(c not in name for name in self.special)
        )
        pieces, start = [], 0
        for match in re.finditer(others, text._marks):
            pieces += [
                str.__getitem__(text, slice(start, match.start())),
                hole * (match.end() - match.start()),
            ]
            start = match.end()
        pieces.append(str.__getitem__(text, slice(start, None)))
        return [match.span() for match in self._pattern.finditer("".join(pieces))]

    # ── where a message spells special tokens ──

    def _encode_guarded(self, text: TrackedText, specials: set[tuple[int, int]]) -> list[int]:
        """The ids where only the template's special tokens count, those that the tokenizer `found` unchanged."""
        if any(name in text for name in self._secret_names[0].values()):
            del self._secret_names  # somebody guessed
        names, backend, numbers = self._secret_names
        pieces: list[str] = []
        n_special = place = 0
        for is_special, part in self.segments(text):
            if is_special and (place, place + len(part)) in specials:
                pieces.append(names[part])
                n_special += 1
            else:
                pieces.append(part)
            place += len(part)
        ids = _encode(backend, "".join(pieces)).ids
        hidden = {backend.token_to_id(name) for name in names.values()}
        control = set(self.special.values()) - {self.special.get(self.unknown)}
        if sum(number in hidden for number in ids) != n_special or (control - numbers.keys()) & set(ids):
            raise UsageError(
                "special_token_in_message",
                "a message spells a special token, and this tokenizer cannot distinguish it from the template's"
                " own; take the"
                " token out of the message",
            )
        return [numbers.get(number, number) for number in ids]

    @cached_property
    def _secret_names(self) -> tuple[dict[str, str], tokenizers.Tokenizer, dict[int, int]]:
        """Special token → a name that no message knows; the tokenizer that knows those; its id → the true one."""
        names = {name: _name_for(name) for name in self.special}
        record = compat.protect_special_tokens(self.record)
        added = [{**t, "content": names.get(t["content"], t["content"])} for t in record["added_tokens"]]
        whole = {**record, "added_tokens": added, "post_processor": None}
        backend = tokenizers.Tokenizer.from_str(json.dumps(whole))
        true = {names.get(t["content"], t["content"]): self._own_id(t) for t in record["added_tokens"]}
        numbers: dict[int, int] = {}
        for name in true:
            if (number := backend.token_to_id(name)) is not None:
                numbers[number] = true[name]
        pieces = set(backend.get_vocab(with_added_tokens=False).values())
        if len(numbers) < len(true) or numbers.keys() & (pieces - {t["id"] for t in added}):
            raise UsageError(
                "special_token_in_message",
                "a message spells a special token, and this tokenizer's ids have gaps; take the token out of it",
            )
        return names, backend, numbers

    def _own_id(self, token: dict[str, Any]) -> int:
        """The id that an added token's name gets, which is another's where a normalizer makes both names one."""
        ids = _encode(self._backend, token["content"]).ids
        return ids[-1] if ids and ids[-1] in self.names else int(token["id"])


def _name_for(token: str) -> str:
    """A name of signs, with letters at the edges where the token has them."""
    first, last = (re.match(r"\w", token[place]) for place in (0, -1))
    middle = "".join(chr(secrets.choice(SECRET_SIGNS)) for _ in range(10))
    edge = chr(secrets.choice(SECRET_LETTERS))
    return (edge if first else "") + middle + (edge if last else "")


def _unprotect(record: dict[str, Any]) -> dict[str, Any]:
    """The tokenizer.json without what `compat.protect_special_tokens` added."""
    bare = compat.protect_special_tokens({**record, "normalizer": None}).get("normalizer")
    rules, normalizer = (bare or {}).get("normalizers", []), record.get("normalizer")
    if not rules or not normalizer or normalizer["type"] != "Sequence":
        return record
    kept = [rule for rule in normalizer["normalizers"] if rule not in rules]
    return {**record, "normalizer": {"type": "Sequence", "normalizers": kept} if kept else None}


def _encode(backend: tokenizers.Tokenizer, text: str) -> tokenizers.Encoding:
    try:
        return backend.encode(str.__str__(text), add_special_tokens=False)
    except (UnicodeEncodeError, TypeError) as error:
        raise UsageError(
            "invalid_unicode", f"a message is not valid Unicode: {error}; repair it first"
        ) from error
    except Exception as error:  # the library raises bare Exception
        raise UsageError("cannot_encode", f"the tokenizer cannot encode the conversation: {error}") from error

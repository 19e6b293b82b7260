"""The tokenizer: text to ids and back, exactly, with special tokens that no text can spell.

Special tokens have the first ids, in this order: <|endoftext|> 0, <|pad|> 1, <|im_start|> 2, <|im_end|> 3, and where
the kind has it <unk> 4. Ids become bytes by a table, so decoding whole and decoding one by one give the same text.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from textus.core.config import VERSION, check_version
from textus.core.errors import DataError, RunError, UsageError
from textus.core.io import describe_other_kind, fingerprint, read_json, write_atomic, write_json
from textus.core.scripts import HAN
from textus.tokenizers import compat
from textus.tokenizers.chat_encoding import ChatEncoder
from textus.tokenizers.chat_template import check_template, render_template
from textus.tokenizers.provenance import TrackedText

END, PAD, IM_START, IM_END, UNKNOWN = "<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>", "<unk>"
END_IDS = "textus_end_ids"
"""In tokenizer_config.json: the ids that end a text next to its end-of-text token."""
CHARACTER_PATTERN = r"[\s\S]"
CONTINUATION = "▁"
"""Before a WordPiece that does not begin a word. Not the usual ##: that is also a word that Markdown and C write."""
UNKNOWN_TEXT = "⁇"
"""What <unk> decodes to, as in SentencePiece: seen, not swallowed."""

PIECE = 1 << 14
"""Characters encoded at a time: pieces run in parallel and their memory is given back."""
_BLANK_AFTER_TEXT = re.compile(r"(?<=\S)[ \n]")
_HAN = re.compile(f"[{HAN}]")
_INSIDE = {bytes([byte]) for byte in range(0x80, 0xE0)}
"""Bytes inside a character, or the first of a letter of two bytes."""


def split_for_encoding(text: str) -> Iterator[str]:
    """The text cut before blanks, where each kind begins a token; without one in PIECE characters the cut is hard."""
    start = 0
    while len(text) - start > 2 * PIECE:
        edge = _BLANK_AFTER_TEXT.search(text, start + PIECE, start + 2 * PIECE)
        end = edge.start() if edge else start + PIECE
        yield text[start:end]
        start = end
    yield text[start:]


def byte_alphabet() -> dict[str, int]:
    """Character → byte of the printable alphabet that byte-level vocabularies are written in (GPT-2's)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


class Tokenizer:
    """Text ⇄ ids. Made by `train` or `load`; the same ids come from `transformers` reading its folder."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        chat_template: str | None = None,
        end: str = END,
        config: dict[str, Any] | None = None,
    ) -> None:
        backend.encode_special_tokens = True  # a special token's spelling in text is text
        self.backend = backend
        self.chat_template = chat_template
        self.template_error = ""  # why the chat template next to it is not used
        self.record: dict[str, Any] = json.loads(backend.to_str())
        self.kind = _kind(self.record)
        self.special = {t["content"]: t["id"] for t in self.record["added_tokens"] if t["special"]}
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        self.end_id = self.special[end]
        self.roles = compat.roles(config or {}, self.special)
        self.end_ids = self._check_end_ids((config or {}).get(END_IDS, []))
        self.pad_id = self.special.get(PAD, self.special.get(self.roles.get("pad_token", end), self.end_id))
        self.unknown = _unknown_name(self.record["model"], self.special, end)
        self.unk_id = self.special.get(self.unknown)
        self._needs_whole_lines = compat.needs_whole_lines(self.record, self.kind)
        self._strips_prefix_space = compat.strips_prefix_space(self.record, self.kind)

    def __repr__(self) -> str:
        return f"Tokenizer({self.kind}, vocab_size={self.vocab_size}, {self.fingerprint})"

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of everything that decides ids."""
        return fingerprint(self.record)

    @property
    def continuation_prefix(self) -> str:
        """What a piece that does not begin a word begins with; no piece of other kinds than WordPiece does."""
        if self.kind not in ("wordpiece", "bert"):
            return ""
        return str(self.record["model"].get("continuing_subword_prefix") or CONTINUATION)

    def without_ids_from(self, n: int) -> Tokenizer | None:
        """This tokenizer without the special tokens of ids `n` and more; None if other pieces, or the ends of a text,
        are among them.
        """
        over = {name: number for name, number in self.special.items() if number >= n}
        framed = set(self.backend.encode("a").ids) | {self.end_id}
        if set(range(n, self.vocab_size)) - set(over.values()) or any(
            number in framed for number in over.values()
        ):
            return None
        record = json.loads(self.backend.to_str())
        record["added_tokens"] = [token for token in record["added_tokens"] if token["id"] < n]
        vocabulary = record["model"]["vocab"]
        if isinstance(vocabulary, dict):
            record["model"]["vocab"] = {piece: number for piece, number in vocabulary.items() if number < n}
        else:
            record["model"]["vocab"] = vocabulary[:n]
        end = next(name for name, number in self.special.items() if number == self.end_id)
        roles = {role: name for role, name in self.roles.items() if name not in over}
        backend = tokenizers.Tokenizer.from_str(json.dumps(record))
        shorter = Tokenizer(backend, self.chat_template, end, roles)
        shorter.add_eos_ids(item for item in self.end_ids if item < n)
        return shorter

    def _check_end_ids(self, configured: Any) -> tuple[int, ...]:
        """`end_id`, the id of its role, and further ones; RunError for what is no list of ids."""
        if not isinstance(configured, list) or not all(
            type(item) is int and 0 <= item < self.vocab_size for item in configured
        ):
            raise RunError(
                "damaged",
                f"{END_IDS} of tokenizer_config.json is {configured!r}, not a list of ids below {self.vocab_size}; it"
                " was changed, use a copy",
            )
        role = self.special.get(self.roles.get("eos_token", ""), self.end_id)
        return tuple(dict.fromkeys([self.end_id, role, *configured]))

    def add_eos_ids(self, ids: Iterable[int]) -> None:
        """Texts end at these ids too: as set by the program that made the model."""
        self.end_ids = self._check_end_ids([*self.end_ids, *ids])

    @cached_property
    def turn_end_ids(self) -> tuple[int, ...]:
        """What ends an answer in a conversation: `end_ids`, <|im_end|>, and what the chat template sets after one."""
        closing = [self.special[name] for name in (IM_END, self._turn_end_name()) if name in self.special]
        return tuple(dict.fromkeys([*self.end_ids, *closing]))

    def _turn_end_name(self) -> str | None:
        """The first special token after an answer in the chat template; None where it is missing, or it fails."""
        answer = "An answer"
        talk = [{"role": "user", "content": "Text"}, {"role": "assistant", "content": answer}]
        try:
            parts = list(self._chat_encoder.segments(self._render_text(talk, False)))
        except UsageError:
            return None
        configured = [n for n, (is_special, text) in enumerate(parts) if not is_special and answer in text]
        after = parts[configured[-1] :] if configured else []
        return next((text for is_special, text in after if is_special), None)

    @cached_property
    def bos_ids(self) -> list[int]:
        """The ids a text begins with, next to its own: Llama's <s>, BERT's [CLS]; none for most."""
        framed = self.backend.encode("a")
        mask = framed.special_tokens_mask
        return framed.ids[: mask.index(0)] if 0 in mask else []

    @cached_property
    def n_pair_separators(self) -> int:
        """How many ids its own pairs of texts have between them: 2 for RoBERTa's, 1 for most and where it sets none."""
        one = self.backend.encode("a").ids
        pair = self.backend.encode("a", "a").ids
        return max(1, len(pair) - 2 * len(one) + len(self.bos_ids) + 1) if one[-1:] == [self.end_id] else 1

    @property
    def bos_id(self) -> int:
        """The id a model reads before a text's first: the last of `begin`, or the end of the text before."""
        return self.bos_ids[-1] if self.bos_ids else self.end_id

    @cached_property
    def vocabulary(self) -> list[bytes]:
        """The bytes each id represents; none for special tokens but <unk>, which shows as ⁇."""
        table = [b""] * self.vocab_size
        alphabet = byte_alphabet() if self.kind in ("bpe", "wordpiece", "unigram") else None
        for token, number in self.backend.get_vocab(with_added_tokens=False).items():
            if self.kind in ("sentencepiece", "bert"):
                table[number] = compat.token_bytes(token, self.kind, self.continuation_prefix)
            else:
                table[number] = _token_bytes(token.removeprefix(self.continuation_prefix), alphabet)
        for added in self.record["added_tokens"]:
            table[added["id"]] = b"" if added["special"] else added["content"].encode()
        if self.unk_id is not None:
            table[self.unk_id] = UNKNOWN_TEXT.encode()
        return table

    @cached_property
    def word_starts(self) -> np.ndarray:
        """Whether each id begins a word: (V,) bool. WordPiece marks it; pieces of other kinds that begin with a letter
        continue a word, except for kind word. Every Chinese character is a word.
        """
        starts = np.ones(self.vocab_size, dtype=bool)
        marked = self.continuation_prefix
        continuations = {
            n for token, n in self.backend.get_vocab().items() if marked and token.startswith(marked)
        }
        for number, piece in enumerate([] if self.kind == "word" else self.vocabulary):
            text = piece.decode("utf-8", errors="ignore")
            inside = text[:1].isalpha() or piece[:1] in _INSIDE
            if marked:
                inside = number in continuations
            starts[number] = not inside or _HAN.match(text) is not None
        return starts

    # ── encoding ──

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without any special token but <unk>.

        Raises DataError: the string holds half a surrogate pair, which is no text.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of several texts, all cores at work (`TOKENIZERS_PARALLELISM=false` keeps to one)."""
        if self.kind == "char":
            return [self._char_ids(text) for text in texts]
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # set explicitly, or a later fork warns
        cut = [[text] if self._needs_whole_lines else list(split_for_encoding(text)) for text in texts]
        flat = [piece for item in cut for piece in item]
        encoded = iter(self._encode(flat))
        return [[number for _ in item for number in next(encoded).ids] for item in cut]

    def _encode(self, texts: list[str], *, offsets: bool = False) -> list[tokenizers.Encoding]:
        encode = self.backend.encode_batch if offsets else self.backend.encode_batch_fast
        try:
            return encode(texts, add_special_tokens=False)
        except (UnicodeEncodeError, TypeError) as error:
            raise DataError(
                "invalid_unicode", f"the text is not valid Unicode: {error}; repair it first"
            ) from error
        except Exception as error:  # the library raises bare Exception
            raise DataError(
                "cannot_encode", f"the tokenizer cannot encode the text: {error}; take another tokenizer"
            ) from error

    @cached_property
    def _char_table(self) -> np.ndarray:
        table = np.full(0x110000, self.unk_id, dtype=np.int32)
        for token, number in self.backend.get_vocab(with_added_tokens=False).items():
            if number not in self.special.values():
                table[ord(token)] = number
        return table

    def _char_ids(self, text: str) -> list[int]:
        """The same ids as the backend's, looked up in a table."""
        try:
            codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        except UnicodeEncodeError as error:
            raise DataError(
                "invalid_unicode", f"the text is not valid Unicode: {error}; repair it first"
            ) from error
        return self._char_table[codes].tolist()

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """The ids of several texts as from `encode_batch`, and for each id its characters [start, end), a blank before
        a word included. Bytes of one character share it.
        """
        if self.kind == "char":
            return [(self._char_ids(text), [(n, n + 1) for n in range(len(text))]) for text in texts]
        result = []
        for text in texts:
            ids: list[int] = []
            places: list[tuple[int, int]] = []
            before = 0
            for piece in [text] if self._needs_whole_lines else split_for_encoding(text):
                encoding = self._encode([piece], offsets=True)[0]
                ids += encoding.ids
                places += [(before + start, before + end) for start, end in encoding.offsets]
                before += len(piece)
            result.append((ids, places))
        return result

    def unknown_bytes(self, text: str, ids: Sequence[int]) -> list[int]:
        """For each id of `encode(text)`, the UTF-8 bytes it lost to <unk> (evaluation charges 8 bits each). Raises
        UsageError for the ids of another text.
        """
        lost: list[int] = []
        for piece in [text] if self._needs_whole_lines else split_for_encoding(text):
            encoding = self._encode([piece], offsets=True)[0]
            for number, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
                lost.append(len(piece[start:end].encode()) if number == self.unk_id else 0)
            if list(ids[len(lost) - len(encoding.ids) : len(lost)]) != encoding.ids:
                raise UsageError(
                    "missing_argument", "unknown_bytes needs the ids that encode gives of the same text"
                )
        if len(lost) != len(ids):
            raise UsageError(
                "size_mismatch", f"unknown_bytes was given {len(ids)} ids for a text of {len(lost)}"
            )
        return lost

    # ── decoding ──

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """The text of ids; invalid UTF-8 becomes U+FFFD. Special tokens are omitted unless `skip_special` is False."""
        if self.kind == "bert":
            control = set(self.special.values()) - {self.unk_id} if skip_special else set()
            kept = [number for number in ids if number not in control]
            return self.backend.decode(kept, skip_special_tokens=False)
        text = self._join(ids, skip_special).decode("utf-8", errors="replace")
        return text.removeprefix(" ") if self._strips_prefix_space else text

    def _join(self, ids: Iterable[int], skip_special: bool) -> bytes:
        table = self.vocabulary
        names = {} if skip_special else {number: name.encode() for name, number in self.special.items()}
        try:
            return b"".join(names.get(number) or table[number] for number in ids)
        except IndexError as error:
            raise UsageError(
                "unknown_id",
                f"an id is beyond the vocabulary of {self.vocab_size}; is it another tokenizer's?",
            ) from error

    def stream(self) -> DecodeStream:
        """A decoder for ids that come one by one."""
        return DecodeStream(self)

    # ── chat ──

    def apply_chat_template(
        self, messages: Sequence[dict[str, Any]], *, add_generation_prompt: bool = True
    ) -> list[int]:
        """The ids of a conversation in the chat template; message text cannot make special tokens. Raises UsageError
        for a missing or failing template or malformed messages, TemplateRefusal where the template refuses them.
        """
        if self.chat_template is not None:
            check_template(self.chat_template, self.roles)
        return self._chat_encoder.encode(self._render_text(messages, add_generation_prompt))

    def _render_text(self, messages: Sequence[dict[str, Any]], add_generation_prompt: bool) -> TrackedText:
        """A conversation as the chat template writes it."""
        if self.chat_template is None:
            raise UsageError(
                "template_missing",
                self.template_error
                or "this tokenizer has no chat template; put a chat_template.jinja next to its tokenizer.json",
            )
        return render_template(
            self.chat_template, messages, add_generation_prompt=add_generation_prompt, words=self.roles
        )

    @cached_property
    def _chat_encoder(self) -> ChatEncoder:
        return ChatEncoder(self.record, self.special, self.unknown)

    # ── files ──

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and chat_template.jinja, for `load` and for `transformers`.
        There, load with `split_special_tokens=True` to get these ids for text that spells special tokens.
        """
        folder = Path(folder)
        if self.chat_template is not None:
            write_atomic(folder / "chat_template.jinja", self.chat_template)
        end = next(name for name, number in self.special.items() if number == self.end_id)
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": end,
            "eos_token": end,
            "pad_token": next(name for name, number in self.special.items() if number == self.pad_id),
            "clean_up_tokenization_spaces": False,
            **self.roles,
            "textus_fingerprint": self.fingerprint,
            "textus_version": VERSION,
        }
        if self.unk_id is not None:
            config["unk_token"] = self.unknown
        if more := [item for item in self.end_ids if item != self.end_id]:
            config[END_IDS] = more
        write_json(folder / "tokenizer_config.json", config)
        write_atomic(folder / "tokenizer.json", self.backend.to_str(pretty=True))


class DecodeStream:
    """Decodes ids one by one; holds back bytes until they are whole characters."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, number: int) -> str:
        """The text this id completes, maybe none."""
        return self.decoder.decode(self.tokenizer._join([number], skip_special=True))

    def flush(self) -> str:
        """What is left at the end: U+FFFD if a character was never finished."""
        return self.decoder.decode(b"", final=True)


def _token_bytes(token: str, alphabet: dict[str, int] | None) -> bytes:
    """The bytes a token represents; a token outside the byte alphabet is a name, not text."""
    if alphabet is None:
        return token.encode()
    return bytes(alphabet[c] for c in token) if all(c in alphabet for c in token) else token.encode()


def _unknown_name(model: dict[str, Any], special: dict[str, int], end: str) -> str:
    """The special token that represents what the vocabulary lacks."""
    configured = model.get("unk_token")
    if isinstance(model.get("unk_id"), int):
        configured = model["vocab"][model["unk_id"]][0]
    return configured if configured in special and configured != end else UNKNOWN


def _kind(record: dict[str, Any]) -> str:
    """The kind a tokenizer.json describes; RunError where it is none that is known."""
    model = record["model"].get("type") or "BPE"
    if model == "WordLevel":
        pattern = (record.get("pre_tokenizer") or {}).get("pattern", {}).get("Regex")
        return "char" if pattern == CHARACTER_PATTERN else "word"
    if '"ByteLevel"' not in json.dumps(record.get("decoder")):
        return compat.kind_of(record)
    return {"BPE": "bpe", "WordPiece": "wordpiece", "Unigram": "unigram"}[model]


# ── loading ────────────────────────────────────────────────────────────────────────────────────


def load(path: Path | str, usual: str | None = None) -> Tokenizer:
    """Open a tokenizer folder or tokenizer.json, ours or Hugging Face's. `usual`: its class in `transformers` if the
    config names none. Raises RunError for one that is missing, damaged, unsupported, or whose special tokens text can
    spell.
    """
    file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
    if not file.exists() and (older := [name for name in OLDER_FILES if file.with_name(name).is_file()]):
        raise RunError(
            "incomplete_model",
            f'{file.parent} has {older[0]} and no tokenizer.json; make one: python -c "import transformers;'
            f" transformers.AutoTokenizer.from_pretrained('{file.parent}').save_pretrained('{file.parent}')\"",
        )
    if not file.exists() and (other := describe_other_kind(Path(path))):
        raise RunError("not_a_tokenizer", f"{path} is not a tokenizer (no tokenizer.json in it); {other}")
    record = read_json(file)
    if not isinstance(record, dict) or "model" not in record or "added_tokens" not in record:
        raise RunError(
            "not_a_tokenizer",
            f"{file} is JSON but not a tokenizer; it should be Hugging Face's tokenizer.json",
        )
    config = read_config(file)
    if "textus_fingerprint" in config:
        check_version({"version": config.get("textus_version", 1)}, file.parent, "tokenizer")
    try:
        record = compat.merge_added_tokens(record, config)
        record = compat.apply_class_settings(record, config, usual)
    except RunError as error:
        raise RunError("not_a_tokenizer", f"{file}: {error}") from error
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise RunError(
            "not_a_tokenizer", f"{file} is not a usable tokenizer: {type(error).__name__} {error}"[:500]
        ) from error
    return build_tokenizer(record, config, file)


OLDER_FILES = ("vocab.txt", "vocab.json", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
"""Vocabularies in the files of older tokenizers."""


def build_tokenizer(record: dict[str, Any], config: dict[str, Any], file: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json read from, or made of, `file`, with its config and template. Raises as `load`
    does.
    """
    try:
        whole = {**compat.protect_special_tokens(record), "truncation": None, "padding": None}
        backend = tokenizers.Tokenizer.from_str(json.dumps(whole))
        compat.check_added_ids(backend, record)
    except RunError as error:
        raise RunError("not_a_tokenizer", f"{file}: {error}") from error
    except Exception as error:  # the library raises bare Exception
        raise RunError(
            "not_a_tokenizer", f"{file} is not a usable tokenizer: {type(error).__name__} {error}"[:500]
        ) from error
    try:
        end = _eos_name(record, config, backend, file)
        template, fault = _read_template(file, config)
        tokenizer = Tokenizer(backend, template, end, config)
        tokenizer.template_error = fault
        _ = tokenizer.vocabulary
        _check_safe(tokenizer, config, file)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise RunError(
            "not_a_tokenizer", f"{file} is not a tokenizer Textus can use: {type(error).__name__} {error}"
        ) from error
    return tokenizer


def read_config(file: Path) -> dict[str, Any]:
    """tokenizer_config.json next to a tokenizer.json, and what only the older special_tokens_map.json has."""
    result: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = file.with_name(name)
        configured = read_json(path) if path.exists() else {}
        if not isinstance(configured, dict):
            raise RunError("damaged", f"{path} is no object; it was changed or cut short, use a copy")
        result |= configured
    return result


def _read_template(file: Path, config: dict[str, Any]) -> tuple[str | None, str]:
    """The chat template next to a tokenizer.json, or in its settings, and why one of those is not used."""
    jinja = file.with_name("chat_template.jinja")
    try:
        return (jinja.read_text(encoding="utf-8") if jinja.exists() else compat.chat_template(config)), ""
    except UsageError as error:
        return None, str(error)
    except (OSError, UnicodeDecodeError) as error:
        raise RunError("damaged", f"{jinja} is no text ({error}); it was changed, use a copy") from error


def _eos_name(
    record: dict[str, Any], config: dict[str, Any], backend: tokenizers.Tokenizer, file: Path
) -> str:
    """The special token that ends a document."""
    names = [added["content"] for added in record["added_tokens"] if added.get("special")]
    configured = config.get("eos_token") or config.get("sep_token")  # BERT ends a text with its separator
    configured = configured.get("content") if isinstance(configured, dict) else configured
    for name in (END, configured, compat.post_processor_eos(backend)):
        if isinstance(name, str) and name in names:
            return name
    raise RunError(
        "unsupported_tokenizer",
        f"{file} has no special token {END}, nor an eos_token in tokenizer_config.json; it has {names[:8]}",
    )


def _check_safe(tokenizer: Tokenizer, config: dict[str, Any], file: Path) -> None:
    """Refuse a changed file, and a tokenizer whose special tokens can be made by text."""
    expected = config.get("textus_fingerprint")
    if expected is not None and expected != tokenizer.fingerprint:
        raise RunError(
            "damaged",
            f"{file} was changed: its fingerprint is {tokenizer.fingerprint}, not {expected}; restore it",
        )
    control = {number for name, number in tokenizer.special.items() if name != tokenizer.unknown}
    for name in tokenizer.special:
        if control & set(tokenizer.encode(name)):
            raise RunError(
                "unsafe_file",
                f"{file}: the text {name!r} would become a special token; this tokenizer is not safe to use",
            )

"""Training a tokenizer: char, word, byte-level BPE, WordPiece and unigram.

All but char first split text by one pattern in the manner of GPT-2 (words with the blank before them, numbers, runs of
signs, runs of blanks). Its runs have an upper length, so that a megabyte without a blank takes a megabyte's time.

BPE (Sennrich et al. 2016), WordPiece (Schuster & Nakajima 2012) and unigram (Kudo 2018) work on bytes in a printable
alphabet: every text has ids and comes back exactly, and no unknown token is needed.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from textus.core.console import log_notice, progress
from textus.core.errors import DataError, MissingDependencyError, UsageError
from textus.core.names import import_optional, unknown_name_error
from textus.core.scripts import HAN
from textus.tokenizers.chat_template import CHAT_TEMPLATE
from textus.tokenizers.tokenizer import (
    CHARACTER_PATTERN,
    CONTINUATION,
    END,
    IM_END,
    IM_START,
    PAD,
    UNKNOWN,
    Tokenizer,
    byte_alphabet,
    split_for_encoding,
)

SPECIAL = (END, PAD, IM_START, IM_END)
BYTE_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?[\p{L}\p{M}]{1,64}| ?\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}]{1,64}"
BYTE_PATTERN += r"|\s{1,64}(?!\S)|\s{1,64}"
PIECE_BYTES = 24
"""The longest piece of a unigram vocabulary: a long English word, eight Chinese characters."""
_LETTER = rf"[\p{{L}}\p{{M}}_&&[^{HAN}]]"
WORD_PATTERN = (
    rf" ?{_LETTER}{{1,64}}(?:['’]{_LETTER}{{1,64}}){{0,3}}| ?\p{{N}}|\r?\n| ?[^\s\p{{L}}\p{{M}}\p{{N}}]|\s"
)


def train(
    kind: str, texts: Iterable[str], vocab_size: int = 4096, *, chat_template: str | None = CHAT_TEMPLATE
) -> Tokenizer:
    """Train a tokenizer of at most `vocab_size` ids, special tokens included; the same texts give the same one. Raises
    UsageError for an unknown kind or a vocabulary too small for it, DataError for texts without a character.
    """
    if kind not in KINDS:
        raise unknown_name_error("tokenizer kind", kind, KINDS)
    learn, least = KINDS[kind]
    if not least <= vocab_size <= 1 << 24:
        raise UsageError(
            "out_of_range", f"vocab_size {vocab_size} does not fit kind {kind}; it needs {least} to {1 << 24}"
        )
    with progress(f"training {kind} tokenizer") as advance:
        backend = learn(_counted_chars(texts, advance), vocab_size)
    tokenizer = Tokenizer(backend, chat_template)
    if tokenizer.vocab_size < vocab_size:
        log_notice(
            f"vocabulary: {tokenizer.vocab_size} ids, not {vocab_size}; the text gives no more for {kind}"
        )
    return tokenizer


def _counted_chars(texts: Iterable[str], advance: Callable[..., None]) -> Iterator[str]:
    """The texts in pieces, counted; DataError if there was nothing in them."""
    characters = 0
    for text in texts:
        for piece in split_for_encoding(text):
            characters += len(piece)
            yield piece
        advance(len(text), note=f"{characters / 1e6:.1f} M characters")
    if characters == 0:
        raise DataError(
            "empty_data", "there is no text to train a tokenizer on; give a corpus with at least one document"
        )


def _train_backend(backend: Backend, trainer: Any, texts: Iterator[str]) -> None:
    """Let the library learn; errors of our own iterator come through as they are."""
    failure: list[BaseException] = []

    def guarded() -> Iterator[str]:
        try:
            yield from texts
        except BaseException as error:
            failure.append(error)

    try:
        backend.train_from_iterator(guarded(), trainer)
    except Exception as error:  # the library raises bare Exception
        if not failure:
            raise DataError(
                "tokenizer_training_failed", f"the tokenizer could not be trained: {error}"
            ) from error
    if failure:
        raise failure[0]


def _byte_split(run: int = 64) -> pre_tokenizers.PreTokenizer:
    """Split by the pattern, runs of at most `run` characters, then write each part in the byte alphabet."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(BYTE_PATTERN.replace("64", str(run))), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _byte_level(backend: Backend, run: int = 64) -> Backend:
    backend.pre_tokenizer = _byte_split(run)
    backend.decoder = decoders.ByteLevel()
    return backend


def _with_special(backend: Backend, names: Iterable[str]) -> Backend:
    """Mark tokens the vocabulary begins with as special."""
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return backend


# ── bytes ──────────────────────────────────────────────────────────────────────────────────────


def bpe(texts: Iterator[str], vocab_size: int) -> Backend:
    """Byte-pair encoding: merge the pair of tokens that is most frequent, again and again."""
    backend = _byte_level(Backend(models.BPE()))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(byte_alphabet()),
        show_progress=False,
    )
    _train_backend(backend, trainer, texts)
    return backend


def wordpiece(texts: Iterator[str], vocab_size: int) -> Backend:
    """WordPiece: the longest known beginning, then the longest known continuation, and so on.

    Its pieces are BPE's, those most used as beginning or as continuation: the library's own trainer merges the same way
    but breaks ties by chance. Each byte is there in both roles, so that nothing is unknown.
    """
    words: Counter[str] = Counter()
    merged = bpe(_count_words(texts, words), vocab_size)
    used: Counter[str] = Counter()
    for tokens, count in _segment_words(merged.model, words):
        for n, token in enumerate(tokens):
            used[token if n == 0 else CONTINUATION + token] += count
    base = [prefix + item for prefix in ("", CONTINUATION) for item in sorted(byte_alphabet())]
    longer = sorted(used.keys() - set(base), key=lambda piece: (-used[piece], piece))
    tokens = [*SPECIAL, UNKNOWN, *base, *longer][:vocab_size]
    model = models.WordPiece(
        {token: number for number, token in enumerate(tokens)},
        unk_token=UNKNOWN,
        continuing_subword_prefix=CONTINUATION,
        max_input_chars_per_word=1000,
    )
    backend = _byte_level(Backend(model), run=16)  # its search is quadratic in the run
    backend.decoder = decoders.Sequence([decoders.Replace(CONTINUATION, ""), decoders.ByteLevel()])
    return _with_special(backend, [*SPECIAL, UNKNOWN])


def unigram(texts: Iterator[str], vocab_size: int) -> Backend:
    """Unigram: a vocabulary with probabilities, and of all ways to cut a word the most probable.

    The library proposes twice as many pieces. It sees each different word once, so frequent words are added here; then
    the least used go, a quarter at a time, by exact counts over best cuts, the same on every run.
    """
    words: Counter[str] = Counter()
    backend = _byte_level(Backend(models.Unigram()))
    trainer = trainers.UnigramTrainer(
        vocab_size=2 * vocab_size,
        unk_token=UNKNOWN,
        special_tokens=[UNKNOWN],
        initial_alphabet=sorted(byte_alphabet()),
        max_piece_length=PIECE_BYTES,
        show_progress=False,
    )
    _train_backend(backend, trainer, _count_words(texts, words))
    proposed = {piece for piece, _ in json.loads(backend.to_str())["model"]["vocab"]} - {UNKNOWN}
    frequent = sorted((w for w in words if len(w) <= PIECE_BYTES), key=lambda item: (-words[item], item))
    candidates = sorted(proposed | set(frequent[:vocab_size]) | set(byte_alphabet()))
    finished = _byte_level(Backend(_prune(candidates, words, vocab_size - len(SPECIAL) - 1)))
    return _with_special(finished, [*SPECIAL, UNKNOWN])


def _count_words(texts: Iterator[str], words: Counter[str]) -> Iterator[str]:
    """The texts again, the parts they are split in counted on the way."""
    split = _byte_split()  # its own: while training, the backend's is locked
    for text in texts:
        words.update(part for part, _ in split.pre_tokenize_str(text))
        yield text


def _segment_words(model: Any, words: Counter[str]) -> Iterator[tuple[list[str], int]]:
    """How a model cuts each word, and how often the word comes."""
    cutter = Backend(model)
    spelled = sorted(words)
    for start in range(0, len(spelled), 10_000):
        chunk = spelled[start : start + 10_000]
        for item, encoding in zip(chunk, cutter.encode_batch(chunk), strict=True):
            yield encoding.tokens, words[item]


def _prune(candidates: list[str], words: Counter[str], n_kept: int) -> models.Unigram:
    """Viterbi training: segment words, count, drop the least used until `size` remain; then twice more to settle."""
    usage = {piece: 1 + words[piece] for piece in candidates}
    settling = 2
    while len(usage) > n_kept or settling:
        settling -= len(usage) <= n_kept
        counts: Counter[str] = Counter()
        for tokens, count in _segment_words(_unigram_model(usage), words):
            for token in tokens:
                counts[token] += count
        order = sorted(usage, key=lambda piece: (len(piece) > 1, -counts[piece], piece))  # bytes always stay
        usage = {piece: counts[piece] for piece in order[: max(n_kept, len(order) * 3 // 4)]}
    return _unigram_model(usage)


def _unigram_model(usage: dict[str, int]) -> models.Unigram:
    """The model in which a piece is as probable as it was used; half a use for those never used."""
    total = sum(usage.values())
    scores = {piece: round(math.log(max(count, 0.5) / total), 6) for piece, count in usage.items()}
    order = sorted(scores, key=lambda piece: (-scores[piece], piece))
    special = [(name, 0.0) for name in (*SPECIAL, UNKNOWN)]
    return models.Unigram([*special, *((piece, scores[piece]) for piece in order)], unk_id=len(SPECIAL))


# ── characters and words ───────────────────────────────────────────────────────────────────────


def char(texts: Iterator[str], vocab_size: int) -> Backend:
    """Every character of the texts is a token; beyond `vocab_size` the rarest become <unk>."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    return _word_level(_most_frequent(counts, vocab_size, "characters"), CHARACTER_PATTERN)


def word(texts: Iterator[str], vocab_size: int) -> Backend:
    """Words with the blank before them, single digits, signs and blanks; the rest is <unk>.

    jieba cuts Chinese into words when counting. It cannot be stored in a tokenizer.json, so the longer words of the
    vocabulary go into the pattern, longest first: the file is self-contained. Single Chinese characters are counted
    too.
    """
    counts: Counter[str] = Counter()
    splitter = pre_tokenizers.Split(Regex(f"[{HAN}]{{1,64}}|{WORD_PATTERN}"), "isolated")
    han = re.compile(f"[{HAN}]")
    cut: Callable[[str], Iterable[str]] | None = None
    for text in texts:
        for part, _ in splitter.pre_tokenize_str(text):
            if not han.match(part):
                counts[part] += 1
                continue
            cut = cut or _chinese_segmenter()
            counts.update(part)
            counts.update(item for item in cut(part) if len(item) > 1)
    vocabulary = _most_frequent(counts, vocab_size, "words")
    known = sorted(item for item in vocabulary if len(item) > 1 and han.match(item))
    first = f"{longest_match_pattern(known)}|" if known else ""
    return _word_level(vocabulary, f"{first}[{HAN}]|{WORD_PATTERN}")


def _chinese_segmenter() -> Callable[[str], Iterable[str]]:
    """jieba's dictionary segmentation; without jieba single characters, which is reported."""
    try:
        jieba = import_optional("jieba", "text")
    except MissingDependencyError as error:
        log_notice(f"Chinese is cut into single characters: {error}")
        return lambda text: text
    jieba.setLogLevel("ERROR")
    segmenter = jieba.Tokenizer()
    return lambda text: segmenter.cut(text, HMM=False)


def longest_match_pattern(words: list[str]) -> str:
    """A pattern that matches the longest of the words: a prefix tree, so its time does not grow with their number."""
    tree: dict[str, Any] = {}
    for item in words:
        node = tree
        for character in item:
            node = node.setdefault(character, {})
        node[""] = {}
    heads = sorted(tree)
    groups = [heads[i : i + 32] for i in range(0, len(heads), 32)]
    return "|".join(
        f"(?=[{group[0]}-{group[-1]}])(?:{'|'.join(head + _branches(tree[head]) for head in group)})"
        for group in groups
    )


def _branches(node: dict[str, Any]) -> str:
    ways = "|".join(character + _branches(below) for character, below in sorted(node.items()) if character)
    if not ways:
        return ""
    return f"(?:{ways})?" if "" in node else f"(?:{ways})"


def _most_frequent(counts: Counter[str], vocab_size: int, what: str) -> list[str]:
    """The most frequent that fit next to the special tokens; reports how much text the others were."""
    order = sorted(counts, key=lambda item: (-counts[item], item))
    n_kept = vocab_size - len(SPECIAL) - 1
    if lost := order[n_kept:]:
        share = sum(counts[item] for item in lost) / counts.total()
        log_notice(
            f"{len(lost):,} rare {what} ({share:.2%} of all) do not fit in {vocab_size} ids and become <unk>"
        )
    return order[:n_kept]


def _word_level(vocabulary: list[str], pattern: str) -> Backend:
    tokens = [*SPECIAL, UNKNOWN, *vocabulary]
    backend = Backend(
        models.WordLevel({item: number for number, item in enumerate(tokens)}, unk_token=UNKNOWN)
    )
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    backend.decoder = decoders.Fuse()
    return _with_special(backend, [*SPECIAL, UNKNOWN])


KINDS: dict[str, tuple[Callable[[Iterator[str], int], Backend], int]] = {
    "char": (char, len(SPECIAL) + 2),
    "word": (word, len(SPECIAL) + 2),
    "bpe": (bpe, len(SPECIAL) + 256),
    "wordpiece": (wordpiece, len(SPECIAL) + 1 + 2 * 256),
    "unigram": (unigram, len(SPECIAL) + 1 + 256),
}
"""Kind → how it learns, and the smallest vocabulary it can have."""

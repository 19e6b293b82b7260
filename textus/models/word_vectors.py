"""Word vectors: trained by skip-gram or CBOW, read from word2vec and GloVe files, used as a model's first embeddings.

Sources: Mikolov et al. 2013 (skip-gram, CBOW, analogies), Pennington et al. 2014 (GloVe's file format). Learning is
done by `gensim`, which comes with the extra `vectors`; everything else here needs no extra.
Shapes: W words, D width, V vocabulary of a tokenizer.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from textus.core.console import log_notice
from textus.core.errors import DataError, UsageError
from textus.core.io import write_atomic
from textus.core.names import import_optional
from textus.models.checks import check_at_least
from textus.tokenizers.tokenizer import Tokenizer

Floats = NDArray[np.float32]

PIECE = 10_000
"""Words gensim reads of one text; it would drop what is beyond without a word."""


@dataclass(frozen=True)
class VectorSettings:
    """How word vectors are trained. The defaults were chosen on MTurk-771 with 2.4 million words (docs/results.md)."""

    method: Literal["skip-gram", "cbow"] = "skip-gram"
    d_model: int = 100
    window: int = 10
    """Words to each side that are context; each place draws its own reach up to it."""
    negative: int = 10
    """Negative samples per context word."""
    epochs: int = 10
    min_count: int = 2
    """Rarer words have no vector."""
    sample: float = 1e-4
    """Words more frequent than this share are thinned out."""
    both: bool = True
    """Add each word's vector as context to its own, as GloVe does: nearer to relatedness than to likeness."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(self, 1, "d_model", "window", "negative", "epochs", "min_count")
        if not self.sample >= 0:
            raise UsageError("out_of_range", f"sample={self.sample}: must be at least 0 (0 thins nothing)")
        if self.method not in ("skip-gram", "cbow"):
            raise UsageError("unknown_name", f"method={self.method!r}: must be skip-gram or cbow")


@dataclass(frozen=True)
class Coverage:
    """How many of the requested entries have a vector."""

    n_found: int
    total: int

    @property
    def share(self) -> float:
        """Between 0 and 1."""
        return self.n_found / max(1, self.total)

    def __str__(self) -> str:
        return f"{self.n_found:,} of {self.total:,} ({self.share:.1%})"


class WordVectors:
    """Words and their vectors (W, D), float32. DataError where they do not go together or are not finite."""

    def __init__(self, words: Sequence[str], matrix: Floats) -> None:
        self.words, self.matrix = list(words), np.ascontiguousarray(matrix, dtype=np.float32)
        if self.matrix.ndim != 2 or len(self.matrix) != len(self.words) or not self.matrix.size:
            raise DataError(
                "size_mismatch",
                f"{len(self.words)} words for vectors of shape {self.matrix.shape}; give a row for each",
            )
        if len(self.index) != len(self.words):
            twice = next(word for n, word in enumerate(self.words) if self.index[word] != n)
            raise DataError("duplicate_name", f"the word {twice!r} has two vectors; keep one of them")
        if len(wrong := np.nonzero(~np.isfinite(self.matrix).all(1))[0]):
            raise DataError(
                "damaged",
                f"the vector of {self.words[wrong[0]]!r} has a value that is not a number; the file is damaged",
            )

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self.index

    @property
    def width(self) -> int:
        """D."""
        return int(self.matrix.shape[1])

    @cached_property
    def index(self) -> dict[str, int]:
        """Word → row."""
        return {word: n for n, word in enumerate(self.words)}

    @cached_property
    def unit(self) -> Floats:
        """The vectors at length one, (W, D); a vector of zeros stays one."""
        length = np.linalg.norm(self.matrix, axis=1, keepdims=True)
        unit: Floats = self.matrix / np.maximum(length, np.float32(1e-12))
        return unit

    def row(self, word: str) -> int:
        """The row of a word; UsageError where it has none."""
        if word not in self.index:
            raise UsageError(
                "unknown_name",
                f"{word!r} is not among the {len(self)} words; try another form of it (small letters?)",
            )
        return self.index[word]

    def similarity(self, one: str, other: str) -> float:
        """Cosine of two words, between -1 and 1. UsageError where one has no vector."""
        return float(self.unit[self.row(one)] @ self.unit[self.row(other)])

    def similar(self, word: str, n: int = 10) -> list[tuple[str, float]]:
        """The `n` nearest other words and their cosines. UsageError where the word has no vector."""
        row = self.row(word)
        return self._nearest(self.unit[row], n, {row})

    def analogy(self, a: str, b: str, c: str, n: int = 1) -> list[tuple[str, float]]:
        """What is to `c` as `b` is to `a`: the words nearest to b - a + c, these three left out (3CosAdd)."""
        rows = [self.row(word) for word in (a, b, c)]
        first, second, third = self.unit[rows]
        aim = second - first + third
        return self._nearest(aim / max(float(np.linalg.norm(aim)), 1e-12), n, set(rows))

    def _nearest(self, aim: Floats, n: int, without: set[int]) -> list[tuple[str, float]]:
        cosines = self.unit @ aim
        order = np.argsort(-cosines, kind="stable")[: n + len(without)]
        return [(self.words[i], float(cosines[i])) for i in order if i not in without][:n]

    def embeddings_for(self, tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
        """Rows for a tokenizer's ids: (V, D) with zeros where there is no vector, and which ids have one, (V,).

        A token is looked up as it is spelt without the blank at its edges, else in small letters. Pieces that
        continue a word in a WordPiece vocabulary are no words and get none; other kinds do not mark such pieces.
        """
        matrix = torch.zeros(tokenizer.vocab_size, self.width)
        has_vector = torch.zeros(tokenizer.vocab_size, dtype=torch.bool)
        for number, spelling in enumerate(_spellings(tokenizer)):
            row = self.index.get(spelling, self.index.get(spelling.lower()))
            if spelling and row is not None:
                matrix[number] = torch.from_numpy(self.matrix[row])
                has_vector[number] = True
        return matrix, has_vector

    def save(self, path: Path, kind: Literal["safetensors", "text"] = "safetensors") -> None:
        """Write the vectors: as safetensors, or as the text that word2vec writes and `gensim` reads.

        Raises UsageError for a word that the text form cannot hold.
        """
        if kind == "safetensors":
            joined = np.frombuffer("\n".join(self.words).encode(), dtype=np.uint8)
            write_atomic(Path(path), safetensors.numpy.save({"words": joined, "vectors": self.matrix}))
            return
        if wrong := [word for word in self.words if not word or re.search(r"\s", word)]:
            raise UsageError(
                "invalid_value",
                f"the word {wrong[0]!r} cannot be written to a text file of vectors; write safetensors",
            )
        rows = (
            " ".join([word, *(f"{x:.9g}" for x in row)])
            for word, row in zip(self.words, self.matrix.tolist(), strict=True)
        )
        write_atomic(Path(path), "\n".join([f"{len(self)} {self.width}", *rows, ""]))


def _spellings(tokenizer: Tokenizer) -> Iterator[str]:
    """What each id spells, without blanks at the edges; empty for what is no word."""
    special = set(tokenizer.special.values())
    pieces = set()
    if marked := tokenizer.continuation_prefix:
        vocabulary = tokenizer.backend.get_vocab(with_added_tokens=False)
        pieces = {number for token, number in vocabulary.items() if token.startswith(marked)}
    for number, spelt in enumerate(tokenizer.vocabulary):
        word = number not in special and number not in pieces
        yield spelt.decode("utf-8", errors="ignore").strip() if word else ""


def input_embedding(model: nn.Module) -> nn.Embedding:
    """A model's input embedding, or that of its encoder; UsageError where it has none."""
    for owner in (model, getattr(model, "encoder", None)):
        if isinstance(embedding := getattr(owner, "embedding", None), nn.Embedding):
            return embedding
    raise UsageError(
        "unsupported_model",
        f"a {type(model).__name__.lower()} has no input embedding; word vectors are for neural families",
    )


@torch.no_grad()
def initial_embeddings(model: Any, vectors: WordVectors, tokenizer: Tokenizer) -> Coverage:
    """Put word vectors into a model's input embedding; ids without one keep their own start.

    They are scaled by one number, so that they are as large as the rows they replace (root mean square): cosines
    stay, and a model that was tuned for its own start still learns. Raises UsageError where the model has no input
    embedding, or its width or vocabulary is another.
    """
    embedding = input_embedding(model)
    width, size = embedding.weight.shape[1], model.config.vocab_size
    if width != vectors.width:
        raise UsageError(
            "size_mismatch",
            f"the vectors are {vectors.width} wide, the model's embeddings {width};"
            f" train the model with --set model.d_model={vectors.width}, or take other vectors",
        )
    if size != tokenizer.vocab_size:
        raise UsageError(
            "size_mismatch",
            f"the tokenizer has {tokenizer.vocab_size} ids, the model {size}; take the model's own tokenizer",
        )
    matrix, has_vector = vectors.embeddings_for(tokenizer)
    if has_vector.any():
        rows = embedding.weight[:size]  # beyond them may be a mask's row, or a hidden word's
        own, new = rows[has_vector], matrix[has_vector].to(rows)
        scale = own.square().mean().sqrt() / new.square().mean().sqrt().clamp(min=1e-12)
        rows[has_vector] = new * scale
    return Coverage(int(has_vector.sum()), size - len(tokenizer.special))


# ── learning ───────────────────────────────────────────────────────────────────────────────────


class _Pieces:
    """Texts in pieces that gensim reads whole, as often as it asks."""

    def __init__(self, texts: Iterable[Sequence[str]]) -> None:
        self.texts = texts

    def __iter__(self) -> Iterator[Sequence[str]]:
        for text in self.texts:
            for start in range(0, len(text), PIECE):
                yield text[start : start + PIECE]


def train_vectors(texts: Iterable[Sequence[str]], settings: VectorSettings | None = None) -> WordVectors:
    """Word vectors from texts, each a sequence of words; a window does not leave its text.

    One thread does the work, so that the same texts and settings give the same bytes. Raises UsageError for texts
    that can be read only once, DataError where no word is frequent enough.
    """
    gensim: Any = import_optional("gensim.models", "vectors")
    settings = settings or VectorSettings()
    if iter(texts) is iter(texts):
        raise UsageError(
            "wrong_type",
            "the texts are read several times; give a list, or an object with __iter__, not a generator",
        )
    model = gensim.Word2Vec(
        sg=int(settings.method == "skip-gram"), vector_size=settings.d_model, window=settings.window,
        negative=settings.negative, min_count=settings.min_count, sample=settings.sample,
        seed=settings.seed, workers=1,
    )  # fmt: skip
    model.build_vocab(_Pieces(texts))
    if not len(model.wv):
        raise DataError(
            "too_little_data",
            f"no word occurs {settings.min_count} times (min_count); give more text, or lower it",
        )
    model.train(_Pieces(texts), total_examples=model.corpus_count, epochs=settings.epochs)
    matrix = model.wv.vectors + model.syn1neg if settings.both else model.wv.vectors
    return WordVectors(model.wv.index_to_key, matrix)


# ── reading ────────────────────────────────────────────────────────────────────────────────────


def read(path: Path | str) -> WordVectors:
    """Vectors from a file: ours (safetensors), word2vec's text or binary form, or GloVe's text, by content.

    Of duplicate words the first vector is used, and a notice counts the others. Raises DataError
    naming the place where the file is cut short or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("not_found", f"{path} does not exist or is a folder; give a file of word vectors")
    with path.open("rb") as file:
        start = file.read(9)
        file.seek(0)
        if len(start) == 9 and start[8:] == b"{" and struct.unpack("<Q", start[:8])[0] < path.stat().st_size:
            return _safetensors(path)
        header = re.fullmatch(rb"(\d{1,12}) (\d{1,6})\s*", file.readline(64))
        if header is None:
            file.seek(0)
            return _distinct(_text_rows(path, file, None, 1), path, None)
        n_words, width = int(header[1]), int(header[2])
        body = file.tell()
        binary = not _is_text_row(file.readline(1 << 22), width)
        file.seek(body)
        rows = _binary_rows(path, file, n_words, width) if binary else _text_rows(path, file, width, 2)
        return _distinct(rows, path, n_words)


def _is_text_row(line: bytes, width: int) -> bool:
    """Whether a line is a word and as many numbers as the header states, or broken text rather than binary."""
    parts = line.split()
    try:
        return bool([float(x) for x in parts[-width:]]) and len(parts) > 1
    except ValueError:
        return False


def _safetensors(path: Path) -> WordVectors:
    try:
        held = safetensors.numpy.load_file(path)
        return WordVectors(bytes(held["words"]).decode().split("\n"), held["vectors"])
    except (safetensors.SafetensorError, UnicodeDecodeError) as error:
        raise DataError("damaged", f"{path} is damaged: {error}; write it anew") from error
    except KeyError as error:
        raise DataError("damaged", f"{path} holds no word vectors: there is no tensor {error}") from error


def _text_rows(path: Path, file: BinaryIO, width: int | None, first: int) -> Iterator[tuple[str, Floats]]:
    """A word and its numbers a line, from line number `first`; a word may hold blanks (some of GloVe's do)."""
    for number, line in enumerate(file, first):
        try:
            parts = line.decode().rstrip("\r\n ").split(" ")
        except UnicodeDecodeError as error:
            raise DataError("damaged", f"{path}, line {number} is not UTF-8 ({error})") from error
        width = width or len(parts) - 1
        if not 0 < width < len(parts):
            raise DataError(
                "damaged",
                f"{path}, line {number}: {len(parts) - 1} numbers instead of {width or 'some'}; the file is damaged",
            )
        try:
            with np.errstate(over="ignore"):  # reported below as not finite, with the word
                vector = np.array(parts[-width:], dtype=np.float32)
        except ValueError as error:
            raise DataError(
                "damaged", f"{path}, line {number}: not a word and {width} numbers ({error})"
            ) from error
        yield " ".join(parts[:-width]), vector


def _binary_rows(path: Path, file: BinaryIO, n_words: int, width: int) -> Iterator[tuple[str, Floats]]:
    """Word, blank, `width` float32; a line break before the next word or none."""
    data, place = file.read(), 0
    if len(data) < n_words * (4 * width + 2):
        raise DataError(
            "damaged",
            f"{path} is too short for the {n_words} vectors of {width} numbers that its first line names",
        )
    for number in range(n_words):
        end = data.find(b" ", place)
        if end < 0 or end + 1 + 4 * width > len(data):
            raise DataError(
                "damaged", f"{path} is cut short in vector {number + 1} of {n_words}; fetch it again"
            )
        try:
            word = data[place:end].lstrip(b"\n").decode()
        except UnicodeDecodeError as error:
            raise DataError(
                "damaged", f"{path}, vector {number + 1}: the word is not UTF-8 ({error})"
            ) from error
        yield word, np.frombuffer(data, dtype="<f4", count=width, offset=end + 1)
        place = end + 1 + 4 * width


def _distinct(rows: Iterator[tuple[str, Floats]], path: Path, promised: int | None) -> WordVectors:
    """The first vector of every word; DataError where their number is not that of the first line."""
    held: dict[str, Floats] = {}
    n = 0
    for word, vector in rows:
        held.setdefault(word, vector)
        n += 1
    if promised is not None and n != promised:
        raise DataError(
            "damaged",
            f"{path} has {n} vectors, its first line names {promised}; the file is cut short or damaged",
        )
    if not held:
        raise DataError("empty_data", f"{path} has no vectors")
    if n > len(held):
        log_notice(f"{path}: {n - len(held)} words come twice; the first vector of each is taken")
    return WordVectors(list(held), np.stack(list(held.values())))


# ── measuring ──────────────────────────────────────────────────────────────────────────────────


def cosines(vectors: WordVectors, pairs: Sequence[tuple[str, str]]) -> tuple[NDArray[np.float64], Coverage]:
    """The cosine of each pair, 0 where a word has no vector; and for how many pairs both have one."""
    known = [one in vectors and other in vectors for one, other in pairs]
    similarities = [
        vectors.similarity(*pair) if both else 0.0 for pair, both in zip(pairs, known, strict=True)
    ]
    return np.array(similarities), Coverage(sum(known), len(pairs))


def rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Spearman's: the correlation of ranks, equal values sharing their mean rank; 0 where one side is constant."""
    ranks: list[NDArray[np.float64]] = []
    for values in (one, other):
        _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(sizes) - (sizes - 1) / 2)[group])
    if any(np.ptp(ranking) == 0 for ranking in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def analogy_accuracy(
    vectors: WordVectors, questions: Sequence[tuple[str, str, str, str]]
) -> tuple[int, Coverage]:
    """How many questions (a is to b as c is to d) `analogy` answers with d; and how many have all four words."""
    known = [question for question in questions if all(word in vectors for word in question)]
    rows = np.array(
        [[vectors.index[word] for word in question] for question in known], dtype=np.int64
    ).reshape(-1, 4)
    right = 0
    for part in np.array_split(rows, -(-len(rows) // 256) or 1):  # (Q, 4)
        a, b, c = (vectors.unit[part[:, n]] for n in range(3))
        near = (b - a + c) @ vectors.unit.T  # (Q, W)
        np.put_along_axis(near, part[:, :3], -np.inf, axis=1)
        right += int((near.argmax(1) == part[:, 3]).sum())
    return right, Coverage(len(known), len(questions))

"""The baseline every classifier must beat: logistic regression and one-hidden-layer networks on simple features.

Features are n-grams of words and of characters (for Chinese without segmentation), as counts or TF-IDF, the mean of
word vectors, and numeric columns. Training is L-BFGS over all texts at once. The formulas are those
of scikit-learn, so that its `TfidfVectorizer`, `LogisticRegression` and `MLPClassifier` give the same numbers.
Shapes: N texts, F n-grams, E dense columns (numeric and averaged), H hidden, C classes, O outputs (1 where C is 2).
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from textus.core.config import from_dict, to_dict
from textus.core.console import log_notice
from textus.core.errors import DataError, UsageError
from textus.core.names import unknown_name_error
from textus.models.contract import Capabilities, LanguageModel, Loss
from textus.models.nn.layers import ACTIVATIONS
from textus.models.nn.registry import INITIALISATIONS
from textus.models.word_vectors import WordVectors

WORD = re.compile(r"\b\w\w+\b")
BLANKS = re.compile(r"\s\s+")
KINDS = ("words", "characters")
CHUNK = 4096
"""Texts made into features at a time when predicting."""
TOLERANCE = 1e-7
"""Training ends where no slope of the mean loss is steeper."""


@dataclass(frozen=True)
class LinearConfig:
    """What the classifier looks at and how it learns; a reach of (0, 0) leaves that kind of n-gram out."""

    weighting: Literal["tf-idf", "counts"] = "tf-idf"
    words: tuple[int, int] = (1, 2)
    """Shortest and longest n-gram of words of two letters or more."""
    characters: tuple[int, int] = (0, 0)
    """Shortest and longest n-gram of characters: for Chinese, and for spelling."""
    sublinear: bool = True
    """1 + log(count) instead of the count, under tf-idf."""
    min_documents: int = 1
    """Rarer n-grams are left out."""
    average: Literal["none", "words", "characters"] = "none"
    """Whose word vectors are averaged, where vectors are given."""
    d_hidden: int = 0
    """Width of a hidden layer; 0 is logistic regression."""
    activation: str = "relu"
    initialisation: str = "xavier-uniform"
    l2: float = 1.0
    """Weight of half the squared weights in the objective: scikit-learn's 1/C, and its MLP's alpha."""
    steps: int = 1000
    """Most steps of L-BFGS."""
    seed: int = 0

    def __post_init__(self) -> None:
        for kind in KINDS:
            low, high = getattr(self, kind)
            if (low, high) != (0, 0) and not 1 <= low <= high:
                raise UsageError(
                    "out_of_range",
                    f"{kind}=({low}, {high}): must be shortest and longest, from 1; (0, 0) leaves them out",
                )
        for name, least in (("min_documents", 1), ("d_hidden", 0), ("steps", 1)):
            if getattr(self, name) < least:
                raise UsageError("out_of_range", f"{name}={getattr(self, name)}: must be at least {least}")
        if not 0 <= self.l2 < math.inf:
            raise UsageError("out_of_range", f"l2={self.l2}: must be at least 0")
        for name, known in (("activation", ACTIVATIONS), ("initialisation", INITIALISATIONS)):
            if getattr(self, name) not in known:
                raise unknown_name_error(name, getattr(self, name), known)

    @property
    def context_length(self) -> None:
        """None: a text of any length is read whole."""
        return


# ── n-grams ────────────────────────────────────────────────────────────────────────────────────


def extract_ngrams(text: str, kind: str, reach: tuple[int, int]) -> Iterator[str]:
    """The n-grams of a text in small letters; words are joined by a blank, runs of blanks count as one."""
    low, high = reach
    text = text.lower()
    if kind == "words":
        words = WORD.findall(text)
        for n in range(low, high + 1):
            yield from (" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
    else:
        text = BLANKS.sub(" ", text)
        for n in range(low, high + 1):
            yield from (text[i : i + n] for i in range(len(text) - n + 1))


@dataclass(frozen=True)
class Sparse:
    """Rows of few values: where each row starts (N + 1,), columns and values of all of them in order."""

    starts: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: NDArray[np.float64]
    width: int

    @property
    def rows(self) -> NDArray[np.int64]:
        """The row of each value."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def tensor(self) -> Tensor:
        """As torch's CSR, (N, F) float64."""
        starts, columns, values = map(torch.from_numpy, (self.starts, self.columns, self.values))
        size = (len(self.starts) - 1, self.width)
        with warnings.catch_warnings():  # that CSR is in beta; the tests hold what is used of it
            warnings.filterwarnings("ignore", message="Sparse CSR")
            return torch.sparse_csr_tensor(starts, columns, values, size, check_invariants=False)

    def transposed(self) -> Sparse:
        """Columns as rows."""
        order = np.argsort(self.columns, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(self.columns, minlength=self.width))])
        return Sparse(starts, self.rows[order], self.values[order], len(self.starts) - 1)


def count_ngrams(
    texts: Sequence[str], kind: str, reach: tuple[int, int], index: dict[str, int], *, grow: bool
) -> Sparse:
    """How often each n-gram of `index` is in each text; with `grow` new ones get the next number."""
    starts, columns, counts = [0], [], []
    for text in texts:
        if grow:
            ids = [index.setdefault(gram, len(index)) for gram in extract_ngrams(text, kind, reach)]
        else:
            ids = [index[gram] for gram in extract_ngrams(text, kind, reach) if gram in index]
        column, times = np.unique(np.array(ids, dtype=np.int64), return_counts=True)
        columns.append(column)
        counts.append(times.astype(np.float64))
        starts.append(starts[-1] + len(column))
    empty: list[NDArray[Any]] = [np.zeros(0)]
    joined = np.concatenate(columns or empty).astype(np.int64), np.concatenate(counts or empty)
    return Sparse(np.array(starts, dtype=np.int64), *joined, len(index))


def build_vocabulary(
    texts: Sequence[str], kind: str, reach: tuple[int, int], least: int
) -> tuple[list[str], NDArray[np.int64]]:
    """The n-grams that at least `least` texts have, sorted, and how many have each."""
    index: dict[str, int] = {}
    counts = count_ngrams(texts, kind, reach, index, grow=True)
    documents = np.bincount(counts.columns, minlength=len(index))
    kept = sorted(gram for gram, n in index.items() if documents[n] >= least)
    return kept, documents[[index[gram] for gram in kept]]


def tfidf(counts: Sparse, idf: NDArray[np.float64], *, sublinear: bool) -> Sparse:
    """TF-IDF: (1 + log count, or count) · idf, each row of length one (a row of nothing stays so)."""
    values = (1.0 + np.log(counts.values) if sublinear else counts.values) * idf[counts.columns]
    length = np.sqrt(np.bincount(counts.rows, weights=values**2, minlength=len(counts.starts) - 1))
    return Sparse(counts.starts, counts.columns, values / length[counts.rows], counts.width)


def hstack(blocks: Sequence[Sparse], n_rows: int) -> Sparse:
    """Several blocks of columns as one."""
    if len(blocks) == 1:
        return blocks[0]
    offsets = np.cumsum([0, *(block.width for block in blocks)])
    rows = np.concatenate([np.zeros(0, np.int64), *(block.rows for block in blocks)])
    columns = np.concatenate(
        [np.zeros(0, np.int64), *(b.columns + o for b, o in zip(blocks, offsets, strict=False))]
    )
    order = np.argsort(rows, kind="stable")
    values = np.concatenate([np.zeros(0), *(block.values for block in blocks)])
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n_rows))])
    return Sparse(starts, columns[order], values[order], int(offsets[-1]))


class SparseProduct(torch.autograd.Function):
    """rows (N, F) @ weight (F, O) → (N, O); `columns` is `rows` transposed, ready for the gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor, weight: Tensor) -> Tensor:
        ctx.columns = columns
        return rows @ weight

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, ctx.columns @ upstream[0]


@dataclass(frozen=True)
class Features:
    """Texts as numbers: n-grams as CSR with its transpose, and dense columns (N, E)."""

    rows: Tensor
    columns: Tensor
    dense: Tensor

    def times(self, weight: Tensor) -> Tensor:
        """(N, F + E) @ weight (F + E, O) → (N, O)."""
        n_sparse = self.rows.shape[1]
        product: Tensor = self.dense @ weight[n_sparse:]
        if n_sparse:
            sparse: Tensor = SparseProduct.apply(self.rows, self.columns, weight[:n_sparse])
            product = product + sparse
        return product


# ── the classifier ─────────────────────────────────────────────────────────────────────────────


class LinearClassifier(nn.Module):
    """Texts, and maybe numeric columns, to probabilities of classes; nothing in it is random but an MLP's start.

    `vectors` are the word vectors that `config.average` asks for. Before `fit`, or `from_record` and
    `load_state_dict`, it knows no class. Weights are float64.
    """

    idf: Tensor  # (F,) of all n-grams; empty for counts
    mean: Tensor  # (E,)
    scale: Tensor  # (E,)
    vectors: Tensor  # (W, D)

    def __init__(self, config: LinearConfig | None = None, vectors: WordVectors | None = None) -> None:
        super().__init__()
        self.config = config or LinearConfig()
        if (self.config.average == "none") != (vectors is None):
            raise UsageError(
                "incompatible_settings",
                "average=words or characters and word vectors go together: give both or neither",
            )
        self.labels: list[str] = []
        self.grams: dict[str, list[str]] = {kind: [] for kind in KINDS}
        self.n_numeric = 0
        self.words = vectors.words if vectors else []
        matrix = torch.from_numpy(vectors.matrix) if vectors else torch.zeros(0, 0)
        self.register_buffer("vectors", matrix)

    def _shape(self, labels: list[str], grams: dict[str, list[str]], n_numeric: int) -> None:
        """Allocate the weights for these classes and features."""
        self.labels, self.grams, self.n_numeric = labels, grams, n_numeric
        self.index = {kind: {gram: n for n, gram in enumerate(known)} for kind, known in grams.items()}
        n_grams, n_dense = sum(map(len, grams.values())), n_numeric + self.vectors.shape[1]
        outputs = 1 if len(labels) == 2 else len(labels)  # two classes: the log-odds of the second
        widths = [n_grams + n_dense, *([self.config.d_hidden] if self.config.d_hidden else []), outputs]
        layers = pairwise(widths)
        self.weights = nn.ParameterList(torch.zeros(shape, dtype=torch.float64) for shape in layers)
        self.biases = nn.ParameterList(torch.zeros(width, dtype=torch.float64) for width in widths[1:])
        n_idf = n_grams if self.config.weighting == "tf-idf" else 0
        self.register_buffer("idf", torch.ones(n_idf, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(n_dense, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(n_dense, dtype=torch.float64))

    def fit(
        self, texts: Sequence[str], labels: Sequence[str], numeric: ArrayLike | None = None
    ) -> LinearClassifier:
        """Fit texts, their classes and, if given, numeric columns (N, M).

        Raises DataError for columns of unequal length, fewer than two classes, or texts without a single feature.
        """
        if len(texts) != len(labels) or not len(texts):
            raise DataError(
                "size_mismatch",
                f"{len(texts)} texts and {len(labels)} labels; give one label for each of at least one text",
            )
        classes = sorted(set(labels))
        if len(classes) < 2:
            raise DataError(
                "one_class",
                f"every text has the label {classes[0]!r}; a classifier needs two classes or more",
            )
        config, grams, idf = self.config, {kind: list[str]() for kind in KINDS}, [np.zeros(0)]
        for kind in KINDS:
            if (reach := getattr(config, kind)) != (0, 0):
                grams[kind], documents = build_vocabulary(texts, kind, reach, config.min_documents)
                idf.append(np.log((1 + len(texts)) / (1 + documents)) + 1)
        columns = self._numeric(numeric, len(texts), None)
        self._shape(classes, grams, columns.shape[1])
        if not self.weights[0].shape[0]:
            raise DataError(
                "too_little_data",
                "the texts have no word of two letters; set characters=(1, 2), or give numeric columns",
            )
        if config.weighting == "tf-idf":
            self.idf.copy_(torch.from_numpy(np.concatenate(idf)))
        dense = self._dense(texts, columns)
        self.mean.copy_(dense.mean(0))
        deviation = (dense - self.mean).square().mean(0).sqrt()
        self.scale.copy_(torch.where(deviation > 0, deviation, 1.0))
        index = {name: n for n, name in enumerate(classes)}
        self._optimise(self.features(texts, numeric), torch.tensor([index[label] for label in labels]))
        return self

    def _optimise(self, features: Features, targets: Tensor) -> None:
        """Down the slope of `objective` by L-BFGS (Liu and Nocedal 1989), from zeros or a drawn start."""
        if self.config.d_hidden:
            torch.manual_seed(self.config.seed)
            with torch.no_grad():
                for weight in self.weights:
                    INITIALISATIONS[self.config.initialisation](weight.T)
        optimiser = torch.optim.LBFGS(
            self.parameters(), max_iter=self.config.steps, max_eval=2 * self.config.steps,
            tolerance_grad=TOLERANCE, tolerance_change=1e-14, history_size=10, line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> float:
            optimiser.zero_grad()
            loss = self.objective(features, targets)
            loss.backward()
            return float(loss.detach())

        optimiser.step(closure)
        steepest = max(float(p.grad.abs().max()) for p in self.parameters() if p.grad is not None)
        if steepest > 1000 * TOLERANCE:
            log_notice(
                f"not at the bottom after {self.config.steps} steps (slope {steepest:.1e}): raise steps, or l2"
            )

    def objective(self, features: Features, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats plus the penalty; biases are free."""
        nats = nn.functional.cross_entropy(self(features), targets, reduction="sum")
        penalty = sum(
            (weight.square().sum() for weight in self.weights), torch.zeros((), dtype=torch.float64)
        )
        return (nats + 0.5 * self.config.l2 * penalty) / len(targets)

    def forward(self, features: Features) -> Tensor:
        """Logits (N, C)."""
        x = features.times(self.weights[0]) + self.biases[0]
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            x = ACTIVATIONS[self.config.activation](x) @ weight + bias
        return torch.cat([torch.zeros_like(x), x], 1) if len(self.labels) == 2 else x

    # ── features ──

    def features(self, texts: Sequence[str], numeric: ArrayLike | None = None) -> Features:
        """The features of texts. DataError where the numeric columns are not those of the training."""
        columns = self._numeric(numeric, len(texts), self.n_numeric)
        config, blocks, first = self.config, [], 0
        for kind in KINDS:
            if (reach := getattr(config, kind)) == (0, 0):
                continue
            block = count_ngrams(texts, kind, reach, self.index[kind], grow=False)
            if config.weighting == "tf-idf":
                idf = self.idf[first : first + block.width].numpy()
                block = tfidf(block, idf, sublinear=config.sublinear)
            blocks.append(block)
            first += block.width
        sparse = hstack(blocks, len(texts))
        dense = (self._dense(texts, columns) - self.mean) / self.scale
        return Features(sparse.tensor(), sparse.transposed().tensor(), dense)

    def _numeric(self, numeric: ArrayLike | None, n_texts: int, wanted: int | None) -> Tensor:
        columns = np.zeros((n_texts, 0)) if numeric is None else np.asarray(numeric, dtype=np.float64)
        if columns.ndim != 2 or len(columns) != n_texts or wanted not in (None, columns.shape[1]):
            needed = f"({n_texts}, {'columns' if wanted is None else wanted})"
            raise DataError(
                "size_mismatch", f"the numeric columns are of shape {columns.shape}, not {needed}"
            )
        if not np.isfinite(columns).all():
            row, column = np.argwhere(~np.isfinite(columns))[0]
            raise DataError(
                "invalid_row",
                f"numeric column {column} of text {row} is {columns[row, column]}; fill or drop such rows",
            )
        return torch.from_numpy(columns)

    def _dense(self, texts: Sequence[str], columns: Tensor) -> Tensor:
        """Numeric columns, then the mean of the vectors a text's words have (zeros where none has): (N, E)."""
        if self.config.average == "none":
            return columns
        index = {word: n for n, word in enumerate(self.words)}
        counts = count_ngrams(texts, self.config.average, (1, 1), index, grow=False)
        total = np.bincount(counts.rows, weights=counts.values, minlength=len(texts))
        shares = Sparse(counts.starts, counts.columns, counts.values / total[counts.rows], counts.width)
        return torch.cat([columns, shares.tensor() @ self.vectors.double()], 1)

    # ── using ──

    @torch.inference_mode()
    def predict_probabilities(self, texts: Sequence[str], numeric: ArrayLike | None = None) -> Tensor:
        """The probability of each class in the order of `labels`: (N, C) float64."""
        if not self.labels:
            raise UsageError("not_fitted", "this classifier is not fitted; call fit first")
        columns = self._numeric(numeric, len(texts), self.n_numeric)
        parts = [torch.zeros(0, len(self.labels), dtype=torch.float64)]
        for start in range(0, len(texts), CHUNK):
            part = slice(start, start + CHUNK)
            parts.append(self(self.features(texts[part], columns[part])).softmax(-1))
        return torch.cat(parts)

    def predict(self, texts: Sequence[str], numeric: ArrayLike | None = None) -> list[str]:
        """The most probable class of each text."""
        best = self.predict_probabilities(texts, numeric).argmax(-1) if len(texts) else torch.zeros(0)
        return [self.labels[n] for n in best.long().tolist()]

    def to_record(self) -> dict[str, Any]:
        """All but the weights, as JSON values."""
        return {
            "config": to_dict(self.config), "labels": self.labels, "grams": self.grams,
            "n_numeric": self.n_numeric, "words": self.words, "d_vectors": self.vectors.shape[1],
        }  # fmt: skip

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> LinearClassifier:
        """The classifier of a `record`, with unset weights for `load_state_dict`."""
        config = from_dict(LinearConfig, record["config"])
        words, width = record["words"], record["d_vectors"]
        vectors = WordVectors(words, np.zeros((len(words), width), np.float32)) if words else None
        model = cls(config, vectors)
        model._shape(record["labels"], record["grams"], record["n_numeric"])
        return model


# ── the family ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class LabelledTexts:
    """All texts and their classes, as `training.trainer.fit` reads batches: there is one."""

    texts: list[str]
    labels: list[str]
    n_batches = 1
    tokens_per_step = 1

    def batch(self, step: int) -> LabelledTexts:
        """All of them, whatever the step."""
        return self


class LinearTextModel(LanguageModel):
    """The classifier as a family: `count` takes the texts, `update` fits it. It has no hidden states and cannot
    generate. Its n-grams and classes are a buffer of JSON bytes next to the weights.
    """

    capabilities = Capabilities(can_generate=False)
    fitted: Tensor  # uint8

    def __init__(self, config: LinearConfig) -> None:
        super().__init__()
        self.config, self.classifier = config, LinearClassifier(config)
        self.register_buffer("fitted", torch.zeros(0, dtype=torch.uint8))

    def n_passes(self) -> int:
        """One: all texts are given at once."""
        return 1

    def count(self, batch: LabelledTexts) -> None:
        """Take what there is to learn from."""
        self.given = batch

    def update(self) -> Loss:
        """Learn from it: nats of the classes, the penalty among them."""
        classifier, given = self.classifier.fit(self.given.texts, self.given.labels), self.given
        record = json.dumps(classifier.to_record(), ensure_ascii=False).encode()
        self.fitted = torch.frombuffer(bytearray(record), dtype=torch.uint8)
        index = {name: n for n, name in enumerate(classifier.labels)}
        with torch.no_grad():
            targets = torch.tensor([index[label] for label in given.labels])
            mean = classifier.objective(classifier.features(given.texts), targets)
        return Loss(mean * len(targets), float(len(targets)))

    def predict_probabilities(self, texts: Sequence[str], labels: Sequence[str]) -> NDArray[np.float64]:
        """The probability of each of these classes: (N, C); 0 for a class without training texts."""
        probabilities = np.zeros((len(texts), len(labels)))
        probabilities[:, [list(labels).index(name) for name in self.classifier.labels]] = (
            self.classifier.predict_probabilities(texts).numpy()
        )
        return probabilities

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        self.fitted = state_dict[f"{prefix}fitted"].clone()
        self.classifier = LinearClassifier.from_record(json.loads(self.fitted.numpy().tobytes()))
        super()._load_from_state_dict(state_dict, prefix, *args)

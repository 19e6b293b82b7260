"""Perplexity and bits per byte, with intervals that are comparable across families, tokenizers and batch sizes.

**Bits per byte**: the nats of every token of the text, each predicted once, over log 2, divided by the bytes of the
file as given. A character that the tokenizer does not know costs its `<unk>` and 8 bits for each of its UTF-8 bytes.
Each document starts after end-of-text; neither that nor the end of the document is scored. Windows are as long as the
model's context and do not overlap; `stride` gives another metric, which the result names. A family without a context
length reads windows of 8,192 with `capabilities.overlap` ids repeated before each. A document in several chunks is read
on across them, and a window ends where a chunk does.

The interval is a bootstrap over blocks of the text with equal numbers of bytes, so that models with different
tokenizers have the same blocks and can be compared in pairs. Shapes: B rows, T time, N tokens.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textus.core.console import cpu_seconds, log_notice, progress
from textus.core.errors import DataError, RunError, UsageError
from textus.core.rng import derive_seed
from textus.data.batch import Batch, BatchSource
from textus.data.bucketing import BucketLoader, pad_sources
from textus.data.eval_text import EvalText, TextChunk, chunk_document, to_eval_text
from textus.data.loader import TokenLoader, scoring_windows
from textus.data.token_dataset import TokenDataset, in_memory_dataset
from textus.generation.engine import Engine
from textus.generation.params import SamplingParams
from textus.generation.sampling import bos_ids, device_of, inference_mode
from textus.metrics.resampling import (
    ByteBlocks,
    bootstrap,
    corpus_distinct_n,
    interval,
    mean_over_sequences,
    repetition,
)
from textus.models.contract import LanguageModel
from textus.tokenizers import Tokenizer
from textus.tokenizers.tokenizer import UNKNOWN_TEXT

Floats = NDArray[np.float64]

UNLIMITED_WINDOW = 8192
"""Targets of a window for families without a context length."""

MAX_LOGITS = 1 << 24
"""Most logits of one batch (64 MB in float32), unless a single row has more."""

GROUP_CHARACTERS = 1_000_000
"""Characters of documents gathered before scoring, so that rows of similar length share a batch."""

MAX_METRIC_TOKENS = 1 << 18
"""Most tokens for a family's own metrics, whose batches are all in memory."""


# ── nats of tokens ─────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class TokenScores:
    """Nats of each token of a text, the bytes lost to unknown characters, and the kind of likelihood."""

    nats: Floats  # (N,) the model's own
    unknown_bytes: NDArray[np.int64]  # (N,) bytes of the text that a token lost
    kind: str

    @property
    def costs(self) -> Floats:
        """Nats of each token, including 8 bits for every unknown byte: (N,)."""
        return self.nats + self.unknown_bytes * (8 * math.log(2))


def score_text(
    model: LanguageModel,
    tokenizer: Tokenizer,
    text: str,
    *,
    stride: int | None = None,
    batch_size: int | None = None,
) -> TokenScores:
    """Score one document that starts after end-of-text; see the module for windows and `stride`.

    Raises UsageError for a stride outside 1 … context, RunError if the model returns NaN.
    """
    stream = score_chunks(model, tokenizer, chunk_document([text]), stride=stride, batch_size=batch_size)
    scores = [score for _, _, score in stream] or [
        TokenScores(np.zeros(0), np.zeros(0, dtype=np.int64), model.capabilities.likelihood)
    ]
    nats, unknown = ([getattr(score, name) for score in scores] for name in ("nats", "unknown_bytes"))
    return TokenScores(np.concatenate(nats), np.concatenate(unknown), scores[0].kind)


def score_chunks(
    model: LanguageModel,
    tokenizer: Tokenizer,
    texts: Iterable[TextChunk],
    *,
    stride: int | None = None,
    batch_size: int | None = None,
) -> Iterator[tuple[TextChunk, list[int], TokenScores]]:
    """(chunk, its ids, their scores) in order; chunks are gathered to about GROUP_CHARACTERS and scored together."""
    length, step = window_sizes(model, stride)
    first = bos_ids(model, tokenizer.bos_id)
    carry, n_cut = first, 0
    for group in _groups(texts):
        encoded = tokenizer.encode_batch([part.text for part in group])
        sequences, skips = [], []
        for part, ids in zip(group, encoded, strict=True):
            carry = carry if part.continues else first
            sequences.append(carry + ids)
            skips.append(len(carry) - 1)
            carry = sequences[-1][-(length - step) - 1 :]
        given = [source_ids(model, tokenizer, part) for part in group]
        n_cut += sum(cut for _, cut in given)
        sources = [source for source, _ in given]
        nats, kind = score_ids(model, sequences, skips, sources, stride=stride, batch_size=batch_size)
        for part, ids, part_nats in zip(group, encoded, nats, strict=True):
            yield part, ids, TokenScores(part_nats, unknown_bytes(tokenizer, part.text, ids), kind)
    if n_cut:
        log_notice(f"{n_cut:,} sources are longer than the context and were truncated, as in training")


def source_ids(model: LanguageModel, tokenizer: Tokenizer, part: TextChunk) -> tuple[list[int] | None, bool]:
    """The ids of a chunk's source as in training, and whether it was truncated: at most the context, its end included.
    Empty without a source; None for a family that reads none.
    """
    if not model.capabilities.needs_source:
        return None, False
    ids = tokenizer.encode(part.source or "")
    most = len(ids) if model.config.context_length is None else model.config.context_length - 1
    return ids[:most], len(ids) > most


def unknown_bytes(tokenizer: Tokenizer, text: str, ids: list[int]) -> NDArray[np.int64]:
    """Bytes of the text that each id lost (N,)."""
    if tokenizer.unk_id is None or tokenizer.unk_id not in ids:
        return np.zeros(len(ids), dtype=np.int64)
    return np.asarray(tokenizer.unknown_bytes(text, ids), dtype=np.int64)


def _groups(texts: Iterable[TextChunk]) -> Iterator[list[TextChunk]]:
    group: list[TextChunk] = []
    size = 0
    for part in texts:
        if part.text:
            group.append(part)
            size += len(part.text) + 1
        if size >= GROUP_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group


def window_sizes(model: LanguageModel, stride: int | None = None) -> tuple[int, int]:
    """(ids that a window reads, targets by which it advances); UsageError for a stride outside 1 … context."""
    context = model.config.context_length
    if context is None:
        step = UNLIMITED_WINDOW if stride is None else stride
        if step < 1:
            raise UsageError("out_of_range", f"stride {step} is below 1; omit it, or give 1 or more")
        return step + model.capabilities.overlap, step
    if stride is not None and not 1 <= stride <= context:
        raise UsageError(
            "out_of_range", f"stride {stride} must be between 1 and the model's context of {context}"
        )
    return context, context - model.capabilities.overlap if stride is None else stride


def score_ids(
    model: LanguageModel,
    sequences: Sequence[Sequence[int]],
    skips: Sequence[int] | None = None,
    sources: Sequence[Sequence[int] | None] | None = None,
    *,
    stride: int | None = None,
    batch_size: int | None = None,
) -> tuple[list[Floats], str]:
    """Nats of every id of each sequence except the first `1 + skip` ones, which are context; and the kind.

    Rows of all sequences are sorted by length into batches of `batch_size` (None: by memory); batching changes results
    by rounding only, below 1e-6.
    """
    skips = [0] * len(sequences) if skips is None else skips
    sources = [None] * len(sequences) if sources is None else sources
    owners, rows = [], []
    for owner, (ids, skip, source) in enumerate(zip(sequences, skips, sources, strict=True)):
        given = None if source is None else pad_sources([list(source)], model.config.end_id)
        for row in _rows(model, ids, skip, stride):
            owners.append(owner)
            rows.append(replace(row, source=given))
    row_nats, kind = _score_rows(model, rows, batch_size)
    parts: list[list[Floats]] = [[] for _ in sequences]
    for owner, values in zip(owners, row_nats, strict=True):
        parts[owner].append(values)
    return [np.concatenate(part) if part else np.zeros(0) for part in parts], kind


def _rows(model: LanguageModel, ids: Sequence[int], skip: int, stride: int | None) -> Iterator[Batch]:
    """The windows of one sequence as batches of one row without padding."""
    n_targets = len(ids) - 1
    if n_targets <= skip:
        return
    length, step = window_sizes(model, stride)
    if n_targets <= length:  # one window, no longer than the sequence
        length = step = n_targets
    many = scoring_windows(np.asarray(ids), length, step, batch_size=16)
    for number, row in enumerate(row for batch in many for row in batch.micro(len(batch.ids))):
        if number == 0:
            row.weights[:, :skip] = 0
        n_real = int(row.mask.sum()) if row.mask is not None else row.ids.shape[1]
        if row.weights.any():
            yield Batch(row.ids[:, :n_real], row.targets[:, :n_real], row.weights[:, :n_real])


def _score_rows(model: LanguageModel, rows: list[Batch], batch_size: int | None) -> tuple[list[Floats], str]:
    """Nats of the weighted targets of each row, in the order of `rows`."""
    nats: list[Floats] = [np.zeros(0)] * len(rows)
    kind = model.capabilities.likelihood
    device = device_of(model)
    with scoring_mode(model):
        for places in _batches([row.ids.shape[1] for row in rows], model.config.vocab_size, batch_size):
            batch = _collate([rows[place] for place in places])
            batch_nats, kind = model.score(batch.to(device))
            for place, values, weights in zip(
                places, batch_nats.double().cpu().numpy(), batch.weights.numpy(), strict=True
            ):
                nats[place] = values[weights > 0]
    _check_finite(nats)
    return nats, kind


@contextlib.contextmanager
def scoring_mode(model: LanguageModel) -> Iterator[None]:
    """No dropout, no gradients, float32 activations: a score does not depend on how a run was sped up."""
    precision = getattr(model, "precision", None)
    if precision is not None:
        model.precision = torch.float32  # type: ignore[assignment]
    try:
        with inference_mode(model):
            yield
    finally:
        if precision is not None:
            model.precision = precision


def _batches(lengths: list[int], vocab_size: int, batch_size: int | None) -> Iterator[list[int]]:
    """Indices of rows sorted by length, `batch_size` at a time or as many as `MAX_LOGITS` allows."""
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    while order:
        fit = max(1, MAX_LOGITS // (max(1, lengths[order[0]]) * vocab_size))
        taken = batch_size or min(fit, 256)
        yield order[:taken]
        order = order[taken:]


def _collate(rows: list[Batch]) -> Batch:
    """Rows as one batch, right-padded with weight zero."""
    time_ = max(row.ids.shape[1] for row in rows)

    def stack(name: str) -> Tensor:
        lines = [getattr(row, name)[0] for row in rows]
        return torch.nn.utils.rnn.pad_sequence(lines, batch_first=True)

    lengths = torch.tensor([row.ids.shape[1] for row in rows])
    mask = torch.arange(time_) < lengths[:, None]
    batch = Batch(stack("ids"), stack("targets"), stack("weights"), mask=None if bool(mask.all()) else mask)
    given = [row.source[0] for row in rows if row.source is not None]
    if given:  # all rows have one or none; each ends with the end id, which also pads
        end = int(given[0][-1])
        batch.source = torch.nn.utils.rnn.pad_sequence(given, batch_first=True, padding_value=end)
    return batch


def _check_finite(nats: list[Floats]) -> None:
    wrong = sum(int((~np.isfinite(line)).sum()) for line in nats)
    if wrong:
        raise RunError(
            "invalid_weights",
            f"the model gives {wrong:,} of {sum(map(len, nats)):,} tokens no finite probability;"
            " its weights are damaged or training diverged: return to an earlier checkpoint",
        )


# ── metrics ────────────────────────────────────────────────────────────────────────────────────


@dataclass
class PerplexityAccumulator:
    """Sums over a text for `summarize`; nats are the model's own, costs include unknown characters."""

    n_bytes: int
    blocks: ByteBlocks = field(default_factory=ByteBlocks)
    kind: str = "exact"
    tokens: int = 0
    characters: int = 0
    documents: int = 0
    sources: int = 0
    keeps_text: bool = True
    unknown_bytes: int = 0
    nats: float = 0.0
    costs: float = 0.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def add(self, part: TextChunk, score: TokenScores, token_bytes: NDArray[np.int64]) -> None:
        """Add one chunk, its scores, and the bytes of each of its tokens (N,)."""
        sizes = np.where(score.unknown_bytes > 0, score.unknown_bytes, token_bytes)
        self.blocks.add(len(part.text.encode()), sizes, score.costs)
        self.kind = score.kind
        self.tokens += len(score.nats)
        self.characters += len(part.text)
        self.documents += not part.continues
        self.sources += part.source is not None
        self.unknown_bytes += int(score.unknown_bytes.sum())
        self.nats += float(score.nats.sum())
        self.costs += float(score.costs.sum())

    def bits(self) -> tuple[Floats, Floats]:
        """(bits, bytes) of each block; the bytes add up to those of the file as given, whatever its encoding."""
        costs, weights = self.blocks.totals()
        return costs / math.log(2), weights * (self.n_bytes / weights.sum())


def measure(
    model: LanguageModel,
    tokenizer: Tokenizer,
    texts: Any,
    *,
    n_bytes: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
) -> PerplexityAccumulator:
    """Score texts (strings, `read_text(path)`, `corpus_split_text(corpus)`) and sum up; DataError without text."""
    text = to_eval_text(texts, n_bytes)
    sums = PerplexityAccumulator(text.n_bytes)
    token_bytes = np.asarray([len(token) for token in tokenizer.vocabulary], dtype=np.int64)
    started, cpu = time.perf_counter(), cpu_seconds()
    with progress(f"scoring {text.name}", text.n_bytes) as advance:
        stream = score_chunks(model, tokenizer, text, stride=stride, batch_size=batch_size)
        for part, ids, score in stream:
            sums.add(part, score, token_bytes[np.asarray(ids, dtype=np.int64)])
            sums.keeps_text = sums.keeps_text and is_lossless(tokenizer, part.text, ids, score)
            advance(len(part.text.encode()))
    sums.seconds, sums.cpu_seconds = time.perf_counter() - started, cpu_seconds() - cpu
    if not sums.tokens:
        raise DataError(
            "empty_data", f"{text.name} contains no text to evaluate; give a file that is not empty"
        )
    if model.capabilities.needs_source and not sums.sources:
        log_notice(f"{text.name} has no sources: it is scored with an empty one")
    return sums


def is_lossless(tokenizer: Tokenizer, text: str, ids: Sequence[int], score: TokenScores) -> bool:
    """Whether the ids, with what is charged for unknown characters, determine the whole text: a tokenizer that drops
    case or whitespace has less to predict, and its bits per byte are too low.
    """
    decoded = tokenizer.decode(ids)
    if decoded == text:
        return True
    lost, pieces = int(score.unknown_bytes.sum()), decoded.split(UNKNOWN_TEXT)
    is_whole = lost + sum(len(piece.encode()) for piece in pieces) == len(text.encode())
    return bool(lost) and is_whole and all(piece in text for piece in pieces)


def evaluate(
    model: LanguageModel,
    tokenizer: Tokenizer,
    texts: Any,
    *,
    n_bytes: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Bits per byte with its 95 % interval, and related metrics, as JSON values.

    `texts` is the result of `read_text` or `corpus_split_text`, or strings, each a document. `perplexity` is per token
    of this tokenizer and, as usual, excludes the cost of unknown characters; `nats_per_character` includes it. `n` is
    the number of blocks of the bootstrap. Only results with equal `kind`, `given` (the condition: a source) and
    `keeps_text` (see `is_lossless`) may be ranked together; `likelihood` is a label of the three. Raises DataError for
    no text, UsageError for a stride out of range.
    """
    tally = measure(model, tokenizer, texts, n_bytes=n_bytes, stride=stride, batch_size=batch_size)
    return summarize(tally, model, stride=stride, seed=seed)


def summarize(
    tally: PerplexityAccumulator, model: LanguageModel, *, stride: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """The result of `evaluate` from the sums over a text."""
    bits, weights = tally.bits()
    given = ("a source" if tally.sources else "an empty source") if model.capabilities.needs_source else None
    return {
        "bits_per_byte": interval(bootstrap(bits, weights, seed=seed), len(bits)),
        "nats_per_character": tally.costs / tally.characters,
        "perplexity": math.exp(min(tally.nats / tally.tokens, 700.0)),
        "kind": tally.kind,
        "given": given,
        "keeps_text": tally.keeps_text,
        "likelihood": likelihood_label(tally.kind, given, tally.keeps_text),
        "tokens": tally.tokens,
        "characters": tally.characters,
        "bytes": tally.n_bytes,
        "documents": tally.documents,
        "unknown_bytes": tally.unknown_bytes,
        "window": window_sizes(model, stride)[0],
        "stride": stride,
        "seconds": tally.seconds,
        "cpu_seconds": tally.cpu_seconds,
    }


def likelihood_label(kind: str, given: str | None, keeps_text: bool) -> str:
    """A label of the likelihood; results are ranked together if it is equal."""
    known = f", given {given}" if given else ""
    return kind + known + ("" if keeps_text else ", of a changed text")


# ── samples ────────────────────────────────────────────────────────────────────────────────────


def sample_quality(
    model: LanguageModel,
    tokenizer: Tokenizer,
    *,
    n: int = 16,
    sampling: SamplingParams | None = None,
    sources: Sequence[Sequence[int]] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """How varied generated texts are: distinct-1, -2, -4 and repetition over `n` samples, on ids.

    Samples start after end-of-text, with `sampling` (default temperature 1, 200 tokens) and a seed each; a
    sequence-to-sequence family gets `sources` in turn, or empty ones. Distinct-n is over all samples together,
    repetition within each; intervals are over samples. Raises UsageError for a family that cannot generate, or `n`
    below 1.
    """
    if not model.capabilities.can_generate:
        raise UsageError(
            "unsupported_model",
            f"{type(model).__name__} cannot generate, so it has no samples to evaluate",
        )
    if n < 1:
        raise UsageError("out_of_range", f"{n} samples; give 1 or more")
    sampling = sampling or SamplingParams(temperature=1.0, sliding=True)
    texts: list[list[int]] = [[] for _ in range(n)]
    samplings = [replace(sampling, seed=derive_seed(seed, "quality", row)) for row in range(n)]
    first = bos_ids(model, tokenizer.bos_id)
    cycled = (
        [(sources or [[]])[row % len(sources or [[]])] for row in range(n)]
        if model.capabilities.needs_source
        else None
    )
    with progress("sampling", n) as advance:
        engine = Engine(model, end_id=tokenizer.end_ids, n_ids=tokenizer.vocab_size)
        for event in engine.stream([first] * n, samplings, cycled):
            if event.id is not None:
                texts[event.row].append(event.id)
            advance(event.reason is not None)
    return {
        "samples": n,
        "tokens": sum(map(len, texts)),
        "temperature": sampling.temperature,
        **{f"distinct_{length}": corpus_distinct_n(texts, length) for length in (1, 2, 4)},
        "repetition": mean_over_sequences(texts, 4, repetition, seed=seed),
    }


def first_sources(
    model: LanguageModel, tokenizer: Tokenizer, texts: Iterable[TextChunk], n: int = 16
) -> list[list[int]]:
    """The ids of the first `n` sources of texts, for `sample_quality`; empty for a family that reads none."""
    candidates = (source_ids(model, tokenizer, part)[0] for part in texts if part.source is not None)
    return (
        list(islice((ids for ids in candidates if ids is not None), n))
        if model.capabilities.needs_source
        else []
    )


# ── a family's own metrics ─────────────────────────────────────────────────────────────────────


def model_metrics(model: LanguageModel, tokenizer: Tokenizer, texts: Any, *, seed: int = 0) -> dict[str, Any]:
    """The family's own validation metrics over texts, batched as in training: whole documents, or packed windows.

    Metrics of each text come with an interval by bootstrap over texts; `trouble` is the family's diagnosis, or
    None; `tokens` how many were read, of a long text about the first `MAX_METRIC_TOKENS`. Empty for a family without
    any.
    """
    if type(model).validation_metrics is LanguageModel.validation_metrics:
        return {}
    device, values = device_of(model), dict[str, list[Tensor]]()
    with scoring_mode(model):
        batches, n_tokens = _training_batches(model, tokenizer, to_eval_text(texts))
        batches = [batch.to(device) for batch in batches]
        metrics = model.validation_metrics(batches)
        for batch in batches:
            for name, per_text in model.per_text_metrics(batch).items():
                values.setdefault(name, []).append(per_text)
    trouble = model.diagnose(metrics)
    for name, parts in values.items():
        column = torch.cat(parts).double().cpu().numpy()
        metrics[name] = interval(bootstrap(column, np.ones(len(column)), seed=seed), len(column))
    return {**metrics, "tokens": n_tokens, "trouble": trouble}


def _training_batches(model: LanguageModel, tokenizer: Tokenizer, texts: EvalText) -> tuple[list[Batch], int]:
    """Batches of the texts in order, and their number of tokens."""
    parts: list[TextChunk] = []
    ids: list[list[int]] = []
    n_tokens = 0
    for part in texts:
        if n_tokens >= MAX_METRIC_TOKENS:
            break
        if not part.text:  # none to be scored
            continue
        parts.append(part)
        ids.append(tokenizer.encode(part.text))
        n_tokens += len(ids[-1])
    store = _join_documents(parts, ids, tokenizer.end_id)
    longest = model.config.context_length or UNLIMITED_WINDOW
    sizes: dict[str, Any] = {"batch_size": 32, "context_length": longest, "shuffle": False}
    loader: BatchSource
    if model.capabilities.needs_source or model.capabilities.one_document_per_row:
        sources = None
        if model.capabilities.needs_source:
            given = [source_ids(model, tokenizer, part)[0] or [] for part in parts]
            sources = _join_documents(parts, given, tokenizer.end_id)
        start = getattr(model.config, "start_id", None)
        loader = BucketLoader(store, sources, start_id=start, **sizes)
    else:
        loader = TokenLoader(store, **sizes)
    return [loader.batch(number) for number in range(loader.n_batches)], n_tokens


def _join_documents(parts: Sequence[TextChunk], ids: Sequence[list[int]], end_id: int) -> TokenDataset:
    """The ids of chunks as a dataset: `EOT d1 EOT d2 … EOT`; chunks that continue a document follow it directly."""
    joined, starts = [end_id], [0]
    for number, (part, chunk_ids) in enumerate(zip(parts, ids, strict=True)):
        if number and not part.continues:
            starts.append(len(joined))
            joined.append(end_id)
        joined += chunk_ids
    return in_memory_dataset([*joined, end_id], starts)


# ── sizes ──────────────────────────────────────────────────────────────────────────────────────


def n_parameters(model: LanguageModel) -> int:
    """The number of parameters, or for a count-based family of all values in its tables."""
    counted = sum(p.numel() for p in model.parameters())
    return counted or sum(tensor.numel() for tensor in model.state_dict().values())


def weights_bytes(model: LanguageModel) -> int:
    """Bytes of a model in a run folder; tensors that share memory count once."""
    stored = {tensor.data_ptr(): tensor for tensor in model.state_dict().values() if tensor.numel()}
    return sum(tensor.numel() * tensor.element_size() for tensor in stored.values())

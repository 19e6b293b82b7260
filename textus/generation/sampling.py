"""From logits to text: sampling, stop rules, and the plain loop that is the reference for every faster one.

The order of the filters is the one most libraries share: repetition penalty (Keskar et al. 2019, CTRL),
temperature, top-k (Fan et al. 2018), top-p (Holtzman et al. 2020), min-p (Nguyen et al. 2024). The random
number of step n of a request is a hash of its seed and n, so that a text depends neither on its neighbours in
a batch nor on what was generated before. Shapes: B batch, T time, V vocabulary.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from textus.core.errors import RunError, UsageError
from textus.core.rng import uniform
from textus.data.bucketing import pad_sources
from textus.generation.params import SamplingParams
from textus.models.contract import LanguageModel

# ── one id ─────────────────────────────────────────────────────────────────────────────────────

Ends = int | Collection[int] | None
"""What ends a text: one id, several, or none."""


def eos_ids(ends: Ends) -> frozenset[int]:
    """The ids that end a text."""
    if ends is None:
        return frozenset()
    return frozenset([ends] if isinstance(ends, int) else ends)


def mask_unused_ids(logits: Tensor, n_ids: int | None) -> Tensor:
    """Logits (..., V) in which ids from `n_ids` on are never sampled: models round their vocabulary up, and the
    tokenizer cannot decode those. Likelihoods are unchanged.
    """
    size = logits.shape[-1]
    if n_ids is None or n_ids >= size:
        return logits
    return torch.nn.functional.pad(logits[..., :n_ids], (0, size - n_ids), value=-math.inf)


def sample_id(
    logits: Tensor | np.ndarray, sampling: SamplingParams, history: Sequence[int], step: int
) -> int:
    """The next id, from logits (V,): the likeliest at temperature 0, else drawn with the number of this
    `step`.

    `history` are the ids the model still sees, for the repetition penalty. Equal inputs give equal ids,
    whatever else is generated; ties go to the smallest id. Raises RunError where the logits are not numbers.
    """
    scores = logits.float().cpu().numpy() if isinstance(logits, Tensor) else logits
    if sampling.repetition_penalty != 1.0:
        scores = apply_repetition_penalty(scores, history, sampling.repetition_penalty)
    best = int(scores.argmax())  # also finds a not-a-number
    if not math.isfinite(scores[best]):
        raise invalid_logit_error(scores[best], best)
    if sampling.temperature == 0:
        return best
    return sample_index(
        filtered_probs(scores, scores[best], sampling), uniform(sampling.seed, "sample", step)
    )


def invalid_logit_error(logit: float, id: int) -> RunError:
    """The error of a model whose logits are not numbers."""
    return RunError(
        "invalid_weights",
        f"the model gave {logit} as the logit of id {id}; its weights are damaged or diverged, "
        "check the run with: textus verify",
    )


def sample_index(weights: np.ndarray, number: float) -> int:
    """The id at `number` (in [0, 1)) of the way through the weights (V,); never one of weight zero.

    The way goes by id, not by rank: ids that nearly tie, and swap ranks from a rounding, keep their places.
    """
    cumulative = np.cumsum(weights)
    id = int(cumulative.searchsorted(number * cumulative[-1], side="right"))
    # A number next to 1 can round up to the whole; it is the last id's that weighs anything.
    return id if id < len(weights) else int(cumulative.searchsorted(cumulative[-1]))


def apply_repetition_penalty(scores: np.ndarray, history: Sequence[int], penalty: float) -> np.ndarray:
    """A copy of the scores (V,) with those of ids in `history` made less likely, each once."""
    seen = np.asarray(history, dtype=np.int64)
    scores = scores.copy()
    previous = scores[seen]
    scores[seen] = np.where(previous < 0, previous * penalty, previous / penalty)
    return scores


def filtered_probs(scores: np.ndarray, highest: float, sampling: SamplingParams) -> np.ndarray:
    """Weights (V,) in proportion to the filtered probabilities, in float64; the likeliest id weighs 1."""
    with np.errstate(over="ignore"):  # a tiny temperature: minus infinity, weight zero, as it should be
        weights = np.exp((scores.astype(np.float64) - float(highest)) / sampling.temperature)
    n = len(weights)
    if 0 < sampling.top_k < n:
        weights[scores < np.partition(scores, n - sampling.top_k)[n - sampling.top_k]] = 0.0
    if sampling.top_p < 1:
        weights = top_p_filter(weights, sampling.top_p)
    if sampling.min_p > 0:
        weights[weights < sampling.min_p] = 0.0
    return weights


def top_p_filter(weights: np.ndarray, top_p: float) -> np.ndarray:
    """Keep the likeliest ids up to and including the one that reaches `top_p` of the total weight."""
    total = weights.sum()
    # Ids under this bound weigh together at most 1 - top_p, so they are all in the tail: no need to sort
    # them.
    candidates = np.flatnonzero(weights > (1 - top_p) * total / len(weights))
    order = candidates[np.argsort(-weights[candidates], kind="stable")]
    before = np.cumsum(weights[order]) - weights[order]
    kept = order[before < top_p * total]
    filtered = np.zeros_like(weights)
    filtered[kept] = weights[kept]
    return filtered


# ── the reference loop ─────────────────────────────────────────────────────────────────────────


def check_prompt(model: LanguageModel, ids: Sequence[int]) -> None:
    """UsageError where the model cannot continue these ids: none given, too many, or not in its
    vocabulary."""
    if not model.capabilities.can_generate:
        raise UsageError(
            "unsupported_model", f"{type(model).__name__} cannot generate text; take a run of another family"
        )
    if not ids:
        raise UsageError("empty_data", "the prompt has no ids; start a new document with the end-of-text id")
    context, vocabulary = model.config.context_length, model.config.vocab_size
    if context is not None and len(ids) > context:
        raise UsageError(
            "context_exceeded",
            f"the prompt has {len(ids):,} ids, the model's context holds {context:,}; "
            f"shorten the prompt by {len(ids) - context:,}, or take a model with a longer context",
        )
    if not 0 <= min(ids) <= max(ids) < vocabulary:
        wrong = next(id for id in ids if not 0 <= id < vocabulary)
        raise UsageError(
            "unknown_id",
            f"id {wrong} is not in the model's vocabulary of {vocabulary:,}; encode with its own tokenizer",
        )


def fills_context(ids: Sequence[int], sampling: SamplingParams, context_length: int | None) -> bool:
    """Whether one more id after `ids` is the last: the context is full with it, and `sliding` is off."""
    return not sampling.sliding and context_length is not None and len(ids) + 1 >= context_length


def append_or_truncate(ids: list[int], id: int, context_length: int | None) -> bool:
    """Append `id` in place; where the ids reach the context keep only the last half of it, and return True.

    The start is forgotten by halves, not id by id, because after each cut everything must be read again.
    """
    ids.append(id)
    if context_length is None or len(ids) < context_length:
        return False
    del ids[: -max(1, context_length // 2)]
    return True


@contextlib.contextmanager
def inference_mode(model: LanguageModel) -> Iterator[None]:
    """No gradients, no dropout; the model's mode is put back afterwards."""
    training = model.training
    if training:
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        if training:
            model.train()


def device_of(model: LanguageModel) -> torch.device:
    """Where the model's parameters are; the CPU for one that has none."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def bos_ids(model: LanguageModel, end_id: int) -> list[int]:
    """The ids every text of this model begins with: end-of-text, but for a few pretrained ones."""
    start = getattr(model.config, "start_id", None)
    return [end_id if start is None else start]


def check_source(model: LanguageModel, source: Sequence[int] | None) -> None:
    """UsageError where there is a source the model cannot read: it reads none, or the ids are not its own."""
    if source is None:
        return
    if not model.capabilities.needs_source:
        raise UsageError(
            "unsupported_model", f"{type(model).__name__} reads no source text; give it a prompt only"
        )
    if source:
        vocabulary = model.config.vocab_size
        if not 0 <= min(source) <= max(source) < vocabulary:
            raise UsageError("unknown_id", f"a source id is not in the model's vocabulary of {vocabulary:,}")
        context = model.config.context_length
        if context is not None and len(source) >= context:
            raise UsageError(
                "context_exceeded",
                f"the source text has {len(source):,} ids and its end, the model's context holds {context:,};"
                " shorten it",
            )


def generate(
    model: LanguageModel,
    ids: Sequence[int],
    sampling: SamplingParams,
    end_id: Ends,
    source: Sequence[int] | None = None,
    *,
    n_ids: int | None = None,
) -> list[int]:
    """Continue `ids`: the new ids only, without the one that ends them. No past is kept: everything is read again
    for each of them.

    `source` are the ids of the text that is to be answered or translated, for families that need one; `n_ids` is
    how many ids the tokenizer knows, where the model has more (`mask_unused_ids`). Raises UsageError for a prompt or a
    sampling out of range. The engine is proven equal to this loop.
    """
    sampling.check()
    check_prompt(model, ids)
    check_source(model, source)
    seen, new, device, ends = list(ids), list[int](), device_of(model), eos_ids(end_id)
    given = None if source is None else pad_sources([list(source)], model.config.end_id).to(device)
    with inference_mode(model):
        for step in range(sampling.max_tokens):
            cache = None if given is None else model.new_cache(1, len(seen), given)
            logits = model(torch.tensor([seen], device=device), cache)  # (1, T, V)
            id = sample_id(mask_unused_ids(logits[0, -1], n_ids), sampling, seen, step)
            if id in ends:
                break
            new.append(id)
            if fills_context(seen, sampling, model.config.context_length):
                break
            append_or_truncate(seen, id, model.config.context_length)
    return new

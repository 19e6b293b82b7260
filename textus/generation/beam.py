"""Beam search: the likeliest of many continuations, for texts that have one right answer (translation, summaries).

The rules are those of `transformers`, so that a model gives the same text here and there. Of every text `beams`
continuations run; a step keeps the best `beams` of their likeliest extensions. One that ends counts if it is among
them, with the score log p(text) / length^length_penalty, its end-of-text id counted (Wu et al. 2016 have another
divisor). Texts are searched together and leave the batch when theirs is over; none depends on its neighbours.

Shapes: R rows (a running continuation each), V vocabulary, K candidates per row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from textus.core.errors import UsageError
from textus.data.bucketing import pad_sources
from textus.generation.engine import TokenEvent, check_request, prefill
from textus.generation.params import SamplingParams
from textus.generation.sampling import (
    Ends,
    device_of,
    eos_ids,
    inference_mode,
    invalid_logit_error,
    mask_unused_ids,
)
from textus.models.contract import LanguageModel

MAX_ROWS = 128
"""Continuations that run together: rows of the cache."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A text that ended: its ids without the one that ends it, and log p / length^length_penalty (nats)."""

    ids: list[int]
    score: float
    reason: Literal["stop", "length"]

    def events(self) -> Iterator[TokenEvent]:
        """The text as events of the engine."""
        ids: list[int | None] = [*self.ids, None] if self.reason == "stop" else [*self.ids]
        for place, id in enumerate(ids):
            yield TokenEvent(0, id, self.reason if place == len(ids) - 1 else None)


@dataclass(slots=True)
class Beam:
    """A continuation that runs: the sum of its log-probabilities, its ids, and the row it continues."""

    log_prob: float
    ids: list[int]
    parent: int = 0


@dataclass(slots=True)
class BeamSearch:
    """The search of one text: what runs, best first, and what ended, best first."""

    number: int
    prompt: list[int]
    source: list[int] | None
    max_new: int
    running: list[Beam] = field(default_factory=lambda: [Beam(0.0, [])])
    ended: list[Hypothesis] = field(default_factory=list)
    is_done: bool = False

    def advance(self, candidates: list[Beam], sampling: SamplingParams, ends: frozenset[int]) -> None:
        """Take the best extensions of what runs, which are in order, best first."""
        length = len(candidates[0].ids)
        divisor = length**sampling.length_penalty
        is_last = length == self.max_new
        running: list[Beam] = []
        for rank, beam in enumerate(candidates):
            is_end = beam.ids[-1] in ends
            if not (is_end or is_last):
                running.append(beam)
            elif rank < sampling.beams:
                ids = beam.ids[:-1] if is_end else beam.ids
                self.ended.append(Hypothesis(ids, beam.log_prob / divisor, "stop" if is_end else "length"))
        self.running = running[: sampling.beams]
        self.ended = sorted(self.ended, key=lambda text: -text.score)[: sampling.beams]
        self.is_done = not self.running or self._is_settled(divisor, sampling)

    def _is_settled(self, divisor: float, sampling: SamplingParams) -> bool:
        """Whether as many texts ended as there are beams, and what runs would, at its length now, be no better."""
        if len(self.ended) < sampling.beams:
            return False
        stops_early = sampling.early_stopping or sampling.beams == 1  # of one beam: greedy
        return stops_early or self.running[0].log_prob / divisor <= self.ended[-1].score


def beam_search(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingParams,
    *,
    sources: Sequence[Sequence[int]] | None = None,
    ends: Ends,
    n_ids: int | None = None,
) -> list[list[Hypothesis]]:
    """The continuations of each prompt that ended, best first: 1 to `sampling.beams` of them.

    `sources` has one text for each prompt, for families that make a text from another; their prompts are what every
    target begins with (`sampling.bos_ids`). `ends` and `n_ids` as in `sampling.generate`. With one beam it is greedy.
    A text has at most `max_tokens` new ids, and no more than the model's context holds. Stop strings are the caller's.

    Raises UsageError for a prompt, a source or a sampling out of range, RunError where the weights are damaged.
    """
    given: list[Sequence[int] | None] = [None] * len(prompts) if sources is None else list(sources)
    if len(given) != len(prompts):
        raise UsageError(
            "size_mismatch", f"{len(prompts)} prompts with {len(given)} sources; give one for each, or none"
        )
    for prompt, source in zip(prompts, given, strict=True):
        check_request(model, prompt, sampling, source)
    context = model.config.context_length
    searches = [
        BeamSearch(
            number,
            list(prompt),
            None if source is None else list(source),
            sampling.max_tokens
            if context is None
            else min(sampling.max_tokens, max(1, context - len(prompt))),
        )
        for number, (prompt, source) in enumerate(zip(prompts, given, strict=True))
    ]
    with inference_mode(model):
        for batch in length_batches(searches, max(1, MAX_ROWS // sampling.beams)):
            search_batch(model, batch, sampling, eos_ids(ends), n_ids)
    return [search.ended for search in searches]


def search_events(
    model: LanguageModel,
    ids: Sequence[int],
    sampling: SamplingParams,
    *,
    source: Sequence[int] | None = None,
    ends: Ends,
    n_ids: int | None = None,
) -> Iterator[TokenEvent]:
    """The best text as events like those of `Engine.stream`; they come together, when the search is over."""
    sources = None if source is None else [source]
    best = beam_search(model, [ids], sampling, sources=sources, ends=ends, n_ids=n_ids)[0][0]
    yield from best.events()


def length_batches(searches: list[BeamSearch], size: int) -> list[list[BeamSearch]]:
    """Batches of at most `size` texts of like lengths, the longest at most twice the shortest, long ones first."""

    def length(search: BeamSearch) -> int:
        return len(search.prompt) + len(search.source or [])

    batches: list[list[BeamSearch]] = []
    for search in sorted(searches, key=length, reverse=True):
        if batches and len(batches[-1]) < size and 2 * length(search) >= length(batches[-1][0]):
            batches[-1].append(search)
        else:
            batches.append([search])
    return batches


def search_batch(
    model: LanguageModel,
    searches: list[BeamSearch],
    sampling: SamplingParams,
    ends: frozenset[int],
    n_ids: int | None,
) -> None:
    """Search texts together until all are done."""
    device = device_of(model)
    context = model.config.context_length
    longest = max(len(search.prompt) + search.max_new for search in searches)
    sources = None
    if any(search.source is not None for search in searches):
        sources = pad_sources([search.source or [] for search in searches], model.config.end_id).to(device)
    cache = model.new_cache(len(searches), longest if context is None else min(longest, context), sources)
    logits = prefill(model, [search.prompt for search in searches], cache, device)
    n_candidates = max(2, 1 + len(ends)) * sampling.beams  # enough that `beams` of them do not end
    while searches:
        advance_batch(searches, mask_unused_ids(logits, n_ids), n_candidates, sampling, ends)
        searches = [search for search in searches if not search.is_done]
        if beams := [beam for search in searches for beam in search.running]:
            cache = cache.select([beam.parent for beam in beams])
            logits = model(torch.tensor([beam.ids[-1:] for beam in beams], device=device), cache)[:, -1]


def advance_batch(
    searches: list[BeamSearch],
    logits: Tensor,
    n_candidates: int,
    sampling: SamplingParams,
    ends: frozenset[int],
) -> None:
    """One step of every text from the logits (R, V) of what runs; rows are in the order of the texts."""
    log_probs, ids = likeliest_ids(logits, n_candidates)
    row = 0
    for search in searches:
        extensions = [
            (beam.log_prob + log_prob, id, beam, row + place)
            for place, beam in enumerate(search.running)
            for log_prob, id in zip(log_probs[row + place], ids[row + place], strict=True)
            if log_prob > -torch.inf
        ]
        row += len(search.running)
        extensions.sort(key=lambda extension: -extension[0])
        candidates = [
            Beam(log_prob, [*beam.ids, id], parent)
            for log_prob, id, beam, parent in extensions[:n_candidates]
        ]
        search.advance(candidates, sampling, ends)


def likeliest_ids(logits: Tensor, n: int) -> tuple[list[list[float]], list[list[int]]]:
    """The n likeliest ids of each row of logits (R, V), and their log-probabilities. RunError for what is no number."""
    scores = logits.float()
    values, ids = scores.topk(min(n, scores.shape[-1]), dim=-1)  # (R, K), in order
    best = values[:, 0]
    if not bool(best.isfinite().all()):
        row = int((~best.isfinite()).nonzero()[0, 0])
        raise invalid_logit_error(float(best[row]), int(ids[row, 0]))
    log_probs: Any = values - scores.logsumexp(-1, keepdim=True)
    return log_probs.tolist(), ids.tolist()

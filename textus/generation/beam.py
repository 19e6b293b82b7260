"""Beam search: the most probable text that a search through the best partial texts finds.

Each text keeps `beams` partial texts. A step extends all of them by every id and keeps the best; those that end are
scored by the sum of their log-probabilities over length ** length_penalty, the end included (Wu et al. 2016 divide by
another power of the length; this is the form of `transformers`, whose results these are). Shapes: R rows (texts times
beams), K beams, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from textus.core.errors import RunError, UsageError
from textus.data.bucketing import pad_sources
from textus.generation.engine import prefill
from textus.generation.sampling import Ends, check_prompt, check_source, device_of, eos_ids, mask_unused_ids
from textus.models.contract import LanguageModel


@dataclass(frozen=True)
class BeamParams:
    """How a text is searched: `beams` partial texts (1: greedy), at most `max_tokens` ids, the end included. A
    `length_penalty` above 0 favours longer texts. With `early_stopping` a search ends with the first `beams` texts;
    without it, when no live text could be better if it ended now.
    """

    beams: int = 4
    length_penalty: float = 1.0
    max_tokens: int = 200
    early_stopping: bool = False

    def __post_init__(self) -> None:
        for name in ("beams", "max_tokens"):
            if (value := getattr(self, name)) < 1:
                raise UsageError("out_of_range", f"{name}={value}: must be at least 1")
        if not math.isfinite(self.length_penalty):
            raise UsageError("out_of_range", f"length_penalty={self.length_penalty}: must be a finite number")


@dataclass
class BeamText:
    """One text of a search: the ids of its live beams, and the best that ended, as (score, ids)."""

    limit: int
    live: list[list[int]] = field(default_factory=lambda: [[]])
    finished: list[tuple[float, list[int]]] = field(default_factory=list)

    def finish(self, score: float, ids: list[int], beams: int) -> None:
        """Add a text that ended; the best `beams` are kept."""
        self.finished.append((score, ids))
        self.finished.sort(key=lambda entry: -entry[0])
        del self.finished[beams:]


@torch.inference_mode()
def beam_search(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    params: BeamParams,
    *,
    sources: Sequence[Sequence[int]] | None = None,
    ends: Ends,
    n_ids: int | None = None,
) -> list[list[int]]:
    """The best text after each prompt (of families that need one, for each source), without its end: a list of ids for
    each.
    All texts are searched together and leave the batch when they are done; a text does not depend on the others.
    Raises UsageError for a prompt or source that the model cannot read.
    """
    for number, prompt in enumerate(prompts):
        check_prompt(model, prompt)
        check_source(model, None if sources is None else sources[number])
    context = model.config.context_length
    texts = [BeamText(limit_of(params, len(prompt), context)) for prompt in prompts]
    device, stops = device_of(model), eos_ids(ends)
    given = None if sources is None else pad_sources([list(ids) for ids in sources], model.config.end_id)
    longest = max(len(p) + text.limit for p, text in zip(prompts, texts, strict=True))
    cache = model.new_cache(len(prompts), longest, None if given is None else given.to(device))
    logits = prefill(model, prompts, cache, device)
    scores = torch.zeros(len(prompts), 1)
    open_texts = list(range(len(prompts)))
    while open_texts:
        totals = log_probabilities(logits, n_ids).view(*scores.shape, -1) + scores[:, :, None]
        parents, ids, kept = list[int](), list[int](), list[int]()
        chosen = best_candidates(totals, params.beams * max(2, 1 + len(stops)))
        rows: list[list[float]] = []
        for place, number in enumerate(open_texts):
            step = extend(texts[number], chosen[place], stops, params)
            if step is None:
                continue
            kept.append(number)
            parents += [place * totals.shape[1] + parent for parent, _, _ in step]
            ids += [id for _, id, _ in step]
            rows.append([score for _, _, score in step])
        open_texts = kept
        if open_texts:
            scores = torch.tensor(rows)
            cache = cache.select(parents)
            logits = model(torch.tensor(ids, device=device)[:, None], cache)[:, -1]
    return [text.finished[0][1] for text in texts]


def limit_of(params: BeamParams, n_prompt: int, context: int | None) -> int:
    """Ids that a text may have at most, its end included."""
    return params.max_tokens if context is None else max(1, min(params.max_tokens, context - n_prompt))


def log_probabilities(logits: Tensor, n_ids: int | None) -> Tensor:
    """Log-probabilities (R, V) in float32 on the CPU. Raises RunError where the logits are not numbers."""
    result = torch.log_softmax(mask_unused_ids(logits, n_ids).float(), dim=-1).cpu()
    if bool(result.isnan().any()):
        raise RunError(
            "invalid_weights",
            "the model computes NaN logits, so there is no text; its weights are damaged: textus verify RUN",
        )
    return result


def best_candidates(totals: Tensor, n: int) -> list[list[tuple[int, int, float]]]:
    """The `n` best extensions of each text, from totals (texts, K, V): (beam, id, score), best first."""
    size = totals.shape[-1]
    values, places = totals.flatten(1).topk(min(n, totals[0].numel()), dim=1)
    return [
        [(place // size, place % size, value) for place, value in zip(*pair, strict=True)]
        for pair in zip(places.tolist(), values.tolist(), strict=True)
    ]


def extend(
    text: BeamText, candidates: list[tuple[int, int, float]], stops: frozenset[int], params: BeamParams
) -> list[tuple[int, int, float]] | None:
    """Take one step of a text: its live beams become the best candidates that do not end, which are returned as
    (beam, id, score); None where the text is done.
    """
    length = len(text.live[0]) + 1
    going: list[tuple[int, int, float]] = []
    for rank, (beam, id, score) in enumerate(candidates):
        if not (id in stops or length == text.limit):
            if len(going) < params.beams and score > -math.inf:
                going.append((beam, id, score))
        elif rank < params.beams and score > -math.inf:
            ids = text.live[beam] if id in stops else [*text.live[beam], id]
            text.finish(score / length**params.length_penalty, ids, params.beams)
    if not going or is_done(text, going[0][2] / length**params.length_penalty, params):
        return None
    while len(going) < params.beams:  # fewer ids than beams: the rest can never win
        going.append((going[0][0], going[0][1], -math.inf))
    text.live = [[*text.live[beam], id] for beam, id, _ in going]
    return going


def is_done(text: BeamText, best_live: float, params: BeamParams) -> bool:
    """Whether as many texts ended as there are beams and, without early stopping, no live one could be better now."""
    if len(text.finished) < params.beams:
        return False
    return params.early_stopping or best_live <= text.finished[-1][0]

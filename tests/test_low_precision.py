"""In bf16 the engine writes what the plain loop writes, but for near ties."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from families import CASES, CONTEXT, V, random_ids, trained
from remembering import Remembering, RememberingCache, RememberingConfig
from torch import Tensor

from textus.generation.engine import Engine
from textus.generation.params import SamplingParams
from textus.generation.sampling import generate
from textus.models.contract import LanguageModel


def first_differences(
    model: LanguageModel, reference: LanguageModel, prompts: list[list[int]]
) -> list[float]:
    """Greedy texts of the engine on `model` against the plain loop on `reference`: the gap between the two
    likeliest ids where each first differs."""
    greedy = SamplingParams(temperature=0, max_tokens=12)
    got: list[list[int]] = [[] for _ in prompts]
    for event in Engine(model, end_id=None, max_rows=4).stream(prompts, greedy):
        got[event.row] += [] if event.id is None else [event.id]
    gaps = []
    for prompt, ids in zip(prompts, got, strict=True):
        expected = generate(reference, prompt, greedy, None)
        same = next((n for n, (a, b) in enumerate(zip(ids, expected, strict=True)) if a != b), None)
        if same is not None:
            with torch.no_grad():
                logits = reference(torch.tensor([prompt + expected[:same]]))[0, -1].float()
            highest, second = logits.topk(2).values.tolist()
            gaps.append(highest - second)
    return gaps


PRECISE = [case for case, (family, _) in CASES.items() if family == "decoder"]
MANY = [random_ids(1, 1 + n % 9, seed=n)[0].tolist() for n in range(24)]


@pytest.mark.promise("Models", "In bf16 cached and uncached differ at near ties only")
@pytest.mark.parametrize("case", PRECISE)
def test_in_bf16_only_near_ties_differ(case: str, record_property: Callable[[str, Any], None]) -> None:
    model = copy.deepcopy(trained(case))
    model.precision = torch.bfloat16
    gaps = first_differences(model, model, MANY)
    record_property("first_differences", f"{len(gaps)} of {len(MANY)}")
    assert all(gap < 0.1 for gap in gaps), gaps


class Imprecise(Remembering):
    """Rounds its flat logits to steps of 0.05."""

    def forward(
        self, ids: Tensor, cache: RememberingCache | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        return (super().forward(ids, cache, lengths) * 20).round() / 20


def test_near_ties_are_counted() -> None:
    flat = RememberingConfig(vocab_size=V, context_length=CONTEXT, scale=0.2)
    gaps = first_differences(Imprecise(flat), Remembering(flat), MANY)
    assert gaps
    assert all(gap <= 0.05 for gap in gaps)


def test_a_wrong_text_is_no_near_tie() -> None:
    assert any(gap >= 0.1 for gap in first_differences(Remembering(seed=1), Remembering(seed=2), MANY))

"""The fake model: its answers are known, and it keeps the contract as strictly as a real one."""

from __future__ import annotations

import math

import pytest
import torch
from raising import raises

from textus.core.errors import UsageError
from textus.data.batch import Batch
from textus.models.registry import build
from textus.models.testing import Fake, FakeConfig


def test_it_counts_around_the_vocabulary_at_a_known_loss() -> None:
    model = build("fake", {"vocab_size": 5, "margin": 3.0})
    ids = torch.tensor([[0, 1, 2, 3, 4, 0]])
    assert model(ids).argmax(-1).tolist() == [[1, 2, 3, 4, 0, 1]]
    right = math.log(1 + 4 * math.exp(-3))
    nats, kind = model.score(Batch(ids[:, :-1], ids[:, 1:], torch.ones(1, 5)))
    assert kind == "exact"
    assert nats.tolist()[0] == pytest.approx([right] * 5, abs=1e-6)
    nats, _ = model.score(Batch(ids[:, :-1], ids[:, :-1], torch.ones(1, 5)))
    assert nats.tolist()[0] == pytest.approx([right + 3] * 5, abs=1e-6)


def test_an_optimiser_can_lower_its_loss() -> None:
    model = Fake(FakeConfig(5, margin=0.0))
    ids = torch.tensor([[0, 1, 2, 3]])
    batch = Batch(ids[:, :-1], ids[:, 1:], torch.ones(1, 3))
    optimiser = torch.optim.SGD(model.parameter_groups()["all"], lr=1.0)
    before = model.loss(batch)
    before.mean.backward()
    optimiser.step()
    assert model.loss(batch).mean.item() < before.mean.item() == pytest.approx(math.log(5))


def test_its_cache_remembers_the_last_id_of_each_row() -> None:
    model = Fake(FakeConfig(9))
    cache = model.new_cache(3, 8)
    assert cache.last.tolist() == [-1, -1, -1]
    model(torch.tensor([[1, 2], [3, 0], [0, 0]]), cache, torch.tensor([2, 1, 0]))
    assert cache.last.tolist() == [2, 3, -1]
    assert cache.lengths.tolist() == [2, 1, 0]
    other = cache.select([1]).join(cache.select([0]))
    model(torch.tensor([[4], [5]]), other)
    assert other.last.tolist() == [4, 5]
    assert other.lengths.tolist() == [2, 3]
    assert cache.lengths.tolist() == [2, 1, 0]


def test_a_row_longer_than_the_context_is_refused() -> None:
    model = Fake(FakeConfig(9, context_length=4))
    cache = model.new_cache(2, 4)
    model(torch.ones(2, 4, dtype=torch.long), cache, torch.tensor([4, 3]))
    model(torch.ones(2, 1, dtype=torch.long), cache, torch.tensor([0, 1]))
    with raises(UsageError, "context_exceeded", "5", "4"):
        model(torch.ones(2, 1, dtype=torch.long), cache)
    with raises(UsageError, "context_exceeded", "5", "4"):
        model(torch.ones(2, 5, dtype=torch.long))

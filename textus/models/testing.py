"""A tiny model whose every answer is known: after id `i` comes `i + 1`, around the vocabulary.

For tests of everything above the models (generation, engine, training, evaluation, serving), so that they
need no training and no mocks: it keeps the whole contract of `textus.models.contract`. Its one weight is the
margin of the right logit over the others, so an optimiser has something to move and the loss
can be written down by hand: `log(1 + (V - 1) exp(-margin))` nats for a right target, and `margin` more for a
wrong one.
Shapes: B batch, T time, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from textus.core.errors import UsageError
from textus.models.contract import LanguageModel, TensorCache


@dataclass
class FakeConfig:
    """`margin` is the logit of the next id; all others are 0. `context_length` None means any length."""

    vocab_size: int = 16
    context_length: int | None = None
    margin: float = 8.0


class FakeCache(TensorCache):
    """The last id of each row, and how many ids it has seen."""

    ROW_DIM: ClassVar = {"last": 0, "lengths": 0}

    def __init__(self, last: Tensor, lengths: Tensor) -> None:
        self.last = last  # (B,) -1 before the first id
        self.lengths = lengths  # (B,)


class Fake(LanguageModel):
    """Counts upwards; see the module."""

    def __init__(self, config: FakeConfig) -> None:
        super().__init__()
        self.config = config
        self.margin = nn.Parameter(torch.tensor(float(config.margin)))

    def forward(self, ids: Tensor, cache: FakeCache | None = None, lengths: Tensor | None = None) -> Tensor:
        """ids (B, T) → logits (B, T, V). UsageError when a row grows past `config.context_length`."""
        if lengths is None:
            lengths = torch.full((ids.shape[0],), ids.shape[1], device=ids.device)
        seen = lengths if cache is None else cache.lengths + lengths
        limit = self.config.context_length
        if limit is not None and len(seen) and int(seen.max()) > limit:
            raise UsageError(
                "context_exceeded",
                f"{int(seen.max())} ids are more than the model's context of {limit}; shorten the prompt",
            )
        if cache is not None:
            fresh = lengths > 0
            final = ids.gather(1, (lengths - 1).clamp(min=0)[:, None])[:, 0] if ids.shape[1] else cache.last
            cache.last = torch.where(fresh, final, cache.last)
            cache.lengths = seen
        following = (ids + 1) % self.config.vocab_size
        return nn.functional.one_hot(following, self.config.vocab_size) * self.margin  # (B, T, V)

    def new_cache(self, batch_size: int, length: int, source: Tensor | None = None) -> FakeCache:
        """An empty cache; its size does not depend on `length`."""
        device = self.margin.device
        empty = torch.full((batch_size,), -1, device=device)
        return FakeCache(empty, torch.zeros(batch_size, dtype=torch.long, device=device))

"""A tiny model that remembers everything, for tests: each logit depends on every id seen, in order.

`models.testing.Fake` knows only the last id, so it cannot show a cache that lost something or rows mixed up.
Here the state is a hash of the ids read so far and picks a row of a random table: one forgotten, repeated or
misplaced id changes all that follows, and equal means equal to the bit. Its cache cannot be overfilled.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from textus.core.errors import UsageError
from textus.data.batch import Batch
from textus.models.contract import LanguageModel

STATES = 997


@dataclass
class RememberingConfig:
    """As every family's; `scale` is the spread of the logits."""

    vocab_size: int = 13
    context_length: int | None = 16
    scale: float = 2.0


@dataclass
class RememberingCache:
    """The hash of each row, and the room it was made with."""

    state: Tensor  # (B,)
    lengths: Tensor  # (B,)
    room: Tensor  # (B,)
    can_rewind = False

    def select(self, rows: list[int]) -> RememberingCache:
        """A cache of only these rows, in this order."""
        return RememberingCache(self.state[rows], self.lengths[rows], self.room[rows])

    def join(self, other: RememberingCache) -> RememberingCache:
        """A cache of these rows followed by the other's."""
        pairs = ((self.state, other.state), (self.lengths, other.lengths), (self.room, other.room))
        return RememberingCache(*(torch.cat(pair) for pair in pairs))


class Remembering(LanguageModel):
    """See the module."""

    def __init__(self, config: RememberingConfig | None = None, seed: int = 0) -> None:
        super().__init__()
        self.config = config or RememberingConfig()
        generator = torch.Generator().manual_seed(seed)
        table = torch.randn(STATES, self.config.vocab_size, generator=generator) * self.config.scale
        self.table = nn.Parameter(table)

    def forward(
        self, ids: Tensor, cache: RememberingCache | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """ids (B, T) → logits (B, T, V)."""
        if lengths is None:
            lengths = torch.full((len(ids),), ids.shape[1])
        if cache is None:
            cache = self.new_cache(len(ids), ids.shape[1])
        cache.lengths = cache.lengths + lengths
        longest = int(cache.lengths.max())
        if (cache.lengths > cache.room).any():
            raise UsageError(
                "context_exceeded", f"{longest} ids are more than the cache of {int(cache.room.min())} holds"
            )
        states = []
        for t in range(ids.shape[1]):
            following = (cache.state * 31 + ids[:, t] + 1) % STATES
            cache.state = torch.where(t < lengths, following, cache.state)
            states.append(following)
        return self.table[torch.stack(states, 1)]

    def score(self, batch: Batch) -> tuple[Tensor, str]:
        """Nats (B, T); each document is read from an empty state."""
        cache, logits = self.new_cache(len(batch.ids), batch.ids.shape[1]), []
        for t, column in enumerate(batch.ids.unbind(1)):
            if batch.documents is not None and t:
                same = batch.documents[:, t] == batch.documents[:, t - 1]
                cache.state = torch.where(same, cache.state, 0)
            logits.append(self.forward(column[:, None], cache))
        scores = torch.cat(logits, 1).transpose(1, 2)  # (B, V, T)
        nats = nn.functional.cross_entropy(scores, batch.targets, reduction="none")
        return nats * batch.weights, self.capabilities.likelihood

    def new_cache(self, batch_size: int, length: int, source: Tensor | None = None) -> RememberingCache:
        """Rows that have seen nothing, with room for `length` ids each."""
        context = self.config.context_length
        if context is not None and length > context:
            raise UsageError(
                "context_exceeded", f"{length} ids are more than the context of {context}; shorten the text"
            )
        zeros = torch.zeros(batch_size, dtype=torch.long)
        return RememberingCache(zeros, zeros, torch.full((batch_size,), length))

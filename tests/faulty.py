"""Models that break one promise each, for the checks of `test_contract.py` to find."""

from __future__ import annotations

from dataclasses import replace

import torch
from remembering import Remembering, RememberingCache, RememberingConfig
from torch import Tensor

from textus.data.batch import Batch
from textus.models.contract import Loss

Lengths = Tensor | None
Cache = RememberingCache | None


class Sound(Remembering):
    """No fault: what the faults below are changes of passes every check."""

    def __init__(self, config: RememberingConfig | None = None) -> None:
        super().__init__(config or RememberingConfig(vocab_size=13, context_length=24))


class Forgets(Sound):
    """The cache forgets what came before this piece."""

    def forward(self, ids: Tensor, cache: Cache = None, lengths: Lengths = None) -> Tensor:
        if cache is not None:
            cache.state = torch.zeros_like(cache.state)
        return super().forward(ids, cache, lengths)


class SeesPadding(Sound):
    """Rows are read past their lengths."""

    def forward(self, ids: Tensor, cache: Cache = None, lengths: Lengths = None) -> Tensor:
        logits = super().forward(ids, cache, None)
        if cache is not None and lengths is not None:
            cache.lengths = cache.lengths - ids.shape[1] + lengths
        return logits


class WrongRows(RememberingCache):
    """Drops the right number of rows, but others."""

    def select(self, rows: list[int]) -> RememberingCache:
        chosen = super().select(rows)
        return WrongRows(chosen.state.flip(0), chosen.lengths, chosen.room)

    def join(self, other: RememberingCache) -> RememberingCache:
        return WrongRows(*vars(super().join(other)).values())


class Mixes(Sound):
    """Its cache mixes rows up."""

    def new_cache(self, batch_size: int, length: int, source: Tensor | None = None) -> RememberingCache:
        return WrongRows(*vars(super().new_cache(batch_size, length, source)).values())


class LooksAhead(Sound):
    """Knows the next id."""

    def forward(self, ids: Tensor, cache: Cache = None, lengths: Lengths = None) -> Tensor:
        return super().forward(ids.roll(-1, 1), cache, lengths)


class Overruns(Sound):
    """Reads on past its context."""

    def new_cache(self, batch_size: int, length: int, source: Tensor | None = None) -> RememberingCache:
        cache = super().new_cache(batch_size, min(length, 24), source)
        return replace(cache, room=cache.room + 1000)


class Restless(Sound):
    """Does not give the same twice."""

    def forward(self, ids: Tensor, cache: Cache = None, lengths: Lengths = None) -> Tensor:
        logits = super().forward(ids, cache, lengths)
        return logits + torch.randn_like(logits)


class Unnormalised(Sound):
    """Its scores are not of probabilities."""

    def score(self, batch: Batch) -> tuple[Tensor, str]:
        logits = self.forward(batch.ids)
        return -logits.gather(2, batch.targets[..., None])[..., 0] * batch.weights, "exact"


class Weightless(Sound):
    """Forgets the weights."""

    def score(self, batch: Batch) -> tuple[Tensor, str]:
        return super().score(replace(batch, weights=torch.ones_like(batch.weights)))


class Means(Sound):
    """Gives the mean where the total is asked."""

    def loss(self, batch: Batch) -> Loss:
        whole = super().loss(batch)
        return Loss(whole.mean, whole.weight)


class CountsRows(Sound):
    """Weighs a batch by its size, not by its targets."""

    def loss(self, batch: Batch) -> Loss:
        return Loss(super().loss(batch).total, float(batch.ids.numel()))


class ReadsOn(Sound):
    """Reads over the end of a document."""

    def score(self, batch: Batch) -> tuple[Tensor, str]:
        return super().score(replace(batch, documents=None))


class Ungrouped(Sound):
    """Its weights are in no group."""

    def parameter_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        return {"all": []}


class Keeps(Sound):
    """Keeps a tensor made in inference mode, and uses it when it learns."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Tensor | None = None

    def forward(self, ids: Tensor, cache: Cache = None, lengths: Lengths = None) -> Tensor:
        if self.kept is None:
            self.kept = torch.ones(13)
        return super().forward(ids, cache, lengths) * self.kept


class Narrow(Sound):
    """Gives one logit too few."""

    def forward(self, ids: Tensor, cache: Cache = None, lengths: Lengths = None) -> Tensor:
        return super().forward(ids, cache, lengths)[..., 1:]

"""One batch of training or evaluation, and what any source of batches offers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from textus.core.errors import UsageError


@dataclass
class Batch:
    """What a model is trained and scored on. Tensors are (B, T); a target counts by its weight, zero is none.

    `documents` numbers the packed document each input belongs to (None: all one), so that attention can stop at its
    edge; `mask` is False on padding (None: no padding); `position` is the step that made it, `piece` which micro-batch
    of it this is.

    A pair of texts: `source` (B, S) int64 holds the ids of each row's source text, its end-of-text id, and more
    end-of-text ids as padding, so a source is read up to and including its first one (`data.bucketing.source_mask`) and
    no other mask is needed; `ids` begins with the start id (end-of-text, but for a few pretrained models), `targets`
    are the ids of the target text and its end-of-text id; both are padded with end-of-text at weight zero.

    `word_starts` records which targets begin a word. `segments` numbers the texts of a row that holds several, 0 on.
    `numbers` are columns of a table next to each row's text. `task` is the head that learns from it.
    """

    ids: Tensor  # (B, T) int64
    targets: Tensor  # (B, T) int64
    weights: Tensor  # (B, T) float32
    documents: Tensor | None = None  # (B, T) int64
    mask: Tensor | None = None  # (B, T) bool
    position: int = 0
    piece: int = 0
    source: Tensor | None = None  # (B, S) int64
    segments: Tensor | None = None  # (B, T) int64
    labels: Any = None
    word_starts: Tensor | None = None  # (B, T) bool
    numbers: Tensor | None = None  # (B, columns) float64
    task: str | None = None

    @property
    def n_targets(self) -> int:
        """How many targets have a weight above zero."""
        return int((self.weights > 0).sum())

    def micro(self, n: int) -> list[Batch]:
        """The rows in at most `n` pieces as equal as can be; their totals and weights add up."""
        if n < 1:
            raise UsageError("out_of_range", f"a batch cannot be split in {n} pieces; use 1 or more")
        bounds = np.linspace(0, len(self.ids), min(n, len(self.ids)) + 1).astype(int)
        pieces = itertools.pairwise(bounds)
        return [
            replace(self._slice(int(low), int(high)), piece=piece) for piece, (low, high) in enumerate(pieces)
        ]

    def _slice(self, low: int, high: int) -> Batch:
        return self._map_tensors(lambda tensor: tensor[low:high])

    def _map_tensors(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {k: change(v) for k, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **changed)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return self._map_tensors(lambda tensor: tensor.to(device, non_blocking=True))


class BatchSource(Protocol):
    """What training reads: `batch(step)` is always the same."""

    @property
    def n_batches(self) -> int:
        """Batches in one epoch."""
        ...

    @property
    def tokens_per_step(self) -> int:
        """Targets of a batch, about."""
        ...

    def batch(self, step: int) -> Batch:
        """The batch of a step, from 0."""
        ...

"""What an encoder–decoder remembers while it writes: keys and values of each source, and of the target so far.

Shapes: L blocks, B rows, S source time, H heads, K head width.
"""

from __future__ import annotations

import math
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional as F

from textus.models.nn.attention import KeyValueCache


class EncoderDecoderCache:
    """What is remembered of each row: keys and values of its source, and of the target so far.

    source_k and source_v (L, B, S, H, K), source_bias (B, 1, 1, S) with -inf on padding; `own` is the target's. Rows
    next to each other with one source, such as beams, share it: `own` has B times `rows_per_source` rows.
    """

    can_rewind = True

    def __init__(
        self,
        own: KeyValueCache,
        source_k: Tensor,
        source_v: Tensor,
        source_bias: Tensor,
        rows_per_source: int = 1,
    ) -> None:
        self.own, self.source_k, self.source_v, self.source_bias = own, source_k, source_v, source_bias
        self.rows_per_source = rows_per_source

    @property
    def lengths(self) -> Tensor:
        """(B,) how many target ids each row has seen."""
        return self.own.lengths

    @lengths.setter
    def lengths(self, lengths: Tensor) -> None:
        self.own.lengths = lengths

    def select(self, rows: list[int]) -> EncoderDecoderCache:
        """A cache of only these rows, in this order."""
        return self._with_own(self.own.select(rows), rows)

    def reorder(self, rows: list[int]) -> EncoderDecoderCache:
        """As `select`, but this cache is used up."""
        return self._with_own(self.own.reorder(rows), rows)

    def _with_own(self, own: KeyValueCache, rows: list[int]) -> EncoderDecoderCache:
        texts = [row // self.rows_per_source for row in rows]
        runs = [(text, len(list(run))) for text, run in groupby(texts)]
        counts = {count for _, count in runs}
        if len(counts) == 1:
            texts = [text for text, _ in runs]
        return self._with_sources(own, texts, counts.pop() if len(counts) == 1 else 1)

    def join(self, other: EncoderDecoderCache) -> EncoderDecoderCache:
        """A cache of these rows followed by the other's."""
        longest = max(self.source_k.shape[2], other.source_k.shape[2])
        shared = self.rows_per_source if self.rows_per_source == other.rows_per_source else 1
        grown = [cache._ungrouped(shared)._padded_sources(longest) for cache in (self, other)]
        k, v = (torch.cat([cache[part] for cache in grown], 1) for part in (0, 1))
        bias = torch.cat([cache[2] for cache in grown])
        return EncoderDecoderCache(self.own.join(other.own), k, v, bias, shared)

    def _with_sources(
        self, own: KeyValueCache, texts: list[int], rows_per_source: int
    ) -> EncoderDecoderCache:
        """These sources for the rows of `own`; copied only where they differ from the present ones."""
        sources = (self.source_k, self.source_v, self.source_bias)
        if texts != list(range(self.source_k.shape[1])):
            index = torch.tensor(texts, dtype=torch.long, device=self.source_k.device)
            sources = (self.source_k[:, index], self.source_v[:, index], self.source_bias[index])
        return EncoderDecoderCache(own, *sources, rows_per_source)

    def _ungrouped(self, shared: int) -> EncoderDecoderCache:
        """Itself where `shared` rows have one source already, else a cache with a source for every row."""
        if shared == self.rows_per_source:
            return self
        rows = range(len(self.own.lengths))
        return self._with_sources(self.own, [row // self.rows_per_source for row in rows], 1)

    def _padded_sources(self, longest: int) -> tuple[Tensor, Tensor, Tensor]:
        more = longest - self.source_k.shape[2]
        k, v = (F.pad(part, (0, 0, 0, 0, 0, more)) for part in (self.source_k, self.source_v))
        return k, v, F.pad(self.source_bias, (0, more), value=-math.inf)

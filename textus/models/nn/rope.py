"""Rotary positions (Su et al. 2021) and the ways to stretch them over longer contexts than they were trained on.

Shapes: T time, H heads, K head width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from textus.core.errors import UsageError


@dataclass(frozen=True)
class RopeScaling:
    """How the frequencies are slowed by `factor`.

    `linear` slows all of them (Chen et al. 2023). `llama3` slows those that turn less than `low_frequency` times
    over the original context, none that turn more than `high_frequency` times, the others in between (Dubey et
    al. 2024). `yarn` does so by dimension instead of by turns, and makes the scores sharper by `attention_factor`
    squared (Peng et al. 2023); without one it follows from `factor`.
    """

    kind: Literal["linear", "llama3", "yarn"]
    factor: float
    low_frequency: float = 1.0
    high_frequency: float = 0.0  # 0: 4 for llama3, 32 for yarn, as published
    original_context: int = 0
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        if not self.high_frequency:
            object.__setattr__(self, "high_frequency", {"llama3": 4.0, "yarn": 32.0}.get(self.kind, 0.0))
        if self.factor < 1:
            raise UsageError("out_of_range", f"rope_scaling.factor={self.factor}: must be at least 1")
        if self.kind != "linear" and not (
            0 < self.low_frequency < self.high_frequency and self.original_context >= 1
        ):
            raise UsageError(
                "out_of_range",
                f"rope_scaling of kind {self.kind} needs an original_context of at least 1 and 0 < low_frequency <"
                f" high_frequency, not {self.original_context}, {self.low_frequency} and {self.high_frequency}",
            )

    @property
    def attention_scale(self) -> float:
        """What cosines and sines are multiplied by."""
        if self.kind != "yarn":
            return 1.0
        return 0.1 * math.log(self.factor) + 1.0 if self.attention_factor is None else self.attention_factor

    def scaled_frequencies(self, frequency: Tensor, theta: float) -> Tensor:
        """Frequencies (K / 2) in radians a position, slowed."""
        return frequency * self._kept(frequency, theta).lerp(torch.ones_like(frequency), 1 / self.factor)

    def _kept(self, frequency: Tensor, theta: float) -> Tensor:
        """How much of each frequency is kept (K / 2): 1 all of it, 0 only a `factor`-th."""
        if self.kind == "linear":
            return torch.zeros_like(frequency)
        if self.kind == "llama3":
            turns = self.original_context * frequency / (2 * math.pi)
            return ((turns - self.low_frequency) / (self.high_frequency - self.low_frequency)).clamp(0, 1)
        n = len(frequency)
        first = max(math.floor(self._dimension(self.high_frequency, n, theta)), 0)
        last = min(math.ceil(self._dimension(self.low_frequency, n, theta)), 2 * n - 1)
        ramp = (torch.arange(n, dtype=frequency.dtype) - first) / max(last - first, 0.001)
        return 1 - ramp.clamp(0, 1)

    def _dimension(self, turns: float, n: int, theta: float) -> float:
        """The (fractional) number of the frequency, of `n`, that turns so often over the original context."""
        return n * math.log(self.original_context / (turns * 2 * math.pi)) / math.log(theta)


def rotary_table(
    length: int, d_head: int, theta: float, scaling: RopeScaling | None = None
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles: (length, K) each, halves repeated."""
    frequency = theta ** -(torch.arange(0, d_head, 2, dtype=torch.float64) / d_head)
    if scaling is not None:
        frequency = scaling.scaled_frequencies(frequency, theta)
    sharpness = 1.0 if scaling is None else scaling.attention_scale
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency  # (length, K / 2)
    angle = torch.cat([angle, angle], dim=-1)
    return (angle.cos() * sharpness).float(), (angle.sin() * sharpness).float()


TABLE = 8192
"""Positions whose angles are kept from the start; a longer text's are added when it comes."""


class RotaryTable(nn.Module):
    """Cosines and sines of the angles of the positions that were needed so far, of at most `length`: a context of four
    million positions, as some models declare, would take gigabytes and half a minute.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, length: int, d_head: int, theta: float, scaling: RopeScaling | None = None) -> None:
        super().__init__()
        self.length, self.shape = length, (d_head, theta, scaling)
        for name, table in zip(("cos", "sin"), rotary_table(min(length, TABLE), *self.shape), strict=True):
            self.register_buffer(name, table, persistent=False)

    def first(self, n: int) -> tuple[Tensor, Tensor]:
        """Of positions 0 … n - 1: (n, K) each; n is at most `length`."""
        cos, sin = self.cos, self.sin
        if n > min(len(cos), len(sin)):
            with torch.inference_mode(False):  # or no later training step could use them
                longer = min(self.length, 1 << (n - 1).bit_length())
                cos, sin = (table.to(cos) for table in rotary_table(longer, *self.shape))
            self.cos, self.sin = cos, sin
        return cos[:n], sin[:n]

    def at_positions(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Of positions (...), as `rotate` takes them: (..., 1, K) each."""
        cos, sin = self.first(1 + int(positions.max()) if positions.numel() else 0)
        return cos[positions].unsqueeze(-2), sin[positions].unsqueeze(-2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the two halves of each head by its position's angles: x (B, T, H, K), cos and sin (..., T, 1, K)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin

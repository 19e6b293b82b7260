"""A stack of gated recurrent units that can be read piece by piece: the body of the recurrent VAE and of the GAN's
generator.

Source: Cho et al. 2014. Shapes: B rows, T time, I inputs, D width, L layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Recurrent(nn.Module):
    """`n_layer` GRUs on top of each other, each with its states at every position, so that rows may end
    anywhere.
    """

    def __init__(self, n_in: int, width: int, n_layer: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.width, self.n_layer = width, n_layer
        self.layers = nn.ModuleList(
            nn.GRU(width if number else n_in, width, batch_first=True) for number in range(n_layer)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, state: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x (B, T, I) and what is remembered (L, B, D) → the last layer's states (B, T, D) and what is
        remembered then.

        Positions past `lengths` (B,) do not change the state.
        """
        state = x.new_zeros(self.n_layer, len(x), self.width) if state is None else state
        after = []
        for number, layer in enumerate(self.layers):
            before = state[number : number + 1].contiguous()
            x, last = layer(self.dropout(x) if number else x, before)
            after.append(last if lengths is None else last_states(x, lengths, before[0])[None])
        return x, torch.cat(after)


def last_states(x: Tensor, lengths: Tensor, otherwise: Tensor) -> Tensor:
    """Each row's entry before its end: x (B, T, D), lengths (B,) → (B, D); `otherwise` (B, D) where a row has
    none.
    """
    place = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, x.shape[2])
    return torch.where(lengths[:, None] > 0, x.gather(1, place)[:, 0], otherwise)


def reverse_rows(x: Tensor, lengths: Tensor) -> Tensor:
    """Each row's first `lengths` entries back to front, the padding left where it is: x (B, T, D)."""
    place = torch.arange(x.shape[1], device=x.device)
    mirrored = lengths[:, None] - 1 - place
    order = torch.where(mirrored >= 0, mirrored, place)
    return x.gather(1, order[..., None].expand_as(x))

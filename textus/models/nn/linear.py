"""Linear maps. What takes their place later lives in `textus.models.nn.lora` (LoRA), so that a saved run can be
rebuilt.

Shapes: I inputs, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Module):
    """x Wᵀ + b with W (O, I) kept in float32 and used in the type of x.

    `parts`: of a product that is several in one, the name and the rows of each, in order.
    """

    def __init__(
        self, n_in: int, n_out: int, *, bias: bool = False, parts: dict[str, int] | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in))
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None
        self.parts = parts or {}
        nn.init.normal_(self.weight, std=n_in**-0.5)

    @property
    def is_whole(self) -> bool:
        """Whether a product by `whole` is all that `forward` computes, but for the bias."""
        return True

    def whole(self) -> Tensor:
        """The effective matrix (O, I): W and what an adapter adds to it."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:  # (..., I) -> (..., O)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)

"""Which weights fine-tuning changes: low-rank adapters (LoRA, Hu et al. 2021), the last layers, or all
of it with smaller rates further down.

An adapter leaves W as it is and adds (α / r) B A, of rank r. B begins at zero, so that an adapted model begins as the
model it was made from. A fused projection has an adapter for each of its parts (`Linear.parts`), as models of
`transformers`, where those are apart, have. `merge` adds the products to W. Shapes: I inputs, O outputs, r rank, P
adapted parts.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textus.core.config import from_dict
from textus.core.errors import UsageError
from textus.core.names import unknown_name_error
from textus.models.contract import LanguageModel
from textus.models.nn.linear import Linear

ALL = "all"


@dataclass(frozen=True)
class LoRASettings:
    """`targets`: which projections of every layer, by name with commas between (q, k, v, out, gate, up, down), or all;
    `alpha` / `rank` scales what an adapter adds; `dropout` of what it reads.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: str = ALL

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UsageError("out_of_range", f"method.rank={self.rank}: must be at least 1")
        if not 0 < self.alpha < math.inf:
            raise UsageError("out_of_range", f"method.alpha={self.alpha}: must be above 0")
        if not 0 <= self.dropout < 1:
            raise UsageError("out_of_range", f"method.dropout={self.dropout}: must be at least 0 and below 1")

    @property
    def scale(self) -> float:
        """α / r."""
        return self.alpha / self.rank


@dataclass(frozen=True)
class FullFinetuning:
    """Everything learns."""


@dataclass(frozen=True)
class LinearProbe:
    """Only the heads learn, and the last `layers` of the model with them."""

    layers: int = 0


METHODS: dict[str, type] = {"full": FullFinetuning, "frozen": LinearProbe, "lora": LoRASettings}
"""Name → the class of its settings."""


def apply_method(model: LanguageModel, method: str, settings: dict[str, Any]) -> None:
    """Let learn what a method lets learn. UsageError where the model has not what the settings name."""
    how: Any = from_dict(METHODS[method], settings, "method.")
    if isinstance(how, LinearProbe):
        train_last(model, how.layers)
    if isinstance(how, LoRASettings):
        add_lora(model, how)


class LoRALinear(nn.Module):
    """A projection that is left as it is, and what its adapters add: x Wᵀ + b + (α / r) x Aᵀ Bᵀ.

    `a` and `b` hold (r, I) and (rows of the part, r) of each adapted part.
    """

    def __init__(self, linear: Linear, names: list[str], settings: LoRASettings) -> None:
        super().__init__()
        self.weight, self.bias, self.parts = linear.weight, linear.bias, linear.parts
        self.settings = settings
        self.dropout = nn.Dropout(settings.dropout)
        rank, n_in = settings.rank, linear.weight.shape[1]
        new = linear.weight.new_empty
        self.a = nn.ParameterDict(
            {name: new(rank, n_in).uniform_(-(n_in**-0.5), n_in**-0.5) for name in names}
        )
        self.b = nn.ParameterDict({name: new(self.parts[name], rank).zero_() for name in names})

    def rows(self) -> dict[str, tuple[int, int]]:
        """Part → its first row of W, and the one after its last."""
        return row_ranges(self.parts)

    def up(self) -> Tensor:
        """The Bs of all parts as one matrix (O, P r), each in its rows and its columns, times α / r."""
        rank, wide = self.settings.rank, len(self.b) * self.settings.rank
        blocks, at = [], 0
        for name, rows in self.parts.items():
            if name in self.b:
                blocks.append(F.pad(self.b[name], (at, wide - at - rank)))
                at += rank
            else:
                blocks.append(self.weight.new_zeros(rows, wide))
        return torch.cat(blocks) * self.settings.scale

    def down(self) -> Tensor:
        """The As of all parts, in the order of `parts`: (P r, I)."""
        return torch.cat([self.a[name] for name in self.parts if name in self.a])

    @property
    def is_whole(self) -> bool:
        """Not where the adapters read less than W does."""
        return self.settings.dropout == 0

    def whole(self) -> Tensor:
        """W and its adapters as one matrix (O, I), for kernels that read whole ones."""
        return self.weight + self.up() @ self.down()

    def forward(self, x: Tensor) -> Tensor:  # (..., I) -> (..., O)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        low = F.linear(self.dropout(x), self.down().to(x.dtype))
        return F.linear(x, self.weight.to(x.dtype), bias) + F.linear(low, self.up().to(x.dtype))

    @torch.no_grad()
    def merge(self) -> Linear:
        """The projection that does the same without adapters."""
        merged = Linear(
            self.weight.shape[1], self.weight.shape[0], bias=self.bias is not None, parts=self.parts
        )
        merged.weight.copy_(self.whole())
        if merged.bias is not None and self.bias is not None:
            merged.bias.copy_(self.bias)
        return merged.to(self.weight.device)


def row_ranges(parts: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Part → first row and the one after its last, from the parts' numbers of rows."""
    ranges, at = {}, 0
    for name, rows in parts.items():
        ranges[name] = (at, at + rows)
        at += rows
    return ranges


def projections(model: nn.Module) -> dict[str, Linear]:
    """The projections of a model's layers by name: those that can get an adapter."""
    return {
        name: part
        for name, part in model.named_modules()
        if isinstance(part, Linear) and NUMBER.search(name) and not name.startswith("heads.")
    }


NUMBER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")
"""A layer's number in a parameter's name."""


def add_lora(model: LanguageModel, settings: LoRASettings) -> None:
    """Add adapters to a model's projections; only they and the heads are trained from then on.

    Raises UsageError for a model without projections in its layers, and for targets it does not have.
    """
    linears = projections(model)
    if not linears:
        raise UsageError(
            "unsupported_model",
            f"the layers of a {type(model).__name__} have no projections for LoRA; use --method"
            " full or frozen, or a Transformer",
        )
    parts = {name: [*lora_targets(name, linear)] for name, linear in linears.items()}
    known = list(dict.fromkeys(part for names in parts.values() for part in names))
    wanted = known if settings.targets == ALL else [part.strip() for part in settings.targets.split(",")]
    for part in wanted:
        if part not in known:
            raise unknown_name_error("projection in method.targets", part, [ALL, *known])
    model.requires_grad_(False)
    model.heads.requires_grad_(True)
    for name, linear in linears.items():
        linear.parts = lora_targets(name, linear)
        if names := [part for part in linear.parts if part in wanted]:
            replace_module(model, name, LoRALinear(linear, names, settings))


def lora_targets(name: str, linear: Linear) -> dict[str, int]:
    """Part → rows of a projection: one that is not fused is a part by its own name."""
    return linear.parts or {name.rpartition(".")[2]: len(linear.weight)}


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The projections that have adapters, by name."""
    return {name: part for name, part in model.named_modules() if isinstance(part, LoRALinear)}


def merge_lora(model: nn.Module) -> None:
    """Add every adapter to its projection's weights; the model computes the same without them."""
    for name, part in lora_layers(model).items():
        replace_module(model, name, part.merge())


def replace_module(model: nn.Module, name: str, part: nn.Module) -> None:
    """Put another module in the place of the one of that name."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, part)


# ── layers ─────────────────────────────────────────────────────────────────────────────────────


def n_layers(model: LanguageModel) -> int:
    """How many layers the deepest stack has; 0 where they are not apart."""
    return max((number for _, number in transformer_layers(model).values()), default=-1) + 1


def transformer_layers(model: LanguageModel) -> dict[str, tuple[str, int]]:
    """Parameter → its stack and layer number, for parameters inside layers."""
    layers_by_name = {}
    for name, _ in model.named_parameters():
        if not name.startswith("heads.") and (match := NUMBER.search(name)):
            stack = name[: match.start()]
            owner = model.get_submodule(stack.rpartition(".")[0])
            layers_by_name[name] = stack, int(match[1]) // getattr(owner, "n_directions", 1)
    return layers_by_name


def layer_depth(model: LanguageModel) -> dict[str, int]:
    """Parameter → its depth below the head: 0 for heads and parameters above the last layer, 1 for the last layer,
    …, one more than there are layers for embeddings.
    """
    inside = transformer_layers(model)
    deepest: dict[str, int] = {}
    for stack, number in inside.values():
        deepest[stack] = max(deepest.get(stack, 0), number)
    bottom = max(deepest.values(), default=-1) + 2
    norm_last = getattr(model.config, "norm_first", True)  # else `norm` is that of the embeddings
    depths = {}
    for name, _ in model.named_parameters():
        if name in inside:
            stack, number = inside[name]
            depths[name] = deepest[stack] - number + 1
        else:
            first = EMBEDDINGS.search(name) or (name.startswith("norm.") and not norm_last)
            depths[name] = bottom if first and not name.startswith("heads.") else 0
    return depths


EMBEDDINGS = re.compile(r"(^|\.|_)(embedding|position|segment)\.")


def train_last(model: LanguageModel, n: int) -> None:
    """Train only the last `n` layers, what is above them, and the heads; with 0 the heads alone.

    Raises UsageError where there are not so many.
    """
    if not 0 <= n <= (have := n_layers(model)):
        raise UsageError("out_of_range", f"method.layers={n}: this model has {have} layers; take 0 to {have}")
    depth = layer_depth(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("heads.") or (n > 0 and depth[name] <= n))

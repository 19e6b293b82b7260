"""Adapters out, in the form of `peft`: adapter_config.json and adapter_model.safetensors.

Where `transformers` fuses what we fuse too (GPT-2), the adapters of the parts become one of their ranks together:
their As one below the other, their Bs each in its own rows and columns. Shapes: as in `textus.models.nn.lora`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from textus.core.io import write_json
from textus.interop.architectures import WeightMapping
from textus.interop.registry import describe
from textus.models.contract import LanguageModel
from textus.models.nn.lora import LoRALinear, lora_layers


def write_folder(out: Path, family: str, model: LanguageModel) -> str:
    """Write a model's adapters for `peft`; returns the class of `transformers` that they are for. UsageError where no
    class holds the model.
    """
    module, hf = describe(family, model.config)
    name = str(hf["architectures"][0])
    headless = name.endswith("Model") and not name.endswith("LMHeadModel")
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    transposed = False
    for part in module.rename(model.config):
        linear = lora_layers(model).get(part.ours.removesuffix(".weight"))
        if linear is None or not part.ours.endswith(".weight"):
            continue
        if not (pair := pair_of(linear, part)):
            continue
        theirs = part.theirs.removesuffix(".weight")
        theirs = theirs.removeprefix(module.PREFIX) if headless else theirs
        for letter, tensor in zip("AB", pair, strict=True):
            tensors[f"base_model.model.{theirs}.lora_{letter}.weight"] = tensor.detach().contiguous()
        ranks[theirs] = len(pair[0])
        transposed = part.transposed
    settings = next(iter(lora_layers(model).values())).settings
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
    write_json(out / "adapter_config.json", config_of(settings, ranks, transposed=transposed))
    return name


def pair_of(linear: LoRALinear, part: WeightMapping) -> tuple[Tensor, Tensor] | None:
    """A and B of the rows that are one tensor there; None where none of them has an adapter."""
    first, last = part.rows or (0, len(linear.weight))
    inside = [name for name, (low, high) in linear.rows().items() if first <= low and high <= last]
    names = [name for name in inside if name in linear.a]
    if not names:
        return None
    rank = linear.settings.rank
    b = linear.weight.new_zeros(last - first, len(names) * rank)
    for number, name in enumerate(names):
        low, high = linear.rows()[name]
        b[low - first : high - first, number * rank : (number + 1) * rank] = linear.b[name].detach()
    return torch.cat([linear.a[name] for name in names]), b


def config_of(settings: Any, ranks: dict[str, int], *, transposed: bool) -> dict[str, Any]:
    """adapter_config.json: what `peft.LoraConfig` needs to know."""
    wider = {name: rank for name, rank in ranks.items() if rank != settings.rank}
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": sorted(ranks),
        "rank_pattern": wider,
        "alpha_pattern": {name: rank * settings.scale for name, rank in wider.items()},
        "fan_in_fan_out": transposed,
        "bias": "none",
    }

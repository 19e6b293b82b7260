"""Pretrained weights in and out: what a foreign model is called here, and its weights under our names.

An architecture is one module of this package, named in `registry.MODULES`, that keeps the `ArchitectureSpec`
protocol: which classes of `transformers` it covers, how their configuration becomes ours and back, and a list of
`WeightMapping`s. The one list serves both ways: to import, the parts of each of our tensors are read and joined; to
export, each part is cut out and written under its own name. Where the tensors are stored does not matter to it
(`TensorReader`): a folder of safetensors (`folder`), a GGUF file (`gguf`) or a llama2.c file (`llama2c`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from textus.core.config import from_dict, to_dict
from textus.core.errors import RunError, TextusError, UsageError
from textus.interop import validate
from textus.interop.config_keys import check_keys, check_model_type
from textus.models.registry import build
from textus.models.registry import family as family_of
from textus.tokenizers import Tokenizer


@dataclass(frozen=True)
class WeightMapping:
    """One foreign tensor, and its place in one of ours.

    A fused tensor has several parts, each some `rows` (first, last + 1) of it, in order and without gaps.
    `transposed`: the foreign tensor is (inputs, outputs), as GPT-2's are.
    """

    ours: str
    theirs: str
    rows: tuple[int, int] | None = None
    transposed: bool = False

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """The foreign tensor's shape, from that of our whole tensor."""
        shape = whole if self.rows is None else (self.rows[1] - self.rows[0], *whole[1:])
        return shape[::-1] if self.transposed else shape


class ArchitectureSpec(Protocol):
    """What a module of this package offers."""

    @property
    def ARCHITECTURES(self) -> tuple[str, ...]:
        """Classes of `transformers`, as `architectures` in config.json names them."""
        ...

    @property
    def FAMILY(self) -> str:
        """The family of `models.registry.FAMILIES` that holds it."""
        ...

    @property
    def PREFIX(self) -> str:
        """Before the names of all tensors but the head's; left out in files of the headless model. "" for none."""
        ...

    @property
    def IGNORED(self) -> tuple[str, ...]:
        """Regular expressions of tensor names without trained weights (masks, angles), which are skipped."""
        ...

    @property
    def MODEL_TYPES(self) -> tuple[str, ...]:
        """`model_type` of config.json for these classes."""
        ...

    @property
    def KEYS(self) -> frozenset[str]:
        """Keys of config.json that are read here, or change nothing in this architecture."""
        ...

    def config_from(self, hf: dict[str, Any], /) -> dict[str, Any]:
        """Our config's values from config.json; UsageError naming the value that we cannot hold."""
        ...

    def config_to(self, config: Any, /) -> dict[str, Any]:
        """config.json from our config, with `architectures`; UsageError for what the architecture cannot
        hold.
        """
        ...

    def rename(self, config: Any, /) -> list[WeightMapping]:
        """The parts of every tensor of our model."""
        ...

    def copies(self, config: Any, /) -> dict[str, str]:
        """Foreign tensors that are another one by another name (tied heads): name → the name that is in
        `rename`. A file may or may not have them; where it has, the two must be equal.
        """
        ...


class TensorReader(Protocol):
    """Foreign tensors from any storage, read one by one, so that no more than the model is in memory."""

    where: str
    """The file or folder, for messages."""
    shapes: dict[str, tuple[int, ...]]
    """Name → shape, known without reading."""

    def read(self, name: str) -> Tensor:
        """One tensor in float32."""
        ...


@dataclass
class ImportedModel:
    """A model made elsewhere, in our terms: what a run folder needs of it."""

    family: str
    config: dict[str, Any]
    weights: dict[str, Tensor]
    tokenizer: Tokenizer | None
    source: dict[str, Any] = field(default_factory=dict)
    """Where it came from, for the run's record: format, architecture, SHA-256 of each file."""
    heads: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Task → what `build_head` makes its head of; the heads' weights are among the weights."""
    task_settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the one task, where it has a head; and the names of its labels."""
    labels: list[str] = field(default_factory=list)


def read_weights(module: ArchitectureSpec, config: Any, tensors: TensorReader) -> dict[str, Tensor]:
    """Our weights, from foreign tensors; RunError for one that is missing, left over or of another shape."""
    if (n_layer := max(config.n_layer, getattr(config, "n_decoder_layer", 0))) > len(tensors.shapes):
        raise RunError(
            "weights_mismatch",
            f"{tensors.where} has {len(tensors.shapes)} tensors, its configuration asks for {n_layer:,} layers; the two"
            " are not of one model",
        )
    with torch.device("meta"):
        model = build(module.FAMILY, config)
    whole = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    parts, copies = module.rename(config), module.copies(config)
    names = match_names(module, tensors.shapes, [part.theirs for part in parts])
    check_names(module, names, [part.theirs for part in parts], copies, tensors.where)
    for part in parts:
        if (shape := tensors.shapes[names[part.theirs]]) != (wanted := part.shape(whole[part.ours])):
            raise RunError(
                "weights_mismatch",
                f"{tensors.where}: the tensor {names[part.theirs]} has shape {list(shape)}, its configuration gives"
                f" {list(wanted)}; the two are not of one model",
            )
    weights: dict[str, Tensor] = {}
    for name, shape in whole.items():
        weights[name] = join_parts([part for part in parts if part.ours == name], shape, tensors, names)
    for copy, original in copies.items():
        if copy in names and not torch.equal(tensors.read(names[copy]), tensors.read(names[original])):
            raise RunError(
                "weights_mismatch",
                f"{tensors.where}: the configuration ties {copy} to {original}, but the file holds two different"
                " tensors; set tie_word_embeddings to false if both are meant",
            )
    return weights


def join_parts(
    parts: list[WeightMapping], shape: tuple[int, ...], tensors: TensorReader, names: dict[str, str]
) -> Tensor:
    """One of our tensors from its parts."""
    assert parts, "every tensor of a family has parts in its architecture's table"
    whole = torch.empty(shape)
    for part in parts:
        name = names[part.theirs]
        tensor = validate.finite(tensors.read(name), tensors.where, name)
        whole[slice(*part.rows) if part.rows else slice(None)] = tensor.t() if part.transposed else tensor
    return whole


def match_names(module: ArchitectureSpec, names: Iterable[str], wanted: list[str]) -> dict[str, str]:
    """The name in `wanted`'s spelling → the name in the file, which may lack the architecture's prefix."""
    table = {OLDER.sub(lambda match: NEWER[match[0]], name): name for name in names}
    if not module.PREFIX or any(name.startswith(module.PREFIX) for name in table):
        return table
    headless = {module.PREFIX + name: theirs for name, theirs in table.items()}
    return {
        full if full in wanted or is_ignored(module, full) else name: name for full, name in headless.items()
    }


NEWER = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""How TensorFlow's BERT named a norm's tensors, as many of the first files still do → how they are named now."""
OLDER = re.compile("|".join(map(re.escape, NEWER)))


def is_ignored(module: ArchitectureSpec, name: str) -> bool:
    """Whether a tensor of that name holds no trained weights."""
    return any(re.fullmatch(rule, name) for rule in module.IGNORED)


def check_names(
    module: ArchitectureSpec, names: dict[str, str], wanted: list[str], copies: dict[str, str], where: str
) -> None:
    """RunError naming the first tensors that are missing or left over."""
    if missing := [name for name in wanted if name not in names]:
        raise RunError(
            "tensor_missing",
            f"{where} has no tensor {summarize_names(missing)}, which its configuration asks for",
        )
    known = {*wanted, *copies}
    if over := [name for name in names if name not in known and not is_ignored(module, name)]:
        raise RunError(
            "tensor_unknown",
            f"{where} has tensors that its configuration does not explain: {summarize_names(over)};"
            " importing it would change the model",
        )


def summarize_names(names: list[str]) -> str:
    """The first three names, and how many more."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def foreign_weights(module: ArchitectureSpec, config: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights cut into foreign tensors, each with memory of its own."""
    tensors = {}
    for part in module.rename(config):
        tensor = weights[part.ours] if part.rows is None else weights[part.ours][slice(*part.rows)]
        tensors[part.theirs] = (tensor.t() if part.transposed else tensor).contiguous().clone()
    return tensors


def checked_config(module: ArchitectureSpec, hf: dict[str, Any], where: str) -> dict[str, Any]:
    """Our config's values with all defaults filled in; RunError or UsageError naming the file and what is wrong."""
    validate.check(hf, where)
    try:
        check_model_type(hf, module.MODEL_TYPES)
        check_keys(hf, module.KEYS, where, causal=module.FAMILY != "encoder")
        values = module.config_from(hf)
        return to_dict(from_dict(family_of(module.FAMILY)[1], values, "model."))
    except UsageError as error:
        raise UsageError(error.code, f"{where}: {error}") from error
    except TextusError:
        raise
    except KeyError as error:
        raise RunError(
            "damaged", f"{where} has no {error}; it is damaged or not of this architecture"
        ) from error
    except (TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        raise RunError(
            "damaged", f"{where} holds a value of the wrong kind ({error}); it is damaged"
        ) from error

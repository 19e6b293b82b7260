"""Architectures of other programs by name, and what of ours they can hold."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from textus.core.config import from_dict
from textus.core.errors import UsageError
from textus.interop import validate
from textus.interop.architectures import ArchitectureSpec
from textus.interop.task_heads import CLASSES
from textus.models.registry import family as family_of

MODULES = ("llama", "gpt2", "bert", "roberta", "t5")
"""Modules of this package that hold an architecture. A new one is one file and one name here."""


def architectures() -> dict[str, ArchitectureSpec]:
    """Class name of `transformers` → the module that holds it."""
    modules: list[Any] = [import_module(f"textus.interop.{name}") for name in MODULES]
    return {name: module for module in modules for name in module.ARCHITECTURES}


def architecture(name: str) -> ArchitectureSpec:
    """The module for a class of `transformers`; UsageError listing the known ones."""
    known = architectures()
    if name not in known:
        raise validate.unsupported("the architecture", name, [*known, *CLASSES])
    return known[name]


def describe(family: str, config: dict[str, Any] | Any) -> tuple[ArchitectureSpec, dict[str, Any]]:
    """The architecture that can hold a model of ours, and its config.json; UsageError with every reason why
    not.
    """
    if isinstance(config, dict):
        config = from_dict(family_of(family)[1], config, "model.")
    modules = {id(module): module for module in architectures().values() if family == module.FAMILY}
    reasons = []
    for module in modules.values():
        try:
            return module, module.config_to(config)
        except UsageError as error:
            reasons.append(str(error))
    if not reasons:
        known = sorted({module.FAMILY for module in architectures().values()})
        raise UsageError(
            "unsupported_export",
            f"a model of family {family!r} has no form in transformers; exportable: {', '.join(known)}",
        )
    raise UsageError(
        "unsupported_export",
        "no architecture of transformers holds this model: " + "; ".join(dict.fromkeys(reasons)),
    )


def export_blocker(family: str, config: Any) -> str | None:
    """Why a model of ours could not be exported although others of its family can; None where it can, or none can."""
    if all(family != module.FAMILY for module in architectures().values()):
        return None
    try:
        describe(family, config)
    except UsageError as error:
        return str(error)
    return None

"""Names that are looked up: the nearest one offered, all of them listed; optional packages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType

from textus.core.errors import MissingDependencyError, TextusError, UsageError


def nearest_name(value: str, choices: Iterable[str]) -> str | None:
    """The choice most like `value`, or None where nothing is near."""
    matches = difflib.get_close_matches(value.lower(), list(choices), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown_name_error(kind: str, value: str, choices: Iterable[str]) -> UsageError:
    """The error for an unknown name: it offers the nearest one and lists all."""
    choices = list(choices)
    near = nearest_name(value, choices)
    hint = f"; did you mean {near!r}?" if near else ";"
    shown = value if len(value) <= 60 else value[:57] + "..."
    return UsageError("unknown_name", f"unknown {kind} {shown!r}{hint} known: {', '.join(choices)}")


def import_optional(module: str, name: str) -> ModuleType:
    """Import an optional `module`; without it, one line that names the extra to install.

    Raises MissingDependencyError only where the module itself is missing; TextusError where it is installed and fails
    to import.
    """
    try:
        return import_module(module)
    except ImportError as error:
        if is_not_installed(module, error):
            raise MissingDependencyError(
                "extra_not_installed",
                f"{module} is not installed; it comes with: pip install 'textus[{name}]'",
            ) from error
        raise TextusError(
            "extra_broken",
            f"{module} is installed but cannot be imported ({error}); repair it:"
            f" pip install --force-reinstall 'textus[{name}]'",
        ) from error


def is_not_installed(module: str, error: ImportError) -> bool:
    """Whether an import of `module` failed because it is not installed, and not for a fault inside it."""
    return isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")

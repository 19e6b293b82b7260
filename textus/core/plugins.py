"""What installed packages add to Textus: model families, tasks and commands, by entry points.

A package registers them in its pyproject.toml::

    [project.entry-points."textus.families"]
    tiny = "my_package.model:Tiny"

    [project.entry-points."textus.tasks"]
    my-task = "my_package.task:MyTask"

    [project.entry-points."textus.commands"]
    my-command = "my_package.cli:my_command"
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from textus.core.console import log_notice
from textus.core.errors import TextusError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


def entry_points(group: str, built_in: Collection[str]) -> dict[str, Callable[[], Any]]:
    """Name → loader of what installed packages register in `group`, such as `textus.families`.

    A loader imports and returns the object; it raises TextusError where that fails. A name of `built_in`, or of a
    package earlier in the alphabet, is refused with one line.
    """
    import importlib.metadata  # 20 ms, so only where plugins are looked up

    loaders: dict[str, Callable[[], Any]] = {}
    for point in sorted(importlib.metadata.entry_points(group=group), key=lambda p: (p.name, _package(p))):
        if point.name in built_in or point.name in loaders:
            _warn_once(
                f"plugin {point.name!r} of package {_package(point)} ignored: {group} already has this name"
            )
        else:
            loaders[point.name] = partial(_load, point)
    return loaders


def load_plugins(group: str, built_in: Collection[str]) -> dict[str, Any]:
    """Name → what installed packages register in `group`; one warning line for each that cannot be imported."""
    plugins = {}
    for name, load in entry_points(group, built_in).items():
        try:
            plugins[name] = load()
        except TextusError as error:
            _warn_once(str(error))
    return plugins


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:
        raise TextusError(
            "plugin_broken",
            f"plugin {point.name!r} of package {_package(point)} cannot be loaded"
            f" ({type(error).__name__}: {error}); repair or uninstall the package",
        ) from error


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.module


@cache
def _warn_once(line: str) -> None:
    log_notice(line)

"""Help pages in plain text and Markdown, made from the commands' signatures and docstrings.

cyclopts would import rich for its own pages (0.2 s). The same pages become docs/reference.md.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from textwrap import wrap
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from cyclopts import App

from textus.cli.app import all_commands

INTRODUCTION = "textus: from raw text to a language model that is trained, measured and served."
ENDING = "'textus COMMAND --help' explains one of them.  First steps: textus demo"
EXAMPLE = "Example: "


def summary(function: Callable[..., Any]) -> str:
    """The first line of a command's docstring."""
    return (inspect.getdoc(function) or "").partition("\n")[0]


def example(function: Callable[..., Any]) -> str:
    """The example at the end of a command's docstring."""
    return (inspect.getdoc(function) or "").rpartition(EXAMPLE)[2].strip()


def flat_commands() -> dict[str, Callable[..., Any]]:
    """Every command by its full name, such as 'corpus build'."""
    flat: dict[str, Callable[..., Any]] = {}
    for name, command in all_commands().items():
        if isinstance(command, dict):
            flat |= {f"{name} {subcommand}": function for subcommand, function in command.items()}
        else:
            flat[name] = command
    return flat


def overview(prefix: str = "") -> str:
    """The list of all commands, or of those of one group."""
    commands = {name: function for name, function in flat_commands().items() if name.startswith(prefix)}
    width = max(map(len, commands)) + 2
    lines = []
    for name, function in commands.items():
        first, *more = wrap(summary(function), 96 - width) or [""]
        lines += [f"  {name:{width}}{first}", *(" " * (width + 2) + line for line in more)]
    title = [INTRODUCTION, ""] if not prefix else []
    return "\n".join([*title, f"Usage: textus {prefix or 'COMMAND'} …", "", *lines, "", ENDING])


def page(app: App, name: str) -> str:
    """The help page of one command."""
    function = flat_commands()[name]
    entries = options(app, name)
    width = min(34, max((len(head) for head, _ in entries), default=0) + 2)
    lines = [usage(app, name), "", *wrap(summary(function), 96), ""]
    for head, text in entries:
        first, *more = wrap(text, 96 - width) or [""]
        lines += [
            f"  {head:{width}}{first}" if len(head) < width else f"  {head}\n{' ' * (width + 2)}{first}"
        ]
        lines += [" " * (width + 2) + line for line in more]
    return "\n".join([*lines, "", f"{EXAMPLE}{example(function)}"] if example(function) else lines)


def arguments(app: App, name: str) -> list[Any]:
    """The arguments and flags of a command; groups of flags are flattened."""
    node = app
    for part in name.split():
        node = node[part]
    return [
        argument
        for argument in node.assemble_argument_collection(parse_docstring=False)
        if argument.parse and argument.names != ("*",)
    ]


def usage(app: App, name: str) -> str:
    """One line: the positional arguments in order, then the required flags."""
    parts = []
    for argument in arguments(app, name):
        if argument.index is not None and not argument.name.startswith("--"):
            many = "…" if argument.is_var_positional() else ""
            parts.append(f"{argument.name}{many}" if argument.required or many else f"[{argument.name}]")
        elif argument.required:
            parts.append(f"{argument.name} {metavar(argument)}")
    return f"Usage: textus {name} {' '.join([*parts, '[flags]'])}"


def options(app: App, name: str) -> list[tuple[str, str]]:
    """Each argument and flag as it is typed, with its help and default."""
    rows = []
    for argument in arguments(app, name):
        positional = argument.index is not None and not argument.name.startswith("--")
        head = argument.name if positional or argument.is_flag() else f"{argument.name} {metavar(argument)}"
        default = argument.field_info.default
        shown = default not in (None, False, "", inspect.Parameter.empty) and not positional
        rows.append((head, (argument.parameter.help or "") + (f" [default: {default}]" if shown else "")))
    return rows


def metavar(argument: Any) -> str:
    """The placeholder for a flag's value: the flag's own, or that of its type."""
    if argument.parameter.metavar:
        return str(argument.parameter.metavar)
    kind = argument.hint
    if get_origin(kind) in (Union, UnionType):
        kind = next(arg for arg in get_args(kind) if arg is not NoneType)
    if get_origin(kind) is list:
        kind = get_args(kind)[0]
    return {int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")


def reference(app: App) -> str:
    """The command reference in Markdown: every command with its help page."""
    parts = [
        "# Command reference",
        "",
        "Generated from the code by `make docs`; `tests/test_docs.py` checks that it is current.",
        "Every command also takes `--help`.",
    ]
    for name in flat_commands():
        parts += ["", f"## textus {name}", "", "```text", page(app, name), "```"]
    return "\n".join(parts) + "\n"

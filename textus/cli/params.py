"""Shared by the commands: their result, common flags, and flags made from request objects."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass
from functools import cached_property, partial, update_wrapper
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from cyclopts import Parameter

from textus.core import requests
from textus.core.requests import (
    build_request,
    flag_of,
    options_of,
    read_toml,
    request_values,
    to_toml,
)
from textus.data.read_options import ReadOptions


@dataclass(frozen=True)
class CommandResult:
    """The result of a command: `data` is the one object of `--json`, `text` the same for the terminal."""

    data: dict[str, Any]
    text: str
    exit_code: int = 0


def flag(help: str, name: str | None = None) -> Parameter:
    """A switch that is off unless given; it has no `--no-…` twin."""
    return Parameter(name=name, negative=(), help=help)


def option(help: str, name: str | None = None, metavar: str | None = None) -> Parameter:
    """A flag with a value; a list is given by repeating it."""
    return Parameter(name=name, negative=(), help=help, metavar=metavar)


def field_option(request: type, name: str) -> Parameter:
    """The flag of one field of a request object, for commands that take only this one."""
    (match,) = (option_field for option_field in options_of(request) if option_field.name == name)
    return option(match.metadata["help"], flag_of(match), match.metadata["metavar"])


Json = Annotated[
    bool, flag("Write one JSON object to standard output, everything else to standard error.", "--json")
]
Force = Annotated[bool, flag("Replace the output folder if it exists.")]
ForceFile = Annotated[bool, flag("Replace the output file if it exists.", "--force")]
AsText = Annotated[
    bool, flag("Take the argument as the text itself, even if it looks like a path.", "--text")
]
RowsOut = Annotated[
    Path | None,
    option(
        "Write one row per input to this file, .csv, .tsv or .jsonl; the same command continues after a kill.",
        metavar="FILE",
    ),
]
Out = Annotated[Path, option("The folder to write; refused if it exists.", metavar="FOLDER")]
RunFolder = Annotated[Path, Parameter(name="RUN", help="A run folder.")]
CorpusFolder = Annotated[
    Path, Parameter(name="CORPUS", help="A corpus folder, as 'textus corpus build' writes it.")
]
Rows = Annotated[
    Path, Parameter(name="DATA", help="Labelled rows: csv, tsv, jsonl, json, parquet, or a folder per class.")
]
Columns = Annotated[str | None, field_option(ReadOptions, "columns")]
Encoding = Annotated[str | None, field_option(ReadOptions, "encoding")]
SkipInvalid = Annotated[str | None, field_option(ReadOptions, "skip_invalid")]
Overrides = Annotated[list[str] | None, field_option(requests.Overrides, "overrides")]
TaskName = Annotated[str | None, option("Which task, of runs with several.", "--task", "NAME")]


# ── the flags of request objects ───────────────────────────────────────────────────────────────


class ConfigCommand:
    """A command whose parameter `config` is a request object: its fields become flags, next to --config and
    --print-config. Flags have precedence over the file, the file over the defaults.

    The request class is imported, and the flags are made, when the command is parsed.
    """

    def __init__(self, command: Callable[..., Any], module: str) -> None:
        update_wrapper(self, command, assigned=("__module__", "__name__", "__doc__"))
        self.command, self.module = command, module

    @cached_property
    def request(self) -> Any:
        """The request class, by the name in the command's annotation."""
        return getattr(import_module(self.module), self.command.__annotations__["config"])

    @cached_property
    def flags(self) -> Any:
        """The class of its flags."""
        return flags_of(self.request)

    @property
    def __annotations__(self) -> dict[str, Any]:  # type: ignore[override]
        names = {self.request.__name__: Annotated[self.flags, Parameter(name="*")]}
        return get_type_hints(self.command, localns=names, include_extras=True)

    @property
    def __signature__(self) -> inspect.Signature:
        signature = inspect.signature(self.command)
        parameters = [
            parameter.replace(default=self.flags()) if parameter.name == "config" else parameter
            for parameter in signature.parameters.values()
        ]
        return signature.replace(parameters=parameters)

    def __call__(self, *arguments: Any, config: Any = None, **others: Any) -> Any:
        flags = self.flags() if config is None else config
        file = {} if flags.config is None else read_toml(flags.config, "--config")
        request = build_request(self.request, None, file, f"--config {flags.config}: ")
        request = build_request(self.request, request, given_flags(self.request, flags), "--")
        if flags.print_config:
            return CommandResult(request_values(request), to_toml(request))
        return self.command(*arguments, config=request, **others)


def with_config(module: str) -> Callable[[Callable[..., Any]], ConfigCommand]:
    """`ConfigCommand` of a command; `module` is where the class of its parameter `config` is defined."""
    return partial(ConfigCommand, module=module)


def flags_of(request: type) -> type:
    """A dataclass that the parser fills: a flag for each option of a request, None or False where it is not given."""
    hints, members = get_type_hints(request), list[tuple[str, Any, Any]]()
    for option_field in options_of(request):
        kind, default = hints[option_field.name], option_field.default
        text = option_field.metadata["help"]
        if default not in (None, False, True, "", ()):
            shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
            text += f" [default: {shown}]"
        if kind is bool:
            name = f"--no-{option_field.name.replace('_', '-')}" if default else flag_of(option_field)
            text = f"Leave out: {text}" if default else text
            members.append((option_field.name, Annotated[bool, flag(text, name)], False))
        else:
            parameter = option(text, flag_of(option_field), option_field.metadata["metavar"])
            members.append((option_field.name, Annotated[flag_kind(kind) | None, parameter], None))
    file = option("Take options from this TOML file; flags have precedence.", "--config", "FILE")
    members.append(("config", Annotated[Path | None, file], None))
    print_config = flag("Print the options as TOML for --config, and do nothing else.", "--print-config")
    members.append(("print_config", Annotated[bool, print_config], False))
    annotated = [(name, kind, field(default=default)) for name, kind, default in members]
    return make_dataclass(
        f"{request.__name__}Flags", annotated, frozen=True, namespace={"__module__": __name__}
    )


def flag_kind(kind: Any) -> Any:
    """The type in which a flag is parsed: numbers, paths and strings as they are, `tuple[str, ...]` as a list of
    repeated flags, all other types as one string.
    """
    kinds = (
        [arg for arg in get_args(kind) if arg is not type(None)] if get_origin(kind) is not tuple else [kind]
    )
    if kind == tuple[str, ...]:
        return list[str]
    single = kinds[0] if len(kinds) == 1 else kind
    return single if single in (int, float, str, Path) else str


def given_flags(request: type, flags: Any) -> dict[str, Any]:
    """The options that flags were given for; numbers separated by commas are split."""
    hints, values = get_type_hints(request), dict[str, Any]()
    for option_field in options_of(request):
        value = getattr(flags, option_field.name)
        if value is None or value is False:
            continue
        if hints[option_field.name] is bool:
            value = not option_field.default
        elif get_origin(hints[option_field.name]) is tuple and isinstance(value, str):
            value = value.split(",")
        values[option_field.name] = value
    return values

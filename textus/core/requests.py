"""Request objects: frozen dataclasses whose fields are the options of an entry point, each declared once by `option`.

From the fields come the flags of the command, docs/reference.md, the docstring of the Python function, the TOML of
`--config` and `--print-config`, and the `request` in run.json.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from textus.core.arguments import to_optional_path
from textus.core.config import coerce
from textus.core.errors import DataError, UsageError
from textus.core.names import unknown_name_error

Request = TypeVar("Request")


def option(default: Any, help: str, *, flag: str | None = None, metavar: str | None = None) -> Any:
    """A field of a request object; `flag` is its name on the command line where that differs from the field's."""
    return field(default=default, metadata={"help": help, "flag": flag, "metavar": metavar})


def options_of(cls: type) -> list[Field[Any]]:
    """The options of a request class: its own in their order, then those it inherits."""
    own = inspect.get_annotations(cls)
    return sorted(
        (field for field in fields(cls) if "help" in field.metadata), key=lambda field: field.name not in own
    )


@dataclass(frozen=True)
class RequestBase:
    """The base of request objects: each value is converted to the type of its field, or refused with a UsageError."""

    def __post_init__(self) -> None:
        for option in options_of(type(self)):
            if (value := getattr(self, option.name)) is not option.default:
                object.__setattr__(self, option.name, checked_value(type(self), option.name, value))


def checked_value(cls: type, name: str, value: Any, where: str = "") -> Any:
    """`value` in the type of an option; paths may be strings. UsageError for a value of another type."""
    kind = option_types(cls)[name]
    if "Path" in str(kind):
        value = to_optional_path(value, f"{where}{name}")
    elif isinstance(value, PathLike):
        value = str(value)
    return coerce(kind, value, f"{where}{name}")


@cache
def option_types(cls: type) -> dict[str, Any]:
    """Field → type."""
    return get_type_hints(cls)


@dataclass(frozen=True)
class Overrides(RequestBase):
    """The option `--set`, of requests that build other configs."""

    overrides: tuple[str, ...] = option(
        (),
        "Set any field of any config, such as model.n_layer=2; may be repeated.",
        flag="--set",
        metavar="PATH=VALUE",
    )

    def overrides_for(self, group: str) -> list[str]:
        """The overrides of one group, without its name: `n_layer=2` of `model.n_layer=2`."""
        return [override.partition(".")[2] for override in self.overrides if override.startswith(f"{group}.")]


def build_request(
    cls: type[Request], config: Request | None, options: Mapping[str, Any], where: str = ""
) -> Request:
    """`config`, or one of defaults, with `options` in place of its fields.

    Raises UsageError for an option it does not have (the nearest is offered) or a value of another type; `where` is
    where the options come from, such as the name of a file.
    """
    if config is not None and not isinstance(config, cls):
        raise UsageError(
            "wrong_type", f"config is {type(config).__name__}; give a {cls.__name__}, or keywords"
        )
    names = [option.name for option in options_of(cls)]
    of = f" of {where.rstrip(': ')}" if where.endswith(": ") else ""
    for name in options:
        if name not in names:
            raise unknown_name_error(f"option{of}", name, names)
    values = {name: checked_value(cls, name, value, where) for name, value in options.items()}
    return replace(cls() if config is None else config, **values)  # type: ignore[type-var]


def request_values(config: Any) -> dict[str, Any]:
    """The options of a request as JSON values, without those that are None."""
    values = {option.name: getattr(config, option.name) for option in options_of(type(config))}
    return {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value is not None
    }


def flag_of(option: Field[Any]) -> str:
    """The name of an option on the command line."""
    return str(option.metadata["flag"] or f"--{option.name.replace('_', '-')}")


def as_arguments(config: Any) -> list[str]:
    """The command-line arguments of the options that are not at their default; booleans and lists among them."""
    arguments = list[str]()
    for option in options_of(type(config)):
        if (value := getattr(config, option.name)) == option.default:
            continue
        if isinstance(value, bool):
            arguments.append(flag_of(option) if value else f"--no-{option.name.replace('_', '-')}")
        else:
            for part in value if isinstance(value, tuple) else [value]:
                arguments += [flag_of(option), str(part)]
    return arguments


def to_toml(config: Any) -> str:
    """A request as TOML that `read_toml` reads back; options that are None are comments."""
    values, lines = request_values(config), list[str]()
    for option in options_of(type(config)):
        text = toml_value(values[option.name]) if option.name in values else None
        assignment = f"# {option.name} =" if text is None else f"{option.name} = {text}"
        lines.append(f"# {option.metadata['help']}\n{assignment}")
    return "\n\n".join(lines)


def toml_value(value: Any) -> str:
    """A string, number, boolean, list or mapping as TOML, which writes all but the last as JSON does."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml_value(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


def read_toml(path: Path, flag: str) -> dict[str, Any]:
    """The values of the TOML file of a flag. Raises UsageError where it cannot be read, DataError for other text."""
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError("unreadable_file", f"{flag} {path} cannot be read ({error})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError("unreadable_file", f"{flag} {path} is not TOML: {error}") from error

"""Settings as dataclasses: to JSON and back, and single fields set by a flag such as `model.n_layer=2`.

A dataclass is defined next to what it configures. Pydantic checks values against the field's type; an unknown key is
an error that names the nearest one. Every saved folder carries `VERSION`; other versions are refused.
"""

from __future__ import annotations

import dataclasses
import math
import re
import shlex
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from textus.core.errors import RunError, UsageError
from textus.core.names import unknown_name_error

VERSION = 2
"""The format version of every folder Textus writes (run, corpus, tokenizer, index): raised when a field changes."""

REMAKE_COMMANDS = {
    "run": "textus train CORPUS --out {}",
    "task run": "textus finetune DATA --out {}",
    "corpus": "textus corpus build SOURCE --out {}",
    "index": "textus index build DOCUMENTS --out {}",
    "tokenizer": "textus tokenizer train CORPUS --out {}",
}
"""Kind of folder → the command that makes one, where the folder does not record its own."""
RECORDED_COMMAND = re.compile(r"textus (train|finetune|import|pull|tune|demo) .*")
"""A recorded command line that makes a run; a Python program records its own arguments."""

Config = TypeVar("Config")


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass (nested ones too) as plain JSON values."""
    return dataclasses.asdict(config)


def coerce(kind: Any, value: Any, where: str) -> Any:
    """`value` as the type `kind`; UsageError with the setting, the value and what was expected."""
    from pydantic import TypeAdapter, ValidationError

    try:
        coerced = TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError("invalid_value", f"{where}={value!r}: {first['msg'].lower()}") from error
    if isinstance(coerced, float) and not math.isfinite(coerced):
        raise UsageError("out_of_range", f"{where}={value!r}: must be a finite number")
    return coerced


def parse_value(kind: Any, value: str) -> Any:
    """A command-line value for a field of type `kind`: none (or null) is None where the
    type admits None and has no literal of that name; the parts of a tuple are separated by commas. Else the value as
    written, for `coerce` to convert.
    """
    options = get_args(kind) if get_origin(kind) not in (Literal, tuple) else (kind,)
    literals = [name for option in options if get_origin(option) is Literal for name in get_args(option)]
    if value.lower() in ("none", "null") and type(None) in options and value not in literals:
        return None
    if "," in value and any(get_origin(option) is tuple for option in options):
        return value.split(",")
    return value


def from_dict(cls: type[Config], data: dict[str, Any], where: str = "") -> Config:
    """Build a dataclass from JSON values.

    Raises UsageError for a key it does not have (nearest offered) or a value of the wrong type.
    """
    if not isinstance(data, dict):
        raise UsageError(
            "invalid_value", f"{where.removesuffix('.') or cls.__name__}={data!r:.60} is no group of settings"
        )
    hints = get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    values = {}
    for key, value in data.items():
        if key not in names:
            raise unknown_name_error("setting", f"{where}{key}", [f"{where}{name}" for name in names])
        kind = hints[key]
        if dataclasses.is_dataclass(kind) and isinstance(value, dict):
            values[key] = from_dict(kind, value, f"{where}{key}.")  # type: ignore[arg-type]
        else:
            values[key] = coerce(kind, value, f"{where}{key}")
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        given = field.name in values or not field.init
        if not given and field.default is field.default_factory is dataclasses.MISSING:
            raise UsageError(
                "missing_argument", f"the setting {where}{field.name} is missing; give it a value"
            )
    return cls(**values)


def apply_overrides(config: Config, overrides: list[str]) -> Config:
    """A copy of `config` with overrides such as `model.n_layer=2` applied; UsageError for an unknown setting."""
    for override in overrides:
        path, equals, value = override.partition("=")
        if not equals:
            raise UsageError(
                "invalid_value",
                f"--set {override!r} has no '='; write it as path=value, such as model.n_layer=2",
            )
        config = _apply_override(config, path.split("."), value, path)
    return config


def _apply_override(config: Any, path: list[str], value: str, whole: str) -> Any:
    name, *rest = path
    names = [field.name for field in dataclasses.fields(config)]
    prefix = whole.removesuffix(".".join(path))
    if name not in names:
        raise unknown_name_error("setting", whole, [prefix + field for field in names])
    if rest:
        inner = getattr(config, name)
        if not dataclasses.is_dataclass(inner):
            raise UsageError(
                "invalid_value", f"{prefix}{name} is a single value; write --set {prefix}{name}=VALUE"
            )
        return dataclasses.replace(config, **{name: _apply_override(inner, rest, value, whole)})
    kind = get_type_hints(type(config))[name]
    if dataclasses.is_dataclass(getattr(config, name)):
        raise UsageError(
            "invalid_value", f"{whole} is a group of settings; set one of its fields: {whole}.FIELD=VALUE"
        )
    return dataclasses.replace(config, **{name: coerce(kind, parse_value(kind, value), whole)})


NONE = type(None)
Shape = type | tuple[Any, ...] | dict[str, Any]
"""What a saved value must be: a type; one of several shapes; an object's members, those ending in `?` may be left out;
`{...: shape}` an object whose every member has that shape."""


def check_shape(value: Any, shape: Shape, where: str) -> None:
    """RunError naming the first part of a saved record that is not what Textus writes there."""
    if isinstance(shape, dict):
        check_members(value, shape, where)
    elif isinstance(shape, tuple):
        if not any(matches_shape(value, option) for option in shape):
            check_shape(value, shape[-1], where)
    elif not (isinstance(value, shape) and (shape is bool or not isinstance(value, bool))):
        wanted = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}.get(
            shape, "a number"
        )
        raise RunError("damaged", f"{where} is {value!r:.60}, not {wanted}; it was changed, use a copy")


def check_members(value: Any, shape: dict[Any, Any], where: str) -> None:
    """`check_shape` of an object."""
    check_shape(value, dict, where)
    for key, inner in shape.items():
        name = key if key is ... else key.removesuffix("?")
        for member in value if name is ... else [name]:
            if member in value:
                check_shape(value[member], inner, f"{where}: {member}")
            elif not key.endswith("?"):
                raise RunError(
                    "damaged", f"{where} has no {member!r}; it was changed or cut short, use a copy"
                )


def matches_shape(value: Any, shape: Shape) -> bool:
    """Whether a saved value has a shape."""
    try:
        check_shape(value, shape, "")
    except RunError:
        return False
    return True


def check_version(record: Any, folder: Path, kind: str) -> None:
    """RunError for a folder of another format `version`: one line with the command that makes it again."""
    version = record.get("version") if isinstance(record, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise RunError(
            "damaged", f"{folder} has no version number; it was not written by Textus, or it is damaged"
        )
    if version == VERSION:
        return
    command = str(record.get("command"))
    if not RECORDED_COMMAND.fullmatch(command):
        command = REMAKE_COMMANDS[kind].format(shlex.quote(str(folder)))
    raise RunError(
        "version_unsupported",
        f"{folder} is a {kind} of format {version}, this Textus reads format {VERSION}; make it again: {command}",
    )

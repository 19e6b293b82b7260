"""Single settings from the command line: what `--set path=value` makes of every field of every config (C1)."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

import textus
from tests.raising import raises
from textus.cli.main import main
from textus.core.config import apply_overrides, coerce, from_dict, parse_value
from textus.core.errors import UsageError
from textus.models.nn.rope import RopeScaling
from textus.models.registry import family
from textus.tasks.registry import TASKS, task_class
from textus.training.planner import model_values

CONFIGS = ("Settings", "Config", "Choices")


def config_classes() -> list[type]:
    """Every dataclass of settings in the package."""
    classes = {}
    for module in pkgutil.walk_packages(textus.__path__, "textus."):
        if module.name.startswith(("textus.cli.main", "textus.serving")):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if dataclasses.is_dataclass(value) and name.endswith(CONFIGS):
                classes[value.__module__, name] = value
    return list(classes.values())  # type: ignore[arg-type]


def fields_of() -> Iterator[tuple[type, str, Any]]:
    """(class, name, type) of every field of every config."""
    for cls in config_classes():
        hints = get_type_hints(cls)
        for config_field in dataclasses.fields(cls):
            yield cls, config_field.name, hints[config_field.name]


def literals(kind: Any) -> list[str]:
    """The names that a type admits."""
    parts = get_args(kind) if get_origin(kind) is not Literal else (kind,)
    return [name for part in parts if get_origin(part) is Literal for name in get_args(part)]


LITERALS = [(cls, name, value) for cls, name, kind in fields_of() for value in literals(kind)]
OPTIONAL = [(cls, name) for cls, name, kind in fields_of() if type(None) in get_args(kind)]
TEXTS = [(cls, name) for cls, name, kind in fields_of() if kind is str]
NUMBERS = [(cls, name) for cls, name, kind in fields_of() if float in (kind, *get_args(kind))]


def set_one(cls: type, name: str, value: str) -> Any:
    """The field's value after `--set name=value`, the checks of whole configs left out."""
    kind = get_type_hints(cls)[name]
    return coerce(kind, parse_value(kind, value), name)


def test_configs_are_found() -> None:
    assert {"DecoderConfig", "LinearConfig", "TrainSettings"} <= {cls.__name__ for cls in config_classes()}
    assert ("none") in {value for _, _, value in LITERALS}
    assert len(LITERALS) > 50
    assert len(TEXTS) > 10


@pytest.mark.promise("Robustness", "`--set` takes every literal of every config")
@pytest.mark.parametrize(("cls", "name", "value"), LITERALS)
def test_every_literal_of_every_config_can_be_set(cls: type, name: str, value: str) -> None:
    """C1: `model.position=none`, `model.average=none`, `task.class_weights=none` became None and were refused."""
    assert set_one(cls, name, value) == value
    assert model_values([f"{name}={value}"], cls) == {name: value}


@pytest.mark.parametrize("word", ["none", "None", "NONE", "null"])
@pytest.mark.parametrize(("cls", "name"), OPTIONAL)
def test_none_is_none_where_the_type_admits_it(cls: type, name: str, word: str) -> None:
    assert set_one(cls, name, word) is None
    assert model_values([f"{name}={word}"], cls) == {name: None}


@pytest.mark.parametrize("word", ["none", "NONE", "null", "true", "off", "1.50", "nan", "a,b", "[1]"])
@pytest.mark.parametrize(
    ("cls", "name"), [item for item in TEXTS if item[1] in ("no_relation_label", "targets", "split")]
)
def test_a_text_is_what_was_written(cls: type, name: str, word: str) -> None:
    """C1: `task.no_relation_label=NONE` is the name of a relation."""
    assert set_one(cls, name, word) == word


@pytest.mark.parametrize("word", ["nan", "inf", "-inf", "Infinity", "1e999"])
@pytest.mark.parametrize(("cls", "name"), NUMBERS)
def test_numbers_that_are_not_finite_are_refused(cls: type, name: str, word: str) -> None:
    with raises(UsageError, "out_of_range", f"{name}='{word}'"):
        set_one(cls, name, word)


@dataclass(frozen=True)
class Mixed:
    """Types that no config has yet, and those that two have."""

    both: Literal["none", "some"] | None = "some"
    pair: tuple[int, int] = (1, 2)
    many: tuple[float, ...] | None = None
    bias: bool | Literal["qkv"] = False
    flag: bool = False
    n: int | None = 3
    scaling: RopeScaling | None = field(default=None)


@pytest.mark.parametrize(
    ("assignment", "name", "expected"),
    [
        ("both=none", "both", "none"), ("both=null", "both", None), ("pair=3,4", "pair", (3, 4)),
        ("many=1,2.5", "many", (1.0, 2.5)), ("many=none", "many", None), ("bias=qkv", "bias", "qkv"),
        ("bias=true", "bias", True), ("bias=off", "bias", False), ("flag=on", "flag", True), ("flag=no", "flag", False),
        ("n=null", "n", None), ("n=4", "n", 4), ("scaling=none", "scaling", None),
    ],
)  # fmt: skip
def test_a_value_becomes_what_its_type_shows(assignment: str, name: str, expected: Any) -> None:
    result = getattr(apply_overrides(Mixed(), [assignment]), name)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    "assignment", ["flag=none", "flag=maybe", "pair=none", "pair=1", "pair=1,2,3", "n=some", "n=1.5"]
)
def test_a_value_of_another_type_is_refused_by_name(assignment: str) -> None:
    name = assignment.partition("=")[0]
    with pytest.raises(UsageError, match=name):
        apply_overrides(Mixed(), [assignment])


@pytest.mark.parametrize("name", TASKS)
def test_settings_of_tasks_survive_their_record(name: str) -> None:
    cls = task_class(name)
    assert from_dict(cls.config, dataclasses.asdict(cls.config())) == cls.config()


def test_none_reaches_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """C1 from end to end, by the commands of the documentation."""
    assert family("decoder")[1](vocab_size=8, position="none").position == "none"
    rows = "text,label\n" + "".join(f"a good film {n},{'ab'[n % 2]}\n" for n in range(60))
    (tmp_path / "rows.csv").write_text(rows)
    for more in (
        ["--model", "linear", "--set", "model.average=none", "--set", "model.words=1,1"],
        ["--model", "lstm", "--epochs", "1", "--set", "model.d_model=8", "--set", "task.class_weights=none"],
    ):
        words = ["finetune", str(tmp_path / "rows.csv"), "--out", str(tmp_path / "run"), "--force", *more]
        assert main(words) == 0, capsys.readouterr().err

"""Request objects: one declaration makes flags, the TOML of --config, and the checks of values made in Python."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from raising import raises

import textus
from textus.cli.main import main
from textus.core.errors import UsageError
from textus.core.requests import as_arguments, build_request, option_types, options_of, to_toml

FILLED: dict[str, dict[str, Any]] = {
    "training.config.PretrainConfig": {"model": "lstm", "depth": 2, "steps": 7, "overrides": ("train.a=4", "x=a,b")},
    "finetuning.config.FinetuneConfig": {"model": "linear", "epochs": 2, "columns": "a", "overrides": ("task.x='q'",)},
    "finetuning.config.TuneConfig": {"model": "linear", "trials": 3, "skip_invalid": "5%"},
    "augment.config.AugmentConfig": {"ops": "swap,typos", "rate": 0.25, "copies": 2},
    "augment.config.ClozeConfig": {"questions": 3, "dropped": 0.0},
    "evaluation.config.PredictConfig": {"encoding": "gb18030", "ensemble": "vote"},
    "evaluation.config.EvalConfig": {"samples": False, "slices": ("length", "città"), "entities": Path("a b/c")},
    "evaluation.config.FewShotConfig": {"template": 'Say "{text}"\n→ {label}', "shots": (0, 3)},
    "generation.params.SamplingParams": {"temperature": 0.0, "stop": ("\n\n", "–"), "sliding": True},
    "pipelines.config.EmbedConfig": {"columns": "text=a"},
    "pipelines.config.IndexConfig": {"columns": "0=text", "skip_invalid": "all"},
    "pipelines.config.RewriteConfig": {"beams": 2, "length_penalty": -0.5},
    "pipelines.config.AskConfig": {"top": 3, "threshold": 0.5, "run": Path("a b")},
    "tasks.config.ValidateConfig": {"task": "tagging", "overrides": ("task.x=1",)},
}  # fmt: skip
"""Class → options that are not at their default: strings with quotes, line ends and other letters among them."""


def filled(name: str) -> Any:
    module, _, cls = name.rpartition(".")
    return getattr(import_module(f"textus.{module}"), cls)(**FILLED[name])


def test_every_request_class_is_tried() -> None:
    public = {name for name in textus.__dir__() if name.endswith(("Config", "Params"))}
    assert public == {name.rpartition(".")[2] for name in FILLED}


@pytest.mark.promise("Command line", "--print-config writes what --config reads, whatever the values")
@pytest.mark.parametrize("name", FILLED)
def test_toml_reads_back_as_the_same_request(name: str) -> None:
    request = filled(name)
    assert build_request(type(request), None, tomllib.loads(to_toml(request))) == request


def test_a_toml_that_lost_a_value_is_seen() -> None:
    request = filled("augment.config.AugmentConfig")
    shorter = to_toml(request).replace("copies = 2", "copies = 1")
    assert build_request(type(request), None, tomllib.loads(shorter)) != request


POSITIONAL = {
    "train": ["C"],
    "finetune": ["D"],
    "augment": ["D"],
    "evaluate": ["R", "--on", "D"],
    "validate": ["D"],
}
REQUESTS = {
    "train": "training.config.PretrainConfig",
    "finetune": "finetuning.config.FinetuneConfig",
    "augment": "augment.config.AugmentConfig",
    "evaluate": "evaluation.config.EvalConfig",
    "validate": "tasks.config.ValidateConfig",
}


@pytest.mark.parametrize("command", REQUESTS)
def test_flags_make_the_request_that_was_turned_into_flags(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    request = filled(REQUESTS[command])
    out = ["--out", "O"] if command in ("train", "finetune", "augment") else []
    assert main([command, *POSITIONAL[command], *out, *as_arguments(request), "--print-config"]) == 0
    assert build_request(type(request), None, tomllib.loads(capsys.readouterr().out)) == request


@pytest.mark.promise("Command line", "A run made from --config is byte for byte the run of the flags")
def test_a_run_of_a_config_file_is_the_run_of_its_flags(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--tokenizer", "char", "--steps", "3"]
    flags += ["--set", "model.n_layer=1", "--set", "model.d_model=16", "--set", "model.n_head=2"]
    train = ["train", str(corpus), "--out"]
    assert main([*train, str(tmp_path / "a"), *flags, "--print-config"]) == 0
    file = tmp_path / "train.toml"
    file.write_text(capsys.readouterr().out, encoding="utf-8")
    assert not (tmp_path / "a").exists(), "--print-config does nothing else"
    assert main([*train, str(tmp_path / "a"), *flags]) == 0
    first = tmp_path / "a" / "run.json"
    same_compute = ["--compute-from", str(tmp_path / "a")]
    assert main([*train, str(tmp_path / "b"), "--config", str(file), *same_compute]) == 0
    requests = [json.loads((tmp_path / name / "run.json").read_text())["request"] for name in "ab"]
    assert requests[0] == {key: value for key, value in requests[1].items() if key != "compute_from"}
    assert requests[0]["steps"] == 3, first
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def test_a_flag_has_precedence_over_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "train.toml"
    file.write_text('steps = 5\ndepth = 2\nmodel = "lstm"\n', encoding="utf-8")
    assert main(["train", "C", "--out", "O", "--config", str(file), "--steps", "9", "--print-config"]) == 0
    values = tomllib.loads(capsys.readouterr().out)
    assert (values["steps"], values["depth"], values["model"]) == (9, 2, "lstm")


@pytest.mark.promise("Command line", "A wrong --config is refused in one line with the key and the value")
@pytest.mark.parametrize(
    ("text", "code", "values"),
    [
        (
            "stesp = 5",
            "unknown_name",
            ("stesp", "steps"),
        ),
        (
            'steps = "many"',
            "invalid_value",
            ("steps", "many"),
        ),
        (
            "steps = [1, 2]",
            "invalid_value",
            ("steps", "[1, 2]"),
        ),
        (
            "steps = 1.5",
            "invalid_value",
            ("steps", "1.5"),
        ),
        (
            "[steps]\nvalue = 1",
            "invalid_value",
            ("steps",),
        ),
        (
            "overrides = [1]",
            "invalid_value",
            ("overrides",),
        ),
        (
            "steps = ",
            "unreadable_file",
            ("train.toml",),
        ),
        (
            "\xff",
            "unreadable_file",
            ("train.toml",),
        ),
        (
            "steps = 0",
            "out_of_range",
            ("0",),
        ),
    ],
)
def test_a_wrong_config_file_is_refused_in_one_line(
    text: str,
    code: str,
    values: tuple[str, ...],
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "train.toml"
    file.write_bytes(text.encode("latin-1"))
    assert main(["train", str(corpus), "--out", str(tmp_path / "run"), "--config", str(file)]) != 0
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("textus: ")
    assert f"[{code}]" in line
    assert [value for value in values if value not in line] == [], line
    assert not (tmp_path / "run").exists()


def test_a_config_file_that_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "C", "--out", "O", "--config", "none.toml"]) == 2
    assert "none.toml" in capsys.readouterr().err


WRONG: dict[str, Any] = {
    "training.config.PretrainConfig": ("steps", [3]),
    "finetuning.config.FinetuneConfig": ("epochs", "many"),
    "finetuning.config.TuneConfig": ("trials", "many"),
    "augment.config.AugmentConfig": ("ops", ["swap"]),
    "augment.config.ClozeConfig": ("questions", "many"),
    "evaluation.config.PredictConfig": ("ensemble", 3),
    "evaluation.config.EvalConfig": ("slices", "length"),
    "evaluation.config.FewShotConfig": ("shots", "0,many"),
    "pipelines.config.EmbedConfig": ("columns", {"text": "a"}),
    "pipelines.config.IndexConfig": ("encoding", 8),
    "tasks.config.ValidateConfig": ("task", 3),
}


@pytest.mark.promise("Command line", "A request made in Python is checked like one of flags")
@pytest.mark.parametrize("name", WRONG)
def test_a_value_of_another_type_is_refused_where_the_object_is_made(name: str) -> None:
    option, value = WRONG[name]
    with raises(UsageError, "invalid_value", option):
        replace(filled(name), **{option: value})


def test_a_path_may_be_a_string_and_a_list_a_tuple() -> None:
    config = textus.EvalConfig(entities="a/b", slices=["length"])  # type: ignore[arg-type]
    assert (config.entities, config.slices) == (Path("a/b"), ("length",))


@pytest.mark.parametrize("name", FILLED)
def test_every_option_has_a_help_and_a_type(name: str) -> None:
    cls = type(filled(name))
    assert all(option.metadata["help"] and option.name in option_types(cls) for option in options_of(cls))

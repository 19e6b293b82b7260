"""Installed packages add families, tasks and commands by entry points; broken and clashing ones are reported."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.raising import raises
from textus.cli.main import main
from textus.core.errors import TextusError, UsageError
from textus.core.plugins import entry_points
from textus.models.registry import family, family_names
from textus.tasks.registry import registered_tasks, task_class, task_from_record

BIGRAM = """
from dataclasses import dataclass

import torch
from torch import nn

from textus.models.contract import LanguageModel


@dataclass
class BigramConfig:
    vocab_size: int = 16
    context_length: int | None = None


class LastId:
    can_rewind = False

    def __init__(self, lengths):
        self.lengths = lengths

    def select(self, rows):
        return LastId(self.lengths[rows])

    def join(self, other):
        return LastId(torch.cat([self.lengths, other.lengths]))


class Bigram(LanguageModel):
    config_class = BigramConfig

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.table = nn.Embedding(config.vocab_size, config.vocab_size)

    def forward(self, ids, cache=None, lengths=None):
        if cache is not None:
            cache.lengths = cache.lengths + (ids.shape[1] if lengths is None else lengths)
        return self.table(ids)

    def new_cache(self, batch_size, length, source=None):
        return LastId(torch.zeros(batch_size, dtype=torch.long))
"""

COMMAND = '''
def greet(name: str, *, loud: bool = False) -> None:
    """Greet somebody."""
    print(name.upper() if loud else name)
'''


def install(folder: Path, package: str, code: str, points: str) -> None:
    """A package as pip leaves it: a module, and a dist-info folder with its entry points."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{package}.py").write_text(code)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on sys.path with a package that adds the family `bigram`."""
    folder = tmp_path / "site"
    install(folder, "textus_bigram", BIGRAM, "[textus.families]\nbigram = textus_bigram:Bigram\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "textus_bigram", raising=False)
    return folder


def test_family_of_a_package_trains_and_generates(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("\n\n".join(f"The fox ran to river {n}." for n in range(200)))
    corpus, run = str(tmp_path / "corpus"), str(tmp_path / "run")
    assert main(["corpus", "build", str(tmp_path / "text.txt"), "--out", corpus]) == 0
    train = ["train", corpus, "--model", "bigram", "--tokenizer", "char", "--steps", "3", "--out", run]
    assert main(train) == 0
    capsys.readouterr()
    assert main(["generate", run, "The", "--max-tokens", "4"]) == 0
    assert capsys.readouterr().out.startswith("The")
    assert main(["show", run]) == 0
    assert "bigram" in capsys.readouterr().out


def test_family_names_list_those_of_packages(site: Path) -> None:
    assert "bigram" in family_names()
    with raises(UsageError, "unknown_name", "bigrm", "'bigram'"):
        family("bigrm")


def test_broken_package_is_named(site: Path) -> None:
    install(site, "textus_broken", "import a_missing_module", "[textus.families]\nbad = textus_broken:Bad\n")
    assert "bad" in family_names()  # listed without an import
    with raises(TextusError, "plugin_broken", "textus_broken", "a_missing_module"):
        family("bad")


def test_taken_name_is_refused_with_one_line(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = "[textus.families]\nlstm = textus_second:Bigram\nbigram = textus_second:Bigram\n"
    install(site, "textus_second", BIGRAM, points)
    for _ in range(2):
        assert family("bigram")[0].__module__ == "textus_bigram"
        assert family("lstm")[0].__module__ == "textus.models.rnn"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2, lines
    assert all("textus_second" in line for line in lines)


def test_packages_without_entry_points_add_nothing() -> None:
    assert entry_points("textus.families", ()) == {}


SHOUTING = """
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch

from textus.core.errors import DataError
from textus.metrics.resampling import estimate
from textus.tasks.base import Example, Task


@dataclass(frozen=True)
class ShoutingSettings:
    dropout: float = 0.0


class Shouting(Task):
    name = "shouting"
    config = ShoutingSettings

    @classmethod
    def from_records(cls, settings, records):
        task = cls(settings, ["calm", "loud"])
        counts = Counter(record.values["loud"] for record in records)
        task.label_counts = [counts[False], counts[True]]
        return task

    @classmethod
    def row_parser(cls, settings, records, *, labelled):
        def parse(record):
            if labelled and type(record.values.get("loud")) is not bool:
                raise DataError("invalid_row", f"{record.where}: 'loud' is no truth value")
            label = int(record.values["loud"]) if labelled else None
            return Example((record.values["text"],), label, record.where)

        return parse

    def head_spec(self):
        return {"kind": "sequence", "n_labels": 2, "dropout": self.settings.dropout}

    def label_tensor(self, labels, length):
        return torch.tensor(labels)

    def predict(self, head, hidden, batch):
        return head.predict(hidden, batch.mask).argmax(1).tolist()

    def metrics(self, examples, outputs, *, intervals=True):
        right = [example.label == output for example, output in zip(examples, outputs)]
        return {"accuracy": estimate(np.asarray(right, dtype=float), intervals=intervals)}

    def to_json(self, example, output):
        return {"loud": bool(output)}

    def answer_columns(self):
        return ["loud"]
"""


@pytest.fixture
def task_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on sys.path with a package that adds the task `shouting`, by the required methods alone."""
    folder = tmp_path / "site"
    install(folder, "textus_shouting", SHOUTING, "[textus.tasks]\nshouting = textus_shouting:Shouting\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "textus_shouting", raising=False)
    return folder


def test_task_of_a_package_is_fine_tuned_evaluated_and_predicted_with(
    task_site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": f"WOLF {n}!" if n % 2 else f"a lamb {n}", "loud": bool(n % 2)} for n in range(40)]
    data, run, out = tmp_path / "rows.jsonl", str(tmp_path / "run"), tmp_path / "answers.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    train = [
        "finetune",
        str(data),
        "--task",
        "shouting",
        "--model",
        "gru",
        "--tokenizer",
        "char",
        "--epochs",
        "8",
    ]
    small = ["model.n_layer=1", "model.d_model=32", "optim.rate=0.02"]
    assert main([*train, *(word for each in small for word in ("--set", each)), "--out", run]) == 0
    capsys.readouterr()
    assert main(["evaluate", run, "--on", str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"]["value"] == 1
    assert main(["predict", run, "a LION", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answers"] == [{"loud": True}]
    assert main(["predict", run, str(data), "--out", str(out)]) == 0
    assert [json.loads(line)["loud"] for line in out.read_text().splitlines()] == [
        row["loud"] for row in rows
    ]
    assert main(["show", run]) == 0
    assert "shouting" in capsys.readouterr().out
    assert main(["validate", str(data), "--task", "shouting"]) == 0


def test_a_run_of_a_task_whose_package_is_gone_names_it(
    task_site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "shouting" in registered_tasks()
    with raises(UsageError, "unknown_name", "shoutin", "'shouting'"):
        task_class("shoutin")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(task_site)])
    assert "shouting" not in registered_tasks()
    with raises(UsageError, "unknown_name", "shouting"):
        task_from_record({"task": "shouting", "task_settings": {}, "labels": []})


def test_broken_and_clashing_tasks_are_named(task_site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = "[textus.tasks]\ntagging = textus_rival:Tagging\nbad = textus_rival:Bad\n"
    install(task_site, "textus_rival", "import a_missing_module", points)
    assert task_class("tagging").__module__ == "textus.tasks.tagging"
    with raises(TextusError, "plugin_broken", "textus_rival", "a_missing_module"):
        task_class("bad")
    assert capsys.readouterr().err.count("textus_rival") == 1


def test_command_of_a_package_runs_and_has_help(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(site, "textus_greet", COMMAND, "[textus.commands]\ngreet = textus_greet:greet\n")
    assert main(["greet", "world", "--loud"]) == 0
    assert capsys.readouterr().out == "WORLD\n"
    assert main(["greet", "--help"]) == 0
    assert "--loud" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert "Greet somebody." in capsys.readouterr().out
    assert main(["greet"]) == 2
    assert "name" in capsys.readouterr().err.lower()


def test_broken_and_taken_commands_are_reported_and_help_works(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = "[textus.commands]\nsulk = textus_sulk:sulk\ntrain = textus_sulk:train\n"
    install(site, "textus_sulk", "import a_missing_module", points)
    assert main(["--help"]) == 0
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert len(lines) == 2, lines
    assert all("textus_sulk" in line for line in lines)
    assert "a_missing_module" in shown.err
    assert "sulk" not in shown.out

"""Installed packages add families and commands by entry points; broken and clashing ones are reported in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.raising import raises
from textus.cli.main import main
from textus.core.errors import TextusError, UsageError
from textus.core.plugins import entry_points
from textus.models.registry import family, family_names

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

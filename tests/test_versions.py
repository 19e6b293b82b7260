"""Folders of another format version are refused in one line that has the command which makes them again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from raising import raises

from textus import tokenizers
from textus.api import Run, open_run
from textus.core.config import VERSION
from textus.core.errors import RunError
from textus.data.corpus import open_corpus
from textus.data.passages import Passage
from textus.pipelines.search_index import Index, build


def at_version(folder: Path, copy: Path, file: str, key: str, version: int | None, **more: object) -> Path:
    """A copy of a folder whose record has another version, or (None) no such field."""
    shutil.copytree(folder, copy)
    record = json.loads((copy / file).read_text()) | {key: version} | more
    if version is None:
        del record[key]
    (copy / file).write_text(json.dumps(record))
    return copy


def refused(open_folder: Callable[[Path], object], folder: Path, version: int, command: str) -> None:
    with raises(RunError, "version_unsupported", str(folder), f"format {version}", command) as caught:
        open_folder(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", [1, VERSION + 1])
def test_run_of_another_version_is_refused(trained: Path, tmp_path: Path, version: int) -> None:
    command = "textus train work/corpus --preset 1min --out work/run"
    run = at_version(trained, tmp_path / "run", "run.json", "version", version, command=command)
    refused(open_run, run, version, command)


def test_run_without_a_recorded_command_names_the_usual_one(trained: Path, tmp_path: Path) -> None:
    run = at_version(trained, tmp_path / "a run", "run.json", "version", 1, command="textus -c 'code'")
    refused(open_run, run, 1, f"textus train CORPUS --out '{run}'")


@pytest.mark.parametrize("version", [1, VERSION + 1])
def test_task_run_of_another_version_is_refused(linear: Run, tmp_path: Path, version: int) -> None:
    run = at_version(linear.path, tmp_path / "run", "run.json", "version", version, command=None)
    refused(open_run, run, version, f"textus finetune DATA --out {run}")


@pytest.mark.parametrize("version", [1, VERSION + 1])
def test_corpus_of_another_version_is_refused(corpus: Path, tmp_path: Path, version: int) -> None:
    folder = at_version(corpus, tmp_path / "corpus", "corpus.json", "version", version)
    refused(open_corpus, folder, version, f"textus corpus build SOURCE --out {folder}")


@pytest.mark.parametrize(("recorded", "version"), [(None, 1), (VERSION + 1, VERSION + 1)])
def test_tokenizer_of_another_version_is_refused(tmp_path: Path, recorded: int | None, version: int) -> None:
    tokenizers.train("char", ["abc"]).save(tmp_path / "now")
    assert tokenizers.load(tmp_path / "now").encode("abc")
    folder = at_version(
        tmp_path / "now", tmp_path / "other", "tokenizer_config.json", "textus_version", recorded
    )
    refused(tokenizers.load, folder, version, f"textus tokenizer train CORPUS --out {folder}")


@pytest.mark.parametrize("version", [1, VERSION + 1])
def test_index_of_another_version_is_refused(tmp_path: Path, version: int) -> None:
    pytest.importorskip("bm25s")
    index = build([Passage("a fox", 0, "a"), Passage("a wood", 1, "b")], tmp_path / "now", bm25=True)
    folder = at_version(index.path, tmp_path / "index", "index.json", "version", version)
    refused(Index, folder, version, f"textus index build DOCUMENTS --out {folder}")


def test_a_log_has_the_learning_rate_and_the_schedules_factor(trained: Path) -> None:
    run = json.loads((trained / "run.json").read_text())
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert steps
    for line in steps:
        assert 0 < line["lr_factor"] <= 1
        assert line["lr"] == pytest.approx(line["lr_factor"] * run["settings"]["optim"]["rate"])

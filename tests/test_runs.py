"""Runs by their commands, on a corpus: finished ones, moved ones, and those taken up again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from raising import raises

from textus import tokenizers
from textus.core.errors import RunError, TextusError
from textus.core.io import read_json, write_json
from textus.runs.store import open_run
from textus.training.pretrain import recorded_corpus

SMALL = ["model.n_layer=1", "model.d_model=16", "model.n_head=2"]


@pytest.mark.promise(
    "Training", "A finished run is reported as finished; another corpus or tokenizer is refused"
)
def test_a_finished_run_is_reported_and_changes_nothing(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from textus.training.pretrain import resume

    before = (trained / "run.json").read_bytes()
    resume(trained)
    assert "is finished (12 steps); nothing to resume" in capsys.readouterr().err
    assert (trained / "run.json").read_bytes() == before


def unfinished(trained: Path, path: Path) -> Path:
    shutil.copytree(trained, path)
    write_json(path / "run.json", {**read_json(path / "run.json"), "status": "training"})
    return path


def test_resume_refuses_another_corpus_and_another_tokenizer(trained: Path, tmp_path: Path) -> None:
    from textus.api import build_corpus
    from textus.training.pretrain import resume

    (tmp_path / "other.txt").write_text("Quite another text, of a few words. " * 9)
    other = build_corpus(tmp_path / "other.txt", out=tmp_path / "other").path
    run = unfinished(trained, tmp_path / "run")
    record = read_json(run / "run.json")
    corpus = {**record["corpus"], "path": str(other)}
    write_json(run / "run.json", {**record, "corpus": corpus})
    with raises(TextusError, "data_changed"):
        resume(run)
    write_json(run / "run.json", {**record, "corpus": {**corpus, "path": str(tmp_path / "gone")}})
    with raises(TextusError, "not_found", "gone"):
        resume(run)
    write_json(run / "run.json", record)
    tokenizers.train("char", ["quite another"]).save(run)
    with raises(TextusError, "data_changed"):
        resume(run)


@pytest.mark.promise(
    "Robustness", "A moved corpus or labelled file is found again; another parent is refused"
)
def test_a_run_whose_corpus_was_moved_is_resumed_from_where_it_is_now(
    trained: Path, corpus: Path, tmp_path: Path
) -> None:
    """C23: the new place is recorded; another corpus is refused there as well."""
    from textus.api import build_corpus, resume

    run = unfinished(trained, tmp_path / "run")
    (run / "model.safetensors").unlink()
    record = read_json(run / "run.json")
    write_json(run / "run.json", {**record, "corpus": {**record["corpus"], "path": str(tmp_path / "gone")}})
    with raises(RunError, "not_found", "gone"):
        resume(run)
    (tmp_path / "other.txt").write_text("Quite another text, of a few words. " * 9)
    other = build_corpus(tmp_path / "other.txt", out=tmp_path / "other").path
    with raises(RunError, "data_changed"):
        resume(run, corpus=other)
    moved = Path(shutil.copytree(corpus, tmp_path / "moved"))
    resume(run, corpus=moved)
    assert (run / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    assert read_json(run / "run.json")["corpus"]["path"] == str(moved)


def test_the_new_place_of_a_corpus_is_recorded_at_once(trained: Path, corpus: Path, tmp_path: Path) -> None:
    """C23: also where the resumed training is killed before it writes anything else."""
    run = unfinished(trained, tmp_path / "run")
    moved = Path(shutil.copytree(corpus, tmp_path / "moved"))
    recorded_corpus(open_run(run), moved)
    assert read_json(run / "run.json")["corpus"]["path"] == str(moved)


def test_a_run_taken_up_by_the_command_ends_as_it_did(trained: Path, tmp_path: Path) -> None:
    from textus.training.pretrain import resume

    run = unfinished(trained, tmp_path / "run")
    (run / "model.safetensors").unlink()
    for step in (8, 12):
        shutil.rmtree(run / "state" / f"step-{step}", ignore_errors=True)
    resume(run)
    assert (run / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    assert open_run(run).finished


def test_a_corpus_smaller_than_a_context_shrinks_it_and_missing_validation_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from textus.api import train
    from textus.data.corpus import CorpusSettings
    from textus.data.corpus import build as build_corpus

    (tmp_path / "tiny.txt").write_text("Once upon a time.")
    tiny = build_corpus([tmp_path / "tiny.txt"], tmp_path / "tiny", settings=CorpusSettings(split="none"))
    run = train(tiny.path, tokenizer="char", steps=3, overrides=SMALL, out=tmp_path / "run")
    err = capsys.readouterr().err
    assert "fewer than a context of 128: the context is 18" in err
    assert "no validation text" in err
    assert run.record["config"]["context_length"] == 18
    assert run.record["weights"]["why"] == "last"

"""Training of models that count: what it is asked and cannot do is refused, and it can be stopped anywhere.

Equal means equal bytes of the final weights; for each promise of going on a broken one must be seen.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import textus
from textus.core.errors import UsageError
from textus.core.io import read_json
from textus.data.batch import Batch
from textus.models.hmm import HMM
from textus.models.ngram import NGram
from textus.runs.store import RunFolder
from textus.training.trainer import TrainingInterrupted

TEXTUS = str(Path(sys.executable).parent / "textus")
PASSES = 8
HMM_WORDS = ["model.n_state=5", f"model.passes={PASSES}", "train.context_length=200", "train.batch_size=1"]


@pytest.fixture(scope="module")
def characters(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "characters"
    textus.train_tokenizer(corpus, kind="char", out=folder)
    return folder


def trained_hmm(corpus: Path, tokenizer: Path, out: Path, settings: list[str] = HMM_WORDS) -> textus.Run:
    return textus.train(corpus, model="hmm", tokenizer=tokenizer, overrides=settings, out=out)


@pytest.fixture(scope="module")
def whole(corpus: Path, characters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An HMM trained without a break. Tests must not change it."""
    return trained_hmm(corpus, characters, tmp_path_factory.mktemp("runs") / "whole").path


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def log(run: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


# ── words ──────────────────────────────────────────────────────────────────────────────────────

ONCE = "ngram counts, so this does nothing; it reads the corpus once; leave it out"
PASS = "hmm counts, so this does nothing; how often it reads the corpus is --set model.passes=N"
SAVED = "hmm counts, so this does nothing; every finished pass is saved; leave it out"
NOTHING = "ngram counts, so this does nothing; nothing is measured or chosen for it; leave it out"
OWN = "ngram counts, so this does nothing; its own settings are model.order"
OWN_HMM = "hmm counts, so this does nothing; its own settings are model.n_state, model.passes, model.prior"


@pytest.mark.promise(
    "Families",
    "Options that count-based models do not support are refused with the alternative; a preset has no "
    "effect on them and is reported once",
)
@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("ngram", {"steps": 30}, f"--steps 30: {ONCE}"),
        ("hmm", {"steps": 30}, f"--steps 30: {PASS}"),
        ("ngram", {"depth": 4}, f"--depth 4: {OWN}"),
        ("hmm", {"depth": 4}, f"--depth 4: {OWN_HMM}"),
        ("ngram", {"checkpoint_every": 5}, f"--checkpoint-every 5: {ONCE}"),
        ("hmm", {"checkpoint_every": 5}, f"--checkpoint-every 5: {SAVED}"),
        ("ngram", {"compute_from": Path("run")}, f"--compute-from run: {NOTHING}"),
        ("ngram", {"overrides": ["compute.workers=2"]}, f"--set compute.workers=2: {NOTHING}"),
        ("ngram", {"overrides": ["optim.rate=0.1"]}, f"--set optim.rate=0.1: {OWN}"),
        ("hmm", {"overrides": ["optim.warmup=3"]}, f"--set optim.warmup=3: {OWN_HMM}"),
        ("hmm", {"overrides": ["train.optim.rate=1"]}, f"--set train.optim.rate=1: {OWN_HMM}"),
        ("hmm", {"overrides": ["train.steps=3"]}, f"--set train.steps=3: {PASS}"),
        ("hmm", {"overrides": ["train.checkpoint_every=3"]}, f"--set train.checkpoint_every=3: {SAVED}"),
        ("ngram", {"overrides": ["train.log_every=3"]}, f"--set train.log_every=3: {OWN}"),
        ("ngram", {"overrides": ["train.micro_batches=3"]}, f"--set train.micro_batches=3: {OWN}"),
        ("ngram", {"overrides": ["train.evaluate_every=3"]}, f"--set train.evaluate_every=3: {OWN}"),
    ],
)
def test_what_counting_cannot_do_is_refused_before_anything_is_made(
    corpus: Path, tmp_path: Path, model: str, options: dict[str, Any], message: str
) -> None:
    folders = set(corpus.rglob("*"))
    with pytest.raises(UsageError) as error:
        textus.train(corpus, model=model, tokenizer="word", out=tmp_path / "run", **options)
    assert str(error.value) == message
    assert not (tmp_path / "run").exists()
    assert set(corpus.rglob("*")) == folders


def test_what_counting_can_do_is_done(corpus: Path, characters: Path, tmp_path: Path) -> None:
    run = textus.train(
        corpus, model="ngram", tokenizer=characters, out=tmp_path / "run", seed=3,
        overrides=["model.order=2", "train.batch_size=2", "train.context_length=100", "train.seed=4"],
    )  # fmt: skip
    kept = run.record["settings"]
    assert (kept["batch_size"], kept["context_length"], kept["seed"]) == (2, 100, 4)
    assert run.record["config"]["order"] == 2


def test_a_preset_that_bounds_nothing_is_reported_once(
    corpus: Path, characters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    textus.train(corpus, model="ngram", tokenizer=characters, out=tmp_path / "run", preset="3min")
    err = capsys.readouterr().err
    assert err.count("ngram counts and takes as long as that takes: --preset 3min is ignored\n") == 1
    textus.train(corpus, model="ngram", tokenizer=characters, out=tmp_path / "plain")
    assert "preset" not in capsys.readouterr().err


# ── stopping and going on ──────────────────────────────────────────────────────────────────────


class Killed(BaseException):
    """What a kill looks like from inside: nothing that follows is done."""


def killed(
    monkeypatch: pytest.MonkeyPatch, name: str, owner: type, at: int, corpus: Path, tokenizer: Path, out: Path
) -> Path:
    """A run of an HMM killed when a method is called for the `at`-th time."""
    real, calls = getattr(owner, name), iter(range(10**6))

    def dies(self: Any, *arguments: Any) -> Any:
        if next(calls) == at:
            raise Killed
        return real(self, *arguments)

    with monkeypatch.context() as change:
        change.setattr(owner, name, dies)
        with pytest.raises(Killed):
            trained_hmm(corpus, tokenizer, out)
    return out


@pytest.mark.parametrize(("batch", "saved"), [(0, 0), (1, 0), (10, 3), (17, 5), (23, 7)])
def test_killed_in_any_pass_it_continues_after_the_last_whole_one(
    whole: Path, corpus: Path, characters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    batch: int, saved: int,
) -> None:  # fmt: skip
    run = killed(monkeypatch, "count", HMM, batch, corpus, characters, tmp_path / "run")
    assert max(RunFolder(run, {}).steps(), default=0) == saved
    counted, count = [], HMM.count

    def watched(self: HMM, batch: Batch) -> None:
        counted.append(batch.position)
        count(self, batch)

    monkeypatch.setattr(HMM, "count", watched)
    textus.resume(run)
    assert counted == list(range(3 * saved, 3 * PASSES))  # three batches a pass
    assert weights(run) == weights(whole)
    assert log(run) == log(whole)


def test_killed_between_logging_and_saving_no_line_is_doubled(
    whole: Path, corpus: Path, characters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = killed(monkeypatch, "save", RunFolder, 3, corpus, characters, tmp_path / "run")
    assert [step for step, _ in log(run)] == [1, 2, 3, 4]
    copy = shutil.copytree(run, tmp_path / "copy")
    textus.resume(run)
    assert log(run) == log(whole)
    assert weights(run) == weights(whole)
    monkeypatch.setattr(RunFolder, "cut_log", lambda self, *_, **__: None)
    textus.resume(copy)
    assert log(copy) != log(whole)  # the fault that the lines above would catch


def test_passes_that_are_forgotten_are_seen(
    whole: Path, corpus: Path, characters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = killed(monkeypatch, "count", HMM, 10, corpus, characters, tmp_path / "run")
    monkeypatch.setattr(HMM, "load_state_dict", lambda self, kept: None)
    textus.resume(run)
    assert weights(run) != weights(whole)


def test_a_damaged_pass_costs_time_but_no_byte(
    whole: Path, corpus: Path, characters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = killed(monkeypatch, "count", HMM, 17, corpus, characters, tmp_path / "run")
    copy = shutil.copytree(run, tmp_path / "copy")
    for folder, steps in ((run, [5]), (copy, [4, 5])):
        for step in steps:
            kept = folder / "state" / f"step-{step}" / "weights.safetensors"
            kept.write_bytes(kept.read_bytes()[:-1])
        textus.resume(folder)
        assert weights(folder) == weights(whole)
        assert log(folder) == log(whole)
    assert "is whole: counting from the beginning" in capsys.readouterr().err


def test_proving_a_resume_is_for_counting_too(whole: Path) -> None:
    proof = textus.api.verify_determinism(whole)
    assert proof["resumed_from_step"] == PASSES // 2
    assert proof["identical"]


LONG = 40
LONG_WORDS = ["model.n_state=5", f"model.passes={LONG}", "train.context_length=200", "train.batch_size=1"]


@pytest.fixture(scope="module")
def long(corpus: Path, characters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An HMM of more passes, trained without a break."""
    return trained_hmm(corpus, characters, tmp_path_factory.mktemp("runs") / "long", LONG_WORDS).path


def command(out: Path, corpus: Path, tokenizer: Path, model: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [TEXTUS, "train", corpus, "--model", model, "--tokenizer", tokenizer, "--out", out,
         *(flag for word in words for flag in ("--set", word))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.promise(
    "Families",
    "A count-based model that is stopped by a signal or killed anywhere continues after its last "
    "complete pass to the same bytes and log",
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_pass_and_resume_continues_after_the_last(
    long: Path, corpus: Path, characters: Path, tmp_path: Path, number: int
) -> None:
    run = tmp_path / "run"
    process = command(run, corpus, characters, "hmm", *LONG_WORDS)
    while max(RunFolder(run, {}).steps(), default=0) < 3 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    done = RunFolder(run, {}).steps()[-1]
    assert 3 <= done < LONG
    assert "once more to stop at once" in stderr
    assert (
        f"stopped in pass {done + 1} of {LONG}; pass {done} is saved, continue with `textus resume {run}`"
        in stderr
    )
    assert [step for step, _ in log(run)] == list(range(1, done + 1))
    assert read_json(run / "run.json")["status"] == "training"
    textus.resume(run)
    assert weights(run) == weights(long)
    assert log(run) == log(long)


def test_a_signal_in_the_only_pass_shows_that_nothing_is_saved(
    corpus: Path, characters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: Path
) -> None:
    count = NGram.count

    def interrupted(self: NGram, batch: Batch) -> None:
        signal.raise_signal(signal.SIGINT)
        count(self, batch)

    words: dict[str, Any] = {
        "tokenizer": "char",
        "overrides": ["train.context_length=200", "train.batch_size=1"],
    }
    with monkeypatch.context() as change:
        change.setattr(NGram, "count", interrupted)
        with pytest.raises(TrainingInterrupted) as error:
            textus.train(corpus, model="ngram", out=tmp_path / "run", **words)
    message = (
        f"stopped in pass 1 of 1; nothing is saved yet, continue with `textus resume {tmp_path / 'run'}`"
    )
    assert str(error.value) == message
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    textus.resume(tmp_path / "run")
    assert weights(tmp_path / "run") == weights(counted)

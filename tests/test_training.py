"""`fit` from start to end: what it learns, that it can be stopped anywhere, and that it says when it cannot go on.

Equal means equal bytes of the final weights. For each promise of resuming a broken restore must be seen.
"""

from __future__ import annotations

import json
import mmap
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from raising import raises
from safetensors.torch import load_file, save_file

from textus import tokenizers
from textus.core.errors import TrainingError, UsageError
from textus.core.hardware import reset_peak_memory
from textus.core.io import read_json
from textus.core.rng import derive_seed
from textus.data.batch import Batch
from textus.data.loader import TokenLoader
from textus.data.token_dataset import in_memory_dataset
from textus.models.contract import LanguageModel, Loss
from textus.models.kernels import native
from textus.models.registry import build
from textus.runs.store import RunFolder, create_run, load, verify
from textus.training import trainer
from textus.training.gradients import GradientAccumulator
from textus.training.optim import OPTIMISERS, OptimSettings
from textus.training.trainer import ComputeConfig, CpuBudget, TrainSettings, fit, validation_loss

V, CONTEXT = 17, 12
SHAPE = {"vocab_size": V, "context_length": CONTEXT, "n_layer": 1, "n_head": 2, "d_model": 16}
SETTINGS = TrainSettings(
    steps=12, batch_size=4, micro_batches=2, context_length=CONTEXT, seed=7,
    log_every=2, evaluate_every=4, checkpoint_every=3,
)  # fmt: skip
NATIVE = ComputeConfig("bfloat16", "plain", "native")
needs_kernels = pytest.mark.skipif(native.library() is None, reason=f"no kernels: {native.build_error()}")

STREAM = np.array([0, *np.random.default_rng(0).choice(V - 1, 200, p=np.arange(1, V) / 136) + 1, 0])
STORE = in_memory_dataset(STREAM, [0])


def new_run(path: Path) -> RunFolder:
    tokenizer = tokenizers.train("char", ["abc"])
    record = {"family": "decoder", "config": SHAPE, "settings": {}, "compute": {}, "corpus": None}
    kept = {"fingerprint": tokenizer.fingerprint, "kind": tokenizer.kind}
    return create_run(path, {**record, "tokenizer": kept}, tokenizer)


def made(
    settings: TrainSettings, choices: ComputeConfig = ComputeConfig(), **shape: Any
) -> tuple[LanguageModel, TokenLoader]:
    """A model and a loader that depend on the seed only."""
    torch.manual_seed(derive_seed(settings.seed, "weights"))
    model = build("decoder", {**SHAPE, **shape})
    model.set_compute(choices.precision, choices.attention, choices.step)
    loader = TokenLoader(STORE, batch_size=settings.batch_size, context_length=CONTEXT, seed=settings.seed)
    return model, loader


def evaluate(model: LanguageModel) -> dict[str, Any]:
    ordered = TokenLoader(STORE, batch_size=4, context_length=CONTEXT, shuffle=False)
    return {"validation": validation_loss(model, [ordered.batch(0)]), "sample": "text"}


def taught(
    run: RunFolder, settings: TrainSettings = SETTINGS, choices: ComputeConfig = ComputeConfig(), **more: Any
) -> bytes:
    """Train, or go on; the bytes of the final weights."""
    model, loader = made(settings, choices, **more.pop("shape", {}))
    more.setdefault("evaluate", evaluate)
    backward = GradientAccumulator(model, choices.workers, more.pop("loss", None)).of_all(
        settings.micro_batches
    )
    fit(model, more.pop("loader", loader), settings=settings, run=run, backward=backward, **more)
    return (run.path / "model.safetensors").read_bytes()


def log(run: RunFolder, key: str = "loss") -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line[key]) for line in lines if key in line]


# ── learning ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("optimiser", ["muon", "adamw", "sgd"])
def test_the_loss_falls(tmp_path: Path, optimiser: str) -> None:
    rate = {"muon": 0.03, "adamw": 0.01, "sgd": 0.5}[optimiser]
    settings = replace(SETTINGS, steps=30, optim=OptimSettings(optimiser=optimiser, rate=rate))
    run = new_run(tmp_path / "run")
    taught(run, settings)
    losses = [loss for _, loss in log(run)]
    assert losses[-1] < losses[0] - 0.1
    assert load(run.path)[2]["steps"] == 30


@pytest.mark.promise(
    "Families", "Each optimiser has a default learning rate; the record holds it; earlier runs keep theirs"
)
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_the_loss_falls_at_the_rate_of_its_own(tmp_path: Path, optimiser: str) -> None:
    run = new_run(tmp_path / "run")
    settings = replace(SETTINGS, steps=40, evaluate_every=0, checkpoint_every=0)
    taught(run, replace(settings, optim=OptimSettings(optimiser=optimiser)), evaluate=None)
    losses = [loss for _, loss in log(run)]
    assert losses[-1] < losses[0]
    assert max(losses) < losses[0] + 0.2


@needs_kernels
def test_the_kernels_learn_what_the_twin_learns_under_adamw(tmp_path: Path) -> None:
    """AdamW's fused step once left the kernels with the first step's weights."""
    optim = OptimSettings(optimiser="adamw", rate=0.02)
    ends = []
    for name, choices in {"native": NATIVE, "eager": replace(NATIVE, step="eager")}.items():
        run = new_run(tmp_path / name)
        taught(run, replace(SETTINGS, steps=30, optim=optim), choices)
        ends.append(log(run)[-1][1])
    assert ends[0] == pytest.approx(ends[1], abs=0.03)


def ragged(rows: int = 8) -> Batch:
    batch = TokenLoader(STORE, batch_size=rows, context_length=CONTEXT).batch(0)
    batch.weights = (torch.arange(CONTEXT) < torch.arange(1, rows + 1)[:, None] * 1.5).float()
    return batch


def gradients(
    pieces: int, loss: Callable[..., Any] = lambda model, batch: model.loss(batch)
) -> list[torch.Tensor]:
    model, _ = made(SETTINGS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05
    GradientAccumulator(model, 1, loss).compute(ragged(), pieces)
    return [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.promise(
    "Training", "Accumulation over micro-batches changes nothing; a mean of means would be seen"
)
def test_accumulation_changes_nothing() -> None:
    """Rows weigh from 1 to 12 targets: a mean of means would be another number."""
    for pieces in (2, 4, 8):
        for one, many in zip(gradients(1), gradients(pieces), strict=True):
            torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-6)


def test_a_mean_of_means_is_seen() -> None:
    def unfair(model: LanguageModel, batch: Batch) -> Any:
        loss = model.loss(batch)
        return replace(loss, total=loss.total / loss.weight * 10)

    pairs = zip(gradients(1), gradients(4, unfair), strict=True)
    assert not all(torch.allclose(a * float(b.norm() / a.norm()), b, rtol=1e-3) for a, b in pairs)


def test_a_batch_without_targets_is_refused() -> None:
    model, _ = made(SETTINGS)
    batch = ragged()
    batch.weights *= 0
    with raises(TrainingError, "too_little_data"):
        GradientAccumulator(model, 1).compute(batch, 1)


def test_workers_and_dropout_do_not_go_together() -> None:
    model, _ = made(SETTINGS, dropout=0.1)
    with raises(UsageError, "conflicting_options", "2"):
        GradientAccumulator(model, 2)


# ── the same bytes ─────────────────────────────────────────────────────────────────────────────

WAYS = {
    "eager": (ComputeConfig(), {}),
    "eager, two workers": (ComputeConfig(workers=2), {}),
    "dropout": (ComputeConfig(), {"dropout": 0.2}),
    "native": (NATIVE, {}),
    "native, dropout, two workers": (replace(NATIVE, workers=2), {"dropout": 0.2}),
}


def ways() -> list[Any]:
    return [pytest.param(name, marks=needs_kernels if "native" in name else ()) for name in WAYS]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first, again, other = (new_run(tmp_path / name) for name in ("first", "again", "other"))
    assert taught(first) == taught(again)
    assert taught(other, replace(SETTINGS, seed=8)) != taught(RunFolder(first.path, first.record))


def test_the_number_of_workers_changes_no_byte(tmp_path: Path) -> None:
    one, two = new_run(tmp_path / "one"), new_run(tmp_path / "two")
    assert taught(one) == taught(two, choices=ComputeConfig(workers=2))


class Killed(BaseException):
    """What a kill looks like from inside: nothing that follows is done."""


def killing(at: int) -> Callable[[LanguageModel, Batch], Any]:
    """A loss that kills when it comes to a step."""

    def loss(model: LanguageModel, batch: Batch) -> Any:
        if batch.position == at:
            raise Killed
        return model.loss(batch)

    return loss


def stopped(run: RunFolder, at: int, **more: Any) -> RunFolder:
    """A run killed at a step, opened anew."""
    with pytest.raises(Killed):
        taught(run, loss=killing(at), **more)
    return RunFolder(run.path, read_json(run.path / "run.json"))


@pytest.mark.promise(
    "Training", "Resumed from any checkpoint, a run ends in the same bytes; a broken restore does not"
)
@pytest.mark.parametrize("way", ways())
def test_resumed_from_any_step_it_ends_in_the_same_bytes(tmp_path: Path, way: str) -> None:
    choices, shape = WAYS[way]
    options: dict[str, Any] = {"choices": choices}
    whole = taught(new_run(tmp_path / "whole"), **options, shape=shape)
    for at in (1, 4, 8, 11):
        run = stopped(new_run(tmp_path / f"at-{at}"), at, **options, shape=shape)
        assert taught(run, **options, shape=shape) == whole
        assert log(run) == log(RunFolder(tmp_path / "whole", {}))


def drop_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "restore", lambda optimisers, kept: None)


def shift_data(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = TokenLoader.batch
    monkeypatch.setattr(TokenLoader, "batch", lambda self, step: batch(self, step + 1))


def forget_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "derive_seed", lambda *keys: 5)


@pytest.mark.parametrize("fault", [drop_memory, shift_data, forget_the_seed])
def test_a_broken_restore_does_not_end_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[pytest.MonkeyPatch], None]
) -> None:
    shape = {"dropout": 0.2}
    whole = taught(new_run(tmp_path / "whole"), evaluate=None, shape=shape)
    run = stopped(new_run(tmp_path / "run"), 8, evaluate=None, shape=shape)
    copy = RunFolder(shutil.copytree(run.path, tmp_path / "copy"), run.record)
    assert taught(copy, evaluate=None, shape=shape) == whole
    fault(monkeypatch)
    assert taught(run, evaluate=None, shape=shape) != whole


def test_a_damaged_newest_checkpoint_costs_steps_but_no_byte(tmp_path: Path) -> None:
    whole = taught(new_run(tmp_path / "whole"))
    run = stopped(new_run(tmp_path / "run"), 10)
    newest = run.path / "state" / f"step-{run.steps()[-1]}" / "weights.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert taught(run) == whole


def test_with_every_checkpoint_damaged_it_starts_from_the_seed_and_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = taught(new_run(tmp_path / "whole"))
    run = stopped(new_run(tmp_path / "run"), 10)
    for folder in (run.path / "state").iterdir():
        (folder / "state.json").unlink()
    assert taught(run) == whole
    assert "starting again from the seed" in capsys.readouterr().err


def test_killed_between_saving_and_evaluating_it_evaluates_again(tmp_path: Path) -> None:
    def dies(model: LanguageModel) -> dict[str, Any]:
        raise Killed

    whole, run = new_run(tmp_path / "whole"), new_run(tmp_path / "run")
    expected = taught(whole, replace(SETTINGS, checkpoint_every=4))
    with pytest.raises(Killed):
        taught(run, replace(SETTINGS, checkpoint_every=4), evaluate=dies)
    assert run.steps() == [4]
    assert log(run, "validation") == []
    assert taught(run, replace(SETTINGS, checkpoint_every=4)) == expected
    assert log(run, "validation") == log(whole, "validation")
    assert [step for step, _ in log(run, "validation")] == [4, 8, 12]


def test_killed_after_evaluating_no_evaluation_is_logged_twice(tmp_path: Path) -> None:
    """An evaluation that was not the best is not saved; its line is there when the kill comes."""
    worse = iter([1.0, 2.0, 2.0, 3.0])
    run = new_run(tmp_path / "run")
    settings = replace(SETTINGS, checkpoint_every=4)
    more: dict[str, Any] = {"evaluate": lambda model: {"validation": next(worse)}}
    with pytest.raises(Killed):
        taught(run, settings, loss=killing(8), **more)
    assert log(run, "validation") == [(4, 1.0), (8, 2.0)]
    taught(run, settings, **more)
    assert log(run, "validation") == [(4, 1.0), (8, 2.0), (12, 3.0)]


# ── which weights are used ─────────────────────────────────────────────────────────────────────


@pytest.mark.promise("Training", "A run uses its best validated weights and records which they are")
def test_the_best_weights_are_used_and_their_checkpoint_kept(tmp_path: Path) -> None:
    values = iter([3.0, 1.0, 2.0])
    run = new_run(tmp_path / "run")
    kept = replace(SETTINGS, keep_checkpoints=True)
    taught(run, kept, evaluate=lambda model: {"validation": next(values)})
    record = read_json(run.path / "run.json")
    assert record["weights"] == {"step": 8, "why": "best validation"}
    assert 8 in run.steps()
    best = load_file(run.path / "state" / "step-8" / "weights.safetensors")
    last = load_file(run.path / "state" / "step-12" / "weights.safetensors")
    used = load_file(run.path / "model.safetensors")
    assert all(torch.equal(used[name], best[name]) for name in best)
    assert not all(torch.equal(used[name], last[name]) for name in last)


def test_a_finished_run_keeps_no_checkpoints_unless_requested(tmp_path: Path) -> None:
    """U19: they are several times as large as the weights to use."""
    plain, kept = new_run(tmp_path / "plain"), new_run(tmp_path / "kept")
    assert taught(plain) == taught(kept, replace(SETTINGS, keep_checkpoints=True))
    assert not (plain.path / "state").exists()
    assert kept.steps()[-2:] == [9, 12]
    size = sum(file.stat().st_size for file in plain.path.rglob("*") if file.is_file())
    assert size < 0.6 * sum(file.stat().st_size for file in kept.path.rglob("*") if file.is_file())
    verify(plain.path)


@pytest.mark.promise(
    "Robustness",
    "The tensors of a step are written once; a checkpoint is written every ten minutes; a finished run "
    "keeps none",
)
def test_the_tensors_of_a_step_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C18: a step that is saved, evaluated and best so far has one checkpoint, which says all three."""
    values, written = iter([3.0, 2.0, 1.0]), []
    real = RunFolder.save
    monkeypatch.setattr(RunFolder, "save", lambda run, one: (written.append(one.step), real(run, one))[1])
    run = new_run(tmp_path / "run")
    settings = replace(SETTINGS, checkpoint_every=4, keep_checkpoints=True)
    taught(run, settings, evaluate=lambda model: {"validation": next(values)})
    assert written == [4, 8, 12]
    for step in (8, 12):
        checkpoint = run.checkpoint(step, otherwise="")
        assert checkpoint is not None
        assert (checkpoint.state["evaluated"], checkpoint.state["best"]["step"]) == (step, step)


def test_a_checkpoint_is_written_after_ten_minutes_whatever_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C18: an overnight run must not lose an hour."""
    assert trainer.SAVE_SECONDS == 600
    settings = replace(SETTINGS, checkpoint_every=0, evaluate_every=0)
    stopped_early, run = new_run(tmp_path / "none"), new_run(tmp_path / "run")

    def dies(model: LanguageModel, batch: Batch) -> Any:
        if batch.position == 9:
            raise Killed
        return model.loss(batch)

    for folder, seconds, expected in ((stopped_early, 600, []), (run, 0, [8, 9])):
        monkeypatch.setattr(trainer, "SAVE_SECONDS", seconds)
        with pytest.raises(Killed):
            taught(folder, settings, loss=dies, evaluate=None)
        assert folder.steps() == expected


def test_a_best_checkpoint_that_was_damaged_is_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run(tmp_path / "run")
    values = iter([1.0, 2.0, 3.0])

    def evaluate(model: LanguageModel) -> dict[str, Any]:
        if (best := run.path / "state" / "step-4" / "weights.safetensors").exists():
            best.write_bytes(best.read_bytes()[:-1])
        return {"validation": next(values)}

    taught(run, evaluate=evaluate)
    assert read_json(run.path / "run.json")["weights"] == {"step": 12, "why": "last"}
    assert "the last weights are used instead" in capsys.readouterr().err
    verify(run.path)


def test_without_evaluation_the_last_weights_are_used(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    taught(run, evaluate=None)
    assert read_json(run.path / "run.json")["weights"] == {"step": 12, "why": "last"}


# ── what ends training early ───────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Training", "Not-a-number stops with step, batch and last good checkpoint named, and is never saved"
)
def test_not_a_number_stops_and_names_step_batch_and_last_good_checkpoint(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")

    def poison(model: LanguageModel, batch: Batch) -> Any:
        if batch.position == 5:
            with torch.no_grad():
                model.embedding.weight[:] = float("inf")  # type: ignore[operator, union-attr]
        return model.loss(batch)

    with pytest.raises(TrainingError) as error:
        taught(run, replace(SETTINGS, checkpoint_every=2, evaluate_every=5), loss=poison)
    message = str(error.value)
    assert "step 5 (batch 5 of seed 7)" in message
    assert "\n" not in message
    good = int(message.partition("checkpoint is step ")[2].split()[0])
    weights = load_file(run.path / "state" / f"step-{good}" / "weights.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())


@pytest.mark.parametrize("choices", [ComputeConfig(), pytest.param(NATIVE, marks=needs_kernels)])
def test_a_rate_far_too_high_ends_in_that_error(tmp_path: Path, choices: ComputeConfig) -> None:
    optim = OptimSettings(optimiser="sgd", rate=1e38, clip=1e38)
    with raises(TrainingError, "training_diverged"):
        taught(new_run(tmp_path / "run"), replace(SETTINGS, optim=optim), choices)


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    """Loss and gradients may still be numbers: here the weight of an id that no batch has."""
    run = new_run(tmp_path / "run")

    def poison(model: LanguageModel, batch: Batch) -> Any:
        if batch.position == 5:
            with torch.no_grad():
                model.embedding.weight[V] = float("inf")  # type: ignore[operator, union-attr]
        return model.loss(batch)

    with raises(TrainingError, "training_diverged", "5", "7", "step 3"):
        taught(run, loss=poison, evaluate=None, shape={"vocab_size": V + 1})
    assert run.steps() == [3]


def test_a_clock_that_runs_out_brings_the_end_forward(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    settings = replace(SETTINGS, steps=10_000, evaluate_every=0, checkpoint_every=0)
    taught(run, settings, clock=CpuBudget(0.5), evaluate=None)
    record = read_json(run.path / "run.json")
    assert record["schedule_cuts"]
    assert 20 <= record["steps"] == record["schedule_cuts"][-1]["steps"] < 10_000
    assert record["cpu_seconds"] < 5
    assert 1e8 < record["peak_memory_bytes"] < 1e11  # torch alone holds as much


@pytest.mark.promise("Tasks", "The reported peak memory is that of the training")
def test_the_memory_reported_is_this_training_s(tmp_path: Path) -> None:
    """And not what the process held before: 400 MB that are gone. Of a mapping, for freed memory may be kept."""
    if not reset_peak_memory():
        pytest.skip("the system does not let the peak begin again")
    results = []
    for name in ("first", "second"):
        run = new_run(tmp_path / name)
        taught(run, evaluate=None)
        results.append(read_json(run.path / "run.json")["peak_memory_bytes"])
        with mmap.mmap(-1, 400 << 20) as held:
            for page in range(0, len(held), 4096):
                held[page] = 1
    assert results[1] - results[0] < 200_000_000


STOPPING = """
import signal, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
import test_training as t
from textus.core.errors import TextusError
from textus.core.io import read_json
torch.set_num_threads(1)
def loss(model, batch):
    print(batch.position, flush=True)
    time.sleep(0.01)
    return model.loss(batch)
run = t.RunFolder(Path({run!r}), read_json(Path({run!r}) / "run.json"))
try:
    t.taught(run, t.replace(t.SETTINGS, steps=40, checkpoint_every=1000, evaluate_every=1000), loss=loss)
except TextusError as error:
    print(error, file=sys.stderr)
    raise SystemExit(error.exit_code)
"""


@pytest.mark.promise(
    "Training", "A signal saves first; what was killed between saving and evaluating is evaluated again"
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_first_and_resume_ends_in_the_same_bytes(tmp_path: Path, number: int) -> None:
    settings = replace(SETTINGS, steps=40, checkpoint_every=1000, evaluate_every=1000)
    whole = taught(new_run(tmp_path / "whole"), settings)
    run = new_run(tmp_path / "run")
    code = STOPPING.format(tests=str(Path(__file__).parent), run=str(run.path))
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert any(int(line) >= 3 for line in process.stdout)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    (step,) = run.steps()
    assert f"stopped at step {step}; it is saved" in stderr
    assert "textus resume" in stderr
    assert 3 <= step < 40
    assert taught(run, settings) == whole


def test_signals_are_given_back_afterwards(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    taught(new_run(tmp_path / "run"), replace(SETTINGS, steps=2))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_second_signal_acts_at_once() -> None:
    with trainer.stop_signals() as signals:
        assert not signals()
        signal.raise_signal(signal.SIGINT)
        assert signals()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_full_disk_in_the_middle_is_one_line_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes fail from the second checkpoint on, as on a full disk; later there is space again."""
    whole = taught(new_run(tmp_path / "whole"))
    run = new_run(tmp_path / "run")

    def full(tensors: Any, path: Path) -> None:
        if "step-3" not in str(path):
            with Path("/dev/full").open("wb", buffering=0) as file:
                file.write(b"x")
        save_file(tensors, path)

    with monkeypatch.context() as change:
        change.setattr("textus.runs.store.save_file", full)
        with raises(TrainingError, "disk_full", "step 3"):
            taught(run)
    assert taught(run) == whole


def test_tensorboard_sees_every_logged_step_once_after_a_resume(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = stopped(new_run(tmp_path / "run"), 8)
    taught(run)
    events = accumulator.EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    for key in ("loss", "validation"):
        results = [(event.step, pytest.approx(event.value)) for event in events.Scalars(key)]
        assert log(run, key) == results


class Added(torch.nn.Module):
    """Two weights that are only ever added: autograd gives one tensor as the gradient of both."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = (torch.nn.Parameter(torch.zeros(3)) for _ in range(2))


@pytest.mark.promise("Families", "No two parameters share a gradient")
def test_parameters_that_share_a_gradient_each_get_their_own() -> None:
    def loss(model: Any, batch: Batch) -> Loss:
        total = ((model.one + model.other) * batch.weights[:, :3]).sum()
        return Loss(total, float(batch.weights.sum()))

    ids = torch.zeros(4, 3, dtype=torch.long)
    model: Any = Added()
    GradientAccumulator(model, 1, loss).compute(Batch(ids, ids, torch.ones(4, 3)), 2)
    for parameter in (model.one, model.other):
        torch.testing.assert_close(parameter.grad, torch.full((3,), 1 / 3))

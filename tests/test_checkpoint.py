"""Nothing is lost and nothing damaged is believed: flipped bytes, missing files, kills, full disks."""

from __future__ import annotations

import ast
import errno
import json
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from raising import raises
from safetensors.torch import load_file

from textus import tokenizers
from textus.core import locks
from textus.core.errors import RunError, TrainingError
from textus.core.io import read_json, write_json
from textus.core.locks import exclusive_lock
from textus.models.registry import build
from textus.runs.store import Checkpoint, RunFolder, checkpoint_damage, create_run, load, open_run, verify

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIG = {"vocab_size": 13, "context_length": 8, "n_layer": 1, "n_head": 1, "d_model": 8}


def record(tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
    return {
        "family": "decoder",
        "config": CONFIG,
        "settings": {},
        "compute": {},
        "corpus": None,
        "tokenizer": {"kind": tokenizer.kind, "fingerprint": tokenizer.fingerprint},
    }


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    tokenizer = tokenizers.train("char", ["abc"])
    return create_run(tmp_path / "run", record(tokenizer), tokenizer)


def checkpoint(step: int, best: int | None = None) -> Checkpoint:
    torch.manual_seed(step)
    model = build("decoder", CONFIG)
    state = {"best": {"step": best} if best else None, "evaluated": 0}
    return Checkpoint(step, model.state_dict(), {"all/0/memory": torch.full((3,), float(step))}, state)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def same(one: Checkpoint, other: Checkpoint) -> bool:
    return (one.step, one.state) == (other.step, other.state) and all(
        torch.equal(a[name], b[name])
        for a, b in ((one.weights, other.weights), (one.optimiser, other.optimiser))
        for name in a.keys() | b.keys()
    )


# ── checkpoints ────────────────────────────────────────────────────────────────────────────────


def test_a_checkpoint_comes_back_as_it_was(run: RunFolder) -> None:
    folder = run.save(checkpoint(5))
    assert sorted(read_json(folder / "MANIFEST.json")) == [
        "optimiser.safetensors",
        "state.json",
        "weights.safetensors",
    ]
    result = run.last_checkpoint()
    assert result is not None
    assert same(result, checkpoint(5))
    assert not same(result, checkpoint(6))


def test_the_last_two_and_the_best_are_kept(run: RunFolder) -> None:
    for step in range(1, 7):
        run.save(checkpoint(step, best=2 if step > 1 else None))
    assert run.steps() == [2, 5, 6]


def test_steps_are_ordered_by_number_and_strangers_are_left_alone(run: RunFolder) -> None:
    for step in (9, 10):
        run.save(checkpoint(step))
    (run.path / "state" / "step-9 (copy)").mkdir()
    assert run.steps() == [9, 10]


def gone(folder: Path, name: str) -> None:
    (folder / name).unlink()


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "weights": (lambda f: flip(f / "weights.safetensors"), "weights.safetensors was changed"),
    "optimiser": (lambda f: flip(f / "optimiser.safetensors"), "optimiser.safetensors was changed"),
    "state": (lambda f: flip(f / "state.json"), "state.json was changed"),
    "missing": (lambda f: gone(f, "weights.safetensors"), "weights.safetensors is missing"),
    "no manifest": (lambda f: gone(f, "MANIFEST.json"), "MANIFEST.json not found"),
    "cut manifest": (lambda f: (f / "MANIFEST.json").write_text('{"wei'), "MANIFEST.json is not JSON"),
    "empty manifest": (lambda f: (f / "MANIFEST.json").write_text("{}"), "MANIFEST.json does not list"),
}


@pytest.mark.promise("Training", "A damaged checkpoint is named and the one before it taken")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    run: RunFolder, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run.save(checkpoint(4))
    folder = run.save(checkpoint(8))
    break_it, message = DAMAGES[damage]
    assert checkpoint_damage(folder) is None
    break_it(folder)
    result = run.last_checkpoint()
    assert result is not None
    assert result.step == 4
    line = capsys.readouterr().err
    assert message in line
    assert "step-8" in line
    assert line.count("\n") == 1


def test_what_a_kill_left_behind_is_removed(run: RunFolder) -> None:
    for step in (4, 8, 12):
        run.save(checkpoint(step))
    (run.path / "state" / ".step-16.4711.new").mkdir()
    run.drop_remains(8)
    assert [path.name for path in (run.path / "state").iterdir()] == ["step-8"]


# ── the run ────────────────────────────────────────────────────────────────────────────────────


def test_a_finished_run_loads_and_verifies(run: RunFolder) -> None:
    weights = checkpoint(3).weights
    run.finish(weights)
    assert sorted(verify(run.path)) == sorted(run.record["files"])
    model, tokenizer, kept = load(run.path)
    assert all(torch.equal(model.state_dict()[name], weights[name]) for name in weights)
    assert not model.training
    assert tokenizer.fingerprint == kept["tokenizer"]["fingerprint"]


def test_an_unfinished_run_gives_its_newest_good_checkpoint(run: RunFolder) -> None:
    with raises(RunError, "run_unfinished"):
        load(run.path)
    run.save(checkpoint(4))
    flip(run.save(checkpoint(8)) / "weights.safetensors")
    model, _, _ = load(run.path)
    assert torch.equal(model.state_dict()["norm.weight"], checkpoint(4).weights["norm.weight"])
    with raises(RunError, "run_unfinished"):
        verify(run.path)


def edited(path: Path, **changes: Any) -> None:
    write_json(path / "run.json", {**read_json(path / "run.json"), **changes})


def cut(path: Path) -> None:
    text = (path / "run.json").read_text()
    (path / "run.json").write_text(text[: len(text) // 2])


RUIN: dict[str, tuple[Callable[[Path], None], str]] = {
    "flipped weights": (lambda p: flip(p / "model.safetensors"), "model.safetensors was changed"),
    "flipped tokenizer": (lambda p: flip(p / "tokenizer.json"), "tokenizer.json was changed"),
    "no weights": (lambda p: gone(p, "model.safetensors"), "model.safetensors is missing"),
    "cut record": (cut, "run.json is not JSON"),
    "no record": (lambda p: gone(p, "run.json"), "has no run.json"),
    "other JSON": (lambda p: (p / "run.json").write_text("[1, 2]"), "holds no record"),
    "record without a family": (
        lambda p: write_json(
            p / "run.json", {k: v for k, v in read_json(p / "run.json").items() if k != "family"}
        ),
        "has no 'family'",
    ),
    "older format": (lambda p: edited(p, version=0), "format 0, this Textus reads format 2"),
    "newer format": (lambda p: edited(p, version=99), "format 99"),
    "another shape": (lambda p: edited(p, config={**CONFIG, "n_layer": 2}), "do not fit the model"),
}


@pytest.mark.promise(
    "Training", "A run with a flipped byte, a missing file, an older or a newer format is refused"
)
@pytest.mark.parametrize("ruin", RUIN)
def test_a_ruined_run_is_refused_in_one_line(run: RunFolder, ruin: str) -> None:
    run.finish(checkpoint(3).weights)
    load(run.path)
    break_it, message = RUIN[ruin]
    break_it(run.path)
    with pytest.raises(RunError) as error:
        load(run.path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.promise("Training", "A run is not resumed on another corpus, nor read with another tokenizer")
def test_another_tokenizer_in_an_unfinished_run_is_refused(run: RunFolder) -> None:
    run.save(checkpoint(4))
    tokenizers.train("char", ["xyz"]).save(run.path)
    with raises(RunError, "data_changed"):
        load(run.path)


def test_what_is_not_a_run_is_refused_as_such(tmp_path: Path) -> None:
    with raises(RunError, "not_a_run", "found"):
        open_run(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with raises(RunError, "not_a_run", "folder"):
        open_run(tmp_path / "file")
    with raises(RunError, "not_a_run"):
        open_run(tmp_path)


def unsafe(source: str) -> list[str]:
    """Imports and calls through which a file could run code."""
    results = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None) or "", *(name.name for name in node.names)]
            results += [
                name for name in names if name.partition(".")[0] in ("pickle", "marshal", "joblib", "dill")
            ]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "torch.load",
            "torch.save",
            "eval",
            "exec",
        ):
            results.append(ast.unparse(node.func))
    return results


@pytest.mark.promise("Training", "No pickle is read or written")
def test_nothing_reads_or_writes_pickle(run: RunFolder) -> None:
    assert unsafe("import pickle\ntorch.load(path)\nmodel.eval()") == ["pickle", "torch.load"]
    sources = sorted((REPOSITORY / "textus").rglob("*.py"))
    assert {str(path): result for path in sources if (result := unsafe(path.read_text()))} == {}
    run.save(checkpoint(4))
    run.finish(checkpoint(4).weights)
    kinds = {path.suffix for path in run.path.rglob("*") if path.is_file()}
    assert kinds <= {".json", ".jsonl", ".safetensors", ".jinja", ".textus"}


# ── the log ────────────────────────────────────────────────────────────────────────────────────


def test_the_log_is_cut_back_to_what_will_be_written_again(run: RunFolder) -> None:
    for line in (
        {"step": 4, "loss": 1.0},
        {"step": 4, "validation": 2.0},
        {"step": 8, "loss": 0.9},
        {"step": 8, "validation": 1.9},
        {"step": 9, "loss": 0.8},
    ):
        run.log(line)
    with (run.path / "log.jsonl").open("a") as file:
        file.write('{"step": 10, "lo')  # killed while writing
    run.cut_log(8, evaluated=4, seconds=0.0)
    lines = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], "loss" in line) for line in lines] == [(4, True), (4, False), (8, True)]
    run.cut_log(8, evaluated=8, seconds=0.0)
    run.log({"step": 9, "loss": 0.7})
    assert (run.path / "log.jsonl").read_text().count("\n") == 4


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_reads_the_log_and_sees_no_step_twice_after_a_resume(run: RunFolder) -> None:
    pytest.importorskip("tensorboard")
    for step in range(1, 7):
        run.log({"step": step, "loss": 1 / step, "seconds": step})
    run.log({"step": 6, "validation": 0.5, "sample": "汉字 and text"})
    again = RunFolder(run.path, run.record)
    again.cut_log(4, evaluated=0, seconds=4.0)
    for step in range(5, 8):
        again.log({"step": step, "loss": 2 / step, "seconds": step})
    result = scalars(run.path / "tensorboard")
    assert [step for step, _ in result["loss"]] == list(range(1, 8))
    assert result["loss"][3][1] == pytest.approx(1 / 4)
    assert result["loss"][4][1] == pytest.approx(2 / 5)
    assert "validation" not in result


def test_tensorboard_shows_samples_as_text(run: RunFolder) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run.log({"step": 6, "validation": 0.5, "sample": "汉字 and text"})
    events = accumulator.EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    assert events.Tensors("sample")[0].tensor_proto.string_val[0].decode() == "汉字 and text"
    assert events.SummaryMetadata("sample").plugin_data.plugin_name == "text"


def test_tensorboard_refuses_a_record_with_a_flipped_bit(run: RunFolder) -> None:
    pytest.importorskip("tensorboard")
    for step in range(1, 5):
        run.log({"step": step, "loss": 1.0})
    (file,) = (run.path / "tensorboard").iterdir()
    flip(file)
    assert len(scalars(run.path / "tensorboard").get("loss", [])) < 4


# ── kills and full disks ───────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Tasks", "A folder being trained into is locked; killed with −9, training continues to the same bytes"
)
def test_a_system_without_locks_trains_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with exclusive_lock(tmp_path), raises(RunError, "in_use"), exclusive_lock(tmp_path):
        pass
    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with exclusive_lock(tmp_path), exclusive_lock(tmp_path):
        pass
    monkeypatch.setattr(locks, "fcntl", None)
    with exclusive_lock(tmp_path), exclusive_lock(tmp_path):
        pass


SAVING = textwrap.dedent("""
    import sys
    from pathlib import Path
    import torch
    from textus.runs.store import Checkpoint, RunFolder
    torch.set_num_threads(1)
    run = RunFolder(Path(sys.argv[1]), {})
    for step in range(1, 100000):
        weights = {"w": torch.full((200_000,), float(step))}
        run.save(Checkpoint(step, weights, {"m": weights["w"] + 1}, {"best": None}))
        print(step, flush=True)
""")


@pytest.mark.promise("Training", "Killed while saving, there is always a whole checkpoint")
def test_killed_while_saving_there_is_always_a_whole_checkpoint(run: RunFolder) -> None:
    moments, reached = random.Random(5), 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVING, str(run.path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        steps = [int(process.stdout.readline()) for _ in range(3)]
        time.sleep(moments.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        steps += [int(line) for line in process.stdout.read().split()]
        process.wait()
        checkpoint = run.last_checkpoint()
        assert checkpoint is not None
        assert checkpoint.step >= steps[-1]  # what was said to be saved is there
        assert torch.equal(checkpoint.weights["w"], torch.full((200_000,), float(checkpoint.step)))
        assert torch.equal(checkpoint.optimiser["m"], checkpoint.weights["w"] + 1)
        reached += steps[-1]
        run.drop_remains(-1)
        assert list((run.path / "state").iterdir()) == []
    assert reached >= 9


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def big(step: int) -> Checkpoint:
    return Checkpoint(step, {"w": torch.full((90_000,), float(step))}, {}, {"best": None})


@pytest.mark.promise("Training", "A full disk leaves the last good checkpoint and is reported")
def test_a_full_disk_leaves_the_last_good_checkpoint_and_is_reported(small_disk: Path) -> None:
    tokenizer = tokenizers.train("char", ["abc"])
    run = create_run(small_disk / "run", record(tokenizer), tokenizer)
    run.save(big(4))
    run.save(big(8))
    with pytest.raises(TrainingError) as error, run.full_disk_named():
        run.save(big(12))
    assert "no space left" in str(error.value)
    assert "the checkpoint of step 8 is whole" in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in (run.path / "state").iterdir()) == ["step-4", "step-8"]
    checkpoint = run.last_checkpoint()
    assert checkpoint is not None
    assert same(checkpoint, big(8))
    with raises(TrainingError, "disk_full"), run.full_disk_named():
        run.finish(big(12).weights)
    assert not (run.path / "model.safetensors").exists()
    assert not open_run(run.path).finished


def test_a_full_disk_is_recognised_however_it_is_reported(run: RunFolder) -> None:
    """The same where nothing can be mounted: `/dev/full` refuses every write."""
    run.save(checkpoint(8))
    if Path("/dev/full").exists():
        with (
            raises(TrainingError, "disk_full", "step 8"),
            run.full_disk_named(),
            Path("/dev/full").open("wb", buffering=0) as full,
        ):
            full.write(b"x")
    with pytest.raises(PermissionError), run.full_disk_named():
        raise PermissionError(13, "another trouble")


def test_weights_read_back_are_not_tied_to_the_file(run: RunFolder) -> None:
    folder = run.save(checkpoint(4))
    weights = load_file(folder / "weights.safetensors")
    kept = {name: value.clone() for name, value in weights.items()}
    for value in weights.values():
        value += 1
    assert checkpoint_damage(folder) is None
    assert all(torch.equal(value, kept[name] + 1) for name, value in weights.items())

"""The run folder: written so that nothing is lost, read so that nothing damaged is believed.

    run.json            what the run is: family, config, settings, seed, choices, corpus, versions, SHA-256
    of the files beside it
    tokenizer.json      and chat_template.jinja, tokenizer_config.json
    model.safetensors   the weights to use (best if validated, else last; run.json says which)
    state/step-N/       weights, optimiser, state.json, MANIFEST.json with the SHA-256 of each
    log.jsonl           a line a logged step

No pickle: tensors are safetensors, everything else is JSON. A checkpoint is written beside, flushed, hashed
and renamed; the
newest one that verifies is the one that counts.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from textus import tokenizer as tokenizers
from textus.common import RunError, folder_atomic, notice, read_json, sha256, sync, write_json
from textus.config import VERSION, migrate
from textus.models import LanguageModel, build

KEEP = 2
"""How many of the last checkpoints stay, beside the best."""


@dataclass
class Checkpoint:
    """What training needs to go on from `step` as if it had never stopped."""

    step: int
    weights: dict[str, Tensor]
    optimiser: dict[str, Tensor]
    state: dict[str, Any] = field(default_factory=dict)


class RunFolder:
    """A run on disk: `record` is run.json."""

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path, self.record = path, record

    @property
    def finished(self) -> bool:
        """Whether training came to its end."""
        return self.record.get("status") == "finished"

    # ── while training ─────────────────────────────────────────────────────────────────────────

    def write_record(self) -> None:
        """Write run.json, atomically."""
        write_json(self.path / "run.json", self.record)

    def log(self, line: dict[str, Any]) -> None:
        """Add a line to log.jsonl."""
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def cut_log(self, step: int) -> None:
        """Drop log lines after `step`: training goes on from there and will write them again."""
        path = self.path / "log.jsonl"
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # the line being written when the process was killed
            if entry.get("step", 0) <= step:
                kept.append(line)
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint; then drop those that are neither among the last two nor the best."""
        target = self.path / "state" / f"step-{checkpoint.step}"
        with folder_atomic(target) as folder:
            save_file(contiguous(checkpoint.weights), folder / "weights.safetensors")
            save_file(contiguous(checkpoint.optimiser), folder / "optimiser.safetensors")
            write_json(folder / "state.json", {"step": checkpoint.step, **checkpoint.state})
            write_json(
                folder / "MANIFEST.json", {file.name: sha256(file) for file in sorted(folder.iterdir())}
            )
        best = (checkpoint.state.get("best") or {}).get("step")
        for step in self.steps()[:-KEEP]:
            if step != best:
                shutil.rmtree(self.path / "state" / f"step-{step}", ignore_errors=True)
        return target

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, oldest first (verified or not)."""
        found = (self.path / "state").glob("step-*")
        return sorted(int(folder.name.removeprefix("step-")) for folder in found)

    def last_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint whose hashes hold; damaged ones are named and passed over."""
        for step in reversed(self.steps()):
            folder = self.path / "state" / f"step-{step}"
            if wrong := damage(
                folder, read_json(folder / "MANIFEST.json") if (folder / "MANIFEST.json").exists() else None
            ):
                notice(f"{folder}: {wrong}; going back to the checkpoint before it")
                continue
            return read_checkpoint(folder)
        return None

    def finish(self, weights: dict[str, Tensor]) -> None:
        """Write the weights to use, then run.json with the hash of every file beside it, last."""
        beside = self.path / ".model.safetensors"
        save_file(contiguous(weights), beside)
        sync(beside)
        beside.replace(self.path / "model.safetensors")
        self.record["status"] = "finished"
        self.record["files"] = hashes(self.path)
        self.write_record()


def contiguous(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies safetensors can write: dense, detached, none sharing memory with another."""
    return {name: value.detach().contiguous().clone() for name, value in weights.items()}


def hashes(path: Path) -> dict[str, str]:
    """SHA-256 of the files that make up a finished run; logs and reports may still grow and are left out."""
    names = ["model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
    return {name: sha256(path / name) for name in names if (path / name).exists()}


def damage(folder: Path, manifest: dict[str, str] | None) -> str | None:
    """What is wrong with the files a manifest lists, or None."""
    if manifest is None:
        return "has no MANIFEST.json"
    for name, expected in manifest.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if (actual := sha256(folder / name)) != expected:
            return f"{name} was changed (SHA-256 {actual[:12]}…, written as {expected[:12]}…)"
    return None


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read one checkpoint folder."""
    state = read_json(folder / "state.json")
    return Checkpoint(
        state.pop("step"),
        load_file(folder / "weights.safetensors"),
        load_file(folder / "optimiser.safetensors"),
        state,
    )


def create_run(path: Path, record: dict[str, Any], tokenizer: tokenizers.Tokenizer) -> RunFolder:
    """A new run folder with its tokenizer and a run.json that says it is not finished."""
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save(path)
    run = RunFolder(path, {"version": VERSION, "status": "training", **record})
    run.write_record()
    return run


def open_run(path: Path) -> RunFolder:
    """Open a run; RunError where the folder is not one, or of a format this Textus cannot read."""
    path = Path(path)
    if not path.is_dir():
        raise RunError(f"{path} is not a folder; a run is what `textus train --out` made")
    if not (path / "run.json").exists():
        kind = "a corpus" if (path / "corpus.json").exists() else "no run"
        raise RunError(
            f"{path} has no run.json: it is {kind}; make a run with `textus train CORPUS --out {path}`"
        )
    return RunFolder(path, migrate(read_json(path / "run.json"), str(path / "run.json")))


def verify(path: Path) -> dict[str, str]:
    """Check every file of a run against the hash in run.json; RunError naming the first that differs.

    Returns the files checked with their hashes.
    """
    run = open_run(path)
    if not run.finished:
        raise RunError(f"{path} is not finished; go on with `textus resume {path}`")
    if wrong := damage(run.path, run.record["files"]):
        raise RunError(f"{path}: {wrong}; this run cannot be trusted, use a copy or train again")
    return run.record["files"]


def load(path: Path) -> tuple[LanguageModel, tokenizers.Tokenizer, dict[str, Any]]:
    """A run's model (its weights to use, in evaluation mode), tokenizer and record.

    A run still in training gives its newest good checkpoint. Raises RunError for anything missing or changed.
    """
    run = open_run(path)
    if run.finished:
        verify(path)
        try:
            weights = load_file(run.path / "model.safetensors")
        except SafetensorError as error:
            raise RunError(f"{path}/model.safetensors cannot be read ({error})") from error
    else:
        checkpoint = run.last_checkpoint()
        if checkpoint is None:
            raise RunError(f"{path} has no checkpoint yet; go on with `textus resume {path}`")
        notice(f"{path} is not finished; using its checkpoint at step {checkpoint.step}")
        weights = checkpoint.weights
    model = build(run.record["family"], run.record["config"])
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(
            f"{path}: the weights do not fit the model ({str(error).splitlines()[-1].strip()})"
        ) from error
    model.eval()
    return model, tokenizers.load(run.path), run.record

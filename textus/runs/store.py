"""The run folder: written so that nothing is lost, read so that nothing damaged is believed.

    run.json            what the run is: family, config, settings, seed, compute, corpus, versions, SHA-256
    of the files next to it
    tokenizer.json      and chat_template.jinja, tokenizer_config.json
    model.safetensors   the weights to use (best if validated, else last; run.json records which)
    embeddings.safetensors   the input embedding it began with, where that was made of word vectors
    state/step-N/       weights, optimiser, state.json, MANIFEST.json with the SHA-256 of each
    log.jsonl           a line a logged step; tensorboard/ the same for TensorBoard, where that is installed

No pickle: tensors are safetensors, everything else is JSON. A checkpoint is staged, flushed, hashed
and renamed; the newest one that verifies is the one that counts.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from textus import tokenizers
from textus.core.config import NONE, VERSION, Shape, check_shape, check_version, from_dict
from textus.core.console import log_notice
from textus.core.errors import RunError, TrainingError, UsageError
from textus.core.io import (
    atomic_folder,
    describe_other_kind,
    fsync_path,
    is_disk_full,
    link_or_copy,
    read_json,
    remove_stale_files,
    resolve_record_file,
    sha256,
    write_atomic,
    write_json,
)
from textus.interop import packaging
from textus.models.contract import LanguageModel
from textus.models.nn import lora
from textus.models.nn.heads import build_head
from textus.models.registry import build
from textus.runs.record import RunRecord
from textus.runs.tensorboard import TensorBoardWriter

KEEP = 2
"""How many of the last checkpoints stay, next to the best."""

PARTS = ("weights.safetensors", "optimiser.safetensors", "state.json")
"""What every checkpoint holds, and its manifest must list."""

EMBEDDINGS = "embeddings.safetensors"


@dataclass
class Checkpoint:
    """What training needs to continue from `step` as if it had never stopped."""

    step: int
    weights: dict[str, Tensor]
    optimiser: dict[str, Tensor]
    state: dict[str, Any] = field(default_factory=dict)


class RunFolder:
    """A run on disk: `record` is run.json."""

    def __init__(self, path: Path, record: RunRecord) -> None:
        self.path, self.record = path, record
        self.board = TensorBoardWriter(path / "tensorboard")

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
        self.board.add(line, time.time())

    def cut_log(self, step: int, *, evaluated: int, seconds: float) -> None:
        """Drop what training will log again from `step` on, where it was last evaluated at `evaluated`.

        TensorBoard's files are made anew from what is left; `seconds` is how long training took until `step`.
        """
        path = self.path / "log.jsonl"
        kept = [
            entry
            for entry in read_log(path)
            if entry.get("step", 0) <= (evaluated if "validation" in entry else step)
        ]
        lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in kept]
        write_atomic(path, "".join(lines))
        self.board.restart()
        began = time.time() - seconds
        for entry in kept:
            self.board.add(entry, began + entry.get("seconds", 0))

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint; then drop those that are neither among the last two nor the best."""
        target = self.path / "state" / f"step-{checkpoint.step}"
        with atomic_folder(target) as folder:
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

    def save_state(self, step: int, state: dict[str, Any]) -> None:
        """Replace the state of a checkpoint; its tensors stay the files they are."""
        target = self.path / "state" / f"step-{step}"
        manifest = read_json(target / "MANIFEST.json")
        with atomic_folder(target) as folder:
            for name in set(PARTS) - {"state.json"}:
                link_or_copy(target / name, folder / name)
            write_json(folder / "state.json", {"step": step, **state})
            manifest["state.json"] = sha256(folder / "state.json")
            write_json(folder / "MANIFEST.json", manifest)

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, oldest first (verified or not)."""
        matches = (re.fullmatch(r"step-(\d+)", path.name) for path in (self.path / "state").glob("step-*"))
        return sorted(int(match[1]) for match in matches if match)

    def last_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint whose hashes hold; damaged ones are named and passed over."""
        for step in reversed(self.steps()):
            if checkpoint := self.checkpoint(step, otherwise="going back to the checkpoint before it"):
                return checkpoint
        return None

    def checkpoint(self, step: int, *, otherwise: str) -> Checkpoint | None:
        """The checkpoint of a step; None where it is damaged, after reporting it and what happens instead."""
        folder = self.path / "state" / f"step-{step}"
        if wrong := checkpoint_damage(folder):
            log_notice(f"{folder}: {wrong}; {otherwise}")
            return None
        return read_checkpoint(folder)

    def drop_remains(self, step: int) -> None:
        """Before training continues from `step`: remove what a kill left half written, and damaged later steps."""
        for folder in (self.path / "state").glob(".step-*"):
            shutil.rmtree(folder, ignore_errors=True)
        for later in [other for other in self.steps() if other > step]:
            shutil.rmtree(self.path / "state" / f"step-{later}", ignore_errors=True)

    @contextmanager
    def full_disk_named(self) -> Iterator[None]:
        """Turn a full disk into one line that names the last good checkpoint, which stays."""
        try:
            yield
        except (OSError, SafetensorError) as error:  # safetensors raises its own kind for a failed write
            if not is_disk_full(error):
                raise
            steps = self.steps()
            good = f"the checkpoint of step {steps[-1]} is whole" if steps else "there is no checkpoint yet"
            raise TrainingError(
                "disk_full",
                f"no space left to write to {self.path}; {good}: free some space, then"
                f" `textus resume {self.path}`",
            ) from error

    def drop_checkpoints(self) -> None:
        """Remove the checkpoints of a finished run: only training needed them."""
        shutil.rmtree(self.path / "state", ignore_errors=True)

    def unfinish(self) -> int:
        """Take a finished run back to the checkpoint before its last, as if killed then; returns that step, or 0 where
        it kept none and trains again from the seed.
        """
        for step in self.steps()[-1:]:
            shutil.rmtree(self.path / "state" / f"step-{step}")
        (self.path / "model.safetensors").unlink()
        self.record.pop("files")
        self.record["status"] = "training"
        self.write_record()
        return max(self.steps(), default=0)

    def finish(self, weights: dict[str, Tensor]) -> None:
        """Write the weights to use, then run.json with the hash of every file next to it, last."""
        partial = self.path / ".model.safetensors"
        try:
            save_file(contiguous(weights), partial)
            fsync_path(partial)
            partial.replace(self.path / "model.safetensors")
        finally:
            partial.unlink(missing_ok=True)
        self.record["status"] = "finished"
        self.record["files"] = hashes(self.path)
        self.write_record()


def contiguous(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies safetensors can write: dense, detached, none sharing memory with another."""
    return {name: value.detach().contiguous().clone() for name, value in weights.items()}


def hashes(path: Path) -> dict[str, str]:
    """SHA-256 of the files that make up a finished run; logs and reports may still grow and are left out."""
    return {name: sha256(path / name) for name in RUN_FILES if (path / name).exists()}


RUN_FILES = (
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    EMBEDDINGS,
)
"""What run.json may list."""
ALWAYS = RUN_FILES[:2]
"""What it must list."""


def damage(folder: Path, manifest: Any, known: Sequence[str], needed: Sequence[str] = ()) -> str | None:
    """What is wrong with the files a manifest lists, out of the `known` ones and all of the `needed`, or None.

    A known file that is in the folder and not listed would be used unchecked, so it is damage too.
    """
    if not isinstance(manifest, dict) or not all(isinstance(digest, str) for digest in manifest.values()):
        return "the list of its files was changed"
    paths = {name: resolve_record_file(folder, name, known) for name in manifest}
    for name in known:
        if name not in paths and (name in needed or (folder / name).exists()):
            return f"the list of its files lacks {name}"
    for name, path in paths.items():
        if not path.exists():
            return f"{name} is missing"
        if (actual := sha256(path)) != manifest[name]:
            return f"{name} was changed (SHA-256 {actual[:12]}…, written as {manifest[name][:12]}…)"
    return None


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of log.jsonl in order. The log never decides: a line that a full disk or a kill has cut, or that is
    no entry, is left out with a notice.
    """
    entries: list[dict[str, Any]] = []
    cut: list[int] = []
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):  # also half a character
            entry = line
        if isinstance(entry, dict) and isinstance(entry.get("step", 0), int):
            entries.append(entry)
        elif entry is not None:
            cut.append(number)
    if cut:
        log_notice(f"{path}: {len(cut)} line(s) are damaged and left out, the first is line {cut[0]}")
    return entries


def checkpoint_damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None."""
    try:
        manifest = read_json(folder / "MANIFEST.json")
    except RunError as error:
        return str(error).removeprefix(f"{folder}/")
    if not isinstance(manifest, dict) or set(PARTS) - set(manifest):
        return f"MANIFEST.json does not list {', '.join(PARTS)}"
    try:
        return damage(folder, manifest, PARTS, PARTS)
    except RunError as error:
        return str(error)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read one checkpoint folder."""
    state = read_json(folder / "state.json")
    check_shape(state, {"step": int}, str(folder / "state.json"))
    return Checkpoint(
        state.pop("step"),
        load_file(folder / "weights.safetensors"),
        load_file(folder / "optimiser.safetensors"),
        state,
    )


NUMBER = (NONE, int, float)
CORPUS: Shape = (NONE, {"path": str, "fingerprint": str, "columns?": (NONE, str), "dev?": (NONE, str)})
TASK: dict[str, Any] = {
    "task": str,
    "task_settings": dict,
    "labels": list,
    "label_counts?": list,
    "n_texts?": list,
    "label_type?": str,
    "corpus?": CORPUS,
}
COMPUTE: Shape = {"precision?": str, "attention?": str, "step?": str, "device?": str, "workers?": int}
RECORD: Shape = {
    "status": str,
    "family": str,
    "config": dict,
    "settings": dict,
    "compute": COMPUTE,
    "corpus": CORPUS,
    "tokenizer": {"kind": str, "fingerprint": str},
    "files?": {...: str},
    "heads?": {...: {"kind": str}},
    "task?": (NONE, str),
    "extra_tasks?": {...: TASK},
    "method?": (NONE, str),
    "method_settings?": (NONE, dict),
    "parent?": (NONE, str),
    "parent_weights?": (NONE, str),
    "embeddings?": (NONE, {"tensor_sha256": str}),
    "augment?": (NONE, {"texts": object}),
    "budget?": (NONE, dict),
    "best?": (NONE, dict),
    "weights?": {"step": int},
    "steps?": int,
    "seed?": int,
    "imported?": dict,
    "cpu_seconds?": NUMBER,
    "peak_memory_bytes?": NUMBER,
}
"""What run.json holds; the configs in it are checked by their own classes."""


def create_run(
    path: Path, record: RunRecord, tokenizer: tokenizers.Tokenizer, embeddings: Tensor | None = None
) -> RunFolder:
    """A new run folder, there whole or not at all: its tokenizer and a run.json that marks it as unfinished;
    and the input `embeddings` (V, D) that it begins with, where they are not those of its seed.
    """
    run = RunFolder(path, {"version": VERSION, "status": "training", **record})
    with atomic_folder(path) as folder:
        tokenizer.save(folder)
        if embeddings is not None:
            save_file(contiguous({"embeddings": embeddings}), folder / EMBEDDINGS)
            run.record["embeddings"] = {**record["embeddings"], "tensor_sha256": sha256(folder / EMBEDDINGS)}
        write_json(folder / "run.json", run.record)
    return run


def create_finished(
    path: Path, record: RunRecord, tokenizer: tokenizers.Tokenizer, weights: dict[str, Tensor]
) -> RunFolder:
    """A run folder that needs no training, there whole or not at all. Raises RunError where the disk is full."""
    try:
        with atomic_folder(path) as folder:
            run = RunFolder(folder, {"version": VERSION, **record})
            tokenizer.save(folder)
            run.finish(weights)
    except (OSError, SafetensorError) as error:
        if not is_disk_full(error):
            raise
        raise RunError(
            "disk_full", f"no space left to write {path}; nothing was written: free some space"
        ) from error
    return RunFolder(path, run.record)


A_RUN = "a run is the folder that train, finetune, import or pull wrote (--out)"
"""What to give in place of a folder that is none."""


def open_run(path: Path) -> RunFolder:
    """Open a run; RunError where the folder is not one, or of a format this Textus cannot read."""
    path = Path(path)
    remove_stale_files(path)
    if not (path / "run.json").exists() and (what := packaging.package_kind(path)):
        raise RunError(
            "not_a_run", f"{path} is {what}, not a run; make one of it: textus import {path} --out RUN"
        )
    if not path.is_dir():
        raise RunError("not_a_run", f"{path} {'is not a folder' if path.exists() else 'not found'}; {A_RUN}")
    if not (path / "run.json").exists():
        other = None if (path / "model.safetensors").exists() else describe_other_kind(path)
        raise RunError("not_a_run", f"{path} has no run.json: {other or f'it is no run; {A_RUN}'}")
    record = read_json(path / "run.json")
    if not isinstance(record, dict):
        raise RunError(
            "damaged", f"{path}/run.json holds no record of a run; it was changed, use a copy or train again"
        )
    check_version(record, path, "task run" if "task_settings" in record else "run")
    check_shape(record, RECORD, str(path / "run.json"))
    if record["status"] == "finished":
        check_shape(record, {"files": dict}, str(path / "run.json"))
    if {"task_settings", "labels", "label_counts"} & set(record):
        check_tasks(cast(RunRecord, record), str(path / "run.json"))
    return RunFolder(path, cast(RunRecord, record))


def check_tasks(record: RunRecord, where: str) -> None:
    """RunError where the tasks in run.json are not those of a fine-tuned run."""
    check_shape(record, TASK, where)
    if record.get("heads"):
        check_shape(record["compute"], {"precision": str}, f"{where}: compute")
    for name, task in {where: record, **record.get("extra_tasks", {})}.items():
        if (n := len(task.get("label_counts", []))) and n != len(task["labels"]):
            raise RunError(
                "damaged",
                f"{name}: {len(task['labels'])} labels and counts of {n}; it was changed, use a copy",
            )


def read_embeddings(run: RunFolder) -> Tensor | None:
    """The input embeddings (V, D) a run began with, None where they were those of its seed; RunError where the
    copy in the run is damaged.
    """
    if not (kept := run.record.get("embeddings")):
        return None
    if wrong := damage(run.path, {EMBEDDINGS: kept["tensor_sha256"]}, (EMBEDDINGS,)):
        raise RunError(
            "damaged", f"{run.path}: {wrong}; without it the run cannot continue as it began, train anew"
        )
    return load_file(run.path / EMBEDDINGS)["embeddings"]


def read_tokenizer(run: RunFolder) -> tokenizers.Tokenizer:
    """A run's tokenizer; RunError where it is not the one the run was started with."""
    tokenizer = tokenizers.load(run.path)
    kept = run.record["tokenizer"]["fingerprint"]
    if tokenizer.fingerprint != kept:
        raise RunError(
            "data_changed",
            f"{run.path}/tokenizer.json is another tokenizer than the run was started with (fingerprint"
            f" {tokenizer.fingerprint}, was {kept}); bring the old one back, or train anew with --out elsewhere",
        )
    return tokenizer


def verify(path: Path) -> dict[str, str]:
    """Check every file of a run against the hash in run.json; RunError naming the first that differs.

    Returns the files checked with their hashes.
    """
    run = open_run(path)
    if not run.finished:
        raise RunError("run_unfinished", f"{path} is not finished; continue with `textus resume {path}`")
    if wrong := damage(run.path, run.record["files"], RUN_FILES, ALWAYS):
        raise RunError("damaged", f"{path}: {wrong}; this run cannot be trusted, use a copy or train again")
    return run.record["files"]


def load(path: Path, *, merged: bool = True) -> tuple[LanguageModel, tokenizers.Tokenizer, RunRecord]:
    """A run's model (its weights to use, in evaluation mode), tokenizer and record; adapters are added to the weights
    they adapt, or with `merged` False kept apart.

    A run still in training gives its newest good checkpoint. Raises RunError for anything missing or changed.
    """
    run = open_run(path)
    if run.finished:
        verify(path)
        try:
            weights = load_file(run.path / "model.safetensors")
        except (OSError, SafetensorError) as error:
            raise RunError("damaged", f"{path}/model.safetensors cannot be read ({error})") from error
    else:
        checkpoint = run.last_checkpoint()
        if checkpoint is None:
            raise RunError(
                "run_unfinished", f"{path} has no checkpoint yet; continue with `textus resume {path}`"
            )
        log_notice(f"{path} is not finished; using its checkpoint at step {checkpoint.step}")
        weights = checkpoint.weights
    check_sizes(run, weights)
    model = built(run)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(
            "weights_mismatch",
            f"{path}: the weights do not fit the model ({str(error).splitlines()[-1].strip()})",
        ) from error
    if merged:
        lora.merge_lora(model)
    model.eval()
    return model, read_tokenizer(run), run.record


LARGE = (
    "n_layer",
    "n_encoder_layer",
    "n_decoder_layer",
    "d_model",
    "d_ff",
    "d_hidden",
    "vocab_size",
    "states",
)


def check_sizes(run: RunFolder, weights: dict[str, Tensor]) -> None:
    """RunError for a config that is of another order than the weights, before a model of its sizes takes all memory."""
    total, config = sum(tensor.numel() for tensor in weights.values()), run.record["config"]
    for name in LARGE:
        most = len(weights) if "layer" in name else total
        if isinstance(size := config.get(name), int | float) and size > most + 100:
            raise RunError(
                "damaged",
                f"{run.path}/run.json has {name}={size!r:.40}, its weights are {len(weights)} tensors of {total:,}"
                " values in all; it was changed, use a copy",
            )


def built(run: RunFolder) -> LanguageModel:
    """The model that a run's record describes, with its heads and adapters, the weights still to be read. RunError
    where none can be built of it.
    """
    record = run.record
    try:
        model = build(record["family"], record["config"])
        for name, spec in record.get("heads", {}).items():
            model.heads[name] = build_head(spec, model.config.d_model)
        if record.get("method") == "lora":
            lora.add_lora(model, from_dict(lora.LoRASettings, record["method_settings"], "method."))
    except RunError:
        raise
    except UNUSABLE as error:
        text = (
            " ".join(str(error).split())
            if isinstance(error, UsageError)
            else f"{type(error).__name__}: {error}"
        )
        raise RunError(
            "damaged",
            f"{run.path}/run.json describes no model that can be built ({text:.300}); it was changed, use a copy",
        ) from error
    return model


UNUSABLE = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What a value that cannot be raises, wherever it is first used."""

"""Training of tasks whose answer is a text: batches of its rows, and the model's own loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from textus.core import hardware
from textus.core.errors import UsageError
from textus.data.batch import Batch
from textus.models.contract import LanguageModel
from textus.tasks.base import Example
from textus.tasks.generation import GenerationTask
from textus.tokenizers import Tokenizer
from textus.training.autotune import micro_batches
from textus.training.gradients import GradientAccumulator
from textus.training.optim import OptimSettings
from textus.training.pretrain import TrainingSetup
from textus.training.trainer import ComputeConfig, TrainSettings, check_patience, validation_loss

TOKENS_PER_STEP = 8192
"""Ids of a step, sources and targets, of a new model."""
MAX_BATCH_SIZE = 256
MIN_STEPS_PER_EPOCH = 20
VALIDATION_PAIRS = 1000
"""Held-out pairs of which the loss is computed while training."""

TrainDevRows = tuple[list[Any], list[Any]]
"""Rows of ids to train on, and those held out."""


def encode(
    task: GenerationTask,
    train: Sequence[Example],
    dev: Sequence[Example],
    model: LanguageModel,
    tokenizer: Tokenizer,
) -> TrainDevRows:
    """Training and held-out rows as ids. Raises UsageError for a family that cannot be trained for the task."""
    return task.id_rows(train, model, tokenizer), task.id_rows(dev, model, tokenizer)


def default_batch_size(task: GenerationTask, rows: Sequence[Any]) -> int:
    """Rows of a step: about `TOKENS_PER_STEP` ids, and at least `MIN_STEPS_PER_EPOCH` steps an epoch."""
    length = fmean(task.row_length(row) for row in rows)
    size = min(TOKENS_PER_STEP / length, MAX_BATCH_SIZE, len(rows) / MIN_STEPS_PER_EPOCH)
    return max(4, round(size / 4) * 4)


def new_model_settings(train: TrainSettings, given: Sequence[str]) -> TrainSettings:
    """The settings of a model trained from scratch: Muon, as in pre-training, unless an optimiser is `given`."""
    if any(assignment.startswith(("optimiser=", "rate=", "schedule=")) for assignment in given):
        return train
    return replace(train, optim=OptimSettings(warmup=max(20, train.steps // 20)))


def with_workers(compute: ComputeConfig, model: LanguageModel, given: Sequence[str]) -> ComputeConfig:
    """All cores for a family that can share a batch among them, unless the number is `given`."""
    shareable = model.capabilities.counter_based_dropout or not getattr(model.config, "dropout", 0.0)
    if not shareable or any(assignment.startswith("workers=") for assignment in given):
        return compute
    return replace(compute, workers=hardware.usable_cores() if compute.device == "cpu" else 1)


def setup(
    task: GenerationTask,
    model: LanguageModel,
    tokenizer: Tokenizer,
    rows: TrainDevRows,
    *,
    compute: ComputeConfig,
    train: TrainSettings,
) -> TrainingSetup:
    """What `fit` takes; `rows` are those to train on and those held out."""
    batches = task.id_loader(rows[0], model, tokenizer, batch_size=train.batch_size, seed=train.seed)
    held_rows = rows[1][:VALIDATION_PAIRS]
    size = task.held_out_batch
    held = task.id_loader(held_rows, model, tokenizer, batch_size=size, seed=0, shuffle=False)
    validation = [held.batch(number) for number in range(held.n_batches)]

    def evaluate(model: LanguageModel) -> dict[str, Any]:
        nats = validation_loss(model, validation)
        return {"validation": round(nats, 6), **task.loss_figures(nats, held_rows)}

    check_patience(model, train, evaluate)
    pieces = train.micro_batches
    if pieces == 1:
        pieces = micro_batches(positions(batches.batch(0)), train.batch_size, compute.workers)
    backward = GradientAccumulator(model, compute.workers).of_all(pieces)
    return TrainingSetup(model, batches, train, backward, evaluate)


def positions(batch: Batch) -> int:
    """Ids of a batch, padding and sources included."""
    return int(batch.ids.numel()) + (0 if batch.source is None else int(batch.source.numel()))


def check_options(tasks: Sequence[Any], augmented: bool) -> None:
    """UsageError for a task that writes texts with other tasks, or with augmentation, which keeps labels only."""
    writing = next((task.name for task in tasks if isinstance(task, GenerationTask)), None)
    if writing is None:
        return
    given = "--extra-task" if len(tasks) > 1 else "--augment" if augmented else None
    if given:
        raise UsageError(
            "conflicting_options",
            f"{given} does not go with {writing}, a task that writes texts; leave it out",
        )

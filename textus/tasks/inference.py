"""A model with the head of a task: hidden states, losses, predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from textus.core.errors import RunError, UsageError
from textus.data.batch import Batch
from textus.models.contract import LanguageModel, Loss, RawTextModel, step_seed
from textus.models.nn.heads import build_head
from textus.tasks.base import EncodedExample, Example, Task, joined_text
from textus.tasks.encoding import collate, encode_examples, input_template, length_batches
from textus.tasks.generation import PairTask, write_texts
from textus.tokenizers import Tokenizer


@torch.inference_mode()
def predict_ids(
    model: LanguageModel, task: Task, rows: Sequence[EncodedExample], pad_id: int, *, finite: bool = False
) -> list[Any]:
    """The outputs for the examples of these rows, in order; rows of similar length share a batch. `finite`: raises
    RunError for states that are NaN or infinite.
    """
    head, device = model.heads[task.head_name], next(model.parameters()).device
    results: list[Any] = [None] * len(rows)
    for places in length_batches([row.length * (1 + len(row.other_ids)) for row in rows]):
        batch = collate(task, [rows[place] for place in places], pad_id).to(device)
        hidden = hidden_states(model, batch)
        outputs = task.predict(head, hidden, batch)
        if finite:
            check_finite(hidden if batch.mask is None else hidden[batch.mask.bool()], outputs)
        for place, output in zip(places, outputs, strict=True):
            results[place] = output
    return task.aggregate_windows(rows, results)


def check_finite(hidden: Tensor, outputs: Sequence[Any]) -> None:
    """Raises RunError for NaN or infinity in states (…, D), or NaN in the outputs of a head."""
    numbers = [output for output in outputs if isinstance(output, np.ndarray)]
    if not bool(hidden.isfinite().all()) or any(np.isnan(array).any() for array in numbers):
        raise RunError(
            "invalid_weights",
            "the model computes NaN or infinite numbers, so there is no answer: its weights are damaged, or its"
            " training failed; take an earlier checkpoint, or fetch it again",
        )


def add_head(model: LanguageModel, task: Task) -> None:
    """Give a model the task's head. Raises UsageError for a family without hidden states."""
    if not hasattr(model, "hidden"):
        raise UsageError(
            "unsupported_model",
            f"a {type(model).__name__} has no hidden states for a head; for {task.name} take a neural family, such as"
            " --model lstm or encoder",
        )
    model.heads[task.head_name] = build_head(task.head_spec(), model.config.d_model)


def hidden_states(model: LanguageModel, batch: Batch) -> Tensor:
    """The model's last states (B, T, D), or (B, N, T, D) for N texts that are encoded separately; dropout follows from
    the batch's position.
    """
    seeded = model.training and model.capabilities.counter_based_dropout
    seed = {"seed": step_seed(batch, "dropout")} if seeded else {}
    tensors = (batch.ids, batch.mask, batch.segments)
    parts = [None if tensor is None else tensor.flatten(0, -2) for tensor in tensors]
    hidden: Tensor = model.hidden(*parts, **seed)  # type: ignore[operator]
    return hidden.unflatten(0, batch.ids.shape[:-1])


def head_loss(model: LanguageModel, batch: Batch) -> Loss:
    """The loss of the batch's head for `training.gradients.GradientAccumulator`; with several heads also as a part with
    its name. The other heads have no gradient (None), so that no optimiser moves or decays them in that step.
    """
    assert batch.task is not None
    loss: Loss = model.heads[batch.task].loss(hidden_states(model, batch), batch)  # type: ignore[operator]
    if len(model.heads) > 1:
        loss.parts[f"loss/{batch.task}"] = float(loss.total.detach())
    return loss


def predict_texts(
    model: LanguageModel, task: Task, tokenizer: Tokenizer, examples: Sequence[Example]
) -> list[Any]:
    """The task's outputs for examples."""
    if isinstance(task, PairTask):
        return list(write_texts(model, task, tokenizer, examples))
    if isinstance(model, RawTextModel):
        return list(model.predict_probabilities([joined_text(example) for example in examples], task.labels))
    template = input_template(model.config, tokenizer, task.max_length)
    rows = encode_examples(task, examples, tokenizer, template)
    return predict_ids(model, task, rows, tokenizer.pad_id, finite=True)

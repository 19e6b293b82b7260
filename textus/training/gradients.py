"""Gradients of a batch, micro-batch by micro-batch: what `training.trainer.fit` takes as `backward`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from textus.core.errors import TrainingError, UsageError
from textus.data.batch import Batch
from textus.models.contract import LanguageModel, Loss

GetLoss = Callable[[LanguageModel, Batch], Loss]
Backward = Callable[[LanguageModel, Batch, int], tuple[Loss, Sequence[str]]]
"""Gradients made in another way than from one loss (GANs, private training): called with the model, the step's whole
batch and the step, it fills `.grad` and returns what to log and the names of the parameter groups to step. The other
groups stay as they are, whatever gradients they got."""


class GradientAccumulator:
    """Gradients of a whole batch, micro-batch by micro-batch, on one or more threads.

    Each micro-batch has gradients of its own and they are added in order: any number of workers gives the
    same bytes. One thread
    a worker meets the others once a step, where threads inside each operation would meet hundreds of times,
    which
    on a shared machine costs ten times the work.
    """

    def __init__(self, model: LanguageModel, workers: int = 1, loss: GetLoss | None = None) -> None:
        dropout = any(isinstance(part, torch.nn.Dropout) and part.p > 0 for part in model.modules())
        if workers > 1 and dropout and not getattr(model, "native", False):
            raise UsageError(
                "conflicting_options",
                f"compute.workers={workers} with dropout: the workers would share one stream of random numbers, and no"
                " two runs would be alike; set compute.workers=1 or model.dropout=0",
            )
        self.model, self.workers = model, workers
        self.loss = loss or (lambda model, batch: model.loss(batch))
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.pool = (
            ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
            if workers > 1
            else None
        )

    def of_all(self, pieces: int) -> Backward:
        """As `fit` takes them: gradients of the loss for every group, from so many micro-batches."""
        names = list(self.model.parameter_groups())
        return lambda model, batch, step: (self.compute(batch, pieces), names)

    def compute(self, batch: Batch, pieces: int) -> Loss:
        """Fill every parameter's `.grad` with the gradient of the mean over the batch's targets; returns the
        loss.
        """
        micro = batch.micro(pieces)
        weight = float(batch.weights.sum())
        if weight <= 0:
            raise TrainingError(
                "too_little_data",
                f"batch {batch.position} has no target with a weight above zero: the corpus has too little text",
            )
        total, parts = torch.zeros((), device=self.parameters[0].device), dict[str, float]()
        for parameter in self.parameters:
            parameter.grad = None
        held: set[int] = (
            set()
        )  # parameters that are only ever added get one tensor for both: each needs its own
        for loss, gradients in self._gradients(micro, weight):
            total += loss.total.detach()
            for name, value in loss.parts.items():
                parts[name] = parts.get(name, 0.0) + value
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                if gradient is None:
                    continue
                if parameter.grad is not None:
                    parameter.grad += gradient
                else:
                    parameter.grad = gradient.clone() if gradient.data_ptr() in held else gradient
                    held.add(gradient.data_ptr())
        return Loss(total, weight, parts)

    def _gradients(
        self, micro: list[Batch], weight: float
    ) -> Iterator[tuple[Loss, tuple[Tensor | None, ...]]]:
        if self.pool is None:
            yield from (self._gradient(piece, weight) for piece in micro)
        else:
            yield from self.pool.map(lambda piece: self._gradient(piece, weight), micro)

    def _gradient(self, batch: Batch, weight: float) -> tuple[Loss, tuple[Tensor | None, ...]]:
        loss = self.loss(self.model, batch.to(self.parameters[0].device))
        return loss, torch.autograd.grad(loss.total / weight, self.parameters, allow_unused=True)


def clip(parameters: list[torch.nn.Parameter], most: float) -> float:
    """Scale gradients down to a norm of `most` where it is larger, and only then; returns what it was."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(gradients))
    if norm > most:
        torch._foreach_mul_(gradients, most / (norm + 1e-6))
    return norm

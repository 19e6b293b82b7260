"""A head that is solved, not trained: logistic or ridge regression on the vectors of a model that stays as it is.

Few rows cannot move the weights of an encoder to where they are of use, but its vectors separate classes already
(Tunstall et al. 2022 call it SetFit's second half); and a head that begins there lets fine-tuning distort less of what
the encoder knows (Kumar et al. 2022). The objective is convex: L-BFGS finds its one minimum, whatever the seed.

Shapes: N rows, F components of a vector, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from textus.core.console import log_notice, progress
from textus.core.rng import derive_seed
from textus.models.contract import LanguageModel
from textus.models.nn.heads import RegressionHead, SequenceHead
from textus.tasks.base import EncodedExample, Task
from textus.tasks.encoding import collate, length_batches
from textus.tasks.inference import hidden_states

HEADS = ("sequence", "number")
"""Kinds of heads that are a linear layer on one vector of a text."""
MOST_CLASSES = 500
"""More of them take longer to solve than to train."""
MOST_ROWS = 2000
"""Rows that a head is solved on; of more, so many are drawn."""
STRENGTHS = (0.1, 1.0, 10.0, 100.0)
"""Weights of the rows against the penalty (scikit-learn's C) that are tried, on vectors whose mean squared distance
from their mean is one."""
MOST_STEPS = 500
TOLERANCE = 1e-6
"""Largest component of the gradient at the minimum."""


@dataclass(frozen=True)
class RegressionProblem:
    """What a linear layer is to fit: vectors (N, F) float64, and targets: `classes` (N,), `labels` (N, C) of 0 and 1,
    or `numbers` (N, C). `weights` (N,) is what a row counts.
    """

    kind: str
    vectors: Tensor
    targets: Tensor
    n_outputs: int
    weights: Tensor

    def losses(self, scores: Tensor, rows: Tensor) -> Tensor:
        """Nats or squared errors of some rows: (n,)."""
        targets = self.targets[rows]
        if self.kind == "classes":
            losses = F.cross_entropy(scores, targets, reduction="none")
        elif self.kind == "labels":
            losses = F.binary_cross_entropy_with_logits(scores, targets, reduction="none").sum(1)
        else:
            losses = (scores - targets).square().sum(1) / 2
        return self.weights[rows] * losses

    def figure(self, scores: Tensor) -> tuple[str, float]:
        """How good scores (N, C) of all rows are: accuracy, exact matches, or R²."""
        if self.kind == "classes":
            return "accuracy", float((scores.argmax(1) == self.targets).double().mean())
        if self.kind == "labels":
            return "exact matches", float(((scores >= 0) == (self.targets > 0)).all(1).double().mean())
        spread = (self.targets - self.targets.mean(0)).square().sum()
        return "R²", float(1 - (scores - self.targets).square().sum() / spread.clamp(min=1e-12))


@dataclass(frozen=True)
class Solution:
    """A linear layer, the strength it was chosen with, and what each row was given by layers that had not seen it."""

    weight: Tensor  # (C, F)
    bias: Tensor  # (C,)
    strength: float
    parts: int
    held_out: Tensor  # (N, C) scores


def can_be_solved(head: dict[str, Any]) -> bool:
    """Whether the head of this description (`Task.head_spec`) is solved first."""
    return head["kind"] in HEADS and head.get("n_labels", 1) <= MOST_CLASSES


def init_head(
    model: LanguageModel, task: Task, rows: Sequence[EncodedExample], pad_id: int, seed: int
) -> dict[str, Any]:
    """Solve the task's head on the model as it is and put the solution in; its score is reported on rows it has
    not seen. Returns what run.json notes of it.
    """
    random = np.random.Generator(np.random.Philox(derive_seed(seed, "solved")))
    places = np.sort(random.permutation(len(rows))[:MOST_ROWS])
    problem = problem_of(model, task, [rows[place] for place in places], pad_id)
    solution = solve(problem)
    with torch.no_grad():
        head: Any = model.heads[task.head_name]
        head.out.weight.copy_(solution.weight)
        head.out.bias.copy_(solution.bias)
    name, value = problem.figure(solution.held_out)
    log_notice(
        f"the head of {task.head_name} begins as a linear model solved on the vectors of {len(places):,} rows: {name}"
        f" {value:.3g} in cross-validation"
    )
    return {
        "rows": len(places), "strength": solution.strength, "parts": solution.parts, "figure": name,
        "value": round(value, 6),
    }  # fmt: skip


@torch.no_grad()
def problem_of(
    model: LanguageModel, task: Task, rows: Sequence[EncodedExample], pad_id: int
) -> RegressionProblem:
    """What the task's head is to fit on the states of the model as it is."""
    head, device = model.heads[task.head_name], next(model.parameters()).device
    was_training = model.training
    model.eval()
    vectors: list[Tensor] = [torch.empty(0)] * len(rows)
    for places in length_batches([row.length for row in rows]):
        batch = collate(task, [rows[place] for place in places], pad_id).to(device)
        features = head.features(hidden_states(model, batch), batch).double().cpu()  # type: ignore[operator]
        for place, vector in zip(places, features, strict=True):
            vectors[place] = vector
    model.train(was_training)
    labels = task.label_tensor([row.label for row in rows], max(row.length for row in rows))
    weights = torch.ones(len(rows), dtype=torch.float64)
    if isinstance(head, RegressionHead):
        kind, targets = "numbers", head.standardise(labels).double()
    else:
        assert isinstance(head, SequenceHead)
        kind = {"single": "classes", "multi": "labels", "regression": "numbers"}[head.task]
        targets = labels if kind == "classes" else labels.double()
        if head.weights is not None:
            weights = head.weights.double()[labels]
    return RegressionProblem(kind, torch.stack(vectors), targets, head.out.weight.shape[0], weights)


def solve(problem: RegressionProblem) -> Solution:
    """The layer whose strength, of `STRENGTHS`, does best on rows that are held out in turn."""
    mean = problem.vectors.mean(0)
    centred = problem.vectors - mean
    scale = centred.square().sum(1).mean().sqrt().clamp(min=1e-12)
    n, width = centred.shape
    basis = torch.eye(width, dtype=torch.float64)
    if n < width:  # n rows span at most n directions
        basis = torch.linalg.svd(centred, full_matrices=False).Vh.T
    inputs = torch.cat([centred @ basis / scale, torch.ones(n, 1, dtype=torch.float64)], 1)
    parts = assign_folds(problem)
    best: tuple[tuple[float, float], float, Tensor] | None = None
    starts: list[Tensor | None] = [None] * (int(parts.max()) + 1)
    with progress("solving the head", len(STRENGTHS) * len(starts)) as advance:
        for strength in STRENGTHS:
            held_out = torch.zeros(n, problem.n_outputs, dtype=torch.float64)
            for part in range(len(starts)):
                kept, out = (parts != part).nonzero()[:, 0], (parts == part).nonzero()[:, 0]
                starts[part] = layer = fit_linear_layer(problem, inputs, kept, strength, starts[part])
                held_out[out] = inputs[out] @ layer
                advance()
            loss = float(problem.losses(held_out, torch.arange(n)).mean())
            rank = (
                -problem.figure(held_out)[1],
                loss,
            )  # with few rows, the loss alone favours near-uniform predictions
            if best is None or rank < best[0]:
                best = (rank, strength, held_out)
    assert best is not None
    layer = fit_linear_layer(problem, inputs, torch.arange(n), best[1], None)
    weight = (basis @ layer[:-1] / scale).T
    return Solution(weight, layer[-1] - weight @ mean, best[1], len(starts), best[2])


def assign_folds(problem: RegressionProblem) -> Tensor:
    """In which part each row is held out (N,): of ten up to 500 rows, then of three; each
    part has its share of every class.
    """
    n = len(problem.vectors)
    n_parts = min(n, 10 if n <= 500 else 3)
    keys = problem.targets if problem.kind == "classes" else problem.targets[:, 0]
    parts = torch.empty(n, dtype=torch.long)
    parts[torch.argsort(keys, stable=True)] = torch.arange(n) % n_parts
    return parts


def fit_linear_layer(
    problem: RegressionProblem, inputs: Tensor, rows: Tensor, strength: float, start: Tensor | None
) -> Tensor:
    """The layer (F + 1, C), its bias last and free, that has the least loss on some rows plus the penalty: by L-BFGS
    (Liu and Nocedal 1989), of numbers by the normal equations.
    """
    shape = (inputs.shape[1], problem.n_outputs)
    if problem.kind == "numbers":
        seen = inputs[rows] * problem.weights[rows, None]
        penalties = torch.full(shape[:1], 1 / strength, dtype=torch.float64)
        penalties[-1] = 0.0
        return torch.linalg.solve(seen.T @ inputs[rows] + penalties.diag(), seen.T @ problem.targets[rows])
    layer = torch.zeros(shape, dtype=torch.float64) if start is None else start.clone()
    layer.requires_grad_()
    given = inputs[rows]
    optimiser = torch.optim.LBFGS(
        [layer], max_iter=MOST_STEPS, max_eval=2 * MOST_STEPS, tolerance_grad=TOLERANCE, tolerance_change=1e-14,
        history_size=10, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimiser.zero_grad()
        penalty = layer[:-1].square().sum() / (2 * strength)
        loss = (problem.losses(given @ layer, rows).sum() + penalty) / len(rows)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)
    return layer.detach()

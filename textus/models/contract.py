"""The contract every model family keeps.

A model is a `torch.nn.Module`, so that its `state_dict` is what a run folder stores. Shapes: B batch, T time,
V vocabulary, D width. The methods:

``config``                             a dataclass of JSON values; always with `vocab_size`; `context_length` is None
                                       where a family can read any length
``config_class``                       that dataclass, for a family that an installed package registers
``forward(ids, cache=None, lengths=None)``
                                       ids (B, T) → logits (B, T, V), log-probabilities are fine; with a cache the ids
                                       continue what it remembers; rows are right-padded, and ids past `lengths[b]`
                                       leave row b's cache unchanged
``hidden(ids, mask=None, segments=None)``   (B, T, D), neural families only; those of `counted_dropout`
                                       take the `seed` it is drawn from, too
``loss(batch) -> Loss``                the family's own objective over a `data.batch.Batch`
``score(batch) -> (nats, kind)``       nats per token (B, T), zero where `batch.weights` is zero; kind is exact, bound
                                       or pseudo
``new_cache(batch_size, length, source=None) -> DecodeCache``   capacity for `length` positions per row
``parameter_groups() -> dict[str, list[Parameter]]``      named groups, one optimiser and one clip each
``heads``                              name → head

What differs between families is declared in ``capabilities`` (`Capabilities`). Families that count are `CountBased`,
those that read texts instead of ids `RawTextModel`. Optional:

``backward(batch, step)``              a family's own way to compute gradients (`training.gradients.Backward`)
``validation_metrics(batches)``        further metrics for the log and `evaluate`; ``per_text_metrics(batch)`` gives
                                       those with a value per text, for intervals; ``diagnose(metrics)`` is a warning
``step_schedule(steps)``               how many steps of each kind there are, where steps differ
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from textus.core.names import unknown_name_error
from textus.core.rng import derive_seed
from textus.data.batch import Batch


@dataclass
class Loss:
    """A weighted sum over real targets, and the weight it is to be divided by.

    Kept apart so that accumulation over micro-batches, padding and packing change nothing: sum the totals,
    sum the
    weights, divide once. `parts` are named sums for the log, divided by the same weight.
    """

    total: Tensor  # () nats, summed over targets; differentiable
    weight: float
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def mean(self) -> Tensor:
        """Nats per target."""
        return self.total / max(self.weight, 1e-12)


class DecodeCache(Protocol):
    """What a family remembers of each row's prefix; `forward` changes it in place.

    A cache that has `reorder(rows)`, a `select` that may change what it was called on, is faster at beam search.
    """

    lengths: Tensor  # (B,) how many ids each row has seen
    can_rewind: bool

    def select(self, rows: list[int]) -> DecodeCache:
        """A cache of only these rows, in this order."""
        ...

    def join(self, other: DecodeCache) -> DecodeCache:
        """A cache of these rows followed by the other's."""
        ...


@dataclass(frozen=True)
class Capabilities:
    """What a family can do and what it needs, for callers that treat families differently."""

    can_generate: bool = True  # it has a decode cache
    is_causal: bool = True  # it reads earlier ids only; the others read `batch.targets`
    needs_source: bool = False  # it makes a text from another: `batch.source` and `new_cache(source=…)`
    one_document_per_row: bool = False  # instead of packed windows
    counter_based_dropout: bool = False  # drawn from `step_seed` alone, so that workers can share a batch
    use_last_checkpoint: bool = False  # instead of the one with the best validation
    overlap: int = 0  # ids of left context that each window repeats with weight zero
    likelihood: str = "exact"  # what `score` gives: "exact", "bound" or "pseudo"
    precisions: tuple[str, ...] = ("float32",)
    step_kinds: tuple[str, ...] = ("eager",)


@runtime_checkable
class CountBased(Protocol):
    """A family that is estimated by counting: `count` for every batch of a pass over the corpus, then `update`."""

    def n_passes(self) -> int:
        """How many passes over the corpus it takes."""
        ...

    def count(self, batch: Any) -> None:
        """Add the counts of one batch."""
        ...

    def update(self) -> Loss:
        """Estimate the parameters from the counts of one pass."""
        ...


@runtime_checkable
class RawTextModel(Protocol):
    """A classifier without hidden states that reads texts instead of ids."""

    def predict_probabilities(self, texts: Sequence[str], labels: Sequence[str]) -> Any:
        """Probabilities (N, C) of the labels, as an array."""
        ...


class TensorCache:
    """A `DecodeCache` of tensors and other caches: `ROW_DIM` maps the name of each tensor to the dimension of the
    batch, `PARTS` names the caches.
    """

    can_rewind = False
    ROW_DIM: ClassVar[dict[str, int]]
    PARTS: ClassVar[tuple[str, ...]] = ()
    lengths: Tensor

    def _with(self, state: dict[str, Any]) -> Self:
        cache = copy.copy(self)
        vars(cache).update(state)
        return cache

    def select(self, rows: list[int]) -> Self:
        """A cache of only these rows, in this order."""
        index = torch.tensor(rows, dtype=torch.long, device=self.lengths.device)
        tensors = {name: getattr(self, name).index_select(dim, index) for name, dim in self.ROW_DIM.items()}
        return self._with(tensors | {name: getattr(self, name).select(rows) for name in self.PARTS})

    def join(self, other: Self) -> Self:
        """A cache of these rows followed by the other's."""
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in self.ROW_DIM}
        tensors = {name: torch.cat(pair, self.ROW_DIM[name]) for name, pair in pairs.items()}
        parts = {name: getattr(self, name).join(getattr(other, name)) for name in self.PARTS}
        return self._with(tensors | parts)


class LanguageModel(nn.Module):
    """Defaults of the contract; a family overrides what it does differently."""

    config: Any
    config_class: ClassVar[type]
    capabilities: Capabilities = Capabilities()
    backward: Any = None
    matrix_modules: ClassVar[tuple[str, ...]] = ()
    """Attributes whose matrices `parameter_groups` keeps apart: blocks or layers."""

    @classmethod
    def config_for_size(cls, n_layer: int, d_model: int, context_length: int) -> dict[str, Any]:
        """Config values for the size a preset or a depth asks for, which is a Transformer's; what the family's
        config does not know is left out by the caller.
        """
        heads = max(1, d_model // 64)
        return {
            "n_layer": n_layer, "d_model": d_model, "context_length": context_length, "n_head": heads
        }  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict()

    @classmethod
    def required_batch_fields(cls, config: Any) -> tuple[str, ...]:
        """Batch fields this config needs besides ids and targets: `word_starts`, `sentence_pairs`."""
        return ()

    def validation_metrics(self, batches: list[Batch]) -> dict[str, Any]:
        """Further metrics of validation batches for the log."""
        return {}

    def per_text_metrics(self, batch: Batch) -> dict[str, Tensor]:
        """Those of `validation_metrics` that are means over texts: name → a value per text (N,)."""
        return {}

    def diagnose(self, metrics: dict[str, Any]) -> str | None:
        """A one-line warning about what `validation_metrics` reveal, or None."""
        return None

    def step_schedule(self, steps: int) -> dict[int, int]:
        """A step of each kind this family takes, and how many of the first `steps` are of its kind: by the time
        these take, a budget is planned.
        """
        return {0: steps}

    def forward(self, ids: Tensor, cache: Any = None, lengths: Tensor | None = None) -> Tensor:
        raise TypeError(f"{type(self).__name__} has no forward")

    def new_cache(self, batch_size: int, length: int, source: Tensor | None = None) -> Any:
        raise TypeError(f"{type(self).__name__} has no cache")

    def loss(self, batch: Batch) -> Loss:
        """Cross-entropy of the targets, weighted; nats."""
        nats, _ = self.score(batch)
        total = nats.sum()
        return Loss(total, float(batch.weights.sum()))

    def score(self, batch: Batch) -> tuple[Tensor, str]:
        """Nats of each target under the model: (B, T), zero where the weight is zero; and the kind of
        likelihood.
        """
        return token_nll(self.forward(batch.ids).float(), batch), self.capabilities.likelihood

    def set_compute(self, precision: str, attention: str, step: str) -> None:
        """Set how the arithmetic is done (`training.trainer.ComputeConfig`), out of `precisions` and
        `step_kinds`; a family without these options takes the plain ones.
        """
        for setting, value, known in (
            ("precision", precision, self.capabilities.precisions),
            ("step", step, self.capabilities.step_kinds),
        ):
            if value not in known:
                raise unknown_name_error(f"{setting} of a {type(self).__name__.lower()}", value, known)

    def varlen_unsupported_reason(self) -> str | None:
        """Why no kernels compute this model's states without padding (`unpadded`), or None where some do."""
        return "this family has no such kernels"

    def set_inference_compute(self, precision: str) -> None:
        """Set the arithmetic for inference: the precision of training, and native kernels where they exist."""
        unpadded = precision == "bfloat16" and not self.varlen_unsupported_reason()
        self.set_compute(precision, "plain", "unpadded" if unpadded else "eager")

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All parameters under one optimiser, or those of `matrices_and_other` with `matrix_modules`."""
        if not self.matrix_modules:
            return {"all": [p for p in self.parameters() if p.requires_grad]}
        modules = [getattr(self, name) for name in self.matrix_modules]
        return matrices_and_other(self, [p for part in modules for p in part.parameters() if p.ndim == 2])


class HeadedModel(LanguageModel):
    """A family whose logits are the product of its states and `head_weight`; without a head, of the embedding."""

    embedding: nn.Embedding
    head: Any  # Linear, or None where the embedding is the head too

    def _logits(self, hidden: Tensor) -> Tensor:
        return nn.functional.linear(hidden, self.head_weight.to(hidden.dtype)).float()

    @property
    def head_weight(self) -> Tensor:
        """(V, D)."""
        weight: Tensor = self.embedding.weight if self.head is None else self.head.weight
        return weight


def step_seed(batch: Batch, use: str) -> int:
    """The seed of one use of randomness in the step on a batch or a piece of it: dropout, noise, texts drawn.

    torch's own seed is the run's and the step's, for `fit` sets it anew each step; it is read and nothing is drawn
    from it, so that workers share nothing.
    """
    return derive_seed(torch.initial_seed(), use, batch.position, batch.piece)


def token_nll(logits: Tensor, batch: Batch) -> Tensor:
    """Nats of each target (B, T) under logits (B, T, V), zero where the weight is zero."""
    nats = nn.functional.cross_entropy(logits.transpose(1, 2), batch.targets, reduction="none")
    return nats * batch.weights


def matrices_and_other(model: nn.Module, matrices: list[nn.Parameter]) -> dict[str, list[nn.Parameter]]:
    """Parameter groups: `matrices`, which Muon moves, and all else that learns (embeddings, head, norms, biases)."""
    chosen = {id(p) for p in matrices}
    other = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    return {"matrices": matrices, "other": other}

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
``new_cache(batch_size, length, source=None) -> DecodeCache``   room for `length` positions a row
``parameter_groups() -> dict[str, list[Parameter]]``      named groups, one optimiser and one clip each
``heads``                              name → head

Count models learn by ``count(batch)`` for every batch of a pass and ``update() -> Loss`` at its end, and set
``counts = True`` and ``passes`` (how many passes they want). ``overlap`` is how many ids of left context each
window repeats with weight zero. ``whole_documents`` is True for families that read a document a row, not
packed windows. ``needs_source`` is True for families that make a text from another: `batch.source`,
``new_cache(source=…)``; without one they read an empty source. ``counted_dropout`` is True where dropout
follows from `step_seed` alone, so that workers may share a batch. ``can_generate`` is False
for families without a cache, ``causal`` is False for those that read later ids too; they read
``batch.targets``. ``backward(batch, step)`` is a family's own way of making gradients (`training.gradients.Backward`);
``keeps_last`` is True where the last weights are the ones to use, whatever validation says of those before.
``findings(batches)`` are more figures for the log and `evaluate`, ``text_findings(batch)`` those of each text, from
which `evaluate` tells an interval; ``trouble(found)`` says what is wrong with them, where something
is. ``reads_texts`` is True for a family without states that answers from a text itself, by ``answers(texts, labels)``.
``turns(steps)`` tells how many steps of each kind there are, for a family whose steps are not all alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

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
    """What a family remembers of each row's prefix; `forward` changes it in place."""

    lengths: Tensor  # (B,) how many ids each row has seen
    can_rewind: bool

    def select(self, rows: list[int]) -> DecodeCache:
        """A cache of only these rows, in this order."""
        ...

    def join(self, other: DecodeCache) -> DecodeCache:
        """A cache of these rows followed by the other's."""
        ...


class LanguageModel(nn.Module):
    """Defaults of the contract; a family overrides what it does differently."""

    config: Any
    config_class: ClassVar[type]
    counts = False
    passes = 1
    overlap = 0
    can_generate = True
    needs_source = False
    whole_documents = False
    counted_dropout = False
    reads_texts = False
    keeps_last = False
    backward: Any = None
    causal = True
    kind = "exact"
    precisions: tuple[str, ...] = ("float32",)
    step_kinds: tuple[str, ...] = ("eager",)

    @classmethod
    def sized(cls, n_layer: int, d_model: int, context_length: int) -> dict[str, Any]:
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
    def wants(cls, config: Any) -> tuple[str, ...]:
        """What batches for this config must carry beside ids and targets: `word_starts`, `sentence_pairs`."""
        return ()

    def findings(self, batches: list[Batch]) -> dict[str, Any]:
        """What the log says of validation batches beside their loss."""
        return {}

    def text_findings(self, batch: Batch) -> dict[str, Tensor]:
        """Those of `findings` that are means over texts, with a value a text: name → (N,)."""
        return {}

    def trouble(self, found: dict[str, Any]) -> str | None:
        """One line on what `findings` show to be wrong with the model, for whoever is to use it; None if nothing is."""
        return None

    def turns(self, steps: int) -> dict[int, int]:
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
        return token_nats(self.forward(batch.ids).float(), batch), self.kind

    def compute_with(self, precision: str, attention: str, step: str) -> None:
        """Take the run's choices of arithmetic (`training.trainer.ComputeConfig`), out of `precisions` and
        `step_kinds`; a family without such choices takes the plain ones.
        """
        for what, value, known in (
            ("precision", precision, self.precisions),
            ("step", step, self.step_kinds),
        ):
            if value not in known:
                raise unknown_name_error(f"{what} of a {type(self).__name__.lower()}", value, known)

    def why_not_unpadded(self) -> str | None:
        """Why no kernels compute this model's states without padding (`unpadded`), or None where some do."""
        return "this family has no such kernels"

    def answer_with(self, precision: str) -> None:
        """Take the arithmetic for answering: the precision it was taught in, and kernels where there are some."""
        unpadded = precision == "bfloat16" and not self.why_not_unpadded()
        self.compute_with(precision, "plain", "unpadded" if unpadded else "eager")

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All parameters under one optimiser."""
        return {"all": [p for p in self.parameters() if p.requires_grad]}


def step_seed(batch: Batch, use: str) -> int:
    """The seed of one use of randomness in the step on a batch or a piece of it: dropout, noise, texts drawn.

    torch's own seed is the run's and the step's, for `fit` sets it anew each step; it is read and nothing is drawn
    from it, so that workers share nothing.
    """
    return derive_seed(torch.initial_seed(), use, batch.position, batch.piece)


def token_nats(logits: Tensor, batch: Batch) -> Tensor:
    """Nats of each target (B, T) under logits (B, T, V), zero where the weight is zero."""
    nats = nn.functional.cross_entropy(logits.transpose(1, 2), batch.targets, reduction="none")
    return nats * batch.weights


def matrices_and_other(model: nn.Module, matrices: list[nn.Parameter]) -> dict[str, list[nn.Parameter]]:
    """Parameter groups: `matrices`, which Muon moves, and all else that learns (embeddings, head, norms, biases)."""
    chosen = {id(p) for p in matrices}
    other = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    return {"matrices": matrices, "other": other}

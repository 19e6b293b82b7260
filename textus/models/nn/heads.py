"""Task heads on a model's last states: for texts, tokens, spans, relations and similarity.

A head has `loss(hidden, batch) -> Loss` and `predict(hidden, mask)`. `batch.labels` is the head's own; `batch.mask`
(None: all) is False on padding. Shapes: B batch, T time, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textus.core.names import unknown_name_error
from textus.data.batch import Batch
from textus.models.contract import Loss
from textus.models.nn.linear import Linear

IGNORED = -100
"""The label of a position without one, as in torch and `transformers`."""
NEVER = -1e5
"""What a step adds that must not be: more than any scores make good, and still a number to a gradient."""

TASKS = ("single", "multi", "regression")
POOLINGS = ("mean", "cls", "last", "max", "mean_sqrt_len")
DENSE_ACTIVATIONS = {
    name: getattr(nn, name) for name in ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")
}
"""What may follow a linear map of a text's vector, by its name in torch."""


def padding_mask(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """True where there is no padding: (B, T) bool."""
    if mask is None:
        return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
    return mask.bool()


def pool(hidden: Tensor, mask: Tensor | None, pooling: str) -> Tensor:
    """One state of a text, of those that are not padding: the first (`cls`), the last, the mean, or the largest value
    of each component; `mean_sqrt_len` is their sum over the root of their number: (B, T, D) -> (B, D).
    """
    if pooling == "cls":
        return hidden[:, 0]
    real = padding_mask(hidden, mask)[..., None]
    if pooling == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), real.sum(1)[:, 0].clamp(min=1) - 1]
    if pooling == "max":
        return hidden.masked_fill(~real, float("-inf")).amax(1)
    real = real.to(hidden.dtype)
    n = real.sum(1).clamp(min=1)
    return (hidden * real).sum(1) / (n.sqrt() if pooling == "mean_sqrt_len" else n)


class SequenceHead(nn.Module):
    """Scores of a whole text. `single`: one of C classes; `multi`: any of them; `regression`: C numbers.

    Labels: (B,) class numbers; (B, C) of 0 and 1; (B, C) numbers. `weights` (C,) is what a class of `single` weighs.
    `pooler`: a map and a tanh of the pooled state come first, as in BERT's own heads.
    """

    def __init__(
        self,
        d_model: int,
        n_labels: int,
        *,
        task: Literal["single", "multi", "regression"] = "single",
        pooling: Literal["mean", "cls", "last", "max"] = "mean",
        dropout: float = 0.1,
        weights: list[float] | None = None,
        pooler: bool = False,
    ) -> None:
        super().__init__()
        for kind, value, known in (("task", task, TASKS), ("pooling", pooling, POOLINGS)):
            if value not in known:
                raise unknown_name_error(kind, value, known)
        self.task, self.pooling = task, pooling
        self.weights = None if weights is None else torch.tensor(weights)
        self.dropout = nn.Dropout(dropout)
        self.dense = Linear(d_model, d_model, bias=True) if pooler else None
        self.out = Linear(d_model, n_labels, bias=True)

    def features(self, hidden: Tensor, batch: Batch) -> Tensor:
        """What the linear layer reads of a text: (B, D)."""
        return pool(hidden, batch.mask, self.pooling)

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """hidden (B, T, D) -> scores (B, C)."""
        pooled = pool(hidden, mask, self.pooling)
        if self.dense is not None:
            pooled = torch.tanh(self.dense(pooled))
        return self.out(self.dropout(pooled)).float()

    def loss(self, hidden: Tensor, batch: Batch) -> Loss:
        """Nats (or squared error) summed over texts; of several labels or numbers a text has the mean."""
        scores = self.forward(hidden, batch.mask)
        if self.task == "single":
            weights = None if self.weights is None else self.weights.to(scores.device)
            losses = F.cross_entropy(scores, batch.labels, weights, reduction="none")
        elif self.task == "multi":
            losses = F.binary_cross_entropy_with_logits(scores, batch.labels.float(), reduction="none").mean(
                1
            )
        else:
            losses = F.mse_loss(scores, batch.labels.float(), reduction="none").mean(1)
        return Loss(losses.sum(), float(len(losses)))

    def predict(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """Probabilities (B, C) of the classes or labels; the numbers themselves for `regression`."""
        scores = self.forward(hidden, mask)
        if self.task == "single":
            return scores.softmax(-1)
        return scores.sigmoid() if self.task == "multi" else scores


class TokenClassificationHead(nn.Module):
    """A label for each token; with `crf` the labels of a text are chosen together. `allowed_previous` lists, for each
    label, the labels it may follow (empty: any, and it may begin a text).

    Labels (B, T) are class numbers, `IGNORED` (-100) where a token has none: padding, or a later piece of a word.
    """

    def __init__(
        self,
        d_model: int,
        n_labels: int,
        *,
        crf: bool = False,
        dropout: float = 0.1,
        allowed_previous: list[list[int]] | None = None,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.out = Linear(d_model, n_labels, bias=True)
        self.crf = CRF(n_labels, allowed_previous) if crf else None

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden (B, T, D) -> scores (B, T, C)."""
        return self.out(self.dropout(hidden)).float()

    def loss(self, hidden: Tensor, batch: Batch) -> Loss:
        """Nats summed over labelled tokens; the weight is their number, with a CRF as without."""
        scores, labels = self.forward(hidden), batch.labels
        labelled = labels != IGNORED
        if self.crf is None:
            total = F.cross_entropy(scores[labelled], labels[labelled], reduction="sum")
        else:
            order, real = left_pack(labelled)
            total = self.crf.loss(gather_positions(scores, order), labels.gather(1, order), real).sum()
        return Loss(total, float(labelled.sum()))

    def predict(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """The likeliest labels (B, T), `IGNORED` where `mask` is False. A mask that is False on later pieces of
        words too keeps them out of a CRF, as their labels do in training.
        """
        scores, labelled = self.forward(hidden), padding_mask(hidden, mask)
        if self.crf is None:
            return torch.where(labelled, scores.argmax(-1), IGNORED)
        order, real = left_pack(labelled)
        best = torch.where(real, self.crf.best(gather_positions(scores, order), real), IGNORED)
        return torch.full_like(labelled, IGNORED, dtype=best.dtype).scatter(1, order, best)


def left_pack(wanted: Tensor) -> tuple[Tensor, Tensor]:
    """For each row the places (B, N) of what is wanted, in order, then of the rest, up to the N of the row that wants
    most; and which are wanted.
    """
    order = torch.argsort((~wanted).int(), dim=1, stable=True)[:, : max(1, int(wanted.sum(1).max()))]
    return order, wanted.gather(1, order)


def gather_positions(scores: Tensor, order: Tensor) -> Tensor:
    """scores (B, T, C) of other positions (B, N), in their order: (B, N, C)."""
    return scores.gather(1, order[..., None].expand(-1, -1, scores.shape[2]))


class CRF(nn.Module):
    """A linear chain (Lafferty, McCallum and Pereira 2001): each label's score, and each step's from the one before.

    Scores (B, T, C); `mask` (B, T) is True on a row's first positions, False after its end. `allowed_previous`
    lists, for each label, those it may follow; one with an empty list may follow any, and begin a row.
    """

    def __init__(self, n_labels: int, allowed_previous: list[list[int]] | None = None) -> None:
        super().__init__()
        self.transition = nn.Parameter(torch.zeros(n_labels, n_labels))  # [before, after]
        self.start = nn.Parameter(torch.zeros(n_labels))
        self.end = nn.Parameter(torch.zeros(n_labels))
        steps, starts = torch.zeros(n_labels, n_labels), torch.zeros(n_labels)
        for label, before in enumerate(allowed_previous or []):
            if before:
                steps[:, label] = starts[label] = NEVER
                steps[before, label] = 0.0
        self.steps: Tensor
        self.starts: Tensor
        self.register_buffer("steps", steps, persistent=False)
        self.register_buffer("starts", starts, persistent=False)

    def allowed(self) -> tuple[Tensor, Tensor]:
        """The scores of a step (C, C) and of a beginning (C,), `NEVER` where it must not be."""
        return self.transition + self.steps, self.start + self.starts

    def loss(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Nats (B,) of the labels (B, T) among all sequences; 0 for an empty row."""
        nats = self.log_sum(scores, mask) - self.score(scores, labels, mask)
        return torch.where(mask[:, 0], nats, 0.0)

    def score(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """What the labels (B, T) add up to: (B,)."""
        labels = torch.where(mask, labels, 0)
        emissions = scores.gather(2, labels[..., None])[..., 0] * mask
        transition, start = self.allowed()
        steps = transition[labels[:, :-1], labels[:, 1:]] * mask[:, 1:]
        last = labels.gather(1, (mask.sum(1, keepdim=True) - 1).clamp(min=0))[:, 0]
        return emissions.sum(1) + steps.sum(1) + start[labels[:, 0]] + self.end[last]

    def log_sum(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Log of the sum over all sequences, by the forward algorithm: (B,)."""
        transition, start = self.allowed()
        alpha = start + scores[:, 0]  # (B, C)
        for t in range(1, scores.shape[1]):
            step = torch.logsumexp(alpha[:, :, None] + transition, dim=1) + scores[:, t]
            alpha = torch.where(mask[:, t, None], step, alpha)
        return torch.logsumexp(alpha + self.end, dim=1)

    @torch.no_grad()
    def best(self, scores: Tensor, mask: Tensor) -> Tensor:
        """The labels (B, T) that add up to most (Viterbi 1967); past a row's end its last label."""
        transition, start = self.allowed()
        alpha, pointers = start + scores[:, 0], []
        stay = torch.arange(scores.shape[2], device=scores.device).expand_as(alpha)
        for t in range(1, scores.shape[1]):
            most, pointer = (alpha[:, :, None] + transition).max(dim=1)  # (B, C)
            real = mask[:, t, None]
            alpha = torch.where(real, most + scores[:, t], alpha)
            pointers.append(torch.where(real, pointer, stay))
        label = (alpha + self.end).argmax(1)
        path = [label]
        for pointer in reversed(pointers):
            label = pointer.gather(1, label[:, None])[:, 0]
            path.append(label)
        return torch.stack(path[::-1], dim=1)


def context_mask(batch: Batch) -> Tensor:
    """Where an answer may be, (B, T) bool: everywhere but in the first text. The closing id at the end means no answer
    (there a causal model has read all). Without `batch.segments`, everywhere.
    """
    real = padding_mask(batch.ids, batch.mask)
    return real if batch.segments is None else real & (batch.segments > 0)


def span_scores(logs: Tensor, longest: int) -> Tensor:
    """The log-probability of every span of at most `longest` positions: (B, T, 2) -> (B, first T, last T)."""
    first, last = logs.unbind(-1)
    time = first.shape[1]
    fits = torch.ones(time, time, dtype=torch.bool, device=first.device).triu().tril(longest - 1)
    return (first[:, :, None] + last[:, None]).masked_fill(~fits, float("-inf"))


class SpanHead(nn.Module):
    """Where an answer begins and ends. Labels (B, 2): its first and its last position."""

    def __init__(self, d_model: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.out = Linear(d_model, 2, bias=True)

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """hidden (B, T, D) -> log-probabilities (B, T, 2) of first and last; none where `mask` is False."""
        scores = self.out(self.dropout(hidden)).float()
        real = padding_mask(hidden, mask)[..., None]
        return scores.masked_fill(~real, float("-inf")).log_softmax(1)

    def loss(self, hidden: Tensor, batch: Batch) -> Loss:
        """Nats summed over texts, of each the mean of its first and last position's."""
        logs = self.forward(hidden, context_mask(batch))
        losses = F.nll_loss(logs, batch.labels, reduction="none").mean(1)
        return Loss(losses.sum(), float(len(losses)))

    def predict(
        self, hidden: Tensor, mask: Tensor | None = None, *, longest: int = 30
    ) -> tuple[Tensor, Tensor]:
        """The likeliest span of at most `longest` positions (B, 2), and its log-probability (B,).

        A mask that is True on the context alone keeps answers out of the question.
        """
        most, place = span_scores(self.forward(hidden, mask), longest).flatten(1).max(1)
        return torch.stack([place // hidden.shape[1], place % hidden.shape[1]], dim=1), most


class Pooler(nn.Module):
    """The pooled state of a text and its numeric columns, standardised by the training rows: (B, D + columns).
    A missing number (nan) becomes the mean.
    """

    def __init__(
        self,
        *,
        pooling: str = "mean",
        dropout: float = 0.1,
        number_means: Sequence[float] = (),
        number_deviations: Sequence[float] = (),
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise unknown_name_error("pooling", pooling, POOLINGS)
        self.pooling, self.dropout = pooling, nn.Dropout(dropout)
        self.means, self.deviations = (
            torch.tensor(values, dtype=torch.float64) for values in (number_means, number_deviations)
        )

    def forward(self, hidden: Tensor, mask: Tensor | None, numbers: Tensor | None) -> Tensor:
        """hidden (B, T, D), numbers (B, columns) -> (B, D + columns)."""
        text = self.dropout(pool(hidden, mask, self.pooling))
        if numbers is None:
            return text
        scaled = (numbers - self.means.to(numbers)) / self.deviations.to(numbers)
        return torch.cat([text, scaled.nan_to_num(0.0).to(text.dtype)], dim=1)


class RegressionHead(nn.Module):
    """C numbers of a text, standardised for training. Labels: (B, C), not standardised; `pooling`: see `Pooler`."""

    def __init__(self, d_model: int, means: list[float], deviations: list[float], **pooling: Any) -> None:
        super().__init__()
        self.means, self.deviations = (
            torch.tensor(values, dtype=torch.float64) for values in (means, deviations)
        )
        self.pooled = Pooler(**pooling)
        self.out = Linear(d_model + len(self.pooled.means), len(means), bias=True)

    def features(self, hidden: Tensor, batch: Batch) -> Tensor:
        """The input of the linear layer: (B, D + columns)."""
        return self.pooled(hidden, batch.mask, batch.numbers)

    def standardise(self, labels: Tensor) -> Tensor:
        """Labels (B, C) in deviations from their mean."""
        return (labels - self.means.to(labels)) / self.deviations.to(labels)

    def forward(self, hidden: Tensor, mask: Tensor | None, numbers: Tensor | None) -> Tensor:
        """hidden (B, T, D) -> numbers (B, C) in deviations from the mean."""
        return self.out(self.pooled(hidden, mask, numbers)).float()

    def loss(self, hidden: Tensor, batch: Batch) -> Loss:
        """Squared error in deviations, of several numbers their mean, summed over texts."""
        predicted = self.forward(hidden, batch.mask, batch.numbers)
        labels = self.standardise(batch.labels).to(predicted.dtype)
        return Loss(F.mse_loss(predicted, labels, reduction="none").mean(1).sum(), float(len(predicted)))

    def predict(self, hidden: Tensor, mask: Tensor | None = None, numbers: Tensor | None = None) -> Tensor:
        """The numbers themselves (B, C), float64."""
        predicted = self.forward(hidden, mask, numbers).double()
        return predicted * self.deviations.to(predicted) + self.means.to(predicted)


class OrdinalHead(nn.Module):
    """One of C ratings in order (McCullagh 1980): a text has one number, and thresholds, which never cross, cut the
    line into ratings with logistic noise. Labels: (B,) places from 0; `pooling`: see `Pooler`.
    """

    def __init__(self, d_model: int, n_labels: int, **pooling: Any) -> None:
        super().__init__()
        self.pooled = Pooler(**pooling)
        self.out = Linear(d_model + len(self.pooled.means), 1, bias=False)
        self.first = nn.Parameter(torch.full((1,), -(n_labels - 2) / 2))
        self.steps = nn.Parameter(torch.full((n_labels - 2,), 0.5413))  # softplus of it is 1

    def forward(self, hidden: Tensor, mask: Tensor | None, numbers: Tensor | None) -> Tensor:
        """hidden (B, T, D) -> log-probabilities (B, C)."""
        place = self.out(self.pooled(hidden, mask, numbers)).float()
        thresholds = (
            torch.cat([self.first, self.first + F.softplus(self.steps).cumsum(0)]) - place
        )  # (B, C - 1)
        upper, lower = F.pad(thresholds, (0, 1), value=FAR), F.pad(thresholds, (1, 0), value=-FAR)
        # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u)), without taking near numbers apart
        return F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(lower - upper))

    def loss(self, hidden: Tensor, batch: Batch) -> Loss:
        """Nats summed over texts."""
        logs = self.forward(hidden, batch.mask, batch.numbers)
        return Loss(F.nll_loss(logs, batch.labels, reduction="sum"), float(len(logs)))

    def predict(self, hidden: Tensor, mask: Tensor | None = None, numbers: Tensor | None = None) -> Tensor:
        """Probabilities (B, C)."""
        return self.forward(hidden, mask, numbers).exp()


FAR = 1e4
"""Where the least and the greatest rating end: as good as nowhere."""


class RelationHead(nn.Module):
    """One of C relations of two entities, from the states where their marks begin (Baldini Soares et al. 2019) and the
    pooled state of the text (Wu and He 2019). `numbers` (B, 2) of a batch are the positions of the two, head first;
    labels: (B,) class numbers.
    """

    def __init__(self, d_model: int, n_labels: int, *, pooling: str = "mean", dropout: float = 0.1) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise unknown_name_error("pooling", pooling, POOLINGS)
        self.pooling, self.dropout = pooling, nn.Dropout(dropout)
        self.out = Linear(3 * d_model, n_labels, bias=True)

    def forward(self, hidden: Tensor, mask: Tensor | None, numbers: Tensor) -> Tensor:
        """hidden (B, T, D), numbers (B, 2) -> scores (B, C)."""
        rows = torch.arange(len(hidden), device=hidden.device)[:, None]
        two = hidden[rows, numbers.long()].flatten(1)  # (B, 2 D)
        whole = pool(hidden, mask, self.pooling).to(two.dtype)
        return self.out(self.dropout(torch.cat([two, whole], dim=1))).float()

    def loss(self, hidden: Tensor, batch: Batch) -> Loss:
        """Nats summed over pairs."""
        assert batch.numbers is not None
        scores = self.forward(hidden, batch.mask, batch.numbers)
        return Loss(F.cross_entropy(scores, batch.labels, reduction="sum"), float(len(scores)))

    def predict(self, hidden: Tensor, mask: Tensor | None, numbers: Tensor) -> Tensor:
        """Probabilities (B, C)."""
        return self.forward(hidden, mask, numbers).softmax(-1)


class SimilarityHead(nn.Module):
    """Vectors of texts that are read apart, and how near they are: hidden is (B, N, T, D), of N texts an example.

    `cosine` (Reimers and Gurevych 2019): the cosine of the first two is to be the label (B,), in [0, 1]. `contrastive`
    (van den Oord et al. 2018; Henderson et al. 2017): of all second and third texts of a batch, the first text is to be
    nearest to its own second; no labels. A text that is also the right one is not counted among the wrong ones.
    `dense`: maps of the pooled vector, each its width `out`, whether it has a `bias`, and its `activation`.
    """

    def __init__(
        self,
        d_model: int,
        *,
        pooling: Literal["mean", "cls", "last", "max", "mean_sqrt_len"] = "mean",
        objective: Literal["cosine", "contrastive"] = "cosine",
        temperature: float = 0.05,
        dense: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__()
        widths = [d_model, *(layer["out"] for layer in dense)]
        self.dense = nn.ModuleList(
            Linear(width, layer["out"], bias=layer["bias"])
            for width, layer in zip(widths, dense, strict=False)
        )
        self.activations = [DENSE_ACTIVATIONS[layer["activation"]]() for layer in dense]
        for kind, value, known in (
            ("objective", objective, ("cosine", "contrastive")),
            ("pooling", pooling, POOLINGS),
        ):
            if value not in known:
                raise unknown_name_error(kind, value, known)
        self.pooling, self.objective, self.temperature = pooling, objective, temperature

    def predict(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """Vectors of length one: hidden (..., T, D) -> (..., D)."""
        flat = None if mask is None else mask.flatten(0, -2)
        pooled = pool(hidden.flatten(0, -3).float(), flat, self.pooling)
        for layer, activation in zip(self.dense, self.activations, strict=True):
            pooled = activation(layer(pooled))
        return F.normalize(pooled, dim=-1).unflatten(0, hidden.shape[:-2])

    def loss(self, hidden: Tensor, batch: Batch) -> Loss:
        """Squared error of the cosine, or nats of the right text, summed over examples."""
        vectors = self.predict(hidden, batch.mask)  # (B, N, D)
        if self.objective == "cosine":
            cosine = (vectors[:, 0] * vectors[:, 1]).sum(-1)
            return Loss(F.mse_loss(cosine, batch.labels.float(), reduction="sum"), float(len(cosine)))
        others = vectors[:, 1:].transpose(0, 1).flatten(0, 1)  # the right ones, then the hard negatives
        scores = vectors[:, 0] @ others.T / self.temperature
        scores = scores.masked_fill(duplicate_positives_mask(batch.ids), float("-inf"))
        right = torch.arange(len(scores), device=scores.device)
        return Loss(F.cross_entropy(scores, right, reduction="sum"), float(len(scores)))


def duplicate_positives_mask(ids: Tensor) -> Tensor:
    """(B, (N - 1) * B), True where another text of a batch (B, N, T) reads as the row's own second does, or is the
    second of a row with the same first.
    """
    first, second = ids[:, 0], ids[:, 1]
    others = ids[:, 1:].transpose(0, 1).flatten(0, 1)
    same = (second[:, None] == others).all(-1)
    same[:, : len(ids)] |= (first[:, None] == first).all(-1)
    return same & ~torch.eye(*same.shape, dtype=torch.bool, device=ids.device)


HEADS = {
    "sequence": SequenceHead,
    "token": TokenClassificationHead,
    "span": SpanHead,
    "number": RegressionHead,
    "ordinal": OrdinalHead,
    "pair": RelationHead,
    "similarity": SimilarityHead,
}


def build_head(spec: dict[str, Any], d_model: int) -> nn.Module:
    """The head that run.json describes: its `kind` and its arguments."""
    given = {name: value for name, value in spec.items() if name != "kind"}
    if spec["kind"] not in HEADS:
        raise unknown_name_error("head", spec["kind"], HEADS)
    return HEADS[spec["kind"]](d_model, **given)

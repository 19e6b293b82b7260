"""Heads in and out: BERT's and RoBERTa's …ForSequenceClassification, …ForTokenClassification, …ForQuestionAnswering.

Theirs of a whole text reads the first state through a map and a tanh (the pooler); ours may read it directly,
and is then written through a map so small that the tanh of it is the number itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from textus.core.errors import RunError, UsageError
from textus.interop import bert, roberta
from textus.interop.architectures import TensorReader, foreign_weights
from textus.interop.validate import finite, short_repr

BODIES = {"Bert": bert, "Roberta": roberta, "XLMRoberta": roberta, "Camembert": roberta}
SUFFIXES = {
    "ForSequenceClassification": "sequence", "ForTokenClassification": "token", "ForQuestionAnswering": "span"
}  # fmt: skip
TASKS = {"sequence": "classification", "token": "tagging", "span": "question-answering"}
"""Kind of head → the task that has it."""
CLASSES = tuple(body + suffix for body in BODIES for suffix in SUFFIXES)
SMALL = 2.0**-13
"""A power of two, so that nothing is rounded; tanh of a number times this is that, to one part in 10^8."""


def parts(body: Any, kind: str) -> dict[str, str]:
    """Our linear map → theirs."""
    if kind != "sequence":
        return {"out": "qa_outputs" if kind == "span" else "classifier"}
    if body is bert:
        return {"dense": "bert.pooler.dense", "out": "classifier"}
    return {"dense": "classifier.dense", "out": "classifier.out_proj"}


def split(name: str) -> tuple[Any, str, str] | None:
    """A class's body (its module, the name of its model alone) and its kind of head; None for a class without one."""
    for suffix, kind in SUFFIXES.items():
        if (stem := name.removesuffix(suffix)) != name and stem in BODIES:
            return BODIES[stem], f"{stem}Model", kind
    return None


# ── in ─────────────────────────────────────────────────────────────────────────────────────────


class Body:
    """The tensors of a file without those of the head, and without a pooler that only the head reads."""

    def __init__(self, tensors: TensorReader, names: dict[str, str]) -> None:
        self.tensors, self.where = tensors, tensors.where
        head = {f"{theirs}.{end}" for theirs in names.values() for end in ("weight", "bias")}
        self.shapes = {name: shape for name, shape in tensors.shapes.items() if name not in head}

    def read(self, name: str) -> Tensor:
        return self.tensors.read(name)


def read_head(body: Any, kind: str, hf: dict[str, Any], tensors: TensorReader) -> dict[str, Any]:
    """What `ImportedModel` holds of a head: `heads`, `weights`, `labels`, `task_settings`."""
    weights: dict[str, Tensor] = {}
    for ours, theirs in parts(body, kind).items():
        for end in ("weight", "bias"):
            if f"{theirs}.{end}" not in tensors.shapes:
                raise RunError(
                    "tensor_missing",
                    f"{tensors.where} has no tensor {theirs}.{end}, which its class asks for; fetch it again",
                )
            tensor = tensors.read(f"{theirs}.{end}")
            weights[f"{ours}.{end}"] = finite(tensor, tensors.where, f"{theirs}.{end}")
    n = len(weights["out.weight"])
    dropout = hf.get("classifier_dropout")
    dropout = hf.get("hidden_dropout_prob", 0.1) if dropout is None else dropout
    labels, settings = labels_of(hf, n, tensors.where), {"dropout": dropout}
    spec: dict[str, Any] = {"kind": kind, "dropout": dropout}
    if kind == "sequence":
        settings |= {"multi": is_multi(hf, n, tensors.where), "pooling": "cls"}
        task = "multi" if settings["multi"] else "single"
        spec |= {"n_labels": n, "task": task, "pooling": "cls", "pooler": True}
    elif kind == "token":
        settings |= {"crf": False, "unit": "word"}
        spec |= {"n_labels": n, "crf": False}
    else:
        labels = []
        if n != 2:
            raise RunError(
                "damaged",
                f"{tensors.where}: qa_outputs has {n} rows, a beginning and an end are 2; it is damaged",
            )
    task = TASKS[kind]
    return {
        "heads": {task: spec}, "labels": labels, "task_settings": settings,
        "weights": {f"heads.{task}.{name}": tensor for name, tensor in weights.items()},
    }  # fmt: skip


def labels_of(hf: dict[str, Any], n: int, where: str) -> list[str]:
    """The names of the classes in order; RunError where config.json names others than the head has."""
    names = hf.get("id2label")
    if names is None:
        return [f"LABEL_{number}" for number in range(n)]
    if not isinstance(names, dict) or sorted(names, key=str) != sorted(
        (str(number) for number in range(n)), key=str
    ):
        raise RunError(
            "damaged",
            f"{where}: id2label={short_repr(names)} does not name the {n} classes of its head; correct it",
        )
    labels = [str(names[str(number)]) for number in range(n)]
    if len(set(labels)) != n:
        raise RunError(
            "damaged", f"{where}: id2label names two classes alike ({short_repr(labels)}); correct it"
        )
    return labels


def is_multi(hf: dict[str, Any], n: int, where: str) -> bool:
    """Whether any number of classes may be right; UsageError for a head of numbers."""
    problem = hf.get("problem_type")
    if problem == "regression" or (problem is None and n == 1):
        raise UsageError(
            "unsupported_setting", f"{where}: a head of numbers (regression) is not read; one of classes is"
        )
    return bool(problem == "multi_label_classification")


# ── out ────────────────────────────────────────────────────────────────────────────────────────


def exportable(config: Any, head: dict[str, Any]) -> bool:
    """Whether a class of `transformers` has this kind of head for this kind of model."""
    return (
        head["kind"] in SUFFIXES.values()
        and hasattr(config, "norm_first")
        and hasattr(config, "mlm_transform")
    )


def makes_vectors(config: Any, head: dict[str, Any]) -> bool:
    """Whether sentence-transformers has this kind of head for this kind of model."""
    return bool(head.get("kind") == "similarity") and hasattr(config, "mlm_transform")


def describe_head(
    config: Any, head: dict[str, Any], labels: list[str], *, argmax: bool
) -> tuple[Any, dict[str, Any]]:
    """The module of the body and config.json; UsageError naming what of model or head the class lacks."""
    kind = head["kind"]
    pooling = head.get("pooling", "cls")
    if kind == "sequence" and pooling != "cls":
        raise UsageError(
            "unsupported_export",
            f"the classes of transformers read a text's first state, this head {pooling} of them all: train it with"
            " --set task.pooling=cls to export it",
        )
    if kind == "sequence" and head["task"] == "regression":
        raise UsageError(
            "unsupported_export", "a head of numbers has no class in transformers that gives them as they are"
        )
    if kind == "token" and head.get("crf") and not argmax:
        raise UsageError(
            "unsupported_export",
            "a CRF has no class in transformers: train with --set task.crf=false, or give --argmax to export each"
            " token's likeliest tag instead, which are other answers",
        )
    body = roberta if config.position_offset else bert
    shared = bert.shared_to(replace(config, mask_id=config.mask_id or 0))
    if config.mask_id is None:
        del shared["mask_token_id"]
    suffix = next(suffix for suffix, known in SUFFIXES.items() if known == kind)
    hf = {
        "architectures": [("Roberta" if body is roberta else "Bert") + suffix],
        "model_type": "roberta" if body is roberta else "bert",
        **shared,
        "pad_token_id": config.position_offset - 1 if body is roberta else 0,
        "classifier_dropout": head.get("dropout", 0.1),
    }
    if kind != "span":
        hf |= {
            "id2label": {str(number): label for number, label in enumerate(labels)},
            "label2id": {label: number for number, label in enumerate(labels)},
        }
    if kind == "sequence":
        hf["problem_type"] = f"{head['task']}_label_classification"
    return body, hf


class Bare:
    """A body alone as an architecture: what `foreign_weights` cuts."""

    def __init__(self, body: Any) -> None:
        self.body = body

    def rename(self, config: Any) -> Any:
        return bert.body(config, self.body.PREFIX)


def head_weights(
    body: Any, config: Any, weights: dict[str, Tensor], name: str, kind: str
) -> dict[str, Tensor]:
    """The tensors of body and head, under their names. `name`: of the head among ours."""
    tensors = foreign_weights(Bare(body), config, weights)  # type: ignore[arg-type]
    head = {
        key.removeprefix(f"heads.{name}."): w
        for key, w in weights.items()
        if key.startswith(f"heads.{name}.")
    }
    if kind == "sequence" and "dense.weight" not in head:
        width = config.d_model
        head |= {"dense.weight": torch.eye(width) * SMALL, "dense.bias": torch.zeros(width)}
        head["out.weight"] = head["out.weight"] / SMALL
    for ours, theirs in parts(body, kind).items():
        for end in ("weight", "bias"):
            tensors[f"{theirs}.{end}"] = head[f"{ours}.{end}"].contiguous().clone()
    return tensors

"""What a model can be taught to answer: one file a task, and what all of them share.

A task says which fields its data has, how a row looks to the model, which head stands on the model's last states, how
answers are scored and how they are told. It does not train: `textus.finetuning` hands its rows to `fit`, and
`answers` asks a trained model. A new task is one file and one line in `TASKS`.

Shapes: B rows, T positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textus.checkpoint import load
from textus.common import (
    nearest,
    notice,
    unknown,
)
from textus.config import from_dict
from textus.errors import (
    DataError,
    RunError,
    UsageError,
)
from textus.loader import Batch
from textus.models import LanguageModel, Loss, step_seed
from textus.models.heads import build_head
from textus.pairs import Deal
from textus.records import Record
from textus.report import Section
from textus.tasks.rows import accepted, usable_rows
from textus.tokenizer import Tokenizer

Floats = NDArray[np.float64]

TASKS = {
    "classification": ("textus.tasks.classification", "Classification"),
    "question-answering": ("textus.tasks.question_answering", "QuestionAnswering"),
    "regression": ("textus.tasks.regression", "Regression"),
    "relations": ("textus.tasks.relations", "Relations"),
    "similarity": ("textus.tasks.similarity", "Similarity"),
    "tagging": ("textus.tasks.tagging", "Tagging"),
}
"""Task name → module and class."""

TOKENS_AT_ONCE = 2048
"""Positions of one batch when answering, padding counted."""


@dataclass(frozen=True)
class Example:
    """One checked row of a task's data: the texts that are read, and what is to be found (None: not known). `numbers`
    stand beside the texts.
    """

    texts: tuple[str, ...]
    label: Any
    where: str
    numbers: tuple[float, ...] = ()


@dataclass(frozen=True)
class Row:
    """An example, or a window of it, as ids: `segments` numbers the text each id is of; `cut` ids did not fit; `label`
    is for the head (None: nothing to learn).

    `apart` are the ids of further texts that are read apart from the first and from each other; `numbers` stand beside
    the text; `about` is what the task wants to know again when it is answered; `asked` are the places that
    want an answer each (None: the row as a whole does).
    """

    ids: list[int]
    segments: list[int]
    label: Any = None
    cut: int = 0
    apart: tuple[list[int], ...] = ()
    numbers: tuple[float, ...] = ()
    about: Any = None
    asked: list[int] | None = None

    @property
    def length(self) -> int:
        """Positions it takes in a batch."""
        return max(map(len, (self.ids, *self.apart)))


class Task(ABC):
    """What all tasks share; a task overrides what it does differently. `settings` is its config, `labels` the names
    of its classes, in the order of the head's outputs.
    """

    name: str
    config: type
    """The class of its settings."""
    together: tuple[str, ...] = ()
    """Fields of a row; rows that agree in them are held out together. None: in everything that is read."""
    settings: Any
    labels: list[str]
    answered = "classes"
    """What its `labels` are."""

    alike: tuple[str, ...] = ()
    """Settings that runs must share for their answers to be put together."""
    blindly = "majority"
    """What the answers of `blind` are called."""
    worst = "Most confident mistakes"
    """What a result's `mistakes` are called."""
    floor: str | None = None
    """The family that a run of this task is measured against, trained on the same rows."""
    new_model: ClassVar[dict[str, Any]] = {}
    """Config values of a new model that differ from what fine-tuning takes, where the family has them."""
    least = 2
    """Rows it needs at least where some of them are held out."""

    def __init__(self, settings: Any, labels: Sequence[str]) -> None:
        self.settings, self.labels = settings, list(labels)
        self.called = self.name
        """The name of its head: the task's, or another where a run learns several."""
        self.skip_invalid: str | None = None
        """The share of rows that `examples` may leave out because they cannot be used: N% or all."""
        self.counts: list[int] = []
        """Rows of each class that were learnt from, where there are classes."""

    @classmethod
    @abstractmethod
    def of(cls, settings: Any, records: Sequence[Record]) -> Task:
        """The task as this data has it: its classes are those of the records."""

    @classmethod
    @abstractmethod
    def parser(cls, settings: Any, records: Sequence[Record], *, labelled: bool) -> Callable[[Record], Any]:
        """What checks one row, and raises DataError for one that cannot be used; `records` are all of them, where a
        row alone does not say how it is to be read.
        """

    @classmethod
    def kinds(cls, settings: Any, records: Sequence[Record]) -> list[Any] | None:
        """The kind of each row; of every kind some rows are left to learn from. None: all are of one."""
        return None

    @classmethod
    def can_split(cls, settings: Any, train: Sequence[Record], held: Sequence[Record]) -> bool:
        """Whether something is to be learnt from the first rows, and the weights can be chosen by the others."""
        return bool(train and held)

    @classmethod
    def fields(cls, settings: Any, values: dict[str, Any]) -> list[str]:
        """The fields of a row that it reads."""
        return []

    @abstractmethod
    def examples(self, records: Sequence[Record], *, labelled: bool) -> list[Example]:
        """The rows checked. Raises DataError that lists those that cannot be used."""

    def usable(self, records: Sequence[Record], *, labelled: bool) -> Sequence[Record]:
        """The records without those that were not accepted, and those that `skip_invalid` leaves out."""
        if labelled:
            records = accepted(records)
        if self.skip_invalid is None:
            return records
        return usable_rows(records, self.parser(self.settings, records, labelled=labelled), self.skip_invalid)

    def label_names(self, example: Example) -> list[str]:
        """The names that an example's label is made of, as `labels` or its entities have them: what is counted."""
        return []

    def can_choose(self, examples: Sequence[Example]) -> None:  # noqa: B027 - most tasks can by any rows
        """Raises DataError where these rows cannot tell which weights are best."""

    def asked(self, texts: tuple[str, ...], where: str) -> Example:
        """Texts to be answered as an example."""
        return Example(texts, None, where)

    def tokenizer(self, kind: str | None, texts: Sequence[str]) -> tuple[str, int]:
        """The kind of tokenizer a new model gets, and of how many ids: the kind asked for, else by words where blanks
        set them apart, and by characters where not.
        """
        return kind or ("word" if has_blanks(texts) else "char"), 20_000

    def vocabulary(self, examples: Sequence[Example]) -> list[str]:
        """The texts that a new tokenizer learns from."""
        return [text for each in examples for text in each.texts]

    @abstractmethod
    def head(self) -> dict[str, Any]:
        """What `heads.build_head` builds for it."""

    def row(self, example: Example, ids: list[list[int]], frame: Frame) -> Row:
        """The example as ids; `ids` are those of its texts."""
        raise NotImplementedError

    def rows(self, examples: Sequence[Example], tokenizer: Tokenizer, frame: Frame) -> list[Row]:
        """All examples as ids: a row each, or more than one for a task whose `merged` makes one answer of theirs."""
        flat = iter(tokenizer.encode_batch([text for each in examples for text in each.texts]))
        return [self.row(each, [next(flat) for _ in each.texts], frame) for each in examples]

    def merged(self, rows: Sequence[Row], outputs: list[Any]) -> list[Any]:
        """One answer an example, from those of its rows."""
        return outputs

    def to_learn(self, rows: Sequence[Row]) -> list[Row]:
        """Those of the rows that training reads."""
        return [row for row in rows if row.label is not None]

    def drawn(self, row: Row, random: np.random.Generator) -> Row:
        """The row as one step of training reads it."""
        return row

    @abstractmethod
    def label_tensor(self, labels: list[Any], length: int) -> Tensor:
        """The labels of rows that share a batch of `length` positions."""

    @abstractmethod
    def outputs(self, head: Any, hidden: Tensor, batch: Batch) -> list[Any]:
        """The head's answer for each row of a batch."""

    @abstractmethod
    def scores(
        self, examples: Sequence[Example], outputs: Sequence[Any], *, intervals: bool = True
    ) -> dict[str, Any]:
        """How good the answers are; the first figure is what weights are chosen by, more is better. Without `intervals`
        the figures alone: in training nobody reads the rest.
        """

    @abstractmethod
    def told(self, example: Example, output: Any) -> dict[str, Any]:
        """One answer as JSON values."""

    def answer_columns(self) -> list[str]:
        """The columns of an answer in a table: the names `told` gives, without the probabilities of classes."""
        return []

    def probabilities(self, output: Any) -> dict[str, float] | None:
        """The probability of every class, in the order of `labels`; None for a task without classes."""
        return None

    # ── what stands around a result; a task without it leaves these as they are ──

    def weighed(
        self, examples: Sequence[Example], outputs: Sequence[Any]
    ) -> tuple[str, Callable[[Floats], float]] | None:
        """The task's figure as a function of what each row weighs (N,): what a paired bootstrap draws. None where rows
        cannot be weighed.
        """
        if (found := self.each(examples, outputs)) is None:
            return None
        name, values = found
        return name, lambda weights: float(weights @ values / weights.sum())

    def each(self, examples: Sequence[Example], outputs: Sequence[Any]) -> tuple[str, Floats] | None:
        """The figure that is the mean of one value a row, and these values: what paired differences are told of."""
        return None

    def blind(self, examples: Sequence[Example]) -> list[Any] | None:
        """The best answers to examples whose text nobody has read."""
        return None

    def mixed(self, members: Sequence[Sequence[Any]], how: str) -> list[Any]:
        """The answers of several runs as one's: `how` is mean or vote. Raises UsageError where that has no meaning."""
        raise UsageError(
            "wrong_task", f"the answers of several runs are not put together for {self.name}; ask one run"
        )

    def sections(self, found: dict[str, Any]) -> list[Section]:
        """What the page of a result shows of the task's own figures (of `scores`), beside those with intervals."""
        numbers = [
            {"figure": name.replace("_", " "), "value": value}
            for name, value in found.items()
            if isinstance(value, int | float) and not name.startswith("rows")
        ]
        tables = {
            "More figures": numbers,
            "Classes": found.get("classes"),
            "Entities": found.get("entity_classes"),
            "Targets": found.get("targets"),
            self.worst: found.get("mistakes"),
        }
        return [Section(title, rows=rows) for title, rows in tables.items() if rows]


def has_blanks(texts: Sequence[str]) -> bool:
    """Whether words are set apart by blanks."""
    return sum(text.count(" ") for text in texts) > 0.05 * sum(map(len, texts))


def main_figures(scores: dict[str, Any]) -> dict[str, Any]:
    """The figures among a task's scores that have an interval."""
    return {name: value for name, value in scores.items() if isinstance(value, dict) and "low" in value}


def task_class(name: str) -> type[Task]:
    """A task by its name; UsageError naming the nearest for one that is not there."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    module, cls = TASKS[name]
    found: type[Task] = getattr(import_module(module), cls)
    return found


def opened(run: Path) -> tuple[LanguageModel, Tokenizer, dict[str, Any]]:
    """A run's model, tokenizer and record; a fine-tuned one computes as it was trained."""
    model, tokenizer, record = load(run)
    if record.get("task") in TASKS and not model.reads_texts:
        model.answer_with(record["choices"]["precision"])
    return model.eval(), tokenizer, record


def names_of(record: dict[str, Any]) -> list[str]:
    """The names of the tasks a run was fine-tuned for, in their order; none for a run that predicts text."""
    return [record["task"], *record.get("also", {})] if record.get("task") in TASKS else []


def learnt(record: dict[str, Any], name: str | None, run: Path) -> dict[str, Any]:
    """What a run's record would say had it learnt the one task of that name; None: of the only one it has learnt.

    Raises UsageError for a name it has not learnt, and for none where there are several.
    """
    names = names_of(record)
    if name is None and len(names) > 1:
        raise UsageError(
            "missing_argument",
            f"{run} has learnt {', '.join(names)}: say which is asked, such as --task {names[0]}",
        )
    if name is not None and name not in names:
        near = nearest(name, names)
        raise UsageError(
            "wrong_task",
            f"{run} has not learnt {name!r}{f' (did you mean {near!r}?)' if near else ''}; it has learnt"
            f" {', '.join(names) or 'no task'}",
        )
    if len(names) < 2:
        return record
    alone = {key: value for key, value in record.items() if key != "also"}
    return alone | record["also"].get(name, {}) | {"called": name}


def named_of_kind(record: dict[str, Any], kind: str) -> str | None:
    """The name of the one task of a kind that a run has learnt, of several the first, told; None where it has none."""
    kinds = [record.get("task"), *(each["task"] for each in record.get("also", {}).values())]
    names = [name for name, each in zip(names_of(record), kinds, strict=False) if each == kind]
    if len(names) > 1:
        notice(f"the run has learnt {kind} as {', '.join(names)}: {names[0]} is taken")
    return names[0] if names else None


def from_record(record: dict[str, Any]) -> Task:
    """The task a run was fine-tuned for, as its run.json tells it; of several tasks' record, by `learnt`."""
    cls = task_class(record["task"])
    task = cls(from_dict(cls.config, record["task_settings"], "task."), record["labels"])
    task.counts = record.get("label_counts", [])
    task.called = record.get("called", task.name)
    return task


# ── texts as ids ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Frame:
    """What stands around texts for a model: ids before the first, one after each; `longest` ids in all (None: any).
    `segments`: how many kinds of text it tells apart; `between`: how many ids part two texts (RoBERTa's have two).
    """

    begin: tuple[int, ...]
    end_id: int
    longest: int | None
    segments: int = 0
    between: int = 1

    def around(
        self, texts: Sequence[list[int]], where: Literal["end", "middle", "start"] = "end"
    ) -> tuple[list[int], list[int], int]:
        """Ids and segments of texts, and how many ids were cut: from the longest, again and again; at its end or
        start, or so that its first quarter and the end are kept (Sun et al. 2019).
        """
        kept = [len(text) for text in texts]
        more = (self.between - 1) * (len(texts) - 1)
        room = None if self.longest is None else self.longest - len(self.begin) - len(texts) - more
        cut = left = 0 if room is None else max(0, sum(kept) - room)
        while left:  # the longest comes down to the next, then both together
            longest = kept.index(max(kept))
            others = [n for place, n in enumerate(kept) if place != longest]
            taken = min(left, max(1, kept[longest] - max(others, default=0)))
            kept[longest] -= taken
            left -= taken
        ids, segments = list(self.begin), [0] * len(self.begin)
        for number, (text, n) in enumerate(zip(texts, kept, strict=True)):
            first = {"end": n, "middle": n // 4, "start": 0}[where]
            ends = self.between if number < len(texts) - 1 else 1
            ids += [*text[:first], *text[len(text) - n + first :], *[self.end_id] * ends]
            segments += [number] * (n + ends)
        return ids, segments, cut


def frame_of(config: Any, tokenizer: Tokenizer, longest: int | None = None) -> Frame:
    """How a model of this config is used to be given texts, and at most how long."""
    limits = [each for each in (config.context_length, longest) if each]
    begin = tuple(tokenizer.begin) or (tokenizer.end_id,)
    segments = getattr(config, "segments", 0)
    longest = min(limits) if limits else None
    return Frame(begin, tokenizer.end_id, longest, segments, tokenizer.between)


def rows_of(task: Task, examples: Sequence[Example], tokenizer: Tokenizer, frame: Frame) -> list[Row]:
    """Every example as ids; says how many were cut."""
    rows = task.rows(examples, tokenizer, frame)
    where = getattr(task.settings, "cut", "end")
    if cut := [row.cut for row in rows if row.cut]:
        notice(
            f"{len(cut):,} of {len(rows):,} texts are longer than {frame.longest} tokens: the {where}s of them,"
            f" {sum(cut):,} tokens in all, are not read"
        )
    return rows


def batch_of(task: Task, rows: Sequence[Row], pad_id: int, position: int = 0) -> Batch:
    """Rows as tensors, padded on the right; every row weighs one, or each place in it that is asked for, which are then
    the batch's `word_starts`. Of N texts read apart `ids`, `segments` and `mask`
    are (B, N, T).
    """
    length = max(row.length for row in rows)
    if odd := [row for row in rows if len(row.apart) != len(rows[0].apart)]:
        raise DataError(
            "mixed_data",
            f"some rows have {1 + len(rows[0].apart)} texts, others {1 + len(odd[0].apart)}; give all as many",
        )
    texts = [(row.ids, *row.apart) for row in rows]
    lengths = torch.tensor([[len(each) for each in row] for row in texts])
    mask = torch.arange(length) < lengths[:, :, None]
    ids, segments = torch.full(mask.shape, pad_id), torch.zeros(mask.shape, dtype=torch.long)
    ids[mask] = torch.tensor([one for row in texts for each in row for one in each])
    segments[:, 0][mask[:, 0]] = torch.tensor([one for row in rows for one in row.segments])
    if not rows[0].apart:
        ids, segments, mask = ids[:, 0], segments[:, 0], mask[:, 0]
    weights = torch.zeros(len(rows), length)
    for number, row in enumerate(rows):
        weights[number, [0] if row.asked is None else row.asked] = 1.0
    starts = None if rows[0].asked is None else weights > 0
    known = [row.label for row in rows if row.label is not None]
    labels = task.label_tensor(known, length) if len(known) == len(rows) else None
    numbers = torch.tensor([row.numbers for row in rows], dtype=torch.float64) if rows[0].numbers else None
    return Batch(
        ids, ids, weights, mask=mask, segments=segments, labels=labels, position=position, numbers=numbers,
        word_starts=starts, task=task.called,
    )  # fmt: skip


class RowBatches:
    """Batches of rows of like length in random order, as `training.fit` reads them: a function of (seed, step)."""

    def __init__(self, task: Task, rows: Sequence[Row], *, pad_id: int, batch_size: int, seed: int) -> None:
        if not rows:
            raise DataError("empty_data", "there is no row to train on")
        self.task, self.rows, self.pad_id = task, rows, pad_id
        lengths = np.asarray([row.length for row in rows])
        by_length = lambda each: each[np.argsort(lengths[each], kind="stable")]  # noqa: E731
        self.deal = Deal(len(rows), min(batch_size, len(rows)), seed, by_length)

    @property
    def n_batches(self) -> int:
        """Batches in one epoch."""
        return self.deal.n_batches

    @cached_property
    def tokens_a_step(self) -> int:
        """Ids of a batch on average."""
        total = sum(len(each) for row in self.rows for each in (row.ids, *row.apart))
        return max(1, round(total / len(self.rows) * self.deal.batch_size))

    def batch(self, step: int) -> Batch:
        """The batch of a step, from 0."""
        random = self.deal.random("rows", step)
        rows = [self.task.drawn(self.rows[int(number)], random) for number in self.deal.rows(step)]
        return batch_of(self.task, rows, self.pad_id, step)


# ── asking a model ─────────────────────────────────────────────────────────────────────────────


@torch.inference_mode()
def answers(
    model: LanguageModel, task: Task, rows: Sequence[Row], pad_id: int, *, finite: bool = False
) -> list[Any]:
    """The answer to each example of these rows, in their order; rows of like length are read together. `finite`:
    RunError where the model's states are NaN or infinite, of which any task would make an answer.
    """
    head, device = model.heads[task.called], next(model.parameters()).device
    found: list[Any] = [None] * len(rows)
    for places in in_batches([row.length * (1 + len(row.apart)) for row in rows]):
        batch = batch_of(task, [rows[place] for place in places], pad_id).to(device)
        hidden = states(model, batch)
        outputs = task.outputs(head, hidden, batch)
        if finite:
            check_finite(hidden if batch.mask is None else hidden[batch.mask.bool()], outputs)
        for place, output in zip(places, outputs, strict=True):
            found[place] = output
    return task.merged(rows, found)


def check_finite(hidden: Tensor, outputs: Sequence[Any]) -> None:
    """RunError where states (…, D), or the numbers that a head made of them, are none."""
    numbers = [each for each in outputs if isinstance(each, np.ndarray)]
    if not bool(hidden.isfinite().all()) or any(np.isnan(each).any() for each in numbers):
        raise RunError(
            "invalid_weights",
            "the model computes NaN or infinite numbers, so there is no answer: its weights are damaged, or its"
            " training failed; take an earlier checkpoint, or fetch it again",
        )


def in_batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """The places of rows, by length, so many together that `TOKENS_AT_ONCE` hold them with their padding."""
    held: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda each: lengths[each]):
        if held and (len(held) + 1) * lengths[place] > TOKENS_AT_ONCE:
            yield held
            held = []
        held.append(place)
    if held:
        yield held


def with_head(model: LanguageModel, task: Task) -> None:
    """Give a model the task's head; UsageError for a family that has no states a head could stand on."""
    if model.counts or not hasattr(model, "hidden"):
        raise UsageError(
            "unsupported_model",
            f"a {type(model).__name__} has no states for a head to stand on; {task.name} can be learnt by any family"
            " that does not count, such as --model lstm or encoder",
        )
    model.heads[task.called] = build_head(task.head(), model.config.d_model)


def states(model: LanguageModel, batch: Batch) -> Tensor:
    """The model's last states (B, T, D), or (B, N, T, D) of N texts read apart; what dropout takes away in training
    follows from the batch's place.
    """
    seed = {"seed": step_seed(batch, "dropout")} if model.training and model.counted_dropout else {}
    parts = [
        None if each is None else each.flatten(0, -2) for each in (batch.ids, batch.mask, batch.segments)
    ]
    found: Tensor = model.hidden(*parts, **seed)  # type: ignore[operator]
    return found.unflatten(0, batch.ids.shape[:-1])


def head_loss(model: LanguageModel, batch: Batch) -> Loss:
    """What `gradients.Gradients` takes: the loss of the batch's head on the model's states. Of a model with several
    heads it says whose it is; the others have no gradient at all, so that no optimiser moves or decays them in that
    step.
    """
    assert batch.task is not None
    found: Loss = model.heads[batch.task].loss(states(model, batch), batch)  # type: ignore[operator]
    if len(model.heads) > 1:
        found.parts[f"loss/{batch.task}"] = float(found.total.detach())
    return found


def whole(example: Example) -> str:
    """The texts of an example as one, for a family that reads texts."""
    return "\n".join(example.texts)


def read(model: LanguageModel, task: Task, tokenizer: Tokenizer, examples: Sequence[Example]) -> list[Any]:
    """The task's answers to examples."""
    if model.reads_texts:
        return list(model.answers([whole(each) for each in examples], task.labels))  # type: ignore[operator]
    rows = rows_of(task, examples, tokenizer, frame_of(model.config, tokenizer, task.settings.longest))
    return answers(model, task, rows, tokenizer.pad_id, finite=True)

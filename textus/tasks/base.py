"""What a model can be taught to answer: one file a task, and what all of them share.

A task says which fields its data has, how a row looks to the model, which head stands on the model's last states, how
answers are scored and how they are told. It does not train: `textus.finetuning.finetune` hands its rows to `fit`, and
`tasks.inference` asks a trained model. A new task is one file and one line in `tasks.registry.TASKS`.

Shapes: B rows, T positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from textus.core.errors import DataError, UsageError
from textus.data.batch import Batch
from textus.data.labeled import Record
from textus.reporting.html import Section
from textus.tasks.rows import drop_rejected
from textus.tokenizers import Tokenizer

Floats = NDArray[np.float64]


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
class EncodedExample:
    """An example, or a window of it, as ids: `segments` numbers the text each id is of; `cut` ids did not fit; `label`
    is for the head (None: nothing to learn).

    `apart` are the ids of further texts that are read apart from the first and from each other; `numbers` stand beside
    the text; `about` is what the task wants to know again when it is answered; `asked` are the places that
    want an answer each (None: the row as a whole does).
    """

    ids: list[int]
    segments: list[int]
    label: Any = None
    n_truncated: int = 0
    other_ids: tuple[list[int], ...] = ()
    numbers: tuple[float, ...] = ()
    meta: Any = None
    target_positions: list[int] | None = None

    @property
    def length(self) -> int:
        """Positions it takes in a batch."""
        return max(map(len, (self.ids, *self.other_ids)))


class Task(ABC):
    """What all tasks share; a task overrides what it does differently. `settings` is its config, `labels` the names
    of its classes, in the order of the head's outputs.
    """

    name: str
    config: type
    """The class of its settings."""
    group_fields: tuple[str, ...] = ()
    """Fields of a row; rows that agree in them are held out together. None: in everything that is read."""
    settings: Any
    labels: list[str]
    label_kind = "classes"
    """What its `labels` are."""

    must_match: tuple[str, ...] = ()
    """Settings that runs must share for their answers to be put together."""
    baseline_name = "majority"
    """What the answers of `blind` are called."""
    mistakes_title = "Most confident mistakes"
    """What a result's `mistakes` are called."""
    baseline_family: str | None = None
    """The family that a run of this task is measured against, trained on the same rows."""
    model_defaults: ClassVar[dict[str, Any]] = {}
    """Config values of a new model that differ from what fine-tuning takes, where the family has them."""
    min_rows = 2
    """Rows it needs at least where some of them are held out."""
    text_counts: tuple[int, ...] = ()
    """How many texts a row to be answered may have; none: the task checks its own fields."""

    def __init__(self, settings: Any, labels: Sequence[str]) -> None:
        self.settings, self.labels = settings, list(labels)
        self.head_name = self.name
        """The name of its head: the task's, or another where a run learns several."""
        self.label_counts: list[int] = []
        """Rows of each class that were learnt from, where there are classes."""
        self.n_texts: list[int] = []
        """How many texts the rows had that were learnt from, such as [2] of pairs; empty: not known."""
        self.label_type = ""
        """What the labels were in those rows where not strings: bool, int or float."""

    @classmethod
    @abstractmethod
    def from_records(cls, settings: Any, records: Sequence[Record]) -> Task:
        """The task as this data has it: its classes are those of the records."""

    @classmethod
    @abstractmethod
    def row_parser(
        cls, settings: Any, records: Sequence[Record], *, labelled: bool
    ) -> Callable[[Record], Any]:
        """What checks one row, and raises DataError for one that cannot be used; `records` are all of them, where a
        row alone does not say how it is to be read.
        """

    @classmethod
    def strata(cls, settings: Any, records: Sequence[Record]) -> list[Any] | None:
        """The kind of each row; of every kind some rows are left to learn from. None: all are of one."""
        return None

    @classmethod
    def can_split(cls, settings: Any, train: Sequence[Record], held: Sequence[Record]) -> bool:
        """Whether something is to be learnt from the first rows, and the weights can be chosen by the others."""
        return bool(train and held)

    @classmethod
    def used_fields(cls, settings: Any, values: dict[str, Any]) -> list[str]:
        """The fields of a row that it reads."""
        return []

    @abstractmethod
    def make_examples(self, records: Sequence[Record], *, labelled: bool) -> list[Example]:
        """The rows checked. Raises DataError that lists those that cannot be used."""

    def accepted_records(self, records: Sequence[Record], *, labelled: bool) -> Sequence[Record]:
        """The records without those that were not accepted."""
        return drop_rejected(records) if labelled else records

    def row_checker(self, records: Sequence[Record], *, labelled: bool) -> Callable[[Record], Any]:
        """What raises DataError for a row that this task, as it was learnt, cannot use."""
        parse = self.row_parser(self.settings, records, labelled=labelled)
        return self.with_text_count_check(parse) if self.text_counts else parse

    def label_names(self, example: Example) -> list[str]:
        """The names that an example's label is made of, as `labels` or its entities have them: what is counted."""
        return []

    def check_validation_set(self, examples: Sequence[Example]) -> None:  # noqa: B027 - most tasks can by any rows
        """Raises DataError where these rows cannot tell which weights are best."""

    def example_from_text(self, texts: tuple[str, ...], where: str) -> Example:
        """Texts to be answered as an example. Raises UsageError where the task reads more or fewer."""
        if wrong := self.text_count_error(texts):
            raise UsageError("wrong_number_of_texts", f"{where} {wrong}")
        return Example(texts, None, where)

    def text_count_error(self, texts: tuple[str, ...]) -> str:
        """What is wrong with a pair of texts where single ones were learnt from, and the other way round."""
        known = self.n_texts or self.text_counts
        if not known or len(texts) in known:
            return ""
        if len(texts) < min(known):
            return (
                "has one text, but the run was trained on pairs: give the second with --text-pair, or in a column"
                " text_pair"
            )
        trained = "single texts" if max(known) == 1 else "pairs"
        return (
            f"has {len(texts)} texts, but the run was trained on {trained}: leave out --text-pair, or the column of the"
            " further text"
        )

    def with_text_count_check(self, parse: Callable[[Record], Any]) -> Callable[[Record], Any]:
        """A parser whose rows begin with their texts, which refuses a row with a `wrong_number` of them."""

        def parse_checked(record: Record) -> Any:
            row = parse(record)
            if wrong := self.text_count_error(row[0]):
                raise DataError("wrong_number_of_texts", f"{record.where} {wrong}")
            return row

        return parse_checked

    def tokenizer_spec(self, kind: str | None, texts: Sequence[str]) -> tuple[str, int]:
        """The kind of tokenizer a new model gets, and of how many ids: the kind asked for, else by words where blanks
        set them apart, and by characters where not.
        """
        return kind or ("word" if has_blanks(texts) else "char"), 20_000

    def tokenizer_texts(self, examples: Sequence[Example]) -> list[str]:
        """The texts that a new tokenizer learns from."""
        return [text for each in examples for text in each.texts]

    @abstractmethod
    def head_spec(self) -> dict[str, Any]:
        """What `heads.build_head` builds for it."""

    def encode_example(self, example: Example, ids: list[list[int]], frame: InputTemplate) -> EncodedExample:
        """The example as ids; `ids` are those of its texts."""
        raise NotImplementedError

    def encode(
        self, examples: Sequence[Example], tokenizer: Tokenizer, frame: InputTemplate
    ) -> list[EncodedExample]:
        """All examples as ids: a row each, or more than one for a task whose `merged` makes one answer of theirs."""
        flat = iter(tokenizer.encode_batch([text for each in examples for text in each.texts]))
        return [self.encode_example(each, [next(flat) for _ in each.texts], frame) for each in examples]

    def aggregate_windows(self, rows: Sequence[EncodedExample], outputs: list[Any]) -> list[Any]:
        """One answer an example, from those of its rows."""
        return outputs

    def training_rows(self, rows: Sequence[EncodedExample]) -> list[EncodedExample]:
        """Those of the rows that training reads."""
        return [row for row in rows if row.label is not None]

    def augment_row(self, row: EncodedExample, random: np.random.Generator) -> EncodedExample:
        """The row as one step of training reads it."""
        return row

    @abstractmethod
    def label_tensor(self, labels: list[Any], length: int) -> Tensor:
        """The labels of rows that share a batch of `length` positions."""

    @abstractmethod
    def predict(self, head: Any, hidden: Tensor, batch: Batch) -> list[Any]:
        """The head's answer for each row of a batch."""

    @abstractmethod
    def metrics(
        self, examples: Sequence[Example], outputs: Sequence[Any], *, intervals: bool = True
    ) -> dict[str, Any]:
        """How good the answers are; the first figure is what weights are chosen by, more is better. Without `intervals`
        the figures alone: in training nobody reads the rest.
        """

    @abstractmethod
    def to_json(self, example: Example, output: Any) -> dict[str, Any]:
        """One answer as JSON values."""

    def answer_columns(self) -> list[str]:
        """The columns of an answer in a table: the names `told` gives, without the probabilities of classes."""
        return []

    def probabilities(self, output: Any) -> dict[str, float] | None:
        """The probability of every class, in the order of `labels`; None for a task without classes."""
        return None

    # ── what stands around a result; a task without it leaves these as they are ──

    def weighted_metric(
        self, examples: Sequence[Example], outputs: Sequence[Any]
    ) -> tuple[str, Callable[[Floats], float]] | None:
        """The task's figure as a function of what each row weighs (N,): what a paired bootstrap draws. None where rows
        cannot be weighed.
        """
        if (found := self.per_example_metric(examples, outputs)) is None:
            return None
        name, values = found
        return name, lambda weights: float(weights @ values / weights.sum())

    def per_example_metric(
        self, examples: Sequence[Example], outputs: Sequence[Any]
    ) -> tuple[str, Floats] | None:
        """The figure that is the mean of one value a row, and these values: what paired differences are told of."""
        return None

    def majority_baseline(self, examples: Sequence[Example]) -> list[Any] | None:
        """The best answers to examples whose text nobody has read."""
        return None

    def combine(self, members: Sequence[Sequence[Any]], how: str) -> list[Any]:
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
            self.mistakes_title: found.get("mistakes"),
        }
        return [Section(title, rows=rows) for title, rows in tables.items() if rows]


def has_blanks(texts: Sequence[str]) -> bool:
    """Whether words are set apart by blanks."""
    return sum(text.count(" ") for text in texts) > 0.05 * sum(map(len, texts))


def metrics_with_intervals(scores: dict[str, Any]) -> dict[str, Any]:
    """The figures among a task's scores that have an interval."""
    return {name: value for name, value in scores.items() if isinstance(value, dict) and "low" in value}


@dataclass(frozen=True)
class InputTemplate:
    """What stands around texts for a model: ids before the first, one after each; `longest` ids in all (None: any).
    `segments`: how many kinds of text it tells apart; `between`: how many ids part two texts (RoBERTa's have two).
    """

    begin: tuple[int, ...]
    end_id: int
    max_length: int | None
    n_segments: int = 0
    n_separators: int = 1

    def apply(
        self, texts: Sequence[list[int]], where: Literal["end", "middle", "start"] = "end"
    ) -> tuple[list[int], list[int], int]:
        """Ids and segments of texts, and how many ids were cut: from the longest, again and again; at its end or
        start, or so that its first quarter and the end are kept (Sun et al. 2019).
        """
        kept = [len(text) for text in texts]
        more = (self.n_separators - 1) * (len(texts) - 1)
        room = None if self.max_length is None else self.max_length - len(self.begin) - len(texts) - more
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
            ends = self.n_separators if number < len(texts) - 1 else 1
            ids += [*text[:first], *text[len(text) - n + first :], *[self.end_id] * ends]
            segments += [number] * (n + ends)
        return ids, segments, cut


def joined_text(example: Example) -> str:
    """The texts of an example as one, for a family that reads texts."""
    return "\n".join(example.texts)

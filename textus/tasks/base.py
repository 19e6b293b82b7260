"""The contract between a task and the rest of Textus: to add a task, subclass `Task` in a new file and register it.

A task defines what its data looks like, how a row is encoded, which head is put on the model's last hidden states, and
how predictions are scored and formatted. It does not train: `textus.finetuning.finetune` passes its rows to `fit`, and
`tasks.inference` runs a trained model. A task must define ``name``, ``config`` (a frozen dataclass of its settings) and

=================  ===============================================================================================
``from_records``   a task fitted to labelled records: its labels, and settings taken from the data
``row_parser``     a function that turns one record into an `Example`, or raises DataError
``head_spec``      the keywords of `models.nn.heads.build_head`; the head computes the loss
``predict``        hidden states → one output for each row of a batch
``metrics``        how good outputs are; the first metric selects the weights, higher is better
``to_json``        one output as JSON values
=================  ===============================================================================================

and may override ``encode_example`` (one row for each example: the label as the head takes it), ``encode`` with
``aggregate_windows`` (several rows for each example), ``label_tensor`` (the labels of a batch, as the loss of the head
takes them), ``training_rows``, ``augment_row``, ``check_validation_set``, ``strata``, ``can_split`` and the attributes
below. What reports, baselines and ensembles need is in
`tasks.reporting.TaskReporting`; a task without it trains and predicts all the same.

A built-in task is one line of `tasks.registry.TASKS`. Another package registers its class in its pyproject.toml::

    [project.entry-points."textus.tasks"]
    my-task = "my_package.task:MyTask"

Shapes: B rows, T positions, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from textus.core.console import log_notice
from textus.core.errors import DataError, UsageError
from textus.data.batch import Batch
from textus.data.labeled import Record
from textus.data.skipping import parse_rows
from textus.tasks.reporting import TaskReporting
from textus.tasks.rows import drop_rejected
from textus.tokenizers import Tokenizer


@dataclass(frozen=True)
class Example:
    """One parsed row: its texts, its label (None: unknown), numbers that are read next to the texts, and its place in
    the file.
    """

    texts: tuple[str, ...]
    label: Any
    where: str
    numbers: tuple[float, ...] = ()


@dataclass(frozen=True)
class EncodedExample:
    """An example, or a window of it, as ids. `segments` is the number of the text of each id; `label` is for the head
    (None: not trained on); `n_truncated` ids did not fit.

    `other_ids` are further texts that are encoded separately (similarity); `numbers` are read next to the text; `meta`
    is for `aggregate_windows`; `target_positions` have a label each (None: the row has one label).
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


class Task(TaskReporting, ABC):
    """See the module. `settings` is an instance of `config`, `labels` are the class names in the order of the head's
    outputs.
    """

    config: type
    """The dataclass of its settings."""
    settings: Any
    label_kind = "classes"
    """What its `labels` are, for messages."""
    group_fields: tuple[str, ...] = ()
    """Rows that share these fields are held out together. Empty: rows that share all input fields."""
    model_defaults: ClassVar[dict[str, Any]] = {}
    """Config values of a new model that differ from those of other tasks, for families that have them."""
    new_model_size: ClassVar[dict[str, int]] = {"n_layer": 2, "d_model": 256, "context_length": 256}
    """Arguments of `config_for_size` for a new model."""
    min_rows = 2
    """Rows needed where some of them are held out."""
    text_counts: tuple[int, ...] = ()
    """How many texts an example may have. Empty: the task checks its own fields."""
    empty_reason = "have no text"
    """What is reported of the rows that `is_empty` leaves out."""

    def __init__(self, settings: Any, labels: Sequence[str]) -> None:
        self.settings, self.labels = settings, list(labels)
        self.index = {label: number for number, label in enumerate(self.labels)}
        self.head_name = self.name
        """The task's name, or another where a run is trained on several tasks."""
        self.label_counts: list[int] = []
        """Training rows of each class, where there are classes."""
        self.n_texts: list[int] = []
        """How many texts the training rows had, such as [2] for pairs; empty: unknown."""
        self.label_type = ""
        """The type of the training labels where not str: bool, int or float."""

    # ── data ─────────────────────────────────────────────────────────────────────────────────

    @classmethod
    @abstractmethod
    def from_records(cls, settings: Any, records: Sequence[Record]) -> Task:
        """The task for these training records. Raises DataError where nothing can be learned from them."""

    @classmethod
    @abstractmethod
    def row_parser(
        cls, settings: Any, records: Sequence[Record], *, labelled: bool
    ) -> Callable[[Record], Example]:
        """A function that parses one record. It raises DataError for an invalid one; `records` are all of the file,
        where the format of one row depends on the others.
        """

    @classmethod
    def strata(cls, settings: Any, records: Sequence[Record]) -> list[Any] | None:
        """The stratum of each record: a split keeps some rows of each for training. None: no strata."""
        return None

    @classmethod
    def can_split(cls, settings: Any, train: Sequence[Record], held: Sequence[Record]) -> bool:
        """Whether a model can be trained on the first records and selected by the others."""
        return bool(train and held)

    @classmethod
    def used_fields(cls, settings: Any, values: dict[str, Any]) -> list[str]:
        """The fields of a record that the task reads, for `textus validate`."""
        return []

    def make_examples(self, records: Sequence[Record], *, labelled: bool) -> list[Example]:
        """The records parsed. Raises DataError that lists the invalid ones; rejected and empty ones are left out of
        labelled data.
        """
        if not labelled:
            return parse_rows(records, self.row_checker(records, labelled=False))
        records = drop_rejected(records)
        examples = parse_rows(records, self.row_checker(records, labelled=True))
        if empty := [example.where for example in examples if self.is_empty(example)]:
            log_notice(
                len(empty), f" rows {self.empty_reason} and are left out", first=f"the first is {empty[0]}"
            )
        return [example for example in examples if not self.is_empty(example)]

    def is_empty(self, example: Example) -> bool:
        """Whether a labelled row has no text to train on."""
        return not any(text.strip() for text in example.texts)

    def row_checker(self, records: Sequence[Record], *, labelled: bool) -> Callable[[Record], Example]:
        """`row_parser` of the trained task, which also refuses a pair where single texts were trained on."""
        parse = self.row_parser(self.settings, records, labelled=labelled)
        if not self.text_counts:
            return parse

        def parse_checked(record: Record) -> Example:
            example = parse(record)
            if problem := self.text_count_error(example.texts):
                raise DataError("wrong_number_of_texts", f"{record.where} {problem}")
            return example

        return parse_checked

    def check_validation_set(self, examples: Sequence[Example]) -> None:
        """Raises DataError where no metric can be computed on these examples."""

    def example_from_text(self, texts: tuple[str, ...], where: str) -> Example:
        """An unlabelled example. Raises UsageError where the task takes more or fewer texts."""
        if problem := self.text_count_error(texts):
            raise UsageError("wrong_number_of_texts", f"{where} {problem}")
        return Example(texts, None, where)

    def text_count_error(self, texts: tuple[str, ...]) -> str:
        """The message for a single text where pairs were trained on, or the reverse; "" for the right number."""
        allowed = self.n_texts or self.text_counts
        if not allowed or len(texts) in allowed:
            return ""
        if len(texts) < min(allowed):
            return (
                "has one text, but the run was trained on pairs: give the second with --text-pair, or in a column"
                " text_pair"
            )
        trained = "single texts" if max(allowed) == 1 else "pairs"
        return (
            f"has {len(texts)} texts, but the run was trained on {trained}: leave out --text-pair, or the column of the"
            " further text"
        )

    # ── encoding ───────────────────────────────────────────────────────────────────────────────

    @property
    def max_length(self) -> int | None:
        """Ids that are read at once, if the settings limit them (`longest`)."""
        return getattr(self.settings, "longest", None)

    def tokenizer_spec(self, kind: str | None, texts: Sequence[str]) -> tuple[str, int]:
        """Kind and vocabulary size of the tokenizer of a new model; `kind`: the kind the user chose, if any."""
        return kind or ("word" if has_blanks(texts) else "char"), 20_000

    def tokenizer_texts(self, examples: Sequence[Example]) -> list[str]:
        """The texts that a new tokenizer is trained on."""
        return [text for example in examples for text in example.texts]

    def encode_example(
        self, example: Example, ids: list[list[int]], template: InputTemplate
    ) -> EncodedExample:
        """One example; `ids` are those of its texts."""
        row_ids, segments, n_truncated = template.apply(ids)
        return EncodedExample(row_ids, segments, example.label, n_truncated, numbers=example.numbers)

    def encode(
        self, examples: Sequence[Example], tokenizer: Tokenizer, template: InputTemplate
    ) -> list[EncodedExample]:
        """All examples: one row each, or several, which `aggregate_windows` puts together again."""
        flat = iter(tokenizer.encode_batch([text for example in examples for text in example.texts]))
        return [
            self.encode_example(example, [next(flat) for _ in example.texts], template)
            for example in examples
        ]

    def aggregate_windows(self, rows: Sequence[EncodedExample], outputs: list[Any]) -> list[Any]:
        """One output for each example, from those of its rows."""
        return outputs

    def training_rows(self, rows: Sequence[EncodedExample]) -> list[EncodedExample]:
        """The rows that are trained on."""
        return [row for row in rows if row.label is not None]

    def augment_row(self, row: EncodedExample, random: np.random.Generator) -> EncodedExample:
        """The row as one training step reads it, for noise that is drawn again in every step."""
        return row

    def label_tensor(self, labels: list[Any], length: int) -> Tensor:
        """The labels (B, …) of rows that share a batch of `length` positions."""
        return torch.tensor(labels)

    # ── model and predictions ──────────────────────────────────────────────────────────────────

    @abstractmethod
    def head_spec(self) -> dict[str, Any]:
        """The keywords of `heads.build_head`: `kind` and what that head takes."""

    @abstractmethod
    def predict(self, head: Any, hidden: Tensor, batch: Batch) -> list[Any]:
        """One output for each row of a batch, from hidden states (B, T, D)."""

    @abstractmethod
    def metrics(
        self, examples: Sequence[Example], outputs: Sequence[Any], *, intervals: bool = True
    ) -> dict[str, Any]:
        """Metrics of labelled examples. The first selects the weights, higher is better; it has a confidence interval,
        as `metrics.resampling.estimate` gives it. Without `intervals`, during training, no interval is needed.
        """

    @abstractmethod
    def to_json(self, example: Example, output: Any) -> dict[str, Any]:
        """One output as JSON values."""


def read_field(record: Record, name: str) -> Any:
    """The value of a field. Raises DataError for a row without it."""
    if name not in record.values:
        raise DataError(
            "column_not_found",
            f"{record.where} has no field {name!r}; it has {list_fields(record)}: {columns_remedy(name)}",
        )
    return record.values[name]


def columns_remedy(name: str) -> str:
    """What to do where a field is missing."""
    return (
        f"name its column with --columns {name}=COLUMN; if the file has no header, by its number, such as"
        f" --columns 0={name}"
    )


def list_fields(record: Record) -> str:
    """The names of a row's fields, for messages."""
    return ", ".join(map(repr, list(record.values)[:30]))


def report_unseen(
    kind: str, names: Iterable[str], known: Container[str], effect: str = "count as wrong"
) -> None:
    """One line that counts the names that are not `known` from training."""
    if unseen := Counter(name for name in names if name not in known):
        shown = ", ".join(list(unseen)[:10])
        log_notice(f"{sum(unseen.values()):,} {kind} were never seen in training ({shown}): they {effect}")


def has_blanks(texts: Sequence[str]) -> bool:
    """Whether spaces separate words."""
    return sum(text.count(" ") for text in texts) > 0.05 * sum(map(len, texts))


@dataclass(frozen=True)
class InputTemplate:
    """How a model's input is built from texts: `begin`, then each text followed by `end_id`, `max_length` ids at most
    (None: no limit). `n_segments` is the number of segment embeddings (0: none); `n_separators` the number of ids
    between two texts (RoBERTa has two).
    """

    begin: tuple[int, ...]
    end_id: int
    max_length: int | None
    n_segments: int = 0
    n_separators: int = 1

    def apply(
        self, texts: Sequence[list[int]], where: Literal["end", "middle", "start"] = "end"
    ) -> tuple[list[int], list[int], int]:
        """Ids and segments of texts, and how many ids were truncated. The longest text is truncated first: at its
        end, its start, or in the middle after its first quarter (Sun et al. 2019).
        """
        kept = [len(text) for text in texts]
        more = (self.n_separators - 1) * (len(texts) - 1)
        limit = None if self.max_length is None else self.max_length - len(self.begin) - len(texts) - more
        cut = left = 0 if limit is None else max(0, sum(kept) - limit)
        while left:  # shorten the longest to the next longest, then both alternately
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
    """The texts of an example as one, for a family that takes raw text."""
    return "\n".join(example.texts)

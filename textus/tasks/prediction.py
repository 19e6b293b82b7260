"""Predictions of a fine-tuned run for Python values, a file or a pipe: as a list, or as a file of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from textus.core.console import merge_notices
from textus.core.errors import UsageError
from textus.core.io import fingerprint, sha256
from textus.data.inputs import (
    Records,
    record_location,
    report_empty,
    resolve_options,
    row_reader,
    to_items,
    to_records,
    trained_columns,
)
from textus.data.labeled import Record, clean_text
from textus.data.output import (
    ROWS_PER_WRITE,
    OutputLayout,
    check_output,
    content_hash,
    csv_cell,
    output_format,
    partial_file,
    write_rows,
)
from textus.data.read_options import AUTODETECT, ReadOptions, run_read_options
from textus.models.contract import LanguageModel
from textus.runs.record import RunRecord
from textus.tasks.base import Example, Task
from textus.tasks.inference import predict_texts
from textus.tokenizers import Tokenizer

MOST_CLASSES = 200
"""Classes that have a column of their own in a table."""


@dataclass(frozen=True)
class Predictor:
    """A task and the function that predicts its examples. `trained`: how the training rows were read; `run_id`
    identifies the run.
    """

    task: Task
    predict: Callable[[Sequence[Example]], list[Any]]
    trained: ReadOptions = AUTODETECT
    run_id: str = ""

    def predict_records(self, records: Sequence[Record]) -> list[tuple[dict[str, Any], Any]]:
        """The prediction for each record as JSON values, with the task's output."""
        if not records:
            return []
        examples = self.task.make_examples(records, labelled=False)
        pairs = zip(examples, self.predict_examples(examples), strict=True)
        return [(self.task.to_json(example, output), output) for example, output in pairs]

    def predict_examples(self, examples: Sequence[Example]) -> Sequence[Any]:
        """The output for each example; reports how many have an empty text."""
        report_empty(((example.where, example.texts) for example in examples), "answered")
        return self.predict(examples) if examples else []


def make_predictor(
    model: LanguageModel, tokenizer: Tokenizer, task: Task, record: RunRecord, run: Path
) -> Predictor:
    """The predictor of a run; `record` is its run.json (of several tasks: from `record_for_task`)."""
    answer = lambda examples: predict_texts(model, task, tokenizer, examples)  # noqa: E731
    return Predictor(task, answer, run_read_options(record), sha256(run / "run.json"))


def check_skip_invalid(given: Any, options: ReadOptions) -> None:
    """Raises UsageError for --skip-invalid without a file."""
    if options.skip_invalid is not None and not isinstance(given, Path):
        raise UsageError(
            "option_not_applicable",
            f"--skip-invalid {options.skip_invalid}: goes with a file of rows; leave it out",
        )


# ── as a list ──────────────────────────────────────────────────────────────────────────────────


def probabilities(reader: Predictor, given: Any, options: ReadOptions = AUTODETECT) -> Any:
    """The probability of every class, in the order of `labels`: an array (texts, classes), or (classes,) for one text.

    Raises UsageError for a task without classes.
    """
    import numpy as np

    labels = reader.task.labels
    if not labels or reader.task.probabilities([0.0] * len(labels)) is None:
        raise UsageError("wrong_task", f"{reader.task.name} has no probabilities of classes; see predict")
    if isinstance(given, Path):
        options = resolve_options(given, options, reader.trained)
        examples = reader.task.make_examples(list(record_reader(reader, given, options)()), labelled=False)
        alone = False
    else:
        items, alone = to_items(given)
        examples = examples_from_items(reader, items, options.columns)
    result = np.asarray(reader.predict_examples(examples) if examples else np.zeros((0, len(labels))))
    return result[0] if alone else result


def predict(reader: Predictor, given: Any, options: ReadOptions = AUTODETECT) -> Any:
    """The prediction for one text or row, or a list of those for several, or for the rows of a file (a Path) or records
    (an iterator of them), with line and id.
    """
    if isinstance(given, Path | Records):
        return [
            record_location(record) | answer for record, answer in iter_predictions(reader, given, options)
        ]
    check_skip_invalid(given, options)
    items, alone = to_items(given)
    examples = examples_from_items(reader, items, options.columns)
    outputs = reader.predict_examples(examples)
    answers = [reader.task.to_json(*pair) for pair in zip(examples, outputs, strict=True)]
    return answers[0] if alone else answers


def iter_predictions(
    reader: Predictor, given: Path | Records, options: ReadOptions = AUTODETECT
) -> Iterator[tuple[Record, dict[str, Any]]]:
    """The rows of a file, or records, with their predictions, a batch at a time."""
    options = resolve_options(given, options, reader.trained) if isinstance(given, Path) else options
    records = iter(given) if isinstance(given, Records) else record_reader(reader, given, options)()
    with merge_notices():
        while batch := list(islice(records, ROWS_PER_WRITE)):
            for record, (answer, _) in zip(batch, reader.predict_records(batch), strict=True):
                yield record, answer


def examples_from_items(reader: Predictor, items: Sequence[Any], columns: str | None = None) -> list[Example]:
    """Texts, tuples of texts or dicts as unlabelled examples."""
    rows = [item for item in items if isinstance(item, dict)]
    if rows:
        named = columns or trained_columns(reader.trained.columns, rows[0])
        return reader.task.make_examples(to_records(rows, named), labelled=False)
    texts = [tuple(map(clean_text, (item,) if isinstance(item, str) else item)) for item in items]
    return [reader.task.example_from_text(parts, f"text {number}") for number, parts in enumerate(texts, 1)]


def record_reader(reader: Predictor, path: Path, options: ReadOptions) -> Callable[[], Iterator[Record]]:
    """A function that reads the rows of a file, as often as it is called."""
    tags = reader.task.labels if reader.task.name == "tagging" else None
    return row_reader(path, options, tags, lambda rows: reader.task.row_checker(rows, labelled=False))


# ── as a file ──────────────────────────────────────────────────────────────────────────────────


def predict_to_file(
    reader: Predictor,
    given: Path | Sequence[Record],
    out: Path,
    *,
    options: ReadOptions = AUTODETECT,
    force: bool = False,
) -> int:
    """Write predictions for the rows of a file, or records, to the table or JSON lines at `out`: location, the file's
    own columns, prediction. Rows are written batch by batch; for a file, the same command continues after an
    interruption. Returns the number of rows. Raises UsageError where `out` exists, unless `force`.
    """
    form, source = output_format(out), None
    check_skip_invalid(given, options)
    check_output(out, given, force=force)
    records: Callable[[], Iterable[Record]] = lambda: given  # type: ignore[assignment, return-value]  # noqa: E731
    if isinstance(given, Path):
        options = resolve_options(given, options, reader.trained)
        parts = [reader.run_id, reader.task.head_name, content_hash(given), astuple(options), form]
        source = fingerprint(parts)
        records = record_reader(reader, given, options)
    task, own = reader.task, given.columns if isinstance(given, Records) else options.columns
    rows = OutputLayout(answer_columns(task, form), own or options.columns, checked_records(task, records()))
    answer = lambda batch: [  # noqa: E731
        rows.row(record, flatten_prediction(task, prediction, output, form))
        for record, (prediction, output) in zip(batch, reader.predict_records(batch), strict=True)
    ]
    with partial_file(out, source, force=force) as file, merge_notices():
        return write_rows(file, records(), answer, rows.names)


def checked_records(task: Task, records: Iterable[Record]) -> Iterator[Record]:
    """Records as they are. Raises DataError for one that the task cannot read, before any prediction."""
    rest = iter(records)
    while batch := list(islice(rest, ROWS_PER_WRITE)):
        with merge_notices(show=False):
            task.make_examples(batch, labelled=False)
        yield from batch


def answer_columns(task: Task, form: str) -> list[str]:
    """The columns of a prediction: in a table one for the probability of each class."""
    if not task.labels or task.probabilities([0.0] * len(task.labels)) is None:
        return task.answer_columns()
    if has_class_columns(task, form):
        return [*task.answer_columns(), *(f"probability_{name}" for name in task.labels)]
    return [*task.answer_columns(), "probabilities"]


def has_class_columns(task: Task, form: str) -> bool:
    """Whether each class has a column."""
    return form != ".jsonl" and len(task.labels) <= MOST_CLASSES


def flatten_prediction(task: Task, prediction: dict[str, Any], output: Any, form: str) -> dict[str, Any]:
    """A prediction as the fields of a row, with the probability of every class."""
    answer = {name: value for name, value in prediction.items() if name != "probabilities"}
    if form != ".jsonl" and isinstance(labels := answer.get("labels"), list):
        answer["labels"] = "|".join(str(csv_cell(label)) for label in labels)
    if (every := task.probabilities(output)) is None:
        return answer
    if has_class_columns(task, form):
        return answer | {f"probability_{name}": probability for name, probability in every.items()}
    return answer | {"probabilities": every}

"""Checks of labelled rows before training: what cannot be used (errors), and what is likely a mistake (warnings).

`validate_files` reads files as `textus finetune` does and reports everything at once; `report_problems` reports the
warnings of rows that are already read, a line each.
"""

from __future__ import annotations

import contextlib
import io
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from textus.core.config import apply_overrides
from textus.core.console import log_notice
from textus.core.errors import DataError, UsageError
from textus.data.corpus.dialects import RowProblem
from textus.data.corpus.tables import parse_columns
from textus.data.labeled import Record
from textus.data.skipping import BadRow, parse_rows, sort_by_place, unreadable_rows
from textus.models.contract import CountBased
from textus.models.registry import family as family_of
from textus.tasks.base import Example, Task, has_blanks
from textus.tasks.config import ValidateConfig
from textus.tasks.encoding import input_template
from textus.tasks.labels import find_separator, likely_typos, missing_names, similar_names
from textus.tasks.registry import load_for_task, task_class
from textus.tasks.rows import drop_held_out_files, drop_rejected
from textus.tokenizers import Tokenizer

SHOWN = 5
"""Names or places that a warning lists."""
USUAL_CONTEXT = 256
"""Words or characters that a new model reads if no run is given."""
WINDOWED = ("tagging", "question-answering")
"""Tasks that read all of a long text."""

Parts = Mapping[str, Sequence[Example]]
"""Checked rows by the name of their part: train, dev, test."""


@dataclass(frozen=True)
class Finding:
    """What a person should look at: its `kind`, how often it was seen, and a line about it."""

    kind: str
    count: int
    message: str


@dataclass
class ValidationReport:
    """One file as the task reads it."""

    path: str
    rows: int = 0
    usable: int = 0
    columns: dict[str, str] = field(default_factory=dict)
    not_read: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    errors: list[BadRow] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


# ── findings among rows ────────────────────────────────────────────────────────────────────────


def text_key(example: Example) -> tuple[str, ...]:
    """A key for equal texts: characters composed (NFC), blanks merged."""
    return tuple(" ".join(unicodedata.normalize("NFC", text).split()) for text in example.texts)


def find_problems(task: Task, parts: Parts) -> Iterator[Finding]:
    """All likely mistakes in these rows."""
    keys = {name: [text_key(example) for example in examples] for name, examples in parts.items()}
    for name, examples in parts.items():
        yield from contradictions(examples, keys[name], name if len(parts) > 1 else "")
    counts = {name: count_labels(task, part) for name, part in parts.items()}
    total = sum(counts.values(), Counter[str]())
    if total and not has_numeric_labels(task):
        yield from suspicious_names(total)
        single = task.name == "classification" and not task.settings.multi
        if single and (sign := find_separator(list(total))):
            n = sum(sign in name for name in total.elements())
            message = f"{n:,} labels have {sign!r}: for several labels a text --set task.multi=true"
            yield Finding("several labels", n, message)
        yield from classes_in_one_part(counts)
        train = counts.get("train", Counter())
        if alone := [name for name, n in train.items() if n == 1 and len(train) > 1]:
            yield Finding("single", len(alone), f"classes of a single row: {format_names(alone)}")
    yield from leaks(parts, keys)


def count_labels(task: Task, examples: Sequence[Example]) -> Counter[str]:
    """How often each name is in the labels of examples."""
    labelled = [example for example in examples if example.label is not None]
    return Counter(name for example in labelled for name in task.label_names(example))


def has_numeric_labels(task: Task) -> bool:
    """Whether its labels are numbers, which do not look alike by mistake."""
    return task.name in ("regression", "similarity")


def contradictions(
    examples: Sequence[Example], keys: Sequence[tuple[str, ...]], part: str
) -> Iterator[Finding]:
    """Texts that have different labels, and duplicate rows."""
    first: dict[tuple[str, ...], Example] = {}
    other: dict[tuple[str, ...], Example] = {}
    copies: list[tuple[Example, Example]] = []
    for example, key in zip(examples, keys, strict=True):
        before = first.setdefault(key, example)
        if before is example:
            continue
        if same_label(before.label, example.label) and before.numbers == example.numbers:
            copies.append((before, example))
        elif before.numbers == example.numbers and before.label is not None:
            other.setdefault(key, example)
    where = f" in {part}" if part else ""
    if other:
        key, second = next(iter(other.items()))
        one = first[key]
        short = len(str(one.label) + str(second.label)) <= 120
        labels = f" ({one.label!r} and {second.label!r})" if short else ""
        yield Finding(
            "contradiction", len(other),
            f"{len(other):,} {plural(other, 'text has', 'texts have')} different labels{where}; the first is"
            f" {one.where} and {second.where}{labels}",
        )  # fmt: skip
    if copies:
        one, again = copies[0]
        yield Finding(
            "duplicate", len(copies),
            f"{len(copies):,} {plural(copies, 'row is', 'rows are')} a copy of another{where}, text and label; the"
            f" first is {again.where}, of {one.where}",
        )  # fmt: skip


def same_label(one: Any, other: Any) -> bool:
    """Whether two labels are the same; the order of several names does not matter."""
    tuples = isinstance(one, tuple) and isinstance(other, tuple)
    if tuples and all(isinstance(name, str) for name in one + other):
        return one == other or (sorted(one) == sorted(other) and len(set(one)) == len(one))
    return bool(one == other)


def suspicious_names(counts: Counter[str]) -> Iterator[Finding]:
    """Names that look like one class, like a typo, or like no label."""

    def with_counts(names: Sequence[str]) -> list[str]:
        return [f"{name!r} ({counts[name]:,})" for name in names]

    if groups := similar_names(counts):
        listed = "; ".join(" and ".join(with_counts(names)) for names in groups[:SHOWN])
        yield Finding(
            "alike", len(groups),
            f"labels that differ only in case, width, blanks or hyphens: {listed}{and_more(groups)}; did you mean one"
            " class?",
        )  # fmt: skip
    if pairs := likely_typos(counts):
        listed = "; ".join(" and ".join(with_counts(pair)) for pair in pairs[:SHOWN])
        yield Finding("misspelt", len(pairs), f"labels that may be misspelt: {listed}{and_more(pairs)}")
    if empty := missing_names(counts):
        listed = ", ".join(with_counts(empty[:SHOWN]))
        yield Finding(
            "missing", sum(counts[name] for name in empty),
            f"labels that usually mean that there is none: {listed}; they are taken as classes",
        )  # fmt: skip


def classes_in_one_part(counts: Mapping[str, Counter[str]]) -> Iterator[Finding]:
    """Names of one part that the training rows do not have, or the reverse."""
    train = counts.get("train")
    for name, others in counts.items():
        if train is None or name == "train" or not others:
            continue
        if strange := [label for label in others if label not in train]:
            n = sum(others[label] for label in strange)
            message = f"{format_names(strange)}: only in {name} ({n:,}), not in train"
            yield Finding("only in one file", n, message)
        if lacking := [label for label in train if label not in others]:
            n = sum(train[label] for label in lacking)
            yield Finding("only in one file", n, f"{format_names(lacking)}: in train ({n:,}), not in {name}")


def leaks(parts: Parts, keys: Mapping[str, Sequence[tuple[str, ...]]]) -> Iterator[Finding]:
    """Texts of one part that are in another too."""
    names = list(parts)
    for number, name in enumerate(names):
        first = dict(zip(reversed(keys[name]), reversed(parts[name]), strict=True))
        for later in names[number + 1 :]:
            keyed = zip(keys[later], parts[later], strict=True)
            if both := [(first[key], example) for key, example in keyed if key in first]:
                one, other = both[0]
                rows, again = f"rows of {later}", f"that is in {name} too"
                if (name, later) == ("train", "dev"):
                    rows, again = "rows that choose the weights", "that is trained on too"
                yield Finding(
                    "leak", len(both),
                    f"{len(both):,} of the {len(parts[later]):,} {rows} have a text {again}; the first is"
                    f" {other.where}, as {one.where}",
                )  # fmt: skip


def format_names(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(map(repr, names[:SHOWN])) + and_more(names)


def and_more(listed: Sequence[Any]) -> str:
    """The number of names that are not listed."""
    return f" and {len(listed) - SHOWN:,} more" if len(listed) > SHOWN else ""


def plural(counted: Any, one: str, several: str) -> str:
    """The singular or plural form for what is counted."""
    return one if len(counted) == 1 else several


def report_problems(task: Task, parts: Parts) -> None:
    """Report `find_problems`, without what every split of small data has."""
    usual = ("duplicate", "only in one file")
    for finding in find_problems(task, parts):
        if finding.kind not in usual:
            log_notice(finding.message)


# ── files ──────────────────────────────────────────────────────────────────────────────────────


def validate_files(data: Path, config: ValidateConfig) -> dict[str, Any]:
    """Check a file of labelled rows for a task, with its dev and test rows; a report as JSON values. The tokenizer and
    context of `config.init_from` or `config.model` decide how much of a text is read. Raises UsageError for an unknown
    task, DataError for a file that cannot be read at all.
    """
    cls = task_class(config.task)
    chosen = apply_overrides(cls.config(), config.task_settings)
    if config.init_from is not None and config.model is not None:
        raise UsageError(
            "conflicting_options",
            f"--from {config.init_from} and --model {config.model}: a model is one or the other; leave one out",
        )
    context = model_context(config.init_from, config.model)
    others = {name: path for name, path in (("dev", config.dev), ("test", config.test)) if path}
    paths = {"train": data, **others}
    checked: dict[str, ValidationReport] = {}
    rows: dict[str, list[Record]] = {}
    for name, path in paths.items():
        checked[name], rows[name] = check_file(cls, chosen, path, config, trains=name == "train")
    warnings: list[Finding] = []
    classes: dict[str, int] = {}
    errors = [
        {"file": file.path, **asdict(row)} for file in checked.values() for row in sort_by_place(file.errors)
    ]
    if rows["train"]:
        try:
            with captured_notices() as lines:
                built = cls.from_records(chosen, rows["train"])
        except (DataError, UsageError) as error:
            errors.append({"file": str(data), "where": str(data), "message": str(error)})
        else:
            warnings += [Finding("note", 1, line) for line in lines]
            parts = {name: part for name, part in rows.items() if part}
            examples = {name: read_examples(built, part, checked[name]) for name, part in parts.items()}
            warnings += find_problems(built, examples)
            warnings += long_texts(built, examples, *context)
            if not has_numeric_labels(built):
                counts = count_labels(built, examples["train"])
                classes = {name: counts[name] for name in [*built.labels, *counts] if name in counts}
    return {
        "data": str(data), "task": config.task, "settings": config.task_settings, "ok": not errors,
        "files": {name: file_summary(file) for name, file in checked.items()},
        "classes": classes, "errors": errors,
        "warnings": [asdict(warning) for warning in warnings],
    }  # fmt: skip


def check_file(
    cls: type[Task], settings: Any, path: Path, config: ValidateConfig, *, trains: bool
) -> tuple[ValidationReport, list[Record]]:
    """The usable rows of a file, and what is wrong with the others."""
    faults = list[RowProblem]()
    with captured_notices() as lines:
        records = config.records(path, faults)
        if trains:
            records, faults = drop_held_out_files(path, records, faults)
    n_rows = len(records) + len(faults)
    checked = ValidationReport(str(path), n_rows, errors=unreadable_rows(faults), warnings=lines)
    if not records:
        return checked, []
    try:
        with captured_notices() as lines:
            kept = list(drop_rejected(records))
        if n := len(records) - len(kept):
            checked.left_out["not accepted in Prodigy"] = n
        checked.warnings += lines
        records = kept
        parse = cls.row_parser(settings, records, labelled=True)
    except (DataError, UsageError) as error:
        checked.errors.append(BadRow(str(path), str(error)))
        return checked, []
    parse_rows(records, parse, checked.errors)
    bad = {row.where for row in checked.errors}
    good = [record for record in records if record.where not in bad]
    checked.usable = len(good)
    names = list(dict.fromkeys(name for record in records for name in record.values))
    with contextlib.suppress(DataError):
        given = {name: column for column, name in parse_columns(config.columns).items()}
        fields = [name for name in cls.used_fields(settings, records[0].values) if name in names]
        checked.columns = {name: given.get(name, name) for name in fields}
        checked.not_read = [name for name in names if name not in fields]
    return checked, good


def read_examples(task: Task, records: list[Record], checked: ValidationReport) -> list[Example]:
    """The examples of a file; counts rows without a text as left out."""
    with captured_notices() as lines:
        examples = task.make_examples(records, labelled=True)
    checked.warnings += lines
    if n := len(records) - len(examples):
        checked.left_out["without a text"] = n
        checked.usable -= n
    return examples


def file_summary(checked: ValidationReport) -> dict[str, Any]:
    """The report of a file as JSON values."""
    summary = asdict(checked)
    summary["invalid"] = len(summary.pop("errors"))
    return summary


@contextlib.contextmanager
def captured_notices() -> Iterator[list[str]]:
    """The lines that the block writes to standard error, complete after it."""
    lines: list[str] = []
    with contextlib.redirect_stderr(io.StringIO()) as written:
        yield lines
    lines += written.getvalue().splitlines()


def model_context(run: Path | None, family: str | None) -> tuple[Tokenizer | None, int | None]:
    """The tokenizer of a run and the context of its model; for a new model no tokenizer."""
    if run is not None:
        model, tokenizer, _ = load_for_task(run)
        return tokenizer, input_template(model.config, tokenizer).max_length
    cls, _ = family_of(family or "encoder")
    if issubclass(cls, CountBased):
        return None, None
    values = cls.config_for_size(n_layer=2, d_model=256, context_length=USUAL_CONTEXT)
    return None, values.get("context_length")


def long_texts(
    task: Task, parts: Parts, tokenizer: Tokenizer | None, context: int | None
) -> Iterator[Finding]:
    """Texts longer than the model reads, in tokens; without a tokenizer in words or characters."""
    examples = [example for part in parts.values() for example in part]
    limits = [limit for limit in (context, getattr(task.settings, "longest", 0)) if limit]
    if not examples or not limits:
        return
    if tokenizer is not None:
        unit = "tokens"
        flat = iter(tokenizer.encode_batch([text for example in examples for text in example.texts]))
        lengths = [sum(len(next(flat)) for _ in example.texts) for example in examples]
    else:
        joined = [("" if task.name == "tagging" else " ").join(example.texts) for example in examples]
        unit = "words" if has_blanks(joined[:1000]) else "characters"
        lengths = [len(text.split()) if unit == "words" else len(text) for text in joined]
    over = [n for n in lengths if n > min(limits)]
    how = "read in windows" if task.name in WINDOWED else "cut: see task.longest"
    if over:
        yield Finding(
            "length", len(over),
            f"{len(over):,} of {len(lengths):,} texts are longer than {min(limits):,} {unit} (half of all have up to"
            f" {int(np.median(lengths)):,}, the longest {max(lengths):,}): they are {how}",
        )  # fmt: skip

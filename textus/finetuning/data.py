"""The rows of a fine-tuning: read, checked, a tenth of them held out to choose the weights by, and reported on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from textus.augment.augmenter import AugmentConfig, augment_records, origin_id
from textus.core.console import log_notice
from textus.core.errors import DataError
from textus.core.io import fingerprint
from textus.core.rng import uniform
from textus.data.corpus.dialects import RowProblem
from textus.data.labeled import Record
from textus.data.skipping import BadRow, BadRows, drop_unusable
from textus.finetuning.config import FinetuneConfig
from textus.runs.record import RunRecord
from textus.tasks.base import Example, Task
from textus.tasks.rows import drop_held_out_files, drop_rejected
from textus.tasks.validation import report_problems

HELD_OUT = 0.1
"""Share of the rows that choose the weights, where no file of their own is given."""

Groups = list[list[int]]
"""Places of rows that are held out together."""


@dataclass(frozen=True)
class TaskData:
    """A task's data as it is trained on: the task with its classes, both parts' checked rows, and a fingerprint of what
    its files contain.
    """

    task: Task
    train: list[Example]
    dev: list[Example]
    fingerprint: str


@dataclass(frozen=True)
class LabelledFile:
    """A file of labelled rows, parsed: its rows, and those that cannot be read."""

    records: list[Record]
    problems: list[RowProblem]


def read_data(
    cls: type[Task],
    settings: Any,
    request: FinetuneConfig,
    augment: AugmentConfig | None = None,
    files: Sequence[LabelledFile] | None = None,
) -> TaskData:
    """The rows of a task's `files` (None: read now), a share of them held out where no `dev` file is given; texts in
    both parts are reported. The training rows are augmented if `augment` is given.

    Raises DataError for data the task cannot use.
    """
    path, files = request.data, read_files(request) if files is None else files
    records, *others = usable(cls, settings, request, files)
    held = others[0] if others else []
    if not request.dev:
        records, held = hold_out(cls, settings, records, request)
    records, held = drop_copies(records, held)
    task = cls.from_records(settings, records)
    if augment:
        records = augment_records(records, augment)
    copies = {record.where for record in records if "augmented" in record.values}
    train = task.make_examples(records, labelled=True)
    validation = task.make_examples(held, labelled=True)
    if not train or not validation:
        raise DataError(
            "too_few_rows",
            f"{path}: {len(train)} rows to learn from, {len(validation)} to choose by; give more rows, or those that"
            " choose the weights with --dev FILE",
        )
    task.check_validation_set(validation)
    originals = [row for row in train if row.where not in copies]
    parts = {"train": originals, "dev": validation} if request.dev else {"train": [*originals, *validation]}
    report_problems(task, parts)
    return TaskData(task, train, validation, fingerprint_of(files))


def read_files(request: FinetuneConfig) -> list[LabelledFile]:
    """The file to train on and, where one is given, the file that chooses the weights."""
    return [read_file(path, request) for path in (request.data, request.dev) if path]


def read_file(path: Path, request: FinetuneConfig, *, quiet: bool = False) -> LabelledFile:
    """The accepted rows of a file and those that cannot be read; `quiet`: nothing is reported."""
    problems: list[RowProblem] = []
    records = request.records(path, problems, quiet=quiet)
    if path == request.data:
        records, problems = drop_held_out_files(path, records, problems)
    return LabelledFile(list(drop_rejected(records)), problems)


def usable(
    cls: type[Task], settings: Any, request: FinetuneConfig, files: Sequence[LabelledFile]
) -> list[list[Record]]:
    """The rows of each file without those that are to be left out because they are wrong. BadRows that lists those of
    all files.
    """
    kept = list[list[Record]]()
    bad, n_rows = list[BadRow](), 0
    for file in files:
        try:
            parse = cls.row_parser(settings, file.records, labelled=True) if file.records else None
            kept.append(drop_unusable(file.records, parse, request.skip_invalid, file.problems))
        except BadRows as error:
            bad += error.rows
            n_rows += error.n_rows
    if bad:
        raise BadRows(bad, n_rows)
    return kept


# ── holding out ────────────────────────────────────────────────────────────────────────────────


def hold_out(
    cls: type[Task], settings: Any, records: list[Record], request: FinetuneConfig
) -> tuple[list[Record], list[Record]]:
    """`parted` as the task needs it. DataError where there are too few rows to learn from some and choose by others."""
    originals = [record for record in records if "augmented" not in record.values]
    if len(originals) < cls.min_rows:
        few = "1 row" if len(originals) == 1 else f"{len(originals)} rows"
        raise DataError(
            "too_few_rows",
            f"{request.data} has {few}: {cls.name} needs at least {cls.min_rows} to learn from some and choose"
            f" the weights"
            " by others; give more, or rows that choose the weights with --dev FILE",
        )
    try:
        kinds = cls.strata(settings, originals)
    except DataError:  # the task names the rows that are wrong
        return split_rows(records, request.seed, cls.group_fields)
    can_split = lambda train, held: cls.can_split(settings, train, held)  # noqa: E731
    train, held = split_rows(records, request.seed, cls.group_fields, kinds=kinds, can_split=can_split)
    if not can_split(train, held) and can_split(originals, originals):
        raise DataError(
            "too_few_rows",
            f"{request.data}: its {len(originals)} rows have too few different labels to learn from some and choose the"
            " weights by others; give more, or rows that choose the weights with --dev FILE",
        )
    return train, held


def split_rows(
    records: list[Record],
    seed: int,
    together: tuple[str, ...] = (),
    *,
    kinds: Sequence[Any] | None = None,
    can_split: Callable[[list[Record], list[Record]], bool] | None = None,
) -> tuple[list[Record], list[Record]]:
    """Rows to learn from, and those held out, about a tenth and at least one: by their content (in the fields
    `together`), so that equal texts are in one part; those of the least hash. A copy goes where its row goes.

    `kinds` of the rows that are no copies, of each of which some are left to learn from; `can_split`: whether a task
    can use the parts, else others are looked for.
    """
    originals = [record for record in records if "augmented" not in record.values]
    groups = group_rows(originals, seed, together)
    held = draw_held_out(groups, kinds)

    def parts(held: set[int]) -> tuple[list[Record], list[Record]]:
        origins = {origin_id(originals[place].values) for place in held}
        own = {id(originals[place]) for place in held}
        out = [
            id(record) in own or ("augmented" in record.values and origin_id(record.values) in origins)
            for record in records
        ]
        return (
            [record for record, is_held in zip(records, out, strict=True) if not is_held],
            [record for record, is_held in zip(records, out, strict=True) if is_held],
        )

    if can_split and not can_split(*parts(held)) and can_split(originals, originals):
        held = next((other for other in alternative_splits(groups, held) if can_split(*parts(other))), held)
    return parts(held)


def group_rows(records: Sequence[Record], seed: int, together: tuple[str, ...]) -> Groups:
    """The places of rows that are held out together, by the hash of what they share. Where all rows share it, by the
    whole row's text, and where all rows share that too, one by one.
    """
    shared = [{name: record.values.get(name) for name in together} or record.values for record in records]
    whole = [origin_id(record.values) for record in records]
    ways = [
        [origin_id(record) for record in shared] if together else whole,
        whole,
        [f"row {place}" for place in range(len(records))],
    ]
    keys = next((way for way in ways if len(set(way)) > 1), ways[0])
    if keys is not ways[0]:
        what = " and ".join(together) or "text"
        log_notice(
            f"all {len(records):,} rows have the same {what}: rows held out share it with those to learn from"
        )
    groups: dict[str, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    order = sorted(groups, key=lambda key: uniform(seed, "held out", key))
    return [groups[key] for key in order]


def draw_held_out(groups: Groups, kinds: Sequence[Any] | None) -> set[int]:
    """The places of the groups that come first, a tenth of all rows as nearly as they allow, at least one group and not
    all; of each kind some are left.
    """
    n_rows = sum(map(len, groups))
    target = max(1.0, HELD_OUT * n_rows)
    left = Counter(kinds or [None] * n_rows)
    held: set[int] = set()
    for group in groups:
        taken = Counter(kinds[place] for place in group) if kinds else Counter()
        vanishes = any(left[kind] <= n for kind, n in taken.items())
        if not vanishes and abs(len(held) + len(group) - target) < abs(len(held) - target):
            held.update(group)
            left -= taken
        if len(held) >= target:
            break
    if not held and len(groups) > 1:
        held.update(sorted(groups, key=len)[0])
    return held


def alternative_splits(groups: Groups, held: set[int]) -> Iterator[set[int]]:
    """Other choices than `held`, the nearest first: another group in place of one, one group more, two more."""
    out = [group for group in groups if held.isdisjoint(group)]
    inside = [group for group in groups if held.issuperset(group)]
    exchanged = (held - set(one) | set(other) for one in inside[:10] for other in out[:20])
    one_more = (held | set(group) for group in out[:100])
    two_more = (held | set(one) | set(other) for n, one in enumerate(out[:20]) for other in out[n + 1 : 20])
    n_rows = sum(map(len, groups))
    return (choice for choice in chain(exchanged, one_more, two_more) if len(choice) < n_rows)


def drop_copies(records: list[Record], held: list[Record]) -> tuple[list[Record], list[Record]]:
    """Both parts without copies (`textus augment`) of rows held out: these are measured as they were written, and
    they are not trained on. What is left out is reported.
    """
    known = {origin_id(record.values) for record in held}
    kept = [r for r in records if "augmented" not in r.values or origin_id(r.values) not in known]
    originals = [record for record in held if "augmented" not in record.values]
    if n := len(records) - len(kept) + len(held) - len(originals):
        log_notice(f"{n:,} rows are augmented copies of rows that choose the weights: they are left out")
    return kept, originals


def data_record(request: FinetuneConfig, data: TaskData) -> dict[str, Any]:
    """Where the data came from, how it was read, and a fingerprint of its content."""
    how = {"skip_invalid": request.skip_invalid, "encoding": request.encoding}
    return {
        "path": str(request.data.resolve()),
        "dev": str(request.dev.resolve()) if request.dev else None,
        "columns": request.columns,
        "fingerprint": data.fingerprint,
        **{name: value for name, value in how.items() if value is not None},
    }


def fingerprint_of(files: Sequence[LabelledFile]) -> str:
    """A fingerprint of the rows of files."""
    return fingerprint([[record.values for record in file.records] for file in files])


def recorded_config(record: RunRecord) -> FinetuneConfig:
    """Where the data of a run is and how it was read, from the record of one task."""
    corpus = record["corpus"]
    dev = Path(corpus["dev"]) if corpus["dev"] else None
    return FinetuneConfig(
        data=Path(corpus["path"]), task=record["task"], dev=dev, columns=corpus["columns"], seed=record["seed"],
        skip_invalid=corpus.get("skip_invalid"), encoding=corpus.get("encoding"),
    )  # fmt: skip

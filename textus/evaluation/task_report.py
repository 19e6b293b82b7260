"""Task metrics in context: baselines, slices, overlap with training data, and the HTML report.

The baselines are the best constant prediction (the majority class), and TF-IDF with a linear classifier, trained once
on the training rows of the run and cached in the user's cache folder: the run's folder is only read. Differences are
paired: both sides on the same rows.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from textus.core.console import log_notice, merge_notices
from textus.core.errors import DataError, RunError, UsageError
from textus.core.io import dump_jsonl, fingerprint, sha256, write_atomic, write_json
from textus.data.corpus.dialects import RowProblem
from textus.data.inputs import labelled_records, row_id
from textus.data.labeled import Record
from textus.data.output import OutputLayout
from textus.data.read_options import AUTODETECT, ReadOptions
from textus.data.skipping import drop_unusable
from textus.evaluation.comparison import training_curves
from textus.evaluation.text_baselines import text_baselines
from textus.finetuning.data import LabelledFile, fingerprint_of, read_file, recorded_config
from textus.finetuning.finetune import start
from textus.metrics.resampling import interval, paired_bootstrap
from textus.models.kernels.native import cache_folder
from textus.models.registry import family as family_of
from textus.reporting.html import Section, write_report
from textus.reporting.plots import bars
from textus.runs.record import RunRecord
from textus.runs.store import load, open_run, verify
from textus.tasks.base import Example, Task
from textus.tasks.inference import predict_texts
from textus.tasks.prediction import answer_columns, flatten_prediction
from textus.tasks.registry import task_from_record
from textus.tasks.reporting import metrics_with_intervals
from textus.tasks.rows import drop_rejected
from textus.tasks.text2text import Text2Text

LINEAR = "TF-IDF + linear"
BASELINE_FOLDER = "baselines"
"""The folder of trained baselines in the user's cache."""
MOST_SLICES = 30
LENGTH = "length"
"""The slice available for every file: by length."""


@dataclass(frozen=True)
class EvalDataset:
    """The labelled rows of a file for a task; `fields` are all columns of each row."""

    task: Task
    examples: list[Example]
    fields: list[dict[str, Any]]


def read_rows(
    task: Task, on: Any, options: ReadOptions = AUTODETECT, trained: ReadOptions = AUTODETECT
) -> EvalDataset:
    """The rows of a file, or from Python, that have a text and a label; `trained`: how the training rows of the run
    were read. DataError if there are none.
    """
    faults: list[RowProblem] | None = None if options.skip_invalid is None else []
    records = labelled_records(on, options, task.name, trained, faults)
    if faults is not None:
        records = list(drop_rejected(records))
        check = task.row_checker(records, labelled=True) if records else None
        records = drop_unusable(records, check, options.skip_invalid, faults)
    examples = task.make_examples(records, labelled=True)
    if not examples:
        raise DataError("empty_data", f"{dataset_name(on)} has no row with a text and a label")
    fields = {record.where: record.values for record in records}
    return EvalDataset(task, examples, [fields[example.where] for example in examples])


def dataset_name(on: Any) -> str:
    """The name of evaluated rows in a result."""
    return str(on) if isinstance(on, str | Path) else "the rows given"


def task_metrics(rows: EvalDataset, outputs: Sequence[Any], by: Sequence[str] = ()) -> dict[str, Any]:
    """The task's metrics on all rows, and on slices `by` columns; mistakes get their row's id, if it has one."""
    groups = {name: slice_rows(rows, name) for name in by}
    result = {"rows": len(rows.examples), **rows.task.metrics(rows.examples, outputs)}
    ids = {
        example.where: own_id
        for example, row in zip(rows.examples, rows.fields, strict=True)
        if (own_id := row_id(row)) is not None
    }
    for mistake in result.get("mistakes", []) if ids else []:
        mistake["id"] = ids.get(mistake["where"])
    if groups:
        result["slices"] = {
            name: [
                {"slice": value, "rows": len(places)}
                | metrics_with_intervals(
                    rows.task.metrics([rows.examples[n] for n in places], [outputs[n] for n in places])
                )
                for value, places in group.items()
            ]
            for name, group in groups.items()
        }
    return result


def slice_rows(rows: EvalDataset, name: str) -> dict[str, list[int]]:
    """The indices of the rows with each value of a column, most frequent first; `length`: quartiles by number of
    characters.
    """
    if any(name in field for field in rows.fields):
        values = [str(field.get(name)) for field in rows.fields]
        order = [value for value, _ in Counter(values).most_common()]
        if len(order) > MOST_SLICES:
            n_left = sum(value not in order[:MOST_SLICES] for value in values)
            log_notice(
                f"--slice {name}: the {MOST_SLICES} most frequent of {len(order):,} values; {n_left:,} rows in none"
            )
    elif name == LENGTH:
        lengths = [sum(map(len, example.texts)) for example in rows.examples]
        edges = np.unique(np.quantile(lengths, [0.25, 0.5, 0.75, 1], method="inverted_cdf")).tolist()
        names = [f"up to {int(edge):,} characters" for edge in edges]
        values, order = [names[at] for at in np.searchsorted(edges, lengths)], names
    else:
        shown = ", ".join(dict.fromkeys(map(str, (key for field in rows.fields for key in field))))
        raise UsageError(
            "column_not_found",
            f"--slice {name}: column not found; use one of {shown}, or {LENGTH} for the texts' own",
        )
    groups: dict[str, list[int]] = {value: [] for value in order[:MOST_SLICES]}
    for place, value in enumerate(values):
        if value in groups:
            groups[value].append(place)
    return groups


def training_file(record: RunRecord) -> LabelledFile | None:
    """The rows a run was trained on, read without reports; None where the file is missing or has other rows now."""
    corpus = record["corpus"] or {}
    if not corpus.get("path") or not Path(corpus["path"]).exists():
        return None
    config = recorded_config(record)
    try:
        with merge_notices(show=False):
            return read_file(config.data, config, quiet=True)
    except (DataError, UsageError):
        return None


def count_train_overlap(record: RunRecord, rows: EvalDataset, file: LabelledFile | None = None) -> int | None:
    """How many rows have a text that is also in the run's training `file` (None: read now), reported; None where that
    is missing or changed.
    """
    if (file := file or training_file(record)) is None:
        return None
    path = record["corpus"]["path"]
    try:
        with merge_notices(show=False):
            known = {example.texts for example in rows.task.make_examples(file.records, labelled=False)}
    except (DataError, UsageError):  # other rows than the task's
        return None
    shared = [example for example in rows.examples if example.texts in known]
    if shared:
        log_notice(
            f"{len(shared):,} of the {len(rows.examples):,} rows have a text that is also in the training file {path};"
            f" the first is {shared[0].where}"
        )
    return len(shared)


# ── baselines ─────────────────────────────────────────────────────────────────────────────────────


def paired_difference(
    rows: EvalDataset, ours: Sequence[Any], *theirs: Sequence[Any]
) -> dict[str, Any] | None:
    """How much better our predictions are than others' on average, on the same rows: {"of", "value", "low", "high",
    "n"}; None for a task whose metric is not a mean over rows.
    """
    own = rows.task.per_example_metric(rows.examples, ours)
    if own is None:
        return None
    others = [
        metric[1] for outputs in theirs if (metric := rows.task.per_example_metric(rows.examples, outputs))
    ]
    n = len(own[1])
    return {"of": own[0], **interval(paired_bootstrap(own[1], np.mean(others, axis=0), np.ones(n)), n)}


def baselines(
    run: Path,
    record: RunRecord,
    rows: EvalDataset,
    outputs: Sequence[Any],
    file: LabelledFile | None = None,
) -> dict[str, Any]:
    """The baselines on the same rows, and how much better our predictions are: {"majority", LINEAR}, where available;
    what is missing is reported. `file`: the run's training rows (None: read now if needed).
    """
    others: dict[str, Sequence[Any]] = {}
    if (majority := rows.task.majority_baseline(rows.examples)) is not None:
        others[rows.task.baseline_name] = majority
    if isinstance(rows.task, Text2Text):
        others |= text_baselines(
            rows.task.settings.goal, [example.texts[0] for example in rows.examples], training_pairs(file)
        )
    if rows.task.baseline_family not in (None, record["family"]) and (
        trained := baseline_run(run, record, file)
    ):
        model, tokenizer, _ = load(trained)
        others[LINEAR] = predict_texts(model, rows.task, tokenizer, rows.examples)
    return {
        name: {
            **metrics_with_intervals(rows.task.metrics(rows.examples, theirs)),
            "difference": paired_difference(rows, outputs, theirs),
        }
        for name, theirs in others.items()
    }


def training_pairs(file: LabelledFile | None) -> list[tuple[str, str]]:
    """Source and target of training rows; none where these are missing or changed, which is reported."""
    if file is None:
        log_notice("skipping the baselines made of training rows: these are missing or were changed")
        return []
    task = Text2Text(Text2Text.config(), [])
    with merge_notices(show=False):
        examples = task.make_examples(file.records, labelled=True)
    return [(example.texts[0], str(example.label)) for example in examples]


def baseline_run(run: Path, record: RunRecord, file: LabelledFile | None = None) -> Path | None:
    """The run's linear baseline: from the cache, or trained now on the same rows; None, reported, where these are
    missing or changed.
    """
    corpus = record["corpus"]
    family = task_from_record(record).baseline_family
    assert family is not None
    try:
        folder = baseline_folder(family, record)
        if is_intact_run(folder):
            return folder
        config = replace(recorded_config(record), model=family)
        files = [file or read_file(config.data, config)]
        files += [read_file(config.dev, config)] if config.dev else []
        if fingerprint_of(files) != corpus["fingerprint"]:
            raise RunError("data_changed", f"{config.data} has changed since {run} was trained")
        log_notice(f"training the baseline {LINEAR} on the training rows of {run}; it is cached in {folder}")
        return start(config, folder, force=True, files={config.task: files})
    except (DataError, RunError, OSError) as error:
        log_notice(f"skipping the baseline {LINEAR}: {error}")
        return None


def is_intact_run(run: Path) -> bool:
    """Whether a folder is a finished, undamaged run."""
    try:
        return open_run(run).finished and bool(verify(run))
    except RunError:
        return False


def baseline_folder(family: str, record: RunRecord) -> Path:
    """Where a run's baseline is cached: by its rows, its seed, and the code that trains it."""
    code = sha256(Path(str(sys.modules[family_of(family)[0].__module__].__file__)))
    corpus = record["corpus"]
    key = fingerprint(
        [family, record["task"], corpus["fingerprint"], corpus["columns"], record["seed"], code]
    )
    return cache_folder() / BASELINE_FOLDER / key


# ── the report ─────────────────────────────────────────────────────────────────────────────────


def write_task_report(out: Path, result: dict[str, Any], task: Task, logs: Mapping[str, Path]) -> None:
    """Write the result as evaluation.json and evaluation.html, with the training curves of `logs`."""
    out.mkdir(parents=True, exist_ok=True)
    sections = [comparison_section(result), *leakage_warning(result), *task.sections(result)]
    for name, group in result.get("slices", {}).items():
        sections.append(Section(f"By {name}", rows=group))
    sections += training_curves(logs, per="loss per row")
    write_json(out / "evaluation.json", result)
    write_report(out / "evaluation.html", f"{task.head_name}: {result['run']} on {result['on']}", sections)


def write_predictions(out: Path, rows: EvalDataset, outputs: Sequence[Any]) -> None:
    """Write every row with its place and its prediction as predictions.jsonl."""
    records = [
        Record(fields, example.where) for fields, example in zip(rows.fields, rows.examples, strict=True)
    ]
    with merge_notices(show=False):  # the columns of the report are known
        layout = OutputLayout(answer_columns(rows.task, ".jsonl"), None, records)
    lines = (
        layout.row(
            record, flatten_prediction(rows.task, rows.task.to_json(example, output), output, ".jsonl")
        )
        for record, example, output in zip(records, rows.examples, outputs, strict=True)
    )
    write_atomic(out / "predictions.jsonl", dump_jsonl(lines))


def leakage_warning(result: dict[str, Any]) -> list[Section]:
    """A warning if some rows were trained on."""
    if not (n := result.get("rows_trained_on")):
        return []
    text = f"Warning: {n:,} of the {result['rows']:,} rows have a text that is also in the training data; metrics are"
    return [Section("Rows trained on", f"{text} probably too high.")]


def comparison_section(result: dict[str, Any]) -> Section:
    """Metrics of the run, the members and the baselines as a table, and the first metric as bars."""
    scores = {
        name: value for name, value in metrics_with_intervals(result).items() if name != "against_mean_member"
    }
    first = next(iter(scores), "")
    rows = [{"of": result["run"], **scores}]
    rows += [{"of": member["run"], **metrics_with_intervals(member)} for member in result.get("members", [])]
    rows += [{"of": name, **baseline} for name, baseline in result.get("baselines", {}).items()]
    rows = [{key: "" if value is None else value for key, value in row.items()} for row in rows]
    text = f"{result['rows']:,} rows of {result['on']}, with 95 % intervals."
    if result.get("baselines"):
        text += " Difference: improvement over the baseline, on the same rows."
    if mean := result.get("against_mean_member"):
        spread = f"[{mean['low']:+.4f}, {mean['high']:+.4f}]"
        text += f" Difference from the mean member: {mean['value']:+.4f} {mean['of']} {spread}."
    picture = bars(rows, name="of", value=first) if first and len(rows) > 1 else None
    columns = ["of", *scores, *(["difference"] if result.get("baselines") else [])]
    return Section(
        "Figures", text, rows=rows, columns=columns, picture=picture, alt=f"{first} with intervals"
    )

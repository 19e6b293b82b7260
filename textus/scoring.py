"""What stands around a task's figures: the floors they must beat, the slices they hide, the page that shows them.

Floors are the best answer to a text nobody has read (the majority class), and TF-IDF with a linear classifier, trained
once on the rows the run was trained on and kept in its folder. A difference is paired: both sides on the same rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from textus.checkpoint import load, open_run
from textus.common import DataError, RunError, UsageError, notice, write_json
from textus.comparing import log_lines
from textus.finetuning import Wish, start
from textus.metrics import interval, paired_bootstrap
from textus.records import parse_columns, read_records
from textus.report import Section, bars, loss_curve, write_report
from textus.tasks import Example, Task, from_record, main_figures, read

LINEAR = "TF-IDF + linear"
KEPT = "floor"
"""The folder of that floor, in the folder of the run; of a run with several tasks, with the task's name behind it."""
MOST_SLICES = 30
LENGTH = "length"
"""The slice that every file has."""


@dataclass(frozen=True)
class Rows:
    """The labelled rows of a file for a task; `fields` are all columns of each."""

    task: Task
    examples: list[Example]
    fields: list[dict[str, Any]]


def read_rows(task: Task, path: Path, columns: str | None = None) -> Rows:
    """The rows of a file that have a text and a label. Raises DataError where there is none."""
    records = read_records(path, parse_columns(columns))
    examples = task.examples(records, labelled=True)
    if not examples:
        raise DataError(f"{path} has no row with text and label")
    fields = {record.where: record.values for record in records}
    return Rows(task, examples, [fields[each.where] for each in examples])


def assessed(rows: Rows, outputs: Sequence[Any], by: Sequence[str] = ()) -> dict[str, Any]:
    """The task's figures on all rows, and on the slices asked for."""
    groups = {name: sliced(rows, name) for name in by}
    found = {"rows": len(rows.examples), **rows.task.scores(rows.examples, outputs)}
    if groups:
        found["slices"] = {
            name: [
                {"slice": value, "rows": len(places)}
                | main_figures(
                    rows.task.scores([rows.examples[n] for n in places], [outputs[n] for n in places])
                )
                for value, places in group.items()
            ]
            for name, group in groups.items()
        }
    return found


def sliced(rows: Rows, name: str) -> dict[str, list[int]]:
    """The places of the rows that have each value of a column, the most frequent first; `length`: of each quarter by
    characters.
    """
    if any(name in each for each in rows.fields):
        values = [str(each.get(name)) for each in rows.fields]
        order = [value for value, _ in Counter(values).most_common()]
        if len(order) > MOST_SLICES:
            left = sum(value not in order[:MOST_SLICES] for value in values)
            notice(
                f"--slice {name}: the {MOST_SLICES} most frequent of {len(order):,} values; {left:,} rows in none"
            )
    elif name == LENGTH:
        lengths = [sum(map(len, each.texts)) for each in rows.examples]
        edges = np.unique(np.quantile(lengths, [0.25, 0.5, 0.75, 1], method="inverted_cdf")).tolist()
        names = [f"up to {int(edge):,} characters" for edge in edges]
        values, order = [names[at] for at in np.searchsorted(edges, lengths)], names
    else:
        shown = ", ".join(dict.fromkeys(map(str, (key for each in rows.fields for key in each))))
        raise UsageError(
            f"--slice {name}: no such column; there are {shown}, and {LENGTH} for the texts' own"
        )
    found: dict[str, list[int]] = {value: [] for value in order[:MOST_SLICES]}
    for place, value in enumerate(values):
        if value in found:
            found[value].append(place)
    return found


def trained_on(record: dict[str, Any], rows: Rows) -> int | None:
    """How many rows have a text that stands in the run's training file too, told; None where that is not there."""
    corpus = record["corpus"]
    path = Path(corpus.get("path") or "")
    if not path.exists() or path == Path():
        return None
    try:
        records = read_records(path, parse_columns(corpus.get("columns")), quiet=True)
        known = {each.texts for each in rows.task.examples(records, labelled=False)}
    except (DataError, UsageError):  # other rows lie there now
        return None
    shared = [each for each in rows.examples if each.texts in known]
    if shared:
        notice(
            f"{len(shared):,} of the {len(rows.examples):,} rows have a text that stands in {path}, where the run was"
            f" trained; the first is {shared[0].where}"
        )
    return len(shared)


# ── floors ─────────────────────────────────────────────────────────────────────────────────────


def difference(rows: Rows, ours: Sequence[Any], *theirs: Sequence[Any]) -> dict[str, Any] | None:
    """How much better our answers are than others' on average, on the same rows: {"of", "value", "low", "high", "n"};
    None for a task whose figure is no mean over rows.
    """
    own = rows.task.each(rows.examples, ours)
    if own is None:
        return None
    others = [each[1] for outputs in theirs if (each := rows.task.each(rows.examples, outputs))]
    n = len(own[1])
    return {"of": own[0], **interval(paired_bootstrap(own[1], np.mean(others, axis=0), np.ones(n)), n)}


def floors(run: Path, record: dict[str, Any], rows: Rows, outputs: Sequence[Any]) -> dict[str, Any]:
    """What the same rows give those who know less, and how much better our answers are: {"majority", LINEAR}, as far
    as there are such. What cannot be had is told.
    """
    others: dict[str, Sequence[Any]] = {}
    if (blind := rows.task.blind(rows.examples)) is not None:
        others[rows.task.blindly] = blind
    if rows.task.floor not in (None, record["family"]) and (kept := floor_run(run, record)):
        model, tokenizer, _ = load(kept)
        others[LINEAR] = read(model, rows.task, tokenizer, rows.examples)
    return {
        name: {
            **main_figures(rows.task.scores(rows.examples, theirs)),
            "difference": difference(rows, outputs, theirs),
        }
        for name, theirs in others.items()
    }


def floor_run(run: Path, record: dict[str, Any]) -> Path | None:
    """The run's floor: as kept, or trained now on the same rows; None, told, where these are gone or changed."""
    kept = run / (f"{KEPT}-{record['called']}" if "called" in record else KEPT)
    corpus = record["corpus"]
    try:
        if (kept / "run.json").exists():
            floor = open_run(kept)
            if floor.finished and floor.record["corpus"]["fingerprint"] == corpus["fingerprint"]:
                return kept
        dev = Path(corpus["dev"]) if corpus["dev"] else None
        wish = Wish(
            Path(corpus["path"]), record["task"], family=from_record(record).floor, dev=dev,
            columns=corpus["columns"], seed=record["seed"],
        )  # fmt: skip

        def check(now: str) -> None:
            if now != corpus["fingerprint"]:
                raise RunError(f"{wish.data} is not what {run} was trained on")
            notice(f"{LINEAR} is trained on the rows that {run} was trained on, once; it is kept in {kept}")

        return start(wish, kept, force=True, check=check)
    except (DataError, RunError, OSError) as error:
        notice(f"without the floor {LINEAR}: {error}")
        return None


# ── the page ───────────────────────────────────────────────────────────────────────────────────


def write(out: Path, found: dict[str, Any], task: Task, logs: Mapping[str, Path]) -> None:
    """The result as evaluation.json and as a page, evaluation.html, with the training of each run in `logs`."""
    out.mkdir(parents=True, exist_ok=True)
    sections = [beside(found), *task.sections(found)]
    for name, group in found.get("slices", {}).items():
        sections.append(Section(f"By {name}", rows=group))
    for name, log in logs.items():
        if lines := log_lines(log):
            curve = loss_curve(lines, title=name, per="loss a row")
            sections.append(Section(f"Training of {name}", picture=curve, alt="loss by step"))
    write_json(out / "evaluation.json", found)
    write_report(out / "evaluation.html", f"{task.called}: {found['run']} on {found['on']}", sections)


def beside(found: dict[str, Any]) -> Section:
    """The figures, those of members and floors beside, as a table and of the first as bars."""
    ours = {name: value for name, value in main_figures(found).items() if name != "against_mean_member"}
    first = next(iter(ours), "")
    rows = [{"of": found["run"], **ours}]
    rows += [{"of": each["run"], **main_figures(each)} for each in found.get("members", [])]
    rows += [{"of": name, **each} for name, each in found.get("floors", {}).items()]
    rows = [{key: "" if value is None else value for key, value in row.items()} for row in rows]
    text = f"{found['rows']:,} rows of {found['on']}, with 95 % intervals."
    if found.get("floors"):
        text += " Difference: how much better than this floor, on the same rows."
    if mean := found.get("against_mean_member"):
        spread = f"[{mean['low']:+.4f}, {mean['high']:+.4f}]"
        text += f" Against the mean member: {mean['value']:+.4f} {mean['of']} {spread}."
    picture = bars(rows, name="of", value=first) if first and len(rows) > 1 else None
    columns = ["of", *ours, *(["difference"] if found.get("floors") else [])]
    return Section(
        "Figures", text, rows=rows, columns=columns, picture=picture, alt=f"{first} with intervals"
    )

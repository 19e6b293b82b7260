"""Verbs that use runs: `predict`, `evaluate`, `compare`, `embed`, `generate`, alone or several together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textus.api.checks import check_text, predict_to_file
from textus.api.run import Run
from textus.core.arguments import note_on_interrupt, to_path
from textus.core.errors import UsageError
from textus.reporting.html import check_report_folder

if TYPE_CHECKING:
    from textus.data.read_options import ReadOptions


def open_run(path: str | Path | Run) -> Run:
    """Open a run folder; RunError where it is none, or its record is damaged. The model is read when first
    used."""
    run = path if isinstance(path, Run) else Run(path)
    _ = run.record
    return run


def named(runs: Sequence[Run]) -> dict[str, Run]:
    """Runs by the name of their folder, or by its whole path where two have one name; a run that is given twice is
    numbered.
    """
    short = [run.path.resolve().name for run in runs]
    found: dict[str, Run] = {}
    for name, run in zip(short, runs, strict=True):
        whole = name if short.count(name) == 1 else str(run.path)
        again = sum(other.path.resolve() == run.path.resolve() for other in found.values())
        found[f"{whole} ({again + 1})" if again else whole] = run
    return found


def paths_of(runs: Iterable[str | Path | Run]) -> list[Path]:
    """The folders of runs, of one that is given alone too."""
    return [run.path for run in runs_of(runs)]


def runs_of(runs: Any) -> list[Run]:
    """Runs, or one that is given alone. UsageError for anything else."""
    alone = isinstance(runs, str | PathLike | Run)
    if not alone and not isinstance(runs, Iterable):
        raise UsageError(
            "wrong_type",
            f"runs is {type(runs).__name__} ({str(runs)[:60]!r}); give the paths of runs, or Runs",
        )
    return [run if isinstance(run, Run) else Run(run) for run in ([runs] if alone else runs)]


# ── answers ────────────────────────────────────────────────────────────────────────────────────


def predict(
    run: str | Path | Run,
    given: Any,
    *,
    out: str | Path | None = None,
    columns: str | None = None,
    encoding: str | None = None,
    task: str | None = None,
    skip_invalid: str | None = None,
    force: bool = False,
) -> Any:
    """A fine-tuned run's answers; see `Run.predict`, and with `out` `Run.predict_file`."""
    opened = open_run(run)
    how: dict[str, Any] = {
        "columns": columns, "encoding": encoding, "task": task, "skip_invalid": skip_invalid,
    }  # fmt: skip
    if out is not None:
        return opened.predict_file(given, out=out, force=force, **how)
    return opened.predict(given, **how)


def predict_together(
    runs: Iterable[str | Path | Run],
    texts: Any,
    *,
    ensemble: str = "mean",
    columns: str | None = None,
    encoding: str | None = None,
    task: str | None = None,
    skip_invalid: str | None = None,
    out: str | Path | None = None,
    force: bool = False,
) -> Any:
    """The answer of several fine-tuned runs as one (mean, vote, soup) to whatever `Run.predict` takes; with `out` as a
    file of rows, see `Run.predict_file`.

    Raises UsageError naming two runs that cannot be put together.
    """
    from textus.data.read_options import ReadOptions
    from textus.evaluation import ensembles
    from textus.tasks.prediction import predict as ask

    paths, options = paths_of(runs), ReadOptions(columns, encoding, skip_invalid)
    reader = ensembles.ensemble_predictor(paths, ensemble, task)
    if out is None:
        return ask(reader, check_text(texts), options)
    about = {"runs": [str(path) for path in paths], "ensemble": ensemble}
    return about | predict_to_file(reader, texts, to_path(out, "out"), options, force=force)


def answered(
    runs: Sequence[str | Path | Run],
    given: Any,
    *,
    ensemble: str | None = None,
    columns: str | None = None,
    encoding: str | None = None,
    task: str | None = None,
    skip_invalid: str | None = None,
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Each row of a file (or record) with the answer of a run, or of several as one, as they are answered."""
    from textus.data.read_options import ReadOptions
    from textus.evaluation import ensembles
    from textus.tasks import prediction

    together = ensembles.ensemble_predictor(paths_of(runs), ensemble, task) if ensemble else None
    reader = together or open_run(runs[0])._predictor(task)
    return prediction.iter_predictions(reader, given, ReadOptions(columns, encoding, skip_invalid))


def evaluate(run: str | Path | Run, on: Any = None, **how: Any) -> dict[str, Any]:
    """How good a run is, of whatever kind: see `Run.evaluate`."""
    return open_run(run).evaluate(on, **how)


@note_on_interrupt()
def evaluate_together(
    runs: Iterable[str | Path | Run],
    on: Any,
    *,
    ensemble: str = "mean",
    columns: str | None = None,
    encoding: str | None = None,
    by: Sequence[str] = (),
    baselines: bool = True,
    out: str | Path | None = None,
    task: str | None = None,
    skip_invalid: str | None = None,
) -> dict[str, Any]:
    """How well several fine-tuned runs answer as one (mean, vote, soup), beside each of them alone.

    As `Run.evaluate_task`, with `members` and, paired, `against_mean_member`; the baselines are the first run's.
    """
    from textus.data.read_options import ReadOptions
    from textus.evaluation import ensembles, task_report

    check_report_folder(out)
    paths = paths_of(runs)
    asked = ensembles.common_task(paths, ensemble, task)
    trained = ensembles.training_read_options(paths, asked)
    rows = task_report.read_rows(asked, on, ReadOptions(columns, encoding, skip_invalid), trained)
    about = {
        "run": f"{ensemble} of {len(paths)}",
        "runs": [str(each) for each in paths],
        "on": task_report.dataset_name(on),
    }
    found = {**about, **ensembles.ensemble_report(paths, ensemble, rows, by, baselines=baselines)}
    if out is not None:
        task_report.write_task_report(
            to_path(out, "out"), found, rows.task, {str(each): each / "log.jsonl" for each in paths}
        )
    return found


# ── several runs side by side ──────────────────────────────────────────────────────────────────


@note_on_interrupt()
def compare(
    runs: Iterable[str | Path | Run],
    *,
    on: Any = None,
    out: str | Path | None = None,
    columns: str | None = None,
    encoding: str | None = None,
    task: str | None = None,
    skip_invalid: str | None = None,
) -> dict[str, Any]:
    """Any runs on one ruler, one in memory at a time: models of text by bits per byte of the same bytes, fine-tuned
    runs of one task by its figures on the same rows (`columns`, `encoding` and `task` as for `evaluate`), with paired
    intervals.

    Without `on` models of text are measured on the validation split, which all must share. Where one of them makes a
    text from another, `on` is a table of pairs, and the others are measured on its targets alone. `out` is a folder
    for the table and the picture (comparison.json, .html, .png). Raises UsageError where there is nothing in
    common to measure on, or for runs of different kinds.
    """
    from textus.data.read_options import ReadOptions

    check_report_folder(out)
    opened = [open_run(run) for run in runs_of(runs)]
    if not opened:
        raise UsageError("missing_argument", "there is nothing to compare; name at least one run")
    tuned = [run for run in opened if run.tasks]
    if tuned and len(tuned) < len(opened):
        other = next(run for run in opened if not run.tasks)
        raise UsageError(
            "runs_differ",
            f"{tuned[0].path} was fine-tuned for {', '.join(tuned[0].tasks)}, {other.path} predicts text: nothing"
            " measures both; compare runs of one kind",
        )
    if tuned:
        options = ReadOptions(columns, encoding, skip_invalid)
        return compare_tasks(opened, on, out, options=options, task=task)
    for name, value in (("task", task), ("skip-invalid", skip_invalid)):
        if value is not None:
            raise UsageError(
                "option_not_applicable",
                f"--{name} {value}: {opened[0].path} was not fine-tuned for a task; leave it out",
            )
    return compare_texts(opened, on, out, ReadOptions(columns, encoding))


def compare_tasks(
    runs: Sequence[Run], on: Any, out: str | Path | None, *, options: ReadOptions, task: str | None
) -> dict[str, Any]:
    """Fine-tuned runs of one task on the same rows."""
    from textus.evaluation import task_comparison

    if on is None:
        raise UsageError(
            "missing_argument",
            f"{runs[0].path} was fine-tuned for {', '.join(runs[0].tasks)}: give labelled rows, --on FILE",
        )
    paths = {name: run.path for name, run in named(runs).items()}
    found = task_comparison.compare(paths, on, options=options, task=task)
    if out is not None:
        task_comparison.write_task_comparison(
            to_path(out, "out"), found, {name: path / "log.jsonl" for name, path in paths.items()}
        )
    return found


def compare_texts(
    runs: Sequence[Run], on: Any, out: str | Path | None, options: ReadOptions
) -> dict[str, Any]:
    """Models of text by bits per byte."""
    from textus.evaluation import comparison

    corpora = {(run.record.get("corpus") or {}).get("fingerprint") for run in runs}
    if on is None and len(corpora) > 1:
        raise UsageError(
            "runs_differ",
            "these runs were trained on different corpora; name a text to compare them on: --on TEXT",
        )
    by_name = {name: run.path for name, run in named(runs).items()}
    texts = runs[0]._texts(on, any(run.needs_source for run in runs), options.encoding, options.columns)

    def entries() -> Iterator[comparison.ComparedRun]:
        for name, path in by_name.items():
            run = Run(path)  # nobody else holds its model
            yield comparison.ComparedRun(name, run.model, run.tokenizer, run.record)
            del run

    result = comparison.compare(entries(), texts)
    if out is not None:
        samples = {}
        for name, path in by_name.items():
            if (run := Run(path)).can_generate:
                samples[name] = run._sample(texts)
        logs = {name: path / "log.jsonl" for name, path in by_name.items()}
        comparison.write_comparison(to_path(out, "out"), result, samples, logs)
    return result


# ── vectors and texts ──────────────────────────────────────────────────────────────────────────


def embed(
    run: str | Path | Run,
    given: Any,
    *,
    out: str | Path | None = None,
    columns: str | None = None,
    encoding: str | None = None,
    settings: Sequence[str] = (),
    skip_invalid: str | None = None,
    force: bool = False,
) -> Any:
    """Vectors of texts, see `Run.embed`; with `out` those of a file's texts, in order, written there as they are made:
    .npy (an array (texts, D), with lines and ids beside in OUT.rows.jsonl), .jsonl or .csv (a vector a row).

    Raises UsageError where `out` exists, DataError for a file without texts.
    """
    from textus.data.read_options import ReadOptions
    from textus.pipelines import embeddings

    opened = open_run(run)
    if out is None:
        if skip_invalid is not None:
            raise UsageError(
                "option_not_applicable",
                f"--skip-invalid {skip_invalid}: goes with a file and out; leave it out",
            )
        return opened.embed(given, columns=columns, encoding=encoding, settings=settings)
    if isinstance(given, str):
        given = Path(given)
    options = opened._text_options(given, ReadOptions(columns, encoding, skip_invalid))
    about = embeddings.embed_file(
        opened.vectors_of(settings), given, to_path(out, "out"), run=opened.path, options=options,
        settings=settings, force=force,
    )  # fmt: skip
    return {"run": str(opened.path), **about}


def generate(
    run: str | Path | Run,
    given: Any,
    *,
    out: str | Path,
    columns: str | None = None,
    encoding: str | None = None,
    force: bool = False,
    **sampling: Any,
) -> dict[str, Any]:
    """What follows each prompt of a file, a list or rows (of a model that makes a text from another: its source texts),
    as rows of the file at `out`; see `Run.generate` for one. Rows are written as they come; of a file, the same call
    continues after a kill.
    """
    from textus.data.inputs import Records, to_items, to_records
    from textus.data.labeled import Record
    from textus.data.read_options import ReadOptions
    from textus.generation.completion import complete_to
    from textus.generation.sampling import sampling_params

    opened = open_run(run)
    opened.refuse_task()
    options = ReadOptions(columns, encoding)
    if isinstance(given, str | Path):
        given = to_path(given, "the file of prompts")
        options = opened._text_options(given, options)
    elif not isinstance(given, Records):
        items, _ = to_items(given)
        if pairs := [item for item in items if isinstance(item, tuple)]:
            raise UsageError(
                "wrong_number_of_texts", f"a prompt is one text; {pairs[0]!r:.60} has {len(pairs[0])}"
            )
        rows = [item if isinstance(item, dict) else {"prompt": item} for item in items]
        given = Records(to_records(rows, columns) if rows else list[Record]())
    n = complete_to(
        opened.model, opened.tokenizer, given, to_path(out, "out"), sampling_params(sampling), run=opened.path,
        options=options, force=force,
    )  # fmt: skip
    return {"run": str(opened.path), "out": str(out), "rows": n}

"""What runs are used for, as functions: `predict`, `evaluate`, `compare`, `generate`, `embed`, alone or several runs
together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textus.api.checks import check_text, read_options, write_predictions
from textus.api.run import Run
from textus.api.signatures import with_options
from textus.core.arguments import note_on_interrupt, to_path
from textus.core.errors import UsageError
from textus.core.requests import build_request
from textus.evaluation.config import EvalConfig, FewShotConfig, PredictConfig
from textus.generation.params import SamplingParams, sampling_params
from textus.pipelines.config import EmbedConfig
from textus.reporting.html import check_report_folder

if TYPE_CHECKING:
    from textus.data.read_options import ReadOptions


def open_run(path: str | Path | Run) -> Run:
    """Open a run folder; the model is read when it is first used. Raises RunError where it is none, or its record is
    damaged.

    Example:
        >>> textus.open_run("work/run")
        Run('work/run')
    """
    run = path if isinstance(path, Run) else Run(path)
    _ = run.record
    return run


def unique_names(runs: Sequence[Run]) -> dict[str, Run]:
    """Runs by the name of their folder, or by its whole path where two have one name; a run that is given twice is
    numbered.
    """
    short = [run.path.resolve().name for run in runs]
    named: dict[str, Run] = {}
    for name, run in zip(short, runs, strict=True):
        whole = name if short.count(name) == 1 else str(run.path)
        again = sum(other.path.resolve() == run.path.resolve() for other in named.values())
        named[f"{whole} ({again + 1})" if again else whole] = run
    return named


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


# ── predictions ────────────────────────────────────────────────────────────────────────────────


@with_options(PredictConfig)
def predict(
    run: str | Path | Run,
    given: Any,
    *,
    out: str | Path | None = None,
    config: PredictConfig | None = None,
    force: bool = False,
    **options: Any,
) -> Any:
    """The predictions of a fine-tuned run for whatever `Run.predict` takes; with `out` written to a file of rows, see
    `Run.predict_file`. Options are given as a `PredictConfig` or as keywords.

    Example:
        >>> [answer["label"] for answer in textus.predict("work/reviews", ["a good film", "a bad film"])]
        ['good', 'bad']
    """
    config = build_request(PredictConfig, config, options)
    reading: dict[str, Any] = {
        "columns": config.columns, "encoding": config.encoding, "task": config.task,
        "skip_invalid": config.skip_invalid,
    }  # fmt: skip
    if config.ensemble is not None:
        raise UsageError(
            "option_not_applicable", f"ensemble={config.ensemble!r}: give several runs to ensemble_predict"
        )
    if out is not None:
        return open_run(run).predict_file(given, out=out, force=force, **reading)
    return open_run(run).predict(given, **reading)


@with_options(PredictConfig)
def ensemble_predict(
    runs: Iterable[str | Path | Run],
    given: Any,
    *,
    out: str | Path | None = None,
    config: PredictConfig | None = None,
    force: bool = False,
    **options: Any,
) -> Any:
    """The predictions of several fine-tuned runs as one (`ensemble`: mean, vote or soup; mean if not given) for
    whatever `Run.predict` takes; with `out` written to a file of rows, see `Run.predict_file`.

    Raises UsageError naming two runs that cannot be combined.

    Example:
        >>> textus.ensemble_predict(["work/reviews", "work/reviews2"], "a good film", ensemble="vote")["label"]
        'good'
    """
    from textus.evaluation import ensembles
    from textus.tasks.prediction import predict as predict_with

    paths, config = paths_of(runs), build_request(PredictConfig, config, options)
    how = config.ensemble or "mean"
    reader = ensembles.ensemble_predictor(paths, how, config.task)
    if out is None:
        return predict_with(reader, check_text(given), read_options(config))
    about = {"runs": [str(path) for path in paths], "ensemble": how}
    return about | write_predictions(reader, given, to_path(out, "out"), read_options(config), force=force)


def iter_predictions(
    runs: Sequence[str | Path | Run], given: Any, config: PredictConfig = PredictConfig()
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Each row of a file (or record) with the prediction of a run, or of several as one, as they are made.

    Example:
        >>> record, answer = next(textus.iter_predictions(["work/reviews"], Path("reviews.csv")))
        >>> record.values["text"], answer["label"]
        ('a good film', 'good')
    """
    from textus.evaluation import ensembles
    from textus.tasks import prediction

    paths = paths_of(runs)
    if len(paths) == 1 and not config.ensemble:
        reader = open_run(paths[0]).predictor(config.task)
    else:
        reader = ensembles.ensemble_predictor(paths, config.ensemble or "mean", config.task)
    return prediction.iter_predictions(reader, given, read_options(config))


# ── evaluation ─────────────────────────────────────────────────────────────────────────────────


@with_options(EvalConfig)
def evaluate(
    run: str | Path | Run,
    on: Any = None,
    *,
    out: str | Path | None = None,
    config: EvalConfig | None = None,
    **options: Any,
) -> dict[str, Any]:
    """How good a run is, of whatever kind: see `Run.evaluate`. Options are given as an `EvalConfig` or as keywords.

    Example:
        >>> textus.evaluate("work/run", ["the cat sat on the mat"], samples=False)["bytes"]
        22
        >>> textus.evaluate("work/reviews", "reviews.csv", baselines=False)["accuracy"]["value"]
        1.0
    """
    return open_run(run).evaluate(on, out=out, config=config, **options)


@note_on_interrupt()
@with_options(EvalConfig)
def ensemble_evaluate(
    runs: Iterable[str | Path | Run],
    on: Any,
    *,
    out: str | Path | None = None,
    config: EvalConfig | None = None,
    **options: Any,
) -> dict[str, Any]:
    """How well several fine-tuned runs predict as one (`ensemble`: mean, vote or soup), next to each of them alone.

    As `Run.evaluate`, with `members` and, paired, `against_mean_member`; the baselines are the first run's.

    Example:
        >>> scores = textus.ensemble_evaluate(["work/reviews", "work/reviews2"], "reviews.csv", baselines=False)
        >>> len(scores["members"])
        2
    """
    from textus.evaluation import ensembles, task_report

    check_report_folder(out)
    config = build_request(EvalConfig, config, options)
    how = config.ensemble or "mean"
    check_ensemble_options(how, config, on)
    paths = paths_of(runs)
    task = ensembles.common_task(paths, how, config.task)
    rows = task_report.read_rows(task, on, read_options(config), ensembles.training_read_options(paths, task))
    about = {
        "run": f"{how} of {len(paths)}",
        "runs": [str(path) for path in paths],
        "on": task_report.dataset_name(on),
    }
    scores = {
        **about,
        **ensembles.ensemble_report(paths, how, rows, config.slices, baselines=config.baselines),
    }
    if out is not None:
        logs = {str(path): path / "log.jsonl" for path in paths}
        task_report.write_task_report(to_path(out, "out"), scores, rows.task, logs)
    return scores


def check_ensemble_options(how: str, config: EvalConfig, on: Any) -> None:
    """UsageError for options that do not apply to an ensemble, and where it has no rows."""
    for flag, value, what in (
        ("--entities", config.entities, "goes with one relations run, not with --ensemble"),
        ("--set", config.overrides, "with --ensemble each run predicts as it was trained; leave it out"),
        ("--stride", config.stride, "goes with a model of text, not with --ensemble; leave it out"),
    ):
        if value not in (None, ()):
            shown = value[0] if isinstance(value, tuple) else value
            raise UsageError("option_not_applicable", f"{flag} {shown}: {what}")
    if on is None:
        raise UsageError("missing_argument", f"--ensemble {how}: give labelled rows, --on FILE")


def robustness(
    run: str | Path | Run,
    on: str | Path,
    *,
    columns: str | None = None,
    encoding: str | None = None,
    vectors: str | Path | None = None,
    task: str | None = None,
) -> dict[str, Any]:
    """What a fine-tuned run loses on changed rows; see `Run.robustness`.

    Example:
        >>> report = textus.robustness("work/reviews", "reviews.csv", vectors="vectors.txt")
        >>> [change["change"] for change in report["changes"]][:2]
        ['typos', 'ocr']
    """
    return open_run(run).robustness(on, columns=columns, encoding=encoding, vectors=vectors, task=task)


@with_options(FewShotConfig)
def fewshot(
    run: str | Path | Run,
    data: str | Path,
    *,
    on: str | Path,
    out: str | Path | None = None,
    config: FewShotConfig | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Classify with a language model that was not trained for it: accuracy on the file `on` by the number of examples
    of `data` it is shown, plain and calibrated. Options are given as a `FewShotConfig` or as keywords; `out` is a
    folder for table and picture.

    Raises UsageError for a run that predicts no text, DataError for data without classes.

    Example:
        >>> report = textus.fewshot("work/run", "reviews.csv", on="reviews.csv", shots=(0,), limit=4)
        >>> report["rows"]
        4
    """
    from dataclasses import replace

    from textus.data.read_options import ReadOptions
    from textus.evaluation import fewshot as few

    opened, config = open_run(run), build_request(FewShotConfig, config, options)
    opened.require_language_model()
    task, examples, test = few.read_task(
        to_path(data, "data"), to_path(on, "on"), ReadOptions(config.columns, config.encoding), config
    )
    usual = few.PAIR_TEMPLATE if len(test[0].texts) > 1 else few.TEMPLATE
    config = replace(config, template=config.template or usual)
    scores = few.evaluate_fewshot(opened.model, opened.tokenizer, task, (examples, test), config)
    scores = {"run": str(opened.path), "on": str(on), **scores}
    if out is not None:
        few.write_fewshot(to_path(out, "out"), scores)
    return scores


# ── comparison ─────────────────────────────────────────────────────────────────────────────────


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
    """Compare runs, one in memory at a time: models of text by bits per byte of the same text, fine-tuned runs of one
    task by its scores on the same rows (`columns`, `encoding` and `task` as for `evaluate`), with paired intervals.

    Without `on` models of text are measured on the validation split, which all must share. Where one of them makes a
    text from another, `on` is a table of pairs, and the others are measured on its targets alone. `out` is a folder
    for the table and the picture (comparison.json, .html, .png). Raises UsageError where there is nothing in
    common to measure on, or for runs of different kinds.

    Example:
        >>> comparison = textus.compare(["work/run", "work/run2"], on=["the cat sat on the mat"])
        >>> [row["name"] for row in comparison["rows"]] != []
        True
    """
    from textus.data.read_options import ReadOptions

    check_report_folder(out)
    opened = [open_run(run) for run in runs_of(runs)]
    if not opened:
        raise UsageError("missing_argument", "nothing to compare; name at least one run")
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
    paths = {name: run.path for name, run in unique_names(runs).items()}
    scores = task_comparison.compare(paths, on, options=options, task=task)
    if out is not None:
        task_comparison.write_task_comparison(
            to_path(out, "out"), scores, {name: path / "log.jsonl" for name, path in paths.items()}
        )
    return scores


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
    by_name = {name: run.path for name, run in unique_names(runs).items()}
    texts = runs[0].eval_text(on, any(run.needs_source for run in runs), options.encoding, options.columns)

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
                samples[name] = run.sample(texts)
        logs = {name: path / "log.jsonl" for name, path in by_name.items()}
        comparison.write_comparison(to_path(out, "out"), result, samples, logs)
    return result


# ── vectors, texts, triples ────────────────────────────────────────────────────────────────────


@with_options(EmbedConfig)
def embed(
    run: str | Path | Run,
    given: Any,
    *,
    out: str | Path | None = None,
    config: EmbedConfig | None = None,
    force: bool = False,
    **options: Any,
) -> Any:
    """Vectors of texts, float32 (texts, D), see `Run.embed`; with `out` those of a file's texts, in order, written as
    they are made: .npy (an array (texts, D), with lines and ids next to it in OUT.rows.jsonl), .jsonl or .csv (a vector
    per row). Options are given as an `EmbedConfig` or as keywords.

    Raises UsageError where `out` exists, DataError for a file without texts.

    Example:
        >>> textus.embed("work/run", ["a good film", "a bad film"]).shape
        (2, 16)
    """
    from textus.pipelines import embeddings

    opened, config = open_run(run), build_request(EmbedConfig, config, options)
    if out is None:
        if config.skip_invalid is not None:
            raise UsageError(
                "option_not_applicable",
                f"--skip-invalid {config.skip_invalid}: goes with a file and out; leave it out",
            )
        return opened.embed(
            given, columns=config.columns, encoding=config.encoding, overrides=config.overrides
        )
    if isinstance(given, str):
        given = Path(given)
    about = embeddings.embed_file(
        opened.vectors_of(config.task_settings), given, to_path(out, "out"), run=opened.path,
        options=opened.text_options(given, read_options(config)), settings=config.task_settings, force=force,
    )  # fmt: skip
    return {"run": str(opened.path), **about}


@with_options(SamplingParams)
def generate(
    run: str | Path | Run,
    given: Any,
    *,
    out: str | Path | None = None,
    columns: str | None = None,
    encoding: str | None = None,
    params: SamplingParams | None = None,
    force: bool = False,
    **options: Any,
) -> Any:
    """What follows a prompt (a string), as a string; with `out` what follows each prompt of a file, a list or rows, as
    rows of the file at `out`. Of a model that makes a text from another, prompts are its source texts. Sampling options
    are given as `SamplingParams` or as keywords.

    Rows are written as they are generated; of a file, the same call continues after a kill.

    Example:
        >>> textus.generate("work/run", "the ", max_tokens=5, seed=1) == textus.generate(
        ...     "work/run", "the ", max_tokens=5, seed=1
        ... )
        True
        >>> textus.generate("work/run", ["the ", "a "], out="texts.jsonl", max_tokens=5)["rows"]
        2
    """
    from textus.data.inputs import Records, to_items, to_records
    from textus.data.labeled import Record
    from textus.data.read_options import ReadOptions
    from textus.generation.completion import complete_to

    opened, params = open_run(run), sampling_params(params, options)
    if out is None:
        return opened.generate(given, params)
    opened.require_language_model()
    reading = ReadOptions(columns, encoding)
    if isinstance(given, str | Path):
        given = to_path(given, "the file of prompts")
        reading = opened.text_options(given, reading)
    elif not isinstance(given, Records):
        items, _ = to_items(given)
        if pairs := [item for item in items if isinstance(item, tuple)]:
            raise UsageError(
                "wrong_number_of_texts", f"a prompt is one text; {pairs[0]!r:.60} has {len(pairs[0])}"
            )
        rows = [item if isinstance(item, dict) else {"prompt": item} for item in items]
        given = Records(to_records(rows, columns) if rows else list[Record]())
    n = complete_to(
        opened.model, opened.tokenizer, given, to_path(out, "out"), params, run=opened.path, options=reading,
        force=force,
    )  # fmt: skip
    return {"run": str(opened.path), "out": str(out), "rows": n}


@with_options(SamplingParams)
def chat(
    run: str | Path | Run,
    messages: Sequence[dict[str, str]],
    params: SamplingParams | None = None,
    **options: Any,
) -> str:
    """The answer to a conversation of {"role", "content"} messages; see `Run.stream_chat`.

    Example:
        >>> answer = textus.chat("work/run", [{"role": "user", "content": "the cat"}], max_tokens=5)
        >>> type(answer)
        <class 'str'>
    """
    return open_run(run).chat(messages, params, **options)


def triples(
    file: str | Path,
    *,
    entities: str | Path | Run,
    relations: str | Path | Run,
    columns: str | None = None,
    encoding: str | None = None,
    out: str | Path | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """The triples (head, relation, tail) in raw texts, each with its document and offsets; see `Run.triples`.

    Example:
        >>> found = textus.triples("news.txt", entities="work/tagger", relations="work/relations")  # doctest: +SKIP
    """
    return open_run(relations).triples(
        file, entities=to_path(entities, "entities"), columns=columns, encoding=encoding, out=out, force=force
    )

"""Verbs that use runs: `generate evaluate compare serve show doctor verify`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from textus.cli.params import (
    Asked,
    AsText,
    Columns,
    CommandResult,
    Encoding,
    Force,
    ForceFile,
    Json,
    RowsOut,
    RunFolder,
    SamplingFlags,
    SkipInvalid,
    TaskEvalOptions,
    TaskSettings,
    option,
    task_settings,
)
from textus.core import arguments
from textus.core.arguments import note_on_interrupt
from textus.core.console import log_notice
from textus.core.errors import UsageError

if TYPE_CHECKING:
    from textus.api import Run
    from textus.data.labeled import Record
    from textus.data.read_options import ReadOptions

RunFolders = Annotated[Path, Parameter(name="RUN", help="Run folders.")]


@Parameter(name="*")
@dataclass(frozen=True)
class ManyPrompts:
    """Where prompts come from, beside the words that were typed, and where texts go."""

    file: Annotated[
        Path | None,
        option(
            "Prompts, or source texts: the lines of a .txt, or rows with a prompt, source or text.",
            metavar="FILE",
        ),
    ] = None
    out: RowsOut = None
    columns: Columns = None
    encoding: Encoding = None
    text: AsText = False
    force: ForceFile = False

    def given(self, prompt: str | None) -> Path | list[Record] | None:
        """The prompts of a file or a pipe, or the one that was typed if it is to be written to a file; else None."""
        if self.file is not None and prompt is not None:
            raise UsageError(
                "conflicting_options", f"--file {self.file}: its prompts are continued; leave out {prompt!r}"
            )
        if self.file is not None and self.text:
            raise UsageError(
                "conflicting_options", f"--text: the prompts are those of --file {self.file}; leave one out"
            )
        if self.file is not None:
            return self.file
        if prompt in ("-", arguments.STDIN) and not self.text:
            return piped_records()
        if prompt is None:
            return (piped_records(empty=True) or None) if arguments.is_piped() else None
        return None if self.out is None else typed_record(self.check(prompt))

    def check(self, prompt: str) -> str:
        """A prompt as it was typed; UsageError for the name of a file."""
        return arguments.check_text(prompt, forced=self.text, remedy="give a file of prompts with --file")

    def refuse(self) -> None:
        """UsageError for flags that only a file of prompts has a use for."""
        given: dict[str, Any] = {"--out": self.out, "--force": self.force}
        if self.file is None:
            given |= {"--columns": self.columns, "--encoding": self.encoding}
        for flag, value in given.items():
            if value:
                raise UsageError(
                    "option_not_applicable",
                    f"{flag}: goes with prompts and a file, --file FILE --out FILE; leave it out",
                )


def generate(
    run: RunFolder,
    prompt: Annotated[
        str | None,
        Parameter(
            name="PROMPT",
            help="The beginning of the text; empty starts a new one, - reads standard input, a prompt a line. To a"
            " model trained on pairs, the source text.",
        ),
    ] = None,
    /,
    *,
    sampling: SamplingFlags = SamplingFlags(),
    many: ManyPrompts = ManyPrompts(),
    as_json: Json = False,
) -> CommandResult | None:
    """Continue a text, which is written as it comes, or each of many.

    Example: textus generate work/run "Once upon a time" --temperature 0.8 --max-tokens 100
    """
    from textus.api import generate as generate_file
    from textus.api import open_run

    given = many.given(prompt)
    opened = open_run(run)
    if given is not None and many.out is not None:
        how: dict[str, Any] = {
            "out": many.out,
            "columns": many.columns,
            "encoding": many.encoding,
            "force": many.force,
        }
        found = generate_file(opened, given, **how, **sampling.given())
        return CommandResult(found, f"{many.out}: {found['rows']:,} texts")
    many.refuse()
    if given is not None:
        return generate_many(opened, given, many, sampling, as_json=as_json)
    text = many.check(prompt or "")
    return generate_one(opened, text, sampling, as_json=as_json)


def generate_one(run: Run, prompt: str, sampling: SamplingFlags, *, as_json: bool) -> CommandResult | None:
    """The text that follows one prompt, as it comes, or as one JSON object."""
    from textus.cli.chat import full_context

    pieces = run.stream(prompt, **sampling.given())
    if as_json:
        text = "".join(pieces)
    else:
        write("" if run.model.capabilities.needs_source else prompt)
        for piece in pieces:
            write(piece)
        write("\n")
    if full := full_context(pieces, sampling.given(), run):
        log_notice(full)
    if not as_json:
        return None
    found = {"run": str(run.path), "prompt": prompt, "text": text, "reason": pieces.reason}
    return CommandResult({**found, "sampling": sampling.given()}, text)


def generate_many(
    run: Run, given: Path | list[Record], many: ManyPrompts, sampling: SamplingFlags, *, as_json: bool
) -> CommandResult | None:
    """Each prompt with what follows it, an empty line between; as they come, or as one JSON object."""
    from textus.data.read_options import ReadOptions
    from textus.generation.completion import complete, read_prompts, to_json
    from textus.generation.sampling import sampling_params

    run.refuse_task()
    source, chosen = run.model.capabilities.needs_source, sampling_params(sampling.given())
    records: Iterable[Record] = given if isinstance(given, list) else ()
    if isinstance(given, Path):
        options = run._text_options(given, ReadOptions(many.columns, many.encoding))
        records = read_prompts(given, options, source=source)()
    found = []
    for number, (record, text) in enumerate(complete(run.model, run.tokenizer, records, chosen)):
        answer = to_json(record, text)
        if as_json:
            found.append(answer)
        else:
            write(
                ("\n" if number and not source else "") + ("" if source else answer["prompt"]) + f"{text}\n"
            )
    return (
        CommandResult({"run": str(run.path), "sampling": sampling.given(), "texts": found}, "")
        if as_json
        else None
    )


def write(text: str) -> None:
    """Show a piece of text at once, before the next one is ready."""
    sys.stdout.write(text)
    sys.stdout.flush()


Ensemble = Annotated[
    str | None, option("Put the answers of several runs together: mean, vote, or soup (of weights).")
]


def evaluate(
    *runs: RunFolders,
    on: Annotated[
        Path | None,
        option(
            "A text file, of a fine-tuned run labelled rows; without it, the validation split.",
            metavar="FILE",
        ),
    ] = None,
    stride: Annotated[
        int | None, option("Score in overlapping windows this many tokens apart: another figure, named so.")
    ] = None,
    task: TaskEvalOptions = TaskEvalOptions(),
    asked: Annotated[
        str | None,
        option(
            "Which task, of a run that has learnt several; or similarity: scored pairs of texts, of any run with"
            " states.",
            "--task",
            "NAME",
        ),
    ] = None,
    settings: TaskSettings = None,
    ensemble: Ensemble = None,
    as_json: Json = False,
) -> CommandResult:
    """Measure a model: bits per byte with its interval, perplexity, repetition; fine-tuned runs by their task.

    Example: textus evaluate work/run --on notes.txt --json
    """
    from textus.api import evaluate_together, open_run
    from textus.cli import render

    if not runs or (len(runs) > 1 and not ensemble):
        raise UsageError(
            "invalid_arguments",
            "evaluate takes one run, or several with --ensemble mean; to rank runs: textus compare",
        )
    if settings and not asked:
        raise UsageError("option_not_applicable", f"--set {settings[0]}: goes with --task similarity alone")
    if ensemble:
        refuse_with_ensemble(ensemble, task, settings, on, stride)
        assert on is not None
        found = evaluate_together(runs, on, ensemble=ensemble, task=asked, **task.given())
        return CommandResult(found, render.task_scores(found))
    opened, page = open_run(runs[0]), f"\npage: {task.out / 'evaluation.html'}" if task.out else ""
    if asked or opened.tasks:
        words = task.given() | {"task": asked, "settings": task_settings(settings)}
        found = opened.evaluate(on, stride=stride, **words)
        return CommandResult(found, render.task_scores(found) + page)
    task.refuse(runs[0])
    data = opened.evaluate(on, stride=stride, out=task.out, encoding=task.encoding, columns=task.columns)
    return CommandResult(data, render.evaluation(data) + page)


def refuse_with_ensemble(
    ensemble: str, task: TaskEvalOptions, settings: list[str] | None, on: Path | None, stride: int | None
) -> None:
    """UsageError for flags that an ensemble has no use for, and where it lacks rows."""
    if task.entities:
        raise UsageError(
            "option_not_applicable",
            f"--entities {task.entities}: goes with one relations run, not with --ensemble",
        )
    if settings:
        raise UsageError(
            "option_not_applicable",
            f"--set {settings[0]}: with --ensemble each run answers as it has learnt; leave it out",
        )
    if on is None:
        raise UsageError("missing_argument", f"--ensemble {ensemble}: give labelled rows, --on FILE")
    if stride is not None:
        raise UsageError(
            "option_not_applicable",
            f"--stride {stride}: goes with a model of text, not with --ensemble; leave it out",
        )


def robustness(
    run: RunFolder,
    /,
    *,
    on: Annotated[Path, option("Labelled rows.", metavar="FILE")],
    columns: Columns = None,
    encoding: Encoding = None,
    vectors: Annotated[
        Path | None, option("Word vectors whose nearest are taken for synonyms, not WordNet.", metavar="FILE")
    ] = None,
    task: Asked = None,
    as_json: Json = False,
) -> CommandResult:
    """What a fine-tuned run loses on rows with typos, synonyms, other case and spacing, irrelevant sentences.

    Example: textus robustness work/reviews --on test.csv
    """
    from textus.api import open_run
    from textus.cli import render

    found = open_run(run).robustness(on, columns=columns, encoding=encoding, vectors=vectors, task=task)
    return CommandResult(found, render.robustness(found))


@Parameter(name="*")
@dataclass(frozen=True)
class ReadAsTrained:
    """How a file is read; what is left out is as the run was trained where the file fits that, else detected."""

    columns: Annotated[
        str | None,
        option(
            "Which columns are the fields: text=review, or without a header 0=text. [default: as the run was trained]"
        ),
    ] = None
    encoding: Annotated[
        str | None,
        option("The file's encoding, such as cp1250. [default: as the run was trained, or detected]"),
    ] = None
    skip_invalid: SkipInvalid = None

    def options(self, given: Any) -> dict[str, str | None]:
        """As keywords of `Run.predict`; UsageError where they are given for what is no file."""
        from textus.data.inputs import Records

        values = asdict(self)
        for name, value in values.items():
            piped = isinstance(given, Records) and name != "skip_invalid"
            if value and not (piped or isinstance(given, Path)):
                flag = name.replace("_", "-")
                raise UsageError(
                    "option_not_applicable", f"--{flag} {value}: goes with a file of rows; leave it out"
                )
        return values


def predict(
    *words: Annotated[
        str,
        Parameter(
            name="RUN… FILE|TEXT",
            help="Run folders; then a file of rows (a .txt: its lines), the text itself, or - for standard input:"
            " lines, or a table with a column of texts.",
        ),
    ],
    text_pair: Annotated[
        str | None, option("The second text of a pair, such as the context of a question.", metavar="TEXT")
    ] = None,
    text: AsText = False,
    out: RowsOut = None,
    ensemble: Ensemble = None,
    read: ReadAsTrained = ReadAsTrained(),
    task: Asked = None,
    force: ForceFile = False,
    as_json: Json = False,
) -> CommandResult:
    """Answer for a text, or for each row of a file, with a fine-tuned run or several.

    Example: textus predict work/reviews test.csv --out work/predictions.csv
    """
    from textus.api import answered, open_run, predict_together
    from textus.cli import render
    from textus.data.inputs import record_location

    runs, given = runs_and_input(words, read, text=text, text_pair=text_pair, ensemble=ensemble)
    if force and out is None:
        raise UsageError("option_not_applicable", "--force: goes with --out FILE; leave it out")
    options = read.options(given)
    about: dict[str, Any] = {"runs": runs, "ensemble": ensemble} if ensemble else {"run": runs[0]}
    if out is not None:
        how: dict[str, Any] = {"out": out, "task": task, **options, "force": force}
        if ensemble:
            written = predict_together(runs, given, ensemble=ensemble, **how)
        else:
            written = open_run(runs[0]).predict_file(given, **how)
        return CommandResult(written, f"{out}: {written['rows']:,} rows answered")
    if isinstance(given, list) and isinstance(given[0], str | tuple):
        if ensemble:
            found = predict_together(runs, given, ensemble=ensemble, task=task)
        else:
            found = open_run(runs[0]).predict(given, task=task)
        return CommandResult({**about, "answers": found}, render.answers(found))
    with note_on_interrupt("nothing is kept without --out FILE; begin anew with the same command"):
        rows = list(answered(runs, given, ensemble=ensemble, task=task, **options))
    data = [record_location(record) | told for record, told in rows]
    return CommandResult(
        {**about, "answers": data}, render.answers(data, [record.values for record, _ in rows])
    )


def runs_and_input(
    words: Sequence[str], read: ReadAsTrained, *, text: bool, text_pair: str | None, ensemble: str | None
) -> tuple[list[str], Any]:
    """The run folders and what is to be answered: a file, the lines of a pipe, or a text."""
    alone = len(words) == 1 or (bool(ensemble) and is_run(words[-1]))
    if words and alone and not text and arguments.is_piped():
        words = [*words, "-"]
    if len(words) < 2 or (len(words) > 2 and not ensemble):
        raise UsageError(
            "invalid_arguments",
            "predict takes a run and a text or file; several runs need --ensemble mean, vote or soup",
        )
    *runs, what = words
    if what in ("-", arguments.STDIN) and not text:
        if text_pair is not None:
            raise UsageError("option_not_applicable", "--text-pair goes with a text, not with standard input")
        from textus.api import open_run
        from textus.data.read_options import ReadOptions, run_read_options

        trained = run_read_options(open_run(runs[0]).record)
        return runs, piped_records(ReadOptions(read.columns, read.encoding), trained)
    given = arguments.text_or_file(what, forced=text)
    if isinstance(given, Path):
        if text_pair is not None:
            raise UsageError(
                "option_not_applicable",
                f"--text-pair goes with a text; {what} is a file, whose rows have both texts",
            )
        return runs, given
    return runs, [given if text_pair is None else (given, text_pair)]


def piped_records(*options: ReadOptions, empty: bool = False) -> list[Record]:
    """The lines of standard input, or the rows of a table."""
    from textus.data.inputs import read_stdin

    return read_stdin(*options, empty=empty)


def typed_record(text: str) -> list[Record]:
    """A text that was typed, as the one row to be answered."""
    from textus.data.inputs import Records
    from textus.data.labeled import Record

    return Records([Record({"prompt": text}, "text 1")])


def is_run(word: str) -> bool:
    """Whether a word names a run folder."""
    return (Path(word) / "run.json").is_file()


def triples(
    file: Annotated[
        Path, Parameter(name="FILE", help="Texts: rows with a text, or of a .txt file its lines.")
    ],
    /,
    *,
    entities: Annotated[Path, option("The tagging run that finds the entities.", metavar="RUN")],
    relations: Annotated[Path, option("The relations run that joins them.", metavar="RUN")],
    out: Annotated[Path | None, option("A file to write: .jsonl, .csv or .graphml.", metavar="FILE")] = None,
    columns: Columns = None,
    encoding: Encoding = None,
    force: Force = False,
    as_json: Json = False,
) -> CommandResult:
    """Find triples (head, relation, tail) in raw text, each with its document and places, as a graph.

    Example: textus triples news.jsonl --entities work/tagger --relations work/relations --out graph.graphml
    """
    from textus.api import open_run
    from textus.cli import render

    found = open_run(relations).triples(
        file, entities=entities, columns=columns, encoding=encoding, out=out, force=force
    )
    return CommandResult(found, render.triples(found) + (f"\n{out}" if out else ""))


def compare(
    *runs: RunFolders,
    on: Annotated[
        Path | None,
        option(
            "A text file, of fine-tuned runs labelled rows; without it, the validation split all runs share.",
            metavar="FILE",
        ),
    ] = None,
    out: Annotated[
        Path | None, option("Write the table and picture (HTML, PNG, JSON) here.", metavar="FOLDER")
    ] = None,
    columns: Columns = None,
    encoding: Encoding = None,
    task: Asked = None,
    skip_invalid: SkipInvalid = None,
    as_json: Json = False,
) -> CommandResult:
    """Put runs on one ruler: bits per byte on the same text, or a task's figures on the same rows; seconds, memory.

    Example: textus compare work/ngram work/run --on notes.txt
    """
    from textus import api
    from textus.cli import render

    if not runs:
        raise UsageError(
            "missing_argument", "compare needs at least one run folder: textus compare RUN RUN --on FILE"
        )
    how: dict[str, Any] = {
        "columns": columns,
        "encoding": encoding,
        "task": task,
        "skip_invalid": skip_invalid,
    }
    data = api.compare(runs, on=on, out=out, **how)
    report = f"\npage: {out / 'comparison.html'}" if out else ""
    said = render.task_comparison(data) if "runs" in data else render.comparison(data)
    return CommandResult(data, said + report)


def serve(
    *runs: RunFolders,
    host: Annotated[str, option("The address to listen on; the default is this machine only.")] = "127.0.0.1",
    port: Annotated[int, option("The port to listen on.")] = 8000,
    allow_host: Annotated[
        list[str] | None,
        option(
            "Another name by which requests may address it, such as host.docker.internal; may be repeated.",
            metavar="NAME",
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        option("A web page that may use it, such as http://localhost:3000; may be repeated.", metavar="URL"),
    ] = None,
) -> None:
    """Serve runs: an OpenAI-compatible API, and a page to try them in.

    Example: textus serve work/run --port 8000
    """
    from textus.api import named, open_run
    from textus.serving import ServedModel
    from textus.serving import serve as start

    if not runs:
        raise UsageError("missing_argument", "serve needs at least one run folder: textus serve RUN")
    opened = [open_run(run) for run in runs]
    for run in opened:
        run.refuse_task()  # before any weights are read
    served = [
        ServedModel(
            name=name,
            model=run.model,
            tokenizer=run.tokenizer,
            created=int((run.path / "run.json").stat().st_mtime),
            chat=run.chats,
            chat_fault=run.chat_fault,
            context_length=run.model.config.context_length,
        )
        for name, run in named(opened).items()
    ]
    start(served, host=host, port=port, hosts=allow_host or (), origins=allow_origin or ())


def show(run: RunFolder, /, *, as_json: Json = False) -> CommandResult:
    """Look into a run: layers, shapes, parameters, FLOPs, a Mermaid diagram.

    Example: textus show work/run
    """
    from textus import api
    from textus.cli import render
    from textus.evaluation.inspection import format_description

    data = api.show(run)
    return CommandResult(data, "\n\n".join([render.history(data), format_description(data), data["mermaid"]]))


def doctor(*, as_json: Json = False) -> CommandResult:
    """Tell versions, extras, what this machine can do, its measured matrix rate.

    Example: textus doctor
    """
    from textus import api
    from textus.evaluation.inspection import format_doctor

    data = api.doctor()
    return CommandResult(data, format_doctor(data))


def verify(run: RunFolder, /, *, as_json: Json = False) -> CommandResult:
    """Check every file of a run against its recorded SHA-256.

    Example: textus verify work/run
    """
    from textus import api

    data = api.verify(run)
    return CommandResult(data, f"{run}: every file is as it was written")

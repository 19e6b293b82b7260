"""Commands that use runs: `generate evaluate compare serve show doctor verify`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from textus.cli.params import (
    AsText,
    Columns,
    CommandResult,
    Encoding,
    Force,
    ForceFile,
    Json,
    RowsOut,
    RunFolder,
    SkipInvalid,
    TaskName,
    option,
    with_config,
)
from textus.core import arguments
from textus.core.arguments import note_on_interrupt
from textus.core.console import log_notice
from textus.core.errors import UsageError
from textus.core.requests import request_values

if TYPE_CHECKING:
    from textus.api import Run
    from textus.data.labeled import Record
    from textus.data.read_options import ReadOptions
    from textus.evaluation.config import EvalConfig, PredictConfig
    from textus.generation.params import SamplingParams

RunFolders = Annotated[Path, Parameter(name="RUN", help="Run folders.")]


@Parameter(name="*")
@dataclass(frozen=True)
class ManyPrompts:
    """The source of prompts that are not typed, and the file that texts are written to."""

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

    def prompts(self, prompt: str | None) -> Path | list[Record] | None:
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
        """A typed prompt; UsageError for the name of a file."""
        return arguments.check_text(prompt, forced=self.text, remedy="give a file of prompts with --file")

    def refuse_file_options(self) -> None:
        """UsageError for flags that apply to a file of prompts only."""
        values: dict[str, Any] = {"--out": self.out, "--force": self.force}
        if self.file is None:
            values |= {"--columns": self.columns, "--encoding": self.encoding}
        for flag, value in values.items():
            if value:
                raise UsageError(
                    "option_not_applicable",
                    f"{flag}: goes with prompts and a file, --file FILE --out FILE; leave it out",
                )


@with_config("textus.generation.params")
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
    config: SamplingParams,
    many: ManyPrompts = ManyPrompts(),
    as_json: Json = False,
) -> CommandResult | None:
    """Generate a continuation of a prompt, streamed to stdout, or of each of many.

    Example: textus generate work/run "Once upon a time" --temperature 0.8 --max-tokens 100
    """
    from textus.api import generate as generate_file
    from textus.api import open_run

    prompts = many.prompts(prompt)
    opened = open_run(run)
    if prompts is not None and many.out is not None:
        result = generate_file(
            opened, prompts, out=many.out, columns=many.columns, encoding=many.encoding, force=many.force,
            params=config,
        )  # fmt: skip
        return CommandResult(result, f"{many.out}: {result['rows']:,} texts")
    many.refuse_file_options()
    if prompts is not None:
        return generate_many(opened, prompts, many, config, as_json=as_json)
    return generate_one(opened, many.check(prompt or ""), config, as_json=as_json)


def generate_one(run: Run, prompt: str, params: SamplingParams, *, as_json: bool) -> CommandResult | None:
    """The text that follows one prompt, as it is generated, or as one JSON object."""
    from textus.cli.chat import context_notice

    pieces = run.stream(prompt, params)
    if as_json:
        text = "".join(pieces)
    else:
        write("" if run.model.capabilities.needs_source else prompt)
        for piece in pieces:
            write(piece)
        write("\n")
    if full := context_notice(pieces, params, run):
        log_notice(full)
    if not as_json:
        return None
    result = {"run": str(run.path), "prompt": prompt, "text": text, "reason": pieces.reason}
    return CommandResult({**result, "sampling": request_values(params)}, text)


def generate_many(
    run: Run, prompts: Path | list[Record], many: ManyPrompts, params: SamplingParams, *, as_json: bool
) -> CommandResult | None:
    """Each prompt with what follows it, an empty line between; as they are generated, or as one JSON object."""
    from textus.data.read_options import ReadOptions
    from textus.generation.completion import complete, read_prompts, to_json

    run.require_language_model()
    params.check()
    source = run.model.capabilities.needs_source
    records: Iterable[Record] = prompts if isinstance(prompts, list) else ()
    if isinstance(prompts, Path):
        options = run.text_options(prompts, ReadOptions(many.columns, many.encoding))
        records = read_prompts(prompts, options, source=source)()
    texts = []
    for number, (record, text) in enumerate(complete(run.model, run.tokenizer, records, params)):
        row = to_json(record, text)
        if as_json:
            texts.append(row)
        elif source:
            write(f"{text}\n")
        else:
            write(("\n" if number else "") + row["prompt"] + f"{text}\n")
    if not as_json:
        return None
    return CommandResult({"run": str(run.path), "sampling": request_values(params), "texts": texts}, "")


def write(text: str) -> None:
    """Show a piece of text at once, before the next one is ready."""
    sys.stdout.write(text)
    sys.stdout.flush()


@with_config("textus.evaluation.config")
def evaluate(
    *runs: RunFolders,
    on: Annotated[
        Path | None,
        option(
            "A text file, or labelled rows for a fine-tuned run; without it, the validation split.",
            metavar="FILE",
        ),
    ] = None,
    config: EvalConfig,
    out: Annotated[
        Path | None,
        option("Write a page with pictures, and the figures (HTML, JSON) here.", metavar="FOLDER"),
    ] = None,
    as_json: Json = False,
) -> CommandResult:
    """Measure a model: bits per byte with its interval, perplexity, repetition; fine-tuned runs by their task.

    Example: textus evaluate work/run --on notes.txt --json
    """
    from textus import api
    from textus.cli import render

    if not runs or (len(runs) > 1 and not config.ensemble):
        raise UsageError(
            "invalid_arguments",
            "evaluate takes one run, or several with --ensemble mean; to rank runs: textus compare",
        )
    if config.ensemble:
        result = api.ensemble_evaluate(runs, on, out=out, config=config)
        return CommandResult(result, render.task_scores(result))
    result = api.evaluate(runs[0], on, out=out, config=config)
    scores = render.evaluation(result) if "likelihood" in result else render.task_scores(result)
    return CommandResult(result, scores + (f"\npage: {out / 'evaluation.html'}" if out else ""))


def robustness(
    run: RunFolder,
    /,
    *,
    on: Annotated[Path, option("Labelled rows.", metavar="FILE")],
    columns: Columns = None,
    encoding: Encoding = None,
    vectors: Annotated[
        Path | None,
        option("Word vectors whose nearest neighbours are used as synonyms, not WordNet.", metavar="FILE"),
    ] = None,
    task: TaskName = None,
    as_json: Json = False,
) -> CommandResult:
    """Measure what a fine-tuned run loses on rows with typos, synonyms, other case and spacing, irrelevant sentences.

    Example: textus robustness work/reviews --on test.csv
    """
    from textus import api
    from textus.cli import render

    result = api.robustness(run, on, columns=columns, encoding=encoding, vectors=vectors, task=task)
    return CommandResult(result, render.robustness(result))


@with_config("textus.evaluation.config")
def predict(
    *inputs: Annotated[
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
    config: PredictConfig,
    force: ForceFile = False,
    as_json: Json = False,
) -> CommandResult:
    """Predict for a text, or for each row of a file, with a fine-tuned run or several.

    Example: textus predict work/reviews test.csv --out work/predictions.csv
    """
    from textus import api
    from textus.cli import render
    from textus.data.inputs import record_location

    runs, given = split_inputs(inputs, config, text=text, text_pair=text_pair)
    if force and out is None:
        raise UsageError("option_not_applicable", "--force: goes with --out FILE; leave it out")
    check_file_options(config, given)
    about: dict[str, Any] = (
        {"runs": runs, "ensemble": config.ensemble} if config.ensemble else {"run": runs[0]}
    )
    if out is not None:
        written = (
            api.ensemble_predict(runs, given, out=out, config=config, force=force)
            if config.ensemble
            else api.predict(runs[0], given, out=out, config=config, force=force)
        )
        return CommandResult(written, f"{out}: {written['rows']:,} rows answered")
    if isinstance(given, list) and isinstance(given[0], str | tuple):
        predictions = (
            api.ensemble_predict(runs, given, config=config)
            if config.ensemble
            else api.predict(runs[0], given, config=config)
        )
        return CommandResult({**about, "answers": predictions}, render.predictions(predictions))
    with note_on_interrupt("nothing is kept without --out FILE; start again with the same command"):
        rows = list(api.iter_predictions(runs, given, config))
    data = [record_location(record) | prediction for record, prediction in rows]
    return CommandResult(
        {**about, "answers": data}, render.predictions(data, [record.values for record, _ in rows])
    )


def check_file_options(config: PredictConfig, given: Any) -> None:
    """UsageError for options of a file of rows if the input is no file; a pipe may be a table."""
    from textus.data.inputs import Records

    for name in ("columns", "encoding", "skip_invalid"):
        piped = isinstance(given, Records) and name != "skip_invalid"
        if (value := getattr(config, name)) and not (piped or isinstance(given, Path)):
            raise UsageError(
                "option_not_applicable",
                f"--{name.replace('_', '-')} {value}: goes with a file of rows; leave it out",
            )


def split_inputs(
    inputs: Sequence[str], config: PredictConfig, *, text: bool, text_pair: str | None
) -> tuple[list[str], Any]:
    """The run folders and the input: a file, the lines of a pipe, or a text."""
    alone = len(inputs) == 1 or (bool(config.ensemble) and is_run(inputs[-1]))
    if inputs and alone and not text and arguments.is_piped():
        inputs = [*inputs, "-"]
    if len(inputs) < 2 or (len(inputs) > 2 and not config.ensemble):
        raise UsageError(
            "invalid_arguments",
            "predict takes a run and a text or file; several runs need --ensemble mean, vote or soup",
        )
    *runs, last = inputs
    if last in ("-", arguments.STDIN) and not text:
        if text_pair is not None:
            raise UsageError("option_not_applicable", "--text-pair goes with a text, not with standard input")
        from textus.api import open_run
        from textus.data.read_options import run_read_options

        return runs, piped_records(config, run_read_options(open_run(runs[0]).record))
    given = arguments.text_or_file(last, forced=text)
    if isinstance(given, Path):
        if text_pair is not None:
            raise UsageError(
                "option_not_applicable",
                f"--text-pair goes with a text; {last} is a file, whose rows have both texts",
            )
        return runs, given
    return runs, [given if text_pair is None else (given, text_pair)]


def piped_records(*options: ReadOptions, empty: bool = False) -> list[Record]:
    """The lines of standard input, or the rows of a table."""
    from textus.data.inputs import read_stdin

    return read_stdin(*options, empty=empty)


def typed_record(text: str) -> list[Record]:
    """A typed text as a row."""
    from textus.data.inputs import Records
    from textus.data.labeled import Record

    return Records([Record({"prompt": text}, "text 1")])


def is_run(argument: str) -> bool:
    """Whether an argument names a run folder."""
    return (Path(argument) / "run.json").is_file()


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
    """Extract triples (head, relation, tail) from raw text, each with its document and offsets, as a graph.

    Example: textus triples news.jsonl --entities work/tagger --relations work/relations --out graph.graphml
    """
    from textus import api
    from textus.cli import render

    result = api.triples(
        file, entities=entities, relations=relations, columns=columns, encoding=encoding, out=out, force=force
    )
    return CommandResult(result, render.triples(result) + (f"\n{out}" if out else ""))


def compare(
    *runs: RunFolders,
    on: Annotated[
        Path | None,
        option(
            "A text file, or labelled rows for fine-tuned runs; without it, the validation split all runs share.",
            metavar="FILE",
        ),
    ] = None,
    out: Annotated[
        Path | None, option("Write the table and picture (HTML, PNG, JSON) here.", metavar="FOLDER")
    ] = None,
    columns: Columns = None,
    encoding: Encoding = None,
    task: TaskName = None,
    skip_invalid: SkipInvalid = None,
    as_json: Json = False,
) -> CommandResult:
    """Compare runs: bits per byte on the same text, or a task's scores on the same rows; seconds, memory.

    Example: textus compare work/ngram work/run --on notes.txt
    """
    from textus import api
    from textus.cli import render

    if not runs:
        raise UsageError(
            "missing_argument", "compare needs at least one run folder: textus compare RUN RUN --on FILE"
        )
    data = api.compare(
        runs, on=on, out=out, columns=columns, encoding=encoding, task=task, skip_invalid=skip_invalid
    )
    report = f"\npage: {out / 'comparison.html'}" if out else ""
    text = render.task_comparison(data) if "runs" in data else render.comparison(data)
    return CommandResult(data, text + report)


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
    from textus import api

    if not runs:
        raise UsageError("missing_argument", "serve needs at least one run folder: textus serve RUN")
    api.serve(*runs, host=host, port=port, allow_host=allow_host or (), allow_origin=allow_origin or ())


def show(run: RunFolder, /, *, as_json: Json = False) -> CommandResult:
    """Show a run: layers, shapes, parameters, FLOPs, a Mermaid diagram.

    Example: textus show work/run
    """
    from textus import api
    from textus.cli import render
    from textus.evaluation.inspection import format_description

    data = api.show(run)
    return CommandResult(data, "\n\n".join([render.history(data), format_description(data), data["mermaid"]]))


def doctor(*, as_json: Json = False) -> CommandResult:
    """Show versions, optional packages, what this machine can do, its measured matrix rate.

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
    return CommandResult(data, f"{run}: all files match their SHA-256")

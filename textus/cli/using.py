"""Verbs that use runs: `generate chat evaluate compare serve show doctor verify`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from textus.cli.options import (
    Answer,
    Asked,
    Columns,
    Force,
    Json,
    RunFolder,
    SamplingFlags,
    TaskFlags,
    TaskSettings,
    option,
    task_settings,
)
from textus.common import UsageError, notice

RunFolders = Annotated[Path, Parameter(name="RUN", help="Run folders.")]


def generate(
    run: RunFolder,
    prompt: Annotated[
        str,
        Parameter(
            name="PROMPT",
            help="The beginning of the text; empty starts a new one. To a model trained on pairs, the source text.",
        ),
    ] = "",
    /,
    *,
    sampling: SamplingFlags = SamplingFlags(),
    as_json: Json = False,
) -> Answer | None:
    """Continue a text; it is written as it comes.

    Example: textus generate work/run "Once upon a time" --temperature 0.8 --max-tokens 100
    """
    from textus.api import open_run

    opened = open_run(run)
    pieces = opened.stream(prompt, **sampling.given())
    if as_json:
        text = "".join(pieces)
        return Answer({"run": str(run), "prompt": prompt, "text": text, "sampling": sampling.given()}, text)
    write("" if opened.model.needs_source else prompt)
    for piece in pieces:
        write(piece)
    write("\n")
    return None


def write(text: str) -> None:
    """Show a piece of text at once, before the next one is ready."""
    sys.stdout.write(text)
    sys.stdout.flush()


def chat(run: RunFolder, /, *, sampling: SamplingFlags = SamplingFlags()) -> None:
    """Talk to a model; questions are typed, or come one a line from a pipe.

    Example: echo "What is a list?" | textus chat work/run --temperature 0.7
    """
    from textus.api import open_run

    opened = open_run(run)
    if not opened.chats:
        notice(f"{run} was trained to continue texts, not to chat: it answers with the line it expects next")
    messages: list[dict[str, str]] = []
    for question in questions():
        messages.append({"role": "user", "content": question})
        answer = ""
        for piece in opened.stream_chat(messages, **sampling.given()):
            write(piece)
            answer += piece
        write("\n")
        messages.append({"role": "assistant", "content": answer})


def questions() -> Iterator[str]:
    """The questions: typed at a prompt until Ctrl-D, or the lines of a pipe that are not empty."""
    typed = sys.stdin.isatty()
    if typed:
        notice("ask; Ctrl-D ends")
    while True:
        if typed:
            sys.stderr.write("> ")
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


Ensemble = Annotated[
    str | None, option("Put the answers of several runs together: mean, vote, or soup (of weights).")
]


def evaluate(
    *runs: RunFolders,
    on: Annotated[
        Path | None, option("A text file; without it, the validation split.", metavar="FILE")
    ] = None,
    stride: Annotated[
        int | None, option("Score in overlapping windows this many tokens apart: another figure, named so.")
    ] = None,
    task: TaskFlags = TaskFlags(),
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
) -> Answer:
    """Measure a model: bits per byte with its interval, perplexity, repetition; fine-tuned runs by their task.

    Example: textus evaluate work/run --on notes.txt --json
    """
    from textus.api import evaluate_together, open_run
    from textus.cli import telling

    if not runs or (len(runs) > 1 and not ensemble):
        raise UsageError(
            "evaluate takes one run, or several with --ensemble mean; to rank runs: textus compare"
        )
    if settings and not asked:
        raise UsageError(f"--set {settings[0]}: goes with --task similarity alone")
    if ensemble:
        if task.entities:
            raise UsageError(f"--entities {task.entities}: goes with one relations run, not with --ensemble")
        if task.skip_invalid:
            raise UsageError(f"--skip-invalid {task.skip_invalid}: goes with one run, not with --ensemble")
        if settings:
            raise UsageError(
                f"--set {settings[0]}: with --ensemble each run answers as it has learnt; leave it out"
            )
        if on is None:
            raise UsageError(f"--ensemble {ensemble}: give labelled rows, --on FILE")
        found = evaluate_together(runs, on, ensemble=ensemble, task=asked, **task.given())
        return Answer(found, telling.task_scores(found))
    opened = open_run(runs[0])
    if name := asked or ", ".join(opened.tasks):
        if on is None:
            raise UsageError(f"{runs[0]} is asked for {name}: give labelled rows, --on FILE")
        found = opened.evaluate_task(on, task=asked, settings=task_settings(settings), **task.given())
        return Answer(found, telling.task_scores(found))
    task.refuse(runs[0])
    data = opened.evaluate(on, stride=stride)
    return Answer(data, telling.evaluation(data))


def robustness(
    run: RunFolder,
    /,
    *,
    on: Annotated[Path, option("Labelled rows.", metavar="FILE")],
    columns: Columns = None,
    vectors: Annotated[
        Path | None, option("Word vectors whose nearest are taken for synonyms, not WordNet.", metavar="FILE")
    ] = None,
    task: Asked = None,
    as_json: Json = False,
) -> Answer:
    """What a fine-tuned run loses on rows with typos, synonyms, other case and spacing, irrelevant sentences.

    Example: textus robustness work/reviews --on test.csv
    """
    from textus.api import open_run
    from textus.cli import telling

    found = open_run(run).robustness(on, columns=columns, vectors=vectors, task=task)
    return Answer(found, telling.robustness(found))


def predict(
    *words: Annotated[
        str, Parameter(name="RUN… FILE|TEXT", help="Run folders; then a file of rows, or the text itself.")
    ],
    text_pair: Annotated[
        str | None, option("The second text of a pair, such as the context of a question.", metavar="TEXT")
    ] = None,
    ensemble: Ensemble = None,
    columns: Annotated[
        str | None, option("Which columns are the fields: text=review, or without a header 0=text.")
    ] = None,
    task: Asked = None,
    as_json: Json = False,
) -> Answer:
    """Answer for a text, or for each row of a file, with a fine-tuned run or several.

    Example: textus predict work/reviews "A film to remember."
    """
    from textus.api import open_run, predict_together
    from textus.cli import telling

    if len(words) < 2 or (len(words) > 2 and not ensemble):
        raise UsageError(
            "predict takes a run and a text or file; several runs need --ensemble mean, vote or soup"
        )
    *runs, what = words
    if text_pair is not None and is_file(what):
        raise UsageError(f"--text-pair goes with a text; {what} is a file, whose rows have both texts")
    asked = Path(what) if is_file(what) else [what if text_pair is None else (what, text_pair)]
    if ensemble:
        found = predict_together(runs, asked, ensemble=ensemble, columns=columns, task=task)
        return Answer({"runs": runs, "ensemble": ensemble, "answers": found}, telling.answers(found))
    found = open_run(runs[0]).predict(asked, columns=columns, task=task)
    return Answer({"run": runs[0], "answers": found}, telling.answers(found))


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
    force: Force = False,
    as_json: Json = False,
) -> Answer:
    """Find triples (head, relation, tail) in raw text, each with its document and places, as a graph.

    Example: textus triples news.jsonl --entities work/tagger --relations work/relations --out graph.graphml
    """
    from textus.api import open_run
    from textus.cli import telling

    found = open_run(relations).triples(file, entities=entities, columns=columns, out=out, force=force)
    return Answer(found, telling.triples(found) + (f"\n{out}" if out else ""))


def is_file(words: str) -> bool:
    """Whether words name a file; a text too long for a name does not."""
    try:
        return Path(words).is_file()
    except (OSError, ValueError):
        return False


def compare(
    *runs: RunFolders,
    on: Annotated[
        Path | None, option("A text file; without it, the validation split all runs share.", metavar="TEXT")
    ] = None,
    out: Annotated[
        Path | None, option("Write the table and picture (HTML, PNG, JSON) here.", metavar="FOLDER")
    ] = None,
    as_json: Json = False,
) -> Answer:
    """Put runs on one ruler: bits per byte on the same text, seconds, memory.

    Example: textus compare work/ngram work/run --on notes.txt
    """
    from textus import api
    from textus.cli import telling

    if not runs:
        raise UsageError("compare needs at least one run folder: textus compare RUN RUN --on TEXT")
    data = api.compare(runs, on=on, out=out)
    report = f"\nreport: {out / 'comparison.html'}" if out else ""
    return Answer(data, telling.comparison(data) + report)


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
    from textus.serving import Served
    from textus.serving import serve as start

    if not runs:
        raise UsageError("serve needs at least one run folder: textus serve RUN")
    opened = [open_run(run) for run in runs]
    for run in opened:
        run.refuse_task()  # before any weights are read
    served = [
        Served(
            name=name,
            model=run.model,
            tokenizer=run.tokenizer,
            created=int((run.path / "run.json").stat().st_mtime),
            chat=run.chats,
            context_length=run.model.config.context_length,
        )
        for name, run in named(opened).items()
    ]
    start(served, host=host, port=port, hosts=allow_host or (), origins=allow_origin or ())


def show(run: RunFolder, /, *, as_json: Json = False) -> Answer:
    """Look into a run: layers, shapes, parameters, FLOPs, a Mermaid diagram.

    Example: textus show work/run
    """
    from textus import api
    from textus.cli import telling
    from textus.describing import as_text

    data = api.show(run)
    return Answer(data, "\n\n".join([telling.history(data), as_text(data), data["mermaid"]]))


def doctor(*, as_json: Json = False) -> Answer:
    """Tell versions, extras, what this machine can do, its measured matrix rate.

    Example: textus doctor
    """
    from textus import api
    from textus.describing import doctor_text

    data = api.doctor()
    return Answer(data, doctor_text(data))


def verify(run: RunFolder, /, *, as_json: Json = False) -> Answer:
    """Check every file of a run against its recorded SHA-256.

    Example: textus verify work/run
    """
    from textus import api

    data = api.verify(run)
    return Answer(data, f"{run}: every file is as it was written")

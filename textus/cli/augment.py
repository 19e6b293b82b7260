"""Verbs that make more of few rows: `augment`, `tune`, `fewshot`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from textus.cli.params import (
    Assignments,
    Columns,
    CommandResult,
    CorpusFolder,
    Encoding,
    Force,
    Json,
    Rows,
    RunFolder,
    SkipInvalid,
    option,
)
from textus.core.errors import UsageError


@Parameter(name="*")
@dataclass(frozen=True)
class AugmentOptions:
    """How rows are changed: fields of `augment.augmenter.AugmentSettings`."""

    operations: Annotated[
        str,
        option("Of synonyms, swap, delete, insert, typos, ocr, pinyin, infill; commas between.", "--ops"),
    ]
    copies: Annotated[int, option("Copies of a row at most; the operations take turns.", "--copies")] = 1
    rate: Annotated[float, option("Share of a text's words to change; at least one is.")] = 0.1
    seed: Annotated[int, option("The same rows and seed give the same copies, in any order.")] = 0
    wordnet: Annotated[
        str,
        option(
            "The folder of WordNet's files, if it is not where it is usually installed.", metavar="FOLDER"
        ),
    ] = ""
    vectors: Annotated[
        str, option("Word vectors whose nearest are taken for synonyms, for any language.", metavar="FILE")
    ] = ""
    encoder: Annotated[str, option("The run of an encoder that infills.", metavar="RUN")] = ""


def augment(
    data: Rows,
    /,
    *,
    out: Annotated[Path, option("The file of JSON lines to write.", metavar="FILE")],
    changes: AugmentOptions,
    columns: Columns = None,
    encoding: Encoding = None,
    force: Force = False,
    as_json: Json = False,
) -> CommandResult:
    """Make more labelled rows: changed copies whose labels stay right; 'finetune' keeps those of held-out rows apart.

    Example: textus augment reviews.csv --ops swap,delete,typos --copies 4 --out more.jsonl
    """
    from textus import api
    from textus.cli.render import plain

    found = api.augment(data, out=out, columns=columns, encoding=encoding, force=force, **asdict(changes))
    said = f"{found['rows']:,} rows and {sum(found['copies'].values()):,} copies ({plain(found['copies'])})"
    return CommandResult(found, f"{out}: {said}\nnext: textus finetune {out} --model lstm --out FOLDER")


@Parameter(name="*")
@dataclass(frozen=True)
class ClozeOptions:
    """What is asked of a text: fields of `augment.cloze.ClozeSettings`."""

    questions: Annotated[int, option("Questions a passage at most.")] = 2
    longest: Annotated[int, option("Characters of a passage at most.")] = 800
    words: Annotated[float, option("Words of an answer on average.")] = 2.5
    dropped: Annotated[float, option("Share of a question's words to leave out.")] = 0.3
    seed: Annotated[int, option("The same text and seed give the same rows.")] = 0


def cloze(
    corpus: CorpusFolder,
    /,
    *,
    out: Annotated[Path, option("The file of JSON lines to write.", metavar="FILE")],
    asked: ClozeOptions = ClozeOptions(),
    force: Force = False,
    as_json: Json = False,
) -> CommandResult:
    """Make questions of plain text, each for some words by those around them: little data of one's own stands on them.

    Example: textus cloze work/corpus --out cloze.jsonl
    """
    from textus import api

    found = api.cloze(corpus, out=out, force=force, **asdict(asked))
    next_step = f"textus finetune {out} --task question-answering --from RUN --out FOLDER"
    return CommandResult(found, f"{out}: {found['rows']:,} rows\nnext: {next_step}")


@Parameter(name="*")
@dataclass(frozen=True)
class FinetuneOptions:
    """What stays the same in every trial: flags of `textus finetune`."""

    start: Annotated[Path | None, option("The run to begin from.", "--from", "RUN")] = None
    model: Annotated[str | None, option("Or the family of a new model: lstm, encoder, decoder, …")] = None
    task: Annotated[str, option("What to learn (an unknown one lists all).")] = "classification"
    dev: Annotated[
        Path | None,
        option("Rows that trials are chosen by; without it, a tenth is held out.", metavar="FILE"),
    ] = None
    columns: Columns = None
    tokenizer: Annotated[str | None, option("For a new model: a tokenizer's folder, or a kind to train.")] = (
        None
    )
    encoding: Encoding = None
    skip_invalid: SkipInvalid = None
    epochs: Annotated[int | None, option("Times the rows are read, if that is not to be searched.")] = None
    seed: Annotated[int, option("The same words and seed try the same settings.")] = 0
    settings: Assignments = None


def tune(
    data: Rows,
    /,
    *,
    out: Annotated[
        Path,
        option(
            "The folder of the search and of its best run; one that was broken off goes on.", metavar="FOLDER"
        ),
    ],
    fixed: FinetuneOptions = FinetuneOptions(),
    trials: Annotated[int, option("Settings to try, in all.")] = 20,
    search: Annotated[
        list[str] | None,
        option(
            "Search a setting in a range or among values: optim.rate=1e-4..1e-2:log, epochs=2..8,"
            " task.pooling=mean,max; may be repeated. What --set says is not searched.",
            metavar="PATH=RANGE",
        ),
    ] = None,
    search_space: Annotated[
        Path | None, option("A TOML file of such lines instead of the usual search space.", metavar="FILE")
    ] = None,
    as_json: Json = False,
) -> CommandResult:
    """Search for the settings that fine-tune best; the best run is kept, and the command that makes it again told.

    Example: textus tune reviews.csv --model lstm --trials 20 --out work/tuned
    """
    from textus import api
    from textus.reporting.format import text_table

    words = {**asdict(fixed), "settings": fixed.settings or []}
    found = api.tune(data, out=out, trials=trials, search=search or [], search_space=search_space, **words)
    counts = ", ".join(f"{n} {state}" for state, n in found["counts"].items())
    said = f"best of {trials} trials ({counts}): {found['figure']:.4f}, {found['run']}"
    return CommandResult(found, f"{text_table(found['trials'])}\n{said}\nmake it again: {found['command']}")


@Parameter(name="*")
@dataclass(frozen=True)
class FewShotOptions:
    """How rows are put to the model."""

    template: Annotated[
        str,
        option("The prompt, with {text} (and {text_pair}), {label} at its end. [default: Text: … Label: …]"),
    ] = ""
    verbalizer: Annotated[str | None, option("The word for each class in the prompt: 0=bad,1=good.")] = None
    shots: Annotated[str, option("Numbers of examples, commas between.")] = "0,1,2,4,8"
    repeats: Annotated[int, option("Random draws of examples for each number of shots.")] = 3
    limit: Annotated[int, option("Score at most this many rows, drawn by the seed; 0 is all.")] = 0
    seed: Annotated[int, option("The same seed draws the same examples.")] = 0


def fewshot(
    run: RunFolder,
    data: Rows,
    /,
    *,
    on: Annotated[Path, option("The labelled rows to ask.", metavar="FILE")],
    prompt: FewShotOptions = FewShotOptions(),
    columns: Columns = None,
    encoding: Encoding = None,
    out: Annotated[
        Path | None, option("Write table and picture (JSON, PNG, HTML) here.", metavar="FOLDER")
    ] = None,
    as_json: Json = False,
) -> CommandResult:
    """Ask a language model for classes, with a few examples in its context: accuracy against their number.

    Example: textus fewshot work/smollm2 reviews.csv --on test.csv --shots 0,4,8 --verbalizer neg=bad,pos=good
    """
    from textus import api
    from textus.cli import render
    from textus.evaluation.fewshot import parse_verbalizer

    try:
        shots = tuple(int(each) for each in prompt.shots.split(","))
    except ValueError as error:
        raise UsageError(
            "invalid_value", f"--shots {prompt.shots}: give whole numbers with commas between, such as 0,1,4"
        ) from error
    how = {**asdict(prompt), "shots": shots, "verbalizer": parse_verbalizer(prompt.verbalizer)}
    found = api.fewshot(run, data, on=on, columns=columns, encoding=encoding, out=out, **how)
    return CommandResult(found, render.fewshot(found) + (f"\nreport: {out / 'fewshot.html'}" if out else ""))

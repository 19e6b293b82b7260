"""Commands on labelled data: `augment`, `cloze`, `tune`, `fewshot`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from textus.cli.params import (
    Columns,
    CommandResult,
    CorpusFolder,
    Encoding,
    ForceFile,
    Json,
    Rows,
    RunFolder,
    option,
    with_config,
)

if TYPE_CHECKING:
    from textus.augment.config import AugmentConfig, ClozeConfig
    from textus.evaluation.config import FewShotConfig
    from textus.finetuning.config import TuneConfig

RowsFile = Annotated[Path, option("The file of JSON lines to write.", metavar="FILE")]


@with_config("textus.augment.config")
def augment(
    data: Rows,
    /,
    *,
    out: RowsFile,
    config: AugmentConfig,
    columns: Columns = None,
    encoding: Encoding = None,
    force: ForceFile = False,
    as_json: Json = False,
) -> CommandResult:
    """Make more labelled rows: changed copies whose labels stay right. `finetune` keeps copies of held-out rows apart.

    Example: textus augment reviews.csv --ops swap,delete,typos --copies 4 --out more.jsonl
    """
    from textus import api
    from textus.cli.render import plain

    result = api.augment(data, out=out, columns=columns, encoding=encoding, force=force, config=config)
    counts = (
        f"{result['rows']:,} rows and {sum(result['copies'].values()):,} copies ({plain(result['copies'])})"
    )
    return CommandResult(result, f"{out}: {counts}\nnext: textus finetune {out} --model lstm --out FOLDER")


@with_config("textus.augment.config")
def cloze(
    corpus: CorpusFolder,
    /,
    *,
    out: RowsFile,
    config: ClozeConfig,
    force: ForceFile = False,
    as_json: Json = False,
) -> CommandResult:
    """Generate cloze-style question-answer pairs from raw text, to fine-tune on first when labelled data is scarce.

    Example: textus cloze work/corpus --out cloze.jsonl
    """
    from textus import api

    result = api.cloze(corpus, out=out, force=force, config=config)
    next_step = f"textus finetune {out} --task question-answering --from RUN --out FOLDER"
    return CommandResult(result, f"{out}: {result['rows']:,} rows\nnext: {next_step}")


@with_config("textus.finetuning.config")
def tune(
    data: Rows,
    /,
    *,
    out: Annotated[
        Path,
        option(
            "Output folder for the study and its best run; an existing study is resumed.", metavar="FOLDER"
        ),
    ],
    config: TuneConfig,
    as_json: Json = False,
) -> CommandResult:
    """Search fine-tuning hyper-parameters; keeps the best run and prints the command to reproduce it.

    Example: textus tune reviews.csv --model lstm --trials 20 --out work/tuned
    """
    from textus import api
    from textus.reporting.format import text_table

    result = api.tune(data, out=out, config=config)
    counts = ", ".join(f"{n} {state}" for state, n in result["counts"].items())
    best = f"best of {config.trials} trials ({counts}): {result['figure']:.4f}, {result['run']}"
    return CommandResult(result, f"{text_table(result['trials'])}\n{best}\nreproduce it: {result['command']}")


@with_config("textus.evaluation.config")
def fewshot(
    run: RunFolder,
    data: Rows,
    /,
    *,
    on: Annotated[Path, option("The labelled rows to classify.", metavar="FILE")],
    config: FewShotConfig,
    out: Annotated[
        Path | None, option("Write table and picture (JSON, PNG, HTML) here.", metavar="FOLDER")
    ] = None,
    as_json: Json = False,
) -> CommandResult:
    """Classify with a language model that is shown a few examples in its context: accuracy by their number.

    Example: textus fewshot work/smollm2 reviews.csv --on test.csv --shots 0,4,8 --verbalizer neg=bad,pos=good
    """
    from textus import api
    from textus.cli import render

    result = api.fewshot(run, data, on=on, out=out, config=config)
    return CommandResult(
        result, render.fewshot(result) + (f"\nreport: {out / 'fewshot.html'}" if out else "")
    )

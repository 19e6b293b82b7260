"""Verbs that make runs: `train`, `resume`, `bench`."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from textus.cli.params import (
    Assignments,
    BudgetOptions,
    Columns,
    CommandResult,
    CorpusFolder,
    Encoding,
    Force,
    Json,
    Out,
    Rows,
    RunFolder,
    SkipInvalid,
    flag,
    option,
)
from textus.core.errors import UsageError
from textus.core.names import unknown_name_error


def train(
    corpus: CorpusFolder,
    /,
    *,
    out: Out,
    start: Annotated[
        Path | None,
        option(
            "A run to go on from, on this corpus: its family, tokenizer and weights.",
            name="--from",
            metavar="RUN",
        ),
    ] = None,
    model: Annotated[
        str | None,
        option(
            "The family: decoder (where none is named), encoder, lstm, ngram, … (an unknown one lists all)."
        ),
    ] = None,
    budget: BudgetOptions = BudgetOptions(),
    tokenizer: Annotated[
        str | None,
        option("A tokenizer's folder, or a kind to train; without it, byte-level BPE sized to the corpus."),
    ] = None,
    embeddings: Annotated[
        Path | None,
        option(
            "Word vectors (word2vec's or GloVe's file, as wide as model.d_model) that the input embedding begins with:"
            " a piece has that of its text without blanks at its edges, as written, else in small letters.",
            metavar="FILE",
        ),
    ] = None,
    seed: Annotated[int, option("The same command, seed and choices give the same bytes.")] = 0,
    settings: Assignments = None,
    force: Force = False,
    as_json: Json = False,
) -> CommandResult:
    """Train a model on a corpus; Ctrl-C saves first.

    Example: textus train work/corpus --preset 10min --out work/run
    """
    from textus import api

    run = api.train(
        corpus,
        out=out,
        start=start,
        model=model,
        tokenizer=tokenizer,
        preset=budget.preset,
        depth=budget.depth,
        steps=budget.steps,
        seed=seed,
        settings=settings or [],
        checkpoint_every=budget.checkpoint_every,
        choices=budget.choices,
        embeddings=embeddings,
        force=force,
    )
    return finished(run)


@Parameter(name="*")
@dataclass(frozen=True)
class ExtraTaskOptions:
    """Further tasks, learnt at once by heads of their own."""

    extra_task: Annotated[
        list[str] | None,
        option(
            "Learn another task at once, by a head of its own called NAME (or as the task); may be repeated. Settings:"
            " --set task.NAME.crf=true; --set mix.power=1 deals steps by size, 0 to all alike, 0.5 if not set.",
            metavar="[NAME:]TASK=FILE",
        ),
    ] = None
    extra_dev: Annotated[
        list[str] | None, option("Rows of that task that choose the weights.", metavar="NAME=FILE")
    ] = None
    extra_columns: Annotated[
        list[str] | None, option("Which columns are its fields.", metavar="NAME:COLUMNS")
    ] = None

    def given(self) -> dict[str, list[str]]:
        """As keywords of `api.finetune`."""
        return {
            "extra_tasks": self.extra_task or [],
            "extra_dev": self.extra_dev or [],
            "extra_columns": self.extra_columns or [],
        }


def finetune(
    data: Rows,
    /,
    *,
    out: Out,
    start: Annotated[Path | None, option("The run to begin from.", "--from", "RUN")] = None,
    model: Annotated[str | None, option("Or the family of a new model: lstm, encoder, decoder, …")] = None,
    task: Annotated[str, option("What to learn (an unknown one lists all).")] = "classification",
    method: Annotated[
        str, option("Which weights learn: full, lora (adapters beside them), frozen (the head alone).")
    ] = "full",
    dev: Annotated[
        Path | None, option("Rows that choose the weights; without it, a tenth is held out.", metavar="FILE")
    ] = None,
    columns: Columns = None,
    encoding: Encoding = None,
    skip_invalid: SkipInvalid = None,
    tokenizer: Annotated[
        str | None, option("For a new model: a tokenizer's folder, or a kind to train on the texts.")
    ] = None,
    epochs: Annotated[
        int | None, option("Times the rows are read. [default: by their number; of many 3, a new model 8]")
    ] = None,
    seed: Annotated[int, option("The same command, seed and choices give the same bytes.")] = 0,
    augment: Annotated[
        str | None,
        option(
            "Learn from changed copies too: swap,delete,typos, … as in 'textus augment' (--set augment.copies=4)."
        ),
    ] = None,
    extra: ExtraTaskOptions = ExtraTaskOptions(),
    settings: Assignments = None,
    force: Force = False,
    as_json: Json = False,
) -> CommandResult:
    """Teach a model a task from labelled rows; Ctrl-C saves first.

    Example: textus finetune reviews.csv --from work/minilm --out work/reviews
    """
    from textus import api

    run = api.finetune(
        data, out=out, task=task, method=method, start=start, model=model, dev=dev, columns=columns,
        encoding=encoding, skip_invalid=skip_invalid, tokenizer=tokenizer, epochs=epochs, seed=seed, augment=augment,
        settings=settings or [], force=force, **extra.given(),
    )  # fmt: skip
    return finished(run)


def resume(
    run: RunFolder,
    /,
    *,
    prove: Annotated[
        bool,
        flag("Train the finished run again beside itself, broken off and resumed, and compare every byte."),
    ] = False,
    corpus: Annotated[
        Path | None,
        option("Where its corpus, or the labelled file of a fine-tuned run, is now, if it was moved."),
    ] = None,
    dev: Annotated[
        Path | None, option("Where the validation rows of a fine-tuned run are now.", metavar="FILE")
    ] = None,
    as_json: Json = False,
) -> CommandResult:
    """Go on with an interrupted run, exactly from its newest whole checkpoint.

    Example: textus resume work/run
    """
    from textus import api

    if prove:
        from textus.cli import render

        data = api.prove_resume(run)
        return CommandResult(data, render.figures(f"resume of {run} proven", data))
    return finished(api.resume(run, corpus=corpus, dev=dev))


def finished(run: Any) -> CommandResult:
    """The last lines of training: where the run is, how good it is, what to try next."""
    from textus.cli.render import plain
    from textus.reporting.format import format_bytes

    facts = {
        name: run.record.get(name) for name in ("task", "family", "steps", "seed", "best", "cpu_seconds")
    }
    if most := run.record.get("peak_memory_bytes"):
        facts["memory"] = format_bytes(most)
    known = {name: value for name, value in facts.items() if value is not None}
    tries = [f"textus evaluate {run.path}"]
    if len(run.tasks) > 1:
        known["task"] = ", ".join(run.tasks)
    if run.tasks:
        what = "FILE" if run.tasks[0] == "relations" else '"…"'
        which = f" --task {run.tasks[0]}" if len(run.tasks) > 1 else ""
        tries = [f"textus predict {run.path}{which} {what}", f"textus evaluate {run.path}{which} --on TEST"]
    elif run.model.capabilities.can_generate:
        tries.insert(0, f'textus generate {run.path} "Once upon a time"')
    tried = "   or: ".join(tries)
    return CommandResult({"run": str(run.path), **known}, f"{run.path}: {plain(known)}\nnext: {tried}")


def bench(
    what: Annotated[
        str, Parameter(name="WHAT", help="A script of benchmarks/, such as train_speed or ngram.")
    ],
    /,
    *arguments: Annotated[
        str, Parameter(name="ARGUMENTS", allow_leading_hyphen=True, help="Passed on to it.")
    ],
) -> int:
    """Measure on this machine: speed beside a peer in turns, quality, recovery.

    Example: textus bench train_speed
    """
    folder = Path(__file__).resolve().parents[2] / "benchmarks"
    scripts = [path.stem for path in sorted(folder.glob("[a-z]*.py"))]
    if not scripts:
        raise UsageError(
            "not_found",
            f"no benchmarks in {folder}; they are in the source checkout, not in the installed package",
        )
    if what not in scripts:
        raise unknown_name_error("benchmark", what, scripts)
    words = [sys.executable, "-m", f"benchmarks.{what}", *arguments]
    return subprocess.run(words, cwd=folder.parent, check=False).returncode

"""Commands that train: `train`, `finetune`, `resume`, and `bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from textus.cli.params import (
    CommandResult,
    CorpusFolder,
    Force,
    Json,
    Out,
    Rows,
    RunFolder,
    flag,
    option,
    with_config,
)
from textus.core.errors import UsageError
from textus.core.names import unknown_name_error

if TYPE_CHECKING:
    from textus.finetuning.config import FinetuneConfig
    from textus.training.config import PretrainConfig


@with_config("textus.training.config")
def train(
    corpus: CorpusFolder,
    /,
    *,
    out: Out,
    config: PretrainConfig,
    force: Force = False,
    as_json: Json = False,
) -> CommandResult:
    """Train a model on a corpus; Ctrl-C saves first.

    Example: textus train work/corpus --preset 10min --out work/run
    """
    from textus import api

    return training_summary(api.train(corpus, out=out, config=config, force=force))


@with_config("textus.finetuning.config")
def finetune(
    data: Rows,
    /,
    *,
    out: Out,
    config: FinetuneConfig,
    force: Force = False,
    as_json: Json = False,
) -> CommandResult:
    """Fine-tune a model on labelled rows, or train a new one; Ctrl-C saves first.

    Example: textus finetune reviews.csv --from work/minilm --out work/reviews
    """
    from textus import api

    return training_summary(api.finetune(data, out=out, config=config, force=force))


def resume(
    run: RunFolder,
    /,
    *,
    prove: Annotated[
        bool,
        flag(
            "Train a copy of the finished run again, interrupted and resumed, and compare every byte of its weights."
        ),
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
    """Continue an interrupted run from its newest whole checkpoint.

    Example: textus resume work/run
    """
    from textus import api

    if prove:
        from textus.cli import render

        data = api.verify_determinism(run)
        return CommandResult(data, render.figures(f"{run}: resuming gives the same weights", data))
    return training_summary(api.resume(run, corpus=corpus, dev=dev))


def training_summary(run: Any) -> CommandResult:
    """The last lines of training: the run, how good it is, what to try next."""
    from textus.cli.render import plain
    from textus.reporting.format import format_bytes

    facts = {
        name: run.record.get(name) for name in ("task", "family", "steps", "seed", "best", "cpu_seconds")
    }
    if peak := run.record.get("peak_memory_bytes"):
        facts["memory"] = format_bytes(peak)
    known = {name: value for name, value in facts.items() if value is not None}
    next_steps = [f"textus evaluate {run.path}"]
    if len(run.tasks) > 1:
        known["task"] = ", ".join(run.tasks)
    if run.tasks:
        what = "FILE" if run.tasks[0] == "relations" else '"…"'
        which = f" --task {run.tasks[0]}" if len(run.tasks) > 1 else ""
        next_steps = [
            f"textus predict {run.path}{which} {what}",
            f"textus evaluate {run.path}{which} --on TEST",
        ]
    elif run.supports_chat:
        next_steps = [f"textus chat {run.path}", f"textus evaluate {run.path} --on TEST"]
    elif run.model.capabilities.can_generate:
        next_steps.insert(0, f'textus generate {run.path} "Once upon a time"')
    return CommandResult(
        {"run": str(run.path), **known}, f"{run.path}: {plain(known)}\nnext: {'   or: '.join(next_steps)}"
    )


def bench(
    what: Annotated[
        str, Parameter(name="WHAT", help="A script of benchmarks/, such as train_speed or ngram.")
    ],
    /,
    *arguments: Annotated[
        str, Parameter(name="ARGUMENTS", allow_leading_hyphen=True, help="Passed on to it.")
    ],
) -> int:
    """Run a benchmark on this machine: speed next to a peer, quality, recovery.

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
    script = [sys.executable, "-m", f"benchmarks.{what}", *arguments]
    return subprocess.run(script, cwd=folder.parent, check=False).returncode

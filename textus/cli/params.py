"""What the verbs share: their answer, and the flags that more than one of them takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from textus.core.errors import UsageError
from textus.core.names import unknown_name_error


@dataclass(frozen=True)
class CommandResult:
    """What a verb found: `data` is the one object of `--json`, `text` is the same for people."""

    data: dict[str, Any]
    text: str
    exit_code: int = 0


def flag(help: str, name: str | None = None) -> Parameter:
    """A switch that is off unless given; it has no `--no-…` twin."""
    return Parameter(name=name, negative=(), help=help)


def option(help: str, name: str | None = None, metavar: str | None = None) -> Parameter:
    """A flag with a value; a list is given by repeating it."""
    return Parameter(name=name, negative=(), help=help, metavar=metavar)


Json = Annotated[
    bool, flag("Write one JSON object to standard output, everything else to standard error.", "--json")
]
Force = Annotated[bool, flag("Replace the output folder if it exists.")]
ForceFile = Annotated[bool, flag("Replace the output file if it exists.", "--force")]
AsText = Annotated[
    bool, flag("Take the words for the text itself, also where they look like a path.", "--text")
]
RowsOut = Annotated[
    Path | None,
    option(
        "Write a row each to this file, .csv, .tsv or .jsonl; the same command continues after a kill.",
        metavar="FILE",
    ),
]
Out = Annotated[Path, option("The folder to write; refused if it exists.", metavar="FOLDER")]
RunFolder = Annotated[Path, Parameter(name="RUN", help="A run folder.")]
CorpusFolder = Annotated[
    Path, Parameter(name="CORPUS", help="A corpus folder, as 'textus corpus build' writes it.")
]
Rows = Annotated[
    Path, Parameter(name="DATA", help="Labelled rows: csv, tsv, jsonl, json, parquet, a folder a class.")
]
Columns = Annotated[
    str | None,
    option("Which columns are the fields: text=review,label=stars, or without a header 0=text,1=label."),
]
Encoding = Annotated[
    str | None, option("The encoding of the files of rows, such as cp1250 or gb18030; detected if left out.")
]
SkipInvalid = Annotated[
    str | None,
    option(
        "Leave out rows that cannot be used, up to a share (5%) or all; else they are refused.",
        metavar="N%",
    ),
]
Assignments = Annotated[
    list[str] | None,
    option("Set any field of any config, such as model.n_layer=2; may be repeated.", "--set", "PATH=VALUE"),
]

Asked = Annotated[str | None, option("Which task, of runs that have learnt several.", "--task", "NAME")]
TaskSettings = Annotated[
    list[str] | None,
    option(
        "Set a field of a task not learnt, such as task.pooling=cls; may be repeated.", "--set", "PATH=VALUE"
    ),
]


def task_settings(assignments: list[str] | None) -> list[str]:
    """Assignments without the name of their group; UsageError for another group."""
    for each in assignments or []:
        if not each.startswith("task."):
            raise unknown_name_error("group of settings", each.partition(".")[0], ["task"])
    return [each.removeprefix("task.") for each in assignments or []]


@Parameter(name="*")
@dataclass(frozen=True)
class SamplingFlags:
    """How the next token is chosen; a flag that is not given keeps the default of `SamplingParams`."""

    temperature: Annotated[float | None, option("Spread of the choice; 0 is greedy. [default: 0.8]")] = None
    max_tokens: Annotated[int | None, option("Tokens to write at most. [default: 200]")] = None
    seed: Annotated[int | None, option("The same seed writes the same text. [default: 0]")] = None
    top_k: Annotated[int | None, option("Choose among the k likeliest tokens; 0 is all.")] = None
    top_p: Annotated[
        float | None, option("Choose among the likeliest tokens that together hold this probability.")
    ] = None
    min_p: Annotated[
        float | None, option("Leave out tokens below this share of the likeliest one's probability.")
    ] = None
    repetition_penalty: Annotated[
        float | None, option("Above 1, tokens already used become less likely.")
    ] = None
    stop: Annotated[list[str] | None, option("Stop before this text; may be repeated.")] = None
    sliding: Annotated[
        bool, option("Where the context is full, continue without the first half of the text; else it ends.")
    ] = False

    def given(self) -> dict[str, Any]:
        """The flags that were given, as keywords of `generation.sampling.SamplingParams`."""
        values = {
            name: value for name, value in asdict(self).items() if value is not None and value is not False
        }
        if "stop" in values:
            values["stop"] = tuple(values["stop"])
        return values


@Parameter(name="*")
@dataclass(frozen=True)
class BudgetOptions:
    """How much to train: a time budget, a depth, or a number of steps."""

    preset: Annotated[
        str | None, option("Time budget: 1min, 10min, 1h, overnight, or such as 3min; measures this machine.")
    ] = None
    depth: Annotated[int | None, option("Layers; width, rates and steps follow from it.")] = None
    steps: Annotated[int | None, option("Optimiser steps, from a fixed table, nothing measured.")] = None
    checkpoint_every: Annotated[int | None, option("Steps between checkpoints.")] = None
    choices: Annotated[
        Path | None,
        option("Reuse what another run chose by measuring: the same bytes come out.", metavar="RUN"),
    ] = None


@Parameter(name="*")
@dataclass(frozen=True)
class TaskEvalOptions:
    """How fine-tuned runs are measured by their task."""

    columns: Annotated[
        str | None, option("Which columns of a table are the fields: text=review,label=stars.")
    ] = None
    by: Annotated[
        list[str] | None,
        option("Figures by the values of a column, or by 'length'; may be repeated.", "--slice", "COLUMN"),
    ] = None
    no_baselines: Annotated[
        bool,
        flag(
            "Skip the baselines (the linear one is otherwise trained and cached on first evaluation).",
            "--no-baselines",
        ),
    ] = False
    out: Annotated[
        Path | None,
        option("Write a page with pictures, and the figures (HTML, JSON) here.", metavar="FOLDER"),
    ] = None

    encoding: Encoding = None
    skip_invalid: SkipInvalid = None
    entities: Annotated[
        Path | None,
        option("Of a relations run: find the entities by this tagging run, in the raw text.", metavar="RUN"),
    ] = None

    def given(self) -> dict[str, Any]:
        """As keywords of `Run.evaluate_task`."""
        more: dict[str, Any] = {"entities": self.entities} if self.entities else {}
        if self.skip_invalid:
            more["skip_invalid"] = self.skip_invalid
        return {
            "columns": self.columns,
            "encoding": self.encoding,
            "by": self.by or (),
            "baselines": not self.no_baselines,
            "out": self.out,
        } | more

    def refuse(self, run: Path) -> None:
        """UsageError for a flag that a run without a task has no use for."""
        given = {
            "--slice": self.by,
            "--no-baselines": self.no_baselines,
            "--entities": self.entities,
            "--skip-invalid": self.skip_invalid,
        }
        if wrong := [name for name, value in given.items() if value]:
            raise UsageError(
                "option_not_applicable", f"{wrong[0]}: {run} was not fine-tuned for a task; leave it out"
            )

"""A search for the settings that fine-tune best on this data: `optuna`'s tree of Parzen estimators (Bergstra et al.
2011), trials that fall behind the median of the others stopped at an evaluation (Golovin et al. 2017).

Every trial is a `textus finetune` of its own, chosen by the rows that choose weights; test rows are never looked at.
The study is in SQLite and continues after a kill: what is tried next follows from the seed and the trials that ended,
so that a search broken off finds what it would have found.
"""

from __future__ import annotations

import math
import re
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from textus.core.console import log_notice
from textus.core.errors import DataError, RunError, TextusError, UsageError
from textus.core.io import fingerprint, sha256, write_json
from textus.core.locks import exclusive_lock
from textus.core.names import import_optional, unknown_name_error
from textus.core.requests import as_arguments, read_toml
from textus.core.rng import derive_seed
from textus.finetuning.config import FinetuneConfig, TuneConfig
from textus.finetuning.data import LabelledFile, read_files
from textus.finetuning.finetune import start
from textus.models.contract import RawTextModel
from textus.models.registry import family as family_of
from textus.runs.store import open_run
from textus.tasks.registry import task_class
from textus.training.pretrain import last_metrics
from textus.training.trainer import TrainingInterrupted, chosen_by

RANGE = re.compile(r"(?P<low>[-+.\deE]+)\.\.(?P<high>[-+.\deE]+)(?P<log>:log)?")
STARTUP, WARMUP = 5, 1
"""Trials drawn at random before the search learns from them, and evaluations before one may be stopped."""
ATTEMPTS = 2
"""Processes that may be killed in the same trial before its settings count as failed."""


@dataclass(frozen=True)
class SearchRange:
    """What is searched of one setting: a range of numbers, on a logarithm or not, whole or not; or a list of values."""

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    values: tuple[str, ...] = ()

    def drawn(self, name: str, trial: Any) -> str:
        """A value as it is spelt on the command line; three digits are enough."""
        if self.values:
            return str(trial.suggest_categorical(name, list(self.values)))
        if self.whole:
            return str(trial.suggest_int(name, int(self.low), int(self.high), log=self.log))
        return f"{trial.suggest_float(name, self.low, self.high, log=self.log):.3g}"


def parse_span(name: str, spelled: str) -> SearchRange:
    """`1e-4..1e-2:log`, `2..8`, `mean,max`, or `1,1;1,2` of values with commas. UsageError for anything else."""
    if match := RANGE.fullmatch(spelled):
        try:
            low, high = float(match["low"]), float(match["high"])
        except ValueError:
            low, high = math.nan, math.nan
        if not low < high or (match["log"] and low <= 0):
            raise UsageError(
                "invalid_value",
                f"--search {name}={spelled}: give a lower and a higher number (above 0 with :log)",
            )
        whole = all(re.fullmatch(r"[-+]?\d+", match[end]) for end in ("low", "high"))
        return SearchRange(low, high, bool(match["log"]), whole)
    values = tuple(part.strip() for part in spelled.split(";" if ";" in spelled else ",") if part.strip())
    if len(values) < 2 or ".." in spelled or ":" in spelled:
        raise UsageError(
            "invalid_value",
            f"--search {name}={spelled}: give a range such as 1e-4..1e-2:log or 2..8, or values such as mean,max",
        )
    return SearchRange(values=values)


def usual_space(request: FinetuneConfig) -> dict[str, str]:
    """What is worth searching for this task and family, with ranges that hold what the field uses."""
    if request.model and issubclass(family_of(request.model)[0], RawTextModel):
        return {
            "model.l2": "1e-3..10:log",
            "model.weighting": "tf-idf,counts",
            "model.sublinear": "true,false",
        }
    space = {"optim.weight_decay": "1e-4..1e-1:log", "train.batch_size": "16,32,64"}
    task = {field.name for field in fields(task_class(request.task).config)}
    if request.init_from:
        family = open_run(request.init_from).record["family"]
        space |= {"epochs": "2..6", "optim.rate": "1e-5..1e-3:log"}
    else:
        assert request.model is not None
        family = request.model
        known = {field.name for field in fields(family_of(family)[1])}
        space |= {"epochs": "4..14", "optim.rate": "3e-4..1e-2:log"}
        sizes = {"model.d_model": "128,256,384", "model.n_layer": "1..3", "model.dropout": "0.0..0.6"}
        space |= {name: span for name, span in sizes.items() if name.partition(".")[2] in known}
    choices = {"task.dropout": "0.0..0.5", "task.pooling": "mean,max,last,cls"}
    if family != "encoder":  # the first state has seen the whole text nowhere else
        choices["task.pooling"] = "mean,max,last"
    return space | {name: span for name, span in choices.items() if name.partition(".")[2] in task}


def search_space(
    request: FinetuneConfig, file: Path | None, overrides: Sequence[str]
) -> dict[str, SearchRange]:
    """Setting → what is searched of it: the usual space, or a file's in its place, then `--search`; what `--set` and
    `--epochs` set is not searched. Raises UsageError for values that cannot be parsed.
    """
    spelled = usual_space(request) if file is None else from_file(file)
    for override in overrides:
        name, equals, span = override.partition("=")
        if not equals:
            raise UsageError(
                "invalid_value",
                f"--search {override!r} has no '='; write SETTING=LOW..HIGH, such as optim.rate=1e-4..1e-2:log",
            )
        spelled[name.strip()] = span.strip()
    fixed = {override.partition("=")[0] for override in request.overrides} | (
        {"epochs"} if request.epochs else set()
    )
    if "train.steps" in fixed:
        fixed.add("epochs")
    space = {name: parse_span(name, span) for name, span in spelled.items() if name not in fixed}
    groups = ("epochs", "model", "train", "optim", "compute", "task", "augment")
    for name in space:
        if name.partition(".")[0] not in groups:
            raise unknown_name_error("setting to search", name, usual_space(request))
    if not space:
        raise UsageError(
            "missing_argument",
            "there is nothing to search: every setting is fixed; leave out some --set, or give --search",
        )
    return space


def from_file(path: Path) -> dict[str, str]:
    """The space of a TOML file: a line a setting, `"optim.rate" = "1e-4..1e-2:log"`, lists as lists."""
    result = read_toml(path, "--search-space")
    flat = {
        **result,
        **{f"{a}.{b}": c for a, part in result.items() if isinstance(part, dict) for b, c in part.items()},
    }
    return {
        name: listed(name, span) if isinstance(span, list) else str(span)
        for name, span in flat.items()
        if not isinstance(span, dict)
    }


def listed(name: str, values: list[Any]) -> str:
    """A list of a file as `--search` spells it. UsageError where it leaves nothing to choose."""
    if len(values) < 2:
        raise UsageError("invalid_value", f"{name} = {values}: a list needs two values or more to search")
    spelled = [",".join(map(str, value)) if isinstance(value, list) else str(value) for value in values]
    return (";" if any("," in text for text in spelled) else ",").join(spelled)


# ── trials ─────────────────────────────────────────────────────────────────────────────────────


def request_of(request: FinetuneConfig, drawn: Mapping[str, str]) -> FinetuneConfig:
    """The fine-tuning of a trial."""
    settings = tuple(f"{name}={value}" for name, value in drawn.items() if name != "epochs")
    epochs = int(drawn["epochs"]) if "epochs" in drawn else request.epochs
    return replace(request, epochs=epochs, overrides=(*request.overrides, *settings))


def command(request: FinetuneConfig, out: str) -> str:
    """The one command that makes a trial's run again."""
    arguments = ["textus", "finetune", str(request.data), *as_arguments(request)]
    return shlex.join([*arguments, "--out", out])


class Study:
    """An optuna study in a folder, and what its trials are made of."""

    def __init__(self, request: FinetuneConfig, space: dict[str, SearchRange], out: Path) -> None:
        self.request, self.space, self.out = request, space, out
        self.optuna = import_optional("optuna", "tune")
        self.optuna.logging.set_verbosity(self.optuna.logging.ERROR)
        self.kept = self.optuna.create_study(
            study_name="tune", storage=f"sqlite:///{out / 'study.db'}", direction="maximize", load_if_exists=True,
            pruner=self.optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=WARMUP),
        )  # fmt: skip
        about = {
            "request": command(request, ""), "space": {name: vars(span) for name, span in space.items()},
            "data": [sha256(path) for path in (request.data, request.dev) if path and path.is_file()],
        }  # fmt: skip
        key = fingerprint(about)
        if self.kept.user_attrs.get("key", key) != key:
            raise RunError(
                "data_changed",
                f"{out} holds a search of other data, settings or ranges; use the same options, or another --out",
            )
        self.kept.set_user_attr("key", key)
        states = self.optuna.trial.TrialState
        for trial in self.kept.get_trials(deepcopy=False, states=(states.RUNNING,)):
            self.killed(trial.number)

    @cached_property
    def files(self) -> dict[str, list[LabelledFile]]:
        """The parsed files of each task, which all trials share."""
        return {name: read_files(config) for name, config in self.request.per_task().items()}

    def killed(self, number: int) -> None:
        """A process was killed in a trial: its settings are tried once more, then count as failed."""
        self.kept.tell(number, state=self.optuna.trial.TrialState.FAIL)
        last = max((trial.number for trial in self.ended() if trial.number < number), default=-1)
        before = [number for number in self.numbers("killed") if number > last]
        if len(before) + 1 < ATTEMPTS:
            self.set_aside(number, "killed")
            log_notice(f"trial {number} was interrupted; it is started again")
        else:
            log_notice(
                f"trial {number}: the process was killed {ATTEMPTS} times with these settings; they count as failed"
            )

    def set_aside(self, number: int, why: str) -> None:
        """A trial that does not count: its settings are drawn again."""
        self.kept.set_user_attr(why, [*self.numbers(why), number])

    def numbers(self, why: str) -> list[int]:
        """The trials set aside because their process was `killed`, or was `stopped` by the person."""
        numbers: list[int] = self.kept.user_attrs.get(why, [])
        return numbers

    def ended(self) -> list[Any]:
        """The trials that came to an end of their own: done, stopped early, or failed."""
        aside = {*self.numbers("killed"), *self.numbers("stopped")}
        ended = [trial for trial in self.kept.get_trials(deepcopy=False) if trial.number not in aside]
        return [trial for trial in ended if trial.state.is_finished()]

    def one(self) -> None:
        """Draw settings, fine-tune with them, keep the run if it is the best so far; a failure is reported and
        counted.
        """
        done = len(self.ended())
        self.kept.sampler = self.optuna.samplers.TPESampler(
            n_startup_trials=STARTUP, seed=derive_seed(self.request.seed, "tune", done) % 2**32
        )
        trial, started = self.kept.ask(), time.monotonic()
        drawn = {name: span.drawn(name, trial) for name, span in self.space.items()}
        request = request_of(self.request, drawn)
        trial.set_user_attr("drawn", drawn)
        folder, states = self.out / "trial", self.optuna.trial.TrialState
        shutil.rmtree(folder, ignore_errors=True)
        best = max(
            (trial.value for trial in self.ended() if trial.state == states.COMPLETE), default=-math.inf
        )
        state, value, why = states.COMPLETE, None, ""
        try:
            start(request, folder, watch=self.watcher(trial), files=self.files)
            value = -chosen_by(last_metrics(open_run(folder)))
        except self.optuna.TrialPruned as stopped:
            state, why = states.PRUNED, str(stopped)
        except (
            KeyboardInterrupt,
            TrainingInterrupted,
            DataError,
        ):  # by the person, or every trial would end so
            self.kept.tell(trial, state=states.FAIL)
            self.set_aside(trial.number, "stopped")
            raise
        except Exception as error:  # whatever settings bring about is theirs: the search continues
            state = states.FAIL
            kind = "" if isinstance(error, TextusError) else f"{type(error).__name__}: "
            why = kind + str(error).partition("\n")[0]
        trial.set_user_attr("why", why)
        trial.set_user_attr("seconds", round(time.monotonic() - started, 1))
        if value is not None and value > best:
            shutil.rmtree(self.out / "best", ignore_errors=True)
            folder.replace(self.out / "best")
        shutil.rmtree(folder, ignore_errors=True)
        self.kept.tell(trial, value if state == states.COMPLETE else None, state=state)
        shown = ", ".join(f"{name} {value}" for name, value in drawn.items())
        log_notice(f"trial {done + 1}: {f'{value:.4f}' if value is not None else why} with {shown}")

    def watcher(self, trial: Any) -> Callable[[int, dict[str, Any]], None]:
        """What fit's evaluations are shown to; it stops a trial that falls behind."""

        def watch(number: int, scores: dict[str, Any]) -> None:
            trial.report(-chosen_by(scores), number)
            if trial.should_prune():
                raise self.optuna.TrialPruned(
                    f"stopped after evaluation {number}: behind the median of the others"
                )

        return watch

    def summary(self) -> dict[str, Any]:
        """The trials as JSON values, the best, and its command; RunError where none came to its end."""
        states = self.optuna.trial.TrialState
        states_by_name = {states.COMPLETE: "done", states.PRUNED: "stopped early", states.FAIL: "failed"}
        trials = [
            {
                "trial": number, "state": states_by_name[trial.state], "figure": trial.value,
                **trial.user_attrs.get("drawn", {}),
                "seconds": trial.user_attrs.get("seconds"),
                "why": trial.user_attrs.get("why", "the process was killed") or None,
            }
            for number, trial in enumerate(self.ended(), 1)
        ]  # fmt: skip
        done = [trial for trial in self.ended() if trial.state == states.COMPLETE]
        if not done:
            raise RunError(
                "all_trials_failed", f"no trial came to its end; the last one: {trials[-1]['why']}"
            )
        best = max(done, key=lambda trial: (trial.value, -trial.number))
        request = request_of(self.request, best.user_attrs["drawn"])
        counts = {
            state: sum(trial["state"] == state for trial in trials) for state in states_by_name.values()
        }
        return {
            "out": str(self.out), "run": str(self.out / "best"), "figure": best.value,
            "settings": best.user_attrs["drawn"], "counts": counts, "command": command(request, "FOLDER"),
            "trials": trials,
        }  # fmt: skip


def tune(config: TuneConfig, out: Path) -> dict[str, Any]:
    """Search to `config.trials` trials in all; continues where `out` holds some. The best run is `out`/best, the
    result `out`/tuning.json.

    Raises UsageError for options that are wrong before a trial starts, RunError for a folder of another search or where
    every trial failed.
    """
    config.check()
    if config.trials < 1:
        raise UsageError("out_of_range", f"--trials {config.trials}: must be at least 1")
    if out.exists() and any(out.iterdir()) and not (out / "study.db").is_file():
        raise UsageError("already_exists", f"{out} exists already and holds no search; choose another --out")
    spans = search_space(config, config.search_space, config.search)
    out.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(out):
        study = Study(config.finetuning(), spans, out)
        if n := len(study.ended()):
            log_notice(f"{out} holds {n} trials; continuing to {config.trials}")
        while len(study.ended()) < config.trials:
            study.one()
        result = study.summary()
        write_json(out / "tuning.json", result)
    return result

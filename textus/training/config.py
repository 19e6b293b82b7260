"""The request of a pretraining: the options of `textus train`, checked before anything is read."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

from textus.core.errors import UsageError
from textus.core.names import unknown_name_error
from textus.core.requests import Overrides, option

PRESETS = {"1min": 60, "10min": 600, "1h": 3600, "overnight": 8 * 3600}
"""Preset → seconds on all of this machine's cores; other times are spelled alike: 45s, 3min, 2h."""


def seconds_of(preset: str) -> int:
    """The seconds of a preset, or of a time spelled like one; UsageError for other words."""
    if preset in PRESETS:
        return PRESETS[preset]
    if match := re.fullmatch(r"([1-9]\d{0,4})(s|min|h)", preset):
        return int(match[1]) * {"s": 1, "min": 60, "h": 3600}[match[2]]
    raise unknown_name_error("preset", preset, [*PRESETS, "or a time such as 3min"])


GROUPS = ("model", "train", "optim", "compute")
"""Groups of settings that `overrides` may name."""


@dataclass(frozen=True)
class PretrainConfig(Overrides):
    """The options of `textus train` and `textus.train`."""

    init_from: Path | None = option(
        None,
        "A run to continue pretraining from, on this corpus: its family, tokenizer and weights.",
        flag="--from",
        metavar="RUN",
    )
    model: str | None = option(
        None, "Model family: encoder, lstm, ngram, … (an unknown one lists all). [default: decoder]"
    )
    preset: str | None = option(
        None, "Time budget: 1min, 10min, 1h, overnight, or such as 3min; measures this machine."
    )
    depth: int | None = option(None, "Layers; width, learning rates and steps follow from it.")
    steps: int | None = option(None, "Optimiser steps; sizes come from a fixed table, nothing is measured.")
    checkpoint_every: int | None = option(None, "Steps between checkpoints.")
    compute_from: Path | None = option(
        None,
        "Reuse the measured compute settings of another run: the weights come out byte for byte.",
        metavar="RUN",
    )
    tokenizer: str | None = option(
        None, "A tokenizer's folder, or a kind to train. [default: byte-level BPE sized to the corpus]"
    )
    embeddings: Path | None = option(
        None,
        "Initialise the input embeddings from this word2vec or GloVe file, as wide as model.d_model. Tokens are matched"
        " without surrounding spaces, case-sensitive first, then lower-cased.",
        metavar="FILE",
    )
    seed: int = option(0, "The same command, seed and compute settings give the same bytes.")

    @cached_property
    def family(self) -> str:
        """The model family: that of the run to continue from, the one that is named, or the decoder."""
        if self.init_from is None:
            return self.model or "decoder"
        from textus.runs.store import open_run

        return str(open_run(self.init_from).record["family"])

    def check(self) -> None:
        """UsageError for options that are wrong or do not go together."""
        if self.preset is not None:
            seconds_of(self.preset)
        if self.preset and (self.depth or self.steps):
            raise UsageError(
                "conflicting_options",
                "--preset decides depth and steps; leave out --depth and --steps, or the preset",
            )
        for name in ("depth", "steps", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError("out_of_range", f"--{name.replace('_', '-')} {value}: must be at least 1")
        for override in self.overrides:
            if (group := override.partition(".")[0]) not in GROUPS:
                raise unknown_name_error("group of settings", group, GROUPS)
        if self.init_from:
            for name in ("model", "tokenizer", "embeddings"):
                if (value := getattr(self, name)) is not None:
                    raise UsageError(
                        "option_not_applicable",
                        f"--{name} {value}: decided by the run {self.init_from}; leave out --{name}, or --from",
                    )
        if self.init_from and self.depth:
            raise UsageError(
                "conflicting_options",
                f"--depth {self.depth}: the model of {self.init_from} is as deep as it is; leave it out",
            )
        self.check_family()

    def check_family(self) -> None:
        """UsageError for a family that is not pretrained, or that an option does not apply to."""
        from textus.models.contract import CountBased
        from textus.models.registry import CLASSIFIERS, family_names
        from textus.models.registry import family as family_of

        if self.family in CLASSIFIERS:
            raise UsageError(
                "unsupported_model",
                f"{self.family} learns classes: textus finetune DATA --model {self.family}",
            )
        if self.model and self.model not in family_names():
            raise unknown_name_error("model", self.model, family_names())
        model, config = family_of(self.family)
        if issubclass(model, CountBased) and self.init_from:
            raise UsageError(
                "unsupported_model",
                f"--from {self.init_from}: {self.family} counts, it cannot continue from there; count both"
                f" corpora as one",
            )
        if issubclass(model, CountBased):
            check_count_flags(self, {field.name for field in fields(config)})
        elif model.backward:
            for override in self.overrides:
                if override.startswith(("compute.workers=", "train.micro_batches=")):
                    raise UsageError(
                        "option_not_applicable",
                        f"--set {override}: {self.family} takes its batches whole; leave it out",
                    )


BY_ANY_TRAINING = {"batch_size", "context_length", "seed", "keep_checkpoints"}
"""Fields of `train` that a family which counts has a use for."""


def check_count_flags(request: PretrainConfig, known: set[str]) -> None:
    """UsageError for what only training by gradients knows; `known` are the fields of the family's config."""
    from textus.training.trainer import TrainSettings

    own = sorted(known - {"vocab_size", "end_id", "context_length"})
    shape = f"its own settings are {', '.join(f'model.{name}' for name in own)}"
    reading = saving = "it reads the corpus once; leave it out"
    if "passes" in known:
        reading = "how often it reads the corpus is --set model.passes=N"
        saving = "every finished pass is saved; leave it out"
    nothing = "nothing is measured or chosen for it; leave it out"
    remedies = {
        f"--steps {request.steps}": reading if request.steps else None,
        f"--depth {request.depth}": shape if request.depth else None,
        f"--checkpoint-every {request.checkpoint_every}": saving if request.checkpoint_every else None,
        f"--compute-from {request.compute_from}": nothing if request.compute_from else None,
    }
    by_gradients = {setting.name for setting in fields(TrainSettings)} - BY_ANY_TRAINING
    instead = {"steps": reading, "checkpoint_every": saving}
    for override in request.overrides:
        group, _, path = override.partition(".")
        name = path.partition("=")[0].partition(".")[0]
        if group == "compute":
            remedies[f"--set {override}"] = nothing
        elif group == "optim" or (group == "train" and name in by_gradients):
            remedies[f"--set {override}"] = instead.get(name, shape)
    for what, remedy in remedies.items():
        if remedy:
            raise UsageError(
                "option_not_applicable", f"{what}: {request.family} counts, so this does nothing; {remedy}"
            )

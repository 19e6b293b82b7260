"""How long a fine-tuning is: what `--epochs` and `--set` leave open follows from the number of rows.

Few rows need many epochs: a tagger on 1,350 sentences reaches F1 14 after 8 and 40 after 40 (docs/log.md). Of a model
that begins from a run twenty are enough (Mosbach et al. 2021), and of many rows few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from textus.core.config import apply_overrides
from textus.finetuning.config import FinetuneConfig
from textus.training.optim import OptimSettings
from textus.training.trainer import TrainSettings

RATES = {"full": 1e-4, "frozen": 1e-3, "lora": 1e-3}
"""Each method's rate, begun from a run: what is trained next to frozen weights may move faster."""
EVALUATIONS = 30
"""Most evaluations of a training; of few epochs there is one each."""
PATIENCE = 15
"""Evaluations without anything better that end a training whose length was left open: a tagger finds nothing at all
in the first quarter of its steps."""
LEAST_TO_CHOOSE_BY = 30
"""Held-out rows below which chance decides which weights look best: the last are kept, and nothing ends early."""


@dataclass(frozen=True)
class Length:
    """So many epochs, or as many as make so many steps, but no more than the most."""

    epochs: int
    steps: int
    most_epochs: int

    def of(self, steps_an_epoch: float) -> int:
        """Steps in all."""
        epochs = max(self.epochs, min(self.steps / steps_an_epoch, self.most_epochs))
        return whole(epochs * steps_an_epoch)


def whole(steps: float) -> int:
    """Steps, the last partial batch among them; what only rounding added is none."""
    return ceil(round(steps, 6))


NEW, BEGUN = Length(8, 2000, 80), Length(3, 200, 20)
"""Of a new model, and of one that begins from a run."""


def left_open(request: FinetuneConfig) -> bool:
    """Whether the length was not given."""
    return not request.epochs and not any(
        assignment.startswith("steps=") for assignment in request.overrides_for("train")
    )


def settings_of(
    request: FinetuneConfig, n_rows: Sequence[int], n_held: int, *, keeps_last: bool, batch_size: int = 32
) -> TrainSettings:
    """AdamW with a warm-up of a tenth, then linear to zero; a smaller rate and fewer epochs where there is
    something to forget. Of several tasks, whose numbers of rows these are, an epoch has as many steps as theirs
    together; `n_held` rows are held out, of all tasks. What was set has the last word.
    """
    begun, few = request.init_from is not None, n_held < LEAST_TO_CHOOSE_BY
    given = apply_overrides(TrainSettings(steps=1, batch_size=batch_size), request.overrides_for("train"))
    an_epoch = sum(n / min(given.batch_size, n) for n in n_rows)
    steps = whole(request.epochs * an_epoch) if request.epochs else (BEGUN if begun else NEW).of(an_epoch)
    every = max(whole(an_epoch), ceil(steps / EVALUATIONS))
    train = TrainSettings(
        steps=steps, batch_size=batch_size, seed=request.seed, evaluate_every=every, checkpoint_every=every,
        patience=PATIENCE if left_open(request) and not few and not keeps_last else 0,
        keep="last" if few and not given.patience else "best",
    )  # fmt: skip
    train = apply_overrides(train, request.overrides_for("train"))
    if train.keep == "last" and not given.patience:
        train = replace(train, patience=0)
    optim = OptimSettings(
        optimiser="adamw", rate=RATES[request.method] if begun else 1e-3, weight_decay=0.01, beta2=0.999,
        schedule="linear", warmup=train.steps // 10,
    )  # fmt: skip
    return replace(train, optim=apply_overrides(optim, request.overrides_for("optim")))


def in_words(train: TrainSettings, n_rows: Sequence[int], n_held: int) -> str:
    """The length of a training on so many rows, for the line that announces it."""
    an_epoch = sum(n / min(train.batch_size, n) for n in n_rows if n)
    text = (
        f"{train.steps:,} steps of {train.batch_size} rows ({train.steps / max(an_epoch, 1e-9):.3g} epochs)"
    )
    if train.patience:
        text += f", fewer if {train.patience} evaluations in a row find nothing better"
    if train.keep == "last":
        text += "; the last weights are kept"
    if train.keep == "last" and n_held < LEAST_TO_CHOOSE_BY:
        text += f": too few held-out rows ({n_held}) to choose by"
    return text

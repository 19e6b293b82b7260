"""From a request to a plan: what to build, how to compute it here, for how many steps.

One dial, `preset` (or `depth`). Everything else follows from it and from measuring the first steps on this
machine (`textus.training.autotune`); what was measured and chosen is printed, and stored with the run so that `resume`
and `--compute-from` take it as it is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from typing import Any, get_type_hints

import torch

from textus import tokenizers
from textus.core import hardware
from textus.core.config import apply_overrides, from_dict, parse_value, to_dict
from textus.core.console import command_line, format_duration, log_notice
from textus.core.errors import UsageError
from textus.data.batch import BatchSource
from textus.data.corpus import Corpus
from textus.data.loader import clamp_context_length
from textus.data.pair_loaders import make_loader
from textus.data.token_dataset import TokenDataset, TokenizedCorpus
from textus.models.contract import CountBased, LanguageModel
from textus.models.registry import build
from textus.models.registry import family as family_of
from textus.runs.record import RunRecord
from textus.runs.store import open_run
from textus.training.autotune import affordable, candidates, fast_bf16, measure, micro_batches
from textus.training.config import PretrainConfig, seconds_of
from textus.training.optim import RATES, OptimSettings
from textus.training.trainer import ComputeConfig, CpuBudget, TrainSettings

SHARE_TO_MEASURE = 0.05
"""Share of a budget after which no further way to compute a step is tried."""
SHARE_FOR_REST = 0.05
"""Share of a budget kept for evaluation, samples and saving."""
MOST_EPOCHS = 300
"""Times a preset reads a text at most."""


@dataclass(frozen=True)
class ModelSize:
    """A decoder and its batch of sequences."""

    n_layer: int
    d_model: int
    context_length: int
    batch_size: int


SIZES = [
    (1.5e13, ModelSize(3, 128, 128, 16)),
    (1.5e14, ModelSize(4, 192, 128, 32)),
    (1.5e15, ModelSize(6, 256, 256, 32)),
    (2e16, ModelSize(8, 512, 512, 64)),
    (float("inf"), ModelSize(12, 768, 512, 96)),
]
"""Up to so many floating-point operations in the budget → this size; from the runs in docs/log.md."""


@dataclass
class Plan:
    """Everything that decides a training, before its first step."""

    family: str
    model: Any
    train: TrainSettings
    compute: ComputeConfig
    measured: dict[str, Any] = field(default_factory=dict)
    clock: CpuBudget | None = None
    tokens_per_step: int = 0

    def record(self, corpus: Corpus, tokenizer: tokenizers.Tokenizer) -> RunRecord:
        """What run.json records of it."""
        return {
            "family": self.family,
            "config": to_dict(self.model),
            "settings": to_dict(self.train),
            "compute": asdict(self.compute),
            "measured": self.measured,
            "seed": self.train.seed,
            "budget": {"budget": self.clock.budget} if self.clock else None,
            "corpus": {"path": str(corpus.path.resolve()), "fingerprint": corpus.fingerprint},
            "tokenizer": {"kind": tokenizer.kind, "fingerprint": tokenizer.fingerprint},
            "command": command_line(),
            "versions": hardware.package_versions(),
            "isa": hardware.isa_name(),
        }


def plan_count(request: PretrainConfig, tokenized: TokenizedCorpus) -> Plan:
    """A count model: nothing to measure, one or a few passes."""
    request.check()
    if request.preset:
        log_notice(
            f"{request.family} counts and takes as long as that takes: --preset {request.preset} is ignored"
        )
    config_class: Any = family_of(request.family)[1]
    values = {
        "vocab_size": tokenized.tokenizer.vocab_size,
        "end_id": tokenized.tokenizer.end_id,
        **model_values(request.overrides_for("model"), config_class),
    }
    config = from_dict(config_class, values, "model.")
    train = TrainSettings(
        steps=1,
        batch_size=4,
        context_length=clamp_context_length(tokenized.dataset(), 1 << 16),
        seed=request.seed,
    )
    return Plan(
        request.family, config, apply_overrides(train, request.overrides_for("train")), ComputeConfig()
    )


def plan_neural(request: PretrainConfig, tokenized: TokenizedCorpus, started: float) -> Plan:
    """A model trained by gradients: its size from the budget or the depth, its steps from the budget or the data.

    `started`: the CPU-seconds from which the budget counts.
    """
    request.check()
    store = tokenized.dataset()
    cores = hardware.usable_cores()
    budget = seconds_of(request.preset) * cores if request.preset else None
    clock = CpuBudget(float(budget), started=started) if budget else None
    if request.preset and budget:
        log_notice(
            f"--preset {request.preset}: {format_duration(budget)} of CPU time, which is"
            f" {format_duration(budget / cores)} on {cores} free core(s) and longer where other programs use them"
        )
    size = size_for(request, budget)
    config: Any
    if request.init_from:
        config, begun = begun_from(request, size)
    else:
        config, begun = new_config(request, size, tokenized.tokenizer, store, budget), TrainSettings(steps=1)
    with torch.device("meta"):
        outline = build(request.family, config)
    longest = begun.context_length if request.init_from else config.context_length or size.context_length
    train = TrainSettings(
        steps=request.steps or 1,
        batch_size=rows_for(outline, size, store),
        context_length=clamp_context_length(store, longest),
        seed=request.seed,
        optim=begun.optim,
    )
    train = apply_overrides(
        train,
        [
            *request.overrides_for("train"),
            *(f"optim.{assignment}" for assignment in request.overrides_for("optim")),
        ],
    )
    train = replace(train, optim=replace(train.optim, rate=train.optim.own_rate))
    batches = make_loader(outline, tokenized, **sizes_of(outline, train))
    compute, measured = choose_compute(request, config, train, batches)
    steps_given = [
        assignment for assignment in request.overrides_for("train") if assignment.startswith("steps=")
    ]
    if not request.steps and not steps_given:
        most = None
        if clock:
            most = affordable(outline, measured, (clock.budget - clock.used()) * (1 - SHARE_FOR_REST))
        steps = steps_for(request.family, config, batches.tokens_per_step, store.n_targets, most)
        train = replace(train, steps=steps)
    train = with_intervals(train, request, compute.workers, batches.tokens_per_step)
    return Plan(request.family, config, train, compute, measured, clock, batches.tokens_per_step)


def new_config(
    request: PretrainConfig,
    size: ModelSize,
    tokenizer: tokenizers.Tokenizer,
    store: TokenDataset,
    budget: float | None,
) -> Any:
    """The config of a new model: its size, its dropout by how often the text is read, and what was set."""
    model_class, config_class = family_of(request.family)
    known = {field.name for field in fields(config_class)}
    derived = {
        "vocab_size": tokenizer.vocab_size,
        "end_id": tokenizer.end_id,
        "mask_id": tokenizer.special.get("<|mask|>", tokenizer.pad_id),
        **model_class.config_for_size(size.n_layer, size.d_model, size.context_length),
    }
    values = {name: value for name, value in derived.items() if name in known}
    values |= model_values(request.overrides_for("model"), config_class)
    wanted = int(values.get("context_length") or size.context_length)
    if "context_length" in known:
        values["context_length"] = clamp_context_length(store, wanted)
    if clamp_context_length(store, wanted) < wanted:
        log_notice(
            f"the corpus has {store.n_targets} tokens, fewer than a context of {wanted}:"
            f" the context is {store.n_targets}"
        )
    if "dropout" in known - set(values) and budget:
        values["dropout"] = dropout_for(epochs(size, operations(budget), store))
    return from_dict(config_class, values, "model.")


def begun_from(request: PretrainConfig, size: ModelSize) -> tuple[Any, TrainSettings]:
    """The config of the run that is continued, with what was set; and how to train it: as it was, at a third of its
    rates, or where it came from elsewhere by AdamW at 1e-4, on windows no longer than those of `size`.
    """
    assert request.init_from is not None
    record = open_run(request.init_from).record
    config_class: Any = family_of(request.family)[1]
    config: Any = from_dict(
        config_class, record["config"] | model_values(request.overrides_for("model"), config_class), "model."
    )
    if record.get("imported"):
        longest = min(config.context_length or size.context_length, size.context_length)
        return config, TrainSettings(1, context_length=longest, optim=OptimSettings("adamw", 1e-4))
    before = from_dict(TrainSettings, record["settings"], "train.")
    optim = apply_overrides(before.optim, request.overrides_for("optim"))
    rate = before.optim.own_rate if optim.optimiser == before.optim.optimiser else RATES[optim.optimiser]
    optim = replace(before.optim, rate=rate / 3, other_rate=before.optim.other_rate / 3)
    return config, replace(before, optim=optim)


def rows_for(model: LanguageModel, size: ModelSize, store: TokenDataset) -> int:
    """Rows a step: as many windows as the size has, or as many documents as hold about as many tokens."""
    if not (model.capabilities.needs_source or model.capabilities.one_document_per_row):
        return size.batch_size
    tokens = size.batch_size * size.context_length
    row = min(size.context_length, store.n_targets / store.n_documents) * (
        2 if model.capabilities.needs_source else 1
    )
    return max(4, round(tokens / row / 4) * 4)


def model_values(assignments: list[str], config_class: Any) -> dict[str, Any]:
    """The model's fields as the person set them, unparsed strings, except None and tuple items."""
    kinds, values = get_type_hints(config_class), dict[str, Any]()
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise UsageError(
                "invalid_value", f"--set model.{assignment} has no '='; write it as model.n_layer=2"
            )
        values[name] = parse_value(kinds.get(name), value)
    return values


def size_for(request: PretrainConfig, budget: float | None) -> ModelSize:
    """From the budget's operations, the depth requested, or a small default."""
    if request.depth:
        width = 64 * request.depth
        return ModelSize(request.depth, width, 256, 32)
    if budget is None:
        return ModelSize(4, 192, 128, 32)
    return next(size for most, size in SIZES if operations(budget) <= most)


@cache
def operations(budget: float) -> float:
    """Floating-point operations that so many CPU-seconds of training do here: seven tenths of the products' rate."""
    dtype = torch.bfloat16 if fast_bf16() else torch.float32
    return 0.7 * budget * hardware.matmul_rate(dtype)


def epochs(size: ModelSize, budget: float, store: TokenDataset) -> float:
    """About how often a budget of operations reads the text: six a weight and token, forward and back."""
    return budget / (6 * 12 * size.n_layer * size.d_model**2) / store.n_targets


def dropout_for(epochs: float) -> float:
    """Without dropout a text read more than a few times is memorised (docs/log.md)."""
    return 0.0 if epochs < 6 else 0.1 if epochs < 30 else 0.2


def choose_compute(
    request: PretrainConfig, config: Any, train: TrainSettings, batches: BatchSource
) -> tuple[ComputeConfig, dict[str, Any]]:
    """The run's choices: another run's, measured (presets), or a fixed rule; `--set compute.…` has the last
    word.
    """
    measured: dict[str, Any] = {}
    if request.compute_from:
        record = open_run(request.compute_from).record
        chosen = from_dict(ComputeConfig, record["compute"], "compute.")
    elif request.preset:
        compiled = seconds_of(request.preset) >= 600
        seconds = seconds_of(request.preset) * hardware.usable_cores()
        chosen, measured = measure(
            request.family, config, train, batches, compiled=compiled, most=SHARE_TO_MEASURE * seconds
        )
    else:
        with torch.device("meta"):
            outline = build(request.family, config)
        chosen = candidates(outline, compiled=False)[0]
    return apply_overrides(chosen, request.overrides_for("compute")), measured


def steps_for(family: str, config: Any, tokens_per_step: int, n_targets: int, most: int | None) -> int:
    """As many as the clock affords (`most`); without one, twenty tokens a weight (Hoffmann et al. 2022), at most forty
    epochs.
    """
    if most is not None:
        steps = max(20, most)
        if most < 20:
            log_notice(
                f"fit into the time {most} steps only: 20 are trained, which takes longer;"
                " ask for more (--preset 10min, 1h), or take a smaller model"
            )
        useful = max(200, MOST_EPOCHS * n_targets // tokens_per_step)
        if steps > useful:
            log_notice(
                f"{useful} steps read this small text {MOST_EPOCHS} times; more would only memorise it"
            )
        return min(steps, useful)
    with torch.device("meta"):
        weights = sum(p.numel() for p in build(family, config).parameters())
    tokens = min(20 * weights, 40 * n_targets)
    return max(20, tokens // tokens_per_step)


def with_intervals(
    train: TrainSettings, request: PretrainConfig, workers: int, tokens_per_step: int
) -> TrainSettings:
    """Micro-batches, and how often to log, evaluate and save, where they were not given."""
    given = {assignment.partition("=")[0] for assignment in request.overrides_for("train")}
    eighth = max(1, train.steps // 8)
    derived = {
        "micro_batches": micro_batches(tokens_per_step, train.batch_size, workers),
        "log_every": max(1, min(10, train.steps // 50)),
        "evaluate_every": request.checkpoint_every or eighth,
        "checkpoint_every": request.checkpoint_every or eighth,
    }
    return replace(train, **{name: value for name, value in derived.items() if name not in given})  # type: ignore[arg-type]


def sizes_of(model: LanguageModel, train: TrainSettings) -> dict[str, Any]:
    """The sizes of a training's loader."""
    return {
        "batch_size": train.batch_size,
        "context_length": train.context_length,
        "seed": train.seed,
        "overlap": min(model.capabilities.overlap, train.context_length - 1),
        "shuffle": not isinstance(model, CountBased),
    }

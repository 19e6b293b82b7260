"""From a time budget to a training: what to build, how to compute it here, for how many steps.

One dial, `preset` (or `depth`). Everything else follows from it and from measuring the first steps on this
machine; what was measured and chosen is printed, and stored with the run so that `resume` and `--choices`
take it as it is.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from textus import hardware
from textus import tokenizer as tokenizers
from textus.allocation import keep_memory
from textus.checkpoint import RunFolder, create_run, open_run, read_tokenizer, verify
from textus.common import RunError, UsageError, claim, counter_seed, cpu_seconds, notice, unknown
from textus.config import assign, from_dict, to_dict
from textus.corpus import Corpus, open_corpus
from textus.engine import Engine
from textus.generation import Sampling, beginning
from textus.loader import Batch, Batches, Loader, TokenStore, fitting_context, tokenize
from textus.models import LanguageModel, build
from textus.models import family as family_of
from textus.models.pretrained import lost
from textus.optim import make_optimisers
from textus.pairs import loader_for, source_of
from textus.training import Backward, Choices, Clock, Evaluate, Gradients, TrainSettings, fit, validation_loss

PRESETS = {"1min": 60, "10min": 600, "1h": 3600, "overnight": 8 * 3600}
"""Preset → seconds on all of this machine's cores; other times are spelled alike: 45s, 3min, 2h."""


def seconds_of(preset: str) -> int:
    """The seconds of a preset, or of a time spelled like one; UsageError for other words."""
    if preset in PRESETS:
        return PRESETS[preset]
    if found := re.fullmatch(r"([1-9]\d{0,4})(s|min|h)", preset):
        return int(found[1]) * {"s": 1, "min": 60, "h": 3600}[found[2]]
    raise unknown("preset", preset, PRESETS)


SHARE_FOR_REST = 0.05
"""Share of a budget kept for evaluation, samples and saving."""
MOST_EPOCHS = 300
"""Times a preset reads a text at most."""


@dataclass(frozen=True)
class Size:
    """A decoder and its batch of sequences."""

    n_layer: int
    d_model: int
    context_length: int
    batch_size: int


SIZES = [
    (1.5e13, Size(3, 128, 128, 16)),
    (1.5e14, Size(4, 192, 128, 32)),
    (1.5e15, Size(6, 256, 256, 32)),
    (2e16, Size(8, 512, 512, 64)),
    (float("inf"), Size(12, 768, 512, 96)),
]
"""Up to so many floating-point operations in the budget → this size; from the runs in docs/log.md."""


@dataclass
class Plan:
    """Everything that decides a training, before its first step."""

    family: str
    model: Any
    train: TrainSettings
    choices: Choices
    measured: dict[str, Any] = field(default_factory=dict)
    clock: Clock | None = None
    tokens_a_step: int = 0

    def record(self, corpus: Corpus, tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
        """What run.json says of it."""
        return {
            "family": self.family,
            "config": to_dict(self.model),
            "settings": to_dict(self.train),
            "choices": asdict(self.choices),
            "measured": self.measured,
            "seed": self.train.seed,
            "budget": {"budget": self.clock.budget} if self.clock else None,
            "corpus": {"path": str(corpus.path.resolve()), "fingerprint": corpus.fingerprint},
            "tokenizer": {"kind": tokenizer.kind, "fingerprint": tokenizer.fingerprint},
            "command": " ".join(["textus", *sys.argv[1:]]),
            "versions": hardware.versions(),
            "isa": hardware.isa_name(),
        }


@dataclass(frozen=True)
class Wish:
    """What the person asked for."""

    family: str
    preset: str | None = None
    depth: int | None = None
    steps: int | None = None
    seed: int = 0
    assignments: tuple[str, ...] = ()
    checkpoint_every: int | None = None
    choices: Path | None = None

    def check(self) -> None:
        """Words that are wrong or do not go together."""
        if self.preset is not None:
            seconds_of(self.preset)
        if self.preset and (self.depth or self.steps):
            raise UsageError("--preset decides depth and steps; leave out --depth and --steps, or the preset")
        for name in ("depth", "steps", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} {value}: must be at least 1")
        for each in self.assignments:
            if each.partition(".")[0] not in ("model", "train", "optim", "choices"):
                raise unknown(
                    "group of settings", each.partition(".")[0], ["model", "train", "optim", "choices"]
                )

    def of(self, group: str) -> list[str]:
        """The assignments of one group, without its name."""
        return [each.partition(".")[2] for each in self.assignments if each.startswith(f"{group}.")]


def plan_count(wish: Wish, tokenizer: tokenizers.Tokenizer, store: TokenStore) -> Plan:
    """A count model: nothing to measure, one or a few passes."""
    config_class: Any = family_of(wish.family)[1]
    values = {"vocab_size": tokenizer.vocab_size, "end_id": tokenizer.end_id, **model_values(wish)}
    config = from_dict(config_class, values, "model.")
    train = TrainSettings(
        steps=1, batch_size=4, context_length=fitting_context(store, 1 << 16), seed=wish.seed
    )
    return Plan(wish.family, config, assign(train, wish.of("train")), Choices())


Feed = Callable[[LanguageModel, TrainSettings], Batches]
"""The batches a model is trained on."""


def plan_neural(
    wish: Wish, tokenizer: tokenizers.Tokenizer, store: TokenStore, started: float, feed: Feed | None = None
) -> Plan:
    """A model trained by gradients: its size from the budget or the depth, its steps from the budget or the
    data. Without `feed` it reads windows of the store.
    """
    wish.check()
    cores = hardware.usable_cores()
    budget = seconds_of(wish.preset) * cores if wish.preset else None
    clock = Clock(float(budget), started=started) if budget else None
    size = size_for(wish, budget)
    model_class, config_class = family_of(wish.family)
    known = {each.name for each in fields(config_class)}
    derived = {
        "vocab_size": tokenizer.vocab_size,
        "end_id": tokenizer.end_id,
        "mask_id": tokenizer.special.get("<|mask|>", tokenizer.pad_id),
        **model_class.sized(size.n_layer, size.d_model, size.context_length),
    }
    values = {name: value for name, value in derived.items() if name in known} | model_values(wish)
    wanted = int(values.get("context_length") or size.context_length)
    if "context_length" in known:
        values["context_length"] = fitting_context(store, wanted)
    if fitting_context(store, wanted) < wanted:
        notice(
            f"the corpus has {store.n_targets} tokens, fewer than a context of {wanted}:"
            f" the context is {store.n_targets}"
        )
    if "dropout" in known - set(values) and budget:
        values["dropout"] = dropout_for(epochs(size, operations(budget), store))
    config: Any = from_dict(config_class, values, "model.")
    with torch.device("meta"):
        outline = build(wish.family, config)
    train = TrainSettings(
        steps=wish.steps or 1,
        batch_size=rows_for(outline, size, store),
        context_length=config.context_length or fitting_context(store, wanted),
        seed=wish.seed,
    )
    train = assign(train, [*wish.of("train"), *(f"optim.{each}" for each in wish.of("optim"))])
    batches = feed(outline, train) if feed else Loader(store, **sizes_of(outline, train))
    choices, measured = choose(wish, config, train, batches)
    said = [each for each in wish.of("train") if each.startswith("steps=")]
    if not wish.steps and not said:
        affordable = None
        if clock and (per_step := measured.get("cpu_seconds_per_step")):
            affordable = int((clock.budget - clock.used()) * (1 - SHARE_FOR_REST) / per_step)
        steps = steps_for(wish.family, config, batches.tokens_a_step, store.n_targets, affordable)
        train = replace(train, steps=steps)
    train = with_intervals(train, wish, choices.workers, batches.tokens_a_step)
    return Plan(wish.family, config, train, choices, measured, clock, batches.tokens_a_step)


def rows_for(model: LanguageModel, size: Size, store: TokenStore) -> int:
    """Rows a step: as many windows as the size says, or as many documents as hold about as many tokens."""
    if not (model.needs_source or model.whole_documents):
        return size.batch_size
    tokens = size.batch_size * size.context_length
    row = min(size.context_length, store.n_targets / store.n_documents) * (2 if model.needs_source else 1)
    return max(4, round(tokens / row / 4) * 4)


def model_values(wish: Wish) -> dict[str, Any]:
    """The model's fields as the person set them, still words; None for `none`."""
    found: dict[str, Any] = {}
    for each in wish.of("model"):
        name, equals, value = each.partition("=")
        if not equals:
            raise UsageError(f"--set model.{each} has no '='; write it as model.n_layer=2")
        found[name] = None if value.lower() == "none" else value
    return found


def size_for(wish: Wish, budget: float | None) -> Size:
    """From the budget's operations, the depth asked for, or a small default."""
    if wish.depth:
        width = 64 * wish.depth
        return Size(wish.depth, width, 256, 32)
    if budget is None:
        return Size(4, 192, 128, 32)
    return next(size for most, size in SIZES if operations(budget) <= most)


@cache
def operations(budget: float) -> float:
    """Floating-point operations that so many CPU-seconds of training do here: seven tenths of the products' rate."""
    dtype = torch.bfloat16 if fast_bf16() else torch.float32
    return 0.7 * budget * hardware.matmul_rate(dtype)


def epochs(size: Size, budget: float, store: TokenStore) -> float:
    """About how often a budget of operations reads the text: six a weight and token, forward and back."""
    return budget / (6 * 12 * size.n_layer * size.d_model**2) / store.n_targets


def dropout_for(epochs: float) -> float:
    """Without dropout a text read more than a few times is memorised (docs/log.md)."""
    return 0.0 if epochs < 6 else 0.1 if epochs < 30 else 0.2


def fast_bf16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware (or there is a GPU, which does)."""
    return bool({"avx512_bf16", "amx_bf16"} & set(hardware.isa_flags())) or hardware.gpu_name() is not None


# ── choosing how to compute ────────────────────────────────────────────────────────────────────


def choose(wish: Wish, config: Any, train: TrainSettings, batches: Batches) -> tuple[Choices, dict[str, Any]]:
    """The run's choices: another run's, measured (presets), or a fixed rule; `--set choices.…` has the last
    word.
    """
    measured: dict[str, Any] = {}
    if wish.choices:
        record = open_run(wish.choices).record
        chosen = from_dict(Choices, record["choices"], "choices.")
    elif wish.preset:
        chosen, measured = measure(wish, config, train, batches)
    else:
        chosen = candidates(build(wish.family, config), compiled=False)[0]
    return assign(chosen, wish.of("choices")), measured


def candidates(model: LanguageModel, *, compiled: bool) -> list[Choices]:
    """Ways this machine could compute this model, the likeliest first."""
    why_not = getattr(model, "why_not_native", lambda: "this family has no kernels")()
    precision = "bfloat16" if fast_bf16() and "bfloat16" in model.precisions else "float32"
    compiled = compiled and "compiled" in model.step_kinds
    if hardware.gpu_name() is not None:
        return [
            Choices(precision, "fused", step, "cuda")
            for step in (("compiled", "eager") if compiled else ("eager",))
        ]
    found = []
    if fast_bf16() and why_not is None:
        ways: list[str] = model.native_attentions()  # type: ignore[operator]
        found += [Choices("bfloat16", way, "native") for way in ways]
    elif compiled and hardware.compiler():
        found.append(Choices(precision, "plain", "compiled"))
    found.append(Choices(precision, "plain", "eager"))
    if precision != "float32":
        found.append(Choices("float32", "plain", "eager"))
    if why_not and "compiler" in why_not:
        notice(f"{why_not}: the eager step is taken")
    return found


def measure(
    wish: Wish, config: Any, train: TrainSettings, batches: Batches
) -> tuple[Choices, dict[str, Any]]:
    """Time a step of each candidate and take the fastest; then see whether a second worker pays."""
    batch = typical(batches)
    times: dict[str, float] = {}
    best, fastest = None, float("inf")
    model = build(wish.family, config)
    for choice in candidates(model, compiled=seconds_of(wish.preset or "1min") >= 600):
        cpu, _ = time_step(wish, config, train, batch, choice)
        times[choice.name] = round(cpu, 4)
        if cpu < fastest:
            best, fastest = choice, cpu
    assert best is not None
    measured = {"cpu_seconds_by_choice": times, "cpu_seconds_per_step": round(fastest, 4)}
    cores = hardware.usable_cores()
    # else dropout is drawn from one stream, which workers would race for
    shareable = best.step == "native" or model.counted_dropout or not getattr(config, "dropout", 0.0)
    if cores > 1 and best.device == "cpu" and shareable:
        _, alone = time_step(wish, config, train, batch, best)
        cpu, together = time_step(wish, config, train, batch, replace(best, workers=cores))
        measured["seconds_by_workers"] = {"1": round(alone, 4), str(cores): round(together, 4)}
        if together < 0.8 * alone:
            best = replace(best, workers=cores)
            measured["cpu_seconds_per_step"] = round(cpu, 4)
    notice(f"measured: CPU-seconds a step {times}; taking {best.name}, {best.workers} worker(s)")
    return best, measured


def typical(batches: Batches) -> Batch:
    """Of the first batches, the one of middle size: whole documents make some small and some large."""
    first = [batches.batch(number) for number in range(min(15, batches.n_batches))]
    return sorted(first, key=lambda batch: batch.ids.numel())[len(first) // 2]


def time_step(
    wish: Wish, config: Any, train: TrainSettings, batch: Batch, choice: Choices
) -> tuple[float, float]:
    """CPU-seconds and seconds of one whole step on a batch: the least of two, after one to warm."""
    torch.manual_seed(counter_seed(wish.seed, "measure"))
    model = build(wish.family, config).to(choice.device)
    model.compute_with(choice.precision, choice.attention, choice.step)
    gradients = Gradients(model, choice.workers)
    optimisers = make_optimisers(model.parameter_groups(), train.optim)
    cpu, wall = [], []
    for _ in range(3):
        cpu_start, start = time.process_time(), time.monotonic()
        gradients.compute(batch, micro_batches(batch.ids.numel(), len(batch.ids), choice.workers))
        for optimiser in optimisers.values():
            optimiser.step()
        cpu.append(time.process_time() - cpu_start)
        wall.append(time.monotonic() - start)
    return min(cpu[1:]), min(wall[1:])


TOKENS_AT_ONCE = 4096
"""Positions in a micro-batch: activations that stay near the processor."""


def micro_batches(n_tokens: int, n_rows: int, workers: int = 1) -> int:
    """Pieces for a batch: about `TOKENS_AT_ONCE` each, the same number for every worker."""
    pieces = max(1, round(n_tokens / TOKENS_AT_ONCE / workers)) * workers
    return min(pieces, n_rows)


def steps_for(family: str, config: Any, tokens_a_step: int, n_targets: int, affordable: int | None) -> int:
    """As many as the clock affords; without one, twenty tokens a weight (Hoffmann et al. 2022), at most forty
    epochs.
    """
    if affordable is not None:
        steps = max(20, affordable)
        most = max(200, MOST_EPOCHS * n_targets // tokens_a_step)
        if steps > most:
            notice(f"{most} steps read this small text {MOST_EPOCHS} times; more would only memorise it")
        return min(steps, most)
    weights = sum(p.numel() for p in build(family, config).parameters())
    tokens = min(20 * weights, 40 * n_targets)
    return max(20, tokens // tokens_a_step)


def with_intervals(train: TrainSettings, wish: Wish, workers: int, tokens_a_step: int) -> TrainSettings:
    """Micro-batches, and how often to log, evaluate and save, where the person did not say."""
    said = {each.partition("=")[0] for each in wish.of("train")}
    eighth = max(1, train.steps // 8)
    derived = {
        "micro_batches": micro_batches(tokens_a_step, train.batch_size, workers),
        "log_every": max(1, min(10, train.steps // 50)),
        "evaluate_every": wish.checkpoint_every or eighth,
        "checkpoint_every": wish.checkpoint_every or eighth,
    }
    return replace(train, **{name: value for name, value in derived.items() if name not in said})  # type: ignore[arg-type]


# ── training a plan ────────────────────────────────────────────────────────────────────────────


def start(
    corpus_path: Path,
    *,
    family: str = "decoder",
    tokenizer: Path | None,
    out: Path,
    preset: str | None = None,
    depth: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    assignments: list[str] | None = None,
    checkpoint_every: int | None = None,
    choices: Path | None = None,
    force: bool = False,
) -> Path:
    """Train a new run from a corpus to its end; returns `out`.

    Raises UsageError for words that are wrong before anything is written, DataError for a corpus that cannot
    be used.
    """
    one_thread()
    started = cpu_seconds()
    wish = Wish(family, preset, depth, steps, seed, tuple(assignments or ()), checkpoint_every, choices)
    wish.check()
    corpus = open_corpus(corpus_path)
    if tokenizer is None:
        raise UsageError("no tokenizer; give --tokenizer T, made by `textus tokenizer train`")
    read = tokenizers.load(tokenizer)
    store = tokenize(corpus, read, "train")
    if family_of(family)[0].counts:
        plan = plan_count(wish, read, store)
    else:
        plan = plan_neural(wish, read, store, started, partial(feed, corpus=corpus, tokenizer=read))
    claim(out, force=force)
    record = plan.record(corpus, read)
    ready = prepare(
        record, corpus, read
    )  # words that are wrong are found before anything is written or replaced
    run = create_run(out, record, read)
    _tell(plan, store)
    return _train(run, ready, plan.clock)


def one_thread() -> None:
    """Work as all training here does: memory kept, one thread a worker: why, docs/log.md tells."""
    keep_memory()
    torch.set_num_threads(1)


def _tell(plan: Plan, store: TokenStore) -> None:
    train, choices = plan.train, plan.choices
    weights = sum(p.numel() for p in build(plan.family, plan.model).parameters())
    if not weights:
        notice(f"{plan.family}: counting {store.n_targets:,} tokens")
        return
    tokens = train.steps * plan.tokens_a_step
    notice(
        f"{plan.family}: {weights:,} weights; {train.steps} steps of {train.batch_size} rows and {plan.tokens_a_step:,}"
        f" tokens, {tokens / max(1, store.n_targets):.1f} times the corpus; {choices.step} {choices.precision},"
        f" {choices.workers} worker(s)"
    )
    if tokens > 100 * store.n_targets:
        notice(
            "each text will be read over a hundred times: expect it to be memorised rather than learnt from"
        )
    if train.steps <= (warm_up := getattr(plan.model, "warmup_steps", 0)):
        notice(f"the critic never plays: the warm-up alone has {warm_up} steps (--set model.warmup_steps=…)")
    if why := lost(plan.family, plan.model):
        notice(f"`export --to hf` of this run will not be possible: {why}")


def resume(path: Path) -> Path:
    """Go on with a run from its newest good checkpoint, or from its seed where it has none; a finished one
    says so.

    Raises RunError where the corpus is gone or is another than the run was started on.
    """
    run = open_run(path)
    if run.finished:
        verify(path)
        notice(f"{path} is finished ({run.record['steps']} steps); nothing to resume")
        return path
    kept = run.record["corpus"]
    corpus = open_corpus(Path(kept["path"]))
    if corpus.fingerprint != kept["fingerprint"]:
        raise RunError(
            f"{kept['path']} is another corpus than {path} was started on (fingerprint {corpus.fingerprint}, was"
            f" {kept['fingerprint']}); bring the old one back, or train anew with --out elsewhere"
        )
    budget = run.record.get("budget")
    ready = prepare(run.record, corpus, read_tokenizer(run))
    return _train(run, ready, Clock(**budget) if budget else None)


@dataclass
class Ready:
    """A training that can begin: what `fit` takes, but for the run."""

    model: LanguageModel
    batches: Batches
    settings: TrainSettings
    backward: Backward
    evaluate: Evaluate | None


def prepare(record: dict[str, Any], corpus: Corpus, tokenizer: tokenizers.Tokenizer) -> Ready:
    """All that a run's record decides, built; UsageError for what does not go together."""
    one_thread()
    train = from_dict(TrainSettings, record["settings"], "train.")
    choices = from_dict(Choices, record["choices"], "choices.")
    torch.manual_seed(counter_seed(train.seed, "weights"))
    model = build(record["family"], record["config"])
    if not model.counts:
        model.to(choices.device)
        model.compute_with(choices.precision, choices.attention, choices.step)
    vocabulary = model.config.vocab_size
    if vocabulary < tokenizer.vocab_size:
        raise UsageError(
            f"model.vocab_size={vocabulary}: the tokenizer has {tokenizer.vocab_size} ids; leave the setting out"
        )
    context = model.config.context_length
    if context is not None and train.context_length > context and not model.counts:
        raise UsageError(
            f"train.context_length={train.context_length} is longer than the model's context of {context}; set"
            " model.context_length too"
        )
    backward = type(model).backward or Gradients(model, choices.workers).of_all(train.micro_batches)
    batches = feed(model, train, corpus, tokenizer)
    return Ready(model, batches, train, backward, _evaluation(model, corpus, tokenizer, train))


def _train(run: RunFolder, ready: Ready, clock: Clock | None) -> Path:
    fit(
        ready.model, ready.batches, settings=ready.settings, run=run, clock=clock, backward=ready.backward,
        evaluate=ready.evaluate,
    )  # fmt: skip
    return run.path


def feed(
    model: LanguageModel, train: TrainSettings, corpus: Corpus, tokenizer: tokenizers.Tokenizer
) -> Batches:
    """The batches of a corpus that a model trains on; UsageError for one that it cannot read."""
    return loader_for(model, corpus, tokenizer, **sizes_of(model, train))


def sizes_of(model: LanguageModel, train: TrainSettings) -> dict[str, Any]:
    """The sizes of a training's loader."""
    return {
        "batch_size": train.batch_size,
        "context_length": train.context_length,
        "seed": train.seed,
        "overlap": min(model.overlap, train.context_length - 1),
        "shuffle": not model.counts,
    }


VALIDATION_TOKENS = 1 << 14
"""Tokens of the validation split looked at on the way; all of them are `textus evaluate`'s work."""


LEAST_TO_CHOOSE_BY = 256
"""Tokens of validation text below which chance decides which weights look best."""


def _evaluation(
    model: LanguageModel, corpus: Corpus, tokenizer: tokenizers.Tokenizer, train: TrainSettings
) -> Evaluate | None:
    """Validation nats per token on evenly spread windows, and a sample; None where there is too little
    validation text.
    """
    if not corpus.n_documents("validation"):
        notice("the corpus has no validation text: the last weights are kept, and memorising goes unseen")
        return None
    store = tokenize(corpus, tokenizer, "validation")
    if store.n_targets < LEAST_TO_CHOOSE_BY:
        notice(
            f"{store.n_targets} tokens of validation text are too few to choose weights by: the last are kept"
        )
        return None
    size = min(train.context_length, store.n_targets)
    loader = loader_for(
        model, corpus, tokenizer, "validation", batch_size=8, context_length=size, shuffle=False
    )
    spread = max(1, store.n_targets // VALIDATION_TOKENS)
    batches = [loader.batch(number) for number in range(0, loader.n_batches, spread)]
    source = source_of(batches[len(batches) // 2], tokenizer.end_id)
    first = beginning(model, tokenizer.end_id)
    sampling = Sampling(temperature=0.8, max_tokens=40, seed=train.seed)

    def evaluate(model: LanguageModel) -> dict[str, Any]:
        found: dict[str, Any] = {"validation": round(validation_loss(model, batches), 6)}
        found |= model.findings(batches)
        if not model.can_generate:
            return found
        engine = Engine(model, end_id=tokenizer.end_id)
        events = engine.stream([first], [sampling], None if source is None else [source])
        sample = tokenizer.decode([event.id for event in events if event.id is not None])
        return {**found, "sample": sample}

    return evaluate

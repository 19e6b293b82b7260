"""Pretraining: a run is started from a request, trained to its end, and continued after an interruption."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from textus import tokenizers
from textus.core.config import from_dict
from textus.core.console import cpu_seconds, log_notice
from textus.core.errors import RunError, UsageError
from textus.core.io import check_output_dir, sha256
from textus.core.memory import keep_freed_memory
from textus.core.requests import request_values
from textus.core.rng import derive_seed
from textus.data.batch import BatchSource
from textus.data.corpus import Corpus, open_corpus
from textus.data.pair_loaders import first_source, make_loader, no_pairs_message
from textus.data.token_dataset import TokenizedCorpus
from textus.generation.engine import Engine
from textus.generation.params import SamplingParams
from textus.generation.sampling import bos_ids
from textus.interop.registry import export_blocker
from textus.models import word_vectors as vectors
from textus.models.contract import CountBased, LanguageModel
from textus.models.registry import build
from textus.models.registry import family as family_of
from textus.runs.record import RunRecord
from textus.runs.store import (
    RunFolder,
    create_run,
    load,
    open_run,
    read_embeddings,
    read_log,
    read_tokenizer,
    verify,
)
from textus.training.config import PretrainConfig
from textus.training.gradients import Backward, GradientAccumulator
from textus.training.planner import Plan, plan_count, plan_neural, sizes_of
from textus.training.trainer import (
    ComputeConfig,
    CpuBudget,
    Evaluate,
    TrainSettings,
    check_patience,
    fit,
    validation_loss,
)


def train(
    corpus_path: Path, out: Path, config: PretrainConfig, *, tokenizer: Path, force: bool = False
) -> Path:
    """Train a new run from a corpus to its end; returns `out`. `tokenizer` is the folder of the tokenizer to train
    with, whatever kind `config` names.

    Raises UsageError for options that are wrong before anything is written, DataError for a corpus that cannot be used.
    """
    set_up_process()
    started = cpu_seconds()
    config.check()
    corpus = open_corpus(corpus_path)
    read = tokenizers.load(tokenizer)
    known = word_vectors(config.embeddings, config.family) if config.embeddings else None
    tokenized = TokenizedCorpus(corpus, read)
    counts = issubclass(family_of(config.family)[0], CountBased)
    plan = plan_count(config, tokenized) if counts else plan_neural(config, tokenized, started)
    check_end(plan.model, read)
    check_output_dir(out, force=force)
    record = plan.record(corpus, read) | {"request": request_values(config)}
    if parent := config.init_from:
        record |= {"parent": str(parent.resolve()), "parent_weights": weights_sha256(parent)}
    # options that are wrong are refused before anything is written or replaced
    ready = prepare(record, tokenized)
    begun = None
    if (embeddings := config.embeddings) and known:
        record["embeddings"] = {"path": str(embeddings.resolve()), "sha256": sha256(embeddings)}
        record["embeddings"] |= init_embeddings(ready.model, known, read, embeddings)
        begun = vectors.input_embedding(ready.model).weight
    run = create_run(out, record, read, begun)
    report_plan(plan, tokenized, ready.model)
    return train_to_end(run, ready, plan.clock)


def weights_sha256(parent: Path) -> str:
    """SHA-256 of a finished run's weights; RunError for one that is not finished."""
    return verify(parent)["model.safetensors"]


def init_from_parent(model: LanguageModel, record: RunRecord) -> None:
    """Give a model the weights of the run its record continues from. Raises RunError where that run is gone or has
    other weights now, UsageError where they do not fit.
    """
    parent = Path(record["parent"])
    check_same_weights(parent, record["parent_weights"])
    copy_weights(model, load(parent)[0], parent)


def check_same_weights(parent: Path, expected: str) -> None:
    """RunError where a run that another one began with has other weights by now."""
    if (now := weights_sha256(parent)) != expected:
        raise RunError(
            "data_changed",
            f"{parent} has other weights (SHA-256 {now[:12]}…) than this run began with"
            f" ({expected[:12]}…); bring the old ones back, or train anew with --out elsewhere",
        )


def copy_weights(model: LanguageModel, other: LanguageModel, parent: Path) -> None:
    """Give a model the weights of another, which was read from `parent`; UsageError where they do not fit."""
    weights, own = other.state_dict(), model.state_dict()
    for name in sorted(weights.keys() | own.keys()):
        shapes = [tuple(side[name].shape) if name in side else None for side in (weights, own)]
        if shapes[0] != shapes[1]:
            raise UsageError(
                "weights_mismatch",
                f"{parent} has {name} as {shapes[0]}, with what is set it is {shapes[1]}: leave out the --set model.…"
                " that changes the shape",
            )
    model.load_state_dict(weights)


def word_vectors(file: Path, family: str) -> vectors.WordVectors:
    """The vectors of a file; UsageError for a family that has no use for them."""
    if issubclass(family_of(family)[0], CountBased):
        raise UsageError(
            "option_not_applicable",
            f"--embeddings {file}: the family {family!r} counts, it has no input embedding; leave the flag out, or"
            " take a neural family",
        )
    return vectors.read(file)


def init_embeddings(
    model: LanguageModel, known: vectors.WordVectors, tokenizer: tokenizers.Tokenizer, file: Path
) -> dict[str, int]:
    """Word vectors as the model's first input embeddings, and how many there were for the record; UsageError
    where none fits.
    """
    coverage = vectors.initial_embeddings(model, known, tokenizer)
    if not coverage.n_found:
        raise UsageError(
            "incompatible_data",
            f"--embeddings {file}: no piece of the tokenizer has a vector; give vectors of the corpus' language, or a"
            " tokenizer with longer pieces (--tokenizer word)",
        )
    log_notice(f"{coverage} pieces have a vector in {file}")
    return {"tokens_with_vector": coverage.n_found, "tokens": coverage.total}


def check_end(config: Any, tokenizer: tokenizers.Tokenizer) -> None:
    """UsageError where a model would end texts with another id than the tokenizer."""
    end_id = getattr(config, "end_id", None)
    if end_id not in (None, tokenizer.end_id):
        raise UsageError(
            "conflicting_options",
            f"model.end_id={end_id}: the tokenizer ends texts with id {tokenizer.end_id}; leave the setting out",
        )


def set_up_process() -> None:
    """Work as all training here does: memory kept, one thread a worker: docs/log.md has the reasons."""
    keep_freed_memory()
    torch.set_num_threads(1)


def report_plan(plan: Plan, tokenized: TokenizedCorpus, model: LanguageModel) -> None:
    train, compute, store = plan.train, plan.compute, tokenized.dataset()
    if isinstance(model, CountBased):
        log_notice(f"{plan.family}: counting {store.n_targets:,} tokens")
        return
    if model.capabilities.needs_source and not tokenized.corpus.has_pairs:
        log_notice(no_pairs_message(model))
    weights = sum(p.numel() for p in model.parameters())
    tokens = train.steps * plan.tokens_per_step
    log_notice(
        f"{plan.family}: {weights:,} weights; {train.steps} steps of {train.batch_size} rows and"
        f" {plan.tokens_per_step:,} tokens, {tokens / max(1, store.n_targets):.1f} times the corpus;"
        f" {compute.step} {compute.precision}, {compute.workers} worker(s)"
    )
    if tokens > 100 * store.n_targets:
        log_notice(
            "each text will be read over a hundred times: expect it to be memorised rather than learned from"
        )
    if train.steps <= (warm_up := getattr(plan.model, "warmup_steps", 0)):
        log_notice(
            f"the critic never plays: the warm-up alone has {warm_up} steps (--set model.warmup_steps=…)"
        )
    if why := export_blocker(plan.family, plan.model):
        log_notice(f"`export --to hf` of this run will not be possible: {why}")


def resume(path: Path, *, corpus: Path | None = None, until: int | None = None) -> Path:
    """Continue a run from its newest good checkpoint, or from its seed where it has none; a finished one is reported.
    `corpus`: where the corpus is now, if it was moved; `until`: a step to stop at.

    Raises RunError where the corpus is gone or is another than the run was started on.
    """
    run = open_run(path)
    if run.finished:
        verify(path)
        log_notice(f"{path} is finished ({run.record.get('steps', '?')} steps); nothing to resume")
        return path
    tokenized = TokenizedCorpus(recorded_corpus(run, corpus), read_tokenizer(run))
    budget = run.record.get("budget")
    ready = prepare(run.record, tokenized, begin=run.last_checkpoint() is None)
    if (begun := read_embeddings(run)) is not None:
        with torch.no_grad():
            vectors.input_embedding(ready.model).weight.copy_(begun)
    return train_to_end(run, ready, CpuBudget(**budget) if budget else None, until)


def recorded_corpus(run: RunFolder, moved: Path | None = None) -> Corpus:
    """The corpus a run is trained on, where it was or where it was `moved` to, which is then recorded. Raises RunError
    where it is gone, or another one.
    """
    kept = run.record["corpus"]
    path = moved or Path(kept["path"])
    if not path.exists():
        raise RunError(
            "not_found", f"{path}, the corpus of {run.path}, not found; if it was moved: --corpus FOLDER"
        )
    corpus = open_corpus(path)
    if corpus.fingerprint != kept["fingerprint"]:
        raise RunError(
            "data_changed",
            f"{path} is another corpus than {run.path} was started on (fingerprint {corpus.fingerprint}, was"
            f" {kept['fingerprint']}); bring the old one back (if it was moved: --corpus FOLDER), or train anew with"
            " --out elsewhere",
        )
    if moved:
        kept["path"] = str(moved.resolve())
        run.write_record()
    return corpus


@dataclass
class TrainingSetup:
    """A training that can begin: what `fit` takes, but for the run."""

    model: LanguageModel
    batches: BatchSource
    settings: TrainSettings
    backward: Backward
    evaluate: Evaluate | None


def prepare(record: RunRecord, tokenized: TokenizedCorpus, *, begin: bool = True) -> TrainingSetup:
    """All that a run's record decides, built; without `begin`, the weights are those of a checkpoint, and no parent is
    needed. UsageError for what does not go together.
    """
    set_up_process()
    tokenizer = tokenized.tokenizer
    train = from_dict(TrainSettings, record["settings"], "train.")
    compute = from_dict(ComputeConfig, record["compute"], "compute.")
    torch.manual_seed(derive_seed(train.seed, "weights"))
    model = build(record["family"], record["config"])
    if begin and record.get("parent"):
        init_from_parent(model, record)
    if not isinstance(model, CountBased):
        model.to(compute.device)
        model.set_compute(compute.precision, compute.attention, compute.step)
    vocabulary = model.config.vocab_size
    if vocabulary < tokenizer.vocab_size:
        raise UsageError(
            "conflicting_options",
            f"model.vocab_size={vocabulary}: the tokenizer has {tokenizer.vocab_size} ids; leave the setting out",
        )
    context = model.config.context_length
    if context is not None and train.context_length > context and not isinstance(model, CountBased):
        raise UsageError(
            "incompatible_settings",
            f"train.context_length={train.context_length} is longer than the model's context of {context}; set"
            " model.context_length too",
        )
    backward = type(model).backward or GradientAccumulator(model, compute.workers).of_all(train.micro_batches)
    batches = make_loader(model, tokenized, **sizes_of(model, train))
    evaluate = None if isinstance(model, CountBased) else _evaluation(model, tokenized, train)
    check_patience(model, train, evaluate)
    return TrainingSetup(model, batches, train, backward, evaluate)


def train_to_end(
    run: RunFolder, ready: TrainingSetup, clock: CpuBudget | None = None, until: int | None = None
) -> Path:
    """Train, or continue from the run's newest checkpoint; reports what the family finds wrong with the weights
    to use.
    """
    fit(
        ready.model, ready.batches, settings=ready.settings, run=run, clock=clock, backward=ready.backward,
        evaluate=ready.evaluate, until=until,
    )  # fmt: skip
    if wrong := ready.model.diagnose(last_metrics(run)):
        log_notice(wrong)
    return run.path


def last_metrics(run: RunFolder) -> dict[str, Any]:
    """What the log records of the weights to use, where they were evaluated."""
    used = run.record.get("weights", {}).get("step", run.record.get("steps"))
    evaluations = [
        entry for entry in read_log(run.path / "log.jsonl") if "validation" in entry and entry["step"] == used
    ]
    return evaluations[-1] if evaluations else {}


VALIDATION_TOKENS = 1 << 14
"""Tokens of the validation split looked at on the way; all of them are `textus evaluate`'s work."""


LEAST_TO_CHOOSE_BY = 256
"""Tokens of validation text below which chance decides which weights look best."""


def _evaluation(model: LanguageModel, tokenized: TokenizedCorpus, train: TrainSettings) -> Evaluate | None:
    """Validation nats per token on evenly spread windows, and a sample; None where there is too little
    validation text.
    """
    tokenizer = tokenized.tokenizer
    if not tokenized.corpus.n_documents("validation"):
        log_notice("the corpus has no validation text: the last weights are kept, and memorising goes unseen")
        return None
    store = tokenized.dataset("validation")
    if store.n_targets < LEAST_TO_CHOOSE_BY:
        log_notice(
            f"{store.n_targets} tokens of validation text are too few to choose weights by: the last are kept"
        )
        return None
    size = min(train.context_length, store.n_targets)
    loader = make_loader(model, tokenized, "validation", batch_size=8, context_length=size, shuffle=False)
    spread = max(1, store.n_targets // VALIDATION_TOKENS)
    batches = [loader.batch(number) for number in range(0, loader.n_batches, spread)]
    source = first_source(batches[len(batches) // 2], tokenizer.end_id)
    first = bos_ids(model, tokenizer.end_id)
    sampling = SamplingParams(temperature=0.8, max_tokens=40, seed=train.seed, sliding=True)

    def evaluate(model: LanguageModel) -> dict[str, Any]:
        metrics: dict[str, Any] = {"validation": round(validation_loss(model, batches), 6)}
        metrics |= model.validation_metrics(batches)
        if not model.capabilities.can_generate:
            return metrics
        engine = Engine(model, end_id=tokenizer.end_id)
        events = engine.stream([first], [sampling], None if source is None else [source])
        sample = tokenizer.decode([event.id for event in events if event.id is not None])
        return {**metrics, "sample": sample}

    return evaluate

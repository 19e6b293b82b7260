"""Fine-tuning: the data is read and checked, the model gets a head, and `fit` trains it.

There is no second loop here. A fine-tuned run is a run like any other: it is resumed, verified and served, and its
run.json holds the task with its classes and the head, so that `runs.store.load` builds it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from textus import tokenizers
from textus.augment.augmenter import AugmentConfig
from textus.core import hardware
from textus.core.config import apply_overrides, from_dict, to_dict
from textus.core.console import command_line, log_notice
from textus.core.errors import DataError, RunError, UsageError
from textus.core.io import check_output_dir, fingerprint
from textus.core.requests import request_values
from textus.core.rng import derive_seed
from textus.finetuning import solved, text_training
from textus.finetuning.config import FinetuneConfig
from textus.finetuning.data import (
    LabelledFile,
    TaskData,
    data_record,
    fingerprint_of,
    read_data,
    read_files,
    recorded_config,
)
from textus.finetuning.length import in_words, settings_of
from textus.finetuning.outcome import Watch, conclude, on_all, on_dev, on_dev_texts, watched
from textus.models.contract import CountBased, LanguageModel, RawTextModel
from textus.models.linear import LabelledTexts
from textus.models.nn import lora
from textus.models.registry import build
from textus.models.registry import family as family_of
from textus.runs.record import RunRecord
from textus.runs.store import RunFolder, create_run, load, open_run, read_tokenizer, verify
from textus.tasks.base import EncodedExample, Task, has_blanks, joined_text
from textus.tasks.encoding import ExampleLoader, encode_examples, input_template
from textus.tasks.generation import GenerationTask
from textus.tasks.inference import add_head, head_loss
from textus.tasks.multitask import MixSettings, MultitaskLoader
from textus.tasks.registry import record_for_task, task_class, trained_tasks
from textus.training.autotune import fast_bf16
from textus.training.gradients import GradientAccumulator
from textus.training.planner import model_values
from textus.training.pretrain import (
    TrainingSetup,
    check_same_weights,
    copy_weights,
    set_up_process,
    train_to_end,
    weights_sha256,
)
from textus.training.trainer import ComputeConfig, Evaluate, TrainSettings, check_patience

DataByHead = dict[str, TaskData]
"""Each task that is learned, by the name of its head."""
TrainDevRows = tuple[list[EncodedExample], list[EncodedExample]]
"""What is learned from and what chooses the weights, as ids."""


def data_of(
    name: str,
    request: FinetuneConfig,
    augment: AugmentConfig | None,
    files: Sequence[LabelledFile] | None = None,
) -> TaskData:
    """The data of one task of a fine-tuning, which has a head of this name."""
    cls = task_class(request.task)
    data = read_data(
        cls, apply_overrides(cls.config(), request.overrides_for("task")), request, augment, files
    )
    data.task.head_name = name
    return data


def augment_settings(request: FinetuneConfig) -> AugmentConfig | None:
    """How the rows to learn from are augmented, if requested; paths are whole, so that the run can be resumed
    elsewhere.
    """
    if not (assignments := request.overrides_for("augment")):
        return None
    settings = apply_overrides(AugmentConfig(seed=request.seed), assignments)
    wordnet, vectors, encoder = (
        path and str(Path(path).resolve()) for path in (settings.wordnet, settings.vectors, settings.encoder)
    )
    return replace(settings, wordnet=wordnet, vectors=vectors, encoder=encoder)


# ── starting ───────────────────────────────────────────────────────────────────────────────────


def start(
    request: FinetuneConfig,
    out: Path,
    *,
    force: bool = False,
    watch: Watch | None = None,
    files: Mapping[str, Sequence[LabelledFile]] | None = None,
) -> Path:
    """Fine-tune to the end; returns `out`. `watch` is called with each evaluation; `files`: the parsed files of tasks,
    by the name of their head, where the caller has read them.

    Raises UsageError for invalid options, and DataError for data that cannot be used, before anything is written.
    """
    set_up_process()
    request.check()
    augment, requests = augment_settings(request), request.per_task()
    parts = {
        name: data_of(name, request_of_task, augment, (files or {}).get(name))
        for name, request_of_task in requests.items()
    }
    text_training.check_options([data.task for data in parts.values()], augment is not None)
    family, config, tokenizer = choose_base_model(request, parts)
    rows = {name: encoded(data, family, config, tokenizer) for name, data in parts.items()}
    train = settings_for(request, family, parts, rows)
    compute = choose_compute(request, family, config, parts)
    if request.method == "lora" and compute.step == "native":
        raise UsageError(
            "conflicting_options",
            "compute.step=native: the kernels read whole weights, not the adapters of --method lora",
        )
    check_output_dir(out, force=force)
    record: RunRecord = {
        "family": family,
        "config": to_dict(config),
        "settings": to_dict(train),
        "compute": asdict(compute),
        "seed": request.seed,
        "request": request_values(request),
        **task_record(parts[request.task]),  # type: ignore[typeddict-item]
        "heads": heads_of(family, parts),
        "method": request.method,
        "method_settings": to_dict(request.method_settings),
        "parent": str(request.init_from.resolve()) if request.init_from else None,
        "parent_weights": weights_sha256(request.init_from) if request.init_from else None,
        "corpus": data_record(requests[request.task], parts[request.task]),
        "augment": {**to_dict(augment), "texts": texts_fingerprint(parts)} if augment else None,
        "tokenizer": {"kind": tokenizer.kind, "fingerprint": tokenizer.fingerprint},
        "command": command_line(),
        "versions": hardware.package_versions(),
        "isa": hardware.isa_name(),
    }
    if request.extra_tasks:
        record |= extra_tasks_record(request, parts)  # type: ignore[typeddict-item]
    ready = prepare(record, parts, tokenizer, rows)
    run = create_run(out, record, tokenizer)
    report_training(record, ready, parts, rows)
    if watch and not isinstance(ready.model, CountBased):  # there is nothing left to end early
        ready.evaluate = watched(ready.evaluate, watch)
    train_to_end(run, ready)
    return conclude(run, {name: (data.task, data.dev) for name, data in parts.items()})


def task_record(data: TaskData) -> dict[str, Any]:
    """What run.json records of a task, for `tasks.registry.task_from_record`."""
    n_texts = {len(example.texts) for example in data.train} & set(data.task.text_counts)
    return {
        "task": data.task.name,
        "task_settings": to_dict(data.task.settings),
        "labels": data.task.labels,
        "label_counts": data.task.label_counts,
        **({"n_texts": sorted(n_texts)} if n_texts else {}),
        **({"label_type": data.task.label_type} if data.task.label_type else {}),
    }


def heads_of(family: str, parts: DataByHead) -> dict[str, Any]:
    """Name → what `heads.build_head` builds; none for a family that reads texts."""
    return (
        {}
        if issubclass(family_of(family)[0], RawTextModel)
        else {
            name: part.task.head_spec()
            for name, part in parts.items()
            if not isinstance(part.task, GenerationTask)
        }
    )


def extra_tasks_record(request: FinetuneConfig, parts: DataByHead) -> dict[str, Any]:
    """What run.json records of the tasks next to the first, and of how steps are dealt out."""
    requests = request.per_task()
    return {
        "mix": to_dict(request.mix),
        "extra_tasks": {
            extra.name: {
                **task_record(parts[extra.name]),
                "corpus": data_record(requests[extra.name], parts[extra.name]),
            }
            for extra in request.further_tasks
        },
    }


def report_training(
    record: RunRecord, ready: TrainingSetup, parts: DataByHead, rows: dict[str, TrainDevRows]
) -> None:
    """Report what is trained, on how many rows, in how many steps."""
    train, batches = ready.settings, ready.batches
    weights = sum(p.numel() for p in ready.model.parameters())
    learning = sum(p.numel() for p in ready.model.parameters() if p.requires_grad)
    about = f"{weights:,} weights, of which {learning:,} learn ({record['method']})"
    steps = in_words(
        train, [len(rows[name][0]) for name in parts], sum(len(part.dev) for part in parts.values())
    )
    if isinstance(batches, MultitaskLoader):
        log_notice(f"{len(parts)} tasks with {record['family']}: {about}; {steps}, each of one task")
    for name, data in parts.items():
        summary = f"{len(data.train):,} rows to learn from"
        labels = f", {len(data.task.labels)} {data.task.label_kind}" if data.task.labels else ""
        if isinstance(ready.model, RawTextModel):
            log_notice(
                f"{name} with {record['family']}: {summary}, all at once{labels}; {len(data.dev):,} are held out"
            )
            return
        windows = f" ({len(rows[name][0]):,} windows)" if len(rows[name][0]) > len(data.train) else ""
        summary = f"{summary}{windows} and {len(data.dev):,} to choose by{labels}"
        if isinstance(batches, MultitaskLoader):
            n = batches.steps_per_task(train.steps)[name]
            times = n * batches.loaders[name].sampler.batch_size / len(rows[name][0])
            log_notice(f"{name}: {summary}; {n:,} of the steps, its rows are read {times:.1f} times")
        else:
            log_notice(f"{name} with {record['family']}: {about}; {summary}; {steps}")


def texts_fingerprint(parts: DataByHead) -> str:
    """A fingerprint of what is learned from: synonyms may come from files that change."""
    return fingerprint([example.texts for data in parts.values() for example in data.train])


def choose_base_model(request: FinetuneConfig, parts: DataByHead) -> tuple[str, Any, tokenizers.Tokenizer]:
    """The family, config and tokenizer: those of the run to begin from, or new ones for this data; where tasks want
    different ones, the first decides.
    """
    if request.init_from:
        model, tokenizer, record = load(request.init_from)
        if isinstance(model, RawTextModel):
            raise UsageError(
                "unsupported_model",
                f"--from {request.init_from}: a {record['family']} model cannot be continued; give --model",
            )
        parent_class: Any = family_of(record["family"])[1]
        settings = model_values(
            request.overrides_for("model"), parent_class
        )  # what changes a shape is refused with the weights
        config: Any = from_dict(parent_class, record["config"] | settings, "model.")
        return record["family"], config, tokenizer
    assert request.model is not None
    cls, config_class = family_of(request.model)
    tasks = [part.task for part in parts.values()]
    texts = [text for data in parts.values() for example in data.train for text in example.texts]
    if issubclass(cls, RawTextModel):
        return (
            request.model,
            raw_text_config(request, tasks[0], texts),
            tokenizers.train("char", texts, 20_000),
        )
    seen = [text for data in parts.values() for text in data.task.tokenizer_texts(data.train)]
    tokenizer = tokenizer_for(request.tokenizer, tasks[0], seen)
    known = {field.name for field in fields(config_class)}
    values: dict[str, Any] = {
        "vocab_size": tokenizer.vocab_size, "end_id": tokenizer.end_id, "dropout": 0.3, "tie_head": True,
        **cls.config_for_size(**tasks[0].new_model_size),
    }  # fmt: skip
    for task in reversed(tasks):
        values |= task.model_defaults
    values = {name: value for name, value in values.items() if name in known}
    values |= model_values(request.overrides_for("model"), config_class)
    return request.model, from_dict(config_class, values, "model."), tokenizer


def tokenizer_for(choice: str | None, task: Task, texts: list[str]) -> tokenizers.Tokenizer:
    """A tokenizer's folder, or one of a kind (None: what is best for the task), trained on the texts to learn from."""
    if choice and Path(choice).exists():
        return tokenizers.load(Path(choice))
    kind, vocab_size = task.tokenizer_spec(choice, texts)
    return tokenizers.train(kind, texts, vocab_size)


def raw_text_config(request: FinetuneConfig, task: Task, texts: list[str]) -> Any:
    """What a family that learns from all texts at once looks at: words, or characters where no blanks are. What was set
    has the last word; pairs of numbers are written 1,2.
    """
    assert request.model is not None
    if task.baseline_family != request.model:
        raise UsageError(
            "unsupported_model",
            f"a {request.model} model learns one class a text, not {task.name}; take --model lstm or --from",
        )
    reach = {"l2": 0.1} | ({} if has_blanks(texts) else {"words": (0, 0), "characters": (1, 2)})
    config_class: Any = family_of(request.model)[1]
    return from_dict(
        config_class, reach | model_values(request.overrides_for("model"), config_class), "model."
    )


def settings_for(
    request: FinetuneConfig, family: str, parts: DataByHead, rows: dict[str, TrainDevRows]
) -> TrainSettings:
    """`length.settings_of` for this data; where every head is solved first, what training begins with is evaluated too.
    What was set has the last word.
    """
    n_rows = [len(rows[name][0]) or len(data.train) for name, data in parts.items()]
    n_held = sum(len(data.dev) for data in parts.values())
    first_rows: Any = rows[request.task][0]
    task = parts[request.task].task
    writes = isinstance(task, GenerationTask)
    train = settings_of(
        request,
        n_rows,
        n_held,
        keeps_last=family_of(family)[0].capabilities.use_last_checkpoint,
        batch_size=text_training.default_batch_size(task, first_rows)
        if isinstance(task, GenerationTask)
        else 32,
    )
    if writes and not request.init_from:
        train = text_training.new_model_settings(train, request.overrides_for("optim"))
    heads = heads_of(family, parts).values()
    first = (
        bool(request.init_from and heads) and all(map(solved.can_be_solved, heads)) and train.keep == "best"
    )
    if isinstance(task, GenerationTask) and task.compares_with_base:
        first = request.init_from is not None
    return apply_overrides(replace(train, evaluate_first=first), request.overrides_for("train"))


def choose_compute(request: FinetuneConfig, family: str, config: Any, parts: DataByHead) -> ComputeConfig:
    """bfloat16 where the processor is fast at it and the family can; then, where there are some, kernels that compute
    no padding, but for adapters with dropout, which are no part of a weight. What was set has the last word.
    """
    fast = fast_bf16() and "bfloat16" in family_of(family)[0].capabilities.precisions
    compute = apply_overrides(
        ComputeConfig(precision="bfloat16" if fast else "float32"), request.overrides_for("compute")
    )
    if isinstance(parts[request.task].task, GenerationTask):
        with torch.device("meta"):
            outline = build(family, config)
        return text_training.with_workers(compute, outline, request.overrides_for("compute"))
    is_given = any(assignment.startswith("step=") for assignment in request.overrides_for("compute"))
    if (
        is_given
        or not fast
        or compute.precision != "bfloat16"
        or getattr(request.method_settings, "dropout", 0.0) > 0
    ):
        return compute
    with torch.device("meta"):
        why_not = build(family, config).varlen_unsupported_reason()
    return compute if why_not else replace(compute, step="unpadded")


# ── training ───────────────────────────────────────────────────────────────────────────────────


def encoded(data: TaskData, family: str, config: Any, tokenizer: tokenizers.Tokenizer) -> TrainDevRows:
    """Both parts as ids for a model of this config; of those to learn from, the ones that have something to learn.
    None for a family that reads texts.
    """
    if issubclass(family_of(family)[0], RawTextModel):
        return [], []
    if isinstance(data.task, GenerationTask):
        with torch.device("meta"):
            outline = build(family, config)
        pairs: Any = text_training.encode(data.task, data.train, data.dev, outline, tokenizer)
        return pairs
    frame = input_template(config, tokenizer, data.task.max_length)
    train, dev = (encode_examples(data.task, part, tokenizer, frame) for part in (data.train, data.dev))
    useful = data.task.training_rows(train)
    if not useful:
        raise DataError("no_labels", f"none of the {len(data.train):,} rows has a label")
    return useful, dev


def prepare(
    record: RunRecord,
    parts: DataByHead,
    tokenizer: tokenizers.Tokenizer,
    rows: dict[str, TrainDevRows],
    *,
    begin: bool = True,
) -> TrainingSetup:
    """All that a run's record decides, built; how heads were solved is added to it. Without `begin` the weights are to
    be a checkpoint's: no parent is needed and nothing is solved. UsageError where a task would have no step.
    """
    train = from_dict(TrainSettings, record["settings"], "train.")
    compute = from_dict(ComputeConfig, record["compute"], "compute.")
    torch.manual_seed(derive_seed(train.seed, "weights"))
    model, before = model_of(record, begin=begin)
    if isinstance(model, RawTextModel):
        (data,) = parts.values()
        texts: Any = LabelledTexts(
            [joined_text(example) for example in data.train], [example.label for example in data.train]
        )
        on_texts = partial(on_dev_texts, task=data.task, examples=data.dev, tokenizer=tokenizer)
        return TrainingSetup(model, texts, train, GradientAccumulator(model).of_all(1), on_texts)
    task = parts[record["task"]].task
    if isinstance(task, GenerationTask):
        lora.apply_method(model, record["method"], record["method_settings"])
        model.to(compute.device).train()
        model.set_compute(compute.precision, compute.attention, compute.step)
        id_rows: Any = rows[record["task"]]
        return text_training.setup(task, model, tokenizer, id_rows, compute=compute, train=train)
    new = heads_from(model, [part.task for part in parts.values()], before)
    lora.apply_method(model, record["method"], record["method_settings"])
    model.to(compute.device).train()
    model.set_compute(compute.precision, compute.attention, compute.step)
    if record["parent"] and begin:
        record["solved"] = {
            name: solved.init_head(model, parts[name].task, rows[name][0], tokenizer.pad_id, train.seed)
            for name in new
            if solved.can_be_solved(parts[name].task.head_spec())
        }
    batches = batches_of(record, parts, tokenizer.pad_id, rows)
    evaluations: dict[str, Evaluate] = {
        name: partial(on_dev, task=data.task, examples=data.dev, rows=rows[name][1], pad_id=tokenizer.pad_id)
        for name, data in parts.items()
    }
    evaluate: Evaluate = (
        partial(on_all, evaluations=evaluations) if len(evaluations) > 1 else evaluations[record["task"]]
    )
    check_patience(model, train, evaluate)
    backward = GradientAccumulator(model, compute.workers, head_loss).of_all(train.micro_batches)
    return TrainingSetup(model, batches, train, backward, evaluate)


def model_of(record: RunRecord, *, begin: bool = True) -> tuple[LanguageModel, RunRecord]:
    """The model to train, and the run.json it comes from: empty for a new one, or one whose weights a checkpoint has.
    RunError where that run has other weights now.
    """
    if not (record["parent"] and begin):
        return build(record["family"], record["config"]), {}
    parent = Path(record["parent"])
    check_same_weights(parent, record["parent_weights"])
    model, _, before = load(parent)
    if record["config"] != to_dict(model.config):  # what was set, such as its dropout
        made = build(record["family"], record["config"])
        made.heads = model.heads
        copy_weights(made, model, parent)
        return made, before
    return model, before


def heads_from(model: LanguageModel, tasks: Sequence[Task], before: RunRecord) -> list[str]:
    """The tasks' heads on a model; one that learned the task of the same name with the same classes continues from
    what it knows, and the others' names are returned. Heads of other tasks are left behind: the layers below them
    change.
    """
    new = []
    former, model.heads = model.heads, torch.nn.ModuleDict()
    shape = lambda spec: {key: value for key, value in spec.items() if key not in ("dropout", "weights")}  # noqa: E731
    for task in tasks:
        add_head(model, task)
        known = (
            task.head_name in former
            and record_for_task(before, task.head_name, Path())["labels"] == task.labels
        )
        if known and shape(before["heads"][task.head_name]) == shape(task.head_spec()):
            model.heads[task.head_name].load_state_dict(former[task.head_name].state_dict())
            log_notice(f"the head of {task.head_name} continues from what it learned")
            continue
        new.append(task.head_name)
        if task.head_name in former:
            log_notice(f"the head of {task.head_name} begins anew: it had other classes or settings")
    if left := [name for name in former if name not in model.heads]:
        log_notice(f"heads of other tasks are left behind: {', '.join(left)}")
    return new


def batches_of(
    record: RunRecord, parts: DataByHead, pad_id: int, rows: dict[str, TrainDevRows]
) -> ExampleLoader | MultitaskLoader:
    """What `fit` reads: a task's rows, or those of several tasks mixed. UsageError for a task that would have no
    step.
    """
    train = from_dict(TrainSettings, record["settings"], "train.")
    loaders = {
        name: ExampleLoader(
            data.task, rows[name][0], pad_id=pad_id, batch_size=train.batch_size, seed=train.seed
        )
        for name, data in parts.items()
    }
    if len(loaders) == 1:
        return loaders[record["task"]]
    mixed = MultitaskLoader(
        loaders, power=from_dict(MixSettings, record["mix"], "mix.").power, seed=train.seed
    )
    if missed := [name for name, n in mixed.steps_per_task(train.steps).items() if not n]:
        raise UsageError(
            "out_of_range",
            f"none of the {train.steps} steps is of {missed[0]}, with {len(rows[missed[0]][0]):,} rows: train longer"
            " (--epochs), or deal more evenly (--set mix.power=0)",
        )
    return mixed


def resume(
    path: Path, *, data: Path | None = None, dev: Path | None = None, until: int | None = None
) -> Path:
    """Continue a fine-tuning from its newest good checkpoint; a finished one is reported. `data` and `dev`: where its
    files are now, if they were moved; `until`: a step to stop at.

    Raises RunError where the data is gone or changed.
    """
    run = open_run(path)
    if run.finished:
        verify(path)
        log_notice(f"{path} is finished ({run.record.get('steps', '?')} steps); nothing to resume")
        return path
    set_up_process()
    update_data_paths(run, data, dev)
    augment = run.record.get("augment")
    how = {name: value for name, value in augment.items() if name != "texts"} if augment else None
    made = from_dict(AugmentConfig, how, "augment.") if how else None
    parts = {name: reload_data(run, name, made) for name in trained_tasks(run.record)}
    if augment and augment["texts"] != texts_fingerprint(parts):
        raise RunError(
            "data_changed",
            f"augmentation no longer makes the rows {path} was started on: its words come from other files now"
            f" ({how}); bring them back, or fine-tune anew with --out elsewhere",
        )
    tokenizer = read_tokenizer(run)
    family = run.record["family"]
    config: Any = from_dict(family_of(family)[1], run.record["config"], "model.")
    rows = {name: encoded(data, family, config, tokenizer) for name, data in parts.items()}
    begin = run.last_checkpoint() is None
    train_to_end(run, prepare(run.record, parts, tokenizer, rows, begin=begin), until=until)
    return conclude(run, {name: (data.task, data.dev) for name, data in parts.items()})


def update_data_paths(run: RunFolder, data: Path | None, dev: Path | None) -> None:
    """Record where a run's files are now. UsageError for validation rows it was not given."""
    kept = run.record["corpus"]
    if dev and not kept["dev"]:
        raise UsageError(
            "option_not_applicable",
            f"--dev {dev}: {run.path} was given no validation rows of their own; leave it out",
        )
    for name, path in (("path", data), ("dev", dev)):
        if path:
            kept[name] = str(path.resolve())
    for path in (kept["path"], kept["dev"]):
        if path and not Path(path).exists():
            raise RunError(
                "not_found",
                f"{path}, the data of {run.path}, not found; if it was moved: --corpus FILE, --dev FILE",
            )


def reload_data(run: RunFolder, name: str, augment: AugmentConfig | None) -> TaskData:
    """The data of a run's task as it was when the run was started; RunError where it is other data now."""
    record = record_for_task(run.record, name, run.path)
    request = recorded_config(record)
    files = read_files(request)
    if fingerprint_of(files) != record["corpus"]["fingerprint"]:
        raise RunError(
            "data_changed",
            f"{request.data} is not what {run.path} was started on; bring the old rows back, or fine-tune anew"
            " with --out elsewhere",
        )
    cls = task_class(request.task)
    data = read_data(cls, from_dict(cls.config, record["task_settings"], "task."), request, augment, files)
    data.task.head_name = name
    return data

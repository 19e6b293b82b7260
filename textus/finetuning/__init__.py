"""Teaching a model a task: its data read and checked, a head put on, and all of it handed to `fit`.

There is no second loop here. A fine-tuned run is a run like any other: it is resumed, verified and served, and its
run.json holds the task with its classes and the head, so that `checkpoint.load` builds it again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from textus import hardware
from textus import tokenizer as tokenizers
from textus.augment import AugmentSettings, augmented, origin_of
from textus.checkpoint import RunFolder, create_run, load, open_run, read_tokenizer, verify
from textus.common import (
    DataError,
    RunError,
    UsageError,
    claim,
    counter_seed,
    fingerprint,
    notice,
    sha256,
    uniform,
)
from textus.config import assign, from_dict, to_dict
from textus.finetuning.wishes import Wish as Wish
from textus.finetuning.wishes import parse_also as parse_also
from textus.measuring import fast_bf16
from textus.models import LanguageModel, adapters, build
from textus.models import family as family_of
from textus.models.linear import LabelledTexts
from textus.optim import OptimSettings
from textus.presets import model_values
from textus.records import Record, parse_columns, read_records
from textus.runs import Ready, one_thread, take_weights, train_to_end
from textus.tasks import (
    Example,
    Row,
    RowBatches,
    Task,
    answers,
    frame_of,
    has_blanks,
    head_loss,
    learnt,
    names_of,
    read,
    rows_of,
    task_class,
    whole,
    with_head,
)
from textus.tasks.mixing import MixedBatches, MixSettings
from textus.training import Choices, Evaluate, Gradients, TrainSettings, check_patience

RATES = {"full": 1e-4, "frozen": 1e-3, "lora": 1e-3}
"""Each method's rate, begun from a run: what is taught beside weights that stay may move faster."""
HELD_OUT = 0.1
"""Share of the rows that choose the weights, where no file of their own is given."""
Watch = Callable[[int, dict[str, Any]], None]
"""Is shown what each evaluation found, and its number from 1."""
SCRATCH = {"n_layer": 2, "d_model": 256, "context_length": 256}
"""Size of a model that is not begun from a run."""


@dataclass(frozen=True)
class Data:
    """A task's data as it is trained on: the task with its classes, and both parts' checked rows."""

    task: Task
    train: list[Example]
    dev: list[Example]


Parts = dict[str, Data]
"""Each task that is learnt, by the name of its head."""
RowsOfBoth = tuple[list[Row], list[Row]]
"""What is learnt from and what chooses the weights, as ids."""


def data_of(name: str, wish: Wish, augment: AugmentSettings | None) -> Data:
    """The data of one task of a fine-tuning, which has a head of this name."""
    cls = task_class(wish.task)
    data = read_data(cls, assign(cls.config(), wish.of("task")), wish, augment)
    data.task.called = name
    return data


def read_data(cls: type[Task], settings: Any, wish: Wish, augment: AugmentSettings | None = None) -> Data:
    """The rows of a task's file, a share of them held out where no `dev` file is given; texts in both are told.
    Those to learn from are augmented if asked.

    Raises DataError for data the task cannot use.
    """
    path, spelled = wish.data, parse_columns(wish.columns)
    records = read_records(path, spelled)
    held = read_records(wish.dev, spelled) if wish.dev else []
    if not wish.dev:
        records, held = parted(records, wish.seed, cls.together)
    records, held = without_copies(records, held)
    task = cls.of(settings, records)
    if augment:
        records = augmented(records, augment)
    train, validation = (task.examples(part, labelled=True) for part in (records, held))
    if not train or not validation:
        raise DataError(
            f"{path}: {len(train)} rows to learn from, {len(validation)} to choose by; give more of both"
        )
    task.can_choose(validation)
    known = {each.texts for each in train}
    if shared := [each for each in validation if each.texts in known]:
        notice(
            f"{len(shared):,} of the {len(validation):,} rows that choose the weights have a text that is trained on"
            f" too; the first is {shared[0].where}"
        )
    return Data(task, train, validation)


def parted(
    records: list[Record], seed: int, together: tuple[str, ...] = ()
) -> tuple[list[Record], list[Record]]:
    """Rows to learn from, and those held out: by what they say (in the fields `together`), so that equal texts lie in
    one part.
    """
    said = [{name: record.values.get(name) for name in together} or record.values for record in records]
    origins = [origin_of(record.values) for record in records]
    keys = {  # a copy goes where its row goes
        origin: origin_of(each)
        for origin, each, record in zip(origins, said, records, strict=True)
        if "augmented" not in record.values
    }
    held = [uniform(seed, "held out", keys.get(origin, origin)) < HELD_OUT for origin in origins]
    return (
        [each for each, out in zip(records, held, strict=True) if not out],
        [each for each, out in zip(records, held, strict=True) if out],
    )


def without_copies(records: list[Record], held: list[Record]) -> tuple[list[Record], list[Record]]:
    """Both parts without copies (`textus augment`) of rows held out: these are measured as they were written, and
    nothing of them is learnt from. What is left out is told.
    """
    known = {origin_of(each.values) for each in held}
    kept = [r for r in records if "augmented" not in r.values or origin_of(r.values) not in known]
    originals = [each for each in held if "augmented" not in each.values]
    if n := len(records) - len(kept) + len(held) - len(originals):
        notice(f"{n:,} rows are augmented copies of rows that choose the weights: they are left out")
    return kept, originals


def augment_settings(wish: Wish) -> AugmentSettings | None:
    """How the rows to learn from are augmented, if asked; paths are whole, so that the run can be resumed elsewhere."""
    if not (said := wish.of("augment")):
        return None
    found = assign(AugmentSettings(seed=wish.seed), said)
    wordnet, vectors, encoder = (
        path and str(Path(path).resolve()) for path in (found.wordnet, found.vectors, found.encoder)
    )
    return replace(found, wordnet=wordnet, vectors=vectors, encoder=encoder)


# ── starting ───────────────────────────────────────────────────────────────────────────────────


def start(wish: Wish, out: Path, *, force: bool = False, watch: Watch | None = None) -> Path:
    """Fine-tune to the end; returns `out`. `watch` is shown the evaluations.

    Raises UsageError for words that are wrong, and DataError for data that cannot be used, before anything is written.
    """
    one_thread()
    wish.check()
    augment, wishes = augment_settings(wish), wish.alone()
    parts = {name: data_of(name, each, augment) for name, each in wishes.items()}
    family, config, tokenizer = beginning(wish, parts)
    rows = {name: encoded(data, family, config, tokenizer) for name, data in parts.items()}
    train = settings_of(wish, [len(rows[name][0]) or len(data.train) for name, data in parts.items()])
    choices = choices_for(wish, family, config)
    if wish.method == "lora" and choices.step == "native":
        raise UsageError(
            "choices.step=native: the kernels read whole weights, not the adapters of --method lora"
        )
    claim(out, force=force)
    record = {
        "family": family,
        "config": to_dict(config),
        "settings": to_dict(train),
        "choices": asdict(choices),
        "seed": wish.seed,
        **taught(parts[wish.task]),
        "heads": heads_of(family, parts),
        "method": wish.method,
        "method_settings": to_dict(wish.how),
        "parent": str(wish.parent.resolve()) if wish.parent else None,
        "corpus": source(wishes[wish.task]),
        "augment": {**to_dict(augment), "texts": texts_of(parts)} if augment else None,
        "tokenizer": {"kind": tokenizer.kind, "fingerprint": tokenizer.fingerprint},
        "command": " ".join(["textus", *sys.argv[1:]]),
        "versions": hardware.versions(),
        "isa": hardware.isa_name(),
    }
    if wish.also:
        record |= others_of(wish, parts)
        record["corpus"] |= hashed(wish.data)
    ready = prepare(record, parts, tokenizer, rows)
    run = create_run(out, record, tokenizer)
    tell(record, ready, parts, rows)
    if watch and not ready.model.counts:  # there is nothing left to end early
        ready.evaluate = watched(ready.evaluate, watch)
    return train_to_end(run, ready)


def taught(data: Data) -> dict[str, Any]:
    """What run.json says of a task, for `tasks.from_record`."""
    return {
        "task": data.task.name,
        "task_settings": to_dict(data.task.settings),
        "labels": data.task.labels,
        "label_counts": data.task.counts,
    }


def heads_of(family: str, parts: Parts) -> dict[str, Any]:
    """Name → what `heads.build_head` builds; none for a family that reads texts."""
    return (
        {} if family_of(family)[0].reads_texts else {name: each.task.head() for name, each in parts.items()}
    )


def others_of(wish: Wish, parts: Parts) -> dict[str, Any]:
    """What run.json says of the tasks beside the first, and of how steps are dealt out."""
    wishes = wish.alone()
    return {
        "mix": to_dict(wish.mix),
        "also": {
            each.name: {**taught(parts[each.name]), "corpus": source(wishes[each.name]) | hashed(each.data)}
            for each in wish.also
        },
    }


def hashed(path: Path) -> dict[str, str]:
    """The SHA-256 of a file of rows; of a folder none."""
    return {"sha256": sha256(path)} if path.is_file() else {}


def tell(record: dict[str, Any], ready: Ready, parts: Parts, rows: dict[str, RowsOfBoth]) -> None:
    """Say what is learnt, from how many rows, in how many steps."""
    train, batches = ready.settings, ready.batches
    weights = sum(p.numel() for p in ready.model.parameters())
    learning = sum(p.numel() for p in ready.model.parameters() if p.requires_grad)
    about = f"{weights:,} weights, of which {learning:,} learn ({record['method']})"
    steps = f"{train.steps} steps of {train.batch_size} rows"
    if isinstance(batches, MixedBatches):
        notice(f"{len(parts)} tasks with {record['family']}: {about}; {steps}, each of one task")
    for name, data in parts.items():
        told = f"{len(data.train):,} rows to learn from"
        labels = f", {len(data.task.labels)} {data.task.answered}" if data.task.labels else ""
        if ready.model.reads_texts:
            notice(
                f"{name} with {record['family']}: {told}, all at once{labels}; {len(data.dev):,} are held out"
            )
            return
        windows = f" ({len(rows[name][0]):,} windows)" if len(rows[name][0]) > len(data.train) else ""
        told = f"{told}{windows} and {len(data.dev):,} to choose by{labels}"
        if isinstance(batches, MixedBatches):
            n = batches.counts(train.steps)[name]
            times = n * batches.parts[name].deal.batch_size / len(rows[name][0])
            notice(f"{name}: {told}; {n:,} of the steps, its rows are read {times:.1f} times")
        else:
            notice(f"{name} with {record['family']}: {about}; {told}; {steps}")


def watched(evaluate: Any, watch: Watch) -> Evaluate:
    """The evaluation, shown to someone who may end the training by an error."""
    numbers = count(1)

    def both(model: LanguageModel) -> dict[str, Any]:
        found: dict[str, Any] = evaluate(model)
        watch(next(numbers), found)
        return found

    return both


def source(wish: Wish) -> dict[str, Any]:
    """Where the data came from, and a fingerprint of what it says."""
    columns = parse_columns(wish.columns)
    read = [read_records(path, columns) for path in (wish.data, wish.dev) if path]
    return {
        "path": str(wish.data.resolve()),
        "dev": str(wish.dev.resolve()) if wish.dev else None,
        "columns": wish.columns,
        "fingerprint": fingerprint([[each.values for each in part] for part in read]),
    }


def texts_of(parts: Parts) -> str:
    """A fingerprint of what is learnt from: synonyms may come from files that change."""
    return fingerprint([each.texts for data in parts.values() for each in data.train])


def beginning(wish: Wish, parts: Parts) -> tuple[str, Any, tokenizers.Tokenizer]:
    """The family, config and tokenizer: those of the run to begin from, or new ones for this data; where tasks want
    different ones, the first decides.
    """
    if wish.parent:
        model, tokenizer, record = load(wish.parent)
        if model.reads_texts:
            raise UsageError(
                f"--from {wish.parent}: a {record['family']} model is not gone on from; give --model"
            )
        said = model_values(wish.of("model"))  # what changes a shape is refused with the weights
        config: Any = from_dict(family_of(record["family"])[1], record["config"] | said, "model.")
        return record["family"], config, tokenizer
    assert wish.family is not None
    cls, config_class = family_of(wish.family)
    tasks = [each.task for each in parts.values()]
    texts = [text for data in parts.values() for each in data.train for text in each.texts]
    if cls.reads_texts:
        return wish.family, whole_config(wish, tasks[0], texts), tokenizers.train("char", texts, 20_000)
    seen = [text for data in parts.values() for text in data.task.vocabulary(data.train)]
    tokenizer = tokenizer_for(wish.tokenizer, tasks[0], seen)
    known = {each.name for each in fields(config_class)}
    values: dict[str, Any] = {
        "vocab_size": tokenizer.vocab_size, "end_id": tokenizer.end_id, "dropout": 0.3, "tie_head": True,
        **cls.sized(**SCRATCH),
    }  # fmt: skip
    for task in reversed(tasks):
        values |= task.new_model
    values = {name: value for name, value in values.items() if name in known} | model_values(wish.of("model"))
    return wish.family, from_dict(config_class, values, "model."), tokenizer


def tokenizer_for(choice: str | None, task: Task, texts: list[str]) -> tokenizers.Tokenizer:
    """A tokenizer's folder, or one of a kind (None: what is best for the task), trained on the texts to learn from."""
    if choice and Path(choice).exists():
        return tokenizers.load(Path(choice))
    kind, vocab_size = task.tokenizer(choice, texts)
    return tokenizers.train(kind, texts, vocab_size)


def whole_config(wish: Wish, task: Task, texts: list[str]) -> Any:
    """What a family that learns from all texts at once looks at: words, or characters where no blanks are. What was set
    has the last word; pairs of numbers are written 1,2.
    """
    assert wish.family is not None
    if task.floor != wish.family:
        raise UsageError(
            f"a {wish.family} model learns one class a text, not {task.name}; take --model lstm or --from"
        )
    reach = {"l2": 0.1} | ({} if has_blanks(texts) else {"words": (0, 0), "characters": (1, 2)})
    said = {
        name: value.split(",") if value and "," in value else value
        for name, value in model_values(wish.of("model")).items()
    }
    return from_dict(family_of(wish.family)[1], reach | said, "model.")


def settings_of(wish: Wish, n_rows: Sequence[int]) -> TrainSettings:
    """AdamW with a warm-up of a tenth and a straight line to zero; a smaller rate and fewer epochs where there is
    something to forget. Of several tasks, whose numbers of rows these are, an epoch has as many steps as theirs
    together. What was set has the last word.
    """
    begun = wish.parent is not None
    asked = assign(TrainSettings(steps=1, batch_size=32), wish.of("train"))
    an_epoch = sum(max(1, n // min(asked.batch_size, n)) for n in n_rows)
    steps = (wish.epochs or (3 if begun else 8)) * an_epoch
    train = TrainSettings(
        steps=steps, batch_size=32, seed=wish.seed, evaluate_every=an_epoch, checkpoint_every=an_epoch
    )
    train = assign(train, wish.of("train"))
    optim = OptimSettings(
        optimiser="adamw", rate=RATES[wish.method] if begun else 1e-3, weight_decay=0.01, beta2=0.999,
        schedule="linear", warmup=train.steps // 10,
    )  # fmt: skip
    return replace(train, optim=assign(optim, wish.of("optim")))


def choices_for(wish: Wish, family: str, config: Any) -> Choices:
    """bfloat16 where the processor is fast at it and the family can; then, where there are some, kernels that compute
    no padding, but for adapters with dropout, which are no part of a weight. What was set has the last word.
    """
    fast = fast_bf16() and "bfloat16" in family_of(family)[0].precisions
    choices = assign(Choices(precision="bfloat16" if fast else "float32"), wish.of("choices"))
    said = any(each.startswith("step=") for each in wish.of("choices"))
    if said or not fast or choices.precision != "bfloat16" or getattr(wish.how, "dropout", 0.0) > 0:
        return choices
    with torch.device("meta"):
        why_not = build(family, config).why_not_unpadded()
    return choices if why_not else replace(choices, step="unpadded")


# ── training ───────────────────────────────────────────────────────────────────────────────────


def encoded(data: Data, family: str, config: Any, tokenizer: tokenizers.Tokenizer) -> RowsOfBoth:
    """Both parts as ids for a model of this config; of those to learn from, the ones that have something to learn.
    None for a family that reads texts.
    """
    if family_of(family)[0].reads_texts:
        return [], []
    frame = frame_of(config, tokenizer, data.task.settings.longest)
    train, dev = (rows_of(data.task, part, tokenizer, frame) for part in (data.train, data.dev))
    useful = data.task.to_learn(train)
    if not useful:
        raise DataError(f"none of the {len(data.train):,} rows says what there is to learn")
    return useful, dev


def prepare(
    record: dict[str, Any], parts: Parts, tokenizer: tokenizers.Tokenizer, rows: dict[str, RowsOfBoth]
) -> Ready:
    """All that a run's record decides, built. UsageError where a task would have no step."""
    train = from_dict(TrainSettings, record["settings"], "train.")
    choices = from_dict(Choices, record["choices"], "choices.")
    torch.manual_seed(counter_seed(train.seed, "weights"))
    model, before = model_of(record)
    if model.reads_texts:
        (data,) = parts.values()
        texts: Any = LabelledTexts([whole(each) for each in data.train], [each.label for each in data.train])
        on_texts = partial(on_dev_texts, task=data.task, examples=data.dev, tokenizer=tokenizer)
        return Ready(model, texts, train, Gradients(model).of_all(1), on_texts)
    heads_from(model, [each.task for each in parts.values()], before)
    adapters.teach(model, record["method"], record["method_settings"])
    model.to(choices.device).train()
    model.compute_with(choices.precision, choices.attention, choices.step)
    batches = batches_of(record, parts, tokenizer.pad_id, rows)
    each: dict[str, Evaluate] = {
        name: partial(on_dev, task=data.task, examples=data.dev, rows=rows[name][1], pad_id=tokenizer.pad_id)
        for name, data in parts.items()
    }
    evaluate: Evaluate = partial(on_all, each=each) if len(each) > 1 else each[record["task"]]
    check_patience(model, train, evaluate)
    backward = Gradients(model, choices.workers, head_loss).of_all(train.micro_batches)
    return Ready(model, batches, train, backward, evaluate)


def model_of(record: dict[str, Any]) -> tuple[LanguageModel, dict[str, Any]]:
    """The model to teach, and the run.json it comes from: empty for a new one."""
    if not record["parent"]:
        return build(record["family"], record["config"]), {}
    model, _, before = load(parent := Path(record["parent"]))
    if record["config"] != to_dict(model.config):  # what was set, such as its dropout
        made = build(record["family"], record["config"])
        made.heads = model.heads
        take_weights(made, model, parent)
        return made, before
    return model, before


def heads_from(model: LanguageModel, tasks: Sequence[Task], before: dict[str, Any]) -> None:
    """The tasks' heads on a model; one that learnt the task of the same name with the same classes goes on from what it
    knows. Heads of other tasks are left behind: what stands under them moves.
    """
    former, model.heads = model.heads, torch.nn.ModuleDict()
    shape = lambda spec: {key: each for key, each in spec.items() if key not in ("dropout", "weights")}  # noqa: E731
    for task in tasks:
        with_head(model, task)
        known = task.called in former and learnt(before, task.called, Path())["labels"] == task.labels
        if known and shape(before["heads"][task.called]) == shape(task.head()):
            model.heads[task.called].load_state_dict(former[task.called].state_dict())
            notice(f"the head of {task.called} goes on from what it learnt")
        elif task.called in former:
            notice(f"the head of {task.called} begins anew: it had other classes or settings")
    if left := [name for name in former if name not in model.heads]:
        notice(f"heads of other tasks are left behind: {', '.join(left)}")


def batches_of(
    record: dict[str, Any], parts: Parts, pad_id: int, rows: dict[str, RowsOfBoth]
) -> RowBatches | MixedBatches:
    """What `fit` reads: a task's rows, or those of several tasks mixed. UsageError for a task that would have no
    step.
    """
    train = from_dict(TrainSettings, record["settings"], "train.")
    each = {
        name: RowBatches(
            data.task, rows[name][0], pad_id=pad_id, batch_size=train.batch_size, seed=train.seed
        )
        for name, data in parts.items()
    }
    if len(each) == 1:
        return each[record["task"]]
    mixed = MixedBatches(each, power=from_dict(MixSettings, record["mix"], "mix.").power, seed=train.seed)
    if missed := [name for name, n in mixed.counts(train.steps).items() if not n]:
        raise UsageError(
            f"none of the {train.steps} steps is of {missed[0]}, with {len(rows[missed[0]][0]):,} rows: train longer"
            " (--epochs), or deal more evenly (--set mix.power=0)"
        )
    return mixed


def on_dev(
    model: LanguageModel, *, task: Task, examples: list[Example], rows: list[Row], pad_id: int
) -> dict[str, Any]:
    """`scored`, of a model that reads ids."""
    return scored(task, examples, answers(model, task, rows, pad_id))


def on_dev_texts(
    model: LanguageModel, *, task: Task, examples: list[Example], tokenizer: tokenizers.Tokenizer
) -> dict[str, Any]:
    """`scored`, of a model that reads texts."""
    return scored(task, examples, read(model, task, tokenizer, examples))


def scored(task: Task, examples: list[Example], outputs: list[Any]) -> dict[str, Any]:
    """What the log says of the rows held out: the task's figures, the first of which chooses the weights."""
    scores = task.scores(examples, outputs)
    figures = {name: round(value["value"], 6) for name, value in scores.items() if isinstance(value, dict)}
    first = next(iter(figures.values()))
    return {"validation": figures.get("nats", 1 - first), "criterion": -first, **figures}


def on_all(model: LanguageModel, *, each: dict[str, Evaluate]) -> dict[str, Any]:
    """What the log says of several tasks: the figures of each, and the mean of their first ones, which chooses the
    weights.
    """
    told = {name: evaluate(model) for name, evaluate in each.items()}
    mean = round(fmean(-found["criterion"] for found in told.values()), 6)
    figures = {
        f"{name}/{figure}": value
        for name, found in told.items()
        for figure, value in found.items()
        if figure not in ("validation", "criterion")
    }
    return {"validation": round(1 - mean, 6), "criterion": -mean, **figures}


def resume(path: Path) -> Path:
    """Go on with a fine-tuning from its newest good checkpoint; a finished one says so.

    Raises RunError where the data is gone or changed.
    """
    run = open_run(path)
    if run.finished:
        verify(path)
        notice(f"{path} is finished ({run.record.get('steps', '?')} steps); nothing to resume")
        return path
    one_thread()
    augment = run.record.get("augment")
    how = {name: each for name, each in augment.items() if name != "texts"} if augment else None
    made = from_dict(AugmentSettings, how, "augment.") if how else None
    parts = {name: data_again(run, name, made) for name in names_of(run.record)}
    if augment and augment["texts"] != texts_of(parts):
        raise RunError(
            f"augmentation no longer makes the rows {path} was started on: its words come from other files now"
            f" ({how}); bring them back, or fine-tune anew with --out elsewhere"
        )
    tokenizer = read_tokenizer(run)
    family = run.record["family"]
    config: Any = from_dict(family_of(family)[1], run.record["config"], "model.")
    rows = {name: encoded(data, family, config, tokenizer) for name, data in parts.items()}
    return train_to_end(run, prepare(run.record, parts, tokenizer, rows))


def data_again(run: RunFolder, name: str, augment: AugmentSettings | None) -> Data:
    """The data of a run's task as it was when the run was started; RunError where it is other data now."""
    record = learnt(run.record, name, run.path)
    kept = record["corpus"]
    dev = Path(kept["dev"]) if kept["dev"] else None
    wish = Wish(Path(kept["path"]), record["task"], dev=dev, columns=kept["columns"], seed=record["seed"])
    if source(wish)["fingerprint"] != kept["fingerprint"]:
        raise RunError(
            f"{kept['path']} is not what {run.path} was started on; bring the old rows back, or fine-tune anew with"
            " --out elsewhere"
        )
    cls = task_class(wish.task)
    data = read_data(cls, from_dict(cls.config, record["task_settings"], "task."), wish, augment)
    data.task.called = name
    return data

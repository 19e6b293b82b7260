"""Training as functions: `train`, `resume`, `finetune`, `tune`, and the tokenizers made for them."""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from textus.api.data import input_rows
from textus.api.run import Run
from textus.api.signatures import with_options
from textus.core import io
from textus.core.arguments import to_optional_path, to_path
from textus.core.console import log_notice
from textus.core.errors import RunError, UsageError
from textus.core.names import nearest_name, unknown_name_error
from textus.core.requests import build_request
from textus.finetuning.config import FinetuneConfig, TuneConfig
from textus.training.config import PretrainConfig

if TYPE_CHECKING:
    from textus.data.corpus import Corpus
    from textus.tokenizers import Tokenizer

KINDS = ("char", "word", "bpe", "wordpiece", "unigram")
"""Kinds of tokenizers."""


# ── tokenizers ─────────────────────────────────────────────────────────────────────────────────


def train_tokenizer(
    corpus: str | Path | Corpus,
    *,
    out: str | Path,
    kind: str = "bpe",
    vocab_size: int = 4096,
    force: bool = False,
) -> Tokenizer:
    """Train a tokenizer on a corpus' training split and save it at `out` in Hugging Face format.

    `kind` is char, word, bpe, wordpiece or unigram; `vocab_size` counts special tokens too. Raises UsageError for
    another kind, or where `out` exists.

    Example:
        >>> tokenizer = textus.train_tokenizer("work/corpus", out="work/tokenizer", kind="char")
        >>> tokenizer.decode(tokenizer.encode("the cat"))
        'the cat'
    """
    from textus.data.corpus import Corpus, open_corpus
    from textus.tokenizers import train as fit

    out = to_path(out, "out")
    if kind not in KINDS:
        raise unknown_name_error("tokenizer kind", kind, KINDS)
    opened = corpus if isinstance(corpus, Corpus) else open_corpus(to_path(corpus, "corpus"))
    io.check_output_dir(out, force=force, kind="tokenizer")
    tokenizer = fit(kind, opened.texts("train"), vocab_size)
    with io.atomic_folder(out) as folder:
        tokenizer.save(folder)
    return tokenizer


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Load a tokenizer from its folder or its tokenizer.json. Raises RunError where it is missing or damaged.

    Example:
        >>> textus.load_tokenizer("work/run").kind
        'char'
    """
    from textus.tokenizers import load

    return load(to_path(path, "the path"))


def fitting_vocab_size(n_bytes: int) -> int:
    """The vocabulary size for a corpus of `n_bytes`: about one entry per 250 bytes, 320 to 8,192, a power of two. With
    fewer bytes per entry, most are too rare to be trained.
    """
    if n_bytes < 250 * 512:
        return 320
    return min(8192, 2 ** round(math.log2(n_bytes / 250)))


def chosen_tokenizer(corpus: Path, choice: str | None) -> Path:
    """The tokenizer's folder for `train --tokenizer`: as given, or one trained for this corpus and kept inside it."""
    from textus.data.corpus import open_corpus

    if choice is not None and choice not in KINDS:
        if not Path(choice).exists():
            near = nearest_name(choice, KINDS)
            hint = f" (did you mean the kind {near!r}?)" if near else ""
            raise UsageError(
                "unknown_name",
                f"--tokenizer {choice}: no such folder or kind{hint}; kinds: {', '.join(KINDS)}",
            )
        return Path(choice)
    opened = open_corpus(corpus)
    kind = choice or "bpe"
    n_bytes = opened.n_bytes("train") * (
        2 if opened.has_pairs else 1
    )  # the sources of pairs are trained on too
    vocab_size = fitting_vocab_size(n_bytes)
    folder = corpus / "tokenizers" / f"{kind}-{vocab_size}"
    if not (folder / "tokenizer.json").exists():
        if choice is None:
            log_notice(f"tokenizer: byte-level BPE of {vocab_size:,} entries, which suits {n_bytes:,} bytes")
        train_tokenizer(opened, out=folder, kind=kind, vocab_size=vocab_size, force=True)
    return folder


# ── pretraining ────────────────────────────────────────────────────────────────────────────────


@with_options(PretrainConfig)
def train(
    corpus: str | Path | Corpus,
    *,
    out: str | Path,
    config: PretrainConfig | None = None,
    force: bool = False,
    **options: Any,
) -> Run:
    """Train a model on a corpus folder and return its run; options are given as a `PretrainConfig` or as keywords.

    Raises UsageError for options that are wrong or an `out` that exists, DataError for a corpus without text,
    TrainingError if the loss is not finite or the disk is full.

    Example:
        >>> run = textus.train("work/corpus", out="work/ngram", model="ngram", tokenizer="char")
        >>> run.record["family"]
        'ngram'
    """
    from textus.training import pretrain

    out, folder = to_path(out, "out"), to_path(corpus, "corpus")
    config = build_request(PretrainConfig, config, options)
    if config.init_from:
        Run(config.init_from).require_language_model()
    config.check()
    io.check_output_dir(out, force=force)
    tokenizer = config.init_from or chosen_tokenizer(folder, config.tokenizer)
    return Run(pretrain.train(folder, out, config, tokenizer=tokenizer, force=force))


def resume(
    path: str | Path,
    *,
    corpus: str | Path | None = None,
    dev: str | Path | None = None,
    until: int | None = None,
) -> Run:
    """Continue an interrupted run from its newest checkpoint that verifies; a finished run is returned as it is.

    `corpus`: where the corpus (of a fine-tuned run the labelled file) is now, if it was moved; `dev`: the same of the
    validation rows. `until`: a step to stop at, as Ctrl-C would. Raises RunError where data is missing or has changed.

    Example:
        >>> textus.resume("work/run").record["status"]
        'finished'
    """
    moved = to_optional_path(corpus, "corpus")
    if Run(path).tasks:
        from textus.finetuning.finetune import resume as resume_finetuning

        return Run(
            resume_finetuning(
                to_path(path, "the path"), data=moved, dev=to_optional_path(dev, "dev"), until=until
            )
        )
    from textus.training.pretrain import resume as resume_pretraining

    if dev:
        raise UsageError(
            "option_not_applicable", f"--dev {dev}: goes with fine-tuned runs; {path} is trained on a corpus"
        )
    return Run(resume_pretraining(to_path(path, "the path"), corpus=moved, until=until))


def verify_determinism(path: str | Path) -> dict[str, Any]:
    """Resume a copy of a finished run from the checkpoint before its last (without one, train it again and interrupt it
    half-way), and compare every byte of the weights.

    The copy is next to the run and is removed. Raises RunError for a run that is not finished, or if a byte differs.

    Example:
        >>> textus.verify_determinism("work/run")["identical"]
        True
    """
    from textus.runs.store import open_run
    from textus.training.trainer import TrainingInterrupted

    path = to_path(path, "the path")
    run = open_run(path)
    if not run.finished:
        raise RunError("run_unfinished", f"{path} is not finished; continue it first: textus resume {path}")
    with tempfile.TemporaryDirectory(dir=path.resolve().parent, prefix=f".{path.name}.proof-") as folder:
        copy = Path(folder) / path.name
        shutil.copytree(path, copy)
        first = open_run(copy).unfinish()
        half = run.record["steps"] // 2
        if not first and half:
            with contextlib.suppress(TrainingInterrupted):
                resume(copy, until=half)
            first = half
        resume(copy)
        expected, actual = (io.sha256(run_path / "model.safetensors") for run_path in (path, copy))
    if expected != actual:
        raise RunError(
            "not_reproduced",
            f"{path} resumed from step {first} ends in other weights ({actual[:12]}…, not {expected[:12]}…)",
        )
    return {"run": str(path), "resumed_from_step": first, "sha256": expected, "identical": True}


# ── fine-tuning ────────────────────────────────────────────────────────────────────────────────


@with_options(FinetuneConfig)
def finetune(
    data: Any,
    *,
    out: str | Path,
    config: FinetuneConfig | None = None,
    force: bool = False,
    **options: Any,
) -> Run:
    """Train a task on labelled rows, from a run (`init_from`) or a new model (`model`), and return its run.

    `data` and `dev` are files (a str or Path), or labelled rows of Python: dictionaries, a DataFrame, or a pair (X, y);
    these are kept next to the run, as OUT.rows.jsonl and OUT.dev.jsonl, so that it can be resumed. Options are given as
    a `FinetuneConfig` or as keywords.

    Raises UsageError for options that do not go together, DataError for data the task cannot use.

    Example:
        >>> run = textus.finetune("reviews.csv", out="work/linear", model="linear")
        >>> run.predict("a good film")["label"]
        'good'
    """
    from textus.finetuning.finetune import start

    out = to_path(out, "out")
    io.check_output_dir(out, force=force)
    with finetuning_request(FinetuneConfig, config, data, out, options) as request:
        return Run(start(request, out, force=force))


@with_options(TuneConfig)
def tune(data: Any, *, out: str | Path, config: TuneConfig | None = None, **options: Any) -> dict[str, Any]:
    """Search the settings that fine-tune best, and keep the best run. Options are given as a `TuneConfig` or as
    keywords, those of `finetune` among them; an interrupted search continues.

    Returns the trials, the best settings and the command that reproduces the run. Raises UsageError for options that
    are wrong, RunError where `out` holds another search.

    Example:
        >>> textus.tune("reviews.csv", out="work/tuned", model="linear", trials=1)["counts"]
        {'done': 1, 'stopped early': 0, 'failed': 0}
    """
    from textus.finetuning.hyperparameters import tune as search

    out = to_path(out, "out")
    with finetuning_request(TuneConfig, config, data, out, options) as request:
        return search(request, out)


Request = TypeVar("Request", bound=FinetuneConfig)


@contextlib.contextmanager
def finetuning_request(
    cls: type[Request], config: Request | None, data: Any, out: Path, options: dict[str, Any]
) -> Iterator[Request]:
    """The request of a fine-tuning with its files; rows of Python are written next to `out`."""
    dev = options.pop("dev", config.dev if config else None)
    request = build_request(cls, config, options)
    with input_rows(out, request.task, rows=data, dev=dev) as (rows, held_out):
        yield replace(request, data=to_path(rows, "data"), dev=to_optional_path(held_out, "dev"))

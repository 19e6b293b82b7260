"""A run folder opened: it generates, talks, predicts, scores and evaluates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textus.api.checks import check_messages, check_string, is_texts
from textus.api.conversation import fitting_ids
from textus.api.signatures import with_options
from textus.api.task_methods import TaskMethods
from textus.core.arguments import note_on_interrupt, to_path
from textus.core.errors import DataError, RunError, UsageError
from textus.core.requests import build_request
from textus.evaluation.config import EvalConfig
from textus.generation.params import SamplingParams, sampling_params
from textus.reporting.html import check_report_folder
from textus.runs.record import RunRecord
from textus.tasks.config import task_settings

if TYPE_CHECKING:
    from textus.data.corpus import Corpus
    from textus.data.read_options import ReadOptions
    from textus.generation.streaming import DecodedStream
    from textus.models.contract import LanguageModel
    from textus.tasks.base import Task
    from textus.tokenizers import Tokenizer


class Run(TaskMethods):
    """A trained model in its folder: it generates, talks, scores and evaluates. Reading is lazy."""

    def __init__(self, path: str | Path) -> None:
        self.path = to_path(path, "the run")

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @cached_property
    def record(self) -> RunRecord:
        """The content of run.json: family, config, corpus, seed, choices, steps, best figures, versions."""
        from textus.runs.store import open_run as opened

        return opened(self.path).record

    @cached_property
    def _loaded(self) -> tuple[LanguageModel, Tokenizer]:
        from textus.tasks.registry import load_for_task

        return load_for_task(self.path)[:2]

    @property
    def model(self) -> LanguageModel:
        """The model with the weights to use, every file verified when read."""
        return self._loaded[0]

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer it was trained with."""
        return self._loaded[1]

    @property
    def supports_chat(self) -> bool:
        """Whether it was trained on conversations; other runs continue texts."""
        return self.record.get("task") == "chat"

    @property
    def chat_fault(self) -> str:
        """Why its chat template was refused when it was imported; empty for every other run."""
        return "" if self.supports_chat else str(self.record.get("chat_fault", ""))

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks it was fine-tuned for; none for a run that predicts text."""
        from textus.tasks.registry import task_names

        return task_names(self.record)

    @property
    def task(self) -> Task:
        """The one task it was fine-tuned for, with its classes; UsageError for a run without one, or with several."""
        return self.get_task(None)

    def get_task(self, name: str | None) -> Task:
        """A task it was fine-tuned for, by its name; None: the only one. UsageError for another, and for none where
        there are several.
        """
        from textus.tasks.registry import record_for_task, task_from_record

        if name is not None:
            check_string(name, "name of a task")
        if not self.tasks:
            raise UsageError(
                "not_fine_tuned",
                f"{self.path} was not fine-tuned for a task; make one: textus finetune DATA --from {self.path}"
                " --out FOLDER",
            )
        return task_from_record(record_for_task(self.record, name, self.path))

    def require_language_model(self) -> None:
        """UsageError for a run that was fine-tuned for a task: it no longer predicts text."""
        if self.tasks:
            which = f" --task {self.tasks[0]}" if len(self.tasks) > 1 else ""
            raise UsageError(
                "not_a_language_model",
                f"{self.path} was fine-tuned for {', '.join(self.tasks)} and does not continue texts: textus predict"
                f" {self.path}{which} TEXT",
            )

    @cached_property
    def _outline(self) -> LanguageModel:
        """The model without its weights: what it can do is known before anything is read."""
        import torch

        from textus.models.registry import build

        with torch.device("meta"):
            return build(self.record["family"], self.record["config"])

    @property
    def needs_source(self) -> bool:
        """Whether it makes a text from another."""
        return self._outline.capabilities.needs_source

    @property
    def can_generate(self) -> bool:
        """Whether it writes texts."""
        return self._outline.capabilities.can_generate

    def text_options(self, file: str | Path, given: ReadOptions, *others: str | Path) -> ReadOptions:
        """How a file of texts is read: as given, else in the encoding of the rows that this run (and `others`) was
        trained on, where the file fits it.
        """
        from textus.data.inputs import resolve_options
        from textus.data.read_options import ReadOptions, common_read_options, run_read_options

        records = [self.record, *(Run(path).record for path in others)]
        trained = common_read_options([run_read_options(record) for record in records])
        return resolve_options(to_path(file, "file"), given, ReadOptions(encoding=trained.encoding))

    def as_task(self, name: str, settings: Sequence[str] = ()) -> Task:
        """A task the run has learned, by its name, or similarity for a run that has not learned it; `settings` are
        assignments to its fields, such as "pooling=cls".

        Raises UsageError for another task, or settings of one that is learned.
        """
        from textus.tasks.registry import registered_tasks

        if name in self.tasks or (len(self.tasks) > 1 and name not in registered_tasks()):
            if settings:
                raise UsageError(
                    "option_not_applicable",
                    f"--set task.{settings[0]}: {self.path} has learned {name} as it is; leave it out",
                )
            return self.get_task(name)
        from textus.tasks.registry import task_class
        from textus.tasks.similarity import make_similarity_task

        if task_class(name).name != "similarity":
            raise UsageError(
                "wrong_task",
                f"{self.path} was not fine-tuned for {name}: textus finetune DATA --from {self.path} --task {name}",
            )
        return make_similarity_task(self.model, settings)

    def vectors_of(self, settings: Sequence[str] = ()) -> Callable[[Sequence[str]], Any]:
        """What makes vectors of texts: (texts, D) float32, each of length one."""
        from textus.tasks.registry import head_of_kind
        from textus.tasks.similarity import embed_texts

        task = self.as_task(head_of_kind(self.record, "similarity") or "similarity", settings)
        return lambda texts: embed_texts(self.model, task, self.tokenizer, texts)

    def embed(
        self,
        given: Any,
        *,
        columns: str | None = None,
        encoding: str | None = None,
        overrides: Sequence[str] = (),
    ) -> Any:
        """The vector (D,) of one text (a string), or an array (texts, D) of several, in order: strings, rows, or a file
        (a Path); float32, each of length one.
        """
        from textus.api.checks import check_text
        from textus.data.read_options import ReadOptions
        from textus.pipelines.embeddings import embed

        given, options = check_text(given), ReadOptions(columns, encoding)
        if isinstance(given, Path):
            options = self.text_options(given, options)
        return embed(self.vectors_of(task_settings(overrides)), given, options)

    @with_options(SamplingParams)
    def stream(self, prompt: str = "", params: SamplingParams | None = None, **options: Any) -> DecodedStream:
        """The continuation of a text, in pieces as they are generated; sampling options are given as `SamplingParams`
        or as keywords.

        An empty prompt begins a new document. For a model that makes a text from another, the prompt is that
        other text. When the context is full the text ends, unless `sliding=True`: then it continues without its first
        half. Raises UsageError for a value out of range, or a prompt longer than the context, before anything is
        generated.
        """
        from textus.generation.sampling import bos_ids

        check_string(prompt, "prompt")
        params, tokenizer = sampling_params(params, options), self.tokenizer
        ids = [*tokenizer.bos_ids, *tokenizer.encode(prompt)]
        if self.model.capabilities.needs_source:
            first = bos_ids(self.model, tokenizer.end_id)
            return self._pieces(first, params, tokenizer.end_ids, source=ids)
        return self._pieces(ids or [tokenizer.end_id], params, tokenizer.end_ids)

    @with_options(SamplingParams)
    def generate(self, prompt: str = "", params: SamplingParams | None = None, **options: Any) -> str:
        """The continuation of a text, whole; see `stream`."""
        return "".join(self.stream(prompt, params, **options))

    @with_options(SamplingParams)
    def stream_chat(
        self, messages: Sequence[dict[str, str]], params: SamplingParams | None = None, **options: Any
    ) -> DecodedStream:
        """The answer to a conversation of {"role", "content"} messages, in pieces; `reason` is how it ended.

        A run that was not trained on conversations reads them as one plain text, one line per message, and continues it
        by one line. When the conversation and `max_tokens` are longer than the context, the oldest turns are left out,
        question and answer together, with a notice; the system message is kept. A model that makes a text from another
        is given the last message alone.
        """
        from dataclasses import replace

        from textus.tokenizers.chat_template import text_of

        check_messages(messages)
        params = sampling_params(params, options)
        if self.model.capabilities.needs_source:
            return self.stream(text_of(messages[-1], len(messages) - 1), params)
        ids = fitting_ids(
            list(messages), params.max_tokens, self.model.config.context_length, self._conversation
        )
        if self.supports_chat:
            return self._pieces(ids, params, self.tokenizer.turn_end_ids)
        return self._pieces(ids, replace(params, stop=(*params.stop, "\n")), self.tokenizer.end_ids)

    @with_options(SamplingParams)
    def chat(
        self, messages: Sequence[dict[str, str]], params: SamplingParams | None = None, **options: Any
    ) -> str:
        """The answer to a conversation, whole; see `stream_chat`."""
        return "".join(self.stream_chat(messages, params, **options))

    def _conversation(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """A conversation as ids: by the chat template, or as lines of a plain text."""
        if self.supports_chat:
            return self.tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        from textus.tokenizers.chat_template import text_of

        text = "".join(f"{text_of(message, number)}\n" for number, message in enumerate(messages))
        return [*self.tokenizer.bos_ids, *self.tokenizer.encode(text)]

    def _pieces(
        self, ids: list[int], sampling: SamplingParams, ends: tuple[int, ...], source: list[int] | None = None
    ) -> DecodedStream:
        from textus.generation.beam import search_events
        from textus.generation.engine import Engine, check_request
        from textus.generation.streaming import DecodedStream, TextStream

        self.require_language_model()
        check_request(self.model, ids, sampling, source)
        n_ids = self.tokenizer.vocab_size
        if sampling.searches:
            events = search_events(self.model, ids, sampling, source=source, ends=ends, n_ids=n_ids)
        else:
            engine = Engine(self.model, end_id=ends, n_ids=n_ids)
            events = engine.stream([ids], sampling, None if source is None else [source])
        return DecodedStream(events, TextStream(self.tokenizer, sampling.stop))

    @note_on_interrupt()
    def evaluate(
        self,
        on: Any = None,
        *,
        out: str | Path | None = None,
        config: EvalConfig | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """How good it is; options are given as an `EvalConfig` or as keywords. `out`: a folder for the page and the
        figures.

        Of a model of text: bits per byte, perplexity and more of a text file (or strings, each a document), or without
        one of the corpus' validation split; `findings` are the family's own figures, if it has some, `samples` how
        repetitive and how varied the model's own texts are.

        Of a fine-tuned run: the task's figures with their intervals on labelled rows of a file or of Python
        (dictionaries, a DataFrame, a pair (X, y)), next to those of baselines, the linear one of which is trained on
        first use; the run's folder is only read. `task` and `overrides` are as for `as_task`. With `entities`, the
        tagging run that finds the entities of a relations run, the rows' own entities are what is to be found, and
        neither baseline nor page goes with the figures.

        Of a run trained on conversations, or with `task="chat"`: bits per byte of held-out answers, next to its parent.
        Raises DataError where there is no text, UsageError for options of the other kind of run.
        """
        check_report_folder(out)
        config = build_request(EvalConfig, config, options)
        if config.ensemble is not None:
            raise UsageError(
                "option_not_applicable", f"--ensemble {config.ensemble}: {self.path} is one run; give several"
            )
        if config.overrides and not config.task:
            raise UsageError(
                "option_not_applicable", f"--set {config.overrides[0]}: goes with --task similarity alone"
            )
        if self._evaluates_chat(config):
            return self._evaluate_chat(on, out, config)
        if name := config.task or ", ".join(self.tasks):
            if config.stride is not None:
                raise UsageError(
                    "option_not_applicable",
                    f"--stride {config.stride}: {self.path} is evaluated for {name}, not as a language model;"
                    " leave it out",
                )
            if on is None:
                raise UsageError(
                    "missing_argument", f"{self.path} is evaluated for {name}: give labelled rows, --on FILE"
                )
            if config.entities is not None:
                return self._evaluate_raw_text(on, out, config)
            return self._evaluate_task(on, out, config)
        for flag, given in (
            ("--slice", config.slices), ("--no-baselines", not config.baselines), ("--entities", config.entities),
            ("--skip-invalid", config.skip_invalid),
        ):  # fmt: skip
            if given:
                raise UsageError(
                    "option_not_applicable",
                    f"{flag}: {self.path} was not fine-tuned for a task; leave it out",
                )
        return self._evaluate_text(on, out, config)

    def _evaluate_text(self, on: Any, out: str | Path | None, config: EvalConfig) -> dict[str, Any]:
        """The figures of a model of text."""
        from textus.evaluation.perplexity import evaluate, first_sources, model_metrics, sample_quality

        model, tokenizer = self.model, self.tokenizer
        texts = self.eval_text(on, encoding=config.encoding, columns=config.columns)
        result = {"run": str(self.path), **evaluate(model, tokenizer, texts, stride=config.stride)}
        result["on"] = "the texts given" if is_texts(on) else "validation split" if on is None else str(on)
        if findings := model_metrics(model, tokenizer, texts):
            result["findings"] = findings
        if config.samples and model.capabilities.can_generate:
            sources = first_sources(model, tokenizer, texts)
            result["samples"] = sample_quality(model, tokenizer, sources=sources)
        if out is not None:
            from textus.evaluation.comparison import write_evaluation

            sample = self.sample(texts) if model.capabilities.can_generate else None
            write_evaluation(to_path(out, "out"), result, sample, {self.path.name: self.path / "log.jsonl"})
        return result

    def score(self, text: str, *, stride: int | None = None) -> Any:
        """Nats of each token of a text: an `evaluation.perplexity.TokenScores`."""
        self.require_language_model()
        check_string(text, "text")
        from textus.evaluation.perplexity import score_text

        return score_text(self.model, self.tokenizer, text, stride=stride)

    def eval_text(
        self, on: Any, pairs: bool | None = None, encoding: str | None = None, columns: str | None = None
    ) -> Any:
        """What to measure on; `pairs`: whether a file is read as pairs (None: if this model needs them)."""
        from textus.data.eval_text import corpus_split_text, read_documents, read_pairs, to_eval_text
        from textus.data.inputs import to_items

        for name, value in (("encoding", encoding), ("columns", columns)):
            if value and (on is None or is_texts(on)):
                raise UsageError(
                    "option_not_applicable", f"--{name} {value}: goes with a file, --on FILE; leave it out"
                )
        if on is None:
            return corpus_split_text(self._corpus())
        if is_texts(on):
            items, _ = to_items(on)
            if not all(isinstance(item, str) for item in items):
                raise UsageError(
                    "missing_argument", f"{self.path} predicts text: give strings, or the path of a file"
                )
            return to_eval_text(items)
        of_pairs = self.model.capabilities.needs_source if pairs is None else pairs
        return (read_pairs if of_pairs else read_documents)(on, encoding or "", columns)

    def sample(self, texts: Any) -> tuple[str, str]:
        """What the model was given (the first source it can read whole, where it needs one), and its text."""
        from textus.evaluation.perplexity import source_ids

        known = (part for part in texts if part.source and self.model.capabilities.needs_source)
        fits = (part.source for part in known if not source_ids(self.model, self.tokenizer, part)[1])
        source = next(fits, "")
        return source, self.generate(source, max_tokens=120, sliding=True)

    def _corpus(self) -> Corpus:
        """The corpus it was trained on; RunError where it has moved or changed since."""
        from textus.data.corpus import open_corpus

        recorded = self.record.get("corpus") or {}
        path = Path(recorded.get("path", ""))
        if not recorded or not path.is_dir():
            raise RunError(
                "not_found", f"the corpus of {self.path} is not at {path}; give a text file: --on FILE"
            )
        corpus = open_corpus(path)
        if corpus.fingerprint != recorded.get("fingerprint"):
            raise RunError(
                "data_changed",
                f"{path} is another corpus than {self.path} was trained on; give a text file: --on FILE",
            )
        if not corpus.n_bytes("validation"):
            raise DataError("empty_data", f"{path} has no validation split; give a text file: --on FILE")
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

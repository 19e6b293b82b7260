"""A run folder opened: it generates, talks, predicts, scores and evaluates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textus.common import DataError, RunError, UsageError, notice

if TYPE_CHECKING:
    from textus.corpus import Corpus
    from textus.generation import Sampling
    from textus.models import LanguageModel
    from textus.tasks import Task
    from textus.tokenizer import Tokenizer


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
        from textus.tasks import opened

        return opened(self.path)[:2]

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
    def tasks(self) -> list[str]:
        """The names of the tasks it was fine-tuned for; none for a run that predicts text."""
        from textus.tasks import names_of

        return names_of(self.record)

    @property
    def task(self) -> Task:
        """The one task it was fine-tuned for, with its classes; UsageError for a run without one, or with several."""
        return self.task_called(None)

    def task_called(self, name: str | None) -> Task:
        """A task it was fine-tuned for, by its name; None: the only one. UsageError for another, and for none where
        there are several.
        """
        from textus.tasks import from_record, learnt

        if not self.tasks:
            raise UsageError(
                f"{self.path} was not fine-tuned for a task; make one: textus finetune DATA --from {self.path}"
                " --out FOLDER"
            )
        return from_record(learnt(self.record, name, self.path))

    def refuse_task(self) -> None:
        """UsageError for a run that was fine-tuned for a task: what it makes of text is not what it was taught."""
        if self.tasks:
            which = f" --task {self.tasks[0]}" if len(self.tasks) > 1 else ""
            raise UsageError(
                f"{self.path} was fine-tuned for {', '.join(self.tasks)}, not to predict text: textus predict"
                f" {self.path}{which} TEXT"
            )

    def predict(
        self,
        texts: Sequence[str | tuple[str, ...]] | Path,
        *,
        columns: str | None = None,
        task: str | None = None,
    ) -> list[dict[str, Any]]:
        """The task's answer for each text (or pair of texts), or for each row of a file, in order; `task`: the name of
        one, of a run that has learnt several.

        Raises DataError for a file that the task cannot read.
        """
        from textus.tasks import examples_of, predictions

        asked = self.task_called(task)
        return predictions(self.model, asked, self.tokenizer, examples_of(asked, texts, columns))

    def evaluate_task(
        self,
        on: str | Path,
        *,
        columns: str | None = None,
        by: Sequence[str] = (),
        floors: bool = True,
        out: str | Path | None = None,
        task: str | None = None,
        settings: Sequence[str] = (),
        entities: str | Path | None = None,
        skip_invalid: str | None = None,
    ) -> dict[str, Any]:
        """How well it answers the labelled rows of a file: the task's figures with their intervals.

        `by`: columns of the file whose values are told apart, or `length`. `floors`: beside what those who know less
        reach, which the first time may mean to train one. `out`: a folder for the page and the figures. `task`: the
        name of one of several it has learnt, or of another, with `settings`, as `task_as` takes them. `entities`: of a
        relations run, the tagging run that finds the entities; the rows' own are then what is to be found, and no floor
        or page goes with the figures. `skip_invalid`: the share of rows that may be left out because they cannot be
        used, such as "5%", or "all".
        """
        if entities is not None:
            from textus.extracting import measured

            if by or out:
                raise UsageError(
                    "--entities: --slice and --out go with the rows' own entities; leave them out"
                )
            found = measured(Path(entities), self.path, Path(on), columns)
            about = {"run": str(self.path), "entities": str(entities), "on": str(on)}
            return {**about, "task": "relations from raw text", **found}
        from textus import scoring
        from textus.tasks import learnt, read

        asked = self.task_as(task, settings) if task else self.task
        asked.skip_invalid = skip_invalid
        rows = scoring.read_rows(asked, Path(on), columns)
        outputs = read(self.model, asked, self.tokenizer, rows.examples)
        about = {"run": str(self.path), "on": str(on), "task": asked.called}
        found = {**about, **scoring.assessed(rows, outputs, by)}
        if asked.called in self.tasks:
            record = learnt(self.record, asked.called, self.path)
            found["rows_trained_on"] = scoring.trained_on(record, rows)
            if floors and (lower := scoring.floors(self.path, record, rows, outputs)):
                found["floors"] = lower
        if out is not None:
            scoring.write(Path(out), found, asked, {self.path.name: self.path / "log.jsonl"})
        return found

    def triples(
        self,
        file: str | Path,
        *,
        entities: str | Path,
        columns: str | None = None,
        out: str | Path | None = None,
        force: bool = False,
    ) -> dict[str, Any]:
        """The triples in a file's raw texts: the tagging run `entities` finds the entities, this relations run what
        joins them. `out`: a file to write, .jsonl, .csv or .graphml.

        Raises UsageError for runs of other tasks, DataError for a file without texts.
        """
        from textus import extracting

        if out is not None:
            extracting.kind_of(Path(out), force=force)
        found = extracting.triples(Path(file), Path(entities), self.path, columns)
        if out is not None:
            extracting.write(Path(out), found["triples"], force=force)
        return {"run": str(self.path), "entities_run": str(entities), "on": str(file), **found}

    def task_as(self, name: str, settings: Sequence[str] = ()) -> Task:
        """A task the run has learnt, by its name, or similarity for a run that has not learnt it; `settings` are
        assignments to its fields, such as "pooling=cls".

        Raises UsageError for another task, or settings of one that is learnt.
        """
        from textus.tasks import TASKS

        if name in self.tasks or (len(self.tasks) > 1 and name not in TASKS):
            if settings:
                raise UsageError(
                    f"--set task.{settings[0]}: {self.path} has learnt {name} as it is; leave it out"
                )
            return self.task_called(name)
        from textus.tasks import task_class
        from textus.tasks.similarity import similarity_of

        if task_class(name).name != "similarity":
            raise UsageError(
                f"{self.path} has not learnt {name}: textus finetune DATA --from {self.path} --task {name} --out FOLDER"
            )
        return similarity_of(self.model, settings)

    def embed(self, texts: Sequence[str], *, settings: Sequence[str] = ()) -> Any:
        """Vectors of texts, in order: an array (texts, D), float32, each of length one."""
        from textus.tasks import named_of_kind
        from textus.tasks.similarity import vectors

        name = named_of_kind(self.record, "similarity") or "similarity"
        return vectors(self.model, self.task_as(name, settings), self.tokenizer, texts)

    def robustness(
        self,
        on: str | Path,
        *,
        columns: str | None = None,
        vectors: str | Path | None = None,
        task: str | None = None,
    ) -> dict[str, Any]:
        """What it loses on the labelled rows of a file under typos, synonyms (by word `vectors`, else WordNet), case,
        spacing and irrelevant sentences.
        """
        from textus.robustness import robustness

        words, asked = Path(vectors) if vectors else None, self.task_called(task)
        found = robustness(self.model, asked, self.tokenizer, Path(on), columns=columns, vectors=words)
        return {"run": str(self.path), "on": str(on), "task": asked.called, **found}

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
        from textus.corpus import open_corpus

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

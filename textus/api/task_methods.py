"""What a run that was fine-tuned for a task does: the part of `Run` for predictions, rewritten texts and triples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textus.core.arguments import to_optional_path, to_path
from textus.core.errors import UsageError
from textus.core.requests import build_request
from textus.evaluation.config import EvalConfig
from textus.pipelines.config import RewriteConfig
from textus.runs.record import RunRecord

if TYPE_CHECKING:
    from textus.data.read_options import ReadOptions
    from textus.models.contract import LanguageModel
    from textus.pipelines.rewriting import Rewriter
    from textus.tasks.base import Task
    from textus.tasks.prediction import Predictor
    from textus.tokenizers import Tokenizer


class TaskMethods:
    """Methods of `textus.api.run.Run`. A run without a task refuses them with the command that trains one."""

    path: Path

    if TYPE_CHECKING:

        @property
        def record(self) -> RunRecord: ...
        @property
        def model(self) -> LanguageModel: ...
        @property
        def tokenizer(self) -> Tokenizer: ...
        @property
        def tasks(self) -> list[str]: ...
        @property
        def task(self) -> Task: ...
        def get_task(self, name: str | None) -> Task: ...
        def as_task(self, name: str, settings: Sequence[str] = ()) -> Task: ...
        def text_options(self, file: str | Path, given: ReadOptions, *others: str | Path) -> ReadOptions: ...

    def predictor(self, task: str | None) -> Predictor:
        from textus.tasks.prediction import make_predictor
        from textus.tasks.registry import record_for_task

        chosen = self.get_task(task)
        record = record_for_task(self.record, chosen.head_name, self.path)
        return make_predictor(self.model, self.tokenizer, chosen, record, self.path)

    def predict(
        self,
        given: Any,
        *,
        columns: str | None = None,
        encoding: str | None = None,
        task: str | None = None,
        skip_invalid: str | None = None,
    ) -> Any:
        """The task's answer to one text (a string), or a list of answers: to texts, pairs of texts, rows (dictionaries,
        a DataFrame), or the rows of a file (a Path), each with its line and id. `task`: the name of one, of a run that
        has learned several. `skip_invalid`: the share of a file's rows that may be left out because they cannot be
        used, such as "5%", or "all".

        Raises UsageError for what holds no texts, DataError for a file that the task cannot read.
        """
        from textus.api.checks import check_text
        from textus.data.read_options import ReadOptions
        from textus.tasks.prediction import predict

        return predict(self.predictor(task), check_text(given), ReadOptions(columns, encoding, skip_invalid))

    def predict_proba(
        self, given: Any, *, columns: str | None = None, encoding: str | None = None, task: str | None = None
    ) -> Any:
        """The probability of every class, in the order of `task.labels`: an array (texts, classes), or (classes,) for
        one text. UsageError for a task without classes.
        """
        from textus.api.checks import check_text
        from textus.data.read_options import ReadOptions
        from textus.tasks.prediction import probabilities

        return probabilities(self.predictor(task), check_text(given), ReadOptions(columns, encoding))

    def predict_file(
        self,
        given: Any,
        *,
        out: str | Path,
        columns: str | None = None,
        encoding: str | None = None,
        task: str | None = None,
        skip_invalid: str | None = None,
        force: bool = False,
    ) -> dict[str, Any]:
        """The answers to the rows of a file (or whatever `predict` takes) as a file of rows, .csv, .tsv or .jsonl: the
        file's own columns, then the answer and the probability of each class. Rows are written as they are answered;
        the same call continues after a kill.

        Raises UsageError where `out` exists, unless `force`.
        """
        from textus.api.checks import write_predictions
        from textus.data.read_options import ReadOptions

        given = Path(given) if isinstance(given, str) else given
        options = ReadOptions(columns, encoding, skip_invalid)
        about = write_predictions(self.predictor(task), given, to_path(out, "out"), options, force=force)
        return {"run": str(self.path), **about}

    def translate(self, given: Any, config: RewriteConfig | None = None, **options: Any) -> Any:
        """The translation of one text (a string), or a list of those of several, by a text2text run; options are the
        fields of `RewriteConfig`. An empty text has an empty translation; longer ones than the model's context are
        split at sentences. Raises UsageError for a run of another task or goal.
        """
        return self.rewrite(given, "translate", build_request(RewriteConfig, config, options))

    def summarize(self, given: Any, config: RewriteConfig | None = None, **options: Any) -> Any:
        """The summary of one text (a string), or a list of those of several; see `translate`."""
        return self.rewrite(given, "summarize", build_request(RewriteConfig, config, options))

    def rewriter(self, goal: str, config: RewriteConfig) -> Rewriter:
        """What writes texts from others; `goal` is translate or summarize. UsageError for a run of another kind."""
        from textus.pipelines.rewriting import Rewriter, task_for

        task = task_for(self.task, self.path, goal, config)
        return Rewriter(self.model, task, self.tokenizer, self.path)

    def rewrite(self, given: Any, goal: str, config: RewriteConfig) -> Any:
        """The text made from one string, or a list of those made from several."""
        from textus.api.checks import check_text
        from textus.data.inputs import to_items

        items, alone = to_items(check_text(given))
        if others := [item for item in items if not isinstance(item, str)]:
            raise UsageError(
                "wrong_type", f"{others[0]!r:.60} is not a string; give texts, or a Path with out="
            )
        written = self.rewriter(goal, config).write([str(item) for item in items])
        return written[0] if alone else written

    def _evaluate_task(self, on: Any, out: str | Path | None, config: EvalConfig) -> dict[str, Any]:
        """The scores of a task on labelled rows."""
        from textus.api.checks import read_options
        from textus.data.read_options import run_read_options
        from textus.evaluation import task_report
        from textus.tasks.inference import predict_texts
        from textus.tasks.registry import record_for_task

        task = self.as_task(config.task, config.task_settings) if config.task else self.task
        known = task.head_name in self.tasks
        record = record_for_task(self.record, task.head_name, self.path) if known else {}
        rows = task_report.read_rows(task, on, read_options(config), run_read_options(record))
        outputs = predict_texts(self.model, task, self.tokenizer, rows.examples)
        about = {"run": str(self.path), "on": task_report.dataset_name(on), "task": task.head_name}
        scores = {**about, **task_report.task_metrics(rows, outputs, config.slices)}
        if known:
            file = task_report.training_file(record)
            scores["rows_trained_on"] = task_report.count_train_overlap(record, rows, file)
            if config.baselines and (lower := task_report.baselines(self.path, record, rows, outputs, file)):
                scores["baselines"] = lower
        if out is not None:
            task_report.write_task_report(
                to_path(out, "out"), scores, task, {self.path.name: self.path / "log.jsonl"}
            )
            task_report.write_predictions(to_path(out, "out"), rows, outputs)
        return scores

    def _evaluates_chat(self, config: EvalConfig) -> bool:
        """Whether it is evaluated on conversations: it was trained on them, or that is requested."""
        from textus.tasks.registry import trained_tasks

        return config.task == "chat" or (config.task is None and "chat" in trained_tasks(self.record))

    def _evaluate_chat(self, on: Any, out: str | Path | None, config: EvalConfig) -> dict[str, Any]:
        """The figures of answers in held-out conversations."""
        from textus.api.checks import read_options
        from textus.evaluation.chat_report import ChatModel, evaluate_chat

        for flag, given in (("--stride", config.stride), ("--entities", config.entities)):
            if given is not None:
                raise UsageError(
                    "option_not_applicable",
                    f"{flag} {given}: {self.path} is evaluated on conversations; leave it out",
                )
        if on is None:
            raise UsageError(
                "missing_argument", f"{self.path} is evaluated on conversations: give some, --on FILE"
            )
        run = ChatModel(self.path, self.record, self.model, self.tokenizer)
        folder = None if out is None else to_path(out, "out")
        return evaluate_chat(run, on, config, read_options(config), folder)

    def _evaluate_raw_text(self, on: Any, out: str | Path | None, config: EvalConfig) -> dict[str, Any]:
        """The scores of a relations run on texts whose entities the run `config.entities` finds."""
        from textus.api.checks import read_options
        from textus.pipelines.extraction import evaluate_triples

        entities = config.entities
        assert entities is not None
        if config.slices or out or config.skip_invalid:
            raise UsageError(
                "conflicting_options",
                "--entities: --slice, --out and --skip-invalid go with the rows' own entities; leave them out",
            )
        options = self.text_options(on, read_options(config), entities)
        scores = evaluate_triples(entities, self.path, to_path(on, "on"), options)
        about = {"run": str(self.path), "entities": str(entities), "on": str(on)}
        return {**about, "task": "relations from raw text", **scores}

    def triples(
        self,
        file: str | Path,
        *,
        entities: str | Path,
        columns: str | None = None,
        encoding: str | None = None,
        out: str | Path | None = None,
        force: bool = False,
    ) -> dict[str, Any]:
        """The triples in a file's raw texts: the tagging run `entities` finds the entities, this relations run what
        joins them. `out`: a file to write, .jsonl, .csv or .graphml.

        Raises UsageError for runs of other tasks, DataError for a file without texts.
        """
        from textus.data.read_options import ReadOptions
        from textus.pipelines import extraction

        if out is not None:
            extraction.format_for(to_path(out, "out"), force=force)
        options = self.text_options(file, ReadOptions(columns, encoding), entities)
        result = extraction.extract_triples(
            to_path(file, "file"), to_path(entities, "entities"), self.path, options
        )
        if out is not None:
            extraction.write_triples(to_path(out, "out"), result["triples"], force=force)
        return {"run": str(self.path), "entities_run": str(entities), "on": str(file), **result}

    def robustness(
        self,
        on: str | Path,
        *,
        columns: str | None = None,
        encoding: str | None = None,
        vectors: str | Path | None = None,
        task: str | None = None,
    ) -> dict[str, Any]:
        """What it loses on the labelled rows of a file under typos, synonyms (by word `vectors`, else WordNet), case,
        spacing and irrelevant sentences.
        """
        from textus.data.inputs import resolve_options
        from textus.data.read_options import ReadOptions, run_read_options
        from textus.evaluation.robustness import evaluate_robustness
        from textus.tasks.registry import record_for_task

        words, chosen = to_optional_path(vectors, "vectors"), self.get_task(task)
        trained = run_read_options(record_for_task(self.record, chosen.head_name, self.path))
        options = resolve_options(to_path(on, "on"), ReadOptions(columns, encoding), trained)
        report = evaluate_robustness(
            self.model, chosen, self.tokenizer, to_path(on, "on"), options=options, vectors=words
        )
        return {"run": str(self.path), "on": str(on), "task": chosen.head_name, **report}

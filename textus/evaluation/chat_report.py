"""A chat run on held-out conversations: bits per byte of answers next to the run it began from, and answers of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from textus.core.config import apply_overrides
from textus.core.console import log_notice
from textus.core.errors import RunError
from textus.data.conversations import Message
from textus.data.read_options import AUTODETECT, ReadOptions, run_read_options
from textus.evaluation.config import EvalConfig
from textus.evaluation.task_report import (
    EvalDataset,
    count_train_overlap,
    dataset_name,
    read_rows,
    task_metrics,
    write_task_report,
)
from textus.metrics.resampling import interval, paired_bootstrap
from textus.models.contract import LanguageModel
from textus.runs.record import RunRecord
from textus.runs.store import load
from textus.tasks.base import Example
from textus.tasks.chat import AnswerScore, Chat
from textus.tasks.registry import task_from_record, trained_tasks
from textus.tokenizers import Tokenizer
from textus.training.pretrain import check_same_weights


@dataclass(frozen=True)
class ChatModel:
    """A chat run, read: its folder, record, model and tokenizer."""

    path: Path
    record: RunRecord
    model: LanguageModel
    tokenizer: Tokenizer


def evaluate_chat(
    run: ChatModel, on: Any, config: EvalConfig, options: ReadOptions = AUTODETECT, out: Path | None = None
) -> dict[str, Any]:
    """Bits per byte of the answers in held-out conversations with its interval (lower is better), also of the run that
    it began from, on the same rows. With `out`, both answer some of the prompts, and a page is written.

    Raises DataError for rows that are no conversations, UsageError for a run that cannot chat.
    """
    trained = "chat" in trained_tasks(run.record)
    task: Any = task_from_record(run.record) if trained else Chat(Chat.config(), [])
    task.settings = apply_overrides(task.settings, config.task_settings)
    rows = read_rows(task, on, options, run_read_options(run.record) if trained else AUTODETECT)
    scores = task.score(run.model, run.tokenizer, rows.examples)
    rows, scores = without_empty(rows, scores)
    result: dict[str, Any] = {"run": str(run.path), "on": dataset_name(on), "task": "chat"}
    result |= task_metrics(rows, scores, config.slices)
    if trained:
        result["rows_trained_on"] = count_train_overlap(run.record, rows)
    base = parent_of(run) if config.baselines else None
    if base:
        result["baselines"] = {task.baseline_name: against_base(task, rows, scores, base)}
    if out is not None:
        result["answers"] = shown_answers(task, rows.examples[: task.settings.shown], run, base)
        write_task_report(out, result, task, {run.path.name: run.path / "log.jsonl"} if trained else {})
    return result


def without_empty(rows: EvalDataset, scores: Sequence[AnswerScore]) -> tuple[EvalDataset, list[AnswerScore]]:
    """The rows that have an answer within the context; those left out are reported where they are encoded."""
    places = [place for place, score in enumerate(scores) if score.n_bytes]
    kept = EvalDataset(rows.task, [rows.examples[n] for n in places], [rows.fields[n] for n in places])
    return kept, [scores[place] for place in places]


def parent_of(run: ChatModel) -> ChatModel | None:
    """The run it began from; None for one that began from none, or, reported, whose parent is gone or has
    other weights now."""
    if not (parent := run.record.get("parent")):
        return None
    try:
        check_same_weights(Path(parent), str(run.record["parent_weights"]))
        model, tokenizer, record = load(Path(parent))
    except RunError as error:
        log_notice(f"skipping the model it began from: {error}")
        return None
    return ChatModel(Path(parent), record, model.eval(), tokenizer)


def against_base(
    task: Chat, rows: EvalDataset, ours: Sequence[AnswerScore], base: ChatModel
) -> dict[str, Any]:
    """Bits per byte of the base, and how many fewer our answers cost on the same rows, in bits and as a share."""
    theirs = task.score(base.model, base.tokenizer, rows.examples)
    before, after = (np.asarray([score.bits for score in scores]) for scores in (theirs, ours))
    sizes = [score.n_bytes for score in ours]
    difference = interval(paired_bootstrap(before, after, sizes), len(sizes))
    return {
        "bits_per_byte": task.metrics(rows.examples, theirs)["bits_per_byte"],
        "difference": {"of": "bits_per_byte", **difference},
        "reduction": round(1 - float(after.sum() / before.sum()), 6),
    }


def shown_answers(
    task: Chat, examples: Sequence[Example], run: ChatModel, base: ChatModel | None
) -> list[dict[str, Any]]:
    """Prompts of held-out conversations, up to their last answer, with the reference and what each model answers."""
    prompts, references = [], []
    for example in examples:
        messages: list[Message] = example.label
        last = max(n for n, message in enumerate(messages) if message["role"] == "assistant")
        prompts.append(messages[:last])
        references.append(messages[last]["content"])
    after = task.answers(run.model, run.tokenizer, prompts)
    before = task.answers(base.model, base.tokenizer, prompts) if base else [""] * len(after)
    return [
        {"prompt": prompt[-1]["content"], "before": b, "after": a, "reference": reference}
        if base
        else {"prompt": prompt[-1]["content"], "answer": a, "reference": reference}
        for prompt, b, a, reference in zip(prompts, before, after, references, strict=True)
    ]

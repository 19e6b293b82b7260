"""How good a fine-tuned model is on the rows held out: on the way, and at the end next to answers that read nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

from textus import tokenizers
from textus.core.console import log_notice
from textus.finetuning.length import LEAST_TO_CHOOSE_BY
from textus.models.contract import LanguageModel
from textus.runs.store import RunFolder, load, read_log
from textus.tasks.base import EncodedExample, Example, Task
from textus.tasks.generation import GenerationTask, PairTask
from textus.tasks.inference import predict_ids, predict_texts
from textus.training.pretrain import last_metrics
from textus.training.trainer import Evaluate

NO_FIGURES = ("step", "validation", "criterion", "cpu_seconds", "seconds")
"""What an evaluation's line of the log holds next to the task's figures."""


SCORED_PAIRS = 200
"""Held-out rows for which texts are written and scored at the end."""

Watch = Callable[[int, dict[str, Any]], None]
"""Is shown what each evaluation found, and its number from 1."""


# ── on the way ──


def on_dev(
    model: LanguageModel, *, task: Task, examples: list[Example], rows: list[EncodedExample], pad_id: int
) -> dict[str, Any]:
    """`scored`, of a model that reads ids."""
    return scored(task, examples, predict_ids(model, task, rows, pad_id))


def on_dev_texts(
    model: LanguageModel, *, task: Task, examples: list[Example], tokenizer: tokenizers.Tokenizer
) -> dict[str, Any]:
    """`scored`, of a model that reads texts."""
    return scored(task, examples, predict_texts(model, task, tokenizer, examples))


def scored(task: Task, examples: list[Example], outputs: list[Any]) -> dict[str, Any]:
    """What the log records of the rows held out: the task's figures, the first of which chooses the weights."""
    scores = task.metrics(examples, outputs, intervals=False)
    figures = {name: round(value["value"], 6) for name, value in scores.items() if isinstance(value, dict)}
    first = next(iter(figures.values()))
    return {"validation": figures.get("nats", 1 - first), "criterion": -first, **figures}


def on_all(model: LanguageModel, *, evaluations: dict[str, Evaluate]) -> dict[str, Any]:
    """What the log records of several tasks: the figures of each, and the mean of their first ones, which chooses the
    weights.
    """
    results = {name: evaluate(model) for name, evaluate in evaluations.items()}
    mean = round(fmean(-result["criterion"] for result in results.values()), 6)
    figures = {
        f"{name}/{figure}": value
        for name, result in results.items()
        for figure, value in result.items()
        if figure not in ("validation", "criterion")
    }
    return {"validation": round(1 - mean, 6), "criterion": -mean, **figures}


def watched(evaluate: Any, watch: Watch) -> Evaluate:
    """The evaluation, shown to someone who may end the training by an error."""
    numbers = count(1)

    def both(model: LanguageModel) -> dict[str, Any]:
        result: dict[str, Any] = evaluate(model)
        watch(next(numbers), result)
        return result

    return both


# ── at the end ──


def conclude(run: RunFolder, held: Mapping[str, tuple[Task, Sequence[Example]]]) -> Path:
    """Note how good the weights to use are on the rows `held` out, task by task, and print a line where they are no
    better than answers that read nothing, or where training found nothing better than what it began with. Where too few
    are held out to decide, a solved head's score in cross-validation is used instead.
    """
    solved = run.record.get("solved") or {}
    logged = last_metrics(run)
    named = {f"{name}/" if len(held) > 1 else "": part for name, part in held.items()}
    run.record["held_out"] = {
        task.head_name: by_cross_validation(task, solved[task.head_name])
        if len(examples) < LEAST_TO_CHOOSE_BY and solved.get(task.head_name, {}).get("figure") == "accuracy"
        else compared(task, examples, figures)
        for prefix, (task, examples) in named.items()
        if not isinstance(task, GenerationTask) and (figures := figures_of(logged, prefix))
    }
    for task, examples in held.values():
        if isinstance(task, GenerationTask) and task.compares_with_base:
            run.record["held_out"] |= against_base(run, task, examples)
        if isinstance(task, PairTask):
            run.record["held_out"][task.head_name] = score_texts(run, task, examples[:SCORED_PAIRS])
    run.write_record()
    if solved and run.record["weights"]["step"] == 0:
        log_notice(
            "fine-tuning found nothing better on the held-out rows than the solved head, which is kept"
        )
    for name, outcome in run.record["held_out"].items():
        if not outcome["better"]:
            log_notice(
                f"{name} is not better than {outcome['baseline_of']} on {outcome['rows']:,} {outcome['judged_by']}"
                f" rows: {outcome['figure']} {outcome['value']:.3g}, {outcome['baseline_of']}"
                f" {outcome['baseline']:.3g}; give more rows, or train longer (--epochs)"
            )
    return run.path


def score_texts(run: RunFolder, task: Task, examples: Sequence[Example]) -> dict[str, Any]:
    """The first metric of texts that the trained model writes for held-out rows, next to copies of the sources."""
    model, tokenizer, _ = load(run.path)
    scores = task.metrics(examples, predict_texts(model, task, tokenizer, examples), intervals=False)
    figures = {name: round(score["value"], 6) for name, score in scores.items() if isinstance(score, dict)}
    return compared(task, examples, figures)


def against_base(run: RunFolder, task: GenerationTask, examples: Sequence[Example]) -> dict[str, Any]:
    """The first figure of the log, lower is better, next to that of the run it began from; empty without either."""
    entries = [entry for entry in read_log(run.path / "log.jsonl") if "validation" in entry]
    before, after = next((figures_of(e, "") for e in entries if e["step"] == 0), {}), last_metrics(run)
    if not run.record["parent"] or not before or not after:
        return {}
    figure, baseline = next(iter(before.items()))
    outcome = {
        "rows": len(examples), "figure": figure, "value": after[figure], "baseline": baseline,
        "baseline_of": task.baseline_name, "better": after[figure] < baseline, "judged_by": "held-out",
    }  # fmt: skip
    return {task.head_name: outcome}


def figures_of(entry: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """A task's figures in a line of the log, its first one first."""
    return {
        name.removeprefix(prefix): value
        for name, value in entry.items()
        if name.startswith(prefix) and name not in NO_FIGURES
    }


def compared(task: Task, examples: Sequence[Example], figures: Mapping[str, float]) -> dict[str, Any]:
    """A task's first figure, next to that of the best answers without reading: 0 where a task has no such answers."""
    figure, value = next(iter(figures.items()))
    if (blind := task.majority_baseline(examples)) is None:
        baseline, of = 0.0, "no answer"
    else:
        scores = task.metrics(examples, blind, intervals=False)
        baseline, of = round(scores[figure]["value"], 6), task.baseline_name
    return {
        "rows": len(examples), "figure": figure, "value": value, "baseline": baseline, "baseline_of": of,
        "better": value > baseline, "judged_by": "held-out",
    }  # fmt: skip


def by_cross_validation(task: Task, solution: Mapping[str, Any]) -> dict[str, Any]:
    """What the head gave rows it had not seen when it was solved, next to the share of the most frequent class."""
    baseline = round(max(task.label_counts) / sum(task.label_counts), 6)
    return {
        "rows": solution["rows"], "figure": solution["figure"], "value": solution["value"], "baseline": baseline,
        "baseline_of": task.baseline_name, "better": solution["value"] > baseline, "judged_by": "cross-validated",
    }  # fmt: skip

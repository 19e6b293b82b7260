"""Few-shot classification with a language model: no fine-tuning, only examples in its context, or none.

Each class is written as a word and scored by its mean log-likelihood per token at the end of the prompt (Brown et al.
2020). Contextual calibration divides by the probabilities of content-free texts in the same prompt (Zhao et al. 2021).
The examples are read once and stay in the model's cache for all texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from textus.core.console import log_notice, progress
from textus.core.errors import DataError, UsageError
from textus.core.io import write_atomic, write_json
from textus.core.names import unknown_name_error
from textus.core.rng import derive_seed
from textus.data.read_options import ReadOptions
from textus.evaluation.config import FewShotConfig
from textus.evaluation.perplexity import scoring_mode
from textus.generation.sampling import bos_ids
from textus.metrics.resampling import bootstrap, interval
from textus.models.contract import LanguageModel
from textus.reporting.html import Section, write_report
from textus.reporting.plots import curves
from textus.tasks.base import Example, Task
from textus.tasks.registry import task_class
from textus.tokenizers import Tokenizer

Floats = NDArray[np.float64]

TEMPLATE, PAIR_TEMPLATE = "Text: {text}\nLabel: {label}", "First: {text}\nSecond: {text_pair}\nLabel: {label}"
SEPARATOR = "\n\n"
CONTENT_FREE = ("N/A", "", "[MASK]")
"""Texts whose predicted class shows only the bias of the prompt (Zhao et al. 2021)."""
BATCH_SIZE = 16
MAX_TEXT_SHARE = 4
"""A text is truncated to the context length divided by this."""


# ── scoring ─────────────────────────────────────────────────────────────────────────────────────


class PromptScorer:
    """Scores classes with a language model and one template."""

    def __init__(
        self, model: LanguageModel, tokenizer: Tokenizer, labels: Sequence[str], config: FewShotConfig
    ) -> None:
        if (
            not (model.capabilities.can_generate and model.capabilities.is_causal)
            or model.capabilities.needs_source
        ):
            raise UsageError(
                "unsupported_model",
                f"a {type(model).__name__} cannot predict the next token; use a run of a decoder, an lstm, …",
            )
        self.model, self.tokenizer, self.labels = model, tokenizer, list(labels)
        for label in config.class_words:
            if label not in self.labels:
                raise unknown_name_error("class", label, self.labels)
        self.verbalizer = {label: config.class_words.get(label, label) for label in labels}
        self.template = config.template
        self.blank = re.search(r"\s*$", self.template.removesuffix("{label}"))[0]  # type: ignore[index]
        self.ends = [tokenizer.encode(self.blank + self.verbalizer[label]) for label in labels]
        context = model.config.context_length
        self.context = context or 1 << 30
        self.longest = self.context // MAX_TEXT_SHARE
        self.n_truncated = self.n_dropped = 0

    def prompt(self, texts: Sequence[str]) -> str:
        """The filled template up to the class."""
        shown = [self.truncate(text) for text in texts]
        filled = self.template.removesuffix("{label}").rstrip()
        pieces = re.split(r"(\{text\}|\{text_pair\})", filled)  # a text may contain a placeholder itself
        return "".join({"{text}": shown[0], "{text_pair}": shown[-1]}.get(piece, piece) for piece in pieces)

    def truncate(self, text: str) -> str:
        """A text of at most `longest` tokens."""
        ids = self.tokenizer.encode(text)
        if len(ids) <= self.longest:
            return text
        self.n_truncated += 1
        return self.tokenizer.decode(ids[: self.longest])

    def probabilities(self, shots: Sequence[Example], batch: Sequence[Sequence[str]]) -> Floats:
        """The probability of each class for each text (N, C) after the examples; the first ones that do not fit are
        dropped.
        """
        prompts = [self.tokenizer.encode(self.prompt(texts)) for texts in batch]
        available = self.context - max(map(len, prompts)) - max(map(len, self.ends)) - 1
        examples = [
            self.tokenizer.encode(
                self.prompt(shot.texts) + self.blank + self.verbalizer[shot.label] + SEPARATOR
            )
            for shot in shots
        ]
        if available < 0:
            raise UsageError(
                "context_exceeded",
                f"the longest prompt has {max(map(len, prompts))} tokens and its class {max(map(len, self.ends))}, the"
                f" model's context holds {self.context}; shorten --template (now"
                f" {len(self.tokenizer.encode(self.template))} tokens) or take a model with a longer context",
            )
        while sum(map(len, examples)) > available:
            examples.pop(0)
            self.n_dropped += 1
        first = [
            *bos_ids(self.model, self.tokenizer.bos_id),
            *(number for example in examples for number in example),
        ]
        with scoring_mode(self.model):
            return np.concatenate(list(self._read(first, prompts)))

    def _read(self, first: list[int], prompts: Sequence[list[int]]) -> Iterator[Floats]:
        """The probabilities of each batch of prompts, with the examples before them read once. All but the last id of
        the examples go into the shared cache, so that even an empty prompt has one id to predict from.
        """
        length = len(first) + max(map(len, prompts)) + max(map(len, self.ends))
        shared = self.model.new_cache(1, length)
        if len(first) > 1:
            self.model(torch.tensor([first[:-1]]), shared)
        for start in range(0, len(prompts), BATCH_SIZE):
            rows = [first[-1:] + prompt for prompt in prompts[start : start + BATCH_SIZE]]
            lengths = torch.tensor(list(map(len, rows)))
            ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
            cache = shared.select([0] * len(rows))
            last = self.model(ids, cache, lengths)[torch.arange(len(rows)), lengths - 1]  # (B, V)
            scores = torch.stack([self._score(last, cache, end) for end in self.ends], 1)  # (B, C)
            yield scores.softmax(1).numpy()

    def _score(self, last: torch.Tensor, cache: Any, end: list[int]) -> torch.Tensor:
        """Mean log-probability (B,) of a class's ids after the prompts that `cache` holds; `last` are its logits."""
        logits = last[:, None]
        if len(end) > 1:
            given = torch.tensor(end[:-1]).expand(len(last), -1)
            following = self.model(given, cache.select(list(range(len(last)))))
            logits = torch.cat([logits, following], 1)  # (B, E, V)
        wanted = torch.tensor(end).expand(len(last), -1)[..., None]
        return logits.double().log_softmax(-1).gather(2, wanted)[..., 0].mean(1)


def calibrate(probabilities: Floats, content_free: Floats) -> Floats:
    """Probabilities (N, C) divided by the mean of those of content-free texts (M, C), and normalized."""
    odds = probabilities / np.maximum(content_free.mean(0), 1e-300)
    scaled: Floats = odds / odds.sum(1, keepdims=True)
    return scaled


def sample_shots(
    examples: Sequence[Example], shots: int, labels: Sequence[str], random: Random
) -> list[Example]:
    """`shots` examples in random order, balanced over the classes as far as possible."""
    pools = {label: [example for example in examples if example.label == label] for label in labels}
    for pool in pools.values():
        random.shuffle(pool)
    order = random.sample(list(labels), len(labels))
    chosen: list[Example] = []
    while len(chosen) < shots:
        before = len(chosen)
        for label in order:
            if len(chosen) < shots and pools[label]:
                chosen.append(pools[label].pop())
        if len(chosen) == before:
            raise UsageError("out_of_range", f"--shots {shots}: only {before} rows have a class")
    random.shuffle(chosen)
    return chosen


# ── evaluation ────────────────────────────────────────────────────────────────────────────────


def read_task(
    data: Path, on: Path, options: ReadOptions, config: FewShotConfig
) -> tuple[Task, list[Example], list[Example]]:
    """The classification task of the data, the rows to draw examples from, and the rows to score."""
    cls = task_class("classification")
    records = options.records(data)
    task = cls.from_records(cls.config(), records)
    examples = task.make_examples(records, labelled=True)
    test = task.make_examples(options.records(on), labelled=True)
    if not test:
        raise DataError("empty_data", f"{on} has no row with a text and a label")
    known = {example.texts for example in test}
    kept = [example for example in examples if example.texts not in known]
    if len(kept) < len(examples):
        log_notice(
            f"{len(examples) - len(kept):,} rows of {data} are also in {on}: they are not used as examples"
        )
    if config.limit and config.limit < len(test):
        places = sorted(Random(derive_seed(config.seed, "limit")).sample(range(len(test)), config.limit))
        log_notice(f"{config.limit:,} of the {len(test):,} rows of {on} are scored, sampled with the seed")
        test = [test[place] for place in places]
    return task, kept, test


def evaluate_fewshot(
    model: LanguageModel,
    tokenizer: Tokenizer,
    task: Task,
    parts: tuple[list[Example], list[Example]],
    config: FewShotConfig,
) -> dict[str, Any]:
    """Accuracy on the second part against the number of examples from the first, plain and calibrated; 95 % intervals
    over rows, averaged over draws.
    """
    examples, test = parts
    scorer = PromptScorer(model, tokenizer, task.labels, config)
    texts = [*(example.texts for example in test), *((text,) * len(test[0].texts) for text in CONTENT_FREE)]
    index = {label: number for number, label in enumerate(task.labels)}
    gold = np.asarray([index.get(example.label, -1) for example in test])
    rows = []
    n_draws = sum(config.repeats if shots else 1 for shots in config.shots)
    with progress("scoring", n_draws) as advance:
        for shots in config.shots:
            right: dict[str, list[Any]] = {"accuracy": [], "calibrated": []}
            for draw in range(config.repeats if shots else 1):
                random = Random(derive_seed(config.seed, "shots", shots, draw))
                probabilities = scorer.probabilities(
                    sample_shots(examples, shots, task.labels, random), texts
                )
                plain, empty = probabilities[: len(test)], probabilities[len(test) :]
                right["accuracy"].append(plain.argmax(1) == gold)
                right["calibrated"].append(calibrate(plain, empty).argmax(1) == gold)
                advance()
            rows.append(summarize_draws(shots, right))
    if scorer.n_truncated:
        log_notice(f"{scorer.n_truncated:,} times a text was truncated to {scorer.longest} tokens")
    if scorer.n_dropped:
        log_notice(
            f"{scorer.n_dropped:,} examples did not fit into the context of {scorer.context} tokens and were dropped"
        )
    return {
        "rows": len(test), "classes": scorer.verbalizer, "template": config.template, "seed": config.seed,
        "majority": float(max(np.bincount(gold[gold >= 0], minlength=1)) / len(gold)), "shots": rows,
    }  # fmt: skip


def summarize_draws(shots: int, right: dict[str, list[Any]]) -> dict[str, Any]:
    """The metrics of one number of shots, and those of each draw."""
    row: dict[str, Any] = {"shots": shots}
    for name, draws in right.items():
        per_row: Floats = np.stack(draws).astype(np.float64).mean(0)
        row[name] = interval(bootstrap(per_row, np.ones(len(per_row))), len(per_row))
    return row | {
        f"{name}_of_draws": [float(np.mean(draw)) for draw in draws] for name, draws in right.items()
    }


def write_fewshot(folder: Path, result: dict[str, Any]) -> None:
    """Write the result as fewshot.json, .png and .html."""
    picture = curves(
        result["shots"], x="shots", ys=("accuracy", "calibrated"), title="Accuracy against examples"
    )
    write_json(folder / "fewshot.json", result)
    write_atomic(folder / "fewshot.png", picture)
    shown = [{name: row[name] for name in ("shots", "accuracy", "calibrated")} for row in result["shots"]]
    text = f"{result['run']} on {result['rows']:,} rows of {result['on']}; majority class: {result['majority']:.3f}."
    sections = [
        Section("Accuracy", text, shown, picture=picture),
        Section("Template", code=result["template"]),
    ]
    write_report(folder / "fewshot.html", "Few-shot", sections)

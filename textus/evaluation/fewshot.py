"""Classes told by a language model that was never taught them: a few examples in its context, or none.

Each class is spelt as a word and scored by how likely that word is at the end of the prompt, per token (Brown et al.
2020). Contextual calibration divides by what the same prompt says of texts without content (Zhao et al. 2021). The
examples are read once, and kept in the model's cache for all texts asked after them.
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
BETWEEN = "\n\n"
WITHOUT_CONTENT = ("N/A", "", "[MASK]")
"""Of what these texts are said to be, nothing is due to what they say (Zhao et al. 2021)."""
AT_ONCE = 16
SHARE = 4
"""A text may fill this part of the context; the end of a longer one is not read."""


# ── asking ─────────────────────────────────────────────────────────────────────────────────────


class PromptScorer:
    """A language model asked for classes through one template."""

    def __init__(
        self, model: LanguageModel, tokenizer: Tokenizer, labels: Sequence[str], how: FewShotConfig
    ) -> None:
        if (
            not (model.capabilities.can_generate and model.capabilities.is_causal)
            or model.capabilities.needs_source
        ):
            raise UsageError(
                "unsupported_model",
                f"a {type(model).__name__} does not predict what comes next; give a run of a decoder, an lstm, …",
            )
        self.model, self.tokenizer, self.labels = model, tokenizer, list(labels)
        for label in how.class_words:
            if label not in self.labels:
                raise unknown_name_error("class", label, self.labels)
        self.verbalizer = {label: how.class_words.get(label, label) for label in labels}
        self.template = how.template
        self.blank = re.search(r"\s*$", self.template.removesuffix("{label}"))[0]  # type: ignore[index]
        self.ends = [tokenizer.encode(self.blank + self.verbalizer[label]) for label in labels]
        context = model.config.context_length
        self.context = context or 1 << 30
        self.longest = self.context // SHARE
        self.n_truncated = self.n_dropped = 0

    def prompt(self, texts: Sequence[str]) -> str:
        """The template up to the class, filled."""
        shown = [self.truncate(each) for each in texts]
        filled = self.template.removesuffix("{label}").rstrip()
        pieces = re.split(r"(\{text\}|\{text_pair\})", filled)  # a text may hold such a word itself
        return "".join({"{text}": shown[0], "{text_pair}": shown[-1]}.get(each, each) for each in pieces)

    def truncate(self, text: str) -> str:
        """A text of at most `longest` tokens."""
        ids = self.tokenizer.encode(text)
        if len(ids) <= self.longest:
            return text
        self.n_truncated += 1
        return self.tokenizer.decode(ids[: self.longest])

    def probabilities(self, shots: Sequence[Example], asked: Sequence[Sequence[str]]) -> Floats:
        """Of each class for each of the texts (N, C), after the examples; the first of those that do not fit are left
        out.
        """
        prompts = [self.tokenizer.encode(self.prompt(texts)) for texts in asked]
        room = self.context - max(map(len, prompts)) - max(map(len, self.ends)) - 1
        examples = [
            self.tokenizer.encode(
                self.prompt(each.texts) + self.blank + self.verbalizer[each.label] + BETWEEN
            )
            for each in shots
        ]
        if room < 0:
            raise UsageError(
                "context_exceeded",
                f"the longest prompt has {max(map(len, prompts))} tokens and its class {max(map(len, self.ends))}, the"
                f" context of the model holds {self.context}; shorten --template (now"
                f" {len(self.tokenizer.encode(self.template))} tokens) or take a model with a longer context",
            )
        while sum(map(len, examples)) > room:
            examples.pop(0)
            self.n_dropped += 1
        first = [
            *bos_ids(self.model, self.tokenizer.bos_id),
            *(number for each in examples for number in each),
        ]
        with scoring_mode(self.model):
            return np.concatenate(list(self._read(first, prompts)))

    def _read(self, first: list[int], prompts: Sequence[list[int]]) -> Iterator[Floats]:
        """Of a batch of prompts, with the examples before them read once. All but their last id go into the cache that
        prompts share, so that even an empty prompt has one to be asked by.
        """
        room = len(first) + max(map(len, prompts)) + max(map(len, self.ends))
        begun = self.model.new_cache(1, room)
        if len(first) > 1:
            self.model(torch.tensor([first[:-1]]), begun)
        for start in range(0, len(prompts), AT_ONCE):
            rows = [first[-1:] + each for each in prompts[start : start + AT_ONCE]]
            lengths = torch.tensor(list(map(len, rows)))
            ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
            cache = begun.select([0] * len(rows))
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


def calibrate(probabilities: Floats, without_content: Floats) -> Floats:
    """Probabilities (N, C) divided by those of texts without content (M, C), and made to sum to one again."""
    odds = probabilities / np.maximum(without_content.mean(0), 1e-300)
    scaled: Floats = odds / odds.sum(1, keepdims=True)
    return scaled


def sample_shots(
    examples: Sequence[Example], shots: int, labels: Sequence[str], random: Random
) -> list[Example]:
    """So many examples, of each class as many as of the others or one more, in random order."""
    pools = {label: [each for each in examples if each.label == label] for label in labels}
    for pool in pools.values():
        random.shuffle(pool)
    order = random.sample(list(labels), len(labels))
    found: list[Example] = []
    while len(found) < shots:
        before = len(found)
        for label in order:
            if len(found) < shots and pools[label]:
                found.append(pools[label].pop())
        if len(found) == before:
            raise UsageError(
                "out_of_range", f"--shots {shots}: there are {before} rows with a class to draw from"
            )
    random.shuffle(found)
    return found


# ── measuring ──────────────────────────────────────────────────────────────────────────────────


def read_task(
    data: Path, on: Path, options: ReadOptions, how: FewShotConfig
) -> tuple[Task, list[Example], list[Example]]:
    """The classification that the data holds, the rows to draw from and those to ask."""
    cls = task_class("classification")
    records = options.records(data)
    task = cls.from_records(cls.config(), records)
    examples = task.make_examples(records, labelled=True)
    test = task.make_examples(options.records(on), labelled=True)
    if not test:
        raise DataError("empty_data", f"{on} has no row with text and label")
    known = {each.texts for each in test}
    kept = [each for each in examples if each.texts not in known]
    if len(kept) < len(examples):
        log_notice(
            f"{len(examples) - len(kept):,} rows of {data} are asked for in {on}: they are no examples"
        )
    if how.limit and how.limit < len(test):
        places = sorted(Random(derive_seed(how.seed, "asked")).sample(range(len(test)), how.limit))
        log_notice(f"{how.limit:,} of the {len(test):,} rows of {on} are asked, drawn by the seed")
        test = [test[place] for place in places]
    return task, kept, test


def evaluate_fewshot(
    model: LanguageModel,
    tokenizer: Tokenizer,
    task: Task,
    parts: tuple[list[Example], list[Example]],
    how: FewShotConfig,
) -> dict[str, Any]:
    """Accuracy on the second part against the number of examples drawn from the first, plain and calibrated; 95 %
    intervals over rows, each row's mean over draws.
    """
    examples, test = parts
    asked = PromptScorer(model, tokenizer, task.labels, how)
    texts = [*(each.texts for each in test), *((each,) * len(test[0].texts) for each in WITHOUT_CONTENT)]
    index = {label: number for number, label in enumerate(task.labels)}
    gold = np.asarray([index.get(each.label, -1) for each in test])
    rows = []
    n_draws = sum(how.repeats if shots else 1 for shots in how.shots)
    with progress("asking", n_draws) as advance:
        for shots in how.shots:
            right: dict[str, list[Any]] = {"accuracy": [], "calibrated": []}
            for draw in range(how.repeats if shots else 1):
                random = Random(derive_seed(how.seed, "shots", shots, draw))
                found = asked.probabilities(sample_shots(examples, shots, task.labels, random), texts)
                plain, empty = found[: len(test)], found[len(test) :]
                right["accuracy"].append(plain.argmax(1) == gold)
                right["calibrated"].append(calibrate(plain, empty).argmax(1) == gold)
                advance()
            rows.append(summarize_draws(shots, right))
    if asked.n_truncated:
        log_notice(
            f"texts were longer than {asked.longest} tokens {asked.n_truncated:,} times: their ends were not read"
        )
    if asked.n_dropped:
        log_notice(
            f"{asked.n_dropped:,} examples did not fit the context of {asked.context} tokens and were left out"
        )
    return {
        "rows": len(test), "classes": asked.verbalizer, "template": how.template, "seed": how.seed,
        "majority": float(max(np.bincount(gold[gold >= 0], minlength=1)) / len(gold)), "shots": rows,
    }  # fmt: skip


def summarize_draws(shots: int, right: dict[str, list[Any]]) -> dict[str, Any]:
    """The figures of one number of shots, and those of each draw."""
    row: dict[str, Any] = {"shots": shots}
    for name, draws in right.items():
        each: Floats = np.stack(draws).astype(np.float64).mean(0)
        row[name] = interval(bootstrap(each, np.ones(len(each))), len(each))
    return row | {
        f"{name}_of_draws": [float(np.mean(draw)) for draw in draws] for name, draws in right.items()
    }


def write_fewshot(folder: Path, found: dict[str, Any]) -> None:
    """The findings as fewshot.json, .png and .html."""
    picture = curves(
        found["shots"], x="shots", ys=("accuracy", "calibrated"), title="Accuracy against examples"
    )
    write_json(folder / "fewshot.json", found)
    write_atomic(folder / "fewshot.png", picture)
    shown = [{name: row[name] for name in ("shots", "accuracy", "calibrated")} for row in found["shots"]]
    text = f"{found['run']} asked {found['rows']:,} rows of {found['on']}; commonest class: {found['majority']:.3f}."
    sections = [
        Section("Accuracy", text, shown, picture=picture),
        Section("Template", code=found["template"]),
    ]
    write_report(folder / "fewshot.html", "Few-shot", sections)

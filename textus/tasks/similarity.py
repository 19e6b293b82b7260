"""Similarity of two texts: each is encoded separately as a vector; the answer is the cosine of both.

Fields: two texts (as in `classification`) and their `score` (or `label`), a number, to which the cosine is fitted; or
two texts that belong together without a score, perhaps with a `negative` that does not, for contrastive training with
the other texts of a batch. A model without any fine-tuning has vectors too.

Sources: Reimers and Gurevych 2019 (two texts, one encoder, cosine); Henderson et al. 2017 (other rows as negatives).
Shapes: N texts of an example, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from torch import Tensor

from textus.core.config import apply_overrides
from textus.core.console import log_notice
from textus.core.errors import DataError, UsageError
from textus.data.batch import Batch
from textus.data.labeled import Record, clean_text
from textus.data.skipping import parse_rows
from textus.metrics import ranking, regression
from textus.models.contract import LanguageModel
from textus.tasks.base import EncodedExample, Example, InputTemplate, Task
from textus.tasks.classification import read_texts, text_fields
from textus.tasks.inference import add_head, predict_texts
from textus.tasks.regression import has_two_values, largest_errors, read_number, score_field
from textus.tasks.reporting import Floats
from textus.tokenizers import Tokenizer

SHOWN = 10
QUERIES_AT_ONCE = 1024
"""Queries compared with all texts at a time."""


@dataclass(frozen=True)
class SimilaritySettings:
    """`pooling` of a text's states to its vector; `objective` of training ("auto": cosine where rows have scores, else
    contrastive, with the other rows of a micro-batch as negatives); `temperature` of the contrast; `low` and `high`:
    the scores of cosine 0 and 1 (None: the least and greatest of the training rows); `longest`: ids of a text that are
    read (0: the model's context); `cut`: the part of a longer text that is not read.
    """

    pooling: Literal["mean", "cls", "last", "max", "mean_sqrt_len"] = "mean"
    objective: Literal["auto", "cosine", "contrastive"] = "auto"
    temperature: float = 0.05
    low: float | None = None
    high: float | None = None
    longest: int = 0
    cut: Literal["end", "start"] = "end"

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise UsageError("out_of_range", f"task.temperature={self.temperature}: must be above 0")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise UsageError("out_of_range", f"task.low={self.low} must be below task.high={self.high}")


class Similarity(Task):
    """See the module."""

    name = "similarity"
    config = SimilaritySettings
    settings: SimilaritySettings
    empty_reason = "lack a text"
    mistakes_title = "Furthest from what is right"

    @classmethod
    def from_records(cls, settings: SimilaritySettings, records: Sequence[Record]) -> Similarity:
        scored = score_field(records)
        objective = settings.objective
        if objective == "auto":
            objective = "cosine" if scored else "contrastive"
        if objective == "cosine" and not scored:
            raise DataError(
                "column_not_found",
                f"{records[0].where} has no field 'score': name its column with --columns score=COLUMN, or learn from"
                " pairs that belong together with --set task.objective=contrastive",
            )
        if objective == "contrastive" and scored:
            raise DataError(
                "incompatible_data",
                f"{records[0].where} has a {scored!r}: the contrastive objective takes every pair as one that belongs"
                " together; keep the rows of high score, without that column",
            )
        settings = replace(settings, objective=objective)
        rows = parse_rows(records, cls.row_parser(settings, records, labelled=True))
        if not scored:
            return cls(settings, [])
        values = [row.label for row in rows if row.label is not None]
        low = min(values) if settings.low is None else settings.low
        high = max(values) if settings.high is None else settings.high
        if not low < high:
            raise DataError(
                "one_class", f"all {len(values):,} rows have the score {low:g}: there is nothing to learn"
            )
        if outside := [value for value in values if not low <= value <= high]:
            raise UsageError(
                "invalid_rows",
                f"{len(outside):,} scores, such as {outside[0]:g}, are not in {low:g} to {high:g}",
            )
        return cls(replace(settings, low=low, high=high), [])

    def is_empty(self, example: Example) -> bool:
        return not all(text.strip() for text in example.texts)

    def make_examples(self, records: Sequence[Record], *, labelled: bool) -> list[Example]:
        examples = super().make_examples(records, labelled=labelled)
        if odd := [example for example in examples if len(example.texts) != len(examples[0].texts)]:
            raise DataError(
                "mixed_data",
                f"{odd[0].where} has {len(odd[0].texts)} texts, the first row {len(examples[0].texts)}",
            )
        return examples

    @classmethod
    def row_parser(
        cls, settings: SimilaritySettings, records: Sequence[Record], *, labelled: bool
    ) -> Callable[[Record], Example]:
        scored = score_field(records) if labelled else None
        contrastive = labelled and settings.objective == "contrastive"

        def parse(record: Record) -> Example:
            texts = read_text_pair(record)
            if contrastive and "negative" in record.values:
                texts = (*texts, *read_texts(Record({"text": record.values["negative"]}, record.where)))
            return Example(texts, read_number(record, scored) if scored else None, record.where)

        return parse

    @classmethod
    def can_split(cls, settings: SimilaritySettings, train: Sequence[Record], held: Sequence[Record]) -> bool:
        scored = score_field([*train, *held])
        if not scored:
            return bool(train and held)
        return has_two_values(train, scored) and has_two_values(held, scored)

    @classmethod
    def used_fields(cls, settings: SimilaritySettings, values: dict[str, Any]) -> list[str]:
        return [*text_fields(values), score_field([Record(values, "")]) or "negative"]

    def check_validation_set(self, examples: Sequence[Example]) -> None:
        if examples and examples[0].label is not None and len({example.label for example in examples}) < 2:
            raise DataError(
                "one_class",
                f"all {len(examples):,} rows to choose by have the score {examples[0].label:g}: they have no"
                " correlation; give others with --dev",
            )

    def head_spec(self) -> dict[str, Any]:
        settings = self.settings
        objective = "cosine" if settings.objective == "auto" else settings.objective
        return {
            "kind": "similarity", "pooling": settings.pooling, "objective": objective,
            "temperature": settings.temperature,
        }  # fmt: skip

    def encode_example(
        self, example: Example, ids: list[list[int]], template: InputTemplate
    ) -> EncodedExample:
        (first, segments, cut), *others = (template.apply([text], self.settings.cut) for text in ids)
        label = None if example.label is None else self.cosine(example.label)
        if self.settings.objective == "contrastive":
            label = 1.0  # not None, so that the row is trained on
        apart = tuple(text for text, _, _ in others)
        return EncodedExample(first, segments, label, cut + sum(n for _, _, n in others), apart)

    @property
    def scale(self) -> tuple[float, float]:
        """The scores of cosine 0 and 1."""
        low, high = self.settings.low, self.settings.high
        return 0.0 if low is None else low, 1.0 if high is None else high

    def cosine(self, score: float) -> float:
        """The cosine of a score."""
        low, high = self.scale
        return (score - low) / (high - low)

    def score(self, vectors: np.ndarray) -> float:
        """The score of an example's first two vectors (N, D)."""
        low, high = self.scale
        return low + (high - low) * float(vectors[0] @ vectors[1])

    def predict(self, head: Any, hidden: Tensor, batch: Batch) -> list[Any]:
        return list(head.predict(hidden, batch.mask).cpu().numpy())

    def metrics(
        self, examples: Sequence[Example], outputs: Sequence[Any], *, intervals: bool = True
    ) -> dict[str, Any]:
        if examples[0].label is None:
            return retrieval_metrics(examples, outputs, intervals)
        gold, guess = [example.label for example in examples], [self.score(output) for output in outputs]
        scores = regression.regression_scores(gold, guess, "spearman", intervals=intervals)
        if self.settings.high is None:  # cosines are on no scale of scores
            scores = {name: scores[name] for name in ("spearman", "pearson", "undefined") if name in scores}
        elif intervals:
            scores["mistakes"] = largest_errors(examples, np.asarray(gold), np.asarray(guess))
        if undefined := scores.get("undefined"):
            log_notice(f"{', '.join(undefined)} cannot be computed: all scores, or all answers, are the same")
        return scores

    def weighted_metric(
        self, examples: Sequence[Example], outputs: Sequence[Any]
    ) -> tuple[str, Callable[[Floats], float]] | None:
        if not examples or examples[0].label is None:
            return None
        gold = np.asarray([example.label for example in examples], dtype=np.float64)
        figures = regression.regression_metrics(gold, np.asarray([self.score(output) for output in outputs]))
        return "spearman", lambda weights: figures(weights)["spearman"]

    def answer_columns(self) -> list[str]:
        return ["score"]

    def to_json(self, example: Example, output: Any) -> dict[str, Any]:
        if output.ndim < 2:
            raise UsageError(
                "wrong_number_of_texts",
                f"{example.where} has one text: similarity is of two; give a file of pairs, or make its vector with"
                " textus embed",
            )
        if len(output) > 2:
            raise UsageError(
                "wrong_number_of_texts", f"{example.where} has {len(output)} texts: similarity is of two"
            )
        return {"score": round(self.score(output), 6)}


def read_text_pair(record: Record) -> tuple[str, ...]:
    """Both texts of a row. Raises DataError where it has one."""
    if len(texts := read_texts(record)) != 2:
        raise DataError(
            "wrong_number_of_texts",
            f"{record.where} has one text: name the second with --columns text=COLUMN,text_pair=COLUMN",
        )
    return texts


def retrieval_metrics(
    examples: Sequence[Example], outputs: Sequence[np.ndarray], intervals: bool
) -> dict[str, Any]:
    """How well each first text retrieves its second among all seconds: scores of `metrics.ranking`."""
    numbers = {text: n for n, text in enumerate(dict.fromkeys(example.texts[1] for example in examples))}
    right: dict[str, dict[Any, float]] = {}
    for example in examples:
        right.setdefault(example.texts[0], {})[numbers[example.texts[1]]] = 1.0
    first = {example.texts[0]: output[0] for example, output in zip(examples, outputs, strict=True)}
    second = {example.texts[1]: output[1] for example, output in zip(examples, outputs, strict=True)}
    targets, queries = np.stack([second[text] for text in numbers]), np.stack([first[text] for text in right])
    ranked = []
    for low in range(0, len(queries), QUERIES_AT_ONCE):
        cosines = queries[low : low + QUERIES_AT_ONCE] @ targets.T
        ranked += np.argsort(-cosines, axis=1, kind="stable")[:, :SHOWN].tolist()
    return ranking.ranking_scores(ranked, list(right.values()), intervals=intervals)


def make_similarity_task(model: LanguageModel, settings: Sequence[str] = ()) -> Similarity:
    """The task for a model that was not trained on it: the cosine of its vectors. `settings` are overrides such as
    "pooling=cls".
    """
    task = Similarity(apply_overrides(SimilaritySettings(), list(settings)), [])
    add_head(model, task)
    return task


def embed_texts(model: LanguageModel, task: Task, tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """Vectors (texts, D) float32 of length one, in order."""
    if not texts:
        return np.zeros((0, model.config.d_model), dtype=np.float32)
    examples = [Example((clean_text(text),), None, f"text {number}") for number, text in enumerate(texts, 1)]
    return np.stack(predict_texts(model, task, tokenizer, examples)).astype(np.float32)

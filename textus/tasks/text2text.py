"""A text made from another: translation, summaries, headlines, corrections.

Fields: `source` (or `text`) and `target`. `task.goal=summarize` reports ROUGE first instead of BLEU, and compares with
the first sentences of the source. A model that reads sources apart (encoder-decoder, seq2seq) has the source there; one
that reads from left to right (decoder, lstm) has it before the target, in the form of `task.template`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from textus.core.errors import DataError, UsageError
from textus.data.labeled import Record, clean_text
from textus.data.text_pairs import IdPair
from textus.generation.params import SamplingParams
from textus.metrics import overlap
from textus.models.contract import LanguageModel
from textus.tasks.base import Example, columns_remedy, list_fields
from textus.tasks.generation import PairTask
from textus.tasks.reporting import Floats
from textus.tokenizers import Tokenizer

SOURCE_FIELDS = ("source", "text")
SOURCE = "{source}"
SHOWN = 10
MAX_TOKENS_STEP = 32
"""Limits that follow from the source are multiples of this, so that sources of about one length share a batch."""


@dataclass(frozen=True)
class Text2TextSettings:
    """`goal`: which metrics and baselines; `template`: the text a model reads, with {source} in it; `beams`: how many
    partial texts beam search keeps (1: greedy); `length_penalty`: above 1 favours longer texts; `max_tokens`: tokens
    of a target at most (0: twice those of the source, and 30).
    """

    goal: Literal["translate", "summarize"] = "translate"
    template: str = SOURCE
    beams: int = 4
    length_penalty: float = 1.0
    max_tokens: int = 0

    def __post_init__(self) -> None:
        if self.template.count(SOURCE) != 1:
            raise UsageError(
                "invalid_value", f"task.template={self.template!r}: it must contain {SOURCE} exactly once"
            )
        for name, least in (("beams", 1), ("max_tokens", 0)):
            if (value := getattr(self, name)) < least:
                raise UsageError("out_of_range", f"task.{name}={value}: must be at least {least}")


class Text2Text(PairTask):
    """See the module."""

    name = "text2text"
    config = Text2TextSettings
    settings: Text2TextSettings
    text_counts = (1,)
    min_rows = 4
    new_model_size: ClassVar[dict[str, int]] = {"n_layer": 6, "d_model": 256, "context_length": 256}
    empty_reason = "have no source"
    label_kind = "targets"
    baseline_name = "copy of the source"
    mistakes_title = "Furthest from the reference"
    group_fields = SOURCE_FIELDS

    @classmethod
    def from_records(cls, settings: Text2TextSettings, records: Sequence[Record]) -> Text2Text:
        return cls(settings, [])

    @classmethod
    def row_parser(
        cls, settings: Text2TextSettings, records: Sequence[Record], *, labelled: bool
    ) -> Callable[[Record], Example]:
        def parse(record: Record) -> Example:
            source = text_of(record, SOURCE_FIELDS)
            if not labelled:
                return Example((source,), record.values.get("target"), record.where)
            target = text_of(record, ("target",))
            if not target.strip():
                raise DataError("empty_data", f"{record.where} has an empty target")
            return Example((source,), target, record.where)

        return parse

    @classmethod
    def used_fields(cls, settings: Text2TextSettings, values: dict[str, Any]) -> list[str]:
        return [name for name in (*SOURCE_FIELDS, "target") if name in values]

    # ── ids ────────────────────────────────────────────────────────────────────────────────────

    def tokenizer_texts(self, examples: Sequence[Example]) -> list[str]:
        return [text for example in examples for text in (*example.texts, example.label or "")]

    def pairs(self, examples: Sequence[Example], tokenizer: Tokenizer) -> list[IdPair]:
        sources = tokenizer.encode_batch([self.prompt(example.texts[0]) for example in examples])
        targets = tokenizer.encode_batch([example.label or "" for example in examples])
        return [IdPair(list(source), list(target)) for source, target in zip(sources, targets, strict=True)]

    def prompt(self, source: str) -> str:
        """A source as the model reads it; an empty one stays empty."""
        return self.settings.template.replace(SOURCE, source) if source.strip() else ""

    def sampling(self, model: LanguageModel, n_source: int) -> SamplingParams:
        limit = self.settings.max_tokens or -(-(2 * n_source + 30) // MAX_TOKENS_STEP) * MAX_TOKENS_STEP
        context = model.config.context_length
        if context is not None and model.capabilities.needs_source:
            limit = min(limit, context - 1)
        return SamplingParams(
            temperature=0.0, max_tokens=limit, beams=self.settings.beams,
            length_penalty=self.settings.length_penalty,
        )  # fmt: skip

    # ── scores ─────────────────────────────────────────────────────────────────────────────────

    def metrics(
        self, examples: Sequence[Example], outputs: Sequence[str], *, intervals: bool = True
    ) -> dict[str, Any]:
        references = [str(example.label) for example in examples]
        scores: dict[str, Any] = {
            "bleu": overlap.bleu(outputs, references, intervals=intervals),
            "chrf": overlap.chrf(outputs, references, intervals=intervals),
        }
        rouge = overlap.rouge(outputs, references, intervals=intervals)
        first = rouge | scores if self.settings.goal == "summarize" else scores | rouge
        if self.settings.goal == "summarize":
            first = {"rouge_l": first["rouge_l"], **first}
        result: dict[str, Any] = {"rows": len(examples), **first}
        if empty := sum(not output.strip() for output in outputs):
            result["empty_outputs"] = empty
        if intervals:
            result["mistakes"] = self.worst(examples, outputs)
        return result

    def worst(self, examples: Sequence[Example], outputs: Sequence[str]) -> list[dict[str, Any]]:
        """The outputs with the lowest ROUGE-L."""
        values = overlap.rouge_scores(outputs, [str(example.label) for example in examples])["rouge_l"]
        order = np.argsort(values, kind="stable")[:SHOWN]
        return [
            {
                "where": examples[n].where, "text": examples[n].texts[0], "label": examples[n].label,
                "answer": outputs[n], "rouge_l": round(float(values[n]), 4),
            }
            for n in order.tolist()
        ]  # fmt: skip

    def per_example_metric(
        self, examples: Sequence[Example], outputs: Sequence[str]
    ) -> tuple[str, Floats] | None:
        if self.settings.goal != "summarize":
            return None
        return "rouge_l", overlap.rouge_scores(outputs, [str(example.label) for example in examples])[
            "rouge_l"
        ]

    def weighted_metric(
        self, examples: Sequence[Example], outputs: Sequence[str]
    ) -> tuple[str, Callable[[Floats], float]] | None:
        if self.settings.goal == "summarize":
            return super().weighted_metric(examples, outputs)
        references = [str(example.label) for example in examples]
        counts = overlap.bleu_counts(outputs, references, chinese=overlap.is_chinese(references))
        return "bleu", lambda weights: overlap.bleu_of(np.rint(weights @ counts))

    def majority_baseline(self, examples: Sequence[Example]) -> list[str]:
        return [example.texts[0] for example in examples]

    def answer_columns(self) -> list[str]:
        return ["target"]

    def to_json(self, example: Example, output: str) -> dict[str, Any]:
        return {"target": output}


def text_of(record: Record, names: Sequence[str]) -> str:
    """The first of these fields that a row has. DataError where it has none, or no text there."""
    for name in names:
        if name in record.values:
            value = record.values[name]
            if isinstance(value, str):
                return clean_text(value)
            raise DataError("wrong_type", f"{record.where}: {name} is {value!r:.60}, not a text")
    raise DataError(
        "column_not_found",
        f"{record.where} has no field {names[0]!r}; it has {list_fields(record)}: {columns_remedy(names[0])}",
    )

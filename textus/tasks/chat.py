"""A chat model, trained on conversations: it learns the assistant's answers and to end them.

Fields: `messages` ({"role", "content"}, with system, user, assistant and tool), ShareGPT's `conversations`, or Alpaca's
`instruction`, `input` and `output`. The base is a model that reads from left to right, with a chat template.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from textus.core.console import log_notice
from textus.core.errors import UsageError
from textus.data.conversations import FIELDS, Message, read_conversation
from textus.data.labeled import Record
from textus.data.weighted_rows import WeightedRowLoader
from textus.generation.engine import Engine
from textus.generation.params import SamplingParams
from textus.metrics.resampling import estimate
from textus.models.contract import LanguageModel
from textus.reporting.html import Section
from textus.tasks.base import Example
from textus.tasks.chat_rows import ChatFormat, ChatRow, encode_conversations
from textus.tasks.generation import GenerationTask, pair_format
from textus.tokenizers import Tokenizer

ROWS_AT_ONCE = 8


@dataclass(frozen=True)
class ChatSettings:
    """Of an evaluation: `shown` held-out prompts are answered by the model and by its base, in `max_tokens` at most."""

    shown: int = 8
    max_tokens: int = 128

    def __post_init__(self) -> None:
        for name, least in (("shown", 0), ("max_tokens", 1)):
            if (value := getattr(self, name)) < least:
                raise UsageError("out_of_range", f"task.{name}={value}: must be at least {least}")


@dataclass(frozen=True)
class AnswerScore:
    """What the answers of a conversation cost: `bits` in all, their ends included, for `n_bytes` of text."""

    bits: float
    n_bytes: int


class Chat(GenerationTask):
    """See the module. An example's label is the list of its messages; its text is the whole conversation."""

    name = "chat"
    config = ChatSettings
    settings: ChatSettings
    text_counts = (1,)
    min_rows = 4
    compares_with_base: ClassVar[bool] = True
    held_out_batch: ClassVar[int] = ROWS_AT_ONCE
    label_kind = "answers"
    baseline_name = "the model it began from"
    new_model_size: ClassVar[dict[str, int]] = {"n_layer": 6, "d_model": 256, "context_length": 512}
    group_fields = ("messages", "conversations", "instruction", "input")

    @classmethod
    def from_records(cls, settings: ChatSettings, records: Sequence[Record]) -> Chat:
        if n_tools := sum(bool(record.values.get("tools")) for record in records):
            log_notice(f"the field tools of {n_tools:,} rows is not read: name tools in the system message")
        return cls(settings, [])

    @classmethod
    def row_parser(
        cls, settings: ChatSettings, records: Sequence[Record], *, labelled: bool
    ) -> Callable[[Record], Example]:
        def parse(record: Record) -> Example:
            messages = read_conversation(record.values, record.where, labelled=labelled)
            text = "\n".join(f"{message['role']}: {message['content']}" for message in messages)
            return Example((text,), messages, record.where)

        return parse

    @classmethod
    def used_fields(cls, settings: ChatSettings, values: dict[str, Any]) -> list[str]:
        return [name for name in FIELDS if name in values]

    # ── ids ────────────────────────────────────────────────────────────────────────────────────

    def id_rows(
        self, examples: Sequence[Example], model: LanguageModel, tokenizer: Tokenizer
    ) -> list[ChatRow]:
        if model.capabilities.needs_source or not pair_format(model, tokenizer, self.name).is_causal:
            raise UsageError(
                "unsupported_model",
                f"a {type(model).__name__} reads a source apart, not the turns of a conversation; train chat --from a"
                " decoder (textus pull smollm2)",
            )
        limit = getattr(model.config, "context_length", None)
        return encode_conversations([example.label for example in examples], tokenizer, limit)

    def row_length(self, row: ChatRow) -> int:
        return len(row.ids)

    def id_loader(
        self, rows: Sequence[ChatRow], model: LanguageModel, tokenizer: Tokenizer, *,
        batch_size: int, seed: int, shuffle: bool = True,
    ) -> WeightedRowLoader:  # fmt: skip
        size = min(batch_size, len(rows))
        return WeightedRowLoader(rows, tokenizer.pad_id, batch_size=size, seed=seed, shuffle=shuffle)

    def loss_figures(self, nats: float, rows: Sequence[ChatRow]) -> dict[str, float]:
        n_learned, n_bytes = sum(sum(row.learned) for row in rows), sum(row.n_bytes for row in rows)
        return {"bits_per_byte": round(nats * n_learned / math.log(2) / max(1, n_bytes), 6)}

    # ── scores ─────────────────────────────────────────────────────────────────────────────────

    @torch.inference_mode()
    def score(
        self, model: LanguageModel, tokenizer: Tokenizer, examples: Sequence[Example]
    ) -> list[AnswerScore]:
        """What the answers of each conversation cost; 0 bits and bytes for one that is left out."""
        rows = self.id_rows(examples, model, tokenizer)
        loader = self.id_loader(rows, model, tokenizer, batch_size=ROWS_AT_ONCE, seed=0, shuffle=False)
        bits, n_bytes = np.zeros(len(examples)), np.zeros(len(examples), dtype=np.int64)
        device = next(model.parameters()).device
        model.eval()
        for step in range(loader.n_batches):
            batch = loader.batch(step).to(device)
            nats = (model.score(batch)[0].double() * batch.weights).sum(1).tolist()
            for place, value in zip(loader.rows_of(step).tolist(), nats, strict=True):
                bits[rows[place].number] += value / math.log(2)
                n_bytes[rows[place].number] += rows[place].n_bytes
        return [AnswerScore(float(b), int(n)) for b, n in zip(bits, n_bytes, strict=True)]

    def metrics(
        self, examples: Sequence[Example], outputs: Sequence[AnswerScore], *, intervals: bool = True
    ) -> dict[str, Any]:
        """Bits per byte of answers; lower is better."""
        bits, sizes = [score.bits for score in outputs], [score.n_bytes for score in outputs]
        return {"rows": len(examples), "bits_per_byte": estimate(bits, sizes, intervals=intervals)}

    @torch.inference_mode()
    def answers(
        self, model: LanguageModel, tokenizer: Tokenizer, conversations: Sequence[Sequence[Message]]
    ) -> list[str]:
        """The likeliest next tokens after each conversation, which ends with a user turn or a tool's result."""
        form, limit = ChatFormat(tokenizer), getattr(model.config, "context_length", None)
        prompts = [form.prompt_ids(messages) for messages in conversations]
        params = SamplingParams(temperature=0.0, max_tokens=self.settings.max_tokens)
        places = [n for n, ids in enumerate(prompts) if limit is None or len(ids) < limit]
        written: list[list[int]] = [[] for _ in prompts]
        engine = Engine(
            model, end_id=tokenizer.turn_end_ids, max_rows=ROWS_AT_ONCE, n_ids=tokenizer.vocab_size
        )
        for event in engine.stream([prompts[place] for place in places], params, None) if places else ():
            if event.id is not None:
                written[places[event.row]].append(event.id)
        return [tokenizer.decode(ids).strip() for ids in written]

    def sections(self, metrics: dict[str, Any]) -> list[Section]:
        rows = metrics.get("answers")
        return [Section("Answers to held-out prompts", rows=rows)] if rows else []

    def answer_columns(self) -> list[str]:
        return ["answer"]

    def to_json(self, example: Example, output: Any) -> dict[str, Any]:
        return {"answer": output}

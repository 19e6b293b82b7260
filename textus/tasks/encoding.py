"""Examples as rows of ids, and rows as batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from textus.core.console import log_notice
from textus.core.errors import DataError
from textus.data.batch import Batch
from textus.data.bucketing import LengthGroupedSampler
from textus.tasks.base import EncodedExample, Example, InputTemplate, Task
from textus.tokenizers import Tokenizer

MAX_BATCH_TOKENS = 2048
"""Positions of one batch when answering, padding counted."""


def input_template(config: Any, tokenizer: Tokenizer, longest: int | None = None) -> InputTemplate:
    """The input format of a model of this config; `longest`: a further limit on its ids."""
    limits = [limit for limit in (config.context_length, longest) if limit]
    begin = tuple(tokenizer.bos_ids) or (tokenizer.end_id,)
    segments = getattr(config, "segments", 0)
    longest = min(limits) if limits else None
    return InputTemplate(begin, tokenizer.end_id, longest, segments, tokenizer.n_pair_separators)


def encode_examples(
    task: Task, examples: Sequence[Example], tokenizer: Tokenizer, template: InputTemplate
) -> list[EncodedExample]:
    """All examples as ids; reports how many were truncated."""
    rows = task.encode(examples, tokenizer, template)
    where = getattr(task.settings, "cut", "end")
    cut = [row.n_truncated for row in rows if row.n_truncated]
    log_notice(
        len(cut), " of ", len(rows), f" texts are longer than {template.max_length} tokens: the {where}s of them, ",
        sum(cut), " tokens in all, are not read",
    )  # fmt: skip
    return rows


def collate(task: Task, rows: Sequence[EncodedExample], pad_id: int, position: int = 0) -> Batch:
    """Rows as tensors, padded on the right. The weight of a row is 1, or 1 at each of its `target_positions`, which
    become `word_starts`. With N texts that are encoded separately `ids`, `segments` and `mask` are (B, N, T).
    """
    length = max(row.length for row in rows)
    if odd := [row for row in rows if len(row.other_ids) != len(rows[0].other_ids)]:
        raise DataError(
            "mixed_data",
            f"some rows have {1 + len(rows[0].other_ids)} texts, others {1 + len(odd[0].other_ids)}; give all as many",
        )
    texts = [(row.ids, *row.other_ids) for row in rows]
    lengths = torch.tensor([[len(text) for text in row] for row in texts])
    mask = torch.arange(length) < lengths[:, :, None]
    ids, segments = torch.full(mask.shape, pad_id), torch.zeros(mask.shape, dtype=torch.long)
    ids[mask] = torch.tensor([id_ for row in texts for text in row for id_ in text])
    segments[:, 0][mask[:, 0]] = torch.tensor([segment for row in rows for segment in row.segments])
    if not rows[0].other_ids:
        ids, segments, mask = ids[:, 0], segments[:, 0], mask[:, 0]
    weights = torch.zeros(len(rows), length)
    for number, row in enumerate(rows):
        weights[number, [0] if row.target_positions is None else row.target_positions] = 1.0
    starts = None if rows[0].target_positions is None else weights > 0
    known = [row.label for row in rows if row.label is not None]
    labels = task.label_tensor(known, length) if len(known) == len(rows) else None
    numbers = torch.tensor([row.numbers for row in rows], dtype=torch.float64) if rows[0].numbers else None
    return Batch(
        ids, ids, weights, mask=mask, segments=segments, labels=labels, position=position, numbers=numbers,
        word_starts=starts, task=task.head_name,
    )  # fmt: skip


class ExampleLoader:
    """Batches of rows of similar length in random order for `training.trainer.fit`: a function of (seed, step)."""

    def __init__(
        self, task: Task, rows: Sequence[EncodedExample], *, pad_id: int, batch_size: int, seed: int
    ) -> None:
        if not rows:
            raise DataError("empty_data", "there is no row to train on")
        self.task, self.rows, self.pad_id = task, rows, pad_id
        lengths = np.asarray([row.length for row in rows])
        by_length = lambda numbers: numbers[np.argsort(lengths[numbers], kind="stable")]  # noqa: E731
        self.sampler = LengthGroupedSampler(len(rows), min(batch_size, len(rows)), seed, by_length)

    @property
    def n_batches(self) -> int:
        """Batches in one epoch."""
        return self.sampler.n_batches

    @cached_property
    def tokens_per_step(self) -> int:
        """Average ids of a batch."""
        total = sum(len(text) for row in self.rows for text in (row.ids, *row.other_ids))
        return max(1, round(total / len(self.rows) * self.sampler.batch_size))

    def batch(self, step: int) -> Batch:
        """The batch of a step, from 0."""
        rng = self.sampler.rng("rows", step)
        rows = [self.task.augment_row(self.rows[int(number)], rng) for number in self.sampler.rows_at(step)]
        return collate(self.task, rows, self.pad_id, step)


def length_batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """The indices of rows by length, in batches of at most `MAX_BATCH_TOKENS` ids, padding included."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if batch and (len(batch) + 1) * lengths[place] > MAX_BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch

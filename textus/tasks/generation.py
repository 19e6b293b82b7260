"""Tasks whose answer is a text that the model writes: it is trained on its own likelihood of the targets, no head."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, ClassVar

import torch
from torch import Tensor

from textus.core.console import log_notice
from textus.core.errors import DataError, UsageError
from textus.data.batch import Batch
from textus.data.bucketing import BucketLoader
from textus.data.text_pairs import IdPair, PairFormat, pair_loader
from textus.data.weighted_rows import WeightedRowLoader
from textus.generation.beam import beam_search
from textus.generation.engine import Engine
from textus.generation.params import SamplingParams
from textus.generation.sampling import bos_ids
from textus.models.contract import CountBased, LanguageModel
from textus.tasks.base import Example, Task, has_blanks
from textus.tokenizers import Tokenizer

ROWS_AT_ONCE = 64
"""Texts that are written together."""


class GenerationTask(Task):
    """A task whose outputs are texts: it makes the rows of ids that a model is trained on with its own loss."""

    compares_with_base: ClassVar[bool] = False
    """Whether the loss of the run to begin from is measured before the first step, to be reported."""
    held_out_batch: ClassVar[int] = 64
    """Held-out rows of which the loss is computed together."""

    @abstractmethod
    def id_rows(self, examples: Sequence[Example], model: LanguageModel, tokenizer: Tokenizer) -> list[Any]:
        """Labelled examples as rows of ids for a model; what was cut or left out is reported. Raises UsageError for a
        model or tokenizer that cannot be trained for the task, DataError where nothing is left to learn.
        """

    @abstractmethod
    def row_length(self, row: Any) -> int:
        """Ids of a row."""

    @abstractmethod
    def id_loader(
        self, rows: Sequence[Any], model: LanguageModel, tokenizer: Tokenizer, *,
        batch_size: int, seed: int, shuffle: bool = True,
    ) -> BucketLoader | WeightedRowLoader:  # fmt: skip
        """Batches of these rows."""

    def loss_figures(self, nats: float, rows: Sequence[Any]) -> dict[str, float]:
        """Further figures for the log, from the nats per learned id of held-out rows."""
        return {}

    def tokenizer_spec(self, kind: str | None, texts: Sequence[str]) -> tuple[str, int]:
        size = 8000 if has_blanks(texts) else 6000
        return kind or "bpe", min(size, max(500, len({*" ".join(texts).split()}) // 2))

    def label_tensor(self, labels: list[Any], length: int) -> Tensor:
        raise TypeError(f"{self.name} has no labels but texts")

    def head_spec(self) -> dict[str, Any]:
        raise TypeError(f"{self.name} has no head")

    def predict(self, head: Any, hidden: Tensor, batch: Batch) -> list[Any]:
        raise TypeError(f"{self.name} has no head")


class PairTask(GenerationTask):
    """A task that is trained on pairs of ids; `sampling` decides how a target is written."""

    @abstractmethod
    def pairs(self, examples: Sequence[Example], tokenizer: Tokenizer) -> list[IdPair]:
        """Source and target of labelled examples as ids; of unlabelled ones an empty target."""

    @abstractmethod
    def sampling(self, model: LanguageModel, n_source: int) -> SamplingParams:
        """How the target of a source of so many ids is written."""

    def id_rows(self, examples: Sequence[Example], model: LanguageModel, tokenizer: Tokenizer) -> list[Any]:
        pairs = encode_pairs(self, examples, tokenizer, pair_format(model, tokenizer, self.name))
        if not any(pair.target for pair in pairs):
            raise DataError("empty_data", f"all {len(pairs):,} targets are empty: there is nothing to learn")
        return pairs

    def row_length(self, row: IdPair) -> int:
        return len(row.source) + len(row.target) + 2

    def id_loader(
        self, rows: Sequence[IdPair], model: LanguageModel, tokenizer: Tokenizer, *,
        batch_size: int, seed: int, shuffle: bool = True,
    ) -> BucketLoader | WeightedRowLoader:  # fmt: skip
        form = pair_format(model, tokenizer, self.name)
        return pair_loader(rows, form, batch_size=batch_size, seed=seed, shuffle=shuffle)


def pair_format(model: LanguageModel, tokenizer: Tokenizer, task: str) -> PairFormat:
    """How this model reads pairs. UsageError for a family that cannot write a text given another."""
    capabilities = model.capabilities
    start = bos_ids(model, tokenizer.end_id)[0]
    context = getattr(model.config, "context_length", None)
    if capabilities.needs_source:
        return PairFormat(tokenizer.end_id, start, None, context)
    if (
        isinstance(model, CountBased)
        or not (capabilities.is_causal and capabilities.can_generate)
        or capabilities.one_document_per_row
    ):
        raise UsageError(
            "unsupported_model",
            f"a {type(model).__name__} writes no text given another; train {task} with --model encoder-decoder,"
            " seq2seq, decoder, lstm or gru",
        )
    return PairFormat(tokenizer.end_id, start, tuple(tokenizer.bos_ids) or (tokenizer.end_id,), context)


def encode_pairs(
    task: PairTask, examples: Sequence[Example], tokenizer: Tokenizer, form: PairFormat
) -> list[IdPair]:
    """Examples as pairs that fit the context; how many texts were cut is reported."""
    fitted = [form.fit(pair) for pair in task.pairs(examples, tokenizer)]
    n_cut = {"source": [row[1] for row in fitted], "target": [row[2] for row in fitted]}
    for side, counts in n_cut.items():
        if cut := [count for count in counts if count]:
            log_notice(
                f"{len(cut):,} of {len(fitted):,} {side}s are longer than the context of {form.context_length} tokens:"
                f" their ends, {sum(cut):,} tokens in all, are not learned"
            )
    return [pair for pair, _, _ in fitted]


def write_texts(
    model: LanguageModel, task: PairTask, tokenizer: Tokenizer, examples: Sequence[Example]
) -> list[str]:
    """The text that the model writes for each example; sources too long for the context are cut, and counted."""
    form = pair_format(model, tokenizer, task.name)
    sources, cut = [], []
    for pair in task.pairs(examples, tokenizer):
        limit = None if form.context_length is None else form.context_length // 2
        fitted, n_cut, _ = form.fit(IdPair(pair.source, []), limit if form.is_causal else None)
        sources.append(fitted.source)
        cut += [n_cut] if n_cut else []
    log_notice(
        len(cut), " of ", len(sources), f" sources are longer than the context of {form.context_length} tokens: their",
        " ends, ", sum(cut), " tokens in all, are not read",
    )  # fmt: skip
    written = write_ids(model, task, tokenizer, sources, form)
    return [tokenizer.decode(ids).strip() for ids in written]


def batches_of(
    task: PairTask, model: LanguageModel, sources: Sequence[list[int]]
) -> Iterator[tuple[list[int], SamplingParams]]:
    """The indices of sources that are not empty, by length, with their sampling: those of a batch share it, so
    that a text does not depend on its neighbours.
    """
    order = sorted((row for row, ids in enumerate(sources) if ids), key=lambda row: len(sources[row]))
    for params, group in groupby(order, key=lambda row: task.sampling(model, len(sources[row]))):
        rows = list(group)
        for first in range(0, len(rows), ROWS_AT_ONCE):
            yield rows[first : first + ROWS_AT_ONCE], params


@torch.inference_mode()
def write_ids(
    model: LanguageModel,
    task: PairTask,
    tokenizer: Tokenizer,
    sources: Sequence[list[int]],
    form: PairFormat,
) -> list[list[int]]:
    """The ids written for each source; an empty source has an empty text. Texts cut at their limit are counted."""
    written: list[list[int]] = [[] for _ in sources]
    n_cut = 0
    model.eval()
    for rows, params in batches_of(task, model, sources):
        prompts = [form.prompt(sources[row]) for row in rows]
        given = None if form.is_causal else [sources[row] for row in rows]
        if params.searches:
            best = beam_search(
                model, prompts, params, sources=given, ends=tokenizer.end_ids, n_ids=tokenizer.vocab_size
            )
            for row, hypotheses in zip(rows, best, strict=True):
                written[row] = hypotheses[0].ids
                n_cut += hypotheses[0].reason == "length"
            continue
        engine = Engine(model, end_id=tokenizer.end_ids, max_rows=ROWS_AT_ONCE, n_ids=tokenizer.vocab_size)
        for event in engine.stream(prompts, params, given):
            if event.id is not None:
                written[rows[event.row]].append(event.id)
            n_cut += event.reason == "length"
    log_notice(
        n_cut, " of ", len(sources), " texts did not end within the tokens they may have and are cut (max_tokens sets"
        " how many)",
    )  # fmt: skip
    return written

"""Batches of whole documents: alone, with a source text, or made into pairs by corruption. Rows of like length share a
batch. Which rows a step sees depends on (seed, step) only; see `data.batch.Batch` for the form.
"""

from __future__ import annotations

from typing import Any

from textus.core.errors import UsageError
from textus.data.batch import Batch, BatchSource
from textus.data.bucketing import BucketLoader
from textus.data.denoising import DenoisingLoader
from textus.data.loader import NextSentenceLoader, TokenLoader
from textus.data.token_dataset import TokenizedCorpus


def make_loader(model: Any, tokenized: TokenizedCorpus, split: str = "train", **sizes: Any) -> BatchSource:
    """The batches a model (or its class, with `config` among the sizes) trains on from a corpus.

    Packed windows; a document a row for a family of `whole_documents`; pairs for one that `needs_source`, made by
    corruption (its config's `objective`) where the corpus has none. `sizes` are those of `TokenLoader` and
    `BucketLoader`.

    Raises UsageError: a family without a source on a corpus of pairs.
    """
    config = sizes.pop("config", None) or model.config
    corpus = tokenized.corpus
    pairs = getattr(corpus, "has_pairs", False)
    store = tokenized.dataset(split)
    if model.capabilities.needs_source or model.capabilities.one_document_per_row:
        sizes.pop("overlap", None)
        sizes["start_id"] = getattr(config, "start_id", None)
    if not model.capabilities.needs_source:
        if pairs:
            raise UsageError(
                "incompatible_data",
                f"{corpus.path} holds pairs of source and target; train on it with --model encoder-decoder or"
                " seq2seq, or build a corpus of plain text: one column named text",
            )
        if model.capabilities.one_document_per_row:
            return BucketLoader(store, **sizes)
        required = model.required_batch_fields(config)
        if "word_starts" in required:
            sizes["word_starts"] = tokenized.tokenizer.word_starts
        return (NextSentenceLoader if "sentence_pairs" in required else TokenLoader)(store, **sizes)
    if pairs:
        return BucketLoader(store, tokenized.dataset(split, "source_text"), **sizes)
    objective, mask_id = getattr(config, "objective", "prefix"), getattr(config, "mask_id", 0)
    return DenoisingLoader(store, objective=objective, mask_id=mask_id, **sizes)


OBJECTIVE_NAMES = {
    "span": "filling in missing spans (span corruption)",
    "prefix": "continuing a given beginning (prefix)",
}


def no_pairs_message(model: Any) -> str:
    """One line on how a model that needs pairs learns from a corpus that has none."""
    objective = OBJECTIVE_NAMES[getattr(model.config, "objective", "prefix")]
    return f"the corpus has no pairs: pre-training by {objective} (--set model.objective chooses)"


def first_source(batch: Batch, end_id: int) -> list[int] | None:
    """The source of a batch's first row without its end, None where it has none."""
    if batch.source is None:
        return None
    row: list[int] = batch.source[0].tolist()
    return row[: row.index(end_id)]

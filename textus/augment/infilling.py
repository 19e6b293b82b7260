"""Words hidden from an encoder of ours, and what it puts there (Wu et al. 2019; without the label it is freer)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from textus.augment.negation import is_negation
from textus.augment.operations import Operation, editable_positions, n_edits
from textus.augment.units import Tokens
from textus.core.errors import UsageError
from textus.runs.store import load

LIKELIEST = 10
"""The encoder's first answers, among which chance chooses by their probability."""


def make_infill(run: Path) -> Operation:
    """The operation by the encoder of a run; UsageError for a run that cannot predict masked words."""
    model, tokenizer, record = load(run)
    if record["family"] != "encoder":
        raise UsageError(
            "unsupported_model",
            f"augment.encoder={run}: a {record['family']} fills no gaps; give a run of an encoder",
        )
    if record.get("imported") and not model.config.mlm_transform:
        raise UsageError(
            "unsupported_model",
            f"augment.encoder={run}: it came without the head that predicts masked words; train one here:"
            " textus train CORPUS --model encoder",
        )
    model.eval()
    whole = words_by_id(tokenizer)
    begin, longest = tokenizer.bos_ids or [tokenizer.end_id], model.config.context_length

    @torch.inference_mode()
    def operation(units: Tokens, random: Random, rate: float) -> Tokens | None:
        places = sorted(
            random.sample(
                editable_positions(units), min(n_edits(units, rate), len(editable_positions(units)))
            )
        )
        ids, holes, blank = list(begin), dict[int, int](), ""
        for number, unit in enumerate(units):
            if number in places:
                holes[number] = len(ids)
                ids.append(model.config.masked_id)
            else:
                ids += tokenizer.encode(blank + unit.text)
            blank = unit.trailing_space
        ids = [*ids[: longest - 1], tokenizer.end_id]
        logits = model(torch.tensor([ids]))[0]
        changed = list(units)
        for number, at in holes.items():
            if at < len(ids) - 1 and (word := sample_word(logits[at], whole, units[number].text, random)):
                changed[number] = replace(units[number], text=word)
        return changed if changed != units else None

    return operation


def words_by_id(tokenizer: Any) -> list[str]:
    """The text of each id that is a whole word or a Chinese character; empty for pieces, marks and negations."""
    spaced = tokenizer.kind in ("bpe", "unigram", "sentencepiece")
    words = []
    for piece, starts in zip(tokenizer.vocabulary, tokenizer.word_starts, strict=True):
        word = piece.decode("utf-8", errors="ignore")
        plain = word.strip()
        inside = spaced and not word[:1].isspace() and plain.isascii()
        usable = starts and plain.isalpha() and not inside and not is_negation(plain)
        words.append(plain if usable else "")
    return words


def sample_word(logits: Any, whole: list[str], before: str, random: Random) -> str | None:
    """One of the likeliest words other than the one that was there; None where it is missing."""
    order = logits.argsort(descending=True, stable=True)[: 20 * LIKELIEST].tolist()
    known = [n for n in order if whole[n] and whole[n].lower() != before.lower()][:LIKELIEST]
    if not known:
        return None
    weights = logits[known].double().softmax(0).tolist()
    word = whole[random.choices(known, weights)[0]]
    return word.title() if before.istitle() else word

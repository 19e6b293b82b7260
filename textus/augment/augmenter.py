"""More rows from few: copies of labelled rows in slightly different words, with labels that are still right.

A copy follows from the seed, the row and its number alone, so the order of rows changes nothing. Every row carries
`origin`, the row it came from, and a copy also `augmented`, what was done: whoever holds rows out can keep copies of
them out of training. Sources: Wei and Zou 2019 (EDA); the operations' own modules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from random import Random

from textus.augment import operations
from textus.augment.config import OPERATIONS, AugmentConfig
from textus.augment.infilling import make_infill
from textus.augment.operations import Operation, Synonyms
from textus.augment.units import RowValues, TokenizedRecord, tokenize_record
from textus.augment.wordnet import find_wordnet
from textus.core.console import log_notice
from textus.core.errors import DataError, UsageError
from textus.core.io import fingerprint
from textus.core.rng import derive_seed
from textus.data.labeled import Record
from textus.models import word_vectors

N_NEIGHBOURS, MIN_COSINE = 5, 0.5
"""Of word vectors so many neighbours, of at least this cosine, are taken for synonyms."""
LABEL_FIELDS = ("label", "score", "tags", "answers", "id", "origin", "augmented")
"""Fields of a row that are not what is read."""


def origin_id(values: RowValues) -> str:
    """The identity of a row: the row it was made from, else a hash of its text without labels."""
    if isinstance(values.get("origin"), str):
        return str(values["origin"])
    content = [
        value for name, value in values.items() if name not in LABEL_FIELDS and isinstance(value, str | list)
    ]
    return fingerprint(content)


def make_operations(settings: AugmentConfig) -> dict[str, Operation]:
    """The operations requested, with their resources read. UsageError for none, or where a source is missing."""
    if not settings.names:
        raise UsageError(
            "missing_argument",
            f"choose how rows are changed: --ops swap,delete,…; known: {', '.join(OPERATIONS)}",
        )
    known = synonym_source(settings) if {"synonyms", "insert"} & set(settings.names) else None
    if "infill" in settings.names and not settings.encoder:
        raise UsageError(
            "missing_argument", "infill needs an encoder: --encoder RUN (or --set augment.encoder=RUN)"
        )
    by_name: dict[str, Operation] = {}
    for name in settings.names:
        if name == "infill":
            by_name[name] = make_infill(Path(settings.encoder))
        elif name in ("synonyms", "insert"):
            assert known is not None
            by_name[name] = (
                operations.make_synonyms(known) if name == "synonyms" else operations.make_insert(known)
            )
        elif name in ("swap", "delete"):
            by_name[name] = operations.swap if name == "swap" else operations.delete
        else:
            change = {
                "typos": operations.make_typo,
                "ocr": operations.ocr_error,
                "pinyin": operations.homophone,
            }[name]
            by_name[name] = operations.make_word_operation(change)
    return by_name


def synonym_source(settings: AugmentConfig) -> Synonyms:
    """Where synonyms come from: the nearest of the word vectors, or WordNet."""
    if not settings.vectors:
        return find_wordnet(Path(settings.wordnet) if settings.wordnet else None)
    known = word_vectors.read(settings.vectors)

    @lru_cache(maxsize=100_000)
    def near(word: str) -> list[str]:
        spelling = next((form for form in (word, word.lower()) if form in known), None)
        if spelling is None:
            return []
        others = known.similar(spelling, N_NEIGHBOURS)
        return [neighbour for neighbour, cosine in others if cosine >= MIN_COSINE and neighbour.isalpha()]

    return near


def content_hash(taken: TokenizedRecord, row: RowValues) -> str:
    """A hash of a row's text: two equal copies are one."""
    return fingerprint([row[name] for name in taken.fields])


def apply_operation(taken: TokenizedRecord, operation: Operation, random: Random, rate: float) -> RowValues:
    """A row with each of its texts changed by an operation that can."""
    row = taken.values
    for name, units in taken.fields.items():
        if (other := operation(units, random, rate)) is not None:
            row = taken.with_tokens(name, other, row)
    return row


class Augmenter:
    """Makes copies of rows, and counts what it made and what it could not."""

    def __init__(self, settings: AugmentConfig, made_of: dict[str, Operation] | None = None) -> None:
        self.settings = settings
        self.operations = make_operations(settings) if made_of is None else made_of
        self.made: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.missing = 0

    def augment(self, values: RowValues, where: str = "the row") -> list[RowValues]:
        """The copies of one row: each by one operation, all of them in turn; fewer where none could change it."""
        taken, origin = tokenize_record(values, where), origin_id(values)
        seen, copies_made = {content_hash(taken, values)}, list[RowValues]()
        names = list(self.operations)
        first = derive_seed(self.settings.seed, "first operation", origin)
        for number in range(self.settings.copies):
            random = Random(derive_seed(self.settings.seed, "augment", origin, number))
            for turn in range(len(names)):
                name = names[(first + number + turn) % len(names)]
                copy = apply_operation(taken, self.operations[name], random, self.settings.rate)
                if (key := content_hash(taken, copy)) not in seen:
                    seen.add(key)
                    self.made[name] += 1
                    copies_made.append({**copy, "origin": origin, "augmented": name})
                    break
                self.refused[name] += 1
            else:
                self.missing += 1
        return copies_made

    def summary(self, n_rows: int) -> str:
        """One line: what was made, and what was not."""
        made = ", ".join(f"{name} {self.made[name]:,}" for name in self.operations)
        line = f"{sum(self.made.values()):,} copies of {n_rows:,} rows: {made}"
        if self.refused:
            refused = ", ".join(f"{name} {n:,} times" for name, n in self.refused.items())
            line += f"; nothing new came of {refused}"
        return line + (f"; {self.missing:,} copies could not be made" if self.missing else "")


def augment_records(records: Sequence[Record], settings: AugmentConfig) -> list[Record]:
    """The rows, each with its origin, and after each its copies; what was made is reported.

    Raises DataError for rows without a text, with labels outside of it, or already augmented.
    """
    if already := [record for record in records if "augmented" in record.values]:
        raise DataError(
            "rows_already_augmented",
            f"{already[0].where} is a copy already, as {len(already):,} rows are; augment the rows they were made from",
        )
    augmenter, copied = Augmenter(settings), list[Record]()
    for record in records:
        copied.append(Record({**record.values, "origin": origin_id(record.values)}, record.where))
        copies = augmenter.augment(record.values, record.where)
        copied += [Record(copy, f"{record.where}, copy {n}") for n, copy in enumerate(copies, 1)]
    log_notice(augmenter.summary(len(records)))
    return copied

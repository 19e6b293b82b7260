"""Requests of `textus augment` and `textus cloze`."""

from __future__ import annotations

from dataclasses import dataclass

from textus.core.errors import UsageError
from textus.core.names import unknown_name_error
from textus.core.requests import RequestBase, option

OPERATIONS = ("synonyms", "swap", "delete", "insert", "typos", "ocr", "pinyin", "infill")


@dataclass(frozen=True)
class AugmentConfig(RequestBase):
    """The options of `textus augment` and of `--set augment.…` when fine-tuning."""

    ops: str = option(
        "", "Of synonyms, swap, delete, insert, typos, ocr, pinyin, infill; separated by commas."
    )
    copies: int = option(1, "Copies of a row at most; the operations take turns.")
    rate: float = option(0.1, "Share of a text's words to change; at least one is.")
    seed: int = option(0, "The same rows and seed give the same copies, in any order.")
    wordnet: str = option(
        "", "The folder of WordNet's files, if it is not where it is usually installed.", metavar="FOLDER"
    )
    vectors: str = option(
        "", "Word vectors whose nearest neighbours are used as synonyms, for any language.", metavar="FILE"
    )
    encoder: str = option("", "The run of an encoder that infills.", metavar="RUN")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.copies < 1:
            raise UsageError("out_of_range", f"augment.copies={self.copies}: must be at least 1")
        if not 0 < self.rate <= 1:
            raise UsageError("out_of_range", f"augment.rate={self.rate}: must be above 0, and 1 at most")
        for name in self.names:
            if name not in OPERATIONS:
                raise unknown_name_error("operation", name, OPERATIONS)

    @property
    def names(self) -> list[str]:
        """The operations, each once."""
        return list(dict.fromkeys(name.strip() for name in self.ops.split(",") if name.strip()))


@dataclass(frozen=True)
class ClozeConfig(RequestBase):
    """The options of `textus cloze`."""

    questions: int = option(2, "Questions per passage at most.")
    longest: int = option(800, "Characters of a passage at most.")
    words: float = option(2.5, "Words of an answer on average, if it is no name.")
    dropped: float = option(0.3, "Share of a question's words to leave out.")
    seed: int = option(0, "The same text and seed give the same rows.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("questions", 1), ("longest", 50), ("words", 1)):
            if (value := getattr(self, name)) < least:
                raise UsageError("out_of_range", f"cloze.{name}={value}: must be at least {least}")
        if not 0 <= self.dropped < 1:
            raise UsageError("out_of_range", f"cloze.dropped={self.dropped}: must be at least 0 and below 1")

"""Synonyms from WordNet's own files (`index.noun`, `data.noun`, …; Fellbaum 1998), format of version 3.

Debian has them as the package `wordnet-base`, nltk as the corpus `wordnet`.
"""

from __future__ import annotations

import os
from functools import cached_property, lru_cache
from pathlib import Path

from textus.core.errors import DataError, UsageError

PARTS = ("noun", "verb", "adj", "adv")
SENSES = 2
"""Of each part of speech the most frequent senses count; rarer ones are rarely meant."""


def wordnet_folders() -> list[Path]:
    """Where WordNet is looked for: its own variable, Debian's folder, nltk's data."""
    own = [Path(os.environ["WNSEARCHDIR"])] if os.environ.get("WNSEARCHDIR") else []
    nltk = [Path(part) for part in os.environ.get("NLTK_DATA", "").split(os.pathsep) if part]
    return [
        *own,
        Path("/usr/share/wordnet"),
        *(folder / "corpora" / "wordnet" for folder in [*nltk, Path.home() / "nltk_data"]),
    ]


def find_wordnet(folder: Path | None = None) -> WordNet:
    """WordNet in a folder, or in the first place that has it; UsageError with the way to get it."""
    if folder is not None and not (folder / "index.noun").is_file():
        raise UsageError("not_found", f"{folder} holds no WordNet: there is no index.noun")
    for candidate in [folder] if folder else wordnet_folders():
        if (candidate / "index.noun").is_file():
            return WordNet(candidate)
    raise UsageError(
        "not_found",
        "synonyms need WordNet, which is not here: install it (Debian: wordnet-base), or set augment.wordnet to the"
        " folder of its index.noun, or augment.vectors to a file of word vectors",
    )


class WordNet:
    """The dictionary of one folder; read when needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def index(self) -> dict[str, list[tuple[str, int]]]:
        """Lemma → (part of speech, offset in its data file) of its first senses."""
        senses_of: dict[str, list[tuple[str, int]]] = {}
        for part in PARTS:
            for line in self._read(f"index.{part}").decode("latin-1").splitlines():
                if line.startswith("  "):  # the licence
                    continue
                lemma, *rest = line.split()
                senses = rest[-int(rest[1]) :]
                senses_of.setdefault(lemma, []).extend((part, int(sense)) for sense in senses[:SENSES])
        return senses_of

    @cached_property
    def data(self) -> dict[str, bytes]:
        """The synsets of each part of speech."""
        return {part: self._read(f"data.{part}") for part in PARTS}

    def _read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise DataError(
                "damaged", f"{self.folder / name} cannot be read ({error}); install WordNet anew"
            ) from error

    @lru_cache(maxsize=100_000)  # noqa: B019 (one dictionary lives as long as the work it is for)
    def __call__(self, word: str) -> tuple[str, ...]:
        """Single words that share a sense with a word as it is written, in WordNet's order. Inflected forms have
        none: their synonyms would have another form.
        """
        synonyms: dict[str, None] = {}
        for part, offset in self.index.get(word.lower(), []):
            data = self.data[part]
            fields = data[offset : data.find(b"\n", offset)].decode("latin-1").split()
            if fields[:1] != [f"{offset:08d}"]:
                raise DataError(
                    "damaged", f"{self.folder / f'data.{part}'} is damaged at {offset}; install WordNet anew"
                )
            lemmas = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
            synonyms |= dict.fromkeys(lemma.partition("(")[0] for lemma in lemmas)
        return tuple(lemma for lemma in synonyms if lemma.isalpha() and lemma.lower() != word.lower())

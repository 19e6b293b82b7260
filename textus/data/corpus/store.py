"""The corpus folder, opened again: its documents as a stream, what it holds, and what became of one document.

::

    corpus.json       version, fingerprint, settings, split, sources, counts, dropped, SHA-256 of the others
    train.jsonl       a part a line; the parts of a document follow one another
    validation.jsonl
    dropped.jsonl     what was left out, why, and which document a duplicate repeats
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textus.core.config import Shape, check_shape, check_version
from textus.core.errors import DataError, RunError
from textus.core.io import describe_other_kind, read_json, remove_stale_files, resolve_record_file, sha256
from textus.core.names import unknown_name_error
from textus.data.corpus.documents import SPLITS, Document

SHOWN = 100
"""The most documents one question is answered with."""


FILES = ("train.jsonl", "validation.jsonl", "dropped.jsonl")
"""What corpus.json lists."""
COUNTS: Shape = {"documents": int, "parts": int, "chars": int, "bytes": int}
RECORD: Shape = {
    "fingerprint": str,
    "counts": {"train": COUNTS, "validation": COUNTS},
    "files": {...: str},
    "pairs?": bool,
    "split?": str,
    "settings?": dict,
    "sources?": list,
    "dropped?": {...: int},
    "replaced_bytes?": int,
    "n_files?": int,
}
"""What corpus.json holds."""


@dataclass(frozen=True)
class Corpus:
    """An opened corpus folder. Nothing of the text is held: each reading streams from the disk."""

    path: Path
    record: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """16 hex digits of the texts, their order and their split; where they lay does not matter."""
        return self.record["fingerprint"]

    @property
    def has_pairs(self) -> bool:
        """Whether each document is a target text with its `source_text`."""
        return bool(self.record.get("pairs"))

    def n_documents(self, split: str = "train") -> int:
        """Documents of a split; one cut by a tail split counts in both."""
        return self.record["counts"][check_split(split)]["documents"]

    def n_chars(self, split: str = "train") -> int:
        """Characters of a split."""
        return self.record["counts"][check_split(split)]["chars"]

    def n_bytes(self, split: str = "train") -> int:
        """UTF-8 bytes of the text of a split; of pairs, the targets'."""
        return self.record["counts"][check_split(split)]["bytes"]

    def documents(self, split: str = "train") -> Iterator[Document]:
        """The parts of a split in order, those of one document together. Raises RunError if damaged."""
        path = self.path / f"{check_split(split)}.jsonl"
        for number, record in enumerate(read_jsonl(path), 1):
            try:
                yield Document(**{**record, "steps": tuple(record["steps"])})
            except (LookupError, TypeError) as error:
                raise RunError(
                    "damaged", f"{path}, line {number}: no document ({error}); build the corpus anew"
                ) from error

    def texts(self, split: str = "train") -> Iterator[str]:
        """The text of each part of a split; of a pair first its source, then its target."""
        for record in read_jsonl(self.path / f"{check_split(split)}.jsonl"):
            if "source_text" in record:
                yield record["source_text"]
            yield record["text"]

    def dropped(self) -> Iterator[dict[str, Any]]:
        """What was left out: source, reason, and where they apply detail, offset, id and duplicate_of."""
        return read_jsonl(self.path / "dropped.jsonl")

    def verify(self) -> None:
        """Read every file and compare its SHA-256. Raises RunError naming the first that changed."""
        for name, expected in self.record["files"].items():
            if sha256(resolve_record_file(self.path, name, FILES)) != expected:
                raise RunError(
                    "damaged", f"{self.path / name} was changed after it was written; build the corpus anew"
                )


def check_split(split: str) -> str:
    """The name of a split. Raises UsageError for another."""
    if split not in SPLITS:
        raise unknown_name_error("split", split, SPLITS)
    return split


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a jsonl file of a corpus. Raises RunError for one that is not whole."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise RunError(
                    "damaged", f"{path}, line {number}: damaged ({error}); build the corpus anew"
                ) from error


def open_corpus(path: Path, *, verify: bool = False) -> Corpus:
    """Open a corpus folder. Raises RunError if it is not one, of another version, incomplete, or (`verify`) changed."""
    path = Path(path)
    remove_stale_files(path)
    if not (path / "corpus.json").is_file():
        remedy = describe_other_kind(path) or "make one: textus corpus build SRC --out FOLDER"
        raise RunError("not_a_corpus", f"{path} is not a corpus (no corpus.json in it); {remedy}")
    record = read_json(path / "corpus.json")
    check_version(record, path, "corpus")
    lacking = [key for key in ("fingerprint", "counts", "files") if key not in record]
    if lacking:
        raise RunError("damaged", f"{path / 'corpus.json'} lacks {', '.join(lacking)}; build the corpus anew")
    check_shape(record, RECORD, str(path / "corpus.json"))
    for name in {*FILES, *record["files"]}:
        if name not in record["files"] or not resolve_record_file(path, name, FILES).exists():
            raise RunError(
                "damaged", f"{path / name} is missing, or not listed in corpus.json; build the corpus anew"
            )
    corpus = Corpus(path, record)
    if verify:
        corpus.verify()
    return corpus


def show(corpus: Corpus) -> dict[str, Any]:
    """What a corpus holds: counts by split, what was dropped by reason, its sources."""
    record = corpus.record
    counts = record["counts"]
    whole = {name: sum(side[name] for side in counts.values()) for name in ("chars", "bytes")}
    return {
        "path": str(corpus.path),
        "fingerprint": corpus.fingerprint,
        "split": record["split"],
        **({"pairs": True} if corpus.has_pairs else {}),
        **whole,
        **{split: counts[split] for split in SPLITS},
        "dropped": record["dropped"],
        "replaced_bytes": record["replaced_bytes"],
        "n_files": record["n_files"],
        "sources": record["sources"],
        "settings": record["settings"],
    }


def trace_document(corpus: Corpus, query: str) -> dict[str, Any]:
    """What became of a document, by its id or its source.

    Returns `kept` (id, source, offset, steps, characters by split) and `dropped` (as in dropped.jsonl), at most 100 of
    each, with `n_kept` and `n_dropped`. Reads the whole corpus once. Raises DataError for an unknown document.
    """
    kept: dict[tuple[str, str, int], dict[str, Any]] = {}
    n_kept = 0
    for split in SPLITS:
        entry: dict[str, Any] | None = None
        for document in corpus.documents(split):
            if query not in (document.id, document.source):
                continue
            if document.part == 0:
                entry, new = trace_entry(kept, document)
                n_kept += new
            if entry is not None:
                entry["chars"][split] = entry["chars"].get(split, 0) + len(document.text)
                entry["steps"] += [step for step in document.steps if step not in entry["steps"]]
    dropped, n_dropped = [], 0
    for record in corpus.dropped():
        if query in (record.get("id"), record["source"]):
            n_dropped += 1
            dropped += [record] if n_dropped <= SHOWN else []
    if not n_kept and not n_dropped:
        raise DataError(
            "not_found",
            f"no document {query!r} in {corpus.path}; ask by its id (16 hex digits) or its source as given",
        )
    return {
        "query": query,
        "n_kept": n_kept,
        "kept": list(kept.values()),
        "n_dropped": n_dropped,
        "dropped": dropped,
    }


def trace_entry(
    kept: dict[tuple[str, str, int], dict[str, Any]], document: Document
) -> tuple[dict[str, Any] | None, bool]:
    """The entry of a document in the answer and whether it is new; None beyond the most that is shown."""
    for key in kept:
        if key[:2] == (document.id, document.source):
            return kept[key], False
    if len(kept) >= SHOWN:
        return None, True
    entry = {
        "id": document.id,
        "source": document.source,
        "offset": document.offset,
        "steps": [],
        "chars": {},
    }
    kept[document.id, document.source, document.offset] = entry
    return entry, True

"""Finding texts: an index of documents by their words (BM25), by their meaning (vectors of a run), or by both.

    index.json          what it is: ways, documents, the run's fingerprint, SHA-256 of the other files; written last
    documents.jsonl     a document a line, in order
    bm25/               weights of words, as `bm25s` writes them
    vectors.usearch     vectors of length one; run/ is the run that made them, and reads the queries

Sources: Robertson and Zaragoza 2009 (BM25; as Lucene counts); Malkov and Yashunin 2018 (the graph that `usearch`
walks); Cormack, Clarke and Büttcher 2009 (reciprocal rank fusion).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from textus.checkpoint import RUN_FILES
from textus.checkpoint import verify as verify_run
from textus.common import (
    DataError,
    RunError,
    TextusError,
    UsageError,
    claim,
    extra,
    folder_atomic,
    json_lines,
    notice,
    read_json,
    record_file,
    sha256,
    sweep,
    unknown,
    write_json,
)
from textus.config import NONE, VERSION, Shape, check_shape, migrate
from textus.metrics import ranking
from textus.models import LanguageModel
from textus.records import parse_columns, read_records
from textus.tasks import Task, from_record, learnt, named_of_kind, opened
from textus.tasks.similarity import similarity_of, vectors
from textus.texts import read_text
from textus.tokenizer import Tokenizer

FILES = (
    "documents.jsonl",
    "vectors.usearch",
    *(f"bm25/{name}.index.json" for name in ("params", "vocab")),
    *(f"bm25/{name}.csc.index.npy" for name in ("data", "indices", "indptr")),
)
"""What index.json may list."""
KEPT_OF_RUN = ("run.json", *RUN_FILES)
"""What an index keeps of the run that made its vectors."""
RECORD: Shape = {
    "documents": int,
    "bm25": bool,
    "run": (NONE, {"path": str, "fingerprint": str}),
    "files": {...: str},
}
"""What index.json holds."""

WAYS = ("bm25", "dense", "hybrid")
EXACT = 20_000
"""Documents up to which every vector is compared; the graph is walked beyond."""
FUSED = 100
"""Places of both lists that a hybrid search looks at."""
FUSION = 60
"""What is added to a place before one is divided by it (Cormack, Clarke and Büttcher 2009)."""

WRITTEN_TOGETHER = re.compile(r"[㐀-鿿豈-﫿\U00020000-\U0003ffff぀-ヿ]+")
"""Runs of Chinese characters (and Japanese), which no blanks part."""
WORD = re.compile(r"\w+")


def terms(text: str) -> list[str]:
    """The words of a text in small letters; of Chinese its characters and every two that are neighbours."""
    found = []
    for word in WORD.findall(text.lower()):
        at = 0
        for run in WRITTEN_TOGETHER.finditer(word):
            found += [word[at : run.start()]] if run.start() > at else []
            found += [*run[0], *(run[0][n : n + 2] for n in range(len(run[0]) - 1))]
            at = run.end()
        found += [word[at:]] if at < len(word) else []
    return found


# ── building ───────────────────────────────────────────────────────────────────────────────────


def file_texts(path: Path, columns: str | None = None) -> list[str]:
    """The texts of a file's rows, in order; of a plain text file its lines."""
    if path.suffix == ".txt" and not columns:
        whole = "".join(part.text for part in read_text(path))
        return [line.rstrip("\r") for line in whole.removesuffix("\n").split("\n")]
    return [text_of(record.values, record.where) for record in read_records(path, parse_columns(columns))]


def read_documents(path: Path, columns: str | None = None) -> list[str]:
    """The texts of a file, each once, in order. Empty and repeated ones are told.

    Raises DataError for a file without a text.
    """
    given = file_texts(path, columns)
    texts = list(dict.fromkeys(text for text in given if text.strip()))
    if not texts:
        raise DataError(f"{path} holds no text")
    if empty := sum(not text.strip() for text in given):
        notice(f"{empty:,} of {len(given):,} texts are empty and left out")
    if repeated := len(given) - empty - len(texts):
        notice(f"{repeated:,} of {len(given):,} texts stand there before and are left out")
    return texts


def text_of(values: dict[str, Any], where: str, name: str = "text") -> str:
    """A field that is text. Raises DataError where it is not there, or something else."""
    if name not in values:
        shown = ", ".join(map(repr, list(values)[:30]))
        raise DataError(
            f"{where} has no field {name!r}; it has {shown}: name its column with --columns {name}=COLUMN"
        )
    if not isinstance(value := values[name], str):
        raise DataError(f"{where}: the {name} is {type(value).__name__} ({value!r}), not a string")
    return value


def build(
    texts: Sequence[str], out: Path, *, run: Path | None = None, bm25: bool = False, force: bool = False
) -> Index:
    """An index of `texts` at `out`: of their words (`bm25`), of the vectors a `run` gives them, or of both.

    Raises UsageError where neither is asked for, or `out` exists.
    """
    if not (run or bm25):
        raise UsageError(
            "say how to find texts: --run RUN for their meaning, --bm25 for their words, or both"
        )
    claim(out, force=force, kind="index")
    with folder_atomic(out) as folder:
        (folder / "documents.jsonl").write_text(
            json_lines({"text": text} for text in texts), encoding="utf-8"
        )
        record: dict[str, Any] = {"version": VERSION, "documents": len(texts), "bm25": bm25, "run": None}
        if bm25:
            index = extra("bm25s", "search").BM25()
            index.index([terms(text) for text in texts], show_progress=False)
            index.save(folder / "bm25", show_progress=False)
        if run:
            record["run"] = keep_run(run, folder / "run")
            keep_vectors(folder / "run", texts, folder / "vectors.usearch")
        files = sorted(
            each for each in folder.rglob("*") if each.is_file() and folder / "run" not in each.parents
        )
        record["files"] = {str(each.relative_to(folder)): sha256(each) for each in files}
        write_json(folder / "index.json", record)
    return Index(out)


def keep_run(run: Path, folder: Path) -> dict[str, str]:
    """What of a run a query needs, beside the vectors: linked where the disk allows it, else copied."""
    files = verify_run(run)
    folder.mkdir()
    for name in ("run.json", *files):
        source, target = record_file(run, name, KEPT_OF_RUN), record_file(folder, name, KEPT_OF_RUN)
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
    return {"path": str(run.resolve()), "fingerprint": sha256(folder / "run.json")}


def keep_vectors(run: Path, texts: Sequence[str], file: Path) -> None:
    """The texts' vectors as `usearch` keeps them."""
    found = vectors(*reader(run), texts)
    index = extra("usearch.index", "search").Index(ndim=found.shape[1], metric="ip", dtype="f32")
    index.add(np.arange(len(texts)), found, threads=1)
    index.save(str(file))


def reader(run: Path) -> tuple[LanguageModel, Task, Tokenizer]:
    """A run's model, how it makes vectors (as it learnt, or the mean of its states), and its tokenizer."""
    model, tokenizer, record = opened(run)
    name = named_of_kind(record, "similarity")
    return model, from_record(learnt(record, name, run)) if name else similarity_of(model), tokenizer


# ── searching ──────────────────────────────────────────────────────────────────────────────────


class Index:
    """An index in its folder, its files verified when it is opened, its run when it is first asked. Raises RunError for
    one damaged, or a run that is another than the vectors were made by.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        sweep(self.path)
        if not (self.path / "index.json").is_file():
            raise RunError(
                f"{self.path} is no index; make one: textus index build FILE --run RUN --out {self.path}"
            )
        self.record = migrate(read_json(self.path / "index.json"), f"{self.path}/index.json")
        check_shape(self.record, RECORD, f"{self.path}/index.json")
        needed = ["documents.jsonl", *(FILES[2:] if self.record["bm25"] else [])]
        needed += ["vectors.usearch"] if self.record["run"] else []
        if missing := next((name for name in needed if name not in self.record["files"]), None):
            raise RunError(f"{self.path}/index.json does not list {missing}; build the index anew")
        for name, known in self.record["files"].items():
            file = record_file(self.path, name, FILES)
            if not file.exists():
                raise RunError(f"{file} is missing; build the index anew")
            if sha256(file) != known:
                raise RunError(f"{file} was changed since the index was built; build it anew")

    @cached_property
    def documents(self) -> list[str]:
        """The texts, by their numbers."""
        with self._reading("documents.jsonl"):
            texts = [json.loads(line)["text"] for line in (self.path / "documents.jsonl").open("rb")]
        if len(texts) != self.record["documents"]:
            raise RunError(
                f"{self.path}/index.json counts {self.record['documents']} documents, documents.jsonl has {len(texts)};"
                " build the index anew"
            )
        return texts

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Whatever a library raises over a part of the index as one RunError that names the part."""
        try:
            yield
        except TextusError:
            raise
        except Exception as error:
            raise RunError(
                f"{self.path}/{name} is no part of an index ({type(error).__name__}: {error}); build it anew"
            ) from error

    @property
    def way(self) -> str:
        """The best way it can search."""
        both = self.record["bm25"] and self.record["run"]
        return "hybrid" if both else "bm25" if self.record["bm25"] else "dense"

    def search(
        self, queries: Sequence[str], *, k: int = 10, by: str | None = None
    ) -> list[list[tuple[int, float]]]:
        """For each query at most `k` (number, score), best first. By words, a text that has none of them is not found.

        Raises UsageError for a way it was not built for.
        """
        by = by or self.way
        if by not in WAYS:
            raise unknown("way", by, WAYS)
        if by not in (self.way, *(WAYS if self.way == "hybrid" else ())):
            raise UsageError(
                f"{self.path} was built to search by {self.way}, not {by}; build it anew with both"
            )
        if k < 1:
            raise UsageError(f"--top {k}: must be at least 1")
        if by == "hybrid":
            lists = [way(queries, max(k, FUSED)) for way in (self._by_words, self._by_meaning)]
            return [fused(each)[:k] for each in zip(*lists, strict=True)]
        return self._by_words(queries, k) if by == "bm25" else self._by_meaning(queries, k)

    @cached_property
    def _bm25(self) -> Any:
        module = extra("bm25s", "search")
        with self._reading("bm25"):
            return module.BM25.load(self.path / "bm25", show_progress=False)

    @cached_property
    def _dense(self) -> tuple[Any, tuple[LanguageModel, Task, Tokenizer]]:
        """Vectors, and what reads queries. Raises RunError where the run is not the one the vectors are of."""
        folder = self.path / "run"
        reading = reader(folder)  # which verifies its files by what run.json says
        if (found := sha256(folder / "run.json")) != (known := self.record["run"]["fingerprint"]):
            raise RunError(
                f"{folder} is another run ({found[:12]}…) than the vectors were made by ({known[:12]}…); build the"
                " index anew"
            )
        module = extra("usearch.index", "search")
        with self._reading("vectors.usearch"):
            index = module.Index.restore(str(self.path / "vectors.usearch"))
            if len(index) != self.record["documents"] or index.ndim != vectors(*reading, ["a"]).shape[1]:
                raise ValueError(f"{len(index)} vectors of {index.ndim} numbers")
        return index, reading

    def _by_words(self, queries: Sequence[str], k: int) -> list[list[tuple[int, float]]]:
        lists = []
        for query in queries:
            with self._reading("bm25"):
                scores = (
                    self._bm25.get_scores(terms(query)) if terms(query) else np.zeros(len(self.documents))
                )
                if len(scores) != self.record["documents"]:
                    raise ValueError(f"scores of {len(scores)} documents, not {self.record['documents']}")
            best = np.argsort(-scores, kind="stable")[:k]
            lists.append([(int(each), float(scores[each])) for each in best if scores[each] > 0])
        return lists

    def _by_meaning(self, queries: Sequence[str], k: int) -> list[list[tuple[int, float]]]:
        index, reading = self._dense
        asked = vectors(*reading, queries)
        lists = []
        for each in asked:
            found = index.search(each, min(k, len(index)), exact=len(index) <= EXACT, threads=1)
            lists.append(
                [(int(key), 1.0 - float(far)) for key, far in zip(found.keys, found.distances, strict=True)]
            )
        return lists

    def evaluate(self, path: Path, *, columns: str | None = None, by: str | None = None) -> dict[str, Any]:
        """How well the queries of a file's rows (`text`) find their `document`s: figures of `metrics.ranking`.

        Rows with the same text are one query with several that are right. Raises DataError for a document that is not
        in the index.
        """
        numbers = {text: number for number, text in enumerate(self.documents)}
        right: dict[str, dict[Any, float]] = {}
        for record in read_records(path, parse_columns(columns)):
            document = text_of(record.values, record.where, "document")
            if document not in numbers:
                raise DataError(
                    f"{record.where}: its document is not in {self.path} ({document[:60]!r}); build the index of all"
                )
            right.setdefault(text_of(record.values, record.where), {})[numbers[document]] = 1.0
        found = [[number for number, _ in each] for each in self.search(list(right), by=by)]
        figures = ranking.ranked(found, list(right.values()))
        return {
            "index": str(self.path),
            "on": str(path),
            "by": by or self.way,
            "queries": len(right),
            **figures,
        }


def fused(lists: Sequence[list[tuple[int, float]]]) -> list[tuple[int, float]]:
    """Several lists as one, by the sum of one over each place: (number, score), best first."""
    total: dict[int, float] = {}
    for each in lists:
        for place, (number, _) in enumerate(each, 1):
            total[number] = total.get(number, 0.0) + 1 / (FUSION + place)
    return sorted(total.items(), key=lambda item: (-item[1], item[0]))

"""Finding texts: an index of documents by their words (BM25), by their meaning (vectors of a run), or by both.

    index.json          what it is: ways, documents, the run's fingerprint, SHA-256 of the other files; written last
    documents.jsonl     a passage a line, in order: its text, and the id, title, file and place of its document
    bm25/               weights of words, as `bm25s` writes them
    vectors.usearch     vectors of length one; run/ is the run that made them, and reads the queries

Sources: Robertson and Zaragoza 2009 (BM25; as Lucene counts); Malkov and Yashunin 2018 (the graph that `usearch`
walks); Cormack, Clarke and Büttcher 2009 (reciprocal rank fusion).
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from textus.core.config import NONE, VERSION, Shape, check_shape, check_version, from_dict
from textus.core.errors import DataError, MissingDependencyError, RunError, UsageError
from textus.core.io import (
    atomic_folder,
    check_output_dir,
    describe_other_kind,
    dump_jsonl,
    link_or_copy,
    read_json,
    remove_stale_files,
    resolve_record_file,
    sha256,
    write_json,
)
from textus.core.names import import_optional, unknown_name_error
from textus.core.scripts import CJK
from textus.data.inputs import to_items
from textus.data.labeled import clean_text
from textus.data.passages import Passage, text_field
from textus.data.read_options import ReadOptions
from textus.metrics import ranking
from textus.models.contract import LanguageModel
from textus.runs.store import RUN_FILES
from textus.runs.store import verify as verify_run
from textus.tasks.base import Task
from textus.tasks.registry import head_of_kind, load_for_task, record_for_task, task_from_record
from textus.tasks.similarity import embed_texts, make_similarity_task
from textus.tokenizers import Tokenizer

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
    "passages?": int,
    "bm25": bool,
    "run": (NONE, {"path": str, "fingerprint": str}),
    "files": {...: str},
}
"""What index.json holds."""

MODES = ("bm25", "dense", "hybrid")
EXACT = 20_000
"""Documents up to which every vector is compared; the graph is walked beyond."""
FUSED = 100
"""Places of both lists that a hybrid search looks at."""
DEEPEST = 10
"""Places of a list that are measured."""
FUSION = 60
"""What is added to a place before one is divided by it (Cormack, Clarke and Büttcher 2009)."""

CJK_RUN = re.compile(f"[{CJK}]+")
WORD = re.compile(r"\w+")


def bm25_tokens(text: str) -> list[str]:
    """The words of a text in small letters; of Chinese its characters and every two that are neighbours."""
    found = []
    for word in WORD.findall(text.lower()):
        at = 0
        for run in CJK_RUN.finditer(word):
            found += [word[at : run.start()]] if run.start() > at else []
            found += [*run[0], *(run[0][n : n + 2] for n in range(len(run[0]) - 1))]
            at = run.end()
        found += [word[at:]] if at < len(word) else []
    return found


# ── building ───────────────────────────────────────────────────────────────────────────────────


def build(
    passages: Sequence[Passage],
    out: Path,
    *,
    run: Path | None = None,
    bm25: bool = False,
    force: bool = False,
) -> Index:
    """An index of `passages` at `out`: of their words (`bm25`), of the vectors a `run` gives them, or of both.

    Raises UsageError where neither is asked for, or `out` exists.
    """
    if not (run or bm25):
        raise UsageError(
            "missing_argument",
            "say how to find texts: --run RUN for their meaning, --bm25 for their words, or both",
        )
    check_output_dir(out, force=force, kind="index")
    texts = [passage.text for passage in passages]
    with atomic_folder(out) as folder:
        (folder / "documents.jsonl").write_text(dump_jsonl(map(asdict, passages)), encoding="utf-8")
        counts = {"documents": len({passage.number for passage in passages}), "passages": len(passages)}
        record: dict[str, Any] = {"version": VERSION, **counts, "bm25": bm25, "run": None}
        if bm25:
            index = import_optional("bm25s", "search").BM25()
            index.index([bm25_tokens(text) for text in texts], show_progress=False)
            index.save(folder / "bm25", show_progress=False)
        if run:
            record["run"] = store_encoder(run, folder / "run")
            store_vectors(folder / "run", texts, folder / "vectors.usearch")
        files = sorted(
            each for each in folder.rglob("*") if each.is_file() and folder / "run" not in each.parents
        )
        record["files"] = {str(each.relative_to(folder)): sha256(each) for each in files}
        write_json(folder / "index.json", record)
    return Index(out)


def store_encoder(run: Path, folder: Path) -> dict[str, str]:
    """What of a run a query needs, beside the vectors: linked where the disk allows it, else copied."""
    files = verify_run(run)
    folder.mkdir()
    for name in ("run.json", *files):
        link_or_copy(
            resolve_record_file(run, name, KEPT_OF_RUN), resolve_record_file(folder, name, KEPT_OF_RUN)
        )
    return {"path": str(run.resolve()), "fingerprint": sha256(folder / "run.json")}


def store_vectors(run: Path, texts: Sequence[str], file: Path) -> None:
    """The texts' vectors as `usearch` keeps them."""
    found = embed_texts(*load_encoder(run), texts)
    index = import_optional("usearch.index", "search").Index(ndim=found.shape[1], metric="ip", dtype="f32")
    index.add(np.arange(len(texts)), found, threads=1)
    index.save(str(file))


def load_encoder(run: Path) -> tuple[LanguageModel, Task, Tokenizer]:
    """A run's model, how it makes vectors (as it learnt, or the mean of its states), and its tokenizer."""
    model, tokenizer, record = load_for_task(run)
    name = head_of_kind(record, "similarity")
    return (
        model,
        task_from_record(record_for_task(record, name, run)) if name else make_similarity_task(model),
        tokenizer,
    )


# ── searching ──────────────────────────────────────────────────────────────────────────────────


class Index:
    """An index in its folder, its files verified when it is opened, its run when it is first asked. Raises RunError for
    one damaged, or a run that is another than the vectors were made by.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        remove_stale_files(self.path)
        if not (self.path / "index.json").is_file():
            remedy = (
                describe_other_kind(self.path) or "make one: textus index build FILE --run RUN --out FOLDER"
            )
            raise RunError("not_an_index", f"{self.path} is no index; {remedy}")
        self.record = read_json(self.path / "index.json")
        check_version(self.record, self.path, "index")
        check_shape(self.record, RECORD, f"{self.path}/index.json")
        needed = ["documents.jsonl", *(FILES[2:] if self.record["bm25"] else [])]
        needed += ["vectors.usearch"] if self.record["run"] else []
        if missing := next((name for name in needed if name not in self.record["files"]), None):
            raise RunError("damaged", f"{self.path}/index.json does not list {missing}; build the index anew")
        for name, known in self.record["files"].items():
            file = resolve_record_file(self.path, name, FILES)
            if not file.exists():
                raise RunError("damaged", f"{file} is missing; build the index anew")
            if sha256(file) != known:
                raise RunError("damaged", f"{file} was changed since the index was built; build it anew")

    @cached_property
    def passages(self) -> list[Passage]:
        """The passages with where they come from, by their places in the index."""
        with self._reading("documents.jsonl"):
            lines = (self.path / "documents.jsonl").read_bytes().splitlines()
            passages = [from_dict(Passage, json.loads(line)) for line in lines]
            if len(passages) != self.size:
                raise ValueError(f"{len(passages)} passages, not {self.size}")
        return passages

    @cached_property
    def documents(self) -> list[str]:
        """The passages' texts, by their places in the index."""
        return [passage.text for passage in self.passages]

    @property
    def size(self) -> int:
        """How many passages there are."""
        return self.record.get("passages", self.record["documents"])

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Whatever a library raises over a part of the index as one RunError that names the part."""
        try:
            yield
        except (MissingDependencyError, RunError):
            raise
        except Exception as error:
            raise RunError(
                "damaged",
                f"{self.path}/{name} is no part of an index ({type(error).__name__}: {error}); build it anew",
            ) from error

    @property
    def default_mode(self) -> str:
        """The best way it can search."""
        both = self.record["bm25"] and self.record["run"]
        return "hybrid" if both else "bm25" if self.record["bm25"] else "dense"

    def search(self, queries: Any, *, k: int = 10, mode: str | None = None) -> Any:
        """For each query at most `k` (place in the index, score), best first; of one query (a string) its list. By
        words, a text that has none of them is not found.

        Raises UsageError for a way it was not built for, or queries that are no strings.
        """
        items, alone = to_items(queries)
        texts = [clean_text(item) for item in items if isinstance(item, str)]
        if len(texts) < len(items):
            raise UsageError("wrong_type", "a query is one string; give a string or a list of strings")
        results = self._search(texts, k, mode) if texts else []
        return results[0] if alone else results

    def _search(self, queries: Sequence[str], k: int, mode: str | None) -> list[list[tuple[int, float]]]:
        mode = mode or self.default_mode
        if mode not in MODES:
            raise unknown_name_error("mode", mode, MODES)
        if mode not in (self.default_mode, *(MODES if self.default_mode == "hybrid" else ())):
            raise UsageError(
                "option_not_applicable",
                f"{self.path} was built to search by {self.default_mode}, not {mode}; build it anew with both",
            )
        if k < 1:
            raise UsageError("out_of_range", f"--top {k}: must be at least 1")
        if mode == "hybrid":
            lists = [way(queries, max(k, FUSED)) for way in (self._by_words, self._by_meaning)]
            return [reciprocal_rank_fusion(each)[:k] for each in zip(*lists, strict=True)]
        return self._by_words(queries, k) if mode == "bm25" else self._by_meaning(queries, k)

    @cached_property
    def _bm25(self) -> Any:
        module = import_optional("bm25s", "search")
        with self._reading("bm25"):
            return module.BM25.load(self.path / "bm25", show_progress=False)

    @cached_property
    def _dense(self) -> tuple[Any, tuple[LanguageModel, Task, Tokenizer]]:
        """Vectors, and what reads queries. Raises RunError where the run is not the one the vectors are of."""
        folder = self.path / "run"
        reading = load_encoder(folder)  # which verifies its files by what run.json says
        if (found := sha256(folder / "run.json")) != (known := self.record["run"]["fingerprint"]):
            raise RunError(
                "data_changed",
                f"{folder} is another run ({found[:12]}…) than the vectors were made by ({known[:12]}…); build the"
                " index anew",
            )
        module = import_optional("usearch.index", "search")
        with self._reading("vectors.usearch"):
            index = module.Index.restore(str(self.path / "vectors.usearch"))
            if len(index) != self.size or index.ndim != embed_texts(*reading, ["a"]).shape[1]:
                raise ValueError(f"{len(index)} vectors of {index.ndim} numbers")
        return index, reading

    def _by_words(self, queries: Sequence[str], k: int) -> list[list[tuple[int, float]]]:
        lists = []
        for query in queries:
            with self._reading("bm25"):
                scores = (
                    self._bm25.get_scores(bm25_tokens(query))
                    if bm25_tokens(query)
                    else np.zeros(len(self.documents))
                )
                if len(scores) != self.size:
                    raise ValueError(f"scores of {len(scores)} passages, not {self.size}")
            best = np.argsort(-scores, kind="stable")[:k]
            lists.append([(int(each), float(scores[each])) for each in best if scores[each] > 0])
        return lists

    def _by_meaning(self, queries: Sequence[str], k: int) -> list[list[tuple[int, float]]]:
        index, reading = self._dense
        asked = embed_texts(*reading, queries)
        lists = []
        for each in asked:
            found = index.search(each, min(k, len(index)), exact=len(index) <= EXACT, threads=1)
            lists.append(
                [(int(key), 1.0 - float(far)) for key, far in zip(found.keys, found.distances, strict=True)]
            )
        return lists

    def evaluate(
        self, path: Path, *, columns: str | None = None, encoding: str | None = None, mode: str | None = None
    ) -> dict[str, Any]:
        """How well the queries of a file's rows (`text`) find their `document` (its text) or `document_id`: figures of
        `metrics.ranking`. A document is found where its first passage is.

        Rows with the same text are one query with several that are right. Raises DataError for a document that is not
        in the index.
        """
        right: dict[str, dict[Any, float]] = {}
        for record in ReadOptions(columns, encoding).records(path):
            number = self.document_number(record.values, record.where)
            right.setdefault(text_field(record.values, record.where), {})[number] = 1.0
        most = Counter(passage.number for passage in self.passages).most_common(1)[0][1]
        places = self.search(list(right), k=DEEPEST * min(most, FUSED), mode=mode)
        ranked = [
            list(dict.fromkeys(self.passages[place].number for place, _ in found))[:DEEPEST]
            for found in places
        ]
        figures = ranking.ranking_scores(ranked, list(right.values()))
        return {
            "index": str(self.path),
            "on": str(path),
            "mode": mode or self.default_mode,
            "queries": len(right),
            **figures,
        }

    def document_number(self, values: dict[str, Any], where: str) -> int:
        """The number of the document that a row of queries names by its id or by its text."""
        if (given := values.get("document_id")) is not None:
            if (number := self._by_id.get(str(given))) is None:
                raise DataError(
                    "not_found",
                    f"{where}: {self.path} has no document with the id {given!r}; build the index of all",
                )
            return number
        text = text_field(values, where, "document")
        if (number := self._by_text.get(normalize_whitespace(text))) is None:
            raise DataError(
                "not_found",
                f"{where}: its document is not in {self.path} ({text[:60]!r}); build the index of all",
            )
        return number

    @cached_property
    def _by_id(self) -> dict[str, int]:
        """Number of each document by its ids; UsageError where an id names several."""
        numbers: dict[str, int] = {}
        for passage in self.passages:
            for given in (passage.id, *passage.same):
                if given is not None and numbers.setdefault(given, passage.number) != passage.number:
                    raise UsageError(
                        "duplicate_name",
                        f"{self.path}: several documents have the id {given!r}; name them by their text",
                    )
        return numbers

    @cached_property
    def _by_text(self) -> dict[str, int]:
        """Number of each document by its whole text."""
        texts: dict[int, str] = {}
        for passage in self.passages:
            begun = texts.get(passage.number, "")
            texts[passage.number] = begun[: passage.start] + passage.text
        return {normalize_whitespace(text): number for number, text in texts.items()}


def normalize_whitespace(text: str) -> str:
    """A text without what copying changes: line ends and blanks."""
    return " ".join(text.split())


def reciprocal_rank_fusion(lists: Sequence[list[tuple[int, float]]]) -> list[tuple[int, float]]:
    """Several lists as one, by the sum of one over each place: (number, score), best first."""
    total: dict[int, float] = {}
    for each in lists:
        for place, (number, _) in enumerate(each, 1):
            total[number] = total.get(number, 0.0) + 1 / (FUSION + place)
    return sorted(total.items(), key=lambda item: (-item[1], item[0]))

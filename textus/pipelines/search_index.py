"""An index of documents for search by words (BM25), by meaning (the vectors of a run), or both.

    index.json          version, counts, the run's fingerprint, SHA-256 of the other files; written last
    documents.jsonl     one passage per line: its text, and the id, title, file and place of its document
    bm25/               the weights of words, as `bm25s` writes them
    vectors.usearch     vectors of length one; run/ is the run that computed them and encodes the queries

Sources: Robertson and Zaragoza 2009 (BM25; as Lucene counts); Malkov and Yashunin 2018 (the graph of `usearch`);
Cormack, Clarke and Büttcher 2009 (reciprocal rank fusion).
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
"""Files that index.json may list."""
ENCODER_FILES = ("run.json", *RUN_FILES)
"""Files of the run that an index stores."""
RECORD: Shape = {
    "documents": int,
    "passages?": int,
    "bm25": bool,
    "sources?": {...: str},
    "roots?": list,
    "calibration?": dict,
    "reading?": {...: (NONE, str, int)},
    "run": (NONE, {"path": str, "fingerprint": str}),
    "files": {...: str},
}
"""The fields of index.json. `sources`: the SHA-256 of each file, by absolute path; `roots`: the files and folders that
were given; `reading`: how they are read."""

MODES = ("bm25", "dense", "hybrid")
MAX_EXACT = 20_000
"""Most documents for which every vector is compared; larger indexes are searched through the graph."""
FUSION_DEPTH = 100
"""Results of each mode that a hybrid search combines."""
EVALUATED = 10
"""Results per query that are evaluated."""
FUSION_CONSTANT = 60
"""Added to a rank before taking its reciprocal (Cormack, Clarke and Büttcher 2009)."""

CJK_RUN = re.compile(f"[{CJK}]+")
WORD = re.compile(r"\w+")


def bm25_tokens(text: str) -> list[str]:
    """Lower-case words; of Chinese text, characters and pairs of neighbours."""
    tokens = []
    for word in WORD.findall(text.lower()):
        end = 0
        for run in CJK_RUN.finditer(word):
            tokens += [word[end : run.start()]] if run.start() > end else []
            tokens += [*run[0], *(run[0][n : n + 2] for n in range(len(run[0]) - 1))]
            end = run.end()
        tokens += [word[end:]] if end < len(word) else []
    return tokens


# ── building ───────────────────────────────────────────────────────────────────────────────────


def build(
    passages: Sequence[Passage],
    out: Path,
    *,
    run: Path | None = None,
    bm25: bool = False,
    force: bool = False,
    files: dict[str, Any] | None = None,
    known: dict[str, np.ndarray] | None = None,
) -> Index:
    """Build an index of `passages` at `out`: of their words (`bm25`), their vectors by a `run`, or both.
    `files`: the fields of index.json about the files that the passages were read from; `known`: vectors by text.

    Raises UsageError if neither is given, or `out` exists.
    """
    if not (run or bm25):
        raise UsageError(
            "missing_argument",
            "choose how to search: --run RUN (by meaning), --bm25 (by words), or both",
        )
    check_output_dir(out, force=force, kind="index")
    texts = [passage.text for passage in passages]
    with atomic_folder(out) as folder:
        (folder / "documents.jsonl").write_text(dump_jsonl(map(asdict, passages)), encoding="utf-8")
        counts = {"documents": len({passage.number for passage in passages}), "passages": len(passages)}
        record: dict[str, Any] = {"version": VERSION, **counts, "bm25": bm25, "run": None, **(files or {})}
        if bm25:
            index = import_optional("bm25s", "search").BM25()
            index.index([bm25_tokens(text) for text in texts], show_progress=False)
            index.save(folder / "bm25", show_progress=False)
        if run:
            record["run"] = store_encoder(run, folder / "run") | (record["run"] or {})
            store_vectors(folder / "run", texts, folder / "vectors.usearch", known or {})
        written = sorted(
            path for path in folder.rglob("*") if path.is_file() and folder / "run" not in path.parents
        )
        record["files"] = {str(path.relative_to(folder)): sha256(path) for path in written}
        write_json(folder / "index.json", record)
    return Index(out)


def store_encoder(run: Path, folder: Path) -> dict[str, str]:
    """Store the files of a run that a query needs: linked if the disk allows it, else copied."""
    files = verify_run(run)
    folder.mkdir()
    for name in ("run.json", *files):
        link_or_copy(
            resolve_record_file(run, name, ENCODER_FILES), resolve_record_file(folder, name, ENCODER_FILES)
        )
    return {"path": str(run.resolve()), "fingerprint": sha256(folder / "run.json")}


def store_vectors(run: Path, texts: Sequence[str], file: Path, known: dict[str, np.ndarray]) -> None:
    """Write the vectors of the texts as `usearch` stores them; those that are not `known` are computed."""
    new = list(dict.fromkeys(text for text in texts if text not in known))
    vectors = known | (dict(zip(new, embed_texts(*load_encoder(run), new), strict=True)) if new else {})
    array = np.stack([vectors[text] for text in texts])
    index = import_optional("usearch.index", "search").Index(ndim=array.shape[1], metric="ip", dtype="f32")
    index.add(np.arange(len(texts)), array, threads=1)
    index.save(str(file))


def load_encoder(run: Path) -> tuple[LanguageModel, Task, Tokenizer]:
    """A run's model, its similarity task (as trained, or the mean of hidden states), and its tokenizer."""
    model, tokenizer, record = load_for_task(run)
    name = head_of_kind(record, "similarity")
    return (
        model,
        task_from_record(record_for_task(record, name, run)) if name else make_similarity_task(model),
        tokenizer,
    )


# ── searching ──────────────────────────────────────────────────────────────────────────────────


class Index:
    """An index in its folder. Its files are verified when it is opened, its run on the first query. Raises RunError if
    it is damaged, or its run is not the one that computed the vectors.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        remove_stale_files(self.path)
        if not (self.path / "index.json").is_file():
            remedy = (
                describe_other_kind(self.path) or "build one: textus index build FILE --run RUN --out FOLDER"
            )
            raise RunError("not_an_index", f"{self.path} is not an index; {remedy}")
        self.record = read_json(self.path / "index.json")
        check_version(self.record, self.path, "index")
        check_shape(self.record, RECORD, f"{self.path}/index.json")
        needed = ["documents.jsonl", *(FILES[2:] if self.record["bm25"] else [])]
        needed += ["vectors.usearch"] if self.record["run"] else []
        if missing := next((name for name in needed if name not in self.record["files"]), None):
            raise RunError("damaged", f"{self.path}/index.json does not list {missing}; rebuild the index")
        for name, known in self.record["files"].items():
            file = resolve_record_file(self.path, name, FILES)
            if not file.exists():
                raise RunError("damaged", f"{file} is missing; rebuild the index")
            if sha256(file) != known:
                raise RunError("damaged", f"{file} was changed since the index was built; rebuild it")

    @cached_property
    def passages(self) -> list[Passage]:
        """The passages and their sources, in index order."""
        with self._reading("documents.jsonl"):
            lines = (self.path / "documents.jsonl").read_bytes().splitlines()
            passages = [from_dict(Passage, json.loads(line)) for line in lines]
            if len(passages) != self.size:
                raise ValueError(f"{len(passages)} passages, not {self.size}")
        return passages

    @cached_property
    def documents(self) -> list[str]:
        """The texts of the passages, in index order."""
        return [passage.text for passage in self.passages]

    @property
    def size(self) -> int:
        """The number of passages."""
        return self.record.get("passages", self.record["documents"])

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Turn whatever a library raises while reading a part of the index into one RunError that names the part."""
        try:
            yield
        except (MissingDependencyError, RunError):
            raise
        except Exception as error:
            raise RunError(
                "damaged",
                f"{self.path}/{name} is damaged ({type(error).__name__}: {error}); rebuild it",
            ) from error

    @property
    def default_mode(self) -> str:
        """The best mode it was built for."""
        both = self.record["bm25"] and self.record["run"]
        return "hybrid" if both else "bm25" if self.record["bm25"] else "dense"

    def search(self, queries: Any, *, k: int = 10, mode: str | None = None) -> Any:
        """At most `k` (index, score) of passages for each query, best first; for a single query (a string) its list. A
        search by words returns only passages with one of the words.

        Raises UsageError for a mode it was not built for, or queries that are not strings.
        """
        items, is_single = to_items(queries)
        texts = [clean_text(item) for item in items if isinstance(item, str)]
        if len(texts) < len(items):
            raise UsageError("wrong_type", "a query is one string; give a string or a list of strings")
        results = self._search(texts, k, mode) if texts else []
        return results[0] if is_single else results

    def _search(self, queries: Sequence[str], k: int, mode: str | None) -> list[list[tuple[int, float]]]:
        mode = mode or self.default_mode
        if mode not in MODES:
            raise unknown_name_error("mode", mode, MODES)
        if mode not in (self.default_mode, *(MODES if self.default_mode == "hybrid" else ())):
            raise UsageError(
                "option_not_applicable",
                f"{self.path} was built to search by {self.default_mode}, not {mode}; rebuild it with both",
            )
        if k < 1:
            raise UsageError("out_of_range", f"--top {k}: must be at least 1")
        if mode == "hybrid":
            lists = [search(queries, max(k, FUSION_DEPTH)) for search in (self._by_words, self._by_meaning)]
            return [reciprocal_rank_fusion(pair)[:k] for pair in zip(*lists, strict=True)]
        return self._by_words(queries, k) if mode == "bm25" else self._by_meaning(queries, k)

    @cached_property
    def _bm25(self) -> Any:
        module = import_optional("bm25s", "search")
        with self._reading("bm25"):
            return module.BM25.load(self.path / "bm25", show_progress=False)

    @cached_property
    def _dense(self) -> tuple[Any, tuple[LanguageModel, Task, Tokenizer]]:
        """(vectors, encoder of queries). Raises RunError if the run is not the one that computed the vectors."""
        folder = self.path / "run"
        encoder = load_encoder(folder)  # verifies its files against run.json
        if (actual := sha256(folder / "run.json")) != (expected := self.record["run"]["fingerprint"]):
            raise RunError(
                "data_changed",
                f"the vectors are of another run ({expected[:12]}…) than {folder} ({actual[:12]}…); rebuild the"
                " index anew",
            )
        module = import_optional("usearch.index", "search")
        with self._reading("vectors.usearch"):
            index = module.Index.restore(str(self.path / "vectors.usearch"))
            if len(index) != self.size or index.ndim != embed_texts(*encoder, ["a"]).shape[1]:
                raise ValueError(f"{len(index)} vectors of {index.ndim} numbers")
        return index, encoder

    @cached_property
    def document_frequencies(self) -> Counter[str]:
        """The number of passages with each word."""
        return Counter(token for text in self.documents for token in set(bm25_tokens(text)))

    @property
    def encoder(self) -> tuple[LanguageModel, Task, Tokenizer]:
        """The model, task and tokenizer that encode queries."""
        return self._dense[1]

    def vectors(self) -> np.ndarray:
        """The vectors of the passages, (passages, width), in index order. Raises RunError as a search does."""
        return np.asarray(self._dense[0].get(np.arange(self.size)))

    def _by_words(self, queries: Sequence[str], k: int) -> list[list[tuple[int, float]]]:
        lists = []
        for query in queries:
            with self._reading("bm25"):
                tokens = bm25_tokens(query)
                scores = self._bm25.get_scores(tokens) if tokens else np.zeros(self.size)
                if len(scores) != self.size:
                    raise ValueError(f"scores of {len(scores)} passages, not {self.size}")
            best = np.argsort(-scores, kind="stable")[:k]
            lists.append([(int(place), float(scores[place])) for place in best if scores[place] > 0])
        return lists

    def _by_meaning(self, queries: Sequence[str], k: int) -> list[list[tuple[int, float]]]:
        index, encoder = self._dense
        lists = []
        for vector in embed_texts(*encoder, queries):
            matches = index.search(vector, min(k, len(index)), exact=len(index) <= MAX_EXACT, threads=1)
            pairs = zip(matches.keys, matches.distances, strict=True)
            lists.append([(int(key), 1.0 - float(distance)) for key, distance in pairs])
        return lists

    def evaluate(
        self, path: Path, *, columns: str | None = None, encoding: str | None = None, mode: str | None = None
    ) -> dict[str, Any]:
        """Metrics of `metrics.ranking` for the queries of a file: `text` finds `document` (its text) or `document_id`.
        A document ranks where its first passage does.

        Rows with the same text are one query with several relevant documents. Raises DataError for a document that is
        not in the index.
        """
        relevant: dict[str, dict[Any, float]] = {}
        for record in ReadOptions(columns, encoding).records(path):
            number = self.document_number(record.values, record.where)
            relevant.setdefault(text_field(record.values, record.where), {})[number] = 1.0
        max_passages = Counter(passage.number for passage in self.passages).most_common(1)[0][1]
        results = self.search(list(relevant), k=EVALUATED * min(max_passages, FUSION_DEPTH), mode=mode)
        ranked = [
            list(dict.fromkeys(self.passages[place].number for place, _ in result))[:EVALUATED]
            for result in results
        ]
        metrics = ranking.ranking_scores(ranked, list(relevant.values()))
        about = {"index": str(self.path), "on": str(path), "mode": mode or self.default_mode}
        return {**about, "queries": len(relevant), **metrics}

    def document_number(self, values: dict[str, Any], where: str) -> int:
        """The number of the document that a row names by its id or its text."""
        if (given := values.get("document_id")) is not None:
            if (number := self._by_id.get(str(given))) is None:
                raise DataError(
                    "not_found",
                    f"{where}: {self.path} has no document with the id {given!r}; index it too",
                )
            return number
        text = text_field(values, where, "document")
        if (number := self._by_text.get(normalize_whitespace(text))) is None:
            raise DataError(
                "not_found",
                f"{where}: its document is not in {self.path} ({text[:60]!r}); index it too",
            )
        return number

    @cached_property
    def _by_id(self) -> dict[str, int]:
        """The number of each document by its ids; UsageError if an id is not unique."""
        numbers: dict[str, int] = {}
        for passage in self.passages:
            for given in (passage.id, *passage.same):
                if given is not None and numbers.setdefault(given, passage.number) != passage.number:
                    raise UsageError(
                        "duplicate_name",
                        f"{self.path}: several documents have the id {given!r}; identify them by their text",
                    )
        return numbers

    @cached_property
    def _by_text(self) -> dict[str, int]:
        """The number of each document by its whole text."""
        texts: dict[int, str] = {}
        for passage in self.passages:
            before = texts.get(passage.number, "")
            texts[passage.number] = before[: passage.start] + passage.text
        return {normalize_whitespace(text): number for number, text in texts.items()}


def normalize_whitespace(text: str) -> str:
    """A text with every run of whitespace as one space."""
    return " ".join(text.split())


def reciprocal_rank_fusion(lists: Sequence[list[tuple[int, float]]]) -> list[tuple[int, float]]:
    """Merge rankings by the sum of reciprocal ranks: (index, score), best first."""
    scores: dict[int, float] = {}
    for results in lists:
        for rank, (number, _) in enumerate(results, 1):
            scores[number] = scores.get(number, 0.0) + 1 / (FUSION_CONSTANT + rank)
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))

"""Answers from documents on XQuAD, English and Chinese: recall of retrieval over all paragraphs; extractive `ask` (no
run): the answer holds the gold answer; refusal when the paragraph of a question is removed from the index.

The threshold is set on the questions of one half of the paragraphs (by hash of the text) and everything else is
measured on the other half. A paragraph is removed by `remove_from_index`, once for each paragraph of that half.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

import textus
from benchmarks._material import data_file, minilm
from benchmarks._runner import begin, show
from textus.core.io import dump_jsonl
from textus.metrics.resampling import bootstrap, interval

REFUSE = 0.85
"""Share of unanswerable questions of the first half that are refused."""
PARTS = {"en": ("en", False), "zh": ("zh", False), "en_with_vectors": ("en", True)}
"""Language, and whether vectors of MiniLM are added to BM25."""


def paragraphs(language: str) -> list[dict[str, Any]]:
    """The paragraphs of XQuAD with their questions, each in one half."""
    data = json.loads(data_file(f"xquad/xquad.{language}.json").read_text(encoding="utf-8"))["data"]
    return [
        {**paragraph, "half": int(sha256(paragraph["context"].encode()).hexdigest(), 16) % 2}
        for article in data
        for paragraph in article["paragraphs"]
    ]


def write_files(folder: Path, rows: list[dict[str, Any]]) -> list[Path]:
    """Each paragraph as a file; the questions of all, and of the first half."""
    (folder / "texts").mkdir(parents=True, exist_ok=True)
    files = []
    for number, row in enumerate(rows):
        files.append(folder / "texts" / f"{number:03}.md")
        files[-1].write_text(row["context"], encoding="utf-8")
    for name, halves in (("all", (0, 1)), ("first", (0,))):
        questions = [
            {"text": question["question"], "document_id": file.name}
            for file, row in zip(files, rows, strict=True)
            for question in row["qas"]
            if row["half"] in halves
        ]
        (folder / f"{name}.jsonl").write_text(dump_jsonl(questions), encoding="utf-8")
    return files


def with_interval(values: list[bool]) -> dict[str, float]:
    """A share with its interval."""
    array = np.asarray(values, float)
    return interval(bootstrap(array, np.ones(len(array))), len(array))


def measure(folder: Path, rows: list[dict[str, Any]], run: Path | None) -> dict[str, Any]:
    """All figures of one index."""
    files = write_files(folder, rows)
    options: dict[str, Any] = {"run": run, "bm25": True, "passage": 0, "force": True}
    index = textus.build_index(folder / "texts", out=folder / "index", **options)
    retrieval = textus.evaluate_index(index, folder / "all.jsonl")
    uncalibrated = answered(index, rows, 1)
    textus.calibrate_index(folder / "index", folder / "first.jsonl", refuse=REFUSE)
    known = answered(textus.open_index(folder / "index"), rows, 1)
    removed, removed_uncalibrated = list[bool](), list[bool]()
    for file, row in zip(files, rows, strict=True):
        if row["half"] == 1:
            textus.remove_from_index(folder / "index", file)
            without = textus.open_index(folder / "index")
            for question in row["qas"]:
                result = textus.ask(without, question["question"])
                removed.append(result["refused"])
            default = without.record.pop("calibration")
            removed_uncalibrated += [textus.ask(without, q["question"])["refused"] for q in row["qas"]]
            without.record["calibration"] = default
            textus.add_to_index(folder / "index", file)
    return {
        "recall@1": retrieval["recall@1"], "recall@5": retrieval["recall@5"], "questions": retrieval["queries"],
        "calibrated": {**known, "refused_when_removed": with_interval(removed)},
        "default_threshold": {**uncalibrated, "refused_when_removed": with_interval(removed_uncalibrated)},
    }  # fmt: skip


def answered(index: Any, rows: list[dict[str, Any]], half: int) -> dict[str, Any]:
    """Of the questions of one half: the share of answers (never refused) that hold a gold answer, the same where a
    refusal counts as wrong, and the share refused.
    """
    holds, kept, refused, lengths = list[bool](), list[bool](), list[bool](), list[int]()
    for row in rows:
        for question in row["qas"] if row["half"] == half else ():
            golds = [" ".join(answer["text"].split()) for answer in question["answers"]]
            forced = textus.ask(index, question["question"], threshold=0.0)
            decided = textus.ask(index, question["question"])
            holds.append(any(gold in (forced["answer"] or "") for gold in golds))
            refused.append(decided["refused"])
            kept.append(holds[-1] and not refused[-1])
            lengths.append(len(forced["answer"] or ""))
    return {
        "contains_gold": with_interval(holds), "contains_gold_and_not_refused": with_interval(kept),
        "false_refusals": with_interval(refused), "characters": float(np.mean(lengths)),
    }  # fmt: skip


def main() -> None:
    """Every part, and a table."""
    bench = begin("rag", __doc__, only=PARTS)
    rows = []
    for name in bench.chosen(PARTS):
        language, with_vectors = PARTS[name]
        texts = paragraphs(language)[: 40 if bench.smoke else None]
        run = minilm(bench) if with_vectors else None
        figures = bench.once(bench.result, name, measure, bench.work / name, texts, run)
        for side in ("calibrated", "default_threshold"):
            shares = figures[side]
            names = ("contains_gold", "false_refusals", "refused_when_removed")
            values = [figures["recall@5"], *(shares[key] for key in names)]
            rows.append([name, side, *(f"{value['value']:.3f}" for value in values)])
    show(
        "XQuAD, paragraphs as documents",
        [
            "part",
            "threshold",
            "recall@5",
            "holds the gold answer",
            "false refusals",
            "refused, paragraph removed",
        ],
        rows,
    )


if __name__ == "__main__":
    main()

"""Texts made from others: BLEU, chrF and ROUGE of runs trained here from scratch, next to baselines.

Multi30k English to German (29,000 pairs; the official validation pairs choose the weights, test 2016 is only scored) by
three families under one budget, with beams and greedily; Tatoeba English to Chinese (5 % held out by the hash of the
source); headlines of People's Daily (a fifth held out by the hash of the article). Each is `textus finetune --task
text2text`, then `textus evaluate`. A training that was interrupted is resumed.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks._material import data_file, write_jsonl
from benchmarks._runner import Bench, begin, flags, show, with_interval
from textus.core.io import read_json
from textus.core.rng import uniform

CONTEXT = "model.context_length=128"
PARTS: dict[str, dict[str, Any]] = {
    "encoder-decoder": {"data": "multi30k", "model": "encoder-decoder", "epochs": 14, "set": [CONTEXT]},
    "seq2seq": {"data": "multi30k", "model": "seq2seq", "epochs": 8, "set": []},
    "decoder": {"data": "multi30k", "model": "decoder", "epochs": 8, "set": [CONTEXT]},
    "tatoeba": {"data": "tatoeba", "model": "encoder-decoder", "epochs": 15, "set": [CONTEXT]},
    "headlines": {
        "data": "headlines", "model": "encoder-decoder", "epochs": 15,
        "set": ["model.context_length=512", "task.goal=summarize", "task.max_tokens=40"],
    },
}  # fmt: skip
"""Part → its data and the options of `textus finetune`."""
TINY = ["model.n_layer=2", "model.d_model=32", "task.beams=2"]
SHOWN = 3

Pair = dict[str, str]


def multi30k() -> dict[str, list[Pair]]:
    """The official parts."""
    parts = {"train": "train", "dev": "val", "test": "test_2016_flickr"}
    return {part: list(pairs_of_files(name)) for part, name in parts.items()}


def pairs_of_files(name: str) -> Iterator[Pair]:
    """The pairs of a part of Multi30k."""
    sides = []
    for language in ("en", "de"):
        with gzip.open(data_file("multi30k", f"{name}.{language}.gz"), "rt", encoding="utf-8") as file:
            sides.append(file.read().splitlines())
    return ({"source": en, "target": de} for en, de in zip(*sides, strict=True))


def tatoeba() -> dict[str, list[Pair]]:
    """Sentences by the hash of the English one: 5 % are scored, 2 % choose the weights."""
    lines = data_file("tatoeba_en_zh", "cmn.txt").read_text(encoding="utf-8").splitlines()
    pairs = [
        dict(zip(("source", "target"), line.split("\t")[:2], strict=True)) for line in lines if "\t" in line
    ]
    return by_hash(pairs, test=0.05, dev=0.02)


def headlines() -> dict[str, list[Pair]]:
    """Articles of People's Daily and their headlines: a fifth is scored, a tenth chooses the weights."""
    lines = data_file("people_daily_1998", "headline_pairs.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return by_hash([{"source": row["body"], "target": row["headline"]} for row in rows], test=0.2, dev=0.1)


def by_hash(pairs: Iterable[Pair], *, test: float, dev: float) -> dict[str, list[Pair]]:
    """Pairs in three parts by the hash of their source."""
    parts: dict[str, list[Pair]] = {"train": [], "dev": [], "test": []}
    for pair in pairs:
        place = uniform(0, "translation", pair["source"])
        parts["test" if place < test else "dev" if place < test + dev else "train"].append(pair)
    return parts


DATA = {"multi30k": multi30k, "tatoeba": tatoeba, "headlines": headlines}


def files(bench: Bench, name: str) -> dict[str, Path]:
    """The parts of a data set as files."""
    folder = bench.work / name
    folder.mkdir(exist_ok=True)
    count = 200 if bench.smoke else None
    return {
        part: write_jsonl(folder / f"{part}.jsonl", pairs[:count]) for part, pairs in DATA[name]().items()
    }


def train(bench: Bench, name: str, rows: dict[str, Path]) -> tuple[Path, str]:
    """The run of a part, and the command that made it."""
    part, out = PARTS[name], bench.work / name / "run"
    options = flags(
        dev=rows["dev"], task="text2text", model=part["model"], epochs=1 if bench.smoke else part["epochs"],
        set=[*part["set"], *(TINY if bench.smoke else [])], out=out, force=True,
    )  # fmt: skip
    command = ["finetune", str(rows["train"]), *options]
    resumed = (out / "run.json").exists() and not bench.options.again and not bench.smoke
    if not (resumed and bench.finished(out)):
        bench.textus(*(["resume", out] if resumed else command))
    return out, " ".join(["textus", *command])


def measure(bench: Bench, name: str) -> dict[str, Any]:
    """Train if needed, then score the test pairs with beams, and greedily."""
    rows = files(bench, PARTS[name]["data"])
    (bench.work / name).mkdir(exist_ok=True)
    out, command = train(bench, name, rows)
    scores = bench.scores("evaluate", out, on=rows["test"])
    record = read_json(out / "run.json")
    kept = ("bleu", "chrf", "rouge_1", "rouge_2", "rouge_l", "rouge_l_words", "rows", "baselines")
    return {
        **{key: scores[key] for key in kept if key in scores},
        **{key: record[key] for key in ("seconds", "cpu_seconds", "steps", "best", "compute")},
        "parameters": bench.scores("show", out)["parameters"]["total"],
        "greedy": greedy(bench, out, rows["test"]),
        "examples": [
            {key: row[key] for key in ("text", "label", "answer")} for row in scores["mistakes"][:SHOWN]
        ],
        "trained_by": command,
    }


def greedy(bench: Bench, run: Path, test: Path) -> dict[str, Any]:
    """The scores without a search."""
    from textus import api
    from textus.metrics import overlap

    pairs = [json.loads(line) for line in test.read_text(encoding="utf-8").splitlines()]
    opened = api.open_run(run)
    sources = [pair["source"] for pair in pairs]
    goal = opened.task.settings.goal
    written = (opened.summarize if goal == "summarize" else opened.translate)(sources, beams=1)
    return {"bleu": overlap.bleu(written, [pair["target"] for pair in pairs])}


def main() -> None:
    """Measure what is missing, or show the kept results."""
    bench = begin("translation", __doc__, only=PARTS)
    for name in bench.chosen(PARTS):
        bench.once(bench.part("parts"), name, measure, bench, name)
    rows = []
    for name, part in bench.part("parts").items():
        metrics = ("bleu", "chrf", "rouge_l")
        figures = [with_interval(part[key], ".3f" if key == "rouge_l" else ".1f") for key in metrics]
        rows.append(
            [name, *figures, with_interval(part["greedy"]["bleu"], ".1f"), part["steps"], part["cpu_seconds"]]
        )
        for baseline, scores in part["baselines"].items():
            own = [with_interval(scores[key], ".3f" if key == "rouge_l" else ".1f") for key in metrics]
            rows.append([f"  {baseline}", *own, "", "", ""])
    header = ["", "BLEU (95 %)", "chrF", "ROUGE-L", "greedy BLEU", "steps", "CPU-seconds"]
    show("Texts made from others, test pairs", header, rows)


if __name__ == "__main__":
    main()

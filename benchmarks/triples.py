"""Triples from Chinese news whose gold is a rule: People's Daily, January 1998, with parts of speech.

No set of relations made by people is among the data sets, so this one is made, and means less than such a set would.
Entities are persons, places and organisations as the corpus tags them, and nouns of a short list of titles. A person
right after a title `holds` it; a place or organisation before that title, with nothing but nouns between, is what the
person `belongs to`. The rule reads the tags, the models read characters alone. Sentences are parted by their persons:
no tested name was in the training part. So the figures show whether the whole pipeline works on text nobody wrote for
it, and how near a model comes to a rule it never sees; not how well it reads relations in general. The baselines are
the majority by types and a reader of places (`adjacent`): who follows a title with no character between holds it, and
belongs to the place or organisation that ends where the title begins.

Settings were chosen on the dev part, from which the best epoch is taken.
"""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks._material import data_file, write_jsonl
from benchmarks._runner import Bench, begin, dev_score, show
from textus.core.rng import uniform
from textus.metrics.entities import entity_scores

OFFICES = """主席 总统 总理 部长 书记 主任 外长 大使 秘书长 局长 会长 总经理 市长 国防部长 院长 外交部长 发言人
委员长 首相 董事长 省长 所长 国务卿 议长 行长 总裁 总参谋长 司令员 外交大臣 社长 司长 团长 处长 校长 党委书记 总书记
县长 厂长"""
TITLES = frozenset(OFFICES.split())
KINDS = {"nr": "人名", "ns": "地名", "nt": "机构"}
TITLE = "职务"
HOLDS, BELONGS = "担任", "属于"
NOUNS = ("n", "vn", "j", "b")
ENDS = re.compile(r"[。！？；]")
LONGEST = 100
"""Characters of a sentence at most."""
PARTS = (("train", 0.7), ("dev", 0.8), ("test", 1.0))
SETTINGS = ("optim.rate=0.003", "model.n_layer=1")
OPTIONS = {
    "relations": {"epochs": 3, "set": (*SETTINGS, "task.negatives=0.5")},
    "tagging": {"epochs": 6, "set": SETTINGS},
}
SMOKE = ("model.d_model=16", "model.n_layer=1")

Words = list[tuple[str, str]]


def sentences(path: Path) -> Iterator[Words]:
    """Words with their tags, a sentence at a time."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            held: Words = []
            for token in line.split():
                word, _, tag = token.rpartition("/")
                held.append((word, tag))
                if ENDS.fullmatch(word):
                    yield held
                    held = []
            if held:
                yield held


def row_of(words: Words) -> dict[str, Any]:
    """A sentence as a row, with the entities and relations of the rule."""
    entities: list[dict[str, Any]] = []
    relations: list[dict[str, Any]] = []
    chain: list[int] = []  # entities that nothing but nouns parts from here: where from, then the title
    at, before = 0, ""
    for word, tag in words:
        kind = KINDS.get(tag, TITLE if tag == "n" and word in TITLES else "")
        end = at + len(word)
        if tag == "nr" and before == "nr":  # a family name and a given name are one
            entities[-1]["end"] = end
        elif kind:
            entities.append({"start": at, "end": end, "label": kind})
            number = len(entities) - 1
            if kind == "人名":
                labels = [entities[number]["label"] for number in chain]
                if labels and labels[-1] == TITLE and entities[chain[-1]]["end"] == at:
                    relations.append({"head": number, "relation": HOLDS, "tail": chain[-1]})
                    relations += [
                        {"head": number, "relation": BELONGS, "tail": tail}
                        for tail, label in list(zip(chain, labels, strict=True))[-2:-1]
                        if label != TITLE
                    ]
                chain = []
            else:
                chain.append(number)
        elif tag not in NOUNS:
            chain = []
        at, before = end, "" if tag == "nr" and before == "nr" else tag
    text = "".join(word for word, _ in words)
    return {"text": text, "entities": entities, "relations": relations}


def parted(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of each part, by the names in them; of sentences without a relation as many as with one. Sentences whose
    names are in two parts are in none.
    """
    parts: dict[str, list[dict[str, Any]]] = {name: [] for name, _ in PARTS}
    seen: set[str] = set()
    kept: list[tuple[str, dict[str, Any]]] = []
    for words in sentences(path):
        row = row_of(words)
        text, labels = row["text"], [entity["label"] for entity in row["entities"]]
        if "人名" not in labels or len(labels) < 2 or len(text) > LONGEST or text in seen:
            continue
        seen.add(text)
        names = {text[e["start"] : e["end"]] for e in row["entities"] if e["label"] == "人名"}
        own = {next(part for part, end in PARTS if uniform(0, "name", name) < end) for name in names}
        if len(own) == 1:
            kept.append((own.pop(), row))
    share = sum(bool(row["relations"]) for _, row in kept) / sum(not row["relations"] for _, row in kept)
    for part, row in kept:
        if row["relations"] or uniform(0, "sentence", row["text"]) < share:
            parts[part].append(row)
    return parts


def material(bench: Bench) -> dict[str, Path]:
    """The three parts as files; of a smoke run the first rows."""
    rows = parted(data_file("people_daily_1998", "199801_pos.txt.xz"))
    count = 40 if bench.smoke else None
    return {part: write_jsonl(bench.work / f"{part}.jsonl", rows[part][:count]) for part in rows}


def adjacent(file: Path) -> dict[str, Any]:
    """The figures of a reader of places alone."""
    gold, guess = [], []
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        gold.append([(triple["relation"], triple["head"], triple["tail"]) for triple in row["relations"]])
        triples: list[tuple[str, int, int]] = []
        for number, (first, second) in enumerate(zip(row["entities"], row["entities"][1:], strict=False)):
            if (first["label"], second["label"]) != (TITLE, "人名") or first["end"] != second["start"]:
                continue
            triples.append((HOLDS, number + 1, number))
            whose = row["entities"][number - 1] if number else None
            if whose and whose["end"] == first["start"] and whose["label"] in ("地名", "机构"):
                triples.append((BELONGS, number + 1, number - 1))
        guess.append(triples)
    return entity_scores(gold, guess)


def finetune(bench: Bench, files: dict[str, Path], task: str) -> dict[str, Any]:
    """A run of one task, and what its training cost."""
    options = {"epochs": 1, "set": SMOKE} if bench.smoke else OPTIONS[task]
    record = bench.train(
        "finetune",
        files["train"],
        dev=files["dev"],
        task=task,
        model="lstm",
        **options,
        out=bench.work / task,
    )
    kept = {name: record[name] for name in ("steps", "cpu_seconds", "seconds", "command")}
    return {**kept, "dev_f1": dev_score(record)}


def evaluate(bench: Bench, test: Path, entities: Path | None) -> dict[str, Any]:
    """Scores of the relations, with the row's entities or those of another run."""
    scores = bench.scores("evaluate", bench.work / "relations", on=test, entities=entities)
    return {name: scores[name] for name in scores if name not in ("run", "on", "mistakes", "entities")}


def main() -> None:
    """Train both tasks and evaluate the triples in both ways."""
    bench = begin("triples", __doc__)
    files, result, training = material(bench), bench.result, bench.part("training")
    result["rows"] = {
        part: len(file.read_text(encoding="utf-8").splitlines()) for part, file in files.items()
    }
    result["adjacent"] = adjacent(files["test"])
    for task in OPTIONS:
        if not (bench.work / task / "run.json").exists():
            training.pop(task, None)
        bench.once(training, task, finetune, bench, files, task)
    given = bench.once(result, "given entities", evaluate, bench, files["test"], None)
    raw = bench.once(result, "from raw text", evaluate, bench, files["test"], bench.work / "tagging")
    sides = {
        "triples, entities given": given["f1"],
        "majority by types": given["baselines"]["majority by types"]["f1"],
        "adjacent": result["adjacent"]["f1"],
        "entities from raw text": raw["entity_f1"],
        "triples from raw text": raw["f1"],
    }
    rows = [
        [name, *(f"{100 * f1[part]:.2f}" for part in ("value", "low", "high"))] for name, f1 in sides.items()
    ]
    title = f"micro F1, %, {result['rows']['test']:,} sentences of unseen names"
    show(title, ["", "F1", "low", "high"], rows)


if __name__ == "__main__":
    main()

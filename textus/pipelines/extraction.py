"""Triples out of raw text: a tagging run finds the entities, a relations run what joins them.

A text is a row of a file, or of a plain text file a line: pairs of entities are looked for within it. Every triple
says where it was read: the document, the characters of both entities in it, and the text itself.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from textus.core.console import log_notice
from textus.core.errors import DataError, UsageError
from textus.core.io import check_output_file, dump_jsonl, write_atomic
from textus.core.names import unknown_name_error
from textus.data.eval_text import read_text
from textus.data.labeled import clean_text
from textus.data.read_options import AUTODETECT, ReadOptions
from textus.metrics.entities import entity_scores
from textus.models.contract import LanguageModel
from textus.tasks.inference import predict_texts
from textus.tasks.registry import head_of_kind, load_for_task, record_for_task, task_from_record, task_names
from textus.tasks.relation_data import RelationExample
from textus.tasks.relations import Relations
from textus.tasks.tagging import Tagging
from textus.tasks.token_data import read_row_text
from textus.tokenizers import Tokenizer

LINE = re.compile(r"[^\r\n]*\S[^\r\n]*")
NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML file may hold."""
COLUMNS = (
    "head", "head_label", "head_start", "head_end", "relation", "tail", "tail_label", "tail_start", "tail_end",
    "probability", "document", "text",
)  # fmt: skip


@dataclass(frozen=True)
class CitedPassage:
    """A text in which triples are looked for: of which document, and where in it its first character stands."""

    text: str
    document: str
    start: int = 0


@dataclass(frozen=True)
class TaskPredictor:
    """A run that answers, opened."""

    model: LanguageModel
    task: Any
    tokenizer: Tokenizer


def load_predictor(path: Path, flag: str, wanted: type[Tagging] | type[Relations]) -> TaskPredictor:
    """A run for one of the two parts; UsageError for a run of another task, or tags that are no entities."""
    model, tokenizer, record = load_for_task(path)
    name, known = head_of_kind(record, wanted.name), task_names(record)
    if name is None:
        why = f"was fine-tuned for {', '.join(known)}" if known else "was not fine-tuned for a task"
        raise UsageError(
            "wrong_task", f"{flag} {path} {why}; give a run of textus finetune --task {wanted.name}"
        )
    task = task_from_record(record_for_task(record, name, path))
    if isinstance(task, Tagging) and not task.entities:
        raise UsageError(
            "wrong_task", f"{flag} {path} tells plain tags such as {task.labels[0]!r}, no entities"
        )
    return TaskPredictor(model, task, tokenizer)


def load_predictors(entities: Path, relations: Path) -> tuple[TaskPredictor, TaskPredictor]:
    """Both runs; UsageError where no type of entity is common to both."""
    finder, joiner = (
        load_predictor(entities, "--entities", Tagging),
        load_predictor(relations, "--relations", Relations),
    )
    found = {label[2:] for label in finder.task.labels if label != "O"}
    seen = joiner.task.settings.seen
    joined = {*seen, *(kind for tails in seen.values() for kind in tails)}
    if not found & joined:
        raise UsageError(
            "runs_differ",
            f"{entities} finds {', '.join(sorted(found))}, {relations} joins {', '.join(sorted(joined))}: no type is"
            " common to both; teach them with the same names",
        )
    if rest := sorted(joined - found):
        log_notice(f"{entities} finds no {', '.join(rest)}: what {relations} knows of these is not used")
    return finder, joiner


def read_passages(path: Path, options: ReadOptions = AUTODETECT) -> list[CitedPassage]:
    """The texts of a file. Raises DataError where there is none."""
    if path.suffix == ".txt" and not options.columns:
        whole = clean_text("".join(part.text for part in read_text(path, options.encoding or "")))
        found = [CitedPassage(line[0], str(path), line.start()) for line in LINE.finditer(whole)]
    else:
        records = options.records(path)
        found = [
            CitedPassage(read_row_text(each, "a text"), str(each.values.get("id", each.where)))
            for each in records
        ]
    held = [each for each in found if each.text.strip()]
    if not held:
        raise DataError("empty_data", f"{path} holds no text")
    if empty := len(found) - len(held):
        log_notice(f"{empty:,} of {len(found):,} texts are empty and left out")
    return held


def tag_entities(finder: TaskPredictor, texts: Sequence[tuple[str, str]]) -> list[RelationExample]:
    """Texts, each with what to call it, with the entities that are found in them."""
    examples = [finder.task.example_from_text((text,), where) for text, where in texts]
    outputs = predict_texts(finder.model, finder.task, finder.tokenizer, examples)
    found = []
    for example, output in zip(examples, outputs, strict=True):
        told = finder.task.to_json(example, output)["entities"]
        spans = tuple((each["label"], each["start"], each["end"]) for each in told)
        found.append(RelationExample((example.text,), None, example.where, entities=spans))
    return found


def extract_triples(
    path: Path, entities: Path, relations: Path, options: ReadOptions = AUTODETECT
) -> dict[str, Any]:
    """The triples of a file's texts, with where they stand, and how many texts and entities there were."""
    finder, joiner = load_predictors(entities, relations)
    given = read_passages(path, options)
    examples = tag_entities(finder, [(each.text, each.document) for each in given])
    outputs = predict_texts(joiner.model, joiner.task, joiner.tokenizer, examples)
    found = []
    for passage, example, output in zip(given, examples, outputs, strict=True):
        for each in joiner.task.to_json(example, output)["triples"]:
            for role in ("head", "tail"):
                each[role] |= {
                    "start": each[role]["start"] + passage.start, "end": each[role]["end"] + passage.start,
                }  # fmt: skip
            found.append({**each, "document": passage.document, "text": passage.text})
    n = sum(len(each.entities) for each in examples)
    return {"texts": len(given), "entities": n, "triples": found}


# ── measured ───────────────────────────────────────────────────────────────────────────────────


def evaluate_triples(
    entities: Path, relations: Path, on: Path, options: ReadOptions = AUTODETECT
) -> dict[str, Any]:
    """How well entities and triples are found in the raw texts of labelled rows. A triple is right where both spans,
    their order and the relation are; the types of its entities are counted with the entities. The first figures are the
    triples'.
    """
    finder, joiner = load_predictors(entities, relations)
    rows = joiner.task.examples(options.records(on), labelled=True)
    if partly := [each for each in rows if each.only is not None]:
        raise DataError(
            "invalid_rows",
            f"{partly[0].where} marks one pair of its text and leaves the others open: entities and triples of the"
            " whole text cannot be counted by it",
        )
    found = tag_entities(finder, [(each.text, each.where) for each in rows])
    outputs = predict_texts(joiner.model, joiner.task, joiner.tokenizer, found)
    spans = entity_scores([dedupe(each.entities) for each in rows], [dedupe(each.entities) for each in found])
    gold = [by_span(each, joiner.task.gold(each)) for each in rows]
    guess = [by_span(each, joiner.task.triples(out)) for each, out in zip(found, outputs, strict=True)]
    return {
        "rows": len(rows), **entity_scores(gold, guess),
        **{f"entity_{name}": value for name, value in spans.items()},
    }  # fmt: skip


def dedupe(entities: Sequence[Any]) -> list[Any]:
    """The same, each once."""
    return list(dict.fromkeys(entities))


def by_span(example: RelationExample, found: Sequence[tuple[str, int, int]]) -> list[Any]:
    """Triples by where their entities stand, each once."""
    return dedupe(
        [(name, example.entities[head][1:], example.entities[tail][1:]) for name, head, tail in found]
    )


# ── written ────────────────────────────────────────────────────────────────────────────────────


def format_for(out: Path, *, force: bool) -> str:
    """The form a file is written in, told by its name; UsageError for another, or one that is there."""
    kind = out.suffix.removeprefix(".")
    if kind not in WRITERS:
        raise unknown_name_error("form of triples", out.suffix or out.name, [f".{each}" for each in WRITERS])
    check_output_file(out, force=force)
    return kind


def write_triples(out: Path, found: Sequence[dict[str, Any]], *, force: bool = False) -> None:
    """Triples as JSON lines, as a table, or as a graph."""
    write_atomic(out, WRITERS[format_for(out, force=force)](found))


def as_csv(found: Sequence[dict[str, Any]]) -> str:
    """One triple a row, in `COLUMNS`."""
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(COLUMNS)
    for each in found:
        head, tail = (
            [each[role][name] for name in ("text", "label", "start", "end")] for role in ("head", "tail")
        )
        rows.writerow([*head, each["relation"], *tail, each["probability"], each["document"], each["text"]])
    return file.getvalue()


def as_graphml(found: Sequence[dict[str, Any]]) -> str:
    """A node an entity (by what it is called, and its type), an edge a triple with where it was read."""
    root = ElementTree.Element("graphml", xmlns="http://graphml.graphdrawing.org/xmlns")
    edge_values = {"relation": "string", "probability": "double", "document": "string", "text": "string"}
    edge_values |= {f"{role}_{end}": "int" for role in ("head", "tail") for end in ("start", "end")}
    for of, values in (("node", {"name": "string", "label": "string"}), ("edge", edge_values)):
        for name, kind in values.items():
            about = {"id": f"{of}_{name}", "for": of, "attr.name": name, "attr.type": kind}
            ElementTree.SubElement(root, "key", about)
    graph = ElementTree.SubElement(root, "graph", edgedefault="directed")
    nodes: dict[tuple[str, str], str] = {}
    for number, each in enumerate(found):
        ends = []
        for role in ("head", "tail"):
            key = (each[role]["text"], each[role]["label"])
            if key not in nodes:
                nodes[key] = f"n{len(nodes)}"
                node = ElementTree.SubElement(graph, "node", id=nodes[key])
                add_graphml_data(node, "node", dict(zip(("name", "label"), key, strict=True)))
            ends.append(nodes[key])
        edge = ElementTree.SubElement(graph, "edge", id=f"e{number}", source=ends[0], target=ends[1])
        places = {f"{role}_{end}": each[role][end] for role in ("head", "tail") for end in ("start", "end")}
        add_graphml_data(edge, "edge", {name: each.get(name, places.get(name)) for name in edge_values})
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def add_graphml_data(element: ElementTree.Element, of: str, values: dict[str, Any]) -> None:
    """What a node or edge has, as GraphML wants it; a character that XML cannot hold is U+FFFD."""
    for name, value in values.items():
        ElementTree.SubElement(element, "data", key=f"{of}_{name}").text = NOT_XML.sub("\ufffd", str(value))


WRITERS = {"jsonl": dump_jsonl, "csv": as_csv, "graphml": as_graphml}

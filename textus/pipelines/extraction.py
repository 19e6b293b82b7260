"""Triples from raw text: a tagging run finds the entities, a relations run classifies the relations between them.

Each row of a file is a text, and each line of a plain text file; pairs of entities are formed within a text. Every
triple has its source: the document, the character offsets of both entities, and the text.
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
"""Characters that XML does not allow."""
COLUMNS = (
    "head", "head_label", "head_start", "head_end", "relation", "tail", "tail_label", "tail_start", "tail_end",
    "probability", "document", "text",
)  # fmt: skip


@dataclass(frozen=True)
class CitedPassage:
    """A text to extract triples from, its document, and the offset of its first character in that document."""

    text: str
    document: str
    start: int = 0


@dataclass(frozen=True)
class TaskPredictor:
    """A fine-tuned run, loaded."""

    model: LanguageModel
    task: Any
    tokenizer: Tokenizer


def load_predictor(path: Path, flag: str, wanted: type[Tagging] | type[Relations]) -> TaskPredictor:
    """A run for one of the two steps; UsageError for a run of another task, or with tags that are not entities."""
    model, tokenizer, record = load_for_task(path)
    name, names = head_of_kind(record, wanted.name), task_names(record)
    if name is None:
        reason = f"was fine-tuned for {', '.join(names)}" if names else "was not fine-tuned for a task"
        raise UsageError(
            "wrong_task", f"{flag} {path} {reason}; give a run of textus finetune --task {wanted.name}"
        )
    task = task_from_record(record_for_task(record, name, path))
    if isinstance(task, Tagging) and not task.entities:
        raise UsageError(
            "wrong_task", f"{flag} {path} predicts plain tags such as {task.labels[0]!r}, not entities"
        )
    return TaskPredictor(model, task, tokenizer)


def load_predictors(entities: Path, relations: Path) -> tuple[TaskPredictor, TaskPredictor]:
    """Both runs; UsageError if they have no entity type in common."""
    finder = load_predictor(entities, "--entities", Tagging)
    joiner = load_predictor(relations, "--relations", Relations)
    predicted = {label[2:] for label in finder.task.labels if label != "O"}
    pairs = joiner.task.settings.seen
    joined = {*pairs, *(kind for tails in pairs.values() for kind in tails)}
    if not predicted & joined:
        raise UsageError(
            "runs_differ",
            f"{entities} predicts {', '.join(sorted(predicted))}, {relations} relates {', '.join(sorted(joined))}: they"
            " have no entity type in common; train both with the same names",
        )
    if rest := sorted(joined - predicted):
        log_notice(
            f"{entities} never predicts {', '.join(rest)}: {relations} will find no relations of these types"
        )
    return finder, joiner


def read_passages(path: Path, options: ReadOptions = AUTODETECT) -> list[CitedPassage]:
    """The texts of a file; DataError if there are none."""
    if path.suffix == ".txt" and not options.columns:
        whole = clean_text("".join(part.text for part in read_text(path, options.encoding or "")))
        passages = [CitedPassage(line[0], str(path), line.start()) for line in LINE.finditer(whole)]
    else:
        records = options.records(path)
        passages = [
            CitedPassage(read_row_text(record, "a text"), str(record.values.get("id", record.where)))
            for record in records
        ]
    kept = [passage for passage in passages if passage.text.strip()]
    if not kept:
        raise DataError("empty_data", f"{path} contains no text")
    if empty := len(passages) - len(kept):
        log_notice(f"{empty:,} of {len(passages):,} texts are empty and skipped")
    return kept


def tag_entities(finder: TaskPredictor, texts: Sequence[tuple[str, str]]) -> list[RelationExample]:
    """Texts, each with its name, with the entities that the run predicts."""
    examples = [finder.task.example_from_text((text,), where) for text, where in texts]
    outputs = predict_texts(finder.model, finder.task, finder.tokenizer, examples)
    tagged = []
    for example, output in zip(examples, outputs, strict=True):
        entities = finder.task.to_json(example, output)["entities"]
        spans = tuple((entity["label"], entity["start"], entity["end"]) for entity in entities)
        tagged.append(RelationExample((example.text,), None, example.where, entities=spans))
    return tagged


def extract_triples(
    path: Path, entities: Path, relations: Path, options: ReadOptions = AUTODETECT
) -> dict[str, Any]:
    """The triples of a file's texts with their offsets, and the numbers of texts and entities."""
    finder, joiner = load_predictors(entities, relations)
    passages = read_passages(path, options)
    examples = tag_entities(finder, [(passage.text, passage.document) for passage in passages])
    outputs = predict_texts(joiner.model, joiner.task, joiner.tokenizer, examples)
    triples = []
    for passage, example, output in zip(passages, examples, outputs, strict=True):
        for triple in joiner.task.to_json(example, output)["triples"]:
            for role in ("head", "tail"):
                triple[role]["start"] += passage.start
                triple[role]["end"] += passage.start
            triples.append({**triple, "document": passage.document, "text": passage.text})
    n_entities = sum(len(example.entities) for example in examples)
    return {"texts": len(passages), "entities": n_entities, "triples": triples}


# ── evaluation ─────────────────────────────────────────────────────────────────────────────────


def evaluate_triples(
    entities: Path, relations: Path, on: Path, options: ReadOptions = AUTODETECT
) -> dict[str, Any]:
    """Precision, recall and F1 of triples and entities in the raw texts of labelled rows. A triple is correct if both
    spans, their order and the relation are; the types of its entities count with the entities.
    """
    finder, joiner = load_predictors(entities, relations)
    rows = joiner.task.make_examples(options.records(on), labelled=True)
    if partly := [row for row in rows if row.marked_pairs is not None]:
        raise DataError(
            "invalid_rows",
            f"{partly[0].where} marks a single pair of its text: entities and triples of the whole text cannot be"
            " evaluated with it",
        )
    examples = tag_entities(finder, [(row.text, row.where) for row in rows])
    outputs = predict_texts(joiner.model, joiner.task, joiner.tokenizer, examples)
    spans = entity_scores(*([dedupe(row.entities) for row in side] for side in (rows, examples)))
    gold = [by_span(row, joiner.task.gold(row)) for row in rows]
    pairs = zip(examples, outputs, strict=True)
    guess = [by_span(example, joiner.task.triples(output)) for example, output in pairs]
    return {
        "rows": len(rows), **entity_scores(gold, guess),
        **{f"entity_{name}": value for name, value in spans.items()},
    }  # fmt: skip


def dedupe(entities: Sequence[Any]) -> list[Any]:
    """The same without repetitions, in order."""
    return list(dict.fromkeys(entities))


def by_span(example: RelationExample, triples: Sequence[tuple[str, int, int]]) -> list[Any]:
    """Triples by the spans of their entities, without repetitions."""
    return dedupe(
        [(name, example.entities[head][1:], example.entities[tail][1:]) for name, head, tail in triples]
    )


# ── output ──────────────────────────────────────────────────────────────────────────────────────


def format_for(out: Path, *, force: bool) -> str:
    """The format of an output file by its suffix; UsageError for an unknown one, or a file that exists."""
    kind = out.suffix.removeprefix(".")
    if kind not in WRITERS:
        raise unknown_name_error("form of triples", out.suffix or out.name, [f".{name}" for name in WRITERS])
    check_output_file(out, force=force)
    return kind


def write_triples(out: Path, triples: Sequence[dict[str, Any]], *, force: bool = False) -> None:
    """Write triples as JSON lines, a table, or a graph."""
    write_atomic(out, WRITERS[format_for(out, force=force)](triples))


def as_csv(triples: Sequence[dict[str, Any]]) -> str:
    """One triple per row, with `COLUMNS`."""
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(COLUMNS)
    for triple in triples:
        head, tail = (
            [triple[role][name] for name in ("text", "label", "start", "end")] for role in ("head", "tail")
        )
        rest = [triple[name] for name in ("probability", "document", "text")]
        rows.writerow([*head, triple["relation"], *tail, *rest])
    return file.getvalue()


def as_graphml(triples: Sequence[dict[str, Any]]) -> str:
    """One node per entity (its text and type), one edge per triple with its source."""
    root = ElementTree.Element("graphml", xmlns="http://graphml.graphdrawing.org/xmlns")
    edge_values = {"relation": "string", "probability": "double", "document": "string", "text": "string"}
    edge_values |= {f"{role}_{end}": "int" for role in ("head", "tail") for end in ("start", "end")}
    for target, values in (("node", {"name": "string", "label": "string"}), ("edge", edge_values)):
        for name, kind in values.items():
            attributes = {"id": f"{target}_{name}", "for": target, "attr.name": name, "attr.type": kind}
            ElementTree.SubElement(root, "key", attributes)
    graph = ElementTree.SubElement(root, "graph", edgedefault="directed")
    nodes: dict[tuple[str, str], str] = {}
    for number, triple in enumerate(triples):
        ends = []
        for role in ("head", "tail"):
            key = (triple[role]["text"], triple[role]["label"])
            if key not in nodes:
                nodes[key] = f"n{len(nodes)}"
                node = ElementTree.SubElement(graph, "node", id=nodes[key])
                add_graphml_data(node, "node", dict(zip(("name", "label"), key, strict=True)))
            ends.append(nodes[key])
        edge = ElementTree.SubElement(graph, "edge", id=f"e{number}", source=ends[0], target=ends[1])
        places = {f"{role}_{end}": triple[role][end] for role in ("head", "tail") for end in ("start", "end")}
        add_graphml_data(edge, "edge", {name: triple.get(name, places.get(name)) for name in edge_values})
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def add_graphml_data(element: ElementTree.Element, target: str, values: dict[str, Any]) -> None:
    """Add data elements to a node or edge; a character that XML does not allow becomes U+FFFD."""
    for name, value in values.items():
        ElementTree.SubElement(element, "data", key=f"{target}_{name}").text = NOT_XML.sub(
            "\ufffd", str(value)
        )


WRITERS = {"jsonl": dump_jsonl, "csv": as_csv, "graphml": as_graphml}

"""What a json file holds, and the exports of the usual annotation tools, in the fields that tasks read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeGuard

from textus.corpus.dialects import Problem, Text, bare, line_end, lines
from textus.corpus.documents import Unreadable

Row = dict[str, Any]

FIELDS = frozenset(
    {"text", "text_pair", "label", "labels", "tokens", "tags", "entities", "spans", "relations", "question"}
    | {"context", "answers", "answer", "sentence", "sentence1", "sentence2", "premise", "hypothesis", "score"}
    | {"document", "negative", "source", "target", "id"}
)
"""The fields that tasks and corpora know; a column of such a name in other letters (`Text`) is taken for it."""


class Refused(Exception):
    """An export in a form that cannot be read; the message ends the sentence that begins with the row's place."""


# ── json files ─────────────────────────────────────────────────────────────────────────────────


def entries(value: Any, report: Callable[[str], None]) -> Iterator[tuple[str, Any]]:
    """(place, row) of each row in a parsed json file: a list of objects, an object with a list or with columns inside,
    SQuAD's articles, or one object. Raises Unreadable for anything else.
    """
    if isinstance(value, dict):
        yield from of_object(value, report)
    elif isinstance(value, list):
        yield from of_list(value)
    else:
        raise Unreadable("it is neither a list of objects nor SQuAD's {'data': [...]} nor JSON lines")


def of_list(rows: list[Any]) -> Iterator[tuple[str, Any]]:
    """The entries of a list, or the questions of SQuAD's articles."""
    if rows and all(isinstance(row, dict) and "paragraphs" in row for row in rows):
        yield from squad_rows(rows)
        return
    for number, row in enumerate(rows):
        yield f"entry {number}", of_spacy(row) if is_spacy(row) else row


def of_object(value: Row, report: Callable[[str], None]) -> Iterator[tuple[str, Any]]:
    """The rows of an object: in a list inside of it, by columns as pandas writes them, or itself."""
    if isinstance(annotations := value.get("annotations"), list) and any(map(is_spacy, annotations)):
        yield from of_list([each for each in annotations if each is not None])
        return
    lists = [name for name, inside in value.items() if is_list_of_objects(inside)]
    if "data" in lists:
        lists = ["data"]
    if len(lists) == 1 and not FIELDS & value.keys():
        if lists != ["data"]:
            report(f"the rows are those of {lists[0]!r}")
        yield from of_list(value[lists[0]])
    elif is_by_columns(value):
        report("the rows are stored by columns, as pandas writes them, and read so")
        for number in next(iter(value.values())):
            yield f"entry {number}", {name: column[number] for name, column in value.items()}
    else:
        yield "the object", value


def is_list_of_objects(value: Any) -> TypeGuard[list[Row]]:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def is_by_columns(value: Row) -> bool:
    """Whether an object has columns of numbered cells: {"text": {"0": …}, "label": {"0": …}}."""
    columns = list(value.values())
    return (
        bool(columns)
        and all(isinstance(column, dict) and column.keys() == columns[0].keys() for column in columns)
        and bool(columns[0])
        and all(name.isdigit() for name in columns[0])
    )


def squad_rows(articles: list[Any]) -> Iterator[tuple[str, Row]]:
    """question, context, answers ({"text": […], "answer_start": […]}), id and title of each question."""
    for article in articles:
        try:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    answers = question.get("answers") or []
                    yield f"question {question.get('id', '?')}", {
                        "question": question["question"], "context": paragraph["context"],
                        "id": question.get("id"), "title": article.get("title"),
                        "answers": {
                            "text": [answer["text"] for answer in answers],
                            "answer_start": [answer["answer_start"] for answer in answers],
                        },
                    }  # fmt: skip
        except (KeyError, TypeError, AttributeError) as error:
            raise Unreadable(f"not SQuAD's form: {error!r} is missing in an article") from error


# ── tools ──────────────────────────────────────────────────────────────────────────────────────


def usual_fields(row: Row) -> Row:
    """A row of an annotation tool's export in the fields that tasks read; any other row as it is.

    Raises Refused for one that its annotators did not accept, or that has no text.
    """
    if isinstance(row.get("annotations"), list) and isinstance(row.get("data"), dict):
        return label_studio(row)
    if is_list_of_objects(row.get("tokens")):  # Prodigy's own tokens: its spans are in characters
        return prodigy(row)
    if {"answer", "answer_start", "context"} <= row.keys() and "answers" not in row:
        return answered(row)
    for name in ("label", "labels", "entities"):
        if is_list_of_objects(spans := row.get(name)) and all(map(is_span, spans)):
            return with_entities(row, name, spans)
    return row


def is_span(value: Row) -> bool:
    """Whether an object is an entity as Label Studio (JSON-MIN) or doccano has it, not yet as tasks read it."""
    return ("labels" in value and "start" in value) or "start_offset" in value


def span_of(value: Row) -> Row:
    """An entity with start, end and label."""
    labels = value.get("labels") or [value.get("label")]
    start, end = (value.get(name, value.get(f"{name}_offset")) for name in ("start", "end"))
    return {"start": start, "end": end, "label": labels[0]}


def with_entities(row: Row, name: str, spans: list[Row]) -> Row:
    """A row of Label Studio's JSON-MIN or of doccano: entities, and relations by their places in that list."""
    places = {span["id"]: place for place, span in enumerate(spans) if "id" in span}
    rest = {key: value for key, value in row.items() if key not in (name, "Comments")}
    if is_list_of_objects(relations := row.get("relations")) and "from_id" in relations[0]:
        rest["relations"] = [relation_of(each, each.get("type"), places) for each in relations]
    return rest | {"entities": [span_of(span) for span in spans]}


def relation_of(value: Row, name: Any, places: dict[Any, int]) -> Row:
    """A relation between two entities that are named by their ids."""
    try:
        return {"head": places[value["from_id"]], "tail": places[value["to_id"]], "relation": name}
    except KeyError as error:
        raise Refused(f"has a relation with an entity {error} that it has not") from error


def label_studio(row: Row) -> Row:
    """A task of Label Studio's JSON: its text, and of the first annotation that was not cancelled the entities,
    relations and choices.
    """
    texts = [name for name, value in row["data"].items() if isinstance(value, str)]
    name = "text" if "text" in texts else texts[0] if len(texts) == 1 else None
    if name is None:
        raise Refused(
            f"is a task of Label Studio with the fields {', '.join(map(repr, row['data'])) or 'none'}; name its text,"
            " as in --columns text=data.FIELD"
        )
    accepted = [each for each in row["annotations"] if not each.get("was_cancelled")]
    results = accepted[0].get("result", []) if accepted else []
    spans = {each.get("id"): each["value"] for each in results if "labels" in each.get("value", {})}
    places = {key: place for place, key in enumerate(spans)}
    found: Row = {"id": row.get("id"), "text": row.get("text", row["data"][name])}
    if choices := [choice for each in results for choice in each.get("value", {}).get("choices", [])]:
        found["label"] = choices[0] if len(choices) == 1 else choices
    else:
        found["entities"] = [span_of(span) for span in spans.values()]
    if relations := [each for each in results if each.get("type") == "relation"]:
        found["relations"] = [
            relation_of(each, (each.get("labels") or ["related"])[0], places) for each in relations
        ]
    return found


def prodigy(row: Row) -> Row:
    """A row of Prodigy: its text and spans, without its tokens."""
    if row.get("answer", "accept") != "accept":
        return {name: value for name, value in row.items() if name not in ("tokens", "spans")}  # as it says
    rest = {name: value for name, value in row.items() if name not in ("tokens", "spans", "answer")}
    return rest | {"entities": [span_of(span) for span in row.get("spans") or []]}


def answered(row: Row) -> Row:
    """A row with one `answer` and its `answer_start`, in SQuAD's form."""
    start = row["answer_start"]
    if isinstance(start, str) and start.strip().lstrip("-").isdecimal():
        start = int(start)
    rest = {name: value for name, value in row.items() if name not in ("answer", "answer_start")}
    texts = [] if row["answer"] in (None, "") else [row["answer"]]
    return rest | {"answers": {"text": texts, "answer_start": [start] * len(texts)}}


def is_spacy(value: Any) -> bool:
    """Whether an entry is spaCy's [text, {"entities": [[start, end, label]]}]."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], dict)
    )


def of_spacy(value: list[Any]) -> Row:
    """An entry of spaCy's training data as a row: its entities, or the category that is 1."""
    text, marks = value
    row: Row = {"text": text}
    if "entities" in marks:
        row["entities"] = [list(entity) for entity in marks["entities"]]
    if isinstance(categories := marks.get("cats"), dict):
        chosen = [name for name, share in categories.items() if share >= 0.5]
        row["label"] = chosen[0] if len(chosen) == 1 else chosen
    return row


# ── fastText ───────────────────────────────────────────────────────────────────────────────────

FASTTEXT = "__label__"


def is_fasttext(text: Text) -> bool:
    """Whether the first line with content begins with a label as fastText has it."""
    first = next((line for line in lines(text(), line_end(text())) if line.strip()), "")
    return first.lstrip("\ufeff ").startswith(FASTTEXT)


def fasttext_rows(text: Text) -> Iterator[tuple[str, Row] | Problem]:
    """text and label of each line of fastText's form: `__label__a __label__b words`; several labels are a list."""
    for number, line in enumerate(lines(text(), line_end(text())), 1):
        words = bare(line).strip("\ufeff ")
        labels = []
        while words.startswith(FASTTEXT):
            label, _, words = words.partition(" ")
            labels.append(label.removeprefix(FASTTEXT))
            words = words.lstrip()
        if labels:
            yield f"line {number:,}", {"text": words, "label": labels if len(labels) > 1 else labels[0]}
        elif words:
            yield Problem(f"line {number:,}", f"has no {FASTTEXT}, as the lines before it have", "no label")

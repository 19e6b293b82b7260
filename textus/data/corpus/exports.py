"""What a json file holds, and the exports of the usual annotation tools, in the fields that tasks read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

from textus.data.corpus.dialects import RowProblem, TextSource, detect_line_end, split_lines, strip_line_end
from textus.data.corpus.documents import UnreadableError

Row = dict[str, Any]

FIELDS = frozenset(
    {"text", "text_pair", "label", "labels", "tokens", "tags", "entities", "spans", "relations", "question"}
    | {"context", "answers", "answer", "sentence", "sentence1", "sentence2", "premise", "hypothesis", "score"}
    | {"document", "negative", "source", "target", "id"}
)
"""The fields that tasks and corpora know; a column of such a name in other letters (`Text`) is taken for it."""


class RefusedRow(Exception):
    """An export in a form that cannot be read; the message ends the sentence that begins with the row's place."""


# ── json files ─────────────────────────────────────────────────────────────────────────────────


def json_entries(value: Any, report: Callable[[str], None]) -> Iterator[tuple[str, Any]]:
    """(place, row) of each row in a parsed json file: a list of objects, an object with a list or columns inside,
    SQuAD's articles, or one object. Raises UnreadableError for anything else.
    """
    if isinstance(value, dict):
        yield from object_entries(value, report)
    elif isinstance(value, list):
        yield from list_entries(value)
    else:
        raise UnreadableError(
            "malformed_json", "it is neither a list of objects nor SQuAD's {'data': [...]} nor JSON lines"
        )


def list_entries(rows: list[Any]) -> Iterator[tuple[str, Any]]:
    """The entries of a list, or the questions of SQuAD's articles."""
    if rows and all(isinstance(row, dict) and "paragraphs" in row for row in rows):
        yield from squad_rows(rows)
        return
    for number, row in enumerate(rows):
        yield f"entry {number}", spacy_row(row) if is_spacy(row) else row


def object_entries(value: Row, report: Callable[[str], None]) -> Iterator[tuple[str, Any]]:
    """The rows of an object: in a list inside of it, by columns as pandas writes them, or itself."""
    if isinstance(annotations := value.get("annotations"), list) and any(map(is_spacy, annotations)):
        yield from list_entries([annotation for annotation in annotations if annotation is not None])
        return
    if is_pandas_split(value):
        report("the rows are lists next to the names of their columns, as pandas writes them, and read so")
        for number, cells in enumerate(value["data"]):
            yield f"entry {number}", dict(zip(value["columns"], cells, strict=True))
        return
    lists = [name for name, inside in value.items() if is_list_of_objects(inside)]
    if "data" in lists:
        lists = ["data"]
    if len(lists) == 1 and not FIELDS & value.keys():
        if lists != ["data"]:
            report(f"the rows are those of {lists[0]!r}")
        yield from list_entries(value[lists[0]])
    elif is_pandas_columns(value):
        report("the rows are stored by columns, as pandas writes them, and read so")
        for number in next(iter(value.values())):
            yield f"entry {number}", {name: column[number] for name, column in value.items()}
    else:
        yield "the object", value


def is_list_of_objects(value: Any) -> TypeGuard[list[Row]]:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def is_pandas_split(value: Row) -> bool:
    """Whether an object has rows as lists: {"columns": ["text", "label"], "data": [["good", 1]]}."""
    columns, rows = value.get("columns"), value.get("data")
    return (
        isinstance(columns, list)
        and all(isinstance(name, str) for name in columns)
        and len(set(columns)) == len(columns)
        and isinstance(rows, list)
        and all(isinstance(row, list) and len(row) == len(columns) for row in rows)
    )


def is_pandas_columns(value: Row) -> bool:
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
            raise UnreadableError(
                "malformed_json", f"not SQuAD's form: {error!r} is missing in an article"
            ) from error


# ── tools ──────────────────────────────────────────────────────────────────────────────────────


def standard_rows(row: Row, noted: Callable[[str], None]) -> list[Row]:
    """An annotation tool's row in the fields that tasks read (several if annotators differ); other rows unchanged.
    `noted` gets what was changed. Raises RefusedRow for a row not accepted, or without a text or label.
    """
    if isinstance(row.get("annotations"), list) and isinstance(row.get("data"), dict):
        return label_studio_rows(row, noted)
    if is_list_of_objects(row.get("tokens")):  # Prodigy's own tokens: its spans are in characters
        return [prodigy_row(row, noted)]
    if {"answer", "answer_start", "context"} <= row.keys() and "answers" not in row:
        return [squad_row(row)]
    if isinstance(answers := row.get("answers"), dict) and isinstance(answers.get("answer_start"), list):
        return [row | {"answers": answers | {"answer_start": list(map(to_int, answers["answer_start"]))}}]
    for name in ("label", "labels", "entities", "spans"):
        if is_list_of_objects(spans := row.get(name)):
            if all(map(is_span, spans)):
                return [entity_row(row, name, spans, noted)]
            if units := detect_utf16(spans, row.get("text"), noted):
                return [row | {name: [span | units.to_chars(span) for span in spans]}]
    return [row]


def is_span(value: Row) -> bool:
    """Whether an object is an entity as Label Studio (JSON-MIN) or doccano has it, not yet as tasks read it."""
    return ("labels" in value and "start" in value) or "start_offset" in value


# ── places ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Utf16Text:
    """A text whose offsets count UTF-16 units, as JavaScript does: a character beyond U+FFFF is two."""

    text: str

    def slice(self, start: int, end: int) -> str:
        """What is from one place to another; a half of a character is U+FFFD."""
        return self.text.encode("utf-16-le", "surrogatepass")[2 * start : 2 * end].decode(
            "utf-16-le", "replace"
        )

    def to_chars(self, span: Row) -> Row:
        """The start and end of a span in characters."""
        return {name: len(self.slice(0, span[name])) for name in ("start", "end")}


def detect_utf16(spans: list[Row], text: Any, noted: Callable[[str], None]) -> Utf16Text | None:
    """The UTF-16 view of a text, if the spans' own `text` fits its offsets and not those in characters."""
    claims = [span for span in spans if isinstance(text, str) and has_own_text(span)]
    if not claims or all(is_same_text(text[span["start"] : span["end"]], span["text"]) for span in claims):
        return None
    units = Utf16Text(text)
    if all(has_offsets(span) for span in spans) and all(
        is_same_text(units.slice(span["start"], span["end"]), span["text"]) for span in claims
    ):
        noted("have places that count units of UTF-16, as their spans' own text shows; read as characters")
        return units
    return None


def has_offsets(span: Row) -> bool:
    return all(type(span.get(name)) is int and span[name] >= 0 for name in ("start", "end"))


def has_own_text(span: Row) -> bool:
    """Whether a span has its own text next to its places."""
    return has_offsets(span) and isinstance(span.get("text"), str)


def is_same_text(one: str, other: str) -> bool:
    """Whether two texts differ at most in blanks and line ends, which Label Studio may write as backslash and n."""
    return one == other or "".join(one.split()) == "".join(other.replace("\\n", " ").split())


def parse_spans(values: list[Row], text: Any, noted: Callable[[str], None]) -> list[Row]:
    """Entities with start, end and label. Raises RefusedRow for one without a label, or that is not at its place."""
    spans = [
        value | {name: to_int(value.get(name, value.get(f"{name}_offset"))) for name in ("start", "end")}
        for value in values
    ]
    units = detect_utf16(spans, text, noted)
    annotated = []
    for span in spans:
        labels = span["labels"] if "labels" in span else [span.get("label")]
        labels = labels if isinstance(labels, list) else [labels]
        place = f"at {span['start']} to {span['end']}"
        if not labels or labels[0] in (None, ""):
            raise RefusedRow(f"has an entity without a label, {place}; give it one or leave it out")
        if len(labels) > 1:
            noted("have entities with several labels; the first of them is read, the others are not")
        places = units.to_chars(span) if units else {name: span[name] for name in ("start", "end")}
        if not units and isinstance(text, str) and has_own_text(span):
            held = text[span["start"] : span["end"]]
            if not is_same_text(held, span["text"]):
                raise RefusedRow(
                    f"has an entity {span['text']!r} {place}, where its text has {held!r}; correct the places"
                )
        annotated.append(places | {"label": labels[0]})
    return annotated


def to_int(value: Any) -> Any:
    """A place that was stored as 22.0, "22" or "22.0" (a column with gaps) as 22; anything else as it is."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and WHOLE.fullmatch(value.strip()):
        return int(value.strip().partition(".")[0])
    return value


WHOLE = re.compile(r"-?[0-9]{1,18}(?:\.0+)?")


# ── annotation tools ───────────────────────────────────────────────────────────────────────────


def entity_row(row: Row, name: str, spans: list[Row], noted: Callable[[str], None]) -> Row:
    """A row of Label Studio's JSON-MIN or of doccano: entities, and relations by their places in that list."""
    places = {span["id"]: place for place, span in enumerate(spans) if "id" in span}
    rest = {key: value for key, value in row.items() if key not in (name, "Comments")}
    if is_list_of_objects(relations := row.get("relations")) and "from_id" in relations[0]:
        rest["relations"] = [parse_relation(relation, relation.get("type"), places) for relation in relations]
    return rest | {"entities": parse_spans(spans, row.get("text"), noted)}


def parse_relation(value: Row, name: Any, places: dict[Any, int]) -> Row:
    """A relation between two entities that are named by their ids."""
    try:
        return {"head": places[value["from_id"]], "tail": places[value["to_id"]], "relation": name}
    except KeyError as error:
        raise RefusedRow(f"has a relation with an entity {error} that it has not") from error


def label_studio_rows(row: Row, noted: Callable[[str], None]) -> list[Row]:
    """A Label Studio task: a row for each distinct annotation. Cancelled ones are skipped, and those without choices if
    others have some.
    """
    texts = [name for name, value in row["data"].items() if isinstance(value, str)]
    name = "text" if "text" in texts else texts[0] if len(texts) == 1 else None
    if name is None:
        raise RefusedRow(
            f"is a task of Label Studio with the fields {', '.join(map(repr, row['data'])) or 'none'}; name its text,"
            " as in --columns text=data.FIELD"
        )
    base: Row = {"id": row.get("id"), "text": row.get("text", row["data"][name])}
    accepted = [entry.get("result") or [] for entry in row["annotations"] if not entry.get("was_cancelled")]
    rows: list[Row] = []
    for results in accepted or [[]]:
        annotated = base | annotation_fields(results, base["text"], noted)
        if annotated not in rows:
            rows.append(annotated)
    chosen = [annotated for annotated in rows if "label" in annotated] or rows
    if len(chosen) > 1:
        noted("have annotations that differ; a row for each of them is read")
    return chosen


def annotation_fields(results: list[Row], text: Any, noted: Callable[[str], None]) -> Row:
    """The choices of one annotation of Label Studio, or its entities; and its relations."""
    spans = {result.get("id"): result["value"] for result in results if "labels" in result.get("value", {})}
    places = {key: place for place, key in enumerate(spans)}
    values: Row = {}
    if choices := [choice for result in results for choice in result.get("value", {}).get("choices", [])]:
        values["label"] = choices[0] if len(choices) == 1 else choices
    else:
        values["entities"] = parse_spans(list(spans.values()), text, noted)
    if relations := [result for result in results if result.get("type") == "relation"]:
        values["relations"] = [
            parse_relation(relation, (relation.get("labels") or ["related"])[0], places)
            for relation in relations
        ]
    return values


def prodigy_row(row: Row, noted: Callable[[str], None]) -> Row:
    """A row of Prodigy: its text and spans, without its tokens."""
    if row.get("answer", "accept") != "accept":
        return {name: value for name, value in row.items() if name not in ("tokens", "spans")}  # as it states
    rest = {name: value for name, value in row.items() if name not in ("tokens", "spans", "answer")}
    return rest | {"entities": parse_spans(row.get("spans") or [], row.get("text"), noted)}


def squad_row(row: Row) -> Row:
    """A row with one `answer` and its `answer_start`, in SQuAD's form."""
    start = to_int(row["answer_start"])
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


def spacy_row(value: list[Any]) -> Row:
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


def is_fasttext(text: TextSource) -> bool:
    """Whether the first line with content begins or ends with a label as fastText has it."""
    first = next((line for line in split_lines(text(), detect_line_end(text())) if line.strip()), "")
    words = BLANKS.split(first.strip(EDGES))
    return words[0].startswith(FASTTEXT) or words[-1].startswith(FASTTEXT)


def fasttext_rows(text: TextSource, report: Callable[[str], None]) -> Iterator[tuple[str, Row] | RowProblem]:
    """text and label of each line in fastText's form: `__label__a __label__b words`. Several labels are a list; a label
    may be anywhere and ends at a blank or tab.
    """
    joined: list[tuple[int, str]] = []
    for number, line in enumerate(split_lines(text(), detect_line_end(text())), 1):
        words = strip_line_end(line).strip(EDGES)
        labels = LABEL.findall(words)
        if "" in labels:
            yield RowProblem(f"line {number:,}", f"has {FASTTEXT} without a name after it", "no label")
        elif labels:
            joined += [(number, label) for label in labels if LABEL_SEPARATORS.search(label)]
            row = {
                "text": LABEL.sub("", words).strip(EDGES),
                "label": labels if len(labels) > 1 else labels[0],
            }
            yield f"line {number:,}", row
        elif words:
            yield RowProblem(
                f"line {number:,}", f"has no {FASTTEXT}, as the lines before it have", "no label"
            )
    if joined:
        first, label = joined[0]
        report(
            f"labels with a comma or another mark in them: {len(joined):,}, the first {label!r} in line {first:,}; a"
            f" label ends at a blank or tab, and several are written {FASTTEXT}a {FASTTEXT}b"
        )


EDGES = "\ufeff \t\v\f\0\r\n"
BLANKS = re.compile(r"[ \t\v\f\0]+")
LABEL = re.compile(rf"(?<![^ \t\v\f\0]){FASTTEXT}([^ \t\v\f\0]*)[ \t\v\f\0]*")
LABEL_SEPARATORS = re.compile("[,;|，；、\u3000\xa0]")

"""What a json file holds, and the exports of the usual annotation tools, in the fields that tasks read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

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
        yield f"entry {number}", row


def of_object(value: Row, report: Callable[[str], None]) -> Iterator[tuple[str, Any]]:
    """The rows of an object: in a list inside of it, by columns as pandas writes them, or itself."""
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


def is_list_of_objects(value: Any) -> bool:
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
    """A row of an annotation tool's export in the fields that tasks read; any other row as it is."""
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

"""Exports of the usual tools as rows (D30), json by what it holds (D12), CoNLL of every width (D6, D21, C5)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from textus.common import DataError, UsageError
from textus.records import parse_columns, read_records

ENTITIES = [{"start": 0, "end": 3, "label": "PER"}, {"start": 7, "end": 11, "label": "LOC"}]
RELATIONS = [{"head": 0, "tail": 1, "relation": "in"}]
TEXT = "Ada in Rome"
LABEL_STUDIO_RESULT = [
    {"id": "a", "type": "labels", "value": {"start": 0, "end": 3, "text": "Ada", "labels": ["PER"]}},
    {"id": "b", "type": "labels", "value": {"start": 7, "end": 11, "text": "Rome", "labels": ["LOC"]}},
    {"type": "relation", "from_id": "a", "to_id": "b", "labels": ["in"]},
]
DOCCANO = [
    {"id": 5, "label": "PER", "start_offset": 0, "end_offset": 3},
    {"id": 6, "label": "LOC", "start_offset": 7, "end_offset": 11},
]
DOCCANO_RELATIONS = [{"from_id": 5, "to_id": 6, "type": "in"}]
CHOICE = [{"type": "choices", "value": {"choices": ["good"]}}]
PRODIGY_TOKENS = [{"text": "Ada", "start": 0, "end": 3}]
QUESTION = {"question": "Who?", "context": "Ada wrote."}
ASKED = {"id": "q", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}]}
ANSWERS = {"text": ["Ada"], "answer_start": [0]}


def label_studio(data: dict[str, str], result: list[Any]) -> dict[str, Any]:
    cancelled = {"was_cancelled": True, "result": []}
    return {"id": 1, "data": data, "annotations": [cancelled, {"was_cancelled": False, "result": result}]}


def rows(path: Path, content: Any, columns: str | None = None) -> list[dict[str, Any]]:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return [record.values for record in read_records(path, parse_columns(columns))]


@pytest.mark.parametrize(
    ("name", "content", "columns", "expected"),
    [
        (
            "label-studio.json", [label_studio({"text": TEXT}, LABEL_STUDIO_RESULT)], None,
            [{"id": 1, "text": TEXT, "entities": ENTITIES, "relations": RELATIONS}],
        ),
        (
            "choices.json", [label_studio({"review": TEXT}, CHOICE)], None,
            [{"id": 1, "text": TEXT, "label": "good"}],
        ),
        (
            "json-min.json", [{"id": 1, "text": TEXT, "label": [{"start": 0, "end": 3, "labels": ["PER"]}]}], None,
            [{"id": 1, "text": TEXT, "entities": ENTITIES[:1]}],
        ),
        (
            "doccano.jsonl",
            {"id": 1, "text": TEXT, "entities": DOCCANO, "relations": DOCCANO_RELATIONS, "Comments": []}, None,
            [{"id": 1, "text": TEXT, "relations": RELATIONS, "entities": ENTITIES}],
        ),
        ("old.jsonl", {"text": TEXT, "label": [[0, 3, "PER"]]}, None, [{"text": TEXT, "label": [[0, 3, "PER"]]}]),
        (
            "spacy.json", {"classes": ["PER"], "annotations": [[TEXT, {"entities": [[0, 3, "PER"]]}], None]}, None,
            [{"text": TEXT, "entities": [[0, 3, "PER"]]}],
        ),
        ("cats.json", [[TEXT, {"cats": {"a": 1.0, "b": 0.0}}]], None, [{"text": TEXT, "label": "a"}]),
        (
            "prodigy.jsonl",
            {"text": TEXT, "tokens": PRODIGY_TOKENS, "spans": ENTITIES[:1], "answer": "accept"}, None,
            [{"text": TEXT, "entities": ENTITIES[:1]}],
        ),
        (
            "fasttext.txt", "__label__pos a film\n\n__label__neg __label__old b\n", None,
            [{"text": "a film", "label": "pos"}, {"text": "b", "label": ["neg", "old"]}],
        ),
        (
            "jigsaw.csv", "comment,toxic,rude\nhi,0,0\nyou,1,1.0\n", "text=comment,label=toxic+rude",
            [
                {"text": "hi", "toxic": "0", "rude": "0", "label": []},
                {"text": "you", "toxic": "1", "rude": "1.0", "label": ["toxic", "rude"]},
            ],
        ),
        *(
            (
                "pairs.jsonl", {"translation": {"en": "a", "de": "b"}}, columns,
                [{"translation": {"en": "a", "de": "b"}, "source": "a", "target": "b"}],
            )
            for columns in ("source=en,target=de", "source=translation.en,target=translation.de")
        ),
        (
            "squad.json", [{"paragraphs": [{"context": "Ada wrote.", "qas": [ASKED]}]}], None,
            [{**QUESTION, "id": "q", "title": None, "answers": ANSWERS}],
        ),
        (
            "answer.csv", "question,context,answer,answer_start\nWho?,Ada wrote.,Ada,0\n", None,
            [{**QUESTION, "answers": ANSWERS}],
        ),
        ("one.json", json.dumps({"text": "a", "label": "b"}, indent=2), None, [{"text": "a", "label": "b"}]),
        ("lines.json", '{"text": "a"}\n{"text": "b"}\n', None, [{"text": "a"}, {"text": "b"}]),
        ("pretty.json", '{\n "text": "a"\n}\n{\n "text": "b"\n}\n', None, [{"text": "a"}, {"text": "b"}]),
        ("inside.json", {"version": 1, "rows": [{"text": "a"}]}, None, [{"text": "a"}]),
        (
            "pandas.json", {"text": {"0": "a", "1": "b"}, "label": {"0": 1, "1": 0}}, None,
            [{"text": "a", "label": 1}, {"text": "b", "label": 0}],
        ),
    ],
)  # fmt: skip
def test_exports_are_read(
    tmp_path: Path, name: str, content: Any, columns: str | None, expected: list[dict[str, Any]]
) -> None:
    assert rows(tmp_path / name, content, columns) == expected


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        (
            "a.json",
            [label_studio({"a": "x", "b": "y"}, [])],
            r"name its text, as in --columns text=data\.FIELD",
        ),
        ("a.json", ["one", "two"], "entry 0 is str, not an object"),
        ("a.json", "nothing", "is not JSON"),
        ("a.json", "3", "neither a list of objects nor"),
        ("a.txt", "__label__a one\ntwo\n", "line 2 has no __label__"),
        (
            "a.jsonl",
            {"text": "x", "entities": DOCCANO[:1], "relations": [{"from_id": 5, "to_id": 9, "type": "in"}]},
            "a relation with an entity 9",
        ),
    ],
)
def test_what_is_no_export_is_refused_by_name(
    tmp_path: Path, name: str, content: Any, complaint: str
) -> None:
    with pytest.raises(DataError, match=complaint):
        rows(tmp_path / name, content)


UD = (
    "# sent_id = s1\n# text = Im Haus\n1-2\tIm\t_\t_\t_\t_\t_\t_\t_\t_\n1\tIn\tin\tADP\tAPPR\t_\t0\tdep\t_\t_\n"
    "2\tdem\tder\tDET\tART\t_\t0\tdep\t_\t_\n2.1\t_\t_\t_\t_\t_\t_\t_\t_\t_\n3\tHaus\tHaus\tNOUN\tNN\t_\t0\tdep\t_\t_\n\n"
)
GERMAN = ["In", "dem", "Haus"]


@pytest.mark.parametrize(
    ("content", "columns", "tokens", "tags", "reported"),
    [
        (UD, None, GERMAN, ["ADP", "DET", "NOUN"], "CoNLL-U: column 1 (FORM) is the token, column 3 (UPOS)"),
        (UD.replace("2.1\t_", "2.1\tx"), None, GERMAN, ["ADP", "DET", "NOUN"], "2 lines of CoNLL-U that are no word"),
        ("1 EU NNP B-ORG\n2 left VBD O\n", None, ["EU", "left"], ["B-ORG", "O"], "column 1 is the token, column 3"),
        ("1 EU NNP B-ORG\n2 left VBD O\n", "1=tokens,2=tags", ["EU", "left"], ["NNP", "VBD"], ""),
        ("EU NNP B-NP B-ORG 5 0.9\nleft VBD B-VP O 6 1\n", None, ["EU", "left"], ["B-ORG", "O"], "column 3"),
        (
            "pay\tO\n25\xa0000\tB-NUM\nNew York\tB-LOC\n", None,
            ["pay", "25\xa0000", "New York"], ["O", "B-NUM", "B-LOC"], "",
        ),
        ("王\tB-PER\n\u3000\tO\n去\tO\n", None, ["王", "去"], ["B-PER", "O"], "1 line has a token of blanks"),
        ("25\xa0000 B-NUM\n。 O\n", None, ["25\xa0000", "。"], ["B-NUM", "O"], ""),
        ("#tag O\nAnna B-PER\n", None, ["#tag", "Anna"], ["O", "B-PER"], ""),
        ("# id 5 of 9\nAnna _ B-PER\nran _ O\n", None, ["Anna", "ran"], ["B-PER", "O"], "1 lines that begin with #"),
    ],
)  # fmt: skip
def test_conll_columns_of_every_form(
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    content: str,
    columns: str | None,
    tokens: list[str],
    tags: list[str],
    reported: str,
) -> None:
    """D6, D21, C5."""
    assert rows(tmp_path / "a.conll", content, columns) == [{"tokens": tokens, "tags": tags}]
    assert reported in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("In 1999 Anna left Rome .\nThen Boris saw Oslo .\n", "not CoNLL columns: line 2 has 5 columns"),
        ("Anna left Rome .\nThen Boris saw .\n", "not CoNLL columns: line 1"),
        ("This is a film.\n", "not CoNLL columns: line 1"),
        ("Good film\nbad movie\n", "not CoNLL columns: line 1"),
        ("喜欢这部电影\n不喜欢\n", "line 1 has one column"),
        ("EU NNP B-ORG\nleft VBD\nBonn NNP B-LOC\n", r"line 2 has 2 columns \('left VBD'\), most lines 3"),
        ("EU\tB-ORG\nleft\t\nBonn\tB-LOC\n", r"line 2 has no tag"),
    ],
)
def test_what_is_no_conll_is_refused_by_its_line(tmp_path: Path, content: str, complaint: str) -> None:
    """D9: prose is not trained on. A line without its column is not tagged with another's."""
    with pytest.raises(DataError, match=complaint):
        rows(tmp_path / "a.txt", content)


def test_a_column_that_conll_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--columns 4=tags: the lines have 2 columns"):
        rows(tmp_path / "a.txt", "Anna B-PER\n", "0=tokens,4=tags")

"""Exports of the usual tools as rows (D30), json by what it holds (D12), CoNLL of every width (D6, D21, C5)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from raising import raises

from textus.core.errors import DataError, UsageError
from textus.data.corpus.tables import parse_columns
from textus.data.labeled import stream_records

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
NO_ANSWER: dict[str, list[Any]] = {"text": [], "answer_start": []}


def label_studio(data: dict[str, str], result: list[Any]) -> dict[str, Any]:
    cancelled = {"was_cancelled": True, "result": []}
    return {"id": 1, "data": data, "annotations": [cancelled, {"was_cancelled": False, "result": result}]}


def spans(*values: tuple[int, int, str, list[str]]) -> list[Any]:
    names = ("start", "end", "text", "labels")
    return [
        {"type": "labels", "id": str(n), "value": dict(zip(names, v, strict=True))}
        for n, v in enumerate(values)
    ]


def rows(path: Path, content: Any, columns: str | None = None) -> list[dict[str, Any]]:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return [record.values for record in stream_records(path, parse_columns(columns))]


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
            "tabs.txt", "__label__pos\tgood  film\n__label__neg\t__label__old \tan\tawful one\n", None,
            [{"text": "good  film", "label": "pos"}, {"text": "an\tawful one", "label": ["neg", "old"]}],
        ),
        (
            "last.txt", "good film __label__pos\nan __label__old one\t__label__neg\n", None,
            [{"text": "good film", "label": "pos"}, {"text": "an one", "label": ["old", "neg"]}],
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
        *(
            (
                "gaps.csv",
                f"question,context,answer,answer_start\nWho?,Ada wrote.,Ada,{start}\nWhy?,Ada wrote.,,\n", None,
                [{**QUESTION, "answers": ANSWERS}, {**QUESTION, "question": "Why?", "answers": NO_ANSWER}],
            )
            for start in ("0.0", " 0 ")
        ),
        ("gaps.jsonl", {**QUESTION, "answer": "Ada", "answer_start": 0.0}, None, [{**QUESTION, "answers": ANSWERS}]),
        (
            "answers.jsonl", {**QUESTION, "answers": {"text": ["Ada"], "answer_start": [0.0]}}, None,
            [{**QUESTION, "answers": ANSWERS}],
        ),
        (
            "split.json", {"columns": ["text", "label"], "index": [0, 1], "data": [["a", 1], ["b", 0]]}, None,
            [{"text": "a", "label": 1}, {"text": "b", "label": 0}],
        ),
        ("head.txt", "text\tlabel\ngood film\t1\n", None, [{"text": "good film", "label": "1"}]),
        ("head.txt", "Review\tid\ngood\t1\n", "text=Review", [{"text": "good", "id": "1"}]),
        ("conll.txt", "text\tlabel\nAnna\tPER\n\n", None, [{"tokens": ["Anna"], "tags": ["PER"]}]),
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
    result = rows(tmp_path / name, content, columns)
    assert json.dumps(result, sort_keys=True) == json.dumps(expected, sort_keys=True)  # 0.0 is not 0


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        (
            "a.json",
            [label_studio({"a": "x", "b": "y"}, [])],
            ("unreadable_rows", "--columns", "text=data.FIELD"),
        ),
        (
            "a.json",
            [label_studio({"text": TEXT}, spans((6, 10, "Rome", ["LOC"])))],
            ("unreadable_rows", "entry 0", "'Rome'"),
        ),
        (
            "a.json",
            [label_studio({"text": TEXT}, spans((0, 3, "Ada", [])))],
            ("unreadable_rows", "entry 0"),
        ),
        (
            "a.jsonl",
            {"text": TEXT, "entities": [{"start_offset": 0, "end_offset": 3, "label": None}]},
            ("unreadable_rows", "line 1", "0"),
        ),
        ("a.json", ["one", "two"], ("unreadable_rows", "entry 0")),
        ("a.json", "nothing", ("malformed_json",)),
        ("a.json", "3", ("malformed_json",)),
        ("a.txt", "__label__a one\n__label__ two\n", ("unreadable_rows", "line 2")),
        ("a.txt", "__label__a one\ntwo\n", ("unreadable_rows", "line 2")),
        (
            "a.jsonl",
            {"text": "x", "entities": DOCCANO[:1], "relations": [{"from_id": 5, "to_id": 9, "type": "in"}]},
            ("unreadable_rows", "9"),
        ),
    ],
)
def test_what_is_no_export_is_refused_by_name(
    tmp_path: Path, name: str, content: Any, complaint: tuple[str, ...]
) -> None:
    with raises(DataError, *complaint):
        rows(tmp_path / name, content)


ASTRAL = "\U0001f4a9安娜0去了罗马城"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", [label_studio({"text": ASTRAL}, spans((2, 4, "安娜", ["PER"]), (7, 9, "罗马", ["LOC"])))]),
        (
            "min.json",
            [{"text": ASTRAL, "label": [
                {"start": 2, "end": 4, "text": "安娜", "labels": ["PER"]}, {"start": 7, "end": 9, "labels": ["LOC"]},
            ]}],
        ),
        (
            "prodigy.jsonl",
            {"text": ASTRAL, "tokens": PRODIGY_TOKENS, "spans": [
                {"start": 2, "end": 4, "text": "安娜", "label": "PER"}, {"start": 7, "end": 9, "label": "LOC"},
            ]},
        ),
        (
            "own.jsonl",
            {"text": ASTRAL, "entities": [
                {"start": 2, "end": 4, "text": "安娜", "label": "PER"}, {"start": 7, "end": 9, "label": "LOC"},
            ]},
        ),
    ],
)  # fmt: skip
def test_places_in_units_of_utf16_are_read_as_characters_where_the_text_of_a_span_shows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture, name: str, content: Any
) -> None:
    """JavaScript counts the emoji as two: 7 to 9 is 罗马, not 马城."""
    [row] = rows(tmp_path / name, content)
    held = [(ASTRAL[span["start"] : span["end"]], span["label"]) for span in row["entities"]]
    assert held == [("安娜", "PER"), ("罗马", "LOC")]
    assert "count units of UTF-16" in capsys.readouterr().err


def test_places_in_characters_stay_where_the_text_of_the_spans_agrees(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    text = "\U0001f4a9 New\nYork"
    given = spans((2, 10, "New\\nYork", ["LOC"]))
    [row] = rows(tmp_path / "a.json", [label_studio({"text": text}, given)])
    assert row["entities"] == [{"start": 2, "end": 10, "label": "LOC"}]
    assert not capsys.readouterr().err


def test_annotators_who_differ_give_a_row_each(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """So the check for contradictions sees them; who agrees is not counted twice, an empty annotation is none."""

    def task(*labels: str) -> dict[str, Any]:
        results = [[{"value": {"choices": [label]}}] if label else [] for label in labels]
        return {"data": {"text": TEXT}, "annotations": [{"result": result} for result in results]}

    actual = rows(tmp_path / "a.json", [task("pos", "pos", ""), task("pos", "neg", "pos")])
    assert [row["label"] for row in actual] == ["pos", "pos", "neg"]
    err = capsys.readouterr().err
    assert "have annotations that differ; a row for each of them is read: 1, the first entry 1" in err


def test_an_entity_with_several_labels_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    given = [label_studio({"text": TEXT}, spans((0, 3, "Ada", ["PER", "HUMAN"])))]
    assert rows(tmp_path / "a.json", given)[0]["entities"] == ENTITIES[:1]
    assert "entities with several labels; the first of them is read" in capsys.readouterr().err


def test_a_label_of_fasttext_with_a_mark_in_it_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """fastText ends a label at white space alone."""
    assert rows(tmp_path / "a.txt", "__label__体育 跑\n__label__财经,世界 VR\n")[1]["label"] == "财经,世界"
    assert ": 1, the first '财经,世界' in line 2; a label ends" in capsys.readouterr().err


UD = (
    "# sent_id = s1\n# text = Im Haus\n1-2\tIm\t_\t_\t_\t_\t_\t_\t_\t_\n1\tIn\tin\tADP\tAPPR\t_\t0\tdep\t_\t_\n"
    "2\tdem\tder\tDET\tART\t_\t0\tdep\t_\t_\n2.1\t_\t_\t_\t_\t_\t_\t_\t_\t_\n3\tHaus\tHaus\tNOUN\tNN\t_\t0\tdep\t_\t_\n\n"
)
GERMAN = ["In", "dem", "Haus"]


@pytest.mark.promise(
    "Robustness",
    "Exports of annotation tools are read, or refused by name; prose is not trained on as CoNLL",
)
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
        (
            "# id 8a-1\tdomain=en\nAnna _ _ B-PER\nran _ _ O\n", "0=tokens,3=tags",
            ["Anna", "ran"], ["B-PER", "O"], "1 lines that begin with #",
        ),
        ("# id 8a-1\tdomain=en\nAnna\tB-PER\nran\tO\n", None, ["Anna", "ran"], ["B-PER", "O"], "1 lines that begin"),
        ("Anna\tB-PER\t\nran\tO\n", None, ["Anna", "ran"], ["B-PER", "O"], ""),
        ("# doc1\nAnna B-PER\nran O\n", None, ["Anna", "ran"], ["B-PER", "O"], "1 lines that begin with #"),
        ("#\tSYM\nAnna\tPROPN\n", None, ["#", "Anna"], ["SYM", "PROPN"], ""),
        ("# _ SYM\nAnna _ SYM\n", "0=tokens,2=tags", ["#", "Anna"], ["SYM", "SYM"], ""),
        ("token\tpos\nAnna\tPROPN\n", None, ["Anna"], ["PROPN"], "line 1 'token pos' is a header"),
        ("Word Tag\n\nAnna B-PER\nWord O\n", None, ["Anna", "Word"], ["B-PER", "O"], "line 1 'Word Tag' is a header"),
        (
            "id\tform\tlemma\tner\n1\tAnna\tAnna\tB-PER\n2\tran\trun\tO\nid\tform\tlemma\tner\n", None,
            ["Anna", "ran"], ["B-PER", "O"], "is a header and is left out (2 such lines)",
        ),
        ("word,x\tpos\n词\t标签\n", None, ["word,x", "词"], ["pos", "标签"], ""),
        ("Word\tpos\nAnna\tpos\nran\tneg\n", None, ["Word", "Anna", "ran"], ["pos", "pos", "neg"], ""),
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
        ("In 1999 Anna left Rome .\nThen Boris saw Oslo .\n", ("malformed_table", "2", "5")),
        ("Anna left Rome .\nThen Boris saw .\n", ("malformed_table", "1")),
        ("This is a film.\n", ("malformed_table", "1")),
        ("Good film\nbad movie\n", ("malformed_table", "1")),
        ("喜欢这部电影\n不喜欢\n", ("malformed_table", "1")),
        ("EU NNP B-ORG\nleft VBD\nBonn NNP B-LOC\n", ("unreadable_rows", "line 2")),
        ("EU\tB-ORG\nleft\t\nBonn\tB-LOC\n", ("unreadable_rows", "line 2")),
    ],
)
def test_what_is_no_conll_is_refused_by_its_line(
    tmp_path: Path, content: str, complaint: tuple[str, ...]
) -> None:
    """D9: prose is not trained on. A line without its column is not tagged with another's."""
    with raises(DataError, *complaint):
        rows(tmp_path / "a.txt", content)


def test_a_column_that_conll_has_not_is_refused(tmp_path: Path) -> None:
    with raises(UsageError, "column_not_found", "4", "tags", "2"):
        rows(tmp_path / "a.txt", "Anna B-PER\n", "0=tokens,4=tags")

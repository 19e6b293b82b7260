"""Labelled data of every form as rows; what cannot be read is named with its line."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
from raising import raises

from textus.core.errors import DataError, UsageError
from textus.data.corpus.dialects import RowProblem
from textus.data.corpus.tables import parse_columns
from textus.data.labeled import stream_records

ROWS = [{"text": '好看，"真的"', "label": "1"}, {"text": "dull, long", "label": "0"}]


def values(path: Path, columns: str | None = None) -> list[dict[str, object]]:
    return [record.values for record in stream_records(path, parse_columns(columns))]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.promise(
    "Tasks",
    "Labelled rows are the same from csv, tsv, jsonl, json, parquet, CoNLL, SQuAD, folders and "
    "archives; what cannot be read is named with its line",
)
def test_tables_and_json_lines_hold_the_same_rows(tmp_path: Path) -> None:
    csv = write(tmp_path / "a.csv", 'text,label\n"好看，""真的""",1\n"dull, long",0\n')
    tsv = write(tmp_path / "a.tsv", 'text\tlabel\n好看，"真的"\t1\ndull, long\t0\n')
    jsonl = write(tmp_path / "a.jsonl", "\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    whole = write(tmp_path / "a.json", json.dumps(ROWS, ensure_ascii=False))
    packed = tmp_path / "a.tsv.gz"
    packed.write_bytes(gzip.compress(tsv.read_bytes()))
    gb = tmp_path / "gb.csv"
    gb.write_bytes(csv.read_bytes().decode().encode("gb18030"))
    for path in (csv, tsv, jsonl, whole, packed, gb):
        assert values(path) == ROWS, path


def test_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert values(tmp_path / "a.parquet") == ROWS
    write(tmp_path / "b.parquet", "no table")
    with raises(DataError, "unreadable_file", "b.parquet"):
        values(tmp_path / "b.parquet")


def test_columns_by_name_and_by_place(tmp_path: Path) -> None:
    named = write(tmp_path / "a.csv", "review,stars,id\ngood,5,a\n")
    assert values(named, "text=review,label=stars") == [{"text": "good", "label": "5", "id": "a"}]
    bare = write(tmp_path / "a.txt", "good film\t5\nbad film\t1\n")
    assert values(bare, "0=text,1=label") == [
        {"text": "good film", "label": "5"}, {"text": "bad film", "label": "1"}
    ]  # fmt: skip
    with raises(DataError, "column_not_found", "a.csv", "'revue'", "'id'"):
        values(named, "text=revue")


@pytest.mark.parametrize(
    ("spelled", "complaint"),
    [
        ("text", ("invalid_value", "'text'")),
        ("=a", ("invalid_value",)),
        ("0=text,label=b", ("conflicting_options",)),
    ],
)
def test_columns_without_information_are_refused(spelled: str, complaint: tuple[str, ...]) -> None:
    with raises(UsageError, *complaint):
        parse_columns(spelled)


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    for label, text in (("neg", "dull"), ("pos", "grand")):
        write(tmp_path / "films" / label / "1.txt", text)
    expected = [{"text": "dull", "label": "neg"}, {"text": "grand", "label": "pos"}]
    assert values(tmp_path / "films") == expected
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
        for row in expected:
            archive.writestr(f"films/{row['label']}/1.txt", row["text"])
    assert values(tmp_path / "films.zip") == expected


def test_a_table_in_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "shop.zip", "w") as archive:
        archive.writestr("shop.csv", "cat,label,review\nbooks,1,好看\n")
    assert values(tmp_path / "shop.zip", "text=review") == [{"cat": "books", "label": "1", "text": "好看"}]


def test_conll_columns(tmp_path: Path) -> None:
    text = "-DOCSTART- -X- O O\n\nEU B-ORG 0\nrejects O 0\n\nGerman NNP B-MISC\n"
    path = write(tmp_path / "train.txt", text)
    records = list(stream_records(path))
    assert [record.values for record in records] == [
        {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]}, {"tokens": ["German"], "tags": ["B-MISC"]}
    ]  # fmt: skip
    assert [record.where.rpartition(": ")[2] for record in records] == ["line 3", "line 6"]
    write(path, "EU B-ORG\nrejects\n")
    with raises(DataError, "unreadable_rows", "line 2"):
        list(stream_records(path))


def test_squad_json(tmp_path: Path) -> None:
    qas = [
        {"id": "q1", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}]},
        {"id": "q2", "question": "When?"},
    ]
    data = {"data": [{"title": "T", "paragraphs": [{"context": "Ada wrote.", "qas": qas}]}]}
    first, second = values(write(tmp_path / "a.json", json.dumps(data)))
    assert first == {
        "question": "Who?", "context": "Ada wrote.", "id": "q1", "title": "T",
        "answers": {"text": ["Ada"], "answer_start": [0]},
    }  # fmt: skip
    assert second["answers"] == {"text": [], "answer_start": []}
    with raises(DataError, "malformed_json"):
        values(write(tmp_path / "b.json", json.dumps({"data": [{"title": "T", "paragraphs": [{}]}]})))


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.csv", "text,label\na,b,c\n", ("unreadable_rows", "line 2", "3")),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', ("unreadable_rows", "line 2")),
        ("a.jsonl", "[1]\n", ("unreadable_rows", "line 1")),
        ("a.json", '"text"', ("malformed_json",)),
        ("a.csv", "text,label\n", ("empty_data",)),
        ("a.txt", "\n\n", ("empty_data",)),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, name: str, text: str, complaint: tuple[str, ...]
) -> None:
    with raises(DataError, *complaint) as caught:
        list(stream_records(write(tmp_path / name, text)))
    assert str(tmp_path / name) in str(caught.value)


def test_a_file_that_is_missing() -> None:
    with raises(DataError, "not_found", "nowhere.csv"):
        list(stream_records(Path("nowhere.csv")))


# ── dialects ───────────────────────────────────────────────────────────────────────────────────


SWALLOWED = 'text,label\na,1\n"b,1\nc,0\nd,1\ne,0\nf",1\n'


@pytest.mark.parametrize(
    ("name", "text", "expected", "reported"),
    [
        ("a.csv", "text;label\nGut, aber teuer;1\nMies;0\n", ["Gut, aber teuer", "Mies"], "by semicolon, not by"),
        ("a.csv", "text\tlabel\na, b\t1\n", ["a, b"], "separated by tab, not by comma"),
        ("a.tsv", 'text,label\n"a, b",1\n', ["a, b"], "separated by comma, not by tab"),
        ("a.csv", "text|label\na|1\n", ["a"], "separated by bar"),
        ("a.csv", 'text,label\n"\\"yes, really\\"",1\nC:\\new,0\n', ['"yes, really"', "C:\\new"], "by a backslash"),
        ("a.csv", 'label, text\n1, "a, b"\n0, c\n', ["a, b", "c"], "a blank follows each comma"),
        ("a.csv", "text,label\ra,1\rb,0\r", ["a", "b"], ""),
        ("a.csv", "text,label\r\na,1\r\n\r\nb,0\r\n", ["a", "b"], ""),
        ("a.csv", "\ufefftext , label\na,1\n", ["a"], ""),
        ("a.csv", 'text,label\n"two\nlines",1\n', ["two\nlines"], ""),
        ("a.csv", "text,label\na,1\ntext,label\nb,0\n", ["a", "b"], "line 3 is the header again and is left out"),
        ("a.csv", ",text,label\n0,a,1\n", ["a"], ""),
        ("a.csv", "Text,LABEL\na,1\n", ["a"], "column 'Text' is taken for 'text'"),
        ("a.csv", "sep=;\ntext;label\na, b;1\n", ["a, b"], "line 1 (sep=;) is no row"),
        ("a.csv", "\ufeff\"sep=\t\"\r\ntext\tlabel\r\na, b\t1\r\n", ["a, b"], "is no row"),
        ("a.csv", "SEP=,\ntext,label\n\"sep=;\",1\n", ["sep=;"], "is no row"),
        ("a.tsv", "sep=|\ntext|label\na\tb|1\n", ["a\tb"], "is no row"),
        ("a.csv", SWALLOWED, ["a", "b,1\nc,0\nd,1\ne,0\nf"], "rows by themselves: 1, the first from line 3 to line 7;"),
        ("a.csv", 'text,label\n"a\nb, c\nd\ne\nf, g",1\n', ["a\nb, c\nd\ne\nf, g"], ""),
        ("a.tsv", 'text\tlabel\n"She said ""hi"""\t1\n', ['She said "hi"'], "1 field begins with a quote"),
        ("a.tsv", 'text\tlabel\n"quoted" word\t1\n"b"\t0\n', ['"quoted" word', '"b"'], "read as they are"),
        ("a.tsv", 'text\tlabel\n5" pipe\t1\n', ['5" pipe'], ""),
        ("a.tsv", 'text\tlabel\n"a \\"b\\""\t1\n', ['a "b"'], "read without the quotes, those inside escaped"),
        ("a.tsv", 'text\tlabel\na \\"b\t1\n', ['a \\"b'], "1 quote follows a backslash: read as they are"),
    ],
)  # fmt: skip
def test_dialects_of_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture, name: str, text: str, expected: list[str], reported: str
) -> None:
    """D3, D15, D23, D26, D29, U2: read as what they are, and what was guessed is one line."""
    (tmp_path / name).write_bytes(text.encode())
    result = values(tmp_path / name)
    assert [row["text"] for row in result] == expected
    assert all(row["label"] in ("0", "1") for row in result)
    err = capsys.readouterr().err
    assert reported in err
    assert bool(reported) == bool(err)


def test_a_delimiter_that_is_given(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text~label\na, b~1\n")
    assert next(stream_records(path, delimiter="~")).values == {"text": "a, b", "label": "1"}
    with raises(UsageError, "invalid_value", "'semicolon'"):
        list(stream_records(path, delimiter="semicolo"))
    with raises(UsageError, "invalid_value"):
        list(stream_records(path, delimiter='"'))


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.csv", "text,label\na,b,c\nd,1\n\ne\n", ("unreadable_rows", "line 2", "3", "1")),
        ("a.csv", 'text,label\nd,1\n"never closed,1\nmore,2\n', ("malformed_table", "3")),
        ("a.csv", 'text,label\n"a"b,1\nc,0\n', ("unreadable_rows", "line 2")),
        ("a.csv", "text,text,label\na,b,1\n", ("duplicate_column", "1", "2", "'text'")),
        ("a.tsv", 'text\tlabel\na\t1\n"b\t1\nc"\t0\n', ("malformed_table", "3")),
        ("a.jsonl", '{"text": "a"}\n{"text": "b", "text": "c"}\n', ("unreadable_rows", "line 2", "'text'")),
        ("a.jsonl", '{"text": "a", "answers": [{"start": 1, "start": 2}]}\n', ("unreadable_rows", "line 1", "'start'")),
        ("a.json", '[{"text": "a"}, {"text": "b", "text": "c"}]', ("unreadable_rows", "entry 1", "'text'")),
        ("a.json", '{"text": "a", "data": [{"text": "b"}], "data": []}', ("malformed_json", "'data'")),
        ("a.json", '{"text": "b"}\n{"text": "b", "": 1, "": 2}\n', ("unreadable_rows", "line 2", "''")),
        ("a.json", '{\n"text": "b"}\n{"text": "b", "text": 1}\n', ("unreadable_rows", "entry 1", "'text'")),
        ("a.jsonl", '{"text": 1' + "0" * 5000 + "}\n", ("unreadable_rows", "line 1")),
        ("a.html", "<p>page</p>", ("unsupported_format",)),
    ],
)  # fmt: skip
def test_what_breaks_the_dialect_is_refused_by_its_line(
    tmp_path: Path, name: str, text: str, complaint: tuple[str, ...]
) -> None:
    with raises(DataError, *complaint):
        list(stream_records(write(tmp_path / name, text)))


def test_all_bad_rows_can_be_collected(tmp_path: Path) -> None:
    """D24: every bad row of a file with its line, reason and kind; the others are read."""
    problems: list[RowProblem] = []
    path = write(tmp_path / "a.csv", 'text,label\na,1\nb,1,2\n"c"d,1\ne,0\nf\n')
    records = list(stream_records(path, problems=problems))
    assert [record.where for record in records] == [f"{path}: line 2", f"{path}: line 5"]
    assert [(problem.where, problem.kind) for problem in problems] == [
        (f"{path}: line 3", "number of columns"), (f"{path}: line 4", "quotes"),
        (f"{path}: line 6", "number of columns"),
    ]  # fmt: skip
    lines = write(tmp_path / "a.jsonl", '{"text": "a"}\n[1]\n{"text"\n')
    problems.clear()
    assert len(list(stream_records(lines, problems=problems))) == 1
    assert [problem.kind for problem in problems] == ["not an object", "not JSON"]


def test_a_field_of_any_length(tmp_path: Path) -> None:
    """D15, C4: Python's own limit is 131,072."""
    long = "word " * 60_000
    assert values(write(tmp_path / "a.csv", f'text,label\n"{long}",1\n'))[0]["text"] == long


def test_a_text_of_control_characters_is_refused_by_what_they_are(tmp_path: Path) -> None:
    with raises(DataError, "not_text"):
        list(stream_records(write(tmp_path / "a.csv", "text,label\n" + "good \x0bfilm \x1c,1\n" * 60)))


def test_an_archive_with_a_password_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.csv", "text,label\na,1\n")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + flags] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with raises(DataError, "unreadable_file"):
        list(stream_records(tmp_path / "a.zip"))


# ── columns ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise("Robustness", "A column that was named wins, wherever it is")
@pytest.mark.parametrize(
    "order", [("review", "text", "label"), ("text", "review", "label"), ("label", "text", "review")]
)
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json"])
def test_a_column_that_was_named_wins(
    tmp_path: Path, capsys: pytest.CaptureFixture, order: tuple[str, ...], kind: str
) -> None:
    """D5: wherever it is in the file; the column with the field's own name is not used, and that is reported."""
    row = {name: {"review": "good", "text": "ID-1", "label": "1"}[name] for name in order}
    comma = "\t" if kind == "tsv" else ","
    text = {
        "jsonl": json.dumps(row), "json": json.dumps([row])
    }.get(kind, f"{comma.join(row)}\n{comma.join(row.values())}\n")  # fmt: skip
    assert values(write(tmp_path / f"a.{kind}", text), "text=review") == [{"text": "good", "label": "1"}]
    assert "column 'text' is not used: text is column 'review'" in capsys.readouterr().err


def test_columns_are_matched_without_case(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write(tmp_path / "a.csv", "Review,Stars\ngood,5\n")
    assert values(path, "text=review,label=stars") == [{"text": "good", "label": "5"}]
    assert "column 'Review' is taken for 'review'" in capsys.readouterr().err
    two = write(tmp_path / "b.csv", "Text,TEXT,text\na,b,c\n")
    assert values(two) == [{"Text": "a", "TEXT": "b", "text": "c"}]
    with raises(UsageError, "duplicate_column", "'text'"):
        parse_columns("text=a,text=b")


@pytest.mark.parametrize(
    ("first", "expected"), [("text,label", 1), ("review,stars", 1), ("a text,label", 1), ("fine,0", 2)]
)
def test_a_header_where_columns_are_positions(
    tmp_path: Path, capsys: pytest.CaptureFixture, first: str, expected: int
) -> None:
    """D29."""
    result = values(write(tmp_path / "a.csv", f"{first}\ngood,1\n"), "0=text,1=label")
    assert len(result) == expected
    assert ("line 1 (" in capsys.readouterr().err) == (expected == 1)


def test_a_position_beyond_the_columns_is_refused(tmp_path: Path) -> None:
    with raises(DataError, "column_not_found", "2", "line 1", "0"):
        values(write(tmp_path / "a.tsv", "a\tb\n"), "0=text,2=label")


# ── folders ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise("Robustness", "A folder of classes is what scikit-learn's `load_files` reads")
def test_a_folder_for_each_class_reads_any_suffix_and_reports_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """D4, C3: as scikit-learn's load_files; what is left out is reported with a count and the first name."""
    for name in ("neg/1.txt", "neg/2", "pos/3.eml", "pos/4.5", "pos/deep/5.txt"):
        write(tmp_path / "in" / name, name)
    write(tmp_path / "in" / "README.txt", "about")
    (tmp_path / "in" / "pos" / "photo.png").write_bytes(b"\x89PNG\0\0\0\0")
    (tmp_path / "in" / "pos" / ".hidden").write_text("x")
    expected = [{"text": name, "label": name[:3]} for name in ("neg/1.txt", "neg/2", "pos/3.eml", "pos/4.5")]
    assert values(tmp_path / "in") == expected
    err = capsys.readouterr().err
    assert f"left out, not in a folder of a class: 2, the first {tmp_path / 'in' / 'README.txt'}" in err
    assert f"left out, unreadable: 1, the first {tmp_path / 'in' / 'pos' / 'photo.png'} (binary)" in err
    assert "left out, hidden: 1" in err
    from sklearn.datasets import load_files

    (tmp_path / "in" / "pos" / "photo.png").unlink()
    (tmp_path / "in" / "pos" / ".hidden").unlink()
    shutil.rmtree(tmp_path / "in" / "pos" / "deep")
    theirs = load_files(tmp_path / "in", encoding="utf-8", shuffle=False)
    pairs = {
        (text, theirs.target_names[label]) for text, label in zip(theirs.data, theirs.target, strict=True)
    }
    assert pairs == {(row["text"], row["label"]) for row in expected}


def test_texts_next_to_tables_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write(tmp_path / "in" / "a.csv", "text,label\na,1\n")
    write(tmp_path / "in" / "README.txt", "about")
    assert values(tmp_path / "in") == [{"text": "a", "label": "1"}]
    assert "left out, a text next to tables or outside of any class: 1" in capsys.readouterr().err


# ── repair ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["csv", "jsonl", "folder", "conll"])
def test_broken_characters_are_replaced_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture, kind: str
) -> None:
    """D1: no lone surrogate comes out of the reader, whatever it is read from."""
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        path.write_bytes("text,label\n餐厅很好,0\n".encode() + b"caf\xe9 x,1\n")
    elif kind == "jsonl":
        path.write_text('{"text": "fine", "label": "0"}\n{"text": "caf\\ud83d x", "label": "1"}\n')
    elif kind == "conll":
        path.write_bytes("餐厅很好 O\n\n".encode() + b"caf\xe9 O\nx O\n")
    else:
        for label, text in (("0", "餐厅".encode()), ("1", "餐厅".encode() + b"caf\xe9 x")):
            (path / label).mkdir(parents=True)
            (path / label / "1.txt").write_bytes(text)
    last = values(path)[-1]
    text = str(last.get("text") or " ".join(last.get("tokens") or ()))  # type: ignore[call-overload]
    assert text.removeprefix("餐厅") == "caf\ufffd x"
    assert "1 broken character was replaced by U+FFFD, the first in " in capsys.readouterr().err


NFD = "Zoe\u0308 saw Malaga\u0301 \udce9\udce9 and Zoe\u0308"
"""NFC is one character shorter at each of three places, and the run of two broken ones becomes one."""


def spans_in(text: str) -> dict[str, tuple[int, int]]:
    """Where each word of a text begins and ends."""
    return {word: (text.index(word), text.index(word) + len(word)) for word in text.split()}


@pytest.mark.promise(
    "Robustness",
    "Places of entities and answers are right after repair and NFC; NFD and NFC texts get the same answers",
)
@pytest.mark.parametrize("form", ["dicts", "lists", "doccano", "mentions", "answers", "answer list"])
def test_places_follow_their_characters(tmp_path: Path, form: str) -> None:
    """D13: entities and answers are at the same words after NFC and repair."""
    words = spans_in(NFD)
    name, (start, end) = "Malaga\u0301", words["Malaga\u0301"]
    row: dict[str, object] = {"text": NFD}
    if form == "dicts":
        row["entities"] = [{"start": start, "end": end, "label": "LOC", "text": name}]
    elif form == "lists":
        row["label"] = [[start, end, "LOC"]]
    elif form == "doccano":
        row["entities"] = [{"id": 1, "start_offset": start, "end_offset": end, "label": "LOC"}]
    elif form == "mentions":
        row["label"] = {"LOC": {name: [[start, end - 1]]}}
    elif form == "answers":
        row = {"context": NFD, "question": "?", "answers": {"text": [name], "answer_start": [start]}}
    else:
        row = {"context": NFD, "question": "?", "answers": [{"text": name, "start": start}]}
    (result,) = values(write(tmp_path / "a.jsonl", json.dumps(row)))
    text = result.get("text", result.get("context"))
    assert text == "Zoë saw Malagá \ufffd and Zoë"
    span = (text.index("Malagá"), text.index("Malagá") + 6)
    expected = {
        "dicts": ("entities", [{"start": span[0], "end": span[1], "label": "LOC", "text": "Malagá"}]),
        "lists": ("label", [[*span, "LOC"]]),
        "doccano": ("entities", [{"start": span[0], "end": span[1], "label": "LOC"}]),
        "mentions": ("label", {"LOC": {"Malagá": [[span[0], span[1] - 1]]}}),
        "answers": ("answers", {"text": ["Malagá"], "answer_start": [span[0]]}),
        "answer list": ("answers", [{"text": "Malagá", "start": span[0]}]),
    }
    field, value = expected[form]
    assert result[field] == value


DATA = Path(os.environ.get("TEXTUS_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.mark.skipif(not DATA.is_dir(), reason="no shared data here; TEXTUS_DATA names its folder")
@pytest.mark.parametrize(
    ("name", "columns", "count", "fields"),
    [
        ("sst2/train.tsv", "0=text,1=label", 6920, {"text", "label"}),
        ("banking77/test.csv", "label=category", 3080, {"text", "label"}),
        ("conll2003/test.txt", None, 3453, {"tokens", "tags"}),
        ("thucnews_titles/dev.txt", "0=text,1=label", 10_000, {"text", "label"}),
        (
            "online_shopping_10_cats/online_shopping_10_cats.zip",
            "text=review",
            62_774,
            {"cat", "label", "text"},
        ),
        ("xquad/xquad.en.json", None, 1190, {"question", "context", "answers", "id", "title"}),
    ],
)
def test_real_files(name: str, columns: str | None, count: int, fields: set[str]) -> None:
    result = values(DATA / name, columns)
    assert (len(result), set(result[0])) == (count, fields)

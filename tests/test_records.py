"""Labelled data of every form as rows; what cannot be read is named with its line."""

from __future__ import annotations

import gzip
import json
import os
import zipfile
from pathlib import Path

import pytest

from textus.common import DataError, UsageError
from textus.records import parse_columns, read_records

ROWS = [{"text": '好看，"真的"', "label": "1"}, {"text": "dull, long", "label": "0"}]


def values(path: Path, columns: str | None = None) -> list[dict[str, object]]:
    return [record.values for record in read_records(path, parse_columns(columns))]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


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
    with pytest.raises(DataError, match=r"b\.parquet cannot be read: not a parquet file"):
        values(tmp_path / "b.parquet")


def test_columns_by_name_and_by_place(tmp_path: Path) -> None:
    named = write(tmp_path / "a.csv", "review,stars,id\ngood,5,a\n")
    assert values(named, "text=review,label=stars") == [{"text": "good", "label": "5", "id": "a"}]
    bare = write(tmp_path / "a.txt", "good film\t5\nbad film\t1\n")
    assert values(bare, "0=text,1=label") == [
        {"text": "good film", "label": "5"}, {"text": "bad film", "label": "1"}
    ]  # fmt: skip
    with pytest.raises(
        DataError,
        match=r"a.csv has no column 'revue'; did you mean 'review'\? it has 'review', 'stars', 'id'",
    ):
        values(named, "text=revue")


@pytest.mark.parametrize(
    ("spelled", "complaint"),
    [("text", "'text' is no pair"), ("=a", "no pair"), ("0=text,label=b", "mixes positions and names")],
)
def test_columns_that_say_nothing_are_refused(spelled: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
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
    records = read_records(path)
    assert [record.values for record in records] == [
        {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]}, {"tokens": ["German"], "tags": ["B-MISC"]}
    ]  # fmt: skip
    assert [record.where.rpartition(": ")[2] for record in records] == ["line 3", "line 6"]
    write(path, "EU B-ORG\nrejects\n")
    with pytest.raises(DataError, match="line 2 has one column"):
        read_records(path)


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
    with pytest.raises(DataError, match="not SQuAD's form"):
        values(write(tmp_path / "b.json", json.dumps({"data": [{"title": "T", "paragraphs": [{}]}]})))


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.csv", "text,label\na,b,c\n", "line 2 has 3 columns, the first line 2"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
        ("a.jsonl", "[1]\n", "line 1 is list, not an object"),
        ("a.json", '"text"', "neither a list of objects nor SQuAD"),
        ("a.csv", "text,label\n", "holds no rows"),
        ("a.txt", "\n\n", "holds no rows"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint) as caught:
        read_records(write(tmp_path / name, text))
    assert str(tmp_path / name) in str(caught.value)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(DataError, match=r"nowhere\.csv is not there"):
        read_records(Path("nowhere.csv"))


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
    found = values(DATA / name, columns)
    assert (len(found), set(found[0])) == (count, fields)

"""Tables in a corpus: whole texts or none, pairs that are pairs, every table that can be read (D3, D12, D23, D26, D28,
U20).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from corpora import made, texts, write
from raising import raises

from textus.cli.main import main
from textus.core.errors import DataError, UsageError
from textus.data.corpus import CorpusSettings, build
from textus.data.eval_text import read_pairs


def pairs(folder: Path) -> list[tuple[str, str]]:
    """(source, target) of each training document of a corpus."""
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(row["source_text"], row["text"]) for row in rows]


@pytest.mark.promise("Robustness", "No text of a corpus is cut at a delimiter, and no pair is made of one")
@pytest.mark.parametrize(
    ("name", "content", "expected", "dropped"),
    [
        ("a.csv", 'label,text\n1,Good value, but late\n0,"Bad, really"\n', ["Bad, really"], {"number of columns": 1}),
        ("a.csv", 'text,label\n"He said \\"yes, really\\"",1\nplain,0\n', ['He said "yes, really"', "plain"], {}),
        ("a.csv", 'text,label\n"He said \\"yes" and ""no"",1\nplain,0\n', ["plain"], {"quotes": 1}),
        ("a.csv", "text;label\nGut, aber teuer;pos\n", ["Gut, aber teuer"], {}),
        ("a.csv", "Text,label\na,1\ntext\nText,label\nb,1\n", ["a", "b"], {"number of columns": 1}),
        ("a.tsv", 'text\tlabel\n"She said ""hi"""\tpos\n"two\nlines"\tneg\n', ['She said "hi"', "two\nlines"], {}),
        ("a.tsv", "text\tlabel\nThree\tcols\there\nfine\t1\n", ["fine"], {"number of columns": 1}),
        ("a.json", '[{"text":"one"},{"text":"two"}]', ["one", "two"], {}),
        ("a.json", '{\n "text": "one"\n}', ["one"], {}),
        ("a.json", '{"text":"one"}\n{"text":"two"}\n', ["one", "two"], {}),
        ("a.json", '{"data": [{"text": "one"}, {"text": 5}]}', ["one"], {"text is not a string": 1}),
        ("a.jsonl", '{"id":1,"title":"none"}\n{"text":"has text"}\n', ["has text"], {"no text": 1}),
        ("a.jsonl", '{"source":"web","target":"x"}\n{"text":"has text"}\n', ["has text"], {"no text": 1}),
        ("a.jsonl", '{"Text":"other letters"}\n', ["other letters"], {}),
        ("a.jsonl", '{"text":1' + "0" * 5000 + '}\n{"text":"fine"}\n', ["fine"], {"not JSON": 1}),
    ],
)  # fmt: skip
def test_whole_texts_or_none(
    tmp_path: Path, name: str, content: str, expected: list[str], dropped: dict[str, int]
) -> None:
    corpus = made(tmp_path, {name: content})
    assert texts(corpus) == expected
    assert corpus.record["dropped"] == dropped


def test_a_comma_outside_of_quotes_makes_no_pair(tmp_path: Path) -> None:
    """D3."""
    content = 'source,target\nNo, thanks,Nein danke\n"Yes, please","Ja, bitte"\n'
    corpus = made(tmp_path, {"p.csv": content})
    assert pairs(corpus.path) == [("Yes, please", "Ja, bitte")]
    assert corpus.record["dropped"] == {"number of columns": 1}


@pytest.mark.promise("Robustness", "A table that cannot be read stops no build; no input does")
@pytest.mark.parametrize("order", [("none", "good"), ("good", "none")])
@pytest.mark.parametrize("form", ["csv", "jsonl", "json", "unclosed"])
def test_one_table_that_cannot_be_read_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture, order: tuple[str, str], form: str
) -> None:
    """D28: whether it comes first or last; it is named with its reason."""
    content = {
        "csv": "id,title\n1,x\n", "jsonl": '{"id":1}\n{"id":2}\n', "json": '{"id": 1}',
        "unclosed": 'text\n"never closed\nagain\n',
    }[form]  # fmt: skip
    suffix = "csv" if form == "unclosed" else form
    names = {item: f"{number}.{'csv' if item == 'good' else suffix}" for number, item in enumerate(order)}
    corpus = made(tmp_path, {names["none"]: content, names["good"]: "text\nfine\n"})
    assert texts(corpus) == ["fine"]
    assert sum(corpus.record["dropped"].values()) == 1
    assert names["none"] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("columns", "content", "expected"),
    [
        ("source=en,target=de", "en,de\nhi,hallo\n", [("hi", "hallo")]),
        ("target=de", "source,de\nhi,hallo\n", [("hi", "hallo")]),
        ("0=source,1=target", "hi,hallo\n", [("hi", "hallo")]),
    ],
)
def test_columns_of_pairs(
    tmp_path: Path, columns: str, content: str, expected: list[tuple[str, str]]
) -> None:
    """U20: the same words as `finetune` has."""
    source = write(tmp_path / "in", {"p.csv": content}) / "p.csv"
    out = tmp_path / "out"
    assert (
        main(["corpus", "build", str(source), "--columns", columns, "--split", "none", "--out", str(out)])
        == 0
    )
    assert pairs(out) == expected


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.csv", "text,label\nx,1\n", ("incompatible_data",)),
        ("a.csv", "review\nx\n", ("incompatible_data",)),
        ("a.csv", 'source,target\n"a,b\nc,d\n', ("malformed_table", "2")),
    ],
)
def test_files_without_pairs_are_refused(
    tmp_path: Path, name: str, content: str, complaint: tuple[str, ...]
) -> None:
    with raises(DataError, *complaint):
        read_pairs(write(tmp_path / "in", {name: content}) / name)


def test_nested_pairs(tmp_path: Path) -> None:
    """D30: {"translation": {"en": …, "de": …}}."""
    row = json.dumps({"translation": {"en": "hi", "de": "hallo"}})
    corpus = made(tmp_path, {"p.jsonl": row}, columns="source=en,target=de")
    assert pairs(corpus.path) == [("hi", "hallo")]
    with raises(DataError, "empty_data", "source=en", "target=de"):
        made(tmp_path, {"p.jsonl": row}, "other")


def test_files_aligned_by_line(tmp_path: Path) -> None:
    """D30: train.en and train.de; unequal numbers of lines are refused."""
    folder = write(tmp_path / "in", {"train.en": "hi\n\nyou\n", "train.de": "hallo\nleer\ndu\n"})
    settings = CorpusSettings("none", columns="source=.en,target=.de")
    corpus = build([folder / "train.en", folder / "train.de"], tmp_path / "out", settings=settings)
    assert pairs(corpus.path) == [("hi", "hallo"), ("you", "du")]
    assert corpus.record["dropped"] == {"empty": 1}
    (folder / "train.de").write_text("hallo\n")
    with raises(DataError, "size_mismatch", "train.en", "3"):
        build([folder / "train.en"], tmp_path / "out2", settings=settings)
    with raises(UsageError, "missing_argument"):
        build([folder], tmp_path / "out2", settings=CorpusSettings(columns="source=.en"))


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ("label=stars", ("unknown_name", "'label'")),
        ("text=a,source=b", ("conflicting_options",)),
        ("text", ("invalid_value", "'text'")),
    ],
)
def test_columns_that_no_corpus_has_are_refused(
    tmp_path: Path, columns: str, complaint: tuple[str, ...]
) -> None:
    with raises(UsageError, *complaint):
        made(tmp_path, {"a.csv": "text\nx\n"}, columns=columns)


def test_a_delimiter_and_positions_are_given(tmp_path: Path) -> None:
    content = "one~x, y\ntwo~z\n"
    corpus = made(tmp_path, {"a.csv": content}, columns="1=text", delimiter="~")
    assert texts(corpus) == ["x, y", "z"]

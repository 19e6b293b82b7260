"""What is piped: plain lines are texts, a table with columns that are known is a table, and one line says so."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from textus import api
from textus.cli.main import main
from textus.data.inputs import KNOWN_COLUMNS, detect_table_kind


def reviews(n: int = 24) -> list[dict[str, Any]]:
    return [{"text": f"film {i} was {'good' if i % 2 else 'bad'}", "label": i % 2} for i in range(n)]


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    return api.finetune(reviews(), model="linear", out=tmp_path_factory.mktemp("linear") / "run")


def predicted(
    run: api.Run, text: str | bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    *more: str,
) -> tuple[list[dict[str, Any]], str]:  # fmt: skip
    data = text.encode() if isinstance(text, str) else text
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    capsys.readouterr()
    assert main(["predict", str(run.path), "-", "--json", *more]) == 0, capsys.readouterr().err
    shown = capsys.readouterr()
    return json.loads(shown.out)["answers"], shown.err


TABLES = {
    "jsonl": "".join(json.dumps(row) + "\n" for row in reviews(4)),
    "json": json.dumps(reviews(4), indent=1),
    "csv": "id,text\n" + "".join(f'r{i},"{row["text"]}"\n' for i, row in enumerate(reviews(4))),
    "semicolon": "id;text\n" + "".join(f"r{i};{row['text']}\n" for i, row in enumerate(reviews(4))),
    "tsv": "id\tText\n" + "".join(f"r{i}\t{row['text']}\n" for i, row in enumerate(reviews(4))),
}


@pytest.mark.parametrize("form", TABLES)
def test_a_piped_table_is_read_as_one(
    form: str, linear: api.Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result, line = predicted(linear, TABLES[form], monkeypatch, capsys)
    assert [answer["label"] for answer in result] == [0, 1, 0, 1]
    kind = "csv" if form == "semicolon" else form
    assert f"standard input is read as a table ({kind}): 4 rows with the fields" in line


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("was good\nwas bad\n", None),
        ("text\nwas bad\n", None),
        ("text, more of a text than a name of a column, and so on for long\na, b, c\n", None),
        ("text,label\nit was good, and bad, and long\n", None),
        ("text,label\n", None),
        ("name,stars\na,b\n", None),
        ('{"a": 1}\n', None),
        ("{not json}\n", None),
        ('["text"]\n', None),
        ('{"text": "a"}\n', "jsonl"),
        ("\ufeffid,text\n1,a\n", "csv"),
        ('id,text\n1,"a\nb"\n', "csv"),
        ("", None),
    ],
)
def test_plain_lines_stay_lines(text: str, kind: str | None) -> None:
    assert detect_table_kind(text, KNOWN_COLUMNS) == kind


def test_columns_force_a_table_and_those_of_training_are_known(
    linear: api.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = "name,review\n" + "".join(f"n,{row['text']}\n" for row in reviews(4))
    result, line = predicted(linear, table, monkeypatch, capsys, "--columns", "text=review")
    assert [answer["label"] for answer in result] == [0, 1, 0, 1]
    assert "4 rows with the fields 'name', 'text'" in line
    assert len(predicted(linear, table, monkeypatch, capsys)[0]) == 5  # nothing says that it is a table
    result, _ = predicted(linear, "x,was good\ny,was bad\n", monkeypatch, capsys, "--columns", "1=text")
    assert [answer["label"] for answer in result] == [1, 0]
    rows = [{"review": row["text"], "stars": row["label"]} for row in reviews()]
    run = api.finetune(rows, columns="text=review,label=stars", model="linear", out=tmp_path / "run")
    result, _ = predicted(run, table, monkeypatch, capsys)
    assert [answer["label"] for answer in result] == [0, 1, 0, 1]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(table.encode())))
    assert main(["predict", str(run.path), "-", "--out", str(tmp_path / "o.csv")]) == 0
    with (tmp_path / "o.csv").open(newline="") as file:
        assert next(iter(csv.DictReader(file)))["review"] == "film 0 was bad"


def test_other_encodings_and_broken_rows(
    linear: api.Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result, _ = predicted(linear, "id,text\n1,žluť was good\n".encode("utf-16"), monkeypatch, capsys)
    assert result[0]["label"] == 1
    czech = "id,text\n1,žluť was good\n".encode("cp1250")
    assert predicted(linear, czech, monkeypatch, capsys, "--encoding", "cp1250")[0][0]["label"] == 1
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"text": "a"}\n{"text": \n')))
    assert main(["predict", str(linear.path), "-"]) == 1
    assert "standard input: line 2" in capsys.readouterr().err
    assert main(["predict", str(linear.path), "a text", "--columns", "text=a"]) == 2


def test_prompts_are_piped_as_a_table_too(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"prompt": "It was"}\n{"prompt": "She"}\n'))
    assert main(["generate", str(trained), "-", "--json", "--max-tokens", "2"]) == 0
    report = json.loads(capsys.readouterr().out)["texts"]
    assert [row["prompt"] for row in report] == ["It was", "She"]


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("a good\rfilm\nbad\n", 2),  # one line with a carriage return inside of it
        ("a good film\rbad\rgood\r", 3),  # line ends of the old Mac
        ("id,text\rr1,good\rr2,bad\r", 2),  # and a table with them
        ("id,text\nr1,good\rfilm\n", 2),  # no table that can be read, so two lines
    ],
)
def test_carriage_returns_in_a_pipe_end_lines_or_stay_in_them(
    text: str, n: int, linear: api.Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result, _ = predicted(linear, text, monkeypatch, capsys)
    assert len(result) == n

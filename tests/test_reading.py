"""How the files are read that a person gives to a run: in the encoding that is named, or that of the run's own rows."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from labelled import written
from raising import raises

from textus import api
from textus.cli.main import main
from textus.core.errors import UsageError
from textus.data.inputs import read_stdin
from textus.data.passages import read_passages
from textus.data.read_options import ReadOptions, fits_encoding

WORDS = ("dobrý", "špatný")
TEXTS = [f"{i} byl {WORDS[i % 2]} a žluťoučký" for i in range(40)]


def table(path: Path, encoding: str, texts: list[str] = TEXTS, **more: list[str]) -> Path:
    """Rows with a text and a label of two classes, in an encoding."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding=encoding, newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label", *more])
        rows.writerows(zip(texts, [WORDS[i % 2] for i in range(len(texts))], *more.values(), strict=True))
    return path


@pytest.fixture(scope="module")
def czech(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    """A classifier of rows that were read with --encoding cp1250."""
    folder = tmp_path_factory.mktemp("czech")
    return api.finetune(
        table(folder / "c.csv", "cp1250"), encoding="cp1250", model="linear", out=folder / "run"
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    """A classifier of the same rows in UTF-8: it knows no encoding."""
    folder = tmp_path_factory.mktemp("plain")
    return api.finetune(table(folder / "c.csv", "utf-8"), model="linear", out=folder / "run")


def figures(result: Any) -> Any:
    """An answer without what differs by the place of a file and by the clock."""
    if isinstance(result, dict):
        varying = ("on", "out", "rows_trained_on", "seconds", "memory", "per_second")
        return {k: figures(v) for k, v in result.items() if not any(name in k for name in varying)}
    return [figures(part) for part in result] if isinstance(result, list) else result


COMMANDS = [
    "predict RUN FILE",
    "predict RUN FILE --out OUT.csv",
    "predict RUN RUN FILE --ensemble mean",
    "evaluate RUN --on FILE --no-baselines",
    "evaluate RUN RUN --on FILE --ensemble vote --no-baselines",
    "compare RUN RUN --on FILE",
    "robustness RUN --on FILE",
    "augment FILE --ops swap --out OUT.jsonl",
    "generate TEXT --file FILE --columns prompt=text --max-tokens 2",
    "generate TEXT --file FILE --columns prompt=text --max-tokens 2 --out OUT.jsonl",
    "embed TEXT FILE --out OUT.jsonl",
    "fewshot TEXT FILE --on FILE --shots 0 --limit 4",
    "index evaluate INDEX --on FILE --columns text=text,document=label",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_an_encoding_is_named(
    command: str, plain: api.Run, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ATTACK1 6: with --encoding a file gives the answer that its UTF-8 gives; texts short enough that the encoding is
    guessed wrong.
    """
    texts = ["byl dobrý a", "byl špatný b", "je dobrý", "je špatný"]
    answers = []
    for encoding in ("utf-8", "cp1250"):
        file = table(tmp_path / encoding / "t.csv", encoding, texts)
        names = {
            "RUN": str(plain.path),
            "TEXT": str(trained),
            "FILE": str(file),
            "INDEX": str(tmp_path / "i"),
        }
        if "INDEX" in command and encoding == "utf-8":
            api.build_index(file, columns="text=label", bm25=True, out=names["INDEX"])
        words = [names.get(word, word.replace("OUT", str(file.parent / "o"))) for word in command.split()]
        assert main([*words, "--encoding", encoding, "--json"]) == 0, capsys.readouterr().err
        answers.append(figures(json.loads(capsys.readouterr().out)))
        written = [path for path in file.parent.glob("o.*") if path.is_file()]
        answers[-1] = (answers[-1], {path.name: path.read_text("utf-8") for path in written})
    assert answers[0] == answers[1]


def test_a_text_to_measure_on_and_an_index_are_read_in_an_encoding(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ATTACK1 6: the tokens are those of the text in UTF-8; the bytes are the file's own."""
    scored = {}
    for encoding in ("utf-8", "cp1250"):
        file = table(tmp_path / encoding / "t.txt", encoding, ["byl dobrý a", "je špatný"])
        assert main(["compare", str(trained), "--on", str(file), "--encoding", encoding, "--json"]) == 0
        compared = json.loads(capsys.readouterr().out)["rows"][0]
        scores = api.evaluate(trained, file, encoding=encoding)
        assert compared["bits_per_byte"] == scores["bits_per_byte"]
        scored[encoding] = scores["bits_per_byte"]["value"] * file.stat().st_size
        index = api.build_index(file, encoding=encoding, bm25=True, out=tmp_path / encoding / "index")
        assert "byl dobrý a" in index.passages[1].text
    assert scored["utf-8"] == pytest.approx(scored["cp1250"])
    with raises(UsageError, "option_not_applicable", "--encoding cp1250"):
        api.evaluate(trained, ["a text"], encoding="cp1250")


def test_triples_are_read_in_an_encoding(tmp_path: Path) -> None:
    """ATTACK1 6: of rows and of the lines of a .txt."""
    from textus.pipelines.extraction import read_passages

    for name in ("t.csv", "t.txt"):
        texts = table(tmp_path / name, "cp1250", ["byl dobrý"])
        result = read_passages(texts, ReadOptions(encoding="cp1250"))
        assert "byl dobrý" in result[-1].text


def test_the_encoding_of_training_is_used_again(
    czech: api.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ATTACK1 6: one short row would be taken for cp1257."""
    for name in ("t.csv", "t.txt"):
        file = tmp_path / name
        file.write_bytes(("text\n" * name.endswith("csv") + "byl dobrý\n").encode("cp1250"))
        assert [answer["label"] for answer in czech.predict(file)] == ["dobrý"]
        assert f"{name}: encoding as in training: cp1250" in capsys.readouterr().err
    rows = table(tmp_path / "r.csv", "cp1250", ["byl dobrý", "byl špatný"])
    assert czech.evaluate(rows, baselines=False)["accuracy"]["value"] == 1
    assert api.ensemble_evaluate([czech, czech], rows, baselines=False)["accuracy"]["value"] == 1
    compared = api.compare([czech, czech], on=rows)
    assert [row["accuracy"]["value"] for row in compared["runs"]] == [1, 1]
    assert capsys.readouterr().err.count("encoding as in training: cp1250") >= 3
    assert czech.robustness(rows)["accuracy"]["value"] == 1


def test_runs_of_different_encodings_read_the_same_text(
    czech: api.Run, plain: api.Run, tmp_path: Path
) -> None:
    """ATTACK1 6: a run that knows no encoding is compared on the text that the other reads."""
    rows = table(tmp_path / "r.csv", "cp1250", ["byl dobrý", "byl špatný"])
    for runs in ([czech, plain], [plain, czech]):
        assert [row["accuracy"]["value"] for row in api.compare(runs, on=rows)["runs"]] == [1, 1]


def test_an_encoding_of_training_is_not_forced_on_other_files(
    czech: api.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ATTACK1 6: UTF-8, with a byte order mark or broken, and what does not decode."""
    text = "text\nfilm byl velmi dobrý a žluťoučký\n"
    files = {
        "utf8": text.encode(),
        "marked": text.encode("utf-8-sig"),
        "utf16": text.encode("utf-16"),
        "ascii": b"text\nbyl\n",
        "broken": text.encode() + "žluťoučký kůň ".encode() + b"\xfe\n",
    }
    for name, content in files.items():
        (tmp_path / f"{name}.csv").write_bytes(content)
        answers = czech.predict(tmp_path / f"{name}.csv")
        assert name == "ascii" or answers[0]["label"] == "dobrý", name
        assert "as in training" not in capsys.readouterr().err, name
        assert not fits_encoding(tmp_path / f"{name}.csv", "cp1250"), name
    (tmp_path / "undefined.csv").write_bytes(b"text\nbyl \x81 dobr\xfd\n")  # no character of cp1250
    assert not fits_encoding(tmp_path / "undefined.csv", "cp1250")


def test_a_folder_is_in_one_encoding_or_in_none(tmp_path: Path) -> None:
    """ATTACK1 6: what is read as one is of one encoding; UTF-8 among it keeps it from being forced."""
    table(tmp_path / "a.csv", "cp1250")
    (tmp_path / "b.csv").write_bytes(b"text\nascii\n")
    assert fits_encoding(tmp_path, "cp1250")
    table(tmp_path / "c.csv", "utf-8")
    assert not fits_encoding(tmp_path, "cp1250")


def test_an_encoding_given_wins_and_a_wrong_one_is_named(czech: api.Run, tmp_path: Path) -> None:
    """ATTACK1 6."""
    file = tmp_path / "t.csv"
    file.write_bytes("text\nдобры\n".encode("iso8859-5"))
    out = tmp_path / "o.csv"
    czech.predict_file(file, out=out, encoding="iso8859-5")
    assert "добры" in out.read_text("utf-8")
    with raises(UsageError, "unknown_encoding", "'cp125'"):
        czech.predict(file, encoding="cp125")


@pytest.mark.parametrize(
    "words", [["predict", "RUN", "a text"], ["generate", "TEXT", "a text"]], ids=" ".join
)
def test_an_encoding_of_no_file_is_refused(
    words: list[str], czech: api.Run, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"RUN": str(czech.path), "TEXT": str(trained)}
    assert main([*(names.get(word, word) for word in words), "--encoding", "cp1250"]) == 2
    assert "--encoding" in capsys.readouterr().err


# ── what is empty, repeated, or on standard input ──────────────────────────────────────────────


def test_empty_texts_are_counted(
    czech: api.Run, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ATTACK1 17: however many batches they are in."""
    file = table(tmp_path / "t.csv", "utf-8", ["byl", "", " ", *["je"] * 600, ""])
    named = f"rows have an empty text and are answered all the same; the first is {file}: line 3"
    for answer in (
        lambda: czech.predict(file),
        lambda: czech.predict_proba(file),
        lambda: czech.predict_file(file, out=tmp_path / "o.csv"),
        lambda: api.ensemble_predict([czech, czech], file),
    ):
        answer()
        assert f"3 {named}" in capsys.readouterr().err
    czech.predict(["byl", ""])
    assert "1 rows have an empty text and are answered all the same; the first is text 2" in (
        capsys.readouterr().err
    )
    named = named.replace("answered", "embedded")
    for out in ("v.npy", "v.jsonl"):
        api.embed(trained, file, out=tmp_path / out)
        assert f"3 {named}" in capsys.readouterr().err
    api.embed(trained, file)
    assert f"3 {named}" in capsys.readouterr().err
    czech.predict(["byl", "je"])
    assert "empty" not in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_standard_input_is_read_by_its_byte_order_mark(
    encoding: str, czech: api.Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """ATTACK1 17: Ċ is U+010A, a byte of which is a line's end."""
    text = (
        "" if encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32") else "\ufeff"
    ) + "dobrý Ċ\r\n\nšpatný"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode(encoding))))
    assert main(["predict", str(czech.path), "-", "--json"]) == 0
    shown = capsys.readouterr()
    answers = json.loads(shown.out)["answers"]
    assert [answer["label"] for answer in answers][::2] == ["dobrý", "špatný"]
    assert [answer["line"] for answer in answers] == [1, 2, 3]
    assert "U+FFFD" not in shown.err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode(encoding))))
    assert [record.values["text"] for record in read_stdin()] == ["dobrý Ċ", "", "špatný"]


def test_ids_of_several_texts_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ATTACK1 17: 1 and "1" are one id; a row that is repeated as it is has its own line."""
    rows = [{"id": 1, "text": "one"}, {"id": 1, "text": "two"}, {"id": "1", "text": "three"}]
    read_passages(written(tmp_path / "a.jsonl", [*rows, {"id": 2, "text": "four"}]))
    err = capsys.readouterr().err
    assert f"2 of 4 texts have the id of another text, the first '1' in {tmp_path / 'a.jsonl'}: line 2" in err
    read_passages(written(tmp_path / "b.jsonl", [rows[0], rows[0], {"id": 2, "text": "one"}]))
    assert "the id of another" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("text,label", True), ("review;label", True), ('"text"\t"label"', True), ('{"text": "a"}', True),
        ('["a"]', True), ("Good text, bad label", False), ("a film; dull", False), ("text", False), ("", False),
    ],
)  # fmt: skip
def test_a_table_on_standard_input_is_noticed(line: str, expected: bool) -> None:
    """What is piped is read as texts, a line each; a header among them is reported."""
    from textus.data.inputs import is_table_like

    assert is_table_like(line) == expected


def test_a_list_is_no_source_of_a_corpus(tmp_path: Path) -> None:
    from textus import api

    with raises(UsageError, "wrong_type", "list"):
        api.build_corpus(["a", "b"], out=tmp_path / "corpus")  # type: ignore[arg-type]

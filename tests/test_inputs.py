"""What a person hands over: a plain text, columns, a path, a pipe, many prompts; nothing is taken for another."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from labelled import read_table, reviews, written
from raising import raises

import textus
from textus import api
from textus.cli.main import main
from textus.core.arguments import check_text, looks_like_path
from textus.core.errors import DataError


def test_a_plain_text_is_read_a_line_a_text(
    linear: api.Run, tagger: api.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """D9: for every task, and what it was taken for is said."""
    lines = tmp_path / "lines.txt"
    lines.write_text("In 1999 Anna left Rome\nIn 7 Boris left Oslo\n\nAnna left Rome\n")
    for run in (linear, tagger):
        assert main(["predict", str(run.path), str(lines), "--json"]) == 0
        shown = capsys.readouterr()
        assert f"{lines}: each line is one text" in shown.err
        answers = json.loads(shown.out)["answers"]
        assert [answer["line"] for answer in answers] == [1, 2, 3, 4]
    assert [entity["text"] for entity in answers[1]["entities"]] == ["Boris", "Oslo"]
    out = tmp_path / "out.csv"
    tagger.predict_file(lines, out=out)
    first = read_table(out)[0]
    places = [(load["start"], load["end"]) for load in json.loads(first["entities"])]
    assert [first["text"][start:end] for start, end in places] == ["Anna", "Rome"]


def test_tokens_in_columns_are_distinguished_from_sentences(
    tagger: api.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conll = tmp_path / "conll.txt"
    conll.write_text("In O\nAnna B-PER\nleft O\nRome B-LOC\n\nBoris B-PER\nleft O\n")
    predictions = tagger.predict(conll)
    assert "tokens in columns (CoNLL)" in capsys.readouterr().err
    assert [len(answer["tags"]) for answer in predictions] == [4, 2]
    assert [answer["line"] for answer in predictions] == [1, 6]
    prose = tmp_path / "prose.txt"
    prose.write_text("Anna left Rome .\nThen Boris saw Oslo again .\nShe went on .\n")
    with raises(DataError, "malformed_table"):
        tagger.evaluate(prose)


PATHS = ["data/test_2024.csv", "nope.csv", "my notes.txt", "a/b", "x.JSONL", "dir/sub/", "rows.csv.gz"]
TEXTS = [
    "a good film",
    "a film / a book",
    "and so on...",
    "真好看/真难看，是吗？",
    "i.e. this",
    "5.5",
    "",
    "a\nb/c",
]


@pytest.mark.promise(
    "Robustness",
    "A path that does not exist is never taken for a text; a string is one text; no flag is ignored",
)
@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_does_not_exist_is_no_text(
    path: str, linear: api.Run, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """D10, U6."""
    for command, run, remedy in (
        ("predict", linear.path, "give a file"),
        ("generate", trained, "give a file of prompts with --file"),
    ):
        assert main([command, str(run), path]) == 2
        assert f"{path!r} not found; {remedy}, or --text" in capsys.readouterr().err
    assert main(["predict", str(linear.path), path, "--text", "--json"]) == 0
    assert "label" in json.loads(capsys.readouterr().out)["answers"][0]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_no_path(text: str) -> None:
    assert not looks_like_path(text)
    assert check_text(text) == text


def test_a_folder_is_no_text(linear: api.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """D10."""
    assert main(["predict", str(linear.path), str(tmp_path)]) == 2
    assert "is a folder; give a file, or --text" in capsys.readouterr().err


def test_an_existing_path_is_no_text(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it is and what to give: never "not found", never taken for a text without --text."""
    monkeypatch.chdir(tmp_path)
    index = api.build_index(written(tmp_path / "pages.jsonl", reviews(3)), out=tmp_path / "index", bm25=True)
    (tmp_path / "notes.txt").write_text("a note\n")
    (tmp_path / "notes").write_text("a note\n")
    os.mkfifo(tmp_path / "pipe.txt")
    for path, kind in (("notes.txt", "a file"), ("./index", "a folder"), ("pipe.txt", "a pipe")):
        for command, folder, remedy in (
            ("search", index.path, "give a text to look for"),
            ("generate", trained, "give a file of prompts with --file"),
        ):
            assert main([command, str(folder), path]) == 2
            assert f"{path!r} is {kind}; {remedy}, or --text if this is" in capsys.readouterr().err
    assert main(["generate", str(trained), "notes"]) == 2
    assert "'notes' is a file; give a file of prompts with --file" in capsys.readouterr().err
    assert main(["search", str(index.path), "notes"]) == 0  # a word
    assert main(["search", str(index.path), "notes.txt", "--text"]) == 0
    assert main(["search", str(index.path), "missing.txt"]) == 2
    assert "'missing.txt' not found; give a text to look for" in capsys.readouterr().err


def test_a_pipe_is_read(
    linear: api.Run, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """U6: with - or where no text is given."""
    for command, run, key in (("predict", linear.path, "answers"), ("generate", trained, "texts")):
        for more in (["-"], []):
            monkeypatch.setattr("sys.stdin", io.StringIO("was good\nwas bad\n"))
            words = [command, str(run), *more, "--json", *(["--max-tokens", "3"] if key == "texts" else [])]
            assert main(words) == 0
            report = json.loads(capsys.readouterr().out)[key]
            assert [answer["line"] for answer in report] == [1, 2]
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["predict", str(linear.path), "-"]) == 2
    assert "standard input is empty" in capsys.readouterr().err


def test_broken_bytes_of_a_pipe_are_counted(
    linear: api.Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"was good \xff\xfe\nwas bad\n")))
    assert main(["predict", str(linear.path), "-", "--json"]) == 0
    shown = capsys.readouterr()
    assert len(json.loads(shown.out)["answers"]) == 2
    assert "1 lines of standard input are not UTF-8" in shown.err


# ── many prompts ───────────────────────────────────────────────────────────────────────────────


def test_many_prompts_are_continued_as_if_alone(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """U6: --file and --out."""
    prompts = ["Once upon", "the fox", "a", "morning", "Then the heron"] * 4
    file, out = tmp_path / "p.txt", tmp_path / "o.jsonl"
    file.write_text("".join(f"{prompt}\n" for prompt in prompts))
    words = ["generate", str(trained), "--file", str(file), "--max-tokens", "8", "--seed", "3"]
    assert main([*words, "--out", str(out)]) == 0
    results = [json.loads(line) for line in out.read_text().splitlines()]
    run = api.open_run(trained)
    assert [row["line"] for row in results] == list(range(1, 21))
    for row, prompt in zip(results[:5], prompts, strict=False):
        assert row == {
            "line": row["line"],
            "prompt": prompt,
            "text": run.generate(prompt, max_tokens=8, seed=3),
        }
    capsys.readouterr()
    assert main([*words, "--stop", "o"]) == 0
    shown = capsys.readouterr().out.split("\n\n")
    assert shown[0] == prompts[0] + run.generate(prompts[0], max_tokens=8, seed=3, stop=["o"])


def test_sources_of_a_table_are_made_into_targets(tmp_path: Path) -> None:
    """U8."""
    pairs = [
        {"id": n, "source": text.upper(), "target": text} for n, text in enumerate(["a b", "b c", "c a"] * 9)
    ]
    corpus = textus.build_corpus(
        written(tmp_path / "pairs.jsonl", pairs), out=tmp_path / "corpus", overrides=["min_chars=1"]
    )
    run = textus.train(
        corpus,
        model="seq2seq",
        tokenizer="char",
        steps=2,
        overrides=["model.n_layer=1", "model.d_model=16"],
        out=tmp_path / "run",
    )
    out = tmp_path / "o.csv"
    words = ["generate", str(run.path), "--file", str(tmp_path / "pairs.jsonl"), "--max-tokens", "4"]
    assert main([*words, "--out", str(out)]) == 0
    rows = read_table(out)
    assert list(rows[0]) == ["line", "id", "source", "target", "text"]
    assert [row["text"] for row in rows[:3]] == [run.generate(p["source"], max_tokens=4) for p in pairs[:3]]


def test_a_prompt_that_is_too_long_is_named_before_anything_is_written(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "p.txt"
    file.write_text("a\n" * 40 + "b" * 5000 + "\n")
    assert main(["generate", str(trained), "--file", str(file), "--out", str(tmp_path / "o.csv")]) == 2
    assert "p.txt: line 41: the prompt has" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["p.txt"]

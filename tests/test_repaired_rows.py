"""Rows, questions and queries are repaired as corpora are, by every verb (D1, D13)."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from textus.cli.main import main

WORDS = ("génial", "raté")


def decomposed(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a linear classifier on French rows in NFC, and the same rows in NFD beside it."""
    folder = tmp_path_factory.mktemp("french")
    rows = "".join(f"Le plat {n} est {WORDS[n % 2]},{n % 2}\n" for n in range(60))
    (folder / "nfc.csv").write_text("text,label\n" + rows, encoding="utf-8")
    (folder / "nfd.csv").write_text("text,label\n" + decomposed(rows), encoding="utf-8")
    exit_code = main(["finetune", str(folder / "nfc.csv"), "--model", "linear", "--out", str(folder / "run")])
    assert exit_code == 0
    return folder


def test_decomposed_texts_get_the_same_answers(trained: Path) -> None:
    from textus.api import open_run

    run = open_run(trained / "run")
    texts = [f"Le plat est {word}" for word in WORDS]
    assert run.predict(texts) == run.predict([decomposed(text) for text in texts])
    assert run.predict(["caf\udce9 raté"]) == run.predict(["caf\ufffd raté"])
    assert run.predict(trained / "nfc.csv") == run.predict(trained / "nfd.csv")


def test_overlap_is_seen_through_decomposed_rows(trained: Path, capsys: pytest.CaptureFixture) -> None:
    assert (
        main(["evaluate", str(trained / "run"), "--on", str(trained / "nfd.csv"), "--no-baselines", "--json"])
        == 0
    )
    captured = capsys.readouterr()
    assert "60 of the 60 rows have a text that" in captured.err
    figures = json.loads(captured.out)
    assert (figures["rows_trained_on"], figures["mistakes"]) == (60, [])


BROKEN = {
    "byte.csv": b"text,label\n"
    + b"".join("餐厅 {} {},{}\n".format(n, ("很好", "很差")[n % 2], n % 2).encode() for n in range(40))
    + b"caf\xe9 x,1\n",
    "lone.jsonl": b"".join(
        b'{"text": "row %d of caf\\ud83d", "label": "%d"}\n' % (n, n % 2) for n in range(40)
    ),
}


@pytest.mark.parametrize("name", list(BROKEN))
@pytest.mark.parametrize(
    "verb",
    [
        ["finetune", "--model", "linear"],
        ["augment", "--ops", "swap"],
        ["index", "build", "--bm25"],
        ["corpus", "build", "--split", "none"],
    ],
    ids=lambda verb: verb[0],
)
def test_broken_characters_stop_no_verb(
    tmp_path: Path, capsys: pytest.CaptureFixture, verb: list[str], name: str
) -> None:
    """D1: each run of broken characters is one U+FFFD, and one line says how many and where."""
    (tmp_path / name).write_bytes(BROKEN[name])
    command = verb[: 2 if verb[0] in ("index", "corpus") else 1]
    words = [*command, str(tmp_path / name), *verb[len(command) :], "--out", str(tmp_path / "out.jsonl")]
    assert main(words) == 0
    err = capsys.readouterr().err
    assert "unexpected" not in err
    assert "replaced by U+FFFD" in err

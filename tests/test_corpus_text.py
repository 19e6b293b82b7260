"""Encodings and repair: bytes of any kind come out as the right characters, clean text unchanged."""

from __future__ import annotations

from pathlib import Path

import ftfy
import pytest
from corpora import DATA, SIMPLIFIED, TRADITIONAL, made, texts
from hypothesis import given, settings
from hypothesis import strategies as st

from textus.corpus import decoding, repair

ENCODED = [
    ("gb18030", SIMPLIFIED, "gb18030"),
    ("gb18030", TRADITIONAL, "gb18030"),
    ("big5", TRADITIONAL, "big5hkscs"),
    ("utf-16", SIMPLIFIED, "utf-16"),
    ("utf-16-le", SIMPLIFIED, "utf-16-le"),
    ("utf-16-be", "Plain English in UTF-16 without a mark.\n", "utf-16-be"),
    ("utf-8-sig", SIMPLIFIED, "utf-8-sig"),
    ("cp1252", "L’été dernier, nous étions à la mer; l’hôtel coûtait très cher.\n", "cp1252"),
    ("cp1251", "Все счастливые семьи похожи друг на друга, каждая несчастливая — по-своему.\n" * 3, None),
    ("euc_kr", "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.\n" * 3, None),
    ("shift_jis", "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n" * 3, None),
]


@pytest.mark.parametrize(("encoding", "text", "step"), ENCODED)
def test_encodings(tmp_path: Path, encoding: str, text: str, step: str | None) -> None:
    corpus = made(tmp_path, {"a.txt": text.encode(encoding)})
    assert texts(corpus) == [text]
    steps = next(corpus.documents()).steps
    assert steps[0].startswith("encoding:")
    assert step is None or steps == (f"encoding:{step}",)


def test_late_chinese_after_a_long_plain_beginning(tmp_path: Path) -> None:
    text = "plain line\n" * 200_000 + SIMPLIFIED
    assert "".join(texts(made(tmp_path, {"a.txt": text.encode("gb18030")}))) == text


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16"])
def test_people_daily(tmp_path: Path, encoding: str) -> None:
    path = DATA / "people_daily_1998" / "199801_plain.txt"
    if not path.exists():
        pytest.skip("needs ../shared/data/people_daily_1998")
    text = path.read_text(encoding="utf-8")
    corpus = made(tmp_path, {"a.txt": text.encode(encoding)})
    assert "".join(corpus.texts()) == text


def test_broken_utf8_is_replaced_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    broken = SIMPLIFIED.encode()[:-3] + b"\xff\xe4\xb8 and \xfe on\n"
    table = b'{"text": "x\xffy"}'
    corpus = made(tmp_path, {"a.txt": broken, "b.txt": b"mostly plain \xff\xfe text\n", "c.jsonl": table})
    mended = [SIMPLIFIED[:-2] + "\ufffd and \ufffd on\n", "mostly plain \ufffd text\n", "x\ufffdy"]
    assert texts(corpus) == mended
    assert [each.steps for each in corpus.documents()] == [("replaced:5",), ("replaced:2",), ("replaced:1",)]
    assert corpus.record["replaced_bytes"] == 8
    assert "a.txt: 5 broken bytes replaced" in capsys.readouterr().err


def test_repairs_are_recorded_and_clean_text_is_unchanged(tmp_path: Path) -> None:
    clean = "“Curly” ‘quotes’ — ｆｕｌｌ　ｗｉｄｔｈ ﬁ &amp; naïve café…\n中文，标点。\u2028\n"
    corpus = made(
        tmp_path,
        {
            "a.txt": clean,
            "b.txt": "one\r\ntwo\rthree\n",
            "c.txt": "The cafÃ© is â€œopenâ€\x9d\n",
            "d.txt": "cafe\u0301\n",
            "e.txt": "bell\x07 rings\n",
        },
    )
    mended = ["one\ntwo\nthree\n", "The café is “open”\n", "caf\u00e9\n", "bell rings\n"]
    assert texts(corpus) == [clean, *mended]
    assert [each.steps for each in corpus.documents()] == [(), ("newlines",), ("ftfy",), ("nfc",), ("ftfy",)]


def test_without_normalising_nothing_changes(tmp_path: Path) -> None:
    text = "one\r\ntwo cafÃ© cafe\u0301\n"
    assert texts(made(tmp_path, {"a.txt": text}, normalise=False)) == [text]


MOJIBAKE = st.text(st.sampled_from("éüñàß中文“”’—…ŒœÃÂØВГРβЖΩ€™©\xa0 abc.√≈│█\n"), max_size=12)


@settings(max_examples=300, deadline=None)
@given(MOJIBAKE, st.sampled_from(["cp1252", "latin-1", "cp1251", "macroman", "cp437", "cp1253", "cp1257"]))
def test_the_fast_way_to_ftfy_skips_nothing(text: str, codec: str) -> None:
    """Oracle: ftfy itself on every line, without our test for what is suspicious."""
    garbled = text.encode().decode(codec, "replace")
    config = ftfy.TextFixerConfig(**repair.FTFY, explain=False)
    for case in (text, garbled, f"a {garbled} b"):
        expected = "\n".join(ftfy.fix_text(line, config) for line in case.split("\n"))
        assert repair.mend(case) == expected


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("ab \n\r中é\u0301각😀"), max_size=60), st.integers(4, 20), st.integers(1, 7))
def test_parts_join_to_the_same_text(text: str, limit: int, size: int) -> None:
    blocks = [text[at : at + size] for at in range(0, len(text), size)]
    pieces = list(repair.parts(blocks, limit))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= limit for piece in pieces)


def test_parts_never_tear_a_letter_from_its_accent() -> None:
    text = "e\u0301中" * 5000
    pieces = list(repair.parts([text], 1000))
    assert len(pieces) > 1
    assert "".join(repair.repair(piece)[0] for piece in pieces) == repair.repair(text)[0]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    try:
        codec = decoding.detect_encoding([data]).codec
    except decoding.Unreadable:
        return
    text = "".join(decoding.decode([data[:7], data[7:]], codec))
    repair.repair(text)[0].encode()


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=200))
def test_clean_utf8_is_always_utf8(text: str) -> None:
    data = text.encode()
    assert decoding.detect_encoding([data[:5], data[5:]]).codec in ("utf-8", "utf-8-sig")
    assert "".join(decoding.decode([data[:5], data[5:]], "utf-8")) == text

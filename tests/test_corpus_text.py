"""Encodings and repair: bytes of any kind come out as the right characters, clean text unchanged."""

from __future__ import annotations

from pathlib import Path

import ftfy
import pytest
from corpora import DATA, SIMPLIFIED, TRADITIONAL, made, texts
from hypothesis import given, settings
from hypothesis import strategies as st
from raising import raises

from textus.core.errors import UsageError
from textus.data.corpus import decoding, repair
from textus.data.corpus.documents import UnreadableError
from textus.data.labeled import stream_records

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


SENTENCES = [
    ("The fibres are 5µm wide and 40µm long.", "cp1252"),
    ("A long line of plain English.\n" * 40 + "The fibres are 5µm wide.", "cp1252"),
    ("Add 1½cups of flour and 2½tsp of salt.", "cp1252"),
    ("A flat of 85 m² and a shed of 12 m² for sale.", "cp1252"),
    ("© 2020 Acme Inc.® All rights reserved; §5, 20°C, ±3, 3×4, £5 – “cheap”, 100µg/ml…", "cp1252"),
    ("naïve", "cp1252"), ("It’s", "cp1252"), ("Ich heiße Jürgen und wohne in Köln.", "cp1252"),
    ("ÇA ALORS, ÊTRE À L’HEURE", "cp1252"), ("¿Dónde está el señor Muñoz?", "cp1252"),
    ("São dotados de razão e de consciência.", "cp1252"), ("Hver maður er borinn frjáls og jafn öðrum.", "cp1252"),
    ("Minden emberi lény szabadon születik és egyenlő méltósága és joga van.", "cp1250 iso8859-2"),
    ("Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i praw.", "cp1250 iso8859-2"),
    ("Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv.", "cp1250 iso8859-2"),
    ("Všetci ľudia sa rodia slobodní a sebe rovní.", "cp1250 iso8859-2"),
    ("Sva ljudska bića rađaju se slobodna i jednaka, što čovjek želi.", "cp1250 iso8859-2"),
    ("Toate fiinţele umane se nasc libere şi egale în demnitate şi în drepturi.", "cp1250 iso8859-2"),
    ("Все люди рождаются свободными и равными.", "cp1251 koi8-r iso8859-5 cp866"),
    ("Всі люди народжуються вільними і рівними у своїй гідності.", "cp1251 koi8-u"),
    ("Всички хора се раждат свободни и равни по достойнство.", "cp1251"),
    ("Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι.", "cp1253 iso8859-7"),
    ("Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar.", "cp1254 iso8859-9"),
    ("Visi cilvēki piedzimst brīvi un vienlīdzīgi savā pašcieņā un tiesībās.", "cp1257"),
    ("Visi žmonės gimsta laisvi ir lygūs savo orumu ir teisėmis.", "cp1257"),
    ("כל בני האדם נולדו בני חורין ושווים בערכם.", "cp1255"), ("يولد جميع الناس أحرارا متساوين.", "cp1256"),
    ("มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกัน", "cp874"),
    ("すべての人間は、生まれながらにして自由である。", "euc_jp cp932 iso2022_jp"),
    ("모든 인간은 태어날 때부터 자유롭다.", "euc_kr"),
    ("人人生而自由，在尊严和权利上一律平等。", "gb18030"), ("人人生而自由，在尊嚴和權利上一律平等。", "big5"),
]  # fmt: skip


@pytest.mark.promise(
    "Robustness",
    "Encodings are recognised from the text, every guess is reported, and bytes that no encoding "
    "explains are refused",
)
@pytest.mark.parametrize(("text", "encodings"), SENTENCES, ids=lambda item: item[-12:])
def test_one_sentence_is_enough_to_detect_its_encoding(text: str, encodings: str) -> None:
    """D7, D8: no sign lost, no letter another."""
    for encoding in encodings.split():
        assert decoded(text.encode(encoding)) == text, encoding


def decoded(data: bytes) -> str:
    return "".join(decoding.decode([data], decoding.detect_encoding([data]).codec))


TUTORS = sorted(Path("/usr/share/vim").glob("vim*/tutor/tutor.*"))
NAMED = {
    "euc": "gb18030",
    "sjis": "cp932",
    "iso9": "cp1254",
    "el": "iso8859-7",
    "ru": "koi8-r",
    "eo": "iso8859-3",
}
NAMED |= dict.fromkeys(("cs", "hr", "hu", "pl", "sk"), "iso8859-2") | {"ja.euc": "euc_jp", "ko.euc": "euc_kr"}


def test_the_tutors_of_vim_are_decoded_as_their_names_show(tmp_path: Path) -> None:
    """D8: each exactly so; where there is a sibling in UTF-8, in its words."""
    legacy = [
        path for path in TUTORS if path.suffix not in (".utf-8", ".vim") and not is_utf8(path.read_bytes())
    ]
    if not legacy:
        pytest.skip("needs the package vim-runtime")
    assert len(legacy) >= 33
    for path in legacy:
        language, _, encoding = path.name.removeprefix("tutor.").partition(".")
        name = f"{language}.{encoding}".strip(".")
        encoding = NAMED.get(name) or NAMED.get(encoding, encoding) or "cp1252"
        text = decoded(path.read_bytes()).replace("\udcff", "\ufffd")
        if encoding == "big5":  # damaged as it comes: what is whole is right
            assert text.count("\ufffd") < 50
            assert "命令" in text
        else:
            assert text == path.read_bytes().decode(encoding), path


def is_utf8(data: bytes) -> bool:
    try:
        return bool(data.decode())
    except UnicodeDecodeError:
        return False


@pytest.mark.parametrize(
    "data", [bytes(range(128, 256)) * 3, bytes(range(161, 255, 3)) * 20], ids=["all", "some"]
)
def test_what_no_language_explains_is_refused_with_the_remedy(tmp_path: Path, data: bytes) -> None:
    """D8: never a guess without evidence."""
    corpus = made(tmp_path, {"a.txt": b"a line " + data, "b.txt": "fine"})
    assert texts(corpus) == ["fine"]
    assert "--encoding" in next(corpus.dropped())["detail"]


def test_guesses_are_reported_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """D8: which encodings, of how many files, and what to do."""
    hungarian, page = SENTENCES[12][0], "<meta charset=iso-8859-2><p>Zażółć gęślą jaźń w rzece</p>"
    files = {f"{n}.txt": f"{hungarian} {n}".encode("cp1250") for n in range(2)}
    files |= {"3.txt": SIMPLIFIED.encode("gb18030"), "4.txt": b"plain", "5.html": page.encode("iso8859-2")}
    files |= {"6.csv": f"text\n{hungarian}\n".encode("cp1250")}
    made(tmp_path, files)
    lines = [line for line in capsys.readouterr().err.splitlines() if "UTF-8" in line]
    assert len(lines) == 1
    assert lines[0].startswith("4 files are not UTF-8: read as cp1250 (3, first ")
    assert "gb18030 (1, first " in lines[0]
    assert lines[0].endswith("save the file as UTF-8")


def test_a_guess_is_reported_for_rows_too(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """D8: the same line wherever a file is read."""
    (tmp_path / "a.csv").write_bytes(f"text,label\n{SENTENCES[12][0]},1\n".encode("cp1250"))
    assert [record.values["text"] for record in stream_records(tmp_path / "a.csv")] == [SENTENCES[12][0]]
    assert "1 file is not UTF-8: read as cp1250" in capsys.readouterr().err


def test_a_given_encoding_is_used_for_all_text(tmp_path: Path) -> None:
    """D8: --encoding; a mark still wins, what it cannot decode is counted, and it is kept in corpus.json."""
    text = "à la carte, déjà vu"
    files = {
        "a.txt": text.encode("mac_roman"),
        "b.txt": SIMPLIFIED.encode("utf-16"),
        "c.csv": "text\né\n".encode("mac_roman"),
    }
    corpus = made(tmp_path, files, encoding="mac_roman")
    assert texts(corpus) == [text, SIMPLIFIED, "é"]
    assert corpus.record["settings"]["encoding"] == "mac_roman"
    broken = made(tmp_path, {"a.txt": b"caf\x81 one"}, "broken", encoding="cp1252")
    assert texts(broken) == ["caf\ufffd one"]
    assert broken.record["replaced_bytes"] == 1


@pytest.mark.parametrize("name", ["cp125", "hex", "rot13", "punycode", "a\0b", "\udce9", "utf-99"])
def test_an_encoding_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with raises(UsageError, "unknown_encoding"):
        made(tmp_path, {"a.txt": "x"}, encoding=name)


def test_a_nul_is_no_binary(tmp_path: Path) -> None:
    """D20: one NUL early or late costs its row, not the file; real binary data stays left out."""
    for at in (3, 1900):
        rows = [b'{"text":"row %d of the file"}\n' % n for n in range(2000)]
        rows[at] = rows[at].replace(b"row", b"r\0w")
        corpus = made(tmp_path, {"a.jsonl": b"".join(rows)}, f"at{at}")
        assert corpus.n_documents() == 1999
    binary = {"a.txt": b"\0\1\2\3 ELF" * 100, "b.txt": b"\0", "c.txt": "fine", "d.txt": "a" * 3000 + "\0 b"}
    assert texts(made(tmp_path, binary)) == ["fine", "a" * 3000 + " b"]


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
    assert [document.steps for document in corpus.documents()] == [
        ("replaced:5",),
        ("replaced:2",),
        ("replaced:1",),
    ]
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
    assert [document.steps for document in corpus.documents()] == [
        (),
        ("newlines",),
        ("ftfy",),
        ("nfc",),
        ("ftfy",),
    ]


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
        assert repair.fix_text(case) == expected


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("ab \n\r中é\u0301각😀"), max_size=60), st.integers(4, 20), st.integers(1, 7))
def test_parts_join_to_the_same_text(text: str, limit: int, size: int) -> None:
    blocks = [text[at : at + size] for at in range(0, len(text), size)]
    pieces = list(repair.split_parts(blocks, limit))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= limit for piece in pieces)


def test_parts_never_tear_a_letter_from_its_accent() -> None:
    text = "e\u0301中" * 5000
    pieces = list(repair.split_parts([text], 1000))
    assert len(pieces) > 1
    assert "".join(repair.repair(piece)[0] for piece in pieces) == repair.repair(text)[0]


@pytest.mark.promise("Text", "Any bytes are decoded or refused; clean UTF-8 is always read as UTF-8")
@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    try:
        codec = decoding.detect_encoding([data]).codec
    except UnreadableError:
        return
    text = "".join(decoding.decode([data[:7], data[7:]], codec))
    repair.repair(text)[0].encode()


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=200))
def test_clean_utf8_is_always_utf8(text: str) -> None:
    data = text.encode()
    assert decoding.detect_encoding([data[:5], data[5:]]).codec in ("utf-8", "utf-8-sig")
    assert "".join(decoding.decode([data[:5], data[5:]], "utf-8")) == text

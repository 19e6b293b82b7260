"""Files as they are found: names of any bytes, packings, pages with broken bytes, folders of any depth."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pyarrow
import pytest
from corpora import SIMPLIFIED, made, texts, write
from raising import raises

import textus
from textus.cli.main import main
from textus.core.console import to_printable
from textus.core.errors import DataError
from textus.data.corpus import CorpusSettings, build
from textus.data.labeled import stream_records

PARAGRAPHS = [
    f"Paragraph {n} tells of a river, a bridge and a house with a red door by the 河." for n in range(8)
]
PAGE = "<html><body><article>" + "".join(f"<p>{text}</p>" for text in PARAGRAPHS) + "</article></body></html>"


# ── pages ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise("Robustness", "A page keeps what follows a broken byte")
@pytest.mark.parametrize(
    "broken", [b"\xe9", b"\xff\xfe", b"\x00", b"\xed\xa0\x80", b"\xef\xbf\xbe", b"\x0b\x1b"]
)
def test_a_page_keeps_what_follows_broken_bytes(
    tmp_path: Path, broken: bytes, capsys: pytest.CaptureFixture
) -> None:
    """D2: nothing after the broken byte is lost, and one line counts it."""
    page = PAGE.encode().replace(b"Paragraph 2 tells", b"Paragraph 2" + broken + b" tells")
    corpus = made(tmp_path, {"page.html": page})
    text = "".join(texts(corpus))
    assert [n for n in range(8) if f"Paragraph {n}" in text] == list(range(8))
    if broken[0] > 0x7F and broken != b"\xef\xbf\xbe":
        assert text.count("\ufffd") == 1
        assert f"replaced:{len(broken)}" in next(corpus.documents()).steps
        assert f"{len(broken)} broken bytes replaced" in capsys.readouterr().err


def test_a_chinese_page_with_a_stray_byte_is_whole(tmp_path: Path) -> None:
    """D2: GBK and a stray 0xff."""
    page = PAGE.replace("river", "人人生而自由").encode("gbk").replace(b"Paragraph 2 ", b"Paragraph 2 \xff ")
    text = "".join(texts(made(tmp_path, {"page.html": page})))
    assert "Paragraph 7" in text
    assert text.count("人人生而自由") == 8


POLISH = "Zażółć gęślą jaźń. Łódź leży w środkowej Polsce nad rzeką."


@pytest.mark.parametrize("encoding", ["iso8859-2", "windows-1250", "utf-16", "utf-8"])
@pytest.mark.parametrize(
    "head", ['<?xml version="1.0" encoding="{}"?><html>', "<html><head><meta charset='{}'></head>"]
)
def test_a_page_is_read_as_it_declares(tmp_path: Path, encoding: str, head: str) -> None:
    """D27: XML declarations and meta tags; a mark or UTF-8 wins over a wrong one."""
    page = (
        head.format(encoding if encoding != "utf-8" else "iso-8859-2")
        + f"<body><p>{POLISH}</p></body></html>"
    )
    corpus = made(tmp_path, {"pl.html": page.encode(encoding)})
    assert texts(corpus) == [POLISH]


# ── names ──────────────────────────────────────────────────────────────────────────────────────

CAFE = os.fsdecode(b"caf\xe9.txt")


def test_names_that_are_not_utf8_are_read_and_shown(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """D11, R18: both files are read; no control character of a name reaches the terminal."""
    folder = write(tmp_path / os.fsdecode(b"n\xffmes"), {"ok.txt": "some text", CAFE: "other text"})
    (folder / "clear\x1b[2J.png").write_bytes(b"x")
    out = tmp_path / os.fsdecode(b"out\xfe")
    corpus = textus.build_corpus(folder, out=out, split="none")
    assert texts(corpus) == ["other text", "some text"]
    assert [Path(document.source).name for document in corpus.documents()] == ["caf\\xe9.txt", "ok.txt"]
    assert corpus.record["sources"][0]["path"].endswith("n\\xffmes")
    assert next(corpus.dropped())["source"].endswith("clear\\x1b[2J.png")
    errors = capfd.readouterr().err
    assert "clear\\x1b[2J.png" in errors
    assert "\x1b[2J" not in errors


def test_the_command_line_takes_names_of_any_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """D11: corpus, index and finetune, with odd names for files and folders."""
    rows = "text,label\n" + "".join(
        f"the film number {n} was {['bad', 'good'][n % 2]},{n % 2}\n" for n in range(60)
    )
    (tmp_path / os.fsdecode(b"r\xe9views!.csv")).write_text(rows)

    monkeypatch.chdir(tmp_path)
    odd = [os.fsdecode(name) for name in (b"r\xe9views!.csv", b"c\xe9", b"i\xe9", b"m\xe9")]
    assert main(["corpus", "build", odd[0], "--split", "none", "--out", odd[1]]) == 0
    assert main(["corpus", "show", odd[1], "--json"]) == 0
    assert main(["index", "build", odd[0], "--bm25", "--out", odd[2]]) == 0
    assert main(["search", odd[2], "number 7", "--json"]) == 0
    assert main(["finetune", odd[0], "--model", "linear", "--out", odd[3]]) == 2
    assert main(["finetune", odd[0], "--model", "linear", "--out", "run"]) == 0
    shown = capsys.readouterr()
    assert "unexpected" not in shown.err
    assert "m\\xe9: models and tokenizers cannot be opened in a folder of this name" in shown.err
    (shown.out + shown.err).encode()


def test_printable_escapes_what_a_terminal_would_obey() -> None:
    assert to_printable(CAFE + "\x1b[2J\n\u202e") == "caf\\xe9.txt\\x1b[2J\\x0a\\u202e"
    assert to_printable("caf\u00e9 \u4e2d\n", keep="\n") == "caf\u00e9 \u4e2d\n"


def test_an_exclamation_mark_in_a_name_is_only_that(tmp_path: Path) -> None:
    """D19: kinds and classes come from the structure, not from a character of the name."""
    folder = write(
        tmp_path / "a!b", {"Help!.txt": "hi", "x.txt": "x", "reviews!.csv": "text,label\none,1\ntwo,0\n"}
    )
    corpus = build([folder], tmp_path / "c", settings=CorpusSettings("none"))
    assert texts(corpus) == ["hi", "one", "two", "x"]
    assert [record.values["label"] for record in stream_records(folder / "reviews!.csv")] == ["1", "0"]
    classes = write(
        tmp_path / "f!", {f"{name}/{n}!.txt": f"text {n}" for name in ("wow!", "meh") for n in range(3)}
    )
    assert {record.values["label"] for record in stream_records(classes)} == {"wow!", "meh"}


# ── packings ───────────────────────────────────────────────────────────────────────────────────

MEMBERS = {
    "b/a.txt": SIMPLIFIED,
    "c.jsonl": '{"text": "one"}\n{"text": "two"}\n',
    "d!.csv": "text\nthree\n",
    "e.png": "x",
}


def tar(packing: str) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode=f"w:{packing}" if packing else "w") as archive:
        for name, text in MEMBERS.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return held.getvalue()


def zstd(data: bytes) -> bytes:
    held = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(held, "zstd") as file:
        file.write(data)
    return held.getvalue().to_pybytes()


@pytest.mark.parametrize("packing", ["", "gz", "bz2", "xz", "zst"])
def test_tar_archives_are_read_like_folders(tmp_path: Path, packing: str) -> None:
    """D31: member by member; what is no file or no text is named."""
    data = zstd(tar("")) if packing == "zst" else tar(packing)
    name = f"all.tar{'.' * bool(packing)}{packing}"
    corpus = made(tmp_path, {name: data})
    assert texts(corpus) == [SIMPLIFIED, "one", "two", "three"]
    assert next(corpus.documents()).source.endswith(f"{name}!b/a.txt")
    reasons = {Path(record["source"]).name: record["reason"] for record in corpus.dropped()}
    assert reasons == {f"{name}!e.png": "suffix not read", f"{name}!link.txt": "unreadable"}
    damaged = made(tmp_path, {name: data[: -len(data) // 2], "ok.txt": "fine"}, "damaged")
    assert "fine" in texts(damaged)
    assert "unreadable" in damaged.record["dropped"]


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress), ("zst", zstd), ("ZST", zstd)],
)
def test_packed_files_are_read(tmp_path: Path, suffix: str, pack: object) -> None:
    """D31: one layer of packing around any kind, and damage in it is named."""
    files = {f"a.txt.{suffix}": SIMPLIFIED.encode("gb18030"), f"b.csv.{suffix}": b"text\nrow\n"}
    packed = {name: pack(data) for name, data in files.items()}  # type: ignore[operator]
    assert texts(made(tmp_path, packed)) == [SIMPLIFIED, "row"]
    with raises(DataError, "empty_data", "2"):
        made(tmp_path, {name: data[:12] for name, data in packed.items()}, "damaged")


def test_other_packings_are_named_with_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """D31: .xlsx and the like, also when given by name."""
    table = io.BytesIO()
    with zipfile.ZipFile(table, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    folder = write(tmp_path / "in", {"t.xlsx": table.getvalue(), "u.7z": b"7z\xbc\xaf", "ok.txt": "fine"})
    for given in ([folder], [folder / "t.xlsx", folder / "u.7z", folder / "ok.txt"]):
        corpus = build(given, tmp_path / "c", settings=CorpusSettings("none"), force=True)
        assert texts(corpus) == ["fine"]
        errors = capsys.readouterr().err
        assert ".xlsx: a spreadsheet: save it as csv" in errors
        assert ".7z: unpack it first" in errors


# ── no input stops a build ─────────────────────────────────────────────────────────────────────


@pytest.mark.promise("Robustness", "A table that cannot be read stops no build; no input does")
def test_no_input_stops_a_build(tmp_path: Path) -> None:
    """R9: huge numbers, deep nesting, pages no parser likes, folders deeper than the stack."""
    files: dict[str, str | bytes] = {
        "number.jsonl": '{"text": "a", "n": ' + "9" * 5000 + '}\n{"text": "kept"}\n',
        "deep.jsonl": '{"text": "b", "n": ' + "[" * 100_000 + "]" * 100_000 + '}\n{"text": "kept too"}\n',
        "deep.html": "<div>" * 3000 + "inner words" + "</div>" * 3000,
        "odd.html": "<![if foo]><p>text of a page</p><!DOCTYPE [<!ENTITY x 'y'>]><![CDATA[ z",
        "nothing.html": "",
        "ok.txt": "fine",
    }
    folder = write(tmp_path / "in", files)
    nested = nest(folder, 1500)
    try:
        corpus = build([folder], tmp_path / "c", settings=CorpusSettings("none"))
    finally:
        subprocess.run(["rm", "-rf", nested], check=True)  # Python's own, and so pytest's, cannot go so deep
    assert {"fine", "kept", "kept too"} <= set(texts(corpus))
    dropped = [json.dumps(record) for record in corpus.dropped()]
    assert sum("not JSON" in line for line in dropped) == 2


def nest(folder: Path, depth: int) -> Path:
    """Folders in folders, deeper than a path can be long."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        here, before = os.open("d", os.O_RDONLY, dir_fd=here), here
        os.close(before)
    os.close(here)
    return folder / "d"

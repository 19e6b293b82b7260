"""The corpus room: every reader, every repair, every error, and memory that does not grow."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest
from corpora import DATA, REPOSITORY, SIMPLIFIED, TRADITIONAL, made, texts, write
from raising import raises

from textus.core.errors import DataError, RunError, TextusError, UsageError
from textus.data.corpus import (
    Corpus,
    CorpusSettings,
    Document,
    build,
    build_from_documents,
    builder,
    demo_documents,
    dialects,
    open_corpus,
    readers,
    show,
    trace_document,
)


def reasons(corpus: Corpus) -> dict[str, str]:
    return {Path(record["source"].replace("!", "/")).name: record["reason"] for record in corpus.dropped()}


# ── readers ────────────────────────────────────────────────────────────────────────────────────


def test_every_kind_is_read(tmp_path: Path) -> None:
    page = "<html><head><title>t</title></head><body><p>One line of a page.</p></body></html>"
    folder = write(
        tmp_path / "in",
        {
            "a.txt": "plain text\n",
            "b/c.md": "# A title\n\nand text\n",
            "d.html": page,
            "e.jsonl": '{"text": "first", "n": 1}\n\n{"text": "second"}\n',
            "f.csv": 'label,text\n1,"quoted, with\na line end and ""quotes"""\n2,plain\n',
            "g.tsv": 'text\tlabel\na "quote is a quote\t1\nanother\t0\n',
        },
    )
    write_parquet(folder / "h.parquet", {"text": ["of parquet", "again"], "label": [0, 1]})
    corpus = build([folder], tmp_path / "out", settings=CorpusSettings(split="none"))
    assert texts(corpus) == [
        "plain text\n",
        "# A title\n\nand text\n",
        "One line of a page.",
        "first",
        "second",
        'quoted, with\na line end and "quotes"',
        "plain",
        'a "quote is a quote',
        "another",
        "of parquet",
        "again",
    ]
    assert [(Path(document.source).name, document.offset) for document in corpus.documents()][3:7] == [
        ("e.jsonl", 0),
        ("e.jsonl", 1),
        ("f.csv", 0),
        ("f.csv", 1),
    ]


def write_parquet(path: Path, columns: dict[str, list]) -> None:
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    pyarrow.parquet.write_table(arrow.table(columns), path)


def test_archives(tmp_path: Path) -> None:
    packed = {"a.txt.gz": gzip.compress(b"in gz"), "b.jsonl.xz": lzma.compress(b'{"text": "in xz"}\n')}
    folder = write(tmp_path / "in", packed)
    parquet = tmp_path / "p.parquet"
    write_parquet(parquet, {"text": ["parquet in zip"]})
    with zipfile.ZipFile(folder / "c.zip", "w") as archive:
        archive.writestr("z.txt", "last in zip")
        archive.writestr("inner/y.txt.gz", gzip.compress(SIMPLIFIED.encode("gb18030")))
        archive.writestr("p.parquet", parquet.read_bytes())
        archive.writestr("picture.png", b"\x89PNG")
        archive.writestr("__MACOSX/._z.txt", b"note")
    corpus = build([folder], tmp_path / "out", settings=CorpusSettings(split="none"))
    assert texts(corpus) == ["in gz", "in xz", SIMPLIFIED, "parquet in zip", "last in zip"]
    assert [document.source for document in corpus.documents()][2] == f"{folder / 'c.zip'}!inner/y.txt.gz"
    assert reasons(corpus) == {"picture.png": "suffix not read", "._z.txt": "hidden"}


def test_page_main_text_and_fallback(tmp_path: Path) -> None:
    story = "".join(f"<p>Paragraph number {n} tells more of the story than the last.</p>" for n in range(9))
    body = f"<nav><a href='/'>Home</a></nav><article><h1>Story</h1>{story}</article><footer>© us</footer>"
    bare = "<div>cell</div><div>other</div>"  # trafilatura finds nothing in this
    corpus = made(tmp_path, {"a.html": f"<html><body>{body}</body></html>", "b.htm": bare})
    article, stripped = texts(corpus)
    assert "Paragraph number 8" in article
    assert "Home" not in article
    assert stripped == "cell\nother"
    assert [document.steps for document in corpus.documents()] == [
        ("html:main text",),
        ("html:tags stripped",),
    ]


def test_tags_are_stripped() -> None:
    head = "<html><head><title>x</title><style>p{}</style><body><script>var x = '<p>';</script>"
    page = f"{head}<td>cell  &amp;\n<b>more</b><td>other<br>line</html>"
    assert readers.strip_tags(page) == "cell & more\nother\nline"


TORN = [
    ("<p>She un<b>break</b>ably held H<sub>2</sub>O.</p>", "She unbreakably held H2O."),
    ("<p>wo<wbr>rd <a href='x'>hel</a>d</p><p>para<em>graph</em></p>", "word held\nparagraph"),
    ("<p>un\xad<b>break</b>able, zero\u200b<i>wid</i>th</p>", "un\xadbreakable, zero\u200bwidth"),
    ("<ul><li>on<b>e</b></li><li>tw<i>o</i></li></ul>", "one\ntwo"),
    ("<p>x<sup>2</sup> + y<br>next li<u>ne</u></p>", "x2 + y\nnext line"),
    ("<div>un<i>break</i>ably<div>in<b>ner</b> one</div>ou<b>ter</b></div>", "unbreakably\ninner one\nouter"),
    ("<pre>def f():\n    return <b>x</b>y\n</pre><p>a f<i>unction</i></p>", "def f():\n    return xy\na function"),
    ("<p>a</p><p>b</p><p>ab</p>", "a\nb\nab"),
    (f"<div>H<sub>2</sub>O {'is a glass of water ' * 5}</div>", f"H2O {'is a glass of water ' * 5}".strip()),
]  # fmt: skip


@pytest.mark.parametrize(("body", "expected"), TORN)
def test_tags_within_words_of_a_short_page_do_not_tear_them(tmp_path: Path, body: str, expected: str) -> None:
    corpus = made(tmp_path, {"a.html": f"<html><body>{body}</body></html>"})
    assert [text.rstrip() for text in texts(corpus)] == [expected]


def test_page_declares_its_encoding(tmp_path: Path) -> None:
    page = '<html><meta charset="iso-8859-2"><body><p>Žluťoučký kůň úpěl ďábelské ódy.</p></body></html>'
    corpus = made(tmp_path, {"a.html": page.encode("iso-8859-2")})
    assert "Žluťoučký kůň úpěl ďábelské ódy." in texts(corpus)[0]


def test_a_file_given_by_name_needs_no_suffix(tmp_path: Path) -> None:
    (tmp_path / "NOTES").write_text("some notes")
    corpus = build([tmp_path / "NOTES"], tmp_path / "out", settings=CorpusSettings("none"))
    assert texts(corpus) == ["some notes"]


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet"])
def test_missing_column_lists_those_there(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "in", {"good.txt": "text"})
    if name.endswith("parquet"):
        write_parquet(folder / name, {"review": ["x"], "stars": [1]})
    else:
        rows = "review,stars\nx,1\n" if name.endswith("csv") else '{"review": "x", "stars": 1}\n'
        write(folder, {name: rows})
    lacks = rf"{name} \(has no column 'text'; it has 'review', 'stars'; name .*--columns text=COLUMN"
    with pytest.raises(DataError, match=lacks):
        build([folder / name], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    other = build([folder], tmp_path / "out", settings=CorpusSettings("none"))
    assert texts(other) == ["text"]  # D28: one table without the column stops nothing
    assert reasons(other) == {name: "column not found"}
    for number, named in enumerate(({"text_column": "review"}, {"columns": "text=Review"})):
        settings = CorpusSettings("none", **named)
        assert texts(build([folder], tmp_path / f"out{number}", settings=settings))[1] == "x"


def test_bad_records_are_dropped_by_name(tmp_path: Path) -> None:
    bad = ['{"text": ', "[1]", '{"other": 1}', '{"text": 5}', '{"text": "  "}']
    rows = ['{"text": "good"}', *bad, '{"text": "fine"}']
    corpus = made(tmp_path, {"a.jsonl": "\n".join(rows)})
    assert texts(corpus) == ["good", "fine"]
    assert [(record["reason"], record["offset"]) for record in corpus.dropped()] == [
        ("not JSON", 1),
        ("not an object", 2),
        ("no text", 3),
        ("text is not a string", 4),
        ("empty", 5),
    ]
    assert corpus.record["dropped"] == dict.fromkeys(
        sorted(record["reason"] for record in corpus.dropped()), 1
    )


def test_unclosed_quote_and_giant_records_name_file_and_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "RECORD_CHARS", 10_000)
    monkeypatch.setattr(dialects, "RECORD_CHARS", 10_000)
    filler = "word " * 3000
    for name, content in {
        "a.csv": f'text\n"{filler}"\n',
        "b.csv": 'text\n"' + "never closed\n" * 2000,
        "c.jsonl": f'{{"text": "{filler}"}}\n',
    }.items():
        folder = write(tmp_path / name[0], {name: content})
        with pytest.raises(DataError, match=rf"{name} \(.*line [12].*1[05],000 characters"):
            build([folder], tmp_path / "out")


# ── what is left out ───────────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Text", "What cannot be read is named and counted; a table damaged midway leaves nothing behind"
)
def test_unreadable_files_are_named_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    damaged = gzip.compress(os.urandom(3000).hex().encode())
    folder = write(
        tmp_path / "in",
        {
            "good.txt": "good text",
            "binary.txt": bytes(range(256)) * 20,
            "cut.txt.gz": damaged[:-200],
            "not.parquet": b"PAR1 not really",
            "not.zip": b"not a zip",
            "photo.png": b"\x89PNG\r\n\x1a\n\0\0",
            ".hidden/x.txt": "hidden",
            "tiny.txt": "  ",
        },
    )
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.txt")
    corpus = build([folder], tmp_path / "out", settings=CorpusSettings(split="none"))
    assert texts(corpus) == ["good text"]
    assert reasons(corpus) == {
        "binary.txt": "unreadable",
        "cut.txt.gz": "unreadable",
        "not.parquet": "unreadable",
        "not.zip": "unreadable",
        "photo.png": "suffix not read",
        ".hidden": "hidden",
        "tiny.txt": "empty",
        "gone.txt": "unreadable",
        "loop": "link to a folder",
        "pipe.txt": "unreadable",
    }
    assert corpus.record["dropped"] == {
        "empty": 1,
        "hidden": 1,
        "link to a folder": 1,
        "suffix not read": 1,
        "unreadable": 6,
    }
    err = capsys.readouterr().err
    assert "left out, unreadable: 6:" in err
    assert "binary.txt (binary)" in err


def test_a_table_damaged_midway_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", {"a.txt": "before", "z.txt": "after"})
    rows = "".join(json.dumps({"text": f"record {n} {os.urandom(30).hex()}"}) + "\n" for n in range(40_000))
    whole = gzip.compress(rows.encode())
    (folder / "m.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    assert texts(build([folder], tmp_path / "out", settings=CorpusSettings("none"))) == ["before", "after"]


def test_dropped_duplicates_name_their_original(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"text": text}) + "\n" for text in ["one", "two", "one", "three", "one"])
    corpus = made(tmp_path, {"a.txt": "alpha\n", "b.txt": "alpha\r\n", "c.jsonl": rows})
    assert texts(corpus) == ["alpha\n", "one", "two", "three"]
    results = {
        (Path(record["source"]).name, record["offset"]): record["duplicate_of"] for record in corpus.dropped()
    }
    assert {key: (Path(of["source"]).name, of["offset"]) for key, of in results.items()} == {
        ("b.txt", 0): ("a.txt", 0),
        ("c.jsonl", 2): ("c.jsonl", 0),
        ("c.jsonl", 4): ("c.jsonl", 0),
    }
    assert len(texts(made(tmp_path, {"c.jsonl": rows}, "again", deduplicate=False))) == 5


def test_duplicates_across_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "BUCKET", 50)
    monkeypatch.setattr(builder, "ROWS_READ", 64)
    words = [f"text {n % 700}" for n in np.random.default_rng(0).integers(0, 5000, 2000)]
    corpus = made(tmp_path, {"a.jsonl": "".join(json.dumps({"text": word}) + "\n" for word in words)})
    assert texts(corpus) == list(dict.fromkeys(words))
    first = {word: words.index(word) for word in words}
    for record in corpus.dropped():
        assert record["duplicate_of"]["offset"] == first[words[record["offset"]]]


def test_min_chars(tmp_path: Path) -> None:
    assert texts(made(tmp_path, {"a.txt": "ab\n", "b.txt": "abc\n"}, min_chars=3)) == ["abc\n"]


# ── the split ──────────────────────────────────────────────────────────────────────────────────


def many(count: int) -> str:
    return "".join(json.dumps({"text": f"document {n} of many"}) + "\n" for n in range(count))


@pytest.mark.promise("Text", "A hash split depends on the document's text, not on its place")
def test_hash_split_is_of_the_document_not_its_place(tmp_path: Path) -> None:
    forward = made(tmp_path, {"a.jsonl": many(2000)}, "f", split="hash:0.2")
    backward = made(tmp_path, {"a.jsonl": "\n".join(reversed(many(2000).split("\n")))}, "b", split="hash:0.2")
    assert set(texts(forward, "validation")) == set(texts(backward, "validation"))
    assert set(texts(forward)).isdisjoint(texts(forward, "validation"))
    assert 340 < forward.n_documents("validation") < 460  # 5 deviations: 400 ± 18 each
    assert made(tmp_path, {"a.jsonl": many(2000)}, "auto", split="auto").record["split"] == "hash:0.1"


@pytest.mark.promise("Text", "A tail split cuts at exactly int((1 − F) · n) characters")
@pytest.mark.parametrize("n", [1, 9, 10, 1001, 1_000_000, 1_000_001, 2_345_678])
def test_tail_split_cuts_exactly(tmp_path: Path, n: int) -> None:
    text = ("0123456789é\n" * (n // 12 + 1))[:n]
    corpus = made(tmp_path, {"a.txt": text}, split="tail:0.1")
    train, validation = ("".join(corpus.texts(split)) for split in ("train", "validation"))
    assert len(train) == int(0.9 * n)
    assert train + validation == text
    at = 0
    for document in [*corpus.documents("train"), *corpus.documents("validation")]:
        assert document.offset == at
        at += len(document.text)
    assert corpus.n_chars("validation") == n - int(0.9 * n)
    assert corpus.n_bytes() == len(train.encode())


def test_few_documents_are_split_inside_and_that_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    corpus = made(tmp_path, {"a.txt": "a" * 100, "b.txt": "b" * 200}, split="auto")
    assert corpus.record["split"] == "tail:0.1"
    assert texts(corpus, "validation") == ["a" * 10, "b" * 20]
    assert "2 documents are too few to split by hash: the last 10% of each" in capsys.readouterr().err


@pytest.mark.promise("Text", "Normalising changes no byte of tiny Shakespeare")
def test_tiny_shakespeare_keeps_every_byte(tmp_path: Path) -> None:
    path = DATA / "tinyshakespeare" / "input.txt"
    if not path.exists():
        pytest.skip("needs ../shared/data/tinyshakespeare")
    corpus = build([path], tmp_path / "out", settings=CorpusSettings(split="tail:0.1"))
    whole = path.read_bytes()
    train, validation = ("".join(corpus.texts(split)) for split in ("train", "validation"))
    assert (train + validation).encode() == whole
    assert len(train) == int(0.9 * len(whole.decode()))
    assert all(document.steps == () for document in corpus.documents())


@pytest.mark.parametrize("split", ["hsh:0.1", "hash:x", "tail:1.5", "none:0.1", "hash:0"])
def test_a_wrong_split_is_refused(tmp_path: Path, split: str) -> None:
    with pytest.raises(UsageError, match=split):
        made(tmp_path, {"a.txt": "text"}, split=split)


# ── the folder ─────────────────────────────────────────────────────────────────────────────────


def test_same_content_same_fingerprint(tmp_path: Path) -> None:
    files = {"a.jsonl": many(100), "b.txt": SIMPLIFIED}
    first = made(tmp_path, files, "first", split="auto")
    second = made(tmp_path / "elsewhere" / "deep", files, "second", split="auto")
    assert first.fingerprint == second.fingerprint
    assert (first.path / "train.jsonl").read_bytes().count(b"\n") == first.n_documents()
    again = build([tmp_path / "first"], tmp_path / "again")
    assert [(again.path / name).read_bytes() for name in ("train.jsonl", "corpus.json")] == [
        (first.path / name).read_bytes() for name in ("train.jsonl", "corpus.json")
    ]
    changed = {**files, "b.txt": TRADITIONAL}
    assert made(tmp_path, changed, "third", split="auto").fingerprint != first.fingerprint
    assert made(tmp_path, files, "fourth", split="tail:0.1").fingerprint != first.fingerprint


def test_nothing_to_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with raises(DataError, "empty_data"):
        build([tmp_path / "empty"], tmp_path / "out")
    with raises(DataError, "empty_data", "1"):
        build([write(tmp_path / "pictures", {"a.png": b"\x89PNG\0"})], tmp_path / "out")
    with raises(DataError, "not_found", "nowhere"):
        build([tmp_path / "nowhere"], tmp_path / "out")
    with raises(UsageError, "missing_argument"):
        build([], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "pictures"]


def test_out_is_not_overwritten(tmp_path: Path) -> None:
    corpus = made(tmp_path, {"a.txt": "first text"})
    before = (corpus.path / "corpus.json").read_bytes()
    with raises(UsageError, "already_exists"):
        build([tmp_path / "in"], corpus.path)
    with pytest.raises(DataError):
        build([tmp_path / "nowhere"], corpus.path, force=True)
    assert (corpus.path / "corpus.json").read_bytes() == before  # a failed build takes nothing away
    write(tmp_path / "in", {"a.txt": "second text"})
    corpus = build([tmp_path / "in"], corpus.path, settings=CorpusSettings("none"), force=True)
    assert texts(corpus) == ["second text"]
    with raises(UsageError, "already_exists", "corpus"):
        build([tmp_path / "in"], tmp_path / "in", force=True)
    assert (tmp_path / "in" / "a.txt").exists()


def test_out_inside_its_own_source(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", {"a.txt": "some text"})
    first = build([folder], folder / "corpus", settings=CorpusSettings("none"))
    again = build([folder], folder / "corpus", settings=CorpusSettings("none"), force=True)
    assert texts(first) == texts(again) == ["some text"]
    assert again.record["dropped"] == {"the output itself": 1}
    assert first.fingerprint == again.fingerprint


def test_damage_is_found(tmp_path: Path) -> None:
    corpus = made(tmp_path, {"a.jsonl": many(30)})
    open_corpus(corpus.path, verify=True)
    path = corpus.path / "train.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    with raises(RunError, "damaged", "train.jsonl"):
        open_corpus(corpus.path, verify=True)
    path.write_bytes(whole[:-20])
    with raises(RunError, "damaged", "30"):
        list(corpus.documents())
    path.unlink()
    with raises(RunError, "damaged", "train.jsonl"):
        open_corpus(corpus.path)
    with raises(RunError, "not_a_corpus"):
        open_corpus(tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    corpus = made(tmp_path, {"a.txt": "text"})
    (corpus.path / "corpus.json").write_text(json.dumps(corpus.record | {"version": 999}))
    with raises(RunError, "version_unsupported", "999"):
        open_corpus(corpus.path)


@pytest.mark.promise("Text", "A full disk while building leaves no half corpus; a changed corpus is noticed")
def test_no_space_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: /dev/full refuses every write as a full disk does."""
    before = builder.StagingArea.__init__

    def full(self: builder.StagingArea, *arguments: object) -> None:
        before(self, *arguments)  # type: ignore[arg-type]
        self.parts.close()
        self.parts = Path("/dev/full").open("r+b", 0)  # type: ignore[assignment] # noqa: SIM115

    monkeypatch.setattr(builder.StagingArea, "__init__", full)
    with raises(TextusError, "disk_full"):
        made(tmp_path, {"a.txt": "text"})
    assert not list(tmp_path.glob("*corpus*"))


def test_dropped_files_are_named_only_where_the_file_of_them_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A corpus that failed has no dropped.jsonl: no line names it."""
    with raises(DataError, "empty_data", "1"):
        made(tmp_path / "none", {"c.png": b"\0"})
    with monkeypatch.context() as patched:
        patched.setattr(builder, "write_splits", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            made(tmp_path / "failed", {"a.txt": "text", "c.png": b"\0"})
    assert "dropped.jsonl" not in capsys.readouterr().err
    corpus = made(tmp_path / "good", {"a.txt": "text", "b.txt": "text", "c.png": b"\0"})
    lines = [line for line in capsys.readouterr().err.splitlines() if "dropped.jsonl" in line]
    assert [line.partition(":")[0] for line in lines] == [
        "left out, duplicate",
        "left out, suffix not read",
    ]
    assert len((corpus.path / "dropped.jsonl").read_text().splitlines()) == 2


def test_show_and_why(tmp_path: Path) -> None:
    files = {"a.txt": SIMPLIFIED.encode("gb18030"), "b.txt": SIMPLIFIED, "c.png": b"\0"}
    corpus = made(tmp_path, files, split="tail:0.1")
    shown = show(corpus)
    assert shown["train"]["documents"] == shown["validation"]["documents"] == 1
    assert shown["chars"] == len(SIMPLIFIED)
    assert shown["dropped"] == {"duplicate": 1, "suffix not read": 1}
    assert shown["sources"] == [{"path": str(tmp_path / "in"), "documents": 2}]
    first = next(corpus.documents())
    answer = trace_document(corpus, first.source)
    cut = int(0.9 * len(SIMPLIFIED))
    assert answer["kept"][0]["steps"] == ["encoding:gb18030"]
    assert answer["kept"][0]["chars"] == {"train": cut, "validation": len(SIMPLIFIED) - cut}
    by_id = trace_document(corpus, first.id)
    assert by_id["n_kept"] == 1
    assert by_id["dropped"][0]["duplicate_of"] == {"source": first.source, "offset": 0}
    assert trace_document(corpus, str(tmp_path / "in" / "c.png"))["dropped"][0]["reason"] == "suffix not read"
    with raises(DataError, "not_found", "'nothing'"):
        trace_document(corpus, "nothing")
    with raises(UsageError, "unknown_name", "'train'"):
        corpus.n_chars("trian")


def test_documents_from_python(tmp_path: Path) -> None:
    given_documents = [Document("", f"text {n}\r\n", f"python:{n}", 7) for n in range(5)]
    corpus = build_from_documents(iter(given_documents), tmp_path / "out", settings=CorpusSettings("none"))
    assert texts(corpus) == [f"text {n}\n" for n in range(5)]
    last = list(corpus.documents())[4]
    assert (last.source, last.offset, last.steps) == ("python:4", 7, ("newlines",))
    with raises(DataError, "empty_data"):
        build_from_documents([], tmp_path / "none")


def test_demo_documents(tmp_path: Path) -> None:
    documents = {document.source: document.text for document in demo_documents()}
    assert documents["pydoc_data.topics:assert"].startswith('The "assert" statement')
    assert "Simple, fast, extensible JSON encoder" not in documents["json.decoder:docstrings"]
    assert documents["json.decoder:docstrings"].index("Simple JSON <https://json.org> decoder") > 0
    assert 1_500_000 < sum(map(len, documents.values())) < 10_000_000


# ── memory ─────────────────────────────────────────────────────────────────────────────────────

MEASURED = """
    import resource, sys
    from pathlib import Path
    from textus.data.corpus import CorpusSettings, build

    corpus = build([Path(sys.argv[1])], Path(sys.argv[2]), settings=CorpusSettings(sys.argv[3]))
    n_read = sum(len(text) for split in ("train", "validation") for text in corpus.texts(split))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, n_read)
"""


def measured(source: Path, out: Path, split: str) -> tuple[int, int]:
    """(peak memory in MB, characters) of building and reading a corpus in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(MEASURED), str(source), str(out), split]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    megabytes, n_chars = done.stdout.split()
    return int(megabytes), int(n_chars)


def test_one_line_of_50_megabytes(tmp_path: Path) -> None:
    small, large = tmp_path / "small.txt", tmp_path / "large.txt"
    small.write_text("word é " * 1000, encoding="utf-8")
    large.write_text("word é " * 7_150_000, encoding="utf-8")
    at_rest, _ = measured(small, tmp_path / "s", "auto")
    peak, n_chars = measured(large, tmp_path / "l", "auto")
    assert n_chars == 7 * 7_150_000
    assert peak - at_rest < 60


@pytest.mark.promise("Text", "Memory does not grow with the corpus, nor with one long line")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_records(tmp_path: Path) -> None:
    def table(count: int) -> Path:
        path = tmp_path / f"{count}.jsonl"
        with path.open("w") as file:
            file.writelines(f'{{"text": "record {n * 7919 % 90_001} of a table"}}\n' for n in range(count))
        return path

    small, _ = measured(table(1000), tmp_path / "s", "auto")
    large, _ = measured(table(150_000), tmp_path / "l", "auto")
    assert large - small < 40

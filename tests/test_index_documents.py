"""Indexes of documents: pdf and docx with their pages and offsets, passages at headings, files that cannot be read,
and updates that embed only what changed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from documents import write_docx, write_pdf
from raising import raises

import textus
from textus.cli.main import main
from textus.core.errors import DataError, UsageError
from textus.data.passages import HEADINGS, read_passages
from textus.pipelines import search_index

ZH_PAGES = [["员工手册", "每位员工每年有三十天假期。"], ["第二章 病假", "生病时请在第一天早上通知主管。"]]


@pytest.fixture
def handbook(tmp_path: Path) -> Path:
    folder = tmp_path / "handbook"
    folder.mkdir()
    write_pdf(
        folder / "leave.pdf",
        [
            ["Every employee of the company may take", "thirty days of paid leave."],
            ["Sick employees call their manager before nine."],
        ],
    )
    write_pdf(folder / "zh.pdf", ZH_PAGES)
    write_docx(folder / "rules.docx", [("Noise", "Quiet hours begin at ten."), ("Pets", "Dogs are welcome.")])
    (folder / "food.md").write_text("# Kitchen\n\nLunch is at noon.\n\n# Garden\n\nTomatoes grow in June.\n")
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small similarity run; its vectors need not be good."""
    folder = tmp_path_factory.mktemp("encoder")
    words = ["lunch", "noon", "leave", "days", "garden", "tomatoes", "dogs", "quiet", "hours"]
    rows = [{"text": f"{a} {b}", "text_pair": f"{b} {a}"} for a in words for b in words if a < b]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ("train.batch_size=8", "model.n_layer=1", "model.d_model=16")
    textus.finetune(
        folder / "pairs.jsonl",
        task="similarity",
        model="gru",
        out=folder / "run",
        epochs=1,
        overrides=settings,
    )
    return folder / "run"


# ── reading ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Tasks", "An index of documents keeps the file, page and character offset of each passage"
)
def test_every_passage_has_its_file_page_and_offset(handbook: Path) -> None:
    passages = read_passages(handbook)
    texts = {Path(p.file or "").name: p for p in passages}
    assert set(texts) == {"leave.pdf", "zh.pdf", "rules.docx", "food.md"}
    documents: dict[str, str] = {}
    for passage in passages:
        assert passage.file is not None
        assert Path(passage.file).parent == handbook
        documents.setdefault(passage.file, "")
        assert passage.start == len(documents[passage.file])  # no part overlaps another or is lost
        documents[passage.file] += passage.text
    chinese = [passage for passage in passages if passage.id == "zh.pdf"]
    assert [(passage.page, "病假" in passage.text) for passage in chinese] == [(1, False), (2, True)]
    assert [p.text.split("\n")[0] for p in passages if p.id == "rules.docx"] == ["# Noise", "# Pets"]
    assert [p.text.split("\n")[0] for p in passages if p.id == "food.md"] == ["# Kitchen", "# Garden"]
    assert {p.page for p in passages if p.id in ("rules.docx", "food.md")} == {None}


def test_wrapped_lines_of_a_pdf_are_joined(handbook: Path) -> None:
    (first, *_) = read_passages(handbook / "leave.pdf")
    assert first.text.startswith("Every employee of the company may take thirty days of paid leave.")
    assert "\f" in first.text
    assert first.page == 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("# Title", True),
        ("2.1 Working hours", True),
        ("第三章 请假", True),
        ("一、总则", True),
        ("Chapter 4 Travel", True),
        ("1. Wash your hands.", False),
        ("3.5 million people live there.", False),
        ("第三章说明了很多事情。" * 9, False),
        ("Lunch is at noon.", False),
    ],
)
def test_headings_are_lines_of_their_own(line: str, expected: bool) -> None:
    assert bool(HEADINGS.search(f"a\n{line}\nb")) is expected


def test_a_heading_without_text_stays_with_the_next_one(tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    file.write_text("# Book\n\n## Part\n\nText of the part.\n\n## Other\n\nMore.\n")
    assert [passage.text.split("\n")[0] for passage in read_passages(file)] == ["# Book", "## Other"]


def test_unreadable_documents_are_reported_and_counted(handbook: Path, capsys: pytest.CaptureFixture) -> None:
    write_pdf(handbook / "scan1.pdf", [[]], image=True)
    write_pdf(handbook / "scan2.pdf", [[], []], image=True)
    write_pdf(handbook / "blank.pdf", [[]])
    write_pdf(handbook / "locked.pdf", [["secret"]], password="x")
    (handbook / "cut.pdf").write_bytes(b"%PDF-1.4\n1 0 obj")
    (handbook / "cut.docx").write_bytes(b"PK\3\4nothing")
    (handbook / "old.docx").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(600))
    passages = read_passages(handbook)
    assert {passage.id for passage in passages} == {"leave.pdf", "zh.pdf", "rules.docx", "food.md"}
    lines = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert len(lines) == 5
    expected = {
        "scanned pdf": "2, the first",
        "no text": "1,",
        "encrypted": "2,",
        "damaged pdf": "1,",
        "damaged docx": "1,",
    }
    for reason, count in expected.items():
        (line,) = (line for line in lines if reason in line)
        assert f": {count}" in line


@pytest.mark.parametrize("kind", ["scanned", "encrypted", "empty"])
def test_one_unreadable_document_is_an_error(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "a.pdf"
    lines = ["text"] if kind == "encrypted" else []
    write_pdf(file, [lines], image=kind == "scanned", password="x" if kind == "encrypted" else "")
    with raises(DataError, code="unreadable_file"):
        textus.build_index(file, out=tmp_path / "index", bm25=True)
    assert not (tmp_path / "index").exists()


def test_a_corpus_is_built_of_pdf_and_docx(handbook: Path, tmp_path: Path) -> None:
    corpus = textus.build_corpus(handbook, out=tmp_path / "corpus", split="none")
    text = "\n".join(document.text for document in corpus.documents())
    assert "thirty days" in text
    assert "三十天假期" in text
    assert "Quiet hours" in text


# ── updates ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that are embedded, by the real encoder."""
    texts: list[str] = []
    embed = search_index.embed_texts

    def embed_and_count(model: Any, task: Any, tokenizer: Any, given: Any) -> Any:
        texts.extend(given)
        return embed(model, task, tokenizer, given)

    monkeypatch.setattr(search_index, "embed_texts", embed_and_count)
    return texts


@pytest.mark.promise("Tasks", "index add embeds only the passages of new and changed files")
def test_only_changed_files_are_embedded(
    handbook: Path, encoder: Path, tmp_path: Path, counted: list[str]
) -> None:
    index = textus.build_index(handbook, out=tmp_path / "index", run=encoder, bm25=True)
    assert sorted(counted) == sorted(index.documents)
    counted.clear()
    result = textus.add_to_index(tmp_path / "index", handbook)
    assert (result["unchanged"], result["changed"], result["embedded"], counted) == (4, 0, 0, [])
    (handbook / "food.md").write_text("# Kitchen\n\nLunch is at one.\n\n# Garden\n\nTomatoes grow in June.\n")
    (handbook / "new.txt").write_text("The gate closes at eight.\nKeys are at the desk.")
    result = textus.add_to_index(tmp_path / "index", handbook)
    embedded = [text for text in counted if text != "a"]  # the check of the width of vectors
    assert sorted(embedded) == [
        "# Kitchen\n\nLunch is at one.\n\n",
        "The gate closes at eight.\nKeys are at the desk.",
    ]
    assert (result["added"], result["changed"], result["unchanged"], result["embedded"]) == (1, 1, 3, 2)
    whole = textus.build_index(handbook, out=tmp_path / "whole", run=encoder, bm25=True)
    updated = textus.open_index(tmp_path / "index")
    assert sorted(updated.documents) == sorted(whole.documents)
    query = "when does the gate close"
    for mode in ("bm25", "dense"):
        first, second = (
            {
                r["text"]: pytest.approx(r["score"], abs=1e-5)
                for r in textus.search(i, query, mode=mode)["results"]
            }
            for i in (updated, whole)
        )
        assert first == second


def test_removed_files_are_gone(handbook: Path, tmp_path: Path) -> None:
    textus.build_index(handbook, out=tmp_path / "index", bm25=True)
    result = textus.remove_from_index(tmp_path / "index", handbook / "food.md")
    assert (result["removed"], result["unchanged"]) == (1, 3)
    assert not textus.search(tmp_path / "index", "tomatoes")["results"]
    (handbook / "rules.docx").unlink()
    assert textus.add_to_index(tmp_path / "index", handbook)["removed"] == 1
    assert not textus.search(tmp_path / "index", "dogs")["results"]
    assert textus.search(tmp_path / "index", "tomatoes")[
        "results"
    ]  # food.md is in the folder, and added again


def test_a_text_of_two_files_stays_until_both_are_removed(tmp_path: Path) -> None:
    for name in ("a.md", "b.md", "c.md"):
        (tmp_path / name).write_text("Same text." if name != "c.md" else "Other words.")
    textus.build_index([tmp_path / n for n in ("a.md", "b.md", "c.md")], out=tmp_path / "index", bm25=True)
    textus.remove_from_index(tmp_path / "index", tmp_path / "a.md")
    (result,) = textus.search(tmp_path / "index", "same")["results"]
    assert result["id"] == "b.md"
    textus.remove_from_index(tmp_path / "index", tmp_path / "b.md")
    assert not textus.search(tmp_path / "index", "same")["results"]


def test_wrong_updates_are_refused_and_change_nothing(handbook: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"
    textus.build_index(handbook, out=out, bm25=True)
    before = (out / "index.json").read_bytes()
    with raises(DataError, code="not_found"):
        textus.add_to_index(out, tmp_path / "nothing")
    with raises(UsageError, code="not_found"):
        textus.remove_from_index(out, tmp_path / "nothing")
    with raises(UsageError, code="empty_data"):
        textus.remove_from_index(out, handbook)
    with raises(UsageError, code="missing_argument"):
        textus.add_to_index(out, [])
    assert (out / "index.json").read_bytes() == before
    record = json.loads(before)
    del record["sources"]
    (out / "index.json").write_text(json.dumps(record))
    with raises(UsageError, code="option_not_applicable"):
        textus.add_to_index(out, handbook)


def test_the_commands_build_add_and_remove(
    handbook: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = str(tmp_path / "index")
    assert (
        main(["index", "build", str(handbook / "food.md"), str(handbook / "zh.pdf"), "--bm25", "--out", out])
        == 0
    )
    assert main(["index", "add", out, str(handbook), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["added"] == 2
    assert main(["index", "remove", out, str(handbook / "zh.pdf")]) == 0
    assert "1 removed" in capsys.readouterr().out

"""Indexes: found by words, by meaning, by both; kept whole, moved, damaged; and the commands that make and ask them."""

from __future__ import annotations

import itertools
import json
import math
import random
import shutil
import time
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from labelled import written
from raising import raises

from textus import api
from textus.cli.main import main
from textus.core.errors import DataError, RunError, UsageError
from textus.data.passages import OVERLAP_PARTS, PASSAGE_BYTES, Passage, cut_passages, read_passages
from textus.pipelines import search_index
from textus.pipelines.search_index import Index, bm25_tokens, reciprocal_rank_fusion

SMALL = ("train.batch_size=8", "model.n_layer=1", "model.d_model=32", "optim.rate=0.005", "model.dropout=0")
WORDS = ["red", "green", "blue", "black", "white", "grey", "pink", "brown", "gold", "teal", "plum", "rust"]
ZH = ["今天天气很好", "他昨天买了一本书", "我们明天去北京看长城", "这家饭店的菜很好吃"]


def documents(n: int = 60, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return list(dict.fromkeys(" ".join(draw.choices(WORDS, k=draw.randint(3, 7))) for _ in range(n)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    """A model of which text has which words: pairs of the same words in another order belong together."""
    folder, draw = tmp_path_factory.mktemp("run"), random.Random(1)
    rows = []
    for text in documents(300, seed=1):
        rows.append({"text": text, "text_pair": " ".join(draw.sample(words := text.split(), len(words)))})
    data = written(folder / "pairs.jsonl", rows)
    return api.finetune(data, task="similarity", model="gru", out=folder / "run", epochs=3, overrides=SMALL)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"text": text, "id": number} for number, text in enumerate(documents())]
    return written(tmp_path_factory.mktemp("pages") / "pages.jsonl", rows)


@pytest.fixture(scope="module")
def both(run: api.Run, pages: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return api.build_index(pages, out=tmp_path_factory.mktemp("index") / "both", run=run.path, bm25=True)


@pytest.fixture
def copied(both: Index, tmp_path: Path) -> Path:
    return Path(shutil.copytree(both.path, tmp_path / "copy"))


# ── words ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Film's end", ["the", "film", "s", "end"]),
        ("看长城", ["看", "长", "城", "看长", "长城"]),
        ("GPT2模型好use", ["gpt2", "模", "型", "好", "模型", "型好", "use"]),
        ("!?", []),
    ],
)
def test_words_are_words_and_chinese_is_pairs_of_characters(text: str, expected: list[str]) -> None:
    assert bm25_tokens(text) == expected


@pytest.mark.promise("Tasks", "Index results equal BM25 written out, all cosines, and reciprocal rank fusion")
def test_scores_by_words_are_those_of_lucene(both: Index) -> None:
    """BM25 written out: k1 1.5, b 0.75, idf log(1 + (N - n + 0.5) / (n + 0.5))."""
    texts = [text.split() for text in both.documents]
    mean, known = sum(map(len, texts)) / len(texts), Counter(word for text in texts for word in set(text))
    query = ["gold", "rust", "teal"]

    def score(text: list[str]) -> float:
        total = 0.0
        for word in query:
            idf = math.log(1 + (len(texts) - known[word] + 0.5) / (known[word] + 0.5))
            count = text.count(word)
            total += idf * count / (count + 1.5 * (1 - 0.75 + 0.75 * len(text) / mean))
        return total

    expected = {number: value for number, text in enumerate(texts) if (value := score(text))}
    match = both.search([" ".join(query)], k=len(texts), mode="bm25")[0]
    assert dict(match) == pytest.approx(expected, rel=1e-4)
    assert [value for _, value in match] == sorted((value for _, value in match), reverse=True)


def test_chinese_is_found_by_its_words_in_another_order(tmp_path: Path) -> None:
    index = api.build_index(
        written(tmp_path / "zh.jsonl", [{"text": item} for item in ZH]), out=tmp_path / "index", bm25=True
    )
    assert index.search(["去看北京的长城"], k=1)[0][0][0] == 2
    assert index.search(["买书"], k=1)[0][0][0] == 1
    assert index.search(["zebra", ""]) == [[], []]


# ── meaning ────────────────────────────────────────────────────────────────────────────────────


def test_by_meaning_the_nearest_vectors_are_found(both: Index, run: api.Run) -> None:
    queries = ["rust gold", "teal plum red blue"]
    cosines = run.embed(queries) @ run.embed(both.documents).T
    for row, result in zip(cosines, both.search(queries, k=5, mode="dense"), strict=True):
        assert [number for number, _ in result] == np.argsort(-row)[:5].tolist()
        assert [score for _, score in result] == pytest.approx(np.sort(row)[::-1][:5], abs=1e-5)


def test_the_graph_finds_nearly_what_comparing_all_finds(
    both: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = documents(40, seed=5)
    exact = both.search(queries, k=5, mode="dense")
    monkeypatch.setattr(search_index, "MAX_EXACT", 0)
    walked = both.search(queries, k=5, mode="dense")
    pairs = zip(exact, walked, strict=True)
    shared = sum(len({n for n, _ in one} & {n for n, _ in other}) for one, other in pairs)
    assert shared / (5 * len(queries)) > 0.95


def test_lists_are_fused_by_their_places() -> None:
    result = reciprocal_rank_fusion([[(7, 9.0), (3, 1.0)], [(3, 0.2), (5, 0.1)]])
    assert [number for number, _ in result] == [3, 7, 5]
    assert [score for _, score in result] == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62])


def test_both_together_are_the_default(both: Index) -> None:
    query = [both.documents[7]]
    lists = [both.search(query, k=100, mode=way)[0] for way in ("bm25", "dense")]
    assert both.search(query, k=5)[0] == reciprocal_rank_fusion(lists)[:5]
    assert both.search(query, k=1)[0][0][0] == 7


# ── the folder ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Tasks", "An index is whole in itself; damage, another model and ways it was not built for are refused"
)
def test_an_index_is_whole_in_itself(run: api.Run, pages: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(run.path, tmp_path / "run"))
    first = api.build_index(pages, out=tmp_path / "index", run=own, bm25=True)
    expected = first.search(["rust gold"])
    shutil.rmtree(own)
    moved = (tmp_path / "index").rename(tmp_path / "elsewhere")
    assert api.open_index(moved).search(["rust gold"]) == expected


@pytest.mark.parametrize(
    "name", ["documents.jsonl", "vectors.usearch", "bm25/params.index.json", "bm25/data.csc.index.npy"]
)
@pytest.mark.parametrize("fault", ["changed", "gone"])
def test_damage_is_seen_before_anything_is_answered(copied: Path, name: str, fault: str) -> None:
    file = copied / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.unlink()
    if fault == "changed":
        file.write_bytes(data)
    with pytest.raises(RunError, match="was changed since" if fault == "changed" else "is missing"):
        api.open_index(copied)


def test_weights_that_were_changed_are_seen(copied: Path) -> None:
    file = copied / "run" / "model.safetensors"
    data = bytearray(file.read_bytes())
    file.unlink()
    data[-1] ^= 1
    file.write_bytes(data)
    with raises(RunError, "damaged"):
        api.open_index(copied).search(["gold"])


def test_a_query_with_another_model_is_refused(copied: Path, run: api.Run, tmp_path: Path) -> None:
    data = written(tmp_path / "p.jsonl", [{"text": t, "text_pair": t} for t in documents(300, seed=1)])
    other = api.finetune(
        data, task="similarity", model="gru", out=tmp_path / "run", epochs=1, overrides=SMALL
    )
    shutil.rmtree(copied / "run")
    shutil.copytree(other.path, copied / "run")
    index = api.open_index(copied)
    assert index.search(["gold"], mode="bm25")[0]
    with raises(RunError, "data_changed"):
        index.search(["gold"], mode="dense")


def test_what_it_was_not_built_for_is_refused(pages: Path, both: Index, tmp_path: Path) -> None:
    index = api.build_index(pages, out=tmp_path / "words", bm25=True)
    with raises(UsageError, "option_not_applicable", "bm25", "dense"):
        index.search(["gold"], mode="dense")
    with raises(UsageError, "unknown_name", "'dense'"):
        both.search(["gold"], mode="dens")
    with raises(UsageError, "out_of_range", "0"):
        both.search(["gold"], k=0)
    with raises(UsageError, "missing_argument"):
        api.build_index(pages, out=tmp_path / "none")
    with raises(UsageError, "already_exists"):
        api.build_index(pages, out=tmp_path / "words", bm25=True)
    with raises(RunError, "not_an_index"):
        api.open_index(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "index.json").write_text("{}")
    with raises(UsageError, "already_exists", "index"):
        api.build_index(pages, out=tmp_path / "full", bm25=True, force=True)
    assert api.build_index(pages, out=tmp_path / "words", bm25=True, force=True).default_mode == "bm25"


def test_a_run_that_counts_makes_no_vectors(pages: Path, counted: Path, tmp_path: Path) -> None:
    with raises(UsageError, "unsupported_model"):
        api.build_index(pages, out=tmp_path / "index", run=counted)
    assert not (tmp_path / "index").exists()


def test_texts_that_are_left_out_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "lines.txt"
    file.write_text("one\n\ntwo\none\n", encoding="utf-8")
    assert [passage.text for passage in read_passages(file)] == ["one", "two"]
    err = capsys.readouterr().err
    assert "1 of 4 texts are empty" in err
    assert "1 of 4 texts are repeated" in err
    (tmp_path / "blank.txt").write_text(" \n\n")
    with raises(DataError, "empty_data"):
        read_passages(tmp_path / "blank.txt")
    with raises(DataError, "column_not_found", "'text'", "'q'"):
        read_passages(written(tmp_path / "q.jsonl", [{"q": "a"}]))
    with raises(DataError, "invalid_row", "text", "int", "3"):
        read_passages(written(tmp_path / "n.jsonl", [{"text": 3}]))


# ── where a result comes from ──────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Robustness",
    "Results of a search have the file's ids and numbers; passages leave nothing of a document out",
)
def test_results_have_the_ids_and_numbers_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """D22: the row's id, and its place in the file, not its place among those that were kept."""
    rows = [("A", "same text"), ("B", "same text"), ("C", ""), ("D", "the wanted page about rice")]
    file = written(tmp_path / "ids.jsonl", [{"id": name, "text": text} for name, text in rows])
    index = tmp_path / "index"
    assert main(["index", "build", str(file), "--bm25", "--out", str(index)]) == 0
    capsys.readouterr()
    assert main(["search", str(index), "rice", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["results"]
    assert (report["id"], report["number"], report["where"]) == ("D", 3, f"{file}: line 4")
    assert main(["search", str(index), "same", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["results"]
    assert (report["id"], report["same"]) == ("A", ["B"])
    queries = [{"q": "rice", "d": "D"}, {"q": "same", "d": "B"}]
    opened = api.open_index(index)
    figures = opened.evaluate(written(tmp_path / "q.jsonl", queries), columns="text=q,document_id=d")
    assert figures["recall@1"]["value"] == 1
    with raises(DataError, "not_found", "line 1", "'Z'"):
        opened.evaluate(written(tmp_path / "z.jsonl", [{"text": "rice", "document_id": "Z"}]))


def test_a_document_that_was_copied_with_other_line_ends_is_the_same(tmp_path: Path) -> None:
    file = written(tmp_path / "docs.jsonl", [{"text": "first line\r\nsecond line"}, {"text": "other"}])
    index = api.build_index(file, out=tmp_path / "index", bm25=True)
    request = written(tmp_path / "q.jsonl", [{"text": "second", "document": "first line\nsecond line "}])
    assert index.evaluate(request)["recall@1"]["value"] == 1


@pytest.mark.parametrize("name", ["lines.txt", "lines.jsonl", "lines.csv"])
def test_accents_are_found_however_they_are_written(tmp_path: Path, name: str) -> None:
    """D13: documents and queries are NFC."""
    texts = [unicodedata.normalize("NFD", text) for text in ("Zoë arrived in Málaga", "plain line")]
    file = tmp_path / name
    if name.endswith("jsonl"):
        written(file, [{"text": text} for text in texts])
    else:
        file.write_text(
            "\n".join([*(["text"] if name.endswith("csv") else []), *texts]) + "\n", encoding="utf-8"
        )
    index = api.build_index(file, out=tmp_path / "index", bm25=True)
    assert [item[0][0] for item in index.search(["Zoë", unicodedata.normalize("NFD", "málaga")])] == [0, 0]


BOOK = "".join(f"Chapter {n}. The captain of ship {n} writes a letter. It is cold. " for n in range(200))
ZH_BOOK = "".join(f"第{n}章。船长写了第{n}封信，天气很冷！" for n in range(200))


@pytest.mark.parametrize(
    "text", [BOOK, ZH_BOOK, "x" * 5000, "长" * 3000, "word " * 2000, "\n" * 3000 + "end"]
)
def test_passages_are_short_overlap_and_leave_nothing_out(text: str) -> None:
    """U10: all of a book can be found."""
    passages = list(cut_passages(Passage(text, 0, "book"), PASSAGE_BYTES))
    assert all(len(passage.text.encode()) <= PASSAGE_BYTES for passage in passages)
    assert all(text.startswith(passage.text, passage.start) for passage in passages)
    covered = sorted((passage.start, passage.start + len(passage.text)) for passage in passages)
    assert not text[: covered[0][0]].strip()
    assert all(not text[end:start].strip() for (_, end), (start, _) in itertools.pairwise(covered))
    assert not text[covered[-1][1] :].strip()
    if text in (BOOK, ZH_BOOK):
        shared = [before[1] - after[0] for before, after in itertools.pairwise(covered)]
        assert all(0 < n <= PASSAGE_BYTES // OVERLAP_PARTS for n in shared)
        assert all(passage.text.rstrip()[-1] in ".。！" for passage in passages)
    assert len(list(cut_passages(Passage(text, 0, "book"), 0))) == 1


def test_a_folder_of_books_is_searched_to_its_last_page(
    run: api.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """U10: results name their file and place, and show the stretch that fits."""
    books = tmp_path / "books"
    (books / "sea").mkdir(parents=True)
    (books / "sea" / "ships.txt").write_text(BOOK + "At last the zeppelin landed in Porto.", encoding="utf-8")
    (books / "short.md").write_text("A note on rust.", encoding="utf-8")
    written(books / "rows.jsonl", [{"id": 7, "text": "gold", "title": "metals"}])
    (books / "picture.png").write_bytes(b"\x89PNG")
    index = tmp_path / "index"
    assert main(["index", "build", str(books), "--run", str(run.path), "--bm25", "--out", str(index)]) == 0
    err = capsys.readouterr().err
    assert "1 of 3 documents are long: they are indexed as passages" in err
    assert "left out, suffix not read: 1, the first" in err
    assert main(["search", str(index), "zeppelin in Porto", "--mode", "bm25", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["results"][0]
    assert (report["id"], report["title"]) == ("sea/ships.txt", "ships")
    assert 0 < report["start"] < len(BOOK)
    assert main(["search", str(index), "zeppelin in Porto", "--mode", "bm25", "--top", "1"]) == 0
    shown = capsys.readouterr().out
    assert "sea/ships.txt" in shown
    assert "zeppelin landed in Porto" in shown
    opened = api.open_index(index)
    prompts = [
        {"text": "letter captain", "document_id": "sea/ships.txt"},
        {"text": "gold", "document_id": "7"},
    ]
    figures = opened.evaluate(written(tmp_path / "q.jsonl", prompts), mode="bm25")
    assert figures["recall@1"]["value"] == 1


def test_one_query_is_not_taken_for_a_list_of_letters(both: Index) -> None:
    """U4: a string is one query and has one list of results."""
    assert both.search("gold") == both.search(["gold"])[0]
    assert both.search([]) == []
    with raises(UsageError, "wrong_type", "1", "int", "'3'"):
        both.search([3])
    with raises(UsageError, "wrong_type"):
        both.search([("gold", "ship")])


# ── figures and commands ───────────────────────────────────────────────────────────────────────


def test_an_index_is_measured_on_questions(both: Index, tmp_path: Path) -> None:
    rows = [{"q": text, "page": text} for text in both.documents[:30]]
    rows.append({"q": both.documents[0], "page": both.documents[1]})  # a second one that is right
    data = written(tmp_path / "asked.jsonl", rows)
    scores = both.evaluate(data, columns="text=q,document=page", mode="bm25")
    lists = both.search(both.documents[:30], mode="bm25")
    hits = [any(n == number for n, _ in item[:1]) for number, item in enumerate(lists)]
    hits[0] = hits[0] / 2  # type: ignore[call-overload]
    assert scores["queries"] == 30
    assert scores["recall@1"]["value"] == pytest.approx(np.mean(hits))
    with raises(DataError, "not_found", "line 1", "'nowhere'"):
        both.evaluate(written(tmp_path / "bad.jsonl", [{"text": "a", "document": "nowhere"}]))


def test_the_commands(run: api.Run, pages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index, vectors = tmp_path / "index", tmp_path / "vectors.npy"
    assert main(["embed", str(run.path), str(pages), "--out", str(vectors)]) == 0
    kept = np.load(vectors, allow_pickle=False)
    assert kept == pytest.approx(run.embed(documents()), abs=1e-6)
    assert np.linalg.norm(kept, axis=1) == pytest.approx(1, abs=1e-5)
    assert main(["embed", str(run.path), str(pages), "--out", str(vectors)]) == 2
    assert main(["index", "build", str(pages), "--bm25", "--out", str(index)]) == 0
    assert "textus search" in capsys.readouterr().out
    assert main(["search", str(index), documents()[3], "--top", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["results"]
    assert (report[0]["number"], report[0]["text"]) == (3, documents()[3])
    assert len(report) == 2
    assert main(["search", str(index), "zebra"]) == 0
    assert "no results" in capsys.readouterr().out
    request = written(
        tmp_path / "asked.jsonl", [{"text": document, "document": document} for document in documents()[:9]]
    )
    assert main(["index", "evaluate", str(index), "--on", str(request), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recall@5"]["value"] > 0.9


def test_searching_ten_thousand_texts_takes_no_second(tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = [{"text": f"{number} " + " ".join(draw.choices(WORDS, k=9))} for number in range(10_000)]
    index = api.build_index(written(tmp_path / "many.jsonl", rows), out=tmp_path / "index", bm25=True)
    index.search(["gold rust"])
    used = time.process_time()
    assert index.search(["77 gold rust"], k=1)[0][0][0] == 77
    assert time.process_time() - used < 1

"""Augmentation: labels stay right, the same seed gives the same rows, held-out rows are not learnt from."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled import written
from raising import raises

from textus import api
from textus.augment import operations, units, wordnet
from textus.augment.augmenter import AugmentConfig, Augmenter, augment_records, make_operations, origin_id
from textus.cli.main import main
from textus.core.errors import DataError, RunError, UsageError
from textus.data.labeled import Record, stream_records
from textus.finetuning.data import drop_copies, split_rows
from textus.models.word_vectors import WordVectors

SMALL = ("train.batch_size=8", "model.n_layer=1", "model.d_model=16", "compute.precision=float32")
WORDS = {
    "movie": ["film", "picture"],
    "good": ["fine", "great"],
    "small": ["little"],
    "won": ["gained"],
    "call": ["plea"],
}
WITHOUT_FILES = "swap,delete,typos,ocr"


def known(word: str) -> list[str]:
    return WORDS.get(word.lower(), [])


def augmenter(names: str = "synonyms,insert,swap,delete,typos,ocr,pinyin", **how: Any) -> Augmenter:
    """With a small dictionary of its own for synonyms."""
    settings = AugmentConfig(names, **how)
    files = [name for name in settings.names if name not in ("synonyms", "insert")]
    made = make_operations(AugmentConfig(",".join(files))) if files else {}
    made |= {"synonyms": operations.make_synonyms(known), "insert": operations.make_insert(known)}
    return Augmenter(settings, {name: made[name] for name in settings.names})


def reviews(n: int) -> list[dict[str, Any]]:
    draw = random.Random(1)
    words = [*WORDS, "the", "film", "was", "a", "long", "story", "of", "two", "men", "town"]
    return [
        {"text": f"{' '.join(draw.choices(words, k=6))} {('dull', 'grand')[n % 2]} {n}", "label": n % 2}
        for n in range(n)
    ]


# ── labels ─────────────────────────────────────────────────────────────────────────────────────

SPANS = {
    "text": "  In 1999, the Great Bears won the small  cup; Ann Lee saw a good movie.",
    "entities": [
        {"start": 13, "end": 24, "label": "team", "text": "Great Bears"[:11]},
        {"start": 47, "end": 54, "label": "person"},
    ],
}
SPANS["entities"][0] |= {"start": SPANS["text"].index("Great"), "end": SPANS["text"].index("Great") + 11}
SPANS["entities"][1] |= {"start": SPANS["text"].index("Ann"), "end": SPANS["text"].index("Ann") + 7}
ANSWERS = {
    "question": "Who won a small movie?",
    "context": SPANS["text"],
    "answers": {"text": ["the Great Bears"], "answer_start": [SPANS["text"].index("the Great")]},
}
OBJECTS = {
    "question": "Who won?",
    "context": SPANS["text"],
    "answers": [
        {"text": "Great Bears", "start": SPANS["text"].index("Great") - 1},
        {"text": "They", "start": -1},
    ],
}
TOKENS = {
    "tokens": [
        "EU",
        "rejects",
        "German",
        "call",
        "to",
        "stop",
        "Peter",
        "Blackburn",
        "and",
        "small",
        "lamb",
        ".",
    ],
    "tags": ["B-ORG", "O", "B-MISC", "O", "O", "O", "B-PER", "I-PER", "O", "O", "O", "O"],
}
CLUENER = {
    "text": "彭小军认为，国内银行现在走的是台湾的发卡模式",
    "label": {"address": {"台湾": [[15, 16]]}, "name": {"彭小军": [[0, 2]]}},
}
LISTS = {
    "text": SPANS["text"],
    "label": [[entity["start"], entity["end"], entity["label"]] for entity in SPANS["entities"]],
}
EXCLUSIVE = {
    "text": CLUENER["text"],
    "entities": {"name": {"彭小军": [[0, 3]]}, "address": {"台湾": [[15, 17]]}},
}


def labelled(row: dict[str, Any]) -> list[tuple[str, str]]:
    """What each label of a row points at, by its offsets alone."""
    results = []
    if isinstance(label := row.get("label"), list):
        return [(kind, row["text"][start:end]) for start, end, kind in label]
    if isinstance(row.get("entities"), dict):
        row = {"text": row["text"], "label": row["entities"]}
    for span in row.get("entities", []):
        surface = row["text"][span["start"] : span["end"]]
        assert span.get("text", surface) == surface
        results.append((span["label"], surface))
    if "answers" in row:
        answers = row["answers"]
        if isinstance(answers, dict):
            answers = [
                {"text": text, "start": at}
                for text, at in zip(answers["text"], answers["answer_start"], strict=True)
            ]
        for answer in answers:
            if answer["start"] >= 0 and row is not OBJECTS:  # whose place is one beside, as some sets have it
                assert row["context"].startswith(answer["text"], answer["start"])
            results.append(("answer", answer["text"]))
    if isinstance(row.get("label"), dict):
        for kind, texts in row["label"].items():
            for text, places in texts.items():
                assert all(text in (row["text"][a : b + 1], row["text"][a:b]) for a, b in places)
                results += [(kind, text) for _ in places]
    if "tokens" in row:
        assert len(row["tokens"]) == len(row["tags"])
        results += entities(row["tokens"], row["tags"])
    return results


def entities(tokens: list[str], tags: list[str]) -> list[tuple[str, str]]:
    """By seqeval's reading of BIO and IO tags: a stretch goes on while the class does and no B- comes."""
    results: list[list[str]] = []
    before = "O"
    for token, tag in zip(tokens, tags, strict=True):
        if tag != "O" and (tag.startswith("B-") or before[2:] != tag[2:] or before == "O"):
            results.append([tag[2:], token])
        elif tag != "O":
            results[-1].append(token)
        before = tag
    return [(kind, " ".join(words)) for kind, *words in results]


@pytest.mark.promise(
    "Tasks",
    "Augmentation keeps labels right (classes, spans, answers, tags, CLUENER's form), for any text; a "
    "label left behind is seen",
)
@pytest.mark.parametrize(
    "row",
    [SPANS, LISTS, ANSWERS, OBJECTS, TOKENS, CLUENER, EXCLUSIVE],
    ids=["spans", "lists", "answers", "objects", "tokens", "cluener", "exclusive"],
)
@pytest.mark.parametrize("name", ["synonyms", "insert", "swap", "delete", "typos", "ocr", "pinyin"])
def test_labels_move_with_the_text(row: dict[str, Any], name: str) -> None:
    if name in ("typos", "pinyin") and row in (CLUENER, EXCLUSIVE):
        pytest.importorskip("pypinyin")
    copies = augmenter(name, copies=40, rate=0.4).augment(row)
    only_english = ("synonyms", "insert", "ocr")
    can = name != "pinyin" if row not in (CLUENER, EXCLUSIVE) else name not in only_english
    assert bool(copies) == can
    for copy in copies:
        assert sorted(labelled(copy)) == sorted(labelled(row))
        assert copy["augmented"] == name


def test_several_classes_of_a_text_are_no_stretches() -> None:
    row = {"text": "a small movie", "label": ["good", "long"]}
    assert all(copy["label"] == row["label"] for copy in augmenter("swap,delete", copies=3).augment(row))


def test_the_task_of_entities_reads_the_copies() -> None:
    """Every form that is taken apart here is one that tagging reads, to the same entities."""
    from textus.tasks.token_data import read_entities

    for row in (SPANS, LISTS, CLUENER, EXCLUSIVE):
        texts = sorted(
            (kind, row["text"][a:b]) for kind, a, b in read_entities(Record(row, "row"), row["text"])
        )
        assert texts
        for copy in augmenter("swap,delete,insert,typos", copies=12, rate=0.3).augment(row):
            read = read_entities(Record(copy, "copy"), copy["text"])
            assert sorted((kind, copy["text"][a:b]) for kind, a, b in read) == texts


def test_a_label_that_is_not_moved_is_seen() -> None:
    """The check above has teeth: labels left where they were point at something else in most copies."""
    copies = augmenter("insert", copies=40, rate=0.4).augment(SPANS)
    left = [{**copy, "entities": [{**e, "text": None} for e in SPANS["entities"]]} for copy in copies]
    wrong = [
        copy
        for copy in left
        if [copy["text"][e["start"] : e["end"]] for e in copy["entities"]] != ["Great Bears", "Ann Lee"]
    ]
    assert len(wrong) > len(copies) / 2


def test_what_keeps_two_labels_apart_stays() -> None:
    row = {"tokens": ["Ann", "and", "Bob", "met"], "tags": ["I-PER", "O", "I-PER", "O"]}
    for copy in augmenter("delete,insert", copies=60, rate=1.0).augment(row):
        assert entities(copy["tokens"], copy["tags"]) == [("PER", "Ann"), ("PER", "Bob")]


@settings(max_examples=150, deadline=None)
@given(
    st.text("abc déf,.(!)\n 中文好1'", max_size=40),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=3),
)
def test_any_text_comes_back_and_any_labels_move(text: str, places: list[tuple[int, int]]) -> None:
    spans = [{"start": a, "end": min(len(text), a + n)} for a, n in places if a < len(text)]
    row = {"text": text, "entities": [{**item, "label": str(n)} for n, item in enumerate(spans)]}
    taken = units.tokenize_record(row)
    assert taken.with_tokens("text", taken.fields["text"], row) == row
    for copy in augmenter("swap,delete,insert,ocr", copies=8, rate=0.5).augment(row):
        assert labelled(copy) == labelled(row)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (
            {"text": "a b", "entities": [{"start": 2, "end": 9}]},
            "the label from 2 to 9 is outside of 'text'",
        ),
        ({"context": "a", "answers": [{"text": "c", "start": 0}]}, "the answer 'c' is not in its context"),
        ({"text": "a b", "label": {"x": [1]}}, "'label' is {'x': [1]}; wanted a list of {start, end, label}"),
        ({"text": "a b", "spans": [{"from": 1}]}, "'spans' is [{'from': 1}]; wanted a list"),
        ({"tokens": ["a", "b"], "tags": ["O"]}, "2 tokens need as many tags"),
        ({"review": "a b", "label": 1}, "neither a text nor tokens; it has 'review', 'label'"),
        ({"text": "a b", "augmented": "swap"}, "is a copy already, as 1 rows are"),
    ],
)
def test_rows_that_cannot_be_changed_are_named(row: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DataError, match=re.escape(complaint)):
        augment_records([Record(row, "rows.jsonl: line 7")], AugmentConfig("swap"))


# ── operations ─────────────────────────────────────────────────────────────────────────────────


def changed_words(before: str, after: str) -> int:
    return sum(a != b for a, b in zip(before.split(), after.split(), strict=True))


@pytest.mark.promise(
    "Tasks",
    "Each augmentation does what its name promises; synonyms equal nltk's reading of WordNet; "
    "homophones sound the same",
)
def test_each_operation_does_what_its_name_means() -> None:
    text = "a good movie for small children and their parents to call on evenings"
    row = {"text": text, "label": 1}
    for copy in augmenter("synonyms", copies=6, rate=0.2).augment(row):
        assert 1 <= changed_words(text, copy["text"]) <= 3
        new = set(copy["text"].split()) - set(text.split())
        assert new <= {other for others in WORDS.values() for other in others}
    for copy in augmenter("swap", copies=6).augment(row):
        assert sorted(copy["text"].split()) == sorted(text.split())
    for copy in augmenter("delete", copies=6, rate=0.3).augment(row):
        assert len(copy["text"].split()) == len(text.split()) - round(0.3 * 13)
    for copy in augmenter("insert", copies=6, rate=0.3).augment(row):
        assert len(copy["text"].split()) == len(text.split()) + round(0.3 * 13)
    for name in ("typos", "ocr"):
        for copy in augmenter(name, copies=6).augment(row):
            assert changed_words(text, copy["text"]) == 1


def test_capitals_are_kept_and_words_of_grammar_left() -> None:
    made = augmenter("synonyms", copies=30, rate=1.0).augment({"text": "Good MOVIE small"})
    assert {tuple(word[:2].isupper() for word in row["text"].split()) for row in made} == {
        (False, True, False)
    }
    assert all(row["text"][0].isupper() for row in made)
    change = operations.make_synonyms(lambda word: ["thing"])
    assert (
        change(units.tokenize_text("this is not the one of them you were", []), random.Random(0), 1.0)
        is not None
    )
    assert change(units.tokenize_text("this is not the of them you were", []), random.Random(0), 1.0) is None


def test_homophones_sound_the_same() -> None:
    pypinyin = pytest.importorskip("pypinyin")
    text = "昨天我们一起去看了这部电影"
    copies = augmenter("pinyin", copies=20, rate=0.3).augment({"text": text})
    assert len(copies) == 20
    for copy in copies:
        assert copy["text"] != text
        sounds = [pypinyin.lazy_pinyin(item)[0] for item in copy["text"]]
        assert sounds == [pypinyin.lazy_pinyin(item)[0] for item in text]


def test_keys_are_neighbours_on_the_keyboard() -> None:
    near = operations.neighbours()
    assert set(near["g"]) == set("ftyhvb")
    assert set(near["q"]) == set("12wa")
    assert all(key in near[other] for key, others in near.items() for other in others if key.isalnum())


def test_word_vectors_give_synonyms_in_any_language(tmp_path: Path) -> None:
    words = ["电影", "影片", "银行", "movie", "film", "bank"]
    matrix = np.array(
        [[1, 0, 0], [1, 0.1, 0], [0, 1, 0], [0, 0, 1], [0.1, 0, 1], [-1, 0, -1]], dtype=np.float32
    )
    WordVectors(words, matrix).save(tmp_path / "v.safetensors")
    made = Augmenter(AugmentConfig("synonyms", vectors=str(tmp_path / "v.safetensors"), copies=3))
    assert [row["text"] for row in made.augment({"text": "这部电影很好"})] == ["这部影片很好"]
    assert [row["text"] for row in made.augment({"text": "a Movie"})] == ["a Film"]
    assert made.augment({"text": "a bank"}) == []  # nothing lies near it


# ── WordNet ────────────────────────────────────────────────────────────────────────────────────


def test_a_small_wordnet_is_read(tmp_path: Path) -> None:
    licence = "  1 This is a licence.\n"
    for part in wordnet.PARTS:
        (tmp_path / f"index.{part}").write_text(licence)
        (tmp_path / f"data.{part}").write_text(licence)
    synset = f"{len(licence):08d} 10 n 03 movie 0 film 0 motion_picture 0 001 @ 00000000 n 0000 | a show\n"
    (tmp_path / "data.noun").write_text(licence + synset)
    (tmp_path / "index.noun").write_text(f"{licence}movie n 1 1 @ 1 1 {len(licence):08d}  \n")
    assert wordnet.find_wordnet(tmp_path)("Movie") == ("film",)
    (tmp_path / "data.noun").write_text("x" + licence + synset)
    with raises(DataError, "damaged", "23"):
        wordnet.find_wordnet(tmp_path)("movie")
    with raises(UsageError, "not_found"):
        wordnet.find_wordnet(tmp_path / "nowhere")


def test_synonyms_are_nltks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nltk's reader of the same files, for the same senses of words as they are written."""
    reader = pytest.importorskip("nltk.corpus.reader.wordnet")
    place = next((folder for folder in wordnet.wordnet_folders() if (folder / "index.noun").is_file()), None)
    if place is None:
        pytest.skip("WordNet is not on this machine (Debian: wordnet-base; or set WNSEARCHDIR)")
    monkeypatch.setattr(
        pytest.importorskip("nltk.data"), "path", [str(tmp_path)]
    )  # it reads from nowhere else
    for file in place.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    if not (
        tmp_path / "lexnames"
    ).exists():  # Debian leaves out a file that nltk asks for, and we do not need
        (tmp_path / "lexnames").write_text("".join(f"{n:02d} name{n} 1\n" for n in range(45)))
    monkeypatch.setattr(
        reader.WordNetCorpusReader, "map_wn", lambda self, version="wordnet": {}
    )  # other languages
    theirs, ours = reader.WordNetCorpusReader(str(tmp_path), None), wordnet.find_wordnet(place)
    for word in (
        "movie",
        "good",
        "quickly",
        "walk",
        "bank",
        "awful",
        "children",
        "xyzzy",
        "film",
        "brilliant",
    ):
        results: set[str] = set()
        for part in "nvar":
            offsets = theirs._lemma_pos_offset_map[word].get(part, [])[: wordnet.SENSES]
            synsets = [theirs.synset_from_pos_and_offset(part, offset) for offset in offsets]
            results |= {name for synset in synsets for name in synset.lemma_names()}
        assert set(ours(word)) == {text for text in results if text.isalpha() and text.lower() != word}, word
    assert {"film", "picture"} <= set(ours("movie"))


# ── seeds, counts, held-out rows ───────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Tasks", "Copies follow from the seed and the row, in any order; failures are reported with counts"
)
def test_the_same_seed_gives_the_same_copies_in_any_order() -> None:
    rows = reviews(12)

    def made(order: list[dict[str, Any]], seed: int = 0) -> dict[str, list[str]]:
        result = augmenter(WITHOUT_FILES, copies=5, seed=seed)
        return {row["text"]: [copy["text"] for copy in result.augment(row)] for row in order}

    assert made(rows) == made(rows[::-1])
    assert made(rows) != made(rows, seed=1)
    assert all(len(set(copies) | {text}) == len(copies) + 1 for text, copies in made(rows).items())
    more = augmenter(WITHOUT_FILES, copies=2)
    assert [copy["text"] for copy in more.augment(rows[0])] == made(rows)[rows[0]["text"]][:2]


def test_what_could_not_be_made_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    records = [
        Record({"text": text, "label": 1}, f"line {n}") for n, text in enumerate(["a", "one two", "…"])
    ]
    result = augment_records(records, AugmentConfig("swap", copies=3))
    assert len(result) == 4
    err = capsys.readouterr().err
    assert "1 copies of 3 rows: swap 1; nothing new came of swap 8 times; 8 copies could not be made" in err


def test_rows_in_a_file_keep_their_originals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "rows.csv"
    data.write_text("review,stars\na long story of men,good\nthe town they saw,bad\n", encoding="utf-8")
    words = [
        "augment",
        str(data),
        "--ops",
        "swap,delete",
        "--copies",
        "2",
        "--columns",
        "text=review,label=stars",
    ]
    out = tmp_path / "more.jsonl"
    assert main([*words, "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["rows"], sum(report["copies"].values())) == (2, 4)
    rows = [record.values for record in stream_records(out)]
    assert [row["text"] for row in rows if "augmented" not in row] == [
        "a long story of men",
        "the town they saw",
    ]
    assert [row["label"] for row in rows] == ["good"] * 3 + ["bad"] * 3
    before = out.read_bytes()
    assert main([*words, "--out", str(out)]) == 2
    assert main([*words, "--out", str(out), "--force"]) == 0
    assert out.read_bytes() == before


def as_records(rows: list[dict[str, Any]]) -> list[Record]:
    return [Record(row, f"line {n}") for n, row in enumerate(rows, 1)]


@pytest.mark.promise(
    "Tasks",
    "No copy of a held-out row is used for training; an augmented fine-tuning resumes to the same bytes",
)
def test_a_copy_is_on_the_side_of_its_row() -> None:
    plain = as_records(reviews(300))
    more = augment_records(plain, AugmentConfig(WITHOUT_FILES, copies=3))
    train, held = drop_copies(*split_rows(more, 0))
    first_train, first_held = split_rows(plain, 0)
    assert [record.values["text"] for record in held] == [record.values["text"] for record in first_held]
    origins = {origin_id(record.values) for record in held}
    assert 10 < len(origins) < 60
    assert not origins & {origin_id(record.values) for record in train}
    assert len(train) > 3 * len(first_train)
    forgetful = [Record({k: v for k, v in record.values.items() if k != "origin"}, "") for record in more]
    train_records, _ = split_rows(
        forgetful, 0
    )  # the planted fault: rows that do not know where they came from
    texts = {record.values["text"] for record in train_records}
    assert any(copy.values["text"] in texts for copy in more if origin_id(copy.values) in origins)


def test_copies_of_rows_of_a_dev_file_are_not_learned_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = reviews(60)
    more = augment_records(as_records(rows), AugmentConfig("swap", copies=2))
    data = written(
        tmp_path / "more.jsonl",
        [record.values for record in more if record.values["text"] != rows[0]["text"]],
    )
    dev = written(tmp_path / "dev.jsonl", rows[:1] + reviews(70)[60:])
    run = api.finetune(data, dev=dev, model="gru", out=tmp_path / "run", epochs=1, overrides=SMALL)
    assert (
        "2 rows are augmented copies of rows that choose the weights: they are left out"
        in capsys.readouterr().err
    )
    assert run.record["augment"] is None


def test_finetune_augments_what_it_learns_from_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = written(tmp_path / "rows.jsonl", reviews(60))
    words = ["finetune", str(data), "--model", "gru", "--epochs", "2", "--augment", "swap,delete"]
    words += [word for setting in (*SMALL, "augment.copies=3") for word in ("--set", setting)]
    assert main([*words, "--out", str(tmp_path / "run"), "--json"]) == 0
    err = capsys.readouterr().err
    n_held = len(split_rows(list(stream_records(data)), 0)[1])
    n = 60 - n_held
    assert f"{3 * n:,} copies of {n} rows: swap" in err
    assert f"{4 * n:,} rows to learn from and {n_held} to choose by" in err
    assert api.verify_determinism(tmp_path / "run")["identical"]
    (tmp_path / "run.json").write_text("")
    record = tmp_path / "run" / "run.json"
    record.write_text(record.read_text().replace('"copies": 3', '"copies": 2'))
    with raises(RunError, "data_changed", "augmentation"):
        api.verify_determinism(tmp_path / "run")


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ({"ops": "swp"}, "did you mean 'swap'"),
        ({"ops": ""}, "choose how rows are changed: --ops swap"),
        ({"ops": "swap", "copies": 0}, "augment.copies=0: must be at least 1"),
        ({"ops": "swap", "rate": 1.5}, "augment.rate=1.5: must be above 0"),
        ({"ops": "infill"}, "infill needs an encoder"),
        ({"ops": "synonyms", "wordnet": "nowhere"}, "nowhere holds no WordNet"),
    ],
)
def test_wrong_words_are_named(how: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    data = written(tmp_path / "rows.jsonl", reviews(2))
    with pytest.raises(UsageError, match=re.escape(complaint)):
        api.augment(data, out=tmp_path / "out.jsonl", **how)
    assert not (tmp_path / "out.jsonl").exists()


# ── infilling ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that has read sentences in which an animal runs and a thing lies."""
    folder, draw = tmp_path_factory.mktemp("encoder"), random.Random(0)
    lines = [
        f"the {draw.choice(['dog', 'cat', 'fox'])} runs home\n\nthe {draw.choice(['pen', 'cup', 'key'])} lies here\n"
        for _ in range(300)
    ]
    (folder / "text.txt").write_text("\n".join(lines))
    built_corpus = api.build_corpus(folder / "text.txt", out=folder / "corpus", overrides=["min_chars=1"])
    settings = ["model.n_layer=1", "model.d_model=32", "model.n_head=2", "model.context_length=16"]
    settings += ["train.context_length=16", "train.batch_size=16", "optim.rate=0.01"]
    return api.train(
        built_corpus, model="encoder", tokenizer="word", steps=120, overrides=settings, out=folder / "run"
    ).path


def test_an_encoder_of_ours_fills_gaps_by_what_it_read(encoder: Path, trained: Path) -> None:
    made = Augmenter(AugmentConfig("infill", encoder=str(encoder), copies=30))
    row = {"tokens": ["the", "dog", "runs", "home"], "tags": ["O", "O", "O", "B-LOC"]}
    copies = made.augment(row)
    filled = {copy["tokens"][1] for copy in copies} - {"dog"}
    assert filled & {"cat", "fox"}
    assert all(copy["tokens"][3] == "home" and copy["tags"] == row["tags"] for copy in copies)
    assert copies == Augmenter(AugmentConfig("infill", encoder=str(encoder), copies=30)).augment(row)
    with raises(UsageError, "unsupported_model", "decoder"):
        Augmenter(AugmentConfig("infill", encoder=str(trained)))

"""Questions made of plain text: their answers stand where they say, and a model that learnt them reads on."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from statistics import mean

import pytest
from corpora import SIMPLIFIED, made
from labelled import written
from raising import raises

from textus import api
from textus.augment.cloze import CONTEXT_WORDS, QUESTION_WORDS, ClozeConfig, make_clozes, split_passages
from textus.cli.main import main
from textus.core.errors import DataError, UsageError
from textus.core.io import read_json
from textus.data.labeled import stream_records
from textus.runs.store import load
from textus.tasks.question_answering import QuestionAnswering, QuestionAnsweringSettings, locate_answers

ENGLISH = (
    "The old miller John Brook sold 24 sacks of flour to the baker of Elmdale in the spring. "
    "His daughter carried the smallest of them up the hill behind the river every morning before school. "
    "Nobody in the village knew that the baker had lost his horse on the way to the market. "
    "The teacher Mary Stone wrote a long letter about it to her brother in Aldwick in 1854."
)
CHINESE = SIMPLIFIED + "国王在1854年把二十四袋面粉送给住在河边的老人，他的女儿每天早上都要爬上那座小山。\n"


def documents(n: int = 40) -> list[str]:
    """The English passage with its sentences in other orders: each is a passage of its own."""
    draw, sentences = random.Random(0), ENGLISH.split(". ")
    return [". ".join(draw.sample(sentences, len(sentences))) + "." for _ in range(n)]


@pytest.mark.parametrize("texts", [documents(), [CHINESE, CHINESE[:60] * 4]], ids=["english", "chinese"])
def test_every_answer_is_at_the_offset_of_its_row_and_has_a_question(
    texts: list[str], tmp_path: Path
) -> None:
    rows = list(make_clozes(texts, ClozeConfig(questions=4)))
    assert len(rows) >= 3
    records = list(stream_records(written(tmp_path / "rows.jsonl", rows)))
    QuestionAnswering.from_records(QuestionAnsweringSettings(), records)
    asking = {word for kinds in QUESTION_WORDS.values() for words in kinds for word in words}
    for row, record in zip(rows, records, strict=True):
        (answer,) = row["answers"]
        assert row["context"][answer["start"] :].startswith(answer["text"])
        locate_answers(record, row["context"], notices := Counter())
        assert not any(notices.values())
        assert any(word in row["question"] for word in asking)
        assert row["question"][-1] in "?？"
        assert answer["text"] == answer["text"].strip()
        assert answer["text"][0].isalnum()


def test_the_context_of_a_question_surrounds_its_answer() -> None:
    words = lambda text: set(re.findall(r"\w+", text))  # noqa: E731
    asking = {"what", "who", "which", "where", "how", "many", "when", "why"}
    for row in make_clozes(documents(), ClozeConfig(questions=4, dropped=0)):
        (answer,) = row["answers"]
        (sentence,) = [part for part in ENGLISH.split(". ") if words(row["question"]) - asking <= words(part)]
        assert answer["text"] in sentence
        left = words(sentence) - words(answer["text"]) - words(row["question"])
        assert len(left) <= max(0, len(sentence.split()) - CONTEXT_WORDS - 1)
        begin = row["context"].index(sentence)
        assert begin <= answer["start"] < begin + len(sentence)


def test_the_share_dropped_and_the_length_of_answers_follow_the_settings() -> None:
    texts = documents(300)

    def asked(**how: float) -> list[dict[str, str]]:
        return list(make_clozes(texts, ClozeConfig(questions=4, **how)))  # type: ignore[arg-type]

    def length(rows: list[dict[str, str]]) -> float:
        return mean(len(row["question"].split()) for row in rows)

    kept = (length(asked(dropped=0.5)) - 1.2) / (length(asked(dropped=0.0)) - 1.2)
    assert kept == pytest.approx(0.5, abs=0.05)
    short, long = (mean(len(r["answers"][0]["text"].split()) for r in asked(words=n)) for n in (1, 6))  # type: ignore[index, attr-defined]
    assert short < 1.6 < 2.5 < long


def test_rows_follow_from_the_seed_and_the_passage_alone() -> None:
    texts = documents()
    rows = list(make_clozes(texts, ClozeConfig()))
    assert list(make_clozes(texts, ClozeConfig())) == rows
    by_context = lambda result: sorted(json.dumps(row) for row in result)  # noqa: E731
    assert by_context(make_clozes(texts[::-1], ClozeConfig())) == by_context(rows)
    assert by_context(make_clozes(texts, ClozeConfig(seed=1))) != by_context(rows)


def test_passages_are_whole_sentences_and_as_long_as_allowed() -> None:
    text = "\n".join(documents(6)) + " " + "word " * 300 + "."
    results = list(split_passages(text, 400))
    assert all(50 < len(result) <= 400 for result in results)
    assert all(result[-1] == "." for result in results)
    assert sum(map(len, results)) > 0.9 * len("\n".join(documents(6)))
    assert not any("word word" in result for result in results)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"questions": 0}, ("out_of_range", "questions", "0", "1")),
        ({"longest": 10}, ("out_of_range", "longest", "10", "50")),
        ({"words": 0.5}, ("out_of_range", "words", "0.5", "1")),
        ({"dropped": 1.0}, ("out_of_range", "1.0")),
    ],
)
def test_wrong_words_are_named(words: dict[str, float], complaint: tuple[str, ...], tmp_path: Path) -> None:
    corpus = made(tmp_path, {"a.txt": ENGLISH}).path
    with raises(UsageError, *complaint):
        api.cloze(corpus, out=tmp_path / "rows.jsonl", **words)


def test_a_file_that_exists_and_a_text_too_short_are_refused(tmp_path: Path) -> None:
    corpus = made(tmp_path, {"a.txt": ENGLISH}).path
    api.cloze(corpus, out=tmp_path / "rows.jsonl")
    with raises(UsageError, "already_exists"):
        api.cloze(corpus, out=tmp_path / "rows.jsonl")
    short = made(tmp_path, {"a.txt": "One. Two. Three words here."}, name="short").path
    with raises(DataError, "too_little_data"):
        api.cloze(short, out=tmp_path / "none.jsonl")


def test_from_text_to_answers_by_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Learnt from text, then from a few rows: the head goes on from what the first has taught it."""
    corpus = made(tmp_path, {f"{n}.txt": text for n, text in enumerate(documents())}).path
    rows = tmp_path / "rows.jsonl"
    assert main(["cloze", str(corpus), "--out", str(rows), "--questions", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == len(rows.read_text().splitlines())
    small = ["model.n_layer=1", "model.d_model=32", "model.n_head=2", "model.segments=3", "train.steps=4"]
    api.finetune(rows, model="encoder", task="question-answering", out=tmp_path / "read", overrides=small)
    few = written(tmp_path / "few.jsonl", list(make_clozes(documents(4), ClozeConfig(seed=3))))
    still = ["train.steps=1", "optim.rate=1e-12"]
    again = {"init_from": tmp_path / "read", "task": "question-answering", "overrides": still}
    run = api.finetune(few, dev=rows, out=tmp_path / "run", **again)
    assert "the head of question-answering continues" in capsys.readouterr().err
    before, after = (
        load(item)[0].heads["question-answering"].out.weight.detach()
        for item in (tmp_path / "read", run.path)
    )
    assert float((before - after).abs().max()) < 1e-6
    assert read_json(run.path / "run.json")["parent"] == str((tmp_path / "read").resolve())

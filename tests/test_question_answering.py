"""Answers found in contexts: rows, windows, spans, and a task learnt from rows and asked."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelled import written
from raising import raises

from textus import api, tokenizers
from textus.cli.main import main
from textus.core.errors import DataError, UsageError
from textus.data.labeled import Record, stream_records
from textus.models.nn.heads import SpanHead, context_mask, span_scores
from textus.tasks.base import EncodedExample, Example, InputTemplate
from textus.tasks.encoding import collate
from textus.tasks.question_answering import (
    GoldAnswers,
    QuestionAnswering,
    QuestionAnsweringSettings,
    SpanPrediction,
    best_expected_f1,
)

# ── rows ───────────────────────────────────────────────────────────────────────────────────────

CONTEXT = "Old Anna went to Rome. In Rome she met Bruno, an unbeliever, for 1,000 days."


def record(**values: Any) -> Record:
    return Record({"question": "Who?", "context": CONTEXT, **values}, "row 1")


def at(text: str, shift: int = 0) -> dict[str, Any]:
    return {"text": text, "start": CONTEXT.index(text) + shift}


def test_answers_are_read_in_every_form(tmp_path: Path) -> None:
    first, second = at("Anna"), at("Old Anna")
    forms = [
        [first, second],
        [{"text": span["text"], "answer_start": span["start"]} for span in (first, second)],
        {"text": [first["text"], second["text"]], "answer_start": [first["start"], second["start"]]},
    ]
    task = QuestionAnswering(QuestionAnsweringSettings(), [])
    result = task.make_examples([record(answers=form) for form in forms], labelled=True)
    assert {example.label for example in result} == {GoldAnswers(("Anna", "Old Anna"), ((4, 8), (0, 8)))}
    qas = [
        {"question": "Who?", "id": "1", "answers": forms[1]},
        {"question": "When?", "id": "2", "answers": []},
    ]
    file = tmp_path / "squad.json"
    paragraph = {"context": CONTEXT, "qas": qas}
    file.write_text(json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": [paragraph]}]}))
    read = task.make_examples(list(stream_records(file)), labelled=True)
    assert [example.label for example in read] == [result[0].label, GoldAnswers((), ())]
    assert QuestionAnswering.from_records(
        QuestionAnsweringSettings(), list(stream_records(file))
    ).settings.no_answer
    assert not QuestionAnswering.from_records(
        QuestionAnsweringSettings(), list(stream_records(file))[:1]
    ).settings.no_answer


@pytest.mark.promise(
    "Tasks",
    "Answers off their start, in other words, through a token, too long or without a place are "
    "reported or refused by name",
)
@pytest.mark.parametrize("shift", [-5, -1, 0, 2, 5])
def test_an_answer_a_little_off_its_start_is_moved_and_reported(
    shift: int, capsys: pytest.CaptureFixture[str]
) -> None:
    task = QuestionAnswering(QuestionAnsweringSettings(), [])
    (result,) = task.make_examples([record(answers=[at("Bruno", shift)])], labelled=True)
    assert result.label.spans == ((at("Bruno")["start"], at("Bruno")["start"] + 5),)
    assert ("1 answers were up to 5 characters off" in capsys.readouterr().err) == (shift != 0)


def test_answers_in_other_words_are_measured_by_and_reported(capsys: pytest.CaptureFixture[str]) -> None:
    task = QuestionAnswering(QuestionAnsweringSettings(), [])
    other = {"text": "39613.0", "start": -1}
    given = [record(answers=[other]), record(answers=[other, at("Anna")])]
    result = task.make_examples(given, labelled=True)
    assert [example.label.spans for example in result] == [(), ((4, 8),)]
    err = capsys.readouterr().err
    assert "2 answers do not occur in their contexts" in err
    assert "1 questions have no other" in err
    rows = task.encode(result, word_tokenizer(), InputTemplate((0,), 0, None))
    assert [row.label is None for row in rows] == [True, False]


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({}, "has no field 'answers'"),
        ({"answers": [{"text": "a", "start": 900}]}, "the answer 'a' is not at 900 of the context"),
        (
            {"answers": [{"text": "Zoe", "start": 3}]},
            "'Zoe' is not at 3 of the context, which has ' Anna",
        ),
        ({"answers": [{"text": "Anna"}]}, "not a text and the character it starts at"),
        ({"answers": [{"text": "", "start": 0}]}, "not a text and the character it starts at"),
        ({"answers": {"text": ["Anna"], "answer_start": []}}, "two lists of one length"),
        ({"answers": "Anna"}, "answers is 'Anna'"),
        ({"answers": [], "context": 3}, "the context is int (3)"),
        ({"answers": []}, "none of the 1 rows has an answer"),
    ],
)
def test_what_cannot_be_learned_is_named(values: dict[str, Any], complaint: str) -> None:
    rows = [record(**values)]
    with pytest.raises(DataError) as caught:
        QuestionAnswering.from_records(QuestionAnsweringSettings(), rows).make_examples(rows, labelled=True)
    assert complaint in str(caught.value)


# ── windows ────────────────────────────────────────────────────────────────────────────────────


def word_tokenizer() -> tokenizers.Tokenizer:
    return tokenizers.train("word", [CONTEXT, "Who? Where?"], 1000)


KINDS = ("char", "word", "bpe", "wordpiece", "unigram")
ODD = "Étude n° 5: 狐狸 \U0001f98a🇫🇷 e\u0301 naïve\tcafé\n\n  3,000 words — “ok”."


@pytest.mark.promise(
    "Tasks", "Offsets are of the same ids as encoding gives, and cover the text, for every kind of tokenizer"
)
@pytest.mark.parametrize("kind", KINDS)
def test_offsets_are_of_the_same_ids_and_cover_the_text(kind: str) -> None:
    tokenizer = tokenizers.train(kind, [CONTEXT, ODD] * 3, 600)
    texts = [CONTEXT, "", ODD, (ODD + " ") * 3000]
    for text, (ids, places) in zip(texts, tokenizer.encode_with_offsets(texts), strict=True):
        assert ids == tokenizer.encode(text)
        assert len(ids) == len(places)
        covered = np.zeros(len(text), dtype=bool)
        for start, end in places:
            covered[start:end] = True
        assert all(covered[n] or char.isspace() for n, char in enumerate(text))
        assert all(low <= high for low, high in places)
        assert [low for low, _ in places] == sorted(low for low, _ in places)


def rows_at(
    longest: int, stride: int = 128, **settings: Any
) -> tuple[QuestionAnswering, list[EncodedExample]]:
    task = QuestionAnswering(QuestionAnsweringSettings(stride=stride, **settings), [])
    (example,) = task.make_examples([record(answers=[at("an unbeliever")])], labelled=True)
    return task, task.encode([example], word_tokenizer(), InputTemplate((0,), 0, longest))


@pytest.mark.promise(
    "Tasks",
    "Windows cover a long context and one holds the answer; the answer is the likeliest of all "
    "windows' spans, never across the question, or that there is none",
)
@pytest.mark.parametrize("longest", [10, 12, 16, 24, 100])
@pytest.mark.parametrize("stride", [1, 3, 128])
def test_windows_cover_the_context_and_hold_the_answer(longest: int, stride: int) -> None:
    rows = rows_at(longest, stride)[1]
    tokenizer = word_tokenizer()
    context, places = tokenizer.encode_with_offsets([CONTEXT])[0]
    seen, whole = set(), 0
    for row in rows:
        assert len(row.ids) <= longest
        window = row.meta
        part = row.ids[window.first : -1]
        start = places.index(window.places[0])
        assert part == context[start : start + len(part)]
        assert window.places == places[start : start + len(part)]
        assert [row.segments[n] for n in (0, window.first - 1, window.first, -1)] == [0, 0, 1, 1]
        seen |= set(range(start, start + len(part)))
        first, last = row.label
        if first == last == len(row.ids) - 1:
            continue
        whole += 1
        span = (window.places[first - window.first][0], window.places[last - window.first][1])
        assert CONTEXT[slice(*span)].strip() == "an unbeliever"
    assert seen == set(range(len(context)))
    assert whole >= 1
    assert (len(rows) > 1) == (longest < 100)


def test_a_window_too_small_is_refused_and_a_long_question_cut(capsys: pytest.CaptureFixture[str]) -> None:
    with raises(UsageError, "out_of_range"):
        rows_at(4)
    task = QuestionAnswering(QuestionAnsweringSettings(), [])
    long = Example(("Who? " * 50, CONTEXT), None, "row 1")
    rows = task.encode([long], word_tokenizer(), InputTemplate((0,), 0, 20))
    assert max(len(row.ids) for row in rows) == 20
    assert "1 of 1 questions are longer than half of 20 tokens" in capsys.readouterr().err
    with raises(UsageError, "wrong_number_of_texts"):
        task.encode([Example(("Who?",), None, "text 1")], word_tokenizer(), InputTemplate((0,), 0, 20))


def test_an_answer_through_a_token_is_learned_whole_and_reported(capsys: pytest.CaptureFixture[str]) -> None:
    task = QuestionAnswering(QuestionAnsweringSettings(longest_answer=2), [])
    answers = [at("believer"), at("Rome"), at("went to Rome")]
    examples = task.make_examples([record(answers=[answer]) for answer in answers], labelled=True)
    rows = task.encode(examples, word_tokenizer(), InputTemplate((0,), 0, None))
    trained_on = []
    for row in rows:
        low, high = (row.meta.places[n - row.meta.first] for n in row.label)
        trained_on.append(CONTEXT[low[0] : high[1]].strip())
    assert trained_on == ["unbeliever", "Rome", "went to Rome"]
    err = capsys.readouterr().err
    assert "1 of 3 answers begin or end within a token" in err
    assert "1 of 3 answers are longer than 2 tokens" in err


def test_of_several_answers_the_most_frequent_is_learned() -> None:
    task = QuestionAnswering(QuestionAnsweringSettings(), [])
    answers = [at("Anna"), at("Old Anna"), at("Old Anna")]
    (row,) = task.encode(
        task.make_examples([record(answers=answers)], labelled=True),
        word_tokenizer(),
        InputTemplate((0,), 0, None),
    )
    low, high = (row.meta.places[n - row.meta.first] for n in row.label)
    assert CONTEXT[low[0] : high[1]] == "Old Anna"


def test_a_third_segment_shows_what_the_question_has_too() -> None:
    task = QuestionAnswering(QuestionAnsweringSettings(), [])
    example = Example(("Who went to Rome?", CONTEXT), None, "row 1")
    tokenizer = word_tokenizer()
    for n in (0, 2, 3):
        (row,) = task.encode([example], tokenizer, InputTemplate((0,), 0, None, n))
        marked = tokenizer.decode([i for i, s in zip(row.ids, row.segments, strict=True) if s == 2])
        assert marked.split() == (["went", "to", "Rome", "Rome"] if n == 3 else [])
        request = context_mask(collate(task, [row], 1))[0]
        assert [bool(prompt) for prompt in request] == [at >= row.meta.first for at in range(len(row.ids))]


# ── the best span ──────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
@pytest.mark.parametrize("no_answer", [True, False])
def test_the_answer_is_the_likeliest_of_all_windows_spans(no_answer: bool) -> None:
    task, rows = rows_at(14, 3, longest_answer=3, no_answer=no_answer)
    torch.manual_seed(0)
    head = SpanHead(8).eval()
    batch = collate(task, rows, 1)
    hidden = 3 * torch.randn(*batch.ids.shape, 8)
    result = task.aggregate_windows(rows, task.predict(head, hidden, batch))
    scores = head.out(hidden)
    odds: dict[tuple[int, int, int], float] = {}
    for number, row in enumerate(rows):
        first, closing = row.meta.first, len(row.ids) - 1
        of = lambda a, b, number=number: float(scores[number, a, 0] + scores[number, b, 1])  # noqa: E731
        for a in range(first, closing):
            for b in range(a, min(closing, a + 3)):
                odds[number, a, b] = of(a, b) - of(closing, closing)

    def place(key: tuple[int, int, int]) -> tuple[int, int]:
        about = rows[key[0]].meta
        return about.places[key[1] - about.first][0], about.places[key[2] - about.first][1]

    best = max(odds, key=lambda key: odds[key])
    bests = [max((key for key in odds if key[0] == n), key=lambda key: odds[key]) for n in range(len(rows))]
    total = sum(np.exp(odd) for odd in odds.values()) + no_answer
    alike = sum(np.exp(odds[key]) for key in bests if place(key) == place(best))
    assert result[0].span == place(best)
    assert result[0].margin == pytest.approx(odds[best], abs=1e-4)
    assert result[0].probability == pytest.approx(alike / total, rel=1e-3)
    assert result[0].no_answer_probability == pytest.approx(no_answer / total, rel=1e-3)


@torch.no_grad()
def test_the_span_of_highest_expected_f1_is_that_of_all_pairs_of_spans() -> None:
    """By hand: of every span the mean of its F1 with every other, weighed by probability; longer where unsure."""
    torch.manual_seed(1)
    scores = span_scores(2 * torch.randn(3, 9, 2), longest=4)
    scores[1, 6:], scores[1, :, 6:] = float("-inf"), float("-inf")
    values, first, last = best_expected_f1(scores, 4)
    for number, row in enumerate(scores):
        spans = {
            (a, b): float(row[a, b].exp()) for a in range(9) for b in range(a, 9) if row[a, b] > float("-inf")
        }
        whole = sum(spans.values())

        def f1(one: tuple[int, int], other: tuple[int, int]) -> float:
            common = len(set(range(one[0], one[1] + 1)) & set(range(other[0], other[1] + 1)))
            return 2 * common / (one[1] - one[0] + other[1] - other[0] + 2)

        expected = {
            one: sum(p * f1(one, other) for other, p in spans.items()) / whole for one in spans
        }  # fmt: skip
        best = max(expected, key=lambda span: expected[span])
        assert (int(first[number]), int(last[number])) == best
        assert float(values[number]) == pytest.approx(expected[best], rel=1e-4)
    sure = torch.full((1, 9, 9), -20.0).triu().masked_fill(torch.ones(9, 9).tril(-1).bool(), float("-inf"))
    sure[0, 2, 3] = sure[0, 3, 5] = 0.0
    assert [int(item) for item in best_expected_f1(sure, 4)[1:]] == [2, 5]


@pytest.mark.parametrize("answer", ["likeliest", "expected-f1"])
def test_no_answer_is_weighed_against_how_good_an_answer_is(answer: str) -> None:
    """Both ways tell the span's own probability; the odds of an unsure span are lower by its expected F1."""
    task, rows = rows_at(14, 3, longest_answer=3, no_answer=True, answer=answer)
    torch.manual_seed(0)
    head = SpanHead(8).eval()
    batch = collate(task, rows, 1)
    outputs = task.predict(head, 3 * torch.randn(*batch.ids.shape, 8), batch)
    for _, _, best, own, total in outputs:
        assert best == pytest.approx(own, abs=1e-5) if answer == "likeliest" else own <= best + 1e-5
        assert best < total


@torch.no_grad()
@pytest.mark.parametrize("answer", ["likeliest", "expected-f1"])
def test_a_context_without_a_token_has_no_answer(answer: str) -> None:
    task = QuestionAnswering(QuestionAnsweringSettings(answer=answer), [])  # type: ignore[arg-type]
    examples = [Example(("Who?", CONTEXT), None, "a"), Example(("Who?", ""), None, "b")]
    rows = task.encode(examples, word_tokenizer(), InputTemplate((0,), 0, None))
    batch = collate(task, rows, 1)
    result = task.aggregate_windows(
        rows, task.predict(SpanHead(8).eval(), torch.randn(*batch.ids.shape, 8), batch)
    )
    answers = [task.to_json(*item)["answer"] for item in zip(examples, result, strict=True)]
    assert answers[0]
    assert answers[1] == ""


def test_none_is_answered_where_it_is_likelier_and_may_be() -> None:
    example = Example(("Who?", "  Anna , "), None, "row 1")
    for no_answer, margin, expected in ((True, -1.0, None), (True, 1.0, 2), (False, -1.0, 2)):
        task = QuestionAnswering(QuestionAnsweringSettings(no_answer=no_answer), [])
        answer = task.to_json(example, SpanPrediction((0, 7), margin, 0.2, 0.5 * no_answer))
        assert (answer["answer"], answer["start"]) == (("Anna", 2) if expected else ("", None))
        assert answer["probability"] == (0.2 if expected else 0.5)
        assert ("no_answer_probability" in answer) == no_answer


def test_shifted_windows_make_examples_of_their_own() -> None:
    task = QuestionAnswering(QuestionAnsweringSettings(stride=3), [])
    examples = [Example(("Who?", CONTEXT), None, "a"), Example(("Who?", ""), None, "b")] * 2
    rows = task.encode(examples, word_tokenizer(), InputTemplate((0,), 0, 14))
    outputs = [(row.meta.first, row.meta.first, float(n), float(n), float(n)) for n, row in enumerate(rows)]
    empty = [n for n, row in enumerate(rows) if not row.meta.places]
    for n in empty:
        outputs[n] = (0, 0, -np.inf, -np.inf, -np.inf)
    result = task.aggregate_windows(rows, outputs)
    assert len(result) == 4
    assert [match.margin for match in result] == [empty[0] - 1, -np.inf, empty[1] - 1, -np.inf]
    assert task.to_json(examples[1], result[1])["answer"] == ""


# ── learnt and asked ───────────────────────────────────────────────────────────────────────────

NAMES, PLACES = ("anna", "bruno", "clara", "old david"), ("rome", "paris", "new york")
FILLING = ["the", "man", "was", "seen", "one", "day", "at", "a", "house", "with", "two", "dogs", "when", "it"]
SMALL = ("train.batch_size=16", "model.n_layer=1", "model.d_model=32", "optim.rate=0.02", "model.dropout=0")


def questions(n: int, seed: int = 0, none: float = 0.0) -> list[dict[str, Any]]:
    """Rows whose context has a name and a place, of which the question asks one; `none`: the share without it."""
    draw = random.Random(seed)
    rows = []
    for number in range(n):
        kind = draw.choice(("who", "where"))
        candidates, other = (NAMES, PLACES) if kind == "who" else (PLACES, NAMES)
        words = draw.choices(FILLING, k=draw.randint(2, 5))
        words.insert(draw.randrange(len(words)), draw.choice(other))
        answer = None if draw.random() < none else draw.choice(candidates)
        before = draw.randrange(len(words))
        context = " ".join([*words[:before], *([answer] if answer else []), *words[before:]])
        start = len(" ".join(words[:before])) + (before > 0)
        answers = [{"text": answer, "start": start}] if answer else []
        rows.append({"question": f"it is {kind}", "context": f"{context} {number}", "answers": answers})
    return rows


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    folder = tmp_path_factory.mktemp("none")
    data = written(folder / "train.jsonl", questions(500, none=0.3))
    return api.finetune(
        data,
        task="question-answering",
        model="encoder",
        out=folder / "run",
        epochs=6,
        overrides=[*SMALL, "task.longest=24", "task.stride=6"],
    )


NEURAL = ["lstm", "gru", "rnn", "seq2seq", "encoder", "decoder", "encoder-decoder", "vae", "gan"]


@pytest.mark.promise(
    "Tasks",
    "Every family with hidden states trains to find answers, and to return no answer; resumed it ends "
    "in the same bytes",
)
@pytest.mark.slow
@pytest.mark.parametrize("family", NEURAL)
def test_every_family_with_states_learns_it(family: str, tmp_path: Path) -> None:
    data = written(tmp_path / "train.jsonl", questions(300))
    epochs, rate = (8, 0.02) if "coder" in family else (16, 0.05)
    run = api.finetune(
        data,
        task="question-answering",
        model=family,
        out=tmp_path / "run",
        epochs=epochs,
        overrides=[*SMALL, f"optim.rate={rate}"],
    )
    scores = run.evaluate(written(tmp_path / "test.jsonl", questions(60, seed=1)))
    assert scores["f1"]["value"] > 0.8
    assert (scores["metric_style"], scores["f1"]["n"]) == ("squad", 60)
    assert not run.task.settings.no_answer


def test_where_it_is_missing_that_is_reported(tuned: api.Run, tmp_path: Path) -> None:
    assert tuned.record["task_settings"]["no_answer"]
    scores = tuned.evaluate(written(tmp_path / "test.jsonl", questions(100, seed=1, none=0.5)))
    assert scores["no_answer_accuracy"]["value"] > 0.8
    assert scores["f1_with_answer"]["value"] > 0.8
    assert scores["best_f1"] >= scores["f1"]["value"] - 1e-9
    prompts = [("it is who", "the man anna was seen"), ("it is where", "the man anna was seen")]
    first, second = tuned.predict(prompts)
    assert (first["answer"], first["start"], first["end"]) == ("anna", 8, 12)
    assert (second["answer"], second["start"], second["end"]) == ("", None, None)
    assert first["no_answer_probability"] < 0.5 < second["no_answer_probability"]


def test_a_long_context_is_read_to_its_end(tuned: api.Run) -> None:
    far = " ".join(FILLING * 40)
    context = f"{far} bruno {far}"
    (predictions,) = tuned.predict([("it is who", context)])
    assert context[predictions["start"] : predictions["end"]] == predictions["answer"] == "bruno"
    assert predictions["probability"] > 0.8  # two windows have it


def test_single_questions_and_batches_have_equal_answers(tuned: api.Run) -> None:
    rows = questions(30, seed=2, none=0.3)
    prompts = [(row["question"], row["context"] * (1 + number % 3)) for number, row in enumerate(rows)]
    for pair, answer in zip(prompts, tuned.predict(prompts), strict=True):
        alone = tuned.predict([pair])[0]
        assert alone["probability"] == pytest.approx(answer["probability"], abs=2e-2)  # bfloat16


def test_broken_off_and_resumed_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    data = written(tmp_path / "train.jsonl", questions(120, none=0.2))
    settings = [*SMALL, "task.longest=16", "task.stride=3"]
    run = api.finetune(
        data, task="question-answering", model="gru", out=tmp_path / "run", epochs=2, overrides=settings
    )
    assert api.verify_determinism(run.path)["identical"]


def test_an_epoch_is_all_windows_and_contexts_are_held_out_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**row, "question": f"{row['question']} {n}"} for row in questions(60) for n in range(3)]
    data = written(tmp_path / "train.jsonl", rows)
    settings = [*SMALL, "task.longest=12", "task.stride=3"]
    run = api.finetune(
        data, task="question-answering", model="gru", out=tmp_path / "run", epochs=1, overrides=settings
    )
    err = capsys.readouterr().err
    match = re.search(r"([\d,]+) rows to learn from \(([\d,]+) windows\)", err)
    assert match, err
    n_rows, windows = (int(group.replace(",", "")) for group in match.groups())
    assert windows > n_rows
    assert n_rows % 3 == 0  # three questions a context
    assert run.record["steps"] == -(-windows // 16)  # the last part of an epoch counts


def test_the_command_line_asks_a_file_or_a_pair(
    tuned: api.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(tuned.path), "it is who", "--text-pair", "the man clara was seen", "--json"]
    assert main(words) == 0
    (answer,) = json.loads(capsys.readouterr().out)["answers"]
    assert (answer["answer"], answer["start"], answer["end"]) == ("clara", 8, 13)
    file = written(
        tmp_path / "rows.jsonl", [{k: v for k, v in r.items() if k != "answers"} for r in questions(5)]
    )
    assert main(["predict", str(tuned.path), str(file)]) == 0
    assert "answer" in capsys.readouterr().out
    assert main(["predict", str(tuned.path), "it is who"]) == 2
    assert "give two texts, a question and the context" in capsys.readouterr().err
    assert main(["predict", str(tuned.path), str(file), "--text-pair", "x"]) == 2
    assert "--text-pair" in capsys.readouterr().err
    assert main(["evaluate", str(tuned.path), "--on", str(written(tmp_path / "t.jsonl", questions(9)))]) == 0
    assert "exact match" in capsys.readouterr().out


def test_chinese_is_read_and_measured_by_character(tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = []
    for number in range(240):
        texts = ["".join(draw.choices("我们昨天一起去看了电影", k=4)) for _ in range(2)]
        name = draw.choice(("王小明", "李四", "张三丰"))
        context = f"{texts[0]}{name}{texts[1]}{number}"
        rows.append({"question": "谁？", "context": context, "answers": [{"text": name, "start": 4}]})
    data = written(tmp_path / "r.jsonl", rows)
    run = api.finetune(
        data, task="question-answering", model="gru", out=tmp_path / "run", epochs=4, overrides=SMALL
    )
    scores = run.evaluate(data)
    assert (scores["metric_style"], scores["f1"]["value"] > 0.9) == ("cmrc2018", True)
    assert run.predict([("谁？", "我们一起李四看电影")])[0]["answer"] == "李四"


def test_real_files_are_read_whole(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = QuestionAnswering(QuestionAnsweringSettings(), [])
    sizes = {
        "xquad/xquad.en.json": 1190,
        "cmrc2018/cmrc2018_dev.json": 3219,
        "cmrc2018/cmrc2018_trial.json": 1000,
    }
    for name, n in sizes.items():
        examples = task.make_examples(list(stream_records(data / name)), labelled=True)
        assert len(examples) == n
        for example in examples:
            assert all(
                text in example.label.texts
                for text in (example.texts[1][slice(*span)] for span in example.label.spans)
            )
    err = capsys.readouterr().err
    assert "193 answers do not occur in their contexts (start -1)" in err
    assert "0 questions have no other" in err
    assert "2 rows have no question or no context" in err

"""`ask`: the sentence, span or chat answer with its source; refusal; calibration; citations that are checked."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from chats import TEMPLATES, write_folder
from documents import write_pdf
from labelled import written
from raising import raises

import textus
from textus.cli.main import main
from textus.core.errors import DataError, RunError, UsageError
from textus.data.sentences import sentence_spans
from textus.pipelines.answers import (
    REFUSALS,
    chat_messages,
    check_citations,
    check_question,
    fit_passages,
    retrieve,
    support,
    usable_modes,
)
from textus.pipelines.calibration import fit_logistic
from textus.pipelines.search_index import Index

TOPICS = [
    "leave",
    "lunch",
    "parking",
    "travel",
    "laptops",
    "keys",
    "fire",
    "noise",
    "pets",
    "bikes",
    "mail",
    "heating",
]
FACTS = [
    "begins on Monday",
    "is ordered by Erna",
    "costs twelve crowns",
    "was painted green",
    "closes at eight",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("handbook")
    write_pdf(
        folder / "leave.pdf",
        [
            ["The company was founded by Ada Marten in Graz."],
            ["Every employee may take thirty days of paid leave.", "Unused days expire in March."],
        ],
    )
    (folder / "zh.md").write_text(
        "# 假期\n\n每位员工每年有三十天带薪假期。未用的假期在三月到期。\n", encoding="utf-8"
    )
    (folder / "kitchen.md").write_text(
        "# Kitchen\n\nLunch is served by Mr. Novak at noon. Dinner is not served.\n"
    )
    return folder


@pytest.fixture(scope="module")
def index(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return textus.build_index(folder, out=tmp_path_factory.mktemp("index") / "index", bm25=True)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of words that knows no Chinese."""
    words = ["lunch", "noon", "leave", "days", "paid", "employee", "kitchen", "dinner", "company"]
    rows = [{"text": f"{a} {b}", "text_pair": f"{b} {a}"} for a in words for b in words if a < b]
    folder = tmp_path_factory.mktemp("encoder")
    settings = ("train.batch_size=8", "model.n_layer=1", "model.d_model=16")
    data = written(folder / "pairs.jsonl", rows)
    textus.finetune(data, task="similarity", model="gru", out=folder / "run", epochs=1, overrides=settings)
    return folder / "run"


# ── extractive answers ─────────────────────────────────────────────────────────────────────────


@pytest.mark.promise("Tasks", "An extractive answer is in its file at the page and characters given")
def test_an_answer_is_at_the_place_of_its_source(index: Index, folder: Path) -> None:
    result = textus.ask(index, "How many days of paid leave may an employee take?")
    assert result["answer"] == "Every employee may take thirty days of paid leave."
    source = result["source"]
    assert (Path(source["file"]).name, source["page"]) == ("leave.pdf", 2)
    (text,) = {p.text for p in index.passages if p.file == source["file"]}  # one passage: the whole document
    assert text[source["start"] : source["end"]] == result["answer"]
    assert textus.ask(index, "Who founded the company?")["source"]["page"] == 1


def test_a_chinese_answer_has_its_source(index: Index, folder: Path) -> None:
    result = textus.ask(index, "员工每年有多少天假期？")
    assert result["answer"] == "每位员工每年有三十天带薪假期。"
    text = (folder / "zh.md").read_text(encoding="utf-8")
    assert text[result["source"]["start"] : result["source"]["end"]] == result["answer"]


def test_a_sentence_does_not_end_at_an_abbreviation() -> None:
    text = "Lunch is by Mr. Novak at 3.5 crowns. J. Smith eats it!\n他来了。她走了？"
    assert [text[a:b] for a, b in sentence_spans(text)] == [
        "Lunch is by Mr. Novak at 3.5 crowns.", "J. Smith eats it!", "他来了。", "她走了？"
    ]  # fmt: skip


def test_a_question_without_an_answer_is_refused(index: Index) -> None:
    for question in ("Who painted the Mona Lisa?", "谁画了蒙娜丽莎？", "zzz qqq"):
        result = textus.ask(index, question)
        assert (result["refused"], result["answer"]) == (True, None)
    assert not textus.ask(index, "Who painted the company?", threshold=0)["refused"]


def test_a_document_that_is_removed_no_longer_answers(index: Index, folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(index.path, tmp_path / "copy"))
    question = "How many days of paid leave may an employee take?"
    assert not textus.ask(copy, question)["refused"]
    textus.remove_from_index(copy, folder / "leave.pdf")
    assert textus.ask(copy, question)["refused"]


@pytest.mark.parametrize("question", ["", "  \n", "?!"])
def test_an_empty_question_is_refused(index: Index, question: str) -> None:
    with raises(UsageError, code="missing_argument"):
        textus.ask(index, question)
    with raises(UsageError, code="wrong_type"):
        check_question(index, None)


def test_wrong_options_and_runs_are_refused(index: Index, encoder: Path, tmp_path: Path) -> None:
    with raises(UsageError, code="out_of_range"):
        textus.ask(index, "lunch", top=0)
    with raises(UsageError, code="out_of_range"):
        textus.ask(index, "lunch", threshold=1.5)
    with raises(RunError, code="not_a_run"):
        textus.ask(index, "lunch", run=tmp_path / "nothing")
    with raises(UsageError, code="wrong_task"):
        textus.ask(index, "lunch", run=encoder)
    with raises(RunError, code="not_an_index"):
        textus.ask(tmp_path, "lunch")


def test_a_script_that_the_encoder_does_not_know(folder: Path, encoder: Path, tmp_path: Path) -> None:
    dense = textus.build_index(folder / "kitchen.md", out=tmp_path / "dense", run=encoder)
    with raises(UsageError, "cannot_encode", "午饭是几点"):
        textus.ask(dense, "午饭是几点？")
    both = textus.build_index(folder, out=tmp_path / "both", run=encoder, bm25=True)
    assert usable_modes(both, "lunch dinner kitchen leave") == ["bm25", "dense"]
    assert usable_modes(both, "员工每年有多少天假期？") == ["bm25"]
    assert textus.ask(both, "员工每年有多少天假期？")["answer"] == "每位员工每年有三十天带薪假期。"


def test_an_index_with_vectors_of_another_encoder_is_refused(
    folder: Path, encoder: Path, tmp_path: Path
) -> None:
    index = textus.build_index(folder, out=tmp_path / "index", run=encoder, bm25=True)
    record = json.loads((index.path / "index.json").read_text())
    record["run"]["fingerprint"] = "0" * 64
    (index.path / "index.json").write_text(json.dumps(record))
    with raises(RunError, code="data_changed"):
        textus.ask(index.path, "when is lunch served")


# ── a question-answering run ───────────────────────────────────────────────────────────────────


def test_a_question_answering_run_answers_with_a_span(index: Index, tmp_path: Path) -> None:
    rows = []
    for number in range(60):
        topic, fact = TOPICS[number % len(TOPICS)], FACTS[number % len(FACTS)]
        context = f"The {topic} {fact}."
        answers = [{"text": fact, "start": context.index(fact)}]
        rows.append({"question": f"What of the {topic}?", "context": context, "answers": answers})
    data = written(tmp_path / "qa.jsonl", rows)
    settings = ("train.batch_size=8", "model.n_layer=1", "model.d_model=32")
    run = textus.finetune(
        data, task="question-answering", model="gru", out=tmp_path / "run", epochs=2, overrides=settings
    )
    result = textus.ask(index, "Who founded the company?", run=run.path)
    assert result["method"] == "question-answering"
    source = result["source"]
    passage = result["passages"][source["passage"] - 1]
    local = passage["text"][source["start"] - passage["start"] : source["end"] - passage["start"]]
    assert " ".join(local.split()) == result["answer"]


# ── citations ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Tasks", "Citations of a chat answer are checked: wrong numbers and unsupported sentences are marked"
)
def test_planted_faults_of_an_answer_are_marked(index: Index) -> None:
    passages = [next(p for p in index.passages if p.id == name) for name in ("leave.pdf", "kitchen.md")]
    answer = (
        "Every employee may take thirty days of leave. [1] Lunch is served at noon [2]. Lunch is served at noon [1]."
        " Dragons guard the treasure [2]. Unused days expire in March [7]. Employees take 45 days of paid leave [1]."
        " Dinner is not served."
    )
    checked = check_citations(index, answer, passages)
    assert checked["invalid_citations"] == [7]
    assert [(s["citations"], s["supported"]) for s in checked["sentences"]] == [
        ([1], True), ([2], True), ([1], False), ([2], False), ([7], False), ([1], False), ([], True)
    ]  # fmt: skip


def test_support_is_by_script_and_numbers(index: Index) -> None:
    text = next(p.text for p in index.passages if p.id == "zh.md")
    assert support(index, "员工每年有三十天带薪假期。", [text]) > 0.9
    assert support(index, "员工必须每天跑步。", [text]) < 0.5
    assert support(index, "Lunch at 12.", ["Lunch at 11."]) == 0
    assert support(index, "Lunch at 12.", []) == 0


def test_passages_that_do_not_fit_are_left_out(index: Index, capsys: pytest.CaptureFixture) -> None:
    passages = list(index.passages)

    def count(messages: list[dict[str, str]]) -> int:
        return len(re.findall(r"(?m)^\[\d+\]", messages[1]["content"])) * 10

    assert fit_passages("q", passages, count, 20) == passages[:2]
    assert "1 of 3 passages" in capsys.readouterr().err
    with raises(UsageError, code="context_exceeded"):
        fit_passages("q", passages, count, 5)


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> textus.Run:
    """A run that chats, of random weights."""
    folder = write_folder(tmp_path_factory.mktemp("hub"), "byte-level", "plain")
    (folder / "chat_template.jinja").write_text(TEMPLATES["chatml"], encoding="utf-8")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=2048, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    model.lm_head.weight.data[tokenizer.all_special_ids + list(tokenizer.added_tokens_decoder)] = 0
    model.save_pretrained(folder)
    return textus.import_model(folder, out=tmp_path_factory.mktemp("runs") / "talker")


def test_a_chat_answer_streams_and_is_checked(
    index: Index, talker: textus.Run, capsys: pytest.CaptureFixture
) -> None:
    """The pieces are the answer, the same as by `Run.chat`; what random weights write is not supported."""
    pieces: list[str] = []
    question = "When is lunch served?"
    result = textus.ask(index, question, run=talker.path, max_tokens=12, on_text=pieces.append)
    assert result["method"] == "chat"
    assert len(pieces) > 1
    assert result["answer"] == "".join(pieces).strip()
    passages = [index.passages[position] for position, _ in retrieve(index, question).results]
    messages = chat_messages(question, passages)
    assert "[1] # Kitchen" in messages[1]["content"]
    assert result["answer"] == talker.chat(messages, temperature=0, max_tokens=12).strip()
    assert not any(sentence["supported"] for sentence in result["sentences"])
    refused = textus.ask(index, "Who painted the Mona Lisa?", run=talker.path, on_text=pieces.clear)
    assert refused["refused"]  # the run generates nothing
    capsys.readouterr()
    assert main(["ask", str(index.path), question, "--run", str(talker.path), "--max-tokens", "12"]) == 0
    assert result["answer"][:5] in capsys.readouterr().out


# ── calibration ────────────────────────────────────────────────────────────────────────────────


def test_logistic_regression_is_that_of_scikit_learn() -> None:
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    draw = np.random.default_rng(0)
    features = draw.normal(size=(200, 3))
    labels = (features @ [1.0, -2.0, 0.5] + draw.normal(size=200) > 0).astype(int)
    weights, bias = fit_logistic(features, labels)
    theirs = LogisticRegression(C=100, tol=1e-10, max_iter=1000).fit(features, labels)
    assert weights == pytest.approx(theirs.coef_[0], rel=1e-4)
    assert bias == pytest.approx(theirs.intercept_[0], rel=1e-3, abs=1e-5)


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("facts")
    pages = [
        {"id": f"{t} {n}", "text": f"The {t} of hall {n} {f}."} for t in TOPICS for n, f in enumerate(FACTS)
    ]
    questions = [
        {"text": f"What about the {t} that {f}?", "document_id": f"{t} {n}"}
        for t in TOPICS
        for n, f in enumerate(FACTS)
    ]
    questions.append({"text": "Who wrote Hamlet?", "document_id": None})
    written(folder / "pages.jsonl", pages)
    written(folder / "questions.jsonl", questions)
    return folder


def test_a_calibration_is_stored_and_kept_by_updates(
    facts: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "index"
    textus.build_index(facts / "pages.jsonl", out=out, bm25=True)
    assert (
        main(
            [
                "index",
                "calibrate",
                str(out),
                "--on",
                str(facts / "questions.jsonl"),
                "--refuse",
                "0.8",
                "--json",
            ]
        )
        == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert report["questions"] == 60
    assert report["refused"] >= 0.75
    assert report["false_refusals"] <= 0.2
    result = textus.ask(out, "What about the parking that costs twelve crowns?")
    assert result["calibrated"]
    assert not result["refused"]
    assert result["threshold"] == pytest.approx(report["threshold"], abs=1e-4)
    assert textus.ask(out, "Who wrote Hamlet?")["refused"]
    written(tmp_path / "more.jsonl", [{"text": "Skates are in the cellar."}])
    textus.add_to_index(out, tmp_path / "more.jsonl")
    assert textus.open_index(out).record["calibration"]["threshold"] == report["threshold"]


def test_calibration_refuses_too_little_and_wrong_shares(facts: Path, index: Index, tmp_path: Path) -> None:
    few = written(tmp_path / "few.jsonl", [{"text": "When is lunch?", "document_id": "kitchen.md"}])
    with raises(DataError, code="too_few_rows"):
        textus.calibrate_index(index.path, few)
    with raises(UsageError, code="out_of_range"):
        textus.calibrate_index(index.path, few, refuse=1.0)


# ── the command ────────────────────────────────────────────────────────────────────────────────


def test_the_command_shows_the_answer_and_its_source(index: Index, capsys: pytest.CaptureFixture) -> None:
    path = str(index.path)
    assert main(["ask", path, "When", "do", "unused", "days", "expire?"]) == 0
    shown = capsys.readouterr().out
    assert "Unused days expire in March." in shown
    assert "leave.pdf, page 2" in shown
    assert main(["ask", path, "谁画了蒙娜丽莎？"]) == 0
    assert REFUSALS[1] in capsys.readouterr().out
    assert main(["ask", path, "When do unused days expire?", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["source"]["page"] == 2
    assert main(["ask", path, ""]) == 2
    assert "missing_argument" in capsys.readouterr().err

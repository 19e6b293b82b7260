"""Task heads in and out: …ForSequenceClassification, …ForTokenClassification, …ForQuestionAnswering (M19, U13)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from raising import raises
from test_sentences import folder_of

from textus.api import Run, export, finetune, import_model, open_run
from textus.cli.main import main
from textus.core.errors import TextusError
from textus.data.batch import Batch
from textus.interop.task_heads import SMALL
from textus.tasks.encoding import input_template
from textus.tasks.inference import hidden_states

LETTERS = "abcdefghijklmnopqrstuvwxyz,."
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
TEXTS = ["a cat sat, b.", "dogs ran", "the end"]
NAMES = {"0": "DET", "1": "NOUN", "2": "VERB"}
SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 66,
}  # fmt: skip


def foreign(kind: str, suffix: str, folder: Path, **values: Any) -> Any:
    """A small random model of a class with its tokenizer, saved."""
    folder.mkdir()
    config: Any
    if kind == "Bert":
        (folder / "vocab.txt").write_text("\n".join(BERT) + "\n")
        transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
        config = transformers.BertConfig(vocab_size=len(BERT), **SIZES, **values)
    else:
        from test_older_tokenizers import roberta

        n = roberta(folder, {})
        transformers.RobertaTokenizer.from_pretrained(folder).save_pretrained(folder)
        sizes = {"vocab_size": n, "type_vocab_size": 1, "pad_token_id": 1}
        config = getattr(transformers, f"{kind}Config")(**sizes, **SIZES, **values)
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}{suffix}")(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    model.save_pretrained(folder)
    return model


def scores(run: Run, ids: list[int], segments: list[int] | None = None) -> torch.Tensor:
    """The raw scores of a run's one head."""
    (head,) = run.model.heads.values()
    batch = Batch(
        torch.tensor([ids]), torch.zeros(1), torch.ones(1), mask=torch.ones(1, len(ids), dtype=torch.bool)
    )
    batch.segments = None if segments is None else torch.tensor([segments])
    with torch.no_grad():
        return head(hidden_states(run.model, batch))[0]


# ── in ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "XLMRoberta", "Camembert"])
@pytest.mark.parametrize("suffix", ["ForSequenceClassification", "ForTokenClassification"])
def test_heads_come_in_with_their_labels(kind: str, suffix: str, tmp_path: Path) -> None:
    """M19: the logits of transformers, and its label names."""
    theirs = foreign(kind, suffix, tmp_path / "hf", id2label=NAMES)
    run = import_model(tmp_path / "hf", out=tmp_path / "run")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert run.record["labels"] == list(NAMES.values())
    for text in TEXTS:
        encoded = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            expected = theirs(**encoded).logits[0]
        torch.testing.assert_close(scores(run, encoded.input_ids[0].tolist()), expected, atol=1e-4, rtol=1e-4)
    if suffix == "ForSequenceClassification":
        (answer,) = run.predict([TEXTS[0]])
        with torch.no_grad():
            right = theirs(**tokenizer(TEXTS[0], return_tensors="pt")).logits[0].softmax(-1)
        assert answer["label"] == NAMES[str(int(right.argmax()))]
        again = export(run.path, out=tmp_path / "back")
        assert again["architecture"] == ("Bert" if kind == "Bert" else "Roberta") + suffix
        back = getattr(transformers, again["architecture"]).from_pretrained(tmp_path / "back").eval()
        with torch.no_grad():
            encoded = tokenizer(TEXTS[0], return_tensors="pt")
            torch.testing.assert_close(back(**encoded).logits, theirs(**encoded).logits, atol=1e-5, rtol=1e-5)
    else:
        (answer,) = run.predict([{"tokens": ["a", "cat", "sat"]}])
        assert set(answer["tags"]) <= set(NAMES.values()), answer


def test_several_classes_of_a_text_come_in(tmp_path: Path) -> None:
    theirs = foreign(
        "Bert",
        "ForSequenceClassification",
        tmp_path / "hf",
        id2label=NAMES,
        problem_type="multi_label_classification",
    )
    run = import_model(tmp_path / "hf", out=tmp_path / "run")
    encoded = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")(TEXTS[0], return_tensors="pt")
    with torch.no_grad():
        right = theirs(**encoded).logits[0].sigmoid()
    (answer,) = run.predict([TEXTS[0]])
    assert answer["labels"] == [name for name, p in zip(NAMES.values(), right, strict=True) if p > 0.5]


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
def test_pairs_are_framed_as_the_folder_does(kind: str, tmp_path: Path) -> None:
    """M19: RoBERTa's pairs have two ends between them; with one, every answer about a pair would be another."""
    theirs = foreign(kind, "ForSequenceClassification", tmp_path / "hf", id2label=NAMES)
    run = import_model(tmp_path / "hf", out=tmp_path / "run")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    frame = input_template(run.model.config, run.tokenizer)
    ids, segments, _ = frame.apply([run.tokenizer.encode(text) for text in ("a cat", "dogs ran")])
    encoded = tokenizer("a cat", "dogs ran", return_tensors="pt")
    assert ids == encoded.input_ids[0].tolist()
    if kind == "Bert":
        assert segments == encoded.token_type_ids[0].tolist()
    with torch.no_grad():
        segmented = {"token_type_ids": encoded.token_type_ids} if kind == "Bert" else {}
        right = NAMES[str(int(theirs(encoded.input_ids, **segmented).logits[0].argmax()))]
    assert run.predict([("a cat", "dogs ran")])[0]["label"] == right
    export(run.path, out=tmp_path / "back")
    back = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    assert back("a cat", "dogs ran")["input_ids"] == ids


def test_question_answering_comes_in(tmp_path: Path) -> None:
    """M19: the logits of transformers, and an answer."""
    theirs = foreign("Bert", "ForQuestionAnswering", tmp_path / "hf")
    run = import_model(tmp_path / "hf", out=tmp_path / "run")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    encoded = tokenizer("who ran", "dogs ran, a cat sat", return_tensors="pt")
    with torch.no_grad():
        result = theirs(**encoded)
    ids, segments = encoded.input_ids[0].tolist(), encoded.token_type_ids[0].tolist()
    logs = scores(run, ids, segments)
    expected = torch.stack(
        [result.start_logits[0].log_softmax(-1), result.end_logits[0].log_softmax(-1)], dim=1
    )
    torch.testing.assert_close(logs, expected, atol=1e-4, rtol=1e-4)
    (answer,) = run.predict([("who ran", "dogs ran, a cat sat")])
    assert answer["answer"] in "dogs ran, a cat sat"


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"num_labels": 1}, ("unsupported_setting",)),
        ({"id2label": NAMES, "problem_type": "regression"}, ("unsupported_setting",)),
        ({"id2label": {"0": "x", "1": "x"}}, ("damaged",)),
    ],
)
def test_heads_that_are_not_read_are_refused(
    values: dict[str, Any], part: tuple[str, ...], tmp_path: Path
) -> None:
    foreign("Bert", "ForSequenceClassification", tmp_path / "hf", **values)
    with raises(TextusError, *part):
        import_model(tmp_path / "hf", out=tmp_path / "run")


# ── out ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a small BERT without a head."""
    folder = folder_of(tmp_path_factory.mktemp("bert") / "hf", {})
    (folder / "modules.json").unlink()
    return import_model(folder, out=folder.parent / "run").path


def tuned(parent: Path, out: Path, task: str, rows: list[dict[str, Any]], *settings: str) -> Run:
    out.mkdir(exist_ok=True)
    (out / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    wanted = ["train.steps=4", *settings]
    return finetune(out / "rows.jsonl", out=out / "tuned", init_from=parent, task=task, overrides=wanted)


def word(n: int) -> str:
    """Another word for every number."""
    return LETTERS[n % 26] + LETTERS[n // 26]


CLASSED = [{"text": f"a {'cat' if n % 3 else 'dog'} {word(n)}", "label": "xyz"[n % 3]} for n in range(90)]
TAGGED = [
    {"tokens": ["a", "cat", word(n)], "tags": ["DET", "NOUN", "VERB" if n % 2 else "DET"]} for n in range(90)
]
ASKED = [
    {"id": str(n), "question": "who ran", "context": f"a cat ran {word(n)}",
     "answers": {"text": ["cat"], "answer_start": [2]}} for n in range(60)
]  # fmt: skip


def test_a_classifier_leaves_with_its_labels(bert: Path, tmp_path: Path) -> None:
    """U13: through the pipeline of transformers: the same class, the same probabilities."""
    run = tuned(bert, tmp_path, "classification", CLASSED, "task.pooling=cls")
    assert main(["export", str(run.path), "--out", str(tmp_path / "hf")]) == 0
    pipe = transformers.pipeline("text-classification", model=str(tmp_path / "hf"), top_k=None)
    assert type(pipe.model).__name__ == "BertForSequenceClassification"
    for text in TEXTS:
        encoded = pipe.tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            result = pipe.model(**encoded).logits[0]
        run.model.set_compute("float32", "plain", "eager")
        torch.testing.assert_close(result, scores(run, encoded.input_ids[0].tolist()), atol=1e-4, rtol=1e-4)
        (answer,) = run.predict([text])
        probabilities = {row["label"]: row["score"] for row in pipe(text)[0]}
        assert max(probabilities, key=lambda label: probabilities[label]) == answer["label"]
    assert len(pipe.tokenizer("a cat " * 700, truncation=True)["input_ids"]) <= 512
    pipe("a cat " * 700, truncation=True)
    back = import_model(tmp_path / "hf", out=tmp_path / "back")
    assert back.record["labels"] == ["x", "y", "z"]
    ids = pipe.tokenizer(TEXTS[0])["input_ids"]
    torch.testing.assert_close(scores(back, ids), scores(run, ids), atol=1e-4, rtol=1e-4)


def test_the_small_map_is_the_number_itself() -> None:
    """What stands for no pooler: the tanh of small numbers, divided again."""
    x = torch.linspace(-30, 30, 1001)
    torch.testing.assert_close(torch.tanh(x * SMALL) / SMALL, x, rtol=1e-5, atol=1e-6)


def test_a_tagger_leaves_and_its_crf_only_when_that_is_accepted(
    bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """M19: a CRF is no part of any class of transformers."""
    run = tuned(bert, tmp_path, "tagging", TAGGED, "task.crf=false")
    export(run.path, out=tmp_path / "hf")
    pipe = transformers.pipeline("token-classification", model=str(tmp_path / "hf"), ignore_labels=[])
    assert set(pipe.model.config.id2label.values()) == {"DET", "NOUN", "VERB"}
    encoded = pipe.tokenizer("a cat ran", return_tensors="pt")
    with torch.no_grad():
        result = pipe.model(**encoded).logits[0]
    run.model.set_compute("float32", "plain", "eager")
    torch.testing.assert_close(result, scores(run, encoded.input_ids[0].tolist()), atol=1e-4, rtol=1e-4)
    firsts = [row["entity"] for row in pipe("a cat ran") if not row["word"].startswith("##")]
    (answer,) = run.predict(["a cat ran"])
    assert answer["tags"] == firsts
    with_crf = tuned(bert, tmp_path / "crf", "tagging", TAGGED)
    with raises(TextusError, "unsupported_export"):
        export(with_crf.path, out=tmp_path / "never")
    assert not (tmp_path / "never").exists()
    capsys.readouterr()
    assert main(["export", str(with_crf.path), "--argmax", "--out", str(tmp_path / "argmax")]) == 0
    assert "the CRF is left out" in capsys.readouterr().err


def test_an_answerer_leaves(bert: Path, tmp_path: Path) -> None:
    run = tuned(bert, tmp_path, "question-answering", ASKED)
    export(run.path, out=tmp_path / "hf")
    theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "hf").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    encoded = tokenizer("who ran", "a cat ran", return_tensors="pt")
    with torch.no_grad():
        result = theirs(**encoded)
    run.model.set_compute("float32", "plain", "eager")
    logs = scores(run, encoded.input_ids[0].tolist(), encoded.token_type_ids[0].tolist())
    torch.testing.assert_close(logs[:, 0], result.start_logits[0].log_softmax(-1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logs[:, 1], result.end_logits[0].log_softmax(-1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
def test_a_head_that_no_class_has_is_refused(pooling: str, bert: Path, tmp_path: Path) -> None:
    """M19: never a silently different head."""
    run = tuned(bert, tmp_path, "classification", CLASSED, f"task.pooling={pooling}")
    with raises(TextusError, "unsupported_export", pooling, "task.pooling=cls"):
        export(run.path, out=tmp_path / "hf")
    assert open_run(run.path).predict(["a cat"])

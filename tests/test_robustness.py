"""Robustness: what a change of the rows costs, paired, with labels that stay right."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from labelled import written

from textus import api
from textus.augment.units import tokenize_record
from textus.cli.main import main
from textus.data.labeled import Record
from textus.evaluation.robustness import (
    change_case,
    change_spacing,
    irrelevant_sentence,
    make_perturbations,
    metric_drop,
    perturb,
)
from textus.tasks.base import Example
from textus.tasks.classification import Classification, ClassificationSettings

WORDS = ["the", "film", "was", "a", "long", "story", "about", "people", "living", "near"]


def rows(n: int, seed: int) -> list[dict[str, Any]]:
    """The class hangs on one word in small letters."""
    draw = Random(seed)
    results = []
    for number in range(n):
        words = [*draw.choices(WORDS, k=5), ("dull", "grand")[number % 2]]
        results.append({"text": " ".join(draw.sample(words, 6)), "label": ("bad", "good")[number % 2]})
    return results


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    folder = tmp_path_factory.mktemp("run")
    settings = ["train.batch_size=8", "model.n_layer=1", "model.d_model=16", "optim.rate=0.02"]
    data = written(folder / "rows.jsonl", rows(240, 0))
    return api.finetune(data, model="gru", out=folder / "run", epochs=4, overrides=settings)


@pytest.mark.promise(
    "Tasks",
    "Robustness: the drop is paired, its interval has the stated coverage, labels stay right, skipped "
    "perturbations are reported",
)
def test_what_the_answer_hangs_on_is_missed(
    run: api.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = written(tmp_path / "test.jsonl", rows(80, 1))
    assert main(["robustness", str(run.path), "--on", str(test), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    plain = run.evaluate(test)["accuracy"]
    assert report["accuracy"] == plain
    assert plain["value"] > 0.95
    changed = {change["change"]: change for change in report["changes"]}
    upper = changed["upper case"]  # no word is known any more: nothing can be told
    assert upper["rows_changed"] == 80
    assert upper["drop"]["low"] > 0.2
    assert upper["drop"]["value"] == pytest.approx(plain["value"] - upper["accuracy"])
    assert (
        changed["lower case"] | {"rows_changed": 0, "drop": {"value": 0, "low": 0, "high": 0, "n": 80}}
        == (changed["lower case"])
    )
    assert changed["typos"]["rows_changed"] == 80
    assert report == run.robustness(test)
    assert main(["robustness", str(run.path), "--on", str(test)]) == 0
    assert "upper case" in capsys.readouterr().out


def test_synonyms_that_cannot_be_found_are_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(import_module("textus.augment.wordnet"), "wordnet_folders", lambda: [tmp_path])
    assert "synonyms" not in make_perturbations(None)
    assert "robustness to synonyms is not measured: synonyms need WordNet" in capsys.readouterr().err


TOKENS = {"tokens": ["Ann", "Lee", "movie", "Bob", "."], "tags": ["B-PER", "I-PER", "O", "B-PER", "O"]}
ANSWER = {
    "question": "Who?",
    "context": "Then Ann Lee met Straße men.",
    "answers": {"text": ["Ann Lee"], "answer_start": [5]},
}


def test_labels_stay_right() -> None:
    for name, operation in make_perturbations(None).items():
        for row in perturb([Record(ANSWER, "a")] * 3, name, operation, 0)[0]:
            [text], [at] = row.values["answers"]["text"], row.values["answers"]["answer_start"]
            assert row.values["context"][at : at + len(text)] == text
            assert text.lower() == "ann lee"
        [tokens], n = perturb([Record(TOKENS, "t")], name, operation, 0)
        assert n == (name != "spacing")
        assert len(tokens.values["tokens"]) == len(tokens.values["tags"])
        kept = zip(tokens.values["tokens"], tokens.values["tags"], strict=True)
        assert [token.lower() for token, tag in kept if tag != "O"] == ["ann", "lee", "bob"]


def text_after(operation: Any, text: str, rate: float = 1.0) -> str:
    taken = tokenize_record({"text": text})
    units = operation(taken.fields["text"], Random(3), rate)
    result: str = taken.with_tokens("text", units, taken.values)["text"]
    return result


def test_each_change_does_what_its_name_means() -> None:
    assert text_after(change_case(str.upper), "a good  straße film") == "A GOOD  straße FILM"
    spaced = text_after(change_spacing, "one two three four five six")
    assert spaced.replace(" ", "") == "onetwothreefourfivesix"
    assert "  " in spaced
    assert " " in text_after(change_spacing, "昨天我们去看电影")
    assert text_after(irrelevant_sentence, "A film.").startswith("A film. ")
    assert text_after(irrelevant_sentence, "一部电影。").startswith("一部电影。")
    assert text_after(irrelevant_sentence, "一部电影。")[-1] == "。"


def asked(gold: np.ndarray, right: np.ndarray) -> tuple[list[Example], list[Any]]:
    examples = [Example(("a",), "ab"[label], str(n)) for n, label in enumerate(gold)]
    return examples, [
        np.eye(2)[label if good else 1 - label] for label, good in zip(gold, right, strict=True)
    ]


def test_the_interval_holds_the_real_drop_as_often_as_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers whose real drop is known; pairs matter, so unpaired intervals would be wider. The jackknife, which is for
    figures that are no mean over rows, says the same of one that is.
    """
    monkeypatch.setattr(
        "textus.metrics.classification.RESAMPLES", 2
    )  # intervals of macro F1, not looked at here
    single = Classification(ClassificationSettings(), ["a", "b"])
    grouped = type("Grouped", (Classification,), {"per_example_metric": lambda self, examples, outputs: None})
    held, widths, other_widths = 0, [], []
    for seed in range(60):
        random = np.random.default_rng(seed)
        gold = random.integers(2, size=200)
        hard = random.random(200)
        plain, other = asked(gold, hard < 0.9), asked(gold, hard < random.choice([0.9, 0.7], 200))
        result = metric_drop(single, plain, other, seed)
        held += result["low"] <= 0.1 <= result["high"]
        if seed < 8:
            same = metric_drop(grouped(ClassificationSettings(), ["a", "b"]), plain, other, seed)
            assert same["value"] == pytest.approx(result["value"])
            widths.append(result["high"] - result["low"])
            other_widths.append(same["high"] - same["low"])
    assert held >= 52
    assert np.mean(widths) < 0.75 * 2 * 1.96 * ((0.9 * 0.1 + 0.8 * 0.2) / 200) ** 0.5
    assert np.mean(other_widths) == pytest.approx(np.mean(widths), rel=0.25)

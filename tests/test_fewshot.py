"""Few-shot: scores are those of `transformers`, calibration is the paper's, examples are drawn evenly by the seed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from labelled import written
from raising import raises

from textus import api
from textus.cli.main import main
from textus.core.errors import DataError, UsageError
from textus.evaluation.config import FewShotConfig, parse_verbalizer
from textus.evaluation.fewshot import PromptScorer, calibrate, sample_shots
from textus.models.contract import Capabilities
from textus.tasks.base import Example

TEMPLATE = "{text} it is {label}"
SHOTS = [Example(("the fox went",), "bad", "1"), Example(("a heron said nothing",), "good", "2")]
TEXTS = [("the river froze",), ("",), ("and the fox could not drink, and the heron could not fish",)]
WORDS = {"bad": "cold", "good": "a good morning"}


def examples(n: int, seed: int = 0) -> list[dict[str, str]]:
    """A language in which "sun" is followed by "warm" and "snow" by "cold"."""
    draw = Random(seed)
    names = {"sun": "warm", "snow": "cold"}
    results = []
    for number in range(n):
        word = ("sun", "snow")[number % 2]
        rest = draw.choices(["we", "saw", "the", "on", "a", "day"], k=4)
        results.append({"text": " ".join([*rest, word, "fell"]), "label": names[word]})
    return results


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A decoder whose labels take several tokens, some weights drawn so that its answers are no chance."""
    settings = ["model.n_layer=2", "model.d_model=32", "model.n_head=2", "model.context_length=96"]
    settings += ["train.context_length=96", "train.batch_size=2"]
    out = tmp_path_factory.mktemp("runs") / "bpe"
    return api.train(corpus, tokenizer="bpe", steps=20, overrides=settings, out=out).path


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    """A language model that has read the language above."""
    folder = tmp_path_factory.mktemp("speaker")
    lines = [f"{row['text']} {row['label']}" for row in examples(600, seed=9)]
    (folder / "text.txt").write_text("\n\n".join(lines))
    built = api.build_corpus(folder / "text.txt", out=folder / "corpus", overrides=["min_chars=1"])
    settings = ["model.n_layer=1", "model.d_model=32", "train.context_length=48", "optim.rate=0.01"]
    return api.train(built, model="lstm", tokenizer="word", steps=150, overrides=settings, out=folder / "run")


@pytest.mark.promise(
    "Tasks",
    "Few-shot scores are those of `transformers` without a cache; calibration is the paper's and takes "
    "a bias out",
)
@pytest.mark.parametrize("shots", [[], SHOTS])
def test_scores_are_those_of_transformers(bpe: Path, shots: list[Example], tmp_path: Path) -> None:
    """The same ids read whole, without a cache, by another library."""
    transformers = pytest.importorskip("transformers")
    run = api.open_run(bpe)
    api.export(bpe, out=tmp_path / "hf")
    other = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    config = FewShotConfig(template=TEMPLATE, verbalizer=WORDS)
    request = PromptScorer(run.model, run.tokenizer, ["bad", "good"], config)
    result = request.probabilities(shots, TEXTS)
    tokenizer = run.tokenizer
    first = [tokenizer.bos_id]
    for shot in shots:
        first += tokenizer.encode(f"{shot.texts[0]} it is {WORDS[shot.label]}\n\n")
    for row, (text,) in enumerate(TEXTS):
        prompt, scores = first + tokenizer.encode(f"{text} it is"), []
        for label in ("bad", "good"):
            end = tokenizer.encode(f" {WORDS[label]}")
            assert len(end) > 1
            with torch.no_grad():
                logs = other(torch.tensor([prompt + end])).logits[0].double().log_softmax(-1)
            places = range(len(prompt) - 1, len(prompt) + len(end) - 1)
            scores.append(float(np.mean([logs[at, n] for at, n in zip(places, end, strict=True)])))
        expected = np.exp(scores) / np.exp(scores).sum()
        assert result[row] == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("family", ["lstm", "ngram"])
def test_every_family_that_predicts_can_be_queried(
    family: str, speaker: api.Run, tmp_path: Path, corpus: Path
) -> None:
    run = speaker if family == "lstm" else None
    if run is None:
        built = Path(speaker.record["corpus"]["path"])
        run = api.train(built, model="ngram", tokenizer="word", out=tmp_path / "run")
    data, test = (
        written(tmp_path / "d.jsonl", examples(40)),
        written(tmp_path / "t.jsonl", examples(30, seed=5)),
    )
    result = api.fewshot(run, data, on=test, template="{text} {label}", shots=(0, 2), repeats=2)
    assert [shot["shots"] for shot in result["shots"]] == [0, 2]
    if family == "lstm":
        assert all(shot["accuracy"]["value"] > 0.9 for shot in result["shots"])
    swapped = {"warm": "cold", "cold": "warm"}
    wrong = api.fewshot(run, data, on=test, template="{text} {label}", shots=(0,), verbalizer=swapped)
    assert wrong["shots"][0]["accuracy"]["value"] == pytest.approx(
        1 - result["shots"][0]["accuracy"]["value"]
    )


def test_one_alone_is_answered_as_among_others(bpe: Path) -> None:
    run = api.open_run(bpe)
    config = FewShotConfig(template=TEMPLATE, verbalizer=WORDS)
    request = PromptScorer(run.model, run.tokenizer, ["bad", "good"], config)
    texts = TEXTS * 7  # more than are asked at once
    together = request.probabilities(SHOTS, texts)
    for row, text in zip(together, texts, strict=True):
        assert request.probabilities(SHOTS, [text])[0] == pytest.approx(row, abs=1e-5)


def test_calibration_is_the_papers() -> None:
    """Zhao et al. 2021: W = diag(p_cf)^-1, b = 0; what is said of nothing becomes even."""
    random = np.random.default_rng(0)
    plain, empty = random.dirichlet([1, 5, 1], 20), random.dirichlet([1, 9, 2], 3)
    content_free = empty.mean(0)
    scaled = plain @ np.diag(1 / content_free)
    assert calibrate(plain, empty) == pytest.approx(scaled / scaled.sum(1, keepdims=True))
    assert calibrate(content_free[None], content_free[None]) == pytest.approx(np.full((1, 3), 1 / 3))


def test_a_bias_to_one_class_is_taken_out(speaker: api.Run, tmp_path: Path) -> None:
    """One class is spelt with a word that the model finds likely anywhere: plain it is always answered."""
    data, test = (
        written(tmp_path / "d.jsonl", examples(40)),
        written(tmp_path / "t.jsonl", examples(60, seed=5)),
    )

    class Leaning(torch.nn.Module):
        """The speaker, but for 30 nats more on one word."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.config = speaker.model, speaker.model.config
            self.capabilities = Capabilities()
            self.more = torch.zeros(self.config.vocab_size)
            self.more[speaker.tokenizer.encode(" warm")[-1]] = 30.0

        def new_cache(self, *sizes: int) -> Any:
            return self.inner.new_cache(*sizes)

        def forward(self, ids: torch.Tensor, cache: Any = None, lengths: Any = None) -> torch.Tensor:
            return self.inner(ids, cache, lengths) + self.more

    leaning = api.Run(speaker.path)
    leaning.__dict__["_loaded"] = (Leaning(), speaker.tokenizer)
    result = api.fewshot(leaning, data, on=test, template="{text} {label}", shots=(0,))["shots"][0]
    assert result["accuracy"]["value"] == 0.5
    assert result["calibrated"]["value"] > 0.8


@pytest.mark.promise(
    "Tasks", "Few-shot examples are balanced, seeded and never scored; prompts that do not fit are reported"
)
def test_examples_are_even_seeded_and_never_scored(speaker: api.Run, tmp_path: Path) -> None:
    pool = [Example((str(n),), "abc"[n % 3], str(n)) for n in range(30)]
    for shots in range(1, 10):
        counts = Counter(shot.label for shot in sample_shots(pool, shots, "abc", Random(shots)))
        assert max(counts.values()) - min(counts["abc"[n]] for n in range(3)) <= 1
        assert sum(counts.values()) == shots
    assert (
        sample_shots(pool, 5, "abc", Random(1))
        == sample_shots(pool, 5, "abc", Random(1))
        != sample_shots(pool, 5, "abc", Random(2))
    )
    with raises(UsageError, "out_of_range", "31", "30"):
        sample_shots(pool, 31, "abc", Random(0))
    rows = examples(12)
    data = written(tmp_path / "d.jsonl", rows)
    with raises(UsageError, "out_of_range", "1", "0"):
        api.fewshot(speaker, data, on=data, shots=(1,))


def test_what_does_not_fit_is_reported(bpe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = written(tmp_path / "d.jsonl", [{"text": "fox " * 60, "label": n} for n in (0, 1)] * 4)
    test = written(tmp_path / "t.jsonl", [{"text": f"heron {n} " * 40, "label": n % 2} for n in range(4)])
    result = api.fewshot(bpe, data, on=test, shots=(0, 8), repeats=1)
    err = capsys.readouterr().err
    assert "a text was truncated to 24 tokens" in err
    assert "examples did not fit into the context of 96 tokens and were dropped" in err
    assert result["shots"][1]["accuracy"]["n"] == 4


def test_the_command_line_writes_table_and_picture(
    speaker: api.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, test = (
        written(tmp_path / "d.jsonl", examples(40)),
        written(tmp_path / "t.jsonl", examples(30, seed=5)),
    )
    words = [
        "fewshot",
        str(speaker.path),
        str(data),
        "--on",
        str(test),
        "--shots",
        "0,2",
        "--limit",
        "20",
        "--repeats",
        "2",
    ]
    words += ["--template", "{text} {label}", "--out", str(tmp_path / "out")]
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["rows"] == 20
    assert len(report["shots"][1]["accuracy_of_draws"]) == 2
    assert json.loads((tmp_path / "out" / "fewshot.json").read_text()) == report
    assert (tmp_path / "out" / "fewshot.png").read_bytes()[:4] == b"\x89PNG"
    assert main(words) == 0
    assert "calibrated" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ({"template": "{text}"}, "must hold {text} and end with {label}"),
        ({"shots": (-1,)}, "repeats 1 or more"),
        ({"verbalizer": {"wram": "x"}}, "did you mean 'warm'"),
    ],
)
def test_wrong_words_are_named(speaker: api.Run, how: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    data = written(tmp_path / "d.jsonl", examples(10))
    with pytest.raises(UsageError) as caught:
        api.fewshot(speaker, data, on=data, **how)
    assert complaint in str(caught.value)
    assert parse_verbalizer("0=bad, 1=good") == {"0": "bad", "1": "good"}
    with raises(UsageError, "invalid_value"):
        parse_verbalizer("0=bad,good")


def test_a_run_that_predicts_nothing_is_refused(speaker: api.Run, corpus: Path, tmp_path: Path) -> None:
    settings = ["model.n_layer=1", "model.d_model=16", "model.n_head=2"]
    encoder = api.train(
        corpus, model="encoder", tokenizer="char", steps=1, overrides=settings, out=tmp_path / "run"
    )
    data = written(tmp_path / "d.jsonl", examples(10))
    with raises(UsageError, "unsupported_model"):
        api.fewshot(encoder, data, on=data)
    with raises(DataError, "not_found", "nowhere"):
        api.fewshot(speaker, data, on=tmp_path / "nowhere.csv")


def test_a_prompt_longer_than_the_context_is_refused(bpe: Path) -> None:
    """C6: it was an IndexError."""
    run = api.open_run(bpe)
    context = run.model.config.context_length
    template = "word " * (2 * context) + "{text} it is {label}"
    config = FewShotConfig(template=template, verbalizer=WORDS)
    request = PromptScorer(run.model, run.tokenizer, ["bad", "good"], config)
    for shots in ([], SHOTS):
        with raises(UsageError, "context_exceeded", str(context), "--template"):
            request.probabilities(shots, TEXTS)
    fits = "{text}" + " x" * 4 + " it is {label}"
    config = FewShotConfig(template=fits, verbalizer=WORDS)
    request = PromptScorer(run.model, run.tokenizer, ["bad", "good"], config)
    assert request.probabilities(SHOTS * 50, TEXTS).shape == (len(TEXTS), 2)
    assert request.n_dropped > 0

"""Texts made from others: training by pairs, writing by beam search, scores by sacrebleu and rouge-score."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled import written
from raising import raises

import textus
from textus.cli.main import main
from textus.core.errors import DataError, UsageError
from textus.data.sentences import split_sentences
from textus.data.text_pairs import IdPair, PairFormat, pair_loader
from textus.evaluation.text_baselines import PhraseTable, lead, textrank
from textus.metrics import overlap

NUMBERS = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier", "five": "fünf"}
SMALL = ["model.n_layer=2", "model.d_model=48", "model.dropout=0", "task.beams=2"]
TEXTUS = str(Path(sys.executable).parent / "textus")


def number_pairs(n: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    texts = [rng.choices(list(NUMBERS), k=rng.randint(1, 4)) for _ in range(n)]
    return [{"source": " ".join(text), "target": " ".join(NUMBERS[word] for word in text)} for text in texts]


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> textus.Run:
    """An encoder-decoder that translates numbers."""
    folder = tmp_path_factory.mktemp("text2text")
    rows = written(folder / "pairs.jsonl", number_pairs(400))
    return textus.finetune(
        rows, out=folder / "run", task="text2text", model="encoder-decoder", epochs=12, overrides=SMALL
    )


# ── scores ─────────────────────────────────────────────────────────────────────────────────────

ENGLISH = [
    ("the cat sat on the mat", "the cat is on the mat"),
    ("a dog runs in the park", "the dog runs through the park"),
    ("", "something"),
    ("one two three four", "one two three four"),
]
CHINESE = [("今天天气很好", "今天天气不错"), ("我们去公园玩", "我们一起去公园"), ("他喜欢读书", "他喜欢看书")]


@pytest.mark.promise("Results", "BLEU and chrF are sacrebleu's, ROUGE is rouge-score's")
@pytest.mark.parametrize(("pairs", "tokenize"), [(ENGLISH, "13a"), (CHINESE, "zh")])
def test_bleu_and_chrf_are_sacrebleus(pairs: list[tuple[str, str]], tokenize: str) -> None:
    sacrebleu = pytest.importorskip("sacrebleu.metrics")
    outputs, references = map(list, zip(*pairs, strict=True))
    expected = sacrebleu.BLEU(tokenize=tokenize).corpus_score(outputs, [references]).score
    result = overlap.bleu(outputs, references)
    assert result["value"] == pytest.approx(expected, abs=1e-9)
    assert result["low"] <= result["value"] <= result["high"]
    counts = overlap.bleu_counts(outputs[:-1], references[:-1], chinese=tokenize == "zh")
    fewer = sacrebleu.BLEU(tokenize=tokenize).corpus_score(outputs[:-1], [references[:-1]]).score
    assert overlap.bleu_of(counts.sum(0)) == pytest.approx(fewer, abs=1e-9)
    chrf = sacrebleu.CHRF().corpus_score(outputs, [references]).score
    assert overlap.chrf(outputs, references)["value"] == pytest.approx(chrf, abs=1e-9)


def test_rouge_is_rouge_scores_own_in_english_and_by_character_in_chinese() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer")
    names = ["rouge1", "rouge2", "rougeL"]
    english = scorer.RougeScorer(names, use_stemmer=True)
    for output, reference in ENGLISH:
        expected = english.score(reference, output)
        scores = overlap.rouge_scores([output], [reference])
        assert [scores[name][0] for name in overlap.ROUGE] == [expected[name].fmeasure for name in names]
    spaced = scorer.RougeScorer(names, tokenizer=Spaces())
    for output, reference in CHINESE:
        expected = spaced.score(" ".join(reference), " ".join(output))
        scores = overlap.rouge_scores([output], [reference])
        assert [scores[name][0] for name in overlap.ROUGE] == [expected[name].fmeasure for name in names]
    assert "rouge_l_words" in overlap.rouge(*map(list, zip(*CHINESE, strict=True)))


class Spaces:
    def tokenize(self, text: str) -> list[str]:
        return text.split()


def test_the_weighted_metric_of_equal_weights_is_the_score(translator: textus.Run) -> None:
    examples = translator.task.make_examples(records(number_pairs(20, seed=4)), labelled=True)
    outputs = ["eins zwei"] * 20
    name, value_of = translator.task.weighted_metric(examples, outputs)  # type: ignore[misc]
    assert name == "bleu"
    assert value_of(np.ones(20)) == translator.task.metrics(examples, outputs)["bleu"]["value"]


def records(rows: list[dict[str, Any]]) -> Any:
    from textus.data.labeled import Record

    return [Record(row, f"row {number}") for number, row in enumerate(rows)]


# ── baselines ──────────────────────────────────────────────────────────────────────────────────


def test_a_phrase_table_learns_words_from_whole_texts() -> None:
    pairs = number_pairs(200)
    table = PhraseTable([row["source"] for row in pairs], [row["target"] for row in pairs])
    assert {word: table.best[word] for word in NUMBERS} == NUMBERS
    assert table.translate("two five never") == "zwei fünf never"
    chinese = PhraseTable(["one", "two", "one two", "two one"], ["一", "二", "一二", "二一"])
    assert chinese.translate("two two one") == "二二一"
    assert PhraseTable([], []).translate("a b") == "ab"


def test_first_and_central_sentences() -> None:
    text = 'Cats sleep. Dogs chase cats. "Cats eat fish." Stocks fell! 猫睡觉。狗追猫。'
    assert split_sentences(text) == [
        "Cats sleep.",
        "Dogs chase cats.",
        '"Cats eat fish."',
        "Stocks fell!",
        "猫睡觉。",
        "狗追猫。",
    ]
    assert lead(text, 2) == "Cats sleep. Dogs chase cats."
    assert "Stocks" not in textrank(
        "Cats sleep a lot. Dogs chase cats a lot. Cats eat a lot. Stocks fell!", 1
    )
    assert textrank("One sentence", 3) == "One sentence"


# ── pairs of ids ───────────────────────────────────────────────────────────────────────────────


def test_of_one_row_for_both_only_the_target_is_learned() -> None:
    form = PairFormat(end_id=9, start_id=9, begin=(9,), context_length=20)
    loader = pair_loader(
        [IdPair([1, 2], [3]), IdPair([4], [5, 6])], form, batch_size=2, seed=0, shuffle=False
    )
    batch = loader.batch(0)
    rows = {tuple(row) for row in batch.ids.tolist()}
    assert rows == {(9, 1, 2, 9, 3), (9, 4, 9, 5, 6)}
    learned = [
        [target for target, weight in zip(*row, strict=True) if weight]
        for row in zip(batch.targets.tolist(), batch.weights.tolist(), strict=True)
    ]
    assert sorted(learned) == [[3, 9], [5, 6, 9]]


def test_of_two_texts_the_source_is_apart() -> None:
    form = PairFormat(end_id=9, start_id=7, begin=None, context_length=20)
    batch = pair_loader([IdPair([1, 2], [3])], form, batch_size=1, seed=0).batch(0)
    assert batch.source is not None
    assert (batch.source.tolist(), batch.ids.tolist(), batch.targets.tolist()) == (
        [[1, 2, 9]],
        [[7, 3]],
        [[3, 9]],
    )


@pytest.mark.parametrize("begin", [None, (9,)])
@pytest.mark.parametrize(("n_source", "n_target"), [(3, 3), (50, 3), (3, 50), (50, 50)])
def test_a_pair_is_cut_to_the_context(begin: Any, n_source: int, n_target: int) -> None:
    form = PairFormat(9, 9, begin, context_length=16)
    pair, cut_source, cut_target = form.fit(IdPair([1] * n_source, [2] * n_target))
    assert (len(pair.source) + cut_source, len(pair.target) + cut_target) == (n_source, n_target)
    if begin is None:
        assert max(len(pair.source), len(pair.target)) + 1 <= 16
    else:
        assert len(form.prompt(pair.source)) + len(pair.target) <= 16
        assert pair.target, "a source leaves space for its target"


# ── training and writing ───────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Tasks", "text2text: a text made from another is trained, written, scored and compared with baselines"
)
def test_numbers_are_translated(translator: textus.Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert translator.translate("two five one") == "zwei fünf eins"
    assert translator.predict(["one two", "four"]) == [{"target": "eins zwei"}, {"target": "vier"}]
    test = written(translator.path.parent / "test.jsonl", number_pairs(60, seed=9))
    scores = textus.evaluate(translator, test)
    assert scores["bleu"]["value"] > 90
    assert list(scores["baselines"]) == ["copy of the source", "phrase table"]
    assert (
        scores["baselines"]["phrase table"]["bleu"]["value"]
        > scores["baselines"]["copy of the source"]["bleu"]["value"]
    )
    held = translator.record["held_out"]["text2text"]
    assert held["figure"] == "bleu"
    assert held["better"]


@pytest.mark.parametrize("family", ["seq2seq", "lstm", "decoder"])
def test_other_families_learn_it_too(family: str, tmp_path: Path) -> None:
    rows = written(tmp_path / "pairs.jsonl", number_pairs(300))
    run = textus.finetune(
        rows, out=tmp_path / "run", task="text2text", model=family, epochs=15, overrides=SMALL, seed=1
    )
    test = number_pairs(40, seed=5)
    translated = run.translate([row["source"] for row in test])
    assert overlap.bleu(translated, [row["target"] for row in test])["value"] > 35, translated


@pytest.mark.promise("Training", "A text2text training that is killed continues to the same bytes")
def test_a_stopped_training_continues_to_the_same_bytes(tmp_path: Path) -> None:
    from textus.finetuning.config import FinetuneConfig
    from textus.finetuning.finetune import resume, start
    from textus.training.trainer import TrainingInterrupted

    rows = written(tmp_path / "pairs.jsonl", number_pairs(80))
    config = FinetuneConfig(
        data=rows, task="text2text", model="encoder-decoder", epochs=3, overrides=tuple(SMALL)
    )
    whole = start(config, tmp_path / "whole")
    textus.finetune(
        rows, out=tmp_path / "cut", task="text2text", model="encoder-decoder", epochs=3, overrides=SMALL
    )
    import shutil

    shutil.rmtree(tmp_path / "cut")
    with pytest.raises(TrainingInterrupted):
        interrupted(config, tmp_path / "cut")
    resume(tmp_path / "cut")
    assert (whole / "model.safetensors").read_bytes() == (tmp_path / "cut" / "model.safetensors").read_bytes()


def interrupted(config: Any, out: Path) -> None:
    """A training that is stopped after its first evaluation, as Ctrl-C would."""
    import os
    import signal

    from textus.finetuning.finetune import start

    start(config, out, watch=lambda number, metrics: os.kill(os.getpid(), signal.SIGINT))


# ── files ──────────────────────────────────────────────────────────────────────────────────────


def test_a_file_is_translated_line_by_line(
    translator: textus.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "numbers.txt"
    source.write_text("one two\n\nthree\n", encoding="utf-8")
    assert main(["translate", str(translator.path), str(source)]) == 0
    assert capsys.readouterr().out == "eins zwei\n\ndrei\n"
    result = textus.translate(translator, source, out=tmp_path / "out.txt")
    assert result["lines"] == 3
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == "eins zwei\n\ndrei\n"
    with raises(UsageError, "already_exists", "out.txt"):
        textus.translate(translator, source, out=tmp_path / "out.txt")
    assert main(["translate", str(translator.path), "one two", "--json", "--beams", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["texts"] == ["eins zwei"]


@pytest.mark.promise("Generation", "A killed translate --out continues at the next line")
def test_a_killed_translation_continues_at_the_next_line(translator: textus.Run, tmp_path: Path) -> None:
    source, out = tmp_path / "numbers.txt", tmp_path / "out.txt"
    lines = [" ".join(words) for words in product(NUMBERS, repeat=3)] * 4
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    expected = tmp_path / "expected.txt"
    textus.translate(translator, source, out=expected)
    command = [TEXTUS, "translate", str(translator.path), str(source), "--out", str(out)]
    part = tmp_path / "out.txt.part.json"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not part.exists():
            pass
        process.kill()
    assert not out.exists(), "killed too late to show anything"
    assert 0 < json.loads(part.read_text())["rows"] < len(lines)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "continued after" in done.stderr
    assert out.read_bytes() == expected.read_bytes()


def test_a_long_text_is_split_at_sentences(
    translator: textus.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    from textus.tasks.generation import pair_format

    rewriter = translator.rewriter("translate", textus.RewriteConfig())
    form = pair_format(translator.model, translator.tokenizer, "text2text")
    text = " ".join(f"{word} two three four five." for word in [*NUMBERS] * 30)
    pieces = rewriter.split(text, form)
    assert len(pieces) > 1
    assert " ".join(pieces) == text
    assert all(len(translator.tokenizer.encode(piece)) < 256 and piece.endswith(".") for piece in pieces)
    assert translator.translate(text)
    assert "1 of 1 texts are longer than the context" in capsys.readouterr().err


def test_numbers_and_initials_end_no_sentence() -> None:
    text = "It cost 3.5 million. J. R. Smith paid, e.g. in cash."
    assert split_sentences(text) == ["It cost 3.5 million.", "J. R. Smith paid, e.g. in cash."]


def test_texts_that_do_not_end_are_counted(
    translator: textus.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for beams in (1, 3):
        assert translator.translate(["one two three four", "one"], max_tokens=2, beams=beams)[1] == "eins"
        assert "1 of 2 texts did not end" in capsys.readouterr().err
    translator.translate(["one two three four", "one"])
    assert "did not end" not in capsys.readouterr().err


def test_a_pipe_that_is_not_utf_8_is_refused_by_line(translator: textus.Run) -> None:
    command = [TEXTUS, "translate", str(translator.path), "-"]
    done = subprocess.run(command, input=b"one\none \xff\n", capture_output=True, check=False)
    assert done.returncode == 1
    assert b"line 2 of standard input is not UTF-8" in done.stderr


def test_trials_of_a_search_have_a_figure(tmp_path: Path) -> None:
    rows = written(tmp_path / "pairs.jsonl", number_pairs(40))
    options = {"task": "text2text", "model": "encoder-decoder", "epochs": 1, "overrides": SMALL}
    assert textus.tune(rows, out=tmp_path / "search", trials=1, **options)["counts"]["done"] == 1


def test_an_empty_text_has_an_empty_translation(translator: textus.Run) -> None:
    assert translator.translate(["", "  ", "one"]) == ["", "", "eins"]


def test_a_text_does_not_depend_on_its_neighbours(translator: textus.Run) -> None:
    texts = [row["source"] for row in number_pairs(30, seed=11)]
    assert translator.translate(texts) == [translator.translate(text) for text in texts]


# ── refused ────────────────────────────────────────────────────────────────────────────────────


def finetune(rows: list[dict[str, Any]], folder: Path, **options: Any) -> textus.Run:
    options = {"model": "encoder-decoder", "epochs": 1, "overrides": SMALL, **options}
    return textus.finetune(
        written(folder / "rows.jsonl", rows), out=folder / "run", task="text2text", **options
    )


@pytest.mark.parametrize(
    ("row", "code", "value"),
    [
        ({"source": "a", "target": ""}, "empty_data", "target"),
        ({"source": "a", "target": "  "}, "empty_data", "target"),
        ({"source": "a"}, "column_not_found", "target"),
        ({"target": "a"}, "column_not_found", "source"),
        ({"source": 3, "target": "a"}, "wrong_type", "source"),
    ],
)
def test_rows_that_are_no_pairs_are_refused_by_line(
    row: dict[str, Any], code: str, value: str, tmp_path: Path
) -> None:
    with raises(DataError, code, "line 4", value):
        finetune([*number_pairs(3), row, *number_pairs(5)], tmp_path)
    assert not (tmp_path / "run").exists()
    finetune([*number_pairs(30), row], tmp_path, skip_invalid="10%")


def test_an_empty_source_is_left_out_with_a_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finetune([*number_pairs(20), {"source": " ", "target": "eins"}], tmp_path)
    assert "1 rows have no source and are left out" in capsys.readouterr().err


def test_texts_longer_than_the_context_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {"source": "one " * 100, "target": "eins " * 100}
    finetune([*number_pairs(20), long], tmp_path, overrides=[*SMALL, "model.context_length=32"])
    err = capsys.readouterr().err
    assert "sources are longer than the context of 32 tokens" in err
    assert "targets are longer than the context of 32 tokens" in err


@pytest.mark.parametrize("family", ["encoder", "vae", "gan", "ngram", "hmm", "word2vec"])
def test_families_that_cannot_write_a_text_given_another_are_refused(family: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        finetune(number_pairs(20), tmp_path, model=family, overrides=[])
    assert caught.value.code in ("unsupported_model", "unknown_name")
    assert not (tmp_path / "run").exists()


def test_another_task_and_another_goal_are_named(translator: textus.Run, tmp_path: Path) -> None:
    with raises(UsageError, "wrong_task", "textus translate"):
        textus.summarize(translator, "one")
    rows = written(tmp_path / "r.jsonl", [{"text": f"a {n}", "label": n % 2} for n in range(20)])
    other = textus.finetune(rows, out=tmp_path / "c", model="linear")
    with raises(UsageError, "wrong_task", "text2text"):
        textus.translate(other, "one")
    with raises(UsageError, "conflicting_options", "--extra-task"):
        extra = written(tmp_path / "x.jsonl", number_pairs(20))
        finetune(number_pairs(20), tmp_path, extra_tasks=(f"other:text2text={extra}",))
    with raises(UsageError, "invalid_value", "{source}"):
        finetune(number_pairs(20), tmp_path, overrides=["task.template=Translate:"])


def test_a_summary_is_compared_with_first_sentences(tmp_path: Path) -> None:
    texts = [" ".join(text) for text in product(NUMBERS, repeat=3)]
    rows = [{"source": f"{text}. Another sentence.", "target": f"{text}."} for text in texts]
    run = finetune(rows, tmp_path, epochs=2, overrides=[*SMALL, "task.goal=summarize"])
    scores = textus.evaluate(run, written(tmp_path / "test.jsonl", rows[:30]))
    assert next(name for name in scores if name.startswith(("rouge", "bleu"))) == "rouge_l"
    assert scores["baselines"]["lead-1"]["rouge_l"]["value"] == 1.0
    assert "TextRank" in scores["baselines"]
    assert scores["baselines"]["lead-1"]["difference"]["of"] == "rouge_l"

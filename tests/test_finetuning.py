"""Fine-tuning end to end: a task learnt from rows by every family that can, asked, measured, broken off, resumed."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from labelled import WORDS, written
from raising import raises

from textus import api
from textus.cli.main import main
from textus.core.errors import DataError, RunError, UsageError
from textus.core.io import sha256
from textus.runs.store import load, open_run
from textus.tasks.encoding import encode_examples, input_template
from textus.training.trainer import TrainingInterrupted

SMALL = ("train.batch_size=8", "model.n_layer=1", "model.d_model=32", "optim.rate=0.01")


def sentences(n: int, seed: int = 0) -> list[dict[str, str]]:
    """Rows whose class is told by one planted word."""
    draw = random.Random(seed)
    rows = []
    for number in range(n):
        words = [draw.choice(WORDS) for _ in range(draw.randint(3, 9))]
        label = ("bad", "fine", "good")[number % 3]
        words.insert(draw.randrange(len(words)), {"bad": "dull", "fine": "plain", "good": "grand"}[label])
        rows.append({"text": " ".join(words), "label": label})
    return rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("rows") / "train.jsonl", sentences(360))


@pytest.fixture(scope="module")
def tuned(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    return api.finetune(
        rows, model="lstm", out=tmp_path_factory.mktemp("runs") / "lstm", epochs=6, overrides=SMALL
    )


NEURAL = ["lstm", "gru", "rnn", "seq2seq", "encoder", "decoder", "encoder-decoder", "vae", "gan"]


@pytest.mark.promise("Tasks", "Every family with hidden states trains on a task, and the others refuse it")
@pytest.mark.slow
@pytest.mark.parametrize("family", NEURAL)
def test_every_family_with_states_learns_it(family: str, rows: Path, tmp_path: Path) -> None:
    settings = [*SMALL, *(["model.n_head=2"] if "coder" in family else [])]
    run = api.finetune(rows, model=family, out=tmp_path / "run", epochs=8, overrides=settings)
    test = written(tmp_path / "test.jsonl", sentences(90, seed=1))
    assert run.evaluate(test)["accuracy"]["value"] > 0.9
    texts = ["a grand story", "dull men of the town"]
    assert [row["label"] for row in run.predict(texts)] == ["good", "bad"]


@pytest.mark.parametrize("family", ["ngram", "hmm"])
def test_a_family_without_states_is_refused(family: str, rows: Path, tmp_path: Path) -> None:
    with raises(UsageError, "unsupported_model"):
        api.finetune(rows, model=family, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_from_a_run_its_weights_and_tokenizer_continue(trained: Path, rows: Path, tmp_path: Path) -> None:
    settings = ["train.batch_size=8", "train.keep=last"]  # else the solved head alone is the best there is
    run = api.finetune(rows, init_from=trained, out=tmp_path / "run", epochs=1, overrides=settings)
    before, tokenizer, _ = load(trained)
    assert run.tokenizer.fingerprint == tokenizer.fingerprint
    old = dict(before.named_parameters())
    moved = {n: float((p - old[n]).detach().abs().max()) for n, p in run.model.named_parameters() if n in old}
    assert set(moved) == set(old)
    assert 0 < max(moved.values()) < 0.1  # begun there, and moved from there
    assert run.record["parent"] == str(trained.resolve())


def test_from_a_run_what_leaves_the_shapes_may_be_set(trained: Path, rows: Path, tmp_path: Path) -> None:
    """Dropout is another and the weights are the run's; what changes a shape is refused before anything is written."""
    settings = ["train.batch_size=8", "train.steps=3", "train.checkpoint_every=1", "optim.rate=1e-12"]
    run = api.finetune(
        rows, init_from=trained, out=tmp_path / "run", overrides=[*settings, "model.dropout=0.375"]
    )
    assert run.record["config"]["dropout"] == run.model.config.dropout == 0.375
    before, model = load(trained)[0], run.model
    assert before.config.dropout != 0.375
    now = dict(model.named_parameters())
    assert all(torch.allclose(value, now[name], atol=1e-6) for name, value in before.named_parameters())
    assert api.verify_determinism(run.path)["identical"]
    for item in ("model.n_layer=7", "model.vocab_size=999", "model.drpout=0.1"):
        with pytest.raises(UsageError, match=r"set it is|did you mean"):
            api.finetune(rows, init_from=trained, out=tmp_path / "other", overrides=[*settings, item])
    assert not (tmp_path / "other").exists()


def test_single_questions_and_batches_have_equal_answers(tuned: api.Run) -> None:
    texts = [row["text"] for row in sentences(40, seed=2)] + ["", "grand"]
    together = tuned.predict(texts)
    for text, answer in zip(texts, together, strict=True):
        alone = tuned.predict([text])[0]
        assert alone["label"] == answer["label"]
        assert alone["probability"] == pytest.approx(answer["probability"], abs=2e-2)  # bfloat16
    assert sum(together[0]["probabilities"].values()) == pytest.approx(1, abs=1e-4)


def test_the_run_shows_what_it_was_made_from(tuned: api.Run, rows: Path) -> None:
    record = tuned.record
    assert (record["task"], record["labels"]) == ("classification", ["bad", "fine", "good"])
    assert record["corpus"]["path"] == str(rows.resolve())
    assert record["best"]["criterion"] == -max(
        json.loads(line)["accuracy"]
        for line in (tuned.path / "log.jsonl").read_text().splitlines()
        if "accuracy" in json.loads(line)
    )
    assert api.verify(tuned.path)


@pytest.mark.promise(
    "Tasks", "A fine-tuning broken off and resumed ends in the same bytes; other rows are refused"
)
def test_broken_off_and_resumed_it_ends_in_the_same_bytes(rows: Path, tmp_path: Path) -> None:
    run = api.finetune(
        rows, model="gru", out=tmp_path / "run", epochs=3, overrides=[*SMALL, "model.dropout=0.3"]
    )
    assert api.verify_determinism(run.path)["identical"]


@pytest.mark.promise(
    "Robustness", "A moved corpus or labelled file is found again; another parent is refused"
)
def test_moved_rows_are_read_where_they_are_now_and_no_parent_is_needed(
    trained: Path, rows: Path, tmp_path: Path
) -> None:
    """C13, C23: a checkpoint holds all weights; only a run without one begins again with its parent's, and refuses
    another parent.
    """
    parent, data = Path(shutil.copytree(trained, tmp_path / "parent")), tmp_path / "rows.jsonl"
    shutil.copyfile(rows, data)
    settings = ["train.batch_size=8", "train.checkpoint_every=2"]
    whole = api.finetune(data, init_from=parent, out=tmp_path / "whole", epochs=1, overrides=settings)
    with pytest.raises(TrainingInterrupted):
        api.resume(started_again(whole.path, tmp_path / "run"), until=3)
    early = started_again(whole.path, tmp_path / "early")
    shutil.rmtree(parent)
    data.rename(tmp_path / "elsewhere.jsonl")
    with raises(RunError, "not_found"):
        api.resume(tmp_path / "run")
    api.resume(tmp_path / "run", corpus=tmp_path / "elsewhere.jsonl")
    assert sha256(tmp_path / "run" / "model.safetensors") == sha256(whole.path / "model.safetensors")
    api.finetune(rows, model="gru", out=parent, epochs=1, overrides=SMALL)
    with raises(RunError, "data_changed"):
        api.resume(early, corpus=tmp_path / "elsewhere.jsonl")


def test_moved_validation_rows_are_read_where_they_are_now(rows: Path, trained: Path, tmp_path: Path) -> None:
    """C23: recorded where both files are; --dev for a run that has no such file, or no rows, is refused."""
    data, dev = tmp_path / "rows.jsonl", written(tmp_path / "dev.jsonl", sentences(30, seed=3))
    shutil.copyfile(rows, data)
    settings = [*SMALL, "train.steps=4", "train.checkpoint_every=2"]
    whole = api.finetune(data, model="gru", dev=dev, out=tmp_path / "whole", overrides=settings)
    run = started_again(whole.path, tmp_path / "run")
    dev.rename(tmp_path / "moved.jsonl")
    with raises(RunError, "not_found", "dev.jsonl"):
        api.resume(run)
    assert main(["resume", str(run), "--dev", str(tmp_path / "moved.jsonl")]) == 0
    assert sha256(run / "model.safetensors") == sha256(whole.path / "model.safetensors")
    assert open_run(run).record["corpus"]["dev"] == str(tmp_path / "moved.jsonl")
    alone = api.finetune(data, model="gru", out=tmp_path / "alone", overrides=settings)
    again = started_again(alone.path, tmp_path / "again")
    with raises(UsageError, "option_not_applicable", "--dev", "moved.jsonl"):
        api.resume(again, dev=tmp_path / "moved.jsonl")
    with raises(UsageError, "option_not_applicable", "--dev", "moved.jsonl"):
        api.resume(trained, dev=tmp_path / "moved.jsonl")


def started_again(run: Path, copy: Path) -> Path:
    """A copy of a finished run as it was before its first step."""
    shutil.copytree(run, copy)
    open_run(copy).unfinish()
    return copy


def test_resume_refuses_other_rows(rows: Path, tmp_path: Path) -> None:
    data = written(tmp_path / "rows.jsonl", sentences(60))
    run = api.finetune(data, model="rnn", out=tmp_path / "run", epochs=2, overrides=SMALL)
    written(data, sentences(61))
    with raises(RunError, "data_changed"):
        api.verify_determinism(run.path)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(rows: Path, tmp_path: Path) -> None:
    def weights(seed: int, name: str) -> torch.Tensor:
        run = api.finetune(rows, model="gru", out=tmp_path / name, epochs=1, seed=seed, overrides=SMALL)
        return run.model.heads["classification"].out.weight  # type: ignore[union-attr, return-value]

    first = weights(0, "a")
    assert torch.equal(first, weights(0, "b"))
    assert not torch.equal(first, weights(1, "c"))


# ── data ───────────────────────────────────────────────────────────────────────────────────────


def test_any_number_of_labels_a_text(tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = [
        {"text": " ".join([*(f"has{name}" for name in names), *draw.choices(WORDS, k=4)]), "label": names}
        for names in ([], ["a"], ["b"], ["a", "b"]) * 40
    ]
    data = written(tmp_path / "rows.jsonl", rows)
    run = api.finetune(
        data, model="gru", out=tmp_path / "run", epochs=8, overrides=[*SMALL, "task.multi=true"]
    )
    assert run.evaluate(data)["micro_f1"]["value"] > 0.95
    assert [row["labels"] for row in run.predict(["hasa film", "film"])] == [["a"], []]


def test_pairs_of_texts(tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = []
    for _ in range(400):
        first, second = draw.choice("ab"), draw.choice("ab")
        words = [" ".join(draw.choices(WORDS, k=3)) for _ in range(2)]
        texts = {"sentence1": f"{first} {words[0]}", "sentence2": f"{second} {words[1]}"}
        rows.append({**texts, "label": int(first == second)})
    data = written(tmp_path / "rows.jsonl", rows)
    settings = [*SMALL, "model.n_head=2", "optim.rate=0.003"]
    run = api.finetune(data, model="encoder", out=tmp_path / "run", epochs=12, overrides=settings)
    answers = run.predict([("a film was", "a story of"), ("a film was", "b story of")])
    assert [answer["label"] for answer in answers] == [1, 0]


def test_chinese_is_read_by_character(tmp_path: Path) -> None:
    draw = random.Random(0)
    answer = lambda: "".join(draw.choices("这部电影我们昨天一起去看了", k=6))  # noqa: E731
    rows = [
        {"text": f"{answer()}真{word}看", "label": label} for word, label in (("好", "褒"), ("难", "贬")) * 60
    ]
    data = written(tmp_path / "r.jsonl", rows)
    run = api.finetune(data, model="lstm", out=tmp_path / "run", epochs=4, overrides=SMALL)
    assert run.tokenizer.kind == "char"
    assert [row["label"] for row in run.predict(["真好看", "真难看"])] == ["褒", "贬"]


@pytest.mark.promise(
    "Tasks",
    "Nothing of the data is silently skipped: truncated texts, texts in both parts, unseen labels and "
    "empty rows are reported; rows without a usable label are refused by name",
)
def test_what_is_cut_is_reported(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api.finetune(rows, model="gru", out=tmp_path / "run", epochs=1, overrides=[*SMALL, "task.longest=6"])
    err = capsys.readouterr().err
    assert "texts are longer than 6 tokens: the ends of them" in err


def cut_at(
    tmp_path: Path, rows: list[dict[str, Any]], longest: int, cuts: tuple[str, str]
) -> tuple[dict[str, api.Run], list[float]]:
    """Runs that read at most `longest` ids of the rows, one a way to cut them, and how often each is right."""
    data = written(tmp_path / "rows.jsonl", rows)
    small = (*SMALL, f"task.longest={longest}")
    runs = {
        cut: api.finetune(
            data, model="gru", out=tmp_path / cut, epochs=4, overrides=[*small, f"task.cut={cut}"]
        )
        for cut in cuts
    }
    right = [run.evaluate(data, baselines=False)["accuracy"]["value"] for run in runs.values()]
    return runs, right


def test_a_word_at_the_end_is_read_where_the_middle_is_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Classes told by the last word alone cannot be learnt from the beginnings."""
    draw = random.Random(0)
    rows = [
        {"text": " ".join([*draw.choices(WORDS, k=20), ("grand", "dull")[n % 2]]), "label": n % 2} for n in range(200)
    ]  # fmt: skip
    _, (end, middle) = cut_at(tmp_path, rows, 10, ("end", "middle"))
    assert end < 0.75 < 0.97 < middle
    assert "tokens: the middles of them" in capsys.readouterr().err


def test_with_nothing_cut_every_window_is_read_and_their_mean_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A class told by one word in the middle of a long text; asked by hand, window by window."""
    draw = random.Random(0)
    rows = []
    for n in range(200):
        words = draw.choices(WORDS, k=30)
        words[10 + n % 10] = ("grand", "dull")[n % 2]
        rows.append({"text": " ".join(words), "label": n % 2})
    runs, (end, nothing) = cut_at(tmp_path, rows, 12, ("end", "nothing"))
    assert end < 0.75 < 0.97 < nothing
    assert (
        "180 of 180 texts are longer than 12 tokens: all are read in 540 windows" in capsys.readouterr().err
    )
    run, texts = runs["nothing"], [rows[0]["text"], "a grand film", "", rows[1]["text"]]
    examples = [run.task.example_from_text((text,), text) for text in texts]
    windows = encode_examples(
        run.task, examples, run.tokenizer, input_template(run.model.config, run.tokenizer, 12)
    )
    assert [row.meta for row in windows] == [0, 0, 0, 1, 2, 3, 3, 3]
    ids = run.tokenizer.encode(texts[3])
    assert [id_ for row in windows[5:] for id_ in row.ids[1:-1]] == ids
    item = [
        run.model.heads["classification"].predict(run.model.hidden(torch.tensor([row.ids])))
        for row in windows
    ]
    expected = [float(torch.cat(part).mean(0)[0]) for part in (item[:3], item[3:4], item[4:5], item[5:])]
    answers = [answer["probabilities"]["0"] for answer in run.predict(texts)]
    assert answers == pytest.approx(expected, abs=0.01)
    with raises(UsageError, "wrong_number_of_texts", "2 texts"):
        run.predict([("a film", "a story")])


def test_rows_in_both_parts_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = written(tmp_path / "train.jsonl", sentences(60))
    dev = written(tmp_path / "dev.jsonl", [*sentences(3), *sentences(9, seed=5)])
    api.finetune(data, dev=dev, model="gru", out=tmp_path / "run", epochs=1, overrides=SMALL)
    err = capsys.readouterr().err
    assert "3 of the 12 rows that choose the weights have a text that is trained on too" in err
    assert "dev.jsonl: line 1" in err


def test_equal_texts_are_held_out_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api.finetune(
        written(tmp_path / "r.jsonl", sentences(90) * 2),
        model="gru",
        out=tmp_path / "run",
        epochs=1,
        overrides=SMALL,
    )
    assert "trained on too" not in capsys.readouterr().err


def test_labels_never_seen_count_as_wrong(
    tuned: api.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = sentences(30, seed=3)
    right = 30 * tuned.evaluate(written(tmp_path / "known.jsonl", known))["accuracy"]["value"]
    test = written(tmp_path / "t.jsonl", [*known, {"text": "a grand film", "label": "new"}])
    scores = tuned.evaluate(test)
    assert scores["accuracy"]["value"] == pytest.approx(right / 31)
    assert "1 labels were never seen in training (new)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([{"text": "a", "label": None}], "line 1: the label is None, which names no class"),
        ([{"text": "a"}], "line 1 has no field 'label'; it has 'text'"),
        ([{"review": "a", "label": 1}], "line 1 has no field 'text'; it has 'review', 'label'"),
        ([{"text": 3, "label": 1}], "line 1: a text is int"),
        ([{"text": "a", "label": {"x": 1}}], "the label is {'x': 1}"),
        ([{"text": f"t{n}", "label": "same"} for n in range(30)], "one label 'same'"),
        ([{"text": f"t{n}", "label": f"l{n}"} for n in range(300)], "different labels in"),
        ([{"text": "a", "label": ["x", "y"]}] * 9, "--set task.multi=true"),
    ],
)
def test_data_that_cannot_be_learned_is_named(
    rows: list[dict[str, Any]], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises((DataError, UsageError)) as caught:
        api.finetune(written(tmp_path / "r.jsonl", rows), model="lstm", out=tmp_path / "run")
    assert complaint in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_rows_without_text_are_left_out_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = written(tmp_path / "r.jsonl", [*sentences(60), {"text": "  ", "label": "bad"}])
    api.finetune(data, model="gru", out=tmp_path / "run", epochs=1, overrides=SMALL)
    assert "1 rows have no text and are left out; the first is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({}, "--from RUN, or --model FAMILY"),
        ({"model": "lstm", "init_from": "x"}, "--from RUN, or --model FAMILY"),
        ({"model": "lstm", "task": "classfication"}, "did you mean 'classification'"),
        ({"model": "lstm", "overrides": ["train.context_length=9"]}, "is task.longest"),
        ({"model": "lstm", "epochs": 2, "overrides": ["train.steps=9"]}, "both set the length"),
        ({"model": "lstm", "epochs": 0}, "--epochs 0: must be at least 1"),
        ({"model": "lstm", "overrides": ["tsk.multi=true"]}, "did you mean 'task'"),
        ({"init_from": "x", "tokenizer": "bpe"}, "a model reads with the tokenizer it has"),
    ],
)
def test_wrong_words_are_named_before_anything_is_read(
    words: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        api.finetune(tmp_path / "nowhere.csv", out=tmp_path / "run", **words)
    assert complaint in str(caught.value)


def test_a_run_with_a_task_writes_no_text(tuned: api.Run) -> None:
    with raises(UsageError, "not_a_language_model", "classification"):
        tuned.generate("the film")
    with raises(UsageError, "missing_argument"):
        api.compare([tuned], on=tuned.path / "log.jsonl")


@pytest.mark.promise(
    "Tasks",
    "A fine-tuned run predicts, lists what can be done with it, and is not taken for a language model; "
    "explicit settings take precedence",
)
def test_the_command_line_asks_for_a_text_or_a_file(
    tuned: api.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answers(what: str) -> list[str]:
        assert main(["predict", str(tuned.path), what, "--json"]) == 0
        return [answer["label"] for answer in json.loads(capsys.readouterr().out)["answers"]]

    assert answers("a grand film") == ["good"]
    assert len(answers("")) == 1
    assert len(answers("a film " * 2000)) == 1
    rows = sentences(9, seed=4)
    assert answers(str(written(tmp_path / "rows.jsonl", rows))) == [row["label"] for row in rows]
    assert main(["evaluate", str(tuned.path), "--on", str(tmp_path / "rows.jsonl")]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert main(["show", str(tuned.path)]) == 0
    assert "labels" in capsys.readouterr().out


def test_what_is_set_has_the_last_word(rows: Path, tmp_path: Path) -> None:
    chosen = [*SMALL, "train.steps=20", "train.seed=7", "train.evaluate_every=5", "optim.weight_decay=0.5"]
    settings = api.finetune(rows, model="gru", out=tmp_path / "run", overrides=chosen).record["settings"]
    assert [settings[name] for name in ("steps", "seed", "evaluate_every")] == [20, 7, 5]
    assert (settings["optim"]["warmup"], settings["optim"]["weight_decay"]) == (2, 0.5)


def test_finished_and_resumed_it_names_what_can_be_done(
    tuned: api.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["resume", str(tuned.path)]) == 0
    out = capsys.readouterr().out
    assert "textus predict" in out
    assert "textus generate" not in out


def test_a_run_without_a_task_is_not_queried(trained: Path) -> None:
    with raises(UsageError, "not_fine_tuned"):
        api.open_run(trained).predict(["a text"])


# ── what a step draws ──────────────────────────────────────────────────────────────────────────


def training_of(family: str, rows: Path, **settings: Any) -> tuple[Any, Any]:
    """A model of a family with a head, and the batches it would learn from."""
    from textus import tokenizers
    from textus.data.labeled import stream_records
    from textus.models.registry import build
    from textus.tasks.classification import Classification, ClassificationSettings
    from textus.tasks.encoding import ExampleLoader, encode_examples, input_template
    from textus.tasks.inference import add_head

    records = list(stream_records(rows))
    task = Classification.from_records(ClassificationSettings(dropout=0, **settings), records)
    tokenizer = tokenizers.train("word", [record.values["text"] for record in records], 200)
    config = {"vocab_size": tokenizer.vocab_size, "n_layer": 1, "d_model": 32, "dropout": 0.5}
    config |= {"n_head": 2} if "coder" in family else {}
    config |= {"end_id": tokenizer.end_id} if family in ("seq2seq", "encoder-decoder") else {}
    model = build(family, config)
    add_head(model, task)
    encoded = encode_examples(
        task, task.make_examples(records, labelled=True), tokenizer, input_template(model.config, tokenizer)
    )
    return model.train(), ExampleLoader(task, encoded, pad_id=tokenizer.pad_id, batch_size=8, seed=0)


@pytest.mark.promise(
    "Tasks",
    "Dropout of a fine-tuned model differs from step to step in every family; word dropout leaves out "
    "its share and keeps the frame",
)
@pytest.mark.parametrize("family", [item for item in NEURAL if item not in ("vae", "gan")])
def test_each_step_drops_other_units_and_the_same_step_the_same(family: str, rows: Path) -> None:
    from dataclasses import replace

    from textus.tasks.inference import head_loss

    model, batches = training_of(family, rows)

    def at(step: int) -> float:
        torch.manual_seed(step)
        return float(head_loss(model, replace(batches.batch(0), position=step)).mean.detach())

    assert at(1) == at(1)
    assert len({at(step) for step in range(4)}) == 4


def test_word_dropout_leaves_out_its_share_but_not_the_frame(rows: Path) -> None:
    _, plain = training_of("gru", rows)
    _, batches = training_of("gru", rows, word_dropout=0.4)
    kept = whole = 0
    for step in range(30):
        before, after = plain.batch(step), batches.batch(step)
        assert torch.equal(after.ids, batches.batch(step).ids)
        for ids, mask, now, here in zip(before.ids, before.mask, after.ids, after.mask, strict=True):
            was, left = ids[mask].tolist(), now[here].tolist()
            assert (left[0], left[-1]) == (was[0], was[-1])
            rest = iter(was)
            assert all(item in rest for item in left)  # in their order
            kept, whole = kept + len(left) - 2, whole + len(was) - 2
    assert 0.57 < kept / whole < 0.63
    assert not torch.equal(batches.batch(0).ids[0], batches.batch(plain.n_batches).ids[0])


@pytest.mark.promise(
    "Tasks",
    "Cloze questions have answers at their offsets, follow from seed and passage, and train a head "
    "that continues on real ones; heads of other tasks or classes do not",
)
def test_the_head_of_another_task_or_of_other_classes_is_left_behind(
    tuned: api.Run, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the same task with the same classes it goes on; the run that comes of it opens in every case."""
    still = ["train.steps=1", "optim.rate=1e-12"]
    weights = lambda run: load(run.path)[0].heads["classification"].out.weight  # noqa: E731
    same = api.finetune(
        rows, init_from=tuned.path, out=tmp_path / "same", overrides=[*still, "task.dropout=0.2"]
    )
    assert "the head of classification continues" in capsys.readouterr().err
    assert torch.allclose(weights(same), weights(tuned), atol=1e-6)
    others = [{**row, "label": row["label"].upper()} for row in sentences(60)]
    upper = written(tmp_path / "upper.jsonl", others)
    other = api.finetune(upper, init_from=tuned.path, out=tmp_path / "other", overrides=still)
    assert not torch.allclose(weights(other), weights(tuned), atol=1e-3)
    pairs = [{"text": "a grand story", "text_pair": "a town", "score": n % 5} for n in range(40)]
    file = written(tmp_path / "pairs.jsonl", pairs)
    capsys.readouterr()
    moved = api.finetune(
        file, dev=file, init_from=tuned.path, task="similarity", out=tmp_path / "moved", overrides=still
    )
    assert "heads of other tasks are left behind: classification" in capsys.readouterr().err
    assert list(load(moved.path)[0].heads) == ["similarity"]

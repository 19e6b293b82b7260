"""Several tasks at once: how steps are dealt out, that each head learns from its own rows alone, and that the run is
asked, resumed, put together and gone on from by the names of its tasks.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from labelled import WORDS, written
from raising import raises
from safetensors.torch import load_file
from scipy import stats

from textus import api
from textus.cli.main import main
from textus.core.errors import DataError, RunError, UsageError
from textus.core.io import sha256
from textus.finetuning import finetune
from textus.models.registry import family as family_of
from textus.runs.store import RunFolder, create_run, load, open_run, read_tokenizer
from textus.tasks.base import EncodedExample
from textus.tasks.classification import Classification, ClassificationSettings
from textus.tasks.encoding import ExampleLoader
from textus.tasks.inference import head_loss
from textus.tasks.multitask import STEPS_AT_ONCE, MixSettings, MultitaskLoader
from textus.training.gradients import GradientAccumulator
from textus.training.optim import OptimSettings, make_optimisers
from textus.training.pretrain import TrainingSetup, train_to_end

SMALL = ("train.batch_size=8", "model.n_layer=1", "model.d_model=32", "optim.rate=0.01")
TONES = {"dull": "bad", "plain": "fine", "grand": "good"}
TEXTUS = Path(sys.executable).with_name("textus")
PLACES = {"Rome": "south", "Oslo": "north"}


def said(draw: random.Random, word: str) -> tuple[list[str], int]:
    """Words that tell nothing around one that does, and its place."""
    words = [draw.choice(WORDS) for _ in range(draw.randint(3, 9))]
    at = draw.randrange(len(words))
    return [*words[:at], word, *words[at:]], at


def tones(n: int, seed: int = 0) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    words = [list(TONES)[number % 3] for number in range(n)]
    return [{"text": " ".join(said(draw, word)[0]), "label": TONES[word]} for word in words]


def places(n: int, seed: int = 0) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    words = [list(PLACES)[number % 2] for number in range(n)]
    return [{"text": " ".join(said(draw, word)[0]), "label": PLACES[word]} for word in words]


def tagged(n: int, seed: int = 0) -> list[dict[str, Any]]:
    draw, rows = random.Random(seed), []
    for number in range(n):
        tokens, at = said(draw, list(PLACES)[number % 2])
        rows.append({"tokens": tokens, "tags": ["B-LOC" if n == at else "O" for n in range(len(tokens))]})
    return rows


def pairs(n: int, seed: int = 0) -> list[dict[str, Any]]:
    draw, rows = random.Random(seed), []
    for _ in range(n):
        first, second = (draw.choice(list(TONES)) for _ in range(2))
        texts = [" ".join(said(draw, word)[0]) for word in (first, second)]
        rows.append({"text": texts[0], "text_pair": texts[1], "score": 5 if first == second else 1})
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of four tasks, and test rows of three."""
    place = tmp_path_factory.mktemp("several")
    for name, rows in {
        "tones": tones(240), "places": places(90), "tagged": tagged(90), "pairs": pairs(60),
        "tones-test": tones(60, 1), "places-test": places(60, 1), "tagged-test": tagged(60, 1),
    }.items():  # fmt: skip
        written(place / f"{name}.jsonl", rows)
    return place


def learnt(folder: Path, out: Path, *settings: str, model: str = "gru", **more: Any) -> api.Run:
    """Three tasks learnt at once."""
    also = [f"tagging={folder / 'tagged.jsonl'}", f"where:classification={folder / 'places.jsonl'}"]
    given = {"epochs": 10, "extra_tasks": also, **more}
    words = {} if "init_from" in given else {"model": model}
    kept = [text for text in SMALL if words.get("model") is not None or not text.startswith("model.")]
    return api.finetune(folder / "tones.jsonl", out=out, overrides=[*kept, *settings], **words, **given)


@pytest.fixture(scope="module")
def several(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    return learnt(
        folder,
        tmp_path_factory.mktemp("runs") / "run",
        "task.tagging.crf=true",
        "task.where.pooling=max",
        "task.dropout=0.2",
    )


def ready_again(run: api.Run) -> TrainingSetup:
    """The training of a run as it began."""
    opened, tokenizer = open_run(run.path), read_tokenizer(open_run(run.path))
    parts = {name: finetune.reload_data(opened, name, None) for name in run.tasks}
    family, record = run.record["family"], run.record
    config = finetune.from_dict(family_of(family)[1], record["config"], "model.")
    rows = {name: finetune.encoded(data, family, config, tokenizer) for name, data in parts.items()}
    return finetune.prepare(record, parts, tokenizer, rows)


# ── what is learnt ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise("Tasks", "A multi-task model predicts each task as it was trained, by every method")
def test_each_task_answers_as_it_was_trained(several: api.Run, folder: Path) -> None:
    for task, test, figure in (
        ("classification", "tones", "accuracy"), ("where", "places", "accuracy"), ("tagging", "tagged", "f1"),
    ):  # fmt: skip
        scores = several.evaluate(folder / f"{test}-test.jsonl", task=task, baselines=False)
        assert scores[figure]["value"] > 0.9
        assert scores["task"] == task
    texts = ["a grand film in Oslo", "a dull story of Rome"]
    assert [row["label"] for row in several.predict(texts, task="classification")] == ["good", "bad"]
    assert [row["label"] for row in several.predict(texts, task="where")] == ["north", "south"]
    assert several.predict(["a film of Oslo"], task="tagging")[0]["entities"][0]["text"] == "Oslo"


def test_the_run_reports_every_task(several: api.Run, folder: Path) -> None:
    record = several.record
    assert (record["task"], record["labels"]) == ("classification", ["bad", "fine", "good"])
    assert list(record["heads"]) == several.tasks == ["classification", "tagging", "where"]
    assert record["mix"] == {"power": 0.5}
    also = record["extra_tasks"]
    assert (also["where"]["task"], also["where"]["labels"]) == ("classification", ["north", "south"])
    assert sum(also["where"]["label_counts"]) > 70
    assert also["tagging"]["task_settings"]["crf"]
    assert also["where"]["task_settings"]["pooling"] == "max"
    assert record["task_settings"]["pooling"] == "mean"  # each setting is its own task's
    assert [item["task_settings"]["dropout"] for item in (record, *also.values())] == [0.2, 0.1, 0.1]
    for name, row in (("tones", record), ("tagged", also["tagging"]), ("places", also["where"])):
        file = folder / f"{name}.jsonl"
        assert row["corpus"]["path"] == str(file.resolve())
    assert api.verify(several.path)
    assert api.show(several)["extra_tasks"]["where"] == {
        "task": "classification",
        "labels": ["north", "south"],
    }


def test_a_run_with_one_task_is_recorded_as_ever(folder: Path, tmp_path: Path) -> None:
    record = api.finetune(
        folder / "tones.jsonl", model="gru", out=tmp_path / "run", epochs=1, overrides=SMALL
    ).record
    assert not {"extra_tasks", "mix", "head_name"} & set(record)
    assert set(record["corpus"]) == {"path", "dev", "columns", "fingerprint"}
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert not [name for line in lines for name in line if "/" in name]


def test_weights_are_chosen_by_the_mean_of_the_tasks_figures(several: api.Run) -> None:
    lines = [json.loads(line) for line in (several.path / "log.jsonl").read_text().splitlines()]
    evaluated = [line for line in lines if "criterion" in line]
    mains = ("classification/accuracy", "tagging/f1", "where/accuracy")
    for line in evaluated:
        assert -line["criterion"] == pytest.approx(sum(line[name] for name in mains) / 3, abs=1e-5)
    assert several.record["best"]["criterion"] == min(line["criterion"] for line in evaluated)
    steps = [line for line in lines if "loss" in line]
    losses = {name: line["loss"] for line in steps for name in line if name.startswith("loss/")}
    assert set(losses) == {"loss/classification", "loss/tagging", "loss/where"}
    assert all(sum(name.startswith("loss/") for name in line) == 1 for line in steps)


# ── how steps are dealt out ────────────────────────────────────────────────────────────────────


def mixed(sizes: dict[str, int], power: float, seed: int = 0) -> MultitaskLoader:
    """Batches of tasks that have so many rows."""
    task = Classification(ClassificationSettings(), ["a", "b"])
    frame = EncodedExample([1, 2], [0, 0], 0)
    parts = {}
    for name, n in sizes.items():
        own = Classification(task.settings, task.labels)
        own.head_name = name
        rows = [replace(frame, ids=[number + 2, 1]) for number in range(n)]
        parts[name] = ExampleLoader(own, rows, pad_id=0, batch_size=4, seed=seed)
    return MultitaskLoader(parts, power=power, seed=seed)


SIZES = {"large": 400, "middle": 100, "small": 16}


@pytest.mark.promise(
    "Tasks", "Steps are drawn among tasks by a power of their sizes, from seed and step alone"
)
@pytest.mark.parametrize(("power", "parts"), [(0.0, (1, 1, 1)), (0.5, (20, 10, 4)), (1.0, (400, 100, 16))])
def test_steps_are_dealt_by_a_power_of_the_sizes(power: float, parts: tuple[int, ...]) -> None:
    batches = mixed(SIZES, power)
    steps = 5000
    drawn = Counter(batches.task_at(step)[0] for step in range(steps))
    expected = [steps * part / sum(parts) for part in parts]
    assert stats.chisquare([drawn[name] for name in SIZES], expected).pvalue > 0.01
    others = [sum(x**other for x in SIZES.values()) for other in (0.0, 0.5, 1.0) if other != power]
    for other, total in zip([item for item in (0.0, 0.5, 1.0) if item != power], others, strict=True):
        wrong = [steps * n**other / total for n in SIZES.values()]  # the test would see another power
        assert stats.chisquare([drawn[name] for name in SIZES], wrong).pvalue < 1e-6


def test_what_a_step_sees_follows_from_seed_and_step_alone() -> None:
    steps = STEPS_AT_ONCE + 50
    first = mixed(SIZES, 0.5)
    turns = [first.task_at(step) for step in range(steps)]
    for step in random.Random(0).sample(range(steps), 20):  # asked of a new one, as after a kill
        again = mixed(SIZES, 0.5)
        assert again.task_at(step) == turns[step]
        assert torch.equal(again.batch(step).ids, first.batch(step).ids)
        assert again.batch(step).position == step
        assert again.batch(step).task == turns[step][0]
    for name in SIZES:  # each task's batches one after the other, none passed over
        mine = [turn for task, turn in turns if task == name]
        assert mine == list(range(len(mine)))
    for count in (0, 7, STEPS_AT_ONCE - 1, STEPS_AT_ONCE, STEPS_AT_ONCE + 1, steps):
        assert first.steps_per_task(count) == {
            name: sum(t == name for t, _ in turns[:count]) for name in SIZES
        }
    assert turns != [mixed(SIZES, 0.5, seed=1).task_at(step) for step in range(steps)]


def test_no_row_of_a_task_is_read_twice_before_all_are_read() -> None:
    sizes = {**SIZES, "large": 128}  # as many as are drawn together, or fewer
    batches, seen = mixed(sizes, 0.5), {name: list[int]() for name in sizes}
    for step in range(800):
        batch = batches.batch(step)
        assert batch.task is not None
        seen[batch.task] += batch.ids[:, 0].tolist()
    for name, n in sizes.items():
        for epoch in range(len(seen[name]) // n):
            assert len(set(seen[name][epoch * n : (epoch + 1) * n])) == n


def test_pieces_of_a_batch_are_of_its_task() -> None:
    batches = mixed(SIZES, 0.0)
    for step in range(20):
        assert {piece.task for piece in batches.batch(step).micro(3)} == {batches.task_at(step)[0]}


def test_one_task_dealt_out_alone_trains_as_a_plain_run_does(folder: Path, tmp_path: Path) -> None:
    plain = api.finetune(
        folder / "tones.jsonl", model="gru", out=tmp_path / "plain", epochs=2, overrides=SMALL
    )
    ready = ready_again(plain)
    assert isinstance(ready.batches, ExampleLoader)
    ready.batches = MultitaskLoader({"classification": ready.batches}, power=0.5, seed=0)
    record = {name: item for name, item in plain.record.items() if name not in ("files", "best", "weights")}
    train_to_end(create_run(tmp_path / "dealt", record, read_tokenizer(open_run(plain.path))), ready)
    losses = [
        [json.loads(line).get("loss") for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("plain", "dealt")
    ]
    assert losses[0] == losses[1]
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("plain", "dealt")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


# ── each head on its own rows ──────────────────────────────────────────────────────────────────


@pytest.mark.promise("Tasks", "A step moves the head of its task and no other, with any optimiser")
@pytest.mark.parametrize("optimiser", ["adamw", "muon", "momentum", "rmsprop"])
def test_a_step_moves_the_head_of_its_task_and_no_other(optimiser: str, several: api.Run) -> None:
    ready = ready_again(several)
    model, backward = ready.model, GradientAccumulator(ready.model, 1, head_loss).of_all(1)
    settings = OptimSettings(optimiser=optimiser, rate=0.01, weight_decay=0.5, clip=1.0)
    optimisers = make_optimisers(model.parameter_groups(), settings)

    def heads() -> dict[str, list[torch.Tensor]]:
        return {name: [p.detach().clone() for p in head.parameters()] for name, head in model.heads.items()}

    def moved() -> set[str]:
        """The heads that this step of all optimisers moved."""
        before = heads()
        for item in optimisers.values():
            item.step()
        after = heads()
        return {name for name, old in before.items() if not all(map(torch.equal, old, after[name]))}

    done = Counter[str]()
    for step in range(40):
        batch = ready.batches.batch(step)
        backward(model, batch, step)
        for name, head in model.heads.items():
            assert all((p.grad is None) == (name != batch.task) for p in head.parameters())
        assert moved() == {batch.task}
        done[str(batch.task)] += 1
    assert len(done) == 3
    assert min(done.values()) > 5
    for head in model.heads.values():  # the planted fault: gradients of zero where there are none
        for parameter in head.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    assert len(moved()) == 3 or optimiser == "rmsprop"


def test_any_number_of_workers_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    same = ["train.micro_batches=2", "model.dropout=0", "task.dropout=0", "task.tagging.dropout=0"]
    hashes = [
        sha256(
            learnt(
                folder, tmp_path / f"w{n}", *same, "task.where.dropout=0", f"compute.workers={n}", epochs=1
            ).path
            / "model.safetensors"
        )
        for n in (1, 2)
    ]
    assert hashes[0] == hashes[1]


@pytest.mark.promise("Tasks", "Several tasks resume to the same bytes, with any number of workers")
def test_broken_off_and_resumed_it_ends_in_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    runs = {
        power: learnt(folder, tmp_path / power, "model.dropout=0.3", f"mix.power={power}", epochs=2)
        for power in ("0", "1")
    }
    assert runs["0"].record["mix"] == {"power": 0.0}
    assert api.verify_determinism(runs["0"].path)["identical"]
    hashes = {sha256(run.path / "model.safetensors") for run in runs.values()}
    assert len(hashes) == 2  # what is set is heard


@pytest.mark.promise(
    "Tasks", "A folder being trained into is locked; killed with −9, training continues to the same bytes"
)
@pytest.mark.slow
def test_killed_it_continues_to_the_same_bytes_and_meanwhile_nobody_else_may(
    folder: Path, tmp_path: Path
) -> None:
    """A real process: while it trains the folder is its own, and what it saved outlives it."""
    run, words = tmp_path / "run", (*SMALL, "train.checkpoint_every=10")
    whole = learnt(folder, tmp_path / "whole", *words, epochs=30)
    command = [TEXTUS, "finetune", folder / "tones.jsonl", "--model", "gru", "--epochs", "30", "--out", run]
    command += ["--extra-task", f"tagging={folder / 'tagged.jsonl'}"]
    command += ["--extra-task", f"where:classification={folder / 'places.jsonl'}"]
    command += [word for setting in words for word in ("--set", setting)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while max(RunFolder(run, {}).steps(), default=0) < 20 and process.poll() is None:
        time.sleep(0.01)
    started = open_run(run)
    for other in (lambda: api.resume(run), lambda: learnt(folder, run, epochs=1, force=True)):
        with pytest.raises(RunError, match=rf"{run} is in use: a training or a search writes to it"):
            other()
    with pytest.raises(RunError, match="is in use"):  # one that began before this one did
        create_run(run, started.record, read_tokenizer(started))
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = RunFolder(run, {}).steps()[-1]
    assert 20 <= reached < whole.record["steps"]
    again = api.resume(run)
    assert sha256(again.path / "model.safetensors") == sha256(whole.path / "model.safetensors")
    assert learnt(folder, run, epochs=1, force=True).record["steps"] < whole.record["steps"]


def test_resume_refuses_other_rows_of_any_task(folder: Path, tmp_path: Path) -> None:
    data = written(tmp_path / "tagged.jsonl", tagged(40))
    run = learnt(folder, tmp_path / "run", epochs=1, extra_tasks=[f"tagging={data}"])
    written(data, tagged(41))
    with raises(RunError, "data_changed", "tagged.jsonl"):
        api.verify_determinism(run.path)


# ── other methods, other runs ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", ["full", "lora", "frozen"])
def test_methods_train_all_heads(
    method: str, trained: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # the best would be the solved heads on a body that has not moved
    run = learnt(folder, tmp_path / "run", "train.keep=last", init_from=trained, method=method, epochs=1)
    before, after = load(trained)[0], load(run.path, merged=method == "lora")[0]
    assert list(after.heads) == ["classification", "tagging", "where"]
    old = dict(before.named_parameters())
    same = all(torch.equal(old[name], p) for name, p in after.named_parameters() if name in old)
    assert same == (method == "frozen")
    for task, test in (("classification", "tones"), ("tagging", "tagged"), ("where", "places")):
        assert run.evaluate(folder / f"{test}-test.jsonl", task=task, baselines=False)["rows"] == 60
    for form in ("hf", "peft") if method == "lora" else ("hf",):
        assert api.export(run.path, out=tmp_path / form, to=form)["to"] == form
        assert "heads (classification, tagging, where) stay in the run" in capsys.readouterr().err


def test_heads_continue_by_name_and_classes_and_others_are_left_behind(
    several: api.Run, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = api.finetune(
        folder / "places.jsonl",
        init_from=several.path,
        out=tmp_path / "run",
        epochs=1,
        overrides=["train.batch_size=8"],
    )
    err = capsys.readouterr().err
    assert "heads of other tasks are left behind: tagging, where" in err
    assert "the head of classification begins anew: it had other classes or settings" in err
    assert run.tasks == list(run.model.heads) == ["classification"]
    assert run.record["labels"] == ["north", "south"]
    assert not [name for name in load_file(run.path / "model.safetensors") if "tagging" in name]
    assert run.predict(["the film of Rome"])[0]["label"] in ("north", "south")
    still = ["train.steps=40", "optim.rate=1e-12", "task.where.pooling=max"]
    also = [f"where:classification={folder / 'places.jsonl'}"]
    more = api.finetune(
        folder / "tones.jsonl", init_from=several.path, out=tmp_path / "m", extra_tasks=also, overrides=still
    )
    err = capsys.readouterr().err
    assert "the head of where continues from what it learned" in err
    assert "heads of other tasks are left behind: tagging" in err
    for name in ("classification", "where"):
        new, old = (item.model.heads[name].out.weight for item in (more, several))  # type: ignore[union-attr]
        assert torch.allclose(new, old, atol=1e-6)  # type: ignore[arg-type]


def test_vectors_are_those_of_the_similarity_that_was_learned(folder: Path, tmp_path: Path) -> None:
    also = [f"sts:similarity={folder / 'pairs.jsonl'}"]
    run = learnt(folder, tmp_path / "run", "task.sts.pooling=max", extra_tasks=also, epochs=1)
    texts = [row["text"] for row in tones(5)]
    from textus.pipelines.search_index import load_encoder
    from textus.tasks.similarity import embed_texts, make_similarity_task

    result = run.embed(texts)
    model, tokenizer = load(run.path)[:2]
    model.set_inference_compute(run.record["compute"]["precision"])
    expected = embed_texts(model, make_similarity_task(model, ["pooling=max"]), tokenizer, texts)
    mean = embed_texts(model, make_similarity_task(model), tokenizer, texts)
    assert result == pytest.approx(expected, abs=1e-6)
    assert abs(result - mean).max() > 0.01
    assert embed_texts(*load_encoder(run.path), texts) == pytest.approx(expected, abs=1e-6)
    with raises(UsageError, "option_not_applicable", "sts"):
        run.embed(texts, overrides=["task.pooling=cls"])


# ── the command line ───────────────────────────────────────────────────────────────────────────


@pytest.mark.promise("Tasks", "Commands on a multi-task run need a task name and list the names without one")
def test_a_run_with_several_tasks_is_queried_by_name(
    several: api.Run, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, test = str(several.path), str(folder / "places-test.jsonl")
    for words in (
        ["predict", run, "a film"], ["evaluate", run, "--on", test], ["robustness", run, "--on", test],
        ["predict", run, run, "a film", "--ensemble", "mean"],
        ["evaluate", run, run, "--on", test, "--ensemble", "mean"],
    ):  # fmt: skip
        assert main(words) == 2
        assert f"{run} was trained on classification, tagging, where: choose one" in capsys.readouterr().err
        assert main([*words, "--task", "wher"]) == 2
        assert "was not trained on 'wher' (did you mean 'where'?)" in capsys.readouterr().err
        assert main([*words, "--task", "where", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        if words[0] == "predict":
            assert set(report["answers"][0]["probabilities"]) == {"north", "south"}
        else:
            assert report["task"] == "where"
    assert main(["evaluate", run, "--on", test, "--task", "where", "--out", str(tmp_path / "page")]) == 0
    assert not list(several.path.glob("*floor*"))
    assert "where: " in (tmp_path / "page" / "evaluation.html").read_text()
    assert main(["generate", run, "the"]) == 2
    assert f"textus predict {run} --task classification TEXT" in capsys.readouterr().err


def test_runs_with_several_tasks_answer_one_of_them_together(
    several: api.Run, folder: Path, tmp_path: Path
) -> None:
    alone = api.finetune(
        folder / "tones.jsonl", model="gru", out=tmp_path / "alone", epochs=2, overrides=SMALL
    )
    texts = [row["text"] for row in tones(6, seed=3)]
    together = api.ensemble_predict([several, alone], texts, task="classification")
    members = [several.predict(texts, task="classification"), alone.predict(texts)]
    for number, item in enumerate(together):
        mean = sum(member[number]["probabilities"]["good"] for member in members) / 2
        assert item["probabilities"]["good"] == pytest.approx(mean, abs=1e-5)
    with raises(UsageError, "wrong_task", "'tagging'"):
        api.ensemble_predict([several, alone], texts, task="tagging")
    result = api.ensemble_evaluate(
        [several, several], folder / "tagged-test.jsonl", ensemble="soup", task="tagging", baselines=False
    )
    assert result["f1"]["value"] == result["members"][0]["f1"]["value"]


@pytest.mark.promise(
    "Tasks", "Steps per task are reported; wrong names, files and settings are named before any work"
)
def test_what_the_steps_are_is_reported(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["finetune", str(folder / "tones.jsonl"), "--model", "gru", "--out", str(tmp_path / "run")]
    words += [
        "--extra-task",
        f"where:classification={folder / 'places.jsonl'}",
        "--extra-columns",
        "where:text=text",
    ]
    words += ["--extra-dev", f"where={folder / 'places-test.jsonl'}", "--epochs", "1"]
    assert main([*words, *(word for setting in SMALL for word in ("--set", setting))]) == 0
    captured = capsys.readouterr()
    run = api.open_run(tmp_path / "run")
    counts = ready_again(run).batches.steps_per_task(run.record["steps"])  # type: ignore[attr-defined]
    assert f"2 tasks with gru: {sum(p.numel() for p in run.model.parameters()):,} weights" in captured.err
    assert (
        f"where: 90 rows to learn from and 60 to choose by, 2 classes; {counts['where']} of the steps"
        in captured.err
    )
    assert f"its rows are read {counts['where'] * 8 / 90:.1f} times" in captured.err
    assert "task classification, where" in captured.out
    assert "--task classification" in captured.out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            {"extra_tasks": ["classification=FILE"]},
            "there are two tasks of this name; give the second another, such as",
        ),
        ({"extra_tasks": ["a:tagging=FILE", "a:similarity=FILE"]}, "there are two tasks called 'a'"),
        ({"extra_tasks": ["taging=FILE"]}, "did you mean 'tagging'"),
        ({"extra_tasks": ["tagging"]}, "write [NAME:]TASK=FILE"),
        ({"extra_tasks": ["tagging="]}, "write [NAME:]TASK=FILE"),
        ({"extra_tasks": ["keys:tagging=FILE"]}, "--extra-task keys: not a name for a head"),
        ({"extra_tasks": ["a.b:tagging=FILE"]}, "--extra-task a.b: not a name for a head"),
        ({"extra_tasks": ["tagging=nowhere.jsonl"]}, "nowhere.jsonl"),
        (
            {"extra_tasks": ["tagging=FILE"], "extra_dev": ["taging=FILE"]},
            "with the name of an --extra-task (tagging)",
        ),
        ({"extra_dev": ["tagging=FILE"]}, "(none was given)"),
        ({"extra_tasks": ["tagging=FILE"], "extra_columns": ["tagging"]}, "write NAME:COLUMNS"),
        ({"extra_tasks": ["tagging=FILE"], "overrides": ["task.where.pooling=max"]}, "'where' is no task of"),
        ({"extra_tasks": ["tagging=FILE"], "overrides": ["task.tagging.crv=true"]}, "did you mean 'crf'"),
        (
            {"extra_tasks": ["tagging=FILE"], "overrides": ["mix.power=2"]},
            "must be between 0 (all alike) and 1",
        ),
        ({"extra_tasks": ["tagging=FILE"], "overrides": ["mix.powr=1"]}, "did you mean 'power'"),
        ({"overrides": ["mix.power=1"]}, "there is one task, nothing is mixed"),
        (
            {"extra_tasks": ["tagging=FILE"], "model": "linear"},
            "--extra-task tagging: a linear model trains on all texts",
        ),
        ({"extra_tasks": ["tagging=FILE"], "model": "ngram"}, "no hidden states for a head"),
        ({"extra_tasks": ["tagging=EMPTY"]}, "holds no rows"),
        (
            {"extra_tasks": ["tagging=ONE"]},
            "one.jsonl has 1 row: tagging needs at least 2 to learn from some",
        ),
        ({"extra_tasks": ["tagging=FILE"], "overrides": ["train.steps=1"]}, "none of the 1 steps is of"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_written(
    words: dict[str, Any], complaint: str, folder: Path, tmp_path: Path
) -> None:
    files = {
        "FILE": folder / "tagged.jsonl", "EMPTY": written(tmp_path / "none.jsonl", []),
        "ONE": written(tmp_path / "one.jsonl", tagged(1)),
    }  # fmt: skip
    given = {"model": "gru", **words}
    for name, file in files.items():
        given = {
            key: [item.replace(name, str(file)) for item in value] if isinstance(value, list) else value
            for key, value in given.items()
        }
    with pytest.raises((UsageError, DataError)) as caught:
        api.finetune(folder / "tones.jsonl", out=tmp_path / "run", **given)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_shares_are_checked() -> None:
    assert mixed({"a": 9, "b": 1}, 0.5).shares == {"a": 0.75, "b": 0.25}
    assert MixSettings().power == 0.5

"""Few labelled rows (U11): the length follows the data, a run's head is solved first, and what is no good is named."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelled import written
from raising import raises
from sklearn.linear_model import LogisticRegression, Ridge
from test_finetuning import SMALL, sentences, training_of

from textus import api
from textus.core.errors import UsageError
from textus.data import labeled
from textus.finetuning import solved
from textus.finetuning.config import FinetuneConfig
from textus.finetuning.length import BEGUN, LEAST_TO_CHOOSE_BY, NEW, PATIENCE, settings_of
from textus.finetuning.solved import RegressionProblem, assign_folds, solve
from textus.metrics import classification, entities, ranking, regression, resampling, spans
from textus.runs.store import open_run

TINY = ["compute.precision=float32", "train.batch_size=8"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small encoder that has read little: its vectors tell words apart as random ones do."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text("\n".join(row["text"] for row in sentences(200, seed=9)))
    built = api.build_corpus(folder / "text.txt", out=folder / "corpus", split="none")
    settings = [
        "model.n_layer=1",
        "model.d_model=32",
        "model.n_head=2",
        "model.mask_id=2",
        "train.batch_size=8",
    ]
    return api.train(
        built, model="encoder", tokenizer="word", steps=20, out=folder / "encoder",
        overrides=[*settings, "train.context_length=32", "model.context_length=32"],
    ).path  # fmt: skip


# ── length ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise("Robustness", "The length of a fine-tuning follows the rows; `--epochs` is exact")
@pytest.mark.parametrize(
    ("rows", "steps", "begun"),
    [
        (27, 80, 20), (90, 225, 57), (270, 675, 169), (900, 2000, 200), (2700, 2000, 254), (6920, 2000, 649),
        (16_000, 4000, 1500),
    ],
)  # fmt: skip
def test_the_length_follows_the_rows(rows: int, steps: int, begun: int) -> None:
    """Few rows are read often, but not more than 80 or 20 times; of many the epochs are what they were."""
    new, old = (
        settings_of(
            FinetuneConfig(data=Path("x"), task="classification", **{name: value}),
            [rows],
            300,
            keeps_last=False,
        )
        for name, value in (("model", "lstm"), ("init_from", Path("run")))
    )
    assert (new.steps, old.steps) == (steps, begun)
    assert steps <= NEW.most_epochs * max(1, rows / 32) + 1
    assert begun <= max(BEGUN.most_epochs, BEGUN.epochs) * max(1, rows / 32) + 1


@pytest.mark.parametrize(("rows", "epochs", "steps"), [(45, 4, 6), (27, 40, 40), (320, 1, 10), (33, 1, 2)])
def test_epochs_that_are_given_are_exactly_so_many_and_partial_batches_count(
    rows: int, epochs: int, steps: int
) -> None:
    config = FinetuneConfig(data=Path("x"), task="classification", model="lstm", epochs=epochs)
    result = settings_of(config, [rows], 300, keeps_last=False)
    assert (result.steps, result.patience) == (steps, 0)


def test_chance_chooses_nothing() -> None:
    """Below so many held-out rows the last weights are kept and nothing ends early; what is set has the last word."""

    def asked(n_held: int, *assignments: str) -> tuple[str, int]:
        config = FinetuneConfig(data=Path("x"), task="classification", model="lstm", overrides=assignments)
        result = settings_of(config, [90], n_held, keeps_last=False)
        return result.keep, result.patience

    assert asked(LEAST_TO_CHOOSE_BY - 1) == ("last", 0)
    assert asked(LEAST_TO_CHOOSE_BY) == ("best", PATIENCE)
    assert asked(5, "train.keep=best") == ("best", 0)
    assert asked(5, "train.patience=3") == ("best", 3)
    assert asked(300, "train.keep=last") == ("last", 0)
    assert asked(300, "train.steps=9") == ("best", 0)


def test_patience_with_the_last_weights_is_refused(tmp_path: Path) -> None:
    data = written(tmp_path / "rows.jsonl", sentences(60))
    settings = [*SMALL, "train.keep=last", "train.patience=2"]
    with raises(UsageError, "incompatible_settings", "train.keep=last"):
        api.finetune(data, model="gru", out=tmp_path / "run", overrides=settings)


# ── heads that are solved ──────────────────────────────────────────────────────────────────────


def problem(kind: str, n: int, width: int, seed: int = 0) -> RegressionProblem:
    """Vectors that stand for something, away from zero and of no particular length."""
    draw = np.random.default_rng(seed)
    vectors = 3 * draw.normal(size=(n, width)) + 5
    scores = vectors @ draw.normal(size=(width, 3)) + 4 * draw.normal(size=(n, 3))
    scores -= scores.mean(0)
    targets: Any = {"classes": scores.argmax(1), "labels": (scores > 0) * 1.0, "numbers": scores}[kind]
    ones = torch.ones(n, dtype=torch.float64)
    return RegressionProblem(kind, torch.tensor(vectors), torch.tensor(targets), 3, ones)


@pytest.mark.promise("Robustness", "A solved head is scikit-learn's solution, and resumes to the same bytes")
@pytest.mark.parametrize("shape", [(60, 8), (30, 50)])
@pytest.mark.parametrize("kind", ["classes", "labels", "numbers"])
def test_a_solved_layer_is_scikit_learns(kind: str, shape: tuple[int, int]) -> None:
    """With fewer rows than components too, where the problem is solved in as many directions as there are rows."""
    task_problem = problem(kind, *shape)
    result = solve(task_problem)
    vectors = task_problem.vectors.numpy()
    centred = vectors - vectors.mean(0)
    scaled = centred / np.sqrt((centred**2).sum(1).mean())
    scores = (task_problem.vectors @ result.weight.T + result.bias).numpy()
    targets = task_problem.targets.numpy()
    how: dict[str, Any] = {"C": result.strength, "max_iter": 10_000, "tol": 1e-9}
    if kind == "classes":
        theirs = LogisticRegression(**how).fit(scaled, targets).predict_proba(scaled)
        np.testing.assert_allclose(torch.tensor(scores).softmax(1).numpy(), theirs, atol=1e-3)
    elif kind == "labels":
        for column in range(3):
            theirs = LogisticRegression(**how).fit(scaled, targets[:, column]).decision_function(scaled)
            np.testing.assert_allclose(scores[:, column], theirs, atol=1e-2)
    else:
        theirs = Ridge(alpha=1 / result.strength).fit(scaled, targets).predict(scaled)
        np.testing.assert_allclose(scores, theirs, atol=1e-4)


def test_rows_that_a_layer_has_not_seen_judge_it() -> None:
    """Labels that nothing in the vectors tells are guessed no better than by chance, though the rows seen are all
    fitted.
    """
    task_problem = problem("classes", 60, 100)
    shuffled = RegressionProblem(
        "classes", task_problem.vectors, task_problem.targets[torch.randperm(60)], 3, task_problem.weights
    )
    result = solve(shuffled)
    fitted = (shuffled.vectors @ result.weight.T + result.bias).argmax(1) == shuffled.targets
    assert shuffled.figure(result.held_out)[1] < 0.5 < 0.6 < float(fitted.double().mean())


def test_each_part_that_is_held_out_has_its_share_of_every_class() -> None:
    task_problem = problem("classes", 60, 4)
    parts = assign_folds(task_problem)
    for label in range(3):
        sizes = np.bincount(parts[task_problem.targets == label], minlength=10)
        assert sizes.max() - sizes.min() <= 1


@pytest.mark.slow
def test_a_head_begun_from_a_run_is_solved_and_resumed_to_the_same_bytes(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the length, the early stopping and the step 0 of the defaults."""
    data = written(tmp_path / "rows.jsonl", sentences(360))
    run = api.finetune(data, init_from=encoder, out=tmp_path / "run", overrides=TINY)
    err = capsys.readouterr().err
    assert "begins as a linear model solved on the vectors of" in err
    assert "fewer if 15 evaluations in a row find nothing better" in err
    kept = run.record["solved"]["classification"]
    assert kept["rows"] + run.record["held_out"]["classification"]["rows"] == 360
    first = json.loads((run.path / "log.jsonl").read_text().splitlines()[0])
    assert first["step"] == 0
    assert first["accuracy"] > 0.5  # a third by chance: what was solved stands in the head at once
    assert run.record["held_out"]["classification"]["value"] >= first["accuracy"]
    assert api.verify_determinism(run.path)["identical"]


@pytest.mark.parametrize(("task", "settings"), [("classification", ["task.multi=true"]), ("regression", [])])
def test_heads_of_labels_and_of_numbers_are_solved_too(
    task: str, settings: list[str], encoder: Path, tmp_path: Path
) -> None:
    number = {"bad": 0, "fine": 5, "good": 10}
    rows = [
        {**row, "label": ["x", row["label"]] if task == "classification" else number[row["label"]] + n % 2}
        for n, row in enumerate(sentences(120))
    ]
    texts = [
        *TINY,
        *settings,
        "train.steps=1",
        "optim.rate=1e-12",
    ]
    run = api.finetune(
        written(tmp_path / "rows.jsonl", rows),
        task=task,
        init_from=encoder,
        out=tmp_path / "run",
        overrides=texts,
    )
    assert run.record["solved"][task]["value"] > 0.3


@pytest.mark.slow
def test_a_solved_head_is_kept_where_nothing_better_comes(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps that ruin the model: the weights of step 0 are used, and a line says so; resumed from a checkpoint, and
    from nothing but run.json and the rows.
    """
    data = written(tmp_path / "rows.jsonl", sentences(360))
    ruin = [*TINY, "train.steps=6", "train.evaluate_every=2", "optim.rate=3"]
    run = api.finetune(data, init_from=encoder, out=tmp_path / "run", overrides=ruin)
    assert run.record["weights"]["step"] == 0
    assert "found nothing better on the held-out rows than the solved head" in capsys.readouterr().err
    assert api.verify_determinism(run.path)["identical"]
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    open_run(copy).unfinish()
    shutil.rmtree(copy / "state", ignore_errors=True)
    again = api.resume(copy)
    assert (again.path / "model.safetensors").read_bytes() == (run.path / "model.safetensors").read_bytes()
    steps = [json.loads(line)["step"] for line in (copy / "log.jsonl").read_text().splitlines()]
    assert steps.count(0) == 1


# ── what is no good is named ───────────────────────────────────────────────────────────────────


@pytest.mark.promise("Robustness", "A model no better than the majority class is reported")
@pytest.mark.parametrize("good", [True, False])
def test_no_better_than_the_majority_is_reported(
    good: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = random.Random(0)
    rows = sentences(240)
    if not good:
        rows = [{**row, "label": "often" if draw.random() < 0.7 else "seldom"} for row in rows]
    data = written(tmp_path / "rows.jsonl", rows)
    how = [] if good else ["optim.rate=1e-9"]
    run = api.finetune(
        data, model="gru", out=tmp_path / "run", epochs=6 if good else 1, overrides=[*SMALL, *how]
    )
    kept = run.record["held_out"]["classification"]
    assert kept["better"] is good
    assert ("classification is not better than majority on" in capsys.readouterr().err) is not good
    assert kept["baseline_of"] == "majority"


def test_a_tagger_that_finds_nothing_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"tokens": ["a", f"b{n}"], "tags": ["O", "B-X" if n % 9 == 0 else "O"]} for n in range(90)]
    data = written(tmp_path / "rows.jsonl", rows)
    still = [*SMALL[:3], "train.steps=1", "optim.rate=1e-9"]
    run = api.finetune(data, task="tagging", model="lstm", out=tmp_path / "run", overrides=still)
    if not (kept := run.record["held_out"]["tagging"])["better"]:
        assert "tagging is not better than no answer on" in capsys.readouterr().err
    assert (kept["baseline"], kept["figure"]) == (0.0, "f1")


# ── training costs little ──────────────────────────────────────────────────────────────────────


def test_validation_in_training_draws_no_resample_and_rows_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C8, C12: on the way nobody reads intervals; the fingerprint is of the rows that were parsed."""
    opened: list[Path] = []
    read = labeled.stream_records

    def counted(path: Path, *arguments: Any, **more: Any) -> Any:
        opened.append(path)
        return read(path, *arguments, **more)

    def never(*words: Any) -> Any:
        raise AssertionError("a resample was drawn in training")

    monkeypatch.setattr(resampling, "_resample", never)
    monkeypatch.setattr(labeled, "stream_records", counted)
    data, dev = (written(tmp_path / f"{n}.jsonl", sentences(n)) for n in (60, 40))
    run = api.finetune(data, dev=dev, model="gru", out=tmp_path / "run", epochs=1, overrides=SMALL)
    assert opened == [data, dev]
    with pytest.raises(AssertionError, match="a resample"):  # the spy sees what it should
        run.evaluate(dev, baselines=False)


GOLD, GUESS = np.array([0, 1, 2, 1, 0, 2, 1]), np.array([0, 1, 1, 1, 2, 2, 0])
SHARES = np.eye(3)[GUESS] * 0.6 + 0.1
TAGS = [["B-X", "I-X", "O"], ["O", "B-Y"]]


@pytest.mark.parametrize(
    "figures",
    [
        lambda **how: classification.single_label_scores(GOLD, SHARES, ["a", "b", "c"], **how),
        lambda **how: classification.multi_label_scores(SHARES > 0.5, SHARES, ["a", "b", "c"], np.zeros(7, int), **how),
        lambda **how: entities.entity_scores([[("X", 0, 1)], [("Y", 1, 2)]], [[("X", 0, 1)], []], **how),
        lambda **how: entities.token_scores(TAGS, TAGS, **how),
        lambda **how: spans.answer_scores(["a", "b"], [["a"], []], "squad", **how),
        lambda **how: ranking.ranking_scores([["a", "b"]] * 2, [{"b": 1.0}, {"a": 2.0}], **how),
        lambda **how: regression.regression_scores([1, 2, 4, 3], [1, 3, 4, 2], "r2", **how),
        lambda **how: regression.multi_target_scores(SHARES, SHARES**2, ["a", "b", "c"], **how),
        lambda **how: regression.rating_scores(GOLD, GUESS, np.arange(3.0), **how),
    ],
)  # fmt: skip
def test_without_intervals_the_figures_are_the_same(figures: Any) -> None:
    """C8, of every kind of task."""
    whole, plain = figures(), figures(intervals=False)
    kept = {name: value for name, value in whole.items() if isinstance(value, dict)}
    assert kept
    for name, value in kept.items():
        assert plain[name] == {"value": value["value"], "n": value["n"]}
        assert {"low", "high"} <= set(value)


def test_macro_f1_of_5000_classes_takes_no_table() -> None:
    """C8: 200 MB a resample before."""
    import tracemalloc

    draw = np.random.default_rng(0)
    gold, guess = draw.integers(0, 5000, (2, 400))
    tracemalloc.start()
    low, high = classification.macro_f1_interval(gold, guess, 5000, 0)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()
    assert 0 <= low <= high <= 1


def test_ids_of_a_batch_are_counted_once(tmp_path: Path) -> None:
    """C9: not on every line of the log."""
    _, batches = training_of("gru", written(tmp_path / "rows.jsonl", sentences(20)))
    before = batches.tokens_per_step
    batches.rows = []
    assert batches.tokens_per_step == before > 0


def test_solved_kinds_are_heads_that_have_one_linear_layer() -> None:
    from textus.models.nn.heads import HEADS

    for kind in solved.HEADS:
        assert hasattr(HEADS[kind], "features")


def test_thirty_rows_are_judged_by_cross_validation(encoder: Path, tmp_path: Path) -> None:
    """Three held-out rows say nothing."""
    data = written(tmp_path / "rows.jsonl", sentences(30))
    run = api.finetune(data, init_from=encoder, out=tmp_path / "run", overrides=TINY)
    kept = run.record["held_out"]["classification"]
    assert kept["judged_by"] == "cross-validated"
    assert kept["value"] == run.record["solved"]["classification"]["value"]
    assert run.record["weights"]["why"] == "last"

"""Training that goes on from a run: `train --from`, on another corpus or longer on the same one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from raising import raises

from textus import api
from textus.core.errors import RunError, UsageError
from textus.core.io import read_json
from textus.runs.store import load

STILL = ["optim.rate=1e-9", "optim.other_rate=1e-9", "optim.weight_decay=0"]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another text than the run was trained on."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "text.txt").write_text("The miller had a red barn and an old grey horse.\n\n" * 40)
    return api.build_corpus(folder / "text.txt", out=folder / "corpus").path


@pytest.mark.promise(
    "Families",
    "`train --from RUN` begins where that run ended, at a third of its rates; resume ends in the same "
    "bytes; another parent than it began with, or words for another model, are refused",
)
def test_it_begins_where_the_run_ended(trained: Path, other: Path, tmp_path: Path) -> None:
    """Weights that hardly move are those of the parent; moved ones fit the new text better."""
    before, tokenizer, _ = load(trained)
    still = api.train(other, init_from=trained, steps=2, overrides=STILL, out=tmp_path / "still")
    for name, weights in still.model.state_dict().items():
        assert float((weights - before.state_dict()[name]).abs().max()) < 1e-6, name
    assert still.tokenizer.fingerprint == tokenizer.fingerprint
    moved = api.train(other, init_from=trained, steps=30, out=tmp_path / "moved")
    text = "The miller had a red barn and an old grey horse."
    assert moved.score(text).costs.sum() < 0.7 * still.score(text).costs.sum()
    assert moved.record["parent"] == str(trained.resolve())


def test_rates_are_a_third_of_the_parents(trained: Path, other: Path, tmp_path: Path) -> None:
    was = read_json(trained / "run.json")["settings"]["optim"]
    run = api.train(other, init_from=trained, steps=1, out=tmp_path / "run")
    optim = run.record["settings"]["optim"]
    assert optim["rate"] == pytest.approx(was["rate"] / 3)
    assert optim["other_rate"] == pytest.approx(was["other_rate"] / 3)
    changed = api.train(
        other, init_from=trained, steps=1, overrides=["optim.optimiser=adamw"], out=tmp_path / "adamw"
    )
    assert changed.record["settings"]["optim"]["rate"] == pytest.approx(0.001 / 3)


def test_an_imported_model_continues_gently(trained: Path, other: Path, tmp_path: Path) -> None:
    api.export(trained, out=tmp_path / "hf")
    imported = api.import_model(tmp_path / "hf", out=tmp_path / "imported")
    run = api.train(other, init_from=imported.path, steps=1, out=tmp_path / "run")
    optim = run.record["settings"]["optim"]
    assert (optim["optimiser"], optim["rate"]) == ("adamw", 1e-4)


def test_resumed_it_ends_in_the_same_bytes(trained: Path, other: Path, tmp_path: Path) -> None:
    run = api.train(
        other,
        init_from=trained,
        steps=6,
        checkpoint_every=2,
        overrides=["model.dropout=0.1"],
        out=tmp_path / "run",
    )
    assert run.record["config"]["dropout"] == 0.1
    assert api.verify_determinism(run.path)["identical"]


def test_a_parent_that_changed_is_refused(trained: Path, other: Path, tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    shutil.copytree(trained, parent)
    run = api.train(other, init_from=parent, steps=4, checkpoint_every=2, out=tmp_path / "run")
    record = read_json(run.path / "run.json")
    shutil.rmtree(parent)
    settings = ["model.n_layer=1", "model.d_model=32", "model.n_head=2"]
    api.train(other, tokenizer=trained, steps=1, overrides=settings, out=parent)
    with raises(RunError, "data_changed"):
        api.verify_determinism(run.path)
    assert read_json(run.path / "run.json") == record


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"model": "lstm"}, ("option_not_applicable", "model", "lstm")),
        ({"tokenizer": "char"}, ("option_not_applicable", "tokenizer", "char")),
        ({"embeddings": "vectors.txt"}, ("option_not_applicable", "embeddings", "vectors.txt")),
        ({"depth": 2}, ("conflicting_options", "2")),
        ({"overrides": ["model.n_layer=2"]}, ("weights_mismatch", "1", "None")),
        ({"overrides": ["model.d_model=64"]}, ("weights_mismatch",)),
        ({"overrides": ["model.d_modle=64"]}, ("unknown_name", "d_model")),
    ],
)
def test_words_that_would_make_another_model_are_refused(
    words: dict[str, object], complaint: tuple[str, ...], trained: Path, other: Path, tmp_path: Path
) -> None:
    with raises(UsageError, *complaint):
        api.train(
            other,
            init_from=trained,
            out=tmp_path / "run",
            **{"steps": 1, **words} if "depth" not in words else words,
        )  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_what_counts_cannot_continue(counted: Path, other: Path, tmp_path: Path) -> None:
    with raises(UsageError, "unsupported_model", "ngram"):
        api.train(other, init_from=counted, out=tmp_path / "run")

"""The search for settings: what it finds is made again by the command it tells, and it goes on after a kill."""

from __future__ import annotations

import contextlib
import json
import random
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from raising import raises

from textus import api
from textus.cli.main import main
from textus.core.errors import DataError, RunError, UsageError
from textus.core.io import sha256
from textus.core.locks import exclusive_lock
from textus.finetuning.config import FinetuneConfig
from textus.finetuning.hyperparameters import SearchRange, parse_span, search_space
from textus.runs.store import open_run
from textus.training.pretrain import last_metrics

pytest.importorskip("optuna")

FIXED = [
    "model.n_layer=1",
    "model.d_model=16",
    "model.dropout=0.1",
    "task.pooling=mean",
    "compute.precision=float32",
]
SEARCH = ["optim.rate=1e-4..3e-2:log", "epochs=1..3", "train.batch_size=8,16"]


def rows(path: Path, n: int = 160, share: float = 0.0) -> Path:
    """Sentences that one word decides; of a share of them the other class is said."""
    draw = random.Random(0)
    words = ["the", "film", "was", "long", "a", "story", "of", "two", "men"]
    lines = []
    for number in range(n):
        text = [*draw.choices(words, k=5), ("dull", "grand")[(number + (number < share * n)) % 2]]
        lines.append(
            json.dumps({"text": " ".join(draw.sample(text, 6)), "label": ("bad", "good")[number % 2]})
        )
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rows(tmp_path_factory.mktemp("rows") / "rows.jsonl")


@pytest.fixture(scope="module")
def search(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("search") / "out"
    return api.tune(data, out=out, trials=6, model="gru", search=SEARCH, overrides=FIXED)


@pytest.mark.promise(
    "Tasks",
    "The printed command of a search makes its best run again, byte for byte; a killed search gives "
    "the same result",
)
def test_the_best_run_is_made_again_by_the_command_that_is_reported(
    search: dict[str, Any], tmp_path: Path
) -> None:
    words = shlex.split(search["command"])
    assert words[0] == "textus"
    assert main([str(tmp_path / "again") if word == "FOLDER" else word for word in words[1:]]) == 0
    again, best = tmp_path / "again", Path(search["run"])
    assert sha256(again / "model.safetensors") == sha256(best / "model.safetensors")
    figure = -last_metrics(open_run(again))["criterion"]
    assert figure == search["figure"] == max(trial["figure"] for trial in search["trials"] if trial["figure"])


def test_every_trial_is_reported_and_is_in_its_range(search: dict[str, Any]) -> None:
    assert [row["trial"] for row in search["trials"]] == list(range(1, 7))
    assert sum(search["counts"].values()) == 6
    for trial in search["trials"]:
        assert 1e-4 <= float(trial["optim.rate"]) <= 3e-2
        assert trial["epochs"] in ("1", "2", "3")
        assert trial["train.batch_size"] in ("8", "16")
    assert len({row["optim.rate"] for row in search["trials"]}) > 3
    assert json.loads((Path(search["out"]) / "tuning.json").read_text()) == search
    assert sorted(path.name for path in Path(search["out"]).iterdir()) == ["best", "study.db", "tuning.json"]


def study_of(out: Path) -> list[dict[str, Any]]:
    report: list[dict[str, Any]] = json.loads((out / "tuning.json").read_text())["trials"]
    return [{name: value for name, value in result.items() if name != "seconds"} for result in report]


def test_killed_it_continues_to_what_it_would_have_found(
    data: Path, search: dict[str, Any], tmp_path: Path
) -> None:
    """A process killed in its third trial, and gone on with, against the search of one go."""
    words = [
        sys.executable,
        "-c",
        "from textus.cli.main import main; import sys; sys.exit(main(sys.argv[1:]))",
        "tune",
    ]
    words += [str(data), "--model", "gru", "--out", str(tmp_path / "out"), "--trials", "6"]
    words += [word for item in SEARCH for word in ("--search", item)]
    words += [word for setting in FIXED for word in ("--set", setting)]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    database, states = tmp_path / "out" / "study.db", list[str]()
    while process.poll() is None and states[:3] != ["COMPLETE", "COMPLETE", "RUNNING"]:
        time.sleep(0.01)
        if database.exists():
            with (
                contextlib.suppress(sqlite3.OperationalError),
                contextlib.closing(sqlite3.connect(database)) as db,
            ):
                states = [row[0] for row in db.execute("select state from trials order by number")]
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(states) == 3
    result = api.tune(data, out=tmp_path / "out", trials=6, model="gru", search=SEARCH, overrides=FIXED)
    assert study_of(tmp_path / "out") == study_of(Path(search["out"]))
    assert sha256(Path(result["run"]) / "model.safetensors") == sha256(
        Path(search["run"]) / "model.safetensors"
    )
    with sqlite3.connect(database) as db:
        assert db.execute("select count(*) from trials").fetchone() == (7,)  # the killed one too


def test_another_search_is_not_mixed_in(data: Path, search: dict[str, Any], tmp_path: Path) -> None:
    with raises(RunError, "data_changed"):
        api.tune(data, out=search["out"], trials=9, model="gru", search=SEARCH[:2], overrides=FIXED)
    (tmp_path / "notes.txt").write_text("mine")
    with raises(UsageError, "already_exists"):
        api.tune(data, out=tmp_path, model="gru")


@pytest.mark.promise(
    "Tasks",
    "Failed trials are reported, hopeless ones stopped early; the search space follows from family and "
    "task; wrong ranges are named",
)
def test_failed_trials_are_reported(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Heads that do not divide the width fail; the others go on."""
    result = api.tune(
        data, out=tmp_path / "out", trials=4, model="encoder", epochs=1, search=["model.d_model=24,32"],
        overrides=["model.n_layer=1", "model.n_head=3", "optim.weight_decay=0.1", "train.batch_size=16"],
    )  # fmt: skip
    failed = [trial for trial in result["trials"] if trial["state"] == "failed"]
    assert failed
    assert {row["model.d_model"] for row in failed} == {"32"}
    assert all("must split into n_head=3 heads" in row["why"] for row in failed)
    assert result["counts"] == {"done": 4 - len(failed), "stopped early": 0, "failed": len(failed)}
    assert "must split into n_head=3 heads" in capsys.readouterr().err


@pytest.mark.promise("Robustness", "A search over settings records every failure and continues")
def test_a_trial_that_raises_anything_is_failed_and_the_search_continues(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C17: an error of torch, or no memory, is recorded once; the trial after it draws other settings."""
    from textus.finetuning import hyperparameters

    real, calls = hyperparameters.start, iter(range(9))

    def start(*arguments: Any, **more: Any) -> Path:
        if next(calls) == 1:
            raise RuntimeError("not enough memory: you tried to allocate 9 GB\nsecond line")
        return real(*arguments, **more)

    monkeypatch.setattr(hyperparameters, "start", start)
    result = api.tune(data, out=tmp_path / "out", trials=3, model="gru", search=SEARCH, overrides=FIXED)
    assert [trial["state"] for trial in result["trials"]] == ["done", "failed", "done"]
    assert result["trials"][1]["why"] == "RuntimeError: not enough memory: you tried to allocate 9 GB"
    assert len({str(trial.get("optim.rate")) for trial in result["trials"]}) == 3


@pytest.mark.slow
def test_settings_that_kill_the_process_twice_count_as_failed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """C17: else a search that runs out of memory would try the same settings for ever."""
    script = (
        "import os, sys, textus.finetuning.hyperparameters as tuning\n"
        "from textus import api\n"
        "tuning.start = lambda *a, **k: os._exit(9)\n"
        f"api.tune({str(data)!r}, out={str(tmp_path / 'out')!r}, trials=2, model='gru', search={SEARCH!r},"
        f" overrides={FIXED!r})"
    )
    for _ in range(2):
        assert (
            subprocess.run([sys.executable, "-c", script], check=False, capture_output=True).returncode == 9
        )
    result = api.tune(data, out=tmp_path / "out", trials=2, model="gru", search=SEARCH, overrides=FIXED)
    assert [trial["state"] for trial in result["trials"]] == ["failed", "done"]
    assert "killed 2 times with these settings" in capsys.readouterr().err


def test_hopeless_trials_are_stopped_early(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rate that learns nothing falls behind the median of those that learn."""
    monkeypatch.setattr(
        "textus.finetuning.hyperparameters.STARTUP", 2
    )  # the rule, without a dozen trials before it begins
    fixed = [*FIXED, "train.batch_size=8"]
    search = ["optim.rate=1e-7,1e-2"]
    result = api.tune(
        data, out=tmp_path / "out", trials=9, model="gru", epochs=3, overrides=fixed, search=search
    )
    stopped = [trial for trial in result["trials"] if trial["state"] == "stopped early"]
    assert stopped
    assert "1e-7" in {row["optim.rate"] for row in stopped}
    assert all("behind the median of the others" in row["why"] for row in stopped)
    assert result["settings"]["optim.rate"] == "1e-2"


def test_a_search_in_which_all_fails_shows_why(data: Path, tmp_path: Path) -> None:
    with raises(RunError, "all_trials_failed", "'rat'"):
        api.tune(data, out=tmp_path / "out", trials=2, model="gru", epochs=1, search=["optim.rat=1e-3..1e-2"])
    with raises(DataError, "not_found", "nowhere"):
        api.tune(tmp_path / "nowhere.csv", out=tmp_path / "other", trials=2, model="gru")


# ── spaces ─────────────────────────────────────────────────────────────────────────────────────


def test_the_space_follows_from_family_and_task(trained: Path) -> None:
    def names(**how: Any) -> set[str]:
        return set(search_space(FinetuneConfig(data=Path("x"), task="classification", **how), None, []))

    assert names(model="lstm") == {
        "epochs", "optim.rate", "optim.weight_decay", "train.batch_size", "model.d_model", "model.n_layer",
        "model.dropout", "task.dropout", "task.pooling",
    }  # fmt: skip
    assert not any(name.startswith("model.") for name in names(init_from=trained))
    assert "epochs" not in names(model="lstm", epochs=3)
    assert "optim.rate" not in names(model="lstm", overrides=("optim.rate=0.1",))


@pytest.mark.promise(
    "Tasks", "A folder being trained into is locked; killed with −9, training continues to the same bytes"
)
def test_a_search_that_runs_is_left_alone(data: Path, search: dict[str, Any]) -> None:
    out = Path(search["out"])
    with exclusive_lock(out), pytest.raises(RunError, match=f"{out} is in use"):
        api.tune(data, out=out, trials=7, model="gru", search=SEARCH, overrides=FIXED)


@pytest.mark.parametrize(
    ("listed", "spelled"),
    [
        ('["mean", "max"]', ("mean", "max")),
        ("[[1, 1], [1, 2]]", ("1,1", "1,2")),
        ('["1,1", "1,2"]', ("1,1", "1,2")),
        ('["1,1", [1, 2]]', ("1,1", "1,2")),
        ("[1, [1, 2]]", ("1", "1,2")),
    ],
)
def test_lists_of_a_file_are_its_values(listed: str, spelled: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text(f'"task.pooling" = {listed}\n')
    config = FinetuneConfig(data=Path("x"), task="classification", model="lstm")
    assert search_space(config, file, [])["task.pooling"] == SearchRange(values=spelled)


def test_a_list_of_one_leaves_nothing_to_search(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text('"model.words" = [[1, 2]]\n')
    with raises(UsageError, "invalid_value"):
        search_space(FinetuneConfig(data=Path("x"), task="classification", model="linear"), file, [])


def test_ranges_are_read_from_flags_and_files(tmp_path: Path) -> None:
    assert parse_span("a", "1e-4..1e-2:log") == SearchRange(1e-4, 1e-2, log=True)
    assert parse_span("a", "2..8") == SearchRange(2, 8, whole=True)
    assert parse_span("a", "mean, max") == SearchRange(values=("mean", "max"))
    assert parse_span("a", "1,1; 1,2") == SearchRange(values=("1,1", "1,2"))
    file = tmp_path / "space.toml"
    file.write_text('epochs = "2..3"\n[task]\npooling = ["mean", "max"]\n[optim]\nrate = "0.1..0.2"\n')
    config = FinetuneConfig(data=Path("x"), task="classification", model="lstm")
    assert search_space(config, file, ["optim.rate=0.3..0.4"]) == {
        "epochs": SearchRange(2, 3, whole=True), "task.pooling": SearchRange(values=("mean", "max")),
        "optim.rate": SearchRange(0.3, 0.4),
    }  # fmt: skip


@pytest.mark.promise(
    "Tasks", "The linear classifier is searched by the rows held out, whose figure is scikit-learn's"
)
def test_the_linear_classifier_is_searched_by_the_rows_held_out(data: Path, tmp_path: Path) -> None:
    """It learns all at once and is measured once: the best trial's figure is what scikit-learn says of its answers."""
    sklearn = pytest.importorskip("sklearn.metrics")
    dev = rows(tmp_path / "dev.jsonl", 41, share=0.3)
    file = tmp_path / "space.toml"
    file.write_text('[model]\nl2 = "1e-3..100:log"\nwords = [[1, 1], [1, 2]]\n')
    result = api.tune(data, dev=dev, model="linear", trials=6, search_space=file, out=tmp_path / "search")
    assert result["counts"] == {"done": 6, "stopped early": 0, "failed": 0}
    assert {trial["model.words"] for trial in result["trials"]} == {"1,1", "1,2"}
    given = [json.loads(line) for line in dev.read_text(encoding="utf-8").splitlines()]
    answers = api.open_run(result["run"]).predict([row["text"] for row in given])
    right = sklearn.accuracy_score([row["label"] for row in given], [answer["label"] for answer in answers])
    assert result["figure"] == pytest.approx(right, abs=1e-6)
    assert result["figure"] == max(trial["figure"] for trial in result["trials"]) < 1
    words = shlex.split(result["command"])[1:]
    words[words.index("FOLDER")] = str(tmp_path / "again")
    assert main(words) == 0
    kept = [sha256(Path(run) / "model.safetensors") for run in (result["run"], tmp_path / "again")]
    assert kept[0] == kept[1]
    assert len(api.tune(data, dev=dev, model="linear", trials=2, out=tmp_path / "usual")["trials"]) == 2


@pytest.mark.parametrize(
    ("search", "complaint"),
    [
        ("optim.rate", "has no '='"),
        ("optim.rate=3..1", "give a lower and a higher number"),
        ("optim.rate=0..1:log", "give a lower and a higher number"),
        ("optim.rate=1e..2", "give a lower and a higher number"),
        ("task.pooling=mean", "give a range such as"),
        ("rate=0.1..0.2", "did you mean 'optim.rate'"),
    ],
)
def test_wrong_ranges_are_named(search: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        search_space(FinetuneConfig(data=Path("x"), task="classification", model="lstm"), None, [search])
    assert complaint in str(caught.value)

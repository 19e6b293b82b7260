"""Folders and records: no record leads out of its folder, no damaged one is an unexpected error, nothing half written
stays, nothing of somebody else is replaced.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from raising import raises
from safetensors import SafetensorError
from safetensors.torch import load_file

from textus import api
from textus.cli.main import main
from textus.core import io
from textus.core.config import check_shape
from textus.core.errors import DataError, MissingDependencyError, RunError, TextusError, UsageError
from textus.core.io import (
    atomic_folder,
    check_output_file,
    is_disk_full,
    read_json,
    resolve_record_file,
    sha256,
    write_atomic,
    write_json,
)
from textus.core.names import import_optional
from textus.data.corpus import open_corpus
from textus.data.token_dataset import _open, load_or_tokenize
from textus.pipelines import search_index
from textus.runs.store import Checkpoint, load, open_run, read_log, verify

PROBES = ["../victim", "/etc/hostname", "a/b", "..", ".hidden", "", "x\0y", "..\\victim", 7]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "victim").write_text("mine")
    return tmp_path


# ── no record leads out of its folder ──────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", PROBES, ids=repr)
def test_a_name_out_of_the_folder_is_refused(place: Path, name: Any) -> None:
    with raises(RunError, "damaged"):
        resolve_record_file(place, name, ["victim"])


def test_links_pipes_and_devices_are_refused(place: Path) -> None:
    (place / "link").symlink_to("victim")
    os.mkfifo(place / "pipe")
    (place / "sub").symlink_to("/etc")
    assert resolve_record_file(place, "victim", ["victim"]) == place / "victim"
    assert not resolve_record_file(place, "missing", ["missing"]).exists()
    for name, why in (("link", "is a link"), ("pipe", "not a regular file"), ("sub/hostname", "is a link")):
        with pytest.raises(RunError, match=why):
            resolve_record_file(place, name, [name])
    with raises(RunError, "not_a_regular_file"):
        read_json(place / "pipe")  # reading it would never end


def run_of(trained: Path, place: Path) -> Path:
    return shutil.copytree(trained, place / "run")


def files_of(path: Path, file: str, name: Any) -> None:
    """Plant a name in a record's list of files, with the hash of what it leads to."""
    record = read_json(path / file)
    target = path / str(name) if isinstance(name, str) and "\0" not in name else path
    digest = sha256(target) if target.is_file() else "0" * 64
    record["files"] = {**record["files"], str(name): digest}
    write_json(path / file, record)


@pytest.mark.promise(
    "Robustness",
    "No record leads out of its folder; a damaged record is used or refused in one line; the log never "
    "decides",
)
@pytest.mark.parametrize("name", ["../victim", "../../victim", "/etc/hostname", ".bashrc", "other.txt"])
@pytest.mark.parametrize("reader", ["verify", "load", "index", "corpus", "tokens", "search", "manifest"])
def test_every_reader_refuses_planted_names(
    reader: str, name: str, trained: Path, corpus: Path, story: Path, place: Path
) -> None:
    """R1: whatever a record lists is read, linked or written only where it is a file of that kind of folder."""
    (place / "other.txt").write_text("mine")
    before = {path: path.read_bytes() for path in (place / "victim", place / "other.txt")}
    outcome = READERS[reader](trained, corpus, story, place, name)
    with pytest.raises(RunError):
        outcome()
    assert {path: path.read_bytes() for path in before} == before
    assert not list(place.rglob(".bashrc"))


def planted_run(command: Callable[[Path], Any]) -> Callable[..., Callable[[], Any]]:
    def plant(trained: Path, corpus: Path, story: Path, place: Path, name: str) -> Callable[[], Any]:
        run = run_of(trained, place)
        files_of(run, "run.json", name)
        return lambda: command(run)

    return plant


def planted_corpus(trained: Path, corpus: Path, story: Path, place: Path, name: str) -> Callable[[], Any]:
    mine = shutil.copytree(corpus, place / "corpus")
    files_of(mine, "corpus.json", name)
    return lambda: open_corpus(mine, verify=True)


def planted_tokens(trained: Path, corpus: Path, story: Path, place: Path, name: str) -> Callable[[], Any]:
    mine = open_corpus(shutil.copytree(corpus, place / "corpus"))
    tokenizer = api.load_tokenizer(trained)
    load_or_tokenize(mine, tokenizer)
    folder = mine.path / "tokens" / tokenizer.fingerprint
    files_of(folder, "train.json", name)
    return lambda: _open(folder, "train", mine, tokenizer)


def planted_index(trained: Path, corpus: Path, story: Path, place: Path, name: str) -> Callable[[], Any]:
    index = api.build_index(story, out=place / "index", bm25=True).path
    files_of(index, "index.json", name)
    return lambda: api.open_index(index)


def planted_manifest(trained: Path, corpus: Path, story: Path, place: Path, name: str) -> Callable[[], Any]:
    run = run_of(trained, place)
    weights = load_file(run / "model.safetensors")
    open_run(run).unfinish()
    step = open_run(run).save(Checkpoint(4, weights, {}))
    load(run)
    manifest = read_json(step / "MANIFEST.json")
    write_json(step / "MANIFEST.json", {**manifest, name: "0" * 64})
    return lambda: load(run)


READERS: dict[str, Callable[..., Callable[[], Any]]] = {
    "verify": planted_run(verify),
    "load": planted_run(load),
    "index": planted_run(lambda run: search_index.store_encoder(run, run.parent / "kept")),
    "corpus": planted_corpus,
    "tokens": planted_tokens,
    "search": planted_index,
    "manifest": planted_manifest,
}


def test_a_list_that_lacks_a_file_is_damage(trained: Path, place: Path) -> None:
    """R8: what is used must be listed, or nobody would see it changed."""
    run = run_of(trained, place)
    record = read_json(run / "run.json")
    for name in record["files"]:
        write_json(
            run / "run.json", {**record, "files": {k: v for k, v in record["files"].items() if k != name}}
        )
        with raises(RunError, "damaged", name):
            verify(run)


# ── damaged records ────────────────────────────────────────────────────────────────────────────

VALUES: list[Any] = [None, [], {}, "x", -1, 10**9, 1e300, True, ...]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a record something can be changed."""
    if path:
        yield path
    for key in value if isinstance(value, dict) else []:
        yield from places(value[key], (*path, key))


def changed(record: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of a record with one value changed, or (...) gone."""
    copy = json.loads(json.dumps(record))
    *before, last = path
    inner = copy
    for key in before:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return copy


def survives(work: Callable[[], Any], what: str) -> bool:
    """Whether it works; an error must be one of ours, of one line."""
    message = ""
    try:
        work()
    except TextusError as error:
        message = str(error)
    except BaseException as error:
        raise AssertionError(what) from error
    assert "\n" not in message, what
    return not message


def test_a_changed_run_record_is_used_or_refused_in_one_line(
    trained: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """R13: every value of run.json made another kind or gone; never an error that is not ours."""
    run = run_of(trained, place)
    record = read_json(run / "run.json")
    refused = 0
    for number, path in enumerate(places(record)):
        for value in VALUES[number % 3 :: 3]:
            write_json(run / "run.json", changed(record, path, value))
            what = f"{path} = {value}"
            refused += not survives(lambda: load(run), what)
            survives(lambda: api.open_run(run).tasks, what)
    assert refused > 60
    capsys.readouterr()


def test_a_changed_corpus_record_is_used_or_refused_in_one_line(corpus: Path, place: Path) -> None:
    mine = shutil.copytree(corpus, place / "corpus")
    record = read_json(mine / "corpus.json")
    refused = 0
    for path in places(record):
        for value in VALUES:
            write_json(mine / "corpus.json", changed(record, path, value))
            refused += not survives(lambda: api.open_corpus(mine).n_chars("train"), str(path))
    assert refused > 60


def test_a_changed_index_record_is_used_or_refused_in_one_line(story: Path, place: Path) -> None:
    index = api.build_index(story, out=place / "index", bm25=True).path
    record = read_json(index / "index.json")
    refused = 0
    for path in places(record):
        for value in VALUES:
            write_json(index / "index.json", changed(record, path, value))
            refused += not survives(lambda: api.open_index(index).search(["fox"]), str(path))
    assert refused > 30


def searched_and_read(index: Path) -> None:
    api.open_index(index).search(["fox"])
    _ = api.open_index(index).documents


def test_damaged_parts_of_an_index_with_right_hashes_are_named(story: Path, place: Path) -> None:
    index = api.build_index(story, out=place / "index", bm25=True).path
    whole = read_json(index / "index.json")
    for name in whole["files"]:
        kept = (index / name).read_bytes()
        (index / name).write_bytes(b'{"a": [1')
        write_json(index / "index.json", {**whole, "files": {**whole["files"], name: sha256(index / name)}})
        with raises(RunError, "damaged"):
            searched_and_read(index)
        (index / name).write_bytes(kept)


def test_a_shape_names_the_part_that_is_wrong() -> None:
    shape = {"a": {"b": int}, "c?": (type(None), str), "d": {...: bool}}
    check_shape({"a": {"b": 1}, "c": None, "d": {"x": True}}, shape, "f")
    for value, message in [
        ([], "f is"), ({}, "has no 'a'"), ({"a": {"b": True}, "d": {}}, "f: a: b is True, not a whole number"),
        ({"a": {"b": 1}, "c": 3, "d": {}}, "f: c is 3, not a text"), ({"a": {"b": 1}, "d": {"x": 1}}, "f: d: x is 1"),
    ]:  # fmt: skip
        with pytest.raises(RunError, match=message):
            check_shape(value, shape, "f")


# ── the log ────────────────────────────────────────────────────────────────────────────────────

CUT = [
    b'{"step": 9, "sample": "\xe4\xbd',
    b'{"step": 9',
    b"\xff\xfe\n",
    b"[1]\n",
    b'{"step": "x"}\n',
    b"9" * 5000,
]


@pytest.mark.parametrize("cut", CUT, ids=lambda item: repr(item)[:24])
def test_the_log_never_decides(
    trained: Path, counted: Path, place: Path, cut: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """R7: a line cut by a full disk stops neither resume nor show nor compare."""
    run = run_of(trained, place)
    open_run(run).unfinish()
    with (run / "log.jsonl").open("ab") as file:
        file.write(cut)
    board = next((run / "tensorboard").iterdir(), None) if (run / "tensorboard").is_dir() else None
    if board:
        board.write_bytes(board.read_bytes()[:-3])
    n_entries = len(read_log(run / "log.jsonl"))
    assert "damaged and left out" in capsys.readouterr().err
    assert n_entries == len(read_log(trained / "log.jsonl"))
    assert sha256(api.resume(run).path / "model.safetensors") == sha256(trained / "model.safetensors")
    with (run / "log.jsonl").open("ab") as file:
        file.write(cut)
    assert api.show(run)
    assert api.compare([run, counted], out=place / "report")


# ── temporary files ────────────────────────────────────────────────────────────────────────────

WRITER = """
import os, signal, sys, time
from pathlib import Path
from textus.core import io
out = Path(sys.argv[1])
if sys.argv[2] == "kill between":
    io.exchange_paths = lambda *_: False
    replace = Path.replace
    def last(self, target):
        if self.name.endswith(".new"):
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)
    Path.replace = last
with io.atomic_folder(out) as folder:
    (folder / "new").write_text("new")
    if sys.argv[2] == "wait":
        print("ready", flush=True)
        time.sleep(60)
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def writer(out: Path, how: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(out), how]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.mark.promise(
    "Robustness", "Killed writers leave nothing for long; replacing a folder is one step; SIGTERM cleans up"
)
def test_what_a_killed_writer_left_is_swept_by_the_next_one_and_a_living_one_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """R15, C21"""
    out = tmp_path / "out.d"
    assert writer(out, "kill").wait() == -signal.SIGKILL
    (tmp_path / ".out.d.99999999").write_text("half a file")
    (tmp_path / ".outxd.99999999.new").mkdir()
    assert len(hidden(tmp_path)) == 3
    living = writer(out, "wait")
    assert living.stdout is not None
    assert living.stdout.readline() == "ready\n"
    with atomic_folder(out):
        assert len(hidden(tmp_path)) == 3  # the living one's, our own, and somebody else's
    assert (
        capsys.readouterr().err.count("the process that was writing it is gone") == 0
    )  # swept by the living one
    living.kill()
    living.wait()
    living.stdout.close()
    write_atomic(out / "file", "x")
    write_atomic(tmp_path / "other", "x")
    assert len(hidden(tmp_path)) == 2
    with atomic_folder(out):
        pass
    assert hidden(tmp_path) == [".outxd.99999999.new"]
    assert "removed; the process that was writing it is gone" in capsys.readouterr().err


def test_replacing_a_folder_is_one_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """R16: where names can change places; elsewhere a kill between the two steps is mended by the next command."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")
    assert writer(out, "kill between").wait() == -signal.SIGKILL
    assert not out.exists()
    io.remove_stale_files(out)
    assert [path.name for path in out.iterdir()] == ["old"]
    assert "put back as it was" in capsys.readouterr().err
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.write_text("a file")
    if sys.platform == "linux":
        assert io.exchange_paths(first, second)
        assert first.is_file()
        assert second.is_dir()
    assert not io.exchange_paths(first, tmp_path / "nowhere")
    assert writer(out, "whole").wait() == 0
    assert [path.name for path in out.iterdir()] == ["new"]
    assert hidden(tmp_path) == []


def test_sigterm_cleans_up_like_ctrl_c(story: Path, tmp_path: Path) -> None:
    """R15"""
    source = tmp_path / "in"
    source.mkdir()
    os.mkfifo(source / "slow.txt")
    code = (
        "import sys, time; from pathlib import Path\n"
        "from textus.cli import main; from textus.core.io import atomic_folder\n"
        "def command(*_):\n"
        "    with atomic_folder(Path(sys.argv[1])): print('ready', flush=True); time.sleep(60)\n"
        "main.dispatch = command; sys.exit(main.main([]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert len(hidden(tmp_path)) == 1
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (143, "textus: terminated [interrupted]\n")
    assert hidden(tmp_path) == []


def test_a_file_that_is_no_file_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for out in (Path("/dev/null"), tmp_path / "pipe", tmp_path):
        with raises(TextusError, "already_exists"):
            check_output_file(out, force=True)


# ── full disks ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_recognised_in_every_form(number: int) -> None:
    """R14"""
    import sqlite3

    plain = OSError(number, os.strerror(number))
    wrapped = ValueError("storage")
    wrapped.__cause__ = plain
    for error in (plain, wrapped, SafetensorError(f"I/O error: … (os error {number})")):
        assert is_disk_full(error)
    assert is_disk_full(sqlite3.OperationalError("database or disk is full"))
    for other in (
        OSError(errno.EACCES, "no"),
        ValueError("no space"),
        SafetensorError("I/O (os error 13)"),
        None,
    ):
        assert not is_disk_full(other)


@pytest.mark.parametrize("command", ["export", "import", "train"])
def test_a_limit_on_file_sizes_is_one_line(command: str, trained: Path, corpus: Path, tmp_path: Path) -> None:
    """R14: `ulimit -f`, which a writer meets as EFBIG."""
    exported = tmp_path / "hf"
    if command == "import":
        assert main(["export", str(trained), "--to", "hf", "--out", str(exported)]) == 0
    argv = {
        "export": ["export", trained, "--to", "hf", "--out", tmp_path / "out"],
        "import": ["import", exported, "--out", tmp_path / "out"],
        "train": ["train", corpus, "--steps", 2, "--tokenizer", "char", "--out", tmp_path / "out"],
    }[command]
    textus = Path(sys.executable).parent / "textus"
    script = f'ulimit -f 40; exec "{textus}" "$@"'
    done = subprocess.run(
        ["bash", "-c", script, "textus", *map(str, argv)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "unexpected" not in done.stderr
    assert "ulimit -f" in last or "no space left" in last
    assert "Traceback" not in done.stderr


# ── optional modules ───────────────────────────────────────────────────────────────────────────


def test_only_a_missing_module_is_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C11: what is installed and broken is named as that."""
    (tmp_path / "broken_inside.py").write_text("import a_module_that_is_nowhere")
    (tmp_path / "broken_name.py").write_text("from json import nothing_of_that_name")
    (tmp_path / "package_here").mkdir()
    (tmp_path / "package_here" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("nowhere_at_all", "nowhere_at_all.inner", "package_here.inner"):
        with raises(MissingDependencyError, "extra_not_installed", "text"):
            import_optional(module, "text")
    for module, why in (
        ("broken_inside", "a_module_that_is_nowhere"),
        ("broken_name", "nothing_of_that_name"),
    ):
        with pytest.raises(
            TextusError, match=f"{module} is installed but cannot be imported .*{why}"
        ) as caught:
            import_optional(module, "text")
        assert not isinstance(caught.value, MissingDependencyError)


# ── folders of ours are not taken for something else ───────────────────────────────────────────


def test_a_report_is_never_written_into_a_folder_of_ours(corpus: Path, counted: Path, tmp_path: Path) -> None:
    from textus import api

    run = Path(shutil.copytree(counted, tmp_path / "run"))
    for out in (run, corpus):
        with raises(UsageError, "invalid_path"):
            api.open_run(run).evaluate(out=out)
        with raises(UsageError, "invalid_path"):
            api.compare([run], out=out)
    assert not list(run.glob("*.html"))


def test_a_corpus_or_run_is_not_read_as_rows(corpus: Path, counted: Path, tmp_path: Path) -> None:
    from textus import api

    for data, kind in ((corpus, "corpus"), (counted, "run")):
        with raises(DataError, "invalid_path", f"({kind})"):
            api.finetune(data, model="linear", out=tmp_path / "out")

"""What a person is advised where a path is of another kind than the command takes: the command for it, by name."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from labelled import written

from textus import api
from textus.cli.main import main
from textus.core.io import mark_folder


@pytest.fixture(scope="module")
def folders(trained: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each kind; none may be changed."""
    base = tmp_path_factory.mktemp("kinds of folders")
    rows = [{"text": "the fox went down to the river"}, {"text": "the heron stood on one leg"}]
    api.train_tokenizer(corpus, out=base / "tokenizer", kind="char")
    api.build_index(written(base / "rows.jsonl", rows), out=base / "index", bm25=True)
    (base / "demo").mkdir()
    mark_folder(base / "demo", "demo")
    return {
        "run": trained,
        "corpus": corpus,
        **{name: base / name for name in ("tokenizer", "index", "demo")},
    }


COMMANDS = {
    "run": ["show", "verify", "generate"],
    "corpus": ["corpus show"],
    "index": ["search"],
    "tokenizer": ["tokenizer report"],
}
"""Kind of folder → the commands that take one."""
MORE = {"search": ["a query"], "tokenizer report": ["corpus"]}
SEEN_BY = {
    "run": "textus show {}",
    "corpus": "textus corpus show {}",
    "index": "textus search {} QUERY",
    "tokenizer": "textus tokenizer report {} CORPUS",
    "demo": "textus show {}/decoder",
}
CASES = [
    (command, kind)
    for wanted, commands in COMMANDS.items()
    for command in commands
    for kind in SEEN_BY
    if kind != wanted and (wanted, kind) != ("tokenizer", "run")  # a run's own tokenizer is one
]


@pytest.mark.promise("Robustness", "A folder of another kind is named with the command that shows it")
@pytest.mark.parametrize(("command", "kind"), CASES)
def test_a_folder_of_another_kind_is_named_with_its_command(
    command: str, kind: str, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """U: the advice for a corpus was to train a run of the same name, for a run to build a corpus in its place."""
    assert main([*command.split(), str(folders[kind]), *MORE.get(command, [])]) == 1
    message = capsys.readouterr().err
    article = "an" if kind == "index" else "a"
    assert f"it is {article} {kind}: {SEEN_BY[kind].format(shlex.quote(str(folders[kind])))}" in message
    assert "--out" not in message
    assert message.count("\n") == 1


@pytest.mark.parametrize("kind", ["run", "corpus", "index", "tokenizer"])
def test_the_command_that_is_advised_works(
    kind: str, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = SEEN_BY[kind].format(shlex.quote(str(folders[kind])))
    words = shlex.split(command.replace("QUERY", "heron").replace("CORPUS", str(folders["corpus"])))
    assert main(words[1:]) == 0


def test_a_folder_of_nobody_has_no_such_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, what in (
        ("show", "it is no run; a run is the folder that"),
        ("corpus show", "make one: textus corpus build SRC --out FOLDER"),
        ("search", "build one: textus index build FILE --run RUN --out FOLDER"),
    ):
        assert main([*command.split(), str(tmp_path), *MORE.get(command, [])]) == 1
        assert what in capsys.readouterr().err
    assert main(["show", str(tmp_path / "missing")]) == 1
    assert "missing not found; a run is the folder that" in capsys.readouterr().err


@pytest.mark.parametrize("to", ["onnx", "gguf", "safetensors", "ggml"])
def test_export_lists_the_formats_it_writes(
    to: str, counted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(counted), "--to", to, "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert (
        f"--to {to}: export does not write this format; it writes hf, a folder that transformers" in message
    )
    assert "peft, the adapters" in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()

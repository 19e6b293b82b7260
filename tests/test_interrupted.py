"""Work that is broken off: one line of what is kept, and which command continues it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from labelled import written

from textus import api
from textus.cli.main import main
from textus.data import output
from textus.evaluation import task_report


def reviews(n: int) -> list[dict[str, Any]]:
    return [{"text": f"film {i} was {'good' if i % 2 else 'bad'}", "label": i % 2} for i in range(n)]


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    return api.finetune(reviews(24), model="linear", out=tmp_path_factory.mktemp("linear") / "run")


def argv_of(command: str, run: Path, data: Path, out: Path) -> list[str]:
    return {
        "generate": ["generate", str(run), "--file", str(data), "--max-tokens", "1", "--out", str(out)],
        "evaluate": ["evaluate", str(run), "--on", str(data)],
        "compare": ["compare", str(run), str(run), "--on", str(data)],
    }.get(command, [command, str(run), str(data), "--out", str(out)])


@pytest.mark.parametrize("command", ["predict", "embed", "generate", "evaluate", "compare"])
def test_ctrl_c_is_one_line_of_what_is_kept_and_what_continues(
    linear: api.Run, trained: Path, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run = trained if command in ("embed", "generate") else linear.path
    argv = argv_of(command, run, written(tmp_path / "r.jsonl", reviews(600)), tmp_path / "o.jsonl")
    add = output.PartialFile.add

    def stop_after_two(file: output.PartialFile, data: bytes, rows: int) -> None:
        add(file, data, rows)
        if file.n_done >= 2 * rows:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(output.PartialFile, "add", stop_after_two)
        patched.setattr(task_report, "read_rows", lambda *given: signal.raise_signal(signal.SIGINT))
        former = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            assert main(argv) == 130
        finally:
            signal.signal(signal.SIGINT, former)
    n = 32 if command == "generate" else 512
    kept = f"{n} rows are kept in {tmp_path / 'o.jsonl'}.part; continue with the same command"
    if command in ("evaluate", "compare"):
        kept = "nothing is kept; begin anew with the same command"
    assert (
        capsys.readouterr().err.splitlines()[-1]
        == f"textus: stopped; {kept}: textus {' '.join(argv)} [interrupted]"
    )
    if command in ("predict", "embed"):
        assert main(argv) == 0
        assert f"{tmp_path / 'o.jsonl'}: continued after {n} rows" in capsys.readouterr().err


def test_what_was_piped_cannot_be_continued(linear: api.Run, tmp_path: Path) -> None:
    stop = (
        "import sys\n"
        "from textus.data import output\n"
        "add = output.PartialFile.add\n"
        "def stop(self, data, rows):\n"
        "    add(self, data, rows)\n"
        "    if self.n_done: raise KeyboardInterrupt\n"
        "output.PartialFile.add = stop\n"
        "from textus.cli.main import main\n"
        f"sys.exit(main(['predict', {str(linear.path)!r}, '-', '--out', {str(tmp_path / 'o.csv')!r}]))\n"
    )
    ended = subprocess.run([sys.executable, "-c", stop], input="good\n" * 300, capture_output=True, text=True)
    assert ended.returncode == 130
    assert "256 rows are kept in" in ended.stderr
    assert "cannot be continued: begin anew with the same command: textus predict" in ended.stderr


def test_other_errors_report_what_is_kept_too(
    linear: api.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    add = output.PartialFile.add

    def full(file: output.PartialFile, data: bytes, rows: int) -> None:
        if file.n_done:
            raise OSError(28, "No space left on device")
        add(file, data, rows)

    monkeypatch.setattr(output.PartialFile, "add", full)
    argv = argv_of("predict", linear.path, written(tmp_path / "r.jsonl", reviews(600)), tmp_path / "o.jsonl")
    assert main(argv) == 1
    assert "256 rows are kept in" in capsys.readouterr().err


def test_vectors_of_another_input_are_discarded_with_a_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from textus.pipelines.embeddings import embed_file

    run, calls = api.open_run(trained), []
    make = run.vectors_of()

    def broken(texts: Any) -> Any:
        calls.append(len(texts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return make(texts)

    for form in ("npy", "jsonl"):
        out = tmp_path / f"v.{form}"
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            embed_file(broken, written(tmp_path / "a.jsonl", reviews(300)), out, run=trained)
        api.embed(run, written(tmp_path / "b.jsonl", reviews(3)), out=out)
        lost = f"{out}.part is of another run, input or command: started over, without its 256 rows"
        assert lost in capsys.readouterr().err

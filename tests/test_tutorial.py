"""The tutorial and `runs/quickstart.sh` run as they are written: every command in order, in an empty folder, without a
network. Only the training is made shorter and the port is a free one.

Outputs shown in the tutorial are compared by their shape: a number matches any number, `…` anything.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
TUTORIAL = REPOSITORY / "docs" / "tutorial.md"
CHINESE = REPOSITORY / "docs" / "tutorial.zh-CN.md"
SHORT = {"--preset 1min": "--depth 1 --steps 20"}

BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[^>]*) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?(?![\w])")


class Step(NamedTuple):
    """A block of code, what marks it ("background", "file: NAME" or nothing), and the output shown below it."""

    mark: str
    language: str
    code: str
    output: str


def steps(page: str) -> list[Step]:
    result: list[Step] = []
    for block in BLOCK.finditer(page):
        if block["language"] == "text":
            result[-1] = result[-1]._replace(output=block["code"])
        else:
            result.append(Step(block["mark"] or "", block["language"], block["code"], ""))
    return result


def shape(line: str) -> str:
    """A pattern for lines like this one: blanks of any width, any numbers, `…` for anything.

    >>> bool(re.fullmatch(shape("loss 4.2 …"), "loss   17 after 1 step")), bool(re.fullmatch(shape("loss 4"), "gain 4"))
    (True, False)
    """
    pattern = re.escape(" ".join(NUMBER.sub("\0", line).split()))
    return pattern.replace("\0", r"[-+\d,.e]+").replace("…", ".*").replace(r"\ ", r"\s+")


def missing(expected: str, output: str) -> list[str]:
    """The expected lines that the output lacks, in order."""
    lines = iter([line.strip() for line in output.splitlines()])
    wanted = [line for line in expected.splitlines() if line.strip() not in ("", "…")]
    return [line for line in wanted if not any(re.fullmatch(shape(line), seen) for seen in lines)]


def environment() -> dict[str, str]:
    """This interpreter's commands first, and this checkout's package."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY)}


def run(command: list[str], folder: Path) -> str:
    """The output of a command that has to succeed."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def background(code: str, folder: Path, port: int) -> Iterator[None]:
    """A server, from the moment it accepts connections."""
    server = subprocess.Popen(["bash", "-c", f"exec {code}"], cwd=folder, env=environment())
    try:
        for _ in range(1200):
            assert server.poll() is None, code
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield
    finally:
        server.terminate()
        server.wait(60)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def adapted(code: str, port: int) -> str:
    """A command with a short training and a free port."""
    for long, short in SHORT.items():
        code = code.replace(long, short)
    return code.replace("8000", str(port))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_command_of_the_tutorial_runs_and_prints_what_the_page_shows(tmp_path: Path) -> None:
    port = free_port()
    run_steps(steps(TUTORIAL.read_text(encoding="utf-8")), tmp_path, port)


def run_steps(remaining: list[Step], folder: Path, port: int) -> None:
    """The steps in order; what follows a server runs while it does."""
    for number, step in enumerate(remaining):
        code = adapted(step.code, port)
        if step.mark.startswith("file: "):
            (folder / step.mark.removeprefix("file: ")).write_text(step.code, encoding="utf-8")
        elif step.mark == "background":
            with background(code, folder, port):
                return run_steps(remaining[number + 1 :], folder, port)
        else:
            command = [sys.executable, "-c", code] if step.language == "python" else ["bash", "-ec", code]
            output = run(command, folder)
            assert missing(step.output, output) == [], f"{step.code}\nprints\n{output}"
    return None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_quickstart_runs_the_whole_pipeline(tmp_path: Path) -> None:
    bounded = {"OUT": str(tmp_path / "work"), "SIZE": "--depth 1 --steps 20", "PORT": str(free_port())}
    command = ["env", *(f"{name}={value}" for name, value in bounded.items()), "bash", "runs/quickstart.sh"]
    run(command, REPOSITORY)
    assert (tmp_path / "work" / "areas" / "model.safetensors").exists()


def test_both_languages_have_the_same_steps() -> None:
    assert steps(CHINESE.read_text(encoding="utf-8")) == steps(TUTORIAL.read_text(encoding="utf-8"))


def test_the_script_of_the_tutorial_is_the_one_of_the_quickstart() -> None:
    scripts = [
        step.code for step in steps(TUTORIAL.read_text(encoding="utf-8")) if step.mark.startswith("file: ")
    ]
    assert scripts == [(REPOSITORY / "runs" / "docstring_rows.py").read_text(encoding="utf-8")]


def test_another_shape_of_output_is_caught() -> None:
    shown = "…\n  accuracy   0.8 [0.7, 0.9]\nmajority 0.4 …\n"
    assert missing(shown, "task x\n  accuracy  1 [0.99, 1.00]\n\nmajority  0.43 and more\n") == []
    assert missing(shown, "accuracy 0.8 [0.7, 0.9]\n") == ["majority 0.4 …"]
    assert missing(shown, "majority 0.4 x\naccuracy 0.8 [0.7, 0.9]\n") == ["majority 0.4 …"]
    assert missing("loss 1.0", "loss none") == ["loss 1.0"]

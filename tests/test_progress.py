"""Progress where standard error is no terminal: nobody waits in silence (U14)."""

from __future__ import annotations

import shlex
import sys
import time

import pytest

from textus.core import console
from textus.core.console import FIRST_LINE, NEXT_LINES, command_line, format_duration, progress


def test_progress_in_a_pipe_reports_before_anything_has_advanced(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "FIRST_LINE", 0.01)
    monkeypatch.setattr(console, "NEXT_LINES", 0.2)
    with progress("reading", 8) as advance:
        time.sleep(0.1)
        advance(2, "loss 1.5")
        time.sleep(0.4)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "reading: 0% after 0 s"
    assert lines[1].startswith("reading: 25% after 0 s, about ")
    assert lines[1].endswith(" left, loss 1.5")


def test_progress_of_what_is_short_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("reading", 8) as advance:
        advance(8)
    assert capsys.readouterr().err == ""
    assert (FIRST_LINE, NEXT_LINES) == (2.0, 30.0)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0 s"), (45, "45 s"), (150, "2 min"), (3600, "60 min"), (9000, "2.5 h")]
)
def test_duration_is_for_people(seconds: float, shown: str) -> None:
    assert format_duration(seconds) == shown


def test_the_recorded_command_can_be_pasted_back(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["textus", "train", "my corpus", "--set", "model.name=it's"]
    monkeypatch.setattr(sys, "argv", words)
    assert shlex.split(command_line()) == words

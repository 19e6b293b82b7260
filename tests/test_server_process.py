"""The server as a process: signals, ports, addresses, and what it refuses to start with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from raising import raises
from served import remembering

from textus.core.errors import UsageError
from textus.models.contract import Capabilities
from textus.serving import create_app
from textus.serving.app import bind_socket

SCRIPT = """
import sys
from served import reciting
from textus.core.errors import TextusError
from textus.serving import serve
try:
    serve([reciting("m", "tick", pause=0.02)], port=int(sys.argv[1]))
except TextusError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def start(port: int) -> subprocess.Popen[str]:
    here = Path(__file__).resolve().parent
    environment = {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    command = [sys.executable, "-c", SCRIPT, str(port)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.promise(
    "Server",
    "A disconnect ends the work; a full queue is reported and recovers; a signal ends the server cleanly",
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_success_also_in_the_middle_of_an_answer(number: int) -> None:
    with start(0) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        address = line.split(" at ")[1].split()[0]
        body = {"model": "m", "prompt": "a", "max_tokens": 8000, "stream": True}
        with httpx.stream("POST", f"{address}/v1/completions", json=body) as answer:
            assert answer.status_code == 200
            process.send_signal(number)
            started = time.monotonic()
            assert process.wait(15) == 0
            assert time.monotonic() - started < 10
        rest = process.stderr.read()
    assert "stopped" in rest
    assert "Traceback" not in rest, rest


@pytest.mark.promise("Server", "A port in use is reported in one line, with a free one")
def test_a_port_in_use_names_a_free_one() -> None:
    with bind_socket("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with start(port) as process:
            assert process.wait(60) == 2
            assert process.stderr is not None
            message = process.stderr.read()
    assert message.count("\n") == 1
    assert f"port {port} on 127.0.0.1 is in use; try --port " in message
    bind_socket("127.0.0.1", int(message.split()[-1])).close()


@pytest.mark.parametrize(
    ("host", "port", "messages"),
    [
        ("127.0.0.1", 70000, ("out_of_range", "70000")),
        ("203.0.113.7", 0, ("address_not_available",)),
        ("no such host", 0, ("invalid_value",)),
    ],
)
def test_addresses_that_cannot_be_bound(host: str, port: int, messages: tuple[str, ...]) -> None:
    with raises(UsageError, *messages):
        bind_socket(host, port)


def test_nothing_to_serve_and_two_of_one_name() -> None:
    before = threading.active_count()
    with raises(UsageError, "missing_argument"):
        create_app([])
    with raises(UsageError, "duplicate_name"):
        create_app([remembering("a"), remembering("a")])
    encoder = remembering("e")
    encoder.model.capabilities = Capabilities(can_generate=False)
    with raises(UsageError, "unsupported_model", "e", "Remembering"):
        create_app([encoder])
    assert threading.active_count() == before

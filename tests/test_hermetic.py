"""Tests reach this machine only."""

from __future__ import annotations

import socket

import pytest
from pytest_socket import SocketConnectBlockedError


@pytest.mark.promise("Architecture", "The suite reaches no other machine")
def test_other_machines_are_out_of_reach() -> None:
    with pytest.raises(SocketConnectBlockedError), socket.socket() as caller:
        caller.connect(("192.0.2.1", 80))  # an address kept for examples


def test_this_machine_is_within_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()

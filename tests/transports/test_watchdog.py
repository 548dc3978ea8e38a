"""The watchdog for views that block the event loop."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

import pytest

from tests.support import TIMEOUT, WORKERS, Server

StartServer = Callable[..., Server]


@pytest.mark.parametrize("worker", WORKERS)
def test_computing(start_server: StartServer, worker: str) -> None:
    """A view that blocks is logged once, with its stack."""
    settings = json.dumps({"WEBSOCKET_BLOCKED_WARNING": 0.2})
    server = start_server(worker, env={"TEST_SETTINGS": settings})
    with server.connect("/computing/") as websocket:
        for _ in range(3):
            websocket.send("go")
            assert websocket.recv(timeout=TIMEOUT) == "done"
        server.wait_for_log(r"The event loop was blocked for [\d.]+ s[^$]*, in computing\n")
    server.stop()
    # It computes in two lines; the stack may show either.
    assert 1 <= server.log.count("The event loop was blocked") <= 2


def test_off(start_server: StartServer) -> None:
    """A limit of 0 turns the watchdog off; a limit that is not reached logs nothing."""
    for limit in (0, 60):
        settings = json.dumps({"WEBSOCKET_BLOCKED_WARNING": limit})
        server = start_server("own", env={"TEST_SETTINGS": settings})
        with server.connect("/computing/") as websocket:
            websocket.send("go")
            assert websocket.recv(timeout=TIMEOUT) == "done"
        server.signal(signal.SIGTERM)
        server.wait()
        assert "The event loop was blocked" not in server.log

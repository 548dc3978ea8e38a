"""permessage-deflate with a real client."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.support import SERVERS, TIMEOUT, Server

StartServer = Callable[..., Server]

TEXT = "the same words over and over " * 200


def is_compressed(server: Server, path: str = "/echo/", **options: str) -> bool:
    """Return whether a client that offers compression gets it."""
    with server.connect(path, **options) as websocket:
        assert websocket.response is not None
        return "permessage-deflate" in websocket.response.headers.get(
            "Sec-WebSocket-Extensions", ""
        )


@pytest.fixture(scope="module", params=SERVERS)
def compressing(request: pytest.FixtureRequest, start_lasting_server: StartServer) -> Server:
    """Every server, with compression."""
    return start_lasting_server(request.param, env={"TEST_COMPRESSION": "true"})


def test_echo(compressing: Server) -> None:
    """Messages of all sizes survive, compressed or below the threshold."""
    echo(compressing)


@pytest.mark.parametrize("worker", ["own", "runserver"])
def test_echo_with_takeover(start_server: StartServer, worker: str) -> None:
    """The same with a context that is kept, in greenlets and in threads."""
    setting = '{"context_takeover": true, "threshold": 0}'
    echo(start_server(worker, env={"TEST_COMPRESSION": setting}))


def echo(server: Server) -> None:
    """Assert that messages of all sizes come back."""
    assert is_compressed(server)
    messages: list[str | bytes] = ["", b"", "x", TEXT, TEXT.encode(), "é" * 300_000, bytes(700_000)]
    # As large as allowed, and larger when compressed.
    messages.append(os.urandom(2**20))
    with server.connect("/echo/") as websocket:
        for message in messages * 2:
            websocket.send(message)
            assert websocket.recv(timeout=TIMEOUT) == message


def test_group(start_server: StartServer) -> None:
    """Members with and without compression get the same message."""
    server = start_server("own", env={"TEST_COMPRESSION": "true"})
    with server.connect("/group/") as one, server.connect("/group/", compression=None) as two:
        one.send(TEXT)
        assert one.recv(timeout=TIMEOUT) == two.recv(timeout=TIMEOUT) == TEXT


def test_off_by_default(gunicorn: Server) -> None:
    """Compression is off by default, even if it is offered."""
    assert not is_compressed(gunicorn)


def test_declined_by_a_view(compressing: Server) -> None:
    """A view disables compression for all of its clients, or for some; other views have it."""
    server = compressing
    for path in (
        "/uncompressed/",
        "/uncompressed-loop/",
        "/events/uncompressed/",
        "/events/uncompressed-option/",
    ):
        assert not is_compressed(server, path), path
        with server.connect(path) as websocket:
            websocket.send(TEXT)
            assert websocket.recv(timeout=TIMEOUT) == TEXT
    # Accepted before the view runs, as it authenticates by its first message.
    assert not is_compressed(server, "/events/uncompressed-late/")
    assert not is_compressed(server, "/events/old-clients/", user_agent_header="Old 1.0")
    for path in ("/events/old-clients/", "/echo/", "/loop/", "/events/echo/"):
        assert is_compressed(server, path), path

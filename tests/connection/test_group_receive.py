"""Event views with ``group_receive()``: the same on every server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from uuid import uuid4

import pytest
from django.test import override_settings
from websockets.sync.client import ClientConnection

from django_wsmux.groups import Group
from django_wsmux.monitoring.metrics import snapshot
from django_wsmux.test import WebSocketClient
from tests.functional.test_conversation import closing
from tests.site import sockets as site
from tests.support import TIMEOUT, Server, frame
from tests.test_views import said

StartServer = Callable[..., Server]


def told(websocket: ClientConnection, count: int) -> list[str | bytes]:
    """Return the next messages."""
    return [websocket.recv(timeout=TIMEOUT) for _ in range(count)]


def test_seen_first(server: Server) -> None:
    """The view gets each message unchanged; the client gets only what the view sends."""
    path = f"/events/watching/{uuid4().hex}/"
    with server.connect(path) as one, server.connect(path) as other:
        for message in ("say text", "say nothing", "say ", b"binary", b""):
            one.send(message)
        seen = ["seen 'text'", "seen ''", "seen b'binary'", "seen b''"]
        assert told(other, 4) == seen
        everything = told(one, 9)
        assert [message for message in everything if "seen" in str(message)] == seen


def test_in_order(server: Server) -> None:
    """Messages of peer and group share one queue; only the peer's count as received."""
    key = uuid4().hex
    with server.upgraded(f"/events/watching/{key}/?key={key}") as wire:
        wire.send(frame(0x81, b"say slow"))
        assert wire.frame() == (1, b"received 'say slow'")
        wire.send(frame(0x81, b"next"))
        assert wire.frame() == (1, b"seen 'slow'")
        assert wire.frame() == (1, b"received 'next'")
        wire.send(b"".join(frame(0x81, b"say %d" % number) for number in range(300)))
        answers = [wire.frame()[1] for _ in range(600)]
        for what in (b"received 'say %d'", b"seen '%d'"):
            expected = [what % number for number in range(300)]
            assert [answer for answer in answers if answer.startswith(what[:6])] == expected
        wire.send(frame(0x88, b"\x0f\xa1bye"))
        assert wire.closed()[0] == 4001
    report = said(server, key, "closed;")
    assert report.startswith("opened;4001 bye 0.0 (302, ")
    assert ", 603, " in report


def test_before_the_101(server: Server) -> None:
    """Messages to the group while the view decides are handled once the socket is open."""
    with server.connect(f"/events/watching/{uuid4().hex}/?early") as websocket:
        assert told(websocket, 1) == ["seen 'early'"]


@pytest.mark.parametrize("how", ["crash", "exit", "wait"])
def test_raising(server: Server, how: str) -> None:
    """An exception closes this socket with 1011 and is logged; messages behind it are dropped."""
    name = uuid4().hex
    with (
        server.connect(f"/events/watching/{name}/") as one,
        server.connect(f"/events/room/{name}/") as other,
    ):
        other.recv(timeout=TIMEOUT)
        for message in (how, "next"):
            other.send(message)
        assert closing(one) == (1011, "500 Internal Server Error")
        other.ping().wait(TIMEOUT)
    server.wait_for_log(rf"Internal Server Error: /events/watching/{name}/")


def test_surroundings(server: Server) -> None:
    """The language is that of the handshake, with any sender."""
    path = f"/events/watching/{uuid4().hex}/"
    with (
        server.connect(path, additional_headers={"Accept-Language": "de"}) as german,
        server.connect(path) as english,
    ):
        english.send("say language")
        assert told(german, 1) == ["seen 'de'"]
        assert told(english, 2) == ["received 'say language'", "seen 'en'"]


def test_database(server: Server) -> None:
    """The database treats a group's message like a request: no connection is held afterwards."""
    with server.connect(f"/events/watching/{uuid4().hex}/") as websocket:
        websocket.send("say SELECT 7")
        assert told(websocket, 2) == ["received 'say SELECT 7'", "seen '7'"]
        deadline = time.monotonic() + TIMEOUT
        while (held := server.get("/connections/")) != "0":
            assert time.monotonic() < deadline, held


@pytest.mark.parametrize("kind", ["own", "runserver"])
def test_slow_view(start_server: StartServer, kind: str) -> None:
    """A slow view is treated as a slow client: 1013, counted; others get everything."""
    server = start_server(kind, env={"TEST_MAX_UNSENT_BYTES": "20000"})
    name = uuid4().hex
    with (
        server.upgraded(f"/events/watching/{name}/") as behind,
        server.upgraded(f"/events/room/{name}/") as healthy,
        server.connect(f"/events/room/{name}/") as speaker,
    ):
        healthy.frame()
        speaker.recv(timeout=TIMEOUT)
        messages = ["hold", *(f"{number:1000}" for number in range(100))]
        for message in messages:
            speaker.send(message)
        assert [healthy.frame() for _ in messages] == [(1, each.encode()) for each in messages]
        assert behind.closed() == (1013, "too slow")
    assert json.loads(server.get("/metrics/"))["slow_client_closed"] == 1
    server.wait_for_log(r"closed with 1013: its view is behind by 2\d{4} bytes of its groups")


@pytest.mark.usefixtures("sockets")
def test_group_seen_by_the_view(client: WebSocketClient) -> None:
    """A view with ``group_receive()`` gets the message, and its client what the view sends."""
    with client.websocket("/watching/") as ws:
        for message in ("text", "psst", b"binary", ""):
            Group("room").send(message)
        assert ws.peek() == ["seen 'text'", "seen b'binary'", "seen ''"]
        ws.send("say hello")
        ws.send("and on")
        assert ws.peek()[3:] == ["seen 'hello'", "and on"]


@pytest.mark.usefixtures("sockets")
def test_group_receive_raises(client: WebSocketClient) -> None:
    """An exception in ``group_receive()`` is raised in the test, for messages of any sender."""
    with client.websocket("/watching/") as ws:
        Group("room").send("crash")
        with pytest.raises(ValueError, match="it broke on the way"):
            ws.receive()
        assert ws.close_code == 1011


@pytest.mark.usefixtures("sockets")
@pytest.mark.parametrize("message", ["", "x" * 200])
@pytest.mark.parametrize("policy", ["close", "drop"])
def test_group_receive_behind(client: WebSocketClient, policy: str, message: str) -> None:
    """The backlog of ``group_receive()`` is bounded, even with empty messages."""
    limits = {"WEBSOCKET_MAX_UNSENT_BYTES": 3000, "WEBSOCKET_SLOW_CLIENT": policy}
    with override_settings(**limits), client.websocket("/watching/") as ws:
        Group("room").send("x" * 5000)
        assert len(ws.receive()) == len("seen ''") + 5000  # a single message always fits
        before = snapshot()
        for _ in range(100):
            Group("room").send(message)  # the view has not run yet
        after = snapshot()
        fitting = 3000 // (len(message) + 128) + 1
        if policy == "close":
            assert (ws.close_code, ws.close_reason) == (1013, "too slow")
            assert ws.peek() == []
            assert after["slow_client_closed"] - before["slow_client_closed"] == 1
        else:
            assert ws.peek() == [f"seen {message!r}"] * fitting
            assert after["slow_client_dropped"] - before["slow_client_dropped"] == 100 - fitting
            Group("room").send("again")
            assert ws.peek()[fitting:] == ["seen 'again'"]


@pytest.mark.usefixtures("sockets")
@override_settings(WEBSOCKET_HISTORY={"room": {"messages": 10, "seconds": 60}})
def test_group_receive_forgotten(client: WebSocketClient) -> None:
    """A view is given no message that was forgotten, and goes on with the others."""
    with client.websocket("/watching/") as ws:
        Group("room").send("kept")
        assert ws.peek() == ["seen 'kept'"]
        for _ in range(2):
            Group("room").send("forgotten")  # the view has not run yet
            Group("room").send("forgotten, too")
            Group("room").forget()
        Group("room").send("later")
        assert ws.peek()[1:] == ["seen 'later'"]
        Group("room").send("forgotten")
        Group("room").forget()
        assert ws.peek()[2:] == []
        ws.send("from the peer")
        Group("room").send("last")
        assert ws.peek()[2:] == ["from the peer", "seen 'last'"]
        assert ws.close_code is None


@pytest.mark.usefixtures("sockets")
def test_group_receive_after_the_close(client: WebSocketClient) -> None:
    """Messages of groups are dropped once the client is gone."""
    with client.websocket("/watching/") as ws:
        ws._peer.send("say text")  # the view has not run yet
        Group("room").send("crash")
        ws._peer.send_close(1001, "")
    assert site.ends == ["1001 "]

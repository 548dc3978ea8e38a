"""Messages and closes of groups during a handshake, on every server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest

from tests.gauges import reported, wait_until
from tests.support import Server, Wire, frame, handshake

StartServer = Callable[..., Server]

#: One view accepts by returning, the other by its first message.
VIEWS = ("/events/deciding/", "/plain-deciding/")


@contextmanager
def deciding(server: Server, view: str, key: str, query: str = "") -> Iterator[Wire]:
    """Begin a handshake and wait until its view runs; the socket is in the group ``key``."""
    with server.wire() as wire:
        wire.send(handshake(f"{view}{key}/{query}"))
        assert reported(server, key).strip() == "waiting"
        yield wire


def opened(server: Server, wire: Wire, key: str) -> None:
    """Let the view continue, and assert that it accepts."""
    server.get(f"/let-go/{key}/")
    head = wire.head()
    assert head.startswith("HTTP/1.1 101 "), head


def counted(server: Server, name: str) -> int:
    """Return one of the server's counters."""
    return int(json.loads(server.get("/metrics/"))[name])


def test_order(server: Server) -> None:
    """Messages of ``connect()`` come first, then those that the group sent meanwhile."""
    key = uuid4().hex
    with deciding(server, VIEWS[0], key) as wire:
        for number in range(3):
            server.get(f"/tell/?group={key}&say={number}")
        opened(server, wire, key)
        server.get(f"/tell/?group={key}&say=3")
        told = [wire.frame()[1].decode().split()[-1] for _ in range(5)]
        assert told == ["own", "0", "1", "2", "3"]


@pytest.mark.parametrize("view", VIEWS)
def test_closed_by_a_group(server: Server, view: str) -> None:
    """If the view accepts, the socket opens and is closed at once with the group's code."""
    key = uuid4().hex
    with deciding(server, view, key) as wire:
        server.get(f"/tell/?group={key}&say=before")
        server.get(f"/tell/?group={key}&close=all+out")
        server.get(f"/tell/?group={key}&say=after")
        opened(server, wire, key)
        received = []
        while (each := wire.frame())[0] != 8:
            received.append(each[1].decode().split()[-1])
        assert received == (["own", "before"] if view == VIEWS[0] else ["before"])
        assert each[1] == (4000).to_bytes(2, "big") + b"all out"
        wire.send(frame(0x88, each[1]))


@pytest.mark.parametrize("view", VIEWS)
def test_refusal_is_not_overridden(gunicorn: Server, view: str) -> None:
    """A group that closes its sockets does not accept a handshake that the view refuses."""
    key = uuid4().hex
    with deciding(gunicorn, view, key, "?refuse") as wire:
        gunicorn.get(f"/tell/?group={key}&close=all+out")
        gunicorn.get(f"/let-go/{key}/")
        assert wire.response().status == 403


def test_refused_after_the_101(direct: Server) -> None:
    """If the 101 was sent early, the refusal is all that the client gets."""
    key = uuid4().hex
    with deciding(direct, VIEWS[0], key, "?refuse") as wire:
        direct.get(f"/tell/?group={key}&say=before")
        direct.get(f"/tell/?group={key}&close=all+out")
        opened(direct, wire, key)
        assert wire.frame() == (8, (1008).to_bytes(2, "big") + b"403 Forbidden")


@pytest.mark.parametrize("kind", ["own", "runserver"])
@pytest.mark.parametrize("policy", ["close", "drop"])
def test_limit(start_server: StartServer, kind: str, policy: str) -> None:
    """A backlog above WEBSOCKET_MAX_UNSENT_BYTES follows the policy for slow clients."""
    settings = {"WEBSOCKET_MAX_UNSENT_BYTES": 100_000, "WEBSOCKET_SLOW_CLIENT": policy}
    server = start_server(kind, env={"TEST_SETTINGS": json.dumps(settings)})
    key = uuid4().hex
    with deciding(server, VIEWS[0], key) as wire:
        server.get(f"/flood-group/{key}/30/10000/")
        opened(server, wire, key)
        assert wire.frame() == (1, b"own")
        if policy == "drop":
            dropped = counted(server, "slow_client_dropped")
            assert 20 <= dropped < 30
            for _ in range(30 - dropped):
                assert wire.frame() == (2, bytes(10_000))
            server.get(f"/tell/?group={key}&say=on")
            assert wire.frame()[1].endswith(b" on")
        else:
            assert wire.closed() == (1013, "too slow")
            assert counted(server, "slow_client_closed") == 1
            server.wait_for_log(r"closed with 1013: \d+ messages of its groups are held back")


def test_limit_with_group_receive(start_server: StartServer) -> None:
    """The same limit holds for views with ``group_receive()``."""
    settings = {"WEBSOCKET_MAX_UNSENT_BYTES": 100_000}
    server = start_server("own", env={"TEST_SETTINGS": json.dumps(settings)})
    key = uuid4().hex
    with server.upgraded(f"/events/watching/{key}/?early") as wire:
        assert wire.frame() == (1, b"seen 'early'")
        wire.send(frame(0x81, b"say hold"))
        assert wire.frame() == (1, b"received 'say hold'")
        server.get(f"/flood-group/{key}/30/10000/")
        assert wire.closed() == (1013, "too slow")
    wait_until(lambda: counted(server, "slow_client_closed") == 1, "counted")

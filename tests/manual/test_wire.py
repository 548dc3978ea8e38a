"""Runs the client of ``docs/wire.rst`` against a real server."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.gauges import wait_until
from tests.manual import python
from tests.services import Proxy, proxy_to
from tests.support import LOCAL, Server


class Reader:
    """The client of the page in a thread.

    Attributes:
        client: the client.
        messages: the messages of groups until now, ``None`` for a gap.
        connections: how many sockets it has opened.
        error: the exception that ended it.
    """

    def __init__(self, port: int, path: str) -> None:
        namespace: dict[str, Any] = {"__name__": "client"}
        (block,) = python("wire.rst")
        exec(block, namespace)
        self.client = namespace["Client"](f"ws://127.0.0.1:{port}{path}", **LOCAL)
        self.messages: list[Any] = []
        self.connections = 0
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        try:
            for group, message in self.client.messages():
                if group is not None:
                    self.messages.append(message)
                else:
                    self.connections += 1  # the view's first message
        except (ConnectionClosed, ValueError) as error:
            self.error = error

    @property
    def has_position(self) -> bool:
        """Whether the client has a position."""
        return bool(self.client.positions)


@pytest.fixture(scope="module")
def server(start_lasting_server: Callable[..., Server]) -> Server:
    """A server with histories: short ones of groups named few, long ones of all others."""
    settings = {
        "WEBSOCKET_HISTORY": {
            "few": {"messages": 5, "seconds": 600},
            "*": {"messages": 1000, "seconds": 600},
        },
        "WEBSOCKET_DRAIN_SECONDS": 0.5,
    }
    return start_lasting_server("own", "-w", "2", env={"TEST_SETTINGS": json.dumps(settings)})


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A proxy in front of the server."""
    with proxy_to(server.port) as proxy:
        yield proxy


@contextmanager
def away(proxy: Proxy) -> Iterator[None]:
    """Cut the connection; the client's next handshake waits until the end of the block."""
    proxy.black_hole()
    proxy.cut()
    yield
    proxy.heal()


def test_nothing_is_missed(server: Server, proxy: Proxy) -> None:
    """After cuts and restarts, the client gets each message once, in order, and no gap."""
    reader = Reader(proxy.port, "/events/room/wire/")
    wait_until(lambda: reader.has_position, "there is no welcome")
    sent: list[str] = []

    def send(count: int) -> None:
        for _ in range(count):
            sent.append(str(len(sent)))
            server.get(f"/tell/?group=wire&say={sent[-1]}")

    def has_all() -> bool:
        return len(reader.messages) >= len(sent)

    for _ in range(3):
        send(10)
        wait_until(has_all, "messages are missing")
        with away(proxy):
            send(10)
    wait_until(has_all, "messages are missing after a cut")
    workers = server.workers
    server.signal(signal.SIGHUP)
    while {*workers} & {*server.workers}:
        send(1)
    send(10)
    wait_until(has_all, "messages are missing after a deploy")
    assert [message.split()[1] for message in reader.messages] == sent
    assert reader.error is None
    assert reader.connections >= 5


def test_gap(server: Server, proxy: Proxy) -> None:
    """The client reports a gap if more messages were sent than are kept, and then continues."""
    reader = Reader(proxy.port, "/events/room/few/")
    wait_until(lambda: reader.has_position, "there is no welcome")
    with server.connect("/events/room/few/") as sender:
        sender.send("before")
        wait_until(lambda: reader.messages, "no message arrives")
        with away(proxy):
            for _ in range(10):
                server.get("/tell/?group=few&say=meanwhile")
        wait_until(lambda: len(reader.messages) > 1, "there is no gap")
        sender.send(b"\x00after")
        wait_until(lambda: len(reader.messages) > 2, "no message arrives after the gap")
    assert reader.messages == ["before", None, b"\x00after"]


def test_copy(server: Server, proxy: Proxy) -> None:
    """A client whose copy has taken over its id returns without it, and keeps its positions."""
    reader = Reader(proxy.port, "/events/room/copy/")
    wait_until(lambda: reader.has_position, "there is no welcome")
    first_id = reader.client.signed_id
    with (
        server.connect("/events/room/copy/", subprotocols=reader.client.offer()),
        server.connect("/events/room/copy/") as sender,
    ):
        wait_until(lambda: reader.client.signed_id not in (first_id, None), "no new id is given")
        sender.send("hello")
        wait_until(lambda: reader.messages, "no message arrives")
    assert reader.messages == ["hello"]


@pytest.mark.parametrize(
    ("path", "kind"), [("/closing/4000/over/", ConnectionClosed), ("/subprotocol/", ValueError)]
)
def test_final(server: Server, path: str, kind: type[Exception]) -> None:
    """The client does not return after a code that is final, or to an ordinary socket."""
    reader = Reader(server.port, path)
    wait_until(lambda: reader.error, "the client returns")
    assert isinstance(reader.error, kind)

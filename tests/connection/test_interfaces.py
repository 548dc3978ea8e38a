"""The hooks of the framework, and the defaults of the optional ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django_wsmux.connection.interfaces import DefaultHooks
from django_wsmux.connection.websocket import WebSocket
from django_wsmux.protocol.frames import PING, TEXT, encode
from django_wsmux.protocol.prepared import PreparedMessage
from tests.support import frame

from .conftest import Hooks


class Telling(Hooks):
    """Hooks that send something in each place where they may."""

    def __init__(self) -> None:
        self.closings: list[int] = []

    def opened(self, websocket: Any) -> None:
        """Greet the client."""
        websocket.send("welcome")

    def closing(self, websocket: Any, code: int) -> None:
        """Say goodbye to the client."""
        self.closings.append(code)
        websocket.send("bye")

    def heartbeat(self, websocket: Any) -> bytes:
        """Return a frame to send with the ping."""
        return encode(TEXT, b"{}")


def test_opened_comes_first(connect: Callable[..., Any]) -> None:
    """opened() sends before the messages of connect() and of groups."""
    pair = connect(Telling())
    pair.websocket.send("own")
    pair.websocket.deliver(PreparedMessage(TEXT, b"group"))
    assert pair.sent == b""
    pair.open()
    assert pair.sent == b"101 \x81\x07welcome\x81\x03own\x81\x05group"


def test_closing(connect: Callable[..., Any]) -> None:
    """closing() sends once, right before a close frame of ours, whatever the cause."""
    for close, code in (
        (WebSocket.close, 1000),
        (lambda websocket: websocket.close_from_group(1012, ""), 1012),
        (lambda websocket: websocket.data_received(b"\xff" * 9, 9), 1002),
    ):
        hooks = Telling()
        pair = connect(hooks)
        pair.open()
        assert pair.sent
        close(pair.websocket)
        sent = pair.sent
        assert sent.startswith(b"\x81\x03bye\x88")
        assert int.from_bytes(sent[7:9], "big") == code
        pair.websocket.close()
        assert hooks.closings == [code]


def test_peer_closes(connect: Callable[..., Any]) -> None:
    """closing() is not called before the answer to the peer's close frame."""
    hooks = Telling()
    pair = connect(hooks)
    pair.open()
    assert pair.sent
    pair.transport.feed(frame(0x88, b"\x03\xe8"))
    assert pair.sent == b"\x88\x02\x03\xe8"
    assert not hooks.closings


def test_heartbeat(connect: Callable[..., Any]) -> None:
    """The heartbeat is sent in one write with the keepalive's ping, and with no other ping."""
    pair = connect(Telling())
    pair.open()
    writes: list[bytes] = []
    assert pair.sent
    pair.client.data_received = writes.append
    pair.websocket.send_keepalive_ping()
    pair.websocket.ping(b"mine")
    assert len(writes) == 2
    assert writes[0].startswith(encode(TEXT, b"{}") + b"\x89\x04")
    assert writes[1] == encode(PING, b"mine")


class Dropping(Hooks):
    """Hooks that record the positions of dropped messages."""

    def __init__(self) -> None:
        self.dropped: list[str] = []

    def group_dropped(self, websocket: Any, message: PreparedMessage) -> None:
        """Record the position."""
        self.dropped.append(message.position)


def test_dropped(connect: Callable[..., Any]) -> None:
    """group_dropped() is called for numbered messages only, and only if the socket stays open."""
    hooks = Dropping()
    pair = connect(hooks, close_slow_clients=False, max_unsent_bytes=10)
    for position in ("a.1-1", "a.1-2", ""):
        pair.websocket.deliver(PreparedMessage(TEXT, b"x" * 1000, "room", position))
    assert hooks.dropped == ["a.1-2"]
    other = connect(Dropping(), max_unsent_bytes=10)
    for position in ("a.1-1", "a.1-2"):
        other.websocket.deliver(PreparedMessage(TEXT, b"x" * 1000, "room", position))
    assert other.websocket.hooks.dropped == []


def test_group_defaults() -> None:
    """The default hooks do nothing for numbered groups."""
    hooks, message = DefaultHooks(), PreparedMessage(TEXT, b"x", "room", "a.1-1")
    hooks.group_joined(None, "room", None, "a.1-1", None)
    hooks.group_left(None, "room")
    hooks.group_gap(None, "room", "a.1-1")
    hooks.group_dropped(None, message)
    hooks.group_handled(None, message)


def test_defaults(connect: Callable[..., Any]) -> None:
    """The default hooks send nothing."""
    pair = connect()
    pair.open()
    pair.websocket.send_keepalive_ping()
    pair.websocket.close()
    sent = pair.sent
    assert sent[:6] == b"101 \x89\x04"
    assert sent[10:] == b"\x88\x02\x03\xe8"

"""What a framework adds to a connection, and the defaults of what it may leave out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django_wsmux.connection.websocket import WebSocket
from django_wsmux.protocol.frames import PING, TEXT, encode
from django_wsmux.protocol.prepared import PreparedMessage
from tests.support import frame

from .conftest import Hooks


class Telling(Hooks):
    """Sends something wherever it may."""

    def __init__(self) -> None:
        self.closings: list[int] = []

    def opened(self, websocket: Any) -> None:
        """Greet the client."""
        websocket.send("welcome")

    def closing(self, websocket: Any, code: int) -> None:
        """Take leave of it."""
        self.closings.append(code)
        websocket.send("bye")

    def heartbeat(self, websocket: Any) -> bytes:
        """Return something beside the ping."""
        return encode(TEXT, b"{}")


def test_opened_comes_first(connect: Callable[..., Any]) -> None:
    """Before what the view sent in connect(), and before what its groups sent."""
    pair = connect(Telling())
    pair.websocket.send("own")
    pair.websocket.deliver(PreparedMessage(TEXT, b"group"))
    assert pair.sent == b""
    pair.open()
    assert pair.sent == b"101 \x81\x07welcome\x81\x03own\x81\x05group"


def test_closing(connect: Callable[..., Any]) -> None:
    """Right before a close frame of ours, whoever asks for it, and once."""
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
    """An answer to the peer's close frame has nothing before it."""
    hooks = Telling()
    pair = connect(hooks)
    pair.open()
    assert pair.sent
    pair.transport.feed(frame(0x88, b"\x03\xe8"))
    assert pair.sent == b"\x88\x02\x03\xe8"
    assert not hooks.closings


def test_heartbeat(connect: Callable[..., Any]) -> None:
    """It goes out in one write with the keepalive's ping, and with no other ping."""
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


def test_defaults(connect: Callable[..., Any]) -> None:
    """A framework without these sends nothing of its own."""
    pair = connect()
    pair.open()
    pair.websocket.send_keepalive_ping()
    pair.websocket.close()
    sent = pair.sent
    assert sent[:6] == b"101 \x89\x04"
    assert sent[10:] == b"\x88\x02\x03\xe8"

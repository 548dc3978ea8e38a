"""Holding: replays are sent before held messages, as fast as the peer accepts them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django_wsmux.protocol.frames import TEXT, encode
from django_wsmux.protocol.prepared import PreparedMessage


def text(payload: bytes) -> PreparedMessage:
    """Return a message of a group."""
    return PreparedMessage(TEXT, payload)


def never(message: PreparedMessage) -> bool:
    """Return that no message is repeated."""
    return False


def test_order(connect: Callable[..., Any]) -> None:
    """The order before the 101: messages of the view, the replay, messages of groups."""
    pair = connect()
    websocket = pair.websocket
    websocket.hold()
    websocket.deliver(text(b"live"))
    websocket.replay([text(b"1"), text(b"2")], never)
    websocket._send_later(lambda: websocket.send("own"), 3)
    websocket.release()
    pair.open()
    frames = [encode(TEXT, each) for each in (b"own", b"1", b"2", b"live")]
    assert pair.sent == b"101 " + b"".join(frames)


def test_repeated(connect: Callable[..., Any]) -> None:
    """Held messages that a replay repeats are discarded."""
    pair = connect()
    pair.open()
    websocket = pair.websocket
    websocket.hold()
    websocket.deliver(text(b"1"))
    websocket.deliver(text(b"2"))
    websocket.replay([text(b"1")], lambda message: message.payload == b"1")
    websocket.release()
    assert pair.sent == b"101 " + encode(TEXT, b"1") + encode(TEXT, b"2")


def test_as_fast_as_the_peer(connect: Callable[..., Any]) -> None:
    """A replay continues once the unsent bytes are half of their limit; live messages follow it."""
    pair = connect(max_unsent_bytes=1000)
    pair.open()
    websocket, transport = pair.websocket, pair.transport
    assert pair.sent == b"101 "
    transport.unsent = 501
    websocket.hold()
    websocket.replay([text(b"1"), text(b"2")], never)
    websocket.release()
    websocket.deliver(text(b"3"))
    assert pair.sent == b""
    transport.unsent = 500
    websocket.progressed()
    frames = [encode(TEXT, each) for each in (b"1", b"2", b"3")]
    assert pair.sent.startswith(frames[0])
    transport.unsent = 0
    websocket.drained()
    assert websocket._held is None


def test_held_back_as_fast_as_the_peer(connect: Callable[..., Any]) -> None:
    """Held messages are sent like the replay, so the client does not count as too slow."""
    pair = connect(max_unsent_bytes=1000)
    pair.open()
    websocket, transport = pair.websocket, pair.transport
    assert pair.sent == b"101 "
    transport.unsent = 501
    websocket.hold()
    websocket.deliver(text(b"1"))
    websocket.release()
    assert pair.sent == b""
    websocket.deliver(text(b"2"))
    transport.unsent = 0
    websocket.drained()
    assert pair.sent == encode(TEXT, b"1") + encode(TEXT, b"2")
    assert not websocket.is_held


def test_slow_beyond_the_replay(connect: Callable[..., Any]) -> None:
    """A client that also falls behind after the replay is a slow client."""
    pair = connect(max_unsent_bytes=1000)
    pair.open()
    websocket = pair.websocket
    pair.transport.unsent = 501
    websocket.hold()
    websocket.replay([text(b"x" * 5000)] * 3, never)
    websocket.release()
    websocket.deliver(text(b"y" * 600))
    assert not websocket.closed
    websocket.deliver(text(b"y" * 600))
    pair.transport.unsent = 0
    websocket.drained()
    assert websocket.close_code == 1013


def test_discarded(connect: Callable[..., Any]) -> None:
    """The waiting messages of a group can be discarded, also from the replay."""
    pair = connect()
    pair.open()
    websocket = pair.websocket
    websocket.hold()
    websocket.deliver(text(b"live"))
    websocket.replay([text(b"1")], never)
    websocket.discard_held(lambda message: True)
    websocket.release()
    assert pair.sent == b"101 "


def test_closed_meanwhile(connect: Callable[..., Any]) -> None:
    """A replay to a closed socket does nothing."""
    pair = connect()
    pair.open()
    websocket = pair.websocket
    websocket.hold()
    websocket.close()
    websocket.replay([text(b"1")], never)
    websocket.discard_held(never)
    websocket.release()
    assert pair.sent == b"101 \x88\x02\x03\xe8"

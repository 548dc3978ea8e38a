"""Messages that a socket holds back: before the 101, and until it is released."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django_wsmux.connection.held import Held, weight
from django_wsmux.protocol.frames import TEXT
from django_wsmux.protocol.prepared import PreparedMessage


def text(payload: bytes) -> PreparedMessage:
    """Return a message of a group."""
    return PreparedMessage(TEXT, payload)


def test_messages_within_a_limit() -> None:
    """The first message is kept whatever its size, others only if there is room."""
    held = Held(depth=1)
    large, small = text(b"x" * 1000), text(b"")
    assert held.add(large, 10)
    assert not held.add(small, weight(large) + weight(small) - 1)
    assert held.add(small, weight(large) + weight(small))
    assert held.messages == [large, small]


def test_slices_of_a_replay() -> None:
    """A slice ends with the message that reaches the limit; the last one is what is left."""
    held = Held(depth=1)
    messages = [text(b"x" * size) for size in (3, 4, 5, 6)]
    held.replays.extend(messages)
    assert held.take(0) == messages[:1]
    assert held.take(8) == messages[1:3]
    assert held.take(100) == messages[3:]
    assert held.take(100) == []


def test_own_within_a_limit() -> None:
    """Messages of the view are kept until more than the limit waits."""
    held = Held(depth=1)
    assert held.postpone(lambda: None, 1000, 10)
    assert not held.postpone(lambda: None, 0, 10)
    assert len(held.acts) == 1


def test_nested(connect: Callable[..., Any]) -> None:
    """The last release sends the messages in order, before and after the 101."""
    pair = connect()
    websocket = pair.websocket
    websocket.hold()
    websocket.deliver(text(b"1"))
    pair.open()
    assert pair.sent == b"101 "
    websocket.hold()
    websocket.deliver(text(b"2"))
    websocket.release()
    assert pair.sent == b""
    websocket.deliver(text(b"3"))
    websocket.release()
    websocket.deliver(text(b"4"))
    assert pair.sent == b"\x81\x011\x81\x012\x81\x013\x81\x014"


def test_held_again(connect: Callable[..., Any]) -> None:
    """A superfluous release does nothing, not even to the next hold."""
    pair = connect()
    pair.open()
    pair.websocket.release()
    pair.websocket.hold()
    pair.websocket.deliver(text(b"1"))
    assert pair.sent == b"101 "
    pair.websocket.release()
    assert pair.sent == b"\x81\x011"
    assert pair.websocket._held is None


def test_closed_by_a_group(connect: Callable[..., Any]) -> None:
    """Before the 101, a close waits behind the messages; later messages are not kept."""
    pair = connect()
    pair.websocket.deliver(text(b"1"))
    pair.websocket.close_from_group(4000, "")
    pair.websocket.deliver(text(b"2"))
    pair.open()
    assert pair.sent == b"101 \x81\x011\x88\x02\x0f\xa0"


def test_closed_while_held(connect: Callable[..., Any]) -> None:
    """Waiting messages are dropped for good when the socket closes."""
    pair = connect()
    pair.open()
    pair.websocket.hold()
    pair.websocket.deliver(text(b"1"))
    pair.websocket.close()
    pair.websocket.hold()
    pair.websocket.release()
    pair.websocket.release()
    assert pair.sent == b"101 \x88\x02\x03\xe8"

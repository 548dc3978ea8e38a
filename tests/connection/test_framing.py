"""Frames of a socket with and without a negotiated framing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django_wsmux.connection.framing import PLAIN
from django_wsmux.protocol.deflate import Compression
from django_wsmux.protocol.frames import TEXT, encode
from django_wsmux.protocol.prepared import PreparedMessage, SingleMessage


class Telling:
    """Puts its origin before each message; counts the messages that it encodes."""

    threshold = 0

    def __init__(self, key: str | None) -> None:
        self.key = key
        self.encoded = 0

    def encode(self, prepared: SingleMessage, group: str, position: str) -> bytes:
        """Return a frame of the message with its origin."""
        self.encoded += 1
        return encode(TEXT, f"{group}/{position}:".encode() + prepared.payload)


def test_plain(connect: Callable[..., Any]) -> None:
    """By default, all sockets share one frame of a group message."""
    pair = connect()
    pair.open()
    assert pair.websocket._framing is PLAIN
    message = PreparedMessage(TEXT, b"hello", "room", "a-1")
    assert PLAIN.encode(message, "room", "a-1") == message.plain
    pair.websocket.deliver(message)
    assert pair.sent == b"101 \x81\x05hello"


def test_own_framing(connect: Callable[..., Any]) -> None:
    """Messages of groups and of the view use the framing of the socket."""
    pair, framing = connect(), Telling("a")
    pair.websocket._framing = framing
    pair.open()
    pair.websocket.deliver(PreparedMessage(TEXT, b"1", "room", "a-1"))
    pair.websocket.send("2")
    pair.websocket.send(b"")
    assert pair.sent == b"101 \x81\x0aroom/a-1:1\x81\x03/:2\x81\x02/:"
    assert pair.websocket.traffic[2:] == (3, 12 + 5 + 4)


def test_compression_is_one(connect: Callable[..., Any]) -> None:
    """Sockets with the same compression share a frame; short messages stay plain."""
    pairs = [connect(compression=Compression(threshold=10)) for _ in range(2)]
    for pair in pairs:
        assert pair.websocket.negotiate("permessage-deflate")
        pair.open()
    long, short = PreparedMessage(TEXT, b"x" * 100), PreparedMessage(TEXT, b"x" * 9)
    for message in (long, short):
        for pair in pairs:
            pair.websocket.deliver(message)
    one, two = (pair.sent for pair in pairs)
    assert one == two
    assert one.startswith(b"101 \xc1")
    assert one.endswith(b"\x81\x09xxxxxxxxx")
    assert len(long._forms) == 1
    assert not short._forms

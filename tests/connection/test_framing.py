"""Frames of a socket with and without a negotiated framing."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from django_wsmux.connection import client_ids
from django_wsmux.connection.framing import PLAIN, V1
from django_wsmux.protocol.deflate import Compression
from django_wsmux.protocol.frames import TEXT, encode
from django_wsmux.protocol.prepared import JSON, PreparedMessage, SingleMessage

from .conftest import Hooks


class Dumping(Hooks):
    """Hooks that can dump JSON."""

    dump_json = staticmethod(json.dumps)


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


def test_v1_is_encoded_once(connect: Callable[..., Any]) -> None:
    """A message is encoded once for all sockets of wsmux.v1, and once for each other name."""
    pairs = [connect() for _ in range(5)]
    for pair in pairs[:4]:
        pair.websocket.use_v1()
    for pair in pairs[2:4]:
        pair.websocket.name_group("room", "ours")
    message = PreparedMessage(JSON, b"1", "room", "a.1-1")
    for pair in pairs:
        pair.open()
        pair.websocket.deliver(message)
    own, named = b'{"at":"a.1-1","in":"room","data":1}', b'{"at":"a.1-1","in":"ours","data":1}'
    sent = [pair.sent.removeprefix(b"101 ") for pair in pairs]
    assert sent == [*(b"\x81\x23" + each for each in (own, own, named, named)), b"\x81\x011"]
    assert len(message._forms) == 2


def test_v1_other_groups(connect: Callable[..., Any]) -> None:
    """A socket that sees one group under another name sees the others as usual."""
    pair = connect(Dumping())
    pair.websocket.use_v1()
    pair.websocket.name_group("room", "ours")
    pair.open()
    assert pair.sent
    pair.websocket.deliver(PreparedMessage(TEXT, b"x", "@user:12"))
    pair.websocket.send_json({"n": 1})
    pair.websocket.send("x")
    pair.websocket.send_bare("{}")
    assert pair.sent == (
        b'\x81\x19{"in":"@user","text":"x"}'
        + b'\x81\x11{"data":{"n": 1}}'
        + b'\x81\x0c{"text":"x"}'
        + b"\x81\x02{}"
    )


@pytest.mark.parametrize("takeover", [False, True])
def test_v1_compressed(connect: Callable[..., Any], takeover: bool) -> None:
    """The payload of a frame is compressed as a whole; the state of each stream is kept."""
    compression = Compression(threshold=50, context_takeover=takeover)
    pairs = [connect(compression=compression) for _ in range(2)]
    message = PreparedMessage(TEXT, b"x" * 40, "room", "a.1-1")
    for pair in pairs:
        assert pair.websocket.negotiate("permessage-deflate")
        pair.websocket.use_v1()
        pair.open()
        assert pair.sent == b"101 "
        pair.websocket.deliver(message)
        pair.websocket.deliver(PreparedMessage(TEXT, b"x", "room"))
    one, two = (pair.sent for pair in pairs)
    assert one == two
    assert one.startswith(b"\xc1")
    assert one.endswith(b'\x81\x18{"in":"room","text":"x"}')
    assert len(message._forms) == (0 if takeover else 1)


def test_v1_memory(connect: Callable[..., Any]) -> None:
    """A socket with wsmux.v1 takes at most 200 bytes more."""
    sockets = [connect().websocket for _ in range(2000)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for websocket in sockets:
            websocket.use_v1()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    for websocket in sockets:
        client_ids.leave(websocket.client_id, websocket)
    assert isinstance(sockets[0]._framing, V1)
    assert taken / len(sockets) <= 200


def test_plain_is_free(connect: Callable[..., Any]) -> None:
    """A socket without wsmux.v1 has no id until its first use."""
    pair = connect()
    assert pair.websocket.known_client_id is None
    pair.websocket.name_group("room", "ours")
    assert pair.websocket.name_of_group("room") == "room"
    assert pair.websocket._framing is PLAIN

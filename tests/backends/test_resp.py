"""Parsing of Redis replies, in any pieces, compared with redis-py."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_wsmux.backends.resp import Replies, RespError, command


def push(kind: bytes, channel: bytes, payload: bytes) -> bytes:
    """Return a publication as the server sends it: an array, like a command."""
    return command(kind, channel, payload)


STREAM = (
    push(b"message", b"room", b"one\r\n")
    + b"*3\r\n$9\r\nsubscribe\r\n$4\r\nroom\r\n:1\r\n"
    + push(b"smessage", b"room", b"")
    + b"+PONG\r\n:-7\r\n$-1\r\n-MOVED 1 a:2\r\n*2\r\n$4\r\npong\r\n$0\r\n\r\n*0\r\n"
    + push(b"message", b"x" * 300, bytes(range(256)) * 3)
)
MESSAGES = [b"one\r\n", b"", bytes(range(256)) * 3]
OTHERS = [[b"subscribe", b"room", 1], b"PONG", -7, None, "MOVED 1 a:2", [b"pong", b""], []]


def read(pieces: list[bytes]) -> tuple[list[bytes], list[object]]:
    """Feed the pieces; return all replies, errors as text."""
    replies = Replies()
    messages: list[bytes] = []
    others: list[object] = []
    for piece in pieces:
        found = replies.feed(piece)
        messages += found[0]
        others += [str(reply) if isinstance(reply, RespError) else reply for reply in found[1]]
    return messages, others


@given(st.lists(st.integers(0, len(STREAM))))
def test_pieces(cuts: list[int]) -> None:
    """The result does not depend on the pieces."""
    edges = sorted({0, len(STREAM), *cuts})
    pieces = [STREAM[start:end] for start, end in itertools.pairwise(edges)]
    assert read(pieces) == (MESSAGES, OTHERS)


def test_byte_by_byte() -> None:
    """Single bytes work too."""
    assert read([STREAM[index : index + 1] for index in range(len(STREAM))]) == (MESSAGES, OTHERS)


def test_large() -> None:
    """A large message in small pieces is not copied or scanned for each of them."""
    payload = b"x" * 20_000_000
    data = push(b"message", b"room", payload)
    replies = Replies()
    for start in range(0, len(data) - 4096, 4096):
        assert replies.feed(data[start : start + 4096]) == ([], [])
    last = (len(data) - 4097) // 4096 * 4096 + 4096
    assert replies.feed(data[last:]) == ([payload], [])


def test_not_resp() -> None:
    """Input that is not RESP 2 is an error that says so."""
    with pytest.raises(ValueError, match="not RESP 2"):
        Replies().feed(b"%1\r\n+a\r\n+b\r\n")
    with pytest.raises(ValueError, match="not RESP 2"):
        Replies().feed(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_command() -> None:
    """Commands are arrays of bulk strings."""
    assert command(b"PUBLISH", b"a", b"\r\n") == b"*3\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n$2\r\n\r\n\r\n"

"""Packets: encoding and decoding."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_wsmux.backends.packets import (
    MAX_CHANNEL,
    VERSION,
    Kind,
    UnreadablePacket,
    pack,
    split,
    unpack,
)

SENDER = bytes(range(16))


@given(
    st.sampled_from(Kind), st.text(max_size=200), st.binary(max_size=300), st.integers(0, 2**64 - 1)
)
def test_round_trip(kind: Kind, channel: str, payload: bytes, number: int) -> None:
    """A packet survives a round trip; head and payload make the whole."""
    data = pack(kind, SENDER, channel, payload, number)
    assert unpack(data) == (kind, SENDER, channel, payload, number)
    head, rest = split(data)
    assert (head + rest, rest) == (data, payload)


def test_layout() -> None:
    """The bytes stay the same: other releases rely on them."""
    head = b"\x03\x01" + SENDER + bytes(6) + b"\x01\x02"
    packet = pack(Kind.MESSAGE, SENDER, "é", b"p", 0x102)
    assert packet == head + b"\x00\x02\xc3\xa9p"


@given(st.binary(max_size=60))
def test_anything(data: bytes) -> None:
    """Any bytes are a packet or unreadable; there is no other error."""
    try:
        packet = unpack(data)
    except UnreadablePacket:
        return
    assert data[0] == VERSION
    assert data.endswith(packet.payload)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "version none"),
        (b"\x01" + pack(Kind.MESSAGE, SENDER, "a", b"")[1:], "version 1; this release reads"),
        (b"\x04" + pack(Kind.MESSAGE, SENDER, "a", b"")[1:], "version 4; this release reads"),
        (pack(Kind.MESSAGE, SENDER, "abc", b"")[:-1], "within its header"),
        (pack(Kind.MESSAGE, SENDER, "a", b"")[:5], "28 bytes"),
        (b"\x03\x01" + SENDER + bytes(8) + b"\x00\x01\xff", "utf-8"),
    ],
)
def test_unreadable(data: bytes, problem: str) -> None:
    """The error gives the reason."""
    with pytest.raises(UnreadablePacket, match=problem):
        unpack(data)


def test_long_name() -> None:
    """A name that is too long is refused; the longest is not."""
    assert unpack(pack(Kind.MESSAGE, SENDER, "x" * MAX_CHANNEL, b"p")).payload == b"p"
    with pytest.raises(ValueError, match="at most 2048 bytes, not 2049"):
        pack(Kind.MESSAGE, SENDER, "x" * 2049, b"")

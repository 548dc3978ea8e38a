"""Envelopes: encoding, decoding, and fields of later releases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_wsmux.groups.envelope import (
    NUMBERED,
    PREFIX,
    TRACEPARENT,
    Envelope,
    UnreadableEnvelope,
    excluding,
    pack,
    traced,
    unpack,
)

# A kind is never the first byte of a numbered envelope.
KINDS = st.integers(0, 255).filter(lambda kind: kind != NUMBERED)
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=300)


@given(KINDS, ANY_TEXT, st.binary(max_size=300), st.text(max_size=200))
def test_round_trip(opcode: int, name: str, data: bytes, prefix: str) -> None:
    """Name and prefix of any length and language survive a round trip."""
    envelope = unpack(pack(opcode, name, data, prefix))
    assert (envelope.kind, envelope.name, envelope.data) == (opcode, name, data)
    assert envelope.prefix == prefix


def test_layout() -> None:
    """The bytes stay the same: other releases rely on them."""
    assert pack(1, "é", b"d") == b"\x01\x00\x00\x00\x00\x02\xc3\xa9d"
    assert pack(1, "a", b"d", "p") == b"\x01\x01\x00\x00\x00\x01a\x01\x00\x00\x00\x01pd"


def test_unknown_field() -> None:
    """A field of a later release is kept, and the known fields beside it are read."""
    later = b"\xc8\x00\x00\x00\x03new"
    packed = pack(2, "a", b"d", "p")
    envelope = unpack(b"\x02\x02" + packed[2:7] + later + packed[7:])
    assert envelope == Envelope(2, "a", b"d", {200: b"new", PREFIX: b"p"})


@given(
    st.text(max_size=20),
    st.binary(max_size=50),
    st.text(max_size=20),
    st.dictionaries(st.integers(5, 255), st.binary(max_size=50), max_size=254),
)
def test_passed_on(name: str, data: bytes, prefix: str, fields: dict[int, bytes]) -> None:
    """Fields that this release does not know survive, and so does the order of all."""
    payload = pack(1, name, data, prefix, fields)
    envelope = unpack(payload)
    assert envelope.prefix == prefix
    assert envelope.fields == ({PREFIX: prefix.encode()} if prefix else {}) | fields
    assert pack(envelope.kind, envelope.name, envelope.data, fields=envelope.fields) == payload


@given(st.binary(max_size=60))
def test_anything(data: bytes) -> None:
    """Any bytes are an envelope or unreadable; there is no other error."""
    try:
        envelope = unpack(data)
    except UnreadableEnvelope:
        return
    assert data.endswith(envelope.data)


@pytest.mark.parametrize("size", range(13))
def test_cut_short(size: int) -> None:
    """A truncated envelope is not taken for a shorter one."""
    whole = pack(1, "a", b"", "p")
    assert len(whole) == 13
    with pytest.raises(UnreadableEnvelope):
        unpack(whole[:size])


def test_trace() -> None:
    """The trace context of the sender is a field beside others, and damage is harmless."""
    fields = traced(excluding(["a"]), "00-a-b-01")
    envelope = unpack(pack(1, "a", b"d", "p", fields))
    assert (envelope.traceparent, envelope.excluded, envelope.prefix) == ("00-a-b-01", ("a",), "p")
    assert unpack(pack(1, "a", b"d")).traceparent == ""
    assert unpack(pack(1, "a", b"d", fields={TRACEPARENT: b"\xff"})).traceparent == "\ufffd"

"""The state of a codec: another one goes on where the first one was."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_wsmux.protocol import codec as codec_module
from django_wsmux.protocol.codec import Codec
from django_wsmux.protocol.deflate import Compression, negotiate
from django_wsmux.protocol.events import CannotMove, Control
from django_wsmux.protocol.frames import BINARY, CLOSE, CONTINUATION, TEXT
from django_wsmux.protocol.rate_limit import RateLimitedCodec

from .test_codec import LIMIT, Message, frame, receive
from .test_codec_streams import Talk, cut, cuts, quick, streams, talks

pytestmark = pytest.mark.usefixtures("unmasking")

COMPRESSION = Compression()


def moved(codec: Codec, messages: list[Message]) -> tuple[Codec, list[Control]]:
    """Return a codec that goes on, and the control frames that it finds at once."""
    unread, state = codec.state()
    other = Codec(LIMIT)
    other.restore(json.loads(json.dumps(state)), COMPRESSION)
    return other, other.receive(unread, messages) if unread else []


def receive_moving(pieces: Iterable[bytes]) -> tuple[list[Message], list[Control]]:
    """Return messages and control frames, from a new codec for each piece."""
    codec, messages, controls = Codec(LIMIT), list[Message](), list[Control]()
    for piece in pieces:
        whole = codec.decode_single_frame(piece, len(piece))
        if whole is not None:
            messages.append(whole)
            continue
        controls += codec.receive(piece, messages)
        if codec._finished:
            break
        codec, more = moved(codec, messages)
        controls += more
    return messages, controls


class TestAnyCut:
    """A move between two bytes makes no difference."""

    @quick
    @given(talks(), cuts)
    def test_valid(self, talk: Talk, at: list[int]) -> None:
        """A valid stream, moved now and then, and after each byte."""
        stream, *expected = talk
        for pieces in (cut(stream, at), cut(stream, range(len(stream)))):
            assert receive_moving(pieces) == tuple(expected)

    @quick
    @given(streams, cuts)
    def test_arbitrary(self, stream: bytes, at: list[int]) -> None:
        """Any bytes come to the same end."""
        assert receive_moving(cut(stream, at)) == receive(stream)

    @quick
    @given(talks(), st.lists(st.integers(0, 2**16), max_size=2))
    def test_large(self, talk: Talk, at: list[int]) -> None:
        """Also in the middle of a frame that has a buffer of its own."""
        stream, *expected = talk
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(codec_module, "LARGE", 64)
            assert receive_moving(cut(stream, at)) == tuple(expected)


def test_nothing_under_way() -> None:
    """Between two messages there is nothing unread, and the quick way stays open."""
    codec, messages = Codec(LIMIT), list[Message]()
    codec.receive(frame(TEXT, b"a"), messages)
    assert codec.state()[0] == b""
    other, _ = moved(codec, messages)
    single = frame(TEXT, b"b")
    assert other.decode_single_frame(single, len(single)) == "b"


def test_suspended() -> None:
    """What waits until there is room goes along unparsed."""
    codec, messages = Codec(LIMIT, None, 10, 1), list[Message]()
    codec.receive(b"".join(frame(TEXT, each) for each in (b"a", b"b", b"c")), messages)
    assert codec.is_suspended
    assert messages == ["a"]
    moved(codec, messages)
    assert messages == ["a", "b", "c"]


def test_limits_go_on() -> None:
    """Fragments and bytes before the move count towards the limits after it."""
    codec, messages = Codec(LIMIT), list[Message]()
    codec.receive(frame(TEXT, b"x" * 200, fin=False), messages)
    other, _ = moved(codec, messages)
    failure = other.receive(frame(CONTINUATION, b"x" * 101), messages)[-1]
    assert getattr(failure, "code", None) == 1009
    assert not messages


def test_compression() -> None:
    """What was agreed on goes along, between messages."""
    agreed = negotiate("permessage-deflate", COMPRESSION)
    assert agreed is not None
    codec, messages = Codec(LIMIT), list[Message]()
    codec.deflate = agreed[1]
    stream = zlib.compressobj(wbits=-15)
    data = (stream.compress(b"hello") + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]
    whole = bytes((0x40 | frame(TEXT, data)[0],)) + frame(TEXT, data)[1:]
    codec.receive(whole[:5], messages)
    other, _ = moved(codec, messages)
    assert other.deflate == agreed[1]
    other.receive(whole[5:], messages)
    assert messages == ["hello"]


def test_cannot_move() -> None:
    """A compressed message under way, a context, and an end stay where they are."""
    for compression in (COMPRESSION, Compression(context_takeover=True)):
        agreed = negotiate("permessage-deflate", compression)
        assert agreed is not None
        codec = Codec(LIMIT)
        codec.deflate = agreed[1]
        if compression is COMPRESSION:
            codec.state()
            part = frame(BINARY, b"\x00", fin=False)
            codec.receive(bytes((0x40 | part[0],)) + part[1:], [])
        with pytest.raises(CannotMove, match="compress"):
            codec.state()
    codec = Codec(LIMIT)
    codec.receive(frame(CLOSE), [])
    with pytest.raises(CannotMove, match="closing"):
        codec.state()


def test_rate() -> None:
    """A peer cannot send more by being moved; a codec that did not count knows of nothing."""
    codec = RateLimitedCodec(1, LIMIT)
    assert not codec.receive(frame(TEXT) * 2, [])
    unread, state = codec.state()
    other = RateLimitedCodec(1, LIMIT)
    other.restore(json.loads(json.dumps(state)), COMPRESSION)
    assert other.receive(unread + frame(TEXT) * 2, [])
    fresh = RateLimitedCodec(1, LIMIT)
    fresh.restore(Codec(LIMIT).state()[1], COMPRESSION)
    assert not fresh.receive(frame(TEXT) * 2, [])

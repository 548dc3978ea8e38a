"""After a failure, the peer's close frame is still found in the rest of the stream."""

from __future__ import annotations

import pytest

from django_wsmux.protocol.codec import Codec
from django_wsmux.protocol.events import Failure
from django_wsmux.protocol.rate_limit import RateLimitedCodec
from tests.support import frame

LIMIT = 1000

CLOSE = frame(0x88, (1009).to_bytes(2, "big"))

#: Bytes that may come between a failure and the peer's close frame.
MORE = frame(0x81, b"more") + frame(0x89, b"\x88\x80") + frame(0x02, bytes(70_000))

BROKEN = {
    "too big": frame(0x82, bytes(1200)),
    "far too big": frame(0x82, bytes(150_000)),
    "too big in parts": frame(0x02, bytes(600)) + frame(0x80, bytes(600)),
    "bad text": frame(0x81, b"\xff" + bytes(500)),
    "bad text at the end": frame(0x81, bytes(500) + b"\xc3"),
    "bad text in parts": frame(0x01, b"\xc3") + frame(0x80, b"x" * 300),
    "reserved bits": frame(0xF1, b"x"),
    "reserved opcode": frame(0x83, b"x" * 200),
    "reserved control": frame(0x8B, b""),
    "not masked": b"\x81\x05hello",
    "unexpected continuation": frame(0x80, b"x"),
    "fragmented ping": frame(0x09, b"x"),
    "long ping": frame(0x89, b"x" * 126),
    "length not minimally encoded": b"\x81\xfe\x00\x05\x00\x00\x00\x00hello",
}


def is_closed(codec: Codec) -> bool:
    """Return whether the close frame is found."""
    assert codec.remainder is not None
    return codec.remainder.is_closed


def receive(codec: Codec, *pieces: bytes) -> list[object]:
    """Pass bytes to a codec; return what it reports."""
    return [control for piece in pieces for control in codec.receive(piece, [])]


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("size", [1, 7, 4096, 10**6])
def test_found(broken: bytes, size: int) -> None:
    """The close frame is found at its last byte, with the stream in any pieces."""
    stream = broken + MORE + CLOSE
    pieces = [stream[start : start + size] for start in range(0, len(stream) - 1, size)]
    pieces[-1] = stream[(len(pieces) - 1) * size : -1]
    codec = Codec(LIMIT)
    assert [type(control) for control in receive(codec, *pieces)] == [Failure]
    assert not is_closed(codec)
    assert receive(codec, CLOSE[-1:]) == []
    assert is_closed(codec)


@pytest.mark.parametrize("payload", [b"\x03", b"\x03\xed", b"\x03\xe8\xff"])
@pytest.mark.parametrize("cut", [0, 3])
def test_a_broken_close_frame(payload: bytes, cut: int) -> None:
    """A broken close frame counts: nothing comes after it."""
    codec = Codec(LIMIT)
    stream = frame(0x88, payload)
    assert [type(each) for each in receive(codec, stream[:cut], stream[cut:])] == [Failure]
    assert is_closed(codec)


@pytest.mark.parametrize(
    "kept",
    [frame(0x81, b"kept")[:3], frame(0x82, bytes(900))[:100], frame(0x81, bytes(900))[:100]],
    ids=["head", "binary", "text"],
)
def test_too_many_messages(kept: bytes) -> None:
    """The rate limit fails between two frames, or in the middle of one."""
    codec = RateLimitedCodec(1, LIMIT)
    whole = {3: b"kept", 100: bytes(900)}[len(kept)]
    rest = frame(kept[0], whole)[len(kept) :]
    (failure,) = receive(codec, frame(0x81, b"x") * 5 + kept)
    assert isinstance(failure, Failure)
    assert failure.code == 1013
    assert receive(codec, rest + MORE + CLOSE[:-1]) == []
    assert not is_closed(codec)
    receive(codec, CLOSE[-1:])
    assert is_closed(codec)


def test_impossible_length() -> None:
    """After an impossible length the next frame cannot be located: nothing is found or kept."""
    codec = Codec(LIMIT)
    assert len(receive(codec, b"\x82\xff" + b"\xff" * 8 + bytes(4))) == 1
    receive(codec, CLOSE * 1000)
    assert not is_closed(codec)


def test_frames_without_end() -> None:
    """The search stops after very many frames."""
    codec = Codec(LIMIT)
    receive(codec, frame(0xF1, b""))
    receive(codec, frame(0x81, b"") * 20_000 + CLOSE)
    assert not is_closed(codec)

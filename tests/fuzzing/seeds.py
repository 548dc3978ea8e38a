"""Inputs to start from: examples of the RFCs, and known mistakes of implementations."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator

from django_wsmux.protocol.deflate import TAIL
from django_wsmux.protocol.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT
from tests.protocol.test_codec import frame, header

__all__ = ["HARNESSES", "inputs", "seeds"]

HARNESSES = ("codec", "differential", "handshake", "reactor")


def _deflated(payload: bytes, flush: int = zlib.Z_SYNC_FLUSH) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return (stream.compress(payload) + stream.flush(flush)).removesuffix(TAIL)


def _compressed(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    data = bytearray(frame(opcode, payload, fin=fin))
    data[0] |= 0x40
    return bytes(data)


def _streams() -> Iterator[bytes]:
    """Yield streams of plain frames."""
    text, emoji = frame(TEXT, b"Hello"), "😀".encode()
    yield text
    yield frame(BINARY, b"\xff\0") + frame(TEXT) + frame(PING, b"x" * 125) + frame(PONG)
    yield frame(TEXT, b"Hel", fin=False) + frame(PING) + frame(CONTINUATION, b"lo")
    yield frame(TEXT, emoji[:2], fin=False) + frame(CONTINUATION, emoji[2:]) + text
    yield frame(CLOSE, b"\x03\xe8bye") + text
    yield frame(CLOSE) + frame(CLOSE, b"\x03")
    yield text + frame(CLOSE, b"\x03\xed")
    yield frame(BINARY, bytes(126)) + frame(BINARY, bytes(300)) + header(BINARY, 301)
    yield frame(TEXT, b"x" * 300, fin=False) + header(CONTINUATION, 1)
    yield frame(TEXT, b"ok \xed\xa0\x80") + text
    yield text + b"\x81\x05Hello"
    yield b"\x82\xfe\0\x7d" + b"\x82\xff" + bytes(7) + b"\x7d"
    yield b"\x82\xff\x80" + bytes(7)


def _compressed_streams() -> Iterator[bytes]:
    """Yield streams of compressed frames, the examples of RFC 7692 section 7.2.3 among them."""
    hello = b"\xf2\x48\xcd\xc9\xc9\x07\0"
    yield _compressed(TEXT, hello) + _compressed(TEXT, b"\xf2\0\x11\0\0")
    yield _compressed(TEXT, hello[:3], fin=False) + frame(PING) + frame(CONTINUATION, hello[3:])
    yield _compressed(TEXT, b"\0\x05\0\xfa\xffHello\0") + frame(TEXT, b"plain")
    yield _compressed(TEXT, b"\xf3\x48\xcd\xc9\xc9\x07\0\0") * 2
    yield _compressed(TEXT, b"\xf2\x48\x05\0\0\0\xff\xff\xca\xc9\xc9\x07\0")
    yield _compressed(BINARY, _deflated(bytes(300))) + _compressed(BINARY, _deflated(bytes(301)))
    yield _compressed(BINARY, _deflated(bytes(70_000)))
    yield _compressed(TEXT, b"\xff\xff\xff")
    yield _compressed(TEXT, _deflated(b"end", zlib.Z_FINISH)[:-2])
    yield _compressed(PING, b"") + _compressed(CONTINUATION, b"")


def _on_streams(name: str) -> Iterator[bytes]:
    """Yield a codec's set-up and a stream; see ``Setup.choose()`` and the harnesses."""
    for deflate, streams in (
        (0, _streams()),
        (2, _compressed_streams()),
        (1, _compressed_streams()),
    ):
        for number, stream in enumerate(streams):
            more = {
                # Sizes of reads, and for every other stream a measurement of memory.
                "codec": bytes((3, 8, 11, 3 * (number % 2))),
                # Sizes of reads, how the view takes messages, and whether frames arrive whole.
                "reactor": bytes((3, 8, number % 4, number // 4 % 2)),
                "differential": b"",
            }[name]
            # The limit is 300 bytes, large is 64; 0 takes the stream unchanged.
            yield bytes((0, deflate, 0)) + more + b"\0" + stream


def seeds(name: str) -> list[bytes]:
    """Return the inputs to start from for a harness."""
    # Without bytes every choice is the first one: a good handshake.
    drawn = (random.Random(f"{name} {number}").randbytes(number) for number in range(0, 300, 20))
    return [*drawn, *(_on_streams(name) if name != "handshake" else _handshakes())]


def _handshakes() -> Iterator[bytes]:
    """Yield an offer and an origin; see ``fuzz_handshake``."""
    yield b"\1\0\0" + b"\0"
    yield b"\1\0\0" + b"\1"
    # permessage-deflate; client_max_window_bits; server_max_window_bits=9
    yield b"\3\0\0\0\x0e\0\x09" + b"\3"
    # The site itself, and a foreign site that ends in an address of this machine.
    yield b"\0" + b"\0" + b"\1\0\0" + b"\1\0\0"
    yield b"\0" + b"\0" + b"\2\0\0\0\x0d" + b"\1\0\3"


def inputs(name: str, number: int) -> Iterator[bytes]:
    """Yield the seeds and then this many random inputs, the same ones every time."""
    yield from seeds(name)
    source = random.Random(name)
    for _ in range(number):
        yield source.randbytes(source.randrange(400))

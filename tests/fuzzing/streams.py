"""Streams of frames from choices: a client that mostly follows the rules and compresses."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from django_wsmux.protocol.deflate import TAIL, Deflate
from django_wsmux.protocol.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, RSV1, TEXT
from tests.protocol.test_codec import header

from .choices import Choices

__all__ = ["choose_stream"]

#: First bytes of frames, legal and illegal.
_FIRST = bytes.fromhex("81 82 01 02 80 00 88 89 8a c1 c2 41 42 c0 40 09 c9 83 8b 91 a1 f1")

#: Delicate text: characters of each length, and invalid similar bytes.
_TEXTS = (
    b"hello ",
    b"\xc3\xa9",
    b"\xe2\x82\xac",
    b"\xf0\x9f\x98\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90",
    b"\xff",
    b"\xc3",
    b"\xf0\x9f",
    b"\0",
)

_CODES = (1000, 999, 1004, 1005, 1006, 1014, 1015, 3000, 4999, 5000)


def _masked(payload: bytes, mask: bytes) -> bytes:
    """Apply a mask as in section 5.3, but to the whole payload at once."""
    repeated = mask * (len(payload) // 4 + 1)
    number = int.from_bytes(payload, "big") ^ int.from_bytes(repeated[: len(payload)], "big")
    return number.to_bytes(len(payload), "big")


class _Client:
    """Writes frames; its earlier compressed data is its context."""

    def __init__(self, choices: Choices, limit: int, deflate: Deflate | None) -> None:
        self._choices = choices
        self._limit = limit
        self._deflate = deflate
        self._compressor: zlib._Compress | None = None
        self.stream = bytearray()
        # Possible steps, mostly messages.
        self._steps: tuple[Callable[[], None], ...] = (
            self._message,
            self._message,
            self._compressed,
            self._compressed,
            self._control,
            self._close,
            self._loose,
            self._header_only,
            self._raw,
            self._spoil,
        )

    def step(self) -> None:
        """Write something."""
        self._choices.one_of(self._steps)()

    def _frame(self, first: int, payload: bytes) -> None:
        mask = self._choices.take(4).ljust(4, b"\0")
        head = bytearray(header(0, len(payload)))
        head[0] = first
        self.stream += head + mask + _masked(payload, mask)

    def _size(self) -> int:
        """Choose a length at which something changes."""
        limit = self._limit
        sizes = (limit, limit + 1, limit - 1, 0, 125, 126, 127, limit // 2, 2044, 65535, 65536)
        return self._choices.one_of(sizes)

    def _payload(self) -> bytes:
        choices = self._choices
        kind = choices.number(8)
        if kind < 3:
            return choices.take(choices.number(16))
        if kind < 6:
            return b"".join(choices.one_of(_TEXTS) for _ in range(choices.number(8)))
        if kind == 6:
            return choices.one_of(_CODES).to_bytes(2, "big") + choices.one_of(_TEXTS)
        size, pattern = self._size(), choices.one_of(_TEXTS)
        return (pattern * (size // len(pattern) + 1))[:size]

    def _fragments(self, first: int, payload: bytes) -> None:
        """Write a message in one or several frames, with control frames between them."""
        choices = self._choices
        at = sorted(choices.number(len(payload) + 1) for _ in range(choices.number(4)))
        start = 0
        for stop in at:
            self._frame(first, payload[start:stop])
            first, start = CONTINUATION, stop
            if choices.number(8) == 7:
                self._control()
        self._frame(0x80 | first, payload[start:])

    def _message(self) -> None:
        self._fragments(self._choices.one_of((TEXT, BINARY)), self._payload())

    def _compressed(self) -> None:
        choices, deflate = self._choices, self._deflate
        first = RSV1 | choices.one_of((TEXT, BINARY))
        if deflate is None:
            self._fragments(first, self._payload())
            return
        if self._compressor is None or not deflate.remote_takeover or choices.number(16) == 15:
            bits = 15 if choices.number(16) == 15 else deflate.remote_bits
            self._compressor = zlib.compressobj(choices.one_of((6, 0, 1)), wbits=-bits)
        data = self._compressor.compress(self._payload())
        # How it ends (RFC 7692 section 7.2.3): mostly with a flush whose tail is not sent.
        ending = choices.number(8)
        if ending == 7:
            data += self._compressor.flush(zlib.Z_FINISH) + b"\0"
            self._compressor = None
        elif ending == 6:
            data += self._compressor.flush(zlib.Z_FULL_FLUSH)
        elif ending == 5:
            data = self._choices.take(self._choices.number(64))
        else:
            data += self._compressor.flush(zlib.Z_SYNC_FLUSH)
            data = data.removesuffix(TAIL)
        self._fragments(first, data)

    def _control(self) -> None:
        payload = self._payload()[:125]
        self._frame(0x80 | self._choices.one_of((PING, PONG)), payload)

    def _close(self) -> None:
        self._frame(0x80 | CLOSE, self._payload()[:125])

    def _loose(self) -> None:
        """Write a frame of any kind, with its length in any form, masked or not."""
        first, payload = self._choices.one_of(_FIRST), self._payload()
        form = self._choices.one_of((0, 2, 8, 9))
        if form in (2, 8):
            length = (b"\xfe" if form == 2 else b"\xff") + (len(payload) % 65536).to_bytes(form)
            self.stream += bytes((first,)) + length + bytes(4) + payload
        else:
            start = len(self.stream)
            self._frame(first, payload)
            self.stream[start + 1] &= 0x7F if form == 9 else 0xFF

    def _header_only(self) -> None:
        """Announce a frame of any size and write none of its payload."""
        first = self._choices.one_of(_FIRST)
        self.stream += bytes((first, 0xFF)) + self._choices.take(8)

    def _raw(self) -> None:
        self.stream += self._choices.take(self._choices.number(32))

    def _spoil(self) -> None:
        """Change a byte of the stream."""
        if self.stream:
            self.stream[self._choices.number(len(self.stream))] ^= self._choices.number(256)


def choose_stream(choices: Choices, limit: int, deflate: Deflate | None, most: int) -> bytes:
    """Return a stream that a client might send.

    Args:
        choices: all that is left of them is used.
        limit: the server's limit on a message's size, for sizes around it.
        deflate: the agreed parameters of permessage-deflate.
        most: bytes after which the stream ends; the last message may exceed it.
    """
    if choices.number(4) == 0:
        return choices.rest()
    client = _Client(choices, limit, deflate)
    while choices and len(client.stream) < most:
        client.step()
    return bytes(client.stream)

"""Bytes from the peer to messages (RFC 6455 sections 5 to 8), bounded and without I/O.

Rules of this file:

* A peer's bytes never raise: what breaks the protocol comes back as a ``Failure`` with the close
  code to send, and everything after it is discarded (section 7.1.7).
* A size is checked when its header is read, before a byte of the payload is stored.
* How the bytes were cut on their way makes no difference to what comes out.

The loop in ``receive()`` handles whole, unfragmented data frames in place: they are nearly all
that a server ever sees. Everything else takes the methods below it.
"""

from __future__ import annotations

import codecs
import io
from dataclasses import dataclass
from typing import Protocol

from websockets.frames import apply_mask  # type: ignore[attr-defined]  # C where it is built

from .frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MAX_CONTROL_PAYLOAD,
    PING,
    PONG,
    TEXT,
    CloseCode,
    is_valid_close_code,
)

__all__ = ["LARGE", "Closed", "Codec", "Control", "Failure", "Ping", "Pong", "Sink"]

_FINAL_BINARY = 0x80 | BINARY
_WHOLE_MESSAGE = frozenset({0x80 | TEXT, _FINAL_BINARY})

#: A frame of this many bytes is read straight to where it is unmasked from.
LARGE = 2**17

_new_utf8_decoder = codecs.getincrementaldecoder("utf-8")


class Sink(Protocol):
    """Where complete messages go: a list, a deque."""

    def append(self, message: str | bytes, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Ping:
    """A ping; its payload belongs into the pong (section 5.5.2)."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """A pong, asked for or not (section 5.5.3)."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """The peer's close frame; code 1005 when it had no body (section 7.1.5)."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """The peer broke a rule: send this code and drop the connection (section 7.1.7)."""

    code: int
    reason: str


Control = Ping | Pong | Closed | Failure


class _Violation(Exception):
    """Carries a Failure out of the parser; never leaves this module."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.failure = Failure(code, reason)


class Codec:
    """The receiving half of a server-side WebSocket connection.

    Args:
        max_message_size: largest message in bytes of payload, whole or reassembled.

    Attributes:
        large: the buffer of a large frame that is arriving, if one is: see ``space()``.

    Example:
        >>> codec, messages = Codec(1024), []
        >>> codec.receive(b"\\x81\\x82\\x00\\x00\\x00\\x00hi", messages)
        []
        >>> messages
        ['hi']
    """

    __slots__ = (
        "_buffer",
        "_bytes",
        "_filled",
        "_finished",
        "_is_final",
        "_mask",
        "_max_size",
        "_needed",
        "_opcode",
        "_rest",
        "_size",
        "_text",
        "_utf8",
        "large",
    )

    def __init__(self, max_message_size: int) -> None:
        self._max_size = max_message_size
        # The start of a frame that has not arrived whole, and the length at which to look again.
        self._buffer: bytearray | None = None
        self._needed = 0
        # The same for a large frame, whose buffer is longer than what is in it.
        self.large: bytearray | None = None
        self._filled = 0
        # The message that is arriving in parts: TEXT, BINARY or, when there is none, 0; how many
        # bytes its frames have announced so far; and what has come of it, as text or as bytes.
        self._opcode = 0
        self._size = 0
        self._utf8: codecs.IncrementalDecoder | None = None
        self._text: io.StringIO | None = None
        self._bytes: bytearray | None = None
        # The rest of a text frame: bytes to come, their mask, and whether it ends the message.
        self._rest = 0
        self._mask = b""
        self._is_final = False
        # Set by a close frame or a failure: what follows is discarded (section 1.4).
        self._finished = False

    def receive(
        self, data: bytes | bytearray, messages: Sink, size: int | None = None
    ) -> list[Control]:
        """Take the next bytes from the peer.

        Args:
            data: any cut of the stream; it is not kept.
            messages: gets every message that these bytes complete, ``str`` for text and
                ``bytes`` for binary, in order.
            size: how many bytes of ``data`` there are, if not all.

        Returns:
            The control frames among them and, last, a failure if there was one.
        """
        end = len(data) if size is None else size
        if self._finished:
            return []
        if self._buffer is not None:
            with memoryview(data) as view:
                self._buffer += view[:end]
            end = len(self._buffer)
            if end < self._needed:
                return []
            data, self._buffer = self._buffer, None
        controls: list[Control] = []
        try:
            position = 0
            if self._rest:
                position = min(self._rest, end)
                self._receive_text(data, 0, position, messages)
            if position < end:
                self._parse(data, position, end, messages, controls)
        except _Violation as violation:
            self._finish()
            controls.append(violation.failure)
        return controls

    def space(self) -> memoryview:
        """Return where to read to directly while ``large`` is not ``None``.

        Such a frame has one buffer, which grows as it fills, up to the frame's size and no
        further: a length that is claimed costs nothing. Release the view, then say ``filled()``.
        """
        assert self.large is not None
        if self._filled == len(self.large):
            self.large.extend(bytes(min(self._needed, 2 * self._filled) - self._filled))
        return memoryview(self.large)[self._filled :]

    def filled(self, size: int, messages: Sink) -> list[Control]:
        """Take the bytes that were read to ``space()``; see ``receive()``."""
        assert self.large is not None
        self._filled += size
        if self._filled < self._needed:
            return []
        data, self.large = self.large, None
        return self.receive(data, messages)

    def _parse(
        self,
        data: bytes | bytearray,
        position: int,
        end: int,
        messages: Sink,
        controls: list[Control],
    ) -> None:
        while True:
            available = end - position
            if available < 2:
                needed = 2
                break
            first = data[position]
            # Section 5.2: the mask bit is the high bit of the second byte.
            length = data[position + 1] - 128
            # Judged by its first two bytes, and again when it has all arrived: both are cheap.
            plain = first in _WHOLE_MESSAGE and not self._opcode
            if not plain or length < 0:
                self._check_header(first, length)
            if length < 126:
                start = position + 6
            else:
                head, length = _extended_length(data, position, available)
                if not head:
                    needed = length
                    break
                start = position + head
            if not plain:
                self._check_size(first, length)
            elif length > self._max_size:
                self._too_big(length)
            stop = start + length
            if stop > end:
                if start <= end and self._is_text(first):
                    self._begin_text(first, length, bytes(data[start - 4 : start]))
                    self._receive_text(data, start, end, messages)
                    return
                needed = stop - position
                break
            # A view cuts out a large payload without a copy; for a small one a slice is cheaper.
            source = data[start:stop] if length < 4096 else memoryview(data)[start:stop]
            payload = apply_mask(source, data[start - 4 : start])
            position = stop
            if plain:
                if first == _FINAL_BINARY:
                    messages.append(payload)
                else:
                    messages.append(_decode(payload))
            else:
                self._receive_frame(first, payload, messages, controls)
                if self._finished:
                    return
        if available:
            self._keep(data, position, end, needed)

    def _keep(self, data: bytes | bytearray, position: int, end: int, needed: int) -> None:
        """Keep the start of a frame until ``needed`` bytes of it are there."""
        self._needed = needed
        rest = bytearray(data[position:end])
        if needed < LARGE:
            self._buffer = rest
        else:
            self.large = rest
            self._filled = end - position

    # Rules

    def _check_header(self, first: int, length: int) -> None:
        """Apply what the first two bytes of a frame can break."""
        opcode = first & 0x0F
        if first & 0x70:
            # Section 5.2: MUST be 0 unless an extension is negotiated that defines them.
            raise _Violation(CloseCode.PROTOCOL_ERROR, "reserved bits set")
        if length < 0:
            # Section 5.1: the server MUST close the connection upon an unmasked frame.
            raise _Violation(CloseCode.PROTOCOL_ERROR, "frame not masked")
        if opcode & 0x8:
            if opcode > PONG:
                raise _Violation(CloseCode.PROTOCOL_ERROR, "reserved opcode")
            # Section 5.5: control frames MUST NOT be fragmented nor exceed 125 bytes.
            if not first & 0x80:
                raise _Violation(CloseCode.PROTOCOL_ERROR, "fragmented control frame")
            if length > MAX_CONTROL_PAYLOAD:
                raise _Violation(CloseCode.PROTOCOL_ERROR, "control frame too long")
        elif opcode > BINARY:
            raise _Violation(CloseCode.PROTOCOL_ERROR, "reserved opcode")
        elif opcode == CONTINUATION:
            if not self._opcode:
                raise _Violation(CloseCode.PROTOCOL_ERROR, "continuation of nothing")
        elif self._opcode:
            # Section 5.4: fragments of two messages MUST NOT be interleaved.
            raise _Violation(CloseCode.PROTOCOL_ERROR, "continuation expected")

    def _check_size(self, first: int, length: int) -> None:
        """Hold the sum of a message's fragments to the limit before storing more of it."""
        if first & 0x8:
            return  # a control frame has a limit of its own
        if self._size + length > self._max_size:
            self._too_big(self._size + length)

    def _too_big(self, length: int) -> None:
        raise _Violation(CloseCode.MESSAGE_TOO_BIG, f"{length} bytes, limit {self._max_size}")

    # Frames that are not a whole message

    def _receive_frame(
        self, first: int, payload: bytes, messages: Sink, controls: list[Control]
    ) -> None:
        opcode = first & 0x0F
        if opcode == PING:
            controls.append(Ping(payload))
        elif opcode == PONG:
            controls.append(Pong(payload))
        elif opcode == CLOSE:
            closed = _parse_close(payload)
            self._finish()
            controls.append(closed)
        else:
            self._receive_fragment(first, payload, messages)

    def _receive_fragment(self, first: int, payload: bytes, messages: Sink) -> None:
        if first & 0x0F != CONTINUATION:
            self._begin(first & 0x0F)
        self._size += len(payload)
        self._add(payload, bool(first & 0x80), messages)

    # A message in parts

    def _begin(self, opcode: int) -> None:
        self._opcode = opcode
        if opcode == TEXT:
            self._utf8, self._text = _new_utf8_decoder(), io.StringIO()
        else:
            self._bytes = bytearray()

    def _add(self, payload: bytes, final: bool, messages: Sink) -> None:
        if self._bytes is not None:
            self._bytes += payload
            if final:
                messages.append(bytes(self._bytes))
        else:
            assert self._utf8 is not None
            assert self._text is not None
            # Section 8.1: bad text fails as soon as it is seen, not at the message's end.
            try:
                self._text.write(self._utf8.decode(payload, final))
            except UnicodeDecodeError as error:
                raise _Violation(CloseCode.INVALID_DATA, "invalid UTF-8") from error
            if final:
                messages.append(self._text.getvalue())
        if final:
            self._forget()

    def _forget(self) -> None:
        self._opcode = self._size = 0
        self._utf8 = self._text = self._bytes = None

    # A text frame in pieces: taken as it comes, so that bad text need not be waited for

    def _is_text(self, first: int) -> bool:
        opcode = first & 0x0F
        return opcode == TEXT or (opcode == CONTINUATION and self._opcode == TEXT)

    def _begin_text(self, first: int, length: int, mask: bytes) -> None:
        if first & 0x0F == TEXT:
            self._begin(TEXT)
        self._size += length
        self._rest, self._mask, self._is_final = length, mask, bool(first & 0x80)

    def _receive_text(self, data: bytes | bytearray, start: int, end: int, messages: Sink) -> None:
        with memoryview(data) as view:
            payload = apply_mask(view[start:end], self._mask)
        self._rest -= end - start
        # The mask goes on where it was cut (section 5.3).
        turn = (end - start) & 3
        self._mask = self._mask[turn:] + self._mask[:turn]
        self._add(payload, self._is_final and not self._rest, messages)

    def _finish(self) -> None:
        self._finished = True
        self._rest = 0
        self._buffer = self.large = None
        self._forget()


def _extended_length(data: bytes | bytearray, position: int, available: int) -> tuple[int, int]:
    """Return the sizes of a frame's head and payload; for the head 0 and how much is needed."""
    if data[position + 1] & 0x7F == 126:
        if available < 4:
            return 0, 4
        length = data[position + 2] << 8 | data[position + 3]
        # Section 5.2: the minimal number of bytes MUST be used to encode the length.
        if length < 126:
            raise _Violation(CloseCode.PROTOCOL_ERROR, "length not in its shortest form")
        return 8, length
    if available < 10:
        return 0, 10
    length = int.from_bytes(data[position + 2 : position + 10], "big")
    if length < 65536 or length >> 63:
        raise _Violation(CloseCode.PROTOCOL_ERROR, "invalid 64-bit length")
    return 14, length


def _decode(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        # Section 8.1; also refuses lone surrogates.
        raise _Violation(CloseCode.INVALID_DATA, "invalid UTF-8") from error


def _parse_close(payload: bytes) -> Closed:
    """Read a close frame's body (section 5.5.1)."""
    if not payload:
        return Closed(CloseCode.NO_STATUS, "")
    if len(payload) == 1:
        raise _Violation(CloseCode.PROTOCOL_ERROR, "close frame of one byte")
    code = int.from_bytes(payload[:2], "big")
    if not is_valid_close_code(code):
        raise _Violation(CloseCode.PROTOCOL_ERROR, "invalid close code")
    return Closed(code, _decode(payload[2:]))

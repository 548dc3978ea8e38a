"""Parses bytes from the peer into messages (RFC 6455 sections 5 to 8), bounded and without I/O.

Rules of this file:

* A peer's bytes never raise: a violation of the protocol is returned as a ``Failure`` with the
  close code to send, and everything after it is discarded (section 7.1.7).
* A size is checked when the frame's head is read, before any byte of the payload is stored.
* The result does not depend on how the bytes were split on their way.

``whole()`` handles a message that came alone in one plain frame, as nearly all do. The loop in
``_parse()`` handles several of them in place; the methods below it handle everything else.
"""

from __future__ import annotations

import sys
import zlib
from functools import lru_cache
from typing import Any, NamedTuple, cast

from .assembler import PartialMessage
from .deflate import FLUSH, Compression, Deflate, max_deflated_size
from .events import CannotMove, Control, Failure, Ping, Pong, Sink, Violation
from .frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    RSV1,
    TEXT,
    CloseCode,
    check_header,
    extended_length,
    parse_close,
)
from .masking import apply_mask, unmask, unmask_ascii
from .remainder import Remainder

__all__ = ["LARGE", "Codec"]

_FINAL_BINARY = 0x80 | BINARY
_WHOLE_MESSAGE = frozenset({0x80 | TEXT, _FINAL_BINARY})

# Fragments and control frames handled at once: a segment may hold hundreds of thousands.
_MANY = 256

# Section 8.1: for all text, whether in a message or in a close frame.
_INVALID_TEXT = Failure(CloseCode.INVALID_DATA, "invalid UTF-8")

#: Frames of at least this many bytes are read directly into the buffer in which they are unmasked.
LARGE = 2**17


class _Limits(NamedTuple):
    """The limits of codecs; those with the same share one object."""

    message_size: int
    frame_size: int
    fragments: int
    messages: int
    single_frame: int


@lru_cache
def _limits(message_size: int, frame_size: int | None, fragments: int, messages: int) -> _Limits:
    # Frames are not limited by the message size: a compressed one may be larger than the message.
    largest = frame_size or sys.maxsize
    return _Limits(message_size, largest, fragments, messages, min(largest, message_size))


class Codec:
    """The receiving half of a server-side WebSocket connection.

    Args:
        max_message_size: largest message in bytes, after reassembly and decompression.
        max_frame_size: largest frame, in bytes of payload on the wire, if that is less.
        max_fragments: largest number of frames in a message.
        max_messages: messages that may wait in the sink before parsing stops.

    Attributes:
        deflate: the negotiated parameters of permessage-deflate, if it is in use; set before the
            first byte.
        is_held: parsing has stopped before the end of the received bytes: the sink is full, or
            their messages have inflated to the size limit, or they contained many fragments or
            control frames. ``receive()`` continues, even without new bytes.
        discards: messages are not wanted any more, and their bytes are skipped.
        remainder: reads the bytes after a failure.
        large: the buffer of a large frame that is arriving, or ``None``; see ``space()``.
        alone: the largest payload of a message that may bypass ``receive()`` because it came alone
            in one plain frame; -1 while no message may.

    Example:
        >>> codec, messages = Codec(1024), []
        >>> codec.receive(b"\\x81\\x82\\x00\\x00\\x00\\x00hi", messages)
        []
        >>> messages
        ['hi']
    """

    __slots__ = (
        "_buffer",
        "_filled",
        "_finished",
        "_frames",
        "_inflated",
        "_inflater",
        "_is_final",
        "_limits",
        "_mask",
        "_message",
        "_needed",
        "_rest",
        "_start",
        "deflate",
        "is_discarding",
        "is_suspended",
        "large",
        "max_single_frame",
        "remainder",
    )

    def __init__(
        self,
        max_message_size: int,
        max_frame_size: int | None = None,
        max_fragments: int = 2**16,
        max_messages: int = sys.maxsize,
    ) -> None:
        self._limits = _limits(max_message_size, max_frame_size, max_fragments, max_messages)
        self.deflate: Deflate | None = None
        # The received bytes that are kept: an incomplete frame, or everything that is held. Where
        # parsing continues in it, and the length at which it continues.
        self._buffer: bytearray | None = None
        self._start = 0
        self._needed = 0
        # The same for a large frame, whose buffer is longer than its contents.
        self.large: bytearray | None = None
        self._filled = 0
        # The message that is arriving in parts, if any.
        self._message: PartialMessage | None = None
        # The stream that inflates messages, if messages may refer to earlier ones.
        self._inflater: zlib._Decompress | None = None
        # Bytes inflated by this call of receive(): up to a thousand for each byte received.
        self._inflated = 0
        # Fragments and control frames handled by this call.
        self._frames = 0
        self.is_suspended = False
        self.is_discarding = False
        # The rest of a text frame: bytes to come, their mask, and whether it ends the message.
        self._rest = 0
        self._mask = b""
        self._is_final = False
        # Set by a close frame or a failure: everything after it is discarded (section 1.4).
        self._finished = False
        self.remainder: Remainder | None = None
        # -1 unless the next byte begins a message.
        self.max_single_frame = self._limits.single_frame

    def decode_single_frame(self, data: bytes | bytearray, size: int) -> str | bytes | None:
        """Return the message, if these bytes are exactly one message in one plain frame.

        Nearly always they are, and this costs a fraction of ``receive()``, which handles the rest.

        Args:
            data: any part of the stream. It is not kept; a ``bytearray`` may be overwritten.
            size: the number of bytes in ``data``.

        Returns:
            ``None`` for anything else, whether valid or invalid: pass it to ``receive()``.
        """
        if size < 6:
            return None
        first, length, start = data[0], data[1] - 128, 6
        if length > 125:
            least, start = (126, 8) if length == 126 else (65536, 14)
            length = int.from_bytes(data[2 : start - 4], "big")
            if length < least:
                return None
        if size != start + length or first not in _WHOLE_MESSAGE or length > self.max_single_frame:
            return None
        try:
            return unmask(data, start, size, first != _FINAL_BINARY)
        except UnicodeDecodeError:
            return None

    def receive(
        self, data: bytes | bytearray, messages: Sink, size: int | None = None
    ) -> list[Control]:
        """Process the next bytes from the peer.

        Args:
            data: any part of the stream. It is not kept; a ``bytearray`` may be overwritten.
            messages: gets every message that these bytes complete, ``str`` for text and
                ``bytes`` for binary, in order.
            size: the number of bytes in ``data``, if not all of it.

        Returns:
            The control frames among them and, last, the failure, if any.
        """
        end = len(data) if size is None else size
        if self._finished:
            if self.remainder is not None:
                self.remainder.receive(data, 0, end)
            return []
        if self.large is not None:
            return self._receive_large(data, end, messages)
        position, kept = 0, self._buffer
        if kept is not None:
            with memoryview(data) as view:
                kept += view[:end]
            end, position = len(kept), self._start
            if end < self._needed:
                return []
            data, self._buffer, self._start = kept, None, 0
        controls: list[Control] = []
        self._inflated, self._frames, self.is_suspended = 0, 0, False
        try:
            if self._rest:
                position = self._start = min(self._rest, end)
                self._receive_piece(data, 0, position, messages)
                self._start = 0
            if position < end:
                self._parse(data, position, end, messages, controls)
                if self.is_suspended:
                    self._hold(data, end, kept)
        except (Violation, UnicodeDecodeError) as error:
            start = end if self._rest else self._start
            self.remainder = Remainder(data, start, end, self._rest)
            self._finish()
            controls.append(error.failure if isinstance(error, Violation) else _INVALID_TEXT)
        is_inside = (
            self._buffer is not None
            or self.large is not None
            or self._message is not None
            or self._rest
            or self._finished
        )
        self.max_single_frame = -1 if is_inside else self._limits.single_frame
        return controls

    def get_buffer(self) -> memoryview:
        """Return the memory to read into directly while ``large`` is not ``None``.

        The buffer of a large frame grows as it fills, up to the size of the frame, so a claimed
        length costs little. Release the view, then call ``buffer_updated()``.
        """
        assert self.large is not None
        if self._filled == len(self.large):
            size = min(self._needed, max(2 * self._filled, LARGE // 2))
            self.large.extend(bytes(size - self._filled))
        return memoryview(self.large)[self._filled :]

    def buffer_updated(self, size: int, messages: Sink) -> list[Control]:
        """Process the bytes that were read into ``space()``; see ``receive()``."""
        assert self.large is not None
        self._filled += size
        if self._filled < self._needed:
            return []
        data, self.large = self.large, None
        return self.receive(data, messages)

    def _receive_large(self, data: bytes | bytearray, end: int, messages: Sink) -> list[Control]:
        """Copy bytes into ``space()``, for callers that have not read into it."""
        with self.get_buffer() as space:
            size = min(len(space), end)
            space[:size] = data[:size]
        controls = self.buffer_updated(size, messages)
        if size < end:
            controls += self.receive(data[size:end], messages)
        return controls

    def _parse(
        self,
        data: bytes | bytearray,
        position: int,
        end: int,
        messages: Sink,
        controls: list[Control],
    ) -> None:
        try:
            while True:
                available = end - position
                if available < 2:
                    needed = 2
                    break
                if (
                    len(messages) >= self._limits.messages
                    or self._inflated >= self._limits.message_size > 0
                    or self._frames >= _MANY
                ):
                    self.is_suspended, self._start = True, position
                    return
                first = data[position]
                # Section 5.2: the mask bit is the high bit of the second byte.
                length = data[position + 1] - 128
                # Checked with its first two bytes, and again when it is complete: both are cheap.
                plain = first in _WHOLE_MESSAGE and self._message is None
                if not plain or length < 0:
                    self._check_header(first, length)
                if length < 126:
                    start = position + 6
                else:
                    head, length = extended_length(data, position, available)
                    if not head:
                        needed = length
                        break
                    start = position + head
                if plain:
                    if length > self._limits.message_size or length > self._limits.frame_size:
                        raise self._too_big(length, self._limits.message_size)
                elif not first & 0x8:
                    self._check_size(first, length)
                stop = start + length
                if stop > end:
                    is_streamed = self._is_plain_text(first)
                    if is_streamed and start <= end:
                        self._begin_pieces(first, length, bytes(data[start - 4 : start]))
                        self._receive_piece(data, start, end, messages)
                        return
                    needed = (start if is_streamed else stop) - position
                    break
                if plain:
                    messages.append(unmask(data, start, stop, first != _FINAL_BINARY))
                else:
                    payload = cast(bytes, unmask(data, start, stop, False))
                    if self._receive_frame(first, payload, messages, controls):
                        return
                position = stop
        except (Violation, UnicodeDecodeError):
            self._start = position
            raise
        if available:
            self._keep(data, position, end, needed)

    def _keep(self, data: bytes | bytearray, position: int, end: int, needed: int) -> None:
        """Keep the start of a frame until ``needed`` bytes of it have arrived."""
        self._needed = needed
        rest = bytearray(data[position:end])
        if needed < LARGE:
            self._buffer = rest
        else:
            self.large = rest
            self._filled = end - position

    def _hold(self, data: bytes | bytearray, end: int, kept: bytearray | None) -> None:
        """Keep the bytes that are not parsed yet; copy them unless the buffer is ours already."""
        self._needed = 0
        if kept is None:
            with memoryview(data) as view:
                kept = bytearray(view[self._start : end])
            self._start = 0
        self._buffer = kept

    # Rules

    def _check_header(self, first: int, length: int) -> None:
        may_compress, is_inside = self.deflate is not None, self._message is not None
        check_header(first, length, may_compress=may_compress, is_inside=is_inside)

    def _check_size(self, first: int, length: int) -> None:
        """Check the limits of a frame and its message before storing more of it.

        The inflated size of a compressed message is checked while it is inflated.
        """
        message = self._message
        most = self._limits.message_size
        if first & RSV1 if message is None else message.inflater is not None:
            most = max_deflated_size(most)
        if length > most or length > self._limits.frame_size:
            raise self._too_big(length, most)
        if message is not None:
            if message.fragments >= self._limits.fragments:
                raise Violation(
                    CloseCode.MESSAGE_TOO_BIG,
                    f"more than {self._limits.fragments} fragments",
                    "too_many_fragments",
                )
            length += message.announced
            if message.inflater is not None:
                length -= message.fragments * FLUSH
            if length > most:
                raise self._too_big(length, most)

    def _too_big(self, length: int, most: int) -> Violation:
        if length > most:
            limit = self._limits.message_size
            what = "bytes" if most == limit else "compressed bytes"
            reason, counter = f"{length} {what}, limit {limit}", "message_too_big"
        else:
            reason = f"frame of {length} bytes, limit {self._limits.frame_size}"
            counter = "frame_too_big"
        return Violation(CloseCode.MESSAGE_TOO_BIG, reason, counter)

    # Frames that are not complete messages

    def _receive_frame(
        self, first: int, payload: bytes, messages: Sink, controls: list[Control]
    ) -> bool:
        """Process a frame; return whether it was the peer's last."""
        self._frames += 1
        opcode = first & 0x0F
        if opcode == PING:
            controls.append(Ping(payload))
        elif opcode == PONG:
            controls.append(Pong(payload))
        elif opcode == CLOSE:
            closed = parse_close(payload)
            self._finish()
            controls.append(closed)
        else:
            self._begin(first, len(payload))
            self._add(payload, bool(first & 0x80), messages)
        return self._finished

    def _begin(self, first: int, length: int) -> None:
        """Begin a frame of a message in parts, the first or a later one."""
        if self._message is None:
            inflater = None
            if first & RSV1 and self.deflate is not None:
                inflater = self._inflater or self.deflate.decompressor()
            self._message = PartialMessage(first & 0x0F, self._limits.message_size, inflater)
        self._message.fragments += 1
        self._message.announced += length

    def _add(self, payload: str | bytes, final: bool, messages: Sink) -> None:
        message = self._message
        assert message is not None
        if not self.is_discarding:
            message.add(payload, final)
        if final:
            self._message = None
            if self.is_discarding:
                return
            whole = message.decode_single_frame()
            if message.inflated:
                # As text it may take four times the memory.
                self._inflated += sys.getsizeof(whole)
            if self.deflate is not None and self.deflate.remote_takeover:
                inflater = message.inflater or self._inflater
                # A stream that has ended (RFC 7692 section 7.2.3.4) cannot inflate any more.
                self._inflater = None if inflater is None or inflater.eof else inflater
            messages.append(whole)

    # A text frame in pieces: decoded as it arrives, so that invalid text fails immediately

    def _is_plain_text(self, first: int) -> bool:
        if self._message is not None:
            is_continued = first & 0x0F == CONTINUATION
            return is_continued and self._message.is_text and self._message.inflater is None
        return first & 0x0F == TEXT and not first & RSV1

    def _begin_pieces(self, first: int, length: int, mask: bytes) -> None:
        self._begin(first, length)
        self._rest, self._mask, self._is_final = length, mask, bool(first & 0x80)

    def _receive_piece(self, data: bytes | bytearray, start: int, end: int, messages: Sink) -> None:
        mask = self._mask
        self._rest -= end - start
        # Rotate the mask to continue after this piece (section 5.3).
        turn = (end - start) & 3
        self._mask = mask[turn:] + mask[:turn]
        message = self._message
        assert message is not None
        payload: str | bytes | None = None
        if message.is_ascii:
            payload = unmask_ascii(data, start, end, mask)
        if payload is None:
            with memoryview(data) as view:
                payload = apply_mask(view[start:end], mask)
        self._add(payload, self._is_final and not self._rest, messages)

    # Connections that go on in another process

    def state(self) -> tuple[bytes, dict[str, Any]]:
        """Return what another codec needs to go on from here.

        Returns:
            The bytes that are not parsed yet, for ``receive()``, and what ``restore()`` takes, as
            JSON knows it.

        Raises:
            CannotMove: the peer may refer to what only this codec has, or has ended the stream.
        """
        deflate, message, unread = self.deflate, self._message, b""
        if deflate is not None and (deflate.local_takeover or deflate.remote_takeover):
            raise CannotMove("its compression keeps a context between messages", is_final=True)
        if self._finished or self.is_discarding:
            raise CannotMove("it is closing")
        if self.large is not None:
            unread = bytes(self.large[: self._filled])
        elif self._buffer is not None:
            unread = bytes(self._buffer[self._start :])
        return unread, {
            "deflate": None if deflate is None else [deflate.local_bits, deflate.remote_bits],
            "message": None if message is None else message.state(),
            "rest": self._rest,
            "mask": self._mask.decode("latin-1"),
            "is_final": self._is_final,
        }

    def restore(self, state: dict[str, Any], compression: Compression) -> None:
        """Go on where another codec was; called before the first byte.

        Args:
            state: from ``state()`` of that one.
            compression: how to compress, if that was agreed on.
        """
        if state["deflate"] is not None:
            local_bits, remote_bits = state["deflate"]
            self.deflate = Deflate(compression, local_bits, remote_bits, False, False)
        if state["message"] is not None:
            self._message = PartialMessage.restored(state["message"], self._limits.message_size)
            self.max_single_frame = -1
        self._rest, self._is_final = state["rest"], state["is_final"]
        self._mask = state["mask"].encode("latin-1")

    def _finish(self) -> None:
        self._finished = True
        self.is_suspended = False
        self._rest = 0
        self._buffer = self.large = self._message = self._inflater = None

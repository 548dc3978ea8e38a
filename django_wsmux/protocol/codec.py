"""Bytes from the peer to messages (RFC 6455 sections 5 to 8), bounded and without I/O.

Rules of this file:

* A peer's bytes never raise: what breaks the protocol comes back as a ``Failure`` with the close
  code to send, and everything after it is discarded (section 7.1.7).
* A size is checked when its header is read, before a byte of the payload is stored.
* How the bytes were cut on their way makes no difference to what comes out.

``whole()`` takes a message that came alone in one plain frame, as nearly all do. The loop in
``_parse()`` handles several of them in place; everything else takes the methods below it.
"""

from __future__ import annotations

import sys
import zlib
from typing import cast

from .deflate import FLUSH, Deflate, max_deflated_size
from .events import Control, Failure, Ping, Pong, Sink, Violation
from .frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    RSV1,
    TEXT,
    CloseCode,
)
from .masking import apply_mask, unmask, unmask_ascii
from .parsing import check_header, extended_length, parse_close
from .partial import PartialMessage
from .remainder import Remainder

__all__ = ["LARGE", "Codec"]

_FINAL_BINARY = 0x80 | BINARY
_WHOLE_MESSAGE = frozenset({0x80 | TEXT, _FINAL_BINARY})

# Frames that are no whole message to take at once: a segment may hold hundreds of thousands.
_MANY = 256

# Section 8.1: wherever text is decoded, be it in a message or in a close frame.
_INVALID_TEXT = Failure(CloseCode.INVALID_DATA, "invalid UTF-8")

#: A frame of this many bytes is read straight to where it is unmasked from.
LARGE = 2**17


class Codec:
    """The receiving half of a server-side WebSocket connection.

    Args:
        max_message_size: largest message in bytes, reassembled and inflated.
        max_frame_size: largest frame in bytes of payload as it is on the wire, where that is less.
        max_fragments: frames that a message may come in.
        max_messages: messages that may wait in the sink before parsing stops.

    Attributes:
        deflate: what was agreed on, when permessage-deflate is in use; set before the first byte.
        is_held: parsing has stopped before the end of what has arrived: the sink has enough for
            now, or the messages of these bytes have inflated to as much as one may, or they held
            many fragments or control frames. ``receive()`` goes on, also when handed nothing.
        discards: messages lead nowhere any more, and their bytes need not be looked at.
        remainder: what follows a failure.
        large: the buffer of a large frame that is arriving, if one is: see ``space()``.
        alone: the largest payload that may be taken for a message without being handed to
            ``receive()``, when it comes alone in one plain frame; -1 while none may.

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
        "_mask",
        "_max_fragments",
        "_max_frame_size",
        "_max_messages",
        "_max_size",
        "_message",
        "_needed",
        "_rest",
        "_start",
        "alone",
        "deflate",
        "discards",
        "is_held",
        "large",
        "remainder",
    )

    def __init__(
        self,
        max_message_size: int,
        max_frame_size: int | None = None,
        max_fragments: int = 2**16,
        max_messages: int = sys.maxsize,
    ) -> None:
        self._max_size = max_message_size
        # As given, for frames of messages that are compressed may be larger than a message.
        self._max_frame_size = max_frame_size or sys.maxsize
        self._max_fragments = max_fragments
        self._max_messages = max_messages
        self.deflate: Deflate | None = None
        # What is kept of the bytes that have arrived: a frame that is not whole yet, or all that
        # is held. Where it starts in there, and the length at which to look again.
        self._buffer: bytearray | None = None
        self._start = 0
        self._needed = 0
        # The same for a large frame, whose buffer is longer than what is in it.
        self.large: bytearray | None = None
        self._filled = 0
        # The message that is arriving in parts, if one is.
        self._message: PartialMessage | None = None
        # The stream that inflates messages, while the client may refer to earlier ones.
        self._inflater: zlib._Decompress | None = None
        # Bytes inflated by this call of receive(): a thousand for each that was sent, perhaps.
        self._inflated = 0
        # Fragments and control frames that this call has taken.
        self._frames = 0
        self.is_held = False
        self.discards = False
        # The rest of a text frame: bytes to come, their mask, and whether it ends the message.
        self._rest = 0
        self._mask = b""
        self._is_final = False
        # Set by a close frame or a failure: what follows is discarded (section 1.4).
        self._finished = False
        self.remainder: Remainder | None = None
        # Not -1 while a frame that comes now is the first of a message and nothing is kept before.
        self.alone = min(self._max_frame_size, max_message_size)

    def whole(self, data: bytes | bytearray, size: int) -> str | bytes | None:
        """Return the message, if these bytes are just one message in one plain frame.

        They nearly always are, and this costs a fraction of ``receive()``, which takes all else.

        Args:
            data: any cut of the stream. It is not kept; the message may overwrite a ``bytearray``.
            size: how many bytes of ``data`` there are.

        Returns:
            ``None`` for anything else, be it right or wrong: hand it to ``receive()``.
        """
        if size < 6:
            return None
        first, length, start = data[0], data[1] - 128, 6
        if length > 125:
            is_medium = length == 126
            length, start = data[2] << 8 | data[3], 8
            if not is_medium or length < 126:
                return None
        if size != start + length or first not in _WHOLE_MESSAGE or length > self.alone:
            return None
        try:
            return unmask(data, start, size, first != _FINAL_BINARY)
        except UnicodeDecodeError:
            return None

    def receive(
        self, data: bytes | bytearray, messages: Sink, size: int | None = None
    ) -> list[Control]:
        """Take the next bytes from the peer.

        Args:
            data: any cut of the stream. It is not kept; messages may overwrite a ``bytearray``.
            messages: gets every message that these bytes complete, ``str`` for text and
                ``bytes`` for binary, in order.
            size: how many bytes of ``data`` there are, if not all.

        Returns:
            The control frames among them and, last, a failure if there was one.
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
        self._inflated, self._frames, self.is_held = 0, 0, False
        try:
            if self._rest:
                position = self._start = min(self._rest, end)
                self._receive_piece(data, 0, position, messages)
                self._start = 0
            if position < end:
                self._parse(data, position, end, messages, controls)
                if self.is_held:
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
        self.alone = -1 if is_inside else min(self._max_frame_size, self._max_size)
        return controls

    def space(self) -> memoryview:
        """Return where to read to directly while ``large`` is not ``None``.

        Such a frame has one buffer, which grows as it fills, up to the frame's size and no
        further: a length that is claimed costs little. Release the view, then say ``filled()``.
        """
        assert self.large is not None
        if self._filled == len(self.large):
            size = min(self._needed, max(2 * self._filled, LARGE // 2))
            self.large.extend(bytes(size - self._filled))
        return memoryview(self.large)[self._filled :]

    def filled(self, size: int, messages: Sink) -> list[Control]:
        """Take the bytes that were read to ``space()``; see ``receive()``."""
        assert self.large is not None
        self._filled += size
        if self._filled < self._needed:
            return []
        data, self.large = self.large, None
        return self.receive(data, messages)

    def _receive_large(self, data: bytes | bytearray, end: int, messages: Sink) -> list[Control]:
        """Copy to ``space()``, for callers that have not read to it."""
        with self.space() as space:
            size = min(len(space), end)
            space[:size] = data[:size]
        controls = self.filled(size, messages)
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
                    len(messages) >= self._max_messages
                    or self._inflated >= self._max_size > 0
                    or self._frames >= _MANY
                ):
                    self.is_held, self._start = True, position
                    return
                first = data[position]
                # Section 5.2: the mask bit is the high bit of the second byte.
                length = data[position + 1] - 128
                # Judged by its first two bytes, and again when it has all arrived: both are cheap.
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
                    if length > self._max_size or length > self._max_frame_size:
                        raise self._too_big(length, self._max_size)
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
        """Keep the start of a frame until ``needed`` bytes of it are there."""
        self._needed = needed
        rest = bytearray(data[position:end])
        if needed < LARGE:
            self._buffer = rest
        else:
            self.large = rest
            self._filled = end - position

    def _hold(self, data: bytes | bytearray, end: int, kept: bytearray | None) -> None:
        """Keep what is not parsed yet, where it is if that is ours already."""
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
        """Hold a frame and its message to their limits before storing more of it.

        What a compressed message inflates to is looked at when it does.
        """
        message = self._message
        most = self._max_size
        if first & RSV1 if message is None else message.inflater is not None:
            most = max_deflated_size(most)
        if length > most or length > self._max_frame_size:
            raise self._too_big(length, most)
        if message is not None:
            if message.fragments >= self._max_fragments:
                raise Violation(
                    CloseCode.MESSAGE_TOO_BIG,
                    f"more than {self._max_fragments} fragments",
                    "too_many_fragments",
                )
            length += message.announced
            if message.inflater is not None:
                length -= message.fragments * FLUSH
            if length > most:
                raise self._too_big(length, most)

    def _too_big(self, length: int, most: int) -> Violation:
        if length > most:
            what = "bytes" if most == self._max_size else "compressed bytes"
            reason, counter = f"{length} {what}, limit {self._max_size}", "message_too_big"
        else:
            reason = f"frame of {length} bytes, limit {self._max_frame_size}"
            counter = "frame_too_big"
        return Violation(CloseCode.MESSAGE_TOO_BIG, reason, counter)

    # Frames that are not a whole message

    def _receive_frame(
        self, first: int, payload: bytes, messages: Sink, controls: list[Control]
    ) -> bool:
        """Take a frame; return whether it was the peer's last."""
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
        """Note that a frame of a message in parts begins, the first or another."""
        if self._message is None:
            inflater = None
            if first & RSV1 and self.deflate is not None:
                inflater = self._inflater or self.deflate.decompressor()
            self._message = PartialMessage(first & 0x0F, self._max_size, inflater)
        self._message.fragments += 1
        self._message.announced += length

    def _add(self, payload: str | bytes, final: bool, messages: Sink) -> None:
        message = self._message
        assert message is not None
        if not self.discards:
            message.add(payload, final)
        if final:
            self._message = None
            if self.discards:
                return
            whole = message.whole()
            if message.inflated:
                # As text it may take four times as much.
                self._inflated += sys.getsizeof(whole)
            if self.deflate is not None and self.deflate.remote_takeover:
                inflater = message.inflater or self._inflater
                # A stream that has ended (RFC 7692 section 7.2.3.4) inflates nothing more.
                self._inflater = None if inflater is None or inflater.eof else inflater
            messages.append(whole)

    # A text frame in pieces: taken as it comes, so that bad text need not be waited for

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
        # The mask goes on where it was cut (section 5.3).
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

    def _finish(self) -> None:
        self._finished = True
        self.is_held = False
        self._rest = 0
        self._buffer = self.large = self._message = self._inflater = None

"""Reads what a peer sends after it has broken a rule."""

from __future__ import annotations

from typing import Final

from .frames import CLOSE

__all__ = ["Remainder"]

#: Frames that are read. A peer that sends more does not react to our close frame.
_MANY: Final = 10_000

#: Bytes of the longest frame head.
_LONGEST_HEAD: Final = 14


class Remainder:
    """Looks for the close frame with which the peer answers ours; keeps no data.

    TCP must not be closed while the peer still sends: its system would get a RST, and might discard
    our close frame before the peer has read it (RFC 6455 section 7.1.1). So frames are skipped by
    their lengths, whatever else is wrong with them.

    Args:
        data: the bytes that have arrived already.
        start: where the broken frame, or the data after its last known byte, begins in ``data``.
        end: the end of ``data``.
        skip: remaining bytes of a frame that began before ``start``.

    Attributes:
        is_closed: the peer has sent its close frame.
    """

    __slots__ = ("_head", "_is_close", "_left", "_skip", "is_closed")

    def __init__(self, data: bytes | bytearray, start: int, end: int, skip: int) -> None:
        self._head = b""
        self._skip = skip
        # Whether the bytes to skip belong to a close frame.
        self._is_close = False
        self._left = _MANY
        self.is_closed = False
        self.receive(data, start, end)

    def receive(self, data: bytes | bytearray, start: int, end: int) -> None:
        """Process the next bytes, ``data[start:end]``."""
        while start < end and self._left and not self.is_closed:
            if self._skip:
                size = min(self._skip, end - start)
                self._skip -= size
                start += size
            else:
                start = self._begin(data, start, end)
            self.is_closed = self._is_close and not self._skip

    def _begin(self, data: bytes | bytearray, start: int, end: int) -> int:
        """Read the head of a frame, as far as it has arrived; return where to continue."""
        before = len(self._head)
        head = self._head + data[start : min(end, start + _LONGEST_HEAD - before)]
        length = head[1] & 0x7F if len(head) > 1 else 0
        extended = {126: 2, 127: 8}.get(length, 0)
        # An unmasked frame has a shorter head.
        size = 2 + extended + (4 if len(head) > 1 and head[1] & 0x80 else 0)
        if len(head) < size:
            self._head = head
            return end
        self._head = b""
        self._left -= 1
        self._skip = int.from_bytes(head[2 : 2 + extended], "big") if extended else length
        self._is_close = head[0] & 0x0F == CLOSE
        return start + size - before

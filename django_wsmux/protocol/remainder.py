"""What a peer goes on to send after it has broken a rule."""

from __future__ import annotations

from typing import Final

from .frames import CLOSE

__all__ = ["Remainder"]

#: Frames that are looked at. A peer that sends more of them does not listen.
_MANY: Final = 10_000

#: Bytes that the longest head of a frame has.
_LONGEST_HEAD: Final = 14


class Remainder:
    """Looks for the peer's close frame, with which it answers ours, and keeps nothing.

    TCP must not be closed while the peer still sends: its system would be sent a RST, and may throw
    the close frame away that it has not read yet (RFC 6455 section 7.1.1). So frames are followed
    by their lengths, whatever else is wrong with them.

    Args:
        data: what has arrived already.
        start: where the broken frame begins in ``data``, or what comes after its last known byte.
        end: the end of ``data``.
        skip: bytes to come of a frame that has begun before ``start``.

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
        """Take the next bytes, those of ``data`` from ``start`` to ``end``."""
        while start < end and self._left and not self.is_closed:
            if self._skip:
                size = min(self._skip, end - start)
                self._skip -= size
                start += size
            else:
                start = self._begin(data, start, end)
            self.is_closed = self._is_close and not self._skip

    def _begin(self, data: bytes | bytearray, start: int, end: int) -> int:
        """Read the head of a frame, as far as it is there; return where to go on."""
        before = len(self._head)
        head = self._head + data[start : min(end, start + _LONGEST_HEAD - before)]
        length = head[1] & 0x7F if len(head) > 1 else 0
        extended = {126: 2, 127: 8}.get(length, 0)
        # A frame without its mask is shorter.
        size = 2 + extended + (4 if len(head) > 1 and head[1] & 0x80 else 0)
        if len(head) < size:
            self._head = head
            return end
        self._head = b""
        self._left -= 1
        self._skip = int.from_bytes(head[2 : 2 + extended], "big") if extended else length
        self._is_close = head[0] & 0x0F == CLOSE
        return start + size - before

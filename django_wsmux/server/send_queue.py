"""Bytes that a peer has not taken yet, kept at what they weigh.

A frame that waits as an object of its own takes some 200 bytes beside its content: a peer that
reads nothing of many tiny ones would cost a hundred times the limit. So small pieces are joined.
Large ones are kept by reference: they may be a group's message, which all members share. One that
no one else holds any more, and of which little is left, is copied so that the rest can be freed.
"""

from __future__ import annotations

from collections import deque
from sys import getrefcount
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .streams import Stream

__all__ = ["LONG", "SendQueue"]

#: From this many bytes on a piece is not copied.
LONG: Final = 8192

# Pieces are joined up to this size: one system call sends it, and it grows at little cost.
_CHUNK: Final = 2**16

# References to what a memoryview shows where no one else has any: its own and the one that counts.
_ALONE: Final = 2


class SendQueue:
    """The pieces in their order, the small ones joined.

    Attributes:
        goal: how many bytes may be left when the time of the peer is over; ``None`` while it need
            only take something.
        taken: how many bytes it has taken since there is a goal.
    """

    __slots__ = ("_chunks", "goal", "taken")

    def __init__(self) -> None:
        self._chunks: deque[bytearray | memoryview] = deque()
        self.goal: int | None = None
        self.taken = 0

    def append(self, data: bytes, start: int) -> None:
        """Add what is left of ``data`` from ``start`` on."""
        chunks = self._chunks
        if chunks:
            self._trim()
        view = memoryview(data)[start:]
        if len(view) >= LONG:
            chunks.append(view)
            return
        last = chunks[-1] if chunks else None
        if type(last) is bytearray and len(last) < _CHUNK:
            last += view
        else:
            chunks.append(bytearray(view))

    def _trim(self) -> None:
        """Copy what is left of the first piece if that frees more than it takes."""
        first = self._chunks[0]
        if (
            type(first) is memoryview
            and 2 * len(first) <= len(first.obj)  # type: ignore[arg-type]  # always bytes
            and getrefcount(first.obj) <= _ALONE
        ):
            self._chunks[0] = bytearray(first)

    def send(self, stream: Stream) -> tuple[int, bool]:
        """Send what the peer takes now.

        What was refused is offered again from the same byte on and no shorter, as TLS demands.

        Returns:
            How many bytes that is, and whether it is all.

        Raises:
            OSError: the connection is lost.
        """
        chunks, total = self._chunks, 0
        while chunks:
            chunk = chunks[0]
            try:
                sent = stream.send(chunk)
            except BlockingIOError:
                break
            total += sent
            if sent < len(chunk):
                if type(chunk) is bytearray:
                    del chunk[:sent]  # moves where it begins, no bytes
                else:
                    chunks[0] = chunk[sent:]
                break
            chunks.popleft()
        return total, not chunks

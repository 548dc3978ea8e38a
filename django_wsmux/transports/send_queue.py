"""A compact queue of bytes that a peer has not taken yet.

A frame that waits as a separate object takes some 200 bytes beside its content: many tiny frames
for a peer that reads nothing would take a hundred times the limit. So small pieces are joined.
Large ones are kept by reference, because members of a group may share them. If no one else holds a
large piece any more and little of it is left, that is copied so that the rest can be freed.
"""

from __future__ import annotations

from collections import deque
from sys import getrefcount
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .streams import Stream

__all__ = ["LONG", "SendQueue"]

#: Pieces of at least this many bytes are not copied.
LONG: Final = 8192

# Pieces are joined up to this size: one system call sends it, and growing it is cheap.
_CHUNK: Final = 2**16

# References to the object of a memoryview if no one else has any: its own and getrefcount()'s.
_ALONE: Final = 2


class SendQueue:
    """The pieces in order, small ones joined.

    Attributes:
        goal: how many bytes may be left when the peer's time is over; ``None`` if the peer only
            has to take some bytes.
        taken: how many bytes the peer has taken since ``goal`` was set.
    """

    __slots__ = ("_chunks", "goal", "taken")

    def __init__(self) -> None:
        self._chunks: deque[bytearray | memoryview] = deque()
        self.goal: int | None = None
        self.taken = 0

    def append(self, data: bytes, start: int) -> None:
        """Add ``data[start:]``."""
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
        """Copy the rest of the first piece if that frees more memory than it takes."""
        first = self._chunks[0]
        if (
            type(first) is memoryview
            and 2 * len(first) <= len(first.obj)  # type: ignore[arg-type]  # always bytes
            and getrefcount(first.obj) <= _ALONE
        ):
            self._chunks[0] = bytearray(first)

    def rest(self) -> bytes:
        """Return all that is queued."""
        return b"".join(self._chunks)

    def send(self, stream: Stream) -> tuple[int, bool]:
        """Send what the peer takes now.

        Refused bytes are passed again from the same byte on, and no fewer, as TLS requires.

        Returns:
            The number of bytes sent, and whether the queue is empty.

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
                    del chunk[:sent]  # moves the start, copies nothing
                else:
                    chunks[0] = chunk[sent:]
                break
            chunks.popleft()
        return total, not chunks

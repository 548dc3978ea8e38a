"""What waits for a socket to open, or for as long as it is held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..protocol.prepared import Prepared

__all__ = ["Held", "weight"]

# What a waiting message takes beside its payload, as many small ones add up too.
_OVERHEAD: Final = 128


def weight(message: Prepared) -> int:
    """Return for how many bytes a waiting message of a group counts."""
    return len(message) + _OVERHEAD


class Held:
    """What one socket keeps back.

    Attributes:
        depth: how many calls of ``Connection.release()`` are to come.
        acts: what the view itself has sent before the 101.
        messages: what groups have sent since.
        closing: code and reason, when a group has closed the socket.
    """

    __slots__ = ("_size", "acts", "closing", "depth", "messages")

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.acts: list[Callable[[], None]] = []
        self.messages: list[Prepared] = []
        self.closing: tuple[int, str] | None = None
        self._size = 0

    def add(self, message: Prepared, limit: int) -> bool:
        """Keep a message, if it is the only one or there is room for it; return whether it is kept.

        Args:
            message: comes after those that are there.
            limit: bytes that may wait.
        """
        size = self._size + weight(message)
        if self.messages and size > limit:
            return False
        self.messages.append(message)
        self._size = size
        return True

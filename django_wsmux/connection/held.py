"""What waits for a socket to open, or for as long as it is held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..protocol.prepared import PreparedMessage

__all__ = ["Held", "weight"]

# What a waiting message takes beside its payload, as many small ones add up too.
_OVERHEAD: Final = 128

# The same for one of the view's own.
_OVERHEAD_OF_OWN: Final = 512


def weight(message: PreparedMessage) -> int:
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

    __slots__ = ("_own_size", "_size", "acts", "closing", "depth", "messages")

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.acts: list[Callable[[], None]] = []
        self.messages: list[PreparedMessage] = []
        self.closing: tuple[int, str] | None = None
        self._size = self._own_size = 0

    def postpone(self, act: Callable[[], None], size: int, limit: int) -> bool:
        """Keep what the view itself sends, unless too much waits; return whether it is kept.

        Args:
            act: sends it.
            size: of the message, which may be any.
            limit: bytes that may wait before it.
        """
        if self._own_size > limit:
            return False
        self.acts.append(act)
        self._own_size += size + _OVERHEAD_OF_OWN
        return True

    def add(self, message: PreparedMessage, limit: int) -> bool:
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

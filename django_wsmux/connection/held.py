"""Messages that wait until a socket opens, until it is released, or until a replay ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from ..protocol.prepared import PreparedMessage

__all__ = ["Held", "weight"]

# Memory of a waiting message beside its payload, because many small ones add up too.
_OVERHEAD: Final = 128

# The same for a message of the view itself.
_OVERHEAD_OF_OWN: Final = 512


def weight(message: PreparedMessage) -> int:
    """Return how many bytes a waiting group message counts for."""
    return len(message) + _OVERHEAD


class Held:
    """The messages that one socket holds back.

    Attributes:
        depth: the number of calls of ``Connection.release()`` until they are sent.
        acts: calls that send the messages of the view from before the 101.
        replays: earlier messages of groups. They are sent before ``messages``, as fast as the peer
            accepts them. The code that adds them limits their number.
        messages: messages of groups.
        closing: code and reason if a group has closed the socket.
    """

    __slots__ = ("_own_size", "_size", "acts", "closing", "depth", "messages", "replays")

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.acts: list[Callable[[], None]] = []
        self.replays: deque[PreparedMessage] = deque()
        self.messages: list[PreparedMessage] = []
        self.closing: tuple[int, str] | None = None
        self._size = self._own_size = 0

    def postpone(self, act: Callable[[], None], size: int, limit: int) -> bool:
        """Add a message of the view, unless too much waits; return whether it was added.

        Args:
            act: sends the message.
            size: the size of the message, which is not limited.
            limit: maximum number of bytes that may already wait.
        """
        if self._own_size > limit:
            return False
        self.acts.append(act)
        self._own_size += size + _OVERHEAD_OF_OWN
        return True

    def add(self, message: PreparedMessage, limit: int) -> bool:
        """Add a group message if it is the first or fits; return whether it was added.

        Args:
            message: the message.
            limit: maximum number of bytes that may wait.
        """
        size = self._size + weight(message)
        if self.messages and size > limit:
            return False
        self.messages.append(message)
        self._size = size
        return True

    def next(self) -> bool:
        """Return whether a message is left; then the next one is the first of ``replays``."""
        if not self.replays and self.messages:
            # The peer may still be slow, so these are also sent only as fast as it accepts them.
            self.replays.extend(self.messages)
            self.messages.clear()
            self._size = 0
        return bool(self.replays)

    def take(self, limit: int) -> list[PreparedMessage]:
        """Remove the next messages of ``replays``; return them.

        Args:
            limit: the number of bytes after which no more are taken.
        """
        replays = self.replays
        count = size = 0
        for message in replays:
            count += 1
            size += len(message.payload)
            if size >= limit:
                break
        if count < len(replays):
            return [replays.popleft() for _ in range(count)]
        found = [*replays]
        replays.clear()
        return found

    def discard(self, is_unwanted: Callable[[PreparedMessage], bool]) -> None:
        """Remove the group messages for which ``is_unwanted()`` is true."""
        self.replays = deque(each for each in self.replays if not is_unwanted(each))
        self.messages = [each for each in self.messages if not is_unwanted(each)]
        self._size = sum(map(weight, self.messages))

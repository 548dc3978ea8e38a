"""Messages that wait for a view, and the memory that they take."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from sys import getsizeof
from typing import Any

from ..protocol.prepared import PreparedMessage
from .held import weight

__all__ = ["MessageQueue"]


def _size(message: Any) -> int:
    # One wide character makes all of a text take up to four bytes each, which len() does not show.
    return weight(message) if isinstance(message, PreparedMessage) else getsizeof(message)


class MessageQueue(deque[Any]):
    """A queue of messages; it exists only while messages wait.

    The codec appends to it as to a list, so new messages are measured when ``size`` is read.

    Attributes:
        group_bytes: the size of the group messages in it; see ``group_receive.py``.
    """

    __slots__ = ("_measured", "_size", "group_bytes")

    def __init__(self, *messages: Any) -> None:
        super().__init__(messages)
        self.group_bytes = 0
        # The number of messages, from the oldest on, that are measured, and their bytes.
        self._measured = self._size = 0

    @property
    def size(self) -> int:
        """The memory of the messages, in bytes."""
        new = len(self) - self._measured
        if new:
            self._size += sum(map(_size, islice(reversed(self), new)))
            self._measured += new
        return self._size

    def take(self) -> Any:
        """Remove the oldest message and return it."""
        message = self.popleft()
        if self._measured:
            self._measured -= 1
            self._size -= _size(message)
        return message

    def discard(self, is_unwanted: Callable[[PreparedMessage], bool]) -> None:
        """Remove group messages."""
        messages = list(self)
        self.clear()
        self._measured = self._size = 0
        for message in messages:
            if not isinstance(message, PreparedMessage):
                self.append(message)
            elif is_unwanted(message):
                self.group_bytes -= weight(message)
            else:
                self.append(message)

    def put_back(self, message: Any) -> None:
        """Put a message back as the oldest."""
        self.appendleft(message)
        self._measured += 1
        self._size += _size(message)

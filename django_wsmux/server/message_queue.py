"""Messages that wait for a view, and what they take of memory."""

from __future__ import annotations

from collections import deque
from itertools import islice
from sys import getsizeof
from typing import Any

from ..protocol.prepared import Prepared
from .held import weight

__all__ = ["MessageQueue"]


def _size(message: Any) -> int:
    # Text with a single wide character takes up to four bytes for each: len() says nothing of it.
    return weight(message) if type(message) is Prepared else getsizeof(message)


class MessageQueue(deque[Any]):
    """Messages in their order; there is one only while messages wait.

    The codec appends to it as to any list, so what is new is measured when somebody asks.

    Attributes:
        group_bytes: how much of it is messages of groups; see ``intercepting.py``.
    """

    __slots__ = ("_measured", "_size", "group_bytes")

    def __init__(self, *messages: Any) -> None:
        super().__init__(messages)
        self.group_bytes = 0
        # How many messages, from the oldest on, are measured, and the bytes that they take.
        self._measured = self._size = 0

    @property
    def size(self) -> int:
        """How many bytes of memory the messages take."""
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

    def put_back(self, message: Any) -> None:
        """Make a message the oldest again."""
        self.appendleft(message)
        self._measured += 1
        self._size += _size(message)

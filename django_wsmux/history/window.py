"""The recent messages of streams, encoded, in memory. Most clients that return missed only these.

They are shared by all sockets of the process. The windows of all streams have a common limit in
bytes; the streams that were used least recently lose their messages first.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import Final, Generic, Protocol, TypeVar

__all__ = ["LIMIT", "Numbered", "Window", "Windows"]

#: The most bytes of all windows of a process.
LIMIT: Final = 2**20

#: Memory of a message beside its payload.
_OVERHEAD: Final = 400


class Numbered(Protocol):
    """A message with its number."""

    @property
    def offset(self) -> int: ...
    def __len__(self) -> int: ...


Message = TypeVar("Message", bound=Numbered)


class Window(Generic[Message]):
    """Consecutive messages of one stream, up to the last one that was delivered.

    Attributes:
        start: the offset before the first of them.
        size: their bytes.
        counted: the part of ``size`` that ``Windows`` has counted.
    """

    __slots__ = ("_messages", "counted", "size", "start")

    def __init__(self, start: int = 0) -> None:
        # There are as many groups as sockets, perhaps, and an empty deque takes 760 bytes.
        self._messages: deque[Message] | tuple[()] = ()
        self.start = start
        self.size = self.counted = 0

    def __iter__(self) -> Iterator[Message]:
        return iter(self._messages)

    def __len__(self) -> int:
        return len(self._messages)

    def _begun(self) -> deque[Message]:
        if not isinstance(self._messages, deque):
            self._messages = deque()
        return self._messages

    def append(self, message: Message, most: int) -> None:
        """Add the next message; keep at most ``most``."""
        if self._messages and message.offset != self._messages[-1].offset + 1:
            self.clear(message.offset - 1)
        elif not self._messages:
            self.start = message.offset - 1
        self._begun().append(message)
        self.size += len(message) + _OVERHEAD
        while len(self._messages) > most:
            self.drop_oldest()

    def drop_oldest(self) -> None:
        """Drop the oldest message."""
        message = self._begun().popleft()
        self.size -= len(message) + _OVERHEAD
        self.start = message.offset

    def clear(self, start: int) -> None:
        """Drop all messages."""
        self._messages = ()
        self.start, self.size = start, 0

    def after(self, offset: int) -> list[Message]:
        """Return the messages above an offset, which must not be lower than ``start``."""
        skipped = max(offset - self.start, 0)
        found = list(self._messages)
        return found[skipped:]

    def extend_back(self, messages: Iterable[Message]) -> None:
        """Add messages that end before the first one, or overlap with it."""
        for message in reversed(list(messages)):
            if message.offset == self.start:
                self._begun().appendleft(message)
                self.start -= 1
                self.size += len(message) + _OVERHEAD


class Windows(Generic[Message]):
    """The windows of all streams, by any key."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._windows: OrderedDict[object, Window[Message]] = OrderedDict()
        self.size = 0

    def use(self, key: object, window: Window[Message]) -> None:
        """Note that the window of a stream was used, and apply the limit."""
        self._count(window)
        if len(window):
            self._windows[key] = window
            self._windows.move_to_end(key)
        while self.size > self._limit and self._windows:
            key, oldest = next(iter(self._windows.items()))
            if len(oldest):
                oldest.drop_oldest()
            else:
                del self._windows[key]
            # It may have been cleared since it was used.
            self._count(oldest)

    def _count(self, window: Window[Message]) -> None:
        self.size += window.size - window.counted
        window.counted = window.size

    def discard(self, key: object) -> None:
        """Forget a stream."""
        window = self._windows.pop(key, None)
        if window is not None:
            self.size -= window.counted
            window.counted = 0

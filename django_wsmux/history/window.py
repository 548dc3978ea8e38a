"""The recent messages of streams, encoded, in memory. Most clients that return missed only these.

They are shared by all sockets of the process. The windows of all streams have a common limit in
bytes; the streams that were used least recently lose their messages first.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final, Generic, Protocol, TypeVar

__all__ = ["LIMIT", "Numbered", "Window", "Windows"]

#: The most bytes of all windows of a process.
LIMIT: Final = 2**20

#: Memory of a message beside its payload.
_OVERHEAD: Final = 400


class Numbered(Protocol):
    """A message with its number."""

    @property
    def offset(self) -> int: ...
    @property
    def payload(self) -> bytes: ...


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
        self._messages: deque[Message] = deque()
        self.start = start
        self.size = self.counted = 0

    def __iter__(self) -> Iterator[Message]:
        return iter(self._messages)

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def payload(self) -> int:
        """The bytes of the messages themselves."""
        return self.size - len(self) * _OVERHEAD

    def append(self, message: Message, most: int) -> None:
        """Add the next message; keep at most ``most``."""
        messages = self._messages
        if messages and message.offset != messages[-1].offset + 1:
            self.clear(message.offset - 1)
        elif not messages:
            self.start = message.offset - 1
        messages.append(message)
        self.size += len(message.payload) + _OVERHEAD
        while len(messages) > most:
            self.drop_oldest()

    def drop_oldest(self) -> None:
        """Drop the oldest message."""
        message = self._messages.popleft()
        self.size -= len(message.payload) + _OVERHEAD
        self.start = message.offset

    def clear(self, start: int) -> None:
        """Drop all messages."""
        self._messages.clear()
        self.start, self.size = start, 0

    def first_after(self, offset: int) -> Message | None:
        """Return the first message above an offset; ``None`` if there is none."""
        skipped = max(offset - self.start, 0)
        return self._messages[skipped] if skipped < len(self._messages) else None

    def after(self, offset: int) -> list[Message]:
        """Return the messages above an offset, which must not be lower than ``start``."""
        return [*islice(self._messages, max(offset - self.start, 0), None)]

    def extend_back(self, messages: Iterable[Message]) -> None:
        """Add messages that end before the first one, or overlap with it."""
        for message in reversed(list(messages)):
            if message.offset == self.start:
                self._messages.appendleft(message)
                self.start -= 1
                self.size += len(message.payload) + _OVERHEAD


class Windows(Generic[Message]):
    """The windows of all streams, by any key.

    Args:
        limit: the most bytes of all windows.
        emptied: called with the key of a stream that lost its last message.
    """

    def __init__(
        self, limit: int = LIMIT, emptied: Callable[[Any], object] = lambda key: None
    ) -> None:
        self._limit = limit
        self._emptied = emptied
        self._windows: OrderedDict[Any, Window[Message]] = OrderedDict()
        self.size = 0

    def use(self, key: object, window: Window[Message]) -> None:
        """Note that the window of a stream was used, and apply the limit."""
        self.size += window.size - window.counted
        window.counted = window.size
        if window.size:
            self._windows[key] = window
            self._windows.move_to_end(key)
        elif key in self._windows:
            del self._windows[key]
        while self.size > self._limit and self._windows:
            oldest_key, oldest = next(iter(self._windows.items()))
            # It may have been cleared since it was used.
            if oldest.size:
                oldest.drop_oldest()
            self.size += oldest.size - oldest.counted
            oldest.counted = oldest.size
            if not oldest.size:
                del self._windows[oldest_key]
                self._emptied(oldest_key)

    def discard(self, key: object) -> None:
        """Forget a stream."""
        window = self._windows.pop(key, None)
        if window is not None:
            self.size -= window.counted
            window.counted = 0

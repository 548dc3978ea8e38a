"""What a process keeps of each group with a history that has members in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from ..history.sequence import Sequence
from ..history.store import Entry, Keep, Reading, Stream
from ..history.window import Window
from ..protocol.positions import Position
from ..protocol.prepared import KINDS
from . import envelope
from .members import Key, full_name
from .numbered import NumberedMessage, stream_of

if TYPE_CHECKING:
    from ..connection.connection import Connection

__all__ = ["Tracked"]

# Nothing is added to it: it is the same one for all groups.
_NONE: Final[Any] = MappingProxyType({})

#: The limits of a group whose pattern was removed from the settings while it has members.
_GONE: Final = Keep(1, 0.0)


class Tracked(Sequence[NumberedMessage]):
    """A group with a history that has members in this process; and the messages it was delivered.

    Args:
        key: the key of the group.

    Attributes:
        key: the key of the group.
        waiting: members that are not live because the store could not be read when they joined, and
            a function for each that admits it.
        behind: members that did not get a message because they were too slow, and the position
            before that message.
    """

    # There are as many groups as sockets, perhaps: what most of them lack is made when needed.
    __slots__ = ("_window", "behind", "key", "waiting")

    def __init__(self, key: Key) -> None:
        super().__init__()
        self.key = key
        self.waiting: dict[Connection, Callable[[], None]] = _NONE
        self.behind: dict[Connection, Position] = _NONE
        self._window: Window[NumberedMessage] | None = None

    @property
    def stream(self) -> Stream:
        """The group in the store."""
        stream = stream_of(self.key)
        return Stream(full_name(self.key), _GONE, "") if stream is None else stream

    @property
    def window(self) -> Window[NumberedMessage]:
        """The recent messages."""
        if self._window is None:
            self._window = Window(self.offset)
        return self._window

    def clear_window(self) -> None:
        """Drop all recent messages."""
        if self._window is not None:
            self._window.clear(self.offset)

    def drop_window(self) -> None:
        """Free the memory of the window if it is empty."""
        if self._window is not None and not self._window.size:
            self._window = None

    def note_waiting(self, member: Connection, admit: Callable[[], None]) -> None:
        """Note that a member waits for the store."""
        if not self.waiting:
            self.waiting = {}
        self.waiting[member] = admit

    def note_behind(self, member: Connection, position: Position) -> None:
        """Note that a member did not get a message; ``position`` is the one before it."""
        if not self.behind:
            self.behind = {}
        self.behind.setdefault(member, position)

    def end_waiting(self, member: Connection) -> None:
        """Note that a member does not wait any more."""
        if member in self.waiting:
            del self.waiting[member]
            self.waiting = self.waiting or _NONE

    def end_behind(self, member: Connection) -> None:
        """Note that a member is not behind any more."""
        if member in self.behind:
            del self.behind[member]
            self.behind = self.behind or _NONE

    @property
    def is_value(self) -> bool:
        """Whether only the newest message matters, so there are no gaps."""
        return self.stream.keep.messages == 1

    def is_kept(self, message: NumberedMessage) -> bool:
        """Return whether a message is recent enough to be replayed."""
        return time.time() - message.sent <= self.stream.keep.seconds

    def refill(self, reading: Reading) -> None:
        """Add the older messages of a reading to the window."""
        if reading.entries:
            found = [self.message(entry) for entry in reading.entries]
            self.window.extend_back(message for message in found if message is not None)

    def message(self, entry: Entry) -> NumberedMessage | None:
        """Return the message of an entry; ``None`` if it is damaged."""
        try:
            found = envelope.unpack(entry.message)
        except envelope.UnreadableEnvelope:
            return None
        if found.kind not in KINDS:
            return None
        position = Position(self.epoch, entry.offset)
        return NumberedMessage(self.key, position, found, entry.sent)

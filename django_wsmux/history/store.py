"""The interface of a store, which numbers the messages of groups and keeps them for a while.

A group with a history is a *stream* of the store. Its messages have dense offsets from
1 on. An *epoch* is one life of a stream: it begins when the stream's row is made, or when the
stream is forgotten. A stream whose row is lost begins again, with a later epoch, so an offset means
something only together with its epoch.

``append()`` is called for each message; everything else is rare. All methods may be called from any
thread or greenlet, wait for a bounded time, and raise ``BackendUnavailable`` if the store cannot be
used, for example because the disk is full, the file is locked, the broker is down, or the layout is
that of a newer release.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Final, NamedTuple

__all__ = [
    "IDLE_SECONDS",
    "KEY_SECONDS",
    "LAYOUT",
    "MAX_KEYS",
    "Appended",
    "Changed",
    "Entry",
    "Keep",
    "Reading",
    "Store",
    "Stream",
]

#: The layout of the data in brokers. A process that finds a higher one refuses to publish.
LAYOUT: Final = 1

#: Seconds for which the row of a stream is kept after its last message.
IDLE_SECONDS: Final = 30 * 86_400

#: Seconds for which a key prevents a second message, and the most keys of a stream.
KEY_SECONDS: Final = 600.0
MAX_KEYS: Final = 10_000


class Keep(NamedTuple):
    """The limits of a stream: one value of ``WEBSOCKET_HISTORY``.

    Attributes:
        messages: the most messages.
        seconds: the age in seconds from which a message is no longer returned.
        bytes: the most bytes of all messages.
    """

    messages: int
    seconds: float
    bytes: int = 2**20


class Stream(NamedTuple):
    """A group as a store sees it.

    Attributes:
        name: names the stream; contains the prefix of ``WEBSOCKET_GROUP_PREFIX``, if any.
        keep: its limits.
        channel: the channel of the backend that the group's messages are published on.
    """

    name: str
    keep: Keep
    channel: str


class Appended(NamedTuple):
    """The result of ``Store.append()``.

    Attributes:
        epoch, offset: the number of the message.
        is_published: whether the store has published the message, too.
    """

    epoch: str
    offset: int
    is_published: bool


class Entry(NamedTuple):
    """A stored message.

    Attributes:
        offset: its number in the epoch.
        sent: when it was stored, in seconds since 1970 by the clock of the store.
        message: the bytes that were passed to ``append()``.
    """

    offset: int
    sent: float
    message: bytes


class Reading(NamedTuple):
    """The row of a stream and some of its messages, read together.

    Attributes:
        store: the incarnation of the store: a text without ``.`` and ``-``. It changes when the
            store may have lost rows: when it is made again, restarted without them, or restored.
        now: the clock of the store, in microseconds.
        epoch: ``"<store>.<moment>"``, the moment when the epoch began in microseconds, as
            base-36 digits; ``""`` if the stream has no row of the current incarnation.
        top: offset of the newest message; 0 if there is none.
        first: offset of the oldest message that is kept; ``top + 1`` if none is.
        is_forgotten: whether the epoch began with ``forget()``.
        entries: the messages asked for, in order.
    """

    store: str
    now: int
    epoch: str = ""
    top: int = 0
    first: int = 1
    is_forgotten: bool = False
    entries: tuple[Entry, ...] = ()


class Changed(NamedTuple):
    """A stream with new messages, or a new epoch, since a call of ``Store.changed()``."""

    name: str
    epoch: str
    top: int


class Store(ABC):
    """Numbers and keeps messages; see the module.

    A forked child begins again with its own connections.

    Attributes:
        is_private: whether no other process uses it, and it sweeps itself.
    """

    is_private = False

    @abstractmethod
    def append(
        self, stream: Stream, message: bytes, *, key: str = "", key_seconds: float = KEY_SECONDS
    ) -> Appended | None:
        """Number a message and keep it.

        A store in the backend's own broker publishes it in the same step: ``NUMBERED``, the length
        of the position in one byte, the position, and the message (``groups.envelope``).

        Args:
            stream: the group.
            message: an envelope.
            key: a second message with this key is not stored; ``""`` for no key.
            key_seconds: how long the key is remembered.

        Returns:
            The number; ``None`` for a repeated key.

        Raises:
            BackendUnavailable: nothing was stored, as far as is known.
        """

    @abstractmethod
    def release(self, stream: Stream, keys: Collection[str], seconds: float = KEY_SECONDS) -> None:
        """Let keys expire after at most some seconds.

        Args:
            stream: the group.
            keys: keys of its messages, which may have more time left.
            seconds: the longest time for which they are still remembered.
        """

    @abstractmethod
    def read(
        self,
        stream: Stream,
        since: int | None = None,
        limit: int = 0,
        *,
        max_bytes: int = 2**62,
        newest: bool = False,
    ) -> Reading:
        """Return a consistent view of a stream's row and its messages. Write nothing.

        Messages that are older than the stream's ``keep.seconds`` are not returned, and do not
        count as kept in ``Reading.first``.

        Args:
            stream: the group.
            since: return messages with higher offsets; ``None`` for none.
            limit: the most messages to return.
            max_bytes: return no more messages once they have this many bytes together.
            newest: return the newest of them instead of the oldest, in ascending order as well.
        """

    @abstractmethod
    def changed(self, seen: str) -> tuple[str, list[Changed]]:
        """Return the streams that have changed; the cost depends on the number of changes.

        A stream may be returned again although it has not changed.

        Args:
            seen: the first value that the last call returned; ``""`` at first, which returns no
                stream.

        Returns:
            The value to pass next, and the streams. The value is ``""`` if the changes are unknown:
            the store was restarted, or the last call is more than a minute ago. Then call it again,
            and read the rows of all streams.
        """

    @abstractmethod
    def forget(self, stream: Stream) -> str:
        """Delete the messages of a stream, begin a new epoch, and return it.

        The new epoch is later than the last one by at least one microsecond, even if the clock was
        set back.
        """

    @abstractmethod
    def sweep(self) -> None:
        """Delete expired, idle and excess data; each process calls this at intervals.

        These are messages and keys that have expired, rows that have been idle for
        ``IDLE_SECONDS``, and the oldest messages of all streams beyond ``WEBSOCKET_HISTORY_BYTES``.
        """

    @abstractmethod
    def close(self) -> None:
        """Close files and connections; later calls open them again."""

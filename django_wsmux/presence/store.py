"""The interface of a store of presence: one row for each connection that is present in a group.

Someone is present under a *key*, such as the primary key of a user, as long as at least one
connection with that key has a row. Each change of who is present has a new *version* of its group,
so a process that knows a version can read what has changed since. Publications between processes
carry no data: they only say that there is a new version.

A row belongs to a process. A process that shows no sign of life for ``LEAVING_SECONDS`` loses its
rows: any other process may call ``expire()``. From this moment on the rows do not count, and they
never count again, because others may have read a list without them. If the process continues, it
enters its connections again, and their keys join again.

While a broker is away, no process can show a sign of life. When it is back, every process has
``LEAVING_SECONDS`` to show one before ``expire()`` removes its rows: ``presence.absence``.

A version is ``<epoch>.<number>``. The number grows with each change. The epoch is random, and is
another one if the row of the group was lost or removed.

All methods may be called from any thread or greenlet, wait for a bounded time, and raise
``BackendUnavailable`` if the store cannot be used. Each changes the store in one step, so of two
processes that change the same key at the same time, exactly one sees that the key has joined or
left.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

__all__ = [
    "LEAVING_SECONDS",
    "LEFT_SECONDS",
    "NO_GROUP",
    "Entry",
    "Person",
    "PresenceStore",
    "Reading",
]

#: Seconds after the last sign of life of a process, or after the end of a connection, until its
#: rows are removed.
LEAVING_SECONDS: Final = 15.0

#: Seconds for which a store remembers which keys have left. A process that knows only an older
#: version reads the whole list.
LEFT_SECONDS: Final = 60.0

#: The version of a group that has no row.
NO_GROUP: Final = "-.0"


class Entry(NamedTuple):
    """A connection that is present in a group.

    Attributes:
        connection: the id of its client, or another id that no other connection has.
        key: who is present.
        info: what others see of the key, as JSON.
    """

    connection: str
    key: str
    info: str


class Person(NamedTuple):
    """A key that is present.

    Attributes:
        key: the key.
        info: the ``info`` that was entered last for the key, as JSON.
        since: when the key joined, in seconds since 1970 by the clock of the store.
    """

    key: str
    info: str
    since: float


class Reading(NamedTuple):
    """Who is present in a group, or what has changed since a version.

    Attributes:
        version: the version of the group that is described; never ``""``.
        is_whole: whether ``joined`` has all keys that are present.
        joined: the keys that are present, or those that have joined or have another ``info`` since
            the version that was passed. In the order in which they joined or changed.
        left: the keys that have left since, except those that have joined since as well.
    """

    version: str
    is_whole: bool
    joined: tuple[Person, ...]
    left: tuple[str, ...] = ()


class PresenceStore(ABC):
    """Keeps who is present; see the module.

    Groups are named by their full name, with the prefix of ``WEBSOCKET_GROUP_PREFIX``. A forked
    child begins again with its own connections.

    Attributes:
        leaving_seconds, left_seconds: ``LEAVING_SECONDS`` and ``LEFT_SECONDS``; tests change them.
    """

    leaving_seconds = LEAVING_SECONDS
    left_seconds = LEFT_SECONDS

    @abstractmethod
    def enter(self, group: str, entries: Collection[Entry], process: str) -> str:
        """Add the rows of connections, or take them over from another process.

        A key that is not present joins. A key with another ``info`` than before gets the new one.
        A key that has only rows that do not count joins again. The call is a sign of life of
        ``process``.

        Args:
            group: the group.
            entries: at most some thousand. One for a connection that has a row replaces it: its
                old key may leave.
            process: the id of the process that the connections belong to.

        Returns:
            The new version; ``""`` if no key joined or left, and no info changed.
        """

    @abstractmethod
    def leave(self, group: str, connections: Collection[str], process: str) -> str:
        """Remove rows. A key whose last row is removed leaves.

        Args:
            group: the group.
            connections: the ids of the connections. Those without a row are ignored.
            process: rows that another process has taken over stay.

        Returns:
            The new version; ``""`` if no key left.
        """

    @abstractmethod
    def read(self, group: str, since: str = "") -> Reading:
        """Return who is present, or what has changed.

        If this returns the whole list, it has only keys with a row that counts.

        Args:
            group: the group.
            since: a version; ``""`` for the whole list. The whole list is also returned for a
                version that is too old, or has another epoch.
        """

    @abstractmethod
    def changed(self, seen: Mapping[str, str]) -> list[str]:
        """Return the groups that have another version. One query, whatever the number of groups.

        Args:
            seen: the known version of each group.
        """

    @abstractmethod
    def renew(self, process: str) -> bool:
        """Note a sign of life of a process.

        Returns:
            False if the rows of the process no longer count, or the store was made again. This is
            told once if ``enter()`` was called first: ``presence.lives``. The caller then enters
            all its connections again.
        """

    @abstractmethod
    def expire(self) -> list[tuple[str, str]]:
        """Remove the rows of processes without a sign of life, and what is no longer needed.

        Every process calls this at intervals. Of several calls at the same time, one reports a
        change.

        Returns:
            The groups that someone has left, with their new versions.
        """

    @abstractmethod
    def close(self) -> None:
        """Close files and connections; later calls open them again."""

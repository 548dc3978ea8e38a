"""The members of groups in this process.

A group with one member, such as that of a user with a single window, has no container, since there
may be as many groups as sockets.
"""

from __future__ import annotations

from _thread import RLock
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from ..connection import client_ids, fanout, hub_thread
from ..connection.counters import count, counters
from ..connection.registry import yielding_every
from ..protocol.v1 import CONNECTION
from . import excluding
from .closings import Closings

if TYPE_CHECKING:
    from ..connection.connection import Connection
    from ..protocol.prepared import PreparedMessage

__all__ = [
    "PEOPLE",
    "Key",
    "Members",
    "channel_of",
    "full_name",
    "key_of_full_name",
    "name_of",
    "prefix_of",
]

#: The key of a group: its name, or prefix and name with ``WEBSOCKET_GROUP_PREFIX``. The name alone
#: costs least, and most projects have no prefix.
Key = str | tuple[str, str]


#: The channel of all groups of users, sessions and connections; no other group may have this name.
PEOPLE: Final = "@people"

#: Separates prefix and name: a control character, which neither contains.
_SEPARATOR: Final = "\x1f"


def full_name(key: Key) -> str:
    """Return one text for the prefix and the name of a group."""
    return key if isinstance(key, str) else _SEPARATOR.join(key)


def key_of_full_name(name: str) -> Key:
    """Return the key of a group from the result of ``full_name()``."""
    prefix, separator, own = name.partition(_SEPARATOR)
    return (prefix, own) if separator else name


def name_of(key: Key) -> str:
    """Return the name of a group, without its prefix."""
    return key if isinstance(key, str) else key[1]


def channel_of(key: Key) -> str:
    """Return the channel of the backend that a group's messages are published on."""
    return PEOPLE if name_of(key).startswith("@") else full_name(key)


def prefix_of(key: Key) -> str:
    """Return the prefix of a group, or ``""``."""
    return "" if isinstance(key, str) else key[0]


class Members:
    """The groups by key; empty groups are removed."""

    __slots__ = ("_groups", "_infos", "_lock", "closings")

    def __init__(self) -> None:
        # One member, or a dict of several in the order in which they joined.
        self._groups: dict[Key, Any] = {}
        # The info of members that joined with one, by group and member.
        self._infos: dict[tuple[Key, Connection], Any] = {}
        # For servers with threads; greenlets do not switch here.
        self._lock = RLock()
        #: Remembers groups of users and sessions that are closed during handshakes.
        self.closings = Closings()

    def add(self, key: Key, member: Connection, info: Any = None) -> bool:
        """Add a member; return whether the group is new."""
        with self._lock:
            return self._add(key, member, info)

    def _add(self, key: Key, member: Connection, info: Any) -> bool:
        if info is not None:
            self._infos[key, member] = info
        group = self._groups.get(key)
        if group is None:
            self._groups[key] = member
            return True
        if type(group) is dict:
            group[member] = None
        elif group is not member:
            self._groups[key] = {group: None, member: None}
        return False

    def discard(self, key: Key, member: Connection) -> bool:
        """Remove a member; return whether that left the group empty."""
        with self._lock:
            return self._discard(key, member)

    def _discard(self, key: Key, member: Connection) -> bool:
        self._infos.pop((key, member), None)
        group = self._groups.get(key)
        if type(group) is dict:
            group.pop(member, None)
            if group:
                return False
        elif group is not member:
            return False
        del self._groups[key]
        return True

    def _find(self, key: Key) -> Any:
        """Return a group's only member, or a dict of its members; ``None`` if it has none.

        A group that consists of one connection is not stored: the connection is found by its id.
        """
        group = self._groups.get(key)
        if group is None and name_of(key).startswith(CONNECTION):
            return client_ids.find(name_of(key).removeprefix(CONNECTION))
        return group

    def of(self, key: Key) -> list[Connection]:
        """Return the members in the order in which they joined."""
        group = self._find(key)
        if group is None:
            return []
        return list(group) if type(group) is dict else [group]

    def has(self, key: Key, member: Connection) -> bool:
        """Return whether a socket is in a group."""
        group = self._find(key)
        return group is member or (type(group) is dict and member in group)

    def info(self, key: Key, member: Connection) -> Any:
        """Return the info that a member joined with."""
        return self._infos.get((key, member))

    def sizes(self) -> list[tuple[Key, int]]:
        """Return each group and its size, without the groups of users and sessions."""
        return [(key, len(self.of(key))) for key in self.groups() if name_of(key)[0] != "@"]

    def groups(self) -> Iterator[Key]:
        """Yield the keys of all groups that have members; let other greenlets run in between."""
        return yielding_every(list(self._groups))

    def deliver(
        self,
        key: Key,
        message: PreparedMessage,
        excluded: Any = (),
        ids: tuple[str, ...] = (),
        admit: fanout.Admit | None = None,
    ) -> None:
        """Send a message to every member but those excluded; never waits.

        If called in a native thread, the hub does it soon. Some of many members may get it a little
        later, but before anything else happens to their sockets.

        Args:
            key: the group's key.
            message: the message.
            excluded: a container of sockets.
            ids: ids of clients and pages.
            admit: see ``fanout.deliver()``.
        """
        if hub_thread.is_foreign():
            hub_thread.hand_over(self.deliver, key, message, excluded, ids, admit)
            return
        group = self._find(key)
        if group is None:
            return
        members = list(group) if type(group) is dict else [group]
        if excluded or ids:
            others = excluding.variants(message, ids)
            for member, own in others.items():
                if own is not None and member not in excluded and self.has(key, member):
                    fanout.deliver([member], own, admit)
            members = [each for each in members if each not in excluded and each not in others]
        fanout.deliver(members, message, admit)
        count("group_messages")
        counters["group_deliveries"] += len(members)

    def disown(self) -> None:
        """Forget all members, in a forked child: the sockets belong to the parent."""
        self._groups.clear()
        self._infos.clear()
        # Another thread may have held the locks during the fork.
        self._lock = RLock()
        self.closings = Closings()

    def close(self, key: Key, code: int, reason: str, excluded: Any = ()) -> None:
        """Start the closing handshake with every member once its socket is open.

        Args:
            key: the group's key.
            code, reason: see ``WebSocket.close()``.
            excluded: a container of sockets that stay open.
        """
        if hub_thread.is_foreign():
            hub_thread.hand_over(self.close, key, code, reason, excluded)
            return
        if name_of(key)[0] == "@":
            self.closings.add(key, code, reason)
        for member in self.of(key):
            if member not in excluded:
                member.close_from_group(code, reason)

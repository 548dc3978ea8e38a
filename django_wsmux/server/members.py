"""Who of this process is in which group.

A group of one, as that of a user with a single window is, has no container of its own: there may be
as many groups as sockets.
"""

from __future__ import annotations

from threading import RLock
from typing import TYPE_CHECKING, Any

from . import hub_thread
from .closings import Closings
from .counters import count, counters
from .registry import in_slices

if TYPE_CHECKING:
    from ..protocol.prepared import Prepared
    from .connection import Connection

__all__ = ["Key", "Members", "name_of", "prefix_of"]

#: What tells one group from another: its name, or prefix and name where it has a prefix
#: (``WEBSOCKET_GROUP_PREFIX``). The name alone costs least, and most projects have no prefix.
Key = str | tuple[str, str]


def name_of(key: Key) -> str:
    """Return a group's name, without its prefix."""
    return key if isinstance(key, str) else key[1]


def prefix_of(key: Key) -> str:
    """Return the prefix of a group; ``""`` for none."""
    return "" if isinstance(key, str) else key[0]


class Members:
    """Groups by key; one that is empty is forgotten."""

    __slots__ = ("_groups", "_infos", "_lock", "closings")

    def __init__(self) -> None:
        # A member, or several in the order in which they joined.
        self._groups: dict[Key, Any] = {}
        # What some members show of themselves, by group and member.
        self._infos: dict[tuple[Key, Connection], Any] = {}
        # For servers with threads; greenlets do not get in each other's way here.
        self._lock = RLock()
        #: What closes groups of users and sessions while handshakes are under way.
        self.closings = Closings()

    def add(self, key: Key, member: Connection, info: Any = None) -> bool:
        """Add a member; say whether the group is new."""
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
        """Remove a member; say whether the group is empty now and was not before."""
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

    def of(self, key: Key) -> list[Connection]:
        """Return the members in the order in which they joined."""
        group = self._groups.get(key)
        if group is None:
            return []
        return list(group) if type(group) is dict else [group]

    def info(self, key: Key, member: Connection) -> Any:
        """Return what a member shows of itself."""
        return self._infos.get((key, member))

    def sizes(self) -> list[tuple[Key, int]]:
        """Return each group with the number of its members, but for the groups of people."""
        keys = [key for key in in_slices(list(self._groups)) if name_of(key)[0] != "@"]
        return [(key, len(self.of(key))) for key in keys]

    def called(self, name: str) -> list[Key]:
        """Return the groups of that name, one for each prefix."""
        return [key for key in in_slices(list(self._groups)) if name_of(key) == name]

    def deliver(self, key: Key, message: Prepared, excluded: Any = ()) -> None:
        """Send a message to every member but those excluded; does not wait.

        Called in a native thread it is done by the hub, soon.
        """
        if hub_thread.is_foreign():
            hub_thread.hand_over(self.deliver, key, message, excluded)
            return
        group = self._groups.get(key)
        if group is None:
            return
        members = list(group) if type(group) is dict else [group]
        if excluded:
            members = [member for member in members if member not in excluded]
        for member in members:
            member.deliver(message)
        count("group_messages")
        counters["group_deliveries"] += len(members)

    def disown(self) -> None:
        """Forget all members, in a forked child: their sockets are the parent's."""
        self._groups.clear()
        self._infos.clear()
        self._lock = RLock()

    def close(self, key: Key, code: int, reason: str) -> None:
        """Start the closing handshake with every member, as soon as it is open."""
        if hub_thread.is_foreign():
            hub_thread.hand_over(self.close, key, code, reason)
            return
        if name_of(key)[0] == "@":
            self.closings.add(key, code, reason)
        for member in self.of(key):
            member.close_from_group(code, reason)

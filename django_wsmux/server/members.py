"""Who of this process is in which group.

A group of one, as that of a user with a single window is, has no container of its own: there may be
as many groups as sockets.
"""

from __future__ import annotations

from threading import RLock
from typing import TYPE_CHECKING, Any

from .closings import Closings
from .counters import count, counters
from .registry import in_slices

if TYPE_CHECKING:
    from ..protocol.prepared import Prepared
    from .connection import Connection

__all__ = ["Members"]


class Members:
    """Groups by name; one that is empty is forgotten."""

    __slots__ = ("_groups", "_infos", "_lock", "closings")

    def __init__(self) -> None:
        # A member, or several in the order in which they joined.
        self._groups: dict[str, Any] = {}
        # What some members show of themselves, by group and member.
        self._infos: dict[tuple[str, Connection], Any] = {}
        # For servers with threads; greenlets do not get in each other's way here.
        self._lock = RLock()
        #: What closes groups of users and sessions while handshakes are under way.
        self.closings = Closings()

    def add(self, name: str, member: Connection, info: Any = None) -> bool:
        """Add a member; say whether the group is new."""
        with self._lock:
            return self._add(name, member, info)

    def _add(self, name: str, member: Connection, info: Any) -> bool:
        if info is not None:
            self._infos[name, member] = info
        group = self._groups.get(name)
        if group is None:
            self._groups[name] = member
            return True
        if type(group) is dict:
            group[member] = None
        elif group is not member:
            self._groups[name] = {group: None, member: None}
        return False

    def discard(self, name: str, member: Connection) -> bool:
        """Remove a member; say whether the group is empty now and was not before."""
        with self._lock:
            return self._discard(name, member)

    def _discard(self, name: str, member: Connection) -> bool:
        self._infos.pop((name, member), None)
        group = self._groups.get(name)
        if type(group) is dict:
            group.pop(member, None)
            if group:
                return False
        elif group is not member:
            return False
        del self._groups[name]
        return True

    def of(self, name: str) -> list[Connection]:
        """Return the members in the order in which they joined."""
        group = self._groups.get(name)
        if group is None:
            return []
        return list(group) if type(group) is dict else [group]

    def info(self, name: str, member: Connection) -> Any:
        """Return what a member shows of itself."""
        return self._infos.get((name, member))

    def sizes(self) -> list[tuple[str, int]]:
        """Return each group with the number of its members, but for the groups of people."""
        names = [name for name in in_slices(list(self._groups)) if name[0] != "@"]
        return [(name, len(self.of(name))) for name in names]

    def deliver(self, name: str, message: Prepared, excluded: Any = ()) -> None:
        """Send a message to every member but those excluded; waits for nobody."""
        group = self._groups.get(name)
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

    def close(self, name: str, code: int, reason: str) -> None:
        """Start the closing handshake with every member, as soon as it is open."""
        if name[0] == "@":
            self.closings.add(name, code, reason)
        for member in self.of(name):
            member.close_from_group(code, reason)

"""``memory://``: who is present in one process, which ends with it; for tests and one process."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Collection, Mapping
from typing import NamedTuple

from ..backends import Backend
from .lives import KnownLives
from .store import NO_GROUP, Entry, Person, PresenceStore, Reading

__all__ = ["MemoryPresence"]


class _Process:
    """A process, from its first sign of life on. One that is dead never lives again.

    Attributes:
        seen: its last sign of life.
        rows: group and connection of each of its rows.
    """

    def __init__(self, name: str, seen: float) -> None:
        self.name = name
        self.seen = seen
        self.rows: set[tuple[str, str]] = set()


class _Row(NamedTuple):
    key: str
    process: _Process


class _Present:
    """A key that is present.

    Attributes:
        joined, changed: the versions in which it joined, and joined or got another ``info``.
        connections: the connections whose rows have the key.
    """

    def __init__(self, joined: int) -> None:
        self.info = ""
        self.joined = self.changed = joined
        self.since = 0.0
        self.connections: set[str] = set()


class _Left(NamedTuple):
    key: str
    joined: int
    left: int
    when: float


class _Group:
    """A group.

    Attributes:
        top: the number of the last change.
        purged: the number of the last leaving that is no longer remembered.
        people: ordered by the last change.
    """

    def __init__(self) -> None:
        self.epoch = secrets.token_hex(6)
        self.top = 0
        self.purged = 0
        self.rows: dict[str, _Row] = {}
        self.people: dict[str, _Present] = {}
        self.left: deque[_Left] = deque()

    @property
    def version(self) -> str:
        """The version."""
        return f"{self.epoch}.{self.top}"

    def number(self) -> int:
        """Return the number of the next change."""
        self.top += 1
        return self.top

    def number_of(self, version: str) -> int | None:
        """Return the number of a version; ``None`` if only the whole list can be read."""
        epoch, _, text = version.partition(".")
        if epoch == self.epoch and self.purged <= int(text) <= self.top:
            return int(text)
        return None


class MemoryPresence(PresenceStore):
    """A store in dicts; see the module.

    Args:
        url: ``memory://``.
        namespace, backend: as for other stores; not used.
    """

    def __init__(
        self, url: str = "memory://", *, namespace: str = "", backend: Backend | None = None
    ) -> None:
        self._pid = 0
        self._ahead = 0.0
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._groups: dict[str, _Group] = {}
        self._processes: dict[str, _Process] = {}  # those that are alive, or have just died
        self._dead: list[_Process] = []  # in whose place there is another one
        self._lives = KnownLives()

    def _enter(self) -> threading.Lock:
        if self._pid != os.getpid():
            self._begin()  # connections of the parent are not here
        return self._lock

    def advance(self, seconds: float) -> None:
        """Act as if some time had passed, for tests.

        Args:
            seconds: the time. Each process that is to live on then needs a sign of life.
        """
        self._ahead += seconds

    def enter(self, group: str, entries: Collection[Entry], process: str) -> str:
        """Add the rows of connections, or take them over from another process."""
        with self._enter():
            now = self._now()
            owner = self._owner(process, now)
            if not entries:
                return ""
            self._lives.entered(process, owner)
            found = self._groups.setdefault(group, _Group())
            before = found.top
            for entry in entries:
                self._add(group, found, entry, owner, now)
            return "" if found.top == before else found.version

    def leave(self, group: str, connections: Collection[str], process: str) -> str:
        """Remove rows. A key whose last row is removed leaves."""
        with self._enter():
            found = self._groups.get(group)
            if found is None:
                return ""
            before = found.top
            for connection in connections:
                row = found.rows.get(connection)
                if row is not None and row.process.name == process:
                    self._remove(group, found, connection, self._now())
            return "" if found.top == before else found.version

    def read(self, group: str, since: str = "") -> Reading:
        """Return who is present, or what has changed."""
        with self._enter():
            found = self._groups.get(group)
            if found is None:
                return Reading(NO_GROUP, since != NO_GROUP, ())
            number = found.number_of(since)
            if number is None:
                now = self._now()
                return Reading(
                    found.version,
                    True,
                    tuple(
                        Person(key, each.info, each.since)
                        for key, each in found.people.items()
                        if self._is_alive(found, each, now)
                    ),
                )
            joined = []
            for key, each in reversed(found.people.items()):
                if each.changed <= number:
                    break
                joined.append(Person(key, each.info, each.since))
            left = []
            for gone in reversed(found.left):
                if gone.left <= number:
                    break
                if gone.joined <= number and gone.key not in found.people:
                    left.append(gone.key)
            return Reading(found.version, False, tuple(joined[::-1]), tuple(left[::-1]))

    def changed(self, seen: Mapping[str, str]) -> list[str]:
        """Return the groups that have another version."""
        with self._enter():
            return [
                group
                for group, version in seen.items()
                if version
                != (NO_GROUP if (found := self._groups.get(group)) is None else found.version)
            ]

    def renew(self, process: str) -> bool:
        """Note a sign of life of a process."""
        with self._enter():
            now = self._now()
            found = self._processes.get(process)
            is_alive = found is not None and not self._is_dead(found, now)
            if found is not None and is_alive:
                found.seen = now
            return self._lives.renewed(process, is_alive=is_alive)

    def expire(self) -> list[tuple[str, str]]:
        """Remove the rows of processes without a sign of life, and what is no longer needed."""
        with self._enter():
            now = self._now()
            dead = [each for each in self._processes.values() if self._is_dead(each, now)]
            for each in dead:
                del self._processes[each.name]
            dead += self._dead
            self._dead = []
            before = {name: self._groups[name].top for each in dead for name, _ in each.rows}
            for each in dead:
                for name, connection in list(each.rows):
                    self._remove(name, self._groups[name], connection, now)
            for name, found in list(self._groups.items()):
                while found.left and found.left[0].when + self.left_seconds <= now:
                    found.purged = found.left.popleft().left
                if not found.rows and not found.left:
                    del self._groups[name]
            return [
                (name, self._groups[name].version)
                for name, top in before.items()
                if self._groups[name].top != top
            ]

    def close(self) -> None:
        """Do nothing: there are no files."""

    # Inside; the lock is held.

    def _now(self) -> float:
        return time.monotonic() + self._ahead

    def _is_dead(self, process: _Process, now: float) -> bool:
        return process.seen + self.leaving_seconds <= now

    def _is_alive(self, group: _Group, present: _Present, now: float) -> bool:
        """Return whether a row of a key counts."""
        return any(
            not self._is_dead(group.rows[connection].process, now)
            for connection in present.connections
        )

    def _owner(self, name: str, now: float) -> _Process:
        """Return a process after a sign of life. Rows that no longer count never count again."""
        found = self._processes.get(name)
        if found is None or self._is_dead(found, now):
            if found is not None:
                self._dead.append(found)
            found = self._processes[name] = _Process(name, now)
        found.seen = now
        return found

    def _add(self, name: str, group: _Group, entry: Entry, owner: _Process, now: float) -> None:
        present = group.people.get(entry.key)
        is_new = present is None or not self._is_alive(group, present, now)
        old = group.rows.get(entry.connection)
        if present is None:
            present = group.people[entry.key] = _Present(group.number())
        elif is_new or present.info != entry.info:
            present.changed = group.number()
            group.people[entry.key] = group.people.pop(entry.key)
        if is_new:
            present.since = time.time()
        present.info = entry.info
        present.connections.add(entry.connection)
        if old is not None:
            if old.key != entry.key:
                self._remove(name, group, entry.connection, now)
            else:
                old.process.rows.discard((name, entry.connection))
        group.rows[entry.connection] = _Row(entry.key, owner)
        owner.rows.add((name, entry.connection))

    def _remove(self, name: str, group: _Group, connection: str, now: float) -> None:
        row = group.rows.pop(connection)
        row.process.rows.discard((name, connection))
        present = group.people[row.key]
        present.connections.discard(connection)
        if not present.connections:
            del group.people[row.key]
            group.left.append(_Left(row.key, present.joined, group.number(), now))

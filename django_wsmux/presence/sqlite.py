"""Who is present, for ``local://``: one SQLite file for all processes on one machine.

The file is beside that of the history, and used in the same way; ``history/sqlite_base.py`` says
how. Each change is one transaction. Rows of dead processes are removed in slices.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Collection, Mapping
from itertools import islice
from typing import Final

from ..backends import Backend
from ..history.sqlite_base import SQLiteBase, decode_name, encode_name
from ..history.sqlite_file import shrink, writing
from . import sqlite_statements as sql
from .lives import KnownLives
from .store import NO_GROUP, Entry, Person, PresenceStore, Reading

__all__ = ["SQLitePresence"]

_MICROSECONDS: Final = 1_000_000

#: Rows that are removed, and versions that are compared, before others run.
_SLICE: Final = 200


class _Change:
    """A group within a transaction that changes it.

    Attributes:
        id: ``room.id``.
        top: the number of the last change.
    """

    def __init__(self, connection: sqlite3.Connection, room: int, epoch: str, top: int) -> None:
        self._execute = connection.execute
        self._epoch = epoch
        self._before = top
        self.id = room
        self.top = top

    def number(self) -> int:
        """Return the number of the next change."""
        self.top += 1
        return self.top

    def remove_if_alone(self, person: int, moment: int) -> None:
        """Let a key leave if it has no rows."""
        if not self._execute(sql.IS_PRESENT, (person,)).fetchone()[0]:
            key, joined = self._execute(sql.DELETE_PERSON, (person,)).fetchall()[0]
            self._execute(sql.ADD_LEFT, (self.id, self.number(), key, joined, moment))

    def end(self) -> str:
        """Store the number of the last change; return the version, ``""`` if nothing changed."""
        if self.top == self._before:
            return ""
        self._execute(sql.SET_TOP, (self.top, self.id))
        return f"{self._epoch}.{self.top}"


class SQLitePresence(SQLiteBase, PresenceStore):
    """A store in one SQLite file; see the module.

    Args:
        url: ``local://``; ``local:///directory`` puts the private directory there.
        namespace: names the project.
        backend: as for other stores; not used.
    """

    def __init__(self, url: str, *, namespace: str, backend: Backend | None) -> None:
        super().__init__(url, namespace, sql.LAYOUT)
        self._lives = KnownLives()

    def enter(self, group: str, entries: Collection[Entry], process: str) -> str:
        """Add the rows of connections, or take them over from another process."""
        return self._run(self._enter, encode_name(group), entries, process)

    def leave(self, group: str, connections: Collection[str], process: str) -> str:
        """Remove rows. A key whose last row is removed leaves."""
        return self._run(self._leave, encode_name(group), connections, process)

    def read(self, group: str, since: str = "") -> Reading:
        """Return who is present, or what has changed."""
        return self._run(self._read, encode_name(group), since)

    def changed(self, seen: Mapping[str, str]) -> list[str]:
        """Return the groups that have another version."""
        found: list[str] = []
        groups = iter(seen)
        while names := list(islice(groups, _SLICE)):
            versions = self._run(self._versions, [encode_name(name) for name in names])
            found += (name for name in names if versions.get(name, NO_GROUP) != seen[name])
            time.sleep(0)
        return found

    def renew(self, process: str) -> bool:
        """Note a sign of life of a process."""
        self._run(self._look)
        is_alive = self._run(self._renew, process, _now()) is not None
        return self._lives.renewed(process, is_alive=is_alive)

    def expire(self) -> list[tuple[str, str]]:
        """Remove the rows of processes without a sign of life, and what is no longer needed."""
        self._run(self._look)
        found: dict[str, str] = {}
        has_more = True
        while has_more:
            versions, has_more = self._run(self._expire)
            found.update(versions)
            time.sleep(0)
        while self._run(self._purge):
            time.sleep(0)
        while self._run(shrink):
            time.sleep(0)
        return list(found.items())

    # Each of these is called with the connection, and leaves no transaction open.

    def _enter(
        self,
        connection: sqlite3.Connection,
        name: bytes,
        entries: Collection[Entry],
        process: str,
    ) -> str:
        with writing(connection):
            moment = _now()
            owner = self._owner(connection, process, moment)
            if not entries:
                return ""
            has_dead = connection.execute(sql.IS_DEAD, (self._dead(moment),)).fetchone()[0]
            row = connection.execute(sql.GROUP, (name,)).fetchone()
            if row is None:
                epoch = secrets.token_hex(6)
                added = connection.execute(sql.ADD_GROUP, (name, epoch)).lastrowid
                change = _Change(connection, added or 0, epoch, 0)
            else:
                change = _Change(connection, *row[:3])
            for entry in entries:
                self._add(connection, change, entry, owner, moment, bool(has_dead))
            version = change.end()
        self._lives.entered(process, (self._file.store, owner))
        return version

    def _owner(self, connection: sqlite3.Connection, process: str, moment: int) -> int:
        """Return the row of a process after a sign of life."""
        found = self._renew(connection, process, moment)
        if found is None:
            # Rows that no longer count never count again.
            connection.execute(sql.DROP_NAME, (process,))
            found = connection.execute(sql.ADD_PROCESS, (process, moment)).lastrowid or 0
        return found

    def _renew(self, connection: sqlite3.Connection, process: str, moment: int) -> int | None:
        values = self._dead(moment), moment, process
        found = connection.execute(sql.RENEW, values).fetchall()
        return found[0][0] if found else None

    def _add(
        self,
        connection: sqlite3.Connection,
        change: _Change,
        entry: Entry,
        owner: int,
        moment: int,
        has_dead: bool,
    ) -> None:
        execute = connection.execute
        row = execute(sql.PERSON, (change.id, entry.key)).fetchone()
        if row is None:
            values = change.id, entry.key, entry.info, change.number(), time.time()
            person = execute(sql.ADD_PERSON, values).lastrowid
        else:
            person, info = row
            # It joins again if it has only rows that do not count.
            joins = (
                has_dead and not execute(sql.IS_LIVING, (self._dead(moment), person)).fetchone()[0]
            )
            if joins or info != entry.info:
                since = time.time() if joins else None
                execute(sql.CHANGE_PERSON, (entry.info, change.number(), since, person))
        old = execute(sql.PERSON_OF, (change.id, entry.connection)).fetchone()
        execute(sql.SET_CONNECTION, (change.id, entry.connection, person, owner))
        if old is not None and old[0] != person:
            change.remove_if_alone(old[0], moment)

    def _leave(
        self,
        connection: sqlite3.Connection,
        name: bytes,
        connections: Collection[str],
        process: str,
    ) -> str:
        with writing(connection):
            row = connection.execute(sql.GROUP, (name,)).fetchone()
            if row is None:
                return ""
            moment = _now()
            change = _Change(connection, *row[:3])
            for each in connections:
                values = change.id, each, process
                for (person,) in connection.execute(sql.DELETE_CONNECTION_OF, values).fetchall():
                    change.remove_if_alone(person, moment)
            return change.end()

    def _read(self, connection: sqlite3.Connection, name: bytes, since: str) -> Reading:
        execute = connection.execute
        execute("BEGIN")
        row = execute(sql.GROUP, (name,)).fetchone()
        if row is None:
            execute("COMMIT")
            return Reading(NO_GROUP, since != NO_GROUP, ())
        room, epoch, top, purged = row
        of, _, text = since.partition(".")
        is_whole = of != epoch or not purged <= int(text) <= top
        left = []
        if is_whole:
            dead = self._dead(_now())
            if execute(sql.IS_DEAD, (dead,)).fetchone()[0]:
                people = execute(sql.LIVING, (dead, room)).fetchall()
            else:
                people = execute(sql.PEOPLE, (room,)).fetchall()
        else:
            people = execute(sql.JOINED, (room, int(text))).fetchall()
            left = execute(sql.LEFT, (room, int(text))).fetchall()
        execute("COMMIT")
        return Reading(
            f"{epoch}.{top}", is_whole, tuple(map(Person._make, people)), tuple(x for (x,) in left)
        )

    def _versions(self, connection: sqlite3.Connection, names: list[bytes]) -> dict[str, str]:
        query = sql.CHANGED.format(",".join("?" * len(names)))
        return {
            decode_name(name): f"{epoch}.{top}"
            for name, epoch, top in connection.execute(query, names).fetchall()
        }

    def _expire(self, connection: sqlite3.Connection) -> tuple[dict[str, str], bool]:
        """Remove some rows of dead processes.

        Returns:
            The new versions of groups that someone has left, and whether there may be more rows.
        """
        execute = connection.execute
        names: dict[int, str] = {}
        if not execute(sql.IS_DEAD, (self._dead(_now()),)).fetchone()[0]:
            return {}, False
        with writing(connection):
            moment = _now()
            dead = self._dead(moment)
            rows = execute(sql.OF_DEAD, (dead, _SLICE)).fetchall()
            changes: dict[int, _Change] = {}
            for room, each, person in rows:
                if room not in changes:
                    name, *row = execute(sql.VERSION, (room,)).fetchone()
                    changes[room] = _Change(connection, room, *row)
                    names[room] = decode_name(name)
                execute(sql.DELETE_CONNECTION, (room, each))
                changes[room].remove_if_alone(person, moment)
            execute(sql.DELETE_PROCESSES, (dead,))
            versions = {names[room]: change.end() for room, change in changes.items()}
        found = {name: version for name, version in versions.items() if version}
        return found, len(rows) == _SLICE

    def _purge(self, connection: sqlite3.Connection) -> bool:
        """Forget some of those who have left long ago; return whether there may be more."""
        execute = connection.execute
        old = _now() - int(self.left_seconds * _MICROSECONDS)
        if not execute(sql.IS_DUE, (old,)).fetchone()[0]:
            return False
        with writing(connection):
            rows = execute(sql.OLD_LEFT, (old, _SLICE)).fetchall()
            for room, number in rows:
                execute(sql.DELETE_LEFT, (room, number))
                execute(sql.PURGE, (number, room))
            for room in {room for room, _ in rows}:
                execute(sql.DELETE_GROUP, (room,))
        return len(rows) == _SLICE

    def _dead(self, moment: int) -> int:
        """Return when the processes that are now dead were seen at the latest."""
        return moment - int(self.leaving_seconds * _MICROSECONDS)


def _now() -> int:
    """Return the microseconds since the boot of the machine."""
    return time.monotonic_ns() // 1000

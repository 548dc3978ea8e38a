"""``postgres://``: the store in the project's own database, in the tables ``Present...``.

A change of a group is one transaction and one round trip. It locks the row of the group, so the
changes of a group follow each other. It is committed without waiting for the disk
(``synchronous_commit`` off), so a crash loses the last changes. After an event that may have lost
some (``history.incarnation``), every group begins a new epoch, and ``renew()`` returns False, so
that processes enter all their rows again. The rows that are there count until
``LEAVING_SECONDS`` after the restart.

As for the backend, the session must be permanent: a pooler in transaction mode does not work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, TypeVar

from ..backends import Backend, from_url
from ..backends.postgresql import PostgresBackend
from ..backends.postgresql_connection import Rows, Session, SqlError
from ..exceptions import BackendUnavailable
from ..history.incarnation import Incarnation, namespace_id
from . import postgresql_statements as sql
from .absence import Absence
from .lives import KnownLives
from .store import NO_GROUP, Entry, Person, PresenceStore, Reading

__all__ = ["PostgresPresence"]

# Names of groups and keys contain primary keys, which may be any text.
_ERRORS: Final = "surrogatepass"

#: Attempts of a statement while the incarnation of its group changes.
_ATTEMPTS: Final = 4

#: The most rows that one statement enters or removes.
_ROWS: Final = 1_000

#: The most seconds that are passed to PostgreSQL.
_LONGEST: Final = 1e9

_T = TypeVar("_T")

#: Statements with their parameters.
_Statements = list[tuple[bytes, list[str | None]]]


class PostgresPresence(PresenceStore):
    """A store in PostgreSQL; see the module.

    Args:
        url: as in ``WEBSOCKET_HISTORY_STORE``.
        namespace: names the project: several may share a database.
        backend: the backend of this process, if the store is in its database; then the store uses
            its connection.
    """

    def __init__(self, url: str, *, namespace: str, backend: Backend | None) -> None:
        self._is_own = backend is None
        used = from_url(url, namespace=namespace) if backend is None else backend
        assert isinstance(used, PostgresBackend)
        self._backend = used
        self._namespace = namespace_id(used.namespace)
        self._incarnation = Incarnation()
        self._lives = KnownLives()
        self._absence = Absence()

    def enter(self, group: str, entries: Collection[Entry], process: str) -> str:
        """Add the rows of connections; see ``PresenceStore``."""
        if not entries:
            self.renew(process)
            return ""
        listed = list(entries)
        version = ""
        for begin in range(0, len(listed), _ROWS):
            version = self._enter(group, listed[begin : begin + _ROWS], process) or version
        return version

    def _enter(self, group: str, entries: list[Entry], process: str) -> str:
        keys = {entry.connection: entry.key for entry in entries}
        infos = {entry.key: entry.info for entry in entries if keys[entry.connection] == entry.key}
        values = [
            _array(self._id(group, connection) for connection in keys),
            _array(self._id(group, key) for key in keys.values()),
            _array(self._id(group, key) for key in infos),
            _array(map(_hex, infos)),
            _array(map(_hex, infos.values())),
        ]
        id, owner = self._id(group), self._id(process)

        def statements(incarnation: str) -> _Statements:
            return [
                (sql.SIGN, [self._namespace, owner, incarnation, self._leaving]),
                (sql.LOCK_OR_INSERT, [id, self._namespace, _hex(group), incarnation]),
                (sql.ENTER, [id, incarnation, owner, self._leaving, *values]),
            ]

        version, life = self._change(id, statements, inserts=True)
        self._lives.entered(process, life)
        return version

    def leave(self, group: str, connections: Collection[str], process: str) -> str:
        """Remove rows; see ``PresenceStore``."""
        listed = [self._id(group, connection) for connection in dict.fromkeys(connections)]
        version = ""
        for begin in range(0, len(listed), _ROWS):
            array = _array(listed[begin : begin + _ROWS])
            version = self._leave(group, array, process) or version
        return version

    def _leave(self, group: str, connections: str, process: str) -> str:
        id, owner = self._id(group), self._id(process)

        def statements(incarnation: str) -> _Statements:
            return [(sql.LOCK, [id]), (sql.LEAVE, [id, incarnation, owner, connections])]

        found = self._change(id, statements)
        return found[0] if found else ""

    def read(self, group: str, since: str = "") -> Reading:
        """Return who is present, or what has changed; see ``PresenceStore``."""
        epoch, _, number = since.partition(".")
        values = [self._id(group), epoch, number or "0", self._leaving]

        def read(session: Session) -> Rows:
            for _ in range(_ATTEMPTS):
                incarnation = self._incarnation(session)
                rows = session.execute(sql.READ, values, is_prepared=True)
                if not rows:
                    return rows
                _, found, layout, _ = _text(rows[0][2]).split()
                _check_layout(layout)
                if found == incarnation:
                    return rows
                self._begin(session, values[0])
            raise _too_many()

        rows = self._run(read)
        if not rows:
            return Reading(NO_GROUP, since != NO_GROUP, ())
        (_, number_now, text, _, _), *rest = rows
        epoch, _, _, is_whole = _text(text).split()
        return Reading(
            f"{epoch}.{_text(number_now)}",
            is_whole == "t",
            tuple(
                Person(_decode(name), _decode(info), float(moment or b"0"))
                for kind, _, moment, name, info in rest
                if kind == b"1"
            ),
            tuple(_decode(name) for kind, _, _, name, _ in rest if kind == b"2"),
        )

    def changed(self, seen: Mapping[str, str]) -> list[str]:
        """Return the groups that have another version; see ``PresenceStore``."""
        if not seen:
            return []
        names = list(seen)
        values = [_array(map(self._id, names)), _array(seen.values())]

        def changed(session: Session) -> Rows:
            incarnation = self._incarnation(session)
            return session.execute(sql.CHANGED, [*values, incarnation], is_prepared=True)

        return [names[int(position or b"0") - 1] for (position,) in self._run(changed)]

    def renew(self, process: str) -> bool:
        """Note a sign of life of a process; see ``PresenceStore``."""
        owner = self._id(process)

        def renew(session: Session) -> bool:
            incarnation = self._incarnation(session)
            while True:
                values = [owner, incarnation, self._leaving]
                if session.execute(sql.RENEW, values, is_prepared=True):
                    return True
                known, incarnation = incarnation, self._incarnation(session, ask=True)
                if known == incarnation:
                    return False

        return self._lives.renewed(process, is_alive=self._run(renew))

    def expire(self) -> list[tuple[str, str]]:
        """Remove what is no longer needed; see ``PresenceStore``."""
        found: dict[str, str] = {}
        for (id,) in self._run(self._end):
            is_there_more = True
            while is_there_more:
                row = self._expire(_text(id))
                if row and row[0]:
                    found[_decode(bytes.fromhex(row[2]))] = row[0]
                is_there_more = bool(row) and int(row[1]) == sql.REMOVED
        self._execute(sql.DELETE_PROCESSES, [self._namespace])
        is_there_more = True
        while is_there_more:
            rows = self._execute(sql.FORGET, [self._namespace, self._left])
            empty = [_text(id) for id, is_empty in rows if is_empty == b"true"]
            if empty:
                self._execute(sql.DELETE_GROUPS, [_array(empty)])
            is_there_more = len(rows) == sql.FORGOTTEN
        return list(found.items())

    def _end(self, session: Session) -> Rows:
        values = [self._namespace, self._leaving, self._incarnation(session)]
        return session.execute(sql.END, values, is_prepared=True)

    def _expire(self, id: str) -> list[str]:
        return self._change(
            id, lambda incarnation: [(sql.LOCK, [id]), (sql.EXPIRE, [id, incarnation])]
        )

    def close(self) -> None:
        """Close the connection, unless it is the backend's."""
        if self._is_own:
            self._backend.close()

    # Inside

    @property
    def _leaving(self) -> str:
        return str(min(self.leaving_seconds, _LONGEST))

    @property
    def _left(self) -> str:
        return str(min(self.left_seconds, _LONGEST))

    def _id(self, name: str, part: str = "") -> str:
        """Return the id of a group or a process, or of a key or a connection in a group.

        It is passed on as hexadecimal digits.
        """
        digest = hashlib.blake2b(digest_size=16, key=self._namespace.encode())
        digest.update(name.encode("utf-8", _ERRORS))
        if part:
            digest.update(b"\xff" + part.encode("utf-8", _ERRORS))  # \xff is in no UTF-8
        return digest.hexdigest()

    def _execute(self, statement: bytes, values: list[str]) -> Rows:
        """Execute a statement that needs no incarnation."""

        def execute(session: Session) -> Rows:
            self._incarnation(session)  # makes the settings
            return session.execute(statement, values, is_prepared=True)

        return self._run(execute)

    def _change(
        self, id: str, statements: Callable[[str], _Statements], *, inserts: bool = False
    ) -> list[str]:
        """Change a group; return the row of the last statement, or nothing if there is no group.

        Args:
            id: the id of the group.
            statements: returns the statements for an incarnation.
            inserts: whether they insert the group if there is none.
        """

        def change(session: Session) -> Rows:
            for _ in range(_ATTEMPTS):
                rows = session.execute_together(statements(self._incarnation(session)))
                if rows or not (self._begin(session, id) or inserts):
                    return rows
            raise _too_many()

        return [_text(value) for row in self._run(change) for value in row]

    def _begin(self, session: Session, id: str) -> bool:
        """Begin an epoch of a group of another incarnation; return whether there is a group."""
        rows = session.execute(sql.FIND, [id])
        if rows:
            found, layout = map(_text, rows[0])
            _check_layout(layout)
            incarnation = self._incarnation(session, ask=True)
            if found != incarnation:
                session.execute(sql.BEGIN, [id, incarnation, found])
        return bool(rows)

    def _run(self, function: Callable[[Session], _T]) -> _T:
        """Return the result of a function; tell a server that was away before."""

        def run(session: Session) -> _T:
            if self._absence.is_to_tell(self.leaving_seconds):
                incarnation = self._incarnation(session)
                values = [self._namespace, self._leaving, incarnation]
                for (id,) in session.execute(sql.RETURN, values):
                    session.execute(sql.BEGIN, [_text(id), incarnation, incarnation])
                self._absence.told()
            return function(session)

        try:
            result = self._backend.run(run)
        except BackendUnavailable:
            self._absence.failed()
            raise
        self._absence.succeeded()
        return result


def _check_layout(layout: str) -> None:
    """Raise if the layout is that of a newer release."""
    if int(layout) > sql.LAYOUT:
        raise SqlError(
            "the presence was written by a newer release of django-wsmux: upgrade this process", ""
        )


def _too_many() -> SqlError:
    return SqlError("the row of the group keeps changing", "")


def _array(texts: Iterable[str]) -> str:
    """Return an array of texts that contain neither quotes nor backslashes."""
    return "{" + ",".join(f'"{text}"' for text in texts) + "}"


def _hex(text: str) -> str:
    return text.encode("utf-8", _ERRORS).hex()


def _decode(data: bytes | None) -> str:
    return (data or b"").decode("utf-8", _ERRORS)


def _text(value: bytes | None) -> str:
    return (value or b"").decode()

"""``postgres://``: the store in the project's own database, in three tables of ``models``.

A message is numbered, stored and published by one statement, which is committed at once and without
waiting for the disk (``synchronous_commit`` off): a crash loses the last messages. Therefore every
event that may have lost rows makes a new *incarnation* of the server, and every stream begins
again; see ``incarnation``.

Streams change in transactions that are numbered when they begin and become visible when they end.
``changed()`` therefore remembers a snapshot of PostgreSQL, which contains the transactions that had
not ended. Exactly these and later transactions are new for the next call.

As for the backend, the session must be permanent: a pooler in transaction mode does not work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Final

from .. import conf
from ..backends import Backend, from_url
from ..backends.postgresql import PostgresBackend
from ..backends.postgresql_connection import FAILURES, Rows, Session, SqlError, Value
from . import postgresql_statements as sql
from .incarnation import Incarnation, namespace_id
from .store import KEY_SECONDS, LAYOUT, Appended, Changed, Entry, Reading, Store, Stream

__all__ = ["PostgresStore"]

# Names of users' groups contain primary keys, which may be any text.
_ERRORS: Final = "surrogatepass"

#: Attempts of a statement while the row of its stream changes.
_ATTEMPTS: Final = 4

#: Seconds for one statement of the sweep.
_SWEEP_TIMEOUT: Final = 30.0

#: The highest age in seconds that is passed to PostgreSQL, which cannot add every number to a time.
_LONGEST: Final = 1e9

#: The greatest number that PostgreSQL can add to a size.
_MOST: Final = 2**62

#: An id that sorts before all others.
_FIRST: Final = "0" * 32

#: A snapshot in which nothing is visible.
_NOTHING: Final = "1:1:"


class PostgresStore(Store):
    """A store in PostgreSQL; see the module.

    Args:
        url: as in ``WEBSOCKET_HISTORY_STORE``.
        namespace: names the project: several may share a database.
        backend: the backend of this process, if the store is in its database; then the store
            publishes each message over the same connection.
    """

    def __init__(self, url: str, *, namespace: str, backend: Backend | None) -> None:
        self._publishes = backend is not None
        used = from_url(url, namespace=namespace) if backend is None else backend
        assert isinstance(used, PostgresBackend)
        self._backend = used
        self._namespace = namespace_id(used.namespace)
        self._incarnation = Incarnation()

    # Streams

    def append(
        self, stream: Stream, message: bytes, *, key: str = "", key_seconds: float = KEY_SECONDS
    ) -> Appended | None:
        """Number a message, keep it and publish it; see ``Store``."""
        values: list[Value] = [
            self._id(stream),
            message,
            str(min(stream.keep.seconds, _LONGEST)),
            str(min(stream.keep.messages, _MOST)),
            str(min(stream.keep.bytes, _MOST)),
            self._backend.notified if self._publishes else "",
            self._backend.head(stream.channel) if self._publishes else b"",
        ]
        if key:
            values += [self._id(stream, key), str(min(key_seconds, _LONGEST))]
        statement = sql.APPEND_WITH_KEY if key else sql.APPEND

        def append(session: Session) -> list[bytes | None]:
            for _ in range(_ATTEMPTS):
                incarnation = self._incarnation(session)
                rows = session.execute(statement, [incarnation, *values], is_prepared=True)
                if rows:
                    return rows[0]
                self._begin(session, stream)
            raise SqlError("the row of the group keeps changing", "")

        epoch, number, _ = self._backend.run(append)
        if epoch is None:
            return None
        self._backend.counts.published += self._publishes
        return Appended(epoch.decode(), _int(number), self._publishes)

    def release(self, stream: Stream, keys: Collection[str], seconds: float = KEY_SECONDS) -> None:
        """Let keys expire after at most some seconds."""
        ids = ",".join(self._id(stream, key) for key in keys)
        values = f"{{{ids}}}", str(min(seconds, _LONGEST))
        self._backend.run(lambda session: session.execute(sql.RELEASE, values))

    def _begin(self, session: Session, stream: Stream) -> None:
        """Begin the epoch of a stream that has no row of the current incarnation."""
        rows = session.execute(sql.FIND, [self._id(stream)])
        found = ""
        if rows:
            incarnation, layout = rows[0]
            _check_layout(layout)
            found = _text(incarnation)
            if found == self._incarnation(session, ask=True):
                return
        self._execute_begin(session, stream, found)

    def _execute_begin(
        self, session: Session, stream: Stream, replaced: str, *, is_forgotten: bool = False
    ) -> Rows:
        incarnation = self._incarnation(session)
        name = stream.name.encode("utf-8", _ERRORS)
        values = (incarnation, self._id(stream), self._namespace, name, str(is_forgotten), replaced)
        return session.execute(sql.BEGIN, values)

    def forget(self, stream: Stream) -> str:
        """Delete the messages of a stream, begin a new epoch, and return it.

        A message that is sent at the same time may stay in the table, unreadable, until the sweep.
        """

        def forget(session: Session) -> str:
            self._incarnation(session, ask=True)
            rows = self._execute_begin(session, stream, "", is_forgotten=True)
            if not rows:
                _check_layout(b"%d" % (LAYOUT + 1))
            return _text(rows[0][0])

        return self._backend.run(forget)

    def read(
        self,
        stream: Stream,
        since: int | None = None,
        limit: int = 0,
        *,
        max_bytes: int = _MOST,
        newest: bool = False,
    ) -> Reading:
        """Return the row of a stream, and messages; see ``Store``."""
        values = [
            self._id(stream),
            str(min(stream.keep.messages, _MOST)),
            str(min(stream.keep.bytes, _MOST)),
            str(min(stream.keep.seconds, _LONGEST)),
            str(since or 0),
            str(0 if since is None else limit),
            str(max_bytes),
        ]

        def read(session: Session) -> tuple[str, Rows]:
            incarnation = self._incarnation(session)
            statement = sql.READ_NEWEST if newest else sql.READ
            rows = session.execute(statement, values, is_prepared=True)
            _, found, layout, *_ = rows[0]
            if found is not None:
                _check_layout(layout)
                if _text(found) != incarnation:
                    incarnation = self._incarnation(session, ask=True)
            return incarnation, rows

        incarnation, rows = self._backend.run(read)
        now, found, _, epoch, top, is_forgotten, first, *_ = rows[0]
        if found is None or _text(found) != incarnation:
            return Reading(incarnation, _int(now))
        return Reading(
            incarnation,
            _int(now),
            _text(epoch),
            _int(top),
            _int(top) + 1 if first is None else _int(first),
            is_forgotten == b"true",
            tuple(
                Entry(_int(number), float(sent), message or b"")
                for *_, number, sent, message in rows
                if sent is not None
            ),
        )

    def changed(self, seen: str) -> tuple[str, list[Changed]]:
        """Return the streams that have changed; see ``Store``."""
        asked, _, snapshot = seen.partition(" ")
        found: Rows = []
        known = incarnation = ""

        def changed(session: Session) -> tuple[str, Rows]:
            incarnation = self._incarnation(session)
            before = None if not seen else snapshot if asked == incarnation else _NOTHING
            last = found[-1][1] if found else None
            follows = _FIRST if last is None else last.decode()
            values = [self._namespace, before, follows]
            rows = session.execute(sql.CHANGED, values, is_prepared=True)
            if any(row[3] not in (None, incarnation.encode()) for row in rows):
                incarnation = self._incarnation(session, ask=True)
            return incarnation, rows

        while True:
            incarnation, rows = self._backend.run(changed)
            known = known or f"{incarnation} {_text(rows[0][0])}"
            found += rows
            if len(rows) < sql.PAGE:
                break
        # The next call finds changes between the first page and the last.
        return known, [
            Changed(name.decode("utf-8", _ERRORS), _text(epoch), _int(top))
            for _, _, name, by, epoch, top in found
            if name is not None and by == incarnation.encode()
        ]

    # The sweep

    def sweep(self) -> None:
        """Delete expired, idle and excess data; see ``Store``.

        One process of a project sweeps as long as it does so regularly. It uses a separate
        connection, so that no publication waits for the sweep.
        """
        backend = self._backend
        lease = hashlib.blake2b(self._namespace.encode(), digest_size=16).hexdigest()
        rows = backend.run(lambda session: session.execute(sql.LEASE, [lease, backend.id.hex()]))
        if not rows:
            return
        try:
            session = backend.connect(_SWEEP_TIMEOUT)
            try:
                self._sweep(session, _text(rows[0][0]))
            finally:
                session.close()
        except FAILURES as error:
            raise backend.unavailable(error, backend.advice) from error

    def _sweep(self, session: Session, time: str) -> None:
        session.execute(b"SET synchronous_commit TO off")
        session.execute(sql.EXPIRED_KEYS, [time])
        session.execute(sql.EXTRA_KEYS)
        while True:
            found = session.execute(sql.EXPIRED, [time, self._namespace])
            _delete(session, found)
            if len(found) < sql.MOST_FOUND:
                break
        kept = _int(session.execute(sql.SIZE, [self._namespace])[0][0])
        excess = kept - conf.get("WEBSOCKET_HISTORY_BYTES")
        while excess > 0:
            found = session.execute(sql.OLDEST, [self._namespace, str(excess)])
            if not found:
                break  # already deleted
            _delete(session, found)
            excess -= sum(_int(size) for _, _, size in found)
        session.execute(sql.IDLE_ROWS, [time])

    def close(self) -> None:
        """Close the connection, unless it is the backend's."""
        if not self._publishes:
            self._backend.close()

    # Inside

    def _id(self, stream: Stream, key: str = "") -> str:
        """Return the id of a stream, or of one of its keys, as hexadecimal digits."""
        digest = hashlib.blake2b(digest_size=16, key=self._namespace.encode())
        digest.update(stream.name.encode("utf-8", _ERRORS))
        if key:
            digest.update(b"\xff" + key.encode("utf-8", _ERRORS))  # \xff is in no UTF-8
        return digest.hexdigest()


def _check_layout(layout: bytes | None) -> None:
    """Raise if the layout is that of a newer release."""
    if _int(layout) > LAYOUT:
        raise SqlError(
            "the history was written by a newer release of django-wsmux: upgrade this process", ""
        )


def _delete(session: Session, found: Rows) -> None:
    """Delete the messages that the sweep found."""
    for begin in range(0, len(found), sql.BATCH):
        batch = found[begin : begin + sql.BATCH]
        places = ",".join(f'"{_text(row[0])}"' for row in batch)
        transactions = ",".join(_text(row[1]) for row in batch)
        session.execute(sql.DELETE, [f"{{{places}}}", f"{{{transactions}}}"])


def _text(value: bytes | None) -> str:
    return (value or b"").decode()


def _int(value: bytes | None) -> int:
    return int(value or b"0")

"""The history of ``local://``: one SQLite file for all processes of a project on one machine.

A message is stored by one statement: a trigger advances the stream and deletes excess messages.
SQLite's own wait for a lock would block the hub of gevent, so it never waits (``timeout=0``), and
this module retries after pauses that let other greenlets run. It holds no lock and no transaction
during a pause.
"""

from __future__ import annotations

import atexit
import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final, TypeVar

from .. import conf
from ..backends import Backend
from ..protocol.positions import epoch_of
from .sqlite_file import FileBusy, HistoryFile, now
from .store import (
    IDLE_SECONDS,
    KEY_SECONDS,
    Appended,
    Changed,
    Entry,
    Reading,
    Store,
    Stream,
)

__all__ = ["SQLiteStore"]

_Result = TypeVar("_Result")

_MICROSECONDS: Final = 1_000_000
_IDLE: Final = IDLE_SECONDS * _MICROSECONDS

#: Seconds for which a call is retried while the file is locked.
_PATIENCE: Final = 1.0

#: Seconds of the first pause, and of the longest.
_FIRST_PAUSE: Final = 0.0002
_MAX_PAUSE: Final = 0.002

#: SQLite's primary error codes after which a call is retried.
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})

#: Overhead in bytes of a message of 200 bytes in the file; measured.
_OVERHEAD: Final = 100

#: Unused pages that the file may always have.
_SPARE_PAGES: Final = 256

#: Streams, messages or pages that the sweep changes before it lets others run.
_SLICE: Final = 100

_APPEND: Final = """
    INSERT INTO message (stream, offset, sent, body)
    SELECT id, top + 1, ?, ? FROM stream
    WHERE name = ? AND messages = ? AND lifetime = ? AND max_bytes = ?
    RETURNING offset, (SELECT began FROM stream WHERE id = message.stream)
"""
# An existing stream gets other limits, or a new epoch.
_ADD: Final = """
    INSERT INTO stream (name, began, is_forgotten, top, kept, bytes, used, number, due,
                        keys, messages, lifetime, max_bytes)
    SELECT :name, :now, :is_forgotten, 0, 0, 0, :now, ifnull(max(number), 0) + 1,
           :now + :lifetime, 0, :messages, :lifetime, :max_bytes
    FROM stream WHERE true
    ON CONFLICT (name) DO UPDATE SET
"""
_SET_LIMITS: Final = f"""{_ADD}
        messages = excluded.messages, lifetime = excluded.lifetime,
        max_bytes = excluded.max_bytes, due = min(due, excluded.due)
"""
_FORGET: Final = f"""{_ADD}
        began = max(excluded.began, began + 1), is_forgotten = true, top = 0,
        used = excluded.used, number = excluded.number
    RETURNING id, began
"""
_ADD_KEY: Final = """
    INSERT OR IGNORE INTO key (stream, key, nth, expires)
    SELECT id, ?, keys + 1, ? FROM stream WHERE name = ?
"""
# The newest message that is beyond the limit of bytes.
_BEYOND_BYTES: Final = """
    SELECT ifnull(max(offset), 0) FROM (
        SELECT offset, sum(length(body)) OVER (ORDER BY offset DESC) AS size
        FROM message WHERE stream = ? AND offset > ?
    ) WHERE size > ?
"""
_FIRST: Final = """
    SELECT offset FROM message WHERE stream = ? AND offset > ? AND sent > ?
    ORDER BY offset LIMIT 1
"""
_ENTRIES: Final = """
    SELECT offset, sent / 1e6, body FROM message WHERE stream = ? AND offset > ?
    ORDER BY offset {} LIMIT ?
"""
_ROW: Final = "SELECT id, began, top, is_forgotten, bytes FROM stream WHERE name = ?"
_LIMITS: Final = "SELECT messages, lifetime, max_bytes FROM stream WHERE name = ?"
_DELETE_KEY: Final = """
    DELETE FROM key
    WHERE stream = (SELECT id FROM stream WHERE name = ?) AND key = ? AND expires <= ?
"""
_CHANGED: Final = "SELECT name, began, top, number FROM stream WHERE number > ? ORDER BY number"
_IS_DUE: Final = "SELECT EXISTS (SELECT 1 FROM stream WHERE due <= ?)"
_DUE: Final = "SELECT id, lifetime, used FROM stream WHERE due <= ? ORDER BY due LIMIT ?"
_AGES: Final = "SELECT offset, sent FROM message WHERE stream = ? ORDER BY offset LIMIT ?"
_DELETE_EXPIRED: Final = "DELETE FROM message WHERE stream = ? AND offset <= ? AND sent <= ?"
_DELETE_STREAM: Final = """
    DELETE FROM stream WHERE id = ? AND number < (SELECT max(number) FROM stream)
"""
_RELEASE_KEY: Final = """
    UPDATE key SET expires = ?
    WHERE stream = (SELECT id FROM stream WHERE name = ?) AND key = ? AND expires > ?
"""
_EXPIRED_KEYS: Final = "SELECT stream, key FROM key WHERE expires <= ? LIMIT ?"
_DELETE_KEY_OF_STREAM: Final = "DELETE FROM key WHERE stream = ? AND key = ? AND expires <= ?"
_OLDEST: Final = "SELECT number, length(body) FROM message ORDER BY number LIMIT ?"
_SUM: Final = """
    SELECT ifnull(sum(bytes), 0), ifnull(sum(kept), 0), max(id)
    FROM (SELECT id, bytes, kept FROM stream WHERE id > ? ORDER BY id LIMIT ?)
"""
_OLDEST_FIRST: Final = _ENTRIES.format("")
_NEWEST_FIRST: Final = _ENTRIES.format("DESC")

_epoch_of = lru_cache(maxsize=4096)(epoch_of)


class SQLiteStore(Store):
    """A store in one SQLite file; see the module.

    Args:
        url: ``local://``; ``local:///directory`` puts the private directory there.
        namespace: names the project.
        backend: as for other stores; not used.
    """

    def __init__(self, url: str, *, namespace: str, backend: Backend | None) -> None:
        self._file = HistoryFile(url, namespace)
        self._connection: sqlite3.Connection | None = None
        # Held for each attempt: the connection has one transaction at a time.
        self._lock = threading.Lock()
        _stores.add(self)

    @property
    def path(self) -> str:
        """The file."""
        return self._file.path

    def append(
        self, stream: Stream, message: bytes, *, key: str = "", key_seconds: float = KEY_SECONDS
    ) -> Appended | None:
        """Number a message and keep it."""
        if key:
            expires = now() + int(key_seconds * _MICROSECONDS)
            return self._run(self._append_once, stream, message, _encode(key), expires)
        return self._run(self._append, stream, message)

    def release(self, stream: Stream, keys: Collection[str], seconds: float = KEY_SECONDS) -> None:
        """Let keys expire after at most some seconds."""
        until = now() + int(seconds * _MICROSECONDS)
        name = _encode(stream.name)
        self._run(self._release, [(until, name, _encode(key), until) for key in keys])

    def read(
        self,
        stream: Stream,
        since: int | None = None,
        limit: int = 0,
        *,
        max_bytes: int = 2**62,
        newest: bool = False,
    ) -> Reading:
        """Return a consistent view of a stream's row and its messages."""
        return self._run(self._read, stream, since, limit, max_bytes, newest)

    def changed(self, seen: str) -> tuple[str, list[Changed]]:
        """Return the streams that have changed."""
        self._run(self._look)
        return self._run(self._changed, seen)

    def forget(self, stream: Stream) -> str:
        """Delete the messages of a stream, begin a new epoch, and return it."""
        return self._run(self._forget, stream)

    def sweep(self) -> None:
        """Delete expired, idle and excess data, in short transactions."""
        self._run(self._look)
        for work in (self._sweep_streams, self._sweep_keys):
            while self._run(work):
                time.sleep(0)
        excess = self._excess()
        while excess > 0:
            excess -= self._run(self._delete_oldest, excess) or excess
            time.sleep(0)
        while self._run(self._shrink):
            time.sleep(0)

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._lock:
            self._close()

    # Inside

    def _run(self, work: Callable[..., _Result], *args: Any) -> _Result:
        """Call ``work`` with the connection and the arguments; retry while the file is locked."""
        pause = _FIRST_PAUSE
        deadline = 0.0
        while True:
            try:
                with self._lock:
                    connection = self._connection = self._file.present(self._connection)
                    try:
                        return work(connection, *args)
                    except BaseException as error:
                        self._undo(error)
                        raise
            except FileBusy:
                pass
            except sqlite3.Error as error:
                if not _is_busy(error):
                    raise self._file.failure(error) from error
            moment = time.monotonic()
            deadline = deadline or moment + _PATIENCE
            if moment >= deadline:
                raise self._file.busy(_PATIENCE)
            # Waiting processes do not all return at once.
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
            pause = min(pause * 1.5, _MAX_PAUSE)

    def _open(self) -> sqlite3.Connection:
        self._connection = self._file.open()
        return self._connection

    def _undo(self, error: BaseException) -> None:
        """End the transaction. After a failure, close the file, so that it is checked again."""
        connection = self._connection
        if connection is None:
            return
        if _is_busy(error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        else:
            self._close()

    def _close(self) -> None:
        if self._connection is not None:
            self._file.close(self._connection)
            self._connection = None

    def _look(self, connection: sqlite3.Connection) -> None:
        """Open the file again if it was deleted, for example by a cleaner of /tmp."""
        if not self._file.is_current():
            self._close()
            connection = self._open()
        self._file.require_known(connection)

    # Each of these is called with the connection, and leaves no transaction open.

    def _append(self, connection: sqlite3.Connection, stream: Stream, message: bytes) -> Appended:
        found = connection.execute(_APPEND, (now(), message, *_limits(stream))).fetchall()
        if not found:
            with _writing(connection):
                self._add(connection, stream)
                values = now(), message, *_limits(stream)
                found = connection.execute(_APPEND, values).fetchall()
        offset, began = found[0]
        return Appended(_epoch_of(self._file.store, began), offset, False)

    def _append_once(
        self, connection: sqlite3.Connection, stream: Stream, message: bytes, key: bytes, until: int
    ) -> Appended | None:
        with _writing(connection):
            self._add(connection, stream)
            moment = now()
            name = _encode(stream.name)
            connection.execute(_DELETE_KEY, (name, key, moment))
            if connection.execute(_ADD_KEY, (key, until, name)).rowcount == 0:
                return None
            values = moment, message, *_limits(stream)
            offset, began = connection.execute(_APPEND, values).fetchall()[0]
        return Appended(_epoch_of(self._file.store, began), offset, False)

    def _release(
        self, connection: sqlite3.Connection, values: list[tuple[int, bytes, bytes, int]]
    ) -> None:
        with _writing(connection):
            connection.executemany(_RELEASE_KEY, values)

    def _add(self, connection: sqlite3.Connection, stream: Stream) -> None:
        """Make the row of a stream if it is missing, or change its limits."""
        name, *limits = _limits(stream)
        row = connection.execute(_LIMITS, (name,)).fetchone()
        if row is None or list(row) != limits:
            connection.execute(_SET_LIMITS, _row(stream, is_forgotten=False))

    def _read(
        self,
        connection: sqlite3.Connection,
        stream: Stream,
        since: int | None,
        limit: int,
        max_bytes: int,
        newest: bool,
    ) -> Reading:
        moment = now()
        name, messages, lifetime, most = _limits(stream)
        execute = connection.execute
        execute("BEGIN")
        row = execute(_ROW, (name,)).fetchone()
        if row is None:
            execute("COMMIT")
            return Reading(self._file.store, moment)
        number, began, top, is_forgotten, size = row
        floor = max(top - messages, 0)
        if size > most:
            floor = max(floor, execute(_BEYOND_BYTES, (number, floor, most)).fetchone()[0])
        found = execute(_FIRST, (number, floor, moment - lifetime)).fetchone()
        first = top + 1 if found is None else found[0]
        entries: tuple[Entry, ...] = ()
        if since is not None and limit > 0 and first <= top:
            query = _NEWEST_FIRST if newest else _OLDEST_FIRST
            rows = execute(query, (number, max(since, first - 1), limit)).fetchall()
            entries = tuple(map(Entry._make, rows))
            if size > max_bytes:
                entries = _up_to(max_bytes, entries)
            if newest:
                entries = entries[::-1]
        execute("COMMIT")
        epoch = _epoch_of(self._file.store, began)
        return Reading(self._file.store, moment, epoch, top, first, bool(is_forgotten), entries)

    def _changed(self, connection: sqlite3.Connection, seen: str) -> tuple[str, list[Changed]]:
        if not seen:
            number = connection.execute("SELECT max(number) FROM stream").fetchone()[0] or 0
            return f"{self._file.store}.{number}", []
        store, _, text = seen.partition(".")
        if store != self._file.store:
            return "", []
        number = int(text)
        found = []
        for name, began, top, last in connection.execute(_CHANGED, (number,)).fetchall():
            found.append(Changed(_decode(name), _epoch_of(self._file.store, began), top))
            number = last
        return f"{self._file.store}.{number}", found

    def _forget(self, connection: sqlite3.Connection, stream: Stream) -> str:
        with _writing(connection):
            row = _row(stream, is_forgotten=True)
            number, began = connection.execute(_FORGET, row).fetchall()[0]
            connection.execute("DELETE FROM message WHERE stream = ?", (number,))
        return _epoch_of(self._file.store, began)

    # Sweeping: each function returns whether there may be more to do.

    def _sweep_streams(self, connection: sqlite3.Connection) -> bool:
        moment = now()
        if not connection.execute(_IS_DUE, (moment,)).fetchone()[0]:
            return False
        with _writing(connection):
            for row in connection.execute(_DUE, (moment, _SLICE // 5)).fetchall():
                self._sweep_stream(connection, moment, *row)
        return True

    def _sweep_stream(
        self, connection: sqlite3.Connection, moment: int, number: int, lifetime: int, used: int
    ) -> None:
        ages = connection.execute(_AGES, (number, _SLICE)).fetchall()
        expired = [offset for offset, sent in ages if sent + lifetime <= moment]
        if expired:
            connection.execute(_DELETE_EXPIRED, (number, expired[-1], moment - lifetime))
        if len(expired) < len(ages):
            due = min(sent for _, sent in ages if sent + lifetime > moment) + lifetime
        elif len(ages) == _SLICE:
            due = moment  # in the next slice
        else:
            due = used + _IDLE
            if due <= moment:
                # The row with the last number stays, so that numbers never decrease.
                if connection.execute(_DELETE_STREAM, (number,)).rowcount:
                    connection.execute("DELETE FROM key WHERE stream = ?", (number,))
                due = moment + _IDLE
        connection.execute("UPDATE stream SET due = ? WHERE id = ?", (due, number))

    def _sweep_keys(self, connection: sqlite3.Connection) -> bool:
        moment = now()
        found = connection.execute(_EXPIRED_KEYS, (moment, _SLICE)).fetchall()
        if found:
            with _writing(connection):
                connection.executemany(_DELETE_KEY_OF_STREAM, [(*each, moment) for each in found])
        return len(found) == _SLICE

    def _excess(self) -> int:
        """Return how many bytes of messages must be deleted."""
        most: int = conf.get("WEBSOCKET_HISTORY_BYTES")
        if self._run(_size) <= most:
            return 0
        total = 0
        last: int | None = 0
        while last is not None:
            size, count, last = self._run(_sum, last)
            total += size + count * _OVERHEAD
            time.sleep(0)
        return total - most

    def _delete_oldest(self, connection: sqlite3.Connection, excess: int) -> int:
        """Delete the oldest messages of all streams; return their bytes."""
        deleted = 0
        with _writing(connection):
            for number, size in connection.execute(_OLDEST, (_SLICE,)).fetchall():
                connection.execute("DELETE FROM message WHERE number = ?", (number,))
                deleted += size + _OVERHEAD
                if deleted >= excess:
                    break
        return deleted

    def _shrink(self, connection: sqlite3.Connection) -> bool:
        """Return unused pages to the file system if there are many."""
        free = _pragma(connection, "freelist_count")
        if free <= max(_SPARE_PAGES, _pragma(connection, "page_count") // 4):
            return False
        connection.execute(f"PRAGMA incremental_vacuum({_SLICE})").fetchall()
        return _pragma(connection, "freelist_count") < free


@contextmanager
def _writing(connection: sqlite3.Connection) -> Iterator[None]:
    """Hold the write lock from the beginning. ``_run()`` ends a failed transaction."""
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")


def _is_busy(error: BaseException) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY


def _encode(text: str) -> bytes:
    # Names of users' groups contain primary keys, which may be any text: refuse no name.
    return text.encode("utf-8", "surrogatepass")


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")


def _limits(stream: Stream) -> tuple[bytes, int, int, int]:
    keep = stream.keep
    return _encode(stream.name), keep.messages, int(keep.seconds * _MICROSECONDS), keep.bytes


def _row(stream: Stream, *, is_forgotten: bool) -> dict[str, Any]:
    name, messages, lifetime, most = _limits(stream)
    return {
        "name": name,
        "messages": messages,
        "lifetime": lifetime,
        "max_bytes": most,
        # Within the transaction, so that positions that were read before it have an earlier moment.
        "now": now(),
        "is_forgotten": is_forgotten,
    }


def _up_to(max_bytes: int, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """Return the first entries, up to the one that reaches the limit of bytes."""
    size = 0
    for count, entry in enumerate(entries, 1):
        size += len(entry.message)
        if size >= max_bytes:
            return entries[:count]
    return entries


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def _size(connection: sqlite3.Connection) -> int:
    """Return how many bytes of the file are in use."""
    pages = _pragma(connection, "page_count") - _pragma(connection, "freelist_count")
    return pages * _pragma(connection, "page_size")


def _sum(connection: sqlite3.Connection, last: int) -> tuple[int, int, int | None]:
    """Return bytes and number of messages of some streams, and the last of these streams."""
    found: tuple[int, int, int | None] = connection.execute(_SUM, (last, 100 * _SLICE)).fetchone()
    return found


_stores: weakref.WeakSet[SQLiteStore] = weakref.WeakSet()
_held: list[threading.Lock] = []


def _before_fork() -> None:
    # SQLite must not be used across a fork: its locks belong to a process, but it remembers them
    # in memory, which the child would take over.
    for store in list(_stores):
        store._lock.acquire()
        store._close()
        _held.append(store._lock)


def _after_fork() -> None:
    while _held:
        _held.pop().release()


def _close_all() -> None:
    for store in list(_stores):
        store.close()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
atexit.register(_close_all)

"""The history of ``local://``: one SQLite file for all processes of a project on one machine.

A message is stored by one statement, and excess messages are deleted together, now and then.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection
from functools import lru_cache
from typing import Final

from .. import conf
from ..backends import Backend
from ..protocol.positions import epoch_of
from . import sqlite_statements as sql
from . import sqlite_sweep as sweep
from .sqlite_base import SQLiteBase, decode_name, encode_name
from .sqlite_file import shrink, writing
from .sqlite_tables import LAYOUT, next_stream, now
from .store import (
    KEY_SECONDS,
    Appended,
    Changed,
    Entry,
    Keep,
    Reading,
    Store,
    Stream,
)

__all__ = ["SQLiteStore"]

_MICROSECONDS: Final = 1_000_000

#: The fewest messages between two deletions of excess ones, which take a transaction of their own.
_MIN_STEP: Final = 8

#: Streams that are remembered, and for how many microseconds.
_MAX_KNOWN: Final = 10_000
_KNOWN_FOR: Final = 60 * _MICROSECONDS

#: Changes that are read at once.
_CHANGES: Final = 1000


_epoch_of = lru_cache(maxsize=4096)(epoch_of)


class _Known:
    """What this process remembers of a stream, so that one statement appends a message to it.

    Attributes:
        stream: ``stream.stream``. There are no messages of that number after ``forget()``.
        epoch: its epoch.
        keep: its limits.
        until: when ``stream.lifetime`` must be compared again.
        step: after so many messages, excess ones are deleted.
        before: size of the messages that were deleted.
        most: size of the messages after which excess ones are deleted.
    """

    __slots__ = ("before", "epoch", "keep", "most", "step", "stream", "until")

    def __init__(self, stream: int, epoch: str, keep: Keep, until: int) -> None:
        self.stream = stream
        self.epoch = epoch
        self.keep = keep
        self.until = until
        self.step = max(keep.messages // 8, _MIN_STEP)
        self.most = keep.bytes + keep.bytes // 8
        self.before = 0


class SQLiteStore(SQLiteBase, Store):
    """A store in one SQLite file; see the module.

    Args:
        url: ``local://``; ``local:///directory`` puts the private directory there.
        namespace: names the project.
        backend: as for other stores; not used.
    """

    def __init__(self, url: str, *, namespace: str, backend: Backend | None) -> None:
        super().__init__(url, namespace, LAYOUT)
        self._known: dict[str, _Known] = {}

    def append(
        self, stream: Stream, message: bytes, *, key: str = "", key_seconds: float = KEY_SECONDS
    ) -> Appended | None:
        """Number a message and keep it."""
        if key:
            expires = now() + int(key_seconds * _MICROSECONDS)
            return self._run(self._append_once, stream, message, encode_name(key), expires)
        return self._run(self._append, stream, message)

    def release(self, stream: Stream, keys: Collection[str], seconds: float = KEY_SECONDS) -> None:
        """Let keys expire after at most some seconds."""
        until = now() + int(seconds * _MICROSECONDS)
        name = encode_name(stream.name)
        self._run(self._release, [(until, name, encode_name(key), until) for key in keys])

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
        found: dict[str, Changed] = {}
        has_more = True
        while has_more:
            seen, changes, has_more = self._run(self._changed, seen)
            found.update((each.name, each) for each in changes)
            time.sleep(0)
        return seen, list(found.values())

    def forget(self, stream: Stream) -> str:
        """Delete the messages of a stream, begin a new epoch, and return it."""
        return self._run(self._forget, stream)

    def sweep(self) -> None:
        """Delete expired, idle and excess data, in short transactions."""
        self._run(self._look)
        for work in (sweep.streams, sweep.keys):
            while self._run(work):
                time.sleep(0)
        excess = self._excess()
        last: int | None = 0
        while excess > 0 and last is not None:
            deleted, last = self._run(sweep.delete_oldest, excess, last)
            excess -= deleted
            time.sleep(0)
        while self._run(shrink):
            time.sleep(0)

    def _excess(self) -> int:
        """Return how many bytes of messages must be deleted."""
        most: int = conf.get("WEBSOCKET_HISTORY_BYTES")
        if self._run(sweep.used) <= most:
            return 0
        total = 0
        last: int | None = 0
        while last is not None:
            size, last = self._run(sweep.size_after, last)
            total += size
            time.sleep(0)
        return total - most

    # Inside

    def _opened(self, connection: sqlite3.Connection) -> None:
        super()._opened(connection)
        self._known.clear()  # it may be another file

    # Each of these is called with the connection, and leaves no transaction open.

    def _append(self, connection: sqlite3.Connection, stream: Stream, message: bytes) -> Appended:
        moment = now()
        known = self._known.get(stream.name)
        if known is not None and known.keep == stream.keep and moment < known.until:
            values = known.stream, moment, len(message), message
            found = connection.execute(sql.APPEND, values).fetchall()
            if found:
                offset, total = found[0]
                if not offset % known.step or total - known.before > known.most:
                    self._trim_later(connection, known)
                return Appended(known.epoch, offset, False)
        with writing(connection):
            known = self._find(connection, stream)
            offset = _append_to(connection, known, message)
        self._remember(stream, known)
        return Appended(known.epoch, offset, False)

    def _append_once(
        self, connection: sqlite3.Connection, stream: Stream, message: bytes, key: bytes, until: int
    ) -> Appended | None:
        name = encode_name(stream.name)
        with writing(connection):
            known = self._find(connection, stream)
            connection.execute(sql.DELETE_KEY, (name, key, now()))
            if connection.execute(sql.ADD_KEY, (key, until, name)).rowcount == 0:
                return None
            offset = _append_to(connection, known, message)
        self._remember(stream, known)
        return Appended(known.epoch, offset, False)

    def _release(
        self, connection: sqlite3.Connection, values: list[tuple[int, bytes, bytes, int]]
    ) -> None:
        with writing(connection):
            connection.executemany(sql.RELEASE_KEY, values)

    def _find(self, connection: sqlite3.Connection, stream: Stream) -> _Known:
        """Return what to remember of a stream; make its row if it is missing."""
        # Within the transaction, so that positions that were read before it have an earlier moment.
        moment = now()
        name, lifetime = encode_name(stream.name), _lifetime(stream)
        row = connection.execute(sql.STREAM, (name,)).fetchone()
        if row is None:
            number, began = next_stream(connection), moment
            values = name, number, began, False, lifetime, moment + lifetime
            connection.execute(sql.ADD, values)
            connection.execute(sql.BEGIN, (number, moment))
        else:
            number, began, present, due = row
            if present != lifetime or due > moment + lifetime:
                connection.execute(sql.SET_LIFETIME, (lifetime, moment + lifetime, name))
        epoch = _epoch_of(self._file.store, began)
        return _Known(number, epoch, stream.keep, moment + _KNOWN_FOR)

    def _remember(self, stream: Stream, known: _Known) -> None:
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        self._known[stream.name] = known

    def _trim_later(self, connection: sqlite3.Connection, known: _Known) -> None:
        """Delete excess messages; a later call does it if this one fails: a message was stored."""
        try:
            with writing(connection):
                _trim(connection, known)
        except sqlite3.Error as error:
            self._undo(error)

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
        keep = stream.keep
        execute = connection.execute
        execute("BEGIN")
        row = execute(sql.ROW, (encode_name(stream.name),)).fetchone()
        if row is None:
            execute("COMMIT")
            return Reading(self._file.store, moment)
        number, began, is_forgotten, top, total = row
        limits = number, top - keep.messages, moment - _lifetime(stream), total - keep.bytes
        found = execute(sql.FIRST, limits).fetchone()
        first = top + 1 if found is None else found[0]
        entries: tuple[Entry, ...] = ()
        if since is not None and limit > 0 and first <= top:
            query = sql.NEWEST_FIRST if newest else sql.OLDEST_FIRST
            rows = execute(query, (number, max(since, first - 1), limit)).fetchall()
            entries = tuple(map(Entry._make, rows))
            if total > max_bytes:
                entries = _up_to(max_bytes, entries)
            if newest:
                entries = entries[::-1]
        execute("COMMIT")
        epoch = _epoch_of(self._file.store, began)
        return Reading(self._file.store, moment, epoch, top, first, bool(is_forgotten), entries)

    def _changed(
        self, connection: sqlite3.Connection, seen: str
    ) -> tuple[str, list[Changed], bool]:
        """Return the next changes, and whether there are more."""
        if not seen:
            number = connection.execute(sql.NUMBER).fetchone()[0]
            return f"{self._file.store}.{number}", [], False
        store, _, text = seen.partition(".")
        if store != self._file.store:
            return "", [], False
        execute = connection.execute
        execute("BEGIN")
        rows = execute(sql.CHANGED, (int(text), _CHANGES)).fetchall()
        tops = {stream: offset for _, stream, offset in rows}
        names = [(execute(sql.NAME, (stream,)).fetchone(), top) for stream, top in tops.items()]
        execute("COMMIT")
        found = [
            Changed(decode_name(row[0]), _epoch_of(self._file.store, row[1]), top)
            for row, top in names
            if row is not None
        ]
        last = rows[-1][0] if rows else text
        return f"{store}.{last}", found, len(rows) == _CHANGES

    def _forget(self, connection: sqlite3.Connection, stream: Stream) -> str:
        with writing(connection):
            moment = now()
            name, lifetime = encode_name(stream.name), _lifetime(stream)
            row = connection.execute(sql.STREAM, (name,)).fetchone()
            number = next_stream(connection)
            if row is None:
                began = moment
                values = name, number, began, True, lifetime, moment + lifetime
                connection.execute(sql.ADD, values)
            else:
                began = max(moment, row[1] + 1)
                connection.execute(sql.FORGET, (number, began, name))
            # First: it must not get the number of a deleted message.
            connection.execute(sql.BEGIN, (number, moment))
            if row is not None:
                connection.execute("DELETE FROM message WHERE stream = ?", (row[0],))
        return _epoch_of(self._file.store, began)


def _lifetime(stream: Stream) -> int:
    """Return how many microseconds the messages of a stream are kept."""
    return int(stream.keep.seconds * _MICROSECONDS)


def _append_to(connection: sqlite3.Connection, known: _Known, message: bytes) -> int:
    """Append a message within a transaction; return its offset."""
    values = known.stream, now(), len(message), message
    offset: int = connection.execute(sql.APPEND, values).fetchall()[0][0]
    _trim(connection, known)
    return offset


def _trim(connection: sqlite3.Connection, known: _Known) -> None:
    """Delete the messages of a stream that exceed its limits, within a transaction."""
    row = connection.execute(sql.TOP, (known.stream,)).fetchone()
    if row is None:
        return  # it was forgotten
    number, top, _, total = row
    messages, _, most = known.keep
    found = connection.execute(
        sql.FIRST, (known.stream, top - messages, 0, total - most)
    ).fetchone()
    first, known.before = found or (top, total)
    connection.execute(sql.DELETE_BEFORE, (known.stream, first))
    if found is None:
        connection.execute(sql.EMPTY, (number,))


def _up_to(max_bytes: int, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """Return the first entries, up to the one that reaches the limit of bytes."""
    size = 0
    for count, entry in enumerate(entries, 1):
        size += len(entry.message)
        if size >= max_bytes:
            return entries[:count]
    return entries

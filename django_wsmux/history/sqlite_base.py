"""What the stores in SQLite files have in common: use by threads, greenlets and forks.

SQLite's own wait for a lock would block the hub of gevent, so it never waits (``timeout=0``), and
this module retries after pauses that let other greenlets run. It holds no lock and no transaction
during a pause.
"""

from __future__ import annotations

import atexit
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from random import SystemRandom
from typing import Any, Final, TypeVar

from .sqlite_file import FileBusy, Layout, SQLiteFile

__all__ = ["SQLiteBase", "decode_name", "encode_name"]

_random: Final = SystemRandom()

_Result = TypeVar("_Result")

#: Seconds for which a call is retried while the file is locked.
_PATIENCE: Final = 1.0

#: Seconds of the first pause, and of the longest.
_FIRST_PAUSE: Final = 0.0002
_MAX_PAUSE: Final = 0.002

#: SQLite's primary error codes after which a call is retried.
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})


class SQLiteBase:
    """A store in one SQLite file; see the module.

    Args:
        url: ``local://``; ``local:///directory`` puts the private directory there.
        namespace: names the project.
        layout: what is in the file.
    """

    def __init__(self, url: str, namespace: str, layout: Layout) -> None:
        self._file = SQLiteFile(url, namespace, layout)
        self._connection: sqlite3.Connection | None = None
        # Held for each attempt: the connection has one transaction at a time.
        self._lock = threading.Lock()
        _stores.add(self)

    @property
    def path(self) -> str:
        """The file."""
        return self._file.path

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._lock:
            self._close()

    def _run(self, work: Callable[..., _Result], *args: Any) -> _Result:
        """Call ``work`` with the connection and the arguments; retry while the file is locked."""
        pause = _FIRST_PAUSE
        deadline = 0.0
        while True:
            try:
                with self._lock:
                    connection = self._file.present(self._connection)
                    if connection is not self._connection:
                        self._opened(connection)
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
            time.sleep(pause * _random.uniform(0.5, 1))
            pause = min(pause * 1.5, _MAX_PAUSE)

    def _opened(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

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
        """Open the file again if it was deleted, for example by a cleaner of /tmp.

        To be passed to ``_run()`` now and then, as other calls do not notice a file that another
        release has changed, or a log that was deleted.
        """
        if not self._file.is_current():
            self._close()
            connection = self._file.open()
            self._opened(connection)
        self._file.require_known(connection)


def encode_name(text: str) -> bytes:
    """Return the name of a group as it is stored."""
    # Names of users' groups contain primary keys, which may be any text: refuse no name.
    return text.encode("utf-8", "surrogatepass")


def decode_name(name: bytes) -> str:
    """Return the name of a group that was stored."""
    return name.decode("utf-8", "surrogatepass")


def _is_busy(error: BaseException) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY


_stores: weakref.WeakSet[SQLiteBase] = weakref.WeakSet()
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

"""Database connections that handshakes pass on to each other.

Every handshake runs in a new greenlet, and each greenlet has its own connections. When all clients
reconnect after a deploy, to open a connection for each of them costs more than everything else:
with SQLite twice as much as session and user, with PostgreSQL a process each. So the connections
of a handshake are kept, where that is allowed, and the next handshake uses them. A connection that
is not used within ``IDLE`` seconds is closed: an idle process holds none.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Final

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from ..logs import get_logger

__all__ = ["IDLE", "OLDEST", "Reserve", "break_cycles", "close", "close_if_old", "is_poolable"]

logger = get_logger("django_wsmux.databases")

#: Seconds that a connection waits for the next handshake.
IDLE: Final = 0.05

#: Seconds after which SQLite is reopened even if handshakes never pause, unless ``CONN_MAX_AGE`` is
#: longer.
OLDEST: Final = 1.0

_PARTS: Final = ("client", "creation", "features", "introspection", "ops", "validation")


def close(connection: BaseDatabaseWrapper) -> None:
    """Close a connection; log it if that fails, because the server is gone for example."""
    try:
        connection.close()
    except Exception:
        _log_failure()


def close_if_old(connection: BaseDatabaseWrapper) -> bool:
    """Close a connection if it is too old or broken; return whether no error occurred."""
    try:
        connection.close_if_unusable_or_obsolete()
    except Exception:
        _log_failure()
        return False
    return True


def _log_failure() -> None:
    logger.warning("Closing a database connection failed", exc_info=True)


def break_cycles(connection: BaseDatabaseWrapper) -> None:
    """Free a closed connection at once, without the garbage collector.

    It and its parts refer to each other (Django 5.2 to 6.1, ``db/backends/base/base.py``): some
    KiB for each greenlet that has used a database.
    """
    for name in _PARTS:
        getattr(connection, name).connection = None
    vars(connection).pop("wrap_database_errors", None)


def is_poolable(connection: BaseDatabaseWrapper) -> bool:
    """Return whether a connection may outlive its handshake.

    It may not with ``CONN_MAX_AGE = 0``, since a role or a search path set on the connection must
    not reach the next user. SQLite has neither. A pool has its own reserve, and others may wait for
    a connection that is not returned to it.
    """
    options: dict[str, Any] = connection.settings_dict["OPTIONS"]
    if options.get("pool"):
        return False
    return connection.vendor == "sqlite" or connection.settings_dict["CONN_MAX_AGE"] != 0


class Reserve:
    """The connections that are not in use, the last used ones on top."""

    def __init__(self) -> None:
        self._resting: deque[tuple[float, list[BaseDatabaseWrapper]]] = deque()
        self._is_swept = False
        self._inherited: deque[tuple[float, list[BaseDatabaseWrapper]]] | None = None

    def lend(self) -> bool:
        """Give the current greenlet, which has none, open connections; return whether it did."""
        if not self._resting:
            return False
        _, found = self._resting.pop()
        for connection in found:
            connections[connection.alias] = connection
        return True

    def take(self) -> None:
        """Take the current greenlet's connections, and keep those that are open."""
        kept = []
        for connection in connections.all(initialized_only=True):
            del connections[connection.alias]
            if self._is_worth_keeping(connection):
                kept.append(connection)
            else:
                close(connection)
                break_cycles(connection)
        if kept:
            self._resting.append((time.monotonic(), kept))
            self._sweep_later()

    def disown(self) -> None:
        """Leave the connections to the parent, in a forked child.

        They are neither closed nor garbage-collected: the driver would tell the database to end the
        session, which the parent still uses.
        """
        self._inherited = self._resting
        self._resting = deque()

    def _is_worth_keeping(self, connection: BaseDatabaseWrapper) -> bool:
        """Return whether the connection may be pooled."""
        # request_finished does this too, but is sent later if a handshake is refused.
        if not close_if_old(connection):
            return False
        if (
            connection.connection is None
            or connection.in_atomic_block
            or not is_poolable(connection)
        ):
            return False
        if not connection.allow_thread_sharing:
            # Otherwise Django allows its use only in the greenlet that created it.
            connection.inc_thread_sharing()
        return True

    def _sweep_later(self) -> None:
        if not self._is_swept:
            self._is_swept = True
            # Imported only now: processes without greenlets need no hub.
            import gevent

            gevent.spawn_later(IDLE, self._sweep)

    def _sweep(self) -> None:
        """Close the connections that have been idle for ``IDLE`` seconds."""
        due = time.monotonic() - IDLE
        try:
            while self._resting and self._resting[0][0] <= due:
                _, found = self._resting.popleft()
                for connection in found:
                    close(connection)
                    break_cycles(connection)
        finally:
            # Also after an error of a third-party database backend.
            self._is_swept = False
            if self._resting:
                self._sweep_later()

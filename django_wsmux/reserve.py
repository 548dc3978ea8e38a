"""Database connections that handshakes leave to one another, for a moment.

Every handshake runs in a greenlet that is new, and a greenlet has connections of its own. When
everybody comes back after a deploy, to connect for each of them costs more than all the rest:
with SQLite twice what session and user cost, with PostgreSQL a process each. So what a handshake
has used is kept where it may be, and the next one goes on with it. What nobody takes for ``IDLE``
seconds is closed: a quiet process holds nothing.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Final

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from .server.logs import get_logger

__all__ = ["IDLE", "OLDEST", "Reserve", "close", "close_if_old", "may_stay", "take_apart"]

logger = get_logger("django_wsmux.databases")

#: Seconds that a connection waits for the next handshake.
IDLE: Final = 0.05

#: Seconds after which SQLite is opened anew although handshakes follow each other without end,
#: where ``CONN_MAX_AGE`` is less.
OLDEST: Final = 1.0

_PARTS: Final = ("client", "creation", "features", "introspection", "ops", "validation")


def close(connection: BaseDatabaseWrapper) -> None:
    """Close a connection; one that fails to, as of a server that has gone, is closed too."""
    try:
        connection.close()
    except Exception:
        _log_failure()


def close_if_old(connection: BaseDatabaseWrapper) -> bool:
    """Close a connection that is too old or broken; say whether that went well, if it was."""
    try:
        connection.close_if_unusable_or_obsolete()
    except Exception:
        _log_failure()
        return False
    return True


def _log_failure() -> None:
    logger.warning("Closing a database connection failed", exc_info=True)


def take_apart(connection: BaseDatabaseWrapper) -> None:
    """Make a closed connection go at once, rather than with the garbage collector.

    It and its parts refer to each other (Django 5.2 to 6.1, ``db/backends/base/base.py``): some
    KiB for each greenlet that has asked a database.
    """
    for name in _PARTS:
        getattr(connection, name).connection = None
    vars(connection).pop("wrap_database_errors", None)


def may_stay(connection: BaseDatabaseWrapper) -> bool:
    """Say whether a connection may outlive the handshake that has used it.

    ``CONN_MAX_AGE = 0`` says no, as a role or a search path that is set on a connection is not to
    reach the next user. SQLite has no such thing. A pool has its own reserve, and others wait for
    what is not given back to it.
    """
    options: dict[str, Any] = connection.settings_dict["OPTIONS"]
    if options.get("pool"):
        return False
    return connection.vendor == "sqlite" or connection.settings_dict["CONN_MAX_AGE"] != 0


class Reserve:
    """The connections that nobody uses just now, those used last on top."""

    def __init__(self) -> None:
        self._resting: deque[tuple[float, list[BaseDatabaseWrapper]]] = deque()
        self._is_swept = False
        self._inherited: deque[tuple[float, list[BaseDatabaseWrapper]]] | None = None

    def lend(self) -> bool:
        """Give the current greenlet, which has none, connections that are open; say if it did."""
        if not self._resting:
            return False
        _, found = self._resting.pop()
        for connection in found:
            connections[connection.alias] = connection
        return True

    def take(self) -> None:
        """Take the current greenlet's connections away from it, and keep what is open."""
        kept = []
        for connection in connections.all(initialized_only=True):
            del connections[connection.alias]
            if self._is_worth_keeping(connection):
                kept.append(connection)
            else:
                close(connection)
                take_apart(connection)
        if kept:
            self._resting.append((time.monotonic(), kept))
            self._sweep_later()

    def disown(self) -> None:
        """Leave the connections to the parent, in a forked child.

        They are not closed, nor collected as garbage: a driver would tell the database to end the
        session that the parent goes on with.
        """
        self._inherited = self._resting
        self._resting = deque()

    def _is_worth_keeping(self, connection: BaseDatabaseWrapper) -> bool:
        """Say whether another greenlet can go on with a connection, and nobody lacks it."""
        # What request_finished does, which comes later where a handshake is refused.
        if not close_if_old(connection):
            return False
        if connection.connection is None or connection.in_atomic_block or not may_stay(connection):
            return False
        if not connection.allow_thread_sharing:
            # Django asks by the greenlet that has made it.
            connection.inc_thread_sharing()
        return True

    def _sweep_later(self) -> None:
        if not self._is_swept:
            self._is_swept = True
            # Not before there are greenlets: plain processes need no hub.
            import gevent

            gevent.spawn_later(IDLE, self._sweep)

    def _sweep(self) -> None:
        """Close what nobody has taken."""
        due = time.monotonic() - IDLE
        try:
            while self._resting and self._resting[0][0] <= due:
                _, found = self._resting.popleft()
                for connection in found:
                    close(connection)
                    take_apart(connection)
        finally:
            # Also after an error, of a database backend of someone else's.
            self._is_swept = False
            if self._resting:
                self._sweep_later()

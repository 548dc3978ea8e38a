"""Database connections of sockets: a socket that waits holds none.

Each greenlet has its own connections, and one that waits an hour for a message would keep its
connection for that hour. So a greenlet gives its connections back before it waits. To look through
Django's connections costs more than a small message, so each greenlet is marked when it connects.

Every handshake runs in a new greenlet. When all clients reconnect after a deploy, opening a
connection for each of them costs more than everything else: with SQLite twice as much as reading
session and user, with PostgreSQL a process each. So the connections of a handshake are kept, where
that is allowed, and the next handshake uses them. A connection that is not used within ``IDLE``
seconds is closed: an idle process holds none.

A view under test uses the connections of its test, which stay open: see ``SharedConnections``.
"""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from asgiref.local import Local
from django.db import connections, reset_queries
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.transaction import TransactionManagementError
from greenlet import getcurrent

from ..connection.interfaces import MARK
from ..logs import get_logger
from ..server import patching

__all__ = [
    "IDLE",
    "SharedConnections",
    "abandon_handshake",
    "begin_handshake",
    "begin_message",
    "close",
    "discard",
    "end_handshake",
    "end_message",
    "release",
    "separate_greenlets",
]

logger = get_logger("django_wsmux.databases")

#: Seconds that a connection waits for the next handshake.
IDLE: Final = 0.05

#: Seconds after which SQLite is reopened even if handshakes never pause, unless ``CONN_MAX_AGE`` is
#: longer.
MAX_AGE: Final = 1.0

_PARTS: Final = ("client", "creation", "features", "introspection", "ops", "validation")

#: Attribute of a greenlet that has had connections, which are still to be taken apart.
_USED = "_django_wsmux_used"

#: Attribute of a greenlet whose connections are kept after its handshake.
_SHARES = "_django_wsmux_shares"


@dataclass(frozen=True, slots=True)
class _SharedConnections:
    """Marks a greenlet that uses a test's connections, with the depth of their transactions."""

    depths: list[tuple[BaseDatabaseWrapper, int]]


# The attribute MARK of a greenlet that has connected is True if the connections are its own.


def _mark(connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
    current = getcurrent()
    if not hasattr(current, MARK):
        setattr(current, MARK, True)
    setattr(current, _USED, True)
    if (
        hasattr(current, _SHARES)
        and connection.vendor == "sqlite"
        and connection.close_at is not None
    ):
        # Otherwise CONN_MAX_AGE = 0 would close it at the end of this handshake.
        connection.close_at = max(connection.close_at, time.monotonic() + MAX_AGE)


connection_created.connect(_mark, dispatch_uid="django_wsmux.databases")


def release() -> None:
    """Give back the current greenlet's connections before it waits.

    Raises:
        TransactionManagementError: a transaction is open, and would stay open until the peer sends
            something.
    """
    mark = getattr(getcurrent(), MARK, None)
    if mark is None:
        return
    if isinstance(mark, _SharedConnections):
        is_inside = any(_depth(connection) > depth for connection, depth in mark.depths)
    else:
        is_inside = any(each.in_atomic_block for each in connections.all(initialized_only=True))
    if is_inside:
        raise TransactionManagementError(
            "receive() inside transaction.atomic() would keep the transaction open until the "
            "peer sends something: leave the block before you wait for a message"
        )
    close()


def close() -> None:
    """Close the current greenlet's connections, or return them to their pool."""
    current = getcurrent()
    if getattr(current, MARK, None) is True:
        for connection in connections.all(initialized_only=True):
            # A test case keeps its transaction open around the view under test.
            if not connection.in_atomic_block:
                _close_safely(connection)
        delattr(current, MARK)


def discard() -> None:
    """Close the connections of a greenlet that is about to end, and take them apart.

    Threads continue to use their connections, so with threads they are only closed. To look through
    the connections costs much, so a greenlet that has never connected does not.
    """
    current = getcurrent()
    if not hasattr(current, _USED):
        return
    close()
    if hasattr(current, MARK) or not patching.is_patched():
        return
    delattr(current, _USED)
    for connection in connections.all(initialized_only=True):
        del connections[connection.alias]
        _break_cycles(connection)


# Connections between handshakes


def _close_safely(connection: BaseDatabaseWrapper) -> None:
    """Close a connection; log a failure, for example because the database is gone."""
    try:
        connection.close()
    except Exception:
        _log_failure()


def _close_if_old(connection: BaseDatabaseWrapper) -> bool:
    """Close a connection if it is too old or broken; return whether no error occurred."""
    try:
        connection.close_if_unusable_or_obsolete()
    except Exception:
        _log_failure()
        return False
    return True


def _log_failure() -> None:
    logger.warning("Closing a database connection failed", exc_info=True)


def _break_cycles(connection: BaseDatabaseWrapper) -> None:
    """Free a closed connection at once, without the garbage collector.

    It and its parts refer to each other (Django 5.2 to 6.1, ``db/backends/base/base.py``): some
    KiB for each greenlet that has used a database.
    """
    for name in _PARTS:
        getattr(connection, name).connection = None
    vars(connection).pop("wrap_database_errors", None)


def _is_poolable(connection: BaseDatabaseWrapper) -> bool:
    """Return whether a connection may outlive its handshake.

    It may not with ``CONN_MAX_AGE = 0``: a role or a search path that is set on the connection must
    not reach the next user. SQLite has neither. It may not with a pool, which keeps connections
    itself: others may wait for one that is not returned.
    """
    options: dict[str, Any] = connection.settings_dict["OPTIONS"]
    if options.get("pool"):
        return False
    return connection.vendor == "sqlite" or connection.settings_dict["CONN_MAX_AGE"] != 0


class _IdleConnections:
    """The connections that are not in use, the most recently used ones on top."""

    def __init__(self) -> None:
        self._resting: deque[tuple[float, list[BaseDatabaseWrapper]]] = deque()
        self._is_swept = False
        self._inherited: deque[tuple[float, list[BaseDatabaseWrapper]]] | None = None

    def check_out(self) -> bool:
        """Give the current greenlet, which has none, open connections; return whether it did."""
        if not self._resting:
            return False
        _, found = self._resting.pop()
        for connection in found:
            connections[connection.alias] = connection
        return True

    def check_in(self) -> None:
        """Take the current greenlet's connections, and keep those that are open."""
        kept = []
        for connection in connections.all(initialized_only=True):
            del connections[connection.alias]
            if self._is_worth_keeping(connection):
                kept.append(connection)
            else:
                _close_safely(connection)
                _break_cycles(connection)
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
        if not _close_if_old(connection):
            return False
        if (
            connection.connection is None
            or connection.in_atomic_block
            or not _is_poolable(connection)
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
                    _close_safely(connection)
                    _break_cycles(connection)
        finally:
            # Also after an error of a third-party database backend.
            self._is_swept = False
            if self._resting:
                self._sweep_later()


_idle = _IdleConnections()

if hasattr(os, "register_at_fork"):
    # Windows has no fork.
    os.register_at_fork(after_in_child=_idle.disown)


def begin_handshake() -> None:
    """Let the current greenlet use the connections of a handshake that has ended.

    Does nothing if the greenlet already has connections: those of an earlier page on the same
    kept-alive connection, or those of its test.
    """
    current = getcurrent()
    if hasattr(current, MARK) or not patching.is_patched():
        return
    setattr(current, _SHARES, True)
    if _idle.check_out():
        setattr(current, MARK, True)
        setattr(current, _USED, True)


def end_handshake() -> None:
    """Pass the current greenlet's connections on to the next handshake. May be called twice."""
    current = getcurrent()
    if not hasattr(current, _SHARES):
        return
    delattr(current, _SHARES)
    if getattr(current, MARK, None) is True:
        _idle.check_in()
        delattr(current, MARK)
        delattr(current, _USED)


def abandon_handshake() -> None:
    """Close the current greenlet's connections instead of passing them on.

    A handshake that was interrupted, for example by a ``gevent.Timeout``, may have been in the
    middle of a query, whose result is still to come.
    """
    current = getcurrent()
    if hasattr(current, _SHARES):
        delattr(current, _SHARES)
        discard()


def begin_message() -> None:
    """Begin a message as Django begins a request: close connections that are too old or broken."""
    reset_queries()
    _close_old()


def end_message() -> None:
    """End a message as Django ends a request: close connections older than ``CONN_MAX_AGE``."""
    _close_old()
    if not any(each.connection for each in connections.all(initialized_only=True)):
        delattr(getcurrent(), MARK)


def _close_old() -> None:
    # close_old_connections() of Django would stop at the first failure.
    for connection in connections.all(initialized_only=True):
        _close_if_old(connection)


class SharedConnections:
    """Lends the connections of this greenlet to others: those of a test to the views under test.

    The views see what the test has written and not committed, and do not close the connections.
    """

    def __init__(self) -> None:
        self._connections = connections.all()
        # Each greenlet of a patched process looks for connections of its own.
        self._is_needed = patching.is_patched()
        if self._is_needed:
            for connection in self._connections:
                connection.inc_thread_sharing()

    def begin(self) -> None:
        """Let the current greenlet use them: called whenever it resumes.

        Other greenlets may have opened and closed transactions meanwhile. The difference in depth
        shows which transactions this greenlet has opened when it waits.
        """
        if self._is_needed:
            for connection in self._connections:
                connections[connection.alias] = connection
        depths = [(connection, _depth(connection)) for connection in self._connections]
        setattr(getcurrent(), MARK, _SharedConnections(depths))

    def end(self) -> None:
        """Take the connections back."""
        if self._is_needed:
            self._is_needed = False
            for connection in self._connections:
                connection.dec_thread_sharing()


def _depth(connection: BaseDatabaseWrapper) -> int:
    """Return how many ``atomic()`` blocks are open."""
    return len(connection.savepoint_ids) + connection.in_atomic_block


# Keeps storages, and so connections, from being collected: closing a connection that another
# process has inherited too would end it for both.
_inherited: list[object] = []


def separate_greenlets() -> None:
    """Give each greenlet its own connections, in a process patched after Django was imported.

    In Django 5.2 to 6.1, ``utils/connection.py``, the storage is a ``threading.local`` created when
    Django was imported, so greenlets would share connections and Django would refuse them.
    """
    _inherited.append(connections._connections)  # type: ignore[attr-defined]
    connections._connections = Local(connections.thread_critical)  # type: ignore[attr-defined]

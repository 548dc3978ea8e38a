"""Database connections of sockets: a socket that waits holds none.

Each greenlet has its own connections, and one that waits an hour for a message would keep its
connection for that hour. So a greenlet gives its connections back before it waits. To look through
Django's connections costs more than a small message; instead each greenlet is marked when it
connects.

Handshakes reuse each other's connections: see ``handlers/reserve.py``. A view under test uses the
connections of its test, which stay open: see ``SharedConnections``.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

from asgiref.local import Local
from django.db import connections, reset_queries
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.transaction import TransactionManagementError
from greenlet import getcurrent

from ..server import patching
from . import reserve
from .reserve import OLDEST, Reserve, break_cycles, close_if_old

__all__ = [
    "MARK",
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

#: Attribute of a greenlet that has connected; ``True`` if the connections are its own.
MARK = "_django_wsmux_connected"

#: Attribute of a greenlet whose connections go to the reserve after its handshake.
_SHARES = "_django_wsmux_shares"

_reserve = Reserve()

if hasattr(os, "register_at_fork"):
    # Windows has no fork.
    os.register_at_fork(after_in_child=_reserve.disown)


@dataclass(frozen=True, slots=True)
class _SharedConnections:
    """Marks a greenlet that uses a test's connections, with the depth of their transactions."""

    depths: list[tuple[BaseDatabaseWrapper, int]]


def _mark(connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
    current = getcurrent()
    if not hasattr(current, MARK):
        setattr(current, MARK, True)
    if (
        hasattr(current, _SHARES)
        and connection.vendor == "sqlite"
        and connection.close_at is not None
    ):
        # Otherwise CONN_MAX_AGE = 0 would close it at the end of this handshake.
        connection.close_at = max(connection.close_at, time.monotonic() + OLDEST)


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
                reserve.close(connection)
        delattr(current, MARK)


def discard() -> None:
    """Close the connections of a greenlet that is about to end, and take them apart.

    Threads continue to use their connections, so with threads they are only closed.
    """
    close()
    if hasattr(getcurrent(), MARK) or patching.problem():
        return
    for connection in connections.all(initialized_only=True):
        del connections[connection.alias]
        break_cycles(connection)


def begin_handshake() -> None:
    """Let the current greenlet use the connections of a handshake that has ended.

    Does nothing if the greenlet already has connections: those of an earlier page on the same
    kept-alive connection, or those of its test.
    """
    current = getcurrent()
    if hasattr(current, MARK) or patching.problem():
        return
    setattr(current, _SHARES, True)
    if _reserve.lend():
        setattr(current, MARK, True)


def end_handshake() -> None:
    """Pass the current greenlet's connections on to the next handshake. May be called twice."""
    current = getcurrent()
    if not hasattr(current, _SHARES):
        return
    delattr(current, _SHARES)
    if getattr(current, MARK, None) is True:
        _reserve.take()
        delattr(current, MARK)


def abandon_handshake() -> None:
    """Close the current greenlet's connections instead of passing them on.

    A handshake that was interrupted, by a ``gevent.Timeout`` say, may have been in the middle of a
    query, whose answer is still to come.
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
    # Like Django's close_old_connections(), which stops at the first that fails to close.
    for connection in connections.all(initialized_only=True):
        close_if_old(connection)


class SharedConnections:
    """Lends the connections of this greenlet to others: those of a test to the views under test.

    The views see what the test has written and not committed, and do not close the connections.
    """

    def __init__(self) -> None:
        self._connections = connections.all()
        # In a patched process each greenlet looks for its own connections.
        self._is_needed = not patching.problem()
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

"""A socket that waits holds no database connection.

Greenlets have connections of their own, and one that waits an hour for a message would keep its
connection for that hour. So whoever waits gives back first. Looking through Django's connections
costs more than a small message does; instead every greenlet is marked when it connects.

Handshakes leave their connections to one another: see ``reserve.py``. A view under test uses the
connections of its test, which stay as they are: see ``Loan``.
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

from . import reserve
from .reserve import OLDEST, Reserve, close_if_old, take_apart
from .server import patching

__all__ = [
    "MARK",
    "Loan",
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

#: On a greenlet that has connected; ``True`` if the connections are its own.
MARK = "_django_wsmux_connected"

#: On a greenlet whose connections go to the reserve when its handshake is over.
_SHARES = "_django_wsmux_shares"

_reserve = Reserve()

if hasattr(os, "register_at_fork"):
    # Windows has no fork.
    os.register_at_fork(after_in_child=_reserve.disown)


@dataclass(frozen=True, slots=True)
class _Borrowed:
    """Marks a greenlet whose connections are a test's, with how many transactions each was in."""

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
        # Else CONN_MAX_AGE = 0 would close it at the end of the handshake that has opened it.
        connection.close_at = max(connection.close_at, time.monotonic() + OLDEST)


connection_created.connect(_mark, dispatch_uid="django_wsmux.databases")


def release() -> None:
    """Give the current greenlet's connections back before it waits.

    Raises:
        TransactionManagementError: a transaction is open, and would be for as long as the peer
            pleases.
    """
    mark = getattr(getcurrent(), MARK, None)
    if mark is None:
        return
    if isinstance(mark, _Borrowed):
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
    """Close the current greenlet's connections; a pool gets them back."""
    current = getcurrent()
    if getattr(current, MARK, None) is True:
        for connection in connections.all(initialized_only=True):
            # A test case keeps its transaction open around the view under test.
            if not connection.in_atomic_block:
                reserve.close(connection)
        delattr(current, MARK)


def discard() -> None:
    """Close the connections of a greenlet that is about to end, and take them apart.

    Threads go on to use their connections, so there nothing more happens.
    """
    close()
    if hasattr(getcurrent(), MARK) or patching.problem():
        return
    for connection in connections.all(initialized_only=True):
        del connections[connection.alias]
        take_apart(connection)


def begin_handshake() -> None:
    """Have the current greenlet use the connections of a handshake that is over.

    Not one that has connections already: of a page that came before on a connection that is kept
    alive, or of the test that it runs in.
    """
    current = getcurrent()
    if hasattr(current, MARK) or patching.problem():
        return
    setattr(current, _SHARES, True)
    if _reserve.lend():
        setattr(current, MARK, True)


def end_handshake() -> None:
    """Leave the current greenlet's connections to the next handshake. May be called twice."""
    current = getcurrent()
    if not hasattr(current, _SHARES):
        return
    delattr(current, _SHARES)
    if getattr(current, MARK, None) is True:
        _reserve.take()
        delattr(current, MARK)


def abandon_handshake() -> None:
    """Keep the current greenlet's connections from the next handshake.

    Of one that was stopped, by a ``gevent.Timeout`` say: it may have been in the middle of a query,
    whose answer is still to come.
    """
    current = getcurrent()
    if hasattr(current, _SHARES):
        delattr(current, _SHARES)
        discard()


def begin_message() -> None:
    """Begin what is to the database a request: connections that are too old or broken go."""
    reset_queries()
    _close_old()


def end_message() -> None:
    """End it: what remains open is what ``CONN_MAX_AGE`` lets remain."""
    _close_old()
    if not any(each.connection for each in connections.all(initialized_only=True)):
        delattr(getcurrent(), MARK)


def _close_old() -> None:
    # As Django's close_old_connections(), which ends at the first that does not close.
    for connection in connections.all(initialized_only=True):
        close_if_old(connection)


class Loan:
    """The connections of this greenlet, for others to use: a test's, for the views under test.

    They see what the test has written and not committed, and close nothing.
    """

    def __init__(self) -> None:
        self._connections = connections.all()
        # Each greenlet of a patched process looks for connections of its own.
        self._is_needed = not patching.problem()
        if self._is_needed:
            for connection in self._connections:
                connection.inc_thread_sharing()

    def begin(self) -> None:
        """Let the current greenlet use them: called each time that it goes on.

        Whoever else uses them meanwhile may open transactions and close them. What this greenlet
        has opened itself when it comes to wait shows by the difference.
        """
        if self._is_needed:
            for connection in self._connections:
                connections[connection.alias] = connection
        depths = [(connection, _depth(connection)) for connection in self._connections]
        setattr(getcurrent(), MARK, _Borrowed(depths))

    def end(self) -> None:
        """Have them back for good."""
        if self._is_needed:
            self._is_needed = False
            for connection in self._connections:
                connection.dec_thread_sharing()


def _depth(connection: BaseDatabaseWrapper) -> int:
    """Return how many ``atomic()`` blocks are open."""
    return len(connection.savepoint_ids) + connection.in_atomic_block


# Closing a connection that another process inherited as well would end it for both.
_inherited: list[object] = []


def separate_greenlets() -> None:
    """Give each greenlet its own connections again, in a process patched after Django was loaded.

    Django 5.2 to 6.1, ``utils/connection.py``: the storage is a ``threading.local`` of the time
    when Django was imported, so greenlets would share connections and Django would refuse them.
    """
    _inherited.append(connections._connections)  # type: ignore[attr-defined]
    connections._connections = Local(connections.thread_critical)  # type: ignore[attr-defined]

"""A socket that waits holds no database connection.

Greenlets have connections of their own, and one that waits an hour for a message would keep its
connection for that hour. So whoever waits gives back first. Looking through Django's connections
costs more than a small message does; instead every greenlet is marked when it connects.
"""

from __future__ import annotations

from typing import Any

from asgiref.local import Local
from django.db import close_old_connections, connections, reset_queries
from django.db.backends.signals import connection_created
from django.db.transaction import TransactionManagementError
from greenlet import getcurrent

from .server import patching

__all__ = [
    "begin_message",
    "close",
    "discard",
    "end_message",
    "is_used",
    "release",
    "separate_greenlets",
]

_MARK = "_django_wsmux_connected"

_PARTS = ("client", "creation", "features", "introspection", "ops", "validation")


def _mark(**kwargs: Any) -> None:
    setattr(getcurrent(), _MARK, True)


connection_created.connect(_mark, dispatch_uid="django_wsmux.databases")


def release() -> None:
    """Give the current greenlet's connections back before it waits.

    Raises:
        TransactionManagementError: a transaction is open, and would be for as long as the peer
            pleases.
    """
    if not hasattr(getcurrent(), _MARK):
        return
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block:
            raise TransactionManagementError(
                "receive() inside transaction.atomic() would keep the transaction open until the "
                "peer sends something: leave the block before you wait for a message"
            )
    close()


def close() -> None:
    """Close the current greenlet's connections; a pool gets them back."""
    current = getcurrent()
    if hasattr(current, _MARK):
        for connection in connections.all(initialized_only=True):
            # A test case keeps its transaction open around the view under test.
            if not connection.in_atomic_block:
                connection.close()
        delattr(current, _MARK)


def discard() -> None:
    """Close the connections of a greenlet that is about to end, and take them apart.

    A connection and its parts refer to each other (Django 5.2 to 6.1,
    ``db/backends/base/base.py``): some KiB for each handshake that would wait for the garbage
    collector. Threads go on to use their connections, so there nothing more happens.
    """
    close()
    if patching.problem():
        return
    for connection in connections.all(initialized_only=True):
        del connections[connection.alias]
        for name in _PARTS:
            getattr(connection, name).connection = None
        vars(connection).pop("wrap_database_errors", None)


def is_used(greenlet: object) -> bool:
    """Say whether a greenlet may hold a connection."""
    return hasattr(greenlet, _MARK)


def begin_message() -> None:
    """Begin what is to the database a request: connections that are too old or broken go."""
    reset_queries()
    close_old_connections()


def end_message() -> None:
    """End it: what remains open is what ``CONN_MAX_AGE`` lets remain."""
    close_old_connections()
    if not any(each.connection for each in connections.all(initialized_only=True)):
        delattr(getcurrent(), _MARK)


# Closing a connection that another process inherited as well would end it for both.
_inherited: list[object] = []


def separate_greenlets() -> None:
    """Give each greenlet its own connections again, in a process patched after Django was loaded.

    Django 5.2 to 6.1, ``utils/connection.py``: the storage is a ``threading.local`` of the time
    when Django was imported, so greenlets would share connections and Django would refuse them.
    """
    _inherited.append(connections._connections)  # type: ignore[attr-defined]
    connections._connections = Local(connections.thread_critical)  # type: ignore[attr-defined]

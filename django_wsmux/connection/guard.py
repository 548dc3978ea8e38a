"""Contains errors: a worker's hub has other sockets to serve.

Callbacks on the hub or in the I/O thread call code of others. An exception must not end a timer
that all sockets share, or leave a socket without a watcher.
"""

from __future__ import annotations

from collections.abc import Callable

from ..logs import get_logger
from .counters import count

__all__ = ["call"]

logger = get_logger("django_wsmux.connection")


def call(callback: Callable[..., object], *args: object) -> None:
    """Call a function; count and log what it raises."""
    try:
        callback(*args)
    except Exception:
        count("internal_errors")
        logger.exception("Bug in django_wsmux")

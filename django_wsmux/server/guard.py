"""Keep an error where it is made: a worker's hub has other sockets to serve.

What runs on the hub, or in the I/O thread, calls code of others. One exception must not end a timer
that all sockets share, nor leave a socket without a watcher.
"""

from __future__ import annotations

from collections.abc import Callable

from .counters import count
from .logs import get_logger

__all__ = ["call"]

logger = get_logger("django_wsmux.connection")


def call(callback: Callable[..., object], *args: object) -> None:
    """Call something; what it raises is counted and logged."""
    try:
        callback(*args)
    except Exception:
        count("internal_errors")
        logger.exception("Bug in django_wsmux")

"""Contains errors: a worker's hub has other sockets to serve.

Callbacks on the hub or in the I/O thread call other people's code. An exception must not end a
timer that all sockets share, or leave a socket without a watcher.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..logs import get_logger
from .counters import count

__all__ = ["call", "notify", "report"]

logger = get_logger("django_wsmux.connection")


def call(callback: Callable[..., object], *args: object) -> None:
    """Call a function; count and log what it raises."""
    try:
        callback(*args)
    except Exception:
        report()


def report() -> None:
    """Count and log the exception that is being handled."""
    count("internal_errors")
    logger.exception("Bug in django_wsmux")


def notify(signal: Any, sender: Any, **arguments: Any) -> None:
    """Send a signal of Django. What its receivers raise is logged.

    Args:
        signal: one of ``django_wsmux.signals``.
        sender: see ``django.dispatch.Signal.send()``.
        arguments: for the receivers.
    """
    try:
        signal.send_robust(sender, **arguments)
    except BaseException:
        # send_robust() does not catch SystemExit and the like.
        logger.exception("A receiver of a signal failed")

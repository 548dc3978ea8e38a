"""Loggers that never raise.

A project's logging handler or filter may raise: its log server is down, or it does not expect a
record. We log while a socket is being closed, or while a message is sent to many members, so such
an error would leave a socket half closed or a member without the message.
"""

from __future__ import annotations

import logging
from typing import Final

__all__ = ["get_logger"]

# Reports errors as the standard library does: to stderr, unless logging.raiseExceptions is off.
_reporter: Final = logging.Handler()


class _Logger(logging.Logger):
    def handle(self, record: logging.LogRecord) -> None:
        """Pass a record to filters and handlers."""
        try:
            super().handle(record)
        except Exception:
            _reporter.handleError(record)


def get_logger(name: str) -> logging.Logger:
    """Return the logger of this name; errors of its handlers and filters do not leave it."""
    logger = logging.getLogger(name)
    # The logger may exist already, perhaps because of the project's LOGGING.
    logger.__class__ = _Logger
    return logger

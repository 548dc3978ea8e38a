"""Loggers whose lines never raise.

A project's logging handler or filter may raise: the broker of its log is away, a record is not what
it expects. Our lines are logged while a socket is closed, or while one message goes to many
members, so such an error would leave a socket half closed or a member without the message.
"""

from __future__ import annotations

import logging
from typing import Final

__all__ = ["get_logger"]

# Tells of an error in the way of the standard library: to stderr, unless logging.raiseExceptions
# is off.
_reporter: Final = logging.Handler()


class _Logger(logging.Logger):
    def handle(self, record: logging.LogRecord) -> None:
        """Pass a record to filters and handlers."""
        try:
            super().handle(record)
        except Exception:
            _reporter.handleError(record)


def get_logger(name: str) -> logging.Logger:
    """Return the logger of this name; what its handlers and filters raise stays there."""
    logger = logging.getLogger(name)
    # Loggers are made by whichever name is asked for first, perhaps by the project's LOGGING.
    logger.__class__ = _Logger
    return logger

"""Loggers that never raise, limits of log lines, and values from clients in log lines.

A project's logging handler or filter may raise: its log server is down, or it does not expect a
record. We log while a socket is being closed, or while a message is sent to many members, so such
an error would leave a socket half closed or a member without the message.

A flood of handshakes must not fill the disk, so log lines of one kind are limited. The next line
says how many were left out.
"""

from __future__ import annotations

import logging
import time
from typing import Final

__all__ = ["SHOWN", "LogLimit", "forget_lines", "get_logger", "quote", "suffix"]

#: Lines of one kind that may be logged at once, and seconds for each further one.
_LINES: Final = 20
_SECONDS: Final = 10.0

#: Characters that are logged of a value from a client; servers accept 8 KiB and more.
SHOWN: Final = 200

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


class LogLimit:
    """Limits log lines with a token bucket.

    Args:
        lines: how many may be logged at once.
        seconds: seconds for each further line.
    """

    __slots__ = ("_at", "_left", "_left_out", "_lines", "_seconds")

    def __init__(self, lines: int = _LINES, seconds: float = _SECONDS) -> None:
        self._lines = self._left = float(lines)
        self._seconds = seconds
        self._left_out = 0
        self._at = time.monotonic()

    def suffix(self) -> str | None:
        """Return the suffix for the line, or ``None`` if it must not be logged."""
        now = time.monotonic()
        self._left = min(self._lines, self._left + (now - self._at) / self._seconds)
        self._at = now
        if self._left < 1:
            self._left_out += 1
            return None
        self._left -= 1
        omitted, self._left_out = self._left_out, 0
        return f" ({omitted} more like this were not logged)" if omitted else ""


_limits: Final[dict[str, LogLimit]] = {}


def suffix(kind: str) -> str | None:
    """Return the suffix for a line of this kind, or ``None`` if it must not be logged."""
    return _limits.setdefault(kind, LogLimit()).suffix()


def forget_lines() -> None:
    """Reset the limits, so that each test sees its own lines."""
    _limits.clear()


def quote(value: str) -> str:
    """Return a value from a client, escaped and shortened for the log.

    Example:
        >>> quote("https://a.example\\r\\nroot logged in")
        "'https://a.example\\\\r\\\\nroot logged in'"
    """
    return repr(value) if len(value) <= SHOWN else f"{value[:SHOWN]!r}..."

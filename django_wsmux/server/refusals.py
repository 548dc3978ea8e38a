"""Refused handshakes: the response, the counter and the log line.

A flood of handshakes must not fill the disk, so log lines of one kind are limited. The next line
says how many were left out; the counters count all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from ..protocol.handshake import Refusal
from .counters import count
from .logs import get_logger

__all__ = ["LogLimit", "answer", "forget_lines", "is_wsgiref", "note", "shown", "suffix", "tell"]

logger = get_logger("django_wsmux.handshake")

#: Lines of one kind that may be logged at once, and seconds for each further one.
_LINES: Final = 20
_SECONDS: Final = 10.0

#: Characters that are logged of a value from a client; servers accept 8 KiB and more.
_SHOWN: Final = 200


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
        left_out, self._left_out = self._left_out, 0
        return f" ({left_out} more like this were not logged)" if left_out else ""


_limits: Final[dict[str, LogLimit]] = {}


def suffix(kind: str) -> str | None:
    """Return the suffix for a line of this kind, or ``None`` if it must not be logged."""
    return _limits.setdefault(kind, LogLimit()).suffix()


def shown(value: str) -> str:
    """Return a value from a client, escaped and shortened for the log.

    Example:
        >>> shown("https://a.example\\r\\nroot logged in")
        "'https://a.example\\\\r\\\\nroot logged in'"
    """
    return repr(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r}..."


def forget_lines() -> None:
    """Reset the limits, so that each test sees its own lines."""
    _limits.clear()


def note(counter: str, status: str, path: str, reason: str) -> None:
    """Count a refusal, and log it within the limit.

    Args:
        counter: one of ``COUNTERS``; lines are limited for each counter.
        status: the status of the response.
        path: the path of the handshake, see ``environ.wire_path()``.
        reason: the reason; values from the client go through ``shown()`` first.
    """
    count(counter)
    end = suffix(counter)
    if end is not None:
        logger.warning(
            "WebSocket handshake refused with %s: %s: %s%s", status, shown(path), reason, end
        )


def tell(status: str, path: str, more: str, hint: str) -> None:
    """Log, within the limit, that a handshake got a response other than 101.

    Args:
        status: the status of the response; lines are limited for each status code.
        path: the path of the handshake, see ``environ.wire_path()``.
        more: further text for the line.
        hint: what to change, if the response looks like a mistake in the project.
    """
    end = suffix(status[:3])
    if end is None:
        return
    if hint:
        logger.warning(
            "WebSocket handshake answered with %s: %s%s: %s%s",
            *(status, shown(path), more, hint, end),
        )
    else:
        logger.info("WebSocket handshake answered with %s: %s%s%s", status, shown(path), more, end)


def is_wsgiref(environ: dict[str, Any]) -> bool:
    """Return whether this environ comes from Python's own server.

    That server asserts that responses have no ``Upgrade`` header, which PEP 3333 leaves to servers.
    """
    return str(environ.get("SERVER_SOFTWARE", "")).startswith("WSGIServer/")


def answer(
    refusal: Refusal, environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    """Send a refusal as a plain HTTP response."""
    count("handshakes_refused")
    body = refusal.reason.encode()
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        *refusal.headers,
    ]
    if is_wsgiref(environ):
        headers = [header for header in headers if header[0] != "Upgrade"]
    start_response(refusal.status, headers)
    return [body]

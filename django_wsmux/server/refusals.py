"""Handshakes that are refused: the answer, the counter, and a line in the log now and then.

Whoever floods a server with handshakes must not fill its disk, so lines of one kind are limited;
the next one says how many were left out, and the counters count all of them.
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

#: Lines of one kind that may come at once, and seconds for each further one.
_LINES: Final = 20
_SECONDS: Final = 10.0

#: Characters of a value that a client has sent; servers let it be 8 KiB and more.
_SHOWN: Final = 200


class LogLimit:
    """Lets a few lines through at once, then one now and then.

    Args:
        lines: how many may come at once.
        seconds: until there is room for another.
    """

    __slots__ = ("_at", "_left", "_left_out", "_lines", "_seconds")

    def __init__(self, lines: int = _LINES, seconds: float = _SECONDS) -> None:
        self._lines = self._left = float(lines)
        self._seconds = seconds
        self._left_out = 0
        self._at = time.monotonic()

    def suffix(self) -> str | None:
        """Return what to append to a line, or ``None`` when it is to be left out."""
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
    """Return what to append to a line of one kind, or ``None`` if there were too many of them."""
    return _limits.setdefault(kind, LogLimit()).suffix()


def shown(value: str) -> str:
    """Return what a client has sent, safe for a log: escaped, and not too long.

    Example:
        >>> shown("https://a.example\\r\\nroot logged in")
        "'https://a.example\\\\r\\\\nroot logged in'"
    """
    return repr(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r}..."


def forget_lines() -> None:
    """Let lines of each kind through again; for tests, each of which should see its own."""
    _limits.clear()


def note(counter: str, status: str, path: str, reason: str) -> None:
    """Count a refusal, and log it unless there were many.

    Args:
        counter: one of ``COUNTERS``; lines are limited by it.
        status: of the answer.
        path: of the handshake, see ``environ.wire_path()``.
        reason: with ``shown()`` around what the client sent.
    """
    count(counter)
    end = suffix(counter)
    if end is not None:
        logger.warning(
            "WebSocket handshake refused with %s: %s: %s%s", status, shown(path), reason, end
        )


def tell(status: str, path: str, more: str, hint: str) -> None:
    """Log that a handshake was answered otherwise than with 101, unless there were many.

    Args:
        status: of the answer; lines are limited by its code.
        path: of the handshake, see ``environ.wire_path()``.
        more: what else there is to say.
        hint: what to change, if the answer looks like a mistake of the project.
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
    """Return whether Python's own server has made this environ.

    It asserts that no response has an ``Upgrade`` header, which PEP 3333 leaves to servers.
    """
    return str(environ.get("SERVER_SOFTWARE", "")).startswith("WSGIServer/")


def answer(
    refusal: Refusal, environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    """Answer a handshake with a refusal, as plain HTTP."""
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

"""Refused handshakes: the response, the counter and the log line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..connection.counters import count
from ..logs import get_logger, quote, suffix
from ..protocol.handshake import Refusal

__all__ = ["answer", "is_wsgiref", "note", "tell"]

logger = get_logger("django_wsmux.handshake")


def note(counter: str, status: str, path: str, reason: str) -> None:
    """Count a refusal, and log it within the limit.

    Args:
        counter: one of ``COUNTERS``; lines are limited for each counter.
        status: the status of the response.
        path: the path of the handshake, see ``environ.wire_path()``.
        reason: the reason; values from the client go through ``quote()`` first.
    """
    count(counter)
    end = suffix(counter)
    if end is not None:
        logger.warning(
            "WebSocket handshake refused with %s: %s: %s%s", status, quote(path), reason, end
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
            *(status, quote(path), more, hint, end),
        )
    else:
        logger.info("WebSocket handshake answered with %s: %s%s%s", status, quote(path), more, end)


def is_wsgiref(environ: dict[str, Any]) -> bool:
    """Return whether this environ comes from Python's own server.

    That server asserts that responses have no ``Upgrade`` header, which PEP 3333 leaves to servers.
    """
    return str(environ.get("SERVER_SOFTWARE", "")).startswith("WSGIServer/")


def answer(
    refusal: Refusal, environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    """Send a refusal as a plain HTTP response.

    All handshakes that are refused before Django has made a request of them end here. The others
    end in ``Handshake._refuse()`` (``handlers/handshake.py``).
    """
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

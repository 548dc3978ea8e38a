"""The log lines of ``manage.py runserver`` for sockets, and their closing when it stops."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from django.http import HttpRequest

from ..connection.drain import close_all_and_wait
from ..connection.websocket import WebSocket
from ..protocol.environ import wire_url
from ..protocol.frames import CloseCode
from ..signals import websocket_closed, websocket_opened

__all__ = ["close_sockets", "log_sockets"]

#: Seconds that peers have to answer the close frame, and views to end, when the server stops.
CLOSE_GRACE: Final = 0.5

# Django's logger, for its colours and timestamps.
logger = logging.getLogger("django.server")

_INFO: Final = 101
_SUCCESS: Final = 200
_REFUSAL: Final = 400
_ERROR: Final = 500

# HTTP status that gives a close code its colour; a project's own codes get that of success.
_STATUSES: Final = {
    CloseCode.NORMAL: _SUCCESS,
    CloseCode.GOING_AWAY: _SUCCESS,
    CloseCode.NO_STATUS: _SUCCESS,
    CloseCode.SERVICE_RESTART: _INFO,
    CloseCode.INTERNAL_ERROR: _ERROR,
}


def log_sockets() -> None:
    """Log a line when a socket opens, and one when it has closed.

    ::

        [22/Nov/2026 19:02:05] "WEBSOCKET /chat/lobby/ OPEN" 101
        [22/Nov/2026 19:02:47] "WEBSOCKET /chat/lobby/ CLOSE" 1001 42.108s
    """
    websocket_opened.connect(_log_open, dispatch_uid="django_wsmux.monitoring.runserver_log")
    websocket_closed.connect(_log_close, dispatch_uid="django_wsmux.monitoring.runserver_log")


def _log_open(websocket: WebSocket, request: HttpRequest, **kwargs: Any) -> None:
    _log(_INFO, '"WEBSOCKET %s OPEN" 101', wire_url(websocket.environ))


def _log_close(
    websocket: WebSocket,
    request: HttpRequest | None,
    code: int,
    reason: str,
    duration: float,
    **kwargs: Any,
) -> None:
    status = _STATUSES.get(code, _SUCCESS if code >= 3000 else _REFUSAL)
    line, args = '"WEBSOCKET %s CLOSE" %d %.3fs', [wire_url(websocket.environ), code, duration]
    if reason:
        # It may come from the peer, which must not write control characters to the terminal.
        line, args = f"{line} %s", [*args, reason if reason.isprintable() else ascii(reason)]
    _log(status, line, *args)


def _log(status: int, line: str, *args: object) -> None:
    """Log at the level at which Django logs a response of this status."""
    level = logging.INFO
    if status >= _ERROR:
        level = logging.ERROR
    elif status >= _REFUSAL:
        level = logging.WARNING
    now = time.strftime("%d/%b/%Y %H:%M:%S")
    logger.log(level, line, *args, extra={"status_code": status, "server_time": now})


def close_sockets() -> None:
    """Close all sockets with 1012 "service restart"; give them a moment to finish."""
    close_all_and_wait(CLOSE_GRACE)

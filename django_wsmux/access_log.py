"""One line in gunicorn's access log for each socket that has closed.

gunicorn logs a request when it is over, and a socket is none of its requests any more. The line
goes to the same place (``--access-logfile``, syslog, a ``logconfig``) through the same logger,
under whichever of gunicorn's workers; where pages have no lines, sockets have none.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

from django.http import HttpRequest
from greenlet import getcurrent

from . import conf
from .server.environ import header, wire_path
from .server.traffic import Traffic
from .server.websocket import WebSocket
from .signals import websocket_closed, websocket_opened

__all__ = ["install", "safe"]

# gunicorn 23 to 27, glogging.py: handlers are attached to it where there is an access log.
logger = logging.getLogger("gunicorn.access")


#: gunicorn's own line, with what a socket has beyond a request.
FORMAT: Final = (
    '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s" %(L)s '
    'in=%(messages_in)s/%(bytes_in)s out=%(messages_out)s/%(bytes_out)s "%(reason)s"'
)


def install() -> None:
    """Have sockets logged, if this is gunicorn; called when the application is made."""
    if "gunicorn.arbiter" in sys.modules:
        websocket_opened.connect(_mark, dispatch_uid="django_wsmux.access_log")
        websocket_closed.connect(_log, dispatch_uid="django_wsmux.access_log")
        logger.addFilter(_is_of_page)


# Attribute of the greenlet in which a server has answered a handshake with an open socket.
_MARK: Final = "django_wsmux_opened"


def _mark(**kwargs: Any) -> None:
    setattr(getcurrent(), _MARK, True)


def _is_of_page(record: logging.LogRecord) -> bool:
    """Leave out gunicorn's line for the 101 of an open socket, which has a line at its end."""
    args = record.args
    is_101 = isinstance(args, Mapping) and args.get("s") == "101"
    return not (is_101 and getattr(getcurrent(), _MARK, False))


def _log(
    websocket: WebSocket,
    request: HttpRequest | None,
    code: int | None,
    reason: str,
    duration: float,
    traffic: Traffic,
    **kwargs: Any,
) -> None:
    if not (logger.isEnabledFor(logging.INFO) and logger.hasHandlers()):
        return
    environ = websocket.environ if request is None else request.META
    hooks: Any = websocket.hooks
    path = wire_path(environ)
    atoms = {
        "h": safe(hooks.address) or "-",
        "l": "-",
        "u": safe(hooks.user_id or "-"),
        "t": time.strftime("[%d/%b/%Y:%H:%M:%S %z]"),
        "r": f"WEBSOCKET {path} {safe(environ.get('SERVER_PROTOCOL', 'HTTP/1.1'))}",
        "m": "WEBSOCKET",
        "U": path,
        "s": code or 0,
        "b": traffic.bytes_out,
        "f": safe(header(environ, "HTTP_ORIGIN") or "-"),
        "a": safe(header(environ, "HTTP_USER_AGENT") or "-"),
        "L": f"{duration:.6f}",
        "p": f"<{os.getpid()}>",
        "reason": safe(reason),
        **traffic._asdict(),
    }
    # One mapping, as gunicorn passes it, for handlers that look at the record's arguments.
    logger.info(conf.get("WEBSOCKET_ACCESS_LOG_FORMAT") or FORMAT, atoms)


def safe(value: str) -> str:
    """Return what a peer has said as it may stand in a log, between quotes and in JSON too."""
    if value.isprintable():
        return json.dumps(value, ensure_ascii=False)[1:-1]
    return json.dumps(value)[1:-1].replace("\x7f", "\\u007f")

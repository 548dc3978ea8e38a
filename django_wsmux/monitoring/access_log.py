"""A line in gunicorn's access log for each socket that has closed.

gunicorn logs a request when it ends, but an open socket is no longer one of its requests. The line
goes to the same place (``--access-logfile``, syslog, a ``logconfig``) through the same logger,
under any of gunicorn's workers; if pages are not logged, neither are sockets.
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

from .. import conf
from ..connection.inbox import Traffic
from ..connection.websocket import WebSocket
from ..protocol.environ import header, wire_path
from ..server.takeover import TAKEN_ATTRIBUTE
from ..signals import websocket_closed

__all__ = ["install", "safe"]

# gunicorn 23 to 27, glogging.py: it has handlers if there is an access log.
logger = logging.getLogger("gunicorn.access")


#: gunicorn's own format, extended by the fields of a socket.
FORMAT: Final = (
    '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s" %(L)s '
    'in=%(messages_in)s/%(bytes_in)s out=%(messages_out)s/%(bytes_out)s "%(reason)s"'
)


def install() -> None:
    """Log sockets if this process is gunicorn's; called when the application is created."""
    if "gunicorn.arbiter" in sys.modules:
        websocket_closed.connect(_log, dispatch_uid="django_wsmux.monitoring.access_log")
        logger.addFilter(_is_of_page)


def _is_of_page(record: logging.LogRecord) -> bool:
    """Drop gunicorn's line for the 101 of an open socket, which is logged when it closes."""
    args = record.args
    is_101 = isinstance(args, Mapping) and args.get("s") == "101"
    return not (is_101 and getattr(getcurrent(), TAKEN_ATTRIBUTE, False))


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
    # A single mapping, as gunicorn passes it, for handlers that read the record's arguments.
    logger.info(conf.get("WEBSOCKET_ACCESS_LOG_FORMAT") or FORMAT, atoms)


def safe(value: str) -> str:
    """Return a peer's text escaped for a log, also between quotes and in JSON."""
    if value.isprintable():
        return json.dumps(value, ensure_ascii=False)[1:-1]
    return json.dumps(value)[1:-1].replace("\x7f", "\\u007f")

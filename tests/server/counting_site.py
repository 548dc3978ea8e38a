"""A WSGI application with sockets of ``counting.py`` and a page, for gunicorn; without Django."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from django_wsmux.connection import registry
from django_wsmux.connection.counters import counters
from django_wsmux.protocol.handshake import switching_protocols
from django_wsmux.server import mover
from django_wsmux.server.dispatcher import Dispatcher
from django_wsmux.server.takeover import TAKEOVER_KEY, EmptyBody
from django_wsmux.websocket import WebSocket

# Code that takes a while to load.
_seconds = Path(os.environ["COUNTING_DIRECTORY"], "seconds")
if _seconds.exists():
    time.sleep(float(_seconds.read_text()))


def page(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Return what this process has."""
    seconds = environ["PATH_INFO"].removeprefix("/slow/")
    if seconds != environ["PATH_INFO"]:
        time.sleep(float(seconds))
    body = json.dumps(
        {"pid": os.getpid(), "open": len(registry.open_sockets), "counters": counters}
    ).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def socket(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Open a socket."""
    from .counting import OPTIONS, hooks  # gevent's hub only exists in the worker

    websocket = WebSocket({"PATH_INFO": environ["PATH_INFO"]}, OPTIONS, hooks(0))
    head = switching_protocols(environ["HTTP_SEC_WEBSOCKET_KEY"], None, [])
    transport, unread = environ[TAKEOVER_KEY].take(websocket)
    websocket.opened(transport, head, unread)
    websocket.serve()
    return EmptyBody([b""])


def install() -> None:
    """Install the mover."""
    from .counting import Mover

    mover.install(Mover(os.environ["COUNTING_DIRECTORY"]))


install()
application = Dispatcher(page, socket)

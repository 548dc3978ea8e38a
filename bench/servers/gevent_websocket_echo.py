"""The least that an echo on gevent-websocket can be: bare WSGI, no framework."""

from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["application"]


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Send back whatever comes: ``str`` as text, ``bytearray`` as binary."""
    websocket = environ["wsgi.websocket"]
    while True:
        message = websocket.receive()
        if message is None:
            break
        websocket.send(message)
    return []

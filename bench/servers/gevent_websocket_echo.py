"""gevent-websocket at its simplest: bare WSGI, no framework."""

from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["application"]

members: set[Any] = set()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Serve echo, a room and its speaker: ``str`` is text, ``bytearray`` binary."""
    websocket = environ["wsgi.websocket"]
    messages = iter(websocket.receive, None)
    if environ["PATH_INFO"] == "/echo/":
        for message in messages:
            websocket.send(message)
    elif environ["PATH_INFO"] == "/speaker/":
        for message in messages:
            for member in list(members):
                member.send(message)
    else:
        members.add(websocket)
        for _ in messages:
            pass
        members.discard(websocket)
    return []

"""WebSockets on Python's own WSGI server, one thread for each: ``runserver``, live server tests.

Mix ``WebSocketServerMixin`` into any server of ``wsgiref`` that has threads, and an application
with a ``Dispatcher`` in it can take its connections over::

    class Server(WebSocketServerMixin, ThreadingMixIn, WSGIServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 8000), WSGIRequestHandler)
    server.set_app(WebSocketDispatcher(application))

Read in Python 3.11 to 3.13 (``wsgiref/handlers.py``, ``wsgiref/simple_server.py``,
``socketserver.py``) and Django 5.2 to 6.1 (``core/servers/basehttp.py``); the integration tests
fail when one moves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any

from ..protocol import handshake
from .streams import detach_plain
from .takeover import WSGIREF_KEY, Takeover
from .threads import ThreadTransport, ThreadWebSocket
from .websocket import WebSocket

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

    from ..protocol.options import Options
    from .connection import Connection
    from .contracts import Hooks, Transport

    _Handler = WSGIRequestHandler
    _Server = WSGIServer
else:
    _Handler = _Server = object

__all__ = ["ThreadTakeover", "UpgradeHandlerMixin", "WebSocketServerMixin"]


class UpgradeHandlerMixin(_Handler):
    """For a ``WSGIRequestHandler``: lets the application have the connection of a handshake."""

    def get_environ(self) -> dict[str, Any]:
        """Return the environ of a request, for a handshake with this handler in it."""
        environ: dict[str, Any] = super().get_environ()
        if handshake.is_websocket(environ.get("HTTP_UPGRADE", "")):
            environ[WSGIREF_KEY] = self
        return environ


class WebSocketServerMixin(_Server):
    """For a ``WSGIServer`` with threads: its connections can become WebSockets."""

    def __init__(self, address: Any, handler: type[Any], *args: Any, **kwargs: Any) -> None:
        handler = type(handler.__name__, (UpgradeHandlerMixin, handler), {})
        super().__init__(address, handler, *args, **kwargs)


class ThreadTakeover(Takeover):
    """A connection of ``wsgiref``, whose thread becomes the socket's.

    Args:
        handler: what answers the request.
    """

    def __init__(self, handler: Any) -> None:
        super().__init__()
        self._handler = handler
        self._transport: ThreadTransport | None = None

    @classmethod
    def of(cls, environ: dict[str, Any]) -> ThreadTakeover | None:
        """Return how to take a request's connection, ``None`` where there are no threads."""
        if not isinstance(environ[WSGIREF_KEY].server, ThreadingMixIn):
            return None
        return cls(environ.pop(WSGIREF_KEY))

    def websocket(self, environ: dict[str, Any], options: Options, hooks: Hooks) -> WebSocket:
        """Return a socket that is safe among threads."""
        return ThreadWebSocket(environ, options, hooks)

    def take(self, websocket: Connection) -> tuple[Transport, bytes]:
        """Return what carries ``websocket`` from now on, and the bytes read past the request."""
        assert isinstance(websocket, ThreadWebSocket)
        self.is_taken = True
        handler = self._handler
        handler.close_connection = True
        sock = handler.connection
        # Without waiting, peek() gives what is buffered or else what can be had at once.
        sock.settimeout(0)
        unread = b""
        with contextlib.suppress(OSError):  # the peer is gone, which the transport finds out
            unread = bytes(handler.rfile.peek())
        self._transport = ThreadTransport(detach_plain(sock), websocket)
        return self._transport, unread

    def leave(self) -> Iterable[bytes]:
        """Have the conversation in this thread, then end the WSGI call without a response.

        Raises:
            ConnectionAbortedError: always; to ``wsgiref.handlers.BaseHandler.run()`` it is a peer
                that has gone in the middle, about whom nothing is to be said or done.
        """
        assert self._transport is not None
        self._transport.converse()
        raise ConnectionAbortedError("this connection was a WebSocket")

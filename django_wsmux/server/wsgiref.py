"""WebSockets on Python's own WSGI server, as in ``runserver``: each has its own thread.

Mix ``WebSocketServerMixin`` into any ``wsgiref`` server that has threads. Then an application with
a ``Dispatcher`` can take over its connections::

    class Server(WebSocketServerMixin, ThreadingMixIn, WSGIServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 8000), WSGIRequestHandler)
    server.set_app(WebSocketDispatcher(application))

Checked with Python 3.11 to 3.13 (``wsgiref/handlers.py``, ``wsgiref/simple_server.py``,
``socketserver.py``) and Django 5.2 to 6.1 (``core/servers/basehttp.py``); the integration tests
fail if these change.
"""

from __future__ import annotations

import contextlib
import io
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any

from ..protocol import handshake
from ..transports.streams import detach_plain
from ..transports.threads import ThreadTransport, ThreadWebSocket
from . import own_context
from .takeover import TAKEOVER_KEY, WSGIREF_KEY, Takeover, rejects_body

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

    from ..connection.connection import Connection
    from ..connection.interfaces import Transport

    _Handler = WSGIRequestHandler
    _Server = WSGIServer
else:
    _Handler = _Server = object

__all__ = ["ThreadTakeover", "UpgradeHandlerMixin", "WebSocketServerMixin"]


class _Output(io.BufferedIOBase):
    """The output of a request handler; discards everything once its connection is taken.

    Args:
        output: the handler's original output.
    """

    def __init__(self, output: Any) -> None:
        self._output = output
        self.is_taken = False

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any, /) -> int:
        """Write bytes; return how many were taken."""
        return len(data) if self.is_taken else int(self._output.write(data))

    def flush(self) -> None:
        """Flush the original output."""
        if not self.is_taken:
            self._output.flush()


class UpgradeHandlerMixin(_Handler):
    """A mixin for ``WSGIRequestHandler``: lets the application take the connection."""

    # The transport, if the connection has become a WebSocket.
    _transport: ThreadTransport | None = None

    def setup(self) -> None:
        """Prepare to answer requests."""
        super().setup()
        self.wfile = _Output(self.wfile)

    def handle(self) -> None:
        """Answer the requests of a connection; then serve its WebSocket, if it has become one."""
        try:
            super().handle()
        except Exception:
            if self._transport is None:
                raise
            # Middleware around the application has failed after the socket was opened.
            self.server.handle_error(self.request, self.client_address)
        if self._transport is not None:
            self._transport.converse()

    def handle_one_request(self) -> None:
        """Answer a request, in its own context."""
        own_context.run(super().handle_one_request)

    def become(self, transport: ThreadTransport) -> None:
        """Serve a WebSocket once the request is answered."""
        self._transport = transport
        self.wfile.is_taken = self.close_connection = True  # type: ignore[attr-defined]

    def log_request(self, *args: Any) -> None:
        """Log a request, unless it has become a WebSocket, which is logged separately."""
        if self._transport is None:
            super().log_request(*args)

    def get_environ(self) -> dict[str, Any]:
        """Return the environ of a request; that of a handshake contains this handler."""
        environ: dict[str, Any] = super().get_environ()
        if handshake.is_websocket(environ.get("HTTP_UPGRADE", "")):
            if isinstance(self.server, ThreadingMixIn):
                environ[TAKEOVER_KEY] = ThreadTakeover(self)
            else:
                environ[WSGIREF_KEY] = self
        return environ


class WebSocketServerMixin(_Server):
    """A mixin for a ``WSGIServer`` with threads: its connections can become WebSockets."""

    def __init__(self, address: Any, handler: type[Any], *args: Any, **kwargs: Any) -> None:
        handler = type(handler.__name__, (UpgradeHandlerMixin, handler), {})
        super().__init__(address, handler, *args, **kwargs)


class ThreadTakeover(Takeover):
    """Takes over a connection of ``wsgiref``, whose thread becomes the socket's own.

    Args:
        handler: the handler of the request.
    """

    #: It is safe among threads.
    websocket_class = ThreadWebSocket

    def __init__(self, handler: Any) -> None:
        super().__init__()
        self._handler = handler

    def take(self, websocket: Connection) -> tuple[Transport, bytes]:
        """Return the transport of ``websocket``, and the bytes read past the request."""
        assert isinstance(websocket, ThreadWebSocket)
        self.is_taken = True
        handler = self._handler
        sock = handler.connection
        # Without waiting, peek() returns buffered bytes, or else those that have arrived.
        sock.settimeout(0)
        unread = b""
        with contextlib.suppress(OSError):  # the peer has gone, which the transport notices
            unread = bytes(handler.rfile.peek())
        transport = ThreadTransport(detach_plain(sock), websocket)
        handler.become(transport)
        return transport, unread

    def has_body(self) -> bool:
        """Return whether a header that is missing in the environ announces a body."""
        return rejects_body(self._handler)

"""Taking the socket out of the hands of a WSGI server.

One class for each kind of server: how to find the socket, what its HTTP parser has read past the
request, whether the 101 is on the wire already, and how the WSGI call ends so that the server
forgets the connection.

Read in gunicorn 26.1 and 27.0 (``workers/ggevent.py``, ``workers/base_async.py``,
``http/unreader.py``), gevent 24.10 to 26.9 (``pywsgi.py``) and gevent-websocket 0.10.1
(``handler.py``); the integration tests fail when one moves. Python's own server is in
``wsgiref_server.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from . import forks, patching
from .websocket import WebSocket

if TYPE_CHECKING:
    from ..protocol.options import Options
    from .connection import Connection
    from .contracts import Hooks, Transport

__all__ = [
    "WSGIREF_KEY",
    "GunicornTakeover",
    "PyWSGITakeover",
    "Takeover",
    "find",
    "install_hook",
    "is_wsgiref",
    "why_not",
]

_HANDLER_KEY: Final = "django_wsmux.pywsgi_handler"

#: Where ``wsgiref_server.UpgradeHandler`` puts itself.
WSGIREF_KEY: Final = "django_wsmux.wsgiref_handler"


class Takeover:
    """A connection that can be taken over.

    Attributes:
        is_switched: the server has sent the 101 before it called the application.
        is_taken: the socket is no longer the server's.
    """

    is_switched = False

    def __init__(self) -> None:
        self.is_taken = False

    def websocket(self, environ: dict[str, Any], options: Options, hooks: Hooks) -> WebSocket:
        """Return a socket that suits the server, to be opened with ``take()``."""
        return WebSocket(environ, options, hooks)

    def take(self, websocket: Connection) -> tuple[Transport, bytes]:
        """Return what carries ``websocket`` from now on, and the bytes read past the request."""
        self.is_taken = True
        sock, unread = self._take()
        # Not before a gevent server has called: plain processes need no hub.
        from .streams import detach
        from .transport import transport_for

        return transport_for(detach(sock), websocket), unread

    def _take(self) -> tuple[Any, bytes]:
        """Return the server's gevent socket and the unread bytes."""
        raise NotImplementedError

    def leave(self) -> Iterable[bytes]:
        """End the WSGI call so that the server forgets a connection that was taken."""
        raise NotImplementedError


class GunicornTakeover(Takeover):
    """``gunicorn -k gevent`` and our own worker: gunicorn's HTTP parser on a gevent socket."""

    def __init__(self, environ: dict[str, Any]) -> None:
        super().__init__()
        self._environ = environ

    def _take(self) -> tuple[Any, bytes]:
        unreader = self._environ["wsgi.input"].reader.unreader
        # take_buffered() of gunicorn 27; 26.1 has the same buffer without it.
        unread = unreader.buf.getvalue()
        return self._environ.pop("gunicorn.socket"), unread

    def leave(self) -> Iterable[bytes]:
        # AsyncWorker.handle() takes it for the end of the connection; anything returned would
        # have it parse the next request from a socket that is gone.
        raise StopIteration


class PyWSGITakeover(Takeover):
    """gevent's pywsgi with gevent-websocket's handler: the stock worker, or ``WebSocketServer``.

    Args:
        handler: ``geventwebsocket.handler.WebSocketHandler``.
        websocket: gevent-websocket's own object when it has sent the 101 already, else ``None``.
    """

    def __init__(self, handler: Any, websocket: Any = None) -> None:
        super().__init__()
        self._handler = handler
        self._websocket = websocket
        self.is_switched = websocket is not None

    def _take(self) -> tuple[Any, bytes]:
        handler = self._handler
        forks.listeners.add(handler.server.socket)
        sock = handler.socket
        # Without waiting, peek() gives what is buffered or else what can be had at once.
        sock.settimeout(0)
        try:
            unread = bytes(handler.rfile.peek())
        except OSError:
            # TLS has nothing to read; or the peer is gone, which the transport finds out.
            unread = b""
        handler.socket = None
        handler.close_connection = True
        # What the access log shows; it must not be sent again.
        handler.status, handler.headers_sent = b"101 Switching Protocols", True
        if self._websocket is not None:
            # Else it says good-bye, on a socket that is gone, when the call returns.
            self._websocket.closed = True
        return sock, unread

    def leave(self) -> Iterable[bytes]:
        return []


def find(environ: dict[str, Any]) -> Takeover | None:
    """Return how to take over the connection of a request, or ``None`` if this server cannot.

    Raises:
        RuntimeError: it is a gevent server, but the process is not monkey-patched.
    """
    if WSGIREF_KEY in environ:
        # Not before it is asked for: gevent's servers need none of it.
        from .wsgiref_server import ThreadTakeover

        return ThreadTakeover.of(environ)
    takeover = _find(environ)
    if takeover is not None and (problem := patching.problem()):
        raise RuntimeError(problem)
    return takeover


def _find(environ: dict[str, Any]) -> Takeover | None:
    handler = environ.pop(_HANDLER_KEY, None)
    if handler is not None:
        return PyWSGITakeover(handler)
    websocket = environ.get("wsgi.websocket")
    if websocket is not None:
        return PyWSGITakeover(websocket.handler, websocket)
    gevent_socket = sys.modules.get("gevent.socket")
    if gevent_socket and isinstance(environ.get("gunicorn.socket"), gevent_socket.socket):
        return GunicornTakeover(environ)
    return None


def why_not(environ: dict[str, Any]) -> str:
    """Say why ``find()`` has found nothing, and what to do about it."""
    if WSGIREF_KEY in environ:
        return (
            "This server answers one request at a time, and a socket would keep all others out: "
            "leave out --nothreading."
        )
    if is_wsgiref(environ):
        return (
            "This server's sockets cannot be taken over. If it is manage.py runserver, list "
            "django_wsmux in INSTALLED_APPS above django.contrib.staticfiles, and above any "
            "other app with a runserver of its own."
        )
    return (
        "This server's sockets cannot be taken over: "
        "run gunicorn -k django_wsmux.worker.WebSocketWorker."
    )


def is_wsgiref(environ: dict[str, Any]) -> bool:
    """Say whether Python's own server has made this environ.

    It asserts that no response has an ``Upgrade`` header, which PEP 3333 leaves to servers.
    """
    return str(environ.get("SERVER_SOFTWARE", "")).startswith("WSGIServer/")


def _leave_handshake_to_application(server: object, handler: Any) -> bool:
    if "HTTP_UPGRADE" in handler.environ:
        handler.environ[_HANDLER_KEY] = handler
    return True


def install_hook() -> None:
    """Have the stock gevent-websocket worker call the application before it sends a 101.

    Its handler asks the server for a ``pre_start_hook``, which gunicorn's server lacks; set on
    the class, it is found there. Does nothing where gunicorn's gevent workers are not loaded.
    """
    ggevent = sys.modules.get("gunicorn.workers.ggevent")
    if ggevent is not None:
        ggevent.PyWSGIServer.pre_start_hook = _leave_handshake_to_application

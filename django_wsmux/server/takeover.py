"""Takes the socket of a request over from the WSGI server.

Each kind of server has a class that knows how to find the socket, what the HTTP parser has read
past the request, whether the 101 has been sent already, and how to end the WSGI call so that the
server forgets the connection.

Checked with gunicorn 26.1 and 27.0 (``workers/ggevent.py``, ``workers/base_async.py``,
``http/unreader.py``), gevent 24.10 to 26.9 (``pywsgi.py``) and gevent-websocket 0.10.1
(``handler.py``); the integration tests fail if these change. Python's own server is in
``wsgiref.py``.

For the WSGI middleware around the dispatcher, an open socket is a response like any other: status
101, headers and an empty body. Whatever the server sends for it is discarded.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from greenlet import getcurrent

from ..connection.interfaces import Detached
from ..connection.websocket import WebSocket
from . import forks, own_context, patching
from .refusals import is_wsgiref

if TYPE_CHECKING:
    from ..connection.connection import Connection
    from ..connection.interfaces import Transport
    from ..transports.streams import Stream

__all__ = [
    "REQUEST_ATTRIBUTE",
    "TAKEN_ATTRIBUTE",
    "TAKEOVER_KEY",
    "WSGIREF_KEY",
    "EmptyBody",
    "GunicornTakeover",
    "PyWSGITakeover",
    "Takeover",
    "adopt",
    "find",
    "install_hook",
    "rejects_body",
    "spread_pings",
    "why_not",
]

#: Key of the ``Takeover`` in the environ of the WebSocket application. Code that calls the
#: application itself, such as the test client, sets it.
TAKEOVER_KEY: Final = "django_wsmux.takeover"

_HANDLER_KEY: Final = "django_wsmux.pywsgi_handler"

#: Key of the request handler of a ``wsgiref`` server without threads.
WSGIREF_KEY: Final = "django_wsmux.wsgiref_handler"

#: Attribute of the greenlet in which our own worker answers a request: gunicorn's request and its
#: socket. Middleware may replace values in the environ, but not this.
REQUEST_ATTRIBUTE: Final = "django_wsmux_request"

#: Attribute of the greenlet in which a server has answered a handshake with an open socket.
TAKEN_ATTRIBUTE: Final = "django_wsmux_taken"


class EmptyBody(list[bytes]):
    """The body of a response that has become a WebSocket, for the surrounding middleware.

    It contains one empty string, like an empty response of Django, for middleware that reads the
    first item.
    """

    close = list.clear


class Takeover:
    """A connection that can be taken over.

    Attributes:
        is_switched: the server sent the 101 before it called the application.
        is_taken: the socket no longer belongs to the server.
    """

    is_switched = False

    #: The class of sockets for this server.
    websocket_class: type[WebSocket] = WebSocket

    def __init__(self) -> None:
        self.is_taken = False

    def take(self, websocket: Connection) -> tuple[Transport, bytes]:
        """Return the transport of ``websocket``, and the bytes read past the request."""
        self.is_taken = True
        setattr(getcurrent(), TAKEN_ATTRIBUTE, True)
        stream, unread = self._take()
        # Imported only now: processes without greenlets need no hub.
        from ..transports.gevent import transport_for

        return transport_for(stream, websocket), unread

    def _take(self) -> tuple[Stream, bytes]:
        """Return the server's connection and the unread bytes."""
        raise NotImplementedError

    def has_body(self) -> bool:
        """Return whether a header that the environ does not show announces a body.

        If so, the connection ends with the response: the server would read the body as a request.
        """
        return False


def adopt(detached: Detached, websocket: Connection) -> Transport:
    """Return the transport of a socket that comes from another process; it does not read yet.

    Args:
        detached: the socket there; the transport becomes the owner of its descriptor.
        websocket: the socket that continues it.
    """
    from ..transports.gevent import GeventTransport

    return GeventTransport.adopt(detached, websocket)


def spread_pings(websockets: Collection[Connection]) -> None:
    """Spread the pings of sockets that have come from another process together."""
    from ..transports import gevent

    gevent.spread_pings(websockets)


class GunicornTakeover(Takeover):
    """``gunicorn -k gevent`` and our own worker: gunicorn's HTTP parser on a gevent socket.

    Args:
        sock: the gevent socket.
        unreader: what gunicorn's parser reads from.
    """

    def __init__(self, sock: Any, unreader: Any) -> None:
        super().__init__()
        self._sock = sock
        self._unreader = unreader

    def _take(self) -> tuple[Stream, bytes]:
        from ..transports.streams import leave_behind

        # take_buffered() of gunicorn 27; 26.1 has the same buffer without it.
        unread = self._unreader.buf.getvalue()
        # gunicorn reads the next request from it, and must not find frames.
        self._unreader.buf = io.BytesIO()
        return leave_behind(self._sock), unread


class PyWSGITakeover(Takeover):
    """gevent's pywsgi with gevent-websocket's handler: the stock worker, or ``WebSocketServer``.

    Args:
        handler: ``geventwebsocket.handler.WebSocketHandler``.
        websocket: gevent-websocket's own object if it has sent the 101 already, else ``None``.
    """

    def __init__(self, handler: Any, websocket: Any = None) -> None:
        super().__init__()
        self._handler = handler
        self._websocket = websocket
        self.is_switched = websocket is not None

    def has_body(self) -> bool:
        """Return whether a header that the environ does not show announces a body."""
        return rejects_body(self._handler)

    def _take(self) -> tuple[Stream, bytes]:
        from ..transports.streams import leave_behind

        handler = self._handler
        forks.listeners.add(handler.server.socket)
        sock = handler.socket
        # Without waiting, peek() returns buffered bytes, or else those that have arrived.
        sock.settimeout(0)
        try:
            unread = bytes(handler.rfile.peek())
        except OSError:
            # TLS has nothing to read; or the peer has gone, which the transport notices.
            unread = b""
        handler.close_connection = True
        if self._websocket is not None:
            # Otherwise it sends a close frame when the call returns, on a socket that is gone.
            self._websocket.closed = True
        return leave_behind(sock), unread


def rejects_body(handler: Any) -> bool:
    """Return whether any header announces a body, including repeated headers.

    An environ shows only the first header of a name.

    Args:
        handler: the handler of pywsgi or wsgiref; if there is a body, it ends the connection.
    """
    headers = handler.headers
    lengths = headers.get_all("Content-Length", ())
    has_body = "Transfer-Encoding" in headers or any(each.strip() != "0" for each in lengths)
    if has_body:
        handler.close_connection = True
    return has_body


def find(environ: dict[str, Any]) -> Takeover | None:
    """Return how to take over the connection of a request, or ``None`` if this server cannot.

    Raises:
        RuntimeError: the server uses gevent, but the process is not monkey-patched.
    """
    takeover = _find(environ)
    if takeover is not None and not patching.is_patched():
        raise RuntimeError(patching.problem())
    return takeover


def _find(environ: dict[str, Any]) -> Takeover | None:
    handler = environ.pop(_HANDLER_KEY, None)
    if handler is not None:
        return PyWSGITakeover(handler)
    websocket = environ.get("wsgi.websocket")
    if websocket is not None:
        return PyWSGITakeover(websocket.handler, websocket)
    own = getattr(getcurrent(), REQUEST_ATTRIBUTE, None)
    if own is not None:
        request, sock = own
        return GunicornTakeover(sock, request.unreader)
    gevent_socket = sys.modules.get("gevent.socket")
    sock = environ.get("gunicorn.socket")
    unreader = _unreader(environ)
    if gevent_socket and isinstance(sock, gevent_socket.socket) and unreader is not None:
        return GunicornTakeover(sock, unreader)
    return None


def _unreader(environ: dict[str, Any]) -> Any:
    """Return what gunicorn's parser reads from; ``None`` if middleware hides it."""
    module = sys.modules.get("gunicorn.http.unreader")
    try:
        unreader = environ["wsgi.input"].reader.unreader
    except (AttributeError, KeyError):
        return None
    return unreader if module and isinstance(unreader, module.Unreader) else None


def why_not(environ: dict[str, Any]) -> str:
    """Return why ``find()`` returned ``None``, and what to do about it."""
    if WSGIREF_KEY in environ:
        return (
            "This server answers one request at a time, and a socket would block all others: "
            "run it without --nothreading."
        )
    if is_wsgiref(environ):
        return (
            "This server's sockets cannot be taken over. If it is manage.py runserver, list "
            "django_wsmux in INSTALLED_APPS above django.contrib.staticfiles, and above any "
            "other app with a runserver of its own."
        )
    if "gunicorn.socket" in environ:
        for key, is_hidden in (
            ("wsgi.input", _unreader(environ) is None),
            ("gunicorn.socket", _is_replaced(environ["gunicorn.socket"])),
        ):
            if is_hidden:
                kind = type(environ.get(key))
                return (
                    f"WSGI middleware has replaced {key} by {kind.__module__}.{kind.__qualname__}, "
                    f"without which this worker's socket cannot be found: let the middleware pass "
                    f"handshakes on, or run gunicorn -k django_wsmux.worker.WebSocketWorker."
                )
    return (
        "This server's sockets cannot be taken over: "
        "run gunicorn -k django_wsmux.worker.WebSocketWorker."
    )


def _is_replaced(sock: Any) -> bool:
    """Return whether middleware has replaced the socket of a gevent worker of gunicorn."""
    is_gevent = "gunicorn.workers.ggevent" in sys.modules
    return is_gevent and not isinstance(sock, sys.modules["gevent.socket"].socket)


def _leave_handshake_to_application(server: object, handler: Any) -> bool:
    if "HTTP_UPGRADE" in handler.environ:
        handler.environ[_HANDLER_KEY] = handler
        # For this request only: pywsgi sets it for each request.
        handler.application = partial(own_context.run, handler.application)
    return True


def install_hook() -> None:
    """Make the stock gevent-websocket worker call the application before it sends a 101.

    Its handler calls the server's ``pre_start_hook``, which gunicorn's server lacks, so it is set
    on the class. Does nothing if gunicorn's gevent workers are not loaded.
    """
    ggevent = sys.modules.get("gunicorn.workers.ggevent")
    if ggevent is not None:
        ggevent.PyWSGIServer.pre_start_hook = _leave_handshake_to_application

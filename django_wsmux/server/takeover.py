"""Taking the socket out of the hands of a WSGI server.

One class for each kind of server: how to find the socket, what its HTTP parser has read past the
request, whether the 101 is on the wire already, and how the WSGI call ends so that the server
forgets the connection.

Read in gunicorn 26.1 and 27.0 (``workers/ggevent.py``, ``workers/base_async.py``,
``http/unreader.py``), gevent 24.10 to 26.9 (``pywsgi.py``) and gevent-websocket 0.10.1
(``handler.py``); the integration tests fail when one moves. Python's own server is in
``wsgiref.py``.

To the WSGI middleware around the dispatcher an open socket is an answer like any other: status
101, headers and an empty body. The server sends its own end of that answer to where it goes
nowhere.
"""

from __future__ import annotations

import io
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from greenlet import getcurrent

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
    "find",
    "install_hook",
    "rejects_body",
    "why_not",
]

#: Where the WebSocket application finds the ``Takeover`` of its request; whoever calls the
#: application itself, as the test client does, puts it there.
TAKEOVER_KEY: Final = "django_wsmux.takeover"

_HANDLER_KEY: Final = "django_wsmux.pywsgi_handler"

#: Where ``wsgiref_server.UpgradeHandler`` puts itself.
WSGIREF_KEY: Final = "django_wsmux.wsgiref_handler"

#: Attribute of the greenlet in which our own worker answers a request: gunicorn's request and its
#: socket. Middleware may replace what is in the environ, but not this.
REQUEST_ATTRIBUTE: Final = "django_wsmux_request"

#: Attribute of the greenlet in which a server has answered a handshake with an open socket.
TAKEN_ATTRIBUTE: Final = "django_wsmux_taken"


class EmptyBody(list[bytes]):
    """The body of an answer that has become a WebSocket, for the middleware around us.

    It holds one empty string, as an empty response of Django does, for middleware that asks for the
    first item.
    """

    close = list.clear


class Takeover:
    """A connection that can be taken over.

    Attributes:
        is_switched: the server has sent the 101 before it called the application.
        is_taken: the socket is no longer the server's.
    """

    is_switched = False

    #: The class of sockets that suit the server.
    websocket_class: type[WebSocket] = WebSocket

    def __init__(self) -> None:
        self.is_taken = False

    def take(self, websocket: Connection) -> tuple[Transport, bytes]:
        """Return what carries ``websocket`` from now on, and the bytes read past the request."""
        self.is_taken = True
        setattr(getcurrent(), TAKEN_ATTRIBUTE, True)
        stream, unread = self._take()
        # Not before a gevent server has called: plain processes need no hub.
        from ..transports.gevent import transport_for

        return transport_for(stream, websocket), unread

    def _take(self) -> tuple[Stream, bytes]:
        """Return the server's connection and the unread bytes."""
        raise NotImplementedError

    def has_body(self) -> bool:
        """Return whether a header that the environ does not show announces a body.

        If so the connection ends with the answer: the server would read the body as a request.
        """
        return False


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
        # gunicorn looks for the next request, and must not find frames.
        self._unreader.buf = io.BytesIO()
        return leave_behind(self._sock), unread


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

    def has_body(self) -> bool:
        """Return whether a header that the environ does not show announces a body."""
        return rejects_body(self._handler)

    def _take(self) -> tuple[Stream, bytes]:
        from ..transports.streams import leave_behind

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
        handler.close_connection = True
        if self._websocket is not None:
            # Else it says good-bye, on a socket that is gone, when the call returns.
            self._websocket.closed = True
        return leave_behind(sock), unread


def rejects_body(handler: Any) -> bool:
    """Return whether any of repeated headers announces a body; an environ shows the first only.

    Args:
        handler: of pywsgi or wsgiref, which is then told to end the connection.
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
        RuntimeError: it is a gevent server, but the process is not monkey-patched.
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
    """Return what gunicorn's parser reads from, ``None`` where middleware hides it."""
    module = sys.modules.get("gunicorn.http.unreader")
    try:
        unreader = environ["wsgi.input"].reader.unreader
    except (AttributeError, KeyError):
        return None
    return unreader if module and isinstance(unreader, module.Unreader) else None


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
    if "gunicorn.socket" in environ:
        for key, is_hidden in (
            ("wsgi.input", _unreader(environ) is None),
            ("gunicorn.socket", _is_replaced(environ["gunicorn.socket"])),
        ):
            if is_hidden:
                kind = type(environ.get(key))
                return (
                    f"WSGI middleware has replaced {key} by {kind.__module__}.{kind.__qualname__}, "
                    f"and this worker's socket cannot be found without: let the middleware leave "
                    f"handshakes alone, or run gunicorn -k django_wsmux.worker.WebSocketWorker."
                )
    return (
        "This server's sockets cannot be taken over: "
        "run gunicorn -k django_wsmux.worker.WebSocketWorker."
    )


def _is_replaced(sock: Any) -> bool:
    """Return whether a socket of gunicorn's gevent workers is not what they have made."""
    is_gevent = "gunicorn.workers.ggevent" in sys.modules
    return is_gevent and not isinstance(sock, sys.modules["gevent.socket"].socket)


def _leave_handshake_to_application(server: object, handler: Any) -> bool:
    if "HTTP_UPGRADE" in handler.environ:
        handler.environ[_HANDLER_KEY] = handler
        # For this request: pywsgi sets it again for each.
        handler.application = partial(own_context.run, handler.application)
    return True


def install_hook() -> None:
    """Have the stock gevent-websocket worker call the application before it sends a 101.

    Its handler asks the server for a ``pre_start_hook``, which gunicorn's server lacks; set on
    the class, it is found there. Does nothing where gunicorn's gevent workers are not loaded.
    """
    ggevent = sys.modules.get("gunicorn.workers.ggevent")
    if ggevent is not None:
        ggevent.PyWSGIServer.pre_start_hook = _leave_handshake_to_application

"""The request of a handshake, and what is kept of it while its socket is open."""

from __future__ import annotations

import io
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from django.core.handlers.wsgi import WSGIRequest
from django.http.request import split_domain_port
from django.utils.functional import SimpleLazyObject

from . import conf
from .server.environ import WIRE_PATH_KEY

if TYPE_CHECKING:
    from .credentials import Identity
    from .responses import SwitchingProtocols
    from .server.websocket import WebSocket

__all__ = ["WebSocketRequest", "bare_environ_of", "bare_request", "shed"]

# The body of every handshake.
_NO_BODY: Final = io.BytesIO()

# Under these the server puts its own: sockets, parser, buffers, functions that know the request.
_SERVERS_OWN: Final = ("wsgi.", "gunicorn.")
_PLAIN: Final = (str, int, tuple)

# Differ from socket to socket, so there is nothing to share.
_UNIQUE: Final = frozenset({"HTTP_COOKIE", "HTTP_SEC_WEBSOCKET_KEY", "REMOTE_PORT", "QUERY_STRING"})


class WebSocketRequest(WSGIRequest):
    """The request of a handshake.

    Attributes:
        urlconf: ``WEBSOCKET_URLCONF``, unless middleware has chosen one: that of the site's pages.
        websocket_urlconf: for middleware to set, where sockets are not those of
            ``WEBSOCKET_URLCONF``; ``None`` for that.
        websocket: the socket, also ``META["wsgi.websocket"]``; using it before the view has
            returned accepts the handshake on the spot, but for an event view. ``None`` when the
            request did not ask for WebSocket.
        identity: who has come with a ticket or token; ``None`` when cookies say who it is.
    """

    urlconf: Any
    websocket: WebSocket | None = None
    identity: Identity | None = None
    websocket_urlconf: Any = None

    # For the handler: the handshake that this is the request of, the response that the view has
    # accepted it with, and whether it is refused for its origin or host, and in the log.
    handshake: Any = None
    accepted: SwitchingProtocols | None = None
    is_foreign = False
    is_refusal_logged = False

    def __init__(self, environ: dict[str, Any]) -> None:
        super().__init__(environ)
        self.urlconf = conf.get("WEBSOCKET_URLCONF")


def shed(request: WebSocketRequest) -> None:
    """Drop what no view can use once the socket is open, and share what repeats.

    Thousands of requests are kept that were sent by the same few browsers, so most of their
    headers are equal.
    """
    request._stream = _NO_BODY
    state = request.__dict__
    # No response will carry messages any more; to add one is an error rather than a loss.
    state.pop("_messages", None)
    state.pop("accepted", None)
    # For async views, which sockets have not.
    state.pop("auser", None)
    user = state.get("user")
    if isinstance(user, SimpleLazyObject) and "_cached_user" in state:
        # It was read, so what would read it is not needed any more.
        request.user = state["_cached_user"]
    match = request.resolver_match
    if match is not None:
        match.tried = None
    websocket = request.websocket
    assert websocket is not None
    # In a dictionary of its own: the server is not done with its environ.
    environ = {
        sys.intern(key): _shared(key, value)
        for key, value in request.META.items()
        if isinstance(value, _PLAIN) or not key.startswith(_SERVERS_OWN)
    }
    del request.META["wsgi.websocket"]
    environ["wsgi.input"] = _NO_BODY
    environ["wsgi.errors"] = sys.stderr
    environ["wsgi.websocket"] = websocket
    request.META = request.environ = websocket.environ = environ


def _shared(key: str, value: Any) -> Any:
    return value if type(value) is not str or key in _UNIQUE else sys.intern(value)


def bare_environ_of(request: WebSocketRequest) -> dict[str, Any]:
    """Return the environ of a socket that keeps no request: its URL, shared by all from there."""
    environ = request.META
    return _bare_environ(
        environ["SCRIPT_NAME"],
        environ["PATH_INFO"],
        environ.get(WIRE_PATH_KEY),
        request.get_host(),
        request.scheme or "http",
    )


@lru_cache(maxsize=1024)
def _bare_environ(
    script_name: str, path_info: str, wire_path: str | None, host: str, scheme: str
) -> dict[str, Any]:
    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": script_name,
        "PATH_INFO": path_info,
        "HTTP_HOST": sys.intern(host),
        "wsgi.url_scheme": scheme,
    }
    if wire_path is not None:
        environ[WIRE_PATH_KEY] = wire_path
    return environ


def bare_request(websocket: WebSocket, address: str) -> WebSocketRequest:
    """Return a request to report an error with, for a socket that keeps none.

    It has all that Django's error reports read of a request, but no headers, session or user.

    Args:
        websocket: the socket.
        address: where its handshake came from.
    """
    environ = dict(websocket.environ)
    # As a server would write them: the request decodes them again.
    for name in ("SCRIPT_NAME", "PATH_INFO"):
        environ[name] = environ[name].encode().decode("latin-1")
    domain, port = split_domain_port(environ["HTTP_HOST"])
    environ |= {
        "SERVER_NAME": domain or environ["HTTP_HOST"],
        "SERVER_PORT": port or ("443" if environ["wsgi.url_scheme"] == "https" else "80"),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": address,
        "QUERY_STRING": "",
        "wsgi.input": _NO_BODY,
        "wsgi.errors": sys.stderr,
    }
    return WebSocketRequest(environ)

"""The request of a handshake, and the part of it that is kept with the open socket."""

from __future__ import annotations

import io
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from django.core.handlers.wsgi import WSGIRequest
from django.http.request import split_domain_port
from django.utils.functional import SimpleLazyObject, cached_property

from .. import conf
from ..protocol.environ import WIRE_PATH_KEY, keep_wire_path
from ..protocol.v1 import BROUGHT_KEY, Brought
from .users import user_of

if TYPE_CHECKING:
    from ..connection.websocket import WebSocket
    from ..groups.identity import Identity
    from ..responses import SwitchingProtocols

__all__ = [
    "HANDSHAKE_KEY",
    "NO_BODY",
    "WebSocketRequest",
    "build_request",
    "environ_again",
    "foreign_request",
    "joined_environ",
    "minimal_environ_of",
    "minimal_request",
    "split_environ",
    "trim",
]

#: Key of the ``Handshake`` in its environ, until Django has created the request.
HANDSHAKE_KEY: Final = "django_wsmux.handshake"

#: The body of every handshake.
NO_BODY: Final = io.BytesIO()

# Prefixes of the server's own keys: sockets, parser, buffers, functions that refer to the request.
_SERVERS_OWN: Final = ("wsgi.", "gunicorn.")
_PLAIN: Final = (str, int, tuple)

# Types of the values of an environ that move to another process.
_MOVES: Final = frozenset({str, int, float, bool, type(None)})

# Keys whose values differ from socket to socket, so sharing them saves nothing.
_UNIQUE: Final = frozenset(
    {
        "HTTP_COOKIE",
        "HTTP_SEC_WEBSOCKET_KEY",
        "PATH_INFO",
        "QUERY_STRING",
        "RAW_URI",
        "REMOTE_PORT",
        WIRE_PATH_KEY,
    }
)


class WebSocketRequest(WSGIRequest):
    """The request of a handshake.

    Attributes:
        urlconf: ``WEBSOCKET_URLCONF``, unless middleware has set another one, for pages.
        websocket_urlconf: middleware may set it to a URLconf to use for this socket instead of
            ``WEBSOCKET_URLCONF``; ``None`` otherwise.
        websocket: the socket, also ``META["wsgi.websocket"]``; its use before the view has
            returned accepts the handshake at once, except in an event view. ``None`` if the request
            is not a WebSocket handshake.
        identity: the user of a ticket or token; ``None`` if the user is that of the cookies.
        is_handover: whether middleware runs over this request a second time, because the open
            socket has moved to another process.
    """

    urlconf: Any
    websocket: WebSocket | None = None
    identity: Identity | None = None
    websocket_urlconf: Any = None
    is_handover = False

    # For the handler: the handshake of this request, the response with which the view accepted it,
    # whether its origin or host was refused, whether a refusal is logged, and with DEBUG the error
    # that the view raised; after a move, what is called instead of the view.
    handshake: Any = None
    accepted: SwitchingProtocols | None = None
    is_foreign = False
    is_refusal_logged = False
    failure: str | None = None
    taker: Any = None

    def __init__(self, environ: dict[str, Any]) -> None:
        super().__init__(environ)
        self.urlconf = conf.get("WEBSOCKET_URLCONF")

    @cached_property
    def _cached_user(self) -> Any:
        """Return the user of the session: Django's ``request.user`` reads it here."""
        return user_of(self)


def build_request(environ: dict[str, Any]) -> WebSocketRequest:
    """Return the request of an environ, with a socket if it is a handshake."""
    path_info = environ.get("PATH_INFO", "")
    request = WebSocketRequest(environ)
    if environ["PATH_INFO"] != path_info or not environ["SCRIPT_NAME"].isascii():
        keep_wire_path(environ, path_info)
    shake: Any = environ.pop(HANDSHAKE_KEY, None)
    if shake is not None:
        shake.attach(request)
    return request


def foreign_request(request: object) -> TypeError:
    """Return the error for an object that middleware has passed on instead of the request."""
    return TypeError(
        f"middleware has passed on {type(request)!r} instead of the request of a "
        f"WebSocket: pass on the same request, or a copy.copy() of it"
    )


def trim(request: WebSocketRequest) -> None:
    """Free per-request state that no view can use any more, and intern header values.

    Thousands of requests from the same few browsers are kept, so most of their headers are equal.
    """
    request._stream = NO_BODY
    state = request.__dict__
    # No response will carry messages any more: adding one is an error, so that none gets lost.
    state.pop("_messages", None)
    state.pop("accepted", None)
    # For async views, which do not exist for sockets.
    state.pop("auser", None)
    user = state.get("user")
    if isinstance(user, SimpleLazyObject) and "_cached_user" in state:
        # The user was read, so the lazy object is not needed any more.
        request.user = state["_cached_user"]
    match = request.resolver_match
    if match is not None:
        match.tried = None
    brought: Brought | None = request.META.get(BROUGHT_KEY)
    if brought is not None and brought.is_taken:
        del request.META[BROUGHT_KEY]
    websocket = request.websocket
    assert websocket is not None
    # In a new dictionary, since the server still uses its environ.
    intern = sys.intern
    environ = {
        intern(key): intern(value) if type(value) is str and key not in _UNIQUE else value
        for key, value in request.META.items()
        if isinstance(value, _PLAIN) or not key.startswith(_SERVERS_OWN)
    }
    request.META.pop("wsgi.websocket", None)
    environ["wsgi.input"] = NO_BODY
    environ["wsgi.errors"] = sys.stderr
    environ["wsgi.websocket"] = websocket
    request.META = request.environ = websocket.environ = environ


def split_environ(environ: dict[str, Any]) -> tuple[tuple[tuple[str, Any], ...], dict[str, Any]]:
    """Return what another process needs of an environ: items that are equal for many, and others.

    Objects of the server or of middleware stay: the middleware runs again there.
    """
    common = [
        item for item in environ.items() if type(item[1]) in _MOVES and item[0] not in _UNIQUE
    ]
    return tuple(common), {key: environ[key] for key in _UNIQUE if key in environ}


def joined_environ(common: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return an environ from the results of ``split_environ()`` in another process."""
    return {**common, **own, "wsgi.input": NO_BODY, "wsgi.errors": sys.stderr}


def environ_again(environ: dict[str, Any]) -> dict[str, Any]:
    """Return the environ of an open socket for another request.

    Its paths are in the encoding of WSGI again, which the request decodes.
    """
    again = dict(environ)
    for name in ("SCRIPT_NAME", "PATH_INFO"):
        again[name] = again[name].encode().decode("latin-1")
    return again


def minimal_environ_of(request: WebSocketRequest) -> dict[str, Any]:
    """Return the environ of a socket that keeps no request: its URL only; equal ones are shared."""
    environ = request.META
    return _minimal_environ(
        environ["SCRIPT_NAME"],
        environ["PATH_INFO"],
        environ.get(WIRE_PATH_KEY),
        request.get_host(),
        request.scheme or "http",
    )


@lru_cache(maxsize=1024)
def _minimal_environ(
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


def minimal_request(websocket: WebSocket, address: str) -> WebSocketRequest:
    """Return a request for an error report, for a socket that keeps none.

    It has everything that Django's error reports need, but no headers, session or user.

    Args:
        websocket: the socket.
        address: address that its handshake came from.
    """
    environ = environ_again(websocket.environ)
    domain, port = split_domain_port(environ["HTTP_HOST"])
    environ |= {
        "SERVER_NAME": domain or environ["HTTP_HOST"],
        "SERVER_PORT": port or ("443" if environ["wsgi.url_scheme"] == "https" else "80"),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": address,
        "QUERY_STRING": "",
        "wsgi.input": NO_BODY,
        "wsgi.errors": sys.stderr,
    }
    return WebSocketRequest(environ)

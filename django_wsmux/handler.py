"""Django's request cycle for handshakes, and what it adds to an open socket.

``WebSocketHandler`` is Django's own WSGI handler with another URLconf: middleware, resolving, views
and error pages are Django's code. What comes out decides: a ``WebSocketResponse`` takes the socket
over, anything else is the HTTP answer to the handshake.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.core.exceptions import DisallowedHost, ImproperlyConfigured
from django.core.handlers.exception import response_for_exception
from django.core.handlers.wsgi import WSGIHandler, WSGIRequest
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseForbidden
from django.urls import set_urlconf
from django.views.decorators.csrf import csrf_exempt

from . import conf, databases
from .exceptions import ConnectionClosed
from .protocol import handshake, origin
from .protocol.frames import CloseCode
from .responses import WebSocketResponse
from .server.connection import Connection
from .server.dispatcher import TAKEOVER_KEY
from .server.takeover import Takeover
from .server.websocket import WebSocket

__all__ = ["WebSocketHandler", "WebSocketRequest"]

logger = logging.getLogger("django_wsmux.handshake")

Headers = Iterable[tuple[str, str]]


class WebSocketRequest(WSGIRequest):
    """The request of a handshake.

    Attributes:
        urlconf: ``WEBSOCKET_URLCONF``.
        websocket: the socket, also ``META["wsgi.websocket"]``; using it before the view has
            returned accepts the handshake on the spot. ``None`` when the request did not ask for
            WebSocket.
    """

    urlconf: Any
    websocket: WebSocket | None = None

    def __init__(self, environ: dict[str, Any]) -> None:
        super().__init__(environ)
        self.urlconf = conf.get("WEBSOCKET_URLCONF")
        seam: Takeover | None = environ.pop(TAKEOVER_KEY, None)
        if seam is not None:
            self.websocket = WebSocket(environ, conf.options(), Session(self, seam))
            environ["wsgi.websocket"] = self.websocket


class Session:
    """The Django side of one socket: ``server.contracts.Hooks``.

    Args:
        request: the handshake.
        seam: how to get the socket from the server.
    """

    __slots__ = ("_request", "_seam")

    def __init__(self, request: WebSocketRequest, seam: Takeover) -> None:
        self._request = request
        self._seam = seam

    def open(
        self, websocket: Connection, subprotocols: Sequence[str] = (), headers: Headers = ()
    ) -> None:
        """Send the 101 and take the socket over."""
        head = b""
        if not self._seam.is_switched:
            meta = self._request.META
            offered = meta.get("HTTP_SEC_WEBSOCKET_PROTOCOL")
            websocket.subprotocol = handshake.select_subprotocol(offered, subprotocols)
            key = meta["HTTP_SEC_WEBSOCKET_KEY"]
            extensions = websocket.negotiate(meta.get("HTTP_SEC_WEBSOCKET_EXTENSIONS"))
            head = handshake.switching_protocols(key, websocket.subprotocol, headers, extensions)
        transport, unread = self._seam.take(websocket)
        websocket.opened(transport, head, unread)

    #: Whoever waits for a message gives the database connections back first.
    before_wait = staticmethod(databases.release)

    def run_helper(self, websocket: Connection, function: Callable[[], object]) -> None:
        """Run a helper; only its failure ends the socket."""
        self._run(websocket, function)

    def converse(self, websocket: WebSocket, response: WebSocketResponse) -> None:
        """Run a view's conversation to its end and close the socket."""
        try:
            result = self._run(websocket, lambda: response.run(websocket))
            if isinstance(result, HttpResponseBase):
                close_for(websocket, result)
            else:
                websocket.close()
        finally:
            # Killed in the middle: the process is going.
            websocket.close(CloseCode.SERVICE_RESTART)
            self.forget(websocket)

    def forget(self, websocket: WebSocket) -> None:
        """Part request and socket, so that both go at once and not with the garbage collector."""
        self._request.websocket = None
        websocket.environ.pop("wsgi.websocket", None)

    def _run(self, websocket: Connection, function: Callable[[], object]) -> object:
        try:
            return function()
        except Exception as error:
            if not (isinstance(error, ConnectionClosed) and websocket.closed):
                self._report(websocket, error)
            return None
        finally:
            databases.close()

    def _report(self, websocket: Connection, error: Exception) -> None:
        """Log and signal as Django does for a view, and close the socket accordingly."""
        response = response_for_exception(self._request, error)
        if settings.DEBUG:
            response.reason_phrase = f"{type(error).__name__}: {error}"
        close_for(websocket, response)


def close_for(websocket: Connection, response: HttpResponseBase, code: int | None = None) -> None:
    """Close an open socket with what would have been an HTTP response.

    An error of the server is 1011, a refusal 1008, unless ``code`` says otherwise; the reason
    names the status.
    """
    if code is None:
        is_ours = response.status_code >= 500
        code = CloseCode.INTERNAL_ERROR if is_ours else CloseCode.POLICY_VIOLATION
    reason = f"{response.status_code} {response.reason_phrase}"
    # Section 5.5: 123 bytes at most, and no half character.
    websocket.close(code, reason.encode(errors="replace")[:123].decode(errors="ignore"))


@csrf_exempt
def upgrade_required(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
    """Answer a plain request to the URL of a WebSocket."""
    response = HttpResponse(
        "This address speaks WebSocket.\n", status=426, content_type="text/plain; charset=utf-8"
    )
    response.headers["Upgrade"] = "websocket"
    return response


class WebSocketHandler(WSGIHandler):
    """The WSGI application that answers handshakes by ``WEBSOCKET_URLCONF``."""

    request_class = WebSocketRequest

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        seam: Takeover | None = environ.get(TAKEOVER_KEY)
        if seam is None:
            return super().__call__(environ, start_response)
        # Django hands over status and headers, cookies included, as to any server; whether they
        # go out as HTTP is decided here.
        started: list[tuple[str, list[tuple[str, str]]]] = []
        start: Any = lambda *args: started.append(args)  # noqa: E731
        response = super().__call__(environ, start)
        status, headers = started[0]
        websocket: WebSocket = environ["wsgi.websocket"]
        session = websocket.hooks
        assert isinstance(session, Session)
        if isinstance(response, WebSocketResponse) or seam.is_taken or seam.is_switched:
            self._go_on(websocket, session, response, headers)
            return ()
        # Also as gevent-websocket takes a request with a socket in its environ for accepted.
        session.forget(websocket)
        start_response(status, headers)
        return response

    def _go_on(
        self, websocket: WebSocket, session: Session, response: HttpResponseBase, headers: Headers
    ) -> None:
        """Continue on the socket what began as a request."""
        accepted = response if isinstance(response, WebSocketResponse) else None
        refused = websocket.connecting and accepted is None
        if websocket.connecting:
            session.open(websocket, accepted.subprotocols if accepted else (), headers)
        # Sends request_finished: from here on there is no request that waits for its end.
        response.close()
        if accepted is not None:
            websocket.run(lambda: session.converse(websocket, accepted))
        else:
            if refused:
                # The server had sent the 101 before Django was asked.
                close_for(websocket, response, CloseCode.POLICY_VIOLATION)
            elif response.status_code < 300:
                websocket.close()
            else:
                close_for(websocket, response)
            session.forget(websocket)

    def get_response(self, request: HttpRequest) -> HttpResponseBase:
        """Check the origin, then answer as Django does."""
        assert isinstance(request, WebSocketRequest)
        if request.websocket is not None:
            refusal = check_origin(request)
            if refusal is not None:
                return refusal
        return super().get_response(request)

    def resolve_request(self, request: HttpRequest) -> Any:
        """Resolve in ``WEBSOCKET_URLCONF``; ``reverse()`` goes on to mean the site's pages.

        So ``LOGIN_URL = "login"`` and ``get_absolute_url()`` work in a socket as everywhere;
        ``websocket_url()`` is there for the others.
        """
        match = super().resolve_request(request)
        set_urlconf(None)
        assert isinstance(request, WebSocketRequest)
        if request.websocket is None:
            return upgrade_required, match.args, match.kwargs
        return match

    def make_view_atomic(self, view: Callable[..., Any]) -> Callable[..., Any]:
        """Never wrap a view in ATOMIC_REQUESTS: its transaction would last as long as the socket.

        A view that has talked over ``request.websocket`` has no response left to return.
        """
        if iscoroutinefunction(view):
            raise ImproperlyConfigured(
                f"{view!r} is async: a WebSocket view is plain synchronous code, see "
                f"django_wsmux.decorators.websocket"
            )

        def call(request: WebSocketRequest, *args: Any, **kwargs: Any) -> Any:
            response = view(request, *args, **kwargs)
            if response is None and request.websocket and not request.websocket.connecting:
                return HttpResponse()
            return response

        return call


def check_origin(request: WebSocketRequest) -> HttpResponseBase | None:
    """Refuse a page of another site (RFC 6455 section 10.2); ``None`` lets the request pass."""
    claimed = request.META.get("HTTP_ORIGIN")
    try:
        host = request.get_host()
    except DisallowedHost as error:
        return response_for_exception(request, error)
    if claimed is None:
        # Not a browser, which always sends it.
        if not conf.get("WEBSOCKET_REQUIRE_ORIGIN"):
            return None
        reason = "no Origin header, and WEBSOCKET_REQUIRE_ORIGIN is set"
    else:
        if (
            origin.is_same(claimed, host, secure=request.is_secure())
            or origin.is_allowed(claimed, conf.get("WEBSOCKET_ALLOWED_ORIGINS"))
            or origin.is_allowed(claimed, settings.CSRF_TRUSTED_ORIGINS)
            # As ALLOWED_HOSTS does: a front-end's development server has a port of its own.
            or (settings.DEBUG and origin.is_loopback(claimed))
        ):
            return None
        reason = (
            f"origin {claimed!r} is not this site's, {host!r}; if it is yours, add it to "
            f"WEBSOCKET_ALLOWED_ORIGINS or CSRF_TRUSTED_ORIGINS, and have the proxy pass on the "
            f"Host header"
        )
    logger.warning("WebSocket handshake refused with 403: %r: %s", request.path, reason)
    return HttpResponseForbidden(
        f"{reason}\n" if settings.DEBUG else "Origin not allowed.\n",
        content_type="text/plain; charset=utf-8",
    )

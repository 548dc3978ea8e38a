"""Django's request cycle for handshakes.

``WebSocketHandler`` is Django's own WSGI handler with another URLconf: middleware, resolving, views
and error pages are Django's code. What comes out decides: ``SwitchingProtocols`` takes the socket
over, anything else is the HTTP answer to the handshake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import Context
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.core.exceptions import DisallowedHost, ImproperlyConfigured
from django.core.handlers.exception import response_for_exception
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseForbidden
from django.urls import set_urlconf
from django.views.decorators.csrf import csrf_exempt

from . import conf, databases, overview, people, sessions, surroundings
from .exceptions import ConnectionClosed
from .hooks import DjangoHooks, admit_user, close_for
from .protocol import handshake, origin
from .protocol.frames import CloseCode
from .protocol.handshake import Refusal
from .request import WebSocketRequest
from .responses import SwitchingProtocols
from .server import admission, refusals
from .server.counters import count
from .server.dispatcher import TAKEOVER_KEY
from .server.environ import header, keep_wire_path, wire_path
from .server.refusals import note, shown
from .server.takeover import Takeover, is_wsgiref
from .server.websocket import WebSocket

__all__ = ["WebSocketHandler", "upgrade_required"]

Headers = Iterable[tuple[str, str]]


@csrf_exempt
def upgrade_required(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
    """Answer a plain request to the URL of a WebSocket."""
    response = HttpResponse(
        "This address speaks WebSocket.\n", status=426, content_type="text/plain; charset=utf-8"
    )
    if not is_wsgiref(request.META):
        response.headers["Upgrade"] = "websocket"
    return response


def build_request(environ: dict[str, Any]) -> WebSocketRequest:
    """Return the request of an environ, with its socket if that is what it asks for."""
    path_info = environ.get("PATH_INFO", "")
    request = WebSocketRequest(environ)
    keep_wire_path(environ, path_info)
    seam: Takeover | None = environ.pop(TAKEOVER_KEY, None)
    if seam is not None:
        request.websocket = seam.websocket(environ, conf.options(), DjangoHooks(request, seam))
        request.websocket.place = environ.pop(admission.PLACE_KEY, None)
        environ["wsgi.websocket"] = request.websocket
    return request


class InContext:
    """A response that is iterated over and closed in the context of its handshake.

    So receivers of ``request_finished`` find what the handshake has used, such as its caches.

    Args:
        context: of the handshake.
        response: what the application has returned.
    """

    __slots__ = ("_context", "_response")

    def __init__(self, context: Context, response: Any) -> None:
        self._context = context
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the body."""
        parts = self._context.run(iter, self._response)
        while (part := self._context.run(next, parts, None)) is not None:
            yield part

    def close(self) -> None:
        """Close the response, where it can be closed."""
        close = getattr(self._response, "close", None)
        if close is not None:
            self._context.run(close)


class WebSocketHandler(WSGIHandler):
    """The WSGI application that answers handshakes by ``WEBSOCKET_URLCONF``."""

    request_class = staticmethod(build_request)  # type: ignore[assignment]  # as good as a class

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        seam: Takeover | None = environ.get(TAKEOVER_KEY)
        if seam is None:
            return super().__call__(environ, start_response)
        handshake.take_token(environ)
        overview.serve()
        place = admission.enter(environ, conf.options())
        if place is None:
            return self._answer_in_context(environ, start_response, seam)
        if isinstance(place, Refusal):
            return self._turn_away(place, environ, start_response, seam)
        environ[admission.PLACE_KEY] = place
        try:
            return self._answer_in_context(environ, start_response, seam)
        finally:
            # An open socket has it until its end.
            if not place.is_open:
                place.release()

    def _turn_away(
        self, refusal: Refusal, environ: dict[str, Any], start_response: Any, seam: Takeover
    ) -> Iterable[bytes]:
        """Refuse before Django is asked, at little cost."""
        if not seam.is_switched:
            return refusals.answer(refusal, environ, start_response)
        websocket = build_request(environ).websocket
        assert websocket is not None
        hooks = websocket.hooks
        assert isinstance(hooks, DjangoHooks)
        self._finish(websocket, hooks, refusal_response(refusal), ())
        return ()

    def _answer_in_context(
        self, environ: dict[str, Any], start_response: Any, seam: Takeover
    ) -> Any:
        """Have Django answer in a context of the handshake's own.

        What is found there when the view accepts is the handshake's.
        """
        context = self.new_context(environ)
        answer = context.run(self._answer, environ, start_response, seam)
        return InContext(context, answer) if answer else answer

    def new_context(self, environ: dict[str, Any]) -> Context:
        """Return the context that a handshake runs in; to be overridden."""
        return surroundings.handshake_context()

    def _answer(self, environ: dict[str, Any], start_response: Any, seam: Takeover) -> Any:
        """Have Django answer, and do as it says."""
        databases.begin_handshake()
        people.begin(seam)
        try:
            answer = self._ask(environ, start_response, seam)
        except BaseException:
            databases.abandon_handshake()
            raise
        finally:
            people.end(seam)
        databases.end_handshake()
        return answer

    def _ask(self, environ: dict[str, Any], start_response: Any, seam: Takeover) -> Any:
        # Django hands over status and headers, cookies included, as to any server; whether they
        # go out as HTTP is decided here.
        started: list[tuple[str, list[tuple[str, str]]]] = []
        start: Any = lambda *args: started.append(args)  # noqa: E731
        response = super().__call__(environ, start)
        status, headers = started[0]
        websocket: WebSocket = environ["wsgi.websocket"]
        hooks = websocket.hooks
        assert isinstance(hooks, DjangoHooks)
        if isinstance(response, SwitchingProtocols):
            self._go_on(websocket, hooks, response, headers)
        elif seam.is_taken or seam.is_switched:
            self._finish(websocket, hooks, response, headers)
        else:
            # Also as gevent-websocket takes a request with a socket in its environ for accepted.
            hooks.refuse(websocket)
            start_response(status, headers)
            return response
        return ()

    def _go_on(
        self,
        websocket: WebSocket,
        hooks: DjangoHooks,
        response: SwitchingProtocols,
        headers: Headers,
    ) -> None:
        """Continue on the socket what began as a request."""
        if websocket.connecting:
            try:
                hooks.accept(
                    websocket, response.subprotocols, headers, compression=response.compression
                )
            except BaseException:
                hooks.refuse(websocket)
                raise
        self._end_request(websocket, hooks, response)
        hooks.begin(websocket, response)

    def _finish(
        self,
        websocket: WebSocket,
        hooks: DjangoHooks,
        response: HttpResponseBase,
        headers: Headers,
    ) -> None:
        """Close the socket of a request that is answered when the 101 has long gone out."""
        code = None
        if websocket.connecting:
            # The server had sent it before Django was asked, and Django says no.
            is_later = response.status_code in (429, 503)
            code = CloseCode.TRY_AGAIN_LATER if is_later else CloseCode.POLICY_VIOLATION
            websocket.unsend()
            hooks.accept(websocket, (), headers)
        self._end_request(websocket, hooks, response)
        if response.status_code < 300:
            websocket.close()
        else:
            close_for(websocket, response, code)
        hooks.end(websocket)

    def _end_request(
        self, websocket: WebSocket, hooks: DjangoHooks, response: HttpResponseBase
    ) -> None:
        """Send request_finished: from here on there is no request that waits for its end."""
        try:
            response.close()
        except BaseException as error:
            # A receiver's. The answer has gone out, as a page's would have, and holds.
            hooks.report(websocket, error)

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
        sessions.read_directly(request)
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
            websocket = request.websocket
            place = websocket.place if websocket else None
            try:
                response = view(request, *args, **kwargs)
            except ConnectionClosed:
                # The peer has left, or a cap refused the socket: either way the view is done.
                is_refused = place is not None and place.is_refused
                if not is_refused and (websocket is None or not websocket.closed):
                    raise
                response = None
            if place is not None:
                if isinstance(response, SwitchingProtocols) and not place.is_open:
                    # Whoever signs in, be it the view, has done so by now.
                    admit_user(request, place)
                if place.is_refused:
                    return refusal_response(admission.FULL_USER)
            if isinstance(response, SwitchingProtocols) and websocket:
                assert isinstance(websocket.hooks, DjangoHooks)
                websocket.hooks.surround(response)
            if response is None and websocket and not websocket.connecting:
                return HttpResponse()
            return response

        return call


def refusal_response(refusal: Refusal) -> HttpResponse:
    """Return a refusal that is counted and logged already as Django's response."""
    status, _, reason = refusal.status.partition(" ")
    response = HttpResponse(
        refusal.reason,
        status=int(status),
        reason=reason,
        headers=dict(refusal.headers),
        content_type="text/plain; charset=utf-8",
    )
    # django.utils.log.log_response(): a flood is not to be logged a second time.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


def check_origin(request: WebSocketRequest) -> HttpResponseBase | None:
    """Refuse a page of another site (RFC 6455 section 10.2); ``None`` lets the request pass."""
    claimed = header(request.META, "HTTP_ORIGIN")
    try:
        host = request.get_host()
    except DisallowedHost as error:
        count("refused_host")
        return response_for_exception(request, error)
    if claimed is None:
        # Not a browser, which always sends it.
        if not conf.get("WEBSOCKET_REQUIRE_ORIGIN"):
            return None
        reason = "no Origin header, and WEBSOCKET_REQUIRE_ORIGIN is set"
    else:
        if settings.USE_X_FORWARDED_PORT and "HTTP_X_FORWARDED_PORT" in request.META:
            host = _with_port(host, request.get_port())
        if (
            origin.is_same(claimed, host, secure=request.is_secure())
            or origin.is_allowed(claimed, conf.get("WEBSOCKET_ALLOWED_ORIGINS"))
            or origin.is_allowed(claimed, settings.CSRF_TRUSTED_ORIGINS)
            # As ALLOWED_HOSTS does: a front-end's development server has a port of its own.
            or (settings.DEBUG and origin.is_loopback(claimed))
        ):
            return None
        own = f"{request.scheme}://{host}"
        reason = (
            f"origin {shown(claimed)} is not this site's, {shown(own)}; "
            f"{_advice(request, claimed, host)}"
        )
    note("refused_origin", "403", wire_path(request.META), reason)
    return HttpResponseForbidden(
        f"{reason}\n" if settings.DEBUG else "Origin not allowed.\n",
        content_type="text/plain; charset=utf-8",
    )


def _advice(request: HttpRequest, claimed: str, host: str) -> str:
    """Return what to do about an origin that is refused."""
    if request.is_secure() and origin.is_same(claimed, host, secure=False):
        return (
            "only the scheme differs: redirect pages to https (SECURE_SSL_REDIRECT), or have the "
            "proxy tell the true one in the header of SECURE_PROXY_SSL_HEADER; to allow it "
            "nevertheless, add it to WEBSOCKET_ALLOWED_ORIGINS"
        )
    advice = (
        "if it is yours, add it to WEBSOCKET_ALLOWED_ORIGINS or CSRF_TRUSTED_ORIGINS, and have "
        "the proxy pass on the Host header"
    )
    if not request.is_secure() and claimed.startswith(("https:", "wss:")):
        advice += ", and the scheme (SECURE_PROXY_SSL_HEADER)"
    return advice


def _with_port(host: str, port: str) -> str:
    """Add the port that a proxy tells, where it is not in the host and not the scheme's.

    As ``CsrfViewMiddleware`` has it.
    """
    return host if port in ("80", "443") or origin.has_port(host) else f"{host}:{port}"

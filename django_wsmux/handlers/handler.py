"""Django's request cycle for handshakes.

``WebSocketHandler`` is Django's own WSGI handler with another URLconf: middleware, resolving, views
and error pages are Django's code. ``handshake.py`` has the steps before and after it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any, Final

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.core.exceptions import DisallowedHost, ImproperlyConfigured, SuspiciousOperation
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import get_resolver, set_urlconf
from django.views.decorators.csrf import csrf_exempt

from .. import conf
from ..connection import tracing
from ..exceptions import ConnectionClosed
from ..logs import quote
from ..protocol import origin
from ..protocol.environ import header, wire_path
from ..protocol.handshake import Refusal
from ..responses import SwitchingProtocols, add_length
from ..server import limits, own_context
from ..server.limits import Permit
from ..server.refusals import is_wsgiref, note
from ..server.takeover import TAKEOVER_KEY, Takeover
from . import sessions
from .callables import explain
from .handshake import Handshake
from .refusing import (
    advice,
    limit_security,
    refusal_response,
    with_port,
)
from .reporting import describe
from .request import (
    WebSocketRequest,
    build_request,
    foreign_request,
)
from .socket import DjangoHooks, admit_user

__all__ = ["WebSocketHandler", "installed", "upgrade_required"]

#: The handlers of this process's applications, which all have the same middleware.
installed: Final[list[WebSocketHandler]] = []


@csrf_exempt
def upgrade_required(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
    """Answer a plain request to the URL of a WebSocket."""
    response = HttpResponse(
        "This URL accepts WebSocket connections only.\n",
        status=426,
        content_type="text/plain; charset=utf-8",
    )
    if not is_wsgiref(request.META):
        response.headers["Upgrade"] = "websocket"
    return response


def _refuse_site(request: WebSocketRequest, counter: str, status: str, reason: str) -> HttpResponse:
    """Refuse a page of another site, or a request for another host, with an HTTP response."""
    note(counter, status, wire_path(request.META), reason)
    request.is_refusal_logged = request.is_foreign = True
    text = reason if settings.DEBUG else "Origin not allowed."
    if counter == "refused_host" and not settings.DEBUG:
        text = "Host not allowed."
    return refusal_response(Refusal(status, f"{text}\n"))


class WebSocketHandler(WSGIHandler):
    """The WSGI application that answers handshakes by ``WEBSOCKET_URLCONF``."""

    request_class = staticmethod(build_request)  # type: ignore[assignment]  # called like a class

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        takeover: Takeover | None = environ.pop(TAKEOVER_KEY, None)
        if takeover is None:
            return super().__call__(environ, start_response)
        context = self.new_context(environ)
        shake = Handshake(super().__call__, self.check_origin, takeover, start_response)
        return shake.run(environ, context)

    def new_context(self, environ: dict[str, Any]) -> Context:
        """Return the context that a handshake runs in; subclasses may override this.

        If the server runs each request in its own context, this is a copy of that context,
        including variables that WSGI middleware has set.
        """
        return copy_context() if own_context.mark.get() else own_context.new()

    @staticmethod
    def check_origin(request: WebSocketRequest) -> HttpResponse | None:
        """Refuse a page of another site (RFC 6455 section 10.2); ``None`` lets the request pass."""
        claimed = request.META.get("HTTP_ORIGIN")
        if claimed is not None and not claimed.isascii():
            claimed = header(request.META, "HTTP_ORIGIN")
        try:
            host = request.get_host()
        except DisallowedHost:
            reason = (
                f"host {quote(header(request.META, 'HTTP_HOST') or '')} is not in ALLOWED_HOSTS"
            )
            return _refuse_site(request, "refused_host", "400 Bad Request", reason)
        if claimed is None:
            # Not a browser: browsers always send the header.
            if not conf.get("WEBSOCKET_REQUIRE_ORIGIN"):
                return None
            reason = "no Origin header, and WEBSOCKET_REQUIRE_ORIGIN is set"
        else:
            if settings.USE_X_FORWARDED_PORT and "HTTP_X_FORWARDED_PORT" in request.META:
                host = with_port(host, request.get_port())
            if (
                origin.is_same(claimed, host, secure=request.is_secure())
                or origin.is_allowed(claimed, conf.get("WEBSOCKET_ALLOWED_ORIGINS"))
                or origin.is_allowed(claimed, settings.CSRF_TRUSTED_ORIGINS)
                # Like ALLOWED_HOSTS: a front-end's development server has its own port.
                or (settings.DEBUG and origin.is_loopback(claimed))
            ):
                return None
            own = f"{request.scheme}://{host}"
            reason = (
                f"origin {quote(claimed)} is not this site's, {quote(own)}; "
                f"{advice(request, claimed, host)}"
            )
        return _refuse_site(request, "refused_origin", "403 Forbidden", reason)

    def get_response(self, request: HttpRequest) -> HttpResponseBase:
        """Check the origin, then answer as Django does."""
        assert isinstance(request, WebSocketRequest)
        shake: Handshake | None = request.__dict__.pop("handshake", None)
        if shake is None:
            return super().get_response(request)
        response = self.check_origin(request) or super().get_response(request)
        if response.status_code != 101:
            add_length(response)
        shake.response = response
        return response

    def _get_response(self, request: HttpRequest) -> HttpResponseBase:
        """Call the view, as Django does."""
        try:
            return super()._get_response(request)  # type: ignore[misc, no-any-return]
        except SuspiciousOperation as error:
            # Perhaps the first error of its class.
            limit_security(type(error))
            raise
        except Exception as error:
            if settings.DEBUG and isinstance(request, WebSocketRequest):
                request.failure = describe(error)
            raise

    def resolve_request(self, request: HttpRequest) -> Any:
        """Resolve in the URLconf of sockets; ``reverse()`` and error pages use the site's URLconf.

        So ``LOGIN_URL = "login"`` and ``get_absolute_url()`` work in a socket as in a page, and
        ``websocket_url()`` reverses URLs of sockets. Middleware may choose the site's URLconf with
        ``request.urlconf``, which is not changed.
        """
        if not isinstance(request, WebSocketRequest):
            raise foreign_request(request)
        default = conf.get("WEBSOCKET_URLCONF")
        # As Django does, except that reverse() and error pages keep their URLconf.
        chosen = getattr(request, "urlconf", default)
        if chosen != default:
            set_urlconf(chosen)
        match = get_resolver(request.websocket_urlconf or default).resolve(request.path_info)
        request.resolver_match = match
        if request.websocket is None:
            return upgrade_required, match.args, match.kwargs
        session: Any = getattr(request, "session", None)
        direct = sessions.DIRECT.get(type(session))
        if direct is not None:
            # Others already hold the object, so change its class.
            session.__class__ = direct
        return match

    def make_view_atomic(self, view: Callable[..., Any]) -> Callable[..., Any]:
        """Never wrap a view in ATOMIC_REQUESTS: its transaction would last as long as the socket.

        A view that has used ``request.websocket`` need not return a response.
        """
        if iscoroutinefunction(view):
            raise ImproperlyConfigured(
                f"{view!r} is async: a WebSocket view is plain synchronous code, see "
                f"django_wsmux.decorators.websocket"
            )

        def call(request: WebSocketRequest, *args: Any, **kwargs: Any) -> Any:
            if request.taker is not None:
                return request.taker.take(request)
            websocket = request.websocket
            permit = websocket.permit if websocket else None
            if tracing.tracer is not None and websocket is not None:
                tracing.tracer.opens(websocket)
            try:
                response = view(request, *args, **kwargs)
            except ConnectionClosed:
                # The peer has left, or a limit refused the socket: either way the view is done.
                if not (isinstance(permit, Permit) and permit.is_refused) and not (
                    websocket and websocket.closed
                ):
                    raise
                response = None
            except TypeError as error:
                explain(error)
                raise
            if isinstance(response, SwitchingProtocols):
                request.accepted = response
            is_101 = getattr(response, "status_code", None) == 101
            if isinstance(permit, Permit):
                if is_101 and request.accepted is not None and not permit.is_open:
                    # The view itself may have signed the user in.
                    admit_user(request, permit)
                if permit.is_refused:
                    request.is_refusal_logged = True
                    return refusal_response(limits.FULL_USER)
            if is_101 and request.accepted is not None and websocket:
                assert isinstance(websocket.hooks, DjangoHooks)
                if conf.context_functions():
                    websocket.hooks.surround(request.accepted)
                else:
                    websocket.hooks.request_context = request.accepted.request_context
            has_talked = response is None and websocket and not websocket.connecting
            return HttpResponse() if has_talked else response

        return call

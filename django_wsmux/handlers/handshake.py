"""Django's request cycle for handshakes.

``WebSocketHandler`` is Django's own WSGI handler with another URLconf: middleware, resolving, views
and error pages are Django's code. What comes out decides: ``SwitchingProtocols`` takes the socket
over, anything else is the HTTP answer to the handshake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import Context
from typing import Any, Final

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.core.exceptions import DisallowedHost, ImproperlyConfigured, SuspiciousOperation
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import get_urlconf, set_urlconf
from django.views.decorators.csrf import csrf_exempt

from .. import conf
from ..connection import registry
from ..connection.counters import count
from ..connection.websocket import WebSocket
from ..exceptions import ConnectionClosed
from ..groups import users
from ..logs import get_logger, shown
from ..monitoring import overview
from ..protocol import handshake, origin
from ..protocol.environ import header, keep_wire_path, wire_path
from ..protocol.frames import CloseCode
from ..protocol.handshake import Refusal
from ..responses import SwitchingProtocols, add_length
from ..server import dismissal, limits, refusals
from ..server.answer import Answer, InContext
from ..server.dispatcher import TAKEOVER_KEY
from ..server.limits import Permit
from ..server.refusals import is_wsgiref, note
from ..server.takeover import EmptyBody, Takeover
from . import context, databases, sessions
from .callables import explain
from .refusing import (
    close_code,
    dismiss,
    hint,
    limit_security,
    refusal_response,
    refusals_of,
    wants_close,
)
from .request import WebSocketRequest, require_ours
from .socket import DjangoHooks, admit_user, close_for

__all__ = ["WebSocketHandler", "upgrade_required"]

logger = get_logger("django_wsmux.handshake")

_STOPPING: Final = Refusal(
    "503 Service Unavailable",
    "This server is about to start again, or to stop.",
    (("Retry-After", "1"),),
)

_NOT_ACCEPTED: Final = Refusal("500 Internal Server Error", "The handshake was not accepted.")


def _switching(headers: Iterable[tuple[str, str]]) -> tuple[str, list[tuple[str, str]]]:
    """Return status and headers of a 101 as WSGI middleware around us should see them."""
    # wsgiref's validator asks for a type, though there is no body to have one.
    content_type = ("Content-Type", "text/plain; charset=utf-8")
    return "101 Switching Protocols", [*handshake.allowed_on_101(headers), content_type]


@csrf_exempt
def upgrade_required(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
    """Answer a plain request to the URL of a WebSocket."""
    response = HttpResponse(
        "This address speaks WebSocket.\n", status=426, content_type="text/plain; charset=utf-8"
    )
    if not is_wsgiref(request.META):
        response.headers["Upgrade"] = "websocket"
    return response


# Where the environ of a handshake has its ``_Handshake`` until Django has made the request.
_HANDSHAKE_KEY: Final = "django_wsmux.handshake"


def build_request(environ: dict[str, Any]) -> WebSocketRequest:
    """Return the request of an environ, with its socket if that is what it asks for."""
    path_info = environ.get("PATH_INFO", "")
    request = WebSocketRequest(environ)
    keep_wire_path(environ, path_info)
    shake: _Handshake | None = environ.pop(_HANDSHAKE_KEY, None)
    if shake is not None:
        shake.begin(request)
    return request


class _Handshake:
    """One handshake, and what Django makes of it.

    Agents wrap the methods of Django's handler: what these return is not Django's any more, and
    the environ may be a copy.

    Args:
        takeover: how to get the socket from the server.
        place: what it takes up of the caps, where there are some.

    Attributes:
        request: Django's, once there is one.
        response: what Django has answered, past all middleware.
    """

    def __init__(self, takeover: Takeover, place: Permit | None = None) -> None:
        self.seam = takeover
        self.place = place
        self.request: WebSocketRequest | None = None
        self.response: HttpResponseBase | None = None
        self._websocket: WebSocket | None = None

    def begin(self, request: WebSocketRequest) -> None:
        """Give the request its socket."""
        environ = request.META
        websocket = self.seam.websocket(environ, conf.options(), DjangoHooks(request, self.seam))
        websocket.place = self.place
        self.request, self._websocket = request, websocket
        request.handshake = self
        environ["wsgi.websocket"] = request.websocket = websocket

    @property
    def websocket(self) -> WebSocket:
        """The socket of the request."""
        assert self._websocket is not None
        return self._websocket

    @property
    def hooks(self) -> DjangoHooks:
        """What Django adds to the socket."""
        hooks = self.websocket.hooks
        assert isinstance(hooks, DjangoHooks)
        return hooks

    @property
    def accepted(self) -> SwitchingProtocols | None:
        """What the view has accepted with, though middleware may have put a copy in its place."""
        if isinstance(self.response, SwitchingProtocols):
            return self.response
        return self.request.accepted if self.request is not None else None

    def replace(self, response: HttpResponse) -> Answer:
        """Answer with a response of ours, which Django knows nothing of."""
        # To close it would end a request that has not begun, or has ended.
        response.closed = True
        self.response = response
        answer = Answer()
        status = f"{response.status_code} {response.reason_phrase}"
        answer.start_response(status, list(response.items()))
        answer.receive([response.content])
        return answer

    def fail(self) -> None:
        """Give up the socket: an error goes to the server in place of an answer."""
        if self._websocket is None:
            return
        if self._websocket.connecting:
            self.hooks.refuse(self._websocket)
        elif self.seam.is_taken:
            self._websocket.close(CloseCode.INTERNAL_ERROR)
            self.hooks.end(self._websocket)


class WebSocketHandler(WSGIHandler):
    """The WSGI application that answers handshakes by ``WEBSOCKET_URLCONF``."""

    request_class = staticmethod(build_request)  # type: ignore[assignment]  # as good as a class

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        takeover: Takeover | None = environ.pop(TAKEOVER_KEY, None)
        if takeover is None:
            return super().__call__(environ, start_response)
        handshake.take_token(environ)
        overview.serve()
        if registry.is_stopping():
            # A client that was closed with 1012 comes back at once, and should meet the next
            # process.
            path = wire_path(environ)
            note("refused_handshake", _STOPPING.status, path, _STOPPING.reason)
            return self._refuse_early(_STOPPING, environ, start_response, takeover)
        place = limits.enter(environ, conf.options())
        if isinstance(place, Refusal):
            return self._refuse_early(place, environ, start_response, takeover)
        try:
            return self._answer_in_context(environ, start_response, _Handshake(takeover, place))
        finally:
            # An open socket has it until its end.
            if place is not None and not place.is_open:
                place.release()

    def _refuse_early(
        self, refusal: Refusal, environ: dict[str, Any], start_response: Any, takeover: Takeover
    ) -> Iterable[bytes]:
        """Refuse before Django is asked; at little cost, unless the client is to be told more."""
        if not takeover.is_switched and not wants_close(environ, conf.get("WEBSOCKET_REFUSALS")):
            return refusals.answer(refusal, environ, start_response)
        shake = _Handshake(takeover)
        environ[_HANDSHAKE_KEY] = shake
        request = build_request(environ)
        request.is_refusal_logged = True
        answer = shake.replace(check_origin(request) or refusal_response(refusal))
        return self._conclude(shake, answer, start_response)

    def _answer_in_context(
        self, environ: dict[str, Any], start_response: Any, shake: _Handshake
    ) -> Any:
        """Have Django answer in a context of the handshake's own.

        What is found there when the view accepts is the handshake's.
        """
        context = self.new_context(environ)
        body = context.run(self._answer, environ, start_response, shake)
        return body if isinstance(body, EmptyBody) else InContext(context, body)

    def new_context(self, environ: dict[str, Any]) -> Context:
        """Return the context that a handshake runs in; to be overridden."""
        return context.handshake_context()

    def _answer(self, environ: dict[str, Any], start_response: Any, shake: _Handshake) -> Any:
        """Have Django answer, and do as it says."""
        environ[_HANDSHAKE_KEY] = shake
        databases.begin_handshake()
        users.begin(shake.seam)
        answer = Answer()
        try:
            try:
                answer.receive(super().__call__(environ, answer.start_response))
            except BaseException:
                shake.fail()
                self._end_request(shake, answer)
                raise
            body = self._conclude(shake, answer, start_response)
        except BaseException:
            databases.abandon_handshake()
            raise
        finally:
            users.end(shake.seam)
        databases.end_handshake()
        return body

    def _conclude(self, shake: _Handshake, answer: Answer, start_response: Any) -> Iterable[bytes]:
        """Open the socket, close it, or refuse the handshake."""
        is_101 = answer.status.startswith("101")
        if shake.request is None:
            # What is put around Django has answered in its place.
            return answer.send(start_response)
        if is_101 and shake.accepted is not None:
            return self._open(shake, shake.accepted, answer, start_response)
        if shake.seam.is_taken or shake.seam.is_switched:
            return self._finish(shake, answer, start_response)
        if is_101:
            answer = self._correct(shake, answer)
        return self._refuse(shake, answer, start_response)

    def _open(
        self,
        shake: _Handshake,
        accepted: SwitchingProtocols,
        answer: Answer,
        start_response: Any,
    ) -> Iterable[bytes]:
        """Continue on the socket what began as a request."""
        websocket, hooks = shake.websocket, shake.hooks
        is_joined = websocket.connecting
        if is_joined:
            try:
                hooks.join(websocket)
            except Exception as error:
                # The database or the broker is away, and there is still time to say so.
                return self._refuse(shake, self._replace(shake, answer, error), start_response)
        try:
            answer.discard()
            start_response(*_switching(answer.headers))
            if websocket.connecting:
                hooks.accept(
                    websocket,
                    accepted.subprotocols,
                    answer.headers,
                    compression=accepted.compression,
                    is_joined=is_joined,
                )
        except BaseException:
            shake.fail()
            self._end_request(shake, answer)
            raise
        self._end_request(shake, answer)
        hooks.begin(websocket, accepted)
        return EmptyBody()

    def _finish(self, shake: _Handshake, answer: Answer, start_response: Any) -> Iterable[bytes]:
        """Close the socket of a request that is answered when the 101 has long gone out."""
        websocket, hooks, response = shake.websocket, shake.hooks, shake.response
        assert response is not None
        code = None
        if websocket.connecting:
            # The server had sent it before Django was asked, and Django says no.
            count("handshakes_refused")
            is_later = response.status_code in (429, 503)
            code = CloseCode.TRY_AGAIN_LATER if is_later else CloseCode.POLICY_VIOLATION
            websocket.unsend()
            hooks.accept(websocket, (), answer.headers)
        try:
            answer.discard()
        finally:
            self._end_request(shake, answer)
            if response.status_code < 300:
                websocket.close()
            else:
                close_for(websocket, response, code)
            hooks.end(websocket)
        start_response(*_switching(answer.headers))
        return EmptyBody()

    def _replace(self, shake: _Handshake, answer: Answer, error: Exception) -> Answer:
        """Report an error that came after the view, and return what a page would show."""
        assert shake.request is not None
        shake.request.is_refusal_logged = True
        response = shake.hooks.report(shake.websocket, error)
        self._end_request(shake, answer)
        assert isinstance(response, HttpResponse)
        return shake.replace(response)

    def _correct(self, shake: _Handshake, answer: Answer) -> Answer:
        """Return an answer in place of a 101 that no view of ours has made."""
        logger.error(
            "WebSocket handshake not accepted: %s has status 101, but no view has returned a "
            "WebSocketResponse: is the view decorated with @websocket?",
            type(shake.response).__qualname__,
        )
        self._end_request(shake, answer)
        return shake.replace(refusal_response(_NOT_ACCEPTED))

    def _refuse(self, shake: _Handshake, answer: Answer, start_response: Any) -> Iterable[bytes]:
        """Refuse: the one door that each handshake goes through which Django does not accept."""
        request = shake.request
        assert request is not None
        count("handshakes_refused")
        # Also as gevent-websocket takes a request with a socket in its environ for accepted.
        shake.hooks.refuse(shake.websocket)
        slot = None
        if not request.is_foreign and wants_close(request.META, refusals_of(request)):
            slot = dismissal.enter()
        status, _, reason = answer.status.partition(" ")
        # What is put around Django may have made it another response than Django's.
        response = HttpResponse(status=int(status), reason=reason, headers=dict(answer.headers))
        if not request.is_refusal_logged:
            more = f", as close code {close_code(response)}" if slot is not None else ""
            refusals.tell(answer.status, wire_path(request.META), more, hint(int(status)))
        if slot is None:
            return answer.send(start_response)
        try:
            if not getattr(shake.response, "streaming", True):
                answer.discard()
            start_response(*_switching(answer.headers))
            dismiss(request, shake.seam, response, answer.headers, slot)
        except BaseException:
            slot.release()
            raise
        finally:
            self._end_request(shake, answer)
        return EmptyBody()

    def _end_request(self, shake: _Handshake, answer: Answer) -> None:
        """Send request_finished: from here on there is no request that waits for its end.

        Once, though what is put around Django may close its response or not.
        """
        response = shake.response
        try:
            try:
                answer.close()
            finally:
                if response is not None and not response.closed:
                    response.close()
        except BaseException as error:
            # A receiver's. The answer has gone out, as a page's would have, and holds.
            shake.hooks.report(shake.websocket, error)

    def get_response(self, request: HttpRequest) -> HttpResponseBase:
        """Check the origin, then answer as Django does."""
        assert isinstance(request, WebSocketRequest)
        shake: _Handshake | None = request.__dict__.pop("handshake", None)
        if shake is None:
            return super().get_response(request)
        response = check_origin(request) or super().get_response(request)
        add_length(response)
        shake.response = response
        return response

    def _get_response(self, request: HttpRequest) -> HttpResponseBase:
        """Call the view, as Django does."""
        try:
            return super()._get_response(request)  # type: ignore[misc, no-any-return]
        except SuspiciousOperation as error:
            # Perhaps the first of its class.
            limit_security(type(error))
            raise

    def resolve_request(self, request: HttpRequest) -> Any:
        """Resolve in the URLconf of sockets; ``reverse()`` and error pages are those of the site.

        So ``LOGIN_URL = "login"`` and ``get_absolute_url()`` work in a socket as everywhere;
        ``websocket_url()`` is there for the others. Middleware that sets ``request.urlconf``
        chooses the site, and what it has chosen stays.
        """
        request = require_ours(request)
        default = conf.get("WEBSOCKET_URLCONF")
        chosen, of_thread = getattr(request, "urlconf", default), get_urlconf()
        request.urlconf = request.websocket_urlconf or default
        try:
            match = super().resolve_request(request)
        finally:
            request.urlconf = chosen
            set_urlconf(of_thread if chosen == default else chosen)
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
                if not (place and place.is_refused) and not (websocket and websocket.closed):
                    raise
                response = None
            except TypeError as error:
                explain(error)
                raise
            if isinstance(response, SwitchingProtocols):
                request.accepted = response
            is_101 = getattr(response, "status_code", None) == 101
            if place is not None:
                if is_101 and request.accepted is not None and not place.is_open:
                    # Whoever signs in, be it the view, has done so by now.
                    admit_user(request, place)
                if place.is_refused:
                    request.is_refusal_logged = True
                    return refusal_response(limits.FULL_USER)
            if is_101 and request.accepted is not None and websocket:
                assert isinstance(websocket.hooks, DjangoHooks)
                websocket.hooks.surround(request.accepted)
            has_talked = response is None and websocket and not websocket.connecting
            return HttpResponse() if has_talked else response

        return call


def check_origin(request: WebSocketRequest) -> HttpResponse | None:
    """Refuse a page of another site (RFC 6455 section 10.2); ``None`` lets the request pass."""
    claimed = header(request.META, "HTTP_ORIGIN")
    try:
        host = request.get_host()
    except DisallowedHost:
        reason = f"host {shown(header(request.META, 'HTTP_HOST') or '')} is not in ALLOWED_HOSTS"
        return _refuse_site(request, "refused_host", "400 Bad Request", reason)
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
    return _refuse_site(request, "refused_origin", "403 Forbidden", reason)


def _refuse_site(request: WebSocketRequest, counter: str, status: str, reason: str) -> HttpResponse:
    """Refuse a page of another site, or a request to another one, whatever the client offers."""
    note(counter, status, wire_path(request.META), reason)
    request.is_refusal_logged = request.is_foreign = True
    text = reason if settings.DEBUG else "Origin not allowed."
    if counter == "refused_host" and not settings.DEBUG:
        text = "Host not allowed."
    return refusal_response(Refusal(status, f"{text}\n"))


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

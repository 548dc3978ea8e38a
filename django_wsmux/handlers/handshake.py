"""The steps of a handshake before and after Django's request cycle.

``WebSocketHandler`` (``handler.py``) runs the request cycle. A ``SwitchingProtocols`` opens the
socket; any other response refuses the handshake.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import Context
from itertools import chain
from typing import Any, Final

from django.http import HttpResponse, HttpResponseBase

from .. import conf
from ..connection import registry
from ..connection.counters import count
from ..connection.guard import notify
from ..connection.returning import pace
from ..connection.websocket import WebSocket
from ..exceptions import ConnectionClosed
from ..groups import users
from ..groups.pubsub import members, pubsub
from ..logs import get_logger
from ..protocol import handshake, v1
from ..protocol.environ import wire_path
from ..protocol.frames import CloseCode
from ..protocol.handshake import Refusal
from ..responses import SwitchingProtocols, WebSocketResponse
from ..server import dismissal, limits, refusals
from ..server.answer import BegunBody, InContext
from ..server.dispatcher import WSGIApplication
from ..server.limits import FULL_USER, Permit
from ..server.refusals import note
from ..server.takeover import EmptyBody, Takeover
from ..signals import websocket_opened
from . import context, databases, realtime, resume, sessions
from .refusing import (
    close_code,
    dismiss,
    hint,
    option_of,
    refusal_response,
    refusals_of,
    wants_close,
)
from .request import (
    HANDSHAKE_KEY,
    WebSocketRequest,
    build_request,
    trim,
)
from .socket import DjangoHooks, admit_user, close_for

__all__ = ["Handshake"]

logger = get_logger("django_wsmux.handshake")

_STOPPING: Final = Refusal(
    "503 Service Unavailable",
    "This server is restarting or shutting down.",
    (("Retry-After", "1"),),
)

_NOT_ACCEPTED: Final = Refusal("500 Internal Server Error", "The handshake was not accepted.")


class Handshake:
    """One handshake: its state, and its steps in order.

    ``run()`` takes the first steps and calls Django, which creates the request (``attach()``), runs
    middleware and view, and answers (``start_response()``). Depending on the answer,
    ``_conclude()`` opens the socket, closes it, or refuses the handshake.

    Agents wrap the methods of Django's handler. The results may be their own objects, and the
    environ may be a copy, so the state is kept here.

    Args:
        application: calls Django.
        check_origin: returns the refusal of a request from another site, or ``None``.
        takeover: takes the socket from the server.
        start_response: the server's function.

    Attributes:
        permit: the share of this handshake in the limits on the number of sockets; ``None``
            without limits.
        request: Django's request, once it exists; ``websocket`` and ``hooks`` belong to it.
        response: Django's response, after all middleware.
        status: status of the answer; empty until ``start_response()`` is called.
        headers: headers of the answer, including cookies.
        joined: see ``Acceptor``.
    """

    hooks: DjangoHooks
    websocket: WebSocket

    def __init__(
        self,
        application: WSGIApplication,
        check_origin: Callable[[WebSocketRequest], HttpResponse | None],
        takeover: Takeover,
        start_response: Callable[..., Any],
    ) -> None:
        self.takeover = takeover
        self.permit: Permit | None = None
        self.request: WebSocketRequest | None = None
        self.response: HttpResponseBase | None = None
        self.status = ""
        self.headers: list[tuple[str, str]] = []
        self.joined: dict[str, tuple[str | None, str | None, bool | None]] = {}
        self._began = 0.0
        self._application = application
        self._check_origin = check_origin
        self._start_response = start_response
        self._body: Iterable[bytes] = ()
        # The rest of the body if items were read to learn the status, and those items.
        self._rest: Iterator[bytes] | None = None
        self._first: list[bytes] = []
        self._write: Callable[[bytes], object] = self._first.append
        # Whether using the socket accepts the handshake, and whether the view has the open socket.
        self._may_accept = True
        self._is_over = False

    # Before Django

    def run(self, environ: dict[str, Any], context: Context) -> Iterable[bytes]:
        """Answer the handshake.

        Args:
            environ: the environ of the request.
            context: the context to run in. Variables that are set in it when the view accepts are
                set in the conversation, too.
        """
        offered = environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", "")
        if offered:
            self._began = time.monotonic()
            handshake.take_token(environ)
        if v1.PREFIX in offered or "at=" in environ.get("QUERY_STRING", ""):
            resume.read(environ)
        if registry.stopping.is_set():
            # A client that was closed with 1012 reconnects at once, and should reach the next
            # process.
            path = wire_path(environ)
            note("refused_handshake", _STOPPING.status, path, _STOPPING.reason)
            return self._refuse_early(_STOPPING, environ)
        if conf.has_limits():
            permit = limits.acquire(environ, conf.options())
            if isinstance(permit, Refusal):
                return self._refuse_early(permit, environ)
            self.permit = permit
        try:
            body = context.run(self._ask_django, environ)
        finally:
            # An open socket keeps its permit until it is closed.
            if self.permit is not None and not self.permit.is_open:
                self.permit.release()
        return body if isinstance(body, EmptyBody) else InContext(context, body)

    def _refuse_early(self, refusal: Refusal, environ: dict[str, Any]) -> Iterable[bytes]:
        """Refuse before Django is called: cheaply, unless the client gets a close code."""
        if not self.takeover.is_switched and not wants_close(
            environ, conf.get("WEBSOCKET_REFUSALS")
        ):
            return refusals.answer(refusal, environ, self._start_response)
        environ[HANDSHAKE_KEY] = self
        request = build_request(environ)
        request.is_refusal_logged = True
        self._replace(self._check_origin(request) or refusal_response(refusal))
        return self._conclude()

    # Django

    def _ask_django(self, environ: dict[str, Any]) -> Iterable[bytes]:
        """Call Django, and act on its answer."""
        environ[HANDSHAKE_KEY] = self
        databases.begin_handshake()
        pubsub.watch(self)
        try:
            try:
                self._receive(self._application(environ, self.start_response))
            except BaseException:
                self._fail()
                self._end_request()
                raise
            body = self._conclude()
        except BaseException:
            databases.abandon_handshake()
            raise
        finally:
            if not self._is_over:
                members.closings.end(self)
        if not self._is_over:
            databases.end_handshake()
        return body

    def attach(self, request: WebSocketRequest) -> None:
        """Create the socket of the request."""
        environ = request.META
        self.request, self.hooks = request, DjangoHooks(request, self)
        websocket = self.takeover.websocket_class(environ, conf.options(), self.hooks)
        websocket.permit = self.permit
        request.handshake = self
        environ["wsgi.websocket"] = request.websocket = self.websocket = websocket

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        """Record status and headers; the last call counts."""
        self.status, self.headers = status, headers
        return lambda data: self._write(data)

    def _receive(self, body: Iterable[bytes]) -> None:
        """Record the body; iterate over it until the status is known.

        Raises:
            RuntimeError: ``start_response()`` was never called.
        """
        self._body = body
        if self.status:
            return
        # A generator runs no code before its first item is read.
        self._rest = iter(body)
        while not self.status:
            try:
                self._first.append(next(self._rest))
            except StopIteration:
                break
        if not self.status:
            raise RuntimeError("the application returned without calling start_response()")

    def accept_early(self) -> None:
        """Accept at once: a view uses the socket before it has returned.

        Raises:
            ConnectionClosed: the user has too many sockets.
        """
        request, websocket, hooks, permit = self.request, self.websocket, self.hooks, self.permit
        if not self._may_accept:
            return
        assert request is not None
        # For helpers: the view itself runs inside its request.
        hooks.request_context = context.managed(request, context.current())
        if permit is not None and not admit_user(request, permit):
            if not self.takeover.is_switched:
                websocket.abandon()
                raise ConnectionClosed(websocket.close_code or CloseCode.ABNORMAL)
            permit.is_refused = False  # closed, since the 101 has been sent
            self._join()
            self._accept()
            websocket.close(CloseCode.TRY_AGAIN_LATER, FULL_USER.status)
        else:
            self._join()
            self._accept()

    # After Django

    @property
    def _accepted(self) -> SwitchingProtocols | None:
        """The response with which the view accepted; middleware may have replaced it by a copy."""
        if isinstance(self.response, SwitchingProtocols):
            return self.response
        return self.request.accepted if self.request is not None else None

    def _conclude(self) -> Iterable[bytes]:
        """Open the socket, close it, or refuse the handshake."""
        is_101 = self.status.startswith("101")
        if self.request is None:
            # Code that wraps Django has answered instead of it.
            return self._send()
        if is_101 and self._accepted is not None:
            return self._open(self._accepted)
        if self.takeover.is_taken or self.takeover.is_switched:
            return self._close_after_101()
        if is_101:
            self._correct()
        return self._refuse()

    def _open(self, accepted: SwitchingProtocols) -> Iterable[bytes]:
        """Open the socket and continue with the view."""
        try:
            if not self.takeover.is_taken:
                self._join()
        except Exception as error:
            # The database or the broker is down, and the handshake can still be refused.
            self._report(error)
            return self._refuse()
        try:
            self._discard()
            self._tell_server()
            if not self.takeover.is_taken:
                self._accept(accepted)
        except BaseException:
            self._fail()
            self._end_request()
            raise
        self._end_request()
        self._begin(accepted)
        return EmptyBody([b""])

    def _join(self) -> None:
        """Read the session, and join the groups of session and user."""
        request, hooks = self.request, self.hooks
        assert request is not None
        # Joining may take a while. Closing the user's sockets meanwhile must not accept this one.
        self._may_accept = False
        try:
            if conf.prefix_function() is None or hooks.request_context is None:
                hooks.groups = users.join(self.websocket, request)
            else:
                # The middleware, which knows the tenant, has returned.
                hooks.groups = hooks.request_context.enter(users.join, self.websocket, request)
        finally:
            self._may_accept = True

    def _select(self, accepted: SwitchingProtocols | None) -> str | None:
        """Select the subprotocol of the socket; return the one for the 101."""
        assert self.request is not None
        offered = self.request.META.get("HTTP_SEC_WEBSOCKET_PROTOCOL")
        if offered is None:
            return None
        if accepted is not None:
            names, realtime = accepted.subprotocols, accepted.realtime
        else:
            names, realtime = (), option_of(self.request, "realtime", True)
            realtime = realtime and not option_of(self.request, "subprotocols", ())
        if handshake.V1 in offered:
            # A view with its own subprotocols accepts this one only if it lists it.
            names = [name for name in names or (handshake.V1,) if realtime or name != handshake.V1]
        self.websocket.subprotocol = handshake.select_subprotocol(offered, names)
        # Browsers that offer subprotocols give up if none is selected.
        return self.websocket.subprotocol or handshake.select_subprotocol(
            offered, (handshake.BEARER,)
        )

    def _accept(self, accepted: SwitchingProtocols | None = None) -> None:
        """Send the 101 and take the socket over.

        Args:
            accepted: the response of the view, if the view has returned already.
        """
        request, websocket, hooks = self.request, self.websocket, self.hooks
        assert request is not None
        meta = request.META
        head = b""
        if not self.takeover.is_switched:
            answer = self._select(accepted)
            offer = meta.get("HTTP_SEC_WEBSOCKET_EXTENSIONS")
            if accepted is not None and not accepted.compression:
                offer = None
            extensions = None if offer is None else websocket.negotiate(offer)
            key = meta["HTTP_SEC_WEBSOCKET_KEY"]
            head = handshake.switching_protocols(key, answer, self.headers, extensions)
        self._may_accept = False
        closed = members.closings.finish(self, hooks.groups)
        if not (isinstance(accepted, WebSocketResponse) and accepted.calls_view):
            # Otherwise the first message identifies the user.
            closed = closed or resume.check(meta, hooks.groups)
        if closed is not None:
            # The messages of the view are for a user who has signed out, or for another one.
            websocket.unsend()
            websocket.close(*closed)
        elif websocket.subprotocol == handshake.V1:
            realtime.start(hooks, websocket)
        transport, unread = self.takeover.take(websocket)
        # One string for all sockets from that address.
        hooks.address = sys.intern(str(meta.get("REMOTE_ADDR") or ""))
        hooks.opened_at = time.monotonic()
        websocket.opened(transport, head, unread)
        if isinstance(hooks, realtime.RealtimeHooks):
            pace.note(self._began, hooks.opened_at)
            realtime.replace_elsewhere(websocket)
        if websocket_opened.receivers:
            notify(websocket_opened, WebSocket, websocket=websocket, request=request)

    def _begin(self, accepted: SwitchingProtocols) -> None:
        """Continue with the view: the socket is open and the request has ended."""
        websocket, hooks = self.websocket, self.hooks
        assert self.request is not None
        self._is_over = True
        hooks.request_context = accepted.request_context
        try:
            # The connections of the server's greenlet, which ends.
            databases.end_handshake()
            databases.discard()
            hooks.session = sessions.watch(self.request)
            trim(self.request)
        except BaseException as error:
            # Raised by the project's session store or database backend. The view still runs, with
            # a closed socket, so that it learns of the close.
            hooks.fail(websocket, error)
        hooks.begin(websocket, accepted)

    def _close_after_101(self) -> Iterable[bytes]:
        """Close the socket of a request whose answer comes after the 101."""
        websocket, response = self.websocket, self.response
        assert response is not None
        code = None
        if not self.takeover.is_taken:
            # The server sent the 101 before it called Django, and Django refuses.
            count("handshakes_refused")
            is_later = response.status_code in (429, 503)
            code = CloseCode.TRY_AGAIN_LATER if is_later else CloseCode.POLICY_VIOLATION
            websocket.unsend()
            self._join()
            self._accept()
        try:
            self._discard()
        finally:
            self._end_request()
            if response.status_code < 300:
                websocket.close()
            else:
                close_for(websocket, response, code)
            self.hooks.end(websocket)
        self._tell_server()
        return EmptyBody([b""])

    def _refuse(self) -> Iterable[bytes]:
        """Refuse the handshake; every handshake that Django does not accept ends here."""
        request = self.request
        assert request is not None
        count("handshakes_refused")
        # gevent-websocket, too, regards a request with a socket in its environ as accepted.
        self._may_accept = False
        self.hooks.refuse(self.websocket)
        slot = None
        if not request.is_foreign and wants_close(request.META, refusals_of(request)):
            slot = dismissal.enter()
        status, _, reason = self.status.partition(" ")
        # Code that wraps Django may have replaced Django's response.
        response = HttpResponse(status=int(status), reason=reason, headers=dict(self.headers))
        if not request.is_refusal_logged:
            more = f", as close code {close_code(response)}" if slot is not None else ""
            refusals.tell(self.status, wire_path(request.META), more, hint(int(status)))
        if slot is None:
            return self._send()
        try:
            if not getattr(self.response, "streaming", True):
                self._discard()
            self._tell_server()
            dismiss(request, self.takeover, response, self.headers, slot)
        except BaseException:
            slot.release()
            raise
        finally:
            self._end_request()
        return EmptyBody([b""])

    # The answer

    def _tell_server(self) -> None:
        """Give status and headers of the 101 to the server and to WSGI middleware around us."""
        # wsgiref's validator requires a content type, even without a body.
        content_type = ("Content-Type", "text/plain; charset=utf-8")
        headers = [*handshake.allowed_on_101(self.headers), content_type]
        self._start_response("101 Switching Protocols", headers)

    def _send(self) -> Iterable[bytes]:
        """Pass status and headers to the server; return the body, which it sends and closes."""
        self._write = self._start_response(self.status, self.headers)
        if self._rest is None and not self._first:
            return self._body
        rest = self._body if self._rest is None else self._rest
        return BegunBody(chain(self._first, rest), self._close_body)

    def _discard(self) -> None:
        """Iterate over the body and discard its items."""
        for _ in self._body if self._rest is None else self._rest:
            pass

    def _close_body(self) -> None:
        """Close the body, as a server does."""
        close = getattr(self._body, "close", None)
        if close is not None:
            close()

    def _replace(self, response: HttpResponse) -> None:
        """Answer with a response of our own, unknown to Django."""
        # Closing it would end a request that has not begun, or has ended already.
        response.closed = True
        self.response = response
        self.status = f"{response.status_code} {response.reason_phrase}"
        self.headers, self._body = list(response.items()), [response.content]
        self._rest, self._first = None, []

    def _report(self, error: Exception) -> None:
        """Report an error that occurred after the view; answer with the response of a page."""
        assert self.request is not None
        self.request.is_refusal_logged = True
        response = self.hooks.report(self.websocket, error)
        self._end_request()
        assert isinstance(response, HttpResponse)
        self._replace(response)

    def _correct(self) -> None:
        """Replace a 101 that is not the response of a WebSocket view."""
        logger.error(
            "WebSocket handshake not accepted: %s has status 101, but no view returned a "
            "WebSocketResponse: is the view decorated with @websocket?",
            type(self.response).__qualname__,
        )
        self._end_request()
        self._replace(refusal_response(_NOT_ACCEPTED))

    def _end_request(self) -> None:
        """Send ``request_finished``, exactly once.

        Code that wraps Django may have closed the response already.
        """
        response = self.response
        try:
            try:
                self._close_body()
            finally:
                if response is not None and not response.closed:
                    response.close()
        except BaseException as error:
            if self.request is None:
                raise  # there is no request to report it with
            # Raised by a receiver. As with a page, the answer has been sent and stays valid.
            self.hooks.report(self.websocket, error)

    def _fail(self) -> None:
        """Give up the socket: the server gets an error instead of an answer."""
        self._may_accept = False
        if self.request is None:
            return
        if self.takeover.is_taken:
            self.websocket.close(CloseCode.INTERNAL_ERROR)
            self.hooks.end(self.websocket)
        elif self.websocket.connecting:
            self.hooks.refuse(self.websocket)

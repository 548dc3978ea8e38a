"""Handling of a test's handshake, with the same handler and middleware as under a server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any, Final

from django.core.exceptions import DisallowedHost
from django.core.handlers.wsgi import WSGIRequest
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.test.client import ClientHandler, conditional_content_removal
from greenlet import getcurrent

from .. import conf
from ..handlers import context
from ..handlers.databases import SharedConnections
from ..handlers.handler import WebSocketHandler
from ..logs import forget_lines
from ..monitoring import actions, overview
from ..protocol.v1 import BROUGHT_KEY, Brought
from ..server.dispatcher import answer_upgrade
from ..server.takeover import TAKEOVER_KEY
from .memory import MemoryTakeover, Task, current_loop
from .memory_client import MemoryPeer

__all__ = ["EXCHANGE_KEY", "Exchange", "WebSocketClientHandler", "connections_kept"]

#: Key of the ``Exchange`` in the environ of a test's handshake.
EXCHANGE_KEY: Final = "django_wsmux.exchange"


@contextmanager
def connections_kept() -> Iterator[None]:
    """Keep Django from closing the test's connections around requests, as its own client does."""
    signals = (request_started, request_finished)
    for signal in signals:
        signal.disconnect(close_old_connections)
    try:
        yield
    finally:
        for signal in signals:
            signal.connect(close_old_connections)


class Exchange:
    """One handshake, with its participants and its outcome.

    Args:
        peer: the client's end.
        has_origin: whether to send this site's ``Origin`` if no other is given.
    """

    def __init__(self, peer: MemoryPeer, *, has_origin: bool) -> None:
        self.peer = peer
        self.has_origin = has_origin
        self.loop = current_loop()
        self._loan = SharedConnections()
        self.takeover = MemoryTakeover(self.loop, peer, self._loan.begin)
        self.request: HttpRequest | None = None
        self.response: HttpResponseBase | None = None
        # The data that the client sent; it also records which groups are recovered.
        self.brought: Brought | None = None
        self._task: Task | None = None
        # Arguments of start_response(), for a server.
        self._started: list[tuple[str, list[tuple[str, str]]]] = []
        self._body: Iterable[bytes] = ()

    def lend_connections(self) -> None:
        """Let the current greenlet use the connections of the test."""
        self._loan.begin()

    def begin(self, application: Any, environ: dict[str, Any]) -> None:
        """Schedule the answer to the handshake for the loop's next run."""
        start: Any = lambda *args: self._started.append(args)  # noqa: E731

        # Language and time zone of the test, as for a request of Django's client.
        self.around = context.named()

        def answer() -> None:
            self.lend_connections()
            self._body = answer_upgrade(application, environ, start)

        self._task = self.loop.start(answer)

    def end(self) -> None:
        """End all code that still runs for this handshake and its socket."""
        if self._task is not None:
            self.loop.end(self._task)
        if self.peer.transport is not None:
            self.peer.transport.abort()
            self.peer.transport.end_tasks()
        try:
            self.loop.run()
        finally:
            self._loan.end()

    def outcome(self, environ: dict[str, Any]) -> Any:
        """Return the response: the 101 as the client read it, or the refusal."""
        response: Any
        if self.takeover.is_taken:
            response = self._switching_protocols()
        elif self.response is not None and self._is_sent(self.response):
            response = self.response
            conditional_content_removal(self.request, response)  # type: ignore[arg-type]
            if not response.streaming:
                # Sends request_finished, even if the body is wrapped.
                close = getattr(self._body, "close", None)
                if close is not None:
                    close()
                if not response.closed:
                    response.close()
        else:
            # Refused before Django got the request.
            status, headers = self._started[0]
            response = HttpResponse(b"".join(self._body), headers=dict(headers))
            response.status_code, response.reason_phrase = int(status[:3]), status[4:]
        response.wsgi_request = self.request or WSGIRequest(environ)
        return response

    def _is_sent(self, response: HttpResponseBase) -> bool:
        """Return whether Django's response is the one that a server would send."""
        return self._started[0][0].startswith(str(response.status_code))

    def _switching_protocols(self) -> HttpResponse:
        response = HttpResponse(status=101)
        del response.headers["Content-Type"]
        for name, value in self.peer.response_headers().raw_items():
            if name.lower() == "set-cookie":
                response.cookies.load(value)
            else:
                response.headers[name] = value
        return response


class _Handler(WebSocketHandler):
    """Keeps request and response for the test; a server sees only their bytes."""

    def new_context(self, environ: dict[str, Any]) -> Context:
        """Return a context with the language and time zone of the test."""
        exchange: Exchange = environ[EXCHANGE_KEY]
        context: Context = exchange.around.context(getcurrent())
        return context

    def get_response(self, request: HttpRequest) -> HttpResponseBase:
        exchange: Exchange | None = request.META.pop(EXCHANGE_KEY, None)
        if exchange is None:
            return super().get_response(request)  # after handover()
        exchange.request = request
        exchange.brought = request.META.get(BROUGHT_KEY)
        exchange.response = super().get_response(request)
        return exchange.response


class WebSocketClientHandler(ClientHandler):
    """Django's handler of test requests, which also handles handshakes."""

    #: Handles handshakes; exists once there was one.
    sockets: WebSocketHandler | None = None

    def __call__(self, environ: dict[str, Any]) -> Any:
        """Answer one request."""
        exchange: Exchange | None = environ.get(EXCHANGE_KEY)
        return super().__call__(environ) if exchange is None else self._open(exchange, environ)

    def _open(self, exchange: Exchange, environ: dict[str, Any]) -> Any:
        # Created as late as in ClientHandler, since settings may be overridden until now.
        if self.sockets is None:
            conf.require_valid()
            actions.install()
            overview.install()
            self.sockets = _Handler()
        handler = self.sockets
        if exchange.has_origin and "HTTP_ORIGIN" not in environ:
            environ["HTTP_ORIGIN"] = own_origin(environ)
        environ[TAKEOVER_KEY] = exchange.takeover
        forget_lines()
        exchange.begin(handler, environ)
        with connections_kept():
            exchange.loop.run()
            return exchange.outcome(environ)


def own_origin(environ: dict[str, Any]) -> str:
    """Return the origin of the site's own pages."""
    # A copy, since a request decodes the path in place.
    request = WSGIRequest(dict(environ))
    try:
        return f"{request.scheme}://{request.get_host()}"
    except DisallowedHost:
        return f"{request.scheme}://{environ['SERVER_NAME']}"  # the host will be refused

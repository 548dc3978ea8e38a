"""Makes the request of a socket again that comes from another process.

Its headers and its path have moved, what middleware put on the request has not. So the project's
middleware runs once more over a request with these headers, around a view that only takes what is
there: the request, the context variables that are set, and the context managers of
``WEBSOCKET_CONTEXT``. It costs as much as a handshake, so it happens only for views that use the
request, when they first do; and before the first message where a view depends on such variables.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from django.core.handlers.wsgi import get_script_name
from django.urls import set_script_prefix

from ..connection.websocket import WebSocket
from ..exceptions import ConnectionClosed
from ..groups.identity import Identity, identify
from ..logs import get_logger, suffix
from ..protocol.environ import WIRE_PATH_KEY
from ..responses import SwitchingProtocols, refusal_reason
from . import context, databases, sessions
from .context import RequestContext
from .handler import WebSocketHandler, installed
from .identities import unpack_identity
from .refusing import close_code, retry_after
from .request import NO_BODY, WebSocketRequest, environ_again, trim
from .socket import DjangoHooks

__all__ = ["Made", "Making", "Origin", "Refused", "outcome", "remake"]

logger = get_logger("django_wsmux.connection")

Made = tuple[WebSocketRequest, RequestContext]
Result = TypeVar("Result")

#: The shortest and the longest time in seconds until the middleware is asked again.
_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0


class Refused(Exception):
    """The project's middleware refuses the request.

    Attributes:
        code: the close code that corresponds to the response.
        reason: the status of the response.
        retry_after: after how many seconds to try again; ``None`` if that is of no use.
    """

    def __init__(self, response: Any) -> None:
        self.code = close_code(response)
        self.reason = refusal_reason(response)
        self.retry_after = retry_after(response, response.status_code in (429, 503))
        super().__init__(self.reason)


class _Taker:
    """Takes what is there when the middleware calls the view.

    Args:
        identity: the user of a ticket or token, who takes precedence over cookies.
    """

    def __init__(self, identity: Identity | None) -> None:
        self._identity = identity
        self.made: Made | None = None

    def take(self, request: WebSocketRequest) -> SwitchingProtocols:
        """Answer as an event view that accepts; called by the handler instead of the view."""
        if self._identity is not None:
            identify(request, self._identity)
        response = SwitchingProtocols()
        self.made = request, context.managed(request, response.request_context)
        return response


def remake(
    handler: WebSocketHandler,
    environ: dict[str, Any],
    websocket: WebSocket,
    *,
    urlconf: Any = None,
    identity: Identity | None = None,
) -> Made:
    """Run the middleware over the request of a socket; return the request, and what is active then.

    Run it in a context and in a greenlet of its own: middleware leaves values in both.

    Args:
        handler: has the middleware.
        environ: the environ of an open socket, as Django has left it; it is not changed.
        websocket: the socket.
        urlconf: what ``request.websocket_urlconf`` was set to, unless middleware sets it again.
        identity: the user of a ticket or token.

    Raises:
        Refused: the middleware answers with a response of its own, or the URL has no view.
    """
    environ = {
        **environ_again(environ),
        "wsgi.errors": sys.stderr,
        "wsgi.input": NO_BODY,
        "wsgi.websocket": websocket,
    }
    wire_path = environ.get(WIRE_PATH_KEY)
    set_script_prefix(get_script_name(environ))
    request = handler.request_class(environ)
    if wire_path is not None:
        environ[WIRE_PATH_KEY] = wire_path
    taker = _Taker(identity)
    request.websocket, request.websocket_urlconf = websocket, urlconf
    request.is_handover, request.taker = True, taker
    response = handler.get_response(request)
    # Not close(): it would send request_finished, which closes the view's database connections.
    for close in response._resource_closers:  # type: ignore[attr-defined]
        close()
    if taker.made is None or response.status_code != 101:
        raise Refused(response)
    del taker.made[0].taker
    return taker.made


class Making(Protocol):
    """A greenlet that makes a request."""

    def get(self) -> tuple[Made | None, BaseException | None]:
        """Wait for the result or the error."""


class Origin:
    """What a socket that comes from another process needs to make its request again.

    Args:
        urlconf: see ``remake()``.
        identity: from ``pack_identity()``; ``None`` if the user is that of the cookies.

    Attributes:
        patience: for how many seconds the middleware is asked again if it answers with 429 or 503.
    """

    __slots__ = ("_making", "identity", "urlconf")

    patience = 60.0

    def __init__(self, urlconf: Any = None, identity: Any = None) -> None:
        self.urlconf = urlconf
        self.identity = identity
        self._making: Making | None = None

    def request(self, websocket: WebSocket) -> WebSocketRequest:
        """Return the request of a socket, made by the first caller; wait for it.

        Raises:
            ConnectionClosed: the middleware refuses it, and the socket is closed accordingly.
        """
        hooks = websocket.hooks
        assert isinstance(hooks, DjangoHooks)
        if hooks.request is None:
            request, _ = self.make(websocket)
            if hooks.request is None:  # still, after the wait
                hooks.request, hooks.session = request, sessions.watch(request)
                trim(request)
                self._making = None
        return hooks.request

    def restore_context(self, websocket: WebSocket) -> None:
        """Set the context of the view, as the middleware makes it.

        Raises:
            ConnectionClosed: see ``request()``.
        """
        hooks = websocket.hooks
        assert isinstance(hooks, DjangoHooks)
        _, hooks.request_context = self.make(websocket)
        if hooks.view is None or hooks.view.keep_request:
            self.request(websocket)
        else:
            self._making = None

    def make(self, websocket: WebSocket) -> Made:
        """Return what ``remake()`` returns; callers at the same time get the same result.

        Raises:
            ConnectionClosed: see ``request()``.
        """
        if self._making is None:
            self._making = self.start(partial(self._make, websocket))
        made, error = self._making.get()
        if made is None:
            assert error is not None
            raise error
        return made

    def _make(self, websocket: WebSocket) -> Made:
        identity = None if self.identity is None else unpack_identity(self.identity)
        until = time.monotonic() + self.patience
        while True:
            try:
                return self._remake(websocket, identity)
            except Refused as refused:
                pause = refused.retry_after
                if pause is None or websocket.closed or time.monotonic() >= until:
                    end = suffix("refused after a move")
                    if end is not None:
                        why = f"middleware refused it after its move ({refused.reason}){end}"
                        logger.info("%r is closed with %d: %s", websocket, refused.code, why)
                    websocket.close(refused.code, refused.reason)
                    raise ConnectionClosed(refused.code, refused.reason) from refused
            self.pause(min(max(pause, _PAUSE), _LONGEST_PAUSE))

    def _remake(self, websocket: WebSocket, identity: Identity | None) -> Made:
        databases.begin_handshake()
        options = {"urlconf": self.urlconf, "identity": identity}
        try:
            return self.run(remake, self.handler, websocket.environ, websocket, **options)
        except Refused:
            raise
        except BaseException:
            databases.abandon_handshake()
            raise
        finally:
            databases.end_handshake()
            databases.discard()

    # What the test client does in another way

    @property
    def handler(self) -> WebSocketHandler:
        """The handler that has the middleware."""
        return installed[-1]

    def run(self, function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        """Call the function in the greenlet of ``start()``, whose context is new."""
        return function(*args, **kwargs)

    def start(self, function: Callable[[], Made]) -> Making:
        """Start the function in a greenlet of its own."""
        # Imported only now: processes without greenlets need no hub.
        import gevent

        making: Making = gevent.spawn(outcome, function)
        return making

    def pause(self, seconds: float) -> None:
        """Wait, in the greenlet of ``start()``."""
        import gevent

        gevent.sleep(seconds)


def outcome(function: Callable[[], Made]) -> tuple[Made | None, BaseException | None]:
    """Return result or error of a function, so that the hub does not print the error."""
    try:
        return function(), None
    except BaseException as error:
        return None, error

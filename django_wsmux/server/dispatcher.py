"""WSGI middleware that separates WebSocket handshakes from all other requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NoReturn
from weakref import WeakSet

from ..protocol import handshake
from ..protocol.environ import wire_path
from . import forks, refusals, stock
from .takeover import TAKEOVER_KEY, Takeover, find, install_hook, why_not

__all__ = ["Dispatcher", "WSGIApplication", "answer_upgrade", "dispatchers"]

WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def _no_wsgi(*args: object) -> NoReturn:
    """Raise an error: the caller is not a WSGI server."""
    raise TypeError(
        "an ASGI server (uvicorn, daphne, hypercorn) called this WSGI application: run gunicorn "
        "-k django_wsmux.worker.WebSocketWorker instead, with the same application"
    )


class Dispatcher:
    """Calls one application for WebSocket handshakes and another for everything else.

    Args:
        application: gets every request that is not a WebSocket handshake, with its environ
            unchanged.
        websocket_application: gets every valid handshake on a server whose sockets can be taken
            over; the environ has the ``Takeover`` under ``takeover.TAKEOVER_KEY``.
    """

    def __init__(
        self, application: WSGIApplication, websocket_application: WSGIApplication
    ) -> None:
        forks.install()
        self.application: Any = application
        self.websocket_application = websocket_application
        install_hook()
        stock.install()
        dispatchers.add(self)

    def __call__(
        self,
        environ: dict[str, Any],
        start_response: Callable[..., Any] = _no_wsgi,
        asgi_send: object = None,
    ) -> Iterable[bytes]:
        if asgi_send is not None or start_response is _no_wsgi:
            _no_wsgi()
        if "HTTP_UPGRADE" not in environ or not handshake.is_websocket(environ["HTTP_UPGRADE"]):
            # Calling the method of Django's handler costs Python less than calling the handler.
            return self.application.__call__(environ, start_response)  # type: ignore[no-any-return]
        return answer_upgrade(self.websocket_application, environ, start_response)


#: Every dispatcher of this process. If there is none, a server can warn that its application does
#: not contain one.
dispatchers: Final[WeakSet[Dispatcher]] = WeakSet()


def answer_upgrade(
    application: WSGIApplication, environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    """Answer one handshake; see ``Dispatcher``."""
    takeover: Takeover | None = environ.get(TAKEOVER_KEY) or find(environ)
    refusal = None
    if takeover is None:
        refusal = handshake.Refusal("501 Not Implemented", why_not(environ))
    elif not takeover.is_switched and takeover.has_body():
        refusal = handshake.HAS_BODY
    if takeover is None or not takeover.is_switched:
        # A server that has switched protocols already has checked the handshake itself.
        refusal = handshake.check(environ) or refusal
    if refusal is not None:
        path = wire_path(environ)
        refusals.note("refused_handshake", refusal.status, path, refusal.reason)
        return refusals.answer(refusal, environ, start_response)
    environ[TAKEOVER_KEY] = takeover
    return application(environ, start_response)

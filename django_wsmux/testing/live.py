"""Django's live server with sockets, for browsers and other clients."""

from __future__ import annotations

import threading
import time
import unittest
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from django import test
from django.utils.functional import classproperty

from .. import conf
from ..connection import registry
from ..connection.websocket import WebSocket
from ..protocol.frames import CloseCode
from ..server.wsgiref import UpgradeHandlerMixin
from ..signals import websocket_opened
from ..transports.threads import ThreadWebSocket
from ..wsgi import WebSocketDispatcher
from .cases import WebSocketTestMixin

if TYPE_CHECKING:
    _Base = test.LiveServerTestCase
else:
    _Base = object

__all__ = [
    "LiveServer",
    "LiveServerMixin",
    "LiveServerTestCase",
    "close_live_sockets",
    "serve_sockets",
]

#: Seconds that views have to end after their sockets are closed.
_GRACE: Final = 1.0


@dataclass(frozen=True, slots=True)
class LiveServer:
    """The URLs of a live server.

    Attributes:
        url: ``http://localhost:1234``, for pages.
        ws_url: ``ws://localhost:1234``, for sockets.
    """

    url: str
    ws_url: str


def serve_sockets(server: Any) -> None:
    """Make a running ``ThreadedWSGIServer`` answer handshakes too.

    It does not matter which code started the server, and for which static files.
    """
    websocket_opened.connect(_opened, dispatch_uid="django_wsmux.testing.live")
    handler = server.RequestHandlerClass
    if not issubclass(handler, UpgradeHandlerMixin):
        server.set_app(WebSocketDispatcher(server.get_app()))
        server.RequestHandlerClass = type(handler.__name__, (UpgradeHandlerMixin, handler), {})


# The threads that run the views of a live server's sockets.
_threads: dict[threading.Thread, WebSocket] = {}


def _opened(websocket: WebSocket, **kwargs: Any) -> None:
    if isinstance(websocket, ThreadWebSocket):
        _threads[threading.current_thread()] = websocket


def close_live_sockets() -> None:
    """Close every socket of a live server with 1001 and wait for its thread to end.

    After that only helpers that never end can disturb the next test's database.

    Raises:
        AssertionError: a view does not end.
    """
    registry.close_all(CloseCode.GOING_AWAY, "the test is over")
    deadline = time.monotonic() + conf.options().close_timeout + _GRACE
    for thread in list(_threads):
        thread.join(max(deadline - time.monotonic(), 0))
        if not thread.is_alive():
            del _threads[thread]
    if _threads:
        running = list(_threads.values())
        raise AssertionError(f"views still run although their sockets were closed: {running}")


class LiveServerMixin(WebSocketTestMixin, _Base):
    """Mixin for a test case with a live server, such as ``StaticLiveServerTestCase``."""

    @classmethod
    def setUpClass(cls) -> None:
        """Make the server that Django has started answer handshakes too."""
        super().setUpClass()
        serve_sockets(cls.server_thread.httpd)

    @classproperty
    def live_server_ws_url(cls) -> str:
        """The base URL of sockets: ``ws://localhost:1234``."""
        return str(cls.live_server_url.replace("http", "ws", 1))

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        """Run the test; then close the sockets that it left open."""
        self.addCleanup(close_live_sockets)
        return super().run(result)


class LiveServerTestCase(LiveServerMixin, test.LiveServerTestCase):
    """``django.test.LiveServerTestCase`` with sockets, each in a thread of its own.

    Selenium, Playwright or any other client may connect to ``live_server_url``; a page finds its
    socket by ``{% websocket_url %}``. Sockets that a test leaves open are closed with 1001 after
    it.

    Example::

        from websockets.sync.client import connect

        class ChatTests(LiveServerTestCase):
            def test_echo(self):
                with connect(f"{self.live_server_ws_url}/echo/") as ws:
                    ws.send("hi")
                    self.assertEqual(ws.recv(timeout=5), "hi")
    """

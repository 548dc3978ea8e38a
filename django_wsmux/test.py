"""Tools to test sockets like pages: a client, test cases with assertions, a live server.

Example::

    from django_wsmux.test import WebSocketTestCase

    class ChatTests(WebSocketTestCase):
        def test_everybody_hears(self):
            with self.client.websocket("/chat/lobby/") as ann:
                with self.client.websocket("/chat/lobby/") as bob:
                    ann.send("hello")
                    self.assertReceives(bob, "hello")
"""

from __future__ import annotations

from .exceptions import HandshakeRefused, RequestFailed
from .testing.cases import (
    SimpleWebSocketTestCase,
    WebSocketTestCase,
    WebSocketTestMixin,
    WebSocketTransactionTestCase,
)
from .testing.client import ClientWebSocket, WebSocketClient
from .testing.live import LiveServerMixin, LiveServerTestCase

__all__ = [
    "ClientWebSocket",
    "HandshakeRefused",
    "LiveServerMixin",
    "LiveServerTestCase",
    "RequestFailed",
    "SimpleWebSocketTestCase",
    "WebSocketClient",
    "WebSocketTestCase",
    "WebSocketTestMixin",
    "WebSocketTransactionTestCase",
]

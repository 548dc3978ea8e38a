"""Fixtures for pytest, like pytest-django's ``client`` and ``live_server``.

pytest loads this module in every project that has the package installed, so it imports nothing of
Django before a fixture is used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ..test import WebSocketClient
    from .live import LiveServer

__all__ = ["websocket_client", "websocket_live_server"]

# Fixtures to tear down after ours: views use the database until their sockets close.
_DATABASES = ("transactional_db", "db")


def _require_django() -> None:
    configured = "django.conf" in sys.modules and sys.modules["django.conf"].settings.configured
    if not configured and not os.environ.get("DJANGO_SETTINGS_MODULE"):
        pytest.skip("no Django settings")


def _use_databases(request: pytest.FixtureRequest) -> None:
    for name in _DATABASES:
        if name in request.fixturenames:
            request.getfixturevalue(name)
            return


@pytest.fixture
def websocket_client(request: pytest.FixtureRequest) -> Iterator[WebSocketClient]:
    """A ``django_wsmux.test.WebSocketClient``; sockets left open are closed after the test.

    Groups are limited to the process: ``WEBSOCKET_BACKEND`` is ``memory://`` unless the test sets
    it. For database access mark the test with ``django_db``, as for ``client``.

    Example::

        def test_echo(websocket_client):
            with websocket_client.websocket("/echo/") as ws:
                ws.send("hi")
                assert ws.receive() == "hi"
    """
    _require_django()
    _use_databases(request)
    from django.test import override_settings

    from ..groups.pubsub import ALONE
    from ..test import WebSocketClient
    from .client import close_all

    with override_settings(WEBSOCKET_BACKEND=ALONE):
        yield WebSocketClient()
        close_all()


@pytest.fixture
def websocket_live_server(live_server: Any) -> Iterator[LiveServer]:
    """pytest-django's ``live_server`` with sockets; ``url`` and ``ws_url`` are its URLs.

    Sockets that a test leaves open are closed with 1001 after it.

    Example::

        from websockets.sync.client import connect

        def test_echo(websocket_live_server):
            with connect(f"{websocket_live_server.ws_url}/echo/") as ws:
                ws.send("hi")
                assert ws.recv(timeout=5) == "hi"
    """
    from django.test import override_settings

    from ..groups.pubsub import ALONE
    from .live import LiveServer, close_live_sockets, serve_sockets

    with override_settings(WEBSOCKET_BACKEND=ALONE):
        serve_sockets(live_server.thread.httpd)
        yield LiveServer(live_server.url, live_server.url.replace("http", "ws", 1))
        close_live_sockets()

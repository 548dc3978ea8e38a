"""Fixtures for pytest, in the way of pytest-django's ``client`` and ``live_server``.

pytest loads this module in every run of every project that has the package installed, so nothing
of Django is imported before a fixture is used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ..test import WebSocketClient

__all__ = ["websocket_client"]

# Fixtures that must be torn down after ours: views use the database until their sockets close.
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
    """A ``django_wsmux.test.WebSocketClient``; what it leaves open is closed after the test.

    It opens no database by itself: mark the test with ``django_db``, as for ``client``.

    Example::

        def test_echo(websocket_client):
            with websocket_client.websocket("/echo/") as ws:
                ws.send("hi")
                assert ws.receive() == "hi"
    """
    _require_django()
    _use_databases(request)
    from ..test import WebSocketClient
    from .client import close_all

    yield WebSocketClient()
    close_all()

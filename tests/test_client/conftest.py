"""Fixtures: the site under test, its clients, and an assertion that nothing is left open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.test import override_settings

from django_wsmux.connection import registry
from django_wsmux.test import WebSocketClient
from django_wsmux.testing.client import close_all

from . import site

TEMPLATES = {
    "BACKEND": "django.template.backends.django.DjangoTemplates",
    "DIRS": [Path(__file__).parent / "templates"],
}

SITE = override_settings(
    TEMPLATES=[TEMPLATES],
    WEBSOCKET_URLCONF="tests.test_client.site",
    ROOT_URLCONF="tests.test_client.pages",
    STATIC_URL="static/",
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
)


@pytest.fixture
def sockets() -> Iterator[None]:
    """Use the sockets of ``site.py``."""
    site.ends.clear()
    with SITE:
        yield
        close_all()
    assert not registry.open_sockets
    assert not registry.running_views


@pytest.fixture
def client() -> WebSocketClient:
    """A client that is not signed in; replaces pytest-django's."""
    return WebSocketClient()

"""Sockets of the test project, and sockets for tests with other software."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.urls import path, reverse

from django_wsmux.decorators import websocket as accept_websocket
from django_wsmux.server.websocket import WebSocket
from tests.project.websocket_urls import urlpatterns as project_urlpatterns

__all__ = ["urlpatterns"]


@accept_websocket
def host(request: HttpRequest, websocket: WebSocket) -> None:
    """Send the host that django-hosts has found, and the URL of a page in its URLconf."""
    found: Any = request.host  # type: ignore[attr-defined]
    name = "front" if found.name == "shop" else "login"
    websocket.send(f"{found.name} {reverse(name, urlconf=found.urlconf)}")


urlpatterns = [path("host/", host), *project_urlpatterns]

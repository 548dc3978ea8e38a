"""Sockets of the test project, and sockets for tests with other software."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.urls import path, reverse

from django_wsmux.decorators import websocket as accept_websocket
from django_wsmux.views import WebSocketView
from django_wsmux.websocket import WebSocket
from tests.compat import wrappers
from tests.project.websocket_urls import urlpatterns as project_urlpatterns

__all__ = ["urlpatterns"]


@accept_websocket
def host(request: HttpRequest, websocket: WebSocket) -> None:
    """Send the host that django-hosts has found, and the URL of a page in its URLconf."""
    found: Any = request.host  # type: ignore[attr-defined]
    name = "front" if found.name == "shop" else "login"
    websocket.send(f"{found.name} {reverse(name)}")


@accept_websocket
def tag(request: HttpRequest, websocket: WebSocket) -> None:
    """Send the tag that WSGI middleware has set."""
    websocket.receive()
    websocket.send(wrappers.tag.get())


class Tag(WebSocketView):
    """Sends the tag from an event view."""

    def receive(self, message: str | bytes) -> None:
        self.send(wrappers.tag.get())


class Reverse(WebSocketView):
    """Sends the URL of a page."""

    def receive(self, message: str | bytes) -> None:
        if message == "helper":
            self.websocket.spawn(self.tell, message)
        else:
            self.tell(message)

    def tell(self, message: str | bytes) -> None:
        """Reverse and send it."""
        self.send(f"{message!s} {reverse('only-a-page')}")


urlpatterns = [
    path("host/", host),
    path("tag/", tag),
    path("events/tag/", Tag.as_view()),
    path("events/reverse/", Reverse.as_view()),
    *project_urlpatterns,
]

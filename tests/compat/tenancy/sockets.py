"""Pages and sockets that read the rows of their tenant."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import path
from django_tenants.utils import tenant_context

from django_wsmux.decorators import websocket
from django_wsmux.views import WebSocketView
from tests.compat.tenancy.models import Note

_last_words: dict[str, str] = {}


def tenant(request: Any) -> Callable[[], Any]:
    """Return what makes the tenant of a request that of a connection: WEBSOCKET_CONTEXT."""
    return partial(tenant_context, request.tenant)


def rows() -> str:
    """Read all rows that are seen from here."""
    return " ".join(Note.objects.values_list("text", flat=True))


def page(request: HttpRequest) -> HttpResponse:
    """Show the rows."""
    return HttpResponse(rows())


def last_words(request: HttpRequest, key: str) -> HttpResponse:
    """Show what a socket has read at its end."""
    return HttpResponse(_last_words.get(key, ""))


@websocket
def function(request: HttpRequest, websocket: Any) -> None:
    for _ in websocket:
        websocket.send(rows())


class Event(WebSocketView):
    keep_request = False

    def connect(self, request: HttpRequest) -> None:
        self.key = request.GET["key"]
        self.send(rows())

    def receive(self, message: str | bytes) -> None:
        if message == "spawn":
            self.websocket.spawn(lambda: self.send(rows()))
        else:
            self.send(rows())

    def disconnect(self, code: int, reason: str) -> None:
        _last_words[self.key] = rows()


urlpatterns = [
    path("page/", page),
    path("last-words/<key>/", last_words),
    path("function/", function),
    path("event/", Event.as_view()),
]

"""Sockets of each tenant."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import login_required
from django.contrib.auth.mixins import LoginRequiredMixin
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.urls import path

from django_wsmux.decorators import websocket
from django_wsmux.groups import Group
from django_wsmux.views import WebSocketView
from django_wsmux.websocket import WebSocket

__all__ = ["LOBBY", "last_words", "rows", "urlpatterns"]

#: Created at import, it belongs to no tenant.
LOBBY = Group("lobby")

#: Rows that sockets have read in ``disconnect()``, by the key in their URL.
last_words: dict[str, str] = {}


def rows() -> str:
    """Return the content of the active tenant's rows."""
    return " ".join(User.objects.exclude(last_name="").values_list("last_name", flat=True))


class Rows(WebSocketView):
    """Reads rows in all of its methods."""

    keep_request = False

    def connect(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Read before the 101."""
        self.key = request.GET["key"]
        self.send(rows())

    def receive(self, message: str | bytes) -> None:
        """Read here, or in a helper."""
        if message == "spawn":
            self.websocket.spawn(lambda: self.send(rows()))
        else:
            self.send(rows())

    def disconnect(self, code: int, reason: str) -> None:
        """Read when the socket is closed."""
        last_words[self.key] = rows()


@websocket
def read_rows(request: HttpRequest, websocket: WebSocket) -> None:
    """Read in a function view."""
    for _ in websocket:
        websocket.send(rows())


class Lobby(LoginRequiredMixin, WebSocketView):
    """Joins the lobby, and receives the messages to its user."""

    groups = ("lobby",)

    def connect(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Send a message when it is open."""
        self.send("open")


@login_required
@websocket
def lobby(request: HttpRequest, websocket: WebSocket) -> None:
    """Do the same as a function, which runs after the middleware."""
    with LOBBY.joined(websocket):
        websocket.send("open")
        for _ in websocket:
            pass


urlpatterns = [
    path("rows/event/", Rows.as_view()),
    path("rows/function/", read_rows),
    path("lobby/event/", Lobby.as_view()),
    path("lobby/function/", lobby),
]

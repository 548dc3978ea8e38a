"""The sockets of ``wsmux_site``, for signed-in users: as function views, and as event views that
keep their request ("event") or release it ("lean")."""

from __future__ import annotations

from collections.abc import Callable

from django.contrib.auth.decorators import login_required
from django.contrib.auth.mixins import LoginRequiredMixin
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django_site import block

from django_wsmux.decorators import websocket
from django_wsmux.groups import Group
from django_wsmux.views import WebSocketView
from django_wsmux.websocket import WebSocket

__all__ = ["urlpatterns"]

room = Group("room")


@login_required
@websocket
def echo(request: HttpRequest, websocket: WebSocket) -> None:
    """Send back every message."""
    for message in websocket:
        websocket.send(message)


@login_required
@websocket
def listener(request: HttpRequest, websocket: WebSocket) -> None:
    """Receive the messages of the room."""
    room.join(websocket)
    for _ in websocket:
        pass


@login_required
@websocket
def speaker(request: HttpRequest, websocket: WebSocket) -> None:
    """Send each message to the room."""
    for message in websocket:
        room.send(message)


@login_required
@websocket
def sleeper(request: HttpRequest, websocket: WebSocket) -> None:
    """Answer after the database has answered."""
    for message in websocket:
        block()
        websocket.send(message)


class Echo(LoginRequiredMixin, WebSocketView):
    """Send back every message."""

    def receive(self, message: str | bytes) -> None:
        """Send back a message."""
        self.send(message)


class Listener(LoginRequiredMixin, WebSocketView):
    """Receive the messages of the room."""

    groups = ("room",)


class Watcher(Listener):
    """Receive the messages of the room through the view."""

    def group_receive(self, message: str | bytes) -> None:
        """Pass on a message."""
        self.send(message)


class Speaker(LoginRequiredMixin, WebSocketView):
    """Send each message to the room."""

    def receive(self, message: str | bytes) -> None:
        """Send a message to all members."""
        room.send(message)


class Sleeper(LoginRequiredMixin, WebSocketView):
    """Answer after the database has answered."""

    def receive(self, message: str | bytes) -> None:
        """Wait for the database."""
        block()
        self.send(message)


def paths(kind: str, *views: Callable[..., HttpResponse]) -> list[URLPattern]:
    """Return the four URLs of one kind of view."""
    names = ("echo", "room", "speaker", "sleep")
    return [path(f"{kind}/{name}/", view) for name, view in zip(names, views, strict=True)]


events = (Echo, Listener, Speaker, Sleeper)
urlpatterns = [
    *paths("function", echo, listener, speaker, sleeper),
    *paths("event", *(view.as_view() for view in events)),
    path("watched/room/", Watcher.as_view()),
    path("watched/speaker/", Speaker.as_view()),
    *paths("lean", *(view.as_view(keep_request=False) for view in events)),
]

"""The sockets of ``wsmux_site``, for signed-in users: as function views, and as event views that
keep their request ("event") or let go of it ("lean")."""

from __future__ import annotations

from collections.abc import Callable

from django.contrib.auth.decorators import login_required
from django.contrib.auth.mixins import LoginRequiredMixin
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django_site import block

from django_wsmux.decorators import websocket
from django_wsmux.groups import Group
from django_wsmux.server.websocket import WebSocket
from django_wsmux.views import WebSocketView

__all__ = ["urlpatterns"]

room = Group("room")


@login_required
@websocket
def echo(request: HttpRequest, websocket: WebSocket) -> None:
    """Send back whatever comes."""
    for message in websocket:
        websocket.send(message)


@login_required
@websocket
def listener(request: HttpRequest, websocket: WebSocket) -> None:
    """Hear what is said."""
    room.join(websocket)
    for _ in websocket:
        pass


@login_required
@websocket
def speaker(request: HttpRequest, websocket: WebSocket) -> None:
    """Say it to the room."""
    for message in websocket:
        room.send(message)


@login_required
@websocket
def sleeper(request: HttpRequest, websocket: WebSocket) -> None:
    """Answer when the database has."""
    for message in websocket:
        block()
        websocket.send(message)


class Echo(LoginRequiredMixin, WebSocketView):
    """Send back whatever comes."""

    def receive(self, message: str | bytes) -> None:
        """Send it back."""
        self.send(message)


class Listener(LoginRequiredMixin, WebSocketView):
    """Hear what is said."""

    groups = ("room",)


class Visitor(WebSocketView):
    """Hear it without being signed in; see ``deploy.py``."""

    groups = ("room",)


class Watcher(Listener):
    """Hear it by way of the view."""

    def group_receive(self, message: str | bytes) -> None:
        """Let it pass."""
        self.send(message)


class Speaker(LoginRequiredMixin, WebSocketView):
    """Say it to the room."""

    def receive(self, message: str | bytes) -> None:
        """Tell everybody."""
        room.send(message)


class Sleeper(LoginRequiredMixin, WebSocketView):
    """Answer when the database has."""

    def receive(self, message: str | bytes) -> None:
        """Wait for it."""
        block()
        self.send(message)


def paths(kind: str, *views: Callable[..., HttpResponse]) -> list[URLPattern]:
    """Return the four places of one kind of view."""
    names = ("echo", "room", "speaker", "sleep")
    return [path(f"{kind}/{name}/", view) for name, view in zip(names, views, strict=True)]


events = (Echo, Listener, Speaker, Sleeper)
urlpatterns = [
    *paths("function", echo, listener, speaker, sleeper),
    *paths("event", *(view.as_view() for view in events)),
    path("room/", Visitor.as_view()),
    path("watched/room/", Watcher.as_view()),
    path("watched/speaker/", Speaker.as_view()),
    *paths("lean", *(view.as_view(keep_request=False) for view in events)),
]

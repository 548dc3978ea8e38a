"""The sockets of ``idle_site``, for signed-in users."""

from django.contrib.auth.decorators import login_required
from django.contrib.auth.mixins import LoginRequiredMixin
from django.http import HttpRequest
from django.urls import path

from django_wsmux.decorators import websocket
from django_wsmux.groups import Group
from django_wsmux.server.websocket import WebSocket
from django_wsmux.views import WebSocketView


@login_required
@websocket
def function(request: HttpRequest, websocket: WebSocket) -> None:
    """Echo in a greenlet that stays."""
    for message in websocket:
        websocket.send(message)


class Event(LoginRequiredMixin, WebSocketView):
    """Echo in a greenlet that is borrowed."""

    def receive(self, message: str | bytes) -> None:
        """Send it back."""
        self.send(message)


class Lean(Event):
    """The same without the request."""

    keep_request = False


class Room(WebSocketView):
    """Hear what is said."""

    groups = ("room",)


class Speaker(WebSocketView):
    """Say it to the room."""

    room = "room"

    def receive(self, message: str | bytes) -> None:
        """Tell everybody."""
        Group(self.room).send(message)


class WatchedRoom(WebSocketView):
    """Hear what is said, by way of the view."""

    groups = ("watched-room",)

    def group_receive(self, message: str | bytes) -> None:
        """Let it pass."""
        self.send(message)


urlpatterns = [
    path("room/", Room.as_view()),
    path("speaker/", Speaker.as_view()),
    path("watched-room/", WatchedRoom.as_view()),
    path("watched-speaker/", Speaker.as_view(room="watched-room")),
    path("function/", function),
    path("event/", Event.as_view()),
    path("lean/", Lean.as_view()),
]

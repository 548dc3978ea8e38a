"""The sockets of ``instructions_site``: those of the comparison, and a group with a history."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest
from django.urls import path
from wsmux_sockets import Listener
from wsmux_sockets import urlpatterns as compared

from django_wsmux.decorators import websocket
from django_wsmux.groups import Group
from django_wsmux.websocket import WebSocket

__all__ = ["urlpatterns"]

kept = Group("kept")


class KeptListener(Listener):
    """Receive the messages of the group with a history."""

    groups = ("kept",)


@login_required
@websocket
def speaker(request: HttpRequest, websocket: WebSocket) -> None:
    """Send each message to the group with a history."""
    for message in websocket:
        kept.send(message)


urlpatterns = [
    *compared,
    path("kept/room/", KeptListener.as_view()),
    path("kept/speaker/", speaker),
]

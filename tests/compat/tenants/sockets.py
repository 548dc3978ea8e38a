"""Sockets of each tenant."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import login_required
from django.contrib.auth.mixins import LoginRequiredMixin
from django.http import HttpRequest
from django.urls import path
from django_tenants.utils import tenant_context

from django_wsmux.decorators import websocket
from django_wsmux.groups import Group
from django_wsmux.server.websocket import WebSocket
from django_wsmux.views import WebSocketView

__all__ = ["LOBBY", "urlpatterns"]

#: Made at import, it belongs to no tenant.
LOBBY = Group("lobby")


class Lobby(LoginRequiredMixin, WebSocketView):
    """Is in the lobby, and hears what its user is told."""

    groups = ("lobby",)

    def connect(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Say when it is open."""
        self.send("open")


@login_required
@websocket
def lobby(request: HttpRequest, websocket: WebSocket) -> None:
    """The same as a function, which runs when the middleware is through."""
    with tenant_context(request.tenant), LOBBY.joined(websocket):  # type: ignore[attr-defined]
        websocket.send("open")
        for _ in websocket:
            pass


urlpatterns = [path("lobby/event/", Lobby.as_view()), path("lobby/function/", lobby)]

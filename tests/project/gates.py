"""Sockets whose handshake waits, after the user is known, until a test lets it go."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_required
from django.contrib.auth.mixins import LoginRequiredMixin
from django.http import HttpRequest, HttpResponse
from django.urls import path

from django_wsmux.auth import authentication, bearer, first_message
from django_wsmux.decorators import websocket
from django_wsmux.responses import WebSocketResponse
from django_wsmux.views import WebSocketView
from django_wsmux.websocket import WebSocket


def wait(gate: str, name: str) -> None:
    """Announce the wait in a directory that all processes share; wait for a file "go" in it."""
    (Path(gate) / name).touch()
    while not (Path(gate) / "go").exists():
        time.sleep(0.01)


def look_up(name: str, gate: str, kind: str) -> Any:
    """Load a user, then wait."""
    user = get_user_model().objects.get(username=name)
    wait(gate, kind)
    return user


def echo(request: HttpRequest, websocket: WebSocket) -> None:
    """Answer as the user of the handshake."""
    for _ in websocket:
        websocket.send(request.user.get_username())


@login_required
def function(request: HttpRequest) -> HttpResponse:
    assert request.user.is_authenticated
    wait(request.GET["gate"], "function")
    return WebSocketResponse(lambda websocket: echo(request, websocket))


@login_required
def undecorated(request: Any) -> HttpResponse:
    assert request.user.is_authenticated
    wait(request.GET["gate"], "undecorated")
    echo(request, request.websocket)
    return HttpResponse()


class Event(LoginRequiredMixin, WebSocketView):
    def connect(self, request: HttpRequest) -> HttpResponse | None:
        assert request.user.is_authenticated
        self.send("private")
        refuses = "refuse" in request.GET
        wait(request.GET["gate"], "refused" if refuses else "event")
        return HttpResponse("no", status=409) if refuses else None

    def receive(self, message: str | bytes) -> None:
        self.send(self.request.user.get_username())


def _of_token(token: str) -> Any:
    name, gate = token.split(":")
    return look_up(name, gate, "bearer")


def _of_message(message: str | bytes) -> Any:
    name, gate = json.loads(message)
    return look_up(name, gate, "first")


urlpatterns = [
    path("function/", function),
    path("undecorated/", undecorated),
    path("event/", Event.as_view()),
    path("bearer/", authentication(bearer(_of_token))(websocket(echo))),
    path("first/", authentication(first_message(_of_message))(websocket(echo))),
]

"""The sockets that the examples of ``docs/testing.rst`` test."""

from __future__ import annotations

from functools import partial
from typing import Any

from django import forms
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.db import transaction
from django.http import HttpRequest
from django.urls import path

from django_wsmux.decorators import websocket
from django_wsmux.groups import Group
from django_wsmux.views import FormWebSocketView, WebSocketView
from django_wsmux.websocket import WebSocket
from tests.site import sockets as site


@websocket
def chat(request: HttpRequest, websocket: WebSocket) -> None:
    with Group("lobby").joined(websocket):
        for message in websocket:
            Group("lobby").send(message)


@websocket
def names(request: HttpRequest, websocket: WebSocket) -> None:
    for name in websocket:
        User.objects.create(username=str(name))
        transaction.on_commit(partial(websocket.send, "stored"))


class LineForm(forms.Form):
    text = forms.CharField()


class Lines(FormWebSocketView):
    forms = {"say": LineForm}  # noqa: RUF012
    groups = ("lines",)

    def say_valid(self, form: Any) -> object:
        Group("lines").send_json({"type": "said", "text": form.cleaned_data["text"]})
        return {"line": 1}


class Counting(WebSocketView):
    def connect(self, request: HttpRequest) -> None:
        self.count = 0

    def receive_text(self, text: str) -> None:
        self.count += 1
        self.send(str(self.count))


class Room(WebSocketView):
    def connect(self, request: HttpRequest, name: str) -> None:
        Group(f"room.{name}").join(self.websocket)


class Here(WebSocketView):
    def connect(self, request: HttpRequest, name: str) -> None:
        Group("here").presence(self.websocket, name)


urlpatterns = [
    path("here/<name>/", Here.as_view()),
    path("chat/lobby/", chat),
    path("lines/", Lines.as_view()),
    path("chat/staff/", login_required(chat)),
    path("counting/", Counting.as_view()),
    path("room/<name>/", Room.as_view()),
    path("echo/", site.function),
    path("private/", site.private),
    path("names/", names),
]

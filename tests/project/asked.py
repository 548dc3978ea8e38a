"""Sockets for the tests of the JavaScript client."""

from __future__ import annotations

import json
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.urls import path

from django_wsmux.auth import authentication, bearer
from django_wsmux.decorators import websocket
from django_wsmux.groups import Group
from django_wsmux.views import WebSocketView
from django_wsmux.websocket import WebSocket

#: How often each request had an effect, by its number.
effects: dict[int, int] = {}


class Answering(WebSocketView):
    """Answers requests."""

    def receive(self, message: str | bytes) -> None:
        value = json.loads(message)
        asked = {"type": value["type"], "ref": value.get("ref")}
        if value["type"] == "count":
            effects[value["number"]] = effects.get(value["number"], 0) + 1
            self.answer(asked, reply=effects[value["number"]])
        elif value["type"] == "wrong":
            self.answer(asked, errors={"text": [{"message": "Too long.", "code": "max_length"}]})
        elif value["type"] == "tell":
            self.send_json(value["told"])
            self.answer(asked, reply=None)
        elif value["type"] == "close":
            self.close(value["code"], "as asked")

    def answer(self, asked: dict[str, Any], **answer: Any) -> None:
        self.websocket.send_bare(json.dumps({**asked, **answer}))


class Joining(WebSocketView):
    """Joins the groups of the query, in this order."""

    def connect(self, request: HttpRequest) -> None:
        for name in request.GET.getlist("group"):
            Group(name).join(self.websocket)

    def receive(self, message: str | bytes) -> None:
        Group(str(message)).send_json({"type": "said", "to": str(message)})


@websocket
def joining_later(request: HttpRequest, websocket: WebSocket) -> None:
    """Join groups as messages say."""
    for message in websocket:
        Group(str(message)).join(websocket)


def user_of(token: str) -> Any:
    """Accept each token that begins so."""
    if not token.startswith("good"):
        return None
    return get_user_model()(pk=7, username=token)


@authentication(bearer(user_of))
@login_required
@websocket
def whoami(request: HttpRequest, websocket: WebSocket) -> None:
    """Send the user's name."""
    websocket.send(request.user.get_username())
    for _ in websocket:
        websocket.close(4401, "as asked")


def limited(request: HttpRequest) -> HttpResponse:
    """Refuse for seven seconds."""
    return HttpResponse(status=503, headers={"Retry-After": "7"})


class Strange(WebSocketView):
    """Sends frames that break the rules of wsmux.v1."""

    def receive(self, message: str | bytes) -> None:
        self.send("before")
        for text in ("{", '{"joined": {"a": null}}', '{"gap": 1, "left": 1}', "[]", "1", '"text"'):
            self.websocket.send_bare(text)
        self.send("after")


websocket_urlpatterns = [
    path("asked/limited/", limited),
    path("asked/strange/", Strange.as_view()),
    path("asked/answering/", Answering.as_view()),
    path("asked/joining/", Joining.as_view()),
    path("asked/joining-later/", joining_later),
    path("asked/whoami/", whoami),
]

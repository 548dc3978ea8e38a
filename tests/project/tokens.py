"""Sockets that take tickets and tokens, and the pages that issue them.

A URLconf for pages and sockets of its own, so that other servers need not load its packages.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_required
from django.contrib.auth.mixins import LoginRequiredMixin
from django.http import HttpRequest, HttpResponse
from django.template import engines
from django.urls import path
from rest_framework.authentication import TokenAuthentication
from rest_framework.authtoken.models import Token

from django_wsmux.auth import authentication, bearer, first_message, issue_ticket, ticket
from django_wsmux.decorators import websocket
from django_wsmux.views import WebSocketView
from django_wsmux.websocket import WebSocket

from . import urls

# Authenticators


def user_of(token: str) -> Any:
    if token.startswith("crash"):
        raise RuntimeError("no way to look it up")
    return Token.objects.get(key=token).user


def user_of_message(message: str | bytes) -> Any:
    return user_of(json.loads(message)["token"])


# Sockets


def about(request: Any) -> dict[str, Any]:
    """Return what a view sees of the user, and everything that could reveal a secret."""
    seen = {**request.META, **request.headers}
    return {
        "pid": os.getpid(),
        "user": request.user.get_username(),
        "seen": {name: value for name, value in seen.items() if isinstance(value, str)},
    }


def answer(request: HttpRequest, websocket: WebSocket, message: str | bytes) -> None:
    """Send the user."""
    if message == "refresh":
        websocket.refresh_user()
    websocket.send(f"{request.user.get_username()} {websocket.subprotocol}")


@authentication(ticket, bearer(user_of))
@login_required
@websocket(subprotocols=["chat.v1"])
def function(request: HttpRequest, websocket: WebSocket) -> None:
    websocket.send_json(about(request))
    for message in websocket:
        answer(request, websocket, message)


class Event(LoginRequiredMixin, WebSocketView):
    authenticators: Sequence[Any] = (ticket, bearer(user_of))
    subprotocols = ("chat.v1",)

    def connect(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        self.send_json(about(request))

    def receive(self, message: str | bytes) -> None:
        answer(self.request, self.websocket, message)


@authentication(bearer(user_of), first_message(user_of_message))
@login_required
@websocket(subprotocols=["chat.v1"])
def first_function(request: HttpRequest, websocket: WebSocket) -> None:
    websocket.send_json(about(request))
    for message in websocket:
        websocket.send(message)


class FirstEvent(Event):
    authenticators = (bearer(user_of), first_message(user_of_message))
    groups = ("first",)

    def receive(self, message: str | bytes) -> None:
        self.send(message)


class LeanFirstEvent(FirstEvent):
    keep_request = False


@authentication(TokenAuthentication)
@login_required
@websocket
def rest(request: HttpRequest, websocket: WebSocket) -> None:
    websocket.send_json(about(request))


def crash(request: HttpRequest) -> HttpResponse:
    """Take no tokens, and show Django's error page with the request."""
    raise ValueError("it broke")


urlpatterns = [
    path("function/", function, name="function"),
    path("event/", Event.as_view(), name="event"),
    path("first/function/", first_function),
    path("first/event/", FirstEvent.as_view()),
    path("first/lean/", LeanFirstEvent.as_view()),
    path("rest/", rest),
    path("crash/", crash),
]

# Pages


def give_ticket(request: HttpRequest) -> HttpResponse:
    """Issue a ticket for the user of the session or of a token."""
    if "HTTP_AUTHORIZATION" in request.META:
        found = TokenAuthentication().authenticate(request)
        request.user = found[0]
    return HttpResponse(issue_ticket(request, request.GET["path"]))


def give_token(request: HttpRequest) -> HttpResponse:
    """Store a token for a user; create both."""
    user, _ = get_user_model().objects.get_or_create(username=request.GET["user"])
    Token.objects.get_or_create(user=user, defaults={"key": request.GET["token"]})
    return HttpResponse("stored")


PAGE = """{% load websockets %}<p id="state">waiting</p><p id="said"></p><script>
"use strict";
const url = "{% websocket_url 'function' %}".replace("localhost", "127.0.0.1");
const ticket = "{% websocket_ticket 'function' %}";
const lists = {
    ticket: ["bearer", ticket],
    both: ["chat.v1", "bearer", ticket],
    unknown: ["somebody.elses"],
};
const socket = new WebSocket(url, lists[location.search.slice(1)]);
const state = document.getElementById("state");
socket.onmessage = (event) => {
    const said = document.getElementById("said");
    said.textContent = `${JSON.parse(event.data).user} ${socket.protocol}`;
    state.textContent = "connected";
};
socket.onerror = () => { state.textContent = "not connected"; };
</script>"""


def page(request: HttpRequest) -> HttpResponse:
    """Connect with a ticket, from a page whose cookies are not sent to the socket."""
    return HttpResponse(engines["django"].from_string(PAGE).render({}, request))


urlpatterns += [
    path("ticket/", give_ticket),
    path("token/", give_token),
    path("browser/", page),
    *urls.urlpatterns,
]

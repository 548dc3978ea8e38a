"""The sockets under test; this module is their URLconf."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from django.contrib.auth.decorators import login_not_required, login_required
from django.contrib.auth.models import AnonymousUser, User
from django.http import HttpRequest
from django.test import RequestFactory
from django.urls import path

from django_wsmux.auth import ticket
from django_wsmux.auth.authenticators import (
    AuthenticationFailed,
    authentication,
    bearer,
    first_message,
)
from django_wsmux.decorators import websocket
from django_wsmux.exceptions import HandshakeRefused
from django_wsmux.test import WebSocketClient
from django_wsmux.views import WebSocketView
from django_wsmux.websocket import WebSocket


def by_name(token: str) -> Any:
    """Treat a user's name as the token; raise for some."""
    match token:
        case "nobody":
            return None
        case "key":
            return {"another": None}[token]
        case "value":
            return int(token)
        case "type":
            return token + 1  # type: ignore[operator]
        case "attribute":
            return token.nothing  # type: ignore[attr-defined]
        case "broken":
            raise RuntimeError("cannot look it up")
    return User.objects.get(username=token)


def by_json(message: str) -> Any:
    """As in the manual."""
    return by_name(json.loads(message)["token"])


@websocket
def echo(request: HttpRequest, websocket: WebSocket) -> None:
    websocket.send(f"user {request.user.get_username()}")
    for message in websocket:
        if message == "refresh":
            websocket.refresh_user()
            message = f"{request.user.is_authenticated} {request.user.get_username()}"
        websocket.send(message)


class Echo(WebSocketView):
    authenticators: Sequence[Any] = (ticket, bearer(by_name), first_message(by_name))
    subprotocols = ("chat.v1",)
    groups = ("room",)

    def connect(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        if request.user.get_username() == "eve":
            raise AuthenticationFailed("not eve")
        self.send(f"user {request.user.get_username()}")

    def receive(self, message: str | bytes) -> None:
        self.send(message)


class Visitors(Echo):
    """A subclass without authenticators of its own."""

    authenticators = ()


class Watching(Echo):
    """A view with ``group_receive()``."""

    def group_receive(self, message: str | bytes) -> None:
        self.send(f"seen {message!r}")


class Unlike:
    """An authenticator of Django REST framework with a cookie instead of a header."""

    def authenticate_header(self, request: Any) -> None:
        return None

    def authenticate(self, request: Any) -> Any:
        from rest_framework.exceptions import AuthenticationFailed

        if "cid" in request.query_params:
            return User.objects.get(username="cid"), "by query"
        if "wrong" in request.query_params:
            raise AuthenticationFailed("wrong")
        return None


class Claims:
    """An authenticator of Django REST framework that has parsed a JSON Web Token."""

    def authenticate_header(self, request: Any) -> str:
        return "Bearer"

    def authenticate(self, request: Any) -> Any:
        _, token = request.META["HTTP_AUTHORIZATION"].split(" ")
        return User.objects.get(username=token), {"exp": 4e9}


urlpatterns = [
    path("ticket/", authentication(ticket)(echo), name="ticket"),
    path("ticket/ü/", authentication(ticket)(echo), name="umlaut"),
    path("bearer/", authentication(bearer(by_name))(echo)),
    path("first/", Echo.as_view()),
    path("first/watching/", Watching.as_view()),
    path("first/json/", authentication(first_message(by_json))(echo)),
    path("first/echo/", authentication(first_message(by_name))(echo)),
    path("visitors/", Visitors.as_view()),
    path("wrapped/", authentication(bearer(by_name))(Visitors.as_view(groups=()))),
    path("by-claims/", authentication(Claims)(echo)),
    path("unlike/", authentication(Unlike)(echo)),
    path("certain/", authentication(Unlike(), lambda request: User(pk=7, username="dan"))(echo)),
    path("plain/", echo),
    path("strict/", login_not_required(authentication(bearer(by_name))(login_required(echo)))),
]


def request_of(client: WebSocketClient, user: Any = None) -> Any:
    """Return a request of a page, with the client's session or another user."""
    request: Any = RequestFactory().get("/")
    request.user = user or AnonymousUser()
    if client.cookies:
        request.session, request.user = client.session, user
    return request


def status_of(client: WebSocketClient, path: str, token: str, **options: Any) -> int:
    """Return the status of the refusal of a token."""
    with pytest.raises(HandshakeRefused) as refused:
        client.websocket(path, ["bearer", token], **options)
    return int(refused.value.response.status_code)

"""Sockets for the tests of the JavaScript client."""

from __future__ import annotations

import hmac
import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.utils.crypto import constant_time_compare

from django_wsmux.auth import authentication, bearer
from django_wsmux.decorators import websocket
from django_wsmux.groups import Group
from django_wsmux.views import FormWebSocketView, WebSocketView
from django_wsmux.websocket import WebSocket

from .kept import Member

#: How often each request had an effect, by its number.
effects: dict[int, int] = {}


@dataclass
class Count:
    """Note an effect."""

    number: int


@dataclass
class Double:
    """Double a number."""

    n: int
    text: str = ""


@dataclass
class Wrong:
    """Is never right."""


@dataclass
class Tell:
    """Send a message before the reply."""

    told: dict[str, Any]


class Answering(FormWebSocketView):
    """Answers requests."""

    forms: ClassVar[dict[str, type[Any]]] = {
        "count": Count,
        "double": Double,
        "wrong": Wrong,
        "rare": Wrong,
        "tell": Tell,
    }
    limits: ClassVar[dict[str, str]] = {"rare": "1/h"}

    def count_valid(self, message: Count) -> int:
        effects[message.number] = effects.get(message.number, 0) + 1
        return effects[message.number]

    def double_valid(self, message: Double) -> int:
        return 2 * message.n

    def wrong_valid(self, message: Wrong) -> None:
        raise ValidationError({"text": ValidationError("Too long.", code="max_length")})

    def rare_valid(self, message: Wrong) -> str:
        return "handled"

    def tell_valid(self, message: Tell) -> None:
        self.send_json(message.told)


class Once(Answering):
    """Does once what is asked several times."""

    once = True


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


@websocket
def ending(request: HttpRequest, websocket: WebSocket) -> None:
    """Close upon the first message."""
    websocket.receive()
    websocket.close(4000, "as asked")


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


#: Seconds for which a token opens sockets after its end, for clocks that differ.
LEEWAY = 60


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _signature(signed: str) -> str:
    return _base64url(hmac.digest(settings.SECRET_KEY.encode(), signed.encode(), "sha256"))


def token(request: HttpRequest) -> HttpResponse:
    """Return a JSON Web Token that ends after some seconds."""
    claims = {"sub": "ann", "exp": time.time() + float(request.GET["seconds"])}
    parts = [json.dumps(each).encode() for each in ({"alg": "HS256", "typ": "JWT"}, claims)]
    signed = ".".join(map(_base64url, parts))
    return HttpResponse(f"{signed}.{_signature(signed)}")


def user_of_token(token: str) -> Any:
    """Accept what ``token()`` has signed."""
    signed, _, signature = token.rpartition(".")
    if not constant_time_compare(signature, _signature(signed)):
        return None
    encoded = signed.partition(".")[2]
    claims = json.loads(urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    if claims["exp"] < time.time() - LEEWAY:
        return None
    return get_user_model()(pk=7, username=claims["sub"])


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


class Bare(WebSocketView):
    """Sends each message back as a frame of wsmux.v1."""

    def receive(self, message: str | bytes) -> None:
        self.websocket.send_bare(str(message))


class Present(WebSocketView):
    """Is present in a group."""

    def connect(self, request: HttpRequest, group: str, name: str) -> None:
        Group(group).presence(self.websocket, key=name, info={"name": name})


def done(request: HttpRequest) -> JsonResponse:
    """Return and forget how often each request had an effect."""
    found = sorted(effects.items())
    effects.clear()
    return JsonResponse(found, safe=False)


urlpatterns = [path("asked/effects/", done), path("asked/token/", token)]

websocket_urlpatterns = [
    path("asked/ending/", ending),
    path("asked/limited/", limited),
    path("asked/strange/", Strange.as_view()),
    path("asked/bare/", Bare.as_view()),
    path("asked/present/<group>/<name>/", Present.as_view()),
    path("asked/answering/", Answering.as_view()),
    path("asked/once/", Once.as_view()),
    path("asked/joining/", Joining.as_view()),
    path("asked/joining-later/", joining_later),
    path("asked/whoami/", whoami),
    path(
        "asked/expiring/<name>/",
        authentication(bearer(user_of_token))(login_required(Member.as_view())),
    ),
]

"""Pages and sockets of groups with a history, for ``tests/functional/model.py``."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template import engines
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from django_wsmux.decorators import resumable
from django_wsmux.exceptions import BackendUnavailable
from django_wsmux.groups import Group
from django_wsmux.groups.pubsub import pubsub
from django_wsmux.views import WebSocketView


class Member(WebSocketView):
    """A member of a group, whose client learns of gaps also without ``wsmux.v1``."""

    keep_request = False

    def connect(self, request: HttpRequest, name: str) -> None:
        Group(name).join(self.websocket)

    def missed(self, group: Group) -> None:
        self.send("missed")


class Quiet(Member):
    """The same without messages of its own."""

    def missed(self, group: Group) -> None:
        pass


@csrf_exempt
def send(request: HttpRequest) -> JsonResponse:
    """Send messages to groups; return which of them were sent."""
    sent = []
    wanted: list[dict[str, Any]] = json.loads(request.body)
    for each in wanted:
        try:
            Group(each["group"]).send(each["text"], key=each.get("key"))
        except BackendUnavailable:
            continue
        sent.append(each["text"])
    return JsonResponse({"sent": sent, "pid": os.getpid()})


@csrf_exempt
def forget(request: HttpRequest, name: str) -> HttpResponse:
    """Forget the messages of a group."""
    try:
        Group(name).forget()
    except BackendUnavailable:
        return HttpResponse(status=503)
    return HttpResponse(status=204)


def die(request: HttpRequest, name: str) -> HttpResponse:
    """Be killed between storing a message and publishing it."""

    def transmit(channel: str, payload: bytes) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    pubsub.transmit = transmit  # type: ignore[method-assign]
    Group(name).send("last words")
    raise AssertionError("still alive")


@resumable("{name}")
def page(request: HttpRequest, name: str) -> HttpResponse:
    """Render the position of a group."""
    template = engines["django"].from_string("{% load websockets %}{% websocket_position %}")
    return HttpResponse(template.render({}, request))


def position(request: HttpRequest, name: str) -> HttpResponse:
    """Return the position of a group."""
    try:
        return HttpResponse(Group(name).position())
    except BackendUnavailable:
        return HttpResponse(status=503)


urlpatterns = [
    path("kept/send/", send),
    path("kept/forget/<name>/", forget),
    path("kept/die/<name>/", die),
    path("kept/page/<name>/", page),
    path("kept/position/<name>/", position),
]
websocket_urlpatterns = [
    path("kept/member/<name>/", Member.as_view()),
    path("kept/quiet/<name>/", Quiet.as_view()),
]

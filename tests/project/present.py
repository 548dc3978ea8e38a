"""Rooms whose members are present, for ``tests/functional/presences.py``."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from django_wsmux.connection.counters import counters
from django_wsmux.decorators import websocket
from django_wsmux.exceptions import BackendUnavailable
from django_wsmux.groups import Group
from django_wsmux.groups.pubsub import PubSub
from django_wsmux.views import WebSocketView
from django_wsmux.websocket import WebSocket

_ask_all = PubSub.ask_all


def _ask_aloud(self: PubSub, channel: str, question: bytes) -> Any:
    print("asked other processes", file=sys.stderr, flush=True)
    return _ask_all(self, channel, question)


# The output of other programs is compared.
if "gunicorn" in sys.argv[0]:
    PubSub.ask_all = _ask_aloud  # type: ignore[method-assign]


class Member(WebSocketView):
    """Is present in a room under the key of its URL; the key "-" is that of a watcher."""

    keep_request = False

    def connect(self, request: HttpRequest, name: str, key: str) -> None:
        """Be present."""
        info = {"name": f"the user {key}"}
        Group(name).presence(self.websocket, None if key == "-" else key, info)

    def receive(self, message: str | bytes) -> None:
        """Say which process this is, or leave."""
        if message == "leave":
            Group(self.kwargs["name"]).leave(self.websocket)
        self.websocket.send_json({"pid": os.getpid()})


@websocket
def function(request: HttpRequest, websocket: WebSocket, name: str, key: str) -> None:
    """Be present until the socket closes."""
    group = Group(name)
    with group.joined(websocket):
        group.presence(websocket, key, {"name": f"the user {key}"})
        for _ in websocket:
            pass


def present(request: HttpRequest, name: str) -> HttpResponse:
    """List who is present."""
    try:
        people = Group(name).present()
    except BackendUnavailable:
        return HttpResponse(status=503)
    return JsonResponse({"pid": os.getpid(), "keys": [each.key for each in people]})


def dropped(request: HttpRequest) -> HttpResponse:
    """Tell how many messages were dropped for slow clients."""
    return HttpResponse(counters["slow_client_dropped"])


def limit(request: HttpRequest) -> HttpResponse:
    """Let no file of this process grow, or lift the limit, as if the disk was full."""
    import resource  # not on Windows, which some tests simulate

    size = json.loads(request.GET["size"])
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard if size is None else size, hard))
    print(f"limit of {os.getpid()}", file=sys.stderr, flush=True)
    return JsonResponse({"pid": os.getpid()})


urlpatterns = [
    path("present/list/<name>/", present),
    path("present/dropped/", dropped),
    path("present/limit/", limit),
]
websocket_urlpatterns = [
    path("present/function/<name>/<key>/", function),
    path("present/<name>/<key>/", Member.as_view()),
]

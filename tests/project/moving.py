"""A site whose sockets move to another process, and a page that moves them within their own."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from django_wsmux.auth import authentication, bearer
from django_wsmux.connection import registry
from django_wsmux.decorators import websocket_loop
from django_wsmux.groups import Group
from django_wsmux.protocol.events import CannotMove
from django_wsmux.server import mover
from django_wsmux.views import WebSocketView
from django_wsmux.websocket import WebSocket

from . import context, urls

#: Name and close code of each call of disconnect().
disconnects: list[tuple[str, int]] = []


class Board(WebSocketView):
    """An event view that remembers things, and shows them."""

    def connect(self, request: HttpRequest, name: str, number: int) -> None:
        self.name = name
        self.lines: list[str] = []
        self.seen = {number}
        if self.keep_request:
            self.user = request.user  # not read yet
        Group(f"board.{name}").join(self.websocket, info={"number": number})

    def receive_text(self, text: str) -> None:
        command, _, rest = text.partition(" ")
        if command == "who":
            user = self.request.user
            assert self.user == user
            self.send_json([str(user), self.websocket.client_id, os.getpid()])
        elif command == "say":
            Group(f"board.{self.name}").send(rest)
        elif command == "again":
            self.send_json([getattr(self.request, "is_handover", None), context.seen()])
        elif command == "remember":
            self.object = object()
            self.send("remembered")
        elif command == "spawn":
            self.websocket.spawn(time.sleep, 3600)
            self.send("spawned")
        else:
            self.lines.append(text)
            self.send_json([self.name, self.kwargs["number"], sorted(self.seen), self.lines])

    def receive_bytes(self, data: bytes) -> None:
        self.send(data)

    def disconnect(self, code: int, reason: str) -> None:
        disconnects.append((self.name, code))


class Lean(Board):
    """The same without a request."""

    keep_request = False


class Listening(Board):
    """The same, with the messages of its groups."""

    def group_receive(self, message: str | bytes) -> None:
        self.lines.append(f"group {message!s}")
        self.send(f"{self.name}: {message!s}")


class Staying(Board):
    """The same, but it stays."""

    handover = False


class Row(WebSocketView):
    """A view that remembers a row of the database."""

    def connect(self, request: HttpRequest, name: str) -> None:
        self.user = User.objects.get(username=name)

    def receive_text(self, text: str) -> None:
        self.send_json([self.user.username, self.user.first_name, context.seen()])


class Failing(WebSocketView):
    """A view that cannot be restored."""

    def restore_handover(self, state: Any) -> None:
        raise LookupError("lost")

    def receive_text(self, text: str) -> None:
        self.send(text)

    def disconnect(self, code: int, reason: str) -> None:
        disconnects.append(("failing", code))


@websocket_loop
def loop(request: HttpRequest, websocket: WebSocket, name: str) -> None:
    """Echo, with the user."""
    message = websocket.receive()
    websocket.send(f"{name} {request.user} {message!s} {context.tenant.get()}")


def user_of(token: str) -> User:
    """Return the user whose name is the token."""
    return User.objects.get(username=token)


def move(request: HttpRequest) -> JsonResponse:
    """Move all sockets within this process; ``?back=1`` as if the other process had died."""
    moves: Any = mover.current()
    moved, refused = [], []
    moves.ask(list(registry.open_sockets))
    for websocket in list(registry.open_sockets):
        if not moves.wants_to_move(websocket):
            refused.append("unwilling")
            continue
        try:
            record = json.loads(json.dumps(moves.pack(websocket)))
            moved.append((websocket, record, websocket.detach()))
        except CannotMove as error:
            refused.append(str(error))
    batch = json.loads(json.dumps(moves.seal([record for _, record, _ in moved], True)))
    records = json.loads(json.dumps([record for _, record, _ in moved]))
    if "back" in request.GET:
        for (websocket, _, detached), record in zip(moved, records, strict=True):
            moves.take_back(websocket, record, detached, batch)
    else:
        built = moves.build(batch, records)
        moves.given([websocket for websocket, _, _ in moved])
        taken = [
            (each, detached)
            for each, (_, _, detached) in zip(built, moved, strict=True)
            if not isinstance(each, str)
        ]
        refused += [each for each in built if isinstance(each, str)]
        moves.adopt(batch, taken)
        moves.finished()
    return JsonResponse({"moved": len(moved), "refused": refused})


def act(request: HttpRequest, what: str, name: str) -> HttpResponse:
    """Change something in the database or in groups."""
    if what == "deactivate":
        User.objects.filter(username=name).update(is_active=False)
    elif what == "activate":
        User.objects.filter(username=name).update(is_active=True)
    elif what == "forget":
        user = User.objects.get(username=name)
        for session in Session.objects.all():
            if session.get_decoded().get("_auth_user_id") == str(user.pk):
                Session.objects.filter(pk=session.pk)._raw_delete("default")
    elif what == "rename":
        User.objects.filter(username=name).update(first_name="Renamed")
    elif what == "create":
        User.objects.create_user(name)
    elif what == "delete":
        User.objects.filter(username=name).delete()
    elif what == "send":
        Group(f"board.{name}").send(request.GET["text"])
    return HttpResponse("done")


def report(request: HttpRequest, name: str) -> JsonResponse:
    """Show the close codes that views have reported."""
    return JsonResponse({"codes": [code for other, code in disconnects if other == name]})


urlpatterns = [
    path("board/<name>/<int:number>/", Board.as_view()),
    path("lean/<name>/<int:number>/", Lean.as_view()),
    path("listening/<name>/<int:number>/", Listening.as_view()),
    path("staying/<name>/<int:number>/", Staying.as_view()),
    path("bearer/<name>/<int:number>/", authentication(bearer(user_of))(Board.as_view())),
    path("row/<name>/", Row.as_view()),
    path("failing/", Failing.as_view()),
    path("loop/<name>/", loop),
    path("function/", context.function),
    path("move/", move),
    path("act/<what>/<name>/", act),
    path("reported/<name>/", report),
    *urls.urlpatterns,
]

"""The sockets of the site under test: what a view may do, as a function and as a class."""

from __future__ import annotations

from functools import partial
from threading import Event
from typing import Any

from django.contrib.auth.decorators import login_required
from django.contrib.auth.mixins import LoginRequiredMixin
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.urls import path
from django.utils import timezone, translation

from django_wsmux.decorators import websocket, websocket_loop
from django_wsmux.groups import Group
from django_wsmux.views import WebSocketView
from django_wsmux.websocket import WebSocket

#: What happened at the end of each socket.
ends: list[str] = []

#: Lets stubborn() end.
released = Event()


def act(request: Any, websocket: WebSocket, message: str | bytes) -> None:
    """Do what a message asks for; echo any other message."""
    command, _, rest = str(message).partition(" ") if isinstance(message, str) else ("", "", "")
    match command:
        case "crash":
            raise ValueError("it broke")
        case "close":
            websocket.close(4000, rest)
        case "many":
            for number in range(int(rest)):
                websocket.send_json(number)
        case "say":
            Group("room").send(rest)
        case "out":
            Group("room").close(4001, "all out")
        case "save":
            User.objects.create(username=rest)
            websocket.send_json(User.objects.count())
        case "later":
            transaction.on_commit(partial(websocket.send, "committed"))
        case "atomic":
            with transaction.atomic():
                User.objects.create(username=rest)
            websocket.send("done")
        case "help":
            websocket.spawn(websocket.send, "helper")
            websocket.send("view")
        case "helpless":
            websocket.spawn(partial(act, request, websocket, "crash"))
        case "listen":
            websocket.spawn(websocket.receive)
        case "change":
            translation.activate("de")
            timezone.activate("Asia/Tokyo")
            websocket.send("changed")
        case "language":
            websocket.send(f"{translation.get_language()} {timezone.get_current_timezone_name()}")
        case "user":
            websocket.send(request.user.get_username())
        case "ping":
            websocket.ping(b"are you there")
        case "latency":
            websocket.send_json(websocket.latency is not None)
        case "silence":
            pass
        case _:
            websocket.send(message)


@websocket(subprotocols=["chat.v2", "chat.v1"])
def function(request: HttpRequest, websocket: WebSocket) -> None:
    with Group("room").joined(websocket):
        for message in websocket:
            act(request, websocket, message)
    ends.append(f"{websocket.close_code} {websocket.close_reason}")


class EventView(WebSocketView):
    subprotocols = ("chat.v2", "chat.v1")
    groups = ("room",)

    def receive(self, message: str | bytes) -> None:
        act(self.request, self.websocket, message)

    def disconnect(self, code: int, reason: str) -> None:
        ends.append(f"{code} {reason}")


class Watching(EventView):
    """Handle each message of the group, but drop "psst"."""

    def group_receive(self, message: str | bytes) -> None:
        if message == "crash":
            raise ValueError("it broke on the way")
        if not str(message).startswith("psst"):
            self.send(f"seen {message!r}")


class Joining(WebSocketView):
    """Join with each name that is sent, and without one."""

    def receive(self, message: str | bytes) -> None:
        Group("names").join(self.websocket, {"name": message} if message else None)


class Counting(WebSocketView):
    """Use the database in ``disconnect()``."""

    def disconnect(self, code: int, reason: str) -> None:
        User.objects.count()


@websocket
def requests(request: HttpRequest, websocket: WebSocket) -> None:
    for message in websocket.requests():
        match message.type:
            case "tell":
                for text in message.data["messages"]:
                    websocket.send(text)
                message.reply("told")
            case "fail":
                message.error("No.", code="no")
            case "close":
                websocket.close()


@login_required
@websocket
def private(request: HttpRequest, websocket: WebSocket) -> None:
    websocket.send(request.user.get_username())
    websocket.receive()


class Private(LoginRequiredMixin, WebSocketView):
    def connect(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        self.send(request.user.get_username())


def answer(request: HttpRequest, websocket: WebSocket) -> HttpResponseBase | None:
    """Refuse in the way that the query names."""
    match request.GET.get("how"):
        case "crash":
            raise ValueError("it broke before")
        case "missing":
            raise Http404
        case "page":
            return render(request, "refusal.html", {"reason": "full"}, status=429)
        case "session":
            request.session["seen"] = True
        case "meta":
            names = ("HTTP_ORIGIN", "HTTP_X_COLOUR", "REMOTE_ADDR", "HTTP_COOKIE")
            websocket.send_json([request.META.get(name) for name in names])
    return None


def function_refusing(request: HttpRequest) -> HttpResponseBase:
    return answer(request, request.websocket) or function(request)  # type: ignore[attr-defined]


class EventRefusing(WebSocketView):
    def connect(self, request: HttpRequest) -> HttpResponseBase | None:
        return answer(request, self.websocket)


@websocket
def patient(request: HttpRequest, websocket: WebSocket) -> None:
    """Wait five seconds for a message, then another ten."""
    for seconds in (5, 10):
        try:
            websocket.send(websocket.receive(timeout=seconds) or "closed")
        except TimeoutError:
            websocket.send(f"nothing for {seconds} s")


@websocket
def polling(request: HttpRequest, websocket: WebSocket) -> None:
    """Poll for messages; with a query, without end."""
    while True:
        try:
            websocket.send(websocket.receive(timeout=0) or "closed")
        except TimeoutError:
            if not request.GET:
                websocket.send("nothing there")
                return


@websocket_loop
def looping(request: HttpRequest, websocket: WebSocket) -> None:
    """Handle one message."""
    websocket.receive()


@websocket
def holding(request: HttpRequest, websocket: WebSocket) -> None:
    """Wait inside a transaction, if a message says so."""
    websocket.send_json(connection.in_atomic_block)
    for message in websocket:
        if message == "hold":
            with transaction.atomic():
                User.objects.create(username="held")
                websocket.receive()
        websocket.send("not held")


@websocket
def deaf(request: HttpRequest, websocket: WebSocket) -> None:
    """Wait for an event that no code sets."""
    from gevent.event import Event as GeventEvent

    try:
        GeventEvent().wait()
    finally:
        ends.append("deaf ended")


@websocket
def stubborn(request: HttpRequest, websocket: WebSocket) -> None:
    """Continue after the socket is closed, until the test releases it."""
    websocket.send("begun")
    released.wait()


def undecorated(request: Any) -> None:
    """Accept by sending, inside the middleware."""
    request.websocket.send("inside")
    ends.append(str(request.websocket.receive()))


def page(request: HttpRequest) -> HttpResponse:
    """A page that sends to the group."""
    Group("room").send("from a page")
    return HttpResponse("told")


urlpatterns = [
    path("requests/", requests),
    path("function/", function, name="function"),
    path("event/", EventView.as_view()),
    path("watching/", Watching.as_view()),
    path("joining/", Joining.as_view()),
    path("counting/", Counting.as_view()),
    path("function/private/", private),
    path("event/private/", Private.as_view()),
    path("function/refusing/", function_refusing),
    path("event/refusing/", EventRefusing.as_view()),
    path("patient/", patient),
    path("polling/", polling),
    path("looping/", looping),
    path("holding/", holding),
    path("deaf/", deaf),
    path("stubborn/", stubborn),
    path("undecorated/", undecorated),  # type: ignore[arg-type]  # returns None
]

"""Event views, one for each behaviour under test."""

from __future__ import annotations

import os
import time
from typing import Any

from django import forms
from django.contrib.auth.mixins import (
    LoginRequiredMixin,
    PermissionRequiredMixin,
    UserPassesTestMixin,
)
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.db import connection, transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.urls import reverse
from django.utils import timezone, translation

from django_wsmux.groups import Group
from django_wsmux.views import FormWebSocketView, JSONWebSocketView, WebSocketView

from . import state


class Echo(WebSocketView):
    def receive(self, message: str | bytes) -> None:
        self.send(message)


class Uncompressed(WebSocketView):
    """Declines compression."""

    compression = False

    def receive(self, message: str | bytes) -> None:
        self.send(message)


class OldClients(Uncompressed):
    """Declines compression for some clients."""

    compression = True

    def connect(self, request: HttpRequest) -> None:
        self.compression = "Old" not in request.headers["User-Agent"]


class Process(WebSocketView):
    """Answers with its process id."""

    def receive(self, message: str | bytes) -> None:
        self.send(str(os.getpid()))


class Suspicion(SuspiciousOperation):
    """An exception of the project that Django treats as a client's error."""


class Suspicious(WebSocketView):
    """Refuses with a message that quotes the client."""

    def connect(self, request: HttpRequest, what: str) -> None:
        if "forbidden" in request.GET:
            raise PermissionDenied(what)
        raise Suspicion(f"100 %s of {what}")


class Telling(WebSocketView):
    """Refuses with 403, by a close code for browsers."""

    refusals = "close"

    def connect(self, request: Any) -> None:
        raise PermissionDenied


class LeanEcho(Echo):
    keep_request = False


class Reporting(WebSocketView):
    """Reports all calls, under the key of the URL."""

    def note(self, what: str) -> None:
        key = self.kwargs["key"]
        state.reports[key] = f"{state.reports.get(key, '')}{what};"

    def connect(self, request: HttpRequest, key: str) -> HttpResponseBase | None:
        self.note("connect")
        if "refuse" in request.GET:
            return HttpResponse("refused", status=418)
        if "missing" in request.GET:
            raise Http404
        if "slow" in request.GET:
            time.sleep(0.3)
        return None

    def receive(self, message: str | bytes) -> None:
        self.note(f"receive {message!r}")
        if message == "close":
            self.close(4000, "as asked")
        elif message == "crash":
            raise ValueError("it broke")
        elif message == "exit":
            raise SystemExit
        elif message == "timeout":
            from gevent import Timeout  # no other view needs gevent

            raise Timeout
        elif message == "wait":
            self.websocket.receive()

    def disconnect(self, code: int, reason: str) -> None:
        self.note(f"disconnect {code} {reason}")
        if reason == "crash":
            raise ValueError("disconnect broke")


class Early(WebSocketView):
    """Sends, joins and refuses before the 101."""

    def get_groups(self) -> list[str]:
        return ["early"]

    def connect(self, request: HttpRequest, what: str) -> HttpResponseBase | None:
        self.send("first")
        self.send(b"second")
        if what == "close":
            self.close(4001, "no")
        elif what == "refuse":
            raise PermissionDenied
        elif what == "receive":
            self.websocket.receive()
        elif what == "much":
            for _ in range(100):
                self.send(bytes(2**16))
        elif what == "large":
            self.send(bytes(self.websocket.options.max_unsent_bytes * 2))
        elif what == "group":
            Group("early").send("third")
        return None


class Room(WebSocketView):
    """A member of a group that sends its process id."""

    def connect(self, request: HttpRequest, name: str) -> None:
        self.group = Group(name)
        self.group.join(self.websocket, {"seat": request.GET.get("seat")})
        self.send(str(os.getpid()))

    def receive(self, message: str | bytes) -> None:
        self.group.send(message, exclude=self.websocket)


class Excluding(Room):
    """Sends each message, the id of a client, to all members except that client."""

    def receive(self, message: str | bytes) -> None:
        self.group.send_json(message, exclude=str(message))


class Parting(WebSocketView):
    """Sends to a group at its end, and tries to send to the peer."""

    def disconnect(self, code: int, reason: str) -> None:
        group = Group("parting")
        group.send("first")
        self.send("too late")
        self.send_json({"too": "late"})
        self.websocket.ping()
        group.send("second")


class Watching(WebSocketView):
    """Handles messages of a group first, and does what they say."""

    def connect(self, request: HttpRequest, name: str) -> None:
        self.group = Group(name)
        self.group.join(self.websocket)
        if "early" in request.GET:
            self.group.send("early")

    def receive(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            self.group.send(message)
        elif message.startswith("say "):
            self.group.send(message.removeprefix("say "))
        self.send(f"received {message!r}")

    def group_receive(self, message: str | bytes) -> None:
        match message:
            case "nothing":
                return
            case "crash":
                raise ValueError("it broke on the way")
            case "exit":
                raise SystemExit
            case "wait":
                self.websocket.receive()
            case "slow":
                time.sleep(0.1)
            case "hold":
                while not self.websocket.closed:
                    time.sleep(0.02)
            case "language":
                message = translation.get_language()
            case "SELECT 7":
                with connection.cursor() as cursor:
                    cursor.execute(message)
                    message = str(cursor.fetchone()[0])
        self.send(f"seen {message!r}")


class Deciding(WebSocketView):
    """Joins the group, then waits in the handshake until a page lets it go."""

    def connect(self, request: HttpRequest, key: str) -> HttpResponseBase | None:
        Group(key).join(self.websocket)
        state.reports[key] = f"{state.reports.get(key, '')}waiting "
        while "go" not in state.reports[key]:
            time.sleep(0.01)
        self.send("own")
        return HttpResponse("refused", status=403) if "refuse" in request.GET else None


class Flooding(WebSocketView):
    """Sends as many bytes as a message says."""

    def receive(self, message: str | bytes) -> None:
        self.send(bytes(int(message)))


class Leaving(WebSocketView):
    """Sends its process id, also for each message; its end is told to the members that are left."""

    groups = ("leaving",)

    def connect(self, request: HttpRequest) -> None:
        self.send(str(os.getpid()))

    def receive(self, message: str | bytes) -> None:
        self.send(str(os.getpid()))

    def disconnect(self, code: int, reason: str) -> None:
        Group("leaving").send("someone has left")


class Typed(WebSocketView):
    """Accepts text only."""

    subprotocols = ("chat.v2", "chat.v1")

    def receive_text(self, text: str) -> None:
        self.send(f"{self.websocket.subprotocol} {text}")


class Private(LoginRequiredMixin, WebSocketView):
    def connect(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        assert request.user.is_authenticated
        self.name = request.user.get_username()

    def receive(self, message: str | bytes) -> None:
        if message == "refresh":
            self.websocket.refresh_user()
        self.send(f"{self.name} {self.request.user.get_username()}")


class Staff(PermissionRequiredMixin, WebSocketView):
    permission_required = "auth.add_user"
    raise_exception = True


class Ann(UserPassesTestMixin, WebSocketView):
    raise_exception = True

    def test_func(self) -> bool:
        return self.request.user.get_username() == "ann"


class RequestContext(WebSocketView):
    """Sends what is active; changes it on request."""

    def connect(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        timezone.activate(request.GET.get("zone", "UTC"))

    def receive(self, message: str | bytes) -> None:
        if message == "change":
            translation.activate("en")
            timezone.activate("Asia/Tokyo")
        zone = timezone.get_current_timezone_name()
        self.send(f"{translation.get_language()} {zone} {reverse('only-a-page')}")


class Session(WebSocketView):
    def receive(self, message: str | bytes) -> None:
        session = self.request.session
        session["count"] = session.get("count", 0) + 1
        if message == "save":
            session.save()
        self.send(str(session["count"]))


class Lean(WebSocketView):
    keep_request = False

    def connect(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        self.agent = request.headers["User-Agent"]

    def receive(self, message: str | bytes) -> None:
        if message == "crash":
            raise ValueError("lean and broken")
        if message == "refresh":
            self.websocket.refresh_user()
        try:
            self.send(self.request.path)
        except AttributeError as error:
            self.send(f"{self.agent} {self.websocket.path} {error}")


class Slow(WebSocketView):
    """Takes a while for each message."""

    def receive(self, message: str | bytes) -> None:
        time.sleep(0.1)
        self.send(message)


class Database(WebSocketView):
    """Executes a message as SQL."""

    def receive(self, message: str | bytes) -> None:
        if message == "atomic":
            with transaction.atomic():
                self.websocket.receive()
        with connection.cursor() as cursor:
            cursor.execute(str(message))
            self.send(str(cursor.fetchone()[0]))


class Spawning(WebSocketView):
    def receive(self, message: str | bytes) -> None:
        self.websocket.spawn(self.send, f"helper {message!r}")


class Meter(JSONWebSocketView):
    def receive_json(self, value: Any) -> None:
        self.send_json({"got": value})


class SayForm(forms.Form):
    text = forms.CharField(max_length=5)
    when = forms.DateField(required=False)


class NameForm(forms.Form):
    name = forms.SlugField()


class Chat(FormWebSocketView):
    forms = {"say": SayForm, "name": NameForm, "nothing": SayForm}  # noqa: RUF012

    def say_valid(self, form: SayForm) -> None:
        self.send_json({"type": "said", **form.cleaned_data})

    def name_invalid(self, form: NameForm) -> None:
        self.send_json({"bad": sorted(form.errors)})

    def form_valid(self, form: Any) -> None:
        self.send_json({"type": form.message_type, **form.cleaned_data})

"""A site whose middleware sets state around each request, and sockets that show it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from django.core.cache import cache
from django.http import HttpRequest, HttpResponse
from django.urls import path

from django_wsmux.decorators import websocket
from django_wsmux.groups import Group
from django_wsmux.responses import WebSocketResponse
from django_wsmux.views import WebSocketView
from django_wsmux.websocket import WebSocket

from . import state, urls

tenant: ContextVar[str] = ContextVar("tenant", default="none")
bag: ContextVar[dict[str, str]] = ContextVar("bag")
local = threading.local()


def middleware(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Set the tenant that the query names during the request."""

    def set_tenant(request: HttpRequest) -> HttpResponse:
        name = request.GET.get("tenant")
        if name is None:
            return get_response(request)
        tokens = tenant.set(name), bag.set({"tenant": name})
        try:
            with entered(name):
                return get_response(request)
        finally:
            tenant.reset(tokens[0])
            bag.reset(tokens[1])

    return set_tenant


@contextmanager
def entered(name: str) -> Iterator[None]:
    """Set state that is no context variable."""
    before = getattr(local, "tenant", "none")
    local.tenant = name
    try:
        yield
    finally:
        local.tenant = before


def around(request: HttpRequest) -> Callable[[], Any]:
    """Set the tenant around all code of a socket: a function of WEBSOCKET_CONTEXT."""
    return partial(entered, request.GET.get("tenant", "none"))


def seen() -> str:
    """Return the current state."""
    return f"{tenant.get()} {bag.get({}).get('tenant', 'none')} {getattr(local, 'tenant', 'none')}"


def look(websocket: WebSocket, beginning: str = "") -> None:
    """Send the state, and change it; the change must end with the message."""
    websocket.send(beginning + seen())
    tenant.set("changed")


@websocket
def function(request: HttpRequest, websocket: WebSocket) -> None:
    websocket.send(f"function {seen()}")
    for name in websocket:
        websocket.spawn(look, websocket, f"{name!s} ")
        websocket.spawn(look, websocket, f"{name!s} ")


def undecorated(request: Any) -> None:
    request.websocket.send(f"undecorated {seen()}")
    for _ in request.websocket:
        request.websocket.spawn(look, request.websocket, "helper ")


class Event(WebSocketView):
    groups = ("context",)

    def connect(self, request: HttpRequest) -> None:
        self.key = request.GET.get("mark", "")
        cache.set("key", self.key)
        self.send(f"connect {seen()}")

    def receive(self, message: str | bytes) -> None:
        if message == "spawn":
            self.websocket.spawn(look, self.websocket, "helper ")
        elif message == "group":
            Group("context").send("x")
        else:
            look(self.websocket, "receive ")

    def group_receive(self, message: str | bytes) -> None:
        look(self.websocket, "group ")

    def disconnect(self, code: int, reason: str) -> None:
        state.reports[self.key] = f"{seen()};"


class Lean(WebSocketView):
    keep_request = False

    def connect(self, request: HttpRequest) -> None:
        cache.get_or_set("key", "x")


def caching(request: HttpRequest) -> HttpResponse:
    """Use the cache in the handshake."""
    cache.get_or_set("key", "x")
    return WebSocketResponse(lambda websocket: list(websocket))


class Failing(WebSocketView):
    """Raise an exception whose report shows the state."""

    def receive(self, message: str | bytes) -> None:
        raise ValueError(seen())


def leave(request: HttpRequest) -> HttpResponse:
    """Set the tenant and do not reset it, as careless code does."""
    tenant.set("left")
    bag.set({"tenant": "left"})
    return HttpResponse("left")


def around_sockets(request: HttpRequest) -> HttpResponse:
    """Show the classes of the different context objects that open sockets hold."""
    from django_wsmux.connection import registry

    found = {id(each.hooks.request_context): each.hooks for each in registry.open_sockets}
    names = [type(each.request_context).__name__ for each in found.values()]
    return HttpResponse(json.dumps(names))


urlpatterns = [
    path("function/", function),
    path("undecorated/", undecorated),  # type: ignore[arg-type]  # returns None
    path("event/", Event.as_view()),
    path("lean/", Lean.as_view()),
    path("caching/", caching),
    path("failing/", Failing.as_view()),
    path("leave/", leave),
    path("around/", around_sockets),
    *urls.urlpatterns,
]

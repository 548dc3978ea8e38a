"""Sockets of a site whose error handling fails, in the way that ``TEST_FAULT`` names."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from django.core import mail
from django.core.signals import got_request_exception, request_finished
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from django_wsmux.decorators import websocket
from django_wsmux.signals import websocket_closed, websocket_opened
from django_wsmux.views import WebSocketView
from django_wsmux.websocket import WebSocket

from . import events, state, urls

FAULT = os.environ.get("TEST_FAULT", "")


class Broken(Exception):
    """The exception of views and of error handling."""

    def __str__(self) -> str:
        if FAULT == "no text":
            raise ValueError
        return "broken"


class BrokenHandler(logging.Handler):
    """Raises for each line of Django and of this package."""

    def emit(self, record: logging.LogRecord) -> None:
        """Raise."""
        raise Broken


def break_(**kwargs: Any) -> None:
    """Raise in a receiver of a signal."""
    raise Broken


def leave(**kwargs: Any) -> None:
    """Raise an exception that would end the process."""
    raise SystemExit


SIGNALS = {
    "got_request_exception": got_request_exception,
    "request_finished": request_finished,
    "websocket_opened": websocket_opened,
    "websocket_closed": websocket_closed,
}
if FAULT.removesuffix(" exits") in SIGNALS:
    SIGNALS[FAULT.removesuffix(" exits")].connect(leave if FAULT.endswith(" exits") else break_)
if FAULT == "logging":
    for name in ("django", "django_wsmux"):
        logging.getLogger(name).addHandler(BrokenHandler())


def handler500(request: HttpRequest) -> Any:
    """Show the error page, or fail to."""
    if FAULT == "handler500":
        raise Broken
    return None if FAULT == "no response" else HttpResponse("It broke.", status=500)


class Raising(WebSocketView):
    """Raises in ``receive()`` and ``disconnect()``."""

    def receive(self, message: str | bytes) -> None:
        raise Broken

    def disconnect(self, code: int, reason: str) -> None:
        raise Broken


class RaisingInHandshake(WebSocketView):
    """Raises before the 101."""

    def connect(self, request: HttpRequest) -> None:
        raise Broken


class LeanRaising(Raising):
    keep_request = False


class Forgetful(WebSocketView):
    """Leaves a timer behind that raises later; or waits until the test lets it go."""

    def receive(self, message: str | bytes) -> None:
        import gevent  # no other view needs it
        from greenlet import getcurrent

        if message == "timeout":
            gevent.Timeout.start_new(0.3)
        elif message == "kill":
            gevent.spawn_later(0.3, getcurrent().throw, SystemExit)
        elif message == "wait":
            while "waiting" not in state.reports:
                time.sleep(0.01)
        elif message == "own timeout":
            with gevent.Timeout(0.01):
                gevent.sleep(60)
        self.send(message)


@websocket
def raising(request: HttpRequest, websocket: WebSocket) -> None:
    websocket.receive()
    raise Broken


@websocket
def helping(request: HttpRequest, websocket: WebSocket) -> None:
    def helper() -> None:
        raise Broken

    websocket.spawn(helper)
    for _ in websocket:
        pass


def mails(request: HttpRequest) -> JsonResponse:
    """Show the error reports that were sent by e-mail."""
    outbox = getattr(mail, "outbox", [])
    return JsonResponse([f"{each.subject}\n{each.body}" for each in outbox], safe=False)


urlpatterns = [
    path("echo/", events.Echo.as_view()),
    path("event/", Raising.as_view()),
    path("lean/", LeanRaising.as_view()),
    path("connect/", RaisingInHandshake.as_view()),
    path("function/", raising),
    path("helper/", helping),
    path("forgetful/", Forgetful.as_view()),
    path("mails/", mails),
    *urls.urlpatterns,
]

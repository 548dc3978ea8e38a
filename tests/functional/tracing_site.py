"""A project with WEBSOCKET_TRACING and OpenTelemetry's SDK, which writes spans to a file.

As a program, it sends messages to the group ``room.1`` in a span "task", as a task would::

    python -m tests.functional.tracing_site stored hello
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, ClassVar

import django
from django import forms
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path
from opentelemetry import trace
from opentelemetry.instrumentation.django import DjangoInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from django_wsmux.decorators import websocket
from django_wsmux.groups import Group
from django_wsmux.views import FormWebSocketView, WebSocketView
from django_wsmux.websocket import WebSocket
from django_wsmux.wsgi import get_wsgi_application

__all__ = ["application", "urlpatterns"]

ROOM = "room.1"


class Writer(SpanExporter):
    """Appends a line of JSON for each span to the file that ``TEST_SPANS`` names."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write the spans."""
        lines = "".join(f"{json.dumps(_described(span))}\n" for span in spans)
        with open(os.environ["TEST_SPANS"], "a") as file:
            file.write(lines)
        return SpanExportResult.SUCCESS


def _described(span: ReadableSpan) -> dict[str, Any]:
    return {
        "name": span.name,
        "kind": span.kind.name,
        "id": _ids(span.get_span_context()),
        "parent": None if span.parent is None else _ids(span.parent),
        "links": [_ids(each.context) for each in span.links],
        "attributes": dict(span.attributes or {}),
        "status": span.status.status_code.name,
        "pid": os.getpid(),
    }


def _ids(context: Any) -> list[int]:
    return [context.trace_id, context.span_id]


class SayForm(forms.Form):
    """What is said."""

    text = forms.CharField()


class Chat(FormWebSocketView):
    """Sends to the room what is said."""

    forms: ClassVar[dict[str, Any]] = {"say": SayForm}

    def say_valid(self, form: Any) -> None:
        """Send it."""
        Group(ROOM).send(form.cleaned_data["text"])


class Watching(WebSocketView):
    """Sees the messages of the room first."""

    groups = (ROOM,)

    def connect(self, request: HttpRequest) -> None:
        """Tell which process this is."""
        self.send_json({"pid": os.getpid()})

    def receive(self, message: str | bytes) -> None:
        """Answer with the process."""
        self.send_json({"pid": os.getpid()})

    def group_receive(self, message: str | bytes) -> None:
        """Send it on."""
        self.send_json({"seen": message})


@websocket
def talk(request: HttpRequest, websocket: WebSocket) -> None:
    """Send each message to the room."""
    for message in websocket:
        Group(ROOM).send(message)


def page(request: HttpRequest) -> HttpResponse:
    """Send a message to the room, as the query string asks."""
    send(request.GET["how"], request.GET["say"])
    return HttpResponse("sent")


def loops(request: HttpRequest) -> HttpResponse:
    """Tell whether an event loop runs in this process, which makes Django refuse the ORM."""
    return HttpResponse(str(asyncio._get_running_loop()))


def send(how: str, text: str) -> None:
    """Send a message to the room.

    Args:
        how: ``plain``, ``commit`` or ``stored``.
        text: the message.
    """
    if how == "plain":
        Group(ROOM).send(text)
        return
    with transaction.atomic():
        Group(ROOM).send(text, on_commit=True, stored=how == "stored")


urlpatterns = [
    path("page/", page),
    path("loops/", loops),
    path("chat/", Chat.as_view()),
    path("watching/", Watching.as_view()),
    path("talk/", talk),
]


def start() -> None:
    """Start OpenTelemetry, in a process that will not be forked."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Writer()))
    trace.set_tracer_provider(provider)


def main(how: str, text: str) -> None:
    """Send a message from a process that serves nothing."""
    start()
    django.setup()
    with trace.get_tracer("tests").start_as_current_span("task"):
        if how == "dies":
            # Between the commit and the callbacks.
            with transaction.atomic():
                Group(ROOM).send(text, on_commit=True, stored=True)
                transaction.get_connection().run_on_commit.clear()
        else:
            send(how, text)


if __name__ == "__main__":
    main(*sys.argv[1:])
else:
    start()
    DjangoInstrumentor().instrument()
    application = get_wsgi_application()

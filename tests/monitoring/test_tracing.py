"""Spans of OpenTelemetry for messages, with its SDK, in one process."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, ClassVar

import pytest
from django import forms
from django.db import transaction
from django.http import HttpRequest
from django.test import override_settings
from django.urls import path
from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.django import DjangoInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    Sampler,
    SamplingResult,
)
from opentelemetry.trace import SpanKind, StatusCode

from django_wsmux import conf
from django_wsmux.connection import tracing
from django_wsmux.connection.counters import counters
from django_wsmux.decorators import websocket, websocket_loop
from django_wsmux.exceptions import BackendUnavailable
from django_wsmux.groups import Group
from django_wsmux.groups.pubsub import pubsub
from django_wsmux.monitoring.tracing import OpenTelemetry
from django_wsmux.protocol.frames import TEXT
from django_wsmux.protocol.prepared import TracedMessage
from django_wsmux.test import WebSocketClient
from django_wsmux.views import FormWebSocketView, JSONWebSocketView, WebSocketView
from django_wsmux.websocket import WebSocket
from tests.support import ROOT


class Sampling(Sampler):
    """A sampler that each test may replace."""

    chosen: Sampler = ALWAYS_ON

    def should_sample(self, *args: Any, **options: Any) -> SamplingResult:
        """Ask the chosen one."""
        return self.chosen.should_sample(*args, **options)

    def get_description(self) -> str:
        """Return its name."""
        return "chosen by the test"


class Only(Sampler):
    """Samples spans of some names."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def should_sample(
        self, parent_context: Any, trace_id: int, name: str, *args: Any, **options: Any
    ) -> SamplingResult:
        """Decide by the name."""
        chosen = ALWAYS_ON if name in self.names else ALWAYS_OFF
        return chosen.should_sample(parent_context, trace_id, name, *args, **options)

    def get_description(self) -> str:
        """Return its name."""
        return "by name"


class Faulty(SpanProcessor):
    """Raises an error if a test wants that."""

    at: ClassVar[set[str]] = set()

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        """Fail at the start of a span."""
        if "start" in self.at:
            raise OSError("no space left")

    def on_end(self, span: Any) -> None:
        """Fail at the end of a span."""
        if "end" in self.at:
            raise OSError("no space left")


exporter = InMemorySpanExporter()
sampling = Sampling()
provider = TracerProvider(sampler=sampling)
provider.add_span_processor(SimpleSpanProcessor(exporter))
provider.add_span_processor(Faulty())
trace.set_tracer_provider(provider)
own = trace.get_tracer("tests")


class Room(WebSocketView):
    """Sends each message to a room; "crash" raises, "leave" closes and sends."""

    def receive(self, message: str | bytes) -> None:
        """Send a message on."""
        if message == "crash":
            raise ValueError("it broke")
        if message == "leave":
            self.close()
            self.send("too late")
        if message == "nested":
            with own.start_as_current_span("of the view"):
                Group("room.1").send("in it")
            return
        Group("room.1").send(message)

    def disconnect(self, code: int, reason: str) -> None:
        """Say good-bye."""
        Group("room.1").send("bye")


class Watching(WebSocketView):
    """Sees the messages of the room first."""

    groups = ("room.1",)

    def group_receive(self, message: str | bytes) -> None:
        """Send it."""
        self.send(message)


class SayForm(forms.Form):
    """What is said."""

    text = forms.CharField()


class Chat(FormWebSocketView):
    """Declares one type."""

    forms: ClassVar[dict[str, Any]] = {"say": SayForm}

    def say_valid(self, form: Any) -> None:
        """Send it on."""
        with own.start_as_current_span("of the view"):
            Group("room.1").send(form.cleaned_data["text"])


class Limited(JSONWebSocketView):
    """Declares one type, by its limit."""

    limits: ClassVar[dict[str, str]] = {"say": "1/m"}

    def receive_json(self, value: Any) -> None:
        """Do nothing."""


@websocket
def talk(request: HttpRequest, websocket: WebSocket) -> None:
    """Send each message to the room; "crash" raises, "stop" ends the loop."""
    Group("room.1").send("hello")
    for message in websocket:
        if message == "crash":
            raise ValueError("it broke")
        if message == "stop":
            break
        Group("room.1").send(message)
    Group("room.1").send("after")


@websocket_loop
def loop(request: HttpRequest, websocket: WebSocket) -> None:
    """Send a message to the room."""
    Group("room.1").send(websocket.receive() or "")


urlpatterns = [
    path("room/", Room.as_view()),
    path("watching/", Watching.as_view()),
    path("chat/", Chat.as_view()),
    path("limited/", Limited.as_view()),
    path("talk/", talk),
    path("loop/", loop),
]


@pytest.fixture(autouse=True)
def traced() -> Iterator[None]:
    """Trace one test."""
    settings = {
        "WEBSOCKET_TRACING": True,
        "WEBSOCKET_BACKEND": "memory://",
        "WEBSOCKET_URLCONF": __name__,
    }
    sampling.chosen = ALWAYS_ON
    with override_settings(**settings):
        exporter.clear()
        yield
    Faulty.at.clear()


def spans(name: str) -> list[ReadableSpan]:
    """Return the spans that have ended, with a name."""
    return [each for each in exporter.get_finished_spans() if each.name == name]


def span(name: str) -> ReadableSpan:
    """Return the only span of a name."""
    (found,) = spans(name)
    return found


def names() -> list[str]:
    """Return the names of the spans that have ended."""
    return [each.name for each in exporter.get_finished_spans()]


def id_of(found: ReadableSpan) -> tuple[int, int]:
    """Return the ids of a span."""
    context = found.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


def parent_of(found: ReadableSpan) -> tuple[int, int] | None:
    """Return the ids of the parent of a span."""
    return None if found.parent is None else (found.parent.trace_id, found.parent.span_id)


def links_of(found: ReadableSpan) -> list[tuple[int, int]]:
    """Return the ids of the spans that a span links to."""
    return [(each.context.trace_id, each.context.span_id) for each in found.links]


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """Open a socket of which OpenTelemetry's instrumentation of Django knows."""
    instrumentor = DjangoInstrumentor()
    with override_settings(MIDDLEWARE=[]):
        instrumentor.instrument(tracer_provider=provider)
        try:
            socket = WebSocketClient().websocket(path)
            socket.__enter__()
        finally:
            instrumentor.uninstrument()
    try:
        yield socket
    finally:
        socket.__exit__(None, None, None)


def handshake(path: str) -> ReadableSpan:
    """Return the span of the handshake for a path."""
    found = [each for each in exporter.get_finished_spans() if each.kind is SpanKind.SERVER]
    route = path.removeprefix("/")
    (shake,) = [each for each in found if (each.attributes or {})["http.route"] == route]
    return shake


def test_event_view() -> None:
    """A message is a trace with a link to the handshake; what it sends is a child."""
    with opened("/room/") as ws:
        shake = handshake("/room/")
        assert shake.kind is SpanKind.SERVER
        ws.send("hi")
        received, published = span("receive"), span("publish")
        assert received.kind is SpanKind.CONSUMER
        assert received.parent is None
        assert id_of(received)[0] != id_of(shake)[0]
        assert links_of(received) == [id_of(shake)]
        assert received.attributes == {
            "messaging.system": "django_wsmux",
            "messaging.operation.name": "receive",
            "messaging.operation.type": "process",
            "code.function.name": f"{__name__}.Room.receive",
        }
        assert published.kind is SpanKind.PRODUCER
        assert parent_of(published) == id_of(received)
        assert not published.links
        assert published.attributes == {
            "messaging.system": "django_wsmux",
            "messaging.operation.name": "publish",
            "messaging.operation.type": "send",
            "messaging.destination.name": "room.1",
        }
        ws.send("nested")
        assert parent_of(spans("publish")[1]) == id_of(span("of the view"))
        assert parent_of(span("of the view")) == id_of(spans("receive")[1])
    bye = spans("publish")[2]
    assert bye.parent is None
    assert links_of(bye) == [id_of(shake)]


def test_no_handshake_span() -> None:
    """Without an instrumentation of the handshake there is nothing to link to."""
    with WebSocketClient().websocket("/room/") as ws:
        ws.send("hi")
        assert not span("receive").links


def test_group_receive() -> None:
    """The message of a group is the child of its sender, and links to sender and handshake."""
    with opened("/watching/") as ws:
        with own.start_as_current_span("page"):
            Group("room.1").send("hi")
        assert ws.receive() == "hi"
        published, received = span("publish"), span("receive")
        assert parent_of(published) == id_of(span("page"))
        assert parent_of(received) == id_of(published)
        assert links_of(received) == [id_of(published), id_of(handshake("/watching/"))]
        assert received.kind is SpanKind.CONSUMER
        assert dict(received.attributes or {}) == {
            "messaging.system": "django_wsmux",
            "messaging.operation.name": "receive",
            "messaging.operation.type": "process",
            "messaging.destination.name": "room.1",
            "code.function.name": f"{__name__}.Watching.group_receive",
        }


def test_patterns() -> None:
    """The name of a span has the pattern of the group's history, not its name."""
    history = {"room.*": {"messages": 10, "seconds": 60}}
    with override_settings(WEBSOCKET_HISTORY=history), opened("/watching/") as ws:
        Group("room.1").send("hi")
        Group("other.1").send("hi")
        assert ws.receive() == "hi"
        assert {"publish room.*", "publish", "receive room.*"} <= {*names()}
        for name in ("publish room.*", "receive room.*"):
            attributes = span(name).attributes or {}
            assert attributes["messaging.destination.name"] == "room.1"
            assert attributes["messaging.destination.template"] == "room.*"
        assert parent_of(span("receive room.*")) == id_of(span("publish room.*"))
    Group("room.1").send("hi")
    assert names()[-1] == "publish"


def test_declared_types() -> None:
    """The name of a span has a type only if the view declares it."""
    with opened("/chat/") as ws:
        for message in ({"type": "say", "text": "hi"}, {"type": "say"}, {"type": "x1"}, ["say"]):
            ws.send_json(message)
        ws.send("no JSON")
        found = [each for each in names() if each.startswith("receive")]
        assert found == ["receive say", "receive say", "receive", "receive", "receive"]
        assert parent_of(span("of the view")) == id_of(spans("receive say")[0])
    exporter.clear()
    with opened("/limited/") as ws:
        for kind in ("say", "say", "do"):
            ws.send_json({"type": kind})
        assert names() == ["GET", "receive say", "receive say", "receive"]


def test_errors(caplog: pytest.LogCaptureFixture) -> None:
    """An exception of a view is recorded; that the peer has left is no error."""
    with opened("/room/") as ws, pytest.raises(ValueError, match="it broke"):
        ws.send("crash")
    failed = span("receive")
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.status.description == "ValueError: it broke"
    assert (failed.attributes or {})["error.type"] == "builtins.ValueError"
    (event,) = failed.events
    assert "in receive" in str((event.attributes or {})["exception.stacktrace"])
    exporter.clear()
    with opened("/room/") as ws:
        ws.send("leave")
    assert span("receive").status.status_code is StatusCode.UNSET


def test_function_view() -> None:
    """Each message of an iteration is a span until the next one is taken."""
    with opened("/talk/") as ws:
        ws.send("hi")
        ws.send("stop")
    shake = handshake("/talk/")
    hello, said, after = spans("publish")
    first, last = spans("receive")
    assert hello.parent is None
    assert links_of(hello) == [id_of(shake)]
    assert first.parent is None
    assert links_of(first) == links_of(last) == [id_of(shake)]
    assert (first.attributes or {})["code.function.name"] == f"{__name__}.talk"
    assert parent_of(said) == id_of(first)
    assert after.parent is None
    assert links_of(after) == [id_of(shake)]
    assert (last.end_time or 0) <= (after.start_time or 0)


def test_error_of_function_view(caplog: pytest.LogCaptureFixture) -> None:
    """What a function view raises is recorded on the message that it handles."""
    with pytest.raises(ValueError, match="it broke"), opened("/talk/") as ws:
        ws.send("crash")
    failed = span("receive")
    assert failed.status.status_code is StatusCode.ERROR
    assert [event.name for event in failed.events] == ["exception"]
    assert "detach" not in caplog.text
    assert "ended span" not in caplog.text


def test_loop() -> None:
    """A view that is called for each message has a span for each call."""
    with opened("/loop/") as ws:
        ws.send("hi")
        ws.send("hi again")
    first, second, *_ = spans("receive")
    assert first.parent is second.parent is None
    assert parent_of(spans("publish")[0]) == id_of(first)
    assert links_of(first) == [id_of(handshake("/loop/"))]
    assert (first.attributes or {})["code.function.name"] == f"{__name__}.loop"


@pytest.mark.django_db(transaction=True)
def test_on_commit() -> None:
    """A message that is sent at the commit belongs to the moment of the call."""
    with own.start_as_current_span("outer"), transaction.atomic():
        with own.start_as_current_span("page"):
            Group("room.1").send("hi", on_commit=True)
        assert not spans("publish")
    assert parent_of(span("publish")) == id_of(span("page"))


def test_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that is not sent is an error, even if none is raised."""

    def fail(*args: Any) -> None:
        raise BackendUnavailable("redis://127.0.0.1", "it is away")

    monkeypatch.setattr(pubsub, "publish", fail)
    with own.start_as_current_span("page"):
        Group("room.1").send("hi", fail_silently=True)
        with pytest.raises(BackendUnavailable):
            Group("room.1").send("hi")
    for each in spans("publish"):
        assert each.status.status_code is StatusCode.ERROR
    assert span("page").status.status_code is StatusCode.UNSET


def test_sampling() -> None:
    """A receiver follows the decision of the sender, and each message is a decision."""
    sampling.chosen = ParentBased(Only({"publish"}))
    with opened("/watching/") as ws, opened("/room/") as room:
        Group("room.1").send("hi")
        assert ws.receive() == "hi"
        assert sorted(names()) == ["publish", "receive"]
        sampling.chosen = ParentBased(Only({"receive"}))
        Group("room.1").send("hi")
        assert ws.receive() == "hi"
        assert len(names()) == 2
        room.send("hi")
        assert ws.receive() == "hi"
        assert len(names()) == 5


class Counting(RandomIdGenerator):
    """Counts the spans that the SDK makes."""

    made = 0

    def generate_span_id(self) -> int:
        """Return an id."""
        self.made += 1
        return super().generate_span_id()


@pytest.mark.parametrize(
    ("sampler", "made", "exported"),
    [
        (ParentBased(ALWAYS_OFF), 1, 0),
        (ParentBased(ParentBased(ALWAYS_OFF)), 1, 0),
        (ALWAYS_OFF, 3, 0),
        (ParentBased(ALWAYS_OFF, local_parent_not_sampled=ALWAYS_ON), 3, 2),
        (ParentBased(ALWAYS_OFF, remote_parent_not_sampled=ALWAYS_ON), 3, 1),
        (ParentBased(ParentBased(ALWAYS_OFF), local_parent_not_sampled=Only({"publish"})), 3, 2),
        (ParentBased(ALWAYS_ON), 3, 3),
    ],
)
def test_dropped(
    monkeypatch: pytest.MonkeyPatch, sampler: Sampler, made: int, exported: int
) -> None:
    """The SDK makes no span whose parent is dropped, if the sampler would drop it for that."""
    counting = Counting()
    other = TracerProvider(sampler=sampler, id_generator=counting)
    other.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", other.get_tracer)
    with opened("/watching/") as ws, opened("/room/") as room:
        # Also the second time, when the tracer is known.
        for _ in range(2):
            exporter.clear()
            before = counting.made
            room.send("hi")
            assert ws.receive() == "hi"
            assert (counting.made - before, len(names())) == (made, exported)


def test_baggage() -> None:
    """What a receiver finds in its context is its own, not that of the last message."""
    found: list[Any] = []
    message = TracedMessage(TEXT, b"hi", "room.1", f"00-{7:032x}-{8:016x}-01")

    class Seeing(Watching):
        view = None

        def group_receive(self, message: str | bytes) -> None:
            span = trace.get_current_span().get_span_context()
            found.append((baggage.get_baggage("who"), span))

    class Socket:
        hooks = Seeing()

    def receive(who: str) -> None:
        context.attach(baggage.set_baggage("who", who))
        OpenTelemetry().group_receive(Socket(), Socket.hooks.group_receive, message, "hi")

    for who in ("one", "two"):
        copy_context().run(receive, who)
    assert [who for who, _ in found] == ["one", "two"]
    assert {span.trace_id for _, span in found} == {7}


@pytest.mark.parametrize("moment", ["start", "end"])
def test_faulty_processor(moment: str, caplog: pytest.LogCaptureFixture) -> None:
    """What a processor raises is counted and logged, and the socket notices nothing."""
    before = counters["tracing_failed"]
    with opened("/watching/") as ws, opened("/room/") as room, opened("/chat/") as chat:
        Faulty.at.add(moment)
        room.send("hi")
        assert ws.receive() == "hi"
        chat.send_json({"type": "x"})
        with WebSocketClient().websocket("/talk/") as talking:
            talking.send("there")
            assert [ws.receive(), ws.receive()] == ["hello", "there"]
        assert not ws.closed
        Faulty.at.clear()
    assert counters["tracing_failed"] - before >= 6
    records = [each for each in caplog.records if each.name == "django_wsmux.tracing"]
    assert "OpenTelemetry failed" in caplog.text
    assert 1 <= len(records) <= 20
    assert all(each.levelno == logging.ERROR for each in records)


def test_faulty_sampler() -> None:
    """What a sampler raises does not reach a view."""

    class Broken(Sampler):
        def should_sample(self, *args: Any, **options: Any) -> SamplingResult:
            raise RuntimeError("no decision")

        def get_description(self) -> str:
            return "broken"

    with opened("/watching/") as ws, opened("/room/") as room:
        exporter.clear()
        sampling.chosen = Broken()
        room.send("hi")
        assert ws.receive() == "hi"
        sampling.chosen = ALWAYS_ON
        assert not names()


def test_state() -> None:
    """A socket takes its link along to another process."""
    tracer = OpenTelemetry()
    one, two = Room(), Room()  # any objects
    assert tracer.state(one) == ""
    with own.start_as_current_span("handshake"):
        tracer.opens(one)
    state = tracer.state(one)
    trace_id, span_id = id_of(span("handshake"))
    assert state.startswith(f"00-{trace_id:032x}-{span_id:016x}-0")
    tracer.restore(two, state)
    assert tracer.state(two) == state
    for damaged in ("", "x", state[:-1], f"00-{'0' * 32}-{'0' * 16}-01"):
        other = Room()
        tracer.restore(other, damaged)
        assert tracer.state(other) == ""


def test_handover() -> None:
    """A moved socket still links to its handshake, and its view has the same name."""
    with opened("/watching/") as ws:
        shake = handshake("/watching/")
        ws.handover()
        for text in ("first", "second"):
            Group("room.1").send(text)
            assert ws.receive() == text
        for each in spans("receive"):
            assert id_of(shake) in links_of(each)
            name = f"{__name__}.Watching.group_receive"
            assert (each.attributes or {})["code.function.name"] == name


def test_setting() -> None:
    """The setting decides, and a check tells of a missing package."""
    assert isinstance(tracing.tracer, OpenTelemetry)
    with override_settings(WEBSOCKET_TRACING=False):
        assert tracing.tracer is None
    setting = conf.SETTINGS["WEBSOCKET_TRACING"]
    assert setting.default is False
    assert "must be True or False" in str(setting.problem("yes"))


_PROGRAM = """
import json, sys
if json.loads(sys.argv[2]):
    import opentelemetry
    opentelemetry.__path__ = []
from django.conf import settings
settings.configure(
    SECRET_KEY="x" * 50, ROOT_URLCONF=__name__, WEBSOCKET_URLCONF=__name__,
    WEBSOCKET_BACKEND="memory://", INSTALLED_APPS=["django_wsmux"],
    WEBSOCKET_TRACING=json.loads(sys.argv[1]),
)
urlpatterns = []
import django
django.setup()
from django_wsmux import conf
from django_wsmux.connection import tracing
from django_wsmux.groups import Group
Group("room").send("hi")
found = [name for name in sys.modules if name.startswith("opentelemetry.")]
print(json.dumps({
    "imported": bool(found) or "django_wsmux.monitoring.tracing" in sys.modules,
    "sdk": "opentelemetry.sdk" in sys.modules,
    "traces": tracing.tracer is not None,
    "problems": [message for _, message in conf.problems()],
}))
"""


@pytest.mark.parametrize("is_missing", [False, True], ids=["installed", "missing"])
@pytest.mark.parametrize("is_wanted", [False, True], ids=["off", "on"])
def test_imports(is_wanted: bool, is_missing: bool) -> None:
    """A process that does not trace imports nothing of it; one that does needs no SDK."""
    command = [sys.executable, "-c", _PROGRAM, json.dumps(is_wanted), json.dumps(is_missing)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    does_trace = is_wanted and not is_missing
    assert found["imported"] is found["traces"] is does_trace
    assert not found["sdk"]
    if is_wanted and is_missing:
        (problem,) = found["problems"]
        assert 'pip install "django-wsmux[otel]"' in problem
    else:
        assert not found["problems"]

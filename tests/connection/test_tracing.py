"""A tracer sees the messages of event views and of groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction

from django_wsmux.connection import tracing
from django_wsmux.groups import Group
from django_wsmux.protocol.prepared import PreparedMessage
from django_wsmux.test import WebSocketClient
from tests.tracers import Silent

pytestmark = pytest.mark.usefixtures("sockets")


TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Tracer(Silent):
    """Notes what begins, ends and fails."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def receive(self, websocket: Any, handle: Callable[[Any], object], message: Any) -> object:
        """Note a message of the client."""
        self.events.append(("begins", websocket.path, message))
        try:
            return handle(message)
        except BaseException as error:
            self.events.append(repr(error))
            raise
        finally:
            self.events.append("ends")

    def group_receive(
        self,
        websocket: Any,
        handle: Callable[[Any], object],
        prepared: PreparedMessage,
        message: str | bytes,
    ) -> object:
        """Note a message of a group."""
        self.events.append(("gets", prepared.group, message, prepared.traceparent))
        return handle(message)

    def publisher(
        self, name: str, send: Callable[[bool, str], None], *, is_stored: bool = False
    ) -> Callable[[bool], None]:
        """Note a message to a group."""
        self.events.append(("publisher", name))

        def publish(fail_silently: bool) -> None:
            self.events.append(("publishes", name, fail_silently))
            send(fail_silently, TRACEPARENT)

        return publish


@pytest.fixture
def tracer(monkeypatch: pytest.MonkeyPatch) -> Tracer:
    """The tracer of the process, for one test."""
    tracer = Tracer()
    monkeypatch.setattr(tracing, "tracer", tracer)
    return tracer


def test_none_by_default() -> None:
    """No process traces unless it is told to."""
    assert tracing.tracer is None


def test_receive(client: WebSocketClient, tracer: Tracer) -> None:
    """Each message is traced around the view, and what the view raises passes through."""
    with client.websocket("/event/") as ws:
        ws.send("hi")
        assert ws.receive() == "hi"
        assert tracer.events == [("begins", "/event/", "hi"), "ends"]
        tracer.events.clear()
        with pytest.raises(ValueError, match="it broke"):
            ws.send("crash")
    assert tracer.events == [
        ("begins", "/event/", "crash"),
        "ValueError('it broke')",
        "ends",
    ]


@pytest.mark.django_db(transaction=True)
def test_publish(tracer: Tracer) -> None:
    """A message to a group is traced when it is sent, which may be at the commit."""
    Group("room").send("hi")
    assert tracer.events == [("publisher", "room"), ("publishes", "room", False)]
    tracer.events.clear()
    with transaction.atomic():
        Group("other").send("hi", on_commit=True)
        assert tracer.events == [("publisher", "other")]
    assert tracer.events[1:] == [("publishes", "other", True)]

"""A tracer sees the messages of event views and of groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction

from django_wsmux.connection import tracing
from django_wsmux.groups import Group
from django_wsmux.test import WebSocketClient

pytestmark = pytest.mark.usefixtures("sockets")


class Tracer:
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

    def publish(self, name: str, send: Callable[[bool], None], fail_silently: bool) -> None:
        """Note a message to a group."""
        self.events.append(("publishes", name, fail_silently))
        send(fail_silently)


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
    assert tracer.events == [("publishes", "room", False)]
    with transaction.atomic():
        Group("other").send("hi", on_commit=True)
        assert len(tracer.events) == 1
    assert tracer.events[1:] == [("publishes", "other", True)]

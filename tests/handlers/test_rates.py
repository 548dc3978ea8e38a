"""Limits on messages of a type: rates, what is answered, and what stays after a move."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from django import forms
from django.test import override_settings
from django.urls import path

from django_wsmux.connection.counters import counters
from django_wsmux.handlers.rates import Buckets, Rate, parse_rate, take
from django_wsmux.requests import RateLimited
from django_wsmux.test import WebSocketClient
from django_wsmux.views import FormWebSocketView, JSONWebSocketView

pytestmark = pytest.mark.usefixtures("sockets")

TEXT = "There were too many messages of this type."


class Clock:
    """The time, which a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock of the test."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1/s", Rate(1, 1)),
        ("10/m", Rate(10, 60)),
        ("100/h", Rate(100, 3600)),
        ("7/d", Rate(7, 86400)),
        ("3/10s", Rate(3, 10)),
        ("1/15m", Rate(1, 900)),
    ],
)
def test_rates(text: str, rate: Rate) -> None:
    """A rate is a number of messages and a time."""
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", "10", "10/", "0/s", "-1/s", "1.5/s", "1/0s", "1/w", "\u0661/s", 10]
)
def test_bad_rates(text: Any) -> None:
    """The error shows how a rate is written."""
    with pytest.raises(ValueError, match=r"is not a rate: write .* '10/m'"):
        parse_rate(text)


def test_take(clock: Clock) -> None:
    """All may come at once; then one for each part of the time, and never more than all."""
    buckets: Buckets = {}
    rate = Rate(10, 60)

    def taken() -> int:
        """Count messages until one is refused."""
        for number in range(100):
            try:
                take(buckets, "say", rate)
            except RateLimited:
                return number
        raise AssertionError("there is no limit")

    assert taken() == 10
    with pytest.raises(RateLimited) as caught:
        take(buckets, "say", rate)
    assert caught.value.retry_after == 6
    take(buckets, "draw", rate)
    clock.now += 6
    assert taken() == 1
    clock.now += 30
    assert taken() == 5
    clock.now += 1e6
    assert taken() == 10
    clock.now -= 1e6
    assert taken() == 0


def test_told_time_suffices(clock: Clock) -> None:
    """A client that waits for ``retry_after`` is not refused again, whatever the fractions are."""
    for messages, seconds in [(3, 1), (7, 60), (7, 3600), (11, 86400)]:
        buckets: Buckets = {}
        for _ in range(50):
            try:
                take(buckets, "say", Rate(messages, seconds))
            except RateLimited as error:
                clock.now += error.retry_after
                take(buckets, "say", Rate(messages, seconds))
            clock.now += 0.07


class SayForm(forms.Form):
    text = forms.CharField()


class Chat(FormWebSocketView):
    forms = {"say": SayForm, "free": SayForm}  # noqa: RUF012
    limits = {"say": "2/h"}  # noqa: RUF012

    def say_valid(self, form: SayForm) -> str:
        self.send("said")
        return "said"

    def free_valid(self, form: SayForm) -> None:
        self.send("free")


class Raw(JSONWebSocketView):
    limits = {"say": "1/h"}  # noqa: RUF012

    def receive_json(self, value: Any) -> None:
        self.send("handled")


class Once(JSONWebSocketView):
    limits = {"say": "2/h"}  # noqa: RUF012
    once = True
    handled = 0

    def receive_json(self, value: Any) -> int:
        self.handled += 1
        return self.handled


urlpatterns = [
    path("chat/", Chat.as_view()),
    path("raw/", Raw.as_view()),
    path("once/", Once.as_view()),
]

SITE = override_settings(WEBSOCKET_URLCONF=__name__)


@SITE
def test_answers(client: WebSocketClient) -> None:
    """Too many messages are answered, with and without a ref; others and other sockets go on."""
    before = counters["rate_limited"]
    with client.websocket("/chat/") as ws, client.websocket("/chat/") as other:
        ws.send_json({"type": "say", "text": "1"})
        assert ws.receive() == "said"
        ws.send_json({"type": "say", "text": "2", "ref": 1})
        assert ws.receive() == "said"
        assert ws.receive_json() == {"type": "say", "ref": 1, "reply": "said"}
        ws.send_json({"type": "say", "text": "3"})
        refused = ws.receive_json()
        assert 1700 < refused.pop("retry_after") <= 1800
        errors = {"__all__": [{"message": TEXT, "code": "rate_limited"}]}
        assert refused == {"type": "say", "errors": errors}
        # Also one that is not valid: the work of checking it is limited, too.
        ws.send_json({"type": "say", "ref": "a"})
        refused = ws.receive_json()
        assert 1700 < refused.pop("retry_after") <= 1800
        assert refused == {"type": "say", "ref": "a", "errors": errors}
        for _ in range(9):
            ws.send_json({"type": "free", "text": "x"})
            assert ws.receive() == "free"
        other.send_json({"type": "say", "text": "1"})
        assert other.receive() == "said"
        assert not ws.closed
    assert counters["rate_limited"] == before + 2


@SITE
@pytest.mark.parametrize(
    "value", [[], "say", 7, None, {"type": ["say"]}, {"type": {}}, {"type": "other"}, {}]
)
def test_other_values(client: WebSocketClient, value: Any) -> None:
    """Messages without a limited type pass, whatever they are."""
    with client.websocket("/raw/") as ws:
        for _ in range(3):
            ws.send(json.dumps(value))
            assert ws.receive() == "handled"
        ws.send_json({"type": "say"})
        assert ws.receive() == "handled"
        ws.send_json({"type": "say"})
        assert "retry_after" in ws.receive_json()


@SITE
def test_once(client: WebSocketClient, clock: Clock) -> None:
    """A request that came too early may come again with its ``ref``; its reply is then kept."""
    with client.websocket("/once/") as ws:
        for number in (1, 2):
            ws.send_json({"type": "say", "ref": number})
            assert ws.receive_json() == {"type": "say", "ref": number, "reply": number}
        ws.send_json({"type": "say", "ref": 3})
        assert ws.receive_json()["retry_after"] == 1800
        clock.now += 1800
        for _ in range(2):
            ws.send_json({"type": "say", "ref": 3})
            assert ws.receive_json() == {"type": "say", "ref": 3, "reply": 3}
        # What was handled is not counted again.
        ws.send_json({"type": "say", "ref": 1})
        assert ws.receive_json() == {"type": "say", "ref": 1, "reply": 1}


@SITE
def test_moved(client: WebSocketClient) -> None:
    """A socket that moves to another process has sent what it has sent."""
    with client.websocket("/raw/") as ws:
        ws.send_json({"type": "say"})
        assert ws.receive() == "handled"
        ws.handover()
        ws.send_json({"type": "say"})
        assert "retry_after" in ws.receive_json()


def test_checked() -> None:
    """Errors in limits are found when the URLconf is imported, and name their place."""
    with pytest.raises(ValueError, match=r"Chat\.limits\['sya'\]: forms has no such type"):
        Chat.as_view(limits={"sya": "1/s"})
    with pytest.raises(ValueError, match=r"Raw\.limits\['say'\]: 'often' is not a rate"):
        Raw.as_view(limits={"say": "often"})
    with pytest.raises(TypeError, match=r"Raw\.limits = '1/s': write"):
        Raw.as_view(limits="1/s")

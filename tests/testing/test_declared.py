"""In tests a view sends what it declares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar, Literal

import pytest
from django.test import override_settings
from django.urls import path
from django.utils import timezone

from django_wsmux.groups import Group
from django_wsmux.protocol.handshake import V1
from django_wsmux.test import ClientWebSocket, WebSocketClient
from django_wsmux.views import FormWebSocketView, JSONWebSocketView

pytestmark = pytest.mark.usefixtures("websocket_client")


@dataclass
class Person:
    name: str
    age: int = 0


@dataclass
class Said:
    by: Person
    text: str
    at: datetime | None = None


@dataclass
class Paid:
    amount: Decimal
    type: Literal["paid"] = "paid"
    currency: str = field(init=False, default="EUR")


@dataclass
class Ask:
    what: str


class Room(FormWebSocketView):
    """Sends what a test tells it to."""

    groups = ("room",)
    forms: ClassVar[dict[str, Any]] = {"ask": Ask, "free": Ask}
    sends: ClassVar[dict[str, Any]] = {"said": Said, "paid": Paid}
    message: Any = None

    def ask_valid(self, ask: Ask) -> Person:
        return self.message  # type: ignore[no-any-return]

    def free_valid(self, ask: Ask):  # type: ignore[no-untyped-def]
        return self.message


class Silent(JSONWebSocketView):
    """Declares that it sends nothing."""

    sends: ClassVar[dict[str, Any]] = {}

    def connect(self, request: Any) -> None:
        self.send_json({"type": "welcome"})


urlpatterns = [
    path("room/", Room.as_view()),
    path("silent/", Silent.as_view()),
    path("undeclared/", Silent.as_view(sends=None)),
]


@pytest.fixture(params=[(), (V1,)], ids=["plain", "v1"])
def ws(request: pytest.FixtureRequest) -> Iterator[ClientWebSocket]:
    """A socket in the room."""
    with (
        override_settings(WEBSOCKET_URLCONF=__name__),
        WebSocketClient().websocket("/room/", request.param) as ws,
    ):
        yield ws


PERSON = {"name": "ann", "age": 5}


@pytest.mark.parametrize(
    "message",
    [
        {"type": "said", "by": PERSON, "text": "hi", "at": None},
        {"type": "said", "by": Person("ann"), "text": "hi", "at": timezone.now()},
        Paid(Decimal("1E+2")),
    ],
)
def test_declared(ws: ClientWebSocket, message: Any) -> None:
    """Messages that fit are received."""
    Group("room").send_json(message)
    Group("room").send("not JSON")
    Group("room").send(b"binary")
    ws.send_json({"type": "ask"})
    assert not ws.closed


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            {"type": "sayd"},
            r"Room sends a message of the type 'sayd', which its sends does not declare "
            r"\(declared: 'said', 'paid'\)",
        ),
        (
            {"type": "said", "by": {"name": "ann"}, "text": 5},
            r"Room sends a message of the type 'said' that does not fit Said: by.age: This field "
            r"is required.; text: Enter a valid value.; at: This field is required.",
        ),
        ({"type": "said", "by": PERSON, "text": "", "at": None, "to": 1}, r"to: There is no such"),
        (Person("ann"), r'Room sends {"name": "ann", "age": 0}, a message without a type'),
        ([1], r"Room sends \[1\], a message without a type"),
        ({"type": "paid", "amount": "1"}, "currency: This field is required."),
    ],
)
def test_undeclared(ws: ClientWebSocket, message: Any, reason: str) -> None:
    """A message that is not declared, or does not fit, fails the test, also if a group sends it."""
    Group("room").send_json(message)
    with pytest.raises(AssertionError, match=reason):
        ws.receive_json()


@pytest.mark.parametrize("ws", [()], indirect=True)
def test_reply(ws: ClientWebSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply fits the return annotation, if there is one."""
    ask = {"type": "ask", "what": "", "ref": 1}
    monkeypatch.setattr(Room, "message", Person("ann"))
    ws.send_json(ask)
    assert ws.receive_json() == {"type": "ask", "ref": 1, "reply": {"name": "ann", "age": 0}}
    ws.send_json({**ask, "what": 5})
    assert "errors" in ws.receive_json()
    monkeypatch.setattr(Room, "message", 5)
    ws.send_json({**ask, "type": "free"})
    assert ws.receive_json()["reply"] == 5
    with pytest.raises(AssertionError, match=r"replies to 'ask' with 5, .* of ask_valid\(\): "):
        ws.send_json(ask)


@override_settings(WEBSOCKET_URLCONF=__name__)
def test_nothing_declared() -> None:
    """``sends = {}`` declares that nothing is sent; ``None`` declares nothing."""
    client = WebSocketClient()
    with client.websocket("/undeclared/") as ws:
        assert ws.receive_json() == {"type": "welcome"}
    with pytest.raises(AssertionError, match=r"'welcome'.*declared: none"):  # noqa: SIM117
        with client.websocket("/silent/"):
            pass

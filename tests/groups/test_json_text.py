"""JSON text, with the project's encoder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import Enum
from typing import Any

import pytest
from django.test import override_settings

from django_wsmux.groups import Group
from django_wsmux.groups.json_text import dump_json
from django_wsmux.test import WebSocketClient

from .test_group import LOBBY, SITE, VALUE, WRITTEN, ws_of

pytestmark = pytest.mark.usefixtures("sockets")


@SITE
def test_one_encoder(client: WebSocketClient) -> None:
    """Views, groups and the test client encode dates, decimals and UUIDs alike."""
    with client.websocket("/lobby/") as ws:
        ws.send("json")
        ws.send("group json")
        Group("lobby").send_json(VALUE)
        assert [json.loads(text) for text in ws.peek()] == [WRITTEN] * 3
        ws.send_json(VALUE)
        assert Group("lobby").members()[0].info == {"name": None, "since": "2026-05-01"}


class Encoder(json.JSONEncoder):
    """Encodes sets."""

    def default(self, o: Any) -> Any:
        """Encode a set as a list."""
        return sorted(o) if isinstance(o, set) else super().default(o)


@override_settings(
    WEBSOCKET_URLCONF="tests.groups.test_group",
    WEBSOCKET_JSON_ENCODER="tests.groups.test_json_text.Encoder",
)
def test_own_encoder(client: WebSocketClient) -> None:
    """Only the project's encoder is used; an argument takes precedence."""
    with WebSocketClient(raise_request_exception=False).websocket("/lobby/") as ws:
        # Its info contains a date.
        assert ws.close_code == 1011
    with client.websocket("/visitor/") as ws:
        LOBBY.send_json({1, 2})
        assert ws.peek() == ["[1, 2]"]
        with pytest.raises(TypeError, match="date is not JSON serializable"):
            LOBBY.send_json(VALUE)
        LOBBY.send_json(VALUE["when"], default=str)
        assert ws.peek()[1:] == ['"2026-05-01"']
        socket = ws_of("lobby")
        with pytest.raises(TypeError, match="date is not JSON serializable"):
            socket.send_json(VALUE)


@dataclass
class Point:
    """A dataclass with a date and a set in it."""

    x: Any
    day: date = date(2026, 5, 1)


class Color(Enum):
    """An enumeration."""

    RED = "red"


def test_dataclasses() -> None:
    """Dataclasses and members of enumerations are encoded, at any depth."""
    value = [Point(Point(Color.RED)), {"at": datetime(2026, 5, 1, 12, tzinfo=UTC)}]
    inner = {"x": "red", "day": "2026-05-01"}
    expected = [{"x": inner, "day": "2026-05-01"}, {"at": "2026-05-01T12:00:00Z"}]
    assert json.loads(dump_json(value)) == expected
    for wrong in (Point, object(), Point(object())):
        with pytest.raises(TypeError, match="not JSON serializable"):
            dump_json(wrong)


@override_settings(WEBSOCKET_JSON_ENCODER="tests.groups.test_json_text.Encoder")
def test_dataclasses_and_own_encoder() -> None:
    """The project's encoder encodes what is in a dataclass."""
    assert json.loads(dump_json(Point({1, 2}, Color.RED))) == {"x": [1, 2], "day": "red"}  # type: ignore[arg-type]

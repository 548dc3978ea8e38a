"""Dataclasses in FormWebSocketView."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Any, ClassVar, Literal

import pytest
from django import forms
from django.core.exceptions import ValidationError
from django.test import override_settings
from django.urls import path

from django_wsmux.groups import Group
from django_wsmux.handlers.dataclass_forms import DataclassForm
from django_wsmux.test import ClientWebSocket, WebSocketClient
from django_wsmux.views import FormWebSocketView

pytestmark = pytest.mark.usefixtures("websocket_client")


class Color(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: int = 0


@dataclass
class Move:
    to: Point
    day: date | None = None
    color: Color = Color.RED


@dataclass
class Moved:
    to: Point
    color: Color
    type: Literal["moved"] = "moved"


class SayForm(forms.Form):
    text = forms.CharField()


@dataclass
class Other:
    text: str


@dataclass
class Deep:
    inner: list[Deep]


class Game(FormWebSocketView):
    groups = ("game",)
    forms: ClassVar[dict[str, Any]] = {"move": Move, "say": SayForm, "other": Other, "deep": Deep}

    def move_valid(self, move: Move) -> None:
        assert isinstance(move, Move)
        self.send_json(Moved(move.to, move.color))
        Group("game").send_json({"all": [Moved(move.to, move.color)]})

    def say_valid(self, form: SayForm) -> None:
        self.send_json({"said": form.cleaned_data})

    def form_valid(self, form: Any) -> None:
        self.send_json({"other": form.value, "data": form.data, "type": form.message_type})


urlpatterns = [path("game/", Game.as_view())]


@pytest.fixture
def ws() -> Iterator[ClientWebSocket]:
    with (
        override_settings(WEBSOCKET_URLCONF=__name__),
        WebSocketClient().websocket("/game/") as ws,
    ):
        yield ws


def test_valid(ws: ClientWebSocket) -> None:
    """``<type>_valid()`` gets the dataclass; dataclasses can be sent, alone and in values."""
    ws.send_json({"type": "move", "ref": 1, "to": {"x": 1}})
    moved = {"type": "moved", "to": {"x": 1, "y": 0}, "color": "red"}
    assert ws.receive_json() == moved
    assert ws.receive_json() == {"all": [moved]}


def test_invalid(ws: ClientWebSocket) -> None:
    """Errors have the format of those of forms, with dotted paths."""
    ws.send_json({"type": "move", "to": {"x": "a"}, "day": "tomorrow"})
    answer = ws.receive_json()
    assert answer["type"] == "move"
    assert answer["errors"] == {
        "to.x": [{"message": "Enter a whole number.", "code": "invalid"}],
        "day": [{"message": "Enter a valid date.", "code": "invalid"}],
    }


def test_form_valid(ws: ClientWebSocket) -> None:
    """Without ``<type>_valid()``, ``form_valid()`` gets an object like a form."""
    ws.send_json({"type": "other", "text": "hi"})
    assert ws.receive_json() == {
        "other": {"text": "hi"},
        "data": {"type": "other", "text": "hi"},
        "type": "other",
    }


def test_beside_forms(ws: ClientWebSocket) -> None:
    """Forms and dataclasses are in one view."""
    ws.send_json({"type": "say", "text": "hi"})
    assert ws.receive_json() == {"said": {"text": "hi"}}


def test_deep(ws: ClientWebSocket) -> None:
    """Any depth of nesting is answered."""
    for depth in (10, 50, 300, 900, 5000, 20_000):
        text = '{"inner": [' * depth + "]}" * depth
        ws.send(text.replace("{", '{"type": "deep", ', 1))
        assert ws.receive_json()
    assert not ws.closed


class TestDataclassForm:
    """What views do with forms works for dataclasses, too."""

    def test_add_error(self) -> None:
        """Errors can be added, with and without a field."""
        form = DataclassForm(Point, {"x": 1}, "point")
        assert form.is_valid()
        assert form.value == Point(1)
        form.add_error("x", "too far")
        form.add_error(None, ValidationError("not now", code="closed"))
        form.add_error(None, ValidationError({"y": "too near"}))
        assert not form.is_valid()
        assert form.value is None
        assert json.loads(json.dumps(form.errors.get_json_data())) == {
            "x": [{"message": "too far", "code": ""}],
            "__all__": [{"message": "not now", "code": "closed"}],
            "y": [{"message": "too near", "code": ""}],
        }


@dataclass
class Reference:
    ref: str


@dataclass
class WrongType:
    type: Literal["other"]


@dataclass
class Sets:
    items: set[int]


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (Sets, r"Sets.items: the type hint set\[int\] is not supported: write list\[str\]"),
        (Reference, r"Broken.{}\['a'\]: Reference.ref: messages have a key ref"),
        (WrongType, r"Broken.{}\['a'\]: WrongType.type does not fit: write type: Literal\[\"a\"\]"),
        (dict, r"Broken.{}\['a'\]: <class 'dict'> is not a dataclass: decorate it"),
        (Point(1), r"Broken.{}\['a'\]: Point\(x=1, y=0\) is not a dataclass"),
    ],
)
@pytest.mark.parametrize("name", ["forms", "sends"])
def test_as_view(name: str, described: Any, message: str) -> None:
    """A dataclass that cannot be used is an error when the URLconf is imported."""
    broken: Any = type("Broken", (FormWebSocketView,), {name: {"a": described}})
    with pytest.raises(TypeError, match=message.format(name)):
        broken.as_view()


@dataclass(init=False)
class Bare:
    x: int


class Own(Point):
    def __init__(self, x: int, extra: int) -> None:
        super().__init__(x + extra)


@dataclass
class Lists:
    items: list[Own]


class More(Point):
    def __init__(self, x: int, **fields: int) -> None:
        super().__init__(x, **fields)


def test_constructor() -> None:
    """What clients send must be accepted by the constructor; what they get is not made."""
    for described in (Bare, Own, Lists):
        with pytest.raises(TypeError, match=r"__init__\(\) must take the fields, by name"):
            FormWebSocketView.as_view(forms={"a": described})
        FormWebSocketView.as_view(sends={"a": described})
    FormWebSocketView.as_view(forms={"a": More})


class ReferenceForm(forms.Form):
    ref = forms.CharField()


class PrefixedForm(ReferenceForm):
    prefix = "own"


def test_ref_of_form() -> None:
    """A form cannot have a field with the name of a message's key, but for its prefix."""
    broken: Any = type("Broken", (FormWebSocketView,), {"forms": {"a": ReferenceForm}})
    with pytest.raises(
        TypeError, match=r"forms\['a'\]: ReferenceForm.ref: messages have a key ref"
    ):
        broken.as_view()
    assert broken.as_view(forms={"a": PrefixedForm})


_PROGRAM = """
import sys
from django.conf import settings
settings.configure(SECRET_KEY="x" * 50, INSTALLED_APPS=["django_wsmux"])
import django
django.setup()
from django import forms
from django_wsmux.views import FormWebSocketView
class Form(forms.Form):
    text = forms.CharField()
class View(FormWebSocketView):
    forms = {"say": Form}
View.as_view()
unwanted = {f"django_wsmux.handlers.{name}" for name in ("hints", "json_values", "dataclass_forms")}
sys.exit(", ".join(unwanted & sys.modules.keys()) or None)
"""


def test_not_imported() -> None:
    """A process without dataclasses does not import the code for them."""
    subprocess.run([sys.executable, "-c", _PROGRAM], check=True)

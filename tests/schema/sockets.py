"""A URLconf with views that declare their messages."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from django import forms
from django.contrib.auth.decorators import login_required
from django.urls import include, path

from django_wsmux.decorators import websocket
from django_wsmux.views import FormWebSocketView, JSONWebSocketView, WebSocketView

if TYPE_CHECKING:
    from decimal import Decimal


class SayForm(forms.Form):
    text = forms.CharField(max_length=500)
    urgent = forms.BooleanField(required=False)
    color = forms.ChoiceField(choices=[("r", "Red"), ("b", "Blue")], required=False)


@dataclass
class Point:
    x: int
    y: int = 0


@dataclass
class Move:
    to: Point
    via: list[Point] = field(default_factory=list)
    type: Literal["move"] = "move"


@dataclass
class Moved:
    to: Point
    by: str | None
    at: datetime
    type: Literal["moved"] = "moved"


@dataclass
class Nothing:
    pass


class Game(FormWebSocketView):
    """Declares everything."""

    forms: ClassVar[dict[str, Any]] = {
        "say": SayForm,
        "move": Move,
        "wait-here": Nothing,
        "look": Nothing,
    }
    sends: ClassVar[dict[str, Any]] = {"moved": Moved, "bye": Nothing}

    def say_valid(self, form: SayForm) -> dict[str, int]:
        return {"length": len(form.cleaned_data["text"])}

    def move_valid(self, move: Move, cost: Decimal | None = None) -> Point:
        return move.to

    def form_valid(self, form: Any) -> None:
        """Answer nothing."""


class Clock(JSONWebSocketView):
    """Declares what it sends, and gets anything."""

    sends: ClassVar[dict[str, Any]] = {"bye": Nothing}


class Inbox(FormWebSocketView):
    """Declares what it gets."""

    forms: ClassVar[dict[str, Any]] = {"look": Nothing}

    def look_valid(self, look: Nothing):  # type: ignore[no-untyped-def]
        return None


class Echo(WebSocketView):
    """Declares nothing."""


@websocket
def function(request: Any, websocket: Any) -> None:
    """A function view."""


private = [path("clock/", login_required(Clock.as_view()), name="clock")]
urlpatterns = [
    path("game/<slug:room>/", Game.as_view(), name="game"),
    path("private/", include((private, "me"))),
    path("inbox/", Inbox.as_view()),
    path("game/", Game.as_view(), name="any-game"),
    path("echo/", Echo.as_view(), name="echo"),
    path("function/", function, name="function"),
]

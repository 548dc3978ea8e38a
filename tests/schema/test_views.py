"""The views of a URLconf, and their types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from django.urls import path

from django_wsmux.schema.records import Definitions
from django_wsmux.schema.views import View, find_views, types_of
from django_wsmux.views import FormWebSocketView

from . import sockets


@dataclass
class Message:
    text: str


class Broken(FormWebSocketView):
    forms = {"a": Message}  # noqa: RUF012

    def a_valid(self, message: Message) -> set[int]:
        return set()


class Unknown(FormWebSocketView):
    forms = {"a": Message}  # noqa: RUF012

    def a_valid(self, message: Message) -> Missing:  # type: ignore[name-defined]  # noqa: F821
        return None


def named(view_class: Any) -> View:
    return View(view_class, view_class.forms, view_class.sends)


def test_find_views() -> None:
    """Class-based views are found once, with all their patterns, behind decorators, too."""
    found = find_views(sockets)
    assert [view.path.rpartition(".")[2] for view in found] == ["Clock", "Echo", "Game", "Inbox"]
    clock, echo, game, inbox = found
    assert game.names == ["game", "any-game"]
    assert game.routes == ["game/<slug:room>/", "game/"]
    assert clock.names == ["me:clock"]
    assert clock.routes == ["private/clock/"]
    assert (clock.forms, inbox.sends, echo.forms) == (None, None, None)
    assert game.words == ["game", "any-game", "Game", "tests.schema.sockets.Game"]


def test_options() -> None:
    """Arguments of ``as_view()`` count; views that differ have names that differ."""
    patterns = type("patterns", (), {})()
    patterns.urlpatterns = [
        path("a/", sockets.Game.as_view()),
        path("b/", sockets.Game.as_view(sends={})),
        path("c/", sockets.Game.as_view(forms={"say": sockets.SayForm})),
    ]
    types = types_of(find_views(tuple(patterns.urlpatterns)), Definitions())
    assert [each.name for each in types] == ["Game", "Game2", "Game3"]
    assert types[1].receives == {}
    assert list(types[2].sends or ()) == ["say"]


def test_types() -> None:
    """Schemas leave out ``type``; replies come from annotations."""
    definitions = Definitions()
    clock, game, inbox = types_of(
        [each for each in find_views(sockets) if each.view_class is not sockets.Echo], definitions
    )
    assert clock.sends is None
    assert inbox.receives is None
    assert game.sends is not None
    assert game.receives is not None
    assert list(game.sends["move"]["properties"]) == ["to", "via"]
    assert game.sends["move"]["required"] == ["to"]
    assert game.receives["moved"]["required"] == ["to", "by", "at"]
    assert game.replies["move"] == {"$ref": "#/$defs/Point"}
    assert game.replies["look"] == {"type": "null"}
    assert inbox.replies == {"look": {}}
    others = [name for name, schema in definitions.schemas.items() if schema]
    assert sorted(others) == ["Point", "PointInput"]


@pytest.mark.parametrize(
    ("view_class", "message"),
    [
        (Broken, r"Broken.a_valid\(\): the type hint set\[int\] is not supported: write list"),
        (Unknown, r"Unknown.a_valid\(\): the return annotation cannot be evaluated: .*Missing"),
    ],
)
def test_unsupported_reply(view_class: Any, message: str) -> None:
    """An annotation that is not supported is an error that names the method."""
    view_class.as_view()
    with pytest.raises(TypeError, match=message):
        types_of([named(view_class)], Definitions())

"""Hints for names of other packages cost nothing and hide nothing."""

from __future__ import annotations

from typing import Any

import pytest

from django_wsmux.views import WebSocketView
from django_wsmux.websocket import WebSocket


@pytest.mark.parametrize("kind", [WebSocket, WebSocketView])
def test_attributes_cost_nothing(kind: type[Any]) -> None:
    """No class has ``__getattr__()``, which would make attribute access slower."""
    assert not hasattr(kind, "__getattr__")
    assert not hasattr(kind, "scope")


def test_attributes_of_mixins() -> None:
    """The advice does not hide an attribute of a mixin that comes later in the MRO."""

    class Mixin:
        channel_name = "lobby"

        @property
        def scope(self) -> str:
            return self.channel_name

        async def group_add(self) -> None: ...

    class Own(WebSocketView, Mixin):
        pass

    Own.as_view(channel_name="hall")
    assert Own.channel_name == "lobby"
    assert Own(channel_name="hall").scope == "hall"

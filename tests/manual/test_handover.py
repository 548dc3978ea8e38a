"""The examples of ``docs/handover.rst`` do what the page says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import path

from django_wsmux.signals import websocket_closed, websocket_moved, websocket_opened
from django_wsmux.test import WebSocketTestCase
from tests.manual import blocks
from tests.support import ROOT

#: The blocks of the page, which form one program.
NAMES: dict[str, Any] = {"__name__": __name__, "visits": Counter()}
SIGNALS = (websocket_closed, websocket_moved, websocket_opened)


@contextmanager
def disconnected() -> Iterator[None]:
    """Disconnect the receivers that are connected meanwhile."""
    before = [list(signal.receivers) for signal in SIGNALS]
    yield
    for signal, receivers in zip(SIGNALS, before, strict=True):
        signal.receivers[:] = receivers
        signal.sender_receivers_cache.clear()


with disconnected():
    for block in blocks(ROOT / "docs" / "handover.rst"):
        if block.language == "python":
            exec(block.text, NAMES)

urlpatterns = [
    path("board/<name>/", NAMES["Board"].as_view()),
    path("editor/<name>/", NAMES["Editor"].as_view()),
    path("counter/", NAMES["Counter"].as_view()),
]


def count_visits(get_response: Callable[[HttpRequest], HttpResponse]) -> Any:
    """The middleware of the page."""
    return NAMES["count_visits"](get_response)


@pytest.mark.django_db
@override_settings(WEBSOCKET_URLCONF=__name__)
class Tests(WebSocketTestCase):
    """The program of the page."""

    def test_board(self) -> None:
        """All attributes of the first view move."""
        ann = User.objects.create(username="ann", is_staff=True)
        self.client.force_login(ann)
        with self.client.websocket("/board/one/") as ws:
            for text in ("before", "after"):
                ws.send_json({"text": text})
                self.assertReceivesJSON(ws, {"from": "ann", "text": text})
                ws.handover()

    def test_editor(self) -> None:
        """The example of a test passes."""
        NAMES["EditorTests"]("test_draft_survives_a_deploy").debug()

    def test_counter(self) -> None:
        """An attribute of the class is the default for states without it."""
        with self.client.websocket("/counter/") as ws:
            ws.send("")
            self.assertReceives(ws, "1")
            ws.handover()
            NAMES["Counter"].step = 2
            ws.send("")
            self.assertReceives(ws, "3")

    def test_middleware(self) -> None:
        """A socket that moves is not counted."""
        NAMES["visits"].clear()
        with (
            override_settings(MIDDLEWARE=[f"{__name__}.count_visits"]),
            self.client.websocket("/editor/one/") as ws,
        ):
            ws.handover()
            self.assertEqual(NAMES["visits"].total(), 1)


def test_registry() -> None:
    """The receivers follow a socket in both processes."""
    socket = object()
    NAMES["add"](socket)
    NAMES["follow"](socket, is_leaving=True)
    assert not NAMES["here"]
    NAMES["follow"](socket, is_leaving=False)
    assert NAMES["here"] == {socket}
    NAMES["remove"](socket)
    assert not NAMES["here"]

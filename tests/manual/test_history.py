"""The examples of ``docs/history.rst`` do what the page says."""

from __future__ import annotations

import json
from typing import Any

from django.contrib.auth.models import AnonymousUser, User
from django.template import engines
from django.test import RequestFactory, override_settings
from django.urls import path

from django_wsmux.groups import Group
from django_wsmux.test import SimpleWebSocketTestCase
from tests.manual import blocks
from tests.support import ROOT

#: The blocks of the page, which form one program.
BLOCKS = [each for each in blocks(ROOT / "docs" / "history.rst") if each.language == "python"]
SETTINGS: dict[str, Any] = {}
exec(BLOCKS[0].text, SETTINGS)
NAMES: dict[str, Any] = {"__name__": "page"}
for block in BLOCKS[1:]:
    exec(block.text, NAMES)

PAGE = next(
    each.text for each in blocks(ROOT / "docs" / "history.rst") if each.language == "html+django"
)

urlpatterns = [
    path("ws/room/<room>/", NAMES["Room"].as_view(), name="room"),
    path("ws/board/", NAMES["Board"].as_view()),
    path("ws/watch/", NAMES["Watch"].as_view()),
]


def render_page(request: Any, template: str, context: dict[str, Any]) -> Any:
    """Render the template of the page, which is not in a file."""
    assert template == "room.html"
    return engines["django"].from_string(PAGE).render(context, request)


@override_settings(
    ROOT_URLCONF=__name__,
    WEBSOCKET_URLCONF=__name__,
    WEBSOCKET_HISTORY={
        "room.board": {"messages": 2, "seconds": 600},
        **SETTINGS["WEBSOCKET_HISTORY"],
    },
)
class Tests(SimpleWebSocketTestCase):
    """The program of the page."""

    def test_from_a_page_to_its_socket(self) -> None:
        """Messages after the position are replayed when the socket opens."""
        Group("room.1").send("before")
        NAMES["render"] = render_page
        html = NAMES["room"](RequestFactory().get("/"), room="1")
        url = html.partition('const url = "')[2].partition('"')[0]
        position = html.partition('at: "')[2].partition('"')[0]
        Group("room.1").send("between")
        with self.client.websocket(f"{url.partition('testserver')[2]}?at={position}") as ws:
            self.assertReceives(ws, "between")
            self.assertRecovered(ws)
            ws.send("hello")
            self.assertReceives(ws, "hello")
        assert [data for _, data in NAMES["newest"]("1")] == ["before", "between", "hello"]
        NAMES["remove_member"]("1", User())
        assert not NAMES["newest"]("1")

    def test_user(self) -> None:
        """A page can have the position of its user's group; anonymous users have none."""
        for user, count in ((User(pk=7), 2), (AnonymousUser(), 1)):
            request: Any = RequestFactory().get("/")
            request.user = user
            NAMES["resumable"]("room.{room}", "@user")(lambda request, room: None)(
                request, room="1"
            )
            assert len(request.websocket_positions) == count

    def test_gap(self) -> None:
        """The view tells the client; without a gap it says how many messages are replayed."""
        with self.client.websocket("/ws/board/") as board:
            board.cut()
            for number in range(3):
                Group("room.board").send_json(number)
            board.resume()
            self.assertReceivesJSON(board, {"type": "reload"})
            self.assertSilent(board)
        with self.client.websocket("/ws/watch/") as watch:
            watch.cut()
            Group("room.board").send("new")
            watch.resume()
            self.assertReceivesJSON(watch, {"replayed": 1})
            self.assertReceives(watch, "new")

    def test_once(self) -> None:
        """A message with a key is sent once."""
        NAMES["paid"](17)
        NAMES["paid"](17)
        found = Group("room.shop").history().messages
        assert [json.loads(message.data) for message in found] == [{"paid": 17}]


def test_settings() -> None:
    """The page names each limit."""
    text = (ROOT / "docs" / "history.rst").read_text()
    for name in ("messages", "seconds", "bytes"):
        assert f"\n{name} " in text

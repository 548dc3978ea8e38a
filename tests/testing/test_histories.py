"""Tests of projects with WEBSOCKET_HISTORY: cut(), resume(), assertions, a store for each test."""

from __future__ import annotations

from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.template import Context, RequestContext, Template, TemplateSyntaxError
from django.test import RequestFactory, override_settings
from django.urls import path

from django_wsmux.decorators import resumable, websocket
from django_wsmux.groups import Group, Recovery
from django_wsmux.test import SimpleWebSocketTestCase
from django_wsmux.views import WebSocketView

missed: list[str] = []
recoveries: list[Recovery] = []


class Room(WebSocketView):
    """Joins a room, and records gaps."""

    def connect(self, request: Any, room: str) -> None:
        """Join the room."""
        recoveries.append(Group(f"room.{room}").join(self.websocket, alias="the room"))

    def receive(self, message: str | bytes) -> None:
        """Answer."""
        self.websocket.send(message)

    def missed(self, group: Group) -> None:
        """Record the gap."""
        missed.append(group.name)


class Mine(WebSocketView):
    """Sees the messages of its room first."""

    groups = ("room.1",)

    def group_receive(self, message: str | bytes) -> None:
        """Send a part of the message."""
        self.websocket.send_json(len(message))


@websocket
def function(request: HttpRequest, websocket: Any) -> None:
    """Join two rooms, and answer."""
    for room in ("1", "2"):
        recoveries.append(Group(f"room.{room}").join(websocket))
    for message in websocket:
        websocket.send(message)


urlpatterns = [
    path("room/<room>/", Room.as_view()),
    path("function/", function),
    path("mine/", Mine.as_view()),
]


@override_settings(
    ROOT_URLCONF=__name__,
    WEBSOCKET_URLCONF=__name__,
    WEBSOCKET_HISTORY={"room.*": {"messages": 3, "seconds": 600}},
)
class Tests(SimpleWebSocketTestCase):
    """Sockets that are cut and return."""

    def setUp(self) -> None:
        """Forget the records of other tests."""
        missed.clear()
        recoveries.clear()

    def test_event_view(self) -> None:
        """A client that returns gets the messages that it missed, in order, and then later ones."""
        with self.client.websocket("/room/1/") as ws:
            Group("room.1").send("1")
            self.assertReceives(ws, "1")
            ws.cut()
            Group("room.1").send("2")
            Group("room.1").send("3")
            ws.resume()
            Group("room.1").send("4")
            self.assertRecovered(ws)
            for text in ("2", "3", "4"):
                self.assertReceives(ws, text)
            ws.send("hi")
            self.assertReceives(ws, "hi")
            assert recoveries == [(None, 0), (True, 2)]
            assert not missed
            with pytest.raises(AssertionError, match="no gap"):
                self.assertGap(ws)

    def test_function_view(self) -> None:
        """Each group has its own position."""
        with self.client.websocket("/function/") as ws:
            ws.cut()
            Group("room.2").send("2")
            ws.resume()
            self.assertReceives(ws, "2")
            self.assertRecovered(ws)
            assert recoveries[2:] == [(True, 0), (True, 1)]

    def test_again_and_again(self) -> None:
        """A client may return several times; messages that the test has not read yet are kept."""
        with self.client.websocket("/room/1/") as ws:
            for text in ("1", "2", "3", "4", "5"):
                Group("room.1").send(text)
                ws.cut()
                ws.resume()
                self.assertRecovered(ws)
            for text in ("1", "2", "3", "4", "5"):
                self.assertReceives(ws, text)
            self.assertSilent(ws)

    def test_gap(self) -> None:
        """A client that returns too late gets nothing, and its view is told."""
        with self.client.websocket("/room/1/") as ws:
            ws.cut()
            for text in ("1", "2", "3", "4"):
                Group("room.1").send(text)
            ws.resume()
            self.assertGap(ws)
            self.assertGap(ws, "room.1")
            self.assertSilent(ws)
            assert missed == ["room.1"]
            with pytest.raises(AssertionError, match="not recovered"):
                self.assertRecovered(ws)
            with pytest.raises(AssertionError, match="no gap"):
                self.assertGap(ws, "other")

    def test_forgotten_while_open(self) -> None:
        """The view of an open socket is told when its room is forgotten."""
        with self.client.websocket("/room/1/") as ws:
            Group("room.1").send("1")
            Group("room.1").forget()
            self.assertReceives(ws, "1")
            assert not ws.closed
            while not missed:
                assert not ws.closed
            assert missed == ["room.1"]

    def test_v1(self) -> None:
        """A client of wsmux.v1 returns with its id and its positions."""
        with self.client.websocket("/room/1/", ["wsmux.v1"]) as ws:
            client = ws.receive_json()["welcome"]["client"]
            Group("room.1").send_json({"n": 1})
            assert ws.receive_json()["data"] == {"n": 1}
            ws.cut()
            Group("room.1").send_json({"n": 2})
            at = Group("room.1").position()
            ws.resume()
            welcome = ws.receive_json()["welcome"]
            assert welcome["client"] == client
            assert welcome["groups"] == {"the room": {"at": at, "recovered": True}}
            assert ws.receive_json() == {"at": at, "in": "the room", "data": {"n": 2}}
            self.assertRecovered(ws)

    def test_view_sees_messages_first(self) -> None:
        """A view with group_receive() gets the missed messages; the client is told its position."""
        with self.client.websocket("/mine/", ["wsmux.v1"]) as ws:
            ws.receive()
            ws.cut()
            Group("room.1").send("four")
            ws.resume()
            assert "welcome" in ws.receive_json()
            assert ws.receive_json() == {"data": 4}
            assert ws.receive_json() == {"at": Group("room.1").position(), "in": "room.1"}

    def test_store_of_its_own(self) -> None:
        """A test does not see the messages of other tests."""
        assert not Group("room.1").history().messages
        Group("room.1").send("1")

    test_store_of_its_own_again = test_store_of_its_own

    def test_misuse(self) -> None:
        """resume() needs a socket that was cut, in a group with a history."""
        ws = self.client.websocket("/room/1/")
        with pytest.raises(RuntimeError, match=r"cut\(\)"):
            ws.resume()

    def test_page(self) -> None:
        """Messages between the page and its socket are replayed."""

        @resumable("room.{room}")
        def page(request: HttpRequest, room: str) -> HttpResponse:
            Group(f"room.{room}").send("written while the page is rendered")
            template = Template("{% load websockets %}{% websocket_position %}")
            return HttpResponse(template.render(RequestContext(request, {"request": request})))

        at = page(RequestFactory().get("/"), room="1").content.decode()
        Group("room.1").send("written before the socket opens")
        with self.client.websocket(f"/room/1/?at={at}") as ws:
            self.assertRecovered(ws)
            self.assertReceives(ws, "written while the page is rendered")
            self.assertReceives(ws, "written before the socket opens")

    def test_page_with_several_groups(self) -> None:
        """The positions of several groups have their names; those of users need a user."""

        @resumable("room.1", "room.2", "@user")
        def page(request: HttpRequest) -> HttpResponse:
            template = Template("{% load websockets %}{% websocket_position %}")
            return HttpResponse(template.render(RequestContext(request, {"request": request})))

        request = RequestFactory().get("/")
        request.user = type("Anonymous", (), {"is_authenticated": False})()
        at = page(request).content.decode()
        assert [part.partition("@")[0] for part in at.split(",")] == ["room.1", "room.2"]
        Group("room.2").send("2")
        with self.client.websocket(f"/function/?at={at}") as ws:
            self.assertReceives(ws, "2")
            self.assertRecovered(ws)

    def test_page_without_positions(self) -> None:
        """The errors of the tag and of the decorator name the missing decorator and names."""
        template = Template("{% load websockets %}{% websocket_position %}")
        with pytest.raises(TemplateSyntaxError, match="@resumable"):
            template.render(Context({"request": RequestFactory().get("/")}))
        with pytest.raises(TypeError, match="name the groups"):
            resumable()

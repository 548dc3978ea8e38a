"""Sockets of clients that speak wsmux.v1: the server's frames, ids, identities."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.test import override_settings
from django.urls import path

from django_wsmux.auth import authentication, first_message
from django_wsmux.connection import client_ids
from django_wsmux.connection.drain import restart
from django_wsmux.connection.websocket import WebSocket
from django_wsmux.decorators import websocket, websocket_loop
from django_wsmux.groups import Group, clients
from django_wsmux.groups.envelope import Envelope, before
from django_wsmux.groups.pubsub import pubsub
from django_wsmux.protocol import v1
from django_wsmux.protocol.frames import CLOSE, TEXT
from django_wsmux.protocol.prepared import PreparedMessage
from django_wsmux.protocol.v1 import BROUGHT_KEY
from django_wsmux.server.limits import RETRY_AFTER
from django_wsmux.test import ClientWebSocket, WebSocketClient
from django_wsmux.views import WebSocketView

pytestmark = [pytest.mark.usefixtures("sockets", "views"), pytest.mark.django_db]

AT = "k3v9q2mx.h8s1c0a2w4-42"

#: The sockets that views have opened, the last one at the end.
opened: list[WebSocket] = []


class Talk(WebSocketView):
    """Sends each kind of message, before the 101 and after."""

    def connect(self, request: HttpRequest) -> None:
        opened.append(self.websocket)
        self.websocket.hooks.group_joined(self.websocket, "room.1", None, AT, True)
        self.websocket.hooks.group_joined(self.websocket, "gone", None, AT, None)
        self.websocket.hooks.group_left(self.websocket, "gone")
        self.websocket.hooks.group_joined(self.websocket, "@user:12", None, AT, True)
        self.websocket.hooks.group_gap(self.websocket, "@user:12", AT)
        self.websocket.hooks.group_joined(self.websocket, "secret", "mine", None, None)
        self.websocket.hooks.group_renamed(self.websocket, "secret", "ours", AT)
        self.websocket.hooks.group_joined(self.websocket, "plain", "other", "", None)
        Group("room").join(self.websocket)
        self.send_json({"n": 1})
        self.send("text")
        self.send(b"\x00")
        self.websocket.send_bare('{"ref":1}')

    def receive(self, message: str | bytes) -> None:
        self.send_json(json.loads(message))


class Asking(WebSocketView):
    """Asks for the id before the 101."""

    def connect(self, request: HttpRequest) -> None:
        self.send_json(self.websocket.client_id)


class Own(WebSocketView):
    """Has its own subprotocols."""

    subprotocols = ("chat",)


class Both(WebSocketView):
    """Lists wsmux.v1 among its own."""

    subprotocols = ("chat", "wsmux.v1")


class Off(WebSocketView):
    """Declines wsmux.v1."""

    realtime = False


class Seeing(WebSocketView):
    """Sees the messages of its groups."""

    def connect(self, request: HttpRequest) -> None:
        opened.append(self.websocket)

    def group_receive(self, message: str | bytes) -> None:
        self.send_json({"seen": message})


class Lean(WebSocketView):
    """Keeps no request."""

    keep_request = False

    def connect(self, request: HttpRequest) -> None:
        opened.append(self.websocket)
        brought = request.META[BROUGHT_KEY]
        self.send_json(brought.take("room"))

    def receive(self, message: str | bytes) -> None:
        self.send_json(BROUGHT_KEY in self.websocket.environ)


@websocket
def function(request: HttpRequest, websocket: WebSocket) -> None:
    opened.append(websocket)
    websocket.send_json([BROUGHT_KEY in request.META, websocket.subprotocol])
    for message in websocket:
        websocket.send(message)


@websocket(realtime=False)
def function_off(request: HttpRequest, websocket: WebSocket) -> None:
    websocket.receive()


@websocket_loop(realtime=False)
def loop_off(request: HttpRequest, websocket: WebSocket) -> None:
    websocket.receive()


def early(request: Any) -> None:
    """Use the socket before returning, without a decorator."""
    request.websocket.send("early")
    request.websocket.receive()


late = authentication(first_message(lambda name: User.objects.get(username=name)))

urlpatterns = [
    path("talk/", Talk.as_view()),
    path("asking/", Asking.as_view()),
    path("own/", Own.as_view()),
    path("both/", Both.as_view()),
    path("off/", Off.as_view()),
    path("off-option/", Talk.as_view(realtime=False)),
    path("off-function/", function_off),
    path("off-loop/", loop_off),
    path("off-late/", late(function_off)),
    path("seeing/", Seeing.as_view()),
    path("lean/", Lean.as_view()),
    path("function/", function),
    path("early/", early),  # type: ignore[arg-type]  # returns None
    path("late/", late(function)),
]


@pytest.fixture
def views() -> Iterator[None]:
    """Uses the sockets of this module."""
    opened.clear()
    with override_settings(WEBSOCKET_URLCONF=__name__):
        yield
    opened.clear()


def entry(value: Any) -> str:
    """Return the entry of a returning client among its subprotocols."""
    return v1.PREFIX + base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def connect(client: WebSocketClient, path: str, **brought: Any) -> ClientWebSocket:
    """Open a socket with wsmux.v1."""
    names = ["wsmux.v1", entry(brought)] if brought else ["wsmux.v1"]
    return client.websocket(path, names)


def welcome(ws: ClientWebSocket) -> Any:
    """Return the welcome, which comes first."""
    return ws.receive_json()["welcome"]


class TestFrames:
    """The order and content of frames."""

    def test_order(self, client: WebSocketClient) -> None:
        """The order is: welcome, messages of connect(), messages of groups."""
        with connect(client, "/talk/") as ws:
            told = welcome(ws)
            assert told.pop("groups") == {
                "room.1": {"at": AT, "recovered": True},
                "@user": {"at": AT, "recovered": False},
                "ours": {"recovered": None},
            }
            assert told == {"client": clients.sign(opened[-1].client_id), "ping": 20}
            assert ws.receive() == '{"data":{"n": 1}}'
            assert ws.receive() == '{"text":"text"}'
            assert ws.receive() == b"\x00\x00\x00"
            assert ws.receive() == '{"ref":1}'
            Group("room").send_json([1])
            Group("room").send("x")
            Group("room").send(b"\xff")
            assert ws.receive() == '{"in":"room","data":[1]}'
            assert ws.receive() == '{"in":"room","text":"x"}'
            assert ws.receive() == b"\x00\x05 room\xff"
            ws.send('{"b": 2}')
            assert ws.receive() == '{"data":{"b": 2}}'

    def test_groups(self, client: WebSocketClient) -> None:
        """Joins, leaves and gaps after the welcome are told at once, under the client's names."""
        with connect(client, "/function/") as ws:
            assert welcome(ws)["groups"] == {}
            assert ws.receive_json() == {"data": [False, "wsmux.v1"]}
            websocket = opened[-1]
            tell = websocket.hooks
            tell.group_joined(websocket, "secret", "ours", AT, True)
            tell.group_joined(websocket, "plain", "other", "", None)
            tell.group_joined(websocket, "room", None, None, None)
            tell.group_gap(websocket, "secret", AT)
            tell.group_left(websocket, "@session:12")
            told = [ws.receive_json() for _ in range(4)]
            assert told == [
                {"joined": {"ours": {"at": AT, "recovered": True}}},
                {"joined": {"room": {"recovered": None}}},
                {"gap": {"ours": AT}},
                {"left": ["@session"]},
            ]
            Group("plain").join(websocket)
            Group("plain").send("hi")
            assert ws.receive() == '{"in":"other","text":"hi"}'

    def test_renamed(self, client: WebSocketClient) -> None:
        """If a member joins again with an alias, its client sees the group under that name."""
        with connect(client, "/function/") as ws:
            welcome(ws)
            ws.receive()
            websocket = opened[-1]
            for alias in ("ours", "ours", "yours"):
                websocket.hooks.group_renamed(websocket, "secret", alias, AT)
            told = [ws.receive_json() for _ in range(4)]
            assert told == [
                {"left": ["secret"]},
                {"joined": {"ours": {"at": AT}}},
                {"left": ["ours"]},
                {"joined": {"yours": {"at": AT}}},
            ]
            websocket.deliver(PreparedMessage(TEXT, b"hi", "secret", AT))
            assert ws.receive_json() == {"at": AT, "in": "yours", "text": "hi"}

    def test_mark(self, client: WebSocketClient) -> None:
        """If a view handles a numbered message itself, the client is told its position."""
        with connect(client, "/seeing/") as ws:
            welcome(ws)
            opened[-1].deliver(PreparedMessage(TEXT, b"hi", "room", AT))
            opened[-1].deliver(PreparedMessage(TEXT, b"hi", "room"))
            told = [ws.receive_json() for _ in range(3)]
            assert told == [{"data": {"seen": "hi"}}, {"at": AT, "in": "room"}, told[0]]

    def test_pages(self, client: WebSocketClient) -> None:
        """A page that is excluded is named; a client that is excluded gets nothing."""
        with connect(client, "/function/") as ws, connect(client, "/function/") as other:
            mine = welcome(ws)["client"].partition("~")[0]
            welcome(other)
            for each in opened:
                Group("room").join(each)
            Group("room").send_json(1, exclude=f"{mine}.p1")
            Group("room").send_json(1, exclude=mine)
            Group("room").send_json(1, exclude=[opened[1], f"{mine}.p2"])
            assert ws.receive_json()["data"]
            assert [ws.receive_json()["not"] for _ in range(2)] == [["p1"], ["p2"]]
            assert other.receive_json()["data"]
            assert [other.receive_json() for _ in range(2)] == [{"in": "room", "data": 1}] * 2
            assert ws.peek() == other.peek() == []

    @pytest.mark.parametrize(
        ("close", "is_told"),
        [
            (restart, True),
            (lambda websocket: websocket.close_from_group(1013, "too slow"), True),
            (lambda websocket: websocket.close(1000), False),
        ],
    )
    def test_bye(self, client: WebSocketClient, close: Any, is_told: bool) -> None:
        """Before a close with 1012 or 1013 a client is told when to return."""
        with connect(client, "/function/") as ws:
            welcome(ws)
            assert ws.receive_json()
            close(opened[-1])
            assert bool(ws.peek()) is is_told
            if is_told:
                assert 0.5 <= ws.receive_json()["bye"]["after"] <= 1.5

    @override_settings(WEBSOCKET_MAX_SOCKETS_PER_USER=1)
    def test_full(self, client: WebSocketClient) -> None:
        """A user with too many sockets is told to return as late as after a refused handshake."""
        User.objects.create_user("ann")
        first, second = connect(client, "/late/"), connect(client, "/late/")
        for ws in (first, second):
            assert welcome(ws)
            ws.send("ann")
        assert first.receive_json()["data"]
        assert second.receive_json() == {"bye": {"after": RETRY_AFTER}}
        assert second.close_code == 1013

    @override_settings(WEBSOCKET_PING_INTERVAL=10, WEBSOCKET_PING_TIMEOUT=15)
    def test_heartbeat(self, client: WebSocketClient) -> None:
        """The heartbeat is an empty object; the welcome contains the longest interval."""
        with connect(client, "/function/") as ws:
            assert welcome(ws)["ping"] == 15
            assert ws.receive_json()
            opened[-1].send_keepalive_ping()
            assert ws.receive() == "{}"
        with override_settings(WEBSOCKET_PING_INTERVAL=0), connect(client, "/function/") as ws:
            assert welcome(ws)["ping"] == 0

    @override_settings(WEBSOCKET_COMPRESSION={"threshold": 100})
    def test_compression(self, client: WebSocketClient) -> None:
        """Frames of wsmux.v1 are compressed like any other, once for all members."""
        with connect(client, "/function/") as ws, connect(client, "/function/") as other:
            for each in opened:
                Group("room").join(each)
            message = PreparedMessage(TEXT, b"x" * 200, "room", AT)
            for each in opened:
                each.deliver(message)
            Group("room").send("short")
            opened[0].send_json("y" * 200)
            for end in (ws, other):
                assert end.receive_json()["welcome"]
                assert end.receive_json()["data"]
                assert end.receive_json() == {"at": AT, "in": "room", "text": "x" * 200}
                assert end.receive_json() == {"in": "room", "text": "short"}
            assert ws.receive_json() == {"data": "y" * 200}
            assert len(message._forms) == 1
            assert len(next(iter(message._forms.values()))) < 100

    def test_alias_is_encoded_once(self, client: WebSocketClient) -> None:
        """Sockets with the same alias share a frame, those without alias share another one."""
        for _ in range(4):
            connect(client, "/function/")
        for each in opened[:2]:
            each.hooks.group_joined(each, "room", "ours", "", None)
        message = PreparedMessage(TEXT, b"hi", "room", AT)
        frames = {message.form(each._framing) for each in opened}
        assert len(frames) == len(message._forms) == 2


class TestSelection:
    """When a socket speaks wsmux.v1."""

    @pytest.mark.parametrize(
        ("path", "names", "expected"),
        [
            ("/talk/", ["wsmux.v1"], "wsmux.v1"),
            ("/talk/", ["other", "wsmux.v1"], "wsmux.v1"),
            ("/own/", ["wsmux.v1", "chat"], "chat"),
            ("/own/", ["wsmux.v1"], None),
            ("/both/", ["wsmux.v1"], "wsmux.v1"),
            ("/both/", ["wsmux.v1", "chat"], "chat"),
            ("/off/", ["wsmux.v1"], None),
            ("/off-option/", ["wsmux.v1"], None),
            ("/off-function/", ["wsmux.v1"], None),
            ("/off-loop/", ["wsmux.v1"], None),
            ("/off-late/", ["wsmux.v1"], None),
            ("/talk/", ["wsmux.v10"], None),
            ("/talk/", ["bearer", "token", "wsmux.v1"], "wsmux.v1"),
            ("/early/", ["wsmux.v1"], "wsmux.v1"),
        ],
    )
    def test_views(
        self, client: WebSocketClient, path: str, names: list[str], expected: str | None
    ) -> None:
        """A client must offer it; a view may decline it, or prefer its own."""
        with client.websocket(path, names) as ws:
            assert ws.subprotocol == expected
            told = [json.loads(text) for text in ws.peek()[:1] if isinstance(text, str)]
            assert any("welcome" in each for each in told) is (expected == "wsmux.v1")

    def test_early(self, client: WebSocketClient) -> None:
        """A view that uses the socket before it returns also speaks it."""
        with connect(client, "/early/") as ws:
            assert welcome(ws)["groups"] == {}
            assert ws.receive_json() == {"text": "early"}

    def test_plain(self, client: WebSocketClient) -> None:
        """A client that does not offer it gets only the messages."""
        with client.websocket("/talk/") as ws:
            assert [ws.receive() for _ in range(4)] == ['{"n": 1}', "text", b"\x00", '{"ref":1}']
            Group("room").send_json([1])
            assert ws.receive() == "[1]"
            opened[-1].hooks.group_joined(opened[-1], "x", None, AT, True)
            opened[-1].hooks.group_gap(opened[-1], "x", AT)
            opened[-1].hooks.group_left(opened[-1], "x")
            assert ws.peek() == []


class TestBrought:
    """Data that a client sends with its handshake."""

    def test_not_in_headers(self, client: WebSocketClient) -> None:
        """The entry is in no header that the view sees, and is never selected."""
        with client.websocket("/talk/", [entry({"g": {}}), "wsmux.v1"]) as ws:
            assert ws.subprotocol == "wsmux.v1"
            assert opened[-1].protocol == "wsmux.v1"

    @pytest.mark.parametrize("path", ["/function/?at=" + AT, "/function/?at=room@" + AT])
    def test_kept_until_taken(self, client: WebSocketClient, path: str) -> None:
        """A function view finds it, also on a plain socket."""
        with client.websocket(path) as ws:
            assert ws.receive_json() == [True, None]
            assert opened[-1].environ[BROUGHT_KEY].take("room") == AT

    def test_dropped(self, client: WebSocketClient) -> None:
        """It is dropped with the request, or once everything is taken."""
        with connect(client, "/lean/", g={"room": AT, "other": AT}) as ws:
            welcome(ws)
            assert ws.receive_json() == {"data": AT}
            ws.send("kept?")
            assert ws.receive_json() == {"data": False}
        with connect(client, "/talk/", u=clients.ANONYMOUS):
            assert BROUGHT_KEY not in opened[-1].environ

    @pytest.mark.parametrize("bad", [v1.PREFIX + "A", entry([]), entry({"c": 1, "g": {"a": 1}})])
    def test_malformed(self, client: WebSocketClient, bad: str) -> None:
        """A malformed entry does no harm."""
        with client.websocket("/function/", ["wsmux.v1", bad]) as ws:
            assert welcome(ws)["client"]


class TestClientIds:
    """Ids of clients that return."""

    def test_kept(self, client: WebSocketClient) -> None:
        """A client keeps an id with the right signature, without the name of the page."""
        with connect(client, "/talk/") as ws:
            signed = welcome(ws)["client"]
        assert client_ids.find(signed.partition("~")[0]) is None
        for brought in (signed, signed.replace("~", ".p1~")):
            with connect(client, "/talk/", c=brought) as ws:
                assert welcome(ws)["client"] == signed

    def test_known_in_connect(self, client: WebSocketClient) -> None:
        """connect() sees the id that the client sent."""
        signed = clients.sign("someone")
        with connect(client, "/asking/", c=signed) as ws:
            assert welcome(ws)["client"] == signed
            assert ws.receive_json() == {"data": "someone"}
        with connect(client, "/asking/") as ws:
            made = welcome(ws)["client"].partition("~")[0]
            assert ws.receive_json() == {"data": made}
            assert client_ids.find(made) is not None
        assert client_ids.find(made) is None

    @pytest.mark.parametrize("change", ["A{}", "{}A", "{}"])
    def test_forged(self, client: WebSocketClient, change: str) -> None:
        """A client whose signature is wrong gets another id."""
        signed = clients.sign("someone")
        forged = change.format(signed) if change != "{}" else "someone~" + "A" * 22
        with connect(client, "/talk/", c=signed) as victim:
            welcome(victim)
            with connect(client, "/talk/", c=forged) as ws:
                assert not welcome(ws)["client"].startswith(("someone~", "Asomeone~"))
            assert victim.close_code is None

    def test_replaced(self, client: WebSocketClient) -> None:
        """A second socket of a client closes the first with 4900."""
        with connect(client, "/function/") as ws:
            signed = welcome(ws)["client"]
            with connect(client, "/function/", c=signed) as second:
                assert (ws.close_code, ws.close_reason) == (4900, "replaced")
                assert welcome(second)["client"] == signed
                assert client_ids.find(signed.partition("~")[0]) is opened[-1]
                ws.finish()
                assert second.close_code is None

    @override_settings(WEBSOCKET_MAX_SOCKETS=1)
    def test_replaced_before_limits(self, client: WebSocketClient) -> None:
        """The first socket does not count against the second one."""
        signed = welcome(connect(client, "/function/"))["client"]
        with connect(client, "/function/", c=signed) as ws:
            assert welcome(ws)

    def test_from_another_process(self, client: WebSocketClient) -> None:
        """Only sockets that were opened before the request's moment are closed."""
        with connect(client, "/function/") as ws:
            client_id = welcome(ws)["client"].partition("~")[0]
            name = clients.group_of(client_id)
            for moment, code in ((time.time() - 60, None), (time.time() + 60, 4900)):
                pubsub.deliver(name, Envelope(CLOSE, name, b"\x13\x24", before(moment)))
                assert ws.close_code == code
            pubsub.deliver(name, Envelope(CLOSE, name, b"\x13\x24", before(time.time())))


class TestIdentity:
    """The page of one user is not given the messages of another."""

    @pytest.fixture
    def ann(self) -> User:
        """A user."""
        return User.objects.create_user("ann")

    @pytest.fixture
    def bob(self) -> User:
        """Another user."""
        return User.objects.create_user("bob")

    def test_same(self, client: WebSocketClient, ann: User) -> None:
        """The user of the page may return, anonymous or not."""
        with connect(client, "/talk/", u=clients.ANONYMOUS) as ws:
            assert welcome(ws)
        client.force_login(ann)
        with connect(client, "/talk/", u=clients.identity_of(ann)) as ws:
            assert welcome(ws)

    @pytest.mark.parametrize("path", ["/talk/", "/function/", "/early/"])
    def test_other(self, client: WebSocketClient, ann: User, bob: User, path: str) -> None:
        """For another user, nothing but the close is sent."""
        client.force_login(bob)
        client.raise_request_exception = False
        for identity in (clients.identity_of(ann), clients.ANONYMOUS, "x"):
            with connect(client, path, u=identity, g={"room": AT}) as ws:
                assert (ws.close_code, ws.close_reason) == (4401, "another user")
                assert ws.subprotocol == "wsmux.v1"
                assert ws.peek() == []

    def test_first_message(self, client: WebSocketClient, ann: User, bob: User) -> None:
        """The first message identifies the user."""
        for identity in (clients.identity_of(ann), None):
            with connect(client, "/late/", u=identity) as ws:
                assert welcome(ws)
                ws.send("ann")
                assert ws.receive_json()["data"]
        with connect(client, "/late/", u=clients.identity_of(ann)) as ws:
            assert welcome(ws)
            ws.send("bob")
            assert (ws.close_code, ws.close_reason) == (4401, "another user")
            assert ws.peek() == []

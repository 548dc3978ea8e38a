"""Messages between a test and a view, of either kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.test import override_settings
from django.utils import timezone, translation

from django_wsmux.exceptions import ConnectionClosed
from django_wsmux.groups import Group, Member
from django_wsmux.metrics import snapshot
from django_wsmux.server import registry
from django_wsmux.server.websocket import WebSocket
from django_wsmux.test import ClientWebSocket, WebSocketClient

from . import site

pytestmark = pytest.mark.usefixtures("sockets")


@pytest.fixture(params=["/function/", "/event/"])
def path(request: pytest.FixtureRequest) -> str:
    """Both kinds of view."""
    return str(request.param)


@pytest.mark.parametrize("message", ["hi", "", b"", b"\x00\xff", "ü" * 70_000, bytes(200_000)])
def test_echo(client: WebSocketClient, path: str, message: str | bytes) -> None:
    """Text and binary come back as what they were, empty and large ones too."""
    with client.websocket(path) as ws:
        ws.send(message)
        assert ws.receive() == message


def test_order(client: WebSocketClient, path: str) -> None:
    """Messages wait for the test in the order in which they were sent."""
    with client.websocket(path) as ws:
        ws.send("many 300")
        assert [ws.receive_json() for _ in range(300)] == list(range(300))


def test_more_than_a_view_takes_at_once(client: WebSocketClient, path: str) -> None:
    """Reading that stops, as the view has enough, goes on."""
    with override_settings(WEBSOCKET_MAX_UNREAD_MESSAGES=2), client.websocket(path) as ws:
        for number in range(100):
            ws._peer.send(str(number))  # and the view has not had a turn yet
        assert [ws.receive() for _ in range(100)] == [str(number) for number in range(100)]


def test_json(client: WebSocketClient, path: str) -> None:
    """Values go and come as JSON; what is none is shown."""
    with client.websocket(path) as ws:
        ws.send_json({"text": "hi"})
        assert ws.receive_json() == {"text": "hi"}
        ws.send("no json")
        with pytest.raises(AssertionError, match="received 'no json', which is not JSON"):
            ws.receive_json()


def test_message_of_another_type(client: WebSocketClient, path: str) -> None:
    """A message is text or bytes."""
    with client.websocket(path) as ws, pytest.raises(TypeError, match="str or bytes, not int"):
        ws.send(5)  # type: ignore[arg-type]


def test_nothing_received(client: WebSocketClient) -> None:
    """Waiting in vain is an error at once, which says where the view is."""
    with client.websocket("/function/") as ws:
        ws.send("silence")
        with pytest.raises(AssertionError) as failed:
            ws.receive()
    lines = Path(site.__file__).read_text().splitlines()
    line = lines.index("        for message in websocket:") + 1
    assert str(failed.value) == (
        "nothing received: '/function/' is open, and tests.test_client.site.function waits for a "
        f"message in function(), tests/test_client/site.py:{line}"
    )


def test_nothing_received_from_an_event_view(client: WebSocketClient) -> None:
    """An event view does not wait: it has returned."""
    with client.websocket("/event/") as ws, pytest.raises(AssertionError) as failed:
        ws.receive()
    assert str(failed.value) == (
        "nothing received: '/event/' is open, and tests.test_client.site.EventView has handled "
        "every message"
    )


def test_nothing_received_from_a_loop(client: WebSocketClient) -> None:
    """Where no code of the project waits, the view's name has to do."""
    with client.websocket("/looping/") as ws, pytest.raises(AssertionError) as failed:
        ws.receive()
    assert str(failed.value) == (
        "nothing received: '/looping/' is open, and tests.test_client.site.looping waits for a "
        "message"
    )


# Time


def test_time_that_passes(client: WebSocketClient) -> None:
    """A view's limits come as the test lets time pass, and nobody sleeps."""
    with client.websocket("/patient/") as ws:
        with pytest.raises(AssertionError, match="for 5 s at most"):
            ws.receive()
        with pytest.raises(AssertionError):
            ws.receive(timeout=4.9)
        assert ws.receive(timeout=1) == "nothing for 5 s"
        with pytest.raises(AssertionError, match="for 10 s at most"):
            ws.receive(timeout=9.5)
        ws.send("just in time")
        assert ws.receive() == "just in time"
        assert ws.closed
    with client.websocket("/function/") as ws:
        # A week is over at once, or this test would not be.
        assert ws.peek(timeout=7 * 24 * 3600) == []


def test_time_does_not_pass_by_itself(client: WebSocketClient) -> None:
    """A message that comes ends the passing of time."""
    with client.websocket("/patient/") as ws:
        assert ws.receive(timeout=3600) == "nothing for 5 s"
        with pytest.raises(AssertionError):
            ws.receive(timeout=9.9)
        assert ws.receive(timeout=3600) == "nothing for 10 s"


def test_poll(client: WebSocketClient) -> None:
    """receive(timeout=0) of a view returns what is there, and no control to the test."""
    with client.websocket("/polling/") as ws:
        assert ws.receive() == "nothing there"


def test_poll_without_end(client: WebSocketClient) -> None:
    """A view that never lets the test go on is an error, not a test that hangs."""
    with pytest.raises(RuntimeError, match="receive\\(timeout=0\\) again and again"):
        client.websocket("/polling/?forever")


# Closing


def test_test_closes(client: WebSocketClient, path: str) -> None:
    """The view sees code and reason, and the client that it is over."""
    with client.websocket(path) as ws:
        assert not ws.closed
        assert (ws.close_code, ws.close_reason) == (None, "")
        ws.close(4321, "done here")
        ws.close(1000)
        assert ws.closed
        assert (ws.close_code, ws.close_reason) == (4321, "done here")
    assert site.ends == ["4321 done here"]


def test_end_of_with(client: WebSocketClient, path: str) -> None:
    """The end of the block closes with 1000, and the view has come to its own end by then."""
    with client.websocket(path) as ws:
        pass
    assert site.ends == ["1000 "]
    assert repr(ws) == f"<ClientWebSocket {path!r} closed with 1000>"


def test_close_without_code(client: WebSocketClient, path: str) -> None:
    """As close() without arguments does in a browser."""
    with client.websocket(path) as ws:
        ws.close(1005)
        assert ws.close_code == 1005
    assert site.ends == ["1005 "]


def test_view_closes(client: WebSocketClient, path: str) -> None:
    """The client sees code and reason; what came before is received before."""
    with client.websocket(path) as ws:
        ws.send("first")
        ws.send("close that was it")
        assert ws.closed
        assert (ws.close_code, ws.close_reason) == (4000, "that was it")
        assert ws.receive() == "first"
        with pytest.raises(ConnectionClosed, match="closed with 4000: that was it"):
            ws.receive()
        with pytest.raises(ConnectionClosed):
            ws.send("too late")
    assert site.ends == ["4000 that was it"]


@pytest.mark.parametrize(("code", "reason"), [(1006, ""), (999, ""), (1000, "x" * 124)])
def test_bad_close(client: WebSocketClient, path: str, code: int, reason: str) -> None:
    """What may not be sent is refused, and the socket stays open."""
    with client.websocket(path) as ws:
        with pytest.raises(ValueError, match=str(len(reason) or code)):
            ws.close(code, reason)
        assert not ws.closed


def test_broken_rule(client: WebSocketClient, path: str) -> None:
    """The server's limits hold: the frames are real."""
    with override_settings(WEBSOCKET_MAX_MESSAGE_SIZE=100), client.websocket(path) as ws:
        ws.send("x" * 101)
        assert (ws.close_code, ws.close_reason) == (1009, "101 bytes, limit 100")
    assert site.ends == ["1009 101 bytes, limit 100"]


# Exceptions


def test_exception(client: WebSocketClient, path: str) -> None:
    """What a view raises is raised in the test, with the view in the traceback."""
    with client.websocket(path) as ws:
        with pytest.raises(ValueError, match="it broke") as raised:
            ws.send("crash")
        assert raised.traceback[-1].name == "act"
        assert (ws.close_code, ws.close_reason) == (1011, "500 Internal Server Error")


def test_exception_of_a_helper(client: WebSocketClient, path: str) -> None:
    """A helper's too."""
    with client.websocket(path) as ws:
        with pytest.raises(ValueError, match="it broke"):
            ws.send("helpless")
        assert ws.close_code == 1011


def test_two_that_wait(client: WebSocketClient) -> None:
    """A helper may not wait for messages beside the view, as under a server."""
    with client.websocket("/function/") as ws:
        with pytest.raises(RuntimeError, match="already waiting for a message"):
            ws.send("listen")
        assert ws.close_code == 1011


def test_exception_not_raised(path: str) -> None:
    """raise_request_exception=False leaves what a browser would see."""
    client = WebSocketClient(raise_request_exception=False)
    with client.websocket(path) as ws:
        ws.send("crash")
        assert ws.close_code == 1011


# Several sockets


def test_group(client: WebSocketClient, path: str) -> None:
    """What one sends is with the others when send() returns."""
    with client.websocket(path) as ann, client.websocket("/event/") as bob:
        for number in range(100):
            ann.send(f"say {number}")
            assert ann.receive() == bob.receive() == str(number)


@pytest.mark.django_db
def test_group_from_outside(client: WebSocketClient, path: str) -> None:
    """The test itself may tell the group, and so may a page."""
    with client.websocket(path) as ann, WebSocketClient().websocket(path) as bob:
        Group("room").send("from the test")
        client.get("/page/")
        assert ann.peek() == bob.peek() == ["from the test", "from a page"]


def test_group_joined_again(client: WebSocketClient) -> None:
    """A member is one member, and shows what it has said last."""
    with client.websocket("/joining/") as ws, client.websocket("/joining/") as other:
        for name in ("ann", "bob", ""):
            ws.send(name)
        other.send("cay")
        assert Group("names").members() == [
            Member(None, {"name": "bob"}),
            Member(None, {"name": "cay"}),
        ]
        Group("names").send("once")
        assert ws.peek() == ["once"]
    assert Group("names").count() == 0


def test_group_seen_by_the_view(client: WebSocketClient) -> None:
    """A view with ``group_receive()`` gets it, and its client what the view sends."""
    with client.websocket("/watching/") as ws:
        for message in ("text", "psst", b"binary", ""):
            Group("room").send(message)
        assert ws.peek() == ["seen 'text'", "seen b'binary'", "seen ''"]
        ws.send("say hello")
        ws.send("and on")
        assert ws.peek()[3:] == ["seen 'hello'", "and on"]


def test_group_receive_raises(client: WebSocketClient) -> None:
    """The test gets it, whoever has sent the message."""
    with client.websocket("/watching/") as ws:
        Group("room").send("crash")
        with pytest.raises(ValueError, match="it broke on the way"):
            ws.receive()
        assert ws.close_code == 1011


@pytest.mark.parametrize("message", ["", "x" * 200])
@pytest.mark.parametrize("policy", ["close", "drop"])
def test_group_receive_behind(client: WebSocketClient, policy: str, message: str) -> None:
    """What waits for the view is bounded, however small it is, and so is what it costs."""
    limits = {"WEBSOCKET_MAX_UNSENT_BYTES": 3000, "WEBSOCKET_SLOW_CLIENT": policy}
    with override_settings(**limits), client.websocket("/watching/") as ws:
        Group("room").send("x" * 5000)
        assert len(ws.receive()) == len("seen ''") + 5000  # one is never too many
        before = snapshot()
        for _ in range(100):
            Group("room").send(message)  # and the view has not had a turn yet
        after = snapshot()
        fitting = 3000 // (len(message) + 128) + 1
        if policy == "close":
            assert (ws.close_code, ws.close_reason) == (1013, "too slow")
            assert ws.peek() == []
            assert after["slow_client_closed"] - before["slow_client_closed"] == 1
        else:
            assert ws.peek() == [f"seen {message!r}"] * fitting
            assert after["slow_client_dropped"] - before["slow_client_dropped"] == 100 - fitting
            Group("room").send("again")
            assert ws.peek()[fitting:] == ["seen 'again'"]


def test_group_receive_after_the_close(client: WebSocketClient) -> None:
    """What the group was sent is not for a client that is gone."""
    with client.websocket("/watching/") as ws:
        ws._peer.send("say text")  # the view has not had a turn yet
        Group("room").send("crash")
        ws._peer.send_close(1001, "")
    assert site.ends == ["1001 "]


def test_group_closes(client: WebSocketClient, path: str) -> None:
    """One view may end the others."""
    with client.websocket("/function/") as ann, client.websocket("/event/") as bob:
        with client.websocket(path) as ws:
            ws.send("out")
        assert (ann.close_code, ann.close_reason) == (bob.close_code, bob.close_reason)
        assert ann.close_code == 4001
        assert site.ends == ["4001 all out"] * 3


def test_exception_of_another(client: WebSocketClient) -> None:
    """Whoever lets a view go on hears of its exception."""
    with client.websocket("/function/") as ann, client.websocket("/event/") as bob:
        with pytest.raises(ValueError, match="it broke"):
            ann.send("crash")
        bob.send("still there")
        assert bob.receive() == "still there"


# What else there is


def test_helper(client: WebSocketClient, path: str) -> None:
    """A helper runs when the view waits or returns."""
    with client.websocket(path) as ws:
        ws.send("help")
        assert ws.peek() == ["view", "helper"]


def test_latency(client: WebSocketClient, path: str) -> None:
    """The client answers pings."""
    with client.websocket(path) as ws:
        ws.send("ping")
        ws.send("latency")
        assert ws.receive_json() is True


def test_surroundings(client: WebSocketClient, path: str) -> None:
    """Language and time zone of a view are its own: they reach neither messages nor the test."""
    with (
        translation.override("en"),
        timezone.override("Europe/Berlin"),
        client.websocket(path, headers={"Accept-Language": "de"}) as ws,
        client.websocket(path) as other,
    ):
        for _ in range(2):
            ws.send("language")
            assert ws.receive() == "de Europe/Berlin"
            other.send("language")
            assert other.receive() == "en Europe/Berlin"
            assert translation.get_language() == "en"
            assert timezone.get_current_timezone_name() == "Europe/Berlin"
            other.send("change")
            assert other.receive() == "changed"
            if path == "/function/":
                break  # what a function activates holds until it changes it


def test_compression(client: WebSocketClient, path: str) -> None:
    """Negotiated as with a browser when the settings ask for it, and else not."""
    with client.websocket(path) as ws:
        assert "Sec-WebSocket-Extensions" not in ws.response.headers
    with override_settings(WEBSOCKET_COMPRESSION=True), client.websocket(path) as ws:
        assert "permessage-deflate" in ws.response.headers["Sec-WebSocket-Extensions"]
        for text in ("x" * 10_000, "short"):
            ws.send(text)
            assert ws.receive() == text
        (websocket,) = registry.open_sockets
        assert websocket.traffic.bytes_in < 1000


def test_view_s_end_is_the_view_s(client: WebSocketClient) -> None:
    """A test that waits at the wrong end is told so."""
    with client.websocket("/function/"):
        (websocket,) = registry.open_sockets
        assert isinstance(websocket, WebSocket)
        with pytest.raises(RuntimeError, match="the view's end of the socket"):
            websocket.receive()


def test_inside_the_middleware(client: WebSocketClient) -> None:
    """A view without a decorator accepts in the middle of its request and ends it later."""
    with client.websocket("/undecorated/") as ws:
        assert ws.receive() == "inside"
        ws.send("bye")
        assert ws.close_code == 1000
    assert site.ends == ["bye"]


def test_nothing_stays(client: WebSocketClient, path: str) -> None:
    """A socket that is finished with is forgotten by everybody."""
    with client.websocket(path) as ws:
        ws.send("x")
        assert len(registry.open_sockets) == 1
    assert not registry.open_sockets
    assert not registry.conversations
    assert not Group("room").members()


def use(ws: ClientWebSocket) -> None:
    """Stand for a test that uses a socket and fails."""
    ws.send("x")
    raise KeyError("the test failed")


def test_a_test_that_fails(client: WebSocketClient, path: str) -> None:
    """Its exception passes, and the socket is closed."""
    with pytest.raises(KeyError, match="the test failed"), client.websocket(path) as ws:
        use(ws)
    assert ws.closed
    assert not registry.conversations


def test_a_view_that_waits_elsewhere(client: WebSocketClient) -> None:
    """Nobody could ever wake it: gevent says so, and nothing of it stays."""
    from gevent.exceptions import LoopExit

    with pytest.raises(LoopExit):
        client.websocket("/deaf/")
    assert site.ends == ["deaf ended"]
    assert not registry.conversations
    assert not registry.open_sockets

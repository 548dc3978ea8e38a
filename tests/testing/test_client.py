"""Messages between a test and a view, of either kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.test import override_settings
from django.utils import timezone, translation

from django_wsmux.connection import registry
from django_wsmux.exceptions import ConnectionClosed
from django_wsmux.groups import Group, Member
from django_wsmux.monitoring.metrics import snapshot
from django_wsmux.test import ClientWebSocket, WebSocketClient
from django_wsmux.websocket import WebSocket
from tests.site import sockets as site

pytestmark = pytest.mark.usefixtures("sockets")


@pytest.fixture(params=["/function/", "/event/"])
def path(request: pytest.FixtureRequest) -> str:
    """Both kinds of view."""
    return str(request.param)


@pytest.mark.parametrize("message", ["hi", "", b"", b"\x00\xff", "ü" * 70_000, bytes(200_000)])
def test_echo(client: WebSocketClient, path: str, message: str | bytes) -> None:
    """Text and binary come back unchanged, also empty and large messages."""
    with client.websocket(path) as ws:
        ws.send(message)
        assert ws.receive() == message


def test_order(client: WebSocketClient, path: str) -> None:
    """Messages arrive in the order in which they were sent."""
    with client.websocket(path) as ws:
        ws.send("many 300")
        assert [ws.receive_json() for _ in range(300)] == list(range(300))


def test_more_than_a_view_takes_at_once(client: WebSocketClient, path: str) -> None:
    """Reading that paused, as the view had enough, continues."""
    with override_settings(WEBSOCKET_MAX_UNREAD_MESSAGES=2), client.websocket(path) as ws:
        for number in range(100):
            ws._peer.send(str(number))  # the view has not run yet
        assert [ws.receive() for _ in range(100)] == [str(number) for number in range(100)]


def test_json(client: WebSocketClient, path: str) -> None:
    """Values are sent and received as JSON; the error for anything else shows it."""
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
    """receive() without a message fails at once, and says where the view is."""
    with client.websocket("/function/") as ws:
        ws.send("silence")
        with pytest.raises(AssertionError) as failed:
            ws.receive()
    lines = Path(site.__file__).read_text().splitlines()
    line = lines.index("        for message in websocket:") + 1
    assert str(failed.value) == (
        "nothing received: '/function/' is open, and tests.site.sockets.function waits for a "
        f"message in function(), tests/site/sockets.py:{line}"
    )


def test_nothing_received_from_an_event_view(client: WebSocketClient) -> None:
    """An event view does not wait: it has returned."""
    with client.websocket("/event/") as ws, pytest.raises(AssertionError) as failed:
        ws.receive()
    assert str(failed.value) == (
        "nothing received: '/event/' is open, and tests.site.sockets.EventView has handled "
        "every message"
    )


def test_nothing_received_from_a_loop(client: WebSocketClient) -> None:
    """If no code of the project waits, the error names the view."""
    with client.websocket("/looping/") as ws, pytest.raises(AssertionError) as failed:
        ws.receive()
    assert str(failed.value) == (
        "nothing received: '/looping/' is open, and tests.site.sockets.looping waits for a message"
    )


# Time


def test_time_that_passes(client: WebSocketClient) -> None:
    """A view's timeouts fire when the test lets time pass, without sleeping."""
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
        # This takes no real time.
        assert ws.peek(timeout=7 * 24 * 3600) == []


def test_time_does_not_pass_by_itself(client: WebSocketClient) -> None:
    """The passing of time ends with the next message."""
    with client.websocket("/patient/") as ws:
        assert ws.receive(timeout=3600) == "nothing for 5 s"
        with pytest.raises(AssertionError):
            ws.receive(timeout=9.9)
        assert ws.receive(timeout=3600) == "nothing for 10 s"


def test_poll(client: WebSocketClient) -> None:
    """receive(timeout=0) of a view returns a message or raises, and does not switch to the test."""
    with client.websocket("/polling/") as ws:
        assert ws.receive() == "nothing there"


def test_poll_without_end(client: WebSocketClient) -> None:
    """A view that polls without end is an error; the test does not hang."""
    with pytest.raises(RuntimeError, match="receive\\(timeout=0\\) again and again"):
        client.websocket("/polling/?forever")


# Closing


def test_test_closes(client: WebSocketClient, path: str) -> None:
    """After close() by the test, the view sees code and reason, and the socket is closed."""
    with client.websocket(path) as ws:
        assert not ws.closed
        assert (ws.close_code, ws.close_reason) == (None, "")
        ws.close(4321, "done here")
        ws.close(1000)
        assert ws.closed
        assert (ws.close_code, ws.close_reason) == (4321, "done here")
    assert site.ends == ["4321 done here"]


def test_end_of_with(client: WebSocketClient, path: str) -> None:
    """The end of the block closes with 1000 and waits for the end of the view."""
    with client.websocket(path) as ws:
        pass
    assert site.ends == ["1000 "]
    assert repr(ws) == f"<ClientWebSocket {path!r} closed with 1000>"


def test_close_without_code(client: WebSocketClient, path: str) -> None:
    """1005 stands for close() without arguments in a browser."""
    with client.websocket(path) as ws:
        ws.close(1005)
        assert ws.close_code == 1005
    assert site.ends == ["1005 "]


def test_view_closes(client: WebSocketClient, path: str) -> None:
    """The client sees code and reason, and receives earlier messages first."""
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
    """An invalid code or reason is refused, and the socket stays open."""
    with client.websocket(path) as ws:
        with pytest.raises(ValueError, match=str(len(reason) or code)):
            ws.close(code, reason)
        assert not ws.closed


def test_broken_rule(client: WebSocketClient, path: str) -> None:
    """The server's limits apply: the frames are real."""
    with override_settings(WEBSOCKET_MAX_MESSAGE_SIZE=100), client.websocket(path) as ws:
        ws.send("x" * 101)
        assert (ws.close_code, ws.close_reason) == (1009, "101 bytes, limit 100")
    assert site.ends == ["1009 101 bytes, limit 100"]


# Exceptions


def test_exception(client: WebSocketClient, path: str) -> None:
    """An exception of a view is raised in the test, with the view in the traceback."""
    with client.websocket(path) as ws:
        with pytest.raises(ValueError, match="it broke") as raised:
            ws.send("crash")
        assert raised.traceback[-1].name == "act"
        assert (ws.close_code, ws.close_reason) == (1011, "500 Internal Server Error")


def test_exception_of_a_helper(client: WebSocketClient, path: str) -> None:
    """An exception of a helper is raised in the test, too."""
    with client.websocket(path) as ws:
        with pytest.raises(ValueError, match="it broke"):
            ws.send("helpless")
        assert ws.close_code == 1011


def test_two_that_wait(client: WebSocketClient) -> None:
    """A helper must not wait for messages beside the view, as under a server."""
    with client.websocket("/function/") as ws:
        with pytest.raises(RuntimeError, match="already waiting for a message"):
            ws.send("listen")
        assert ws.close_code == 1011


def test_exception_not_raised(path: str) -> None:
    """With raise_request_exception=False the test sees what a browser would see."""
    client = WebSocketClient(raise_request_exception=False)
    with client.websocket(path) as ws:
        ws.send("crash")
        assert ws.close_code == 1011


# Several sockets


def test_group(client: WebSocketClient, path: str) -> None:
    """A message to a group has arrived when send() returns."""
    with client.websocket(path) as ann, client.websocket("/event/") as bob:
        for number in range(100):
            ann.send(f"say {number}")
            assert ann.receive() == bob.receive() == str(number)


@pytest.mark.django_db
def test_group_from_outside(client: WebSocketClient, path: str) -> None:
    """The test itself and a page can send to a group."""
    with client.websocket(path) as ann, WebSocketClient().websocket(path) as bob:
        Group("room").send("from the test")
        client.get("/page/")
        assert ann.peek() == bob.peek() == ["from the test", "from a page"]


def test_group_joined_again(client: WebSocketClient) -> None:
    """A socket that joins twice is one member, with the latest info."""
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
    """A view with ``group_receive()`` gets the message, and its client what the view sends."""
    with client.websocket("/watching/") as ws:
        for message in ("text", "psst", b"binary", ""):
            Group("room").send(message)
        assert ws.peek() == ["seen 'text'", "seen b'binary'", "seen ''"]
        ws.send("say hello")
        ws.send("and on")
        assert ws.peek()[3:] == ["seen 'hello'", "and on"]


def test_group_receive_raises(client: WebSocketClient) -> None:
    """An exception in ``group_receive()`` is raised in the test, for messages of any sender."""
    with client.websocket("/watching/") as ws:
        Group("room").send("crash")
        with pytest.raises(ValueError, match="it broke on the way"):
            ws.receive()
        assert ws.close_code == 1011


@pytest.mark.parametrize("message", ["", "x" * 200])
@pytest.mark.parametrize("policy", ["close", "drop"])
def test_group_receive_behind(client: WebSocketClient, policy: str, message: str) -> None:
    """The backlog of ``group_receive()`` is bounded, even with empty messages."""
    limits = {"WEBSOCKET_MAX_UNSENT_BYTES": 3000, "WEBSOCKET_SLOW_CLIENT": policy}
    with override_settings(**limits), client.websocket("/watching/") as ws:
        Group("room").send("x" * 5000)
        assert len(ws.receive()) == len("seen ''") + 5000  # a single message always fits
        before = snapshot()
        for _ in range(100):
            Group("room").send(message)  # the view has not run yet
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
    """Messages of groups are dropped once the client is gone."""
    with client.websocket("/watching/") as ws:
        ws._peer.send("say text")  # the view has not run yet
        Group("room").send("crash")
        ws._peer.send_close(1001, "")
    assert site.ends == ["1001 "]


def test_group_closes(client: WebSocketClient, path: str) -> None:
    """One view may close the sockets of others."""
    with client.websocket("/function/") as ann, client.websocket("/event/") as bob:
        with client.websocket(path) as ws:
            ws.send("out")
        assert (ann.close_code, ann.close_reason) == (bob.close_code, bob.close_reason)
        assert ann.close_code == 4001
        assert site.ends == ["4001 all out"] * 3


def test_exception_of_another(client: WebSocketClient) -> None:
    """The call that lets a view continue raises its exception."""
    with client.websocket("/function/") as ann, client.websocket("/event/") as bob:
        with pytest.raises(ValueError, match="it broke"):
            ann.send("crash")
        bob.send("still there")
        assert bob.receive() == "still there"


# Other features


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
    """A view has its own language and time zone; they do not reach other sockets or the test."""
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
                break  # what a function activates lasts until it changes it


def test_compression(client: WebSocketClient, path: str) -> None:
    """Compression is negotiated as with a browser, if the settings enable it."""
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
    """Waiting at the server's end of the socket is an error that says so."""
    with client.websocket("/function/"):
        (websocket,) = registry.open_sockets
        assert isinstance(websocket, WebSocket)
        with pytest.raises(RuntimeError, match="the view's end of the socket"):
            websocket.receive()


def test_inside_the_middleware(client: WebSocketClient) -> None:
    """A view without a decorator accepts in mid-request and ends the request later."""
    with client.websocket("/undecorated/") as ws:
        assert ws.receive() == "inside"
        ws.send("bye")
        assert ws.close_code == 1000
    assert site.ends == ["bye"]


def test_nothing_stays(client: WebSocketClient, path: str) -> None:
    """A closed socket is removed from all registries."""
    with client.websocket(path) as ws:
        ws.send("x")
        assert len(registry.open_sockets) == 1
    assert not registry.open_sockets
    assert not registry.running_views
    assert not Group("room").members()


def use(ws: ClientWebSocket) -> None:
    """Stand for a test that uses a socket and fails."""
    ws.send("x")
    raise KeyError("the test failed")


def test_a_test_that_fails(client: WebSocketClient, path: str) -> None:
    """The test's exception propagates, and the socket is closed."""
    with pytest.raises(KeyError, match="the test failed"), client.websocket(path) as ws:
        use(ws)
    assert ws.closed
    assert not registry.running_views


def test_a_view_that_waits_elsewhere(client: WebSocketClient) -> None:
    """A view that nothing can wake raises gevent's LoopExit, and leaves nothing behind."""
    from gevent.exceptions import LoopExit

    with pytest.raises(LoopExit):
        client.websocket("/deaf/")
    assert site.ends == ["deaf ended"]
    assert not registry.running_views
    assert not registry.open_sockets

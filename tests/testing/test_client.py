"""Messages between a test and a view, of either kind."""

from __future__ import annotations

import pytest
from django.http import HttpRequest
from django.test import RequestFactory, override_settings

from django_wsmux.connection import registry
from django_wsmux.exceptions import ConnectionClosed
from django_wsmux.groups import Group, Member
from django_wsmux.test import ClientWebSocket, RequestFailed, WebSocketClient
from tests.site import sockets as site

pytestmark = pytest.mark.usefixtures("sockets")


@pytest.mark.parametrize("message", ["hi", "", b"", b"\x00\xff", "ü" * 70_000, bytes(200_000)])
def test_echo(client: WebSocketClient, path: str, message: str | bytes) -> None:
    """Text and binary come back unchanged, also empty and large messages."""
    with client.websocket(path) as ws:
        ws.send(message)
        assert ws.receive() == message


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


# Requests


def test_request(client: WebSocketClient) -> None:
    """The reply is returned; other messages remain, also those that resemble a reply."""
    with client.websocket("/requests/") as ws:
        assert ws.request("tell", messages=['{"ref": 1}', "x", '{"ref": 1, "reply": 2}']) == "told"
        assert ws.peek() == ['{"ref": 1}', "x", '{"ref": 1, "reply": 2}']
        assert ws.request("tell", messages=[], ref="own") == "told"
        assert len(ws.peek()) == 3


def test_failed_request(client: WebSocketClient) -> None:
    """Errors, a missing answer and the close are exceptions."""
    with client.websocket("/requests/") as ws:
        with pytest.raises(RequestFailed, match="'fail' was answered with errors") as failed:
            ws.request("fail")
        assert failed.value.errors == {"__all__": [{"message": "No.", "code": "no"}]}
        assert failed.value.codes == ["no"]
        assert isinstance(failed.value, AssertionError)
        with pytest.raises(AssertionError, match="'ignore' was not answered: "):
            ws.request("ignore")
        with pytest.raises(ConnectionClosed):
            ws.request("close")


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


def test_broken_rule(client: WebSocketClient, path: str) -> None:
    """The server's limits apply: the frames are real."""
    with override_settings(WEBSOCKET_MAX_MESSAGE_SIZE=100), client.websocket(path) as ws:
        ws.send("x" * 101)
        assert (ws.close_code, ws.close_reason) == (1009, "101 bytes, limit 100")
    assert site.ends == ["1009 101 bytes, limit 100"]


# Exceptions


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


def test_headers(client: WebSocketClient, rf: RequestFactory, path: str) -> None:
    """A request with the headers of a socket names this socket to its view."""
    with client.websocket(path) as ws, client.websocket(path) as other:
        request = rf.get("/", headers=ws.headers)
        assert isinstance(request, HttpRequest)
        Group.for_connection(request.websocket_client).send("to you")  # type: ignore[attr-defined]
        assert ws.receive() == "to you"
        assert other.peek() == []
        ws.close()
        with pytest.raises(ConnectionClosed):
            ws.headers  # noqa: B018


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


def test_group_closes(client: WebSocketClient, path: str) -> None:
    """One view may close the sockets of others."""
    with client.websocket("/function/") as ann, client.websocket("/event/") as bob:
        with client.websocket(path) as ws:
            ws.send("out")
        assert (ann.close_code, ann.close_reason) == (bob.close_code, bob.close_reason)
        assert ann.close_code == 4001
        assert site.ends == ["4001 all out"] * 3


# Other features


def test_latency(client: WebSocketClient, path: str) -> None:
    """The client answers pings."""
    with client.websocket(path) as ws:
        ws.send("ping")
        ws.send("latency")
        assert ws.receive_json() is True


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

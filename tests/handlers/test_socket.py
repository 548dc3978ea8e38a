"""An open socket and its view: closes, errors, helpers, surroundings."""

from __future__ import annotations

import pytest
from django.utils import timezone, translation

from django_wsmux.connection import registry
from django_wsmux.exceptions import ConnectionClosed
from django_wsmux.test import WebSocketClient
from django_wsmux.websocket import WebSocket
from tests.site import sockets as site

pytestmark = pytest.mark.usefixtures("sockets")


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


def test_exception_not_raised(path: str) -> None:
    """With raise_request_exception=False the test sees what a browser would see."""
    client = WebSocketClient(raise_request_exception=False)
    with client.websocket(path) as ws:
        ws.send("crash")
        assert ws.close_code == 1011


def test_exception_of_another(client: WebSocketClient) -> None:
    """The call that lets a view continue raises its exception."""
    with client.websocket("/function/") as ann, client.websocket("/event/") as bob:
        with pytest.raises(ValueError, match="it broke"):
            ann.send("crash")
        bob.send("still there")
        assert bob.receive() == "still there"


def test_helper(client: WebSocketClient, path: str) -> None:
    """A helper runs when the view waits or returns."""
    with client.websocket(path) as ws:
        ws.send("help")
        assert ws.peek() == ["view", "helper"]


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

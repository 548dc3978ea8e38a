"""Messages on their way to a view: their order, and their receivers."""

from __future__ import annotations

import pytest
from django.test import override_settings

from django_wsmux.test import WebSocketClient

pytestmark = pytest.mark.usefixtures("sockets")


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


def test_two_that_wait(client: WebSocketClient) -> None:
    """A helper must not wait for messages beside the view, as under a server."""
    with client.websocket("/function/") as ws:
        with pytest.raises(RuntimeError, match="already waiting for a message"):
            ws.send("listen")
        assert ws.close_code == 1011

"""Messages on their way to a view: their order, and their receivers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import override_settings

from django_wsmux.test import WebSocketClient

from .conftest import Hooks

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


def test_inserted_turn(connect: Callable[..., Any]) -> None:
    """A function runs as a turn of the view: messages wait for it."""
    seen: list[object] = []
    hooks = Hooks()
    hooks.receive = lambda websocket, message: seen.append(message)  # type: ignore[attr-defined]
    pair = connect(hooks)
    pair.open()
    pair.websocket.serve()

    def work() -> None:
        pair.websocket.message_received("later")
        assert not pair.websocket.insert_turn(work)
        seen.append("work")

    assert pair.websocket.insert_turn(work)
    pair.loop.run()
    assert seen == ["work", "later"]
    pair.websocket.message_received("last")
    pair.loop.run()
    assert seen[-1] == "last"
    pair.transport.abort()
    pair.loop.run()

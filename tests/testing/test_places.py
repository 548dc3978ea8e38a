"""Where views wait, as assertions show it."""

from __future__ import annotations

from pathlib import Path

import pytest

from django_wsmux.test import WebSocketClient
from tests.site import sockets as site

pytestmark = pytest.mark.usefixtures("sockets")


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

"""What the tests of sockets that move share: the settings of their site, and its conversations."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from .project.settings import MIDDLEWARE
from .support import TIMEOUT

__all__ = ["SETTINGS", "ask", "code"]

#: The settings of ``tests.project.moving``.
SETTINGS: Final = {
    "MIDDLEWARE": [*MIDDLEWARE, "tests.project.context.middleware"],
    "ROOT_URLCONF": "tests.project.moving",
    "WEBSOCKET_URLCONF": "tests.project.moving",
}


def ask(websocket: ClientConnection, message: str) -> Any:
    """Send a message; return the answer."""
    websocket.send(message)
    answer = websocket.recv(timeout=TIMEOUT)
    return json.loads(answer) if answer[:1] in ("[", "{") else answer


def code(websocket: ClientConnection) -> int:
    """Wait for the close; return its code."""
    with pytest.raises(ConnectionClosed) as closed:
        websocket.recv(timeout=TIMEOUT)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code

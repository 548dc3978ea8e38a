"""What a view holds, without a server beneath."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from django_wsmux.server.websocket import WebSocket


@pytest.mark.parametrize("message", ["no JSON", b"\xff", "[" * 100_000])
def test_no_json(message: str | bytes) -> None:
    """Whatever a peer may send instead of JSON, it is one error to the view."""
    websocket: Any = SimpleNamespace(receive=lambda timeout: message)
    with pytest.raises(ValueError, match=r"Expecting value|decode|nested too deeply"):
        WebSocket.receive_json(websocket)

"""The object that a view holds, without a server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from django_wsmux.websocket import WebSocket


@pytest.mark.parametrize("message", ["no JSON", b"\xff", "[" * 100_000])
def test_invalid_json(message: str | bytes) -> None:
    """Any invalid JSON from a peer raises the same error in the view."""
    websocket: Any = SimpleNamespace(receive=lambda timeout: message)
    with pytest.raises(ValueError, match=r"Expecting value|decode|nested too deeply"):
        WebSocket.receive_json(websocket)

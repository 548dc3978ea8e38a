"""gevent-websocket's own server has sent the 101 when Django is asked."""

from __future__ import annotations

import pytest
from websockets.exceptions import ConnectionClosed

from tests.support import TIMEOUT, Server


class TestRefusal:
    """What would be an HTTP response is a close with 1008 that names it."""

    @pytest.mark.parametrize(
        ("path", "reason"),
        [
            ("/status/302/", "302 Found"),
            ("/status/403/", "403 Forbidden"),
            ("/status/404/", "404 Not Found"),
            ("/status/429/", "429 Too Many Requests"),
            ("/nowhere/", "404 Not Found"),
            ("/private/", "302 Found"),
            ("/staff/", "403 Forbidden"),
            ("/status/500/", "500 Internal Server Error"),
            ("/crash-before/", "500 Internal Server Error"),
        ],
    )
    def test_is_a_close(self, direct: Server, path: str, reason: str) -> None:
        """Code 1008, or 1013 where it passes, and the status as reason."""
        with direct.connect(path) as websocket:
            with pytest.raises(ConnectionClosed):
                websocket.recv(timeout=TIMEOUT)
            # "Try again later" is a code of its own.
            code = 1013 if "429" in path else 1008
            assert (websocket.close_code, websocket.close_reason) == (code, reason)

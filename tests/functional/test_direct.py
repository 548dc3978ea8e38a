"""Views on gevent-websocket's own server, which sends the 101 before Django runs."""

from __future__ import annotations

import pytest
from websockets.exceptions import ConnectionClosed

from tests.support import TIMEOUT, Server


class TestRefusal:
    """A refusal becomes a close with 1008, with the status as reason."""

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
        """The code is 1008, or 1013 for a temporary refusal, and the status is the reason."""
        with direct.connect(path) as websocket:
            with pytest.raises(ConnectionClosed):
                websocket.recv(timeout=TIMEOUT)
            # "Try again later" is a code of its own.
            code = 1013 if "429" in path else 1008
            assert (websocket.close_code, websocket.close_reason) == (code, reason)

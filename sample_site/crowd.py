"""Many clients for the page Crowd: ``python -m sample_site.crowd ws://HOST:PORT/crowd/ 1000``.

Each client receives all numbers, and checks that it gets each of them once and in order. When its
socket is closed it returns with its position, as the JavaScript client does. The first client
reports for all of them. They leave when they are told to, or when the server is gone.
"""

import asyncio
import contextlib
import json
import random
import resource
import sys
import time
from base64 import urlsafe_b64encode
from collections import Counter
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

__all__ = ["Crowd"]

#: Handshakes at the same time.
AT_ONCE = 20

#: Seconds without a socket after which the clients give up.
PATIENCE = 60.0


class Crowd:
    """All clients, and what has happened to them.

    Args:
        url: the URL of their sockets.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._counts: Counter[str] = Counter(open=0, received=0, lost=0, doubled=0, returned=0)
        self._opening = asyncio.Semaphore(AT_ONCE)
        self._seen = time.monotonic()
        self._end = asyncio.Event()

    async def live(self, count: int) -> None:
        """Let clients come, and stay until they are to leave."""
        tasks = [asyncio.create_task(self._stay(number == 0)) for number in range(count)]
        while not self._end.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._end.wait(), 1.0)
            if time.monotonic() - self._seen > PATIENCE:
                break
        for task in tasks:
            task.cancel()

    async def _stay(self, is_reporter: bool) -> None:
        """Keep one client connected."""
        positions: dict[str, str] = {}
        last: dict[str, int] = {}
        while True:
            with contextlib.suppress(OSError, TimeoutError, WebSocketException):
                await self._visit(positions, last, is_reporter)
            await asyncio.sleep(random.uniform(0, 1))  # noqa: S311

    async def _visit(
        self, positions: dict[str, str], last: dict[str, int], is_reporter: bool
    ) -> None:
        """Receive until the socket is closed."""
        brought = urlsafe_b64encode(json.dumps({"g": positions}).encode()).decode().rstrip("=")
        async with self._opening:
            socket = await connect(
                self._url,
                subprotocols=["wsmux.v1", f"wsmux.at.{brought}"],  # type: ignore[list-item]
                compression=None,
                ping_interval=None,
                close_timeout=1,
            )
        self._counts["open"] += 1
        self._counts["returned"] += bool(positions)
        reporting = asyncio.create_task(self._report(socket)) if is_reporter else None
        try:
            async for frame in socket:
                self._seen = time.monotonic()
                self._take(json.loads(frame), positions, last)
        finally:
            self._counts["open"] -= 1
            if reporting:
                reporting.cancel()
            await socket.close()

    def _take(self, frame: dict[str, Any], positions: dict[str, str], last: dict[str, int]) -> None:
        """Check a frame of the server; see ``docs/wire.rst``."""
        for name, group in frame.get("welcome", {}).get("groups", {}).items():
            positions.setdefault(name, group["at"])
            self._counts["lost"] += group.get("recovered") is False
        if "at" not in frame:
            return
        positions[frame["in"]] = frame["at"]
        data = frame["data"]
        if data["type"] == "leave":
            self._end.set()
        elif data["type"] == "number":
            sender, number = data["sender"], data["number"]
            expected = last.get(sender, number - 1) + 1
            self._counts["received"] += 1
            self._counts["doubled"] += number < expected
            self._counts["lost"] += max(0, number - expected)
            last[sender] = max(number, expected - 1)

    async def _report(self, socket: ClientConnection) -> None:
        """Report for all clients, each second."""
        while True:
            await socket.send(json.dumps({"type": "report", **self._counts}))
            await asyncio.sleep(1)


def main() -> None:
    """Let the clients come."""
    url, count = sys.argv[1:]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, int(count) + 100), most))

    async def live() -> None:
        await Crowd(url).live(int(count))

    asyncio.run(live())


if __name__ == "__main__":
    main()

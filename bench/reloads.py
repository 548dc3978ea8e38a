"""The workers of gunicorn while it reloads: which there are, and what they cost."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from harness import TICKS, BenchError, Server
from ticks import children, fields_of, spent

__all__ = ["Workers"]

#: Seconds to wait for events that must happen.
PATIENCE = 180.0
#: Looks at the processes, and seconds between them, that must all find them idle.
LOOKS, LOOK = 8, 0.1


class Workers:
    """The workers of a server.

    Args:
        server: gunicorn.
        loaded: the file to which each process that has loaded the application adds a line.
        count: how many workers there are.
    """

    def __init__(self, server: Server, loaded: Path, count: int) -> None:
        self._server = server
        self._loaded = loaded
        self._count = count

    async def ready(self) -> None:
        """Wait until all workers have loaded the application."""
        await self._wait(
            lambda: len(self._pids()) == self._count and self._pids() <= self._when_loaded().keys(),
            "the workers do not load the application",
        )

    async def reload(self) -> float:
        """Reload gunicorn; return how many seconds later all old workers had ended."""
        before = self._pids()
        started = time.monotonic()
        os.kill(self._server.pid, signal.SIGHUP)
        await self._wait(lambda: not before & self._pids(), "old workers do not end")
        seconds = time.monotonic() - started
        await self.ready()
        return seconds

    async def rest(self) -> float:
        """Wait until all are idle; return the CPU seconds since the last of them was loaded."""
        deadline = time.monotonic() + PATIENCE
        looks, last = 0, -1.0
        while looks < LOOKS:
            if time.monotonic() > deadline:
                raise BenchError("the workers do not become idle")
            await asyncio.sleep(LOOK)
            now = spent(self._server.pid)
            # A worker wakes up once a second, and uses a clock tick now and then.
            looks = looks + 1 if self._are_asleep() and now - last <= 1 / TICKS else 0
            last = now
        return last - max(self._when_loaded().values())

    async def _wait(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise BenchError(f"timed out: {what}:\n{self._server.log_tail()}")
            await asyncio.sleep(0.02)

    def _pids(self) -> set[int]:
        return children(self._server.pid)

    def _when_loaded(self) -> dict[int, float]:
        """Return what all processes had spent when each had loaded the application."""
        if not self._loaded.exists():
            return {}
        lines = [line.split() for line in self._loaded.read_text().splitlines()]
        return {int(pid): float(seconds) for pid, seconds in lines}

    def _are_asleep(self) -> bool:
        return all(
            fields_of(thread)[0] == "S"
            for pid in (self._server.pid, *self._pids())
            for thread in Path(f"/proc/{pid}/task").glob("[0-9]*")
        )

"""Closes the sockets of a process that is about to end.

Clients reconnect when they are closed with 1012 "service restart". If all sockets were
closed at the same moment, all clients would reconnect at the same moment, so ``Drain`` closes one
after the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from random import SystemRandom
from typing import TYPE_CHECKING, Final

from ..protocol.frames import CloseCode
from . import registry

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["CLOSE_GRACE", "RATE", "Drain", "close_all_and_wait", "restart"]

_random: Final = SystemRandom()

#: Seconds that peers have to answer the close frame, and clients with an HTTP connection that is
#: kept alive to send another request.
CLOSE_GRACE: Final = 2.0

#: Minimum number of sockets closed per second. Other processes can easily take that many
#: handshakes, and a few sockets need not wait for a window that is meant for thousands.
RATE: Final = 100

_REASON: Final = "service restart"


def restart(websocket: Connection) -> None:
    """Close a socket with 1012, so that its client reconnects: the default policy."""
    websocket.close(CloseCode.SERVICE_RESTART, _REASON)


class Drain:
    """Closes the sockets that are open now, in random order and at a steady pace.

    No further handshake is accepted. Handshakes in progress may still open a socket, which is
    closed at the end.

    Args:
        window: maximum number of seconds from the first close to the last; ``RATE`` makes it
            shorter for few sockets.
        now: the time in seconds, from the same clock as for ``close_due()``.
        policy: makes a socket leave; see ``registry.leave()``.
    """

    __slots__ = ("_count", "_policy", "_sockets", "_started", "window")

    def __init__(
        self, window: float, now: float, policy: Callable[[Connection], None] = restart
    ) -> None:
        self._policy = policy
        registry.refuse_handshakes()
        self._sockets = list(registry.open_sockets)
        self._count = len(self._sockets)
        _random.shuffle(self._sockets)
        self._started = now
        self.window = min(window, self._count / RATE)

    def close_due(self, now: float) -> bool:
        """Close the sockets that are due; return whether these were the last."""
        elapsed = now - self._started
        if elapsed >= self.window:
            self._sockets.clear()
            registry.leave(self._policy)
            return True
        left = self._count - 1 - int(self._count * elapsed / self.window)
        while len(self._sockets) > left:
            websocket = self._sockets.pop()
            if not websocket.closed:
                self._policy(websocket)
        return False


def close_all_and_wait(seconds: float) -> None:
    """Close all sockets at once; wait until they and their views have ended.

    Args:
        seconds: the longest time to wait.
    """
    registry.stop(CloseCode.SERVICE_RESTART, _REASON)
    deadline = time.monotonic() + seconds
    while registry.open_sockets | registry.running_views and time.monotonic() < deadline:
        time.sleep(0.01)

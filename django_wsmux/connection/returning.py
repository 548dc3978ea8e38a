"""Tells clients that are closed together when to return, so that they do not all return at once.

The time that their new handshakes need is estimated from two measurements of earlier handshakes of
``wsmux.v1`` clients: the duration of the fastest one, and the most in one second. Both are lower
bounds of
what a process can do: concurrent handshakes delay each other, and few arrive in a quiet second.
"""

from __future__ import annotations

import math
from random import SystemRandom
from typing import Final

from . import registry

__all__ = ["Pace", "pace"]

_random: Final = SystemRandom()

#: The share of a process's time that may be spent on handshakes.
_SHARE: Final = 0.5

#: Handshakes per second that any process can handle.
_LEAST: Final = 100.0

#: The minimum pause in seconds, and the minimum length in seconds of the window in which clients
#: return.
_PAUSE: Final = 0.5
_WINDOW: Final = 1.0


class Pace:
    """Measures handshakes.

    Attributes:
        rate: handshakes per second that this process can handle.
    """

    __slots__ = ("_count", "_second", "rate")

    def __init__(self) -> None:
        self.rate = _LEAST
        self._second = 0
        self._count = 0

    def note(self, began: float, now: float) -> None:
        """Note that a handshake has ended with an open socket.

        Args:
            began: when it began, by ``time.monotonic()``.
            now: the present time.
        """
        second = math.floor(now)
        self._count = self._count + 1 if second == self._second else 1
        self._second = second
        alone = _SHARE / (now - began) if now > began else _LEAST
        self.rate = max(self.rate, alone, float(self._count))

    def after(self) -> float:
        """Return the seconds after which the client of a closing socket should return.

        These times are spread over the time that the handshakes of all open sockets need.
        """
        window = max(len(registry.open_sockets) / self.rate, _WINDOW)
        return round(_PAUSE + _random.uniform(0, window), 2)


#: The pace of this process.
pace: Final = Pace()

"""When clients should return that are closed together, so that they do not all return at once.

Their new handshakes take as long as a process needs for them. It is measured, while clients that
can be told open their sockets: how long the fastest handshake took, and the most in one second.
Other handshakes delay one that is measured, and in a quiet second few arrive, so both tell the
least that a process can do.
"""

from __future__ import annotations

import math
import random
from typing import Final

from . import registry

__all__ = ["Pace", "pace"]

#: The part of the time of a process that is left for handshakes beside its other work.
_SHARE: Final = 0.5

#: Handshakes in a second that any process can take.
_LEAST: Final = 100.0

#: The least seconds, and the least length of the time over which clients return.
_PAUSE: Final = 0.5
_WINDOW: Final = 1.0


class Pace:
    """Measures handshakes.

    Attributes:
        rate: handshakes that this process can take in a second.
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
        """Return after how many seconds the client of a socket that closes should return.

        The times of all open sockets are spread over the time that their handshakes take.
        """
        window = max(len(registry.open_sockets) / self.rate, _WINDOW)
        return round(_PAUSE + random.uniform(0, window), 2)  # noqa: S311


#: The pace of this process.
pace: Final = Pace()

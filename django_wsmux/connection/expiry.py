"""Sockets that end at a time of their own, such as that of the token which opened them.

Few sockets have such a time, so the times are kept here and not with the sockets. The keepalive
looks at them when it sweeps.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Any, Final

from . import guard

__all__ = ["EXPIRED", "set_time", "sweep", "time_of", "times"]

#: What an expired socket is closed with: its client has to show again who it is.
EXPIRED: Final = 4401

#: Seconds between two looks at all of them, at least.
_TICK: Final = 1.0

#: The key of ``Connection.on_close()``.
_KEY: Final = object()

#: When sockets end, on the clock of ``time.time()``.
times: Final[dict[Any, float]] = {}
# A time before which none of them comes.
_soonest = math.inf


def time_of(connection: Any) -> float | None:
    """Return when a socket ends, on the clock of ``time.time()``; ``None`` for no such time."""
    return times.get(connection)


def set_time(connection: Any, when: float | None) -> None:
    """Have a socket end at a time, or at none; it is forgotten when the socket closes before."""
    global _soonest
    connection.cancel_on_close(_KEY)
    _forget(connection)
    if when is not None:
        times[connection] = when
        connection.on_close(_KEY, partial(_forget, connection))
        _soonest = min(_soonest, when)


def _forget(connection: Any) -> None:
    times.pop(connection, None)


def sweep() -> float | None:
    """Close the sockets whose time has come.

    Returns:
        Seconds until this is to be called again, ``None`` if no socket has such a time.
    """
    global _soonest
    if not times:
        return None
    now = time.time()
    if now >= _soonest:
        for connection in [each for each, when in times.items() if when <= now]:
            _forget(connection)
            guard.call(connection.close_from_group, EXPIRED, "expired")
        _soonest = max(min(times.values(), default=math.inf), now + _TICK)
    return _soonest - now if times else None

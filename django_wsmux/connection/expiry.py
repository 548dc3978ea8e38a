"""Closes sockets that expire, such as when the token that opened them expires.

Few sockets expire, so the times are stored here and not in the sockets. The keepalive checks them
when it sweeps.
"""

from __future__ import annotations

import math
import time
from datetime import datetime
from functools import partial
from typing import Any, Final

from . import guard

__all__ = ["EXPIRED", "as_time", "set_time", "sweep", "time_of", "times"]

#: The close code of an expired socket: its client must authenticate again.
EXPIRED: Final = 4401

#: Minimum number of seconds between two checks of all sockets.
_TICK: Final = 1.0

#: Seconds for which a sweep closes sockets before others have their turn.
_SLICE: Final = 0.01

#: The key for ``Connection.on_close()``.
_KEY: Final = object()

#: The times at which sockets expire, as of ``time.time()``.
times: Final[dict[Any, float]] = {}
# No socket expires before this time.
_soonest = math.inf


def time_of(connection: Any) -> float | None:
    """Return the time at which a socket expires, as of ``time.time()``; ``None`` for never."""
    return times.get(connection)


def as_time(when: datetime | float | None) -> float | None:
    """Return a time as of ``time.time()``; ``None`` for never.

    Raises:
        ValueError: it has no time zone, or is not finite.
    """
    if isinstance(when, datetime):
        if when.tzinfo is None:
            raise ValueError(f"expires_at = {when!r}: use a datetime with a time zone")
        return when.timestamp()
    if when is not None and not math.isfinite(when):
        raise ValueError(f"expires_at = {when!r}: use a finite number, or None for never")
    return when


def set_time(connection: Any, when: float | None) -> None:
    """Set the time at which a socket expires, ``None`` for never; a close clears it."""
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
    """Close the sockets that have expired.

    Returns:
        Seconds until the next call is needed; ``None`` if no socket expires.
    """
    global _soonest
    if not times:
        return None
    now = time.time()
    if now >= _soonest:
        if _close_some(now):
            return 0.0
        _soonest = max(min(times.values(), default=math.inf), now + _TICK)
    return _soonest - now if times else None


def _close_some(now: float) -> bool:
    """Close sockets that have expired; return whether some may be left."""
    deadline = time.perf_counter() + _SLICE
    for connection in [each for each, when in times.items() if when <= now]:
        _forget(connection)
        guard.call(connection.close_from_group, EXPIRED, "expired")
        if time.perf_counter() > deadline:
            return True
    return False

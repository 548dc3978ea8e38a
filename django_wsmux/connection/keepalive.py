"""Pings connections, and drops those whose peer no longer answers: one sweeper for all.

A peer that vanished without a FIN (a phone in a tunnel, a proxy that forgot it) sends and refuses
nothing, so its socket would stay open for ever. Every ``ping_interval`` a connection is sent a
ping. If nothing at all comes back within ``ping_timeout``, it is dropped. Any sign of life counts,
not just the pong.

All connections of a process have the same two intervals, so the connections in each queue fall due
in the order in which they entered it, and a sweep looks at no others.
"""

from __future__ import annotations

from collections.abc import Collection
from operator import itemgetter
from random import SystemRandom
from typing import TYPE_CHECKING, Final

from . import expiry, guard

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["RETRY", "Keepalive"]

_random: Final = SystemRandom()

#: Seconds until the next sweep after one that failed.
RETRY: Final = 1.0


class Keepalive:
    """Decides when connections are pinged or given up; its caller keeps the time."""

    __slots__ = ("_checks", "_pings")

    def __init__(self) -> None:
        # Each connection with the time at which it falls due, the soonest first.
        self._pings: dict[Connection, float] = {}
        self._checks: dict[Connection, float] = {}

    def add(self, connection: Connection, now: float) -> float | None:
        """Watch a newly opened connection; return when it falls due, or ``None`` for never.

        Args:
            connection: the connection; its options say how long it may be silent.
            now: the time in seconds, from the same clock as for ``sweep()``.
        """
        interval = connection.options.ping_interval
        if not interval:
            return None
        self._pings[connection] = now + interval
        return now + interval

    def discard(self, connection: Connection) -> None:
        """Forget a connection."""
        self._pings.pop(connection, None)
        self._checks.pop(connection, None)

    def spread(self, connections: Collection[Connection], now: float) -> float | None:
        """Spread the pings of many connections that were added at the same time.

        Args:
            connections: connections that were added, and perhaps discarded.
            now: as for ``add()``.

        Returns:
            The time at which the first of them falls due; ``None`` if none does.
        """
        pings = self._pings
        for connection in connections:
            if connection in pings:
                pings[connection] = now + _random.random() * connection.options.ping_interval
        self._pings = dict(sorted(pings.items(), key=itemgetter(1)))
        return next(iter(self._pings.values()), None)

    def sweep(self, now: float) -> float | None:
        """Ping, give up or close connections that are due; return when to sweep again, if ever."""
        for connection in self._due(self._checks, now):
            if connection.closed:
                pass  # closed by the view of another connection, which this loop has given up
            elif connection.is_alive():
                pinged = now - connection.options.ping_timeout
                self._pings[connection] = max(now, pinged + connection.options.ping_interval)
            else:
                guard.call(connection.give_up)
        for connection in self._due(self._pings, now):
            if not connection.closed:
                self._checks[connection] = now + connection.options.ping_timeout
                guard.call(connection.send_keepalive_ping)
        due = [next(iter(queue.values())) for queue in self._queues()]
        wait = expiry.sweep()
        if wait is not None:
            due.append(now + wait)
        return min(due, default=None)

    def _queues(self) -> list[dict[Connection, float]]:
        return [queue for queue in (self._pings, self._checks) if queue]

    def _due(self, queue: dict[Connection, float], now: float) -> list[Connection]:
        due = []
        for connection, time in queue.items():
            if time > now:
                break
            due.append(connection)
        for connection in due:
            del queue[connection]
        return due

"""Pings, and the end of peers that no longer answer: one sweeper for all connections.

A peer that vanished without a FIN (a phone in a tunnel, a proxy that forgot) sends nothing and
refuses nothing, so its socket would stay for ever. Every ``ping_interval`` a connection is sent a
ping; when nothing at all has come back ``ping_timeout`` later, it is dropped. Any sign of life
counts, not just the pong.

All connections of a process have the same two intervals, so those in each queue fall due in the
order in which they entered it, and a sweep looks at no others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from . import guard

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["RETRY", "Keepalive"]

#: Seconds until the next sweep after one that failed.
RETRY: Final = 1.0


class Keepalive:
    """Which connection is to be pinged, or given up, when; it keeps no time by itself."""

    __slots__ = ("_checks", "_pings")

    def __init__(self) -> None:
        # Connection to the time when it falls due, the soonest first.
        self._pings: dict[Connection, float] = {}
        self._checks: dict[Connection, float] = {}

    def add(self, connection: Connection, now: float) -> float | None:
        """Watch a connection that has just opened; return when it falls due, if ever.

        Args:
            connection: says in its options how long it may be silent.
            now: seconds, of whatever clock ``sweep()`` is told.
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

    def sweep(self, now: float) -> float | None:
        """Ping and give up whoever is due; return when to come back, ``None`` for never."""
        for connection in self._due(self._checks, now):
            if connection.closed:
                pass  # by the view of another one that was given up in this very loop
            elif connection.is_heard():
                pinged = now - connection.options.ping_timeout
                self._pings[connection] = max(now, pinged + connection.options.ping_interval)
            else:
                guard.call(connection.give_up)
        for connection in self._due(self._pings, now):
            if not connection.closed:
                self._checks[connection] = now + connection.options.ping_timeout
                guard.call(connection.send_keepalive_ping)
        return min((next(iter(queue.values())) for queue in self._queues()), default=None)

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

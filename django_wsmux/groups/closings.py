"""Remembers groups that were closed during handshakes.

A socket joins the groups of its user and its session when its handshake is accepted, but user and
session were read earlier. A close in between would miss the socket, which would stay open although
its session has ended. So each close is remembered as long as a handshake that began before it is in
progress.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from threading import Lock
from typing import Final

from ..protocol.frames import CloseCode

__all__ = ["Closings"]

#: Maximum number of closes to remember; a handshake during which more happen is refused.
_MOST: Final = 10_000


class Closings:
    """The closes of groups, by group, since the oldest handshake in progress began."""

    __slots__ = ("_began", "_closes", "_forgotten", "_last", "_lock")

    def __init__(self) -> None:
        # The number of the last close before each handshake.
        self._began: dict[object, int] = {}
        # Number, code and reason of each group's last close, oldest first.
        self._closes: OrderedDict[object, tuple[int, int, str]] = OrderedDict()
        self._last = 0
        # The number of the last close that was dropped or never seen.
        self._forgotten = 0
        # Only ``add()`` and ``lose()`` acquire it: the methods for handshakes are single steps.
        self._lock = Lock()

    def begin(self, handshake: object) -> None:
        """Start remembering closes for a handshake."""
        self._began[handshake] = self._last

    def end(self, handshake: object) -> None:
        """Stop remembering closes for a handshake. May be called twice."""
        self._began.pop(handshake, None)

    def finish(self, handshake: object, groups: Collection[object]) -> tuple[int, str] | None:
        """Do ``end()``; return what ``since()`` does."""
        closed = self.since(handshake, groups)
        self.end(handshake)
        return closed

    def add(self, group: object, code: int, reason: str) -> None:
        """Remember that a group was closed."""
        with self._lock:
            self._last += 1
            oldest = min(list(self._began.values()), default=self._last)
            closes = self._closes
            closes[group] = (self._last, code, reason)
            closes.move_to_end(group)
            while closes:
                number = next(iter(closes.values()))[0]
                if number > oldest and len(closes) <= _MOST:
                    break
                closes.popitem(last=False)
                self._forgotten = number

    def lose(self) -> None:
        """Note that closes may have been missed during the handshakes in progress."""
        with self._lock:
            self._last += 1
            self._forgotten = self._last
            self._closes.clear()

    def since(self, handshake: object, groups: Collection[object]) -> tuple[int, str] | None:
        """Return code and reason if one of the groups was closed since a handshake began.

        If that is unknown, code and reason ask the client to try again.
        """
        began = self._began.get(handshake, self._last)
        if began == self._last:
            return None
        for group in groups:
            number, code, reason = self._closes.get(group, (0, 0, ""))
            if number > began:
                return code, reason
        if groups and began < self._forgotten:
            return CloseCode.TRY_AGAIN_LATER, "the session may have ended"
        return None

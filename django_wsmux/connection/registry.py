"""The open sockets of this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from threading import Event
from typing import Any, Final, TypeVar

__all__ = [
    "close_all",
    "departures",
    "leave",
    "loops",
    "open_sockets",
    "refuse_handshakes",
    "running_views",
    "slices",
    "stop",
    "stopping",
    "yielding_every",
]

T = TypeVar("T")

#: Number of sockets to process before others have their turn: takes a millisecond or two.
_SLICE: Final = 1000

#: Every socket from its 101 until its descriptor is closed.
open_sockets: set[Any] = set()

#: Every socket with a view that is still running, whether the socket is open or not.
running_views: set[Any] = set()


#: Sockets of function views that are called for each message, and whether the view waits for its
#: next call, when it keeps nothing.
loops: dict[Any, bool] = {}


#: Called before the sockets are closed because the process ends: hand them over.
departures: list[Callable[[], None]] = []


def leave(policy: Callable[[Any], None]) -> None:
    """Make every open socket leave this process; returns at once.

    Args:
        policy: makes one socket leave: closes it, or passes it to another process. Must neither
            wait nor raise.
    """
    for websocket in list(open_sockets):
        if not websocket.closed:
            policy(websocket)


def close_all(code: int, reason: str) -> None:
    """Start the closing handshake on every open socket; returns at once."""
    leave(lambda websocket: websocket.close(code, reason))


def slices(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield the parts of a long sequence, and let other greenlets run in between.

    Args:
        items: the sequence.
        size: the length of each part except the last.
    """
    for start in range(0, len(items), size):
        if start:
            time.sleep(0)
        yield items[start : start + size]


def yielding_every(items: Sequence[T]) -> Iterator[T]:
    """Yield the items of a long sequence, and let other greenlets run in between."""
    for some in slices(items, _SLICE):
        yield from some


#: Set when the process is about to end: no further socket may open.
stopping: Final = Event()


def refuse_handshakes() -> None:
    """Refuse all further handshakes: the process is about to end."""
    stopping.set()


def stop(code: int, reason: str) -> None:
    """Close every socket and refuse all further handshakes: the process is about to end."""
    refuse_handshakes()
    close_all(code, reason)

"""The open sockets of this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from threading import Event
from typing import Any, Final, TypeVar

__all__ = [
    "close_all",
    "leave",
    "open_sockets",
    "refuse_handshakes",
    "running_views",
    "stop",
    "stopping",
    "yielding_every",
]

T = TypeVar("T")

#: Sockets that are looked at before others have their turn: for a millisecond or two.
_SLICE: Final = 1000

#: Every socket from its 101 until its descriptor is closed.
open_sockets: set[Any] = set()

#: Every socket whose view is still running, be the socket open or not.
running_views: set[Any] = set()


def leave(policy: Callable[[Any], None]) -> None:
    """Have every open socket leave this process; returns at once.

    Args:
        policy: has one socket leave: it closes it, or gives it to another process. Neither waits
            nor raises.
    """
    for websocket in list(open_sockets):
        if not websocket.closed:
            policy(websocket)


def close_all(code: int, reason: str) -> None:
    """Start the closing handshake on every open socket; returns at once."""
    leave(lambda websocket: websocket.close(code, reason))


def yielding_every(items: Sequence[T]) -> Iterator[T]:
    """Yield what there may be very many of, and let other greenlets run in between."""
    for start in range(0, len(items), _SLICE):
        if start:
            time.sleep(0)
        yield from items[start : start + _SLICE]


#: Set when the process is about to end: no socket may open any more.
stopping: Final = Event()


def refuse_handshakes() -> None:
    """Let no socket open any more: the process is about to end."""
    stopping.set()


def stop(code: int, reason: str) -> None:
    """Close every socket, and let none open any more: the process is about to end."""
    refuse_handshakes()
    close_all(code, reason)

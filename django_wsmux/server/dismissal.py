"""Refuses handshakes with a close code: accepts them and closes at once; they are never open.

A page cannot see the HTTP response to a handshake, but it sees a close code.
"""

from __future__ import annotations

from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Final

from ..connection.counters import count
from ..protocol import v1
from ..protocol.frames import CLOSE, TEXT, close_payload, encode
from .limits import Permit

if TYPE_CHECKING:
    from ..connection.websocket import WebSocket
    from ..protocol.options import Options
    from .takeover import Takeover

__all__ = ["dismiss", "disown", "enter", "frames", "limits"]

#: The most of these sockets that may wait for their peer's close frame.
_MOST: Final = 256

#: Seconds that the peer has to send it.
_SECONDS: Final = 2.0

# For servers with threads; greenlets do not switch here.
_lock = Lock()
_taken = 0


def disown() -> None:
    """Replace the lock in a forked child: another thread may have held it during the fork."""
    global _lock
    _lock = Lock()


class _Slot(Permit):
    """One of ``_MOST`` slots; given back when the descriptor is closed."""

    __slots__ = ("_is_given_back",)

    def __init__(self) -> None:
        super().__init__(None)
        self._is_given_back = False

    def release(self) -> None:
        """Give the slot back; a second call does nothing."""
        global _taken
        with _lock:
            if not self._is_given_back:
                self._is_given_back = True
                _taken -= 1


def enter() -> Permit | None:
    """Return a slot for one socket, or ``None`` if all are taken."""
    global _taken
    with _lock:
        if _taken >= _MOST:
            return None
        _taken += 1
    return _Slot()


def limits(options: Options) -> Options:
    """Return the limits of these sockets, derived from the limits of ordinary ones."""
    return replace(options, close_timeout=_SECONDS, compression=None)


def frames(code: int, reason: str, after: float | None) -> bytes:
    """Return the bytes that are sent after the 101.

    Args:
        code: the close code.
        reason: the close reason.
        after: seconds until the client should try again; ``None`` if it does not understand that.
    """
    close = encode(CLOSE, close_payload(code, reason))
    if after is None:
        return close
    return encode(TEXT, v1.bye(after).encode()) + close


def dismiss(websocket: WebSocket, takeover: Takeover, slot: Permit, data: bytes) -> None:
    """Accept a handshake and close the socket.

    Args:
        websocket: the socket, which no view has used.
        takeover: how to get the connection from the server.
        slot: from ``enter()``.
        data: the 101 response and ``frames()``.
    """
    websocket.permit = slot
    transport, unread = takeover.take(websocket)
    count("refusals_closed")
    websocket.dismiss(transport, data, unread)

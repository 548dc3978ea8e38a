"""Sockets whose event view sees a group's message before the client would.

The view has to be run for each message and each member, which costs far more than writing the same
bytes to all. So it is decided once, at the handshake, by the class of the socket; other sockets
know nothing of it.
"""

from __future__ import annotations

from typing import Final

from ..protocol.prepared import Prepared
from .contracts import OPEN
from .counters import count
from .websocket import WebSocket

__all__ = ["InterceptingWebSocket", "intercept", "kinds"]

#: Bytes that a waiting message is taken for beside its own, so that many small ones add up too.
_OVERHEAD: Final = 128


class InterceptingWebSocket(WebSocket):
    """Messages of groups wait for the view in one line with those of the peer.

    What a peer that does not read is to others, a view that does not get on is here: it falls
    behind by ``max_unsent_bytes``, and then the policy for slow clients holds.

    The class of a socket is changed to this one, so there are no slots of its own.
    """

    __slots__ = ()

    def deliver(self, message: Prepared) -> None:
        """Have the view handle a message that goes to many, when its turn comes; never waits."""
        if self._state != OPEN:
            super().deliver(message)  # waits for the 101, or comes too late
            return
        options = self.options
        if self._group_bytes > options.max_unsent_bytes:
            if options.close_slow_clients:
                self._close_slow(f"its view is behind by {self._group_bytes} bytes of its groups")
            else:
                count("slow_client_dropped")
            return
        if self._inbox is None:
            self._inbox = []
        self._inbox.append(message)
        self._group_bytes += len(message) + _OVERHEAD
        self._wake()

    def receive(self, timeout: float | None = None) -> str | bytes | None:
        """Event views do not wait, and what is in line here may be a group's."""
        if self._state == OPEN and self.is_served:
            self._refuse_to_wait()
        return super().receive(timeout)

    def take_turn(self, message: str | bytes | None = None) -> bool:
        """Have one message handled, of the peer or of a group, or the end."""
        told = self._next_group_message() if message is None else None
        if told is None:
            return super().take_turn(message)
        self.hooks.group_receive(self, told.message)
        return self._goes_on()

    def _next_group_message(self) -> Prepared | None:
        """Take the oldest message, if it is a group's."""
        message = self._inbox[0] if self._inbox else None
        if type(message) is not Prepared:
            return None
        self._next_message()
        self._messages_in -= 1  # it did not come from the peer
        self._group_bytes -= len(message) + _OVERHEAD
        return message

    def _goes_on(self) -> bool:
        """The view has returned: say whether there is more to do."""
        self._is_busy = bool(self._inbox) or self._state > OPEN
        return self._is_busy

    def _leave_open(self, code: int, reason: str) -> None:
        """What a view would make of a group's message has nobody to go to any more."""
        if self._inbox:
            self._inbox = [each for each in self._inbox if type(each) is not Prepared]
        self._group_bytes = 0
        super()._leave_open(code, reason)


#: The intercepting kind of each kind of socket.
kinds: Final[dict[type[WebSocket], type[InterceptingWebSocket]]] = {
    WebSocket: InterceptingWebSocket
}


def intercept(websocket: WebSocket) -> None:
    """From now on a socket's event view sees what groups send before the peer would."""
    websocket.__class__ = kinds[type(websocket)]

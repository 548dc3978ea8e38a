"""Sockets whose event view sees a group's message before the client would.

The view has to be run for each message and each member, which costs far more than writing the same
bytes to all. So it is decided once, at the handshake, by the class of the socket; other sockets
know nothing of it.
"""

from __future__ import annotations

from typing import Final

from ..protocol.prepared import Prepared
from .contracts import OPEN
from .held import weight
from .message_queue import MessageQueue
from .websocket import WebSocket

__all__ = ["InterceptingWebSocket", "intercept", "kinds"]


class InterceptingWebSocket(WebSocket):
    """Messages of groups wait for the view in one line with those of the peer.

    What a peer that does not read is to others, a view that does not get on is here: it falls
    behind by ``max_unsent_bytes``, and then the policy for slow clients holds.

    The class of a socket is changed to this one, so there are no slots of its own.
    """

    __slots__ = ()

    def deliver(self, message: Prepared) -> None:
        """Have the view handle a message that goes to many, when its turn comes; never waits."""
        if self._held is not None or self._state != OPEN:
            self._deliver_later(message)
            return
        waiting = self._inbox.group_bytes if self._inbox else 0
        if waiting > self.options.max_unsent_bytes:
            self._fall_behind(f"its view is behind by {waiting} bytes of its groups")
        else:
            self._forward(message)

    def _forward(self, message: Prepared) -> None:
        """Let a message of a group wait for the view."""
        if self._inbox is None:
            self._inbox = MessageQueue()
        self._inbox.append(message)
        self._inbox.group_bytes += weight(message)
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
        inbox = self._inbox
        if not inbox or type(inbox[0]) is not Prepared:
            return None
        message = inbox[0]
        inbox.group_bytes -= weight(message)
        self._next_message()
        self._messages_in -= 1  # it did not come from the peer
        return message

    def _goes_on(self) -> bool:
        """The view has returned: say whether there is more to do."""
        self._is_busy = bool(self._inbox) or self._state > OPEN
        return self._is_busy

    def _leave_open(self, code: int, reason: str) -> None:
        """What a view would make of a group's message has nobody to go to any more."""
        if self._inbox:
            peers = (each for each in self._inbox if type(each) is not Prepared)
            self._inbox = MessageQueue(*peers)
        super()._leave_open(code, reason)


#: The intercepting kind of each kind of socket.
kinds: Final[dict[type[WebSocket], type[InterceptingWebSocket]]] = {
    WebSocket: InterceptingWebSocket
}


def intercept(websocket: WebSocket) -> None:
    """From now on a socket's event view sees what groups send before the peer would."""
    websocket.__class__ = kinds[type(websocket)]

"""Sockets whose event view sees a group's message before the client does.

The view runs for each message and each member, which costs far more than writing the same bytes to
all members. So the class of the socket is chosen once, at the handshake; other sockets are not
affected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..protocol.prepared import BARE, PreparedMessage
from .held import weight
from .interfaces import OPEN
from .message_queue import MessageQueue
from .websocket import WebSocket

__all__ = ["InterceptingWebSocket", "intercept", "kinds"]


class InterceptingWebSocket(WebSocket):
    """A socket whose group messages wait for the view, in one queue with those of the peer.

    Here a slow view is treated like a slow peer: when it falls behind by more than
    ``max_unsent_bytes``, the policy for slow clients applies.

    The class of an existing socket is changed to this one, so it has no slots of its own.
    """

    __slots__ = ()

    def deliver(self, message: PreparedMessage) -> None:
        """Queue a group message for the view; never waits."""
        if message.kind == BARE:
            super().deliver(message)  # for the client only
            return
        if self._held is not None or self._state != OPEN:
            self._deliver_later(message)
            return
        waiting = self._inbox.group_bytes if self._inbox else 0
        if waiting > self.options.max_unsent_bytes:
            self._fall_behind(message, f"its view is behind by {waiting} bytes of its groups")
        else:
            self._forward(message)

    def _forward(self, message: PreparedMessage) -> None:
        """Add a group message to the queue."""
        if self._inbox is None:
            self._inbox = MessageQueue()
        self._inbox.append(message)
        self._inbox.group_bytes += weight(message)
        self._wake()

    def _forward_all(self, messages: list[PreparedMessage]) -> None:
        """Add group messages to the queue."""
        for message in messages:
            if message.kind == BARE:
                super()._forward_all([message])
            else:
                self._forward(message)

    def discard_held(self, is_unwanted: Callable[[PreparedMessage], bool]) -> None:
        """Discard group messages that are held back, not yet replayed, or wait for the view."""
        super().discard_held(is_unwanted)
        if self._inbox:
            self._inbox.discard(is_unwanted)
            if self._is_paused and not self._inbox:
                self._resume_reading()

    def has_room_for_replay(self) -> bool:
        """Return whether the view's backlog is at most half of its limit."""
        waiting = self._inbox.group_bytes if self._inbox else 0
        return waiting <= self.options.max_unsent_bytes // 2

    def receive(self, timeout: float | None = None) -> str | bytes | None:
        """Refuse in event views, which do not wait; the queue may begin with a group message."""
        if self._state == OPEN and self.is_event_driven:
            self._refuse_to_wait()
        return super().receive(timeout)

    def take_turn(self, message: str | bytes | None = None) -> bool:
        """Run the view for one message from the peer or a group, or for the close."""
        told = self._next_group_message() if message is None else None
        if told is None:
            if message is None and not self._inbox and self._state == OPEN:
                return self._goes_on()  # the message was discarded
            return super().take_turn(message)
        self.hooks.group_receive(self, told)
        if told.position:
            self.hooks.group_handled(self, told)
        if self._held is not None:
            self._continue_replay()
        return self._goes_on()

    def _next_group_message(self) -> PreparedMessage | None:
        """Take the oldest message if it is a group message."""
        inbox = self._inbox
        message = inbox[0] if inbox else None
        if inbox is None or not isinstance(message, PreparedMessage):
            return None
        inbox.group_bytes -= weight(message)
        self._next_message()
        self._messages_in -= 1  # it did not come from the peer
        return message

    def _goes_on(self) -> bool:
        """Return, after the view has returned, whether there is more to do."""
        self._is_busy = bool(self._inbox) or self._state > OPEN
        return self._is_busy

    def _set_closing(self, code: int, reason: str) -> None:
        """Discard queued group messages: the peer cannot receive replies any more."""
        if self._inbox:
            peers = (each for each in self._inbox if not isinstance(each, PreparedMessage))
            self._inbox = MessageQueue(*peers)
        super()._set_closing(code, reason)


#: The intercepting class for each class of socket.
kinds: Final[dict[type[WebSocket], type[InterceptingWebSocket]]] = {
    WebSocket: InterceptingWebSocket
}


def intercept(websocket: WebSocket) -> None:
    """Make a socket's event view see group messages before the peer does."""
    websocket.__class__ = kinds[type(websocket)]
    websocket._is_intercepting = True

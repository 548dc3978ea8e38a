"""Holds group messages back: before the 101, while a socket joins a group, and during replays."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from ..protocol.events import CannotMove
from ..protocol.prepared import PreparedMessage
from . import fanout
from .held import Held
from .interfaces import CONNECTING, OPEN
from .liveness import Liveness

__all__ = ["Holding"]


#: The most bytes of a replay that are sent in one write.
_SLICE: Final = 2**14


class Holding(Liveness):
    """The part of a connection that holds messages back; a base of ``Connection``.

    Args:
        options: the limits of the connection.
        hooks: the hooks of the framework.
    """

    __slots__ = ()

    # Messages that wait for the 101, for release(), or for the end of a replay.
    _held: Held | None

    @property
    def is_held(self) -> bool:
        """Whether group messages are held back."""
        return self._held is not None

    def _forward_all(self, messages: list[PreparedMessage]) -> None:
        raise NotImplementedError

    def _fall_behind(self, message: PreparedMessage, how: str) -> None:
        raise NotImplementedError

    def close_from_group(self, code: int, reason: str) -> None:
        """Start the closing handshake for a group; see ``Connection``."""
        raise NotImplementedError

    def hold(self) -> None:
        """Hold back group messages until ``release()`` has been called as often as ``hold()``.

        Messages of the view itself go out before them. Before the 101 every socket is held.
        """
        if self._owed:
            fanout.settle(self)
        if self._state <= OPEN:
            self._hold_back().depth += 1

    def release(self) -> None:
        """Send the messages held back, in order, if this is the last ``release()``."""
        held = self._held
        if held is None:
            return  # closed in the meantime
        held.depth -= 1
        self._continue_replay()

    def replay(
        self,
        messages: Iterable[PreparedMessage],
        is_repeated: Callable[[PreparedMessage], bool],
    ) -> None:
        """Send earlier messages of a group before the messages that are held back.

        The socket must be held. The messages are sent once it is released, as fast as the peer
        accepts them. Messages that groups send meanwhile follow.

        Args:
            messages: the messages. The caller limits their number.
            is_repeated: returns whether a held message is one of ``messages``, or older than they
                are.
        """
        if self._owed:
            fanout.settle(self)
        held = self._held
        if held is not None:
            held.discard(is_repeated)
            held.replays.extend(messages)

    def held_messages(self) -> list[PreparedMessage]:
        """Return the group messages that wait until the peer has taken what it was sent.

        Raises:
            CannotMove: they wait for something else: the socket joins a group, or is to close.
        """
        if self._owed:
            fanout.settle(self)
        held = self._held
        if held is None:
            return []
        if held.depth or held.closing is not None:
            raise CannotMove("it joins a group, or is to close")
        return [*held.replays, *held.messages]

    def close_after_replay(self, code: int, reason: str) -> None:
        """Do ``close_from_group()`` once the messages that are held back are sent."""
        if self._owed:
            fanout.settle(self)
        if self._held is None:
            self.close_from_group(code, reason)
        elif self._held.closing is None:
            self._held.closing = code, reason

    def discard_held(self, is_unwanted: Callable[[PreparedMessage], bool]) -> None:
        """Discard group messages that are held back or not yet replayed."""
        if self._owed:
            fanout.settle(self)
        if self._held is not None:
            self._held.discard(is_unwanted)

    def _continue_replay(self) -> None:
        """Send as much of a replay as the peer accepts, then the messages held back meanwhile."""
        held = self._held
        if held is None or held.depth:
            return
        while held.next() and self._state == OPEN:
            if not self.has_room_for_replay():
                return
            self._forward_all(held.take(min(self.options.max_unsent_bytes // 2, _SLICE)))
            if held.depth or self._held is not held:
                return
        self._held = None
        if held.closing is not None:
            self.close_from_group(*held.closing)

    def has_room_for_replay(self) -> bool:
        """Return whether the unsent bytes are at most half of their limit."""
        return self._transport.unsent <= self.options.max_unsent_bytes // 2

    def progressed(self) -> None:
        """Note that the peer has accepted some of the queued bytes; continue a replay."""
        super().progressed()
        if self._held is not None:
            self._continue_replay()

    def drained(self) -> None:
        """Send a pending pong, and continue a replay, once all queued bytes are sent."""
        super().drained()
        if self._held is not None:
            self._continue_replay()

    def _hold_back(self) -> Held:
        if self._held is None:
            # A socket that is not open yet is released by opened().
            self._held = Held(depth=int(self._state == CONNECTING))
        return self._held

    def _send_later(self, act: Callable[[], None], size: int) -> None:
        """Send a message of the view as soon as the 101 has gone out."""
        limit = self.options.max_unsent_bytes
        if not self._hold_back().postpone(act, size, limit):
            raise RuntimeError(
                f"connect() has sent more than WEBSOCKET_MAX_UNSENT_BYTES ({limit}), and nothing "
                f"goes out before the 101: join the messages into one, or send them in receive()"
            )

    def _deliver_later(self, message: PreparedMessage) -> None:
        """Hold back a group message, up to the limit of a slow peer."""
        if self._state > OPEN:
            return
        held = self._hold_back()
        if held.closing is None and not held.add(message, self.options.max_unsent_bytes):
            self._fall_behind(message, f"{len(held.messages)} messages of its groups are held back")

    def unsend(self) -> None:
        """Discard the messages that were sent before the 101."""
        self._held = None

"""Queues messages from the codec for the view, and limits how many may wait.

A function view takes them in ``receive()``, which waits on the transport. An event view has no
greenlet of its own to wait in: its messages are passed to the framework one at a time, each in a
greenlet borrowed from a pool.
"""

from __future__ import annotations

from collections.abc import Callable
from sys import getsizeof
from typing import Final, NamedTuple, cast

from ..protocol.codec import Codec
from ..protocol.events import Sink
from ..protocol.options import Options
from ..protocol.rate_limit import RateLimitedCodec
from . import registry
from .counters import count
from .interfaces import CLOSED, CONNECTING, OPEN, Hooks, Transport
from .link import Link
from .message_queue import MessageQueue
from .readable import EventReadiness, PairReadiness

__all__ = ["Inbox", "Traffic"]


# Minimum memory of a message.
_LEAST: Final = getsizeof(b"")


class Traffic(NamedTuple):
    """The traffic of one socket so far.

    Attributes:
        messages_in: messages that the view has received.
        bytes_in: bytes from the peer, including frame headers.
        messages_out: messages sent, including those of groups.
        bytes_out: bytes of the frames of those messages.
    """

    messages_in: int
    bytes_in: int
    messages_out: int
    bytes_out: int


class _Nowhere:
    """Discards the messages that arrive while a socket is closing."""

    __slots__ = ()

    def __len__(self) -> int:
        return 0

    def append(self, message: str | bytes) -> None:
        pass

    def pop(self) -> object:
        raise IndexError("nothing is kept")


_nowhere = _Nowhere()


class Inbox(Link):
    """The receiving side of a connection; a base of ``Connection``.

    Args:
        options: the limits of the connection.
        hooks: the hooks of the framework.
    """

    __slots__ = ()

    options: Options
    hooks: Hooks
    codec: Codec
    _transport: Transport
    _inbox: MessageQueue | None
    _readiness: EventReadiness | PairReadiness | None

    def __init__(self, options: Options, hooks: Hooks) -> None:
        self.options = options
        self.hooks = hooks
        limits = (
            options.max_message_size,
            options.max_frame_size,
            options.max_fragments,
            # More messages exceed the limit in bytes, however short they are.
            min(options.max_unread_messages, options.max_unread_bytes // _LEAST + 1),
        )
        rate = options.max_messages_per_second
        self.codec = Codec(*limits) if rate is None else RateLimitedCodec(rate, *limits)
        self._state = CONNECTING

    def data_received(self, data: bytes | bytearray, size: int) -> None:
        """Process the first ``size`` bytes of ``data`` from the peer."""
        raise NotImplementedError

    # Arrivals

    def message_received(self, message: str | bytes) -> None:
        """Queue a message that arrived alone while the view could not take it."""
        if self._state == OPEN:
            self._queue_message(message)

    def _queue_message(self, message: str | bytes) -> None:
        if self._inbox is None:
            self._inbox = MessageQueue(message)
        else:
            self._inbox.append(message)
        self._hand_over()

    def _hand_over(self) -> None:
        """Wake the view for the queued messages; limit reading if it leaves some."""
        if self._readiness is not None:
            self._readiness.set()
        if self.is_event_driven:
            self._wake()
        else:
            self._transport.wake()
        # Only now is it known whether the view has taken them.
        if self._inbox or self.codec.is_suspended:
            self._limit_reading()
        else:
            self._inbox = None  # frees memory: the next message may be far off

    # Event views

    def serve(self) -> None:
        """Pass messages to an event view, each in its turn, and finally the close."""
        self.is_event_driven = True
        if self._state > OPEN:
            registry.running_views.add(self)
        self._wake()

    def _wake(self) -> None:
        """Wake the view: a message has arrived, or the socket is closing."""
        if not self.is_event_driven:
            self._transport.wake()
        elif not self._is_busy and (self._inbox or self._state > OPEN):
            self._is_busy = True
            self._transport.submit(self.take_turn)

    def insert_turn(self, work: Callable[[], None]) -> bool:
        """Call a function as a turn of an idle event view, before the messages that come later.

        Args:
            work: may wait; must not raise.

        Returns:
            False if the view is not idle: it handles a message, or one waits.
        """
        if self._is_busy or self._inbox or self._state != OPEN:
            return False
        self._is_busy = True
        rest = [work]

        def turn(message: str | bytes | None = None) -> bool:
            if not rest:
                return self.take_turn(message)
            rest.pop()()
            self._is_busy = bool(self._inbox) or self._state > OPEN
            return self._is_busy

        self._transport.submit(turn)
        return True

    def take_turn(self, message: str | bytes | None = None) -> bool:
        """Run the view for one message, or for the close; return whether there is more.

        Args:
            message: a message that has bypassed the queue.
        """
        if message is not None:
            self._messages_in += 1
            self.hooks.receive(self, message)
        elif self._inbox:
            self.hooks.receive(self, self._next_message())
        else:
            # Stays busy for ever, so that this happens only once.
            self.hooks.disconnect(self)
            registry.running_views.discard(self)
            return False
        self._is_busy = bool(self._inbox) or self._state > OPEN
        return self._is_busy

    def _next_message(self) -> str | bytes:
        """Remove the oldest message and return it; resume reading if there is room again."""
        inbox = self._inbox
        assert inbox
        message = cast("str | bytes", inbox.take())
        self._messages_in += 1
        if self._readiness is not None and not inbox and self._state == OPEN:
            self._readiness.clear()
        if self._is_paused and self._has_room(
            self.options.max_unread_messages // 2 + 1, self.options.max_unread_bytes // 2 + 1
        ):
            self._resume_reading()
        return message

    # Forks

    def disown(self) -> None:
        """Mark the socket as closed, in a fork of the process that owns it.

        Nothing is sent, and no callback is called: the view and its helpers run in the parent.
        """
        self._state = CLOSED
        self._inbox = None
        self._transport.disown()

    # Limits

    def _sink(self) -> Sink:
        """Return the queue for messages; while the socket closes, one that discards them."""
        if self._state != OPEN:
            return _nowhere
        inbox = self._inbox
        if inbox is None:
            inbox = self._inbox = MessageQueue()
        return inbox

    def _pause_reading(self) -> None:
        self._is_paused = True
        self._transport.pause()

    def _resume_reading(self) -> None:
        """Resume reading, first with the bytes that the codec holds back."""
        if self._is_paused and self._state != CLOSED:
            self._is_paused = False
            if isinstance(self.codec, RateLimitedCodec):
                self.codec.refill()
            self._transport.resume()
            if self.codec.is_suspended:
                self.data_received(b"", 0)

    def _limit_reading(self) -> None:
        """Pause reading while the view is behind, or while others have their turn."""
        options = self.options
        if self._state == OPEN and not self._has_room(
            options.max_unread_messages, options.max_unread_bytes
        ):
            count("reading_paused")
            self._pause_reading()
        elif self.codec.is_suspended:
            self._pause_reading()
            self._transport.soon(self._resume_reading)

    def _has_room(self, messages: int, size: int) -> bool:
        """Return whether fewer than these messages wait for the view, and fewer bytes."""
        inbox = self._inbox
        return not inbox or (len(inbox) < messages and inbox.size < size)

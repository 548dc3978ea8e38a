"""The life of a connection, from its handshake to its closing handshake.

The transport below moves bytes and makes views wait (``interfaces.py``); the codec parses bytes.
``inbox.py`` queues messages for the view, ``liveness.py`` handles pings and pongs, and
``websocket.py`` has the methods that a view calls. Nothing here blocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from operator import add
from typing import Any, Final

from ..exceptions import ConnectionClosed
from ..logs import get_logger
from ..protocol.deflate import Compression, Compressor, negotiate
from ..protocol.events import CannotMove, Closed, Control, Failure, Ping, Pong
from ..protocol.frames import CLOSE, CloseCode, close_payload, encode
from ..protocol.options import Options
from ..protocol.prepared import BARE, PreparedMessage, frames_of
from . import expiry, fanout, guard, hub_thread, moving, registry
from .counters import count, counters
from .framing import PLAIN, Framing
from .held import Held
from .holding import Holding
from .inbox import Traffic
from .interfaces import (
    CLOSED,
    CLOSING,
    CONNECTING,
    OPEN,
    Detached,
    Hooks,
    Releasable,
    Transport,
)
from .malloc import keep_freed_memory

__all__ = ["Connection"]

logger = get_logger("django_wsmux.connection")

# A read of this many bytes suggests that the peer sends large messages.
_MUCH: Final = 2**16

# Stands for the peer's close frame after it was closed for breaking a rule.
_ANSWER: Final = Closed(CloseCode.NO_STATUS, "")


class Connection(Holding):
    """One connection, from the handshake until its descriptor is closed.

    Args:
        environ: the WSGI environ of the handshake.
        options: the limits of the connection.
        hooks: the hooks of the framework.
    """

    __slots__ = (
        "__weakref__",
        "_on_close",
        "close_code",
        "close_reason",
        "environ",
        "permit",
        "subprotocol",
    )

    _framing: Framing

    def __init__(self, environ: dict[str, Any], options: Options, hooks: Hooks) -> None:
        super().__init__(options, hooks)
        self.environ = environ
        self.subprotocol: str | None = None
        self.close_code: int | None = None
        self.close_reason = ""
        # Its share of the limits on open sockets, if there are any.
        self.permit: Releasable | None = None
        self._framing = PLAIN
        # Callbacks for the moment when nothing can be sent any more; some of them end helpers.
        self._on_close: dict[object, Callable[[], None]] | None = None

    # State

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more, because either side has begun to close."""
        return self._state > OPEN

    @property
    def has_moved(self) -> bool:
        """Whether the connection goes on in another process, or in another socket of this one."""
        return self._state == CLOSED and self.close_code is None

    @property
    def connecting(self) -> bool:
        """Whether the handshake is not accepted yet."""
        return self._state == CONNECTING

    def on_close(self, key: object, callback: Callable[[], None]) -> None:
        """Call ``callback`` once when nothing can be sent any more.

        Args:
            key: identifies the callback for ``cancel_on_close()``.
            callback: must neither wait nor raise.
        """
        if self._on_close is None:
            self._on_close = {}
        self._on_close[key] = callback

    def cancel_on_close(self, key: object) -> None:
        """Cancel the callback of ``key``, if there is one."""
        if self._on_close is not None:
            self._on_close.pop(key, None)
            if not self._on_close:
                self._on_close = None

    def close_keys(self, is_wanted: Callable[[object], bool]) -> list[Any]:
        """Return the keys of ``on_close()`` for which ``is_wanted(key)`` is true."""
        return [key for key in list(self._on_close or ()) if is_wanted(key)]

    @property
    def expires_at(self) -> float | None:
        """The time at which the socket is closed with 4401, in seconds since 1970; may be set.

        ``None``: never. It is the time ``exp`` of a token that ``bearer()`` has accepted. An aware
        ``datetime`` may be assigned, too. The socket is closed within a second after the time::

            websocket.expires_at = timezone.now() + timedelta(hours=8)

        Raises:
            ValueError: a ``datetime`` without a time zone is assigned, or a number that is not
                finite.
        """
        return expiry.time_of(self)

    @expires_at.setter
    def expires_at(self, when: datetime | float | None) -> None:
        if self._state <= OPEN:
            expiry.set_time(self, expiry.as_time(when))
        if self._state == OPEN:
            self._expect_expiry()

    def _expect_expiry(self) -> None:
        when = expiry.time_of(self)
        if when is not None:
            self._transport.sweep_in(when - time.time())

    @property
    def traffic(self) -> Traffic:
        """The traffic of the socket so far, in other processes too if it has moved."""
        own = Traffic(self._messages_in, self._bytes_in, self._messages_out, self._bytes_out)
        before = moving.earlier.get(self)
        return own if before is None else Traffic(*map(add, own, before))

    @property
    def unread(self) -> int:
        """The number of messages that wait for the view."""
        return len(self._inbox or ())

    @property
    def unsent(self) -> int:
        """The number of bytes that wait for the peer."""
        return self._transport.unsent

    def _require_open(self) -> None:
        self._require_begun()
        if self._state != OPEN:
            raise ConnectionClosed(self.close_code or CloseCode.ABNORMAL, self.close_reason)

    def _require_begun(self) -> None:
        """Accept the handshake if needed.

        Raises:
            RuntimeError: the handshake cannot be accepted yet.
        """
        if self._state == CONNECTING:
            self.hooks.open(self)
        if self._state == CONNECTING:
            raise RuntimeError(
                "the handshake is not accepted yet: connect() may only call send() and close()"
            )

    # Closing

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Start the closing handshake; returns at once. Closing twice does nothing.

        Args:
            code: 1000 to 1003, 1007 to 1014, or your own code from 3000 to 4999.
            reason: at most 123 bytes in UTF-8, which the peer sees.

        Raises:
            ValueError: the code or the reason may not be sent.
        """
        close_payload(code, reason)  # check the arguments even if it is too late to send
        hub_thread.require()
        if self._owed:
            fanout.settle(self)
        if self._state == CONNECTING:
            self.hooks.open(self)
        if self._state == CONNECTING:
            self._hold_back().acts.append(partial(self.close, code, reason))
        elif self._state == OPEN:
            self._start_closing(code, reason)

    def _start_closing(self, code: int, reason: str) -> None:
        """Send the first close frame and give the peer time to answer (section 7.1.2)."""
        if self.hooks.closing is not None:
            self.hooks.closing(self, code)
        self._transport.write(encode(CLOSE, close_payload(code, reason)))
        self._transport.close_after(self.options.close_timeout)
        if self._state != OPEN:
            return  # the write has failed, which has closed it already
        if self.is_event_driven:
            # An event view that has closed the socket gets no more messages.
            self._inbox = None
        self._set_closing(code, reason)

    def _set_closing(self, code: int, reason: str) -> None:
        """Record how the socket closed; wake the view and call the callbacks."""
        self._state = CLOSING
        self.close_code, self.close_reason = code, reason
        # Read on for the peer's close frame, and discard messages that come before it.
        self.codec.is_discarding = True
        if self.is_event_driven:
            # The view counts as running until its disconnect() has run.
            registry.running_views.add(self)
        self._held = None
        self._tell_of_close()
        self._resume_reading()
        if self._readiness is not None:
            self._readiness.set()
        self._wake()

    def _tell_of_close(self) -> None:
        callbacks, self._on_close = self._on_close, None
        for callback in list(callbacks.values()) if callbacks else ():
            guard.call(callback)
        guard.call(self.hooks.leave, self)

    def close_from_group(self, code: int, reason: str) -> None:
        """Start the closing handshake for a group. Never waits, and accepts no handshake.

        A socket that is not open yet is closed as soon as it opens.
        """
        if self._owed:
            fanout.settle(self)
        if self._state == CONNECTING:
            held = self._hold_back()
            if held.closing is None:
                held.closing = code, reason
        elif self._state == OPEN:
            self._start_closing(code, reason)

    def abandon(self) -> None:
        """Mark the socket as closed: its handshake was not accepted."""
        self._state, self.close_code = CLOSED, CloseCode.ABNORMAL
        self.unsend()
        self._tell_of_close()

    def _drop(self, what: str, reason: str) -> None:
        was_open = self._state == OPEN
        if was_open:
            self._set_closing(CloseCode.ABNORMAL, reason)
        self._transport.abort()
        if was_open:
            logger.info("%r is dropped: %s", self, what)

    # Sending for groups

    def deliver(self, message: PreparedMessage) -> None:
        """Send a group message; the socket must have got what it is owed: see ``fanout.py``.

        Never waits and never raises. A peer that has unsent bytes and no room for the message is
        closed with 1013, or does not get it. Without unsent bytes, a message of any size is sent.
        """
        if self._held is not None or self._state != OPEN:
            self._deliver_later(message)
            return
        unsent = self._transport.unsent
        if unsent and unsent + self._frame_size(message) > self.options.max_unsent_bytes:
            self._fall_behind(message, f"{unsent} bytes unsent")
            return
        # As _forward_all(), without another call for each member of a group.
        frame = message.plain if self._framing is PLAIN else self._encode(message)
        self._messages_out += 1
        self._bytes_out += len(frame)
        self._transport.write(frame)

    def _forward_all(self, messages: list[PreparedMessage]) -> None:
        """Pass group messages to the transport, in one write."""
        frames = frames_of(messages, self._framing)
        self._messages_out += len(messages)
        self._bytes_out += len(frames)
        self._transport.write(frames)

    def _frame_size(self, message: PreparedMessage) -> int:
        if self._framing.key is None:
            # Encoding changes the state of this framing, so only a sent message may be encoded.
            return len(message.plain)
        return len(self._encode(message))

    def _encode(self, message: PreparedMessage) -> bytes:
        """Return the frame of a group message in the framing of this socket."""
        if len(message.payload) < self._framing.threshold:
            return message.plain
        return message.form(self._framing)

    def _fall_behind(self, message: PreparedMessage, how: str) -> None:
        """Apply the policy for slow clients to a socket without room for a group message."""
        if not self.options.close_slow_clients:
            count("slow_client_dropped")
            if message.position or message.kind == BARE:
                self.hooks.group_dropped(self, message)
            return
        count("slow_client_closed")
        logger.info("%r is closed with 1013: %s", self, how)
        if self._held is not None:
            # They would be lost anyway, and they take the memory.
            self._held.messages.clear()
        self.close_from_group(CloseCode.TRY_AGAIN_LATER, "too slow")

    # Compression

    def negotiate(self, offered: str | None) -> str | None:
        """Negotiate extensions; return the header for the response."""
        if self.options.compression is None:
            return None
        agreed = negotiate(offered, self.options.compression)
        if agreed is None:
            return None
        answer, self.codec.deflate = agreed
        self._framing = Compressor(self.codec.deflate)
        return answer

    # Called by the transport; none of this may block or raise

    def opened(self, transport: Transport, head: bytes, unread: bytes) -> None:
        """Start, after the handshake is accepted.

        Args:
            transport: the transport that holds the socket.
            head: the 101 response to send first; empty if the server has sent it.
            unread: bytes that the server's HTTP parser has read past the request.
        """
        counters["sockets_opened"] += 1
        self._transport = transport
        self._note_open()
        if head:
            transport.write(head)
        if self.hooks.opened is not None:
            self.hooks.opened(self)
        if self._held is not None:
            self._send_held(self._held)
        self._start_reading(unread)

    def _note_open(self) -> None:
        self._state = OPEN
        registry.open_sockets.add(self)
        if self.permit is not None:
            self.permit.is_open = True

    def _start_reading(self, unread: bytes) -> None:
        """Start to read, first the bytes that were read already."""
        self._transport.start()
        if self in expiry.times:
            self._expect_expiry()
        if unread:
            self.data_received(unread, len(unread))

    def _send_held(self, held: Held) -> None:
        """Send the messages of the view from before the 101, then those of its groups."""
        try:
            for act in held.acts:
                act()
        except ConnectionClosed:
            pass  # lost, or closed by an earlier one: the view learns of it as of any close
        except BaseException:
            self._transport.abort()
            raise
        self.release()

    def dismiss(self, transport: Transport, data: bytes, unread: bytes) -> None:
        """Accept a handshake and close at once, with the close frame in ``data``.

        The socket was never open: it is not counted, and no view learns of it. It waits for the
        peer's close frame.

        Args:
            transport: the transport that holds the socket.
            data: the 101 response, and frames of which the last is a close frame.
            unread: bytes that the server's HTTP parser has read past the request.
        """
        self._transport = transport
        self._state = CLOSING
        self.codec.is_discarding = True
        transport.write(data)
        transport.close_after(self.options.close_timeout)
        transport.start()
        if unread:
            self.data_received(unread, len(unread))

    # Moving to another process

    def detach(self) -> Detached:
        """Give up the socket so that another process can continue it.

        Raises:
            CannotMove: see ``Transport.detach()``.
        """
        if self._owed:
            fanout.settle(self)
        return self._transport.detach()

    def detached(self) -> tuple[bytes, bytes, dict[str, Any]]:
        """Close this side of a socket that moves to another; called by ``Transport.detach()``.

        Returns:
            The bytes that are not parsed yet, the bytes to be sent, and the state of the codec.

        Raises:
            CannotMove: the socket is in use here.
        """
        if self._state != OPEN:
            raise CannotMove("it is not open")
        if self._inbox or self._is_busy:
            raise CannotMove("its view has messages to handle")
        if self in registry.running_views and not registry.loops.get(self):
            raise CannotMove("its view is running")
        if self._readiness is not None:
            raise CannotMove("its fileno() is in use", is_final=True)
        # ``groups.moving`` has noted which messages these are.
        self.held_messages()
        self._give_back()
        unread, state = self.codec.state()
        self._state = CLOSED
        # They are counted where they are parsed.
        self._bytes_in -= len(unread)
        registry.running_views.discard(self)
        self._tell_of_close()
        self.connection_lost()
        return unread, self._due_pong(), state

    def restore(self, codec_state: dict[str, Any]) -> None:
        """Restore the codec of a detached socket; ``adopted()`` passes its bytes."""
        self.codec.restore(codec_state, self.options.compression or Compression())
        if self.codec.deflate is not None:
            self._framing = Compressor(self.codec.deflate)

    def adopted(self, transport: Transport, detached: Detached) -> None:
        """Continue a detached socket: send its unsent bytes. ``resume()`` starts to read.

        Meanwhile the socket joins its groups. It is held, so their messages follow.

        Args:
            transport: from ``adopt()`` of its class, which has called ``restore()``.
            detached: the detached socket that the transport was made from.
        """
        self._transport = transport
        # A socket that is not open yet is held once, perhaps already.
        self._hold_back()
        self._note_open()
        if detached.unsent:
            transport.write(detached.unsent)

    def resume(self, unread: bytes) -> None:
        """Start to read an adopted socket, and send what was held meanwhile.

        Args:
            unread: bytes to read before all others.
        """
        self.release()
        self._start_reading(unread)

    def run(self, function: Callable[[], None]) -> None:
        """Run the view that owns this socket."""
        registry.running_views.add(self)

        def converse() -> None:
            try:
                function()
            finally:
                self._view_ended()

        self._transport.spawn(converse)

    def _view_ended(self) -> None:
        """Note that the view has returned, unless an event view now handles the close."""
        if not (self.is_event_driven and self._state > OPEN):
            registry.running_views.discard(self)

    def data_received(self, data: bytes | bytearray, size: int) -> None:
        """Process the first ``size`` bytes of ``data`` from the peer."""
        if self._owed:
            fanout.settle(self)
        self._is_alive = True
        self._bytes_in += size
        if size >= _MUCH:
            keep_freed_memory()
        message = self.codec.decode_single_frame(data, size) if self._state == OPEN else None
        if message is None:
            self._process(self.codec.receive(data, self._sink(), size))
        else:
            self._queue_message(message)

    def _expect_large(self) -> None:
        """Prepare for a large message, of which C has read the beginning."""
        keep_freed_memory()

    def space_filled(self, size: int) -> None:
        """Process bytes that were read into ``codec.get_buffer()``."""
        if self._owed:
            fanout.settle(self)
        keep_freed_memory()
        self._is_alive = True
        self._bytes_in += size
        self._process(self.codec.buffer_updated(size, self._sink()))

    def _process(self, controls: list[Control]) -> None:
        """Handle the messages and control frames that the codec has parsed.

        A close comes last, so a waiting view can still answer messages that were sent before the
        close, or before the violation.
        """
        for control in controls:
            if type(control) is Ping:
                self._answer_ping(control.payload)
            elif type(control) is Pong:
                self._note_pong(control.payload)
        if self._inbox and self._state == OPEN:
            self._hand_over()
        elif self._inbox or self.codec.is_suspended:
            self._limit_reading()
        else:
            self._inbox = None
        if controls:
            self._handle_control(controls[-1])
        remainder = self.codec.remainder
        if remainder is not None and remainder.is_closed:
            self._handle_control(_ANSWER)

    def _handle_control(self, control: Control) -> None:
        """Close if the peer has sent a close frame or broken a rule; ignore other frames."""
        if type(control) is Closed:
            if self._state == OPEN:
                # Section 5.5.1: echo the code; the server then closes TCP (section 7.1.1).
                self._transport.write(encode(CLOSE, close_payload(control.code)))
                self._set_closing(control.code, control.reason)
            has_failed = self.codec.remainder is not None
            self._transport.close(self.options.close_timeout, linger=has_failed)
        elif type(control) is Failure:
            count(control.counter or "protocol_error")
            if self._state == OPEN:
                logger.info("%r is closed with %d: %s", self, control.code, control.reason)
                if self.hooks.closing is not None:
                    self.hooks.closing(self, control.code)
                self._transport.write(encode(CLOSE, close_payload(control.code, control.reason)))
            if self._state == OPEN:
                self._set_closing(control.code, control.reason)
            # The peer may still be sending: see ``Remainder``.
            self._transport.close_after(self.options.close_timeout)

    def connection_lost(self) -> None:
        """Mark the socket as closed: its descriptor is closed, or about to be."""
        if self._state == OPEN:
            self._set_closing(CloseCode.ABNORMAL, "")
        self._state = CLOSED
        if self.permit is not None:
            self.permit.release()
        registry.open_sockets.discard(self)
        # Include messages that the view has yet to receive: they are not counted later.
        counters["messages_received"] += self._messages_in + self.unread
        counters["received_bytes"] += self._bytes_in
        counters["messages_sent"] += self._messages_out
        counters["sent_bytes"] += self._bytes_out

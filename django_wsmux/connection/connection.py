"""The life of a connection between the transport below and the view above.

The closing handshake, and who is told what. How bytes travel and how a view waits is the
transport's business (``interfaces.py``); what bytes mean is the codec's; messages on their way to
the view are in ``inbox.py``, pings and pongs in ``liveness.py``. What a view calls is in
``websocket.py``. Nothing here blocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from ..exceptions import ConnectionClosed
from ..logs import get_logger
from ..protocol.deflate import Compression, Compressor, negotiate
from ..protocol.events import CannotMove, Closed, Control, Failure, Ping, Pong
from ..protocol.frames import CLOSE, CloseCode, close_payload, encode
from ..protocol.options import Options
from ..protocol.prepared import PreparedMessage
from . import expiry, guard, hub_thread, registry
from .counters import count, counters
from .framing import PLAIN, Framing
from .held import Held
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
from .liveness import Liveness
from .malloc import keep_freed_memory

__all__ = ["Connection"]

logger = get_logger("django_wsmux.connection")

# Bytes that come at once where there are large messages.
_MUCH: Final = 2**16

# The peer's close frame, when it was closed for breaking a rule.
_ANSWER: Final = Closed(CloseCode.NO_STATUS, "")


class Connection(Liveness):
    """One connection, from the handshake until its descriptor is closed.

    Args:
        environ: the WSGI environ of the handshake.
        options: the limits to hold it to.
        hooks: what the framework adds.
    """

    __slots__ = (
        "__weakref__",
        "_bytes_in",
        "_bytes_out",
        "_framing",
        "_held",
        "_messages_out",
        "_on_close",
        "close_code",
        "close_reason",
        "environ",
        "permit",
        "subprotocol",
    )

    def __init__(self, environ: dict[str, Any], options: Options, hooks: Hooks) -> None:
        super().__init__(options, hooks)
        self.environ = environ
        self.subprotocol: str | None = None
        self.close_code: int | None = None
        self.close_reason = ""
        # What it takes up of the caps, where there are some.
        self.permit: Releasable | None = None
        # What waits for the 101, or for release().
        self._held: Held | None = None
        self._framing: Framing = PLAIN
        # Who wants to hear that nothing can be sent any more; ends the helpers, too.
        self._on_close: dict[object, Callable[[], None]] | None = None
        self._bytes_in = self._messages_out = self._bytes_out = 0

    # State

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more, as either side has begun to close."""
        return self._state > OPEN

    @property
    def connecting(self) -> bool:
        """Whether the handshake is not accepted yet."""
        return self._state == CONNECTING

    def on_close(self, key: object, callback: Callable[[], None]) -> None:
        """Have ``callback`` called, once, when nothing can be sent any more.

        Args:
            key: under which ``cancel_on_close()`` finds it.
            callback: neither waits nor raises.
        """
        if self._on_close is None:
            self._on_close = {}
        self._on_close[key] = callback

    def cancel_on_close(self, key: object) -> None:
        """Have nothing called any more for ``key``."""
        if self._on_close is not None:
            self._on_close.pop(key, None)
            if not self._on_close:
                self._on_close = None

    def close_keys(self, is_wanted: Callable[[object], bool]) -> list[Any]:
        """Return those keys of ``on_close()`` for which ``is_wanted(key)`` is true."""
        return [key for key in list(self._on_close or ()) if is_wanted(key)]

    @property
    def expires_at(self) -> float | None:
        """When the socket is closed with 4401, on the clock of ``time.time()``; may be set."""
        return expiry.time_of(self)

    @expires_at.setter
    def expires_at(self, when: float | None) -> None:
        if self._state <= OPEN:
            expiry.set_time(self, when)
        if self._state == OPEN:
            self._expect_expiry()

    def _expect_expiry(self) -> None:
        when = expiry.time_of(self)
        if when is not None:
            self._transport.sweep_in(when - time.time())

    @property
    def traffic(self) -> Traffic:
        """What went over the socket so far."""
        return Traffic(self._messages_in, self._bytes_in, self._messages_out, self._bytes_out)

    @property
    def unread(self) -> int:
        """How many messages wait for the view."""
        return len(self._inbox or ())

    @property
    def unsent(self) -> int:
        """How many bytes wait for the peer."""
        return self._transport.unsent

    def _require_open(self) -> None:
        self._require_begun()
        if self._state != OPEN:
            raise ConnectionClosed(self.close_code or CloseCode.ABNORMAL, self.close_reason)

    def _require_begun(self) -> None:
        """See to it that the 101 has gone out."""
        if self._state == CONNECTING:
            self.hooks.open(self)
        if self._state == CONNECTING:
            raise RuntimeError("connect() comes before the 101: it may send and close, no more")

    # Closing

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Start the closing handshake; returns at once. Closing twice does nothing.

        Args:
            code: 1000 to 1003, 1007 to 1014, or one of your own from 3000 to 4999.
            reason: at most 123 bytes in UTF-8, for the peer to see.

        Raises:
            ValueError: code or reason may not be sent.
        """
        close_payload(code, reason)  # complain about the arguments even when it is too late to send
        hub_thread.require()
        if self._state == CONNECTING:
            self.hooks.open(self)
        if self._state == CONNECTING:
            self._hold_back().acts.append(partial(self.close, code, reason))
        elif self._state == OPEN:
            self._start_closing(code, reason)

    def _start_closing(self, code: int, reason: str) -> None:
        """Send the first close frame and give the peer its time to answer (section 7.1.2)."""
        if self.hooks.closing is not None:
            self.hooks.closing(self, code)
        self._transport.write(encode(CLOSE, close_payload(code, reason)))
        self._transport.close_after(self.options.close_timeout)
        if self._state != OPEN:
            return  # lost on the way, which has closed it already
        if self.is_event_driven:
            # An event view that has closed is done.
            self._inbox = None
        self._set_closing(code, reason)

    def _set_closing(self, code: int, reason: str) -> None:
        """Note how the socket closed and tell everybody who waits."""
        self._state = CLOSING
        self.close_code, self.close_reason = code, reason
        # The peer's answer is to be read; messages that come before it have nobody to go to.
        self.codec.is_discarding = True
        if self.is_event_driven:
            # Until its disconnect() has run.
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

        A socket that is not open yet is closed when it has opened, if it does.
        """
        if self._state == CONNECTING:
            held = self._hold_back()
            if held.closing is None:
                held.closing = code, reason
        elif self._state == OPEN:
            self._start_closing(code, reason)

    # What waits for the 101, or while the socket is held

    def hold(self) -> None:
        """Keep back what groups send until ``release()`` has been called as often as this.

        What the view sends itself goes out before it. Before the 101 every socket is held.
        """
        if self._state <= OPEN:
            self._hold_back().depth += 1

    def release(self) -> None:
        """Send what was kept back, in its order, and keep back nothing more."""
        held = self._held
        if held is None:
            return  # closed in the meantime
        held.depth -= 1
        if held.depth:
            return
        self._held = None
        for message in held.messages:
            if self._state == OPEN:
                self._forward(message)
        if held.closing is not None:
            self.close_from_group(*held.closing)

    def _hold_back(self) -> Held:
        if self._held is None:
            # opened() is to release a socket that is not open yet.
            self._held = Held(depth=int(self._state == CONNECTING))
        return self._held

    def _send_later(self, act: Callable[[], None], size: int) -> None:
        """Have a message of the view's own sent when the 101 has gone out."""
        limit = self.options.max_unsent_bytes
        if not self._hold_back().postpone(act, size, limit):
            raise RuntimeError(
                f"connect() has sent more than WEBSOCKET_MAX_UNSENT_BYTES, {limit}, and none of it "
                f"goes out before the 101: join the messages to one, or send them in receive()"
            )

    def _deliver_later(self, message: PreparedMessage) -> None:
        """Keep back a message of a group, as many as a slow peer may have waiting."""
        if self._state > OPEN:
            return
        held = self._hold_back()
        if held.closing is None and not held.add(message, self.options.max_unsent_bytes):
            self._fall_behind(f"{len(held.messages)} messages of its groups are held back")

    def unsend(self) -> None:
        """Forget what was sent before the 101."""
        self._held = None

    def abandon(self) -> None:
        """The handshake has come to nothing: the socket will never be open."""
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

    # Sending for others than the view

    def deliver(self, message: PreparedMessage) -> None:
        """Send a message that goes to many.

        Never waits and never raises: a peer that is behind already and has no room for it is closed
        with 1013, or goes without. One that has taken everything so far gets a message of any size.
        """
        if self._held is not None or self._state != OPEN:
            self._deliver_later(message)
            return
        unsent = self._transport.unsent
        if unsent and unsent + self._frame_size(message) > self.options.max_unsent_bytes:
            self._fall_behind(f"{unsent} bytes unsent")
        else:
            self._forward(message)

    def _frame_size(self, message: PreparedMessage) -> int:
        framing = self._framing
        if (
            framing is PLAIN
            or len(message.payload) < framing.threshold
            # It may not be encoded unless it is sent.
            or framing.key is None
        ):
            return len(message.plain)
        return len(message.form(framing))

    def _forward(self, message: PreparedMessage) -> None:
        """Hand a message of a group to the transport."""
        framing = self._framing
        if framing is PLAIN or len(message.payload) < framing.threshold:
            frame = message.plain
        else:
            frame = message.form(framing)
        self._messages_out += 1
        self._bytes_out += len(frame)
        self._transport.write(frame)

    def _fall_behind(self, how: str) -> None:
        """Do with a socket that cannot take a group's message what the policy says."""
        if not self.options.close_slow_clients:
            count("slow_client_dropped")
            return
        count("slow_client_closed")
        logger.info("%r is closed with 1013: %s", self, how)
        if self._held is not None:
            # They would be lost anyway, and are what fills memory.
            self._held.messages.clear()
        self.close_from_group(CloseCode.TRY_AGAIN_LATER, "too slow")

    # Compression

    def negotiate(self, offered: str | None) -> str | None:
        """Agree on extensions; return the header to answer the client's with."""
        if self.options.compression is None:
            return None
        agreed = negotiate(offered, self.options.compression)
        if agreed is None:
            return None
        answer, self.codec.deflate = agreed
        self._framing = Compressor(self.codec.deflate)
        return answer

    # What the transport reports; none of this may block or raise

    def opened(self, transport: Transport, head: bytes, unread: bytes) -> None:
        """Start: the handshake is accepted.

        Args:
            transport: holds the socket.
            head: the 101 response to send first; empty when the server has sent it.
            unread: what the server's HTTP parser had read past the request.
        """
        counters["sockets_opened"] += 1
        self._attach(transport, head)
        if self.hooks.opened is not None:
            self.hooks.opened(self)
        self._start(unread)

    def _attach(self, transport: Transport, data: bytes) -> None:
        """Be open, with bytes to send before all others."""
        self._transport = transport
        self._state = OPEN
        registry.open_sockets.add(self)
        if self.permit is not None:
            self.permit.is_open = True
        if data:
            transport.write(data)

    def _start(self, unread: bytes) -> None:
        """Send what was kept back, then begin to read, ``unread`` before all else."""
        if self._held is not None:
            self._send_held(self._held)
        self._transport.start()
        if self in expiry.times:
            self._expect_expiry()
        if unread:
            self.data_received(unread, len(unread))

    def _send_held(self, held: Held) -> None:
        """Send what the view sent before the 101, and then what its groups did."""
        try:
            for act in held.acts:
                act()
        except ConnectionClosed:
            pass  # lost, or closed by an earlier one: the view is told as of any close
        except BaseException:
            self._transport.abort()
            raise
        self.release()

    def dismiss(self, transport: Transport, data: bytes, unread: bytes) -> None:
        """Accept a handshake to close it at once, for a reason that ``data`` tells.

        The socket was never open: nothing counts it, and no view hears of it. It waits for the
        peer's close frame.

        Args:
            transport: holds the socket.
            data: the 101 response, and frames of which the last is a close frame.
            unread: what the server's HTTP parser had read past the request.
        """
        self._transport = transport
        self._state = CLOSING
        self.codec.is_discarding = True
        transport.write(data)
        transport.close_after(self.options.close_timeout)
        transport.start()
        if unread:
            self.data_received(unread, len(unread))

    # Going on in another process

    def detached(self) -> tuple[bytes, bytes, dict[str, Any]]:
        """Be closed, as the socket goes on elsewhere: called by ``Transport.detach()``.

        Returns:
            Bytes that are not parsed yet, bytes that are still to be sent, the codec's state.

        Raises:
            CannotMove: the socket is needed here.
        """
        if self._state != OPEN:
            raise CannotMove("it is not open")
        if self._inbox or self._is_busy:
            raise CannotMove("its view has messages to handle")
        if self in registry.running_views:
            raise CannotMove("its view is running")
        if self._readiness is not None:
            raise CannotMove("its fileno() is in use")
        if self._held is not None:
            raise CannotMove("messages of its groups are held back")
        unread, state = self.codec.state()
        self._state = CLOSED
        # They are counted where they are parsed.
        self._bytes_in -= len(unread)
        self._tell_of_close()
        self.connection_lost()
        return unread, self._due_pong(), state

    def restore(self, codec_state: dict[str, Any]) -> None:
        """Take the place of a socket that was detached; its bytes follow with ``adopted()``."""
        self.codec.restore(codec_state, self.options.compression or Compression())
        if self.codec.deflate is not None:
            self._framing = Compressor(self.codec.deflate)

    def adopted(self, transport: Transport, detached: Detached) -> None:
        """Go on with a detached socket: send, then read.

        What groups have sent to it since it joined them, here, comes between.

        Args:
            transport: from ``adopt()`` of its class, which has called ``restore()``.
            detached: what the transport was made of.
        """
        self._attach(transport, detached.unsent)
        self._start(detached.unread)

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
        """The view that ran is done; the socket may be an event view's by now, and closed."""
        if not (self.is_event_driven and self._state > OPEN):
            registry.running_views.discard(self)

    def data_received(self, data: bytes | bytearray, size: int) -> None:
        """Take the first ``size`` bytes of ``data`` from the peer."""
        self._is_alive = True
        self._bytes_in += size
        message = self.codec.decode_single_frame(data, size) if self._state == OPEN else None
        if message is None:
            if size >= _MUCH:
                keep_freed_memory()
            self._take(self.codec.receive(data, self._sink(), size))
        else:
            self._take_whole(message)

    def try_bypass_queue(self, size: int) -> bool:
        """Note a message that came alone, in a frame of ``size`` bytes (see ``Codec.alone``).

        Returns:
            Whether nothing stands between it and the view: who waits in ``Transport.wait()`` may
            have it, and of an event view (``is_served``) ``take_turn()`` must be called, with it or
            without. What they do not get goes to ``message_received()``.
        """
        self._is_alive = True
        self._bytes_in += size
        if self._state != OPEN or self._inbox or self._is_busy:
            return False
        self._is_busy = self.is_event_driven
        return True

    def space_filled(self, size: int) -> None:
        """Take bytes that were read to ``codec.get_buffer()``."""
        keep_freed_memory()
        self._is_alive = True
        self._bytes_in += size
        self._take(self.codec.buffer_updated(size, self._sink()))

    def _take(self, controls: list[Control]) -> None:
        """See to what the codec has made of the peer's bytes.

        The end comes last: a view that is waiting answers what was sent before a close, or
        before a violation, while it still can.
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
            self._end(controls[-1])
        remainder = self.codec.remainder
        if remainder is not None and remainder.is_closed:
            self._end(_ANSWER)

    def _end(self, control: Control) -> None:
        """Close as the peer asks, or because it broke a rule; other frames end nothing."""
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
        """The descriptor is closed, or about to be, and nothing more can be sent."""
        if self._state == OPEN:
            self._set_closing(CloseCode.ABNORMAL, "")
        self._state = CLOSED
        if self.permit is not None:
            self.permit.release()
        registry.open_sockets.discard(self)
        # With what the view has yet to take, as nobody looks at it later.
        counters["messages_received"] += self._messages_in + self.unread
        counters["received_bytes"] += self._bytes_in
        counters["messages_sent"] += self._messages_out
        counters["sent_bytes"] += self._bytes_out

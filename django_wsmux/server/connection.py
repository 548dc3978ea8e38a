"""The life of a connection between the transport below and the view above.

Waiting messages, the closing handshake, who is told what. How bytes travel and how a view waits is
the transport's business (``contracts.py``); what bytes mean is the codec's. What a view calls is in
``websocket.py``. Nothing here blocks.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from ..exceptions import ConnectionClosed
from ..protocol.codec import Codec
from ..protocol.deflate import compress, negotiate
from ..protocol.events import Closed, Control, Failure, Ping, Pong
from ..protocol.frames import CLOSE, PING, PONG, CloseCode, close_payload, encode
from ..protocol.options import Options
from ..protocol.prepared import Prepared
from . import registry
from .contracts import Hooks, Transport
from .counters import count
from .readiness import Readiness

__all__ = ["CLOSED", "CLOSING", "CONNECTING", "OPEN", "Connection"]

logger = logging.getLogger("django_wsmux.connection")

CONNECTING: Final = 0
OPEN: Final = 1
CLOSING: Final = 2
CLOSED: Final = 3


class Connection:
    """One connection, from the handshake until its descriptor is closed.

    Args:
        environ: the WSGI environ of the handshake.
        options: the limits to hold it to.
        hooks: what the framework adds.
    """

    __slots__ = (
        "__weakref__",
        "_deflater",
        "_helpers",
        "_inbox",
        "_is_heard",
        "_is_paused",
        "_on_close",
        "_ping_sent",
        "_pong_due",
        "_readiness",
        "_state",
        "_transport",
        "close_code",
        "close_reason",
        "codec",
        "environ",
        "hooks",
        "latency",
        "options",
        "subprotocol",
    )

    _transport: Transport

    def __init__(self, environ: dict[str, Any], options: Options, hooks: Hooks) -> None:
        self.environ = environ
        self.subprotocol: str | None = None
        self.close_code: int | None = None
        self.close_reason = ""
        self.latency: float | None = None
        self.options = options
        self.hooks = hooks
        self._state = CONNECTING
        # Messages that the view has not received yet.
        self.codec = Codec(options.max_message_size, options.max_frame_size, options.max_fragments)
        self._inbox: deque[str | bytes] = deque()
        self._is_paused = False
        self._readiness: Readiness | None = None
        # The compressor, if it is to remember earlier messages.
        self._deflater: zlib._Compress | None = None
        # Payload and time of the last ping, and the payload of a pong that waits its turn.
        self._ping_sent: tuple[bytes, float] | None = None
        self._pong_due: bytes | None = None
        # Whether the peer has shown a sign of life since the last ping of the keepalive.
        self._is_heard = True
        # Who wants to hear that nothing can be sent any more, and how to end each helper.
        self._on_close: dict[object, Callable[[], None]] = {}
        self._helpers: set[Callable[[], None]] = set()

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
        self._on_close[key] = callback

    def cancel_on_close(self, key: object) -> None:
        """Have nothing called any more for ``key``."""
        self._on_close.pop(key, None)

    def _require_open(self) -> None:
        if self._state == CONNECTING:
            self.hooks.open(self)
        if self._state != OPEN:
            raise ConnectionClosed(self.close_code or CloseCode.ABNORMAL, self.close_reason)

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
        if self._state == CONNECTING:
            self.hooks.open(self)
        if self._state == OPEN:
            self._start_closing(code, reason)

    def _start_closing(self, code: int, reason: str) -> None:
        """Send the first close frame and give the peer its time to answer (section 7.1.2)."""
        self._transport.write(encode(CLOSE, close_payload(code, reason)))
        self._transport.close_after(self.options.close_timeout)
        self._leave_open(code, reason)

    def _leave_open(self, code: int, reason: str) -> None:
        """Note how the socket closed and tell everybody who waits."""
        self._state = CLOSING
        self.close_code, self.close_reason = code, reason
        # The peer's answer is to be read; messages that come before it have nobody to go to.
        self.codec.discards = True
        callbacks = [*self._on_close.values(), *self._helpers]
        self._on_close.clear()
        self._helpers.clear()
        for callback in callbacks:
            callback()
        self._resume_reading()
        if self._readiness is not None:
            self._readiness.set()
        self._transport.wake()

    # Sending for others than the view

    def deliver(self, message: Prepared) -> None:
        """Send a message that goes to many.

        Never waits and never raises: a peer too slow to take it is closed with 1013.
        """
        if self._state != OPEN:
            return
        transport = self._transport
        deflate = self.codec.deflate
        if deflate is None or len(message.payload) < deflate.compression.threshold:
            transport.write(message.plain)
        elif deflate.local_takeover:
            transport.write(self.compressed(message.opcode, message.payload))
        else:
            transport.write(message.compressed(deflate))
        if transport.unsent > self.options.max_unsent_bytes:
            count("slow_client_closed")
            logger.info("%r is closed with 1013: %d bytes unsent", self, transport.unsent)
            self._start_closing(CloseCode.TRY_AGAIN_LATER, "too slow")

    # Keepalive

    def send_keepalive_ping(self) -> None:
        """Ask the peer for a sign of life."""
        self._is_heard = False
        if self._state == OPEN and not self._transport.unsent:
            self._ping_sent = (b"", time.monotonic())
            self._transport.write(encode(PING, b""))

    def is_heard(self) -> bool:
        """Say whether the peer lives, as far as one can know.

        While reading is paused its pong would not be read either.
        """
        return self._is_heard or self._is_paused

    def give_up(self) -> None:
        """Drop a peer that shows no sign of life."""
        count("ping_timed_out")
        seconds = self.options.ping_timeout
        self._drop(f"no sign of life {seconds} s after a ping", "ping timeout")

    def send_timed_out(self) -> None:
        """The peer has taken nothing of what was queued for it for too long."""
        count("send_timed_out")
        self._drop(f"took nothing for {self.options.send_timeout} s", "send timeout")

    def _drop(self, what: str, reason: str) -> None:
        if self._state == OPEN:
            logger.info("%r is dropped: %s", self, what)
            self._leave_open(CloseCode.ABNORMAL, reason)
        self._transport.abort()

    # Compression

    def negotiate(self, offered: str | None) -> str | None:
        """Agree on extensions; return the header to answer the client's with."""
        if self.options.compression is None:
            return None
        agreed = negotiate(offered, self.options.compression)
        if agreed is None:
            return None
        answer, self.codec.deflate = agreed
        return answer

    def compressed(self, opcode: int, payload: bytes) -> bytes:
        """Return the frame of a message, compressed as agreed."""
        deflate = self.codec.deflate
        assert deflate is not None
        if not deflate.local_takeover:
            return compress(deflate.compressor(), opcode, payload)
        if self._deflater is None:
            self._deflater = deflate.compressor()
        return compress(self._deflater, opcode, payload)

    # What the transport reports; none of this may block or raise

    def opened(self, transport: Transport, head: bytes, unread: bytes) -> None:
        """Start: the handshake is accepted.

        Args:
            transport: holds the socket.
            head: the 101 response to send first; empty when the server has sent it.
            unread: what the server's HTTP parser had read past the request.
        """
        self._transport = transport
        self._state = OPEN
        registry.open_sockets.add(self)
        if head:
            transport.write(head)
        transport.start()
        if unread:
            self.data_received(unread, len(unread))

    def run(self, function: Callable[[], None]) -> None:
        """Run the view that owns this socket."""
        registry.conversations.add(self)

        def converse() -> None:
            try:
                function()
            finally:
                registry.conversations.discard(self)

        self._transport.spawn(converse)

    def data_received(self, data: bytes | bytearray, size: int) -> None:
        """Take the first ``size`` bytes of ``data`` from the peer."""
        self._is_heard = True
        if self._state == OPEN:
            self._take(self.codec.receive(data, self._inbox, size))
        else:
            # Messages that come while the socket is closing have nobody to go to.
            self._take(self.codec.receive(data, [], size))

    def _pause_reading(self) -> None:
        self._is_paused = True
        self._transport.pause()

    def _resume_reading(self) -> None:
        """Read again, what the codec holds back first."""
        if self._is_paused:
            self._is_paused = False
            self._transport.resume()
            if self.codec.is_held:
                self.data_received(b"", 0)

    def space_filled(self, size: int) -> None:
        """Take bytes that were read to ``codec.space()``."""
        self._is_heard = True
        self._take(self.codec.filled(size, self._inbox if self._state == OPEN else []))

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
            if self._readiness is not None:
                self._readiness.set()
            self._transport.wake()
            # Whether the view has taken them shows only now.
            if (self._inbox or self.codec.is_held) and self._state == OPEN:
                self._limit_reading()
        if controls:
            self._end(controls[-1])

    def _limit_reading(self) -> None:
        """Stop reading while the view has enough to do, or others are to have their turn."""
        options = self.options
        if not self._has_room(options.max_unread_messages, options.max_unread_bytes):
            count("reading_paused")
            self._pause_reading()
        elif self.codec.is_held:
            self._pause_reading()
            self._transport.soon(self._resume_reading)

    def _has_room(self, messages: int, size: int) -> bool:
        """Say whether fewer messages than so many, or so large, wait for the view."""
        return len(self._inbox) < messages and sum(map(len, self._inbox)) < size

    def _note_pong(self, payload: bytes) -> None:
        if self._ping_sent is not None and self._ping_sent[0] == payload:
            self.latency = time.monotonic() - self._ping_sent[1]
            self._ping_sent = None

    def _end(self, control: Control) -> None:
        """Close as the peer asks, or because it broke a rule; other frames end nothing."""
        if type(control) is Closed:
            if self._state == OPEN:
                # Section 5.5.1: echo the code; the server then closes TCP (section 7.1.1).
                self._transport.write(encode(CLOSE, close_payload(control.code)))
                self._leave_open(control.code, control.reason)
            self._transport.close(self.options.close_timeout, linger=False)
        elif type(control) is Failure:
            count(control.counter or "protocol_error")
            if self._state == OPEN:
                logger.info("%r is closed with %d: %s", self, control.code, control.reason)
                self._transport.write(encode(CLOSE, close_payload(control.code, control.reason)))
                self._leave_open(control.code, control.reason)
            # The peer may still be sending: closing over unread bytes would reset the
            # connection and take the close frame with it.
            self._transport.close(self.options.close_timeout, linger=True)

    def _answer_ping(self, payload: bytes) -> None:
        if self._transport.unsent:
            # Section 5.5.3 allows to answer only the latest: a peer that pings without reading
            # must not fill memory with pongs.
            self._pong_due = payload
        else:
            self._transport.write(encode(PONG, payload))

    def progressed(self) -> None:
        """The peer has taken some of what was queued for it."""
        self._is_heard = True

    def drained(self) -> None:
        """All that was queued has been sent."""
        if self._pong_due is not None and self._state == OPEN:
            payload, self._pong_due = self._pong_due, None
            self._transport.write(encode(PONG, payload))

    def connection_lost(self) -> None:
        """The descriptor is closed, or about to be, and nothing more can be sent."""
        if self._state == OPEN:
            self._leave_open(CloseCode.ABNORMAL, "")
        self._state = CLOSED
        registry.open_sockets.discard(self)

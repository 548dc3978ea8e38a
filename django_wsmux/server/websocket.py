"""The WebSocket that a view holds: one class, whatever the server beneath.

It knows the life of a connection: waiting messages, the closing handshake, who is told what. How
bytes travel and how a view waits is the transport's business (``contracts.py``); what bytes mean is
the codec's. Nothing here blocks except ``receive()``, ``wait()`` and ``send()``.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from ..exceptions import ConnectionClosed
from ..protocol.codec import Closed, Codec, Control, Failure, Ping, Pong
from ..protocol.frames import BINARY, CLOSE, PING, PONG, TEXT, CloseCode, close_payload, encode
from ..protocol.options import Options
from . import registry
from .compat import GeventWebSocketNames
from .contracts import Hooks, Transport
from .readiness import Readiness

__all__ = ["WebSocket"]

CONNECTING: Final = 0
OPEN: Final = 1
CLOSING: Final = 2
CLOSED: Final = 3

_STATES = ("connecting", "open", "closing", "closed")


class WebSocket(GeventWebSocketNames):
    """A server-side WebSocket connection.

    A view gets it as its second argument, as ``request.websocket`` or as
    ``request.META["wsgi.websocket"]``::

        @websocket
        def echo(request, websocket):
            for message in websocket:
                websocket.send(message)

    Messages are ``str`` (text) and ``bytes`` (binary). An empty one is a message like any other:
    compare with ``is None``, do not test for truth.

    Attributes:
        environ: the WSGI environ of the handshake.
        subprotocol: the subprotocol agreed on, or ``None``.
        close_code: close code of the side that closed first, 1006 when the connection was lost
            without one, ``None`` while the socket is open (RFC 6455 section 7.1.5).
        close_reason: the text beside it; ``""`` when there is none.
        latency: seconds that the last answered ping took there and back, or ``None``.
        hooks: what the framework adds to this connection.
    """

    __slots__ = (
        "__weakref__",
        "_codec",
        "_helpers",
        "_inbox",
        "_is_paused",
        "_on_close",
        "_options",
        "_ping_sent",
        "_pong_due",
        "_readiness",
        "_state",
        "_transport",
        "close_code",
        "close_reason",
        "environ",
        "hooks",
        "latency",
        "subprotocol",
    )

    _transport: Transport

    def __init__(self, environ: dict[str, Any], options: Options, hooks: Hooks) -> None:
        self.environ = environ
        self.subprotocol: str | None = None
        self.close_code: int | None = None
        self.close_reason = ""
        self.latency: float | None = None
        self._options = options
        self.hooks = hooks
        self._state = CONNECTING
        # Messages that the view has not received yet.
        self._codec = Codec(options.max_message_size)
        self._inbox: deque[str | bytes] = deque()
        self._is_paused = False
        self._readiness: Readiness | None = None
        # Payload and time of the last ping, and the payload of a pong that waits its turn.
        self._ping_sent: tuple[bytes, float] | None = None
        self._pong_due: bytes | None = None
        # Who wants to hear that nothing can be sent any more, and how to end each helper.
        self._on_close: list[Callable[[WebSocket], None]] = []
        self._helpers: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"<WebSocket {self.path} {_STATES[self._state]}>"

    # Receiving

    def receive(self, timeout: float | None = None) -> str | bytes | None:
        """Wait for the next message.

        Args:
            timeout: seconds to wait at most; ``None`` waits as long as it takes.

        Returns:
            ``str`` for a text message, ``bytes`` for a binary one, ``None`` when the socket is
            closed and every message that came before has been received.

        Raises:
            TimeoutError: nothing came within ``timeout`` seconds; the socket stays open.
            RuntimeError: another greenlet is already waiting on this socket.

        Example::

            while (message := websocket.receive()) is not None:
                websocket.send(message)
        """
        inbox = self._inbox
        if not inbox:
            self._wait(timeout)
            if not inbox:
                return None
        message = inbox.popleft()
        if self._readiness is not None and not inbox and self._state == OPEN:
            self._readiness.clear()
        if self._is_paused and len(inbox) * 2 <= self._options.max_unread_messages:
            self._is_paused = False
            self._transport.resume()
        return message

    def __iter__(self) -> Iterator[str | bytes]:
        """Iterate over the messages until the socket is closed."""
        return iter(self.receive, None)

    def receive_json(self, timeout: float | None = None) -> Any:
        """Wait for the next message and parse it as JSON.

        Returns:
            The value, or ``None`` at close. As JSON's ``null`` is ``None`` too, ask ``closed``
            where that matters.

        Raises:
            ValueError: the message is not JSON.
            TimeoutError, RuntimeError: see ``receive()``.
        """
        message = self.receive(timeout)
        return None if message is None else json.loads(message)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until ``receive()`` would return a message at once.

        Returns:
            True when a message is waiting, False when the socket is closed and none is left.

        Raises:
            TimeoutError, RuntimeError: see ``receive()``.
        """
        if not self._inbox:
            self._wait(timeout)
        return bool(self._inbox)

    def _wait(self, timeout: float | None) -> None:
        if self._state == CONNECTING:
            self.hooks.open(self)
        while self._state == OPEN and not self._inbox:
            self.hooks.before_wait()
            if not self._transport.wait(timeout):
                raise TimeoutError(f"no message within {timeout} seconds")

    def fileno(self) -> int:
        """Return a descriptor that is readable exactly while a message, or the close, waits.

        Unlike the connection's own it is right when several frames arrive in one TCP segment and
        when one arrives in pieces. It may be watched, not read from, and lives as long as this
        object::

            select([websocket, redis_socket], [], [])
        """
        if self._readiness is None:
            if self._state == CONNECTING:
                self.hooks.open(self)
            self._readiness = Readiness()
            if self._inbox or self._state != OPEN:
                self._readiness.set()
        return self._readiness.fileno()

    # Sending

    def send(
        self, message: str | bytes | bytearray | memoryview, binary: bool | None = None
    ) -> None:
        """Send one message; waits only while the peer is too slow to take what came before.

        Any greenlet may send at any time: frames are never interleaved.

        Args:
            message: ``str`` goes out as text, bytes as binary. May be empty.
            binary: overrides that choice, as in gevent-websocket.

        Raises:
            ConnectionClosed: the socket is closed.
            TypeError: the message is neither text nor bytes.
            UnicodeEncodeError: the text holds a lone surrogate.
        """
        if isinstance(message, str):
            opcode, payload = TEXT, message.encode()
        elif isinstance(message, (bytes, bytearray, memoryview)):
            opcode, payload = BINARY, bytes(message)
        else:
            raise TypeError(
                f"a message is str or bytes, not {type(message).__name__}; "
                f"send_json() sends other values"
            )
        if binary is not None:
            opcode = BINARY if binary else TEXT
        if self._state != OPEN:
            self._require_open()
        transport = self._transport
        transport.write(encode(opcode, payload))
        if transport.unsent > self._options.max_unsent_bytes:
            transport.drain(self._options.max_unsent_bytes // 2)
        if self._state != OPEN:
            self._require_open()  # lost on the way, which is not to pass for sent

    def send_json(self, value: Any, **options: Any) -> None:
        """Send a value as JSON text.

        Args:
            value: anything that ``json.dumps`` takes.
            options: passed on to ``json.dumps``, such as ``cls=DjangoJSONEncoder``.

        Raises:
            ConnectionClosed: the socket is closed.
        """
        self.send(json.dumps(value, **options))

    def ping(self, payload: bytes = b"") -> None:
        """Send a ping; ``latency`` is set when its pong arrives (RFC 6455 section 5.5.2).

        Args:
            payload: at most 125 bytes.

        Raises:
            ConnectionClosed: the socket is closed.
            ValueError: the payload is too long.
        """
        if len(payload) > 125:
            raise ValueError(
                f"ping of {len(payload)} bytes: at most 125 fit (RFC 6455 section 5.5)"
            )
        if self._state != OPEN:
            self._require_open()
        self._ping_sent = (payload, time.monotonic())
        self._transport.write(encode(PING, payload))

    def deliver(self, frame: bytes) -> None:
        """Send a frame that is encoded already, to this peer as to many others.

        Never waits and never raises: a peer too slow to take it is closed with 1013.
        """
        if self._state != OPEN:
            return
        transport = self._transport
        transport.write(frame)
        if transport.unsent > self._options.max_unsent_bytes:
            self._start_closing(CloseCode.TRY_AGAIN_LATER, "too slow")

    def _require_open(self) -> None:
        if self._state == CONNECTING:
            self.hooks.open(self)
        if self._state != OPEN:
            raise ConnectionClosed(self.close_code or CloseCode.ABNORMAL, self.close_reason)

    # Closing

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more, as either side has begun to close."""
        return self._state > OPEN

    @property
    def connecting(self) -> bool:
        """Whether the handshake is not accepted yet."""
        return self._state == CONNECTING

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

    def on_close(self, callback: Callable[[WebSocket], None]) -> None:
        """Have ``callback(websocket)`` called, once, when nothing can be sent any more."""
        self._on_close.append(callback)

    def _start_closing(self, code: int, reason: str) -> None:
        """Send the first close frame and give the peer its time to answer (section 7.1.2)."""
        self._transport.write(encode(CLOSE, close_payload(code, reason)))
        self._transport.close_after(self._options.close_timeout)
        self._leave_open(code, reason)

    def _leave_open(self, code: int, reason: str) -> None:
        """Note how the socket closed and tell everybody who waits."""
        self._state = CLOSING
        self.close_code, self.close_reason = code, reason
        for callback in self._on_close:
            callback(self)
        for end in self._helpers:
            end()
        self._on_close.clear()
        self._helpers.clear()
        if self._is_paused:
            # The peer's answer is to be read; messages that come with it are discarded.
            self._is_paused = False
            self._transport.resume()
        if self._readiness is not None:
            self._readiness.set()
        self._transport.wake()

    # Helpers

    def spawn(self, function: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Run ``function`` beside the view until it returns or the socket closes.

        It gives its database connections back; an error in it is logged and closes the socket
        with 1011.

        Example::

            websocket.spawn(send_clock, websocket)
        """
        if self._state != OPEN:
            self._require_open()

        def call() -> object:
            return function(*args, **kwargs)

        end = self._transport.spawn(lambda: self._run_helper(call))
        self._helpers.append(end)

    def _run_helper(self, call: Callable[[], object]) -> None:
        self.hooks.run_helper(self, call)

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
            self.data_received(unread)

    def run(self, function: Callable[[], None]) -> None:
        """Run the view that owns this socket."""
        registry.conversations.add(self)

        def converse() -> None:
            try:
                function()
            finally:
                registry.conversations.discard(self)

        self._transport.spawn(converse)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the peer."""
        inbox = self._inbox
        if self._state == OPEN:
            for control in self._codec.receive(data, inbox):
                self._control_received(control)
            if inbox:
                if self._readiness is not None:
                    self._readiness.set()
                if len(inbox) >= self._options.max_unread_messages:
                    self._is_paused = True
                    self._transport.pause()
                self._transport.wake()
        else:
            # Closing: messages that come now have nobody to go to.
            for control in self._codec.receive(data, []):
                self._control_received(control)

    def _control_received(self, control: Control) -> None:
        if type(control) is Ping:
            self._answer_ping(control.payload)
        elif type(control) is Pong:
            if self._ping_sent is not None and self._ping_sent[0] == control.payload:
                self.latency = time.monotonic() - self._ping_sent[1]
                self._ping_sent = None
        elif type(control) is Closed:
            if self._state == OPEN:
                # Section 5.5.1: echo the code; the server then closes TCP (section 7.1.1).
                self._transport.write(encode(CLOSE, close_payload(control.code)))
                self._leave_open(control.code, control.reason)
            self._transport.close(self._options.close_timeout, linger=False)
        elif type(control) is Failure:
            if self._state == OPEN:
                self._transport.write(encode(CLOSE, close_payload(control.code, control.reason)))
                self._leave_open(control.code, control.reason)
            # The peer may still be sending: closing over unread bytes would reset the
            # connection and take the close frame with it.
            self._transport.close(self._options.close_timeout, linger=True)

    def _answer_ping(self, payload: bytes) -> None:
        if self._transport.unsent:
            # Section 5.5.3 allows to answer only the latest: a peer that pings without reading
            # must not fill memory with pongs.
            self._pong_due = payload
        else:
            self._transport.write(encode(PONG, payload))

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

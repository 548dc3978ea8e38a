"""The WebSocket that a view uses: one class for all servers.

Only ``receive()``, ``wait()``, ``send()`` and ``ping()`` may wait.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from greenlet import getcurrent

from ..logs import quote
from ..protocol.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    encode,
    encode_message,
)
from ..protocol.handshake import V1 as SUBPROTOCOL
from ..protocol.prepared import BARE, CONTENT, JSON, OPCODE, SingleMessage
from . import client_ids, fanout, hub_thread, tracing
from .connection import Connection
from .counters import count
from .framing import PLAIN, V1
from .habits import OF_SOCKETS, advise
from .interfaces import CONNECTING, MARK, OPEN
from .link import fast_receive, fast_send, messages
from .liveness import next_payload
from .message_queue import MessageQueue
from .readable import Readiness

__all__ = ["WebSocket"]

_STATES = ("connecting", "open", "closing", "closed")


class _Handler:
    """Replaces gevent-websocket's handler; its ``socket`` is passed to select()."""

    __slots__ = ("socket",)

    def __init__(self, websocket: Any) -> None:
        self.socket = websocket


class _GeventWebSocketNames:
    """The part of ``geventwebsocket.websocket.WebSocket`` 0.10 that views use."""

    __slots__ = ()

    OPCODE_CONTINUATION = CONTINUATION
    OPCODE_TEXT = TEXT
    OPCODE_BINARY = BINARY
    OPCODE_CLOSE = CLOSE
    OPCODE_PING = PING
    OPCODE_PONG = PONG

    environ: dict[str, Any]

    @property
    def handler(self) -> _Handler:
        """An object for ``websocket.handler.socket.fileno()``, which is ``websocket.fileno()``."""
        return _Handler(self)

    @property
    def path(self) -> str:
        """The path of the handshake's URL."""
        return str(self.environ.get("PATH_INFO", ""))

    @property
    def origin(self) -> str | None:
        """The ``Origin`` header of the handshake."""
        return self.environ.get("HTTP_ORIGIN")

    @property
    def protocol(self) -> str | None:
        """The subprotocols that the client offered; ``subprotocol`` is the negotiated one."""
        return self.environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL")

    @property
    def version(self) -> str | None:
        """The ``Sec-WebSocket-Version`` header of the handshake."""
        return self.environ.get("HTTP_SEC_WEBSOCKET_VERSION")


class WebSocket(Connection, _GeventWebSocketNames):
    """A server-side WebSocket connection.

    A view gets it as its second argument, as ``request.websocket`` or as
    ``request.META["wsgi.websocket"]``::

        @websocket
        def echo(request, websocket):
            for message in websocket:
                websocket.send(message)

    Messages are ``str`` (text) and ``bytes`` (binary). An empty message is a message like any
    other: compare with ``is None``, do not test for truth.

    Attributes:
        environ: the WSGI environ of the handshake.
        subprotocol: the negotiated subprotocol, or ``None``.
        close_code: the close code of the side that closed first; 1006 if the connection was lost
            without one; ``None`` while the socket is open (RFC 6455 section 7.1.5).
        close_reason: the close reason, or ``""``.
        latency: round-trip time of the last answered ping in seconds, or ``None``.
        hooks: the hooks of the framework.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<WebSocket {quote(self.path)} {_STATES[self._state]}>"

    @property
    def client_id(self) -> str:
        """The public id of the client, which the socket gets at first use.

        A client of ``wsmux.v1`` keeps its id when it reconnects. See ``exclude`` of
        ``Group.send()``.
        """
        framing = self._framing
        return framing.client_id if type(framing) is V1 else client_ids.of(self)

    @property
    def known_client_id(self) -> str | None:
        """The public id of the client, or ``None`` if the socket has none yet; for internal use."""
        framing = self._framing
        return framing.client_id if type(framing) is V1 else client_ids.known(self)

    # Receiving

    @fast_receive
    def receive(self, timeout: float | None = None) -> str | bytes | None:
        """Wait for the next message.

        Args:
            timeout: the longest time to wait in seconds; ``None`` sets no limit.

        Returns:
            ``str`` for a text message, ``bytes`` for a binary one, ``None`` if the socket is closed
            and all earlier messages have been received.

        Raises:
            TimeoutError: no message came within ``timeout`` seconds; the socket stays open.
            RuntimeError: another greenlet is already waiting on this socket.

        Example::

            while (message := websocket.receive()) is not None:
                websocket.send(message)
        """
        while not self._inbox:
            if self._state == OPEN:
                if self.is_event_driven:
                    self._refuse_to_wait()
                if hasattr(getcurrent(), MARK):
                    self.hooks.before_wait()
                if self._inbox or self._state != OPEN:
                    continue  # something arrived while this view could not be woken
                news = self._transport.wait(timeout)
                if news is False:
                    raise TimeoutError(f"no message within {timeout} seconds")
                if news is not True:
                    self._messages_in += 1
                    return news
            elif self._state == CONNECTING:
                self._require_begun()
            else:
                return None
        return self._next_message()

    def _refuse_to_wait(self) -> None:
        raise RuntimeError("an event view cannot wait: messages are passed to its receive()")

    def __iter__(self) -> Iterator[str | bytes]:
        """Iterate over the messages until the socket is closed."""
        return messages(self) if tracing.tracer is None else tracing.tracer.messages(self)

    def receive_json(self, timeout: float | None = None) -> Any:
        """Wait for the next message and parse it as JSON.

        Returns:
            The value, or ``None`` at close. JSON's ``null`` is ``None`` too: check ``closed`` where
            that matters.

        Raises:
            ValueError: the message is not JSON.
            TimeoutError, RuntimeError: see ``receive()``.
        """
        message = self.receive(timeout)
        try:
            return None if message is None else json.loads(message)
        except RecursionError:
            raise ValueError("JSON nested too deeply") from None

    def requests(self) -> Iterator[Any]:
        """Iterate over messages that are JSON objects with a ``type``, until the socket is closed.

        Any other message is answered with an error and skipped.

        Yields:
            ``django_wsmux.requests.Request`` objects.

        Example::

            for message in websocket.requests():
                message.reply({"length": len(message.data)})
        """
        found: Iterator[Any] = self.hooks.requests(self)
        return found

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until ``receive()`` would return a message at once.

        Returns:
            True if a message is waiting, False if the socket is closed and none is left.

        Raises:
            TimeoutError, RuntimeError: see ``receive()``.
        """
        if not self._inbox:
            message = self.receive(timeout)
            if message is not None:
                self._put_back(message)
        return bool(self._inbox)

    def _put_back(self, message: str | bytes) -> None:
        if self._inbox is None:
            self._inbox = MessageQueue()
        self._inbox.put_back(message)
        self._messages_in -= 1
        if self._readiness is not None:
            self._readiness.set()

    def fileno(self) -> int:
        """Return a descriptor that is readable exactly while a message, or the close, waits.

        Unlike the connection's own descriptor, it is also right if several frames arrive in one TCP
        segment, or one frame in pieces. Watch it, but do not read from it. It stays valid as long
        as this object exists::

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

    @fast_send
    def send(
        self, message: str | bytes | bytearray | memoryview, binary: bool | None = None
    ) -> None:
        """Send a message; wait only while the peer is too slow to take earlier ones.

        Any greenlet may send at any time: frames are never interleaved. During an event view's
        ``disconnect()`` this does nothing.

        Args:
            message: ``str`` is sent as text, bytes as binary. May be empty.
            binary: overrides that choice, as in gevent-websocket.

        Raises:
            ConnectionClosed: the socket is closed.
            TypeError: the message is neither text nor bytes.
            UnicodeEncodeError: the text contains a lone surrogate.
            RuntimeError: it was called in a native thread under gevent.
        """
        kind = type(message)
        if kind is str:
            opcode = TEXT
        elif kind is bytes:
            opcode = BINARY
        else:
            if message is None and self._state != OPEN:
                # The view sends the None that receive() has returned at the close.
                self._require_open()
            opcode, message = encode_message(message)
        if binary is not None:
            opcode = BINARY if binary else TEXT
        if self._owed:
            fanout.settle(self)
        if self._state != OPEN and not self._may_send(opcode, message):
            return
        transport = self._transport
        if transport.unsent:
            message = encode_message(message)[1]
            self._wait_for_room(len(message))
        if self._framing is PLAIN:
            self._bytes_out += transport.send_message(message, opcode)  # type: ignore[arg-type]
        else:
            self._bytes_out += self._send_framed(message, opcode)  # type: ignore[arg-type]
        self._messages_out += 1
        if transport.unsent and transport.unsent > self.options.max_unsent_bytes:
            self._drain(self.options.max_unsent_bytes // 2)
        elif self._state != OPEN:
            self._require_open()  # lost meanwhile: the message was not sent

    def _finish_send(self, message: str | bytes, opcode: int, sent: int) -> None:
        """Finish a message that C has begun to send; wait as ``send()`` does.

        Args:
            message: the message.
            opcode: its opcode.
            sent: how many bytes of its frame are sent; negative if the connection is lost.
        """
        transport: Any = self._transport  # the one that has let C send
        self._bytes_out += transport.finish_message(message, opcode, sent)
        self._messages_out += 1
        if transport.unsent and transport.unsent > self.options.max_unsent_bytes:
            self._drain(self.options.max_unsent_bytes // 2)
        elif self._state != OPEN:
            self._require_open()

    def _send_framed(self, message: str | bytes, kind: int) -> int:
        """Send a message with the negotiated framing; return the size of the frame."""
        hub_thread.require()
        payload = message.encode() if isinstance(message, str) else message
        if len(payload) < self._framing.threshold:
            return self._transport.send_message(payload, kind & OPCODE)
        frame = self._framing.encode(SingleMessage(kind, payload), "", "")
        self._transport.write(frame)
        return len(frame)

    def _send_as(self, kind: int, payload: bytes) -> None:
        """Send a message of any kind; see ``send()``."""
        if self._owed:
            fanout.settle(self)
        if self._state != OPEN and not self._may_send(kind, payload):
            return
        if self._transport.unsent:
            self._wait_for_room(len(payload))
        self._bytes_out += self._send_framed(payload, kind)
        self._messages_out += 1
        if self._transport.unsent > self.options.max_unsent_bytes:
            self._drain(self.options.max_unsent_bytes // 2)
        elif self._state != OPEN:
            self._require_open()

    def _may_send(self, kind: int, message: Any) -> bool:
        """Return whether a message can be sent on a socket that was not open a moment ago.

        If its 101 is still to be sent, the message waits for it.

        Raises:
            ConnectionClosed: the socket is closed.
        """
        if self._state == CONNECTING and self._is_deferred():
            _, payload = encode_message(message)  # raise errors now, not later
            self._send_later(partial(self._send_as, kind, payload), len(payload))
            return False
        if self._state != OPEN:
            if self.hooks.is_disconnecting(self):
                return False
            self._require_open()
        return True

    def _wait_for_room(self, size: int) -> None:
        """Wait until a message of this size may be queued.

        A message larger than ``max_unsent_bytes`` waits until the queue is empty.
        """
        most = self.options.max_unsent_bytes
        if self._transport.unsent + size > most:
            self._drain(max(min(most // 2, most - size), 0))

    def _drain(self, limit: int) -> None:
        """Wait until a slow peer has taken all but ``limit`` bytes of the queue."""
        hub_thread.require()
        count("send_waited")
        self._transport.drain(limit)
        if self._state != OPEN:
            self._require_open()

    def _is_deferred(self) -> bool:
        """Accept the handshake; return whether its 101 is still to be sent."""
        self.hooks.open(self)
        return self._state == CONNECTING

    def send_json(self, value: Any, **options: Any) -> None:
        """Send a value as JSON text.

        Args:
            value: anything that ``json.dumps`` accepts with the encoder of
                ``WEBSOCKET_JSON_ENCODER``.
            options: passed to ``json.dumps``; ``cls`` selects another encoder.

        Raises:
            ConnectionClosed: the socket is closed.
            TypeError: the encoder cannot encode the value.
        """
        text = self.hooks.dump_json(value, **options)
        if self._framing is PLAIN and self._state == OPEN:
            self.send(text)
        else:
            self._send_as(JSON, text.encode())

    def send_html(self, html: str) -> None:
        """Send HTML.

        A client of the subprotocol ``wsmux.v1`` gets ``{"content": "<html>"}``, any other the HTML
        as text.

        Args:
            html: the HTML. It is sent as it is: escape what users have written.

        Raises:
            ConnectionClosed: the socket is closed.

        Example::

            websocket.send_html(render_to_string("board/lines.html", {"lines": lines}))
        """
        self._send_as(CONTENT, html.encode())

    def send_bare(self, text: str) -> None:
        """Send a text without the additions of a subprotocol; for internal use.

        Args:
            text: to a client of ``wsmux.v1``, a JSON object that is a frame of its own.
        """
        self._send_as(BARE, text.encode())

    def tell(self, text: str) -> None:
        """Send a text that is not a message of the view at once, if the socket is open.

        Never waits and never raises.
        """
        if hub_thread.is_foreign():
            hub_thread.hand_over(self.tell, text)
            return
        if self._owed:
            fanout.settle(self)
        if self._state == OPEN:
            self._transport.write(encode(TEXT, text.encode()))

    # The subprotocol wsmux.v1

    def use_v1(self) -> None:
        """Send messages in frames of ``wsmux.v1`` from now on."""
        self._framing = V1(self._framing, client_ids.settle(self))

    @property
    def aliases(self) -> dict[str, str]:
        """The names that a client of ``wsmux.v1`` sees for groups, where they differ."""
        return self._framing.aliases if type(self._framing) is V1 else {}

    def restore_client(self, client_id: str | None, aliases: dict[str, str]) -> None:
        """Give a socket that comes from another process the id of its client, and its aliases.

        Args:
            client_id: its ``known_client_id`` there.
            aliases: its ``aliases`` there.
        """
        if client_id is None:
            return
        client_ids.restore(client_id, self, is_kept=self.subprotocol == SUBPROTOCOL)
        if self.subprotocol == SUBPROTOCOL:
            self._framing = V1(self._framing, client_id)
            for group, alias in aliases.items():
                self._framing.set_alias(group, alias)

    def name_group(self, group: str, alias: str) -> None:
        """Set the name that a client of ``wsmux.v1`` sees for a group."""
        if self._owed:
            fanout.settle(self)
        if type(self._framing) is V1:
            self._framing.set_alias(group, alias)

    def name_of_group(self, group: str) -> str:
        """Return the name that the client sees for a group."""
        return self._framing.name_of(group) if type(self._framing) is V1 else group

    def ping(self, payload: bytes | None = None) -> None:
        """Send a ping; ``latency`` is set when its pong arrives (RFC 6455 section 5.5.2).

        Waits where ``send()`` would.

        Args:
            payload: at most 125 bytes; ``None`` for a unique payload.

        Raises:
            ConnectionClosed: the socket is closed.
            ValueError: the payload is too long.
        """
        if payload is None:
            payload = next_payload()
        if len(payload) > 125:
            raise ValueError(
                f"ping of {len(payload)} bytes: at most 125 fit (RFC 6455 section 5.5)"
            )
        hub_thread.require()
        if self._owed:
            fanout.settle(self)
        if self._state != OPEN:
            if self.hooks.is_disconnecting(self):
                return
            self._require_open()
        if self._transport.unsent:
            self._wait_for_room(len(payload))
        self._send_ping(payload)

    # Around the view

    def refresh_user(self) -> None:
        """Reload ``request.user`` and ``request.session`` when they are next used.

        Both were read at the handshake, perhaps hours ago. A user who has signed out since, or is
        no longer active, is ``AnonymousUser`` after this.

        Raises:
            RuntimeError: the project has no session middleware, or the view does not keep its
                request.

        Example::

            for message in websocket:
                websocket.refresh_user()
                if not request.user.has_perm("chat.add_line"):
                    break
        """
        self.hooks.refresh_user()

    def spawn(self, function: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Run ``function`` beside the view until it returns or the socket closes.

        Its database connections are released when it ends. An error in it is logged and closes the
        socket with 1011.

        Example::

            websocket.spawn(send_clock, websocket)
        """
        if self._state != OPEN:
            self._require_open()

        def run() -> None:
            try:
                self.hooks.run_helper(self, lambda: function(*args, **kwargs))
            finally:
                self.cancel_on_close(end)

        end = self._transport.spawn(run)
        self.on_close(end, end)


advise(WebSocket, OF_SOCKETS)

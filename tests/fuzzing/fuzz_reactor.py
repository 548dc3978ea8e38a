"""The reactor with any bytes, in any reads, from a real socket.

* Messages and control frames are those of the codec, however the view takes the messages.
* No byte comes back but the frames of the messages that the view sends.

The reactor is that in C if it is compiled.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from functools import cache
from select import select
from typing import Any

from greenlet import getcurrent, greenlet

from django_wsmux.connection.framing import PLAIN
from django_wsmux.connection.interfaces import CLOSED, CLOSING, MARK, OPEN
from django_wsmux.connection.link import (
    Link,
    adopt,
    fast_receive,
    fast_send,
    forget,
    messages,
    readable,
)
from django_wsmux.protocol.events import Closed, Control, Failure
from django_wsmux.protocol.frames import BINARY, TEXT, encode
from django_wsmux.transports.base import arrived

from .choices import Choices
from .streams import choose_stream
from .subject import CUTS, Message, Result, Setup, assert_sound, feed, pieces_of

__all__ = ["check"]

#: Bytes of a stream after which nothing is added.
_MOST = 2**16

#: The maximum number of reads.
_READS = 256

#: Ways in which a view takes messages: from a queue, in turns, by iteration, with ``receive()``.
_QUEUE, _TURNS, _ITERATION, _RECEIVE = range(4)


@cache
def _pair() -> tuple[socket.socket, socket.socket]:
    """Return our end of a connection, and that of the peer, which all inputs use."""
    ours, peer = socket.socketpair()
    for each in ours, peer:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
        each.setblocking(False)
    return ours, peer


class _Carrier:
    """The transport: reads what the reactor does not, and passes it to the codec."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    def _readable(self) -> None:
        codec = self._connection.codec
        if codec.large is None:
            size = _pair()[0].recv_into(arrived)
            is_open = self._connection._state == OPEN
            message = codec.decode_single_frame(arrived, size) if is_open else None
            if message is None:
                self._received(size, False)
            else:
                self._connection.message_received(message)
            return
        with codec.get_buffer() as space:
            size = _pair()[0].recv_into(space)
        self._take(codec.buffer_updated(size, self._connection.waiting))

    def _received(self, size: int, is_large: bool) -> None:
        assert not is_large
        connection = self._connection
        self._take(connection.codec.receive(arrived, connection.waiting, size))

    def _take(self, controls: list[Control]) -> None:
        connection = self._connection
        while True:
            connection.controls += controls
            for message in connection.waiting:
                connection.message_received(message)
            connection.waiting.clear()
            if not connection.codec.is_suspended:
                break
            controls = connection.codec.receive(b"", connection.waiting)
        if connection.controls and isinstance(connection.controls[-1], Closed | Failure):
            connection._state = CLOSING

    def _start_turn(self, message: Message) -> None:
        self._connection.handle(message)

    def _close_fd(self) -> None:
        raise AssertionError("the connection is not lost")

    def _fail(self, connection: _Connection, error: Exception) -> None:
        self._connection.errors.append(error)


class _Connection(Link):
    """A connection whose view keeps each message, and sends it back while it is open."""

    def __init__(self, setup: Setup, way: int) -> None:
        self.codec, self._framing, self._transport = setup.codec(), PLAIN, _Carrier(self)
        self._state, self._is_watched = OPEN, True
        self._descriptor = self._direct = _pair()[0].fileno()
        self.waiting: list[Message] = []
        self.taken: list[Message] = []
        self.controls: list[Control] = []
        self.errors: list[Exception] = []
        self.is_event_driven = way == _TURNS
        self._view: Any = greenlet(self._iterate if way == _ITERATION else self._converse)
        if way in (_ITERATION, _RECEIVE):
            self._view.switch()

    def message_received(self, message: Message) -> None:
        """Take a message that the reactor does not pass to the view."""
        if self._state != OPEN:
            return
        waiter = self._waiter
        if waiter is None:
            self.handle(message)
        else:
            self._waiter = None
            waiter.switch(message)

    def _expect_large(self) -> None:
        """Do nothing: the process has only inputs of a fuzzer."""

    def handle(self, message: Message) -> None:
        """Be the view: keep a message, and send it back."""
        self.taken.append(message)
        self.send(message)
        assert _sent_to_peer() == _frame(message)
        self._is_busy = False

    def _iterate(self) -> None:
        for message in messages(self):
            self.handle(message)

    def _converse(self) -> None:
        while (message := self.receive()) is not None:
            self.handle(message)

    @fast_receive
    def receive(self, timeout: float | None = None) -> Any:
        """Wait for a message, where the reactor does not; return None at the end."""
        while self._state != CLOSED:
            current: Any = getcurrent()
            self._waiter = current
            message = current.parent.switch()
            if message is not True:
                return message
        return None

    @fast_send
    def send(self, message: Message) -> None:
        """Send a message, where the reactor does not."""
        _pair()[0].sendall(_frame(message))

    def _finish_send(self, message: Message, opcode: int, sent: int) -> None:
        raise AssertionError("there was room for all of it")

    def end(self) -> None:
        """End the view."""
        self._state = CLOSED
        if self._waiter is not None:
            self._waiter.switch(True)


def _frame(message: Message) -> bytes:
    if isinstance(message, str):
        return encode(TEXT, message.encode())
    return encode(BINARY, message)


def _sent_to_peer() -> bytes:
    """Return what the peer can read now."""
    found = b""
    with suppress(BlockingIOError):
        while True:
            found += _pair()[1].recv(2**18)
    return found


def _read(setup: Setup, way: int, pieces: list[bytes]) -> Result:
    """Return the messages and control frames of pieces that arrive one after the other."""
    ours, peer = _pair()
    adopt(getcurrent(), arrived, MARK, PLAIN)
    connection = _Connection(setup, way)
    try:
        for piece in pieces:
            peer.sendall(piece)
            while select([ours], [], [], 0)[0]:
                readable(connection)
            for error in connection.errors:
                raise error
    finally:
        connection.end()
        forget()
        with suppress(BlockingIOError):
            while True:
                ours.recv(2**18)
        _sent_to_peer()
    return connection.taken, connection.controls


def _frames_of(stream: bytes) -> list[bytes]:
    """Cut a stream where its frames end."""
    pieces, start = list[bytes](), 0
    while start < len(stream):
        code = stream[start + 1] & 0x7F if start + 1 < len(stream) else 0
        more = {126: 2, 127: 8}.get(code, 0)
        payload = int.from_bytes(stream[start + 2 : start + 2 + more], "big") if more else code
        end = start + 6 + more + payload
        pieces.append(stream[start:end])
        start = end
    return pieces


def check(data: bytes) -> None:
    """Try one input.

    Raises:
        AssertionError: the reactor breaks a promise.
    """
    choices = Choices(data)
    setup = Setup.choose(choices)
    sizes, way = [choices.one_of(CUTS) for _ in range(2)], choices.number(4)
    is_whole = choices.number(4) > 0
    stream = choose_stream(choices, setup.limit, setup.deflate, _MOST)
    least = 1 + len(stream) // _READS
    with setup.in_force():
        messages = list[Message]()
        whole = messages, feed(setup.codec(), [stream], messages)
        if is_whole:
            # As most messages of real peers arrive.
            pieces = _frames_of(stream)
        else:
            pieces = pieces_of(stream, [size * least for size in sizes])
        found = _read(setup, way, pieces)
    assert found == whole, f"read as {[*map(len, pieces)]} in way {way}"
    assert_sound(found, setup.limit)

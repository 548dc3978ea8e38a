"""What a transport does with its socket, however it waits: reading, queueing, closing.

The socket never blocks. When to read and when to write again is up to those who derive from
``SocketTransport``, on gevent's hub (``gevent.py``) or in a thread (``threads.py``).
"""

from __future__ import annotations

import contextlib
from socket import SHUT_RDWR, SHUT_WR
from typing import Any, Final

from ..connection.connection import Connection
from ..connection.counters import count
from ..connection.interfaces import Detached
from ..logs import get_logger
from ..protocol.events import CannotMove
from ..protocol.frames import FIN, encode, head
from .send_queue import LONG, SendQueue
from .streams import Stream

__all__ = ["SocketTransport", "arrived", "end_stream"]

logger = get_logger("django_wsmux.connection")

#: Where all connections read to: what arrives is parsed before anything else can happen. What one
#: read brings is on top of the limits for unread messages, as text in four times its size perhaps.
arrived: Final = bytearray(2**18)


def end_stream(stream: Stream) -> None:
    """End the TCP connection and close its descriptor.

    ``close()`` alone sends no FIN while a forked child holds a copy of the descriptor.
    """
    with contextlib.suppress(OSError):  # the peer has ended it
        stream.shutdown(SHUT_RDWR)
    stream.close()


class SocketTransport:
    """The part of ``contracts.Transport`` that needs nothing but the socket.

    Args:
        stream: the taken-over socket.
        websocket: gets what arrives.
    """

    __slots__ = (
        "_codec",
        "_is_closing",
        "_is_lingering",
        "_queue",
        "_stream",
        "_websocket",
        "unsent",
    )

    def __init__(self, stream: Stream, websocket: Connection) -> None:
        self._websocket: Any = websocket
        self._codec = websocket.codec
        self._stream: Stream | None = stream
        # Bytes that the peer has not taken yet.
        self.unsent = 0
        self._queue: SendQueue | None = None
        # How the end is to come.
        self._is_closing = False
        self._is_lingering = False

    # What derived classes add

    def pause(self) -> None:
        """Stop reading, so that TCP pushes back on the peer."""
        raise NotImplementedError

    def close_after(self, timeout: float) -> None:
        """Close in ``timeout`` seconds unless ``close()`` comes to its end before."""
        raise NotImplementedError

    def _start_writing(self) -> None:
        """Have ``_writable()`` called when the peer takes more."""
        raise NotImplementedError

    def _stop_writing(self) -> None:
        """All that was queued is sent."""
        raise NotImplementedError

    def _expect_progress(self) -> None:
        """Give the peer its time, from now on, to take some of what is queued."""
        raise NotImplementedError

    def _note_progress(self) -> None:
        """Let those go on who wait in ``drain()``, perhaps."""
        raise NotImplementedError

    def _drop(self) -> None:
        """Close the descriptor and say so; does nothing the second time."""
        raise NotImplementedError

    def disown(self) -> None:
        """Let go of the socket in a forked child, without a word to the peer or the view."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
        self._queue, self.unsent, self._websocket = None, 0, None

    def detach(self) -> Detached:
        """Let go of the socket so that another process can go on with it.

        Raises:
            CannotMove: always, unless a derived class knows how.
        """
        raise CannotMove("this server's sockets cannot be moved")

    # Reading

    def _readable(self) -> None:
        stream, codec = self._stream, self._codec
        if stream is None:
            return
        is_large = codec.large is not None
        try:
            if is_large:
                with codec.get_buffer() as space:
                    size = stream.recv_into(space)
            else:
                size = stream.recv_into(arrived)
        except BlockingIOError:
            return
        except OSError:
            # The peer is gone: reset, timed out, unreachable.
            self._drop()
            return
        except Exception:
            self._fail(self._websocket)
            return
        self._received(size, is_large)

    def _received(self, size: int, is_large: bool) -> None:
        """Hand on what was read, be it to ``arrived`` or to the large frame's space."""
        websocket = self._websocket
        try:
            if not size:
                self._end_received()
            elif self._is_lingering:
                return
            elif is_large:
                websocket.space_filled(size)
            else:
                websocket.data_received(arrived, size)
        except Exception:
            self._fail(websocket)

    def _fail(self, websocket: Connection) -> None:
        """Keep an error of our own from the hub, which has other sockets to serve."""
        count("internal_errors")
        logger.exception("Bug in django_wsmux: %r is dropped", websocket)
        self._drop()

    def _end_received(self) -> None:
        """The peer has sent its last byte; it may still read what is queued for it."""
        if self.unsent and (self._is_closing or self._codec.remainder is not None):
            self.pause()
            self._is_closing = True
            self._is_lingering = False
        else:
            self._drop()

    # Writing

    def write(self, data: bytes) -> None:
        """Send now what the peer takes now, queue the rest."""
        if self._stream is None:
            return
        sent = 0
        if not self.unsent:
            try:
                sent = self._stream.send(data)
            except BlockingIOError:
                pass
            except OSError:
                self._drop()
                return
            if sent == len(data):
                return
        self._enqueue(data, sent)

    def send_message(self, message: str | bytes, opcode: int) -> int:
        """Do the same with a message in a frame of its own; return the size of the frame."""
        payload = message.encode() if isinstance(message, str) else message
        size = len(payload)
        if size < LONG:
            frame = encode(opcode, payload)
            self.write(frame)
            return len(frame)
        start = head(FIN | opcode, size)
        self._write_parts(start, payload)
        return len(start) + size

    def _write_parts(self, head: bytes, payload: bytes) -> None:
        """Send two parts as one, without joining them."""
        sent = 0
        if self._stream is None:
            return
        if not self.unsent:
            try:
                sent = self._stream.sendmsg((head, payload))
            except BlockingIOError:
                # TLS has encrypted them as one: it wants just these bytes again.
                self._enqueue(head + payload, 0)
                return
            except OSError:
                self._drop()
                return
        self._enqueue_parts(head, payload, sent)

    def _enqueue_parts(self, head: bytes, payload: bytes, sent: int) -> None:
        """Queue what is left of two parts of which so many bytes are sent."""
        if sent < len(head):
            self._enqueue(head, sent)
            sent = len(head)
        if sent < len(head) + len(payload):
            self._enqueue(payload, sent - len(head))

    def _enqueue(self, data: bytes, start: int) -> None:
        """Queue what is left of ``data`` from ``start`` on."""
        queue = self._queue
        if queue is None:
            queue = self._queue = SendQueue()
            self._start_writing()
            self._expect_progress()
        queue.append(data, start)
        self.unsent += len(data) - start
        most: int = self._websocket.options.max_unsent_bytes
        if self.unsent > most:
            self._demand(most // 2)

    def _demand(self, goal: int) -> None:
        """Give the peer its time to take all but ``goal`` bytes, where more are unsent.

        It gets no more time for each byte that it takes: views wait for it in ``send()``.
        """
        queue = self._queue
        if queue is None or self.unsent <= goal:
            return
        if queue.goal is None:
            queue.goal, queue.taken = goal, 0
            self._expect_progress()
        else:
            queue.goal = min(queue.goal, goal)

    def _writable(self) -> None:
        queue = self._queue
        assert queue is not None
        assert self._stream is not None
        try:
            sent, is_all = queue.send(self._stream)
        except OSError:
            self._drop()
            return
        self.unsent -= sent
        queue.taken += sent
        if queue.goal is not None and self.unsent <= queue.goal:
            queue.goal = None
        self._websocket.progressed()
        self._note_progress()
        if not is_all:
            if queue.goal is None:
                self._expect_progress()
            return
        self._queue = None
        self._stop_writing()
        if self._is_closing:
            self._finish()
        else:
            self._websocket.drained()

    def _time_out(self) -> None:
        """End the connection: the peer has not taken what it should have in its time."""
        queue = self._queue
        if queue is not None:
            self._websocket.send_timed_out(0 if queue.goal is None else queue.taken)

    # Ending

    def close(self, timeout: float, *, linger: bool) -> None:
        """Send what is queued, then close; with ``linger`` the peer is heard out first."""
        if self._stream is None:
            return
        self._is_closing = True
        self._is_lingering = linger
        self.close_after(timeout)
        if not self.unsent:
            self._finish()

    def abort(self) -> None:
        """Close at once, whatever is queued."""
        self._drop()

    def _finish(self) -> None:
        """All is sent: say so to the peer, or be done."""
        if not self._is_lingering:
            self._drop()
            return
        assert self._stream is not None
        try:
            self._stream.shutdown(SHUT_WR)
        except OSError:
            self._drop()

"""The part of a transport that does not depend on how it waits: reading, queueing, closing.

The socket never blocks. The classes derived from ``SocketTransport`` wait until it is readable or
writable: on gevent's hub (``gevent.py``) or in a thread (``threads.py``).
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

#: The buffer into which all connections read: bytes are parsed before anything else can happen. One
#: read may exceed the limits for unread messages by its size, or by four times its size as text.
#: There is room for the head of a frame because large messages often have powers of two as sizes.
arrived: Final = bytearray(2**18 + 14)

#: The most reads whose bytes are discarded before a descriptor is closed.
_MOST_DISCARDED: Final = 8


def end_stream(stream: Stream) -> None:
    """End the TCP connection and close its descriptor.

    ``close()`` alone sends no FIN while a forked child holds a copy of the descriptor.
    """
    with contextlib.suppress(OSError):  # the peer has ended it
        stream.shutdown(SHUT_RDWR)
    stream.close()


class SocketTransport:
    """The part of ``interfaces.Transport`` that needs only the socket.

    Args:
        stream: the stream taken from the server.
        websocket: receives the bytes that arrive.
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
        # Whether to close once all is sent, and whether the peer's end is awaited then.
        self._is_closing = False
        self._is_lingering = False

    # Added by derived classes

    def pause(self) -> None:
        """Stop reading, so that TCP pushes back on the peer."""
        raise NotImplementedError

    def close_after(self, timeout: float) -> None:
        """Close after ``timeout`` seconds unless ``close()`` has finished before."""
        raise NotImplementedError

    def _start_writing(self) -> None:
        """Call ``_writable()`` whenever the peer takes more."""
        raise NotImplementedError

    def _stop_writing(self) -> None:
        """Stop calling ``_writable()``: the queue is empty."""
        raise NotImplementedError

    def _expect_progress(self) -> None:
        """Restart the time in which the peer must take some of the queued bytes."""
        raise NotImplementedError

    def _note_progress(self) -> None:
        """Wake the callers of ``drain()``, which check whether they may continue."""
        raise NotImplementedError

    def _close_fd(self) -> None:
        """Close the descriptor and report it; does nothing the second time."""
        raise NotImplementedError

    def disown(self) -> None:
        """Give up the socket in a forked child, without notice to the peer or the view."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
        self._queue, self.unsent, self._websocket = None, 0, None

    def detach(self) -> Detached:
        """Give up the socket so that another process can continue it.

        Raises:
            CannotMove: always, unless a derived class supports it.
        """
        raise CannotMove("this server's sockets cannot be moved", is_final=True)

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
            self._close_fd()
            return
        except Exception as error:
            self._fail(self._websocket, error)
            return
        self._received(size, is_large)

    def _received(self, size: int, is_large: bool) -> None:
        """Pass on bytes that were read into ``arrived``, or into the buffer of a large frame."""
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
        except Exception as error:
            self._fail(websocket, error)

    def _fail(self, websocket: Connection, error: Exception) -> None:
        """Log an error of our own and drop the socket; the others are not affected."""
        count("internal_errors")
        logger.error("Bug in django_wsmux: %r is dropped", websocket, exc_info=error)
        self._close_fd()

    def _end_received(self) -> None:
        """Handle the end of the peer's bytes: first send what is queued if we are closing."""
        if self.unsent and (self._is_closing or self._codec.remainder is not None):
            self.pause()
            self._is_closing = True
            self._is_lingering = False
        else:
            self._close_fd()

    # Writing

    def write(self, data: bytes) -> None:
        """Send what the peer takes now, and queue the rest."""
        if self._stream is None:
            return
        sent = 0
        if not self.unsent:
            try:
                sent = self._stream.send(data)
            except BlockingIOError:
                pass
            except OSError:
                self._close_fd()
                return
            if sent == len(data):
                return
        self._enqueue(data, sent)

    def send_once(self, data: bytes) -> int:
        """Send what the peer takes now; return how many bytes, negative if the connection is lost.

        Nothing may be queued. ``finish_write()`` of a derived class does the rest.
        """
        assert self._stream is not None
        try:
            return self._stream.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            return -1

    def send_message(self, message: str | bytes, opcode: int) -> int:
        """Write a message in one frame; return the size of the frame."""
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
                # TLS has encrypted them as one record: the same bytes must be passed again.
                self._enqueue(head + payload, 0)
                return
            except OSError:
                self._close_fd()
                return
        self._enqueue_parts(head, payload, sent)

    def _enqueue_parts(self, head: bytes, payload: bytes, sent: int) -> None:
        """Queue the rest of two parts, of which ``sent`` bytes are sent."""
        if sent < len(head):
            self._enqueue(head, sent)
            sent = len(head)
        if sent < len(head) + len(payload):
            self._enqueue(payload, sent - len(head))

    def _enqueue(self, data: bytes, start: int) -> None:
        """Queue ``data[start:]``."""
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
        """Require that the peer takes all but ``goal`` bytes in time, if more are unsent.

        Taking some bytes does not extend the time, because views wait in ``send()``.
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
            self._close_fd()
            return
        self.unsent -= sent
        queue.taken += sent
        if queue.goal is not None and self.unsent <= queue.goal:
            queue.goal = None
        if is_all:
            self._queue = None
            self._stop_writing()
        elif queue.goal is None:
            self._expect_progress()
        # May write more, or lose the connection.
        self._websocket.progressed()
        self._note_progress()
        if self._stream is None or self.unsent:
            return
        if self._is_closing:
            self._discard_arrived()
            self._half_close()
        else:
            self._websocket.drained()

    def _time_out(self) -> None:
        """End the connection: the peer has not taken enough in time."""
        queue = self._queue
        if queue is not None:
            self._websocket.send_timed_out(0 if queue.goal is None else queue.taken)

    # Ending

    def close(self, timeout: float, *, linger: bool) -> None:
        """Send what is queued, then close; with ``linger``, first wait for the peer to close."""
        if self._stream is None:
            return
        self._is_closing = True
        self._is_lingering = linger
        self.close_after(timeout)
        if not self.unsent:
            self._half_close()

    def abort(self) -> None:
        """Close at once, and discard what is queued."""
        self._close_fd()

    def _discard_arrived(self) -> None:
        """Discard bytes that the peer has sent after its close frame.

        If they were unread when the descriptor is closed, TCP would reset the connection, and the
        peer could lose the end of what was sent to it (RFC 1122 section 4.2.2.13).
        """
        assert self._stream is not None
        with contextlib.suppress(OSError):
            for _ in range(_MOST_DISCARDED):
                if not self._stream.recv_into(arrived):
                    return

    def _half_close(self) -> None:
        """Close now that all is sent; with ``linger``, only for writing."""
        if not self._is_lingering:
            self._close_fd()
            return
        assert self._stream is not None
        try:
            self._stream.shutdown(SHUT_WR)
        except OSError:
            self._close_fd()

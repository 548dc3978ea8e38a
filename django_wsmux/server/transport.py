"""A connection on gevent's hub: a raw non-blocking socket and one persistent read watcher.

What arrives is read, parsed and answered in the hub itself; a greenlet is switched to only when
there is a message for the view that it runs. Nothing waits in the hub, and nothing that a peer
sends raises there.

libev aborts the process when a descriptor is closed that an active watcher still watches, so
``_drop()`` is the one place where descriptors are closed, and it stops the watchers first.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from socket import SHUT_WR
from typing import Any, Final

import gevent
from gevent.event import Event
from greenlet import getcurrent

from .connection import Connection
from .counters import count
from .keepalive import Keepalive
from .pool import HandlerPool, Job
from .streams import Stream, TLSStream

__all__ = ["GeventTransport", "TLSTransport", "transport_for"]

logger = logging.getLogger("django_wsmux.connection")

_READ: Final = 1
_WRITE: Final = 2

# Where all connections read to: what arrives is parsed before anything else can happen.
_arrived = bytearray(2**21)


class _Sweeper:
    """Runs the keepalive on the hub, with one timer that is set to whoever is due next."""

    def __init__(self) -> None:
        self.keepalive = Keepalive()
        self._timer: Any = None
        self._wakes_at = 0.0

    def watch(self, websocket: Connection) -> None:
        due = self.keepalive.add(websocket, time.monotonic())
        if due is not None and (self._timer is None or due < self._wakes_at):
            self._wake_at(due)

    def _sweep(self) -> None:
        self._wake_at(self.keepalive.sweep(time.monotonic()))

    def _wake_at(self, due: float | None) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        if due is not None:
            self._wakes_at = due
            self._timer = gevent.get_hub().loop.timer(max(due - time.monotonic(), 0.01))
            self._timer.start(self._sweep)


_sweeper = _Sweeper()

# The greenlets that handle the messages of event views; made with the first connection.
_handlers: HandlerPool | None = None


def handlers_for(websocket: Connection) -> HandlerPool:
    """Return the process's pool, of the size that the options ask for."""
    global _handlers
    if _handlers is None:
        _handlers = HandlerPool(websocket.options.handler_greenlets, websocket.hooks.retire)
    return _handlers


class GeventTransport:
    """Carries the bytes of one WebSocket; see ``contracts.Transport``.

    Args:
        stream: the taken-over socket.
        websocket: gets what arrives.
    """

    __slots__ = (
        "_codec",
        "_drained",
        "_handlers",
        "_hub",
        "_is_closing",
        "_is_lingering",
        "_queue",
        "_reader",
        "_stalled",
        "_stream",
        "_timer",
        "_waiter",
        "_websocket",
        "_writer",
        "unsent",
    )

    def __init__(self, stream: Stream, websocket: Connection) -> None:
        self._hub = gevent.get_hub()
        self._websocket: Any = websocket
        self._codec = websocket.codec
        self._handlers = handlers_for(websocket)
        self._stream: Stream | None = stream
        self._reader = self._hub.loop.io(stream.fileno(), _READ)
        # Bytes that the peer has not taken yet, and the watcher that says when it will.
        self.unsent = 0
        self._queue: deque[memoryview] | None = None
        self._writer: Any = None
        # Ends the connection when the peer takes none of them for too long.
        self._stalled: Any = None
        # The greenlet in wait(), and the event for those in drain().
        self._waiter: Any = None
        self._drained: Event | None = None
        # How the end is to come.
        self._is_closing = False
        self._is_lingering = False
        self._timer: Any = None

    # Reading

    def start(self) -> None:
        """Begin to read."""
        if self._stream is not None:
            self._reader.start(self._readable)
            _sweeper.watch(self._websocket)

    def pause(self) -> None:
        """Stop reading, so that TCP pushes back on the peer."""
        if self._stream is not None:
            self._reader.stop()

    def resume(self) -> None:
        """Read again."""
        if self._stream is not None:
            self._reader.start(self._readable)

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back from the hub when others have had their turn.

        A timer, as callbacks of the loop run fifty at a time before it looks for input.
        """
        timer = self._hub.loop.timer(0)

        def fire() -> None:
            timer.close()
            callback()

        timer.start(fire)

    def _readable(self) -> None:
        websocket, stream = self._websocket, self._stream
        if stream is None:
            return
        try:
            is_large = self._codec.large is not None
            try:
                if is_large:
                    with self._codec.space() as space:
                        size = stream.recv_into(space)
                else:
                    size = stream.recv_into(_arrived)
            except BlockingIOError:
                return
            except OSError:
                # The peer is gone: reset, timed out, unreachable.
                self._drop()
                return
            if not size:
                self._end_received()
            elif self._is_lingering:
                return
            elif is_large:
                websocket.space_filled(size)
            else:
                websocket.data_received(_arrived, size)
        except Exception:
            logger.exception("Bug in django_wsmux: %r is dropped", websocket)
            self._drop()

    def _end_received(self) -> None:
        """The peer has sent its last byte; it may still read what is queued for it."""
        if self._is_closing and self.unsent:
            self._reader.stop()
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

    def write_parts(self, head: bytes, payload: bytes) -> None:
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
        if sent < len(head):
            self._enqueue(head, sent)
            sent = len(head)
        if sent < len(head) + len(payload):
            self._enqueue(payload, sent - len(head))

    def _enqueue(self, data: bytes, start: int) -> None:
        """Queue what is left of ``data`` from ``start`` on."""
        assert self._stream is not None
        if self._queue is None:
            self._queue = deque()
            self._writer = self._hub.loop.io(self._stream.fileno(), _WRITE)
            timeout = self._websocket.options.send_timeout
            if timeout:
                self._stalled = self._hub.loop.timer(0, timeout)
        if not self.unsent:
            self._writer.start(self._writable)
            self._expect_progress()
        self._queue.append(memoryview(data)[start:])
        self.unsent += len(data) - start

    def _expect_progress(self) -> None:
        """Give the peer its time, from now on, to take some of what is queued."""
        if self._stalled is not None:
            self._stalled.again(self._websocket.send_timed_out)

    def _writable(self) -> None:
        assert self._queue is not None
        assert self._stream is not None
        try:
            while self._queue:
                head = self._queue[0]
                sent = self._stream.send(head)
                self.unsent -= sent
                if sent < len(head):
                    self._queue[0] = head[sent:]
                    break
                self._queue.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self._drop()
            return
        self._websocket.progressed()
        if self._drained is not None:
            self._drained.set()
        if self._queue:
            self._expect_progress()
        else:
            self._writer.stop()
            if self._stalled is not None:
                self._stalled.stop()
            if self._is_closing:
                self._finish()
            else:
                self._websocket.drained()

    def drain(self, limit: int) -> None:
        """Wait until at most ``limit`` bytes are unsent, or the connection is lost."""
        if self._drained is None:
            self._drained = Event()
        while self.unsent > limit:
            self._drained.clear()
            self._drained.wait()

    # Waiting

    def wait(self, timeout: float | None) -> bool:
        """Wait for ``wake()``; False when ``timeout`` seconds have passed first."""
        if self._waiter is not None:
            raise RuntimeError(
                f"another greenlet is already waiting for a message on {self._websocket}"
            )
        current = getcurrent()
        if current is self._hub:
            raise RuntimeError("receive() in a callback of the hub would stop the whole process")
        timer = None
        self._waiter = current
        try:
            if timeout is not None:
                timer = self._hub.loop.timer(max(timeout, 0))
                timer.start(self._switch, False)
            return bool(self._hub.switch())
        finally:
            self._waiter = None
            if timer is not None:
                timer.stop()
                timer.close()

    def wake(self) -> None:
        """Let the greenlet in ``wait()`` go on, if there is one."""
        waiter = self._waiter
        if waiter is None:
            return
        if getcurrent() is self._hub:
            self._waiter = None
            waiter.switch(True)
        else:
            # Only the hub may switch to a greenlet: whoever else did would not come back.
            self._hub.loop.run_callback(self._switch, True)

    def _switch(self, result: bool) -> None:
        if self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            waiter.switch(result)

    def submit(self, job: Job) -> None:
        """Call ``job`` in one of the greenlets that all sockets share."""
        if getcurrent() is self._hub:
            self._handlers.start(job)
        else:
            # Only the hub may switch to a greenlet: whoever else did would not come back.
            self._hub.loop.run_callback(self._handlers.start, job)

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

    def close_after(self, timeout: float) -> None:
        """Close in ``timeout`` seconds unless ``close()`` comes to its end before."""
        if self._timer is None and self._stream is not None:
            self._timer = self._hub.loop.timer(timeout)
            self._timer.start(self._close_timed_out)

    def _close_timed_out(self) -> None:
        count("close_timed_out")
        self._drop()

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

    def _drop(self) -> None:
        """Close the descriptor, its watchers first."""
        if self._stream is None:
            return
        for watcher in (self._reader, self._writer, self._timer, self._stalled):
            if watcher is not None:
                watcher.stop()
                watcher.close()
        stream, self._stream = self._stream, None
        stream.close()
        self._queue, self.unsent = None, 0
        if self._drained is not None:
            self._drained.set()
        # Cut the circle, so that both objects go at once and not with the garbage collector.
        websocket, self._websocket = self._websocket, None
        _sweeper.keepalive.discard(websocket)
        websocket.connection_lost()

    # Helpers

    def spawn(self, function: Callable[[], None]) -> Callable[[], None]:
        """Start ``function`` in a greenlet of its own; return what ends it."""
        return partial(gevent.spawn(function).kill, block=False)


class TLSTransport(GeventTransport):
    """The same over TLS, where bytes may be waiting that the descriptor says nothing of.

    A record is decrypted as a whole; what was not read of it sits in memory.
    """

    __slots__ = ()

    _stream: TLSStream | None

    def resume(self) -> None:
        """Read again, what is decrypted already first."""
        super().resume()
        if self._stream is not None and self._stream.pending:
            self._hub.loop.run_callback(self._readable)

    def _is_reading(self) -> bool:
        # Read in gevent 26.9; its type stubs do not know it.
        return bool(self._reader.active)  # type: ignore[attr-defined]

    def _readable(self) -> None:
        super()._readable()
        while self._stream is not None and self._is_reading() and self._stream.pending:
            super()._readable()


def transport_for(stream: Stream, websocket: Connection) -> GeventTransport:
    """Return the transport that suits the stream."""
    kind = TLSTransport if isinstance(stream, TLSStream) else GeventTransport
    return kind(stream, websocket)

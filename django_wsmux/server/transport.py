"""A connection on gevent's hub: a raw non-blocking socket and one persistent read watcher.

What arrives is read, parsed and answered in the hub itself; a greenlet is switched to only when
there is a message for the view that it runs. Nothing waits in the hub, and nothing that a peer
sends raises there.

libev aborts the process when a descriptor is closed that an active watcher still watches, so
``_drop()`` is the one place where descriptors are closed, and it stops the watchers first.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from socket import SHUT_WR
from typing import Any, Final

import gevent
from gevent.event import Event
from greenlet import getcurrent

from .streams import Stream
from .websocket import WebSocket

__all__ = ["GeventTransport"]

logger = logging.getLogger("django_wsmux.connection")

_READ: Final = 1
_WRITE: Final = 2
_CHUNK: Final = 65536


class GeventTransport:
    """Carries the bytes of one WebSocket; see ``contracts.Transport``.

    Args:
        stream: the taken-over socket.
        websocket: gets what arrives.
    """

    __slots__ = (
        "_drained",
        "_hub",
        "_is_closing",
        "_is_lingering",
        "_queue",
        "_reader",
        "_recv",
        "_send",
        "_stream",
        "_timer",
        "_waiter",
        "_websocket",
        "_writer",
        "unsent",
    )

    def __init__(self, stream: Stream, websocket: WebSocket) -> None:
        self._hub = gevent.get_hub()
        self._websocket: Any = websocket
        self._stream: Stream | None = stream
        self._recv = stream.recv
        self._send = stream.send
        self._reader = self._hub.loop.io(stream.fileno(), _READ)
        # Bytes that the peer has not taken yet, and the watcher that says when it will.
        self.unsent = 0
        self._queue: deque[memoryview] | None = None
        self._writer: Any = None
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

    def pause(self) -> None:
        """Stop reading, so that TCP pushes back on the peer."""
        self._reader.stop()

    def resume(self) -> None:
        """Read again."""
        self.start()

    def _readable(self) -> None:
        try:
            data = self._recv(_CHUNK)
            if not data:
                self._end_received()
            elif not self._is_lingering:
                self._websocket.data_received(data)
        except BlockingIOError:
            pass
        except OSError:
            # The peer is gone: reset, timed out, unreachable.
            self._drop()
        except Exception:
            logger.exception("Bug in django_wsmux: %r is dropped", self._websocket)
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
                sent = self._send(data)
            except BlockingIOError:
                pass
            except OSError:
                self._drop()
                return
            if sent == len(data):
                return
        if self._queue is None:
            self._queue = deque()
            self._writer = self._hub.loop.io(self._stream.fileno(), _WRITE)
        if not self.unsent:
            self._writer.start(self._writable)
        self._queue.append(memoryview(data)[sent:])
        self.unsent += len(data) - sent

    def _writable(self) -> None:
        assert self._queue is not None
        try:
            while self._queue:
                head = self._queue[0]
                sent = self._send(head)
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
        if self._drained is not None:
            self._drained.set()
        if not self._queue:
            self._writer.stop()
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
        if self._waiter is None:
            return
        if getcurrent() is self._hub:
            self._switch(True)
        else:
            # Only the hub may switch to a greenlet: whoever else did would not come back.
            self._hub.loop.run_callback(self._switch, True)

    def _switch(self, result: bool) -> None:
        if self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            waiter.switch(result)

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
            self._timer.start(self._drop)

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
        for watcher in (self._reader, self._writer, self._timer):
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
        websocket.connection_lost()

    # Helpers

    def spawn(self, function: Callable[[], None]) -> Callable[[], None]:
        """Start ``function`` in a greenlet of its own; return what ends it."""
        return partial(gevent.spawn(function).kill, block=False)

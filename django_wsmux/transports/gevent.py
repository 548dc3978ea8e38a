"""A connection on gevent's hub: a raw non-blocking socket that the reactor watches.

Bytes are read, parsed and answered in the hub itself, which switches to a greenlet only when there
is a message for its view. Nothing waits in the hub, and no input from a peer raises an exception
there.

libev aborts the process if a descriptor is closed while a watcher is active on it, and the reactor
would report it for ever. So only ``_close_fd()`` closes descriptors, and it stops watching first.
"""

from __future__ import annotations

import _socket
import atexit
import contextlib
import os
import sys
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Final

import gevent
from gevent import monkey
from gevent.event import Event
from greenlet import getcurrent, greenlet

from ..connection import fanout, guard, hub_thread, link, registry, turns
from ..connection.connection import Connection
from ..connection.counters import count, gauges
from ..connection.drain import CLOSE_GRACE, close_all_and_wait
from ..connection.framing import PLAIN
from ..connection.interfaces import MARK, Detached
from ..connection.keepalive import RETRY, Keepalive
from ..protocol.events import CannotMove
from ..protocol.frames import FIN, head
from . import reactor
from .base import SocketTransport, arrived, end_stream
from .handler_pool import HandlerPool, Job
from .send_queue import LONG
from .streams import Stream, TLSStream
from .watchdog import Watchdog

__all__ = ["GeventTransport", "TLSTransport", "spread_pings", "transport_for"]

# As hub.switch(), without a check for hooks that nothing here has (gevent 24.10 to 26.9).
_switch: Final = greenlet.switch

_READ: Final = 1
_WRITE: Final = 2


class _Sweeper:
    """Runs the keepalive on the hub, with one timer that fires when a connection is due."""

    def __init__(self) -> None:
        self.keepalive = Keepalive()
        self._timer: Any = None
        self._wakes_at = 0.0
        self._due: float | None = None

    def watch(self, websocket: Connection) -> None:
        due = self.keepalive.add(websocket, time.monotonic())
        if due is not None and (self._timer is None or due < self._wakes_at):
            self._wake_at(due)

    def wake_by(self, due: float) -> None:
        """Wake at that time at the latest."""
        if self._timer is None or due < self._wakes_at:
            self._wake_at(due)

    def spread(self, websockets: Collection[Connection]) -> None:
        """Spread the pings of connections that have come from another process together."""
        due = self.keepalive.spread(websockets, time.monotonic())
        if due is not None:
            self.wake_by(due)

    def stop(self) -> None:
        """Stop the timer."""
        self._wake_at(None)

    def _sweep(self) -> None:
        self._due = time.monotonic() + RETRY  # unless the sweep returns another time
        guard.call(self._sweep_now)
        self._wake_at(self._due)

    def _sweep_now(self) -> None:
        self._due = self.keepalive.sweep(time.monotonic())

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

# The greenlets that handle the messages of event views; created with the first connection.
_handlers: HandlerPool | None = None

# Finds views that block the hub, if the setting asks for it.
_watchdog: Watchdog | None = None


def handlers_for(websocket: Connection) -> HandlerPool:
    """Return the pool of this process; the first call creates it and starts the watchdog."""
    global _handlers, _watchdog
    if _handlers is None:
        _keep_to_thread()
        options = websocket.options
        pool = _handlers = HandlerPool(options.handler_greenlets, websocket.hooks.retire)
        turns.adopt_pool(pool)
        # Servers do not know of the sockets, and end the process when no request is left.
        atexit.register(_close_and_wait, os.getpid())
        gauges["handlers_running"] = lambda: pool.running
        gauges["handlers_waiting"] = lambda: pool.waiting
        if options.blocked_warning:
            _watchdog = Watchdog(options.blocked_warning)
            _watchdog.start()
    return _handlers


def _close_and_wait(process: int) -> None:
    """Close all sockets, unless this is a fork: they belong to the parent then."""
    if os.getpid() != process:
        return
    _ignore_exits()
    if not registry.stopping.is_set():
        for depart in registry.departures:
            guard.call(depart)
        close_all_and_wait(CLOSE_GRACE)


def _ignore_exits() -> None:
    """Let ``sys.exit()`` in a greenlet end that greenlet only: the process is ending already.

    gevent would raise it here. gunicorn's workers call it 0.1 s after SIGQUIT, and may have ended
    by themselves meanwhile.
    """
    hub = gevent.get_hub()
    hub.SYSTEM_ERROR = tuple(kind for kind in hub.SYSTEM_ERROR if kind is not SystemExit)


def disown() -> None:
    """Give up the keepalive, pool and watchdog of the parent, in a forked child."""
    global _sweeper, _handlers, _watchdog
    hub_thread.forget()
    fanout.disown()
    link.forget()
    reactor.disown()
    _sweeper.stop()
    _sweeper = _Sweeper()
    if _handlers is not None:
        _handlers.disown()
        _handlers = None
    if _watchdog is not None:
        _watchdog.stop()
        _watchdog = None


def spread_pings(websockets: Collection[Connection]) -> None:
    """Spread the pings of sockets that have come from another process together."""
    _sweeper.spread(websockets)


def _keep_to_thread() -> None:
    """Make sockets refuse all threads except this one."""
    get_ident = monkey.get_original("_thread", "get_ident")
    hub = gevent.get_hub()
    hub_thread.adopt(get_ident, hub.loop.run_callback_threadsafe, partial(_soon, hub.loop))
    link.adopt(hub, arrived, MARK, PLAIN)


def _soon(loop: Any, callback: Callable[[], None]) -> None:
    """Call ``callback`` in the hub after other sockets have had their turn.

    Uses a timer: the loop runs up to fifty callbacks before it looks for input.
    """
    timer = loop.timer(0)

    def fire() -> None:
        timer.close()
        callback()

    timer.start(fire)


def _unregister(loop: Any, descriptor: int) -> None:
    """Remove a descriptor from epoll although a copy of it stays open.

    libev leaves that to the kernel, which removes a file only when its last copy is closed, and
    reports its events until then.
    """
    epoll = monkey.get_original("select", "epoll").fromfd(os.dup(loop.fileno()))
    with contextlib.closing(epoll), contextlib.suppress(OSError):  # it was never registered
        epoll.unregister(descriptor)


class GeventTransport(SocketTransport):
    """Carries the bytes of one WebSocket; see ``interfaces.Transport``.

    Args:
        stream: the stream taken from the server.
        websocket: receives the bytes that arrive.
    """

    __slots__ = (
        "_drained",
        "_handlers",
        "_hub",
        "_stalled",
        "_timer",
        "_writer",
    )

    #: Whether frames are read and sent as they are, and so in C.
    _is_plain = True

    def __init__(self, stream: Stream, websocket: Connection) -> None:
        self._hub = gevent.get_hub()
        self._handlers = handlers_for(websocket)
        super().__init__(stream, websocket)
        # Reports when the peer takes more of the queued bytes.
        self._writer: Any = None
        # Ends the connection if the peer does not take enough of them in time.
        self._stalled: Any = None
        # The event for the greenlets in drain().
        self._drained: Event | None = None
        self._timer: Any = None

    # Reading

    def start(self) -> None:
        """Start reading."""
        if self._stream is not None:
            if self._is_plain:
                self._websocket._descriptor = self._stream.fileno()
            if not self.unsent:
                self._allow_direct(True)
            self.resume()
            _sweeper.watch(self._websocket)

    def _allow_direct(self, is_allowed: bool) -> None:
        """Let C send frames, while nothing is unsent."""
        self._websocket._direct = self._websocket._descriptor if is_allowed else -1

    def sweep_in(self, seconds: float) -> None:
        """Make the keepalive check its connections in ``seconds`` at the latest."""
        _sweeper.wake_by(time.monotonic() + seconds)

    def pause(self) -> None:
        """Stop reading, so that TCP pushes back on the peer."""
        if self._stream is not None:
            reactor.reactor().remove(self._websocket)

    def resume(self) -> None:
        """Resume reading."""
        if self._stream is not None:
            reactor.reactor().add(self._websocket, self._stream.fileno())

    def _start_turn(self, message: str | bytes) -> None:
        """Have an event view handle a message that has arrived alone."""
        websocket = self._websocket
        if not self._handlers.start(websocket.take_turn, message):
            websocket.message_received(message)

    def soon(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` in the hub after other sockets have had their turn."""
        _soon(self._hub.loop, partial(self._guarded, callback))

    def _guarded(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` in the hub; an error drops this socket and affects no other."""
        try:
            callback()
        except Exception as error:
            self._fail(self._websocket, error)

    # Writing

    def _start_writing(self) -> None:
        self._allow_direct(False)
        if self._writer is None:
            assert self._stream is not None
            self._writer = self._hub.loop.io(self._stream.fileno(), _WRITE)
            timeout = self._websocket.options.send_timeout
            if timeout:
                self._stalled = self._hub.loop.timer(0, timeout)
        self._writer.start(self._guarded, self._writable)

    def _stop_writing(self) -> None:
        self._allow_direct(True)
        self._writer.stop()
        if self._stalled is not None:
            self._stalled.stop()

    def _note_progress(self) -> None:
        if self._drained is not None:
            self._drained.set()

    def _expect_progress(self) -> None:
        if self._stalled is not None:
            self._stalled.again(self._guarded, self._time_out)

    def send_message(self, message: str | bytes, opcode: int) -> int:
        """Write a message in one frame; return the size of the frame."""
        hub_thread.require()
        return super().send_message(message, opcode)

    def finish_message(self, message: str | bytes, opcode: int, sent: int) -> int:
        """Write the rest of a message that C has begun to send; return the size of the frame."""
        payload = message.encode() if isinstance(message, str) else message
        start = head(FIN | opcode, len(payload))
        if sent < 0:
            self._close_fd()
        elif not sent or len(payload) < LONG:
            # As send_message() does.
            self._enqueue(start + payload, sent)
        else:
            self._enqueue_parts(start, payload, sent)
        return len(start) + len(payload)

    def finish_write(self, data: bytes, sent: int) -> None:
        """Write the rest of what C has begun to send; ``sent`` is negative if that has failed."""
        if sent < 0:
            self._close_fd()
        else:
            self._enqueue(data, sent)

    def drain(self, limit: int) -> None:
        """Wait until at most ``limit`` bytes are unsent, or the connection is lost."""
        if self._drained is None:
            self._drained = Event()
        self._demand(limit)
        while self.unsent > limit:
            self._drained.clear()
            self._drained.wait()

    # Waiting

    def wait(self, timeout: float | None) -> bool | str | bytes:
        """Wait for ``wake()`` or the next message; return False after ``timeout`` seconds."""
        websocket = self._websocket
        if websocket._waiter is not None:
            raise RuntimeError(f"another greenlet is already waiting for a message on {websocket}")
        current = getcurrent()
        if current is self._hub:
            raise RuntimeError("receive() in a callback of the hub would block the whole process")
        timer = None
        websocket._waiter = current
        try:
            if timeout is not None:
                timer = self._hub.loop.timer(max(timeout, 0))
                timer.start(self._switch, websocket, False)
            news: bool | str | bytes = _switch(self._hub)
            return news
        finally:
            websocket._waiter = None
            if timer is not None:
                timer.stop()
                timer.close()

    def wake(self) -> None:
        """Wake the greenlet that waits in ``wait()``, if any."""
        websocket = self._websocket
        if websocket is None or websocket._waiter is None:
            return
        if getcurrent() is self._hub and not fanout.is_delivering():
            self._switch(websocket, True)
        else:
            # Only the hub may switch to a greenlet: another greenlet would not be resumed.
            self._hub.loop.run_callback(self._switch, websocket, True)

    @staticmethod
    def _switch(websocket: Connection, result: bool) -> None:
        waiter = websocket._waiter
        if waiter is not None:
            websocket._waiter = None
            waiter.switch(result)

    def submit(self, job: Job) -> None:
        """Call ``job`` in a greenlet of the pool that all sockets share."""
        if getcurrent() is self._hub and not fanout.is_delivering():
            self._handlers.start(job)
        else:
            # Only the hub may switch to a greenlet: another greenlet would not be resumed.
            self._hub.loop.run_callback(self._handlers.start, job)

    # Ending

    def close_after(self, timeout: float) -> None:
        """Close after ``timeout`` seconds unless ``close()`` has finished before."""
        if self._timer is None and self._stream is not None:
            self._timer = self._hub.loop.timer(timeout)
            self._timer.start(self._guarded, self._close_timed_out)

    def _close_timed_out(self) -> None:
        count("close_timed_out")
        self._close_fd()

    def _close_fd(self) -> None:
        """Close the watchers, then the descriptor."""
        if self._stream is None:
            return
        websocket = self._websocket
        self._close_watchers()
        stream, self._stream = self._stream, None
        end_stream(stream)
        self._queue, self.unsent = None, 0
        if self._drained is not None:
            self._drained.set()
        _sweeper.keepalive.discard(websocket)
        websocket.connection_lost()
        # Break the reference cycle, so that both objects are freed without the garbage collector.
        self._websocket = None

    def _close_watchers(self) -> None:
        """Stop watching the descriptor, before it is closed or passed on."""
        websocket = self._websocket
        reactor.reactor().remove(websocket)
        websocket._descriptor = websocket._direct = -1
        self._close_timers()

    def _close_timers(self) -> None:
        for watcher in (self._writer, self._timer, self._stalled):
            if watcher is not None:
                watcher.stop()
                watcher.close()

    def disown(self) -> None:
        """Give up the socket in a forked child; a greenlet that waits for it never continues."""
        if self._stream is not None:
            # Not removed from the reactor's epoll, which is the parent's, too: see disown() there.
            self._close_timers()
            self._websocket._waiter = None
            self._websocket._descriptor = self._websocket._direct = -1
        super().disown()

    # Moving to another process

    def detach(self) -> Detached:
        """Give up the socket so that another process can continue it.

        Raises:
            CannotMove: it is closed or encrypted, or in use: see ``Connection.detached()``.
        """
        stream, websocket, queue = self._stream, self._websocket, self._queue
        if not isinstance(stream, _socket.socket):
            raise CannotMove(
                "it is closed" if stream is None else "it is encrypted here", is_final=True
            )
        waiter = websocket._waiter
        if waiter is not None and not registry.loops.get(websocket):
            raise CannotMove("its view waits for a message")
        unread, pong, codec_state = websocket.detached()
        unsent = (b"" if queue is None else queue.rest()) + pong
        self._close_watchers()
        _sweeper.keepalive.discard(websocket)
        self._stream = self._queue = self._websocket = None
        self.unsent = 0
        self._note_progress()
        websocket._waiter = None
        if waiter is not None:
            # Ends the view, which another process calls for the next message.
            self._hub.loop.run_callback(waiter.throw)
        fd = stream.detach()
        if sys.platform == "linux":
            _unregister(self._hub.loop, fd)
        return Detached(fd, unread, unsent, codec_state)

    @staticmethod
    def adopt(detached: Detached, websocket: Connection) -> GeventTransport:
        """Return a transport for a detached socket; it neither reads nor writes yet.

        Args:
            detached: the detached socket; the transport becomes the owner of its descriptor.
            websocket: the socket that continues; call its ``adopted()`` to send and read.
        """
        websocket.restore(detached.codec_state)
        stream = _socket.socket(fileno=detached.fd)
        stream.setblocking(False)
        return transport_for(stream, websocket)

    # Helpers

    def spawn(self, function: Callable[[], None]) -> Callable[[], None]:
        """Start ``function`` in a new greenlet; return a function that ends it."""
        return partial(gevent.spawn(function).kill, block=False)


class TLSTransport(GeventTransport):
    """The same for TLS, where bytes may wait although the descriptor is not readable.

    A record is decrypted as a whole, and its unread bytes stay in memory.
    """

    __slots__ = ()

    _is_plain = False

    _stream: TLSStream | None

    def start(self) -> None:
        """Start reading, first the bytes of a record that the server has not read."""
        super().start()
        self._expect_pending()

    def resume(self) -> None:
        """Resume reading, first the bytes that are decrypted already."""
        super().resume()
        self._expect_pending()

    def _expect_pending(self) -> None:
        if self._stream is not None and self._stream.pending:
            self._hub.loop.run_callback(self._guarded, self._read_pending)

    def _start_writing(self) -> None:
        super()._start_writing()
        self._watch_for_what_is_wanted()

    def _writable(self) -> None:
        super()._writable()
        if self._stream is not None and self.unsent:
            self._watch_for_what_is_wanted()

    def _watch_for_what_is_wanted(self) -> None:
        """Watch for reading instead of writing if TLS must read before it can write.

        The descriptor is writable all the time then, so watching that would loop.
        """
        assert self._stream is not None
        events = _READ if self._stream.wants_read else _WRITE
        if self._writer.events != events:
            self._writer.stop()
            self._writer.events = events
            self._writer.start(self._guarded, self._writable)

    def _readable(self) -> None:
        super()._readable()
        self._guarded(self._read_pending)

    def _read_pending(self) -> None:
        while self._stream is not None and self._websocket._is_watched and self._stream.pending:
            super()._readable()


def transport_for(stream: Stream, websocket: Connection) -> GeventTransport:
    """Return a transport of the right class for the stream."""
    return (TLSTransport if isinstance(stream, TLSStream) else GeventTransport)(stream, websocket)

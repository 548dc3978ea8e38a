"""The thread that does the I/O of all sockets, in a process without gevent.

It does for threads what the hub does for greenlets: it reads, parses and answers while views
compute, sleep or wait elsewhere, continues to write when a slow peer takes more, and runs timers.
It exists while there are sockets. It only needs ``select()`` and a pair of sockets, so it runs on
every platform.
"""

from __future__ import annotations

import heapq
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING

from ..connection import guard
from ..connection.keepalive import RETRY, Keepalive

if TYPE_CHECKING:
    from ..connection.connection import Connection
    from .streams import Stream

__all__ = ["IOThread", "Timer", "enter"]


class Timer:
    """A callback that is called later, unless it is cancelled."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Cancel the callback."""
        self._callback = None

    def fire(self) -> None:
        """Call the callback, unless it was cancelled."""
        if self._callback is not None:
            self._callback()


class IOThread:
    """The I/O thread.

    Any thread may use ``call()``, ``later()`` and ``is_current``; everything else is for the I/O
    thread itself. Callbacks must not wait or raise.

    Attributes:
        keepalive: decides which sockets are pinged and which are given up.
    """

    def __init__(self) -> None:
        self.keepalive = Keepalive()
        self.users = 0
        self._sweeps_at: float | None = None
        self._calls: deque[Callable[[], None]] = deque()
        # The time, a number that orders timers with the same time, and the timer.
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = count()
        self._selector = selectors.DefaultSelector()
        self._wake_r, self._wake_w = socket.socketpair()
        for sock in (self._wake_r, self._wake_w):
            sock.setblocking(False)
        self._selector.register(self._wake_r, selectors.EVENT_READ, self._heard_bell)
        self._thread = threading.Thread(target=self._run, name="django_wsmux", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    # From any thread

    @property
    def is_current(self) -> bool:
        """Whether the calling thread is the I/O thread."""
        return threading.current_thread() is self._thread

    def call(self, callback: Callable[[], None]) -> None:
        """Schedule a callback in this thread, after those already scheduled."""
        self._calls.append(callback)
        if not self.is_current:
            try:
                self._wake_w.send(b"!")
            except OSError:
                # The buffer is full, so the thread wakes anyway; or it ended with the last socket.
                return

    def later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Schedule a callback in this thread after some seconds."""
        timer = Timer(callback)
        due = time.monotonic() + seconds
        self.call(lambda: heapq.heappush(self._timers, (due, next(self._numbers), timer)))
        return timer

    # From the I/O thread

    def watch(self, stream: Stream, before: int, events: int, ready: Callable[[int], None]) -> None:
        """Change the events that a socket is watched for.

        Args:
            stream: the socket.
            before: the events that it was watched for until now, 0 for none.
            events: the events to watch it for from now on.
            ready: called with the events that have occurred.
        """
        if not before:
            self._selector.register(stream, events, ready)
        elif not events:
            self._selector.unregister(stream)
        else:
            self._selector.modify(stream, events, ready)

    def keep_alive(self, websocket: Connection) -> None:
        """Start the keepalive of a newly opened socket."""
        due = self.keepalive.add(websocket, time.monotonic())
        if due is not None:
            self.sweep_by(due)

    def sweep_by(self, due: float) -> None:
        """Make the keepalive check its connections at the time ``due`` at the latest."""
        if self._sweeps_at is None or due < self._sweeps_at:
            self._sweeps_at = due

    def _run(self) -> None:
        while not self._is_over():
            for key, events in self._selector.select(self._patience()):
                guard.call(key.data, events)
            for _ in range(len(self._calls)):
                guard.call(self._calls.popleft())
            self._keep_time()
        self._selector.close()
        self._wake_r.close()
        self._wake_w.close()

    def _is_over(self) -> bool:
        global _current
        with _guard:
            if self.users:
                return False
            if _current is self:
                _current = None
            return True

    def _heard_bell(self, events: int) -> None:
        self._wake_r.recv(4096)

    def _patience(self) -> float | None:
        """Return the longest time to wait for the sockets; ``None`` sets no limit."""
        if self._calls:
            return 0
        times = [self._timers[0][0]] if self._timers else []
        if self._sweeps_at is not None:
            times.append(self._sweeps_at)
        return max(min(times) - time.monotonic(), 0) if times else None

    def _keep_time(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            guard.call(heapq.heappop(self._timers)[2].fire)
        if self._sweeps_at is not None and self._sweeps_at <= now:
            self._sweeps_at = now + RETRY  # unless the sweep returns another time
            guard.call(self._sweep, now)

    def _sweep(self, now: float) -> None:
        self._sweeps_at = self.keepalive.sweep(now)


_guard = threading.Lock()
_current: IOThread | None = None


def enter() -> IOThread:
    """Return the thread of the process, for one more socket; start it if needed."""
    global _current
    with _guard:
        if _current is None:
            _current = IOThread()
            _current.users = 1
            _current.start()
        else:
            _current.users += 1
        return _current


def disown() -> None:
    """Forget the thread, in a forked child, where it does not run."""
    global _guard, _current
    _guard = threading.Lock()
    _current = None


def leave(thread: IOThread) -> None:
    """Release the thread, from within it; it ends with the last socket."""
    with _guard:
        thread.users -= 1

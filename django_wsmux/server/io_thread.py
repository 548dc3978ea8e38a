"""One thread that does the input and output of all sockets, in a process without gevent.

It is to threads what the hub is to greenlets: it reads, parses and answers while views compute,
sleep or wait elsewhere, writes on when a slow peer takes more, and keeps time. It is there while
there are sockets, and runs wherever Python does: ``select()`` and a pair of sockets will do.
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

from . import guard
from .keepalive import RETRY, Keepalive

if TYPE_CHECKING:
    from .connection import Connection
    from .streams import Stream

__all__ = ["IOThread", "Timer", "enter"]


class Timer:
    """Something that happens later, unless it is cancelled."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Have nothing happen."""
        self._callback = None

    def fire(self) -> None:
        """Let it happen."""
        if self._callback is not None:
            self._callback()


class IOThread:
    """The thread; ``call()``, ``later()`` and ``is_current`` are for any thread, the rest for it.

    Callbacks neither wait nor raise.

    Attributes:
        keepalive: whom to ping, and whom to give up.
    """

    def __init__(self) -> None:
        self.keepalive = Keepalive()
        self.users = 0
        self._sweeps_at: float | None = None
        self._calls: deque[Callable[[], None]] = deque()
        # When, a number that settles who comes first of two at the same time, and what.
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = count()
        self._selector = selectors.DefaultSelector()
        self._bell, self._button = socket.socketpair()
        for sock in (self._bell, self._button):
            sock.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ, self._heard_bell)
        self._thread = threading.Thread(target=self._run, name="django_wsmux", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    # From any thread

    @property
    def is_current(self) -> bool:
        """Whether it is this thread that asks."""
        return threading.current_thread() is self._thread

    def call(self, callback: Callable[[], None]) -> None:
        """Have something done here, after what else there is to do now."""
        self._calls.append(callback)
        if not self.is_current:
            try:
                self._button.send(b"!")
            except OSError:
                # Rung often enough already; or the last socket is gone, and the thread with it.
                return

    def later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Have something done here in so many seconds."""
        timer = Timer(callback)
        due = time.monotonic() + seconds
        self.call(lambda: heapq.heappush(self._timers, (due, next(self._numbers), timer)))
        return timer

    # From this thread

    def watch(self, stream: Stream, before: int, events: int, ready: Callable[[int], None]) -> None:
        """Change what a socket is watched for.

        Args:
            stream: the socket.
            before: what it was watched for until now, 0 for nothing.
            events: what to watch it for from now on.
            ready: called with those events that have come.
        """
        if not before:
            self._selector.register(stream, events, ready)
        elif not events:
            self._selector.unregister(stream)
        else:
            self._selector.modify(stream, events, ready)

    def keep_alive(self, websocket: Connection) -> None:
        """Ping a socket that has just opened, from time to time."""
        due = self.keepalive.add(websocket, time.monotonic())
        if due is not None and (self._sweeps_at is None or due < self._sweeps_at):
            self._sweeps_at = due

    def _run(self) -> None:
        while not self._is_over():
            for key, events in self._selector.select(self._patience()):
                guard.call(key.data, events)
            for _ in range(len(self._calls)):
                guard.call(self._calls.popleft())
            self._keep_time()
        self._selector.close()
        self._bell.close()
        self._button.close()

    def _is_over(self) -> bool:
        global _current
        with _guard:
            if self.users:
                return False
            if _current is self:
                _current = None
            return True

    def _heard_bell(self, events: int) -> None:
        self._bell.recv(4096)

    def _patience(self) -> float | None:
        """Return how long nothing but the sockets needs attention."""
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
            self._sweeps_at = now + RETRY  # unless the sweep knows better
            guard.call(self._sweep, now)

    def _sweep(self, now: float) -> None:
        self._sweeps_at = self.keepalive.sweep(now)


_guard = threading.Lock()
_current: IOThread | None = None


def enter() -> IOThread:
    """Return the process's thread, for one socket more."""
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
    """Forget the thread in a forked child, where it does not run."""
    global _guard, _current
    _guard = threading.Lock()
    _current = None


def leave(thread: IOThread) -> None:
    """Take leave of it, from within: with the last socket it ends."""
    with _guard:
        thread.users -= 1

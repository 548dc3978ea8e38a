"""Sockets in memory: a view and its client take turns in one thread.

Each view is a greenlet. While it runs, nothing else does; when it waits for a message, control
returns to the test that called ``Loop.run()``. Nothing sleeps, and only ``Loop.advance()`` lets
time pass. Bytes are processed as on a real connection, frame by frame in both directions. Only the
kernel is missing, and with it all effects of slow peers.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Any, Final, Protocol

from greenlet import getcurrent, greenlet

from ..connection.connection import Connection
from ..connection.interfaces import Detached
from ..protocol.events import CannotMove
from ..protocol.frames import encode
from ..server.takeover import Takeover

__all__ = ["Loop", "MemoryTakeover", "MemoryTransport", "Peer", "Task", "current_loop"]

#: Consecutive polls with ``receive(timeout=0)``, while no time passes, that are taken for an
#: endless loop.
MAX_POLLS: Final = 10_000


class Task(greenlet):
    """A handshake, a view or a helper that takes turns with others."""


@dataclass(order=True, slots=True)
class _Timer:
    due: float
    number: int
    callback: Callable[[], object] | None = field(compare=False)


class Loop:
    """Runs ready callbacks in order, on the stack of the caller of ``run()``."""

    def __init__(self) -> None:
        self._ready: deque[Callable[[], object]] = deque()
        # The timeouts of waits, the soonest first.
        self._timers: list[_Timer] = []
        self._numbers = count()
        self._now = 0.0

    def call(self, callback: Callable[[], object]) -> None:
        """Schedule ``callback`` after those already scheduled."""
        self._ready.append(callback)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Callable[[], None]:
        """Schedule ``callback`` after some time; return a function that cancels it."""
        timer = _Timer(self._now + max(seconds, 0), next(self._numbers), callback)
        heappush(self._timers, timer)

        def cancel() -> None:
            timer.callback = None

        return cancel

    def start(self, function: Callable[[], object]) -> Task:
        """Run ``function`` as a task, in an empty context as under a server."""
        task = Task(function)
        self.call(lambda: self.switch(task))
        return task

    def switch(self, task: Task, *args: object) -> None:
        """Run a task until it ends or waits."""
        if not task.dead:
            task.parent = getcurrent()
            task.switch(*args)

    def end(self, task: Task) -> None:
        """End a task where it waits, or where it waits next."""

        def throw() -> None:
            if not task.dead:
                task.parent = getcurrent()
                task.throw()

        self.call(throw)

    def run(self) -> None:
        """Run until every task has ended or waits.

        Raises:
            RuntimeError: a view polls endlessly.
        """
        polls = 0
        while True:
            while self._ready:
                self._ready.popleft()()
            callback = self._due(self._now)
            if callback is None:
                return
            polls += 1
            if polls > MAX_POLLS:
                raise RuntimeError(
                    "a view calls receive(timeout=0) again and again, so the test would never "
                    "continue: make it wait, receive(timeout=0.1)"
                )
            callback()

    def advance(self, seconds: float, is_enough: Callable[[], bool]) -> None:
        """Let time pass for waits with a timeout, until ``is_enough()``; never sleeps."""
        limit = self._now + seconds
        self.run()
        while not is_enough():
            callback = self._due(limit)
            if callback is None:
                self._now = max(self._now, limit)
                return
            callback()
            self.run()

    def _due(self, limit: float) -> Callable[[], object] | None:
        """Return the next callback due by ``limit``, and set the time to when it was due."""
        while self._timers and self._timers[0].due <= limit:
            timer = heappop(self._timers)
            if timer.callback is not None:
                self._now = max(self._now, timer.due)
                return timer.callback
        return None


_local = threading.local()


def current_loop() -> Loop:
    """Return the loop of this thread."""
    loop: Loop | None = getattr(_local, "loop", None)
    if loop is None:
        loop = _local.loop = Loop()
    return loop


class Peer(Protocol):
    """The other end of a connection; it may answer at once with ``MemoryTransport.feed()``."""

    def connected(self, transport: MemoryTransport) -> None:
        """Take the transport, once the connection is taken over."""

    def data_received(self, data: bytes) -> None:
        """Process bytes from the server."""

    def eof_received(self) -> None:
        """Note that the server has sent its last byte."""


class MemoryTransport:
    """Carries the bytes of one WebSocket within a process; see ``interfaces.Transport``.

    Args:
        loop: schedules the tasks.
        websocket: receives what the peer sends.
        peer: receives what the view sends.
        arrive: called in a task each time it gets control.
    """

    #: The peer takes everything at once.
    unsent = 0

    def __init__(
        self, loop: Loop, websocket: Connection, peer: Peer, arrive: Callable[[], object]
    ) -> None:
        self._loop = loop
        self.websocket = websocket
        self._peer = peer
        self._arrive = arrive
        self._incoming = b""
        self._is_reading = False
        self._is_closed = False
        self._tasks: list[Task] = []
        #: The task in ``wait()``, and its timeout in seconds.
        self.waiter: Task | None = None
        self.limit: float | None = None

    # The peer's side

    def feed(self, data: bytes) -> None:
        """Receive bytes from the peer."""
        self._incoming += data
        self._loop.call(self._pass_on)

    def feed_eof(self) -> None:
        """Note that the peer has sent its last byte."""
        self._loop.call(self.abort)

    def _pass_on(self) -> None:
        if self._is_reading and self._incoming and not self._is_closed:
            data, self._incoming = self._incoming, b""
            self.websocket.data_received(data, len(data))

    def end_tasks(self) -> None:
        """End all tasks of this socket where they wait."""
        for task in self._tasks:
            self._loop.end(task)

    # Reading

    def start(self) -> None:
        """Start reading."""
        self.resume()

    def sweep_in(self, seconds: float) -> None:
        """Do nothing: there is no keepalive."""

    def pause(self) -> None:
        """Stop reading."""
        self._is_reading = False

    def resume(self) -> None:
        """Resume reading."""
        self._is_reading = True
        self._loop.call(self._pass_on)

    def soon(self, callback: Callable[[], None]) -> None:
        """Schedule a callback after those already scheduled."""
        self._loop.call(callback)

    # Writing

    def write(self, data: bytes) -> None:
        """Pass bytes to the peer."""
        if not self._is_closed:
            self._peer.data_received(data)

    def send_message(self, message: str | bytes, opcode: int) -> int:
        """Pass a message to the peer in one frame; return the size of the frame."""
        frame = encode(opcode, message.encode() if isinstance(message, str) else message)
        self.write(frame)
        return len(frame)

    def drain(self, limit: int) -> None:
        """Return at once: nothing is ever unsent."""

    # Waiting

    def wait(self, timeout: float | None) -> bool:
        """Let other tasks run until ``wake()``; return False if ``timeout`` seconds pass first."""
        task = getcurrent()
        if not isinstance(task, Task):
            raise RuntimeError(
                f"{self.websocket}: this is the view's end of the socket, where only a view may "
                f"wait; call receive() of the test's client instead"
            )
        if self.waiter is not None:
            raise RuntimeError(f"another task is already waiting for a message on {self.websocket}")
        cancel = None
        if timeout is not None:
            cancel = self._loop.call_later(timeout, lambda: self._go_on(task, False))
        self.waiter, self.limit = task, timeout
        try:
            assert task.parent is not None
            is_awake = bool(task.parent.switch())
        finally:
            self.waiter = None
            if cancel is not None:
                cancel()
        self._arrive()
        return is_awake

    def wake(self) -> None:
        """Schedule the view that waits in ``wait()``, if any."""
        task = self.waiter
        if task is not None:
            self._loop.call(lambda: self._go_on(task, True))

    def _go_on(self, task: Task, is_awake: bool) -> None:
        if self.waiter is task:
            self._loop.switch(task, is_awake)

    def submit(self, job: Callable[[], bool]) -> None:
        """Call ``job``, each time in a new task, until it returns False."""

        def run() -> None:
            if job():
                self.submit(job)

        self._start(run)

    def spawn(self, function: Callable[[], None]) -> Callable[[], None]:
        """Start ``function`` as a task; return a function that ends it."""
        task = self._start(function)
        return lambda: self._loop.end(task)

    def _start(self, function: Callable[[], None]) -> Task:
        def run() -> None:
            self._arrive()
            try:
                function()
            finally:
                self._tasks.remove(task)

        task = self._loop.start(run)
        self._tasks.append(task)
        return task

    # Ending

    def close(self, timeout: float, *, linger: bool) -> None:
        """Send the end of the stream; with ``linger`` the peer ends the connection."""
        if not self._is_closed:
            self._peer.eof_received()
            if not linger:
                self.abort()

    def abort(self) -> None:
        """Close at once."""
        if not self._is_closed:
            self._is_closed = True
            self._peer.eof_received()
            self.websocket.connection_lost()

    def disown(self) -> None:
        """Give up the peer in a forked child."""
        self._is_closed = True

    def detach(self) -> Detached:
        """Refuse: there is no descriptor.

        Raises:
            CannotMove: always.
        """
        raise CannotMove("it is in memory", is_final=True)

    def close_after(self, timeout: float) -> None:
        """Do nothing: the peer answers a close frame at once."""


class MemoryTakeover(Takeover):
    """A handshake from within the process.

    Args:
        loop: schedules the tasks.
        peer: the client's end.
        arrive: see ``MemoryTransport``.
    """

    def __init__(self, loop: Loop, peer: Peer, arrive: Callable[[], object]) -> None:
        super().__init__()
        self._loop = loop
        self._peer = peer
        self._arrive = arrive

    def take(self, websocket: Connection) -> tuple[Any, bytes]:
        """Return the transport of ``websocket``; no bytes were read past the request."""
        self.is_taken = True
        transport = MemoryTransport(self._loop, websocket, self._peer, self._arrive)
        self._peer.connected(transport)
        return transport, b""

"""WebSockets in a process without gevent: one thread for each socket.

The view runs in the thread in which the server has answered the handshake, whether it is a function
or a class. All sockets share an ``IOThread``, which reads and parses bytes, so that pings are
answered and a close is noticed while the view is busy, as under gevent. Other threads may send and
close at any time. Every step that they could disturb holds the socket's lock. No code of a project
runs and nothing waits while the lock is held.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial, wraps
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from ..connection import registry
from ..connection.connection import Connection
from ..connection.counters import count
from ..connection.group_receive import InterceptingWebSocket, kinds
from ..connection.interfaces import OPEN, Hooks
from ..connection.websocket import WebSocket
from ..logs import get_logger
from ..protocol.events import Closed, Control, Failure
from ..protocol.options import Options
from . import io_thread
from .base import SocketTransport, end_stream
from .io_thread import IOThread, Timer
from .streams import Stream

__all__ = ["ThreadTransport", "ThreadWebSocket"]

logger = get_logger("django_wsmux.connection")

Params = ParamSpec("Params")
Result = TypeVar("Result")

Job = Callable[[], bool]

#: Seconds that a view has to answer messages that came before the peer's close.
_GRACE: Final = 0.1


def _locked(
    method: Callable[Concatenate[Any, Params], Result],
) -> Callable[Concatenate[Any, Params], Result]:
    """Return a method that takes the socket's lock first."""

    @wraps(method)
    def locked(self: Any, /, *args: Params.args, **kwargs: Params.kwargs) -> Result:
        with self.lock:
            return method(self, *args, **kwargs)

    return locked


def _begun(
    method: Callable[Concatenate[Any, Params], Result],
) -> Callable[Concatenate[Any, Params], Result]:
    """Return a method that accepts the handshake if needed, and then takes the socket's lock."""
    locked = _locked(method)

    @wraps(method)
    def begun(self: Any, /, *args: Params.args, **kwargs: Params.kwargs) -> Result:
        if self.connecting:
            self.hooks.open(self)
        return locked(self, *args, **kwargs)

    return begun


class ThreadWebSocket(WebSocket):
    """A WebSocket on which any thread may send and close, and one at a time may receive."""

    __slots__ = ("lock",)

    _transport: ThreadTransport

    def __init__(self, environ: dict[str, Any], options: Options, hooks: Hooks) -> None:
        super().__init__(environ, options, hooks)
        self.lock = threading.RLock()

    # Called by views, groups and helpers

    send = _begun(WebSocket.send)
    _send_as = _begun(WebSocket._send_as)
    close = _begun(WebSocket.close)
    ping = _begun(WebSocket.ping)
    fileno = _begun(WebSocket.fileno)
    deliver = _locked(WebSocket.deliver)
    close_from_group = _locked(WebSocket.close_from_group)
    hold = _locked(WebSocket.hold)
    release = _locked(WebSocket.release)
    replay = _locked(WebSocket.replay)
    discard_held = _locked(WebSocket.discard_held)
    tell = _locked(WebSocket.tell)
    cancel_on_close = _locked(WebSocket.cancel_on_close)

    @_locked
    def on_close(self, key: object, callback: Callable[[], None]) -> None:
        """Call ``callback`` once when nothing can be sent any more; at once if already closed."""
        if self.closed:
            callback()
        else:
            super().on_close(key, callback)

    def spawn(self, function: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Run ``function`` beside the view, in a new thread.

        A thread cannot be ended from outside: when the socket is closed, the next ``send()`` in it
        raises ``ConnectionClosed``.
        """
        if self._state != OPEN:
            self._require_open()
        self._transport.spawn(
            partial(self.hooks.run_helper, self, partial(function, *args, **kwargs))
        )

    # Called by the framework

    opened = _locked(WebSocket.opened)
    dismiss = _locked(WebSocket.dismiss)
    serve = _locked(WebSocket.serve)
    abandon = _locked(WebSocket.abandon)
    _view_ended = _locked(WebSocket._view_ended)

    def disown(self) -> None:
        """Mark the socket as closed, in a fork of the process that owns it."""
        # A thread that does not exist here may hold the copy of the lock.
        self.lock = threading.RLock()
        super().disown()

    unsend = _locked(WebSocket.unsend)

    def run(self, function: Callable[[], None]) -> None:
        """Run the view in the socket's own thread, as soon as that is free."""
        registry.running_views.add(self)

        def converse() -> bool:
            try:
                function()
            finally:
                self._view_ended()
            return False

        self._transport.submit(converse)

    # Called by the transport

    _continue_replay = _locked(WebSocket._continue_replay)
    send_keepalive_ping = _locked(WebSocket.send_keepalive_ping)
    give_up = _locked(WebSocket.give_up)

    def _handle_control(self, control: Control) -> None:
        if type(control) is Closed or type(control) is Failure:
            self._transport.after_view(partial(super()._handle_control, control))

    # Messages on their way to the view

    _next_message = _locked(WebSocket._next_message)
    _put_back = _locked(WebSocket._put_back)

    def has_news(self) -> bool:
        """Return whether ``receive()`` would return at once, because of a message or a close."""
        return bool(self._inbox) or self.closed

    def take_turn(self, message: str | bytes | None = None) -> bool:
        """Run the view for one message, or for the close; return whether there is more."""
        with self.lock:
            message = self._next_message() if self._inbox else None
        if message is None:
            return super().take_turn()
        self.hooks.receive(self, message)
        with self.lock:
            self._is_busy = bool(self._inbox) or self.closed
            return self._is_busy


class InterceptingThreadWebSocket(InterceptingWebSocket, ThreadWebSocket):
    """The same for a view that sees group messages first."""

    __slots__ = ()

    deliver = _locked(InterceptingWebSocket.deliver)
    _next_group_message = _locked(InterceptingWebSocket._next_group_message)
    _goes_on = _locked(InterceptingWebSocket._goes_on)


kinds[ThreadWebSocket] = InterceptingThreadWebSocket


class ThreadTransport(SocketTransport):
    """Carries the bytes of one WebSocket; see ``interfaces.Transport``.

    All methods except ``wait()`` and ``converse()`` are called with the websocket's lock held.

    Args:
        stream: the stream taken from the server.
        websocket: receives the bytes that arrive.
    """

    __slots__ = (
        "_changed",
        "_io",
        "_is_parked",
        "_is_reading",
        "_is_waited_for",
        "_is_writing",
        "_jobs",
        "_postponed",
        "_stalled",
        "_stalls_at",
        "_timer",
        "_watched",
    )

    def __init__(self, stream: Stream, websocket: ThreadWebSocket) -> None:
        super().__init__(stream, websocket)
        # Notified of all changes that a thread may wait for.
        self._changed = threading.Condition(websocket.lock)
        self._io: IOThread = io_thread.enter()
        # The events to watch the socket for, and those it is watched for.
        self._is_reading = self._is_writing = False
        self._watched = 0
        # Whether a thread is in wait(), and whether the socket's own thread is idle.
        self._is_waited_for = self._is_parked = False
        # Callbacks that wait until the view is done or its time is over.
        self._postponed: list[Callable[[], None]] = []
        # Jobs for the socket's own thread.
        self._jobs: deque[Job] = deque()
        # Ends the connection if the peer has not taken enough in time.
        self._stalled: Timer | None = None
        self._stalls_at = 0.0
        self._timer: Timer | None = None

    # Reading

    def start(self) -> None:
        """Start reading."""
        if self._stream is not None:
            self._io.call(partial(self._act, self._keep_alive))
            self.resume()

    def _keep_alive(self) -> None:
        self._io.keep_alive(self._websocket)

    def sweep_in(self, seconds: float) -> None:
        """Make the keepalive check its connections in ``seconds`` at the latest."""
        self._io.call(partial(self._io.sweep_by, time.monotonic() + seconds))

    def pause(self) -> None:
        """Stop reading, so that TCP pushes back on the peer."""
        self._is_reading = False
        self._look_out()

    def resume(self) -> None:
        """Resume reading."""
        self._is_reading = True
        self._look_out()

    def soon(self, callback: Callable[[], None]) -> None:
        """Schedule a callback in the I/O thread."""
        self._io.call(partial(self._act, callback))

    def _act(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` in the I/O thread, unless the connection is gone."""
        with self._changed:
            if self._stream is not None:
                self._guarded(callback)

    def _guarded(self, callback: Callable[..., None], *args: int) -> None:
        """Call ``callback`` in the I/O thread; an error drops this socket and affects no other."""
        try:
            callback(*args)
        except Exception as error:
            self._fail(self._websocket, error)

    def _look_out(self) -> None:
        """Make the I/O thread watch the socket for the current events."""
        if self._io.is_current:
            self._act(self._watch)
        else:
            self._io.call(partial(self._act, self._watch))

    def _watch(self) -> None:
        events = EVENT_READ * self._is_reading | EVENT_WRITE * self._is_writing
        if events != self._watched:
            assert self._stream is not None
            self._io.watch(self._stream, self._watched, events, self._ready)
            self._watched = events

    def _ready(self, events: int) -> None:
        with self._changed:
            self._guarded(self._transfer, events)

    def _transfer(self, events: int) -> None:
        if events & EVENT_WRITE and self._is_writing and self._stream is not None:
            self._writable()
        if events & EVENT_READ and self._is_reading:
            self._readable()

    def _end_received(self) -> None:
        self.pause()
        self.after_view(super()._end_received)

    def after_view(self, callback: Callable[[], None]) -> None:
        """Call ``callback``, which ends the socket, once the view is done with earlier messages.

        Under gevent, the hub switches to the view for each message, and continues when the view
        waits. Here the view runs in parallel, so it gets time to answer: at most ``_GRACE``,
        because it may not answer at all.
        """
        self._postponed.append(callback)
        if self._websocket.closed or self._is_view_at_rest():
            self._catch_up()
        elif len(self._postponed) == 1:
            self._io.later(_GRACE, partial(self._act, self._catch_up))

    def _is_view_at_rest(self) -> bool:
        if self._is_waited_for:
            return not self._websocket.has_news()
        return self._is_parked and not self._jobs

    def _catch_up(self) -> None:
        """Call the postponed callbacks in order."""
        postponed, self._postponed = self._postponed, []
        for callback in postponed:
            if self._stream is not None:
                callback()

    # Writing

    def _start_writing(self) -> None:
        self._is_writing = True
        self._look_out()

    def _stop_writing(self) -> None:
        self._is_writing = False
        self._look_out()

    def _note_progress(self) -> None:
        self._changed.notify_all()

    def _expect_progress(self) -> None:
        timeout = self._websocket.options.send_timeout
        if timeout:
            self._stalls_at = time.monotonic() + timeout
            if self._stalled is None:
                self._stalled = self._io.later(timeout, partial(self._act, self._look_for_progress))

    def _look_for_progress(self) -> None:
        self._stalled = None
        left = self._stalls_at - time.monotonic()
        if not self.unsent:
            return
        elif left > 0:
            self._stalled = self._io.later(left, partial(self._act, self._look_for_progress))
        else:
            self._time_out()

    def drain(self, limit: int) -> None:
        """Wait until at most ``limit`` bytes are unsent, or the connection is lost."""
        self._demand(limit)
        self._changed.wait_for(lambda: self.unsent <= limit)

    # Waiting

    def wait(self, timeout: float | None) -> bool:
        """Wait for a message or the close; return False after ``timeout`` seconds without."""
        with self._changed:
            websocket: ThreadWebSocket | None = self._websocket
            if websocket is None:
                return True
            if self._is_waited_for:
                raise RuntimeError(
                    f"another thread is already waiting for a message on {websocket}"
                )
            self._is_waited_for = True
            try:
                if not websocket.has_news():
                    self._catch_up()
                return self._changed.wait_for(websocket.has_news, timeout)
            finally:
                self._is_waited_for = False

    def wake(self) -> None:
        """Wake the view that waits in ``wait()``, if any."""
        self._changed.notify_all()

    def submit(self, job: Job) -> None:
        """Call ``job`` in the socket's own thread until it returns False."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()

    def converse(self) -> None:
        """Run the submitted jobs in this thread, until the socket is closed and all are done."""
        websocket = self._websocket
        while (job := self._next_job()) is not None:
            try:
                while job():
                    pass
            except BaseException:
                # Such as SystemExit: it ends the view, as it would a greenlet, but not the server.
                logger.exception("%r: the view was ended", websocket)

    def _next_job(self) -> Job | None:
        with self._changed:
            self._is_parked = True
            if not self._jobs:
                self._catch_up()
            self._changed.wait_for(lambda: self._jobs or self._stream is None)
            self._is_parked = False
            return self._jobs.popleft() if self._jobs else None

    # Ending

    def close_after(self, timeout: float) -> None:
        """Close after ``timeout`` seconds unless ``close()`` has finished before."""
        if self._timer is None and self._stream is not None:
            self._timer = self._io.later(timeout, partial(self._act, self._close_timed_out))

    def _close_timed_out(self) -> None:
        count("close_timed_out")
        self._close_fd()

    def _close_fd(self) -> None:
        """Pass the descriptor to the I/O thread, which may be watching it, to close it."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        for timer in (self._timer, self._stalled):
            if timer is not None:
                timer.cancel()
        self._queue, self.unsent = None, 0
        websocket, self._websocket = self._websocket, None
        release = partial(self._release, stream, websocket)
        if self._io.is_current:
            release()
        else:
            self._io.call(release)
        websocket.connection_lost()
        self._changed.notify_all()

    def disown(self) -> None:
        """Give up the socket, in a forked child, where the I/O thread does not run."""
        # A thread that does not exist here may hold the copy of the lock.
        self._changed = threading.Condition()
        super().disown()

    def _release(self, stream: Stream, websocket: Connection) -> None:
        if self._watched:
            self._io.watch(stream, self._watched, 0, self._ready)
        end_stream(stream)
        self._io.keepalive.discard(websocket)
        io_thread.leave(self._io)

    # Helpers

    def spawn(self, function: Callable[[], None]) -> Callable[[], None]:
        """Start ``function`` in a new thread, which cannot be ended from outside."""
        threading.Thread(target=function, daemon=True).start()
        return lambda: None

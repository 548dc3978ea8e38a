"""The common part of backends with a broker: publishing over one connection."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from ..exceptions import BackendUnavailable
from .base import Backend
from .request_reply import Expected

__all__ = ["BrokerBackend", "Call", "PublishBatcher"]

#: Calls that are sent to the broker together.
_BATCH: Final = 256

#: After a failure that took longer than the first, calls fail at once for the second; in seconds.
_SLOW_FAILURE: Final = 0.5
_FAIL_FAST: Final = 1.0

#: Answers that may wait for the broker at the same time.
_MAX_REPLIES: Final = 64


class Call:
    """A packet to send, and the result.

    Attributes:
        channel: the channel to publish on.
        packet: the packet to send.
        result: the broker's reply, if ``is_done`` and ``error`` is ``None``.
        error: why it failed, or ``None``.
        is_done: whether it was sent or has failed.
    """

    __slots__ = ("awake", "channel", "error", "is_done", "packet", "result")

    def __init__(self, channel: str, packet: bytes) -> None:
        self.channel = channel
        self.packet = packet
        self.result: Any = None
        self.error: str | None = None
        self.is_done = False
        # If the caller has to wait: set when the call is done, or when it must send.
        self.awake: threading.Event | None = None

    def succeed(self, result: Any) -> None:
        """Store the broker's reply."""
        self.result = result
        self.is_done = True

    def fail(self, error: str) -> None:
        """Store the error."""
        self.error = error
        self.is_done = True


class PublishBatcher:
    """Sends the calls of several threads or greenlets over one connection, in order.

    While one of them waits for the broker, the others queue up; then all queued calls are sent in
    one round trip. So the order of a process is kept, one connection is enough, and the queue is
    never longer than the number of callers. (A plain lock would not be enough: the caller that has
    just sent would take it again before the waiting ones, each time with a queue of one.)

    Args:
        exchange: sends calls and marks each as done, including those that the broker refuses;
            raises ``BackendUnavailable`` if the broker is unavailable. Calls that it does not mark
            have failed.
    """

    def __init__(self, exchange: Callable[[Sequence[Call]], None]) -> None:
        self._exchange = exchange
        self._lock = threading.Lock()
        self._queue: deque[Call] = deque()
        self._is_busy = False
        self._fails_until = 0.0
        self._last_error = ""

    def call(self, call: Call) -> None:
        """Send a call, and wait until it is done: at most twice as long as ``exchange`` takes."""
        with self._lock:
            self._queue.append(call)
            if self._is_busy:
                call.awake = threading.Event()
            self._is_busy = True
        if call.awake is not None:
            try:
                call.awake.wait()
            except BaseException:  # gevent.Timeout, or the greenlet is killed
                self._leave(call)
                raise
        while not call.is_done:
            self._send_batch()

    def _leave(self, call: Call) -> None:
        """Stop waiting; if it was this call's turn to send, pass that on."""
        with self._lock:
            if call not in self._queue:
                return
            is_its_turn = self._queue[0] is call and call.awake is not None and call.awake.is_set()
            self._queue.remove(call)
            if is_its_turn:
                self._pass_on()

    def _pass_on(self) -> None:
        """Let the first waiting call send next; the lock must be held."""
        self._is_busy = bool(self._queue)
        if self._queue and self._queue[0].awake is not None:
            self._queue[0].awake.set()

    def _send_batch(self) -> None:
        with self._lock:
            size = min(len(self._queue), _BATCH)
            batch = [self._queue.popleft() for _ in range(size)]
        try:
            self._send(batch)
        finally:
            for call in batch:
                if not call.is_done:
                    call.fail("the connection was lost")
                if call.awake is not None:
                    call.awake.set()
            with self._lock:
                self._pass_on()

    def _send(self, batch: Sequence[Call]) -> None:
        began = time.monotonic()
        if began < self._fails_until:
            for call in batch:
                call.fail(self._last_error)
            return
        try:
            self._exchange(batch)
        except BackendUnavailable as error:
            for call in batch:
                if not call.is_done:
                    call.fail(error.problem)
            now = time.monotonic()
            if now - began > _SLOW_FAILURE:
                # A broker that does not answer must not cost every view a timeout. One that refuses
                # a call, however late, is available.
                self._fails_until = now + _FAIL_FAST
                self._last_error = error.problem


class BrokerBackend(Backend):
    """A backend that publishes through a broker.

    Attributes:
        advice: what to check when the broker is unavailable.
        timeout: seconds to wait for the broker.
    """

    advice = ""
    timeout = 2.0

    @abstractmethod
    def exchange(self, calls: Sequence[Call]) -> None:
        """Send packets in one round trip, and mark each call as done.

        A call that the broker refuses is marked with ``Call.fail()``.

        Raises:
            BackendUnavailable: the broker is unavailable; unmarked calls were not sent.
        """

    def prepare(self) -> None:
        """Make the state of one process."""
        self.combiner = PublishBatcher(self.exchange)
        self._replies = threading.Semaphore(_MAX_REPLIES)

    def transmit(self, channel: str, packet: bytes) -> None:
        """Send a packet to the broker."""
        self.query(channel, packet)

    def query(self, channel: str, packet: bytes) -> Expected:
        """Send a packet to the broker; return what it reports about the receivers."""
        result: Expected = self.send(Call(channel, packet))
        return result

    def send(self, call: Call) -> Any:
        """Send a call to the broker, and return the reply.

        Raises:
            BackendUnavailable: the broker is unavailable, or refuses the call.
        """
        self.combiner.call(call)
        if call.error is not None:
            raise self.unavailable(call.error, self.advice)
        return call.result

    def reply_to(self, channel: str, packet: bytes) -> None:
        """Send a packet without waiting for the broker; drop it if too many are waiting."""
        if not self._replies.acquire(blocking=False):
            self.counts.dropped += 1
            return
        thread = threading.Thread(target=self._reply, args=(channel, packet), daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # there are too many threads
            self._replies.release()
            raise self.unavailable(error) from error

    def _reply(self, channel: str, packet: bytes) -> None:
        try:
            call = Call(channel, packet)
            self.combiner.call(call)
            self.counts.dropped += call.error is not None
        finally:
            self._replies.release()

"""The contract of a backend, which carries publications from one process to the others.

``from_url()`` makes a backend. Code that only publishes (a Celery task, a management command) calls
``publish()`` and nothing else. Code that listens calls ``start()`` once and then ``subscribe()``.
One owner thread, which is a greenlet in a process patched by gevent, delivers the publications of
the other processes.

To write a backend, subclass ``Backend``, implement the three abstract methods, and run the tests of
the contract against it (``django_wsmux.backends.contract``)::

    class MyBackend(Backend):
        def listen(self):                      # runs in the owner thread
            connection = connect(self.url)     # after BackendUnavailable it is called again
            self.listening()
            while not self.stopping:
                self.deliver(connection.read())

        def transmit(self, channel, packet):   # from any thread or greenlet
            connection.send(packet)            # to every other process, in the order of the calls

        def reply(self, asker, packet):        # from any thread; must not wait for a network
            ...                                # to the process with this id, or to every process

Backends must not wait in a way that gevent cannot see, run an event loop, or queue without limit.
"""

from __future__ import annotations

import atexit
import itertools
import os
import secrets
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from ..exceptions import BackendMisconfigured, BackendUnavailable
from ..logs import SHOWN, LogLimit, get_logger
from .numbers import THREAD, Numbers
from .outages import Counts, Gap, ReconnectBackoff
from .packets import Kind, Packet, UnreadablePacket, pack, unpack
from .request_reply import (
    Expected,
    PendingRequest,
    Replies,
    pack_answer,
    pack_question,
    unpack_answer,
)
from .selector import Forked, WakeableSelector

__all__ = ["Backend", "BackendMisconfigured", "BackendUnavailable", "Counts", "Gap"]

logger = get_logger("django_wsmux.backends")

#: Seconds for which the owner delivers messages before it lets others run.
_SLICE: Final = 0.005

#: Seconds that close() waits for the owner.
_LINGER: Final = 3.0

#: Seconds between two log lines about the same thing.
_LOG_INTERVAL: Final = 60.0

#: Slow answers that may be computed at the same time.
_MAX_SLOW_ANSWERS: Final = 4


#: Looking up the member of the enumeration takes longer.
_MESSAGE: Final = int(Kind.MESSAGE)

T = TypeVar("T")
Receive = Callable[[str, bytes], object]
OnGap = Callable[[Gap], object]
Answerer = Callable[[str, bytes], bytes | Callable[[], bytes] | None]


def _wait(event: threading.Event, timeout: float) -> bool:
    """Wait until an event is set; return whether it is.

    With gevent (26.9), ``wait()`` of an event that is set already may never return, whatever its
    timeout: the waiters before it have given up in the same round of the loop, and their
    notification, which this one joins, is cancelled.
    """
    return event.is_set() or event.wait(timeout)


class Backend(ABC):
    """Carries publications between the processes of one project.

    Every method may be called from any thread or greenlet. A forked child begins again, with its
    own id and connections, not started and without subscriptions.

    Args:
        url: as in ``WEBSOCKET_BACKEND``.
        namespace: names the project; the same in all its processes. Projects with different
            namespaces never receive messages of each other. ``?namespace=`` in the URL takes
            precedence.

    Attributes:
        url: the URL as given.
        name: the URL without user, password and query, for logs and errors.
        namespace: the namespace as given.
        counts: the counters of this process.
        id: 16 random bytes that identify this process for this backend.
        numbers: the numbers of the publications that have reached this process.
        has_total_order: whether all processes receive publications in the same order, as far as
            they are subscribed, also those of different processes. Then sockets that move to
            another process lose no message of a group without a history.
        channels: the subscribed channels.
        effective: set while all publications are received.
        waiter: the ``WakeableSelector`` of the owner.
        lock: held while ``follow()`` and ``unfollow()`` are called.
    """

    # Made again in each process; see _prepare().
    id: bytes
    numbers: Numbers
    channels: dict[str, threading.Event]
    effective: threading.Event
    waiter: WakeableSelector
    lock: threading.Lock
    _owner: threading.Thread | None
    _receive: Receive | None
    _on_gap: OnGap | None
    _answer: Answerer | None
    _questions: dict[int, PendingRequest]

    has_total_order = False

    def __init__(self, url: str, *, namespace: str = "") -> None:
        scheme, _, rest = url.partition("://")
        # urlsplit() does not accept a dotted path with an underscore as a scheme.
        parts = urlsplit(f"x://{rest}")
        self.url = url
        self.name = f"{scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self.namespace = namespace
        self.counts = Counts()
        # The process for which the state of _prepare() was made; None before.
        self._pid: int | None = None
        _backends.add(self)

    # For users of the backend

    def start(
        self, receive: Receive, gap: OnGap | None = None, answer: Answerer | None = None
    ) -> None:
        """Start listening. A second call only replaces the callbacks.

        The owner calls the callbacks, one at a time. They must not wait for anything: meanwhile
        nothing is received. Exceptions that they raise are logged.

        Args:
            receive: ``receive(channel, payload)`` is called for each publication of another
                process.
            gap: ``gap(Gap(...))`` is called when publications may have been missed, once the
                backend works again.
            answer: ``answer(channel, question)`` returns the answer for ``ask()`` in another
                process, or ``None`` for no answer. If the answer takes a while, it returns a
                function without arguments, which a new thread calls for the answer.

        Raises:
            BackendMisconfigured: the backend can never work with this configuration. Raised once:
                if the problem is fixed later, the backend listens.
            BackendUnavailable: this process has no descriptor or thread left. An unavailable broker
                or a full disk is not an error: it is logged, and the backend listens as soon as it
                can.
        """
        self._prepare()
        self._receive, self._on_gap, self._answer = receive, gap, answer
        self._is_started = True
        self._start_owner()

    def subscribe(self, channel: str) -> threading.Event:
        """Subscribe to a channel; do nothing if it is subscribed already.

        This does not wait. Calls for one channel take effect in their order.

        Returns:
            An event that is set once the subscription is effective: every publication after
            ``subscribe(channel).wait(timeout)`` has returned True is received.

        Raises:
            RuntimeError: ``start()`` has not been called in this process.
        """
        if self._pid is None or not self._is_started:
            raise RuntimeError("call start() before subscribe(), in each process that listens")
        with self.lock:
            event = self.channels.get(channel)
            if event is None:
                event = self.channels[channel] = self.follow(channel)
            return event

    def wait_for(self, subscription: threading.Event, timeout: float) -> bool:
        """Wait until a subscription is effective; do not wait while the broker is unavailable.

        What is published afterwards is heard, or ``gap()`` is called when it is over.

        Args:
            subscription: what ``subscribe()`` returned.
            timeout: seconds to wait at most.

        Returns:
            Whether the subscription is effective.
        """
        if subscription.is_set():
            return True
        if not self.effective.is_set() and not _wait(self._tried, timeout):
            with self._trying:
                if not self._tried.is_set():
                    # Later callers do not wait for such a slow attempt.
                    self._tried.set()
                    self._outages.suspect()
        return self.effective.is_set() and _wait(subscription, timeout)

    def unsubscribe(self, channel: str) -> None:
        """Unsubscribe from a channel; do nothing if it is not subscribed."""
        if self._pid is not None:
            with self.lock:
                if self.channels.pop(channel, None) is not None:
                    self.unfollow(channel)

    def publish(self, channel: str, payload: bytes, number: int | None = None) -> None:
        """Publish to all other processes, but not to this one. Needs no ``start()``.

        Publications of one process arrive everywhere in the order of its calls. This waits for the
        reply of the broker, if there is one, for a bounded time, and never for a receiver.

        Args:
            channel: the channel.
            payload: any bytes.
            number: the result of ``numbers.draw_early()``, if that was called before.

        Raises:
            BackendUnavailable: the broker is unavailable. The payload was not delivered; if the
                connection was lost after it was sent, that is unknown.
        """
        if self._pid is None:
            self._prepare()
        numbers = self.numbers
        if number is None:
            # Here and not in a method of its own: this runs for each publication.
            last = numbers.own[numbers.get_ident()]
            last[0] = number = last[0] + 1
            if numbers.observe is not None:
                numbers.note_own(number, channel, payload)
        packet = pack(_MESSAGE, self.id, channel, payload, number)
        try:
            self.transmit(channel, packet)
        except OSError as error:
            raise self.unavailable(error) from error
        self.counts.published += 1

    def head(self, channel: str) -> bytes:
        """Return the header of a packet that a store in the broker publishes; the payload follows.

        Unlike a packet of ``publish()``, the sender receives it, too.
        """
        self._prepare()
        return pack(Kind.STORED, self.id, channel, b"")

    def ask(self, channel: str, question: bytes, timeout: float = 1.0) -> Replies:
        """Ask every other process that is subscribed to a channel.

        Returns as soon as all processes that the backend knows have answered. A process that dies
        meanwhile delays it by at most ``timeout`` seconds. Starts the owner if it does not run.

        Returns:
            The answers, in no particular order, of processes that were alive when they were asked,
            and the number of processes whose answer is missing.

        Raises:
            BackendUnavailable: the question could not be sent.
        """
        self._prepare()
        deadline = time.monotonic() + timeout
        self._start_owner()
        if not _wait(self.effective, timeout):
            reason = self._outages.reason or "not connected yet"
            raise self.unavailable(f"no connection to receive answers on: {reason}")
        number = next(self._numbers)
        pending = self._questions[number] = PendingRequest()
        try:
            packet = pack(Kind.QUESTION, self.id, channel, pack_question(number, question))
            try:
                pending.expect(self.query(channel, packet))
            except OSError as error:
                raise self.unavailable(error) from error
            if not pending.wait(max(0.0, deadline - time.monotonic())):
                self.counts.unanswered += 1
            return pending.replies()
        finally:
            del self._questions[number]

    def close(self) -> None:
        """Send what is queued, for a bounded time, and release all resources."""
        if self._pid is None:
            return
        self._stop.set()
        self.waiter.wake()
        if self._owner is not None and self._owner is not threading.current_thread():
            self._owner.join(_LINGER)
        self.release()
        self.waiter.close()
        self._pid = None

    # Sockets that move to another process

    def process(self) -> bytes:
        """Return ``id``, which this process gets when the backend is first used."""
        self._prepare()
        return self.id

    def mark(self, process: bytes, timeout: float) -> dict[str, Any]:
        """Mark for another process that this one is subscribed to the channels of its sockets.

        Args:
            process: the id of the process that gives sockets to this one.
            timeout: seconds to wait at most.

        Returns:
            Values of JSON for ``await_mark()`` there.

        Raises:
            BackendUnavailable: the mark could not be sent.
        """
        if not self.has_total_order:
            return {}
        mark = secrets.token_bytes(8)
        self.send_mark(process, mark)
        return {"mark": mark.hex(), "senders": [self.id.hex()]}

    def await_mark(self, mark: Mapping[str, Any], timeout: float) -> bool:
        """Wait until the other process receives each publication that this one has not received.

        Args:
            mark: the result of ``mark()`` there.
            timeout: seconds to wait at most.

        Returns:
            False if the other process may miss publications.
        """
        return self.numbers.await_mark(mark, timeout)

    # To be implemented

    @abstractmethod
    def listen(self) -> None:
        """Listen until ``self.stopping``; called by the owner.

        Connects, subscribes to ``self.channels``, calls ``listening()`` when that is effective, and
        passes what arrives to ``deliver()``. Waits with ``self.waiter``, or in another way that
        ends soon after ``self.waiter.wake()``. Leaves nothing open when it returns.

        Raises:
            BackendUnavailable: it cannot connect, or has lost the connection; it is called again
                after a while.
        """

    @abstractmethod
    def transmit(self, channel: str, packet: bytes) -> None:
        """Send a packet to the other processes that are subscribed to a channel, or to all.

        Raises:
            BackendUnavailable: this is not possible now.
        """

    @abstractmethod
    def reply(self, asker: bytes, packet: bytes) -> None:
        """Send a packet to the process with this id; must not wait for a network.

        It may be sent to all processes: a process ignores answers to others.
        """

    # To be implemented if the default is not sufficient

    def query(self, channel: str, packet: bytes) -> Expected:
        """Send a packet as ``transmit()`` does; return which processes must answer.

        A number includes this process if it is subscribed and the packet comes back to it. A set
        contains the ids of exactly the other processes. ``None`` means unknown: ``ask()`` then
        waits until its timeout.
        """
        self.transmit(channel, packet)
        return None

    def follow(self, channel: str) -> threading.Event:
        """Subscribe at the broker; return an event that is set once that is effective."""
        return self.effective

    def unfollow(self, channel: str) -> None:
        """Unsubscribe at the broker."""

    @property
    def place(self) -> str:
        """A description of where the processes of this project find each other."""
        return f"{self.name}, namespace {self.namespace}"

    def hints(self) -> list[str]:
        """Return possible reasons why running processes are not found here."""
        return []

    def rehearse(self) -> None:
        """Check what ``start()`` needs of this machine; connect to nothing and leave no socket.

        ``manage.py check`` and the start of the server call it.

        Raises:
            BackendMisconfigured: the backend can never work with this configuration.
            BackendUnavailable: it would not work now.
        """

    def open(self) -> None:
        """Do what must be done before ``start()`` returns; called once in each process.

        Raises:
            BackendMisconfigured: the backend can never work with this configuration.
            BackendUnavailable: it does not work now; ``listen()`` tries again.
        """

    def prepare(self) -> None:
        """Make the state of one process: locks, queues. Called before anything else in it."""

    def release(self) -> None:
        """Close connections and files; this is the last call."""

    def forget(self) -> None:
        """Close the descriptors that a fork copied, without telling the other side."""

    # For subclasses

    @property
    def stopping(self) -> bool:
        """Whether ``listen()`` must return."""
        return self._stop.is_set()

    def unavailable(self, problem: object, advice: str = "") -> BackendUnavailable:
        """Return the error to raise."""
        return BackendUnavailable(self.name, str(problem), advice)

    def misconfigured(self, problem: object, advice: str = "") -> BackendMisconfigured:
        """Return the error to raise if another attempt is pointless."""
        return BackendMisconfigured(self.name, str(problem), advice)

    def listening(self) -> None:
        """Report that all publications are received from now on; this ends an outage."""
        with self._trying:
            self._tried.set()
            self.effective.set()
            gap = self._outages.end()
        if gap is not None:
            self.missed(gap)
            logger.warning("%s: listening again after %.1f s", self.name, gap.seconds)

    def missed(self, gap: Gap) -> None:
        """Report that publications may have been missed."""
        self.counts.gaps += 1
        if self._on_gap is not None:
            self._call(self._on_gap, gap)

    def send_mark(self, process: bytes, mark: bytes) -> None:
        """Send a mark to the process with this id, after everything that was sent to it before."""
        self.reply(process, pack(Kind.MARK, self.id, "", process + mark))

    def lost_peer(self, peer: bytes) -> None:
        """Report that a process has gone, so that no question waits for it."""
        for question in list(self._questions.values()):
            question.add(peer, None)

    def deliver(self, packets: Iterable[bytes]) -> None:
        """Deliver packets that have arrived; let others run if that takes long.

        No packet, whatever it contains, ends the listener or the connection.
        """
        pid = self._pid
        numbers = self.numbers
        end = time.monotonic() + _SLICE
        for data in packets:
            try:
                packet = unpack(data)
                source = packet.sender
                if packet.kind != _MESSAGE:
                    self._handle(packet)
                elif source != self.id:
                    number = packet.number
                    if number >= THREAD:
                        source = numbers.source_of(source, number)
                    numbers.last[source][0] = number
                    if numbers.observe is not None:
                        numbers.observe(source, number, packet.channel, packet.payload)
                    self._take_in(packet)
            except Forked:
                raise
            except Exception as error:
                self.unreadable(error)
            if time.monotonic() > end:
                time.sleep(0)
                if self._pid != pid:
                    raise Forked
                end = time.monotonic() + _SLICE

    def unreadable(self, problem: Exception) -> None:
        """Count a dropped packet that cannot be read; log it within the limit."""
        self.counts.unreadable += 1
        suffix = self.log_suffix("unreadable")
        if suffix is not None:
            text = str(problem)
            if not isinstance(problem, UnreadablePacket):
                text = f"{type(problem).__name__}: {text}"
            logger.warning("%s: dropped a packet: %s%s", self.name, text[:SHOWN], suffix)

    def log_suffix(self, kind: str) -> str | None:
        """Return the suffix for a log line of a kind, or ``None`` if it must not be logged."""
        return self._limits.setdefault(kind, LogLimit(1, _LOG_INTERVAL)).suffix()

    # Inside

    def _prepare(self) -> None:
        if self._pid is not None:
            return
        # Not in __init__: with gunicorn --preload that runs before the fork and before gevent's
        # patching, and a lock made then would block the whole process.
        with _preparing:
            if self._pid is not None:
                return
            self.id = os.urandom(16)
            self.numbers = Numbers(self.id)
            self.counts = Counts()
            self.channels = {}
            self.effective = threading.Event()
            # Set when the first attempt to listen has succeeded, failed, or taken too long.
            self._tried = threading.Event()
            self._trying = threading.Lock()
            try:
                self.waiter = WakeableSelector()
            except OSError as error:  # no descriptor is left
                raise self.unavailable(error) from error
            self.lock = threading.Lock()
            self._stop = threading.Event()
            self._owner = None
            self._is_started = False
            self._receive = None
            self._on_gap = None
            self._answer = None
            self._questions = {}
            self._slow_answers = threading.Semaphore(_MAX_SLOW_ANSWERS)
            self._numbers = itertools.count()
            self._outages = ReconnectBackoff()
            self._limits: dict[str, LogLimit] = {}
            self.prepare()
            self._pid = os.getpid()

    def _start_owner(self) -> None:
        with self.lock:
            if self._owner is not None:
                return
            problem = None
            try:
                self.open()
            except BackendUnavailable as error:
                problem = error
                self._note_outage(error.problem)
            owner = threading.Thread(
                target=self._own, args=(self._stop,), name="django_wsmux backend", daemon=True
            )
            try:
                owner.start()
            except RuntimeError as error:  # there are too many threads
                raise self.unavailable(error) from error
            self._owner = owner
            if isinstance(problem, BackendMisconfigured):
                raise problem

    def _own(self, stop: threading.Event) -> None:
        pid = os.getpid()
        while not stop.is_set():
            try:
                self.listen()
            except Forked:
                return
            except BackendUnavailable as error:
                self._note_outage(error.problem)
            except Exception as error:
                if os.getpid() != pid or stop.is_set():
                    return
                self._note_outage(f"{type(error).__name__}: {error}", exc_info=True)
            else:
                continue
            stop.wait(self._outages.delay())
            if os.getpid() != pid:
                return

    def _note_outage(self, reason: str, *, exc_info: bool = False) -> None:
        with self._trying:
            self._tried.set()
            self.effective.clear()
            is_news = self._outages.begin(reason)
        if is_news:
            logger.warning(
                "%s: not listening: %s; trying again", self.name, reason, exc_info=exc_info
            )

    def _take_in(self, packet: Packet) -> None:
        """Pass on a publication if this process subscribes to its channel."""
        if packet.channel in self.channels:
            self.counts.received += 1
            if self._receive is not None:
                self._call(self._receive, packet.channel, packet.payload)

    def _handle(self, packet: Packet) -> None:
        if packet.kind == Kind.STORED:
            self._take_in(packet)
        elif packet.kind == Kind.QUESTION:
            if packet.sender != self.id:
                self._reply_to(packet)
            else:
                number = int.from_bytes(packet.payload[: PendingRequest.HEAD], "big")
                if question := self._questions.get(number):
                    question.echo()
        elif packet.kind == Kind.ANSWER:
            answer = unpack_answer(packet.payload)
            if answer.asker == self.id and (question := self._questions.get(answer.number)):
                question.add(packet.sender, answer.text)
        elif packet.kind == Kind.MARK:
            self.numbers.note_mark(packet.sender, packet.payload)
        elif packet.kind == Kind.GAP:
            missed = int.from_bytes(packet.payload[:8], "big")
            self.missed(Gap("this process was too slow to receive its messages", 0.0, missed))
        else:
            raise UnreadablePacket(f"unknown kind {packet.kind}; a newer release may have sent it")

    def _reply_to(self, packet: Packet) -> None:
        question = packet.payload[PendingRequest.HEAD :]
        answer: bytes | Callable[[], bytes] | None = None
        if not packet.channel:
            # To another process than the asker; see ``LocalBackend.mark()``.
            self.send_mark(question[:16], question[16:])
            answer = self.id
        elif packet.channel in self.channels and self._answer is not None:
            answer = self._call(self._answer, packet.channel, question)
        if not callable(answer):
            self._send_answer(packet, answer)
        elif self._slow_answers.acquire(blocking=False):
            try:
                threading.Thread(
                    target=self._reply_later, args=(packet, answer), daemon=True
                ).start()
            except RuntimeError:  # there are too many threads
                self._slow_answers.release()
                self.counts.dropped += 1
        else:
            self.counts.dropped += 1

    def _reply_later(self, packet: Packet, answer: Callable[[], bytes]) -> None:
        pid = self._pid
        try:
            text = self._call(answer)
            if self._pid == pid and not self.stopping:
                self._send_answer(packet, text)
        finally:
            self._slow_answers.release()

    def _send_answer(self, packet: Packet, text: bytes | None) -> None:
        payload = pack_answer(packet.sender, packet.payload, text)
        try:
            self.reply(packet.sender, pack(Kind.ANSWER, self.id, "", payload))
        except (BackendUnavailable, OSError) as error:
            self.counts.dropped += 1
            suffix = self.log_suffix("answer")
            if suffix is not None:
                logger.warning("sending an answer failed: %s%s", error, suffix)

    def _call(self, function: Callable[..., T], *args: object) -> T | None:
        try:
            return function(*args)
        except Exception:
            self.counts.failed += 1
            # Limited by name, because each call may have a new function.
            suffix = self.log_suffix(getattr(function, "__qualname__", type(function).__name__))
            if suffix is not None:
                logger.exception("%s: %r failed%s", self.name, function, suffix)
            return None

    def _forget(self) -> None:
        if self._pid is not None:
            self._pid = None
            self.waiter.close()
            self.forget()


_backends: weakref.WeakSet[Backend] = weakref.WeakSet()
_preparing = threading.Lock()


def _forget_all() -> None:
    global _preparing
    _preparing = threading.Lock()
    for backend in list(_backends):
        backend._forget()


def _close_all() -> None:
    for backend in list(_backends):
        backend.close()


if hasattr(os, "register_at_fork"):
    # Windows has no fork.
    os.register_at_fork(after_in_child=_forget_all)
atexit.register(_close_all)

"""Groups beyond this process: what is published to the others, and what they publish.

The backend of ``WEBSOCKET_BACKEND`` is made when it is first needed. Groups of people, of which
there may be as many as sockets, share one channel.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from functools import partial
from threading import Event, Lock, RLock
from typing import TYPE_CHECKING, Any, Final, Protocol

from django.utils.crypto import salted_hmac

from .. import conf
from ..backends import Backend, Gap, Replies, from_url
from ..connection.guard import notify
from ..exceptions import BackendUnavailable
from ..logs import LogLimit, get_logger
from ..protocol.frames import BINARY, CLOSE, TEXT
from ..protocol.prepared import PreparedMessage
from ..signals import backend_gap
from . import envelope
from .envelope import Envelope
from .members import Key, Members, name_of, prefix_of
from .namespace import namespace

if TYPE_CHECKING:
    from ..connection.connection import Connection

__all__ = [
    "Observer",
    "PubSub",
    "Sequencer",
    "cut",
    "describe",
    "key_of",
    "members",
    "membership",
    "pubsub",
    "replay",
    "session_group",
    "user_group",
]

logger = get_logger("django_wsmux.groups")

#: The setting's value for groups that end with the process: for tests.
ALONE: Final = "memory://"

#: Where all groups of people are; no group of one's own may be called so.
_PEOPLE: Final = "@people"

#: Seconds that a join waits for the broker, and a question for its answers.
_PATIENCE: Final = 1.0

#: The members of this process.
members: Final = Members()


#: Between prefix and name in a channel's name: a control character, which is in neither.
_SEPARATOR: Final = "\x1f"

#: Seconds until a process that cannot be asked about itself tries again to be.
_RETRY: Final = 5.0


#: What the names of sessions' groups begin with.
_SESSION: Final = "@session:"


def user_group(user_id: object) -> str:
    """Return the name of a user's group.

    Args:
        user_id: the primary key.
    """
    return f"@user:{user_id}"


def session_group(session_key: str) -> str:
    """Return the name of a session's group."""
    # The key is as good as a password: it goes into no log and no broker.
    digest = salted_hmac("django_wsmux.session", session_key, algorithm="sha256").hexdigest()
    return f"{_SESSION}{digest[:20]}"


def key_of(name: str, prefix: str) -> Key:
    """Return the key of a group.

    Args:
        name: of the group.
        prefix: the one that is in force, ``""`` for none. The groups of sessions have none: the
            key of a session is unique by itself, and known before its tenant is.
    """
    if not prefix:
        return name
    return name if name.startswith(_SESSION) else (prefix, name)


def _channel(key: Key) -> str:
    if isinstance(key, str):
        return _PEOPLE if key.startswith("@") else key
    prefix, name = key
    return _PEOPLE if name.startswith("@") else f"{prefix}{_SEPARATOR}{name}"


def _url() -> str:
    url: str = conf.get("WEBSOCKET_BACKEND")
    return url


def describe(key: Key) -> list[dict[str, Any]]:
    """Return what a group's members in this process show of themselves: ``groups.Member``."""
    return [
        {"user_id": each.hooks.user_id, "info": members.info(key, each)} for each in members.of(key)
    ]


class Observer(Protocol):
    """Is told who is in the groups of this process: see ``membership``."""

    def joined(self, key: Key, member: Connection, *, is_first: bool) -> None:
        """A socket is in a group now; ``is_first`` if the group had no member here before.

        What others publish for the group may be heard from the next moment on.
        """

    def left(self, key: Key, member: Connection, *, is_last: bool) -> None:
        """A socket is not in a group any more; ``is_last`` if the group has no member here."""


#: Those who are told of each join and leave, in order, for as long as they are in this list. They
#: are called with a lock held, and on the hub: they neither wait nor raise. In a forked child,
#: whose groups are empty, they are told nothing.
membership: Final[list[Observer]] = []


class Sequencer:
    """Decides what of the publications that arrive reaches the members, and when: all, at once.

    What numbers publications takes its place, as ``pubsub.sequencer``. It can put them in order,
    drop those that come twice, and wait for those that are missing.

    Args:
        deliver: hands a publication to the members of this process.
    """

    __slots__ = ("_deliver",)

    def __init__(self, deliver: Callable[[Key, Envelope], None]) -> None:
        self._deliver = deliver

    def accept(self, key: Key, envelope: Envelope) -> None:
        """Take a publication of another process. Must not wait: others come behind it.

        Args:
            key: of the group.
            envelope: the publication.
        """
        self._deliver(key, envelope)

    def lose(self, gap: Gap) -> None:
        """Note that the backend may have missed publications, of any group, up to now."""

    def cut(self) -> dict[str, int]:
        """Return which publications have reached the members: see ``cut()``."""
        return {}

    def replay(self, cut: Mapping[str, int], members: Collection[Connection]) -> None:
        """Hand publications that came after a cut to some members: see ``replay()``."""


class PubSub:
    """The way to the other processes.

    Attributes:
        sequencer: what publications of other processes go through.
    """

    def __init__(self) -> None:
        self.sequencer = Sequencer(self.deliver)
        self._backend: Backend | None = None
        self._made_for: str | None = None
        # How many groups with members a channel has here, and channels that have none any more.
        self._watched: dict[str, int] = {}
        self._deserted: set[str] = set()
        # Channels that are subscribed to; each event is set once that is effective.
        self._subscribed: dict[str, Event] = {}
        # Who answers questions about the process itself, by channel, and when the next attempt to
        # be asked at all may be made after one that failed.
        self._answers: dict[str, Callable[[bytes], bytes]] = {}
        self._retry_at = 0.0
        # What registers to answer when this process serves sockets, and whether all of it does.
        self._responders: dict[str, Callable[[bytes], bytes]] = {}
        self._is_serving = False
        # Channels that are heard whether they have members here or not.
        self._kept: set[str] = set()
        # Held while these change: under runserver sockets come and go in threads. Nothing waits
        # with it, as it is asked for on the hub.
        self._lock = RLock()
        # Held while subscriptions change, so that they do so in order; never asked for on the hub.
        # It belongs to one process: what is made before a fork, or before gevent's patching, would
        # block all of it.
        self._subscribing: tuple[int, threading.Lock] | None = None
        self._making = Lock()
        self._unreadable = LogLimit()

    def backend(self) -> Backend | None:
        """Return the backend of the settings, ``None`` for a process that is alone."""
        url = _url()
        if url != self._made_for:
            with self._making:
                self._make(url)
        return self._backend

    def _make(self, url: str) -> None:
        if url != self._made_for:
            if self._backend is not None:
                self._backend.close()
            self._answers.clear()
            self._is_serving = False
            self._subscribed.clear()
            # Windows has no unix sockets: there one process serves alone.
            is_alone = url == ALONE or (url.startswith("local:") and not hasattr(socket, "AF_UNIX"))
            self._backend = None if is_alone else from_url(url, namespace=namespace())
            self._made_for = url

    def disown(self) -> None:
        """Begin again in a forked child: what it sends goes to the parent as to any process."""
        members.disown()
        self._watched.clear()
        self._deserted.clear()
        self._answers.clear()
        self._is_serving = False
        self._subscribed.clear()
        self._kept.clear()
        # Copies of locks that nothing in this process would release.
        self._lock = RLock()
        self._making = Lock()

    def counts(self) -> dict[str, int]:
        """Return what the backend has counted in this process, by the names of ``COUNTERS``."""
        backend = self._backend
        if backend is None:
            return {}
        return {f"backend_{name}": number for name, number in asdict(backend.counts).items()}

    def publish(self, key: Key, opcode: int, data: bytes) -> None:
        """Tell the other processes.

        Args:
            key: of the group.
            opcode: TEXT or BINARY for a message, CLOSE to close the members.
            data: the message, or the body of a close frame.

        Raises:
            BackendUnavailable: the broker is away.
        """
        backend = self.backend()
        if backend is not None:
            payload = envelope.pack(opcode, name_of(key), data, prefix_of(key))
            backend.publish(_channel(key), payload)

    def add(self, key: Key, member: Connection, info: Any = None) -> None:
        """Put a socket into a group; what others publish for it is heard when this returns.

        Args:
            key: of the group.
            member: the socket.
            info: what it shows of itself.

        Raises:
            BackendUnavailable: others can never be heard. Then it is not in the group.
        """
        with self._lock:
            self._enter(key, member, info)
        try:
            self._hear(_channel(key))
        except BaseException:
            self.discard(key, member)
            raise

    def discard(self, key: Key, member: Connection) -> None:
        """Remove a socket from a group; never waits.

        Sockets close on the hub, where nothing may wait: unsubscribing is left to the next
        ``add()``. What is published until then reaches no member.
        """
        with self._lock:
            was_member = bool(membership) and members.has(key, member)
            is_last = members.discard(key, member)
            if is_last:
                channel = _channel(key)
                groups = self._watched[channel] = self._watched[channel] - 1
                if not groups:
                    del self._watched[channel]
                    self._deserted.add(channel)
            if was_member:
                for observer in membership:
                    observer.left(key, member, is_last=is_last)

    def _enter(self, key: Key, member: Connection, info: Any = None) -> None:
        """Note a member, with the lock held."""
        is_new = bool(membership) and not members.has(key, member)
        is_first = members.add(key, member, info)
        if is_first:
            channel = _channel(key)
            self._watched[channel] = self._watched.get(channel, 0) + 1
        if is_new:
            for observer in membership:
                observer.joined(key, member, is_first=is_first)

    def add_all(self, keys: Collection[Key], member: Connection) -> None:
        """Put a socket into several groups; see ``add()``.

        Raises:
            BackendUnavailable: others can never be heard. Then it is in none of them.
        """
        backend = self.backend()
        channels = [_channel(key) for key in keys]
        with self._lock:
            for key in keys:
                self._enter(key, member)
        try:
            for channel in dict.fromkeys(channels):
                event = self._subscribed.get(channel)
                if backend is not None and (event is None or not event.is_set()):
                    self._hear(channel)
        except BaseException:
            for key in keys:
                self.discard(key, member)
            raise

    def watch(self, handshake: object) -> None:
        """Note from now on what ends sessions: called before session and user are read.

        Closes are heard although the groups have no member here yet. While the broker is away this
        returns at once: the socket of a signed-in user meets the error when it joins its groups.

        Args:
            handshake: any object, for ``members.closings``.
        """
        if not self._is_serving:
            self.serve()
        self._kept.add(_PEOPLE)
        with contextlib.suppress(BackendUnavailable, OSError):
            self._hear(_PEOPLE)
        members.closings.begin(handshake)

    def _hear(self, channel: str) -> None:
        """Wait until a channel is subscribed to, for a bounded time.

        Every joining socket does so, not only the first: another one may be the first while the
        broker has yet to confirm, and that one may fail. The first of a process waits until the
        backend is connected.
        """
        backend = self.backend()
        if backend is None:
            return
        event = self._subscribed.get(channel)
        if event is None:
            event = self._subscribe(backend, channel)
        if not event.is_set():
            backend.wait_for(event, _PATIENCE)

    def _subscribe(self, backend: Backend, channel: str) -> Event:
        """Subscribe to a channel, and unsubscribe from those that have no members any more."""
        with self._lock:
            if self._subscribing is None or self._subscribing[0] != os.getpid():
                self._subscribing = os.getpid(), threading.Lock()
            turn = self._subscribing[1]
        with turn:
            with self._lock:
                deserted = self._deserted - self._watched.keys() - self._kept
                self._deserted.clear()
                for other in deserted:
                    self._subscribed.pop(other, None)
                event = self._subscribed.get(channel)
            for other in deserted:
                backend.unsubscribe(other)
            if event is None:
                backend.start(self._receive, self._report_gap, self._answer)
                event = self._subscribed[channel] = backend.subscribe(channel)
            return event

    def register(self, channel: str, function: Callable[[bytes], bytes]) -> None:
        """Have questions about this process answered once it serves sockets; see ``answer()``."""
        self._responders[channel] = function
        self._is_serving = False

    def serve(self) -> None:
        """Answer questions about this process from now on, as it serves sockets."""
        for channel, function in self._responders.items():
            self.answer(channel, function)
        self._is_serving = self.backend() is None or self._responders.keys() <= (
            self._subscribed.keys()
        )

    def answer(self, channel: str, function: Callable[[bytes], bytes]) -> None:
        """Have other processes' questions answered, if they are not yet; called often.

        Args:
            channel: of our own: it begins with ``@``.
            function: gives the answer to a question; may take its time.
        """
        backend = self.backend()
        if channel in self._subscribed:
            return
        self._answers[channel] = function
        self._kept.add(channel)
        if backend is None or time.monotonic() < self._retry_at:
            return
        try:
            self._subscribe(backend, channel)
        except (BackendUnavailable, OSError):
            # No one who connects is to suffer from it.
            self._retry_at = time.monotonic() + _RETRY
            logger.exception(
                "this process cannot be asked about its sockets; it tries again in %g s", _RETRY
            )

    def answers(self, channel: str) -> bool:
        """Say whether this process answers questions on a channel."""
        return channel in self._answers

    def ask_all(self, channel: str, question: bytes) -> Replies:
        """Return the answers of the other processes.

        Raises:
            BackendUnavailable: they cannot be asked.
        """
        backend = self.backend()
        return (
            Replies([], missing=0) if backend is None else backend.ask(channel, question, _PATIENCE)
        )

    def ask(self, key: Key) -> tuple[list[dict[str, Any]], int | None]:
        """Return what the members in other processes show of themselves.

        Returns:
            The members, and how many processes did not answer: ``None`` where that is unknown.

        Raises:
            BackendUnavailable: they cannot be asked.
        """
        question = json.dumps({"group": name_of(key), "prefix": prefix_of(key)}).encode()
        replies = self.ask_all(_channel(key), question)
        found: list[dict[str, Any]] = []
        missing = replies.missing
        for reply in replies:
            try:
                found += [dict(each) for each in json.loads(reply)]
            except (TypeError, ValueError) as error:
                missing = None if missing is None else missing + 1
                self._report_unreadable(f"the answer to a question: {error}")
        return found, missing

    def _report_unreadable(self, problem: object) -> None:
        suffix = self._unreadable.suffix()
        if suffix is not None:
            logger.warning("ignoring what another process has sent: %s%s", problem, suffix)

    # Called by the backend's owner

    def _receive(self, channel: str, payload: bytes) -> None:
        try:
            found = envelope.unpack(payload)
            prefix = found.prefix if found.fields else ""
        except envelope.UnreadableEnvelope as error:
            assert self._backend is not None
            self._backend.counts.unreadable += 1
            self._report_unreadable(error)
            return
        self.sequencer.accept((prefix, found.name) if prefix else found.name, found)

    def deliver(self, key: Key, envelope: Envelope) -> None:
        """Hand a publication to the members of this process; does not wait.

        Args:
            key: of the group.
            envelope: the publication.
        """
        opcode, name, data, _ = envelope
        if opcode in (TEXT, BINARY):
            members.deliver(key, PreparedMessage(opcode, data, name))
        elif opcode == CLOSE:
            members.close(key, int.from_bytes(data[:2], "big"), data[2:].decode())
        else:
            self._report_unreadable(f"opcode {opcode} for {name!r}, of a newer version perhaps")

    def _answer(self, channel: str, question: bytes) -> bytes | Callable[[], bytes]:
        if channel in self._answers:
            return partial(self._answers[channel], question)
        asked = json.loads(question)
        name, prefix = asked["group"], asked.get("prefix", "")
        return json.dumps(describe((prefix, name) if prefix else name)).encode()

    def _report_gap(self, gap: Gap) -> None:
        # A handshake under way has read its session, which may have ended unheard.
        members.closings.lose()
        self.sequencer.lose(gap)
        notify(
            backend_gap,
            type(self._backend),
            reason=gap.reason,
            seconds=gap.seconds,
            missed=gap.missed,
        )


#: The one of this process.
pubsub: Final = PubSub()


def cut() -> dict[str, int]:
    """Return how far this process has got, for sockets that go on in another process.

    Returns:
        The number of the last publication that its members have, for each process that numbers
        them; nothing as long as none does.
    """
    return pubsub.sequencer.cut()


def replay(cut: Mapping[str, int], members: Collection[Connection]) -> None:
    """Hand to sockets that come from another process what they have missed, in one go.

    Args:
        cut: what ``cut()`` returned there when they left their groups.
        members: the sockets, which are in their groups here.
    """
    pubsub.sequencer.replay(cut, members)


if hasattr(os, "register_at_fork"):
    # Windows has no fork.
    os.register_at_fork(after_in_child=pubsub.disown)

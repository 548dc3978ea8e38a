"""Groups across processes: publishes messages to other processes and delivers theirs.

The backend of ``WEBSOCKET_BACKEND`` is created when it is first needed. The groups of users and
sessions share one channel, since there may be as many groups as sockets.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time

# Not gevent's, which is made of Python code: its holder never waits.
from _thread import RLock
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from functools import lru_cache, partial
from hmac import HMAC
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, Final, Protocol

from django.conf import settings
from django.utils.crypto import salted_hmac

from .. import conf
from ..backends import Backend, Gap, Replies, from_url
from ..connection import client_ids, fanout, hub_thread
from ..connection.guard import notify
from ..exceptions import BackendUnavailable
from ..logs import LogLimit, get_logger
from ..protocol.frames import CLOSE
from ..protocol.prepared import KINDS, PreparedMessage, prepare
from ..protocol.v1 import CONNECTION
from ..signals import backend_gap
from . import clients, envelope, presence_hooks
from .envelope import ERRORS, PRESENCE, REMOVE, Envelope
from .members import PEOPLE, Key, Members, channel_of, full_name, name_of, prefix_of
from .namespace import namespace

if TYPE_CHECKING:
    from ..connection.connection import Connection

__all__ = [
    "Observer",
    "PubSub",
    "Sequencer",
    "code_and_reason",
    "connection_group",
    "describe",
    "is_alone",
    "key_of",
    "members",
    "membership",
    "pubsub",
    "report_unreachable",
    "session_group",
    "user_group",
]

logger = get_logger("django_wsmux.groups")

#: The value of the setting for groups within one process, for tests.
ALONE: Final = "memory://"

#: Seconds to wait for the broker when a socket joins, and for the answers to a question.
_PATIENCE: Final = 1.0

# For publications that were not sent because the backend is unavailable.
_unreported: Final = LogLimit()

#: The members of this process.
members: Final = Members()

#: Seconds until a process that failed to subscribe for questions tries again.
_RETRY: Final = 5.0


#: Prefix of the names of sessions' groups.
_SESSION: Final = "@session:"

#: Prefixes of the names of groups that are unique without the prefix of a tenant.
_UNIQUE: Final = (_SESSION, CONNECTION)


def user_group(user_id: object) -> str:
    """Return the name of a user's group.

    Args:
        user_id: the primary key.
    """
    return f"@user:{user_id}"


def session_group(session_key: str) -> str:
    """Return the name of a session's group."""
    # The key is as good as a password, so it must not reach a log or a broker.
    digest = _session_digest(settings.SECRET_KEY).copy()
    digest.update(session_key.encode())
    return f"{_SESSION}{digest.hexdigest()[:20]}"


def connection_group(client_id: str) -> str:
    """Return the name of the group of one connection.

    Args:
        client_id: the id of a client; a page's name after it is left out.
    """
    return CONNECTION + client_id.partition(".")[0]


@lru_cache(maxsize=1)
def _session_digest(secret: str) -> HMAC:
    """Return the digest to which a session's key is added: making it costs more than the rest."""
    return salted_hmac("django_wsmux.session", "", secret, algorithm="sha256")


def key_of(name: str, prefix: str) -> Key:
    """Return the key of a group.

    Args:
        name: the group's name.
        prefix: the current prefix, ``""`` for none. Groups of sessions and connections have none:
            a session's key is unique, and known before its tenant is, and so is a client's id.
    """
    if not prefix:
        return name
    return name if name.startswith(_UNIQUE) else (prefix, name)


def _url() -> str:
    url: str = conf.get("WEBSOCKET_BACKEND")
    return url


def report_unreachable(sender: object, error: BackendUnavailable) -> None:
    """Log, within the limit, that a publication did not reach other processes."""
    suffix = _unreported.suffix()
    if suffix is not None:
        logger.error("%r: other processes cannot be reached: %s%s", sender, error, suffix)


def is_alone() -> bool:
    """Return whether groups stay within this process."""
    url = _url()
    # Windows has no unix sockets.
    return url == ALONE or (url.startswith("local:") and not hasattr(socket, "AF_UNIX"))


def describe(key: Key) -> list[dict[str, Any]]:
    """Return the fields of ``groups.Member`` for a group's members in this process."""
    return [
        {"user_id": each.hooks.user_id, "info": members.info(key, each)} for each in members.of(key)
    ]


#: Serves the members of this process, except for some sockets.
Act = Callable[[Collection[Any]], None]


class Observer(Protocol):
    """Follows who is in the groups of this process; see ``membership``."""

    def joined(self, key: Key, member: Connection, *, is_first: bool) -> None:
        """Note that a socket has joined a group; ``is_first`` if it is the only member here.

        Publications of other processes for the group may arrive from now on.
        """

    def left(self, key: Key, member: Connection, *, is_last: bool) -> None:
        """Note that a socket has left a group; ``is_last`` if no member is left here."""


#: Observers of each join and leave, called in this order while they are in this list. They are
#: called with a lock held, and on the hub, so they must neither wait nor raise. They are not told
#: that the groups of a forked child are empty.
membership: Final[list[Observer]] = []


class Sequencer:
    """Passes publications of other processes to the members; this one passes each at once.

    To number publications, assign another sequencer to ``pubsub.sequencer``. It can reorder
    publications, drop duplicates, and wait for missing ones.

    Args:
        deliver: passes a publication to the members of this process.
    """

    __slots__ = ("_deliver",)

    def __init__(self, deliver: Callable[[Key, Envelope], None]) -> None:
        self._deliver = deliver

    def accept(self, key: Key, envelope: Envelope) -> None:
        """Accept a publication of another process. Must not wait: others follow it.

        Args:
            key: the group's key.
            envelope: the publication.
        """
        self._deliver(key, envelope)

    def lose(self, gap: Gap) -> None:
        """Note that the backend may have missed publications of any group until now."""


class PubSub:
    """The subscriptions of this process, and its messages to the others.

    Attributes:
        sequencer: passes publications of other processes to the members.
        starters: functions that a process calls when it begins to serve sockets. It may call them
            again.
        excluded: sockets that do not get the publication that is being delivered, since they got it
            in the process that they come from.
    """

    def __init__(self) -> None:
        self.sequencer = Sequencer(self.deliver)
        self.starters: list[Callable[[], None]] = []
        self.excluded: Collection[Connection] = ()
        self._backend: Backend | None = None
        self._made_for: str | None = None
        # Number of groups with members here, by channel; and channels without such groups.
        self._watched: dict[str, int] = {}
        self._deserted: set[str] = set()
        # Subscribed channels; each event is set once the subscription is effective.
        self._subscribed: dict[str, Event] = {}
        # Functions that answer questions about the process itself, by channel, and the time of the
        # next attempt after subscribing for them has failed.
        self._answers: dict[str, Callable[[bytes], bytes]] = {}
        self._retry_at = 0.0
        # Functions that answer once this process serves sockets, and whether all of them do.
        self._responders: dict[str, Callable[[bytes], bytes]] = {}
        self._is_serving = False
        # Channels that stay subscribed even without members here.
        self._kept: set[str] = set()
        # The same, while sockets that move may come or come back.
        self._awaited: set[str] = set()
        # Held while these change: under runserver, sockets come and go in threads. Its holder never
        # waits, since it is also acquired on the hub.
        self._lock = RLock()
        # Held while subscriptions change, so that they change in order; never acquired on the hub.
        # Belongs to one process: a lock from before a fork, or before gevent's patching, would
        # block the whole process.
        self._subscribing: tuple[int, threading.Lock] | None = None
        self._making = Lock()
        self._unreadable = LogLimit()

    def backend(self) -> Backend | None:
        """Return the backend of the settings; ``None`` if groups stay within this process."""
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
            self._backend = None if is_alone() else from_url(url, namespace=namespace())
            self._made_for = url

    def disown(self) -> None:
        """Start over in a forked child, which sends to its parent as to any other process."""
        members.disown()
        client_ids.disown()
        self._watched.clear()
        self._deserted.clear()
        self._answers.clear()
        self._is_serving = False
        self._subscribed.clear()
        self._kept.clear()
        self._awaited.clear()
        self.excluded = ()
        # Another thread may have held the locks during the fork.
        self._lock = RLock()
        self._making = Lock()

    def counts(self) -> dict[str, int]:
        """Return the counts of the backend in this process, by the names of ``COUNTERS``."""
        backend = self._backend
        if backend is None:
            return {}
        return {f"backend_{name}": number for name, number in asdict(backend.counts).items()}

    def publish(
        self,
        key: Key,
        kind: int,
        data: bytes,
        fields: Mapping[int, bytes] = envelope.NO_FIELDS,
        act: Act | None = None,
    ) -> None:
        """Send a message for a group to the other processes.

        Args:
            key: the group's key.
            kind: the kind of a message, CLOSE to close the members, REMOVE to remove some, or
                PRESENCE.
            data: the message, the body of a close frame, the primary key of a user, or a version.
            fields: further fields of the envelope.
            act: does the same for the members of this process, first, except for the sockets that
                it is called with. It must not wait: a socket that moves has been served here if the
                number of the publication is drawn here.

        Raises:
            BackendUnavailable: the broker cannot be reached.
        """
        backend = self.backend()
        if backend is None:
            if act is not None:
                act(())
            return
        # Not name_of() and its like: this runs for each message.
        prefix, name = ("", key) if isinstance(key, str) else key
        channel = PEOPLE if name[0] == "@" else full_name(key) if prefix else name
        payload = envelope.pack(kind, name, data, prefix, fields)
        number = None
        if act is not None:
            if hub_thread.is_foreign():
                backend.process()  # makes the numbers, too
                number = backend.numbers.draw_early()
                arrived = partial(backend.numbers.arrived, number, channel, payload)
                hub_thread.hand_over(self._act_late, act, arrived)
            else:
                act(())
        backend.publish(channel, payload, number)

    def _act_late(self, act: Act, arrived: Callable[[], None]) -> None:
        """Serve the members of this process for a native thread, in the thread of the hub.

        Sockets that have come meanwhile may have got the publication in another process.
        """
        arrived()  # finds them
        act(self.excluded)

    def transmit(self, channel: str, payload: bytes) -> None:
        """Send an envelope to the other processes.

        Raises:
            BackendUnavailable: the broker cannot be reached.
        """
        backend = self.backend()
        if backend is not None:
            backend.publish(channel, payload)

    def add(self, key: Key, member: Connection, info: Any = None) -> None:
        """Add a socket to a group, and subscribe to the messages of other processes.

        Args:
            key: the group's key.
            member: the socket.
            info: the member's ``info``.

        Raises:
            BackendUnavailable: subscribing failed; the socket is not in the group.
        """
        self.add_all((key,), member, info)

    def discard(self, key: Key, member: Connection) -> None:
        """Remove a socket from a group; never waits.

        Sockets close on the hub, where nothing may wait, so the next ``add()`` unsubscribes.
        Messages that arrive until then have no member to reach.
        """
        # Before the lock is acquired, since this may close the socket.
        fanout.settle(member)
        with self._lock:
            was_member = bool(membership) and members.has(key, member)
            is_last = members.discard(key, member)
            if is_last:
                channel = channel_of(key)
                groups = self._watched[channel] = self._watched[channel] - 1
                if not groups:
                    del self._watched[channel]
                    self._deserted.add(channel)
            if was_member:
                for observer in membership:
                    observer.left(key, member, is_last=is_last)

    def leave(self, key: Key, member: Connection) -> None:
        """Remove a socket from a group that it has joined; never waits."""
        was_member = members.has(key, member)
        member.cancel_on_close(key)
        self.discard(key, member)
        if was_member and conf.has_history():
            from .numbered import is_of, stream_of

            if stream_of(key) is not None:
                member.discard_held(partial(is_of, key))
                member.hooks.group_left(member, name_of(key))

    def remove(self, key: Key, user_id: str, excluded: Collection[Connection] = ()) -> None:
        """Remove the sockets of a user in this process from a group; never waits.

        Args:
            key: the group's key.
            user_id: the user's primary key.
            excluded: sockets that stay.
        """
        if hub_thread.is_foreign():
            hub_thread.hand_over(self.remove, key, user_id, excluded)
            return
        for member in members.of(key):
            if member.hooks.user_id == user_id and member not in excluded:
                self.leave(key, member)

    def add_all(self, keys: Collection[Key], member: Connection, info: Any = None) -> None:
        """Add a socket to several groups; see ``add()``.

        Raises:
            BackendUnavailable: subscribing failed; the socket is in none of them.
        """
        channels = [channel_of(key) for key in keys]
        with self._lock:
            for key, channel in zip(keys, channels, strict=True):
                is_new = bool(membership) and not members.has(key, member)
                is_first = members.add(key, member, info)
                if is_first:
                    self._watched[channel] = self._watched.get(channel, 0) + 1
                if is_new:
                    for observer in membership:
                        observer.joined(key, member, is_first=is_first)
        try:
            for channel in dict.fromkeys(channels):
                self._hear(channel)
        except BaseException:
            for key in keys:
                self.discard(key, member)
            raise

    def watch(self, handshake: object) -> None:
        """Start recording closes for a handshake, before session and user are read.

        The channel is subscribed to although the groups have no member here yet. If the broker is
        down, this returns at once: joining the groups of a signed-in user raises the error.

        Args:
            handshake: any object, for ``members.closings``.
        """
        if not self._is_serving:
            self.serve()
        self._kept.add(PEOPLE)
        with contextlib.suppress(BackendUnavailable, OSError):
            self._hear(PEOPLE)
        members.closings.begin(handshake)

    def _hear(self, channel: str) -> None:
        """Wait for a bounded time until a channel is subscribed to.

        Every joining socket waits, not only the first: the broker may not have confirmed the
        subscription of the first one yet, and it may fail. The first socket of a process waits
        until the backend is connected.
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
        """Subscribe to a channel, and unsubscribe from channels without members."""
        with self._lock:
            if self._subscribing is None or self._subscribing[0] != os.getpid():
                self._subscribing = os.getpid(), threading.Lock()
            turn = self._subscribing[1]
        with turn:
            with self._lock:
                deserted = self._deserted - self._watched.keys() - self._kept - self._awaited
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

    # Sockets that move

    def note_awaited(self, channels: Collection[str]) -> None:
        """Stay subscribed to channels without members, until ``forget_awaited()``."""
        self._awaited.update(channels)

    def await_members(self, channels: Collection[str]) -> bool:
        """Subscribe to channels whose members are to come; wait until that is effective.

        Returns:
            False if it was not effective soon.

        Raises:
            BackendUnavailable: subscribing failed.
        """
        self.note_awaited(channels)
        backend = self.backend()
        if backend is None:
            return True
        events = [
            self._subscribed.get(channel) or self._subscribe(backend, channel)
            for channel in channels
        ]
        deadline = time.monotonic() + _PATIENCE
        return all(
            backend.wait_for(event, max(0.0, deadline - time.monotonic())) for event in events
        )

    def forget_awaited(self) -> None:
        """Unsubscribe soon from the channels that still have no members."""
        with self._lock:
            self._deserted |= self._awaited - self._watched.keys()
            self._awaited.clear()

    # Questions

    def register(self, channel: str, function: Callable[[bytes], bytes]) -> None:
        """Register a function that answers once this process serves sockets; see ``answer()``."""
        self._responders[channel] = function
        self._is_serving = False

    def serve(self) -> None:
        """Start answering questions about this process, since it serves sockets."""
        for start in self.starters:
            start()
        for channel, function in self._responders.items():
            self.answer(channel, function)
        self._is_serving = self.backend() is None or self._responders.keys() <= (
            self._subscribed.keys()
        )

    def answer(self, channel: str, function: Callable[[bytes], bytes]) -> None:
        """Start answering questions of other processes on a channel; called often.

        Args:
            channel: one of our own channels, which begin with ``@``.
            function: returns the answer to a question; may wait.
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
            # A handshake must not fail because of this.
            self._retry_at = time.monotonic() + _RETRY
            logger.exception(
                "monitoring is unavailable in this process: subscribing failed, next try in %g s",
                _RETRY,
            )

    def answers(self, channel: str) -> bool:
        """Return whether this process answers questions on a channel."""
        return channel in self._answers

    def ask_all(self, channel: str, question: bytes) -> Replies:
        """Return the answers of the other processes.

        Raises:
            BackendUnavailable: the other processes cannot be reached.
        """
        backend = self.backend()
        return (
            Replies([], missing=0) if backend is None else backend.ask(channel, question, _PATIENCE)
        )

    def ask(self, key: Key) -> tuple[list[dict[str, Any]], int | None]:
        """Return the group's members in other processes, as ``describe()`` does.

        Returns:
            The members, and how many processes did not answer; ``None`` if that is unknown.

        Raises:
            BackendUnavailable: the other processes cannot be reached.
        """
        question = json.dumps({"group": name_of(key), "prefix": prefix_of(key)}).encode()
        replies = self.ask_all(channel_of(key), question)
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
            logger.warning("ignoring a message of another process: %s%s", problem, suffix)

    # Called by the backend

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
        """Pass a publication to the members of this process; does not wait.

        Args:
            key: the group's key.
            envelope: the publication.
        """
        kind, name, data, fields, _ = envelope
        if kind in KINDS:
            if fields:
                message = prepare(kind, data, name, envelope.traceparent)
                members.deliver(key, message, self.excluded, envelope.excluded)
            else:
                members.deliver(key, PreparedMessage(kind, data, name), self.excluded)
        elif kind == CLOSE and envelope.moment is not None:
            clients.close_older(name, envelope.moment)
        elif kind == CLOSE:
            members.close(key, *code_and_reason(data), self.excluded)
        elif kind == REMOVE:
            self.remove(key, data.decode(errors=ERRORS), self.excluded)
        elif kind == PRESENCE:
            if presence_hooks.installed is not None:
                presence_hooks.installed.hinted(key, data.decode())
        else:
            self._report_unreadable(f"unknown kind {kind} for {name!r} (a newer version?)")

    def _answer(self, channel: str, question: bytes) -> bytes | Callable[[], bytes]:
        if channel in self._answers:
            return partial(self._answers[channel], question)
        asked = json.loads(question)
        name, prefix = asked["group"], asked.get("prefix", "")
        return json.dumps(describe((prefix, name) if prefix else name)).encode()

    def _report_gap(self, gap: Gap) -> None:
        # A handshake in progress may have read a session whose end was missed.
        members.closings.lose()
        self.sequencer.lose(gap)
        notify(
            backend_gap,
            type(self._backend),
            reason=gap.reason,
            seconds=gap.seconds,
            missed=gap.missed,
        )


def code_and_reason(data: bytes) -> tuple[int, str]:
    """Return code and reason from the body of a close frame."""
    return int.from_bytes(data[:2], "big"), data[2:].decode()


#: The instance of this process.
pubsub: Final = PubSub()


if hasattr(os, "register_at_fork"):
    # Windows has no fork.
    os.register_at_fork(after_in_child=pubsub.disown)
